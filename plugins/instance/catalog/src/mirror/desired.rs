//! Rows as objects and objects as status, without I/O.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::database::store::{Instance, Phase, Status, Template};

/// Says which catalog has made an object. Nothing without it is ever removed.
pub(super) const CATALOG: &str = "caelus.io/catalog";

/// Says which instance a Secret is of.
pub(super) const INSTANCE: &str = "caelus.io/instance";

/// Says which generation of its row an object has.
pub(super) const GENERATION: &str = "caelus.io/generation";

/// Where a Secret has the values.
const VALUES_KEY: &str = "values.json";

/// The longest message that a row keeps, in characters.
const MAX_MESSAGE: usize = 2_000;

pub(super) fn template_resource() -> ApiResource {
    resource("ProductTemplateVersion", "producttemplateversions")
}

pub(super) fn instance_resource() -> ApiResource {
    resource("CaelusInstance", "caelusinstances")
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("caelus.io", "v1", kind), plural)
}

/// The Secret with the values that an instance has since that generation. Other values are another Secret: so the object
/// takes them on with all else that an upgrade changes, in one write.
pub(super) fn secret_name(instance: &str, generation: i64) -> String {
    format!("{instance}-values-{generation}")
}

/// The instance that a Secret is of.
pub(super) fn instance_of_secret(name: &str) -> Option<&str> {
    let (instance, generation) = name.rsplit_once("-values-")?;
    generation.parse::<i64>().is_ok().then_some(instance)
}

fn labels(catalog: Uuid) -> Value {
    json!({ CATALOG: catalog.to_string(), "app.kubernetes.io/managed-by": "transom-catalog" })
}

pub(super) fn template(catalog: Uuid, row: &Template) -> Value {
    let mut spec = json!({ "chart": row.chart, "defaultValues": row.default_values });
    if let Some(spec) = spec.as_object_mut() {
        if !row.domain_paths.is_empty() {
            spec.insert("domainPaths".into(), json!(row.domain_paths));
        }
        spec.extend(row.timeout_seconds.map(|seconds| ("timeoutSeconds".into(), seconds.into())));
    }
    json!({
        "apiVersion": "caelus.io/v1",
        "kind": "ProductTemplateVersion",
        "metadata": { "name": row.id.to_string(), "labels": labels(catalog) },
        "spec": spec,
    })
}

pub(super) fn instance(catalog: Uuid, row: &Instance) -> Value {
    let name = row.id.to_string();
    let mut spec = json!({
        "userId": row.user_id,
        "productTemplateVersion": row.template.to_string(),
        "namespace": row.namespace,
        "domainName": row.domain_name,
        "values": row.overrides,
    });
    if let (Some(_), Some(spec)) = (&row.sealed, spec.as_object_mut()) {
        spec.insert("valuesSecret".into(), secret_name(&name, row.secrets_generation).into());
    }
    let annotations = json!({ GENERATION: row.generation.to_string() });
    json!({
        "apiVersion": "caelus.io/v1",
        "kind": "CaelusInstance",
        "metadata": { "name": name, "labels": labels(catalog), "annotations": annotations },
        "spec": spec,
    })
}

/// Its text is the row's opened secrets, byte for byte.
pub(super) fn secret(catalog: Uuid, row: &Instance, values: &[u8]) -> Value {
    let instance = row.id.to_string();
    let mut labels = labels(catalog);
    if let Some(labels) = labels.as_object_mut() {
        labels.insert(INSTANCE.into(), instance.clone().into());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": secret_name(&instance, row.secrets_generation), "labels": labels },
        "type": "Opaque",
        "data": { VALUES_KEY: STANDARD.encode(values) },
    })
}

/// Whether a custom resource is as wanted: our labels and annotations, and our fields of the spec. The values are
/// wanted exactly; elsewhere the cluster may have added what its schema says.
pub(super) fn is_as_wanted(wanted: &Value, live: &DynamicObject) -> bool {
    let metadata = |kind: &str| {
        let live = match kind {
            "labels" => &live.metadata.labels,
            _ => &live.metadata.annotations,
        };
        let pairs = wanted.pointer(&format!("/metadata/{kind}")).and_then(Value::as_object).into_iter().flatten();
        pairs
            .into_iter()
            .all(|(key, value)| live.as_ref().and_then(|live| live.get(key)).map(String::as_str) == value.as_str())
    };
    let none = Map::new();
    let spec = |object: &'_ Value| object.get("spec").and_then(Value::as_object).cloned();
    let (wanted_spec, live_spec) = (spec(wanted).unwrap_or_default(), spec(&live.data).unwrap_or(none));
    let fields = wanted_spec.iter().all(|(key, wanted)| match live_spec.get(key) {
        Some(live) if key == "chart" => has(wanted, live),
        Some(live) => same(wanted, live),
        None => false,
    });
    let has_spare_secret = live_spec.contains_key("valuesSecret") && !wanted_spec.contains_key("valuesSecret");
    metadata("labels") && metadata("annotations") && fields && !has_spare_secret
}

/// As wanted, for the Secret.
pub(super) fn is_secret_as_wanted(wanted: &Value, live: &Secret) -> bool {
    let text = wanted.pointer(&format!("/data/{VALUES_KEY}")).and_then(Value::as_str).unwrap_or_default();
    let data = live.data.as_ref();
    let labels = wanted.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    let has_labels = labels.into_iter().all(|(key, value)| {
        live.metadata.labels.as_ref().and_then(|live| live.get(key)).map(String::as_str) == value.as_str()
    });
    has_labels && data.and_then(|data| data.get(VALUES_KEY)).is_some_and(|live| STANDARD.encode(&live.0) == text)
}

/// Numbers by value: 1.0 comes back from the API server as 1.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

/// All of `a` is in `b`.
fn has(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => a.iter().all(|(key, a)| b.get(key).is_some_and(|b| has(a, b))),
        _ => same(a, b),
    }
}

/// What the cluster says of an instance, and of which generation of its row. None as long as it says nothing about the
/// spec that the object has now.
pub(super) fn status(live: &DynamicObject) -> Option<(i64, Status)> {
    let annotations = live.metadata.annotations.as_ref();
    let generation = annotations.and_then(|annotations| annotations.get(GENERATION))?.parse().ok()?;
    let status = live.data.get("status")?;
    let phase = Phase::parse(status.get("phase")?.as_str()?)?;
    let ready = status.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let ready = ready.into_iter().find(|condition| condition.get("type").is_some_and(|kind| kind == "Ready"));
    let observed =
        status.get("observedGeneration").or_else(|| ready?.get("observedGeneration")).and_then(Value::as_i64);
    if observed.zip(live.metadata.generation).is_some_and(|(observed, current)| observed < current) {
        return None;
    }
    let message = status.get("message").and_then(Value::as_str).unwrap_or_default();
    let time = status.get("lastReconcile").and_then(Value::as_str);
    let status = Status {
        phase,
        message: message.chars().filter(|c| *c != '\0').take(MAX_MESSAGE).collect(),
        release_revision: status.pointer("/release/revision").and_then(Value::as_i64),
        last_reconcile: time.and_then(|time| time.parse::<Timestamp>().ok()),
    };
    Some((generation, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Instance {
        let now = Timestamp::from_second(0).unwrap();
        Instance {
            id: Uuid::from_u128(7),
            user_id: "alice".into(),
            template: Uuid::from_u128(8),
            namespace: "shop".into(),
            domain_name: "shop.example.org".into(),
            overrides: json!({ "size": 1.0, "gone": null }).as_object().unwrap().clone(),
            sealed: Some(vec![1]),
            secrets_generation: 2,
            generation: 3,
            status: Status {
                phase: Phase::Pending,
                message: String::new(),
                release_revision: None,
                last_reconcile: None,
            },
            created_at: now,
            updated_at: now,
            deleted_at: None,
            gone_at: None,
        }
    }

    fn live(mut object: Value, edit: impl FnOnce(&mut Value)) -> DynamicObject {
        edit(&mut object);
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn an_object_is_wanted_as_it_was_written() {
        let wanted = instance(Uuid::from_u128(1), &row());
        let is_good = |edit: fn(&mut Value)| is_as_wanted(&wanted, &live(wanted.clone(), edit));
        assert!(is_good(|_| {}));
        assert!(is_good(|object| object["spec"]["values"]["size"] = json!(1)));
        assert!(is_good(|object| object["metadata"]["labels"]["other"] = json!("x")));
        assert!(is_good(|object| object["spec"]["other"] = json!("a default of the schema")));
        assert!(!is_good(|object| object["spec"]["values"]["size"] = json!(2)));
        assert!(!is_good(|object| object["spec"]["values"]["more"] = json!(2)));
        assert!(!is_good(|object| object["spec"]["domainName"] = json!("x")));
        assert!(!is_good(|object| object["metadata"]["labels"] = json!({})));
        assert!(!is_good(|object| object["metadata"]["annotations"][GENERATION] = json!("2")));
        assert_eq!(wanted["spec"]["valuesSecret"], format!("{}-values-2", row().id));
        assert_eq!(instance_of_secret(&secret_name("a-values-1", 2)), Some("a-values-1"));
        assert_eq!(instance_of_secret("a-values"), None);
        let without = instance(Uuid::from_u128(1), &Instance { sealed: None, ..row() });
        let spare = live(without.clone(), |object| object["spec"]["valuesSecret"] = json!("x"));
        assert!(!is_as_wanted(&without, &spare));
    }

    #[test]
    fn a_status_of_an_earlier_spec_is_not_taken() {
        let with = |status: Value| {
            let object = instance(Uuid::from_u128(1), &row());
            status_of(live(object, |object| {
                object["metadata"]["generation"] = json!(5);
                object["status"] = status;
            }))
        };
        fn status_of(object: DynamicObject) -> Option<(i64, Status)> {
            status(&object)
        }
        let ready = |observed: i64| json!([{ "type": "Ready", "status": "True", "observedGeneration": observed }]);
        assert_eq!(with(json!({})), None);
        assert_eq!(with(json!({ "phase": "Odd" })), None);
        assert_eq!(with(json!({ "phase": "Running", "conditions": ready(4) })), None);
        let running = json!({
            "phase": "Running", "conditions": ready(5), "message": "ok\0", "release": { "revision": 2 },
            "lastReconcile": "2026-01-02T03:04:05Z",
        });
        let status = Status {
            phase: Phase::Running,
            message: "ok".into(),
            release_revision: Some(2),
            last_reconcile: Some("2026-01-02T03:04:05Z".parse().unwrap()),
        };
        assert_eq!(with(running), Some((3, status)));
        assert!(with(json!({ "phase": "Failed" })).is_some(), "an operator that says nothing of generations");
    }
}
