//! client-go's rules, as one contender among ours: `LeaderElector` of client-go 1.27 and later with a
//! `LeaseLock`, modelled from its documented behaviour. Its work ends at once when it gives up, which
//! favours it.

use crate::random::Random;
use leader_run::clock::Now;
use leader_run::lock::record::Record;
use leader_run::lock::request::{Failure, Observation, Reply, Request, Version};
use std::time::Duration;

#[derive(Debug)]
pub struct Peer {
    pub identity: String,
    pub lease: Duration,
    pub deadline: Duration,
    pub retry: Duration,
    observed: Option<Observation>,
    /// On its own clock, after the answer that showed the record.
    observed_at: Duration,
    acquired: String,
    pub leading: bool,
    /// The request under way.
    pending: Option<Request>,
    /// It is given up when no renewal succeeds before.
    give_up: Option<Duration>,
    /// When it tries again.
    next: Option<Duration>,
}

/// What a peer does.
#[derive(Debug)]
pub enum Does {
    Send(Request),
    Lead,
    GiveUp,
}

impl Peer {
    pub fn new(identity: String, lease: Duration) -> Peer {
        let retry = (lease * 2 / 15).clamp(Duration::from_secs(1), Duration::from_secs(2));
        let deadline = (lease * 2 / 3).max(retry.mul_f64(1.3));
        Peer {
            identity,
            lease,
            deadline,
            retry,
            observed: None,
            observed_at: Duration::ZERO,
            acquired: String::new(),
            leading: false,
            pending: None,
            give_up: None,
            next: Some(Duration::ZERO),
        }
    }

    /// How long until it wants to be called, on its own clock.
    pub fn wake(&self, now: Now) -> Option<Duration> {
        let next = self.next.filter(|_| self.pending.is_none());
        self.give_up.into_iter().chain(next).map(|at| at.saturating_sub(now.at.boot)).min()
    }

    fn is_valid(&self, now: Now) -> bool {
        self.observed.as_ref().is_some_and(|known| {
            let lease = known.record.lease_duration(self.lease);
            now.at.boot < self.observed_at + lease
        })
    }

    fn record(&self, now: Now, transitions: i64) -> Record {
        Record {
            holder: self.identity.clone(),
            lease_seconds: Some(self.lease.as_secs() as u32),
            acquire_time: self.acquired.clone(),
            renew_time: now.wall.micro_time(),
            transitions: Some(transitions),
            ..Record::default()
        }
    }

    pub fn tick(&mut self, now: Now) -> Vec<Does> {
        if self.give_up.is_some_and(|at| at <= now.at.boot) {
            (self.leading, self.give_up, self.pending, self.next) = (false, None, None, None);
            return vec![Does::GiveUp];
        }
        if self.pending.is_none() && self.next.is_some_and(|at| at <= now.at.boot) {
            self.next = None;
            if self.leading {
                // A round of renewing begins; it has its own deadline, counted from here.
                self.give_up.get_or_insert(now.at.boot + self.deadline);
            }
            return self.begin(now);
        }
        Vec::new()
    }

    fn begin(&mut self, now: Now) -> Vec<Does> {
        match &self.observed {
            Some(known) if known.record.holder == self.identity && self.is_valid(now) => {
                let (version, transitions) = (known.version.clone(), known.record.transition_count());
                self.send(Request::Update(self.record(now, transitions), version))
            }
            _ => self.send(Request::Get),
        }
    }

    fn send(&mut self, request: Request) -> Vec<Does> {
        self.pending = Some(request.clone());
        vec![Does::Send(request)]
    }

    pub fn answered(&mut self, now: Now, answer: Result<Reply, Failure>, random: &mut Random) -> Vec<Does> {
        let Some(request) = self.pending.take() else {
            return Vec::new();
        };
        match (request, answer) {
            (Request::Get, Ok(Reply::Found(Some(found)))) => self.found(now, found, random),
            (Request::Get, Ok(Reply::Found(None))) => {
                self.acquired = now.wall.micro_time();
                self.send(Request::Create(self.record(now, 0)))
            }
            (Request::Create(record) | Request::Update(record, _), Ok(Reply::Written(version))) => {
                self.won(now, record, version)
            }
            // The fast path failed: look, and decide anew.
            (Request::Update(..), Err(_)) if self.leading && self.is_valid(now) => self.send(Request::Get),
            _ => self.failed(now, random),
        }
    }

    fn found(&mut self, now: Now, found: Observation, random: &mut Random) -> Vec<Does> {
        if self.observed.as_ref().is_none_or(|known| !is_same(&known.record, &found.record)) {
            self.observed_at = now.at.boot;
        }
        self.observed = Some(found.clone());
        let mine = found.record.holder == self.identity;
        if !found.record.is_free() && !mine && self.is_valid(now) {
            return self.failed(now, random);
        }
        let transitions = found.record.transition_count() + i64::from(!mine);
        if !mine {
            self.acquired = now.wall.micro_time();
        }
        self.send(Request::Update(self.record(now, transitions), found.version))
    }

    fn won(&mut self, now: Now, record: Record, version: Version) -> Vec<Does> {
        self.observed = Some(Observation { record, version });
        self.observed_at = now.at.boot;
        self.give_up = None;
        self.next = Some(now.at.boot + self.retry);
        if std::mem::replace(&mut self.leading, true) {
            return Vec::new();
        }
        vec![Does::Lead]
    }

    fn failed(&mut self, now: Now, random: &mut Random) -> Vec<Does> {
        let jitter = if self.leading { 1.0 } else { random.between(1.0, 2.2) };
        self.next = Some(now.at.boot + self.retry.mul_f64(jitter));
        Vec::new()
    }

    /// What it writes when it is asked to stop while it leads.
    pub fn release(&self, now: Now) -> Option<Request> {
        let known = self.observed.as_ref().filter(|known| self.leading && known.record.holder == self.identity)?;
        Some(Request::Update(
            Record::released(known.record.transition_count(), now.wall.micro_time()),
            known.version.clone(),
        ))
    }
}

/// It compares records with their times cut to whole seconds.
fn is_same(a: &Record, b: &Record) -> bool {
    let second = |text: &str| text.split('.').next().unwrap_or_default().to_owned();
    a.holder == b.holder
        && a.lease_seconds == b.lease_seconds
        && a.transitions == b.transitions
        && second(&a.acquire_time) == second(&b.acquire_time)
        && second(&a.renew_time) == second(&b.renew_time)
}
