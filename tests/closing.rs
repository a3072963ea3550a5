//! The closing line of a run, and the container's termination log, on a lock in a file.

mod support;

use nix::libc::{SIGKILL, SIGTERM};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Contender, Finished, POLITE, as_pid_1, leader_run, send_signal, started_by, steal};

/// A contender for the lock of this folder.
fn command(folder: &Path, options: &[&str], script: &str) -> Command {
    let mut command = leader_run();
    command.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(folder).args(options);
    command.args(["--", "bash", "-c", script]);
    command
}

fn record(folder: &Path) -> PathBuf {
    folder.join("default_demo.json")
}

/// leader-run's last line begins and ends with these words.
fn closes(said: &str, begin: &str, end: &str) {
    let line = said.lines().filter_map(|line| line.strip_prefix("leader-run: ")).next_back().unwrap_or_default();
    assert!(line.starts_with(begin) && line.ends_with(end), "{begin:?}, {end:?} in:\n{said}");
}

#[test]
fn the_last_line_says_why() {
    let run = |options: &[&str], script: &str| {
        let folder = tempfile::tempdir().unwrap();
        Finished::from(command(folder.path(), options, script).output().unwrap())
    };
    let led = "; led file lock default/demo for ";
    closes(&run(&[], "exit 7").stderr, &format!("the child ended with 7{led}"), "ms; exit code 7");
    closes(&run(&[], "kill -9 $$").stderr, &format!("the child died of SIGKILL{led}"), "; exit code 137");
    assert_eq!(run(&["-q"], "exit 7").stderr, "");

    let started = |options: &[&str], folder: &Path| {
        let leader =
            Contender::start(&mut command(folder, options, &format!("trap 'exit 0' TERM; echo ready; {POLITE}")));
        leader.wait_line("ready");
        leader
    };
    let folder = tempfile::tempdir().unwrap();
    let mut leader = started(&[], folder.path());
    let late = Finished::from(command(folder.path(), &["-q", "--wait", "0s"], "").output().unwrap());
    assert_eq!((late.code, late.stderr.lines().count()), (124, 1), "{late:?}");
    closes(&late.stderr, "not leading after 0s: file lock default/demo is held by ", "; exit code 124");
    let mut standby = Contender::start(&mut command(folder.path(), &[], ""));
    standby.wait_line("waiting: ");
    standby.signal(SIGTERM);
    assert_eq!(standby.wait(), 143);
    closes(&standby.said(), "stopped while waiting for file lock default/demo, after ", "; exit code 143");
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 0);
    closes(&leader.said(), &format!("the child ended with 0{led}"), "; sent SIGTERM; exit code 0");

    let mut leader = started(&[], folder.path());
    send_signal(leader.guard(), SIGKILL);
    assert_eq!(leader.wait(), 125);
    closes(&leader.said(), &format!("the guard died{led}"), "; exit code 125");

    let mut leader = started(&[], folder.path());
    steal(&record(folder.path()), "thief");
    assert_eq!(leader.wait(), 75);
    // Why it was lost has been said when it was.
    assert_eq!(leader.count("thief holds it now"), 1, "{}", leader.said());
    closes(
        &leader.said(),
        "lost file lock default/demo; led for ",
        "; sent SIGTERM; the child ended with 0; exit code 75",
    );
}

#[test]
fn json_has_it_in_fields() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("trap 'exit 0' TERM; echo ready; {POLITE}");
    let mut leader = Contender::start(&mut command(folder.path(), &["--log-format", "json"], &script));
    leader.wait_line("ready");
    steal(&record(folder.path()), "thief");
    assert_eq!(leader.wait(), 75);
    let said = leader.said();
    // What the child said last may be read after it.
    let last = said.lines().rfind(|line| line.starts_with('{'));
    let line: serde_json::Value = serde_json::from_str(last.unwrap()).unwrap();
    let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    assert!(text("message").starts_with("lost file lock default/demo: thief holds it now; led "), "{said}");
    assert_eq!([text("lock"), text("signals")], ["file lock default/demo", "SIGTERM"], "{said}");
    assert_eq!([&line["exitCode"], &line["childExitCode"]], [75, 0], "{said}");
    assert!(line["ledSeconds"].as_f64().is_some_and(|led| led > 0.0), "{said}");
    assert!(line["waitedSeconds"].is_null() && line["lastError"].is_null(), "{said}");
}

#[test]
fn a_container_s_termination_log_has_the_whole_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let contained = |command: &Command| {
        let script = "mount -t tmpfs none /dev && touch /dev/termination-log || exit 99
                      \"$@\"; code=$?; echo log; cat /dev/termination-log; exit $code";
        let unshare = as_pid_1()?;
        let words = unshare.get_args().map(|word| word.to_str().unwrap());
        let program: Vec<_> = ["unshare"].into_iter().chain(words).chain(["bash", "-c", script, "bash"]).collect();
        Some(started_by(&program, command))
    };
    // The child may have something to say, too.
    let script = format!("trap 'exit 0' TERM; echo ours >/dev/termination-log; echo ready; {POLITE}");
    let Some(mut contained_leader) = contained(&command(folder.path(), &[], &script)) else {
        return;
    };
    let mut leader = Contender::start(&mut contained_leader);
    leader.wait_line("ready");
    steal(&record(folder.path()), "thief");
    assert_eq!(leader.wait(), 75, "{}", leader.said());
    let said = leader.said();
    let (_, log) = said.split_once("log\nours\n").unwrap_or_else(|| panic!("{said}"));
    assert_eq!(log.lines().count(), 1, "{said}");
    let begin = "lost file lock default/demo: thief holds it now; led for ";
    closes(log, begin, "; sent SIGTERM; the child ended with 0; exit code 75");

    let run = |args: &[&str]| {
        let done = Finished::from(contained(leader_run().args(args)).unwrap().output().unwrap());
        done.stdout.strip_prefix("log\n").unwrap_or_else(|| panic!("{done:?}")).to_owned()
    };
    closes(&run(&["--lock", "file"]), "no command: ", "; exit code 125");
    assert_eq!(run(&["assert"]), "", "the container was not started to ask");
    let long = format!("--{}", "é".repeat(5000));
    let log = run(&[&long]);
    assert!(log.len() <= 4096 && log.ends_with('\n') && log.contains("éé"), "{log}");
}
