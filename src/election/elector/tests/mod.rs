//! The conformance tables: client-go's own tests by the row names of its table, and the cases that other
//! clients' faults add. Where we differ from client-go on purpose, the row says so.
//!
//! Elsewhere: V1 (timings) in `config/mod.rs`; L1 and X4 (odd durations) in `lock/record.rs`; X5 (what a write keeps) and
//! X17 (watch lines) in `backend/object.rs`. V2 (a race of Check with the run) has no counterpart, for the state
//! has a single owner. X22 and M1 to M11 are about MultiLocks: `tests/multilock.rs`,
//! `tests/cluster/multilock.rs`. Peers, suspends and full outages are black-box tests too.

mod client_go;
mod contending;
mod leading;
mod peers;
mod releasing;
mod shapes;
mod standing_by;
mod watching;

use super::*;
use crate::lock::record::Precision;
use crate::lock::request::tests::version;

const SECOND: Duration = Duration::from_secs(1);

/// An elector, the clock it lives by, and what it asked for.
struct Rig {
    elector: Elector,
    now: Now,
    pending: Option<(u64, Request, Duration)>,
    calls: Vec<Verb>,
    watching: bool,
    led: Option<Leadership>,
    renewed: Option<Instant>,
    lost: Option<Loss>,
    over: Option<Outcome>,
    said: Vec<Notice>,
    /// Who led, as people were told.
    leaders: Vec<String>,
    events: u32,
}

/// "baz" with LD 10 s, as in client-go's table.
fn settings() -> Settings {
    Settings {
        identity: "baz".into(),
        lease_duration: SECOND * 10,
        renew_deadline: SECOND * 6,
        retry_period: SECOND * 2,
        request_timeout: SECOND * 3,
        wait: None,
        precision: Precision::Microseconds,
        resume: false,
        complete_watch: true,
        seed: 7,
    }
}

fn record(holder: &str, lease_seconds: u32, renewed: &str, transitions: i64) -> Record {
    Record {
        holder: holder.into(),
        lease_seconds: (lease_seconds > 0).then_some(lease_seconds),
        acquire_time: "2026-11-21T07:00:00.000000Z".into(),
        renew_time: renewed.into(),
        transitions: Some(transitions),
        ..Record::default()
    }
}

fn bing() -> Record {
    record("bing", 10, "2026-11-21T07:00:00.000000Z", 0)
}

fn found(record: Record, revision: u64) -> Result<Reply, Failure> {
    Ok(Reply::Found(Some(Observation { record, version: version("u", revision) })))
}

fn written(revision: u64) -> Result<Reply, Failure> {
    Ok(Reply::Written(version("u", revision)))
}

fn seen(record: Record, revision: u64) -> Event {
    Event::Change(Change::Seen(Observation { record, version: version("u", revision) }))
}

const NOT_FOUND: Result<Reply, Failure> = Ok(Reply::Found(None));

impl Rig {
    fn new(settings: Settings) -> Rig {
        let at = Instant { boot: SECOND * 1000, raw: SECOND * 1000 };
        let now = Now { at, wall: Wall(1_795_330_800_000_000) };
        let mut rig = Rig {
            elector: Elector::new(settings, now),
            now,
            pending: None,
            calls: Vec::new(),
            watching: false,
            led: None,
            renewed: None,
            lost: None,
            over: None,
            said: Vec::new(),
            leaders: Vec::new(),
            events: 0,
        };
        rig.event(Event::Tick);
        rig
    }

    fn event(&mut self, event: Event) {
        self.events += 1;
        assert!(self.events < 300_000, "a test that waits for something waits in vain: {self}");
        for action in self.elector.step(self.now, event) {
            match action {
                Action::Request(id, request, timeout) => {
                    self.calls.push(request.verb());
                    self.pending = Some((id, request, timeout));
                }
                Action::Cancel => self.pending = None,
                Action::Watch(_) => self.watching = true,
                Action::Lead(leadership) => self.led = Some(leadership),
                Action::Renewed(since) => self.renewed = Some(since),
                Action::Lost(loss) => self.lost = Some(loss),
                Action::Over(outcome) => self.over = Some(outcome),
                Action::Say(Notice::Leader(holder)) => self.leaders.push(holder),
                Action::Say(notice) => self.said.push(notice),
            }
        }
    }

    /// Lets time pass, waking the elector whenever it wants to be.
    fn pass(&mut self, span: Duration) {
        let end = self.now.at.boot + span;
        loop {
            let left = end - self.now.at.boot;
            let nap = self.elector.wake(self.now).unwrap_or(Duration::MAX).min(left);
            self.now.at = self.now.at.plus(nap);
            self.now.wall = self.now.wall.plus(nap);
            self.event(Event::Tick);
            if nap == left {
                return;
            }
            assert!(self.elector.wake(self.now) != Some(Duration::ZERO), "it wants to be woken without end: {self}");
        }
    }

    fn answer(&mut self, answer: Result<Reply, Failure>) {
        let (id, ..) = self.pending.take().unwrap_or_else(|| panic!("no request is under way: {self}"));
        self.event(Event::Answer(id, answer));
    }

    /// Answers the request under way, which has to be a get.
    fn get(&mut self, answer: Result<Reply, Failure>) {
        assert_eq!(self.verb(), Some(Verb::Get), "{self}");
        self.answer(answer);
    }

    /// Answers the request under way, which has to be a write, and returns what it wrote.
    fn put(&mut self, answer: Result<Reply, Failure>) -> Record {
        let record = self.writing();
        self.answer(answer);
        record
    }

    fn verb(&self) -> Option<Verb> {
        self.pending.as_ref().map(|(_, request, _)| request.verb())
    }

    fn writing(&self) -> Record {
        match &self.pending {
            Some((_, Request::Create(record) | Request::Update(record, _), _)) => record.clone(),
            _ => panic!("no write is under way: {self}"),
        }
    }

    fn writing_on(&self) -> &str {
        match &self.pending {
            Some((_, Request::Update(_, version), _)) => &version.revision,
            _ => panic!("no update is under way: {self}"),
        }
    }

    /// Leads since now, by creating the lock at revision 1.
    fn leading() -> Rig {
        let mut rig = Rig::new(settings());
        rig.get(NOT_FOUND);
        rig.put(written(1));
        assert!(rig.led.is_some());
        rig.calls.clear();
        rig
    }
}

impl std::fmt::Display for Rig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.calls, self.elector)
    }
}
