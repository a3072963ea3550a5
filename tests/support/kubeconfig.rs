//! How a client finds an API server and is known to it.
#![allow(dead_code)]

use k8s_openapi::ByteString;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::tls::Tls;

/// A kubeconfig that leads to `server`, as JSON, which every reader of YAML reads.
pub fn kubeconfig(tls: &Tls, server: &str, token: &str, namespace: Option<&str>) -> Value {
    let mut context = json!({ "cluster": "test", "user": "test" });
    if let Some(namespace) = namespace {
        context["namespace"] = namespace.into();
    }
    let ca = ByteString(tls.ca_pem.clone().into_bytes());
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "test",
            "cluster": { "server": server, "certificate-authority-data": ca },
        }],
        "users": [{ "name": "test", "user": { "token": token } }],
        "contexts": [{ "name": "test", "context": context }],
        "current-context": "test",
    })
}

/// A kube client that shows each answer as it is.
pub async fn client(tls: &Tls, server: &str, token: &str) -> Client {
    let kubeconfig = kubeconfig(tls, server, token, None).to_string();
    let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).expect("a valid kubeconfig");
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a usable kubeconfig");
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}
