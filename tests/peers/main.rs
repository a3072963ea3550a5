//! leader-run against the other clients of the same locks, as their own libraries are: on a real API server, each
//! with each lock that it shares with us, and what was seen, as one table.

#[allow(dead_code)]
#[path = "../cluster/apiserver.rs"]
mod apiserver;
mod cells;
mod clobber;
#[path = "../support/clock.rs"]
mod clock;
mod clocks;
#[path = "../support/faults.rs"]
mod faults;
#[path = "../support/kubeconfig.rs"]
mod kubeconfig;
mod migration;
#[allow(dead_code)]
#[path = "../cluster/namespace.rs"]
mod namespace;
#[path = "../support/proxy.rs"]
mod proxy;
#[allow(dead_code)]
#[path = "../simulation/random.rs"]
mod random;
#[path = "../support/record.rs"]
mod record;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod table;
#[path = "../support/tls.rs"]
mod tls;

use apiserver::Cluster;
use cells::{CELLS, Cell, Outcome};
use libtest_mimic::{Arguments, Trial};
use scene::Lock;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use support::wait_for;
use table::{PEERS, Peer};

/// What came of the cells of each row that ran.
type Results = Arc<Mutex<BTreeMap<(usize, usize), Outcome>>>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They mostly wait, so more of them than there are processors run well side by side.
    arguments.test_threads.get_or_insert(10);
    // Started here, in the main thread: the servers die with the thread that started them.
    let cluster = (!arguments.list).then(|| {
        scene::programs();
        Arc::new(Cluster::start())
    });
    let results = Results::default();
    let scene = |name: &str, scene: fn(&Cluster)| {
        let cluster = cluster.clone();
        Trial::test(name, move || {
            scene(&cluster.expect("started unless tests are only listed"));
            Ok(())
        })
    };
    // The longest ones first.
    let mut trials = vec![
        scene("a mixed fleet moves to leases", migration::a_mixed_fleet_moves_to_leases),
        scene("a peer whose clock is an hour off", clocks::theirs_is_wrong),
        scene("a leader-run that waits and whose clock is an hour off", clocks::ours_is_wrong_and_waits),
        scene("a leader-run that leads and whose clock is an hour off", clocks::ours_is_wrong_and_leads),
    ];
    for (column, cell) in CELLS.iter().enumerate().rev() {
        for (row, (peer, lock)) in rows().enumerate() {
            trials.push(trial(peer, lock, cell, (row, column), cluster.clone(), results.clone()));
        }
    }
    let alone = scene("a lock that was cleared is written again", clobber::a_lock_that_was_cleared_is_written_again);
    let conclusion = libtest_mimic::run(&arguments, trials);
    // With nothing beside it, for it is a matter of milliseconds.
    let then = libtest_mimic::run(&arguments, vec![alone]);
    print(&results.lock().unwrap_or_else(PoisonError::into_inner));
    if let Some(cluster) = cluster.and_then(Arc::into_inner) {
        if conclusion.has_failed() || then.has_failed() {
            eprintln!("{}", cluster.logs());
        }
        cluster.stop();
    }
    if conclusion.has_failed() { conclusion.exit_code() } else { then.exit_code() }
}

/// Each peer with each lock.
fn rows() -> impl Iterator<Item = (&'static Peer, Lock)> {
    PEERS.iter().flat_map(|peer| peer.locks.iter().map(move |lock| (peer, *lock)))
}

fn trial(
    peer: &'static Peer,
    lock: Lock,
    (name, cell): &'static Cell,
    place: (usize, usize),
    cluster: Option<Arc<Cluster>>,
    results: Results,
) -> Trial {
    Trial::test(format!("{}, {}: {name}", peer.name, lock.name()), move || {
        let outcome = cell(&cluster.expect("started unless tests are only listed"), peer, lock);
        results.lock().unwrap_or_else(PoisonError::into_inner).insert(place, outcome);
        Ok(())
    })
}

fn print(results: &BTreeMap<(usize, usize), Outcome>) {
    if results.is_empty() {
        return;
    }
    let names = CELLS.map(|(name, _)| name).join(" | ");
    println!("| peer | lock | {names} | overlaps | its limits |\n|{}", "---|".repeat(CELLS.len() + 4));
    for (row, (peer, lock)) in rows().enumerate() {
        let cells = (0..CELLS.len()).map(|column| results.get(&(row, column)));
        let texts: Vec<_> = cells.clone().map(|cell| cell.map_or("not passed", |(text, _)| text)).collect();
        let overlaps: usize = cells.flatten().map(|(_, overlaps)| overlaps).sum();
        println!("| {} | {} | {} | {overlaps} | {} |", peer.name, lock.name(), texts.join(" | "), peer.limits());
    }
}
