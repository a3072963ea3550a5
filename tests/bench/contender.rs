//! Contenders for one lock, leader-run's or client-go's, with the same child.

use crate::namespace::{Namespace, User, WatchEventKind};
use crate::scene::{Scene, at};
use crate::support::{Contender, LONG, children, kill_at_once, wait_for};
use k8s_openapi::api::coordination::v1::Lease;
use nix::libc::SIGKILL;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Has the kernel kill a contender when we die, however that happens.
const WITH_US: [&str; 4] = ["setpriv", "--pdeathsig", "KILL", "--"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    LeaderRun,
    ClientGo,
}

/// L, and with it R and P as each kind has them by default.
#[derive(Clone, Copy)]
pub enum Timing {
    /// 15 s, 10 s and 2 s.
    Default,
    /// 3 s, and P 1 s, so that a run does not take long.
    Short,
}

impl Timing {
    pub fn lease(self) -> Duration {
        match self {
            Timing::Default => Duration::from_secs(15),
            Timing::Short => Duration::from_secs(3),
        }
    }

    /// L, R and P in whole seconds.
    pub fn of_client_go(self) -> [(&'static str, &'static str); 3] {
        let [lease, renew, retry] = match self {
            Timing::Default => ["15", "10", "2"],
            Timing::Short => ["3", "2", "1"],
        };
        [("LEASE_DURATION", lease), ("RENEW_DEADLINE", renew), ("RETRY_PERIOD", retry)]
    }
}

/// The program as it is released.
pub fn leader_run() -> PathBuf {
    std::env::var_os("RELEASE").expect("start this by tests/bench/run").into()
}

pub fn client_go(program: &str) -> PathBuf {
    let folder = std::env::var_os("PEERS").expect("start this by tests/bench/run");
    PathBuf::from(folder).join(program)
}

/// One lock after the other, in a namespace of its own, and who contends for it.
pub struct Ground<'a> {
    scene: &'a Scene,
    pub kind: Kind,
    timing: Timing,
    pub namespace: Namespace,
    user: User,
    started: usize,
}

impl Ground<'_> {
    pub fn new(scene: &Scene, kind: Kind, timing: Timing) -> Ground<'_> {
        let namespace = scene.cluster.namespace("bench");
        let verbs: &[&str] = &["get", "create", "update", "watch"];
        let user = namespace.user_with(&[("coordination.k8s.io", "leases", verbs), ("", "events", &["create"])]);
        Ground { scene, kind, timing, namespace, user, started: 0 }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.user.kubeconfig(&self.scene.cluster.url(), Some(self.namespace.name()))
    }

    /// A contender, as far as exec.
    pub fn start(&mut self, lock: &str) -> Party {
        self.started += 1;
        let identity = format!("contender-{}", self.started);
        let mut command = Command::new(WITH_US[0]);
        command.args(&WITH_US[1..]).arg(&self.scene.stamp).env_clear();
        match self.kind {
            Kind::LeaderRun => {
                command.arg(leader_run()).arg("--kubeconfig").arg(self.kubeconfig());
                command.args(["--lock", "lease", "--name", lock, "--identity", &identity]);
                command.arg(format!("--lease-duration={}s", self.timing.lease().as_secs()));
                command.arg("--").arg(&self.scene.stamp);
            }
            Kind::ClientGo => {
                command.arg(client_go("client-go")).arg(&self.scene.stamp);
                command.env("KUBECONFIG", self.kubeconfig()).env("NAMESPACE", self.namespace.name());
                command.env("LOCK", "lease").env("NAME", lock).env("IDENTITY", &identity);
                command.envs(self.timing.of_client_go());
            }
        }
        Party { contender: Contender::start(&mut command), kind: self.kind, identity }
    }

    /// A contender that leads.
    pub fn leader(&mut self, lock: &str) -> Party {
        let party = self.start(lock);
        party.wait_child();
        party
    }

    /// A contender that has seen somebody else lead.
    pub fn standby(&mut self, lock: &str) -> Party {
        let party = self.start(lock);
        // What client-go says before its first look at the lock.
        party.contender.wait_line(if self.kind == Kind::LeaderRun { "waiting: " } else { "ttempting to acquire" });
        sleep(Duration::from_millis(150));
        party
    }

    pub fn records(&self, lock: &str) -> Records {
        Records(self.namespace.watch_leases(lock))
    }
}

/// A running contender. All of it is ended when dropped.
pub struct Party {
    contender: Contender,
    kind: Kind,
    pub identity: String,
}

/// The first instruction of a child.
#[derive(Clone, Copy)]
pub struct Child {
    pub at: Duration,
    pid: i32,
}

impl Party {
    fn stamp(&self, what: &str) -> Option<Child> {
        let line = self.contender.line(what)?;
        let mut words = line.text.split(' ').skip(1);
        let mut word = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
        Some(Child { at: Duration::from_nanos(word()), pid: word() as i32 })
    }

    /// Right before exec.
    pub fn begin(&self) -> Duration {
        self.stamp("begin ").expect("started").at
    }

    pub fn child(&self) -> Option<Child> {
        self.stamp("child ")
    }

    pub fn wait_child(&self) -> Child {
        self.contender.wait_line("child ");
        self.child().expect("seen")
    }

    /// All of its processes but the child's.
    pub fn processes(&self) -> Vec<i32> {
        let pid = self.contender.pid();
        match self.kind {
            Kind::LeaderRun => [vec![pid], children(pid)].concat(),
            Kind::ClientGo => vec![pid],
        }
    }

    pub fn signal(&self, signal: i32) {
        self.contender.signal(signal);
    }

    pub fn has_ended(&mut self) -> bool {
        !self.contender.is_running()
    }

    pub fn wait(&mut self) {
        self.contender.wait();
    }

    /// Kills it alone, at once; client-go's child, which nobody else would kill, with it.
    pub fn crash(&mut self) {
        self.signal(SIGKILL);
        if self.kind == Kind::ClientGo {
            self.kill_child();
        }
        self.wait();
    }

    /// Kills every process of it.
    pub fn crash_with_its_node(&mut self) {
        match self.kind {
            Kind::LeaderRun => drop(kill_at_once([self.contender.pid(), self.contender.guard()])),
            Kind::ClientGo => self.signal(SIGKILL),
        }
        self.kill_child();
        self.wait();
    }

    fn kill_child(&self) {
        if let Some(child) = self.child() {
            // It may have ended with its guard.
            let _ = kill(Pid::from_raw(child.pid), Signal::SIGKILL);
        }
    }
}

/// Waits until one of these has a child: which one, and when that began.
pub fn next_leader(standbys: &[Party]) -> (usize, Child) {
    wait_for("the next leader", LONG, || {
        standbys.iter().enumerate().find_map(|(place, party)| Some((place, party.child()?)))
    })
}

/// What is written to a lock.
pub struct Records(Receiver<(Instant, WatchEventKind, Lease)>);

impl Records {
    /// All since the last time, and when each of them was known to those who watch.
    pub fn news(&self) -> Vec<(Duration, Lease)> {
        self.0.try_iter().map(|(seen, _, lease)| (at(seen), lease)).collect()
    }
}

/// The name in the record, empty where there is none.
pub fn holder(lease: &Lease) -> &str {
    let spec = lease.spec.as_ref();
    spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}
