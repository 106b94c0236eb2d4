//! The `Plugin` record: which component serves which kinds, and within which bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::overlay::OverlayRules;
use super::rollout::{HistoryEntry, PlanStatus, Rollout, RolloutStatus, VersionSpec};
use crate::plan::contract::TypeMeta;
use crate::plan::quantity;

/// A component that reconciles the kinds it brings along.
///
/// Editing `source` or `digest` (or `config`, `limits`, `endpoints`, `engines`) swaps the version while the host runs; the
/// old one serves until the new one is let in.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "transom.dev",
    version = "v1alpha1",
    kind = "Plugin",
    status = "PluginStatus",
    derive = "PartialEq",
    category = "transom",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.version"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Digest","type":"string","jsonPath":".status.digest","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type=='Progressing')].message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [digest_rule()]))]
pub struct PluginSpec {
    /// Where the component is fetched from.
    pub source: Source,
    /// SHA-256 of the component: `sha256:` and 64 hexadecimal digits. Nothing else is ever run. May be left out for
    /// `source.oci` only, where the digest of the manifest that the reference stands for pins the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
    /// Who must have signed the component. Without it, only what the host requires of all plugins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<SignaturePolicy>,
    /// Configuration of the plugin, checked against the schema that the plugin brings along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub config: Option<serde_json::Map<String, serde_json::Value>>,
    /// Bounds of one call.
    #[serde(default)]
    pub limits: Limits,
    /// Services outside the API server that the plugin may ask, by the names that it declares. What is not here is
    /// denied. An OCI registry under a name that the plugin does not declare is one whose images it may look up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub endpoints: Vec<EndpointSpec>,
    /// Engines that the plugin may run, by the names that it declares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub engines: Vec<EngineSpec>,
    /// What overlays of tenants may do to children of this plugin.
    #[serde(default, skip_serializing_if = "OverlayRules::is_default")]
    pub overlays: OverlayRules,
    /// Fields of the plugin's children that are written when an object is created, and then belong to others: what another
    /// controller makes of them is no drift. A child can say the same of itself, by the annotation `transom.dev/set-once`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub set_once: Vec<SetOnceRule>,
    /// The ServiceAccount that the plugin acts as: RBAC decides what it may read and write. Without one the host's own
    /// rights count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountRef>,
    /// How long the deletion of an object waits for a plugin that fails or cannot be loaded, in seconds. After that the host
    /// deletes the object's children and lets it go; what the plugin would have cleaned up elsewhere stays.
    #[serde(default = "default_deletion_timeout")]
    #[schemars(range(min = 1, max = 604_800))]
    pub deletion_timeout_seconds: u32,
    /// How a new version is let in.
    #[serde(default, skip_serializing_if = "Rollout::is_default")]
    pub rollout: Rollout,
    /// How the API server asks the plugin before it stores objects, if the plugin takes part in admission.
    #[serde(default, skip_serializing_if = "Webhooks::is_default")]
    pub webhooks: Webhooks,
}

/// Fields of one kind that are written once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetOnceRule {
    /// API group; empty for the core group.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// `Deployment`, or `*` for all kinds of the group.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Paths: `spec.replicas`, `webhooks[*].clientConfig.caBundle`, `data[tls.crt]`. A path stands for all below it.
    #[schemars(length(min = 1, max = 64))]
    pub fields: Vec<String>,
}

/// What the API server does about the plugin's admission webhooks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Webhooks {
    /// What becomes of a create, or of a change of a spec, when the plugin gives no answer. `Fail`: it is refused, for what
    /// is stored must have been seen by the plugin. `Ignore`: it passes, without defaults and unchecked. Objects being
    /// deleted, status, labels and annotations are never held up.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// How long the API server waits for an answer, in seconds.
    #[serde(default = "default_webhook_timeout")]
    #[schemars(range(min = 1, max = 30))]
    pub timeout_seconds: u8,
}

/// What becomes of a request whose webhook gives no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailurePolicy {
    /// It is refused.
    #[default]
    Fail,
    /// It passes.
    Ignore,
}

/// Seconds that the API server waits for an answer: half of what it would by itself, which is long for whoever waits.
pub const DEFAULT_WEBHOOK_TIMEOUT: u8 = 5;

fn default_webhook_timeout() -> u8 {
    DEFAULT_WEBHOOK_TIMEOUT
}

impl Default for Webhooks {
    fn default() -> Self {
        Self { failure_policy: FailurePolicy::default(), timeout_seconds: DEFAULT_WEBHOOK_TIMEOUT }
    }
}

impl Webhooks {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Only a registry says by itself what a name stands for.
fn digest_rule() -> serde_json::Value {
    serde_json::json!({
        "rule": "has(self.digest) || has(self.source.oci)",
        "message": "digest is required for every source but oci: the SHA-256 of the component, as sha256:…",
        "fieldPath": ".digest",
    })
}

fn default_deletion_timeout() -> u32 {
    300
}

/// A service that lookups go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSpec {
    /// Name that the plugin uses.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub name: String,
    /// Where it is: `https://host:port/base` for gRPC and HTTP, `oci://registry/repository` for a registry or a part of
    /// it, `https://…` or `file:///…` for a git repository, `file:///…` for a folder that the host can read.
    #[schemars(length(max = 2048), regex(pattern = r"^(https?|oci|file)://.+"))]
    pub address: String,
    /// Talk without TLS: needed for `http://`, and for an `oci://` registry that has none.
    #[serde(default)]
    pub plaintext: bool,
    /// Paths that may be asked for, as globs with `*`, `**` and `?`: `/package.Service/*`, `/v1/**`, `/team/app`. Empty:
    /// all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub paths: Vec<String>,
    /// Secret with what the service wants: `username` and `password`, or `token`, and `tls.crt` with `tls.key` for a
    /// client certificate. Read again within 30 seconds after a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretRef>,
    /// Secret with `ca.crt`: the only authorities that are trusted here, in place of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretRef>,
}

/// A ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountRef {
    /// Namespace of the ServiceAccount.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Name of the ServiceAccount.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the Secret.
    pub name: String,
}

/// An engine that lookups run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [digest_rule()]))]
pub struct EngineSpec {
    /// Name that the plugin uses.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub name: String,
    /// Where the component is fetched from.
    pub source: Source,
    /// SHA-256 of the component: `sha256:` and 64 hexadecimal digits. Nothing else is ever run. May be left out for
    /// `source.oci` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
    /// Who must have signed the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<SignaturePolicy>,
    /// Bounds of one run.
    #[serde(default)]
    pub limits: EngineLimits,
}

/// Bounds of one run of an engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EngineLimits {
    /// Memory of one instance, a quantity; 256Mi by default, at most 1Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|k|M|G)?$"))]
    pub memory: Option<String>,
    /// Wall-clock time of one run in milliseconds; 10,000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 120_000))]
    pub deadline_milliseconds: Option<u32>,
}

impl EngineLimits {
    /// The bounds that these limits mean: those of a call, with an engine's defaults.
    ///
    /// # Errors
    /// The field's path and what is wrong with it.
    pub fn bounds(&self, engine: &str) -> Result<Bounds, String> {
        let mut bounds = Bounds {
            memory_bytes: 256 << 20,
            deadline: Duration::from_secs(10),
            response_bytes: 17 << 20, // 16 MiB of output and what is around it
            ..Bounds::default()
        };
        if let Some(text) = &self.memory {
            let field = format!("spec.engines[{engine}].limits.memory");
            bounds.memory_bytes = size(&field, text, MAX_MEMORY_BYTES)?;
        }
        if let Some(ms) = self.deadline_milliseconds {
            bounds.deadline = Duration::from_millis(ms.into());
        }
        Ok(bounds)
    }
}

/// A quantity of bytes, at most `max`.
fn size(field: &str, text: &str, max: usize) -> Result<usize, String> {
    quantity::bytes(text)
        .filter(|&n| n <= max as u64)
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| format!("{field}: {text:?} must be a size such as 64Mi, at most {max} bytes"))
}

/// Where a component is fetched from: exactly one of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Source {
    /// A file that the host can read: an image volume, a mounted folder, a laptop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSource>,
    /// A key under `binaryData` of a ConfigMap, which holds at most 1 MiB; a larger component is compressed with gzip. The
    /// digest is that of the component itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,
    /// A Wasm artifact in an OCI registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<OciSource>,
    /// A file on a web server; one that begins like gzip is unpacked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
}

/// A Wasm artifact in an OCI registry: a manifest with the configuration type `application/vnd.wasm.config.v0+json` and
/// one layer `application/wasm`, or an index that lists one such manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OciSource {
    /// `registry/repository:tag`, `registry/repository@sha256:…`, or both at once: then the digest counts. A tag is
    /// resolved once, to the digest in `status.sources`; a tag that moves changes nothing until `reference` or `refresh`
    /// is edited.
    #[schemars(length(max = 1024))]
    pub reference: String,
    /// Any text. Editing it resolves the tag again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub refresh: Option<String>,
    /// Talk without TLS.
    #[serde(default)]
    pub plaintext: bool,
    /// Secret with what the registry wants: `username` and `password`, `token`, `.dockerconfigjson`, or `tls.crt` with
    /// `tls.key`. Read again within 30 seconds after a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretRef>,
    /// Secret with `ca.crt`: the only authorities that are trusted here, in place of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretRef>,
}

/// A file on a web server. The detached signature, if one is required, is at the same address with `.sig` appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSource {
    /// `https://host:port/path`. `http://` needs `plaintext`. At most 5 redirects are followed, never away from TLS.
    #[schemars(length(max = 2048), regex(pattern = r"^https?://.+"))]
    pub url: String,
    /// Talk without TLS.
    #[serde(default)]
    pub plaintext: bool,
    /// Secret with `username` and `password`, `token`, or `tls.crt` with `tls.key`. Never sent to another host that the
    /// server redirects to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretRef>,
    /// Secret with `ca.crt`: the only authorities that are trusted here, in place of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretRef>,
}

/// Who must have signed a component.
///
/// For `source.oci` these are cosign's signatures in the same repository, made with a key: the bundle of cosign 3 or the
/// older `.sig` tag. For other sources it is what `cosign sign-blob` writes: the signature of the component, beside it with
/// `.sig` appended (`file`, `http`: to the path; `configMap`: to the key), or under `detached`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignaturePolicy {
    /// One of these must have signed it.
    #[schemars(length(min = 1, max = 16))]
    pub keys: Vec<PublicKey>,
    /// The signature itself, for sources other than `oci`: base64, or the text of a bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub detached: Option<String>,
}

/// A public key in PEM (`-----BEGIN PUBLIC KEY-----`), ECDSA P-256: exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct PublicKey {
    /// The key itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub pem: Option<String>,
    /// Key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<KeyRef>,
    /// Key under `data` of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<KeyRef>,
}

/// A key of a Secret or ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRef {
    /// Namespace of the Secret or ConfigMap.
    pub namespace: String,
    /// Name of the Secret or ConfigMap.
    pub name: String,
    /// Key within it.
    #[serde(default = "default_public_key")]
    pub key: String,
}

fn default_public_key() -> String {
    "cosign.pub".into()
}

/// What a reference to a registry stood for when it was resolved. A host that starts again needs no registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResolvedSource {
    /// `reference` of the source.
    pub reference: String,
    /// `refresh` of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<String>,
    /// Digest of the manifest (or index) that it stood for: `sha256:…`. What signatures are over.
    pub manifest: String,
    /// Digest of the component.
    pub component: String,
}

/// A file that the host can read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// Absolute path.
    #[schemars(regex(pattern = r"^/.+"))]
    pub path: String,
}

/// A key of a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigMapSource {
    /// Namespace of the ConfigMap.
    pub namespace: String,
    /// Name of the ConfigMap.
    pub name: String,
    /// Key under `binaryData`.
    #[serde(default = "default_key")]
    pub key: String,
}

fn default_key() -> String {
    "plugin.wasm".into()
}

/// Bounds of one call to a plugin. What exceeds them fails by itself, with a condition on the object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Memory of one instance, a quantity; 64Mi by default, at most 1Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|k|M|G)?$"))]
    pub memory: Option<String>,
    /// Wall-clock time of one call in milliseconds; 1,000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 30_000))]
    pub deadline_milliseconds: Option<u32>,
    /// What one call may do, counted in WebAssembly instructions: the same for the same call on every machine, which a time
    /// is not. Calls with a limit take about a third longer. Without one only time is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_000_000))]
    pub fuel: Option<u64>,
    /// Size of one response, a quantity; 16Mi by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|k|M|G)?$"))]
    pub response: Option<String>,
    /// Children of one primary; 500 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5_000))]
    pub children: Option<u32>,
    /// Lookups of one reconcile; 64 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000))]
    pub lookups: Option<u32>,
    /// Calls of one reconcile; 8 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub rounds: Option<u32>,
}

/// `Limits` with every default filled in, in the units the code uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Linear memory of one instance.
    pub memory_bytes: usize,
    /// Wall clock of one call.
    pub deadline: Duration,
    /// Instructions of one call, where they are limited.
    pub fuel: Option<u64>,
    /// Data that one call may hand to the host.
    pub response_bytes: usize,
    /// Children in one plan.
    pub children: usize,
    /// Lookups in one reconcile.
    pub lookups: usize,
    /// Calls in one reconcile.
    pub rounds: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            deadline: Duration::from_secs(1),
            fuel: None,
            response_bytes: 16 << 20,
            children: 500,
            lookups: 64,
            rounds: 8,
        }
    }
}

/// The most that `limits.memory` can allow: the size of a slot in the pool of instances.
pub const MAX_MEMORY_BYTES: usize = 1 << 30;

impl Limits {
    /// The bounds that these limits mean.
    ///
    /// # Errors
    /// The field's path and what is wrong with it.
    pub fn bounds(&self) -> Result<Bounds, String> {
        let mut bounds = Bounds::default();
        if let Some(text) = &self.memory {
            bounds.memory_bytes = size("spec.limits.memory", text, MAX_MEMORY_BYTES)?;
        }
        if let Some(text) = &self.response {
            bounds.response_bytes = size("spec.limits.response", text, MAX_MEMORY_BYTES)?;
        }
        if let Some(ms) = self.deadline_milliseconds {
            bounds.deadline = Duration::from_millis(ms.into());
        }
        bounds.fuel = self.fuel;
        bounds.children = self.children.map_or(bounds.children, |n| n as usize);
        bounds.lookups = self.lookups.map_or(bounds.lookups, |n| n as usize);
        bounds.rounds = self.rounds.unwrap_or(bounds.rounds);
        Ok(bounds)
    }
}

/// What the host knows about a plugin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginStatus {
    /// One word for people.
    #[serde(default)]
    pub phase: Phase,
    /// Digest of the version that serves now, which is not that of the spec while a new one loads or is refused. None while
    /// nothing serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Version that the serving component gives itself. None while nothing serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What the references to registries stand for, of the plugin and of its engines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<ResolvedSource>,
    /// Kinds that are reconciled: `Kind.group`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// Every kind that a version of this plugin has served: its objects can be deleted even when no version can be loaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub primary_kinds: Vec<KindRef>,
    /// Every kind of child that a version of this plugin could have made: these are watched, so that nothing is left
    /// behind when a newer version no longer declares one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub child_kinds: Vec<KindRef>,
    /// The version that serves, as the record asked for it: what a host that starts again goes on with. It stays while it
    /// cannot be loaded, see `version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub serving: Option<VersionSpec>,
    /// What the newest version changes, or would change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// The version that is on its way, or was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// Versions that served before or were tried, newest first; at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
    /// `metadata.generation` that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One condition for each step of loading the version in the spec; `Ready`: a version serves all objects, whichever it
    /// is; `Progressing`: how far the version in the spec is; `Stored`: versions can be loaded again without their sources.
    /// `Reconciling` and `Stalled` are there while they are True, for kstatus.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

impl KindRef {
    /// From a kind of the contract.
    #[must_use]
    pub fn of(kind: &TypeMeta) -> Self {
        Self { api_version: kind.api_version.clone(), kind: kind.kind.clone() }
    }

    /// As the contract has it.
    #[must_use]
    pub fn type_meta(&self) -> TypeMeta {
        TypeMeta::new(self.api_version.clone(), self.kind.clone())
    }

    /// Of several versions of one kind the first one, since their objects are the same; sorted.
    #[must_use]
    pub fn one_of_each(kinds: &[Self]) -> Vec<Self> {
        let mut known = BTreeSet::new();
        let first = |kind: &&Self| known.insert(kind.type_meta().group_kind());
        kinds.iter().filter(first).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// A kind as manifests spell it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KindRef {
    /// `apps/v1`
    pub api_version: String,
    /// `Deployment`
    pub kind: String,
}

/// How far a plugin is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Not looked at yet.
    #[default]
    Pending,
    /// A version serves, and it is the one in the spec.
    Ready,
    /// The version in the spec cannot serve; see the conditions. An earlier one may still do so.
    Failed,
    /// The version in the spec waits for a person, or is stopped by a gate; an earlier one serves.
    Waiting,
    /// The version in the spec serves a part of the objects.
    Canary,
    /// The version in the spec was taken back; an earlier one serves.
    RolledBack,
    /// The record is being deleted, but the plugin is still needed to clean up after objects.
    Terminating,
}

pub(super) fn any_object(_: &mut SchemaGenerator) -> Schema {
    let mut schema = BTreeMap::new();
    schema.insert("type", serde_json::json!("object"));
    schema.insert("x-kubernetes-preserve-unknown-fields", serde_json::json!(true));
    Schema::try_from(serde_json::json!(schema)).unwrap_or_default()
}
