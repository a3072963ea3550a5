//! Messages to standard error: lines for people, or JSON.
//!
//! They are written by a thread of their own: a reader that stops reading must never hold up a renewal.
//! What does not fit into its queue meanwhile is lost.

use crate::clock::Instant;
use nix::unistd::{getpgrp, tcgetpgrp};
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
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
/// The live line is drawn anew so often.
const REDRAW: Duration = Duration::from_secs(1);

/// What the live line says at a moment.
pub type Live = Box<dyn Fn(Instant) -> String + Send>;

enum Job {
    Write(Vec<u8>),
    Show(Option<Live>),
    Flush(SyncSender<()>),
}

/// Of the thread that writes; none on a system at its limits, where lines are written at once.
static JOBS: OnceLock<Option<SyncSender<Job>>> = OnceLock::new();
static LIVE_LINE: AtomicBool = AtomicBool::new(false);

/// Begins to log messages of this level and graver ones. To be called once, after the last fork.
pub fn start(format: Format, level: Level) {
    let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
    let live = format == Format::Text && level >= Level::INFO && !dumb && io::stderr().is_terminal();
    LIVE_LINE.store(live, Ordering::Relaxed);
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

/// Starts the thread that writes, unless the first line has done so: for a moment when there is nothing else to do.
pub fn warm_up() {
    jobs();
}

fn jobs() -> Option<&'static SyncSender<Job>> {
    let start = || {
        let (jobs, queue) = sync_channel(QUEUE);
        thread::Builder::new().name("log".into()).spawn(move || write_all(&queue)).ok().map(|_| jobs)
    };
    JOBS.get_or_init(start).as_ref()
}

/// Whether people see messages on a terminal, below which a live line can be.
pub fn has_live_line() -> bool {
    LIVE_LINE.load(Ordering::Relaxed)
}

/// Shows this as the live line from now on, or none.
pub fn show(live: Option<Live>) {
    if let Some(jobs) = jobs() {
        let _ = jobs.try_send(Job::Show(live));
    }
}

/// Waits, for a moment, until what was logged is written.
pub fn finish() {
    let (done, written) = sync_channel(1);
    if let Some(Some(jobs)) = JOBS.get()
        && jobs.try_send(Job::Flush(done)).is_ok()
    {
        let _ = written.recv_timeout(LAST_LINES);
    }
}

fn write_all(queue: &Receiver<Job>) {
    let mut screen = Screen::default();
    loop {
        let job = match screen.draw_in() {
            Some(left) => queue.recv_timeout(left),
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match job {
            Ok(Job::Write(line)) => {
                screen.erase();
                let _ = io::stderr().write_all(&line);
            }
            Ok(Job::Show(live)) => screen.show(live),
            Ok(Job::Flush(done)) => {
                screen.show(None);
                let _ = done.send(());
            }
            Err(RecvTimeoutError::Timeout) => screen.draw(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The last line of a terminal, where the live line is.
#[derive(Default)]
struct Screen {
    live: Option<Live>,
    /// When it was drawn last, on a clock that only a live line needs.
    drawn: Option<std::time::Instant>,
    is_there: bool,
}

impl Screen {
    fn show(&mut self, live: Option<Live>) {
        self.live = live;
        if self.live.is_none() {
            self.erase();
        }
    }

    /// How long until it is drawn again.
    fn draw_in(&self) -> Option<Duration> {
        self.live.as_ref()?;
        Some(self.drawn.map_or(Duration::ZERO, |drawn| REDRAW.saturating_sub(drawn.elapsed())))
    }

    fn draw(&mut self) {
        self.drawn = Some(std::time::Instant::now());
        // In the background the terminal is somebody else's.
        if let Some(live) = &self.live
            && tcgetpgrp(io::stderr()).is_ok_and(|group| group == getpgrp())
        {
            // What does not fit is cut off, rather than wrapped into a second line that would stay.
            let _ = write!(io::stderr(), "\r\x1b[?7l{}\x1b[K\x1b[?7h", live(Instant::now()));
            self.is_there = true;
        }
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.is_there) {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

/// Puts each line into the queue; the formatter writes a line at once.
struct Queue;

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match jobs() {
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
