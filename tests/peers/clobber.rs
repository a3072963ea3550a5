//! A fault of client-go (1.34 and later): a leader that was cut off gives back, when it is heard again, a lock that
//! somebody else holds by now. leader-run writes its record again at once.

use crate::apiserver::Cluster;
use crate::cells::MOMENT;
use crate::scene::{L, Lock, SECONDS, Scene, WORK};
use crate::support::{LONG, wait_for};
use crate::table::peer;
use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

/// Whether a standby may come between is a matter of milliseconds, so it is tried this often.
const TIMES: usize = 3;

pub fn a_lock_that_was_cleared_is_written_again(cluster: &Cluster) {
    let outcomes: Vec<_> = thread::scope(|scope| {
        let tries: Vec<_> = (0..TIMES).map(|_| scope.spawn(|| clear(cluster))).collect();
        tries.into_iter().filter_map(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let overlaps: usize = outcomes.iter().map(|outcome| outcome.overlaps).sum();
    let millis = |took: Duration| format!("{:.1} ms", took.as_secs_f64() * 1000.0);
    let times: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.kept).map(millis).collect();
    let late = outcomes.iter().map(|outcome| outcome.old_child).max().unwrap_or_default();
    println!(
        "figure: client-go cleared the lock of leader-run {} times in {TIMES}: {} times it was written again before a \
         standby came, after {}; overlaps of the leader and a standby: {overlaps}; client-go's own child was there for up \
         to {} beside the next leader's",
        outcomes.len(),
        times.len(),
        times.join(", "),
        millis(late)
    );
    assert!(!times.is_empty(), "it was never cleared, or a standby always came between");
}

struct Outcome {
    /// How long after the clear our record was there again, unless a standby came between.
    kept: Option<Duration>,
    overlaps: usize,
    /// How long the child of the one that was cut off was there beside ours.
    old_child: Duration,
}

/// Nothing where the lock was not cleared.
fn clear(cluster: &Cluster) -> Option<Outcome> {
    let scene = Scene::new(cluster);
    let mut records = scene.records(Lock::Lease);
    let client_go = peer("client-go");
    // What its child does beside the next one is its own fault, and told apart.
    let child = ["bash".into(), "-c".into(), format!("echo start; {WORK}")];
    let mut old = scene.theirs_with(client_go, Lock::Lease, "theirs-old", &child);
    old.wait_leads();
    let mut ours = [1, 2, 3].map(|number| scene.ours(Lock::Lease, &format!("ours-{number}")));
    for party in &ours {
        party.wait_contends();
    }
    records.wait_next("theirs-old");
    thread::sleep(MOMENT);
    let proxy = old.proxy.take().expect("it is behind one");
    proxy.pause();
    // Started now, so that it is there, and not the first one when the lease is over.
    let standby = scene.theirs_direct(client_go, Lock::Lease, "theirs-standby");
    let leader = wait_for("one of ours leads", LONG, || ours.iter().position(|party| party.leads().is_some()));
    let led = ours[leader].wait_leads();
    let us = ours[leader].identity.clone();
    let before = records.last(&us);
    proxy.resume();

    assert_eq!(old.wait(), 1, "{}", old.said());
    let stopped = old.wait_line("stopped").at;
    let old_child = stopped.saturating_duration_since(led);
    // What was cleared and what followed, or that nothing was: on a busy machine its release may have been too late.
    let cleared = wait_for("a record after that", LONG, || {
        let seen = records.seen();
        match seen.iter().position(|seen| seen.at > before.at && seen.holder().is_empty()) {
            Some(clear) => (seen.len() > clear + 1).then_some(Some(clear)),
            None => seen.last().filter(|last| last.at > stopped + Duration::from_secs(1)).map(|_| None),
        }
    })?;
    let [last, cleared, next] = [cleared - 1, cleared, cleared + 1].map(|number| records.seen()[number].clone());
    assert_eq!(last.holder(), us, "what was cleared was ours");
    if next.holder() != us {
        // A loss like any other; whether its child met the next one the oracle knows.
        assert_eq!(ours[leader].wait(), 75, "{}", ours[leader].said());
        let between = ours.iter().chain([&standby]).find(|party| party.identity == next.holder());
        between.expect("a standby").wait_leads();
        return Some(Outcome { kept: None, overlaps: scene.overlaps(), old_child });
    }
    assert_eq!(Some(next.check_fields(&us, SECONDS)), last.transitions());
    // It goes on as if nothing had been.
    for _ in 0..2 {
        records.wait_next(&us);
    }
    let text = ours[leader].said();
    assert!(ours[leader].is_running() && ours[leader].count("was cleared while we lead") > 0, "{text}");
    assert_eq!((ours[leader].count("asked"), ours[leader].count("start ")), (0, 1), "{text}");
    assert!(standby.leads().is_none() && ours.iter().filter(|party| party.leads().is_some()).count() == 1);
    assert_eq!(scene.overlaps(), 0);
    let took = next.at - cleared.at;
    assert!(took < L);
    Some(Outcome { kept: Some(took), overlaps: 0, old_child })
}
