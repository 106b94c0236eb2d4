//! Instances of products (`caelus.io/v1`): a Helm release in a namespace of its own.
//!
//! A `ProductTemplateVersion` says which chart a product is and what it is given; a `CaelusInstance` is a release of it for
//! a user. The chart is rendered by the Helm engine; hooks, their order, upgrades and roll-backs are this plugin's. What
//! is being done is written into a Secret of the instance's namespace first, so it goes on after any interruption.

mod chart;
mod config;
mod deletion;
mod hooks;
mod isolation;
mod jobs;
mod redact;
mod release;
mod render;
mod report;
mod spec;
mod state;
mod template;
#[cfg(test)]
mod tests;
mod wanted;

pub use config::{Config, OtherNamespace};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{
    ConfigMap, LimitRange, Namespace, PersistentVolumeClaim, Pod, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
pub use spec::{
    CaelusInstance, CaelusInstanceSpec, CaelusInstanceStatus, ChartSource, ChartStatus, Location, Phase,
    ProductTemplateVersion, ProductTemplateVersionSpec, ProductTemplateVersionStatus, ReleaseStatus,
};
use transom_sdk::prelude::*;
use transom_sdk::{Problem, Protocol, Stop};

use crate::isolation::Ground;
use crate::redact::Redactor;
use crate::release::Step;
use crate::report::Facts;
use crate::state::{Inputs, Operation, Stage, State};

/// Serves `CaelusInstance` and `ProductTemplateVersion`.
pub struct InstancePlugin;
transom_sdk::export!(InstancePlugin);

impl Plugin for InstancePlugin {
    fn manifest() -> Manifest<Self> {
        Manifest::new("instance", env!("CARGO_PKG_VERSION"))
            .primary::<CaelusInstance>()
            .primary::<ProductTemplateVersion>()
            .config::<Config>()
            .finalizes()
            .engine(render::ENGINE)
            .optional_endpoint(chart::OCI, Protocol::Oci, "Charts in a registry")
            .optional_endpoint(chart::HTTP, Protocol::Http, "Charts in an HTTP repository")
            .optional_endpoint(chart::FOLDER, Protocol::Folder, "Charts on the host")
            .any_child(Delivery::Status)
            .child::<Deployment>(Delivery::Full)
            .child::<StatefulSet>(Delivery::Full)
            .child::<Secret>(Delivery::Full)
            .child::<Namespace>(Delivery::Status)
            .child::<NetworkPolicy>(Delivery::Metadata)
            .child::<ResourceQuota>(Delivery::Metadata)
            .child::<LimitRange>(Delivery::Metadata)
            .read::<ProductTemplateVersion>(Delivery::Full)
            .read::<Namespace>(Delivery::Metadata)
            .read::<CustomResourceDefinition>(Delivery::Status)
            .read::<Pod>(Delivery::Full)
            .read::<Secret>(Delivery::Full)
            .read::<ConfigMap>(Delivery::Full)
            .read::<Service>(Delivery::Full)
            .read::<ServiceAccount>(Delivery::Full)
            .read::<PersistentVolumeClaim>(Delivery::Full)
    }
}

impl Reconcile<CaelusInstance> for InstancePlugin {
    fn reconcile(instance: &CaelusInstance, cx: &Context) -> Result<Plan, Failure> {
        if cx.deleting() {
            return deletion::plan(instance, cx);
        }
        let config: Config = cx.config()?;
        // asked together
        let ground = Stop::settle(isolation::survey(instance, cx));
        let wanted = Stop::settle(wanted::resolve(instance, cx, &config));
        let seed = render::seed(cx);
        let (ground, wanted, seed) = (ground?, wanted?, seed?);
        let mut redactor = Redactor::default();
        if let Ok(Inputs { secret: Some(secret), .. }) = &wanted {
            redactor.add(secret);
        }
        let ground = match ground {
            Ok(ground) => ground,
            Err(problem) => return idle(instance, cx, &redactor, problem),
        };
        let state = State::read(cx, &instance.spec.namespace)?;
        for inputs in state.iter().flat_map(|state| std::iter::once(&state.current).chain(&state.good)) {
            inputs.secret.iter().for_each(|secret| redactor.add(secret));
        }

        let problem = match wanted {
            Err(problem) => Some(problem),
            Ok(wanted) => match begin(instance, cx, &config, state.as_ref(), wanted, &seed)? {
                Begun::Next(next) => {
                    let mut plan = cx.plan();
                    isolation::plan(&mut plan, instance, &config, ground, isolation::is_namespace_kept(instance, cx)?);
                    if ground != Ground::Owned {
                        report::publish(&mut plan, instance, cx, &redactor, &Facts::default())?;
                        return Ok(plan);
                    }
                    return write_down(plan, instance, cx, &redactor, &next);
                }
                Begun::Same => None,
                Begun::Refused(problem) => Some(problem),
            },
        };
        let Some(state) = state else {
            return idle(instance, cx, &redactor, problem.unwrap_or_else(|| Problem::passing("Preparing", "")));
        };
        go_on(instance, cx, &config, &redactor, &state, &seed, problem)
    }
}

/// Nothing can be done: what lives stays as it is.
fn idle(instance: &CaelusInstance, cx: &Context, redactor: &Redactor, problem: Problem) -> Result<Plan, Failure> {
    let mut plan = cx.plan();
    plan.hold_rest();
    report::publish(&mut plan, instance, cx, redactor, &Facts { problem: Some(problem), ..Facts::default() })?;
    Ok(plan)
}

/// What the spec calls for.
enum Begun {
    /// A new revision.
    Next(Box<State>),
    /// What there is.
    Same,
    /// Something that does not work.
    Refused(Problem),
}

fn begin(
    instance: &CaelusInstance,
    cx: &Context,
    config: &Config,
    state: Option<&State>,
    mut wanted: Inputs,
    seed: &str,
) -> Result<Begun, Failure> {
    let fingerprint = wanted.fingerprint();
    if let Some(state) = state.filter(|state| !state.is_new(&fingerprint)) {
        if state.rejects(&fingerprint) {
            return Ok(report::rejection(state).map_or(Begun::Same, Begun::Refused));
        }
        if state.rejected.is_some() && state.stage == Stage::Deployed {
            // it is asked for no more: it may be tried again
            return Ok(Begun::Next(Box::new(State { rejected: None, ..state.clone() })));
        }
        return Ok(Begun::Same);
    }
    // the release itself is lost, but there was one
    let before = instance.status.as_ref().and_then(|status| status.release.as_ref());
    let revision = state.map(|state| state.revision).or(before.map(|release| release.revision)).unwrap_or(0) + 1;
    let good = state.and_then(|state| match state.stage {
        Stage::Deployed => Some(state.current.clone()),
        _ => state.good.clone(),
    });
    let is_upgrade = good.is_some() || (state.is_none() && before.is_some());
    wanted.seen.revision = revision;
    wanted.seen.is_upgrade = is_upgrade;
    let fetched =
        Stop::settle(chart::fetch(cx, &wanted.chart, Some(&wanted.digest), &wanted::field(&wanted.template_version)));
    // of a chart that fails it is asked once an hour; afterwards it stands still for as long as the revision does
    let now = release::now(cx, 3600);
    let fetched = match fetched? {
        Ok(fetched) => fetched,
        Err(problem) => return Ok(Begun::Refused(problem)),
    };
    wanted.seen.now = now?;
    let rendered = match Stop::settle(render::render_new(cx, config, &mut wanted, &fetched, seed))? {
        Ok(rendered) => rendered,
        Err(problem) => return Ok(Begun::Refused(problem)),
    };
    let operation = if is_upgrade { Operation::Upgrade } else { Operation::Install };
    let has_hooks = rendered.hooks_at(&format!("pre-{}", operation.word())).next().is_some();
    let next = State {
        revision,
        operation,
        stage: if has_hooks { Stage::Before } else { Stage::Apply },
        hooks_done: 0,
        since: release::now(cx, 1)?,
        extended: false,
        jobs_done: Vec::new(),
        failed_at: None,
        current: wanted,
        good,
        rejected: None,
        failure: None,
    };
    if let Err(message) = next.secret() {
        return Ok(Begun::Refused(Problem::new("ValuesTooLarge", format!("spec.values {message}"))));
    }
    Ok(Begun::Next(Box::new(next)))
}

/// A plan that does nothing but put a new state on record.
fn write_down(
    mut plan: Plan,
    instance: &CaelusInstance,
    cx: &Context,
    redactor: &Redactor,
    next: &State,
) -> Result<Plan, Failure> {
    let secret =
        next.secret().map_err(|message| Failure::internal(format!("the release cannot be kept: {message}")))?;
    plan.apply(secret);
    plan.hold_rest();
    report::publish(&mut plan, instance, cx, redactor, &Facts { state: Some(next), ..Facts::default() })?;
    Ok(plan)
}

/// Goes on with the release that is on record.
fn go_on(
    instance: &CaelusInstance,
    cx: &Context,
    config: &Config,
    redactor: &Redactor,
    state: &State,
    seed: &str,
    problem: Option<Problem>,
) -> Result<Plan, Failure> {
    let current = Stop::settle(current(cx, config, &state.current, seed))?;
    // data of an earlier release may be there, too
    let keep = isolation::is_namespace_kept(instance, cx)? || current.as_ref().is_ok_and(|rendered| rendered.has_data);
    let mut plan = cx.plan();
    isolation::plan(&mut plan, instance, config, Ground::Owned, keep);
    keep_record(&mut plan, state)?;
    let step = match &current {
        Ok(rendered) => {
            let was_late = report::says_failed(instance, state);
            Stop::settle(release::drive(&mut plan, cx, state, rendered, was_late))?
        }
        Err(problem) => Err(problem.clone()),
    };
    match step {
        Ok(Step::Next(next)) => {
            let mut next = *next;
            let causes = [next.failure.as_mut(), next.rejected.as_mut().map(|rejected| &mut rejected.cause)];
            for cause in causes.into_iter().flatten() {
                cause.message = redactor.clean(&cause.message);
            }
            write_down(cx.plan(), instance, cx, redactor, &next)
        }
        Ok(Step::Stay(workloads)) => {
            let facts = Facts { state: Some(state), problem, workloads: Some(workloads), ..Facts::default() };
            report::publish(&mut plan, instance, cx, redactor, &facts)?;
            Ok(plan)
        }
        Err(stuck) => {
            // what is there cannot be looked after at the moment
            let mut plan = cx.plan();
            plan.hold_rest();
            let problem = Some(problem.unwrap_or(stuck));
            let facts = Facts { state: Some(state), problem, ..Facts::default() };
            report::publish(&mut plan, instance, cx, redactor, &facts)?;
            Ok(plan)
        }
    }
}

fn keep_record(plan: &mut Plan, state: &State) -> Result<(), Failure> {
    let secret =
        state.secret().map_err(|message| Failure::internal(format!("the release cannot be kept: {message}")))?;
    plan.apply(secret);
    Ok(())
}

/// What the release on record makes.
fn current(cx: &Context, config: &Config, inputs: &Inputs, seed: &str) -> Result<render::Rendered, Stop> {
    let fetched = chart::fetch(cx, &inputs.chart, Some(&inputs.digest), &wanted::field(&inputs.template_version))?;
    render::render(cx, config, inputs, &fetched, seed)
}
