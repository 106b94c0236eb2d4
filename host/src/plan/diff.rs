//! Does live state contain what is desired? Not "are they equal": fields that the plugin did not set belong to others.
//!
//! Objects: every desired field is there. Lists whose items Kubernetes merges by key (`patchMergeKey` and
//! `x-kubernetes-list-map-keys` of the built-in types): every desired item is there, others may be. Other lists are
//! atomic to server-side apply: same length, same order. Quantities are compared by value. A `null` or an empty object or
//! list in desired state is satisfied by absence, since the API server drops them.
//!
//! A difference may be one that the API server made itself: it drops zero values, fills in defaults and writes values in
//! its own way. What it dropped, and what somebody changed, look alike; the field managers tell them apart ([`Difference`]).

use serde_json::Value;

use super::owners::Owned;
use super::path::{Part, Path};
use super::quantity;

/// At most this many differences are reported: they are shown to users.
const MAX_PATHS: usize = 16;

/// A field in which a live object does not contain the desired one.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Where: `spec.template.spec.containers[name=web].image`.
    pub path: Path,
    /// JSON pointer to the same place in the desired object.
    pub pointer: String,
    /// What is there instead; none when nothing is.
    pub live: Option<Value>,
    /// The field manager that was asked about owns the field: nobody has changed it since it was applied.
    pub is_owned: bool,
}

/// Where a live object does not contain the desired one. As [`drift`], but without `apiVersion` and `kind`, which the API
/// server leaves out of the items of a list.
#[must_use]
pub fn object_drift(desired: &Value, live: &Value) -> Vec<String> {
    let all = differences(desired, live, Owned::No, MAX_PATHS);
    all.into_iter().map(|difference| difference.path.to_string()).collect()
}

/// As [`object_drift`], at most `limit` of them, with what a field manager owns of each.
#[must_use]
pub fn differences(desired: &Value, live: &Value, owned: Owned<'_>, limit: usize) -> Vec<Difference> {
    let mut walk = Walk { steps: Vec::new(), found: Vec::new(), limit };
    match (desired, live) {
        (Value::Object(fields), Value::Object(others)) => {
            for (name, value) in fields.iter().filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind")) {
                walk.field(name, value, others.get(name), owned);
            }
        }
        _ => walk.compare(desired, Some(live), owned),
    }
    walk.found
}

/// Where live state does not contain what is desired, as paths such as `spec.replicas`, at most 16. Empty: no drift.
#[must_use]
pub fn drift(desired: &Value, live: &Value) -> Vec<String> {
    let mut walk = Walk { steps: Vec::new(), found: Vec::new(), limit: MAX_PATHS };
    walk.compare(desired, Some(live), Owned::No);
    walk.found.into_iter().map(|difference| difference.path.to_string()).collect()
}

/// One step from an object to a field of it.
enum Step<'a> {
    Field(&'a str),
    /// An item of a list of desired state, and what tells it apart where Kubernetes merges the list by keys.
    Item(usize, Option<(&'static str, String)>),
}

struct Walk<'a> {
    steps: Vec<Step<'a>>,
    found: Vec<Difference>,
    limit: usize,
}

impl<'a> Walk<'a> {
    fn field(&mut self, name: &'a str, desired: &'a Value, live: Option<&Value>, owned: Owned<'_>) {
        self.steps.push(Step::Field(name));
        self.compare(desired, live, owned.field(name));
        self.steps.pop();
    }

    fn compare(&mut self, desired: &'a Value, live: Option<&Value>, owned: Owned<'_>) {
        if self.found.len() >= self.limit {
            return;
        }
        match (desired, live) {
            (Value::Object(desired), Some(Value::Object(live))) => {
                for (name, value) in desired {
                    self.field(name, value, live.get(name), owned);
                }
            }
            (Value::Array(desired), Some(Value::Array(live))) => self.compare_lists(desired, live, owned),
            (desired, None) if says_nothing(desired) => {}
            // each field by itself: who owns one need not own another
            (Value::Object(fields), None) if owned.is_within() => {
                fields.iter().for_each(|(name, value)| self.field(name, value, None, owned));
            }
            (desired, Some(live))
                if self.is_same_scalar(desired, live) || says_nothing(desired) && says_nothing(live) => {}
            (_, live) => self.report(live, owned),
        }
    }

    fn report(&mut self, live: Option<&Value>, owned: Owned<'_>) {
        let (mut path, mut pointer) = (Path::default(), String::new());
        for step in &self.steps {
            match step {
                Step::Field(name) => {
                    path.0.push(Part::Field((*name).to_owned()));
                    pointer = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
                }
                Step::Item(index, key) => {
                    let (key, value) = key.clone().map_or((None, index.to_string()), |(key, value)| (Some(key), value));
                    path.0.push(Part::Item { key, value });
                    pointer = format!("{pointer}/{index}");
                }
            }
        }
        self.found.push(Difference { path, pointer, live: live.cloned(), is_owned: owned.is_whole() });
    }

    fn compare_lists(&mut self, desired: &'a [Value], live: &[Value], owned: Owned<'_>) {
        let names = self.names();
        if let Some(keys) = merge_keys(&names, desired) {
            for (index, item) in desired.iter().enumerate() {
                let other = live.iter().find(|other| keys.iter().all(|key| key_of(item, key) == key_of(other, key)));
                let key = keys.first().and_then(|key| Some((*key, text_of(item.get(*key)?))));
                self.steps.push(Step::Item(index, key));
                match other {
                    Some(other) => self.compare(item, Some(other), owned.item(item)),
                    // no field of it is there, whoever owns one
                    None => self.report(None, Owned::No),
                }
                self.steps.pop();
            }
        } else if names.last() == Some(&"finalizers") {
            // a set
            if !desired.iter().all(|item| live.contains(item)) {
                self.report(None, owned);
            }
        } else if desired.len() == live.len() && desired.iter().any(|item| item.is_object() || item.is_array()) {
            for (index, (item, other)) in desired.iter().zip(live).enumerate() {
                self.steps.push(Step::Item(index, None));
                self.compare(item, Some(other), owned);
                self.steps.pop();
            }
        } else if desired.len() != live.len() || !desired.iter().zip(live).all(|(a, b)| self.is_same_scalar(a, b)) {
            self.report(Some(&Value::from(live)), owned);
        }
    }

    /// Names of the fields on the way, items left out.
    fn names(&self) -> Vec<&'a str> {
        let name = |step: &Step<'a>| match step {
            Step::Field(name) => Some(*name),
            Step::Item(..) => None,
        };
        self.steps.iter().filter_map(name).collect()
    }

    fn is_same_scalar(&self, desired: &Value, live: &Value) -> bool {
        desired == live
            || match (desired, live) {
                // 1 and 1.0
                (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
                (Value::String(a), Value::String(b)) => holds_quantities(&self.names()) && quantity::same(a, b),
                // quantities may be written as numbers: cpu: 1
                (Value::Number(a), Value::String(b)) => {
                    holds_quantities(&self.names()) && quantity::same(&a.to_string(), b)
                }
                _ => false,
            }
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
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
    #[case::missing_item(json!({"env": [{"name": "A"}]}), json!({"env": [{"name": "B"}]}), "env[name=A]")]
    #[case::item(
        json!({"env": [{"name": "A", "value": "1"}]}), json!({"env": [{"name": "A", "value": "2"}]}), "env[name=A].value")]
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
