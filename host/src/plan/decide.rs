//! Desired state against live state: what has to be written. Nothing to write is the normal case.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::check::{Checked, Desired};
use super::contract::{Disposition, ObjectId, ObjectRef};
use super::diff;
use super::object::Object;
use super::request::Children;
use super::review;

/// One object to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Apply {
    /// What should be.
    pub desired: Arc<Desired>,
    /// What is, when it is there and ours.
    pub live: Option<Arc<Object>>,
    /// Why: paths where live state differs. Empty for a creation and for a field that is no longer set.
    pub drift: Vec<String>,
    /// What is applied, where it is not the desired object as it is.
    pub body: Option<Value>,
    /// Whether anything is to be written is known only when the live object was read with its field managers, and in the
    /// version of the desired one ([`super::review`]).
    pub needs_review: bool,
}

impl Apply {
    /// Was the same object applied before?
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.applied.as_deref() == Some(self.desired.digest.as_str()))
    }
}

/// One object to be removed.
#[derive(Clone, Debug, PartialEq)]
pub struct Prune {
    /// Which object.
    pub reference: ObjectRef,
    /// Its UID, so that nothing else of that name is deleted.
    pub uid: String,
    /// Release it instead.
    pub keep: bool,
}

/// All writes to children that a plan asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Writes {
    /// In tiers: everything in one may be applied at once, begun in the order given, after all of the tier before.
    pub tiers: Vec<Vec<Apply>>,
    /// Only when every apply succeeded.
    pub prunes: Vec<Prune>,
}

impl Writes {
    /// Live state is as desired.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tiers.is_empty() && self.prunes.is_empty()
    }
}

/// What earlier comparisons have shown; forgetting it costs time, and once more an apply.
pub trait Experience {
    /// Was this live state compared with this desired state before, and was there nothing to write?
    fn agrees(&self, desired: &Desired, live: &Object) -> bool;

    /// Has the API server turned this desired state into this live state before? Some fields are normalised on the way,
    /// and comparing again would find the same difference for ever.
    fn is_normalised(&self, desired: &Desired, live: &Object) -> bool;

    /// Is one of these differences known to be none that the API server makes of this desired state?
    fn is_drift(&self, desired: &Desired, live: &Object, paths: &[String]) -> bool;
}

/// What has to be written so that live state is as planned.
#[must_use]
pub fn writes(checked: &Checked, live: &Children, experience: &dyn Experience) -> Writes {
    let mut writes = Writes::default();
    let mut tiers: [Vec<Apply>; 2] = Default::default();
    for desired in &checked.children {
        if let Some(apply) = apply(desired, live.find(&desired.reference), experience) {
            let [first, second] = &mut tiers;
            if comes_first(&desired.reference) { first.push(apply) } else { second.push(apply) }
        }
    }
    for tier in &mut tiers {
        // stable: the plugin's own order within one kind
        tier.sort_by_key(|apply| install_order(&apply.desired.reference.kind.kind));
    }
    writes.tiers = tiers.into_iter().filter(|tier| !tier.is_empty()).collect();
    let wanted: BTreeSet<ObjectId> = checked.children.iter().map(|desired| desired.reference.id()).collect();
    writes.prunes = live
        .iter()
        .filter(|(reference, object)| !wanted.contains(&reference.id()) && !object.deleting)
        .map(|(reference, object)| prune(reference, object))
        .collect();
    writes
}

/// Everything that is left of a primary that goes.
#[must_use]
pub fn remains(live: &Children) -> Vec<Prune> {
    live.iter().filter(|(_, object)| !object.deleting).map(|(reference, object)| prune(reference, object)).collect()
}

/// At most this many objects are named.
const MAX_AWAITED: usize = 3;

/// What keeps a primary from being gone, and why: `Namespace a (NamespaceFinalizersRemaining: …)`.
#[must_use]
pub fn awaited(live: &Children) -> String {
    let one = |(reference, object): (&ObjectRef, &Arc<Object>)| match obstacle(&object.value()) {
        Some(why) => format!("{reference} ({why})"),
        None => reference.to_string(),
    };
    let left: Vec<_> = live.iter().filter(|(_, object)| !object.keep).collect();
    let more = left.len().saturating_sub(MAX_AWAITED);
    let named = left.into_iter().take(MAX_AWAITED).map(one);
    named.chain((more > 0).then(|| format!("{more} more"))).collect::<Vec<_>>().join(", ")
}

/// Why an object that is being deleted is still there: a namespace's conditions, else its finalizers.
fn obstacle(object: &Value) -> Option<String> {
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let says = conditions.filter(|c| text(c, "type").starts_with("Namespace") && text(c, "status") == "True");
    let says: Vec<String> = says.map(|c| format!("{}: {}", text(c, "type"), text(c, "message"))).collect();
    if !says.is_empty() {
        return Some(says.join("; "));
    }
    let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array)?;
    let finalizers: Vec<&str> = finalizers.iter().filter_map(Value::as_str).collect();
    match *finalizers {
        [] => None,
        [one] => Some(format!("finalizer {one}")),
        _ => Some(format!("finalizers {}", finalizers.join(", "))),
    }
}

fn prune(reference: &ObjectRef, object: &Object) -> Prune {
    Prune { reference: reference.clone(), uid: object.uid.clone(), keep: object.keep }
}

fn apply(
    desired: &Arc<Desired>,
    live: Option<(&ObjectRef, &Arc<Object>)>,
    experience: &dyn Experience,
) -> Option<Apply> {
    let of = |live: Option<&Arc<Object>>| Apply {
        desired: desired.clone(),
        live: live.cloned(),
        drift: Vec::new(),
        body: None,
        needs_review: false,
    };
    let (reference, object) = match (desired.disposition, live) {
        (Disposition::Hold, _) | (Disposition::CreateOnce, Some(_)) => return None,
        (_, None) => return Some(of(None)),
        // it goes first; when it is gone the watch says so and it is made again
        (Disposition::Apply, Some((_, object))) if object.deleting => return None,
        (Disposition::Apply, Some((_, object))) if experience.agrees(desired, object) => return None,
        (Disposition::Apply, Some(live)) => live,
    };
    let found = of(Some(object));
    if reference.kind != desired.reference.kind {
        // fields of two versions cannot be compared
        return Some(Apply { needs_review: true, ..found });
    }
    let drift = diff::object_drift(&desired.body, &object.value());
    let is_unchanged = found.is_unchanged();
    // labels and annotations are stored as they are sent
    let may_be_normalised = !drift.iter().any(|path| path.starts_with("metadata"));
    if is_unchanged && (drift.is_empty() || may_be_normalised && experience.is_normalised(desired, object)) {
        return None;
    }
    let needs_review = drift.iter().any(|path| review::needs_owners(desired, path))
        || !desired.set_once.is_empty()
        || is_unchanged && may_be_normalised && !experience.is_drift(desired, object, &drift);
    Some(Apply { drift, needs_review, ..found })
}

/// The order in which Helm installs kinds (`pkg/release/v1/util/kind_sorter.go`); kinds that it does not know come last.
fn install_order(kind: &str) -> usize {
    const ORDER: [&str; 29] = [
        "PriorityClass",
        "Namespace",
        "NetworkPolicy",
        "ResourceQuota",
        "LimitRange",
        "PodDisruptionBudget",
        "ServiceAccount",
        "Secret",
        "ConfigMap",
        "StorageClass",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "CustomResourceDefinition",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
        "Service",
        "DaemonSet",
        "Pod",
        "ReplicationController",
        "ReplicaSet",
        "Deployment",
        "HorizontalPodAutoscaler",
        "StatefulSet",
        "Job",
        "CronJob",
        "IngressClass",
        "Ingress",
    ];
    ORDER.iter().position(|known| *known == kind).unwrap_or(ORDER.len())
}

/// Kinds that others need to be there before they can be made.
fn comes_first(reference: &ObjectRef) -> bool {
    matches!(
        reference.kind.kind.as_str(),
        "Namespace" | "CustomResourceDefinition" | "ServiceAccount" | "PriorityClass" | "StorageClass"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::super::contract::TypeMeta;
    use super::*;

    fn reference(kind: &str, name: &str) -> ObjectRef {
        ObjectRef { kind: TypeMeta::new("v1", kind), namespace: "n".into(), name: name.into() }
    }

    /// The same answer to both questions.
    struct Always(bool);

    impl Experience for Always {
        fn agrees(&self, _: &Desired, _: &Object) -> bool {
            false
        }
        fn is_normalised(&self, _: &Desired, _: &Object) -> bool {
            self.0
        }
        fn is_drift(&self, _: &Desired, _: &Object, _: &[String]) -> bool {
            true
        }
    }

    fn desired(name: &str, disposition: Disposition) -> Desired {
        Desired {
            reference: reference("ConfigMap", name),
            body: json!({"metadata": {"name": name}, "data": {"a": "1"}}),
            digest: "d1".into(),
            disposition,
            keep: false,
            adopt: false,
            replace: false,
            set_once: vec![],
        }
    }

    fn checked(children: Vec<Desired>) -> Checked {
        Checked {
            children: children.into_iter().map(Arc::new).collect(),
            status: Map::new(),
            conditions: vec![],
            events: vec![],
            calls: vec![],
            requeue_after_ms: None,
            finalized: false,
        }
    }

    fn live(name: &str, value: &str, applied: &str) -> (ObjectRef, Arc<Object>) {
        let text = json!({"metadata": {"name": name, "uid": "u", "annotations": {"transom.dev/applied": applied}},
            "data": {"a": value, "other": "x"}});
        (reference("ConfigMap", name), Arc::new(Object::parse(&text.to_string()).unwrap()))
    }

    #[test]
    fn nothing_is_written_where_live_state_is_as_desired() {
        let plan = checked(vec![desired("a", Disposition::Apply)]);
        assert!(writes(&plan, &[live("a", "1", "d1")].into(), &Always(false)).is_empty());
    }

    #[test]
    fn a_drifted_field_is_named() {
        let plan = checked(vec![desired("a", Disposition::Apply)]);
        let writes = writes(&plan, &[live("a", "2", "d1")].into(), &Always(false));
        assert_eq!(writes.tiers[0][0].drift, ["data.a"]);
    }

    #[test]
    fn a_field_no_longer_set_is_noticed_by_the_digest() {
        let plan = checked(vec![desired("a", Disposition::Apply)]);
        assert_eq!(writes(&plan, &[live("a", "1", "older")].into(), &Always(false)).tiers.len(), 1);
    }

    #[test]
    fn what_the_api_server_normalises_is_not_applied_for_ever() {
        let plan = checked(vec![desired("a", Disposition::Apply)]);
        assert!(writes(&plan, &[live("a", "2", "d1")].into(), &Always(true)).is_empty());
    }

    #[test]
    fn what_is_held_is_neither_made_nor_changed_nor_pruned() {
        let plan = checked(vec![desired("a", Disposition::Hold), desired("b", Disposition::Hold)]);
        assert!(writes(&plan, &[live("a", "2", "older")].into(), &Always(false)).is_empty());
    }

    #[test]
    fn create_once_is_made_and_then_left_alone() {
        let plan = checked(vec![desired("a", Disposition::CreateOnce), desired("b", Disposition::CreateOnce)]);
        let writes = writes(&plan, &[live("a", "2", "older")].into(), &Always(false));
        let made: Vec<_> = writes.tiers.iter().flatten().map(|a| a.desired.reference.name.as_str()).collect();
        assert_eq!(made, ["b"]);
    }

    #[test]
    fn what_left_the_plan_is_pruned() {
        let writes = writes(&checked(vec![]), &[live("a", "1", "d1")].into(), &Always(false));
        assert_eq!(writes.prunes, [Prune { reference: reference("ConfigMap", "a"), uid: "u".into(), keep: false }]);
    }

    #[test]
    fn within_a_tier_the_order_is_helms() {
        let children = ["Ingress", "Widget", "Deployment", "Secret", "Service"].map(|kind| {
            let mut child = desired("a", Disposition::Apply);
            child.reference = reference(kind, "a");
            child
        });
        let writes = writes(&checked(children.into()), &Children::new(), &Always(false));
        let order: Vec<_> = writes.tiers[0].iter().map(|apply| apply.desired.reference.kind.kind.as_str()).collect();
        assert_eq!(order, ["Secret", "Service", "Deployment", "Ingress", "Widget"]);
    }

    #[test]
    fn namespaces_come_before_what_is_in_them() {
        let mut namespace = desired("a", Disposition::Apply);
        namespace.reference = reference("Namespace", "a");
        let writes =
            writes(&checked(vec![desired("b", Disposition::Apply), namespace]), &Children::new(), &Always(false));
        let order: Vec<_> = writes.tiers.iter().map(|t| t[0].desired.reference.kind.kind.as_str()).collect();
        assert_eq!(order, ["Namespace", "ConfigMap"]);
    }
}
