//! A canary: pods of the new version beside those of the old one.
//!
//! The stable Deployment is held while a second one, `<name>-canary`, runs the new template with as many pods as the step
//! asks for. Both are behind the Service. A step is passed when all pods of the canary have been available without a
//! break for the step's duration; after the last one the stable Deployment gets the new template, and when it is all
//! there the canary goes. A canary that gives up stays for people to look at, and the stable version keeps running.
//!
//! Which step it is and since when the canary is healthy stands in annotations of the canary itself, written by the
//! plan that begins a step: so it is changed together with what it is about, and survives everything that the canary
//! survives.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;
use transom_sdk::prelude::*;
use transom_sdk::{State, names, objects};

use crate::Config;
use crate::migration::Migration;
use crate::spec::{self, CanaryStatus, CanaryStep, Domain, Strategy};
use crate::workload::{self, Track};

/// Hash of the pods' template; on both Deployments.
const TEMPLATE: &str = "ameide.io/template";
/// The canary's step, from 0.
const STEP: &str = "ameide.io/canary-step";
/// Since when the canary is healthy (RFC 3339).
const HEALTHY_SINCE: &str = "ameide.io/canary-healthy-since";

/// A canary at work.
pub(crate) struct Running {
    /// For the status.
    pub(crate) status: CanaryStatus,
    /// For `Degraded`: why it will not get there by itself.
    pub(crate) failed: Option<Health>,
}

/// Name of the second Deployment.
pub(crate) fn canary_name(domain: &Domain) -> String {
    names::with_suffix(domain.name(), "canary")
}

/// Plans the Deployment, and a canary where one is asked for.
pub(crate) fn plan(
    plan: &mut Plan,
    domain: &Domain,
    cx: &Context,
    config: &Config,
    migration: &Migration,
) -> Result<Option<Running>, Failure> {
    let wanted = names::hash(&workload::template(domain, config))?;
    let live = cx.child::<Deployment>(domain.name()).map(|live| live.annotations()).transpose()?;
    let is_new = live.is_some_and(|live| live.get(TEMPLATE).is_some_and(|template| *template != wanted));
    if is_new && domain.spec.rollout.strategy == Strategy::Canary {
        return canary(plan, domain, cx, config, migration, &wanted);
    }
    stable(plan, domain, cx, config, migration, &wanted)?;
    // what was a canary stays until its version runs for good, or another does
    if !cx.health::<Deployment>(domain.name()).is_ready() {
        keep_canary(plan, domain, cx);
    }
    Ok(None)
}

fn stable(
    plan: &mut Plan,
    domain: &Domain,
    cx: &Context,
    config: &Config,
    migration: &Migration,
    template: &str,
) -> Result<(), Failure> {
    let metadata = annotated(workload::metadata(domain), [(TEMPLATE, template.to_owned())]);
    let replicas = workload::replicas(domain, cx)?;
    let deployment = workload::deployment(domain, config, Track::Stable, metadata, replicas);
    plan.apply_after(migration.planned, deployment);
    Ok(())
}

fn canary(
    plan: &mut Plan,
    domain: &Domain,
    cx: &Context,
    config: &Config,
    migration: &Migration,
    wanted: &str,
) -> Result<Option<Running>, Failure> {
    if !migration.is_done {
        plan.hold::<Deployment>(domain.name());
        keep_canary(plan, domain, cx);
        return Ok(None);
    }
    let steps = domain.spec.rollout.steps();
    let name = canary_name(domain);
    let live = cx.child::<Deployment>(&name);
    let known = live.as_ref().map(Observed::annotations).transpose()?.unwrap_or_default();
    let is_of_this_version = known.get(TEMPLATE).is_some_and(|template| template == wanted);
    let known = if is_of_this_version { known } else { BTreeMap::new() };
    let index = known.get(STEP).and_then(|step| step.parse::<usize>().ok()).unwrap_or(0);
    let index = index.min(steps.len().saturating_sub(1));
    let Some(step) = steps.get(index) else { return Ok(None) };
    let health = if is_of_this_version { live.map(|live| live.health()) } else { None };
    let progress = progress(cx, index, step, health.as_ref(), known.get(HEALTHY_SINCE))?;

    let (index, since) = match progress {
        Progress::Waits(since) => (index, since),
        Progress::Passed if index + 1 < steps.len() => (index + 1, None),
        Progress::Passed => {
            stable(plan, domain, cx, config, migration, wanted)?;
            keep_canary(plan, domain, cx);
            return Ok(None);
        }
    };
    let Some(step) = steps.get(index) else { return Ok(None) };
    let metadata = objects::metadata(&name, &workload::all_labels(domain));
    let mut metadata = annotated(metadata, [(TEMPLATE, wanted.to_owned()), (STEP, index.to_string())]);
    if let Some(since) = since {
        metadata = annotated(metadata, [(HEALTHY_SINCE, since.to_string())]);
    }
    plan.hold::<Deployment>(domain.name());
    plan.apply(workload::deployment(domain, config, Track::Canary, metadata, Some(step.replicas)));
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let status = CanaryStatus {
        step: count(index + 1),
        steps: count(steps.len()),
        replicas: step.replicas,
        healthy_since: since.map(|since| since.to_string()),
    };
    Ok(Some(Running { status, failed: health.filter(|health| health.state == State::Failed) }))
}

enum Progress {
    /// Healthy since then, or not.
    Waits(Option<Timestamp>),
    /// Healthy for long enough.
    Passed,
}

fn progress(
    cx: &Context,
    index: usize,
    step: &CanaryStep,
    health: Option<&Health>,
    since: Option<&String>,
) -> Result<Progress, Failure> {
    let since = since.and_then(|since| since.parse::<Timestamp>().ok());
    // A Deployment gets a new generation for an annotation, too (kubernetes/kubernetes:
    // `pkg/registry/apps/deployment/strategy.go`). Until that is observed nobody can tell: taking back what was noted
    // would be yet another generation, without end. A step begins without a note, so this one is of this step.
    if health.is_some_and(|health| health.reason == "NotObserved") {
        return Ok(Progress::Waits(since));
    }
    if !health.is_some_and(Health::is_ready) {
        return Ok(Progress::Waits(None));
    }
    let seconds = spec::seconds(&format!("spec.rollout.canary.steps[{index}].duration"), &step.duration)?;
    // often enough to be late by a tenth or two
    let granularity = (seconds / 10).clamp(1, 30);
    let now = cx.now(Duration::from_secs(granularity.unsigned_abs()))?;
    let Some(since) = since else {
        return Ok(Progress::Waits(Some(now)));
    };
    // both times are rounded down, so `since` may be early by the granularity; a step is never shorter than it says
    let passed = now.as_second().saturating_sub(since.as_second()) >= seconds.saturating_add(granularity);
    Ok(if passed { Progress::Passed } else { Progress::Waits(Some(since)) })
}

/// A canary that lives stays as it is.
fn keep_canary(plan: &mut Plan, domain: &Domain, cx: &Context) {
    let name = canary_name(domain);
    if cx.child::<Deployment>(&name).is_some() {
        plan.hold::<Deployment>(&name);
    }
}

fn annotated<const N: usize>(mut metadata: ObjectMeta, annotations: [(&str, String); N]) -> ObjectMeta {
    let known = metadata.annotations.get_or_insert_default();
    known.extend(annotations.map(|(key, value)| (key.to_owned(), value)));
    metadata
}
