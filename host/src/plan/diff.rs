//! Does live state contain what is desired? Not "are they equal": fields that the plugin did not set belong to others.
//!
//! Objects: every desired field is there. Lists whose items Kubernetes merges by key (`patchMergeKey` and
//! `x-kubernetes-list-map-keys` of the built-in types): every desired item is there, others may be. Other lists are
//! atomic to server-side apply: same length, same order. Quantities are compared by value. A `null` or an empty object or
//! list in desired state is satisfied by absence, since the API server drops them.

use serde_json::Value;

use super::quantity;

/// At most this many paths are reported: they are for people.
const MAX_PATHS: usize = 16;

/// Where a live object does not contain the desired one. As [`drift`], but without `apiVersion` and `kind`, which the API
/// server leaves out of the items of a list.
#[must_use]
pub fn object_drift(desired: &Value, live: &Value) -> Vec<String> {
    let (Value::Object(fields), Value::Object(others)) = (desired, live) else { return drift(desired, live) };
    let mut found = Vec::new();
    for (name, value) in fields.iter().filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind")) {
        let other = others.get(name).unwrap_or(&Value::Null);
        compare(value, other, &mut vec![name], &mut found);
    }
    found
}

/// Where live state does not contain what is desired, as paths such as `spec.replicas`, at most 16. Empty: no drift.
#[must_use]
pub fn drift(desired: &Value, live: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(desired, live, &mut Vec::new(), &mut found);
    found
}

fn compare<'a>(desired: &'a Value, live: &'a Value, path: &mut Vec<&'a str>, found: &mut Vec<String>) {
    if found.len() >= MAX_PATHS {
        return;
    }
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => {
            for (name, value) in desired {
                path.push(name);
                match live.get(name) {
                    Some(live) => compare(value, live, path, found),
                    None if says_nothing(value) => {}
                    None => report(path, found),
                }
                path.pop();
            }
        }
        (Value::Array(desired), Value::Array(live)) => compare_lists(desired, live, path, found),
        _ if scalar_eq(desired, live, path) || says_nothing(desired) && says_nothing(live) => {}
        _ => report(path, found),
    }
}

fn report(path: &[&str], found: &mut Vec<String>) {
    let path = path.join(".");
    if found.last() != Some(&path) {
        found.push(path);
    }
}

fn compare_lists<'a>(desired: &'a [Value], live: &'a [Value], path: &mut Vec<&'a str>, found: &mut Vec<String>) {
    let field = path.last().copied().unwrap_or_default();
    if let Some(keys) = merge_keys(path, desired) {
        for item in desired {
            match live.iter().find(|other| keys.iter().all(|key| key_of(item, key) == key_of(other, key))) {
                Some(other) => compare(item, other, path, found),
                None => report(path, found),
            }
        }
    } else if is_set(field) {
        if !desired.iter().all(|item| live.contains(item)) {
            report(path, found);
        }
    } else if desired.len() == live.len() {
        for (item, other) in desired.iter().zip(live) {
            compare(item, other, path, found);
        }
    } else {
        report(path, found);
    }
}

/// Absence says the same.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(says_nothing),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn scalar_eq(desired: &Value, live: &Value, path: &[&str]) -> bool {
    if desired == live {
        return true;
    }
    match (desired, live) {
        // 1 and 1.0
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::String(a), Value::String(b)) => holds_quantities(path) && quantity::same(a, b),
        // quantities may be written as numbers: cpu: 1
        (Value::Number(a), Value::String(b)) => holds_quantities(path) && quantity::same(&a.to_string(), b),
        _ => false,
    }
}

/// Fields whose values are quantities in the built-in types.
fn holds_quantities(path: &[&str]) -> bool {
    path.iter().rev().take(2).any(|field| {
        matches!(
            *field,
            "limits"
                | "requests"
                | "hard"
                | "capacity"
                | "allocatable"
                | "overhead"
                | "max"
                | "min"
                | "default"
                | "defaultRequest"
                | "maxLimitRequestRatio"
                | "sizeLimit"
                | "divisor"
                | "averageValue"
                | "value"
        )
    })
}

/// Keys by which Kubernetes merges the list in this field, where its items have them. Taken from the
/// `x-kubernetes-list-map-keys` of the built-in types (`api/openapi-spec/swagger.json`).
fn merge_keys(path: &[&str], items: &[Value]) -> Option<&'static [&'static str]> {
    let keys: &[&str] = match *path.last()? {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "resourceClaims"
        | "schedulingGates"
        | "secrets"
        | "webhooks" => &["name"],
        "volumeMounts" => &["mountPath"],
        "volumeDevices" => &["devicePath"],
        "hostAliases" => &["ip"],
        "ownerReferences" => &["uid"],
        "conditions" => &["type"],
        "topologySpreadConstraints" => &["topologyKey", "whenUnsatisfiable"],
        "ports" if items.iter().all(|item| item.get("containerPort").is_some()) => &["containerPort", "protocol"],
        // a Service's; those of a NetworkPolicy's rules are atomic
        "ports" if *path == ["spec", "ports"] => &["port", "protocol"],
        _ => return None,
    };
    let first = keys.first()?;
    let same = |a: &Value, b: &Value| keys.iter().all(|key| key_of(a, key) == key_of(b, key));
    let unique = |(i, item): (usize, &Value)| {
        item.get(*first).is_some() && !items.iter().take(i).any(|earlier| same(earlier, item))
    };
    items.iter().enumerate().all(unique).then_some(keys)
}

fn key_of<'a>(item: &'a Value, key: &str) -> Option<&'a Value> {
    const TCP: &Value = &Value::Null;
    match item.get(key) {
        // defaulted to TCP by the API server
        Some(Value::String(protocol)) if key == "protocol" && protocol == "TCP" => Some(TCP),
        None if key == "protocol" => Some(TCP),
        other => other,
    }
}

fn is_set(field: &str) -> bool {
    field == "finalizers"
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::fields_of_others(json!({"a": 1}), json!({"a": 1, "b": 2}))]
    #[case::quantities(json!({"limits": {"cpu": "1000m", "memory": "1Gi"}}), json!({"limits": {"cpu": "1", "memory": "1024Mi"}}))]
    #[case::quantity_as_number(json!({"requests": {"cpu": 1}}), json!({"requests": {"cpu": "1"}}))]
    #[case::injected_container(
        json!({"containers": [{"name": "a", "image": "x"}]}),
        json!({"containers": [{"name": "sidecar"}, {"name": "a", "image": "x", "imagePullPolicy": "Always"}]})
    )]
    #[case::defaulted_protocol(
        json!({"ports": [{"containerPort": 80}]}),
        json!({"ports": [{"containerPort": 80, "protocol": "TCP"}]})
    )]
    #[case::dropped_emptiness(json!({"spec": {"podSelector": {}, "ingress": []}}), json!({"spec": {}}))]
    #[case::null(json!({"a": null}), json!({}))]
    #[case::numbers(json!({"a": 1.0}), json!({"a": 1}))]
    fn contained(#[case] desired: Value, #[case] live: Value) {
        assert_eq!(drift(&desired, &live), Vec::<String>::new());
    }

    #[rstest]
    #[case::value(json!({"spec": {"replicas": 2}}), json!({"spec": {"replicas": 7}}), "spec.replicas")]
    #[case::missing(json!({"a": {"b": 1}}), json!({"a": {}}), "a.b")]
    #[case::missing_item(json!({"env": [{"name": "A"}]}), json!({"env": [{"name": "B"}]}), "env")]
    #[case::item(
        json!({"env": [{"name": "A", "value": "1"}]}), json!({"env": [{"name": "A", "value": "2"}]}), "env.value")]
    #[case::atomic_list_longer(json!({"args": ["a"]}), json!({"args": ["a", "b"]}), "args")]
    #[case::atomic_list_order(json!({"args": ["a", "b"]}), json!({"args": ["b", "a"]}), "args")]
    #[case::quantity_elsewhere(json!({"data": {"x": "1000m"}}), json!({"data": {"x": "1"}}), "data.x")]
    #[case::kind_of_value(json!({"a": "1"}), json!({"a": 1}), "a")]
    fn drifted(#[case] desired: Value, #[case] live: Value, #[case] path: &str) {
        assert_eq!(drift(&desired, &live), vec![path.to_owned()]);
    }

    #[test]
    fn items_of_a_list_have_no_kind() {
        let desired = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}});
        assert_eq!(object_drift(&desired, &json!({"data": {"a": "1"}})), Vec::<String>::new());
        assert_eq!(object_drift(&desired, &json!({"data": {"a": "2"}})), ["data.a"]);
        assert_eq!(object_drift(&desired, &json!({})), ["data"]);
    }

    fn tree() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z0-9]{0,4}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-e]|env|ports|name", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn everything_contains_itself(value in tree()) {
            proptest::prop_assert_eq!(drift(&value, &value), Vec::<String>::new());
        }
        #[test]
        fn fields_of_others_never_drift(value in tree(), extra in tree()) {
            if let Value::Object(mut fields) = value.clone() {
                fields.insert("zz".into(), extra);
                proptest::prop_assert_eq!(drift(&value, &Value::Object(fields)), Vec::<String>::new());
            }
        }
    }
}
