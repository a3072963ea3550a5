//! A lock in an object of the API server's.
//!
//! The object is kept as the JSON that was read: a typed one would drop the fields that it does not know.

use super::client::{Client, MAX_BODY};
use super::error::{excerpt, failure, is_status};
use super::{Access, Answer, Changes, Lock};
use crate::lock::record::Record;
use crate::lock::request::{Change, Failure, Observation, Reply, Verb, Version};
use crate::mutant::Mutant;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::pin;
use std::rc::Rc;
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

/// What kind of object it is, and where in it the record is.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// As people call it: `lease`.
    pub name: &'static str,
    /// As URLs and Roles call it: `leases`.
    pub plural: &'static str,
    /// As the object itself says it: `Lease`.
    pub kind: &'static str,
    /// The API that it belongs to.
    pub api_version: &'static str,
    /// The record in it, empty where it has none.
    pub read: fn(&Value) -> Record,
    /// Puts the record into it, and leaves everything else as it is.
    pub write: fn(&mut Map<String, Value>, &Record),
}

/// An object that events are about.
pub struct Involved {
    /// What it is.
    pub kind: &'static Kind,
    /// Its namespace, in which the events are created.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The uid that it was last seen with: `kubectl describe` shows the events of that one only.
    pub uid: Rc<RefCell<String>>,
    /// As people call it: `lease ops/cronworker`.
    pub shown: String,
}

/// An object of this kind, name and namespace, there or not.
pub struct ObjectLock {
    kind: &'static Kind,
    client: Arc<Client>,
    namespace: String,
    name: String,
    /// The uid that it was last seen with: `kubectl describe` shows the events of that one only.
    uid: Rc<RefCell<String>>,
}

impl ObjectLock {
    /// A lock in this object.
    pub fn new(kind: &'static Kind, client: Arc<Client>, namespace: String, name: String) -> ObjectLock {
        ObjectLock { kind, client, namespace, name, uid: Rc::default() }
    }

    /// What a contender needs to do with it. Nobody can be limited to creating one name.
    pub fn accesses(&self) -> [Access; 4] {
        let group = self.kind.api_version.split_once('/').map_or("", |(group, _)| group);
        ["get", "create", "update", "watch"].map(|verb| {
            let name = (verb != "create").then(|| self.name.clone());
            Access { group, resource: self.kind.plural, name, verb }
        })
    }

    /// The object, as an event about it names it.
    pub fn involved(&self) -> Involved {
        let (namespace, name) = (self.namespace.clone(), self.name.clone());
        Involved { kind: self.kind, namespace, name, uid: self.uid.clone(), shown: self.to_string() }
    }

    fn collection(&self) -> String {
        let Kind { api_version, plural, .. } = self.kind;
        // The first API has a place of its own.
        let root = if api_version.contains('/') { "apis" } else { "api" };
        format!("/{root}/{api_version}/namespaces/{}/{plural}", self.namespace)
    }

    fn object(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }

    fn failure(&self, verb: Verb, status: u16, answer: &Value) -> Failure {
        if status < 400 {
            return Failure::Unclear(format!(
                "cannot {verb} {self}: the answer is not this {} ({status})",
                self.kind.kind
            ));
        }
        let needs = format!("get, create, update and watch on {}", self.kind.plural);
        failure(verb, &format!("{verb} {self}"), &needs, status, answer)
    }

    async fn send(&self, verb: Verb, request: Request<Vec<u8>>) -> Result<Value, Failure> {
        let (status, answer) = self.client.send(request).await?;
        if (200..300).contains(&status) && is_named(&answer, &self.name) {
            self.remember(&answer);
            return Ok(answer);
        }
        Err(self.failure(verb, status, &answer))
    }

    async fn write(&self, verb: Verb, request: Request<Vec<u8>>) -> Result<Reply, Failure> {
        self.send(verb, request).await.map(|object| Reply::Written(version(object)))
    }

    /// Writes the record on exactly this version.
    async fn put(&self, record: &Record, version: &Version) -> Result<Reply, Failure> {
        let mut object = (*version.object).clone();
        self.set_record(&mut object, record);
        self.write(Verb::Update, with_body(Request::put(self.object()), &object)).await
    }

    fn remember(&self, object: &Value) {
        let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        self.uid.replace(uid.into());
    }

    fn set_record(&self, object: &mut Value, record: &Record) {
        if let Value::Object(object) = object {
            (self.kind.write)(object, record);
        }
    }

    async fn read(&self) -> Result<Reply, Failure> {
        let (status, answer) = self.client.send(get(self.object())).await?;
        match status {
            200..300 if is_named(&answer, &self.name) => Ok(Reply::Found(Some(observation(self.kind, answer)))),
            404 if is_status(&answer)
                && answer.pointer("/details/kind").and_then(Value::as_str) == Some(self.kind.plural) =>
            {
                Ok(Reply::Found(None))
            }
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
            let line = answer.and_then(Result::ok).unwrap_or_default();
            let answer = serde_json::from_str(&line).unwrap_or_else(|_| Value::String(excerpt(line.as_bytes())));
            return Err(Change::Ended(Some(self.failure(Verb::Watch, status, &answer))));
        }
        let changes = lines.map(|line| match line {
            Ok(line) => change(self.kind, &line, &self.name),
            Err(error) => ended(&format!("broke: {error}")),
        });
        Ok(Box::pin(stream::iter([Change::Alive]).chain(changes).chain(stream::iter([Change::Ended(None)]))))
    }
}

impl fmt::Display for ObjectLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.name, self.namespace, self.name)
    }
}

impl Lock for ObjectLock {
    fn get(&self) -> Answer<'_> {
        Box::pin(self.read())
    }

    fn create(&self, record: Record) -> Answer<'_> {
        let mut object = json!({
            "apiVersion": self.kind.api_version, "kind": self.kind.kind,
            "metadata": {"namespace": self.namespace, "name": self.name},
        });
        self.set_record(&mut object, &record);
        let request = with_body(Request::post(self.collection()), &object);
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

    fn record(&self, version: &Version) -> Record {
        (self.kind.read)(&version.object)
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

pub fn get(url: String) -> Request<Vec<u8>> {
    // Every part of the URL has been checked to be plain: names, numbers, constants.
    Request::get(url).body(Vec::new()).expect("a plain URL")
}

pub fn with_body(request: http::request::Builder, object: &Value) -> Request<Vec<u8>> {
    let body = serde_json::to_vec(object).expect("JSON that was read or made here");
    request.header(CONTENT_TYPE, "application/json").body(body).expect("a plain URL")
}

/// The object at this key, made where there is none.
pub fn entry<'a>(object: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = object.entry(key).or_insert_with(|| Map::new().into());
    if !value.is_object() {
        *value = Map::new().into();
    }
    value.as_object_mut().expect("made one just now")
}

fn version(object: Value) -> Version {
    let text = |key| object.pointer(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Version { uid: text("/metadata/uid"), revision: text("/metadata/resourceVersion"), object: Arc::new(object) }
}

fn observation(kind: &Kind, object: Value) -> Observation {
    Observation { record: (kind.read)(&object), version: version(object) }
}

/// Whether this is the object of that name at some version. What is not was answered by something between us
/// and the API server. A version becomes a fencing token and part of a URL: only a number is one.
fn is_named(object: &Value, name: &str) -> bool {
    let text = |key| object.pointer(key).and_then(Value::as_str).unwrap_or_default();
    let revision = text("/metadata/resourceVersion");
    text("/metadata/name") == name
        && !text("/metadata/uid").is_empty()
        && (1..=MAX_DIGITS).contains(&revision.len())
        && revision.bytes().all(|b| b.is_ascii_digit())
}

/// One line of a watch of the object of this name.
fn change(kind: &Kind, line: &str, name: &str) -> Change {
    let Ok(mut event) = serde_json::from_str::<Value>(line) else {
        return ended("sent what is not JSON");
    };
    let object = event.get_mut("object").map(Value::take).unwrap_or_default();
    match event.get("type").and_then(Value::as_str) {
        Some("ADDED" | "MODIFIED" | "DELETED") if !is_named(&object, name) => {
            ended(&format!("sent what is not this {}", kind.kind))
        }
        Some("ADDED" | "MODIFIED") => Change::Seen(observation(kind, object)),
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
    use super::super::lease::LEASE;
    use super::*;

    #[test]
    fn x17_watch_lines() {
        let lease = r#"{"metadata":{"name":"l","uid":"u","resourceVersion":"8"},"spec":{"holderIdentity":"a"}}"#;
        let line = |kind: &str, object: &str| change(&LEASE, &format!(r#"{{"type":"{kind}","object":{object}}}"#), "l");
        assert!(
            matches!(line("MODIFIED", lease), Change::Seen(o) if o.record.holder == "a" && o.version.revision == "8")
        );
        assert!(matches!(line("DELETED", lease), Change::Deleted(v) if v.uid == "u"));
        assert!(matches!(line("BOOKMARK", lease), Change::Alive));
        assert!(matches!(line("ERROR", r#"{"code":410}"#), Change::Ended(None)));
        assert!(matches!(line("ERROR", r#"{"code":500}"#), Change::Ended(Some(_))));
        assert!(matches!(change(&LEASE, "{", "l"), Change::Ended(Some(_))));
        for (not, object) in [("l", "k"), ("8", ""), ("8", "1 HTTP"), ("8", "1\\u0000A=b"), ("\"u\"", "7")] {
            let odd = lease.replacen(not, object, 1);
            for kind in ["ADDED", "MODIFIED", "DELETED"] {
                assert!(matches!(line(kind, &odd), Change::Ended(Some(_))), "{odd}");
            }
        }
    }
}
