//! X1: every record that clients of all kinds leave in a lock, as it is and damaged in any way: it is taken
//! neither early nor never.

use super::*;
use serde_json::{Map, Value};

/// Also put into real objects, by the tests of the real API server.
const SHAPES: &str = include_str!("../../../../tests/support/shapes.tsv");

struct Shape {
    name: &'static str,
    lease: bool,
    wait: &'static str,
    text: &'static str,
}

fn shapes() -> impl Iterator<Item = Shape> + Clone {
    SHAPES.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let [name, place, wait, text] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        Shape { name, lease: place == "lease", wait, text }
    })
}

/// When a standby writes that sees nothing but this record, if it does.
fn taken_after(record: &Record) -> Duration {
    let mut rig = Rig::new(settings());
    let begin = rig.now.at.boot;
    // A damaged duration may be one of years.
    while rig.calls.len() < 50 {
        match rig.verb() {
            Some(Verb::Get) => rig.get(found(record.clone(), 5)),
            Some(_) => return rig.now.at.boot - begin,
            None => rig.pass(rig.elector.wake(rig.now).unwrap_or_else(|| panic!("it waits for ever: {rig}"))),
        }
    }
    Duration::MAX
}

fn read(shape: &Shape) -> Record {
    match shape.lease {
        true => Record::from_lease_spec(Some(&serde_json::from_str(shape.text).unwrap())),
        false => Record::from_annotation(shape.text),
    }
}

#[test]
fn x1_x18_x19_every_shape_is_waited_for_and_then_taken() {
    for shape in shapes() {
        let took = taken_after(&read(&shape));
        let lease = match shape.wait {
            "free" => Duration::ZERO,
            "own" => settings().lease_duration,
            seconds => SECOND * seconds.parse().unwrap(),
        };
        let room = Duration::from_millis(20);
        assert!(took >= lease && took <= lease + room, "{}: {took:?}", shape.name);
    }
    assert_eq!(taken_after(&Record::from_lease_spec(None)), taken_after(&Record::default()));
}

/// A small generator, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    /// An annotation is any text.
    fn damage_text(&mut self, text: &str) -> String {
        let mut text = text.as_bytes().to_vec();
        for _ in 0..=self.below(4) {
            if text.is_empty() {
                break;
            }
            let (at, other) = (self.below(text.len()), self.below(text.len()));
            match self.below(5) {
                0 => drop(text.remove(at)),
                1 => text[at] = self.below(256) as u8,
                2 => text.insert(at, b"\"{}[],:0-.e\\\0"[self.below(13)]),
                3 => text.swap(at, other),
                _ => text.truncate(at.max(1)),
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// A spec is an object: what is damaged are its fields.
    fn damage_fields(&mut self, spec: &str) -> String {
        let mut spec: Map<String, Value> = serde_json::from_str(spec).unwrap();
        for _ in 0..=self.below(3) {
            let odd = ["null", "0", "-1", "1e300", "4294967296", "\"\"", "\"5\"", "[]", "{\"a\":1}", "true"];
            let keys =
                ["holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime", "leaseTransitions", "odd"];
            let key = keys[self.below(keys.len())];
            match self.below(3) {
                0 => drop(spec.remove(key)),
                _ => drop(spec.insert(key.into(), serde_json::from_str(odd[self.below(odd.len())]).unwrap())),
            }
        }
        Value::Object(spec).to_string()
    }
}

#[test]
fn a_damaged_record_is_not_taken_early() {
    let all: Vec<_> = shapes().collect();
    let mut dice = Dice(1);
    let mut held = 0;
    for round in 0..10_000 {
        let shape = &all[round % all.len()];
        let text = if shape.lease { dice.damage_fields(shape.text) } else { dice.damage_text(shape.text) };
        let fields = serde_json::from_str::<Map<String, Value>>(&text).ok();
        let record = match shape.lease {
            true => Record::from_lease_spec(Some(&Value::from(fields.clone().unwrap()))),
            false => Record::from_annotation(&text),
        };
        let field = |name: &str| fields.as_ref()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        let holder = field("holderIdentity").and_then(|(_, holder)| holder.as_str()).unwrap_or_default();
        let took = taken_after(&record);
        let odd = field("holderIdentity").is_some_and(|(_, holder)| !holder.is_string() && !holder.is_null());
        if odd && !shape.lease {
            assert_eq!(took, settings().lease_duration, "{text}");
            continue;
        }
        if fields.is_some() && holder.is_empty() {
            // It says that nobody holds it.
            assert!(took <= Duration::from_millis(20), "{text}: {took:?}");
            continue;
        }
        held += 1;
        // By another way than that of the code: the numbers of the damaged text, where it is still a record.
        let (seconds, millis) = (field("leaseDurationSeconds"), field("leaseDuration"));
        let least = match (seconds.or(millis), &fields) {
            (_, None) | (None, _) => settings().lease_duration,
            (Some((_, value)), _) => {
                let text = value.to_string();
                let digits: String = text.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
                let plain = ["", "\"", "\"PT"].iter().any(|start| text.starts_with(&format!("{start}{digits}")));
                let number = digits.parse::<f64>().ok().filter(|n| plain && *n >= 1.0 && *n < 100.0);
                number.map_or(SECOND, |n| SECOND * n.floor() as u32)
            }
        };
        assert!(took >= least, "{text}: {took:?}, not {least:?}");
    }
    assert!(held > 5_000, "{held}");
}
