//! What the guard does and when: a pure state machine, like the elector. `shell.rs` carries it out.
//!
//! The guard is the child's parent. It is given absolute deadlines, and kills the whole tree when one
//! passes or when leader-run is gone, whatever leader-run itself is doing meanwhile.

use crate::clock::Instant;
use std::time::Duration;

/// How long descendants that outlive the child may take to end after SIGTERM.
const LINGER: Duration = Duration::from_secs(5);

/// How long until a child is continued that the terminal has stopped again.
const AGAIN: Duration = Duration::from_secs(1);

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
    /// The child runs, under this process id.
    Started(u64, i32),
    /// The child could not be started, with this `errno`.
    Failed(u64, i32),
    /// The child was not started: the first deadline had passed, or a stop was asked for, meanwhile.
    Late(u64),
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
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message came. Deadlines are not looked at before all messages that wait have been read.
    Message(ToGuard),
    /// leader-run is gone, or talks nonsense.
    Closed,
    /// All messages have been read: look at the deadlines.
    Tick,
    /// What became of an [`Output::Spawn`]: the process id, or an `errno`.
    Spawned(Result<i32, i32>),
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

/// What to do about it, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Start the child with these additions to its environment.
    Spawn(Vec<String>),
    /// Send the child this signal.
    Signal(i32),
    /// Send the child this signal, and SIGCONT so that a stopped child gets it.
    Stop(i32),
    /// Let the child and its group go on, in the foreground of the terminal where that is ours.
    Continue,
    /// Ask every descendant to end (SIGTERM, SIGCONT).
    StopAll,
    /// Tell leader-run.
    Send(FromGuard),
    /// There is nothing left to guard.
    Exit,
}

#[derive(Debug)]
struct Term {
    number: u64,
    deadlines: Deadlines,
    /// Kill at this moment even though the lock is held.
    kill_at: Option<Instant>,
    /// The additions to the child's environment, until it is started.
    to_start: Option<Vec<String>>,
    /// When a child that the terminal stopped is continued; the second time later, lest the two of us and
    /// the terminal run in circles.
    continue_at: Option<Instant>,
    continued: bool,
    /// The child was asked to stop.
    asked: bool,
    /// A deadline passed or the lock is lost. Latched: no later deadline is accepted in this term.
    expired: bool,
    killing: bool,
    child_ended: bool,
}

/// The state machine. Its state is per term: a latched expiry ends with the term.
#[derive(Debug)]
pub struct Guard {
    stop_signal: i32,
    term: Option<Term>,
    closed: bool,
}

impl Guard {
    /// A guard whose child is asked to stop with this signal when the first deadline passes.
    pub fn new(stop_signal: i32) -> Guard {
        Guard { stop_signal, term: None, closed: false }
    }

    /// Takes what happened, and says what to do.
    pub fn step(&mut self, now: Instant, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        // Only then have all messages been read, and a later deadline may be among them.
        let drained = matches!(input, Input::Tick | Input::Closed);
        match input {
            Input::Message(message) => self.told(message, &mut out),
            Input::Closed => self.closed = true,
            Input::Tick => {}
            Input::Spawned(spawned) => self.spawned(spawned, &mut out),
            Input::Ended { status, others } => self.ended(now, status, others, &mut out),
            Input::Alone => self.alone(&mut out),
            Input::Stopped(signal) => self.stopped(now, signal, &mut out),
        }
        if drained {
            self.look_at_deadlines(now, &mut out);
            self.start(now, &mut out);
        }
        out
    }

    /// Whether every descendant is to be killed, again and again, until there is none.
    pub fn is_killing(&self) -> bool {
        self.term.as_ref().is_some_and(|term| term.killing)
    }

    /// How long until a deadline, if there is one. None is near while standing by.
    pub fn wake(&self, now: Instant) -> Option<Duration> {
        let term = self.term.as_ref().filter(|term| !term.killing)?;
        let stop = (!term.expired).then(|| term.deadlines.stop.leader_left(now));
        let stop = stop.into_iter().chain(term.continue_at.map(|at| at.leader_left(now)));
        let kill = term.kill_at.unwrap_or(term.deadlines.kill).earlier(term.deadlines.kill);
        stop.chain([kill.leader_left(now)]).min()
    }

    fn told(&mut self, message: ToGuard, out: &mut Vec<Output>) {
        if let ToGuard::Start { term, deadlines, env } = message {
            if self.term.is_some() {
                return;
            }
            out.push(Output::Send(FromGuard::Acknowledged(term, deadlines.kill)));
            self.term = Some(Term {
                number: term,
                deadlines,
                to_start: Some(env),
                continue_at: None,
                continued: false,
                kill_at: None,
                asked: false,
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
                // Deadlines only ever move to later moments.
                if number == term.number && !term.expired && !deadlines.kill.leader_left(term.deadlines.kill).is_zero()
                {
                    term.deadlines = deadlines;
                    out.push(Output::Send(FromGuard::Acknowledged(number, deadlines.kill)));
                }
            }
            ToGuard::Stop { term: number, signal, kill, lost } if number == term.number => {
                // ... and the moment of a requested kill only to earlier ones.
                term.kill_at = Some(term.kill_at.map_or(kill, |at| at.earlier(kill)));
                term.expired |= lost;
                term.asked = true;
                if !term.child_ended && term.to_start.is_none() {
                    out.push(Output::Stop(signal));
                }
            }
            ToGuard::Signal { term: number, signal } if number == term.number && !term.child_ended => {
                out.push(Output::Signal(signal));
            }
            ToGuard::Stop { .. } | ToGuard::Signal { .. } => {}
        }
    }

    /// Starts the child, right before which the deadline is looked at once more.
    fn start(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(term) = &mut self.term else {
            return;
        };
        let Some(env) = term.to_start.take() else {
            return;
        };
        if term.asked || term.expired || term.killing || term.deadlines.stop.leader_left(now).is_zero() {
            out.push(Output::Send(FromGuard::Late(term.number)));
            self.term = None;
            return;
        }
        out.push(Output::Spawn(env));
    }

    fn stopped(&mut self, now: Instant, signal: i32, out: &mut Vec<Output>) {
        if let Some(term) = &mut self.term {
            if std::mem::replace(&mut term.continued, true) {
                term.continue_at = Some(now.plus(AGAIN));
            } else {
                term.continue_at = Some(now);
                out.push(Output::Send(FromGuard::Continued(term.number, signal)));
            }
        }
    }

    fn spawned(&mut self, spawned: Result<i32, i32>, out: &mut Vec<Output>) {
        let Some(term) = &mut self.term else {
            return;
        };
        match spawned {
            Ok(pid) => out.push(Output::Send(FromGuard::Started(term.number, pid))),
            Err(errno) => {
                out.push(Output::Send(FromGuard::Failed(term.number, errno)));
                self.term = None;
            }
        }
    }

    fn ended(&mut self, now: Instant, status: i32, others: bool, out: &mut Vec<Output>) {
        let Some(term) = &mut self.term else {
            return;
        };
        term.child_ended = true;
        out.push(Output::Send(FromGuard::Exited(term.number, status)));
        if others {
            let linger = now.plus(LINGER);
            term.kill_at = Some(term.kill_at.map_or(linger, |at| at.earlier(linger)));
            out.push(Output::Send(FromGuard::Leftover(term.number)));
            out.push(Output::StopAll);
        } else {
            self.alone(out);
        }
    }

    fn alone(&mut self, out: &mut Vec<Output>) {
        if let Some(term) = self.term.take_if(|term| term.child_ended) {
            out.push(Output::Send(FromGuard::Gone(term.number)));
        }
    }

    fn look_at_deadlines(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(term) = &mut self.term else {
            if self.closed {
                out.push(Output::Exit);
            }
            return;
        };
        let passed = |deadline: Instant| deadline.leader_left(now).is_zero();
        let kill = self.closed || passed(term.deadlines.kill) || term.kill_at.is_some_and(passed);
        if kill && !std::mem::replace(&mut term.killing, true) {
            out.push(Output::Send(FromGuard::Killing(term.number)));
        }
        if term.continue_at.take_if(|at| passed(*at)).is_some() {
            out.push(Output::Continue);
        }
        if !term.expired && term.to_start.is_none() && passed(term.deadlines.stop) {
            term.expired = true;
            out.push(Output::Send(FromGuard::Expired(term.number)));
            if !term.asked && !term.child_ended {
                term.asked = true;
                out.push(Output::Stop(self.stop_signal));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: i32 = 15;

    fn at(millis: u64) -> Instant {
        let span = Duration::from_millis(1_000_000 + millis);
        Instant { boot: span, raw: span }
    }

    /// R 10 s and K 13.5 s after `since` (milliseconds).
    fn deadlines(since: u64) -> Deadlines {
        Deadlines { stop: at(since + 10_000), kill: at(since + 13_500) }
    }

    fn started() -> Guard {
        let mut guard = Guard::new(TERM);
        let start = ToGuard::Start { term: 1, deadlines: deadlines(0), env: vec![] };
        let out = guard.step(at(0), Input::Message(start));
        assert_eq!(out, [Output::Send(FromGuard::Acknowledged(1, at(13_500)))]);
        assert_eq!(guard.step(at(0), Input::Tick), [Output::Spawn(vec![])]);
        assert_eq!(guard.step(at(1), Input::Spawned(Ok(99))), [Output::Send(FromGuard::Started(1, 99))]);
        guard
    }

    fn extend(since: u64) -> Input {
        Input::Message(ToGuard::Extend { term: 1, deadlines: deadlines(since) })
    }

    #[test]
    fn at_r_the_child_is_asked_to_stop_and_at_k_the_tree_is_killed() {
        let mut guard = started();
        assert_eq!(guard.step(at(9_999), Input::Tick), []);
        assert_eq!(guard.wake(at(9_999)), Some(Duration::from_millis(1)));
        let out = guard.step(at(10_000), Input::Tick);
        assert_eq!(out, [Output::Send(FromGuard::Expired(1)), Output::Stop(TERM)]);
        assert_eq!(guard.step(at(13_499), Input::Tick), []);
        assert!(!guard.is_killing());
        guard.step(at(13_500), Input::Tick);
        assert!(guard.is_killing());
    }

    #[test]
    fn messages_that_wait_are_read_before_a_deadline_is_looked_at() {
        let mut guard = started();
        guard.step(at(10_200), extend(9_000));
        assert_eq!(guard.step(at(10_200), Input::Tick), []);
        assert_eq!(guard.wake(at(10_200)), Some(Duration::from_millis(8_800)));
    }

    #[test]
    fn an_expiry_is_latched_for_the_term_and_ends_with_it() {
        let mut guard = started();
        guard.step(at(10_000), Input::Tick);
        assert_eq!(guard.step(at(10_001), extend(9_999)), []);
        guard.step(at(13_500), Input::Tick);
        assert!(guard.is_killing());
        let out = guard.step(at(13_501), Input::Ended { status: 9, others: false });
        assert_eq!(out, [Output::Send(FromGuard::Exited(1, 9)), Output::Send(FromGuard::Gone(1))]);
        let start = ToGuard::Start { term: 2, deadlines: deadlines(20_000), env: vec![] };
        guard.step(at(20_000), Input::Message(start));
        assert_eq!(guard.step(at(20_000), Input::Tick), [Output::Spawn(vec![])]);
        assert!(!guard.is_killing());
    }

    #[test]
    fn deadlines_never_move_to_an_earlier_moment_and_those_of_other_terms_are_ignored() {
        let mut guard = started();
        assert_eq!(guard.step(at(5_000), extend(4_000)), [Output::Send(FromGuard::Acknowledged(1, at(17_500)))]);
        assert_eq!(guard.step(at(5_000), extend(3_000)), []);
        let other = ToGuard::Extend { term: 2, deadlines: deadlines(9_000) };
        assert_eq!(guard.step(at(5_000), Input::Message(other)), []);
        assert_eq!(guard.wake(at(5_000)), Some(Duration::from_millis(9_000)));
    }

    #[test]
    fn end_of_file_means_kill() {
        let mut guard = started();
        guard.step(at(500), Input::Closed);
        assert!(guard.is_killing());
        assert_eq!(guard.step(at(501), Input::Ended { status: 9, others: true }).last(), Some(&Output::StopAll));
        assert!(guard.is_killing());
        assert_eq!(guard.step(at(502), Input::Alone), [Output::Send(FromGuard::Gone(1))]);
        assert_eq!(guard.step(at(502), Input::Closed), [Output::Exit]);
        let mut idle = Guard::new(TERM);
        assert_eq!(idle.step(at(0), Input::Closed), [Output::Exit]);
    }

    #[test]
    fn a_requested_stop_is_killed_after_its_grace_while_the_lock_is_renewed() {
        let mut guard = started();
        let stop = |millis| Input::Message(ToGuard::Stop { term: 1, signal: TERM, kill: at(millis), lost: false });
        assert_eq!(guard.step(at(1_000), stop(26_000)), [Output::Stop(TERM)]);
        for since in (2_000..26_000).step_by(2_000) {
            assert_eq!(guard.step(at(since), extend(since)).len(), 1);
            assert_eq!(guard.step(at(since), Input::Tick), []);
        }
        // Asked again: the signal is passed on, and nothing is shortened.
        assert_eq!(guard.step(at(25_000), stop(50_000)), [Output::Stop(TERM)]);
        guard.step(at(26_000), Input::Tick);
        assert!(guard.is_killing());
    }

    #[test]
    fn a_loss_stops_at_once_and_takes_no_later_deadline() {
        let mut guard = started();
        let stop = ToGuard::Stop { term: 1, signal: TERM, kill: at(4_500), lost: true };
        assert_eq!(guard.step(at(1_000), Input::Message(stop)), [Output::Stop(TERM)]);
        assert_eq!(guard.step(at(1_000), extend(900)), []);
        guard.step(at(4_500), Input::Tick);
        assert!(guard.is_killing());
    }

    #[test]
    fn a_child_is_not_started_when_the_first_deadline_has_passed() {
        let mut guard = Guard::new(TERM);
        let start = ToGuard::Start { term: 1, deadlines: deadlines(0), env: vec![] };
        guard.step(at(10_000), Input::Message(start));
        assert_eq!(guard.step(at(10_000), Input::Tick), [Output::Send(FromGuard::Late(1))]);
        assert_eq!(guard.wake(at(10_000)), None);
    }

    #[test]
    fn a_child_is_not_started_when_a_stop_or_a_later_deadline_waits_behind_its_start() {
        let start = || Input::Message(ToGuard::Start { term: 1, deadlines: deadlines(0), env: vec![] });
        let stop = ToGuard::Stop { term: 1, signal: TERM, kill: at(12_000), lost: true };
        let mut guard = Guard::new(TERM);
        guard.step(at(9_000), start());
        assert_eq!(guard.step(at(9_000), Input::Message(stop)), []);
        assert_eq!(guard.step(at(9_000), Input::Tick), [Output::Send(FromGuard::Late(1))]);
        // With a renewal behind it, it is not too late.
        guard.step(at(10_500), start());
        guard.step(at(10_500), extend(8_000));
        assert_eq!(guard.step(at(10_500), Input::Tick), [Output::Spawn(vec![])]);
        assert_eq!(guard.step(at(10_500), Input::Spawned(Ok(7))).len(), 1);
    }

    #[test]
    fn a_child_that_the_terminal_stops_is_continued_and_that_is_said_once() {
        let mut guard = started();
        let said = Output::Send(FromGuard::Continued(1, 21));
        assert_eq!(guard.step(at(100), Input::Stopped(21)), [said]);
        assert_eq!(guard.step(at(100), Input::Tick), [Output::Continue]);
        // Stopped again at once: in a second, and silently.
        assert_eq!(guard.step(at(101), Input::Stopped(21)), []);
        assert_eq!(guard.wake(at(101)), Some(AGAIN));
        assert_eq!(guard.step(at(1_101), Input::Tick), [Output::Continue]);
    }

    #[test]
    fn descendants_that_outlive_the_child_are_asked_then_killed_and_only_then_it_is_gone() {
        let mut guard = started();
        let out = guard.step(at(1_000), Input::Ended { status: 0, others: true });
        let said = [FromGuard::Exited(1, 0), FromGuard::Leftover(1)].map(Output::Send);
        assert_eq!(out, [&said[..], &[Output::StopAll]].concat());
        guard.step(at(5_999), Input::Tick);
        assert!(!guard.is_killing());
        assert_eq!(guard.step(at(6_000), Input::Tick), [Output::Send(FromGuard::Killing(1))]);
        assert!(guard.is_killing());
        assert_eq!(guard.step(at(6_000), Input::Tick), [], "said once");
        assert_eq!(guard.step(at(6_001), Input::Alone), [Output::Send(FromGuard::Gone(1))]);
    }

    #[test]
    fn a_faster_raw_clock_brings_the_deadline_forward() {
        let mut guard = started();
        let now = Instant { boot: at(9_000).boot, raw: at(10_000).raw };
        assert_eq!(guard.step(now, Input::Tick).len(), 2);
    }
}
