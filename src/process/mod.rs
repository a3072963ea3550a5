//! The processes of a tree: started, found, signalled, killed, reaped; and what surrounds them.

pub mod command;
pub mod namespace;
pub mod pid1;
pub mod procfs;
pub mod signal;
pub mod spawn;
pub mod terminal;
pub mod tree;
