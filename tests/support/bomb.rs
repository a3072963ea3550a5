//! A child that forks faster than it can be killed, as another user.

use crate::support::{Contender, LONG, alone, leader_run, wait_for};
use nix::libc::SIGTERM;
use nix::unistd::{Uid, gettid};
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Each of its processes forks as often as it can.
pub const IN_ONE_GROUP: &str = "while (time < $end) { fork }";
/// The same in sessions that no process group holds together.
pub const IN_MANY_SESSIONS: &str = "while (time < $end) { my $pid = fork; POSIX::setsid() if defined $pid && !$pid }";

/// How long a bomb that nobody kills goes on.
const LIFE: Duration = Duration::from_secs(15);

/// They take the processor from each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A user who has no other processes, so that the limit is the bomb's alone; nor are they another run's.
fn user() -> u32 {
    40_000 + std::process::id() % 20_000
}

fn processes() -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|process| process.metadata().is_ok_and(|owner| owner.uid() == user())).count()
}

/// The bomb takes the processor from everybody else; what is measured is not how long others wait for it.
fn go_first(thread: i32) {
    let status = Command::new("chrt").args(["-f", "-p", "50", &thread.to_string()]).status().unwrap();
    assert!(status.success());
}

fn start(folder: &Path, options: &[&str], child: &[String]) -> Contender {
    let mut command = leader_run();
    command.args(["--lock", "file", "--name", "bomb", "--lock-dir"]).arg(folder);
    Contender::start(command.args(options).arg("--").args(child))
}

/// Whether a bomb can be made here.
pub fn is_possible() -> bool {
    let possible = Uid::effective().is_root();
    if !possible {
        eprintln!("not run: it needs root to become another user");
    }
    possible
}

/// How long after a requested stop without a grace a bomb of four hundred processes is gone and the next child
/// started. It asserts that they do not meet.
pub fn kill(options: &[&str], bomb: &str) -> Duration {
    // In a thread of its own: one that goes first starts contenders, and bombs, that go first too.
    thread::scope(|scope| {
        scope.spawn(|| kill_here(options, bomb)).join().unwrap_or_else(|e| std::panic::resume_unwind(e))
    })
}

fn kill_here(options: &[&str], bomb: &str) -> Duration {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let oracle = folder.path().join("oracle");
    let perl = format!("use POSIX; my $end = time + {}; {bomb}", LIFE.as_secs());
    let bomb = format!("exec setpriv --reuid {} --clear-groups prlimit --nproc=400 perl -e '{perl}'", user());
    let first = start(folder.path(), &[&["--stop-grace", "0s"], options].concat(), &alone(&oracle, &bomb));
    let begun = first.wait_line("start ").at;
    go_first(first.pid());
    let second = start(folder.path(), options, &alone(&oracle, "echo second"));
    second.wait_line("waiting");
    go_first(gettid().as_raw());
    wait_for("the whole bomb", LONG, || (processes() >= 380).then_some(()));
    assert!(begun.elapsed() + Duration::from_secs(3) < LIFE, "the bomb was so slow that it ends by itself");

    let stopped = Instant::now();
    first.signal(SIGTERM);
    second.wait_line("second");
    let took = stopped.elapsed();
    eprintln!("gone after {took:?}");
    assert_eq!(first.count("OVERLAP") + second.count("OVERLAP"), 0, "{}", second.said());
    assert_eq!(processes(), 0);
    took
}
