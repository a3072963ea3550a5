//! `--state-file` and `leader-run assert`, on a lock in a file.

mod support;

use leader_run::clock::Instant;
use leader_run::state_file::{Role, State, boot_id, read_file};
use nix::libc::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;
use support::{
    Contender, Finished, LONG, POLITE, STUBBORN, kill_both, leader_run, output, send_signal, steal, wait_for,
};
use tempfile::TempDir;

/// L 3 s, so that K is 2 s.
const SHORTEST: [&str; 2] = ["--lease-duration", "3s"];

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

    fn record(&self) -> PathBuf {
        self.path("locks/default_demo.json")
    }

    /// A contender with a state file of its name.
    fn command(&self, identity: &str, options: &[&str], script: &str) -> Command {
        let mut command = leader_run();
        command.args(["--lock", "file", "--name", "demo", "--identity", identity, "--lock-dir"]);
        command.arg(self.path("locks")).arg("--state-file").arg(self.path(identity));
        command.args(options).args(["--", "bash", "-c", script]).env("LEADER", env!("CARGO_BIN_EXE_leader-run"));
        command
    }

    fn contender(&self, identity: &str, options: &[&str], script: &str) -> Contender {
        Contender::start(&mut self.command(identity, options, script))
    }

    /// One that leads, with a child that says so.
    fn leader(&self, options: &[&str], child: &str) -> Contender {
        let leader = self.contender("leader", options, &format!("trap 'exit 0' TERM; echo ready; {child}"));
        leader.wait_line("ready");
        leader
    }

    fn state(&self, identity: &str) -> Option<State> {
        state(&self.path(identity))
    }

    fn wait_role(&self, identity: &str, role: Role) -> State {
        let what = format!("{role:?} in the file of {identity}");
        wait_for(&what, LONG, || self.state(identity).filter(|state| state.role == role))
    }

    fn holder(&self) -> String {
        let text = fs::read_to_string(self.record()).unwrap_or_default();
        let holder = text.split("holderIdentity\":\"").nth(1).and_then(|rest| rest.split('"').next());
        holder.unwrap_or_default().to_owned()
    }

    fn assert(&self, identity: &str, more: &[&str]) -> Finished {
        assert_with(&self.path(identity), more)
    }
}

fn state(path: &Path) -> Option<State> {
    // Replaced atomically: it is there and whole, or not there.
    read_file(path).ok().map(|text| State::parse(&text).unwrap())
}

fn assert_with(path: &Path, more: &[&str]) -> Finished {
    output(&[&["assert", "--state-file", path.to_str().unwrap()], more].concat())
}

/// One line about why not, with all these words.
fn refused(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!((finished.code, finished.stderr.lines().count()), (code, 1), "{finished:?}");
    for word in words {
        assert!(finished.stderr.contains(word), "{word:?} is not in {}", finished.stderr);
    }
}

#[test]
fn a_child_finds_the_file_and_can_ask() {
    let scene = Scene::new();
    let script = "cat $LEADER_ELECTION_STATE_FILE; $LEADER assert && echo yes; $LEADER assert --min-remaining 1h; \
                  echo $?; echo $LEADER_ELECTION_FENCING_TOKEN; echo $LEADER_ELECTION_STATE_FILE; \
                  $LEADER --lock file --lock-dir locks --name inner -- env | grep -c ^LEADER_ELECTION_STATE_FILE";
    let mut command = scene.command("leader", &[], script);
    // A relative path works from anywhere, and beats that of a leader-run above.
    command.current_dir(&scene.folder).env("LEADER_ELECTION_STATE_FILE", "/nowhere").arg("unused");
    let begun = Instant::now();
    let done = Finished::from(command.output().unwrap());
    let lines: Vec<_> = done.stdout.lines().collect();
    let [text, "yes", "1", token, path, "0"] = lines[..] else { panic!("{done:?}") };
    assert_eq!(Path::new(path), scene.path("leader"));
    assert!(done.stderr.contains("less than --min-remaining 1h"), "{done:?}");
    let state = State::parse(text.as_bytes()).unwrap();
    let term = state.term.unwrap();
    assert_eq!((state.role, state.holder.as_deref(), term.token.as_str()), (Role::Leader, Some("leader"), token));
    assert_eq!((state.lock.as_str(), state.namespace.as_str(), state.name.as_str()), ("file", "default", "demo"));
    assert_eq!((state.boot_id, term.transitions), (boot_id().unwrap(), 0));
    // K is 13.5 s.
    let held = term.deadline.leader_left(begun);
    assert!(held >= Duration::from_secs(13) && held < Duration::from_secs(13) + LONG, "{held:?}");
    let left: Vec<_> = fs::read_dir(&scene.folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["locks"], "at its end nothing is left");
}

#[test]
fn each_says_what_it_is() {
    let scene = Scene::new();
    let mut leader = scene.leader(&[], POLITE);
    let standby = scene.contender("standby", &[], POLITE);
    wait_for("the leader in the standby's file", LONG, || {
        scene.state("standby").filter(|state| state.holder.as_deref() == Some("leader"))
    });
    assert_eq!(scene.state("standby").unwrap().role, Role::Standby);
    assert_eq!(scene.assert("leader", &["--min-remaining", "5s"]).code, 0);
    refused(&scene.assert("standby", &[]), 1, &["waiting for file lock default/demo", "leader holds"]);
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 0, "{}", leader.said());
    refused(&scene.assert("leader", &[]), 125, &["--state-file", "No such file"]);
    scene.wait_role("standby", Role::Leader);
    assert_eq!(scene.assert("standby", &[]).code, 0);
    drop(standby);
}

/// Has a leader end in this way, and watches that its file promises nothing any more when the lock is given back.
fn is_taken_back_first(scene: &Scene, options: &[&str], child: &str, end: impl Fn(&Contender)) -> Contender {
    let leader = scene.leader(options, child);
    let term = scene.state("leader").unwrap().term.unwrap();
    let (over, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let begun = Instant::now();
            while !over.load(Ordering::Relaxed) && Instant::now().leader_since(begun) < LONG {
                // Read in this order: what it promises afterwards, it promised when the lock was given back, too.
                let held = scene.holder() == "leader";
                let promise = scene.state("leader").filter(|state| state.left(&state.boot_id, Instant::now()).is_ok());
                let token = promise.and_then(|state| state.term).map(|term| term.token);
                if !held && token.as_ref() == Some(&term.token) {
                    return Err(leader.said());
                }
                looks.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        wait_for("a first look", LONG, || (looks.load(Ordering::Relaxed) > 0).then_some(()));
        end(&leader);
        wait_for("the release", LONG, || (scene.holder().is_empty()).then_some(()));
        over.store(true, Ordering::Relaxed);
        watcher.join().unwrap().unwrap();
    });
    leader
}

#[test]
fn a_promise_is_taken_back_before_the_lock_is_given_back() {
    let forked = |signal| move |leader: &Contender| send_signal(leader.guard(), signal);
    for _ in 0..4 {
        let end = |leader: &Contender| leader.signal(SIGTERM);
        let code = is_taken_back_first(&Scene::new(), &[], POLITE, end).wait();
        assert_eq!(code, 0);
        let scene = Scene::new();
        let go = scene.path("go");
        let child = format!("until [ -e {} ]; do sleep 0.01; done; exit 3", go.display());
        assert_eq!(is_taken_back_first(&scene, &[], &child, |_| fs::write(&go, "").unwrap()).wait(), 3);
        assert_eq!(is_taken_back_first(&Scene::new(), &[], POLITE, forked(SIGKILL)).wait(), 125);
        let stepping = [&SHORTEST[..], &["--step-down-signal", "USR1"]].concat();
        let scene = Scene::new();
        let _leader = is_taken_back_first(&scene, &stepping, POLITE, |leader| leader.signal(SIGUSR1));
        assert!(matches!(scene.state("leader").unwrap().role, Role::Lost | Role::Standby | Role::Leader));
        let scene = Scene::new();
        is_taken_back_first(&scene, &[], POLITE, |leader| leader.signal(SIGKILL)).wait();
        assert_eq!(scene.state("leader"), None);
    }
}

#[test]
fn the_next_one_finds_no_promise_of_the_one_before() {
    let scene = Scene::new();
    let path = scene.path("leader");
    let ask = format!("trap 'exit 0' TERM; $LEADER assert --state-file {}; echo first $?; {POLITE}", path.display());
    for _ in 0..20 {
        let mut leader = scene.leader(&[], POLITE);
        let mut next = scene.contender("next", &[], &ask);
        scene.wait_role("next", Role::Standby);
        leader.signal(SIGTERM);
        let line = next.wait_line("first ").text;
        assert!(["first 1", "first 125"].contains(&line.as_str()), "{line}");
        next.signal(SIGTERM);
        assert_eq!((leader.wait(), next.wait()), (0, 0), "{}", next.said());
    }
}

#[test]
fn a_loss_is_said_while_the_child_still_stops() {
    let scene = Scene::new();
    let options = [&SHORTEST[..], &["--on-lost", "rejoin"]].concat();
    let leader = scene.leader(&options, STUBBORN);
    steal(&scene.record(), "thief");
    leader.wait_line("asked");
    let lost = scene.wait_role("leader", Role::Lost);
    assert_eq!((lost.holder.as_deref(), lost.term), (Some("thief"), None));
    refused(&scene.assert("leader", &[]), 1, &["no longer leading file lock default/demo", "thief holds"]);
    scene.wait_role("leader", Role::Standby);
    scene.wait_role("leader", Role::Leader);
    assert_eq!(scene.assert("leader", &[]).code, 0);
}

#[test]
fn the_deadline_counts_when_leader_run_is_stopped() {
    let scene = Scene::new();
    let mut leader = scene.leader(&SHORTEST, POLITE);
    leader.signal(SIGSTOP);
    // Not at once: until all of its threads have stopped, it may still write.
    sleep(Duration::from_millis(100));
    let deadline = scene.state("leader").unwrap().term.unwrap().deadline;
    let passed = |at: Instant| deadline.leader_left(at).is_zero();
    let (mut held, mut over) = (0, 0);
    while over < 20 {
        let before = Instant::now();
        let answer = scene.assert("leader", &[]);
        let after = Instant::now();
        match answer.code {
            0 => assert!(!passed(before), "held {:?} after the deadline", before.leader_since(deadline)),
            _ => assert!(passed(after), "{answer:?} {:?} before the deadline", deadline.leader_left(after)),
        }
        (held, over) = (held + i32::from(answer.code == 0), over + i32::from(answer.code != 0));
        if over == 1 {
            println!("false {:?} after the deadline, asked before it or then", after.leader_since(deadline));
            refused(&answer, 1, &["its deadline passed", "ago"]);
        }
    }
    assert!(held > 0);
    leader.signal(SIGCONT);
    assert_eq!(leader.wait(), 75, "{}", leader.said());
    assert_eq!(scene.state("leader"), None);
}

#[test]
fn the_guard_removes_it_and_without_one_the_deadline_counts() {
    let scene = Scene::new();
    let mut leader = scene.leader(&["--no-crash-release"], POLITE);
    leader.signal(SIGKILL);
    leader.wait();
    wait_for("the guard to remove it", LONG, || scene.state("leader").is_none().then_some(()));
    assert_eq!(scene.holder(), "leader");

    let scene = Scene::new();
    let mut leader = scene.leader(&SHORTEST, POLITE);
    kill_both(&mut leader);
    let deadline = scene.state("leader").unwrap().term.unwrap().deadline;
    wait_for("its deadline", LONG, || (scene.assert("leader", &[]).code == 1).then_some(()));
    assert!(deadline.leader_left(Instant::now()).is_zero());
    // It is another's, but promises nothing any more.
    let mut command = leader_run();
    command.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(scene.path("locks"));
    let mut next = Contender::start(command.arg("--state-file").arg(scene.path("leader")).args(["--", "true"]));
    assert_ne!(scene.wait_role("leader", Role::Standby).identity, "leader");
    assert_eq!(next.wait(), 0, "{}", next.said());
    assert_eq!(scene.state("leader"), None);
}

#[test]
fn one_who_does_not_lead_touches_no_file_of_a_leader() {
    let scene = Scene::new();
    let leader = scene.leader(&[], POLITE);
    let path = scene.path("leader");
    let mut command = leader_run();
    command.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(scene.path("locks"));
    let mut other = Contender::start(command.env("LEADER_RUN_STATE_FILE", &path).args(["--", "true"]));
    other.wait_line("that of another contender");
    other.signal(SIGTERM);
    assert_eq!(other.wait(), 143, "{}", other.said());
    assert_eq!(scene.state("leader").unwrap().role, Role::Leader);
    assert_eq!(other.count("that of another contender"), 1, "{}", other.said());
    drop(leader);
}

#[test]
fn what_cannot_be_written_any_more_is_said_once_and_has_its_deadline() {
    let scene = Scene::new();
    let [folder, away] = [scene.path("folder"), scene.path("away")];
    fs::create_dir(&folder).unwrap();
    let mut command = scene.command("leader", &SHORTEST, &format!("echo ready; {POLITE}"));
    let mut leader = Contender::start(command.env("LEADER_RUN_STATE_FILE", folder.join("state")));
    leader.wait_line("ready");
    drop(leader);
    // An option beats it: the file was the other one.
    assert!(!folder.join("state").exists());
    let mut command = leader_run();
    command.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(scene.path("locks")).args(SHORTEST);
    command.env("LEADER_RUN_STATE_FILE", folder.join("state")).args(["--", "bash", "-c"]);
    leader = Contender::start(command.arg(format!("echo ready; {POLITE}")));
    leader.wait_line("ready");
    fs::rename(&folder, &away).unwrap();
    leader.wait_line("cannot write it");
    wait_for("the deadline", LONG, || (assert_with(&away.join("state"), &[]).code == 1).then_some(()));
    assert!(leader.is_running(), "{}", leader.said());
    assert_eq!(leader.count("cannot write it"), 1, "{}", leader.said());
    fs::rename(&away, &folder).unwrap();
    wait_for("the next write", LONG, || (assert_with(&folder.join("state"), &[]).code == 0).then_some(()));
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 0, "{}", leader.said());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_used_is_known_at_once() {
    let scene = Scene::new();
    let run = |path: &str| output(&["--lock", "file", "--name", "demo", "--state-file", path, "--", "true"]);
    refused(&run("/nowhere/state"), 125, &["--state-file /nowhere/state", "No such file", "writable"]);
    refused(&run("/proc/state"), 125, &["--state-file /proc/state"]);
    refused(&run("/dev/null"), 125, &["no plain file"]);
    refused(&run(scene.folder.path().to_str().unwrap()), 125, &["no plain file"]);
    refused(&run(""), 125, &["--state-file"]);
    refused(&output(&["assert"]), 125, &["no state file", "--state-file PATH"]);
    refused(&output(&["assert", "--min-remaining", "5"]), 125, &["did you mean 5s?"]);
    refused(&output(&["assert", "--min-remaning", "5s"]), 125, &["--min-remaining"]);
    refused(&output(&["assert", "true"]), 125, &["true"]);
    let odd = scene.path("odd");
    fs::write(&odd, "{}").unwrap();
    refused(&assert_with(&odd, &[]), 125, &["--state-file", "is no state file"]);
    refused(&assert_with(Path::new("/proc/self"), &[]), 125, &["--state-file /proc/self"]);
    let help = output(&["assert", "--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    assert!(help.stdout.contains("--min-remaining <DUR>") && help.stdout.contains("leader-run assert"), "{help:?}");
    // Only before `--` is it a question.
    let command = output(&["--lock", "file", "--", "assert"]);
    assert_eq!(command.code, 127, "{command:?}");
}
