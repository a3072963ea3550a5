//! What can happen to leader-run and to its guard: killed, stopped, frozen, short of memory, broken.

use crate::cgroup::{Cgroup, Setting};
use crate::scene::{K, L, LATE, P, R, Scene, all_at_once, at_once, child, seconds};
use crate::server::TOKEN;
use crate::support::{
    Contender, DAEMON, LONG, POLITE, SHORT, STUBBORN, as_pid_1, children, is_alive, kill_at_once, leader_run, median,
    send_signal, started_by, tree, wait_for, wait_gone,
};
use crate::{Row, Seen};
use nix::libc::{SIGCONT, SIGKILL, SIGSTOP};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

pub const ROWS: &[Row] = &[
    Row {
        number: 1,
        fault: "leader-run is killed",
        injected: "kill -9; its tree has members that have left their session, parent and environment and ignore SIGTERM",
        expected: "tree gone within 100 ms; then the guard gives the lock back; with --no-crash-release nobody does, and \
                   the next child is not before L",
        run: main_killed,
    },
    Row {
        number: 2,
        fault: "the guard is killed",
        injected: "kill -9, with the same tree",
        expected: "tree gone within 100 ms, exit 125; then the lock is given back",
        run: guard_killed,
    },
    Row {
        number: 3,
        fault: "both are killed below their PID 1",
        injected: "kill -9 of both at once, in a PID namespace whose PID 1 is leader-run's init",
        expected: "tree gone within 100 ms, by the kernel",
        run: both_killed_in_a_container,
    },
    Row {
        number: 4,
        fault: "both are killed, without a PID 1 of their own",
        injected: "kill -9 of both at once; with --pid-namespace, too",
        expected: "the child dies, daemons live on, as the README says; with --pid-namespace nobody does",
        run: both_killed,
    },
    Row {
        number: 5,
        fault: "leader-run is stopped",
        injected: "SIGSTOP, and SIGCONT once another leads; five at once",
        expected: "SIGTERM at R, tree gone by K and 250 ms; when it goes on it exits with 75 and writes nothing",
        run: main_stopped,
    },
    Row {
        number: 6,
        fault: "the guard is stopped",
        injected: "SIGSTOP; five at once",
        expected: "tree gone within 500 ms of the deadline that the guard misses, exit 125; then the lock is given back",
        run: guard_stopped,
    },
    Row {
        number: 7,
        fault: "both are stopped, their child is not",
        injected: "SIGSTOP of both, SIGCONT once another leads",
        expected: "outside the promise: two children meet, and the oracle sees it; afterwards the older one is killed, 75",
        run: both_stopped,
    },
    Row {
        number: 8,
        fault: "everybody is frozen past the lease",
        injected: "a frozen control group, thawed once another leads; three at once",
        expected: "once thawed the child is killed before it gets anything done (20 ms); 75, nothing written",
        run: frozen,
    },
    Row {
        number: 9,
        fault: "out of memory",
        injected: "a memory control group in which the child takes all: the kernel kills the child; leader-run",
        expected: "the child: 137, and the lock is given back; leader-run: as in row 1",
        run: out_of_memory,
    },
    Row {
        number: 10,
        fault: "leader-run panics",
        injected: "a mistake of test builds: the elector panics at the first renewal",
        expected: "exit 125 and one line; the tree gone, then the lock given back",
        run: panics,
    },
];

/// What is promised for a tree after a kill.
const PROMISE: Duration = Duration::from_millis(100);

/// A child that stays, and a daemon that nothing holds to it.
fn family() -> String {
    format!("{DAEMON} {STUBBORN}")
}

/// All processes of a family below this guard, once all are what they are to be.
fn members(contender: &Contender, guard: i32) -> Vec<i32> {
    contender.wait_line("pid ");
    wait_for("the whole family", LONG, || {
        let tree = tree(guard);
        let is_daemon =
            |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x00300\x00");
        let is_init = |pid: &i32| fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"leader-run\n");
        // And nobody who is there for a moment only.
        let family = tree.iter().filter(|pid| !is_init(pid)).count();
        (family == 3 && tree.iter().any(is_daemon)).then_some(tree)
    })
}

/// A family with a lock in a file that nobody else wants.
fn alone(wrap: impl FnOnce(&Command) -> Command, options: &[&str]) -> (TempDir, Contender) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = leader_run();
    command.args(["--lock", "file", "--name", "demo", "--lock-dir"]).arg(folder.path()).args(options);
    let contender = Contender::start(&mut wrap(command.args(["--", "bash", "-c", &family()])));
    (folder, contender)
}

fn as_it_is(command: &Command) -> Command {
    started_by(&["env"], command)
}

/// Twenty times: the median is held to the promise, and all to what a busy machine allows.
fn twenty_times(what: impl Fn() -> Duration) -> String {
    let times: Vec<_> = (0..20).map(|_| what()).collect();
    let (median, worst) = (median(times.clone()), *times.iter().max().unwrap());
    assert!(median <= PROMISE && worst <= L, "{times:?}");
    format!("20 times: gone after {}, {} at the most", seconds(median), seconds(worst))
}

fn main_killed() -> Seen {
    let kill = |options: &[&str]| {
        let scene = Scene::new();
        let config = scene.server.config(&scene.server.url(), TOKEN);
        let options = [&SHORT[..], options].concat();
        let leader = Contender::start(&mut scene.command(&config, "leader", &options, &family()));
        let tree = members(&leader, leader.guard());
        let standby = scene.contender("standby", POLITE);
        standby.wait_line("waiting");
        scene.after_a_renewal("leader");
        leader.signal(SIGKILL);
        let gone = wait_gone(&tree, LONG);
        (scene, standby, gone)
    };
    let (_scene, standby, gone) = kill(&[]);
    let given_back = given_back(&standby, gone);
    let (scene, standby, _) = kill(&["--no-crash-release"]);
    assert_eq!(scene.holder(), "leader");
    let next = scene.handover("leader", &standby);
    let gone = twenty_times(|| {
        let (_folder, contender) = alone(as_it_is, &[]);
        let tree = members(&contender, contender.guard());
        let killed = Instant::now();
        contender.signal(SIGKILL);
        wait_gone(&tree, LONG) - killed
    });
    Seen::Held(format!(
        "{gone}; the next child {given_back} later; without a crash release {next} after the last renewal"
    ))
}

/// How long after the end of the tree the next child starts, that waits for no lease.
fn given_back(standby: &Contender, gone: Instant) -> String {
    // Too early the two would have met; and that the tree is gone may be seen a little later.
    let took = standby.wait_line("start ").at.saturating_duration_since(gone);
    assert!(took < R, "only after {took:?}");
    seconds(took)
}

fn guard_killed() -> Seen {
    let scene = Scene::new();
    let mut leader = scene.contender("leader", &family());
    let guard = leader.guard();
    let tree = members(&leader, guard);
    let standby = scene.contender("standby", POLITE);
    standby.wait_line("waiting");
    let killed = Instant::now();
    send_signal(guard, SIGKILL);
    let gone = wait_gone(&tree, LONG);
    assert_eq!(leader.wait(), 125, "{}", leader.said());
    let next = standby.wait_line("start ").at;
    assert!(next > gone - Duration::from_millis(20) && next - killed < L, "{:?}", next - killed);
    let times = twenty_times(|| {
        let (_folder, mut contender) = alone(as_it_is, &[]);
        let guard = contender.guard();
        let tree = members(&contender, guard);
        let killed = Instant::now();
        send_signal(guard, SIGKILL);
        let took = wait_gone(&tree, LONG) - killed;
        assert_eq!(contender.wait(), 125, "{}", contender.said());
        took
    });
    Seen::Held(format!("{times}; exit 125, the next child {} after the kill", seconds(next - killed)))
}

fn both_killed_in_a_container() -> Seen {
    let Some(container) = as_pid_1() else {
        return Seen::NotInjected("no PID namespace is to be had".into());
    };
    let words = [container.get_program()].into_iter().chain(container.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    // Below unshare its PID 1, below that leader-run, below that the guard.
    let only = |pid: i32| wait_for("its child", LONG, || children(pid).first().copied());
    let processes = |contender: &Contender| {
        let main = only(only(contender.pid()));
        [main, only(main)]
    };
    let scene = Scene::new();
    let config = scene.server.config(&scene.server.url(), TOKEN);
    let mut leader = Contender::start(&mut started_by(&words, &scene.command(&config, "leader", &SHORT, &family())));
    let [main, guard] = processes(&leader);
    let family = members(&leader, guard);
    let standby = scene.contender("standby", POLITE);
    standby.wait_line("waiting");
    scene.after_a_renewal("leader");
    kill_at_once([main, guard]);
    assert_eq!(leader.wait(), 137, "{}", leader.said());
    wait_gone(&family, LONG);
    let next = scene.handover("leader", &standby);
    let gone = twenty_times(|| {
        let (_folder, contender) = alone(|command| started_by(&words, command), &[]);
        let [main, guard] = processes(&contender);
        let family = members(&contender, guard);
        let killed = kill_at_once([main, guard]);
        wait_gone(&family, LONG) - killed
    });
    Seen::Held(format!("{gone}; the next child {next} after the last renewal"))
}

fn both_killed() -> Seen {
    let (_folder, contender) = alone(as_it_is, &[]);
    let guard = contender.guard();
    let family = members(&contender, guard);
    let killed = kill_at_once([contender.pid(), guard]);
    let took = wait_gone(&[child(&contender)], LONG) - killed;
    assert!(took <= LATE, "{took:?}");
    let alive: Vec<_> = family.into_iter().filter(|pid| is_alive(*pid)).collect();
    alive.iter().for_each(|pid| send_signal(*pid, SIGKILL));
    // Where they did not, the condition in the README would be wrong.
    assert!(!alive.is_empty(), "no daemon lives on");
    let without = format!("the child gone after {}, {} daemons live on", seconds(took), alive.len());
    let (_folder, mut contender) = alone(as_it_is, &["--pid-namespace"]);
    let first = || contender.line("pid ").or_else(|| contender.line("not possible here"));
    if !wait_for("a child or a refusal", LONG, first).text.starts_with("pid ") {
        assert_eq!(contender.wait(), 125);
        return Seen::Held(format!("{without}; --pid-namespace is not possible on this machine"));
    }
    drop(contender);
    let within = twenty_times(|| {
        let (_folder, contender) = alone(as_it_is, &["--pid-namespace"]);
        contender.wait_line("pid ");
        let guard = contender.guard();
        let family = members(&contender, guard);
        let killed = kill_at_once([contender.pid(), guard]);
        // All but the namespace's init: it waits for the machine's own to reap the child.
        wait_gone(&family[1..], LONG) - killed
    });
    Seen::Held(format!("{without}; with --pid-namespace nobody, {within}"))
}

/// Does the same five times at once. The median of what was measured is held to the promise.
fn five_at_once(promise: Duration, case: fn() -> Duration) -> String {
    let times = all_at_once(vec![case; 5]);
    let (median, worst) = (median(times.clone()), *times.iter().max().unwrap());
    assert!(median <= promise, "{times:?}");
    format!("gone {}, at the most {}", seconds(median), seconds(worst))
}

fn main_stopped() -> Seen {
    let gone = five_at_once(K + Duration::from_millis(250), || {
        let scene = Scene::new();
        let mut leader = scene.contender("leader", &family());
        let tree = members(&leader, leader.guard());
        let standby = scene.contender("standby", POLITE);
        standby.wait_line("waiting");
        let since = scene.after_a_renewal("leader");
        // By then it knows of it.
        sleep(P / 4);
        leader.signal(SIGSTOP);
        let took = wait_gone(&tree, LONG) - since;
        let asked = leader.wait_line("asked").at - since;
        let early = Duration::from_millis(500);
        assert!(asked + early >= R && asked <= R + LATE && took + early >= K && took <= K + LATE, "{asked:?} {took:?}");
        scene.handover("leader", &standby);
        let writes = scene.writes("leader").len();
        leader.signal(SIGCONT);
        assert_eq!(leader.wait(), 75, "{}", leader.said());
        assert_eq!((scene.writes("leader").len(), scene.holder().as_str()), (writes, "standby"));
        took
    });
    Seen::Held(format!("{gone} after the last renewal; exit 75, nothing written"))
}

fn guard_stopped() -> Seen {
    let gone = five_at_once(K + Duration::from_millis(500), || {
        let scene = Scene::new();
        let mut leader = scene.contender("leader", &family());
        let guard = leader.guard();
        let tree = members(&leader, guard);
        let standby = scene.contender("standby", POLITE);
        standby.wait_line("waiting");
        let since = scene.after_a_renewal("leader");
        // By then the guard has acknowledged it: the last one that it will.
        sleep(P / 4);
        send_signal(guard, SIGSTOP);
        let gone = wait_gone(&tree, LONG);
        assert!(gone - since <= K + LATE, "{:?}", gone - since);
        assert_eq!(leader.wait(), 125, "{}", leader.said());
        leader.wait_line("the guard missed its deadline");
        let next = standby.wait_line("start ").at;
        assert!(next + Duration::from_millis(20) > gone && next - gone < L, "{:?}", next - gone);
        gone - since
    });
    Seen::Held(format!(
        "{gone} after the last renewal that the guard had acknowledged (its deadline is {})",
        seconds(K)
    ))
}

fn both_stopped() -> Seen {
    let scene = Scene::new();
    let mut leader = scene.contender("leader", &family());
    let guard = leader.guard();
    let tree = members(&leader, guard);
    let standby = scene.contender("standby", POLITE);
    standby.wait_line("waiting");
    scene.after_a_renewal("leader");
    leader.signal(SIGSTOP);
    send_signal(guard, SIGSTOP);
    let next = scene.handover("leader", &standby);
    wait_for("the oracle to see it", LONG, || standby.line("OVERLAP"));
    assert!(tree.iter().all(|pid| is_alive(*pid)));
    let writes = scene.writes("leader").len();
    let continued = Instant::now();
    send_signal(guard, SIGCONT);
    leader.signal(SIGCONT);
    let took = wait_gone(&tree, LONG) - continued;
    assert!(took <= LATE, "{took:?}");
    assert_eq!(leader.wait(), 75, "{}", leader.said());
    assert_eq!(scene.writes("leader").len(), writes);
    assert!(scene.excuse_overlaps());
    let took = seconds(took);
    Seen::Held(format!(
        "the next child {next} after the last renewal, OVERLAP; the older one gone {took} after SIGCONT, 75"
    ))
}

fn frozen() -> Seen {
    let group = match Cgroup::new("freezer") {
        Ok(group) => group,
        Err(why) => return Seen::NotInjected(why),
    };
    drop(group);
    let times = all_at_once(vec![frozen_once; 3]);
    let ran = median(times.clone());
    assert!(ran <= Duration::from_millis(20), "{times:?}");
    let worst = seconds(*times.iter().max().unwrap());
    Seen::Held(format!(
        "once thawed the child ran for {:.4} s, {worst} at the most; 75, nothing written",
        ran.as_secs_f64()
    ))
}

/// How long a child that was thawed went on.
fn frozen_once() -> Duration {
    let group = Cgroup::new("freezer").unwrap();
    let scene = Scene::new();
    let beats = scene.path("beats");
    let script = format!(
        "trap '' TERM; exec 8<<<x 8<>/proc/self/fd/8 7>{}; echo pid $$; while :; do echo $EPOCHREALTIME >&7; read -t 0.001 <&8; done",
        beats.display()
    );
    let config = scene.server.config(&scene.server.url(), TOKEN);
    let mut leader = Contender::start(&mut group.command(&scene.command(&config, "leader", &SHORT, &script)));
    let pid = child(&leader);
    let standby = scene.contender("standby", POLITE);
    standby.wait_line("waiting");
    scene.after_a_renewal("leader");
    let frozen = group.freeze();
    scene.handover("leader", &standby);
    let writes = scene.writes("leader").len();
    let before = last_beat(&beats);
    let thawed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    drop(frozen);
    wait_gone(&[pid], LONG);
    assert_eq!(leader.wait(), 75, "{}", leader.said());
    assert_eq!(scene.writes("leader").len(), writes);
    assert!(thawed > before + R, "it was not frozen");
    // It was alive, if not active, when the next one started.
    scene.excuse_overlaps();
    last_beat(&beats).saturating_sub(thawed)
}

fn last_beat(beats: &Path) -> Duration {
    let text = fs::read_to_string(beats).unwrap();
    let last = text.lines().rfind(|line| line.len() == 17).expect("a beat");
    let (seconds, micros) = last.split_once(['.', ',']).unwrap();
    Duration::from_secs(seconds.parse().unwrap()) + Duration::from_micros(micros.parse().unwrap())
}

const MEMORY: Setting = [("memory.limit_in_bytes", "100M"), ("memory.max", "100M")];

fn out_of_memory() -> Seen {
    if let Err(why) = Cgroup::new("memory") {
        return Seen::NotInjected(why);
    }
    /// A child that takes 1 MiB every 10 ms, once it has said so.
    const GREEDY: &str = "exec perl -e '$| = 1; print \"pid $$\\n\"; while (1) { push @m, \"x\" x (1 << 20); select(undef, undef, undef, 0.01) }'";
    let start = |scene: &Scene, script: &str| {
        let group = Cgroup::new("memory").unwrap();
        group.set(MEMORY);
        let config = scene.server.config(&scene.server.url(), TOKEN);
        let command = group.command(&scene.command(&config, "leader", &SHORT, script));
        (group, command)
    };
    let of_the_child = move || {
        let scene = Scene::new();
        let (_group, mut command) = start(&scene, GREEDY);
        let mut leader = Contender::start(&mut command);
        let pid = child(&leader);
        assert_eq!(leader.wait(), 137, "{}", leader.said());
        assert!(!is_alive(pid));
        assert_eq!(scene.holder(), "");
        "the child killed: exit 137, given back".to_owned()
    };
    let of_leader_run = move || {
        let scene = Scene::new();
        let (_group, mut command) = start(&scene, &format!("{DAEMON} {GREEDY}"));
        let mut leader = Contender::start(&mut command);
        let tree = members(&leader, leader.guard());
        // The kernel's choice, whatever others use. Its tree has inherited the old value.
        fs::write(format!("/proc/{}/oom_score_adj", leader.pid()), "1000").unwrap();
        let standby = scene.contender("standby", POLITE);
        standby.wait_line("waiting");
        assert_eq!(leader.wait(), -SIGKILL, "{}", leader.said());
        let killed = Instant::now();
        let took = wait_gone(&tree, LONG) - killed;
        assert!(took <= LATE, "{took:?}");
        let next = given_back(&standby, killed + took);
        format!("leader-run killed: tree gone after {}, the next child {next} later", seconds(took))
    };
    Seen::Held(at_once(vec![Box::new(of_the_child), Box::new(of_leader_run)]))
}

fn panics() -> Seen {
    let scene = Scene::new();
    let config = scene.server.config(&scene.server.url(), TOKEN);
    let mut command = scene.command(&config, "leader", &SHORT, &family());
    let mut leader = Contender::start(command.env("LEADER_RUN_MUTANT", "panics"));
    let tree = members(&leader, leader.guard());
    let standby = scene.contender("standby", POLITE);
    standby.wait_line("waiting");
    assert_eq!(leader.wait(), 125, "{}", leader.said());
    let ended = Instant::now();
    let took = wait_gone(&tree, LONG) - ended;
    assert!(took <= LATE, "{took:?}");
    leader.wait_line("internal error, please report it");
    let next = given_back(&standby, ended + took);
    Seen::Held(format!("exit 125, tree gone {} later, the next child {next} after that", seconds(took)))
}
