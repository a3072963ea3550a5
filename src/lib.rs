//! Runs a command only while holding a Kubernetes lock: at most one process tree across all contenders.
//!
//! A pure core decides, a thin shell acts: [`record`] is what a lock says, [`elector`] decides who leads,
//! and neither reads a clock or does I/O.

pub mod child;
pub mod clock;
pub mod elector;
pub mod lock;
pub mod record;
pub mod store;
pub mod sys;
