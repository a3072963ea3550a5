//! What can go wrong with single requests on their way through a proxy, and with which of them.
#![allow(dead_code)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::support::wait_for;

/// What happens to a request.
pub enum Fault {
    /// The API server does it, and the client never hears of it: its connection stays open and silent.
    DropResponseAfterCommit,
    /// The API server does it, and the client's connection is closed without an answer.
    CloseAfterCommit,
    /// The API server never sees it: this is answered.
    Answer { status: u16, headers: &'static [(&'static str, &'static str)], body: String },
    /// The API server does it, but this is answered.
    AnswerAfterCommit { status: u16, body: String },
    /// This is answered at once, and the API server sees the request when the rule is released: a gateway has
    /// answered for it, and passes it on all the same.
    AnswerThenHold { status: u16, headers: &'static [(&'static str, &'static str)], body: String },
    /// The API server sees it later: also when the client has given up meanwhile, as in a real network.
    DelayRequest(Duration),
    /// The API server does it at once, but its answer comes later.
    DelayResponse(Duration),
    /// The API server sees it when the rule is released: also when the client has given up meanwhile.
    Hold,
    /// The API server does it at once, but its answer comes when the rule is released.
    HoldResponse,
}

/// A request, as a matcher sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// As sent, without the question mark; empty if there is none.
    pub query: String,
    pub body: String,
}

impl Seen {
    pub fn is_watch(&self) -> bool {
        let watch = |pair| matches!(pair, "watch=true" | "watch=1" | "watch");
        self.query.split('&').any(watch)
    }

    /// Whether it creates or updates a Lease.
    pub fn is_write(&self) -> bool {
        matches!(self.method.as_str(), "POST" | "PUT") && self.path.contains("/leases")
    }

    /// Whether it is a write of a Lease that names a holder.
    pub fn names_a_holder(&self) -> bool {
        self.is_write() && self.body.contains(r#""holderIdentity":""#) && !self.body.contains(r#""holderIdentity":"""#)
    }
}

/// Which requests a rule is for.
pub struct Matcher {
    test: Box<dyn Fn(&Seen) -> bool + Send + Sync>,
    times: usize,
}

impl Matcher {
    pub fn new(test: impl Fn(&Seen) -> bool + Send + Sync + 'static) -> Self {
        Self { test: Box::new(test), times: usize::MAX }
    }

    /// All requests of this method: `PUT` is every renewal.
    pub fn method(method: &'static str) -> Self {
        Self::new(move |request| request.method == method)
    }

    /// All creates and updates of the lock that name a holder: what acquires or renews it, and no release.
    pub fn names_a_holder() -> Self {
        Self::new(Seen::names_a_holder)
    }

    /// Only the first so many of them.
    pub fn first(self, times: usize) -> Self {
        Self { times, ..self }
    }
}

/// A matcher and its fault, in a proxy until it is released or the proxy ends.
#[derive(Clone)]
pub struct Rule(Arc<Inner>);

struct Inner {
    matcher: Matcher,
    fault: Fault,
    hits: AtomicUsize,
    released: watch::Sender<bool>,
}

impl Rule {
    pub(crate) fn new(matcher: Matcher, fault: Fault) -> Self {
        Self(Arc::new(Inner { matcher, fault, hits: AtomicUsize::new(0), released: watch::Sender::new(false) }))
    }

    /// How many requests it was applied to.
    pub fn hits(&self) -> usize {
        self.0.hits.load(Ordering::SeqCst)
    }

    /// Waits until it was applied to so many requests.
    pub fn wait_hits(&self, hits: usize) {
        let what = format!("{hits} requests that match");
        let enough = || (self.hits() >= hits).then_some(());
        wait_for(&what, Duration::from_secs(60), enough);
    }

    /// Ends the rule: what it holds goes on, and it is applied to nothing more.
    pub fn release(&self) {
        self.0.released.send_replace(true);
    }

    pub(crate) async fn released(&self) {
        let mut released = self.0.released.subscribe();
        // Its sender is in `self`, so this can't end early.
        let _ = released.wait_for(|released| *released).await;
    }

    pub(crate) fn fault(&self) -> &Fault {
        &self.0.fault
    }

    /// Whether it is to be applied to this request; then that counts as a hit.
    pub(crate) fn takes(&self, request: &Seen) -> bool {
        let Inner { matcher, hits, released, .. } = &*self.0;
        let count = |hits| (hits < matcher.times).then_some(hits + 1);
        !*released.borrow()
            && (matcher.test)(request)
            && hits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count).is_ok()
    }
}

/// The body with which the API server refuses a request.
pub fn refusal(status: u16, reason: &str) -> String {
    serde_json::json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": format!("{reason} (made up by a test)"),
        "reason": reason,
        "code": status,
    })
    .to_string()
}
