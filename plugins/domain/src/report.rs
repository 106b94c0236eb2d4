use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use k8s_openapi::api::batch::v1::Job;
use transom_sdk::prelude::*;
use transom_sdk::{JobRun, Kind, Refusal, State, Status};

use crate::database::Missing;
use crate::migration;
use crate::rollout::{self, Running};
use crate::spec::{Domain, DomainStatus};

/// What the conditions are made of.
struct Facts {
    missing: Option<Missing>,
    migration: Health,
    migration_job: String,
    is_job_there: bool,
    workload: Health,
    canary: Option<Running>,
    /// What the API server did not accept; one that is final first.
    refusals: Vec<Refusal>,
}

/// A condition's status, reason and message.
type Verdict = (Status, String, String);

/// The migration of this version.
pub(crate) struct Run {
    /// Name of its Job.
    pub(crate) job: String,
    /// How it is, or how it ended.
    pub(crate) health: Health,
    /// For the status.
    pub(crate) jobs: Vec<JobRun>,
}

/// Conditions and status. `Ready` is `DBReady` and `WorkloadReady` and neither `MigrationFailed` nor `Degraded`.
///
/// Jobs and Deployment are judged as they live, also when their database is missing and they are only held.
pub(crate) fn publish(
    plan: &mut Plan,
    cx: &Context,
    domain: &Domain,
    missing: Option<Missing>,
    run: Run,
    canary: Option<Running>,
) -> Result<(), Failure> {
    let mut ready_replicas = 0;
    for name in [domain.name(), &rollout::canary_name(domain)] {
        let deployment = cx.child::<Deployment>(name);
        let status = deployment.as_ref().map(Observed::status::<DeploymentStatus>).transpose()?.unwrap_or_default();
        ready_replicas += status.ready_replicas.unwrap_or(0);
    }
    let Run { job, health, jobs } = run;
    let (db_migration_version, migration_job) = migration::version(domain, cx, &job, health.is_ready())?;
    let facts = Facts {
        missing,
        is_job_there: cx.child::<Job>(&job).is_some(),
        migration: health,
        migration_job: job,
        workload: cx.health::<Deployment>(domain.name()),
        canary,
        refusals: refusals(plan),
    };
    let conditions = [
        ("DBReady", facts.database()),
        ("WorkloadReady", facts.workload()),
        ("MigrationSucceeded", facts.migration_succeeded()),
        ("MigrationFailed", facts.migration_failed()),
        ("Degraded", facts.degraded()),
        ("Progressing", facts.progressing()),
    ];
    plan.condition(ready(&conditions));
    for (kind, (status, reason, message)) in conditions {
        plan.condition(Condition::new(kind, status, reason, message));
    }
    plan.status(&DomainStatus {
        ready_replicas: Some(ready_replicas),
        db_migration_version,
        migration_job,
        jobs,
        canary: facts.canary.map(|canary| canary.status),
        cleaned_up_by: None,
    });
    Ok(())
}

fn refusals(plan: &Plan) -> Vec<Refusal> {
    let mut refusals: Vec<Refusal> = plan.refusals().cloned().collect();
    refusals.sort_by_key(|refusal| !refusal.is_final);
    refusals
}

/// Reason and message are those of the first condition that stands in the way.
fn ready(conditions: &[(&str, Verdict)]) -> Condition {
    let in_the_way = conditions.iter().find(|(kind, (status, ..))| match *kind {
        "DBReady" | "WorkloadReady" => *status != Status::True,
        "MigrationFailed" | "Degraded" => *status == Status::True,
        _ => false,
    });
    match in_the_way {
        Some((_, (_, reason, message))) => Condition::new("Ready", false, reason, message),
        None => Condition::new("Ready", true, "Ready", "the schema is migrated and all replicas are available"),
    }
}

impl Facts {
    fn database(&self) -> Verdict {
        if let Some(missing) = &self.missing {
            return verdict(false, missing.reason, &missing.message);
        }
        if let Some(refused) = self.refused::<Job>() {
            return refused;
        }
        match self.migration.state {
            State::Ready => verdict(true, "Migrated", "the schema is migrated"),
            State::Failed => self.migration_failed_as(false),
            _ => verdict(false, "MigrationRunning", &format!("waiting for Job {}", self.migration_job)),
        }
    }

    /// The API server does not accept a child of this kind.
    fn refused<K: Kind>(&self) -> Option<Verdict> {
        let refusal = self.refusals.iter().find(|refusal| refusal.type_meta.is_same_kind(&K::type_meta()))?;
        Some(verdict(false, &refusal.reason, &refusal.message))
    }

    fn workload(&self) -> Verdict {
        if let Some(refused) = self.refused::<Deployment>() {
            return refused;
        }
        match self.workload.state {
            State::Missing => verdict(false, "NotCreated", "the Deployment does not exist yet"),
            state => verdict(state == State::Ready, &self.workload.reason, &self.workload.message),
        }
    }

    fn migration_succeeded(&self) -> Verdict {
        let job = &self.migration_job;
        if let Some(refused) = self.refused::<Job>() {
            return refused;
        }
        match self.migration.state {
            State::Ready => verdict(true, "Complete", &format!("Job {job} is complete")),
            State::Failed => verdict(false, "MigrationFailed", &format!("Job {job} failed")),
            State::Missing => match &self.missing {
                Some(missing) => verdict(Status::Unknown, missing.reason, "it starts when the database is there"),
                None => verdict(false, "Waiting", &format!("Job {job} does not exist yet")),
            },
            _ => verdict(false, "Running", &format!("Job {job} is running")),
        }
    }

    fn migration_failed(&self) -> Verdict {
        match self.migration.state {
            State::Failed => self.migration_failed_as(true),
            _ => verdict(false, "NoFailure", "no migration of this version has failed"),
        }
    }

    fn migration_failed_as(&self, status: bool) -> Verdict {
        let (job, why, message) = (&self.migration_job, &self.migration.reason, &self.migration.message);
        // of one that was cleaned up nothing is left to delete
        let again = if self.is_job_there { ", or delete the Job to try again" } else { "" };
        let message = format!("Job {job} failed ({why}: {message}); change the image or the database{again}");
        verdict(status, "MigrationFailed", &message)
    }

    /// Something runs, but not as it should, and time alone will not mend it.
    fn degraded(&self) -> Verdict {
        if let Some(refusal) = self.refusals.first().filter(|refusal| refusal.is_final) {
            return verdict(true, &refusal.reason, &refusal.message);
        }
        if self.workload.state == State::Missing {
            return verdict(false, "NotDegraded", "nothing runs yet");
        }
        if self.workload.is_failed() {
            return verdict(true, &self.workload.reason, &self.workload.message);
        }
        if let Some(failed) = self.canary.as_ref().and_then(|canary| canary.failed.as_ref()) {
            let message = format!(
                "the canary does not become healthy ({}: {}), the version before keeps running; change the spec, or \
                 back, or set spec.rollout.strategy to RollingUpdate",
                failed.reason, failed.message
            );
            return verdict(true, "CanaryFailed", &message);
        }
        match (&self.missing, self.migration.state) {
            (Some(missing), _) => verdict(true, missing.reason, &missing.message),
            (None, State::Failed) => {
                verdict(true, "MigrationFailed", "the version before keeps running; the migration of this one failed")
            }
            _ => verdict(false, "NotDegraded", "what runs, runs as it should"),
        }
    }

    /// Something is under way that needs nobody's help.
    fn progressing(&self) -> Verdict {
        if let Some(refusal) = self.refusals.first() {
            return verdict(!refusal.is_final, &refusal.reason, &refusal.message);
        }
        if let Some(missing) = &self.missing {
            return verdict(false, missing.reason, &missing.message);
        }
        if let (State::Ready, Some(Running { status, failed })) = (self.migration.state, &self.canary) {
            let (step, steps, replicas) = (status.step, status.steps, status.replicas);
            let message = format!("canary in step {step} of {steps} with {replicas} pods of the new version");
            return match failed {
                Some(_) => verdict(false, "CanaryFailed", &message),
                None => verdict(true, "Canary", &message),
            };
        }
        match (self.migration.state, self.workload.state) {
            (State::Failed, _) => verdict(false, "MigrationFailed", "the migration failed"),
            (State::Ready, State::Ready) => verdict(false, "Complete", "everything is as the spec asks"),
            (State::Ready, State::Failed) => verdict(false, &self.workload.reason, &self.workload.message),
            (State::Ready, _) => verdict(true, "RollingOut", &self.workload.message),
            _ => verdict(true, "Migrating", &format!("waiting for Job {}", self.migration_job)),
        }
    }
}

fn verdict(status: impl Into<Status>, reason: &str, message: &str) -> Verdict {
    (status.into(), reason.to_owned(), message.to_owned())
}
