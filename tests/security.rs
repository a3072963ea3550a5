//! What an attacker could try: another contender who may write the lock, a hostile API server, the machine's
//! other users, and whoever reads what is logged.

#[path = "support/faults.rs"]
mod faults;
#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/kubeconfig.rs"]
mod kubeconfig;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/server.rs"]
mod server;
#[path = "support/store.rs"]
mod store;
mod support;
#[path = "support/tls.rs"]
mod tls;

use hostile::{Answer, Hostile};
use nix::libc::SIGTERM;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use server::{NAMESPACE, Server, TOKEN};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::iter;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use support::{Contender, Finished, is_alive, leader_run, with_default_signals};
use tempfile::TempDir;

/// Takes over a terminal, forges a message, turns round the reading direction, and is far too long.
fn evil() -> String {
    let forged = "\u{1b}]0;owned\u{7}\u{1b}[2J\r\nleader-run: leading lease ops/demo with token 1\u{202e}\u{2028}";
    format!("evil {forged} {}", "x".repeat(100_000))
}

/// A run to its end, with the most memory that leader-run has had, in KiB.
struct Watched {
    contender: Contender,
    peak: JoinHandle<u64>,
}

impl Watched {
    fn start(command: &mut Command) -> Watched {
        let contender = Contender::start(command);
        let status = format!("/proc/{}/status", contender.pid());
        let peak = move || {
            let text = fs::read_to_string(&status).ok()?;
            text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
        };
        // Until it has ended.
        let peaks = move || iter::from_fn(peak).inspect(|_| thread::sleep(Duration::from_millis(5))).last();
        Watched { contender, peak: thread::spawn(move || peaks().unwrap_or(0)) }
    }

    /// Waits for its end, with this code, and checks what it has said and needed.
    fn wait(mut self, what: &str, code: i32) -> Vec<String> {
        assert_eq!(self.contender.wait(), code, "{what}: {}", self.contender.said());
        let peak = self.peak.join().unwrap();
        assert!((1..50_000).contains(&peak), "{what}: {peak} KiB");
        self.contender.lines().into_iter().map(|line| line.text).collect()
    }
}

/// Asserts that these lines are messages that can do no harm where they are read.
fn harmless(what: &str, lines: &[String]) {
    assert!(!lines.is_empty(), "{what}");
    for line in lines {
        let message = match serde_json::from_str::<Value>(line) {
            Ok(json) => json["message"].as_str().unwrap().to_owned(),
            Err(_) => line.strip_prefix("leader-run: ").unwrap_or_else(|| panic!("{what}: {line:?}")).to_owned(),
        };
        assert!(message.chars().count() < 1_000, "{what}: {line:?}");
        let harmful = |c: char| c.is_control() || ['\u{202e}', '\u{2028}'].contains(&c);
        assert!(!message.contains(harmful), "{what}: {line:?}");
        assert!(!message.starts_with("leading") && !message.contains("internal error"), "{what}: {line:?}");
    }
}

fn with_config(folder: &TempDir, config: &Value, options: &[&str], child: &[&str]) -> Command {
    let path = folder.path().join("kubeconfig");
    fs::write(&path, config.to_string()).unwrap();
    let mut command = leader_run();
    command.arg("--kubeconfig").arg(path).args(["--name", "demo"]).args(options).arg("--").args(child);
    command
}

fn config(server: &str, user: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}], "users": [{"name": "u", "user": user}]})
}

fn lease(holder: &str, revision: &str) -> Value {
    json!({"metadata": {"name": "demo", "uid": "u", "resourceVersion": revision},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15}})
}

fn not_found(kind: &str, name: &str) -> Answer {
    hostile::json(
        404,
        &json!({"kind": "Status", "reason": "NotFound", "message": evil(), "details": {"kind": kind, "name": name}}),
    )
}

#[test]
fn no_answer_of_a_server_can_forge_a_message_or_exhaust_the_memory() {
    type Respond = Box<dyn Fn(&str) -> Answer + Send + Sync>;
    let watch_of = |answer: fn(&str) -> Answer| {
        move |request: &str| match request.contains("watch=true") {
            true => answer(request),
            false => hostile::json(200, &lease(&evil(), "7")),
        }
    };
    let respond: [(&str, i32, Respond); 13] = [
        ("a GiB", 124, Box::new(|_| Answer::Endless("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n", "x"))),
        (
            "no end",
            124,
            Box::new(|_| Answer::Endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\n[\r\n")),
        ),
        ("headers", 124, Box::new(|_| Answer::Endless("HTTP/1.1 200 OK\r\n", "Name: value\r\n"))),
        ("a header", 124, Box::new(|_| Answer::Endless("HTTP/1.1 200 OK\r\nName: ", "value"))),
        ("depth", 124, Box::new(|_| hostile::text(200, &"[".repeat(500_000)))),
        ("not JSON", 124, Box::new(|_| hostile::text(502, &evil()))),
        ("a message", 124, Box::new(|_| hostile::json(500, &json!({"message": evil()})))),
        ("a user", 124, Box::new(|_| hostile::json(403, &json!({"message": format!("User \"{}\" may not", evil())})))),
        (
            "a namespace",
            125,
            Box::new(|request| match request.starts_with("POST") {
                true => not_found("namespaces", &evil()),
                false => not_found("leases", "demo"),
            }),
        ),
        ("a version for a URL", 124, Box::new(|_| hostile::json(200, &lease("", "1 HTTP/1.1\r\nX: y")))),
        ("a version for an environment", 124, Box::new(|_| hostile::json(200, &lease("", "1\0LD_PRELOAD=/evil.so")))),
        ("a watch without lines", 124, Box::new(watch_of(|_| Answer::Endless("HTTP/1.1 200 OK\r\n\r\n", "x")))),
        (
            "a watch",
            124,
            Box::new(watch_of(|_| {
                hostile::text(
                    200,
                    &format!("{}\n", json!({"type": "ERROR", "object": {"code": 500, "message": evil()}})),
                )
            })),
        ),
    ];
    let started = respond.map(|(what, code, respond)| {
        let server = Hostile::start(respond);
        let runs = ["text", "json"].map(|format| {
            let folder = tempfile::tempdir().unwrap();
            let config = config(&server.url(), &json!({"token": "secret"}));
            let options = ["--wait", "2s", "-v", "--log-format", format];
            (Watched::start(&mut with_config(&folder, &config, &options, &["env"])), folder)
        });
        (what, code, runs, server)
    });
    for (what, code, runs, server) in started {
        for (run, _folder) in runs {
            harmless(what, &run.wait(what, code));
        }
        assert!(server.connections() >= 2, "{what}");
    }
}

#[test]
fn a_record_of_another_contender_can_forge_no_message() {
    for format in ["text", "json"] {
        let folder = tempfile::tempdir().unwrap();
        let record = lease(&evil(), &i64::MAX.to_string());
        fs::write(folder.path().join("default_demo.json"), record.to_string()).unwrap();
        let run = Watched::start(&mut with_file(&folder, &["--wait", "1s", "-v", "--log-format", format]));
        let lines = run.wait(format, 124);
        harmless(format, &lines);
        assert!(lines.iter().any(|line| line.contains("held by evil")), "{lines:?}");
    }
}

fn with_file(folder: &TempDir, options: &[&str]) -> Command {
    let mut command = leader_run();
    command.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(folder.path());
    command.args(options).args(["--", "sh", "-c", "trap 'exit 3' TERM; echo child; while :; do sleep 0.02; done"]);
    command
}

#[test]
fn a_shared_lock_folder_can_hold_traps() {
    type Trap = fn(&Path);
    let rows: [(&str, Trap, &str); 7] = [
        ("a pipe as record", |folder| pipe_at(&folder.join("default_demo.json")), "no plain file"),
        ("a pipe as lock", |folder| pipe_at(&folder.join("default_demo.lock")), "no plain file"),
        ("a folder as record", |folder| fs::create_dir(folder.join("default_demo.json")).unwrap(), "no plain file"),
        (
            "an endless record",
            |folder| symlink("/dev/zero", folder.join("default_demo.json")).unwrap(),
            "symbolic links",
        ),
        (
            "a link to the record",
            |folder| symlink("victim", folder.join("default_demo.json")).unwrap(),
            "symbolic links",
        ),
        ("a link to lock", |folder| symlink("victim", folder.join("default_demo.lock")).unwrap(), "symbolic links"),
        (
            "a huge record",
            |folder| {
                File::create(folder.join("default_demo.json")).unwrap().set_len(8 << 30).unwrap();
            },
            "unreadable record",
        ),
    ];
    let runs = rows.map(|(what, trap, words)| {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        let modified = victim.metadata().unwrap().modified().unwrap();
        trap(folder.path());
        (what, words, Watched::start(&mut with_file(&folder, &["--wait", "1s"])), folder, modified)
    });
    for (what, words, run, folder, modified) in runs {
        let lines = run.wait(what, 124);
        assert!(lines.iter().any(|line| line.contains(words)), "{what}: {lines:?}");
        let victim = folder.path().join("victim");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched", "{what}");
        assert_eq!(victim.metadata().unwrap().modified().unwrap(), modified, "{what}");
    }
}

fn pipe_at(path: &Path) {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
}

#[test]
fn a_link_where_the_next_record_is_written_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
    symlink("victim", folder.path().join("default_demo.new")).unwrap();
    let mut leader = Contender::start(&mut with_file(&folder, &[]));
    leader.wait_line("child");
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 3, "{}", leader.said());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(victim.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_trap_that_is_set_while_leading_does_not_make_it_deaf() {
    let folder = tempfile::tempdir().unwrap();
    let mut leader = Contender::start(&mut with_file(&folder, &[]));
    leader.wait_line("child");
    let pipe = folder.path().join("pipe");
    pipe_at(&pipe);
    fs::rename(pipe, folder.path().join("default_demo.json")).unwrap();
    leader.wait_line("no plain file");
    let asked = Instant::now();
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 3, "{}", leader.said());
    assert!(asked.elapsed() < Duration::from_secs(10), "the release is given up after 3 s: {:?}", asked.elapsed());
    leader.wait_line("could not give");
}

#[test]
fn nothing_of_the_cluster_reaches_the_child() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let script = ["sh", "-c", "ls /proc/self/fd; tr '\\0' '\\n' < /proc/self/environ"];
    let bare = with_default_signals("sh").args(&script[1..]).stdin(Stdio::null()).env("KEPT", "yes").output().unwrap();
    let bare = Finished::from(bare).stdout;
    let mut command = with_config(&folder, &server.config(&server.url(), TOKEN), &[], &script);
    command.env("LEADER_RUN_REQUEST_TIMEOUT", "5s").env("KEPT", "yes");
    let child = Finished::from(command.output().unwrap());
    assert_eq!(child.code, 0, "{child:?}");
    assert!(!child.stdout.contains(TOKEN));
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let kept = |line: &&String| !line.starts_with("HOME=") && !line.starts_with("LEADER_ELECTION_");
    let (bare, child) = (lines(&bare), lines(&child.stdout));
    let added: Vec<_> = child.difference(&bare).filter(kept).collect();
    assert!(added.is_empty(), "{added:?}");
    let names = child.iter().filter_map(|line| line.strip_prefix("LEADER_ELECTION_")?.split('=').next());
    assert_eq!(names.collect::<Vec<_>>(), ["FENCING_TOKEN", "IDENTITY", "LOCK", "NAME", "NAMESPACE", "TRANSITIONS"]);
}

#[test]
fn nothing_in_the_environment_leads_to_another_server() {
    let server = Server::start();
    let trap = Hostile::start(|_| hostile::text(500, ""));
    let folder = tempfile::tempdir().unwrap();
    let mut command = with_config(&folder, &server.config(&server.url(), TOKEN), &["--wait", "10s"], &["true"]);
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env(proxy, trap.url());
    }
    command.env("KUBE_RS_DEBUG_OVERRIDE_URL", trap.url()).env("KUBE_RS_DEBUG_IMPERSONATE_USER", "somebody-else");
    let finished = Finished::from(command.output().unwrap());
    assert_eq!(finished.code, 0, "{finished:?}");
    assert!(server.saw(TOKEN));
    assert_eq!(trap.connections(), 0);
}

#[test]
fn an_answer_that_leads_elsewhere_is_not_followed() {
    let trap = Hostile::start(|_| hostile::text(200, ""));
    let elsewhere = format!("HTTP/1.1 307 Moved\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", trap.url());
    let server = Hostile::start(move |_| Answer::Text(elsewhere.clone()));
    let folder = tempfile::tempdir().unwrap();
    let config = config(&server.url(), &json!({"token": "secret"}));
    let finished = Finished::from(with_config(&folder, &config, &["--wait", "0s"], &["true"]).output().unwrap());
    assert_eq!(finished.code, 124, "{finished:?}");
    assert!(finished.stderr.contains("(307)"), "{finished:?}");
    assert!(server.connections() > 0);
    assert_eq!(trap.connections(), 0);
}

#[test]
fn http_is_for_the_loopback_only_whatever_it_looks_like() {
    let odd = ["127.0.0.1.example.com", "localhost.example.com", "2130706433", "0.0.0.0:1", "[::]:1"];
    for host in odd {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&format!("http://{host}"), &json!({"token": "secret"}));
        let finished = Finished::from(with_config(&folder, &config, &["--wait", "0s"], &["true"]).output().unwrap());
        assert_eq!(finished.code, 125, "{host}: {finished:?}");
        assert!(finished.stderr.contains("without https"), "{host}: {finished:?}");
    }
}

#[test]
fn credentials_in_the_wrong_place_are_not_shown() {
    let rows = [
        ("https://secret:secret@127.0.0.1:1", json!({"token": "a"}), "in its URL"),
        ("http://127.0.0.1:secret@192.0.2.1:1", json!({"token": "a"}), "in its URL"),
        ("https://127.0.0.1:1", json!({"token": "secret\n"}), "token has a line break"),
        ("https://127.0.0.1:1", json!({"token": {"secret": "secret"}}), "line 1"),
        ("https://127.0.0.1:1", json!("secret"), "line 1"),
        ("https://127.0.0.1:1", json!({"client-certificate-data": "secret", "client-key-data": "secret"}), "Invalid"),
    ];
    for (server, user, words) in rows {
        let folder = tempfile::tempdir().unwrap();
        let config = config(server, &user);
        let finished = Finished::from(with_config(&folder, &config, &["--wait", "0s"], &["true"]).output().unwrap());
        assert_eq!(finished.code, 125, "{server} {user}: {finished:?}");
        assert!(finished.stderr.contains(words) && !finished.stderr.contains("secret"), "{finished:?}");
        harmless(server, &[finished.stderr.trim_end().into()]);
    }
}

/// Credentials that a shell script brings, which finds the folder of the test in `$folder`.
fn program(folder: &TempDir, script: &str) -> Value {
    json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "interactiveMode": "Never",
        "args": ["-c", script, "secret-argument"],
        "env": [{"name": "VARIABLE", "value": "secret-variable"}, {"name": "folder", "value": folder.path()}]}})
}

#[test]
fn a_program_for_credentials_that_fails_gives_none_away() {
    let rows = [
        (
            "echo secret-output; echo first >&2; echo 'not \u{1b}[1mlogged in' >&2; exit 4",
            "exit status: 4: not  [1mlogged in",
        ),
        ("echo secret-output", "no ExecCredential"),
        ("echo '{\"kind\": \"secret-output\"'", "no ExecCredential"),
        ("exec 1>&-; kill -9 $$", "signal: 9"),
    ];
    for (script, words) in rows {
        let folder = tempfile::tempdir().unwrap();
        let config = config("https://127.0.0.1:1", &program(&folder, script));
        let finished = Finished::from(with_config(&folder, &config, &[], &["true"]).output().unwrap());
        assert_eq!(finished.code, 125, "{script}: {finished:?}");
        assert!(finished.stderr.contains(words), "{script}: {finished:?}");
        assert!(!finished.stderr.contains("secret"), "{script}: {finished:?}");
        harmless(script, &[finished.stderr.trim_end().into()]);
    }
}

#[test]
fn a_program_for_credentials_that_fails_or_hangs_while_leading_is_a_failure_like_any_other() {
    let server = Server::start();
    let fails = "echo secret-output; echo no more >&2; exit 1";
    let hangs = "echo $$ >> $folder/hanging; exec sleep 300";
    for (then, words) in [(fails, "their program ended with exit status: 1: no more"), (hangs, "no answer in time")] {
        let folder = tempfile::tempdir().unwrap();
        // It expires so soon that it is asked for again with every request.
        let credential = json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
            "status": {"token": TOKEN, "expirationTimestamp": "2020-01-01T00:00:00Z"}});
        let script = format!("if [ -e $folder/no-more ]; then {then}; else echo '{credential}'; fi");
        let mut config = server.config(&server.url(), TOKEN);
        config["users"][0]["user"] = program(&folder, &script);
        let options = ["--lease-duration", "3s", "--renew-deadline", "1500ms"];
        let mut leader =
            Contender::start(&mut with_config(&folder, &config, &options, &["sh", "-c", "echo child; sleep 300"]));
        leader.wait_line("child");
        File::create(folder.path().join("no-more")).unwrap();
        assert_eq!(leader.wait(), 75, "{}", leader.said());
        leader.wait_line(words);
        assert_eq!(leader.count("secret"), 0, "{}", leader.said());
        let hanging = fs::read_to_string(folder.path().join("hanging")).unwrap_or_default();
        let hanging: Vec<i32> = hanging.lines().map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(hanging.is_empty(), then == fails);
        assert!(!hanging.iter().any(|pid| is_alive(*pid)), "{hanging:?} outlive leader-run");
        server.delete("demo");
    }
}
