//! The API server that a lock is on, and what can be asked of it besides the lock: who we are there, what we may do,
//! what time it is.

use super::client::{Client, MAX_BODY};
use super::error::{failure, is_status};
use super::object::{get, with_body};
use super::{Events, Lock, MultiLock, ObjectLock, Options, valid_name};
use crate::blocking;
use crate::clock::Wall;
use crate::lock::request::{Failure, Verb};
use anyhow::{Context, Result, anyhow};
use http::Request;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::runtime::Handle;

/// A right that a Role grants, within a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The API group, empty for the first one.
    pub group: &'static str,
    /// As Roles call it: `leases`.
    pub resource: &'static str,
    /// Of the object with this name only, where it is about one.
    pub name: Option<String>,
    /// What may be done.
    pub verb: &'static str,
}

/// An API server, and a namespace there.
pub struct Cluster {
    client: Arc<Client>,
    /// Where the lock is.
    pub namespace: String,
}

impl Cluster {
    /// The one that these options lead to; none for a lock in a file. No request is sent yet.
    ///
    /// # Errors
    /// One line about what is missing or wrong in the configuration.
    pub async fn of(options: &Options) -> Result<Option<Cluster>> {
        if options.kind.is_file() {
            return Ok(None);
        }
        // Credentials may come from a program that hangs: in a thread of its own it holds up nobody.
        let source = options.source.clone();
        let build = move || Handle::current().block_on(Client::new(&source));
        let (client, found) = blocking::start(build).await??;
        let namespace = options.namespace.clone().or(found);
        let namespace = namespace.context("no namespace: the kubeconfig's context names none; give --namespace")?;
        valid_name(&namespace, 63, false).map_err(|why| anyhow!("namespace {namespace:?} {why}"))?;
        Ok(Some(Cluster { client: Arc::new(client), namespace }))
    }

    /// The objects that the lock is in there, each as a lock of its own.
    pub fn objects(&self, options: &Options) -> Vec<ObjectLock> {
        let object = |kind| ObjectLock::new(kind, self.client.clone(), self.namespace.clone(), options.name.clone());
        options.kind.objects.iter().copied().map(object).collect()
    }

    /// The lock, and the events and labels for it.
    pub fn open(&self, options: &Options) -> (Box<dyn Lock>, Events) {
        let objects = self.objects(options);
        let events = Events::new(self.client.clone(), objects.iter().map(ObjectLock::involved).collect());
        let mut objects = objects.into_iter().map(|object| Box::new(object) as Box<dyn Lock>);
        let lock = match (objects.next(), objects.next()) {
            (Some(first), Some(lease)) => Box::new(MultiLock::new(first, lease)),
            (Some(only), _) => only,
            (None, _) => unreachable!("only a lock in a file has no objects, and no cluster"),
        };
        (lock, events)
    }

    /// Who the API server takes us for; `None` where it does not tell (before Kubernetes 1.28, or where we may not ask).
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn user(&self) -> Result<Option<String>, Failure> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let request = with_body(Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews"), &review);
        match self.client.send(request).await? {
            (200..300, answer) => {
                let user = answer.pointer("/status/userInfo/username").and_then(Value::as_str);
                Ok(user.filter(|user| !user.is_empty()).map(str::to_owned))
            }
            (403 | 404, _) => Ok(None),
            (status, answer) => {
                Err(failure(Verb::Create, "ask who we are", "create on selfsubjectreviews", status, &answer))
            }
        }
    }

    /// Whether we may do this.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn may(&self, access: &Access) -> Result<bool, Failure> {
        let Access { group, resource, name, verb } = access;
        let mut wanted = json!({"namespace": self.namespace, "group": group, "resource": resource, "verb": verb});
        if let Some(name) = name {
            wanted["name"] = name.as_str().into();
        }
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": wanted},
        });
        let request = with_body(Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"), &review);
        match self.client.send(request).await? {
            (200..300, answer) => Ok(answer.pointer("/status/allowed").and_then(Value::as_bool) == Some(true)),
            (status, answer) => {
                let needs = "create on selfsubjectaccessreviews";
                Err(failure(Verb::Create, "ask what we may do", needs, status, &answer))
            }
        }
    }

    /// Whether the namespace is there; `None` where we may not know.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn has_namespace(&self) -> Result<Option<bool>, Failure> {
        let (status, answer) = self.client.send(get(format!("/api/v1/namespaces/{}", self.namespace))).await?;
        Ok(match status {
            200..300 => Some(true),
            404 if is_status(&answer) => Some(false),
            _ => None,
        })
    }

    /// What is surely between the server's wall clock and ours, in seconds: positive where the server's is ahead, zero
    /// where they may be the same. `None` where it does not say the time.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn clock_difference(&self) -> Result<Option<f64>, Failure> {
        let before = Wall::now();
        let response = self.client.stream(get("/version".into())).await?;
        let after = Wall::now();
        let date = response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
        let server = date.and_then(Wall::parse_http);
        // Read, so that the connection can be used again.
        drop(Limited::new(response.into_body(), MAX_BODY).collect().await);
        // It gives whole seconds, of some moment while we waited.
        Ok(server.map(|server| {
            let (least, most) = (server.seconds_after(after), server.seconds_after(before) + 1.0);
            if least > 0.0 { least } else { most.min(0.0) }
        }))
    }
}
