//! What leader-run's records have to look like, so that every other client can read them.
#![allow(dead_code)]

use serde_json::Value;

/// The annotation that has the record in a ConfigMap or in Endpoints.
pub const KEY: &str = "control-plane.alpha.kubernetes.io/leader";

/// An annotation: byte for byte as Go writes it, with this holder and lease duration. Returns its transitions.
pub fn check_annotation(text: &str, holder: &str, seconds: u32) -> u64 {
    let record: Value = serde_json::from_str(text).expect("JSON");
    let time = |key: &str| record[key].as_str().expect("a time").to_owned();
    let (acquired, renewed, transitions) =
        (time("acquireTime"), time("renewTime"), record["leaderTransitions"].as_u64().expect("a number"));
    for time in [&acquired, &renewed] {
        assert!(time.len() == "2026-11-21T07:00:10Z".len() && time.ends_with('Z'), "{time}");
    }
    let go = format!(
        r#"{{"holderIdentity":"{holder}","leaseDurationSeconds":{seconds},"acquireTime":"{acquired}","renewTime":"{renewed}","leaderTransitions":{transitions}}}"#
    );
    assert_eq!(text, go);
    transitions
}

/// The same of a Lease: nothing is missing, and there is nothing else. Returns its transitions.
pub fn check_spec(spec: &Value, holder: &str, seconds: u32) -> u64 {
    let fields: Vec<_> = spec.as_object().expect("a spec").keys().map(String::as_str).collect();
    let expected = ["acquireTime", "holderIdentity", "leaseDurationSeconds", "leaseTransitions", "renewTime"];
    assert_eq!(fields, expected, "{spec}");
    assert_eq!((&spec["holderIdentity"], &spec["leaseDurationSeconds"]), (&holder.into(), &seconds.into()), "{spec}");
    for key in ["acquireTime", "renewTime"] {
        let time = spec[key].as_str().expect("a time");
        assert!(time.len() == "2026-11-21T07:00:10.123456Z".len() && time.ends_with('Z'), "{spec}");
    }
    spec["leaseTransitions"].as_u64().expect("a number")
}
