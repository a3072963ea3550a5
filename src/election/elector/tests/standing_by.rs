//! What a standby does with answers, failures and events, and when.

use super::*;

fn free() -> Record {
    Record::released(0, "2026-11-21T07:00:09.000000Z".into())
}

/// The request that is under way or comes next, and how long until it is sent.
fn next_request(rig: &mut Rig) -> (Verb, Duration) {
    let begin = rig.now.at.boot;
    for _ in 0..60_000 {
        if let Some(verb) = rig.verb() {
            return (verb, rig.now.at.boot - begin);
        }
        rig.pass(Duration::from_millis(1));
    }
    panic!("no request: {rig}");
}

/// A standby that is about to write the free lock.
fn writing() -> Rig {
    writing_with(settings())
}

fn writing_with(settings: Settings) -> Rig {
    let mut rig = Rig::new(settings);
    rig.get(found(free(), 5));
    rig.pass(Duration::from_millis(20));
    assert_eq!(rig.writing_on(), "5");
    rig
}

// Acquiring.

#[test]
fn the_acquire_time_is_in_the_second_of_the_write_with_a_random_fraction() {
    let fraction = |seed| {
        let mut rig = Rig::new(Settings { seed, ..settings() });
        rig.now.wall = Wall(1_795_330_805_400_000);
        rig.get(NOT_FOUND);
        let acquired = rig.writing().acquire_time;
        let fraction = acquired.strip_prefix("2026-11-22T07:00:05.").unwrap_or_else(|| panic!("{acquired}"));
        fraction.to_owned()
    };
    assert_ne!(fraction(1), fraction(2));
}

#[test]
fn a_lock_that_is_about_to_be_taken_is_not_watched() {
    let mut rig = Rig::new(settings());
    rig.get(found(free(), 5));
    assert!(!rig.watching);
    let mut rig = Rig::new(settings());
    rig.get(NOT_FOUND);
    assert!(!rig.watching && rig.verb() == Some(Verb::Create));
}

#[test]
fn transitions_stay_within_the_32_bits_of_the_api_server() {
    for (transitions, next) in [(4, 5), (i32::MAX.into(), i32::MAX.into()), (i64::MAX, i32::MAX.into())] {
        let mut rig = Rig::new(settings());
        rig.get(found(Record { transitions: Some(transitions), ..free() }, 5));
        rig.pass(Duration::from_millis(20));
        assert_eq!(rig.writing().transitions, Some(next));
    }
}

#[test]
fn the_transitions_never_fall() {
    let mut rig = Rig::new(settings());
    rig.get(found(record("bing", 10, "2026-11-21T07:00:00.000000Z", 7), 5));
    rig.event(seen(Record { transitions: Some(2), ..free() }, 6));
    rig.pass(Duration::from_millis(60));
    assert_eq!(rig.writing().transitions, Some(8), "somebody cleared the lock without them");
}

#[test]
fn a_lock_seen_to_expire_is_taken_only_after_a_get_of_that_moment() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    rig.pass(SECOND * 5);
    rig.get(found(bing(), 5));
    rig.pass(SECOND * 5);
    assert_eq!(rig.verb(), Some(Verb::Get));
    rig.get(found(record("bing", 10, "2026-11-21T07:00:09.000000Z", 0), 6));
    assert_eq!(rig.verb(), None, "a renewal that the watch missed");
    assert!(rig.elector.waiting().is_some_and(|waiting| waiting.renewed == rig.now.at));
}

#[test]
fn the_same_record_in_another_object_is_a_change() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    rig.pass(SECOND * 4);
    rig.event(Event::Change(Change::Seen(Observation { record: bing(), version: version("v", 6) })));
    assert_eq!(rig.elector.waiting().map(|waiting| waiting.renewed), Some(rig.now.at));
}

#[test]
fn an_older_event_is_no_news_to_a_standby() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    for revision in [4, 5] {
        rig.event(seen(free(), revision));
        rig.event(Event::Change(Change::Deleted(version("u", revision - 1))));
    }
    rig.pass(SECOND);
    assert_eq!(rig.verb(), None);
    assert_eq!(rig.elector.waiting().map(|waiting| waiting.holder), Some("bing".into()));
}

#[test]
fn a_held_lock_that_is_deleted_is_created_when_its_lease_is_over() {
    let mut rig = Rig::new(settings());
    rig.get(found(record("bing", 14, "2026-11-21T07:00:00.000000Z", 0), 5));
    rig.event(Event::Change(Change::Deleted(version("u", 6))));
    rig.pass(SECOND * 5);
    rig.get(NOT_FOUND);
    // The get does not begin the time anew.
    rig.pass(SECOND * 9 - Duration::from_millis(1));
    if rig.verb() == Some(Verb::Get) {
        rig.get(NOT_FOUND);
    }
    assert_eq!(rig.verb(), None);
    assert_eq!(rig.elector.wake(rig.now), Some(Duration::from_millis(1)));
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.verb(), Some(Verb::Create));
}

#[test]
fn a_short_lease_of_a_deleted_lock_is_waited_for_as_long_as_our_own() {
    let mut rig = Rig::new(settings());
    rig.get(found(record("bing", 3, "2026-11-21T07:00:00.000000Z", 0), 5));
    rig.event(Event::Change(Change::Deleted(version("u", 6))));
    rig.pass(SECOND * 5);
    rig.get(NOT_FOUND);
    assert_eq!(next_request(&mut rig), (Verb::Create, SECOND * 5));
}

#[test]
fn a_free_lock_that_is_deleted_is_created_at_once() {
    let mut rig = Rig::new(settings());
    rig.get(found(free(), 5));
    rig.event(Event::Change(Change::Deleted(version("u", 6))));
    assert_eq!(rig.verb(), Some(Verb::Create));
}

// Looking.

#[test]
fn a_silent_watch_is_checked_by_a_get_after_half_a_lease_duration() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    assert_eq!(next_request(&mut rig), (Verb::Get, SECOND * 5));
    rig.get(found(bing(), 5));
    rig.pass(SECOND * 4);
    rig.event(seen(record("bing", 10, "2026-11-21T07:00:09.000000Z", 0), 6));
    assert_eq!(next_request(&mut rig), (Verb::Get, SECOND * 5), "an event is a sign of life");
}

#[test]
fn a_get_that_shows_what_the_watch_has_shown_leaves_the_watch_alone() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    rig.pass(SECOND * 5);
    rig.watching = false;
    rig.get(found(bing(), 6));
    assert!(!rig.watching, "only metadata changed");
    let news: [Result<Reply, Failure>; 2] = [found(record("bing", 10, "2026-11-21T07:00:09.000000Z", 0), 7), NOT_FOUND];
    for news in news {
        let mut rig = Rig::new(settings());
        rig.get(found(bing(), 5));
        rig.pass(SECOND * 5);
        rig.watching = false;
        rig.get(news);
        assert!(rig.watching, "it should have shown this");
    }
}

#[test]
fn a_lock_that_appears_without_an_event_shows_that_the_watch_is_dead() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    rig.event(Event::Change(Change::Deleted(version("u", 6))));
    rig.pass(SECOND * 5);
    rig.watching = false;
    rig.get(found(bing(), 7));
    assert!(rig.watching);
}

#[test]
fn a_get_after_a_lost_put_says_nothing_of_the_watch() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    rig.event(seen(free(), 6));
    rig.pass(Duration::from_millis(60));
    rig.put(Err(Failure::Conflict));
    next_request(&mut rig);
    rig.watching = false;
    rig.get(found(record("bong", 10, "2026-11-21T07:00:09.000000Z", 1), 7));
    assert!(!rig.watching, "the event may be on its way");
}

#[test]
fn polling_gets_are_between_one_and_2_2_retry_periods_apart() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    let mut pauses = Vec::new();
    for round in 0..40 {
        let begin = rig.now.at;
        while rig.verb().is_none() {
            if rig.elector.watching() {
                rig.event(Event::Change(Change::Ended(Some(Failure::Refused(Verb::Watch, "forbidden".into())))));
            }
            rig.pass(Duration::from_millis(1));
        }
        pauses.push(rig.now.at.leader_since(begin));
        rig.get(found(record("bing", 10, &round.to_string(), 0), 6 + round));
    }
    let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
    assert!((SECOND * 2..SECOND * 3).contains(least) && (SECOND * 4..Duration::from_millis(4_401)).contains(most));
}

// Failures.

#[test]
fn a_failed_get_is_repeated_at_the_pace_of_polling() {
    for failure in [Failure::Timeout, Failure::Unclear("broken pipe".into()), Failure::Busy("later".into())] {
        let mut rig = Rig::new(settings());
        for _ in 0..3 {
            rig.get(Err(failure.clone()));
            let (verb, pause) = next_request(&mut rig);
            assert_eq!(verb, Verb::Get);
            assert!((SECOND * 2..Duration::from_millis(4_401)).contains(&pause), "{pause:?} after {failure}");
        }
    }
}

#[test]
fn after_a_failed_write_a_standby_looks_soon_and_then_at_the_pace_of_polling() {
    let mut rig = writing();
    rig.put(Err(Failure::Busy("later".into())));
    assert_eq!(next_request(&mut rig), (Verb::Get, Duration::from_millis(200)));
    rig.get(found(free(), 5));
    rig.put(Err(Failure::Busy("later".into())));
    let (verb, pause) = next_request(&mut rig);
    assert!(verb == Verb::Get && pause >= SECOND * 2, "{pause:?}");
    rig.get(found(free(), 5));
    rig.put(Err(Failure::Busy("later".into())));
    assert!(next_request(&mut rig).1 >= SECOND * 2);
    // A write that timed out has waited long enough.
    let mut rig = writing();
    rig.put(Err(Failure::Timeout));
    assert_eq!(next_request(&mut rig), (Verb::Get, Duration::ZERO));
}

#[test]
fn after_a_conflict_a_standby_looks_within_a_fifth_of_a_second() {
    let mut rig = writing();
    for revision in 6..20 {
        rig.put(Err(Failure::Conflict));
        let (verb, pause) = next_request(&mut rig);
        assert!(verb == Verb::Get && pause <= Duration::from_millis(200), "{pause:?}");
        rig.get(found(free(), revision));
        next_request(&mut rig);
    }
    // Conflicts are no failures: the first of those is repeated soon.
    rig.put(Err(Failure::Busy("later".into())));
    assert_eq!(next_request(&mut rig), (Verb::Get, Duration::from_millis(200)));
}

#[test]
fn a_write_that_was_surely_not_carried_out_needs_no_release() {
    for failure in [Failure::Conflict, Failure::Busy("later".into())] {
        let mut rig = writing();
        rig.put(Err(failure));
        rig.event(Event::Finish);
        assert_eq!(rig.over, Some(Outcome::Stopped));
    }
    // Nor does a get whose answer was lost.
    let mut rig = Rig::new(settings());
    rig.get(Err(Failure::Timeout));
    rig.event(Event::Finish);
    assert_eq!(rig.over, Some(Outcome::Stopped));
}

#[test]
fn a_lost_answer_is_cleared_up_by_the_next_get() {
    let mut rig = writing();
    rig.put(Err(Failure::Unclear("broken pipe".into())));
    rig.pass(Duration::from_millis(200));
    rig.get(found(bing(), 6));
    rig.event(Event::Finish);
    assert_eq!(rig.over, Some(Outcome::Stopped), "the lock names somebody else");
}

#[test]
fn a_server_that_is_not_trusted_is_tried_again_for_the_renew_deadline() {
    let unusable = || Failure::Unusable("untrusted certificate".into());
    for trusted_again in [false, true] {
        let mut rig = Rig::new(settings());
        let begin = rig.now.at;
        while rig.over.is_none() && rig.now.at.leader_since(begin) < SECOND * 5 {
            rig.get(Err(unusable()));
            next_request(&mut rig);
        }
        assert_eq!(rig.over, None, "its certificate may be renewed, or the one that vouches for it");
        if trusted_again {
            rig.get(found(bing(), 5));
            next_request(&mut rig);
        }
        let begin = rig.now.at;
        while rig.over.is_none() && rig.now.at.leader_since(begin) < SECOND * 5 {
            rig.get(Err(unusable()));
            if rig.over.is_none() {
                next_request(&mut rig);
            }
        }
        assert_eq!(rig.over, (!trusted_again).then(|| Outcome::Failed(unusable())));
    }
}

#[test]
fn a_verb_that_succeeds_or_conflicts_is_allowed_again() {
    let refused = |verb| Err(Failure::Refused(verb, "forbidden".into()));
    let mut rig = writing();
    let mut again = |answer: Result<Reply, Failure>| {
        rig.put(answer);
        next_request(&mut rig);
        rig.get(found(free(), 5));
        next_request(&mut rig);
        rig.over.clone()
    };
    again(refused(Verb::Update));
    again(refused(Verb::Update));
    again(Err(Failure::Conflict));
    // More than R after the first refusal.
    again(refused(Verb::Update));
    assert_eq!(again(refused(Verb::Update)), None);
    // A get is refused and allowed in turn.
    let mut rig = Rig::new(settings());
    let begin = rig.now.at;
    while rig.now.at.leader_since(begin) < SECOND * 20 {
        rig.get(refused(Verb::Get));
        next_request(&mut rig);
        rig.get(found(record("bing", 10, &format!("{:?}", rig.now.at), 0), 5));
        next_request(&mut rig);
    }
    assert_eq!(rig.over, None);
}

#[test]
fn refusals_of_a_get_count_while_somebody_else_leads() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    for _ in 0..20 {
        if rig.over.is_none() {
            next_request(&mut rig);
            rig.get(Err(Failure::Refused(Verb::Get, "forbidden".into())));
            rig.event(seen(record("bing", 10, &format!("{:?}", rig.now.at), 0), 6));
        }
    }
    assert!(matches!(rig.over, Some(Outcome::Failed(Failure::Refused(Verb::Get, _)))));
}

// `--wait`.

#[test]
fn wait_is_not_counted_while_a_write_is_under_way() {
    let waiting = || Settings { wait: Some(SECOND * 2), ..settings() };
    let mut rig = writing_with(waiting());
    assert_eq!(rig.elector.wake(rig.now), None, "only the answer can end it");
    rig.pass(SECOND * 3);
    assert_eq!(rig.over, None);
    rig.put(Err(Failure::Conflict));
    assert!(matches!(rig.over, Some(Outcome::GaveUp(_))));
    // A get is not waited for.
    let mut rig = Rig::new(waiting());
    assert_eq!(rig.elector.wake(rig.now), Some(SECOND * 2));
    rig.pass(SECOND * 2);
    assert!(matches!(rig.over, Some(Outcome::GaveUp(GaveUp { record: None, changed: false, .. }))));
}

#[test]
fn no_get_outlasts_the_wait() {
    let mut rig = Rig::new(Settings { wait: Some(SECOND), ..settings() });
    assert_eq!(rig.pending.as_ref().unwrap().2, SECOND);
    rig.get(Err(Failure::Timeout));
    rig.pass(SECOND);
    assert!(rig.over.is_some());
}

#[test]
fn wait_zero_gives_up_when_its_one_write_is_lost() {
    let mut rig = writing_with(Settings { wait: Some(Duration::ZERO), ..settings() });
    rig.put(Err(Failure::Conflict));
    assert!(matches!(rig.over, Some(Outcome::GaveUp(_))));
}

#[test]
fn giving_up_says_how_long_the_record_is_valid() {
    let mut rig = Rig::new(Settings { wait: Some(SECOND), ..settings() });
    rig.get(found(record("bing", 60, "2026-11-21T07:00:00.000000Z", 0), 5));
    rig.pass(SECOND);
    let Some(Outcome::GaveUp(gave_up)) = rig.over else { panic!() };
    assert_eq!((gave_up.lease_duration, gave_up.record.unwrap().holder), (SECOND * 60, "bing".into()));
}

// What people are told.

#[test]
fn people_are_told_whom_a_standby_waits_for_once_for_each_holder() {
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    rig.event(seen(record("bing", 10, "2026-11-21T07:00:02.000000Z", 0), 6));
    rig.event(seen(record("bong", 10, "2026-11-21T07:00:04.000000Z", 1), 7));
    let told: Vec<_> = rig
        .said
        .iter()
        .filter_map(|n| if let Notice::Waiting(r, d) = n { Some((&*r.holder, *d)) } else { None })
        .collect();
    assert_eq!(told, [("bing", SECOND * 10), ("bong", SECOND * 10)]);
    assert_eq!(rig.leaders, ["bing", "bong"]);
}

#[test]
fn nobody_waits_for_a_lock_that_is_free_or_that_we_write_or_hold() {
    let mut rig = Rig::new(settings());
    assert_eq!(rig.elector.waiting(), None, "nothing is known yet");
    rig.get(found(free(), 5));
    assert_eq!(rig.elector.waiting(), None);
    let begin = rig.now.at;
    rig.event(seen(bing(), 6));
    rig.pass(SECOND);
    let waiting = Waiting { holder: "bing".into(), since: begin, renewed: begin, lease: SECOND * 10 };
    assert_eq!(rig.elector.waiting(), Some(waiting));
    for _ in 0..3 {
        rig.pass(SECOND * 5);
        if rig.verb() == Some(Verb::Get) {
            rig.get(found(bing(), 6));
        }
    }
    assert_eq!((rig.verb(), rig.elector.waiting()), (Some(Verb::Update), None), "it has expired");
    rig.put(written(7));
    assert!(rig.elector.is_leading() && rig.elector.waiting().is_none());
}

#[test]
fn a_write_whose_answer_was_lost_is_not_told_as_another_leader() {
    let mut rig = writing();
    let mine = rig.put(Err(Failure::Timeout));
    rig.get(found(mine.clone(), 6));
    assert!(rig.leaders.is_empty() && rig.said.iter().all(|notice| !matches!(notice, Notice::Waiting(..))));
    assert_eq!(rig.writing().acquire_time, mine.acquire_time, "the same term goes on");
}

#[test]
fn an_earlier_write_of_ours_is_another_holder_once_somebody_else_has_written() {
    let mut rig = writing();
    let mine = rig.put(Err(Failure::Timeout));
    rig.get(found(bing(), 6));
    // Restored from a backup, say.
    rig.event(seen(mine, 7));
    rig.pass(SECOND);
    assert_eq!(rig.verb(), None);
    assert_eq!(rig.elector.waiting().map(|waiting| waiting.holder), Some("baz".into()));
}

#[test]
fn the_delay_widens_when_a_release_is_heard_of_only_after_the_lock_was_taken_again() {
    let longest = |late: bool| {
        let delays = (0..20).map(|seed| {
            let mut rig = Rig::new(Settings { seed, ..settings() });
            rig.get(found(bing(), 5));
            rig.event(seen(free(), 6));
            if late {
                rig.event(seen(record("bong", 10, "2026-11-21T07:00:09.000000Z", 1), 7));
                rig.event(seen(Record { renew_time: "2026-11-21T07:00:10.000000Z".into(), ..free() }, 8));
            }
            next_request(&mut rig).1
        });
        delays.max().unwrap()
    };
    assert!(longest(false) <= Duration::from_millis(60), "nothing is known of a crowd");
    assert!(longest(true) > SECOND, "a standby that was told so late is one of many");
}
