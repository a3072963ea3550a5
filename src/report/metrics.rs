//! What can be asked over HTTP: what is known and counted of an election, and its forms. No clock and no I/O;
//! `http.rs` hands it out.

use crate::clock::Instant;
use crate::election::contender::Said;
use crate::election::elector::Notice;
use crate::guard::core::FromGuard;
use crate::lock::request::{Failure, Verb};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::Duration;

/// Seconds; renewals are counted by the first of these that they do not exceed.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What happened.
#[derive(Clone, Debug)]
pub enum News {
    /// The lock, as people call it.
    Opened(String),
    /// The next step is due then, if nothing happens before.
    Due(Option<Instant>),
    /// A request was sent, in place of any that is unanswered.
    Sent(Verb),
    /// It was answered, or failed.
    Answered(Result<(), Failure>),
    /// What people were told.
    Said(Said),
}

/// What has become of the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Child {
    None,
    Running,
    Stopping,
}

/// All that is known.
#[derive(Debug)]
pub struct Metrics {
    /// The lock's, for those who know client-go's metrics.
    name: String,
    identity: String,
    patience: Duration,
    lock: Option<String>,
    holder: String,
    transitions: i64,
    token: Option<String>,
    /// From a term's beginning until it is lost or the lock is given back.
    held_until: Option<Instant>,
    due: Option<Instant>,
    guard_failed: bool,
    taking_part: bool,
    child: Child,
    terms: u64,
    lost_terms: u64,
    slow_path: u64,
    sent: Option<(Verb, Instant)>,
    /// By verb and reason.
    failures: BTreeMap<(String, &'static str), u64>,
    renewals: [u64; BUCKETS.len()],
    renewals_count: u64,
    renewals_sum: Duration,
    lateness: Duration,
}

impl Metrics {
    /// Of an election that is yet to begin, for the lock of this name. A step that is later than `patience` is missed.
    pub fn new(name: String, identity: String, patience: Duration) -> Metrics {
        Metrics {
            name,
            identity,
            patience,
            lock: None,
            holder: String::new(),
            transitions: 0,
            token: None,
            held_until: None,
            due: None,
            guard_failed: false,
            taking_part: false,
            child: Child::None,
            terms: 0,
            lost_terms: 0,
            slow_path: 0,
            sent: None,
            failures: BTreeMap::new(),
            renewals: [0; BUCKETS.len()],
            renewals_count: 0,
            renewals_sum: Duration::ZERO,
            lateness: Duration::ZERO,
        }
    }

    /// Takes in what happened then.
    pub fn learn(&mut self, at: Instant, news: News) {
        match news {
            News::Opened(lock) => self.lock = Some(lock),
            News::Due(due) => self.due = due,
            News::Sent(verb) => {
                // As client-go counts: a leader renews without a look, and looks where that has failed.
                self.slow_path += u64::from(self.held_until.is_some() && verb == Verb::Get);
                self.sent = Some((verb, at));
            }
            News::Answered(answer) => self.answered(at, answer),
            News::Said(said) => self.said(said),
        }
    }

    fn answered(&mut self, at: Instant, answer: Result<(), Failure>) {
        let Some((verb, sent)) = self.sent.take() else {
            return;
        };
        if let Err(failure) = &answer {
            *self.failures.entry((verb.to_string(), reason(failure))).or_default() += 1;
        }
        // A conflict, too, is the answer of a server that may be asked.
        self.taking_part |= matches!(answer, Ok(()) | Err(Failure::Conflict));
        if answer.is_ok() && self.held_until.is_some() && verb != Verb::Get {
            let took = at.leader_since(sent);
            self.renewals_count += 1;
            self.renewals_sum += took;
            let bucket = BUCKETS.iter().position(|limit| took.as_secs_f64() <= *limit);
            bucket.into_iter().for_each(|bucket| self.renewals[bucket] += 1);
        }
    }

    fn said(&mut self, said: Said) {
        match said {
            Said::Leading(leadership) => {
                self.terms += 1;
                self.holder.clone_from(&self.identity);
                self.token = Some(leadership.token);
                self.transitions = leadership.record.transition_count();
            }
            Said::HeldUntil(until) => self.held_until = Some(until),
            Said::Lost(_) => {
                self.lost_terms += 1;
                self.stopping();
                self.hold_no_more();
            }
            Said::GivingBack => self.hold_no_more(),
            Said::Stopping(_) | Said::SteppingDown(_) => self.stopping(),
            Said::Notice(Notice::Leader(holder)) => self.holder = holder,
            Said::Notice(Notice::Waiting(record, _)) => self.transitions = record.transition_count(),
            Said::Tree(FromGuard::Started(..)) => self.child = Child::Running,
            Said::Tree(FromGuard::Exited(..) | FromGuard::Expired(_) | FromGuard::Killing(_)) => self.stopping(),
            Said::Tree(FromGuard::Gone(_)) => self.child = Child::None,
            Said::Tree(FromGuard::Slow(_, late)) => self.lateness = late,
            Said::GuardFailed(_) => self.guard_failed = true,
            _ => {}
        }
    }

    fn hold_no_more(&mut self) {
        (self.held_until, self.token) = (None, None);
        if self.holder == self.identity {
            // Who holds it now is yet to be seen.
            self.holder.clear();
        }
    }

    fn stopping(&mut self) {
        if self.child == Child::Running {
            self.child = Child::Stopping;
        }
    }

    /// How long the lock is ours at least; `None` when we do not lead. Past the deadline we do not, whether or not
    /// that has been noticed.
    fn held_for(&self, now: Instant) -> Option<Duration> {
        let left = self.held_until?.leader_left(now);
        Some(left).filter(|left| !left.is_zero())
    }

    /// Whether the lock is ours at this moment.
    pub fn is_leading(&self, now: Instant) -> bool {
        self.held_for(now).is_some()
    }

    /// Whether the election goes on: the guard is as it should be, and steps are taken when they are due.
    pub fn is_live(&self, now: Instant) -> bool {
        // In a suspend no step can be taken.
        !self.guard_failed && self.due.is_none_or(|due| now.standby_since(due) < self.patience)
    }

    /// Whether we take part in the election: the lock has been read, or written.
    pub fn is_taking_part(&self) -> bool {
        self.taking_part
    }

    /// Who leads. The name alone is what the leader-elector sidecar answered.
    pub fn leader(&self, now: Instant) -> Value {
        let held_for = self.held_for(now);
        // Past the deadline it is no longer ours, whatever was seen last.
        let outdated = self.held_until.is_some() && held_for.is_none();
        json!({
            "name": if outdated { "" } else { &self.holder },
            "leader": held_for.is_some(),
            "identity": self.identity,
            "lock": self.lock,
            "token": self.token.as_ref().filter(|_| held_for.is_some()),
            "transitions": self.transitions,
            "deadlineSeconds": held_for.map(|left| left.as_secs_f64()),
        })
    }

    /// All that is counted, in the text format of Prometheus.
    pub fn text(&self, now: Instant) -> String {
        let mut text = Text(String::new());
        // A valid name of a lock needs no escapes.
        let name = format!("name=\"{}\"", self.name);
        let leading = u64::from(self.is_leading(now));
        text.family("leader_election_master_status", "gauge", "1 while this process leads, else 0.");
        text.sample("leader_election_master_status", &name, leading);
        text.family("leader_election_slowpath_total", "counter", "Looks at the lock while leading, to renew it.");
        text.sample("leader_election_slowpath_total", &name, self.slow_path);
        text.one("leader_run_transitions", "gauge", "Changes of leader, as the lock says.", self.transitions);
        let held_for = self.held_for(now).unwrap_or_default().as_secs_f64();
        text.one(
            "leader_run_deadline_seconds",
            "gauge",
            "Until this leader's command is dead if not renewed.",
            held_for,
        );
        text.one("leader_run_terms_total", "counter", "Terms of leadership begun.", self.terms);
        text.one("leader_run_lost_terms_total", "counter", "Terms of leadership lost.", self.lost_terms);
        text.family("leader_run_child_state", "gauge", "1 for what the command's processes are, else 0.");
        for (state, name) in [(Child::None, "none"), (Child::Running, "running"), (Child::Stopping, "stopping")] {
            let label = format!("state=\"{name}\"");
            text.sample("leader_run_child_state", &label, u64::from(self.child == state));
        }
        let late = self.lateness.as_secs_f64();
        text.one("leader_run_guard_lateness_seconds", "gauge", "How late the guard was when it last said so.", late);
        text.family("leader_run_request_failures_total", "counter", "Requests for the lock that failed.");
        for ((verb, reason), count) in &self.failures {
            let labels = format!("verb=\"{verb}\",reason=\"{reason}\"");
            text.sample("leader_run_request_failures_total", &labels, count);
        }
        text.family("leader_run_renew_seconds", "histogram", "How long successful renewals took.");
        let mut below = 0;
        for (limit, count) in BUCKETS.iter().zip(self.renewals) {
            below += count;
            text.sample("leader_run_renew_seconds_bucket", &format!("le=\"{limit}\""), below);
        }
        text.sample("leader_run_renew_seconds_bucket", "le=\"+Inf\"", self.renewals_count);
        text.sample("leader_run_renew_seconds_sum", "", self.renewals_sum.as_secs_f64());
        text.sample("leader_run_renew_seconds_count", "", self.renewals_count);
        text.0
    }
}

/// The text format of Prometheus, as it is written.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }
}

/// As a label says it.
fn reason(failure: &Failure) -> &'static str {
    match failure {
        Failure::Conflict => "conflict",
        Failure::Refused(..) => "refused",
        Failure::Rejected(_) => "rejected",
        Failure::Unusable(_) => "unusable",
        Failure::Busy(_) => "busy",
        Failure::Declined(_) => "declined",
        Failure::Timeout => "timeout",
        Failure::Unclear(_) => "unclear",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election::elector::{Leadership, Loss};
    use crate::lock::record::Record;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Instant {
        Instant { boot: SECOND * seconds as u32, raw: SECOND * seconds as u32 }
    }

    fn metrics() -> Metrics {
        Metrics::new("demo".into(), "me".into(), SECOND * 15)
    }

    /// A leader since 100 s, whose lock is held until 113 s.
    fn leader() -> Metrics {
        let mut metrics = metrics();
        let record = Record { transitions: Some(4), ..Record::default() };
        let leadership = Leadership { since: at(100), token: "77".into(), record };
        for news in [
            News::Opened("lease ops/demo".into()),
            News::Sent(Verb::Update),
            News::Answered(Ok(())),
            News::Said(Said::Leading(leadership)),
            News::Said(Said::HeldUntil(at(113))),
            News::Said(Said::Tree(FromGuard::Started(1, 4711))),
        ] {
            metrics.learn(at(100), news);
        }
        metrics
    }

    #[test]
    fn a_leader_is_one_until_its_deadline_whatever_it_has_noticed() {
        let metrics = leader();
        assert!(metrics.is_leading(at(112)));
        let answer = json!({"name": "me", "leader": true, "identity": "me", "lock": "lease ops/demo", "token": "77",
            "transitions": 4, "deadlineSeconds": 1.0});
        assert_eq!(metrics.leader(at(112)), answer);
        assert!(!metrics.is_leading(at(113)));
        let answer = json!({"name": "", "leader": false, "identity": "me", "lock": "lease ops/demo", "token": null,
            "transitions": 4, "deadlineSeconds": null});
        assert_eq!(metrics.leader(at(113)), answer);
        assert!(metrics.text(at(113)).contains("leader_election_master_status{name=\"demo\"} 0\n"));
    }

    #[test]
    fn who_leads_after_us_is_not_known_before_it_is_seen() {
        let mut metrics = leader();
        metrics.learn(at(101), News::Said(Said::GivingBack));
        assert!(!metrics.is_leading(at(101)));
        assert_eq!(metrics.leader(at(101))["name"], "");
        let mut metrics = leader();
        metrics.learn(at(102), News::Said(Said::Notice(Notice::Leader("b".into()))));
        metrics.learn(at(102), News::Said(Said::Lost(Loss::Taken("b".into()))));
        assert!(!metrics.is_leading(at(102)));
        assert_eq!(metrics.leader(at(102))["name"], "b");
        let text = metrics.text(at(102));
        for line in ["leader_run_terms_total 1", "leader_run_lost_terms_total 1"] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn only_a_leader_s_own_writes_are_renewals_and_only_its_looks_are_slow() {
        let mut metrics = metrics();
        metrics.learn(at(99), News::Sent(Verb::Get));
        assert!(!metrics.is_taking_part());
        metrics.learn(at(100), News::Answered(Ok(())));
        assert!(metrics.is_taking_part());
        let mut metrics = leader();
        for (verb, answer) in [
            (Verb::Update, Err(Failure::Conflict)),
            (Verb::Get, Ok(())),
            (Verb::Update, Err(Failure::Timeout)),
            (Verb::Update, Ok(())),
        ] {
            metrics.learn(at(101), News::Sent(verb));
            metrics.learn(at(103), News::Answered(answer));
        }
        let text = metrics.text(at(103));
        for line in [
            "leader_election_slowpath_total{name=\"demo\"} 1",
            "leader_run_renew_seconds_bucket{le=\"1\"} 0",
            "leader_run_renew_seconds_bucket{le=\"2.5\"} 1",
            "leader_run_renew_seconds_bucket{le=\"+Inf\"} 1",
            "leader_run_renew_seconds_sum 2",
            "leader_run_request_failures_total{verb=\"update\",reason=\"conflict\"} 1",
            "leader_run_request_failures_total{verb=\"update\",reason=\"timeout\"} 1",
            "leader_run_child_state{state=\"running\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn an_election_that_stands_still_or_has_no_guard_is_not_live() {
        let mut metrics = leader();
        metrics.learn(at(100), News::Due(Some(at(102))));
        assert!(metrics.is_live(at(116)) && !metrics.is_live(at(117)));
        let suspended = Instant { boot: at(500).boot, raw: at(103).raw };
        assert!(metrics.is_live(suspended), "nothing can be done in a suspend");
        metrics.learn(at(118), News::Due(None));
        assert!(metrics.is_live(at(1000)));
        metrics.learn(at(119), News::Said(Said::GuardFailed("died")));
        assert!(!metrics.is_live(at(119)));
    }
}
