//! The `Overlay` record, by which a tenant changes what plugins make of its primaries, and the rules that bound it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::plugin::KindRef;

/// Patches on the children of primaries in the same namespace.
///
/// Patches are laid over what the plugin asks for before it is applied; when the overlay goes, they go. A patch that is
/// not allowed refuses the whole overlay, never the primary.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "transom.dev",
    version = "v1alpha1",
    kind = "Overlay",
    namespaced,
    status = "OverlayStatus",
    derive = "PartialEq",
    category = "transom",
    printcolumn = r#"{"name":"Kind","type":"string","jsonPath":".spec.target.kind"}"#,
    printcolumn = r#"{"name":"Order","type":"integer","jsonPath":".spec.order"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type=='Accepted')].status"}"#,
    printcolumn = r#"{"name":"Matched","type":"integer","jsonPath":".status.matched"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type=='Accepted')].message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OverlaySpec {
    /// Which primaries.
    pub target: Target,
    /// Overlays of one primary are laid in this order, those of the same order by name; the last one wins.
    #[serde(default)]
    pub order: i32,
    /// ServiceAccount of this namespace whose rights bound the patches: it must be allowed `patch`, or the verb
    /// `overlay`, on every kind of child named here. Who writes this field must be allowed to impersonate the account.
    #[serde(default = "default_account")]
    #[schemars(length(max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub service_account_name: String,
    /// Applied one after the other; all of them or none.
    #[schemars(length(min = 1, max = 32))]
    pub patches: Vec<PatchSpec>,
}

fn default_account() -> String {
    "default".into()
}

/// Which primaries: by kind, and by name or labels; all of the kind in this namespace when there is neither.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.name) && has(self.selector))", "message": "name and selector exclude each other",
}]))]
pub struct Target {
    /// `ameide.io/v1`; the version does not matter.
    pub api_version: String,
    /// `Domain`
    pub kind: String,
    /// Only the primary of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Only primaries with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
}

/// Labels that an object must have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// Labels with exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements; all must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<Requirement>,
}

/// A requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirement {
    /// Name of the label.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// For `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub values: Vec<String>,
}

/// As in Kubernetes' label selectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "Kubernetes' own words")]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// One patch, on every child that it names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PatchSpec {
    /// Which children.
    pub target: ChildTarget,
    /// How `patch` is read.
    #[serde(rename = "type", default)]
    pub type_: PatchType,
    /// An object; for `JSONPatch` a list of operations.
    #[schemars(schema_with = "anything")]
    pub patch: serde_json::Value,
}

/// Which children: by kind, and by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChildTarget {
    /// `apps/v1`; the version does not matter.
    pub api_version: String,
    /// `Deployment`
    pub kind: String,
    /// Only children of this name, a glob with `*` and `?`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
}

/// How a patch is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PatchType {
    /// Kubernetes' strategic merge patch. Kinds of custom resources have no merge keys: it is a merge patch for them.
    #[default]
    StrategicMerge,
    /// RFC 7386: `null` removes, lists are replaced.
    Merge,
    /// RFC 6902: a list of operations, `test` among them.
    #[serde(rename = "JSONPatch")]
    JsonPatch,
}

/// What became of an overlay. Written by the host that serves the kind of `spec.target`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OverlayStatus {
    /// Primaries that the overlay is for.
    #[serde(default)]
    pub matched: u32,
    /// `metadata.generation` that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: the overlay is allowed. `Applied`: it is part of what all its primaries ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// What overlays may do to the children of one plugin. The built-in rules hold besides, see `docs/overlays.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OverlayRules {
    /// Whether overlays of this plugin's primaries are looked at.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Fields that may be changed; all that is not denied when this is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allow: Vec<PathRule>,
    /// Fields that may not be changed, whatever `allow` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub deny: Vec<PathRule>,
    /// Bounds of values that overlays set. A bounded field cannot be removed by an overlay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub limits: Vec<ValueLimit>,
    /// What the built-in rules refuse otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub permit: Vec<Permission>,
}

fn yes() -> bool {
    true
}

impl Default for OverlayRules {
    fn default() -> Self {
        Self { enabled: true, allow: vec![], deny: vec![], limits: vec![], permit: vec![] }
    }
}

impl OverlayRules {
    /// Nothing was said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Fields of children.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathRule {
    /// Only in children of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The field and all below it: `spec.template.spec.containers[*].resources`. `*` is any name or item, `**` any number
    /// of them; a name with dots goes in brackets: `metadata.annotations[example.com/*]`.
    #[schemars(length(min = 1, max = 512))]
    pub path: String,
}

/// A bound of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValueLimit {
    /// Only in children of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The field, as in `allow`.
    #[schemars(length(min = 1, max = 512))]
    pub path: String,
    /// The least number or quantity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<IntOrString>,
    /// The greatest number or quantity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<IntOrString>,
    /// The only values, as globs: `*` within a part between slashes, `**` over any number of parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub values: Vec<String>,
}

/// What the built-in rules refuse unless the record permits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Permission {
    /// Containers of the overlay's own, which must be as restricted as the Pod Security Standard `restricted` asks.
    Sidecars,
    /// `tolerations`
    Tolerations,
    /// `priorityClassName` and `preemptionPolicy`
    Priority,
    /// `runtimeClassName`
    RuntimeClass,
    /// Volumes from PersistentVolumeClaims of the namespace.
    PersistentVolumes,
    /// `type`, `loadBalancer…` and `nodePort` of Services.
    Exposure,
}

impl Target {
    /// Kind of the primaries.
    #[must_use]
    pub fn kind_ref(&self) -> KindRef {
        KindRef { api_version: self.api_version.clone(), kind: self.kind.clone() }
    }
}

fn anything(_: &mut SchemaGenerator) -> Schema {
    let schema: BTreeMap<&str, serde_json::Value> = [("x-kubernetes-preserve-unknown-fields", json!(true))].into();
    Schema::try_from(json!(schema)).unwrap_or_default()
}
