//! The terminal of leader-run's session, which the child borrows.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg, sigprocmask};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{Pid, tcgetpgrp, tcsetpgrp};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};

/// Whether standard input, output and error are all a terminal. Then the child takes leader-run's place on it
/// from the start; else others of a pipeline may need it.
pub fn is_all_ours() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal()
}

/// The process group in the foreground, if there is a terminal.
pub fn foreground_group() -> Option<Pid> {
    with_terminal(|terminal| tcgetpgrp(terminal))
}

/// Puts this process group into the foreground, from the background too. Makes system calls only.
pub fn give_to(group: Pid) {
    from_the_background(|| with_terminal(|terminal| tcsetpgrp(terminal, group)));
}

/// leader-run's place in the foreground: its group, and the modes the terminal is in.
#[derive(Clone, Debug)]
pub struct Place {
    group: Pid,
    modes: Termios,
}

impl Place {
    /// The place of this group, if that has the terminal at this moment: a shell moves groups between the
    /// foreground and the background.
    pub fn of(group: Pid) -> Option<Place> {
        let modes = with_terminal(|terminal| tcgetattr(terminal))?;
        (foreground_group() == Some(group)).then_some(Place { group, modes })
    }

    /// Takes the terminal back, in the modes it had: an editor that was killed has left it in its own. Never
    /// waits, not even for output that nobody reads.
    pub fn take_back(&self) {
        from_the_background(|| with_terminal(|terminal| tcsetattr(terminal, SetArg::TCSANOW, &self.modes)));
        give_to(self.group);
    }

    /// Takes it back from a group of which nobody is alive.
    pub fn take_back_from_the_dead(&self) {
        if foreground_group().is_some_and(|group| killpg(group, None) == Err(Errno::ESRCH)) {
            self.take_back();
        }
    }
}

/// The terminal by the name that it has for its session, or by standard input where there is no such device.
fn with_terminal<T>(act: impl FnOnce(BorrowedFd) -> nix::Result<T>) -> Option<T> {
    match File::open("/dev/tty") {
        Ok(terminal) => act(terminal.as_fd()),
        Err(_) => act(io::stdin().as_fd()),
    }
    .ok()
}

/// Unless SIGTTOU is blocked, it stops who changes the terminal from the background.
fn from_the_background(change: impl FnOnce() -> Option<()>) {
    let (mut ttou, mut before) = (SigSet::empty(), SigSet::empty());
    ttou.add(Signal::SIGTTOU);
    if sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ttou), Some(&mut before)).is_ok() {
        let _ = change();
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
}
