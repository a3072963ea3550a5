//! The orders that the contender keeps: which message, which exit code and which end follow from what.

use super::*;
use crate::clock::Wall;
use crate::lock::record::{Precision, Record};
use crate::lock::request::Observation;
use crate::lock::request::tests::version;
use nix::libc::{EACCES, EAGAIN, ENOENT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

const SECOND: Duration = Duration::from_secs(1);
const LOSS_GRACE: Duration = Duration::from_millis(3_500);
const STOP_GRACE: Duration = Duration::from_secs(25);
const LOST_CODE: i32 = 75;

fn settings() -> Settings {
    Settings {
        election: elector::Settings {
            identity: "a".into(),
            lease_duration: SECOND * 15,
            renew_deadline: SECOND * 10,
            retry_period: SECOND * 2,
            request_timeout: SECOND * 5,
            wait: None,
            precision: Precision::Microseconds,
            resume: false,
            complete_watch: true,
            seed: 7,
        },
        loss_grace: LOSS_GRACE,
        stop_grace: STOP_GRACE,
        stop_signal: SIGQUIT,
        step_down_signal: Some(SIGUSR1),
        rejoin: false,
        lost_exit_code: LOST_CODE,
        env: vec!["ROLE=leader".into()],
    }
}

fn rejoining() -> Settings {
    Settings { rejoin: true, ..settings() }
}

fn held_by_other() -> Record {
    Record { holder: "b".into(), lease_seconds: Some(15), transitions: Some(1), ..Record::default() }
}

/// A contender, the lock that it contends for, and what it did.
struct Rig {
    contender: Contender,
    now: Now,
    /// What the lock says, and its revision. It answers at once, unless it is unreachable.
    lock: Option<Record>,
    revision: u64,
    reachable: bool,
    request: Option<(u64, Request)>,
    writes: Vec<Record>,
    /// All actions other than requests, since they were last taken.
    done: Vec<Action>,
    exit: Option<i32>,
}

impl Rig {
    fn new(settings: Settings, lock: Option<Record>) -> Rig {
        let at = Instant { boot: SECOND * 1_000, raw: SECOND * 1_000 };
        let now = Now { at, wall: Wall(1_795_330_800_000_000) };
        let mut rig = Rig {
            contender: Contender::new(settings, now),
            now,
            lock,
            revision: 1,
            reachable: true,
            request: None,
            writes: Vec::new(),
            done: Vec::new(),
            exit: None,
        };
        rig.event(Event::Tick);
        rig
    }

    /// Leads since now; the child is told to start, and nothing is known of it yet.
    fn starting(settings: Settings) -> Rig {
        let rig = Rig::new(settings, None);
        assert!(rig.contender.is_leading());
        rig
    }

    /// Leads since now, and the child runs.
    fn leading(settings: Settings) -> Rig {
        let mut rig = Rig::starting(settings);
        rig.acknowledge();
        rig.guard(FromGuard::Started(1, 99));
        rig.done.clear();
        rig
    }

    /// Leads since now, and the guard was told too late to start the child.
    fn late(settings: Settings) -> Rig {
        let mut rig = Rig::starting(settings);
        rig.guard(FromGuard::Late(1));
        rig.done.clear();
        rig
    }

    /// A standby whose acquiring write is under way.
    fn acquiring() -> Rig {
        let mut rig = Rig::new(settings(), Some(held_by_other()));
        rig.reachable = false;
        rig.revision = 2;
        rig.lock = Some(Record { transitions: Some(1), ..Record::default() });
        let seen = Observation { record: rig.lock.clone().unwrap(), version: version("u", 2) };
        rig.event(Event::Change(Change::Seen(seen)));
        rig.pass(Duration::from_millis(100));
        assert!(matches!(rig.request, Some((_, Request::Update(..)))));
        rig
    }

    fn event(&mut self, event: Event) {
        let mut actions = self.contender.step(self.now, event);
        for _ in 0..100 {
            for action in actions {
                match action {
                    Action::Request(id, request, _) => self.request = Some((id, request)),
                    Action::Cancel => self.request = None,
                    Action::Exit(code) => {
                        assert_eq!(self.exit.replace(code), None, "it exits once");
                        self.done.push(Action::Exit(code));
                    }
                    action => self.done.push(action),
                }
            }
            if !self.reachable || self.exit.is_some() {
                return;
            }
            let Some((id, request)) = self.request.take() else {
                return;
            };
            let answer = self.answer(request);
            actions = self.contender.step(self.now, Event::Answer(id, answer));
        }
        panic!("it asks without end: {:?}", self.contender);
    }

    fn answer(&mut self, request: Request) -> Result<Reply, Failure> {
        match request {
            Request::Get => {
                let version = version("u", self.revision);
                return Ok(Reply::Found(self.lock.clone().map(|record| Observation { record, version })));
            }
            Request::Create(_) if self.lock.is_some() => return Err(Failure::Conflict),
            Request::Update(_, on) if on != version("u", self.revision) => return Err(Failure::Conflict),
            Request::Create(record) | Request::Update(record, _) => {
                self.writes.push(record.clone());
                self.lock = Some(record);
            }
        }
        self.revision += 1;
        Ok(Reply::Written(version("u", self.revision)))
    }

    fn guard(&mut self, message: FromGuard) {
        self.event(Event::Guard(message));
    }

    /// The guard acknowledges the latest deadlines.
    fn acknowledge(&mut self) {
        let (term, kill) = (self.contender.terms, self.contender.term.as_ref().unwrap().deadlines.kill);
        self.guard(FromGuard::Acknowledged(term, kill));
    }

    /// The child has ended with this wait status, and the tree is gone.
    fn tree_gone(&mut self, status: i32) {
        let term = self.contender.terms;
        self.guard(FromGuard::Exited(term, status));
        self.guard(FromGuard::Gone(term));
    }

    /// Another contender holds the lock from now on, and the watch shows it.
    fn taken(&mut self) {
        self.revision += 10;
        self.lock = Some(held_by_other());
        let seen = Observation { record: held_by_other(), version: version("u", self.revision) };
        self.event(Event::Change(Change::Seen(seen)));
    }

    /// Lets time pass, waking the contender whenever it wants to be. The guard acknowledges what it is told.
    fn pass(&mut self, span: Duration) {
        self.pass_with(span, true);
    }

    fn pass_with(&mut self, span: Duration, acknowledging: bool) {
        let end = self.now.at.boot + span;
        for _ in 0..1_000 {
            let left = end - self.now.at.boot;
            let nap = self.contender.wake(self.now).unwrap_or(Duration::MAX).min(left);
            self.now.at = self.now.at.plus(nap);
            self.now.wall = self.now.wall.plus(nap);
            let told = self.done.len();
            self.event(Event::Tick);
            let told = self.done[told..].iter().any(|done| matches!(done, Action::Tell(ToGuard::Extend { .. })));
            if acknowledging && told {
                self.acknowledge();
            }
            if nap == left {
                return;
            }
        }
        panic!("it wants to be woken without end: {:?}", self.contender);
    }

    /// What it did since this was last asked.
    fn done(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.done)
    }

    fn said(&self) -> Vec<Said> {
        self.done
            .iter()
            .filter_map(|done| if let Action::Say(said) = done { Some(said.clone()) } else { None })
            .collect()
    }

    fn told(&self) -> Vec<ToGuard> {
        self.done
            .iter()
            .filter_map(|done| if let Action::Tell(told) = done { Some(told.clone()) } else { None })
            .collect()
    }

    /// How terms ended, in order.
    fn ends(&self) -> Vec<End> {
        self.done
            .iter()
            .filter_map(|done| if let Action::Say(Said::Ended(end)) = done { Some(*end) } else { None })
            .collect()
    }

    fn killing_all(&self) -> bool {
        self.done.iter().any(|done| matches!(done, Action::KillAll))
    }

    fn released(&self) -> bool {
        self.lock.as_ref().is_some_and(Record::is_free)
    }

    /// Where in what was done the first such action is.
    fn place(&self, is: impl Fn(&Action) -> bool) -> usize {
        self.done.iter().position(is).unwrap_or_else(|| panic!("not among {:?}", self.done))
    }
}

fn stop(signal: i32, kill: Instant, lost: bool) -> ToGuard {
    ToGuard::Stop { term: 1, signal, kill, lost }
}

// Starting.

#[test]
fn the_guard_is_told_the_deadlines_the_token_and_the_record_of_the_term() {
    let rig = Rig::starting(settings());
    let since = rig.now.at;
    let deadlines = Deadlines { stop: since.plus(SECOND * 10), kill: since.plus(SECOND * 10 + LOSS_GRACE) };
    let started = rig.told();
    let [ToGuard::Start { term: 1, deadlines: told, env, record }] = &started[..] else { panic!("{started:?}") };
    assert_eq!(*told, deadlines);
    assert_eq!(env[..], ["ROLE=leader", "LEADER_ELECTION_FENCING_TOKEN=2", "LEADER_ELECTION_TRANSITIONS=0"]);
    assert!(Record::from_annotation(record).is_of_term(rig.lock.as_ref().unwrap()), "{record}");
    assert!(rig.said().contains(&Said::HeldUntil(deadlines.kill)));
}

#[test]
fn each_renewal_moves_the_deadlines_of_the_guard() {
    let mut rig = Rig::leading(settings());
    rig.pass(SECOND * 2);
    let deadlines = Deadlines { stop: rig.now.at.plus(SECOND * 10), kill: rig.now.at.plus(SECOND * 10 + LOSS_GRACE) };
    assert_eq!(rig.told(), [ToGuard::Extend { term: 1, deadlines }]);
    assert_eq!(rig.said(), [Said::HeldUntil(deadlines.kill)]);
}

#[test]
fn a_child_that_the_guard_was_told_of_too_late_starts_with_the_next_renewal() {
    let mut rig = Rig::late(settings());
    rig.pass(SECOND * 2);
    let told = rig.told();
    assert!(matches!(told[..], [ToGuard::Extend { term: 1, .. }, ToGuard::Start { term: 1, .. }]), "{told:?}");
    rig.done.clear();
    rig.pass(SECOND * 2);
    assert!(matches!(rig.told()[..], [ToGuard::Extend { .. }]), "a running child is not started again");
}

#[test]
fn a_running_child_is_not_started_by_a_renewal() {
    let mut rig = Rig::leading(settings());
    rig.pass(SECOND * 20);
    assert!(rig.told().iter().all(|told| matches!(told, ToGuard::Extend { .. })));
}

#[test]
fn messages_of_the_guard_about_another_term_are_ignored() {
    let mut rig = Rig::leading(settings());
    for message in [FromGuard::Exited(2, 0), FromGuard::Gone(2), FromGuard::Expired(2), FromGuard::Failed(0, ENOENT)] {
        rig.guard(message);
    }
    assert!(rig.done.is_empty() && rig.contender.is_leading(), "{:?}", rig.done);
    let mut rig = Rig::new(settings(), Some(held_by_other()));
    rig.done.clear();
    rig.guard(FromGuard::Gone(0));
    assert!(rig.done.is_empty(), "no term has begun: {:?}", rig.done);
}

#[test]
fn news_of_the_tree_are_told_but_acknowledgements_are_not() {
    let mut rig = Rig::starting(settings());
    rig.done.clear();
    rig.acknowledge();
    assert!(rig.done.is_empty());
    rig.guard(FromGuard::Started(1, 99));
    assert_eq!(rig.said(), [Said::Tree(FromGuard::Started(1, 99))]);
}

// The child ends.

#[test]
fn the_exit_code_is_that_of_the_child() {
    for (status, code) in [(0, 0), (7 << 8, 7), (9, 137)] {
        let mut rig = Rig::leading(settings());
        rig.tree_gone(status);
        assert_eq!((rig.exit, rig.ends()), (Some(code), vec![End::Exited]));
    }
}

#[test]
fn the_lock_is_released_only_when_the_tree_is_gone() {
    let mut rig = Rig::leading(settings());
    rig.guard(FromGuard::Exited(1, 0));
    rig.guard(FromGuard::Leftover(1));
    rig.pass(SECOND * 4);
    assert!(rig.contender.is_leading() && !rig.released(), "renewed while descendants are alive");
    rig.guard(FromGuard::Gone(1));
    assert!(rig.released());
    // First people hear that the lock is about to be released, last comes the end of leader-run.
    let before = rig.place(|done| matches!(done, Action::Say(Said::GivingBack)));
    let over = rig.place(|done| matches!(done, Action::Say(Said::Over(Outcome::Released))));
    let ended = rig.place(|done| matches!(done, Action::Say(Said::Ended(End::Exited))));
    let exit = rig.place(|done| matches!(done, Action::Exit(0)));
    assert!(before < over && over < ended && ended < exit && exit == rig.done.len() - 1, "{:?}", rig.done);
    assert!(rig.done.iter().any(|done| matches!(done, Action::Unwatch)));
}

#[test]
fn a_gone_without_an_exited_before_it_releases_nothing() {
    let mut rig = Rig::leading(settings());
    rig.guard(FromGuard::Gone(1));
    assert!(rig.contender.is_leading() && !rig.released());
}

#[test]
fn the_exit_code_is_that_of_the_child_when_the_lock_cannot_be_released() {
    let mut rig = Rig::leading(settings());
    rig.reachable = false;
    rig.tree_gone(7 << 8);
    rig.pass(SECOND * 2);
    assert_eq!(rig.exit, None);
    rig.pass(SECOND);
    assert!(rig.said().contains(&Said::Over(Outcome::NotReleased(None))), "{:?}", rig.said());
    assert_eq!((rig.exit, rig.ends()), (Some(7), vec![End::Exited]));
}

#[test]
fn a_child_that_cannot_be_started_gives_the_exit_codes_of_env() {
    for (errno, code) in [(ENOENT, 127), (EACCES, 126), (EAGAIN, 125)] {
        let mut rig = Rig::starting(settings());
        rig.guard(FromGuard::Failed(1, errno));
        assert_eq!((rig.exit, rig.ends(), rig.released()), (Some(code), vec![End::Exited], true));
        assert!(rig.said().contains(&Said::Tree(FromGuard::Failed(1, errno))));
    }
}

#[test]
fn a_child_that_dies_before_exec_is_a_failure_of_our_own() {
    let mut rig = Rig::starting(settings());
    rig.acknowledge();
    rig.guard(FromGuard::Died(1, 9));
    assert!(rig.released());
    assert_eq!(rig.exit, Some(exit::OWN_FAILURE));
}

#[test]
fn a_child_that_cannot_be_started_is_not_tried_again_after_a_step_down() {
    let mut rig = Rig::starting(settings());
    rig.event(Event::Signal(SIGUSR1));
    rig.guard(FromGuard::Failed(1, ENOENT));
    assert_eq!((rig.exit, rig.ends()), (Some(127), vec![End::Exited]));
}

#[test]
fn a_child_that_cannot_be_started_counts_as_stopped_after_a_requested_stop() {
    let mut rig = Rig::starting(settings());
    rig.event(Event::Signal(SIGTERM));
    rig.guard(FromGuard::Failed(1, ENOENT));
    assert_eq!((rig.exit, rig.ends()), (Some(127), vec![End::Stopped]));
}

// Signals while the child runs.

#[test]
fn term_sends_the_stop_signal_and_int_is_passed_on_as_it_is() {
    for (signal, sent) in [(SIGTERM, SIGQUIT), (SIGINT, SIGINT), (SIGUSR1, SIGQUIT)] {
        let mut rig = Rig::leading(settings());
        rig.event(Event::Signal(signal));
        assert_eq!(rig.told(), [stop(sent, rig.now.at.plus(STOP_GRACE), false)]);
        let said = if signal == SIGUSR1 { Said::SteppingDown(signal) } else { Said::Stopping(signal) };
        assert_eq!(rig.said(), [said]);
        assert!(rig.contender.is_leading(), "until the tree is gone");
    }
}

#[test]
fn a_requested_stop_renews_the_lock_until_the_tree_is_gone() {
    let mut rig = Rig::leading(settings());
    rig.event(Event::Signal(SIGTERM));
    rig.pass(SECOND * 20);
    assert!(rig.contender.is_leading() && rig.writes.len() > 8, "{:?}", rig.writes);
    rig.tree_gone(15);
    assert_eq!((rig.exit, rig.ends(), rig.released()), (Some(143), vec![End::Stopped], true));
}

#[test]
fn a_child_that_handles_the_stop_signal_gives_its_own_exit_code() {
    let mut rig = Rig::leading(settings());
    rig.event(Event::Signal(SIGTERM));
    rig.tree_gone(0);
    assert_eq!(rig.exit, Some(0));
}

#[test]
fn the_kill_moment_is_fixed_by_the_first_signal() {
    let mut rig = Rig::leading(settings());
    let kill = rig.now.at.plus(STOP_GRACE);
    rig.event(Event::Signal(SIGUSR1));
    rig.pass(SECOND);
    rig.event(Event::Signal(SIGTERM));
    rig.pass(SECOND);
    rig.event(Event::Signal(SIGINT));
    let stops: Vec<_> = rig.told().into_iter().filter(|told| matches!(told, ToGuard::Stop { .. })).collect();
    assert_eq!(stops, [stop(SIGQUIT, kill, false), stop(SIGQUIT, kill, false), stop(SIGINT, kill, false)]);
}

#[test]
fn every_other_signal_is_passed_on_to_a_running_child_only() {
    let mut rig = Rig::leading(settings());
    for signal in [SIGHUP, SIGUSR2] {
        rig.event(Event::Signal(signal));
        assert_eq!(rig.told(), [ToGuard::Signal { term: 1, signal }]);
        assert_eq!(rig.done().len(), 1);
    }
    let mut standby = Rig::new(settings(), Some(held_by_other()));
    let mut late = Rig::late(settings());
    for rig in [&mut standby, &mut late] {
        rig.done.clear();
        rig.event(Event::Signal(SIGHUP));
        assert!(rig.done.is_empty(), "{:?}", rig.done);
    }
}

#[test]
fn without_a_step_down_signal_usr1_is_passed_on() {
    let mut rig = Rig::leading(Settings { step_down_signal: None, ..settings() });
    rig.event(Event::Signal(SIGUSR1));
    assert_eq!(rig.told(), [ToGuard::Signal { term: 1, signal: SIGUSR1 }]);
}

// Stepping down.

#[test]
fn a_leader_that_steps_down_contends_again_after_a_retry_period() {
    let mut rig = Rig::leading(settings());
    rig.event(Event::Signal(SIGUSR1));
    rig.tree_gone(15);
    assert_eq!((rig.exit, rig.ends(), rig.released()), (None, vec![End::SteppedDown], true));
    assert_eq!(rig.said().last(), Some(&Said::Again));
    assert_eq!(rig.contender.wake(rig.now), Some(SECOND * 2));
    rig.done.clear();
    rig.pass(SECOND * 2 - Duration::from_millis(1));
    assert!(rig.done.is_empty() && !rig.contender.is_leading(), "others go first");
    rig.pass(Duration::from_millis(100));
    assert!(rig.contender.is_leading());
    assert!(matches!(rig.told()[..], [ToGuard::Start { term: 2, .. }]), "{:?}", rig.told());
    // The stop was of the term before.
    rig.acknowledge();
    rig.tree_gone(0);
    assert_eq!((rig.exit, rig.ends()), (Some(0), vec![End::Exited]));
}

#[test]
fn term_after_a_step_down_ends_leader_run() {
    let mut rig = Rig::leading(settings());
    rig.event(Event::Signal(SIGUSR1));
    rig.event(Event::Signal(SIGTERM));
    rig.tree_gone(15);
    assert_eq!((rig.exit, rig.ends()), (Some(143), vec![End::Stopped]));
}

#[test]
fn a_step_down_after_term_still_ends_leader_run() {
    let mut rig = Rig::leading(settings());
    rig.event(Event::Signal(SIGTERM));
    rig.event(Event::Signal(SIGUSR1));
    rig.tree_gone(15);
    assert_eq!((rig.exit, rig.ends()), (Some(143), vec![End::Stopped]));
}

#[test]
fn a_second_step_down_signal_changes_nothing() {
    let mut rig = Rig::leading(settings());
    rig.event(Event::Signal(SIGUSR1));
    rig.event(Event::Signal(SIGUSR1));
    rig.tree_gone(15);
    assert_eq!((rig.exit, rig.ends()), (None, vec![End::SteppedDown]));
}

#[test]
fn a_signal_before_the_next_election_ends_leader_run() {
    let mut rig = Rig::leading(settings());
    rig.event(Event::Signal(SIGUSR1));
    rig.tree_gone(15);
    rig.event(Event::Signal(SIGINT));
    assert_eq!(rig.exit, Some(130));
    rig.pass(SECOND * 10);
    assert!(!rig.contender.is_leading(), "no further election");
}

#[test]
fn a_step_down_of_a_leader_without_a_child_releases_at_once() {
    let mut rig = Rig::late(settings());
    rig.event(Event::Signal(SIGUSR1));
    assert_eq!((rig.exit, rig.ends(), rig.released()), (None, vec![End::SteppedDown], true));
    assert_eq!(rig.said()[0], Said::SteppingDown(SIGUSR1));
}

#[test]
fn a_late_child_is_not_waited_for_after_a_requested_stop() {
    for (signal, exit, end) in [(SIGTERM, Some(143), End::Stopped), (SIGUSR1, None, End::SteppedDown)] {
        let mut rig = Rig::starting(settings());
        rig.event(Event::Signal(signal));
        rig.guard(FromGuard::Late(1));
        assert_eq!((rig.exit, rig.ends(), rig.released()), (exit, vec![end], true));
    }
}

// Signals without a child.

#[test]
fn a_standby_that_is_stopped_exits_with_the_code_of_the_first_signal() {
    for (signal, code) in [(SIGTERM, 143), (SIGINT, 130)] {
        let mut rig = Rig::new(settings(), Some(held_by_other()));
        rig.done.clear();
        rig.event(Event::Signal(signal));
        assert_eq!(rig.said(), [Said::Stopping(signal), Said::Over(Outcome::Stopped)]);
        assert_eq!(rig.exit, Some(code));
    }
    // The acquiring write is waited for, and a later signal does not change the code.
    let mut rig = Rig::acquiring();
    rig.event(Event::Signal(SIGTERM));
    rig.event(Event::Signal(SIGINT));
    assert_eq!(rig.exit, None);
    rig.reachable = true;
    rig.event(Event::Tick);
    assert_eq!((rig.exit, rig.released()), (Some(143), true));
    assert!(rig.told().is_empty(), "no child is started any more");
}

#[test]
fn the_step_down_signal_means_nothing_to_a_standby() {
    let mut rig = Rig::new(settings(), Some(held_by_other()));
    rig.done.clear();
    rig.event(Event::Signal(SIGUSR1));
    assert!(rig.done.is_empty(), "{:?}", rig.done);
    rig.event(Event::Signal(SIGTERM));
    assert_eq!(rig.exit, Some(143));
}

#[test]
fn term_releases_the_lock_of_a_leader_without_a_child() {
    let mut rig = Rig::late(settings());
    rig.event(Event::Signal(SIGTERM));
    assert_eq!((rig.exit, rig.ends(), rig.released()), (Some(143), vec![End::Stopped], true));
    assert_eq!(rig.said()[0], Said::Stopping(SIGTERM));
}

#[test]
fn a_signal_while_the_lock_is_released_does_not_change_the_exit_code() {
    let mut rig = Rig::leading(settings());
    rig.reachable = false;
    rig.tree_gone(7 << 8);
    rig.event(Event::Signal(SIGTERM));
    rig.reachable = true;
    rig.event(Event::Tick);
    assert_eq!((rig.exit, rig.released()), (Some(7), true));
}

#[test]
fn term_while_a_stepped_down_leader_releases_ends_leader_run() {
    let mut rig = Rig::leading(settings());
    rig.event(Event::Signal(SIGUSR1));
    rig.reachable = false;
    rig.tree_gone(0);
    rig.event(Event::Signal(SIGTERM));
    rig.reachable = true;
    rig.event(Event::Tick);
    assert_eq!((rig.exit, rig.ends()), (Some(0), vec![End::Stopped]));
}

// Losses.

#[test]
fn after_a_loss_the_tree_is_stopped_first_and_nothing_is_written_any_more() {
    let mut rig = Rig::leading(settings());
    let writes = rig.writes.len();
    rig.taken();
    let loss = Loss::Taken("b".into());
    assert_eq!(rig.told(), [stop(SIGQUIT, rig.now.at.plus(LOSS_GRACE), true)]);
    let told = rig.place(|done| matches!(done, Action::Tell(_)));
    let said = rig.place(|done| matches!(done, Action::Say(Said::Lost(_))));
    assert!(told < said, "stopping the tree comes before telling people");
    assert!(rig.said().contains(&Said::Lost(loss)) && rig.done.iter().any(|done| matches!(done, Action::Unwatch)));
    assert_eq!((rig.exit, rig.ends()), (None, vec![]), "the tree is alive");
    rig.pass(SECOND);
    rig.tree_gone(15);
    assert_eq!((rig.exit, rig.ends(), rig.writes.len()), (Some(LOST_CODE), vec![End::Lost], writes));
    assert!(!rig.said().contains(&Said::GivingBack));
}

#[test]
fn a_loss_never_moves_the_kill_moment_past_the_deadline() {
    let mut rig = Rig::leading(settings());
    let kill = rig.now.at.plus(SECOND * 10 + LOSS_GRACE);
    rig.reachable = false;
    rig.pass(SECOND * 9);
    rig.now.at = rig.now.at.plus(SECOND * 2);
    rig.event(Event::Tick);
    let stops: Vec<_> = rig.told().into_iter().filter(|told| matches!(told, ToGuard::Stop { .. })).collect();
    assert_eq!(stops, [stop(SIGQUIT, kill, true)], "and not a grace from when the loss was noticed");
}

#[test]
fn with_rejoin_a_lost_leader_contends_again_at_once_when_the_tree_is_gone() {
    let mut rig = Rig::leading(rejoining());
    rig.taken();
    rig.pass(SECOND);
    assert!(rig.contender.waiting().is_none(), "not while the tree is alive");
    rig.tree_gone(15);
    assert_eq!((rig.exit, rig.ends()), (None, vec![End::Lost]));
    assert_eq!(rig.said().iter().filter(|said| **said == Said::Again).count(), 1);
    assert_eq!(rig.contender.waiting().map(|waiting| waiting.holder), Some("b".into()));
}

#[test]
fn with_rejoin_a_loss_after_term_ends_leader_run_and_one_after_a_step_down_does_not() {
    for (signal, exit) in [(SIGTERM, Some(LOST_CODE)), (SIGUSR1, None)] {
        let mut rig = Rig::leading(rejoining());
        rig.event(Event::Signal(signal));
        rig.taken();
        rig.tree_gone(15);
        assert_eq!((rig.exit, rig.ends()), (exit, vec![End::Lost]), "{signal}");
    }
}

#[test]
fn a_loss_after_a_step_down_ends_leader_run_without_rejoin() {
    let mut rig = Rig::leading(settings());
    rig.event(Event::Signal(SIGUSR1));
    rig.taken();
    rig.tree_gone(15);
    assert_eq!(rig.exit, Some(LOST_CODE));
}

#[test]
fn a_signal_after_a_loss_tells_the_guard_that_the_lock_is_lost() {
    let mut rig = Rig::leading(rejoining());
    rig.taken();
    rig.done.clear();
    rig.event(Event::Signal(SIGTERM));
    assert_eq!(rig.told(), [stop(SIGQUIT, rig.now.at.plus(STOP_GRACE), true)]);
    rig.tree_gone(15);
    assert_eq!((rig.exit, rig.ends()), (Some(LOST_CODE), vec![End::Lost]));
}

#[test]
fn a_loss_before_the_child_was_started_ends_the_term_at_once() {
    let mut rig = Rig::late(settings());
    rig.taken();
    assert_eq!((rig.exit, rig.ends()), (Some(LOST_CODE), vec![End::Lost]));
    assert!(rig.told().is_empty());
    let mut rig = Rig::late(rejoining());
    rig.taken();
    assert_eq!((rig.exit, rig.ends()), (None, vec![End::Lost]));
}

#[test]
fn a_child_that_is_late_for_a_lost_term_is_never_started() {
    let mut rig = Rig::starting(settings());
    rig.taken();
    assert_eq!(rig.exit, None);
    rig.guard(FromGuard::Late(1));
    assert_eq!((rig.exit, rig.ends()), (Some(LOST_CODE), vec![End::Lost]));
    assert!(!rig.released());
}

#[test]
fn a_child_that_cannot_be_started_in_a_lost_term_is_a_loss() {
    let mut rig = Rig::starting(settings());
    rig.taken();
    rig.guard(FromGuard::Failed(1, ENOENT));
    assert_eq!((rig.exit, rig.ends(), rig.released()), (Some(LOST_CODE), vec![End::Lost], false));
}

#[test]
fn a_deadline_at_which_the_guard_stopped_the_child_is_a_loss() {
    let mut rig = Rig::leading(settings());
    rig.guard(FromGuard::Expired(1));
    assert!(matches!(rig.said()[..], [Said::Tree(_), Said::Lost(Loss::Forfeited(_))]), "{:?}", rig.said());
    assert!(!rig.contender.is_leading());
    rig.tree_gone(15);
    assert_eq!((rig.exit, rig.released()), (Some(LOST_CODE), false));
    // After a loss it is no further one.
    let mut rig = Rig::leading(settings());
    rig.taken();
    rig.done.clear();
    rig.guard(FromGuard::Expired(1));
    assert_eq!(rig.said(), [Said::Tree(FromGuard::Expired(1))]);
}

#[test]
fn a_loss_while_the_child_ends_keeps_its_wait_status_out_of_the_exit_code() {
    let mut rig = Rig::leading(settings());
    rig.guard(FromGuard::Exited(1, 0));
    rig.taken();
    rig.guard(FromGuard::Gone(1));
    assert_eq!((rig.exit, rig.ends()), (Some(LOST_CODE), vec![End::Lost]));
}

// Elections that end without a term.

#[test]
fn a_contender_that_gives_up_waiting_exits_with_124() {
    let wait = Settings { election: elector::Settings { wait: Some(SECOND), ..settings().election }, ..settings() };
    let mut rig = Rig::new(wait, Some(held_by_other()));
    rig.pass(SECOND);
    assert_eq!((rig.exit, rig.ends()), (Some(exit::NOT_LEADING), vec![]));
    assert!(matches!(rig.said().last(), Some(Said::Over(Outcome::GaveUp(_)))));
}

#[test]
fn a_request_that_can_never_succeed_exits_with_125() {
    let mut rig = Rig::new(settings(), Some(held_by_other()));
    rig.reachable = false;
    rig.pass(SECOND * 8);
    let Some((id, Request::Get)) = rig.request.take() else { panic!("a silent watch is followed by a get") };
    rig.event(Event::Answer(id, Err(Failure::Rejected("no such namespace".into()))));
    assert_eq!((rig.exit, rig.ends()), (Some(exit::OWN_FAILURE), vec![]));
    // A stop that was asked for does not hide it.
    let mut rig = Rig::acquiring();
    rig.event(Event::Signal(SIGTERM));
    let (id, _) = rig.request.take().unwrap();
    rig.event(Event::Answer(id, Err(Failure::Rejected("invalid object".into()))));
    assert_eq!(rig.exit, Some(exit::OWN_FAILURE));
}

// The guard fails.

#[test]
fn the_lock_of_a_leader_whose_guard_died_is_released_when_nothing_is_left() {
    let mut rig = Rig::leading(settings());
    rig.event(Event::GuardGone);
    assert_eq!(rig.said(), [Said::GuardFailed("died")]);
    assert!(rig.killing_all() && rig.contender.is_leading() && !rig.released());
    rig.pass(SECOND * 4);
    assert!(rig.contender.is_leading(), "renewed until nothing is left");
    rig.event(Event::Alone);
    assert_eq!((rig.exit, rig.ends(), rig.released()), (Some(exit::OWN_FAILURE), vec![End::Failed], true));
}

#[test]
fn a_guard_fails_once() {
    let mut rig = Rig::leading(settings());
    rig.event(Event::GuardGone);
    rig.done.clear();
    rig.event(Event::GuardGone);
    assert!(rig.done.is_empty(), "{:?}", rig.done);
    rig.event(Event::Alone);
    rig.done.clear();
    rig.event(Event::Alone);
    rig.event(Event::GuardGone);
    assert!(rig.done.is_empty(), "{:?}", rig.done);
}

#[test]
fn alone_means_nothing_while_the_guard_is_alive() {
    let mut rig = Rig::leading(settings());
    rig.event(Event::Alone);
    assert!(rig.contender.is_leading() && rig.done.is_empty(), "{:?}", rig.done);
}

#[test]
fn a_guard_that_dies_before_anything_was_started_ends_leader_run_at_once() {
    let mut rig = Rig::new(settings(), Some(held_by_other()));
    rig.done.clear();
    rig.event(Event::GuardGone);
    assert_eq!((rig.exit, rig.ends()), (Some(exit::OWN_FAILURE), vec![]));
    // A leader whose child is yet to be started releases the lock.
    let mut rig = Rig::late(settings());
    rig.event(Event::GuardGone);
    assert_eq!((rig.exit, rig.ends(), rig.released()), (Some(exit::OWN_FAILURE), vec![End::Failed], true));
    // In the pause after a step-down nothing is held.
    let mut rig = Rig::leading(settings());
    rig.event(Event::Signal(SIGUSR1));
    rig.tree_gone(0);
    rig.event(Event::GuardGone);
    assert_eq!(rig.exit, Some(exit::OWN_FAILURE));
    rig.pass(SECOND * 10);
    assert!(!rig.contender.is_leading());
}

#[test]
fn a_guard_that_dies_after_a_loss_keeps_the_exit_code_of_the_loss_and_forbids_to_rejoin() {
    let mut rig = Rig::leading(rejoining());
    rig.taken();
    rig.event(Event::GuardGone);
    assert_eq!(rig.exit, None);
    rig.event(Event::Alone);
    assert_eq!((rig.exit, rig.ends(), rig.released()), (Some(LOST_CODE), vec![End::Failed], false));
}

#[test]
fn a_guard_that_dies_while_stepping_down_ends_leader_run() {
    let mut rig = Rig::leading(settings());
    rig.event(Event::Signal(SIGUSR1));
    rig.event(Event::GuardGone);
    rig.event(Event::Alone);
    assert_eq!((rig.exit, rig.ends(), rig.released()), (Some(exit::OWN_FAILURE), vec![End::Failed], true));
}

#[test]
fn a_guard_that_misses_its_deadline_by_the_permitted_lateness_is_given_up() {
    let mut rig = Rig::leading(rejoining());
    rig.reachable = false;
    let kill = SECOND * 10 + LOSS_GRACE;
    rig.pass(kill - Duration::from_millis(1));
    assert_eq!(rig.contender.wake(rig.now), Some(Duration::from_millis(1)));
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.contender.wake(rig.now), Some(GUARD_LATENESS));
    rig.pass(GUARD_LATENESS - Duration::from_millis(1));
    assert!(!rig.killing_all(), "it may be just being scheduled");
    rig.pass(Duration::from_millis(1));
    assert!(rig.killing_all() && rig.said().contains(&Said::GuardFailed("missed its deadline")));
    assert_eq!(rig.contender.wake(rig.now), None, "nothing more is awaited of it");
    rig.event(Event::Alone);
    assert_eq!((rig.exit, rig.ends()), (Some(LOST_CODE), vec![End::Failed]));
}

#[test]
fn the_lateness_of_the_guard_does_not_count_a_suspend() {
    let mut rig = Rig::leading(settings());
    rig.now.at.boot += SECOND * 3_600;
    rig.event(Event::Tick);
    rig.event(Event::Tick);
    assert!(!rig.killing_all(), "the guard has to get its turn first");
    rig.now.at.boot += SECOND * 3_600;
    rig.event(Event::Tick);
    assert!(!rig.killing_all());
    rig.now.at = rig.now.at.plus(GUARD_LATENESS);
    rig.event(Event::Tick);
    assert!(rig.killing_all());
}

#[test]
fn a_guard_that_acknowledges_later_deadlines_is_no_longer_overdue() {
    let mut rig = Rig::leading(settings());
    // It has read none of the renewals so far.
    rig.pass_with(SECOND * 10 + LOSS_GRACE, false);
    assert_eq!(rig.contender.guard, Guard::Overdue(rig.now.at));
    rig.acknowledge();
    rig.pass_with(GUARD_LATENESS * 2, false);
    assert!(!rig.killing_all() && rig.contender.is_leading());
}

#[test]
fn a_guard_that_does_not_even_read_the_start_is_given_up() {
    let mut rig = Rig::starting(settings());
    rig.pass_with(SECOND * 10 + LOSS_GRACE + GUARD_LATENESS, false);
    assert!(rig.killing_all());
}

#[test]
fn nothing_is_expected_of_the_guard_of_a_tree_that_is_gone_or_was_never_started() {
    let mut rig = Rig::late(settings());
    rig.now.at = rig.now.at.plus(SECOND * 60);
    rig.event(Event::Tick);
    rig.now.at = rig.now.at.plus(SECOND);
    rig.event(Event::Tick);
    assert!(!rig.killing_all());
    let mut rig = Rig::leading(settings());
    rig.reachable = false;
    rig.tree_gone(0);
    rig.pass_with(SECOND * 60, false);
    assert!(!rig.killing_all());
    assert_eq!(rig.exit, Some(0));
}

#[test]
fn a_standby_says_whom_it_waits_for_and_is_not_leading() {
    let rig = Rig::new(settings(), Some(held_by_other()));
    assert_eq!(rig.contender.waiting().map(|waiting| waiting.holder), Some("b".into()));
    assert!(!rig.contender.is_leading());
    assert!(rig.done.iter().any(|done| matches!(done, Action::Watch(Some(_)))));
    assert!(rig.said().iter().any(|said| matches!(said, Said::Notice(Notice::Waiting(..)))), "{:?}", rig.said());
    let rig = Rig::leading(settings());
    assert_eq!(rig.contender.waiting(), None);
}
