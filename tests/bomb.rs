//! A fork bomb of four hundred processes is gone, and the next child started, within three seconds.

#[path = "support/bomb.rs"]
mod bomb;
mod support;

use std::time::Duration;

fn is_killed(options: &[&str], bomb: &str) {
    if bomb::is_possible() {
        let took = bomb::kill(options, bomb);
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
}

#[test]
fn a_fork_bomb_is_killed_and_only_then_the_lock_is_given_back() {
    is_killed(&[], bomb::IN_MANY_SESSIONS);
}

#[test]
fn so_is_one_that_stays_in_its_process_group() {
    is_killed(&[], bomb::IN_ONE_GROUP);
}

#[test]
fn so_is_one_in_a_namespace_of_its_own() {
    is_killed(&["--pid-namespace"], bomb::IN_MANY_SESSIONS);
}
