//! What people are told of an election, in one line each.

use super::{duration, shown};
use crate::config::Config;
use crate::elector::{GaveUp, Loss, Notice};
use crate::lock::Lock;
use crate::store::Failure;
use tracing::{info, warn};

/// Why the lock was lost.
pub fn loss(loss: &Loss, config: &Config) -> String {
    match loss {
        Loss::Deadline(failure) => {
            let last = after(", last error: ", failure.as_ref());
            format!("renew deadline {} passed{last}", duration(config.timing.renew_deadline))
        }
        Loss::Taken(holder) if holder.is_empty() => "somebody else led, and gave it back".into(),
        Loss::Taken(holder) => format!("{} holds it now", shown(holder)),
        Loss::Twin => format!("another process uses our identity {}", shown(&config.identity)),
        Loss::Forfeited(reason) => reason.clone(),
    }
}

/// That the lock could not be given back.
pub fn not_released(lock: &dyn Lock, config: &Config, failure: Option<&Failure>) -> String {
    let lease = duration(config.timing.lease_duration);
    format!("could not give {lock} back{}; it expires by itself after {lease}", after(": ", failure))
}

/// The failure, if there is one, after these words.
fn after(words: &str, failure: Option<&Failure>) -> String {
    failure.map(|failure| format!("{words}{}", shown(&failure.to_string()))).unwrap_or_default()
}

/// Tells people what happens in passing.
pub fn say(lock: &dyn Lock, notice: &Notice) {
    match notice {
        Notice::Waiting(record, lease) => {
            info!("waiting: {lock} is held by {}, for {} at a time", shown(&record.holder), duration(*lease));
        }
        Notice::Failing(Failure::Timeout) => warn!("{lock} cannot be reached: no answer in time; trying again"),
        Notice::Failing(failure) => warn!("{}; trying again", shown(&failure.to_string())),
        Notice::Recovered => info!("{lock} can be reached again"),
        Notice::Polling(failure) => warn!("{}; polling instead", shown(&failure.to_string())),
        Notice::Recreating => warn!("{lock} was deleted while we lead: creating it again"),
        Notice::Reasserting => warn!("{lock} was cleared while we lead: writing it again"),
    }
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
