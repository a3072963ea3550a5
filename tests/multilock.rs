//! The MultiLock rows (M1 to M11) of client-go's own tests: a whole election on two real halves, with the calls that
//! it makes of each.
//!
//! Ours differ on purpose in three things. The Lease is read first, for it is written last. Its version is never read
//! again between the two writes: client-go does that, and can overwrite a leader that came between. And a renewal reads
//! nothing, as with every lock. `P` is the first half (client-go's primary), `S` the Lease.

use leader_run::backend::{Answer, Changes, FileLock, Lock, MultiLock};
use leader_run::clock::{Instant, Now, Wall};
use leader_run::election::elector::{Action, Elector, Event, Settings};
use leader_run::lock::record::{Precision, Record};
use leader_run::lock::request::{Reply, Request, Version};
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;
use tempfile::TempDir;

const ME: &str = "baz";
const UNKNOWN: &str = "leaderelection.k8s.io/unknown";
const LEASE: Duration = Duration::from_secs(10);

type Calls = Rc<RefCell<Vec<String>>>;

/// A half that writes down what is asked of it.
struct Half {
    name: &'static str,
    lock: FileLock,
    calls: Calls,
}

impl Half {
    fn new(name: &'static str, folder: &TempDir, calls: &Calls) -> Half {
        let lock = FileLock::new(Some(folder.path()), "ns".into(), name.to_lowercase()).expect("a folder");
        Half { name, lock, calls: calls.clone() }
    }

    fn called(&self, verb: &str) {
        self.calls.borrow_mut().push(format!("{} {verb}", self.name));
    }

    fn record(&self) -> Option<Record> {
        match wait(self.lock.get()) {
            Ok(Reply::Found(found)) => found.map(|found| found.record),
            other => panic!("{other:?}"),
        }
    }
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Lock for Half {
    fn get(&self) -> Answer<'_> {
        self.called("GET");
        self.lock.get()
    }

    fn create(&self, record: Record) -> Answer<'_> {
        self.called("POST");
        self.lock.create(record)
    }

    fn update(&self, record: Record, version: Version) -> Answer<'_> {
        self.called("PUT");
        self.lock.update(record, version)
    }

    fn watch(&self, from: Option<Version>) -> Changes<'_> {
        self.lock.watch(from)
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// An elector on a MultiLock, and the clock it lives by.
struct Election {
    elector: Elector,
    lock: MultiLock,
    halves: [Half; 2],
    calls: Calls,
    now: Now,
    waits: Option<String>,
    leads: Option<i64>,
    _folder: TempDir,
}

impl Election {
    fn new(first: Option<&str>, lease: Option<&str>) -> Election {
        let folder = tempfile::tempdir().expect("a folder");
        let calls = Calls::default();
        let half = |name| Half::new(name, &folder, &calls);
        for (name, holder) in [("P", first), ("S", lease)] {
            if let Some(holder) = holder {
                let time = || "2026-11-21T07:00:00Z".to_owned();
                let record = Record {
                    holder: holder.into(),
                    lease_seconds: (!holder.is_empty()).then_some(10),
                    acquire_time: time(),
                    renew_time: time(),
                    ..Record::default()
                };
                wait(half(name).lock.create(record)).expect("it is not there");
            }
        }
        let at = Instant { boot: LEASE * 100, raw: LEASE * 100 };
        let now = Now { at, wall: Wall(1_795_330_800_000_000) };
        let settings = Settings {
            identity: ME.into(),
            lease_duration: LEASE,
            renew_deadline: LEASE * 6 / 10,
            retry_period: LEASE / 5,
            request_timeout: LEASE / 4,
            wait: None,
            precision: Precision::Seconds,
            resume: false,
            complete_watch: false,
            seed: 7,
        };
        Election {
            elector: Elector::new(settings, now),
            lock: MultiLock::new(Box::new(half("P")), Box::new(half("S"))),
            halves: [half("P"), half("S")],
            calls,
            now,
            waits: None,
            leads: None,
            _folder: folder,
        }
    }

    /// Lets the elector do what it wants until this time, over a watch that stays silent.
    fn until(&mut self, span: Duration) {
        let end = self.now.at.boot + span;
        let mut event = Event::Tick;
        loop {
            let mut request = None;
            for action in self.elector.step(self.now, event) {
                match action {
                    Action::Request(id, wanted, _) => request = Some((id, wanted)),
                    Action::Lead(leadership) => self.leads = leadership.record.transitions,
                    Action::Say(leader_run::election::elector::Notice::Waiting(record, _)) => {
                        self.waits = Some(record.holder)
                    }
                    _ => {}
                }
            }
            event = match request {
                Some((id, request)) => {
                    if matches!(request, Request::Get) {
                        // Only the last look counts, that the election is decided on.
                        self.calls.borrow_mut().clear();
                    }
                    Event::Answer(id, wait(self.lock.request(request)))
                }
                None => {
                    let left = end.saturating_sub(self.now.at.boot);
                    let nap = self.elector.wake(self.now).unwrap_or(Duration::MAX).min(left);
                    self.now = Now { at: self.now.at.plus(nap), wall: self.now.wall.plus(nap) };
                    if left.is_zero() {
                        return;
                    }
                    Event::Tick
                }
            };
        }
    }

    fn calls(&self) -> String {
        self.calls.take().join(", ")
    }

    fn holders(&self) -> [Option<String>; 2] {
        [0, 1].map(|half| self.halves[half].record().map(|record| record.holder))
    }
}

/// A lock that is there, and that is taken: at once, or when its lease is over.
fn taken(row: &str, [first, lease]: [Option<&str>; 2], at_once: bool, transitions: i64, calls: &str) {
    let mut election = Election::new(first, lease);
    if !at_once {
        election.until(LEASE - Duration::from_millis(1));
        assert_eq!(election.leads, None, "{row}: too early");
    }
    // An empty lock is left alone for a moment.
    election.until(Duration::from_millis(50));
    assert_eq!(election.leads, Some(transitions), "{row}");
    assert_eq!(election.calls(), calls, "{row}");
    assert_eq!(election.holders(), [Some(ME.into()), Some(ME.into())], "{row}");
    let records = [0, 1].map(|half| election.halves[half].record());
    assert_eq!(records[0], records[1], "{row}");
}

/// A lock that is held, for a whole lease.
fn not_taken(row: &str, [first, lease]: [&str; 2], other: Option<&str>, holder: &str) {
    let mut election = Election::new(Some(first), Some(lease).filter(|lease| *lease != "-"));
    election.until(LEASE - Duration::from_millis(1));
    assert_eq!((election.leads, election.waits.as_deref()), (None, Some(holder)), "{row}");
    assert_eq!(election.calls(), "S GET, P GET", "{row}");
    assert_eq!(election.holders(), [Some(first.into()), other.map(str::to_owned)], "{row}");
}

#[test]
fn m1_acquire_from_no_object() {
    taken("M1", [None, None], true, 0, "S GET, P GET, P POST, S POST");
}

#[test]
fn m2_m3_acquire_from_unled_objects() {
    // client-go: P GET, S GET, P PUT, S GET, S POST.
    taken("M2", [Some(""), None], true, 1, "S GET, P GET, P PUT, S POST");
    // client-go: P GET, S GET, P PUT, S GET, S PUT.
    taken("M3", [Some(""), Some("")], true, 1, "S GET, P GET, P PUT, S PUT");
}

#[test]
fn m4_m5_m7_acquire_from_objects_whose_leader_is_silent() {
    // client-go: as M2, and M3 twice.
    taken("M4", [Some("bing"), None], false, 1, "S GET, P GET, P PUT, S POST");
    taken("M5", [Some("bing"), Some("bing")], false, 1, "S GET, P GET, P PUT, S PUT");
    taken("M7", [Some(UNKNOWN), Some(UNKNOWN)], false, 1, "S GET, P GET, P PUT, S PUT");
}

#[test]
fn m6_m8_m9_m10_dont_acquire_from_led_objects() {
    not_taken("M6", ["bing", ME], Some(ME), UNKNOWN);
    not_taken("M8", ["bing", "-"], None, "bing");
    not_taken("M9", [ME, "bing"], Some("bing"), UNKNOWN);
    not_taken("M10", ["bing", "bing"], Some("bing"), "bing");
    // One half given back alone, by a contender that knows of no other.
    not_taken("released", ["bing", ""], Some(""), UNKNOWN);
}

#[test]
fn m11_renew_already_acquired_objects() {
    let mut election = Election::new(None, None);
    election.until(Duration::ZERO);
    assert_eq!(election.leads, Some(0));
    election.calls();
    let before = election.halves[1].record();
    election.until(LEASE / 5);
    // client-go: P GET, S GET, P PUT, S GET, S PUT.
    assert_eq!(election.calls(), "P PUT, S PUT");
    let after = [0, 1].map(|half| election.halves[half].record());
    assert_eq!(after[0], after[1]);
    assert!(after[1] != before && after[1].as_ref().is_some_and(|record| record.transitions == Some(0)));
}

#[test]
fn a_lease_that_is_taken_between_the_two_writes_is_not_overwritten() {
    let mut election = Election::new(Some("bing"), Some("bing"));
    let seen = match wait(election.lock.get()) {
        Ok(Reply::Found(Some(seen))) => seen,
        other => panic!("{other:?}"),
    };
    let other = Record { holder: "other".into(), lease_seconds: Some(10), ..Record::default() };
    let lease = match wait(election.halves[1].lock.get()) {
        Ok(Reply::Found(Some(lease))) => lease,
        other => panic!("{other:?}"),
    };
    wait(election.halves[1].lock.update(other, lease.version)).expect("it writes first");
    let ours = Record { holder: ME.into(), lease_seconds: Some(10), ..Record::default() };
    assert!(wait(election.lock.update(ours, seen.version)).is_err());
    assert_eq!(election.holders()[1].as_deref(), Some("other"));
    // Nobody leads now before both have been silent for a lease.
    election.until(LEASE - Duration::from_millis(1));
    assert_eq!((election.leads, election.waits.as_deref()), (None, Some(UNKNOWN)));
}
