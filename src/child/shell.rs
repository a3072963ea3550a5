//! The guard process: carries out what `guard.rs` decides.
//!
//! One thread, no runtime, no logging. All signals are blocked, so nothing catchable ends it; SIGCHLD is
//! read from a descriptor. While no term runs it sleeps without a timer.

use super::guard::{FromGuard, Guard, Input, Output, Settings, ToGuard};
use super::spawn::{Plan, foreground_group, give_terminal_to, spawn};
use super::{tree, wire};
use crate::clock::Instant;
use crate::sys;
use nix::errno::Errno;
use nix::libc::{SIGCONT, SIGKILL};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::{Pid, getpgid, setpgid};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

struct Shell {
    core: Guard,
    socket: OwnedFd,
    plan: Plan,
    /// leader-run's process group, which gets the terminal back.
    group: Pid,
    child: Option<Pid>,
    /// The same, also after its end: its number is that of its group.
    last_child: Option<Pid>,
    /// The child was given the terminal.
    has_terminal: bool,
}

/// Runs the guard on its end of the socket pair, until leader-run is gone and the tree with it.
pub fn run(socket: OwnedFd, plan: Plan, settings: Settings, parent: Pid) -> ! {
    let group = getpgid(Some(parent)).unwrap_or(parent);
    let core = Guard::new(settings);
    let code = match (Shell { core, socket, plan, group, child: None, last_child: None, has_terminal: false }).serve() {
        Ok(()) => 0,
        Err(_) => {
            // Without its descriptors it cannot guard: leader-run sees the end of file and stops.
            tree::kill_until_alone();
            1
        }
    };
    sys::exit_now(code)
}

impl Shell {
    fn serve(&mut self) -> nix::Result<()> {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
        // A group of its own, so that the terminal's signals and those to leader-run's group miss it.
        let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
        prctl::set_child_subreaper(true)?;
        let mut chld = SigSet::empty();
        chld.add(Signal::SIGCHLD);
        let signals = SignalFd::with_flags(&chld, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        loop {
            let open = self.read_messages();
            while let Ok(Some(_)) = signals.read_signal() {}
            self.reap();
            self.step(if open { Input::Tick } else { Input::Closed });
            let timeout = if self.core.is_killing() {
                self.kill_round();
                PollTimeout::from(1u8)
            } else {
                arm(&timer, self.core.wake(Instant::now()))?;
                PollTimeout::NONE
            };
            let mut fds =
                vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(timer.as_fd(), PollFlags::POLLIN)];
            if open {
                fds.push(PollFd::new(self.socket.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads all messages that wait. False once leader-run is gone, or sent what is no message.
    fn read_messages(&mut self) -> bool {
        let mut packet = [0; wire::MAX_PACKET];
        loop {
            match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return false,
                Ok(length) => match ToGuard::decode(&packet[..length]) {
                    Some(message) => self.step(Input::Message(message)),
                    None => return false,
                },
                Err(Errno::EAGAIN) => return true,
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn reap(&mut self) {
        let reaped = tree::reap(self.child);
        if let Some(signal) = reaped.stopped {
            self.step(Input::Stopped(signal));
        }
        if let Some(status) = reaped.status {
            self.child = None;
            self.step(Input::Ended { status, others: !reaped.alone });
        } else if reaped.alone && self.child.is_none() {
            self.step(Input::Alone);
        }
    }

    /// One round of killing everything. The child's own group first, in one blow, while the child is not
    /// reaped yet and so the group's number cannot be another's.
    fn kill_round(&mut self) {
        if let Some(child) = self.child {
            let _ = killpg(child, Signal::SIGKILL);
            let _ = sys::kill(child, SIGKILL);
        }
        tree::kill_all();
    }

    fn step(&mut self, input: Input) {
        self.core.step(Instant::now(), input);
        while let Some(output) = self.core.next_output() {
            match output {
                Output::Spawn(env) => {
                    self.has_terminal = self.may_give_terminal();
                    let spawned = spawn(&self.plan, self.has_terminal, &env);
                    self.child = spawned.ok();
                    self.last_child = self.child.or(self.last_child);
                    self.step(Input::Spawned(spawned.map(Pid::as_raw)));
                }
                Output::Signal(signal) => self.signal(signal),
                Output::Stop(signal) => {
                    self.signal(signal);
                    self.signal(SIGCONT);
                }
                Output::Continue => self.go_on(),
                Output::StopAll(signal) => tree::signal_all(signal),
                Output::Send(message) => self.send(message),
                Output::Exit => sys::exit_now(0),
            }
        }
    }

    /// Whether leader-run has the terminal at this moment: a shell may have moved it between the foreground
    /// and the background since it was started.
    fn may_give_terminal(&self) -> bool {
        self.plan.terminal && foreground_group() == Some(self.group)
    }

    /// The whole group: Ctrl-Z has stopped more than the child.
    fn go_on(&mut self) {
        if let Some(child) = self.child {
            if self.may_give_terminal() {
                self.has_terminal = true;
                give_terminal_to(child);
            }
            let _ = killpg(child, Signal::SIGCONT);
        }
    }

    fn signal(&self, signal: i32) {
        if let Some(child) = self.child {
            let _ = sys::kill(child, signal);
        }
    }

    fn send(&self, message: FromGuard) {
        // Not if a shell has taken it meanwhile.
        let gone = matches!(message, FromGuard::Gone(_));
        if gone && self.has_terminal && foreground_group() == self.last_child {
            give_terminal_to(self.group);
        }
        // Never waits: a leader-run that does not read must not keep the guard from killing.
        let _ = send(self.socket.as_raw_fd(), &message.encode(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    }
}

/// Sets the timer a little before the deadline, then again, ever closer: the other clock may run faster
/// than the one that timers know.
fn arm(timer: &TimerFd, wake: Option<Duration>) -> nix::Result<()> {
    let Some(left) = wake else {
        return timer.unset();
    };
    let near = Duration::from_millis(10);
    let nap = if left > near { left * 7 / 8 } else { left };
    let at = Instant::now().boot + nap.max(Duration::from_nanos(1));
    timer.set(Expiration::OneShot(TimeSpec::from_duration(at)), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
}
