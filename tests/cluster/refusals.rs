//! What a contender that may not or cannot do its work says, and with which code it ends.

use crate::Test;
use crate::apiserver::Cluster;
use crate::scene::{LOCK, MINIMAL, Scene};
use crate::support::{Finished, SHORT, leader_run};
use crate::tls::Tls;
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("refusals::a_free_lease_without_update", a_free_lease_without_update),
    ("refusals::without_any_right", without_any_right),
    ("refusals::unknown_credentials", unknown_credentials),
    ("refusals::a_namespace_that_does_not_exist", a_namespace_that_does_not_exist),
    ("refusals::an_untrusted_certificate", an_untrusted_certificate),
    ("refusals::in_cluster", in_cluster),
];

fn run(command: &mut Command) -> (Finished, Duration) {
    let start = Instant::now();
    (command.output().unwrap().into(), start.elapsed())
}

/// Ended with 125, and the last line contains these words.
fn refused(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.code, 125, "{finished:?}");
    let last = finished.stderr.lines().last().unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "{word:?} is not in: {last}");
    }
    assert!(finished.stderr.lines().count() <= 2, "{}", finished.stderr);
}

fn child() -> [String; 1] {
    ["true".into()]
}

fn a_free_lease_without_update(cluster: &Cluster) {
    let scene = Scene::new(cluster, &MINIMAL);
    let lead = scene.command(&SHORT, &child()).output().unwrap();
    assert_eq!(lead.status.code(), Some(0));
    scene.user.set_verbs(&["get", "create", "watch"]);
    let (finished, took) = run(&mut scene.command(&SHORT, &child()));
    let who = format!("forbidden for {}", scene.user.name());
    let what = format!("cannot update lease {}/{LOCK}", scene.namespace.name());
    refused(&finished, &[&what, &who, "it needs get, create, update and watch on leases"]);
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(10), "R is 4 s: {took:?}");
}

fn without_any_right(cluster: &Cluster) {
    let scene = Scene::new(cluster, &[]);
    let (finished, took) = run(&mut scene.command(&SHORT, &child()));
    refused(&finished, &["cannot get lease", "forbidden for"]);
    assert!(took >= Duration::from_secs(4), "{took:?}");
    let (finished, _) = run(&mut scene.command(&["--wait", "0s"], &child()));
    assert_eq!(finished.code, 124, "{finished:?}");
    assert!(finished.stderr.contains("last error: cannot get lease"), "{}", finished.stderr);
}

fn unknown_credentials(cluster: &Cluster) {
    let namespace = cluster.namespace("refusals");
    let kubeconfig = namespace.stranger().kubeconfig(&cluster.url(), Some(namespace.name()));
    let (finished, _) = run(leader_run().arg("--kubeconfig").arg(kubeconfig).args(SHORT).args(["--", "true"]));
    refused(&finished, &["cannot get lease", "does not accept the credentials (401)"]);
}

fn a_namespace_that_does_not_exist(cluster: &Cluster) {
    let config = cluster.admin_kubeconfig();
    let (finished, took) = run(leader_run().arg("--kubeconfig").arg(config).args(["--ns", "nowhere", "--", "true"]));
    refused(&finished, &["namespace \"nowhere\" does not exist"]);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    assert!(took < Duration::from_secs(8), "R is 10 s: {took:?}");
}

fn an_untrusted_certificate(cluster: &Cluster) {
    let scene = Scene::new(cluster, &MINIMAL);
    let config = scene.user.kubeconfig(&cluster.url(), Some(scene.namespace.name()));
    let mut config: Value = serde_json::from_str(&fs::read_to_string(config).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Another authority in place of the right one, and as a file beside the kubeconfig.
    fs::write(folder.path().join("ca.pem"), Tls::new().ca_pem).unwrap();
    config["clusters"][0]["cluster"] = json!({"server": cluster.url(), "certificate-authority": "ca.pem"});
    let other = folder.path().join("kubeconfig");
    fs::write(&other, config.to_string()).unwrap();
    let (finished, took) = run(leader_run().arg("--kubeconfig").arg(other).args(SHORT).args(["--", "true"]));
    refused(&finished, &["cannot trust", "invalid peer certificate", "certificate-authority"]);
    assert!(took >= Duration::from_secs(4), "it may be mended within R, which is 4 s: {took:?}");
    assert!(scene.namespace.lease("true").is_none());
}

/// As in a pod: the service account's files, bound to their place in a mount namespace of the contender's
/// own. Needs root; where the machine does not allow it, that is said.
fn in_cluster(cluster: &Cluster) {
    let scene = Scene::new(cluster, &MINIMAL);
    let config = fs::read_to_string(scene.user.kubeconfig(&cluster.url(), None)).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let token = config["users"][0]["user"]["token"].as_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("token"), token).unwrap();
    fs::write(folder.path().join("namespace"), scene.namespace.name()).unwrap();
    fs::write(folder.path().join("ca.crt"), &cluster.shared.tls.ca_pem).unwrap();
    let address = cluster.url();
    let (host, port) = address.strip_prefix("https://").unwrap().split_once(':').unwrap();
    let pod = |mount: &str| {
        let mut command = Command::new("unshare");
        let inner = leader_run();
        command
            .args(["--mount", "sh", "-c", &format!("{mount} exec \"$@\""), "sh"])
            .arg(inner.get_program())
            .args(inner.get_args());
        command.args([
            "--name",
            LOCK,
            "--",
            "sh",
            "-c",
            "echo in $LEADER_ELECTION_NAMESPACE as $LEADER_ELECTION_IDENTITY",
        ]);
        command.env("KUBERNETES_SERVICE_HOST", host).env("KUBERNETES_SERVICE_PORT", port).env("POD_NAME", "pod-7");
        command.env_remove("KUBECONFIG").env("HOME", "/nonexistent");
        run(&mut command).0
    };
    let probe = Command::new("unshare").args(["--mount", "true"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        eprintln!("not run: mount namespaces need root");
        return;
    }
    let place = "/run/secrets/kubernetes.io/serviceaccount";
    // In a tmpfs that only this mount namespace sees, so that nothing is left behind on the machine.
    let source = folder.path().display();
    let mounted = pod(&format!("mount -t tmpfs none /run && mkdir -p {place} && cp {source}/* {place} &&"));
    assert_eq!(mounted.code, 0, "{mounted:?}");
    assert!(mounted.stdout.starts_with(&format!("in {} as pod-7_", scene.namespace.name())), "{mounted:?}");
    let unmounted = pod("mount -t tmpfs none /run &&");
    refused(&unmounted, &["in a pod, but", "automountServiceAccountToken"]);
}
