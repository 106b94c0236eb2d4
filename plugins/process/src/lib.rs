//! The Process primitive: workers that execute a definition on a task queue of Temporal.
//!
//! A `Process` becomes a ConfigMap with the definition, a Deployment of workers, a PodDisruptionBudget, and where the
//! spec asks for them CronJobs. The definition is fetched from the Transformation Domain; the last good one stays in use
//! when that cannot be asked. Temporal's namespace must exist before the first worker starts. When the Process is
//! deleted its workflows are drained before the workers go.

mod canonical;
mod definition;
mod dependencies;
mod drain;
pub mod proto;
mod report;
mod rollout;
mod schedule;
mod spec;
mod temporal;
#[cfg(test)]
mod tests;
mod workload;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
pub use spec::{
    Canary, CanaryStatus, DefinitionRef, DefinitionStatus, Dependencies, DependencyRef, Drain, DrainPhase, DrainPolicy,
    DrainStatus, ImagePullPolicy, Observability, Process, ProcessSpec, ProcessStatus, Resources, Rollout, Scheduled,
    SlaCheck, Strategy, Temporal,
};
use transom_sdk::Protocol;
use transom_sdk::prelude::*;

/// Serves `Process`.
pub struct ProcessPlugin;
transom_sdk::export!(ProcessPlugin);

/// `spec.config` of the `Plugin` record: what is the same for all Processes of a platform.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// Host and port by which workers reach Temporal; becomes `TEMPORAL_ADDRESS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temporal_address: Option<String>,
    /// How often Temporal is asked whether it is well: a number and `s`, `m` or `h`.
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,5}[smh]$"))]
    pub temporal_check_interval: String,
    /// Where workers send traces and metrics by OTLP: an URL that becomes `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { temporal_address: None, temporal_check_interval: "30s".into(), otlp_endpoint: None }
    }
}

/// Endpoints of the `Plugin` record.
const TRANSFORMATION: &str = "transformation";
const TEMPORAL: &str = "temporal";

impl Plugin for ProcessPlugin {
    fn manifest() -> Manifest<Self> {
        Manifest::new("process", env!("CARGO_PKG_VERSION"))
            .primary::<Process>()
            .config::<Config>()
            .finalizes()
            .endpoint(TRANSFORMATION, Protocol::Grpc, "Process definitions come from the Transformation Domain")
            .endpoint(TEMPORAL, Protocol::Grpc, "Temporal's frontend: health, namespaces, draining on deletion")
            .child::<ConfigMap>(Delivery::Metadata)
            .child::<Deployment>(Delivery::Status)
            .child::<PodDisruptionBudget>(Delivery::Metadata)
            .child::<CronJob>(Delivery::Metadata)
            .read::<Pod>(Delivery::Status)
            .read::<dependencies::Domain>(Delivery::Status)
            .read::<dependencies::Agent>(Delivery::Status)
    }
}

impl Reconcile<Process> for ProcessPlugin {
    fn reconcile(process: &Process, cx: &Context) -> Result<Plan, Failure> {
        if cx.deleting() {
            return drain::plan(process, cx);
        }
        spec::validate(process)?;
        let config: Config = cx.config()?;
        // asked together
        let definition = definition::find(process, cx);
        let temporal = temporal::check(process, cx, &config);
        let missing = dependencies::missing(process, cx);
        let (definition, temporal, missing) = (definition?, temporal?, missing?);

        let mut plan = cx.plan();
        let mut canary = None;
        // a namespace that was there once may be out of sight; one that never was is waited for
        let was_there = cx.child::<Deployment>(process.name()).is_some();
        let may_run = temporal.is_well() || (temporal.is_unreachable() && was_there);
        if let (Some(current), true) = (&definition.current, may_run) {
            definition::plan(&mut plan, process, cx, &definition, current)?;
            canary = rollout::plan(&mut plan, process, cx, &config, current)?;
            plan.apply(workload::disruption_budget(process));
            schedule::plan(&mut plan, process, &config, current)?;
        } else {
            plan.hold_rest();
        }
        let refusals = report::refusals(&plan);
        let facts = report::Facts { definition, temporal, missing, canary, refusals };
        report::publish(&mut plan, process, cx, &facts)?;
        Ok(plan)
    }
}
