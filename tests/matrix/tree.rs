//! What the child and its descendants can do, and what can go wrong around them.

use crate::bomb;
use crate::cgroup::{Cgroup, Setting};
use crate::proxy::Proxy;
use crate::scene::{L, LATE, P, R, Scene, at_once, child, loses, seconds};
use crate::server::TOKEN;
use crate::support::{
    Contender, DAEMON, LONG, POLITE, SHORT, STUBBORN, children, is_alive, leader_run, peak_memory, send_signal,
    started_by, tree, wait_for, wait_gone,
};
use crate::{Row, Seen};
use nix::libc::{SIGSTOP, SIGTERM};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const ROWS: &[Row] = &[
    Row {
        number: 32,
        fault: "the child ignores SIGTERM",
        injected: "a requested stop with --stop-grace 7s, longer than L",
        expected: "killed after the grace, 137; the lock is renewed all the while, then given back",
        run: ignores_term,
    },
    Row {
        number: 33,
        fault: "the child is stopped",
        injected: "kill -STOP of the child, then a requested stop; then a partition",
        expected: "SIGTERM reaches it all the same, it leaves by itself: its code; 75 after the loss",
        run: child_stopped,
    },
    Row {
        number: 34,
        fault: "descendants get away",
        injected: "double fork, setsid, empty environment, SIGTERM ignored; the child ends, or is asked to",
        expected: "all dead before the lock is given back; the child's code",
        run: runaways,
    },
    Row {
        number: 35,
        fault: "a fork bomb",
        injected: "400 processes (RLIMIT_NPROC): in one process group; in a session each; in a PID namespace, too",
        expected: "gone within 3 s of a requested stop without grace, the next child not before",
        run: fork_bombs,
    },
    Row {
        number: 36,
        fault: "too little processor time",
        injected: "a control group with a tenth of a processor and 100 busy processes; then a partition",
        expected: "the guard learns how late it is, says so and kills so much earlier; the children do not meet",
        run: starved,
    },
    Row {
        number: 37,
        fault: "standard error is full, or closed",
        injected: "a full pipe that nobody reads, one whose reader is gone, a closed descriptor; then a partition",
        expected: "renews as ever; SIGTERM at R, SIGKILL at K, 75",
        run: no_messages,
    },
    Row {
        number: 38,
        fault: "10 GB on standard output",
        injected: "a child that writes zeros into a pipe",
        expected: "none of it passes through leader-run: no growth of its memory or its guard's",
        run: much_output,
    },
    Row {
        number: 39,
        fault: "the child cannot be started",
        injected: "no such file, no rights, no program by the time of its term; no more processes in a control group",
        expected: "127, 126, 126, 125; the lock is given back at once",
        run: cannot_start,
    },
];

fn ignores_term() -> Seen {
    let scene = Scene::new();
    let config = scene.server.config(&scene.server.url(), TOKEN);
    let grace = L + P;
    let options = [&SHORT[..], &["--stop-grace", "7s"]].concat();
    let mut leader = Contender::start(&mut scene.command(&config, "leader", &options, STUBBORN));
    let pid = child(&leader);
    let standby = scene.contender("standby", POLITE);
    standby.wait_line("waiting");
    let before = scene.writes("leader").len();
    let stopped = Instant::now();
    leader.signal(SIGTERM);
    let gone = wait_gone(&[pid], LONG);
    let took = gone - stopped;
    assert!(took >= grace - Duration::from_millis(20) && took <= grace + LATE, "{took:?}");
    assert_eq!(leader.wait(), 137, "{}", leader.said());
    let renewals = scene.writes("leader").len() - before;
    assert!(renewals >= 5, "{renewals}");
    let next = standby.wait_line("start ").at.saturating_duration_since(gone);
    assert!(next <= LATE * 2, "{next:?}");
    let (took, next) = (seconds(took), seconds(next));
    Seen::Held(format!("killed after {took} and {renewals} renewals, exit 137; the next child {next} later"))
}

fn child_stopped() -> Seen {
    let stop = |contender: &Contender| {
        contender.wait_line("start ");
        let child = wait_for("the child", LONG, || children(contender.guard()).first().copied());
        // Then its trap is set.
        let waits = || children(child).is_empty() && fs::read_link(format!("/proc/{child}/fd/8")).is_ok();
        wait_for("the trap", LONG, || waits().then_some(()));
        send_signal(child, SIGSTOP);
        let state = || fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
        wait_for("the child to be stopped", LONG, || state().contains(") T ").then_some(()));
    };
    let asked = move || {
        let scene = Scene::new();
        let mut leader = scene.contender("leader", POLITE);
        stop(&leader);
        let begun = Instant::now();
        leader.signal(SIGTERM);
        assert_eq!(leader.wait(), 0, "{}", leader.said());
        assert!(begun.elapsed() <= LATE * 2, "{:?}", begun.elapsed());
        leader.wait_line("asked");
        assert_eq!(scene.holder(), "");
        format!("asked: it left after {}, exit 0", seconds(begun.elapsed()))
    };
    let lost = move || {
        let scene = Scene::new();
        let proxy = Proxy::start(&scene.server);
        let mut leader = scene.behind(&proxy, "leader", POLITE);
        stop(&leader);
        let since = scene.after_a_renewal("leader");
        sleep(P / 4);
        proxy.pause();
        let asked = leader.wait_line("asked").at - since;
        assert!(asked + Duration::from_millis(500) >= R && asked <= R + LATE, "{asked:?}");
        assert_eq!(leader.wait(), 75, "{}", leader.said());
        format!("cut off: it left {} after the last renewal, exit 75", seconds(asked))
    };
    Seen::Held(at_once(vec![Box::new(asked), Box::new(lost)]))
}

fn runaways() -> Seen {
    let case = |name: &'static str, script: String, ask: bool, code: i32| -> Box<dyn FnOnce() -> String + Send> {
        Box::new(move || {
            let scene = Scene::new();
            let mut leader = scene.contender("leader", &script);
            leader.wait_line("daemon ");
            let guard = leader.guard();
            let is_daemon =
                |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x00300\x00");
            let daemon = || tree(guard).into_iter().find(is_daemon);
            let daemon = wait_for("the daemon", LONG, daemon);
            let standby = scene.contender("standby", POLITE);
            standby.wait_line("waiting");
            if ask {
                leader.signal(SIGTERM);
            }
            leader.wait_line("stopping the processes that it left behind");
            let ended = Instant::now();
            let free = || (scene.holder() != "leader").then_some(is_alive(daemon));
            assert!(!wait_for("the release", LONG, free), "given back while {daemon} lives");
            let took = ended.elapsed();
            assert_eq!(leader.wait(), code, "{}", leader.said());
            standby.wait_line("start ");
            format!("{name}: all dead, then given back {} later, exit {code}", seconds(took))
        })
    };
    Seen::Held(at_once(vec![
        case("the child ended", format!("{DAEMON} {DAEMON} sleep 2; exit 5"), false, 5),
        case("asked", format!("{DAEMON} {DAEMON} {POLITE}"), true, 0),
    ]))
}

fn fork_bombs() -> Seen {
    if !bomb::is_possible() {
        return Seen::NotInjected("it needs root to become a user without other processes".into());
    }
    let mut cases = vec![
        ("one group", bomb::IN_ONE_GROUP, &[][..]),
        ("a session each", bomb::IN_MANY_SESSIONS, &[]),
        ("in a PID namespace", bomb::IN_MANY_SESSIONS, &["--pid-namespace"]),
    ];
    if !crate::support::as_pid_1().is_some_and(|command| command.get_args().all(|arg| arg != "--map-root-user")) {
        cases.pop();
    }
    let killed = cases.into_iter().map(|(name, bomb, options)| {
        let took = bomb::kill(options, bomb);
        assert!(took < Duration::from_secs(3), "{name}: {took:?}");
        format!("{name}: gone, and the next child there, after {}", seconds(took))
    });
    Seen::Held(killed.collect::<Vec<_>>().join("; "))
}

const TENTH: Setting = [("cpu.cfs_quota_us", "10000"), ("cpu.max", "10000 100000")];

fn starved() -> Seen {
    let group = match Cgroup::new("cpu") {
        Ok(group) => group,
        Err(why) => return Seen::NotInjected(why),
    };
    let scene = Scene::new();
    let proxy = Proxy::start(&scene.server);
    // They end when their parent does, should nobody kill them.
    let script = "for i in {1..100}; do (while [ -d /proc/$$ ]; do :; done) & done; echo pid $$; wait";
    let config = scene.server.config(&proxy.url(), TOKEN);
    // The guard is some seconds late: it has to have so much from R on. With four hundred it was up to 15 s.
    let options = ["--lease-duration", "40s"];
    let mut leader = Contender::start(&mut group.command(&scene.command(&config, "leader", &options, script)));
    child(&leader);
    let tree = tree(leader.guard());
    assert!(tree.len() > 100, "{}", tree.len());
    // Now that all are there.
    group.set(TENTH);
    let standby = scene.contender("standby", POLITE);
    standby.wait_line("waiting");
    leader.wait_line(LATENESS);
    // It may not even get to a renewal any more.
    proxy.pause();
    let since = scene.last_write("leader");
    let gone = wait_gone(&tree, LONG) - since;
    assert_eq!(leader.wait(), 75, "{}", leader.said());
    let next = standby.wait_line("start ").at - since;
    let late = leader.lines().into_iter().rfind(|line| line.text.contains(LATENESS)).expect("its lateness").text;
    let late = late.split(LATENESS).nth(1).and_then(|text| text.split(" late").next()).unwrap_or_default();
    let (gone, next) = (seconds(gone), seconds(next));
    Seen::Held(format!("{late} late; R 26.67 s, K 36 s: all gone {gone} after the last renewal, the next child {next}"))
}

const LATENESS: &str = "the guard gets the CPU up to ";

fn no_messages() -> Seen {
    let case = |name: &'static str, script: &'static str, prepare: fn(&Path) -> Option<fs::File>| {
        let case: Box<dyn FnOnce() -> String + Send> = Box::new(move || {
            let scene = Scene::new();
            let proxy = Proxy::start(&scene.server);
            let pipe = scene.path("pipe");
            mkfifo(&pipe, Mode::S_IRWXU).unwrap();
            let config = scene.server.config(&proxy.url(), TOKEN);
            let command = scene.command(&config, "leader", &[&SHORT[..], &["-v"]].concat(), STUBBORN);
            let script = script.replace("PIPE", pipe.to_str().unwrap());
            // Held by the test until the child is there.
            let reader = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
            let _kept = prepare(&pipe);
            let mut leader = Contender::start(&mut started_by(&["sh", "-c", &script, "sh"], &command));
            let pid = child(&leader);
            if name == "reader gone" {
                drop(reader);
            }
            let before = scene.after_a_renewal("leader");
            sleep(L);
            assert!(leader.is_running() && leader.count("asked") == 0);
            let since = scene.after_a_renewal("leader");
            assert!(since - before <= L + P * 2, "{:?}", since - before);
            sleep(P / 4);
            proxy.pause();
            let lost = loses(&mut leader, pid, since);
            assert!(leader.line("leading").is_none(), "it was heard: {}", leader.said());
            format!("{name}: {lost}")
        });
        case
    };
    let fill = |pipe: &Path| {
        let mut writer = OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(pipe).unwrap();
        while writer.write(&[b'x'; 4096]).is_ok() {}
        Some(writer)
    };
    let to_pipe = "exec \"$@\" 2> PIPE";
    Seen::Held(at_once(vec![
        case("full pipe", to_pipe, fill),
        case("reader gone", to_pipe, |_| None),
        case("closed", "exec \"$@\" 2>&-", |_| None),
    ]))
}

/// In MiB.
const OUTPUT: u64 = 10 * 1024;

fn much_output() -> Seen {
    let scene = Scene::new();
    let config = scene.server.config(&scene.server.url(), TOKEN);
    let script = format!("read go; dd if=/dev/zero bs=1M count={OUTPUT} status=none; read go; exit 3");
    let mut command = scene.command(&config, "leader", &SHORT, &script);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut go, mut output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
    let main = process.id() as i32;
    scene.after_a_renewal("leader");
    let processes = [main, children(main)[0]];
    let before = processes.map(peak_memory);
    let begun = Instant::now();
    go.write_all(b"\n").unwrap();
    let mut buffer = vec![0; 1 << 20];
    // And the line that it said at its start.
    let mut left = OUTPUT << 20;
    while left > 0 {
        let read = output.read(&mut buffer).unwrap();
        assert!(read > 0, "it ended with {left} bytes to go");
        left -= buffer[..read].iter().filter(|byte| **byte == 0).count() as u64;
    }
    let took = begun.elapsed();
    let after = processes.map(peak_memory);
    for (before, after) in before.into_iter().zip(after) {
        assert!(after <= before + 2_048, "{before} KiB became {after} KiB");
    }
    drop(go);
    assert_eq!(wait_for("its end", LONG, || process.try_wait().unwrap()).code(), Some(3));
    let [main, guard] = [0, 1].map(|i| after[i] as i64 - before[i] as i64);
    Seen::Held(format!("10 GiB in {}: leader-run grew by {main} KiB, its guard by {guard} KiB", seconds(took)))
}

fn cannot_start() -> Seen {
    type Spoil = fn(&Path, i32) -> Result<Option<Cgroup>, String>;
    let case = |name: &'static str, code: i32, spoil: Spoil| -> Box<dyn FnOnce() -> String + Send> {
        Box::new(move || {
            let scene = Scene::new();
            let program = scene.path("program");
            fs::copy("/bin/true", &program).unwrap();
            let first = scene.contender("first", POLITE);
            first.wait_line("start ");
            let mut second = leader_run();
            let config = scene.server.config(&scene.server.url(), TOKEN).to_string();
            second.arg("--kubeconfig").arg(scene.server.file(&config)).args(["--name", crate::scene::LOCK]);
            let mut second =
                Contender::start(second.args(["--identity", "second"]).args(SHORT).arg("--").arg(&program));
            second.wait_line("waiting");
            let _group = match spoil(&program, second.guard()) {
                Ok(group) => group,
                Err(why) => return format!("{name}: not injected on this machine: {why}"),
            };
            first.signal(SIGTERM);
            let begun = Instant::now();
            assert_eq!(second.wait(), code, "{name}: {}", second.said());
            assert!(begun.elapsed() <= L, "{:?}", begun.elapsed());
            assert_eq!(scene.holder(), "", "{name}: {}", second.said());
            assert!(!scene.writes("second").is_empty());
            format!("{name}: {code}")
        })
    };
    Seen::Held(at_once(vec![
        case("no such file", 127, |program, _| {
            fs::remove_file(program).unwrap();
            Ok(None)
        }),
        case("no rights", 126, |program, _| {
            fs::set_permissions(program, Permissions::from_mode(0o644)).unwrap();
            Ok(None)
        }),
        case("no program", 126, |program, _| {
            fs::write(program, "echo this is no program\n").unwrap();
            Ok(None)
        }),
        case("no more processes", 125, |_, guard| {
            let group = Cgroup::new("pids")?;
            group.set([("pids.max", "1"); 2]);
            group.take(guard);
            Ok(Some(group))
        }),
    ]))
}
