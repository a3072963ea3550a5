//! The fault matrix: every fault that leader-run is known to meet, brought about on the real binary, and what
//! was seen, as one table. A row is one entry in a table of rows and one function.

#[path = "../support/bomb.rs"]
mod bomb;
mod cgroup;
#[path = "../support/clock.rs"]
mod clock;
mod clocks;
#[path = "../support/conformance.rs"]
mod conformance;
mod credentials;
#[path = "../support/faults.rs"]
mod faults;
mod harness;
#[path = "../support/kubeconfig.rs"]
mod kubeconfig;
mod moments;
mod mutants;
#[path = "../support/nemesis.rs"]
mod nemesis;
mod network;
mod object;
mod process;
#[path = "../support/proxy.rs"]
mod proxy;
#[allow(dead_code)]
#[path = "../simulation/random.rs"]
mod random;
mod scene;
#[path = "../support/server.rs"]
mod server;
#[path = "../support/store.rs"]
mod store;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tls.rs"]
mod tls;
mod tree;

use libtest_mimic::{Arguments, Trial};
use nemesis::Ground;
use server::Server;
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One fault. What it asserts, it asserts by panicking.
pub struct Row {
    /// From 1 to 43; each is there once.
    pub number: u32,
    /// What goes wrong.
    pub fault: &'static str,
    /// How it is made to.
    pub injected: &'static str,
    /// What leader-run promises then.
    pub expected: &'static str,
    /// Tries it.
    pub run: fn() -> Seen,
}

/// What a row came to.
pub enum Seen {
    /// As expected, with the figures measured.
    Held(String),
    /// This machine cannot do that, for this reason.
    NotInjected(String),
}

const ROWS: [&[Row]; 7] =
    [process::ROWS, network::ROWS, object::ROWS, credentials::ROWS, clocks::ROWS, tree::ROWS, moments::ROWS];

/// Those that load the whole machine. They run one by one after the others, as does the nemesis, which would be
/// late beside them.
const ALONE: [u32; 3] = [35, 36, 38];

/// What each row that ran came to, and whether that is what it should have.
type Results = Arc<Mutex<BTreeMap<u32, (String, &'static str)>>>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The rows mostly wait, so more of them than there are processors run well side by side.
    arguments.test_threads.get_or_insert(16);
    let rows = || ROWS.into_iter().flatten();
    for number in 1..=43 {
        let count = rows().filter(|row| row.number == number).count();
        assert_eq!(count, 1, "row {number}");
    }
    let results = Results::default();
    let (alone, together): (Vec<_>, Vec<_>) = rows().partition(|row| ALONE.contains(&row.number));
    let trials = |rows: Vec<_>| rows.into_iter().map(|row| trial(row, results.clone())).collect::<Vec<_>>();
    let together = trials(together).into_iter().chain(harness::trials()).chain(mutants::trials());
    let first = libtest_mimic::run(&arguments, together.collect());
    arguments.test_threads = Some(1);
    let alone = trials(alone).into_iter().chain([Trial::test("nemesis", nemesis)]);
    let then = libtest_mimic::run(&arguments, alone.collect());
    print(&results.lock().unwrap_or_else(PoisonError::into_inner));
    if first.has_failed() { first.exit_code() } else { then.exit_code() }
}

impl Ground for Server {
    fn kubeconfig(&self, url: &str) -> PathBuf {
        self.file(&self.config(url, server::TOKEN).to_string())
    }

    fn holder(&self) -> String {
        self.holder(nemesis::LOCK)
    }

    fn label(&self, text: &str) {
        self.change(nemesis::LOCK, |lease| lease["metadata"]["labels"] = serde_json::json!({"nemesis": text}));
    }

    fn stop(&self) -> bool {
        self.stop();
        true
    }

    fn listen(&self) {
        self.listen();
    }
}

fn nemesis() -> Result<(), libtest_mimic::Failed> {
    nemesis::run(&[(); 4].map(|()| Server::start()), 4, Duration::from_secs(45));
    Ok(())
}

fn trial(row: &'static Row, results: Results) -> Trial {
    Trial::test(format!("row {}: {}", row.number, row.fault), move || {
        let seen = catch_unwind(AssertUnwindSafe(row.run));
        let result = match &seen {
            Ok(Seen::Held(figures)) => (figures.clone(), "as expected"),
            Ok(Seen::NotInjected(why)) => (format!("not injected on this machine: {why}"), "open"),
            Err(panic) => (message(&**panic), "FAILED"),
        };
        results.lock().unwrap_or_else(PoisonError::into_inner).insert(row.number, result);
        seen.map(drop).map_err(|panic| resume_unwind(panic))
    })
}

/// The first line of what a panic says.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or_default().lines().next().unwrap_or_default().into()
}

fn print(results: &BTreeMap<u32, (String, &'static str)>) {
    if results.is_empty() {
        return;
    }
    println!("| row | fault | injected how | expected | seen | verdict |\n|---|---|---|---|---|---|");
    for (number, (seen, verdict)) in results {
        let row = ROWS.into_iter().flatten().find(|row| row.number == *number).expect("a row that ran");
        let cells = [row.fault, row.injected, row.expected, seen, verdict].map(|cell| cell.replace('|', "\\|"));
        println!("| {number} | {} |", cells.join(" | "));
    }
}
