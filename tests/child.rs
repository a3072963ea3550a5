//! The child: what it is given, how it is stopped, and that nothing of its tree is left.

#[path = "support/clock.rs"]
mod preload;
mod support;

use nix::libc::{SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1};
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{
    AT_ONCE, Contender, DAEMON, Finished, LONG, copy_program, is_alive, leader_run, steal, wait_for, wait_gone,
    with_default_signals,
};
use tempfile::TempDir;

fn command(folder: &TempDir, options: &[&str], child: &[&str]) -> Command {
    let mut command = leader_run();
    command.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(folder.path());
    command.args(options).arg("--").args(child);
    command
}

fn run(options: &[&str], child: &[&str]) -> Finished {
    let folder = tempfile::tempdir().unwrap();
    command(&folder, options, child).output().unwrap().into()
}

fn start(options: &[&str], script: &str) -> (TempDir, Contender) {
    let folder = tempfile::tempdir().unwrap();
    let contender = Contender::start(&mut command(&folder, options, &["bash", "-c", script]));
    (folder, contender)
}

#[test]
fn the_exit_code_is_the_childs() {
    for code in [0, 1, 7, 255] {
        assert_eq!(run(&[], &["sh", "-c", &format!("exit {code}")]).code, code);
    }
    for signal in [SIGKILL, SIGTERM, nix::libc::SIGSEGV] {
        assert_eq!(run(&[], &["sh", "-c", &format!("kill -{signal} $$")]).code, 128 + signal);
    }
    // A real-time signal has a number and no name.
    assert_eq!(run(&[], &["bash", "-c", "kill -40 $$"]).code, 168);
}

#[test]
fn arguments_and_standard_streams_are_passed_as_they_are() {
    let odd = ["%s\\n", "a b", "", "*", "$HOME", "--name", "é\u{301}\n"];
    let finished = run(&[], &[&["printf"], &odd[..]].concat());
    assert_eq!(finished.stdout, "a b\n\n*\n$HOME\n--name\né\u{301}\n\n");
    let folder = tempfile::tempdir().unwrap();
    let mut cat = command(&folder, &[], &["cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    cat.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(cat.wait_with_output().unwrap().stdout, b"through");
}

#[test]
fn what_is_no_program_is_not_given_to_a_shell() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [("script", &b"echo a shell\n"[..]), ("foreign", b"\x7fELF\necho a shell\n"), ("empty", b"")]
    {
        let file = folder.path().join(name);
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let finished = run(&[], &[file.to_str().unwrap()]);
        assert_eq!((finished.code, finished.stdout.as_str()), (126, ""), "{name}: {finished:?}");
        assert!(finished.stderr.contains("exec format error"), "{finished:?}");
    }
}

#[test]
fn the_environment_says_which_term_it_is_and_hides_our_own_options() {
    let folder = tempfile::tempdir().unwrap();
    let mut env = command(&folder, &["--ns", "ops", "--identity", "me"], &["env"]);
    env.env("LEADER_RUN_RETRY_PERIOD", "1s").env("LEADER_ELECTION_NAME", "inherited").env("KEPT", "yes");
    let finished = Finished::from(env.output().unwrap());
    let has = |line: &str| finished.stdout.lines().any(|l| l == line);
    for line in [
        "LEADER_ELECTION_IDENTITY=me",
        "LEADER_ELECTION_LOCK=file",
        "LEADER_ELECTION_NAMESPACE=ops",
        "LEADER_ELECTION_NAME=demo",
        "LEADER_ELECTION_TRANSITIONS=0",
        "KEPT=yes",
    ] {
        assert!(has(line), "{line} is not in {}", finished.stdout);
    }
    assert!(!finished.stdout.contains("LEADER_RUN_"), "{}", finished.stdout);
}

#[test]
fn no_descriptor_mask_or_disposition_of_ours_leaks() {
    let list = "ls /proc/self/fd; grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status";
    let bare = with_default_signals("sh").args(["-c", list]).stdin(Stdio::null()).output().unwrap();
    let bare = Finished::from(bare);
    assert_eq!(run(&[], &["sh", "-c", list]).stdout, bare.stdout);
    // And what is inherited on purpose is passed through.
    let folder = tempfile::tempdir().unwrap();
    let file = fs::File::create(folder.path().join("inherited")).unwrap();
    let shell = format!("exec 7<&{}; exec \"$@\"", 0);
    let mut with_seven = Command::new("sh");
    let inner = command(&folder, &[], &["readlink", "/proc/self/fd/7"]);
    with_seven.args(["-c", &shell, "sh"]).arg(inner.get_program()).args(inner.get_args());
    with_seven.stdin(Stdio::from(file.try_clone().unwrap()));
    let finished = Finished::from(with_seven.output().unwrap());
    assert!(finished.stdout.trim().ends_with("inherited"), "{finished:?} {}", file.as_raw_fd());
}

/// The columns of a `stat` that say how a process is scheduled: nice, real-time priority, policy.
fn scheduling(stat: &str) -> [&str; 3] {
    let columns: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // The first one here is the third of all.
    [19, 40, 41].map(|column| columns[column - 3])
}

#[test]
fn the_guard_goes_first_and_the_child_is_scheduled_as_leader_run_was() {
    let folder = tempfile::tempdir().unwrap();
    let inner = command(&folder, &[], &["sh", "-c", "cat /proc/$$/stat /proc/$PPID/stat"]);
    let stats = |wrapper: &[&str], command: &Command| {
        let program = wrapper.iter().map(OsStr::new).chain([command.get_program()]).chain(command.get_args());
        let finished = Finished::from(Command::new("env").args(program).output().unwrap());
        assert_eq!(finished.code, 0, "{wrapper:?}: {finished:?}");
        finished.stdout
    };
    let mut bare = Command::new("cat");
    bare.arg("/proc/self/stat");
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("not run in part: raising a priority needs root");
    }
    let anybodys = [&["env"][..], &["nice"], &["chrt", "--idle", "0"], &["nice", "-n", "3", "chrt", "--batch", "0"]];
    let roots = [&["nice", "-n", "-7"][..], &["chrt", "--rr", "9"]];
    for wrapper in anybodys.iter().chain(roots.iter().filter(|_| is_root)) {
        let (bare, stats) = (stats(wrapper, &bare), stats(wrapper, &inner));
        let (child, guard) = stats.split_once('\n').unwrap();
        assert_eq!(scheduling(child), scheduling(&bare), "{wrapper:?}");
        if is_root {
            // Real time, or the lowest nice value where groups have no share of that.
            let [nice, real_time, _] = scheduling(guard);
            assert!(real_time != "0" || nice == "-20", "{wrapper:?}: {guard:?}");
        }
    }
}

#[test]
fn term_sends_the_stop_signal_int_sends_int_and_others_are_forwarded() {
    let script = "for s in TERM INT USR1 HUP; do trap \"echo got $s\" $s; done; trap 'echo got QUIT; exit 4' QUIT
                  echo ready; while :; do sleep 0.02; done";
    let (_folder, mut contender) = start(&["--stop-signal", "QUIT"], script);
    contender.wait_line("ready");
    contender.signal(SIGUSR1);
    contender.wait_line("got USR1");
    contender.signal(SIGINT);
    contender.wait_line("got INT");
    assert!(contender.is_running());
    contender.signal(SIGTERM);
    assert_eq!(contender.wait(), 4, "{}", contender.said());
    assert_eq!(contender.count("got QUIT"), 1);
    assert_eq!(contender.count("got TERM"), 0);
}

#[test]
fn signals_that_are_ignored_from_the_start_stay_ignored() {
    let folder = tempfile::tempdir().unwrap();
    // As nohup and a script's background job start it. The child asks for them again.
    let child = "trap 'echo got' USR1 USR2; echo ready; while :; do sleep 0.02; done";
    let inner = command(&folder, &[], &["bash", "-c", child]);
    let mut outer = Command::new("sh");
    // Without the `env --default-signal` that stands before the binary otherwise.
    outer.args(["-c", "trap '' HUP INT; exec \"$@\"", "sh"]).args(inner.get_args().skip(1));
    let mut contender = Contender::start(&mut outer);
    contender.wait_line("ready");
    for signal in [SIGHUP, SIGINT, SIGUSR1] {
        contender.signal(signal);
    }
    contender.wait_line("got");
    assert!(contender.is_running());
    contender.signal(SIGTERM);
    assert_eq!(contender.wait(), 143, "{}", contender.said());
    assert_eq!(contender.count("got SIGINT"), 0);
}

#[test]
fn after_the_stop_grace_the_child_is_killed_and_asking_again_changes_nothing() {
    let (_folder, mut contender) =
        start(&["--stop-grace", "3s"], "trap 'echo asked' TERM; echo ready; while :; do sleep 0.02; done");
    contender.wait_line("ready");
    let asked = Instant::now();
    contender.signal(SIGTERM);
    while asked.elapsed() < Duration::from_millis(2_500) {
        std::thread::sleep(Duration::from_millis(100));
        contender.signal(SIGTERM);
    }
    assert_eq!(contender.wait(), 137, "{}", contender.said());
    let took = asked.elapsed();
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(3) + AT_ONCE, "{took:?}");
    assert!(contender.count("asked") >= 2, "each request reaches the child");
}

#[test]
fn a_stopped_child_still_gets_its_stop_signal() {
    let (_folder, mut contender) =
        start(&[], "echo pid $$; trap 'echo bye; exit 6' TERM; kill -STOP $$; while :; do sleep 0.02; done");
    let pid: i32 = contender.wait_line("pid ").text[4..].parse().unwrap();
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    wait_for("the child has stopped itself", LONG, || state().contains(") T ").then_some(()));
    contender.signal(SIGTERM);
    assert_eq!(contender.wait(), 6, "{}", contender.said());
}

fn daemons(contender: &Contender) -> Vec<i32> {
    let line = contender.wait_line("daemon ").text;
    line[7..].split(' ').map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn descendants_that_outlive_the_child_are_gone_before_the_lock_is_released() {
    let (folder, mut contender) = start(&[], &format!("{DAEMON} sleep 0.3; exit 5"));
    let pids = daemons(&contender);
    let record = || fs::read_to_string(folder.path().join("default_demo.json")).unwrap();
    wait_for("the release", LONG, || record().contains("\"holderIdentity\":\"\"").then_some(()));
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "released while {pids:?} live");
    assert_eq!(contender.wait(), 5);
}

#[test]
fn with_wait_all_descendants_are_waited_for_and_stopped_only_when_asked() {
    let (folder, mut contender) = start(&["--wait-all"], "(sleep 0.7; echo late) & exit 5");
    let record = || fs::read_to_string(folder.path().join("default_demo.json")).unwrap();
    contender.wait_line("waiting for the processes that it left behind");
    assert!(!record().contains("\"holderIdentity\":\"\""));
    assert_eq!(contender.wait(), 5, "{}", contender.said());
    assert!(contender.line("late").is_some(), "{}", contender.said());

    let left = "(trap 'echo asked; exit' TERM; echo ready; while :; do sleep 0.02; done) & exit 6";
    let (_folder, mut contender) = start(&["--wait-all"], left);
    contender.wait_line("ready");
    contender.wait_line("left behind");
    contender.signal(SIGTERM);
    assert_eq!(contender.wait(), 6, "{}", contender.said());
    assert!(contender.line("asked").is_some(), "{}", contender.said());
}

#[test]
fn kill_9_of_leader_run_takes_the_whole_tree_along() {
    let (_folder, contender) = start(&[], &format!("{DAEMON} echo pid $$; trap '' TERM; while :; do sleep 0.02; done"));
    let mut pids = daemons(&contender);
    pids.push(contender.wait_line("pid ").text[4..].parse().unwrap());
    let killed = Instant::now();
    contender.signal(SIGKILL);
    let took = wait_gone(&pids, LONG) - killed;
    assert!(took <= AT_ONCE, "{took:?}");
}

#[test]
fn a_guard_that_dies_takes_the_tree_along_and_the_lock_is_given_back() {
    let (folder, mut contender) = start(&[], &format!("{DAEMON} echo pid $$ $PPID; while :; do sleep 0.02; done"));
    let mut pids = daemons(&contender);
    let line = contender.wait_line("pid ").text;
    let (child, guard) = line[4..].split_once(' ').unwrap();
    pids.push(child.parse().unwrap());
    let killed = Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(guard.parse().unwrap()), nix::sys::signal::SIGKILL).unwrap();
    let took = wait_gone(&pids, LONG) - killed;
    assert!(took <= AT_ONCE, "{took:?}");
    assert_eq!(contender.wait(), 125, "{}", contender.said());
    let record = fs::read_to_string(folder.path().join("default_demo.json")).unwrap();
    assert!(record.contains("\"holderIdentity\":\"\""), "{record}");
}

fn signal(pid: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// A contender that has won the lock while its guard was stopped, and so has no child.
fn led_by_a_stopped_guard(folder: &TempDir) -> (Contender, i32) {
    let options = ["--lease-duration", "4s", "-v"];
    let first = Contender::start(&mut command(folder, &options, &["bash", "-c", "echo first; sleep 60"]));
    first.wait_line("first");
    let second = Contender::start(&mut command(folder, &options, &["bash", "-c", "echo second; sleep 60"]));
    second.wait_line("waiting");
    let guard = second.guard();
    signal(guard, Signal::SIGSTOP);
    first.signal(SIGTERM);
    second.wait_line("leading");
    (second, guard)
}

#[test]
fn a_guard_that_does_not_start_the_child_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let (mut second, _) = led_by_a_stopped_guard(&folder);
    assert_eq!(second.wait(), 125, "{}", second.said());
    assert!(second.said().contains("the guard missed its deadline"), "{}", second.said());
    assert!(second.line("second").is_none());
    let record = fs::read_to_string(folder.path().join("default_demo.json")).unwrap();
    assert!(record.contains("\"holderIdentity\":\"\""), "given back: {record}");
}

#[test]
fn a_stop_or_a_loss_while_the_guard_sleeps_starts_no_child() {
    let folder = tempfile::tempdir().unwrap();
    let (mut stopped, guard) = led_by_a_stopped_guard(&folder);
    stopped.signal(SIGTERM);
    stopped.wait_line("got SIGTERM");
    signal(guard, Signal::SIGCONT);
    assert_eq!(stopped.wait(), 143, "{}", stopped.said());
    assert!(stopped.line("second").is_none());

    let folder = tempfile::tempdir().unwrap();
    let (mut lost, guard) = led_by_a_stopped_guard(&folder);
    steal(&folder.path().join("default_demo.json"), "thief");
    lost.wait_line("thief holds it now");
    signal(guard, Signal::SIGCONT);
    assert_eq!(lost.wait(), 75, "{}", lost.said());
    assert!(lost.line("second").is_none());
}

#[test]
fn a_guard_that_hears_of_the_start_and_of_the_end_at_once_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (mut killed, guard) = led_by_a_stopped_guard(&folder);
    killed.signal(SIGKILL);
    killed.wait();
    // The kernel may have continued it before that: an orphan is not left stopped.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(guard), Signal::SIGCONT);
    wait_gone(&[guard], LONG);
}

/// How long this process has had a processor, in hundredths of a second.
fn processor_time(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let columns: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    columns[11].parse::<u64>().unwrap() + columns[12].parse::<u64>().unwrap()
}

#[test]
fn what_cannot_be_killed_is_waited_for_in_peace() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not run: it needs root to make a child that may not be killed");
        return;
    }
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), 0o777);
    let copy = |from: &Path, name: &str| {
        let program = folder.path().join(name);
        copy_program(from, &program);
        program
    };
    let program = copy(Path::new(env!("CARGO_BIN_EXE_leader-run")), "leader-run");
    let output = Command::new("which").arg("setpriv").output().unwrap();
    let become_root = copy(Path::new(String::from_utf8(output.stdout).unwrap().trim()), "become-root");
    open(&become_root, 0o4755);
    let script = format!("echo pid $$; exec {} --reuid 0 sleep 60", become_root.display());
    let mut command = with_default_signals("setpriv");
    command.args(["--reuid", "54322", "--clear-groups"]).arg(program);
    command.args(["--lock", "file", "--name", "demo", "--stop-grace", "0s", "--lock-dir"]).arg(folder.path());
    command.args(["--", "bash", "-c", &script]);
    let mut contender = Contender::start(&mut command);
    let child: i32 = contender.wait_line("pid ").text[4..].parse().unwrap();
    wait_for("another user", LONG, || {
        let status = fs::read_to_string(format!("/proc/{child}/status")).ok()?;
        status.contains("Uid:\t0\t0\t0\t0").then_some(())
    });
    let guard = contender.guard();
    contender.signal(SIGTERM);
    contender.wait_line("killing");
    std::thread::sleep(Duration::from_millis(500));
    let before = processor_time(guard);
    std::thread::sleep(Duration::from_secs(1));
    let took = processor_time(guard) - before;
    assert!(contender.is_running(), "{}", contender.said());
    signal(child, Signal::SIGKILL);
    assert_eq!(contender.wait(), 128 + SIGKILL, "{}", contender.said());
    assert!(took < 20, "{took} hundredths of a second in a second");
}

#[test]
fn a_child_that_the_terminal_stops_is_continued() {
    let (_folder, mut contender) = start(&[], "kill -TTIN $$; echo on; exit 8");
    assert_eq!(contender.wait(), 8, "{}", contender.said());
    assert_eq!(contender.count("SIGTTIN"), 1, "{}", contender.said());
}

#[test]
fn messages_can_be_json() {
    let finished = run(&["--log-format", "json"], &["true"]);
    let line: serde_json::Value = serde_json::from_str(finished.stderr.lines().next().unwrap()).unwrap();
    assert_eq!(line["level"], "INFO");
    assert!(line["message"].as_str().unwrap().starts_with("leading file lock default/demo"), "{line}");
    assert_eq!(run(&["-q"], &["true"]).stderr, "");
}

/// A leader of a lease of 3 s, whose child is held between its fork and its last look at the clock.
struct Held {
    folder: TempDir,
    contender: Contender,
    /// The process that is to execute the command.
    child: i32,
}

impl Held {
    /// `None` without a C compiler.
    fn start(script: &str) -> Option<Held> {
        let folder = tempfile::tempdir().unwrap();
        let Some(library) = preload::library("hold", folder.path()) else {
            eprintln!("not run: needs a C compiler");
            return None;
        };
        let (hold, held) = (folder.path().join("hold"), folder.path().join("held"));
        fs::write(&hold, "").unwrap();
        let mut command = command(&folder, &["--lease-duration", "3s"], &["bash", "-c", script]);
        command.env("LD_PRELOAD", library).env("HOLD", hold).env("HELD", &held);
        let contender = Contender::start(&mut command);
        let pid = || fs::read_to_string(&held).ok()?.strip_suffix('\n')?.parse().ok();
        let child = wait_for("a child that is held", LONG, pid);
        Some(Held { folder, contender, child })
    }

    fn go_on(&self) {
        fs::remove_file(self.folder.path().join("hold")).unwrap();
    }

    /// When the lock was renewed last, as its record says.
    fn renewed(&self) -> String {
        let record = fs::read_to_string(self.folder.path().join("default_demo.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        record["spec"]["renewTime"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_child_that_comes_too_late_does_not_execute_the_command_and_is_started_again() {
    let Some(mut held) = Held::start("echo pid $$; exit 3") else { return };
    // Past S+R of the write that won, which is all that this child knows of.
    for _ in 0..3 {
        let before = held.renewed();
        wait_for("a renewal", LONG, || (held.renewed() != before).then_some(()));
    }
    held.go_on();
    assert_eq!(held.contender.wait(), 3, "{}", held.contender.said());
    let said = held.contender.said();
    let executed: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("pid ")).collect();
    assert_eq!(executed.len(), 1, "{said}");
    assert_ne!(executed[0], held.child.to_string(), "it looked at the clock and executed the command all the same");
}

#[test]
fn a_kill_that_is_due_before_exec_comes_before_the_command() {
    let Some(held) = Held::start("echo executed") else { return };
    held.contender.signal(SIGKILL);
    wait_gone(&[held.child], LONG);
    assert!(held.folder.path().join("hold").exists());
    assert!(!held.contender.said().contains("executed"));
}

#[test]
fn a_death_before_exec_is_not_the_commands() {
    let Some(mut held) = Held::start("true") else { return };
    support::send_signal(held.child, SIGKILL);
    assert_eq!(held.contender.wait(), 125);
    let said = held.contender.said();
    assert!(said.contains("died before it could execute the command (killed by SIGKILL)"), "{said}");
}

#[test]
fn a_stop_before_exec_ends_leader_run_without_the_command() {
    let Some(mut held) = Held::start("trap 'echo executed; exit 9' TERM; echo executed; sleep 60") else { return };
    held.contender.signal(SIGTERM);
    // It waits there until the child takes its signals.
    let pending = || {
        let status = fs::read_to_string(format!("/proc/{}/status", held.child)).ok()?;
        let signals = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"))?;
        let signals = u64::from_str_radix(signals.trim(), 16).ok()?;
        (signals & 1 << (SIGTERM - 1) != 0).then_some(())
    };
    wait_for("the stop signal", LONG, pending);
    held.go_on();
    assert_eq!(held.contender.wait(), 128 + SIGTERM);
    assert!(!held.contender.said().contains("executed"), "{}", held.contender.said());
}
