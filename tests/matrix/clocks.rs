//! What can be wrong with the time. A preloaded library, `clock.c`, shows leader-run another one; the child and
//! the tests go by the true one.

use crate::clock::library;
use crate::proxy::Proxy;
use crate::scene::{P, Scene, at_once, child, seconds, undisturbed};
use crate::server::TOKEN;
use crate::support::{Contender, LONG, SHORT, STUBBORN, wait_gone};
use crate::{Row, Seen};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread::sleep;

pub const ROWS: &[Row] = &[
    Row {
        number: 29,
        fault: "steps of the wall clock",
        injected: "a preloaded library: an hour ahead, an hour back, 2 s back every 4 s",
        expected: "no effect, and a client that compares whole seconds sees every renewal",
        run: steps,
    },
    Row {
        number: 30,
        fault: "clocks of different rates",
        injected: "a preloaded library: a leader at 0.97 and a standby at 1.03, the leader cut off; then 0.8 and 1.25",
        expected: "no overlap; at 0.8 and 1.25, beyond the tolerated ratio of 1.2, there is one: the oracle sees it",
        run: rates,
    },
    Row {
        number: 31,
        fault: "suspend",
        injected: "not possible here: the unit test clock::tests::a_leader_counts_a_suspend_and_a_standby_does_not",
        expected: "a leader counts the time asleep, a standby does not",
        run: || Seen::NotInjected("a test machine that sleeps tests nothing; unit test instead".into()),
    },
];

/// A contender to whom the time is another one.
fn in_time(scene: &Scene, url: &str, identity: &str, library: &Path, wrong: (&str, &str)) -> Contender {
    let mut command = scene.command(&scene.server.config(url, TOKEN), identity, &SHORT, STUBBORN);
    Contender::start(command.env("LD_PRELOAD", library).env(wrong.0, wrong.1))
}

fn without() -> Seen {
    Seen::NotInjected("there is no C compiler (cc); simulated".into())
}

fn steps() -> Seen {
    let scene = Scene::new();
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = library("clock", folder.path()) else {
        return without();
    };
    let file = scene.path("wall");
    fs::write(&file, "0").unwrap();
    let wall = ("CLOCK_WALL", file.to_str().unwrap());
    let mut leader = in_time(&scene, &scene.server.url(), "leader", &library, wall);
    leader.wait_line("start ");
    let standby = in_time(&scene, &scene.server.url(), "standby", &library, wall);
    standby.wait_line("waiting");
    for step in ["3600", "-3600", "-3602", "-3604", "-3606", "-3608"] {
        fs::write(&file, step).unwrap();
        undisturbed(&mut leader, &[&standby], P * 4);
    }
    let requests = scene.server.requests();
    let renewals = requests.iter().filter(|r| r.request.method.starts_with('P') && r.status.is_some_and(|s| s < 300));
    let times: Vec<_> = renewals
        .map(|r| {
            let lease: Value = serde_json::from_str(&r.request.body).expect("a Lease");
            lease["spec"]["renewTime"].as_str().expect("a time")[..19].to_owned()
        })
        .collect();
    let seconds = times.iter().collect::<BTreeSet<_>>().len();
    assert!(times.iter().any(|time| time[..13] != times[0][..13]), "no clock was moved: {times:?}");
    assert_eq!(seconds, times.len(), "two renewals in one second: {times:?}");
    Seen::Held(format!("6 steps, {} renewals, each in a second of its own; no loss", times.len()))
}

fn rates() -> Seen {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = library("clock", folder.path()) else {
        return without();
    };
    let case = |slow: &'static str, fast: &'static str, overlaps: bool| -> Box<dyn FnOnce() -> String + Send> {
        let library = library.clone();
        Box::new(move || {
            let scene = Scene::new();
            let proxy = Proxy::start(&scene.server);
            let start = |url: &str, identity, rate| in_time(&scene, url, identity, &library, ("CLOCK_RATE", rate));
            let leader = start(&proxy.url(), "leader", slow);
            let pid = child(&leader);
            let standby = start(&scene.server.url(), "standby", fast);
            standby.wait_line("waiting");
            let since = scene.after_a_renewal("leader");
            sleep(P / 4);
            proxy.pause();
            let killed = wait_gone(&[pid], LONG) - since;
            let started = standby.wait_line("start ").at - since;
            assert_eq!(scene.excuse_overlaps(), overlaps, "killed {killed:?}, the next started {started:?}");
            let (killed, started) = (seconds(killed), seconds(started));
            let met = if overlaps { "they met" } else { "apart" };
            format!("{slow} and {fast}: killed after {killed}, the next child after {started}: {met}")
        })
    };
    Seen::Held(at_once(vec![case("0.97", "1.03", false), case("0.80", "1.25", true)]))
}
