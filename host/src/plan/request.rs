//! From live objects to the request that a plugin is called with.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::contract::{Answered, Delivery, Manifest, ObjectRef, Observed, Request, TypeMeta};
use super::object::{Fields, Object, push_string};

/// Live children of one primary by reference, so that every use sees them in the same order.
pub type Children = BTreeMap<ObjectRef, Arc<Object>>;

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

    /// The first request of a reconcile, with the answers of the last one.
    #[must_use]
    pub fn request(&self, manifest: &Manifest, answers: Vec<Answered>) -> Request {
        let delivery = |kind: &TypeMeta| {
            manifest.children.iter().find(|(declared, _)| declared == kind).map_or(Delivery::Metadata, |(_, d)| *d)
        };
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
            config: self.config.clone(),
            round: 0,
        }
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
    let field = |out: &mut String, name: &str, text: &str| {
        if !out.ends_with('{') {
            out.push(',');
        }
        push_string(out, name);
        out.push(':');
        out.push_str(text);
    };
    for (name, value) in fields.0.iter().filter(|(name, _)| name != "status") {
        field(&mut out, name, value.get());
    }
    let mut inner = String::from("{");
    for (name, value) in kept.0.iter().filter(|(name, _)| name != "conditions" && name != "observedGeneration") {
        field(&mut inner, name, value.get());
    }
    inner.push('}');
    if inner.len() > 2 {
        field(&mut out, "status", &inner);
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

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
