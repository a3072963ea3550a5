//! What leader-run costs beside client-go: both in the same run, on the same real API server, with the same child.
//! Machines and loads differ, so only the ratios say much.

#[allow(dead_code)]
#[path = "../cluster/apiserver.rs"]
mod apiserver;
mod contender;
mod cost;
mod crowd;
#[path = "../support/faults.rs"]
mod faults;
#[path = "../support/kubeconfig.rs"]
mod kubeconfig;
#[allow(dead_code)]
#[path = "../cluster/namespace.rs"]
mod namespace;
#[path = "../support/proxy.rs"]
mod proxy;
mod report;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod takeover;
#[path = "../support/tls.rs"]
mod tls;

use report::{Line, Report};
use scene::Scene;
use std::process::ExitCode;
use std::thread;
use support::wait_for;

/// What measures some lines of the table.
type Figure = fn(&Scene) -> Vec<Line>;

/// All figures. Those that come together mostly wait, and are measured at the same time.
const FIGURES: [&[(&str, Figure)]; 7] = [
    &[("start", takeover::start)],
    &[("memory", cost::memory), ("binary", cost::binary)],
    &[("release", takeover::release)],
    &[("crash of leader-run", takeover::crash)],
    &[("crash of the node", takeover::crash_of_the_node), ("CPU", cost::cpu)],
    &[("400 standbys", cost::standbys)],
    &[("1,000 standbys", crowd::release)],
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|part| name.contains(part.as_str()));
    if !FIGURES.iter().copied().flatten().any(|(name, _)| is_wanted(name)) {
        FIGURES.iter().copied().flatten().for_each(|(name, _)| println!("{name}"));
        return ExitCode::FAILURE;
    }
    // Started here, in the main thread: the servers die with the thread that started them.
    let scene = &Scene::new();
    let mut report = Report::new();
    let mut code = ExitCode::SUCCESS;
    for figures in FIGURES {
        let wanted = figures.iter().filter(|(name, _)| is_wanted(name));
        thread::scope(|scope| {
            let measure = |(name, figure): &'static (&str, Figure)| {
                eprintln!("measuring: {name}");
                scope.spawn(move || figure(scene))
            };
            let threads: Vec<_> = wanted.map(measure).collect();
            for thread in threads {
                match thread.join() {
                    Ok(lines) => lines.into_iter().for_each(|line| report.add(line)),
                    // It has said why.
                    Err(_) => code = ExitCode::FAILURE,
                }
            }
        });
    }
    report.print();
    code
}
