//! On a terminal: a pseudo-terminal of its own for each test, with leader-run or a shell as the leader of its
//! session, as a login has it.

mod support;

use nix::fcntl::OFlag;
use nix::libc::SIGTERM;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::{Pid, read, tcgetpgrp, write};
use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};
use support::{Contender, LONG, is_alive, leader_run, with_default_signals};
use tempfile::TempDir;

/// A terminal, the process that leads its session, and the folder of a lock.
struct Terminal {
    /// What a person would see and type on. `None` once they have hung up.
    master: Option<PtyMaster>,
    /// Keeps the terminal there while no process has it open.
    slave: File,
    name: String,
    seen: RefCell<String>,
    leader: Child,
    folder: TempDir,
}

impl Terminal {
    /// A new terminal with leader-run on it.
    fn of_leader_run(options: &[&str], child: &[&str]) -> Terminal {
        Terminal::new(|folder| lead(folder, options, child))
    }

    /// A new terminal with this shell on it, in which `$lead` are the words of a leader-run up to the `--`.
    fn of_shell(shell: &[&str]) -> Terminal {
        Terminal::new(|folder| {
            let lead = lead(folder, &[], &[]);
            let words = [lead.get_program()].into_iter().chain(lead.get_args());
            let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
            let mut command = with_default_signals(shell[0]);
            command.args(&shell[1..]).env("lead", words.join(" ")).env("PS1", "ready> ").env("TERM", "dumb");
            command.env("HOME", "/nonexistent").env_remove("HISTFILE").env_remove("PROMPT_COMMAND");
            command
        })
    }

    fn new(command: impl FnOnce(&TempDir) -> Command) -> Terminal {
        // Not inherited by what other tests start meanwhile: they would hold the line.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let master = posix_openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname_r(&master).unwrap();
        let open = || OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(&name);
        let slave = open().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let command = command(&folder);
        // It becomes the leader of a session, and its standard input the terminal of that.
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        let leader = session.stdin(open().unwrap()).stdout(open().unwrap()).stderr(open().unwrap()).spawn().unwrap();
        Terminal { master: Some(master), slave, name, seen: RefCell::default(), leader, folder }
    }

    /// All that has been on the screen so far.
    fn seen(&self) -> String {
        let mut bytes = [0; 4096];
        while let Some(master) = &self.master
            && let Ok(length @ 1..) = read(master, &mut bytes)
        {
            self.seen.borrow_mut().push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
        self.seen.borrow().clone()
    }

    fn type_in(&self, text: &str) {
        write(self.master.as_ref().expect("not hung up"), text.as_bytes()).unwrap();
    }

    /// Waits until this is on the screen, and returns what came after it on its line.
    fn wait_seen(&self, text: &str) -> String {
        self.wait(&format!("{text:?} on the screen"), || {
            let seen = self.seen();
            let (_, rest) = seen.split_once(text)?;
            Some(rest.split_once(['\r', '\n'])?.0.to_owned())
        })
    }

    /// Waits until this is the last thing on the screen.
    fn wait_prompt(&self, text: &str) {
        self.wait(&format!("the prompt {text:?}"), || self.seen().ends_with(text).then_some(()));
    }

    fn wait<T>(&self, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + LONG;
        loop {
            if let Some(found) = probe() {
                return found;
            }
            assert!(Instant::now() < end, "waited in vain for {what}; on the screen:\n{}", self.seen());
            sleep(Duration::from_millis(2));
        }
    }

    fn count(&self, text: &str) -> usize {
        self.seen().matches(text).count()
    }

    /// The process group in the foreground.
    fn foreground(&self) -> i32 {
        tcgetpgrp(self.master.as_ref().expect("not hung up")).map_or(0, Pid::as_raw)
    }

    /// Waits until this program is in the foreground, executed and not only about to be, and returns its number.
    fn wait_foreground(&self, program: &str) -> i32 {
        self.wait(&format!("{program} in the foreground"), || {
            let group = self.foreground();
            (fs::read_to_string(format!("/proc/{group}/comm")).ok()?.trim() == program).then_some(group)
        })
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.slave).unwrap()
    }

    fn session(&self) -> i32 {
        self.leader.id() as i32
    }

    /// Waits for the end of the session's leader, and returns its exit code; of a signal, its negative number.
    fn wait_end(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let id = self.leader.id() as i32;
        self.wait("the end of the session's leader", || {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            stat.contains(") Z ").then_some(())
        });
        self.seen();
        let status = self.leader.wait().unwrap();
        status.code().unwrap_or_else(|| -status.signal().unwrap())
    }

    /// Waits until the record has been renewed once more.
    fn wait_renewal(&self) {
        let read = || fs::read_to_string(self.folder.path().join("default_demo.json")).unwrap_or_default();
        let before = self.wait("a record", || Some(read()).filter(|text| text.contains("renewTime")));
        self.wait("a renewal", || (read() != before).then_some(()));
    }

    fn hang_up(&mut self) {
        self.seen();
        self.master = None;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The whole session, with whatever a failed test has left in it.
        for (pid, session) in processes() {
            if session == self.session() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = self.leader.wait();
    }
}

/// The lines that a person sees of this, on a terminal that is wide enough.
fn screen(seen: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in seen.replace("\x1b[?7l", "").replace("\x1b[?7h", "").split('\n') {
        // Each part is written over the one before, and what is behind it goes where it says so.
        let shown = line.split('\r').fold(String::new(), |before, part| match part.split_once("\x1b[K") {
            Some((start, rest)) => format!("{start}{rest}"),
            None => format!("{part}{}", before.get(part.len()..).unwrap_or_default()),
        });
        lines.push(shown);
    }
    lines
}

/// Every process, and its session.
fn processes() -> Vec<(i32, i32)> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| Some((pid, stat(pid, 3)?))).collect()
}

/// A field of /proc/PID/stat, counted from the state, which is 0: 1 is the parent, 2 the group, 3 the session.
fn stat(pid: i32, field: usize) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(field)?.parse().ok()
}

fn parent(pid: i32) -> i32 {
    stat(pid, 1).unwrap_or(0)
}

fn lead(folder: &TempDir, options: &[&str], child: &[&str]) -> Command {
    let mut command = leader_run();
    command.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(folder.path());
    command.args(options).arg("--").args(child);
    command
}

#[test]
fn job_control_works_in_a_shell_that_is_the_child() {
    has_job_control(&[]);
}

#[test]
fn job_control_works_in_a_pid_namespace() {
    if nix::unistd::Uid::effective().is_root() {
        has_job_control(&["--pid-namespace"]);
    } else {
        eprintln!("not run: it needs root");
    }
}

fn has_job_control(options: &[&str]) {
    let mut terminal = Terminal::of_leader_run(options, &INTERACTIVE);
    terminal.type_in("PS1='$(echo re)ady> '; bind 'set enable-bracketed-paste off'\n");
    terminal.wait_prompt("ready> ");
    let bash = terminal.foreground();
    terminal.type_in("sleep 100\n");
    let sleep = terminal.wait_foreground("sleep");
    terminal.type_in("\x1a");
    terminal.wait_seen("Stopped");
    terminal.wait_prompt("ready> ");
    assert_eq!(terminal.foreground(), bash);
    terminal.type_in("bg\n");
    terminal.wait_seen("[1]+ sleep 100 &");
    terminal.type_in("jobs\n");
    terminal.wait_seen("Running");
    terminal.type_in("fg\n");
    assert_eq!(terminal.wait_foreground("sleep"), sleep);
    terminal.type_in("\x03");
    terminal.wait_prompt("ready> ");
    assert!(!is_alive(sleep));
    terminal.type_in("exit 7\n");
    assert_eq!(terminal.wait_end(), 7);
    assert_eq!(terminal.count("no job control"), 0, "{}", terminal.seen.borrow());
    assert_eq!(terminal.count("the terminal stopped the child"), 0, "{}", terminal.seen.borrow());
}

#[test]
fn ctrl_c_reaches_the_child_once_and_leader_run_not_at_all() {
    let script = "trap 'echo got INT' INT; trap 'echo got USR1' USR1; echo pid $$; while :; do sleep 0.02; done";
    let mut terminal = Terminal::of_leader_run(&[], &["bash", "-c", script]);
    let child: i32 = terminal.wait_seen("pid ").parse().unwrap();
    for round in 1..=3 {
        terminal.type_in("\x03");
        terminal.wait("got INT", || (terminal.count("got INT") >= round).then_some(()));
    }
    // A signal that came twice would be here before this one.
    kill(Pid::from_raw(child), Signal::SIGUSR1).unwrap();
    terminal.wait_seen("got USR1");
    assert_eq!(terminal.count("got INT"), 3, "{}", terminal.seen());
    assert_eq!(terminal.count("stopping the child"), 0, "{}", terminal.seen());
    kill(Pid::from_raw(terminal.session()), Signal::SIGTERM).unwrap();
    assert_eq!(terminal.wait_end(), 128 + SIGTERM);
}

#[test]
fn ctrl_z_does_not_stop_the_child_or_the_renewals() {
    let terminal = Terminal::of_leader_run(&[], &["bash", "-c", "echo pid $$; while :; do sleep 0.02; done"]);
    let child: i32 = terminal.wait_seen("pid ").parse().unwrap();
    for _ in 0..2 {
        terminal.type_in("\x1a");
        terminal.wait("a renewal, and the child goes on", || {
            terminal.wait_renewal();
            let state = fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
            (!state.contains(") T ")).then_some(())
        });
    }
    terminal.wait_seen("SIGTSTP): continued");
    assert_eq!(terminal.count("continued"), 1, "{}", terminal.seen());
    assert_eq!(terminal.foreground(), child);
}

/// A shell as at a login, without the user's own files.
const INTERACTIVE: [&str; 4] = ["bash", "--norc", "--noprofile", "-i"];

/// A child that leaves the terminal as an editor has it, then says that it is ready, and which process it is.
const EDITOR: &str = "stty raw -echo; echo pid $$; ";

/// A shell without job control that runs leader-run with this child, then says with which code it ended.
fn editor_in_a_shell(child: &str) -> Terminal {
    let script = format!("$lead sh -c '{child}'; echo code $?; sleep 300");
    Terminal::of_shell(&["sh", "-c", &script])
}

#[test]
fn a_terminal_is_given_back_as_it_was() {
    // How the child or those around it are ended: given the child, who is killed.
    type Victim = fn(i32) -> Option<i32>;
    let rows: &[(&str, &str, Victim, &str)] = &[
        ("the child kills itself", "kill -9 $$", |_| None, "137"),
        ("the child is killed", "sleep 300", Some, "137"),
        ("leader-run is killed", "sleep 300; :", |child| Some(parent(parent(child))), "137"),
        ("the guard is killed", "sleep 300; :", |child| Some(parent(child)), "125"),
    ];
    for (what, child, victim, code) in rows {
        let terminal = editor_in_a_shell(&format!("{EDITOR}{child}"));
        // Before the shell has started leader-run, or while it does: the modes are not changed yet.
        let before = terminal.modes();
        let child = terminal.wait_seen("pid ").parse().unwrap();
        if let Some(victim) = victim(child) {
            assert_ne!(terminal.modes(), before, "{what}");
            assert_eq!(terminal.foreground(), child, "{what}");
            kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
        }
        terminal.wait(what, || (terminal.foreground() == terminal.session()).then_some(()));
        terminal.wait(what, || (terminal.modes() == before).then_some(()));
        assert_eq!(terminal.wait_seen("code "), *code, "{what}: {}", terminal.seen());
    }
}

#[test]
fn a_shell_has_the_terminal_again_and_goes_on() {
    let terminal = Terminal::of_shell(&INTERACTIVE);
    let shell = terminal.session();
    terminal.wait_prompt("ready> ");
    terminal.type_in("$lead cat\n");
    terminal.wait_seen("leading");
    terminal.wait_foreground("cat");
    terminal.type_in("some words\n");
    terminal.wait("an echo of the terminal and one of cat", || (terminal.count("some words\r\n") == 2).then_some(()));
    terminal.type_in("\x04");
    terminal.wait_prompt("ready> ");
    assert_eq!(terminal.foreground(), shell);
    terminal.type_in("echo code $? of $((40 + 2))\n");
    terminal.wait_seen("code 0 of 42");
    // What came of the last one is the shell's business alone.
    terminal.wait_prompt("ready> ");
    terminal.type_in("$lead sleep 300\n");
    terminal.wait_foreground("sleep");
    terminal.type_in("\x03");
    terminal.wait_prompt("ready> ");
    terminal.type_in("echo code $? of $((40 + 3))\n");
    terminal.wait_seen("code 130 of 43");
}

#[test]
fn pipelines_on_a_terminal_come_to_an_end() {
    let terminal = Terminal::of_shell(&INTERACTIVE);
    let last = |number: i32| {
        terminal.wait_prompt("ready> ");
        assert_eq!(terminal.foreground(), terminal.session(), "{}", terminal.seen());
        terminal.type_in(&format!("echo code $? of $(({number}))\n"));
        terminal.wait_seen(&format!("code 0 of {number}"));
        terminal.wait_prompt("ready> ");
    };
    terminal.wait_prompt("ready> ");
    terminal.type_in("$lead seq 1 5 | cat\n");
    terminal.wait_seen("4\r\n5");
    last(41);
    // A child that reads is given it.
    terminal.type_in("$lead sh -c 'read line; echo read $line' | cat\n");
    terminal.wait_seen("leading");
    terminal.type_in("what was typed\n");
    terminal.wait_seen("read what was typed");
    last(42);
    if !Command::new("less").arg("--version").output().is_ok_and(|less| less.status.success()) {
        eprintln!("not run: less is not installed");
        return;
    }
    // A pager has the terminal for itself.
    terminal.type_in("$lead seq 1001 1500 | TERM=vt100 less -X\n");
    terminal.wait_seen("1001");
    terminal.type_in(" ");
    terminal.wait_seen("1030");
    terminal.type_in("q");
    last(43);
    // Also one that is the child, with a pipe as its standard input.
    terminal.type_in("seq 2001 2500 | TERM=vt100 $lead less -X\n");
    terminal.wait_seen("2001");
    terminal.type_in(" ");
    terminal.wait_seen("2030");
    terminal.type_in("q");
    last(44);
}

#[test]
fn in_the_background_of_a_shell_a_child_that_reads_waits_until_it_is_in_the_foreground() {
    let terminal = Terminal::of_shell(&INTERACTIVE);
    terminal.wait_prompt("ready> ");
    terminal.type_in("$lead sh -c 'read line; echo read $line' &\n");
    terminal.wait_seen("SIGTTIN): continued");
    terminal.wait_renewal();
    assert_eq!(terminal.foreground(), terminal.session());
    terminal.type_in("\necho still $((40 + 2)) here\n");
    terminal.wait_seen("still 42 here");
    terminal.type_in("fg\n");
    terminal.wait("the child in the foreground", || {
        // Below the shell, leader-run and the guard.
        let child = terminal.foreground();
        (parent(parent(parent(child))) == terminal.session()).then_some(())
    });
    terminal.type_in("what was typed\n");
    terminal.wait_seen("read what was typed");
    terminal.wait_prompt("ready> ");
    assert_eq!(terminal.foreground(), terminal.session());
    assert_eq!(terminal.count("continued"), 1, "{}", terminal.seen());
}

#[test]
fn a_standby_is_ended_by_ctrl_c_only_and_outlives_its_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let leader = Contender::start(&mut lead(&folder, &[], &["sleep", "300"]));
    leader.wait_line("leading");
    let standby = |options: &[&str]| {
        let terminal = Terminal::new(|_| lead(&folder, options, &["true"]));
        terminal.wait_seen("waiting");
        terminal
    };
    let mut ended = standby(&[]);
    ended.type_in("\x1c\x03");
    assert_eq!(ended.wait_end(), 130, "{}", ended.seen());
    let mut left = standby(&["--wait", "3s"]);
    left.hang_up();
    assert_eq!(left.wait_end(), 124);
}

#[test]
fn a_leader_whose_terminal_is_hung_up_stops_as_its_child_does() {
    let mut terminal = Terminal::of_leader_run(&[], &["bash", "-c", "echo pid $$; while :; do sleep 0.02; done"]);
    let child = terminal.wait_seen("pid ").parse().unwrap();
    terminal.hang_up();
    assert_eq!(terminal.wait_end(), 129);
    assert!(!is_alive(child));
    let record = fs::read_to_string(terminal.folder.path().join("default_demo.json")).unwrap();
    assert!(record.contains("\"holderIdentity\":\"\""), "{record}");
}

#[test]
fn the_child_hears_of_a_new_size_of_the_window() {
    let script = "trap 'echo size $(stty size)' WINCH; echo ready; while :; do sleep 0.02; done";
    let resize = |terminal: &Terminal| {
        let resized = Command::new("stty").args(["-F", &terminal.name, "rows", "41", "cols", "103"]).status();
        assert!(resized.unwrap().success());
        terminal.wait_seen("size 41 103");
    };
    let terminal = Terminal::of_leader_run(&[], &["bash", "-c", script]);
    terminal.wait_seen("ready");
    resize(&terminal);
    // Not in the foreground itself, for its output is no terminal.
    let script = format!("$lead bash -c \"{script}\" | cat");
    let terminal = Terminal::of_shell(&["sh", "-c", &script.replace('$', "\\$").replacen("\\$lead", "$lead", 1)]);
    terminal.wait_seen("ready");
    resize(&terminal);
}

#[test]
fn a_standby_shows_one_live_line_which_is_gone_before_its_child_starts() {
    let mut leader = None;
    let terminal = Terminal::new(|folder| {
        let options = ["--identity", "first", "--lease-duration", "6s"];
        let contender = Contender::start(&mut lead(folder, &options, &["sh", "-c", "echo on; sleep 60"]));
        contender.wait_line("on");
        leader = Some(contender);
        let mut standby = lead(folder, &["--step-down-signal", "USR1"], &["sh", "-c", "echo my turn; sleep 60"]);
        standby.env("TERM", "xterm");
        standby
    });
    let live = "leader-run: waiting for first for ";
    let rest = terminal.wait_seen(live);
    assert!(rest.contains("s; file lock default/demo can expire in "), "{rest:?}");
    let (begun, before) = (Instant::now(), terminal.count(live));
    terminal.wait("three more of it", || (terminal.count(live) >= before + 3).then_some(()));
    assert!(begun.elapsed() >= Duration::from_secs(2), "drawn each second at most: {:?}", begun.elapsed());
    let lines = screen(&terminal.seen());
    assert_eq!(lines.iter().filter(|line| line.contains(live)).count(), 1, "{lines:#?}");
    assert!(lines.last().unwrap().starts_with(live), "{lines:#?}");
    assert!(lines[lines.len() - 2].starts_with("leader-run: waiting: file lock default/demo is held by first"));

    drop(leader);
    terminal.wait_seen("my turn");
    let lines = screen(&terminal.seen());
    assert!(lines.contains(&"my turn".to_owned()), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("can expire in")), "{lines:#?}");
}

#[test]
fn without_a_terminal_or_with_q_or_json_there_is_no_live_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut leader =
        Contender::start(&mut lead(&folder, &["--lease-duration", "6s"], &["sh", "-c", "echo on; sleep 60"]));
    leader.wait_line("on");
    let piped = Contender::start(lead(&folder, &[], &["true"]).env("TERM", "xterm"));
    piped.wait_line("is held by");
    for options in [&["-q"][..], &["--log-format", "json"]] {
        let mut terminal = Terminal::new(|_| {
            let mut standby = lead(&folder, &[options, &["--wait", "2s"]].concat(), &["true"]);
            standby.env("TERM", "xterm");
            standby
        });
        assert_eq!(terminal.wait_end(), 124);
        assert!(!terminal.seen().contains('\x1b'), "{:?}", terminal.seen());
    }
    assert!(leader.is_running() && !piped.said().contains("can expire in"), "{}", piped.said());
}
