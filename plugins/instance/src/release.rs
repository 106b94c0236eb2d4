//! Brings a release about: hooks before, objects, hooks after, and what follows a failure.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition as Definition;
use transom_sdk::prelude::*;
use transom_sdk::{Answer, AnyObject, Stop};

use crate::hooks::{self, Progress};
use crate::render::Rendered;
use crate::state::{Cause, Operation, Stage, State};

/// What came of looking at a release.
pub(crate) enum Step {
    /// This is to be written down before anything else is done.
    Next(Box<State>),
    /// Nothing to be written down; what is said of the workloads.
    Stay(Workloads),
}

/// How the objects of a release are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Workloads {
    pub(crate) is_ready: bool,
    /// Will not get there by itself.
    pub(crate) is_failed: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
    /// It has taken longer than it may.
    pub(crate) is_late: bool,
    /// Something is not there as the chart has it.
    pub(crate) is_open: bool,
}

impl Workloads {
    pub(crate) fn waiting(reason: &str, message: impl Into<String>) -> Self {
        let (reason, message) = (reason.into(), message.into());
        Self { is_ready: false, is_failed: false, reason, message, is_late: false, is_open: false }
    }
}

/// Seconds since 1970, as often as it matters for a stage that may take so long.
pub(crate) fn now(cx: &Context, granularity: u32) -> Result<i64, Failure> {
    Ok(cx.now(std::time::Duration::from_secs(granularity.into()))?.as_second())
}

/// Plans what the stage of a release asks for. The plan has the namespace already.
pub(crate) fn drive(plan: &mut Plan, cx: &Context, state: &State, rendered: &Rendered) -> Result<Step, Stop> {
    match state.stage {
        Stage::Before => before(plan, cx, state, rendered),
        Stage::Failed => {
            plan.hold_rest_but(&hooks::failed(cx, rendered));
            let cause = state.failure.clone();
            let Cause { reason, message } =
                cause.unwrap_or(Cause { reason: "Failed".into(), message: "the release has failed".into() });
            Ok(Step::Stay(Workloads { is_failed: true, ..Workloads::waiting(&reason, message) }))
        }
        Stage::Apply | Stage::After | Stage::Deployed => objects(plan, cx, state, rendered),
    }
}

fn before(plan: &mut Plan, cx: &Context, state: &State, rendered: &Rendered) -> Result<Step, Stop> {
    let event = format!("pre-{}", state.operation.word());
    let mut but: Vec<AnyObject> = hooks::spent(state, rendered, &event).collect();
    let progress = hooks::run(plan, cx, state, rendered, &event, &mut but)?;
    let step = follow(cx, state, progress, Stage::Apply)?;
    // the release before runs on meanwhile
    plan.hold_rest_but(&but);
    Ok(step)
}

/// From hooks to what comes next.
fn follow(cx: &Context, state: &State, progress: Progress, next: Stage) -> Result<Step, Stop> {
    match progress {
        Progress::Done => Ok(Step::Next(Box::new(state.at(next, now(cx, 1)?)))),
        Progress::Step(hooks_done) => Ok(Step::Next(Box::new(State { hooks_done, ..state.clone() }))),
        // what runs well is what matters then
        Progress::Failed(_) if state.operation == Operation::Rollback => {
            Ok(Step::Next(Box::new(state.at(next, now(cx, 1)?))))
        }
        Progress::Failed(cause) => Ok(Step::Next(Box::new(state.after_failure(cause, now(cx, 1)?)))),
        Progress::Waiting(message) => overdue(cx, state, Workloads::waiting("HookRunning", message)),
    }
}

/// Seconds after which the end of a stage is looked at for certain while a host runs.
const MISSED: i64 = 60;

/// Gives up what takes too long: if there is something to go back to, and where the API server does not take what the
/// chart makes, since nothing else of the plan is heard of as long as that is tried.
fn overdue(cx: &Context, state: &State, workloads: Workloads) -> Result<Step, Stop> {
    let timeout = state.current.timeout_seconds;
    let now = now(cx, (timeout / 10).clamp(1, 10))?;
    if now < state.since.saturating_add(timeout.into()) {
        return Ok(Step::Stay(workloads));
    }
    if now > state.since.saturating_add(timeout.into()).saturating_add(MISSED) && !state.extended {
        // no host ran, so nothing was done meanwhile that could have failed
        return Ok(Step::Next(Box::new(State { extended: true, since: now, ..state.clone() })));
    }
    let message = format!("not done within {timeout} s: {}", workloads.message);
    let can_go_back = state.operation == Operation::Upgrade && state.good.is_some();
    if can_go_back || (workloads.is_open && state.operation != Operation::Rollback) {
        let cause = Cause { reason: "DeadlineExceeded".into(), message };
        return Ok(Step::Next(Box::new(state.after_failure(cause, now))));
    }
    Ok(Step::Stay(Workloads { is_late: true, reason: "DeadlineExceeded".into(), message, ..workloads }))
}

fn objects(plan: &mut Plan, cx: &Context, state: &State, rendered: &Rendered) -> Result<Step, Stop> {
    if !definitions(plan, cx, rendered)? {
        plan.hold_rest();
        return overdue(cx, state, Workloads::waiting("DefinitionsPending", "waiting for the chart's CRDs"));
    }
    let is_deployed = state.stage == Stage::Deployed;
    let workloads = apply(plan, rendered, is_deployed);
    let event = format!("post-{}", state.operation.word());
    if state.stage == Stage::After {
        let mut but = Vec::new();
        let progress = hooks::run(plan, cx, state, rendered, &event, &mut but)?;
        let live = rendered.hooks.iter().filter(|hook| !but.contains(&hook.named));
        let live = Rendered { hooks: live.cloned().collect(), ..Rendered::default() };
        hooks::rest(plan, cx, state, &live, Some(&event))?;
        return follow(cx, state, progress, Stage::Deployed);
    }
    hooks::rest(plan, cx, state, rendered, None)?;
    if is_deployed {
        return Ok(Step::Stay(workloads));
    }
    if workloads.is_ready {
        let next = if rendered.hooks_at(&event).next().is_some() { Stage::After } else { Stage::Deployed };
        return Ok(Step::Next(Box::new(state.at(next, now(cx, 1)?))));
    }
    if workloads.is_failed && state.operation == Operation::Upgrade && state.good.is_some() {
        let cause = Cause { reason: workloads.reason, message: workloads.message };
        return Ok(Step::Next(Box::new(state.after_failure(cause, now(cx, 1)?))));
    }
    overdue(cx, state, workloads)
}

/// Plans `crds/`: made when they are not there, never changed, never deleted. False: one is not served yet.
fn definitions(plan: &mut Plan, cx: &Context, rendered: &Rendered) -> Result<bool, Stop> {
    let mut are_served = true;
    for crd in &rendered.crds {
        match cx.child_any(crd) {
            Some(live) => {
                plan.hold_any(crd);
                are_served &= live.health().is_ready();
            }
            None => match cx.try_get_any::<Definition>(crd.type_meta(), "", crd.name())? {
                // somebody else's, such as another instance of the same chart
                Answer::Found(_) => {}
                _ => {
                    plan.apply_any(crd.clone().keep());
                    are_served = false;
                }
            },
        }
    }
    Ok(are_served)
}

/// Plans the objects, and says how they are.
fn apply(plan: &mut Plan, rendered: &Rendered, is_deployed: bool) -> Workloads {
    let mut judged = Workloads::waiting("Ready", "");
    judged.is_ready = true;
    let (mut ready, mut all) = (0, 0);
    for made in &rendered.objects {
        let kind = made.object.type_meta().kind.to_string();
        let is_job = kind == "Job" && &*made.object.type_meta().api_version == "batch/v1";
        if is_job && is_deployed {
            // it has done its work: one that is gone is not run again
            plan.hold_any(&made.object);
            continue;
        }
        let planned = match (made.keeps, is_job) {
            (true, _) if made.is_near => plan.apply_any(made.object.clone().keep().adopt()),
            (true, _) => plan.apply_any(made.object.clone().keep()),
            (false, true) => plan.apply_any(made.object.clone().replace()),
            (false, false) => plan.apply_any(made.object.clone()),
        };
        all += 1;
        let is_as_planned = plan.is_as_planned(&planned);
        let health = plan.health(&planned);
        // a claim waits for its first pod, which says the rest
        let is_fine = health.is_ready() || (kind == "PersistentVolumeClaim" && !health.is_failed());
        if is_as_planned && is_fine {
            ready += 1;
            continue;
        }
        judged.is_open |= !is_as_planned;
        let is_failed = is_as_planned && health.is_failed();
        if judged.is_ready || (is_failed && !judged.is_failed) {
            let (reason, message) = if is_as_planned {
                (health.reason, health.message)
            } else {
                let why = "the API server has not taken it as the chart has it; the Event ApplyFailed says why";
                ("NotApplied".to_owned(), why.to_owned())
            };
            let message = format!("{kind} {}: {message}", made.object.name());
            judged = Workloads { is_failed, is_open: judged.is_open, ..Workloads::waiting(&reason, message) };
        }
    }
    if judged.is_ready {
        judged.message = format!("{ready} of {all} objects are ready");
    }
    judged
}
