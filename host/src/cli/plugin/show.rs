//! `transom plugin list`, `show` and `remove`

use std::fmt::Write as _;

use anyhow::{Context, bail, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::Output;
use crate::api::plugin::{Phase, Plugin, Source};
use crate::cli::paint::Paint;
use crate::cli::{client, plugins};
use crate::control::cluster::Cluster;
use crate::plan::contract::TypeMeta;

/// Objects of one kind that are counted; more are told as more.
const MAX_COUNTED: u32 = 500;

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: transom plugin list")]
pub struct ListArgs {
    /// How the result looks.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: transom plugin show web -o yaml")]
pub struct ShowArgs {
    /// Name of the Plugin record.
    name: String,
    /// How the result looks.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

/// Arguments of `remove`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: transom plugin remove web --yes\n\
    The kinds, their objects and all children stay, and nobody reconciles them any more.")]
pub struct RemoveArgs {
    /// Name of the Plugin record.
    name: String,
    /// Do it; without this only what would remain is shown.
    #[arg(long)]
    yes: bool,
    /// How the result looks.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

/// The record of this name; an error names those that are there.
pub(super) async fn find(api: &Api<Plugin>, name: &str) -> anyhow::Result<Plugin> {
    if let Some(plugin) = api.get_opt(name).await.context("cannot read the Plugin record")? {
        return Ok(plugin);
    }
    let names: Vec<String> = plugins(api).await?.iter().map(ResourceExt::name_any).collect();
    match &names[..] {
        [] => bail!("there is no Plugin {name:?}, nor any other: `transom plugin install` makes one"),
        _ => bail!("there is no Plugin {name:?}; there are: {}", names.join(", ")),
    }
}

impl ListArgs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let plugins = plugins(&Api::all(client().await?)).await?;
        if let Some(text) = self.output.of(&plugins)? {
            println!("{text}");
            return Ok(());
        }
        let paint = Paint::stdout();
        let head = format!("{:<24} {:<12} {:<12} {:<16} SOURCE", "NAME", "PHASE", "VERSION", "DIGEST");
        println!("{}", paint.head(&head));
        for plugin in &plugins {
            let status = plugin.status.clone().unwrap_or_default();
            let digest: String = status.digest.unwrap_or_default().chars().take(15).collect();
            let (name, phase, version) = (plugin.name_any(), word(status.phase), status.version.unwrap_or_default());
            let phase = paint.state(&format!("{phase:<12}"));
            println!("{name:<24} {phase} {version:<12} {digest:<16} {}", source(&plugin.spec.source));
        }
        Ok(())
    }
}

fn word(phase: Phase) -> String {
    format!("{phase:?}")
}

/// In one line.
fn source(source: &Source) -> String {
    match source {
        Source { oci: Some(oci), .. } => oci.reference.clone(),
        Source { http: Some(http), .. } => http.url.clone(),
        Source { config_map: Some(map), .. } => format!("ConfigMap {}/{} {}", map.namespace, map.name, map.key),
        Source { file: Some(file), .. } => file.path.clone(),
        _ => String::new(),
    }
}

impl ShowArgs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = client().await?;
        let plugin = find(&Api::all(client.clone()), &self.name).await?;
        if let Some(text) = self.output.of(&plugin)? {
            println!("{text}");
            return Ok(());
        }
        let counts = counts(&Cluster::new(client, None), &plugin).await;
        print!("{}", shown(&plugin, &counts, Paint::stdout())?);
        Ok(())
    }
}

/// Objects of every kind that the plugin serves or has served; none where they cannot be counted.
async fn counts(cluster: &Cluster, plugin: &Plugin) -> Vec<(TypeMeta, Option<String>)> {
    let mut counts = Vec::new();
    for kind in plugin.status.iter().flat_map(|status| &status.primary_kinds) {
        let kind = kind.type_meta();
        let objects = cluster.list(&kind, None, "", MAX_COUNTED).await.ok();
        let count = objects.map(|(objects, more)| format!("{}{} objects", objects.len(), if more { "+" } else { "" }));
        counts.push((kind, count));
    }
    counts
}

fn shown(plugin: &Plugin, counts: &[(TypeMeta, Option<String>)], paint: Paint) -> Result<String, std::fmt::Error> {
    let (mut out, status) = (String::new(), plugin.status.clone().unwrap_or_default());
    writeln!(out, "{}", paint.head(&format!("Plugin {}", plugin.name_any())))?;
    writeln!(out, "  phase:    {}", paint.state(&word(status.phase)))?;
    writeln!(out, "  version:  {}", status.version.unwrap_or_else(|| "none serves".into()))?;
    writeln!(out, "  digest:   {}", status.digest.unwrap_or_default())?;
    writeln!(out, "  source:   {}", source(&plugin.spec.source))?;
    for resolved in &status.sources {
        writeln!(out, "            {} is {}", resolved.reference, resolved.manifest)?;
    }
    let keys = plugin.spec.signature.as_ref().map_or(0, |policy| policy.keys.len());
    writeln!(out, "  signed:   {}", if keys == 0 { "not asked for".into() } else { format!("by one of {keys} keys") })?;
    writeln!(out, "  kinds:")?;
    for (kind, count) in counts {
        let count = count.as_deref().unwrap_or("not readable");
        writeln!(out, "    {kind:<48} {count}")?;
    }
    writeln!(out, "  conditions:")?;
    for Condition { type_, status, reason, message, .. } in &status.conditions {
        let status = paint.condition(type_, &format!("{status:<8}"));
        writeln!(out, "    {type_:<12} {status} {reason:<20} {message}")?;
    }
    for entry in &status.history {
        writeln!(out, "  before:   {} {}", entry.version, entry.digest)?;
    }
    Ok(out)
}

impl RemoveArgs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = client().await?;
        let api = Api::<Plugin>::all(client.clone());
        let plugin = find(&api, &self.name).await?;
        let counts = counts(&Cluster::new(client, None), &plugin).await;
        let kinds: Vec<Value> = counts
            .iter()
            .map(|(kind, count)| json!({ "apiVersion": kind.api_version, "kind": kind.kind, "remain": count }))
            .collect();
        let result = self.output.of(&json!({ "plugin": self.name, "deleted": self.yes, "kinds": kinds }))?;
        if result.is_none() {
            for (kind, count) in &counts {
                let count = count.as_deref().unwrap_or("objects that cannot be counted");
                println!("{kind}: {count} stay with their children, and are not reconciled any more");
            }
            println!("the definitions of these kinds stay: `kubectl delete crd` deletes them with all their objects");
        }
        if self.yes {
            api.delete(&self.name, &DeleteParams::default()).await.context("cannot delete the Plugin record")?;
        }
        match result {
            Some(text) => println!("{text}"),
            None if self.yes => {
                println!("plugin {} is deleted, or will be when no object needs it to clean up", self.name);
            }
            None => {}
        }
        ensure!(self.yes, "nothing was deleted: call it again with --yes");
        Ok(())
    }
}
