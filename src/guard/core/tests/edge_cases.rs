//! Messages that come at odd moments, and lateness.

use super::*;

/// Asks the guard to stop the child of the first term.
fn stop(signal: i32, kill: u64) -> Input {
    Input::Message(ToGuard::Stop { term: 1, signal, kill: at(kill), lost: false })
}

fn signal(term: u64) -> Input {
    Input::Message(ToGuard::Signal { term, signal: 1 })
}

fn start(term: u64, since: u64) -> Input {
    Input::Message(ToGuard::Start { term, deadlines: deadlines(since), env: vec!["A=b".into()], record: record() })
}

#[test]
fn a_signal_goes_to_the_child_of_its_term_while_the_child_runs() {
    let mut guard = started();
    assert_eq!(step(&mut guard, at(10), signal(1)), [Output::Signal(1)]);
    assert_eq!(step(&mut guard, at(10), signal(2)), [], "of another term");
    step(&mut guard, at(20), Input::Ended { status: 0, others: true });
    assert_eq!(step(&mut guard, at(30), signal(1)), [], "its process id may be another process by now");
    step(&mut guard, at(40), Input::Alone);
    assert_eq!(step(&mut guard, at(50), signal(1)), []);
}

#[test]
fn a_stop_of_another_term_stops_nothing() {
    let mut guard = started();
    let other = ToGuard::Stop { term: 2, signal: TERM, kill: at(100), lost: true };
    assert_eq!(step(&mut guard, at(10), Input::Message(other)), []);
    assert_eq!(step(&mut guard, at(100), Input::Tick), []);
    assert!(!guard.is_killing());
    assert_eq!(step(&mut guard, at(110), extend(100)).len(), 1, "later deadlines are still accepted");
}

#[test]
fn a_second_start_while_a_term_runs_is_ignored() {
    let mut guard = started();
    assert_eq!(step(&mut guard, at(10), start(2, 10)), []);
    assert_eq!(step(&mut guard, at(10), Input::Tick), []);
}

#[test]
fn the_child_is_started_with_the_environment_of_its_term() {
    let mut guard = Guard::new(SETTINGS);
    step(&mut guard, at(0), start(1, 0));
    assert_eq!(step(&mut guard, at(0), Input::Tick), [Output::Spawn { env: vec!["A=b".into()], until: at(10_000) }]);
    assert_eq!(step(&mut guard, at(1), Input::Tick), [], "once");
}

#[test]
fn a_child_is_not_started_when_a_requested_stop_waits_behind_its_start() {
    let mut guard = Guard::new(SETTINGS);
    step(&mut guard, at(0), start(1, 0));
    assert_eq!(step(&mut guard, at(0), stop(TERM, 25_000)), []);
    assert_eq!(step(&mut guard, at(0), Input::Tick), [Output::Send(FromGuard::Late(1))]);
}

#[test]
fn a_child_that_cannot_be_started_ends_the_term() {
    let mut guard = Guard::new(SETTINGS);
    step(&mut guard, at(0), start(1, 0));
    step(&mut guard, at(0), Input::Tick);
    assert_eq!(step(&mut guard, at(1), Input::Forked(Err(2))), [Output::Send(FromGuard::Failed(1, 2))]);
    assert_eq!(guard.wake(at(1)), None);
    assert_eq!(step(&mut guard, at(20_000), Input::Tick), [], "no deadline of it is left");
    step(&mut guard, at(20_000), start(2, 20_000));
    assert_eq!(step(&mut guard, at(20_000), Input::Tick).len(), 1, "the next term starts");
}

#[test]
fn without_descendants_the_tree_is_gone_with_the_child() {
    let mut guard = started();
    let gone = [FromGuard::Exited(1, 0), FromGuard::Gone(1)].map(Output::Send);
    assert_eq!(step(&mut guard, at(10), Input::Ended { status: 0, others: false }), gone);
    assert_eq!(step(&mut guard, at(11), Input::Alone), [], "told once");
}

#[test]
fn a_tree_is_not_gone_before_the_end_of_the_child_is_known() {
    let mut guard = started();
    assert_eq!(step(&mut guard, at(10), Input::Alone), []);
    assert!(guard.wake(at(10)).is_some(), "the term goes on");
}

#[test]
fn a_child_that_was_asked_to_stop_is_not_asked_again_at_its_deadline() {
    let mut guard = started();
    pass(&mut guard, 1, 9_000);
    step(&mut guard, at(9_000), stop(2, 34_000));
    pass(&mut guard, 9_000, 10_000);
    assert_eq!(step(&mut guard, at(10_000), Input::Tick), [Output::Send(FromGuard::Expired(1))]);
    assert_eq!(step(&mut guard, at(10_001), Input::Tick), [], "told once");
}

#[test]
fn a_requested_kill_moves_to_earlier_moments_only() {
    for (first, second) in [(5_000, 3_000), (3_000, 5_000)] {
        let mut guard = started();
        step(&mut guard, at(100), stop(TERM, first));
        step(&mut guard, at(200), stop(TERM, second));
        pass(&mut guard, 200, 3_000);
        assert!(!guard.is_killing());
        step(&mut guard, at(3_000), Input::Tick);
        assert!(guard.is_killing());
    }
}

#[test]
fn the_linger_of_descendants_does_not_outlast_a_requested_kill() {
    let mut guard = started();
    step(&mut guard, at(100), stop(TERM, 3_000));
    step(&mut guard, at(2_000), Input::Ended { status: 0, others: true });
    step(&mut guard, at(3_000), Input::Tick);
    assert!(guard.is_killing());
}

#[test]
fn descendants_are_not_asked_twice_when_a_stop_comes_after_the_end_of_the_child() {
    let mut guard = started();
    step(&mut guard, at(100), Input::Ended { status: 0, others: true });
    assert_eq!(step(&mut guard, at(200), stop(TERM, 25_000)), []);
}

#[test]
fn with_wait_all_descendants_are_asked_to_end_with_a_child_that_was_asked_to_stop() {
    let mut guard = started();
    guard.settings.wait_all = true;
    step(&mut guard, at(100), stop(TERM, 25_000));
    let out = step(&mut guard, at(200), Input::Ended { status: 0, others: true });
    assert_eq!(out.last(), Some(&Output::StopAll(TERM)));
    pass(&mut guard, 200, 9_000);
    assert!(!guard.is_killing(), "they have the whole grace");
}

#[test]
fn lateness_is_told_from_a_tenth_of_a_second_on_and_again_when_it_has_doubled() {
    let mut guard = started();
    let mut now = 0;
    let mut late = |late: u64| {
        // The guard looks at the clock a second after it last did.
        now += 1_000 + late;
        let since = Input::Message(ToGuard::Extend { term: 1, deadlines: deadlines(now) });
        step(&mut guard, at(now), since);
        step(&mut guard, at(now), Input::Tick)
    };
    assert_eq!(late(99), []);
    let told = |millis| [Output::Send(FromGuard::Slow(1, Duration::from_millis(millis)))];
    assert_eq!(late(100), told(100));
    assert_eq!(late(199), []);
    assert_eq!(late(200), told(200));
    assert_eq!(late(150), [], "the worst counts");
}

#[test]
fn a_guard_that_kills_needs_no_further_look_at_the_clock() {
    let mut guard = started();
    assert_eq!(guard.wake(at(1)), Some(Duration::from_millis(999)));
    step(&mut guard, at(2), Input::Closed);
    assert_eq!(guard.wake(at(2)), None);
}

#[test]
fn after_its_deadline_a_guard_wakes_for_the_kill() {
    let mut guard = started();
    pass(&mut guard, 1, 10_000);
    step(&mut guard, at(10_000), Input::Tick);
    pass(&mut guard, 10_000, 13_400);
    assert_eq!(guard.wake(at(13_400)), Some(Duration::from_millis(100)));
}

#[test]
fn a_child_that_the_terminal_has_stopped_again_is_continued_at_its_moment() {
    let mut guard = started();
    step(&mut guard, at(100), Input::Stopped(21));
    assert_eq!(guard.wake(at(100)), Some(Duration::ZERO));
    step(&mut guard, at(100), Input::Tick);
    step(&mut guard, at(200), Input::Stopped(21));
    step(&mut guard, at(1_100), Input::Tick);
    assert_eq!(guard.wake(at(1_100)), Some(Duration::from_millis(100)));
}

#[test]
fn no_lock_is_released_while_its_child_is_yet_to_be_started() {
    let mut guard = Guard::new(Settings { crash_release: true, ..SETTINGS });
    step(&mut guard, at(0), start(1, 0));
    step(&mut guard, at(0), Input::Dead);
    let done = step(&mut guard, at(0), Input::Closed);
    let released = Output::Release(record(), Duration::from_secs(10));
    assert_eq!(done.last(), Some(&released), "only when the term is over: {done:?}");
    assert_eq!(done.iter().filter(|done| **done == released).count(), 1);
}

#[test]
fn a_guard_without_a_term_sleeps_until_leader_run_is_gone() {
    let mut guard = started();
    guard.settings.crash_release = true;
    step(&mut guard, at(100), Input::Ended { status: 0, others: false });
    assert_eq!(guard.wake(at(100)), None, "leader-run releases the lock");
    step(&mut guard, at(200), Input::Closed);
    assert_eq!(guard.wake(at(200)), Some(Duration::from_millis(9_800)), "until the lock may be lost");
}

#[test]
fn a_child_that_is_killed_before_exec_because_leader_run_is_gone_was_late() {
    let mut guard = forked();
    assert_eq!(step(&mut guard, at(1), Input::Closed), [Output::Send(FromGuard::Killing(1))]);
    let out = step(&mut guard, at(2), Input::Ended { status: 9, others: false });
    assert_eq!(out, [Output::Send(FromGuard::Late(1))], "the kill says nothing about the command");
}
