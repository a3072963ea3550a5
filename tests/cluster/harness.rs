//! Tests of the harness itself, so that the others can rely on it.

use std::{
    sync::mpsc::RecvTimeoutError,
    thread,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    api::core::v1::ConfigMap,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    Test,
    apiserver::Cluster,
    faults::{Fault, Matcher, Rule, refusal},
    namespace::{Namespace, WatchEventKind},
    proxy::Proxy,
    wait_for,
};

pub const TESTS: &[Test] = &[
    ("harness::the_minimal_role_allows_that_only", the_minimal_role_allows_that_only),
    ("harness::verbs_change_at_once", verbs_change_at_once),
    ("harness::an_unknown_user_is_refused", an_unknown_user_is_refused),
    ("harness::the_kubeconfig_leads_to_the_server", the_kubeconfig_leads_to_the_server),
    ("harness::a_replacement_survives_a_crowd", a_replacement_survives_a_crowd),
    ("harness::the_recorder_sees_each_change", the_recorder_sees_each_change),
    ("harness::the_proxy_passes_everything", the_proxy_passes_everything),
    ("harness::a_cut_ends_connections_until_resumed", a_cut_ends_connections_until_resumed),
    ("harness::a_pause_holds_bytes_until_resumed", a_pause_holds_bytes_until_resumed),
    ("harness::a_delay_is_not_more_and_not_less", a_delay_is_not_more_and_not_less),
    ("harness::a_dropped_response_was_committed", a_dropped_response_was_committed),
    ("harness::a_closed_request_was_committed", a_closed_request_was_committed),
    ("harness::answers_can_be_made_up", answers_can_be_made_up),
    ("harness::a_held_request_arrives_late", a_held_request_arrives_late),
    ("harness::a_request_that_was_answered_for_arrives_late", a_request_that_was_answered_for_arrives_late),
    ("harness::a_held_response_was_committed", a_held_response_was_committed),
    ("harness::requests_and_responses_can_be_late", requests_and_responses_can_be_late),
];

const CONTENDER: &[&str] = &["get", "create", "update", "watch"];
/// More than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);
/// Less than that, and enough to tell silence from an answer.
const SHORT: Duration = Duration::from_millis(500);

fn new_lease(name: &str) -> Lease {
    Lease { metadata: ObjectMeta { name: Some(name.into()), ..Default::default() }, spec: Some(LeaseSpec::default()) }
}

fn hold(lease: &mut Lease, holder: &str) {
    lease.spec.get_or_insert_default().holder_identity = Some(holder.into());
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

/// The code of the refusal that this must be.
fn refused<T>(result: kube::Result<T>) -> u16 {
    match result.map(drop) {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("not refused: {other:?}"),
    }
}

/// A lease "lock", and a contender's way to it through a proxy.
fn behind_a_proxy(cluster: &Cluster) -> (Namespace, Proxy, Api<Lease>, Lease) {
    let namespace = cluster.namespace("harness");
    let proxy = Proxy::start(cluster);
    let api = namespace.user(CONTENDER).api(&proxy.url());
    let lease = namespace.create_lease(&new_lease("lock"));
    (namespace, proxy, api, lease)
}

fn the_minimal_role_allows_that_only(cluster: &Cluster) {
    let namespace = cluster.namespace("harness");
    let api: Api<Lease> = namespace.user(CONTENDER).api(&cluster.url());
    let post = PostParams::default();
    namespace.block_on(async {
        let lease = api.create(&post, &new_lease("lock")).await.expect("create");
        let lease = api.replace("lock", &post, &lease).await.expect("update");
        assert_eq!(api.get("lock").await.expect("get"), lease);
        let only = WatchParams::default().fields("metadata.name=lock");
        api.watch(&only, "0").await.map(drop).expect("watch");

        assert_eq!(refused(api.delete("lock", &DeleteParams::default()).await), 403);
        assert_eq!(refused(api.list(&ListParams::default()).await), 403);
    });
}

fn verbs_change_at_once(cluster: &Cluster) {
    let namespace = cluster.namespace("harness");
    let user = namespace.user(&[]);
    let api: Api<Lease> = user.api(&cluster.url());
    for _ in 0..3 {
        assert_eq!(refused(namespace.block_on(api.get("lock"))), 403);
        user.set_verbs(&["get"]);
        assert_eq!(refused(namespace.block_on(api.get("lock"))), 404);
        user.set_verbs(&[]);
    }
}

fn an_unknown_user_is_refused(cluster: &Cluster) {
    let namespace = cluster.namespace("harness");
    let api: Api<Lease> = namespace.stranger().api(&cluster.url());
    assert_eq!(refused(namespace.block_on(api.get("lock"))), 401);
}

fn the_kubeconfig_leads_to_the_server(cluster: &Cluster) {
    let namespace = cluster.namespace("harness");
    let user = namespace.user_with(&[("", "configmaps", &["create"])]);
    assert!(user.name().starts_with("user-"));
    let path = user.kubeconfig(&cluster.url(), Some(namespace.name()));
    namespace.block_on(async {
        let kubeconfig = kube::config::Kubeconfig::read_from(path).expect("a kubeconfig");
        let options = Default::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let client = kube::Client::try_from(config.expect("usable")).expect("a client");
        let map = ConfigMap { metadata: new_lease("map").metadata, ..Default::default() };
        let api: Api<ConfigMap> = Api::default_namespaced(client);
        let map = api.create(&PostParams::default(), &map).await.expect("create");
        assert_eq!(map.namespace().as_deref(), Some(namespace.name()));
    });
}

fn a_replacement_survives_a_crowd(cluster: &Cluster) {
    let namespace = cluster.namespace("harness");
    namespace.create_lease(&new_lease("lock"));
    let increment = |lease: &mut Lease| {
        let count = &mut lease.spec.get_or_insert_default().lease_transitions;
        *count = Some(count.unwrap_or(0) + 1);
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| namespace.replace_lease("lock", increment));
        }
    });
    let lease = namespace.lease("lock").expect("the lease");
    assert_eq!(lease.spec.expect("its spec").lease_transitions, Some(4));
}

fn the_recorder_sees_each_change(cluster: &Cluster) {
    let namespace = cluster.namespace("harness");
    assert_eq!(namespace.lease("lock"), None);
    let begin = Instant::now();
    let events = namespace.watch_leases("lock");
    namespace.create_lease(&new_lease("another"));
    namespace.create_lease(&new_lease("lock"));
    namespace.replace_lease("lock", |lease| hold(lease, "first"));
    let patch = json!({ "spec": { "holderIdentity": "second" } });
    namespace.patch_lease_unconditionally("lock", &patch);
    namespace.delete_lease("lock");

    let mut last = begin;
    for expected in [
        (WatchEventKind::Added, None),
        (WatchEventKind::Modified, Some("first")),
        (WatchEventKind::Modified, Some("second")),
        (WatchEventKind::Deleted, Some("second")),
    ] {
        let (at, kind, lease) = events.recv_timeout(LONG).expect("an event");
        assert_eq!((kind, holder(&lease)), expected);
        assert!(last <= at && at <= Instant::now());
        last = at;
    }
    assert_eq!(events.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
}

fn the_proxy_passes_everything(cluster: &Cluster) {
    let namespace = cluster.namespace("harness");
    let proxy = Proxy::start(cluster);
    let api: Api<Lease> = namespace.user(CONTENDER).api(&proxy.url());
    let post = PostParams::default();
    namespace.block_on(async {
        let mut lease = api.create(&post, &new_lease("lock")).await.expect("create");
        let only = WatchParams::default().fields("metadata.name=lock");
        let version = lease.resource_version().expect("a version");
        let events = api.watch(&only, &version).await.expect("watch");
        let mut events = Box::pin(events);
        // Each event comes while the watch is open, not when it ends.
        for name in ["first", "second"] {
            hold(&mut lease, name);
            lease = api.replace("lock", &post, &lease).await.expect("update");
            match events.try_next().await.expect("an event") {
                Some(WatchEvent::Modified(seen)) => assert_eq!(seen, lease),
                other => panic!("not the update: {other:?}"),
            }
        }
        assert_eq!(api.get("lock").await.expect("get"), lease);
        assert_eq!(refused(api.get("none").await), 404);
    });

    let requests = proxy.requests();
    let seen: Vec<_> = requests.iter().map(|recorded| (recorded.request.method.as_str(), recorded.status)).collect();
    let expected = [
        ("POST", Some(201)),
        ("GET", Some(200)),
        ("PUT", Some(200)),
        ("PUT", Some(200)),
        ("GET", Some(200)),
        ("GET", Some(404)),
    ];
    assert_eq!(seen, expected);
    assert!(requests.is_sorted_by_key(|recorded| recorded.at));
    assert!(requests[1].request.is_watch() && !requests[4].request.is_watch());
    assert!(requests[4].request.path.ends_with("/leases/lock"));
}

fn a_cut_ends_connections_until_resumed(cluster: &Cluster) {
    let (namespace, proxy, api, lease) = behind_a_proxy(cluster);
    namespace.block_on(async {
        let version = lease.resource_version().expect("a version");
        let only = WatchParams::default().fields("metadata.name=lock");
        let events = api.watch(&only, &version).await.expect("watch");
        let mut events = Box::pin(events);
        proxy.cut();
        let ended = tokio::time::timeout(LONG, events.try_next()).await;
        let ended = ended.expect("the watch to end");
        assert!(matches!(ended, Ok(None) | Err(_)), "{ended:?}");
        let error = api.get("lock").await.expect_err("cut off");
        assert!(!matches!(error, kube::Error::Api(_)), "{error}");
        proxy.resume();
        api.get("lock").await.expect("get");
    });
}

fn a_pause_holds_bytes_until_resumed(cluster: &Cluster) {
    let (namespace, proxy, api, mut lease) = behind_a_proxy(cluster);
    namespace.block_on(api.get("lock")).expect("get");
    proxy.pause();
    hold(&mut lease, "late");
    let post = PostParams::default();
    namespace.block_on(async {
        // On the open connection, and on a new one. Nothing shows when a byte has arrived, so time must do.
        let write = api.replace("lock", &post, &lease);
        tokio::time::timeout(SHORT * 4, write).await.expect_err("silence");
        tokio::time::timeout(SHORT, api.get("lock")).await.expect_err("silence");
    });
    assert_eq!(proxy.requests().len(), 1);
    assert_eq!(namespace.lease("lock").as_ref().and_then(holder), None);

    // The client has given up, but what it sent still arrives.
    proxy.resume();
    wait_for("the late write", LONG, || {
        let lease = namespace.lease("lock")?;
        (holder(&lease) == Some("late")).then_some(())
    });
    namespace.block_on(api.get("lock")).expect("get");
}

fn a_delay_is_not_more_and_not_less(cluster: &Cluster) {
    let (namespace, proxy, api, lease) = behind_a_proxy(cluster);
    let version = lease.resource_version().expect("a version");
    let only = WatchParams::default().fields("metadata.name=lock");
    let events = namespace.block_on(api.watch(&only, &version));
    let mut events = Box::pin(events.expect("watch"));

    proxy.delay(SHORT);
    let begin = Instant::now();
    namespace.block_on(api.get("lock")).expect("get");
    let took = begin.elapsed();
    assert!(took >= SHORT && took < SHORT + LONG, "{took:?}");

    // Many events at once are late once, not each after the other.
    let begin = Instant::now();
    for number in 0..100 {
        namespace.replace_lease("lock", |lease| hold(lease, &number.to_string()));
    }
    let written = begin.elapsed();
    namespace.block_on(async {
        for _ in 0..100 {
            events.try_next().await.expect("an event").expect("an event");
        }
    });
    let took = begin.elapsed();
    assert!(took >= SHORT && took < written + SHORT + LONG, "{took:?}");

    proxy.delay(Duration::ZERO);
    namespace.block_on(api.get("lock")).expect("get");
}

/// A contender's attempt to take the lock, under way through a proxy with a fault for it.
struct Write {
    namespace: Namespace,
    proxy: Proxy,
    rule: Rule,
    api: Api<Lease>,
    writer: JoinHandle<kube::Result<Lease>>,
}

impl Write {
    fn begin(cluster: &Cluster, fault: Fault) -> Self {
        let (namespace, proxy, api, mut lease) = behind_a_proxy(cluster);
        let matcher = Matcher::new(|request| request.body.contains(r#""holderIdentity":"me""#));
        let rule = proxy.on(matcher, fault);
        hold(&mut lease, "me");
        let writer = api.clone();
        let writer = async move { writer.replace("lock", &PostParams::default(), &lease).await };
        let writer = namespace.spawn(writer);
        rule.wait_hits(1);
        Self { namespace, proxy, rule, api, writer }
    }

    fn holder(&self) -> Option<String> {
        holder(&self.namespace.lease("lock")?).map(String::from)
    }

    /// Waits until the API server has done it.
    fn committed(&self) {
        wait_for("the write", LONG, || self.proxy.requests()[0].committed);
        assert_eq!(self.holder().as_deref(), Some("me"));
    }

    fn is_silent(&mut self) -> bool {
        let answer = async { tokio::time::timeout(SHORT, &mut self.writer).await };
        self.namespace.block_on(answer).is_err()
    }

    fn answer(&mut self) -> kube::Result<Lease> {
        let answer = async { tokio::time::timeout(LONG, &mut self.writer).await };
        self.namespace.block_on(answer).expect("an answer").expect("no panic")
    }
}

fn a_dropped_response_was_committed(cluster: &Cluster) {
    let mut write = Write::begin(cluster, Fault::DropResponseAfterCommit);
    write.committed();
    assert!(write.is_silent());
    assert_eq!(write.proxy.requests()[0].status, None);
    // Only what matches is concerned.
    write.namespace.block_on(write.api.get("lock")).expect("get");
}

fn a_closed_request_was_committed(cluster: &Cluster) {
    let mut write = Write::begin(cluster, Fault::CloseAfterCommit);
    let error = write.answer().expect_err("no answer");
    assert!(!matches!(error, kube::Error::Api(_)), "{error}");
    write.committed();
}

fn answers_can_be_made_up(cluster: &Cluster) {
    let body = refusal(429, "TooManyRequests");
    let headers = &[("retry-after", "1")];
    let mut write = Write::begin(cluster, Fault::Answer { status: 429, headers, body });
    assert_eq!(refused(write.answer()), 429);
    assert_eq!(write.holder(), None);
    assert_eq!(write.proxy.requests()[0].committed, None);

    let body = refusal(504, "Timeout");
    let mut write = Write::begin(cluster, Fault::AnswerAfterCommit { status: 504, body });
    assert_eq!(refused(write.answer()), 504);
    write.committed();
}

fn a_held_request_arrives_late(cluster: &Cluster) {
    let mut write = Write::begin(cluster, Fault::Hold);
    assert!(write.is_silent());
    assert_eq!(write.holder(), None);
    // The client has given up, and its network is gone, but what it sent still arrives.
    write.writer.abort();
    write.proxy.cut();
    write.rule.release();
    write.committed();
}

fn a_request_that_was_answered_for_arrives_late(cluster: &Cluster) {
    let body = "gateway timeout".into();
    let mut write = Write::begin(cluster, Fault::AnswerThenHold { status: 504, headers: &[], body });
    let error = write.answer().expect_err("the gateway's answer");
    assert!(error.to_string().contains("gateway timeout"), "{error}");
    assert_eq!(write.holder(), None);
    write.proxy.cut();
    write.rule.release();
    write.committed();
}

fn a_held_response_was_committed(cluster: &Cluster) {
    let mut write = Write::begin(cluster, Fault::HoldResponse);
    write.committed();
    assert!(write.is_silent());
    write.rule.release();
    let lease = write.answer().expect("update");
    assert_eq!(holder(&lease), Some("me"));
}

fn requests_and_responses_can_be_late(cluster: &Cluster) {
    for fault in [Fault::DelayRequest(SHORT), Fault::DelayResponse(SHORT)] {
        let (namespace, proxy, api, _) = behind_a_proxy(cluster);
        let rule = proxy.on(Matcher::method("GET").first(1), fault);
        let begin = Instant::now();
        namespace.block_on(api.get("lock")).expect("get");
        assert!(begin.elapsed() >= SHORT);
        namespace.block_on(api.get("lock")).expect("get");
        assert_eq!(rule.hits(), 1);
    }
}
