//! CronJobs: checks of deadlines, and clean-up.

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use transom_sdk::objects::{self, Labels, labels};
use transom_sdk::{Failure, Plan, names};

use crate::definition::Current;
use crate::spec::{Process, Scheduled};
use crate::{Config, workload};

/// A run that fails is tried again this often; the next one comes anyway.
const BACKOFF_LIMIT: i32 = 1;

/// Plans what the spec asks for.
pub(crate) fn plan(plan: &mut Plan, process: &Process, config: &Config, current: &Current) -> Result<(), Failure> {
    for check in &process.spec.sla_checks {
        let suffix = format!("sla-{}", check.name);
        let args = ["sla-check".to_owned(), check.name.clone()];
        plan.apply(cron_job(process, config, current, &suffix, "sla-check", &check.job, &args)?);
    }
    if let Some(cleanup) = &process.spec.cleanup {
        plan.apply(cron_job(process, config, current, "cleanup", "cleanup", cleanup, &["cleanup".to_owned()])?);
    }
    Ok(())
}

fn cron_job(
    process: &Process,
    config: &Config,
    current: &Current,
    suffix: &str,
    container: &str,
    scheduled: &Scheduled,
    args: &[String],
) -> Result<CronJob, Failure> {
    let image = scheduled.image.as_deref().unwrap_or(&process.spec.image);
    let mut container = workload::container(container, process, image);
    container.env = Some(workload::environment(process, config, current));
    container.args = Some(if scheduled.args.is_empty() { args.to_vec() } else { scheduled.args.clone() });
    let mut pod = workload::pod(container, current);
    pod.restart_policy = Some("Never".into());
    let labels = labels_of_jobs(process);
    let mut job = objects::job_spec(objects::template(&labels, pod));
    job.backoff_limit = Some(BACKOFF_LIMIT);
    let template = ObjectMeta { labels: Some(labels.clone()), ..ObjectMeta::default() };
    let spec = CronJobSpec {
        schedule: scheduled.schedule.clone(),
        time_zone: scheduled.time_zone.clone(),
        // a check that takes longer than its interval must not pile up
        concurrency_policy: Some("Forbid".into()),
        successful_jobs_history_limit: Some(1),
        failed_jobs_history_limit: Some(3),
        job_template: JobTemplateSpec { metadata: Some(template), spec: Some(job) },
        ..CronJobSpec::default()
    };
    Ok(CronJob { metadata: objects::metadata(&name(process, suffix)?, &labels), spec: Some(spec), status: None })
}

/// Room for a time must be left, which the names of Jobs have behind it (`ValidateCronJobCreate` in
/// kubernetes/kubernetes `pkg/apis/batch/validation/validation.go`).
const MAX_NAME: usize = 52;

/// `<process>-<suffix>`; of a longer one the process's name is cut, and a hash of it tells it from others.
fn name(process: &Process, suffix: &str) -> Result<String, Failure> {
    let name = format!("{}-{suffix}", process.name());
    if name.len() <= MAX_NAME {
        return Ok(name);
    }
    let hash = names::hash(&process.name())?;
    let room = MAX_NAME.saturating_sub(suffix.len() + hash.len() + 2);
    let start = process.name().get(..room).unwrap_or_default().trim_end_matches('-');
    Ok(format!("{start}-{hash}-{suffix}"))
}

/// Not those of workers: what selects workers must not select these.
fn labels_of_jobs(process: &Process) -> Labels {
    labels([("app.kubernetes.io/instance", process.name()), ("app.kubernetes.io/name", "process-job")])
}
