//! What a Lease API does, asked by a kube client: the tests of the server within the tests, and of the real
//! one too, so that what the first one is believed to imitate is true.

use std::{future::Future, pin::Pin, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams, WatchEvent, WatchParams},
};
use tokio::time::timeout;

/// A check and its name. It needs a namespace of its own, and fails by panicking.
pub type Check = (&'static str, fn(Api<Lease>) -> Pin<Box<dyn Future<Output = ()> + Send>>);

pub const CHECKS: &[Check] = &[
    ("a_write_is_conditional_on_version_and_uid", |api| Box::pin(conditional_writes(api))),
    ("an_update_without_a_version", |api| Box::pin(updates_without_a_version(api))),
    ("a_create_of_what_is_there", |api| Box::pin(creates(api))),
    ("a_deletion_ends_the_object_and_its_uid", |api| Box::pin(deletions(api))),
    ("versions_grow_as_numbers_and_only_with_changes", |api| Box::pin(versions(api))),
    ("a_watch_begins_where_it_is_asked_to", |api| Box::pin(watches(api))),
    ("a_watch_ends_when_its_time_is_over", |api| Box::pin(watch_ends(api))),
];

const LONG: Duration = Duration::from_secs(30);

fn lease(holder: &str) -> Lease {
    let spec = LeaseSpec { holder_identity: Some(holder.into()), ..Default::default() };
    Lease { metadata: ObjectMeta { name: Some("lock".into()), ..Default::default() }, spec: Some(spec) }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// The code and reason of the refusal that this must be.
fn refused<T>(result: kube::Result<T>) -> (u16, String) {
    match result.map(drop) {
        Err(kube::Error::Api(status)) => (status.code, status.reason),
        other => panic!("not refused: {other:?}"),
    }
}

fn is(code: u16, reason: &str) -> (u16, String) {
    (code, reason.into())
}

async fn conditional_writes(api: Api<Lease>) {
    let post = PostParams::default();
    assert_eq!(refused(api.get("lock").await), is(404, "NotFound"));
    let first = api.create(&post, &lease("a")).await.unwrap();
    let mut second = first.clone();
    second.spec = lease("b").spec;
    let second = api.replace("lock", &post, &second).await.unwrap();
    assert_eq!((holder(&second), second.uid()), ("b", first.uid()));
    // An earlier version, and another object.
    assert_eq!(refused(api.replace("lock", &post, &first).await), is(409, "Conflict"));
    let mut other = second.clone();
    other.metadata.uid = Some("00000000-0000-4000-8000-00000000abcd".into());
    assert_eq!(refused(api.replace("lock", &post, &other).await), is(409, "Conflict"));
    assert_eq!(api.get("lock").await.unwrap(), second);
    // What the server knows better is kept.
    let mut bare = lease("c");
    bare.metadata.resource_version = second.resource_version();
    let third = api.replace("lock", &post, &bare).await.unwrap();
    assert_eq!((third.uid(), third.creation_timestamp()), (first.uid(), first.creation_timestamp()));
    let mut invalid = third.clone();
    invalid.spec.get_or_insert_default().lease_duration_seconds = Some(0);
    assert_eq!(refused(api.replace("lock", &post, &invalid).await), is(422, "Invalid"));
    let mut renamed = third.clone();
    renamed.metadata.name = Some("another".into());
    assert_eq!(refused(api.replace("lock", &post, &renamed).await), is(400, "BadRequest"));
}

async fn updates_without_a_version(api: Api<Lease>) {
    let post = PostParams::default();
    // It creates what is not there.
    let created = api.replace("lock", &post, &lease("a")).await.unwrap();
    assert!(created.uid().is_some());
    assert_eq!(refused(api.replace("lock", &post, &lease("b")).await), is(422, "Invalid"));
    assert_eq!(holder(&api.get("lock").await.unwrap()), "a");
}

async fn creates(api: Api<Lease>) {
    let post = PostParams::default();
    api.create(&post, &lease("a")).await.unwrap();
    assert_eq!(refused(api.create(&post, &lease("b")).await), is(409, "AlreadyExists"));
    assert_eq!(holder(&api.get("lock").await.unwrap()), "a");
}

async fn deletions(api: Api<Lease>) {
    let (post, delete) = (PostParams::default(), DeleteParams::default());
    assert_eq!(refused(api.delete("lock", &delete).await), is(404, "NotFound"));
    let first = api.create(&post, &lease("a")).await.unwrap();
    api.delete("lock", &delete).await.unwrap();
    assert_eq!(refused(api.get("lock").await), is(404, "NotFound"));
    let gone = refused(api.replace("lock", &post, &first).await);
    assert!([404, 409].contains(&gone.0), "{gone:?}");
    let second = api.create(&post, &lease("a")).await.unwrap();
    assert_ne!(first.uid(), second.uid());
    assert_eq!(refused(api.replace("lock", &post, &first).await), is(409, "Conflict"));
}

fn version(lease: &Lease) -> u64 {
    lease.resource_version().unwrap().parse().unwrap()
}

async fn versions(api: Api<Lease>) {
    let post = PostParams::default();
    let first = api.create(&post, &lease("a")).await.unwrap();
    let same = api.replace("lock", &post, &first).await.unwrap();
    assert_eq!(version(&first), version(&same));
    let mut second = first.clone();
    second.spec = lease("b").spec;
    let second = api.replace("lock", &post, &second).await.unwrap();
    assert!(version(&second) > version(&first));
    assert_eq!(version(&api.get("lock").await.unwrap()), version(&second));
}

type Events = BoxStream<'static, kube::Result<WatchEvent<Lease>>>;

async fn watch(api: &Api<Lease>, from: &str) -> Events {
    let only = WatchParams::default().fields("metadata.name=lock");
    api.watch(&only, from).await.unwrap().boxed()
}

/// What is said next that is no bookmark: `ADDED a`.
async fn said(events: &mut Events) -> String {
    loop {
        let next = timeout(LONG, events.try_next()).await.expect("an event in time");
        return match next.unwrap().expect("an event") {
            WatchEvent::Added(lease) => format!("ADDED {}", holder(&lease)),
            WatchEvent::Modified(lease) => format!("MODIFIED {}", holder(&lease)),
            WatchEvent::Deleted(lease) => format!("DELETED {}", holder(&lease)),
            WatchEvent::Error(status) => format!("ERROR {}", status.code),
            WatchEvent::Bookmark(_) => continue,
        };
    }
}

async fn watches(api: Api<Lease>) {
    let post = PostParams::default();
    let mut early = watch(&api, "0").await;
    let first = api.create(&post, &lease("a")).await.unwrap();
    let mut other = lease("x");
    other.metadata.name = Some("another".into());
    api.create(&post, &other).await.unwrap();
    let mut second = first.clone();
    second.spec = lease("b").spec;
    api.replace("lock", &post, &second).await.unwrap();

    for expected in ["ADDED a", "MODIFIED b"] {
        assert_eq!(said(&mut early).await, expected);
    }
    let mut after = watch(&api, &first.resource_version().unwrap()).await;
    assert_eq!(said(&mut after).await, "MODIFIED b");
    let mut late = watch(&api, "0").await;
    assert_eq!(said(&mut late).await, "ADDED b");
    api.delete("lock", &DeleteParams::default()).await.unwrap();
    for events in [&mut early, &mut after, &mut late] {
        assert_eq!(said(events).await, "DELETED b");
    }
    assert!(timeout(Duration::from_millis(200), said(&mut late)).await.is_err(), "the other Lease is not asked for");
}

async fn watch_ends(api: Api<Lease>) {
    let only = WatchParams::default().fields("metadata.name=lock").timeout(1);
    let mut events = api.watch(&only, "0").await.unwrap().boxed();
    // Bookmarks may come before the end.
    let rest = async { while events.try_next().await.unwrap().is_some() {} };
    timeout(LONG, rest).await.expect("the end of the watch");
}
