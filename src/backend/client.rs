//! The kube client: the one place that builds it, and that reads errors.
//!
//! Differs from kube's default stack: no hidden retries, no Nagle delay, answers capped in size; and its
//! configuration comes from where it is said to come from, in that order, without debug overrides.

use crate::blocking;
use crate::lock::request::{Failure, Verb};
use crate::mutant::Mutant;
use crate::text::shown;
use anyhow::{Result, anyhow, bail, ensure};
use futures_util::FutureExt;
use futures_util::future::Shared;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::middleware::AuthLayer;
use kube::client::{AuthError, Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use secrecy::ExposeSecret;
use serde_json::Value;
use std::error::Error;
use std::iter::successors;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt, service_fn};

/// No object with an election record is larger.
pub const MAX_BODY: usize = 1024 * 1024;

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

/// `--kubeconfig`, `KUBECONFIG`, in-cluster, `~/.kube/config`, in this order.
async fn configuration(source: &Source) -> Result<(kube::Config, Option<String>)> {
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
fn check(config: &kube::Config) -> Result<()> {
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

/// What an answer that is no success means for a request of this verb. `subject` is what was to be done,
/// `update lease ops/cronworker`; `needs` what a Role has to grant.
pub fn failure(verb: Verb, subject: &str, needs: &str, status: u16, answer: &Value) -> Failure {
    let whole = answer.get("message").and_then(Value::as_str).or(answer.as_str()).unwrap_or_default();
    let message = excerpt(whole.as_bytes());
    let reason = answer.get("reason").and_then(Value::as_str).unwrap_or_default();
    if !is_status(answer) && !Mutant::PageIsConflict.is_on() {
        return Failure::Unclear(format!("cannot {subject}: the answer is not an API server's: {message} ({status})"));
    }
    if is_denial(whole) {
        return Failure::Refused(verb, format!("cannot {subject}: {message} ({status})"));
    }
    match (status, verb) {
        (401, _) => {
            Failure::Refused(verb, format!("cannot {subject}: the server does not accept the credentials (401)"))
        }
        (403, _) => {
            // `... is forbidden: User "system:serviceaccount:ops:default" cannot update resource ...`
            let user = whole.split_once("User \"").and_then(|(_, rest)| rest.split('"').next());
            Failure::Refused(
                verb,
                match user {
                    Some(user) if whole.contains(" cannot impersonate ") => {
                        let user = excerpt(user.as_bytes());
                        format!(
                            "cannot {subject}: {user} may not do it as another user (--as): it needs impersonate on users"
                        )
                    }
                    Some(user) => {
                        format!(
                            "cannot {subject}: forbidden for {}; it needs {needs} (leader-run check prints the Role)",
                            excerpt(user.as_bytes())
                        )
                    }
                    None => format!("cannot {subject}: forbidden: {message}"),
                },
            )
        }
        (404, Verb::Create) => {
            let kind = answer.pointer("/details/kind").and_then(Value::as_str);
            let name = answer.pointer("/details/name").and_then(Value::as_str).unwrap_or_default();
            match kind {
                Some("namespaces") => {
                    let name = excerpt(name.as_bytes());
                    Failure::Rejected(format!("cannot {subject}: namespace \"{name}\" does not exist"))
                }
                _ => Failure::Declined(format!("cannot {subject}: {message} (404)")),
            }
        }
        (404 | 409, Verb::Update) | (409, Verb::Create) if reason != "Forbidden" => Failure::Conflict,
        (422, _) if names_the_name(answer) => Failure::Rejected(format!("cannot {subject}: {message} (422)")),
        (404 | 405, Verb::Watch) => Failure::Rejected(format!("cannot {subject}: {message} ({status})")),
        (429, _) => Failure::Busy(format!("cannot {subject}: the server is busy: {message} (429)")),
        (400..500, _) => Failure::Declined(format!("cannot {subject}: {message} ({status})")),
        _ => Failure::Unclear(format!("cannot {subject}: {message} ({status})")),
    }
}

/// Whether an API server says this: it answers whatever it does not carry out with an object of this kind. What stands
/// before it (a proxy, a load balancer) has pages of its own.
pub fn is_status(answer: &Value) -> bool {
    answer.get("kind").and_then(Value::as_str) == Some("Status")
}

/// Whether an admission webhook or policy has denied the request, in the API server's words. The code is the webhook's
/// own choice.
fn is_denial(message: &str) -> bool {
    let both = |begin, end| message.split_once(begin).is_some_and(|(_, rest)| rest.contains(end));
    both("admission webhook \"", "\" denied the request") || both("ValidatingAdmissionPolicy '", "' denied request")
}

/// Whether what makes the object invalid is its name.
fn names_the_name(answer: &Value) -> bool {
    let causes = answer.pointer("/details/causes").and_then(Value::as_array);
    causes.is_some_and(|causes| {
        causes.iter().any(|cause| cause.get("field").and_then(Value::as_str) == Some("metadata.name"))
    })
}

/// The error at the bottom, which says what happened; those above it only say where.
fn root(error: &(dyn Error + 'static)) -> String {
    let text = auth_error(error).and_then(|error| match error {
        AuthError::AuthExecStart(error) => Some(format!("their program cannot be started: {error}")),
        AuthError::AuthExecRun { out, .. } => {
            let said = String::from_utf8_lossy(&out.stderr);
            let said = said.lines().rev().find(|line| !line.trim().is_empty());
            let said = said.map(|line| format!(": {}", excerpt(line.as_bytes()))).unwrap_or_default();
            Some(format!("their program ended with {}{said}", out.status))
        }
        AuthError::AuthExecParse(_) => Some("their program printed what is no ExecCredential".into()),
        _ => None,
    });
    text.unwrap_or_else(|| one_line(causes(error).last().unwrap_or(error)))
}

/// What went wrong with the credentials, if it was that. Of a program's failure kube tells the arguments, the
/// environment and the output, which may be the credentials themselves.
fn auth_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a AuthError> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |cause| (*cause).source())
}

fn one_line(error: &dyn Error) -> String {
    excerpt(error.to_string().lines().next().unwrap_or_default().as_bytes())
}

/// Text from outside, as one line that can be shown.
pub fn excerpt(text: &[u8]) -> String {
    // Cut before it is looked at, for it may be as long as an answer.
    let text = String::from_utf8_lossy(&text[..text.len().min(2_000)]);
    shown(text.replace(char::is_control, " ").trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn update(status: u16, answer: Value) -> Failure {
        failure(Verb::Update, "update lease ops/a", "get, create, update and watch on leases", status, &answer)
    }

    #[test]
    fn a_refusal_names_who_may_not_do_what_and_what_it_needs() {
        let answer = json!({"kind": "Status", "message": "leases \"a\" is forbidden: User \"system:serviceaccount:ops:default\" cannot \
            update resource \"leases\" in API group \"coordination.k8s.io\"", "reason": "Forbidden"});
        let text = "cannot update lease ops/a: forbidden for system:serviceaccount:ops:default; \
                    it needs get, create, update and watch on leases (leader-run check prints the Role)";
        assert_eq!(update(403, answer), Failure::Refused(Verb::Update, text.into()));
    }

    #[test]
    fn a_404_on_a_write_means_that_it_was_deleted_or_that_the_namespace_is_missing() {
        assert_eq!(update(404, json!({"kind": "Status", "reason": "NotFound"})), Failure::Conflict);
        assert_eq!(update(409, json!({"kind": "Status", "reason": "Conflict"})), Failure::Conflict);
        let missing = json!({"kind": "Status", "message": "namespaces \"x\" not found", "details": {"kind": "namespaces", "name": "x"}});
        let create = failure(Verb::Create, "create lease x/a", "", 404, &missing);
        assert_eq!(create, Failure::Rejected("cannot create lease x/a: namespace \"x\" does not exist".into()));
    }

    #[test]
    fn who_may_not_be_another_user_is_told_so() {
        let message =
            "users \"nobody\" is forbidden: User \"bob\" cannot impersonate resource \"users\" in API group \"\"";
        let told =
            failure(Verb::Get, "get lease ops/a", "get on leases", 403, &json!({"kind": "Status", "message": message}));
        assert_eq!(
            told.to_string(),
            "cannot get lease ops/a: bob may not do it as another user (--as): it needs impersonate on users"
        );
    }

    #[test]
    fn an_answer_that_is_not_an_api_servers_is_unclear_whatever_its_code() {
        let pages =
            [json!("404 page not found"), json!({"error": "gone"}), json!(null), json!([]), json!({"kind": "Page"})];
        for page in pages {
            for (status, verb) in [400, 401, 403, 404, 405, 409, 410, 422, 429, 500, 503]
                .into_iter()
                .flat_map(|status| [Verb::Get, Verb::Create, Verb::Update, Verb::Watch].map(|verb| (status, verb)))
            {
                let told = failure(verb, "", "", status, &page);
                assert!(matches!(told, Failure::Unclear(_)), "{status} {verb} {page}: {told:?}");
            }
        }
    }

    #[test]
    fn a_denial_is_known_by_its_words_whatever_its_code() {
        let denials = [
            "admission webhook \"deny.example.com\" denied the request: not now",
            "admission webhook \"deny.example.com\" denied the request without explanation",
            "leases.coordination.k8s.io \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied \
             request: no",
        ];
        for (message, status) in denials.iter().flat_map(|denial| [400, 403, 404, 409, 422].map(|code| (denial, code)))
        {
            for verb in [Verb::Create, Verb::Update] {
                let told = failure(verb, "", "", status, &json!({"kind": "Status", "message": message}));
                assert!(matches!(&told, Failure::Refused(_, text) if text.contains(message)), "{status}: {told:?}");
            }
        }
    }

    #[test]
    fn only_a_missing_namespace_and_an_invalid_name_cannot_get_better() {
        let invalid =
            |field| json!({"kind": "Status", "message": "invalid", "details": {"causes": [{"field": field}]}});
        assert!(matches!(update(422, invalid("metadata.name")), Failure::Rejected(_)));
        for answer in [invalid("spec.leaseDurationSeconds"), json!({"kind": "Status", "message": "no"})] {
            for status in [400, 405, 413, 415, 422] {
                assert!(matches!(update(status, answer.clone()), Failure::Declined(_)), "{status} {answer}");
            }
        }
    }

    #[test]
    fn answers_of_proxies_are_one_bounded_line_without_control_characters() {
        let Failure::Unclear(text) = update(502, Value::String(excerpt("<html>\n\u{1b}[31m".repeat(100).as_bytes())))
        else {
            panic!()
        };
        assert!(text.len() < 400 && !text.contains(['\n', '\u{1b}']));
    }
}
