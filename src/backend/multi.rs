//! A lock in two objects at once, a ConfigMap or Endpoints and a Lease, so that a fleet can move from the one
//! to the other without a moment of two leaders: client-go's MultiLock.
//!
//! The first half is written first, and is what a write is decided on. Unlike client-go's, the Lease is
//! written on the version that was read with the first half, never on a later one: that one may be another
//! holder's.

use super::{Answer, Changes, Lock};
use crate::lock::record::{Record, UNKNOWN};
use crate::lock::request::{Change, Failure, Observation, Reply, Version};
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

/// Both halves are read in this time, or the watch is over.
const LOOK: Duration = Duration::from_secs(10);

/// One record in two objects of the same name.
pub struct MultiLock {
    first: Box<dyn Lock>,
    lease: Box<dyn Lock>,
    /// Held while we write; how often we have. A half that we have written is no news before the other one is.
    writing: Mutex<()>,
    writes: Cell<u64>,
}

impl MultiLock {
    /// A lock in these two.
    pub fn new(first: Box<dyn Lock>, lease: Box<dyn Lock>) -> MultiLock {
        MultiLock { first, lease, writing: Mutex::default(), writes: Cell::new(0) }
    }

    /// Without the first half there is no lock, whatever the Lease says. That is written last, so it is read
    /// first: a Lease of a write with the first half from before it would be as late a version as both of them.
    async fn read(&self) -> Result<Option<Observation>, Failure> {
        let lease = found(self.lease.get().await?)?;
        let first = found(self.first.get().await?)?;
        Ok(first.map(|first| join(first, lease)))
    }

    async fn make(&self, record: Record) -> Result<Version, Failure> {
        let first = match self.first.create(record.clone()).await {
            // An answer of ours that was lost.
            Err(Failure::Conflict) => {
                let there = found(self.first.get().await?)?.filter(|there| there.record == record);
                there.ok_or(Failure::Conflict)?.version
            }
            answer => written(answer?)?,
        };
        let lease = match self.lease.create(record.clone()).await {
            // The half that is left of this term of ours, when the other one was deleted.
            Err(Failure::Conflict) => {
                let there = found(self.lease.get().await?)?.filter(|there| term(&there.record) == term(&record));
                written(self.lease.update(record.clone(), there.ok_or(Failure::Conflict)?.version).await?)?
            }
            answer => written(answer?)?,
        };
        Ok(joined_version(first, Some((lease, &record))))
    }

    async fn write(&self, record: Record, version: &Version) -> Result<Version, Failure> {
        let (first, lease) = halves(version).ok_or(Failure::Conflict)?;
        let first = written(self.first.update(record.clone(), first).await?)?;
        let lease = match lease {
            Some(lease) => match self.lease.update(record.clone(), lease).await {
                // A renewal that was given up may have arrived after all: that is no other holder's.
                Err(Failure::Conflict) if record.is_free() => {
                    let of_this_term = |there: &Observation| term(&there.record) == version.object["term"];
                    let there = found(self.lease.get().await?)?.filter(of_this_term);
                    self.lease.update(record.clone(), there.ok_or(Failure::Conflict)?.version).await?
                }
                answer => answer?,
            },
            None => self.lease.create(record.clone()).await?,
        };
        Ok(joined_version(first, Some((written(lease)?, &record))))
    }

    /// The same, but not while we write. It holds up no write: one that comes meanwhile has it read again.
    async fn read_apart(&self) -> Result<Option<Observation>, Failure> {
        loop {
            drop(self.writing.lock().await);
            let before = self.writes.get();
            let seen = self.read().await;
            if self.writes.get() == before {
                return seen;
            }
        }
    }

    async fn start_writing(&self) -> MutexGuard<'_, ()> {
        let writing = self.writing.lock().await;
        self.writes.set(self.writes.get() + 1);
        writing
    }

    /// What there is now that one of the halves has changed.
    async fn look(&self, last: &mut Option<Version>) -> Change {
        match timeout(LOOK, self.read_apart()).await.unwrap_or(Err(Failure::Timeout)) {
            Ok(Some(now)) => {
                *last = Some(now.version.clone());
                Change::Seen(now)
            }
            Ok(None) => last.take().map_or(Change::Alive, Change::Deleted),
            Err(failure) => Change::Ended(Some(failure)),
        }
    }
}

impl fmt::Display for MultiLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.first, self.lease)
    }
}

impl Lock for MultiLock {
    fn get(&self) -> Answer<'_> {
        Box::pin(async { self.read().await.map(Reply::Found) })
    }

    fn create(&self, record: Record) -> Answer<'_> {
        Box::pin(async {
            let _writing = self.start_writing().await;
            self.make(record).await.map(Reply::Written)
        })
    }

    fn update(&self, record: Record, version: Version) -> Answer<'_> {
        Box::pin(async move {
            let _writing = self.start_writing().await;
            self.write(record, &version).await.map(Reply::Written)
        })
    }

    fn record(&self, version: &Version) -> Record {
        let seen = |lock: &dyn Lock, version| Observation { record: lock.record(&version), version };
        let Some((first, lease)) = halves(version) else { return Record::default() };
        join(seen(&*self.first, first), lease.map(|lease| seen(&*self.lease, lease))).record
    }

    fn halves(&self, version: &Version) -> Vec<(String, Option<Record>)> {
        let (first, lease) = halves(version).unzip();
        let both = [(&self.first, first), (&self.lease, lease.flatten())];
        both.map(|(lock, version)| (lock.to_string(), version.map(|version| lock.record(&version)))).into()
    }

    /// A change of one half says little: both are read then.
    fn watch(&self, from: Option<Version>) -> Changes<'_> {
        let (first, lease) = from.as_ref().and_then(halves).unzip();
        let changes = stream::select(self.first.watch(first), self.lease.watch(lease.flatten()));
        Box::pin(stream::unfold(Some((changes, from)), async |state| {
            let (mut changes, mut last) = state?;
            let change = match changes.next().await? {
                Change::Seen(_) | Change::Deleted(_) => self.look(&mut last).await,
                change => change,
            };
            let goes_on = !matches!(change, Change::Ended(_));
            Some((change, goes_on.then_some((changes, last))))
        }))
    }
}

fn found(reply: Reply) -> Result<Option<Observation>, Failure> {
    match reply {
        Reply::Found(found) => Ok(found),
        Reply::Written(_) => Err(Failure::Unclear("not the answer to a get".into())),
    }
}

fn written(reply: Reply) -> Result<Version, Failure> {
    match reply {
        Reply::Written(version) => Ok(version),
        Reply::Found(_) => Err(Failure::Unclear("not the answer to a write".into())),
    }
}

/// What two halves say together: where they name different holders, that nobody knows who it is.
fn join(first: Observation, lease: Option<Observation>) -> Observation {
    let mut record = first.record;
    let version = joined_version(first.version, lease.as_ref().map(|lease| (lease.version.clone(), &lease.record)));
    if let Some(lease) = lease.map(|lease| lease.record).filter(|lease| *lease != record) {
        if lease.holder != record.holder {
            record.holder = UNKNOWN.into();
            // A half that was given back says one second, which is not for the other one.
            record.lease_seconds = record.lease_seconds.zip(lease.lease_seconds).map(|(a, b)| a.max(b));
        }
        // So that a change of either half is one of the whole.
        record.other_half = lease.to_annotation();
    }
    Observation { record, version }
}

/// Which term of which holder it is.
fn term(record: &Record) -> Value {
    json!([record.holder, record.acquire_time])
}

/// Its revision is the later one of both: after a write that is the Lease's, which is written last.
fn joined_version(first: Version, lease: Option<(Version, &Record)>) -> Version {
    let json = |version: &Version| json!({"uid": version.uid, "revision": version.revision, "object": *version.object});
    let (lease, record) = lease.unzip();
    let later = lease.as_ref().filter(|lease| first.is_before(lease)).unwrap_or(&first);
    let halves = json!({"first": json(&first), "lease": lease.as_ref().map(json), "term": record.map(term)});
    Version {
        uid: format!("{},{}", first.uid, lease.as_ref().map_or("", |lease| &lease.uid)),
        revision: later.revision.clone(),
        object: Arc::new(halves),
    }
}

/// The versions that were joined into this one.
fn halves(version: &Version) -> Option<(Version, Option<Version>)> {
    let half = |name| {
        let half = version.object.get(name).filter(|half| half.is_object())?;
        let text = |key: &str| half[key].as_str().unwrap_or_default().to_owned();
        Some(Version { uid: text("uid"), revision: text("revision"), object: Arc::new(half["object"].clone()) })
    };
    Some((half("first")?, half("lease")))
}

#[cfg(test)]
mod tests {
    use super::super::FileLock;
    use super::*;
    use tempfile::TempDir;

    const HALVES: [&str; 2] = ["first", "lease"];

    struct Rig {
        folder: TempDir,
        lock: MultiLock,
    }

    /// Two file locks are halves as good as any.
    impl Rig {
        fn new(records: [Option<Record>; 2]) -> Rig {
            let folder = tempfile::tempdir().unwrap();
            let half = |name| Box::new(Rig::file(&folder, name));
            let lock = MultiLock::new(half(HALVES[0]), half(HALVES[1]));
            let rig = Rig { folder, lock };
            HALVES.into_iter().zip(records).for_each(|(half, record)| rig.set(half, record));
            rig
        }

        fn file(folder: &TempDir, name: &str) -> FileLock {
            FileLock::new(Some(folder.path()), "ns".into(), name.into()).unwrap()
        }

        fn half(&self, name: &str) -> Option<Observation> {
            found(wait(Rig::file(&self.folder, name).get()).unwrap()).unwrap()
        }

        /// Somebody else writes it.
        fn set(&self, name: &str, record: Option<Record>) {
            let lock = Rig::file(&self.folder, name);
            match (record, self.half(name)) {
                (Some(record), Some(there)) => drop(wait(lock.update(record, there.version)).unwrap()),
                (Some(record), None) => drop(wait(lock.create(record)).unwrap()),
                (None, _) => {
                    let _ = std::fs::remove_file(self.folder.path().join(format!("ns_{name}.json")));
                }
            }
        }

        fn holders(&self) -> [String; 2] {
            HALVES.map(|half| self.half(half).map_or("-".into(), |there| there.record.holder))
        }

        fn read(&self) -> Option<Observation> {
            wait(self.lock.read()).unwrap()
        }
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn held(holder: &str) -> Record {
        let time = "2026-11-21T07:00:00Z";
        let (acquire_time, renew_time) = (time.into(), time.into());
        let (lease_seconds, transitions) = (Some(15), Some(0));
        Record { holder: holder.into(), lease_seconds, acquire_time, renew_time, transitions, ..Record::default() }
    }

    fn at(second: u32, record: Record) -> Record {
        Record { renew_time: format!("2026-11-21T07:00:{second:02}Z"), ..record }
    }

    #[test]
    fn what_two_halves_say_together() {
        let rows = [
            // M1: nothing there, or only the Lease: the first half decides.
            ([None, None], None),
            ([None, Some("x")], None),
            // M2, M8: the Lease is not there yet.
            ([Some(""), None], Some("")),
            ([Some("x"), None], Some("x")),
            // M3, M10: both agree.
            ([Some(""), Some("")], Some("")),
            ([Some("x"), Some("x")], Some("x")),
            // M6, M9: they do not, also when one was given back.
            ([Some("x"), Some("y")], Some(UNKNOWN)),
            ([Some("x"), Some("")], Some(UNKNOWN)),
            ([Some(""), Some("x")], Some(UNKNOWN)),
        ];
        for (halves, expected) in rows {
            let rig = Rig::new(halves.map(|holder| holder.map(held)));
            assert_eq!(rig.read().map(|seen| seen.record.holder).as_deref(), expected, "{halves:?}");
        }
    }

    #[test]
    fn a_change_of_either_half_is_a_change_of_the_lock() {
        for half in HALVES {
            for other in ["x", "y"] {
                let rig = Rig::new([Some(held("x")), Some(held(other))]);
                let before = rig.read().unwrap();
                let holder = if half == HALVES[0] { "x" } else { other };
                rig.set(half, Some(at(5, held(holder))));
                let after = rig.read().unwrap();
                assert_ne!(before.record, after.record, "{half} {other}");
                assert!(before.version.is_before(&after.version));
            }
        }
        // What one half was given back for does not shorten the other one's lease.
        let rig = Rig::new([Some(Record { lease_seconds: Some(1), ..held("") }), Some(held("x"))]);
        assert_eq!(rig.read().unwrap().record.lease_seconds, Some(15));
    }

    #[test]
    fn a_write_is_of_both_halves_on_the_versions_that_were_read() {
        // M2, M3, M4, M5, M7, M11.
        for lease in [None, Some("x"), Some("y")] {
            let rig = Rig::new([Some(held("x")), lease.map(held)]);
            let seen = rig.read().unwrap();
            let Reply::Written(version) = wait(rig.lock.update(held("me"), seen.version)).unwrap() else { panic!() };
            assert_eq!(rig.holders(), ["me", "me"]);
            assert_eq!(version.revision, rig.half("lease").unwrap().version.revision, "the token is the Lease's");
            let again = wait(rig.lock.update(at(2, held("me")), version)).unwrap();
            let Reply::Written(version) = again else { panic!() };
            assert_eq!(rig.read().unwrap().version, version);
            assert_eq!(rig.read().unwrap().record, at(2, held("me")));
        }
    }

    #[test]
    fn a_half_that_somebody_else_wrote_meanwhile_is_a_conflict() {
        for (half, there, holders) in [
            ("first", Some("x"), ["other", "x"]),
            ("lease", Some("x"), ["me", "other"]),
            // client-go's own would read the Lease again, and overwrite the other one.
            ("lease", None, ["me", "other"]),
        ] {
            let rig = Rig::new([Some(held("x")), there.map(held)]);
            let seen = rig.read().unwrap();
            rig.set(half, Some(held("other")));
            let answer = wait(rig.lock.update(held("me"), seen.version));
            assert!(matches!(answer, Err(Failure::Conflict)), "{answer:?}");
            assert_eq!(rig.holders(), holders);
            assert_eq!(rig.read().unwrap().record.holder, UNKNOWN);
        }
    }

    #[test]
    fn a_release_is_not_stopped_by_a_late_renewal_of_its_own_term() {
        for (renewal, holders) in [(at(9, held("me")), ["", ""]), (held("other"), ["", "other"])] {
            let rig = Rig::new([Some(held("me")), Some(held("me"))]);
            let seen = rig.read().unwrap();
            rig.set("lease", Some(renewal));
            let released = wait(rig.lock.update(held(""), seen.version));
            assert_eq!(released.is_ok(), holders[1].is_empty(), "{released:?}");
            assert_eq!(rig.holders(), holders);
        }
    }

    #[test]
    fn creating_finds_what_is_there() {
        let create = |halves: [Option<Record>; 2], record: Record| {
            let rig = Rig::new(halves);
            let created = wait(rig.lock.create(record)).is_ok();
            (created, rig.holders())
        };
        let me = || held("me");
        assert_eq!(create([None, None], me()), (true, ["me", "me"].map(String::from)));
        // Another one's Lease.
        assert_eq!(create([None, Some(held("x"))], me()), (false, ["me", "x"].map(String::from)));
        assert_eq!(create([Some(held("x")), None], me()), (false, ["x", "-"].map(String::from)));
        // An answer to the first half that was lost, and the half that is left of a term of ours.
        assert_eq!(create([Some(me()), None], me()), (true, ["me", "me"].map(String::from)));
        assert_eq!(create([None, Some(me())], at(4, me())), (true, ["me", "me"].map(String::from)));
        let earlier = Record { acquire_time: "2026-11-21T06:00:00Z".into(), ..me() };
        assert_eq!(create([None, Some(earlier)], me()), (false, ["me", "me"].map(String::from)));
    }

    #[test]
    fn a_watch_tells_both_halves() {
        let rig = Rig::new([Some(held("x")), Some(held("x"))]);
        let from = rig.read().unwrap().version;
        let (first, lease) = (Rig::file(&rig.folder, "first"), Rig::file(&rig.folder, "lease"));
        let free = async |half: &FileLock| {
            let there = found(half.get().await.unwrap()).unwrap().unwrap();
            half.update(held(""), there.version).await.unwrap();
        };
        wait(async {
            let mut changes = rig.lock.watch(Some(from));
            free(&lease).await;
            let Some(Change::Seen(seen)) = changes.next().await else { panic!() };
            assert_eq!(seen.record.holder, UNKNOWN);
            free(&first).await;
            let Some(Change::Seen(seen)) = changes.next().await else { panic!() };
            assert!(seen.record.is_free());
            std::fs::remove_file(rig.folder.path().join("ns_first.json")).unwrap();
            assert!(matches!(changes.next().await, Some(Change::Deleted(version)) if version == seen.version));
        });
    }
}
