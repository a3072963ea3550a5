//! Locks of the time before there were Leases: the record is an annotation of a ConfigMap or of Endpoints,
//! and whatever else is in the object stays.

use super::object::{Kind, entry};
use crate::lock::record::Record;
use k8s_openapi::Resource;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints};
use serde_json::{Map, Value};

/// The annotation, as client-go named it.
const KEY: &str = "control-plane.alpha.kubernetes.io/leader";

/// A ConfigMap.
pub const CONFIG_MAP: Kind = Kind {
    name: "configmap",
    plural: ConfigMap::URL_PATH_SEGMENT,
    kind: ConfigMap::KIND,
    api_version: ConfigMap::API_VERSION,
    read,
    write,
};

/// Endpoints, which need no Service.
pub const ENDPOINTS: Kind = Kind {
    name: "endpoints",
    plural: Endpoints::URL_PATH_SEGMENT,
    kind: Endpoints::KIND,
    api_version: Endpoints::API_VERSION,
    read,
    write,
};

fn read(object: &Value) -> Record {
    let annotation = object.get("metadata").and_then(|metadata| metadata.get("annotations")?.get(KEY)?.as_str());
    annotation.map_or_else(Record::default, Record::from_annotation)
}

fn write(object: &mut Map<String, Value>, record: &Record) {
    entry(entry(object, "metadata"), "annotations").insert(KEY.into(), record.to_annotation().into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_write_keeps_data_and_other_annotations() {
        let record = Record { holder: "me".into(), lease_seconds: Some(15), transitions: Some(0), ..Record::default() };
        let mut object = json!({"metadata": {"name": "l", "annotations": {"other": "kept"}}, "data": {"a": "b"}});
        write(object.as_object_mut().unwrap(), &record);
        assert_eq!(object["data"], json!({"a": "b"}));
        assert_eq!(object["metadata"]["annotations"]["other"], "kept");
        assert_eq!(read(&object), record);
        for odd in [json!({}), json!({"metadata": null}), json!({"metadata": {"annotations": null}})] {
            let Value::Object(mut object) = odd else { panic!() };
            assert!(read(&object.clone().into()).is_free());
            write(&mut object, &record);
            assert_eq!(read(&object.into()), record);
        }
    }
}
