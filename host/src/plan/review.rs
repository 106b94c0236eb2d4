//! A child that differs from what is desired: what of it is drift, and what is written.
//!
//! A difference is no drift when
//! * the plugin's field manager owns the field, and the same object was applied before: nobody has changed the field since,
//!   so the API server or an admission webhook made of it what is there (zero values that are dropped, defaults, values
//!   written in another way). Every change by anyone else takes the ownership away;
//! * the field is set once: `transom.dev/set-once` on the child, or `spec.setOnce` of the `Plugin` resource;
//! * it is `spec.replicas`, and an autoscaler exists for the object, or one that is not known has set it;
//! * it is the size of a PersistentVolumeClaim that has grown, since it cannot shrink.
//!
//! Such fields are left as they are in every apply, too. No other field is left to whoever writes it most often: a field
//! that a platform guarantees must not be lost to that.

use serde_json::Value;

use super::check::Desired;
use super::diff::{self, Difference};
use super::owners::{Owned, Owners};
use super::quantity;

/// The field manager of Kubernetes' own autoscaler.
const HPA_CONTROLLER: &str = "kube-controller-manager";

/// At most this many differences of one child are looked at.
const MAX_DIFFERENCES: usize = 1_000;

/// What is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// Fields that differ: `spec.template.spec.containers[name=web].image`. Empty where only a field that is no longer set
    /// has to go, or another annotation has to come.
    pub drift: Vec<String>,
    /// What to apply, where it is not the desired object as it is.
    pub body: Option<Value>,
}

/// What is to be written of a child that was found to differ, or was read in another version; none when it is in sync.
/// `live` is in the version of the desired object, with `managedFields`; `is_scaled` tells whether an autoscaler exists
/// for it, none when that is not known.
#[must_use]
pub fn review(
    desired: &Desired,
    live: &Value,
    manager: &str,
    is_unchanged: bool,
    is_scaled: Option<bool>,
) -> Option<Review> {
    let owners = Owners::of(live);
    let fields = owners.fields(manager, &desired.reference.kind.api_version);
    let differences = diff::differences(&desired.body, live, Owned::Within(&fields), MAX_DIFFERENCES);
    let is_scaled = match (is_scaled, owners.scaler()) {
        // what it has set stays its own after the HorizontalPodAutoscaler is gone
        (Some(is_scaled), None | Some(HPA_CONTROLLER)) => is_scaled,
        (_, scaler) => scaler.is_some(),
    };
    let (left, differing): (Vec<_>, Vec<_>) =
        differences.into_iter().partition(|difference| is_left(desired, difference, is_scaled));
    let drift: Vec<String> = differing
        .iter()
        .filter(|difference| !(is_unchanged && difference.is_owned))
        .map(|difference| difference.path.to_string())
        .collect();
    if is_unchanged && drift.is_empty() {
        return None;
    }
    let body = (!left.is_empty()).then(|| without(&desired.body, &left));
    Some(Review { drift, body })
}

/// Can this difference only be judged by who has set the field?
#[must_use]
pub fn needs_owners(desired: &Desired, path: &str) -> bool {
    path == REPLICAS || path == STORAGE && desired.reference.kind.kind == "PersistentVolumeClaim"
}

/// Does the number of replicas differ?
#[must_use]
pub fn is_about_replicas(desired: &Desired, live: &Value) -> bool {
    let replicas = |object: &Value| object.pointer("/spec/replicas").cloned();
    replicas(&desired.body).is_some_and(|wanted| replicas(live) != Some(wanted))
}

const REPLICAS: &str = "spec.replicas";
const STORAGE: &str = "spec.resources.requests.storage";

fn is_left(desired: &Desired, difference: &Difference, is_scaled: bool) -> bool {
    if desired.set_once.iter().any(|pattern| pattern.along(&difference.path).above) {
        return true;
    }
    match difference.path.to_string().as_str() {
        REPLICAS => is_scaled,
        STORAGE if desired.reference.kind.kind == "PersistentVolumeClaim" => {
            let wanted = desired.body.pointer(&difference.pointer).and_then(Value::as_str);
            let there = difference.live.as_ref().and_then(Value::as_str);
            wanted.zip(there).is_some_and(|(wanted, there)| quantity::is_less(wanted, there))
        }
        _ => false,
    }
}

/// The object without what is left to others. What the manager owns is sent as it is there: left out, the API server would
/// take it away.
fn without(body: &Value, left: &[Difference]) -> Value {
    let mut body = body.clone();
    // from the end, so that positions in lists stay
    for Difference { pointer, live, is_owned, .. } in left.iter().rev() {
        match live {
            Some(live) if *is_owned => {
                if let Some(value) = body.pointer_mut(pointer) {
                    *value = live.clone();
                }
            }
            _ => remove(&mut body, pointer),
        }
    }
    body
}

fn remove(body: &mut Value, pointer: &str) {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return };
    match body.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            fields.remove(&name.replace("~1", "/").replace("~0", "~"));
        }
        Some(Value::Array(items)) => {
            if let Some(index) = name.parse::<usize>().ok().filter(|index| *index < items.len()) {
                items.remove(index);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::super::contract::{Disposition, ObjectRef, TypeMeta};
    use super::super::path::Pattern;
    use super::*;

    const MANAGER: &str = "transom:p";

    fn desired(kind: &str, body: Value, set_once: &[&str]) -> Desired {
        Desired {
            reference: ObjectRef { kind: TypeMeta::new("v1", kind), namespace: "n".into(), name: "a".into() },
            body,
            digest: "d".into(),
            disposition: Disposition::Apply,
            keep: false,
            adopt: false,
            replace: false,
            set_once: set_once.iter().map(|path| Pattern::parse(path).unwrap()).collect(),
        }
    }

    fn managed(manager: &str, subresource: &str, fields: Value) -> Value {
        json!({ "manager": manager, "subresource": subresource, "apiVersion": "v1", "fieldsV1": fields })
    }

    fn live(spec: Value, managers: &[Value]) -> Value {
        json!({ "metadata": { "managedFields": managers }, "spec": spec })
    }

    fn drift(paths: &[&str]) -> Option<Review> {
        Some(Review { drift: paths.iter().map(|path| (*path).to_owned()).collect(), body: None })
    }

    /// `hostNetwork: false`, a node port of 0 and the like: the API server drops or replaces them.
    #[rstest]
    #[case::dropped(json!({ "a": false, "b": 0, "c": "" }), json!({}))]
    #[case::allocated(json!({ "a": 0 }), json!({ "a": 30_080 }))]
    #[case::written_otherwise(json!({ "a": "0.5" }), json!({ "a": "500m" }))]
    #[case::nested(json!({ "a": { "x": false } }), json!({}))]
    fn what_the_api_server_made_of_it_is_in_sync(#[case] wanted: Value, #[case] there: Value) {
        let fields = |value: &Value| -> Value {
            fn set(value: &Value) -> Value {
                match value {
                    Value::Object(fields) => {
                        fields.iter().map(|(name, value)| (format!("f:{name}"), set(value))).collect()
                    }
                    _ => json!({}),
                }
            }
            json!({ "f:spec": set(value) })
        };
        let own = managed(MANAGER, "", fields(&wanted));
        let desired = desired("K", json!({ "spec": wanted }), &[]);
        assert_eq!(review(&desired, &live(there.clone(), std::slice::from_ref(&own)), MANAGER, true, None), None);
        assert!(
            review(&desired, &live(there.clone(), &[own]), MANAGER, false, None).is_some(),
            "something else was applied"
        );
        assert!(review(&desired, &live(there, &[]), MANAGER, true, None).is_some(), "somebody has changed it since");
    }

    #[test]
    fn a_field_that_others_have_set_is_drift() {
        let own = managed(MANAGER, "", json!({ "f:spec": { "f:b": {} } }));
        let other = managed("kubectl-edit", "", json!({ "f:spec": { "f:a": {} } }));
        let desired = desired("K", json!({ "spec": { "a": false, "b": "" } }), &[]);
        assert_eq!(
            review(&desired, &live(json!({ "a": true }), &[own, other]), MANAGER, true, None),
            drift(&["spec.a"])
        );
    }

    fn scaled(manager: &str) -> Value {
        let own = managed(MANAGER, "", json!({ "f:spec": { "f:image": {} } }));
        live(
            json!({ "replicas": 3, "image": "x" }),
            &[own, managed(manager, "scale", json!({ "f:spec": { "f:replicas": {} } }))],
        )
    }

    #[test]
    fn replicas_belong_to_an_autoscaler_and_are_left_out_of_applies() {
        let wanted = |image: &str| desired("Deployment", json!({ "spec": { "replicas": 1, "image": image } }), &[]);
        assert_eq!(review(&wanted("x"), &scaled("kube-controller-manager"), MANAGER, true, None), None);
        assert_eq!(review(&wanted("x"), &scaled("kubectl"), MANAGER, true, None), drift(&["spec.replicas"]));
        let upgrade = review(&wanted("y"), &scaled("keda-operator"), MANAGER, false, None).unwrap();
        assert_eq!(
            (upgrade.drift, upgrade.body),
            (vec!["spec.image".to_owned()], Some(json!({ "spec": { "image": "y" } })))
        );
    }

    #[test]
    fn replicas_are_an_autoscalers_while_it_exists() {
        let desired = desired("Deployment", json!({ "spec": { "replicas": 1, "image": "x" } }), &[]);
        let found = |live: Value, is_scaled| review(&desired, &live, MANAGER, true, is_scaled);
        let own = managed(MANAGER, "", json!({ "f:spec": { "f:image": {} } }));
        let zero = live(json!({ "replicas": 0, "image": "x" }), &[own]);
        assert_eq!(found(zero.clone(), Some(true)), None, "a Scale leaves out a zero: nobody owns it");
        assert_eq!(found(zero, Some(false)), drift(&["spec.replicas"]));
        assert_eq!(found(scaled("kube-controller-manager"), Some(true)), None);
        assert_eq!(found(scaled("kube-controller-manager"), Some(false)), drift(&["spec.replicas"]));
        assert_eq!(found(scaled("kubectl"), Some(true)), None);
        assert_eq!(found(scaled("keda"), Some(false)), None);
    }

    #[test]
    fn a_field_that_is_set_once_keeps_what_others_made_of_it() {
        let body = json!({ "spec": { "hooks": [{ "name": "a", "ca": "" }], "size": 1 } });
        let wanted = |body: Value| desired("K", body, &["spec.hooks[*].ca"]);
        let there = json!({ "hooks": [{ "name": "a", "ca": "X" }], "size": 1 });
        let own = |fields: Value| live(there.clone(), &[managed(MANAGER, "", json!({ "f:spec": fields }))]);
        assert_eq!(review(&wanted(body.clone()), &own(json!({ "f:size": {} })), MANAGER, true, None), None);
        let mut changed = body.clone();
        changed["spec"]["size"] = json!(2);
        let found = review(&wanted(changed.clone()), &own(json!({ "f:size": {} })), MANAGER, false, None).unwrap();
        assert_eq!(found.drift, ["spec.size"]);
        assert_eq!(found.body, Some(json!({ "spec": { "hooks": [{ "name": "a" }], "size": 2 } })));
        // still owned: left out it would be taken away
        let found = review(&wanted(changed), &own(json!({ "f:hooks": {} })), MANAGER, false, None).unwrap();
        assert_eq!(found.body, Some(json!({ "spec": { "hooks": [{ "name": "a", "ca": "X" }], "size": 2 } })));
    }

    #[test]
    fn a_volume_that_has_grown_is_not_shrunk() {
        let size = |size: &str| json!({ "resources": { "requests": { "storage": size } } });
        let wanted = desired("PersistentVolumeClaim", json!({ "spec": size("1Gi") }), &[]);
        assert_eq!(review(&wanted, &live(size("2Gi"), &[]), MANAGER, true, None), None);
        assert_eq!(
            review(&wanted, &live(size("512Mi"), &[]), MANAGER, true, None),
            drift(&["spec.resources.requests.storage"])
        );
    }
}
