//! A lock in a Lease: the record is its `spec`.

use super::object::{Kind, entry};
use crate::lock::record::Record;
use k8s_openapi::Resource;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Map, Value};

/// A Lease of `coordination.k8s.io/v1`.
pub const LEASE: Kind = Kind {
    name: "lease",
    plural: Lease::URL_PATH_SEGMENT,
    kind: Lease::KIND,
    api_version: Lease::API_VERSION,
    read: |lease| Record::from_lease_spec(lease.get("spec")),
    write: set_record,
};

/// The same as one half of a lock whose records give whole seconds.
pub const LEASE_HALF: Kind = Kind {
    read: |lease| {
        let record = (LEASE.read)(lease);
        let whole = |time: &str| time.strip_suffix(".000000Z").map_or(time.to_owned(), |time| format!("{time}Z"));
        Record { acquire_time: whole(&record.acquire_time), renew_time: whole(&record.renew_time), ..record }
    },
    write: |lease, record| {
        let micros = |time: &str| match time.strip_suffix('Z') {
            Some(time) if !time.contains('.') => format!("{time}.000000Z"),
            _ => time.to_owned(),
        };
        let (acquire_time, renew_time) = (micros(&record.acquire_time), micros(&record.renew_time));
        set_record(lease, &Record { acquire_time, renew_time, ..record.clone() });
    },
    ..LEASE
};

fn set_record(lease: &mut Map<String, Value>, record: &Record) {
    record.into_lease_spec(entry(lease, "spec"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(read: Value, record: &Record) -> Value {
        let Value::Object(mut lease) = read else { panic!() };
        set_record(&mut lease, record);
        lease.into()
    }

    #[test]
    fn x5_a_write_keeps_labels_annotations_and_fields_it_does_not_know() {
        let read = json!({"metadata": {"uid": "u", "resourceVersion": "7", "labels": {"team": "a"}},
                          "spec": {"holderIdentity": "x", "preferredHolder": "y", "future": [1]}, "status": {"odd": true}});
        let record = Record { holder: "me".into(), lease_seconds: Some(15), ..Record::default() };
        let written = written(read.clone(), &record);
        assert_eq!(written["metadata"], read["metadata"]);
        assert_eq!(written["status"], read["status"]);
        assert_eq!(written["spec"]["future"], json!([1]));
        assert_eq!(written["spec"]["holderIdentity"], "me");
    }

    #[test]
    fn a_lease_whose_spec_is_no_object_can_be_written() {
        for lease in [json!({}), json!({"spec": null}), json!({"spec": 5})] {
            assert_eq!(written(lease, &Record::default())["spec"]["holderIdentity"], "");
        }
    }
}
