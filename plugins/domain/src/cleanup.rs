//! The end of a Domain.
//!
//! | `db.retention` | what happens |
//! |---|---|
//! | `Retain` | the children go, the schema stays |
//! | `Delete` | the children go, then a Job drops the schema, then the Domain goes |
//!
//! Nothing is left behind in silence: a Domain that is to drop its schema stays until that is done. It goes without,
//! and says so in an Event, when its database cluster is gone or going, since the schema goes with it. When the
//! Job fails for good, deleting the Job tries again, and setting `db.retention` to `Retain` lets the Domain go.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;
use transom_sdk::State;
use transom_sdk::prelude::*;

use crate::spec::{Domain, DomainStatus, Retention};
use crate::{database, migration};

/// Pods that still run may write to the schema while it is dropped, so they are waited for, but not for ever: those of
/// a node that is lost go when somebody removes the node.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often the time is looked at while pods end.
const GRANULARITY: Duration = Duration::from_secs(10);

/// What is to be done for a Domain that is being deleted. A spec that is not valid must not keep it.
pub(crate) fn plan(domain: &Domain, cx: &Context) -> Result<Plan, Failure> {
    let mut plan = cx.plan();
    let schema = &domain.spec.db.schema;
    if domain.spec.db.retention == Retention::Retain {
        plan.finalized();
        return Ok(plan);
    }
    if domain.status.as_ref().is_some_and(|status| status.cleaned_up_by.is_some()) {
        plan.event("SchemaDropped", format!("dropped the schema {schema}"));
        plan.finalized();
        return Ok(plan);
    }
    if !database::stays(domain, cx)? {
        let cluster = domain.spec.db.cluster();
        let note =
            format!("the schema {schema} was not dropped: the cluster {cluster} is gone, and the schema with it");
        plan.warning("DatabaseGone", note);
        plan.finalized();
        return Ok(plan);
    }
    if is_running(domain, cx)? {
        say(&mut plan, "Stopping", "the pods end before the schema is dropped", true);
        return Ok(plan);
    }
    if let Err(missing) = database::find(domain, cx)? {
        let message = format!("{}; to keep the schema, set spec.db.retention to Retain", missing.message);
        say(&mut plan, missing.reason, &message, false);
        return Ok(plan);
    }
    let job = migration::clean_up_job(domain)?;
    let name = job.metadata.name.clone().unwrap_or_default();
    let mut runs = migration::runs(domain);
    let planned = plan.create_once(job);
    plan.run_once(&planned, &mut runs);
    let (health, is_there) = (plan.health(&planned), plan.observed(&planned).is_some());
    let status = DomainStatus { jobs: runs.into_status(), ..DomainStatus::default() };
    plan.status(&status);
    if let Some(refusal) = plan.refusal(&planned).cloned() {
        let message = format!("{}; to keep the schema, set spec.db.retention to Retain", refusal.message);
        say(&mut plan, &refusal.reason, &message, !refusal.is_final);
        return Ok(plan);
    }
    match health.state {
        // the Job goes with the other children, before the Domain does: that it has done its work is kept in the status
        State::Ready => {
            say(&mut plan, "CleanedUp", &format!("Job {name} dropped the schema {schema}"), true);
            plan.status(&DomainStatus { cleaned_up_by: Some(name), ..status });
            plan.requeue_after(Duration::from_secs(1));
        }
        State::Failed => {
            // of one that was cleaned up nothing is left to delete
            let again = if is_there { "delete the Job" } else { "change spec.db.migrationEnv" };
            let message = format!(
                "Job {name} failed ({}: {}); {again} to try again, or set spec.db.retention to Retain to keep the schema",
                health.reason, health.message
            );
            say(&mut plan, "CleanUpFailed", &message, false);
        }
        _ => say(&mut plan, "CleaningUp", &format!("Job {name} drops the schema {schema}"), true),
    }
    Ok(plan)
}

/// Something of the Domain may still use the schema.
fn is_running(domain: &Domain, cx: &Context) -> Result<bool, Failure> {
    let drops = migration::clean_up_job(domain)?.metadata.name.unwrap_or_default();
    if cx.children::<Deployment>().next().is_some() || cx.children::<Job>().any(|job| job.name() != drops) {
        return Ok(true);
    }
    let has_begun = |status: &DomainStatus| status.jobs.iter().any(|run| run.name == drops);
    if cx.child::<Job>(&drops).is_some() || domain.status.as_ref().is_some_and(has_begun) {
        return Ok(false); // begun, so it was found out before
    }
    let pods_of = |what: &str| {
        cx.list::<Pod>(&format!("app.kubernetes.io/instance={},app.kubernetes.io/name={what}", domain.name()))
    };
    let (servers, migrations) = (pods_of("domain"), pods_of("domain-migration"));
    let mut pods = servers?;
    pods.extend(migrations?);
    if pods.iter().all(|pod| matches!(migration::phase(pod), Some("Succeeded" | "Failed"))) {
        return Ok(false);
    }
    let since = domain.metadata.deletion_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let waited = cx.now(GRANULARITY)?.as_second().saturating_sub(since.as_second());
    Ok(u64::try_from(waited).unwrap_or(0) < PATIENCE.as_secs())
}

fn say(plan: &mut Plan, reason: &str, message: &str, is_progress: bool) {
    plan.condition(Condition::new("Ready", false, reason, message));
    plan.condition(Condition::new("Progressing", is_progress, reason, message));
    plan.condition(Condition::new("Degraded", !is_progress, reason, message));
}
