//! `transom describe`

use std::fmt::Write;

use kube::Api;
use serde_json::{Value, json};

use super::paint::Paint;
use super::plugin::Output;
use super::subject::{self, label};
use crate::api::names;
use crate::api::plugin::Plugin;
use crate::control::cluster::Cluster;
use crate::plan::contract::{ObjectRef, TypeMeta};
use crate::plan::object::Object;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    transom describe Web shop --namespace default\n  \
    transom describe Web shop -o json")]
pub struct Args {
    /// Kind of the object: `Web`, `Web.bench.dev`.
    kind: String,
    /// Name of the object.
    name: String,
    /// Namespace of the object (default: that of the kubeconfig's context).
    #[arg(long, short)]
    namespace: Option<String>,
    /// How the result looks.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = super::client().await?;
        let cluster = Cluster::new(client.clone(), None);
        let plugins = super::plugins(&Api::all(client)).await?;
        let namespace = super::namespace(self.namespace.clone()).await;
        let (ObjectRef { kind, .. }, primary) =
            subject::primary(&cluster, &plugins, &self.kind, &namespace, &self.name).await?;
        let serving = subject::serving(plugins, &kind);
        let mut children = Vec::new();
        for (kind, objects) in subject::children(&cluster, &serving, &primary.uid).await {
            match objects {
                Ok(objects) => children.extend(objects.into_iter().map(|object| (kind.clone(), object))),
                // the rest is worth showing
                Err(error) => eprintln!("{kind}: {error}"),
            }
        }
        let plugin = serving_names(&serving, &children);
        match self.output.of(&value(&kind, &primary, &children, &plugin))? {
            Some(text) => println!("{text}"),
            None => print!("{}", tree(&kind, &primary, &children, &plugin, Paint::stdout())?),
        }
        Ok(())
    }
}

/// Name and version of the plugin that made the children. Hosts split by selector can have several records for a kind;
/// without children all of them are named.
fn serving_names(serving: &[Plugin], children: &[(TypeMeta, Object)]) -> String {
    let made_by = children.iter().find_map(|(_, child)| label(child, names::PLUGIN_LABEL));
    let name = |plugin: &Plugin| plugin.metadata.name.clone().unwrap_or_default();
    let version = |plugin: &Plugin| plugin.status.as_ref().and_then(|s| s.version.clone()).unwrap_or_default();
    let chosen = serving.iter().filter(|plugin| made_by.as_ref().is_none_or(|made_by| *made_by == name(plugin)));
    chosen.map(|plugin| format!("{} {}", name(plugin), version(plugin))).collect::<Vec<_>>().join(", ")
}

/// What the tree shows, for programs.
fn value(kind: &TypeMeta, primary: &Object, children: &[(TypeMeta, Object)], plugin: &str) -> Value {
    let body = primary.value();
    let child = |(kind, child): &(TypeMeta, Object)| {
        json!({
            "apiVersion": kind.api_version, "kind": kind.kind, "namespace": child.namespace, "name": child.name,
            "health": health(&child.value(), child.deleting),
        })
    };
    json!({
        "apiVersion": kind.api_version, "kind": kind.kind, "namespace": primary.namespace, "name": primary.name,
        "plugin": plugin, "generation": primary.generation, "deleting": primary.deleting,
        "observedGeneration": body.pointer("/status/observedGeneration"), "conditions": list(&body, "/status/conditions"),
        "children": children.iter().map(child).collect::<Vec<_>>(),
    })
}

fn tree(
    kind: &TypeMeta,
    primary: &Object,
    children: &[(TypeMeta, Object)],
    plugin: &str,
    paint: Paint,
) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let value = primary.value();
    let generation = value.pointer("/status/observedGeneration").and_then(Value::as_i64).unwrap_or_default();
    writeln!(out, "{}", paint.head(&format!("{} {}/{}", kind.kind, primary.namespace, primary.name)))?;
    writeln!(out, "  plugin:     {plugin}")?;
    writeln!(out, "  generation: {} (status speaks of {generation})", primary.generation)?;
    if primary.deleting {
        writeln!(out, "  deleting:   yes")?;
    }
    writeln!(out, "  conditions:")?;
    for condition in list(&value, "/status/conditions") {
        let text = |field: &str| condition.get(field).and_then(Value::as_str).unwrap_or_default();
        let status = paint.condition(text("type"), &format!("{:<8}", text("status")));
        writeln!(out, "    {:<20} {status} {:<20} {}", text("type"), text("reason"), text("message"))?;
    }
    writeln!(out, "  children:")?;
    for (i, (kind, child)) in children.iter().enumerate() {
        let branch = if i + 1 == children.len() { "└─" } else { "├─" };
        let health = paint.state(&health(&child.value(), child.deleting));
        writeln!(out, "    {branch} {:<14} {:<40} {health}", kind.kind, child.name)?;
    }
    Ok(out)
}

fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// One line about an object, from the conditions and counts that its kind has.
pub(super) fn health(value: &Value, deleting: bool) -> String {
    if deleting {
        return "being deleted".into();
    }
    let number = |path: &str| value.pointer(path).and_then(Value::as_i64);
    if let Some(wanted) = number("/spec/replicas") {
        let ready = number("/status/readyReplicas").unwrap_or_default();
        return format!("{ready}/{wanted} ready");
    }
    let truth = |wanted: &str| {
        list(value, "/status/conditions")
            .iter()
            .any(|c| c.get("type").and_then(Value::as_str) == Some(wanted) && c.get("status") == Some(&"True".into()))
    };
    for condition in ["Failed", "Complete", "Ready", "Available"] {
        if truth(condition) {
            return condition.to_lowercase();
        }
    }
    if let Some(phase) = value.pointer("/status/phase").and_then(Value::as_str) {
        return phase.into();
    }
    if list(value, "/status/conditions").is_empty() { "exists".into() } else { "in progress".into() }
}
