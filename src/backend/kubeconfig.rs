//! How to reach a cluster: from a kubeconfig, or as a pod.

use super::error::one_line;
use anyhow::{Result, anyhow, bail, ensure};
use http::HeaderValue;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use secrecy::ExposeSecret;
use std::net::IpAddr;
use std::path::PathBuf;

/// How to reach a cluster.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// This kubeconfig instead of what is found.
    pub kubeconfig: Option<PathBuf>,
    /// This context instead of the current one; a kubeconfig is needed then.
    pub context: Option<String>,
    /// As this user, instead of the one that the kubeconfig names.
    pub impersonate: Option<String>,
}

/// `--kubeconfig`, `KUBECONFIG`, in-cluster, `~/.kube/config`, in this order.
pub(super) async fn configuration(source: &Source) -> Result<(kube::Config, Option<String>)> {
    let given = source.kubeconfig.clone().map(|path| vec![path]);
    let listed = || {
        let paths: Vec<_> = std::env::split_paths(&std::env::var_os("KUBECONFIG")?).collect();
        let mut paths: Vec<_> = paths.into_iter().filter(|path| !path.as_os_str().is_empty()).collect();
        // As for kubectl, some of several files may be missing.
        if paths.iter().any(|path| path.exists()) {
            paths.retain(|path| path.exists());
        }
        (!paths.is_empty()).then_some(paths)
    };
    if let Some(paths) = given.or_else(listed) {
        return from_files(&paths, source).await;
    }
    if source.context.is_none() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        let config = kube::Config::incluster_env().map_err(|e| {
            let mounted = "is the service account's token mounted (automountServiceAccountToken)?";
            anyhow!("in a pod, but {}; {mounted}", one_line(&e))
        })?;
        let namespace = config.default_namespace.trim().to_owned();
        return Ok((config, Some(namespace)));
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    match home.filter(|path| path.exists()) {
        Some(path) => from_files(&[path], source).await,
        None => bail!(
            "no cluster: give --kubeconfig or KUBECONFIG, or run in a pod (~/.kube/config does not exist); \
             --lock file needs no cluster"
        ),
    }
}

async fn from_files(paths: &[PathBuf], source: &Source) -> Result<(kube::Config, Option<String>)> {
    let names = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
    let mut merged = Kubeconfig::default();
    for path in paths {
        let read = Kubeconfig::read_from(path).and_then(|next| merged.clone().merge(next));
        merged = read.map_err(|e| match &e {
            KubeconfigError::ReadConfig(e, _) => anyhow!("cannot read kubeconfig {}: {e}", path.display()),
            e => anyhow!("cannot use kubeconfig {}: {}", path.display(), one_line(e)),
        })?;
    }
    let asked = source.context.clone().or_else(|| merged.current_context.clone());
    let Some(context) = asked.filter(|name| !name.is_empty()) else {
        bail!("kubeconfig {names} has no current-context; give --context");
    };
    let Some(named) = merged.contexts.iter().find(|named| named.name == context) else {
        let known = merged.contexts.iter().map(|named| named.name.as_str()).collect::<Vec<_>>().join(", ");
        bail!(
            "kubeconfig {names} has no context {context:?}; it has {}",
            if known.is_empty() { "none" } else { &known }
        );
    };
    let namespace = named.context.as_ref().and_then(|c| c.namespace.clone()).filter(|n| !n.is_empty());
    let proxied = |name: &str| {
        let cluster = merged.clusters.iter().find(|named| named.name == name).and_then(|named| named.cluster.as_ref());
        cluster.is_some_and(|cluster| cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty()))
    };
    // Going round it would be worse than not going.
    ensure!(
        !named.context.as_ref().is_some_and(|context| proxied(&context.cluster)),
        "kubeconfig {names} asks for a proxy (proxy-url), which leader-run does not support"
    );
    let options = KubeConfigOptions { context: Some(context), ..Default::default() };
    let config = kube::Config::from_custom_kubeconfig(merged, &options).await;
    let config = config.map_err(|e| anyhow!("cannot use kubeconfig {names}: {}", one_line(&e)))?;
    Ok((config, namespace))
}

/// Credentials are never sent to a server that nobody vouches for, nor those that cannot be right.
pub(super) fn check(config: &kube::Config) -> Result<()> {
    ensure!(
        !config.accept_invalid_certs,
        "insecure-skip-tls-verify is refused: a lock is only as safe as its server; give its certificate-authority"
    );
    let authority = config.cluster_url.authority().map_or("", |authority| authority.as_str());
    ensure!(!authority.contains('@'), "a server with credentials in its URL is refused: nobody would look at them");
    let host = config.cluster_url.host().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let local = host == "localhost" || address.is_ok_and(|ip| ip.is_loopback());
    ensure!(
        config.cluster_url.scheme_str() == Some("https") || local,
        "{} is refused: without https anybody on the way could answer",
        config.cluster_url
    );
    // kube panics.
    let token = config.auth_info.token.as_ref().map(|token| HeaderValue::try_from(token.expose_secret()));
    ensure!(token.is_none_or(|token| token.is_ok()), "the kubeconfig's token has a line break or the like in it");
    Ok(())
}
