//! A contender on kube-leader-election: the loop of its example `shared-lease`.
//!
//! Its limits: it takes over with a patch that names no version, so it overwrites whoever came between its GET and
//! its patch; expiry is `renewTime` and `leaseDurationSeconds` against its own wall clock, so a lock given back is
//! taken after the second that client-go writes there; a record without holder, times, duration or transitions is an
//! error for ever; it knows no renew deadline, so as long as its requests fail it believes what it last knew.

use std::process::ExitCode;

use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use peers::{End, prepare, seconds, setting, work};
use tokio::{sync::watch, time::sleep};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    prepare();
    let client = kube::Client::try_default().await.expect("a client");
    let params = LeaseLockParams {
        lease_name: setting("NAME"),
        holder_id: setting("IDENTITY"),
        lease_ttl: seconds("LEASE_DURATION"),
    };
    let lock = LeaseLock::new(client, &setting("NAMESPACE"), params);

    let (leads, leading) = watch::channel(false);
    let end = tokio::select! {
        end = work(leading) => end,
        () = contend(&lock, leads) => unreachable!("it never ends"),
    };
    if end == End::Asked
        && let Err(error) = lock.step_down().await
    {
        tracing::warn!("{error}");
    }
    end.report()
}

async fn contend(lock: &LeaseLock, leads: watch::Sender<bool>) {
    let retry_period = seconds("RETRY_PERIOD");
    loop {
        match lock.try_acquire_or_renew().await {
            Ok(result) => {
                leads.send_replace(matches!(result, LeaseLockResult::Acquired(_)));
            }
            Err(error) => tracing::warn!("{error}"),
        }
        sleep(retry_period).await;
    }
}
