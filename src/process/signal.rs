//! leader-run's own signals, read from a descriptor instead of handled.

use crate::sys::{self, Watched};
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use tokio::io::unix::AsyncFd;

/// What is handed on to the child. Not among them: what cannot be caught, what reports a fault of our own
/// (SIGPIPE too: our own connections cause it), SIGCHLD, and the terminal's stop signals.
const FORWARDED: [Signal; 14] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGURG,
    Signal::SIGPWR,
];

/// Whether a signal of this number is handed on.
pub fn is_forwarded(signal: i32) -> bool {
    Signal::try_from(signal).map_or(true, |signal| FORWARDED.contains(&signal))
}

/// The signals that are handed on, blocked so that none is lost.
#[derive(Clone, Copy, Debug)]
pub struct Blocked {
    /// The signal mask as it was before, for the child.
    pub before: SigSet,
    forwarded: SigSet,
}

/// Blocks the signals that are handed on, from now on. Those that are ignored stay ignored, as `nohup` and
/// a shell's background jobs ask for: a blocked signal would be delivered all the same. Not so the one that
/// the user has given a meaning.
///
/// # Errors
/// When /proc cannot be read.
pub fn block(meant: Option<i32>) -> io::Result<Blocked> {
    // The real-time signals have no names in nix: take them from the full set.
    let mut forwarded = SigSet::all();
    for signal in Signal::iterator() {
        forwarded.remove(signal);
    }
    let status = std::fs::read_to_string("/proc/self/status");
    let missing = |e| io::Error::other(format!("cannot read /proc/self/status ({e}); /proc has to be mounted"));
    let ignored = ignored(&status.map_err(missing)?);
    for signal in FORWARDED {
        if ignored & (1 << (signal as i32 - 1)) == 0 || meant == Some(signal as i32) {
            forwarded.add(signal);
        }
    }
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&forwarded), Some(&mut before))?;
    Ok(Blocked { before, forwarded })
}

/// The signals that a process ignores, one bit each, from its /proc status.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The stream of blocked signals.
#[derive(Debug)]
pub struct Signals(AsyncFd<Watched<SignalFd>>);

impl Signals {
    /// Opens it in the runtime of the caller.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn open(blocked: &Blocked) -> io::Result<Signals> {
        let fd = SignalFd::with_flags(&blocked.forwarded, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Signals(sys::watch(fd)?))
    }

    /// Waits for the next signal, by its number.
    pub async fn next(&self) -> i32 {
        loop {
            let Ok(mut ready) = self.0.readable().await else {
                return std::future::pending().await;
            };
            match self.0.get_ref().read_signal() {
                Ok(Some(info)) => return info.ssi_signo as i32,
                _ => ready.clear_ready(),
            }
        }
    }
}

/// The number of a signal by its name, with or without `SIG`, or by its number.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)
}

/// The names that signals have, without `SIG`.
pub fn names() -> impl Iterator<Item = &'static str> {
    Signal::iterator().map(|signal| signal.as_str().trim_start_matches("SIG"))
}

/// The name of a signal, without `SIG`, or its number where it has none.
pub fn name(signal: i32) -> String {
    let name = Signal::try_from(signal).map(|signal| signal.as_str());
    name.map_or_else(|_| signal.to_string(), |name| name.trim_start_matches("SIG").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_proc() {
        assert_eq!(ignored("Name:\tx\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored(""), 0);
    }

    #[test]
    fn signals_are_known_by_name_and_number() {
        for text in ["TERM", "term", "SIGTERM", "sigterm", "15"] {
            assert_eq!(parse(text), Some(15), "{text}");
        }
        assert_eq!(parse("64"), Some(64));
        for text in ["", "SIG", "KABOOM", "0", "-9", "65"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!((name(15), name(40)), ("TERM".to_owned(), "40".to_owned()));
    }
}
