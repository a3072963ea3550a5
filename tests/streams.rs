//! Standard streams in every state, and signals that reach everybody at once: the child's output never passes
//! through leader-run, and its own messages never hold it up.

mod support;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::SIGKILL;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, pipe, write};
use std::array;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;
use support::{LONG, is_alive, leader_run, peak_memory, steal, wait_for};
use tempfile::TempDir;

/// One lock with one contender, whose streams are what the test makes of them.
struct Run {
    folder: TempDir,
    process: Child,
}

impl Run {
    fn start(options: &[&str], child: &[&str], streams: [Stdio; 3]) -> Run {
        Run::start_by(&[], options, child, streams)
    }

    /// Started by a program that changes something and then becomes what its arguments say.
    fn start_by(by: &[&str], options: &[&str], child: &[&str], streams: [Stdio; 3]) -> Run {
        let folder = tempfile::tempdir().unwrap();
        let inner = leader_run();
        let mut command = leader_run();
        if let [program, args @ ..] = by {
            command = Command::new(program);
            // After the `env --default-signal` that stands before the binary otherwise.
            command.args(args).args(inner.get_args().skip(1));
        }
        command.args(["--lock", "file", "--name", "demo", "--retry-period", "1s", "--lock-dir"]).arg(folder.path());
        command.args(options).arg("--").args(child).env("folder", folder.path());
        let [stdin, stdout, stderr] = streams;
        let process = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn().unwrap();
        Run { folder, process }
    }

    fn record(&self) -> PathBuf {
        self.folder.path().join("default_demo.json")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.record()).unwrap_or_default()
    }

    /// Waits for numbers that the child has written into a file of this name.
    fn said<const N: usize>(&self, name: &str) -> [i32; N] {
        wait_for(name, LONG, || {
            let text = fs::read_to_string(self.folder.path().join(name)).ok()?;
            let mut numbers = text.strip_suffix('\n')?.split(' ').map(|number| number.parse().unwrap());
            Some(array::from_fn(|_| numbers.next().unwrap()))
        })
    }

    fn wait_renewal(&self) {
        let before = self.text();
        wait_for(&format!("a renewal of {before}"), LONG, || (self.text() != before).then_some(()));
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    fn wait(&mut self) -> i32 {
        let code = |status: ExitStatus| status.code().unwrap_or_else(|| -status.signal().unwrap());
        wait_for("the end of leader-run", LONG, || self.process.try_wait().unwrap().map(code))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn no_streams() -> [Stdio; 3] {
    array::from_fn(|_| Stdio::null())
}

/// 10 GiB to a standard output that takes them without a copy, and 1 GiB to one that is read through a pipe:
/// each the fastest way to have so much pass by.
#[test]
fn output_of_any_size_costs_no_memory() {
    let script = |mib: u32| {
        format!(
            "echo $$ $PPID > $folder/pids; read go; dd if=/dev/zero bs=1M count={mib} status=none
             echo 1 > $folder/done; read go; exit 3"
        )
    };
    for (mib, piped) in [(10_240, false), (1_024, true)] {
        let output = if piped { Stdio::piped() } else { Stdio::null() };
        let mut run = Run::start(&[], &["sh", "-c", &script(mib)], [Stdio::piped(), output, Stdio::null()]);
        let [_, guard] = run.said("pids");
        run.wait_renewal();
        let processes = [run.process.id() as i32, guard];
        let before = processes.map(peak_memory);
        let mut go = run.process.stdin.take().unwrap();
        go.write_all(b"\n").unwrap();
        let start = Instant::now();
        if let Some(mut output) = run.process.stdout.take() {
            let mut buffer = vec![0; 1 << 20];
            let mut left = u64::from(mib) << 20;
            while left > 0 {
                left -= output.read(&mut buffer).unwrap() as u64;
            }
        }
        run.said::<1>("done");
        eprintln!("{mib} MiB in {:?}", start.elapsed());
        let after = processes.map(peak_memory);
        for (before, after) in before.into_iter().zip(after) {
            assert!(after <= before + 2_048, "{before} KiB became {after} KiB");
        }
        drop(go);
        assert_eq!(run.wait(), 3);
    }
}

/// A pipe that is full and is never read; its reading end has to be kept.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = pipe().unwrap();
    let mode = |flags| fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
    mode(OFlag::O_NONBLOCK);
    while write(&writer, &[b'x'; 4096]).is_ok() {}
    mode(OFlag::empty());
    (reader, writer)
}

/// A child that tells its process id, and ends with 4 when it is asked to.
const ASKED: &str = "trap '' INT; trap 'exit 4' TERM; echo $$ > $folder/pid; while :; do sleep 0.02; done";

#[test]
fn a_standard_error_that_takes_nothing_stops_neither_renewals_nor_kills() {
    let mut readers = Vec::new();
    let mut start = |kind: &str| {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let [stdin, stdout, stderr] = no_streams();
        let streams = match kind {
            "never read" => {
                let (reader, writer) = full_pipe();
                readers.push(reader);
                [stdin, stdout, writer.into()]
            }
            "without a reader" => [stdin, stdout, pipe().unwrap().1.into()],
            "full" => [stdin, full().into(), full().into()],
            _ => [stdin, stdout, stderr],
        };
        let by: &[&str] = if kind == "closed" { &["sh", "-c", "exec \"$@\" <&- >&- 2>&-", "sh"] } else { &[] };
        Run::start_by(by, &["-v"], &["bash", "-c", ASKED], streams)
    };
    // Two of each kind: one is asked to stop, the other loses its lock.
    let kinds = ["never read", "without a reader", "full", "closed"].map(|kind| (kind, [start(kind), start(kind)]));
    for (kind, [mut asked, mut loser]) in kinds {
        asked.said::<1>("pid");
        let [child] = loser.said("pid");
        asked.wait_renewal();
        loser.wait_renewal();
        asked.signal(Signal::SIGTERM);
        assert_eq!(asked.wait(), 4, "{kind}");
        assert!(asked.text().contains("\"holderIdentity\":\"\""), "{kind}: {}", asked.text());
        let foreign = steal(&loser.record(), "somebody-else");
        assert_eq!(loser.wait(), 75, "{kind}");
        assert!(!is_alive(child), "{kind}");
        assert_eq!(loser.text(), foreign, "{kind}");
    }
}

#[test]
fn more_messages_than_fit_anywhere_hold_up_nothing() {
    let (_reader, writer) = full_pipe();
    let [stdin, stdout, _] = no_streams();
    let streams = [stdin, stdout, writer.into()];
    let mut run = Run::start(&["-v", "--stop-grace", "5m"], &["bash", "-c", ASKED], streams);
    run.said::<1>("pid");
    // A line each, and more of them than there is room for.
    for _ in 0..2 {
        let before = run.text();
        wait_for("a renewal", LONG, || {
            run.signal(Signal::SIGINT);
            (run.text() != before).then_some(())
        });
    }
    run.signal(Signal::SIGTERM);
    assert_eq!(run.wait(), 4);
}

#[test]
fn sigchld_that_is_ignored_from_the_start_loses_no_exit_code() {
    let ignoring = ["env", "--ignore-signal=CHLD"];
    let mut run = Run::start_by(&ignoring, &[], &["bash", "-c", "true; sleep 0.1 & wait; exit 7"], no_streams());
    assert_eq!(run.wait(), 7);
    let mut run = Run::start_by(&ignoring, &[], &["sh", "-c", "kill -9 $$"], no_streams());
    assert_eq!(run.wait(), 128 + SIGKILL);
}

#[test]
fn a_signal_to_everybody_at_once_is_an_ordinary_stop() {
    // It takes its time, and leaves behind what takes longer and ignores the signal.
    let script = "trap 'sleep 0.2; exit 9' TERM
                  bash -c 'trap \"\" TERM; exec sleep 0.6' & echo $$ $PPID $! > $folder/pids
                  while :; do sleep 0.02; done";
    type Send = fn(&Run, [i32; 3]);
    let to_the_group: Send = |run, _| killpg(Pid::from_raw(run.process.id() as i32), Signal::SIGTERM).unwrap();
    let to_each: Send = |run, pids| {
        for pid in [run.process.id() as i32].into_iter().chain(pids) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        }
    };
    let to_each_backwards: Send = |run, pids| {
        for pid in pids.into_iter().rev().chain([run.process.id() as i32]) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        }
    };
    for send in [to_the_group, to_each, to_each_backwards] {
        let mut run = Run::start_by(&["setsid", "env", "--default-signal"], &[], &["bash", "-c", script], no_streams());
        let pids @ [child, _, left_behind] = run.said("pids");
        send(&run, pids);
        wait_for("the release", LONG, || run.text().contains("\"holderIdentity\":\"\"").then_some(()));
        assert!(!is_alive(child) && !is_alive(left_behind), "released while {pids:?} live");
        assert_eq!(run.wait(), 9);
    }
}

#[test]
fn a_child_that_closes_all_its_descriptors_is_still_a_child() {
    let script = "echo $$ > $folder/pid
                  for fd in /proc/$$/fd/*; do fd=${fd##*/}; eval \"exec $fd<&-\"; done
                  trap 'exit 4' TERM; while :; do sleep 0.02; done";
    let mut run = Run::start(&[], &["bash", "-c", script], no_streams());
    let [child]: [i32; 1] = run.said("pid");
    let open = || fs::read_dir(format!("/proc/{child}/fd")).map_or(0, Iterator::count);
    wait_for("a child without descriptors", LONG, || (open() == 0).then_some(()));
    run.wait_renewal();
    assert!(is_alive(child));
    run.signal(Signal::SIGTERM);
    assert_eq!(run.wait(), 4);
}
