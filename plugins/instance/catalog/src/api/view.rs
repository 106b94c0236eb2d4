//! What goes over the wire.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::database::store::{Instance, Object, Phase, Template};

/// A place below an endpoint that the operator knows.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Location {
    /// Name of the endpoint; by default `oci`, `http` or `folder`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub endpoint: Option<String>,
    /// What is there, such as `charts/shop`.
    #[schemars(length(min = 1, max = 512))]
    pub reference: String,
}

/// A chart, by where it is, one of `oci`, `http` and `folder`, and what it is, its digest.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Chart {
    /// A repository in an OCI registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<Location>,
    /// A `.tgz` in a repository by HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Location>,
    /// A folder on the operator's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<Location>,
    /// `sha256:` and 64 hexadecimal digits. Only a folder may come without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
}

/// A template version to be.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewTemplateVersion {
    /// What is installed.
    pub chart: Chart,
    /// What the chart is given unless an instance says otherwise.
    #[serde(default)]
    pub default_values: Object,
    /// Where the chart wants an instance's domain name, beside `global.domain`: paths such as `ingress.host`.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub domain_paths: Vec<String>,
    /// For how long a step of a release may take before it counts as failed; the operator's default without it.
    #[serde(default)]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: Option<i32>,
}

/// An instance to be.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewInstance {
    /// Id of the template version.
    #[schemars(with = "String", extend("format" = "uuid"))]
    pub product_template_version: Uuid,
    /// Where it is reached, such as `shop.example.org`; no two instances have the same.
    #[schemars(extend("format" = "hostname"))]
    pub domain_name: String,
    /// Over the template's default values; null takes one of those away.
    #[serde(default)]
    pub values: Object,
    /// Over both, kept sealed and never shown.
    #[serde(default)]
    pub secrets: Object,
    /// Whose it is. Administrators only; without it, whoever asks.
    #[serde(default)]
    pub user_id: Option<String>,
    /// Its own namespace. Administrators only; without it, `caelus-` and its id.
    #[serde(default)]
    pub namespace: Option<String>,
}

/// Another release of an instance. What is left out stays.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Upgrade {
    /// Id of the template version.
    #[schemars(with = "String", extend("format" = "uuid"))]
    pub product_template_version: Uuid,
    /// In place of all earlier ones.
    #[serde(default)]
    pub values: Option<Object>,
    /// In place of all earlier ones; `{}` takes them away.
    #[serde(default)]
    pub secrets: Option<Object>,
}

/// A template version.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateVersionView {
    /// Also the name of its ProductTemplateVersion.
    #[schemars(with = "String", extend("format" = "uuid"))]
    pub id: Uuid,
    /// Source and digest.
    pub chart: Object,
    /// What the chart is given.
    pub default_values: Object,
    /// Where the chart wants an instance's domain name.
    pub domain_paths: Vec<String>,
    /// For how long a step of a release may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<i32>,
    /// When it was made.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created_at: Timestamp,
}

/// An instance. Has no secrets.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceView {
    /// Also the name of its CaelusInstance.
    #[schemars(with = "String", extend("format" = "uuid"))]
    pub id: Uuid,
    /// Whose it is.
    pub user_id: String,
    /// Id of the template version.
    #[schemars(with = "String", extend("format" = "uuid"))]
    pub product_template_version: Uuid,
    /// Its own namespace.
    pub namespace: String,
    /// Where it is reached.
    pub domain_name: String,
    /// Over the template's default values.
    pub values: Object,
    /// There are some.
    pub has_secrets: bool,
    /// Counts changes of what is wanted, from 1.
    pub generation: i64,
    /// How far the cluster is.
    pub status: StatusView,
    /// When it was made.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created_at: Timestamp,
    /// When what is wanted last changed.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub updated_at: Timestamp,
    /// When it was deleted; it is there until nothing of it is left.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
}

/// How far an instance is.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    /// In one word.
    pub phase: Phase,
    /// In some words, or empty.
    pub message: String,
    /// Counts releases, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_revision: Option<i64>,
    /// When phase or release last changed.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reconcile: Option<Timestamp>,
}

/// A page of a list.
#[derive(Serialize, JsonSchema)]
pub struct Page<T> {
    /// By id.
    pub items: Vec<T>,
    /// For the parameter `after` of the next page; none after the last.
    #[schemars(with = "Option<String>", extend("format" = "uuid"))]
    pub next: Option<Uuid>,
}

/// Which page.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PageQuery {
    /// At most so many, 1 to 200.
    #[serde(default = "default_limit")]
    #[schemars(range(min = 1, max = 200))]
    pub limit: i64,
    /// Those after this id.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("format" = "uuid"))]
    pub after: Option<Uuid>,
}

fn default_limit() -> i64 {
    50
}

impl From<Template> for TemplateVersionView {
    fn from(row: Template) -> Self {
        let Template { id, chart, default_values, domain_paths, timeout_seconds, created_at } = row;
        Self { id, chart, default_values, domain_paths, timeout_seconds, created_at }
    }
}

impl From<Instance> for InstanceView {
    fn from(row: Instance) -> Self {
        let status = StatusView {
            phase: row.status.phase,
            message: row.status.message,
            release_revision: row.status.release_revision,
            last_reconcile: row.status.last_reconcile,
        };
        Self {
            id: row.id,
            user_id: row.user_id,
            product_template_version: row.template,
            namespace: row.namespace,
            domain_name: row.domain_name,
            values: row.overrides,
            has_secrets: row.sealed.is_some(),
            generation: row.generation,
            status,
            created_at: row.created_at,
            updated_at: row.updated_at,
            deleted_at: row.deleted_at,
        }
    }
}
