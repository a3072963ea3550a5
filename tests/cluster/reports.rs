//! What the outside is told of an election: events at the lock, and the user's own commands.

use crate::apiserver::Cluster;
use crate::faults::{Fault, Matcher};
use crate::proxy::Proxy;
use crate::scene::{LOCK, MINIMAL, Scene};
use crate::support::{LONG, POLITE, SHORT, is_alive, wait_for};
use crate::{Test, namespace::Grant};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kube::ResourceExt;
use kube::api::ListParams;
use nix::libc::SIGTERM;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("reports::events_tell_who_led", events_tell_who_led),
    ("reports::both_halves_have_events", both_halves_have_events),
    ("reports::events_can_be_left_out", events_can_be_left_out),
    ("reports::events_that_fail_are_said_once", events_that_fail_are_said_once),
    ("reports::events_that_hang_hold_up_nothing", events_that_hang_hold_up_nothing),
    ("reports::a_command_that_hangs_holds_up_nothing", a_command_that_hangs_holds_up_nothing),
];

const LEASES: Grant = ("coordination.k8s.io", "leases", &MINIMAL);
const EVENTS: Grant = ("", "events", &["create"]);

fn scene(cluster: &Cluster, grants: &[Grant]) -> Scene {
    let mut scene = Scene::new(cluster, &MINIMAL);
    scene.user = scene.namespace.user_with(grants);
    scene
}

/// What `kubectl describe` shows of the object with this uid, in any order.
fn events(scene: &Scene, uid: &str) -> Vec<Event> {
    let of_it = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
    scene.namespace.block_on(scene.namespace.api::<Event>().list(&of_it)).expect("list events").items
}

fn messages(events: &[Event]) -> Vec<&str> {
    let mut messages: Vec<_> = events.iter().map(|event| event.message.as_deref().unwrap_or_default()).collect();
    messages.sort_unstable();
    messages
}

fn events_tell_who_led(cluster: &Cluster) {
    let scene = scene(cluster, &[LEASES, EVENTS]);
    for identity in ["first", "second"] {
        let mut contender = scene.contender(&[&["--identity", identity], &SHORT[..]].concat(), "exit 3");
        assert_eq!(contender.wait(), 3, "{}", contender.said());
        assert_eq!(contender.count("event"), 0, "{}", contender.said());
    }
    let lease = scene.lease();
    let events = events(&scene, &lease.uid().expect("a uid"));
    let story = ["first became leader", "first stopped leading", "second became leader", "second stopped leading"];
    assert_eq!(messages(&events), story);
    for event in &events {
        let about = &event.involved_object;
        assert_eq!((about.kind.as_deref(), about.name.as_deref()), (Some("Lease"), Some(LOCK)));
        assert_eq!(about.api_version.as_deref(), Some("coordination.k8s.io/v1"));
        assert_eq!((event.reason.as_deref(), event.type_.as_deref()), (Some("LeaderElection"), Some("Normal")));
        assert_eq!(event.source.as_ref().and_then(|source| source.component.as_deref()), Some("leader-run"));
        assert!(event.first_timestamp.is_some() && event.last_timestamp.is_some() && event.count == Some(1));
    }
}

fn both_halves_have_events(cluster: &Cluster) {
    let scene = scene(cluster, &[LEASES, EVENTS, ("", "configmaps", &MINIMAL)]);
    let options = ["--lock", "configmapsleases", "--identity", "first"];
    let mut contender = scene.contender(&[&options, &SHORT[..]].concat(), "exit 3");
    assert_eq!(contender.wait(), 3, "{}", contender.said());
    let map = scene.namespace.block_on(scene.namespace.api::<ConfigMap>().get(LOCK)).expect("the ConfigMap");
    let lease: Lease = scene.lease();
    for uid in [map.uid(), lease.uid()] {
        let story = ["first became leader", "first stopped leading"];
        assert_eq!(messages(&events(&scene, &uid.expect("a uid"))), story);
    }
}

fn events_can_be_left_out(cluster: &Cluster) {
    let scene = scene(cluster, &[LEASES, EVENTS]);
    let with = |options: &[&str], variables: &[(&str, &str)]| {
        let mut command = scene.command(options, &["true".into()]);
        command.envs(variables.iter().copied());
        let done = command.output().expect("run it");
        assert!(done.status.success(), "{done:?}");
        events(&scene, &scene.lease().uid().expect("a uid")).len()
    };
    assert_eq!(with(&["--no-events"], &[]), 0);
    assert_eq!(with(&["--events=false"], &[]), 0);
    assert_eq!(with(&[], &[("LEADER_RUN_EVENTS", "false")]), 0);
    assert_eq!(with(&[], &[("LEADER_RUN_NO_EVENTS", "true")]), 0);
    assert_eq!(with(&["--no-events"], &[("LEADER_RUN_EVENTS", "true")]), 0);
    assert_eq!(with(&["--events"], &[("LEADER_RUN_NO_EVENTS", "true")]), 2);
    assert_eq!(with(&["--no-events", "--events"], &[]), 4);
    assert_eq!(with(&["--events", "--no-events"], &[]), 4);
}

fn events_that_fail_are_said_once(cluster: &Cluster) {
    let scene = scene(cluster, &[LEASES]);
    let mut contender = scene.contender(&SHORT, "exit 3");
    assert_eq!(contender.wait(), 3, "{}", contender.said());
    let said = contender.line("event").expect("it says so").text;
    let words = format!("cannot create an event at lease {}/{LOCK}: forbidden for ", scene.namespace.name());
    assert!(said.contains(&words) && said.contains("needs create on events"), "{said}");
    assert_eq!(contender.count("event"), 1, "{}", contender.said());
}

fn events_that_hang_hold_up_nothing(cluster: &Cluster) {
    let scene = scene(cluster, &[LEASES, EVENTS]);
    let proxy = Proxy::start(cluster);
    let rule = proxy.on(Matcher::new(|seen| seen.path.ends_with("/events")), Fault::Hold);
    // A request may take 10 s then, and so may an event.
    let mut leader = scene.behind(&proxy, &["--lease-duration", "30s"], POLITE);
    leader.wait_line("start ");
    rule.wait_hits(1);
    let renewed = || scene.spec().renew_time;
    let before = renewed();
    wait_for("a renewal", LONG, || (renewed() != before).then_some(()));
    let mut next = scene.contender(&SHORT, "exit 4");
    next.wait_line("is held by");
    leader.signal(SIGTERM);
    let asked = Instant::now();
    let led = next.wait_line("start ").at;
    assert_eq!((leader.wait(), next.wait()), (0, 4));
    // Neither the release nor our end waits for that.
    assert!(led - asked < Duration::from_secs(8), "{:?}", led - asked);
    assert!(asked.elapsed() < Duration::from_secs(9), "{:?}", asked.elapsed());
    rule.release();
}

fn a_command_that_hangs_holds_up_nothing(cluster: &Cluster) {
    let scene = scene(cluster, &[LEASES, EVENTS]);
    let hang = "bash -c 'sleep 300 & echo hangs $! for [$LEADER_ELECTION_LEADER]; wait'";
    let callbacks = ["--on-new-leader", hang, "--on-stopped-leading", "echo stopped leading"];
    let mut leader = scene.contender(&[&callbacks, &SHORT[..]].concat(), "sleep 1; exit 5");
    leader.wait_line("start ");
    let line = leader.wait_line("hangs ").text;
    let sleep: i32 = line.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("a process");
    let mut next = scene.contender(&SHORT, "exit 4");
    assert_eq!(next.wait(), 4, "{}", next.said());
    assert!(leader.is_running() && is_alive(sleep), "{}", leader.said());
    assert_eq!(leader.wait(), 5, "{}", leader.said());
    assert_eq!((leader.count("stopped leading"), leader.count("OVERLAP")), (1, 0), "{}", leader.said());
    assert!(leader.line("the command of --on-new-leader").is_some_and(|line| line.text.contains("killed")));
    assert!(!is_alive(sleep), "it is ended with what it started");
}
