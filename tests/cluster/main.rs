//! Black-box tests against a real kube-apiserver and etcd: both are started once, every test gets a
//! namespace of its own in them, and both are gone when the last test has ended.

mod apiserver;
#[path = "../support/conformance.rs"]
mod conformance;
mod election;
mod failures;
#[path = "../support/faults.rs"]
mod faults;
mod harness;
#[path = "../support/kubeconfig.rs"]
mod kubeconfig;
mod namespace;
#[path = "../support/proxy.rs"]
mod proxy;
mod refusals;
mod scene;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tls.rs"]
mod tls;

use std::{process::ExitCode, sync::Arc};

use apiserver::Cluster;
use conformance::Check;
use libtest_mimic::{Arguments, Trial};
use support::wait_for;

/// A test and its name. It fails by panicking.
type Test = (&'static str, fn(&Cluster));

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The tests mostly wait, so more of them than there are processors run well side by side.
    arguments.test_threads.get_or_insert(16);

    let tests = [election::TESTS, failures::TESTS, refusals::TESTS, harness::TESTS].concat();
    // Started here, in the main thread: the servers die with the thread that started them.
    let cluster = (!arguments.list).then(|| Arc::new(Cluster::start()));
    let trials = tests.into_iter().map(|test| trial(test, cluster.clone()));
    let checks = conformance::CHECKS.iter().map(|check| conforms(check, cluster.clone()));
    let conclusion = libtest_mimic::run(&arguments, trials.chain(checks).collect());

    if let Some(cluster) = cluster.and_then(Arc::into_inner) {
        if conclusion.has_failed() {
            eprintln!("{}", cluster.logs());
        }
        cluster.stop();
    }
    conclusion.exit_code()
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
