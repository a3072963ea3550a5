//! The fault matrix. So far, the tests of the API server that it needs.

#[path = "../support/conformance.rs"]
mod conformance;
#[path = "../support/faults.rs"]
mod faults;
mod harness;
#[path = "../support/kubeconfig.rs"]
mod kubeconfig;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/server.rs"]
mod server;
#[path = "../support/store.rs"]
mod store;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tls.rs"]
mod tls;

use libtest_mimic::Arguments;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The tests mostly wait, so more of them than there are processors run well side by side.
    arguments.test_threads.get_or_insert(16);
    libtest_mimic::run(&arguments, harness::trials()).exit_code()
}
