//! The tree of descendants: found through /proc, signalled, killed, reaped.

use crate::sys;
use nix::errno::Errno;
use nix::libc::{SIGCONT, SIGKILL};
use nix::unistd::Pid;
use std::fs;
use std::time::Duration;

/// What a round of reaping found.
#[derive(Debug, Default)]
pub struct Reaped {
    /// The wait status of the child in question, if it has ended.
    pub status: Option<i32>,
    /// ECHILD: no descendant is left.
    pub alone: bool,
}

/// Reaps every descendant that has ended, without waiting.
pub fn reap(child: Option<Pid>) -> Reaped {
    let mut reaped = Reaped::default();
    loop {
        match sys::reap_one() {
            Ok(Some((pid, status))) if Some(pid) == child => reaped.status = Some(status),
            Ok(Some(_)) | Err(Errno::EINTR) => {}
            Ok(None) => return reaped,
            Err(error) => {
                reaped.alone = error == Errno::ECHILD;
                return reaped;
            }
        }
    }
}

/// All descendants of this process, nearest first. Those of dead parents are among them, for this process
/// is a subreaper.
pub fn descendants() -> Vec<Pid> {
    let mut found: Vec<Pid> = Vec::new();
    let mut next = 0;
    let mut parent = Some(Pid::this());
    while let Some(pid) = parent {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let children = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
            found.extend(children.map(Pid::from_raw));
        }
        parent = found.get(next).copied();
        next += 1;
    }
    found
}

/// Sends every descendant this signal, then SIGCONT so that a stopped one gets it.
pub fn signal_all(signal: i32) {
    for pid in descendants() {
        let _ = sys::kill(pid, signal);
        let _ = sys::kill(pid, SIGCONT);
    }
}

/// Kills every descendant there is at this moment. New ones may have been forked meanwhile: repeat until
/// [`reap`] says that none is left.
pub fn kill_all() {
    for pid in descendants() {
        let _ = sys::kill(pid, SIGKILL);
    }
}

/// Kills and reaps until no descendant is left, however long that takes.
pub fn kill_until_alone() {
    kill_all();
    while !reap(None).alone {
        std::thread::sleep(Duration::from_micros(500));
        kill_all();
    }
}
