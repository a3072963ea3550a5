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
    /// How many terms each kind had.
    terms: BTreeMap<String, usize>,
    worst: Duration,
}

pub fn a_mixed_fleet_moves_to_leases(cluster: &Cluster) {
    let scene = Scene::new(cluster);
    let mut records = scene.records(Lock::ConfigMapsLeases);
    let mut fleet =
        Fleet { scene: &scene, parties: Vec::new(), lives: 0, terms: BTreeMap::new(), worst: Duration::ZERO };
    for place in 0..6 {
        let party = fleet.start(place, 0);
        party.wait_contends();
        fleet.parties.push(party);
    }
    fleet.wait_leader(None);
    for phase in 1..PHASES.len() {
        // client-go first, and its leader last: its MultiLock overwrites the Lease, whatever has become of that, so
        // nobody is to take over while one of them waits beside one that knows Leases only.
        let mut client_go = vec![0, 1, 2];
        let leader = fleet.leader();
        client_go.sort_by_key(|place| Some(*place) == leader);
        for place in client_go.into_iter().chain(3..6) {
            // Ours that polls dies where it leads, the others are asked.
            fleet.restart(place, phase, place == 5);
        }
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
        for party in &mut self.parties {
            assert!(party.is_running(), "{} has ended:\n{}", party.identity, party.said());
        }
        self.parties.iter().position(|party| party.leads().is_some())
    }

    /// Waits until one leads, and counts its term; the last one ended then.
    fn wait_leader(&mut self, ended: Option<Instant>) {
        let leader = wait_for("a leader", LONG, || self.leader());
        let party = &self.parties[leader];
        let led = party.wait_leads();
        let kind = party.identity.split_once('#').expect("a number").0;
        *self.terms.entry(kind.into()).or_default() += 1;
        if let Some(ended) = ended {
            let took = led.saturating_duration_since(ended);
            self.worst = self.worst.max(took);
            assert!(took <= L + POLL + SLACK, "{took:?} without a leader");
        }
    }

    /// Ends the one in this place and starts it anew with the lock of this phase.
    fn restart(&mut self, place: usize, phase: usize, crash: bool) {
        let leads = self.leader() == Some(place);
        let party = &mut self.parties[place];
        let at = Instant::now();
        if crash {
            party.crash();
        } else {
            party.signal(SIGTERM);
            let code = party.wait();
            assert!([0, 143].contains(&code), "{} ended with {code}:\n{}", party.identity, party.said());
        }
        self.parties[place] = self.start(place, phase);
        self.parties[place].wait_contends();
        if leads {
            self.wait_leader(Some(at));
        }
    }
}
