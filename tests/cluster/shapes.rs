//! Every record that clients of all kinds leave in a lock, put into a real object: it is read, waited for, and
//! then taken.

use crate::Test;
use crate::annotations::create;
use crate::apiserver::Cluster;
use crate::record::KEY;
use crate::scene::{LOCK, MINIMAL, Scene};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints};
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[("shapes::every_shape_is_waited_for_and_then_taken", every_shape)];

const SHAPES: &str = include_str!("../support/shapes.tsv");
/// Our own lease duration: the shortest there is.
const OWN: u64 = 3;

fn every_shape(cluster: &Cluster) {
    thread::scope(|scope| {
        for line in SHAPES.lines().filter(|line| !line.starts_with('#')) {
            let [name, place, wait, text] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let locks = if place == "lease" { &["lease"][..] } else { &["configmap", "endpoints"] };
            for lock in locks {
                scope.spawn(move || is_taken(cluster, name, lock, wait, text));
            }
        }
    });
}

fn is_taken(cluster: &Cluster, name: &str, lock: &str, wait: &str, text: &str) {
    let mut scene = Scene::new(cluster, &MINIMAL);
    let namespace = &scene.namespace;
    let annotated = json!({"metadata": {"annotations": {KEY: text, "other": "kept"}}});
    match lock {
        "configmap" => create::<ConfigMap>(namespace, LOCK, &annotated),
        "endpoints" => create::<Endpoints>(namespace, LOCK, &annotated),
        _ => {
            let spec: Value = serde_json::from_str(text).expect("JSON");
            create::<Lease>(namespace, LOCK, &json!({"spec": spec}));
        }
    }
    if lock != "lease" {
        let plural = if lock == "configmap" { "configmaps" } else { lock };
        scene.user = scene.namespace.user_with(&[("", plural, &MINIMAL)]);
    }
    let lease = match wait {
        "free" => 0,
        "own" => OWN,
        seconds => seconds.parse().expect("seconds"),
    };
    let begin = Instant::now();
    let options = ["--lock", lock, "--lease-duration", "3s", "--no-events"];
    let mut contender = scene.contender(&options, "exit 3");
    let took = contender.wait_line("start ").at - begin;
    assert!(took >= Duration::from_secs(lease), "{name}: taken after {took:?}\n{}", contender.said());
    assert!(took < Duration::from_secs(lease + 5), "{name}: taken after {took:?}\n{}", contender.said());
    assert_eq!(contender.wait(), 3, "{name}: {}", contender.said());
}
