//! The crash release: gives back the lock of a leader-run that has died, for its guard, when no process of the tree
//! is left.

use crate::backend::{self, Opened};
use crate::clock::Now;
use crate::config::Config;
use crate::election::elector::{Action, Elector, Event, Outcome};
use crate::exit::Refusal;
use crate::lock::record::Record;
use crate::lock::request::{Failure, Reply};
use crate::process::tree;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// Gives the lock back where it is still of the term with this record, within this time; returns the exit code.
///
/// # Errors
/// When the lock cannot be opened in that time.
pub async fn run(config: &Config, record: Record, within: Duration) -> Result<i32, Refusal> {
    let code = give_back(config, record, within).await;
    // A program that should have brought credentials may hang.
    tree::sweep();
    code.map_err(|refusal| {
        Refusal::new(format!(
            "leader-run has died, and its lock could not be given back: {refusal}; it expires by itself"
        ))
    })
}

async fn give_back(config: &Config, record: Record, within: Duration) -> Result<i32, Refusal> {
    let begun = Now::read();
    let opened = timeout(within, backend::open(&config.lock)).await;
    let Opened { lock, .. } =
        opened.map_err(|_| Refusal::new("the credentials for the cluster did not come in time"))??;
    let now = Now::read();
    let left = within.saturating_sub(now.at.leader_since(begun.at));
    let mut elector = Elector::releasing(config.election()?, now, record, left);
    let (mut event, mut written) = (Event::Tick, false);
    let outcome = loop {
        let mut request = None;
        let mut outcome = None;
        for action in elector.step(Now::read(), event) {
            match action {
                Action::Request(id, wanted, limit) => request = Some((id, wanted, limit)),
                Action::Over(how) => outcome = Some(how),
                _ => {}
            }
        }
        if let Some(outcome) = outcome {
            break outcome;
        }
        event = match request {
            Some((id, request, limit)) => {
                let answer = timeout(limit, lock.request(request)).await.unwrap_or(Err(Failure::Timeout));
                written |= matches!(answer, Ok(Reply::Written(_)));
                Event::Answer(id, answer)
            }
            None => {
                sleep(elector.wake(Now::read()).unwrap_or_default()).await;
                Event::Tick
            }
        };
    };
    match outcome {
        Outcome::NotReleased(failure) => {
            let why = failure.map(|failure| format!(": {failure}")).unwrap_or_default();
            warn!("leader-run has died, and {lock} could not be given back{why}; it expires by itself");
        }
        _ if written => info!("leader-run has died: its processes are gone, and {lock} is given back"),
        _ => info!("leader-run has died: its processes are gone, and {lock} is not its own any more"),
    }
    Ok(0)
}
