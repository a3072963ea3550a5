//! `--pid-namespace`: the tree in a PID namespace of its own.

mod support;

use nix::libc::{SIGKILL, SIGTERM, SIGUSR1};
use nix::unistd::Uid;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{
    AT_ONCE, Contender, DAEMON, Finished, LONG, alone, children, is_alive, kill_both, leader_run, median, send_signal,
    steal, tree, wait_for, wait_gone,
};
use tempfile::TempDir;

/// Whether this machine lets us; asked of util-linux, not of leader-run.
fn is_permitted() -> bool {
    let unshare = Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).output();
    let permitted = unshare.is_ok_and(|done| done.status.success());
    if !permitted {
        eprintln!("not run: it needs root, and a machine on which root may make namespaces");
    }
    permitted
}

fn command(folder: &Path, options: &[&str], child: &[&str]) -> Command {
    let mut command = leader_run();
    command.args(["--lock", "file", "--name", "demo", "--pid-namespace", "--lock-dir"]).arg(folder);
    command.args(options).arg("--").args(child);
    command
}

fn run(options: &[&str], child: &[&str]) -> Finished {
    let folder = tempfile::tempdir().unwrap();
    command(folder.path(), options, child).output().unwrap().into()
}

fn start(options: &[&str], script: &str) -> (TempDir, Contender) {
    let folder = tempfile::tempdir().unwrap();
    let contender = Contender::start(&mut command(folder.path(), options, &["bash", "-c", script]));
    (folder, contender)
}

fn record(folder: &TempDir) -> String {
    fs::read_to_string(folder.path().join("default_demo.json")).unwrap()
}

fn is_released(folder: &TempDir) -> bool {
    record(folder).contains("\"holderIdentity\":\"\"")
}

/// Two daemons that nothing but their namespace holds together, and a child that does not leave.
fn stubborn() -> String {
    format!("{DAEMON} {DAEMON} trap '' TERM; while :; do sleep 0.02; done")
}

/// The tree once both daemons are there, init included, by the numbers it has outside.
fn stubborn_tree(contender: &Contender) -> Vec<i32> {
    wait_for("both daemons", LONG, || (contender.count("daemon ") == 2).then_some(()));
    let tree = tree(contender.guard());
    assert!(tree.len() >= 6, "{tree:?}");
    tree
}

#[test]
fn where_it_is_not_permitted_it_is_refused_before_contending() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("lock");
    let inner = command(&lock, &[], &["true"]);
    let mut outer = Command::new("setpriv");
    outer.args(if Uid::effective().is_root() {
        &["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"][..]
    } else {
        &[]
    });
    let finished = Finished::from(outer.arg(inner.get_program()).args(inner.get_args()).output().unwrap());
    assert_eq!(finished.code, 125, "{finished:?}");
    assert!(finished.stderr.starts_with("leader-run: --pid-namespace is not possible here"), "{finished:?}");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
    assert!(!lock.exists(), "it has contended");
}

#[test]
fn the_exit_code_is_the_childs() {
    if !is_permitted() {
        return;
    }
    for (script, code) in
        [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("kill -40 $$", 168)]
    {
        assert_eq!(run(&[], &["bash", "-c", script]).code, code, "{script}");
    }
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone");
    fs::copy("/bin/true", &gone).unwrap();
    let first = Contender::start(&mut command(folder.path(), &[], &["sleep", "300"]));
    wait_for("a child", LONG, || (tree(first.guard()).len() == 2).then_some(()));
    let mut second = Contender::start(&mut command(folder.path(), &[], &[gone.to_str().unwrap()]));
    second.wait_line("waiting");
    // A command that is gone when its term comes.
    fs::remove_file(&gone).unwrap();
    first.signal(SIGTERM);
    assert_eq!(second.wait(), 127, "{}", second.said());
    assert!(is_released(&folder));
}

#[test]
fn the_tree_sees_only_itself_and_its_parent_is_the_guard() {
    if !is_permitted() {
        return;
    }
    let mut from_environment = leader_run();
    let folder = tempfile::tempdir().unwrap();
    from_environment.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(folder.path());
    from_environment.env("LEADER_RUN_PID_NAMESPACE", "true");
    let script =
        "echo pids $(cd /proc; echo [0-9]*); echo me $$; readlink /proc/self/ns/pid /proc/self/ns/mnt; pwd; read";
    from_environment.args(["--", "bash", "-c", &format!("{script} < <(sleep 300)")]).current_dir("/usr");
    let contender = Contender::start(&mut from_environment);
    contender.wait_line("/usr");
    // Init, bash, and a second bash that waits for the third to echo; then the sleep.
    let pids = contender.wait_line("pids ").text;
    assert!(pids.starts_with("pids 1 2") && pids.split(' ').count() <= 6, "{pids}");
    assert_eq!(contender.wait_line("me ").text, "me 2");
    for kind in ["pid", "mnt"] {
        let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let its = contender.wait_line(&format!("{kind}:[")).text;
        assert_ne!(its, ours.to_str().unwrap());
        let guards = fs::read_link(format!("/proc/{}/ns/{kind}", contender.guard())).unwrap();
        assert_eq!(guards, ours);
    }
    let [_init, child] = children(contender.guard())[..] else { panic!("{:?}", tree(contender.guard())) };
    let comm = fs::read_to_string(format!("/proc/{child}/comm")).unwrap();
    assert_eq!(comm.trim(), "bash");
}

#[test]
fn its_init_holds_no_descriptor_but_its_own_and_leaks_none() {
    if !is_permitted() {
        return;
    }
    let bare = leader_run_without_namespace("ls -l /proc/self/fd | wc -l");
    assert_eq!(run(&[], &["sh", "-c", "ls -l /proc/self/fd | wc -l"]).stdout, bare);
    let (_folder, contender) = start(&[], "echo ready; sleep 300; :");
    contender.wait_line("ready");
    let init = children(contender.guard())[0];
    let links = || fs::read_dir(format!("/proc/{init}/fd")).unwrap().map(|fd| fs::read_link(fd.unwrap().path()));
    // The way to the guard, and the signals.
    wait_for("two descriptors", LONG, || (links().count() == 2).then_some(()));
}

fn leader_run_without_namespace(script: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = leader_run();
    command.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(folder.path());
    Finished::from(command.args(["--", "sh", "-c", script]).output().unwrap()).stdout
}

#[test]
fn kill_9_of_leader_run_and_of_its_guard_at_once_takes_the_whole_tree_along() {
    if !is_permitted() {
        return;
    }
    let samples = (0..5).map(|_| {
        let (folder, mut contender) = start(&[], &stubborn());
        // The dying init waits for the machine's own to reap the child.
        let [_init, tree @ ..] = &stubborn_tree(&contender)[..] else { panic!("no tree") };
        let killed = kill_both(&mut contender);
        let took = wait_gone(tree, LONG) - killed;
        assert!(!is_released(&folder));
        took
    });
    let took = median(samples.collect());
    eprintln!("gone after {took:?}");
    assert!(took <= Duration::from_millis(100), "{took:?}");
}

#[test]
fn kill_9_of_one_of_them_takes_the_whole_tree_along() {
    if !is_permitted() {
        return;
    }
    for of_the_guard in [false, true] {
        let (folder, mut contender) = start(&[], &stubborn());
        let tree = stubborn_tree(&contender);
        let killed = Instant::now();
        if of_the_guard {
            send_signal(contender.guard(), SIGKILL)
        } else {
            contender.signal(SIGKILL)
        }
        let took = wait_gone(&tree, LONG) - killed;
        eprintln!("of the guard: {of_the_guard}: gone after {took:?}");
        assert!(took <= AT_ONCE, "{took:?}");
        assert_eq!(contender.wait(), if of_the_guard { 125 } else { -SIGKILL }, "{}", contender.said());
        wait_for("the release", LONG, || is_released(&folder).then_some(()));
    }
}

#[test]
fn signals_reach_the_child() {
    if !is_permitted() {
        return;
    }
    let script =
        "trap 'echo got USR1' USR1; trap 'echo got QUIT; exit 4' QUIT; echo ready; while :; do sleep 0.02; done";
    let (_folder, mut contender) = start(&["--stop-signal", "QUIT"], script);
    contender.wait_line("ready");
    contender.signal(SIGUSR1);
    contender.wait_line("got USR1");
    contender.signal(SIGTERM);
    assert_eq!(contender.wait(), 4, "{}", contender.said());
    assert_eq!(contender.count("got QUIT"), 1);
}

#[test]
fn what_the_child_leaves_behind_is_asked_to_end_then_killed_before_the_release() {
    if !is_permitted() {
        return;
    }
    // An orphan, which leaves when asked to, and daemons, which do not.
    let script =
        format!("{DAEMON} (trap 'echo asked; exit' TERM; echo orphan; while :; do sleep 0.02; done) & exec sleep 0.5");
    let (folder, mut contender) = start(&[], &script);
    contender.wait_line("orphan");
    let sleeper = || tree(contender.guard()).into_iter().find(|pid| sleeps_long(*pid));
    let daemon = wait_for("the daemon", LONG, sleeper);
    contender.wait_line("stopping the processes that it left behind");
    contender.wait_line("asked");
    wait_for("the release", LONG, || is_released(&folder).then_some(()));
    assert!(!is_alive(daemon), "released while {daemon} lives");
    assert_eq!(contender.wait(), 0, "{}", contender.said());
}

fn sleeps_long(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x00300\x00")
}

#[test]
fn a_child_that_leaves_nothing_behind_ends_the_term_at_once() {
    if !is_permitted() {
        return;
    }
    // Orphans that have ended, and are still to be reaped, are nobody.
    for _ in 0..10 {
        let started = Instant::now();
        let finished = run(&[], &["bash", "-c", "for i in {1..20}; do (setsid true &); done; wait; sleep 0.1; exit 3"]);
        assert_eq!(finished.code, 3);
        assert!(!finished.stderr.contains("left behind"), "{finished:?}");
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    }
}

#[test]
fn orphans_are_reaped() {
    if !is_permitted() {
        return;
    }
    let (_folder, contender) = start(&[], "for i in {1..20}; do (setsid true &); done; echo ready; sleep 300; :");
    contender.wait_line("ready");
    // Init, the child and its sleep.
    wait_for("the zombies' end", LONG, || (tree(contender.guard()).len() == 3).then_some(()));
}

#[test]
fn with_wait_all_descendants_are_waited_for() {
    if !is_permitted() {
        return;
    }
    let (folder, mut contender) = start(&["--wait-all"], "(setsid sh -c 'sleep 0.7; echo late' &); exit 5");
    contender.wait_line("waiting for the processes that it left behind");
    assert!(!is_released(&folder));
    assert_eq!(contender.wait(), 5, "{}", contender.said());
    assert!(contender.line("late").is_some(), "{}", contender.said());
}

#[test]
fn every_term_has_a_new_namespace() {
    if !is_permitted() {
        return;
    }
    let options = ["--on-lost", "rejoin", "--step-down-signal", "USR2", "--lease-duration", "4s"];
    let folder = tempfile::tempdir().unwrap();
    // The second number would be another one in a namespace that had been used.
    let script = format!("echo child $$; {}", stubborn());
    let child = alone(&folder.path().join("oracle"), &script);
    let child = child.each_ref().map(String::as_str);
    let contender =
        Contender::start(&mut command(folder.path(), &[&options[..], &["--stop-grace", "0s"]].concat(), &child));
    let mut trees = Vec::new();
    for term in 1..=3 {
        wait_for(&format!("term {term}: {}", contender.said()), LONG, || {
            (contender.count("daemon ") == 2 * term).then_some(())
        });
        assert_eq!(contender.count("child 2"), term, "{}", contender.said());
        trees.push(tree(contender.guard()));
        match term {
            1 => send_signal(contender.pid(), nix::libc::SIGUSR2),
            2 => drop(steal(&folder.path().join("default_demo.json"), "thief")),
            _ => {}
        }
        if term < 3 {
            wait_gone(&trees[term - 1], LONG);
        }
    }
    assert_eq!(contender.count("OVERLAP"), 0, "{}", contender.said());
}

#[test]
fn an_init_that_is_killed_from_outside_is_the_end_of_the_child() {
    if !is_permitted() {
        return;
    }
    let (folder, mut contender) = start(&[], &stubborn());
    let tree = stubborn_tree(&contender);
    send_signal(tree[0], SIGKILL);
    assert_eq!(contender.wait(), 137, "{}", contender.said());
    assert!(tree.iter().all(|pid| !is_alive(*pid)) && is_released(&folder));
}
