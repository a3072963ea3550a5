//! What goes into an elector and what comes out of it.

use crate::clock::Instant;
use crate::lock::record::{Precision, Record};
use crate::lock::request::{Change, Failure, Reply, Request, Version};
use std::time::Duration;

/// How an election is run. The timings satisfy `L > R > 1.2 P` and `R < K`: `config` has checked them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who we are, as written into the record.
    pub identity: String,
    /// L, in whole seconds.
    pub lease_duration: Duration,
    /// R: without a successful renewal for this long, leadership is lost.
    pub renew_deadline: Duration,
    /// P: how often a leader renews.
    pub retry_period: Duration,
    /// How long a single request may take.
    pub request_timeout: Duration,
    /// Give up when not leading after this long; zero tries once. `None`: never.
    pub wait: Option<Duration>,
    /// How finely the lock's records give times.
    pub precision: Precision,
    /// Take over at once a lock that our identity already holds at the first look.
    pub resume: bool,
    /// Whether a watch of this lock shows every version of it, in order and one by one.
    pub complete_watch: bool,
    /// Seeds the small random delays, so that a run can be repeated.
    pub seed: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The request of this number was answered, or failed.
    Answer(u64, Result<Reply, Failure>),
    /// The watch has something to say.
    Change(Change),
    /// No leadership is wanted any more: give the lock back if it is ours. While leading only to be
    /// said when the whole tree is proven gone.
    Finish,
    /// The child had to be stopped without us: leadership is lost, for this reason.
    Forfeit(String),
}

/// What to do about it, in this order.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send this request, and answer it under this number within this time. Replaces any earlier one.
    Request(u64, Request, Duration),
    /// Forget the request under way.
    Cancel,
    /// Watch the lock from this version on (`None`: from how it is now). Replaces any earlier watch.
    Watch(Option<Version>),
    /// We lead: start the child.
    Lead(Leadership),
    /// Leadership counts from this later instant now: move the deadlines.
    Renewed(Instant),
    /// Leadership is lost: stop the child. Nothing is ever written again.
    Lost(Loss),
    /// Nothing is held, and nothing more will be done.
    Over(Outcome),
    /// Tell people.
    Say(Notice),
}

/// What a term starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// Everything counts from here: our clock before the winning write was sent.
    pub since: Instant,
    /// The fencing token: the revision of the write that won the lock.
    pub token: String,
    /// What the lock said then. Its times apart, it says so for the whole term.
    pub record: Record,
}

/// Why leadership ended against our will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// R passed without a successful renewal; the last failure, if there was one.
    Deadline(Option<Failure>),
    /// The lock names another holder.
    Taken(String),
    /// The lock names our identity in a record that is not ours: a second process uses it.
    Twin,
    /// The child was stopped without us.
    Forfeited(String),
}

/// How an election ended that holds nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked: never led.
    Stopped,
    /// As asked: the lock was given back.
    Released,
    /// The lock could not be given back in time; it expires by itself. Why, where known.
    NotReleased(Option<Failure>),
    /// `wait` is over.
    GaveUp(GaveUp),
    /// Going on cannot help.
    Failed(Failure),
}

/// What is known when `wait` is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GaveUp {
    /// The last record seen, if any.
    pub record: Option<Record>,
    /// Whether the record changed while we looked: its holder is alive.
    pub changed: bool,
    /// How long the record is valid after it last changed.
    pub lease_duration: Duration,
    /// The last failure, if the last request failed.
    pub failure: Option<Failure>,
}

/// Whom a standby waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The holder of the lock, as it says.
    pub holder: String,
    /// Since when it is waited for the lock.
    pub since: Instant,
    /// When we saw it change last...
    pub renewed: Instant,
    /// ...after which it is valid for so long.
    pub lease: Duration,
}

/// What people are told in passing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Somebody else leads; this is the record, valid for so long after its last change.
    Waiting(Record, Duration),
    /// A request failed; said once until one succeeds.
    Failing(Failure),
    /// A request succeeded after that.
    Recovered,
    /// The lock cannot be watched, so it is polled.
    Polling(Failure),
    /// The lock was deleted under us and is created again.
    Recreating,
    /// The lock was cleared under us and is written again.
    Reasserting,
    /// The lock names this leader now, or nobody: client-go's OnNewLeader.
    Leader(String),
}
