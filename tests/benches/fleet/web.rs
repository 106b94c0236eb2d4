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

/// Path and JSON text of each child of one primary, from the plugin's own function: exactly what the host applies, less
/// the labels and the owner reference that it adds.
pub(crate) fn children(namespace: &str, index: usize) -> Result<Vec<(String, String)>> {
    let mut primary = primary(namespace, index);
    if let Some(Value::Object(metadata)) = primary.get_mut("metadata") {
        metadata.insert("uid".into(), format!("8a5c2f9e-0000-4000-8000-{index:012}").into());
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
    plan.children.into_iter().map(|child| located(namespace, child.object)).collect()
}

fn located(namespace: &str, text: String) -> Result<(String, String)> {
    let object: Value = serde_json::from_str(&text)?;
    let field = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(ToOwned::to_owned);
    let (kind, name) = field("/kind").zip(field("/metadata/name")).context("a child without kind or name")?;
    let served = CHILDREN.iter().find(|known| known.kind == kind).ok_or_else(|| anyhow!("an unexpected {kind}"))?;
    Ok((format!("{}/{name}", served.collection(namespace)), text))
}
