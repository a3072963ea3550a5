//! Who leads: a pure state machine. No clock, no I/O, no tokio.
//!
//! The semantics are client-go's `tryAcquireOrRenew`, driven by events instead of a loop. Its one caller
//! gives it the time and an [`Event`], carries out the [`Action`]s that come back, and calls again when
//! [`Elector::wake`] says so. At most one request is under way at a time.
//!
//! `standby.rs` contends for the lock, `leader.rs` keeps it and gives it back; what both need is here.

mod events;
mod leader;
mod random;
mod standby;
#[cfg(test)]
mod tests;

pub use events::{Action, Event, GaveUp, Leadership, Loss, Notice, Outcome, Settings, Waiting};

use crate::clock::{Instant, Now, Wall};
use crate::lock::record::{Record, UNKNOWN};
use crate::lock::request::{Change, Failure, Observation, Reply, Request, Verb, Version};
use crate::mutant::Mutant;
use leader::{Release, Term};
use random::Random;
use standby::Standby;
use std::time::Duration;

#[derive(Debug)]
struct Pending {
    id: u64,
    request: Request,
    /// Our clock before it was sent.
    at: Instant,
    /// What `last_sent` was before it, for the case that it is refused.
    sent_before: Option<Wall>,
}

impl Pending {
    fn is_write(&self) -> bool {
        !matches!(self.request, Request::Get)
    }
}

#[derive(Debug)]
struct Sent {
    at: Instant,
    renew_time: Wall,
    record: Record,
}

#[derive(Debug)]
enum Phase {
    Standby,
    Leading(Term),
    Releasing(Box<Release>),
    Over,
}

#[derive(Debug)]
enum Watch {
    Closed,
    Open { since: Instant },
    Broken { retry: Instant },
}

/// After these the watch is tried again.
const WATCH_BACKOFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// How long until the first repetition of a failed request; later ones wait a retry period.
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// The state machine. See the module's description.
#[derive(Debug)]
pub struct Elector {
    settings: Settings,
    random: Random,
    phase: Phase,
    standby: Standby,
    pending: Option<Pending>,
    /// A write of ours that was not answered and may still be carried out: nobody ends before it is settled.
    unclear: Option<Request>,
    next_id: u64,
    /// What we sent since S: a record equal to one of these is ours.
    sent: Vec<Sent>,
    /// The renewTime last sent, unless it was refused with a conflict.
    last_sent: Option<Wall>,
    watch: Watch,
    watch_backoff: Duration,
    watch_from_now: bool,
    /// The watch has shown every change since a version, and that version is ours.
    watch_at_ours: bool,
    polling_said: bool,
    /// When the state of the lock was last seen, by a get or an event.
    heard: Instant,
    /// When an event showed it last: a get that was sent before may be older.
    event: Option<Instant>,
    /// The last failure, until a request of the same verb succeeds.
    failing: Option<(Verb, Failure)>,
    finishing: bool,
    /// The leader people were last told of.
    leader: String,
    out: Vec<Action>,
}

impl Elector {
    /// An elector that starts contending at `now`.
    pub fn new(settings: Settings, now: Now) -> Elector {
        Elector {
            random: Random::new(settings.seed),
            phase: Phase::Standby,
            standby: Standby::new(now.at),
            pending: None,
            unclear: None,
            next_id: 0,
            sent: Vec::new(),
            last_sent: None,
            watch: Watch::Closed,
            watch_backoff: WATCH_BACKOFF.0,
            watch_from_now: false,
            watch_at_ours: false,
            polling_said: false,
            heard: now.at,
            event: None,
            failing: None,
            finishing: false,
            leader: String::new(),
            out: Vec::new(),
            settings,
        }
    }

    /// One that only gives the lock back, in this time at most, where it still is of the term with this record: for a
    /// process that has died.
    pub fn releasing(settings: Settings, now: Now, record: Record, within: Duration) -> Elector {
        let mut elector = Elector::new(settings, now);
        elector.finishing = true;
        elector.start_release(now, None);
        elector.release_of(now, record, within);
        elector
    }

    /// The elector of the next election, when this one is over: it starts afresh at `now`, but remembers that
    /// the lock exists, and what was written last.
    pub fn again(&self, now: Now) -> Elector {
        let seed = self.settings.seed.wrapping_add(1);
        let mut next = Elector::new(Settings { seed, resume: false, ..self.settings.clone() }, now);
        next.standby.remember(&self.standby);
        next.last_sent = self.last_sent;
        next.leader = self.leader.clone();
        next
    }

    /// Takes what happened, and says what to do.
    pub fn step(&mut self, now: Now, event: Event) -> Vec<Action> {
        // Before anything else: a success that comes too late never brings leadership back.
        self.check_deadline(now);
        match event {
            Event::Tick => {}
            Event::Answer(id, answer) => self.answered(now, id, answer),
            Event::Change(change) => self.changed(now, change),
            Event::Finish => self.finish(now),
            Event::Forfeit(reason) => {
                if matches!(self.phase, Phase::Leading(_)) {
                    self.lose(now, Loss::Forfeited(reason), None);
                }
            }
        }
        self.plan(now);
        std::mem::take(&mut self.out)
    }

    /// How long until [`Elector::step`] wants to be called with a [`Event::Tick`] at the latest.
    pub fn wake(&self, now: Now) -> Option<Duration> {
        match &self.phase {
            Phase::Standby => self.wake_standby(now),
            Phase::Leading(term) => self.wake_leader(now, term),
            Phase::Releasing(release) => Some(self.wake_release(now, release)),
            Phase::Over => None,
        }
    }

    /// How long until a broken watch is tried again.
    fn watch_retry(&self, now: Now) -> Option<Duration> {
        match self.watch {
            Watch::Broken { retry } => Some(left(now, retry)),
            _ => None,
        }
    }

    /// Whether the lock is ours at this moment, as far as we know.
    pub fn is_leading(&self) -> bool {
        matches!(self.phase, Phase::Leading(_))
    }

    /// Does whatever is due; each phase's plan may lead on to the next one.
    fn plan(&mut self, now: Now) {
        self.plan_standby(now, false);
        self.plan_leader(now);
        self.plan_release(now);
    }

    fn answered(&mut self, now: Now, id: u64, answer: Result<Reply, Failure>) {
        // An answer to a request that was replaced or forgotten says nothing any more.
        let Some(pending) = self.pending.take_if(|p| p.id == id) else {
            return;
        };
        match &answer {
            Ok(Reply::Found(_)) => self.heard = now.at,
            Ok(Reply::Written(_)) => {}
            // Refused for its version: it was surely not carried out, so its renewTime counts for nothing.
            Err(Failure::Conflict) => self.last_sent = pending.sent_before,
            Err(_) => {}
        }
        self.settle(&pending.request, &answer);
        match &answer {
            Ok(_) | Err(Failure::Conflict) => self.succeeded(pending.request.verb()),
            Err(failure) => self.failed(pending.request.verb(), failure),
        }
        match self.phase {
            Phase::Standby => self.standby_answered(now, pending, answer),
            Phase::Leading(_) => self.leader_answered(now, pending, answer),
            Phase::Releasing(_) => self.release_answered(now, answer),
            Phase::Over => {}
        }
    }

    fn changed(&mut self, now: Now, change: Change) {
        match change {
            Change::Ended(failure) => return self.watch_ended(now, failure),
            Change::Alive => self.watch_backoff = WATCH_BACKOFF.0,
            Change::Seen(_) | Change::Deleted(_) => {
                self.watch_backoff = WATCH_BACKOFF.0;
                self.heard = now.at;
                self.event = Some(now.at);
            }
        }
        let mut follows_ours = false;
        if let Change::Seen(seen) = &change {
            self.settle_by(Some(&seen.version));
            let ours = self.is_ours(&seen.record);
            follows_ours = std::mem::replace(&mut self.watch_at_ours, ours);
        }
        match (&self.phase, change) {
            (Phase::Standby, Change::Seen(seen)) => self.observe(now, seen, false),
            (Phase::Standby, Change::Deleted(version)) => self.vanished(now, Some(version)),
            (Phase::Leading(_), Change::Seen(seen)) => self.leader_saw(now, seen, follows_ours),
            (Phase::Leading(_), Change::Deleted(version)) => self.leader_saw_deleted(now, &version),
            _ => {}
        }
    }

    /// Takes in what an answer says about a write that is unclear: a later version than the one it was to replace, or
    /// the answer to another write on that version. A get that shows that very version proves nothing.
    fn settle(&mut self, request: &Request, answer: &Result<Reply, Failure>) {
        match answer {
            Ok(Reply::Found(found)) => self.settle_by(found.as_ref().map(|found| &found.version)),
            // Whatever was sent earlier was for this version or for one before it.
            Ok(Reply::Written(_)) | Err(Failure::Conflict) => self.unclear = None,
            Err(Failure::Timeout | Failure::Unclear(_)) => self.is_unclear(request),
            Err(_) => {}
        }
    }

    /// `seen`: the latest version, or that there is none.
    fn settle_by(&mut self, seen: Option<&Version>) {
        self.unclear.take_if(|request| match (request, seen) {
            _ if Mutant::UnclearSettledByGet.is_on() => true,
            (Request::Update(_, base), Some(seen)) => base.is_before(seen),
            // An object that is gone is not written to; one that is there is not created.
            (Request::Update(..), None) | (Request::Create(_), Some(_)) => true,
            (Request::Create(_), None) => false,
            (Request::Get, _) => true,
        });
    }

    /// Nobody knows whether this request is carried out, or will be.
    fn is_unclear(&mut self, request: &Request) {
        if !matches!(request, Request::Get) {
            self.unclear = Some(request.clone());
        }
    }

    fn watch_ended(&mut self, now: Now, failure: Option<Failure>) {
        self.watch_from_now = true;
        self.watch_at_ours = false;
        let lived = match self.watch {
            Watch::Open { since } => now.at.leader_since(since),
            _ => return,
        };
        // One that ends as agreed lives for minutes; one that ends at once, again and again, is broken.
        if failure.is_none() && lived >= Duration::from_secs(1) {
            self.watch = Watch::Closed;
            return;
        }
        self.watch = Watch::Broken { retry: now.at.plus(self.watch_backoff) };
        self.watch_backoff = (self.watch_backoff * 2).min(WATCH_BACKOFF.1);
        if let Some(failure @ (Failure::Refused(..) | Failure::Rejected(_))) = failure
            && !std::mem::replace(&mut self.polling_said, true)
        {
            self.out.push(Action::Say(Notice::Polling(failure)));
        }
    }

    /// Opens the watch where there is none, and a broken one again when its time has come.
    fn plan_watch(&mut self, now: Now, from: Option<Version>) {
        let due = match self.watch {
            Watch::Closed => true,
            Watch::Broken { retry } => reached(now, retry),
            Watch::Open { .. } => false,
        };
        if due {
            let from = from.filter(|_| !std::mem::replace(&mut self.watch_from_now, false));
            self.watch = Watch::Open { since: now.at };
            self.watch_at_ours = self.is_leading() && from.is_some();
            self.out.push(Action::Watch(from));
        }
    }

    fn watching(&self) -> bool {
        matches!(self.watch, Watch::Open { .. })
    }

    fn finish(&mut self, now: Now) {
        self.finishing = true;
        if matches!(self.phase, Phase::Leading(_)) {
            self.start_release(now, None);
        }
    }

    fn request(&mut self, now: Now, request: Request, timeout: Duration) {
        self.next_id += 1;
        let sent_before = self.last_sent;
        let timeout = timeout.min(self.settings.request_timeout);
        self.out.push(Action::Request(self.next_id, request.clone(), timeout));
        self.pending = Some(Pending { id: self.next_id, request, at: now.at, sent_before });
    }

    /// Writes this record, on this version or as a new object.
    fn write(&mut self, now: Now, record: Record, on: Option<Version>, timeout: Duration) {
        let request = match on {
            Some(version) => Request::Update(record.clone(), version),
            None => Request::Create(record.clone()),
        };
        let renew_time = self.renew_time(now);
        self.request(now, request, timeout);
        self.last_sent = Some(renew_time);
        self.sent.push(Sent { at: now.at, renew_time, record });
    }

    /// What a renewal written now says: peers compare whole seconds, so two of ours are never in the same
    /// one, whatever the wall clock does.
    fn renew_time(&self, now: Now) -> Wall {
        let next = self.last_sent.map(|last| last.plus(Duration::from_secs(1)));
        let next = next.filter(|_| !Mutant::SameSecond.is_on());
        next.map_or(now.wall, |next| next.max(now.wall))
    }

    /// The record of a holder: ours from now on, acquired then.
    fn record(&self, now: Now, acquire_time: String, transitions: i64) -> Record {
        Record {
            holder: self.settings.identity.clone(),
            lease_seconds: Some(self.settings.lease_duration.as_secs() as u32),
            acquire_time,
            renew_time: self.settings.precision.text(self.renew_time(now)),
            transitions: Some(transitions),
            ..Record::default()
        }
    }

    /// Whether this process wrote the record since S. Our name in any other record is another holder.
    fn is_ours(&mut self, record: &Record) -> bool {
        // A second half that names the same holder is an earlier one of ours, or written on the same version.
        let record = &Record { other_half: String::new(), ..record.clone() };
        let Some(sent) = self.sent.iter().find(|sent| sent.record == *record) else {
            return Mutant::OurNameIsOurs.is_on() && record.holder == self.settings.identity;
        };
        // It was carried out, even if the answer was a conflict (a request that was sent twice on the way).
        self.last_sent = self.last_sent.max(Some(sent.renew_time));
        true
    }

    fn succeeded(&mut self, verb: Verb) {
        if self.failing.take_if(|(failing, _)| *failing == verb).is_some() {
            self.out.push(Action::Say(Notice::Recovered));
        }
    }

    fn failed(&mut self, verb: Verb, failure: &Failure) {
        // Said once, but again when it is another kind of failure: "unreachable" is not "forbidden".
        let known = self.failing.replace((verb, failure.clone()));
        if known.is_none_or(|(_, known)| std::mem::discriminant(&known) != std::mem::discriminant(failure)) {
            self.out.push(Action::Say(Notice::Failing(failure.clone())));
        }
    }

    fn last_failure(&self) -> Option<Failure> {
        self.failing.as_ref().map(|(_, failure)| failure.clone())
    }

    /// Tells people who leads, where that is somebody else than before. As in client-go, a lock that is free at
    /// the first look is no news; nor is, unlike there, that two halves name different holders.
    fn report_leader(&mut self, holder: &str) {
        if self.leader != holder && holder != UNKNOWN {
            self.leader = holder.into();
            self.out.push(Action::Say(Notice::Leader(holder.into())));
        }
    }

    /// Forgets the request under way: its version is gone, or it is not wanted any more.
    fn forget_request(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.is_unclear(&pending.request);
            self.out.push(Action::Cancel);
        }
    }

    fn over(&mut self, outcome: Outcome) {
        // What has just been said to be tried again will not be. The outcome says what it was.
        self.out.retain(|action| !matches!(action, Action::Say(Notice::Failing(_))));
        self.forget_request();
        self.phase = Phase::Over;
        self.out.push(Action::Over(outcome));
    }
}

fn reached(now: Now, at: Instant) -> bool {
    now.at.boot >= at.boot
}

fn left(now: Now, at: Instant) -> Duration {
    at.boot.saturating_sub(now.at.boot)
}
