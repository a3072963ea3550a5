//! Who leads, and what that means for the tree: pure state machines. No clock, no I/O, no tokio.

pub mod contender;
pub mod elector;
