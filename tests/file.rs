//! The election, run by the real binary on a lock in a file.

mod support;

use nix::libc::{SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use support::{
    AT_ONCE, Contender, Finished, LONG, alone, copy_program, leader_run, median, rewrite, wait_change, wait_for,
    wait_gone,
};
use tempfile::TempDir;

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

    fn text(&self) -> String {
        fs::read_to_string(self.record()).unwrap_or_default()
    }

    fn oracle(&self) -> PathBuf {
        self.folder.path().join("oracle")
    }

    fn command(&self, options: &[&str], child: &[String]) -> Command {
        let mut command = leader_run();
        command.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(self.folder.path());
        command.args(options).arg("--").args(child);
        command
    }

    /// A contender whose child proves that it is alone, then does this.
    fn contender(&self, options: &[&str], script: &str) -> Contender {
        Contender::start(&mut self.command(options, &alone(&self.oracle(), script)))
    }
}

/// The shortest lease there is.
const SHORT: [&str; 4] = ["--lease-duration", "3s", "--renew-deadline", "1500ms"];

#[test]
fn the_first_line_of_the_readme() {
    let lock = Lock::new();
    let child = ["sh", "-c", "echo \"token $LEADER_ELECTION_FENCING_TOKEN\"; exit 7"].map(String::from);
    let run = || Finished::from(lock.command(&[], &child).output().unwrap());
    let token = |finished: &Finished| finished.stdout.trim().strip_prefix("token ").unwrap().parse::<u64>().unwrap();
    let (first, second) = (run(), run());
    assert_eq!((first.code, second.code), (7, 7), "{first:?}");
    assert!(token(&first) < token(&second), "tokens grow");
}

#[test]
fn a_second_one_waits_and_starts_within_100_ms_of_the_release() {
    let lock = Lock::new();
    let mut samples = Vec::new();
    for _ in 0..20 {
        let first =
            lock.contender(&[], "read -t 60 < <(sleep 60) & trap 'echo bye; exit 0' TERM; echo listening; wait");
        first.wait_line("listening");
        let mut second = lock.contender(&[], "exit 3");
        second.wait_line("waiting");
        assert!(second.line("start").is_none());
        first.signal(SIGTERM);
        // The child's last word is a little before the release: this is an upper bound.
        let start = second.wait_line("start").at;
        samples.push(start - first.wait_line("bye").at);
        assert_eq!(second.wait(), 3);
        assert_eq!(first.count("OVERLAP") + second.count("OVERLAP"), 0);
    }
    let median = median(samples);
    assert!(median <= Duration::from_millis(100), "{median:?}");
    eprintln!("release to next start: median {median:?}");
}

#[test]
fn wait_ends_with_124_and_says_who_holds_the_lock() {
    let lock = Lock::new();
    let first = lock.contender(&["--identity", "the-first"], "sleep 60");
    first.wait_line("start");
    for (wait, changed) in [("0s", "has not renewed"), ("1s", ""), ("3s", "has renewed")] {
        let start = Instant::now();
        let mut second = lock.contender(&["--wait", wait], "exit 3");
        assert_eq!(second.wait(), 124);
        let line = second.wait_line("not leading after").text;
        for words in ["the-first", wait, changed, "--wait of more than 15s"] {
            assert!(line.contains(words), "{words:?} is not in {line}");
        }
        assert!(start.elapsed() < Duration::from_secs(8));
    }
}

#[test]
fn a_lock_that_is_free_is_taken_with_wait_zero() {
    let lock = Lock::new();
    for _ in 0..2 {
        let mut contender = lock.contender(&["--wait", "0s"], "exit 3");
        assert_eq!(contender.wait(), 3, "{}", contender.said());
    }
}

#[test]
fn after_kill_9_the_child_is_gone_and_the_lock_is_given_back() {
    let next = next_after_kill_9(&[]);
    assert!(next <= AT_ONCE, "the next child started after {next:?}");
}

#[test]
fn after_kill_9_without_a_crash_release_the_next_one_waits_for_the_lease() {
    let next = next_after_kill_9(&[&SHORT[..], &["--no-crash-release"]].concat());
    let lease = Duration::from_secs(3);
    assert!(next >= lease, "the next child started after {next:?}");
    assert!(next <= lease + AT_ONCE, "the next child started after {next:?}");
}

/// How long after the last renewal, right after which its leader was killed.
fn next_after_kill_9(options: &[&str]) -> Duration {
    let lock = Lock::new();
    let first = lock.contender(options, "echo pid $$; trap '' TERM; while :; do sleep 0.05; done");
    let second = lock.contender(options, "echo pid $$; sleep 60");
    let (leader, standby) = wait_for("a leader", LONG, || {
        let leads = |c: &Contender| c.line("pid ").is_some();
        if leads(&first) { Some((&first, &second)) } else { leads(&second).then_some((&second, &first)) }
    });
    let pid = leader.wait_line("pid ").text[4..].parse().unwrap();
    standby.wait_line("waiting");
    // So that its moment is known.
    let renewal = wait_change("a renewal", LONG, || lock.text());
    let killed = Instant::now();
    leader.signal(SIGKILL);
    let gone = wait_gone(&[pid], LONG);
    // The first row of the fault matrix measures it.
    assert!(gone - killed <= AT_ONCE, "{:?}", gone - killed);
    let next = standby.wait_line("pid ").at;
    assert_eq!(standby.count("OVERLAP"), 0);
    next - renewal
}

#[test]
fn a_stopped_leader_run_loses_its_child_in_time() {
    let lock = Lock::new();
    let mut leader = lock.contender(&SHORT, "echo pid $$; trap '' TERM; while :; do sleep 0.05; done");
    let pid = leader.wait_line("pid ").text[4..].parse().unwrap();
    leader.signal(SIGSTOP);
    let stopped = Instant::now();
    // K is 2 s, and L 3 s: then another one may lead.
    let gone = wait_gone(&[pid], LONG) - stopped;
    leader.signal(SIGCONT);
    assert!(gone < Duration::from_secs(3), "{gone:?}");
    assert_eq!(leader.wait(), 75);
    assert!(leader.said().contains("lost file lock default/demo"), "{}", leader.said());
}

#[test]
fn a_lock_taken_by_somebody_else_is_a_loss_and_is_not_touched_again() {
    let lock = Lock::new();
    let script = "trap 'echo asked; exit 0' TERM; echo listening; while :; do sleep 0.05; done";
    // It does not look before it renews: it is told.
    let mut leader = lock.contender(&["--lease-duration", "30s", "--retry-period", "15s"], script);
    leader.wait_line("listening");
    let foreign = replace(&lock, &identity(&lock), "somebody-else");
    let written = Instant::now();
    assert!(leader.wait_line("asked").at - written <= AT_ONCE);
    assert_eq!(leader.wait(), 75);
    assert!(leader.said().contains("somebody-else holds it now"), "{}", leader.said());
    assert_eq!(lock.text(), foreign);
}

#[test]
fn a_loss_during_a_requested_stop_ends_with_75() {
    let lock = Lock::new();
    let script = "trap 'echo asked; sleep 1; exit 0' TERM; echo listening; while :; do sleep 0.05; done";
    let mut leader = lock.contender(&["--lost-exit-code", "42"], script);
    leader.wait_line("listening");
    leader.signal(SIGTERM);
    leader.wait_line("asked");
    let foreign = replace(&lock, &identity(&lock), "somebody-else");
    assert_eq!(leader.wait(), 42, "{}", leader.said());
    assert_eq!(lock.text(), foreign);
}

#[test]
fn after_a_loss_it_contends_again_where_asked_to() {
    let lock = Lock::new();
    let script = "trap 'echo asked; exit 0' TERM; echo listening; while :; do sleep 0.05; done";
    let mut leader = lock.contender(&["--on-lost", "rejoin", "--lease-duration", "3s"], script);
    for term in 1..=3 {
        wait_for("the child of the term", LONG, || (leader.count("listening") == term).then_some(()));
        let written = Instant::now();
        replace(&lock, &identity(&lock), "somebody-else");
        wait_for("the loss", LONG, || (leader.count("asked") == term).then_some(()));
        wait_for("another term", LONG, || (leader.count("listening") == term + 1).then_some(()));
        assert!(written.elapsed() >= Duration::from_secs(3), "the thief's lease is waited for");
    }
    assert!(leader.count("is held by somebody-else") >= 1, "{}", leader.said());
    assert_eq!(leader.count("OVERLAP"), 0);
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 0, "{}", leader.said());
    let mut tokens: Vec<u64> =
        leader.lines().iter().filter_map(|l| l.text.strip_prefix("start ")?.parse().ok()).collect();
    assert_eq!(tokens.len(), 4);
    tokens.dedup();
    assert!(tokens.is_sorted() && tokens.len() == 4, "every term has a later token: {tokens:?}");
}

#[test]
fn a_loss_during_a_requested_stop_is_no_reason_to_contend_again() {
    let lock = Lock::new();
    let script = "trap 'echo asked; sleep 1; exit 0' TERM; echo listening; while :; do sleep 0.05; done";
    let mut leader = lock.contender(&["--on-lost", "rejoin"], script);
    leader.wait_line("listening");
    leader.signal(SIGTERM);
    leader.wait_line("asked");
    replace(&lock, &identity(&lock), "somebody-else");
    assert_eq!(leader.wait(), 75, "{}", leader.said());
}

#[test]
fn a_leader_that_steps_down_hands_over_and_contends_again() {
    let lock = Lock::new();
    let script = "trap 'echo asked; exit 0' TERM; echo listening; while :; do sleep 0.05; done";
    let options = ["--step-down-signal", "USR1"];
    let mut first = lock.contender(&options, script);
    first.wait_line("listening");
    let mut second = lock.contender(&options, script);
    second.wait_line("is held by");
    // A standby has nothing to step down from.
    second.signal(SIGUSR1);
    first.signal(SIGUSR1);
    second.wait_line("listening");
    first.wait_line("is held by");
    second.signal(SIGUSR1);
    wait_for("its second term", LONG, || (first.count("listening") == 2).then_some(()));
    second.signal(SIGTERM);
    assert_eq!(second.wait(), 143, "{}", second.said());
    first.signal(SIGTERM);
    assert_eq!(first.wait(), 0, "{}", first.said());
    assert_eq!(first.count("OVERLAP") + second.count("OVERLAP"), 0);
}

#[test]
fn alone_it_leads_again_a_retry_period_after_stepping_down() {
    let lock = Lock::new();
    // It takes its time, and SIGTERM meanwhile ends the run after all.
    let script = "trap 'echo asked; sleep 0.5; exit 4' TERM; echo listening; while :; do sleep 0.05; done";
    let mut leader = lock.contender(&["--step-down-signal", "HUP", "--retry-period", "1s"], script);
    leader.wait_line("listening");
    let asked = Instant::now();
    leader.signal(SIGHUP);
    leader.wait_line("again");
    wait_for("its second term", LONG, || (leader.count("listening") == 2).then_some(()));
    assert!(asked.elapsed() >= Duration::from_millis(500 + 1_000));
    leader.signal(SIGHUP);
    wait_for("stopping", LONG, || (leader.count("asked") == 2).then_some(()));
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 4, "{}", leader.said());
}

#[test]
fn a_lock_that_is_deleted_or_cleared_is_written_again_and_the_child_is_not_touched() {
    let lock = Lock::new();
    let leader = lock.contender(&[], "trap 'echo asked; exit 0' TERM; echo listening; while :; do sleep 0.05; done");
    leader.wait_line("listening");
    let standbys = [lock.contender(&[], "exit 3"), lock.contender(&[], "exit 3")];
    standbys.iter().for_each(|standby| drop(standby.wait_line("waiting")));
    let mine = identity(&lock);
    for _ in 0..10 {
        fs::remove_file(lock.record()).unwrap();
        wait_for("it is created again", LONG, || lock.text().contains(&mine).then_some(()));
        // A standby leaves the leader 10 ms to write first, and on a very busy machine that may not be enough.
        standbys.iter().for_each(|standby| standby.signal(SIGSTOP));
        replace(&lock, &mine, "");
        wait_for("it is written again", LONG, || lock.text().contains(&mine).then_some(()));
        standbys.iter().for_each(|standby| standby.signal(SIGCONT));
    }
    // Long enough for a standby to have started, had it been misled.
    sleep(Duration::from_secs(1));
    assert_eq!(leader.count("asked"), 0);
    assert!(standbys.iter().all(|standby| standby.line("start").is_none()));
    assert!(leader.said().contains("was deleted while we lead"));
    assert!(leader.said().contains("was cleared while we lead"));
}

#[test]
fn two_processes_with_one_identity_never_have_two_children() {
    let lock = Lock::new();
    let options = [&SHORT[..], &["--identity", "same", "--no-crash-release"]].concat();
    let contenders: Vec<_> = (0..2).map(|_| lock.contender(&options, "sleep 1")).collect();
    let mut codes: Vec<_> = contenders.into_iter().map(|mut c| (c.wait(), c.count("OVERLAP"))).collect();
    codes.sort();
    assert_eq!(codes, [(0, 0), (0, 0)], "in turn");
    // A restart after a crash waits for the lease; with --resume it does not.
    let options = ["--identity", "same", "--no-crash-release"];
    let crashed = lock.contender(&options, "sleep 60");
    crashed.wait_line("start");
    crashed.signal(SIGKILL);
    let start = Instant::now();
    let mut resumed = lock.contender(&[&options[..], &["--resume"]].concat(), "exit 3");
    assert_eq!(resumed.wait(), 3);
    assert!(start.elapsed() < Duration::from_secs(10), "its lease is of 15 s: {:?}", start.elapsed());
}

#[test]
fn a_signal_ends_a_standby_with_128_plus_its_number() {
    let lock = Lock::new();
    let leader = lock.contender(&[], "sleep 60");
    leader.wait_line("start");
    for signal in [SIGTERM, SIGINT] {
        let mut standby = lock.contender(&[], "exit 3");
        standby.wait_line("waiting");
        standby.signal(signal);
        assert_eq!(standby.wait(), 128 + signal);
    }
}

#[test]
fn a_given_folder_can_be_shared_by_users() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not run: it needs root to become other users");
        return;
    }
    let open = || fs::Permissions::from_mode(0o777);
    let folder = tempfile::Builder::new().permissions(open()).tempdir().unwrap();
    let program = folder.path().join("leader-run");
    copy_program(env!("CARGO_BIN_EXE_leader-run"), &program);
    let locks = folder.path().join("locks");
    fs::create_dir(&locks).unwrap();
    fs::set_permissions(&locks, open()).unwrap();
    for user in ["54322", "54323", "54322"] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--clear-groups", "sh", "-c", "umask 077; exec \"$@\"", "sh"]).arg(&program);
        command
            .args(["--lock", "file", "--name", "shared", "--lock-dir"])
            .arg(&locks)
            .args(["--", "sh", "-c", "exit 3"]);
        let finished = Finished::from(command.output().unwrap());
        assert_eq!(finished.code, 3, "{user}: {}", finished.stderr);
    }
}

#[test]
fn many_take_turns() {
    let lock = Lock::new();
    let mut contenders: Vec<_> = (0..10).map(|_| lock.contender(&[], "sleep 0.02")).collect();
    let mut tokens: Vec<u64> = Vec::new();
    for contender in &mut contenders {
        assert_eq!((contender.wait(), contender.count("OVERLAP")), (0, 0));
        tokens.push(contender.wait_line("start ").text[6..].parse().unwrap());
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 10, "every term has a token of its own");
}

fn identity(lock: &Lock) -> String {
    let text = lock.text();
    let start = text.find("holderIdentity\":\"").unwrap() + 17;
    text[start..].split('"').next().unwrap().to_owned()
}

/// Puts another identity into the record in place of this one, at the next version and without asking. Returns what is
/// there now.
fn replace(lock: &Lock, identity: &str, other: &str) -> String {
    rewrite(&lock.record(), |text, revision| {
        let next = (revision.parse::<u64>().unwrap() + 1).to_string();
        text.replace(identity, other).replace(revision, &next)
    })
}
