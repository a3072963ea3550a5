//! How long until the next child begins: at the start, after a release, after a crash.

use crate::contender::{Ground, Kind, Party, Timing, holder, next_leader};
use crate::report::{Goal, Line, Part};
use crate::scene::{Scene, milliseconds, now, wall};
use nix::libc::SIGTERM;
use std::thread::{self, sleep};
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
    vec![Line::new(name, Part::Median, &ours, &theirs, Goal { ratio: Some(0.5), ..Goal::default() })]
}

/// From a release to the next child's first instruction.
pub fn release(scene: &Scene) -> Vec<Line> {
    let (ours, theirs) = scene.both(|kind| match kind {
        Kind::LeaderRun => releases(scene, kind, scene.choose(50, 200)),
        // What takes seconds is done with several locks at the same time.
        Kind::ClientGo => lanes(3, || releases(scene, kind, scene.choose(10, 50))),
    });
    let split = |samples: Vec<(f64, f64)>| samples.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
    let ((ours, ours_signalled), (theirs, theirs_signalled)) = (split(ours), split(theirs));
    let name = "release to the next child's first instruction, three standbys, ms";
    let goal = |most| Goal { most: Some(most), ..Goal::default() };
    let signalled = "the same from SIGTERM to the leader on, ms";
    vec![
        Line::new(name, Part::Median, &ours, &theirs, Goal { ratio: Some(1.0 / 30.0), ..goal(30.0) }),
        Line::new(name, Part::P99, &ours, &theirs, goal(100.0)),
        Line::new(signalled, Part::Median, &ours_signalled, &theirs_signalled, Goal::default()),
    ]
}

/// Several leaders that give the lock back to one of three standbys: the milliseconds from the release, as those who
/// watch see it, and from the signal that asked for it, until the next child begins.
fn releases(scene: &Scene, kind: Kind, times: u32) -> Vec<(f64, f64)> {
    let mut ground = Ground::new(scene, kind, Timing::Default);
    let records = ground.records(LOCK);
    let mut leader = ground.leader(LOCK);
    let mut standbys: Vec<_> = (0..3).map(|_| ground.standby(LOCK)).collect();
    let release = |time| {
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
        leader = standbys.swap_remove(next);
        standbys.push(ground.standby(LOCK));
        (milliseconds(released, child.at), milliseconds(signalled, child.at))
    };
    (0..times).map(release).collect()
}

/// From SIGKILL to leader-run alone to the next child's first instruction.
pub fn crash(scene: &Scene) -> Vec<Line> {
    let (ours, theirs) = scene.both(|kind| match kind {
        Kind::LeaderRun => crashes(scene, kind, scene.choose(12, 100), Party::crash),
        Kind::ClientGo => lanes(2, || crashes(scene, kind, scene.choose(5, 20), Party::crash)),
    });
    let since =
        |crashes: Vec<Crash>| crashes.iter().map(|crash| milliseconds(crash.at, crash.child)).collect::<Vec<_>>();
    let goal = Goal { most: Some(1000.0), ..Goal::default() };
    let name = "kill -9 of the leader to the next child, lease 3 s, ms";
    vec![Line::new(name, Part::P99, &since(ours), &since(theirs), goal)]
}

/// From the expiry of a lock whose leader's processes were all killed to the next child's first instruction.
pub fn crash_of_the_node(scene: &Scene) -> Vec<Line> {
    let crashes = |kind| lanes(3, || crashes(scene, kind, scene.choose(6, 40), Party::crash_with_its_node));
    let (ours, theirs) = scene.both(crashes);
    let late =
        |crashes: Vec<Crash>| crashes.iter().map(|crash| milliseconds(crash.expiry, crash.child)).collect::<Vec<_>>();
    let goal = Goal { most: Some(100.0), least: Some(0.0), ..Goal::default() };
    let name = "crash of the whole node: the lock's expiry to the next child, lease 3 s, ms";
    vec![Line::new(name, Part::P99, &late(ours), &late(theirs), goal)]
}

/// A leader that was killed, when its lock expired, and when the next child began.
struct Crash {
    at: Duration,
    expiry: Duration,
    child: Duration,
}

/// Several leaders that crash with one standby each.
fn crashes(scene: &Scene, kind: Kind, times: usize, crash: impl Fn(&mut Party)) -> Vec<Crash> {
    let mut ground = Ground::new(scene, kind, Timing::Short);
    let records = ground.records(LOCK);
    let mut leader = ground.leader(LOCK);
    let mut crashes = Vec::new();
    while crashes.len() < times {
        let standby = ground.standby(LOCK);
        // At any moment between two renewals, when the standby has seen one: it counts from there.
        sleep(Duration::from_secs(1).mul_f64(1.2 + spread(crashes.len() as u32)));
        let at = now();
        let had_ended = leader.has_ended();
        if !had_ended {
            crash(&mut leader);
        }
        let child = standby.wait_child().at;
        let leader = std::mem::replace(&mut leader, standby);
        if had_ended {
            // The machine stood still for so long that it lost the lock by itself.
            continue;
        }
        // Its last record, which may have been under way when it was killed.
        let last = records.news().into_iter().rfind(|(_, lease)| holder(lease) == leader.identity);
        let renewed = last.and_then(|(_, lease)| lease.spec?.renew_time).expect("a renewal").0.as_microsecond();
        let expiry = now() + Duration::from_micros(renewed as u64) + Timing::Short.lease() - wall();
        crashes.push(Crash { at, expiry, child });
    }
    crashes
}

/// The same with several locks at the same time.
fn lanes<T: Send>(count: usize, measure: impl Fn() -> Vec<T> + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..count).map(|_| scope.spawn(&measure)).collect();
        lanes.into_iter().flat_map(|lane| lane.join().expect("measured")).collect()
    })
}

/// Numbers from 0 to 1, far apart: multiples of the golden section.
fn spread(number: u32) -> f64 {
    (f64::from(number) * 0.618_034).fract()
}
