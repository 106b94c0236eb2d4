//! Waiting until a version that was asked for serves, or does not.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::bail;
use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};

use crate::api::names::{PROGRESSING, READY};
use crate::api::plugin::{Plugin, PluginStatus};
use crate::api::rollout::{RolloutStatus, VersionSpec};

/// How long to wait.
#[derive(Debug, clap::Args)]
pub(super) struct WaitArgs {
    /// Do not wait until a host has done it.
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
    /// How long to wait until a host has done it, in seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
}

/// A host that runs has seen an edit by then, unless it is busy with compiling.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// What is said when no host has seen an edit.
const UNSEEN: &str = "no host has observed this Plugin: is `transom run` up, and does it select it?";

/// Failing objects that are named.
const MAX_NAMED: usize = 5;

/// What became of a version that was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It serves; with its name.
    Serves(String),
    /// It goes on when somebody says so.
    Waits(Held),
    /// Nobody has waited for it.
    Unknown,
}

/// A version that a person has to decide about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    version: String,
    reason: String,
    message: String,
    /// Objects that fail with it, and why.
    failing: Vec<String>,
    /// How many objects fail.
    failed: usize,
}

/// A version that waits for a person. A program can tell it from a failure by its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(in crate::cli) struct Undecided(String);

impl Undecided {
    /// What the program exits with.
    pub(in crate::cli) const EXIT_CODE: u8 = 3;
}

/// A record as it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// `metadata.generation`
    pub(super) generation: i64,
    /// It asks for something else than before: whatever the host says of this generation, it says now.
    pub(super) is_new: bool,
}

/// What became of an approval or an abort.
#[derive(Debug, PartialEq)]
pub(super) enum Moved {
    /// The version serves all objects.
    Serves(String),
    /// It is at another step.
    On(RolloutStatus),
    /// It serves none.
    Back(RolloutStatus),
}

/// Reasons while a person is waited for.
const WAITING: [&str; 3] = ["ApprovalNeeded", "PlanHeld", "Paused"];

/// Reasons that only another component, signature or record mends.
const FINAL: [&str; 22] = [
    "Aborted",
    "DescribeFailed",
    "DigestMismatch",
    "EndpointMissing",
    "EngineMissing",
    "InvalidComponent",
    "InvalidConfig",
    "InvalidEndpoint",
    "InvalidEngine",
    "InvalidKey",
    "InvalidLimits",
    "InvalidManifest",
    "InvalidName",
    "InvalidOverlayRules",
    "InvalidRollout",
    "InvalidServiceAccount",
    "InvalidSource",
    "KindTaken",
    "NotAPlugin",
    "RolledBack",
    "SignatureInvalid",
    "SourceNotAllowed",
];

/// Reasons that somebody may mend elsewhere, so that the host tries again. Who has just asked wants to hear of them.
const REFUSED: [&str; 3] = ["DefinitionRefused", "IncompatibleDefinition", "NotFound"];

impl WaitArgs {
    /// Follows the record until the version of this generation serves or waits for a person, and prints every step.
    ///
    /// # Errors
    /// When the host says that it will not serve, or it does not serve in time.
    pub(super) async fn end(&self, api: &Api<Plugin>, name: &str, asked: Asked) -> anyhow::Result<End> {
        if self.no_wait {
            return Ok(End::Unknown);
        }
        let Ok(end) = tokio::time::timeout(Duration::from_secs(self.timeout), follow(api, name, asked)).await else {
            let now = api.get_opt(name).await.ok().flatten();
            let now = now.map_or_else(|| "there is no such Plugin any more".into(), |plugin| said(&plugin));
            bail!(
                "plugin {name} does not serve this version after {} s: {now}; `transom plugin show {name}`",
                self.timeout
            )
        };
        end
    }

    /// Waits until a host has acted on what a person said of this attempt; none when nobody waits.
    ///
    /// # Errors
    /// When it cannot, or has not in time.
    pub(super) async fn moved(
        &self,
        api: &Api<Plugin>,
        name: &str,
        attempt: &RolloutStatus,
    ) -> anyhow::Result<Option<Moved>> {
        if self.no_wait {
            return Ok(None);
        }
        let moved = async {
            let mut states = std::pin::pin!(states(api, name));
            while let Some(plugin) = states.next().await {
                if let Some(moved) = moved(&plugin, attempt)? {
                    return Ok(Some(moved));
                }
            }
            bail!("the watch of Plugins ended")
        };
        match tokio::time::timeout(Duration::from_secs(self.timeout), moved).await {
            Ok(moved) => moved,
            Err(_) => bail!("no host has acted on it after {} s: is `transom run` up?", self.timeout),
        }
    }
}

impl End {
    /// In a sentence; `asked` is said where nobody has waited.
    ///
    /// # Errors
    /// When the version waits for a person: what that person can do.
    pub(super) fn sentence(self, name: &str, asked: &str) -> Result<String, Undecided> {
        match self {
            Self::Serves(version) => Ok(format!("plugin {name} {version} serves")),
            Self::Unknown => Ok(format!("plugin {name}: {asked}")),
            Self::Waits(held) => Err(Undecided(held.sentence(name))),
        }
    }

    /// The version that serves now, if that was waited for.
    pub(super) fn version(&self) -> Option<&str> {
        match self {
            Self::Serves(version) => Some(version),
            Self::Waits(_) | Self::Unknown => None,
        }
    }
}

impl Held {
    fn of(status: &PluginStatus, reason: &str, message: &str) -> Self {
        let attempt = status.rollout.as_ref();
        let plan = status.plan.as_ref().filter(|plan| attempt.is_some_and(|attempt| attempt.revision == plan.revision));
        let failing = plan.into_iter().flat_map(|plan| &plan.samples).filter(|sample| sample.outcome == "Failed");
        Self {
            version: attempt.map(|attempt| attempt.version.clone()).unwrap_or_default(),
            reason: reason.into(),
            message: message.into(),
            failing: failing.take(MAX_NAMED).map(|sample| format!("{}: {}", sample.object, sample.message)).collect(),
            failed: plan.map(|plan| plan.failed as usize).unwrap_or_default(),
        }
    }

    /// Why it waits, and what to do.
    fn sentence(&self, name: &str) -> String {
        let Self { version, reason, message, failing, failed } = self;
        let mut text = format!("plugin {name}: version {version} waits for a person: {reason}: {message}");
        for object in failing {
            let _ = write!(text, "\n  fails: {object}");
        }
        if *failed > failing.len() && !failing.is_empty() {
            let _ = write!(text, "\n  and {} more", failed - failing.len());
        }
        let plan = format!("`transom plugin plan {name}` shows what changes");
        let _ = match failed {
            0 => write!(text, "\n{plan}; `transom plugin approve {name}` or `transom plugin abort {name}`"),
            _ => write!(text, "\nfix the plugin or these objects; `transom plugin abort {name}` drops this version"),
        };
        text
    }
}

/// The record of this name, at every change.
fn states(api: &Api<Plugin>, name: &str) -> impl Stream<Item = Plugin> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let name = name.to_owned();
    let states = watcher(api.clone(), config).default_backoff().applied_objects();
    states.filter_map(move |state| {
        let meant = state.ok().filter(|plugin| plugin.name_any() == name);
        std::future::ready(meant)
    })
}

async fn follow(api: &Api<Plugin>, name: &str, asked: Asked) -> anyhow::Result<End> {
    let mut last = String::new();
    let mut states = std::pin::pin!(states(api, name));
    let mut unseen = std::pin::pin!(tokio::time::sleep(SEEN_WITHIN));
    let mut is_seen = false;
    loop {
        let plugin = tokio::select! {
            plugin = states.next() => plugin,
            () = &mut unseen, if !is_seen => {
                eprintln!("{UNSEEN}");
                is_seen = true; // it is said once
                continue;
            }
        };
        let Some(plugin) = plugin else { bail!("the watch of Plugins ended") };
        let status = plugin.status.clone().unwrap_or_default();
        if status.observed_generation.unwrap_or_default() < asked.generation {
            continue;
        }
        is_seen = true;
        let now = said(&plugin);
        match outcome(&status, asked.is_new) {
            Outcome::Ended(end) => return Ok(end),
            Outcome::Refused => {
                bail!("plugin {name} does not serve this version: {now}; `transom plugin show {name}`");
            }
            Outcome::Open => {
                if now != last {
                    eprintln!("{now}");
                    last = now;
                }
            }
        }
    }
}

/// What a status says of the version that is waited for.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Ended(End),
    Refused,
    /// It may still come.
    Open,
}

/// The condition about the version in the spec. Hosts before this one have `Ready` for it.
fn about_spec(status: &PluginStatus) -> Option<&Condition> {
    let find = |type_: &str| status.conditions.iter().find(|condition| condition.type_ == type_);
    find(PROGRESSING).or_else(|| find(READY))
}

fn outcome(status: &PluginStatus, is_new: bool) -> Outcome {
    let Some(condition) = about_spec(status) else { return Outcome::Open };
    let reason = condition.reason.as_str();
    let is_ready = status.conditions.iter().any(|condition| condition.type_ == READY && condition.status == "True");
    if is_ready && (condition.type_ == READY || reason == "Complete") {
        Outcome::Ended(End::Serves(status.version.clone().unwrap_or_default()))
    } else if WAITING.contains(&reason) {
        Outcome::Ended(End::Waits(Held::of(status, reason, &condition.message)))
    } else if FINAL.contains(&reason) || (is_new && REFUSED.contains(&reason)) {
        Outcome::Refused
    } else {
        Outcome::Open
    }
}

/// What became of an attempt since it was last seen; none while nothing has.
fn moved(plugin: &Plugin, attempt: &RolloutStatus) -> anyhow::Result<Option<Moved>> {
    let status = plugin.status.clone().unwrap_or_default();
    match &status.rollout {
        Some(now) if now.id == attempt.id && now.state.is_over() => Ok(Some(Moved::Back(now.clone()))),
        Some(now) if now.id == attempt.id && (now.step, now.state) != (attempt.step, attempt.state) => {
            Ok(Some(Moved::On(now.clone())))
        }
        Some(now) if now.id == attempt.id => match about_spec(&status) {
            Some(Condition { reason, message, .. }) if !WAITING.contains(&reason.as_str()) && reason != "Canary" => {
                bail!("version {} cannot go on: {reason}: {message}", attempt.version)
            }
            _ => Ok(None),
        },
        _ if status.serving.as_ref().map(VersionSpec::revision).as_ref() == Some(&attempt.revision) => {
            Ok(Some(Moved::Serves(status.version.unwrap_or_default())))
        }
        _ => bail!("version {} is no longer being rolled out: {}", attempt.version, said(plugin)),
    }
}

/// What keeps the version in the spec from serving, or what serves.
pub(in crate::cli) fn said(plugin: &Plugin) -> String {
    let status = plugin.status.clone().unwrap_or_default();
    if status.observed_generation.unwrap_or_default() < plugin.metadata.generation.unwrap_or_default() {
        return UNSEEN.into();
    }
    let ready = status.conditions.iter().find(|condition| condition.type_ == READY);
    match about_spec(&status) {
        Some(Condition { reason, .. }) if reason == "Complete" => {
            ready.map(|ready| format!("{}: {}", ready.reason, ready.message)).unwrap_or_default()
        }
        Some(condition) => format!("{}: {}", condition.reason, condition.message),
        None => UNSEEN.into(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn condition(type_: &str, status: &str, reason: &str) -> Value {
        let time = "2026-01-01T00:00:00Z";
        json!({ "type": type_, "status": status, "reason": reason, "message": "why", "lastTransitionTime": time })
    }

    fn attempt(state: &str, step: u32) -> Value {
        json!({ "id": "i", "revision": "r", "digest": "d", "version": "2.0.0", "state": state, "step": step, "steps": 2 })
    }

    fn status(ready: &str, progressing: (&str, &str)) -> PluginStatus {
        let conditions = [condition("Ready", ready, "Serving"), condition("Progressing", progressing.0, progressing.1)];
        let value = json!({ "version": "1.2.0", "conditions": conditions, "rollout": attempt("Held", 0) });
        serde_json::from_value(value).unwrap()
    }

    fn held(reason: &str) -> End {
        let (version, reason, message) = ("2.0.0".into(), reason.into(), "why".into());
        End::Waits(Held { version, reason, message, ..Held::default() })
    }

    #[rstest]
    #[case("True", ("False", "Complete"), true, Outcome::Ended(End::Serves("1.2.0".into())))]
    #[case("True", ("False", "PlanHeld"), true, Outcome::Ended(held("PlanHeld")))]
    #[case("True", ("True", "ApprovalNeeded"), true, Outcome::Ended(held("ApprovalNeeded")))]
    #[case("True", ("False", "Paused"), false, Outcome::Ended(held("Paused")))]
    #[case("True", ("False", "RolledBack"), false, Outcome::Refused)]
    #[case("False", ("False", "SignatureInvalid"), false, Outcome::Refused)]
    #[case::just_asked("True", ("False", "IncompatibleDefinition"), true, Outcome::Refused)]
    #[case::asked_again_when_objects_were_mended("True", ("False", "IncompatibleDefinition"), false, Outcome::Open)]
    #[case::may_be_signed("True", ("False", "Unsigned"), true, Outcome::Open)]
    #[case::a_canary("True", ("True", "Canary"), true, Outcome::Open)]
    #[case::nothing_serves("False", ("False", "Complete"), true, Outcome::Open)]
    fn a_status_tells_how_it_ends(
        #[case] ready: &str,
        #[case] progressing: (&str, &str),
        #[case] is_new: bool,
        #[case] expected: Outcome,
    ) {
        assert_eq!(outcome(&status(ready, progressing), is_new), expected);
        assert_eq!(outcome(&PluginStatus::default(), is_new), Outcome::Open);
    }

    #[test]
    fn a_host_of_before_says_it_by_ready_alone() {
        let with = |ready: Value| -> PluginStatus {
            serde_json::from_value(json!({ "version": "1.2.0", "conditions": [ready] })).unwrap()
        };
        let serves = outcome(&with(condition("Ready", "True", "Serving")), true);
        assert_eq!(serves, Outcome::Ended(End::Serves("1.2.0".into())));
        assert_eq!(outcome(&with(condition("Ready", "False", "RolledBack")), true), Outcome::Refused);
    }

    #[test]
    fn approving_is_not_suggested_when_objects_fail() {
        let mut status = status("True", ("False", "PlanHeld"));
        let text_of = |status: &PluginStatus| Held::of(status, "PlanHeld", "1 of 2 objects would fail").sentence("web");
        assert!(text_of(&status).contains("`transom plugin approve web`"), "{}", text_of(&status));
        let sample =
            |name: &str| json!({ "object": format!("Web n/{name}"), "outcome": "Failed", "message": "it traps" });
        let samples: Vec<Value> = (0..7).map(|n| sample(&n.to_string())).collect();
        let plan = json!({ "revision": "r", "digest": "d", "objects": 9, "unchanged": 0, "changed": 0, "failed": 9,
            "unknown": 0, "samples": samples });
        status.plan = serde_json::from_value(plan).unwrap();
        let text = text_of(&status);
        assert!(text.contains("\n  fails: Web n/0: it traps\n") && text.contains("\n  and 4 more\n"), "{text}");
        assert!(!text.contains("approve") && text.contains("`transom plugin abort web`"), "{text}");
    }

    #[test]
    fn a_status_of_before_an_edit_is_not_shown() {
        let plugin = |generation: i64| -> Plugin {
            let mut status = serde_json::to_value(status("True", ("False", "RolledBack"))).unwrap();
            status["observedGeneration"] = json!(1);
            serde_json::from_value(json!({
                "apiVersion": "transom.dev/v1alpha1", "kind": "Plugin",
                "metadata": { "name": "web", "generation": generation },
                "spec": { "source": { "file": { "path": "/p.wasm" } } }, "status": status,
            }))
            .unwrap()
        };
        assert_eq!(said(&plugin(1)), "RolledBack: why");
        assert_eq!(said(&plugin(2)), UNSEEN);
    }

    #[test]
    fn an_approval_is_waited_for_until_the_attempt_moves() {
        let before: RolloutStatus = serde_json::from_value(attempt("Waiting", 1)).unwrap();
        let now = |rollout: Value, reason: &str| {
            let status = json!({ "rollout": rollout, "conditions": [condition("Progressing", "True", reason)] });
            let plugin = json!({ "apiVersion": "transom.dev/v1alpha1", "kind": "Plugin", "metadata": { "name": "web" },
                "spec": { "source": { "file": { "path": "/p.wasm" } } }, "status": status });
            moved(&serde_json::from_value(plugin).unwrap(), &before)
        };
        let parsed = |rollout: Value| serde_json::from_value::<RolloutStatus>(rollout).unwrap();
        assert_eq!(now(attempt("Waiting", 1), "ApprovalNeeded").unwrap(), None);
        let next = attempt("Baking", 2);
        assert_eq!(now(next.clone(), "Canary").unwrap(), Some(Moved::On(parsed(next))));
        let back = attempt("Aborted", 1);
        assert_eq!(now(back.clone(), "Aborted").unwrap(), Some(Moved::Back(parsed(back))));
        let refused = now(attempt("Waiting", 1), "DefinitionRefused").unwrap_err().to_string();
        assert!(refused.starts_with("version 2.0.0 cannot go on: DefinitionRefused: "), "{refused}");
        assert!(now(Value::Null, "Complete").is_err(), "another version is in the spec by now");
    }
}
