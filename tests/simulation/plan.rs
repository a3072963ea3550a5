//! What a history is made of: who takes part, with which settings and clocks, and what goes wrong when.

use crate::random::Random;
use leader_run::election::contender;
use leader_run::election::elector;
use leader_run::guard::core;
use leader_run::lock::record::Precision;
use std::time::Duration;

pub const STEP_DOWN: i32 = 10;
pub const TERM: i32 = 15;

/// How far things may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// Within the stated conditions: no two trees of ours may be alive at once.
    Within,
    /// Clock rates are off by too much, and leader-run and its guard are stopped together: overlaps are to be
    /// expected, and to be reported.
    Beyond,
}

/// Within bounds, a guard gets the CPU this late at most...
pub const GUARD_LATE: Duration = Duration::from_millis(150);
/// ...and a tree is dead this long after it is killed.
pub const KILL_TIME: Duration = Duration::from_millis(50);
/// Within bounds, a clock runs this much faster or slower than real time at most.
pub const RATE_ERROR: f64 = 0.025;

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// What a node sends is lost, or what it is answered, or both.
    Partition {
        node: usize,
        requests: bool,
        answers: bool,
        span: Duration,
    },
    /// Requests and answers take up to so long.
    Slow {
        node: usize,
        up_to: Duration,
        span: Duration,
    },
    /// The API server answers with errors: 429, 403, 500 before or after the commit.
    Errors {
        node: usize,
        span: Duration,
    },
    PauseMain {
        node: usize,
        span: Duration,
    },
    PauseGuard {
        node: usize,
        span: Duration,
    },
    /// Both of them, but not the child.
    PauseBoth {
        node: usize,
        span: Duration,
    },
    /// The whole node stands still, its children too: frozen, or suspended.
    Freeze {
        node: usize,
        suspend: bool,
        span: Duration,
    },
    KillMain {
        node: usize,
    },
    KillGuard {
        node: usize,
    },
    Crash {
        node: usize,
    },
    Signal {
        node: usize,
        signal: i32,
    },
    /// The wall clock is set, by so many microseconds.
    Wall {
        node: usize,
        by: i64,
    },
    BreakWatch {
        node: usize,
        silently: bool,
    },
    Label,
    Delete,
    /// The record is replaced by an empty one.
    Wipe,
}

/// When a fault happens.
#[derive(Clone, Copy, Debug)]
pub enum When {
    At(Duration),
    /// Right before this node's contender or guard does the n-th thing.
    Before {
        node: usize,
        action: u32,
    },
}

/// One machine.
#[derive(Clone, Debug)]
pub struct NodePlan {
    pub rate: f64,
    pub raw_rate: f64,
    pub wall: i64,
    pub kind: Kind,
    /// Whether it may watch the lock.
    pub watch: bool,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Ours(Box<contender::Settings>, core::Settings),
    ClientGo(String, Duration),
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub nodes: Vec<NodePlan>,
    pub faults: Vec<(When, Fault)>,
    /// When the last fault is over.
    pub healed: Duration,
    /// From then on nobody leads for as long as this at the most.
    pub idle: Duration,
    pub end: Duration,
    /// The longest lease.
    pub longest: Duration,
    /// A contender that ended is started again.
    pub restarts: bool,
    /// Some children end by themselves.
    pub children_end: bool,
}

fn settings(random: &mut Random, number: usize, lease: u64, twins: bool) -> contender::Settings {
    let second = Duration::from_secs(1);
    let lease_duration = second * lease as u32;
    let retry_period = (lease_duration * 2 / 15).clamp(second, second * 2);
    let kill = lease_duration - second.max(lease_duration / 10);
    let middle = (retry_period.mul_f64(1.2) + kill) / 2;
    let two_thirds = lease_duration * 2 / 3;
    let mut renew_deadline = if two_thirds < kill { two_thirds } else { middle };
    if random.chance(0.3) {
        let low = retry_period.as_secs_f64() * 1.25;
        renew_deadline = Duration::from_secs_f64(random.between(low, kill.as_secs_f64() - 0.05));
    }
    let longest = kill - renew_deadline;
    let loss_grace = if random.chance(0.7) { longest } else { longest.mul_f64(random.unit()) };
    let identity = if twins { "twin".into() } else { format!("node-{number}") };
    contender::Settings {
        election: elector::Settings {
            identity,
            lease_duration,
            renew_deadline,
            retry_period,
            request_timeout: (renew_deadline / 2).clamp(second, second * 10),
            wait: random.chance(0.1).then(|| random.spread(0.5, 30.0)),
            precision: Precision::Microseconds,
            resume: false,
            complete_watch: true,
            seed: random.next(),
        },
        loss_grace,
        stop_grace: random.spread(0.3, 8.0),
        stop_signal: TERM,
        step_down_signal: Some(STEP_DOWN),
        rejoin: random.chance(0.5),
        lost_exit_code: 75,
        env: Vec::new(),
    }
}

impl Plan {
    pub fn new(random: &mut Random, bounds: Bounds) -> Plan {
        let error = if bounds == Bounds::Beyond { 0.15 } else { RATE_ERROR };
        let lease = random.pick(&[3, 3, 6, 6, 10, 15, 20]);
        let mixed = random.chance(0.1);
        // A lock that is deleted is safe as long as everybody has seen it held, for how long, and waits.
        let deletes = random.chance(0.15);
        let mixed = mixed && !deletes;
        let twins = random.chance(0.1);
        let ours = 2 + random.below(3);
        let peers = if deletes || !random.chance(0.3) { 0 } else { 1 + random.below(2) };
        let mut nodes = Vec::new();
        let mut longest = 0;
        for number in 0..ours + peers {
            let lease = if mixed { random.pick(&[3, 6, 10, 15, 20]) } else { lease };
            longest = longest.max(lease);
            let extreme = random.chance(0.5);
            let mut rate = || 1.0 + if extreme { random.pick(&[-error, error]) } else { random.between(-error, error) };
            let (rate, raw_rate) = (rate(), rate());
            let kind = if number < ours {
                let mut settings = settings(random, number, lease, twins);
                if deletes {
                    settings.election.wait = None;
                }
                let crash_release = !settings.election.seed.is_multiple_of(4);
                let guard = core::Settings { stop_signal: TERM, wait_all: random.chance(0.3), crash_release };
                Kind::Ours(Box::new(settings), guard)
            } else {
                Kind::ClientGo(format!("go-{number}"), Duration::from_secs(lease))
            };
            let wall = if random.chance(0.5) { 0 } else { (random.between(-4e9, 4e9)) as i64 };
            nodes.push(NodePlan { rate, raw_rate, wall, kind, watch: random.chance(0.8) });
        }
        let healed = Duration::from_secs(20 + 3 * longest);
        let idle = Duration::from_secs(26 + longest + longest / 3);
        let (restarts, children_end) = (!deletes, random.chance(0.5));
        let (end, longest) = (healed + idle, Duration::from_secs(longest));
        let mut plan = Plan { nodes, faults: Vec::new(), healed, idle, end, longest, restarts, children_end };
        plan.add_faults(random, bounds, deletes);
        if !deletes && peers == 0 {
            plan.add_wipes(Random::new(random.clone().next()));
        }
        plan
    }

    fn add_faults(&mut self, random: &mut Random, bounds: Bounds, deletes: bool) {
        let pace = random.spread(0.8, 15.0).as_secs_f64();
        let healed = self.healed.as_secs_f64();
        // Some histories have one kind of fault only, so that no other one hides what it does.
        let only = random.chance(0.4).then(|| random.below(16));
        let mut at = 0.0;
        while at < healed {
            at -= (1.0 - random.unit()).ln() * pace;
            let kind = only.unwrap_or_else(|| random.below(16));
            let fault = self.fault(random, kind, bounds, deletes);
            let when = if random.chance(0.3) {
                When::Before { node: random.below(self.nodes.len()), action: 1 + random.below(120) as u32 }
            } else {
                When::At(Duration::from_secs_f64(at.min(healed)))
            };
            if let Some(fault) = fault {
                self.faults.push((when, fault));
            }
        }
    }

    /// In some histories somebody wipes the record, mostly twice: the second time is within a renewal interval of a
    /// leader that has not seen the first.
    fn add_wipes(&mut self, mut random: Random) {
        if !random.chance(0.15) {
            return;
        }
        let mut at = random.between(3.0, 20.0);
        while at < self.healed.as_secs_f64() {
            self.faults.push((When::At(Duration::from_secs_f64(at)), Fault::Wipe));
            at += if random.chance(0.5) { random.between(0.06, 1.5) } else { random.between(1.0, 30.0) };
        }
    }

    fn fault(&self, random: &mut Random, kind: usize, bounds: Bounds, deletes: bool) -> Option<Fault> {
        let node = random.below(self.nodes.len());
        let span = random.spread(0.05, 40.0);
        Some(match kind {
            0 => Fault::Partition { node, requests: true, answers: true, span },
            1 => Fault::Partition { node, requests: false, answers: true, span },
            2 => Fault::Partition { node, requests: true, answers: false, span },
            3 => Fault::Slow { node, up_to: random.spread(0.05, 12.0), span },
            4 => Fault::Errors { node, span },
            5 => Fault::PauseMain { node, span },
            6 if bounds == Bounds::Beyond && random.chance(0.5) => Fault::PauseBoth { node, span },
            6 => Fault::PauseGuard { node, span },
            7 => Fault::Freeze { node, suspend: random.chance(0.5), span },
            8 if !deletes => Fault::KillMain { node },
            9 if !deletes => Fault::KillGuard { node },
            10 if !deletes => Fault::Crash { node },
            11 if !deletes => Fault::Signal { node, signal: random.pick(&[TERM, 2, STEP_DOWN, STEP_DOWN]) },
            12 => Fault::Wall { node, by: random.pick(&[-3_600_000_000, 3_600_000_000, -1_000_000, -2_000_000]) },
            13 => Fault::BreakWatch { node, silently: random.chance(0.5) },
            14 => Fault::Label,
            15 if deletes => Fault::Delete,
            _ => return None,
        })
    }
}
