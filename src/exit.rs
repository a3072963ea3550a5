//! Exit codes, in one table: the habit of timeout, env and nohup.

use nix::errno::Errno;
use std::fmt;

/// Not leading within `--wait`.
pub const NOT_LEADING: i32 = 124;
/// leader-run's own failure: usage, settings, no cluster, permission, the guard died.
pub const OWN_FAILURE: i32 = 125;
/// COMMAND can't be executed.
pub const NOT_EXECUTABLE: i32 = 126;
/// COMMAND isn't found.
pub const NOT_FOUND: i32 = 127;
/// Leadership lost, unless `--lost-exit-code` says otherwise: EX_TEMPFAIL of sysexits.h.
pub const LOST: i32 = 75;

/// The answer of `status`: somebody holds the lock.
pub const HELD: i32 = 0;
/// The same: nobody does, or there is none.
pub const FREE: i32 = 1;
/// The same: that cannot be told.
pub const UNKNOWN: i32 = 2;
/// The answer of `check`: something is missing.
pub const MISSING: i32 = 1;
/// The answer of `assert`: the lock is not held, or not for long enough.
pub const NOT_HELD: i32 = 1;

/// Ended by a signal: the child, or we before we led.
pub const fn by_signal(signal: i32) -> i32 {
    128 + signal
}

/// The exit code for a child with this wait status.
pub const fn of_child(status: i32) -> i32 {
    match signal_of(status) {
        None => (status >> 8) & 0xff,
        Some(signal) => by_signal(signal),
    }
}

/// The signal that a child with this wait status died of, if it did.
pub const fn signal_of(status: i32) -> Option<i32> {
    match status & 0x7f {
        0 => None,
        signal => Some(signal),
    }
}

/// The exit code for a child that could not be started, for this `errno`.
pub fn of_failed_start(errno: i32) -> i32 {
    match Errno::from_raw(errno) {
        errno if is_shortage(errno) => OWN_FAILURE,
        Errno::ENOENT => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }
}

/// Whether this says that the system is short of something, rather than what is wrong with the command.
pub fn is_shortage(errno: Errno) -> bool {
    // ENOSPC: as many namespaces as there may be.
    matches!(errno, Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::ENOSPC)
}

/// Why leader-run ends before it has anything to do with a lock.
#[derive(Debug)]
pub struct Refusal {
    /// The exit code.
    pub code: i32,
    /// One line: what is wrong, and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal with the code of our own failures.
    pub fn new(message: impl Into<String>) -> Refusal {
        Refusal { code: OWN_FAILURE, message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Refusal {
        Refusal::new(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Refusal {
        Refusal::new(format!("the system refused: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_died_of_a_signal_is_128_plus_its_number() {
        assert_eq!([of_child(0), of_child(7 << 8), of_child(255 << 8)], [0, 7, 255]);
        assert_eq!([of_child(9), of_child(15), of_child(11 | 0x80), of_child(64)], [137, 143, 139, 192]);
    }

    #[test]
    fn a_child_that_could_not_be_started_gives_the_exit_codes_of_env() {
        assert_eq!(of_failed_start(Errno::ENOENT as i32), NOT_FOUND);
        assert_eq!([Errno::EACCES, Errno::ENOEXEC].map(|errno| of_failed_start(errno as i32)), [NOT_EXECUTABLE; 2]);
        // What the system is short of says nothing about the command.
        let shortages = [Errno::EAGAIN, Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE, Errno::ENOSPC];
        assert_eq!(shortages.map(|errno| of_failed_start(errno as i32)), [OWN_FAILURE; 5]);
    }

    #[test]
    fn a_refusal_is_our_own_failure_and_says_its_cause() {
        let chain = anyhow::anyhow!("connection refused").context("cannot list leases");
        let refusal = Refusal::from(chain);
        assert_eq!((refusal.code, refusal.to_string().as_str()), (125, "cannot list leases: connection refused"));
        let refusal = Refusal::from(std::io::Error::from_raw_os_error(Errno::EPERM as i32));
        assert_eq!(refusal.code, 125);
        assert!(refusal.to_string().contains("Operation not permitted"), "{refusal}");
    }
}
