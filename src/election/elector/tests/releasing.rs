//! Releasing the lock: our own, and that of a leader-run that has died.

use super::*;

/// What the dead leader-run acquired, and how it looked after its last renewal.
fn dead() -> (Record, Record) {
    let acquired = record("baz", 10, "2026-11-21T07:00:00.000000Z", 3);
    let renewed = Record { renew_time: "2026-11-21T07:00:08.000000Z".into(), ..acquired.clone() };
    (acquired, renewed)
}

/// A crash release that may take this long.
fn crash_release(within: Duration) -> Rig {
    let mut rig = Rig::new(settings());
    rig.elector = Elector::releasing(settings(), rig.now, dead().0, within);
    rig.pending = None;
    rig.calls.clear();
    rig.event(Event::Tick);
    rig
}

#[test]
fn the_lock_of_a_dead_leader_run_is_released_on_exactly_the_version_that_was_read() {
    let mut rig = crash_release(SECOND * 2);
    rig.get(found(dead().1, 8));
    assert_eq!(rig.writing_on(), "8");
    let released = rig.put(written(9));
    assert_eq!((released.holder.as_str(), released.transitions), ("", Some(3)));
    assert_eq!(rig.over, Some(Outcome::Released));
}

#[test]
fn a_lock_that_is_not_of_the_term_of_the_dead_leader_run_is_left_alone() {
    let (_, renewed) = dead();
    let others = [
        Record { holder: "bing".into(), ..renewed.clone() },
        Record { acquire_time: "2026-11-21T07:00:05.000000Z".into(), ..renewed.clone() },
        Record { transitions: Some(4), ..renewed.clone() },
        Record::released(3, "2026-11-21T07:00:08.000000Z".into()),
    ];
    for other in others {
        let mut rig = crash_release(SECOND * 2);
        rig.get(found(other, 8));
        assert_eq!((rig.calls.clone(), rig.over.clone()), (vec![Verb::Get], Some(Outcome::Released)));
    }
    let mut rig = crash_release(SECOND * 2);
    rig.get(NOT_FOUND);
    assert_eq!((rig.calls.clone(), rig.over.clone()), (vec![Verb::Get], Some(Outcome::Released)));
}

#[test]
fn a_crash_release_has_the_time_that_it_is_given_but_no_more_than_any_release() {
    for (within, most) in [(SECOND * 2, SECOND * 2), (SECOND * 60, SECOND * 3)] {
        let mut rig = crash_release(within);
        assert_eq!(rig.elector.wake(rig.now), Some(most));
        rig.pass(most - Duration::from_millis(1));
        assert_eq!(rig.over, None);
        rig.pass(Duration::from_millis(1));
        assert_eq!(rig.over, Some(Outcome::NotReleased(None)));
    }
}

#[test]
fn a_failed_release_looks_again_after_a_fifth_of_a_second_and_after_a_conflict_at_once() {
    let mut rig = Rig::leading();
    let mine = rig.elector.sent.last().unwrap().record.clone();
    rig.event(Event::Finish);
    rig.get(found(mine.clone(), 1));
    rig.put(Err(Failure::Conflict));
    rig.get(found(mine.clone(), 2));
    rig.put(Err(Failure::Busy("later".into())));
    assert_eq!((rig.verb(), rig.elector.wake(rig.now)), (None, Some(Duration::from_millis(200))));
    rig.pass(Duration::from_millis(200));
    rig.get(Err(Failure::Timeout));
    rig.pass(Duration::from_millis(200));
    rig.get(found(mine, 2));
    assert_eq!(rig.writing_on(), "2");
}

#[test]
fn a_release_with_a_renew_deadline_below_three_seconds_has_only_that_time() {
    let mut rig = Rig::new(Settings { renew_deadline: SECOND * 2, retry_period: SECOND, ..settings() });
    rig.get(NOT_FOUND);
    rig.put(written(1));
    rig.event(Event::Finish);
    assert_eq!(rig.elector.wake(rig.now), Some(SECOND * 2));
}

#[test]
fn events_and_further_requests_to_finish_do_not_disturb_a_release() {
    let mut rig = Rig::leading();
    rig.event(Event::Finish);
    rig.event(Event::Finish);
    rig.event(seen(bing(), 5));
    rig.event(Event::Change(Change::Deleted(version("u", 5))));
    rig.event(Event::Forfeit("why".into()));
    assert_eq!((rig.calls.clone(), rig.over.clone(), rig.lost.clone()), (vec![Verb::Get], None, None));
}
