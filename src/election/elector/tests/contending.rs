//! What is leader-run's own: `--wait`, signals while contending, crowds.

use super::*;

#[test]
fn wait_zero_tries_once() {
    let once = || Settings { wait: Some(Duration::ZERO), ..settings() };
    let mut rig = Rig::new(once());
    rig.get(found(bing(), 5));
    let Some(Outcome::GaveUp(gave_up)) = rig.over else { panic!() };
    assert_eq!((gave_up.record.unwrap().holder.as_str(), gave_up.changed), ("bing", false));
    let mut rig = Rig::new(once());
    rig.get(found(Record::default(), 5));
    rig.pass(Duration::from_millis(20));
    rig.put(written(6));
    assert!(rig.led.is_some());
    let mut rig = Rig::new(once());
    rig.get(Err(Failure::Unclear("connection refused".into())));
    assert!(matches!(rig.over, Some(Outcome::GaveUp(GaveUp { failure: Some(_), .. }))));
}

#[test]
fn wait_says_whether_the_record_changed() {
    let mut rig = Rig::new(Settings { wait: Some(SECOND * 3), ..settings() });
    rig.get(found(bing(), 5));
    rig.pass(SECOND);
    rig.event(seen(record("bing", 10, "2026-11-21T07:00:02.000000Z", 0), 6));
    rig.pass(SECOND * 2);
    let Some(Outcome::GaveUp(gave_up)) = rig.over else { panic!() };
    assert!(gave_up.changed);
    assert_eq!(gave_up.lease_duration, SECOND * 10);
}

#[test]
fn an_acquiring_write_is_never_abandoned() {
    let stop: [(Settings, Option<Event>); 2] =
        [(settings(), Some(Event::Finish)), (Settings { wait: Some(SECOND), ..settings() }, None)];
    for (settings, event) in stop {
        // It wins: given back where a signal came; taken where only `wait` is over meanwhile.
        let mut rig = Rig::new(settings.clone());
        rig.get(NOT_FOUND);
        event.clone().into_iter().for_each(|e| rig.event(e));
        rig.pass(SECOND * 2);
        assert_eq!((rig.over.clone(), rig.verb()), (None, Some(Verb::Create)));
        let mine = rig.put(written(1));
        if event.is_some() {
            rig.get(found(mine, 1));
            rig.put(written(2));
            assert_eq!(rig.over, Some(Outcome::Released));
        } else {
            assert!(rig.led.is_some());
        }
        // It may have won: a get decides, and it is given back.
        let mut rig = Rig::new(settings.clone());
        rig.get(NOT_FOUND);
        event.clone().into_iter().for_each(|e| rig.event(e));
        rig.pass(SECOND * 2);
        let mine = rig.put(Err(Failure::Timeout));
        assert_eq!(rig.over, None);
        rig.get(found(mine, 1));
        assert_eq!(rig.put(written(2)).holder, "");
        assert!(rig.over.is_some());
    }
}

#[test]
fn a_signal_ends_a_standby_at_once() {
    let mut rig = Rig::new(settings());
    rig.event(Event::Finish);
    assert_eq!(rig.over, Some(Outcome::Stopped));
    assert!(rig.pending.is_none());
}

#[test]
fn the_delay_before_taking_an_empty_lock_widens_with_each_lost_put_and_is_cancelled() {
    let mut rig = Rig::new(settings());
    let mut widest = Duration::ZERO;
    for round in 0..40u64 {
        rig.get(found(Record::released(0, rig.now.wall.micro_time()), 10 + round * 2));
        let start = rig.now.at;
        while rig.verb().is_none() {
            rig.pass(Duration::from_millis(1));
        }
        widest = widest.max(rig.now.at.leader_since(start));
        rig.put(Err(Failure::Conflict));
        while rig.verb().is_none() {
            rig.pass(Duration::from_millis(1));
        }
    }
    assert!((Duration::from_millis(500)..=Duration::from_millis(5_100)).contains(&widest), "{widest:?}");
    // Another holder is seen before our delay is over: no put.
    rig.get(found(Record::released(0, rig.now.wall.micro_time()), 200));
    rig.event(seen(bing(), 201));
    rig.pass(SECOND);
    assert_eq!(rig.verb(), None);
}
