//! Primaries, and the children that their plugin makes of them.

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use super::api::Kind;

/// Primaries of one kind, all alike.
pub(crate) struct Workload {
    /// Of its record, and of its component.
    pub(crate) plugin: &'static str,
    pub(crate) primaries: Kind,
    pub(crate) children: &'static [Kind],
    /// How many of them each primary has.
    pub(crate) per_primary: usize,
    /// The children of each primary are in a namespace of its own, which is one of them: see `own_namespace`.
    pub(crate) own_namespaces: bool,
    /// A primary to be created.
    pub(crate) primary: fn(namespace: &str, name: &str, index: usize) -> Value,
    /// The children of this primary, which is as the API server has it, by the plugin's own function.
    pub(crate) plan: fn(primary: &Value, index: usize) -> Result<Vec<Value>>,
}

impl Workload {
    /// Of a primary.
    pub(crate) fn name(&self, index: usize) -> String {
        format!("{}-{index:05}", self.plugin)
    }

    /// To which primary a child or primary of this name belongs.
    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        name.strip_prefix(self.plugin)?.strip_prefix('-')?.get(..5)?.parse().ok()
    }

    /// To which primary in `namespace` this child belongs; none for what others put beside the children.
    pub(crate) fn index_of(&self, namespace: &str, child: &Child<'_>) -> Option<usize> {
        if !self.own_namespaces {
            return self.index(child.name);
        }
        let own = child.namespace.unwrap_or(child.name);
        let index = own.rsplit_once('-')?.1.parse().ok()?;
        (child.is_marked && own == own_namespace(namespace, index)).then_some(index)
    }

    /// Where children of this kind are watched.
    pub(crate) fn watched(&self, kind: &Kind, namespace: &str) -> String {
        if self.own_namespaces { kind.everywhere() } else { kind.collection(namespace) }
    }

    /// A `primary` to be created.
    pub(crate) fn primary(&self, namespace: &str, index: usize) -> Value {
        (self.primary)(namespace, &self.name(index), index)
    }

    /// Path and JSON text of each child of one primary.
    ///
    /// They are what the host applies in size and in the work that they make for the control plane: with two labels and
    /// an annotation as long as the host's, and owned by an object that exists (the garbage collector looks at owners).
    pub(crate) fn children(&self, namespace: &str, index: usize, owner: &Owner) -> Result<Vec<(String, String)>> {
        let mut primary = self.primary(namespace, index);
        if let Some(Value::Object(metadata)) = primary.get_mut("metadata") {
            metadata.insert("uid".into(), owner.uid.clone().into());
            metadata.insert("generation".into(), 1.into());
        }
        let children = (self.plan)(&primary, index)?;
        children.into_iter().map(|child| self.located(namespace, child, owner)).collect()
    }

    fn located(&self, namespace: &str, mut object: Value, owner: &Owner) -> Result<(String, String)> {
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            if !self.own_namespaces {
                let reference = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": owner.name,
                    "uid": owner.uid, "controller": true, "blockOwnerDeletion": true });
                metadata.insert("ownerReferences".into(), json!([reference]));
            }
            let digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
            metadata.insert("annotations".into(), json!({ "bench.dev/applied": digest }));
            if let Some(Value::Object(labels)) = metadata.get_mut("labels") {
                labels.insert("bench.dev/owner-uid".into(), owner.uid.clone().into());
                labels.insert("bench.dev/plugin".into(), self.plugin.into());
            }
        }
        let field = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(ToOwned::to_owned);
        let (kind, name) = field("/kind").zip(field("/metadata/name")).context("a child without kind or name")?;
        let served = self.children.iter().find(|known| known.kind == kind);
        let served = served.ok_or_else(|| anyhow!("an unexpected {kind}"))?;
        let collection = match field("/metadata/namespace").filter(|_| self.own_namespaces) {
            Some(own) => served.collection(&own),
            None if self.own_namespaces => served.everywhere(),
            None => served.collection(namespace),
        };
        Ok((format!("{collection}/{name}"), object.to_string()))
    }
}

/// The namespace for the children of one primary.
pub(crate) fn own_namespace(namespace: &str, index: usize) -> String {
    format!("{namespace}-{index:05}")
}

/// What tells whose child an object is.
pub(crate) struct Child<'a> {
    pub(crate) name: &'a str,
    /// None: of the cluster.
    pub(crate) namespace: Option<&'a str>,
    /// It has the host's label of a child, or the bare client's.
    pub(crate) is_marked: bool,
}

/// Whom the bare client's children belong to.
pub(crate) struct Owner {
    pub(crate) name: String,
    pub(crate) uid: String,
}
