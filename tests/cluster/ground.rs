//! The nemesis on the real API server, which can be stopped where it stands.

use crate::apiserver::Cluster;
use crate::namespace::{Namespace, User};
use crate::nemesis::{Ground, LOCK};
use crate::proxy::Upstream;
use crate::scene::{MINIMAL, holder};
use crate::support::{LONG, wait_for};
use crate::tls::Tls;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The cluster, and a namespace and a user in it.
pub struct Real<'a> {
    cluster: &'a Cluster,
    namespace: Namespace,
    user: User,
}

impl Real<'_> {
    pub fn new(cluster: &Cluster) -> Real<'_> {
        let namespace = cluster.namespace("nemesis");
        let user = namespace.user(&MINIMAL);
        Real { cluster, namespace, user }
    }
}

impl Upstream for Real<'_> {
    fn address(&self) -> SocketAddr {
        self.cluster.address()
    }

    fn tls(&self) -> &Tls {
        self.cluster.tls()
    }
}

impl Ground for Real<'_> {
    fn kubeconfig(&self, url: &str) -> PathBuf {
        self.user.kubeconfig(url, Some(self.namespace.name()))
    }

    fn holder(&self) -> String {
        self.namespace.lease(LOCK).map(|lease| holder(&lease)).unwrap_or_default()
    }

    fn label(&self, text: &str) {
        let patch = json!({"metadata": {"labels": {"nemesis": text}}});
        self.namespace.patch_lease_unconditionally(LOCK, &patch);
    }

    fn stop(&self) -> bool {
        self.cluster.halt();
        true
    }

    /// Waits until it answers: only then it is back.
    fn listen(&self) {
        self.cluster.go_on();
        let api = self.namespace.api::<Lease>();
        wait_for("an answer", LONG, || self.namespace.block_on(api.get_opt(LOCK)).ok());
    }
}
