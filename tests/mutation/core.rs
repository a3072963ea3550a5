//! The pure core alone, made of leader-run's own files, so that a build takes seconds.

#[path = "../../src"]
mod source {
    pub mod clock;
    pub mod contender;
    pub mod elector;
    pub mod exit;
    pub mod mutant;
    pub mod record;
    pub mod store;
    pub mod child {
        pub mod guard;
    }
}

pub use source::*;
