//! The guard process: carries out what `core` decides.
//!
//! One thread, no runtime, no logging. All signals are blocked, so nothing catchable ends it; SIGCHLD is
//! read from a descriptor. While no term runs it sleeps without a timer.

use crate::clock::Instant;
use crate::guard::core::{FromGuard, Guard, Input, Output, Settings, ToGuard};
use crate::guard::wire;
use crate::process::namespace::Namespace;
use crate::process::spawn::{Plan, StartNews, StartPipe, spawn};
use crate::process::terminal::{self, Place};
use crate::process::tree::{self, Pause, Walker};
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
use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

struct Shell {
    core: Guard,
    socket: OwnedFd,
    /// leader-run, where that can be watched: the end of the socket is no proof of its death.
    leader_run: Option<OwnedFd>,
    signals: SignalFd,
    timer: TimerFd,
    plan: Plan,
    /// leader-run's process group, which gets the terminal back.
    group: Pid,
    child: Option<Pid>,
    /// Until it is known whether the child has executed COMMAND.
    start: Option<StartPipe>,
    /// Where the tree is in one.
    namespace: Option<Namespace>,
    /// The wait status of a child that has ended, until it is known whether other descendants are alive.
    ended: Option<i32>,
    /// The same, also after its end: its number is that of its group.
    last_child: Option<Pid>,
    /// What leader-run gets back when the child has borrowed the terminal.
    lent: Option<Place>,
    walker: Walker,
    pause: Pause,
}

/// Runs the guard on its end of the socket pair, until leader-run is gone and the tree with it.
pub fn run(socket: OwnedFd, plan: Plan, settings: Settings, parent: Pid) -> ! {
    // A guard that cannot go on ends: leader-run sees the end of file, and stops.
    let failed = match prepare().and_then(|()| Shell::new(socket, plan, settings, parent)) {
        Ok(mut shell) => {
            sys::Scheduling::raise();
            sys::lock_memory();
            let Err(error) = shell.serve();
            shell.walker.kill_until_alone();
            error
        }
        Err(error) => error,
    };
    sys::exit_now(failed as i32)
}

fn prepare() -> nix::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    // A group of its own, so that the terminal's signals and those to leader-run's group miss it.
    let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    prctl::set_child_subreaper(true)
}

impl Shell {
    fn new(socket: OwnedFd, plan: Plan, settings: Settings, parent: Pid) -> nix::Result<Shell> {
        let mut chld = SigSet::empty();
        chld.add(Signal::SIGCHLD);
        let leader_run = settings.crash_release.then(|| sys::open_process(parent).ok()).flatten();
        Ok(Shell {
            core: Guard::new(Settings { crash_release: leader_run.is_some(), ..settings }),
            socket,
            leader_run,
            signals: SignalFd::with_flags(&chld, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            timer: TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?,
            plan,
            group: getpgid(Some(parent)).unwrap_or(parent),
            child: None,
            start: None,
            namespace: None,
            ended: None,
            last_child: None,
            lent: None,
            walker: Walker::new(),
            pause: Pause::default(),
        })
    }

    /// From here on nothing is allocated, except to start a child.
    fn serve(&mut self) -> nix::Result<Infallible> {
        loop {
            let (open, timeout) = self.turn()?;
            self.wait(open, timeout)?;
        }
    }

    /// Does all that is to be done now. Says whether leader-run is still there, and when to look again if
    /// nothing happens.
    fn turn(&mut self) -> nix::Result<(bool, PollTimeout)> {
        let open = self.read_messages();
        while let Ok(Some(_)) = self.signals.read_signal() {}
        let some_ended = self.reap();
        if !open && self.leader_run.as_ref().is_some_and(has_ended) {
            self.step(Input::Dead);
        }
        self.step(if open { Input::Tick } else { Input::Closed });
        if self.core.is_killing() {
            self.kill_round();
            // A deadline that has passed would wake us for ever, and nobody else would get the processor.
            self.timer.unset()?;
            let pause = self.pause.after(some_ended);
            return Ok((open, PollTimeout::try_from(pause).unwrap_or(PollTimeout::ZERO)));
        }
        arm(&self.timer, self.core.wake(Instant::now()))?;
        Ok((open, PollTimeout::NONE))
    }

    fn wait(&self, open: bool, timeout: PollTimeout) -> nix::Result<()> {
        let signals = self.signals.as_fd();
        // The closed end of a socket pair would wake us for ever.
        let messages = if open { self.socket.as_fd() } else { signals };
        let answer = self.namespace.as_ref().and_then(Namespace::answer).unwrap_or(signals);
        // Of interest only then, and of none any more once it has ended.
        let leader_run = self.leader_run.as_ref().filter(|leader_run| !open && !has_ended(leader_run));
        let leader_run = leader_run.map_or(signals, |leader_run| leader_run.as_fd());
        let start = self.start.as_ref().map_or(signals, AsFd::as_fd);
        let mut fds = [signals, self.timer.as_fd(), messages, answer, leader_run, start]
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error),
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

    /// Says whether any process has ended.
    fn reap(&mut self) -> bool {
        let reaped = tree::reap(self.child);
        // The child reports on its start before it ends, so its end must not be taken in first.
        self.hear_of_start();
        if let Some(signal) = reaped.stopped {
            self.step(Input::Stopped(signal));
        }
        if let Some(status) = reaped.status {
            (self.child, self.start, self.ended) = (None, None, Some(status));
            self.namespace.iter().for_each(Namespace::child_ended);
        }
        // A namespace's init is no member of the tree: it says whether there are others, or ends.
        let has_others = self.namespace.as_mut().map_or(!reaped.alone, Namespace::has_others);
        if let Some(status) = self.ended.take_if(|_| reaped.alone || has_others) {
            self.step(Input::Ended { status, others: !reaped.alone });
        } else if reaped.alone && self.child.is_none() {
            self.step(Input::Alone);
        }
        if reaped.alone {
            self.namespace = None;
        }
        reaped.any
    }

    /// Learns how the start of the child has ended, if it has.
    fn hear_of_start(&mut self) {
        let Some(start) = &mut self.start else {
            return;
        };
        let news = start.read();
        if news != StartNews::Pending {
            // Readable for ever, from now on.
            self.start = None;
        }
        match news {
            StartNews::Executed => self.step(Input::Executed),
            StartNews::NotExecuted(why) => self.step(Input::NotExecuted(why)),
            StartNews::Pending | StartNews::Dead => {}
        }
    }

    /// One round of killing everything. The child's own group first, in one blow, while the child is not
    /// reaped yet and so the group's number cannot be another's.
    fn kill_round(&mut self) {
        if let Some(child) = self.child {
            let _ = killpg(child, Signal::SIGKILL);
        }
        self.walker.signal_all(&[SIGKILL]);
    }

    fn step(&mut self, input: Input) {
        self.core.step(Instant::now(), input);
        while let Some(output) = self.core.next_output() {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Spawn { env, until } => {
                self.lent = Place::of(self.group).filter(|_| self.plan.terminal);
                let forked = spawn(&self.plan, self.lent.is_some(), &env, until).map(|starting| {
                    (self.child, self.last_child) = (Some(starting.pid), Some(starting.pid));
                    (self.namespace, self.start) = (starting.namespace, Some(starting.start));
                    starting.pid.as_raw()
                });
                self.step(Input::Forked(forked));
            }
            Output::Signal(signal) => self.signal(signal),
            Output::Stop(signal) => {
                self.signal(signal);
                self.signal(SIGCONT);
            }
            Output::Continue => self.go_on(),
            Output::StopAll(signal) => self.walker.signal_all(&[signal, SIGCONT]),
            Output::Send(message) => self.send(message),
            Output::Release(record, within) => {
                self.remove_state_file();
                // No deadline is left, and what goes before all others must not wait for them: the kernel may let it
                // spin until whoever looks at the ended process in /proc gets a turn.
                self.plan.scheduling.apply();
                let _ = self.plan.again.release(&self.plan, &record, within);
                sys::exit_now(0)
            }
            Output::Exit => {
                self.remove_state_file();
                sys::exit_now(0)
            }
        }
    }

    /// leader-run is gone, and what it has said last may still promise something.
    fn remove_state_file(&self) {
        if let Some(file) = &self.plan.state_file {
            let _ = file.remove();
        }
    }

    /// The whole group: Ctrl-Z has stopped more than the child.
    fn go_on(&mut self) {
        if let Some(child) = self.child {
            // Now it wants the terminal, also in a pipeline.
            if let Some(place) = Place::of(self.group) {
                let _ = self.lent.get_or_insert(place);
                terminal::give_to(child);
            }
            let _ = killpg(child, Signal::SIGCONT);
        }
    }

    fn signal(&self, signal: i32) {
        if let Some(child) = self.child {
            let _ = sys::kill(child, signal);
        }
    }

    fn send(&mut self, message: FromGuard) {
        if matches!(message, FromGuard::Gone(_) | FromGuard::Late(_) | FromGuard::Failed(..) | FromGuard::Died(..))
            && let Some(place) = self.lent.take()
            // Not if a shell has taken it meanwhile.
            && terminal::foreground_group() == self.last_child
        {
            place.take_back();
        }
        // Never waits: a leader-run that does not read must not keep the guard from killing.
        let _ = send(self.socket.as_raw_fd(), &message.encode(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    }
}

/// Whether this process has ended.
fn has_ended(process: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1)
}

/// Sets the timer. The other clock may run faster than the one that timers know, but not by much in the time until
/// the guard looks at its clocks again.
fn arm(timer: &TimerFd, wake: Option<Duration>) -> nix::Result<()> {
    let Some(left) = wake else {
        return timer.unset();
    };
    let at = Instant::now().boot + left.max(Duration::from_nanos(1));
    timer.set(Expiration::OneShot(TimeSpec::from_duration(at)), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::core::Deadlines;
    use crate::process::command::look_up;
    use crate::process::spawn::Again;
    use crate::process::tree::in_own_process;
    use crate::sys::allocations;
    use nix::libc::SIGTERM;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::ffi::OsStr;
    use std::fs;
    use std::thread::sleep;

    fn has_gone_off(timer: &OwnedFd) -> bool {
        poll(&mut [PollFd::new(timer.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1)
    }

    #[test]
    fn a_guard_that_serves_allocates_only_to_start_the_child() {
        if !in_own_process("guard::main::tests::a_guard_that_serves_allocates_only_to_start_the_child") {
            return;
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let plan = Plan {
            program: look_up(OsStr::new("bash")).unwrap(),
            name: "bash".into(),
            // SIGTERM does not end it, and one of its descendants has left its session.
            args: ["-c", "trap '' TERM; setsid sleep 300 & exec sleep 300"].map(Into::into).to_vec(),
            mask: SigSet::empty(),
            scheduling: sys::Scheduling::current(),
            terminal: false,
            pid_namespace: false,
            state_file: None,
            again: Again { args: Vec::new() },
        };
        prctl::set_child_subreaper(true).unwrap();
        let settings = Settings { stop_signal: SIGTERM, wait_all: false, crash_release: false };
        let mut shell = Shell::new(theirs, plan, settings, Pid::this()).unwrap();
        let tell = |message: &ToGuard| send(ours.as_raw_fd(), &message.encode(), MsgFlags::empty()).unwrap();
        let hear = || {
            let mut packet = [0; 64];
            let length = recv(ours.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT).ok()?;
            FromGuard::decode(&packet[..length])
        };
        let deadlines = |millis| {
            let stop = Instant::now().plus(Duration::from_millis(millis));
            Deadlines { stop, kill: stop }
        };
        let (env, record) = (vec!["A=b".into()], "{}".into());
        tell(&ToGuard::Start { term: 1, deadlines: deadlines(60_000), env, record });
        shell.turn().unwrap();
        assert!(
            matches!([hear(), hear()], [Some(FromGuard::Acknowledged(..)), None]),
            "the guard does not wait for exec"
        );
        let pid = loop {
            let turn = || {
                shell.turn().unwrap();
            };
            assert_eq!(allocations::during(turn), 0);
            match hear() {
                Some(FromGuard::Started(_, pid)) => break pid,
                None => sleep(Duration::from_millis(1)),
                Some(message) => panic!("{message:?}"),
            }
        };
        // Then the trap is set.
        while !fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"sleep") {
            sleep(Duration::from_millis(1));
        }
        let timer = shell.timer.as_fd().try_clone_to_owned().unwrap();
        let mut turn = || {
            shell.turn().unwrap();
        };

        tell(&ToGuard::Extend { term: 1, deadlines: deadlines(61_000) });
        tell(&ToGuard::Signal { term: 1, signal: SIGCONT });
        let kill = Instant::now().plus(Duration::from_millis(100));
        tell(&ToGuard::Stop { term: 1, signal: SIGTERM, kill, lost: false });
        assert_eq!(allocations::during(&mut turn), 0);
        assert!(matches!([hear(), hear()], [Some(FromGuard::Acknowledged(..)), None]));

        sleep(Duration::from_millis(100));
        assert!(has_gone_off(&timer));
        let (mut gone, mut killing) = (false, false);
        while !gone {
            assert_eq!(allocations::during(&mut turn), 0);
            assert!(!has_gone_off(&timer), "it would not wait between two rounds");
            while let Some(message) = hear() {
                killing |= message == FromGuard::Killing(1);
                gone |= message == FromGuard::Gone(1);
            }
        }
        assert!(killing);
    }
}
