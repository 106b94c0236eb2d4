//! The end of an instance: hooks before, the release, hooks after, and the namespace, unless something in it is kept.
//!
//! An object can always be deleted: a hook that fails or takes too long, or a chart that cannot be had any more, is told
//! and then left behind.

use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim};
use transom_sdk::prelude::*;
use transom_sdk::{Answer, AnyObject, Stop};

use crate::config::Config;
use crate::hooks::{self, Progress};
use crate::isolation::{self, Ground};
use crate::redact::Redactor;
use crate::release::{self, Workloads};
use crate::render::{self, Rendered};
use crate::report::{self, Facts};
use crate::spec::CaelusInstance;
use crate::state::{self, Cause, Operation, Stage, State};

pub(crate) fn plan(instance: &CaelusInstance, cx: &Context) -> Result<Plan, Failure> {
    let config: Config = cx.config()?;
    let name = &instance.spec.namespace;
    let mut plan = cx.plan();
    if cx.child::<Namespace>(name).is_none() {
        if isolation::was_left(instance, cx)? {
            plan.event("NamespaceKept", format!("the namespace {name} stays: volume claims or kept objects are in it"));
        }
        plan.finalized();
        return Ok(plan);
    }
    let state = State::read(cx, name).ok().flatten();
    let seed = render::seed(cx)?;
    let rendered = match &state {
        Some(state) => Stop::settle(crate::current(cx, &state.current, &seed))?,
        None => Ok(Rendered::default()),
    };
    let rendered = match rendered {
        Ok(rendered) => rendered,
        // the host waits for as long as the Plugin record says
        Err(problem) if problem.passes => return Err(Failure::transient(problem.reason, problem.message)),
        Err(problem) => {
            transom_sdk::log::warn(format!("hooks of the deletion are not known: {}", problem.reason));
            Rendered::default()
        }
    };
    let mut redactor = Redactor::default();
    for inputs in state.iter().flat_map(|state| std::iter::once(&state.current).chain(&state.good)) {
        inputs.secret.iter().for_each(|secret| redactor.add(secret));
    }
    if let Some(state) = state {
        let has_hooks = ["pre-delete", "post-delete"].iter().any(|event| rendered.hooks_at(event).next().is_some());
        if has_hooks && !(state.operation == Operation::Delete && state.stage == Stage::Deployed) {
            return staged(plan, instance, cx, &config, &redactor, &state, &rendered);
        }
    }
    end(plan, instance, cx, &config, &rendered)
}

/// What the stage of the deletion asks for.
fn staged(
    mut plan: Plan,
    instance: &CaelusInstance,
    cx: &Context,
    config: &Config,
    redactor: &Redactor,
    state: &State,
    rendered: &Rendered,
) -> Result<Plan, Failure> {
    let next = |stage: Stage| -> Result<State, Failure> {
        // what failed before the deletion began is another matter
        let failure = state.failure.clone().filter(|_| state.operation == Operation::Delete);
        Ok(State { operation: Operation::Delete, failure, ..state.at(stage, release::now(cx, 1)?) })
    };
    if state.operation != Operation::Delete {
        return crate::write_down(cx.plan(), instance, cx, redactor, &next(Stage::Before)?);
    }
    let keep = isolation::is_namespace_kept(instance, cx)?;
    isolation::plan(&mut plan, instance, config, Ground::Owned, keep);
    if state.stage == Stage::Apply {
        // all but this is left out, and so deleted
        crate::keep_record(&mut plan, state)?;
        let is_left = |object: &AnyObject| {
            let kind = &*object.type_meta().kind;
            let is_record = kind == "Secret" && object.name() == state::NAME;
            !(isolation::is_part(object) || kind == "Namespace" || is_record)
        };
        if !cx.all_children().any(|object| is_left(&object)) {
            return crate::write_down(cx.plan(), instance, cx, redactor, &next(Stage::After)?);
        }
        tell(&mut plan, instance, cx, redactor, state, "the release is being deleted".into())?;
        return Ok(plan);
    }
    let (event, after) = match state.stage {
        Stage::Before => ("pre-delete", Stage::Apply),
        _ => ("post-delete", Stage::Deployed),
    };
    let mut but: Vec<AnyObject> = hooks::spent(state, rendered, event).collect();
    let progress = Stop::settle(hooks::run(&mut plan, cx, state, rendered, event, &mut but))?;
    let timeout = state.current.timeout_seconds;
    match progress {
        Ok(Progress::Done) => crate::write_down(cx.plan(), instance, cx, redactor, &next(after)?),
        Ok(Progress::Step(hooks_done)) => {
            let next = State { hooks_done, ..state.clone() };
            crate::write_down(cx.plan(), instance, cx, redactor, &next)
        }
        Ok(Progress::Failed(cause)) => {
            let message = redactor.clean(&cause.message);
            let next = State { failure: Some(Cause { message, ..cause }), ..next(after)? };
            crate::write_down(cx.plan(), instance, cx, redactor, &next)
        }
        waiting => {
            let message = match waiting {
                Ok(Progress::Waiting(message)) => message,
                Err(problem) => problem.message,
                _ => String::new(),
            };
            let now = release::now(cx, (timeout / 10).clamp(1, 10))?;
            if now >= state.since.saturating_add(timeout.into()) {
                let message = redactor.clean(&format!("not done within {timeout} s: {message}"));
                let cause = Cause { reason: "HookFailed".into(), message };
                let next = State { failure: Some(cause), ..next(after)? };
                return crate::write_down(cx.plan(), instance, cx, redactor, &next);
            }
            plan.hold_rest_but(&but);
            tell(&mut plan, instance, cx, redactor, state, message)?;
            Ok(plan)
        }
    }
}

fn tell(
    plan: &mut Plan,
    instance: &CaelusInstance,
    cx: &Context,
    redactor: &Redactor,
    state: &State,
    message: String,
) -> Result<(), Failure> {
    if let Some(cause) = state.failure.as_ref().filter(|_| state.operation == Operation::Delete) {
        plan.warning("HookFailed", cause.message.clone());
    }
    let workloads = Workloads::waiting("Deleting", message);
    let facts = Facts { state: Some(state), problem: None, workloads: Some(workloads) };
    report::publish(plan, instance, cx, redactor, &facts)
}

/// Everything goes; the namespace stays when something in it is kept.
fn end(
    mut plan: Plan,
    instance: &CaelusInstance,
    cx: &Context,
    config: &Config,
    rendered: &Rendered,
) -> Result<Plan, Failure> {
    let name = &instance.spec.namespace;
    let claims = match cx.try_list_in::<PersistentVolumeClaim>(name, "")? {
        Answer::Found(claims) => !claims.is_empty(),
        Answer::Absent => false,
        Answer::Denied(message) => return Err(Failure::transient("LookupDenied", message)),
        other => other.into_found()?.is_some(),
    };
    let is_claim = |object: &AnyObject| &*object.type_meta().kind == "PersistentVolumeClaim";
    let mut stays = claims || rendered.objects.iter().any(|made| made.keeps && !is_claim(&made.object));
    for object in cx.all_children().filter(|object| object.namespace().is_some() && !is_claim(object)) {
        stays |= cx.child_any(&object).as_ref().map_or(Ok(false), isolation::is_kept)?;
    }
    if stays != isolation::is_namespace_kept(instance, cx)? {
        // it is marked before anything is deleted
        isolation::plan(&mut plan, instance, config, Ground::Owned, stays);
        plan.hold_rest();
        return Ok(plan);
    }
    plan.finalized();
    Ok(plan)
}
