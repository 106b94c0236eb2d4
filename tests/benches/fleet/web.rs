//! The primaries, and the children that their plugin makes of them.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use transom_plugin_web::WebPlugin;
use transom_sdk::testing::{call, wire};

use crate::api::CHILDREN;

pub(crate) fn name(index: usize) -> String {
    format!("web-{index:05}")
}

/// A `Web` to be created.
pub(crate) fn primary(namespace: &str, index: usize) -> Value {
    json!({
        "apiVersion": "bench.dev/v1",
        "kind": "Web",
        "metadata": { "name": name(index), "namespace": namespace },
        "spec": { "image": "registry.example/web:1.0.0", "replicas": 1 },
    })
}

/// Path and JSON text of each child of one primary, from the plugin's own function.
///
/// They are what the host applies in size and in the work that they make for the control plane: with two labels and an
/// annotation as long as the host's, and owned by an object that exists (the garbage collector looks at owners).
pub(crate) fn children(namespace: &str, index: usize, owner: &Owner) -> Result<Vec<(String, String)>> {
    let mut primary = primary(namespace, index);
    if let Some(Value::Object(metadata)) = primary.get_mut("metadata") {
        metadata.insert("uid".into(), owner.uid.clone().into());
        metadata.insert("generation".into(), 1.into());
    }
    let request = wire::Request {
        object: primary.to_string(),
        deleting: false,
        children: Vec::new(),
        answers: Vec::new(),
        calls: Vec::new(),
        config: "{}".into(),
        round: 0,
        ext: Vec::new(),
    };
    let plan = match call::<WebPlugin>(request) {
        Ok(wire::Step::Done(plan)) => plan,
        other => bail!("the plugin made no plan: {other:?}"),
    };
    plan.children.into_iter().map(|child| located(namespace, &child.object, owner)).collect()
}

/// Whom the bare client's children belong to.
pub(crate) struct Owner {
    pub(crate) name: String,
    pub(crate) uid: String,
}

fn located(namespace: &str, text: &str, owner: &Owner) -> Result<(String, String)> {
    let mut object: Value = serde_json::from_str(text)?;
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        let reference = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": owner.name, "uid": owner.uid,
            "controller": true, "blockOwnerDeletion": true });
        metadata.insert("ownerReferences".into(), json!([reference]));
        let digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        metadata.insert("annotations".into(), json!({ "bench.dev/applied": digest }));
        if let Some(Value::Object(labels)) = metadata.get_mut("labels") {
            labels.insert("bench.dev/owner-uid".into(), owner.uid.clone().into());
            labels.insert("bench.dev/plugin".into(), "web".into());
        }
    }
    let field = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(ToOwned::to_owned);
    let (kind, name) = field("/kind").zip(field("/metadata/name")).context("a child without kind or name")?;
    let served = CHILDREN.iter().find(|known| known.kind == kind).ok_or_else(|| anyhow!("an unexpected {kind}"))?;
    Ok((format!("{}/{name}", served.collection(namespace)), object.to_string()))
}
