//! The world of one history: real time, machines with clocks of their own, a network, processes that can be
//! stopped, and the store. It runs the very contender and guard of leader-run.

use crate::actor::{Actor, Out, Process, Stream, ToMain};
use crate::judge::{Judge, Owner, Stillness, Verdict, Violation};
use crate::peer::{Does, Peer};
use crate::plan::{Bounds, Fault, GUARD_LATE, KILL_TIME, Kind, Plan, RATE_ERROR, When};
use crate::random::Random;
use crate::store::Store;
use leader_run::clock::{Instant, Now, Wall};
use leader_run::election::contender;
use leader_run::guard::core::ToGuard;
use leader_run::lock::record::Record;
use leader_run::lock::request::{Change, Failure, Reply, Request, Verb};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

const ZERO: Duration = Duration::ZERO;
/// No alarm goes off sooner: timers have a resolution.
const RESOLUTION: Duration = Duration::from_micros(20);

/// Who asked the store.
#[derive(Clone, Copy, Debug)]
pub enum Asker {
    Ours { actor: usize, id: u64 },
    ClientGo { node: usize, life: u32, id: u64 },
}

/// By then a leader has noticed that the lock was deleted, and created it again. One that has not seen it held
/// is started no earlier: it could not know that there is a leader.
const RECREATED: Duration = Duration::from_secs(10);

/// What will happen.
#[derive(Clone, Debug)]
pub enum Event {
    MainAlarm {
        actor: usize,
        generation: u64,
    },
    Main {
        actor: usize,
        input: ToMain,
    },
    GuardAlarm {
        actor: usize,
        generation: u64,
    },
    Guard {
        actor: usize,
        input: Option<ToGuard>,
    },
    ChildStarts {
        actor: usize,
        term: u64,
    },
    ChildEnds {
        actor: usize,
        term: u64,
    },
    OthersEnd {
        actor: usize,
        term: u64,
    },
    Killed {
        actor: usize,
        term: u64,
        by_main: bool,
    },
    Arrive {
        from: Asker,
        request: Request,
        answered: bool,
        back: Duration,
        error: Option<Failure>,
    },
    PeerAlarm {
        node: usize,
        generation: u64,
    },
    PeerAnswer {
        node: usize,
        life: u32,
        id: u64,
        answer: Result<Reply, Failure>,
    },
    Fault(Fault),
    Heal {
        node: usize,
        what: Healing,
    },
    Restart {
        node: usize,
    },
    /// Its leader-run was killed some time ago.
    Orphaned {
        actor: usize,
    },
    HealAll,
}

#[derive(Clone, Copy, Debug)]
pub enum Healing {
    Partition,
    Slow,
    Errors,
    Main { actor: usize, pause: u64 },
    Guard { actor: usize, pause: u64 },
    Freeze,
}

struct Scheduled {
    at: Duration,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// client-go on a machine.
struct Go {
    peer: Peer,
    /// Counts its starts.
    life: u32,
    request: u64,
    generation: u64,
    committed: Duration,
    down: bool,
    /// What came while the machine stood still.
    inbox: Vec<Event>,
}

pub struct Node {
    rate: f64,
    raw_rate: f64,
    wall: i64,
    suspended: Duration,
    frozen: Option<(Duration, bool)>,
    /// When it last began to stand still, and when it last went on.
    froze: Option<Duration>,
    thawed: Option<Duration>,
    requests_lost: bool,
    answers_lost: bool,
    slow: Duration,
    errors: bool,
    watch: bool,
    actor: Option<usize>,
    go: Option<Go>,
    /// What its contenders and guards have done so far.
    actions: u32,
    /// Counts faults, so that the end of an earlier one does not end a later one.
    faults: u64,
    crashed: bool,
}

pub struct World {
    pub now: Duration,
    pub nodes: Vec<Node>,
    pub actors: Vec<Actor>,
    pub judge: Judge,
    pub random: Random,
    /// Of how long each step of a child's start takes.
    pub start_random: Random,
    plan: Plan,
    bounds: Bounds,
    store: Store,
    /// Every term that the lock has named, in order: its holder, and when it acquired.
    terms: Vec<(String, String)>,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    healed: bool,
    deleted: bool,
    streams: u64,
    triggers: Vec<(usize, u32, Fault)>,
    trace: bool,
}

impl Node {
    pub fn thawed(&self) -> Option<Duration> {
        self.thawed
    }
}

impl Stillness for Vec<Node> {
    fn is_frozen(&self, node: usize) -> bool {
        self[node].frozen.is_some()
    }

    fn froze(&self, node: usize) -> Option<Duration> {
        self[node].froze
    }

    fn thawed(&self, node: usize) -> Option<Duration> {
        self[node].thawed
    }
}

/// Plays the history of this number.
pub fn play(seed: u64, bounds: Bounds, trace: bool) -> Verdict {
    let mut random = Random::new(seed);
    let plan = Plan::new(&mut random, bounds);
    let mut world = World::new(plan, bounds, random, trace);
    world.run()
}

impl World {
    fn new(plan: Plan, bounds: Bounds, random: Random, trace: bool) -> World {
        let nodes = plan.nodes.iter().map(|node| Node {
            rate: node.rate,
            raw_rate: node.raw_rate,
            wall: node.wall,
            suspended: ZERO,
            frozen: None,
            froze: None,
            thawed: None,
            requests_lost: false,
            answers_lost: false,
            slow: ZERO,
            errors: false,
            watch: node.watch,
            actor: None,
            go: None,
            actions: 0,
            faults: 0,
            crashed: false,
        });
        let mut world = World {
            now: Duration::from_secs(1),
            nodes: nodes.collect(),
            actors: Vec::new(),
            judge: Judge::new(plan.longest),
            start_random: Random::new(random.clone().next()),
            random,
            bounds,
            store: Store::new(),
            terms: Vec::new(),
            queue: BinaryHeap::new(),
            scheduled: 0,
            healed: false,
            deleted: false,
            streams: 0,
            triggers: Vec::new(),
            trace,
            plan,
        };
        if trace {
            println!("{:#?}", world.plan);
        }
        for node in 0..world.nodes.len() {
            let after = world.random.millis(0.0, 1500.0);
            world.after(after, Event::Restart { node });
        }
        for (when, fault) in world.plan.faults.clone() {
            match when {
                When::At(at) => world.after(at, Event::Fault(fault)),
                When::Before { node, action } => world.triggers.push((node, action, fault)),
            }
        }
        let healed = world.plan.healed;
        world.after(healed, Event::HealAll);
        world
    }

    fn run(&mut self) -> Verdict {
        let (healed, end) = (self.now + self.plan.healed, self.now + self.plan.end);
        while let Some(Reverse(next)) = self.queue.pop() {
            let idle = self.judge.idle_since().map(|since| next.at.saturating_sub(since.max(healed)));
            if idle.is_some_and(|idle| idle > self.plan.idle) {
                let object = self.store.object().map(|object| object.record.clone());
                self.judge.find(self.now, Violation::NobodyLeads, format!("the lock says {object:?}"));
            }
            // A history in whose last moment nobody leads goes on until somebody does.
            if next.at > end && idle.is_none() || self.judge.verdict.finding.is_some() {
                break;
            }
            self.now = next.at;
            self.judge.verdict.events += 1;
            if self.trace && !matches!(next.event, Event::GuardAlarm { .. }) {
                println!("{:9.4} {:?}", self.now.as_secs_f64(), next.event);
            }
            self.happen(next.event);
        }
        std::mem::take(&mut self.judge).end(self.now)
    }

    pub fn after(&mut self, span: Duration, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse(Scheduled { at: self.now + span, number: self.scheduled, event }));
    }

    /// What the clocks of a node show.
    pub fn clocks(&self, node: usize) -> Now {
        let Node { rate, raw_rate, suspended, wall, .. } = &self.nodes[node];
        let boot = self.now.mul_f64(*rate);
        let raw = (self.now - *suspended).mul_f64(*raw_rate);
        Now { at: Instant { boot, raw }, wall: Wall(1_795_330_800_000_000 + wall + boot.as_micros() as i64) }
    }

    /// How long a timer of this node takes.
    pub fn real(&self, node: usize, span: Duration) -> Duration {
        span.div_f64(self.nodes[node].rate).max(RESOLUTION)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::MainAlarm { actor, generation } => {
                if self.actors[actor].main_alarm == generation {
                    self.give_main(actor, ToMain::Tick);
                }
            }
            Event::Main { actor, input } => self.give_main(actor, input),
            Event::GuardAlarm { actor, generation } => {
                if self.actors[actor].guard_alarm == generation {
                    self.guard_runs(actor);
                }
            }
            Event::Guard { actor, input } => {
                self.actors[actor].guard_inbox.extend(input);
                self.guard_runs(actor);
            }
            Event::ChildStarts { actor, term } => self.child_starts(actor, term),
            Event::ChildEnds { actor, term } => self.child_ends(actor, term),
            Event::OthersEnd { actor, term } => self.others_end(actor, term),
            Event::Killed { actor, term, by_main } => self.killed(actor, term, by_main),
            Event::Arrive { from, request, answered, back, error } => {
                self.arrive(from, &request, answered, back, error)
            }
            Event::PeerAlarm { node, generation } => {
                if self.nodes[node].go.as_ref().is_some_and(|go| go.generation == generation) {
                    self.peer(node, None);
                }
            }
            Event::PeerAnswer { .. } => self.peer_answered(event),
            Event::Fault(fault) => {
                if !self.healed {
                    self.fault(fault);
                }
            }
            Event::Heal { node, what } => self.heal(node, what),
            Event::Restart { node } => self.restart(node),
            Event::Orphaned { actor } => {
                if !self.actors[actor].guard_hurt && self.judge.is_alive(Owner::Ours(actor)) {
                    self.judge.find(self.now, Violation::SurvivedKill, format!("{actor}"));
                }
            }
            Event::HealAll => self.heal_all(),
        }
    }

    fn restart(&mut self, node: usize) {
        if self.nodes[node].frozen.is_some() {
            let later = self.random.millis(100.0, 3000.0);
            return self.after(later, Event::Restart { node });
        }
        if self.nodes[node].actor.is_some() || self.nodes[node].go.as_ref().is_some_and(|go| !go.down) {
            return;
        }
        let at = self.clocks(node);
        let life = self.nodes[node].go.as_ref().map_or(0, |go| go.life) + 1;
        match self.plan.nodes[node].kind.clone() {
            Kind::Ours(mut settings, guard) => {
                settings.election.seed = self.random.next();
                let twin = settings.election.identity == "twin";
                if !twin && self.random.chance(0.6) {
                    settings.election.identity = format!("node-{node}-{}", self.actors.len());
                }
                if self.healed {
                    settings.election.wait = None;
                }
                let actor = Actor::new(node, *settings, guard, at);
                self.nodes[node].actor = Some(self.actors.len());
                self.actors.push(actor);
                self.give_main(self.actors.len() - 1, ToMain::Tick);
            }
            Kind::ClientGo(identity, lease) => {
                let peer = Peer::new(format!("{identity}-{life}"), lease);
                let (request, generation) = (0, 0);
                let inbox = Vec::new();
                let go = Go { peer, life, request, generation, committed: ZERO, down: false, inbox };
                self.nodes[node].go = Some(go);
                self.peer(node, None);
            }
        }
        self.nodes[node].crashed = false;
    }

    /// A contender is started again some time after its end.
    pub fn restart_later(&mut self, node: usize) {
        self.nodes[node].actor = None;
        if self.plan.restarts || self.healed {
            let after = self.random.spread(0.3, 5.0) + if self.plan.restarts { ZERO } else { RECREATED };
            self.after(after, Event::Restart { node });
        }
    }

    // The main process.

    fn give_main(&mut self, actor: usize, input: ToMain) {
        let frozen = self.nodes[self.actors[actor].node].frozen.is_some();
        let a = &mut self.actors[actor];
        if !a.main.alive {
            if a.releaser.is_some() && frozen {
                let later = self.random.millis(10.0, 300.0);
                self.after(later, Event::Main { actor, input });
            } else if a.releaser.is_some() {
                self.releaser_takes(actor, input);
            }
            return;
        }
        if a.main.paused || frozen || !a.main_backlog.is_empty() {
            a.main_inbox.push(input);
            return;
        }
        self.main_takes(actor, input);
    }

    fn main_takes(&mut self, actor: usize, input: ToMain) {
        let node = self.actors[actor].node;
        let now = self.clocks(node);
        let a = &mut self.actors[actor];
        let event = match input {
            ToMain::Tick => contender::Event::Tick,
            ToMain::Guard(said) => contender::Event::Guard(said),
            ToMain::GuardGone => contender::Event::GuardGone,
            ToMain::Alone => contender::Event::Alone,
            ToMain::Signal(signal) => contender::Event::Signal(signal),
            ToMain::Answer(id, answer) => match a.answered(id, &answer, (now.at, self.now)) {
                true => contender::Event::Answer(id, answer),
                false => return,
            },
            ToMain::Timeout(id) => match a.timed_out(id, (now.at, self.now)) {
                true => contender::Event::Answer(id, Err(Failure::Timeout)),
                false => return,
            },
            ToMain::Change(stream, change) => {
                if a.watch.as_ref().is_none_or(|watch| watch.id != stream) {
                    return;
                }
                match change {
                    Change::Ended(_) => a.watch = None,
                    Change::Seen(ref seen) => {
                        a.seen = true;
                        a.saw(Some(seen));
                    }
                    _ => {}
                }
                contender::Event::Change(change)
            }
        };
        a.main_backlog.extend(a.contender.step(now, event));
        self.main_acts(actor);
        self.check_leadership(actor);
    }

    /// Carries out what the contender wants, as far as it is let.
    fn main_acts(&mut self, actor: usize) {
        while !self.actors[actor].main_backlog.is_empty() {
            let node = self.actors[actor].node;
            self.count(node);
            if self.actors[actor].main_stands() || self.nodes[node].frozen.is_some() {
                return;
            }
            let Some(action) = self.actors[actor].main_backlog.pop_front() else {
                return;
            };
            if self.trace {
                println!("{:9.4}   main {actor}: {action:?}", self.now.as_secs_f64());
            }
            self.main_act(actor, action);
        }
        if self.actors[actor].main.alive {
            self.set_main_alarm(actor);
        }
    }

    fn set_main_alarm(&mut self, actor: usize) {
        let node = self.actors[actor].node;
        let now = self.clocks(node);
        let a = &mut self.actors[actor];
        a.main_alarm += 1;
        let generation = a.main_alarm;
        let Some(left) = a.contender.wake(now) else {
            return;
        };
        a.spins = if left.is_zero() { a.spins + 1 } else { 0 };
        if a.spins > 1000 {
            let who = format!("{:?}", a.contender);
            self.judge.find(self.now, Violation::Spins, who);
        }
        let left = self.real(node, left);
        self.after(left, Event::MainAlarm { actor, generation });
    }

    pub fn send(&mut self, actor: usize, out: Out, request: Request, limit: Duration) {
        let node = self.actors[actor].node;
        let id = out.id;
        self.actors[actor].out.push(out);
        let limit = self.real(node, limit);
        self.after(limit, Event::Main { actor, input: ToMain::Timeout(id) });
        self.ask(node, Asker::Ours { actor, id }, request);
    }

    /// A request sets out; what becomes of it is decided here.
    fn ask(&mut self, node: usize, from: Asker, request: Request) {
        let there = self.latency(node);
        let back = self.latency(node);
        let random = &mut self.random;
        let error = (self.nodes[node].errors && random.chance(0.6)).then(|| match random.below(5) {
            0 => Failure::Busy("429".into()),
            1 => Failure::Refused(request.verb(), "403".into()),
            2 => Failure::Conflict,
            _ => Failure::Unclear("500".into()),
        });
        if self.nodes[node].requests_lost {
            return;
        }
        let answered = !self.nodes[node].answers_lost;
        if self.random.chance(0.01) {
            // Sent twice on its way; the second one is not answered.
            let (again, error) = (there + self.random.millis(0.0, 3000.0), error.clone());
            let twice = Event::Arrive { from, request: request.clone(), answered: false, back, error };
            self.after(again, twice);
        }
        self.after(there, Event::Arrive { from, request, answered, back, error });
    }

    fn latency(&mut self, node: usize) -> Duration {
        let slow = self.nodes[node].slow;
        if slow.is_zero() || self.random.chance(0.2) {
            return self.random.spread(0.0005, 0.03);
        }
        slow.mul_f64(self.random.unit())
    }

    fn arrive(&mut self, from: Asker, request: &Request, answered: bool, back: Duration, error: Option<Failure>) {
        let refused = match &error {
            Some(Failure::Busy(_) | Failure::Refused(..)) => true,
            // Before it is carried out, or after it.
            Some(_) => matches!(request, Request::Get) || self.random.chance(0.5),
            None => false,
        };
        let before = self.store.object().map(|object| object.record.clone());
        let answer = if refused { None } else { Some(self.store.apply(self.now, request)) };
        if let Some(Ok(Reply::Written(_))) = &answer {
            self.check_terms(from, before);
            self.committed(from);
            self.show_changes();
        }
        let node = match from {
            Asker::Ours { actor, .. } => self.actors[actor].node,
            Asker::ClientGo { node, .. } => node,
        };
        if !answered || self.nodes[node].answers_lost {
            return;
        }
        let answer = match (error, answer) {
            // A get is never a conflict.
            (Some(Failure::Conflict), None) if matches!(request, Request::Get) => Err(Failure::Unclear("500".into())),
            (Some(error), _) => Err(error),
            (None, Some(answer)) => answer,
            (None, None) => return,
        };
        let event = match from {
            Asker::Ours { actor, id } => Event::Main { actor, input: ToMain::Answer(id, answer) },
            Asker::ClientGo { node, life, id } => Event::PeerAnswer { node, life, id, answer },
        };
        self.after(back, event);
    }

    // Watches.

    /// Opens a watch from this version on.
    pub fn watch(&mut self, actor: usize, from: Option<leader_run::lock::request::Version>) {
        self.streams += 1;
        let id = self.streams;
        let node = self.actors[actor].node;
        let lost = self.nodes[node].requests_lost || self.nodes[node].answers_lost;
        let latency = self.latency(node);
        let first = self.now + latency;
        self.actors[actor].watch = Some(Stream { id, silent: lost, last: first });
        let ended = match self.nodes[node].watch {
            false => Some(Some(Failure::Refused(Verb::Watch, "403".into()))),
            true if lost && self.random.chance(0.5) => Some(Some(Failure::Unclear("unreachable".into()))),
            true => None,
        };
        if let Some(ended) = ended {
            let input = ToMain::Change(id, Change::Ended(ended));
            return self.after(latency, Event::Main { actor, input });
        }
        self.show(actor, Change::Alive);
        let from = from.map(|version| version.revision.parse::<u64>().unwrap_or(0));
        match from {
            None => {
                if let Some(object) = self.store.object().cloned() {
                    self.show(actor, Change::Seen(object));
                }
            }
            Some(from) => {
                let missed: Vec<_> =
                    self.store.changes.iter().rev().take_while(|(revision, ..)| *revision > from).collect();
                let missed: Vec<_> = missed.into_iter().rev().map(|(.., change)| change.clone()).collect();
                for change in missed {
                    self.show(actor, change);
                }
            }
        }
    }

    fn show_changes(&mut self) {
        let Some((.., change)) = self.store.changes.last().cloned() else {
            return;
        };
        for actor in 0..self.actors.len() {
            if self.actors[actor].main.alive {
                self.show(actor, change.clone());
            }
        }
    }

    /// An event sets out on an actor's watch; events never overtake each other.
    fn show(&mut self, actor: usize, change: Change) {
        let node = self.actors[actor].node;
        let latency = self.latency(node);
        let lost = self.nodes[node].requests_lost || self.nodes[node].answers_lost;
        let now = self.now;
        let Some(watch) = &mut self.actors[actor].watch else {
            return;
        };
        watch.silent |= lost;
        if watch.silent {
            return;
        }
        watch.last = watch.last.max(now + latency) + Duration::from_nanos(1);
        let (id, after) = (watch.id, watch.last - now);
        self.after(after, Event::Main { actor, input: ToMain::Change(id, change) });
    }

    // The guard and its tree.

    pub fn guard_late(&mut self) -> Duration {
        let late = if self.random.chance(0.05) { GUARD_LATE } else { Duration::from_millis(2) };
        late.mul_f64(self.random.unit())
    }

    /// One turn of the guard's loop: all messages, then what has become of its children, then the clock.
    fn guard_runs(&mut self, actor: usize) {
        let node = self.actors[actor].node;
        if self.actors[actor].guard_stands() || self.nodes[node].frozen.is_some() {
            self.actors[actor].guard_woken = true;
            return;
        }
        self.guard_acts(actor);
        while !self.actors[actor].guard_stands() && !self.actors[actor].guard_inbox.is_empty() {
            let message = self.actors[actor].guard_inbox.remove(0);
            self.guard_takes(actor, Process::Message(message));
        }
        if self.actors[actor].guard_stands() {
            // What it has not reaped by now it finds later.
            self.actors[actor].guard_woken = true;
            return;
        }
        if let Some(news) = self.actors[actor].start_news.take() {
            self.guard_takes(actor, news);
        }
        if self.actors[actor].guard_stands() {
            self.actors[actor].guard_woken = true;
            return;
        }
        if let Some(news) = self.actors[actor].reaped() {
            self.guard_takes(actor, news);
        }
        let closed = !self.actors[actor].main.alive;
        if closed {
            self.guard_takes(actor, Process::Dead);
        }
        self.guard_takes(actor, if closed { Process::Closed } else { Process::Tick });
        self.guard_plans(actor);
    }

    fn guard_takes(&mut self, actor: usize, input: Process) {
        if self.actors[actor].guard_stands() {
            return;
        }
        let now = self.clocks(self.actors[actor].node);
        self.actors[actor].core.step(now.at, input.into());
        self.guard_acts(actor);
    }

    fn guard_acts(&mut self, actor: usize) {
        loop {
            let node = self.actors[actor].node;
            if self.actors[actor].guard_stands() || self.nodes[node].frozen.is_some() {
                return;
            }
            let Some(output) = self.actors[actor].core.next_output() else {
                return;
            };
            if self.trace {
                println!("{:9.4}   guard {actor}: {output:?}", self.now.as_secs_f64());
            }
            self.guard_act(actor, output);
            self.count(node);
        }
    }

    /// Sets the guard's alarm, or kills.
    fn guard_plans(&mut self, actor: usize) {
        let a = &mut self.actors[actor];
        a.guard_alarm += 1;
        let generation = a.guard_alarm;
        if a.guard_stands() {
            return;
        }
        if a.core.is_killing() {
            if a.tree.is_some() {
                self.kill(actor, false);
            }
            let soon = Duration::from_millis(20);
            return self.after(soon, Event::GuardAlarm { actor, generation });
        }
        let now = self.clocks(self.actors[actor].node);
        if let Some(left) = self.actors[actor].core.wake(now.at) {
            let left = self.real(self.actors[actor].node, left) + self.guard_late();
            self.after(left, Event::GuardAlarm { actor, generation });
        }
    }

    pub fn kill(&mut self, actor: usize, by_main: bool) {
        let Some(tree) = &mut self.actors[actor].tree else {
            return;
        };
        if !std::mem::replace(&mut tree.killing, true) {
            let term = tree.term;
            let takes = KILL_TIME.mul_f64(self.random.unit());
            self.after(takes, Event::Killed { actor, term, by_main });
        }
    }

    fn killed(&mut self, actor: usize, term: u64, by_main: bool) {
        let node = self.actors[actor].node;
        let frozen = self.nodes[node].frozen.is_some();
        let a = &mut self.actors[actor];
        let Some(tree) = a.tree.as_mut().filter(|tree| tree.term == term) else {
            return;
        };
        tree.killing = false;
        let stands = if by_main { a.main.paused || !a.main.alive } else { a.guard_stands() };
        if frozen || stands {
            // Whoever kills goes on when it goes on itself.
            return;
        }
        let a = &mut self.actors[actor];
        a.starting = None;
        if let Some(tree) = &mut a.tree {
            (tree.child, tree.others) = (false, false);
        }
        self.tree_changed(actor);
    }

    fn child_ends(&mut self, actor: usize, term: u64) {
        if self.nodes[self.actors[actor].node].frozen.is_some() {
            return self.after(Duration::from_secs(1), Event::ChildEnds { actor, term });
        }
        if let Some(tree) = self.actors[actor].tree.as_mut().filter(|tree| tree.term == term && tree.child) {
            tree.child = false;
            tree.others = tree.leaves;
            self.actors[actor].starting = None;
            self.tree_changed(actor);
        }
    }

    fn others_end(&mut self, actor: usize, term: u64) {
        if self.nodes[self.actors[actor].node].frozen.is_some() {
            return self.after(Duration::from_secs(1), Event::OthersEnd { actor, term });
        }
        if let Some(tree) = self.actors[actor].tree.as_mut().filter(|tree| tree.term == term && !tree.child) {
            tree.others = false;
            self.tree_changed(actor);
        }
    }

    /// Something of the tree has ended: its guard is told, or leader-run where the guard is dead.
    pub fn tree_changed(&mut self, actor: usize) {
        let a = &mut self.actors[actor];
        let gone = a.tree.as_ref().is_some_and(|tree| !tree.child && !tree.others);
        if gone {
            self.judge.ended(self.now, Owner::Ours(actor));
        }
        let late = self.guard_late();
        let a = &mut self.actors[actor];
        if a.guard.alive {
            self.after(late, Event::Guard { actor, input: None });
        } else if gone {
            a.tree = None;
            if a.main_kills {
                self.after(late, Event::Main { actor, input: ToMain::Alone });
            }
        }
    }

    /// The machine of this actor is gone, or whatever else lets nothing of it live on.
    pub fn perish(&mut self, actor: usize) {
        let a = &mut self.actors[actor];
        (a.main.alive, a.guard.alive, a.tree, a.releaser) = (false, false, None, None);
        (a.starting, a.start_news) = (None, None);
        self.judge.ended(self.now, Owner::Ours(actor));
    }

    // client-go.

    /// A term that another one has followed never comes back; unless a wipe has had others count from 0 again, so that
    /// the lock was released with the very transitions of that term.
    fn check_terms(&mut self, from: Asker, before: Option<Record>) {
        let Some(record) = self.store.object().map(|object| &object.record).filter(|record| !record.is_free()) else {
            return;
        };
        let term = (record.holder.clone(), record.acquire_time.clone());
        if self.terms.last() == Some(&term) {
            return;
        }
        let unknowable = before.is_some_and(|before| before.is_free() && before.transitions == record.transitions);
        if self.terms.contains(&term) && !unknowable {
            self.judge.find(self.now, Violation::CameBack, format!("{from:?}: {term:?}"));
        }
        self.terms.push(term);
    }

    fn committed(&mut self, from: Asker) {
        if let Asker::ClientGo { node, .. } = from
            && let Some(go) = &mut self.nodes[node].go
        {
            go.committed = self.now;
            let until = self.now + go.peer.lease.div_f64(1.0 + RATE_ERROR);
            self.judge.renewed(Owner::ClientGo(node), until);
        }
    }

    fn peer_answered(&mut self, event: Event) {
        let Event::PeerAnswer { node, life, id, .. } = &event else {
            return;
        };
        let node = *node;
        let frozen = self.nodes[node].frozen.is_some();
        let Some(go) = self.nodes[node].go.as_mut().filter(|go| go.life == *life && go.request == *id) else {
            return;
        };
        if frozen {
            return go.inbox.push(event);
        }
        if let Event::PeerAnswer { answer, .. } = event {
            self.peer(node, Some(answer));
        }
    }

    fn peer(&mut self, node: usize, answer: Option<Result<Reply, Failure>>) {
        let now = self.clocks(node);
        if self.nodes[node].frozen.is_some() {
            return;
        }
        let mut random = self.random.clone();
        let Some(go) = self.nodes[node].go.as_mut().filter(|go| !go.down) else {
            return;
        };
        let does = match answer {
            Some(answer) => go.peer.answered(now, answer, &mut random),
            None => go.peer.tick(now),
        };
        self.random = random;
        for does in does {
            self.peer_does(node, does);
        }
        let Some(go) = self.nodes[node].go.as_mut().filter(|go| !go.down) else {
            return;
        };
        go.generation += 1;
        let (generation, wake) = (go.generation, go.peer.wake(now));
        if let Some(left) = wake {
            let left = self.real(node, left);
            self.after(left, Event::PeerAlarm { node, generation });
        }
    }

    fn peer_does(&mut self, node: usize, does: Does) {
        if self.trace {
            println!("{:9.4}   client-go {node}: {does:?}", self.now.as_secs_f64());
        }
        let Some(go) = &mut self.nodes[node].go else {
            return;
        };
        match does {
            Does::Send(request) => {
                go.request += 1;
                let (life, id) = (go.life, go.request);
                let timeout = self.real(node, (self.nodes[node].go.as_ref().map_or(ZERO, |go| go.peer.deadline)) / 2);
                let answer = Err(Failure::Timeout);
                self.after(timeout, Event::PeerAnswer { node, life, id, answer });
                self.ask(node, Asker::ClientGo { node, life, id }, request);
            }
            Does::Lead => {
                let until = go.committed + go.peer.lease.div_f64(1.0 + RATE_ERROR);
                // It never looks at a clock before it begins.
                self.judge.started(self.now, Owner::ClientGo(node), node, ZERO, &self.nodes);
                self.judge.renewed(Owner::ClientGo(node), until);
            }
            Does::GiveUp => {
                self.judge.ended(self.now, Owner::ClientGo(node));
                go.down = true;
                self.restart_later(node);
            }
        }
    }

    /// Asked to stop: its work ends, then it gives the lock back.
    fn stop_peer(&mut self, node: usize, release: bool) {
        let now = self.clocks(node);
        let Some(go) = self.nodes[node].go.as_mut().filter(|go| !go.down) else {
            return;
        };
        go.down = true;
        let (life, id) = (go.life, u64::MAX);
        let request = go.peer.release(now).filter(|_| release);
        self.judge.ended(self.now, Owner::ClientGo(node));
        if let Some(request) = request {
            self.ask(node, Asker::ClientGo { node, life, id }, request);
        }
        self.restart_later(node);
    }

    // Faults.

    /// Counts what a node does, for the faults that wait for it.
    pub fn count(&mut self, node: usize) {
        self.nodes[node].actions += 1;
        let actions = self.nodes[node].actions;
        while let Some(index) = self.triggers.iter().position(|(n, at, _)| *n == node && *at <= actions) {
            let (.., fault) = self.triggers.swap_remove(index);
            if !self.healed {
                if self.trace {
                    println!("{:9.4} at action {actions} of node {node}: {fault:?}", self.now.as_secs_f64());
                }
                self.fault(fault);
            }
        }
    }

    fn heal_later(&mut self, node: usize, span: Duration, what: impl FnOnce(u64) -> Healing) {
        self.nodes[node].faults += 1;
        let what = what(self.nodes[node].faults);
        self.after(span, Event::Heal { node, what });
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Partition { node, requests, answers, span } => {
                (self.nodes[node].requests_lost, self.nodes[node].answers_lost) = (requests, answers);
                self.heal_later(node, span, |_| Healing::Partition);
            }
            Fault::Slow { node, up_to, span } => {
                self.nodes[node].slow = up_to;
                self.heal_later(node, span, |_| Healing::Slow);
            }
            Fault::Errors { node, span } => {
                self.nodes[node].errors = true;
                self.heal_later(node, span, |_| Healing::Errors);
            }
            Fault::Freeze { node, suspend, span } => {
                if self.nodes[node].frozen.is_none() && !self.nodes[node].crashed {
                    self.nodes[node].frozen = Some((self.now, suspend));
                    self.nodes[node].froze = Some(self.now);
                    self.judge.froze(self.now, node);
                    for actor in self.actors.iter_mut().filter(|actor| actor.node == node) {
                        actor.guard_hurt = true;
                    }
                    self.heal_later(node, span, |_| Healing::Freeze);
                }
            }
            Fault::Crash { node } => self.crash(node),
            Fault::Wall { node, by } => self.nodes[node].wall += by,
            Fault::Label => {
                self.store.touch(self.now);
                self.show_changes();
            }
            Fault::Wipe => {
                self.store.wipe(self.now);
                self.judge.edited = Some(self.now);
                self.show_changes();
            }
            Fault::Delete => {
                // Once, and when everybody has seen it held: who has not, or decided before it was there, may
                // create it at once, which is why nobody is to delete it by hand.
                let knows = |node: &Node| node.actor.is_some_and(|actor| self.actors[actor].seen);
                if !self.deleted && self.nodes.iter().all(knows) {
                    self.deleted = true;
                    self.store.delete(self.now);
                    self.show_changes();
                }
            }
            Fault::PauseMain { node, .. }
            | Fault::PauseGuard { node, .. }
            | Fault::PauseBoth { node, .. }
            | Fault::KillMain { node }
            | Fault::KillGuard { node }
            | Fault::Signal { node, .. }
            | Fault::BreakWatch { node, .. } => match self.nodes[node].actor {
                Some(actor) => self.process_fault(node, actor, fault),
                None if self.nodes[node].frozen.is_some() => {}
                None => match fault {
                    Fault::KillMain { .. } => self.stop_peer(node, false),
                    Fault::Signal { .. } => self.stop_peer(node, true),
                    _ => {}
                },
            },
        }
    }

    /// Within bounds leader-run and its guard are never both unable to act.
    fn process_fault(&mut self, node: usize, actor: usize, fault: Fault) {
        let beyond = self.bounds == Bounds::Beyond;
        let a = &self.actors[actor];
        let main_well = a.main.alive && !a.main.paused;
        let guard_well = a.guard.alive && !a.guard.paused;
        let alone = !a.guard.alive && a.tree.is_some();
        match fault {
            Fault::PauseMain { span, .. } if main_well && (guard_well || beyond) => self.pause_main(node, actor, span),
            Fault::PauseGuard { span, .. } if guard_well && main_well => self.pause_guard(node, actor, span),
            Fault::PauseBoth { span, .. } if guard_well && main_well => {
                self.pause_main(node, actor, span);
                self.pause_guard(node, actor, span);
            }
            Fault::KillMain { .. } if a.main.alive && guard_well && !alone => self.kill_main(actor),
            Fault::KillGuard { .. } if a.guard.alive && main_well => self.kill_guard(actor),
            Fault::Signal { signal, .. } => self.give_main(actor, ToMain::Signal(signal)),
            Fault::BreakWatch { silently, .. } => {
                let Some(watch) = &mut self.actors[actor].watch else {
                    return;
                };
                watch.silent = true;
                let id = watch.id;
                if !silently {
                    let failure = self.random.chance(0.5).then(|| Failure::Unclear("broken".into()));
                    self.give_main(actor, ToMain::Change(id, Change::Ended(failure)));
                }
            }
            _ => {}
        }
    }

    fn pause_main(&mut self, node: usize, actor: usize, span: Duration) {
        self.actors[actor].main.paused = true;
        self.heal_later(node, span, |pause| Healing::Main { actor, pause });
        self.actors[actor].main.pause = self.nodes[node].faults;
    }

    fn pause_guard(&mut self, node: usize, actor: usize, span: Duration) {
        self.actors[actor].guard.paused = true;
        self.actors[actor].guard_hurt = true;
        self.heal_later(node, span, |pause| Healing::Guard { actor, pause });
        self.actors[actor].guard.pause = self.nodes[node].faults;
    }

    fn kill_main(&mut self, actor: usize) {
        let a = &mut self.actors[actor];
        a.main.alive = false;
        a.watch = None;
        let node = a.node;
        let late = self.guard_late();
        self.after(late, Event::Guard { actor, input: None });
        self.after((GUARD_LATE + KILL_TIME) * 2, Event::Orphaned { actor });
        self.restart_later(node);
    }

    fn kill_guard(&mut self, actor: usize) {
        let a = &mut self.actors[actor];
        a.guard.alive = false;
        a.guard_hurt = true;
        // The child is killed by the kernel; what it has started lives on, below leader-run.
        if let Some(tree) = &mut a.tree {
            tree.others |= tree.child && tree.leaves;
            tree.child = false;
        }
        a.starting = None;
        self.tree_changed(actor);
        let late = self.random.millis(0.0, 5.0);
        self.after(late, Event::Main { actor, input: ToMain::GuardGone });
    }

    fn crash(&mut self, node: usize) {
        if self.nodes[node].crashed {
            return;
        }
        self.nodes[node].crashed = true;
        for actor in 0..self.actors.len() {
            if self.actors[actor].node == node {
                self.perish(actor);
            }
        }
        self.judge.ended(self.now, Owner::ClientGo(node));
        let frozen = self.nodes[node].frozen.take();
        if let Some((since, true)) = frozen {
            self.nodes[node].suspended += self.now - since;
        }
        if let Some(go) = &mut self.nodes[node].go {
            go.down = true;
        }
        self.restart_later(node);
    }

    fn heal(&mut self, node: usize, what: Healing) {
        match what {
            Healing::Partition => {
                (self.nodes[node].requests_lost, self.nodes[node].answers_lost) = (false, false);
            }
            Healing::Slow => self.nodes[node].slow = ZERO,
            Healing::Errors => self.nodes[node].errors = false,
            Healing::Main { actor, pause } => {
                if self.actors[actor].main.pause == pause {
                    self.actors[actor].main.paused = false;
                    self.actors[actor].main.went_on = Some(self.now);
                    self.main_goes_on(actor);
                }
            }
            Healing::Guard { actor, pause } => {
                if self.actors[actor].guard.pause == pause {
                    self.actors[actor].guard.paused = false;
                    self.guard_goes_on(actor);
                }
            }
            Healing::Freeze => self.thaw(node),
        }
    }

    fn main_goes_on(&mut self, actor: usize) {
        let node = self.actors[actor].node;
        if self.actors[actor].main_stands() || self.nodes[node].frozen.is_some() {
            return;
        }
        self.main_acts(actor);
        // What waits is taken in the order in which the loop looks at it.
        let mut inbox = std::mem::take(&mut self.actors[actor].main_inbox);
        inbox.sort_by_key(ToMain::rank);
        inbox.push(ToMain::Tick);
        for input in inbox {
            self.give_main(actor, input);
        }
        if self.actors[actor].main_kills {
            self.kill(actor, true);
        }
    }

    fn guard_goes_on(&mut self, actor: usize) {
        if std::mem::take(&mut self.actors[actor].guard_woken) || self.actors[actor].tree.is_some() {
            let late = self.guard_late();
            self.after(late, Event::Guard { actor, input: None });
        }
    }

    fn thaw(&mut self, node: usize) {
        let Some((since, suspend)) = self.nodes[node].frozen.take() else {
            return;
        };
        if suspend {
            self.nodes[node].suspended += self.now - since;
        }
        self.nodes[node].thawed = Some(self.now);
        self.judge.thawed(self.now, node, &self.nodes);
        for actor in 0..self.actors.len() {
            if self.actors[actor].node == node {
                self.main_goes_on(actor);
                self.guard_goes_on(actor);
                if self.actors[actor].starting.as_mut().is_some_and(|starting| std::mem::take(&mut starting.woken)) {
                    self.child_goes_on(actor);
                }
            }
        }
        let inbox = self.nodes[node].go.as_mut().map(|go| std::mem::take(&mut go.inbox)).unwrap_or_default();
        for event in inbox {
            self.happen(event);
        }
        self.peer(node, None);
    }

    /// Everything is well from now on.
    fn heal_all(&mut self) {
        self.healed = true;
        for node in 0..self.nodes.len() {
            let n = &mut self.nodes[node];
            (n.requests_lost, n.answers_lost, n.slow, n.errors) = (false, false, ZERO, false);
            self.thaw(node);
        }
        for actor in 0..self.actors.len() {
            if std::mem::take(&mut self.actors[actor].main.paused) {
                self.actors[actor].main.went_on = Some(self.now);
                self.main_goes_on(actor);
            }
            if std::mem::take(&mut self.actors[actor].guard.paused) {
                self.guard_goes_on(actor);
            }
        }
        if !self.plan.restarts {
            for node in 0..self.nodes.len() {
                if self.nodes[node].actor.is_none() && self.nodes[node].go.is_none() {
                    self.after(RECREATED, Event::Restart { node });
                }
            }
        }
    }

    /// Whether children may end by themselves: not when the end of the history is near.
    pub fn child_may_end(&mut self) -> bool {
        self.plan.children_end && !self.healed && self.random.chance(0.5)
    }

    pub fn is_frozen(&self, node: usize) -> bool {
        self.nodes[node].frozen.is_some()
    }

    pub fn is_healed(&self) -> bool {
        self.healed
    }
}
