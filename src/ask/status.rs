//! `leader-run status`: who holds the lock.

use crate::cli::Status;
use crate::exit::Refusal;

/// Says who holds it, and returns the exit code.
pub fn answer(_status: Status) -> Result<i32, Refusal> {
    Err(Refusal::new("status cannot be asked yet"))
}
