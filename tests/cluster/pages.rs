//! Answers that are not an API server's: pages of a proxy or load balancer in front of it. They all mean that the API
//! server cannot be reached, whatever their status.

use crate::Test;
use crate::apiserver::Cluster;
use crate::faults::{Fault, Matcher, Seen};
use crate::proxy::Proxy;
use crate::scene::{LOCK, MINIMAL, Scene, side_by_side};
use crate::support::{Contender, LONG, POLITE, SHORT, wait_for};
use nix::libc::SIGTERM;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("pages::a_page_in_answer_to_every_get_ends_no_contender", a_page_in_answer_to_every_get),
    ("pages::a_page_in_answer_to_a_get_does_not_mean_that_the_lock_is_gone", a_page_is_not_a_missing_lock),
    ("pages::a_page_in_answer_to_every_create_ends_no_contender", |cluster| {
        a_page_in_answer_to_every_write(cluster, false);
    }),
    ("pages::a_page_in_answer_to_every_update_ends_no_contender", |cluster| {
        a_page_in_answer_to_every_write(cluster, true);
    }),
    ("pages::a_page_in_answer_to_every_watch_ends_no_standby", a_page_in_answer_to_every_watch),
    ("pages::a_leader_keeps_its_child_while_every_answer_is_a_page", |cluster| {
        a_leader_keeps_its_child(cluster, |_| true, |_| {});
    }),
    ("pages::a_leader_keeps_its_child_while_each_renewal_is_answered_with_a_page", |cluster| {
        a_leader_keeps_its_child(cluster, Seen::is_write, |_| {});
    }),
    ("pages::a_leader_keeps_its_child_while_it_cannot_create_its_lock_again_for_pages", |cluster| {
        a_leader_keeps_its_child(cluster, Seen::is_write, |scene| scene.namespace.delete_lease(LOCK));
    }),
];

/// Renew deadline and retry period of [`SHORT`].
const R: Duration = Duration::from_secs(4);
const P: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Page {
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
}

const TEXT: &[(&str, &str)] = &[("content-type", "text/plain; charset=utf-8")];
const HTML: &[(&str, &str)] = &[("content-type", "text/html")];
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

const PAGES: &[Page] = &[
    Page { status: 404, headers: TEXT, body: "404 page not found\n" },
    Page { status: 404, headers: JSON, body: r#"{"error":"no such route"}"# },
    Page { status: 409, headers: HTML, body: "<html><h1>409 Conflict</h1></html>" },
    Page { status: 400, headers: TEXT, body: "Bad Request" },
    Page { status: 403, headers: HTML, body: "<html><h1>403 Forbidden</h1></html>" },
    Page { status: 200, headers: HTML, body: "<html>Welcome!</html>" },
];

impl Page {
    fn fault(&self) -> Fault {
        Fault::Answer { status: self.status, headers: self.headers, body: self.body.into() }
    }
}

fn get(request: &Seen) -> bool {
    request.method == "GET"
}

/// Waits until so much time has passed, and asserts that the contender is still running then.
fn outlives(contender: &mut Contender, time: Duration) {
    let begin = Instant::now();
    wait_for("the time to pass", LONG, || (begin.elapsed() > time || !contender.is_running()).then_some(()));
    assert!(contender.is_running(), "it ended with {:?}:\n{}", contender.ended(), contender.said());
}

fn writes(proxy: &Proxy) -> usize {
    proxy.requests().iter().filter(|r| r.request.is_write()).count()
}

fn a_page_in_answer_to_every_get(cluster: &Cluster) {
    side_by_side(PAGES, |page| {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        let rule = proxy.on(Matcher::new(get), page.fault());
        let mut contender = scene.behind(&proxy, &SHORT, POLITE);
        rule.wait_hits(1);
        outlives(&mut contender, R + P);
        assert_eq!(writes(&proxy), 0, "a write without knowing the lock");
        rule.release();
        contender.wait_line("start");
    });
}

fn a_page_is_not_a_missing_lock(cluster: &Cluster) {
    side_by_side(PAGES, |page| {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        let mut leader = scene.contender(&SHORT, POLITE);
        leader.wait_line("start");
        let mut standby = scene.behind(&proxy, &SHORT, POLITE);
        standby.wait_line("waiting");
        let rule = proxy.on(Matcher::new(get), page.fault());
        // Its watch ends, so it asks again.
        proxy.cut();
        proxy.resume();
        rule.wait_hits(1);
        // Longer than a standby waits before it creates a lock that is gone.
        outlives(&mut standby, Duration::from_secs(6) + P);
        assert_eq!(writes(&proxy), 0, "the lock is there and held");
        rule.release();
        leader.signal(SIGTERM);
        assert_eq!(leader.wait(), 0, "{}", leader.said());
        standby.wait_line("start");
        assert_eq!(standby.count("OVERLAP"), 0);
    });
}

fn a_page_in_answer_to_every_write(cluster: &Cluster, exists: bool) {
    side_by_side(PAGES, |page| {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        if exists {
            assert_eq!(scene.contender(&SHORT, "exit 3").wait(), 3);
        }
        let rule = proxy.on(Matcher::new(Seen::is_write), page.fault());
        let mut contender = scene.behind(&proxy, &SHORT, POLITE);
        rule.wait_hits(1);
        let begin = Instant::now();
        outlives(&mut contender, R + P);
        let (hits, time) = (rule.hits(), begin.elapsed());
        // The first repetition is quicker than a retry period.
        let most = 3 + time.div_duration_f64(P) as usize;
        assert!(hits <= most, "{hits} writes in {time:?}");
        rule.release();
        contender.wait_line("start");
    });
}

fn a_page_in_answer_to_every_watch(cluster: &Cluster) {
    side_by_side(PAGES, |page| {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        let mut leader = scene.contender(&SHORT, POLITE);
        leader.wait_line("start");
        let rule = proxy.on(Matcher::new(Seen::is_watch), page.fault());
        let standby = scene.behind(&proxy, &SHORT, POLITE);
        standby.wait_line("waiting");
        rule.wait_hits(1);
        leader.signal(SIGTERM);
        assert_eq!(leader.wait(), 0, "{}", leader.said());
        standby.wait_line("start");
        assert_eq!(standby.count("OVERLAP"), 0);
    });
}

/// With the default timings: P is 2 s, R 10 s.
fn a_leader_keeps_its_child(cluster: &Cluster, concerns: fn(&Seen) -> bool, meanwhile: fn(&Scene)) {
    side_by_side(PAGES, |page| {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        let mut leader = scene.behind(&proxy, &[], POLITE);
        leader.wait_line("start");
        let rule = proxy.on(Matcher::new(concerns), page.fault());
        meanwhile(&scene);
        rule.wait_hits(1);
        let (begin, before) = (Instant::now(), writes(&proxy));
        outlives(&mut leader, Duration::from_secs(3));
        let (sent, time) = (writes(&proxy) - before, begin.elapsed());
        let most = 3 + time.as_secs() as usize / 2;
        assert!(sent <= most, "{sent} writes in {time:?}");
        rule.release();
        let healed = Instant::now();
        wait_for("a renewal", LONG, || (proxy.last_renewal() > healed || !leader.is_running()).then_some(()));
        assert_eq!(leader.count("asked"), 0, "{}", leader.said());
        leader.signal(SIGTERM);
        assert_eq!(leader.wait(), 0, "{}", leader.said());
        assert_eq!(scene.holder(), "");
    });
}
