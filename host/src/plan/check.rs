//! Is a plan one that the host may carry out? Everything a plugin sends is looked at here before anything is done; a
//! plan with one fault is refused whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::contract::{Call, Child, Condition, Disposition, Event, Manifest, ObjectRef, Plan, TypeMeta};
use super::filled_in;
use super::path::Pattern;
use super::request::{Snapshot, owns_namespace};
use super::status::Report;
use crate::api::names;
use crate::api::plugin::Bounds;

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In none.
    Cluster,
}

/// Why a plan is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PlanError {
    /// Stable word for conditions, events and metrics.
    pub reason: &'static str,
    /// What is wrong where.
    pub message: String,
    /// The child that it is about, where it is about one that has a name, and the digest of its text.
    pub child: Option<Box<(ObjectRef, String)>>,
}

fn refuse<T>(reason: &'static str, message: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError { reason, message: message.into(), child: None })
}

/// The object that a text names, without any check.
fn named(text: &str) -> Option<ObjectRef> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Named {
        #[serde(flatten)]
        kind: TypeMeta,
        metadata: Metadata,
    }
    #[derive(serde::Deserialize)]
    struct Metadata {
        name: String,
        #[serde(default)]
        namespace: Option<String>,
    }
    let Named { kind, metadata: Metadata { name, namespace } } = serde_json::from_str(text).ok()?;
    Some(ObjectRef { kind, namespace: namespace.unwrap_or_default(), name })
}

/// One object that should be, complete as the host applies it.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Which object.
    pub reference: ObjectRef,
    /// Body for server-side apply: the plugin's fields, owner reference, labels, annotations.
    pub body: Value,
    /// Digest of the body without the annotation that carries it.
    pub digest: String,
    /// What to do with it.
    pub disposition: Disposition,
    /// Release instead of delete.
    pub keep: bool,
    /// Take over somebody else's object.
    pub adopt: bool,
    /// Delete and create again when an immutable field changes.
    pub replace: bool,
    /// Fields that are written when it is created, and then belong to others.
    pub set_once: Vec<Pattern>,
}

/// A plan that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// In the plugin's order.
    pub children: Vec<Arc<Desired>>,
    /// The plugin's own fields under `.status`.
    pub status: Map<String, Value>,
    /// Without `Synced`.
    pub conditions: Vec<Condition>,
    /// About the primary.
    pub events: Vec<Event>,
    /// To be made after the children.
    pub calls: Vec<Call>,
    /// Milliseconds.
    pub requeue_after_ms: Option<u64>,
    /// Clean-up is done.
    pub finalized: bool,
}

/// Fields of a kind that are written when an object is created, and then belong to others.
#[derive(Clone, Debug, PartialEq)]
pub struct SetOnce {
    /// API group; empty for the core group.
    pub group: String,
    /// `Deployment`, or `*` for all kinds of the group.
    pub kind: String,
    /// Which fields.
    pub fields: Vec<Pattern>,
}

impl SetOnce {
    fn is_for(&self, kind: &TypeMeta) -> bool {
        self.group == kind.group() && (self.kind == "*" || self.kind == kind.kind)
    }
}

/// Who asks, and within which bounds.
#[derive(Clone, Copy)]
pub struct Checker<'a> {
    /// Name of the `Plugin` record.
    pub plugin: &'a str,
    /// What it declared.
    pub manifest: &'a Manifest,
    /// What the record allows.
    pub bounds: &'a Bounds,
    /// Fields that the `Plugin` resource leaves to others once they are set.
    pub set_once: &'a [SetOnce],
    /// Scope of a kind; none when the API server does not serve it.
    pub scope: &'a (dyn Fn(&TypeMeta) -> Option<Scope> + Sync),
}

/// Children that were checked already by the same [`Checker`], for the same primary.
#[derive(Clone, Debug, Default)]
pub struct Known {
    uid: String,
    children: Vec<(Child, Arc<Desired>)>,
}

impl Known {
    fn get(&self, snapshot: &Snapshot, index: usize, child: &Child) -> Option<Arc<Desired>> {
        let (known, desired) = self.children.get(index).filter(|_| self.uid == snapshot.primary.uid)?;
        // what is in other namespaces rests on the primary's other children, too
        let at_home = [&snapshot.primary.namespace, ""].contains(&&*desired.reference.namespace);
        (known == child && at_home).then(|| desired.clone())
    }

    fn note(&mut self, snapshot: &Snapshot, plan: &Plan, children: &[Arc<Desired>]) {
        self.uid.clone_from(&snapshot.primary.uid);
        self.children = plan.children.iter().cloned().zip(children.iter().cloned()).collect();
    }
}

/// All children of one plan together.
const MAX_PLAN_BYTES: usize = 8 << 20;
/// `metav1.Condition`: `type` and `reason` (`k8s.io/apimachinery/pkg/apis/meta/v1/types.go`).
const MAX_CONDITION_TYPE: usize = 316;
const MAX_CONDITION_REASON: usize = 1_024;
const MAX_CONDITION_MESSAGE: usize = 32_768;
const MAX_CONDITIONS: usize = 32;
const MAX_EVENTS: usize = 32;
const MAX_EVENT_NOTE: usize = 1_024;
const MAX_CALLS: usize = 16;
const MAX_CALL_KEY: usize = 64;
const MIN_REQUEUE_MS: u64 = 1_000;

impl Checker<'_> {
    /// Reads and checks a plan.
    ///
    /// # Errors
    /// The first fault found; nothing of the plan may be carried out.
    pub fn check(&self, snapshot: &Snapshot, plan: &Plan) -> Result<Checked, PlanError> {
        self.check_beside(snapshot, plan, &Known::default())
    }

    /// As [`Self::check`]; children that are as they were are not read again.
    ///
    /// # Errors
    /// The first fault found; nothing of the plan may be carried out.
    pub fn check_again(&self, snapshot: &Snapshot, plan: &Plan, known: &mut Known) -> Result<Checked, PlanError> {
        let checked = self.check_beside(snapshot, plan, known)?;
        known.note(snapshot, plan, &checked.children);
        Ok(checked)
    }

    fn check_beside(&self, snapshot: &Snapshot, plan: &Plan, known: &Known) -> Result<Checked, PlanError> {
        if plan.children.len() > self.bounds.children {
            let (n, limit) = (plan.children.len(), self.bounds.children);
            return refuse("TooManyChildren", format!("{n} children, at most {limit} are allowed"));
        }
        if plan.children.iter().map(|child| child.object.len()).sum::<usize>() > MAX_PLAN_BYTES {
            return refuse("PlanTooLarge", "the children together are larger than 8 MiB");
        }
        let mut seen = BTreeSet::new();
        let mut children = Vec::with_capacity(plan.children.len());
        for (index, child) in plan.children.iter().enumerate() {
            let desired = match known.get(snapshot, index, child) {
                Some(desired) => desired,
                None => Arc::new(self.child(snapshot, plan, index, child).map_err(|error| PlanError {
                    child: named(&child.object).map(|named| Box::new((named, digest_of(&child.object)))),
                    ..error
                })?),
            };
            if !seen.insert(desired.reference.id()) {
                return refuse("DuplicateChild", format!("{} is in the plan twice", desired.reference));
            }
            children.push(desired);
        }
        Ok(Checked {
            children,
            status: status_fields(plan)?,
            conditions: conditions(plan)?,
            events: events(plan)?,
            calls: calls(plan)?,
            requeue_after_ms: plan.requeue_after_ms.map(|ms| ms.max(MIN_REQUEUE_MS)),
            finalized: plan.finalized,
        })
    }

    /// What a plan says of the status, without its children; none when it may not be said.
    #[must_use]
    pub fn report(plan: &Plan) -> Option<Report> {
        Some(Report { fields: status_fields(plan).ok()?, conditions: conditions(plan).ok()? })
    }

    fn child(&self, snapshot: &Snapshot, plan: &Plan, index: usize, child: &Child) -> Result<Desired, PlanError> {
        let mut body: Map<String, Value> = match serde_json::from_str(&child.object) {
            Ok(Value::Object(body)) => body,
            Ok(_) => {
                return refuse("MalformedChild", format!("child {index} is not a JSON object"));
            }
            Err(error) => {
                return refuse("MalformedChild", format!("child {index} is not JSON: {error}"));
            }
        };
        let text = |field: &str| body.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
            return refuse("MalformedChild", format!("child {index} has no apiVersion or no kind"));
        };
        let kind = TypeMeta::new(api_version, kind);
        if self.manifest.delivery(&kind).is_none() {
            return refuse("UndeclaredKind", format!("child {index} is a {kind}, which the plugin did not declare"));
        }
        let Some(Value::Object(mut metadata)) = body.remove("metadata") else {
            return refuse("MalformedChild", format!("child {index} ({kind}) has no metadata"));
        };
        let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = text("name");
        if name.is_empty() {
            return refuse("MalformedChild", format!("child {index} ({kind}) has no metadata.name"));
        }
        for field in ["generateName", "managedFields", "resourceVersion", "uid", "ownerReferences", "selfLink"] {
            if metadata.contains_key(field) {
                return refuse("MalformedChild", format!("{kind} {name}: metadata.{field} is not the plugin's to set"));
            }
        }
        if body.contains_key("status") {
            return refuse("MalformedChild", format!("{kind} {name}: status is not the plugin's to set"));
        }
        let Some(scope) = (self.scope)(&kind).or_else(|| defined_scope(plan, &kind)) else {
            return refuse("KindNotServed", format!("{kind} {name}: the API server does not serve this kind"));
        };
        let namespace = self.namespace(snapshot, &kind, &name, scope, &text("namespace"))?;
        let reference = ObjectRef { kind, namespace, name };
        self.finish_metadata(snapshot, &reference, child.keep, &mut metadata)?;
        let set_once = self.set_once(&reference, &metadata)?;
        body.insert("metadata".into(), Value::Object(metadata));
        filled_in::strip(&reference.kind, &mut body);
        let mut body = Value::Object(body);
        let digest = digest(&body);
        if let Some(Value::Object(annotations)) = body.pointer_mut("/metadata/annotations") {
            annotations.insert(names::APPLIED_ANNOTATION.into(), Value::from(digest.clone()));
        }
        Ok(Desired {
            reference,
            body,
            digest,
            disposition: child.disposition,
            keep: child.keep,
            adopt: child.adopt,
            replace: child.replace,
            set_once,
        })
    }

    /// By the child's own annotation, and by the `Plugin` resource.
    fn set_once(&self, reference: &ObjectRef, metadata: &Map<String, Value>) -> Result<Vec<Pattern>, PlanError> {
        let annotation = names::SET_ONCE_ANNOTATION;
        let text = metadata.get("annotations").and_then(|a| a.get(annotation)).and_then(Value::as_str);
        let paths = text.unwrap_or_default().split(',').map(str::trim).filter(|path| !path.is_empty());
        let own = paths.map(Pattern::parse).collect::<Result<Vec<_>, _>>().or_else(|error| {
            refuse("MalformedChild", format!("{reference}: metadata.annotations[{annotation}]: {error}"))
        })?;
        let granted = self.set_once.iter().filter(|rule| rule.is_for(&reference.kind));
        Ok(own.into_iter().chain(granted.flat_map(|rule| rule.fields.iter().cloned())).collect())
    }

    /// Namespaced primaries own children in their own namespace, and in namespaces that they own themselves.
    fn namespace(
        &self,
        snapshot: &Snapshot,
        kind: &TypeMeta,
        name: &str,
        scope: Scope,
        asked: &str,
    ) -> Result<String, PlanError> {
        let home = snapshot.primary.namespace.as_str();
        match scope {
            // as the API server does: a template may not know
            Scope::Cluster => Ok(String::new()),
            Scope::Namespaced if asked.is_empty() && home.is_empty() => {
                refuse("MalformedChild", format!("{kind} {name}: has no namespace, nor has its primary"))
            }
            Scope::Namespaced if asked.is_empty() || asked == home => Ok(home.to_owned()),
            Scope::Namespaced if home.is_empty() => Ok(asked.to_owned()),
            Scope::Namespaced => {
                if owns_namespace(&snapshot.children, asked) {
                    return Ok(asked.to_owned());
                }
                refuse("ForeignNamespace", format!("{kind} {name}: namespace {asked} is not the primary's ({home})"))
            }
        }
    }

    fn finish_metadata(
        &self,
        snapshot: &Snapshot,
        reference: &ObjectRef,
        keep: bool,
        metadata: &mut Map<String, Value>,
    ) -> Result<(), PlanError> {
        let primary = &snapshot.primary;
        if reference.namespace.is_empty() {
            metadata.remove("namespace");
        } else {
            metadata.insert("namespace".into(), Value::from(reference.namespace.as_str()));
        }
        let mut table = |field: &str| match metadata.remove(field) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(table)) if table.values().all(Value::is_string) => Ok(table),
            Some(_) => refuse("MalformedChild", format!("{reference}: metadata.{field} must map strings to strings")),
        };
        let (mut labels, mut annotations) = (table("labels")?, table("annotations")?);
        labels.insert(names::OWNER_LABEL.into(), Value::from(primary.uid.as_str()));
        labels.insert(names::PLUGIN_LABEL.into(), Value::from(self.plugin));
        annotations.remove(names::APPLIED_ANNOTATION);
        annotations.remove(names::KEEP_ANNOTATION);
        if keep {
            annotations.insert(names::KEEP_ANNOTATION.into(), Value::from("true"));
        }
        metadata.insert("labels".into(), Value::Object(labels));
        metadata.insert("annotations".into(), Value::Object(annotations));
        // Kubernetes lets an owner be cluster-scoped or in the same namespace; a kept child must outlive its owner.
        if !keep && (primary.namespace.is_empty() || primary.namespace == reference.namespace) {
            let owner = json!([{
                "apiVersion": snapshot.kind.api_version, "kind": snapshot.kind.kind, "name": primary.name,
                "uid": primary.uid, "controller": true, "blockOwnerDeletion": true,
            }]);
            metadata.insert("ownerReferences".into(), owner);
        }
        Ok(())
    }
}

/// Scope of a kind whose definition is in the same plan: it will be served when the definition is.
fn defined_scope(plan: &Plan, kind: &TypeMeta) -> Option<Scope> {
    let definition = TypeMeta::new("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    let candidates = plan.children.iter().filter(|child| TypeMeta::of(&child.object).as_ref() == Some(&definition));
    candidates.filter_map(|child| serde_json::from_str::<Value>(&child.object).ok()).find_map(|object| {
        let spec = object.get("spec")?;
        let text = |pointer: &str| spec.pointer(pointer).and_then(Value::as_str);
        let served = |version: &Value| version.get("name").and_then(Value::as_str) == Some(kind.version());
        let defines = text("/group") == Some(kind.group())
            && text("/names/kind") == Some(&kind.kind)
            && spec.get("versions").and_then(Value::as_array).is_some_and(|versions| versions.iter().any(served));
        defines.then(|| if text("/scope") == Some("Namespaced") { Scope::Namespaced } else { Scope::Cluster })
    })
}

/// First 128 bits of SHA-256 over the canonical text (sorted keys), in hexadecimal.
#[must_use]
pub fn digest(value: &Value) -> String {
    digest_of(&value.to_string())
}

/// The same of a text.
fn digest_of(text: &str) -> String {
    use std::fmt::Write as _;
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().take(16).fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
        text
    })
}

fn status_fields(plan: &Plan) -> Result<Map<String, Value>, PlanError> {
    let Some(text) = &plan.status else {
        return Ok(Map::new());
    };
    let fields = match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return refuse("MalformedStatus", "status is not a JSON object"),
        Err(error) => return refuse("MalformedStatus", format!("status is not JSON: {error}")),
    };
    if let Some(field) = ["conditions", "observedGeneration"].into_iter().find(|field| fields.contains_key(*field)) {
        return refuse("MalformedStatus", format!("status.{field} is the host's to set"));
    }
    Ok(fields)
}

fn conditions(plan: &Plan) -> Result<Vec<Condition>, PlanError> {
    if plan.conditions.len() > MAX_CONDITIONS {
        return refuse("MalformedStatus", format!("{} conditions, at most 32", plan.conditions.len()));
    }
    let mut seen = BTreeSet::new();
    for condition in &plan.conditions {
        let Condition { type_, reason, .. } = condition;
        let fault = if type_ == names::SYNCED || type_ == names::OVERLAY_APPLIED {
            "belongs to the host"
        } else if !seen.insert(type_.as_str()) {
            "is there twice"
        } else if !is_word(type_, MAX_CONDITION_TYPE) {
            "is no condition type (CamelCase letters and digits)"
        } else if !is_word(reason, MAX_CONDITION_REASON) {
            "needs a reason in CamelCase"
        } else {
            continue;
        };
        return refuse("MalformedStatus", format!("condition {} {fault}", shorten(type_, 64)));
    }
    let bounded = |condition: &Condition| Condition {
        message: shorten(&condition.message, MAX_CONDITION_MESSAGE),
        ..condition.clone()
    };
    Ok(plan.conditions.iter().map(bounded).collect())
}

fn events(plan: &Plan) -> Result<Vec<Event>, PlanError> {
    if plan.events.len() > MAX_EVENTS {
        return refuse("MalformedEvents", format!("{} events, at most 32", plan.events.len()));
    }
    if let Some(event) = plan.events.iter().find(|event| !is_word(&event.reason, 128)) {
        return refuse("MalformedEvents", format!("{} is no event reason", shorten(&event.reason, 64)));
    }
    Ok(plan.events.iter().map(|e| Event { note: shorten(&e.note, MAX_EVENT_NOTE), ..e.clone() }).collect())
}

fn calls(plan: &Plan) -> Result<Vec<Call>, PlanError> {
    if plan.calls.len() > MAX_CALLS {
        return refuse("TooManyCalls", format!("{} calls, at most {MAX_CALLS} are allowed", plan.calls.len()));
    }
    let mut seen = BTreeSet::new();
    for call in &plan.calls {
        let fault = if call.key.is_empty() {
            "has no key"
        } else if call.key.chars().count() > MAX_CALL_KEY {
            "has a key of more than 64 characters"
        } else if !seen.insert(call.key.as_str()) {
            "is there twice"
        } else {
            continue;
        };
        return refuse("MalformedCalls", format!("the call {:?} to {} {fault}", shorten(&call.key, 80), call.path));
    }
    Ok(plan.calls.clone())
}

/// `^[A-Za-z]([A-Za-z0-9_,:./-]*[A-Za-z0-9_])?$`, as `metav1.Condition` has it for reasons.
fn is_word(text: &str, max: usize) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_,:./-".contains(c);
    text.len() <= max
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(inner)
}

/// At most `max` bytes, cut between characters, with an ellipsis where something was cut.
#[must_use]
pub fn shorten(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {

    use rstest::rstest;

    use super::super::contract::{Delivery, Truth};
    use super::super::object::Object;
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            name: "p".into(),
            version: "1.0.0".into(),
            crds: vec![],
            children: ["ConfigMap", "Namespace"].map(|k| (TypeMeta::new("v1", k), Delivery::Full)).to_vec(),
            reads: vec![],
            endpoints: vec![],
            engines: vec![],
            config_schema: None,
            finalizes: false,
        }
    }

    fn snapshot() -> Snapshot {
        let primary = Object::parse(r#"{"metadata":{"name":"a","namespace":"n","uid":"u-1"}}"#).unwrap();
        Snapshot {
            kind: TypeMeta::new("g/v1", "K"),
            primary: Arc::new(primary),
            children: Default::default(),
            config: "{}".into(),
        }
    }

    fn child(object: &str) -> Child {
        let disposition = Disposition::Apply;
        Child { object: object.into(), disposition, keep: false, adopt: false, replace: false }
    }

    fn check(plan: &Plan) -> Result<Checked, PlanError> {
        let scope = |kind: &TypeMeta| match kind.kind.as_str() {
            "Namespace" => Some(Scope::Cluster),
            _ => Some(Scope::Namespaced),
        };
        let (manifest, bounds) = (manifest(), Bounds { children: 3, ..Bounds::default() });
        Checker { plugin: "p", manifest: &manifest, bounds: &bounds, set_once: &[], scope: &scope }
            .check(&snapshot(), plan)
    }

    fn children(objects: &[&str]) -> Plan {
        Plan { children: objects.iter().map(|o| child(o)).collect(), ..Plan::default() }
    }

    #[test]
    fn what_was_checked_is_not_read_again_but_for_another_primary_or_in_other_words() {
        let (manifest, bounds) = (manifest(), Bounds::default());
        let scope = |_: &TypeMeta| Some(Scope::Namespaced);
        let checker = Checker { plugin: "p", manifest: &manifest, bounds: &bounds, set_once: &[], scope: &scope };
        let plan = |data: &str| Plan {
            children: vec![child(&format!(
                r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"c"}},{data}}}"#
            ))],
            ..Plan::default()
        };
        let (mut snapshot, mut known) = (snapshot(), Known::default());
        let mut check = |snapshot: &Snapshot, data: &str| {
            checker.check_again(snapshot, &plan(data), &mut known).unwrap().children.remove(0)
        };
        let first = check(&snapshot, r#""data":{"a":"1"}"#);
        let second = check(&snapshot, r#""data":{"a":"1"}"#);
        assert!(Arc::ptr_eq(&first, &second));
        let other = check(&snapshot, r#""data":{"a":"2"}"#);
        assert_eq!(other.body["data"]["a"], "2");
        Arc::make_mut(&mut snapshot.primary).uid = "u-2".into();
        assert_eq!(check(&snapshot, r#""data":{"a":"2"}"#).body["metadata"]["ownerReferences"][0]["uid"], "u-2");
    }

    #[test]
    fn a_child_gets_namespace_owner_labels_and_digest() {
        let plan = children(&[r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"x":"y"}}"#]);
        let checked = check(&plan).unwrap();
        insta::assert_yaml_snapshot!(checked.children[0].body);
    }

    #[test]
    fn a_namespace_on_what_has_none_is_left_out() {
        let plan = children(&[r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x","namespace":"n"}}"#]);
        let checked = check(&plan).unwrap();
        assert_eq!(checked.children[0].reference.namespace, "");
        assert_eq!(checked.children[0].body["metadata"].get("namespace"), None);
    }

    const OK: &str = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}"#;

    #[rstest]
    #[case::not_json(&["{"], "MalformedChild")]
    #[case::array(&["[]"], "MalformedChild")]
    #[case::no_kind(&[r#"{"apiVersion":"v1","metadata":{"name":"c"}}"#], "MalformedChild")]
    #[case::no_metadata(&[r#"{"apiVersion":"v1","kind":"ConfigMap"}"#], "MalformedChild")]
    #[case::no_name(&[r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}"#], "MalformedChild")]
    #[case::uid(&[r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","uid":"x"}}"#], "MalformedChild")]
    #[case::labels(&[r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","labels":{"a":1}}}"#], "MalformedChild")]
    #[case::status(&[r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"status":{}}"#], "MalformedChild")]
    #[case::undeclared(&[r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"c"}}"#], "UndeclaredKind")]
    #[case::foreign(
        &[r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"kube-system"}}"#],
        "ForeignNamespace"
    )]
    #[case::twice(&[OK, OK], "DuplicateChild")]
    #[case::too_many(&[OK, OK, OK, OK], "TooManyChildren")]
    fn a_bad_child_refuses_the_plan(#[case] objects: &[&str], #[case] reason: &str) {
        assert_eq!(check(&children(objects)).unwrap_err().reason, reason);
    }

    #[test]
    fn a_kind_may_be_defined_and_used_in_one_plan() {
        let widget = TypeMeta::new("x.dev/v1", "Widget");
        let definition = TypeMeta::new("apiextensions.k8s.io/v1", "CustomResourceDefinition");
        let mut manifest = manifest();
        manifest.children = [definition.clone(), widget].map(|kind| (kind, Delivery::Full)).to_vec();
        let scope = |kind: &TypeMeta| (*kind == definition).then_some(Scope::Cluster);
        let checker =
            Checker { plugin: "p", manifest: &manifest, bounds: &Bounds::default(), set_once: &[], scope: &scope };
        let used = r#"{"apiVersion":"x.dev/v1","kind":"Widget","metadata":{"name":"w"}}"#;
        let defined = r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":
            {"name":"widgets.x.dev"},"spec":{"group":"x.dev","scope":"Namespaced","names":{"kind":"Widget"},
            "versions":[{"name":"v1"}]}}"#;
        let checked = checker.check(&snapshot(), &children(&[used, defined])).unwrap();
        assert_eq!(checked.children[0].reference.namespace, "n");
        assert_eq!(checker.check(&snapshot(), &children(&[used])).unwrap_err().reason, "KindNotServed");
        let other = defined.replace("\"v1\"", "\"v2\"");
        assert_eq!(checker.check(&snapshot(), &children(&[used, &other])).unwrap_err().reason, "KindNotServed");
    }

    #[rstest]
    #[case::hosts("Synced", "R")]
    #[case::overlays("OverlayApplied", "R")]
    #[case::empty("", "R")]
    #[case::spaces("A b", "R")]
    #[case::no_reason("Ready", "")]
    fn a_bad_condition_refuses_the_plan(#[case] type_: &str, #[case] reason: &str) {
        let condition =
            Condition { type_: type_.into(), status: Truth::True, reason: reason.into(), message: String::new() };
        let plan = Plan { conditions: vec![condition], ..Plan::default() };
        assert_eq!(check(&plan).unwrap_err().reason, "MalformedStatus");
    }

    #[rstest]
    #[case::no_key(&[""], "MalformedCalls")]
    #[case::long_key(&["kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk"], "MalformedCalls")]
    #[case::twice(&["a", "a"], "MalformedCalls")]
    #[case::too_many(&["a"; 17], "TooManyCalls")]
    fn a_bad_call_refuses_the_plan(#[case] keys: &[&str], #[case] reason: &str) {
        let call =
            |key: &&str| Call { key: (*key).into(), endpoint: "e".into(), path: "/p.S/M".into(), message: vec![] };
        let plan = Plan { calls: keys.iter().map(call).collect(), ..Plan::default() };
        assert_eq!(check(&plan).unwrap_err().reason, reason);
    }

    #[test]
    fn nesting_without_end_is_an_error_not_a_crash() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(check(&children(&[&deep])).unwrap_err().reason, "MalformedChild");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shorten("ääää", 6), "ä…");
        assert_eq!(shorten("abc", 3), "abc");
    }
}
