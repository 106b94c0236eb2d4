//! `transom plugin list`, `show` and `remove`

use std::fmt::Write as _;

use anyhow::{Context, bail, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::Output;
use super::wait::said;
use crate::api::names::{PROGRESSING, READY};
use crate::api::plugin::{Phase, Plugin, PluginStatus, Source};
use crate::api::rollout::VersionSpec;
use crate::cli::paint::Paint;
use crate::cli::{client, plugins};
use crate::control::cluster::Cluster;
use crate::plan::check::shorten;
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
        print!("{}", listed(&plugins, Paint::stdout())?);
        Ok(())
    }
}

/// Long messages are in `show`.
const MAX_WHY: usize = 200;

/// A line for each record: what serves; below it what is asked for, where that does not serve.
fn listed(plugins: &[Plugin], paint: Paint) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let head = format!("{:<24} {:<12} {:<12} {:<16} SOURCE", "NAME", "PHASE", "SERVES", "DIGEST");
    writeln!(out, "{}", paint.head(&head))?;
    for plugin in plugins {
        let status = plugin.status.clone().unwrap_or_default();
        let short = |digest: Option<&str>| digest.unwrap_or_default().chars().take(15).collect::<String>();
        let (name, phase, digest) = (plugin.name_any(), word(status.phase), short(status.digest.as_deref()));
        let version = status.version.as_deref().unwrap_or("none");
        let phase = paint.state(&format!("{phase:<12}"));
        writeln!(out, "{name:<24} {phase} {version:<12} {digest:<16} {}", source(&plugin.spec.source))?;
        let is_observed =
            status.observed_generation.unwrap_or_default() >= plugin.metadata.generation.unwrap_or_default();
        if is_observed && serves_what_it_should(&status) {
            continue;
        }
        // what the first line has said already
        let why = said(plugin);
        let why = shorten(why.trim_end_matches(&format!("; version {version} is still serving")), MAX_WHY);
        let is_other =
            status.serving.is_none_or(|serving| serving.revision() != VersionSpec::of(&plugin.spec).revision());
        match &plugin.spec.digest {
            Some(wanted) if is_other => writeln!(out, "  asked for: {}, {why}", short(Some(wanted)))?,
            None if is_other => writeln!(out, "  asked for: another version, {why}")?,
            _ => writeln!(out, "  {why}")?,
        }
    }
    Ok(out)
}

/// Does the version in the spec serve all objects? Hosts before this one say it by `Ready`.
fn serves_what_it_should(status: &PluginStatus) -> bool {
    let find = |type_: &str| status.conditions.iter().find(|condition| condition.type_ == type_);
    let is_ready = find(READY).is_some_and(|ready| ready.status == "True");
    is_ready && find(PROGRESSING).is_none_or(|progressing| progressing.reason == "Complete")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn record(wanted: &str, phase: &str, serves: bool, reason: &str, message: &str) -> Plugin {
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let source = json!({ "file": { "path": "/p.wasm" } });
        let condition = |type_: &str, status: &str, reason: &str, message: &str| {
            json!({ "type": type_, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z" })
        };
        let ready = condition("Ready", if serves { "True" } else { "False" }, "Serving", "serves Web");
        let progressing = condition("Progressing", "False", reason, message);
        let (version, served) = if serves { (json!("1.0.0"), json!(digest("a"))) } else { (json!(null), json!(null)) };
        serde_json::from_value(json!({
            "apiVersion": "transom.dev/v1alpha1", "kind": "Plugin", "metadata": { "name": "web" },
            "spec": { "source": source, "digest": digest(wanted) },
            "status": { "phase": phase, "version": version, "digest": served, "conditions": [ready, progressing],
                "serving": { "source": source, "digest": digest("a") } },
        }))
        .unwrap()
    }

    #[test]
    fn the_list_has_what_serves_and_why_what_is_asked_for_does_not() {
        let lines = |plugin: Plugin| -> Vec<String> {
            let all = listed(&[plugin], Paint::plain()).unwrap();
            all.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        };
        let serves = lines(record("a", "Ready", true, "Complete", "version 1.0.0 serves all objects"));
        assert_eq!(serves, ["web Ready 1.0.0 sha256:aaaaaaaa /p.wasm"]);
        let message = "field spec.x is used; version 1.0.0 is still serving";
        let refused = lines(record("b", "Failed", true, "IncompatibleDefinition", message));
        let why = "asked for: sha256:bbbbbbbb, IncompatibleDefinition: field spec.x is used";
        assert_eq!(refused, ["web Failed 1.0.0 sha256:aaaaaaaa /p.wasm", why]);
        let failed = lines(record("a", "Failed", false, "NotFound", "no file"));
        assert_eq!(failed, ["web Failed none /p.wasm", "NotFound: no file"]);
    }
}
