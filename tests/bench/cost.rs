//! What contenders need: memory, CPU, a file, and the servers' work.

use crate::contender::{Ground, Kind, Party, Timing, client_go, leader_run};
use crate::crowd::Crowd;
use crate::report::{Goal, Line};
use crate::scene::{Scene, busy};
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

const LOCK: &str = "work";
/// What started lately is not at its usual pace.
const SETTLED: Duration = Duration::from_secs(4);
const STANDBYS: usize = 400;

/// The memory of a contender that leads, while there is no other one with which it would share pages.
pub fn memory(scene: &Scene) -> Vec<Line> {
    let (ours, theirs) = scene.both(|kind| {
        let leader = Ground::new(scene, kind, Timing::Default).leader(LOCK);
        sleep(SETTLED);
        proportional_memory(&leader)
    });
    let goal = Goal { most: Some(6.0), ratio: Some(0.4), ..Goal::default() };
    vec![Line::once("resident memory of one contender, all processes (PSS), MB", ours, Some(theirs), goal)]
}

/// The CPU that a leader and a standby use.
pub fn cpu(scene: &Scene) -> Vec<Line> {
    let (ours, theirs) = scene.both(|kind| {
        let mut ground = Ground::new(scene, kind, Timing::Default);
        let parties = [ground.leader(LOCK), ground.standby(LOCK)];
        sleep(SETTLED);
        let before = parties.each_ref().map(|party| busy(&party.processes()));
        let began = Instant::now();
        sleep(scene.choose(Duration::from_secs(26), Duration::from_secs(300)));
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        let after = parties.each_ref().map(|party| busy(&party.processes()));
        [0, 1].map(|place| (after[place] - before[place]).as_secs_f64() * 1000.0 / minutes)
    });
    let half = Goal { ratio: Some(0.5), ..Goal::default() };
    vec![
        Line::once("CPU per minute, leading, ms", ours[0], Some(theirs[0]), half),
        Line::once("CPU per minute, standing by, ms", ours[1], Some(theirs[1]), half),
    ]
}

/// PSS of all processes of a contender, in MB.
fn proportional_memory(party: &Party) -> f64 {
    let of_process = |process: &i32| {
        let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).expect("the memory of a process");
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a sum");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0 / 1e6
    };
    party.processes().iter().map(of_process).sum()
}

/// The size of the program.
pub fn binary(_: &Scene) -> Vec<Line> {
    let size = |path| fs::metadata(path).expect("a program").len() as f64 / 1e6;
    let head = fs::read(leader_run()).expect("a program");
    // The name of the loader comes right after the headers, where there is one.
    let is_static = !head[..4096].windows(4).any(|bytes| bytes == b"/ld-");
    let goal = Goal { most: Some(8.0), also: Some(("static", is_static)), ..Goal::default() };
    vec![Line::once("release binary, stripped, MB", size(leader_run()), Some(size(client_go("client-go"))), goal)]
}

/// What 400 standbys, a connection each, ask of the API server, and what that costs it.
pub fn standbys(scene: &Scene) -> Vec<Line> {
    let window = scene.choose(Duration::from_secs(12), Duration::from_secs(330));
    let idle = measure(scene, window / 2);
    let ours = {
        let ground = Ground::new(scene, Kind::LeaderRun, Timing::Default);
        let _crowd = Crowd::start(&ground, STANDBYS + 1);
        sleep(SETTLED);
        measure(scene, window)
    };
    let theirs = {
        let ground = Ground::new(scene, Kind::ClientGo, Timing::Default);
        let _crowd = client_go_crowd(&ground);
        sleep(SETTLED);
        measure(scene, window)
    };
    // Of 400 that watch, none asks anew in a quick run: a watch lasts for five minutes.
    let again = if window < Duration::from_secs(300) { 60.0 / 300.0 } else { 0.0 };
    let cost = |used: &Used| used.busy - idle.busy;
    let third = Goal { ratio: Some(1.0 / 3.0), ..Goal::default() };
    let tenth = Goal { ratio: Some(0.1), ..Goal::default() };
    vec![
        Line::once("API requests per minute of a standby", ours.looks + again, Some(theirs.looks), tenth),
        Line::once("API server + etcd, CPU for 400 standbys, ms/s", cost(&ours), Some(cost(&theirs)), third),
        Line::once("the same, with what they need when idle, ms/s", ours.busy, Some(theirs.busy), Goal::default()),
    ]
}

/// What the servers had to do.
struct Used {
    /// Requests that are no writes, per standby and minute.
    looks: f64,
    /// Milliseconds per second.
    busy: f64,
}

fn measure(scene: &Scene, window: Duration) -> Used {
    let looks = || scene.requests(|verb, _| !["PUT", "POST"].contains(&verb));
    let first = looks();
    let (began, before) = (Instant::now(), scene.servers_busy());
    sleep(window);
    let (seconds, after) = (began.elapsed().as_secs_f64(), scene.servers_busy());
    let looks = (looks() - first) as f64 / STANDBYS as f64 / seconds * 60.0;
    Used { looks, busy: (after - before).as_secs_f64() * 1000.0 / seconds }
}

/// 400 of client-go's standbys and their leader.
fn client_go_crowd(ground: &Ground) -> impl Drop {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(client_go("client-go-crowd")).env_clear();
    command.env("KUBECONFIG", ground.kubeconfig()).env("NAMESPACE", ground.namespace.name());
    command.env("NAME", LOCK).env("CROWD", (STANDBYS + 1).to_string()).envs(Timing::Default.of_client_go());
    let crowd = crate::support::Contender::start(&mut command);
    crowd.wait_line("leading");
    crowd.wait_line("started");
    crowd
}
