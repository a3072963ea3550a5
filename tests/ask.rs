//! The questions that can be asked of a lock in a file: nothing is contended for, and nothing is made.

mod support;

use nix::libc::SIGTERM;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use support::{Contender, Finished, POLITE, SHORT, leader_run, output};
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn options(&self) -> [&str; 6] {
        ["--lock", "file", "--name", "demo", "--lock-dir", self.0.path().to_str().unwrap()]
    }

    fn ask(&self, question: &str, more: &[&str]) -> Finished {
        output(&[&[question], &self.options()[..], more].concat())
    }

    fn status(&self, more: &[&str]) -> Finished {
        self.ask("status", more)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.status(&["-o", "json"]).stdout).unwrap()
    }

    fn watch(&self, more: &[&str]) -> Contender {
        Contender::start(leader_run().arg("status").args(self.options()).arg("--watch").args(more))
    }

    fn leader(&self, identity: &str) -> Contender {
        let mut command = leader_run();
        command.args(self.options()).args(SHORT).args(["--identity", identity, "--", "bash", "-c"]);
        let leader = Contender::start(command.arg(format!("echo start; {POLITE}")));
        leader.wait_line("start");
        leader
    }

    fn record(&self) -> PathBuf {
        self.0.path().join("default_demo.json")
    }

    /// Somebody else writes this.
    fn write(&self, revision: u32, spec: &Value) {
        let new = self.0.path().join("new");
        fs::write(&new, json!({"resourceVersion": revision.to_string(), "spec": spec}).to_string()).unwrap();
        fs::rename(new, self.record()).unwrap();
    }
}

fn answered(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, code, "{finished:?}");
    for word in words {
        assert!(finished.stdout.contains(word), "{word:?} is not in: {}", finished.stdout);
    }
    assert!(finished.stderr.is_empty(), "{}", finished.stderr);
}

#[test]
fn nothing_is_made_by_asking() {
    let place = Place::new();
    answered(&place.status(&[]), 1, &["file lock default/demo is not there"]);
    assert_eq!(place.status(&["-o", "name"]).stdout, "");
    assert_eq!(place.json()["state"], "missing");
    let deep = place.0.path().join("a/b");
    let folder = ["--lock-dir", deep.to_str().unwrap()];
    let asked = |question| output(&[&[question, "--lock", "file", "--name", "demo"], &folder[..]].concat());
    answered(&asked("status"), 1, &["is not there"]);
    let check = asked("check");
    assert_eq!((check.code, check.stdout.as_str()), (0, ""), "{check:?}");
    assert!(check.stderr.contains("will be made"), "{}", check.stderr);
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 0);
}

#[test]
fn who_holds_it_and_when_it_is_given_back() {
    let place = Place::new();
    let mut leader = place.leader("me");
    let before = fs::read_to_string(place.record()).unwrap();
    let words =
        ["file lock default/demo is held by me\n", "by the holder's clock", "lease duration 6s", "0 transitions"];
    answered(&place.status(&[]), 0, &words);
    answered(&place.status(&["-o", "name"]), 0, &["me\n"]);
    // The arguments of a run, as they are.
    let pasted = ["--wait", "5s", "--on-lost", "rejoin", "-v", "--no-events", "-o", "name", "--", "no-such-command"];
    answered(&place.status(&pasted), 0, &["me\n"]);
    let told = place.json();
    let record: Value = serde_json::from_str(&before).unwrap();
    for field in ["holderIdentity", "leaseDurationSeconds", "acquireTime", "leaseTransitions"] {
        assert_eq!(told[field], record["spec"][field], "{told}");
    }
    assert_eq!(
        (&told["state"], &told["expired"], &told["countedBy"]),
        (&"held".into(), &false.into(), &"record".into())
    );
    let (ago, left) = (told["renewedSecondsAgo"].as_f64().unwrap(), told["expiresInSeconds"].as_f64().unwrap());
    assert!((0.0..6.0).contains(&ago) && (ago + left - 6.0).abs() < 1e-6, "{told}");
    leader.signal(SIGTERM);
    assert_eq!(leader.wait(), 0, "{}", leader.said());
    answered(&place.status(&[]), 1, &["file lock default/demo is free"]);
    answered(&place.status(&["-o", "name"]), 1, &[]);
    assert_eq!(place.status(&["-o", "name"]).stdout, "");
}

#[test]
fn what_others_have_written() {
    let place = Place::new();
    let old = "2020-01-01T00:00:00Z";
    let spec = json!({"holderIdentity": "py", "leaseDurationSeconds": 15, "acquireTime": old, "renewTime": old});
    place.write(1, &spec);
    answered(&place.status(&[]), 0, &["held by py", "and expired ", "by the holder's clock"]);
    assert_eq!(place.json()["expired"], true);
    place.write(2, &json!({"holderIdentity": "a\nb", "renewTime": "2026-11-21 09:00:05"}));
    answered(
        &place.status(&[]),
        0,
        &["held by a\\nb", "no known time zone", "lease duration 15s, which it does not say"],
    );
    place.write(3, &json!({"holderIdentity": "py"}));
    answered(&place.status(&[]), 0, &["does not say when it was renewed"]);
    fs::write(place.record(), "{").unwrap();
    for (format, text) in [("text", "is held, nobody can tell by whom"), ("name", "")] {
        let finished = place.status(&["-o", format]);
        assert_eq!(finished.code, 2, "{finished:?}");
        assert!(
            finished.stdout.contains(text) && finished.stderr.contains("its record cannot be read"),
            "{finished:?}"
        );
        assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
    }
    assert_eq!(place.json()["state"], "unknown");
    fs::remove_file(place.record()).unwrap();
    fs::create_dir(place.record()).unwrap();
    let finished = place.status(&[]);
    assert_eq!((finished.code, finished.stdout.as_str()), (2, ""), "{finished:?}");
    assert!(finished.stderr.contains("is no plain file"), "{finished:?}");
}

#[test]
fn usage_errors_are_125() {
    for (args, word) in [
        (&["--lock", "file"][..], "which lock? Give --name"),
        (&["--lock", "file", "--", "sh"], "give the lock a name"),
        (&["--lock", "file", "--name", "demo", "--lease-duration", "2s"], "3s to 1h"),
        (&["--name", "demo"], "no cluster"),
    ] {
        for question in ["status", "check"] {
            let finished = output(&[&[question], args].concat());
            assert_eq!((finished.code, finished.stdout.as_str()), (125, ""), "{question} {args:?}: {finished:?}");
            assert!(finished.stderr.contains(word), "{finished:?}");
        }
    }
    let finished = output(&["status", "-o", "yaml"]);
    assert!(finished.code == 125 && finished.stderr.contains("text, json or name"), "{finished:?}");
}

#[test]
fn a_watch_tells_every_change_but_renewals() {
    let place = Place::new();
    let (mut text, mut names) = (place.watch(&[]), place.watch(&["-o", "name"]));
    text.wait_line("is not there");
    let mut leader = place.leader("me");
    text.wait_line("is held by me");
    let first = fs::read_to_string(place.record()).unwrap();
    support::wait_for("two renewals", support::LONG, || {
        let now: Value = serde_json::from_str(&fs::read_to_string(place.record()).unwrap()).unwrap();
        let then: Value = serde_json::from_str(&first).unwrap();
        let micros = |value: &Value| value["resourceVersion"].as_str().unwrap().parse::<i64>().unwrap();
        (micros(&now) - micros(&then) > 1_500_000).then_some(())
    });
    leader.signal(SIGTERM);
    leader.wait();
    text.wait_line("is free");
    fs::remove_file(place.record()).unwrap();
    support::wait_for("the deletion", support::LONG, || (text.count("is not there") == 2).then_some(()));
    // By its own clock it holds for a day: nobody renews it, and that is seen.
    let day = json!({"holderIdentity": "odd", "leaseDurationSeconds": 2, "renewTime": "2099-01-01T00:00:00.000000Z"});
    place.write(9, &day);
    text.wait_line("held by odd; renewed 0.0s ago and expires in 2.0s unless it is renewed, as seen from here");
    text.wait_line("s ago as seen from here");
    names.wait_line("odd");
    let said: Vec<_> = names.lines().into_iter().map(|line| line.text).collect();
    assert_eq!(said, ["me", "", "odd"]);
    assert_eq!(text.lines().len(), 6, "{}", text.said());
    for watch in [&mut text, &mut names] {
        watch.signal(SIGTERM);
        assert_eq!(watch.wait(), -SIGTERM);
    }
}

#[test]
fn a_check_of_the_lock_folder() {
    let place = Place::new();
    let check = place.ask("check", &["--", "no-such-command"]);
    assert_eq!((check.code, check.stdout.as_str()), (0, ""), "{check:?}");
    for words in ["ok       the timings", "warning  no-such-command: command not found", "on a local file system"] {
        assert!(check.stderr.contains(words), "{check:?}");
    }
    fs::set_permissions(place.0.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let check = place.ask("check", &[]);
    assert!(check.code == 0 && check.stderr.contains("is sticky"), "{check:?}");
    let file = place.0.path().join("file");
    fs::write(&file, "").unwrap();
    let check = output(&["check", "--lock", "file", "--name", "demo", "--lock-dir", file.to_str().unwrap()]);
    assert!(check.code == 1 && check.stderr.contains("is not a folder"), "{check:?}");
    let below = file.join("below");
    let at = ["--lock", "file", "--name", "demo", "--lock-dir", below.to_str().unwrap()];
    for (question, code) in [("check", 1), ("status", 2)] {
        let asked = output(&[&[question], &at[..]].concat());
        assert!(asked.code == code && asked.stderr.contains("cannot use lock folder"), "{asked:?}");
    }
}
