//! What can go wrong on the way to the API server, and with the lock itself, while somebody leads.

use crate::Test;
use crate::apiserver::Cluster;
use crate::faults::{Fault, Matcher, refusal};
use crate::proxy::Proxy;
use crate::scene::{BLIND, LOCK, MINIMAL, Scene, figure};
use crate::support::{AT_ONCE, Contender, LONG, POLITE, SHORT, STUBBORN, median, wait_for, wait_gone};
use nix::libc::SIGTERM;
use serde_json::json;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("failures::cut_off_for_6_s_no_child_notices", cut_off_for_6_s_no_child_notices),
    ("failures::cut_off_for_good", cut_off_for_good),
    ("failures::another_holder_is_a_loss", another_holder_is_a_loss),
    ("failures::a_deleted_lock_is_created_again", a_deleted_lock_is_created_again),
    ("failures::a_cleared_lock_is_written_again", a_cleared_lock_is_written_again),
    ("failures::a_changed_label_is_no_loss", a_changed_label_is_no_loss),
    ("failures::lost_answers_to_the_create", lost_answers_to_the_create),
    ("failures::lost_answers_to_the_takeover", lost_answers_to_the_takeover),
    ("failures::lost_answers_to_renewals", lost_answers_to_renewals),
    ("failures::lost_answers_to_the_release", lost_answers_to_the_release),
    ("failures::a_stop_while_the_acquiring_write_hangs", a_stop_while_the_acquiring_write_hangs),
    ("failures::server_errors_are_survived", server_errors_are_survived),
    ("failures::a_silent_watch_is_found_out", a_silent_watch_is_found_out),
];

fn cut_off_for_6_s_no_child_notices(cluster: &Cluster) {
    let scene = Scene::new(cluster, &MINIMAL);
    for (fault, heal) in [(Proxy::cut as fn(&Proxy), Proxy::resume as fn(&Proxy)), (Proxy::pause, Proxy::resume)] {
        let proxy = Proxy::start(cluster);
        let mut leader = scene.behind(&proxy, &[], POLITE);
        leader.wait_line("start");
        for _ in 0..2 {
            fault(&proxy);
            sleep(Duration::from_secs(6));
            heal(&proxy);
            // The one that was held up, one sent at once after it, and one sent when that has been answered.
            let healed = Instant::now();
            let sent =
                |proxy: &Proxy| proxy.requests().iter().filter(|r| r.request.method == "PUT" && r.at > healed).count();
            wait_for("renewals", LONG, || (sent(&proxy) >= 3 || !leader.is_running()).then_some(()));
        }
        assert_eq!(leader.count("asked"), 0, "{}", leader.said());
        leader.signal(SIGTERM);
        assert_eq!(leader.wait(), 0, "{}", leader.said());
    }
}

fn cut_off_for_good(cluster: &Cluster) {
    let both: Vec<_> = [Proxy::cut as fn(&Proxy), Proxy::pause]
        .into_iter()
        .map(|fault| {
            let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
            let leader = scene.behind(&proxy, &[], STUBBORN);
            let pid = leader.wait_line("pid ").text[4..].parse::<i32>().unwrap();
            sleep(Duration::from_secs(3));
            fault(&proxy);
            (scene, proxy, leader, pid)
        })
        .collect();
    for (scene, proxy, mut leader, pid) in both {
        let asked = leader.wait_line("asked").at;
        let gone = wait_gone(&[pid], LONG);
        let since = proxy.last_renewal();
        let (asked, gone) = (asked - since, gone - since);
        figure("last renewal to SIGTERM, R 10 s", asked);
        figure("last renewal to SIGKILL, K 13.5 s", gone);
        let near = |took: Duration, deadline: u64| {
            // The proxy saw the renewal a little after S. L is 15 s.
            let deadline = Duration::from_millis(deadline);
            took >= deadline - Duration::from_millis(500) && took <= deadline + Duration::from_millis(1_500)
        };
        assert!(near(asked, 10_000) && near(gone, 13_500), "{asked:?} {gone:?}");
        assert_eq!(leader.wait(), 75);
        assert!(leader.said().contains("renew deadline 10s passed, last error: "), "{}", leader.said());
        assert!(!scene.holder().is_empty(), "nothing is written after a loss");
    }
}

fn another_holder_is_a_loss(cluster: &Cluster) {
    let period = Duration::from_secs(6);
    for (verbs, limit) in [(&MINIMAL[..], AT_ONCE), (&BLIND, period + AT_ONCE)] {
        let scene = Scene::new(cluster, verbs);
        let mut leader = scene.contender(&["--retry-period", "6s"], POLITE);
        leader.wait_line("start");
        let stolen = scene.steal();
        let version = scene.lease().metadata.resource_version;
        let took = leader.wait_line("asked").at.saturating_duration_since(stolen);
        assert!(took <= limit, "{took:?}");
        assert_eq!(leader.wait(), 75);
        assert!(leader.said().contains("somebody-else holds it now"), "{}", leader.said());
        sleep(Duration::from_secs(3));
        assert_eq!(scene.lease().metadata.resource_version, version, "the Lease is not touched again");
    }
}

/// A leader and two standbys that know of it.
fn three(scene: &Scene) -> (Contender, [Contender; 2]) {
    let leader = scene.contender(&SHORT, POLITE);
    leader.wait_line("start");
    let standbys = [scene.contender(&SHORT, POLITE), scene.contender(&SHORT, POLITE)];
    standbys.iter().for_each(|standby| drop(standby.wait_line("waiting")));
    (leader, standbys)
}

/// Asserts that the leader leads on as if nothing had happened, longer than any standby would wait.
fn undisturbed(leader: &mut Contender, standbys: &[Contender; 2]) {
    sleep(Duration::from_secs(8));
    assert!(leader.is_running());
    assert_eq!(leader.count("asked"), 0, "{}", leader.said());
    for standby in standbys {
        assert!(standby.line("start").is_none(), "{}", standby.said());
    }
}

fn a_deleted_lock_is_created_again(cluster: &Cluster) {
    let scene = Scene::new(cluster, &MINIMAL);
    let (mut leader, standbys) = three(&scene);
    let me = scene.holder();
    let mut samples = Vec::new();
    for _ in 0..5 {
        let uid = scene.lease().metadata.uid;
        let deleted = Instant::now();
        scene.namespace.delete_lease(LOCK);
        let again = || scene.namespace.lease(LOCK).filter(|lease| lease.metadata.uid != uid);
        wait_for("the lease is there again", LONG, again);
        samples.push(deleted.elapsed());
        assert_eq!(scene.holder(), me);
    }
    assert!(median(samples) <= Duration::from_millis(600), "not when the next renewal is due");
    undisturbed(&mut leader, &standbys);
    assert!(leader.said().contains("was deleted while we lead"));
}

fn a_cleared_lock_is_written_again(cluster: &Cluster) {
    let scene = Scene::new(cluster, &MINIMAL);
    let (mut leader, standbys) = three(&scene);
    let me = scene.holder();
    for _ in 0..20 {
        scene.namespace.replace_lease(LOCK, |lease| {
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        });
        wait_for("the lease is ours again", LONG, || (scene.holder() == me).then_some(()));
    }
    undisturbed(&mut leader, &standbys);
    assert!(leader.said().contains("was cleared while we lead"));
}

fn a_changed_label_is_no_loss(cluster: &Cluster) {
    let scene = Scene::new(cluster, &BLIND);
    let mut leader = scene.contender(&SHORT, POLITE);
    leader.wait_line("start");
    for round in 0..20 {
        scene.namespace.patch_lease_unconditionally(
            LOCK,
            &json!({"metadata": {"labels": {"round": round.to_string()}, "annotations": {"note": "kept"}}}),
        );
        sleep(Duration::from_millis(150));
    }
    let renewed = scene.spec().renew_time;
    wait_for("a renewal", LONG, || (scene.spec().renew_time != renewed).then_some(()));
    let metadata = scene.lease().metadata;
    assert_eq!((&metadata.labels.unwrap()["round"][..], &metadata.annotations.unwrap()["note"][..]), ("19", "kept"));
    assert_eq!(leader.count("asked"), 0);
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 0, "{}", leader.said());
}

fn lost() -> [Fault; 2] {
    [Fault::DropResponseAfterCommit, Fault::CloseAfterCommit]
}

fn lost_answers_to_the_create(cluster: &Cluster) {
    for fault in lost() {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        let rule = proxy.on(Matcher::method("POST").first(1), fault);
        let mut leader = scene.behind(&proxy, &SHORT, "exit 3");
        let start = Instant::now();
        assert_eq!(leader.wait(), 3, "{}", leader.said());
        assert_eq!(rule.hits(), 1);
        // A request timeout of 2 s at the most, then another look: not the 6 s of a lease.
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
        assert_eq!(scene.holder(), "");
    }
}

fn lost_answers_to_the_takeover(cluster: &Cluster) {
    for fault in lost() {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        assert_eq!(scene.contender(&SHORT, "exit 3").wait(), 3);
        let rule = proxy.on(Matcher::method("PUT").first(1), fault);
        let mut leader = scene.behind(&proxy, &SHORT, POLITE);
        leader.wait_line("start");
        let standby = scene.contender(&SHORT, "exit 4");
        standby.wait_line("waiting");
        assert_eq!((rule.hits(), scene.spec().lease_transitions), (1, Some(1)), "one term, not two");
        sleep(Duration::from_secs(3));
        assert!(standby.line("start").is_none());
        leader.signal(SIGTERM);
        assert_eq!(leader.wait(), 0);
        standby.wait_line("start");
        assert_eq!(standby.count("OVERLAP"), 0);
    }
}

fn lost_answers_to_renewals(cluster: &Cluster) {
    for fault in lost() {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        let mut leader = scene.behind(&proxy, &SHORT, POLITE);
        leader.wait_line("start");
        let rule = proxy.on(Matcher::method("PUT").first(1), fault);
        rule.wait_hits(1);
        sleep(Duration::from_secs(6));
        assert_eq!(leader.count("asked"), 0, "{}", leader.said());
        leader.signal(SIGTERM);
        assert_eq!(leader.wait(), 0);
        assert_eq!(scene.holder(), "");
    }
    // Renewals that are carried out and never answered keep nobody in the lead.
    let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
    let mut leader = scene.behind(&proxy, &SHORT, STUBBORN);
    let pid = leader.wait_line("pid ").text[4..].parse().unwrap();
    sleep(Duration::from_millis(1_500));
    proxy.on(Matcher::method("PUT"), Fault::DropResponseAfterCommit);
    let gone = wait_gone(&[pid], LONG) - proxy.last_renewal();
    assert!(gone < Duration::from_secs(6), "{gone:?}");
    assert_eq!(leader.wait(), 75);
}

fn lost_answers_to_the_release(cluster: &Cluster) {
    for fault in lost() {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        let mut leader = scene.behind(&proxy, &SHORT, POLITE);
        leader.wait_line("start");
        let mut standby = scene.contender(&SHORT, "exit 4");
        standby.wait_line("waiting");
        let release = |request: &crate::faults::Seen| request.body.contains("\"holderIdentity\":\"\"");
        let rule = proxy.on(Matcher::new(release).first(1), fault);
        leader.signal(SIGTERM);
        // The next one leads at once, and is not disturbed by the repeated release.
        assert_eq!(standby.wait(), 4, "{}", standby.said());
        assert_eq!((leader.wait(), rule.hits(), standby.count("OVERLAP")), (0, 1, 0));
        assert_eq!(scene.holder(), "");
    }
}

fn a_stop_while_the_acquiring_write_hangs(cluster: &Cluster) {
    for fault in lost() {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        let rule = proxy.on(Matcher::method("POST").first(1), fault);
        let mut contender = scene.behind(&proxy, &SHORT, "exit 3");
        rule.wait_hits(1);
        wait_for("the write is carried out", LONG, || (!scene.holder().is_empty()).then_some(()));
        contender.signal(SIGTERM);
        assert_eq!(contender.wait(), 143, "{}", contender.said());
        assert_eq!(scene.holder(), "", "what was won is given back");
        assert!(contender.line("start").is_none());
    }
    // The same with --wait: 124, and nobody is locked out.
    let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
    proxy.on(Matcher::method("POST").first(1), Fault::DropResponseAfterCommit);
    let mut contender = scene.behind(&proxy, &[&SHORT[..], &["--wait", "1s"]].concat(), "exit 3");
    assert_eq!(contender.wait(), 124, "{}", contender.said());
    assert_eq!(scene.holder(), "");
}

fn server_errors_are_survived(cluster: &Cluster) {
    const RETRY_AFTER: &[(&str, &str)] = &[("Retry-After", "100")];
    let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
    let mut leader = scene.behind(&proxy, &[], POLITE);
    leader.wait_line("start");
    for (status, reason) in [
        (429, "TooManyRequests"),
        (503, "ServiceUnavailable"),
        (500, "InternalError"),
        (401, "Unauthorized"),
        (403, "Forbidden"),
    ] {
        let before = proxy.requests().len();
        let rule = proxy.on(
            Matcher::method("PUT").first(3),
            Fault::Answer { status, headers: RETRY_AFTER, body: refusal(status, reason) },
        );
        rule.wait_hits(3);
        let answered = Instant::now();
        wait_for("a renewal", LONG, || (proxy.last_renewal() > answered).then_some(()));
        let requests = proxy.requests().len() - before;
        assert!(requests <= 12, "{requests} requests: it keeps its own pace");
    }
    // A conflict that is none: the write was carried out.
    let rule = proxy
        .on(Matcher::method("PUT").first(3), Fault::AnswerAfterCommit { status: 409, body: refusal(409, "Conflict") });
    rule.wait_hits(3);
    sleep(Duration::from_secs(3));
    assert_eq!(leader.count("asked"), 0, "{}", leader.said());
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 0);
}

fn a_silent_watch_is_found_out(cluster: &Cluster) {
    let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
    let leader = scene.contender(&SHORT, POLITE);
    leader.wait_line("start");
    // The watch of the standby is opened and never says a word.
    proxy.on(Matcher::new(|request| request.is_watch()), Fault::Hold);
    let standby = scene.behind(&proxy, &SHORT, POLITE);
    standby.wait_line("waiting");
    sleep(Duration::from_secs(14));
    assert!(standby.line("start").is_none(), "a live lock is never taken");
    leader.signal(SIGTERM);
    let released = Instant::now();
    let took = standby.wait_line("start").at - released;
    assert!(took <= Duration::from_secs(6), "{took:?}");
    assert_eq!(standby.count("OVERLAP"), 0);
}
