//! The Domain primitive: a service with a database schema of its own.
//!
//! A `Domain` becomes a migration Job, a Deployment and a Service. First its database is looked up (a CloudNativePG
//! cluster and the secret that CloudNativePG makes for applications), then the schema is migrated by a Job, then the
//! Deployment follows: it is held as it stands until the migration of its version is done, so a failed migration leaves
//! the running version up.

mod database;
mod migration;
mod report;
mod spec;
#[cfg(all(test, not(feature = "next")))] // snapshots are of the build without it
mod tests;
mod workload;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Secret, Service};
pub use spec::{
    Database, Domain, DomainSpec, DomainStatus, ImagePullPolicy, LogLevel, Observability, Resources, Rollout, Security,
    Strategy,
};
use transom_sdk::prelude::*;

/// Serves `Domain`.
pub struct DomainPlugin;
transom_sdk::export!(DomainPlugin);

const VERSION: &str =
    if cfg!(feature = "next") { concat!(env!("CARGO_PKG_VERSION"), "+next") } else { env!("CARGO_PKG_VERSION") };

impl Plugin for DomainPlugin {
    fn manifest() -> Manifest<Self> {
        Manifest::new("domain", VERSION)
            .primary::<Domain>()
            .child::<Deployment>(Delivery::Status)
            .child::<Job>(Delivery::Status)
            .child::<Service>(Delivery::Metadata)
            .read::<database::Cluster>(Delivery::Metadata)
            .read::<Secret>(Delivery::Metadata) // that it is there; what it says is between kubelet and container
    }
}

impl Reconcile<Domain> for DomainPlugin {
    fn reconcile(domain: &Domain, cx: &Context) -> Result<Plan, Failure> {
        spec::validate(domain)?;
        let migration = migration::job(domain)?;
        let name = migration.metadata.name.clone().unwrap_or_default();
        let found = database::find(domain, cx)?;

        let mut plan = cx.plan();
        if found.is_ok() {
            let migration = migration::plan(&mut plan, cx, migration);
            plan.apply_after(migration, workload::deployment(domain));
            plan.apply(workload::service(domain));
        } else {
            plan.hold_rest();
        }
        report::publish(&mut plan, cx, domain, found.err(), &name)?;
        Ok(plan)
    }
}
