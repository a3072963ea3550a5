//! One contender: the election, the tree of each term and what the user asks for, joined into one state
//! machine. Like the elector and the guard it has no clock and does no I/O; `run.rs` carries out what it says.
//!
//! The two orders of the promise are kept here. Asked to stop, the elector is told to give the lock back only
//! when the tree is proven gone. After a loss it is told nothing any more until the tree is gone.

use crate::clock::{Instant, Now};
use crate::election::elector::{self, Elector, Leadership, Loss, Notice, Outcome, Waiting};
use crate::exit;
use crate::guard::core::{Deadlines, FromGuard, ToGuard};
use crate::lock::request::{Change, Failure, Reply, Request, Version};
use crate::mutant::Mutant;
use nix::libc::{SIGINT, SIGTERM};
use std::time::Duration;

/// How late the guard may be before leader-run does its work.
const GUARD_LATENESS: Duration = Duration::from_millis(200);

/// How a contender behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How its elections are run.
    pub election: elector::Settings,
    /// From S+R until the tree is killed, and after any other loss; R and this together are at most K.
    pub loss_grace: Duration,
    /// From a requested stop until the tree is killed.
    pub stop_grace: Duration,
    /// What asks the child to stop.
    pub stop_signal: i32,
    /// The signal that asks us to give up leadership and to contend again.
    pub step_down_signal: Option<i32>,
    /// Contend again after a loss.
    pub rejoin: bool,
    /// The exit code after a loss.
    pub lost_exit_code: i32,
    /// What the child's environment gains, `KEY=VALUE`, besides what each term adds.
    pub env: Vec<String>,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The request of this number was answered, or failed.
    Answer(u64, Result<Reply, Failure>),
    /// The watch has something to say.
    Change(Change),
    /// The guard says something.
    Guard(FromGuard),
    /// The guard is dead, or talks nonsense.
    GuardGone,
    /// After [`Action::KillAll`]: no process is left.
    Alone,
    /// We got a signal.
    Signal(i32),
}

/// What to do about it, in this order.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send this request, and answer it under this number within this time. Replaces any earlier one.
    Request(u64, Request, Duration),
    /// Forget the request under way.
    Cancel,
    /// Watch the lock from this version on (`None`: from how it is now). Replaces any earlier watch.
    Watch(Option<Version>),
    /// Stop watching.
    Unwatch,
    /// Tell the guard.
    Tell(ToGuard),
    /// The guard is given up: kill it and every other process below us until none is left.
    KillAll,
    /// Tell people.
    Say(Said),
    /// All is done: leave with this code.
    Exit(i32),
}

/// What people are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// We lead.
    Leading(Leadership),
    /// The term's last renewal is good until this moment, when its tree is dead at the latest. Said of the write that
    /// won the lock, too, before the child is started.
    HeldUntil(Instant),
    /// Leadership is over against our will.
    Lost(Loss),
    /// Something about the election, in passing.
    Notice(Notice),
    /// An election ended that holds nothing any more.
    Over(Outcome),
    /// No process of the term is left: the lock is about to be given back.
    GivingBack,
    /// A term of ours is over: no process of it is left, and the lock is given back, where it is.
    Ended(End),
    /// News of the tree.
    Tree(FromGuard),
    /// This signal asks us to stop.
    Stopping(i32),
    /// This signal asks us to give up leadership.
    SteppingDown(i32),
    /// We contend again.
    Again,
    /// The guard has failed, in this way.
    GuardFailed(&'static str),
}

/// Why a term of ours is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The child ended by itself, or could not be started.
    Exited,
    /// A signal asked us to stop.
    Stopped,
    /// A signal asked us to give up leadership.
    SteppedDown,
    /// Leadership was lost.
    Lost,
    /// The guard failed.
    Failed,
}

/// A time of leadership, as seen from the child's side.
#[derive(Debug)]
struct Term {
    leadership: Leadership,
    deadlines: Deadlines,
    /// When the guard kills, as it last acknowledged.
    acknowledged: Option<Instant>,
    tree: Tree,
    lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tree {
    /// To be started with the next renewal: the guard was told too late.
    Waiting,
    /// Started; with the child's wait status once it has ended.
    Alive(Option<i32>),
    /// No process is left; with the exit code that follows from it.
    Gone(i32),
}

/// A stop that was asked for.
#[derive(Clone, Copy, Debug)]
struct Stop {
    signal: i32,
    /// When the tree is killed for it.
    kill: Instant,
    /// Contend again afterwards.
    again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    Alive,
    /// It should have killed since then. Counted on a clock that stands still in a suspend, after which the
    /// guard has to get its turn first.
    Overdue(Instant),
    /// Given up; we kill what it has left.
    Killing,
    Gone,
}

/// The state machine. See the module's description.
#[derive(Debug)]
pub struct Contender {
    settings: Settings,
    elector: Elector,
    /// How many terms there were: the number of the present one.
    terms: u64,
    term: Option<Term>,
    stop: Option<Stop>,
    /// When the next election begins, where one does.
    again: Option<Instant>,
    guard: Guard,
    out: Vec<Action>,
}

impl Contender {
    /// A contender that begins at `now`.
    pub fn new(settings: Settings, now: Now) -> Contender {
        Contender {
            elector: Elector::new(settings.election.clone(), now),
            settings,
            terms: 0,
            term: None,
            stop: None,
            again: None,
            guard: Guard::Alive,
            out: Vec::new(),
        }
    }

    /// Takes what happened, and says what to do.
    pub fn step(&mut self, now: Now, event: Event) -> Vec<Action> {
        let event = match event {
            Event::Tick => self.ticked(now),
            Event::Answer(id, answer) => elector::Event::Answer(id, answer),
            Event::Change(change) => elector::Event::Change(change),
            Event::Guard(said) => self.guard_said(now, said),
            Event::GuardGone => self.guard_gone(now, "died"),
            Event::Alone => self.alone(now),
            Event::Signal(signal) => self.signalled(now, signal),
        };
        self.elect(now, event);
        if self.again.take_if(|at| at.leader_left(now.at).is_zero()).is_some() {
            self.elector = self.elector.again(now);
            self.elect(now, elector::Event::Tick);
        }
        std::mem::take(&mut self.out)
    }

    /// How long until [`Contender::step`] wants to be called with a [`Event::Tick`] at the latest.
    pub fn wake(&self, now: Now) -> Option<Duration> {
        let again = self.again.map(|at| at.leader_left(now.at));
        self.elector.wake(now).into_iter().chain(self.guard_left(now)).chain(again).min()
    }

    /// Whether the lock is ours at this moment, as far as we know.
    pub fn is_leading(&self) -> bool {
        self.elector.is_leading()
    }

    /// Whom we wait for, if we do.
    pub fn waiting(&self) -> Option<Waiting> {
        self.elector.waiting()
    }

    fn say(&mut self, said: Said) {
        self.out.push(Action::Say(said));
    }

    fn elect(&mut self, now: Now, event: elector::Event) {
        if matches!(event, elector::Event::Finish) && self.is_leading() {
            self.say(Said::GivingBack);
        }
        for action in self.elector.step(now, event) {
            match action {
                elector::Action::Request(id, request, limit) => self.out.push(Action::Request(id, request, limit)),
                elector::Action::Cancel => self.out.push(Action::Cancel),
                elector::Action::Watch(from) => self.out.push(Action::Watch(from)),
                elector::Action::Lead(leadership) => self.lead(now, leadership),
                elector::Action::Renewed(since) => self.renewed(now, since),
                elector::Action::Lost(loss) => self.lost(now, loss),
                elector::Action::Over(outcome) => self.over(now, outcome),
                elector::Action::Say(notice) => self.say(Said::Notice(notice)),
            }
        }
    }

    fn deadlines(&self, since: Instant) -> Deadlines {
        let stop = since.plus(self.settings.election.renew_deadline);
        let late = if Mutant::KillTooLate.is_on() { Duration::from_secs(2) } else { Duration::ZERO };
        Deadlines { stop, kill: stop.plus(self.settings.loss_grace + late) }
    }

    fn lead(&mut self, now: Now, leadership: Leadership) {
        self.say(Said::Leading(leadership.clone()));
        self.terms += 1;
        let deadlines = self.deadlines(leadership.since);
        self.term = Some(Term { leadership, deadlines, acknowledged: None, tree: Tree::Waiting, lost: false });
        self.say(Said::HeldUntil(deadlines.kill));
        self.start_child(now);
    }

    fn start_child(&mut self, now: Now) {
        if let Some(term) = &mut self.term
            && term.tree == Tree::Waiting
            && !term.lost
            && self.stop.is_none()
        {
            term.tree = Tree::Alive(None);
            // A guard that does not even read this is as overdue as one that does not act on it.
            term.acknowledged = Some(term.deadlines.kill);
            if let Guard::Overdue(_) = self.guard {
                self.guard = Guard::Alive;
            }
            let mut env = self.settings.env.clone();
            env.push(format!("LEADER_ELECTION_FENCING_TOKEN={}", term.leadership.token));
            env.push(format!("LEADER_ELECTION_TRANSITIONS={}", term.leadership.record.transition_count()));
            let deadlines = as_told(now, term.deadlines);
            let record = term.leadership.record.to_annotation();
            self.out.push(Action::Tell(ToGuard::Start { term: self.terms, deadlines, env, record }));
        }
    }

    fn renewed(&mut self, now: Now, since: Instant) {
        let deadlines = self.deadlines(since);
        if let Some(term) = &mut self.term {
            term.deadlines = deadlines;
            self.out.push(Action::Say(Said::HeldUntil(deadlines.kill)));
            self.out.push(Action::Tell(ToGuard::Extend { term: self.terms, deadlines: as_told(now, deadlines) }));
        }
        self.start_child(now);
    }

    /// Leadership is over against our will: stop the tree, and write nothing any more.
    fn lost(&mut self, now: Now, loss: Loss) {
        self.out.push(Action::Unwatch);
        let grace = now.at.plus(self.settings.loss_grace);
        match &mut self.term {
            Some(term) if matches!(term.tree, Tree::Alive(_)) => {
                term.lost = true;
                let (signal, kill) = (self.settings.stop_signal, grace.earlier(term.deadlines.kill));
                self.out.push(Action::Tell(ToGuard::Stop { term: self.terms, signal, kill, lost: true }));
                self.say(Said::Lost(loss));
            }
            _ => {
                self.say(Said::Lost(loss));
                self.after_loss(now);
            }
        }
    }

    /// Leadership is lost, and no process of the term is left.
    fn after_loss(&mut self, now: Now) {
        self.say(Said::Ended(if self.guard_alive() { End::Lost } else { End::Failed }));
        if self.settings.rejoin && self.stop.is_none_or(|stop| stop.again) && self.guard_alive() {
            self.contend_again(now.at);
        } else {
            self.out.push(Action::Exit(self.settings.lost_exit_code));
        }
    }

    fn contend_again(&mut self, at: Instant) {
        self.term = None;
        self.stop = None;
        self.again = Some(at);
        self.say(Said::Again);
    }

    /// What the guard says, and what that means for the election.
    fn guard_said(&mut self, now: Now, said: FromGuard) -> elector::Event {
        let Some(term) = self.term.as_mut().filter(|_| said.term() == self.terms) else {
            return elector::Event::Tick;
        };
        match said {
            FromGuard::Acknowledged(_, kill) => {
                term.acknowledged = Some(kill);
                if let Guard::Overdue(_) = self.guard {
                    self.guard = Guard::Alive;
                }
                return elector::Event::Tick;
            }
            FromGuard::Exited(_, status) if Mutant::ReleaseBeforeGone.is_on() => {
                return self.gone(now, exit::of_child(status));
            }
            FromGuard::Exited(_, status) => term.tree = Tree::Alive(Some(status)),
            _ => {}
        }
        let (tree, lost) = (term.tree, term.lost);
        self.say(Said::Tree(said));
        match said {
            FromGuard::Late(_) => {
                self.set_tree(Tree::Waiting);
                if lost {
                    self.after_loss(now);
                } else if self.stop.is_some() {
                    return elector::Event::Finish;
                }
            }
            FromGuard::Failed(_, errno) => {
                return self.not_started(now, exit::of_failed_start(errno));
            }
            FromGuard::Died(..) => return self.not_started(now, exit::OWN_FAILURE),
            FromGuard::Expired(_) => {
                return elector::Event::Forfeit("the guard stopped the child, for its deadline had passed".into());
            }
            FromGuard::Gone(_) => {
                if let Tree::Alive(Some(status)) = tree {
                    return self.gone(now, exit::of_child(status));
                }
            }
            _ => {}
        }
        elector::Event::Tick
    }

    /// What cannot be started now cannot be started again.
    fn not_started(&mut self, now: Now, code: i32) -> elector::Event {
        self.stop.take_if(|stop| stop.again);
        self.gone(now, code)
    }

    fn set_tree(&mut self, tree: Tree) {
        if let Some(term) = &mut self.term {
            term.tree = tree;
        }
    }

    /// The whole tree is proven gone.
    fn gone(&mut self, now: Now, code: i32) -> elector::Event {
        self.set_tree(Tree::Gone(code));
        if self.term.as_ref().is_some_and(|term| term.lost) {
            self.after_loss(now);
            return elector::Event::Tick;
        }
        elector::Event::Finish
    }

    fn guard_alive(&self) -> bool {
        matches!(self.guard, Guard::Alive | Guard::Overdue(_))
    }

    fn guard_gone(&mut self, now: Now, how: &'static str) -> elector::Event {
        if self.guard_alive() {
            self.guard = Guard::Killing;
            self.say(Said::GuardFailed(how));
            self.out.push(Action::KillAll);
            // Nothing can be started any more.
            if self.term.as_ref().is_none_or(|term| term.tree == Tree::Waiting) {
                return self.alone(now);
            }
        }
        elector::Event::Tick
    }

    /// We have killed what the guard has left, and nothing of it is left.
    fn alone(&mut self, now: Now) -> elector::Event {
        if self.guard != Guard::Killing {
            return elector::Event::Tick;
        }
        self.guard = Guard::Gone;
        if self.again.take().is_some() {
            self.out.push(Action::Exit(exit::OWN_FAILURE));
        }
        self.gone(now, exit::OWN_FAILURE)
    }

    /// How long until the guard should have done what it acknowledged, and then until it is given up.
    fn guard_left(&self, now: Now) -> Option<Duration> {
        let term = self.term.as_ref().filter(|term| matches!(term.tree, Tree::Alive(_)))?;
        match self.guard {
            Guard::Alive => Some(term.acknowledged?.leader_left(now.at)),
            Guard::Overdue(since) => Some(GUARD_LATENESS.saturating_sub(now.at.standby_since(since))),
            Guard::Killing | Guard::Gone => None,
        }
    }

    fn ticked(&mut self, now: Now) -> elector::Event {
        if self.guard_left(now).is_some_and(|left| left.is_zero()) {
            if let Guard::Overdue(_) = self.guard {
                return self.guard_gone(now, "missed its deadline");
            }
            self.guard = Guard::Overdue(now.at);
        }
        elector::Event::Tick
    }

    fn signalled(&mut self, now: Now, signal: i32) -> elector::Event {
        let ends = signal == SIGTERM || signal == SIGINT;
        let steps_down = self.settings.step_down_signal == Some(signal);
        let alive = self.term.as_ref().filter(|term| matches!(term.tree, Tree::Alive(_)));
        match alive.map(|term| term.lost) {
            Some(_) if !ends && !steps_down => {
                self.out.push(Action::Tell(ToGuard::Signal { term: self.terms, signal }));
            }
            Some(lost) => {
                let said = if ends { Said::Stopping(signal) } else { Said::SteppingDown(signal) };
                // The grace runs from the first time: asking again shortens and lengthens nothing.
                let kill = self.stop.map_or_else(|| now.at.plus(self.settings.stop_grace), |stop| stop.kill);
                let again = steps_down && self.stop.is_none_or(|stop| stop.again);
                self.stop = Some(Stop { signal, kill, again });
                let signal = if signal == SIGINT { signal } else { self.settings.stop_signal };
                self.out.push(Action::Tell(ToGuard::Stop { term: self.terms, signal, kill, lost }));
                self.say(said);
            }
            None if ends => {
                self.say(Said::Stopping(signal));
                let first = self.stop.filter(|stop| !stop.again);
                self.stop = first.or(Some(Stop { signal, kill: now.at, again: false }));
                if self.again.take().is_some() {
                    self.out.push(Action::Exit(exit::by_signal(signal)));
                }
                return elector::Event::Finish;
            }
            // Leading, with a child that is yet to be started.
            None if steps_down && self.term.as_ref().is_some_and(|term| term.tree == Tree::Waiting) => {
                self.say(Said::SteppingDown(signal));
                self.stop.get_or_insert(Stop { signal, kill: now.at, again: true });
                return elector::Event::Finish;
            }
            None => {}
        }
        elector::Event::Tick
    }

    /// Nothing is held any more: what is left is the exit code, or the next election.
    fn over(&mut self, now: Now, outcome: Outcome) {
        self.out.push(Action::Unwatch);
        let tree = self.term.as_ref().map(|term| term.tree);
        let code = match (&outcome, tree, self.stop) {
            (Outcome::GaveUp(_), ..) => Some(exit::NOT_LEADING),
            (Outcome::Failed(_), ..) => Some(exit::OWN_FAILURE),
            _ if !self.guard_alive() => Some(exit::OWN_FAILURE),
            (_, _, Some(Stop { again: true, .. })) => None,
            (_, Some(Tree::Gone(code)), _) => Some(code),
            (_, _, Some(Stop { signal, .. })) => Some(exit::by_signal(signal)),
            _ => Some(exit::OWN_FAILURE),
        };
        self.say(Said::Over(outcome));
        if self.term.is_some() {
            self.say(Said::Ended(match self.stop {
                _ if !self.guard_alive() => End::Failed,
                Some(Stop { again: true, .. }) => End::SteppedDown,
                Some(_) => End::Stopped,
                None => End::Exited,
            }));
        }
        match code {
            Some(code) => self.out.push(Action::Exit(code)),
            None => self.contend_again(now.at.plus(self.settings.election.retry_period)),
        }
    }
}

/// Absolute, for time passes until the guard reads them.
fn as_told(now: Now, deadlines: Deadlines) -> Deadlines {
    if !Mutant::RelativeDeadlines.is_on() {
        return deadlines;
    }
    let left = |at: Instant| Instant { boot: at.leader_left(now.at), raw: at.leader_left(now.at) };
    Deadlines { stop: left(deadlines.stop), kill: left(deadlines.kill) }
}

#[cfg(test)]
mod tests;
