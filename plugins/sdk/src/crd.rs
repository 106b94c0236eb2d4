use kube::core::crd::CustomResourceExt;
use serde_json::{Map, Value, json};

/// The CRD of a primary as the host wants it: the status subresource is on, and the status schema lets through what
/// the host writes beside the author's own fields.
pub(crate) fn json<K: CustomResourceExt>() -> Result<String, serde_json::Error> {
    let mut crd = serde_json::to_value(K::crd())?;
    for version in crd.pointer_mut("/spec/versions").and_then(Value::as_array_mut).into_iter().flatten() {
        entry(entry(version, "subresources"), "status");
        let schema = entry(entry(version, "schema"), "openAPIV3Schema");
        describe(schema);
        let status = entry(entry(schema, "properties"), "status");
        if let Some(status) = status.as_object_mut() {
            status.insert("type".into(), "object".into());
            // the host writes before the author's fields are there
            status.remove("required");
            status.insert("default".into(), json!({ "conditions": [pending()] }));
        }
        if let (Some(properties), Value::Object(host)) = (entry(status, "properties").as_object_mut(), host_status()) {
            properties.extend(host);
        }
    }
    serde_json::to_string(&crd)
}

/// The CRD with the versions of others of the same kind, in which nothing is stored.
pub(crate) fn with_versions(crd: String, others: &[String]) -> Result<String, serde_json::Error> {
    if others.is_empty() {
        return Ok(crd);
    }
    let mut crd: Value = serde_json::from_str(&crd)?;
    for other in others {
        let mut other: Value = serde_json::from_str(other)?;
        let mut added = other.pointer_mut("/spec/versions").map(Value::take).unwrap_or_default();
        for version in added.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            version.insert("storage".into(), false.into());
        }
        if let (Some(versions), Value::Array(added)) =
            (crd.pointer_mut("/spec/versions").and_then(Value::as_array_mut), added)
        {
            versions.extend(added);
        }
    }
    serde_json::to_string(&crd)
}

/// What people read first in `kubectl explain` is what the author wrote about the spec, not that a macro made the type.
fn describe(schema: &mut Value) {
    let Some(description) = schema.pointer("/properties/spec/description").cloned() else { return };
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("description".into(), description);
    }
}

/// The object at `key`, put there if there is none.
fn entry<'a>(parent: &'a mut Value, key: &str) -> &'a mut Value {
    if !parent.is_object() {
        *parent = Value::Object(Map::new());
    }
    let child = match parent {
        Value::Object(fields) => fields.entry(key).or_insert(Value::Null),
        other => other,
    };
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    child
}

/// `Ready` of an object that the host has not looked at yet. As a default it costs no write, and who asks for the health of
/// the object at once (Helm, Flux, kstatus) does not take one without a status for one that is as it should be. The Gateway
/// API's kinds have the like.
fn pending() -> Value {
    json!({
        "type": "Ready",
        "status": "Unknown",
        "reason": "Pending",
        "message": "waiting for the host",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    })
}

/// Schemas of the status fields that the host writes. Conditions as `metav1.Condition` of
/// k8s.io/apimachinery/pkg/apis/meta/v1/types.go has them.
fn host_status() -> Value {
    json!({
        "conditions": {
            "description": "The state of this object in steps; Ready sums them up.",
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status", "lastTransitionTime", "reason", "message"],
                "properties": {
                    "type": {
                        "type": "string",
                        "maxLength": 316,
                        "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
                    },
                    "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                    "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                    "lastTransitionTime": { "type": "string", "format": "date-time" },
                    "reason": {
                        "type": "string",
                        "minLength": 1,
                        "maxLength": 1024,
                        "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                    },
                    "message": { "type": "string", "maxLength": 32768 },
                },
            },
        },
        "observedGeneration": {
            "description": "The generation of the spec that this status is about.",
            "type": "integer",
            "format": "int64",
        },
        "inventory": {
            "description": "The objects that were applied for this one.",
            "type": "array",
            "x-kubernetes-list-type": "atomic",
            "items": {
                "type": "object",
                "required": ["apiVersion", "kind", "name"],
                "properties": {
                    "apiVersion": { "type": "string" },
                    "kind": { "type": "string" },
                    "namespace": { "type": "string" },
                    "name": { "type": "string" },
                },
            },
        },
    })
}
