//! Why it ended: one line at the end of a run, for people and for the container's termination log.

use super::messages;
use crate::backend::Lock;
use crate::clock::Instant;
use crate::config::Config;
use crate::election::contender::Said;
use crate::election::elector::{Loss, Notice, Outcome};
use crate::exit;
use crate::guard::core::FromGuard;
use crate::process::signal;
use crate::text::duration;
use nix::libc::{SIGINT, SIGKILL};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;
use tracing::{error, info};

/// Where the kubelet finds what a container says of its end.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// In bytes: so much of it is shown.
const LONGEST: usize = 4096;

/// What has happened so far.
pub struct Closing {
    begun: Instant,
    /// When the present term began, or how long the last one was.
    led: Option<Result<Duration, Instant>>,
    why: Option<Why>,
    /// The last request has failed, in this way.
    last_error: Option<String>,
    /// The signal that asked us to stop first.
    got: Option<i32>,
    /// What the child was sent by us.
    sent: Vec<i32>,
    is_started: bool,
    /// The child's wait status.
    status: Option<i32>,
}

/// What is more to say of an end than how the child ended.
struct Why {
    full: String,
    /// The same in a few words, where people have been told when it happened.
    short: Option<String>,
}

impl Closing {
    /// Nothing has happened yet.
    pub fn new() -> Closing {
        Closing {
            begun: Instant::now(),
            led: None,
            why: None,
            last_error: None,
            got: None,
            sent: Vec::new(),
            is_started: false,
            status: None,
        }
    }

    /// Takes note of what happened.
    pub fn note(&mut self, lock: &dyn Lock, config: &Config, said: &Said) {
        let told = |full, short| Some(Why { full, short: Some(short) });
        match said {
            Said::Leading(_) => {
                *self = Closing { begun: self.begun, led: Some(Err(Instant::now())), ..Closing::new() };
            }
            Said::Notice(Notice::Failing(failure)) => self.last_error = Some(failure.to_string()),
            Said::Notice(Notice::Recovered) => self.last_error = None,
            Said::Tree(FromGuard::Started(..)) => self.is_started = true,
            Said::Tree(FromGuard::Exited(_, status)) => self.status = Some(*status),
            Said::Tree(FromGuard::Killing(_)) => self.send(SIGKILL),
            Said::Tree(FromGuard::Expired(_)) | Said::SteppingDown(_) => self.send(config.stop_signal),
            Said::Tree(FromGuard::Failed(_, errno)) => self.not_started(config, messages::failed_start(config, *errno)),
            Said::Tree(FromGuard::Died(_, status)) => {
                self.not_started(config, messages::died_before_exec(config, *status))
            }
            Said::Stopping(signal) => {
                self.got.get_or_insert(*signal);
                self.send(if *signal == SIGINT { *signal } else { config.stop_signal });
            }
            Said::Lost(loss) => {
                let lost = format!("lost {lock}");
                self.why = told(format!("{lost}: {}", messages::loss(loss, config)), lost);
                if let Loss::Deadline(Some(failure)) = loss {
                    self.last_error = Some(failure.to_string());
                }
                self.send(config.stop_signal);
                self.end_term();
            }
            Said::GuardFailed(how) => {
                let failed = format!("the guard {how}");
                self.why = told(format!("{failed}: every process it started was killed"), failed);
            }
            Said::GivingBack => self.end_term(),
            Said::Over(Outcome::GaveUp(known)) => {
                self.why = Some(Why { full: messages::gave_up(lock, config, known), short: None });
                self.last_error = known.failure.as_ref().map(ToString::to_string);
            }
            Said::Over(Outcome::Failed(failure)) => self.why = Some(Why { full: failure.to_string(), short: None }),
            Said::Over(Outcome::NotReleased(Some(failure))) => self.last_error = Some(failure.to_string()),
            _ => {}
        }
    }

    fn not_started(&mut self, config: &Config, full: String) {
        self.why = Some(Why { full, short: Some(format!("{} was not started", config.program.display())) });
    }

    fn send(&mut self, signal: i32) {
        if self.is_started && !self.sent.contains(&signal) {
            self.sent.push(signal);
        }
    }

    fn end_term(&mut self) {
        if let Some(Err(since)) = self.led {
            self.led = Some(Ok(Instant::now().leader_since(since)));
        }
    }

    /// Says it, and returns it for [`write_termination_log`].
    pub fn say(self, lock: &dyn Lock, config: &Config, code: i32) -> String {
        let name = |signal: &i32| format!("SIG{}", signal::name(*signal));
        let now = Instant::now();
        let waited = now.leader_since(self.begun);
        let led = self.led.map(|led| led.unwrap_or_else(|since| now.leader_since(since)));
        let signals: Vec<_> = self.sent.iter().map(name).collect();
        let mut child = self.status.map(|status| match exit::signal_of(status) {
            Some(signal) => format!("the child died of {}", name(&signal)),
            None => format!("the child ended with {}", exit::of_child(status)),
        });
        let is_news = self.why.as_ref().is_some_and(|why| why.short.is_none());
        let why = self.why.unwrap_or_else(|| {
            let got = self.got.map(|signal| format!("got {}", name(&signal)));
            match (got, child.take()) {
                (Some(got), Some(child)) => Why { full: format!("{got}: {child}"), short: Some(child) },
                (Some(got), None) if led.is_some() => {
                    let before = "before the command was started";
                    Why { full: format!("{got} {before}"), short: Some(format!("stopped {before}")) }
                }
                (Some(got), None) => {
                    let waiting = format!("while waiting for {lock}, after {}", duration(waited));
                    Why { full: format!("{got} {waiting}"), short: Some(format!("stopped {waiting}")) }
                }
                (None, child) => Why { full: child.unwrap_or_else(|| "ended".into()), short: None },
            }
        });
        let place = if why.full.contains(&lock.to_string()) { String::new() } else { format!("{lock} ") };
        let last = self.last_error;
        let rest = [
            led.map(|led| format!("led {place}for {}", duration(led))),
            Some(format!("sent {}", signals.join(" and "))).filter(|_| !signals.is_empty()),
            child,
            last.as_ref().filter(|error| !why.full.contains(*error)).map(|error| format!("last error: {error}")),
            Some(format!("exit code {code}")),
        ];
        let rest = rest.into_iter().flatten().collect::<Vec<_>>().join("; ");
        let line = format!("{}; {rest}", why.full);
        if config.json {
            let seconds = |time: Duration| time.as_secs_f64();
            let (led, waited) = (led.map(seconds), led.is_none().then(|| seconds(waited)));
            let (lock, child) = (lock.to_string(), self.status.map(exit::of_child));
            let signals = Some(signals.join(" ")).filter(|signals| !signals.is_empty());
            macro_rules! say {
                ($level:ident) => {
                    $level!(
                        exitCode = code,
                        lock,
                        ledSeconds = led,
                        waitedSeconds = waited,
                        signals,
                        childExitCode = child,
                        lastError = last,
                        "{line}"
                    )
                };
            }
            if is_news { say!(error) } else { say!(info) }
        } else {
            let short = why.short.unwrap_or(why.full);
            if is_news { error!("{short}; {rest}") } else { info!("{short}; {rest}") }
        }
        line
    }
}

/// Leaves this in the container's termination log, where there is one: `kubectl describe pod` shows it. After what
/// the child may have left there.
pub fn write_termination_log(line: &str) {
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOFOLLOW;
    let opened = OpenOptions::new().append(true).custom_flags(flags).open(TERMINATION_LOG);
    if let Ok(mut log) = opened
        && log.metadata().is_ok_and(|log| log.is_file())
    {
        let mut text = format!("leader-run: {line}");
        text.truncate(text.floor_char_boundary(LONGEST - 1));
        text.push('\n');
        let _ = log.write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::FileLock;
    use crate::cli::Cli;
    use crate::config::Timing;
    use crate::lock::request::Failure;
    use clap::Parser;

    #[test]
    fn a_loss_is_told_with_its_last_error_and_what_was_done() {
        let options = Cli::parse_from(["leader-run", "--lock", "file", "--", "true"]).options;
        let timing = Timing::new(&options).unwrap();
        let config = Config::new(options, timing).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let lock = FileLock::new(Some(folder.path()), "ops".into(), "cronworker".into()).unwrap();
        let failure = |text: &str| Failure::Unclear(text.into());
        let mut closing = Closing::new();
        for said in [
            Said::Notice(Notice::Failing(failure("500 at first"))),
            Said::Tree(FromGuard::Started(1, 4711)),
            Said::Tree(FromGuard::Expired(1)),
            Said::Lost(Loss::Deadline(Some(failure("503 Service Unavailable")))),
            Said::Tree(FromGuard::Killing(1)),
            Said::Tree(FromGuard::Exited(1, 9)),
        ] {
            closing.note(&lock, &config, &said);
        }
        assert_eq!(closing.last_error.as_deref(), Some("503 Service Unavailable"));
        let line = closing.say(&lock, &config, 75);
        let wanted = "lost file lock ops/cronworker: renew deadline 10s passed, last error: 503 Service Unavailable; \
                      sent SIGTERM and SIGKILL; the child died of SIGKILL; exit code 75";
        assert_eq!(line, wanted);
    }
}
