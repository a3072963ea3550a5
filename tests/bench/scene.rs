//! What all figures share: the API server, the programs, the clock.

use crate::apiserver::Cluster;
use crate::contender::Kind;
use crate::support::children;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub struct Scene {
    pub cluster: Cluster,
    /// Longer, and more of it.
    pub long: bool,
    /// The API server and its etcd.
    servers: Vec<i32>,
    /// The child of all contenders, which also says when they begin.
    pub stamp: PathBuf,
    /// Where that is.
    _folder: TempDir,
}

impl Scene {
    /// Call it from the main thread.
    pub fn new() -> Scene {
        let folder = tempfile::tempdir().expect("a folder");
        let stamp = folder.path().join("stamp");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/stamp.c");
        let compiled = Command::new("cc").args(["-static", "-O", "-o"]).arg(&stamp).arg(source).status();
        assert!(compiled.expect("a C compiler").success(), "{source} does not compile");
        let cluster = Cluster::start();
        let servers = children(std::process::id() as i32);
        let long = std::env::var_os("BENCH").is_some_and(|mode| mode == "long");
        Scene { cluster, long, servers, stamp, _folder: folder }
    }

    /// How much of something there is: usually, and where there is time.
    pub fn choose<T>(&self, quick: T, long: T) -> T {
        if self.long { long } else { quick }
    }

    /// Measures both kinds of contenders at the same time, each in a thread of its own.
    pub fn both<T: Send>(&self, measure: impl Fn(Kind) -> T + Sync) -> (T, T) {
        let measure = &measure;
        thread::scope(|scope| {
            let theirs = scope.spawn(move || measure(Kind::ClientGo));
            (measure(Kind::LeaderRun), theirs.join().expect("measured"))
        })
    }

    /// How long the API server and etcd have been busy so far.
    pub fn servers_busy(&self) -> Duration {
        busy(&self.servers)
    }

    /// The API server's count of requests for leases, in all of their verbs or in one, with one code or all.
    pub fn requests(&self, wanted: impl Fn(&str, u16) -> bool) -> u64 {
        let request = http::Request::get("/metrics").body(Vec::new()).expect("a request");
        let shared = &self.cluster.shared;
        let text = shared.handle.block_on(shared.admin.request_text(request)).expect("the server's metrics");
        let lines = text.lines().filter(|line| line.starts_with("apiserver_request_total{"));
        let lines = lines.filter(|line| label(line, "resource") == Some("leases"));
        let is_wanted = |line: &&str| {
            let (verb, code) = (label(line, "verb").unwrap_or_default(), label(line, "code").unwrap_or_default());
            wanted(verb, code.parse().unwrap_or_default())
        };
        let count = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
        lines.filter(is_wanted).filter_map(count).sum::<f64>() as u64
    }
}

fn label<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

/// How long these processes have been busy so far, all their threads together, also those that have ended.
pub fn busy(processes: &[i32]) -> Duration {
    let busy = |process: &i32| {
        let clock = clock_getcpuclockid(Pid::from_raw(*process)).expect("a running process");
        Duration::from(clock_gettime(clock).expect("its clock"))
    };
    processes.iter().map(busy).sum()
}

/// Now, by the clock that the children read.
pub fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("this clock").into()
}

/// The same of an instant.
pub fn at(instant: Instant) -> Duration {
    now() - instant.elapsed()
}

/// How many milliseconds; less than none if `from` is later.
pub fn milliseconds(from: Duration, to: Duration) -> f64 {
    (to.as_secs_f64() - from.as_secs_f64()) * 1000.0
}

/// The clock that records show, now.
pub fn wall() -> Duration {
    clock_gettime(ClockId::CLOCK_REALTIME).expect("this clock").into()
}
