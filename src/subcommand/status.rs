//! `leader-run status`: who holds the lock, since when, and until when as far as can be told.
//!
//! The first look has only the record's own times to go by, which another machine's clock wrote: they are shown, and
//! said to be. Later, with `--watch`, a lease is counted from when its last change was seen, as a standby does.

use super::note;
use crate::backend::{Cluster, Lock, file_namespace, find_file};
use crate::cli::{Output, Status};
use crate::clock::{Instant, Now, Wall};
use crate::config::{Timing, lock_options};
use crate::exit::{self, Refusal};
use crate::lock::record::{Record, UNKNOWN};
use crate::lock::request::{Change, Failure, Observation, Reply, Version};
use crate::text::duration;
use crate::text::shown;
use futures_util::StreamExt;
use serde_json::{Map, Value, json};
use std::io::{self, ErrorKind, Write, stdout};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Says who holds the lock, and returns the exit code.
///
/// # Errors
/// When the options are wrong, or nobody is there who reads the answer.
pub fn answer(status: Status) -> Result<i32, Refusal> {
    let options = &status.run.0;
    let timing = Timing::new(options)?;
    let place = lock_options(options)?;
    super::run(async {
        let cluster = Cluster::of(&place).await?;
        let (lock, namespace): (Box<dyn Lock>, _) = match &cluster {
            Some(cluster) => (cluster.open(&place).0, cluster.namespace.clone()),
            None => (Box::new(find_file(&place).map_err(unknown)?), file_namespace(&place)),
        };
        let asking = Asking {
            lock: &*lock,
            cluster: cluster.as_ref(),
            timing,
            output: status.output,
            watch: status.watch,
            head: Map::from_iter([
                ("lock".to_owned(), place.kind.name.into()),
                ("namespace".to_owned(), namespace.into()),
                ("name".to_owned(), place.name.as_str().into()),
            ]),
            polls: false,
            last: None,
            looked: false,
            said: None,
        };
        asking.answer().await
    })
}

/// What is there: nothing, a record and its version, or why that is not known.
type Found = Result<Option<Observation>, String>;

struct Asking<'a> {
    lock: &'a dyn Lock,
    cluster: Option<&'a Cluster>,
    timing: Timing,
    output: Output,
    watch: bool,
    /// Which lock it is.
    head: Map<String, Value>,
    /// It may not be watched.
    polls: bool,
    /// The version seen last, when it was first seen, and whether that was a change.
    last: Option<(Version, Instant, bool)>,
    /// Whether it is known what was there before.
    looked: bool,
    /// What was said last, without what changes by itself.
    said: Option<String>,
}

impl Asking<'_> {
    async fn answer(mut self) -> Result<i32, Refusal> {
        loop {
            match self.round().await {
                Ok(_) if self.watch => {}
                // Nobody reads it any more.
                Err(error) if self.watch && error.kind() == ErrorKind::BrokenPipe => return Ok(0),
                code => return Ok(code?),
            }
        }
    }

    /// Looks, says what there is, and then what changes.
    async fn round(&mut self) -> io::Result<i32> {
        let found = self.look().await;
        let version = found.as_ref().ok().map(|seen| seen.as_ref().map(|seen| seen.version.clone()));
        let code = self.say(found)?;
        match version {
            _ if !self.watch => {}
            Some(version) if !self.polls => self.follow(version).await?,
            _ => sleep(self.timing.retry_period).await,
        }
        Ok(code)
    }

    async fn look(&self) -> Found {
        let limit = self.timing.request_timeout;
        match timeout(limit, self.lock.get()).await {
            Ok(Ok(Reply::Found(Some(seen)))) => Ok(Some(seen)),
            Ok(Ok(_)) => match self.cluster {
                // Where the namespace is misspelled nobody holds anything, but that is not what was asked.
                Some(cluster) if matches!(timeout(limit, cluster.has_namespace()).await, Ok(Ok(Some(false)))) => {
                    Err(format!("{} is not there: namespace {:?} does not exist", self.lock, cluster.namespace))
                }
                _ => Ok(None),
            },
            Ok(Err(failure)) => Err(failure.to_string()),
            Err(_) => Err(format!("cannot get {}: {}", self.lock, Failure::Timeout)),
        }
    }

    /// Says what changes, until it has to be looked at anew.
    async fn follow(&mut self, from: Option<Version>) -> io::Result<()> {
        let lock = self.lock;
        let mut changes = lock.watch(from);
        loop {
            let found = match timeout(self.patience(), changes.next()).await {
                Ok(Some(Change::Seen(seen))) => Some(seen),
                Ok(Some(Change::Deleted(_))) => None,
                Ok(Some(Change::Alive)) => continue,
                Ok(Some(Change::Ended(why))) => {
                    self.polls |= matches!(why, Some(Failure::Refused(..)));
                    sleep(self.timing.retry_period).await;
                    return Ok(());
                }
                // The connection may be dead, or the lease over.
                Ok(None) | Err(_) => return Ok(()),
            };
            self.say(Ok(found))?;
        }
    }

    /// How long silence says nothing.
    fn patience(&self) -> Duration {
        let half = self.timing.lease_duration / 2;
        let Some((version, since, _)) = &self.last else { return half };
        let record = self.lock.record(version);
        let lease = record.lease_duration(self.timing.lease_duration);
        match lease.checked_sub(Instant::now().standby_since(*since)) {
            Some(left) if !record.is_free() => half.min(left + Duration::from_millis(1)),
            _ => half,
        }
    }

    /// Says it where it is new, and returns the exit code.
    fn say(&mut self, found: Found) -> io::Result<i32> {
        let told = self.tell(found);
        let news = match self.output {
            Output::Name => told.holder().to_owned(),
            _ => told.lasting.clone(),
        };
        let first = self.said.is_none();
        if self.said.as_ref() == Some(&news) {
            return Ok(told.code);
        }
        self.said = Some(news);
        let unclear = told.unclear.as_ref().filter(|_| self.output != Output::Json);
        if let Some(why) = unclear {
            note(&format!("leader-run: {why}"));
        }
        match self.print(&told, first).and_then(|()| stdout().flush()) {
            // What was asked is answered by the code, too.
            Err(error) if !self.watch && error.kind() == ErrorKind::BrokenPipe => {}
            printed => printed?,
        }
        Ok(told.code)
    }

    fn print(&self, told: &Told, first: bool) -> io::Result<()> {
        let mut out = stdout().lock();
        match self.output {
            // Nothing when it is free; that it has become so is a line without a name.
            Output::Name if told.holder().is_empty() && first => {}
            Output::Name => writeln!(out, "{}", told.holder())?,
            Output::Json => writeln!(out, "{}", Value::Object(told.json.clone()))?,
            Output::Text if told.text.is_empty() => {}
            Output::Text if self.watch => {
                writeln!(out, "{} {}", Wall::now().whole_second(), told.text.join("; "))?;
            }
            Output::Text => writeln!(out, "{}", told.text.join("\n  "))?,
        }
        Ok(())
    }

    /// What can be said of it at this moment.
    fn tell(&mut self, found: Found) -> Told {
        let now = Now::read();
        let mut json = self.head.clone();
        json.insert("time".into(), now.wall.micro_time().into());
        let seen = match found {
            Ok(Some(seen)) => seen,
            Ok(None) => {
                (self.last, self.looked) = (None, true);
                json.insert("state".into(), "missing".into());
                let text = vec![format!("{} is not there", self.lock)];
                return Told { code: exit::FREE, text, lasting: "missing".into(), unclear: None, json };
            }
            Err(why) => {
                json.insert("state".into(), "unknown".into());
                json.insert("error".into(), why.as_str().into());
                let lasting = format!("unknown {why}");
                return Told { code: exit::UNKNOWN, text: Vec::new(), lasting, unclear: Some(why), json };
            }
        };
        let (since, changed) = match &self.last {
            Some((version, since, changed)) if *version == seen.version => (*since, *changed),
            _ => (now.at, self.looked),
        };
        self.looked = true;
        self.last = Some((seen.version.clone(), since, changed));
        let record = &seen.record;
        let lease = record.lease_duration(self.timing.lease_duration);
        let counted = now.at.standby_since(since);
        // What has not changed for as long as a lease was not renewed meanwhile, whatever its times say.
        let own_count = changed || counted >= lease;
        let renewed = match own_count {
            true => Some(counted.as_secs_f64()),
            false => Wall::parse(&record.renew_time).map(|renewed| now.wall.seconds_after(renewed)),
        };
        let left = renewed.map(|renewed| lease.as_secs_f64() - renewed);
        let expired = !record.is_free() && left.is_some_and(|left| left <= 0.0);
        let clock = if own_count { "as seen from here" } else { "by the holder's clock" };

        let (code, state) = match (record.is_free(), record.is_clear()) {
            (true, _) => (exit::FREE, "free"),
            (_, true) => (exit::HELD, "held"),
            _ => (exit::UNKNOWN, "unknown"),
        };
        let unclear = (state == "unknown").then(|| match record.holder == UNKNOWN {
            true => format!("nobody can tell who holds {}: its two objects name different holders", self.lock),
            false => format!("nobody can tell who holds {}: its record cannot be read", self.lock),
        });
        let mut text = match state {
            "free" => vec![format!("{} is free", self.lock)],
            "held" => vec![format!("{} is held by {}", self.lock, shown(&record.holder))],
            _ => vec![format!("{} is held, nobody can tell by whom", self.lock)],
        };
        if state == "held" && !record.acquire_time.is_empty() {
            // The fraction of a second is nobody's time: it tells apart terms of one identity.
            text.push(match Wall::parse(&record.acquire_time).map(|since| since.back_to(0)) {
                Some(since) => format!("since {}, {}", since.whole_second(), past(now.wall.seconds_after(since))),
                None => format!("since {}", shown(&record.acquire_time)),
            });
        }
        match (state, renewed.zip(left)) {
            ("held", Some((renewed, left))) if expired => {
                text.push(format!("renewed {} and expired {} {clock}", past(renewed), past(-left)));
            }
            ("held", Some((renewed, left))) => {
                text.push(format!(
                    "renewed {} and expires in {} unless it is renewed, {clock}",
                    past(renewed),
                    span(left)
                ));
            }
            ("held", None) if record.renew_time.is_empty() => text.push("it does not say when it was renewed".into()),
            ("held", None) => text.push(format!("renewed at {}, in no known time zone", shown(&record.renew_time))),
            _ => {}
        }
        if state == "held" {
            let assumed = if record.lease_seconds.is_none() { ", which it does not say itself" } else { "" };
            text.push(format!("lease duration {}{assumed}", duration(lease)));
        }
        text.extend(record.transitions.map(|count| match count {
            1 => "1 transition".into(),
            count => format!("{count} transitions"),
        }));
        let halves = self.lock.halves(&seen.version);
        for (lock, half) in &halves {
            text.push(match half {
                Some(half) if half.is_free() => format!("{lock} is free"),
                Some(half) => format!("{lock} names {}, renewed at {}", shown(&half.holder), shown(&half.renew_time)),
                None => format!("{lock} is not there"),
            });
        }
        let holders: Vec<_> = halves.iter().map(|(_, half)| half.as_ref().map(|half| &half.holder)).collect();
        let lasting = format!(
            "{state} {expired} {:?} {} {:?} {holders:?}",
            record.holder, record.acquire_time, record.transitions
        );
        json.insert("state".into(), state.into());
        json.extend(fields(record));
        json.insert("resourceVersion".into(), seen.version.revision.as_str().into());
        if state == "held" {
            json.insert("expired".into(), expired.into());
            let millis = |seconds: f64| (seconds * 1e3).round() / 1e3;
            json.insert("renewedSecondsAgo".into(), renewed.map(millis).into());
            json.insert("expiresInSeconds".into(), left.map(millis).into());
            json.insert("countedBy".into(), if own_count { "leader-run" } else { "record" }.into());
        }
        if let Some(why) = &unclear {
            json.insert("error".into(), why.as_str().into());
        }
        if !halves.is_empty() {
            let half = |(lock, record): &(String, Option<Record>)| {
                let mut half = record.as_ref().map(fields).unwrap_or_default();
                half.insert("lock".into(), lock.as_str().into());
                half.insert("missing".into(), record.is_none().into());
                Value::Object(half)
            };
            json.insert("halves".into(), halves.iter().map(half).collect());
        }
        Told { code, text, lasting, unclear, json }
    }
}

/// What is said of the lock.
struct Told {
    code: i32,
    /// For people, in phrases.
    text: Vec<String>,
    /// All that is no news when it is said again.
    lasting: String,
    /// Why it cannot be told who holds it.
    unclear: Option<String>,
    json: Map<String, Value>,
}

impl Told {
    fn holder(&self) -> &str {
        let held = self.code == exit::HELD;
        self.json.get("holderIdentity").and_then(Value::as_str).filter(|_| held).unwrap_or_default()
    }
}

/// A folder that cannot be looked into leaves open who holds what.
fn unknown(error: anyhow::Error) -> Refusal {
    Refusal { code: exit::UNKNOWN, ..Refusal::from(error) }
}

/// A record, by the names of a Lease's fields.
fn fields(record: &Record) -> Map<String, Value> {
    let time = |text: &str| if text.is_empty() { Value::Null } else { shown(text).into() };
    let fields = json!({
        "holderIdentity": shown(&record.holder),
        "leaseDurationSeconds": record.lease_seconds,
        "acquireTime": time(&record.acquire_time),
        "renewTime": time(&record.renew_time),
        "leaseTransitions": record.transitions,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// So many seconds ago; of a clock that is ahead of ours, in so many.
fn past(seconds: f64) -> String {
    if seconds < 0.0 { format!("in {}", span(-seconds)) } else { format!("{} ago", span(seconds)) }
}

/// A time span for people: tenths of a second matter in a short one only.
fn span(seconds: f64) -> String {
    match seconds {
        0.0..60.0 => format!("{seconds:.1}s"),
        _ => duration(Duration::from_secs(seconds as u64)).to_string(),
    }
}
