//! The command line: nothing but flags, their help and their environment twins. `config.rs` says what
//! they mean.

// Its doc comments are the help text, where `<uid>` is no HTML and `[IP]` no link.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

mod error;
mod parse;
mod subcommands;

pub use subcommands::{Assert, Check, Output, Question, Status};

use crate::backend::{TYPES, Type};
use crate::exit::Refusal;
use crate::log::Format;
use crate::process::signal;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, ValueHint};
use error::{one_line, source};
use parse::{
    duration, http_address, lock_type, log_format, on_lost, one_of, signal_number, step_down_signal, step_down_signals,
};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What follows a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLost {
    /// Leave with the lost code.
    Exit,
    /// Contend again.
    Rejoin,
}

/// Runs COMMAND only while holding a Kubernetes lock: at most one COMMAND process tree is alive across all
/// contenders of that lock.
#[derive(Debug, Parser)]
#[command(
    name = "leader-run",
    version,
    override_usage = "leader-run [OPTIONS] -- COMMAND [ARG]...\n       leader-run QUESTION [OPTIONS]",
    subcommand_help_heading = "Questions",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    disable_help_flag = true,
    next_line_help = false,
    max_term_width = 100
)]
pub struct Cli {
    /// How a command is run
    #[command(flatten)]
    pub options: Options,

    /// Print this help, with what the values given mean
    // A plain flag, so that the other options are read as well.
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub help: bool,

    /// What is asked instead of running a command.
    #[command(subcommand)]
    pub question: Option<Question>,
}

/// All options of a run.
#[derive(Args, Debug)]
pub struct Options {
    /// The lock.
    #[command(flatten)]
    pub place: Place,

    /// Who we are; must be unique [default: POD_NAME or host name, and a random part]
    #[arg(long, value_name = "ID", env = "LEADER_RUN_IDENTITY", help_heading = "Lock", hide_env = true)]
    pub identity: Option<String>,

    /// Take over at once a lock that our own identity already holds; only where something else guarantees
    /// that the earlier process tree is dead (a container restart)
    #[arg(long, env = "LEADER_RUN_RESUME", help_heading = "Lock", hide_env = true)]
    pub resume: bool,

    /// When what happens.
    #[command(flatten)]
    pub time: Time,

    /// What happens to the child.
    #[command(flatten)]
    pub child: Child,

    /// How to reach the API server.
    #[command(flatten)]
    pub kubernetes: Kubernetes,

    /// What the outside sees.
    #[command(flatten)]
    pub reports: Reports,

    /// The command, and its arguments, untouched; no shell
    #[arg(last = true, value_name = "COMMAND", hide = true)]
    pub command: Vec<OsString>,
}

/// Where the lock lives.
#[derive(Args, Debug)]
pub struct Place {
    /// Where the lock lives: lease (a Kubernetes Lease), configmap or endpoints (older locks), configmapsleases or
    /// endpointsleases (both at once, on the way to leases), file (this machine, no cluster)
    #[arg(
        long,
        alias = "leader-elect-resource-lock",
        value_name = "TYPE",
        env = "LEADER_RUN_LOCK",
        default_value = "lease"
    )]
    #[arg(value_parser = one_of(TYPES.each_ref().map(|kind| kind.name), lock_type), hide_possible_values = true)]
    #[arg(help_heading = "Lock", hide_env = true)]
    pub lock: &'static Type,

    /// Namespace of the lock [default: the kubeconfig context's, else the service account's; file: default]
    #[arg(
        short,
        long,
        alias = "leader-elect-resource-namespace",
        visible_alias = "ns",
        value_name = "NS",
        env = "LEADER_RUN_NAMESPACE"
    )]
    #[arg(help_heading = "Lock", hide_env = true)]
    pub namespace: Option<String>,

    /// Name of the lock [default: COMMAND's base name]
    #[arg(
        long,
        alias = "leader-elect-resource-name",
        value_name = "NAME",
        env = "LEADER_RUN_NAME",
        help_heading = "Lock",
        hide_env = true
    )]
    pub name: Option<String>,

    /// Where --lock file keeps its records [default: /tmp/leader-run-<uid>]
    #[arg(long, value_name = "DIR", env = "LEADER_RUN_LOCK_DIR", value_hint = ValueHint::DirPath)]
    #[arg(help_heading = "Lock", hide_env = true)]
    pub lock_dir: Option<PathBuf>,
}

/// When what happens.
#[derive(Args, Debug)]
pub struct Time {
    /// How long a lock is valid after its last renewal (3s to 1h, whole seconds)
    #[arg(long, alias = "leader-elect-lease-duration", value_name = "DUR", env = "LEADER_RUN_LEASE_DURATION", default_value = "15s", value_parser = duration)]
    #[arg(help_heading = "Time", hide_env = true, allow_hyphen_values = true)]
    pub lease_duration: Duration,

    /// The child is asked to stop when the lock could not be renewed for so long [default: 2/3 of the lease
    /// duration]
    #[arg(long, alias = "leader-elect-renew-deadline", value_name = "DUR", env = "LEADER_RUN_RENEW_DEADLINE", value_parser = duration)]
    #[arg(help_heading = "Time", hide_env = true, allow_hyphen_values = true)]
    pub renew_deadline: Option<Duration>,

    /// How often the lock is renewed [default: 2/15 of the lease duration, between 1s and 2s]
    #[arg(long, alias = "leader-elect-retry-period", value_name = "DUR", env = "LEADER_RUN_RETRY_PERIOD", value_parser = duration)]
    #[arg(help_heading = "Time", hide_env = true, allow_hyphen_values = true)]
    pub retry_period: Option<Duration>,

    /// Give up when not leading after so long; 0s tries once [default: wait forever]
    #[arg(short, long, value_name = "DUR", env = "LEADER_RUN_WAIT", value_parser = duration)]
    #[arg(help_heading = "Time", hide_env = true, allow_hyphen_values = true)]
    pub wait: Option<Duration>,
}

/// What happens to the child.
#[derive(Args, Debug)]
pub struct Child {
    /// The signal that asks the child to stop
    #[arg(short, long, value_name = "SIG", env = "LEADER_RUN_STOP_SIGNAL", default_value = "TERM")]
    #[arg(value_parser = one_of(signal::names(), signal_number), hide_possible_values = true)]
    #[arg(help_heading = "Child", hide_env = true)]
    pub stop_signal: i32,

    /// After a requested stop, how long until the child is killed; the lock is renewed all the while
    #[arg(long, value_name = "DUR", env = "LEADER_RUN_STOP_GRACE", default_value = "25s", value_parser = duration)]
    #[arg(help_heading = "Child", hide_env = true, allow_hyphen_values = true)]
    pub stop_grace: Duration,

    /// After the loss of the lock, how long until the child is killed; 0s: at once [default: as long as is
    /// safe]
    #[arg(long, value_name = "DUR", env = "LEADER_RUN_LOSS_GRACE", value_parser = duration)]
    #[arg(help_heading = "Child", hide_env = true, allow_hyphen_values = true)]
    pub loss_grace: Option<Duration>,

    /// When the child has exited, wait for its descendants instead of stopping them
    #[arg(long, env = "LEADER_RUN_WAIT_ALL", help_heading = "Child", hide_env = true)]
    pub wait_all: bool,

    /// Run the child and its descendants in a PID namespace of their own, with which all of them die; needs the
    /// rights of root (CAP_SYS_ADMIN)
    #[arg(long, env = "LEADER_RUN_PID_NAMESPACE", help_heading = "Child", hide_env = true)]
    pub pid_namespace: bool,

    /// When leader-run is killed, leave the lock to expire, rather than have the guard give it back when the child's
    /// processes are gone
    #[arg(long, env = "LEADER_RUN_NO_CRASH_RELEASE", help_heading = "Child", hide_env = true)]
    pub no_crash_release: bool,

    /// What the guard runs leader-run with, to give back a lock: in so many milliseconds, of the term with this record
    #[arg(long, value_name = "MILLIS:RECORD", hide = true)]
    pub crash_release: Option<String>,

    /// After the loss of the lock: exit with the lost code, or rejoin (contend again)
    #[arg(long, value_name = "exit|rejoin", env = "LEADER_RUN_ON_LOST", default_value = "exit")]
    #[arg(value_parser = one_of(["exit", "rejoin"], on_lost), hide_possible_values = true)]
    #[arg(help_heading = "Child", hide_env = true)]
    pub on_lost: OnLost,

    /// Exit code when the lock was lost
    #[arg(long, value_name = "N", env = "LEADER_RUN_LOST_EXIT_CODE", default_value_t = 75)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..), help_heading = "Child", hide_env = true)]
    pub lost_exit_code: u8,

    /// The signal that makes a leader stop the child, give the lock back and contend again after the retry
    /// period [default: none]
    #[arg(long, value_name = "SIG", env = "LEADER_RUN_STEP_DOWN_SIGNAL")]
    #[arg(value_parser = one_of(step_down_signals(), step_down_signal), hide_possible_values = true)]
    #[arg(help_heading = "Child", hide_env = true)]
    pub step_down_signal: Option<i32>,
}

/// How to reach the API server.
#[derive(Args, Debug)]
pub struct Kubernetes {
    /// Kubeconfig file [default: KUBECONFIG, else in-cluster, else ~/.kube/config]
    #[arg(long, value_name = "FILE", env = "LEADER_RUN_KUBECONFIG", value_hint = ValueHint::FilePath)]
    #[arg(help_heading = "Kubernetes", hide_env = true)]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig [default: its current-context]
    #[arg(long, value_name = "NAME", env = "LEADER_RUN_CONTEXT", help_heading = "Kubernetes", hide_env = true)]
    pub context: Option<String>,

    /// Do all this as another user, where the Role allows to impersonate it [default: the kubeconfig's]
    #[arg(long = "as", value_name = "USER", env = "LEADER_RUN_AS", help_heading = "Kubernetes", hide_env = true)]
    pub impersonate: Option<String>,

    /// How long one request may take; can only lower it [default: half the renew deadline, 1s to 10s]
    #[arg(long, value_name = "DUR", env = "LEADER_RUN_REQUEST_TIMEOUT", value_parser = duration)]
    #[arg(help_heading = "Kubernetes", hide_env = true, allow_hyphen_values = true)]
    pub request_timeout: Option<Duration>,
}

/// What the outside sees.
#[derive(Args, Debug)]
pub struct Reports {
    /// Tell of each change of leader in Kubernetes Events at the lock, where the Role allows it; on by default
    #[arg(long, env = "LEADER_RUN_EVENTS", action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(
        default_value_t = true,
        default_missing_value = "true",
        hide_default_value = true,
        hide_possible_values = true
    )]
    #[arg(value_name = "BOOL", help_heading = "Reports", hide_env = true)]
    pub events: bool,

    /// Leave no events
    #[arg(long, env = "LEADER_RUN_NO_EVENTS", help_heading = "Reports", hide_env = true)]
    pub no_events: bool,

    /// Answer over HTTP at this address: /livez, /readyz, /leader and /metrics. PORT: on the loopback; :PORT: on all
    /// addresses; IP:PORT, [IP]:PORT [default: off]
    #[arg(long, value_name = "ADDR", env = "LEADER_RUN_HTTP", value_parser = http_address)]
    #[arg(help_heading = "Reports", hide_env = true)]
    pub http: Option<SocketAddr>,

    /// Put this label on our own pod (POD_NAME, else the host name) while we lead, so that a Service can select the
    /// leader [default: none]
    #[arg(long, value_name = "KEY=VALUE", env = "LEADER_RUN_POD_LABEL", help_heading = "Reports", hide_env = true)]
    pub pod_label: Option<String>,

    /// Run CMD for each leader seen, ours and others', with its identity in LEADER_ELECTION_LEADER (empty: none);
    /// split into words, no shell, 30s at most
    #[arg(long, value_name = "CMD", env = "LEADER_RUN_ON_NEW_LEADER", value_hint = ValueHint::CommandString)]
    #[arg(help_heading = "Reports", hide_env = true)]
    pub on_new_leader: Option<String>,

    /// Run CMD after each term of ours, when its processes are gone and the lock is given back, with the reason in
    /// LEADER_ELECTION_REASON: exited, stopped, stepped-down, lost or failed
    #[arg(long, value_name = "CMD", env = "LEADER_RUN_ON_STOPPED_LEADING", value_hint = ValueHint::CommandString)]
    #[arg(help_heading = "Reports", hide_env = true)]
    pub on_stopped_leading: Option<String>,

    /// Keep a file that says whether we lead, and until when; for `leader-run assert` in the child or a script
    #[arg(long, value_name = "PATH", env = "LEADER_RUN_STATE_FILE", help_heading = "Reports", hide_env = true)]
    pub state_file: Option<PathBuf>,

    /// Messages on standard error as text or json
    #[arg(long, value_name = "FORMAT", env = "LEADER_RUN_LOG_FORMAT", default_value = "text")]
    #[arg(value_parser = one_of(["text", "json"], log_format), hide_possible_values = true)]
    #[arg(help_heading = "Reports", hide_env = true)]
    pub log_format: Format,

    /// Say more
    #[arg(short, long, env = "LEADER_RUN_VERBOSE", help_heading = "Reports", hide_env = true)]
    pub verbose: bool,

    /// Say only what is an error
    #[arg(short, long, env = "LEADER_RUN_QUIET", help_heading = "Reports", hide_env = true)]
    pub quiet: bool,
}

impl Cli {
    /// Reads the command line and the environment. `None`: what was asked for has been printed (the version, or the
    /// help of a question).
    ///
    /// # Errors
    /// One line about what is wrong with them.
    pub fn read() -> Result<Option<Cli>, Refusal> {
        let read = Self::command().try_get_matches().and_then(|matches| {
            let mut cli = Self::from_arg_matches(&matches)?;
            let (options, matches) = match (&mut cli.question, matches.subcommand()) {
                (Some(Question::Check(check)), Some((_, matches))) => (&mut check.options, matches),
                _ => (&mut cli.options, &matches),
            };
            // Of two that undo each other the last one counts, and the environment for less than any.
            let place = |id| {
                let given = matches.value_source(id) == Some(ValueSource::CommandLine);
                given.then(|| matches.index_of(id)).flatten()
            };
            options.reports.no_events &= place("no_events") >= place("events");
            Ok(cli)
        });
        match read {
            Ok(cli) => Ok(Some(cli)),
            Err(error) if matches!(error.kind(), ErrorKind::DisplayVersion | ErrorKind::DisplayHelp) => {
                let _ = error.print();
                Ok(None)
            }
            Err(error) => Err(Refusal::new(format!("{}{}", one_line(&error), source(&error)))),
        }
    }

    /// The help, followed by what these values mean.
    pub fn help(meaning: &str) -> String {
        let more = format!("{meaning}\n{ABOUT_EXIT}\n{ABOUT_ENVIRONMENT}\n{EXAMPLES}");
        Self::command().after_help(more).render_help().to_string()
    }
}

/// What follows the options in the help, and is in the manual too: a heading, then indented paragraphs and rows of
/// two columns.
pub const ABOUT_EXIT: &str = "\
Exit codes:
  the child's  it exited by itself, or after a requested stop (128+N: it died of signal N)
  75           the lock was lost (--lost-exit-code), unless --on-lost rejoin
  124          not leading within --wait
  125          leader-run's own failure: usage, settings, no cluster, permission
  126, 127     COMMAND can't be executed, isn't found
  128+N        signal N ended leader-run before it led
";

/// As [`ABOUT_EXIT`].
pub const ABOUT_ENVIRONMENT: &str = "\
Environment:
  Every option can be given as LEADER_RUN_<OPTION>, such as LEADER_RUN_LEASE_DURATION=30s or
  LEADER_RUN_RESUME=true; an option beats the environment. The child finds LEADER_ELECTION_IDENTITY,
  _LOCK, _NAMESPACE, _NAME, _TRANSITIONS, with --state-file _STATE_FILE, and
  LEADER_ELECTION_FENCING_TOKEN, a number that grows with every change of leader, in its environment.
";

/// As [`ABOUT_EXIT`].
pub const EXAMPLES: &str = "\
Examples:
  leader-run --lock lease --ns ops -- ./cronworker
  leader-run --lock file --name demo -- sh -c 'echo \"token $LEADER_ELECTION_FENCING_TOKEN\"'
  leader-run --ns ops --name migrate --wait 5m -- ./migrate --all
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_has_its_environment_twin() {
        let command = Cli::command();
        let visible = |arg: &&clap::Arg| arg.get_id() != "help" && !arg.is_hide_set();
        let twin = |arg: &clap::Arg| arg.get_env().and_then(|env| env.to_str()).map(str::to_owned);
        for arg in command.get_arguments().filter(visible) {
            let long = arg.get_long().unwrap();
            assert_eq!(twin(arg), Some(format!("LEADER_RUN_{}", long.to_uppercase().replace('-', "_"))));
        }
        // A question's own options have none, those that it shares have the same.
        for arg in command.get_subcommands().flat_map(|question| question.get_arguments().filter(visible)) {
            let shared = command.get_arguments().find(|own| own.get_id() == arg.get_id());
            assert_eq!(twin(arg), shared.and_then(twin), "{arg}");
        }
    }

    #[test]
    fn http_addresses() {
        for (text, address) in [
            ("8080", "127.0.0.1:8080"),
            (":8080", "[::]:8080"),
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:8080", "[::1]:8080"),
        ] {
            assert_eq!(http_address(text), Ok(address.parse().unwrap()), "{text}");
        }
        for odd in ["", ":", "+80", ":+80", "65536", "localhost:8080", "127.0.0.1", "::1:8080", "http://:80", "on"] {
            assert!(http_address(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [("15s", 15_000), ("1m30s", 90_000), ("500ms", 500), ("1h", 3_600_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert!(duration("15").unwrap_err().contains("did you mean 15s?"));
        assert!(duration("-5s").unwrap_err().contains("negative"));
        for odd in ["", "s", "15x", "99999999999999999999y", "1s 2", "soon"] {
            assert!(duration(odd).is_err(), "{odd}");
        }
    }
}
