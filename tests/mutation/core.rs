//! The pure core alone, made of leader-run's own files, so that a build takes seconds.

#[path = "../../src"]
mod source {
    pub mod clock;
    pub mod election;
    pub mod exit;
    pub mod lock;
    pub mod mutant;
    pub mod guard {
        pub mod core;
    }
}

pub use source::*;
