//! A driver that has many contenders fight over one lock while everything fails that can: in rounds of random
//! faults and healing. No two children may ever meet, and after every healing one of them leads in time.
//!
//! `NEMESIS_SECONDS` says how long it goes on. `NEMESIS_SEED` repeats the choices of a run, as far as time lets it,
//! and `MUTANT` names a mistake that leader-run is to make (`src/mutant.rs`).

use std::{
    env,
    fmt::Write,
    fs,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread::{self, sleep},
    time::{Duration, Instant, SystemTime},
};

use nix::{
    libc::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    faults::{Fault, Matcher, Rule, Seen, refusal},
    proxy::{Proxy, Upstream},
    random::Random,
    support::{Contender, Line, alone, is_alive, leader_run},
};

/// The name of the lock.
pub const LOCK: &str = "nemesis";
/// Of the contenders; they differ in what may differ.
const L: Duration = Duration::from_secs(6);
const OPTIONS: [&[&str]; 5] = [
    &["-v"],
    &["--on-lost", "rejoin", "--step-down-signal", "USR1", "-v"],
    &["--loss-grace", "0s", "--request-timeout", "1s"],
    &["--on-lost", "rejoin", "--step-down-signal", "USR1", "--log-format", "json"],
    &["--renew-deadline", "3s", "--wait", "1h", "-v"],
];
/// L + 2.2 P + 3 s: one leads so long after everything is well again.
const LEADS_WITHIN: Duration = Duration::from_millis(11_200);
/// So long after the last harm every place has a leader-run again.
const WHOLE_WITHIN: Duration = Duration::from_secs(20);
/// So long after leader-run its guard, and with it the tree, is gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at everything.
const NAP: Duration = Duration::from_millis(10);
/// What is told of a failure: what happened so long before it.
const TOLD: Duration = Duration::from_secs(60);
/// What requests are answered with; the first is the answer of something that is no API server.
const STATUSES: [(u16, &str); 9] = [
    (200, "Welcome"),
    (401, "Unauthorized"),
    (403, "Forbidden"),
    (404, "NotFound"),
    (409, "Conflict"),
    (410, "Expired"),
    (429, "TooManyRequests"),
    (500, "InternalError"),
    (503, "Busy"),
];
/// A daemon that ignores what it is asked holds the oracle's descriptor as long as it lives.
const CHILD: &str = "trap : USR1; (setsid bash -c 'trap \"\" TERM HUP USR1; exec 8<<<x 8<>/proc/self/fd/8; while :; do read -t 0.2 <&8; done' &); \
                     trap 'exit 0' TERM; exec 8<<<x 8<>/proc/self/fd/8; echo pid $$; while :; do read -t 0.2 <&8; done";

/// The API server that is fought over.
pub trait Ground: Upstream {
    /// A kubeconfig of a contender who reaches it there.
    fn kubeconfig(&self, url: &str) -> PathBuf;
    /// Who holds the lock; empty when nobody does.
    fn holder(&self) -> String;
    /// Changes something in the lock that is not the record.
    fn label(&self, text: &str);
    /// Stops it, where that can be done.
    fn stop(&self) -> bool;
    /// Starts it again.
    fn listen(&self);
}

/// On each of the grounds at once, has so many contenders fight for so long, unless the environment says otherwise,
/// and says what it came to.
pub fn run(grounds: &[impl Ground + Sync], contenders: usize, time: Duration) {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let time = number("NEMESIS_SECONDS").map_or(time, Duration::from_secs);
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |now| now.as_millis() as u64);
    let seed = number("NEMESIS_SEED").unwrap_or_else(clock);
    println!("nemesis: NEMESIS_SEED={seed}, {} times {contenders} contenders, {} s", grounds.len(), time.as_secs());
    thread::scope(|scope| {
        let one = |(ground, seed)| scope.spawn(move || fight(ground, seed, contenders, time));
        let fights: Vec<_> = grounds.iter().zip(seed..).map(one).collect();
        for fight in fights {
            println!("nemesis: {}", fight.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
    });
}

fn fight(ground: &impl Ground, seed: u64, contenders: usize, time: Duration) -> String {
    let mut nemesis = Nemesis::new(ground, seed, contenders);
    let (mut rounds, mut worst) = (0, Duration::ZERO);
    while nemesis.begun.elapsed() < time {
        nemesis.rage();
        worst = worst.max(nemesis.heal());
        rounds += 1;
    }
    let children: usize = nemesis.nodes.iter().map(|node| node.children + starts(&node.present())).sum();
    assert!(children > 0 && nemesis.faults > 0, "nothing happened");
    format!(
        "NEMESIS_SEED={seed}: {contenders} contenders, {rounds} rounds, {} faults in {:.0} s (and {:.0} s that the \
         machine stood still), {children} children one after the other, at most {:.1} s from healing to a leader",
        nemesis.faults,
        nemesis.clock().as_secs_f64(),
        nemesis.stalled.as_secs_f64(),
        worst.as_secs_f64()
    )
}

struct Nemesis<'a, G: Ground> {
    ground: &'a G,
    seed: u64,
    random: Random,
    begun: Instant,
    folder: TempDir,
    nodes: Vec<Node>,
    history: Vec<Line>,
    faults: usize,
    /// How long the machine did not let us go on.
    stalled: Duration,
    /// When the stopped server starts again.
    server_back: Option<Instant>,
    labels: usize,
}

/// A place where one leader-run after the other runs, behind a proxy of its own.
struct Node {
    number: usize,
    proxy: Proxy,
    kubeconfig: PathBuf,
    /// Counts the processes, so that every one has an identity of its own.
    life: usize,
    contender: Option<Contender>,
    guard: Option<i32>,
    /// Guards of earlier ones, and since when, by the driver's clock, they are alone.
    orphans: Vec<(i32, Duration)>,
    restart_at: Instant,
    /// What the earlier ones said lately, and how many children they had.
    past: Vec<Line>,
    children: usize,
    hurt: Option<Hurt>,
    /// The exit codes that what was done to this life explains.
    excused: Vec<i32>,
    /// The network, and single requests, fail until then.
    sick_until: Option<Instant>,
    rules: Vec<Rule>,
}

/// What is being done to a process of a node: never to both at once.
enum Hurt {
    /// Stopped, to be continued at some time.
    Stopped(i32, Instant),
    /// Killed: until leader-run has ended.
    Killed,
}

impl<'a, G: Ground> Nemesis<'a, G> {
    fn new(ground: &'a G, seed: u64, contenders: usize) -> Self {
        let now = Instant::now();
        let node = |number| {
            let proxy = Proxy::start(ground);
            let kubeconfig = ground.kubeconfig(&proxy.url());
            Node {
                number,
                proxy,
                kubeconfig,
                life: 0,
                contender: None,
                guard: None,
                orphans: Vec::new(),
                restart_at: now,
                past: Vec::new(),
                children: 0,
                hurt: None,
                excused: Vec::new(),
                sick_until: None,
                rules: Vec::new(),
            }
        };
        Self {
            ground,
            seed,
            random: Random::new(seed),
            begun: now,
            folder: tempfile::tempdir().expect("a folder"),
            nodes: (0..contenders).map(node).collect(),
            history: Vec::new(),
            faults: 0,
            stalled: Duration::ZERO,
            server_back: None,
            labels: 0,
        }
    }

    fn note(&mut self, text: String) {
        self.history.push(Line { at: Instant::now(), text });
    }

    /// Since the beginning, without the time in which the machine was too busy for us, and so for all others.
    fn clock(&self) -> Duration {
        self.begun.elapsed() - self.stalled
    }

    fn nap(&mut self) {
        let begun = Instant::now();
        sleep(NAP);
        let late = begun.elapsed() - NAP;
        if late > NAP {
            self.stalled += late;
        }
    }

    /// Does harm for some seconds.
    fn rage(&mut self) {
        let end = Instant::now() + self.random.millis(5_000.0, 15_000.0);
        while Instant::now() < end {
            let pause = Instant::now() + self.random.spread(0.05, 3.0);
            self.harm();
            while Instant::now() < pause {
                self.tend();
                self.nap();
            }
        }
    }

    /// Ends all harm, and returns how long it took from then until one leads again.
    fn heal(&mut self) -> Duration {
        let begun = self.clock();
        self.tend_healing();
        while !self.is_whole() {
            self.check(self.clock() - begun <= WHOLE_WITHIN, "what was killed has not ended");
            self.nap();
            self.tend_healing();
        }
        self.note("all is well".into());
        let healed = self.clock();
        while !self.one_leads() {
            self.check(self.clock() - healed <= LEADS_WITHIN, "not exactly one leads");
            self.nap();
            self.tend_healing();
        }
        let took = self.clock() - healed;
        self.note(format!("one leads after {:.3} s", took.as_secs_f64()));
        took
    }

    /// Has all harm end now, and what has ended start again without delay.
    fn tend_healing(&mut self) {
        let now = Instant::now();
        self.server_back = self.server_back.map(|_| now);
        for node in &mut self.nodes {
            node.sick_until = node.sick_until.map(|_| now);
            node.restart_at = node.restart_at.min(now);
            if let Some(Hurt::Stopped(_, until)) = &mut node.hurt {
                *until = now;
            }
        }
        self.tend();
    }

    /// Whether nothing is harmed any more, and a leader-run is everywhere.
    fn is_whole(&self) -> bool {
        self.server_back.is_none() && self.nodes.iter().all(|node| node.contender.is_some() && node.hurt.is_none())
    }

    /// Whether exactly one child is there, and its leader-run holds the lock.
    fn one_leads(&self) -> bool {
        let mut leaders = self.nodes.iter().filter(|node| node.child().is_some_and(is_alive));
        let (Some(leader), None) = (leaders.next(), leaders.next()) else {
            return false;
        };
        self.ground.holder() == leader.identity()
    }

    /// Ends what is over, starts what has ended, and sees that nothing forbidden has happened.
    fn tend(&mut self) {
        let now = Instant::now();
        if self.server_back.is_some_and(|back| back <= now) {
            self.server_back = None;
            self.ground.listen();
            self.note("the server is back".into());
        }
        for number in 0..self.nodes.len() {
            self.tend_node(number, now);
        }
        let oracle = fs::read_to_string(self.oracle()).unwrap_or_default();
        self.check(!oracle.contains("OVERLAP"), "two children met");
    }

    fn tend_node(&mut self, number: usize, now: Instant) {
        let (oracle, clock) = (self.oracle(), self.clock());
        let node = &mut self.nodes[number];
        if node.sick_until.is_some_and(|until| until <= now) {
            node.sick_until = None;
            node.proxy.resume();
            node.proxy.delay(Duration::ZERO);
            node.rules.drain(..).for_each(|rule| rule.release());
        }
        if let Some(Hurt::Stopped(pid, until)) = node.hurt
            && until <= now
        {
            node.hurt = None;
            signal(pid, SIGCONT);
        }
        node.guard = node.guard.or_else(|| node.contender.as_ref()?.try_guard());
        node.orphans.retain(|(guard, _)| is_alive(*guard));
        let stays = node.orphans.iter().any(|(_, since)| clock - *since > GONE_WITHIN);
        if let Some(code) = node.contender.as_mut().and_then(Contender::ended) {
            let expected = node.excused.contains(&code);
            node.orphans.extend(node.guard.take().map(|guard| (guard, clock)));
            node.bury(now + self.random.millis(0.0, 1_500.0));
            self.note(format!("node {number} ended with {code}"));
            self.check(expected, &format!("node {number} ended with {code}, without a reason"));
        } else if node.contender.is_none() && node.restart_at <= now {
            node.start(&oracle);
            let life = node.life;
            self.note(format!("node {number} started as life {life}"));
        }
        self.check(!stays, &format!("node {number} has a guard and no leader-run"));
    }

    fn oracle(&self) -> PathBuf {
        self.folder.path().join("oracle")
    }

    /// One random fault.
    fn harm(&mut self) {
        let number = self.random.below(self.nodes.len());
        // The one that leads is the one to hit.
        let leader = self.nodes.iter().position(|node| node.child().is_some_and(is_alive));
        let number = leader.filter(|_| self.random.chance(0.7)).unwrap_or(number);
        let text = match self.random.below(20) {
            0..=6 => self.hurt_network(number),
            7..=11 => self.hurt_requests(number),
            12..=17 => self.hurt_process(number),
            18 => self.stop_server(),
            _ => self.change_labels(),
        };
        if let Some(text) = text {
            self.faults += 1;
            self.note(text);
        }
    }

    /// How long something fails: often long enough that a leader loses the lock, and another takes it.
    fn how_long(&mut self) -> Duration {
        if self.random.chance(0.4) { self.random.millis(6_000.0, 10_000.0) } else { self.random.spread(0.05, 6.0) }
    }

    /// What happens to all connections of a node.
    fn hurt_network(&mut self, number: usize) -> Option<String> {
        let (kind, time) = (self.random.below(4), self.how_long());
        let delay = self.random.millis(10.0, 1_500.0);
        let proxy = self.nodes[number].fall_sick(time)?;
        let what = match kind {
            0 => {
                proxy.cut();
                "cut off"
            }
            1 => {
                proxy.pause();
                "paused"
            }
            2 => {
                proxy.mute();
                "muted"
            }
            _ => {
                proxy.delay(delay);
                &format!("answers {delay:?} late")
            }
        };
        Some(format!("node {number}: {what}, for {time:?}"))
    }

    /// What happens to single requests of a node.
    fn hurt_requests(&mut self, number: usize) -> Option<String> {
        let (kind, time) = (self.random.below(6), self.how_long());
        let times = self.random.pick(&[1, 2, 4, 8, usize::MAX]);
        let late = self.random.millis(1_000.0, 1_900.0);
        let (status, reason) = self.random.pick(&STATUSES);
        let body = refusal(status, reason);
        let (what, fault) = match kind {
            0 => {
                let fault = Fault::Answer { status, headers: &[("retry-after", "100")], body };
                (format!("answered with {status}"), fault)
            }
            1 => (format!("done and answered with {status}"), Fault::AnswerAfterCommit { status, body }),
            2 => ("done and never answered".into(), Fault::DropResponseAfterCommit),
            3 => ("done and cut off".into(), Fault::CloseAfterCommit),
            4 => ("held".into(), Fault::Hold),
            _ => {
                let fault = Fault::Answer { status: 500, headers: &[], body: refusal(500, "InternalError") };
                (format!("refused, after a write answered {late:?} late"), fault)
            }
        };
        let proxy = self.nodes[number].fall_sick(time)?;
        let is_write = |seen: &Seen| ["PUT", "POST"].contains(&seen.method.as_str());
        let mut rules = Vec::new();
        if kind == 5 {
            rules.push(proxy.on(Matcher::new(is_write).first(1), Fault::DelayResponse(late)));
        }
        rules.push(proxy.on(Matcher::new(move |seen| kind == 0 || is_write(seen)).first(times), fault));
        let node = &mut self.nodes[number];
        node.rules.extend(rules);
        // Refused for too long.
        node.excused.push(125);
        let times = if times == usize::MAX { "all".into() } else { times.to_string() };
        Some(format!("node {number}: {times} requests {what}, for {time:?}"))
    }

    fn hurt_process(&mut self, number: usize) -> Option<String> {
        let (kind, time) = (self.random.pick(&[0, 1, 2, 2, 2, 3, 4, 5, 6, 6, 7, 7]), self.how_long());
        let node = &mut self.nodes[number];
        let contender = node.contender.as_ref().filter(|_| node.hurt.is_none())?;
        let (main, guard) = (contender.pid(), node.guard?);
        let child = node.child().filter(|child| is_alive(*child));
        let until = Instant::now() + time;
        let (to, what, hurt, excused): (_, _, _, &[i32]) = match kind {
            0 => (main, SIGKILL, Some(Hurt::Killed), &[-SIGKILL]),
            1 => (guard, SIGKILL, Some(Hurt::Killed), &[75, 125]),
            2 => (main, SIGSTOP, Some(Hurt::Stopped(main, until)), &[]),
            3 => (guard, SIGSTOP, Some(Hurt::Stopped(guard, until)), &[75, 125]),
            4 => (child?, SIGKILL, None, &[128 + SIGKILL]),
            // Nobody but leader-run is to continue it.
            5 => (child?, SIGSTOP, None, &[]),
            // A child, and leader-run itself, that has only just begun dies of it.
            6 => (main, SIGUSR1, None, &[128 + SIGUSR1, -SIGUSR1]),
            _ => (main, SIGTERM, None, &[0, 75, 128 + SIGTERM, 128 + SIGKILL, -SIGTERM]),
        };
        signal(to, what);
        node.hurt = hurt;
        node.excused.extend(excused);
        let to = ["leader-run", "guard", "child"][[main, guard, to].iter().position(|pid| *pid == to)?];
        let how_long = node.hurt.as_ref().filter(|_| what == SIGSTOP).map(|_| format!(", for {time:?}"));
        let (what, how_long) = (Signal::try_from(what).expect("a signal"), how_long.unwrap_or_default());
        Some(format!("node {number}: {what} to {to}{how_long}"))
    }

    fn stop_server(&mut self) -> Option<String> {
        let time = self.random.spread(0.1, 6.0);
        if self.server_back.is_some() || !self.ground.stop() {
            return None;
        }
        self.server_back = Some(Instant::now() + time);
        Some(format!("server stopped for {time:?}"))
    }

    fn change_labels(&mut self) -> Option<String> {
        let times = 1 + self.random.below(10);
        if self.server_back.is_some() || self.ground.holder().is_empty() {
            return None;
        }
        for _ in 0..times {
            self.labels += 1;
            self.ground.label(&self.labels.to_string());
        }
        Some(format!("{times} changes of a label"))
    }

    /// Tells all that is known, and gives up, when this does not hold.
    fn check(&self, holds: bool, what: &str) {
        if holds {
            return;
        }
        // What leader-run said of it may still be on its way.
        sleep(Duration::from_millis(100));
        let mut all: Vec<_> = self.history.iter().map(|line| (line.at, format!("*** {}", line.text))).collect();
        for node in &self.nodes {
            let lines = node.past.iter().cloned().chain(node.present());
            all.extend(lines.map(|line| (line.at, format!("node {}: {}", node.number, line.text))));
        }
        all.retain(|(at, _)| at.elapsed() < TOLD);
        all.sort_by_key(|(at, _)| *at);
        let mut text = format!("nemesis: {what}; NEMESIS_SEED={}\n", self.seed);
        for (at, line) in all {
            let _ = writeln!(text, "{:9.3} {line}", at.saturating_duration_since(self.begun).as_secs_f64());
        }
        eprintln!("{text}");
        panic!("{what}; NEMESIS_SEED={}", self.seed);
    }
}

impl Node {
    fn identity(&self) -> String {
        format!("node-{}-life-{}", self.number, self.life)
    }

    /// Its network, to be hurt for so long, unless it already is.
    fn fall_sick(&mut self, time: Duration) -> Option<&Proxy> {
        if self.sick_until.is_some() {
            return None;
        }
        self.sick_until = Some(Instant::now() + time);
        Some(&self.proxy)
    }

    fn start(&mut self, oracle: &Path) {
        self.life += 1;
        let options = OPTIONS[self.number % OPTIONS.len()];
        self.excused = if options.contains(&"rejoin") { vec![] } else { vec![75] };
        if !self.rules.is_empty() {
            self.excused.push(125);
        }
        let mut command = leader_run();
        if let Ok(mutant) = env::var("MUTANT") {
            command.env("LEADER_RUN_MUTANT", mutant);
        }
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(["--name", LOCK, "--identity", &self.identity()]);
        command.args(["--lease-duration", &format!("{}s", L.as_secs()), "--stop-grace", "1s"]);
        command.args(options).arg("--").args(alone(oracle, CHILD));
        self.contender = Some(Contender::start(&mut command));
    }

    /// Keeps what the contender that has ended said lately.
    fn bury(&mut self, restart_at: Instant) {
        let said = self.present();
        self.children += starts(&said);
        self.past.extend(said);
        self.past.retain(|line| line.at.elapsed() < TOLD);
        self.contender = None;
        self.restart_at = self.restart_at.max(restart_at);
        self.hurt = None;
    }

    /// What the present contender and its children have said.
    fn present(&self) -> Vec<Line> {
        self.contender.as_ref().map(Contender::lines).unwrap_or_default()
    }

    /// The latest child of the present contender.
    fn child(&self) -> Option<i32> {
        self.present().iter().rev().find_map(|line| line.text.strip_prefix("pid ")?.parse().ok())
    }
}

impl Drop for Node {
    /// Ends leader-run so that it and its guard notice the death of the other, and what does not.
    fn drop(&mut self) {
        let wait = |over: &mut dyn FnMut() -> bool| {
            let end = Instant::now() + GONE_WITHIN;
            while !over() && Instant::now() < end {
                sleep(NAP);
            }
        };
        match self.hurt {
            Some(Hurt::Stopped(pid, _)) => signal(pid, SIGCONT),
            Some(Hurt::Killed) => {
                wait(&mut || self.contender.as_mut().is_none_or(|contender| contender.ended().is_some()));
            }
            None => {}
        }
        self.contender = None;
        let guards: Vec<_> = self.orphans.iter().map(|(guard, _)| *guard).chain(self.guard).collect();
        wait(&mut || !guards.iter().any(|guard| is_alive(*guard)));
        guards.into_iter().filter(|guard| is_alive(*guard)).for_each(kill_tree);
    }
}

/// Ends a guard that does not end, as those of some mutants do not, and what is below it.
fn kill_tree(pid: i32) {
    signal(pid, SIGSTOP);
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).for_each(kill_tree);
    signal(pid, SIGKILL);
}

/// How many children began.
fn starts(lines: &[Line]) -> usize {
    lines.iter().filter(|line| line.text.starts_with("start ")).count()
}

/// To a process that may have ended just now.
fn signal(pid: i32, signal: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::try_from(signal).expect("a signal"));
}
