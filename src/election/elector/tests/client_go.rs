//! client-go's own tests, by the row names of its table: acquiring, releasing, the fast path.

use super::*;

#[test]
fn a1_acquire_from_no_object() {
    let mut rig = Rig::new(settings());
    rig.get(NOT_FOUND);
    let record = rig.put(written(1));
    assert_eq!((record.holder.as_str(), record.transitions, record.lease_seconds), ("baz", Some(0), Some(10)));
    assert_eq!(rig.calls, [Verb::Get, Verb::Create]);
    let led = rig.led.unwrap();
    assert_eq!((led.token.as_str(), led.record.transitions), ("1", Some(0)));
    assert_eq!(rig.leaders, ["baz"]);
}

#[test]
fn a2_a4_acquire_from_an_object_without_record() {
    let mut rig = Rig::new(settings());
    rig.get(found(Record::default(), 5));
    // Differs on purpose: an empty lock is left alone for 10 ms, for a leader that was cleared by mistake.
    assert_eq!(rig.verb(), None);
    rig.pass(Duration::from_millis(9));
    assert_eq!(rig.verb(), None);
    rig.pass(Duration::from_millis(11));
    assert_eq!(rig.writing_on(), "5");
    assert_eq!(rig.put(written(6)).transitions, Some(1));
    assert_eq!(rig.calls, [Verb::Get, Verb::Update]);
    assert_eq!(rig.led.unwrap().token, "6");
    assert_eq!(rig.leaders, ["baz"]);
}

#[test]
fn a3_acquire_from_led_object_with_the_lease_duration_seconds() {
    let mut rig = Rig::new(settings());
    let theirs = record("bing", 3, "2026-11-21T07:00:00.000000Z", 0);
    rig.get(found(theirs.clone(), 5));
    assert_eq!(rig.verb(), None);
    assert!(rig.watching);
    // Its silence is noticed after half its lease; the record's 3 s beat our own 10 s.
    rig.pass(Duration::from_millis(1500));
    rig.get(found(theirs.clone(), 5));
    rig.pass(Duration::from_millis(1499));
    assert_eq!(rig.verb(), None);
    rig.pass(Duration::from_millis(1));
    rig.get(found(theirs, 5));
    assert_eq!(rig.put(written(6)).transitions, Some(1));
    assert!(rig.led.is_some());
}

#[test]
fn a5_a_lock_seen_for_the_first_time_is_valid_for_its_whole_lease() {
    // Differs from client-go only in that its test presets an old observation: nothing can be observed
    // before this process started.
    let mut rig = Rig::new(settings());
    rig.get(found(record("bing", 10, "1970-01-01T00:00:00.000000Z", 0), 5));
    rig.pass(SECOND * 5);
    rig.get(found(record("bing", 10, "1970-01-01T00:00:00.000000Z", 0), 5));
    rig.pass(SECOND * 5 - Duration::from_millis(1));
    assert_eq!(rig.verb(), None);
}

#[test]
fn a6_acquire_from_empty_led_acked_object() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    rig.event(seen(Record::released(3, rig.now.wall.micro_time()), 6));
    rig.pass(Duration::from_millis(60));
    assert_eq!(rig.writing_on(), "6");
    assert_eq!(rig.put(written(7)).transitions, Some(4));
    assert_eq!(rig.leaders, ["bing", "", "baz"]);
}

#[test]
fn a7_dont_acquire_from_led_acked_object() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    rig.pass(SECOND);
    assert_eq!(rig.calls, [Verb::Get]);
    assert_eq!(rig.leaders, ["bing"]);
    assert!(matches!(&rig.said[..], [Notice::Waiting(record, _)] if record.holder == "bing"));
}

#[test]
fn a8_our_name_in_a_record_that_we_did_not_write_is_another_holder() {
    // Differs on purpose: client-go takes over at once from its own name, and two processes with one name
    // would both lead.
    let mut rig = Rig::new(settings());
    rig.get(found(record("baz", 10, "2026-11-21T07:00:00.000000Z", 0), 5));
    rig.pass(SECOND * 4);
    assert_eq!(rig.calls, [Verb::Get]);
    let mut rig = Rig::new(Settings { resume: true, ..settings() });
    rig.get(found(record("baz", 10, "2026-11-21T07:00:00.000000Z", 2), 5));
    let resumed = rig.put(written(6));
    assert_eq!(resumed.transitions, Some(3), "a new term, which the earlier one can tell from its own");
    assert_eq!(rig.led.unwrap().token, "6");
    // Created by a twin after our first look: that one is alive.
    let mut rig = Rig::new(Settings { resume: true, ..settings() });
    rig.get(NOT_FOUND);
    rig.put(Err(Failure::Conflict));
    rig.pass(Duration::from_millis(40));
    rig.get(found(record("baz", 10, "2026-11-21T07:00:00.000000Z", 0), 5));
    rig.pass(SECOND);
    assert_eq!(rig.verb(), None);
}

#[test]
fn r1_r2_release_gets_first_and_writes_the_shape_of_client_go() {
    let mut rig = Rig::leading();
    rig.event(Event::Finish);
    let mine = rig.elector.sent.last().unwrap().record.clone();
    rig.get(found(mine, 1));
    let now = rig.now.wall;
    let record = rig.put(written(2));
    assert_eq!((record.holder.as_str(), record.lease_seconds, record.transitions), ("", Some(1), Some(0)));
    assert_eq!(record.renew_time, record.acquire_time);
    // A second after the last renewal, and signed by its fraction: so up to one before that.
    assert!(record.renew_time > now.micro_time() && record.renew_time <= now.plus(SECOND).micro_time());
    assert_eq!(rig.over, Some(Outcome::Released));
    assert_eq!(rig.calls, [Verb::Get, Verb::Update]);
    assert_eq!(rig.leaders, ["baz", ""]);
}

#[test]
fn r3_release_retries_on_conflict() {
    let mut rig = Rig::leading();
    rig.event(Event::Finish);
    let mine = rig.elector.sent.last().unwrap().record.clone();
    rig.get(found(mine.clone(), 1));
    rig.put(Err(Failure::Conflict));
    rig.get(found(mine, 2));
    assert_eq!(rig.writing_on(), "2");
    rig.put(written(3));
    assert_eq!(rig.over, Some(Outcome::Released));
}

#[test]
fn r4_r5_release_while_a_renewal_hangs() {
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    let renewal = rig.writing();
    rig.event(Event::Finish);
    // It may have been carried out: the get decides.
    rig.get(found(renewal, 2));
    assert_eq!(rig.writing_on(), "2");
    rig.put(written(3));
    assert_eq!(rig.over, Some(Outcome::Released));
}

#[test]
fn x20_release_never_overwrites_another_holder() {
    for other in [bing(), record("baz", 10, "2026-11-21T09:00:00.000000Z", 0), Record::default()] {
        let mut rig = Rig::leading();
        rig.event(Event::Finish);
        rig.get(found(other.clone(), 9));
        assert_eq!(rig.over, Some(Outcome::Released));
        assert_eq!(rig.calls, [Verb::Get]);
        assert_eq!(rig.leaders.last(), Some(&other.holder));
    }
}

#[test]
fn a_release_is_given_up_after_three_seconds() {
    let mut rig = Rig::leading();
    rig.event(Event::Finish);
    rig.get(Err(Failure::Unclear("broken pipe".into())));
    rig.pass(SECOND * 2);
    assert_eq!(rig.over, None);
    rig.pass(SECOND);
    assert!(matches!(rig.over, Some(Outcome::NotReleased(Some(Failure::Unclear(_))))), "{rig}");
}

#[test]
fn f1_renewals_need_no_get() {
    let mut rig = Rig::leading();
    for revision in 2..5 {
        rig.pass(SECOND * 2);
        rig.put(written(revision));
        assert_eq!(rig.renewed, Some(rig.now.at));
    }
    assert_eq!(rig.calls, [Verb::Update; 3]);
}

#[test]
fn f2_x5_a_conflict_falls_back_to_a_get_and_the_child_is_not_touched() {
    let mut rig = Rig::leading();
    let mine = rig.elector.sent.last().unwrap().record.clone();
    rig.pass(SECOND * 2);
    rig.put(Err(Failure::Conflict));
    // Somebody changed a label: the record is still ours.
    rig.get(found(mine, 7));
    assert_eq!(rig.writing_on(), "7");
    rig.put(written(8));
    assert_eq!(rig.calls, [Verb::Update, Verb::Get, Verb::Update]);
    assert_eq!(rig.lost, None);
}
