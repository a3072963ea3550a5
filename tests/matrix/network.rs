//! What can go wrong between leader-run and the API server, and with that as a whole.

use crate::faults::{Fault, Matcher, refusal};
use crate::proxy::Proxy;
use crate::scene::{L, Lost, P, Scene, at_once, child, loses, seconds, undisturbed};
use crate::server::TOKEN;
use crate::support::{Contender, LONG, POLITE, STUBBORN, wait_for};
use crate::{Row, Seen};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const ROWS: &[Row] = &[
    Row {
        number: 11,
        fault: "partition at the leader",
        injected: "a proxy that resets every connection; one that holds all bytes",
        expected: "SIGTERM at R 4 s, SIGKILL at K 5 s, exit 75; the next child not before L 6 s",
        run: partition,
    },
    Row {
        number: 12,
        fault: "partition of the answers only",
        injected: "a proxy that holds the bytes to the client; one that drops the answer of every write",
        expected: "the same: a renewal whose answer is lost does not count",
        run: lost_answers,
    },
    Row {
        number: 13,
        fault: "slow on the way to the server",
        injected: "every renewal arrives 1.5 s late (of a request timeout of 2 s)",
        expected: "keeps the lead",
        run: slow_requests,
    },
    Row {
        number: 14,
        fault: "a late answer, then a partition",
        injected: "a renewal answered 1.5 s after it was carried out, then all bytes held",
        expected: "SIGTERM at R and SIGKILL at K after the renewal was sent, not after it was answered",
        run: late_answer,
    },
    Row {
        number: 15,
        fault: "the API server restarts",
        injected: "server stopped and started on the same port, three times 2 s",
        expected: "no loss, nobody else leads",
        run: restart,
    },
    Row {
        number: 16,
        fault: "the API server is down for long",
        injected: "server stopped for 12 s",
        expected: "SIGTERM at R, SIGKILL at K, exit 75; a standby leads once the server is back",
        run: outage,
    },
    Row {
        number: 17,
        fault: "429 with Retry-After: 100, 503, 500",
        injected: "a proxy answers two renewals so; then every request with 429",
        expected: "its own pace, no hidden retry; no loss of two, loss at R of all",
        run: busy_server,
    },
    Row {
        number: 18,
        fault: "401 and 403 after the start",
        injected: "the server forgets the token; takes the verbs away",
        expected: "loss at R, exit 75, and a message that says which",
        run: refusals,
    },
    Row {
        number: 19,
        fault: "a storm of conflicts",
        injected: "three renewals answered with 409 after they were carried out; a label that changes every 20 ms",
        expected: "no loss",
        run: conflicts,
    },
];

/// A leader that this has cut off from its lock, right after a renewal.
struct CutOff {
    scene: Scene,
    standby: Contender,
    since: Instant,
    lost: Lost,
}

fn cut_off(fault: fn(&Proxy)) -> CutOff {
    let scene = Scene::new();
    let proxy = Proxy::start(&scene.server);
    let mut leader = scene.behind(&proxy, "leader", STUBBORN);
    let pid = child(&leader);
    let standby = scene.contender("standby", POLITE);
    standby.wait_line("waiting");
    scene.after_a_renewal("leader");
    sleep(P / 4);
    let since = proxy.last_renewal();
    fault(&proxy);
    let lost = loses(&mut leader, pid, since);
    CutOff { scene, standby, since, lost }
}

fn partition() -> Seen {
    let case = |name: &'static str, fault: fn(&Proxy)| -> Box<dyn FnOnce() -> String + Send> {
        Box::new(move || {
            let CutOff { scene, standby, lost, .. } = cut_off(fault);
            format!("{name}: {lost}; the next child after {}", scene.handover("leader", &standby))
        })
    };
    Seen::Held(at_once(vec![case("reset", Proxy::cut), case("held", Proxy::pause)]))
}

fn lost_answers() -> Seen {
    fn drop_answers(proxy: &Proxy) {
        proxy.on(Matcher::method("PUT"), Fault::DropResponseAfterCommit);
    }
    let case = |name: &'static str, fault: fn(&Proxy)| -> Box<dyn FnOnce() -> String + Send> {
        Box::new(move || {
            let CutOff { scene, standby, lost, since } = cut_off(fault);
            let unheard = scene.writes("leader").into_iter().filter(|at| *at > since).count();
            assert!(unheard > 0, "no renewal was carried out unheard");
            let next = scene.handover("leader", &standby);
            format!("{name}: {unheard} carried out unheard, {lost}; the next child {next} after the last of those")
        })
    };
    Seen::Held(at_once(vec![case("held", Proxy::mute), case("dropped", drop_answers)]))
}

fn slow_requests() -> Seen {
    let scene = Scene::new();
    let proxy = Proxy::start(&scene.server);
    let mut leader = scene.behind(&proxy, "leader", POLITE);
    leader.wait_line("start ");
    let standby = scene.contender("standby", POLITE);
    let slow = Duration::from_millis(1_500);
    let rule = proxy.on(Matcher::method("PUT"), Fault::DelayRequest(slow));
    undisturbed(&mut leader, &[&standby], L * 2);
    let renewals = rule.hits();
    assert!(renewals >= 4, "{renewals}");
    Seen::Held(format!("{renewals} renewals, each {} late, in {}: no loss", seconds(slow), seconds(L * 2)))
}

fn late_answer() -> Seen {
    let scene = Scene::new();
    let proxy = Proxy::start(&scene.server);
    let mut leader = scene.behind(&proxy, "leader", STUBBORN);
    let pid = child(&leader);
    let standby = scene.contender("standby", POLITE);
    standby.wait_line("waiting");
    let rule = proxy.on(Matcher::method("PUT"), Fault::DelayResponse(Duration::from_millis(1_500)));
    // Once the third has been sent, the answer to the second has been heard.
    rule.wait_hits(3);
    let since = proxy.last_renewal();
    proxy.pause();
    let lost = loses(&mut leader, pid, since);
    Seen::Held(format!("{lost} was sent; the next child after {}", scene.handover("leader", &standby)))
}

fn restart() -> Seen {
    let scene = Scene::new();
    let mut leader = scene.contender("leader", POLITE);
    leader.wait_line("start ");
    let standby = scene.contender("standby", POLITE);
    standby.wait_line("waiting");
    let mut without = Duration::ZERO;
    for _ in 0..3 {
        let last = scene.after_a_renewal("leader");
        scene.server.stop();
        sleep(P * 2);
        scene.server.listen();
        without = without.max(scene.after_a_renewal("leader") - last);
    }
    undisturbed(&mut leader, &[&standby], L);
    Seen::Held(format!("3 restarts, no loss; {} between two renewals at the most", seconds(without)))
}

fn outage() -> Seen {
    let scene = Scene::new();
    let mut leader = scene.contender("leader", STUBBORN);
    let pid = child(&leader);
    let standby = scene.contender("standby", POLITE);
    standby.wait_line("waiting");
    let since = scene.after_a_renewal("leader");
    sleep(P / 4);
    scene.server.stop();
    let stopped = Instant::now();
    let lost = loses(&mut leader, pid, since);
    sleep((L * 2).saturating_sub(stopped.elapsed()));
    assert!(standby.line("start ").is_none());
    scene.server.listen();
    let back = Instant::now();
    let next = standby.wait_line("start ").at - back;
    assert!(next <= P * 4, "{next:?}");
    Seen::Held(format!("{lost}; the standby led {} after the server was back", seconds(next)))
}

fn busy_server() -> Seen {
    const RETRY_AFTER: &[(&str, &str)] = &[("Retry-After", "100")];
    let answer = |status, reason| Fault::Answer { status, headers: RETRY_AFTER, body: refusal(status, reason) };
    let scene = Scene::new();
    let proxy = Proxy::start(&scene.server);
    let mut leader = scene.behind(&proxy, "leader", STUBBORN);
    let pid = child(&leader);
    let mut seen = Vec::new();
    for (status, reason) in [(429, "TooManyRequests"), (503, "ServiceUnavailable"), (500, "InternalError")] {
        scene.after_a_renewal("leader");
        let first = proxy.requests().len();
        let rule = proxy.on(Matcher::method("PUT").first(2), answer(status, reason));
        rule.wait_hits(2);
        let begun = proxy.requests().into_iter().skip(first).find(|r| r.status == Some(status)).expect("a refusal").at;
        let took = scene.after_a_renewal("leader") - begun;
        let requests = proxy.requests().len() - first;
        // 0.2 s after the first and a retry period after the second; after a 5xx it looks before it writes.
        assert!(took >= P && took <= P * 4, "{status}: {took:?}");
        assert!(requests <= 6, "{status}: {requests} requests");
        seen.push(format!("{status} twice: renewed after {} and {requests} requests", seconds(took)));
    }
    let since = scene.after_a_renewal("leader");
    let first = proxy.requests().len();
    proxy.on(Matcher::new(|_| true), answer(429, "TooManyRequests"));
    let lost = loses(&mut leader, pid, since);
    let requests = proxy.requests().len() - first;
    assert!(requests <= 8, "{requests} requests");
    Seen::Held(format!("{}; always 429: {requests} requests, {lost}", seen.join("; ")))
}

fn refusals() -> Seen {
    let case = |status: u16| -> Box<dyn FnOnce() -> String + Send> {
        Box::new(move || {
            let scene = Scene::new();
            let mut leader = scene.contender("leader", STUBBORN);
            let pid = child(&leader);
            let since = scene.after_a_renewal("leader");
            sleep(P / 4);
            let message = if status == 401 {
                scene.server.expel(TOKEN);
                "the server does not accept the credentials (401)"
            } else {
                scene.server.admit(TOKEN, "contender", Some(&["get", "watch"]));
                "forbidden for contender; it needs get, create, update and watch on leases"
            };
            let standby = scene.blind("standby", POLITE);
            let lost = loses(&mut leader, pid, since);
            let said = leader.wait_line("lost lease").text;
            assert!(said.contains(message), "{said}");
            scene.handover("leader", &standby);
            format!("{status}: {lost}, \"{message}\"")
        })
    };
    Seen::Held(at_once(vec![case(401), case(403)]))
}

fn conflicts() -> Seen {
    let scene = Scene::new();
    let proxy = Proxy::start(&scene.server);
    let mut leader = scene.behind(&proxy, "leader", POLITE);
    leader.wait_line("start ");
    let standby = scene.contender("standby", POLITE);
    standby.wait_line("waiting");
    let refused = Fault::AnswerAfterCommit { status: 409, body: refusal(409, "Conflict") };
    proxy.on(Matcher::method("PUT").first(3), refused).wait_hits(3);
    scene.after_a_renewal("leader");
    let first = proxy.requests().len();
    let end = Instant::now() + L;
    let mut changes = 0;
    while Instant::now() < end {
        scene.server.change(crate::scene::LOCK, |lease| {
            lease["metadata"]["labels"] = serde_json::json!({"round": changes.to_string()});
        });
        changes += 1;
        sleep(Duration::from_millis(20));
    }
    let refused = proxy.requests().iter().skip(first).filter(|r| r.status == Some(409)).count();
    let renewed = proxy.last_renewal();
    wait_for("a renewal after the storm", LONG, || (proxy.last_renewal() > renewed).then_some(()));
    undisturbed(&mut leader, &[&standby], L);
    Seen::Held(format!("3 false conflicts, then {changes} changes and {refused} conflicts in {}: no loss", seconds(L)))
}
