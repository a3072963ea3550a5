//! A fleet of leader-run and client-go moves from a ConfigMap to a Lease, one restart at a time, while it works.
//! The Python client has no part in it: client-go cannot read its record in a ConfigMap.

use crate::apiserver::Cluster;
use crate::cells::{POLL, SLACK};
use crate::scene::{L, Lock, OURS, Party, SECONDS, Scene};
use crate::support::{LONG, wait_for};
use crate::table::peer;
use nix::libc::SIGTERM;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The lock of each phase, and the client-go that knows it.
const PHASES: [(Lock, &str); 3] =
    [(Lock::ConfigMap, "client-go-0.23"), (Lock::ConfigMapsLeases, "client-go-0.26"), (Lock::Lease, "client-go")];

struct Fleet<'a> {
    scene: &'a Scene<'a>,
    /// Three of client-go, then three of leader-run, of which two poll.
    parties: Vec<Party>,
    lives: usize,
    /// Who led last, and, if it has ended, since when there is no leader.
    last: String,
    ended: Option<Instant>,
    /// How many terms each kind had.
    terms: BTreeMap<String, usize>,
    worst: Duration,
}

pub fn a_mixed_fleet_moves_to_leases(cluster: &Cluster) {
    let scene = Scene::new(cluster);
    let mut records = scene.records(Lock::ConfigMapsLeases);
    let mut fleet = Fleet {
        scene: &scene,
        parties: Vec::new(),
        lives: 0,
        last: String::new(),
        ended: None,
        terms: BTreeMap::new(),
        worst: Duration::ZERO,
    };
    for place in 0..6 {
        let party = fleet.start(place, 0);
        party.wait_contends();
        fleet.parties.push(party);
    }
    fleet.wait_leader();
    for phase in 1..PHASES.len() {
        let (mut old, mut killed) = (vec![0, 1, 2, 3, 4, 5], false);
        while let Some(place) = fleet.next(&old, phase) {
            old.retain(|other| *other != place);
            // In each phase one of ours is killed while it leads; all others are asked.
            let kill = !killed && place >= 3 && fleet.leader() == Some(place);
            killed |= kill;
            fleet.restart(place, phase, kill);
            let leader = fleet.wait_leader();
            records.wait_next(&leader);
        }
        assert!(killed, "none of ours led");
    }
    let Fleet { parties, terms, worst, .. } = fleet;
    drop(parties);
    assert_eq!(scene.overlaps(), 0);
    let ours: Vec<_> = records.seen().iter().filter(|seen| seen.is_ours()).collect();
    for seen in &ours {
        seen.check_fields(seen.holder(), SECONDS);
    }
    let written = ours.len();
    let terms: Vec<_> = terms.iter().map(|(kind, terms)| format!("{kind} {terms}")).collect();
    println!(
        "figure: a fleet of six moved from configmap through configmapsleases to lease in 12 restarts: terms of {}; \
         {written} writes of ours; no leader for {:.1} s at most; overlaps: 0",
        terms.join(", "),
        worst.as_secs_f64()
    );
}

impl Fleet<'_> {
    fn start(&mut self, place: usize, phase: usize) -> Party {
        self.lives += 1;
        let (lock, client_go) = PHASES[phase];
        match place {
            0..3 => self.scene.theirs(peer(client_go), lock, &format!("{client_go}#{}", self.lives)),
            3 => self.scene.ours(lock, &format!("{OURS}{}#{}", lock.name(), self.lives)),
            _ => self.scene.ours_polling(lock, &format!("{OURS}{}#{}", lock.name(), self.lives)),
        }
    }

    fn leader(&mut self) -> Option<usize> {
        self.parties.iter_mut().position(|party| party.is_running() && party.leads().is_some())
    }

    /// Which of those who have still the old lock is to have the new one next: the leader.
    fn next(&mut self, old: &[usize], phase: usize) -> Option<usize> {
        let leader = self.leader();
        let leads = |place: &&usize| Some(**place) == leader;
        // client-go's MultiLock overwrites the Lease, whatever has become of that. So nobody is to take over while one
        // of them waits beside one that knows Leases only: first they go, and the one of them that leads goes last.
        let client_go = || old.iter().filter(|place| **place < 3);
        if PHASES[phase].0 == Lock::Lease && client_go().next().is_some() {
            return client_go().find(|place| !leads(place)).or(client_go().next()).copied();
        }
        old.iter().find(leads).or(old.first()).copied()
    }

    /// Waits until one leads, and returns who it is. Where it is another one than before, that is a new term.
    fn wait_leader(&mut self) -> String {
        let leader = wait_for("a leader", LONG, || self.leader());
        let party = &self.parties[leader];
        let led = party.wait_leads();
        let identity = party.identity.clone();
        if identity != self.last {
            let kind = identity.split_once('#').expect("a number").0;
            *self.terms.entry(kind.into()).or_default() += 1;
            let took = self.ended.take().map_or(Duration::ZERO, |ended| led.saturating_duration_since(ended));
            self.worst = self.worst.max(took);
            assert!(took <= L + POLL + SLACK, "{took:?} without a leader");
            self.last.clone_from(&identity);
        }
        identity
    }

    /// Ends the one in this place and starts it anew with the lock of this phase.
    fn restart(&mut self, place: usize, phase: usize, kill: bool) {
        let leads = self.leader() == Some(place);
        let party = &mut self.parties[place];
        let at = Instant::now();
        if kill {
            party.crash();
        } else {
            party.signal(SIGTERM);
            let code = party.wait();
            // A child that has not come to its trap yet dies of the signal.
            assert!([0, 143].contains(&code), "{} ended with {code}:\n{}", party.identity, party.said());
        }
        if leads {
            // It comes back when another one leads, as a pod does that takes its time.
            self.ended = Some(at);
            wait_for("a leader", LONG, || self.leader());
        }
        self.parties[place] = self.start(place, phase);
        self.parties[place].wait_contends();
        for party in &mut self.parties {
            assert!(party.is_running(), "{} has ended:\n{}", party.identity, party.said());
        }
    }
}
