//! A lock in a Lease.
//!
//! The object is kept as the JSON that was read: a typed one would drop the fields that it does not know.

use super::client::{Client, MAX_BODY, excerpt, failure};
use super::{Answer, Changes, Lock};
use crate::mutant::Mutant;
use crate::record::Record;
use crate::store::{Change, Failure, Observation, Reply, Verb, Version};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use http::Request;
use http_body_util::BodyExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Resource;
use serde_json::{Map, Value, json};
use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

/// The server ends a watch after this long: the elector opens the next one.
const WATCH_SECONDS: u32 = 300;
/// A watch that has not begun by then will not.
const WATCH_START: Duration = Duration::from_secs(10);
/// Of a version. The API server's have 64 bits, and may one day be longer.
const MAX_DIGITS: usize = 64;
const NEEDS: &str = "get, create, update and watch on leases";

/// A Lease of this name in this namespace, there or not.
pub struct LeaseLock {
    client: Client,
    namespace: String,
    name: String,
}

impl LeaseLock {
    /// A lock in this Lease.
    pub fn new(client: Client, namespace: String, name: String) -> LeaseLock {
        LeaseLock { client, namespace, name }
    }

    fn collection(&self) -> String {
        Lease::url_path(&(), Some(&self.namespace))
    }

    fn object(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }

    fn failure(&self, verb: Verb, status: u16, answer: &Value) -> Failure {
        if status < 400 {
            return Failure::Unclear(format!("cannot {verb} {self}: the answer is not this Lease ({status})"));
        }
        failure(verb, &format!("{verb} {self}"), NEEDS, status, answer)
    }

    async fn send(&self, verb: Verb, request: Request<Vec<u8>>) -> Result<Value, Failure> {
        let (status, answer) = self.client.send(request).await?;
        if (200..300).contains(&status) && is_lease(&answer, &self.name) {
            return Ok(answer);
        }
        Err(self.failure(verb, status, &answer))
    }

    async fn write(&self, verb: Verb, request: Request<Vec<u8>>) -> Result<Reply, Failure> {
        self.send(verb, request).await.map(|object| Reply::Written(version(object)))
    }

    /// Writes the record on exactly this version.
    async fn put(&self, record: &Record, version: &Version) -> Result<Reply, Failure> {
        let mut lease = (*version.object).clone();
        set_record(&mut lease, record);
        self.write(Verb::Update, with_body(Request::put(self.object()), &lease)).await
    }

    async fn read(&self) -> Result<Reply, Failure> {
        let (status, answer) = self.client.send(get(self.object())).await?;
        match status {
            200..300 if is_lease(&answer, &self.name) => Ok(Reply::Found(Some(observation(answer)))),
            404 if answer.pointer("/details/kind").and_then(Value::as_str) == Some("leases") => Ok(Reply::Found(None)),
            _ => Err(self.failure(Verb::Get, status, &answer)),
        }
    }

    async fn open_watch(&self, from: Option<Version>) -> Result<Changes<'_>, Change> {
        let start = from.map(|version| format!("&resourceVersion={}", version.revision)).unwrap_or_default();
        let url = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&fieldSelector=metadata.name%3D{}{start}",
            self.collection(),
            self.name
        );
        let opened = tokio::time::timeout(WATCH_START, self.client.stream(get(url))).await;
        let response = opened.unwrap_or(Err(Failure::Timeout)).map_err(|e| Change::Ended(Some(e)))?;
        let status = response.status().as_u16();
        if status == 410 {
            return Err(Change::Ended(None));
        }
        let body = response.into_body().into_data_stream().map_err(io::Error::other);
        let lines = FramedRead::new(StreamReader::new(body), LinesCodec::new_with_max_length(MAX_BODY));
        if status != 200 {
            let answer = tokio::time::timeout(WATCH_START, pin!(lines).next()).await.ok().flatten();
            let answer = answer.and_then(|line| serde_json::from_str(&line.ok()?).ok()).unwrap_or_default();
            return Err(Change::Ended(Some(self.failure(Verb::Watch, status, &answer))));
        }
        let changes = lines.map(|line| match line {
            Ok(line) => change(&line, &self.name),
            Err(error) => ended(&format!("broke: {error}")),
        });
        Ok(Box::pin(stream::iter([Change::Alive]).chain(changes).chain(stream::iter([Change::Ended(None)]))))
    }
}

impl fmt::Display for LeaseLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lease {}/{}", self.namespace, self.name)
    }
}

impl Lock for LeaseLock {
    fn get(&self) -> Answer<'_> {
        Box::pin(self.read())
    }

    fn create(&self, record: Record) -> Answer<'_> {
        let mut lease = json!({
            "apiVersion": Lease::api_version(&()), "kind": Lease::kind(&()),
            "metadata": {"namespace": self.namespace, "name": self.name}, "spec": {},
        });
        set_record(&mut lease, &record);
        let request = with_body(Request::post(self.collection()), &lease);
        Box::pin(self.write(Verb::Create, request))
    }

    fn update(&self, record: Record, version: Version) -> Answer<'_> {
        Box::pin(async move {
            let answer = self.put(&record, &version).await;
            // The API server takes no write of a Lease without a version: one that ignores it is made again.
            if Mutant::UnconditionalPut.is_on()
                && matches!(answer, Err(Failure::Conflict))
                && let Reply::Found(Some(newer)) = self.read().await?
            {
                return self.put(&record, &newer.version).await;
            }
            answer
        })
    }

    fn watch(&self, from: Option<Version>) -> Changes<'_> {
        let opening = async move {
            match self.open_watch(from).await {
                Ok(changes) => changes,
                Err(ended) => Box::pin(stream::iter([ended])),
            }
        };
        Box::pin(stream::once(opening).flatten())
    }
}

fn get(url: String) -> Request<Vec<u8>> {
    // Every part of the URL has been checked to be plain: names, numbers, constants.
    Request::get(url).body(Vec::new()).expect("a plain URL")
}

fn with_body(request: http::request::Builder, object: &Value) -> Request<Vec<u8>> {
    let body = serde_json::to_vec(object).expect("JSON that was read or made here");
    request.header(http::header::CONTENT_TYPE, "application/json").body(body).expect("a plain URL")
}

fn set_record(lease: &mut Value, record: &Record) {
    if let Value::Object(lease) = lease {
        let spec = lease.entry("spec").or_insert_with(|| Map::new().into());
        if !spec.is_object() {
            *spec = Map::new().into();
        }
        record.into_lease_spec(spec.as_object_mut().expect("made one just now"));
    }
}

fn version(object: Value) -> Version {
    let text = |key| object.pointer(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Version { uid: text("/metadata/uid"), revision: text("/metadata/resourceVersion"), object: Arc::new(object) }
}

fn observation(object: Value) -> Observation {
    Observation { record: Record::from_lease_spec(object.get("spec")), version: version(object) }
}

/// Whether this is the Lease of that name at some version. What is not was answered by something between us
/// and the API server. A version becomes a fencing token and part of a URL: only a number is one.
fn is_lease(object: &Value, name: &str) -> bool {
    let text = |key| object.pointer(key).and_then(Value::as_str).unwrap_or_default();
    let revision = text("/metadata/resourceVersion");
    text("/metadata/name") == name
        && !text("/metadata/uid").is_empty()
        && (1..=MAX_DIGITS).contains(&revision.len())
        && revision.bytes().all(|b| b.is_ascii_digit())
}

/// One line of a watch of the Lease of this name.
fn change(line: &str, name: &str) -> Change {
    let Ok(mut event) = serde_json::from_str::<Value>(line) else {
        return ended("sent what is not JSON");
    };
    let object = event.get_mut("object").map(Value::take).unwrap_or_default();
    match event.get("type").and_then(Value::as_str) {
        Some("ADDED" | "MODIFIED" | "DELETED") if !is_lease(&object, name) => ended("sent what is not this Lease"),
        Some("ADDED" | "MODIFIED") => Change::Seen(observation(object)),
        Some("DELETED") => Change::Deleted(version(object)),
        Some("BOOKMARK") => Change::Alive,
        // 410: the version to start from is too old.
        Some("ERROR") if object.get("code").and_then(Value::as_u64) == Some(410) => Change::Ended(None),
        _ => {
            let message = object.get("message").and_then(Value::as_str).unwrap_or_default();
            ended(&format!("ended: {message}"))
        }
    }
}

/// The end of a watch that did this.
fn ended(how: &str) -> Change {
    Change::Ended(Some(Failure::Unclear(format!("the watch {}", excerpt(how.as_bytes())))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x5_a_write_keeps_labels_annotations_and_fields_it_does_not_know() {
        let read = json!({"metadata": {"uid": "u", "resourceVersion": "7", "labels": {"team": "a"}},
                          "spec": {"holderIdentity": "x", "preferredHolder": "y", "future": [1]}, "status": {"odd": true}});
        let mut written = read.clone();
        set_record(&mut written, &Record { holder: "me".into(), lease_seconds: Some(15), ..Record::default() });
        assert_eq!(written["metadata"], read["metadata"]);
        assert_eq!(written["status"], read["status"]);
        assert_eq!(written["spec"]["future"], json!([1]));
        assert_eq!(written["spec"]["holderIdentity"], "me");
    }

    #[test]
    fn x17_watch_lines() {
        let lease = r#"{"metadata":{"name":"l","uid":"u","resourceVersion":"8"},"spec":{"holderIdentity":"a"}}"#;
        let line = |kind: &str, object: &str| change(&format!(r#"{{"type":"{kind}","object":{object}}}"#), "l");
        assert!(
            matches!(line("MODIFIED", lease), Change::Seen(o) if o.record.holder == "a" && o.version.revision == "8")
        );
        assert!(matches!(line("DELETED", lease), Change::Deleted(v) if v.uid == "u"));
        assert!(matches!(line("BOOKMARK", lease), Change::Alive));
        assert!(matches!(line("ERROR", r#"{"code":410}"#), Change::Ended(None)));
        assert!(matches!(line("ERROR", r#"{"code":500}"#), Change::Ended(Some(_))));
        assert!(matches!(change("{", "l"), Change::Ended(Some(_))));
        for (not, object) in [("l", "k"), ("8", ""), ("8", "1 HTTP"), ("8", "1\\u0000A=b"), ("\"u\"", "7")] {
            let odd = lease.replacen(not, object, 1);
            for kind in ["ADDED", "MODIFIED", "DELETED"] {
                assert!(matches!(line(kind, &odd), Change::Ended(Some(_))), "{odd}");
            }
        }
    }

    #[test]
    fn a_lease_whose_spec_is_no_object_can_be_written() {
        for mut lease in [json!({}), json!({"spec": null}), json!({"spec": 5})] {
            set_record(&mut lease, &Record::default());
            assert_eq!(lease["spec"]["holderIdentity"], "");
        }
    }
}
