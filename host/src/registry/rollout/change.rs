//! From two plans for one object to what changes, for people. Pure; holds no value of a Secret.

use std::collections::BTreeSet;

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shadow::{Later, Made};
use crate::api::names;
use crate::api::rollout::PlanSample;
use crate::plan::check::{Desired, shorten};
use crate::plan::contract::{Answer, Answered, Lookup, ObjectRef, Problem, TypeMeta, Value as Found};
use crate::plan::decide::Apply;
use crate::plan::diff;
use crate::plan::object::Object;
use crate::plan::request::Snapshot;

/// Fields of one child that are listed.
const MAX_FIELDS: usize = 64;
/// Longer values are shortened, in bytes.
const MAX_VALUE: usize = 256;
/// Children and fields in a sample for the status.
const SAMPLE: usize = 8;
/// Shorter values of Secrets are hidden inside Secrets only: `app` is part of half the texts in a cluster.
const MIN_HIDDEN: usize = 8;
const HIDDEN: &str = "(hidden)";

/// What would become of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// Fails with the new version only, or the API server would refuse a change.
    Failed,
    /// Is Ready and would not be, though no child changes.
    NotReady,
    /// Fails with both versions.
    Failing,
    /// Cannot be said now.
    Unknown,
    /// Children would be written.
    Changed,
    /// Nothing would be written.
    Unchanged,
}

impl Outcome {
    /// As conditions and metrics spell it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Failed => "Failed",
            Self::NotReady => "NotReady",
            Self::Failing => "Failing",
            Self::Unknown => "Unknown",
            Self::Changed => "Changed",
            Self::Unchanged => "Unchanged",
        }
    }
}

/// What would be done with a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// It is not there.
    Create,
    /// Fields differ.
    Update,
    /// A field that cannot change does, and the plugin allows the child to be made again.
    Replace,
    /// It is no longer wanted.
    Delete,
    /// It is no longer wanted, and is let go.
    Release,
}

impl Verb {
    /// In a sentence.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Release => "release",
        }
    }
}

/// One field that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// `spec.template.spec.containers[0].image`
    pub path: String,
    /// As it is; none when it is not there, or not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// As it would be; none when it would not be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// One child that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChildChange {
    /// Which child.
    pub child: ObjectRef,
    /// What would be done.
    pub verb: Verb,
    /// Not at once: the child is held until this is ready. None where nothing holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// The API server would refuse it: these fields cannot change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub immutable: Vec<String>,
    /// Of an update.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
}

/// One object in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectChange {
    /// Which object.
    pub object: ObjectRef,
    /// What would become of it.
    pub outcome: Outcome,
    /// Why, where it is not a change.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Children that would be written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<ChildChange>,
}

impl ObjectChange {
    fn plain(object: ObjectRef, outcome: Outcome, message: String) -> Self {
        Self { object, outcome, message, children: Vec::new() }
    }

    pub(super) fn unknown(object: ObjectRef, problem: &Problem) -> Self {
        Self::plain(object, Outcome::Unknown, format!("{}: {}", problem.reason, problem.message))
    }

    pub(super) fn failed(object: ObjectRef, problem: &Problem, also_before: bool) -> Self {
        let outcome = if also_before { Outcome::Failing } else { Outcome::Failed };
        Self::plain(object, outcome, format!("{}: {}", problem.reason, problem.message))
    }

    pub(super) fn unchanged(object: ObjectRef, loses_ready: bool) -> Self {
        if loses_ready {
            let message = "is Ready and would not be, though none of its children changes";
            return Self::plain(object, Outcome::NotReady, message.into());
        }
        Self::plain(object, Outcome::Unchanged, String::new())
    }

    pub(super) fn changed(object: ObjectRef, children: Vec<ChildChange>) -> Self {
        let refused: Vec<String> = children
            .iter()
            .filter(|child| !child.immutable.is_empty())
            .map(|child| format!("{}: {}", child.child, child.immutable.join(", ")))
            .collect();
        if refused.is_empty() {
            return Self { object, outcome: Outcome::Changed, message: String::new(), children };
        }
        let message = shorten(&format!("ImmutableField: cannot be changed: {}", refused.join("; ")), 512);
        Self { object, outcome: Outcome::Failed, message, children }
    }

    /// As the status of the record has it: bounded, and without any value.
    pub(super) fn sample(&self) -> PlanSample {
        let line = |change: &ChildChange| {
            let paths: Vec<&str> = change.fields.iter().take(SAMPLE).map(|field| field.path.as_str()).collect();
            let more = if change.fields.len() > SAMPLE { ", …" } else { "" };
            let colon = if paths.is_empty() { "" } else { ": " };
            let later = change.later();
            shorten(&format!("{} {}{later}{colon}{}{more}", change.verb.word(), change.child, paths.join(", ")), 256)
        };
        PlanSample {
            object: self.object.to_string(),
            outcome: self.outcome.word().into(),
            message: self.message.clone(),
            children: self.children.iter().take(SAMPLE).map(line).collect(),
        }
    }
}

impl ChildChange {
    fn new(child: ObjectRef, verb: Verb) -> Self {
        Self { child, verb, waits_for: None, immutable: Vec::new(), fields: Vec::new() }
    }

    /// When it happens, in a sentence, unless it is at once.
    #[must_use]
    pub fn later(&self) -> String {
        self.waits_for.as_ref().map(|what| format!(", once this is ready: {what}")).unwrap_or_default()
    }
}

/// Children that would change: at once, and when they are held no longer.
pub(super) fn changes(snapshot: &Snapshot, made: &Made, before: Option<&Made>) -> Vec<ChildChange> {
    if made.writes_nothing() {
        return Vec::new();
    }
    let hidden = Hidden::of(snapshot, made, before);
    let old = |child: &ObjectRef| before.and_then(|before| before.wanted(child));
    let body = |child: &ObjectRef| old(child).map(|old| &old.body);
    let mut children = Vec::new();
    for Apply { desired, live, .. } in made.writes.tiers.iter().flatten() {
        children.push(applied(desired, live.as_deref(), body(&desired.reference), &hidden));
    }
    // what the version before wants as well is no doing of this one
    let is_new = |later: &&Later| {
        later.differs && old(&later.desired.reference).is_none_or(|old| old.digest != later.desired.digest)
    };
    for Later { desired, live, waits_for, .. } in made.later.iter().filter(is_new) {
        let change = applied(desired, live.as_deref(), body(&desired.reference), &hidden);
        children.push(ChildChange { waits_for: Some(waits_for.clone()), ..change });
    }
    for prune in &made.writes.prunes {
        let verb = if prune.keep { Verb::Release } else { Verb::Delete };
        children.push(ChildChange::new(prune.reference.clone(), verb));
    }
    children
}

/// One child that would be applied.
fn applied(desired: &Desired, live: Option<&Object>, old: Option<&Value>, hidden: &Hidden) -> ChildChange {
    let child = desired.reference.clone();
    let Some(live) = live else {
        return ChildChange::new(child, Verb::Create);
    };
    let live = live.value();
    let mut fields = match old {
        Some(old) => fields_between(old, &desired.body),
        None => Vec::new(),
    };
    if fields.is_empty() {
        // the version before does not say, or it is not what was applied: only the live object tells
        let paths = diff::object_drift(&desired.body, &live);
        let path = |path: String| FieldChange { path, before: None, after: None };
        fields = paths.into_iter().map(path).collect();
        fields.retain(|field| !field.path.ends_with(names::APPLIED_ANNOTATION));
    }
    let immutable: Vec<String> =
        fields.iter().map(|field| field.path.clone()).filter(|path| is_immutable(&child.kind, path, &live)).collect();
    hidden.mask(&child.kind, &mut fields);
    let (verb, immutable) = match (immutable.is_empty(), desired.replace) {
        (false, true) => (Verb::Replace, Vec::new()),
        _ => (Verb::Update, immutable),
    };
    ChildChange { immutable, fields, ..ChildChange::new(child, verb) }
}

/// Fields of two bodies that differ, in the order of their paths; at most 64.
fn fields_between(before: &Value, after: &Value) -> Vec<FieldChange> {
    let mut found = Vec::new();
    walk(Some(before), Some(after), &mut String::new(), &mut found);
    found
}

fn walk(before: Option<&Value>, after: Option<&Value>, path: &mut String, found: &mut Vec<FieldChange>) {
    if before == after || found.len() >= MAX_FIELDS {
        return;
    }
    let length = path.len();
    match (before, after) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for name in names.into_iter().filter(|name| *name != names::APPLIED_ANNOTATION) {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
                walk(before.get(name), after.get(name), path, found);
                path.truncate(length);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) if before.len() == after.len() => {
            for (i, (before, after)) in before.iter().zip(after).enumerate() {
                path.push_str(&format!("[{i}]"));
                walk(Some(before), Some(after), path, found);
                path.truncate(length);
            }
        }
        _ => found.push(FieldChange { path: path.clone(), before: before.cloned(), after: after.cloned() }),
    }
}

/// Fields that the API server lets nobody change, by kind, for the built-in kinds (`pkg/apis/*/validation` in Kubernetes).
/// For others it is not known before it is tried.
fn is_immutable(kind: &TypeMeta, path: &str, live: &Value) -> bool {
    let below = |fields: &[&str]| {
        let is = |field: &&str| {
            path.strip_prefix(field).is_some_and(|rest| matches!(rest.chars().next(), None | Some('.' | '[')))
        };
        fields.iter().any(is)
    };
    match (kind.group(), kind.kind.as_str()) {
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") => below(&["spec.selector"]),
        ("apps", "StatefulSet") => {
            let free = [
                "replicas",
                "template",
                "updateStrategy",
                "persistentVolumeClaimRetentionPolicy",
                "minReadySeconds",
                "ordinals",
                "revisionHistoryLimit",
            ]
            .map(|field| format!("spec.{field}"));
            below(&["spec"]) && !below(&free.each_ref().map(String::as_str))
        }
        ("batch", "Job") => below(&["spec.template", "spec.selector", "spec.completionMode", "spec.podFailurePolicy"]),
        ("", "Service") => below(&["spec.clusterIP", "spec.clusterIPs"]),
        ("", "PersistentVolumeClaim") => {
            below(&["spec"]) && !below(&["spec.resources", "spec.volumeAttributesClassName"])
        }
        ("", "Secret") if below(&["type"]) => true,
        ("", "Secret" | "ConfigMap") => {
            live.get("immutable") == Some(&Value::Bool(true))
                && below(&["data", "stringData", "binaryData", "immutable"])
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => below(&["roleRef"]),
        ("storage.k8s.io", "StorageClass") => {
            below(&["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"])
        }
        ("scheduling.k8s.io", "PriorityClass") => below(&["value", "preemptionPolicy"]),
        _ => false,
    }
}

/// Does the object say that it is Ready?
pub(super) fn is_ready(primary: &Object) -> bool {
    let value = primary.value();
    let conditions = value.pointer("/status/conditions").and_then(Value::as_array);
    let ready = |c: &Value| c.get("type") == Some(&names::READY.into()) && c.get("status") == Some(&"True".into());
    conditions.into_iter().flatten().any(ready)
}

/// Values that must not be shown.
struct Hidden(Vec<String>);

impl Hidden {
    /// Those of all Secrets that the plugin was shown or makes, and random bytes.
    fn of(snapshot: &Snapshot, made: &Made, before: Option<&Made>) -> Self {
        let mut values = BTreeSet::new();
        let secret = TypeMeta::new("v1", "Secret");
        for (reference, object) in snapshot.children.iter() {
            if reference.kind == secret {
                collect(&object.value(), &mut values);
            }
        }
        for made in std::iter::once(made).chain(before) {
            let later = made.later.iter().map(|later| &later.desired);
            for desired in made.checked.children.iter().chain(later).filter(|one| one.reference.kind == secret) {
                collect(&desired.body, &mut values);
            }
            made.answers.iter().for_each(|answered| collect_answer(answered, &mut values));
        }
        Self(values.into_iter().filter(|value| value.len() >= MIN_HIDDEN).collect())
    }

    /// Takes the values out of what is shown of a child, and shortens the rest.
    fn mask(&self, kind: &TypeMeta, fields: &mut [FieldChange]) {
        let is_secret = *kind == TypeMeta::new("v1", "Secret");
        for field in fields {
            let secret = is_secret && ["data", "stringData"].iter().any(|root| field.path.starts_with(root));
            // what was left of a Secret in annotations is a copy of it, more often than not
            let secret = secret || is_secret && field.path.starts_with("metadata.annotations");
            for value in [&mut field.before, &mut field.after].into_iter().flatten() {
                let text = value.to_string();
                if secret || self.0.iter().any(|hidden| text.contains(hidden.as_str())) {
                    *value = HIDDEN.into();
                } else if text.len() > MAX_VALUE {
                    *value = shorten(&text, MAX_VALUE).into();
                }
            }
        }
    }
}

/// Values under `data` and `stringData`: as they stand there and, of base64, what they say. In the spelling of JSON text.
fn collect(secret: &Value, found: &mut BTreeSet<String>) {
    let mut add = |text: &str| {
        found.insert(Value::from(text).to_string().trim_matches('"').to_owned());
    };
    for field in ["data", "stringData"] {
        let values = secret.get(field).and_then(Value::as_object).into_iter().flatten();
        for text in values.filter_map(|(_, value)| value.as_str()) {
            add(text);
            let decoded = base64::engine::general_purpose::STANDARD.decode(text).ok();
            if let Some(text) = decoded.and_then(|bytes| String::from_utf8(bytes).ok()) {
                add(&text);
            }
        }
    }
}

fn collect_answer(answered: &Answered, found: &mut BTreeSet<String>) {
    let mut object = |text: &String| {
        if let Ok(object) = serde_json::from_str::<Value>(text)
            && object.get("kind") == Some(&"Secret".into())
        {
            collect(&object, found);
        }
    };
    match (&answered.lookup, &answered.answer) {
        (_, Answer::Found(Found::Object(text))) => object(text),
        (_, Answer::Found(Found::Objects(texts))) => texts.iter().for_each(object),
        (Lookup::Random { .. }, Answer::Found(Found::Bytes(bytes))) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            found.insert(hex);
            found.insert(base64::engine::general_purpose::STANDARD.encode(bytes));
            found.extend(String::from_utf8(bytes.clone()).ok());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::plan::check::Checked;
    use crate::plan::contract::Disposition;
    use crate::plan::decide::Writes;
    use crate::plan::request::Children;

    fn paths(before: &Value, after: &Value) -> Vec<String> {
        fields_between(before, after).into_iter().map(|field| field.path).collect()
    }

    #[test]
    fn fields_are_named_where_they_differ_and_removals_are_seen() {
        let before = json!({"metadata": {"annotations": {"transom.dev/applied": "1"}}, "spec": {"a": 1, "b": [{"c": 1}, 2], "d": [1]}});
        let after = json!({"metadata": {"annotations": {"transom.dev/applied": "2"}}, "spec": {"b": [{"c": 3}, 2], "d": [1, 2], "e": {}}});
        assert_eq!(paths(&before, &after), ["spec.a", "spec.b[0].c", "spec.d", "spec.e"]);
        assert_eq!(paths(&before, &before), Vec::<String>::new());
    }

    #[rstest]
    #[case("apps/v1", "Deployment", "spec.selector.matchLabels.app", true)]
    #[case("apps/v1", "Deployment", "spec.replicas", false)]
    #[case("apps/v1", "StatefulSet", "spec.serviceName", true)]
    #[case("apps/v1", "StatefulSet", "spec.template.spec", false)]
    #[case("batch/v1", "Job", "spec.template.spec.containers[0].image", true)]
    #[case("batch/v1", "Job", "spec.ttlSecondsAfterFinished", false)]
    #[case("v1", "Service", "spec.clusterIP", true)]
    #[case("v1", "ConfigMap", "data.x", false)]
    #[case("v1", "Secret", "type", true)]
    #[case("v1", "Secret", "typeless", false)]
    #[case("rbac.authorization.k8s.io/v1", "RoleBinding", "roleRef.name", true)]
    fn fields_that_cannot_change_are_known(
        #[case] api: &str,
        #[case] kind: &str,
        #[case] path: &str,
        #[case] immutable: bool,
    ) {
        assert_eq!(is_immutable(&TypeMeta::new(api, kind), path, &json!({})), immutable);
    }

    #[test]
    fn what_is_marked_immutable_is() {
        let kind = TypeMeta::new("v1", "ConfigMap");
        assert!(is_immutable(&kind, "data.x", &json!({"immutable": true})));
        assert!(!is_immutable(&kind, "metadata.labels.x", &json!({"immutable": true})));
    }

    #[test]
    fn no_value_of_a_secret_is_shown_anywhere() {
        let mut values = BTreeSet::new();
        collect(&json!({"data": {"p": "aHVudGVyMi1odW50ZXIy"}, "stringData": {"q": "other-secret"}}), &mut values);
        let hidden = Hidden(values.into_iter().collect());
        let field =
            |path: &str, after: &str| FieldChange { path: path.into(), before: None, after: Some(after.into()) };
        let mut fields =
            [field("spec.a", "x hunter2-hunter2 y"), field("spec.b", "aHVudGVyMi1odW50ZXIy"), field("spec.c", "plain")];
        hidden.mask(&TypeMeta::new("apps/v1", "Deployment"), &mut fields);
        let shown: Vec<&Value> = fields.iter().filter_map(|field| field.after.as_ref()).collect();
        assert_eq!(shown, [HIDDEN, HIDDEN, "plain"]);
        let mut fields = [field("data.p", "short"), field("type", "Opaque")];
        hidden.mask(&TypeMeta::new("v1", "Secret"), &mut fields);
        let shown: Vec<&Value> = fields.iter().filter_map(|field| field.after.as_ref()).collect();
        assert_eq!(shown, [HIDDEN, "Opaque"]);
    }

    fn config_map(name: &str) -> ObjectRef {
        ObjectRef { kind: TypeMeta::new("v1", "ConfigMap"), namespace: "n".into(), name: name.into() }
    }

    fn desired(name: &str, value: &str) -> Arc<Desired> {
        let disposition = Disposition::Apply;
        let body = json!({ "metadata": { "name": name }, "data": { "a": value } });
        let digest = value.to_owned();
        let reference = config_map(name);
        Arc::new(Desired {
            reference,
            body,
            digest,
            disposition,
            keep: false,
            adopt: false,
            replace: false,
            set_once: vec![],
        })
    }

    /// Held, with what they are going to be.
    fn made(later: &[(&str, &str)]) -> Made {
        let held = |(name, value): &(&str, &str)| Later {
            desired: desired(name, value),
            live: (*name != "gone").then(|| {
                let live = json!({ "metadata": { "name": name, "uid": "u" }, "data": { "a": "live" } });
                Arc::new(Object::parse(&live.to_string()).unwrap())
            }),
            waits_for: "Job j (Missing)".into(),
            differs: *value != "live",
        };
        let checked = Checked {
            children: Vec::new(),
            status: serde_json::Map::new(),
            conditions: Vec::new(),
            events: Vec::new(),
            calls: Vec::new(),
            requeue_after_ms: None,
            finalized: false,
        };
        let later = later.iter().map(held).collect();
        Made { checked, writes: Writes::default(), later, answers: Vec::new() }
    }

    fn snapshot() -> Snapshot {
        let primary = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" } }).to_string();
        Snapshot {
            kind: TypeMeta::new("example.com/v1", "Thing"),
            primary: Arc::new(Object::parse(&primary).unwrap()),
            children: Children::default(),
            config: "{}".into(),
        }
    }

    #[test]
    fn what_is_held_is_listed_with_what_it_is_going_to_be_and_what_it_waits_for() {
        let new = made(&[("a", "new"), ("b", "live"), ("gone", "new")]);
        let before = made(&[("a", "old")]);
        let found = changes(&snapshot(), &new, Some(&before));
        let lines: Vec<String> = found.iter().map(|one| format!("{}{}", one.child.name, one.later())).collect();
        assert_eq!(lines, ["a, once this is ready: Job j (Missing)", "gone, once this is ready: Job j (Missing)"]);
        assert_eq!(found.iter().map(|one| one.verb).collect::<Vec<_>>(), [Verb::Update, Verb::Create]);
        let changed = FieldChange { path: "data.a".into(), before: Some("old".into()), after: Some("new".into()) };
        assert_eq!(found[0].fields, [changed]);
        let sample = ObjectChange::changed(config_map("p"), found).sample();
        assert_eq!(sample.children[0], "update ConfigMap n/a, once this is ready: Job j (Missing): data.a");
    }

    #[test]
    fn what_the_version_before_is_about_to_write_is_no_change() {
        let (new, before) = (made(&[("a", "new")]), made(&[("a", "new")]));
        assert_eq!(changes(&snapshot(), &new, Some(&before)), []);
        assert_eq!(changes(&snapshot(), &made(&[("a", "live")]), None), []);
        assert_eq!(changes(&snapshot(), &new, None).len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn a_diff_is_empty_only_of_equal_bodies(a in tree(), b in tree()) {
            proptest::prop_assert_eq!(fields_between(&a, &b).is_empty(), a == b);
        }
    }

    fn tree() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![any::<bool>().prop_map(Value::from), (0..3i32).prop_map(Value::from)];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[a-c]", inner, 0..3)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }
}
