//! Writes that an admission webhook or policy denies. Whatever the status, the denial may be lifted, so a contender
//! tries again until the renew deadline has passed.

use crate::Test;
use crate::apiserver::Cluster;
use crate::faults::{Fault, Matcher, Seen};
use crate::proxy::Proxy;
use crate::scene::{MINIMAL, Scene, side_by_side};
use crate::support::{Contender, LONG, POLITE, SHORT, wait_for};
use nix::libc::SIGTERM;
use serde_json::json;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("denials::a_contender_that_is_denied_for_the_renew_deadline_ends_with_125", ends_with_125),
    ("denials::a_contender_that_is_denied_until_the_wait_is_over_ends_with_124", ends_with_124),
    ("denials::a_contender_leads_when_the_denial_is_lifted", leads_when_lifted),
    ("denials::a_leader_keeps_its_child_while_its_renewals_are_denied", a_leader_keeps_its_child),
    ("denials::a_contender_leads_when_a_real_policy_is_lifted", leads_when_a_real_policy_is_lifted),
    ("denials::a_contender_that_a_real_policy_denies_for_good_ends_with_125", a_real_policy_for_good),
    ("denials::a_leader_keeps_its_child_while_a_real_policy_denies_its_renewals", a_leader_and_a_real_policy),
];

/// Renew deadline and retry period of [`SHORT`].
const R: Duration = Duration::from_secs(4);
const P: Duration = Duration::from_secs(1);

/// What the API server answers to a create or an update of a lock.
#[derive(Clone, Copy, Debug)]
struct Denial {
    code: u16,
    message: &'static str,
    /// Whether the lock exists, so that it is updated.
    update: bool,
}

const WEBHOOK: &str = "admission webhook \"deny.example.com\" denied the request: not now";
const POLICY: &str = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: not now";
const POLICY_FULL: &str = "leases.coordination.k8s.io \"work\" is forbidden: ValidatingAdmissionPolicy 'p' with binding \
                           'b' denied request: not now";

impl Denial {
    const CREATES: [Denial; 5] = [
        Denial { code: 400, message: WEBHOOK, update: false },
        Denial { code: 403, message: WEBHOOK, update: false },
        Denial { code: 404, message: WEBHOOK, update: false },
        Denial { code: 409, message: WEBHOOK, update: false },
        Denial { code: 422, message: POLICY, update: false },
    ];
    const UPDATES: [Denial; 5] = [
        Denial { code: 400, message: WEBHOOK, update: true },
        Denial { code: 403, message: POLICY_FULL, update: true },
        Denial { code: 404, message: WEBHOOK, update: true },
        Denial { code: 409, message: WEBHOOK, update: true },
        Denial { code: 422, message: WEBHOOK, update: true },
    ];

    fn all() -> Vec<Denial> {
        [Denial::CREATES, Denial::UPDATES].concat()
    }

    fn fault(self) -> Fault {
        let Denial { code, message, .. } = self;
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                            "message": message, "code": code});
        Fault::Answer { status: code, headers: &[], body: status.to_string() }
    }

    /// A lock that is free.
    fn prepare(self, scene: &Scene) {
        if self.update {
            assert_eq!(scene.contender(&SHORT, "exit 3").wait(), 3);
        }
    }
}

fn ends_with_125(cluster: &Cluster) {
    side_by_side(&Denial::all(), |&denial| {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        denial.prepare(&scene);
        let rule = proxy.on(Matcher::new(Seen::is_write), denial.fault());
        let mut contender = scene.behind(&proxy, &SHORT, POLITE);
        rule.wait_hits(1);
        let denied = Instant::now();
        wait_for("its end", LONG, || (!contender.is_running() || denied.elapsed() > R * 4).then_some(()));
        let (took, writes, requests) = (denied.elapsed(), rule.hits(), proxy.requests().len());
        assert!(!contender.is_running(), "running after {took:?}, with {writes} writes, {requests} requests in all");
        assert_eq!(contender.wait(), 125, "{}", contender.said());
        assert!(took >= R, "{took:?}");
        assert!(contender.said().lines().last().is_some_and(|line| line.contains("denied")), "{}", contender.said());
        // The first repetition is quicker than a retry period. Each may be preceded by a GET.
        let most = 3 + took.div_duration_f64(P) as usize;
        assert!(writes <= most && requests <= most * 2 + 2, "{writes} writes, {requests} requests in {took:?}");
    });
}

fn ends_with_124(cluster: &Cluster) {
    side_by_side(&Denial::UPDATES, |&denial| {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        denial.prepare(&scene);
        let rule = proxy.on(Matcher::new(Seen::is_write), denial.fault());
        let mut contender = scene.behind(&proxy, &[&SHORT[..], &["--wait", "2s"]].concat(), POLITE);
        assert_eq!(contender.wait(), 124, "{}", contender.said());
        assert!(contender.said().contains("denied"), "{} writes:\n{}", rule.hits(), contender.said());
        assert!((1..=5).contains(&rule.hits()), "{} writes in 2 s", rule.hits());
    });
}

fn leads_when_lifted(cluster: &Cluster) {
    side_by_side(&Denial::all(), |&denial| {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        denial.prepare(&scene);
        let rule = proxy.on(Matcher::new(Seen::is_write), denial.fault());
        let mut contender = scene.behind(&proxy, &[], POLITE);
        wait_for("two denials", LONG, || (rule.hits() >= 2 || !contender.is_running()).then_some(()));
        rule.release();
        assert!(contender.is_running(), "it ended with {:?}:\n{}", contender.ended(), contender.said());
        contender.wait_line("start");
    });
}

fn a_leader_keeps_its_child(cluster: &Cluster) {
    side_by_side(&Denial::UPDATES, |&denial| {
        let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
        let mut leader = scene.behind(&proxy, &[], POLITE);
        leader.wait_line("start");
        let rule = proxy.on(Matcher::new(Seen::is_write), denial.fault());
        rule.wait_hits(1);
        let begin = Instant::now();
        wait_for("3 s to pass", LONG, || (begin.elapsed() > Duration::from_secs(3)).then_some(()));
        let (writes, time) = (rule.hits(), begin.elapsed());
        rule.release();
        // P is 2 s; the first repetition is quicker.
        let most = 3 + time.as_secs() as usize / 2;
        assert!(writes <= most, "{writes} writes in {time:?}");
        renews(&mut leader, &scene);
    });
}

/// Asserts that the leader renews again, and that its child has not been asked to stop.
fn renews(leader: &mut Contender, scene: &Scene) {
    let renewed = scene.spec().renew_time;
    let again = |leader: &mut Contender| scene.spec().renew_time != renewed || !leader.is_running();
    wait_for("a renewal", LONG, || again(leader).then_some(()));
    assert_eq!(leader.count("asked"), 0, "{}", leader.said());
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 0, "{}", leader.said());
    assert_eq!(scene.holder(), "");
}

fn leads_when_a_real_policy_is_lifted(cluster: &Cluster) {
    side_by_side(&[false, true], |&exists| {
        let scene = Scene::new(cluster, &MINIMAL);
        if exists {
            assert_eq!(scene.contender(&SHORT, "exit 3").wait(), 3);
        }
        let policy = scene.namespace.deny_lease_writes();
        // R is 10 s: the API server takes a second or two to notice that the policy is gone.
        let mut contender = scene.contender(&[], POLITE);
        contender.wait_line("denied request");
        drop(policy);
        wait_for("its child", LONG, || (contender.line("start").is_some() || !contender.is_running()).then_some(()));
        assert!(contender.line("start").is_some(), "{}", contender.said());
    });
}

fn a_real_policy_for_good(cluster: &Cluster) {
    let scene = Scene::new(cluster, &MINIMAL);
    let policy = scene.namespace.deny_lease_writes();
    let start = Instant::now();
    let mut contender = scene.contender(&SHORT, POLITE);
    assert_eq!(contender.wait(), 125, "{}", contender.said());
    let took = start.elapsed();
    assert!(took >= R && took < R * 3, "{took:?}: {}", contender.said());
    assert!(contender.said().contains("denied request: no leases today"), "{}", contender.said());
    assert_eq!(scene.namespace.lease(crate::scene::LOCK), None);
    drop(policy);
}

fn a_leader_and_a_real_policy(cluster: &Cluster) {
    let (scene, proxy) = (Scene::new(cluster, &MINIMAL), Proxy::start(cluster));
    let mut leader = scene.behind(&proxy, &[], POLITE);
    leader.wait_line("start");
    let policy = scene.namespace.deny_lease_writes();
    let denied = || proxy.requests().iter().filter(|r| r.request.is_write() && r.status == Some(422)).count();
    wait_for("two denied renewals", LONG, || (denied() >= 2).then_some(()));
    drop(policy);
    renews(&mut leader, &scene);
}
