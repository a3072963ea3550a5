//! The one loop that joins the elector, the lock and the child: results, changes, signals and ticks in,
//! actions out.

use crate::alarm::Alarm;
use crate::child::guard::{Deadlines, FromGuard, ToGuard};
use crate::child::signal::{self, Blocked, Signals};
use crate::child::{Guard, spawn};
use crate::clock::{Instant, Now};
use crate::config::Config;
use crate::elector::{Action, Elector, Event, Leadership, Loss, Outcome, Settings};
use crate::exit::{self, Refusal};
use crate::lock::{self, Answer, Changes, Lock};
use crate::report::{duration, shown, words};
use crate::store::{Change, Failure, Reply, Request};
use futures_util::StreamExt;
use nix::errno::Errno;
use nix::libc::{SIGINT, SIGTERM};
use std::path::Path;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

/// How late the guard may be before leader-run does its work.
const GUARD_LATENESS: Duration = Duration::from_millis(200);

/// Opens the lock, contends for it, runs the child while leading, and returns the exit code.
///
/// # Errors
/// When the lock cannot be opened, or the system does not give what a run needs.
pub async fn run(config: &Config, guard: Guard, signals: &Blocked) -> Result<i32, Refusal> {
    let now = Now::read();
    let signals = Signals::open(signals)?;
    debug!("reading the configuration");
    let code = tokio::select! {
        opened = lock::open(&config.lock) => Err(opened?),
        signal = stop_signal(&signals) => Ok(exit::by_signal(signal)),
        wait = waited(config) => {
            error!("not leading after {}: the credentials for the cluster did not come in time", duration(wait));
            Ok(exit::NOT_LEADING)
        }
    };
    let (lock, namespace) = match code {
        Err(opened) => opened,
        Ok(code) => {
            // With the program, if there is one, that should have brought the credentials.
            guard.kill_everything();
            return Ok(code);
        }
    };
    let mut run = Run {
        elector: Elector::new(settings(config)?, now),
        alarm: Alarm::new()?,
        request: None,
        watch: None,
        term: None,
        guard_alive: true,
        overdue: None,
        stop: None,
        code: None,
        config,
        lock: &*lock,
        namespace: &namespace,
        guard,
        signals,
    };
    debug!("contending for {lock} as {}", shown(&config.identity));
    let mut event = Event::Tick;
    loop {
        run.step(event);
        if let Some(code) = run.code {
            if run.guard_alive {
                run.guard.dismiss();
            }
            return Ok(code);
        }
        event = run.next_event().await?;
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

fn settings(config: &Config) -> Result<Settings, Refusal> {
    let timing = &config.timing;
    Ok(Settings {
        identity: config.identity.clone(),
        lease_duration: timing.lease_duration,
        renew_deadline: timing.renew_deadline,
        retry_period: timing.retry_period,
        request_timeout: timing.request_timeout,
        wait: timing.wait,
        resume: config.resume,
        seed: crate::config::random()?,
    })
}

struct Run<'a> {
    config: &'a Config,
    lock: &'a dyn Lock,
    namespace: &'a str,
    elector: Elector,
    guard: Guard,
    signals: Signals,
    alarm: Alarm,
    /// The request under way, by its number.
    request: Option<(u64, Answer<'a>)>,
    watch: Option<Changes<'a>>,
    term: Option<Term>,
    guard_alive: bool,
    /// Since when the guard should have killed. Of a clock that stands still in a suspend, after which the
    /// guard has to get its turn first.
    overdue: Option<std::time::Instant>,
    /// The signal that asked for a stop, and when the child is killed for it.
    stop: Option<(i32, Instant)>,
    /// Set when all is done.
    code: Option<i32>,
}

/// A time of leadership, as seen from the child's side.
struct Term {
    leadership: Leadership,
    deadlines: Deadlines,
    /// When the guard kills, as it last acknowledged.
    acknowledged: Option<Instant>,
    tree: Tree,
    lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tree {
    /// To be started with the next renewal: the guard was told too late.
    Waiting,
    /// Started; with the child's wait status once it has ended.
    Alive(Option<i32>),
    /// No process is left; with the exit code that follows from it.
    Gone(i32),
}

/// There is one term in the life of a leader-run so far.
const TERM: u64 = 1;

impl Run<'_> {
    /// Waits for whatever comes first.
    async fn next_event(&mut self) -> Result<Event, Refusal> {
        let now = Now::read();
        let wake = self.elector.wake(now).into_iter().chain(self.guard_overdue(now)).min();
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
            match self.guard_alive {
                true => self.guard.receive().await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            // What the guard and the user say comes first: it may forbid the rest.
            biased;
            said = said => Ok(self.guard_said(said)),
            signal = self.signals.next() => Ok(self.signalled(signal)),
            (id, answer) = request => {
                self.request = None;
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
            () = self.alarm.wait() => Ok(self.alarmed()),
        }
    }

    fn step(&mut self, event: Event) {
        for action in self.elector.step(Now::read(), event) {
            match action {
                Action::Request(id, request, limit) => self.send(id, request, limit),
                Action::Cancel => self.request = None,
                Action::Watch(from) => self.watch = Some(self.lock.watch(from)),
                Action::Lead(leadership) => self.lead(leadership),
                Action::Renewed(since) => self.renewed(since),
                Action::Lost(loss) => self.lost(&loss),
                Action::Over(outcome) => self.over(&outcome),
                Action::Say(notice) => words::say(self.lock, &notice),
            }
        }
    }

    fn send(&mut self, id: u64, request: Request, limit: Duration) {
        debug!("request {id}: {} {}", request.verb(), self.lock);
        let answer = self.lock.request(request);
        let limited = async move { timeout(limit, answer).await.unwrap_or(Err::<Reply, _>(Failure::Timeout)) };
        self.request = Some((id, Box::pin(limited)));
    }

    fn deadlines(&self, since: Instant) -> Deadlines {
        let stop = since.plus(self.config.timing.renew_deadline);
        Deadlines { stop, kill: stop.plus(self.config.timing.loss_grace) }
    }

    fn lead(&mut self, leadership: Leadership) {
        info!("leading {} with token {}", self.lock, leadership.token);
        let deadlines = self.deadlines(leadership.since);
        let term = Term { leadership, deadlines, acknowledged: None, tree: Tree::Waiting, lost: false };
        self.term = Some(term);
        self.start_child();
    }

    fn start_child(&mut self) {
        let env = self.environment();
        if let Some(term) = &mut self.term
            && term.tree == Tree::Waiting
            && !term.lost
            && self.stop.is_none()
        {
            term.tree = Tree::Alive(None);
            // A guard that does not even read this is as overdue as one that does not act on it.
            term.acknowledged = Some(term.deadlines.kill);
            self.overdue = None;
            self.guard.send(&ToGuard::Start { term: TERM, deadlines: term.deadlines, env });
        }
    }

    fn environment(&self) -> Vec<String> {
        let Some(term) = &self.term else {
            return Vec::new();
        };
        let kind =
            crate::lock::TYPES.iter().find(|(.., kind)| *kind == self.config.lock.kind).map_or("", |(name, ..)| name);
        vec![
            format!("LEADER_ELECTION_IDENTITY={}", self.config.identity),
            format!("LEADER_ELECTION_LOCK={kind}"),
            format!("LEADER_ELECTION_NAMESPACE={}", self.namespace),
            format!("LEADER_ELECTION_NAME={}", self.config.lock.name),
            format!("LEADER_ELECTION_FENCING_TOKEN={}", term.leadership.token),
            format!("LEADER_ELECTION_TRANSITIONS={}", term.leadership.transitions),
        ]
    }

    fn renewed(&mut self, since: Instant) {
        let deadlines = self.deadlines(since);
        if let Some(term) = &mut self.term {
            term.deadlines = deadlines;
            self.guard.send(&ToGuard::Extend { term: TERM, deadlines });
        }
        self.start_child();
    }

    /// Leadership is over against our will: stop the tree, and write nothing any more.
    fn lost(&mut self, loss: &Loss) {
        let now = Instant::now();
        self.watch = None;
        error!("lost {}: {}", self.lock, words::loss(loss, self.config));
        let (signal, grace) = (self.config.stop_signal, self.config.timing.loss_grace);
        let code = self.config.lost_exit_code;
        match &mut self.term {
            Some(term) if matches!(term.tree, Tree::Alive(_)) => {
                term.lost = true;
                let kill = now.plus(grace).earlier(term.deadlines.kill);
                self.guard.send(&ToGuard::Stop { term: TERM, signal, kill, lost: true });
            }
            _ => self.code = Some(code),
        }
    }

    /// What the guard says, and what that means for the election.
    fn guard_said(&mut self, said: Option<FromGuard>) -> Event {
        let Some(said) = said else {
            return self.guard_died("died");
        };
        let Some(term) = &mut self.term else {
            return Event::Tick;
        };
        match said {
            FromGuard::Acknowledged(_, kill) => {
                term.acknowledged = Some(kill);
                self.overdue = None;
            }
            FromGuard::Started(_, pid) => debug!("started {} as process {pid}", self.config.program.display()),
            FromGuard::Late(_) => {
                term.tree = Tree::Waiting;
                if term.lost {
                    self.code = Some(self.config.lost_exit_code);
                } else if self.stop.is_some() {
                    return Event::Finish;
                }
            }
            FromGuard::Continued(_, signal) => {
                let name = signal::name(signal);
                info!("the terminal stopped the child (SIG{name}): continued, for a stopped leader loses its lock");
            }
            FromGuard::Failed(_, errno) => {
                let code = start_failed(&self.config.program, errno);
                return self.gone(code);
            }
            FromGuard::Exited(_, status) => {
                term.tree = Tree::Alive(Some(status));
                debug!("the child has ended with {}", exit::of_child(status));
            }
            FromGuard::Expired(_) if !term.lost => {
                return Event::Forfeit("the guard stopped the child, for its deadline had passed".into());
            }
            FromGuard::Expired(_) => {}
            FromGuard::Leftover(_) => info!("the child has ended: stopping the processes that it left behind"),
            FromGuard::Killing(_) => warn!("the grace is over: killing every process of the child"),
            FromGuard::Gone(_) => {
                debug!("no process of the child is left");
                if let Tree::Alive(Some(status)) = term.tree {
                    return self.gone(exit::of_child(status));
                }
            }
        }
        Event::Tick
    }

    /// The whole tree is proven gone.
    fn gone(&mut self, code: i32) -> Event {
        let Some(term) = &mut self.term else {
            return Event::Tick;
        };
        term.tree = Tree::Gone(code);
        if term.lost {
            self.code = Some(self.config.lost_exit_code);
            return Event::Tick;
        }
        Event::Finish
    }

    fn guard_died(&mut self, how: &str) -> Event {
        self.guard_alive = false;
        error!("the guard {how}: killing every process it started");
        self.guard.kill_everything();
        self.gone(exit::OWN_FAILURE);
        Event::Finish
    }

    /// How long until the guard should have done what it acknowledged, and then until it is given up.
    fn guard_overdue(&self, now: Now) -> Option<Duration> {
        let term = self.term.as_ref().filter(|_| self.guard_alive)?;
        let kill = term.acknowledged.filter(|_| matches!(term.tree, Tree::Alive(_)))?;
        let late = |since: std::time::Instant| GUARD_LATENESS.saturating_sub(since.elapsed());
        Some(self.overdue.map_or_else(|| kill.leader_left(now.at), late))
    }

    fn alarmed(&mut self) -> Event {
        if self.guard_overdue(Now::read()).is_some_and(|left| left.is_zero()) {
            if self.overdue.is_some() {
                return self.guard_died("missed its deadline");
            }
            self.overdue = Some(std::time::Instant::now());
        }
        Event::Tick
    }

    fn signalled(&mut self, signal: i32) -> Event {
        let stops = signal == SIGTERM || signal == SIGINT;
        let lost = self.term.as_ref().is_some_and(|term| term.lost);
        match &self.term {
            Some(term) if matches!(term.tree, Tree::Alive(_)) => {
                if !stops {
                    self.guard.send(&ToGuard::Signal { term: TERM, signal });
                    return Event::Tick;
                }
                // The grace runs from the first time: asking again shortens and lengthens nothing.
                let grace = self.config.timing.stop_grace;
                let (_, kill) = *self.stop.get_or_insert_with(|| (signal, Instant::now().plus(grace)));
                info!("got SIG{}: stopping the child", signal::name(signal));
                let signal = if signal == SIGTERM { self.config.stop_signal } else { signal };
                self.guard.send(&ToGuard::Stop { term: TERM, signal, kill, lost });
                Event::Tick
            }
            _ if stops => {
                info!("got SIG{}", signal::name(signal));
                self.stop.get_or_insert_with(|| (signal, Instant::now()));
                Event::Finish
            }
            _ => Event::Tick,
        }
    }

    /// Nothing is held any more: all that is left is the exit code.
    fn over(&mut self, outcome: &Outcome) {
        self.watch = None;
        match outcome {
            Outcome::Stopped | Outcome::Released => {}
            Outcome::NotReleased(failure) => {
                warn!("{}", words::not_released(self.lock, self.config, failure.as_ref()));
            }
            Outcome::GaveUp(gave_up) => error!("{}", words::gave_up(self.lock, self.config, gave_up)),
            Outcome::Failed(failure) => error!("{failure}"),
        }
        self.code = Some(match (outcome, &self.term, self.stop) {
            (Outcome::GaveUp(_), ..) => exit::NOT_LEADING,
            (Outcome::Failed(_), ..) => exit::OWN_FAILURE,
            _ if !self.guard_alive => exit::OWN_FAILURE,
            (_, Some(Term { tree: Tree::Gone(code), .. }), _) => *code,
            (_, _, Some((signal, _))) => exit::by_signal(signal),
            _ => exit::OWN_FAILURE,
        });
        if matches!(outcome, Outcome::Released) {
            debug!("gave {} back", self.lock);
        }
    }
}

fn start_failed(program: &Path, errno: i32) -> i32 {
    let (program, error) = (program.display(), Errno::from_raw(errno));
    if spawn::is_shortage(errno) {
        error!("cannot start {program}: the system is short of resources: {}", error.desc().to_lowercase());
        return exit::OWN_FAILURE;
    }
    error!("{program}: cannot be executed: {}", error.desc().to_lowercase());
    if error == Errno::ENOENT { exit::NOT_FOUND } else { exit::NOT_EXECUTABLE }
}
