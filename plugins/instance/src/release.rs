//! Brings a release about: hooks before, objects, hooks after, and what follows a failure.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition as Definition;
use transom_sdk::prelude::*;
use transom_sdk::{Answer, AnyObject, Refusal, Stop};

use crate::hooks::{self, Progress};
use crate::jobs;
use crate::render::{Made, Rendered};
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
    /// Something is not there as the chart has it, and was not refused either: no host has tried yet.
    pub(crate) is_open: bool,
    /// Something was refused, and reason and message are those of the refusal.
    pub(crate) is_refused: bool,
}

impl Workloads {
    pub(crate) fn waiting(reason: &str, message: impl Into<String>) -> Self {
        Self {
            is_ready: false,
            is_failed: false,
            reason: reason.into(),
            message: message.into(),
            is_late: false,
            is_open: false,
            is_refused: false,
        }
    }

    /// For want of an object that was never tried to be made.
    pub(crate) fn open(reason: &str, message: impl Into<String>) -> Self {
        Self { is_open: true, ..Self::waiting(reason, message) }
    }

    /// For want of an object that was refused: `about` says which, where the refusal itself does not.
    pub(crate) fn refused(refusal: &Refusal, about: &str) -> Self {
        let message = match about.is_empty() {
            true => refusal.message.clone(),
            false => format!("{about}: {}", refusal.message),
        };
        Self { is_failed: refusal.is_final, is_refused: true, ..Self::waiting(&refusal.reason, message) }
    }

    fn ready(message: String) -> Self {
        Self { is_ready: true, ..Self::waiting("Ready", message) }
    }

    /// What matters most comes first: what was refused for good, what has failed, what was refused, what is late.
    fn rank(&self) -> u8 {
        match (self.is_failed, self.is_refused) {
            (true, true) => 0,
            (true, false) => 1,
            (false, true) => 2,
            (false, false) => 3,
        }
    }
}

/// Seconds since 1970, as often as it matters for a stage that may take so long.
pub(crate) fn now(cx: &Context, granularity: u32) -> Result<i64, Failure> {
    Ok(cx.now(std::time::Duration::from_secs(granularity.into()))?.as_second())
}

/// Plans what the stage of a release asks for. The plan has the namespace already. `was_late`: the status says already
/// that this revision has failed.
pub(crate) fn drive(
    plan: &mut Plan,
    cx: &Context,
    state: &State,
    rendered: &Rendered,
    was_late: bool,
) -> Result<Step, Stop> {
    match state.stage {
        Stage::Before => before(plan, cx, state, rendered, was_late),
        Stage::Failed => failed(plan, cx, state, rendered),
        Stage::Apply | Stage::After | Stage::Deployed => objects(plan, cx, state, rendered, was_late),
    }
}

/// A release that was given up is looked after as far as it came.
fn failed(plan: &mut Plan, cx: &Context, state: &State, rendered: &Rendered) -> Result<Step, Stop> {
    if state.failed_at == Some(Stage::After) {
        definitions(plan, cx, rendered)?;
        apply(plan, cx, state, rendered)?;
    }
    plan.hold_rest_but(&hooks::failed(cx, rendered));
    let cause = state.failure.clone();
    let Cause { reason, message } =
        cause.unwrap_or(Cause { reason: "Failed".into(), message: "the release has failed".into() });
    Ok(Step::Stay(Workloads { is_failed: true, ..Workloads::waiting(&reason, message) }))
}

fn before(plan: &mut Plan, cx: &Context, state: &State, rendered: &Rendered, was_late: bool) -> Result<Step, Stop> {
    let event = format!("pre-{}", state.operation.word());
    let mut but: Vec<AnyObject> = hooks::spent(state, rendered, &event).collect();
    let progress = hooks::run(plan, cx, state, rendered, &event, &mut but)?;
    let step = follow(cx, state, progress, Stage::Apply, was_late)?;
    // the release before runs on meanwhile
    plan.hold_rest_but(&but);
    Ok(step)
}

/// From hooks to what comes next.
fn follow(cx: &Context, state: &State, progress: Progress, next: Stage, was_late: bool) -> Result<Step, Stop> {
    let is_rollback = state.operation == Operation::Rollback;
    match progress {
        Progress::Done => Ok(Step::Next(Box::new(state.at(next, now(cx, 1)?)))),
        Progress::Step(hooks_done) => Ok(Step::Next(Box::new(State { hooks_done, ..state.clone() }))),
        // what runs well is what matters then
        Progress::Failed(_) if is_rollback => Ok(Step::Next(Box::new(state.at(next, now(cx, 1)?)))),
        Progress::Waiting(hook) if is_rollback && hook.is_failed => {
            Ok(Step::Next(Box::new(state.at(next, now(cx, 1)?))))
        }
        Progress::Failed(cause) => Ok(Step::Next(Box::new(state.after_failure(cause, now(cx, 1)?)))),
        Progress::Waiting(hook) => unfinished(cx, state, hook, was_late),
    }
}

/// What is not done yet. What has failed goes back to the release before at once, if there is one; without one it stays
/// as it is and goes on when the cause ends. The rest has its time.
fn unfinished(cx: &Context, state: &State, workloads: Workloads, was_late: bool) -> Result<Step, Stop> {
    match (workloads.is_failed, state.can_go_back()) {
        (true, true) => {
            let cause = Cause { reason: workloads.reason, message: workloads.message };
            Ok(Step::Next(Box::new(state.after_failure(cause, now(cx, 1)?))))
        }
        (true, false) => Ok(Step::Stay(workloads)),
        (false, _) => overdue(cx, state, workloads, was_late),
    }
}

/// Seconds after which the end of a stage is looked at for certain while a host runs.
const MISSED: i64 = 60;

/// Gives up what takes too long, if there is something to go back to. The time counts from the beginning of the stage.
/// Only when nothing was tried in that time, because no host ran, it begins once more.
fn overdue(cx: &Context, state: &State, workloads: Workloads, was_late: bool) -> Result<Step, Stop> {
    let timeout = state.current.timeout_seconds;
    let now = now(cx, (timeout / 10).clamp(1, 10))?;
    let end = state.since.saturating_add(timeout.into());
    if now < end {
        return Ok(Step::Stay(workloads));
    }
    let was_tried = !workloads.is_open || workloads.is_refused || was_late || state.extended;
    if !was_tried && now > end.saturating_add(MISSED) {
        return Ok(Step::Next(Box::new(State { extended: true, since: now, ..state.clone() })));
    }
    let message = format!("not done within {timeout} s: {}", workloads.message);
    if state.can_go_back() {
        // the cause, if there is one
        let reason = if workloads.is_refused { workloads.reason } else { "DeadlineExceeded".into() };
        return Ok(Step::Next(Box::new(state.after_failure(Cause { reason, message }, now))));
    }
    Ok(Step::Stay(Workloads { is_late: true, reason: "DeadlineExceeded".into(), message, ..workloads }))
}

fn objects(plan: &mut Plan, cx: &Context, state: &State, rendered: &Rendered, was_late: bool) -> Result<Step, Stop> {
    let is_deployed = state.stage == Stage::Deployed;
    // what is deployed is looked after in any case
    if let Some(missing) = definitions(plan, cx, rendered)?.filter(|_| !is_deployed) {
        plan.hold_rest();
        return unfinished(cx, state, missing, was_late);
    }
    let Applied { workloads, jobs_done } = apply(plan, cx, state, rendered)?;
    let event = format!("post-{}", state.operation.word());
    if state.stage == Stage::After {
        let mut but = Vec::new();
        let progress = hooks::run(plan, cx, state, rendered, &event, &mut but)?;
        let live = rendered.hooks.iter().filter(|hook| !but.contains(&hook.named));
        let live = Rendered { hooks: live.cloned().collect(), ..Rendered::default() };
        hooks::rest(plan, cx, state, &live, Some(&event))?;
        return follow(cx, state, progress, Stage::Deployed, was_late);
    }
    hooks::rest(plan, cx, state, rendered, None)?;
    if is_deployed {
        return Ok(Step::Stay(workloads));
    }
    if workloads.is_ready {
        let next = if rendered.hooks_at(&event).next().is_some() { Stage::After } else { Stage::Deployed };
        return Ok(Step::Next(Box::new(state.at(next, now(cx, 1)?))));
    }
    if !jobs_done.is_empty() {
        let jobs_done = [state.jobs_done.clone(), jobs_done].concat();
        return Ok(Step::Next(Box::new(State { jobs_done, ..state.clone() })));
    }
    unfinished(cx, state, workloads, was_late)
}

/// Plans `crds/`: made when they are not there, never changed, never deleted. What is not served yet, if anything.
fn definitions(plan: &mut Plan, cx: &Context, rendered: &Rendered) -> Result<Option<Workloads>, Stop> {
    // all that are not children are asked for together, before the first `?`
    let looked: Vec<_> = rendered
        .crds
        .iter()
        .map(|crd| match cx.child_any(crd) {
            Some(live) => Ok(Err(live)),
            None => cx.try_get_any::<Definition>(crd.type_meta(), "", crd.name()).map(Ok),
        })
        .collect();
    let mut missing: Option<Workloads> = None;
    for (crd, looked) in rendered.crds.iter().zip(looked) {
        let name = crd.name();
        let waits = match looked? {
            Err(live) => {
                plan.hold_any(crd);
                let health = live.health();
                (!health.is_ready()).then(|| {
                    let message = format!("CustomResourceDefinition {name}: {}", health.message);
                    Workloads::waiting("DefinitionsPending", message)
                })
            }
            // another field manager's, such as that of another instance of the same chart
            Ok(Answer::Found(_)) => None,
            Ok(_) => {
                let planned = plan.apply_any(crd.clone().keep());
                Some(match plan.refusal(&planned) {
                    // another instance of the same chart was faster: the next lookup finds it
                    Some(refusal) if refusal.reason != "ChildConflict" => Workloads::refused(refusal, ""),
                    _ => {
                        let message = format!("CustomResourceDefinition {name}: it is not there yet");
                        Workloads::open("DefinitionsPending", message)
                    }
                })
            }
        };
        missing = first(missing, waits);
    }
    Ok(missing)
}

/// What matters more; of equals the first.
fn first(known: Option<Workloads>, other: Option<Workloads>) -> Option<Workloads> {
    match (known, other) {
        (Some(known), Some(other)) => {
            let is_open = known.is_open || other.is_open;
            let worse = if other.rank() < known.rank() { other } else { known };
            Some(Workloads { is_open, ..worse })
        }
        (known, other) => known.or(other),
    }
}

/// What came of planning the objects.
struct Applied {
    workloads: Workloads,
    /// Jobs that are complete, and not on record as such.
    jobs_done: Vec<String>,
}

/// Plans the objects, and says how they are.
fn apply(plan: &mut Plan, cx: &Context, state: &State, rendered: &Rendered) -> Result<Applied, Failure> {
    let mut unready: Option<Workloads> = None;
    let (mut ready, mut all) = (0, 0);
    let mut jobs_done = Vec::new();
    for made in &rendered.objects {
        let (kind, name) = (&*made.object.type_meta().kind, made.object.name());
        let is_job = jobs::is_job(&made.object);
        if is_job && (state.stage != Stage::Apply || state.jobs_done.iter().any(|done| done == name)) {
            // it has done its work: one that is gone is not run again
            if !is_expired(cx, state, rendered, made)? {
                plan.hold_any(&made.object);
            }
            if state.stage == Stage::Apply {
                (ready, all) = (ready + 1, all + 1);
            }
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
            if is_job {
                jobs_done.push(name.to_owned());
            }
            continue;
        }
        let found = match plan.refusal(&planned) {
            Some(refusal) => Workloads::refused(refusal, ""),
            None if is_as_planned => {
                let is_failed = health.is_failed();
                let message = format!("{kind} {name}: {}", health.message);
                Workloads { is_failed, ..Workloads::waiting(&health.reason, message) }
            }
            None => Workloads::open("NotApplied", format!("{kind} {name}: it is not there yet as the chart has it")),
        };
        unready = first(unready, Some(found));
    }
    let workloads = unready.unwrap_or_else(|| Workloads::ready(format!("{ready} of {all} objects are ready")));
    Ok(Applied { workloads, jobs_done })
}

/// Has a Job of a release that is done stayed for as long as it says?
fn is_expired(cx: &Context, state: &State, rendered: &Rendered, made: &Made) -> Result<bool, Failure> {
    match cx.child_any(&made.object) {
        Some(live) if state.stage == Stage::Deployed => jobs::has_expired(cx, &live, made.ttl, rendered.granularity()),
        _ => Ok(false),
    }
}
