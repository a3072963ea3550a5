//! Tests of the server within the tests, so that the rows can rely on it.

use crate::conformance::CHECKS;
use crate::proxy::Proxy;
use crate::server::{NAMESPACE, Server, TOKEN};
use crate::support::{LONG, wait_for};
use futures_util::TryStreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{PostParams, WatchEvent, WatchParams};
use libtest_mimic::Trial;
use serde_json::json;
use std::thread;

/// All of them. They fail by panicking.
pub fn trials() -> Vec<Trial> {
    let checks = CHECKS.iter().map(|(name, check)| {
        Trial::test(format!("server::{name}"), move || {
            let server = Server::start();
            server.block_on(check(leases(&server)));
            Ok(())
        })
    });
    let own: [(&str, fn()); 7] = [
        ("unknown_fields_are_kept", unknown_fields_are_kept),
        ("strangers_are_refused", strangers_are_refused),
        ("a_restart_keeps_the_port_and_the_leases", a_restart_keeps_the_port_and_the_leases),
        ("a_watch_from_a_forgotten_version_is_told_so", a_watch_from_a_forgotten_version_is_told_so),
        ("stale_answers_are_of_gets_only", stale_answers_are_of_gets_only),
        ("a_restored_state_has_the_old_versions", a_restored_state_has_the_old_versions),
        ("a_crowd_writes_one_after_the_other", a_crowd_writes_one_after_the_other),
    ];
    let own = own.into_iter().map(|(name, test)| {
        Trial::test(format!("server::{name}"), move || {
            test();
            Ok(())
        })
    });
    checks.chain(own).collect()
}

fn leases(server: &Server) -> Api<Lease> {
    Api::namespaced(server.client(TOKEN), NAMESPACE)
}

fn held(holder: &str) -> Lease {
    serde_json::from_value(json!({"metadata": {"name": "lock"}, "spec": {"holderIdentity": holder}})).unwrap()
}

fn code<T>(result: kube::Result<T>) -> u16 {
    match result.map(drop) {
        Err(kube::Error::Api(status)) => status.code,
        Err(_) => 0,
        Ok(()) => 200,
    }
}

fn unknown_fields_are_kept() {
    let server = Server::start();
    server.change("lock", |lease| lease["spec"] = json!({"later": [1], "holderIdentity": null}));
    let before = server.lease("lock").unwrap();
    let mut written = before.clone();
    written["spec"]["holderIdentity"] = "me".into();
    let url = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/lock");
    let request = http::Request::put(url).body(written.to_string().into_bytes()).unwrap();
    let answer: serde_json::Value = server.block_on(server.client(TOKEN).request(request)).unwrap();
    assert_eq!(answer, server.lease("lock").unwrap());
    assert_eq!((&answer["spec"], &answer["metadata"]["uid"]), (&written["spec"], &before["metadata"]["uid"]));
}

fn strangers_are_refused() {
    let server = Server::start();
    server.admit("blind", "blind", Some(&["get"]));
    let get = |token: &str| {
        let api: Api<Lease> = Api::namespaced(server.client(token), NAMESPACE);
        server.block_on(async {
            (code(api.get("lock").await), code(api.create(&PostParams::default(), &held("a")).await))
        })
    };
    assert_eq!(get("nobody"), (401, 401));
    assert_eq!(get("blind"), (404, 403));
    assert_eq!(get(TOKEN), (404, 200));
    server.expel(TOKEN);
    assert_eq!(get(TOKEN), (401, 401));
    assert!(server.saw("nobody") && !server.saw("somebody"));
}

fn a_restart_keeps_the_port_and_the_leases() {
    let server = Server::start();
    let api = leases(&server);
    let created = server.block_on(api.create(&PostParams::default(), &held("a"))).unwrap();
    let events = server.block_on(api.watch(&WatchParams::default(), "0")).unwrap();
    let mut events = Box::pin(events);
    server.block_on(events.try_next()).unwrap();
    server.stop();
    let ended = server.block_on(async { tokio::time::timeout(LONG, events.try_next()).await.expect("its end") });
    assert!(matches!(ended, Ok(None) | Err(_)), "{ended:?}");
    assert_eq!(code(server.block_on(api.get("lock"))), 0);
    assert!(std::net::TcpStream::connect(server.url().strip_prefix("https://").unwrap()).is_err());
    server.listen();
    assert_eq!(server.block_on(api.get("lock")).unwrap(), created);
}

fn a_watch_from_a_forgotten_version_is_told_so() {
    let server = Server::start();
    let api = leases(&server);
    let first = server.block_on(api.create(&PostParams::default(), &held("a"))).unwrap();
    server.change("lock", |lease| lease["spec"]["holderIdentity"] = "b".into());
    server.compact();
    let version = first.metadata.resource_version.unwrap();
    server.block_on(async {
        let mut events = Box::pin(api.watch(&WatchParams::default(), &version).await.unwrap());
        let event = events.try_next().await.unwrap();
        assert!(matches!(&event, Some(WatchEvent::Error(status)) if status.code == 410), "{event:?}");
        assert!(events.try_next().await.unwrap().is_none());
    });
}

fn stale_answers_are_of_gets_only() {
    let server = Server::start();
    let api = leases(&server);
    server.block_on(api.create(&PostParams::default(), &held("a"))).unwrap();
    let earlier = server.snapshot();
    server.change("lock", |lease| lease["spec"]["holderIdentity"] = "b".into());
    server.serve_stale(Some(&earlier));
    let mut stale = server.block_on(api.get("lock")).unwrap();
    let holder = |lease: &Lease| lease.spec.clone().unwrap().holder_identity.unwrap();
    assert_eq!(holder(&stale), "a");
    stale.spec.get_or_insert_default().holder_identity = Some("c".into());
    assert_eq!(code(server.block_on(api.replace("lock", &PostParams::default(), &stale))), 409);
    server.serve_stale(None);
    assert_eq!(holder(&server.block_on(api.get("lock")).unwrap()), "b");
}

fn a_restored_state_has_the_old_versions() {
    let server = Server::start();
    let api = leases(&server);
    let first = server.block_on(api.create(&PostParams::default(), &held("a"))).unwrap();
    let earlier = server.snapshot();
    server.change("lock", |lease| lease["spec"]["holderIdentity"] = "b".into());
    server.restore(&earlier);
    assert_eq!(server.block_on(api.get("lock")).unwrap(), first);
    server.change("lock", |lease| lease["spec"]["holderIdentity"] = "c".into());
    assert_eq!(server.snapshot().revision, earlier.revision + 1);
}

/// Through a proxy, as all rows are.
fn a_crowd_writes_one_after_the_other() {
    let server = Server::start();
    let proxy = Proxy::start(&server);
    let config = server.config(&proxy.url(), TOKEN).to_string();
    server.block_on(leases(&server).create(&PostParams::default(), &held("0"))).unwrap();
    let write = || {
        let config = kube::config::Kubeconfig::from_yaml(&config).unwrap();
        server.block_on(async {
            let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
            let api: Api<Lease> = Api::namespaced(kube::Client::try_from(config).unwrap(), NAMESPACE);
            for _ in 0..10 {
                loop {
                    let mut lease = api.get("lock").await.unwrap();
                    let holder = lease.spec.get_or_insert_default().holder_identity.get_or_insert_default();
                    *holder = (holder.parse::<u32>().unwrap() + 1).to_string();
                    if code(api.replace("lock", &PostParams::default(), &lease).await) == 200 {
                        break;
                    }
                }
            }
        });
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(write);
        }
    });
    wait_for("every write", LONG, || (server.holder("lock") == "40").then_some(()));
}
