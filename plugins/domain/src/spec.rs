use std::fmt;

use k8s_openapi::api::core::v1::EnvVar;
use transom_sdk::Violations;
use transom_sdk::prelude::*;

use crate::database::{SCHEMA_VARIABLE, VARIABLES};
use crate::workload::LOG_LEVEL_VARIABLE;

/// A bounded context that holds business data and serves it over gRPC: one container image, one database schema.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "ameide.io",
    version = "v1",
    kind = "Domain",
    category = "primitives",
    namespaced,
    status = "DomainStatus",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Replicas","type":"integer","jsonPath":".status.readyReplicas"}"#,
    printcolumn = r#"{"name":"Image","type":"string","jsonPath":".spec.image","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct DomainSpec {
    /// Container image of the gRPC server. It listens on port 50051 and serves the standard gRPC health service. A new
    /// image first runs the migration.
    #[schemars(length(min = 1))]
    pub image: String,

    /// When the kubelet pulls the images of server and migration.
    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,

    /// Version for people and for selectors; becomes the label `app.kubernetes.io/version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"))]
    pub version: Option<String>,

    /// The database schema and how it is migrated.
    pub db: Database,

    /// What each pod is given.
    #[serde(default)]
    pub resources: Resources,

    /// How many pods run.
    #[serde(default = "one")]
    #[schemars(range(min = 0))]
    pub replicas: i32,

    /// Environment variables of the server, beside those that the platform sets: `PGHOST`, `PGPORT`, `PGUSER`,
    /// `PGPASSWORD`, `PGDATABASE`, `DB_SCHEMA`, `LOG_LEVEL`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,

    /// Logs.
    #[serde(default)]
    pub observability: Observability,

    /// Identity.
    #[serde(default)]
    pub security: Security,

    /// How a new version replaces the old one.
    #[serde(default)]
    pub rollout: Rollout,
}

fn one() -> i32 {
    1
}

/// Where a Domain keeps its data. Any change here runs the migration again.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// `cnpg/` and the name of a CloudNativePG cluster in the same namespace. The credentials are those of its
    /// application secret, `<cluster>-app`.
    #[schemars(length(max = 55), regex(pattern = r"^cnpg/[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub cluster_ref: String,

    /// The PostgreSQL schema that is this Domain's alone. Containers find it in `DB_SCHEMA`.
    #[schemars(length(max = 63), regex(pattern = r"^[a-z_][a-z0-9_]*$"))]
    pub schema: String,

    /// Image that brings the schema up to date and then exits with 0. It is run at least once for every image of the
    /// Domain, so running it again must do no harm.
    #[schemars(length(min = 1))]
    pub migration_job_image: String,

    /// How long a migration may take, retries included: a number and `s`, `m` or `h`.
    #[serde(default = "ten_minutes")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,5}[smh]$"))]
    pub migration_timeout: String,

    /// Environment variables of the migration, beside those of the database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub migration_env: Vec<EnvVar>,
}

fn ten_minutes() -> String {
    "10m".into()
}

impl Database {
    /// What the schema lets through is a number and a unit.
    pub(crate) fn migration_timeout_seconds(&self) -> Result<i64, Failure> {
        let text = &self.migration_timeout;
        let unit = match text.chars().last() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            _ => 0,
        };
        let number = text.get(..text.len().saturating_sub(1)).and_then(|number| number.parse::<i64>().ok());
        let seconds = number.and_then(|number| number.checked_mul(unit)).filter(|seconds| *seconds > 0);
        seconds.ok_or_else(|| Failure::invalid("spec.db.migrationTimeout", "must be a number and s, m or h"))
    }
}

/// What each pod is given. Memory is the limit, too; CPU is not limited.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// Such as `500m` or `2`.
    #[schemars(regex(pattern = r"^([0-9]+m|[0-9]+(\.[0-9]{1,3})?)$"))]
    pub cpu: String,
    /// Such as `512Mi`.
    #[schemars(regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$"))]
    pub memory: String,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpu: "100m".into(), memory: "256Mi".into() }
    }
}

/// Logs.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Observability {
    /// What is logged; containers find it in `LOG_LEVEL`.
    pub log_level: LogLevel,
}

/// Identity.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Security {
    /// ServiceAccount of the pods; without one they run as `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub service_account_name: Option<String>,
}

/// How a new version replaces the old one.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Rollout {
    /// `RollingUpdate`: side by side, never fewer pods than asked for. `Recreate`: the old ones stop first.
    pub strategy: Strategy,
}

/// When an image is pulled.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "Kubernetes' own words")]
pub enum ImagePullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

/// How much is logged.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "everybody's words")]
pub enum LogLevel {
    Trace,
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

/// How a new version replaces the old one.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "Kubernetes' own words")]
pub enum Strategy {
    #[default]
    RollingUpdate,
    Recreate,
}

impl fmt::Display for ImagePullPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        })
    }
}

/// How a Domain is; its conditions say more.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DomainStatus {
    /// Pods that serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
}

impl Domain {
    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
}

/// What the schema of the CRD cannot say.
pub(crate) fn validate(domain: &Domain) -> Result<(), Failure> {
    let mut violations = Violations::default();
    let name = domain.name();
    let label = name.len() <= 63 && !name.contains('.') && name.starts_with(|first: char| first.is_ascii_lowercase());
    let message = "must start with a letter and have at most 63 letters, digits and -: its Service has the same name";
    violations.require(label, "metadata.name", message);
    let platform = || VARIABLES.iter().map(|(variable, _)| *variable).chain([SCHEMA_VARIABLE]);
    check_env(&mut violations, "spec.env", &domain.spec.env, platform().chain([LOG_LEVEL_VARIABLE]));
    check_env(&mut violations, "spec.db.migrationEnv", &domain.spec.db.migration_env, platform());
    violations.into_result()
}

fn check_env<'a>(
    violations: &mut Violations,
    field: &str,
    env: &[EnvVar],
    platform: impl Iterator<Item = &'a str> + Clone,
) {
    for (index, variable) in env.iter().enumerate() {
        if platform.clone().any(|name| name == variable.name) {
            violations
                .add(format!("{field}[{index}].name"), format!("must not be {}, which is set already", variable.name));
        }
    }
}
