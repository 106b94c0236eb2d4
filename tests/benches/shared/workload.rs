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
            let reference = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": owner.name, "uid": owner.uid,
                "controller": true, "blockOwnerDeletion": true });
            metadata.insert("ownerReferences".into(), json!([reference]));
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
        Ok((format!("{}/{name}", served.collection(namespace)), object.to_string()))
    }
}

/// Whom the bare client's children belong to.
pub(crate) struct Owner {
    pub(crate) name: String,
    pub(crate) uid: String,
}
