//! Black-box tests against a real kube-apiserver and etcd: both are started once, every test gets a
//! namespace of its own in them, and both are gone when the last test has ended.

mod annotations;
mod apiserver;
mod ask;
mod cleared;
#[path = "../support/conformance.rs"]
mod conformance;
mod denials;
mod election;
#[path = "../support/examples.rs"]
mod examples;
mod failures;
#[path = "../support/faults.rs"]
mod faults;
mod foreign;
mod ground;
mod harness;
mod http;
#[path = "../support/kubeconfig.rs"]
mod kubeconfig;
mod multilock;
mod namespace;
#[path = "../support/nemesis.rs"]
mod nemesis;
mod packaging;
mod pages;
#[path = "../support/proxy.rs"]
mod proxy;
#[allow(dead_code)]
#[path = "../simulation/random.rs"]
mod random;
mod readme;
#[path = "../support/record.rs"]
mod record;
mod refusals;
mod reports;
mod scene;
mod shapes;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tls.rs"]
mod tls;
mod unclear;

use std::{process::ExitCode, sync::Arc, time::Duration};

use apiserver::Cluster;
use conformance::Check;
use ground::Real;
use libtest_mimic::{Arguments, Trial};
use support::wait_for;

/// A test and its name. It fails by panicking.
type Test = (&'static str, fn(&Cluster));

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The tests mostly wait, so more of them than there are processors run well side by side.
    arguments.test_threads.get_or_insert(16);

    let tests = [
        annotations::TESTS,
        ask::TESTS,
        multilock::TESTS,
        election::TESTS,
        failures::TESTS,
        packaging::TESTS,
        readme::TESTS,
        refusals::TESTS,
        reports::TESTS,
        shapes::TESTS,
        harness::TESTS,
        http::TESTS,
        unclear::TESTS,
        pages::TESTS,
        denials::TESTS,
        cleared::TESTS,
        foreign::TESTS,
    ]
    .concat();
    // Started here, in the main thread: the servers die with the thread that started them.
    let cluster = (!arguments.list).then(|| Arc::new(Cluster::start()));
    let trials = tests.into_iter().map(|test| trial(test, cluster.clone()));
    let measurements = foreign::MEASUREMENTS.iter();
    let measurements = measurements.map(|test| trial(*test, cluster.clone()).with_ignored_flag(true));
    let checks = conformance::CHECKS.iter().map(|check| conforms(check, cluster.clone()));
    let conclusion = libtest_mimic::run(&arguments, trials.chain(checks).chain(measurements).collect());
    // With nothing beside it: it stops the API server, and the others have an eye on the time.
    let alone = libtest_mimic::run(&arguments, vec![trial(("nemesis", nemesis), cluster.clone())]);

    let failed = conclusion.has_failed() || alone.has_failed();
    if let Some(cluster) = cluster.and_then(Arc::into_inner) {
        if failed {
            eprintln!("{}", cluster.logs());
        }
        cluster.stop();
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn nemesis(cluster: &Cluster) {
    nemesis::run(&[Real::new(cluster)], 5, Duration::from_secs(120));
}

fn trial((name, test): Test, cluster: Option<Arc<Cluster>>) -> Trial {
    Trial::test(name, move || {
        test(&cluster.expect("started unless tests are only listed"));
        Ok(())
    })
}

/// What the server within the tests is held to.
fn conforms((name, check): &'static Check, cluster: Option<Arc<Cluster>>) -> Trial {
    Trial::test(format!("server::{name}"), move || {
        let namespace = cluster.expect("started unless tests are only listed").namespace("server");
        namespace.block_on(check(namespace.api()));
        Ok(())
    })
}
