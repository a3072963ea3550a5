//! Records that another client clears under a leader. It writes its own again only while it is proven that nobody else
//! can have led in between; a record without transitions alone proves nothing.

use crate::Test;
use crate::apiserver::Cluster;
use crate::faults::{Fault, Matcher};
use crate::proxy::{Proxy, Recorded};
use crate::scene::{BLIND, LOCK, MINIMAL, Scene, side_by_side};
use crate::support::{Contender, LONG, POLITE, SHORT, kill_both, wait_for};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use nix::libc::SIGTERM;
use serde_json::{Value, json};

pub const TESTS: &[Test] = &[
    (
        "cleared::a_lock_that_was_wiped_held_by_another_and_wiped_again_is_lost",
        a_lock_that_was_wiped_held_by_another_and_wiped_again,
    ),
    (
        "cleared::a_spec_that_gitops_replaces_by_nothing_is_written_again_at_once",
        a_spec_that_gitops_replaces_by_nothing,
    ),
    ("cleared::a_record_whose_transitions_were_removed_is_lost", a_record_whose_transitions_were_removed),
    ("cleared::a_wiped_record_that_no_watch_showed_is_lost", a_wiped_record_that_no_watch_showed),
];

/// Replaces the whole record by an empty one, as `kubectl replace` does with a manifest that says `spec: {}`.
fn wipe(scene: &Scene) -> Lease {
    scene.namespace.replace_lease(LOCK, |lease| lease.spec = Some(LeaseSpec::default()))
}

/// A free lock with this number of transitions, where it has one.
fn free_lock(scene: &Scene, transitions: Option<i64>) {
    let spec = transitions.map_or(json!({}), |number| json!({"leaseTransitions": number}));
    let lease = json!({"metadata": {"name": LOCK}, "spec": spec});
    scene.namespace.create_lease(&serde_json::from_value::<Lease>(lease).unwrap());
}

/// Asserts that the leader takes the lock for lost, and leaves it as it is.
fn loses(leader: &mut Contender, scene: &Scene, cleared: &Lease) {
    let version = |lease: &Lease| lease.metadata.resource_version.clone();
    let written = || version(&scene.lease()) != version(cleared);
    wait_for("the loss", LONG, || (written() || !leader.is_running()).then_some(()));
    assert!(!written(), "{} wrote the lock again:\n{}", scene.holder(), leader.said());
    assert_eq!(leader.wait(), 75, "{}", leader.said());
    assert!(!leader.said().contains("renew deadline"), "{}", leader.said());
    assert_eq!(leader.count("asked"), 1, "{}", leader.said());
}

fn a_lock_that_was_wiped_held_by_another_and_wiped_again(cluster: &Cluster) {
    let (mut scene, proxy) = (Scene::new(cluster, &BLIND), Proxy::start(cluster));
    let mut leader = scene.behind(&proxy, &[], POLITE);
    leader.wait_line("start");
    assert_eq!(scene.spec().lease_transitions, Some(0));
    let rule = proxy.on(Matcher::new(|_| true), Fault::Hold);
    rule.wait_hits(1);
    wipe(&scene);
    scene.user = scene.namespace.user(&MINIMAL);
    let mut other =
        Contender::start(&mut scene.command(&[], &["bash", "-c", "echo other; sleep 60"].map(String::from)));
    other.wait_line("other");
    // So that it does not write its own record again.
    kill_both(&mut other);
    let wiped = wipe(&scene);
    rule.release();
    loses(&mut leader, &scene, &wiped);
}

fn a_spec_that_gitops_replaces_by_nothing(cluster: &Cluster) {
    side_by_side(&[None, Some(4)], |&transitions| {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        if transitions.is_some() {
            free_lock(&scene, transitions);
        }
        let mut leader = scene.behind(&proxy, &SHORT, POLITE);
        leader.wait_line("start");
        let watching = |r: &Recorded| r.request.is_watch() && r.status == Some(200);
        wait_for("the leader's watch", LONG, || proxy.requests().iter().any(watching).then_some(()));
        let mine = scene.spec();
        assert_eq!(mine.lease_transitions, Some(transitions.map_or(0, |number| number as i32 + 1)));
        for _ in 0..5 {
            wipe(&scene);
            let mut again = || scene.spec().holder_identity.is_some() || !leader.is_running();
            wait_for("the record is there again", LONG, || again().then_some(()));
            // The leader has to know of its write: the next wipe is to come directly after that.
            let put = |r: &Recorded| r.request.method == "PUT" && r.status.is_none();
            wait_for("the answer to its write", LONG, || (!proxy.requests().iter().any(put)).then_some(()));
            let now = scene.spec();
            assert_eq!(
                (now.holder_identity, now.acquire_time, now.lease_transitions),
                (mine.holder_identity.clone(), mine.acquire_time.clone(), mine.lease_transitions),
                "{}",
                leader.said()
            );
        }
        assert_eq!(leader.count("asked"), 0, "{}", leader.said());
        leader.signal(SIGTERM);
        assert_eq!(leader.wait(), 0, "{}", leader.said());
    });
}

fn a_record_whose_transitions_were_removed(cluster: &Cluster) {
    // By a GET, and by a watch as well: the record is not entirely empty.
    let cases =
        [(BLIND.to_vec(), None), (BLIND.to_vec(), Some(4)), (MINIMAL.to_vec(), None), (MINIMAL.to_vec(), Some(4))];
    side_by_side(&cases, |(verbs, transitions)| {
        let scene = Scene::new(cluster, verbs);
        if transitions.is_some() {
            free_lock(&scene, *transitions);
        }
        let mut leader = scene.contender(&SHORT, POLITE);
        leader.wait_line("start");
        let spec = json!({"holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": Value::Null});
        let cleared = scene.namespace.patch_lease_unconditionally(LOCK, &json!({ "spec": spec }));
        loses(&mut leader, &scene, &cleared);
    });
}

fn a_wiped_record_that_no_watch_showed(cluster: &Cluster) {
    side_by_side(&[None, Some(4)], |&transitions| {
        let scene = Scene::new(cluster, &BLIND);
        if transitions.is_some() {
            free_lock(&scene, transitions);
        }
        let mut leader = scene.contender(&SHORT, POLITE);
        leader.wait_line("start");
        let wiped = wipe(&scene);
        loses(&mut leader, &scene, &wiped);
    });
}
