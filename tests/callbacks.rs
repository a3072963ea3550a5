//! The user's own commands, `--on-new-leader` and `--on-stopped-leading`, on a lock in a file.

mod support;

use nix::libc::{SIGKILL, SIGTERM, SIGUSR1};
use std::path::PathBuf;
use std::process::Command;
use support::{Contender, LONG, POLITE, leader_run, output, send_signal, steal, wait_for};
use tempfile::TempDir;

struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Scene {
        Scene { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, options: &[&str], script: &str) -> Command {
        let mut command = leader_run();
        command.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(self.folder.path());
        command.args(options).args(["--", "bash", "-c", script]);
        command
    }

    /// A contender that writes down each leader it sees and each end of a term, with the lock's record then.
    fn contender(&self, identity: &str, options: &[&str], script: &str) -> Contender {
        let log = self.path(identity);
        let record = self.path("default_demo.json");
        let seen = format!("bash -c 'echo \"leader $LEADER_ELECTION_LEADER\" >>{}'", log.display());
        let ended = format!(
            "bash -c 'echo \"$LEADER_ELECTION_IDENTITY $LEADER_ELECTION_REASON\" $(grep -o \"holderIdentity\\\":\\\"[a-z]*\" {}) >>{}'",
            record.display(),
            log.display(),
        );
        let callbacks = ["--identity", identity, "--on-new-leader", &seen, "--on-stopped-leading", &ended];
        Contender::start(&mut self.command(&[&callbacks, options].concat(), script))
    }

    fn log(&self, identity: &str) -> String {
        std::fs::read_to_string(self.path(identity)).unwrap_or_default()
    }

    fn wait_log(&self, identity: &str, text: &str) {
        wait_for(&format!("{text:?} of {identity}"), LONG, || self.log(identity).contains(text).then_some(()));
    }
}

#[test]
fn each_leader_is_seen_once_and_each_term_ends_once() {
    let scene = Scene::new();
    let mut first = scene.contender("first", &[], &format!("trap 'exit 0' TERM; echo ready; {POLITE}"));
    first.wait_line("ready");
    let mut second = scene.contender("second", &[], "exit 3");
    scene.wait_log("second", "leader first\n");
    first.signal(SIGTERM);
    assert_eq!((first.wait(), second.wait()), (0, 3), "{}{}", first.said(), second.said());
    // After the release: by then the other one may lead already.
    let log = scene.log("first");
    let (leaders, end): (Vec<_>, Vec<_>) = log.lines().partition(|line| line.starts_with("leader"));
    assert_eq!(leaders, ["leader first", "leader "]);
    assert!(matches!(&end[..], [end] if end.starts_with("first stopped holderIdentity\":\"")), "{end:?}");
    assert!(!end[0].contains("\"first"), "{end:?}");
    let log = scene.log("second");
    let leaders: Vec<_> = log.lines().filter(|line| line.starts_with("leader")).collect();
    assert_eq!(leaders, ["leader first", "leader ", "leader second", "leader "]);
    assert!(log.contains("second exited holderIdentity\":\"\n"), "{log}");
}

#[test]
fn the_reason_is_told() {
    let scene = Scene::new();
    let options = ["--lease-duration", "3s", "--on-lost", "rejoin", "--step-down-signal", "USR1"];
    let mut leader = scene.contender("leader", &options, &format!("echo ready; {POLITE}"));
    leader.wait_line("ready");
    // The trap may come a little later than the line; the wrapper's own handler was there long before.
    leader.signal(SIGUSR1);
    scene.wait_log("leader", "leader stepped-down");
    wait_for("a second term", LONG, || (leader.count("ready") == 2).then_some(()));
    steal(&scene.path("default_demo.json"), "thief");
    scene.wait_log("leader", "leader lost holderIdentity\":\"thief\n");
    scene.wait_log("leader", "leader thief\n");
    wait_for("a third term", LONG, || (leader.count("ready") == 3).then_some(()));
    send_signal(leader.guard(), SIGKILL);
    assert_eq!(leader.wait(), 125);
    assert!(scene.log("leader").contains("leader failed"), "{}", scene.log("leader"));
    assert_eq!(scene.log("leader").matches("holderIdentity").count(), 3, "{}", scene.log("leader"));
}

#[test]
fn what_they_print_is_no_data_and_what_they_know_is_the_election() {
    let scene = Scene::new();
    let print = "sh -c 'env | sort | grep ^LEADER_; grep ^SigBlk: /proc/self/status'";
    let mut command = scene.command(&["--on-new-leader", print, "--identity", "a b"], "echo data; exit 0");
    let done = command.env("LEADER_RUN_STOP_GRACE", "1s").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "data\n");
    let said = String::from_utf8_lossy(&done.stderr);
    for line in [
        "LEADER_ELECTION_IDENTITY=a b\nLEADER_ELECTION_LEADER=a b\nLEADER_ELECTION_LOCK=file\n",
        "LEADER_ELECTION_NAME=demo\nLEADER_ELECTION_NAMESPACE=default\n",
        "LEADER_ELECTION_LEADER=\n",
        // As leader-run was started, and its child is.
        "SigBlk:\t0000000000000000\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(!said.contains("LEADER_RUN_"), "{said}");
}

#[test]
fn one_that_fails_is_said_and_changes_nothing() {
    let scene = Scene::new();
    let done = scene.command(&["--on-stopped-leading", "sh -c 'exit 9'"], "exit 6").output().unwrap();
    assert_eq!(done.status.code(), Some(6));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("the command of --on-stopped-leading failed: exit status: 9"), "{said}");
}

#[test]
fn of_many_leaders_the_last_one_is_told() {
    let scene = Scene::new();
    let log = scene.path("told");
    let slow = format!("sh -c 'sleep 0.2; echo \"[$LEADER_ELECTION_LEADER]\" >>{}'", log.display());
    let mut standby =
        scene.command(&["--identity", "standby", "--on-new-leader", &slow, "--lease-duration", "3s"], POLITE);
    let leader = Contender::start(&mut scene.command(&["--identity", "first"], POLITE));
    leader.wait_line("leading");
    let standby = Contender::start(&mut standby);
    standby.wait_line("waiting");
    let record = scene.path("default_demo.json");
    for number in 0..40 {
        steal(&record, &format!("thief-{number}"));
        wait_for("it is seen", LONG, || (standby.count("is held by thief") > number).then_some(()));
    }
    standby.wait_line("runs of it are left out");
    wait_for("the last one", LONG, || {
        std::fs::read_to_string(&log).is_ok_and(|told| told.ends_with("[thief-39]\n")).then_some(())
    });
}

#[test]
fn when_leader_run_is_killed_they_are_too() {
    let scene = Scene::new();
    let options = ["--on-new-leader", "sh -c 'echo waits $$; exec sleep 300'"];
    let mut leader = Contender::start(&mut scene.command(&options, &format!("echo ready; {POLITE}")));
    leader.wait_line("ready");
    let sleep = leader.wait_line("waits ").text.rsplit(' ').next().unwrap().parse().unwrap();
    leader.signal(SIGKILL);
    leader.wait();
    wait_for("its end", LONG, || (!support::is_alive(sleep)).then_some(()));
}

#[test]
fn one_that_cannot_be_run_is_refused_before_contending() {
    for (command, words) in [
        ("no-such-command", "--on-new-leader: no-such-command: command not found"),
        ("/etc/passwd", "--on-new-leader: /etc/passwd: cannot be executed"),
        ("", "--on-new-leader is empty"),
        ("sh -c 'x", "has an open quote"),
    ] {
        let done = output(&["--lock", "file", "--name", "x", "--on-new-leader", command, "--", "true"]);
        assert_eq!(done.code, 125, "{done:?}");
        assert!(done.stderr.contains(words) && done.stderr.lines().count() == 1, "{done:?}");
    }
}
