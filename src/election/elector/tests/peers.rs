//! What the faults of other clients, networks and clocks add.

use super::*;

#[test]
fn x2_a_change_of_metadata_alone_extends_nobodys_lease() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    rig.pass(SECOND * 4);
    rig.event(seen(bing(), 6));
    rig.pass(SECOND * 5);
    if rig.verb().is_some() {
        rig.get(found(bing(), 6));
    }
    rig.pass(SECOND);
    rig.get(found(bing(), 6));
    assert_eq!(rig.writing_on(), "6");
}

#[test]
fn x3_a_renewal_within_the_same_second_extends() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    rig.pass(SECOND * 4);
    rig.event(seen(record("bing", 10, "2026-11-21T07:00:00.000001Z", 0), 6));
    rig.pass(SECOND * 5);
    rig.get(found(record("bing", 10, "2026-11-21T07:00:00.000001Z", 0), 6));
    rig.pass(SECOND * 5 - Duration::from_millis(1));
    assert_eq!(rig.verb(), None);
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.verb(), Some(Verb::Get));
}

#[test]
fn x4_a_held_record_without_lease_duration_is_given_our_own() {
    let mut rig = Rig::new(settings());
    let odd = record("bing", 0, "2026-11-21T07:00:00.000000Z", 0);
    rig.get(found(odd.clone(), 5));
    rig.pass(SECOND * 5);
    rig.get(found(odd.clone(), 5));
    rig.pass(SECOND * 5 - Duration::from_millis(1));
    assert_eq!(rig.verb(), None);
    rig.pass(Duration::from_millis(1));
    rig.get(found(odd, 5));
    assert_eq!(rig.writing_on(), "5");
}

#[test]
fn x6_a_conflict_by_a_takeover_is_a_loss() {
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    rig.put(Err(Failure::Conflict));
    rig.get(found(bing(), 9));
    assert_eq!(rig.lost, Some(Loss::Taken("bing".into())));
    rig.pass(SECOND * 60);
    assert_eq!(rig.calls, [Verb::Update, Verb::Get], "nothing is written after a loss");
}

#[test]
fn another_holder_seen_by_the_watch_is_a_loss_at_once() {
    let mut rig = Rig::leading();
    rig.event(seen(bing(), 2));
    assert_eq!(rig.lost, Some(Loss::Taken("bing".into())));
    assert!(rig.pending.is_none());
}

#[test]
fn x7_a_lock_deleted_while_leading_is_created_again() {
    let mut rig = Rig::leading();
    let mine = rig.elector.sent.last().unwrap().record.clone();
    rig.event(Event::Change(Change::Deleted(version("u", 2))));
    let again = rig.writing();
    assert_eq!((&again.acquire_time, again.transitions), (&mine.acquire_time, mine.transitions));
    assert!(again.renew_time > mine.renew_time);
    rig.put(Ok(Reply::Written(version("v", 3))));
    assert_eq!((rig.calls.clone(), rig.lost.clone()), (vec![Verb::Create], None));
    // Found out by a renewal instead: 409 for the uid, then a get.
    rig.pass(SECOND * 2);
    rig.put(Err(Failure::Conflict));
    rig.get(NOT_FOUND);
    assert_eq!(rig.verb(), Some(Verb::Create));
    // Somebody else was faster: lost.
    rig.put(Err(Failure::Conflict));
    rig.get(found(bing(), 9));
    assert_eq!(rig.lost, Some(Loss::Taken("bing".into())));
}

#[test]
fn x8_a_lock_seen_held_that_vanishes_is_not_created_before_the_lease_is_over() {
    // Differs on purpose: client-go creates it at once, though its holder may still lead.
    let mut rig = Rig::new(settings());
    rig.get(found(record("bing", 12, "2026-11-21T07:00:00.000000Z", 4), 5));
    rig.event(Event::Change(Change::Deleted(version("u", 6))));
    let start = rig.now.at;
    while rig.now.at.leader_since(start) < SECOND * 11 {
        rig.pass(SECOND);
        if rig.verb() == Some(Verb::Get) {
            rig.get(NOT_FOUND);
        }
        assert_eq!(rig.verb(), None, "{rig}");
    }
    rig.pass(SECOND);
    if rig.verb() == Some(Verb::Get) {
        rig.get(NOT_FOUND);
    }
    assert_eq!(rig.verb(), Some(Verb::Create));
    assert_eq!(rig.writing().transitions, Some(5), "deletion does not lower the transitions");
}

#[test]
fn x9_a_lock_cleared_while_leading_is_written_again_on_exactly_that_version() {
    let mut rig = Rig::leading();
    rig.event(seen(Record::released(0, rig.now.wall.micro_time()), 2));
    assert_eq!(rig.writing_on(), "2");
    rig.put(written(3));
    assert_eq!((rig.lost.clone(), rig.led.clone().unwrap().token), (None, "1".into()), "the token stays");
    // Cleared after somebody else led: the transitions are not ours any more.
    rig.event(seen(Record::released(1, rig.now.wall.micro_time()), 9));
    assert!(matches!(rig.lost, Some(Loss::Taken(_))));
}

#[test]
fn x9_a_lock_that_its_leader_has_not_given_back_itself_is_left_alone_for_longer() {
    let held = Record { acquire_time: "2026-11-21T07:00:00.250007Z".into(), ..bing() };
    let given_back = held.release(Wall(1_795_330_810_000_000), Precision::Microseconds);
    assert_eq!(given_back.renew_time, "2026-11-22T07:00:09.250007Z");
    assert_eq!(given_back, Record::released(0, given_back.renew_time.clone()), "in the shape of client-go");
    let cleared = Record::released(0, "2026-11-22T07:00:09.250008Z".into());
    for (free, least, most) in [(given_back, 10, 20), (cleared, 50, 60)] {
        let mut rig = Rig::new(settings());
        rig.get(found(held.clone(), 5));
        rig.event(seen(free, 6));
        rig.pass(Duration::from_millis(least) - Duration::from_micros(1));
        assert_eq!(rig.verb(), None);
        rig.pass(Duration::from_millis(most - least + 1));
        assert_eq!(rig.writing_on(), "6");
    }
}

#[test]
fn x10_an_unconditional_overwrite_right_after_our_acquisition_is_a_loss() {
    let mut rig = Rig::leading();
    rig.event(seen(record("bing", 15, "2026-11-21T07:00:00.100000Z", 1), 2));
    assert_eq!(rig.lost, Some(Loss::Taken("bing".into())));
}

#[test]
fn x11_our_name_with_other_times_is_a_loss() {
    let mut rig = Rig::leading();
    rig.event(seen(record("baz", 10, "2026-11-21T07:00:00.000000Z", 0), 2));
    assert_eq!(rig.lost, Some(Loss::Twin));
}

#[test]
fn x12_a_create_whose_answer_was_lost_is_written_again() {
    let mut rig = Rig::new(settings());
    rig.get(NOT_FOUND);
    let mine = rig.put(Err(Failure::Timeout));
    assert_eq!(rig.led, None);
    rig.get(found(mine.clone(), 1));
    assert_eq!(rig.led, None, "a get alone is never leadership");
    let again = rig.put(written(2));
    assert_eq!((again.acquire_time, again.transitions), (mine.acquire_time, mine.transitions));
    assert_eq!(rig.led.unwrap().since, rig.now.at);
}

#[test]
fn x12_a_renewal_whose_answer_was_lost_is_written_again() {
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    let mine = rig.put(Err(Failure::Timeout));
    rig.get(found(mine, 2));
    assert_eq!(rig.renewed, None);
    assert_eq!(rig.writing_on(), "2");
    rig.put(written(3));
    assert_eq!(rig.renewed, Some(rig.now.at));
}

#[test]
fn x12_a_release_whose_answer_was_lost_is_not_repeated_over_somebody_else() {
    let mut rig = Rig::leading();
    rig.event(Event::Finish);
    let mine = rig.elector.sent.last().unwrap().record.clone();
    rig.get(found(mine, 1));
    rig.put(Err(Failure::Timeout));
    rig.pass(Duration::from_millis(200));
    rig.get(found(bing(), 3));
    assert_eq!(rig.over, Some(Outcome::Released));
}

#[test]
fn x13_a_leader_that_was_stopped_for_longer_than_r_knows_that_it_lost() {
    let mut rig = Rig::leading();
    rig.now.at = rig.now.at.plus(SECOND * 60);
    rig.event(Event::Tick);
    assert_eq!(rig.lost, Some(Loss::Deadline(None)));
    assert!(rig.calls.is_empty(), "nothing is written after a loss");
}

#[test]
fn x14_s_is_counted_from_before_the_send_and_r_is_the_end() {
    let mut rig = Rig::leading();
    let start = rig.now.at;
    rig.pass(SECOND * 2);
    // Answered 1.9 s later: S is when it was sent.
    rig.pass(Duration::from_millis(1900));
    rig.put(written(2));
    assert_eq!(rig.renewed, Some(start.plus(SECOND * 2)));
    rig.pass(Duration::from_millis(100));
    rig.put(Err(Failure::Unclear("no route".into())));
    rig.pass(Duration::from_millis(3999));
    assert_eq!(rig.lost, None);
    rig.pass(Duration::from_millis(1));
    assert!(matches!(rig.lost, Some(Loss::Deadline(Some(_)))), "{:?}", rig.lost);
    assert!(!rig.elector.is_leading());
}

#[test]
fn a_success_that_comes_too_late_never_brings_leadership_back() {
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    // Suspended: the clock that counts it is past R when the answer is read.
    rig.now.at.boot += SECOND * 4;
    rig.put(written(2));
    assert!(matches!(rig.lost, Some(Loss::Deadline(_))));
    assert_eq!(rig.renewed, None);
}

#[test]
fn a_lock_won_too_late_is_written_once_more_before_the_child_starts() {
    let mut rig = Rig::new(settings());
    rig.get(NOT_FOUND);
    rig.now.at = rig.now.at.plus(SECOND * 6);
    rig.put(written(1));
    assert_eq!(rig.led, None);
    rig.put(written(2));
    assert_eq!(rig.led.unwrap().token, "2");
    // Taken by somebody else meanwhile: a standby like any other.
    let mut rig = Rig::new(settings());
    rig.get(NOT_FOUND);
    rig.now.at = rig.now.at.plus(SECOND * 6);
    rig.put(written(1));
    rig.put(Err(Failure::Conflict));
    rig.get(found(bing(), 2));
    assert_eq!((rig.led.clone(), rig.lost.clone(), rig.over.clone()), (None, None, None));
    assert!(rig.watching && rig.verb().is_none());
    // And while the server is slow as well, it wants to be woken at some time.
    let mut rig = Rig::new(settings());
    rig.get(NOT_FOUND);
    rig.now.at = rig.now.at.plus(SECOND * 6);
    rig.put(written(1));
    rig.put(Err(Failure::Unclear("no route".into())));
    rig.pass(SECOND);
    rig.get(found(bing(), 2));
    assert!(rig.led.is_none() && rig.lost.is_none());
}

#[test]
fn x15_refusals_are_survived_until_r() {
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    rig.put(Err(Failure::Refused(Verb::Update, "forbidden".into())));
    rig.pass(Duration::from_millis(200));
    rig.put(Err(Failure::Refused(Verb::Update, "forbidden".into())));
    rig.pass(SECOND * 2);
    rig.put(written(2));
    assert_eq!((rig.lost.clone(), rig.said.last()), (None, Some(&Notice::Recovered)));
}

#[test]
fn x16_a_busy_server_is_asked_again_at_our_own_pace() {
    let mut rig = Rig::leading();
    for _ in 0..3 {
        while rig.verb().is_none() {
            rig.pass(Duration::from_millis(100));
        }
        rig.put(Err(Failure::Busy("come back in 30 s".into())));
    }
    rig.pass(SECOND * 2);
    assert_eq!(rig.lost, Some(Loss::Deadline(Some(Failure::Busy("come back in 30 s".into())))));
    assert_eq!(rig.calls, [Verb::Update; 3]);
}

#[test]
fn a_standby_that_is_refused_for_longer_than_r_gives_up() {
    let mut rig = Rig::new(settings());
    let start = rig.now.at;
    while rig.over.is_none() {
        match rig.verb() {
            Some(Verb::Get) => rig.get(found(Record::default(), 5)),
            Some(_) => drop(rig.put(Err(Failure::Refused(Verb::Update, "forbidden".into())))),
            None => rig.pass(Duration::from_millis(100)),
        }
        assert!(rig.now.at.leader_since(start) < SECOND * 12, "{rig}");
    }
    assert!(rig.now.at.leader_since(start) >= SECOND * 6);
    assert!(matches!(rig.over, Some(Outcome::Failed(Failure::Refused(Verb::Update, _)))));
}

#[test]
fn x17_a_standby_that_may_not_watch_polls_as_client_go_does_and_says_so_once() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    let refused = || Event::Change(Change::Ended(Some(Failure::Refused(Verb::Watch, "forbidden".into()))));
    rig.event(refused());
    let start = rig.now.at;
    let mut renewals = 5;
    while rig.now.at.leader_since(start) < SECOND * 30 {
        if rig.verb() == Some(Verb::Get) {
            renewals += 1;
            rig.get(found(record("bing", 10, &renewals.to_string(), 0), renewals));
        }
        if rig.elector.watching() {
            rig.event(refused());
        }
        rig.pass(Duration::from_millis(50));
    }
    let gets = rig.calls.len() - 1;
    assert!((6..=15).contains(&gets), "{gets} gets in 30 s with a retry period of 2 s");
    assert_eq!(rig.said.iter().filter(|n| matches!(n, Notice::Polling(_))).count(), 1);
    // And it sees a release by polling.
    while rig.verb() != Some(Verb::Get) {
        rig.pass(Duration::from_millis(50));
    }
    rig.get(found(Record::released(0, rig.now.wall.micro_time()), 100));
    rig.pass(Duration::from_millis(60));
    assert_eq!(rig.writing_on(), "100");
}

#[test]
fn x17_a_silent_watch_is_found_out_by_a_get_and_never_lets_a_live_lock_be_taken() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    rig.pass(SECOND * 5);
    rig.watching = false;
    rig.get(found(record("bing", 10, "2026-11-21T07:00:04.000000Z", 0), 7));
    assert!(rig.watching, "it opens a new watch");
    assert_eq!(rig.calls, [Verb::Get; 2]);
}

#[test]
fn x18_a_release_that_keeps_the_holder_is_taken_after_its_second() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    rig.event(seen(record("bing", 1, "2026-11-21T07:00:09.000000Z", 0), 6));
    rig.pass(SECOND);
    if rig.verb() == Some(Verb::Get) {
        rig.get(found(record("bing", 1, "2026-11-21T07:00:09.000000Z", 0), 6));
    }
    assert_eq!(rig.writing_on(), "6");
}

#[test]
fn x19_the_wall_clocks_of_other_writers_have_no_effect() {
    for renewed in ["2026-11-21T06:00:00.000000Z", "2026-11-21T08:00:00.000000Z", "", "yesterday"] {
        let mut rig = Rig::new(settings());
        rig.get(found(record("bing", 10, renewed, 0), 5));
        rig.pass(SECOND * 5);
        rig.get(found(record("bing", 10, renewed, 0), 5));
        rig.pass(SECOND * 5 - Duration::from_millis(1));
        assert_eq!(rig.verb(), None, "{renewed}");
        rig.pass(Duration::from_millis(1));
        rig.get(found(record("bing", 10, renewed, 0), 5));
        assert_eq!(rig.writing_on(), "5", "{renewed}");
    }
}

#[test]
fn x21_two_renewals_never_carry_the_same_second() {
    let mut rig = Rig::leading();
    let mut last = rig.elector.sent.last().unwrap().record.renew_time.clone();
    for revision in 2..20 {
        rig.pass(SECOND * 2);
        // The wall clock is stepped back again and again.
        rig.now.wall = Wall(rig.now.wall.0 - 2_000_000);
        let record = rig.put(written(revision));
        assert!(record.renew_time[..19] > last[..19], "{} after {last}", record.renew_time);
        last = record.renew_time;
    }
}

#[test]
fn x21_a_conflict_for_a_write_that_was_carried_out_counts_its_second() {
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    // Sent twice on the way: the first was carried out, the second is answered.
    let first = rig.put(Err(Failure::Conflict));
    rig.get(found(first.clone(), 2));
    assert!(rig.writing().renew_time[..19] > first.renew_time[..19]);
}

#[test]
fn x9_an_empty_lock_of_another_object_is_a_loss() {
    let mut rig = Rig::leading();
    let record = Record::released(0, rig.now.wall.micro_time());
    rig.event(Event::Change(Change::Seen(Observation { record, version: version("v", 9) })));
    assert!(matches!(rig.lost, Some(Loss::Taken(_))), "somebody else may have led in it");
}

#[test]
fn an_older_answer_that_an_event_overtook_is_no_news() {
    let mut rig = Rig::new(settings());
    rig.get(found(Record::released(0, rig.now.wall.micro_time()), 5));
    rig.pass(Duration::from_millis(20));
    let mine = rig.put(Err(Failure::Timeout));
    // The get that follows is read before the write is carried out, and answered after its event.
    rig.event(seen(mine.clone(), 6));
    rig.get(found(Record::released(0, rig.now.wall.micro_time()), 5));
    rig.get(found(mine, 6));
    rig.put(written(7));
    assert_eq!(rig.led.unwrap().token, "7");
}

#[test]
fn an_answer_that_nothing_is_there_can_be_overtaken_as_well() {
    let mut rig = Rig::new(settings());
    rig.get(NOT_FOUND);
    let mine = rig.put(Err(Failure::Timeout));
    rig.event(seen(mine.clone(), 1));
    rig.get(NOT_FOUND);
    rig.get(found(mine, 1));
    rig.put(written(2));
    assert_eq!(rig.led.unwrap().token, "2");
}

#[test]
fn a_create_under_way_is_superseded_before_the_release_ends() {
    let mut rig = Rig::leading();
    rig.event(Event::Change(Change::Deleted(version("u", 2))));
    let again = rig.writing();
    rig.event(Event::Finish);
    rig.get(NOT_FOUND);
    // It may be carried out yet: what we write now keeps it out, or finds that it has been.
    let free = rig.writing();
    assert_eq!((rig.verb(), free.holder.as_str(), free.transitions), (Some(Verb::Create), "", Some(0)));
    rig.put(Err(Failure::Conflict));
    rig.get(found(again, 3));
    assert_eq!(rig.put(written(4)).holder, "");
    assert_eq!(rig.over, Some(Outcome::Released));
}

/// A standby that has seen the lock like this, whose write was not answered, and that looks again.
fn unclear(settings: Settings, before: Result<Reply, Failure>) -> Rig {
    let mut rig = Rig::new(settings);
    rig.get(before);
    rig.pass(Duration::from_millis(60));
    rig.put(Err(Failure::Timeout));
    rig
}

#[test]
fn a_get_of_the_version_that_an_unclear_write_was_to_replace_settles_nothing() {
    let free = || found(Record::released(3, "2026-11-21T07:00:00.000000Z".into()), 5);
    for before in [free(), NOT_FOUND] {
        // The next write of ours on that version is what settles it.
        let mut rig = unclear(settings(), before.clone());
        rig.event(Event::Finish);
        assert_eq!(rig.over, None);
        rig.get(before.clone());
        let superseding = rig.put(written(6));
        assert!(superseding.is_free() && superseding.transitions.is_some());
        assert_eq!(rig.over, Some(Outcome::Stopped));
        // That may come too late: then the lock is ours, and is released.
        let mut rig = unclear(settings(), before.clone());
        let ours = rig.elector.sent[0].record.clone();
        rig.event(Event::Finish);
        rig.get(before.clone());
        rig.put(Err(Failure::Conflict));
        rig.get(found(ours, 6));
        assert!(rig.put(written(7)).is_free());
        assert_eq!(rig.over, Some(Outcome::Stopped));
        // Without an answer nobody waits for more than one request timeout.
        let mut rig = unclear(settings(), before.clone());
        rig.event(Event::Finish);
        rig.get(before);
        rig.pass(SECOND * 3 - Duration::from_micros(1));
        assert_eq!(rig.over, None);
        rig.pass(Duration::from_micros(1));
        assert_eq!(rig.over, Some(Outcome::Stopped));
    }
}

#[test]
fn a_later_version_settles_an_unclear_write() {
    let free = Record::released(3, "2026-11-21T07:00:00.000000Z".into());
    let mut rig = unclear(settings(), found(free, 5));
    rig.event(seen(bing(), 6));
    rig.event(Event::Finish);
    assert_eq!(rig.over, Some(Outcome::Stopped));
    let mut rig = unclear(settings(), NOT_FOUND);
    rig.event(seen(bing(), 6));
    rig.event(Event::Finish);
    assert_eq!(rig.over, Some(Outcome::Stopped));
}

#[test]
fn a_refusal_settles_no_earlier_write_and_nobody_ends_with_it() {
    let free = || found(Record::released(3, "2026-11-21T07:00:00.000000Z".into()), 5);
    let mut rig = unclear(settings(), free());
    while rig.over.is_none() && rig.now.at.boot < SECOND * 1030 {
        match rig.verb() {
            Some(Verb::Get) => rig.get(free()),
            Some(_) if rig.writing().is_free() => break,
            Some(_) => drop(rig.put(Err(Failure::Refused(Verb::Update, "forbidden".into())))),
            None => rig.pass(Duration::from_millis(100)),
        }
    }
    assert_eq!(rig.over, None, "it supersedes the write first");
    rig.put(written(6));
    assert!(matches!(rig.over, Some(Outcome::Failed(Failure::Refused(..)))));
}

#[test]
fn a_record_without_transitions_is_not_a_cleared_one_of_ours() {
    let cleared = |transitions| Record { transitions, ..Record::released(0, "2026-11-21T07:00:09.000000Z".into()) };
    for (record, ours) in [(cleared(Some(0)), true), (cleared(None), false), (cleared(Some(1)), false)] {
        let mut rig = Rig::leading();
        rig.pass(SECOND * 2);
        rig.put(Err(Failure::Conflict));
        rig.get(found(record, 9));
        assert_eq!(rig.lost.is_none(), ours);
    }
    // Both halves of a lock in two objects have to say so.
    let halves = |other| Record { other_half: cleared(other).to_annotation(), ..cleared(Some(0)) };
    for (record, ours) in [(halves(Some(0)), true), (halves(Some(1)), false)] {
        let mut rig = Rig::leading();
        rig.event(seen(record, 9));
        assert_eq!(rig.lost.is_none(), ours);
    }
}

#[test]
fn an_entirely_empty_record_is_ours_only_right_after_our_version_on_an_unbroken_watch() {
    let blank = |revision| seen(Record::default(), revision);
    let mine = |rig: &Rig| rig.elector.sent.last().unwrap().record.clone();
    // The watch is open since our version.
    let mut rig = Rig::leading();
    rig.event(blank(2));
    assert_eq!((rig.lost.clone(), rig.writing_on()), (None, "2"));
    // It has shown our renewal.
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    let renewal = rig.put(written(2));
    rig.event(seen(renewal, 2));
    rig.event(blank(3));
    assert_eq!((rig.lost.clone(), rig.writing_on()), (None, "3"));
    // A watch from now on begins with whatever is there.
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    rig.event(Event::Change(Change::Ended(None)));
    assert!(rig.elector.watching());
    rig.event(blank(2));
    assert!(matches!(rig.lost, Some(Loss::Taken(_))), "{rig}");
    // Somebody else's version lies between, as far as is known.
    let mut rig = Rig::leading();
    rig.event(Event::Change(Change::Ended(None)));
    rig.event(blank(2));
    assert!(matches!(rig.lost, Some(Loss::Taken(_))), "{rig}");
    // A get proves nothing.
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    rig.put(Err(Failure::Conflict));
    rig.get(found(Record::default(), 9));
    assert!(matches!(rig.lost, Some(Loss::Taken(_))));
    // Nor does a watch that does not show every version.
    let mut rig = Rig::new(Settings { complete_watch: false, ..settings() });
    rig.get(NOT_FOUND);
    rig.put(written(1));
    rig.event(seen(mine(&rig), 1));
    rig.event(blank(2));
    assert!(matches!(rig.lost, Some(Loss::Taken(_))));
}

#[test]
fn refusals_count_from_the_time_at_which_nobody_else_leads() {
    let mut rig = Rig::new(settings());
    rig.get(found(Record::default(), 5));
    rig.pass(Duration::from_millis(20));
    rig.put(Err(Failure::Refused(Verb::Update, "forbidden".into())));
    rig.pass(SECOND * 5);
    rig.get(found(bing(), 6));
    rig.event(seen(record("bing", 10, "2026-11-21T07:00:09.000000Z", 0), 7));
    rig.pass(SECOND * 4);
    rig.event(seen(Record::released(0, rig.now.wall.micro_time()), 8));
    rig.pass(Duration::from_millis(60));
    rig.put(Err(Failure::Refused(Verb::Update, "forbidden".into())));
    assert_eq!(rig.over, None);
}

#[test]
fn a_loss_by_conflicts_says_so() {
    let mut rig = Rig::leading();
    let mine = rig.elector.sent.last().unwrap().record.clone();
    let mut revision = 2;
    while rig.lost.is_none() {
        match rig.verb() {
            Some(Verb::Get) => rig.get(found(mine.clone(), revision)),
            Some(_) => drop(rig.put(Err(Failure::Conflict))),
            None => rig.pass(Duration::from_millis(100)),
        }
        revision += 1;
        rig.pass(Duration::from_millis(50));
    }
    assert_eq!(rig.lost, Some(Loss::Deadline(Some(Failure::Conflict))));
    // A failure after a conflict is the reason.
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    rig.put(Err(Failure::Conflict));
    rig.get(Err(Failure::Unclear("no route".into())));
    rig.pass(SECOND * 6);
    assert_eq!(rig.lost, Some(Loss::Deadline(Some(Failure::Unclear("no route".into())))));
}

#[test]
fn a_conflict_does_not_push_renew_time_into_the_future() {
    let mut rig = Rig::leading();
    let mine = rig.elector.sent.last().unwrap().record.clone();
    rig.pass(SECOND * 2);
    let now = rig.now.wall;
    for revision in 2..7 {
        rig.put(Err(Failure::Conflict));
        while rig.verb().is_none() {
            rig.pass(Duration::from_millis(1));
        }
        rig.get(found(mine.clone(), revision));
    }
    assert!(rig.writing().renew_time <= now.plus(SECOND * 3).micro_time());
}

#[test]
fn the_standby_clock_is_the_slower_one_and_the_leader_clock_the_faster_one() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    // A suspend of an hour: no renewal could be seen, so none of it counts.
    rig.now.at.boot += SECOND * 3600;
    rig.event(Event::Tick);
    rig.get(found(bing(), 5));
    assert_eq!(rig.verb(), None);
    let mut rig = Rig::leading();
    rig.now.at.raw += SECOND * 6;
    rig.event(Event::Tick);
    assert!(rig.lost.is_some());
}
