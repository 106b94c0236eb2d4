//! The end of an instance: hooks before, the release, hooks after, and the namespace, unless something in it is kept.
//!
//! An object can always be deleted: a hook that fails or takes too long, or a chart that cannot be had any more, is told
//! and then left behind.

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, PersistentVolumeClaim};
use serde::Deserialize;
use transom_sdk::prelude::*;
use transom_sdk::{Answer, AnyObject, ObjectMeta, Stop};

use crate::config::Config;
use crate::hooks::{self, Progress};
use crate::isolation::{self, Ground};
use crate::redact::Redactor;
use crate::release;
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
        tell(&mut plan, instance, cx, &Redactor::default(), None, "nothing is left to be deleted".into())?;
        return Ok(plan);
    }
    let state = State::read(cx, name).ok().flatten();
    let seed = render::seed(cx)?;
    let rendered = match &state {
        Some(state) => Stop::settle(crate::current(cx, &config, &state.current, &seed))?,
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
    if let Some(state) = &state {
        let has_hooks = ["pre-delete", "post-delete"].iter().any(|event| rendered.hooks_at(event).next().is_some());
        if has_hooks && !(state.operation == Operation::Delete && state.stage == Stage::Deployed) {
            return staged(plan, instance, cx, &config, &redactor, state, &rendered);
        }
    }
    end(plan, instance, cx, &config, &redactor, state.as_ref())
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
        return write_down(instance, cx, redactor, &next(Stage::Before)?);
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
            return write_down(instance, cx, redactor, &next(Stage::After)?);
        }
        let left = left(instance, cx)?.unwrap_or_else(|| "the release is being deleted".into());
        tell(&mut plan, instance, cx, redactor, Some(state), left)?;
        return Ok(plan);
    }
    let (event, after) = match state.stage {
        Stage::Before => ("pre-delete", Stage::Apply),
        _ => ("post-delete", Stage::Deployed),
    };
    let mut but: Vec<AnyObject> = hooks::spent(state, rendered, event).collect();
    let progress = Stop::settle(hooks::run(&mut plan, cx, state, rendered, event, &mut but))?;
    let timeout = state.current.timeout_seconds;
    // nothing holds a deletion up for good
    let progress = match progress {
        Ok(Progress::Waiting(hook)) if hook.is_failed => {
            Ok(Progress::Failed(Cause { reason: "HookFailed".into(), message: hook.message }))
        }
        progress => progress,
    };
    match progress {
        Ok(Progress::Done) => write_down(instance, cx, redactor, &next(after)?),
        Ok(Progress::Step(hooks_done)) => {
            let next = State { hooks_done, ..state.clone() };
            write_down(instance, cx, redactor, &next)
        }
        Ok(Progress::Failed(cause)) => {
            let message = redactor.clean(&cause.message);
            let next = State { failure: Some(Cause { message, ..cause }), ..next(after)? };
            write_down(instance, cx, redactor, &next)
        }
        waiting => {
            let message = match waiting {
                Ok(Progress::Waiting(hook)) => hook.message,
                Err(problem) => problem.message,
                _ => String::new(),
            };
            let now = release::now(cx, (timeout / 10).clamp(1, 10))?;
            if now >= state.since.saturating_add(timeout.into()) {
                let message = redactor.clean(&format!("not done within {timeout} s: {message}"));
                let cause = Cause { reason: "HookFailed".into(), message };
                let next = State { failure: Some(cause), ..next(after)? };
                return write_down(instance, cx, redactor, &next);
            }
            plan.hold_rest_but(&but);
            tell(&mut plan, instance, cx, redactor, Some(state), message)?;
            Ok(plan)
        }
    }
}

/// A plan that does nothing but put a new state on record.
fn write_down(instance: &CaelusInstance, cx: &Context, redactor: &Redactor, next: &State) -> Result<Plan, Failure> {
    let mut plan = cx.plan();
    crate::keep_record(&mut plan, next)?;
    plan.hold_rest();
    tell(&mut plan, instance, cx, redactor, Some(next), "the deletion goes on".into())?;
    Ok(plan)
}

fn tell(
    plan: &mut Plan,
    instance: &CaelusInstance,
    cx: &Context,
    redactor: &Redactor,
    state: Option<&State>,
    message: String,
) -> Result<(), Failure> {
    let failure = state.filter(|state| state.operation == Operation::Delete).and_then(|state| state.failure.as_ref());
    if let Some(cause) = failure {
        plan.warning("HookFailed", cause.message.clone());
    }
    let facts = Facts { state, deletion: Some(message), ..Facts::default() };
    report::publish(plan, instance, cx, redactor, &facts)
}

/// Everything goes; the namespace stays when something in it is kept.
fn end(
    mut plan: Plan,
    instance: &CaelusInstance,
    cx: &Context,
    config: &Config,
    redactor: &Redactor,
    state: Option<&State>,
) -> Result<Plan, Failure> {
    let name = &instance.spec.namespace;
    let claims = match cx.try_list_in::<PersistentVolumeClaim>(name, "")? {
        Answer::Found(claims) => !claims.is_empty(),
        Answer::Absent => false,
        Answer::Denied(message) => return Err(Failure::transient("LookupDenied", message)),
        other => other.into_found()?.is_some(),
    };
    // what is kept elsewhere, such as a CRD, needs no namespace
    let is_claim = |object: &AnyObject| &*object.type_meta().kind == "PersistentVolumeClaim";
    let is_in = |object: &AnyObject| {
        object.namespace() == Some(name) && !is_namespace(object) && !render::is_cluster_scoped(object.type_meta())
    };
    let mut stays = claims;
    for object in cx.all_children().filter(|object| is_in(object) && !is_claim(object)) {
        stays |= cx.child_any(&object).as_ref().map_or(Ok(false), isolation::is_kept)?;
    }
    if stays != isolation::is_namespace_kept(instance, cx)? {
        // it is marked before anything is deleted
        isolation::plan(&mut plan, instance, config, Ground::Owned, stays);
        plan.hold_rest();
        tell(&mut plan, instance, cx, redactor, state, "the deletion begins".into())?;
        return Ok(plan);
    }
    plan.finalized();
    let left = left(instance, cx)?.unwrap_or_else(|| match stays {
        true => format!("all that is not kept in Namespace {name} is being deleted"),
        false => format!("Namespace {name} is being deleted"),
    });
    tell(&mut plan, instance, cx, redactor, state, left)?;
    Ok(plan)
}

fn is_namespace(object: &AnyObject) -> bool {
    object.type_meta().group().is_empty() && &*object.type_meta().kind == "Namespace"
}

/// As much of an object as tells what its deletion waits for.
#[derive(Deserialize)]
struct Going {
    metadata: ObjectMeta,
}

/// Objects that are named; of more, only how many.
const NAMED: usize = 5;

/// What the deletion waits for: what the namespace says, and finalizers of objects. None when nothing holds it up.
fn left(instance: &CaelusInstance, cx: &Context) -> Result<Option<String>, Failure> {
    let mut waits = Vec::new();
    let name = &instance.spec.namespace;
    if let Some(live) = cx.child::<Namespace>(name) {
        let holds = |condition: &NamespaceCondition| {
            let message = condition.message.as_deref().unwrap_or_default().trim();
            (condition.status == "True").then(|| format!("Namespace {name} ({}: {message})", condition.type_))
        };
        let conditions = live.status::<NamespaceStatus>()?.conditions.unwrap_or_default();
        waits.extend(conditions.iter().filter_map(holds));
    }
    let mut held = Vec::new();
    for object in cx.all_children().filter(|object| !is_namespace(object)) {
        let Some(live) = cx.child_any(&object) else { continue };
        let going: Going = live.view()?;
        let finalizers = going.metadata.finalizers.unwrap_or_default();
        if going.metadata.deletion_timestamp.is_some() && !finalizers.is_empty() {
            held.push(format!("{} {} (finalizers {})", object.type_meta().kind, object.name(), finalizers.join(", ")));
        }
    }
    let more = held.len().saturating_sub(NAMED);
    waits.extend(held.into_iter().take(NAMED));
    if more > 0 {
        waits.push(format!("{more} more"));
    }
    Ok((!waits.is_empty()).then(|| format!("waiting for {}", waits.join("; "))))
}
