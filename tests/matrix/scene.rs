//! What the rows have in common: an API server, a lock, contenders for it, and what they are held to.

use crate::kubeconfig::kubeconfig;
use crate::proxy::Proxy;
use crate::server::{Server, TOKEN};
use crate::support::{AT_ONCE, Contender, LONG, SHORT, alone, leader_run, wait_for, wait_gone};
use crate::tls::Tls;
use serde_json::Value;
use std::fmt;
use std::fs;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The name of the lock.
pub const LOCK: &str = "work";
/// A user who may not watch.
pub const BLIND: &str = "token-of-one-who-may-not-watch";
/// Of the short timings.
pub const L: Duration = Duration::from_secs(6);
pub const R: Duration = Duration::from_secs(4);
pub const P: Duration = Duration::from_secs(1);
pub const K: Duration = Duration::from_secs(5);
/// How late anything may be on a busy machine. A tree that is killed so late is still gone before L.
pub const LATE: Duration = Duration::from_millis(950);
/// How long after S the first one outside can have seen a write.
const UNSEEN: Duration = Duration::from_millis(500);

/// A lock on a server of its own. When it is dropped, no two children of it may ever have met.
pub struct Scene {
    pub server: Server,
    folder: TempDir,
}

impl Scene {
    pub fn new() -> Scene {
        let server = Server::start();
        server.admit(BLIND, "blind", Some(&["get", "create", "update"]));
        Scene { server, folder: tempfile::tempdir().unwrap() }
    }

    /// A contender with this kubeconfig, whose child proves that it is alone, then does this.
    pub fn command(&self, config: &Value, identity: &str, options: &[&str], script: &str) -> Command {
        let mut command = leader_run();
        command.arg("--kubeconfig").arg(self.server.file(&config.to_string()));
        command.args(["--name", LOCK, "--identity", identity]).args(options);
        command.arg("--").args(alone(&self.oracle(), script));
        command
    }

    /// A contender of the short timings, who reaches the server directly.
    pub fn contender(&self, identity: &str, script: &str) -> Contender {
        self.with(&self.server.config(&self.server.url(), TOKEN), identity, script)
    }

    /// The same who may not watch.
    pub fn blind(&self, identity: &str, script: &str) -> Contender {
        self.with(&self.server.config(&self.server.url(), BLIND), identity, script)
    }

    /// The same behind a proxy.
    pub fn behind(&self, proxy: &Proxy, identity: &str, script: &str) -> Contender {
        self.with(&self.server.config(&proxy.url(), TOKEN), identity, script)
    }

    pub fn with(&self, config: &Value, identity: &str, script: &str) -> Contender {
        Contender::start(&mut self.command(config, identity, &SHORT, script))
    }

    /// A kubeconfig with another idea of who can be trusted.
    pub fn config_trusting(&self, tls: &Tls) -> Value {
        kubeconfig(tls, &self.server.url(), TOKEN, Some(crate::server::NAMESPACE))
    }

    pub fn oracle(&self) -> PathBuf {
        self.folder.path().join("oracle")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn holder(&self) -> String {
        self.server.holder(LOCK)
    }

    /// Writes another holder into the lock, as a client does that does not ask.
    pub fn steal(&self) -> Instant {
        self.server.change(LOCK, |lease| {
            let spec = &mut lease["spec"];
            spec["holderIdentity"] = "somebody-else".into();
            spec["leaseTransitions"] = (spec["leaseTransitions"].as_i64().unwrap_or(0) + 1).into();
        })
    }

    /// When this holder's last write was carried out.
    pub fn last_write(&self, identity: &str) -> Instant {
        *self.writes(identity).last().expect("a write")
    }

    /// When this holder's writes were carried out.
    pub fn writes(&self, identity: &str) -> Vec<Instant> {
        let holder = format!("\"holderIdentity\":{:?}", identity);
        let requests = self.server.requests();
        let written = |status: Option<u16>| matches!(status, Some(200 | 201));
        requests.iter().filter(|r| written(r.status) && r.request.body.contains(&holder)).map(|r| r.at).collect()
    }

    /// Waits until this holder has just written.
    pub fn after_a_renewal(&self, identity: &str) -> Instant {
        let before = self.writes(identity).len();
        wait_for("a renewal", LONG, || self.writes(identity).get(before).copied())
    }

    /// Waits until the child of `next` starts, and says how long after the last write of `earlier`: never less
    /// than L.
    pub fn handover(&self, earlier: &str, next: &Contender) -> String {
        let started = next.wait_line("start ").at;
        let took = started - self.last_write(earlier);
        assert!(took >= L, "the next child started {took:?} after the last renewal");
        assert!(took <= L + Duration::from_secs(6), "the next child started only {took:?} after the last renewal");
        seconds(took)
    }

    /// Takes note of overlaps that the README warns of, so that they are no violation.
    pub fn excuse_overlaps(&self) -> bool {
        let overlapped = self.overlapped();
        fs::write(self.oracle(), "").unwrap();
        overlapped
    }

    fn overlapped(&self) -> bool {
        fs::read_to_string(self.oracle()).is_ok_and(|text| text.contains("OVERLAP"))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !thread::panicking() {
            assert!(!self.overlapped(), "two children met");
        }
    }
}

/// The process of a [`STUBBORN`](crate::support::STUBBORN) child.
pub fn child(contender: &Contender) -> i32 {
    contender.wait_line("pid ").text[4..].parse().unwrap()
}

/// How a leader lost its lock, counted from its last renewal.
pub struct Lost {
    pub asked: Duration,
    pub killed: Duration,
    /// After its child was gone.
    pub ended: Duration,
    pub code: i32,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [asked, killed, ended] = [self.asked, self.killed, self.ended].map(seconds);
        write!(f, "SIGTERM {asked}, SIGKILL {killed} after the last renewal, exit {} {ended} later", self.code)
    }
}

/// Waits until a leader that cannot renew since then has lost the lock, its child is dead, and it has ended,
/// and holds it to R, K and 75.
pub fn loses(leader: &mut Contender, pid: i32, since: Instant) -> Lost {
    let gone = wait_gone(&[pid], LONG);
    let code = leader.wait();
    let ended = gone.elapsed();
    let asked = leader.wait_line("asked").at - since;
    let lost = Lost { asked, killed: gone - since, ended, code };
    let in_time = |took: Duration, due: Duration| took + UNSEEN >= due && took <= due + LATE;
    assert!(in_time(lost.asked, R) && in_time(lost.killed, K), "{lost}");
    assert_eq!(code, 75, "{}", leader.said());
    assert!(ended <= AT_ONCE, "it ended only {ended:?} after its child");
    lost
}

/// Asserts that for so long nothing disturbs the leader, and no standby starts.
pub fn undisturbed(leader: &mut Contender, standbys: &[&Contender], time: Duration) {
    thread::sleep(time);
    assert!(leader.is_running(), "{}", leader.said());
    assert_eq!(leader.count("asked"), 0, "{}", leader.said());
    for standby in standbys {
        assert!(standby.line("start ").is_none(), "{}", standby.said());
    }
}

/// Does several things at once, and says what each came to.
pub fn at_once(cases: Vec<Box<dyn FnOnce() -> String + Send>>) -> String {
    all_at_once(cases).join("; ")
}

/// Does several things at once, and returns what each came to.
pub fn all_at_once<T: Send + 'static>(cases: Vec<impl FnOnce() -> T + Send + 'static>) -> Vec<T> {
    let threads: Vec<_> = cases.into_iter().map(thread::spawn).collect();
    threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
}

/// With two decimals, as people read it.
pub fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
