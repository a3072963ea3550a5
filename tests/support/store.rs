//! The Leases of an API server in memory: one state behind one mutex, so that every write is seen by every
//! later read, with the checks and the refusals of the real one.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Namespace and name.
pub type Key = (String, String);

/// All Leases at one version.
#[derive(Clone, Default)]
pub struct Snapshot {
    pub revision: u64,
    leases: BTreeMap<Key, Value>,
}

/// What a watch is sent.
#[derive(Clone)]
pub struct Event {
    pub revision: u64,
    pub key: Key,
    pub kind: &'static str,
    pub lease: Value,
}

/// Leases, and what happened to them since.
#[derive(Default)]
pub struct Store {
    now: Snapshot,
    events: Vec<Event>,
    /// Events up to here are forgotten.
    compacted: u64,
    uids: u64,
}

/// Why a request is refused: what becomes a `Status`.
#[derive(Debug)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    name: String,
}

impl Refusal {
    pub fn new(code: u16, reason: &'static str, name: &str, message: String) -> Refusal {
        Refusal { code, reason, message, name: name.into() }
    }

    fn conflict(name: &str, why: &str) -> Refusal {
        let text = format!("Operation cannot be fulfilled on leases.coordination.k8s.io {name:?}: {why}");
        Refusal::new(409, "Conflict", name, text)
    }

    fn not_found(name: &str) -> Refusal {
        Refusal::new(404, "NotFound", name, format!("leases.coordination.k8s.io {name:?} not found"))
    }

    fn invalid(name: &str, why: &str) -> Refusal {
        Refusal::new(422, "Invalid", name, format!("Lease.coordination.k8s.io {name:?} is invalid: {why}"))
    }

    pub fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
            "details": {"name": self.name, "group": "coordination.k8s.io", "kind": "leases"},
        })
    }
}

type Answer<T = Value> = Result<T, Refusal>;

impl Snapshot {
    pub fn get(&self, key: &Key) -> Answer {
        self.leases.get(key).cloned().ok_or_else(|| Refusal::not_found(&key.1))
    }

    /// The Leases of a namespace, or only the one of this name.
    pub fn list<'a>(&'a self, namespace: &'a str, only: Option<&'a str>) -> impl Iterator<Item = (&'a Key, &'a Value)> {
        self.leases.iter().filter(move |(key, _)| matches(key, namespace, only))
    }
}

pub fn matches(key: &Key, namespace: &str, only: Option<&str>) -> bool {
    key.0 == namespace && only.is_none_or(|name| key.1 == name)
}

fn text<'a>(lease: &'a Value, field: &str) -> &'a str {
    lease["metadata"][field].as_str().unwrap_or_default()
}

fn check(key: &Key, lease: &Value) -> Answer<()> {
    if text(lease, "name") != key.1 {
        let text = "the name of the object does not match the name on the URL";
        return Err(Refusal::new(400, "BadRequest", &key.1, text.into()));
    }
    let spec = &lease["spec"];
    if spec["leaseDurationSeconds"].as_i64().is_some_and(|seconds| seconds <= 0) {
        return Err(Refusal::invalid(&key.1, "spec.leaseDurationSeconds: must be greater than 0"));
    }
    if spec["leaseTransitions"].as_i64().is_some_and(|transitions| transitions < 0) {
        return Err(Refusal::invalid(&key.1, "spec.leaseTransitions: must be greater than or equal to 0"));
    }
    Ok(())
}

impl Store {
    pub fn now(&self) -> &Snapshot {
        &self.now
    }

    pub fn create(&mut self, key: Key, mut lease: Value) -> Answer {
        check(&key, &lease)?;
        if !text(&lease, "resourceVersion").is_empty() {
            let text = "resourceVersion should not be set on objects to be created";
            return Err(Refusal::new(500, "", &key.1, text.into()));
        }
        if self.now.leases.contains_key(&key) {
            let text = format!("leases.coordination.k8s.io {:?} already exists", key.1);
            return Err(Refusal::new(409, "AlreadyExists", &key.1, text));
        }
        self.uids += 1;
        lease["metadata"]["uid"] = format!("00000000-0000-4000-8000-{:012}", self.uids).into();
        lease["metadata"]["namespace"] = key.0.as_str().into();
        lease["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        Ok(self.put(key, lease, "ADDED"))
    }

    /// As the real one, this creates what is not there, and it wants a version of what is.
    pub fn update(&mut self, key: Key, mut lease: Value) -> Answer {
        check(&key, &lease)?;
        let Some(known) = self.now.leases.get(&key) else {
            let unconditional = ["uid", "resourceVersion"].iter().all(|field| text(&lease, field).is_empty());
            if unconditional {
                return self.create(key, lease);
            }
            return Err(Refusal::conflict(&key.1, "the object is gone"));
        };
        let (uid, version) = (text(&lease, "uid"), text(&lease, "resourceVersion"));
        if !uid.is_empty() && uid != text(known, "uid") {
            let why =
                format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", text(known, "uid"));
            return Err(Refusal::conflict(&key.1, &why));
        }
        if version.is_empty() {
            return Err(Refusal::invalid(&key.1, "metadata.resourceVersion: must be specified for an update"));
        }
        if version != text(known, "resourceVersion") {
            let why = "the object has been modified; please apply your changes to the latest version and try again";
            return Err(Refusal::conflict(&key.1, why));
        }
        for field in ["uid", "namespace", "creationTimestamp"] {
            lease["metadata"][field] = known["metadata"][field].clone();
        }
        if lease == *known {
            // A write that changes nothing makes no version.
            return Ok(lease);
        }
        Ok(self.put(key, lease, "MODIFIED"))
    }

    /// Writes without asking for anything, also what the real one would not take.
    pub fn force(&mut self, key: Key, lease: Value) -> Value {
        let kind = if self.now.leases.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        self.put(key, lease, kind)
    }

    pub fn delete(&mut self, key: &Key) -> Answer {
        let Some(mut lease) = self.now.leases.remove(key) else {
            return Err(Refusal::not_found(&key.1));
        };
        let uid = text(&lease, "uid").to_owned();
        self.now.revision += 1;
        lease["metadata"]["resourceVersion"] = self.now.revision.to_string().into();
        self.note(key.clone(), "DELETED", lease);
        let details = json!({"name": key.1, "group": "coordination.k8s.io", "kind": "leases", "uid": uid});
        Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}))
    }

    fn put(&mut self, key: Key, mut lease: Value, kind: &'static str) -> Value {
        self.now.revision += 1;
        let metadata = &mut lease["metadata"];
        if !metadata.is_object() {
            *metadata = Map::new().into();
        }
        metadata["resourceVersion"] = self.now.revision.to_string().into();
        lease["apiVersion"] = "coordination.k8s.io/v1".into();
        lease["kind"] = "Lease".into();
        self.now.leases.insert(key.clone(), lease.clone());
        self.note(key, kind, lease.clone());
        lease
    }

    fn note(&mut self, key: Key, kind: &'static str, lease: Value) {
        self.events.push(Event { revision: self.now.revision, key, kind, lease });
    }

    /// What happened after this version, or that it is too old to tell.
    pub fn since(&self, revision: u64) -> Answer<impl Iterator<Item = &Event>> {
        if revision < self.compacted {
            let text = format!("too old resource version: {revision} ({})", self.compacted);
            return Err(Refusal::new(410, "Expired", "", text));
        }
        Ok(self.events.iter().filter(move |event| event.revision > revision))
    }

    /// Forgets what happened until now.
    pub fn compact(&mut self) {
        self.compacted = self.now.revision;
        self.events.clear();
    }

    /// Goes back to an earlier state, versions and all, as a restored backup does.
    pub fn restore(&mut self, earlier: &Snapshot) {
        self.now = earlier.clone();
        self.events.retain(|event| event.revision <= earlier.revision);
        self.compacted = self.compacted.min(earlier.revision);
    }
}
