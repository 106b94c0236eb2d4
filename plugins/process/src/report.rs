use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use transom_sdk::prelude::*;
use transom_sdk::{Kind, Refusal, State, Status};

use crate::definition::Definition;
use crate::rollout::{self, Running};
use crate::spec::{Process, ProcessStatus};
use crate::temporal::Check;

/// What the conditions are made of.
pub(crate) struct Facts {
    pub(crate) definition: Definition,
    pub(crate) temporal: Check,
    /// Of the dependencies.
    pub(crate) missing: Option<(&'static str, String)>,
    pub(crate) canary: Option<Running>,
    /// What the API server did not accept; one that is final first.
    pub(crate) refusals: Vec<Refusal>,
}

/// Those of the plan, for [`Facts`].
pub(crate) fn refusals(plan: &Plan) -> Vec<Refusal> {
    let mut refusals: Vec<Refusal> = plan.refusals().cloned().collect();
    refusals.sort_by_key(|refusal| !refusal.is_final);
    refusals
}

/// A condition's status, reason and message.
type Verdict = (Status, String, String);

/// Conditions and status. `Ready` is `WorkersReady` with a definition, and not `Degraded`. A definition that cannot be
/// refreshed is told by `DefinitionResolved` alone: the process goes on with the last good one.
pub(crate) fn publish(plan: &mut Plan, process: &Process, cx: &Context, facts: &Facts) -> Result<(), Failure> {
    let mut ready_replicas = 0;
    for name in [process.name(), &rollout::canary_name(process)] {
        let deployment = cx.child::<Deployment>(name);
        let status = deployment.as_ref().map(Observed::status::<DeploymentStatus>).transpose()?.unwrap_or_default();
        ready_replicas += status.ready_replicas.unwrap_or(0);
    }
    let workers = cx.health::<Deployment>(process.name());
    let conditions = [
        ("DefinitionResolved", facts.definition_resolved()),
        ("WorkersReady", facts.workers_ready(&workers)),
        ("Degraded", facts.degraded(&workers)),
        ("Progressing", facts.progressing(&workers)),
    ];
    plan.condition(facts.ready(&conditions));
    for (kind, (status, reason, message)) in conditions {
        plan.condition(Condition::new(kind, status, reason, message));
    }
    plan.status(&ProcessStatus {
        definition: facts.definition.current.as_ref().map(|current| current.status.clone()),
        ready_replicas: Some(ready_replicas),
        canary: facts.canary.as_ref().map(|canary| canary.status.clone()),
        drain: None,
    });
    Ok(())
}

impl Facts {
    /// Reason and message are those of the first condition that stands in the way.
    fn ready(&self, conditions: &[(&str, Verdict)]) -> Condition {
        let in_the_way = conditions.iter().find(|(kind, (status, ..))| match *kind {
            "DefinitionResolved" => self.definition.current.is_none(),
            "WorkersReady" => *status != Status::True,
            "Degraded" => *status == Status::True,
            _ => false,
        });
        // without workers because of Temporal or a dependency: that is the reason, not that there are none
        let degraded = conditions.iter().find(|(kind, (status, ..))| *kind == "Degraded" && *status == Status::True);
        let why = in_the_way.map(|found| if found.0 == "WorkersReady" { degraded.unwrap_or(found) } else { found });
        match why {
            Some((_, (_, reason, message))) => Condition::new("Ready", false, reason, message),
            None => Condition::new("Ready", true, "Ready", "all workers are available"),
        }
    }

    fn definition_resolved(&self) -> Verdict {
        match (&self.definition.problem, &self.definition.current) {
            (None, Some(current)) => {
                verdict(true, "Resolved", &format!("version {} is in use", current.status.version))
            }
            (Some((reason, message)), Some(current)) => {
                verdict(false, reason, &format!("{message}; version {} stays in use", current.status.version))
            }
            (Some((reason, message)), None) => verdict(false, reason, message),
            (None, None) => verdict(Status::Unknown, "Unknown", "the definition was not asked for"),
        }
    }

    fn workers_ready(&self, workers: &Health) -> Verdict {
        let deployments = Deployment::type_meta();
        let refused = self.refusals.iter().find(|refusal| refusal.type_meta.is_same_kind(&deployments));
        if let Some(refusal) = refused {
            return verdict(false, &refusal.reason, &refusal.message);
        }
        match workers.state {
            State::Missing if self.definition.current.is_none() => {
                verdict(false, "WaitingForDefinition", "workers start when there is a definition")
            }
            State::Missing => match self.temporal.problem() {
                Some((reason, message)) => verdict(false, reason, message),
                None => verdict(false, "NotCreated", "the Deployment does not exist yet"),
            },
            state => verdict(state == State::Ready, &workers.reason, &workers.message),
        }
    }

    fn degraded(&self, workers: &Health) -> Verdict {
        if let Some(refusal) = self.refusals.first().filter(|refusal| refusal.is_final) {
            return verdict(true, &refusal.reason, &refusal.message);
        }
        if let Some((reason, message)) = self.temporal.problem() {
            return verdict(true, reason, message);
        }
        if let Some((reason, message)) = &self.missing {
            return verdict(true, reason, message);
        }
        if let Some(failed) = self.canary.as_ref().and_then(|canary| canary.failed.as_ref()) {
            let message = format!("the canary will not become healthy by itself: {}", failed.message);
            return verdict(true, "CanaryFailed", &message);
        }
        if workers.state == State::Failed {
            return verdict(true, &workers.reason, &workers.message);
        }
        verdict(false, "AsExpected", "Temporal and all dependencies are there")
    }

    fn progressing(&self, workers: &Health) -> Verdict {
        if let Some(refusal) = self.refusals.first() {
            return verdict(!refusal.is_final, &refusal.reason, &refusal.message);
        }
        if let Some(canary) = &self.canary {
            let message = format!("{} workers of the new version prove themselves", canary.status.replicas);
            return verdict(canary.failed.is_none(), "Canary", &message);
        }
        match workers.state {
            State::Ready => verdict(false, "Complete", "everything is as the spec asks"),
            State::Failed => verdict(false, &workers.reason, &workers.message),
            State::Missing => verdict(false, "Waiting", "there is nothing to roll out yet"),
            _ => verdict(true, "RollingOut", &workers.message),
        }
    }
}

fn verdict(status: impl Into<Status>, reason: &str, message: &str) -> Verdict {
    (status.into(), reason.to_owned(), message.to_owned())
}
