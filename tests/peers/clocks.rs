//! Wall clocks that are an hour off, ahead and behind, on either side. leader-run trusts none, so it is never early;
//! those of the others that do are known.

use crate::apiserver::Cluster;
use crate::clock::library;
use crate::scene::{L, Lock, Party, Records, Scene};
use crate::support::{LONG, wait_for};
use crate::table::{Notices, PEERS, Peer, Release, peer};
use nix::libc::SIGTERM;
use std::fs;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

const HOUR: i64 = 3600;
/// How late anything may be on a busy machine.
const LATE: Duration = Duration::from_millis(750);

/// Those whose clock the preloaded library can set: what is written in Go asks the kernel itself.
const MOVABLE: [&str; 4] = ["python", "fabric8", "kubert", "kube-leader-election"];

/// Has the contenders that are started next live in another time; false where there is no compiler for that.
fn move_clock(scene: &mut Scene, by: i64) -> bool {
    let folder = scene.oracle().parent().expect("in a folder").to_owned();
    let Some(library) = library("clock", &folder) else {
        eprintln!("not run: there is no C compiler (cc)");
        return false;
    };
    let wall = folder.join("wall");
    fs::write(&wall, by.to_string()).expect("write a file");
    scene.env = vec![("LD_PRELOAD", library), ("CLOCK_WALL", wall)];
    true
}

/// In both directions at once, with each of these peers.
fn each(cluster: &Cluster, peers: &[&'static Peer], test: fn(&Cluster, &Peer, i64)) {
    thread::scope(|scope| {
        for peer in peers {
            for by in [HOUR, -HOUR] {
                scope.spawn(move || test(cluster, peer, by));
            }
        }
    });
}

/// The last record of this holder tells the time as wrongly as it should, to some minutes.
fn check_time(records: &mut Records, holder: &str, by: i64) {
    let written = records.last(holder).renew_time().to_owned();
    let written: jiff::Timestamp = written.parse().expect("a time");
    let off = written.as_second() - jiff::Timestamp::now().as_second();
    assert!((off - by).abs() < 300, "{holder} writes {written}, {off} s off, and not {by}");
}

/// We wait while it leads, and when it is dead, until its lease is over.
fn waits_for(records: &mut Records, us: &Party, mut it: Party, by: &str) {
    us.wait_contends();
    let begin = Instant::now();
    while begin.elapsed() < L + L / 2 {
        assert!(us.leads().is_none(), "{by}: early\n{}", us.said());
        sleep(Duration::from_millis(100));
    }
    let identity = it.identity.clone();
    records.wait_next(&identity);
    it.crash();
    let led = us.wait_leads();
    let took = led - records.last(&identity).at;
    assert!(took >= L - LATE && took < 2 * L, "{by}: {took:?} after the last renewal\n{}", us.said());
}

/// Another client writes the time of an hour ago, or of in an hour.
pub fn theirs_is_wrong(cluster: &Cluster) {
    each(cluster, &MOVABLE.map(peer), |cluster, peer, by| {
        let mut scene = Scene::new(cluster);
        if peer.wants_lock {
            scene.create_lease();
        }
        let mut records = scene.records(Lock::Lease);
        if !move_clock(&mut scene, by) {
            return;
        }
        let it = scene.theirs(peer, Lock::Lease, "theirs-1");
        it.wait_leads();
        check_time(&mut records, "theirs-1", by);
        scene.env.clear();
        let us = scene.ours(Lock::Lease, "ours-1");
        waits_for(&mut records, &us, it, &format!("{} {by}", peer.name));
        assert_eq!(scene.overlaps(), 0, "{} {by}", peer.name);
    });
}

/// For us it is an hour later, or earlier, than for client-go, which leads.
pub fn ours_is_wrong_and_waits(cluster: &Cluster) {
    each(cluster, &[peer("client-go")], |cluster, peer, by| {
        let mut scene = Scene::new(cluster);
        let mut records = scene.records(Lock::Lease);
        let it = scene.theirs(peer, Lock::Lease, "theirs-1");
        it.wait_leads();
        if !move_clock(&mut scene, by) {
            return;
        }
        let us = scene.ours(Lock::Lease, "ours-1");
        waits_for(&mut records, &us, it, &format!("{} {by}", peer.name));
        check_time(&mut records, "ours-1", by);
        assert_eq!(scene.overlaps(), 0, "{} {by}", peer.name);
    });
}

/// The same, and we lead. Who trusts wall clocks takes the lock of a leader whose clock is behind: we stop then.
pub fn ours_is_wrong_and_leads(cluster: &Cluster) {
    let all: Vec<_> = PEERS.iter().filter(|peer| peer.locks.contains(&Lock::Lease)).collect();
    each(cluster, &all, |cluster, peer, by| {
        let mut scene = Scene::new(cluster);
        if !move_clock(&mut scene, by) {
            return;
        }
        let mut records = scene.records(Lock::Lease);
        let mut us = scene.ours(Lock::Lease, "ours-1");
        us.wait_leads();
        check_time(&mut records, "ours-1", by);
        scene.env.clear();
        let it = scene.theirs(peer, Lock::Lease, "theirs-1");
        if peer.trusts_clocks && by < 0 {
            it.wait_leads();
            assert_eq!(us.wait(), 75, "{}: {}", peer.name, us.said());
            return;
        }
        it.wait_contends();
        sleep(L + L / 2);
        assert!(it.leads().is_none() && us.is_running(), "{} {by}: {}{}", peer.name, us.said(), it.said());
        records.check();
        us.signal(SIGTERM);
        assert_eq!(us.wait(), 0, "{}", us.said());
        // Who looks at neither the clock nor the watch sees the release.
        if let (Notices::Polling, false, Release::Frees | Release::Never) =
            (&peer.notices, peer.trusts_clocks, &peer.release)
        {
            wait_for("its turn", LONG, || it.leads());
        }
        assert_eq!(scene.overlaps(), 0, "{} {by}", peer.name);
    });
}
