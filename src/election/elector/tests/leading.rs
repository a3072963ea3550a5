//! What a leader does with answers, failures and events, and when.

use super::*;

fn unclear() -> Result<Reply, Failure> {
    Err(Failure::Unclear("broken pipe".into()))
}

/// A leader with a long renew deadline.
fn patient() -> Rig {
    let mut rig = Rig::new(Settings { renew_deadline: SECOND * 60, lease_duration: SECOND * 90, ..settings() });
    rig.get(NOT_FOUND);
    rig.put(written(1));
    rig.calls.clear();
    rig
}

/// The request that is under way or comes next, and how long until it is sent.
fn next_request(rig: &mut Rig) -> (Verb, Duration) {
    let begin = rig.now.at.boot;
    for _ in 0..10_000 {
        if let Some(verb) = rig.verb() {
            return (verb, rig.now.at.boot - begin);
        }
        rig.pass(Duration::from_millis(1));
    }
    panic!("no request: {rig}");
}

fn mine(rig: &Rig) -> Record {
    rig.elector.sent.last().unwrap().record.clone()
}

#[test]
fn the_child_starts_only_before_r_has_passed_since_the_winning_write_was_sent() {
    for (millis, led) in [(5_999, true), (6_000, false)] {
        let mut rig = Rig::new(settings());
        rig.get(NOT_FOUND);
        rig.now.at = rig.now.at.plus(Duration::from_millis(millis));
        rig.put(written(1));
        assert_eq!(rig.led.is_some(), led, "{millis} ms");
    }
}

#[test]
fn a_lock_won_too_late_is_never_lost_by_its_deadline() {
    let mut rig = Rig::new(settings());
    rig.get(NOT_FOUND);
    rig.now.at = rig.now.at.plus(SECOND * 6);
    rig.put(written(1));
    rig.now.at = rig.now.at.plus(SECOND * 60);
    rig.event(Event::Tick);
    assert_eq!((rig.led.clone(), rig.lost.clone()), (None, None), "no child was started");
    rig.put(Err(Failure::Timeout));
    assert_eq!(rig.lost, None);
}

#[test]
fn an_answer_to_an_earlier_request_is_ignored() {
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    let (earlier, ..) = rig.pending.clone().unwrap();
    // The lock is cleared: the renewal can only fail, and another one replaces it.
    rig.event(seen(Record::released(0, rig.now.wall.micro_time()), 2));
    assert_ne!(rig.pending.as_ref().unwrap().0, earlier);
    rig.event(Event::Answer(earlier, written(3)));
    assert_eq!(rig.renewed, None);
    rig.put(written(4));
    assert_eq!(rig.renewed, Some(rig.now.at));
}

#[test]
fn no_request_outlasts_the_renew_deadline_or_the_request_timeout() {
    let timeout = |rig: &Rig| rig.pending.as_ref().unwrap().2;
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    assert_eq!(timeout(&rig), SECOND * 3, "the request timeout");
    rig.pass(SECOND * 2);
    rig.put(Err(Failure::Timeout));
    assert_eq!(timeout(&rig), SECOND * 2, "what is left of R since the last renewal");
    // A lock won too late has no deadline, for no child runs.
    let mut rig = Rig::new(settings());
    rig.get(NOT_FOUND);
    rig.now.at = rig.now.at.plus(SECOND * 6);
    rig.put(written(1));
    assert_eq!(timeout(&rig), SECOND * 3);
}

#[test]
fn a_failed_renewal_is_repeated_soon_and_then_each_retry_period() {
    let mut rig = Rig::leading();
    let busy = || Err(Failure::Busy("later".into()));
    assert_eq!(next_request(&mut rig), (Verb::Update, SECOND * 2));
    for pause in [200, 2_000] {
        rig.put(busy());
        assert_eq!(next_request(&mut rig), (Verb::Update, Duration::from_millis(pause)));
    }
    // A success starts over.
    rig.put(written(2));
    assert_eq!(next_request(&mut rig), (Verb::Update, SECOND * 2));
    rig.put(busy());
    assert_eq!(next_request(&mut rig), (Verb::Update, Duration::from_millis(200)));
}

#[test]
fn the_first_repetition_does_not_wait_longer_than_a_short_retry_period() {
    let mut rig = Rig::new(Settings { retry_period: Duration::from_millis(100), ..settings() });
    rig.get(NOT_FOUND);
    rig.put(written(1));
    rig.pass(Duration::from_millis(100));
    rig.put(Err(Failure::Busy("later".into())));
    assert_eq!(next_request(&mut rig), (Verb::Update, Duration::from_millis(100)));
}

#[test]
fn a_leader_looks_before_it_repeats_a_write_that_may_have_been_carried_out() {
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    let renewal = rig.put(unclear());
    assert_eq!(next_request(&mut rig), (Verb::Get, Duration::from_millis(200)));
    rig.get(found(renewal, 2));
    assert_eq!(rig.writing_on(), "2", "at once");
    rig.put(Err(Failure::Timeout));
    assert_eq!(next_request(&mut rig), (Verb::Get, Duration::ZERO), "a timeout has waited long enough");
}

#[test]
fn conflicts_in_a_row_slow_a_leader_down_to_its_retry_period() {
    let mut rig = patient();
    rig.pass(SECOND * 2);
    let labelled = mine(&rig);
    for millis in [0, 0, 80, 160, 320, 640, 1_280, 2_000, 2_000, 2_000, 2_000, 2_000] {
        rig.put(Err(Failure::Conflict));
        assert_eq!(next_request(&mut rig), (Verb::Get, Duration::from_millis(millis)));
        rig.get(found(labelled.clone(), 2));
    }
    rig.put(written(3));
    rig.pass(SECOND * 2);
    rig.put(Err(Failure::Conflict));
    assert_eq!(next_request(&mut rig), (Verb::Get, Duration::ZERO), "a success starts over");
}

#[test]
fn an_older_event_is_no_news_to_a_leader() {
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    rig.put(written(8));
    rig.event(seen(bing(), 7));
    rig.event(seen(bing(), 8));
    assert_eq!(rig.lost, None);
    rig.event(seen(bing(), 9));
    assert!(rig.lost.is_some());
}

#[test]
fn the_event_of_a_renewal_under_way_does_not_disturb_it() {
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    let renewal = rig.writing();
    rig.event(seen(renewal, 2));
    assert_eq!(rig.calls, [Verb::Update], "its answer is yet to come");
    rig.put(written(2));
    assert_eq!(rig.renewed, Some(rig.now.at));
}

#[test]
fn the_loss_of_a_lock_ends_a_renewal_under_way() {
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    rig.event(seen(bing(), 2));
    assert_eq!((rig.lost.clone(), rig.verb()), (Some(Loss::Taken("bing".into())), None));
}

#[test]
fn a_changed_label_waits_for_the_next_renewal_which_is_on_its_version() {
    let mut rig = Rig::leading();
    rig.pass(SECOND);
    let labelled = mine(&rig);
    rig.event(seen(labelled, 7));
    assert_eq!(next_request(&mut rig), (Verb::Update, SECOND));
    assert_eq!(rig.writing_on(), "7");
    assert!(rig.said.is_empty(), "nobody has to know: {:?}", rig.said);
}

#[test]
fn a_second_half_that_names_the_same_holder_is_ours() {
    let mut rig = Rig::leading();
    let halves = Record { other_half: "an earlier renewal".into(), ..mine(&rig) };
    rig.event(seen(halves, 2));
    assert_eq!(rig.lost, None);
}

#[test]
fn the_deletion_of_another_object_is_no_news_to_a_leader() {
    let mut rig = Rig::leading();
    rig.event(Event::Change(Change::Deleted(version("v", 9))));
    assert_eq!((rig.verb(), rig.said.len()), (None, 0));
    rig.event(Event::Change(Change::Deleted(version("u", 9))));
    assert_eq!((rig.verb(), rig.said.clone()), (Some(Verb::Create), vec![Notice::Recreating]));
}

#[test]
fn people_are_told_that_a_cleared_lock_is_written_again() {
    let mut rig = Rig::leading();
    rig.event(seen(Record::released(0, rig.now.wall.micro_time()), 2));
    assert_eq!(rig.said, [Notice::Reasserting]);
}

#[test]
fn a_lock_cleared_with_other_transitions_was_held_by_somebody_else() {
    let mut rig = Rig::leading();
    rig.event(seen(Record::released(5, rig.now.wall.micro_time()), 2));
    assert_eq!(rig.lost, Some(Loss::Taken(String::new())));
}

#[test]
fn a_loss_before_the_child_was_started_is_none() {
    let mut rig = Rig::new(settings());
    rig.get(NOT_FOUND);
    rig.now.at = rig.now.at.plus(SECOND * 6);
    rig.put(written(1));
    rig.event(seen(bing(), 2));
    assert_eq!((rig.lost.clone(), rig.over.clone()), (None, None));
    assert!(!rig.elector.is_leading());
    assert_eq!(rig.leaders.last().map(String::as_str), Some("bing"));
    // It is a standby again, which waits for the lease of the new holder.
    assert_eq!(rig.elector.waiting().map(|waiting| waiting.holder), Some("bing".into()));
}

#[test]
fn the_last_failure_is_the_reason_of_a_loss_by_deadline() {
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    rig.pass(SECOND * 4);
    assert_eq!(rig.lost, Some(Loss::Deadline(Some(Failure::Timeout))), "a request that was never answered");
    let mut rig = Rig::leading();
    rig.pass(SECOND * 2);
    rig.put(Err(Failure::Busy("later".into())));
    rig.now.at = rig.now.at.plus(SECOND * 4);
    rig.event(Event::Tick);
    assert_eq!(rig.lost, Some(Loss::Deadline(Some(Failure::Busy("later".into())))));
}

#[test]
fn a_failure_is_told_once_for_each_kind_and_its_end_when_the_same_verb_succeeds() {
    let mut rig = patient();
    let busy = || Failure::Busy("later".into());
    for failure in [busy(), busy(), Failure::Unclear("broken pipe".into())] {
        next_request(&mut rig);
        rig.put(Err(failure));
    }
    let told = vec![Notice::Failing(busy()), Notice::Failing(Failure::Unclear("broken pipe".into()))];
    assert_eq!(rig.said, told);
    next_request(&mut rig);
    let renewal = mine(&rig);
    rig.get(found(renewal, 2));
    assert_eq!(rig.said, told, "that a get succeeds says nothing of writes");
    rig.put(written(3));
    assert_eq!(rig.said.last(), Some(&Notice::Recovered));
    assert_eq!(rig.said.len(), 3);
}

#[test]
fn a_loss_is_told_without_a_failure_that_would_be_tried_again() {
    let mut rig = Rig::new(settings());
    let refused = Failure::Rejected("no such namespace".into());
    rig.get(Err(refused.clone()));
    assert_eq!((rig.over.clone(), rig.said.len()), (Some(Outcome::Failed(refused)), 0));
}

#[test]
fn two_halves_that_name_different_holders_have_no_leader_to_tell_of() {
    let mut rig = Rig::new(settings());
    rig.get(found(record(UNKNOWN, 10, "2026-11-21T07:00:00.000000Z", 0), 5));
    assert!(rig.leaders.is_empty());
    rig.event(seen(bing(), 6));
    rig.event(seen(record("bing", 10, "2026-11-21T07:00:02.000000Z", 0), 7));
    assert_eq!(rig.leaders, ["bing"], "told once");
}

#[test]
fn a_forfeited_leadership_is_a_loss_and_a_standby_has_none_to_forfeit() {
    let mut rig = Rig::leading();
    rig.event(Event::Forfeit("why".into()));
    assert_eq!(rig.lost, Some(Loss::Forfeited("why".into())));
    let mut rig = Rig::new(settings());
    rig.get(found(bing(), 5));
    rig.event(Event::Forfeit("why".into()));
    assert_eq!(rig.lost, None);
}

/// Leads on a lock that was free, releases it, and contends in the next election.
fn next_election(settings: Settings) -> (Rig, Record) {
    let mut rig = Rig::new(settings);
    rig.get(found(Record::released(0, rig.now.wall.micro_time()), 1));
    next_request(&mut rig);
    let first = rig.put(written(2));
    rig.event(Event::Finish);
    rig.get(found(first.clone(), 2));
    rig.put(written(3));
    assert_eq!(rig.over, Some(Outcome::Released));
    let again = rig.elector.again(rig.now);
    let mut rig = Rig { elector: again, over: None, led: None, ..rig };
    rig.event(Event::Tick);
    (rig, first)
}

#[test]
fn the_next_election_draws_other_random_numbers() {
    let (mut rig, first) = next_election(settings());
    rig.get(found(Record::released(1, rig.now.wall.micro_time()), 3));
    next_request(&mut rig);
    let second = rig.put(written(4));
    assert_ne!(second.acquire_time[19..], first.acquire_time[19..], "the fraction is random");
}

#[test]
fn the_next_election_does_not_resume_the_term_of_our_identity() {
    let (mut rig, _) = next_election(Settings { resume: true, ..settings() });
    rig.get(found(record("baz", 10, "2026-11-21T07:00:00.000000Z", 0), 4));
    rig.pass(SECOND);
    assert_eq!(rig.verb(), None, "a twin that is alive");
}

#[test]
fn a_lock_that_vanished_before_the_next_election_is_not_created_within_a_lease_duration() {
    let (mut rig, first) = next_election(settings());
    let begin = rig.now.at;
    while rig.verb() != Some(Verb::Create) {
        if rig.verb().is_some() {
            rig.get(NOT_FOUND);
        } else {
            rig.pass(Duration::from_millis(100));
        }
        assert!(rig.now.at.leader_since(begin) <= SECOND * 10, "{rig}");
    }
    assert_eq!(rig.now.at.leader_since(begin), SECOND * 10, "somebody may have led in it");
    assert_eq!(rig.writing().transitions, first.transitions.map(|count| count + 1), "the transitions go on");
}

#[test]
fn an_earlier_renewal_of_ours_in_a_later_version_was_written_by_a_twin() {
    let mut rig = Rig::leading();
    let earlier = mine(&rig);
    rig.pass(SECOND * 2);
    rig.put(written(2));
    rig.event(seen(earlier, 3));
    assert_eq!(rig.lost, Some(Loss::Twin), "we wrote it before S");
}

#[test]
fn a_leader_that_forfeits_before_the_child_was_started_looks_before_it_writes_again() {
    let mut rig = Rig::new(settings());
    rig.get(NOT_FOUND);
    rig.now.at = rig.now.at.plus(SECOND * 6);
    rig.put(written(1));
    rig.event(Event::Forfeit("why".into()));
    assert_eq!((rig.verb(), rig.lost.clone()), (Some(Verb::Get), None));
}
