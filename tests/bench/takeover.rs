//! How long until the next child begins: at the start, after a release, after a crash.

use crate::contender::{Ground, Kind, Party, Timing, holder, next_leader};
use crate::report::{Goal, Line};
use crate::scene::{Scene, milliseconds, now, wall};
use nix::libc::SIGTERM;
use std::thread::sleep;
use std::time::Duration;

const LOCK: &str = "work";

/// From exec to the child's first instruction, with a lock that nobody holds.
pub fn start(scene: &Scene) -> Vec<Line> {
    // One after the other, in turn: neither has the other beside it.
    let mut grounds = [Kind::LeaderRun, Kind::ClientGo].map(|kind| Ground::new(scene, kind, Timing::Default));
    let mut samples = [Vec::new(), Vec::new()];
    for time in 0..scene.choose(30, 200) {
        for (ground, samples) in grounds.iter_mut().zip(&mut samples) {
            let mut party = ground.leader(&format!("{LOCK}-{time}"));
            samples.push(milliseconds(party.begin(), party.wait_child().at));
            party.signal(SIGTERM);
            party.wait();
        }
    }
    let [ours, theirs] = samples;
    let name = "exec to the child's first instruction, lock free, TLS, ms";
    vec![Line::median(name, &ours, &theirs, Goal { ratio: Some(0.5), ..Goal::default() })]
}

/// From a release to the next child's first instruction.
pub fn release(scene: &Scene) -> Vec<Line> {
    let (ours, theirs) = scene.both(|kind| {
        let mut ground = Ground::new(scene, kind, Timing::Default);
        let records = ground.records(LOCK);
        let mut leader = ground.leader(LOCK);
        let mut standbys: Vec<_> = (0..3).map(|_| ground.standby(LOCK)).collect();
        let times = if kind == Kind::LeaderRun { scene.choose(50, 200) } else { scene.choose(12, 50) };
        let (mut after_release, mut after_signal) = (Vec::new(), Vec::new());
        for time in 0..times {
            if kind == Kind::ClientGo {
                // At any moment of the time in which those that poll look once.
                sleep(Duration::from_millis(2200).mul_f64(spread(time)));
            }
            records.news();
            let signalled = now();
            leader.signal(SIGTERM);
            let (next, child) = next_leader(&standbys);
            leader.wait();
            let released = records.news().into_iter().find(|(_, lease)| holder(lease).is_empty());
            let (released, _) = released.expect("a release seen");
            after_release.push(milliseconds(released, child.at));
            after_signal.push(milliseconds(signalled, child.at));
            leader = standbys.swap_remove(next);
            standbys.push(ground.standby(LOCK));
        }
        (after_release, after_signal)
    });
    let name = "release to the next child's first instruction, three standbys, ms";
    let goal = |most| Goal { most: Some(most), ..Goal::default() };
    let signal = "the same from SIGTERM to the leader on, ms";
    vec![
        Line::median(name, &ours.0, &theirs.0, Goal { ratio: Some(1.0 / 30.0), ..goal(30.0) }),
        Line::p99(name, &ours.0, &theirs.0, goal(100.0)),
        Line::median(signal, &ours.1, &theirs.1, Goal::default()),
    ]
}

/// From SIGKILL to leader-run alone to the next child's first instruction.
pub fn crash(scene: &Scene) -> Vec<Line> {
    let (ours, theirs) = scene.both(|kind| {
        let crashes = crashes(scene, kind, scene.choose(6, 40), |leader, _| {
            let killed = now();
            leader.crash();
            killed
        });
        crashes.map(|(killed, child)| milliseconds(killed, child)).collect::<Vec<_>>()
    });
    let goal = Goal { most: Some(1000.0), ..Goal::default() };
    vec![Line::p99("kill -9 of the leader to the next child, lease 3 s, ms", &ours, &theirs, goal)]
}

/// From the expiry of a lock whose leader's processes were all killed to the next child's first instruction.
pub fn crash_of_the_node(scene: &Scene) -> Vec<Line> {
    let (ours, theirs) = scene.both(|kind| {
        let crashes = crashes(scene, kind, scene.choose(6, 40), |leader, ground| {
            leader.crash_with_its_node();
            // Read afterwards: nothing is written any more.
            let lease = ground.namespace.lease(LOCK).expect("the lock");
            assert_eq!(holder(&lease), leader.identity, "the node is down, and yet the lock was given back");
            let renewed = lease.spec.and_then(|spec| spec.renew_time).expect("a time").0.as_microsecond();
            let expiry = Duration::from_micros(renewed as u64) + Timing::Short.lease();
            now() + expiry - wall()
        });
        crashes.map(|(expiry, child)| milliseconds(expiry, child)).collect::<Vec<_>>()
    });
    let goal = Goal { most: Some(100.0), least: Some(0.0), ..Goal::default() };
    vec![Line::p99("crash of the whole node: the lock's expiry to the next child, ms", &ours, &theirs, goal)]
}

/// Several leaders that crash with one standby each: what `crash` returns, and when the next child began.
fn crashes(
    scene: &Scene,
    kind: Kind,
    times: u32,
    crash: impl Fn(&mut Party, &Ground) -> Duration,
) -> impl Iterator<Item = (Duration, Duration)> {
    let mut ground = Ground::new(scene, kind, Timing::Short);
    let mut leader = ground.leader(LOCK);
    (0..times).map(move |time| {
        let standby = ground.standby(LOCK);
        // At any moment between two renewals.
        sleep(Duration::from_secs(1).mul_f64(spread(time)));
        let since = crash(&mut leader, &ground);
        let child = standby.wait_child();
        leader = standby;
        (since, child.at)
    })
}

/// Numbers from 0 to 1, far apart: multiples of the golden section.
fn spread(number: u32) -> f64 {
    (f64::from(number) * 0.618_034).fract()
}
