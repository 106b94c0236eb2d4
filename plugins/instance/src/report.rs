//! Status and conditions.

use transom_sdk::prelude::*;
use transom_sdk::{Problem, Status};

use crate::redact::Redactor;
use crate::release::Workloads;
use crate::spec::{CaelusInstance, CaelusInstanceStatus, Phase, ReleaseStatus};
use crate::state::{Operation, Stage, State};

/// Longer ones are cut.
const MESSAGE: usize = 1_000;

/// What the status is made of.
#[derive(Default)]
pub(crate) struct Facts<'a> {
    /// As it is on record, or will be.
    pub(crate) state: Option<&'a State>,
    /// What is wrong with what the spec asks for now.
    pub(crate) problem: Option<Problem>,
    pub(crate) workloads: Option<Workloads>,
    /// The instance is being deleted: how far that is.
    pub(crate) deletion: Option<String>,
}

/// Does the status say already that the revision on record has failed?
pub(crate) fn says_failed(instance: &CaelusInstance, state: &State) -> bool {
    let status = instance.status.as_ref();
    let revision = status.and_then(|status| status.release.as_ref()).map(|release| release.revision);
    status.is_some_and(|status| status.phase == Some(Phase::Failed)) && revision == Some(state.revision)
}

/// How the objects are, with what was refused beside those of the release: the namespace, what is in it for the
/// instance, the record of the release.
fn with_refusals(plan: &Plan, workloads: Option<&Workloads>) -> Option<Workloads> {
    let refused = plan.refusals().min_by_key(|refusal| !refusal.is_final).map(|r| Workloads::refused(r, ""));
    match (refused, workloads) {
        (Some(refused), None) => Some(refused),
        (Some(refused), Some(known))
            if !known.is_refused && !known.is_failed && (refused.is_failed || !known.is_late) =>
        {
            Some(refused)
        }
        (_, known) => known.cloned(),
    }
}

/// Writes the status.
pub(crate) fn publish(
    plan: &mut Plan,
    instance: &CaelusInstance,
    cx: &Context,
    redactor: &Redactor,
    facts: &Facts<'_>,
) -> Result<(), Failure> {
    let workloads = with_refusals(plan, facts.workloads.as_ref());
    let workloads = workloads.as_ref();
    let (phase, reason, message) = gist(facts, workloads);
    let message = shorten(&redactor.clean(&message));
    let release = facts.state.map(|state| ReleaseStatus {
        name: state.current.name.clone(),
        revision: state.revision,
        template_version: state.current.template_version.clone(),
        chart_digest: state.current.digest.clone(),
    });
    let before = instance.status.clone().unwrap_or_default();
    // its record goes with the namespace
    let release = release.or_else(|| before.release.clone().filter(|_| facts.deletion.is_some()));
    let same = before.phase == Some(phase) && before.release == release;
    let last_reconcile = match before.last_reconcile.filter(|_| same) {
        Some(known) => known,
        None => cx.now(std::time::Duration::from_secs(1))?.to_string(),
    };
    plan.status(&CaelusInstanceStatus {
        phase: Some(phase),
        last_reconcile: Some(last_reconcile),
        message: Some(message.clone()),
        release,
    });
    let is_deployed = facts.state.is_some_and(|state| state.stage == Stage::Deployed) && facts.deletion.is_none();
    let are_ready = is_deployed && workloads.is_some_and(|workloads| workloads.is_ready);
    if let Some(Workloads { is_ready, reason, message, .. }) = workloads {
        plan.condition(Condition::new("WorkloadsReady", *is_ready, reason.clone(), shorten(&redactor.clean(message))));
    }
    let released = if facts.problem.as_ref().is_some_and(|problem| problem.passes) && is_deployed {
        Status::Unknown
    } else {
        (facts.problem.is_none() && is_deployed).into()
    };
    let (released_reason, released_message) = match (&facts.problem, facts.state) {
        (Some(problem), _) => (problem.reason.clone(), shorten(&redactor.clean(&problem.message))),
        (None, Some(state)) if is_deployed => {
            ("Deployed".to_owned(), format!("revision {} is deployed", state.revision))
        }
        (None, _) => (reason.clone(), message.clone()),
    };
    plan.condition(Condition::new("Released", released, released_reason, released_message));
    plan.condition(Condition::new("Ready", are_ready && facts.problem.is_none(), reason.clone(), message.clone()));
    if let Some(rejected) = facts.state.and_then(|state| state.rejected.as_ref()) {
        let note = format!("revision {} has failed: {}", rejected.revision, rejected.cause.message);
        plan.warning("UpgradeFailed", shorten(&redactor.clean(&note)));
    }
    Ok(())
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= MESSAGE {
        return text.to_owned();
    }
    text.chars().take(MESSAGE - 1).chain(['…']).collect()
}

/// Phase, reason and message.
fn gist(facts: &Facts<'_>, workloads: Option<&Workloads>) -> (Phase, String, String) {
    let Facts { state, problem, deletion, .. } = facts;
    if let Some(message) = deletion {
        return (Phase::Deleting, "Deleting".into(), message.clone());
    }
    let work = || workloads.map(|w| (w.reason.clone(), w.message.clone()));
    let Some(state) = state else {
        return match (problem, work()) {
            (Some(problem), _) => {
                let phase = if problem.passes { Phase::Pending } else { Phase::Failed };
                (phase, problem.reason.clone(), problem.message.clone())
            }
            (None, Some((reason, message))) => {
                let is_failed = workloads.is_some_and(|workloads| workloads.is_failed);
                (if is_failed { Phase::Failed } else { Phase::Pending }, reason, message)
            }
            (None, None) => (Phase::Pending, "Preparing".into(), "the namespace is being made".into()),
        };
    };
    let (reason, message) =
        work().unwrap_or_else(|| ("Releasing".into(), format!("revision {} begins", state.revision)));
    let is_bad = workloads.is_some_and(|workloads| workloads.is_failed || workloads.is_late);
    match (state.stage, state.operation) {
        (Stage::Failed, _) => (Phase::Failed, reason, message),
        (Stage::Deployed, _) => match problem {
            // it runs, but it is not what is asked for
            Some(problem) if problem.passes && !is_bad => {
                (Phase::Running, problem.reason.clone(), problem.message.clone())
            }
            Some(problem) if !problem.passes => (Phase::Failed, problem.reason.clone(), problem.message.clone()),
            _ if is_bad => (Phase::Failed, reason, message),
            _ => (Phase::Running, reason, message),
        },
        (_, Operation::Rollback) => {
            let why = state.rejected.as_ref().map(|rejected| rejected.cause.message.clone()).unwrap_or_default();
            let message = format!("rolling back ({message}), because {why}");
            if is_bad { (Phase::Failed, reason, message) } else { (Phase::Upgrading, "RollingBack".into(), message) }
        }
        (_, operation) => match problem {
            Some(problem) if !problem.passes => (Phase::Failed, problem.reason.clone(), problem.message.clone()),
            _ if is_bad => (Phase::Failed, reason, message),
            _ if operation == Operation::Install => (Phase::Pending, reason, message),
            _ => (Phase::Upgrading, reason, message),
        },
    }
}

/// What a rolled back release is to the spec that asks for it.
pub(crate) fn rejection(state: &State) -> Option<Problem> {
    let rejected = state.rejected.as_ref()?;
    let message = format!(
        "revision {} has failed and revision {} is the release before it again: {}; change the spec to try once more",
        rejected.revision, state.revision, rejected.cause.message
    );
    Some(Problem::new("UpgradeFailed", message))
}
