//! What can be wrong with the lock itself: who holds it, what it says, what the server knows of it.

use crate::faults::{Fault, Matcher};
use crate::proxy::Proxy;
use crate::scene::{K, L, LATE, LOCK, P, Scene, at_once, child, loses, seconds, undisturbed};
use crate::support::{Contender, LONG, POLITE, SHORT, STUBBORN, kill_both, wait_for, wait_gone};
use crate::{Row, Seen};
use serde_json::{Value, json};
use std::thread::sleep;
use std::time::Duration;

pub const ROWS: &[Row] = &[
    Row {
        number: 20,
        fault: "another holder appears",
        injected: "another name written into the Lease; with and without the right to watch",
        expected: "SIGTERM at once (without a watch: after a retry period), SIGKILL after the loss grace of 1 s; 75; the \
                   Lease is not touched again",
        run: another_holder,
    },
    Row {
        number: 21,
        fault: "the Lease is deleted",
        injected: "deleted three times under a leader; once under a leader that is cut off",
        expected: "created again at once by the leader, no loss; otherwise standbys wait L",
        run: deletion,
    },
    Row {
        number: 22,
        fault: "stale answers to gets",
        injected: "a server whose gets show the Lease as it was when it was free",
        expected: "the version refuses every take-over of a live leader",
        run: stale_answers,
    },
    Row {
        number: 23,
        fault: "the store is rolled back",
        injected: "an earlier state restored, versions and all: held by the same leader; not yet held",
        expected: "the leader stops; the next one waits L where the record is held. Where it was free two children may \
                   meet until the leader has seen it: outside the promise, and bounded",
        run: rollback,
    },
    Row {
        number: 24,
        fault: "garbage for an answer or a Lease",
        injected: "made-up answers to a standby's gets, to a leader's puts; odd records in the Lease",
        expected: "no panic, no early take-over, no loss; a record without a usable duration counts L",
        run: garbage,
    },
    Row {
        number: 42,
        fault: "a container restarts under the same identity",
        injected: "leader-run and guard killed at once, then started again; also with --resume",
        expected: "waits L after the last renewal; with --resume leads at once",
        run: container_restart,
    },
    Row {
        number: 43,
        fault: "contenders with different lease durations",
        injected: "a leader of 12 s and a standby of 6 s, and the other way round; the leader killed",
        expected: "the record's duration counts",
        run: mixed_durations,
    },
];

fn another_holder() -> Seen {
    let case = |watching: bool| -> Box<dyn FnOnce() -> String + Send> {
        Box::new(move || {
            let scene = Scene::new();
            let start = if watching { Scene::contender } else { Scene::blind };
            let mut leader = start(&scene, "leader", STUBBORN);
            let pid = child(&leader);
            scene.after_a_renewal("leader");
            sleep(P / 4);
            let stolen = scene.steal();
            let version = scene.server.lease(LOCK);
            let gone = wait_gone(&[pid], LONG);
            let asked = leader.wait_line("asked").at;
            let (asked_after, killed_after) = (asked.saturating_duration_since(stolen), gone - asked);
            assert!(asked_after <= if watching { LATE } else { P + LATE }, "{asked_after:?}");
            assert!(killed_after <= P + LATE && gone - stolen <= K + LATE, "{killed_after:?}");
            assert_eq!(leader.wait(), 75, "{}", leader.said());
            assert!(leader.said().contains("somebody-else holds it now"), "{}", leader.said());
            sleep(P * 2);
            assert_eq!(scene.server.lease(LOCK), version, "the Lease was touched again");
            let how = if watching { "watching" } else { "without a watch" };
            let (asked, killed) = (seconds(asked_after), seconds(killed_after));
            format!("{how}: SIGTERM after {asked}, SIGKILL {killed} later, exit 75, Lease untouched")
        })
    };
    Seen::Held(at_once(vec![case(true), case(false)]))
}

fn deletion() -> Seen {
    let scene = Scene::new();
    let proxy = Proxy::start(&scene.server);
    let mut leader = scene.behind(&proxy, "leader", STUBBORN);
    let pid = child(&leader);
    let standbys = ["b", "c"].map(|name| scene.contender(name, POLITE));
    standbys.iter().for_each(|standby| drop(standby.wait_line("waiting")));
    let mut again = Duration::ZERO;
    for _ in 0..3 {
        scene.after_a_renewal("leader");
        let deleted = scene.server.delete(LOCK);
        wait_for("the Lease is there again", LONG, || (scene.holder() == "leader").then_some(()));
        again = again.max(deleted.elapsed());
    }
    assert!(again <= LATE, "{again:?}");
    undisturbed(&mut leader, &standbys.each_ref(), L + P);

    scene.after_a_renewal("leader");
    sleep(P / 4);
    let since = proxy.last_renewal();
    proxy.pause();
    let deleted = scene.server.delete(LOCK);
    loses(&mut leader, pid, since);
    let next = wait_for("the next child", LONG, || standbys.iter().find_map(|standby| standby.line("start ")));
    let waited = next.at - deleted;
    assert!(waited >= L && waited <= L + P * 4, "{waited:?}");
    Seen::Held(format!(
        "created again within {} at the most, no loss; without the leader a standby created it {} after the deletion",
        seconds(again),
        seconds(waited)
    ))
}

fn stale_answers() -> Seen {
    let scene = Scene::new();
    assert_eq!(scene.contender("first", "exit 3").wait(), 3);
    assert_eq!(scene.holder(), "");
    let free = scene.server.snapshot();
    let mut leader = scene.contender("leader", POLITE);
    leader.wait_line("start ");
    scene.server.serve_stale(Some(&free));
    let before = scene.server.requests().len();
    let standbys = [scene.contender("b", POLITE), scene.blind("c", POLITE)];
    undisturbed(&mut leader, &standbys.each_ref(), L * 2);
    let refused = scene.server.requests().iter().skip(before).filter(|r| r.status == Some(409)).count();
    assert!(refused > 0, "nobody tried");
    scene.server.serve_stale(None);
    undisturbed(&mut leader, &standbys.each_ref(), P * 3);
    leader.signal(nix::libc::SIGTERM);
    assert_eq!(leader.wait(), 0, "{}", leader.said());
    wait_for("the next child", LONG, || standbys.iter().find_map(|standby| standby.line("start ")));
    Seen::Held(format!("{refused} take-overs refused with 409 in {}, none led; then as always", seconds(L * 2)))
}

fn rollback() -> Seen {
    let held = || {
        let scene = Scene::new();
        let mut leader = scene.contender("leader", STUBBORN);
        let pid = child(&leader);
        let standby = scene.contender("standby", POLITE);
        standby.wait_line("waiting");
        scene.after_a_renewal("leader");
        let earlier = scene.server.snapshot();
        scene.after_a_renewal("leader");
        scene.after_a_renewal("leader");
        let restored = scene.server.restore(&earlier);
        let gone = wait_gone(&[pid], LONG) - restored;
        assert!(gone <= K + LATE, "{gone:?}");
        assert_eq!(leader.wait(), 75, "{}", leader.said());
        let next = standby.wait_line("start ").at - restored;
        assert!(next >= L && next <= L * 3, "{next:?}");
        format!("held by the same: the leader's child gone after {}, the next after {}", seconds(gone), seconds(next))
    };
    let free = || {
        let scene = Scene::new();
        assert_eq!(scene.contender("first", "exit 3").wait(), 3);
        let earlier = scene.server.snapshot();
        let mut leader = scene.contender("leader", STUBBORN);
        let pid = child(&leader);
        let standby = scene.contender("standby", POLITE);
        standby.wait_line("waiting");
        scene.after_a_renewal("leader");
        let restored = scene.server.restore(&earlier);
        let gone = wait_gone(&[pid], LONG);
        let next = standby.wait_line("start ").at;
        let both = gone.saturating_duration_since(next);
        // The next write of the leader is refused; then the loss grace.
        assert!(gone - restored <= P + P + LATE * 2, "{:?}", gone - restored);
        assert_eq!(leader.wait(), 75, "{}", leader.said());
        assert_eq!(scene.excuse_overlaps(), !both.is_zero(), "{both:?}");
        format!("not yet held: two children for {}", seconds(both))
    };
    Seen::Held(at_once(vec![Box::new(held), Box::new(free)]))
}

/// Answers that no API server gives.
fn odd_answers() -> Vec<String> {
    let other =
        json!({"kind": "Lease", "metadata": {"name": "another", "uid": "u", "resourceVersion": "1"}, "spec": {}});
    let huge = json!({"kind": "Lease", "metadata": {"name": LOCK}, "spec": {"holderIdentity": "x".repeat(4 << 20)}});
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let plain =
        ["", "null", "{}", "[]", "<html>welcome</html>", "{\"kind\": \"Lease\", \"metadata\": ", "\u{0}\u{1b}[2J"];
    plain.map(String::from).into_iter().chain([other.to_string(), huge.to_string(), deep]).collect()
}

fn garbage() -> Seen {
    let answers = || {
        let scene = Scene::new();
        let proxy = Proxy::start(&scene.server);
        let mut leader = scene.behind(&proxy, "leader", POLITE);
        leader.wait_line("start ");
        let all = odd_answers();
        let made_up = |answer: &String| {
            let proxy = Proxy::start(&scene.server);
            let body = answer.clone();
            // Gets and watches alike.
            proxy.on(Matcher::method("GET"), Fault::Answer { status: 200, headers: &[], body });
            let standby = scene.behind(&proxy, "standby", POLITE);
            (proxy, standby)
        };
        let mut standbys: Vec<_> = all.iter().map(made_up).collect();
        for body in &all {
            // The first may still be the one that was answered with garbage; the next one counts.
            scene.after_a_renewal("leader");
            scene.after_a_renewal("leader");
            let body = body.clone();
            proxy.on(Matcher::method("PUT").first(1), Fault::AnswerAfterCommit { status: 200, body }).wait_hits(1);
        }
        undisturbed(&mut leader, &standbys.iter().map(|(_, standby)| standby).collect::<Vec<_>>(), P);
        for (proxy, standby) in &mut standbys {
            assert!(standby.is_running() && !standby.said().contains("panicked"), "{}", standby.said());
            assert!(proxy.requests().iter().all(|r| r.request.method == "GET"), "a write on garbage");
        }
        format!("{} odd answers to gets and to puts: no loss, no write on one", all.len())
    };
    let mut cases: Vec<Box<dyn FnOnce() -> String + Send>> = vec![Box::new(answers)];
    for odd in [json!(-5), json!(0), json!(null), json!("soon"), json!({}), json!(0.5)] {
        cases.push(Box::new(move || odd_record(&odd)));
    }
    let said = at_once(cases);
    Seen::Held(said)
}

/// A Lease held by nobody who lives, with this for a duration.
fn odd_record(odd: &Value) -> String {
    let scene = Scene::new();
    let written = scene.server.change(LOCK, |lease| {
        lease["spec"] =
            json!({"holderIdentity": "dead", "leaseDurationSeconds": odd, "leaseTransitions": [], "renewTime": 7});
    });
    let contender = scene.contender("contender", POLITE);
    let took = contender.wait_line("start ").at - written;
    assert!(took >= L && took <= L * 3, "{odd}: {took:?}");
    format!("duration {odd}: taken over after {}", seconds(took))
}

fn container_restart() -> Seen {
    let scene = Scene::new();
    let start = |options: &[&str]| {
        let config = scene.server.config(&scene.server.url(), crate::server::TOKEN);
        Contender::start(&mut scene.command(&config, "pod-0", &[&SHORT[..], options].concat(), STUBBORN))
    };
    let mut first = start(&[]);
    let pid = child(&first);
    scene.after_a_renewal("pod-0");
    kill_both(&mut first);
    let last = scene.last_write("pod-0");
    wait_gone(&[pid], LONG);
    let mut second = start(&[]);
    let waited = second.wait_line("start ").at - last;
    assert!(waited >= L && waited <= L * 3, "{waited:?}");
    let pid = child(&second);
    kill_both(&mut second);
    wait_gone(&[pid], LONG);
    let last = scene.last_write("pod-0");
    let third = start(&["--resume"]);
    let resumed = third.wait_line("start ").at - last;
    assert!(resumed < L - P, "{resumed:?}");
    Seen::Held(format!("the next child {} after the last renewal; with --resume {}", seconds(waited), seconds(resumed)))
}

fn mixed_durations() -> Seen {
    let case = |lead: u64, stand: u64| -> Box<dyn FnOnce() -> String + Send> {
        Box::new(move || {
            let scene = Scene::new();
            let start = |name: &str, duration: u64| {
                let config = scene.server.config(&scene.server.url(), crate::server::TOKEN);
                let duration = format!("{duration}s");
                Contender::start(&mut scene.command(&config, name, &["--lease-duration", &duration], STUBBORN))
            };
            let mut leader = start("leader", lead);
            let pid = child(&leader);
            let standby = start("standby", stand);
            standby.wait_line("waiting");
            scene.after_a_renewal("leader");
            kill_both(&mut leader);
            wait_gone(&[pid], LONG);
            let took = standby.wait_line("start ").at - scene.last_write("leader");
            let record = Duration::from_secs(lead);
            assert!(took >= record && took <= record + L, "{took:?}");
            format!("leader {lead} s, standby {stand} s: the next child after {}", seconds(took))
        })
    };
    Seen::Held(at_once(vec![case(12, 6), case(6, 12)]))
}
