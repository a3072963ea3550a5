//! Keeping the lock while leading, and giving it back.

use super::*;

/// How long a release may take, at most.
const RELEASE_TIME: Duration = Duration::from_secs(3);

/// What a leader has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Write the lock again, on the version we know.
    Renew,
    /// Find out what the lock says: a write failed, or may have been carried out without our knowing.
    Look,
    /// Create it again: it was deleted.
    Create,
}

/// A time of leadership.
#[derive(Debug)]
pub(super) struct Term {
    /// S: our clock before the last write was sent that is known to have succeeded.
    since: Instant,
    acquire_time: String,
    transitions: i64,
    version: Version,
    /// The child was told to start.
    led: bool,
    need: Need,
    next: Instant,
    /// Failures in a row.
    failures: u32,
    /// Conflicts in a row.
    conflicts: u32,
}

/// Giving the lock back.
#[derive(Debug)]
pub(super) struct Release {
    until: Instant,
    next: Instant,
    step: ReleaseStep,
    /// How the election ends, where that is not with the release.
    outcome: Option<Outcome>,
    /// Whose it is, where another process was the leader.
    term: Option<Record>,
}

/// What a release does next.
#[derive(Debug)]
enum ReleaseStep {
    /// Read the lock: only a get shows whether it is ours.
    Look,
    /// Clear this record of ours, on its version.
    Clear(Box<Observation>),
    /// Write a record without a holder in place of the unclear write, so that this one can no longer be carried out.
    Supersede,
}

impl Elector {
    pub(super) fn start_term(&mut self, now: Now, since: Instant, record: Record, version: Version) {
        self.forget_before(since);
        self.phase = Phase::Leading(Term {
            since,
            transitions: record.transition_count(),
            acquire_time: record.acquire_time,
            version,
            led: false,
            need: Need::Renew,
            next: since.plus(self.settings.retry_period),
            failures: 0,
            conflicts: 0,
        });
        self.start_child(now);
    }

    /// The child starts only while R has not passed since the write was sent; otherwise one more write
    /// comes first.
    fn start_child(&mut self, now: Now) {
        let deadline = self.settings.renew_deadline;
        let Phase::Leading(term) = &mut self.phase else {
            return;
        };
        if self.finishing {
            // Won while a stop was asked for: there is nothing to start any more.
        } else if term.led {
            self.out.push(Action::Renewed(term.since));
        } else if now.at.leader_since(term.since) < deadline {
            term.led = true;
            let (since, token) = (term.since, term.version.revision.clone());
            let (acquire_time, transitions) = (term.acquire_time.clone(), term.transitions);
            let record = self.record(now, acquire_time, transitions);
            self.out.push(Action::Lead(Leadership { since, token, record }));
            let identity = self.settings.identity.clone();
            self.report_leader(&identity);
        } else {
            term.next = now.at;
        }
    }

    pub(super) fn check_deadline(&mut self, now: Now) {
        if let Phase::Leading(term) = &self.phase
            && term.led
            && !(Mutant::LateSuccess.is_on() && self.pending.as_ref().is_some_and(Pending::is_write))
            && now.at.leader_since(term.since) >= self.settings.renew_deadline
        {
            let unanswered = self.pending.is_some().then_some(Failure::Timeout);
            // A conflict is not a failure, so it is the reason only where nothing has failed since.
            let overtaken = (term.conflicts > 0).then_some(Failure::Conflict);
            self.lose(now, Loss::Deadline(self.last_failure().or(overtaken).or(unanswered)), None);
        }
    }

    /// Ends the term. `seen`: what the lock says instead, where that is the reason.
    pub(super) fn lose(&mut self, now: Now, loss: Loss, seen: Option<Observation>) {
        self.forget_request();
        if matches!(&self.phase, Phase::Leading(term) if !term.led) {
            // Won too late to start the child, and lost again: nothing has been lost with it.
            self.phase = Phase::Standby;
            self.standby.look_again();
            if let Some(seen) = seen {
                self.observe(now, seen, true);
            }
            return;
        }
        self.phase = Phase::Over;
        if let Loss::Taken(holder) = &loss {
            self.report_leader(holder);
        }
        self.out.push(Action::Lost(loss));
        if Mutant::ReleaseAfterLoss.is_on() {
            self.start_release(now, None);
        }
    }

    pub(super) fn leader_answered(&mut self, now: Now, pending: Pending, answer: Result<Reply, Failure>) {
        let period = self.settings.retry_period;
        let Phase::Leading(term) = &mut self.phase else {
            return;
        };
        match answer {
            Ok(Reply::Written(version)) => {
                assert!(!(Mutant::Panics.is_on() && term.led), "a mistake that was asked for");
                term.since = if Mutant::CountedFromResponse.is_on() { now.at } else { pending.at };
                term.version = version;
                term.need = Need::Renew;
                term.next = pending.at.plus(period);
                term.failures = 0;
                term.conflicts = 0;
                self.forget_before(pending.at);
                self.start_child(now);
            }
            Ok(Reply::Found(Some(found))) => self.judge(now, found, false),
            Ok(Reply::Found(None)) => self.recreate(now),
            Err(Failure::Conflict) => {
                // Somebody touched the object, or took it. At once the first times; a storm is slowed down.
                term.conflicts += 1;
                let pause = match term.conflicts {
                    0..=2 => Duration::ZERO,
                    n => (Duration::from_millis(10) * 2u32.pow(n.min(10))).min(period),
                };
                term.need = Need::Look;
                term.next = now.at.plus(pause);
            }
            Err(failure) => {
                term.failures += 1;
                let retry = if term.failures == 1 { FIRST_RETRY.min(period) } else { period };
                match failure {
                    // It has had its time already. It may have been carried out: look, then write again.
                    Failure::Timeout => (term.need, term.next) = (Need::Look, now.at),
                    Failure::Unclear(_) => (term.need, term.next) = (Need::Look, now.at.plus(retry)),
                    _ => term.next = now.at.plus(retry),
                }
            }
        }
    }

    /// The watch showed the lock.
    /// `follows_ours`: it showed every version, and the one right before this is ours.
    pub(super) fn leader_saw(&mut self, now: Now, seen: Observation, follows_ours: bool) {
        let Phase::Leading(term) = &self.phase else {
            return;
        };
        if !term.version.is_before(&seen.version) {
            return;
        }
        // Our own write that is under way arrives here before its answer: nothing to do about it yet.
        if self.pending.is_some() && self.is_ours(&seen.record) {
            return;
        }
        self.judge(now, seen, follows_ours);
    }

    pub(super) fn leader_saw_deleted(&mut self, now: Now, deleted: &Version) {
        let Phase::Leading(term) = &self.phase else {
            return;
        };
        if term.version.uid == deleted.uid {
            self.recreate(now);
        }
    }

    /// Decides what this state of the lock, newer than any that we know, means for a leader. `follows_ours`: no version
    /// lies between it and one of ours.
    fn judge(&mut self, now: Now, seen: Observation, follows_ours: bool) {
        let ours = self.is_ours(&seen.record);
        let own_name = seen.record.holder == self.settings.identity;
        let Phase::Leading(term) = &mut self.phase else {
            return;
        };
        // A peer that no longer leads can clear a lock that it does not hold (client-go since 1.34), and people
        // replace the object. Nobody has led in between where the transitions are still ours, or where nothing is
        // written but this version.
        let blank =
            seen.record.is_blank() && (follows_ours && self.settings.complete_watch || Mutant::BlankRestored.is_on());
        let cleared = (seen.record.is_cleared_of(term.transitions) || blank) && seen.version.uid == term.version.uid;
        if !ours && !cleared {
            let loss = if own_name { Loss::Twin } else { Loss::Taken(seen.record.holder.clone()) };
            return self.lose(now, loss, Some(seen));
        }
        // A get that shows our own write is no leadership: only the answer to a write is. So write again,
        // at once where one failed or the lock was cleared; a changed label can wait for its turn.
        if cleared || term.need != Need::Renew {
            term.next = now.at;
        }
        term.version = seen.version;
        term.need = Need::Renew;
        if cleared {
            self.out.push(Action::Say(Notice::Reasserting));
            self.forget_request();
        }
    }

    fn recreate(&mut self, now: Now) {
        let Phase::Leading(term) = &mut self.phase else {
            return;
        };
        term.need = Need::Create;
        term.next = now.at;
        self.out.push(Action::Say(Notice::Recreating));
        self.forget_request();
    }

    pub(super) fn plan_leader(&mut self, now: Now) {
        let Phase::Leading(term) = &self.phase else {
            return;
        };
        if self.pending.is_none() && reached(now, term.next) {
            let timeout = self.settings.renew_deadline.saturating_sub(now.at.leader_since(term.since));
            let timeout = if term.led { timeout } else { Duration::MAX };
            let record = self.record(now, term.acquire_time.clone(), term.transitions);
            let version = term.version.clone();
            match term.need {
                Need::Renew => self.write(now, record, Some(version), timeout),
                Need::Create => self.write(now, record, None, timeout),
                Need::Look => self.request(now, Request::Get, timeout),
            }
        }
        let Phase::Leading(term) = &self.phase else {
            return;
        };
        // Our own renewals are events too: one that has seen none of them for long is dead.
        if self.watching() && term.failures == 0 && left(now, self.leader_silence()).is_zero() {
            self.watch = Watch::Closed;
        }
        let from = Some(term.version.clone());
        self.plan_watch(now, from);
    }

    /// When a watch that was open all the time has missed our own renewals for too long.
    fn leader_silence(&self) -> Instant {
        let since = match self.watch {
            Watch::Open { since } if since.boot > self.heard.boot => since,
            _ => self.heard,
        };
        since.plus((self.settings.lease_duration / 2).max(self.settings.retry_period * 2))
    }

    pub(super) fn wake_leader(&self, now: Now, term: &Term) -> Option<Duration> {
        let deadline = term.led.then(|| term.since.plus(self.settings.renew_deadline).leader_left(now.at));
        let next = self.pending.is_none().then(|| left(now, term.next));
        let silence = (self.watching() && term.failures == 0).then(|| left(now, self.leader_silence()));
        [deadline, next, silence, self.watch_retry(now)].into_iter().flatten().min()
    }

    /// Starts to give the lock back, which is done only as far as a get shows that it is ours.
    pub(super) fn start_release(&mut self, now: Now, outcome: Option<Outcome>) {
        self.forget_request();
        let time = match outcome {
            None => self.settings.renew_deadline.min(RELEASE_TIME),
            // There may be nothing to release: an unclear write is superseded, or waited for.
            Some(_) => self.settings.request_timeout,
        };
        self.phase = Phase::Releasing(Box::new(Release {
            until: now.at.plus(time),
            next: now.at,
            step: ReleaseStep::Look,
            outcome,
            term: None,
        }));
    }

    /// It is another process's, and has less time.
    pub(super) fn release_of(&mut self, now: Now, record: Record, within: Duration) {
        if let Phase::Releasing(release) = &mut self.phase {
            release.until = release.until.earlier(now.at.plus(within));
            release.term = Some(record);
        }
    }

    pub(super) fn release_answered(&mut self, now: Now, answer: Result<Reply, Failure>) {
        let mut ours = matches!(&answer, Ok(Reply::Found(Some(found))) if self.is_ours(&found.record));
        let Phase::Releasing(release) = &mut self.phase else {
            return;
        };
        if let (Some(term), Ok(Reply::Found(Some(found)))) = (&release.term, &answer) {
            ours |= found.record.is_of_term(term);
        }
        let outcome = release.outcome.clone();
        match answer {
            Ok(Reply::Found(Some(found))) if ours => release.step = ReleaseStep::Clear(Box::new(found)),
            Ok(Reply::Found(_)) if self.unclear.is_some() => release.step = ReleaseStep::Supersede,
            // Given back; or cleared, taken or deleted: there is nothing of ours to give back.
            Ok(reply) => {
                let there = if let Reply::Found(Some(found)) = reply { found.record.holder } else { String::new() };
                self.report_leader(&there);
                self.over(outcome.unwrap_or(Outcome::Released));
            }
            Err(failure) => {
                release.step = ReleaseStep::Look;
                if failure != Failure::Conflict {
                    release.next = now.at.plus(FIRST_RETRY);
                }
            }
        }
    }

    pub(super) fn plan_release(&mut self, now: Now) {
        let Phase::Releasing(release) = &self.phase else {
            return;
        };
        let time = left(now, release.until);
        if time.is_zero() {
            let outcome = release.outcome.clone().unwrap_or(Outcome::NotReleased(self.last_failure()));
            return self.over(outcome);
        }
        if self.pending.is_some() || !reached(now, release.next) {
            return;
        }
        let cleared = |record: &Record| record.release(self.renew_time(now), self.settings.precision);
        let request = match (&release.step, &self.unclear) {
            (ReleaseStep::Clear(held), _) => Request::Update(cleared(&held.record), held.version.clone()),
            (ReleaseStep::Supersede, Some(Request::Update(record, on))) => Request::Update(cleared(record), on.clone()),
            (ReleaseStep::Supersede, Some(Request::Create(record))) => Request::Create(cleared(record)),
            _ => Request::Get,
        };
        self.request(now, request, time);
    }

    pub(super) fn wake_release(&self, now: Now, release: &Release) -> Duration {
        let next = if self.pending.is_none() { left(now, release.next) } else { Duration::MAX };
        left(now, release.until).min(next)
    }

    /// Forgets what was sent before S: none of it can be the latest version any more.
    fn forget_before(&mut self, since: Instant) {
        self.sent.retain(|sent| sent.at.boot >= since.boot);
    }
}
