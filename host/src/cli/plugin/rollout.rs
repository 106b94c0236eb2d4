//! `transom plugin plan | approve | abort | rollback`: new versions of plugins that are on their way.
//!
//! Wishes are an annotation of the record that names the attempt, so that whoever may edit the record may let a version in,
//! and an old wish means nothing for the next version.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context, bail};
use http_body_util::BodyExt;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::Output;
use crate::api::names::ROLLOUT_ANNOTATION;
use crate::api::plugin::{Plugin, PluginStatus};
use crate::api::rollout::{PlanStatus, REPLACED, RolloutState, RolloutStatus, VersionSpec};
use crate::cli::paint::Paint;
use crate::cli::record::DEFAULT_HOST;
use crate::record::serve;
use crate::registry::rollout::change::{FieldChange, ObjectChange};
use crate::registry::rollout::plan::FullPlan;

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Shows what the newest version of a plugin changes: every object and field, without values of Secrets.
    Plan(PlanArgs),
    /// Lets a version that waits, or was stopped by a gate, go on by one step.
    #[command(after_help = "Example: transom plugin approve web")]
    Approve(Name),
    /// Takes a version back that does not serve all objects yet.
    #[command(after_help = "Example: transom plugin abort web")]
    Abort(Name),
    /// Goes back to the version that served before, at once.
    Rollback(RollbackArgs),
}

/// Which plugin.
#[derive(Debug, clap::Args)]
pub struct Name {
    /// Name of the Plugin record.
    name: String,
}

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  transom plugin plan web\n  transom plugin plan web -o json")]
pub struct PlanArgs {
    #[command(flatten)]
    plugin: Name,
    /// Where the host serves its plans: `kubectl port-forward` brings the 8081 of its pod here.
    #[arg(long, value_name = "ADDRESS", env = "TRANSOM_HOST", default_value_t = DEFAULT_HOST)]
    host: SocketAddr,
    /// How the result looks.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

/// Arguments of `rollback`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  transom plugin rollback web\n  transom plugin rollback web --to sha256:0123456789ab"
)]
pub struct RollbackArgs {
    #[command(flatten)]
    plugin: Name,
    /// Digest or revision of a version in the history; by default the one that served last.
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
}

/// Field manager of what a person says about a roll-out.
pub(super) const MANAGER: &str = "transom-cli";

impl Command {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = crate::cli::client().await?;
        let api = Api::<Plugin>::all(client);
        let said = match self {
            Self::Plan(args) => args.run(&api).await?,
            Self::Approve(name) => {
                let attempt = attempt(&name.read(&api).await?)?;
                if attempt.state == RolloutState::Baking {
                    bail!("step {} of {} is being watched: nothing waits for an approval", attempt.step, attempt.steps);
                }
                name.wish(&api, json!({}), &format!("approve {} {}", attempt.id, attempt.step)).await?;
                format!("version {} goes on from step {} of {}\n", attempt.version, attempt.step, attempt.steps)
            }
            Self::Abort(name) => {
                let attempt = attempt(&name.read(&api).await?)?;
                name.wish(&api, json!({}), &format!("abort {}", attempt.id)).await?;
                format!("version {} is taken back\n", attempt.version)
            }
            Self::Rollback(args) => args.run(&api).await?,
        };
        print!("{said}");
        Ok(())
    }
}

impl Name {
    async fn read(&self, api: &Api<Plugin>) -> anyhow::Result<Plugin> {
        super::show::find(api, &self.name).await
    }

    async fn wish(&self, api: &Api<Plugin>, spec: Value, wish: &str) -> anyhow::Result<()> {
        let mut patch = json!({ "metadata": { "annotations": { ROLLOUT_ANNOTATION: wish } } });
        if spec != json!({})
            && let Some(fields) = patch.as_object_mut()
        {
            fields.insert("spec".into(), spec);
        }
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        api.patch(&self.name, &params, &Patch::Merge(&patch)).await.context("cannot edit the Plugin record")?;
        Ok(())
    }
}

fn status(plugin: &Plugin) -> PluginStatus {
    plugin.status.clone().unwrap_or_default()
}

/// The version that is on its way.
fn attempt(plugin: &Plugin) -> anyhow::Result<RolloutStatus> {
    let status = status(plugin);
    let wanted = VersionSpec::of(&plugin.spec).revision();
    let attempt = status.rollout.filter(|attempt| attempt.revision == wanted && !attempt.state.is_over());
    attempt.with_context(|| match status.version {
        Some(version) => format!("no version is on its way; version {version} serves all objects"),
        None => "no version is on its way, and none serves".into(),
    })
}

impl RollbackArgs {
    async fn run(&self, api: &Api<Plugin>) -> anyhow::Result<String> {
        let plugin = self.plugin.read(api).await?;
        let target = target(&plugin, self.to.as_deref())?;
        let revision = target.revision();
        // null takes a field out that the other version did not have
        let mut spec = json!({ "digest": null, "signature": null, "config": null, "limits": null, "endpoints": null, "engines": null });
        if let (Some(spec), Value::Object(fields)) = (spec.as_object_mut(), serde_json::to_value(&target)?) {
            spec.extend(fields);
        }
        // as well in a source, of which there is exactly one
        if let (Value::Object(now), Some(source)) =
            (serde_json::to_value(&plugin.spec.source)?, spec.pointer_mut("/source").and_then(Value::as_object_mut))
        {
            for other in now.keys().filter(|name| !source.contains_key(*name)).cloned().collect::<Vec<_>>() {
                source.insert(other, Value::Null);
            }
        }
        self.plugin.wish(api, spec, &format!("immediate {revision}")).await?;
        let component = target.digest.as_deref().unwrap_or("the version before");
        Ok(format!("the record asks for {component} again\n"))
    }
}

/// The version to go back to.
fn target(plugin: &Plugin, to: Option<&str>) -> anyhow::Result<VersionSpec> {
    let status = status(plugin);
    let wanted = VersionSpec::of(&plugin.spec).revision();
    let serving = status.serving.clone().filter(|serving| serving.revision() != wanted);
    let attempt = status.rollout.as_ref().filter(|attempt| attempt.revision == wanted);
    if let (None, Some(attempt)) = (to, attempt)
        && !attempt.state.is_over()
        && attempt.step > 0
    {
        bail!("version {} is on its way: abort it", attempt.version);
    }
    if let (None, Some(serving)) = (to, serving) {
        return Ok(serving); // the record asks for a version that was not let in
    }
    let is_meant = |digest: &str, revision: &str, reason: &str| match to {
        Some(to) => to == digest || to == revision || digest.strip_prefix("sha256:").is_some_and(|d| d.starts_with(to)),
        None => reason == REPLACED,
    };
    let entry = status.history.iter().find(|entry| is_meant(&entry.digest, &entry.revision, &entry.reason));
    let entry = entry.context("the history has no such version")?;
    // what a tag stood for then
    let spec = entry.spec.clone().map(|spec| VersionSpec { digest: Some(entry.digest.clone()), ..spec });
    spec.with_context(|| format!("the history does not have what the record said of {}: edit the record", entry.digest))
}

impl PlanArgs {
    async fn run(&self, api: &Api<Plugin>) -> anyhow::Result<String> {
        let plugin = self.plugin.read(api).await?;
        let status = status(&plugin);
        let Some(summary) = &status.plan else {
            return Ok("no version of this plugin was planned: the first one is not\n".into());
        };
        let (full, why) = match self.full(summary).await {
            Ok(full) => (full, None),
            Err(error) => (FullPlan { summary: summary.clone(), objects: Vec::new() }, Some(format!("{error:#}"))),
        };
        if let Some(text) = self.output.of(&full)? {
            return Ok(text + "\n");
        }
        let mut text = state(&status);
        numbers(&mut text, &full.summary);
        match why {
            None => full.objects.iter().for_each(|change| object(&mut text, change, Paint::stdout())),
            Some(why) => samples(&mut text, summary, &why),
        }
        Ok(text)
    }

    /// With all objects, from the host.
    async fn full(&self, summary: &PlanStatus) -> anyhow::Result<FullPlan> {
        let host = self.host;
        let client = kube::Client::try_from(kube::Config::new(format!("http://{host}").parse()?))?;
        let path = serve::plan_path(&self.plugin.name);
        let request = http::Request::get(path).body(kube::client::Body::empty())?;
        let response = client.send(request).await.with_context(|| {
            format!("no host serves plans on {host}: kubectl port-forward to 8081 of its pod, or name it by --host")
        })?;
        let (head, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await?.to_bytes().into())?;
        if !head.status.is_success() {
            bail!("{host} answers {}: {text}", head.status);
        }
        let full: FullPlan = serde_json::from_str(&text).with_context(|| format!("{host} answers no plan"))?;
        if full.summary != *summary {
            bail!("{host} is the host of another cluster, or has just made another plan");
        }
        Ok(full)
    }
}

/// What the newest version of a plugin changes, for people, as `transom plugin plan` shows it.
pub(in crate::cli) async fn plan(api: &Api<Plugin>, name: &str, host: SocketAddr) -> anyhow::Result<String> {
    PlanArgs { plugin: Name { name: name.into() }, host, output: Output::Text }.run(api).await
}

/// Where the version is.
fn state(status: &PluginStatus) -> String {
    let version = status.version.as_deref().unwrap_or("none");
    match &status.rollout {
        None => format!("version {version} serves all objects\n"),
        Some(RolloutStatus { version: new, state, step, steps, objects, message, .. }) => format!(
            "version {new}: {state:?}, step {step} of {steps}, serves {objects} objects; version {version} serves the rest\n\
             {message}\n"
        ),
    }
}

fn numbers(text: &mut String, plan: &PlanStatus) {
    let PlanStatus { digest, objects, unchanged, changed, failed, failing, unknown, not_ready, immutable, .. } = plan;
    // a String takes everything
    let _ = writeln!(text, "plan of {digest}");
    let _ = writeln!(
        text,
        "{objects} objects: {unchanged} unchanged, {changed} changed, {failed} failed, {failing} failing before and after, \
         {unknown} unknown; {not_ready} no longer Ready"
    );
    for kind in &plan.children {
        let counts = [
            ("created", kind.created),
            ("updated", kind.updated),
            ("replaced", kind.replaced),
            ("deleted", kind.pruned),
            ("released", kind.released),
            ("held, and would change later", kind.later),
        ];
        let counts: Vec<String> =
            counts.into_iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")).collect();
        let _ = writeln!(text, "{}: {}", kind.kind.kind, counts.join(", "));
    }
    if *immutable > 0 {
        let _ = writeln!(text, "{immutable} children have fields that cannot be changed");
    }
}

fn object(text: &mut String, change: &ObjectChange, paint: Paint) {
    let colon = if change.message.is_empty() { "" } else { ": " };
    let _ = writeln!(text, "\n{} {}{colon}{}", paint.state(change.outcome.word()), change.object, change.message);
    for child in &change.children {
        let _ = writeln!(text, "  {} {}{}", paint.state(child.verb.word()), child.child, child.later());
        for FieldChange { path, before, after } in &child.fields {
            let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "none".into(), Value::to_string);
            let values = match (before, after) {
                (None, None) => String::new(),
                _ => format!(": {} -> {}", shown(before), shown(after)),
            };
            let fixed = if child.immutable.contains(path) { " (cannot be changed)" } else { "" };
            let _ = writeln!(text, "    {path}{fixed}{values}");
        }
    }
}

/// What the record has, when the host cannot be asked.
fn samples(text: &mut String, plan: &PlanStatus, why: &str) {
    let _ = writeln!(text, "\nthe first {} (all are known to the host only: {why})", plan.samples.len());
    for sample in &plan.samples {
        let colon = if sample.message.is_empty() { "" } else { ": " };
        let _ = writeln!(text, "\n{} {}{colon}{}", sample.outcome, sample.object, sample.message);
        for child in &sample.children {
            let _ = writeln!(text, "  {child}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(digest: &str, status: Value) -> Plugin {
        serde_json::from_value(json!({
            "apiVersion": "transom.dev/v1alpha1", "kind": "Plugin", "metadata": {"name": "p"},
            "spec": {"source": {"file": {"path": "/p.wasm"}}, "digest": format!("sha256:{}", digest.repeat(64))}, "status": status,
        }))
        .unwrap()
    }

    fn spec(digest: &str) -> VersionSpec {
        VersionSpec::of(&record(digest, json!({})).spec)
    }

    fn entry(digest: &str, reason: &str) -> Value {
        let spec = spec(digest);
        json!({"digest": spec.digest, "version": "1", "revision": spec.revision(), "reason": reason, "spec": spec})
    }

    #[test]
    fn back_is_the_version_that_served_last() {
        let status = json!({"serving": spec("c"), "history": [entry("b", "RolledBack"), entry("a", REPLACED)]});
        assert_eq!(target(&record("c", status.clone()), None).unwrap(), spec("a"));
        let named = target(&record("c", status.clone()), Some(&"b".repeat(12))).unwrap();
        assert_eq!(named, spec("b"), "one that is named may be any");
        assert!(target(&record("c", status), Some("sha256:d")).is_err());
    }

    #[test]
    fn back_from_a_version_that_was_not_let_in_is_the_one_that_serves() {
        let status = json!({"serving": spec("a"), "history": [entry("x", REPLACED)]});
        assert_eq!(target(&record("b", status), None).unwrap(), spec("a"));
    }

    #[test]
    fn nothing_waits_when_nothing_is_on_its_way() {
        let error = attempt(&record("a", json!({"version": "1.0"}))).unwrap_err();
        assert_eq!(error.to_string(), "no version is on its way; version 1.0 serves all objects");
    }
}
