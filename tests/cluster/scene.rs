//! What the tests of leader-run itself have in common: a namespace, a user with the minimal Role, a lock
//! in it, and contenders.

use crate::apiserver::Cluster;
use crate::namespace::{Namespace, User, WatchEventKind};
use crate::proxy::Proxy;
use crate::support::{Contender, LONG, alone, leader_run};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use std::fmt::Debug;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The verbs of the minimal Role.
pub const MINIMAL: [&str; 4] = ["get", "create", "update", "watch"];
/// The same without watching.
pub const BLIND: [&str; 3] = ["get", "create", "update"];
/// The name of the lock.
pub const LOCK: &str = "work";

pub struct Scene {
    pub namespace: Namespace,
    pub user: User,
    url: String,
    folder: TempDir,
}

impl Scene {
    pub fn new(cluster: &Cluster, verbs: &[&str]) -> Scene {
        let namespace = cluster.namespace("scene");
        let user = namespace.user(verbs);
        Scene { namespace, user, url: cluster.url(), folder: tempfile::tempdir().unwrap() }
    }

    /// The command line of a contender that reaches the API server directly.
    pub fn command(&self, options: &[&str], child: &[String]) -> Command {
        self.command_at(&self.url, options, child)
    }

    /// The same, at this address of it.
    pub fn command_at(&self, server: &str, options: &[&str], child: &[String]) -> Command {
        let mut command = leader_run();
        command.arg("--kubeconfig").arg(self.user.kubeconfig(server, Some(self.namespace.name())));
        command.args(["--name", LOCK]).args(options).arg("--").args(child);
        command
    }

    pub fn oracle(&self) -> PathBuf {
        self.folder.path().join("oracle")
    }

    /// A contender whose child proves that it is alone, then does this.
    pub fn contender(&self, options: &[&str], script: &str) -> Contender {
        Contender::start(&mut self.command(options, &alone(&self.oracle(), script)))
    }

    /// The same, behind a proxy.
    pub fn behind(&self, proxy: &Proxy, options: &[&str], script: &str) -> Contender {
        Contender::start(&mut self.command_at(&proxy.url(), options, &alone(&self.oracle(), script)))
    }

    pub fn lease(&self) -> Lease {
        self.namespace.lease(LOCK).expect("the lease is there")
    }

    pub fn spec(&self) -> LeaseSpec {
        self.lease().spec.expect("a spec")
    }

    /// Who holds the lock; empty when nobody does.
    pub fn holder(&self) -> String {
        self.namespace.lease(LOCK).map(|lease| holder(&lease)).unwrap_or_default()
    }

    /// Writes another holder into the lock, as a client does that does not ask.
    pub fn steal(&self) -> Instant {
        self.namespace.replace_lease(LOCK, |lease| {
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = Some("somebody-else".into());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default() + 1);
        });
        Instant::now()
    }
}

pub fn holder(lease: &Lease) -> String {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default()
}

/// A change of the lease, as a recorder saw it.
pub type Recorded = (Instant, WatchEventKind, Lease);

/// The first recorded change that is like this.
pub fn wait_change(changes: &Receiver<Recorded>, what: &str, like: impl Fn(&Lease) -> bool) -> Recorded {
    let end = Instant::now() + LONG;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match changes.recv_timeout(left) {
            Ok(change) if like(&change.2) => return change,
            Ok(_) => {}
            Err(error) => panic!("waited in vain for {what}: {error}"),
        }
    }
}

/// Runs all cases side by side, and fails with what failed in each of them.
pub fn side_by_side<T: Debug + Sync>(cases: &[T], run: impl Fn(&T) + Sync) {
    let failed: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = cases.iter().map(|case| (case, scope.spawn(|| run(case)))).collect();
        let outcomes = running.into_iter().map(|(case, thread)| (case, thread.join()));
        outcomes.filter_map(|(case, outcome)| Some((case, outcome.err()?))).collect()
    });
    let reasons = failed.iter().map(|(case, panic)| {
        let reason = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref().copied());
        format!("\n{case:?}: {}", reason.unwrap_or_default())
    });
    assert!(failed.is_empty(), "{} of {} cases failed:{}", failed.len(), cases.len(), reasons.collect::<String>());
}

/// Says so in the test's output, with figures for people.
pub fn figure(what: &str, took: Duration) {
    eprintln!("figure: {what}: {:.1} ms", took.as_secs_f64() * 1000.0);
}
