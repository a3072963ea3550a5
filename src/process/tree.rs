//! The tree of descendants: found through /proc, signalled, killed, reaped.

use crate::blocking;
use crate::process::procfs;
use crate::sys;
use nix::errno::Errno;
use nix::libc::{self, SIGKILL};
use nix::unistd::Pid;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Between two rounds of killing what is left.
pub const KILL_ROUND: Duration = Duration::from_millis(1);
/// So long is a program waited for at the end that cannot be killed, for it has got rights that we have not.
const SWEEP: Duration = Duration::from_secs(2);

/// The signals with which a terminal stops what reads from it, writes to it or is sent Ctrl-Z.
const TERMINAL: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// What a round of reaping found.
#[derive(Debug, Default)]
pub struct Reaped {
    /// The wait status of the child in question, if it has ended.
    pub status: Option<i32>,
    /// The terminal's signal that stopped the child, if one has.
    pub stopped: Option<i32>,
    /// Some descendant has ended.
    pub any: bool,
    /// ECHILD: no descendant is left.
    pub alone: bool,
}

/// Reaps every descendant that has ended, without waiting.
pub fn reap(child: Option<Pid>) -> Reaped {
    let mut reaped = Reaped::default();
    loop {
        match sys::reap_one() {
            Ok(Some((pid, status))) => match libc::WIFSTOPPED(status).then(|| libc::WSTOPSIG(status)) {
                Some(signal) if Some(pid) == child && TERMINAL.contains(&signal) => reaped.stopped = Some(signal),
                Some(_) => {}
                None => {
                    reaped.any = true;
                    reaped.status = if Some(pid) == child { Some(status) } else { reaped.status };
                }
            },
            Err(Errno::EINTR) => {}
            Ok(None) => return reaped,
            Err(error) => {
                reaped.alone = error == Errno::ECHILD;
                return reaped;
            }
        }
    }
}

/// So many descendants are signalled in one round; those that a larger tree has are left to the next.
const CAPACITY: usize = 4096;

/// Finds and signals all descendants of this process. Those of dead parents are among them, for this process
/// is a subreaper. Nothing is allocated after [`Walker::new`].
#[derive(Debug)]
pub struct Walker {
    found: Vec<Member>,
    /// Not every kernel lists the children of a task; every one says whose child a process is.
    has_lists: bool,
}

/// A descendant.
#[derive(Clone, Copy, Debug)]
struct Member {
    pid: Pid,
    /// As it was when it was found.
    parent: Pid,
}

impl Default for Walker {
    fn default() -> Walker {
        Walker::new()
    }
}

impl Walker {
    /// One with all the memory that it will need.
    pub fn new() -> Walker {
        let nobody = Member { pid: Pid::from_raw(0), parent: Pid::from_raw(0) };
        // Written to, so that the memory is really there.
        let mut found = vec![nobody; CAPACITY];
        found.clear();
        Walker { found, has_lists: procfs::children(Pid::this(), |_| true).is_ok() }
    }

    /// Sends every descendant there is at this moment these signals.
    pub fn signal_all(&mut self, signals: &[i32]) {
        let us = Pid::this();
        self.found.clear();
        if self.has_lists {
            self.add_children(us);
        } else {
            self.scan();
        }
        let mut next = 0;
        while let Some(member) = self.found.get(next).copied() {
            if self.has_lists {
                self.add_children(member.pid);
            }
            signals.iter().for_each(|signal| member.signal(us, *signal));
            next += 1;
        }
    }

    /// Kills every descendant there is at this moment, and reaps those that are dead. True when none is left.
    pub fn kill_round(&mut self) -> bool {
        self.signal_all(&[SIGKILL]);
        reap(None).alone
    }

    /// Kills and reaps until no descendant is left, however long that takes.
    pub fn kill_until_alone(&mut self) {
        let mut pause = Pause::default();
        loop {
            self.signal_all(&[SIGKILL]);
            let reaped = reap(None);
            if reaped.alone {
                return;
            }
            std::thread::sleep(pause.after(reaped.any));
        }
    }

    fn add_children(&mut self, parent: Pid) {
        let found = &mut self.found;
        if found.len() < CAPACITY {
            // It may have ended: then its children are ours, and the next round finds them.
            let _ = procfs::children(parent, |pid| {
                found.push(Member { pid, parent });
                found.len() < CAPACITY
            });
        }
    }

    /// Finds all descendants by their parents, in as many passes as it takes.
    fn scan(&mut self) {
        let us = Pid::this();
        let found = &mut self.found;
        loop {
            let before = found.len();
            let _ = procfs::processes(|pid| {
                let knows = |pid| found.iter().any(|member: &Member| member.pid == pid);
                if let Some(parent) = procfs::parent(pid)
                    && (parent == us || knows(parent))
                    && !knows(pid)
                {
                    found.push(Member { pid, parent });
                }
                found.len() < CAPACITY
            });
            if found.len() == before || found.len() == CAPACITY {
                return;
            }
        }
    }
}

impl Member {
    fn signal(self, us: Pid, signal: i32) {
        let _ = if self.parent == us {
            // Only we could reap it, and have not: its number is still its own.
            let done = sys::kill(self.pid, signal);
            if signal == SIGKILL {
                // On a busy machine it would wait for its turn to die. Each thread has to.
                let _ = procfs::threads(self.pid, sys::hurry);
            }
            done
        } else {
            // Others may have reaped it meanwhile, and its number be another's. Opened, it stays what it is.
            match sys::open_process(self.pid) {
                Ok(process) if self.is_still_ours(us) => sys::kill_open(process.as_fd(), signal),
                Err(Errno::ENOSYS | Errno::EPERM) if self.is_still_ours(us) => sys::kill(self.pid, signal),
                // It has ended, or we are short of descriptors: with its parent dead it is a child of ours.
                _ => Ok(()),
            }
        };
    }

    fn is_still_ours(self, us: Pid) -> bool {
        procfs::parent(self.pid).is_some_and(|parent| parent == self.parent || parent == us)
    }
}

/// How long to wait between two rounds of killing: a moment while they help. Against what cannot be killed
/// (a process with the rights of another user, or one that waits for a dead disk) more rounds do not help.
#[derive(Debug, Default)]
pub struct Pause(Duration);

impl Pause {
    const SHORTEST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_millis(64);

    /// The pause after a round since which some process has ended, or none.
    pub fn after(&mut self, some_ended: bool) -> Duration {
        let next = if some_ended { Pause::SHORTEST } else { self.0 * 2 };
        self.0 = next.clamp(Pause::SHORTEST, Pause::LONGEST);
        self.0
    }
}

/// Ends what runs for us when there is no tree any more, such as a program that should have brought credentials
/// and hangs: nobody would end it after us.
pub fn sweep() {
    let mut walker = Walker::new();
    let begun = Instant::now();
    loop {
        // Asked first: what was at work until a moment ago may have started a process.
        let at_work = blocking::are_at_work();
        if walker.kill_round() && !at_work || begun.elapsed() > SWEEP {
            return;
        }
        std::thread::sleep(KILL_ROUND);
    }
}

/// A test that kills or reaps all descendants of its process needs a process of its own: the tests, started
/// again for this one alone. True in that process.
#[cfg(test)]
pub fn in_own_process(test: &str) -> bool {
    if std::env::var_os("LEADER_RUN_TEST").is_some() {
        return true;
    }
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let output = again.args(["--exact", test, "--nocapture"]).env("LEADER_RUN_TEST", test).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    // Not only no failure: it has to have run.
    assert!(output.status.success() && said.contains("1 passed"), "{test}: {said}");
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::allocations;
    use std::io::{BufRead, BufReader};
    use std::process::{ChildStdout, Command, Stdio};

    /// Starts a script, waits for its first line, and returns its output.
    #[expect(clippy::zombie_processes, reason = "the walker reaps it")]
    fn bash(script: &str) -> BufReader<ChildStdout> {
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let mut bash = Command::new("bash").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(bash.stdout.take().unwrap());
        output.read_line(&mut String::new()).unwrap();
        output
    }

    /// Ten shells, one below the other, each with a process that has left its session.
    const DEEP: &str = "deep() {
                          setsid sleep 300 &
                          if [ $1 -gt 0 ]; then (deep $(($1 - 1))) & else echo ready; fi
                          wait
                        }
                        deep 9";

    fn kill_a_tree(has_lists: bool) {
        let mut output = bash(DEEP);
        let mut walker = Walker::new();
        walker.has_lists &= has_lists;
        walker.signal_all(&[]);
        assert_eq!(walker.found.len(), 20, "{:?}", walker.found);
        assert_eq!(allocations::during(|| walker.kill_until_alone()), 0);
        // Nobody is left who could write.
        assert_eq!(output.read_line(&mut String::new()).unwrap(), 0);
    }

    #[test]
    fn killing_a_tree_allocates_nothing() {
        if in_own_process("process::tree::tests::killing_a_tree_allocates_nothing") {
            kill_a_tree(true);
        }
    }

    #[test]
    fn nor_does_it_where_the_kernel_lists_no_children() {
        if in_own_process("process::tree::tests::nor_does_it_where_the_kernel_lists_no_children") {
            kill_a_tree(false);
        }
    }

    #[test]
    fn both_ways_of_finding_descendants_agree() {
        if !in_own_process("process::tree::tests::both_ways_of_finding_descendants_agree") {
            return;
        }
        let _output = bash("sleep 300 & echo; wait");
        let mut walker = Walker::new();
        let mut pids = |has_lists| {
            walker.has_lists = has_lists;
            walker.signal_all(&[]);
            let mut pids: Vec<_> = walker.found.iter().map(|member| member.pid).collect();
            pids.sort();
            pids
        };
        let by_parent = pids(false);
        assert_eq!(by_parent.len(), 2);
        assert_eq!(pids(true), by_parent);
        walker.kill_until_alone();
    }

    #[test]
    fn a_number_that_is_another_process_by_now_is_left_alone() {
        let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(stranger.id() as i32);
        // Found below a process that is not its parent, and we are not the one who asks.
        let member = Member { pid, parent: Pid::from_raw(i32::MAX) };
        member.signal(Pid::from_raw(i32::MAX - 1), SIGKILL);
        assert_eq!(stranger.try_wait().unwrap(), None);
        // As ours it is killed.
        member.signal(Pid::this(), SIGKILL);
        assert_eq!(stranger.wait().unwrap().code(), None);
    }

    #[test]
    fn what_is_killed_dies_before_all_others() {
        const FIFO: &str = "1";
        if !in_own_process("process::tree::tests::what_is_killed_dies_before_all_others") {
            return;
        }
        let _output = bash("sleep 300 & echo; wait");
        let mut walker = Walker::new();
        walker.signal_all(&[]);
        let pids: Vec<_> = walker.found.iter().map(|member| member.pid).collect();
        let policy = |pid: Pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.split(' ').nth(38).unwrap().to_owned()
        };
        assert!(pids.iter().all(|pid| policy(*pid) != FIFO));
        sys::hurry(Pid::this());
        if policy(Pid::this()) != FIFO {
            return eprintln!("not run: it needs the right to real-time scheduling");
        }
        // Dead or not, they are there until they are reaped. The second one is ours when the first one is dead.
        let begin = std::time::Instant::now();
        while !pids.iter().all(|pid| policy(*pid) == FIFO) {
            assert!(begin.elapsed() < Duration::from_secs(30));
            walker.signal_all(&[SIGKILL]);
        }
        walker.kill_until_alone();
    }

    #[test]
    fn rounds_that_help_nothing_become_rare() {
        let mut pause = Pause::default();
        let mut millis = |ended| pause.after(ended).as_millis();
        assert_eq!([millis(false), millis(false), millis(false), millis(true), millis(false)], [1, 2, 4, 1, 2]);
        assert_eq!((0..20).map(|_| millis(false)).max(), Some(64));
    }
}
