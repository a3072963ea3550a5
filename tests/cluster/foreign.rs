//! A leader whose lock object somebody else changes all the time, without touching the record.

use crate::Test;
use crate::apiserver::Cluster;
use crate::namespace::Namespace;
use crate::proxy::Proxy;
use crate::scene::{BLIND, LOCK, MINIMAL, Scene, side_by_side};
use crate::support::{LONG, POLITE, SHORT, wait_for};
use nix::libc::SIGTERM;
use serde_json::json;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] =
    &[("foreign::a_leader_outlives_a_label_that_changes_every_second", a_leader_outlives_a_label_that_changes)];

/// Not tests: run with `cargo test --test cluster -- --ignored foreign --nocapture`.
pub const MEASUREMENTS: &[Test] = &[("foreign::at_which_rate_of_changes_a_leader_loses", measure)];

/// Changes a label of the lock at this interval while it runs, and returns how often.
fn meanwhile(namespace: &Namespace, interval: Duration, run: impl FnOnce()) -> u32 {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let changes = scope.spawn(|| {
            let begin = Instant::now();
            let mut changes = 0;
            while !done.load(Ordering::Relaxed) {
                let patch = json!({"metadata": {"labels": {"round": changes.to_string()}}});
                namespace.patch_lease_unconditionally(LOCK, &patch);
                changes += 1;
                // At a steady rate, however long a change takes.
                sleep((interval * changes).saturating_sub(begin.elapsed()));
            }
            changes
        });
        // Also when the run panics, or the scope would wait for ever.
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let guard = Done(&done);
        run();
        drop(guard);
        changes.join().expect("the lock is there")
    })
}

/// How many PUTs each renewal needed.
fn tries(proxy: &Proxy) -> Vec<usize> {
    let mut tries = vec![0];
    for recorded in proxy.requests().iter().filter(|r| r.request.method == "PUT" && r.status.is_some()) {
        *tries.last_mut().expect("never empty") += 1;
        if recorded.status == Some(200) {
            tries.push(0);
        }
    }
    tries.pop();
    tries
}

fn a_leader_outlives_a_label_that_changes(cluster: &Cluster) {
    side_by_side(&[MINIMAL.to_vec(), BLIND.to_vec()], |verbs| {
        let (scene, proxy) = (Scene::new(cluster, verbs), Proxy::start(cluster));
        proxy.delay(Duration::from_millis(100));
        let mut leader = scene.behind(&proxy, &SHORT, POLITE);
        leader.wait_line("start");
        meanwhile(&scene.namespace, Duration::from_secs(1), || {
            wait_for("20 renewals", LONG, || (tries(&proxy).len() >= 20 || !leader.is_running()).then_some(()));
        });
        assert_eq!(leader.count("asked"), 0, "{:?}\n{}", tries(&proxy), leader.said());
        leader.signal(SIGTERM);
        assert_eq!(leader.wait(), 0, "{}", leader.said());
        assert_eq!(scene.holder(), "");
        assert!(scene.lease().metadata.labels.is_some_and(|labels| labels["round"] != "0"), "the label is kept");
    });
}

/// Prints a table: for each interval between changes and each latency of answers whether a leader lost within 20 s, and
/// how many of its renewals needed more than one PUT.
fn measure(cluster: &Cluster) {
    const TIME: Duration = Duration::from_secs(20);
    let mut table =
        String::from("interval latency watch: lost, renewals, of them with more than one PUT, most PUTs, changes\n");
    for latency in [0, 50, 100, 200, 500].map(Duration::from_millis) {
        let intervals = [20, 50, 100, 200, 500, 1_000].map(Duration::from_millis);
        let cases: Vec<_> = intervals.iter().flat_map(|interval| [(*interval, true), (*interval, false)]).collect();
        let rows = Mutex::new(Vec::new());
        side_by_side(&cases, |&(interval, watching)| {
            let verbs = if watching { &MINIMAL[..] } else { &BLIND };
            let (scene, proxy) = (Scene::new(cluster, verbs), Proxy::start(cluster));
            let leader = scene.behind(&proxy, &SHORT, POLITE);
            leader.wait_line("start");
            proxy.delay(latency);
            let begin = Instant::now();
            let mut lost = None;
            let changes = meanwhile(&scene.namespace, interval, || {
                wait_for("the time to pass", LONG, || {
                    lost = leader.line("asked").map(|line| line.at - begin);
                    (lost.is_some() || begin.elapsed() > TIME).then_some(())
                });
            });
            let tries = tries(&proxy);
            let several = tries.iter().filter(|tries| **tries > 1).count();
            let most = tries.iter().max().copied().unwrap_or_default();
            let rate = f64::from(changes) / begin.elapsed().as_secs_f64();
            let lost = lost.map_or("no".into(), |after| format!("after {:.1} s", after.as_secs_f64()));
            let row = format!(
                "{interval:>7.0?} {latency:>6.0?} {}: {lost}, {}, {several}, {most}, {rate:.1}/s",
                if watching { "watch" } else { "blind" },
                tries.len(),
            );
            rows.lock().expect("no panic").push((watching, interval, row));
        });
        let mut rows = rows.into_inner().expect("no panic");
        rows.sort();
        rows.iter().for_each(|(.., row)| writeln!(table, "{row}").expect("to a string"));
    }
    eprintln!("{table}");
}
