//! The init process: what leader-run is as PID 1, of a container in most cases.
//!
//! A PID 1 has duties that would be in the way of everything else: it inherits all orphans and has to reap
//! them, and with it ends everybody. So it does nothing but these, in one small process, and leader-run
//! itself is its child.

use crate::exit;
use crate::process::signal::is_forwarded;
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc::{SIGCONT, SIGHUP};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, Pid, getpid, pipe2};
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the guard has after leader-run to end. With us the kernel ends everybody.
const LAST: Duration = Duration::from_secs(5);

/// As PID 1, forks: the original stays behind as init, and only the copy returns. Otherwise does nothing. To
/// be called before anything else.
///
/// # Errors
/// Whatever kept the system from giving us another process.
pub fn step_aside() -> io::Result<()> {
    if getpid() != Pid::from_raw(1) {
        return Ok(());
    }
    // Inherited as ignored, it would lose leader-run's exit code.
    sys::reset_sigchld();
    // Blocked before the fork, so that none is lost. Even those that would have no effect on a PID 1 wait then.
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let (watched, held) = pipe2(OFlag::O_CLOEXEC)?;
    match sys::fork()? {
        ForkResult::Child => {
            // Held by leader-run and its guard to their ends, and by nobody else.
            let _ = held.into_raw_fd();
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
            Ok(())
        }
        ForkResult::Parent { child } => {
            drop(held);
            let Err(_) = (Init { signals, watched: Some(watched), main: child, ended: None }).serve();
            // The kernel kills everybody.
            sys::exit_now(exit::OWN_FAILURE)
        }
    }
}

struct Init {
    signals: SignalFd,
    /// Closed when leader-run and its guard are both gone. `None` from then on.
    watched: Option<OwnedFd>,
    /// leader-run itself.
    main: Pid,
    /// Its exit code, and when it has ended.
    ended: Option<(i32, Instant)>,
}

impl Init {
    fn serve(mut self) -> nix::Result<Infallible> {
        loop {
            self.forward_signals()?;
            let is_alone = self.reap()?;
            let mut timeout = PollTimeout::NONE;
            if let Some((code, at)) = self.ended {
                let left = LAST.saturating_sub(at.elapsed());
                // Without its guard nobody but the kernel kills what is left of the tree.
                if is_alone || self.watched.is_none() || left.is_zero() {
                    sys::exit_now(code);
                }
                timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            }
            if self.wait(timeout)? {
                self.watched = None;
            }
        }
    }

    /// Waits for something to happen. True if leader-run and its guard are gone.
    fn wait(&self, timeout: PollTimeout) -> nix::Result<bool> {
        let fds = [Some(self.signals.as_fd()), self.watched.as_ref().map(|fd| fd.as_fd())];
        let mut fds: Vec<_> = fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, timeout) {
            Ok(_) => Ok(fds.get(1).is_some_and(|watched| watched.any() == Some(true))),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn forward_signals(&self) -> nix::Result<()> {
        while let Some(info) = self.signals.read_signal()? {
            let signal = info.ssi_signo as i32;
            // What the terminal sends goes to the whole process group, and leader-run is in it; but a hang-up
            // is for the first of the session alone.
            let everybody_has_it = info.ssi_code > 0 && ![SIGHUP, SIGCONT].contains(&signal);
            if is_forwarded(signal) && !everybody_has_it && self.ended.is_none() {
                let _ = sys::kill(self.main, signal);
            }
        }
        Ok(())
    }

    /// Reaps all that have ended. True when no other process is left.
    fn reap(&mut self) -> nix::Result<bool> {
        loop {
            match sys::reap_one() {
                Ok(Some((pid, status))) if pid == self.main && !nix::libc::WIFSTOPPED(status) => {
                    self.ended = Some((exit::of_child(status), Instant::now()));
                }
                Ok(Some(_)) | Err(Errno::EINTR) => {}
                Ok(None) => return Ok(false),
                Err(Errno::ECHILD) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
}
