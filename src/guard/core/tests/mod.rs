//! The guard's core, step by step.

mod edge_cases;

use super::*;

const TERM: i32 = 15;
const SETTINGS: Settings = Settings { stop_signal: TERM, wait_all: false, crash_release: false };

fn record() -> String {
    "{record}".into()
}

fn at(millis: u64) -> Instant {
    let span = Duration::from_millis(1_000_000 + millis);
    Instant { boot: span, raw: span }
}

/// R 10 s and K 13.5 s after `since` (milliseconds).
fn deadlines(since: u64) -> Deadlines {
    Deadlines { stop: at(since + 10_000), kill: at(since + 13_500) }
}

fn step(guard: &mut Guard, now: Instant, input: Input) -> Vec<Output> {
    guard.step(now, input);
    std::iter::from_fn(|| guard.next_output()).collect()
}

/// Lets time pass until this moment, with a look at the clock whenever the guard wants one before it.
fn pass(guard: &mut Guard, from: u64, to: u64) {
    let mut now = at(from);
    while let Some(nap) = guard.wake(now).filter(|nap| now.boot + *nap < at(to).boot) {
        now = now.plus(nap);
        assert_eq!(step(guard, now, Input::Tick), []);
    }
}

fn started() -> Guard {
    let mut guard = Guard::new(SETTINGS);
    let start = ToGuard::Start { term: 1, deadlines: deadlines(0), env: vec![], record: record() };
    let out = step(&mut guard, at(0), Input::Message(start));
    assert_eq!(out, [Output::Send(FromGuard::Acknowledged(1, at(13_500)))]);
    assert_eq!(step(&mut guard, at(0), Input::Tick), [spawn(0)]);
    assert_eq!(step(&mut guard, at(0), Input::Forked(Ok(99))), []);
    assert_eq!(step(&mut guard, at(1), Input::Executed), [Output::Send(FromGuard::Started(1, 99))]);
    guard
}

/// What forks the child of a term with these deadlines.
fn spawn(since: u64) -> Output {
    Output::Spawn { env: Vec::new(), until: deadlines(since).stop }
}

/// The child is forked, and has yet to execute COMMAND.
fn forked() -> Guard {
    let mut guard = Guard::new(SETTINGS);
    let start = ToGuard::Start { term: 1, deadlines: deadlines(0), env: Vec::new(), record: record() };
    step(&mut guard, at(0), Input::Message(start));
    assert_eq!(step(&mut guard, at(0), Input::Tick), [spawn(0)]);
    assert_eq!(step(&mut guard, at(0), Input::Forked(Ok(99))), []);
    guard
}

#[test]
fn a_child_that_finds_itself_late_is_told_of_when_it_is_gone_and_can_be_started_again() {
    let mut guard = forked();
    assert_eq!(step(&mut guard, at(1), Input::NotExecuted(NotExecuted::Late)), []);
    let out = step(&mut guard, at(2), Input::Ended { status: 0, others: false });
    assert_eq!(out, [Output::Send(FromGuard::Late(1))]);
    let start = ToGuard::Start { term: 1, deadlines: deadlines(9_000), env: Vec::new(), record: record() };
    step(&mut guard, at(9_000), Input::Message(start));
    assert_eq!(step(&mut guard, at(9_000), Input::Tick), [spawn(9_000)]);
}

#[test]
fn a_guard_whose_child_ends_without_exec_waits_for_its_end_alone() {
    let mut guard = forked();
    pass(&mut guard, 0, 9_999);
    step(&mut guard, at(9_999), Input::NotExecuted(NotExecuted::Late));
    assert_eq!(step(&mut guard, at(10_000), Input::Tick), []);
    assert_ne!(guard.wake(at(10_000)), Some(Duration::ZERO), "it would take the processor that the child needs to end");
}

#[test]
fn a_child_whose_exec_fails_is_told_of_when_it_is_gone() {
    let mut guard = forked();
    assert_eq!(step(&mut guard, at(1), Input::NotExecuted(NotExecuted::Failed(8))), []);
    let out = step(&mut guard, at(2), Input::Ended { status: 125 << 8, others: false });
    assert_eq!(out, [Output::Send(FromGuard::Failed(1, 8))]);
}

#[test]
fn a_child_that_dies_before_exec_is_not_the_commands_end() {
    let mut guard = forked();
    let out = step(&mut guard, at(2), Input::Ended { status: 31, others: false });
    assert_eq!(out, [Output::Send(FromGuard::Died(1, 31))]);
}

#[test]
fn a_child_that_is_stopped_before_exec_was_late() {
    let stop = ToGuard::Stop { term: 1, signal: TERM, kill: at(5_000), lost: false };
    let mut guard = forked();
    assert_eq!(step(&mut guard, at(1), Input::Message(stop)), [Output::Stop(TERM)]);
    let out = step(&mut guard, at(2), Input::Ended { status: TERM, others: false });
    assert_eq!(out, [Output::Send(FromGuard::Late(1))]);
}

#[test]
fn a_command_that_is_executed_after_the_stop_signal_gets_it_again() {
    // A signal that is ignored by default has not ended the child before that.
    let stop = ToGuard::Stop { term: 1, signal: 28, kill: at(5_000), lost: false };
    let mut guard = forked();
    assert_eq!(step(&mut guard, at(1), Input::Message(stop)), [Output::Stop(28)]);
    assert_eq!(step(&mut guard, at(2), Input::Executed), [Output::Send(FromGuard::Started(1, 99)), Output::Stop(28)]);
}

#[test]
fn a_child_that_is_yet_to_exec_is_killed_by_its_deadline() {
    let mut guard = forked();
    step(&mut guard, at(13_500), Input::Tick);
    assert!(guard.is_killing());
    assert_eq!(step(&mut guard, at(13_501), Input::Ended { status: 9, others: true }), []);
    assert_eq!(step(&mut guard, at(13_502), Input::Alone), [Output::Send(FromGuard::Late(1))]);
}

#[test]
fn signals_for_the_command_wait_until_it_is_executed() {
    let mut guard = forked();
    for signal in [64, 10, 1, 10] {
        assert_eq!(step(&mut guard, at(1), Input::Message(ToGuard::Signal { term: 1, signal })), []);
    }
    let signals = [1, 10, 64].map(Output::Signal);
    assert_eq!(
        step(&mut guard, at(2), Input::Executed),
        [&[Output::Send(FromGuard::Started(1, 99))], &signals[..]].concat()
    );
}

#[test]
fn a_fork_that_fails_ends_the_term() {
    let mut guard = Guard::new(SETTINGS);
    let start = ToGuard::Start { term: 1, deadlines: deadlines(0), env: Vec::new(), record: record() };
    step(&mut guard, at(0), Input::Message(start));
    assert_eq!(step(&mut guard, at(0), Input::Tick), [spawn(0)]);
    assert_eq!(step(&mut guard, at(0), Input::Forked(Err(11))), [Output::Send(FromGuard::Failed(1, 11))]);
    assert!(guard.term.is_none());
}

fn extend(since: u64) -> Input {
    Input::Message(ToGuard::Extend { term: 1, deadlines: deadlines(since) })
}

#[test]
fn at_r_the_child_is_asked_to_stop_and_at_k_the_tree_is_killed() {
    let mut guard = started();
    pass(&mut guard, 1, 10_000);
    assert_eq!(guard.wake(at(9_999)), Some(Duration::from_millis(1)));
    let out = step(&mut guard, at(10_000), Input::Tick);
    assert_eq!(out, [Output::Send(FromGuard::Expired(1)), Output::Stop(TERM)]);
    pass(&mut guard, 10_000, 13_500);
    assert!(!guard.is_killing());
    step(&mut guard, at(13_500), Input::Tick);
    assert!(guard.is_killing());
}

#[test]
fn messages_that_wait_are_read_before_a_deadline_is_looked_at() {
    let mut guard = started();
    pass(&mut guard, 1, 9_990);
    step(&mut guard, at(10_040), extend(9_000));
    assert_eq!(step(&mut guard, at(10_040), Input::Tick), []);
    pass(&mut guard, 10_040, 19_000);
}

#[test]
fn an_expiry_is_latched_for_the_term_and_ends_with_it() {
    let mut guard = started();
    step(&mut guard, at(10_000), Input::Tick);
    assert_eq!(step(&mut guard, at(10_001), extend(9_999)), []);
    step(&mut guard, at(13_500), Input::Tick);
    assert!(guard.is_killing());
    let out = step(&mut guard, at(13_501), Input::Ended { status: 9, others: false });
    assert_eq!(out, [Output::Send(FromGuard::Exited(1, 9)), Output::Send(FromGuard::Gone(1))]);
    let start = ToGuard::Start { term: 2, deadlines: deadlines(20_000), env: vec![], record: record() };
    step(&mut guard, at(20_000), Input::Message(start));
    assert_eq!(step(&mut guard, at(20_000), Input::Tick), [spawn(20_000)]);
    assert!(!guard.is_killing());
}

#[test]
fn deadlines_never_move_to_an_earlier_moment_and_those_of_other_terms_are_ignored() {
    let mut guard = started();
    assert_eq!(step(&mut guard, at(5_000), extend(4_000)), [Output::Send(FromGuard::Acknowledged(1, at(17_500)))]);
    assert_eq!(step(&mut guard, at(5_000), extend(3_000)), []);
    let other = ToGuard::Extend { term: 2, deadlines: deadlines(9_000) };
    assert_eq!(step(&mut guard, at(5_000), Input::Message(other)), []);
    assert_eq!(guard.term.unwrap().deadlines, deadlines(4_000));
}

#[test]
fn end_of_file_means_kill() {
    let mut guard = started();
    step(&mut guard, at(500), Input::Closed);
    assert!(guard.is_killing());
    assert_eq!(
        step(&mut guard, at(501), Input::Ended { status: 9, others: true }).last(),
        Some(&Output::StopAll(TERM))
    );
    assert!(guard.is_killing());
    assert_eq!(step(&mut guard, at(502), Input::Alone), [Output::Send(FromGuard::Gone(1))]);
    assert_eq!(step(&mut guard, at(502), Input::Closed), [Output::Exit]);
    let mut idle = Guard::new(SETTINGS);
    assert_eq!(step(&mut idle, at(0), Input::Closed), [Output::Exit]);
}

#[test]
fn end_of_file_right_after_the_start_leaves_nothing_to_guard() {
    let mut guard = Guard::new(SETTINGS);
    guard.step(
        at(0),
        Input::Message(ToGuard::Start { term: 1, deadlines: deadlines(0), env: Vec::new(), record: record() }),
    );
    let done = step(&mut guard, at(0), Input::Closed);
    assert_eq!(done.last(), Some(&Output::Exit), "{done:?}");
    assert!(!done.iter().any(|output| matches!(output, Output::Spawn { .. })), "{done:?}");
}

#[test]
fn a_requested_stop_is_killed_after_its_grace_while_the_lock_is_renewed() {
    let mut guard = started();
    let stop = |millis| Input::Message(ToGuard::Stop { term: 1, signal: TERM, kill: at(millis), lost: false });
    assert_eq!(step(&mut guard, at(1_000), stop(26_000)), [Output::Stop(TERM)]);
    for since in (2_000..26_000).step_by(2_000) {
        pass(&mut guard, since - 2_000, since);
        assert_eq!(step(&mut guard, at(since), extend(since)).len(), 1);
        assert_eq!(step(&mut guard, at(since), Input::Tick), []);
    }
    // Asked again: the signal is passed on, and nothing is shortened.
    assert_eq!(step(&mut guard, at(25_000), stop(50_000)), [Output::Stop(TERM)]);
    step(&mut guard, at(26_000), Input::Tick);
    assert!(guard.is_killing());
}

#[test]
fn a_loss_stops_at_once_and_takes_no_later_deadline() {
    let mut guard = started();
    let stop = ToGuard::Stop { term: 1, signal: TERM, kill: at(4_500), lost: true };
    assert_eq!(step(&mut guard, at(1_000), Input::Message(stop)), [Output::Stop(TERM)]);
    assert_eq!(step(&mut guard, at(1_000), extend(900)), []);
    step(&mut guard, at(4_500), Input::Tick);
    assert!(guard.is_killing());
}

#[test]
fn a_child_is_not_started_when_the_first_deadline_has_passed() {
    let mut guard = Guard::new(SETTINGS);
    let start = ToGuard::Start { term: 1, deadlines: deadlines(0), env: vec![], record: record() };
    step(&mut guard, at(10_000), Input::Message(start));
    assert_eq!(step(&mut guard, at(10_000), Input::Tick), [Output::Send(FromGuard::Late(1))]);
    assert_eq!(guard.wake(at(10_000)), None);
}

#[test]
fn a_child_is_not_started_when_a_stop_or_a_later_deadline_waits_behind_its_start() {
    let start = || Input::Message(ToGuard::Start { term: 1, deadlines: deadlines(0), env: vec![], record: record() });
    let stop = ToGuard::Stop { term: 1, signal: TERM, kill: at(12_000), lost: true };
    let mut guard = Guard::new(SETTINGS);
    step(&mut guard, at(9_000), start());
    assert_eq!(step(&mut guard, at(9_000), Input::Message(stop)), []);
    assert_eq!(step(&mut guard, at(9_000), Input::Tick), [Output::Send(FromGuard::Late(1))]);
    // With a renewal behind it, it is not too late.
    step(&mut guard, at(10_500), start());
    step(&mut guard, at(10_500), extend(8_000));
    assert_eq!(step(&mut guard, at(10_500), Input::Tick), [spawn(8_000)]);
}

#[test]
fn a_child_that_the_terminal_stops_is_continued_and_that_is_said_once() {
    let mut guard = started();
    let said = Output::Send(FromGuard::Continued(1, 21));
    assert_eq!(step(&mut guard, at(100), Input::Stopped(21)), [said]);
    assert_eq!(step(&mut guard, at(100), Input::Tick), [Output::Continue]);
    // Stopped again at once: in a second, and silently.
    assert_eq!(step(&mut guard, at(101), Input::Stopped(21)), []);
    pass(&mut guard, 101, 1_101);
    assert_eq!(step(&mut guard, at(1_101), Input::Tick), [Output::Continue]);
}

#[test]
fn descendants_that_outlive_the_child_are_asked_then_killed_and_only_then_it_is_gone() {
    let mut guard = started();
    let out = step(&mut guard, at(1_000), Input::Ended { status: 0, others: true });
    let said = [FromGuard::Exited(1, 0), FromGuard::Leftover(1)].map(Output::Send);
    assert_eq!(out, [&said[..], &[Output::StopAll(TERM)]].concat());
    step(&mut guard, at(5_999), Input::Tick);
    assert!(!guard.is_killing());
    assert_eq!(step(&mut guard, at(6_000), Input::Tick), [Output::Send(FromGuard::Killing(1))]);
    assert!(guard.is_killing());
    assert_eq!(step(&mut guard, at(6_000), Input::Tick), [], "said once");
    assert_eq!(step(&mut guard, at(6_001), Input::Alone), [Output::Send(FromGuard::Gone(1))]);
}

#[test]
fn a_faster_raw_clock_brings_the_deadline_forward() {
    let mut guard = started();
    pass(&mut guard, 1, 9_000);
    let now = Instant { boot: at(9_000).boot, raw: at(10_000).raw };
    assert_eq!(step(&mut guard, now, Input::Tick).len(), 2);
}

#[test]
fn lateness_is_taken_twice_from_k_but_never_from_r_and_forgotten_after_a_minute() {
    let mut guard = started();
    pass(&mut guard, 1, 1_000);
    let out = step(&mut guard, at(1_500), Input::Tick);
    assert_eq!(out, [Output::Send(FromGuard::Slow(1, Duration::from_millis(500)))]);
    pass(&mut guard, 1_500, 10_000);
    step(&mut guard, at(10_000), Input::Tick);
    pass(&mut guard, 10_000, 12_500);
    assert_eq!(step(&mut guard, at(12_500), Input::Tick), [Output::Send(FromGuard::Killing(1))]);

    let mut guard = started();
    step(&mut guard, at(5_000), Input::Tick);
    pass(&mut guard, 5_000, 10_000);
    let out = step(&mut guard, at(10_000), Input::Tick);
    let killed = [FromGuard::Killing(1), FromGuard::Expired(1)].map(Output::Send);
    assert_eq!(out, [&killed[..], &[Output::Stop(TERM)]].concat());

    let mut guard = started();
    step(&mut guard, at(500), Input::Tick);
    for since in (1_000..63_000).step_by(1_000) {
        step(&mut guard, at(since), extend(since));
        pass(&mut guard, since, since + 1_000);
    }
    assert_eq!(guard.lateness.get(), Duration::ZERO);
}

#[test]
fn a_suspend_is_no_lateness() {
    let mut guard = started();
    let resumed = Instant { boot: at(9_000).boot, raw: at(250).raw };
    assert_eq!(step(&mut guard, resumed, Input::Tick), []);
    assert_eq!(guard.lateness.get(), Duration::ZERO);
}

#[test]
fn with_wait_all_descendants_are_waited_for_until_a_stop_is_asked_for() {
    let waiting = || {
        let mut guard = started();
        guard.settings.wait_all = true;
        let out = step(&mut guard, at(100), Input::Ended { status: 0, others: true });
        assert_eq!(out, [FromGuard::Exited(1, 0), FromGuard::Leftover(1)].map(Output::Send));
        guard
    };
    let mut guard = waiting();
    pass(&mut guard, 100, 1_000);
    for since in (1_000..60_000).step_by(1_000) {
        step(&mut guard, at(since), extend(since));
        pass(&mut guard, since, since + 1_000);
    }
    assert_eq!(step(&mut guard, at(60_000), Input::Alone), [Output::Send(FromGuard::Gone(1))]);

    let mut guard = waiting();
    let stop = ToGuard::Stop { term: 1, signal: 2, kill: at(2_000), lost: false };
    assert_eq!(step(&mut guard, at(200), Input::Message(stop)), [Output::StopAll(2)]);
    pass(&mut guard, 200, 2_000);
    assert_eq!(step(&mut guard, at(2_000), Input::Tick), [Output::Send(FromGuard::Killing(1))]);

    let mut guard = waiting();
    pass(&mut guard, 100, 10_000);
    let out = step(&mut guard, at(10_000), Input::Tick);
    assert_eq!(out, [Output::Send(FromGuard::Expired(1)), Output::StopAll(TERM)]);
}

/// A guard that gives back the lock of a leader-run that dies.
fn releasing() -> Guard {
    let mut guard = started();
    guard.settings.crash_release = true;
    guard
}

#[test]
fn the_lock_of_a_dead_leader_run_is_given_back_when_the_tree_is_gone() {
    let mut guard = releasing();
    step(&mut guard, at(500), extend(400));
    // The socket is closed, but the process may be there yet.
    step(&mut guard, at(500), Input::Closed);
    step(&mut guard, at(501), Input::Ended { status: 9, others: true });
    assert_eq!(step(&mut guard, at(501), Input::Closed), []);
    assert_eq!(step(&mut guard, at(502), Input::Alone), [Output::Send(FromGuard::Gone(1))]);
    assert_eq!(step(&mut guard, at(502), Input::Closed), []);
    assert_eq!(guard.wake(at(502)), Some(Duration::from_millis(9_898)));
    assert_eq!(step(&mut guard, at(600), Input::Dead), []);
    let left = Duration::from_millis(9_800);
    assert_eq!(step(&mut guard, at(600), Input::Closed), [Output::Release(record(), left)]);

    // Dead before its tree is.
    let mut guard = releasing();
    step(&mut guard, at(100), Input::Dead);
    assert_eq!(step(&mut guard, at(100), Input::Closed), [Output::Send(FromGuard::Killing(1))]);
    step(&mut guard, at(200), Input::Ended { status: 9, others: false });
    let left = Duration::from_millis(9_800);
    assert_eq!(step(&mut guard, at(200), Input::Closed), [Output::Release(record(), left)]);
}

#[test]
fn a_lock_that_may_be_lost_is_not_given_back() {
    let dies = |guard: &mut Guard, ended: u64, looked: u64| {
        step(guard, at(ended), Input::Dead);
        step(guard, at(ended), Input::Closed);
        step(guard, at(ended), Input::Ended { status: 9, others: false });
        step(guard, at(looked), Input::Closed)
    };
    // After S+R.
    assert_eq!(dies(&mut releasing(), 9_999, 10_000), [Output::Exit]);
    // After a loss.
    let mut guard = releasing();
    let stop = ToGuard::Stop { term: 1, signal: TERM, kill: at(4_500), lost: true };
    step(&mut guard, at(1_000), Input::Message(stop));
    assert_eq!(dies(&mut guard, 1_001, 1_002), [Output::Exit]);
    // Where that is not wanted.
    assert_eq!(dies(&mut started(), 1_001, 1_002), [Output::Exit]);
    // A leader-run that has closed its end, but is not dead, before S+R is over.
    let mut guard = releasing();
    step(&mut guard, at(500), Input::Closed);
    step(&mut guard, at(501), Input::Ended { status: 9, others: false });
    assert_eq!(step(&mut guard, at(9_999), Input::Closed), []);
    assert_eq!(step(&mut guard, at(10_000), Input::Closed), [Output::Exit]);
}
