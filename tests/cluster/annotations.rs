//! Locks in the annotation of a ConfigMap or of Endpoints.

use crate::apiserver::Cluster;
use crate::namespace::Namespace;
use crate::record::{KEY, check_annotation};
use crate::scene::{LOCK, MINIMAL, Scene};
use crate::support::{AT_ONCE, POLITE, SHORT, kill_both, wait_change, wait_for};
use crate::{Test, support::LONG};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints};
use kube::Resource;
use kube::api::{Patch, PatchParams, PostParams};
use nix::libc::SIGTERM;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("annotations::a_configmap_hands_over", hands_over::<ConfigMap>),
    ("annotations::endpoints_hand_over", hands_over::<Endpoints>),
    ("annotations::without_the_verbs_it_says_which", without_the_verbs_it_says_which),
];

pub trait Object:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug
{
}
impl Object for ConfigMap {}
impl Object for Endpoints {}
impl Object for Lease {}

fn read<K: Object>(namespace: &Namespace) -> Option<Value> {
    let found = namespace.block_on(namespace.api::<K>().get_opt(LOCK)).expect("get the lock");
    found.map(|object| serde_json::to_value(object).expect("JSON"))
}

pub fn create<K: Object>(namespace: &Namespace, name: &str, rest: &Value) {
    let mut object = json!({"metadata": {"name": name}});
    object.as_object_mut().expect("an object").extend(rest.as_object().expect("an object").clone());
    object["metadata"]["name"] = name.into();
    let object: K = serde_json::from_value(object).expect("an object of this kind");
    namespace.block_on(namespace.api::<K>().create(&PostParams::default(), &object)).expect("create the lock");
}

/// The annotation's text.
pub fn annotation<K: Object>(namespace: &Namespace) -> String {
    let object = read::<K>(namespace).unwrap_or_default();
    object["metadata"]["annotations"][KEY].as_str().unwrap_or_default().to_owned()
}

fn scene<K: Object>(cluster: &Cluster) -> (Scene, String) {
    let mut scene = Scene::new(cluster, &MINIMAL);
    let plural = K::plural(&()).into_owned();
    scene.user = scene.namespace.user_with(&[("", &plural, &MINIMAL)]);
    // client-go's spelling, too.
    (scene, if plural == "configmaps" { plural } else { "endpoints".into() })
}

fn hands_over<K: Object>(cluster: &Cluster) {
    let (scene, lock) = scene::<K>(cluster);
    let namespace = &scene.namespace;
    let before = json!({"metadata": {"labels": {"team": "a"}, "annotations": {"other": "kept"}}});
    create::<K>(namespace, LOCK, &before);
    let start = |identity: &str, script: &str| {
        scene.contender(&[&["--lock", &lock, "--identity", identity, "-v"], &SHORT[..]].concat(), script)
    };
    let mut first = start("first", POLITE);
    first.wait_line("start ");
    // Taken over from nobody, as client-go counts.
    assert_eq!(check_annotation(&annotation::<K>(namespace), "first", 6), 1);
    let second = start("second", POLITE);
    second.wait_line("is held by first");
    let text = annotation::<K>(namespace);
    wait_for("a renewal", LONG, || (annotation::<K>(namespace) != text).then_some(()));
    check_annotation(&annotation::<K>(namespace), "first", 6);

    first.signal(SIGTERM);
    assert_eq!(first.wait(), 0, "{}", first.said());
    let ended = Instant::now();
    let took = second.wait_line("start ").at.saturating_duration_since(ended);
    assert!(took < AT_ONCE, "{took:?} after the release");
    wait_for("the take-over", LONG, || annotation::<K>(namespace).contains("second").then_some(()));
    assert_eq!(check_annotation(&annotation::<K>(namespace), "second", 6), 2);

    let mut third = start("third", "exit 3");
    third.wait_line("is held by second");
    let renewal = wait_change("a renewal", LONG, || annotation::<K>(namespace));
    let mut second = second;
    kill_both(&mut second);
    let next = third.wait_line("start ").at;
    assert!(next - renewal >= Duration::from_secs(6), "{:?} after the last renewal", next - renewal);
    assert_eq!(third.wait(), 3);
    check_annotation(&annotation::<K>(namespace), "", 1);
    assert_eq!(first.count("OVERLAP") + second.count("OVERLAP") + third.count("OVERLAP"), 0);
    let after = read::<K>(namespace).expect("it is there");
    assert_eq!(after["metadata"]["labels"], json!({"team": "a"}));
    assert_eq!(after["metadata"]["annotations"]["other"], "kept");
}

fn without_the_verbs_it_says_which(cluster: &Cluster) {
    let scene = Scene::new(cluster, &MINIMAL);
    let mut contender = scene.contender(&["--lock", "configmap", "--wait", "1s"], "exit 3");
    assert_eq!(contender.wait(), 124);
    contender.wait_line("it needs get, create, update and watch on configmaps");
    // What is taken away from a leader's annotation by hand is written again.
    let (scene, lock) = self::scene::<ConfigMap>(cluster);
    let mut leader = scene.contender(&["--lock", &lock, "--identity", "leader"], POLITE);
    leader.wait_line("start ");
    let patch = json!({"metadata": {"annotations": {KEY: null}}});
    let api = scene.namespace.api::<ConfigMap>();
    let (how, patch) = (PatchParams::default(), Patch::Merge(&patch));
    scene.namespace.block_on(api.patch(LOCK, &how, &patch)).expect("patch the lock");
    wait_for("the record", LONG, || annotation::<ConfigMap>(&scene.namespace).contains("leader").then_some(()));
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 0, "{}", leader.said());
}
