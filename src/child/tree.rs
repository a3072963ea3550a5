//! The tree of descendants: found through /proc, signalled, killed, reaped.

use crate::sys;
use nix::errno::Errno;
use nix::libc::{self, SIGCONT, SIGKILL};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The signals with which a terminal stops what reads from it, writes to it or is sent Ctrl-Z.
const TERMINAL: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// What a round of reaping found.
#[derive(Debug, Default)]
pub struct Reaped {
    /// The wait status of the child in question, if it has ended.
    pub status: Option<i32>,
    /// The terminal's signal that stopped the child, if one has.
    pub stopped: Option<i32>,
    /// ECHILD: no descendant is left.
    pub alone: bool,
}

/// Reaps every descendant that has ended, without waiting.
pub fn reap(child: Option<Pid>) -> Reaped {
    let mut reaped = Reaped::default();
    loop {
        match sys::reap_one() {
            Ok(Some((pid, status))) if Some(pid) == child => match libc::WIFSTOPPED(status) {
                false => reaped.status = Some(status),
                true if TERMINAL.contains(&libc::WSTOPSIG(status)) => reaped.stopped = Some(libc::WSTOPSIG(status)),
                true => {}
            },
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
    // Not every kernel lists the children of a task; every one says whose child a process is.
    let parents = if Path::new("/proc/thread-self/children").exists() { None } else { Some(parents()) };
    let children = |pid: Pid| match &parents {
        None => listed_children(pid),
        Some(parents) => parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child).collect(),
    };
    let mut found = children(Pid::this());
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(children(pid));
        next += 1;
    }
    found
}

fn listed_children(pid: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let pids = |list: String| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>();
    lists.flat_map(pids).map(Pid::from_raw).collect()
}

/// Every process and its parent.
fn parents() -> Vec<(Pid, Pid)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let pair = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may contain anything; the state and the parent come after it.
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        Some((Pid::from_raw(pid), Pid::from_raw(parent)))
    };
    pids.filter_map(pair).collect()
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

/// Kills every descendant there is at this moment and reaps those that are dead. True when none is left.
pub fn kill_round() -> bool {
    kill_all();
    reap(None).alone
}

/// Kills and reaps until no descendant is left, however long that takes.
pub fn kill_until_alone() {
    while !kill_round() {
        std::thread::sleep(Duration::from_micros(500));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn both_ways_of_finding_children_agree() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let by_parent = parents().into_iter().any(|(process, parent)| process == pid && parent == Pid::this());
        let listed = !Path::new("/proc/thread-self/children").exists() || listed_children(Pid::this()).contains(&pid);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(by_parent && listed);
    }
}
