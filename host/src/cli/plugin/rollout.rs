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
use serde::Serialize;
use serde_json::{Value, json};

use super::Output;
use super::wait::{Asked, Moved, WaitArgs, said};
use crate::api::names::ROLLOUT_ANNOTATION;
use crate::api::plugin::{Plugin, PluginStatus};
use crate::api::rollout::{HistoryEntry, PlanStatus, REPLACED, RolloutState, RolloutStatus, VersionSpec};
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
    Approve(DecideArgs),
    /// Takes a version back that does not serve all objects yet.
    #[command(after_help = "Example: transom plugin abort web")]
    Abort(DecideArgs),
    /// Goes back to the version that served before, at once, and waits until it serves.
    Rollback(RollbackArgs),
}

/// Which plugin.
#[derive(Debug, clap::Args)]
struct Name {
    /// Name of the Plugin record.
    name: String,
}

/// Arguments of `approve` and `abort`.
#[derive(Debug, clap::Args)]
pub struct DecideArgs {
    #[command(flatten)]
    plugin: Name,
    #[command(flatten)]
    wait: WaitArgs,
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
    after_help = "Examples:\n  transom plugin rollback web\n  transom plugin rollback web --to sha256:0123456789ab\n  \
    transom plugin rollback web --to 1.2.0 --no-wait"
)]
pub struct RollbackArgs {
    #[command(flatten)]
    plugin: Name,
    /// Digest (its first digits will do), revision or version of one in the history; by default the one that served last.
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Field manager of what a person says about a roll-out.
pub(super) const MANAGER: &str = "transom-cli";

impl Command {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = crate::cli::client().await?;
        let api = Api::<Plugin>::all(client);
        let said = match self {
            Self::Plan(args) => args.run(&api).await?,
            Self::Approve(DecideArgs { plugin: name, wait }) => {
                let attempt = attempt(&name.read(&api).await?)?;
                if attempt.state == RolloutState::Baking {
                    bail!("step {} of {} is being watched: nothing waits for an approval", attempt.step, attempt.steps);
                }
                name.wish(&api, json!({}), &format!("approve {} {}", attempt.id, attempt.step)).await?;
                let RolloutStatus { version, step, steps, .. } = &attempt;
                match wait.moved(&api, &name.name, &attempt).await? {
                    None => format!("version {version} goes on from step {step} of {steps}\n"),
                    Some(Moved::Serves(version)) => format!("plugin {} {version} serves\n", name.name),
                    Some(Moved::On(RolloutStatus { step, steps, objects, .. })) => {
                        format!("version {version} goes on: step {step} of {steps}, objects: {objects}\n")
                    }
                    Some(Moved::Back(RolloutStatus { message, .. })) => {
                        bail!("version {version} was rolled back: {message}")
                    }
                }
            }
            Self::Abort(DecideArgs { plugin: name, wait }) => {
                let attempt = attempt(&name.read(&api).await?)?;
                name.wish(&api, json!({}), &format!("abort {}", attempt.id)).await?;
                let version = &attempt.version;
                match wait.moved(&api, &name.name, &attempt).await? {
                    None => format!("version {version} is to be rolled back\n"),
                    Some(Moved::Back(_)) => format!("version {version} is rolled back\n"),
                    Some(Moved::Serves(_)) => bail!("version {version} serves all objects already: roll it back"),
                    Some(Moved::On(now)) => bail!("version {version} is at step {} by now: abort it again", now.step),
                }
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

    /// Returns the generation of the record.
    async fn wish(&self, api: &Api<Plugin>, spec: Value, wish: &str) -> anyhow::Result<i64> {
        let mut patch = json!({ "metadata": { "annotations": { ROLLOUT_ANNOTATION: wish } } });
        if spec != json!({})
            && let Some(fields) = patch.as_object_mut()
        {
            fields.insert("spec".into(), spec);
        }
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let patched = api.patch(&self.name, &params, &Patch::Merge(&patch)).await;
        Ok(patched.context("cannot edit the Plugin record")?.metadata.generation.unwrap_or_default())
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
        Some(version) => format!("no version is being rolled out; version {version} serves all objects"),
        None => "no version is being rolled out, and none serves".into(),
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
        let before = plugin.metadata.generation.unwrap_or_default();
        let generation = self.plugin.wish(api, spec, &format!("immediate {revision}")).await?;
        let component = target.digest.as_deref().unwrap_or("the version before");
        let asked = format!("its spec names {component} again");
        eprintln!("{asked}");
        let name = &self.plugin.name;
        let end = self.wait.end(api, name, Asked { generation, is_new: before < generation }).await?;
        Ok(end.sentence(name, &asked)? + "\n")
    }
}

/// The version to go back to.
fn target(plugin: &Plugin, to: Option<&str>) -> anyhow::Result<VersionSpec> {
    let status = status(plugin);
    let wanted = VersionSpec::of(&plugin.spec).revision();
    let serving = status.serving.clone().filter(|serving| serving.revision() != wanted);
    let attempt = status.rollout.as_ref().filter(|attempt| attempt.revision == wanted);
    if let (None, Some(attempt)) = (to, attempt)
        && attempt.serves()
    {
        bail!("version {} is on its way: abort it", attempt.version);
    }
    if let (None, Some(serving)) = (to, serving) {
        return Ok(serving); // the record asks for a version that was not let in
    }
    let entry = match to {
        None => status.history.iter().find(|entry| entry.reason == REPLACED),
        Some(to) => match named(&status, to)? {
            Some(Named::Serving(serving)) => return Ok(serving.clone()),
            Some(Named::Before(entry)) => Some(entry),
            None => None,
        },
    };
    let entry = entry.with_context(|| {
        let wanted =
            to.map_or("no version has served before this one".into(), |to| format!("there is no version {to:?}"));
        format!("{wanted}; {}", known(&status))
    })?;
    // what a tag stood for then
    let spec = entry.spec.clone().map(|spec| VersionSpec { digest: Some(entry.digest.clone()), ..spec });
    spec.with_context(|| format!("the history does not have what the record said of {}: edit the record", entry.digest))
}

/// A version that is known.
#[derive(Clone, Copy)]
enum Named<'a> {
    Serving(&'a VersionSpec),
    Before(&'a HistoryEntry),
}

/// Digits of a digest that say which one is meant.
const MIN_DIGITS: usize = 4;

/// The version with this digest, revision, version or first digits of a digest, in this order; the newest of several with
/// one digest.
fn named<'a>(status: &'a PluginStatus, to: &str) -> anyhow::Result<Option<Named<'a>>> {
    let serving = status.serving.as_ref().map(|serving| {
        // without a digest it cannot be loaded now, and is in the history as well
        let digest = status.digest.clone().or_else(|| serving.digest.clone()).unwrap_or_default();
        (digest, serving.revision(), status.version.clone().unwrap_or_default(), Named::Serving(serving))
    });
    let before = status
        .history
        .iter()
        .map(|entry| (entry.digest.clone(), entry.revision.clone(), entry.version.clone(), Named::Before(entry)));
    let all: Vec<(String, String, String, Named<'a>)> = serving.into_iter().chain(before).collect();
    let digits = to.strip_prefix("sha256:").unwrap_or(to);
    let begins = |digest: &str| digits.len() >= MIN_DIGITS && digest.trim_start_matches("sha256:").starts_with(digits);
    if let Some((.., found)) = all.iter().find(|(digest, revision, ..)| to == digest || to == revision) {
        return Ok(Some(*found));
    }
    let by_version: Vec<_> = all.iter().filter(|(_, _, version, _)| to == version).collect();
    match by_version.as_slice() {
        [] => Ok(all.iter().find(|(digest, ..)| begins(digest)).map(|(.., found)| *found)),
        [(.., found)] => Ok(Some(*found)),
        _ => bail!("{to:?} names {} versions, say which by its digest; {}", by_version.len(), known(status)),
    }
}

/// The versions that can be gone back to, for people.
fn known(status: &PluginStatus) -> String {
    let short = |digest: &str| digest.chars().take("sha256:".len() + 12).collect::<String>();
    let serving = status.version.iter().map(|version| {
        let digest = short(status.digest.as_deref().unwrap_or_default());
        format!("{version} ({digest}, serves)")
    });
    let before = status.history.iter().map(|entry| {
        let HistoryEntry { version, digest, reason, .. } = entry;
        format!("{version} ({}, {reason})", short(digest))
    });
    let known: Vec<String> = serving.chain(before).collect();
    if known.is_empty() { "none is known".into() } else { format!("known are: {}", known.join(", ")) }
}

/// What a plan is worth by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Standing {
    /// It is of the version that the record asks for, and that does not serve all objects yet.
    Present,
    /// Of the version that serves: what it has changed, when it was let in.
    Past,
    /// Of a version that was taken back, and that the record still asks for.
    TakenBack,
    /// There is none of the version that the record asks for.
    None,
}

/// A plan as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    standing: Standing,
    /// The same for people.
    note: String,
    /// None when it is not of the version that the record asks for.
    #[serde(flatten)]
    plan: Option<FullPlan>,
}

/// What the last plan is worth, and why.
fn standing(plugin: &Plugin) -> (Standing, String) {
    let status = status(plugin);
    let others = match &status.version {
        Some(version) => format!("version {version} serves all objects"),
        None => "no version serves".into(),
    };
    let wanted = VersionSpec::of(&plugin.spec).revision();
    let serves_wanted = status.serving.as_ref().is_some_and(|serving| serving.revision() == wanted);
    let is_seen = status.observed_generation.unwrap_or_default() >= plugin.metadata.generation.unwrap_or_default();
    let at = |plan: &PlanStatus| plan.at.as_ref().map_or_else(|| "an unknown time".into(), |at| at.0.to_string());
    let Some(plan) = status.plan.as_ref().filter(|plan| plan.revision == wanted) else {
        let digest = plugin.spec.digest.as_deref().map(|digest| format!(" ({digest})")).unwrap_or_default();
        let why = if !is_seen {
            format!("the record asks for a version{digest} that no host has looked at yet")
        } else if serves_wanted {
            format!("{others}. It was promoted without a plan, as the first version and roll-backs are")
        } else {
            format!("{others}. The spec names another one{digest}: {}", said(plugin))
        };
        let old = status.plan.as_ref().map(|old| format!(", and the one of {} ({}) is old", at(old), old.digest));
        return (Standing::None, format!("{why}.\nthere is no plan of it{}", old.unwrap_or_default()));
    };
    let attempt = status.rollout.as_ref().filter(|attempt| attempt.revision == wanted);
    match attempt {
        Some(RolloutStatus { version: new, state, message, .. }) if state.is_over() => {
            let note = format!(
                "version {new} was rolled back ({state:?}: {message}); {others}.\n\
                 what it would have changed, by the plan of {}:",
                at(plan)
            );
            (Standing::TakenBack, note)
        }
        None if serves_wanted => {
            let note = format!("{others}.\nwhat it has changed, by the plan of {}:", at(plan));
            (Standing::Past, note)
        }
        // it was planned, and could not be loaded later
        None => (Standing::Present, format!("{others}; {}", said(plugin))),
        Some(RolloutStatus { version: new, state, step, steps, objects, message, .. }) => {
            let rest = match &status.version {
                Some(version) => format!("version {version} serves the rest"),
                None => "no version serves the rest".into(),
            };
            let note = format!(
                "version {new}: {state:?}, step {step} of {steps}, serves {objects} objects; {rest}\n\
                 {message}"
            );
            (Standing::Present, note)
        }
    }
}

impl PlanArgs {
    async fn run(&self, api: &Api<Plugin>) -> anyhow::Result<String> {
        let plugin = self.plugin.read(api).await?;
        let status = status(&plugin);
        let (standing, note) = standing(&plugin);
        let summary = status.plan.filter(|_| standing != Standing::None);
        let (plan, why) = match &summary {
            None => (None, None),
            Some(summary) => match self.full(summary).await {
                Ok(full) => (Some(full), None),
                Err(error) => {
                    let plan = FullPlan { summary: summary.clone(), objects: Vec::new() };
                    (Some(plan), Some(format!("{error:#}")))
                }
            },
        };
        let shown = Shown { standing, note, plan };
        if let Some(text) = self.output.of(&shown)? {
            return Ok(text + "\n");
        }
        let mut text = shown.note + "\n";
        if let Some(plan) = &shown.plan {
            numbers(&mut text, &plan.summary);
            match why {
                None => plan.objects.iter().for_each(|change| object(&mut text, change, Paint::stdout())),
                Some(why) => samples(&mut text, &plan.summary, &why),
            }
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
        for to in ["sha256:aaaa", &spec("a").revision()] {
            assert_eq!(target(&record("c", status.clone()), Some(to)).unwrap(), spec("a"), "{to}");
        }
        let mut status = status;
        status["digest"] = json!(spec("c").digest);
        assert_eq!(target(&record("b", status), Some("cccc")).unwrap(), spec("c"), "the one that serves");
    }

    #[test]
    fn a_version_comes_before_digits_and_must_be_one_only() {
        let mut old = entry("2", REPLACED);
        old["version"] = json!("0.9");
        let mut status = json!({"serving": spec("c"), "digest": spec("c").digest, "version": "2222", "history": [entry("b", REPLACED), old]});
        let to = |status: &Value, to| target(&record("c", status.clone()), Some(to)).map_err(|error| error.to_string());
        assert_eq!(to(&status, "2222").unwrap(), spec("c"), "and not the digest that begins so");
        assert_eq!(to(&status, "22222").unwrap(), spec("2"));
        assert_eq!(to(&status, "0.9").unwrap(), spec("2"));
        assert!(to(&status, "222").unwrap_err().starts_with("there is no version \"222\""), "too few digits");
        status["version"] = json!("1");
        let said = to(&status, "1").unwrap_err();
        assert!(
            said.starts_with("\"1\" names 2 versions, say which by its digest; known are: 1 (sha256:ccc"),
            "{said}"
        );
    }

    #[test]
    fn who_names_no_version_is_told_which_there_are() {
        let history = [entry("b", "RolledBack"), entry("a", REPLACED)];
        let digest = spec("c").digest;
        let status = json!({"serving": spec("c"), "digest": digest, "version": "2", "history": history});
        let said = |to| target(&record("c", status.clone()), Some(to)).unwrap_err().to_string();
        let known = "known are: 2 (sha256:cccccccccccc, serves), 1 (sha256:bbbbbbbbbbbb, RolledBack), \
                     1 (sha256:aaaaaaaaaaaa, Replaced)";
        assert_eq!(said("sha256:d"), format!("there is no version \"sha256:d\"; {known}"));
        assert_eq!(said(""), format!("there is no version \"\"; {known}"));
        let none = target(&record("c", json!({})), None).unwrap_err().to_string();
        assert_eq!(none, "no version has served before this one; none is known");
    }

    #[test]
    fn back_from_a_version_that_was_not_let_in_is_the_one_that_serves() {
        let status = json!({"serving": spec("a"), "history": [entry("x", REPLACED)]});
        assert_eq!(target(&record("b", status), None).unwrap(), spec("a"));
    }

    /// A record that asks for `wanted`, of a host that has planned `planned` last.
    fn planned(wanted: &str, planned: &str, status: Value) -> Plugin {
        let at = "2026-01-01T00:00:00Z";
        let plan = json!({"revision": spec(planned).revision(), "digest": format!("sha256:{planned}"), "at": at,
            "objects": 1, "unchanged": 0, "changed": 1, "failed": 0, "unknown": 0});
        let ready = json!({"type": "Ready", "status": "False", "reason": "IncompatibleDefinition", "message": "m",
            "lastTransitionTime": at});
        let mut all = json!({"version": "1.0", "serving": spec("a"), "observedGeneration": 1, "plan": plan, "conditions": [ready]});
        all.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
        let mut plugin = record(wanted, all);
        plugin.metadata.generation = Some(1);
        plugin
    }

    fn attempt_of(digest: &str, state: RolloutState) -> Value {
        json!({"id": "i", "revision": spec(digest).revision(), "digest": "d", "version": "2.0", "state": state, "step": 0,
            "steps": 1, "message": "why"})
    }

    #[test]
    fn a_plan_is_shown_for_what_it_is() {
        let at = "2026-01-01T00:00:00Z";
        let said = |plugin: Plugin| standing(&plugin);
        let waiting = planned("b", "b", json!({"rollout": attempt_of("b", RolloutState::Waiting)}));
        let text = "version 2.0: Waiting, step 0 of 1, serves 0 objects; version 1.0 serves the rest\nwhy";
        assert_eq!(said(waiting), (Standing::Present, text.into()));
        let text = format!("version 1.0 serves all objects.\nwhat it has changed, by the plan of {at}:");
        assert_eq!(said(planned("a", "a", json!({}))), (Standing::Past, text));
        let back = planned("b", "b", json!({"rollout": attempt_of("b", RolloutState::RolledBack)}));
        let text = format!(
            "version 2.0 was rolled back (RolledBack: why); version 1.0 serves all objects.\n\
             what it would have changed, by the plan of {at}:"
        );
        assert_eq!(said(back), (Standing::TakenBack, text));
    }

    #[test]
    fn an_old_plan_is_not_shown_as_that_of_the_version_in_the_record() {
        let (at, b) = ("2026-01-01T00:00:00Z", "b".repeat(64));
        let old = format!("there is no plan of it, and the one of {at} (sha256:a) is old");
        let refused = standing(&planned("b", "a", json!({})));
        let text = format!(
            "version 1.0 serves all objects. The spec names another one (sha256:{b}): IncompatibleDefinition: m"
        );
        assert_eq!(refused, (Standing::None, format!("{text}.\n{old}")));
        let unseen = standing(&planned("b", "a", json!({"observedGeneration": 0})));
        let text = format!("the record asks for a version (sha256:{b}) that no host has looked at yet");
        assert_eq!(unseen, (Standing::None, format!("{text}.\n{old}")));
        let (none, text) = standing(&planned("a", "c", json!({"plan": null})));
        assert_eq!(none, Standing::None);
        assert!(text.ends_with("as the first version and roll-backs are.\nthere is no plan of it"), "{text}");
    }

    #[test]
    fn nothing_waits_when_nothing_is_on_its_way() {
        let error = attempt(&record("a", json!({"version": "1.0"}))).unwrap_err();
        assert_eq!(error.to_string(), "no version is being rolled out; version 1.0 serves all objects");
    }
}
