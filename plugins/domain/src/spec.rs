use std::fmt;

use k8s_openapi::api::core::v1::EnvVar;
use serde_json::json;
use transom_sdk::prelude::*;
use transom_sdk::{JobRun, Violations};

use crate::database::{SCHEMA_VARIABLE, VARIABLES};
use crate::workload::LOG_LEVEL_VARIABLE;

const RESERVED_SCHEMA: &str =
    "must not be public, information_schema or begin with pg_: a Domain needs a schema of its own";
const MIN_OVER_MAX: &str = "must not be greater than maxReplicas: lower it or raise spec.autoscaling.maxReplicas";
const CANARY_WITHOUT_STRATEGY: &str = "needs the strategy Canary: set spec.rollout.strategy to Canary or remove it";

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
    printcolumn = r#"{"name":"Schema","type":"string","jsonPath":".status.dbMigrationVersion","priority":1}"#,
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

    /// How many pods run. With `autoscaling` only where that starts from, once it has scaled.
    #[serde(default = "one")]
    #[schemars(range(min = 0))]
    pub replicas: i32,

    /// Lets a HorizontalPodAutoscaler decide how many pods run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,

    /// Environment variables of the server, beside those that the platform sets and that must not be set here:
    /// `PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`, `DB_SCHEMA`, `LOG_LEVEL`. The platform also sets
    /// `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_EXPORTER_OTLP_ENDPOINT`; what is set here wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,

    /// Logs and metrics.
    #[serde(default)]
    pub observability: Observability,

    /// Identity and network.
    #[serde(default)]
    pub security: Security,

    /// How a new version replaces the old one.
    #[serde(default)]
    pub rollout: Rollout,
}

fn one() -> i32 {
    1
}

/// Where a Domain keeps its data. Any change here but that of `retention` runs the migration again.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// `cnpg/` and the name of a CloudNativePG cluster in the same namespace. The credentials are those of its
    /// application secret, `<cluster>-app`.
    #[schemars(length(max = 55), regex(pattern = r"^cnpg/[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub cluster_ref: String,

    /// The PostgreSQL schema that is this Domain's alone. Containers find it in `DB_SCHEMA`.
    #[schemars(
        length(max = 63),
        regex(pattern = r"^[a-z_][a-z0-9_]*$"),
        extend("x-kubernetes-validations" = json!([{
            "rule": "self != 'public' && self != 'information_schema' && !self.startsWith('pg_')",
            "message": RESERVED_SCHEMA,
        }]))
    )]
    pub schema: String,

    /// Image that brings the schema up to date and then exits with 0. It is run at least once for every image of the
    /// Domain, so running it again must do no harm. What it writes to its termination message path becomes
    /// `status.dbMigrationVersion`.
    #[schemars(length(min = 1))]
    pub migration_job_image: String,

    /// What becomes of the schema when the Domain is deleted. `Retain`: it stays as it is. `Delete`: a Job of
    /// `migrationJobImage` with the argument `drop` drops it before the Domain goes.
    #[serde(default)]
    pub retention: Retention,

    /// How long a migration, or dropping the schema, may take, retries included: a number and `s`, `m` or `h`.
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
    pub(crate) fn migration_timeout_seconds(&self) -> Result<i64, Failure> {
        seconds("spec.db.migrationTimeout", &self.migration_timeout)
    }
}

/// What the schema lets through is a number and a unit.
pub(crate) fn seconds(field: &str, text: &str) -> Result<i64, Failure> {
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        _ => 0,
    };
    let number = text.get(..text.len().saturating_sub(1)).and_then(|number| number.parse::<i64>().ok());
    let seconds = number.and_then(|number| number.checked_mul(unit)).filter(|seconds| *seconds > 0);
    seconds.ok_or_else(|| Failure::invalid(field, "must be a number and s, m or h, such as 10m"))
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

/// How many pods run, by load.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = json!([{
    "rule": "self.minReplicas <= self.maxReplicas", "message": MIN_OVER_MAX, "fieldPath": ".minReplicas",
}])))]
pub struct Autoscaling {
    /// Never fewer than this.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub min_replicas: i32,
    /// Never more than this.
    #[schemars(range(min = 1))]
    pub max_replicas: i32,
    /// The share of `resources.cpu` that pods are to use on average, in percent.
    #[serde(default = "eighty", rename = "targetCPU")]
    #[schemars(range(min = 1, max = 1000))]
    pub target_cpu: i32,
}

fn eighty() -> i32 {
    80
}

/// Logs and metrics.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Observability {
    /// What is logged; containers find it in `LOG_LEVEL`.
    pub log_level: LogLevel,
    /// Prometheus scrapes `/metrics` on port 9090 of the server. Takes effect as soon as the cluster has
    /// the kind ServiceMonitor.
    pub service_monitor: bool,
}

/// Identity and network.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Security {
    /// ServiceAccount of the pods; without one they run as `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub service_account_name: Option<String>,
    /// What may reach the pods, and what they may reach. `backend`: reached by pods of this namespace. `internal`: by
    /// pods of all namespaces. `isolated`: by nothing, and reaches its database and DNS only. `open`: by everything.
    pub network_profile: NetworkProfile,
}

/// How a new version replaces the old one.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = json!([{
    "rule": "!has(self.canary) || (has(self.strategy) && self.strategy == 'Canary')",
    "message": CANARY_WITHOUT_STRATEGY, "fieldPath": ".canary",
}])))]
pub struct Rollout {
    /// `RollingUpdate`: side by side, never fewer pods than asked for. `Recreate`: the old ones stop first. `Canary`: a
    /// few pods of the new version run beside the old ones and take their share of calls; when they have been
    /// healthy for all steps, the new version is rolled out as with `RollingUpdate`.
    pub strategy: Strategy,
    /// Steps of the strategy `Canary`; without it one pod for five minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

/// How a new version proves itself.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// One after the other.
    #[schemars(length(min = 1, max = 10))]
    pub steps: Vec<CanaryStep>,
}

/// One step of a canary.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CanaryStep {
    /// How many pods of the new version run.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub replicas: i32,
    /// For how long all of them must be available without a break: a number and `s`, `m` or `h`.
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,5}[smh]$"))]
    pub duration: String,
}

impl Rollout {
    /// What a canary goes through.
    pub(crate) fn steps(&self) -> Vec<CanaryStep> {
        let one = || vec![CanaryStep { replicas: 1, duration: "5m".into() }];
        self.canary.as_ref().map_or_else(one, |canary| canary.steps.clone())
    }
}

/// What becomes of data.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "said where it is used")]
pub enum Retention {
    #[default]
    Retain,
    Delete,
}

/// Who may call whom.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "said where it is used")]
pub enum NetworkProfile {
    #[default]
    Backend,
    Internal,
    Isolated,
    Open,
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
    Canary,
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
    /// Pods that serve, those of a canary included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// What the last migration that succeeded wrote to its termination message path: by custom the version that the
    /// schema has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub db_migration_version: Option<String>,
    /// The Job that `dbMigrationVersion` was taken from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration_job: Option<String>,
    /// What became of its Jobs: one that has finished and was cleaned up is not run again before it changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub jobs: Vec<JobRun>,
    /// How far a canary has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryStatus>,
    /// The Domain is being deleted, and the Job of this name has dropped its schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cleaned_up_by: Option<String>,
}

/// How far a canary has come.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CanaryStatus {
    /// The step at work, from 1.
    pub step: i32,
    /// How many there are.
    pub steps: i32,
    /// Pods of the new version in this step.
    pub replicas: i32,
    /// Since when all of them are available (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy_since: Option<String>,
}

impl Domain {
    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
}

/// What the schema of the CRD cannot say, and what it says with rules that only an API server runs.
pub(crate) fn validate(domain: &Domain) -> Result<(), Failure> {
    let mut violations = Violations::default();
    let name = domain.name();
    let label = name.len() <= 63 && !name.contains('.') && name.starts_with(|first: char| first.is_ascii_lowercase());
    let message = "must start with a letter and have at most 63 letters, digits and -: its Service has the same name";
    violations.require(label, "metadata.name", message);
    let schema = domain.spec.db.schema.as_str();
    let reserved = schema == "public" || schema == "information_schema" || schema.starts_with("pg_");
    violations.require(!reserved, "spec.db.schema", RESERVED_SCHEMA);
    let ordered = domain.spec.autoscaling.as_ref().is_none_or(|scaling| scaling.min_replicas <= scaling.max_replicas);
    violations.require(ordered, "spec.autoscaling.minReplicas", MIN_OVER_MAX);
    let rollout = &domain.spec.rollout;
    let fits = rollout.canary.is_none() || rollout.strategy == Strategy::Canary;
    violations.require(fits, "spec.rollout.canary", CANARY_WITHOUT_STRATEGY);
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
