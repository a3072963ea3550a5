//! Runs a command only while holding a Kubernetes lock: at most one process tree across all contenders.
//!
//! A pure core decides, a thin shell acts: [`record`] is what a lock says, [`elector`] decides who leads,
//! and neither reads a clock or does I/O.

pub mod alarm;
pub mod ask;
pub mod child;
pub mod cli;
pub mod clock;
pub mod config;
pub mod contender;
pub mod elector;
pub mod exit;
pub mod jobs;
pub mod lock;
pub mod mutant;
pub mod record;
pub mod release;
pub mod report;
pub mod run;
pub mod state;
pub mod store;
pub mod sys;
pub mod text;
