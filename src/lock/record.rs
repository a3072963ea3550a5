//! The election record: reading leniently, writing exactly.

use crate::clock::Wall;
use crate::mutant::Mutant;
use serde_json::{Map, Value};
use std::time::Duration;

/// Holds a lock in two objects while these name different holders, as client-go calls it.
pub const UNKNOWN: &str = "leaderelection.k8s.io/unknown";

/// Holds a lock whose record cannot be read.
const UNREADABLE: &str = "unknown (unreadable record)";

/// What a lock says: who holds it, for how long, since when.
///
/// Its times are kept as the text that was read: a standby looks only at whether they *change*
/// (client-go's rule), because the clock that wrote them may be wrong by hours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The leader's identity; empty when the lock is free.
    pub holder: String,
    /// In whole seconds. `None` where the record has none, or one that cannot be meant (zero, negative).
    pub lease_seconds: Option<u32>,
    /// When the holder acquired the lock, by its wall clock; empty where there is none.
    pub acquire_time: String,
    /// When the holder last renewed, by its wall clock; empty where there is none.
    pub renew_time: String,
    /// How often the lock changed hands. `None` where the record does not say: some clients do not count, and such
    /// a record proves nothing about who led before.
    pub transitions: Option<i64>,
    /// Of a lock in two objects: what the second one says, where that is something else. It takes part in
    /// changes only.
    pub other_half: String,
}

impl Record {
    /// Whether nobody holds the lock.
    pub fn is_free(&self) -> bool {
        self.holder.is_empty()
    }

    /// How often the lock changed hands, as clients count that read a missing number as 0.
    pub fn transition_count(&self) -> i64 {
        self.transitions.unwrap_or(0)
    }

    /// Whether it names no holder and still counts these transitions, in both halves where there are two. Then
    /// nobody has acquired the lock since it had them: whoever does so counts one more.
    pub fn is_cleared_of(&self, transitions: i64) -> bool {
        let counts = |record: &Record| match record.transitions {
            None => Mutant::MissingCountIsOurs.is_on(),
            Some(count) => count == transitions,
        };
        let other = || Record::from_annotation(&self.other_half);
        self.is_free() && counts(self) && (self.other_half.is_empty() || counts(&other()))
    }

    /// Whether the record says nothing at all.
    pub fn is_blank(&self) -> bool {
        *self == Record::default()
    }

    /// How long the record is valid after it last changed; `own` where it does not say.
    pub fn lease_duration(&self, own: Duration) -> Duration {
        self.lease_seconds.map_or(own, |s| Duration::from_secs(s.into()))
    }

    /// The record a leader leaves behind: client-go's since 1.20, the one shape that no peer chokes on.
    pub fn released(transitions: i64, at: String) -> Record {
        let acquire_time = at.clone();
        let transitions = Some(transitions);
        Record { lease_seconds: Some(1), acquire_time, renew_time: at, transitions, ..Record::default() }
    }

    /// What a leader leaves behind of this record of its own. Its times are of the last moment with the fraction of a
    /// second of the acquire time, so that a standby knows it from a lock that somebody else cleared; where times
    /// have no fraction it cannot.
    pub fn release(&self, at: Wall, precision: Precision) -> Record {
        let at = fraction(&self.acquire_time).map_or(at, |fraction| at.back_to(fraction));
        Record::released(self.transition_count(), precision.text(at))
    }

    /// Whether the leader of that record has left this one behind, and nobody else.
    pub fn is_release_of(&self, held: &Record) -> bool {
        let signed = |time| fraction(time).is_some_and(|own| fraction(&held.acquire_time) == Some(own));
        self.is_free() && signed(&self.acquire_time) && signed(&self.renew_time)
    }

    /// Whether it was written by the same process in the same term: that says nothing of when.
    pub fn is_of_term(&self, other: &Record) -> bool {
        let term = |record: &Record| (record.holder.clone(), record.acquire_time.clone(), record.transitions);
        !self.is_free() && term(self) == term(other)
    }

    /// What is no record: held by somebody unknown until its lease is over. Its text stands where a time does,
    /// so that its changes show.
    pub fn unreadable(text: &str) -> Record {
        Record { holder: UNREADABLE.into(), renew_time: text.into(), ..Record::default() }
    }

    /// Whether it is known who holds the lock, or that nobody does.
    pub fn is_clear(&self) -> bool {
        ![UNKNOWN, UNREADABLE].contains(&&*self.holder)
    }

    /// Reads the annotation of client-go's older locks, field by field, in the ways that it and its peers write
    /// it: numbers as text, keys in any case, fabric8's `leaseDuration` (`PT15S`).
    pub fn from_annotation(text: &str) -> Record {
        let Ok(Value::Object(fields)) = serde_json::from_str(text) else {
            return Record::unreadable(text);
        };
        let field = |name: &str| {
            let any_case = || fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
            fields.get(name).or_else(any_case)
        };
        // Go refuses all of it then.
        if field("holderIdentity").is_some_and(|holder| !holder.is_string() && !holder.is_null()) {
            return Record::unreadable(text);
        }
        let text = |name| field(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let duration = || {
            let value = field("leaseDuration")?;
            let iso = value.as_str().and_then(|text| text.parse::<jiff::SignedDuration>().ok());
            iso.map(|iso| iso.as_secs()).or_else(|| lenient_number(value))
        };
        Record {
            holder: text("holderIdentity"),
            lease_seconds: lease_seconds(field("leaseDurationSeconds").and_then(lenient_number).or_else(duration)),
            acquire_time: text("acquireTime"),
            renew_time: text("renewTime"),
            transitions: field("leaderTransitions").and_then(lenient_number).map(|count| count.max(0)),
            ..Record::default()
        }
    }

    /// The annotation, byte for byte as Go writes it.
    pub fn to_annotation(&self) -> String {
        format!(
            r#"{{"holderIdentity":{},"leaseDurationSeconds":{},"acquireTime":{},"renewTime":{},"leaderTransitions":{}}}"#,
            go_string(&self.holder),
            self.lease_seconds.unwrap_or(1),
            go_string(&self.acquire_time),
            go_string(&self.renew_time),
            self.transition_count()
        )
    }

    /// Reads a Lease's `spec`, field by field: whatever is missing, null or odd counts as not there.
    pub fn from_lease_spec(spec: Option<&Value>) -> Record {
        let text = |key| {
            let value = spec.and_then(|s| s.get(key)).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        let number = |key| spec.and_then(|s| s.get(key)).and_then(lenient_number);
        Record {
            holder: text("holderIdentity"),
            lease_seconds: lease_seconds(number("leaseDurationSeconds")),
            acquire_time: text("acquireTime"),
            renew_time: text("renewTime"),
            transitions: number("leaseTransitions").map(|count| count.max(0)),
            ..Record::default()
        }
    }

    /// Writes the five fields into a Lease's `spec` and keeps those it does not know.
    ///
    /// `strategy` and `preferredHolder` are cleared, as every client does that is not part of a
    /// coordinated election: left in place they would ask this leader to step down.
    pub fn into_lease_spec(&self, spec: &mut Map<String, Value>) {
        spec.insert("holderIdentity".into(), self.holder.clone().into());
        spec.insert("leaseDurationSeconds".into(), self.lease_seconds.unwrap_or(1).into());
        spec.insert("acquireTime".into(), self.acquire_time.clone().into());
        spec.insert("renewTime".into(), self.renew_time.clone().into());
        spec.insert("leaseTransitions".into(), self.transition_count().into());
        spec.remove("strategy");
        spec.remove("preferredHolder");
    }
}

/// How finely a record gives times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As the API server wants them in a Lease.
    Microseconds,
    /// As Go writes them into an annotation.
    Seconds,
}

impl Precision {
    /// This time, as it is written.
    pub fn text(self, time: Wall) -> String {
        match self {
            Precision::Microseconds => time.micro_time(),
            Precision::Seconds => time.whole_second(),
        }
    }
}

/// The microseconds within the second, where there are any.
fn fraction(time: &str) -> Option<i64> {
    let (_, digits) = time.strip_suffix('Z')?.rsplit_once('.')?;
    digits.parse().ok().filter(|micros| digits.len() == 6 && *micros > 0)
}

/// A duration that can be meant.
fn lease_seconds(number: Option<i64>) -> Option<u32> {
    number.filter(|n| *n > 0).map(|n| u32::try_from(n).unwrap_or(u32::MAX))
}

/// A JSON string with Go's escapes, which keep HTML from being taken for markup.
fn go_string(text: &str) -> String {
    let json = Value::from(text).to_string();
    ["<", ">", "&", "\u{2028}", "\u{2029}"].iter().fold(json, |json, plain| {
        let escaped = format!("\\u{:04x}", plain.chars().next().map_or(0, u32::from));
        json.replace(plain, &escaped)
    })
}

/// A number, also when somebody wrote it as a float or a string.
fn lenient_number(value: &Value) -> Option<i64> {
    match value {
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn held() -> Record {
        Record {
            holder: "host-a_9b2f".into(),
            lease_seconds: Some(15),
            acquire_time: "2026-11-21T07:00:00.000000Z".into(),
            renew_time: "2026-11-21T07:00:10.000000Z".into(),
            transitions: Some(3),
            ..Record::default()
        }
    }

    #[test]
    fn l1_spec_and_record_round_trip() {
        let mut spec = Map::new();
        held().into_lease_spec(&mut spec);
        let spec = Value::Object(spec);
        assert_eq!(Record::from_lease_spec(Some(&spec)), held());
        assert_eq!(
            spec,
            json!({"holderIdentity": "host-a_9b2f", "leaseDurationSeconds": 15, "leaseTransitions": 3,
                   "acquireTime": "2026-11-21T07:00:00.000000Z", "renewTime": "2026-11-21T07:00:10.000000Z"})
        );
    }

    #[test]
    fn x4_a_lease_duration_that_cannot_be_meant_counts_as_missing() {
        for odd in [json!(null), json!(0), json!(-5), json!("soon"), json!({}), json!([15])] {
            let record = Record::from_lease_spec(Some(&json!({"holderIdentity": "a", "leaseDurationSeconds": odd})));
            assert_eq!(record.lease_seconds, None, "{odd}");
            assert_eq!(record.lease_duration(Duration::from_secs(15)), Duration::from_secs(15));
        }
        for (text, seconds) in [(json!("17"), 17), (json!(15.9), 15), (json!(9_999_999_999_i64), u32::MAX)] {
            let record = Record::from_lease_spec(Some(&json!({"leaseDurationSeconds": text})));
            assert_eq!(record.lease_seconds, Some(seconds));
        }
    }

    #[test]
    fn annotations_are_written_as_go_does() {
        let record =
            Record { acquire_time: "2026-11-21T07:00:00Z".into(), renew_time: "2026-11-21T07:00:10Z".into(), ..held() };
        let text = r#"{"holderIdentity":"host-a_9b2f","leaseDurationSeconds":15,"acquireTime":"2026-11-21T07:00:00Z","renewTime":"2026-11-21T07:00:10Z","leaderTransitions":3}"#;
        assert_eq!(record.to_annotation(), text);
        assert_eq!(Record::from_annotation(text), record);
        let odd = Record { holder: "a<b>&\"c\"\u{2028}\n".into(), ..record };
        assert!(odd.to_annotation().contains(r#""a\u003cb\u003e\u0026\"c\"\u2028\n""#), "{}", odd.to_annotation());
        assert_eq!(Record::from_annotation(&odd.to_annotation()), odd);
    }

    /// What peers write is in `election/elector/tests/shapes.rs`; this is what nobody writes, but Go reads.
    #[test]
    fn annotations_are_read_as_go_does() {
        let odd = Record::from_annotation(r#"{"HOLDERIDENTITY":"a","leaseDurationSeconds":{}}"#);
        assert_eq!((odd.holder.as_str(), odd.lease_seconds), ("a", None));
        assert!(Record::from_annotation("{}").is_free());
        assert!(!Record::from_annotation(r#"{"holderIdentity":5}"#).is_free());
    }

    #[test]
    fn what_is_no_record_is_held_and_its_changes_show() {
        for text in ["", "[]", "null", "1", "{", r#""text""#] {
            let record = Record::from_annotation(text);
            assert!(!record.is_free() && record.lease_seconds.is_none(), "{text}");
            assert_ne!(record, Record::from_annotation("other"), "{text}");
        }
    }

    #[test]
    fn a_write_keeps_what_it_does_not_know_and_clears_what_asks_to_step_down() {
        let mut spec = json!({"strategy": "OldestEmulationVersion", "preferredHolder": "b", "later": {"a": 1}});
        held().into_lease_spec(spec.as_object_mut().unwrap());
        assert_eq!(spec["later"], json!({"a": 1}));
        assert!(spec.get("strategy").is_none() && spec.get("preferredHolder").is_none());
    }

    #[test]
    fn a_record_is_of_the_term_of_another_with_the_same_holder_acquire_time_and_transitions() {
        let renewed = Record { renew_time: "2026-11-21T07:00:12.000000Z".into(), lease_seconds: Some(20), ..held() };
        assert!(renewed.is_of_term(&held()), "renewals do not begin a term");
        let others = [
            Record { holder: "host-b_77aa".into(), ..held() },
            Record { acquire_time: "2026-11-21T07:00:00.000001Z".into(), ..held() },
            Record { transitions: Some(4), ..held() },
        ];
        for other in others {
            assert!(!other.is_of_term(&held()), "{other:?}");
        }
        let free = held().release(Wall(1_795_330_810_000_000), Precision::Microseconds);
        assert!(!free.is_of_term(&held()) && !free.is_of_term(&free), "a free lock is of no term");
    }

    #[test]
    fn a_release_is_recognised_by_the_fraction_of_its_acquire_time() {
        let held = Record { acquire_time: "2026-11-21T07:00:00.250007Z".into(), ..held() };
        let release = held.release(Wall(1_795_330_810_000_000), Precision::Microseconds);
        assert_eq!(release, Record::released(3, "2026-11-22T07:00:09.250007Z".into()));
        assert!(release.is_release_of(&held));
        let others = [
            Record { holder: "host-b_77aa".into(), ..release.clone() },
            Record { acquire_time: "2026-11-22T07:00:09.250008Z".into(), ..release.clone() },
            Record { renew_time: "2026-11-22T07:00:09.250008Z".into(), ..release.clone() },
            Record { renew_time: "2026-11-22T07:00:09Z".into(), ..release.clone() },
        ];
        for other in others {
            assert!(!other.is_release_of(&held), "{other:?}");
        }
    }

    #[test]
    fn times_without_a_random_fraction_sign_no_release() {
        // Whole seconds, as in an annotation; microseconds of zero; another number of digits, as other clients write.
        for fraction in ["", ".000000", ".25", ".2500070", ".-00007", ".25000x"] {
            let held = Record { acquire_time: format!("2026-11-21T07:00:00{fraction}Z"), ..held() };
            let release = Record::released(3, format!("2026-11-22T07:00:09{fraction}Z"));
            assert!(!release.is_release_of(&held), "{fraction}");
            let at = Wall(1_795_330_810_250_007);
            assert_eq!(held.release(at, Precision::Microseconds).renew_time, "2026-11-22T07:00:10.250007Z");
            assert_eq!(held.release(at, Precision::Seconds).renew_time, "2026-11-22T07:00:10Z");
        }
    }

    #[test]
    fn a_released_record_is_free_and_lasts_a_second() {
        let released = Record::released(3, "2026-11-21T07:00:10Z".into());
        let annotation = r#"{"holderIdentity":"","leaseDurationSeconds":1,"acquireTime":"2026-11-21T07:00:10Z","renewTime":"2026-11-21T07:00:10Z","leaderTransitions":3}"#;
        assert_eq!(released.to_annotation(), annotation);
        assert!(released.is_free() && !held().is_free());
        assert_eq!(released.lease_duration(Duration::from_secs(15)), Duration::from_secs(1));
    }

    #[test]
    fn it_is_unclear_who_holds_a_lock_whose_record_cannot_be_read_or_whose_halves_differ() {
        let two_halves = Record { holder: UNKNOWN.into(), ..held() };
        assert!(!two_halves.is_clear() && !Record::unreadable("{").is_clear());
        assert!(held().is_clear() && Record::default().is_clear());
    }

    #[test]
    fn an_annotation_with_a_null_holder_is_free() {
        assert_eq!(Record::from_annotation(r#"{"holderIdentity":null}"#), Record::default());
    }

    #[test]
    fn negative_transitions_count_as_0() {
        let annotation = Record::from_annotation(r#"{"holderIdentity":"a","leaderTransitions":-1}"#);
        let lease = Record::from_lease_spec(Some(&json!({"holderIdentity": "a", "leaseTransitions": -1})));
        assert_eq!((annotation.transitions, lease.transitions), (Some(0), Some(0)));
    }
}
