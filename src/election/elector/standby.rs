//! Contending: watch the lock, and take it when it is free or has expired.

use super::*;

/// How long an empty lock is left alone, so that a leader whose lock was cleared by mistake writes first...
const YIELD: Duration = Duration::from_millis(10);
/// ...and one that its leader has not left like this itself, as far as can be seen: on a busy machine, too.
const CLEARED_YIELD: Duration = Duration::from_millis(50);
/// How wide the random delay after that is while nothing is known of a crowd...
const FEW: Duration = Duration::from_millis(10);
/// ...and at most.
const MANY: Duration = Duration::from_secs(5);
/// The longer a put was under way before it was lost, beyond what the server takes when it has nothing else to do, the
/// more others there were that the server had to refuse. So many times as wide as that is the delay then.
const PER_WAIT: u32 = 64;
/// Who hears of a release when it is taken already is one of many: the delay is at least this wide then, and so many
/// times as wide as it was.
const LATE: (Duration, u32) = (Duration::from_secs(2), 4);
/// A request is not slow before it takes this much longer than several of the quickest one.
const SLOW: Duration = Duration::from_millis(10);

/// What a standby knows of the lock.
#[derive(Debug, Default)]
enum Known {
    /// Nothing yet.
    #[default]
    Nothing,
    /// It is not there. Seen held and then vanished: since when, and how long to wait for its holder.
    Absent(Option<(Instant, Duration)>),
    /// It is there.
    Present(Present),
}

#[derive(Debug)]
struct Present {
    record: Record,
    version: Version,
    /// When we first knew the record like this: after the answer or event that showed it.
    since: Instant,
    /// When it may be taken without waiting for its expiry.
    take_at: Option<Instant>,
    /// We wrote it, without having heard that it was carried out.
    ours: bool,
}

#[derive(Debug)]
pub(super) struct Standby {
    started: Instant,
    known: Known,
    /// The version is not the latest: look before anything else.
    stale: bool,
    /// No request before this, after one that failed.
    not_before: Option<Instant>,
    /// When to look again while the lock cannot be watched.
    poll_at: Instant,
    /// Since when these verbs are refused.
    refused: Vec<(Verb, Instant)>,
    /// How wide the random delay is, as learned from puts lost to other standbys.
    crowd: Duration,
    /// It was just learned from one.
    learned: bool,
    /// How long the quickest request took.
    quickest: Duration,
    /// Writes that failed in a row, not counting conflicts.
    misses: u32,
    /// The highest number of transitions seen, so that deletion does not lower it.
    transitions: Option<i64>,
    /// Whether the record changed while we looked.
    changed: bool,
    /// A request was answered or failed: the lock has been tried.
    tried: bool,
    /// Whether the lock was ever looked at: `resume` is for the first time only.
    looked: bool,
    /// We have led before: if the lock is not there, it was deleted, and its holder may still lead.
    existed: bool,
    /// The last holder people were told of.
    said: Option<String>,
}

impl Standby {
    pub(super) fn new(now: Instant) -> Standby {
        Standby {
            started: now,
            known: Known::Nothing,
            stale: false,
            not_before: None,
            poll_at: now,
            refused: Vec::new(),
            crowd: FEW,
            learned: false,
            quickest: Duration::MAX,
            misses: 0,
            transitions: None,
            changed: false,
            tried: false,
            looked: false,
            existed: false,
            said: None,
        }
    }

    /// Begins anew, as if nothing were known of the lock but that there was one.
    pub(super) fn look_again(&mut self) {
        self.known = Known::Nothing;
        self.existed = true;
        self.stale = false;
    }

    /// What outlives an election.
    pub(super) fn remember(&mut self, earlier: &Standby) {
        self.existed = true;
        self.transitions = earlier.transitions;
    }

    /// Somebody else has written before us, as we learned after so long.
    fn lost_put(&mut self, took: Duration) {
        let slow = took.saturating_sub(self.quickest.saturating_mul(4)).saturating_sub(SLOW);
        self.crowd = (self.crowd * 2).max(slow.saturating_mul(PER_WAIT)).min(MANY);
        self.learned = true;
    }

    /// Somebody took the empty lock, as we saw after so long; of that so long after our own delay was over.
    fn taken(&mut self, after: Duration, overdue: Duration) {
        if std::mem::take(&mut self.learned) {
            return;
        }
        if after < YIELD || overdue > SLOW {
            self.crowd = (self.crowd * LATE.1).clamp(LATE.0, MANY);
        }
        // The first of many would not have left it for a good part of our delay.
        let first = after.saturating_sub(YIELD).saturating_sub(self.quickest.saturating_mul(2));
        if first > self.crowd / 4 {
            self.crowd = FEW;
        }
    }

    fn version(&self) -> Option<&Version> {
        match &self.known {
            Known::Present(present) => Some(&present.version),
            _ => None,
        }
    }
}

impl Elector {
    /// Takes in what the lock said. `got`: by a get, and so not older than anything known.
    pub(super) fn observe(&mut self, now: Now, seen: Observation, got: bool) {
        let ours = self.is_ours(&seen.record);
        let standby = &mut self.standby;
        let first_look = !std::mem::replace(&mut standby.looked, true);
        let mut pause = YIELD;
        if let Known::Present(present) = &mut standby.known {
            if !got && !present.version.is_before(&seen.version) {
                return;
            }
            if present.record == seen.record && present.version.uid == seen.version.uid {
                // Only metadata changed: that extends nobody's lease, but the next write needs the version.
                present.version = seen.version;
                return;
            }
            if !present.record.is_free() && !seen.record.is_release_of(&present.record) {
                pause = CLEARED_YIELD;
            }
            if present.record.is_free() && !seen.record.is_free() {
                let after = now.at.leader_since(present.since);
                let overdue = present.take_at.map_or(Duration::ZERO, |at| now.at.leader_since(at));
                standby.taken(after, overdue);
            }
        }
        if !ours {
            // Whatever we sent was meant for an earlier version, and can no longer be carried out.
            self.sent.clear();
        }
        standby.changed |= !first_look;
        standby.transitions = standby.transitions.max(Some(seen.record.transition_count()));
        let resumes = first_look && self.settings.resume && seen.record.holder == self.settings.identity;
        let take_at = if ours || resumes {
            Some(now.at)
        } else if seen.record.is_free() {
            Some(now.at.plus(pause + self.random.within(standby.crowd)))
        } else {
            None
        };
        if take_at.is_none() {
            // While somebody else leads nothing can be refused: it counts from the next time.
            standby.refused.retain(|(verb, _)| *verb == Verb::Get);
        }
        if take_at.is_none() && standby.said.as_ref() != Some(&seen.record.holder) {
            standby.said = Some(seen.record.holder.clone());
            let lease = seen.record.lease_duration(self.settings.lease_duration);
            self.out.push(Action::Say(Notice::Waiting(seen.record.clone(), lease)));
        }
        let holder = seen.record.holder.clone();
        standby.known =
            Known::Present(Present { record: seen.record, version: seen.version, since: now.at, take_at, ours });
        if !ours {
            self.report_leader(&holder);
        }
    }

    /// The lock is not there, as a get or an event (then with the version that was deleted) said.
    pub(super) fn vanished(&mut self, now: Now, deleted: Option<Version>) {
        self.standby.looked = true;
        let own = self.settings.lease_duration;
        let wait = match &self.standby.known {
            Known::Present(present) => {
                if deleted.is_some_and(|d| d.is_before(&present.version)) {
                    return;
                }
                self.standby.changed = true;
                // Its holder may still lead, and will create it again: give it as long as a lease lasts.
                (!present.record.is_free() && !Mutant::EarlyCreate.is_on())
                    .then(|| (now.at, present.record.lease_duration(own).max(own)))
            }
            Known::Absent(wait) => *wait,
            Known::Nothing => self.standby.existed.then_some((now.at, own)),
        };
        self.standby.known = Known::Absent(wait);
    }

    pub(super) fn standby_answered(&mut self, now: Now, pending: Pending, answer: Result<Reply, Failure>) {
        self.standby.tried = true;
        if answer.is_ok() {
            self.standby.quickest = self.standby.quickest.min(now.at.leader_since(pending.at));
        }
        let verb = pending.request.verb();
        match answer {
            Ok(reply) => {
                self.standby.refused.retain(|(v, _)| *v != verb);
                match reply {
                    Reply::Written(version) => self.won(now, pending, version),
                    Reply::Found(found) => self.looked(now, pending.at, found),
                }
            }
            Err(failure) => self.standby_failed(now, pending, failure),
        }
    }

    /// The answer to a get: nothing is newer, so an expired lock may be taken on exactly this version.
    fn looked(&mut self, now: Now, sent: Instant, found: Option<Observation>) {
        let overtaken = self.event.is_some_and(|event| event.boot >= sent.boot);
        if overtaken && let Known::Present(known) = &self.standby.known {
            // An event that came meanwhile may show a later version than this answer: then it is no news.
            if found.as_ref().is_none_or(|found| found.version.is_before(&known.version)) {
                return;
            }
        }
        let missed = self.watching()
            && match (&self.standby.known, &found) {
                (Known::Present(known), Some(found)) => known.record != found.record,
                (Known::Present(_), None) | (Known::Absent(_), Some(_)) => true,
                _ => false,
            };
        if missed && !self.standby.stale {
            // The watch should have told us: it is dead or far behind.
            self.watch = Watch::Closed;
        }
        self.standby.stale = false;
        self.standby.poll_at = self.poll_time(now);
        match found {
            Some(found) => self.observe(now, found, true),
            None => self.vanished(now, None),
        }
        self.plan_standby(now, true);
    }

    fn standby_failed(&mut self, now: Now, pending: Pending, failure: Failure) {
        let write = pending.is_write();
        if failure == Failure::Conflict {
            self.standby.refused.retain(|(verb, _)| *verb != pending.request.verb());
        }
        // Whatever became of a write, look before the next one.
        self.standby.stale |= write;
        let pause = if failure == Failure::Conflict {
            self.standby.lost_put(now.at.leader_since(pending.at));
            self.random.within(self.standby.crowd.min(FIRST_RETRY))
        } else if write && failure == Failure::Timeout {
            // It has had its time already.
            Duration::ZERO
        } else if write && self.standby.misses == 0 {
            FIRST_RETRY
        } else {
            left(now, self.poll_time(now))
        };
        self.standby.misses += u32::from(write && failure != Failure::Conflict);
        self.standby.not_before = Some(now.at.plus(pause));
        match failure {
            // Permissions, policies and certificates are mended while we wait; for R they are given a chance.
            Failure::Refused(..) | Failure::Unusable(_) => {
                let verb = pending.request.verb();
                let known = self.standby.refused.iter().find(|(v, _)| *v == verb);
                let since = known.map_or(now.at, |(_, since)| *since);
                if known.is_none() {
                    self.standby.refused.push((verb, now.at));
                }
                if now.at.leader_since(since) >= self.settings.renew_deadline {
                    self.end_standby(now, Outcome::Failed(failure));
                }
            }
            Failure::Rejected(_) => self.end_standby(now, Outcome::Failed(failure)),
            _ => {}
        }
    }

    /// Our own conditional write succeeded: nothing else makes a leader.
    fn won(&mut self, now: Now, pending: Pending, version: Version) {
        self.standby.crowd = FEW;
        let (Request::Create(record) | Request::Update(record, _)) = pending.request else {
            return;
        };
        self.standby.transitions = self.standby.transitions.max(record.transitions);
        self.start_term(now, pending.at, record, version);
        if self.finishing {
            self.start_release(now, None);
        }
    }

    /// Does what is due. `fresh`: what is known comes from a get of this very moment.
    pub(super) fn plan_standby(&mut self, now: Now, fresh: bool) {
        let writing = self.pending.as_ref().is_some_and(Pending::is_write);
        if !matches!(self.phase, Phase::Standby) || (writing && !Mutant::AbandonedWrite.is_on()) {
            // An acquiring write is never abandoned, neither by a signal nor by `wait`.
            return;
        }
        let end = if self.finishing {
            Some(Outcome::Stopped)
        } else {
            let waited = self.wait_left(now).is_some_and(|left| left.is_zero());
            waited.then(|| Outcome::GaveUp(self.gave_up()))
        };
        if let Some(outcome) = end {
            return self.end_standby(now, outcome);
        }
        if self.pending.is_some() {
            return;
        }
        match self.standby.not_before {
            Some(at) if !reached(now, at) => {}
            _ => {
                self.standby.not_before = None;
                self.plan_request(now, fresh);
            }
        }
        if self.pending.is_none() && self.wants_watch(now) {
            let from = self.standby.version().cloned();
            self.plan_watch(now, from);
        }
    }

    /// Ends the election. A write that is unclear may win the lock yet: it is superseded first, and the lock released
    /// if it has won.
    fn end_standby(&mut self, now: Now, outcome: Outcome) {
        if self.unclear.is_some() {
            self.start_release(now, Some(outcome));
        } else {
            self.over(outcome);
        }
    }

    /// A lock that is about to be taken needs no watch: the leader opens its own.
    fn wants_watch(&self, now: Now) -> bool {
        self.take_left(now).is_none() && !matches!(self.standby.known, Known::Nothing)
    }

    fn plan_request(&mut self, now: Now, fresh: bool) {
        let timeout = self.wait_left(now).unwrap_or(Duration::MAX);
        let look = self.standby.stale
            || matches!(self.standby.known, Known::Nothing)
            || if self.watching() {
                left(now, self.silence_at()).is_zero()
            } else {
                reached(now, self.standby.poll_at)
            };
        if !self.standby.stale && self.take_left(now).is_some_and(|left| left.is_zero()) {
            return self.take(now);
        }
        if self.expiry_left(now).is_some_and(|left| left.is_zero()) {
            // Expired as far as we know. Only a get of this moment proves that the watch did not miss a
            // renewal, and the write on its version that nobody renews meanwhile.
            return if fresh { self.take(now) } else { self.request(now, Request::Get, timeout) };
        }
        if look && !fresh && (self.take_left(now).is_none() || self.standby.stale) {
            self.request(now, Request::Get, timeout);
        }
    }

    fn take(&mut self, now: Now) {
        let (record, version) = match &self.standby.known {
            // A write of ours whose answer was lost: the same term goes on, with a new S.
            Known::Present(p) if p.ours => {
                let record = self.record(now, p.record.acquire_time.clone(), p.record.transition_count());
                (record, Some(p.version.clone()))
            }
            known => {
                // The API server takes no more than 32 bits.
                let transitions = self.standby.transitions.map_or(0, |t| t.saturating_add(1).min(i32::MAX.into()));
                let version = match known {
                    Known::Present(present) => Some(present.version.clone()),
                    _ => None,
                };
                // Its fraction of a second, where there is one, is random: two processes that were given one
                // identity and start in the same microsecond must not write the same record. It signs the release.
                let second = now.wall.0 - now.wall.0.rem_euclid(1_000_000);
                let acquired = Wall(second + (self.random.next() % 1_000_000) as i64);
                (self.record(now, self.settings.precision.text(acquired), transitions), version)
            }
        };
        self.write(now, record, version, Duration::MAX);
    }

    /// How long until the lock may be taken without an expiry, if that is so.
    fn take_left(&self, now: Now) -> Option<Duration> {
        match &self.standby.known {
            Known::Present(present) => present.take_at.map(|at| left(now, at)),
            Known::Absent(None) => Some(Duration::ZERO),
            Known::Absent(Some((since, wait))) => {
                let left = wait.saturating_sub(now.at.standby_since(*since));
                left.is_zero().then_some(left)
            }
            Known::Nothing => None,
        }
    }

    /// How long until the lock expires, as far as we know.
    fn expiry_left(&self, now: Now) -> Option<Duration> {
        match &self.standby.known {
            Known::Present(Present { take_at: None, record, since, .. }) => {
                let lease = record.lease_duration(self.settings.lease_duration);
                if Mutant::RecordsRenewTime.is_on() {
                    let renewed = record.renew_time.parse().map_or(0, |at: jiff::Timestamp| at.as_microsecond());
                    let passed = Duration::from_micros(now.wall.0.saturating_sub(renewed).max(0) as u64);
                    return Some(lease.saturating_sub(passed));
                }
                Some(lease.saturating_sub(now.at.standby_since(*since)))
            }
            _ => None,
        }
    }

    /// Whom we wait for, if we do.
    pub fn waiting(&self) -> Option<Waiting> {
        let writing = self.pending.as_ref().is_some_and(Pending::is_write);
        match &self.standby.known {
            Known::Present(Present { take_at: None, record, since, .. })
                if matches!(self.phase, Phase::Standby) && !self.finishing && !writing =>
            {
                Some(Waiting {
                    holder: record.holder.clone(),
                    since: self.standby.started,
                    renewed: *since,
                    lease: record.lease_duration(self.settings.lease_duration),
                })
            }
            _ => None,
        }
    }

    /// When the watch has been silent for so long that a get is due.
    fn silence_at(&self) -> Instant {
        let own = self.settings.lease_duration;
        let lease = match &self.standby.known {
            Known::Present(present) => present.record.lease_duration(own).min(own),
            _ => own,
        };
        self.heard.plus(lease / 2)
    }

    fn wait_left(&self, now: Now) -> Option<Duration> {
        let wait = self.settings.wait?;
        if wait.is_zero() && !self.standby.tried {
            return None;
        }
        // A lock found free at the one try is still taken.
        if wait.is_zero() && self.take_left(now).is_some() && !self.standby.stale {
            return None;
        }
        Some(wait.saturating_sub(now.at.leader_since(self.standby.started)))
    }

    /// As client-go polls: evenly from one to 2.2 retry periods.
    fn poll_time(&mut self, now: Now) -> Instant {
        let period = self.settings.retry_period;
        now.at.plus(period + self.random.within(period.mul_f64(1.2)))
    }

    fn gave_up(&self) -> GaveUp {
        let own = self.settings.lease_duration;
        let record = match &self.standby.known {
            Known::Present(present) => Some(present.record.clone()),
            _ => None,
        };
        GaveUp {
            lease_duration: record.as_ref().map_or(own, |r| r.lease_duration(own)),
            record,
            changed: self.standby.changed,
            failure: self.last_failure(),
        }
    }

    pub(super) fn wake_standby(&self, now: Now) -> Option<Duration> {
        let wait = self.wait_left(now).filter(|_| !self.pending.as_ref().is_some_and(Pending::is_write));
        if self.pending.is_some() {
            return wait;
        }
        let next = if let Some(at) = self.standby.not_before {
            Some(left(now, at))
        } else if let Some(left) = self.take_left(now) {
            Some(left)
        } else {
            let look = if self.watching() { self.silence_at() } else { self.standby.poll_at };
            let absent = match &self.standby.known {
                Known::Absent(Some((since, wait))) => Some(wait.saturating_sub(now.at.standby_since(*since))),
                _ => None,
            };
            let moments = [self.expiry_left(now), absent, Some(left(now, look))];
            moments.into_iter().flatten().min()
        };
        let watch = self.watch_retry(now).filter(|_| self.wants_watch(now));
        wait.into_iter().chain(next).chain(watch).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_learns_how_large_the_crowd_is() {
        let millis = Duration::from_millis;
        let mut standby = Standby::new(Instant::now());
        standby.quickest = millis(2);
        // One that was a little quicker.
        standby.lost_put(millis(5));
        assert_eq!(standby.crowd, FEW * 2);
        standby.taken(millis(20), Duration::ZERO);
        assert_eq!(standby.crowd, FEW * 2, "learned from this release already");
        standby.taken(millis(20), Duration::ZERO);
        assert_eq!(standby.crowd, FEW);
        // The server had many to refuse.
        standby.lost_put(millis(98));
        assert_eq!(standby.crowd, MANY);
        standby.taken(millis(900), Duration::ZERO);
        // The first of them is quick each time; when they are gone, nobody is.
        for after in [30, 100, 300] {
            standby.taken(millis(after), Duration::ZERO);
            assert_eq!(standby.crowd, MANY);
        }
        standby.taken(millis(1_300), Duration::ZERO);
        assert_eq!(standby.crowd, FEW);
        // Many were told before us.
        standby.taken(millis(1), Duration::ZERO);
        assert_eq!(standby.crowd, LATE.0);
        standby.taken(millis(60), millis(40));
        assert_eq!(standby.crowd, MANY);
    }
}
