use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::{fail, wire};
use crate::Kind;
use crate::plan::WAITS_FOR;

/// What a plugin planned, for snapshots and assertions.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Plan {
    /// In the plugin's order.
    pub conditions: Vec<Condition>,
    /// The primary's own status fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
    /// In the plugin's order.
    pub children: Vec<PlannedChild>,
    /// Reason and note.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<(String, String)>,
    /// Key and method path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<(String, String)>,
    /// None: when something changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requeue_after_ms: Option<u64>,
    /// Clean-up is done.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub finalized: bool,
}

/// A child in a [`Plan`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PlannedChild {
    /// What is to be done with it.
    pub disposition: Disposition,
    /// `keep`, `adopt`, `replace`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<&'static str>,
    /// Of a held child: what it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// As it is sent; of a held child only which one it is.
    pub object: Value,
    /// Of a child that waits for others: as it is going to be.
    #[serde(skip)]
    pub later: Option<Value>,
}

/// What is to be done with a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Made to look like this.
    Apply,
    /// Made when it does not exist.
    CreateOnce,
    /// Left as it is.
    Hold,
}

impl From<wire::Disposition> for Disposition {
    fn from(disposition: wire::Disposition) -> Self {
        match disposition {
            wire::Disposition::Apply => Self::Apply,
            wire::Disposition::CreateOnce => Self::CreateOnce,
            wire::Disposition::Hold => Self::Hold,
        }
    }
}

impl Serialize for Disposition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Apply => "apply",
            Self::CreateOnce => "create once",
            Self::Hold => "hold",
        })
    }
}

/// A condition in a [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Condition {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False`, `Unknown`.
    pub status: &'static str,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Only which one it is, and apart from that what it is going to be.
fn held(mut object: Value) -> PlannedChild {
    let annotations = object["metadata"]["annotations"].as_object_mut();
    let waits_for = annotations.and_then(|all| all.remove(WAITS_FOR)?.as_str().map(str::to_owned));
    if let Some(metadata) = object["metadata"].as_object_mut().filter(|all| all.get("annotations") == Some(&json!({})))
    {
        metadata.remove("annotations");
    }
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace"] {
        metadata.extend(object["metadata"].get(field).map(|value| (field.to_owned(), value.clone())));
    }
    let header = json!({ "apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": metadata });
    let later = waits_for.is_some().then_some(object);
    PlannedChild { disposition: Disposition::Hold, options: Vec::new(), waits_for, object: header, later }
}

impl Plan {
    pub(super) fn new(plan: wire::Plan) -> Self {
        let parsed = |text: &str| serde_json::from_str(text).unwrap_or_else(|error| fail("not JSON", error));
        let child = |child: wire::Child| {
            let object: Value = parsed(&child.object);
            if child.disposition == wire::Disposition::Hold {
                return held(object);
            }
            let (disposition, options) = (child.disposition.into(), options(child.options));
            PlannedChild { disposition, options, waits_for: None, object, later: None }
        };
        let condition = |condition: wire::Condition| Condition {
            kind: condition.type_,
            status: match condition.status {
                wire::ConditionStatus::True => "True",
                wire::ConditionStatus::False => "False",
                wire::ConditionStatus::Unknown => "Unknown",
            },
            reason: condition.reason,
            message: condition.message,
        };
        Self {
            conditions: plan.conditions.into_iter().map(condition).collect(),
            status: plan.status.as_deref().map(parsed),
            children: plan.children.into_iter().map(child).collect(),
            events: plan.events.into_iter().map(|event| (event.reason, event.note)).collect(),
            calls: plan.calls.into_iter().map(|call| (call.key, call.grpc.path)).collect(),
            requeue_after_ms: plan.requeue_after_ms,
            finalized: plan.finalized,
        }
    }

    /// Status and reason of the condition of this type.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<(&str, &str)> {
        let condition = self.conditions.iter().find(|condition| condition.kind == kind)?;
        Some((condition.status, &condition.reason))
    }

    /// Names of the children of this kind, in the plugin's order.
    #[must_use]
    pub fn names<K: Kind>(&self) -> Vec<String> {
        self.of::<K>().filter_map(|child| child.object["metadata"]["name"].as_str()).map(str::to_owned).collect()
    }

    /// What is to be done with the child of this kind and name.
    #[must_use]
    pub fn disposition<K: Kind>(&self, name: &str) -> Option<Disposition> {
        let mut children = self.of::<K>();
        Some(children.find(|child| child.object["metadata"]["name"] == name)?.disposition)
    }

    /// The child of this kind and name.
    ///
    /// # Panics
    ///
    /// When it does not fit `K`: held children are only named.
    #[must_use]
    pub fn child<K: Kind + DeserializeOwned>(&self, name: &str) -> Option<K> {
        let child = self.of::<K>().find(|child| child.object["metadata"]["name"] == name)?;
        Some(serde_json::from_value(child.object.clone()).unwrap_or_else(|error| fail("it does not fit", error)))
    }

    fn of<K: Kind>(&self) -> impl Iterator<Item = &PlannedChild> {
        let kind = K::type_meta();
        self.children.iter().filter(move |child| {
            let text = |field: &str| child.object[field].as_str().unwrap_or_default();
            kind.serves(text("apiVersion"), text("kind"))
        })
    }
}

fn options(options: wire::ChildOptions) -> Vec<&'static str> {
    let names = [
        (wire::ChildOptions::KEEP, "keep"),
        (wire::ChildOptions::ADOPT, "adopt"),
        (wire::ChildOptions::REPLACE, "replace"),
    ];
    names.into_iter().filter(|(flag, _)| options.contains(*flag)).map(|(_, name)| name).collect()
}
