use std::fmt;

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

/// Which object is meant: its kind and name, in the test's namespace unless the kind has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// Empty: any.
    /// Its name.
    pub name: String,
}

/// The object of a kind of k8s-openapi and a name.
#[must_use]
pub fn of<K: k8s_openapi::Resource>(name: &str) -> Target {
    Target { api_version: K::API_VERSION.into(), kind: K::KIND.into(), name: name.into() }
}

impl Target {
    /// For kube's own functions.
    #[must_use]
    pub fn resource(&self) -> ApiResource {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", &self.api_version));
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &self.kind))
    }

    pub(crate) fn is_cluster_scoped(&self) -> bool {
        let kinds = [
            "Plugin",
            "StoredComponent",
            "Namespace",
            "CustomResourceDefinition",
            "ClusterRole",
            "ClusterRoleBinding",
            "ValidatingWebhookConfiguration",
            "MutatingWebhookConfiguration",
            "PriorityClass",
            "PersistentVolume",
        ];
        kinds.contains(&&*self.kind)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl From<&Value> for Target {
    fn from(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
            name: text(&object["metadata"]["name"]),
        }
    }
}

impl From<&Self> for Target {
    fn from(target: &Self) -> Self {
        target.clone()
    }
}

/// A condition that speaks of the object as it is specified now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    kind: String,
    status: String,
    reason: Option<String>,
}

/// The condition of this type has this status for the current generation.
#[must_use]
pub fn condition(kind: &str, status: &str) -> Condition {
    Condition { kind: kind.into(), status: status.into(), reason: None }
}

/// The version in the spec of a `Plugin` serves all objects.
#[must_use]
pub fn up_to_date() -> Condition {
    condition("Progressing", "False").because("Complete")
}

impl Condition {
    /// And this reason.
    #[must_use]
    pub fn because(self, reason: &str) -> Self {
        Self { reason: Some(reason.into()), ..self }
    }

    /// It holds for this object.
    #[must_use]
    pub fn holds(&self, object: &Value) -> bool {
        let found = condition_of(object, &self.kind);
        found["status"] == *self.status
            && found["observedGeneration"] == object["metadata"]["generation"]
            && self.reason.as_ref().is_none_or(|reason| found["reason"] == **reason)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, status, reason } = self;
        write!(f, "{kind}={status}")?;
        reason.iter().try_for_each(|reason| write!(f, " because {reason}"))
    }
}

/// The condition of this type; null when there is none.
#[must_use]
pub fn condition_of(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}

/// The object without what no two runs have in common (times, UIDs, versions), for whole comparisons.
#[must_use]
pub fn stripped(object: &Value) -> Value {
    let mut object = object.clone();
    strip(&mut object);
    object
}

fn strip(value: &mut Value) {
    const VOLATILE: [&str; 6] =
        ["creationTimestamp", "lastTransitionTime", "managedFields", "resourceVersion", "uid", "selfLink"];
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !VOLATILE.contains(&name.as_str()));
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// For the words of a failed test.
pub(crate) fn shown(object: Option<&Value>) -> String {
    let Some(object) = object else { return "it does not exist".into() };
    let mut object = object.clone();
    object["metadata"]["managedFields"] = json!(null);
    format!("it is\n{object:#}")
}
