//! Who has set which field of a live object: `metadata.managedFields`, as server-side apply keeps it
//! (`sigs.k8s.io/structured-merge-diff: fieldpath/serialize.go`).

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value};

/// A set of fields: `{"f:spec": {"f:replicas": {}}}`.
type Fields = Map<String, Value>;

/// The field managers of one object.
#[derive(Debug, Default)]
pub struct Owners(Vec<Entry>);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    manager: String,
    subresource: String,
    api_version: String,
    fields_v1: Fields,
}

impl Default for Entry {
    fn default() -> Self {
        let (manager, subresource, api_version) = Default::default();
        Self { manager, subresource, api_version, fields_v1: Map::new() }
    }
}

/// What a manager owns at one place of an object.
#[derive(Clone, Copy, Debug)]
pub enum Owned<'a> {
    /// Nothing.
    No,
    /// The value, with all that is in it.
    Whole,
    /// These fields or items of it.
    Within(&'a Fields),
}

impl<'a> Owned<'a> {
    fn of(fields: Option<&'a Value>) -> Self {
        match fields.and_then(Value::as_object) {
            None => Self::No,
            Some(fields) if fields.is_empty() => Self::Whole,
            Some(fields) => Self::Within(fields),
        }
    }

    /// At a field of the value.
    #[must_use]
    pub fn field(self, name: &str) -> Self {
        match self {
            Self::Within(fields) => Self::of(fields.get(&format!("f:{name}"))),
            other => other,
        }
    }

    /// At the item of a list that has the same keys as this one.
    #[must_use]
    pub fn item(self, item: &Value) -> Self {
        let Self::Within(fields) = self else { return self };
        let is_same = |key: &str| {
            let Some(keys) = key.strip_prefix("k:") else { return false };
            let keys: Fields = serde_json::from_str(keys).unwrap_or_default();
            // a protocol that is left out is TCP
            let default = |name: &str| if name == "protocol" { Value::from("TCP") } else { Value::Null };
            let is_key = |(name, value): (&String, &Value)| {
                item.get(name).map_or_else(|| Cow::Owned(default(name)), Cow::Borrowed).as_ref() == value
            };
            !keys.is_empty() && keys.iter().all(is_key)
        };
        Self::of(fields.iter().find(|(key, _)| is_same(key)).map(|(_, fields)| fields))
    }

    /// Is it all of the value?
    #[must_use]
    pub fn is_whole(self) -> bool {
        matches!(self, Self::Whole)
    }

    /// Is it a part of the value?
    #[must_use]
    pub fn is_within(self) -> bool {
        matches!(self, Self::Within(_))
    }
}

impl Owners {
    /// Of a live object with `managedFields`; nobody where there are none.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array).into_iter().flatten();
        Self(entries.filter_map(|entry| Entry::deserialize(entry).ok()).collect())
    }

    /// What a manager owns, as it applied it in this version. Its applies and its updates count alike: what an admission
    /// webhook changes in an apply is an update by the same manager.
    #[must_use]
    pub fn fields(&self, manager: &str, api_version: &str) -> Fields {
        let own = |entry: &&Entry| {
            entry.manager == manager && entry.subresource.is_empty() && entry.api_version == api_version
        };
        let mut all = Fields::new();
        self.0.iter().filter(own).for_each(|entry| merge(&mut all, &entry.fields_v1));
        all
    }

    /// Who has set `spec.replicas` by the subresource `scale`, as autoscalers do. `kubectl scale` does so too, but that is a
    /// person, whose change is drift.
    #[must_use]
    pub fn scaler(&self) -> Option<&str> {
        let scales = |entry: &&Entry| {
            let replicas = Owned::Within(&entry.fields_v1).field("spec").field("replicas");
            entry.subresource == "scale" && !entry.manager.starts_with("kubectl") && replicas.is_whole()
        };
        self.0.iter().find(scales).map(|entry| entry.manager.as_str())
    }
}

/// Adds fields to a set. What one has as a whole, and the other in parts, is owned as a whole.
fn merge(into: &mut Fields, from: &Fields) {
    for (key, fields) in from {
        match (into.get_mut(key), fields) {
            (Some(Value::Object(known)), Value::Object(more)) if !known.is_empty() && !more.is_empty() => {
                merge(known, more);
            }
            (Some(known), Value::Object(more)) if more.is_empty() => *known = Value::Object(Map::new()),
            (Some(_), _) => {}
            (None, fields) => {
                into.insert(key.clone(), fields.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object() -> Value {
        json!({ "metadata": { "managedFields": [
            { "manager": "transom:web", "operation": "Apply", "apiVersion": "apps/v1", "fieldsV1": { "f:spec": {
                "f:template": { "f:spec": {
                    "f:hostNetwork": {},
                    "f:containers": { "k:{\"name\":\"web\"}": { ".": {}, "f:image": {}, "f:ports": {
                        "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:containerPort": {} } } } },
                } } } } },
            { "manager": "transom:web", "operation": "Update", "apiVersion": "apps/v1", "fieldsV1": { "f:spec": {
                "f:paused": {}, "f:template": { "f:spec": { "f:nodeSelector": {} } } } } },
            { "manager": "transom:web", "operation": "Update", "apiVersion": "apps/v1", "subresource": "status",
                "fieldsV1": { "f:status": {} } },
            { "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "apps/v1",
                "subresource": "scale", "fieldsV1": { "f:spec": { "f:replicas": {} } } },
        ] } })
    }

    #[test]
    fn a_manager_owns_what_it_applied_and_what_webhooks_made_of_it() {
        let fields = Owners::of(&object()).fields("transom:web", "apps/v1");
        let spec = Owned::Within(&fields).field("spec");
        let pod = spec.field("template").field("spec");
        assert!(spec.field("paused").is_whole() && pod.field("hostNetwork").is_whole());
        assert!(pod.field("nodeSelector").field("zone").is_whole(), "an atomic map");
        assert!(!spec.field("replicas").is_whole() && !Owned::Within(&fields).field("status").is_within());
        let container = pod.field("containers").item(&json!({ "name": "web", "image": "x" }));
        assert!(container.field("image").is_whole() && !container.field("command").is_whole());
        assert!(container.field("ports").item(&json!({ "containerPort": 80 })).field("containerPort").is_whole());
        assert!(!pod.field("containers").item(&json!({ "name": "other" })).is_within());
        let none = Owners::of(&object()).fields("transom:web", "apps/v1beta1");
        assert!(!Owned::Within(&none).field("spec").is_within(), "applied in another version");
    }

    #[test]
    fn an_autoscaler_scales_and_a_person_is_none() {
        assert_eq!(Owners::of(&object()).scaler(), Some("kube-controller-manager"));
        let mut scaled = object();
        scaled["metadata"]["managedFields"][3]["manager"] = json!("kubectl");
        assert_eq!(Owners::of(&scaled).scaler(), None);
        scaled["metadata"]["managedFields"][3]["manager"] = json!("keda");
        scaled["metadata"]["managedFields"][3]["subresource"] = json!("");
        assert_eq!(Owners::of(&scaled).scaler(), None, "not by the subresource");
    }

    #[test]
    fn what_is_no_list_of_managers_has_none() {
        for object in [json!({}), json!({ "metadata": { "managedFields": [1, { "manager": 2 }] } })] {
            assert_eq!(Owners::of(&object).0.len(), 0);
        }
    }
}
