//! leader-run as PID 1, as in a container: in a PID namespace of its own.

mod support;

use nix::libc::{SIGHUP, SIGINT, SIGKILL, SIGSEGV, SIGTERM, SIGUSR1};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;
use support::{
    AT_ONCE, Contender, DAEMON, LONG, alone, as_pid_1, children, is_alive, leader_run, tree, wait_for, wait_gone,
};
use tempfile::TempDir;

/// A leader-run that is PID 1, with a lock of its own.
struct Container {
    folder: TempDir,
    contender: Contender,
}

impl Container {
    fn start(options: &[&str], child: &[&str]) -> Option<Container> {
        let folder = tempfile::tempdir().unwrap();
        let contender = Contender::start(&mut in_container(&folder, options, child)?);
        Some(Container { folder, contender })
    }

    /// With a bash script as its child.
    fn script(options: &[&str], script: &str) -> Option<Container> {
        Container::start(options, &["bash", "-c", script])
    }

    /// The process ids of its PID 1, and of leader-run itself, as they are outside.
    fn init_and_main(&self) -> [i32; 2] {
        let only = |pid| wait_for("its child", LONG, || children(pid).first().copied());
        let init = only(self.contender.pid());
        [init, only(init)]
    }

    fn record(&self) -> String {
        fs::read_to_string(self.folder.path().join("default_demo.json")).unwrap()
    }
}

fn in_container(folder: &TempDir, options: &[&str], child: &[&str]) -> Option<Command> {
    let mut command = as_pid_1()?;
    let inner = leader_run();
    command.arg(inner.get_program()).args(inner.get_args());
    command.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(folder.path());
    command.args(options).arg("--").args(child);
    Some(command)
}

fn signal(pid: i32, signal: i32) {
    kill(Pid::from_raw(pid), Signal::try_from(signal).unwrap()).unwrap();
}

/// A few milliseconds, and room for a busy machine.

#[test]
fn the_exit_code_is_the_childs() {
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -SEGV $$", 128 + SIGSEGV)] {
        let Some(mut container) = Container::script(&[], script) else { return };
        assert_eq!(container.contender.wait(), code, "{script}: {}", container.contender.said());
        assert!(container.record().contains("\"holderIdentity\":\"\""));
    }
    let Some(mut missing) = Container::start(&[], &["no-such-command"]) else { return };
    assert_eq!(missing.contender.wait(), 127);
}

#[test]
fn without_a_proc_of_its_own_it_refuses_to_run() {
    let folder = tempfile::tempdir().unwrap();
    let Some(command) = in_container(&folder, &[], &["true"]) else { return };
    let mut without = Command::new("unshare");
    let mut contender = Contender::start(without.args(command.get_args().filter(|arg| *arg != "--mount-proc")));
    assert_eq!(contender.wait(), 125, "{}", contender.said());
    contender.wait_line("/proc is not that of this PID namespace");
}

#[test]
fn it_is_not_in_the_way_of_leader_run_itself() {
    // The child's parent is the guard, whose parent is leader-run, whose parent is PID 1.
    let parent = "parent() { read -r _ _ _ p _ < /proc/$1/stat; echo $p; }
                  echo chain $(parent $(parent $(parent $$)))";
    let Some(mut container) = Container::script(&[], parent) else { return };
    assert_eq!(container.contender.wait(), 0);
    assert!(container.contender.line("chain 1").is_some(), "{}", container.contender.said());
}

#[test]
fn signals_are_forwarded_once() {
    let script = "for s in TERM INT USR1 HUP; do trap \"echo got $s\" $s; done; trap 'echo got QUIT; exit 4' QUIT
                  echo ready; while :; do sleep 0.02; done";
    let Some(mut container) = Container::script(&["--stop-signal", "QUIT"], script) else { return };
    let [init, _] = container.init_and_main();
    let contender = &mut container.contender;
    contender.wait_line("ready");
    for (number, name) in [(SIGUSR1, "USR1"), (SIGHUP, "HUP"), (SIGINT, "INT")] {
        signal(init, number);
        contender.wait_line(&format!("got {name}"));
    }
    signal(init, SIGTERM);
    assert_eq!(contender.wait(), 4, "{}", contender.said());
    for name in ["USR1", "HUP", "INT", "QUIT"] {
        let own_line = contender.lines().iter().filter(|line| line.text == format!("got {name}")).count();
        assert_eq!(own_line, 1, "{name}: {}", contender.said());
    }
}

#[test]
fn orphans_are_reaped() {
    // Twenty daemons that end at once, and one last orphan that outlives the others.
    let script = "for i in {1..20}; do (setsid true &); done; (setsid sleep 300 &); echo ready; sleep 300; :";
    let Some(container) = Container::script(&[], script) else { return };
    container.contender.wait_line("ready");
    let [init, main] = container.init_and_main();
    wait_for("the zombies' end", LONG, || {
        let everybody = tree(init);
        // leader-run, its guard, the child, and two sleeps.
        (everybody.len() == 5 && everybody.iter().all(|pid| is_alive(*pid))).then_some(())
    });
    assert_eq!((children(init).len(), children(main).len()), (1, 1));
}

#[test]
fn an_orphan_of_pid_1_itself_is_reaped() {
    let Some(container) = Container::script(&[], "echo ready; sleep 300") else { return };
    container.contender.wait_line("ready");
    let [init, _] = container.init_and_main();
    // One that comes from outside, as with kubectl exec, and leaves an orphan behind.
    let exec = Command::new("nsenter")
        .args(["--pid", "--mount", "--target", &init.to_string(), "--", "bash", "-c", "setsid sleep 0.3 & exit 3"])
        .status()
        .unwrap();
    assert_eq!(exec.code(), Some(3));
    wait_for("the orphan to be there", LONG, || (children(init).len() == 2).then_some(()));
    wait_for("the orphan to be reaped", LONG, || (children(init).len() == 1).then_some(()));
}

#[test]
fn kill_9_of_leader_run_or_of_pid_1_takes_everything_along() {
    for of_pid_1 in [false, true] {
        let script = format!("{DAEMON} {DAEMON} trap '' TERM; echo ready; while :; do sleep 0.02; done");
        let Some(mut container) = Container::script(&[], &script) else { return };
        container.contender.wait_line("ready");
        let [init, main] = container.init_and_main();
        let everybody = [&tree(init)[..], &[init]].concat();
        assert!(everybody.len() >= 6, "{everybody:?}");
        let killed = Instant::now();
        signal(if of_pid_1 { init } else { main }, SIGKILL);
        let took = wait_gone(&everybody, LONG) - killed;
        eprintln!("gone after {took:?}");
        assert!(took < AT_ONCE, "of PID 1: {of_pid_1}: {took:?}");
        let code = container.contender.wait();
        // What unshare makes of a PID 1 that was killed is its own business.
        assert!(of_pid_1 || code == 137, "{code}");
        // The guard gives it back before PID 1 ends, where there is a guard.
        assert_eq!(container.record().contains("\"holderIdentity\":\"\""), !of_pid_1);
    }
}

#[test]
fn kill_9_of_leader_run_and_its_guard_at_once_takes_everything_along() {
    let script = format!("{DAEMON} {DAEMON} trap '' TERM; echo ready; while :; do sleep 0.02; done");
    let Some(mut container) = Container::script(&[], &script) else { return };
    container.contender.wait_line("ready");
    let [init, main] = container.init_and_main();
    let (guard, tree) = (children(main)[0], tree(init));
    let killed = Instant::now();
    for pid in [main, guard] {
        signal(pid, SIGKILL);
    }
    let took = wait_gone(&tree, LONG) - killed;
    eprintln!("gone after {took:?}");
    assert!(took < AT_ONCE, "{took:?}");
    assert_eq!(container.contender.wait(), 137);
}

#[test]
fn a_signal_to_everybody_at_once_keeps_the_order() {
    for whole_group in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let oracle = folder.path().join("oracle");
        // All get SIGTERM at once; a daemon of the tree does not care, and the child takes its time.
        let script = format!("{DAEMON} trap 'sleep 0.2; exit 6' TERM; echo ready; while :; do sleep 0.02; done");
        let child = alone(&oracle, &script);
        let Some(mut command) = in_container(&folder, &[], &child.each_ref().map(String::as_str)) else { return };
        command.process_group(0);
        let mut first = Contender::start(&mut command);
        first.wait_line("ready");
        let second_child = alone(&oracle, "echo second");
        let mut second = leader_run();
        second.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(folder.path());
        let second = Contender::start(second.arg("--").args(second_child));
        second.wait_line("waiting");
        if whole_group {
            nix::sys::signal::killpg(Pid::from_raw(first.pid()), Signal::SIGTERM).unwrap();
        } else {
            let init = children(first.pid())[0].to_string();
            let inside = ["--pid", "--mount", "--target", &init, "--", "bash", "-c", "kill -TERM -1"];
            Command::new("nsenter").args(inside).status().unwrap();
        }
        assert_eq!(first.wait(), 6, "{}", first.said());
        second.wait_line("second");
        assert_eq!(first.count("OVERLAP") + second.count("OVERLAP"), 0);
    }
}

#[test]
fn sigchld_inherited_as_ignored_loses_no_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut command) = as_pid_1() else { return };
    // A shell may set a disposition back; perl hands on what it is told.
    command.args(["perl", "-e", "$SIG{CHLD} = 'IGNORE'; exec @ARGV", env!("CARGO_BIN_EXE_leader-run")]);
    command.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(folder.path());
    assert_eq!(Contender::start(command.args(["--", "sh", "-c", "exit 7"])).wait(), 7);
}

#[test]
fn the_exit_code_of_a_credential_plugin_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("config");
    let plugin = r#"{"apiVersion":"v1","kind":"Config","current-context":"c",
        "contexts":[{"name":"c","context":{"cluster":"c","user":"u","namespace":"ops"}}],
        "clusters":[{"name":"c","cluster":{"server":"https://127.0.0.1:1"}}],
        "users":[{"name":"u","user":{"exec":{"apiVersion":"client.authentication.k8s.io/v1","command":"sh",
            "args":["-c","exit 33"],"interactiveMode":"Never"}}}]}"#;
    fs::write(&kubeconfig, plugin).unwrap();
    let Some(mut command) = as_pid_1() else { return };
    let inner = leader_run();
    command.arg(inner.get_program()).args(inner.get_args()).args(["--name", "demo", "--kubeconfig"]);
    let mut contender = Contender::start(command.arg(kubeconfig).args(["--", "true"]));
    assert_eq!(contender.wait(), 125);
    assert!(contender.said().contains("exit status: 33"), "{}", contender.said());
}
