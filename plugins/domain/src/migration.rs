use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use transom_sdk::objects::{self, labels};
use transom_sdk::prelude::*;
use transom_sdk::{JobRuns, State, names};

use crate::spec::{Database, Domain, DomainStatus};
use crate::{database, workload};

/// A pod that dies is started again this often: enough for a database that is just restarting.
const RETRIES: i32 = 3;

/// The Job that migrates the schema for this image and this database. Its name says what it was made of, so a change
/// of either runs a new one.
pub(crate) fn job(domain: &Domain) -> Result<Job, Failure> {
    job_of(domain, "migrate", "migration", Vec::new())
}

/// The Job that drops the schema.
pub(crate) fn clean_up_job(domain: &Domain) -> Result<Job, Failure> {
    job_of(domain, "drop", "clean-up", vec!["drop".into()])
}

/// `purpose` becomes the name of the container, and part of the labels.
fn job_of(domain: &Domain, verb: &str, purpose: &str, arguments: Vec<String>) -> Result<Job, Failure> {
    let database = &domain.spec.db;
    // all but `retention`: what becomes of the schema in the end changes nothing about how it is made
    let Database { cluster_ref, schema, migration_job_image, migration_timeout, migration_env, retention: _ } =
        database;
    let made_of = (cluster_ref, schema, migration_job_image, migration_timeout, migration_env);
    let hash = names::hash(&(&domain.spec.image, made_of))?;
    let name = names::with_suffix(domain.name(), &format!("{verb}-{hash}"));
    let labels = labels([
        ("ameide.io/job", purpose),
        ("app.kubernetes.io/instance", domain.name()),
        ("app.kubernetes.io/name", &format!("domain-{purpose}")),
    ]);
    let mut environment = database::environment(database);
    environment.extend(database.migration_env.iter().cloned());
    let container = Container {
        args: (!arguments.is_empty()).then_some(arguments),
        env: Some(environment),
        image_pull_policy: Some(domain.spec.image_pull_policy.to_string()),
        security_context: Some(workload::container_security()),
        ..objects::container(purpose, &database.migration_job_image)
    };
    let pod = PodSpec {
        containers: vec![container],
        restart_policy: Some("Never".into()),
        security_context: Some(workload::pod_security()),
        service_account_name: domain.spec.security.service_account_name.clone(),
        ..Default::default()
    };
    let spec = JobSpec {
        active_deadline_seconds: Some(database.migration_timeout_seconds()?),
        backoff_limit: Some(RETRIES),
        ..objects::job_spec(objects::template(&labels, pod))
    };
    Ok(objects::job(objects::metadata(&name, &labels), spec))
}

/// A migration in a plan.
pub(crate) struct Migration {
    /// To be waited for.
    pub(crate) planned: Planned<Job>,
    /// This very one is complete, and no other is under way.
    pub(crate) is_done: bool,
    /// How it is, or how it ended.
    pub(crate) health: Health,
    /// No other one is under way.
    pub(crate) is_alone: bool,
}

/// What is known of the Domain's Jobs.
pub(crate) fn runs(domain: &Domain) -> JobRuns {
    let status = domain.status.as_ref();
    let mut runs = JobRuns::new(status.map_or(&[], |status| status.jobs.as_slice()));
    // all that older versions of this plugin remembered
    let older = status.filter(|status| status.jobs.is_empty());
    if let Some(job) = older.and_then(|status| status.migration_job.as_ref()) {
        runs.complete(job);
    }
    runs
}

/// Plans `job`, once no other migration of this schema is under way: two at a time could undo each other.
///
/// One that is complete is not run again when its Job is cleaned up: see [`Plan::run_once`].
///
/// A Job is never changed once it exists, so a newer plugin does not run a finished migration again. Finished Jobs of
/// other versions leave the plan and are deleted. Of unfinished ones, those at work are waited for (their deadline
/// bounds that) and those that never started, for want of an image for instance, are deleted.
pub(crate) fn plan(plan: &mut Plan, cx: &Context, job: Job, runs: &mut JobRuns) -> Migration {
    let name = job.metadata.name.clone().unwrap_or_default();
    let others = cx.children::<Job>().filter(|other| other.name() != name);
    let unfinished: Vec<Observed<Job>> = others.filter(|other| other.health().state == State::Progressing).collect();
    for other in &unfinished {
        if at_work(other) {
            let _ = plan.hold::<Job>(other.name());
        }
    }
    let is_alone = unfinished.is_empty();
    let planned = if is_alone { plan.create_once(job) } else { plan.hold(&name) };
    if is_alone {
        plan.run_once(&planned, runs);
    }
    // one that was refused has not failed: it never ran
    let is_refused = plan.refusal(&planned).is_some();
    let health = if is_refused { cx.health::<Job>(&name) } else { plan.health(&planned) };
    Migration { planned, is_done: is_alone && !is_refused && health.is_ready(), health, is_alone }
}

/// True when a container of the Job runs; a status that cannot be read counts as one that does.
fn at_work(job: &Observed<Job>) -> bool {
    job.status::<JobStatus>().map_or(true, |status| status.ready.unwrap_or(0) > 0)
}

/// What the migration that succeeded last said in its end, as it goes into the status: the version of the schema and
/// the Job that it is from.
///
/// Pods go sooner or later, so what they said is kept in the status, and they are looked at once for each Job only: in
/// the steady state nothing is asked.
pub(crate) fn version(
    domain: &Domain,
    cx: &Context,
    job: &str,
    is_complete: bool,
) -> Result<(Option<String>, Option<String>), Failure> {
    let known = domain.status.clone().unwrap_or_default();
    let DomainStatus { db_migration_version, migration_job, .. } = known;
    if migration_job.as_deref() == Some(job) || !is_complete {
        return Ok((db_migration_version, migration_job));
    }
    let pods = cx.list::<Pod>(&format!("batch.kubernetes.io/job-name={job}"))?;
    let succeeded = pods.iter().find(|pod| phase(pod) == Some("Succeeded"));
    Ok((succeeded.and_then(termination_message), Some(job.to_owned())))
}

pub(crate) fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// At most this many characters of a message are taken: it is a version, not a log.
const MAX_VERSION: usize = 256;

fn termination_message(pod: &Pod) -> Option<String> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let message = containers.first()?.state.as_ref()?.terminated.as_ref()?.message.as_deref()?.trim();
    (!message.is_empty()).then(|| message.chars().take(MAX_VERSION).collect())
}
