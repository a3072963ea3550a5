//! Simulated histories: the very contender and guard of leader-run, several of them and client-go's rules as a
//! peer, on machines whose clocks, networks and processes fail, checked for overlaps and for liveness.
//!
//! `HISTORIES=1000000` says how many are played; `HISTORY=4711` plays one again and prints what happens in it,
//! with `MUTANT=name` and `BOUNDS=beyond` where it was found with them.

mod actor;
mod judge;
mod peer;
mod plan;
mod random;
mod store;
mod world;

use judge::{Finding, Verdict, Violation};
use leader_run::mutant::{self, Mutant};
use libtest_mimic::{Arguments, Failed, Trial};
use plan::Bounds;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Of an everyday run.
const EVERYDAY: u64 = 3_000;
/// A mutant has to be caught within so many.
const PATIENCE: u64 = 20_000;
/// Mutants of what the simulation leaves out: each has a test of the binary, of the same name, in tests/matrix.
const BLACK_BOX: [Mutant; 2] = [Mutant::UnconditionalPut, Mutant::PageIsConflict];
/// Numbers of histories in which something was found once. One a line; text after it says what.
const REGRESSIONS: &str = include_str!("regressions");

fn main() {
    if let Ok(number) = std::env::var("HISTORY") {
        return replay(number.parse().expect("HISTORY is a number"));
    }
    let arguments = Arguments::from_args();
    let mut trials = vec![
        Trial::test("no_two_trees_and_always_a_leader", no_two_trees),
        Trial::test("what_was_found_once_is_not_found_again", regressions),
        Trial::test("beyond_the_bounds_overlaps_are_found", beyond),
    ];
    for (name, mutant) in Mutant::ALL {
        let test = format!("mutant_{}", name.replace('-', "_"));
        if !BLACK_BOX.contains(&mutant) {
            trials.push(Trial::test(test, move || caught(name, mutant)));
        } else if !arguments.list {
            println!("figure: mutant {name} is caught by {test} in tests/matrix");
        }
    }
    libtest_mimic::run(&arguments, trials).exit()
}

fn replay(number: u64) {
    let named = std::env::var("MUTANT").ok();
    let mutant = Mutant::ALL.iter().find(|(name, _)| Some(*name) == named.as_deref());
    mutant::choose(mutant.map(|(_, mutant)| *mutant));
    let bounds = if std::env::var("BOUNDS").is_ok_and(|b| b == "beyond") { Bounds::Beyond } else { Bounds::Within };
    let verdict = world::play(number, bounds, true);
    println!("history {number}: {verdict:?}");
}

/// What many histories amounted to.
#[derive(Default)]
struct Total {
    verdict: Verdict,
    findings: Vec<(u64, Finding)>,
    overlaps: u64,
}

impl Total {
    fn add(&mut self, number: u64, verdict: Verdict) {
        self.verdict.terms += verdict.terms;
        self.verdict.peers_own += verdict.peers_own;
        self.verdict.exposures += verdict.exposures;
        self.verdict.events += verdict.events;
        if let Some(finding) = verdict.finding {
            self.overlaps += u64::from(finding.violation == Violation::Overlap);
            self.findings.push((number, finding));
        }
    }
}

/// Plays histories on all cores, until `enough` of them have a finding.
fn play_many(first: u64, count: u64, bounds: Bounds, mutant: Option<Mutant>, enough: usize) -> Total {
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Total::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                mutant::choose(mutant);
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= first + count {
                        return;
                    }
                    let verdict = world::play(number, bounds, false);
                    let mut total = total.lock().unwrap();
                    total.add(number, verdict);
                    stop.store(total.findings.len() >= enough, Ordering::Relaxed);
                }
            });
        }
    });
    total.into_inner().unwrap()
}

fn no_two_trees() -> Result<(), Failed> {
    let count = std::env::var("HISTORIES").map_or(EVERYDAY, |count| count.parse().expect("HISTORIES is a number"));
    // Another part of the numbers each day would find more, but a test that fails must fail again.
    let first = std::env::var("FIRST").map_or(1, |first| first.parse().expect("FIRST is a number"));
    let begin = Instant::now();
    let total = play_many(first, count, Bounds::Within, None, 20);
    let Verdict { terms, peers_own, exposures, events, .. } = total.verdict;
    println!(
        "figure: {count} histories, {terms} terms, {events} events in {:.1} s: {} findings, {} overlaps of two \
         leader-run trees; {peers_own} times client-go's tree was alive past its own lease, {exposures} times two \
         trees for a moment after a machine had stood still",
        begin.elapsed().as_secs_f64(),
        total.findings.len(),
        total.overlaps,
    );
    match total.findings.is_empty() {
        true => Ok(()),
        false => Err(list(&total.findings).into()),
    }
}

fn list(findings: &[(u64, Finding)]) -> String {
    let lines = findings.iter().map(|(number, finding)| format!("HISTORY={number}: {finding}"));
    lines.collect::<Vec<_>>().join("\n")
}

fn regressions() -> Result<(), Failed> {
    let mut findings = Vec::new();
    for line in REGRESSIONS.lines().filter(|line| !line.starts_with('#')) {
        let number = line.split_whitespace().next().unwrap_or_default();
        let number = number.parse().map_err(|_| format!("no number in {line:?}"))?;
        findings.extend(world::play(number, Bounds::Within, false).finding.map(|finding| (number, finding)));
    }
    if findings.is_empty() { Ok(()) } else { Err(list(&findings).into()) }
}

/// The checker can see overlaps: where the inequality does not hold there are some.
fn beyond() -> Result<(), Failed> {
    let total = play_many(1, PATIENCE, Bounds::Beyond, None, 3);
    let overlaps = total.findings.iter().filter(|(_, finding)| finding.violation == Violation::Overlap);
    let overlaps: Vec<_> = overlaps.cloned().collect();
    println!("figure: beyond the bounds, the first overlaps are:\n{}", list(&overlaps));
    if overlaps.is_empty() { Err("no overlap was found".into()) } else { Ok(()) }
}

fn caught(name: &str, mutant: Mutant) -> Result<(), Failed> {
    let total = play_many(1, PATIENCE, Bounds::Within, Some(mutant), 1);
    let Some(finding) = total.findings.iter().min_by_key(|(number, _)| *number) else {
        return Err(format!("{name} was not noticed in {PATIENCE} histories").into());
    };
    println!("figure: mutant {name} is caught by {}", list(std::slice::from_ref(finding)));
    Ok(())
}
