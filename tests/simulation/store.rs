//! The API server: one lock object, linearizable compare-and-swap, and the changes that watches show.

use leader_run::lock::record::Record;
use leader_run::lock::request::{Change, Failure, Observation, Reply, Request, Version};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub struct Store {
    object: Option<Observation>,
    revision: u64,
    objects: u64,
    /// Every change so far, with its revision and when it was made.
    pub changes: Vec<(u64, Duration, Change)>,
    nothing: Arc<Value>,
}

impl Store {
    pub fn new() -> Store {
        Store { object: None, revision: 100, objects: 0, changes: Vec::new(), nothing: Arc::default() }
    }

    pub fn object(&self) -> Option<&Observation> {
        self.object.as_ref()
    }

    fn version(&mut self, uid: String) -> Version {
        self.revision += 1;
        Version { uid, revision: self.revision.to_string(), object: self.nothing.clone() }
    }

    fn put(&mut self, now: Duration, record: Record, uid: String) -> Version {
        let version = self.version(uid);
        let seen = Observation { record, version: version.clone() };
        self.changes.push((self.revision, now, Change::Seen(seen.clone())));
        self.object = Some(seen);
        version
    }

    pub fn apply(&mut self, now: Duration, request: &Request) -> Result<Reply, Failure> {
        match request {
            Request::Get => Ok(Reply::Found(self.object.clone())),
            Request::Create(_) if self.object.is_some() => Err(Failure::Conflict),
            Request::Create(record) => {
                self.objects += 1;
                let uid = self.objects.to_string();
                Ok(Reply::Written(self.put(now, record.clone(), uid)))
            }
            Request::Update(record, on) => match &self.object {
                Some(known) if known.version == *on => {
                    let uid = known.version.uid.clone();
                    Ok(Reply::Written(self.put(now, record.clone(), uid)))
                }
                _ => Err(Failure::Conflict),
            },
        }
    }

    /// Somebody changes a label: a new version of the same record.
    pub fn touch(&mut self, now: Duration) {
        if let Some(Observation { record, version }) = self.object.take() {
            self.put(now, record, version.uid);
        }
    }

    /// Somebody replaces the object by one without a record.
    pub fn wipe(&mut self, now: Duration) {
        if let Some(Observation { version, .. }) = self.object.take() {
            self.put(now, Record::default(), version.uid);
        }
    }

    pub fn delete(&mut self, now: Duration) {
        if let Some(known) = self.object.take() {
            let version = self.version(known.version.uid);
            self.changes.push((self.revision, now, Change::Deleted(version)));
        }
    }
}
