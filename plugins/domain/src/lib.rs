//! The Domain primitive: a service with a database schema of its own.
//!
//! A `Domain` becomes a migration Job, a Deployment, a Service and what belongs to running them: a NetworkPolicy, a
//! PodDisruptionBudget, and where the spec asks for them a HorizontalPodAutoscaler and a ServiceMonitor. First its database is looked up (a CloudNativePG
//! cluster and the secret that CloudNativePG makes for applications), then the schema is migrated by a Job, then the
//! Deployment follows: it is held as it stands until the migration of its version is done, so a failed migration leaves
//! the running version up.

mod cleanup;
mod database;
mod migration;
mod monitoring;
mod network;
mod report;
mod rollout;
mod spec;
#[cfg(all(test, not(feature = "next")))] // snapshots are of the build without it
mod tests;
mod workload;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use report::Run;
pub use spec::{
    Autoscaling, Canary, CanaryStatus, CanaryStep, Database, Domain, DomainSpec, DomainStatus, ImagePullPolicy,
    LogLevel, NetworkProfile, Observability, Resources, Retention, Rollout, Security, Strategy,
};
use transom_sdk::prelude::*;

/// Serves `Domain`.
pub struct DomainPlugin;
transom_sdk::export!(DomainPlugin);

/// `spec.config` of the `Plugin` record: what is the same for all Domains of a platform.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// Where servers send traces and metrics by OTLP: an URL that becomes `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
}

const VERSION: &str =
    if cfg!(feature = "next") { concat!(env!("CARGO_PKG_VERSION"), "+next") } else { env!("CARGO_PKG_VERSION") };

impl Plugin for DomainPlugin {
    fn manifest() -> Manifest<Self> {
        Manifest::new("domain", VERSION)
            .primary::<Domain>()
            .config::<Config>()
            .finalizes()
            .child::<Deployment>(Delivery::Full) // replicas that live are said again until an autoscaler takes over
            .child::<Job>(Delivery::Full) // whether it expires
            .child::<Service>(Delivery::Metadata)
            .child::<HorizontalPodAutoscaler>(Delivery::Status)
            .child::<NetworkPolicy>(Delivery::Metadata)
            .child::<PodDisruptionBudget>(Delivery::Metadata)
            .child::<monitoring::ServiceMonitor>(Delivery::Metadata)
            .read::<Pod>(Delivery::Status)
            .read::<monitoring::Definition>(Delivery::Status)
            .read::<database::Cluster>(Delivery::Metadata)
            .read::<Secret>(Delivery::Metadata) // that it is there; what it says is between kubelet and container
    }
}

impl Reconcile<Domain> for DomainPlugin {
    fn reconcile(domain: &Domain, cx: &Context) -> Result<Plan, Failure> {
        if cx.deleting() {
            return cleanup::plan(domain, cx);
        }
        spec::validate(domain)?;
        let config: Config = cx.config()?;
        let job = migration::job(domain)?;
        let name = job.metadata.name.clone().unwrap_or_default();
        let found = database::find(domain, cx)?;

        let mut plan = cx.plan();
        let (mut canary, mut is_planned) = (None, false);
        let mut runs = migration::runs(domain);
        let mut migrated = runs.ended(&name).unwrap_or_else(|| cx.health::<Job>(&name));
        if found.is_ok() {
            let migration = migration::plan(&mut plan, cx, job, &mut runs);
            migrated = migration.health.clone();
            is_planned = migration.is_alone;
            canary = rollout::plan(&mut plan, domain, cx, &config, &migration)?;
            plan.apply(workload::service(domain));
            plan.apply(network::policy(domain));
            plan.apply(workload::disruption_budget(domain));
            if let Some(autoscaler) = workload::autoscaler(domain) {
                plan.apply(autoscaler);
            }
            monitoring::plan(&mut plan, domain, cx)?;
        } else {
            plan.hold_rest();
        }
        let jobs = if is_planned { runs.into_status() } else { runs.into_status_with_rest() };
        report::publish(&mut plan, cx, domain, found.err(), Run { job: name, health: migrated, jobs }, canary)?;
        Ok(plan)
    }
}
