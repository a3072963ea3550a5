//! What the guard does and when: a pure state machine, like the elector. `main.rs` carries it out.
//!
//! The guard is the child's parent. It is given absolute deadlines, and kills the whole tree when one
//! passes or when leader-run is gone, whatever leader-run itself is doing meanwhile.

use crate::clock::Instant;
use crate::mutant::Mutant;
use nix::libc::{self, SIGTERM};
use std::collections::VecDeque;
use std::time::Duration;

/// How long descendants that outlive the child may take to end after SIGTERM.
const LINGER: Duration = Duration::from_secs(5);

/// How long until a child is continued that the terminal has stopped again.
const AGAIN: Duration = Duration::from_secs(1);

/// How often the guard looks at the clock while a term runs, to learn how late it gets the CPU.
const TICK: Duration = Duration::from_secs(1);

/// Lateness is forgotten after between one and two of these.
const MEMORY: Duration = Duration::from_secs(30);

/// Lateness that people are told of; then again each time it has doubled.
const NOTABLE: Duration = Duration::from_millis(100);

/// The two moments of a term, counted from S.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// S+R: the child is asked to stop.
    pub stop: Instant,
    /// S+K, or earlier with a shorter loss grace: the tree is killed.
    pub kill: Instant,
}

/// What leader-run tells the guard. Every message is about a term; those of other terms are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToGuard {
    /// Start the child, with these variables added to its environment (`KEY=VALUE`).
    Start {
        /// The number of the term.
        term: u64,
        /// Its first deadlines.
        deadlines: Deadlines,
        /// Added to the child's environment.
        env: Vec<String>,
        /// What the lock says of this term. Without a line break or a NUL.
        record: String,
    },
    /// The lock was renewed: later deadlines.
    Extend {
        /// The number of the term.
        term: u64,
        /// Its new deadlines.
        deadlines: Deadlines,
    },
    /// Ask the child to stop with this signal, and kill the tree at this moment.
    Stop {
        /// The number of the term.
        term: u64,
        /// Sent to the child, followed by SIGCONT.
        signal: i32,
        /// Kill then, if no deadline comes first.
        kill: Instant,
        /// The lock is lost: no later deadline is accepted.
        lost: bool,
    },
    /// Hand this signal to the child.
    Signal {
        /// The number of the term.
        term: u64,
        /// The signal.
        signal: i32,
    },
}

/// What the guard tells leader-run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromGuard {
    /// The term's deadlines are known; it will be killed at this moment.
    Acknowledged(u64, Instant),
    /// The child executes COMMAND, under this process id.
    Started(u64, i32),
    /// The child could not be started, with this `errno`.
    Failed(u64, i32),
    /// The child has not executed COMMAND and is gone: the first deadline passed before, or a stop was asked for.
    Late(u64),
    /// The child died before it could execute COMMAND, with this wait status.
    Died(u64, i32),
    /// The child has ended, with this wait status.
    Exited(u64, i32),
    /// A deadline passed: the child was asked to stop without leader-run.
    Expired(u64),
    /// No process of the tree is alive any more.
    Gone(u64),
    /// The terminal stopped the child with this signal, and it is continued.
    Continued(u64, i32),
    /// The child has ended, but not all that it started: that is asked to end too.
    Leftover(u64),
    /// A deadline or a grace is over: the tree is killed.
    Killing(u64),
    /// The guard got the CPU this late, and counts on it: the tree is killed twice as much before K.
    Slow(u64, Duration),
}

impl FromGuard {
    /// The number of the term that it is about.
    pub fn term(&self) -> u64 {
        match *self {
            FromGuard::Acknowledged(term, _)
            | FromGuard::Started(term, _)
            | FromGuard::Failed(term, _)
            | FromGuard::Late(term)
            | FromGuard::Died(term, _)
            | FromGuard::Exited(term, _)
            | FromGuard::Expired(term)
            | FromGuard::Gone(term)
            | FromGuard::Continued(term, _)
            | FromGuard::Leftover(term)
            | FromGuard::Killing(term)
            | FromGuard::Slow(term, _) => term,
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message came. Deadlines are not looked at before all messages that wait have been read.
    Message(ToGuard),
    /// leader-run is gone, or talks nonsense.
    Closed,
    /// leader-run is dead: it writes nothing any more.
    Dead,
    /// All messages have been read: look at the deadlines.
    Tick,
    /// What became of an [`Output::Spawn`]: the process id of the child, or an `errno`.
    Forked(Result<i32, i32>),
    /// The child executes COMMAND from now on.
    Executed,
    /// The child ends without having executed COMMAND.
    NotExecuted(NotExecuted),
    /// The child has ended with this wait status; whether other descendants are alive.
    Ended {
        /// The wait status.
        status: i32,
        /// There are other descendants.
        others: bool,
    },
    /// There is no descendant any more (ECHILD).
    Alone,
    /// The terminal stopped the child with this signal.
    Stopped(i32),
}

/// Why a child that was forked has not executed COMMAND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotExecuted {
    /// It was too late, by its own last look at the clock, or by the guard's.
    Late,
    /// The system refused something, with this `errno`.
    Failed(i32),
    /// It died, with this wait status.
    Died(i32),
}

/// What to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Fork the child, which executes COMMAND unless [`is_too_late`] says otherwise right before that.
    Spawn {
        /// Added to its environment.
        env: Vec<String>,
        /// S+R.
        until: Instant,
    },
    /// Send the child this signal.
    Signal(i32),
    /// Send the child this signal, and SIGCONT so that a stopped child gets it.
    Stop(i32),
    /// Let the child and its group go on, in the foreground of the terminal where that is ours.
    Continue,
    /// Send every descendant this signal, and SIGCONT.
    StopAll(i32),
    /// Tell leader-run.
    Send(FromGuard),
    /// Give the lock back for a leader-run that has died, where it still is of the term with this record; in this
    /// time. Nothing is left to guard then.
    Release(String, Duration),
    /// There is nothing left to guard.
    Exit,
}

#[derive(Debug)]
struct Term {
    number: u64,
    deadlines: Deadlines,
    /// Kill at this moment even though the lock is held.
    kill_at: Option<Instant>,
    start: Start,
    /// What the lock says of it.
    record: String,
    /// When a child that the terminal stopped is continued; the second time later, lest the two of us and
    /// the terminal run in circles.
    continue_at: Option<Instant>,
    continued: bool,
    /// The child was asked to stop.
    asked: bool,
    /// With this signal, before COMMAND was executed: a child that ignored it has executed COMMAND all the same.
    asked_early: Option<i32>,
    /// A deadline passed or the lock is lost. Latched: no later deadline is accepted in this term.
    expired: bool,
    killing: bool,
    child_ended: bool,
    /// When the clock is looked at again.
    tick: Instant,
}

/// How far the start of the child has come.
#[derive(Debug)]
enum Start {
    /// To be forked, with these additions to its environment.
    Due(Vec<String>),
    /// Forked under this process id. Signals for COMMAND (bit n-1 for signal n) wait until it is executed.
    Forked(i32, u64),
    /// It executes COMMAND.
    Executed,
    /// It ends without having executed COMMAND.
    Not(NotExecuted),
}

impl Term {
    /// Whether there is a child that executes COMMAND, or is about to.
    fn has_child(&self) -> bool {
        matches!(self.start, Start::Forked(..) | Start::Executed)
    }

    /// When the tree is killed: before the deadline by twice the lateness to be feared, but not before S+R.
    fn kill(&self, lateness: Duration) -> Instant {
        let deadline = self.deadlines.kill.minus(lateness * 2).later(self.deadlines.stop);
        self.kill_at.map_or(deadline, |at| at.earlier(deadline))
    }
}

/// How late the guard got the CPU, at worst, of late.
#[derive(Debug, Default)]
struct Lateness {
    worst: Duration,
    /// In the time before this one.
    before: Duration,
    /// When this time began.
    since: Option<Instant>,
    said: Duration,
}

impl Lateness {
    fn note(&mut self, now: Instant, late: Duration) {
        let since = *self.since.get_or_insert(now);
        if now.leader_since(since) >= MEMORY {
            (self.before, self.worst, self.since) = (self.worst, Duration::ZERO, Some(now));
            self.said = self.said.min(self.before);
        }
        self.worst = self.worst.max(late);
    }

    fn get(&self) -> Duration {
        self.worst.max(self.before)
    }

    /// The lateness, where people do not know it yet.
    fn news(&mut self) -> Option<Duration> {
        let late = self.get();
        (late >= NOTABLE.max(self.said * 2)).then(|| {
            self.said = late;
            late
        })
    }
}

/// What does not change from term to term.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Asks the child to stop when the first deadline passes.
    pub stop_signal: i32,
    /// Descendants that outlive the child are waited for, rather than asked to end.
    pub wait_all: bool,
    /// The lock of a leader-run that has died is given back.
    pub crash_release: bool,
}

/// The state machine. Its state is per term: a latched expiry ends with the term.
#[derive(Debug)]
pub struct Guard {
    settings: Settings,
    term: Option<Term>,
    lateness: Lateness,
    closed: bool,
    dead: bool,
    /// The lock may still be held for a term that is over, whose tree is gone: its record, and S+R.
    held: Option<(String, Instant)>,
    out: VecDeque<Output>,
}

impl Guard {
    /// A guard that stands by.
    pub fn new(settings: Settings) -> Guard {
        Guard {
            settings,
            term: None,
            lateness: Lateness::default(),
            closed: false,
            dead: false,
            held: None,
            out: VecDeque::with_capacity(16),
        }
    }

    /// Takes what happened. What to do about it is then asked for with [`Guard::next_output`].
    pub fn step(&mut self, now: Instant, input: Input) {
        // Only then have all messages been read, and a later deadline may be among them.
        let drained = matches!(input, Input::Tick | Input::Closed);
        match input {
            Input::Message(message) => self.told(now, message),
            Input::Closed => self.closed = !Mutant::IgnoresEndOfFile.is_on(),
            Input::Dead => self.dead = true,
            Input::Tick => {}
            Input::Forked(forked) => self.forked(forked),
            Input::Executed => self.executed(),
            Input::NotExecuted(why) => {
                if let Some(term) = &mut self.term {
                    term.start = Start::Not(why);
                }
            }
            Input::Ended { status, others } => self.ended(now, status, others),
            Input::Alone => self.alone(),
            Input::Stopped(signal) => self.stopped(now, signal),
        }
        if drained {
            self.look_at_deadlines(now);
            self.start(now);
            if self.closed {
                self.leave(now);
            }
        }
    }

    /// The next thing to do. One by one, out of a queue that is never made anew: the guard must be able to
    /// kill when there is no memory left.
    pub fn next_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Whether every descendant is to be killed, again and again, until there is none.
    pub fn is_killing(&self) -> bool {
        self.term.as_ref().is_some_and(|term| term.killing)
    }

    /// How long until a deadline, if there is one. None is near while standing by.
    pub fn wake(&self, now: Instant) -> Option<Duration> {
        if self.closed && self.term.is_none() {
            return self.held.as_ref().map(|(_, until)| until.leader_left(now));
        }
        let term = self.term.as_ref().filter(|term| !term.killing)?;
        let stop = (!term.expired && term.has_child()).then_some(term.deadlines.stop);
        let moments = [stop, term.continue_at, Some(term.tick), Some(term.kill(self.lateness.get()))];
        moments.into_iter().flatten().map(|at| at.leader_left(now)).min()
    }

    fn told(&mut self, now: Instant, message: ToGuard) {
        let known = |deadlines: Deadlines| match Mutant::RelativeDeadlines.is_on() {
            true => Deadlines { stop: now.plus(deadlines.stop.boot), kill: now.plus(deadlines.kill.boot) },
            false => deadlines,
        };
        if let ToGuard::Start { term, deadlines, env, record } = message {
            let deadlines = known(deadlines);
            if self.term.is_some() {
                return;
            }
            self.held = None;
            self.out.push_back(Output::Send(FromGuard::Acknowledged(term, deadlines.kill)));
            self.term = Some(Term {
                tick: now.plus(TICK),
                number: term,
                deadlines,
                start: Start::Due(env),
                record,
                continue_at: None,
                continued: false,
                kill_at: None,
                asked: false,
                asked_early: None,
                expired: false,
                killing: false,
                child_ended: false,
            });
            return;
        }
        let Some(term) = &mut self.term else {
            return;
        };
        match message {
            ToGuard::Start { .. } => {}
            ToGuard::Extend { term: number, deadlines } => {
                let deadlines = known(deadlines);
                // Deadlines only ever move to later moments.
                if number == term.number && !term.expired && !deadlines.kill.leader_left(term.deadlines.kill).is_zero()
                {
                    term.deadlines = deadlines;
                    self.out.push_back(Output::Send(FromGuard::Acknowledged(number, deadlines.kill)));
                }
            }
            ToGuard::Stop { term: number, signal, kill, lost } if number == term.number => {
                // ... and the moment of a requested kill only to earlier ones.
                term.kill_at = Some(term.kill_at.map_or(kill, |at| at.earlier(kill)));
                term.expired |= lost;
                term.asked = true;
                if let Start::Forked(..) = term.start {
                    term.asked_early = Some(signal);
                }
                if term.has_child() {
                    self.out.extend(stop(term, self.settings, signal));
                }
            }
            ToGuard::Signal { term: number, signal } if number == term.number => match &mut term.start {
                Start::Forked(_, held) => *held |= signal_bit(signal),
                Start::Executed if !term.child_ended => self.out.push_back(Output::Signal(signal)),
                _ => {}
            },
            ToGuard::Stop { .. } | ToGuard::Signal { .. } => {}
        }
    }

    /// Starts the child, right before which the deadline is looked at once more.
    fn start(&mut self, now: Instant) {
        let Some(term) = &mut self.term else {
            return;
        };
        let Start::Due(env) = &mut term.start else {
            return;
        };
        let (env, until) = (std::mem::take(env), term.deadlines.stop);
        if term.asked || term.expired || term.killing || is_too_late(now, until) {
            return self.not_executed(NotExecuted::Late);
        }
        term.start = Start::Forked(0, 0);
        self.out.push_back(Output::Spawn { env, until });
    }

    fn stopped(&mut self, now: Instant, signal: i32) {
        if let Some(term) = &mut self.term {
            if std::mem::replace(&mut term.continued, true) {
                term.continue_at = Some(now.plus(AGAIN));
            } else {
                term.continue_at = Some(now);
                self.out.push_back(Output::Send(FromGuard::Continued(term.number, signal)));
            }
        }
    }

    fn forked(&mut self, forked: Result<i32, i32>) {
        match (&mut self.term, forked) {
            (Some(term), Ok(pid)) => term.start = Start::Forked(pid, 0),
            (_, Err(errno)) => self.not_executed(NotExecuted::Failed(errno)),
            (None, Ok(_)) => {}
        }
    }

    fn executed(&mut self) {
        let Some(term) = &mut self.term else {
            return;
        };
        if let Start::Forked(pid, held) = std::mem::replace(&mut term.start, Start::Executed) {
            self.out.push_back(Output::Send(FromGuard::Started(term.number, pid)));
            let signals = (1..=64).filter(|signal| held & signal_bit(*signal) != 0);
            self.out.extend(signals.map(Output::Signal));
            self.out.extend(term.asked_early.map(Output::Stop));
        }
    }

    /// The term is over before COMMAND was executed, and no process of it is left.
    fn not_executed(&mut self, why: NotExecuted) {
        let Some(term) = &self.term else {
            return;
        };
        let number = term.number;
        self.out.push_back(Output::Send(match why {
            NotExecuted::Late if Mutant::LateIsFailed.is_on() => FromGuard::Failed(number, libc::EIO),
            NotExecuted::Late => FromGuard::Late(number),
            NotExecuted::Failed(errno) => FromGuard::Failed(number, errno),
            NotExecuted::Died(status) => FromGuard::Died(number, status),
        }));
        self.end();
    }

    fn ended(&mut self, now: Instant, status: i32, others: bool) {
        let Some(term) = &mut self.term else {
            return;
        };
        term.child_ended = true;
        if let Start::Forked(..) = term.start {
            let stopped = term.asked || term.expired || term.killing;
            term.start = Start::Not(if stopped { NotExecuted::Late } else { NotExecuted::Died(status) });
        }
        if let Start::Not(_) = term.start {
            if !others {
                self.alone();
            }
            return;
        }
        self.out.push_back(Output::Send(FromGuard::Exited(term.number, status)));
        if !others {
            return self.alone();
        }
        self.out.push_back(Output::Send(FromGuard::Leftover(term.number)));
        if !self.settings.wait_all {
            let linger = now.plus(LINGER);
            term.kill_at = Some(term.kill_at.map_or(linger, |at| at.earlier(linger)));
        }
        if term.asked || !self.settings.wait_all {
            self.out.push_back(Output::StopAll(SIGTERM));
        }
    }

    fn alone(&mut self) {
        if let Some(term) = self.term.as_ref().filter(|term| term.child_ended) {
            if let Start::Not(why) = term.start {
                return self.not_executed(why);
            }
            self.out.push_back(Output::Send(FromGuard::Gone(term.number)));
            if !(Mutant::LatchKept.is_on() && term.expired) {
                self.end();
            }
        }
    }

    /// The term is over, and no process of it is left.
    fn end(&mut self) {
        let term = self.term.take().filter(|term| self.settings.crash_release && !term.expired);
        self.held = term.map(|term| (term.record, term.deadlines.stop));
    }

    /// leader-run is gone: so are we when the tree is, and the lock is given back while it surely is ours.
    fn leave(&mut self, now: Instant) {
        let early = Mutant::CrashReleaseBeforeGone.is_on() && self.dead && self.settings.crash_release;
        let unfinished = self.term.as_ref().filter(|_| early).map(|term| (term.record.clone(), term.deadlines.stop));
        if self.term.is_some() && unfinished.is_none() {
            return;
        }
        if let Some((record, until)) = unfinished.or(self.held.take()) {
            let left = until.leader_left(now);
            if !left.is_zero() && !self.dead {
                // It may be yet to write, or to die.
                self.held = Some((record, until));
                return;
            }
            if !left.is_zero() {
                return self.out.push_back(Output::Release(record, left));
            }
        }
        self.out.push_back(Output::Exit);
    }

    fn look_at_deadlines(&mut self, now: Instant) {
        let Some(term) = &mut self.term else {
            return;
        };
        let passed = |deadline: Instant| deadline.leader_left(now).is_zero();
        if passed(term.tick) {
            // On the clock that stands still in a suspend, which is no lateness.
            self.lateness.note(now, now.standby_since(term.tick));
            term.tick = now.plus(TICK);
            if let Some(late) = self.lateness.news() {
                self.out.push_back(Output::Send(FromGuard::Slow(term.number, late)));
            }
        }
        let kill = self.closed || passed(term.kill(self.lateness.get()));
        if kill && !std::mem::replace(&mut term.killing, true) {
            self.out.push_back(Output::Send(FromGuard::Killing(term.number)));
        }
        if term.continue_at.take_if(|at| passed(*at)).is_some() {
            self.out.push_back(Output::Continue);
        }
        if !term.expired && term.has_child() && passed(term.deadlines.stop) {
            term.expired = true;
            self.out.push_back(Output::Send(FromGuard::Expired(term.number)));
            if !std::mem::replace(&mut term.asked, true) {
                self.out.extend(stop(term, self.settings, self.settings.stop_signal));
            }
        }
    }
}

/// Whether it is too late to execute COMMAND. `until`: S+R. Asked by the guard before it forks the child, and by the
/// child as its very last act before execve: the machine may have stood still in between.
pub fn is_too_late(now: Instant, until: Instant) -> bool {
    until.leader_left(now).is_zero()
}

/// Bit n-1 for signal n, of which there are 64.
fn signal_bit(signal: i32) -> u64 {
    1u64.checked_shl(signal as u32 - 1).unwrap_or(0)
}

/// Asks the child to end, or whatever it has left behind where that is waited for.
fn stop(term: &Term, settings: Settings, signal: i32) -> Option<Output> {
    match (term.child_ended, settings.wait_all) {
        (false, _) => Some(Output::Stop(signal)),
        (true, true) => Some(Output::StopAll(signal)),
        // Asked already, when the child ended.
        (true, false) => None,
    }
}

#[cfg(test)]
mod tests;
