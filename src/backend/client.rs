//! The kube client: the one place that builds it, and that reads errors.
//!
//! Differs from kube's default stack: no hidden retries, no Nagle delay, answers capped in size; and its
//! configuration comes from where it is said to come from, in that order, without debug overrides.

use super::error::{auth_error, excerpt, root};
use super::kubeconfig::{Source, check, configuration};
use crate::blocking;
use crate::lock::request::Failure;
use anyhow::{Result, anyhow, ensure};
use futures_util::FutureExt;
use futures_util::future::Shared;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::middleware::AuthLayer;
use kube::client::{Body, ConfigExt};
use serde_json::Value;
use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt, service_fn};

/// No object with an election record is larger.
pub const MAX_BODY: usize = 1024 * 1024;

/// A cluster's API, as one lock needs it.
pub struct Client {
    client: kube::Client,
    program: Option<Program>,
    server: String,
}

impl Client {
    /// Connects nothing yet: reads the configuration and builds the client. Also returns the namespace that
    /// the configuration names, if it names one.
    ///
    /// # Errors
    /// One line about what is missing or wrong in the configuration.
    pub async fn new(source: &Source) -> Result<(Client, Option<String>)> {
        let (mut config, namespace) = configuration(source).await?;
        if let Some(user) = &source.impersonate {
            ensure!(HeaderValue::from_str(user).is_ok(), "--as {user:?} has characters that no request can carry");
            config.auth_info.impersonate = Some(user.clone());
        }
        check(&config)?;
        if config.cluster_url.scheme_str() == Some("http") {
            // Whoever needs none must not do without for want of the system's.
            config.root_cert.get_or_insert_default();
        }
        let agent = concat!("leader-run/", env!("CARGO_PKG_VERSION"));
        config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(agent)));
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();

        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(Duration::from_secs(30)));
        let problem = |e: kube::Error| match root(&e) {
            cause if cause.contains("No CA certificates") => anyhow!(
                "cannot trust {server}: the kubeconfig names no certificate-authority, and this system has no certificates \
                 (ca-certificates)"
            ),
            cause => anyhow!("cannot use the credentials for {server}: {cause}"),
        };
        let https = config.rustls_https_connector_with_connector(http).map_err(problem)?;
        let auth = config.auth_layer().map_err(problem)?;
        let (auth, program) = match config.auth_info.exec.is_some() || config.auth_info.auth_provider.is_some() {
            true => (None, auth.map(Program::new)),
            false => (auth, None),
        };
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(auth)
            .layer(config.extra_headers_layer().map_err(problem)?)
            .map_err(BoxError::from)
            .service(legacy::Client::builder(TokioExecutor::new()).build(https));
        let client = kube::Client::new(service, config.default_namespace);
        Ok((Client { client, program, server }, namespace))
    }

    /// The namespace of its configuration: in a pod the service account's.
    pub fn namespace(&self) -> &str {
        self.client.default_namespace().trim()
    }

    /// Sends one request and reads the whole answer: its status and JSON.
    pub async fn send(&self, request: http::Request<Vec<u8>>) -> Result<(u16, Value), Failure> {
        let response = self.stream(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|e| Failure::Unclear(format!("{}: {}", self.server, root(&*e))))?.to_bytes();
        // What is not JSON is an answer of something else than an API server.
        let value = serde_json::from_slice(&body).unwrap_or_else(|_| Value::String(excerpt(&body)));
        Ok((status, value))
    }

    /// Sends a request whose answer is a stream, and returns its status and body.
    pub async fn stream(&self, mut request: http::Request<Vec<u8>>) -> Result<http::Response<Body>, Failure> {
        if let Some(program) = &self.program {
            let header = program.credentials().await.map_err(|e| self.transport(&**e))?;
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        self.client.send(request.map(Body::from)).await.map_err(|e| self.transport(&e))
    }

    fn transport(&self, error: &(dyn Error + 'static)) -> Failure {
        let cause = root(error);
        if auth_error(error).is_some() {
            return Failure::Unclear(format!("cannot use the credentials for {}: {cause}", self.server));
        }
        if cause.contains("invalid peer certificate") || cause.contains("certificate not valid") {
            let what = match &cause {
                // The only words for it are those of a debug output.
                cause if cause.contains("CaUsedAsEndEntity") => {
                    "its certificate is one of a certificate authority; give it one of its own, signed by that"
                }
                cause => &format!("{cause}; check the certificate-authority of the kubeconfig"),
            };
            return Failure::Unusable(format!("cannot trust {}: {what}", self.server));
        }
        Failure::Unclear(format!("cannot reach {}: {cause}", self.server))
    }
}

/// A program that brings the credentials, which may be slow, or hang. There is one of it at a time, and if the
/// request that needed it is given up meanwhile, what it brings is for the next one.
struct Program {
    source: BoxCloneSyncService<http::Request<Body>, http::Response<HeaderValue>, BoxError>,
    asked: Mutex<Option<Asked>>,
}

/// Everybody who asks meanwhile gets the same answer.
type Asked = Shared<Pin<Box<dyn Future<Output = Result<HeaderValue, Arc<BoxError>>> + Send>>>;

impl Program {
    fn new(layer: AuthLayer) -> Program {
        // What kube's layer would have sent on.
        let echo = service_fn(async |mut request: http::Request<Body>| {
            let header = request.headers_mut().remove(AUTHORIZATION).ok_or("kube added no credentials")?;
            Ok::<_, BoxError>(http::Response::new(header))
        });
        Program { source: BoxCloneSyncService::new(layer.layer(echo)), asked: Mutex::default() }
    }

    async fn credentials(&self) -> Result<HeaderValue, Arc<BoxError>> {
        let slot = || self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let ask = || {
            let ask = self.source.clone().oneshot(http::Request::new(Body::empty()));
            let asking = blocking::start(move || Handle::current().block_on(ask).map(http::Response::into_body));
            let answer = async { asking.await.map_err(BoxError::from).flatten().map_err(Arc::new) };
            answer.boxed().shared()
        };
        let asked = slot().get_or_insert_with(ask).clone();
        let answer = asked.clone().await;
        slot().take_if(|latest| latest.ptr_eq(&asked));
        answer
    }
}
