//! What others can ask, and what a Service selects: metrics in the real parser's eyes, and the label on the pod.

use crate::Test;
use crate::apiserver::Cluster;
use crate::faults::{Fault, Matcher};
use crate::namespace::{Grant, Namespace};
use crate::proxy::Proxy;
use crate::scene::{MINIMAL, Scene, figure};
use crate::support::{AT_ONCE, Contender, LONG, POLITE, SHORT, alone, wait_for};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::PostParams;
use nix::libc::{SIGKILL, SIGTERM};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("http::prometheus_reads_the_metrics", prometheus_reads_the_metrics),
    ("label::the_leader_s_pod_has_it_and_nobody_else_s", the_leader_s_pod_has_it_and_nobody_else_s),
    ("label::it_is_off_before_the_lock_is_given_back", it_is_off_before_the_lock_is_given_back),
    ("label::a_server_that_hangs_delays_a_release_by_a_second", a_server_that_hangs_delays_a_release_by_a_second),
    ("label::it_is_off_after_a_loss", it_is_off_after_a_loss),
    ("label::one_that_is_left_over_is_taken_away", one_that_is_left_over_is_taken_away),
    ("label::refusals_are_said_once_and_change_nothing", refusals_are_said_once_and_change_nothing),
];

const LEASES: Grant = ("coordination.k8s.io", "leases", &MINIMAL);
const PODS: Grant = ("", "pods", &["patch"]);
const LABEL: [&str; 2] = ["--pod-label", "example.com/role=leader"];

fn scene(cluster: &Cluster, grants: &[Grant]) -> Scene {
    let mut scene = Scene::new(cluster, &MINIMAL);
    scene.user = scene.namespace.user_with(grants);
    for name in ["pod-a", "pod-b"] {
        let pod = serde_json::json!({
            "metadata": {"name": name, "labels": {"app": "work"}},
            "spec": {"containers": [{"name": "work", "image": "example.com/work:1"}]},
        });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let created = scene.namespace.block_on(scene.namespace.api().create(&PostParams::default(), &pod));
        created.expect("create a pod");
    }
    scene
}

/// A contender in this pod.
fn contender(scene: &Scene, pod: &str, options: &[&str], script: &str) -> Contender {
    let options = [&LABEL[..], &SHORT[..], &["--no-events"], options].concat();
    Contender::start(scene.command(&options, &alone(&scene.oracle(), script)).env("POD_NAME", pod))
}

/// A polite child that says when it can be asked to leave.
fn polite() -> String {
    POLITE.replacen("TERM; ", "TERM; echo ready; ", 1)
}

fn is_labelled(namespace: &Namespace, pod: &str) -> bool {
    let pod: Pod = namespace.block_on(namespace.api().get(pod)).expect("the pod");
    assert_eq!(pod.labels().get("app").map(String::as_str), Some("work"), "its other labels stay");
    pod.labels().get("example.com/role").is_some_and(|role| role == "leader")
}

fn wait_labelled(scene: &Scene, pod: &str, wanted: bool) -> Instant {
    wait_for(&format!("the label of {pod} to be {wanted}"), LONG, || {
        (is_labelled(&scene.namespace, pod) == wanted).then(Instant::now)
    })
}

fn the_leader_s_pod_has_it_and_nobody_else_s(cluster: &Cluster) {
    let scene = scene(cluster, &[LEASES, PODS]);
    let mut first = contender(&scene, "pod-a", &[], &polite());
    let started = first.wait_line("start ").at;
    let labelled = wait_labelled(&scene, "pod-a", true);
    figure("the label after the child's start", labelled.saturating_duration_since(started));
    let mut second = contender(&scene, "pod-b", &[], &polite());
    second.wait_line("is held by pod-a");
    assert!(!is_labelled(&scene.namespace, "pod-b"));
    first.wait_line("ready");
    first.signal(SIGTERM);
    assert_eq!(first.wait(), 0, "{}", first.said());
    assert!(!is_labelled(&scene.namespace, "pod-a"));
    wait_labelled(&scene, "pod-b", true);
    second.wait_line("ready");
    second.signal(SIGTERM);
    assert_eq!(second.wait(), 0, "{}", second.said());
    assert!(!is_labelled(&scene.namespace, "pod-b"));
    assert_eq!(first.count("pod-label") + second.count("pod-label"), 0, "{}{}", first.said(), second.said());
}

fn it_is_off_before_the_lock_is_given_back(cluster: &Cluster) {
    let scene = scene(cluster, &[LEASES, PODS]);
    let leases = scene.namespace.watch_leases(crate::scene::LOCK);
    // It ends by itself, once its pod is labelled.
    let mut first = contender(&scene, "pod-a", &[], "sleep 5; exit 3");
    wait_labelled(&scene, "pod-a", true);
    let pods =
        scene.namespace.watch("pod-a", |pod: Pod| (pod.labels().contains_key("example.com/role"), version(&pod)));
    assert_eq!(first.wait(), 3, "{}", first.said());
    let mut seen = std::iter::from_fn(|| pods.recv_timeout(LONG).ok());
    let (.., (_, off)) = seen.find(|(.., (on, _))| !on).expect("it is taken away");
    let (.., given_back) = crate::scene::wait_change(&leases, "the release", |lease| {
        !crate::scene::holder(lease).starts_with("pod-a") && lease.spec.is_some()
    });
    assert!(off < version(&given_back), "one server counts the changes of all objects");
}

fn version(object: &impl ResourceExt) -> u64 {
    object.resource_version().expect("a version").parse().expect("a number")
}

fn a_server_that_hangs_delays_a_release_by_a_second(cluster: &Cluster) {
    let scene = scene(cluster, &[LEASES, PODS]);
    let proxy = Proxy::start(cluster);
    let options = [&LABEL[..], &["--no-events"]].concat();
    let mut command = scene.command_at(&proxy.url(), &options, &alone(&scene.oracle(), &polite()));
    let mut first = Contender::start(command.env("POD_NAME", "pod-a"));
    first.wait_line("start ");
    wait_labelled(&scene, "pod-a", true);
    let rule = proxy.on(Matcher::method("PATCH"), Fault::Hold);
    let mut second = contender(&scene, "pod-b", &[], "exit 4");
    second.wait_line("is held by pod-a");
    first.wait_line("ready");
    let asked = Instant::now();
    first.signal(SIGTERM);
    let led = second.wait_line("start ").at;
    figure("the next start where the label cannot be taken away", led - asked);
    assert!(led - asked >= Duration::from_secs(1), "the label was waited for: {:?}", led - asked);
    // A request may take 5 s.
    assert!(led - asked <= Duration::from_secs(1) + AT_ONCE, "{:?}", led - asked);
    assert_eq!((first.wait(), second.wait()), (0, 4), "{}{}", first.said(), second.said());
    rule.release();
}

fn it_is_off_after_a_loss(cluster: &Cluster) {
    let scene = scene(cluster, &[LEASES, PODS]);
    let mut first = contender(&scene, "pod-a", &[], &polite());
    wait_labelled(&scene, "pod-a", true);
    scene.steal();
    assert_eq!(first.wait(), 75, "{}", first.said());
    wait_labelled(&scene, "pod-a", false);
}

fn one_that_is_left_over_is_taken_away(cluster: &Cluster) {
    let scene = scene(cluster, &[LEASES, PODS]);
    let mut first = contender(&scene, "pod-a", &[], "sleep 60");
    wait_labelled(&scene, "pod-a", true);
    first.signal(SIGKILL);
    first.wait();
    assert!(is_labelled(&scene.namespace, "pod-a"), "nobody is left to take it away");
    let mut second = contender(&scene, "pod-b", &[], &polite());
    wait_labelled(&scene, "pod-b", true);
    let again = contender(&scene, "pod-a", &[], "exit 4");
    wait_labelled(&scene, "pod-a", false);
    again.wait_line("is held by pod-b");
    second.wait_line("ready");
    second.signal(SIGTERM);
    assert_eq!(second.wait(), 0, "{}", second.said());
}

fn refusals_are_said_once_and_change_nothing(cluster: &Cluster) {
    let scene = scene(cluster, &[LEASES]);
    let mut first = contender(&scene, "pod-a", &[], &polite());
    first.wait_line("start ");
    let said = first.wait_line("--pod-label").text;
    assert!(said.contains("forbidden for ") && said.contains("it needs patch on pods"), "{said}");
    first.wait_line("ready");
    first.signal(SIGTERM);
    let asked = Instant::now();
    assert_eq!((first.wait(), first.count("--pod-label")), (0, 1), "{}", first.said());
    assert!(asked.elapsed() < AT_ONCE, "nothing is waited for: {:?}", asked.elapsed());

    scene.user.set_grants(&[LEASES, PODS]);
    let mut nowhere = contender(&scene, "no-such-pod", &[], "exit 3");
    assert_eq!(nowhere.wait(), 3, "{}", nowhere.said());
    let said = nowhere.line("--pod-label").expect("it is said").text;
    assert!(said.contains(&format!("label pod {}/no-such-pod", scene.namespace.name())), "{said}");
}

/// By the parser of Prometheus itself, and its linter.
fn prometheus_reads_the_metrics(cluster: &Cluster) {
    let scene = Scene::new(cluster, &MINIMAL);
    let options = [&["--http", "127.0.0.1:0", "--no-events"], &SHORT[..]].concat();
    let contender = scene.contender(&options, POLITE);
    let line = contender.wait_line("listening on http://").text;
    let address = line.rsplit("//").next().expect("an address");
    contender.wait_line("start ");
    let text = || {
        let mut stream = TcpStream::connect(address).expect("connect");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").expect("ask");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
    };
    let renewed = |text: &String| !text.contains("leader_run_renew_seconds_count 0\n");
    let text = wait_for("a renewal", LONG, || Some(text()).filter(renewed));
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/prometheus");
    let read = |text: &str| {
        let mut parser = Command::new("go")
            .args(["run", "-mod=readonly", "."])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start go");
        parser.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("hand it on");
        parser.wait_with_output().expect("its end")
    };
    let done = read(&text);
    assert!(done.status.success(), "{}\n{text}", String::from_utf8_lossy(&done.stderr));
    let families = String::from_utf8_lossy(&done.stdout);
    for family in ["leader_election_master_status GAUGE 1", "leader_run_renew_seconds HISTOGRAM 1"] {
        assert!(families.lines().any(|line| line == family), "{family} is not in\n{families}");
    }
    assert!(
        !read(&text.replace("TYPE leader_run_terms_total counter", "TYPE leader_run_terms_total count"))
            .status
            .success()
    );
}
