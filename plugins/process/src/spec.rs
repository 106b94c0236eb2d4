use std::collections::BTreeMap;
use std::fmt;

use serde_json::json;
use transom_sdk::Violations;
use transom_sdk::prelude::*;

const CANARY_WITHOUT_STRATEGY: &str = "needs the strategy Canary: set spec.rollout.strategy to Canary or remove it";

/// A long-running orchestration: workers that execute a definition on a task queue of Temporal.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "ameide.io",
    version = "v1",
    kind = "Process",
    plural = "processes",
    category = "primitives",
    namespaced,
    status = "ProcessStatus",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Workers","type":"integer","jsonPath":".status.readyReplicas"}"#,
    printcolumn = r#"{"name":"Definition","type":"integer","jsonPath":".status.definition.version"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.drain.phase","priority":1}"#,
    printcolumn = r#"{"name":"Image","type":"string","jsonPath":".spec.image","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ProcessSpec {
    /// Container image of the Temporal worker. It reads the definition from `/etc/process-definition/definition.json`.
    #[schemars(length(min = 1))]
    pub image: String,

    /// When the kubelet pulls the image.
    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,

    /// What the workers execute.
    pub definition_ref: DefinitionRef,

    /// Where they execute it.
    pub temporal: Temporal,

    /// What must be Ready for the process to be whole.
    #[serde(default)]
    pub dependencies: Dependencies,

    /// How many workers run.
    #[serde(default = "one")]
    #[schemars(range(min = 0))]
    pub replicas: i32,

    /// What each worker is given.
    #[serde(default)]
    pub resources: Resources,

    /// How a new version replaces the old one, and how much a tenant may run at the same time.
    #[serde(default)]
    pub rollout: Rollout,

    /// Logs and metrics.
    #[serde(default)]
    pub observability: Observability,

    /// Jobs that look after deadlines: each is a CronJob `<process>-sla-<name>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub sla_checks: Vec<SlaCheck>,

    /// A job that clears up after the process: the CronJob `<process>-cleanup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<Scheduled>,

    /// What becomes of running workflows when the Process is deleted.
    #[serde(default)]
    pub drain: Drain,
}

fn one() -> i32 {
    1
}

/// Which definition, and whose.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DefinitionRef {
    /// Id in the Transformation Domain; workers find it in `PROCESS_DEFINITION_ID`.
    #[schemars(length(min = 1, max = 253))]
    pub id: String,
    /// Tenant that it belongs to.
    #[schemars(length(min = 1, max = 253))]
    pub tenant_id: String,
    /// How often it is asked whether there is a newer one: a number and `s`, `m` or `h`.
    #[serde(default = "five_minutes")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,5}[smh]$"))]
    pub refresh_interval: String,
}

fn five_minutes() -> String {
    "5m".into()
}

/// Where workflows run.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Temporal {
    /// A namespace of Temporal, which must exist; workers find it in `TEMPORAL_NAMESPACE`.
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[A-Za-z0-9][-_.A-Za-z0-9]*$"))]
    pub namespace: String,
    /// This Process's alone: when it is deleted, so are the workflows on it. Workers find it in `TASK_QUEUE`.
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[A-Za-z0-9][-_./:A-Za-z0-9]*$"))]
    pub task_queue: String,
}

/// What must be Ready.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Dependencies {
    /// Domains of the same namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 24),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub domains: Vec<DependencyRef>,
    /// Agents of the same namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 24),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub agents: Vec<DependencyRef>,
}

/// Names another primitive.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct DependencyRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What each worker is given. Memory is the limit, too; CPU is not limited.
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

/// How a new version replaces the old one.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = json!([{
    "rule": "!has(self.canary) || (has(self.strategy) && self.strategy == 'Canary')",
    "message": CANARY_WITHOUT_STRATEGY, "fieldPath": ".canary",
}])))]
pub struct Rollout {
    /// `RollingUpdate`: side by side, never fewer workers than asked for. `Recreate`: the old ones stop first.
    /// `Canary`: a few workers of the new version poll the same queue beside the old ones; when they have been healthy
    /// for long enough, the new version is rolled out as with `RollingUpdate`.
    pub strategy: Strategy,
    /// How the new version proves itself; without it one worker for a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// How many workflows of one tenant may run at the same time: workers find it in `MAX_CONCURRENCY_PER_TENANT` and
    /// see to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_concurrency_per_tenant: Option<i32>,
}

/// How a new version proves itself.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Canary {
    /// How many workers of the new version run.
    #[schemars(range(min = 1))]
    pub replicas: i32,
    /// For how long all of them must be available without a break: a number and `s`, `m` or `h`.
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,5}[smh]$"))]
    pub duration: String,
}

impl Default for Canary {
    fn default() -> Self {
        Self { replicas: 1, duration: "1m".into() }
    }
}

/// Logs and metrics.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Observability {
    /// Labels that workers add to their metrics; they find them in `METRICS_TAGS` as `key=value,key=value`, sorted.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics_tags: BTreeMap<String, String>,
}

/// A job that looks after deadlines.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SlaCheck {
    /// Tells it from the others; part of the CronJob's name.
    #[schemars(length(min = 1, max = 20), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// When and what.
    #[serde(flatten)]
    pub job: Scheduled,
}

/// A job that runs by the clock.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Scheduled {
    /// As cron writes it: `*/5 * * * *`.
    #[schemars(length(min = 1, max = 253))]
    pub schedule: String,
    /// Such as `Europe/Berlin`; without it that of the cluster, by custom UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Container image; the worker's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub image: Option<String>,
    /// Arguments; by default `sla-check <name>` and `cleanup`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
}

/// What becomes of running workflows.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Drain {
    /// `Wait`: they may end by themselves. `Cancel`: they are asked to end, and workers may tidy up. `Terminate`: they
    /// end at once. Workers stay until no workflow runs.
    pub policy: DrainPolicy,
    /// How long `Wait` and `Cancel` wait from the deletion on; what runs then is terminated. A number and `s`, `m` or
    /// `h`.
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,5}[smh]$"))]
    pub timeout: String,
}

impl Default for Drain {
    fn default() -> Self {
        Self { policy: DrainPolicy::default(), timeout: "10m".into() }
    }
}

/// What becomes of running workflows.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "said where it is used")]
pub enum DrainPolicy {
    #[default]
    Wait,
    Cancel,
    Terminate,
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

/// How a Process is; its conditions say more.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStatus {
    /// The definition that workers execute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition: Option<DefinitionStatus>,
    /// Workers that run, those of a canary included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// How far a canary has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryStatus>,
    /// How far a deletion has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainStatus>,
}

/// A definition.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DefinitionStatus {
    /// As the Transformation Domain counts.
    pub version: i64,
    /// `sha256:` and the digest of its canonical JSON.
    pub checksum: String,
}

/// How far a canary has come.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CanaryStatus {
    /// Workers of the new version.
    pub replicas: i32,
    /// Since when all of them are available (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy_since: Option<String>,
}

/// How far a deletion has come.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DrainStatus {
    /// What is being done.
    pub phase: DrainPhase,
    /// Workflows that still run.
    #[serde(default)]
    pub running: i64,
    /// When what still runs is terminated (RFC 3339).
    #[serde(default)]
    pub deadline: String,
    /// All that ran were asked to end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel_requested: bool,
    /// How often the termination of all that ran was asked for.
    #[serde(default)]
    pub terminations: i64,
}

/// What is being done for a Process that is deleted, in this order; by policy some are left out.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainPhase {
    /// CronJobs go, so that they start nothing any more.
    Stopping,
    /// Workflows may end by themselves.
    Waiting,
    /// Workflows were asked to end.
    Cancelling,
    /// Workflows are ended.
    Terminating,
    /// No workflow runs; workers go.
    ScalingDown,
}

impl fmt::Display for DrainPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Process {
    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
}

/// What the schema lets through is a number and a unit.
pub(crate) fn seconds(field: &str, text: &str) -> Result<u32, Failure> {
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        _ => 0,
    };
    let number = text.get(..text.len().saturating_sub(1)).and_then(|number| number.parse::<u32>().ok());
    let seconds = number.and_then(|number| number.checked_mul(unit)).filter(|seconds| *seconds > 0);
    seconds.ok_or_else(|| Failure::invalid(field, "must be a number and s, m or h, such as 10m"))
}

/// What the schema of the CRD cannot say, and what it says with rules that only an API server runs.
pub(crate) fn validate(process: &Process) -> Result<(), Failure> {
    let mut violations = Violations::default();
    let name = process.name();
    let label = name.len() <= 63 && !name.contains('.');
    let message = "must have at most 63 letters, digits and -: it becomes a label";
    violations.require(label, "metadata.name", message);
    let rollout = &process.spec.rollout;
    let fits = rollout.canary.is_none() || rollout.strategy == Strategy::Canary;
    violations.require(fits, "spec.rollout.canary", CANARY_WITHOUT_STRATEGY);
    for (key, value) in &process.spec.observability.metrics_tags {
        let field = format!("spec.observability.metricsTags[{key}]");
        let plain = !key.is_empty() && !key.contains(['=', ',']) && !value.contains(['=', ',']);
        violations.require(plain, &field, "must be without = and , in key and value: they separate tags");
    }
    violations.into_result()
}
