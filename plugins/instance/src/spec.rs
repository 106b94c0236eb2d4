use std::fmt;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};
use transom_sdk::prelude::*;

/// A product as it is offered: a chart and what it is given.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "caelus.io",
    version = "v1",
    kind = "ProductTemplateVersion",
    plural = "producttemplateversions",
    category = "caelus",
    namespaced,
    status = "ProductTemplateVersionStatus",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Chart","type":"string","jsonPath":".status.chart.name"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.chart.version"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ProductTemplateVersionSpec {
    /// Where the chart is, and which bytes it must have.
    pub chart: ChartSource,

    /// Values over those of the chart; those of an instance come over them.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "any_object")]
    pub default_values: Map<String, Value>,

    /// Where the chart wants the domain name of an instance, beside `global.domain`: paths such as `ingress.host`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub domain_paths: Vec<String>,

    /// For how long a step may take (hooks before, workloads, hooks after) before it counts as failed.
    #[serde(default = "five_minutes")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: u32,
}

fn five_minutes() -> u32 {
    300
}

/// Where a chart is: one of `oci`, `http` and `folder`.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = json!([
    {
        "rule": "(has(self.oci) ? 1 : 0) + (has(self.http) ? 1 : 0) + (has(self.folder) ? 1 : 0) == 1",
        "message": "must have one of oci, http and folder",
    },
    { "rule": "has(self.digest) || has(self.folder)", "message": "needs a digest", "fieldPath": ".digest" },
])))]
pub struct ChartSource {
    /// In a registry: `reference` is a repository below the endpoint, such as `charts/shop`. A tag is for people; what
    /// is taken is the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<Location>,
    /// In an HTTP repository: `reference` is the path of a `.tgz` below the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Location>,
    /// On the host: `reference` is the folder of a chart below the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<Location>,
    /// `sha256:…`. Of the manifest in a registry; of the `.tgz` as the `index.yaml` of a repository has it; of a folder,
    /// where it can be left out, of what `sha256sum` prints for its files sorted by path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
}

/// A place below an endpoint of the `Plugin` record.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    /// Name of the endpoint; by default `oci`, `http` or `folder`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub endpoint: Option<String>,
    /// What is there.
    #[schemars(length(min = 1, max = 512))]
    pub reference: String,
}

/// What is known of a template.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProductTemplateVersionStatus {
    /// As its `Chart.yaml` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chart: Option<ChartStatus>,
    /// `sha256:…` of what was fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// What a `Chart.yaml` says.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ChartStatus {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
}

/// A product that runs for a user: a release of a chart in a namespace of its own.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "caelus.io",
    version = "v1",
    kind = "CaelusInstance",
    plural = "caelusinstances",
    category = "caelus",
    namespaced,
    status = "CaelusInstanceStatus",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Revision","type":"integer","jsonPath":".status.release.revision"}"#,
    printcolumn = r#"{"name":"Domain","type":"string","jsonPath":".spec.domainName"}"#,
    printcolumn = r#"{"name":"Namespace","type":"string","jsonPath":".spec.namespace","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct CaelusInstanceSpec {
    /// Whose it is.
    #[schemars(length(min = 1, max = 253))]
    pub user_id: String,

    /// Name of a `ProductTemplateVersion` in the same namespace; another one is an upgrade.
    #[schemars(length(min = 1, max = 253))]
    pub product_template_version: String,

    /// Namespace of the instance alone, which is made for it.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
        extend("x-kubernetes-validations" = json!([{
            "rule": "self == oldSelf", "message": "cannot be changed: make another instance",
        }]))
    )]
    pub namespace: String,

    /// Under which name it is reached. The chart finds it in the value `global.domain`, and where the template says.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub domain_name: String,

    /// Values over those of the template; null takes a default away.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "any_object")]
    pub values: Map<String, Value>,

    /// Name of a Secret in the same namespace, with values over all others under the key `values.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub values_secret: Option<String>,
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-map-type": "atomic",
    })
}

/// How an instance is; its conditions say more.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CaelusInstanceStatus {
    /// The gist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// When phase or release changed last (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reconcile: Option<String>,
    /// What is being done, or what is wrong and how to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What is installed, or being installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseStatus>,
}

/// A release as Helm counts.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseStatus {
    /// Name of the release.
    #[serde(default)]
    pub name: String,
    /// From 1; each upgrade and each roll-back is one more.
    #[serde(default)]
    pub revision: u32,
    /// The template that it is made from: after a roll-back not that of the spec.
    #[serde(default)]
    pub template_version: String,
    /// `sha256:…` of the chart.
    #[serde(default)]
    pub chart_digest: String,
}

/// The gist of an instance.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is being installed.
    Pending,
    /// What the spec says runs.
    Running,
    /// What the spec says does not run, and will not by itself. An earlier release may run.
    Failed,
    /// It is being upgraded, or rolled back.
    Upgrading,
    /// It is being deleted.
    Deleting,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl CaelusInstance {
    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// The namespace of the object, not of the release.
    pub(crate) fn home(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }
}
