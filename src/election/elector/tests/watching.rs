//! When a watch is opened, given up and tried again.

use super::*;

fn ended(failure: Option<Failure>) -> Event {
    Event::Change(Change::Ended(failure))
}

fn refused() -> Option<Failure> {
    Some(Failure::Refused(Verb::Watch, "forbidden".into()))
}

/// The watches that are opened now: the revision that each begins at, or `now`.
fn opened(rig: &mut Rig, event: Event) -> Vec<String> {
    let opened = rig.elector.step(rig.now, event).into_iter().filter_map(|action| match action {
        Action::Watch(from) => Some(from.map_or("now".into(), |version| version.revision)),
        _ => None,
    });
    opened.collect()
}

/// A standby whose watch is open.
fn standby() -> Rig {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    assert!(rig.elector.watching());
    rig
}

/// Lets time pass in which the holder renews, and says after how many seconds a watch was opened. The watch may have to
/// wait for the answer to a get.
fn reopened(rig: &mut Rig, span: Duration) -> Option<u64> {
    let begin = rig.now.at.boot;
    while rig.now.at.boot - begin < span {
        rig.now.at = rig.now.at.plus(Duration::from_millis(100));
        let event = match &rig.elector.pending {
            Some(pending) => {
                let renewed = record("bing", 10, &format!("{:?}", rig.now.at.boot), 0);
                Event::Answer(pending.id, found(renewed, 5))
            }
            None => Event::Tick,
        };
        if !opened(rig, event).is_empty() {
            return Some((rig.now.at.boot - begin).as_secs());
        }
    }
    None
}

#[test]
fn a_watch_begins_at_the_version_that_was_read() {
    let mut rig = Rig::new(settings());
    let id = rig.elector.pending.as_ref().unwrap().id;
    assert_eq!(opened(&mut rig, Event::Answer(id, found(bing(), 5))), ["5"]);
}

#[test]
fn a_watch_that_ends_as_agreed_is_opened_again_at_once_from_how_the_lock_is_now() {
    let mut rig = standby();
    rig.pass(SECOND);
    assert_eq!(opened(&mut rig, ended(None)), ["now"], "its version may be too old");
    rig.pass(SECOND);
    rig.event(seen(record("bing", 10, "2026-11-21T07:00:02.000000Z", 0), 6));
    assert_eq!(opened(&mut rig, ended(None)), ["now"]);
}

#[test]
fn a_watch_that_ends_at_once_or_fails_is_tried_again_after_a_pause() {
    let mut at_once = standby();
    let mut failed = standby();
    failed.pass(SECOND * 2);
    for (rig, failure) in [(&mut at_once, None), (&mut failed, Some(Failure::Unclear("broken pipe".into())))] {
        assert!(opened(rig, ended(failure)).is_empty());
        assert_eq!(rig.elector.watch_retry(rig.now), Some(SECOND * 5));
        assert_eq!(reopened(rig, SECOND * 20), Some(5));
        assert_eq!(rig.elector.watch_retry(rig.now), None);
    }
}

#[test]
fn the_pause_before_a_watch_is_tried_again_doubles_up_to_five_minutes_and_starts_over_with_an_event() {
    let mut rig = standby();
    for seconds in [5, 10, 20, 40, 80, 160, 300, 300] {
        opened(&mut rig, ended(refused()));
        assert_eq!(reopened(&mut rig, SECOND * 400), Some(seconds));
    }
    for event in [Change::Alive, Change::Seen(Observation { record: bing(), version: version("u", 7) })] {
        rig.event(Event::Change(event));
        for seconds in [5, 10] {
            opened(&mut rig, ended(refused()));
            assert_eq!(reopened(&mut rig, SECOND * 400), Some(seconds));
        }
    }
}

#[test]
fn the_end_of_a_watch_that_was_given_up_already_changes_nothing() {
    let mut rig = standby();
    opened(&mut rig, ended(refused()));
    rig.pass(SECOND);
    opened(&mut rig, ended(refused()));
    assert_eq!(rig.elector.watch_retry(rig.now), Some(SECOND * 4));
}

#[test]
fn people_are_told_once_that_the_lock_is_polled_and_only_where_the_watch_is_refused() {
    let polling = |rig: &Rig| rig.said.iter().filter(|notice| matches!(notice, Notice::Polling(_))).count();
    let mut rig = standby();
    rig.event(ended(Some(Failure::Unclear("broken pipe".into()))));
    assert_eq!(polling(&rig), 0, "it will be tried again");
    let rejected = Some(Failure::Rejected("no such path".into()));
    for (failure, count) in [(refused(), 1), (refused(), 1), (rejected, 1)] {
        reopened(&mut rig, SECOND * 400);
        rig.event(ended(failure));
        assert_eq!(polling(&rig), count);
    }
}

#[test]
fn a_standby_wakes_to_try_its_watch_again() {
    let mut rig = standby();
    rig.event(ended(refused()));
    let mut waited = Duration::ZERO;
    while !rig.elector.watching() {
        if rig.verb() == Some(Verb::Get) {
            rig.get(found(record("bing", 10, &format!("{waited:?}"), 0), 5));
        }
        let nap = rig.elector.wake(rig.now).unwrap();
        waited += nap;
        rig.now.at = rig.now.at.plus(nap);
        rig.event(Event::Tick);
        assert!(waited <= SECOND * 5);
    }
    assert_eq!(waited, SECOND * 5);
}

/// Renews every two seconds, with no event, and says when the watch was opened again.
fn leader_reopened(rig: &mut Rig, span: Duration) -> Option<Duration> {
    let begin = rig.now.at.boot;
    let mut revision = 100;
    while rig.now.at.boot - begin < span {
        let nap = rig.elector.wake(rig.now).unwrap();
        assert!(nap > Duration::ZERO, "it wants to be woken without end: {rig}");
        rig.now.at = rig.now.at.plus(nap);
        rig.now.wall = rig.now.wall.plus(nap);
        let mut actions = rig.elector.step(rig.now, Event::Tick);
        while let Some(pending) = &rig.elector.pending {
            revision += 1;
            actions.extend(rig.elector.step(rig.now, Event::Answer(pending.id, written(revision))));
        }
        if actions.iter().any(|action| matches!(action, Action::Watch(_))) {
            return Some(rig.now.at.boot - begin);
        }
    }
    None
}

#[test]
fn a_leader_whose_watch_misses_its_own_renewals_opens_another_one() {
    // After half a lease duration, but at least two retry periods.
    let mut rig = Rig::leading();
    assert_eq!(leader_reopened(&mut rig, SECOND * 60), Some(SECOND * 5));
    assert_eq!(leader_reopened(&mut rig, SECOND * 60), Some(SECOND * 5), "and so on");
    let long = Settings { lease_duration: SECOND * 7, retry_period: SECOND * 4, ..settings() };
    let mut rig = Rig::new(long);
    rig.get(NOT_FOUND);
    rig.put(written(1));
    assert_eq!(leader_reopened(&mut rig, SECOND * 60), Some(SECOND * 8));
}

#[test]
fn an_event_shows_that_the_watch_of_a_leader_is_alive() {
    let mut rig = Rig::leading();
    rig.now.at = rig.now.at.plus(SECOND);
    let mine = rig.elector.sent.last().unwrap().record.clone();
    rig.event(seen(mine, 1));
    assert_eq!(leader_reopened(&mut rig, SECOND * 60), Some(SECOND * 5), "counted from the event");
}

#[test]
fn a_leader_whose_renewals_fail_does_not_blame_its_watch() {
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    rig.put(Err(Failure::Busy("later".into())));
    rig.pass(Duration::from_millis(200));
    rig.put(Err(Failure::Busy("later".into())));
    assert!(opened(&mut rig, Event::Tick).is_empty());
    rig.now.at = rig.now.at.plus(SECOND * 3);
    assert!(opened(&mut rig, Event::Tick).is_empty());
}
