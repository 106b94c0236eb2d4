//! From live objects to the request that a plugin is called with.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::contract::{Answered, Delivery, Manifest, ObjectId, ObjectRef, Observed, Request, TypeMeta};
use super::object::{Fields, Object, push_field, push_name};

/// Live children of one primary by identity, so that every use sees each of them once, and in the same order. The
/// reference of each has the version that it was read in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Children(BTreeMap<ObjectId, (ObjectRef, Arc<Object>)>);

impl Children {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts in a child, unless the same object is there, in whatever version.
    pub fn insert(&mut self, reference: ObjectRef, object: Arc<Object>) {
        self.0.entry(reference.id()).or_insert((reference, object));
    }

    /// The object that a reference means, in whatever version it was read.
    #[must_use]
    pub fn get(&self, reference: &ObjectRef) -> Option<&Arc<Object>> {
        self.find(reference).map(|(_, object)| object)
    }

    /// As [`get`](Self::get), with a reference that has the version that it was read in.
    #[must_use]
    pub fn find(&self, reference: &ObjectRef) -> Option<(&ObjectRef, &Arc<Object>)> {
        self.0.get(&reference.id()).map(|(reference, object)| (reference, object))
    }

    /// All of them, by group, kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectRef, &Arc<Object>)> {
        self.0.values().map(|(reference, object)| (reference, object))
    }

    /// Without the objects.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectRef> {
        self.0.values().map(|(reference, _)| reference)
    }

    /// Without the references.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.0.values().map(|(_, object)| object)
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(ObjectRef, Arc<Object>)> for Children {
    /// Of several versions of one object the first is kept.
    fn from_iter<I: IntoIterator<Item = (ObjectRef, Arc<Object>)>>(objects: I) -> Self {
        let mut children = Self::new();
        objects.into_iter().for_each(|(reference, object)| children.insert(reference, object));
        children
    }
}

impl<const N: usize> From<[(ObjectRef, Arc<Object>); N]> for Children {
    fn from(objects: [(ObjectRef, Arc<Object>); N]) -> Self {
        objects.into_iter().collect()
    }
}

/// Is the namespace of this name one of these children?
#[must_use]
pub fn owns_namespace(children: &Children, name: &str) -> bool {
    children.keys().any(|child| child.is_namespace(name))
}

/// All that a reconcile starts from.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Kind of the primary.
    pub kind: TypeMeta,
    /// The primary.
    pub primary: Arc<Object>,
    /// Objects that carry its UID as owner.
    pub children: Children,
    /// `spec.config` of the plugin record, `{}` when there is none.
    pub config: String,
}

impl Snapshot {
    /// Reference to the primary.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        self.primary.reference(&self.kind)
    }

    /// The first request of a reconcile, with the answers of the last one; the results of calls are put in by whoever
    /// made them.
    #[must_use]
    pub fn request(&self, manifest: &Manifest, answers: Vec<Answered>) -> Request {
        let delivery = |kind: &TypeMeta| manifest.delivery(kind).unwrap_or(Delivery::Metadata);
        Request {
            object: primary_text(&self.kind, &self.primary),
            deleting: self.primary.deleting,
            children: self
                .children
                .iter()
                .map(|(object_ref, object)| Observed {
                    object: object.deliver(&object_ref.kind, delivery(&object_ref.kind)),
                    object_ref: object_ref.clone(),
                })
                .collect(),
            answers,
            calls: Vec::new(),
            refusals: Vec::new(),
            config: self.config.clone(),
            round: 0,
        }
    }
}

impl Snapshot {
    /// Digest of all that a reconcile rests on, beside the version of the plugin: what the plugin is shown, and the
    /// children as they live. Equal inputs have equal plans, and nothing to be written if there was nothing before.
    #[must_use]
    pub fn digest(&self, request: &Request) -> [u8; 32] {
        use std::hash::Hash as _;
        let mut hasher = Digester(Sha256::new());
        (&self.primary.uid, self.primary.generation, self.primary.deleting, self.primary.finalizer).hash(&mut hasher);
        (&request.object, &request.config, &request.answers, &request.calls, &request.refusals).hash(&mut hasher);
        for (object_ref, object) in self.children.iter() {
            (object_ref, &object.uid, &object.json).hash(&mut hasher);
        }
        hasher.0.finalize().into()
    }
}

/// SHA-256 for whatever can be hashed.
struct Digester(Sha256);

impl std::hash::Hasher for Digester {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Not what this is for.
    fn finish(&self) -> u64 {
        0
    }
}

/// The primary without what is derived from plans (`status.conditions`, `status.observedGeneration`): a plan must not
/// rest on what the host made of the one before.
fn primary_text(kind: &TypeMeta, primary: &Object) -> String {
    let full = primary.deliver(kind, Delivery::Full);
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(&full) else {
        return full;
    };
    let Some((_, status)) = fields.0.iter().find(|(name, _)| name == "status") else {
        return full;
    };
    let kept = serde_json::from_str::<Fields<'_>>(status.get()).unwrap_or_default();
    let mut out = String::with_capacity(full.len());
    out.push('{');
    for (name, value) in fields.0.iter().filter(|(name, _)| name != "status") {
        push_field(&mut out, name, value);
    }
    let mut inner = String::from("{");
    for (name, value) in kept.0.iter().filter(|(name, _)| name != "conditions" && name != "observedGeneration") {
        push_field(&mut inner, name, value);
    }
    inner.push('}');
    if inner.len() > 2 {
        push_name(&mut out, "status");
        out.push_str(&inner);
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::super::contract::{Answer, Lookup, Value};
    use super::*;

    fn snapshot(child: &str) -> Snapshot {
        let kind = TypeMeta::new("g/v1", "K");
        let primary = Object::parse(r#"{"metadata":{"name":"a","uid":"u"},"spec":{}}"#).unwrap();
        let child = Object::parse(child).unwrap();
        let children = [(child.reference(&TypeMeta::new("v1", "ConfigMap")), Arc::new(child))].into();
        Snapshot { kind, primary: Arc::new(primary), children, config: "{}".into() }
    }

    fn digest(snapshot: &Snapshot, answers: &[&str]) -> [u8; 32] {
        let answer = |text: &&str| Answered {
            lookup: Lookup::Clock { seconds: 1 },
            answer: Answer::Found(Value::Object((*text).to_owned())),
        };
        let request = Request {
            object: "{}".into(),
            deleting: false,
            children: vec![],
            answers: answers.iter().map(answer).collect(),
            calls: vec![],
            refusals: vec![],
            config: "{}".into(),
            round: 0,
        };
        snapshot.digest(&request)
    }

    #[test]
    fn the_digest_changes_with_what_a_plan_rests_on_and_with_nothing_else() {
        let live = r#"{"metadata":{"name":"c","resourceVersion":"1","managedFields":[]},"data":{"a":"1"}}"#;
        let same = r#"{"metadata":{"name":"c","resourceVersion":"9","managedFields":[{}]},"data":{"a":"1"}}"#;
        let first = digest(&snapshot(live), &["x"]);
        assert_eq!(first, digest(&snapshot(same), &["x"]));
        assert_ne!(first, digest(&snapshot(&live.replace("\"1\"}}", "\"2\"}}")), &["x"]), "a child");
        assert_ne!(first, digest(&snapshot(live), &["y"]), "an answer");
        assert_ne!(digest(&snapshot(live), &["x", "y"]), digest(&snapshot(live), &["xy"]), "where one ends");
    }

    #[test]
    fn the_plugin_does_not_see_what_the_host_derived() {
        let primary = Object::parse(
            r#"{"metadata":{"name":"a","resourceVersion":"1"},"spec":{"x":1},
                "status":{"conditions":[{"type":"Ready"}],"observedGeneration":3,"own":"kept"}}"#,
        )
        .unwrap();
        assert_eq!(
            primary_text(&TypeMeta::new("g/v1", "K"), &primary),
            r#"{"apiVersion":"g/v1","kind":"K","metadata":{"name":"a"},"spec":{"x":1},"status":{"own":"kept"}}"#
        );
    }
}
