//! What people are told of an election, in one line each.

use crate::backend::Lock;
use crate::clock::Instant;
use crate::config::Config;
use crate::election::contender::Said;
use crate::election::elector::{GaveUp, Loss, Notice, Outcome, Waiting};
use crate::exit;
use crate::guard::core::FromGuard;
use crate::lock::record::UNKNOWN;
use crate::lock::request::Failure;
use crate::process::signal;
use crate::text::duration;
use crate::text::shown;
use nix::errno::Errno;
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// Says it.
pub fn say(lock: &dyn Lock, config: &Config, said: &Said) {
    match said {
        Said::Leading(leadership) => info!("leading {lock} with token {}", leadership.token),
        Said::Lost(why) => error!("lost {lock}: {}", loss(why, config)),
        Said::Notice(about) => notice(lock, about),
        Said::Over(outcome) => over(lock, config, outcome),
        Said::HeldUntil(_) | Said::GivingBack | Said::Ended(_) => {}
        Said::Tree(news) => tree(config, news),
        Said::Stopping(number) => info!("got SIG{}: stopping", signal::name(*number)),
        Said::SteppingDown(number) => info!("got SIG{}: stepping down", signal::name(*number)),
        Said::Again => info!("contending for {lock} again"),
        Said::GuardFailed(how) => error!("the guard {how}: killing every process it started"),
    }
}

fn over(lock: &dyn Lock, config: &Config, outcome: &Outcome) {
    match outcome {
        Outcome::Released => debug!("gave {lock} back"),
        Outcome::NotReleased(failure) => warn!("{}", not_released(lock, config, failure.as_ref())),
        // The closing line says it.
        Outcome::Stopped | Outcome::GaveUp(_) | Outcome::Failed(_) => {}
    }
}

fn tree(config: &Config, news: &FromGuard) {
    let program = config.program.display();
    match *news {
        FromGuard::Started(_, pid) => debug!("started {program} as process {pid}"),
        FromGuard::Failed(_, errno) => error!("{}", failed_start(config, errno)),
        FromGuard::Died(_, status) => error!("{}", died_before_exec(config, status)),
        FromGuard::Exited(_, status) => debug!("the child has ended with {}", exit::of_child(status)),
        FromGuard::Continued(_, number) => {
            let name = signal::name(number);
            info!("the terminal stopped the child (SIG{name}): continued, for a stopped leader loses its lock");
        }
        FromGuard::Leftover(_) if config.wait_all => {
            info!("the child has ended: waiting for the processes that it left behind");
        }
        FromGuard::Leftover(_) => info!("the child has ended: stopping the processes that it left behind"),
        FromGuard::Killing(_) => warn!("the grace is over: killing every process of the child"),
        FromGuard::Slow(_, late) => warn!(
            "the guard gets the CPU up to {} late: it would kill so much earlier; raise the CPU limit, or \
             --lease-duration",
            duration(late)
        ),
        FromGuard::Gone(_) => debug!("no process of the child is left"),
        FromGuard::Acknowledged(..) | FromGuard::Late(_) | FromGuard::Expired(_) => {}
    }
}

/// Why the child could not be started.
pub fn failed_start(config: &Config, errno: i32) -> String {
    let (program, error) = (config.program.display(), Errno::from_raw(errno));
    let why = error.desc().to_lowercase();
    match exit::is_shortage(error) {
        true => format!("cannot start {program}: the system is short of resources: {why}"),
        false => format!("{program}: cannot be executed: {why}"),
    }
}

/// That the child died before it could execute COMMAND.
pub fn died_before_exec(config: &Config, status: i32) -> String {
    let how = match exit::signal_of(status) {
        Some(number) => format!("killed by SIG{}", signal::name(number)),
        None => format!("exit code {}", exit::of_child(status)),
    };
    format!(
        "cannot start {}: the child process died before it could execute the command ({how})",
        config.program.display()
    )
}

/// Why the lock was lost.
pub fn loss(loss: &Loss, config: &Config) -> String {
    match loss {
        Loss::Deadline(failure) => {
            let last = after(", last error: ", failure.as_ref());
            format!("renew deadline {} passed{last}", duration(config.timing.renew_deadline))
        }
        Loss::Taken(holder) if holder == UNKNOWN => "somebody else has written one of its two objects".into(),
        Loss::Taken(holder) if holder.is_empty() => "somebody else led, and gave it back".into(),
        Loss::Taken(holder) => format!("{} holds it now", shown(holder)),
        Loss::Twin => format!("another process uses our identity {}", shown(&config.identity)),
        Loss::Forfeited(reason) => reason.clone(),
    }
}

/// That the lock could not be given back.
fn not_released(lock: &dyn Lock, config: &Config, failure: Option<&Failure>) -> String {
    let lease = duration(config.timing.lease_duration);
    format!("could not give {lock} back{}; it expires by itself after {lease}", after(": ", failure))
}

/// The failure, if there is one, after these words.
fn after(words: &str, failure: Option<&Failure>) -> String {
    failure.map(|failure| format!("{words}{failure}")).unwrap_or_default()
}

/// What happens in passing.
fn notice(lock: &dyn Lock, notice: &Notice) {
    match notice {
        Notice::Waiting(record, lease) if record.holder == UNKNOWN => {
            let lease = duration(*lease);
            info!("waiting: the two objects of {lock} name different holders, until both are silent for {lease}");
        }
        Notice::Waiting(record, lease) => {
            info!("waiting: {lock} is held by {}, for {} at a time", shown(&record.holder), duration(*lease));
        }
        Notice::Failing(Failure::Timeout) => warn!("{lock} cannot be reached: no answer in time; trying again"),
        Notice::Failing(failure) => warn!("{failure}; trying again"),
        Notice::Recovered => info!("{lock} can be reached again"),
        Notice::Polling(failure) => warn!("{failure}; polling instead"),
        Notice::Recreating => warn!("{lock} was deleted while we lead: creating it again"),
        Notice::Leader(holder) => {
            debug!("{lock} is held by {}", if holder.is_empty() { "nobody".into() } else { shown(holder) })
        }
        Notice::Reasserting => warn!("{lock} was cleared while we lead: writing it again"),
    }
}

/// Whom a standby waits for, as it is at this moment.
pub fn waiting(lock: &str, waiting: &Waiting, now: Instant) -> String {
    let seconds = |span: Duration| duration(Duration::from_secs(span.as_secs_f64().ceil() as u64));
    let who = if waiting.holder == UNKNOWN { "two holders".into() } else { shown(&waiting.holder) };
    format!(
        "leader-run: waiting for {who} for {}; {lock} can expire in {} at the earliest",
        seconds(now.standby_since(waiting.since)),
        seconds(waiting.lease.saturating_sub(now.standby_since(waiting.renewed)))
    )
}

/// What is known when `--wait` is over.
pub fn gave_up(lock: &dyn Lock, config: &Config, gave_up: &GaveUp) -> String {
    let wait = duration(config.timing.wait.unwrap_or_default());
    let lease = duration(gave_up.lease_duration);
    let last = after("; last error: ", gave_up.failure.as_ref());
    match &gave_up.record {
        Some(record) if !record.is_free() => {
            let alive = if gave_up.changed { "has renewed it meanwhile" } else { "has not renewed it meanwhile" };
            format!(
                "not leading after {wait}: {lock} is held by {}, who {alive}; taking over from a dead leader needs a \
                 --wait of more than {lease}{last}",
                shown(&record.holder)
            )
        }
        Some(_) => format!("not leading after {wait}: {lock} was free but could not be taken in time{last}"),
        None => format!("not leading after {wait}: {lock} could not be read or created{last}"),
    }
}
