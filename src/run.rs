//! The one loop that joins a contender to the world: answers, changes, signals and ticks in, actions out.

use crate::backend::{self, Answer, Changes, Lock, Opened};
use crate::clock::Now;
use crate::config::Config;
use crate::election::contender::{Action, Contender, Event, Settings};
use crate::exit::{self, Refusal};
use crate::guard::Guard;
use crate::lock::request::{Change, Failure, Reply, Request};
use crate::log;
use crate::process::signal::{Blocked, Signals};
use crate::process::tree::{self, KILL_ROUND, Walker};
use crate::report::metrics::{Metrics, News};
use crate::report::{Reports, http, write_termination_log};
use crate::state_file;
use crate::sys;
use crate::text::duration;
use crate::timer::Alarm;
use futures_util::StreamExt;
use futures_util::future::OptionFuture;
use nix::libc::{SIGINT, SIGTERM};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tracing::{debug, error};

/// After this nothing is as it is at the start.
const STARTED: Duration = Duration::from_secs(1);

/// Opens the lock, contends for it, runs the child while leading, and returns the exit code.
///
/// # Errors
/// When the lock cannot be opened, or the system does not give what a run needs.
pub async fn run(config: &Config, guard: Guard, signals: &Blocked) -> Result<i32, Refusal> {
    let now = Now::read();
    let mask = signals.before;
    let signals = &Signals::open(signals)?;
    let metrics = || Metrics::new(config.lock.name.clone(), config.identity.clone(), config.timing.lease_duration);
    let feed = config.http.map(|address| http::start(address, metrics())).transpose()?;
    debug!("reading the configuration");
    let code = tokio::select! {
        opened = backend::open(&config.lock) => Err(opened?),
        signal = stop_signal(signals) => Ok(exit::by_signal(signal)),
        wait = waited(config) => {
            error!("not leading after {}: the credentials for the cluster did not come in time", duration(wait));
            Ok(exit::NOT_LEADING)
        }
    };
    let Opened { lock, namespace, events } = match code {
        Err(opened) => opened,
        Ok(code) => {
            guard.dismiss();
            return Ok(code);
        }
    };
    debug!("contending for {lock} as {}", crate::text::shown(&config.identity));
    let settings = settings(config, &namespace)?;
    let mut run = Run {
        lock: &*lock,
        reports: Reports::new(config, &*lock, events, &namespace, &settings.env, mask, feed)?,
        guard,
        signals,
        alarm: Alarm::new()?,
        request: None,
        watch: None,
        guard_lives: true,
        killing: None,
    };
    run.reports.feed(|| News::Opened(lock.to_string()));
    // While the first answer is on its way.
    tokio::spawn(async { log::warm_up() });
    let mut contender = Contender::new(settings, now);
    let mut event = Event::Tick;
    let mut settled = false;
    loop {
        if !settled && Now::read().at.standby_since(now.at) > STARTED {
            settled = true;
            sys::let_go_of_the_program();
        }
        for action in contender.step(Now::read(), event) {
            if let Some(code) = run.act(action) {
                let closing = run.reports.finish(code).await;
                match run.guard_lives {
                    true => run.guard.dismiss(),
                    false => tree::sweep(),
                }
                // A disk that hangs holds up nothing any more.
                write_termination_log(&closing);
                return Ok(code);
            }
        }
        event = run.next_event(&contender).await?;
    }
}

/// Waits for a signal that ends us before we lead.
async fn stop_signal(signals: &Signals) -> i32 {
    loop {
        let signal = signals.next().await;
        if [SIGTERM, SIGINT].contains(&signal) {
            return signal;
        }
    }
}

/// Waits until `--wait` is over; one of zero is for the elector, which tries once.
async fn waited(config: &Config) -> Duration {
    match config.timing.wait.filter(|wait| !wait.is_zero()) {
        Some(wait) => sleep(wait).await,
        None => std::future::pending().await,
    }
    config.timing.wait.unwrap_or_default()
}

fn settings(config: &Config, namespace: &str) -> Result<Settings, Refusal> {
    let timing = &config.timing;
    let mut env = vec![
        format!("LEADER_ELECTION_IDENTITY={}", config.identity),
        format!("LEADER_ELECTION_LOCK={}", config.lock.kind.name),
        format!("LEADER_ELECTION_NAMESPACE={namespace}"),
        format!("LEADER_ELECTION_NAME={}", config.lock.name),
    ];
    env.extend(config.state_file.iter().map(|file| format!("{}={}", state_file::VARIABLE, file.path().display())));
    Ok(Settings {
        election: config.election()?,
        loss_grace: timing.loss_grace,
        stop_grace: timing.stop_grace,
        stop_signal: config.stop_signal,
        step_down_signal: config.step_down_signal,
        rejoin: config.rejoin,
        lost_exit_code: config.lost_exit_code,
        env,
    })
}

struct Run<'a> {
    lock: &'a dyn Lock,
    reports: Reports<'a>,
    guard: Guard,
    signals: &'a Signals,
    alarm: Alarm,
    /// The request under way, by its number.
    request: Option<(u64, Answer<'a>)>,
    watch: Option<Changes<'a>>,
    guard_lives: bool,
    /// Kills what the guard has left, once it is gone.
    killing: Option<Walker>,
}

impl Run<'_> {
    /// Carries out one action; the exit code, if that was it.
    fn act(&mut self, action: Action) -> Option<i32> {
        match action {
            Action::Request(id, request, limit) => self.send(id, request, limit),
            Action::Cancel => self.request = None,
            Action::Watch(from) => self.watch = Some(self.lock.watch(from)),
            Action::Unwatch => self.watch = None,
            Action::Tell(message) => self.guard.send(&message),
            Action::KillAll => {
                (self.guard_lives, self.killing) = (false, Some(Walker::new()));
                self.guard.kill();
            }
            Action::Say(said) => self.reports.say(&said),
            Action::Exit(code) => return Some(code),
        }
        None
    }

    fn send(&mut self, id: u64, request: Request, limit: Duration) {
        debug!("request {id}: {} {}", request.verb(), self.lock);
        self.reports.feed(|| News::Sent(request.verb()));
        let before = OptionFuture::from(self.reports.before_release());
        let answer = self.lock.request(request);
        let limited = async move {
            before.await;
            timeout(limit, answer).await.unwrap_or(Err::<Reply, _>(Failure::Timeout))
        };
        self.request = Some((id, Box::pin(limited)));
    }

    /// Waits for whatever comes first.
    async fn next_event(&mut self, contender: &Contender) -> Result<Event, Refusal> {
        if self.killing.as_mut().is_some_and(Walker::kill_round) {
            self.killing = None;
            self.guard.take_terminal_back();
            return Ok(Event::Alone);
        }
        self.reports.waiting(|| contender.waiting());
        let now = Now::read();
        let wake = contender.wake(now);
        self.reports.feed(|| News::Due(wake.map(|wake| now.at.plus(wake))));
        self.alarm.set(now.at, wake)?;
        let request = async {
            match &mut self.request {
                Some((id, answer)) => (*id, answer.await),
                None => std::future::pending().await,
            }
        };
        let change = async {
            match &mut self.watch {
                Some(changes) => changes.next().await,
                None => std::future::pending().await,
            }
        };
        let said = async {
            match self.guard_lives {
                true => self.guard.receive().await,
                false => std::future::pending().await,
            }
        };
        let kill_round = async {
            match self.killing {
                Some(_) => sleep(KILL_ROUND).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // What the guard and the user say comes first: it may forbid the rest.
            biased;
            said = said => Ok(said.map_or(Event::GuardGone, Event::Guard)),
            signal = self.signals.next() => Ok(Event::Signal(signal)),
            (id, answer) = request => {
                self.request = None;
                self.reports.feed(|| News::Answered(answer.as_ref().map(drop).map_err(Failure::clone)));
                if let Err(failure) = &answer {
                    debug!("request {id}: {failure}");
                }
                Ok(Event::Answer(id, answer))
            }
            change = change => {
                let change = change.unwrap_or(Change::Ended(None));
                if matches!(change, Change::Ended(_)) {
                    self.watch = None;
                }
                Ok(Event::Change(change))
            }
            () = self.alarm.wait() => Ok(Event::Tick),
            () = kill_round => Ok(Event::Tick),
        }
    }
}
