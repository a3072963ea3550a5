//! Where a record lives: get, create, update, watch.
//!
//! A new lock type is one file here and one line in [`TYPES`]. A lock knows nothing of elections, children
//! or reports; only this folder knows Kubernetes.

pub mod client;
mod file;
mod lease;

pub use file::FileLock;
pub use lease::LeaseLock;

use crate::record::Record;
use crate::store::{Change, Failure, Reply, Request, Version};
use futures_util::Stream;
use std::fmt::Display;
use std::pin::Pin;

/// The lock types, by the names they go by: ours first, client-go's plural after it.
pub const TYPES: [(&str, Option<&str>, Type); 2] = [("lease", Some("leases"), Type::Lease), ("file", None, Type::File)];

/// What kind of object the lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A Lease of `coordination.k8s.io/v1`.
    Lease,
    /// A file on this machine.
    File,
}

/// The answer to come to one request.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Reply, Failure>> + 'a>>;

/// What a watch reports. It ends after [`Change::Ended`].
pub type Changes<'a> = Pin<Box<dyn Stream<Item = Change> + 'a>>;

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

    /// Carries out a request of the elector.
    fn request(&self, request: Request) -> Answer<'_> {
        match request {
            Request::Get => self.get(),
            Request::Create(record) => self.create(record),
            Request::Update(record, version) => self.update(record, version),
        }
    }
}
