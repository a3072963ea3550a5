//! What the cells have in common: a lock of their own, leader-run and another client as contenders for it, and
//! all that was written to it.

use crate::apiserver::Cluster;
use crate::namespace::{Grant, Namespace, User, WatchEventKind};
use crate::proxy::{Proxy, Recorded};
use crate::record::{KEY, check_annotation, check_spec};
use crate::support::{Contender, LONG, Line, POLITE, SHORT, alone, leader_run, started_by, wait_for};
use crate::table::Peer;
use k8s_openapi::api::coordination::v1;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints};
use nix::libc::SIGKILL;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The name of the lock.
pub const LOCK: &str = "work";
/// Of all contenders, in seconds.
pub const SECONDS: u32 = 6;
pub const L: Duration = Duration::from_secs(SECONDS as u64);
const VERBS: [&str; 4] = ["get", "create", "update", "watch"];
const ALL_VERBS: [&str; 7] = ["get", "list", "watch", "create", "update", "patch", "delete"];
/// Has the kernel kill a contender when we die, however that happens.
const WITH_US: [&str; 4] = ["setpriv", "--pdeathsig", "KILL", "--"];
/// A child of another client: it is there as long as that is.
pub const WORK: &str = "exec 8<<<x 8<>/proc/self/fd/8; while [ -d /proc/$PPID ]; do read -t 0.2 <&8; done";
/// How the identities of ours begin.
pub const OURS: &str = "ours-";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    Lease,
    ConfigMap,
    Endpoints,
    ConfigMapsLeases,
    EndpointsLeases,
}

/// A kind of object that has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Lease,
    ConfigMap,
    Endpoints,
}

impl Lock {
    pub fn name(self) -> &'static str {
        match self {
            Lock::Lease => "lease",
            Lock::ConfigMap => "configmap",
            Lock::Endpoints => "endpoints",
            Lock::ConfigMapsLeases => "configmapsleases",
            Lock::EndpointsLeases => "endpointsleases",
        }
    }

    /// The objects, in the order in which they are written.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Lock::Lease => &[Kind::Lease],
            Lock::ConfigMap => &[Kind::ConfigMap],
            Lock::Endpoints => &[Kind::Endpoints],
            Lock::ConfigMapsLeases => &[Kind::ConfigMap, Kind::Lease],
            Lock::EndpointsLeases => &[Kind::Endpoints, Kind::Lease],
        }
    }
}

/// A lock that no other test shares.
pub struct Scene<'a> {
    cluster: &'a Cluster,
    pub namespace: Namespace,
    ours: User,
    blind: User,
    theirs: User,
    folder: TempDir,
    /// What the contenders started from now on find in their environment.
    pub env: Vec<(&'static str, PathBuf)>,
}

impl Scene<'_> {
    pub fn new(cluster: &Cluster) -> Scene<'_> {
        let namespace = cluster.namespace("peers");
        let user = |verbs| {
            let grants: [Grant; 4] = [
                ("coordination.k8s.io", "leases", verbs),
                ("", "configmaps", verbs),
                ("", "endpoints", verbs),
                ("", "events", &["create", "patch"]),
            ];
            namespace.user_with(&grants)
        };
        let (ours, blind, theirs) = (user(&VERBS), user(&VERBS[..3]), user(&ALL_VERBS));
        Scene {
            cluster,
            namespace,
            ours,
            blind,
            theirs,
            folder: tempfile::tempdir().expect("a folder"),
            env: Vec::new(),
        }
    }

    /// leader-run, with a child that proves that it is alone.
    pub fn ours(&self, lock: Lock, identity: &str) -> Party {
        self.leader_run(&self.ours, lock, identity)
    }

    /// The same without the right to watch: it polls as others do, so it is no faster than they are.
    pub fn ours_polling(&self, lock: Lock, identity: &str) -> Party {
        self.leader_run(&self.blind, lock, identity)
    }

    fn leader_run(&self, user: &User, lock: Lock, identity: &str) -> Party {
        let mut command = leader_run();
        command.arg("--kubeconfig").arg(user.kubeconfig(&self.cluster.url(), Some(self.namespace.name())));
        // A crash is to be one of the whole machine.
        command.args(["--lock", lock.name(), "--name", LOCK, "--identity", identity, "-v", "--no-crash-release"]);
        command.args(SHORT);
        command.arg("--").args(alone(&self.oracle(), POLITE)).envs(self.env.clone());
        let contender = Contender::start(&mut started_by(&WITH_US, &command));
        Party { contender, group: false, proxy: None, identity: identity.into() }
    }

    /// Another client, behind a proxy, with the same child.
    pub fn theirs(&self, peer: &Peer, lock: Lock, identity: &str) -> Party {
        self.theirs_with(peer, lock, identity, &alone(&self.oracle(), WORK))
    }

    /// The same with any child.
    pub fn theirs_with(&self, peer: &Peer, lock: Lock, identity: &str, child: &[String]) -> Party {
        let proxy = Proxy::start(self.cluster);
        let mut party = self.start(peer, lock, identity, &proxy.url(), child);
        party.proxy = Some(proxy);
        party
    }

    /// Another client that reaches the API server directly.
    pub fn theirs_direct(&self, peer: &Peer, lock: Lock, identity: &str) -> Party {
        self.start(peer, lock, identity, &self.cluster.url(), &alone(&self.oracle(), WORK))
    }

    fn start(&self, peer: &Peer, lock: Lock, identity: &str, url: &str, child: &[String]) -> Party {
        let mut command = Command::new(programs().join(peer.name));
        command.args(child);
        command.env("KUBECONFIG", self.theirs.kubeconfig(url, Some(self.namespace.name())));
        command.env("LOCK", lock.name()).env("NAMESPACE", self.namespace.name()).env("NAME", LOCK);
        command.env("IDENTITY", identity).env("LEASE_DURATION", SECONDS.to_string());
        command.env("RENEW_DEADLINE", "4").env("RETRY_PERIOD", "1").envs(self.env.clone());
        let contender = Contender::start(started_by(&WITH_US, &command).process_group(0));
        Party { contender, group: true, proxy: None, identity: identity.into() }
    }

    pub fn oracle(&self) -> PathBuf {
        self.folder.path().join("oracle")
    }

    /// How often a child was not alone.
    pub fn overlaps(&self) -> usize {
        fs::read_to_string(self.oracle()).unwrap_or_default().matches("OVERLAP").count()
    }

    /// Makes a Lease without a record.
    pub fn create_lease(&self) {
        let lease = json!({"metadata": {"name": LOCK}});
        self.namespace.create_lease(&serde_json::from_value(lease).expect("a lease"));
    }

    pub fn records(&self, lock: Lock) -> Records {
        let watch = |kind: &Kind| (*kind, self.watch(*kind));
        Records { lock, changes: lock.kinds().iter().map(watch).collect(), seen: Vec::new() }
    }

    /// Of a Lease the spec, of the others the text of the annotation.
    fn watch(&self, kind: Kind) -> Changes {
        let text = |annotations: Option<BTreeMap<String, String>>| {
            annotations.and_then(|mut annotations| annotations.remove(KEY)).map_or(Value::Null, Value::from)
        };
        let spec = |lease: v1::Lease| serde_json::to_value(lease.spec).expect("JSON");
        match kind {
            Kind::Lease => self.namespace.watch(LOCK, spec),
            Kind::ConfigMap => self.namespace.watch(LOCK, move |object: ConfigMap| text(object.metadata.annotations)),
            Kind::Endpoints => self.namespace.watch(LOCK, move |object: Endpoints| text(object.metadata.annotations)),
        }
    }
}

/// The folder with the executables of the other clients, built first where need be.
pub fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/assets");
        let output = Command::new(script).stderr(Stdio::inherit()).output().expect("run tests/peers/assets");
        assert!(output.status.success(), "tests/peers/assets failed");
        PathBuf::from(String::from_utf8(output.stdout).expect("a folder's name").trim_end())
    })
}

/// A contender, ours or another client's. All of it is ended when dropped.
pub struct Party {
    contender: Contender,
    pub identity: String,
    /// Where it is another client: it and its child are a process group, behind this proxy.
    group: bool,
    pub proxy: Option<Proxy>,
}

impl Party {
    /// The first word of its child, if that has begun.
    pub fn leads(&self) -> Option<Line> {
        self.lines().into_iter().find(|line| line.text == "start" || line.text.starts_with("start "))
    }

    /// When its child has begun.
    pub fn wait_leads(&self) -> Instant {
        self.wait_until("leads", || self.leads().map(|line| line.at))
    }

    /// Whether it has looked at the lock.
    pub fn contends(&self) -> bool {
        match &self.proxy {
            Some(_) => self.looks() > 0,
            None => self.leads().is_some() || self.line("waiting: ").is_some(),
        }
    }

    /// How often another client has read the lock.
    pub fn looks(&self) -> usize {
        let requests = self.proxy.as_ref().map(Proxy::requests).unwrap_or_default();
        let look = |seen: &&Recorded| seen.request.method == "GET" && seen.request.path.ends_with(LOCK);
        requests.iter().filter(look).filter(|seen| seen.status.is_some()).count()
    }

    /// When it has, in vain.
    pub fn wait_contends(&self) -> Instant {
        self.wait_until("contends", || self.contends().then(Instant::now))
    }

    pub fn wait_looks(&self, times: usize) {
        self.wait_until("has looked often enough", || (self.looks() >= times).then_some(()));
    }

    /// Waits for it, and tells what was said instead when that is in vain.
    fn wait_until<T>(&self, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + LONG;
        let over = || (Instant::now() > end).then(|| panic!("not: {} {what}\n{}", self.identity, self.said()));
        wait_for(what, 2 * LONG, || probe().or_else(over))
    }

    /// Kills it, so that it can do nothing any more: leader-run's child is the guard's to kill.
    pub fn crash(&mut self) -> Instant {
        let at = Instant::now();
        if self.group {
            self.kill_group();
        } else {
            self.signal(SIGKILL);
        }
        self.wait();
        at
    }

    fn kill_group(&self) {
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
    }
}

impl Deref for Party {
    type Target = Contender;

    fn deref(&self) -> &Contender {
        &self.contender
    }
}

impl DerefMut for Party {
    fn deref_mut(&mut self) -> &mut Contender {
        &mut self.contender
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        if self.group && self.contender.is_running() {
            self.kill_group();
        }
    }
}

type Changes = Receiver<(Instant, WatchEventKind, Value)>;

/// What was written to the objects of a lock.
pub struct Records {
    lock: Lock,
    changes: Vec<(Kind, Changes)>,
    seen: Vec<Seen>,
}

/// A record, and when it was there.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    kind: Kind,
    /// As written.
    raw: Value,
    /// What that says.
    record: Value,
}

impl Seen {
    pub fn holder(&self) -> &str {
        self.record["holderIdentity"].as_str().unwrap_or_default()
    }

    pub fn is_ours(&self) -> bool {
        self.holder().starts_with(OURS)
    }

    /// As written.
    pub fn renew_time(&self) -> &str {
        self.record["renewTime"].as_str().unwrap_or_default()
    }

    pub fn transitions(&self) -> Option<u64> {
        self.record["leaseTransitions"].as_u64().or(self.record["leaderTransitions"].as_u64())
    }

    /// Its fields have to be as others need them; returns its transitions.
    pub fn check_fields(&self, holder: &str, seconds: u32) -> u64 {
        match self.kind {
            Kind::Lease => check_spec(&self.raw, holder, seconds),
            _ => check_annotation(self.raw.as_str().expect("an annotation"), holder, seconds),
        }
    }
}

impl Records {
    /// All so far.
    pub fn seen(&mut self) -> &[Seen] {
        for (kind, changes) in &self.changes {
            for (at, what, raw) in changes.try_iter() {
                let record = raw.as_str().map_or(raw.clone(), |text| serde_json::from_str(text).unwrap_or_default());
                let gone = what == WatchEventKind::Deleted;
                let (raw, record) = if gone { (Value::Null, Value::Null) } else { (raw, record) };
                self.seen.push(Seen { at, kind: *kind, raw, record });
            }
        }
        &self.seen
    }

    /// A record with this holder that is written from now on.
    pub fn wait_next(&mut self, holder: &str) -> Seen {
        let known = self.seen().len();
        wait_for(&format!("a record of {holder:?}"), LONG, || {
            self.seen()[known..].iter().find(|seen| seen.holder() == holder).cloned()
        })
    }

    /// The last record with this holder, as soon as there is one.
    pub fn last(&mut self, holder: &str) -> Seen {
        wait_for(&format!("a record of {holder:?}"), LONG, || {
            self.seen().iter().rfind(|seen| seen.holder() == holder).cloned()
        })
    }

    /// When nobody holds the lock.
    pub fn wait_free(&mut self) {
        wait_for("a release", LONG, || {
            self.seen();
            let free = |(kind, _): &(Kind, _)| {
                self.seen.iter().rfind(|seen| seen.kind == *kind).is_none_or(|last| last.holder().is_empty())
            };
            self.changes.iter().all(free).then_some(())
        });
    }

    /// Every record that we have written has to be as others need it. Returns how many those were.
    pub fn check(&mut self) -> usize {
        self.seen();
        let mut ours = 0;
        for (kind, _) in &self.changes {
            let mut before: Option<&Seen> = None;
            for seen in self.seen.iter().filter(|seen| seen.kind == *kind) {
                ours += usize::from(self.check_next(before, seen));
                before = Some(seen);
            }
        }
        ours
    }

    fn drops_transitions(&self) -> bool {
        self.seen.iter().any(|seen| !seen.holder().is_empty() && seen.transitions().is_none())
    }

    /// Whether this one is of our making.
    fn check_next(&self, before: Option<&Seen>, seen: &Seen) -> bool {
        let before_was = before.and_then(Seen::transitions);
        let text = format!("{before:?}\n{seen:?}");
        if seen.is_ours() {
            let now = seen.check_fields(seen.holder(), SECONDS);
            match (before, before_was) {
                (Some(before), _) if before.holder() == seen.holder() => {
                    assert_eq!(before.record["acquireTime"], seen.record["acquireTime"], "{text}");
                    assert_ne!(before.record["renewTime"], seen.record["renewTime"], "{text}");
                    assert_eq!(before_was, Some(now), "{text}");
                }
                // One half may have been left behind by a contender that was killed between the two, and who saw more
                // before another client dropped the transitions counts on from there.
                (_, Some(was)) if self.lock.kinds().len() > 1 || self.drops_transitions() => {
                    assert!(now > was, "{text}");
                }
                (_, Some(was)) => assert_eq!(now, was + 1, "{text}"),
                (_, None) => {}
            }
            return true;
        }
        let released = seen.holder().is_empty() && seen.raw != Value::Null && before.is_some_and(Seen::is_ours);
        if released {
            assert_eq!(Some(seen.check_fields("", 1)), before_was, "{text}");
        }
        released
    }
}
