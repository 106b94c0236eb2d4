//! Phase, conditions and status.

use std::collections::BTreeMap;

use transom_sdk::prelude::*;
use transom_sdk::{JobRuns, Refusal, State, Status};

use crate::spec::{EnvironmentStatus, Phase};

/// What a condition is about, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Namespace,
    Build,
    Deployment,
}

impl Step {
    const ALL: [Self; 3] = [Self::Namespace, Self::Build, Self::Deployment];

    fn condition(self) -> &'static str {
        match self {
            Self::Namespace => "NamespaceReady",
            Self::Build => "BuildReady",
            Self::Deployment => "DeploymentReady",
        }
    }
}

/// Why it does not go on. What runs stays as it is.
pub(crate) type Problem = transom_sdk::Problem<Step>;
/// Why a plan is not made to its end.
pub(crate) type Stop = transom_sdk::Stop<Step>;

/// What somebody has to change in the Environment or its Project; `message` names the field.
pub(crate) fn of_spec(step: Step, reason: &str, message: String) -> Problem {
    transom_sdk::Problem::new(reason, message).about(step)
}

/// What may come by itself.
pub(crate) fn transient(step: Step, reason: &str, message: String) -> Problem {
    transom_sdk::Problem::passing(reason, message).about(step)
}

/// Everything that is told about an Environment.
pub(crate) struct Report {
    pub(crate) phase: Phase,
    pub(crate) url: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) images: BTreeMap<String, String>,
    /// Runs of the Jobs that are planned.
    pub(crate) runs: JobRuns,
    /// What is planned at the moment, and how many refusals of what was planned before are told.
    stage: Step,
    refusals_told: usize,
    /// There are Jobs that are not planned, because something else comes first.
    is_partial: bool,
    conditions: BTreeMap<Step, (Status, String, String)>,
    /// Parts of the template that mean nothing here; none when the template cannot have such parts.
    pub(crate) unsupported: Option<Vec<String>>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            phase: Phase::Pending,
            url: None,
            namespace: None,
            images: BTreeMap::new(),
            runs: JobRuns::default(),
            stage: Step::Namespace,
            refusals_told: 0,
            is_partial: false,
            conditions: BTreeMap::new(),
            unsupported: None,
        }
    }
}

impl Report {
    /// With what is known of Jobs.
    pub(crate) fn new(status: Option<&EnvironmentStatus>) -> Self {
        let jobs = status.map_or(&[][..], |status| &status.jobs);
        Self { runs: JobRuns::new(jobs), ..Self::default() }
    }

    pub(crate) fn say(&mut self, step: Step, status: impl Into<Status>, reason: &str, message: impl Into<String>) {
        self.conditions.insert(step, (status.into(), reason.to_owned(), message.into()));
    }

    pub(crate) fn problem(&mut self, problem: &Problem) {
        self.phase = match (problem.passes, self.phase, problem.about) {
            (false, ..) | (_, Phase::Failed, _) => Phase::Failed,
            (true, Phase::Initializing, Step::Build) => Phase::Building,
            (true, Phase::Initializing, Step::Deployment) => Phase::Deploying,
            (true, phase, _) => phase,
        };
        self.say(problem.about, false, &problem.reason, problem.message.as_str());
    }

    /// From here on other things are planned. What the API server refused of those before is told.
    pub(crate) fn enter(&mut self, stage: Step, plan: &Plan) {
        self.refused(plan);
        self.stage = stage;
    }

    /// Tells what the API server refused since the stage began: first what it will not accept however often it is sent.
    pub(crate) fn refused(&mut self, plan: &Plan) {
        let refusals: Vec<&Refusal> = plan.refusals().skip(self.refusals_told).collect();
        self.refusals_told += refusals.len();
        let worst = refusals.iter().find(|refusal| refusal.is_final).or(refusals.first());
        let Some(refusal) = worst else { return };
        if refusal.is_final {
            self.phase = Phase::Failed;
        } else if self.phase == Phase::Ready {
            self.phase = Phase::Deploying;
        }
        self.say(self.stage, false, &refusal.reason, refusal.message.as_str());
    }

    /// What runs stays as it is, and so does what is known of it.
    pub(crate) fn keep(&mut self, known: EnvironmentStatus) {
        self.url = self.url.take().or(known.url);
        self.namespace = self.namespace.take().or(known.namespace);
        if self.images.is_empty() {
            self.images = known.images;
        }
        self.is_partial = true;
    }

    /// It goes on, unless something has failed that comes before.
    pub(crate) fn rise(&mut self, phase: Phase) {
        if self.phase != Phase::Failed {
            self.phase = phase;
        }
    }

    /// What all that runs adds up to; `parts` are names for people and states.
    pub(crate) fn deployed(&mut self, parts: &[(String, Health)]) {
        let find = |state: State| parts.iter().find(|(_, health)| health.state == state);
        let worst = find(State::Failed)
            .or_else(|| find(State::Missing))
            .or_else(|| parts.iter().find(|(_, health)| !health.is_ready()));
        match worst {
            None => {
                self.rise(Phase::Ready);
                self.say(Step::Deployment, true, "Deployed", format!("all {} objects are ready", parts.len()));
            }
            Some((name, health)) => {
                self.rise(if health.is_failed() { Phase::Failed } else { Phase::Deploying });
                self.say(Step::Deployment, false, &health.reason, format!("{name}: {}", health.message));
            }
        }
    }

    pub(crate) fn publish(self, plan: &mut Plan) {
        let mut ready = Condition::new("Ready", true, "Ready", "the Environment runs");
        let unknown = || (Status::Unknown, "Waiting".to_owned(), "what comes before it is not done".to_owned());
        let said = Step::ALL.map(|step| (step, self.conditions.get(&step).cloned().unwrap_or_else(unknown)));
        // the first that is in the way; what nobody looked at is not
        let rank = |status: Status| if status == Status::False { 0 } else { 1 };
        let in_the_way = said.iter().filter(|(_, (status, ..))| *status != Status::True);
        if let Some((_, (_, reason, message))) = in_the_way.min_by_key(|(_, (status, ..))| rank(*status)) {
            ready = Condition::new("Ready", false, reason, message);
        }
        for (step, (status, reason, message)) in said {
            plan.condition(Condition::new(step.condition(), status, reason, message));
        }
        plan.condition(ready);
        if let Some(unsupported) = &self.unsupported {
            plan.condition(if unsupported.is_empty() {
                Condition::new("TemplateSupported", true, "Supported", "all of the template is deployed")
            } else {
                let message = format!("not deployed: {}", unsupported.join("; "));
                Condition::new("TemplateSupported", false, "UnsupportedKeys", message)
            });
        }
        plan.status(&EnvironmentStatus {
            phase: Some(self.phase),
            url: self.url,
            namespace: self.namespace,
            images: self.images,
            jobs: if self.is_partial { self.runs.into_status_with_rest() } else { self.runs.into_status() },
        });
    }
}
