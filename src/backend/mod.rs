//! Where a record lives: get, create, update, watch.
//!
//! A new lock type is one file here and one entry in [`TYPES`]. A lock knows nothing of elections, children
//! or reports; only this folder knows Kubernetes.

mod annotation;
pub mod client;
mod cluster;
pub mod error;
mod events;
mod file;
pub mod kubeconfig;
mod lease;
mod multi;
mod object;

pub use cluster::{Access, Cluster};
pub use events::{Events, Labeller};
pub use file::FileLock;
pub use multi::MultiLock;
pub use object::ObjectLock;

use crate::lock::record::{Precision, Record};
use crate::lock::request::{Change, Failure, Reply, Request, Version};
use annotation::{CONFIG_MAP, ENDPOINTS};
use anyhow::Result;
use futures_util::Stream;
use kubeconfig::Source;
use lease::{LEASE, LEASE_HALF};
use object::Kind;
use std::fmt::Display;
use std::path::PathBuf;
use std::pin::Pin;
use tracing::warn;

/// A lock type: what a lock is kept in.
#[derive(Debug)]
pub struct Type {
    /// As people call it: `lease`.
    pub name: &'static str,
    /// client-go's other name for it, where it has one.
    plural: Option<&'static str>,
    /// The kinds of objects that it is on an API server. Of two, the first is written first.
    objects: &'static [&'static Kind],
    /// How finely its records give times.
    pub precision: Precision,
}

/// All lock types. A new one on an API server is one entry here.
pub static TYPES: [Type; 6] = [
    Type { name: "lease", plural: Some("leases"), objects: &[&LEASE], precision: Precision::Microseconds },
    Type { name: "configmap", plural: Some("configmaps"), objects: &[&CONFIG_MAP], precision: Precision::Seconds },
    Type { name: "endpoints", plural: None, objects: &[&ENDPOINTS], precision: Precision::Seconds },
    Type {
        name: "configmapsleases",
        plural: None,
        objects: &[&CONFIG_MAP, &LEASE_HALF],
        precision: Precision::Seconds,
    },
    Type { name: "endpointsleases", plural: None, objects: &[&ENDPOINTS, &LEASE_HALF], precision: Precision::Seconds },
    Type { name: "file", plural: None, objects: &[], precision: Precision::Microseconds },
];

impl Type {
    /// The one that goes by this name.
    pub fn named(name: &str) -> Option<&'static Type> {
        TYPES.iter().find(|kind| kind.name == name || kind.plural == Some(name))
    }

    /// Whether it is a file on this machine.
    pub fn is_file(&self) -> bool {
        self.objects.is_empty()
    }

    /// Whether a watch shows every version, one by one: that of a single object on an API server does. The watch of
    /// two objects reads both again, and that of a file may come late.
    pub fn has_complete_watch(&self) -> bool {
        self.objects.len() == 1
    }
}

/// The answer to come to one request.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Reply, Failure>> + 'a>>;

/// What a watch reports. It ends after [`Change::Ended`].
pub type Changes<'a> = Pin<Box<dyn Stream<Item = Change> + 'a>>;

/// Which label, on which pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLabel {
    /// The pod's name.
    pub pod: String,
    /// Its namespace; where it is not given, that of the cluster's configuration.
    pub namespace: Option<String>,
    /// The label's key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// A place for one election record, with compare-and-swap. Shown as people call it: `lease ops/cronworker`.
pub trait Lock: Display {
    /// Reads the latest version, past every cache.
    fn get(&self) -> Answer<'_>;

    /// Creates the object with this record; a conflict if it exists.
    fn create(&self, record: Record) -> Answer<'_>;

    /// Writes the record on exactly this version and keeps everything else in the object; a conflict if the
    /// version is not the latest.
    fn update(&self, record: Record, version: Version) -> Answer<'_>;

    /// Reports every change after this version; without one, begins with what is there.
    fn watch(&self, from: Option<Version>) -> Changes<'_>;

    /// What the object of this version says.
    fn record(&self, version: &Version) -> Record {
        Record::from_lease_spec(version.object.get("spec"))
    }

    /// Of a lock in two objects: which they are, and what each of them said at this version.
    fn halves(&self, _version: &Version) -> Vec<(String, Option<Record>)> {
        Vec::new()
    }

    /// Carries out a request of the elector.
    fn request(&self, request: Request) -> Answer<'_> {
        match request {
            Request::Get => self.get(),
            Request::Create(record) => self.create(record),
            Request::Update(record, version) => self.update(record, version),
        }
    }
}

/// Which lock, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// What kind of lock.
    pub kind: &'static Type,
    /// Its namespace, where it is given.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Where file locks are kept, where that is given.
    pub folder: Option<PathBuf>,
    /// How to reach the cluster.
    pub source: Source,
}

/// A lock that was opened.
pub struct Opened {
    /// The lock.
    pub lock: Box<dyn Lock>,
    /// The namespace that it is in.
    pub namespace: String,
    /// Events and labels for this lock, if it is on an API server.
    pub events: Option<Events>,
}

/// Opens the lock. No request is sent yet.
///
/// # Errors
/// One line about what is missing or wrong: the cluster's configuration, the namespace, the lock folder.
pub async fn open(options: &Options) -> Result<Opened> {
    if let Some(cluster) = Cluster::of(options).await? {
        let (lock, events) = cluster.open(options);
        return Ok(Opened { lock, namespace: cluster.namespace, events: Some(events) });
    }
    let namespace = file_namespace(options);
    let lock = FileLock::new(options.folder.as_deref(), namespace.clone(), options.name.clone())?;
    if let Some(remote) = lock.remote() {
        warn!("the lock folder is on {remote}: kernel locks may not reach every contender there");
    }
    Ok(Opened { lock: Box::new(lock), namespace, events: None })
}

/// The lock file that these options name, to be looked at: neither it nor its folder is made.
///
/// # Errors
/// When the folder cannot be trusted, or cannot be used.
pub fn find_file(options: &Options) -> Result<FileLock> {
    FileLock::find(options.folder.as_deref(), file_namespace(options), options.name.clone())
}

/// The namespace of a lock in a file: it has one only so that it can be called as another one.
pub fn file_namespace(options: &Options) -> String {
    options.namespace.clone().unwrap_or_else(|| "default".into())
}

/// Checks a name as the API server does (DNS-1123): of a label, or of a subdomain, which may have dots.
///
/// # Errors
/// What it must be like instead.
pub fn valid_name(name: &str, longest: usize, dots: bool) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || (dots && c == '.');
    let odd_edge = |part: &str| part.starts_with('-') || part.ends_with('-') || part.is_empty();
    if name.len() > longest {
        return Err(format!("must have at most {longest} characters"));
    }
    if !name.chars().all(allowed) || name.split('.').any(odd_edge) {
        let dot = if dots { ", '-' and '.'" } else { " and '-'" };
        return Err(format!(
            "must consist of lower-case letters, digits{dot}, and begin and end with a letter or digit"
        ));
    }
    Ok(())
}
