//! A child that forks faster than it can be killed, in sessions that no process group holds together.

mod support;

use nix::libc::SIGTERM;
use nix::unistd::{Uid, gettid};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use support::{Contender, LONG, alone, leader_run, wait_for};

/// A user who has no other processes, so that the limit is the bomb's alone; nor are they another run's.
fn user() -> u32 {
    40_000 + std::process::id() % 20_000
}

/// Each test has a thread of its own: one that goes first would start contenders, and bombs, that go first too.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Each process forks as often as it can, and leaves its session. Should nobody kill it, it ends by itself.
const BOMB: &str = "use POSIX; my $end = time + 15; while (time < $end) { my $pid = fork; if (defined $pid && !$pid) { POSIX::setsid() } }";

fn processes() -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|process| process.metadata().is_ok_and(|owner| owner.uid() == user())).count()
}

/// The bomb takes the processor from everybody else; what is measured is not how long others wait for it.
fn go_first(thread: i32) {
    let status = Command::new("chrt").args(["-f", "-p", "50", &thread.to_string()]).status().unwrap();
    assert!(status.success());
}

fn start(folder: &std::path::Path, options: &[&str], child: &[String]) -> Contender {
    let mut command = leader_run();
    command.args(["--lock", "file", "--name", "bomb", "--lock-dir"]).arg(folder);
    Contender::start(command.args(options).arg("--").args(child))
}

/// A fork bomb of four hundred processes is gone, and the next child started, within three seconds.
fn is_killed(options: &[&str]) {
    if !Uid::effective().is_root() {
        eprintln!("not run: it needs root to become another user");
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let oracle = folder.path().join("oracle");
    let bomb = format!("exec setpriv --reuid {} --clear-groups prlimit --nproc=400 perl -e '{BOMB}'", user());
    let first = start(folder.path(), &[&["--stop-grace", "0s"], options].concat(), &alone(&oracle, &bomb));
    first.wait_line("start ");
    go_first(first.pid());
    let second = start(folder.path(), options, &alone(&oracle, "echo second"));
    second.wait_line("waiting");
    go_first(gettid().as_raw());
    wait_for("the whole bomb", LONG, || (processes() >= 380).then_some(()));

    let stopped = Instant::now();
    first.signal(SIGTERM);
    second.wait_line("second");
    let took = stopped.elapsed();
    eprintln!("gone after {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}: {}", first.said());
    assert_eq!(first.count("OVERLAP") + second.count("OVERLAP"), 0, "{}", second.said());
    assert_eq!(processes(), 0);
}

#[test]
fn a_fork_bomb_is_killed_and_only_then_the_lock_is_given_back() {
    is_killed(&[]);
}

#[test]
fn so_it_is_in_a_namespace_of_its_own() {
    is_killed(&["--pid-namespace"]);
}
