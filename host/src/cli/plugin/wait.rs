//! Waiting until a version that was asked for serves, or does not.

use std::time::Duration;

use anyhow::bail;
use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};

use crate::api::names::READY;
use crate::api::plugin::{Plugin, PluginStatus};

/// How long to wait.
#[derive(Debug, clap::Args)]
pub(super) struct WaitArgs {
    /// Do not wait until the version serves.
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
    /// How long to wait until the version serves, in seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
}

/// What became of a version that was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It serves; with its name.
    Serves(String),
    /// It goes on when somebody says so.
    Waits,
    /// Nobody has waited for it.
    Unknown,
}

/// A record as it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// `metadata.generation`
    pub(super) generation: i64,
    /// It asks for something else than before: whatever the host says of this generation, it says now.
    pub(super) is_new: bool,
}

/// Reasons of `Ready` while a person is waited for.
const WAITING: [&str; 3] = ["ApprovalNeeded", "PlanHeld", "Paused"];

/// Reasons of `Ready` that only another component, signature or record mends.
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
    /// Follows the record until the version of this generation serves or waits for a person, and tells every step.
    ///
    /// # Errors
    /// When the host says that it will not serve, or has not let it in in time.
    pub(super) async fn end(&self, api: &Api<Plugin>, name: &str, asked: Asked) -> anyhow::Result<End> {
        if self.no_wait {
            return Ok(End::Unknown);
        }
        let Ok(end) = tokio::time::timeout(Duration::from_secs(self.timeout), follow(api, name, asked)).await else {
            let now = api.get_opt(name).await.ok().flatten().map(|plugin| said(&plugin)).unwrap_or_default();
            bail!("plugin {name} does not serve after {} s: {now}; `transom plugin show {name}`", self.timeout)
        };
        end
    }
}

impl End {
    /// In a sentence; `asked` is said where nobody has waited.
    pub(super) fn told(&self, name: &str, asked: &str) -> String {
        match self {
            Self::Serves(version) => format!("plugin {name} {version} serves"),
            Self::Waits => {
                let next = format!("`transom plugin plan {name}`, then `approve` or `abort`");
                format!("plugin {name}: the version waits for a person: {next}")
            }
            Self::Unknown => format!("plugin {name}: {asked}"),
        }
    }

    /// The version that serves now, if that was waited for.
    pub(super) fn version(&self) -> Option<&str> {
        match self {
            Self::Serves(version) => Some(version),
            Self::Waits | Self::Unknown => None,
        }
    }
}

async fn follow(api: &Api<Plugin>, name: &str, asked: Asked) -> anyhow::Result<End> {
    let mut last = String::new();
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut states = std::pin::pin!(watcher(api.clone(), config).default_backoff().applied_objects());
    while let Some(state) = states.next().await {
        let Ok(plugin) = state else { continue };
        if plugin.name_any() != name {
            continue;
        }
        let status = plugin.status.clone().unwrap_or_default();
        if status.observed_generation.unwrap_or_default() < asked.generation {
            continue;
        }
        let now = said(&plugin);
        match outcome(&status, asked.is_new) {
            Outcome::Ended(End::Serves(version)) => return Ok(End::Serves(version)),
            Outcome::Refused => {
                bail!("plugin {name} does not serve this version: {now}; `transom plugin show {name}`");
            }
            outcome => {
                if now != last {
                    eprintln!("{now}");
                    last = now;
                }
                if let Outcome::Ended(end) = outcome {
                    return Ok(end);
                }
            }
        }
    }
    bail!("the watch of Plugins ended")
}

/// What a status says of the version that is waited for.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Ended(End),
    Refused,
    /// It may still come.
    Open,
}

fn outcome(status: &PluginStatus, is_new: bool) -> Outcome {
    let Some(ready) = status.conditions.iter().find(|condition| condition.type_ == READY) else {
        return Outcome::Open;
    };
    let reason = ready.reason.as_str();
    if ready.status == "True" {
        Outcome::Ended(End::Serves(status.version.clone().unwrap_or_default()))
    } else if WAITING.contains(&reason) {
        Outcome::Ended(End::Waits)
    } else if FINAL.contains(&reason) || (is_new && REFUSED.contains(&reason)) {
        Outcome::Refused
    } else {
        Outcome::Open
    }
}

/// What keeps it from serving.
pub(in crate::cli) fn said(plugin: &Plugin) -> String {
    let conditions = plugin.status.as_ref().map_or(&[][..], |status| &status.conditions);
    match conditions.iter().find(|condition| condition.type_ == READY) {
        Some(condition) => format!("{}: {}", condition.reason, condition.message),
        None => "no host has looked at it yet: is one running, and does it select this record?".into(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("True", "Serving", true, Outcome::Ended(End::Serves("1.2.0".into())))]
    #[case("False", "PlanHeld", true, Outcome::Ended(End::Waits))]
    #[case("False", "Paused", false, Outcome::Ended(End::Waits))]
    #[case("False", "RolledBack", false, Outcome::Refused)]
    #[case("False", "SignatureInvalid", false, Outcome::Refused)]
    #[case::just_asked("False", "IncompatibleDefinition", true, Outcome::Refused)]
    #[case::asked_again_when_objects_were_mended("False", "IncompatibleDefinition", false, Outcome::Open)]
    #[case::may_be_signed("False", "Unsigned", true, Outcome::Open)]
    #[case::a_canary("False", "Canary", true, Outcome::Open)]
    fn a_status_tells_how_it_ends(
        #[case] status: &str,
        #[case] reason: &str,
        #[case] is_new: bool,
        #[case] expected: Outcome,
    ) {
        let time = "2026-01-01T00:00:00Z";
        let ready =
            json!({ "type": "Ready", "status": status, "reason": reason, "message": "", "lastTransitionTime": time });
        let status: PluginStatus =
            serde_json::from_value(json!({ "version": "1.2.0", "conditions": [ready] })).unwrap();
        assert_eq!(outcome(&status, is_new), expected);
        assert_eq!(outcome(&PluginStatus::default(), is_new), Outcome::Open);
    }
}
