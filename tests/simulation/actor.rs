//! One leader-run on a machine: its main process, its guard and its tree, and what carries out what they decide.

use crate::judge::{Owner, Violation};
use crate::world::{Event, World};
use leader_run::clock::{Instant, Now};
use leader_run::election::contender::{Action, Contender, Said, Settings};
use leader_run::election::elector::{self, Elector};
use leader_run::guard::core::{self, FromGuard, Guard, Input, NotExecuted, Output, ToGuard, is_too_late};
use leader_run::lock::record::Record;
use leader_run::lock::request::{Change, Failure, Observation, Reply, Request, Version};
use leader_run::mutant::Mutant;
use std::collections::VecDeque;
use std::time::Duration;

/// What comes to the main process.
#[derive(Clone, Debug)]
pub enum ToMain {
    Guard(FromGuard),
    GuardGone,
    Alone,
    Signal(i32),
    Answer(u64, Result<Reply, Failure>),
    /// Of the request of this number. After an answer that waits as well.
    Timeout(u64),
    Change(u64, Change),
    Tick,
}

impl ToMain {
    /// The order in which the loop takes what waits.
    pub fn rank(&self) -> u8 {
        match self {
            ToMain::Guard(_) | ToMain::GuardGone | ToMain::Alone => 0,
            ToMain::Signal(_) => 1,
            ToMain::Answer(..) => 2,
            ToMain::Timeout(_) => 3,
            ToMain::Change(..) => 4,
            ToMain::Tick => 5,
        }
    }
}

/// What comes to the guard.
#[derive(Clone, Debug)]
pub enum Process {
    Message(ToGuard),
    Closed,
    Dead,
    Tick,
    Forked(i32),
    Executed,
    NotExecuted(NotExecuted),
    Ended { others: bool },
    Alone,
}

impl From<Process> for Input {
    fn from(process: Process) -> Input {
        match process {
            Process::Message(message) => Input::Message(message),
            Process::Closed => Input::Closed,
            Process::Dead => Input::Dead,
            Process::Tick => Input::Tick,
            Process::Forked(pid) => Input::Forked(Ok(pid)),
            Process::Executed => Input::Executed,
            Process::NotExecuted(why) => Input::NotExecuted(why),
            Process::Ended { others } => Input::Ended { status: 0, others },
            Process::Alone => Input::Alone,
        }
    }
}

#[derive(Debug)]
pub struct Running {
    pub alive: bool,
    pub paused: bool,
    /// The number of the pause, which its end has to know.
    pub pause: u64,
    /// When the last pause ended.
    pub went_on: Option<Duration>,
}

/// A request that is under way.
#[derive(Debug)]
pub struct Out {
    pub id: u64,
    pub sent: Instant,
    /// It might win the lock.
    pub acquiring: bool,
}

/// The watch that is open.
#[derive(Debug)]
pub struct Stream {
    pub id: u64,
    /// Nothing comes through any more.
    pub silent: bool,
    /// When its last event arrives.
    pub last: Duration,
}

/// A child that was forked and has not executed COMMAND yet.
#[derive(Debug)]
pub struct Starting {
    /// S+R, as the guard told it.
    until: Instant,
    /// When it looked at the clock for the last time.
    looked: Option<Duration>,
    /// It was about to do the next thing when its machine stood still.
    pub woken: bool,
    /// Of COMMAND: it leaves others behind; when it and they end by themselves.
    leaves: bool,
    ends: Option<Duration>,
    others_end: Option<Duration>,
}

/// A write of ours whose fate is unclear.
#[derive(Debug)]
struct Unclear {
    id: u64,
    /// What it was to replace: nothing, or this version.
    base: Option<Version>,
    /// Since when it is known not to have been answered: by the clock of its machine, and when that was.
    since: Option<(Instant, Duration)>,
}

#[derive(Debug)]
pub struct Tree {
    pub term: u64,
    pub child: bool,
    pub others: bool,
    /// The child executes COMMAND.
    executes: bool,
    /// The child leaves others behind, or has them already if it is killed.
    pub leaves: bool,
    stubborn: bool,
    pub killing: bool,
    reported: bool,
}

impl Tree {
    /// Nobody is killing it, or has.
    fn is_untouched(&self) -> bool {
        !self.killing && (self.child || self.others)
    }
}

/// The requests of a crash release have numbers from here on.
const RELEASER: u64 = 1 << 32;

pub struct Actor {
    pub node: usize,
    pub settings: Settings,
    pub contender: Contender,
    pub core: Guard,
    pub main: Running,
    pub guard: Running,
    pub main_inbox: Vec<ToMain>,
    pub main_backlog: VecDeque<Action>,
    pub main_alarm: u64,
    /// The main process kills what a dead guard has left.
    pub main_kills: bool,
    pub guard_inbox: Vec<ToGuard>,
    /// When the last message to the guard, and from it, arrives.
    last_told: Duration,
    last_said: Duration,
    pub guard_alarm: u64,
    pub guard_woken: bool,
    /// Something was done to the guard.
    pub guard_hurt: bool,
    pub tree: Option<Tree>,
    pub starting: Option<Starting>,
    /// What a child has said of its start, and its guard has not read.
    pub start_news: Option<Process>,
    /// Writes of ours that may be carried out yet, reckoned apart from the program.
    unclear: Vec<Unclear>,
    pub out: Vec<Out>,
    /// The request whose answer is awaited.
    current: Option<u64>,
    pub watch: Option<Stream>,
    /// What gives back the lock of a main process that has died.
    pub releaser: Option<Elector>,
    /// It has seen that there is a lock.
    pub seen: bool,
    pub spins: u32,
    terms: u64,
    /// S, reckoned apart from the program.
    since: Option<Instant>,
    /// It has said that it leads, and not yet that it has lost.
    leads: bool,
    lost: bool,
}

impl Actor {
    pub fn new(node: usize, settings: Settings, guard: core::Settings, now: Now) -> Actor {
        let running = || Running { alive: true, paused: false, pause: 0, went_on: None };
        Actor {
            node,
            contender: Contender::new(settings.clone(), now),
            settings,
            core: Guard::new(guard),
            main: running(),
            guard: running(),
            main_inbox: Vec::new(),
            main_backlog: VecDeque::new(),
            main_alarm: 0,
            main_kills: false,
            guard_inbox: Vec::new(),
            last_told: Duration::ZERO,
            last_said: Duration::ZERO,
            guard_alarm: 0,
            guard_woken: false,
            guard_hurt: false,
            tree: None,
            starting: None,
            start_news: None,
            unclear: Vec::new(),
            out: Vec::new(),
            current: None,
            watch: None,
            releaser: None,
            seen: false,
            spins: 0,
            terms: 0,
            since: None,
            leads: false,
            lost: false,
        }
    }

    pub fn main_stands(&self) -> bool {
        !self.main.alive || self.main.paused
    }

    pub fn guard_stands(&self) -> bool {
        !self.guard.alive || self.guard.paused
    }

    /// Whether this answer is awaited.
    pub fn answered(&mut self, id: u64, answer: &Result<Reply, Failure>, now: (Instant, Duration)) -> bool {
        let Some(index) = self.out.iter().position(|out| out.id == id) else {
            return false;
        };
        let out = self.out.swap_remove(index);
        let awaited = self.current.take_if(|current| *current == id).is_some();
        if awaited {
            match answer {
                Ok(Reply::Written(_)) => (self.since, self.unclear) = (Some(out.sent), Vec::new()),
                Ok(Reply::Found(found)) => {
                    self.seen |= found.is_some();
                    self.saw(found.as_ref());
                }
                Err(Failure::Conflict) => self.unclear.clear(),
                Err(Failure::Timeout | Failure::Unclear(_)) => self.is_unanswered(id, now),
                Err(_) => self.unclear.retain(|write| write.id != id),
            }
        }
        awaited
    }

    /// What the lock is like settles whatever was to replace something earlier.
    pub fn saw(&mut self, seen: Option<&Observation>) {
        self.unclear.retain(|write| match (&write.base, seen) {
            (Some(base), Some(seen)) => !base.is_before(&seen.version),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        });
    }

    /// From now on nobody waits for the answer to the write of this number.
    fn is_unanswered(&mut self, id: u64, now: (Instant, Duration)) {
        if let Some(write) = self.unclear.iter_mut().find(|write| write.id == id) {
            write.since.get_or_insert(now);
        }
    }

    /// Whether the request of this number was still awaited.
    pub fn timed_out(&mut self, id: u64, now: (Instant, Duration)) -> bool {
        self.out.retain(|out| out.id != id);
        self.is_unanswered(id, now);
        self.current.take_if(|current| *current == id).is_some()
    }

    /// What the guard finds when it looks after its children.
    pub fn reaped(&mut self) -> Option<Process> {
        let tree = self.tree.as_mut()?;
        let others = tree.others;
        if !tree.child && !std::mem::replace(&mut tree.reported, true) {
            if !others {
                self.tree = None;
            }
            return Some(Process::Ended { others });
        }
        if tree.child || others {
            return None;
        }
        self.tree = None;
        Some(Process::Alone)
    }

    fn passed(&self, now: Now) -> bool {
        let deadline = self.settings.election.renew_deadline;
        self.since.is_none_or(|since| now.at.leader_since(since) >= deadline)
    }
}

impl World {
    pub fn main_act(&mut self, actor: usize, action: Action) {
        let now = self.clocks(self.actors[actor].node);
        let a = &mut self.actors[actor];
        match action {
            Action::Request(id, request, limit) => {
                let written = match &request {
                    Request::Create(record) | Request::Update(record, _) => Some(record),
                    Request::Get => None,
                };
                let free = written.is_some_and(|record| record.is_free());
                let acquiring = written.is_some() && !free && !a.contender.is_leading();
                let sent = now.at;
                let (lost, alive) = (a.lost, a.tree.is_some());
                a.current = Some(id);
                let base = match &request {
                    Request::Update(_, base) => Some(base.clone()),
                    _ => None,
                };
                if written.is_some() && !free {
                    a.unclear.push(Unclear { id, base, since: None });
                }
                if written.is_some() && lost {
                    self.judge.find(self.now, Violation::WroteAfterLoss, format!("{actor}: {request:?}"));
                }
                if free && alive && self.judge.is_alive(Owner::Ours(actor)) {
                    self.judge.find(self.now, Violation::ReleasedWhileAlive, format!("{actor}: {request:?}"));
                }
                self.send(actor, Out { id, sent, acquiring }, request, limit);
            }
            Action::Cancel => {
                if let Some(id) = a.current.take() {
                    a.is_unanswered(id, (now.at, self.now));
                }
            }
            Action::Watch(from) => self.watch(actor, from),
            Action::Unwatch => a.watch = None,
            Action::Tell(message) => {
                if a.guard.alive {
                    let late = self.guard_late();
                    // A socket keeps its order.
                    let at = (self.now + late).max(self.actors[actor].last_told + Duration::from_nanos(1));
                    self.actors[actor].last_told = at;
                    self.after(at - self.now, Event::Guard { actor, input: Some(message) });
                }
            }
            Action::KillAll => {
                a.guard.alive = false;
                a.main_kills = true;
                if let Some(tree) = &mut a.tree {
                    tree.killing = false;
                    self.kill(actor, true);
                } else {
                    self.after(Duration::from_millis(1), Event::Main { actor, input: ToMain::Alone });
                }
            }
            Action::Say(said) => self.said(actor, said),
            Action::Exit(_) => self.exits(actor),
        }
    }

    fn said(&mut self, actor: usize, said: Said) {
        let a = &mut self.actors[actor];
        match said {
            Said::Leading(_) => (a.leads, a.lost) = (true, false),
            Said::Lost(_) => (a.leads, a.lost) = (false, true),
            Said::Over(_) => a.leads = false,
            Said::Again => (a.leads, a.lost, a.unclear) = (false, false, Vec::new()),
            Said::Tree(said @ (FromGuard::Failed(..) | FromGuard::Died(..))) => {
                self.judge.find(self.now, Violation::StartFailed, format!("{actor}: {said:?}"));
            }
            Said::GuardFailed(how) if !a.guard_hurt && a.tree.as_ref().is_none_or(Tree::is_untouched) => {
                self.judge.find(self.now, Violation::GaveUpHealthyGuard, format!("{actor}: {how}"));
            }
            _ => {}
        }
    }

    fn exits(&mut self, actor: usize) {
        let now = self.clocks(self.actors[actor].node);
        let a = &mut self.actors[actor];
        let election = &a.settings.election;
        let patience = election.request_timeout.min(election.renew_deadline).min(Duration::from_secs(3)).mul_f64(0.9);
        // What was decided before a machine or a process stood still is done after it, and seems to have taken less time.
        let went_on = [self.nodes[a.node].thawed(), a.main.went_on].into_iter().flatten().max();
        let given_up = |write: &&Unclear| {
            let slept = |noted| went_on.is_some_and(|at| at >= noted);
            write.since.is_some_and(|(since, noted)| now.at.leader_since(since) < patience && !slept(noted))
        };
        let unclear = a.unclear.iter().find(given_up).filter(|_| !a.lost).map(|write| format!("{actor}: {write:?}"));
        let starting = a.starting.is_some();
        a.main.alive = false;
        a.guard.alive = false;
        a.watch = None;
        a.main_backlog.clear();
        let node = a.node;
        let abandoned = a.out.iter().find(|out| out.acquiring).map(|out| format!("{actor}: {out:?}"));
        if let Some(who) = abandoned {
            self.judge.find(self.now, Violation::AbandonedWrite, who);
        }
        if let Some(who) = unclear {
            self.judge.find(self.now, Violation::EndedUnclear, who);
        }
        if self.judge.is_alive(Owner::Ours(actor)) || starting {
            self.judge.find(self.now, Violation::LeftTreeBehind, format!("{actor}"));
        }
        self.perish(actor);
        self.restart_later(node);
    }

    /// Leadership ends at S+R, however S is reckoned by the program.
    pub fn check_leadership(&mut self, actor: usize) {
        let now = self.clocks(self.actors[actor].node);
        let a = &self.actors[actor];
        if a.main.alive && a.leads && a.main_backlog.is_empty() && a.contender.is_leading() && a.passed(now) {
            self.judge.find(self.now, Violation::LedPastDeadline, format!("{actor}"));
        }
    }

    pub fn guard_act(&mut self, actor: usize, output: Output) {
        match output {
            Output::Spawn { until, .. } => self.fork(actor, until),
            Output::Stop(_) => {
                if let Some(tree) = self.actors[actor].tree.as_ref().filter(|tree| !tree.stubborn) {
                    let term = tree.term;
                    let after = self.random.spread(0.001, 3.0);
                    self.after(after, Event::ChildEnds { actor, term });
                }
            }
            Output::StopAll(_) => {
                if let Some(tree) = self.actors[actor].tree.as_ref().filter(|tree| !tree.stubborn) {
                    let term = tree.term;
                    let after = self.random.spread(0.001, 1.0);
                    self.after(after, Event::OthersEnd { actor, term });
                }
            }
            Output::Send(message) => {
                let after = self.random.spread(0.00001, 0.002);
                let at = (self.now + after).max(self.actors[actor].last_said + Duration::from_nanos(1));
                self.actors[actor].last_said = at;
                self.after(at - self.now, Event::Main { actor, input: ToMain::Guard(message) });
            }
            Output::Release(record, within) => {
                let record = Record::from_annotation(&record);
                let now = self.clocks(self.actors[actor].node);
                let a = &mut self.actors[actor];
                a.guard.alive = false;
                a.releaser = Some(Elector::releasing(a.settings.election.clone(), now, record, within));
                // The program has to be started, and has a connection to make.
                let after = self.random.spread(0.005, 0.1);
                self.after(after, Event::Main { actor, input: ToMain::Tick });
            }
            Output::Exit => self.actors[actor].guard.alive = false,
            Output::Signal(_) | Output::Continue => {}
        }
    }

    /// The crash release takes what would have come to the main process that it follows.
    pub fn releaser_takes(&mut self, actor: usize, input: ToMain) {
        let now = self.clocks(self.actors[actor].node);
        let a = &mut self.actors[actor];
        let event = match input {
            ToMain::Tick => elector::Event::Tick,
            ToMain::Answer(id, answer) if id > RELEASER && a.answered(id, &answer, (now.at, self.now)) => {
                elector::Event::Answer(id - RELEASER, answer)
            }
            ToMain::Timeout(id) if id > RELEASER && a.timed_out(id, (now.at, self.now)) => {
                elector::Event::Answer(id - RELEASER, Err(Failure::Timeout))
            }
            _ => return,
        };
        let Some(releaser) = &mut a.releaser else {
            return;
        };
        let actions = releaser.step(now, event);
        let wake = releaser.wake(now);
        for action in actions {
            if let elector::Action::Request(id, request, limit) = action {
                let id = RELEASER + id;
                let a = &mut self.actors[actor];
                a.current = Some(id);
                let writes = !matches!(request, Request::Get);
                if writes && a.lost {
                    self.judge.find(self.now, Violation::WroteAfterLoss, format!("{actor}: {request:?}"));
                }
                if writes && self.judge.is_alive(Owner::Ours(actor)) {
                    self.judge.find(self.now, Violation::ReleasedWhileAlive, format!("{actor}: {request:?}"));
                }
                self.send(actor, Out { id, sent: now.at, acquiring: false }, request, limit);
            }
        }
        if let Some(left) = wake {
            let after = self.real(self.actors[actor].node, left);
            self.after(after, Event::Main { actor, input: ToMain::Tick });
        }
    }

    /// Forks the child. What it does then it does by itself: it looks at the clock, and executes COMMAND.
    fn fork(&mut self, actor: usize, until: Instant) {
        let now = self.clocks(self.actors[actor].node);
        let (leaves, stubborn) = (self.random.chance(0.4), self.random.chance(0.4));
        let ends = self.child_may_end().then(|| self.random.spread(0.01, 30.0));
        // What is left behind ends by itself, some time.
        let others_end = (self.random.chance(0.5) && !self.is_healed()).then(|| self.random.spread(1.0, 60.0));
        let a = &mut self.actors[actor];
        a.terms += 1;
        let term = a.terms;
        let (child, others, executes, killing, reported) = (true, false, false, false, false);
        a.tree = Some(Tree { term, child, others, executes, leaves: false, stubborn, killing, reported });
        a.starting = Some(Starting { until, looked: None, woken: false, leaves, ends, others_end });
        a.core.step(now.at, Process::Forked(1).into());
        self.child_goes_on(actor);
    }

    /// The child does the next thing in a moment.
    pub fn child_goes_on(&mut self, actor: usize) {
        let after = self.start_random.spread(0.00002, 0.005);
        let term = self.actors[actor].terms;
        self.after(after, Event::ChildStarts { actor, term });
    }

    /// The child looks at the clock, or executes COMMAND.
    pub fn child_starts(&mut self, actor: usize, term: u64) {
        let node = self.actors[actor].node;
        if self.actors[actor].terms != term || self.actors[actor].starting.is_none() {
            return;
        }
        self.count(node);
        let now = self.clocks(node);
        let frozen = self.is_frozen(node);
        let a = &mut self.actors[actor];
        let passed = a.passed(now);
        let Some(starting) = &mut a.starting else {
            return;
        };
        if frozen {
            starting.woken = true;
        } else if let Some(looked) = starting.looked {
            self.executes(actor, looked);
        } else if is_too_late(now.at, starting.until) && !Mutant::NoLookBeforeExec.is_on() {
            (a.starting, a.start_news) = (None, Some(Process::NotExecuted(NotExecuted::Late)));
            if let Some(tree) = &mut a.tree {
                tree.child = false;
            }
            self.tree_changed(actor);
        } else {
            starting.looked = Some(self.now);
            if passed {
                self.judge.find(self.now, Violation::StartedLate, format!("{actor}"));
            }
            self.child_goes_on(actor);
        }
    }

    fn executes(&mut self, actor: usize, looked: Duration) {
        let a = &mut self.actors[actor];
        let (Some(starting), Some(tree)) = (a.starting.take(), &mut a.tree) else {
            return;
        };
        (tree.executes, tree.leaves) = (true, starting.leaves);
        a.start_news = Some(Process::Executed);
        let (term, node) = (tree.term, a.node);
        self.judge.started(self.now, Owner::Ours(actor), node, looked, &self.nodes);
        if let Some(after) = starting.ends {
            self.after(after, Event::ChildEnds { actor, term });
        }
        if let Some(after) = starting.others_end {
            self.after(after, Event::OthersEnd { actor, term });
        }
        let late = self.start_random.spread(0.00002, 0.002);
        self.after(late, Event::Guard { actor, input: None });
    }
}
