//! What a lock says, and what can be asked of it: plain data without I/O.

pub mod record;
pub mod request;
