//! The table, and the samples that it was made of.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

/// One line of the table.
pub struct Line {
    /// What was measured, and in which unit.
    pub name: String,
    /// Which value of the samples counts: 0.5 is the median, 1 the greatest.
    pub quantile: f64,
    pub ours: Vec<f64>,
    /// None where only ours is measured.
    pub theirs: Vec<f64>,
    pub goal: Goal,
}

/// What ours has to be.
#[derive(Clone, Copy, Default)]
pub struct Goal {
    /// At most this.
    pub most: Option<f64>,
    /// At most this part of theirs.
    pub ratio: Option<f64>,
    /// No sample less than this.
    pub least: Option<f64>,
}

impl Line {
    pub fn median(name: &str, ours: &[f64], theirs: &[f64], goal: Goal) -> Line {
        Line { name: format!("{name}, p50"), quantile: 0.5, ours: ours.into(), theirs: theirs.into(), goal }
    }

    pub fn p99(name: &str, ours: &[f64], theirs: &[f64], goal: Goal) -> Line {
        Line { name: format!("{name}, p99"), quantile: 0.99, ours: ours.into(), theirs: theirs.into(), goal }
    }

    /// Of something that was counted once.
    pub fn once(name: &str, ours: f64, theirs: Option<f64>, goal: Goal) -> Line {
        Line { name: name.into(), quantile: 0.5, ours: vec![ours], theirs: theirs.into_iter().collect(), goal }
    }
}

pub struct Report {
    began: Instant,
    load: String,
    lines: Vec<Line>,
}

impl Report {
    pub fn new() -> Report {
        Report { began: Instant::now(), load: load(), lines: Vec::new() }
    }

    pub fn add(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// The table to standard output, the samples to a file below `target`.
    pub fn print(&self) {
        println!("| figure | leader-run | client-go | ratio | goal | |\n|---|---|---|---|---|---|");
        let mut samples = String::new();
        for line in &self.lines {
            let (ours, theirs) = (quantile(&line.ours, line.quantile), quantile(&line.theirs, line.quantile));
            let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
            let goal = line.goal;
            let texts = [
                goal.most.map(|most| format!("≤ {}", number(most))),
                goal.ratio.map(|ratio| format!("≤ {} ×", number(ratio))),
                goal.least.map(|least| format!("never < {}", number(least))),
            ];
            let misses = |ours: f64| {
                goal.most.is_some_and(|most| ours > most)
                    || goal.ratio.is_some_and(|goal| ratio.is_none_or(|ratio| ratio > goal))
                    || goal.least.is_some_and(|least| line.ours.iter().any(|sample| *sample < least))
            };
            let texts: Vec<_> = texts.into_iter().flatten().collect();
            println!(
                "| {} | {} | {} | {} | {} | {} |",
                line.name,
                shown(ours, &line.ours),
                shown(theirs, &line.theirs),
                ratio.map(number).unwrap_or_default(),
                texts.join(", "),
                if texts.is_empty() {
                    ""
                } else if ours.is_none_or(misses) {
                    "**missed**"
                } else {
                    "met"
                }
            );
            for (contender, values) in [("leader-run", &line.ours), ("client-go", &line.theirs)] {
                for (place, value) in values.iter().enumerate() {
                    let _ = writeln!(samples, "{}\t{contender}\t{place}\t{value}", line.name);
                }
            }
        }
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench.tsv");
        fs::write(&file, samples).expect("write the samples");
        let took = self.began.elapsed().as_secs();
        println!("\n{took} s; load before {}, after {}; samples: {}", self.load, load(), file.display());
    }
}

/// How many processes want to run, over the last minute.
fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or_default().into()
}

/// The smallest sample that this part of all is no greater than.
pub fn quantile(samples: &[f64], part: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (samples.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied()
}

fn shown(value: Option<f64>, samples: &[f64]) -> String {
    match value {
        Some(value) if samples.len() > 1 => format!("{} (n {})", number(value), samples.len()),
        Some(value) => number(value),
        None => String::new(),
    }
}

/// Three digits that count.
fn number(value: f64) -> String {
    let digits = if value == 0.0 { 0 } else { 2 - value.abs().log10().floor() as i32 };
    let text = format!("{value:.*}", digits.clamp(0, 4) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}
