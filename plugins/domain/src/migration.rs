use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use transom_sdk::objects::{self, labels};
use transom_sdk::prelude::*;
use transom_sdk::{State, names};

use crate::database;
use crate::spec::Domain;

/// A pod that dies is started again this often: enough for a database that is just restarting.
const RETRIES: i32 = 3;

/// The Job that migrates the schema for this image and this database. Its name says what it was made of, so a change
/// of either runs a new one.
pub(crate) fn job(domain: &Domain) -> Result<Job, Failure> {
    let database = &domain.spec.db;
    let name = names::with_suffix(domain.name(), &format!("migrate-{}", names::hash(&(&domain.spec.image, database))?));
    let labels = labels([
        ("ameide.io/job", "migration"),
        ("app.kubernetes.io/instance", domain.name()),
        ("app.kubernetes.io/name", "domain-migration"),
    ]);
    let mut environment = database::environment(database);
    environment.extend(database.migration_env.iter().cloned());
    let container = Container {
        env: Some(environment),
        image_pull_policy: Some(domain.spec.image_pull_policy.to_string()),
        ..objects::container("migration", &database.migration_job_image)
    };
    let pod = PodSpec {
        containers: vec![container],
        restart_policy: Some("Never".into()),
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

/// Plans `job`, once no other migration of this schema is under way: two at a time could undo each other.
///
/// A Job is never changed once it exists, so a newer plugin does not run a finished migration again. Finished Jobs of
/// other versions leave the plan and are deleted. Of unfinished ones, those at work are waited for (their deadline
/// bounds that) and those that never started, for want of an image for instance, are deleted.
pub(crate) fn plan(plan: &mut Plan, cx: &Context, job: Job) -> Planned<Job> {
    let name = job.metadata.name.clone().unwrap_or_default();
    let others = cx.children::<Job>().filter(|other| other.name() != name);
    let unfinished: Vec<Observed<Job>> = others.filter(|other| other.health().state == State::Progressing).collect();
    for other in &unfinished {
        if at_work(other) {
            let _ = plan.hold::<Job>(other.name());
        }
    }
    if unfinished.is_empty() { plan.create_once(job) } else { plan.hold(&name) }
}

/// True when a container of the Job runs; a status that cannot be read counts as one that does.
fn at_work(job: &Observed<Job>) -> bool {
    job.status::<JobStatus>().map_or(true, |status| status.ready.unwrap_or(0) > 0)
}
