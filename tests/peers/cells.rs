//! What is tried with each of the other clients on each lock that it shares with us.

use crate::apiserver::Cluster;
use crate::random::Random;
use crate::scene::{L, LOCK, Lock, OURS, Party, Records, Scene};
use crate::support::{LONG, wait_for};
use crate::table::{Notices, Peer, Release};
use nix::libc::{SIGKILL, SIGTERM};
use std::env;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// What a cell came to: in words, and how often a child was not alone.
pub type Outcome = (String, usize);

/// A cell: its name and what it tries.
pub type Cell = (&'static str, fn(&Cluster, &Peer, Lock) -> Outcome);

pub const CELLS: [Cell; 5] = [
    ("we after its release", we_after_its_release),
    ("we after its crash", we_after_its_crash),
    ("it after our release", it_after_our_release),
    ("it after our crash", it_after_our_crash),
    ("both contend", both_contend),
];

/// How late anything may be on a busy machine.
const LATE: Duration = Duration::from_millis(750);
/// What a takeover may take beside the waiting: requests, and the start of a child.
pub const SLACK: Duration = Duration::from_secs(3);
/// The longest pause of those who poll.
pub const POLL: Duration = Duration::from_millis(2_200);
/// Longer than a request takes, and shorter than a retry period.
pub const MOMENT: Duration = Duration::from_millis(300);
const US: &str = "ours-1";
const IT: &str = "theirs-1";

/// A lock, and what is written to it.
fn scene<'a>(cluster: &'a Cluster, peer: &Peer, lock: Lock) -> (Scene<'a>, Records) {
    let scene = Scene::new(cluster);
    let records = scene.records(lock);
    if peer.wants_lock {
        cannot_create(&scene, peer, lock);
        scene.create_lease();
    }
    (scene, records)
}

fn cannot_create(scene: &Scene, peer: &Peer, lock: Lock) {
    let it = scene.theirs(peer, lock, "theirs-0");
    it.wait_contends();
    sleep(POLL);
    assert!(it.leads().is_none() && scene.namespace.lease(LOCK).is_none(), "it creates the lock: {}", it.said());
}

/// Ends the leader that is left, and judges all that was seen.
fn judge(scene: &Scene, mut records: Records, mut last: Party, peer: &Peer, text: String) -> Outcome {
    last.signal(SIGTERM);
    // A child that has not come to its trap yet dies of the signal.
    assert!([0, 143].contains(&last.wait()), "{}", last.said());
    if last.identity.starts_with(OURS) {
        records.wait_free();
    }
    assert!(records.check() > 0, "we have written nothing");
    let overlaps = scene.overlaps();
    assert!(overlaps == 0 || peer.overlaps.is_some(), "{overlaps} overlaps");
    (text, overlaps)
}

fn between(took: Duration, least: Duration, most: Duration, what: &str) -> String {
    assert!(took >= least && took <= most, "{took:?} {what}, and not from {least:?} to {most:?}");
    format!("{:.2} s", took.as_secs_f64())
}

/// It leads, and we wait; it is between two renewals.
fn it_leads(scene: &Scene, records: &mut Records, peer: &Peer, lock: Lock) -> (Party, Party) {
    let it = scene.theirs(peer, lock, IT);
    it.wait_leads();
    let us = scene.ours(lock, US);
    us.wait_contends();
    records.wait_next(IT);
    // A release that meets a renewal may be refused (client-go before 1.37).
    sleep(MOMENT);
    (it, us)
}

/// We lead, and it waits.
fn we_lead(scene: &Scene, peer: &Peer, lock: Lock) -> (Party, Party, Instant) {
    let us = scene.ours(lock, US);
    us.wait_leads();
    let it = scene.theirs(peer, lock, IT);
    let looked = it.wait_contends();
    if let Notices::Deletion { after } = peer.notices {
        it.wait_looks(after);
    }
    (us, it, looked)
}

fn we_after_its_release(cluster: &Cluster, peer: &Peer, lock: Lock) -> Outcome {
    let (scene, mut records) = scene(cluster, peer, lock);
    let (mut it, us) = it_leads(&scene, &mut records, peer, lock);
    let asked = Instant::now();
    it.signal(SIGTERM);
    assert_eq!(it.wait(), 0, "{}", it.said());
    let led = us.wait_leads();
    let text = match peer.release {
        Release::Frees => between(led - asked, Duration::ZERO, SLACK, "after SIGTERM"),
        Release::Shortens(seconds) => {
            let least = Duration::from_secs(seconds);
            between(led - asked, least - LATE, least + SLACK, "after SIGTERM")
        }
        Release::Never => {
            let renewed = records.last(IT).at;
            between(led - renewed, L - LATE, L + SLACK, "after its last renewal") + " (no release)"
        }
    };
    judge(&scene, records, us, peer, text)
}

fn we_after_its_crash(cluster: &Cluster, peer: &Peer, lock: Lock) -> Outcome {
    let (scene, mut records) = scene(cluster, peer, lock);
    let (mut it, us) = it_leads(&scene, &mut records, peer, lock);
    it.crash();
    let led = us.wait_leads();
    let renewed = records.last(IT).at;
    let text = between(led - renewed, L - LATE, L + SLACK, "after its last renewal");
    judge(&scene, records, us, peer, text)
}

fn it_after_our_release(cluster: &Cluster, peer: &Peer, lock: Lock) -> Outcome {
    let (scene, records) = scene(cluster, peer, lock);
    let (mut us, it, looked) = we_lead(&scene, peer, lock);
    us.signal(SIGTERM);
    assert_eq!(us.wait(), 0, "{}", us.said());
    let released = Instant::now();
    let text = match peer.notices {
        Notices::Polling => {
            between(it.wait_leads().saturating_duration_since(released), Duration::ZERO, POLL + SLACK, "after it")
        }
        Notices::Expiry => {
            // It saw a renewal of at most a second ago.
            between(it.wait_leads() - looked, L - Duration::from_secs(1) - LATE, L + SLACK, "after it looked")
        }
        Notices::Deletion { .. } => only_when_deleted(&scene, &it),
    };
    judge(&scene, records, it, peer, text)
}

fn it_after_our_crash(cluster: &Cluster, peer: &Peer, lock: Lock) -> Outcome {
    let (scene, mut records) = scene(cluster, peer, lock);
    let (mut us, it, _) = we_lead(&scene, peer, lock);
    records.wait_next(US);
    sleep(MOMENT);
    us.crash();
    let text = match peer.notices {
        Notices::Deletion { .. } => only_when_deleted(&scene, &it),
        Notices::Polling | Notices::Expiry => {
            let led = it.wait_leads();
            // Some look at the time that is written, and that is of before.
            let least = L - Duration::from_secs(1) - LATE;
            between(led - records.last(US).at, least, L + POLL + SLACK, "after our last renewal")
        }
    };
    judge(&scene, records, it, peer, text)
}

/// It does not lead when the lease is over, but when the lock is gone.
fn only_when_deleted(scene: &Scene, it: &Party) -> String {
    sleep(L + POLL + SLACK);
    assert!(it.leads().is_none(), "it has taken over: {}", it.said());
    scene.namespace.delete_lease(LOCK);
    let deleted = Instant::now();
    between(it.wait_leads() - deleted, Duration::ZERO, 2 * L, "after the deletion") + " after a deletion"
}

/// Two of each kind, which are stopped and killed at random and start again.
fn both_contend(cluster: &Cluster, peer: &Peer, lock: Lock) -> Outcome {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let time = Duration::from_secs(number("PEERS_SECONDS").unwrap_or(20));
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |now| now.as_millis() as u64);
    let seed = number("PEERS_SEED").unwrap_or_else(clock);
    println!("{} {}: PEERS_SEED={seed}", peer.name, lock.name());
    let (scene, mut records) = scene(cluster, peer, lock);
    let mut fight = Fight {
        scene: &scene,
        peer,
        lock,
        random: Random::new(seed),
        lives: 0,
        parties: Vec::new(),
        past: Vec::new(),
        leaderless: None,
    };
    // Theirs first, so that it is its turn, too.
    for place in 0..4 {
        let party = fight.start(place);
        if place == 0 {
            party.wait_leads();
        }
        fight.parties.push(party);
    }
    let begun = Instant::now();
    let (mut terms, mut strikes, mut worst) = ([0, 0], 0, Duration::ZERO);
    let mut known = None;
    while begun.elapsed() < time || terms.contains(&0) && begun.elapsed() < 3 * time {
        let leader = wait_for("a leader", LONG, || fight.leader());
        let (identity, led) = (fight.parties[leader].identity.clone(), fight.parties[leader].wait_leads());
        if known.replace(identity.clone()) != Some(identity) {
            terms[leader / 2] += 1;
            let took = fight.leaderless.take().map_or(Duration::ZERO, |since| led.saturating_duration_since(since));
            worst = worst.max(took);
            assert!(took <= L + POLL + SLACK, "{took:?} without a leader; PEERS_SEED={seed}");
        }
        wait_for("all contend", LONG, || fight.all_contend().then_some(()));
        sleep(fight.random.millis(200.0, 1_000.0));
        let struck = fight.strike(leader);
        strikes += struck.len();
        if let Some((_, at)) = struck.into_iter().find(|(place, _)| *place == leader) {
            fight.leaderless = Some(at);
        }
    }
    assert!(terms.iter().all(|terms| *terms > 0), "{terms:?} terms; PEERS_SEED={seed}");
    let with_ours = fight.overlaps_with_ours();
    drop(fight);
    assert!(records.check() > 0, "we have written nothing");
    let overlaps = scene.overlaps();
    assert!(overlaps == 0 || peer.overlaps.is_some(), "{overlaps} overlaps; PEERS_SEED={seed}");
    let [theirs, ours] = terms;
    let worst = worst.as_secs_f64();
    let mut text =
        format!("{strikes} restarts, {ours} terms of ours, {theirs} of its, no leader for {worst:.1} s at most");
    if overlaps > 0 {
        text += &format!(", {with_ours} of {overlaps} overlaps with a child of ours");
    }
    (text, overlaps)
}

/// Two contenders of theirs, then two of ours, one of which polls.
struct Fight<'a> {
    scene: &'a Scene<'a>,
    peer: &'a Peer,
    lock: Lock,
    random: Random,
    /// Counts the processes, so that every one has an identity of its own.
    lives: usize,
    parties: Vec<Party>,
    past: Vec<Life>,
    /// When the last leader was struck or gave up, until the next one leads.
    leaderless: Option<Instant>,
}

/// What became of a contender that has ended.
struct Life {
    ours: bool,
    /// When its child began.
    began: Option<Instant>,
    ended: Instant,
    /// When its child was not alone.
    met: Option<Instant>,
}

impl Life {
    fn of(party: &Party) -> Life {
        Life {
            ours: party.identity.starts_with(OURS),
            began: party.leads().map(|line| line.at),
            ended: Instant::now(),
            met: party.line("OVERLAP").map(|line| line.at),
        }
    }
}

impl Fight<'_> {
    fn start(&mut self, place: usize) -> Party {
        self.lives += 1;
        if place < 2 {
            self.scene.theirs(self.peer, self.lock, &format!("theirs-{}", self.lives))
        } else {
            let identity = format!("{OURS}{}", self.lives);
            if place == 2 {
                self.scene.ours(self.lock, &identity)
            } else {
                self.scene.ours_polling(self.lock, &identity)
            }
        }
    }

    /// The one whose child has begun. None of them may end by itself, unless it is known to.
    fn leader(&mut self) -> Option<usize> {
        for place in 0..self.parties.len() {
            if self.parties[place].is_running() {
                continue;
            }
            let party = &self.parties[place];
            let known = self.peer.overlaps.is_some() || place < 2 && self.peer.gives_up.is_some();
            assert!(known, "{} has ended:\n{}", party.identity, party.said());
            if party.leads().is_some() {
                self.leaderless = Some(Instant::now());
            }
            self.past.push(Life::of(party));
            self.parties[place] = self.start(place);
        }
        self.parties.iter().position(|party| party.leads().is_some())
    }

    fn all_contend(&self) -> bool {
        self.parties.iter().all(Party::contends)
    }

    /// Stops or kills one of them, or both of the side that leads, and starts them again a while later, so that also
    /// who is slower gets the lock. Returns which, and when.
    fn strike(&mut self, leader: usize) -> Vec<(usize, Instant)> {
        let places = match self.random.unit() {
            chance if chance < 0.4 => vec![leader / 2 * 2, leader / 2 * 2 + 1],
            chance if chance < 0.7 => vec![leader],
            _ => vec![self.random.below(self.parties.len())],
        };
        let struck: Vec<_> = places.into_iter().map(|place| (place, self.end(place))).collect();
        for (place, _) in &struck {
            let party = &mut self.parties[*place];
            let code = party.wait();
            // A child that has not come to its trap yet dies of the signal.
            let expected = [0, 143, -SIGTERM, -SIGKILL].contains(&code);
            let known = self.peer.overlaps.or(self.peer.gives_up).is_some();
            assert!(expected || known, "{} ended with {code}:\n{}", party.identity, party.said());
            self.past.push(Life::of(party));
        }
        sleep(self.random.millis(0.0, 2_500.0));
        for (place, _) in &struck {
            self.parties[*place] = self.start(*place);
        }
        struck
    }

    /// How many children were not alone where it was one of ours, or one of ours was there.
    fn overlaps_with_ours(&mut self) -> usize {
        self.past.extend(self.parties.iter().map(Life::of));
        let there = |life: &Life, at| life.ours && life.began.is_some_and(|began| began <= at) && life.ended >= at;
        let met = self.past.iter().filter_map(|life| Some((life, life.met?)));
        met.filter(|(life, at)| life.ours || self.past.iter().any(|other| there(other, *at))).count()
    }

    fn end(&mut self, place: usize) -> Instant {
        let at = Instant::now();
        if self.random.chance(0.5) {
            self.parties[place].crash();
        } else {
            self.parties[place].signal(SIGTERM);
        }
        at
    }
}
