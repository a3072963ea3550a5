//! Kubernetes Events on the objects of a lock, and a label on the leader's pod.

use super::PodLabel;
use super::client::Client;
use super::error::failure;
use super::object::{Involved, with_body};
use crate::clock::Now;
use crate::lock::record::Precision;
use crate::lock::request::{Failure, Verb};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request};
use serde_json::json;
use std::pin::Pin;
use std::sync::Arc;

/// An event or a label on its way to the API server.
pub type Announcement = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// Adds a label to a pod (`true`), or removes it.
pub type Labeller = Box<dyn Fn(bool) -> Announcement + Send + Sync>;

/// Creates events about a lock, and labels the leader's pod.
pub struct Events {
    client: Arc<Client>,
    objects: Vec<Involved>,
}

impl Events {
    /// Events about these objects.
    pub fn new(client: Arc<Client>, objects: Vec<Involved>) -> Events {
        Events { client, objects }
    }

    /// Creates an event with this message on each object of the lock: in client-go's words and of the same kind, so that
    /// `kubectl describe` shows one history.
    pub fn announce(&self, message: &str) -> Vec<Announcement> {
        self.objects.iter().map(|object| self.announce_at(object, message)).collect()
    }

    fn announce_at(&self, object: &Involved, message: &str) -> Announcement {
        let at = Precision::Seconds.text(Now::read().wall);
        let host = nix::unistd::gethostname().map(|host| host.to_string_lossy().into_owned()).unwrap_or_default();
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"generateName": format!("{}.", object.name), "namespace": object.namespace},
            "involvedObject": {
                "apiVersion": object.kind.api_version, "kind": object.kind.kind,
                "namespace": object.namespace, "name": object.name, "uid": *object.uid.borrow(),
            },
            "reason": "LeaderElection", "message": message, "type": "Normal",
            "firstTimestamp": at, "lastTimestamp": at, "count": 1,
            "source": {"component": "leader-run", "host": host}, "reportingComponent": "leader-run",
        });
        let request = with_body(Request::post(format!("/api/v1/namespaces/{}/events", object.namespace)), &event);
        let (client, subject) = (self.client.clone(), format!("create an event at {}", object.shown));
        Box::pin(async move {
            match client.send(request).await? {
                (200..300, _) => Ok(()),
                (status, answer) => Err(failure(Verb::Create, &subject, "create on events", status, &answer)),
            }
        })
    }

    /// A function that adds this label to its pod, or removes it.
    pub fn labeller(&self, label: &PodLabel) -> Labeller {
        let namespace = label.namespace.as_deref().unwrap_or(self.client.namespace());
        let url = format!("/api/v1/namespaces/{namespace}/pods/{}", label.pod);
        let subject = format!("label pod {namespace}/{}", label.pod);
        let (client, key, value) = (self.client.clone(), label.key.clone(), label.value.clone());
        Box::new(move |on| {
            let patch = json!({"metadata": {"labels": {key.as_str(): on.then_some(&value)}}});
            let mut request = with_body(Request::patch(url.as_str()), &patch);
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/merge-patch+json"));
            let (client, subject) = (client.clone(), subject.clone());
            Box::pin(async move {
                match client.send(request).await? {
                    (200..300, _) => Ok(()),
                    (status, answer) => Err(failure(Verb::Patch, &subject, "patch on pods", status, &answer)),
                }
            })
        })
    }
}
