//! What can be asked of a lock on the real API server: status in all states, check with and without rights, and both
//! as somebody else.

use crate::Test;
use crate::annotations::create;
use crate::apiserver::Cluster;
use crate::namespace::User;
use crate::record::KEY;
use crate::scene::{BLIND, LOCK, MINIMAL, Scene};
use crate::support::{Contender, Finished, LONG, POLITE, SHORT, leader_run, wait_for};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, Patch, PatchParams};
use nix::libc::SIGTERM;
use serde_json::{Value, json};
use std::process::Command;

pub const TESTS: &[Test] = &[
    ("ask::status_in_every_state", status_in_every_state),
    ("ask::status_of_what_others_have_written", status_of_what_others_have_written),
    ("ask::status_of_both_halves", status_of_both_halves),
    ("ask::status_that_cannot_be_told", status_that_cannot_be_told),
    ("ask::a_watch_and_a_poll", a_watch_and_a_poll),
    ("ask::what_check_prints_is_enough_for_a_lease", |cluster| check_is_enough(cluster, "lease", 9)),
    ("ask::what_check_prints_is_enough_for_both_halves", |cluster| check_is_enough(cluster, "configmapsleases", 13)),
    ("ask::check_says_what_is_missing", check_says_what_is_missing),
    ("ask::as_somebody_else", as_somebody_else),
];

/// This question of the scene's user, in its namespace.
fn question(cluster: &Cluster, scene: &Scene, user: &User, question: &str, more: &[&str]) -> Command {
    let mut command = leader_run();
    command.arg(question).arg("--kubeconfig").arg(user.kubeconfig(&cluster.url(), Some(scene.namespace.name())));
    command.args(["--name", LOCK]).args(more);
    command
}

fn ask(cluster: &Cluster, scene: &Scene, asked: &str, more: &[&str]) -> Finished {
    question(cluster, scene, &scene.user, asked, more).output().unwrap().into()
}

fn answered(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, code, "{finished:?}");
    let said = format!("{}{}", finished.stdout, finished.stderr);
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

fn json(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished:?}"))
}

fn leader(scene: &Scene, options: &[&str]) -> Contender {
    let leader = scene.contender(&[options, &SHORT[..], &["--identity", "me"]].concat(), POLITE);
    leader.wait_line("start ");
    leader
}

fn status_in_every_state(cluster: &Cluster) {
    let scene = Scene::new(cluster, &MINIMAL);
    let lock = format!("lease {}/{LOCK}", scene.namespace.name());
    let status = |more: &[&str]| ask(cluster, &scene, "status", more);
    answered(&status(&[]), 1, &[&format!("{lock} is not there")]);
    let mut leader = leader(&scene, &[]);
    answered(&status(&[]), 0, &[&format!("{lock} is held by me"), "by the holder's clock", "lease duration 6s"]);
    assert_eq!(status(&["-o", "name"]).stdout, "me\n");
    // As the object says it.
    let told = wait_for("a status between two renewals", LONG, || {
        let before = scene.lease();
        let told = json(&status(&["-o", "json"]));
        (scene.lease().metadata.resource_version == before.metadata.resource_version).then_some((told, before))
    });
    let (told, lease) = (told.0, serde_json::to_value(told.1).unwrap());
    for (field, value) in lease["spec"].as_object().unwrap() {
        assert_eq!(told[field], *value, "{field}");
    }
    assert_eq!(told["resourceVersion"], lease["metadata"]["resourceVersion"]);
    assert_eq!((&told["lock"], &told["name"]), (&"lease".into(), &LOCK.into()), "{told}");
    assert_eq!(told["namespace"], scene.namespace.name());
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 0, "{}", leader.said());
    answered(&status(&[]), 1, &[&format!("{lock} is free")]);
    assert_eq!(status(&["-o", "name"]).stdout, "");
    assert_eq!(json(&status(&["-o", "json"]))["state"], "free");
    scene.namespace.delete_lease(LOCK);
    answered(&status(&[]), 1, &["is not there"]);
}

fn status_of_what_others_have_written(cluster: &Cluster) {
    let mut scene = Scene::new(cluster, &MINIMAL);
    scene.user =
        scene.namespace.user_with(&[("", "configmaps", &["get"]), ("coordination.k8s.io", "leases", &["get"])]);
    let lease = json!({"holderIdentity": "py", "leaseDurationSeconds": 5, "leaseTransitions": 1,
        "acquireTime": "2020-01-01T07:00:00.000000Z", "renewTime": "2020-01-01T07:00:10.123456Z"});
    create::<Lease>(&scene.namespace, LOCK, &json!({"spec": lease}));
    let words = ["is held by py", "and expired ", "by the holder's clock", "1 transition\n"];
    answered(&ask(cluster, &scene, "status", &[]), 0, &words);
    assert_eq!(json(&ask(cluster, &scene, "status", &["-o", "json"]))["expired"], true);
    // Without microseconds, and as Python's ConfigMapLock writes its times: without a time zone.
    let record = |text: &str| json!({"metadata": {"annotations": {KEY: text}}});
    let python = json!({"holderIdentity": "py", "leaseDurationSeconds": "5",
        "acquireTime": "2026-11-21 09:00:00.123456", "renewTime": "2026-11-21 09:00:05"});
    create::<ConfigMap>(&scene.namespace, LOCK, &record(&python.to_string()));
    let status = || ask(cluster, &scene, "status", &["--lock", "configmap"]);
    answered(&status(), 0, &["configmap", "is held by py", "since 2026-11-21 09:00:00.123456", "no known time zone"]);
    let write = |text: &str| {
        let api = scene.namespace.api::<ConfigMap>();
        let (how, patch) = (PatchParams::default(), Patch::Merge(record(text)));
        scene.namespace.block_on(api.patch(LOCK, &how, &patch)).expect("patch the lock");
    };
    let go = r#"{"holderIdentity":"go","leaseDurationSeconds":5,"acquireTime":"2020-01-01T07:00:00Z","renewTime":"2020-01-01T07:00:00Z"}"#;
    write(go);
    answered(&status(), 0, &["is held by go", "and expired "]);
    write("no record");
    answered(&status(), 2, &["its record cannot be read"]);
}

fn status_of_both_halves(cluster: &Cluster) {
    let mut scene = Scene::new(cluster, &MINIMAL);
    let grants = [("", "configmaps", &MINIMAL[..]), ("coordination.k8s.io", "leases", &MINIMAL)];
    scene.user = scene.namespace.user_with(&grants);
    let both = ["--lock", "configmapsleases"];
    let status = |more: &[&str]| ask(cluster, &scene, "status", &[&both, more].concat());
    answered(&status(&[]), 1, &["is not there"]);
    let mut leader = leader(&scene, &both);
    let namespace = scene.namespace.name();
    let halves = [format!("configmap {namespace}/{LOCK} names me"), format!("lease {namespace}/{LOCK} names me")];
    answered(&status(&[]), 0, &["is held by me", &halves[0], &halves[1]]);
    let told = json(&status(&["-o", "json"]));
    assert_eq!([0, 1].map(|half| told["halves"][half]["holderIdentity"].clone()), ["me", "me"], "{told}");
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 0, "{}", leader.said());
    answered(&status(&[]), 1, &["is free"]);
    scene.steal();
    answered(&status(&[]), 2, &["name different holders", "is free", "names somebody-else"]);
    scene.namespace.delete_lease(LOCK);
    answered(&status(&[]), 1, &[&format!("lease {namespace}/{LOCK} is not there")]);
}

fn status_that_cannot_be_told(cluster: &Cluster) {
    let scene = Scene::new(cluster, &[]);
    let unknown = |finished: &Finished, words: &[&str]| {
        answered(finished, 2, words);
        assert_eq!((finished.stderr.lines().count(), finished.stdout.as_str()), (1, ""), "{finished:?}");
    };
    unknown(&ask(cluster, &scene, "status", &[]), &["forbidden for", "(leader-run check prints the Role)"]);
    let told = ask(cluster, &scene, "status", &["-o", "json"]);
    assert_eq!((told.code, &json(&told)["state"]), (2, &"unknown".into()), "{told:?}");
    assert!(json(&told)["error"].as_str().unwrap().contains("forbidden"), "{told:?}");
    // A port that nobody listens on.
    let nowhere = scene.user.kubeconfig("https://127.0.0.1:1", Some(scene.namespace.name()));
    let mut command = leader_run();
    unknown(
        &command.args(["status", "--name", LOCK, "--kubeconfig"]).arg(nowhere).output().unwrap().into(),
        &["cannot reach"],
    );
    let stranger = scene.namespace.stranger();
    unknown(&question(cluster, &scene, &stranger, "status", &[]).output().unwrap().into(), &["(401)"]);
    let mut command = leader_run();
    command.args(["status", "--name", LOCK, "--ns", "nowhere", "--kubeconfig"]).arg(cluster.admin_kubeconfig());
    unknown(&command.output().unwrap().into(), &["namespace \"nowhere\" does not exist"]);
}

fn a_watch_and_a_poll(cluster: &Cluster) {
    let scene = Scene::new(cluster, &MINIMAL);
    let blind = scene.namespace.user(&BLIND);
    let watch = |user: &User| {
        Contender::start(&mut question(cluster, &scene, user, "status", &["--watch", "--lease-duration", "6s"]))
    };
    let mut watches = [watch(&scene.user), watch(&blind)];
    let all = |watches: &[Contender], text: &str| watches.iter().for_each(|watch| drop(watch.wait_line(text)));
    all(&watches, "is not there");
    let mut leader = leader(&scene, &[]);
    all(&watches, "is held by me");
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 0, "{}", leader.said());
    all(&watches, "is free");
    scene.steal();
    all(&watches, "is held by somebody-else");
    // A release left a lease of one second.
    all(&watches, "s ago as seen from here");
    scene.namespace.delete_lease(LOCK);
    for watch in &mut watches {
        wait_for("the deletion", LONG, || (watch.count("is not there") == 2).then_some(()));
        // One line for each change, and none for a renewal.
        assert_eq!(watch.lines().len(), 6, "{}", watch.said());
        watch.signal(SIGTERM);
        assert_eq!(watch.wait(), -SIGTERM);
    }
}

/// As a user without rights, then after applying what was printed.
fn check_is_enough(cluster: &Cluster, lock: &str, lines: usize) {
    let scene = Scene::new(cluster, &[]);
    let options = ["--lock", lock, "--", "true"];
    let check = ask(cluster, &scene, "check", &options);
    answered(
        &check,
        1,
        &["missing  may not get leases work", "warning  may not watch", "warning  may not create events"],
    );
    assert!(check.stderr.contains(&format!("knows us as {}", scene.user.name())), "{check:?}");
    let run = |options: &[&str]| -> Finished { scene.command(options, &["true".into()]).output().unwrap().into() };
    assert_eq!(run(&["--lock", lock, "--wait", "1s"]).code, 124);
    apply(&scene, &check.stdout);
    wait_for("the Role in effect", LONG, || (ask(cluster, &scene, "check", &options).code == 0).then_some(()));
    let check = ask(cluster, &scene, "check", &options);
    assert_eq!((check.code, check.stdout.as_str()), (0, ""), "{check:?}");
    let marked = |mark: &str| check.stderr.lines().filter(|line| line.starts_with(mark)).count();
    assert_eq!((marked("ok "), marked("warning ")), (lines, 1), "only the namespace is not to be read: {check:?}");
    // These rights are all that a run needs, and nothing is said to be refused.
    let run = run(&["--lock", lock, "--identity", "me", "-v"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(!run.stderr.contains("forbidden"), "{run:?}");
    let waits = leader(&scene, &["--lock", lock]);
    let second = scene.contender(&["--lock", lock, "-v"], POLITE);
    second.wait_line("is held by");
    drop(waits);
    second.wait_line("start ");
    assert!(!second.said().contains("polling") && !second.said().contains("forbidden"), "{}", second.said());
}

/// Does what kubectl would do with it.
fn apply(scene: &Scene, yaml: &str) {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap_or_else(|e| panic!("{e}: {yaml}"));
    assert_eq!(documents.len(), 2, "{yaml}");
    let apply = PatchParams::apply("test");
    for document in documents {
        assert_eq!(document["metadata"]["namespace"], scene.namespace.name(), "{yaml}");
        let name = document["metadata"]["name"].as_str().unwrap();
        let patch = Patch::Apply(&document);
        let applied = scene.namespace.block_on(async {
            match document["kind"].as_str() {
                Some("Role") => scene.namespace.api::<Role>().patch(name, &apply, &patch).await.map(drop),
                Some("RoleBinding") => scene.namespace.api::<RoleBinding>().patch(name, &apply, &patch).await.map(drop),
                kind => panic!("{kind:?}"),
            }
        });
        applied.unwrap_or_else(|e| panic!("{e}: {yaml}"));
    }
}

fn check_says_what_is_missing(cluster: &Cluster) {
    let scene = Scene::new(cluster, &BLIND);
    let check = |more: &[&str]| ask(cluster, &scene, "check", more);
    // What a run can do without is a warning.
    let blind = check(&[]);
    answered(&blind, 0, &["warning  may not watch leases work: it will be polled", "warning  may not create events"]);
    assert!(blind.stdout.contains("kind: RoleBinding"), "{blind:?}");
    scene.user.set_verbs(&MINIMAL);
    let quiet = check(&["--no-events"]);
    assert_eq!((quiet.code, quiet.stdout.as_str()), (0, ""), "{quiet:?}");
    scene.user.set_verbs(&["get", "update", "watch"]);
    answered(&check(&["--no-events"]), 1, &["missing  may not create leases\n"]);
    create::<Lease>(&scene.namespace, LOCK, &json!({}));
    answered(&check(&["--no-events"]), 0, &["warning  may not create leases: it is there"]);
    scene.user.set_verbs(&["get", "create", "watch"]);
    answered(&check(&[]), 1, &["missing  may not update leases work"]);
    answered(&check(&["--lock", "endpoints"]), 1, &["missing  may not get endpoints work"]);
    let mut command = leader_run();
    command.args(["check", "--name", LOCK, "--ns", "nowhere", "--kubeconfig"]).arg(cluster.admin_kubeconfig());
    let nowhere: Finished = command.output().unwrap().into();
    answered(&nowhere, 1, &["missing  namespace nowhere does not exist"]);
    assert_eq!(nowhere.stdout, "");
    let unreached = scene.user.kubeconfig("https://127.0.0.1:1", Some(scene.namespace.name()));
    let mut command = leader_run();
    command.args(["check", "--name", LOCK, "--kubeconfig"]).arg(unreached);
    answered(&command.output().unwrap().into(), 125, &["cannot reach"]);
    let stranger = scene.namespace.stranger();
    answered(&question(cluster, &scene, &stranger, "check", &[]).output().unwrap().into(), 125, &["(401)"]);
}

fn as_somebody_else(cluster: &Cluster) {
    let scene = Scene::new(cluster, &MINIMAL);
    let namespace = scene.namespace.name();
    let admin = |question: &str, more: &[&str]| -> Finished {
        let mut command = leader_run();
        command.args([question, "--ns", namespace, "--name", LOCK, "--kubeconfig"]).arg(cluster.admin_kubeconfig());
        command.args(more).output().unwrap().into()
    };
    answered(&admin("status", &[]), 1, &["is not there"]);
    answered(&admin("status", &["--as", "nobody"]), 2, &["forbidden for nobody"]);
    answered(&admin("status", &["--as", scene.user.name()]), 1, &["is not there"]);
    // Who may not impersonate is told so.
    let refused = ask(cluster, &scene, "status", &["--as", "admin"]);
    answered(&refused, 2, &["forbidden for", scene.user.name()]);
    let account = format!("system:serviceaccount:{namespace}:worker");
    let check = admin("check", &["--as", &account]);
    answered(&check, 1, &[&format!("knows us as {account}")]);
    apply(&scene, &check.stdout);
    let documents: Vec<Value> = serde_saphyr::from_multiple(&check.stdout).unwrap();
    let subject = json!([{"kind": "ServiceAccount", "namespace": namespace, "name": "worker"}]);
    assert_eq!(documents[1]["subjects"], subject, "{check:?}");
    wait_for("the Role in effect", LONG, || (admin("check", &["--as", &account]).code == 0).then_some(()));
    // A run, too: also what it asks to do in passing.
    let mut command = leader_run();
    command.args(["--ns", namespace, "--name", LOCK, "--kubeconfig"]).arg(cluster.admin_kubeconfig());
    let run: Finished = command.args(["--as", &account, "--", "true"]).output().unwrap().into();
    assert_eq!(run.code, 0, "{run:?}");
    let mut command = leader_run();
    command.args(["--ns", namespace, "--name", LOCK, "--wait", "0s", "--kubeconfig"]).arg(cluster.admin_kubeconfig());
    let run: Finished = command.env("LEADER_RUN_AS", "nobody").args(["--", "true"]).output().unwrap().into();
    answered(&run, 124, &["forbidden for nobody"]);
    let params = DeleteParams::default();
    scene.namespace.block_on(scene.namespace.api::<Lease>().delete(LOCK, &params)).expect("it was made");
}
