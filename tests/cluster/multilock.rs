//! Locks in two objects: a ConfigMap or Endpoints, and a Lease.

use crate::Test;
use crate::annotations::{annotation, create};
use crate::apiserver::Cluster;
use crate::faults::{Fault, Matcher, Seen, refusal};
use crate::proxy::Proxy;
use crate::record::KEY;
use crate::scene::{LOCK, MINIMAL, Scene, holder};
use crate::support::{AT_ONCE, Contender, LONG, POLITE, SHORT, wait_for};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints};
use nix::libc::SIGTERM;
use serde_json::json;
use std::thread;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("multilock::a_fleet_moves_from_configmaps_to_leases", |cluster| moves(cluster, "configmap")),
    ("multilock::a_fleet_moves_from_endpoints_to_leases", |cluster| moves(cluster, "endpoints")),
    ("multilock::a_take_over_that_fails_half_way", fails_half_way),
];

fn scene(cluster: &Cluster, first: &str) -> Scene {
    let mut scene = Scene::new(cluster, &MINIMAL);
    let grants = [("", first, &MINIMAL[..]), ("coordination.k8s.io", "leases", &MINIMAL)];
    scene.user = scene.namespace.user_with(&grants);
    scene
}

/// One restart after the other, each with somebody waiting: first with the old lock alone, then with both, at
/// last with the Lease alone.
fn moves(cluster: &Cluster, first: &str) {
    let scene = scene(cluster, if first == "configmap" { "configmaps" } else { first });
    let both = format!("{first}sleases").replace("endpointss", "endpoints");
    let records = || {
        let text = match first {
            "configmap" => annotation::<ConfigMap>(&scene.namespace),
            _ => annotation::<Endpoints>(&scene.namespace),
        };
        let record: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let lease = scene.namespace.lease(LOCK);
        (record["holderIdentity"].as_str().unwrap_or_default().to_owned(), lease.as_ref().map(holder))
    };
    let start = |identity: &str, lock: &str| {
        scene.contender(&[&["--lock", lock, "--identity", identity, "-v"], &SHORT[..]].concat(), POLITE)
    };
    let mut fleet = vec![start("old-1", first)];
    fleet[0].wait_line("start ");
    let next = [
        ("old-2", first),
        ("both-1", both.as_str()),
        ("both-2", both.as_str()),
        ("both-3", both.as_str()),
        ("new-1", "lease"),
        ("new-2", "lease"),
    ];
    for (identity, lock) in next {
        let standby = start(identity, lock);
        standby.wait_line("is held by");
        let leader = fleet.last_mut().expect("there is one");
        leader.signal(SIGTERM);
        assert_eq!(leader.wait(), 0, "{}", leader.said());
        let (ended, left) = (Instant::now(), leader.said());
        let took = standby.wait_line("start ").at.saturating_duration_since(ended);
        assert!(took < AT_ONCE, "{identity} led {took:?} after the release:\n{left}\n{}", standby.said());
        let (old, new) = records();
        assert!(lock == "lease" || old == identity, "{identity}: {old:?} {new:?}");
        assert!(lock == first || new.as_deref() == Some(identity), "{identity}: {old:?} {new:?}");
        fleet.push(standby);
    }
    let leader = fleet.last_mut().expect("there is one");
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 0, "{}", leader.said());
    assert_eq!(fleet.iter().map(|contender| contender.count("OVERLAP")).sum::<usize>(), 0);
}

/// Each request of a take-over fails in turn, in each way, for one of two contenders.
fn fails_half_way(cluster: &Cluster) {
    let requests = [("GET", "configmaps"), ("GET", "leases"), ("PUT", "configmaps"), ("PUT", "leases")];
    let faults: [fn() -> Fault; 4] = [
        || Fault::Answer { status: 500, headers: &[], body: refusal(500, "InternalError") },
        || Fault::Answer { status: 409, headers: &[], body: refusal(409, "Conflict") },
        || Fault::CloseAfterCommit,
        || Fault::DropResponseAfterCommit,
    ];
    thread::scope(|scope| {
        for request in requests {
            for fault in faults {
                scope.spawn(move || take_over(cluster, request, fault()));
            }
        }
    });
}

fn take_over(cluster: &Cluster, (method, plural): (&'static str, &'static str), fault: Fault) {
    let scene = scene(cluster, "configmaps");
    let dead = r#"{"holderIdentity":"dead","leaseDurationSeconds":4,"acquireTime":"2026-11-21T07:00:00Z","renewTime":"2026-11-21T07:00:00Z","leaderTransitions":3}"#;
    create::<ConfigMap>(&scene.namespace, LOCK, &json!({"metadata": {"annotations": {KEY: dead}}}));
    let time = "2026-11-21T07:00:00.000000Z";
    let spec = json!({"holderIdentity": "dead", "leaseDurationSeconds": 4, "acquireTime": time, "renewTime": time,
                      "leaseTransitions": 3});
    create::<Lease>(&scene.namespace, LOCK, &json!({"spec": spec}));
    let proxy = Proxy::start(cluster);
    let concerns = move |seen: &Seen| seen.method == method && seen.path.contains(plural) && !seen.is_watch();
    let rule = proxy.on(Matcher::new(concerns).first(1), fault);
    let options = ["--lock", "configmapsleases", "--lease-duration", "10s", "-v"];
    let begin = Instant::now();
    let mut contenders =
        [scene.behind(&proxy, &options, POLITE), scene.contender(&options, POLITE), scene.contender(&options, POLITE)];
    for term in 0..contenders.len() {
        let mut leads = |contender: &mut Contender| contender.line("start ").is_some() && contender.is_running();
        let leader = wait_for("a leader", LONG, || contenders.iter_mut().position(&mut leads));
        let started = contenders[leader].wait_line("start ").at;
        assert!(term > 0 || started - begin >= Duration::from_secs(4), "{:?} is too early", started - begin);
        contenders[leader].signal(SIGTERM);
        let code = contenders[leader].wait();
        // A child that has not come to its trap yet dies of the signal.
        assert!([0, 75, 143].contains(&code), "{method} {plural}: {}", contenders[leader].said());
    }
    assert_eq!(rule.hits(), 1, "{method} {plural}");
    assert_eq!(contenders.iter().map(|contender| contender.count("OVERLAP")).sum::<usize>(), 0, "{method} {plural}");
}
