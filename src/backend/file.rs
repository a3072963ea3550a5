//! A lock in a file, for one machine: the same election without a cluster.
//!
//! The record is one JSON file per lock, replaced atomically. Compare-and-swap is done under a kernel lock
//! on a second file beside it, which is never replaced.

use super::{Answer, Changes, Lock};
use crate::clock::Wall;
use crate::lock::record::Record;
use crate::lock::request::{Change, Failure, Observation, Reply, Version};
use crate::sys::{self, Watched};
use anyhow::{Context, Result, bail, ensure};
use futures_util::stream;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::statfs::statfs;
use nix::unistd::geteuid;
use serde_json::{Value, json};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

/// How often the file is looked at besides, in case that a notice is lost.
const POLL: Duration = Duration::from_millis(500);
/// The same where the kernel does not tell of other machines' changes.
const POLL_REMOTE: Duration = Duration::from_millis(100);
/// How often a kernel lock that somebody else holds is tried again.
const RETRY: Duration = Duration::from_millis(1);

/// No record is longer: in bytes, as much as of an API server's object.
const MAX_RECORD: u64 = super::client::MAX_BODY as u64;

/// File systems on which a kernel lock may not reach every contender, by their magic numbers (statfs(2)).
const REMOTE: [(i64, &str); 3] = [(0x6969, "NFS"), (0x6573_5546, "FUSE"), (0x0102_1997, "9p")];

/// A lock in a file of this folder.
pub struct FileLock {
    folder: PathBuf,
    namespace: String,
    name: String,
    remote: Option<&'static str>,
}

impl FileLock {
    /// A lock of this name. The folder is `given`, or one of this user's own in `/tmp`.
    ///
    /// # Errors
    /// When the folder cannot be trusted, or cannot be used.
    pub fn new(given: Option<&Path>, namespace: String, name: String) -> Result<FileLock> {
        match given {
            Some(folder) => fs::create_dir_all(folder),
            None => match DirBuilder::new().mode(0o700).create(own_folder()) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
                made => made,
            },
        }
        .with_context(|| {
            let folder = given.map_or_else(own_folder, Path::to_owned);
            let other = if given.is_some() { "" } else { " (--lock-dir names another)" };
            format!("cannot make lock folder {}{other}", folder.display())
        })?;
        FileLock::find(given, namespace, name)
    }

    /// The same, but nothing is made: without a folder there is no lock.
    ///
    /// # Errors
    /// When the folder cannot be trusted, or cannot be used.
    pub fn find(given: Option<&Path>, namespace: String, name: String) -> Result<FileLock> {
        let folder = match given {
            // Whoever gives a folder answers for who may write there.
            Some(folder) => folder.to_owned(),
            None => own_folder(),
        };
        let kind = match statfs(&folder) {
            Err(Errno::ENOENT) => return Ok(FileLock { folder, namespace, name, remote: None }),
            kind => kind.with_context(|| format!("cannot use lock folder {}", folder.display()))?,
        };
        if given.is_none() {
            check_own(&folder)?;
        }
        let kind = kind.filesystem_type().0 as i64;
        let remote = REMOTE.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name);
        if let (Some(remote), None) = (remote, given) {
            bail!(
                "lock folder {} is on {remote}, where locks may not reach everybody; give --lock-dir with a local folder, \
                 or with this one to use it all the same",
                folder.display()
            );
        }
        Ok(FileLock { folder, namespace, name, remote })
    }

    /// Where its records are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kind of network file system that the folder is on, if it is on one: worth a warning.
    pub fn remote(&self) -> Option<&'static str> {
        self.remote
    }

    /// Neither part of a lock's name can have an underscore, so this is unambiguous.
    fn path(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}_{}.{ending}", self.namespace, self.name))
    }

    fn failure(&self, error: &io::Error) -> Failure {
        let text = format!("cannot use {self} in {}: {error}", self.folder.display());
        match error.kind() {
            ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::NotADirectory
            | ErrorKind::InvalidFilename => Failure::Rejected(text),
            _ => Failure::Unclear(text),
        }
    }

    fn read(&self) -> Result<Option<Observation>, Failure> {
        match open_plain(&self.path("json")).and_then(read_capped) {
            Ok(text) => Ok(Some(observation(&text))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Takes the kernel lock, waiting without blocking: its holder may have been stopped.
    async fn guard(&self) -> Result<File, Failure> {
        let path = self.path("lock");
        loop {
            match self.try_guard(&path) {
                Ok(Some(file)) => return Ok(file),
                Ok(None) => sleep(RETRY).await,
                Err(error) => return Err(self.failure(&error)),
            }
        }
    }

    /// Takes the kernel lock if it can be had at this moment.
    fn try_guard(&self, path: &Path) -> io::Result<Option<File>> {
        // Only read, so that other users may lock it whose file it is not.
        let file = match open_plain(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => match self.create_file(path) {
                // Somebody else was faster.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(None),
                created => created?,
            },
            opened => opened?,
        };
        match file.try_lock() {
            // A cleaner of /tmp may have removed it meanwhile, and then it keeps nobody out.
            Ok(()) => Ok(same_file(&file, path).then_some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// A new file, which everybody may read who may read the folder.
    fn create_file(&self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        Ok(file)
    }

    /// Writes the record if what is there is still this version (`None`: nothing).
    async fn swap(&self, record: Record, expected: Option<Version>) -> Result<Reply, Failure> {
        let guard = self.guard().await?;
        let found = self.read()?;
        if found.as_ref().map(|found| &found.version) != expected.as_ref() {
            return Err(Failure::Conflict);
        }
        let last = found.map_or(0, |found| found.version.revision.parse::<i64>().unwrap_or(0));
        // Two writes of one version would both succeed.
        let next = last.checked_add(1).ok_or_else(|| {
            Failure::Rejected(format!(
                "cannot use {self} in {}: its version is the highest there is",
                self.folder.display()
            ))
        })?;
        // By the wall clock, so that a lock that was deleted does not begin again with lower tokens.
        let revision = next.max(Wall::now().0).to_string();
        let mut spec = expected
            .and_then(|version| version.object.get("spec").and_then(Value::as_object).cloned())
            .unwrap_or_default();
        record.into_lease_spec(&mut spec);
        let object = json!({"resourceVersion": revision, "spec": spec});
        let (new, path) = (self.path("new"), self.path("json"));
        let write = || {
            // One that a crash has left may be another user's.
            let _ = fs::remove_file(&new);
            self.create_file(&new)?.write_all(format!("{object}\n").as_bytes())?;
            // Cleaners go by age, and this file is never written.
            let _ = guard.set_modified(SystemTime::now());
            if !same_file(&guard, &self.path("lock")) {
                return Err(io::Error::other("its kernel lock was removed"));
            }
            fs::rename(&new, &path)
        };
        write().map_err(|e| self.failure(&e))?;
        drop(guard);
        Ok(Reply::Written(Version { uid: String::new(), revision, object: Arc::new(object) }))
    }

    /// What changed since `last`, if anything.
    fn changed(&self, last: &Option<Version>) -> Option<Change> {
        match (self.read(), last) {
            (Ok(Some(found)), Some(last)) if found.version == *last => None,
            (Ok(Some(found)), _) => Some(Change::Seen(found)),
            (Ok(None), Some(last)) => Some(Change::Deleted(last.clone())),
            (Ok(None), None) => None,
            (Err(failure), _) => Some(Change::Ended(Some(failure))),
        }
    }

    async fn next_change(&self, last: &Option<Version>, notices: Option<&Notices>) -> Change {
        loop {
            // Emptied before the look, so that a change after it is noticed.
            if let Some(notices) = notices {
                notices.drain();
            }
            if let Some(change) = self.changed(last) {
                return change;
            }
            match notices {
                Some(notices) if self.remote.is_none() => drop(timeout(POLL, notices.wait()).await),
                _ => sleep(POLL_REMOTE).await,
            }
        }
    }
}

impl fmt::Display for FileLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file lock {}/{}", self.namespace, self.name)
    }
}

impl Lock for FileLock {
    fn get(&self) -> Answer<'_> {
        Box::pin(async { self.read().map(Reply::Found) })
    }

    fn create(&self, record: Record) -> Answer<'_> {
        Box::pin(self.swap(record, None))
    }

    fn update(&self, record: Record, version: Version) -> Answer<'_> {
        Box::pin(self.swap(record, Some(version)))
    }

    fn watch(&self, from: Option<Version>) -> Changes<'_> {
        // Without notices (no inotify left for this user) it polls.
        let notices = Notices::of(&self.folder).ok();
        Box::pin(stream::unfold((from, notices), async move |(last, notices)| {
            let change = self.next_change(&last, notices.as_ref()).await;
            let last = match &change {
                Change::Seen(seen) => Some(seen.version.clone()),
                Change::Deleted(_) => None,
                _ => last,
            };
            Some((change, (last, notices)))
        }))
    }
}

/// This user's own folder in `/tmp`. Not from XDG variables, which differ between login, cron and sudo.
fn own_folder() -> PathBuf {
    PathBuf::from(format!("/tmp/leader-run-{}", geteuid()))
}

/// It may have been put there by somebody else, who could then take our locks away.
fn check_own(folder: &Path) -> Result<()> {
    let user = geteuid();
    let found = folder.symlink_metadata().with_context(|| format!("cannot use lock folder {}", folder.display()))?;
    let shown = folder.display();
    ensure!(found.is_dir(), "lock folder {shown} is not a folder; remove it, or give --lock-dir");
    ensure!(
        found.uid() == user.as_raw(),
        "lock folder {shown} belongs to user {}, not to {user}; remove it, or give --lock-dir",
        found.uid()
    );
    ensure!(
        found.mode() & 0o077 == 0,
        "lock folder {shown} is open to others (mode {:03o}); chmod 700 it, or give --lock-dir",
        found.mode() & 0o777
    );
    Ok(())
}

/// Opens a file for reading and falls for nothing else that somebody with access to the folder may have put
/// there: a link leads elsewhere, and opening a pipe can take for ever.
fn open_plain(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other(format!("{} is no plain file", path.display()))),
    }
}

/// Reads a record. One that is longer than any is cut, and so is as unreadable as a torn one.
fn read_capped(file: File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(MAX_RECORD).read_to_end(&mut text)?;
    Ok(text)
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn observation(text: &[u8]) -> Observation {
    let object = serde_json::from_slice::<Value>(text).ok().filter(Value::is_object);
    let Some(object) = object else {
        // Not ours, or torn by a crash of the machine.
        let record = Record::unreadable(&String::from_utf8_lossy(text));
        let version = Version { uid: String::new(), revision: "0".into(), object: Arc::new(json!({})) };
        return Observation { record, version };
    };
    let revision = object.get("resourceVersion").and_then(Value::as_str).unwrap_or("0").to_owned();
    let record = Record::from_lease_spec(object.get("spec"));
    Observation { record, version: Version { uid: String::new(), revision, object: Arc::new(object) } }
}

/// Tells that something in a folder changed.
struct Notices(AsyncFd<Watched<Inotify>>);

impl Notices {
    fn of(folder: &Path) -> io::Result<Notices> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify
            .add_watch(folder, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_CLOSE_WRITE)?;
        Ok(Notices(sys::watch(inotify)?))
    }

    fn drain(&self) {
        while self.0.get_ref().read_events().is_ok() {}
    }

    async fn wait(&self) {
        if let Ok(mut ready) = self.0.readable().await {
            ready.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    fn held(holder: &str) -> Record {
        Record { holder: holder.into(), lease_seconds: Some(15), ..Record::default() }
    }

    fn lock() -> (tempfile::TempDir, FileLock) {
        let folder = tempfile::tempdir().unwrap();
        let lock = FileLock::new(Some(folder.path()), "default".into(), "demo".into()).unwrap();
        (folder, lock)
    }

    fn written(reply: Result<Reply, Failure>) -> Version {
        match reply {
            Ok(Reply::Written(version)) => version,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn writes_are_compare_and_swap() {
        let (_folder, lock) = lock();
        let first = written(lock.create(held("a")).await);
        assert_eq!(lock.create(held("b")).await.unwrap_err(), Failure::Conflict);
        let second = written(lock.update(held("b"), first.clone()).await);
        assert!(first.is_before(&second));
        assert_eq!(lock.update(held("c"), first).await.unwrap_err(), Failure::Conflict);
        let Ok(Reply::Found(Some(found))) = lock.get().await else { panic!() };
        assert_eq!((found.record.holder.as_str(), &found.version), ("b", &second));
    }

    #[tokio::test]
    async fn deletion_does_not_lower_the_token() {
        let (_folder, lock) = lock();
        let first = written(lock.create(held("a")).await);
        fs::remove_file(lock.path("json")).unwrap();
        assert_eq!(lock.update(held("a"), first.clone()).await.unwrap_err(), Failure::Conflict);
        let second = written(lock.create(held("a")).await);
        assert!(first.is_before(&second));
    }

    #[tokio::test]
    async fn a_watch_sees_changes_and_deletion() {
        let (_folder, lock) = lock();
        let first = written(lock.create(held("a")).await);
        let mut changes = lock.watch(Some(first.clone()));
        let second = written(lock.update(held("b"), first).await);
        assert!(matches!(changes.next().await, Some(Change::Seen(seen)) if seen.version == second));
        fs::remove_file(lock.path("json")).unwrap();
        assert!(matches!(changes.next().await, Some(Change::Deleted(_))));
    }

    #[tokio::test]
    async fn an_unreadable_record_is_held_and_can_be_taken_over() {
        let (_folder, lock) = lock();
        fs::write(lock.path("json"), "{\"spec\": ").unwrap();
        let Ok(Reply::Found(Some(found))) = lock.get().await else { panic!() };
        assert!(!found.record.is_free());
        written(lock.update(held("a"), found.version).await);
    }

    #[tokio::test]
    async fn a_kernel_lock_that_can_never_be_had_does_not_block_the_runtime() {
        let (_folder, lock) = lock();
        std::os::unix::fs::symlink("nowhere/at/all", lock.path("lock")).unwrap();
        let swap = timeout(Duration::from_millis(50), lock.create(held("a"))).await;
        assert!(!matches!(swap, Ok(Ok(_))), "{swap:?}");
    }

    #[tokio::test]
    async fn a_version_after_which_there_is_none_is_not_written_again() {
        let (_folder, lock) = lock();
        let last = i64::MAX.to_string();
        fs::write(lock.path("json"), json!({"resourceVersion": last, "spec": {}}).to_string()).unwrap();
        let Ok(Reply::Found(Some(found))) = lock.get().await else { panic!() };
        assert_eq!(found.version.revision, last);
        assert!(matches!(lock.update(held("a"), found.version).await, Err(Failure::Rejected(_))));
    }

    #[tokio::test]
    async fn a_kernel_lock_that_is_held_does_not_block_the_runtime() {
        let (_folder, lock) = lock();
        let guard = lock.guard().await.unwrap();
        assert!(timeout(Duration::from_millis(50), lock.create(held("a"))).await.is_err());
        drop(guard);
        written(lock.create(held("a")).await);
    }
}
