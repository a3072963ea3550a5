//! Acquiring writes that were not answered and reach the API server late, when leader-run has ended: each must be
//! refused there, or nobody would hold the lock for a lease duration.

use crate::Test;
use crate::apiserver::Cluster;
use crate::faults::{Fault, Matcher, Rule, Seen, refusal};
use crate::proxy::{Proxy, Recorded};
use crate::scene::{LOCK, MINIMAL, Scene, holder, side_by_side};
use crate::support::{LONG, POLITE, SHORT, wait_for};
use k8s_openapi::api::coordination::v1::Lease;
use nix::libc::SIGTERM;
use serde_json::json;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("unclear::a_create_that_arrives_after_a_stop_is_refused", |cluster| {
        arrives_late(cluster, Lock::Absent, Stop::Signal)
    }),
    ("unclear::a_create_that_arrives_after_the_wait_is_over_is_refused", |cluster| {
        arrives_late(cluster, Lock::Absent, Stop::Wait);
    }),
    ("unclear::an_update_of_a_released_lock_that_arrives_after_a_stop_is_refused", |cluster| {
        arrives_late(cluster, Lock::Released, Stop::Signal);
    }),
    ("unclear::an_update_of_a_released_lock_that_arrives_after_the_wait_is_over_is_refused", |cluster| {
        arrives_late(cluster, Lock::Released, Stop::Wait);
    }),
    ("unclear::an_update_of_an_expired_lock_that_arrives_after_a_stop_is_refused", |cluster| {
        arrives_late(cluster, Lock::Expired, Stop::Signal);
    }),
    ("unclear::an_update_of_an_expired_lock_that_arrives_after_the_wait_is_over_is_refused", |cluster| {
        arrives_late(cluster, Lock::Expired, Stop::Wait);
    }),
    (
        "unclear::the_create_of_a_leader_whose_lock_was_deleted_is_refused_after_a_stop",
        the_create_of_a_leader_whose_lock_was_deleted,
    ),
    (
        "unclear::a_write_that_arrives_right_before_the_one_that_supersedes_it_is_released",
        arrives_right_before_the_one_that_supersedes_it,
    ),
    ("unclear::a_stop_ends_leader_run_although_no_write_is_answered", a_stop_ends_although_no_write_is_answered),
];

/// The lock before the contender starts.
#[derive(Clone, Copy, Debug)]
enum Lock {
    Absent,
    Released,
    /// Held by a process that is dead, for 1 s.
    Expired,
}

impl Lock {
    /// Makes it so, and returns how many milliseconds after its start a contender may acquire it.
    fn prepare(self, scene: &Scene) -> u64 {
        match self {
            Lock::Absent => 0,
            Lock::Released => {
                assert_eq!(scene.contender(&SHORT, "exit 3").wait(), 3);
                0
            }
            Lock::Expired => {
                let spec = json!({"holderIdentity": "dead", "leaseDurationSeconds": 1, "leaseTransitions": 4});
                let lease = json!({"metadata": {"name": LOCK}, "spec": spec});
                scene.namespace.create_lease(&serde_json::from_value::<Lease>(lease).unwrap());
                1_000
            }
        }
    }
}

/// What ends the contender.
#[derive(Clone, Copy)]
enum Stop {
    Signal,
    Wait,
}

/// What happens to the acquiring write before it arrives late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unanswered {
    /// The contender is stopped while it waits for the answer.
    StoppedBefore,
    /// It times out, a GET shows the version that it was based on, and only then the contender is stopped. Further
    /// writes that name a holder are refused with 429, which tells nothing of the first one.
    StoppedAfterAGet,
    /// The same, but a gateway answers it with a page of its own.
    Page,
}

impl Unanswered {
    const ALL: [Unanswered; 3] = [Unanswered::StoppedBefore, Unanswered::StoppedAfterAGet, Unanswered::Page];

    fn fault(self) -> Fault {
        const HTML: &[(&str, &str)] = &[("content-type", "text/html")];
        match self {
            Unanswered::Page => {
                Fault::AnswerThenHold { status: 409, headers: HTML, body: "<html><h1>409 Conflict</h1></html>".into() }
            }
            _ => Fault::Hold,
        }
    }
}

/// A proxy that lets the first acquiring write from now on through when it is told to.
struct Late {
    proxy: Proxy,
    rule: Rule,
    case: Unanswered,
    begin: Instant,
}

impl Late {
    fn begin(proxy: Proxy, case: Unanswered) -> Late {
        let begin = Instant::now();
        let rule = proxy.on(Matcher::names_a_holder().first(1), case.fault());
        let body = refusal(429, "TooManyRequests");
        proxy.on(Matcher::names_a_holder(), Fault::Answer { status: 429, headers: &[], body });
        Late { proxy, rule, case, begin }
    }

    fn write(&self) -> Recorded {
        let requests = self.proxy.requests();
        requests.into_iter().find(|r| r.at > self.begin && r.request.names_a_holder()).expect("the held write")
    }

    /// Waits until the write is under way and, where the case says so, a GET has been answered after it.
    fn wait(&self) {
        self.rule.wait_hits(1);
        if self.case != Unanswered::StoppedBefore {
            let sent = self.write().at;
            let is_get = |request: &Seen| request.method == "GET" && !request.is_watch();
            wait_for("a GET after the write", LONG, || {
                self.proxy
                    .requests()
                    .iter()
                    .any(|r| r.at > sent && is_get(&r.request) && r.status.is_some())
                    .then_some(())
            });
        }
    }

    /// Lets the write through, and asserts that it is refused and that nobody holds the lock.
    fn assert_refused(self, scene: &Scene) {
        self.rule.release();
        let committed = wait_for("the API server's answer to the late write", LONG, || self.write().committed);
        assert_eq!((committed, scene.holder().as_str()), (409, ""), "the late write's status, and the holder after it");
    }
}

fn arrives_late(cluster: &Cluster, lock: Lock, stop: Stop) {
    side_by_side(&Unanswered::ALL, |&case| {
        let scene = Scene::new(cluster, &MINIMAL);
        let free_after = lock.prepare(&scene);
        // The wait ends while the write is under way, or when it has timed out and a GET has been answered.
        let (timeout, wait) = if case == Unanswered::StoppedBefore { ("4s", 3_000) } else { ("1s", 3_500) };
        let wait = format!("{}ms", free_after + wait);
        let mut options = vec!["--request-timeout", timeout];
        if let Stop::Wait = stop {
            options.extend(["--wait", &wait]);
        }
        let late = Late::begin(Proxy::start(cluster), case);
        let mut contender = scene.behind(&late.proxy, &options, "exit 3");
        late.wait();
        let code = match stop {
            Stop::Signal => {
                contender.signal(SIGTERM);
                143
            }
            Stop::Wait => 124,
        };
        assert_eq!(contender.wait(), code, "{}", contender.said());
        assert!(contender.line("start").is_none(), "{}", contender.said());
        late.assert_refused(&scene);
    });
}

fn the_create_of_a_leader_whose_lock_was_deleted(cluster: &Cluster) {
    side_by_side(&Unanswered::ALL, |&case| {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        let mut leader = scene.behind(&proxy, &["--request-timeout", "1s"], POLITE);
        leader.wait_line("start");
        // No renewal may be under way: it would be the write that is held.
        wait_for("the answer to a renewal", LONG, || {
            let requests = proxy.requests();
            let renewal = requests.iter().rfind(|r| r.request.method == "PUT")?;
            renewal.status.filter(|_| renewal.at.elapsed() < Duration::from_millis(500))
        });
        let late = Late::begin(proxy, case);
        scene.namespace.delete_lease(LOCK);
        late.wait();
        assert_eq!(late.write().request.method, "POST");
        leader.signal(SIGTERM);
        assert_eq!(leader.wait(), 0, "{}", leader.said());
        late.assert_refused(&scene);
    });
}

fn arrives_right_before_the_one_that_supersedes_it(cluster: &Cluster) {
    side_by_side(&[Lock::Absent, Lock::Released, Lock::Expired], |&lock| {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        lock.prepare(&scene);
        let late = proxy.on(Matcher::names_a_holder().first(1), Fault::Hold);
        let names_none = |request: &Seen| request.is_write() && !request.names_a_holder();
        let superseding = proxy.on(Matcher::new(names_none).first(1), Fault::Hold);
        let mut contender = scene.behind(&proxy, &SHORT, "exit 3");
        late.wait_hits(1);
        contender.signal(SIGTERM);
        let sent = || superseding.hits() > 0;
        wait_for("the write that supersedes it", LONG, || (sent() || !contender.is_running()).then_some(()));
        assert!(sent(), "it ended without another write:\n{}", contender.said());
        late.release();
        let first = || proxy.requests().into_iter().find(|r| r.request.names_a_holder());
        let committed = wait_for("the API server's answer to the late write", LONG, || first()?.committed);
        assert!(matches!(committed, 200 | 201), "{committed}");
        superseding.release();
        assert_eq!(contender.wait(), 143, "{}", contender.said());
        assert_eq!(scene.holder(), "");
        assert!(contender.line("start").is_none(), "{}", contender.said());
    });
}

fn a_stop_ends_although_no_write_is_answered(cluster: &Cluster) {
    let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
    let rule = proxy.on(Matcher::new(Seen::is_write), Fault::Hold);
    let options = [&SHORT[..], &["--request-timeout", "1s"]].concat();
    let mut contender = scene.behind(&proxy, &options, "exit 3");
    rule.wait_hits(1);
    let stopped = Instant::now();
    contender.signal(SIGTERM);
    assert_eq!(contender.wait(), 143, "{}", contender.said());
    // One request timeout for the write that was under way, one for the write that supersedes it.
    let took = stopped.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert_eq!(scene.namespace.lease(LOCK).as_ref().map(holder), None);
}
