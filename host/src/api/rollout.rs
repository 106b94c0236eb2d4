//! How a new version of a plugin is let in: what a `Plugin` record asks for, and what the host says of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plugin::{EndpointSpec, EngineSpec, KindRef, Limits, PluginSpec, SignaturePolicy, Source};

/// How a new version is let in. By default at once, when the plan shows no object that would fail and did not before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollout {
    /// Who moves on from step to step.
    #[serde(default)]
    pub strategy: Strategy,
    /// Parts of the objects that the new version serves first, one after the other; each adds to those before. After the
    /// last one it serves all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub steps: Vec<RolloutStep>,
    /// When a new version is stopped.
    #[serde(default)]
    pub gates: Gates,
    /// A new version that a gate stops is taken back by itself. Otherwise it stays with the objects it has until somebody
    /// approves or aborts.
    #[serde(default = "yes")]
    pub rollback: bool,
}

fn yes() -> bool {
    true
}

impl Default for Rollout {
    fn default() -> Self {
        Self { strategy: Strategy::Auto, steps: Vec::new(), gates: Gates::default(), rollback: true }
    }
}

impl Rollout {
    /// Nothing was asked for.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Who moves on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Strategy {
    /// The host, when the gates allow it.
    #[default]
    Auto,
    /// A person, by `transom plugin approve`: before the first step and after each.
    Manual,
}

/// A part of the objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutStep {
    /// Share of the objects, by a hash of their UID; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<u8>,
    /// Only objects with these labels, as kubectl spells it: `tier=dev,!frozen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub label_selector: Option<String>,
    /// How long the gates are watched before the next step, in seconds.
    #[serde(default = "one_minute")]
    #[schemars(range(min = 0, max = 604_800))]
    pub bake_seconds: u32,
}

fn one_minute() -> u32 {
    60
}

/// Limits for what gets worse by a new version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gates {
    /// Objects that fail (traps, refused plans, errors) with the new version only; 0 by default. Looked at in the plan and
    /// all the time while the new version serves a part.
    #[serde(default)]
    pub max_failed: u32,
    /// Objects that were Ready and are not with the new version; 0 by default. Looked at in the plan (for objects whose
    /// children stay as they are) and when the time of a step is over.
    #[serde(default)]
    pub max_not_ready: u32,
    /// Children that would be deleted, looked at in the plan; no limit by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pruned: Option<u32>,
}

/// All of a record that makes a version: what is not in here can be edited without a roll-out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionSpec {
    /// Where the component was fetched from.
    pub source: Source,
    /// Its digest; none for a reference to a registry that stands for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Who must have signed it. No part of what makes it another version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<SignaturePolicy>,
    /// `spec.config`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Map<String, serde_json::Value>>,
    /// `spec.limits`
    #[serde(default)]
    pub limits: Limits,
    /// `spec.endpoints`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointSpec>,
    /// `spec.engines`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub engines: Vec<EngineSpec>,
}

impl VersionSpec {
    /// The version that a record asks for.
    #[must_use]
    pub fn of(spec: &PluginSpec) -> Self {
        let PluginSpec { source, digest, signature, config, limits, endpoints, engines, .. } = spec.clone();
        Self { source, digest, signature, config, limits, endpoints, engines }
    }

    /// Name of the version: 16 hexadecimal digits of a hash of everything but where components are fetched from, unless
    /// that is what says which they are.
    #[must_use]
    pub fn revision(&self) -> String {
        let component = |digest: &Option<String>, source: &Source| match (digest, &source.oci) {
            (None, Some(oci)) => serde_json::json!([oci.reference, oci.refresh]),
            (digest, _) => serde_json::json!(digest),
        };
        let engine = |engine: &EngineSpec| {
            (engine.name.clone(), component(&engine.digest, &engine.source), engine.limits.clone())
        };
        let engines: Vec<_> = self.engines.iter().map(engine).collect();
        let all = serde_json::json!({ "digest": component(&self.digest, &self.source), "config": self.config, "limits": self.limits,
            "endpoints": self.endpoints, "engines": engines });
        crate::plan::check::digest(&all).chars().take(16).collect()
    }
}

/// Reason in the history of a version that served all objects until another one did.
pub const REPLACED: &str = "Replaced";

/// Reason in the history of a version that served all objects and cannot be loaded any more.
pub const NOT_LOADABLE: &str = "NotLoadable";

/// A version that served before, or was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Digest of the component.
    pub digest: String,
    /// Version that the component gave itself.
    pub version: String,
    /// Name of the version: digest, configuration and grants.
    #[serde(default)]
    pub revision: String,
    /// Why it serves no more: `Replaced`, `NotLoadable`, or why it was rolled back.
    #[serde(default)]
    pub reason: String,
    /// The same for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// What the record said, for going back to it; left out when it is larger than 16 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::plugin::any_object")]
    pub spec: Option<VersionSpec>,
}

/// What a version would change, evaluated against every object without a write.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// Which version.
    pub revision: String,
    /// Digest of its component.
    pub digest: String,
    /// When it was evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// How many objects there are.
    pub objects: u32,
    /// Objects for which nothing would be written.
    pub unchanged: u32,
    /// Objects with children that would be created, changed or deleted.
    pub changed: u32,
    /// Objects that would fail with this version, and do not with the one that serves.
    pub failed: u32,
    /// Objects that fail with both.
    #[serde(default)]
    pub failing: u32,
    /// Objects that cannot be evaluated now: a lookup failed, or the time was over.
    pub unknown: u32,
    /// Objects that are Ready and would not be, although none of their children changes.
    #[serde(default)]
    pub not_ready: u32,
    /// Children that would be created, changed, deleted and so on, by kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<KindChanges>,
    /// Children whose change the API server would refuse, since a field of theirs cannot be changed.
    #[serde(default)]
    pub immutable: u32,
    /// The first objects that would change or fail, failures first; at most 20. `transom plugin plan` shows all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<PlanSample>,
}

/// Children of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KindChanges {
    /// Which kind.
    #[serde(flatten)]
    pub kind: KindRef,
    /// Would be created.
    #[serde(default)]
    pub created: u32,
    /// Would be changed.
    #[serde(default)]
    pub updated: u32,
    /// Would be deleted and created again.
    #[serde(default)]
    pub replaced: u32,
    /// Would be deleted.
    #[serde(default)]
    pub pruned: u32,
    /// Would be let go, without being deleted.
    #[serde(default)]
    pub released: u32,
    /// Would be created or changed later: they are held until others are ready. Not counted above.
    #[serde(default)]
    pub later: u32,
}

/// One object in a plan. Holds no value of any field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanSample {
    /// `Kind namespace/name`
    pub object: String,
    /// `Changed`, `Failed`, `NotReady` or `Unknown`.
    pub outcome: String,
    /// Why, where it is not a change.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// `update Deployment n/a: spec.replicas`; at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<String>,
}

/// A version on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// This attempt: approvals and aborts name it.
    pub id: String,
    /// Which version.
    pub revision: String,
    /// Digest of its component.
    pub digest: String,
    /// Version that the component gives itself.
    pub version: String,
    /// How far it is.
    pub state: RolloutState,
    /// 0: planned, and serves nothing. From 1: this one of `spec.rollout.steps`.
    pub step: u32,
    /// How many steps there are.
    pub steps: u32,
    /// Since when the step lasts; nothing before it counts against the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// `metadata.generation` of the record at the last look.
    #[serde(default)]
    pub generation: i64,
    /// Objects that the version serves in this step.
    #[serde(default)]
    pub objects: u32,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl RolloutStatus {
    /// Does it serve its part of the objects?
    #[must_use]
    pub fn serves(&self) -> bool {
        self.step > 0 && !self.state.is_over()
    }
}

/// How far a version on its way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutState {
    /// A gate stopped it before it served anything.
    Held,
    /// Somebody has to approve the next step.
    Waiting,
    /// Serves a part of the objects, and is watched.
    Baking,
    /// A gate stopped it, and it keeps the part that it serves.
    Paused,
    /// Taken back by a gate.
    RolledBack,
    /// Taken back by a person.
    Aborted,
}

impl RolloutState {
    /// It was taken back, and is not tried again until the record changes.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::RolledBack | Self::Aborted)
    }
}
