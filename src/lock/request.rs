//! What the elector and a lock say to each other: versions, observations, changes, failures.
//!
//! Plain data without I/O, so that the elector can be run against a simulated store.

use crate::lock::record::Record;
use serde_json::Value;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// One version of the lock object: what a conditional write is conditional on.
#[derive(Clone, Debug)]
pub struct Version {
    /// Which object: it changes when the lock is deleted and created again. Empty where there is none.
    pub uid: String,
    /// The `resourceVersion`: a growing decimal integer, and so the fencing token of a write.
    pub revision: String,
    /// The whole object as it was read, so that a write keeps what it does not know.
    pub object: Arc<Value>,
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.uid == other.uid && self.revision == other.revision
    }
}

impl Version {
    /// Whether `self` is an earlier version than `other`. Revisions are decimal integers of any length,
    /// comparable by length and then by text (KEP-5504).
    pub fn is_before(&self, other: &Version) -> bool {
        let (a, b) = (&self.revision, &other.revision);
        a.len().cmp(&b.len()).then_with(|| a.cmp(b)) == Ordering::Less
    }
}

/// What the lock said, and at which version.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The record, empty where the object has none.
    pub record: Record,
    /// The version it was read at.
    pub version: Version,
}

/// What an elector may ask of a lock.
#[derive(Clone, Debug)]
pub enum Request {
    /// Read the latest version, from the quorum and not from a cache.
    Get,
    /// Create the object; a conflict if it exists.
    Create(Record),
    /// Write the record on exactly this version; a conflict if it is no longer the latest.
    Update(Record, Version),
}

impl Request {
    /// The verb that a Role must grant for it.
    pub fn verb(&self) -> Verb {
        match self {
            Request::Get => Verb::Get,
            Request::Create(_) => Verb::Create,
            Request::Update(..) => Verb::Update,
        }
    }
}

/// The answer to a [`Request`] that was carried out.
#[derive(Clone, Debug)]
pub enum Reply {
    /// To a get: what is there, if anything.
    Found(Option<Observation>),
    /// To a create or update: the version it made.
    Written(Version),
}

/// What a watch reports.
#[derive(Clone, Debug)]
pub enum Change {
    /// The object is now like this.
    Seen(Observation),
    /// The object of this version is gone.
    Deleted(Version),
    /// The watch is open, and nothing changed (a bookmark).
    Alive,
    /// The watch is over. `None` when it ended as agreed or its starting point is too old: open a new one.
    Ended(Option<Failure>),
}

/// The verbs of a Role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read it.
    Get,
    /// Create it.
    Create,
    /// Write it.
    Update,
    /// See its changes.
    Watch,
    /// Write a part of it, whatever the rest says. Of our own pod's label only.
    Patch,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Get => "get",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Watch => "watch",
            Verb::Patch => "patch",
        })
    }
}

/// Why a request was not carried out, told apart by what may be done next. The texts can be shown as they are:
/// what they contain of others is bounded and escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The API server's 409, or 404 on a write: the version named is not the latest, or the object to create exists.
    Conflict,
    /// 401, 403, or the denial of an admission webhook or policy: surely not carried out. The text says who may not do
    /// what.
    Refused(Verb, String),
    /// Surely not carried out, and the same request never will be: a namespace that does not exist, an invalid name.
    Rejected(String),
    /// No server was talked to: its certificate is not trusted.
    Unusable(String),
    /// 429: surely not carried out.
    Busy(String),
    /// Any other refusal by the API server itself: surely not carried out.
    Declined(String),
    /// No answer in time: a write may have been carried out, or yet be.
    Timeout,
    /// Any other failure, also an answer that is not an API server's: a write may have been carried out.
    Unclear(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Conflict => f.write_str("another client changed the object first"),
            Failure::Timeout => f.write_str("no answer in time"),
            Failure::Refused(_, text)
            | Failure::Rejected(text)
            | Failure::Unusable(text)
            | Failure::Busy(text)
            | Failure::Declined(text)
            | Failure::Unclear(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn version(uid: &str, revision: u64) -> Version {
        Version { uid: uid.into(), revision: revision.to_string(), object: Arc::new(Value::Null) }
    }

    #[test]
    fn revisions_compare_as_numbers() {
        assert!(version("a", 9).is_before(&version("a", 10)));
        assert!(!version("a", 10).is_before(&version("a", 9)));
        assert!(!version("a", 10).is_before(&version("a", 10)));
    }

    #[test]
    fn a_version_is_the_same_only_with_the_same_object_and_revision() {
        assert!(version("a", 9) == version("a", 9));
        assert!(version("a", 9) != version("b", 9), "deleted and created again");
        assert!(version("a", 9) != version("a", 10));
    }

    #[test]
    fn each_verb_is_shown_as_a_role_names_it() {
        let shown = [Verb::Get, Verb::Create, Verb::Update, Verb::Watch, Verb::Patch].map(|verb| verb.to_string());
        assert_eq!(shown, ["get", "create", "update", "watch", "patch"]);
    }

    #[test]
    fn a_failure_is_shown_with_its_text() {
        let text = || "why".to_string();
        let told = [
            Failure::Refused(Verb::Get, text()),
            Failure::Rejected(text()),
            Failure::Unusable(text()),
            Failure::Busy(text()),
            Failure::Unclear(text()),
        ];
        assert!(told.iter().all(|failure| failure.to_string() == "why"));
    }
}
