//! What is told over HTTP: who leads, health and metrics, whoever asks and however many.

mod support;

use nix::libc::SIGTERM;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use support::{Contender, Finished, LONG, POLITE, SHORT, alone, leader_run, median, wait_for};
use tempfile::TempDir;

/// A polite child that says when it can be asked to leave.
fn polite() -> String {
    POLITE.replacen("TERM; ", "TERM; echo ready; ", 1)
}

/// One lock, in a folder of its own.
struct Lock {
    folder: TempDir,
}

impl Lock {
    fn new() -> Lock {
        Lock { folder: tempfile::tempdir().unwrap() }
    }

    fn record(&self) -> PathBuf {
        self.folder.path().join("default_demo.json")
    }

    fn command(&self, options: &[&str], child: &[String]) -> Command {
        let mut command = leader_run();
        command.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(self.folder.path());
        command.args(options).arg("--").args(child);
        command
    }

    /// A contender that answers over HTTP, whose child proves that it is alone, then does this.
    fn contender(&self, identity: &str, script: &str) -> (Contender, SocketAddr) {
        let options = [&["--http", "127.0.0.1:0", "--identity", identity], &SHORT[..]].concat();
        let child = alone(&self.folder.path().join("oracle"), script);
        let contender = Contender::start(&mut self.command(&options, &child));
        let line = contender.wait_line("listening on http://").text;
        let address = line.rsplit("//").next().unwrap().parse().unwrap();
        (contender, address)
    }
}

/// The whole answer to a request of this method, if there is one.
fn ask(method: &str, address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, LONG).ok()?;
    stream.set_read_timeout(Some(LONG)).ok()?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The status and the body.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = ask("GET", address, path).unwrap_or_else(|| panic!("no answer from {address}{path}"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn status(address: SocketAddr, path: &str) -> u16 {
    get(address, path).0
}

fn json(address: SocketAddr, path: &str) -> serde_json::Value {
    serde_json::from_str(&get(address, path).1).unwrap()
}

fn wait_status(address: SocketAddr, path: &str, wanted: u16) {
    wait_for(&format!("{wanted} at {path}"), LONG, || (status(address, path) == wanted).then_some(()));
}

/// The value of this line of the metrics.
fn metric(address: SocketAddr, sample: &str) -> f64 {
    let text = get(address, "/metrics").1;
    let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("{sample} is not in:\n{text}"))
}

#[test]
fn a_leader_and_a_standby_answer_as_such() {
    let lock = Lock::new();
    let (mut first, at_first) = lock.contender("first", &polite());
    let token = first.wait_line("start ").text[6..].to_owned();
    first.wait_line("ready");
    let (mut second, at_second) = lock.contender("second", &polite());
    second.wait_line("is held by first");
    wait_status(at_second, "/readyz", 200);
    for address in [at_first, at_second] {
        assert_eq!((status(address, "/livez"), status(address, "/readyz")), (200, 200));
        assert_eq!((get(address, "/").0, json(address, "/")["name"].as_str()), (200, Some("first")));
        assert_eq!(status(address, "/nothing"), 404);
        assert!(ask("POST", address, "/leader").unwrap().starts_with("HTTP/1.1 405"));
    }
    let leads = json(at_first, "/leader");
    assert_eq!((status(at_first, "/leader"), status(at_second, "/leader")), (200, 503));
    assert_eq!((&leads["leader"], &leads["token"]), (&true.into(), &token.into()));
    assert_eq!((&leads["lock"], &leads["identity"]), (&"file lock default/demo".into(), &"first".into()));
    let left = leads["deadlineSeconds"].as_f64().unwrap();
    assert!(left > 0.0 && left <= 5.0, "{left}");
    let waits = json(at_second, "/leader");
    assert_eq!((&waits["leader"], &waits["name"], &waits["token"]), (&false.into(), &"first".into(), &().into()));
    let head = ask("HEAD", at_second, "/leader?pretty").unwrap();
    assert!(head.starts_with("HTTP/1.1 503") && head.ends_with("\r\n\r\n"), "{head}");

    first.signal(SIGTERM);
    assert_eq!(first.wait(), 0);
    wait_status(at_second, "/leader", 200);
    assert_eq!(json(at_second, "/")["name"], "second");
    second.wait_line("ready");
    assert_eq!(metric(at_second, "leader_run_transitions"), 1.0);
    second.signal(SIGTERM);
    assert_eq!(second.wait(), 0);
}

#[test]
fn metrics_count_what_happens() {
    let lock = Lock::new();
    let (_first, at_first) = lock.contender("first", &polite());
    let (_second, at_second) = lock.contender("second", &polite());
    let (leader, standby) =
        wait_for("a leader", LONG, || match [at_first, at_second].map(|at| status(at, "/leader")) {
            [200, _] => Some((at_first, at_second)),
            [_, 200] => Some((at_second, at_first)),
            _ => None,
        });
    for (address, leads) in [(leader, 1.0), (standby, 0.0)] {
        assert_eq!(metric(address, "leader_election_master_status{name=\"demo\"}"), leads);
        assert_eq!(metric(address, "leader_run_terms_total"), leads);
        assert_eq!(metric(address, "leader_election_slowpath_total{name=\"demo\"}"), 0.0);
        assert_eq!(metric(address, "leader_run_deadline_seconds") > 0.0, leads == 1.0);
        let running = || (metric(address, "leader_run_child_state{state=\"running\"}") == leads).then_some(());
        wait_for("the child", LONG, running);
    }
    wait_for("two renewals", LONG, || (metric(leader, "leader_run_renew_seconds_count") >= 2.0).then_some(()));
    assert!(metric(leader, "leader_run_renew_seconds_bucket{le=\"+Inf\"}") >= 2.0);
    assert!(metric(leader, "leader_run_renew_seconds_sum") > 0.0);
    assert_eq!(metric(standby, "leader_run_renew_seconds_count"), 0.0);
}

#[test]
fn leader_flips_with_the_lock_and_never_says_that_two_lead() {
    let lock = Lock::new();
    let mut samples = Vec::new();
    for _ in 0..11 {
        let (mut first, at_first) = lock.contender("first", &polite());
        first.wait_line("ready");
        let (second, at_second) = lock.contender("second", &polite());
        second.wait_line("is held by");
        first.signal(SIGTERM);
        // Asked in this order: whoever leads after the first one does so when that one has stopped to say so.
        let flipped = wait_for("another leader", LONG, || {
            let leads = status(at_second, "/leader") == 200;
            let before = ask("GET", at_first, "/leader").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"));
            assert!(!leads || !before, "two at once");
            leads.then(Instant::now)
        });
        samples.push(flipped.saturating_duration_since(second.wait_line("leading file lock").at));
        assert_eq!(first.wait(), 0, "{}", first.said());
        second.signal(SIGTERM);
        wait_status_or_end(at_second);
    }
    let median = median(samples);
    assert!(median <= Duration::from_millis(50), "{median:?}");
    eprintln!("figure: /leader flips {median:?} after it is said that we lead");
}

/// Waits until it no longer says that it leads.
fn wait_status_or_end(address: SocketAddr) {
    wait_for("the end of its leadership", LONG, || {
        let leads = ask("GET", address, "/leader").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"));
        (!leads).then_some(())
    });
}

#[test]
fn a_contender_that_cannot_read_the_lock_lives_but_takes_no_part() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("config");
    let nobody = free_port();
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {{server: \
         'http://127.0.0.1:{nobody}'}}}}], users: [{{name: u, user: {{}}}}], contexts: [{{name: c, context: {{cluster: c, \
         user: u, namespace: n}}}}]}}"
    );
    fs::write(&kubeconfig, text).unwrap();
    let mut command = leader_run();
    command.args(["--http", "127.0.0.1:0", "--name", "demo", "--kubeconfig"]).arg(&kubeconfig).args(["--", "true"]);
    let contender = Contender::start(&mut command);
    let line = contender.wait_line("listening on http://").text;
    let address = line.rsplit("//").next().unwrap().parse().unwrap();
    contender.wait_line("trying again");
    assert_eq!((status(address, "/livez"), status(address, "/readyz"), status(address, "/leader")), (200, 503, 503));
    assert_eq!(json(address, "/")["name"], "");
    assert!(metric(address, "leader_run_request_failures_total{verb=\"get\",reason=\"unclear\"}") >= 1.0);
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn it_listens_where_it_is_told_to() {
    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    for (form, ipv4, ipv6) in [("", true, false), (":", true, has_ipv6), ("127.0.0.1:", true, false)]
        .into_iter()
        .chain(has_ipv6.then_some(("[::1]:", false, true)))
    {
        let lock = Lock::new();
        let address = format!("{form}{}", free_port());
        let contender = Contender::start(&mut lock.command(&["--http", &address], &["sleep".into(), "60".into()]));
        let line = contender.wait_line("listening on http://").text;
        let port: u16 = line.rsplit(':').next().unwrap().parse().unwrap();
        let reached = |host: &str| ask("GET", format!("{host}:{port}").parse().unwrap(), "/livez").is_some();
        assert_eq!((reached("127.0.0.1"), reached("[::1]")), (ipv4, ipv6), "{address}");
        // Another address of the loopback: only who listens on all of them is there.
        assert_eq!(reached("127.0.0.2"), form == ":", "{address}");
    }
}

#[test]
fn an_address_that_is_in_use_or_none_is_said_before_contending() {
    let lock = Lock::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (address, words) in [
        (port.as_str(), "in use"),
        ("192.0.2.1:8080", "no such address"),
        ("localhost:80", "use a port"),
        ("on", "8080"),
    ] {
        let finished = Finished::from(lock.command(&["--http", address], &["true".into()]).output().unwrap());
        assert_eq!((finished.code, finished.stderr.lines().count()), (125, 1), "{address}: {finished:?}");
        assert!(finished.stderr.contains("--http") && finished.stderr.contains(words), "{finished:?}");
    }
    assert!(!lock.record().exists(), "nobody has contended");
    let finished = Finished::from(lock.command(&[], &["true".into()]).env("LEADER_RUN_HTTP", &port).output().unwrap());
    assert_eq!(finished.code, 125, "{finished:?}");
}

#[test]
fn nobody_listens_unless_asked_to() {
    let lock = Lock::new();
    let contender = Contender::start(&mut lock.command(&[], &["sh".into(), "-c".into(), "echo on; sleep 60".into()]));
    contender.wait_line("on");
    let threads = fs::read_dir(format!("/proc/{}/task", contender.pid())).unwrap().flatten();
    let names: Vec<_> = threads.map(|thread| fs::read_to_string(thread.path().join("comm")).unwrap()).collect();
    assert!(!names.contains(&"http\n".to_owned()), "{names:?}");
}

#[test]
fn ten_thousand_idle_and_slow_connections_change_nothing() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let _ = setrlimit(Resource::RLIMIT_NOFILE, most.min(12_000), most);
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let many = (limit.saturating_sub(500)).min(10_000) as usize;

    let lock = Lock::new();
    // As few descriptors as most systems allow.
    let command = lock.command(
        &[&["--http", "127.0.0.1:0", "--identity", "leader"], &SHORT[..]].concat(),
        &alone(&lock.folder.path().join("oracle"), &polite()),
    );
    let mut leader = Contender::start(&mut support::started_by(&["prlimit", "--nofile=256"], &command));
    let line = leader.wait_line("listening on http://").text;
    let address: SocketAddr = line.rsplit("//").next().unwrap().parse().unwrap();
    leader.wait_line("start ");
    let (renewed, begun) = (metric(address, "leader_run_renew_seconds_count"), Instant::now());

    let done = AtomicBool::new(false);
    let (open, probes, worst) = thread::scope(|scope| {
        let crowd = scope.spawn(|| {
            let mut open = Vec::new();
            while open.len() < many {
                let Ok(mut stream) = TcpStream::connect_timeout(&address, LONG) else { break };
                // Every tenth one sends a little of a request, and never its end.
                if open.len() % 10 == 0 {
                    let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
                }
                open.push(stream);
                if open.len() % 250 == 0 {
                    sleep(Duration::from_millis(100));
                }
            }
            while begun.elapsed() < Duration::from_secs(8) {
                for stream in open.iter_mut().step_by(10) {
                    let _ = stream.write_all(b"x");
                }
                sleep(Duration::from_millis(100));
            }
            done.store(true, Ordering::Relaxed);
            open.len()
        });
        let (mut probes, mut worst) = (0, Duration::ZERO);
        while !done.load(Ordering::Relaxed) {
            let asked = Instant::now();
            if ask("GET", address, "/livez").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                probes += 1;
                worst = worst.max(asked.elapsed());
            }
            let fds = fs::read_dir(format!("/proc/{}/fd", leader.pid())).unwrap().count();
            assert!(fds < 100, "{fds} descriptors");
            sleep(Duration::from_millis(50));
        }
        (crowd.join().unwrap(), probes, worst)
    });
    assert!(open >= many, "only {open} of {many} connections were made");
    assert!(probes >= 5, "{probes} probes got through");
    let renewals = metric(address, "leader_run_renew_seconds_count") - renewed;
    // One each second, and some of them late.
    let expected = begun.elapsed().as_secs_f64() / 2.0;
    eprintln!("figure: {open} connections: {renewals} renewals, {probes} probes, the slowest {worst:?}");
    assert!(renewals >= expected, "{renewals} renewals where {expected} were due");
    assert_eq!((leader.count("asked"), leader.count("start "), leader.is_running()), (0, 1, true), "{}", leader.said());
    assert_eq!(metric(address, "leader_run_lost_terms_total"), 0.0);
}

/// As a Deployment replaces its pods: a new one first, and when it is ready an old one goes.
#[test]
fn a_rolling_update_neither_deadlocks_nor_has_two_children() {
    let lock = Lock::new();
    let mut running: Vec<_> = (0..3).map(|n| lock.contender(&format!("old-{n}"), &polite())).collect();
    running.iter().for_each(|(_, address)| wait_status(*address, "/readyz", 200));
    wait_for("a leader", LONG, || running.iter().any(|(_, address)| status(*address, "/leader") == 200).then_some(()));
    for n in 0..3 {
        let (contender, address) = lock.contender(&format!("new-{n}"), &polite());
        wait_status(address, "/readyz", 200);
        running.push((contender, address));
        let (mut old, _) = running.remove(0);
        old.signal(SIGTERM);
        let code = old.wait();
        assert!([0, 128 + SIGTERM].contains(&code), "{}", old.said());
        assert_eq!(old.count("OVERLAP"), 0, "{}", old.said());
    }
    let leading = |(_, address): &(Contender, SocketAddr)| status(*address, "/leader") == 200;
    wait_for("a leader", LONG, || running.iter().any(leading).then_some(()));
    assert_eq!(running.iter().filter(|contender| leading(contender)).count(), 1);
    for (contender, address) in &running {
        // A standby may see the change of leaders a moment after the new one does.
        wait_for("one of the new ones to lead", LONG, || {
            json(*address, "/")["name"].as_str().unwrap().starts_with("new-").then_some(())
        });
        assert_eq!(contender.count("OVERLAP"), 0, "{}", contender.said());
    }
}
