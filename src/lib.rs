//! Runs a command only while holding a Kubernetes lock: at most one process tree across all contenders.
//!
//! A pure core decides, a thin shell acts. From the top down:
//!
//! - [`run`] is the event loop; [`crash_release`] releases the lock of a leader-run that died; [`subcommand`] has
//!   `status`, `check` and `assert`.
//! - [`report`] is what the outside sees: messages, metrics, HTTP, the state file, callbacks, the pod label.
//! - [`config`] is what the options of [`cli`] mean once they are checked.
//! - [`backend`] is where a lock lives: a Lease, an annotation, both, or a file. [`guard`] is the process that kills the
//!   tree in time.
//! - [`process`] finds, starts, signals and kills the processes of a tree.
//! - [`election`] decides who leads, and [`guard::core`] when the tree is killed: without a clock, I/O or tokio.
//! - [`lock`] is what a lock says, and what can be asked of it.
//!
//! `tests/layers.rs` holds the order of these layers.

pub mod backend;
pub mod blocking;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crash_release;
pub mod election;
pub mod exit;
pub mod guard;
pub mod lock;
pub mod log;
pub mod mutant;
pub mod process;
pub mod report;
pub mod run;
pub mod state_file;
pub mod subcommand;
pub mod sys;
pub mod text;
pub mod timer;
