//! What all black-box tests share: the real binary, started, watched and ended.
#![allow(dead_code)]

use nix::libc::{SIGKILL, SIGSTOP};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine; a test that waits for it has failed.
pub const LONG: Duration = Duration::from_secs(60);
/// What happens at once has happened within this, also on a busy machine.
pub const AT_ONCE: Duration = Duration::from_secs(2);

/// Short timings: L 6 s, R 4 s, P 1 s, K 5 s.
pub const SHORT: [&str; 2] = ["--lease-duration", "6s"];
/// A child that leaves when asked to, and says so. A signal that comes right before bash begins to read is not
/// looked at before it has read: so it reads for a moment only. What it reads from is a pipe without `<(:)`: a
/// trap that runs while bash looks for that one's `)` is a syntax error.
pub const POLITE: &str =
    "trap 'echo asked; exit 0' TERM; exec 8<<<x 8<>/proc/self/fd/8; while :; do read -t 0.2 <&8; done";
/// A child that says when it is asked to leave, and stays.
pub const STUBBORN: &str =
    "trap 'echo asked' TERM; exec 8<<<x 8<>/proc/self/fd/8; echo pid $$; while :; do read -t 0.2 <&8; done";

/// A member of the tree that has left its group, its session, its parent and its environment, and ignores
/// SIGTERM. It prints `daemon` and the numbers of its two processes.
pub const DAEMON: &str = "(setsid bash -c 'trap \"\" TERM; env -i sleep 300 & echo daemon $$ $!; wait' &); ";

/// A program with the default disposition for every signal. The tests may run in the background of a
/// script, where SIGINT is ignored, and what is ignored is inherited.
pub fn with_default_signals(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(program);
    command
}

/// The binary under test, with nothing of this environment that it would take for an option.
pub fn leader_run() -> Command {
    let mut command = with_default_signals(env!("CARGO_BIN_EXE_leader-run"));
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy().into_owned();
        if ["LEADER_RUN_", "LEADER_ELECTION_", "KUBE", "POD_NAME"].iter().any(|own| name_text.starts_with(own)) {
            command.env_remove(name);
        }
    }
    command.env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

/// The same command, started by this program with these first arguments.
pub fn started_by(program: &[&str], command: &Command) -> Command {
    let mut outer = Command::new(program[0]);
    outer.args(&program[1..]).arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// The command that makes its argument PID 1 of a namespace of its own, where this machine lets us.
pub fn as_pid_1() -> Option<Command> {
    let ways = [&["--pid"][..], &["--map-root-user", "--pid"]];
    let unshare = |way: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(way).args(["--fork", "--mount-proc", "--kill-child"]);
        command
    };
    let way = ways.into_iter().find(|way| unshare(way).arg("true").output().is_ok_and(|done| done.status.success()));
    if way.is_none() {
        eprintln!("not run: neither root, nor may others make user namespaces here");
    }
    way.map(unshare)
}

/// Runs the binary with these arguments to its end.
pub fn output<S: AsRef<OsStr>>(args: &[S]) -> Finished {
    leader_run().args(args).output().unwrap().into()
}

/// How a run ended.
#[derive(Debug)]
pub struct Finished {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Finished {
        Finished {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Copies a program that is to be executed. By another process: while one of ours has a file open to write, so has
/// what another thread has just forked, and it cannot be executed.
pub fn copy_program(from: impl AsRef<OsStr>, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "{copied}");
}

/// Waits until `probe` finds something, or panics with `what`.
pub fn wait_for<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + within;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "waited {within:?} in vain for: {what}");
        sleep(Duration::from_millis(2));
    }
}

/// Waits until this changes, and returns a moment right before that.
pub fn wait_change<T: PartialEq>(what: &str, within: Duration, look: impl Fn() -> T) -> Instant {
    let mut looked = Instant::now();
    let first = look();
    wait_for(what, within, || {
        let before = std::mem::replace(&mut looked, Instant::now());
        (look() != first).then_some(before)
    })
}

/// The median of some durations.
pub fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort();
    samples[samples.len() / 2]
}

/// A bash script as a child that proves by the kernel that it is alone: its first act is to take a file
/// lock, whose descriptor every descendant inherits. Refused, it prints `OVERLAP`, also into that file. Then
/// it prints `start <token>`.
pub fn alone(oracle: &Path, script: &str) -> [String; 3] {
    let script = format!(
        "exec 9>>{0}; flock -n 9 || echo OVERLAP | tee -a {0}; echo start $LEADER_ELECTION_FENCING_TOKEN; {script}",
        oracle.display()
    );
    ["bash".into(), "-c".into(), script]
}

/// A line of output, and when it was read.
#[derive(Clone, Debug)]
pub struct Line {
    pub at: Instant,
    pub text: String,
}

/// A running leader-run. Ended, with its tree, when dropped.
pub struct Contender {
    process: Child,
    lines: Arc<Mutex<Vec<Line>>>,
    ended: Option<i32>,
}

impl Contender {
    pub fn start(command: &mut Command) -> Contender {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        collect(process.stdout.take().unwrap(), &lines);
        collect(process.stderr.take().unwrap(), &lines);
        Contender { process, lines, ended: None }
    }

    pub fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    /// Sends leader-run itself a signal.
    pub fn signal(&self, signal: i32) {
        send_signal(self.pid(), signal);
    }

    /// Its guard, as long as it has no other child process.
    pub fn guard(&self) -> i32 {
        wait_for("a guard", LONG, || self.try_guard())
    }

    /// The same, if it has one.
    pub fn try_guard(&self) -> Option<i32> {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid())).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    pub fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap().clone()
    }

    /// All that it and its child have said so far.
    pub fn said(&self) -> String {
        self.lines().iter().map(|line| format!("{}\n", line.text)).collect()
    }

    /// The first line with this text, if it has come.
    pub fn line(&self, text: &str) -> Option<Line> {
        self.lines().into_iter().find(|line| line.text.contains(text))
    }

    pub fn count(&self, text: &str) -> usize {
        self.lines().iter().filter(|line| line.text.contains(text)).count()
    }

    /// Waits for a line with this text.
    pub fn wait_line(&self, text: &str) -> Line {
        let end = Instant::now() + LONG;
        loop {
            if let Some(line) = self.line(text) {
                return line;
            }
            assert!(Instant::now() < end, "waited in vain for {text:?} in:\n{}", self.said());
            sleep(Duration::from_millis(2));
        }
    }

    /// Waits for its end and returns its exit code; of a signal, its negative number.
    pub fn wait(&mut self) -> i32 {
        let end = Instant::now() + LONG;
        loop {
            if let Some(code) = self.ended() {
                self.hear_out();
                return code;
            }
            assert!(Instant::now() < end, "it does not end:\n{}", self.said());
            sleep(Duration::from_millis(1));
        }
    }

    /// Takes in what it said last, which may still be on its way. What it has left behind may keep that open.
    fn hear_out(&self) {
        let end = Instant::now() + Duration::from_secs(1);
        while Arc::strong_count(&self.lines) > 1 && Instant::now() < end {
            sleep(Duration::from_millis(1));
        }
    }

    /// Its exit code, if it has ended.
    pub fn ended(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        if self.ended.is_none() {
            let status = self.process.try_wait().unwrap();
            self.ended = status.map(|status| status.code().unwrap_or_else(|| -status.signal().unwrap()));
        }
        self.ended
    }

    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        // Its guard sees the end of the socket and kills the tree.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn collect(from: impl Read + Send + 'static, to: &Arc<Mutex<Vec<Line>>>) {
    let to = to.clone();
    thread::spawn(move || {
        for text in BufReader::new(from).lines().map_while(Result::ok) {
            to.lock().unwrap().push(Line { at: Instant::now(), text });
        }
    });
}

/// Sends any process of ours a signal.
pub fn send_signal(pid: i32, signal: i32) {
    let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// Kills leader-run and its guard as the end of their container does: neither can act on the other's death.
pub fn kill_both(contender: &mut Contender) -> Instant {
    let guard = contender.guard();
    let killed = kill_at_once([contender.pid(), guard]);
    contender.wait();
    killed
}

/// Kills two processes so that neither can act on the other's death.
pub fn kill_at_once(processes: [i32; 2]) -> Instant {
    for signal in [SIGSTOP, SIGKILL] {
        processes.iter().for_each(|process| send_signal(*process, signal));
    }
    Instant::now()
}

/// The children of a process with one thread.
pub fn children(pid: i32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The most memory that a process has had, in KiB.
pub fn peak_memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// All descendants of this process.
pub fn tree(pid: i32) -> Vec<i32> {
    let children = children(pid);
    children.iter().copied().chain(children.iter().flat_map(|child| tree(*child))).collect()
}

/// Whether a process of this number is there and no zombie.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// When the last process of these is gone.
pub fn wait_gone(pids: &[i32], within: Duration) -> Instant {
    wait_for(&format!("the end of {pids:?}"), within, || {
        let at = Instant::now();
        pids.iter().all(|pid| !is_alive(*pid)).then_some(at)
    })
}

/// Writes another holder into the record of a file lock, at a version later than any and without asking, and
/// returns what is there now.
pub fn steal(record: &Path, holder: &str) -> String {
    rewrite(record, |_, revision| {
        format!("{{\"resourceVersion\":\"9{revision}\",\"spec\":{{\"holderIdentity\":\"{holder}\"}}}}")
    })
}

/// Writes into a file lock what this makes of its record and its version, and returns that. Under the lock's own
/// kernel lock: a renewal at that moment would be what stays.
pub fn rewrite(record: &Path, make: impl FnOnce(&str, &str) -> String) -> String {
    let lock = std::fs::File::open(record.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let text = std::fs::read_to_string(record).unwrap();
    let (_, revision) = text.split_once("resourceVersion\":\"").unwrap();
    let text = make(&text, revision.split('"').next().unwrap());
    let new = record.with_file_name("by-hand");
    std::fs::write(&new, &text).unwrap();
    std::fs::rename(new, record).unwrap();
    text
}
