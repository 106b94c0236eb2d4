//! A canary: workers of the new version beside those of the old one, on the same task queue.
//!
//! The stable Deployment is held while a second one, `<name>-canary`, runs the new template. When all of its workers
//! have been available without a break for long enough, the stable Deployment gets the new template, and when that is
//! all there the canary goes. A canary that gives up stays for people to look at, and the stable version keeps working.
//! Another image is another version, and so is another definition.
//!
//! Since when the canary is healthy stands in an annotation of the canary itself: so it is changed together with what
//! it is about, and survives everything that the canary survives.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use transom_sdk::prelude::*;
use transom_sdk::{State, names, objects};

use crate::Config;
use crate::definition::{CONFIG_MAP, Current};
use crate::spec::{self, CanaryStatus, Process, Strategy};
use crate::workload::{self, Track};

/// Hash of the workers' template; on both Deployments.
const TEMPLATE: &str = "ameide.io/template";
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
pub(crate) fn canary_name(process: &Process) -> String {
    names::with_suffix(process.name(), "canary")
}

/// Plans the Deployment, and a canary where one is asked for.
pub(crate) fn plan(
    plan: &mut Plan,
    process: &Process,
    cx: &Context,
    config: &Config,
    current: &Current,
) -> Result<Option<Running>, Failure> {
    let version =
        Version { process, config, current, hash: names::hash(&workload::template(process, config, current))? };
    let live = cx.child::<Deployment>(process.name()).map(|live| live.annotations()).transpose()?;
    let is_new = live.is_some_and(|live| live.get(TEMPLATE).is_some_and(|template| *template != version.hash));
    if is_new && process.spec.rollout.strategy == Strategy::Canary {
        return canary(plan, cx, &version);
    }
    stable(plan, &version);
    // what was a canary stays until its version runs for good, or another does
    if !cx.health::<Deployment>(process.name()).is_ready() {
        keep_canary(plan, process, cx);
    }
    Ok(None)
}

/// What is to be rolled out.
struct Version<'a> {
    process: &'a Process,
    config: &'a Config,
    current: &'a Current,
    hash: String,
}

impl Version<'_> {
    fn metadata(&self, name: &str, more: Option<(&str, String)>) -> ObjectMeta {
        let mut metadata = objects::metadata(name, &workload::selector(self.process));
        let own = [(TEMPLATE, self.hash.clone()), (CONFIG_MAP, self.current.config_map.clone())];
        let annotations = own.into_iter().chain(more).map(|(key, value)| (key.to_owned(), value));
        metadata.annotations = Some(annotations.collect());
        metadata
    }

    fn deployment(&self, track: Track, metadata: ObjectMeta, replicas: i32) -> Deployment {
        workload::deployment(self.process, self.config, self.current, track, metadata, replicas)
    }
}

fn stable(plan: &mut Plan, version: &Version<'_>) {
    let metadata = version.metadata(version.process.name(), None);
    plan.apply(version.deployment(Track::Stable, metadata, version.process.spec.replicas));
}

fn canary(plan: &mut Plan, cx: &Context, version: &Version<'_>) -> Result<Option<Running>, Failure> {
    let process = version.process;
    let wanted = process.spec.rollout.canary.clone().unwrap_or_default();
    let name = canary_name(process);
    let live = cx.child::<Deployment>(&name);
    let known = live.as_ref().map(Observed::annotations).transpose()?.unwrap_or_default();
    let is_of_this_version = known.get(TEMPLATE).is_some_and(|template| *template == version.hash);
    let known = if is_of_this_version { known } else { BTreeMap::new() };
    let health = if is_of_this_version { live.map(|live| live.health()) } else { None };
    let seconds = spec::seconds("spec.rollout.canary.duration", &wanted.duration)?;
    let since = match progress(cx, seconds, health.as_ref(), known.get(HEALTHY_SINCE))? {
        Progress::Waits(since) => since,
        Progress::Passed => {
            stable(plan, version);
            keep_canary(plan, process, cx);
            return Ok(None);
        }
    };
    let note = since.map(|since| (HEALTHY_SINCE, since.to_string()));
    plan.hold::<Deployment>(process.name());
    plan.apply(version.deployment(Track::Canary, version.metadata(&name, note), wanted.replicas));
    let status = CanaryStatus { replicas: wanted.replicas, healthy_since: since.map(|since| since.to_string()) };
    Ok(Some(Running { status, failed: health.filter(|health| health.state == State::Failed) }))
}

enum Progress {
    /// Healthy since then, or not.
    Waits(Option<Timestamp>),
    /// Healthy for long enough.
    Passed,
}

fn progress(cx: &Context, seconds: u32, health: Option<&Health>, since: Option<&String>) -> Result<Progress, Failure> {
    let since = since.and_then(|since| since.parse::<Timestamp>().ok());
    // A Deployment gets a new generation for an annotation, too (kubernetes/kubernetes:
    // `pkg/registry/apps/deployment/strategy.go`). Until that is observed nobody can tell: taking back what was noted
    // would be yet another generation, without end.
    if health.is_some_and(|health| health.reason == "NotObserved") {
        return Ok(Progress::Waits(since));
    }
    if !health.is_some_and(Health::is_ready) {
        return Ok(Progress::Waits(None));
    }
    // often enough to be late by a tenth or two
    let granularity = (seconds / 10).clamp(1, 30);
    let now = cx.now(Duration::from_secs(granularity.into()))?;
    let Some(since) = since else {
        return Ok(Progress::Waits(Some(now)));
    };
    // both times are rounded down, so `since` may be early by the granularity; it is never shorter than it says
    let passed = now.as_second().saturating_sub(since.as_second()) >= i64::from(seconds) + i64::from(granularity);
    Ok(if passed { Progress::Passed } else { Progress::Waits(Some(since)) })
}

/// A canary that lives stays as it is.
fn keep_canary(plan: &mut Plan, process: &Process, cx: &Context) {
    let name = canary_name(process);
    if cx.child::<Deployment>(&name).is_some() {
        plan.hold::<Deployment>(&name);
    }
}
