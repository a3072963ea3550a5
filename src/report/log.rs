//! Messages to standard error: lines for people, or JSON.
//!
//! They are written by a thread of their own: a reader that stops reading must never hold up a renewal.
//! What does not fit into its queue meanwhile is lost.

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{self as lines, FmtContext};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

/// How messages look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `leader-run: what happened`.
    Text,
    /// One object a line.
    Json,
}

/// So many lines may wait to be written.
const QUEUE: usize = 1024;
/// So long may the last ones take when the program ends.
const LAST_LINES: Duration = Duration::from_millis(200);

enum Job {
    Write(Vec<u8>),
    Flush(SyncSender<()>),
}

static JOBS: OnceLock<SyncSender<Job>> = OnceLock::new();

/// Begins to log messages of this level and graver ones. To be called once, after the last fork.
pub fn start(format: Format, level: Level) {
    let (jobs, queue) = sync_channel(QUEUE);
    // Without a thread, on a system at its limits, lines are written at once.
    if thread::Builder::new().name("log".into()).spawn(move || write_all(&queue)).is_ok() {
        let _ = JOBS.set(jobs);
    }
    // Our own messages only: those of the libraries speak of their insides.
    let filter = Targets::new().with_target("leader_run", level);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        Format::Text => registry.with(lines::layer().event_format(Text).with_writer(|| Queue)).init(),
        Format::Json => {
            let json = lines::layer().json().flatten_event(true).with_current_span(false).with_span_list(false);
            registry.with(json.with_target(false).with_writer(|| Queue)).init();
        }
    }
}

/// Waits, for a moment, until what was logged is written.
pub fn finish() {
    let (done, written) = sync_channel(1);
    if let Some(jobs) = JOBS.get()
        && jobs.try_send(Job::Flush(done)).is_ok()
    {
        let _ = written.recv_timeout(LAST_LINES);
    }
}

fn write_all(queue: &Receiver<Job>) {
    let mut out = io::stderr();
    for job in queue {
        match job {
            Job::Write(line) => drop(out.write_all(&line)),
            Job::Flush(done) => drop(done.send(())),
        }
    }
}

/// Puts each line into the queue; the formatter writes a line at once.
struct Queue;

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match JOBS.get() {
            Some(jobs) => drop(jobs.try_send(Job::Write(line.to_vec()))),
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As other commands speak: their name, then what happened.
struct Text;

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        to.write_str("leader-run: ")?;
        context.format_fields(to.by_ref(), event)?;
        writeln!(to)
    }
}
