//! One leader-run on a machine: its main process, its guard and its tree, and what carries out what they decide.

use crate::judge::{Owner, Violation};
use crate::world::{Event, World};
use leader_run::child::guard::{self, FromGuard, Guard, Input, Output, ToGuard};
use leader_run::clock::{Instant, Now};
use leader_run::contender::{Action, Contender, Said, Settings};
use leader_run::elector::{self, Elector};
use leader_run::record::Record;
use leader_run::store::{Change, Failure, Reply, Request};
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
    Spawned(i32),
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
            Process::Spawned(pid) => Input::Spawned(Ok(pid)),
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

#[derive(Debug)]
pub struct Tree {
    pub term: u64,
    pub child: bool,
    pub others: bool,
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
    pub fn new(node: usize, settings: Settings, guard: guard::Settings, now: Now) -> Actor {
        let running = || Running { alive: true, paused: false, pause: 0 };
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
    pub fn answered(&mut self, id: u64, answer: &Result<Reply, Failure>) -> bool {
        let Some(index) = self.out.iter().position(|out| out.id == id) else {
            return false;
        };
        let out = self.out.swap_remove(index);
        let awaited = self.current.take_if(|current| *current == id).is_some();
        match answer {
            Ok(Reply::Written(_)) if awaited => self.since = Some(out.sent),
            Ok(Reply::Found(Some(_))) if awaited => self.seen = true,
            _ => {}
        }
        awaited
    }

    /// Whether the request of this number was still awaited.
    pub fn timed_out(&mut self, id: u64) -> bool {
        self.out.retain(|out| out.id != id);
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
                if written.is_some() && lost {
                    self.judge.find(self.now, Violation::WroteAfterLoss, format!("{actor}: {request:?}"));
                }
                if free && alive && self.judge.is_alive(Owner::Ours(actor)) {
                    self.judge.find(self.now, Violation::ReleasedWhileAlive, format!("{actor}: {request:?}"));
                }
                self.send(actor, Out { id, sent, acquiring }, request, limit);
            }
            Action::Cancel => a.current = None,
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
            Said::Again => (a.leads, a.lost) = (false, false),
            Said::GuardFailed(how) if !a.guard_hurt && a.tree.as_ref().is_none_or(Tree::is_untouched) => {
                self.judge.find(self.now, Violation::GaveUpHealthyGuard, format!("{actor}: {how}"));
            }
            _ => {}
        }
    }

    fn exits(&mut self, actor: usize) {
        let a = &mut self.actors[actor];
        a.main.alive = false;
        a.guard.alive = false;
        a.watch = None;
        a.main_backlog.clear();
        let node = a.node;
        let abandoned = a.out.iter().find(|out| out.acquiring).map(|out| format!("{actor}: {out:?}"));
        if let Some(who) = abandoned {
            self.judge.find(self.now, Violation::AbandonedWrite, who);
        }
        if self.judge.is_alive(Owner::Ours(actor)) {
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
            Output::Spawn(_) => self.spawn(actor),
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
            ToMain::Answer(id, answer) if id > RELEASER && a.answered(id, &answer) => {
                elector::Event::Answer(id - RELEASER, answer)
            }
            ToMain::Timeout(id) if id > RELEASER && a.timed_out(id) => {
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

    fn spawn(&mut self, actor: usize) {
        let node = self.actors[actor].node;
        let now = self.clocks(node);
        let (leaves, stubborn) = (self.random.chance(0.4), self.random.chance(0.4));
        let a = &mut self.actors[actor];
        a.terms += 1;
        let term = a.terms;
        // What is stopped between its last look at the clock and the fork, forks late, and kills at once.
        let late = a.passed(now) && !a.guard_hurt;
        a.tree = Some(Tree { term, child: true, others: false, leaves, stubborn, killing: false, reported: false });
        if late {
            self.judge.find(self.now, Violation::StartedLate, format!("{actor}"));
        }
        self.judge.started(self.now, Owner::Ours(actor), node, &self.nodes);
        if self.child_may_end() {
            let after = self.random.spread(0.01, 30.0);
            self.after(after, Event::ChildEnds { actor, term });
        }
        if self.random.chance(0.5) && !self.is_healed() {
            // What is left behind ends by itself, some time.
            let after = self.random.spread(1.0, 60.0);
            self.after(after, Event::OthersEnd { actor, term });
        }
        let a = &mut self.actors[actor];
        a.core.step(now.at, Process::Spawned(1).into());
    }
}
