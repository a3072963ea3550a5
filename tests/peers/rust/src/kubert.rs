//! A contender on kubert's lease manager.
//!
//! Its limits: the Lease has to exist; while somebody else holds it, it looks again only when the claim that it last
//! saw is over (`renewTime` and `leaseDurationSeconds`, by its own wall clock), so it notices a lock that was given
//! back up to a lease duration late; transitions are 16 bits; after a vacation the record has nothing but them.
//! By default it renews a second before the end; here it does each retry period, as the others do.

use std::{process::ExitCode, sync::Arc};

use k8s_openapi_of_kubert::api::coordination::v1::Lease;
use kube_of_kubert::{Api, Client};
use kubert::lease::{Claim, ClaimParams, LeaseManager};
use peers::{End, prepare, seconds, setting, work};
use tokio::sync::watch;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    prepare();
    let identity = setting("IDENTITY");
    let client = Client::try_default().await.expect("a client");
    let leases: Api<Lease> = Api::namespaced(client, &setting("NAMESPACE"));
    let manager = LeaseManager::init(leases, setting("NAME")).await.expect("the Lease, which has to exist");
    let lease_duration = seconds("LEASE_DURATION");
    let params = ClaimParams { lease_duration, renew_grace_period: lease_duration - seconds("RETRY_PERIOD") };
    let (claims, manager) = manager.spawn(&identity, params).await.expect("the lock's state");

    let (leads, leading) = watch::channel(false);
    let follower = tokio::spawn(follow(claims, identity, leads));
    let end = work(leading).await;

    if end == End::Asked {
        // When nobody looks at the claims any more, the manager vacates the Lease and ends.
        follower.abort();
        let _ = follower.await;
        if let Ok(Err(error)) = manager.await {
            tracing::warn!("{error}");
        }
    }
    end.report()
}

/// Says whether the lock is ours, until the manager ends.
async fn follow(mut claims: watch::Receiver<Arc<Claim>>, identity: String, leads: watch::Sender<bool>) {
    loop {
        let claim = claims.borrow_and_update().clone();
        let ours = claim.is_current_for(&identity);
        leads.send_replace(ours);
        tokio::select! {
            changed = claims.changed() => if changed.is_err() { return },
            () = claim.expire(), if ours => {}
        }
    }
}
