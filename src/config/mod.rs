//! What the flags mean once checked: timings that satisfy the inequality, a valid lock name.

mod names;
mod timing;

pub use timing::Timing;

use crate::backend::kubeconfig::Source;
use crate::backend::{self, PodLabel, valid_name};
use crate::cli::{OnLost, Options};
use crate::election::elector;
use crate::exit::{self, Refusal};
use crate::lock::record::Record;
use crate::log::Format;
use crate::process::command::{self, Missing};
use crate::state_file::StateFile;
use names::{name_of, own_identity, pod_label, random};
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes. The API server sets no limit, but everybody who shows an identity does.
const LONGEST_IDENTITY: usize = 253;

/// All that a run needs to know.
#[derive(Debug)]
pub struct Config {
    /// Which lock, and where.
    pub lock: backend::Options,
    /// Who we are.
    pub identity: String,
    /// Take over a lock that our identity holds.
    pub resume: bool,
    /// When what happens.
    pub timing: Timing,
    /// What asks the child to stop.
    pub stop_signal: i32,
    /// What asks us to give up leadership and to contend again.
    pub step_down_signal: Option<i32>,
    /// Contend again after a loss.
    pub rejoin: bool,
    /// When the child has ended, wait for its descendants.
    pub wait_all: bool,
    /// Run the tree in a PID namespace of its own.
    pub pid_namespace: bool,
    /// The exit code after a loss.
    pub lost_exit_code: i32,
    /// The guard gives back the lock of a leader-run that has died.
    pub crash_release: bool,
    /// All that is to be done is that: give back the lock of the term with this record, in this time.
    pub release: Option<(Record, Duration)>,
    /// Leave events at the lock.
    pub events: bool,
    /// Messages are JSON.
    pub json: bool,
    /// Says whether we lead, and until when.
    pub state_file: Option<StateFile>,
    /// Where health, leader and metrics are told.
    pub http: Option<SocketAddr>,
    /// Put on our own pod while we lead.
    pub pod_label: Option<PodLabel>,
    /// Run for each leader seen.
    pub on_new_leader: Option<Callback>,
    /// Run after each term of ours.
    pub on_stopped_leading: Option<Callback>,
    /// The file to execute.
    pub program: PathBuf,
    /// The command and its arguments, as typed.
    pub command: Vec<OsString>,
}

impl Config {
    /// Checks the command line.
    ///
    /// # Errors
    /// One line about what is wrong with it; the code says whether COMMAND itself is.
    pub fn new(options: Options, timing: Timing) -> Result<Config, Refusal> {
        if options.command.is_empty() {
            return Err(Refusal::new("no command: give it after --, as in: leader-run --ns ops -- ./cronworker"));
        }
        let lock = lock_options(&options)?;
        let Options { identity, resume, child, reports, command, .. } = options;
        let unfit = |id: &String| id.is_empty() || id.len() > LONGEST_IDENTITY || id.chars().any(char::is_control);
        if identity.as_ref().is_some_and(unfit) {
            return Err(Refusal::new(format!(
                "--identity must have 1 to {LONGEST_IDENTITY} bytes and no control characters"
            )));
        }
        let program = program(&command[0])?;
        let callback = |option, command: Option<String>| command.map(|text| Callback::new(option, &text)).transpose();
        let on_new_leader = callback("--on-new-leader", reports.on_new_leader)?;
        let on_stopped_leading = callback("--on-stopped-leading", reports.on_stopped_leading)?;
        let state_file = reports.state_file.map(|path| StateFile::new(&path, random()?)).transpose()?;
        let pod_label = reports.pod_label.map(|text| pod_label(&text, lock.kind)).transpose()?;
        let release = child.crash_release.map(|text| {
            let (millis, record) =
                text.split_once(':').and_then(|(left, record)| Some((left.parse().ok()?, record)))?;
            Some((Record::from_annotation(record), Duration::from_millis(millis)))
                .filter(|(record, _)| !record.is_free())
        });
        let release = release.map(|release| release.ok_or_else(|| Refusal::new("--crash-release is for the guard")));
        let release = release.transpose()?;
        let identity = match identity {
            Some(identity) => identity,
            None => own_identity()?,
        };
        Ok(Config {
            lock,
            identity,
            resume,
            timing,
            stop_signal: child.stop_signal,
            step_down_signal: child.step_down_signal,
            rejoin: child.on_lost == OnLost::Rejoin,
            wait_all: child.wait_all,
            pid_namespace: child.pid_namespace,
            lost_exit_code: child.lost_exit_code.into(),
            crash_release: !child.no_crash_release,
            release,
            events: reports.events && !reports.no_events,
            json: reports.log_format == Format::Json,
            state_file,
            http: reports.http,
            pod_label,
            on_new_leader,
            on_stopped_leading,
            program,
            command,
        })
    }

    /// How the elections are run.
    ///
    /// # Errors
    /// When the system has no random numbers to give.
    pub fn election(&self) -> Result<elector::Settings, Refusal> {
        let timing = &self.timing;
        Ok(elector::Settings {
            identity: self.identity.clone(),
            lease_duration: timing.lease_duration,
            renew_deadline: timing.renew_deadline,
            retry_period: timing.retry_period,
            request_timeout: timing.request_timeout,
            wait: timing.wait,
            precision: self.lock.kind.precision,
            resume: self.resume,
            complete_watch: self.lock.kind.has_complete_watch(),
            seed: random()?,
        })
    }
}

/// Which lock it is, and how to reach it.
///
/// # Errors
/// One line about what is wrong with its name or its namespace.
pub fn lock_options(options: &Options) -> Result<backend::Options, Refusal> {
    let (place, kubernetes) = (&options.place, &options.kubernetes);
    let name = match (&place.name, options.command.first()) {
        (Some(name), _) => {
            valid_name(name, 253, true).map_err(|why| Refusal::new(format!("--name {name:?} {why}")))?;
            name.clone()
        }
        (None, Some(command)) => name_of(command)?,
        (None, None) => {
            return Err(Refusal::new("which lock? Give --name, or after -- the command that it is named after"));
        }
    };
    if let Some(namespace) = &place.namespace {
        valid_name(namespace, 63, false).map_err(|why| Refusal::new(format!("--namespace {namespace:?} {why}")))?;
    }
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    Ok(backend::Options {
        kind: place.lock,
        namespace: place.namespace.clone(),
        name,
        folder: place.lock_dir.clone(),
        source: Source {
            kubeconfig: kubernetes.kubeconfig.clone(),
            context: given(&kubernetes.context),
            impersonate: given(&kubernetes.impersonate),
        },
    })
}

/// The file that this command is.
///
/// # Errors
/// One line, and the code that says whether it is not there or cannot be executed.
pub fn program(command: &OsStr) -> Result<PathBuf, Refusal> {
    command::look_up(command).map_err(|missing| {
        let shown = Path::new(command).display();
        match missing {
            Missing::NotFound => Refusal { code: exit::NOT_FOUND, message: format!("{shown}: command not found") },
            Missing::NotExecutable => {
                Refusal { code: exit::NOT_EXECUTABLE, message: format!("{shown}: cannot be executed") }
            }
        }
    })
}

/// A command of the user's that is run when something happens.
#[derive(Clone, Debug)]
pub struct Callback {
    /// The option that names it.
    pub option: &'static str,
    /// The file to execute.
    pub program: PathBuf,
    /// The command and its arguments.
    pub words: Vec<String>,
}

impl Callback {
    fn new(option: &'static str, text: &str) -> Result<Callback, Refusal> {
        let words = shlex::split(text).ok_or_else(|| Refusal::new(format!("{option} {text:?} has an open quote")))?;
        let Some(command) = words.first() else {
            return Err(Refusal::new(format!("{option} is empty: give it a command")));
        };
        let program = command::look_up(command.as_ref()).map_err(|missing| {
            let how = match missing {
                Missing::NotFound => "command not found (it is no shell command; for one, give sh -c '...')",
                Missing::NotExecutable => "cannot be executed",
            };
            Refusal::new(format!("{option}: {command}: {how}"))
        })?;
        Ok(Callback { option, program, words })
    }
}

#[cfg(test)]
mod tests {
    use super::timing::SECOND;
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn timing(args: &[&str]) -> Result<Timing, String> {
        let cli = Cli::try_parse_from([&["leader-run"], args].concat()).map_err(|e| e.to_string())?;
        Timing::new(&cli.options).map_err(|e| e.message)
    }

    fn millis(timing: &Timing) -> [u128; 4] {
        let Timing { lease_duration, renew_deadline, retry_period, loss_grace, .. } = timing;
        [lease_duration, renew_deadline, retry_period, loss_grace].map(Duration::as_millis)
    }

    #[test]
    fn v1_defaults_and_what_follows_from_the_lease_duration() {
        assert_eq!(millis(&timing(&[]).unwrap()), [15_000, 10_000, 2_000, 3_500]);
        assert_eq!(millis(&timing(&["--lease-duration", "30s"]).unwrap()), [30_000, 20_000, 2_000, 7_000]);
        assert_eq!(millis(&timing(&["--lease-duration", "3s"]).unwrap()), [3_000, 1_600, 1_000, 400]);
        assert_eq!(millis(&timing(&["--lease-duration", "6s"]).unwrap()), [6_000, 4_000, 1_000, 1_000]);
        assert_eq!(timing(&[]).unwrap().request_timeout, SECOND * 5);
        assert_eq!(timing(&["--request-timeout", "1m"]).unwrap().request_timeout, SECOND * 5);
        assert_eq!(timing(&["--request-timeout", "2s"]).unwrap().request_timeout, SECOND * 2);
    }

    #[test]
    fn kube_components_spell_six_options_their_own_way() {
        let theirs = ["lease-duration", "renew-deadline", "retry-period"].map(|name| format!("--leader-elect-{name}"));
        let given: Vec<_> =
            theirs.iter().zip(["30s", "18s", "3s"]).flat_map(|(name, value)| [&**name, value]).collect();
        assert_eq!(millis(&timing(&given).unwrap())[..3], [30_000, 18_000, 3_000]);
        let place =
            ["lock=endpoints", "name=job", "namespace=ops"].map(|option| format!("--leader-elect-resource-{option}"));
        let place = Cli::try_parse_from(["leader-run".to_owned()].into_iter().chain(place)).unwrap().options.place;
        assert_eq!(
            (place.lock.name, place.name, place.namespace),
            ("endpoints", Some("job".into()), Some("ops".into()))
        );
    }

    #[test]
    fn v1_every_broken_rule_is_named() {
        for (args, word) in [
            (&["--lease-duration", "2s"][..], "3s to 1h"),
            (&["--lease-duration", "2h"], "3s to 1h"),
            (&["--lease-duration", "5500ms"], "whole seconds"),
            (&["--retry-period", "900ms"], "at least 1s"),
            (&["--renew-deadline", "13500ms"], "less than 13s 500ms"),
            (&["--renew-deadline", "20s"], "less than"),
            (&["--renew-deadline", "2400ms"], "1.2 retry periods"),
            (&["--lease-duration", "5s", "--retry-period", "4s"], "--retry-period 4s is too long"),
            (&["--lease-duration", "3s", "--retry-period", "1700ms"], "must be less than 2s"),
            (&["--loss-grace", "3501ms"], "at most 3s 500ms"),
            (&["--request-timeout", "0s"], "more than 0s"),
        ] {
            let error = timing(args).unwrap_err();
            assert!(error.contains(word) && !error.contains('\n'), "{args:?}: {error}");
        }
        assert!(timing(&["--lease-duration", "60s", "--renew-deadline", "30s", "--loss-grace", "0s"]).is_ok());
    }

    #[test]
    fn the_tolerated_ratio_of_clock_rates_is_said() {
        let timing = timing(&["--lease-duration", "60s", "--renew-deadline", "30s", "--loss-grace", "0s"]).unwrap();
        assert!(timing.meaning().contains("up to 2.00 times"), "{}", timing.meaning());
    }

    #[test]
    fn names() {
        for good in ["cronworker", "a", "cron.sh", "a-b.c-1"] {
            assert_eq!(name_of(OsStr::new(&format!("./{good}"))).unwrap(), good);
        }
        for shell in ["sh", "/bin/bash", "python3", "python3.11", "env", "node", "java", "/usr/bin/perl5.36"] {
            assert!(name_of(OsStr::new(shell)).unwrap_err().message.contains("--name"), "{shell}");
        }
        for odd in ["My_Job", "a..b", "-a", "a-", ".a", &"x".repeat(254)] {
            assert!(name_of(OsStr::new(odd)).unwrap_err().message.contains("--name"), "{odd}");
        }
        let label =
            |text| pod_label(text, backend::Type::named("lease").unwrap()).map(|label| (label.key, label.value));
        for (text, key, value) in [("a=b", "a", "b"), ("x.io/role=", "x.io/role", ""), ("A_b.c=1-2", "A_b.c", "1-2")] {
            assert_eq!(label(text).unwrap(), (key.to_owned(), value.to_owned()), "{text}");
        }
        for odd in
            ["", "a", "=b", "a=b=c", "a=-b", "a b=c", "X/a=b", "a/b/c=d", "/a=b", &format!("a={}", "x".repeat(64))]
        {
            assert!(label(odd).unwrap_err().message.contains("--pod-label"), "{odd}");
        }
        assert!(pod_label("a=b", backend::Type::named("file").unwrap()).unwrap_err().message.contains("no pods"));
        assert!(valid_name("ops", 63, false).is_ok());
        for odd in ["", "Ops", "a.b", &"x".repeat(64)] {
            assert!(valid_name(odd, 63, false).is_err(), "{odd}");
        }
    }
}
