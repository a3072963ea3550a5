//! The table, and the samples that it was made of.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

/// One line of the table.
pub struct Line {
    /// What was measured, and in which unit.
    pub name: String,
    pub part: Part,
    pub ours: Vec<f64>,
    /// None where only ours is measured.
    pub theirs: Vec<f64>,
    pub goal: Goal,
}

/// Which of several samples counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Only,
    Median,
    P99,
    Most,
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
    /// What else it has to be, and whether it is.
    pub also: Option<(&'static str, bool)>,
}

impl Line {
    pub fn new(name: &str, part: Part, ours: &[f64], theirs: &[f64], goal: Goal) -> Line {
        Line { name: name.into(), part, ours: ours.into(), theirs: theirs.into(), goal }
    }

    /// Of something that was measured once.
    pub fn once(name: &str, ours: f64, theirs: Option<f64>, goal: Goal) -> Line {
        Line::new(name, Part::Only, &[ours], theirs.as_slice(), goal)
    }
}

impl Part {
    /// The smallest sample that this part of all is no greater than.
    fn of(self, samples: &[f64]) -> Option<f64> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let place = match self {
            Part::Only | Part::Median => samples.len().div_ceil(2),
            Part::P99 => (samples.len() * 99).div_ceil(100),
            Part::Most => samples.len(),
        };
        sorted.get(place.saturating_sub(1)).copied()
    }

    fn text(self) -> &'static str {
        match self {
            Part::Only => "",
            Part::Median => ", p50",
            Part::P99 => ", p99",
            Part::Most => ", most",
        }
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
        self.lines.iter().for_each(print);
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench.tsv");
        fs::write(&file, self.samples()).expect("write the samples");
        let took = self.began.elapsed().as_secs();
        println!("\n{took} s; load before {}, after {}; samples: {}", self.load, load(), file.display());
    }

    /// One sample a line: the figure, the contender, its place, itself.
    fn samples(&self) -> String {
        let mut text = String::new();
        for (place, line) in self.lines.iter().enumerate() {
            // Of lines about the same samples, once.
            if place > 0 && self.lines[place - 1].name == line.name {
                continue;
            }
            for (contender, values) in [("leader-run", &line.ours), ("client-go", &line.theirs)] {
                for (place, value) in values.iter().enumerate() {
                    let _ = writeln!(text, "{}\t{contender}\t{place}\t{value:.4}", line.name);
                }
            }
        }
        text
    }
}

fn print(line: &Line) {
    let (ours, theirs) = (line.part.of(&line.ours), line.part.of(&line.theirs));
    let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
    let Goal { most, ratio: part, least, also } = line.goal;
    let goals = [
        most.map(|most| (format!("≤ {}", number(most)), ours.is_some_and(|ours| ours <= most))),
        part.map(|part| (format!("≤ {} ×", number(part)), ratio.is_some_and(|ratio| ratio <= part))),
        least.map(|least| (format!("never < {}", number(least)), line.ours.iter().all(|sample| *sample >= least))),
        also.map(|(what, is_so)| (if is_so { what.into() } else { format!("{what}, which it is not") }, is_so)),
    ];
    let goals: Vec<_> = goals.into_iter().flatten().collect();
    let verdict = match goals.iter().all(|(_, met)| *met) {
        _ if goals.is_empty() => "",
        true => "met",
        false => "**missed**",
    };
    println!(
        "| {}{} | {} | {} | {} | {} | {verdict} |",
        line.name,
        line.part.text(),
        shown(ours, &line.ours),
        shown(theirs, &line.theirs),
        ratio.map(number).unwrap_or_default(),
        goals.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join(", "),
    );
}

/// How many processes want to run, over the last minute.
fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or_default().into()
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
