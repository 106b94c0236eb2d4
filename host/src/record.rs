//! What a reconcile rested on and what came of it, as one file that can be run again without a cluster.
//!
//! The host keeps the last few reconciles of each object ([`ring`]) as it had them: nothing is copied and no JSON is
//! written until somebody asks. Then values of Secrets are taken out ([`redact`]), the plugin is run on what is left,
//! and the result is a [`Bundle`].

mod redact;
pub mod ring;
pub mod serve;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::controller::Active;
use crate::overlay::Overlaid;
use crate::plan::contract::{Answer, Answered, Failure, Lookup, ObjectRef, Plan, Problem, Request, Step};
use crate::plan::decide::{Apply, Prune, Writes};
use crate::plan::request::Snapshot;
use crate::plan::rounds::{self, Conversation, NoPlan, Round, Session};
use crate::plugin::{CallError, Plugin};

/// Version of the format. A reader refuses any other.
pub const VERSION: u32 = 1;

/// One reconcile as it was, with values of Secrets. Never leaves the process.
pub struct Recording {
    /// The component that was called.
    pub plugin: Plugin,
    /// What it is called.
    pub component: Component,
    /// The primary.
    pub primary: ObjectRef,
    /// Its `metadata.generation`.
    pub generation: i64,
    /// When the reconcile ended.
    pub at: jiff::Timestamp,
    /// From the first call to the last, lookups included.
    pub duration: Duration,
    /// The request of the last call, with the answers of all rounds.
    pub request: Request,
    /// The calls.
    pub rounds: Vec<Round>,
    /// How the conversation ended.
    pub outcome: Outcome,
    /// What tenants laid over the plan.
    pub overlays: Option<Overlaid>,
    /// What the host did.
    pub carried_out: CarriedOut,
}

/// Which component was called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Name of the `Plugin` record.
    pub name: String,
    /// Version that the component gives itself.
    pub version: String,
    /// `sha256:…`
    pub digest: String,
}

/// How a conversation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// With a plan.
    Planned(Box<Plan>),
    /// The plugin said that it failed.
    Failed(Failure),
    /// A call gave no answer (a trap, a deadline), or the plugin asked without end.
    NoAnswer(Problem),
}

impl Outcome {
    /// Of a conversation that came to no plan.
    #[must_use]
    pub fn of_failure(stop: &NoPlan<CallError>) -> Self {
        let no_answer = |reason: &str, message| Self::NoAnswer(Problem { reason: reason.into(), message });
        match stop {
            NoPlan::Failed(failure) => Self::Failed(failure.clone()),
            NoPlan::Call(error) => no_answer(error.reason(), error.to_string()),
            NoPlan::Rounds(error) => no_answer("TooManyRounds", format!("the plugin {error}")),
        }
    }
}

impl Recording {
    /// Of a conversation that has just ended.
    #[must_use]
    pub fn new(
        active: &Active,
        plugin: &Plugin,
        snapshot: &Snapshot,
        request: Request,
        rounds: Vec<Round>,
        outcome: Outcome,
        duration: Duration,
    ) -> Self {
        let component = Component {
            name: active.name.clone(),
            version: active.manifest.version.clone(),
            digest: active.digest.clone(),
        };
        Self {
            plugin: plugin.clone(),
            component,
            primary: snapshot.reference(),
            generation: snapshot.primary.generation,
            at: jiff::Timestamp::now(),
            duration,
            request,
            rounds,
            outcome,
            overlays: None,
            carried_out: CarriedOut::default(),
        }
    }
}

impl Write {
    /// The writes that a plan asks for.
    #[must_use]
    pub fn all(writes: &Writes) -> Vec<Self> {
        let apply =
            |a: &Apply| Self { verb: "apply".into(), child: a.desired.reference.clone(), drift: a.drift.clone() };
        let prune = |p: &Prune| Self {
            verb: if p.keep { "release" } else { "delete" }.into(),
            child: p.reference.clone(),
            drift: Vec::new(),
        };
        writes.tiers.iter().flatten().map(apply).chain(writes.prunes.iter().map(prune)).collect()
    }
}

/// What the host did with the plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CarriedOut {
    /// Children that had to be written or removed; empty when live state was as planned.
    #[serde(default)]
    pub writes: Vec<Write>,
    /// Calls outside Kubernetes that were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<CallMade>,
    /// The status that was published, if it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
    /// Why the reconcile failed: reason and chain of causes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

/// One write to a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// `apply`, `delete` or `release`.
    pub verb: String,
    /// Which object.
    pub child: ObjectRef,
    /// Paths where live state differed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
}

/// One call outside Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallMade {
    /// Which call of the plan.
    pub key: String,
    /// Name of the endpoint in the `Plugin` record.
    pub endpoint: String,
    /// `/package.Service/Method`
    pub path: String,
    /// Why it failed; none when it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// The file: one reconcile without values of Secrets. `outcome` is what the plugin makes of exactly this `request`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bundle {
    /// [`VERSION`]
    pub version: u32,
    /// Version of the host that wrote it.
    pub host_version: String,
    /// When the reconcile ended, RFC 3339.
    pub recorded_at: String,
    /// Which component.
    pub plugin: Component,
    /// Which object.
    pub primary: ObjectRef,
    /// Its `metadata.generation`.
    pub generation: i64,
    /// From the first call to the last, lookups included.
    pub duration_microseconds: u64,
    /// What was taken out.
    pub redaction: Redaction,
    /// The request of the last call: primary, children, configuration, and the answers of all rounds.
    pub request: Request,
    /// The calls.
    pub rounds: Vec<Round>,
    /// What the plugin makes of it.
    pub outcome: Outcome,
    /// What tenants laid over the plan, and what became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlays: Option<Overlaid>,
    /// What the host did.
    pub carried_out: CarriedOut,
    /// When the host looks at the object again without a change, as of when it was asked; RFC 3339. Absent: when something
    /// changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_look_at: Option<String>,
}

/// What was taken out of a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redaction {
    /// Different values that were replaced.
    pub values: usize,
    /// Where the plan of the real run differs from `outcome` beyond the replaced values: a plugin that looks into a
    /// Secret decides otherwise on a placeholder. Empty: only values differ.
    pub differs: Vec<String>,
}

/// A bundle cannot be read or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Not the format.
    #[error("not a recording: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Another version of the format.
    #[error("a recording of format version {0}, this program reads {VERSION}: use the transom that made it")]
    Version(u64),
    /// No key could be made.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

impl Bundle {
    /// Reads a bundle.
    ///
    /// # Errors
    /// When it is no bundle, or of another version of the format.
    pub fn parse(text: &str) -> Result<Self, BundleError> {
        let value: Value = serde_json::from_str(text)?;
        match value.get("version").and_then(Value::as_u64) {
            Some(version) if version != u64::from(VERSION) => Err(BundleError::Version(version)),
            _ => Ok(serde_json::from_value(value)?),
        }
    }

    /// Takes the values of Secrets out of a recording, and runs the plugin on what is left.
    ///
    /// # Errors
    /// When the system gives no random bytes for the key.
    pub async fn of(recording: &Recording) -> Result<Self, BundleError> {
        let mut redactor = redact::Redactor::new(recording).ok_or(BundleError::NoRandomness)?;
        let request = redactor.request(&recording.request);
        let rounds = redactor.rounds(&recording.rounds);
        let replay = replay(&recording.plugin, &request, &rounds).await;
        let mut outcome = replay.outcome;
        redact::mask_plan(&mut outcome);
        let mut real = redactor.outcome(&recording.outcome);
        redact::mask_plan(&mut real);
        let differs = differences(&real, &outcome).into_iter().map(|d| d.place()).collect();
        Ok(Self {
            version: VERSION,
            host_version: env!("CARGO_PKG_VERSION").into(),
            recorded_at: recording.at.to_string(),
            plugin: recording.component.clone(),
            primary: recording.primary.clone(),
            generation: recording.generation,
            duration_microseconds: u64::try_from(recording.duration.as_micros()).unwrap_or(u64::MAX),
            redaction: Redaction { values: redactor.count(), differs },
            request,
            rounds: replay.rounds,
            outcome,
            overlays: recording.overlays.as_ref().map(|overlays| redactor.overlays(overlays)),
            carried_out: redactor.carried_out(&recording.carried_out),
            next_look_at: None,
        })
    }
}

/// What a run on recorded inputs came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// How the conversation ended.
    pub outcome: Outcome,
    /// The calls.
    pub rounds: Vec<Round>,
    /// Fuel of each call, where the engine counts it.
    pub fuel: Vec<u64>,
}

impl Replay {
    /// With the values in Secrets of the plan masked as in a bundle, so that it can be compared with one.
    #[must_use]
    pub fn masked(mut self) -> Self {
        redact::mask_plan(&mut self.outcome);
        self
    }
}

/// Runs a plugin on a recorded request. A lookup that was not recorded is answered by a failure (`NotRecorded`).
pub async fn replay(plugin: &Plugin, request: &Request, rounds: &[Round]) -> Replay {
    let known = rounds.first().map_or(request.answers.len(), |round| round.answers);
    let mut first = request.clone();
    first.round = 0;
    first.answers.truncate(known);
    let session = Recorded { plugin, answers: &request.answers, fuel: std::sync::Mutex::default() };
    let Conversation { rounds, end, .. } = rounds::conversation(&session, first, *plugin.bounds()).await;
    let fuel = session.fuel.into_inner().unwrap_or_default();
    let outcome = match end {
        Ok((plan, _)) => Outcome::Planned(Box::new(plan)),
        Err(stop) => Outcome::of_failure(&stop),
    };
    Replay { outcome, rounds, fuel }
}

/// Answers from a recording.
struct Recorded<'a> {
    plugin: &'a Plugin,
    answers: &'a [Answered],
    fuel: std::sync::Mutex<Vec<u64>>,
}

impl Session for Recorded<'_> {
    type Error = CallError;

    async fn call(&self, request: &Request) -> Result<Result<Step, Failure>, CallError> {
        let (answer, stats) = self.plugin.reconcile(request).await?;
        if let Ok(mut fuel) = self.fuel.lock() {
            fuel.extend(stats.fuel);
        }
        Ok(answer)
    }

    async fn answer(&self, lookups: Vec<Lookup>) -> Vec<Answered> {
        let recorded = |lookup: &Lookup| {
            let known = self.answers.iter().find(|answered| answered.lookup == *lookup);
            known.map_or_else(not_recorded, |answered| answered.answer.clone())
        };
        lookups.into_iter().map(|lookup| Answered { answer: recorded(&lookup), lookup }).collect()
    }
}

fn not_recorded() -> Answer {
    let message = "the recording has no answer to this; record again with the plugin that asks it".into();
    Answer::Failed(Problem { reason: "NotRecorded".into(), message })
}

/// One place where two outcomes differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// `Deployment n/a`, or `plan` for what is no child.
    pub of: String,
    /// `spec.replicas`; empty for the whole.
    pub path: String,
    /// In the first; none where it is not there.
    pub before: Option<Value>,
    /// In the second.
    pub after: Option<Value>,
}

impl Difference {
    fn place(&self) -> String {
        format!("{} {}", self.of, self.path).trim_end().to_owned()
    }
}

/// Everything in which two outcomes differ; empty when they are the same byte for byte.
#[must_use]
pub fn differences(before: &Outcome, after: &Outcome) -> Vec<Difference> {
    if before == after {
        return Vec::new();
    }
    let mut found = Vec::new();
    if let (Outcome::Planned(before), Outcome::Planned(after)) = (before, after) {
        let (old, new) = (named(before), named(after));
        for (name, child) in &old {
            let other = new.iter().find(|(n, _)| n == name).map(|(_, c)| c);
            compare(name, "", Some(child), other, &mut found);
        }
        for (name, child) in new.iter().filter(|(name, _)| !old.iter().any(|(n, _)| n == name)) {
            compare(name, "", None, Some(child), &mut found);
        }
        let rest = |plan: &Plan| {
            let status = plan.status.as_ref().map(|text| serde_json::from_str::<Value>(text).unwrap_or_default());
            let rest = Plan { children: Vec::new(), status: None, ..plan.clone() };
            let mut rest = serde_json::to_value(rest).unwrap_or_default();
            if let Some(fields) = rest.as_object_mut() {
                fields.insert("status".into(), status.unwrap_or_default());
            }
            rest
        };
        compare("plan", "", Some(&rest(before)), Some(&rest(after)), &mut found);
    } else {
        let value = |outcome| serde_json::to_value(outcome).unwrap_or_default();
        compare("outcome", "", Some(&value(before)), Some(&value(after)), &mut found);
    }
    if found.is_empty() {
        // the same objects in another order or spelling
        let text = |what: &Outcome| Some(serde_json::to_value(what).unwrap_or_default());
        found.push(Difference { of: "plan".into(), path: "bytes".into(), before: text(before), after: text(after) });
    }
    found
}

/// Children by name, each with what is asked for besides its object.
fn named(plan: &Plan) -> Vec<(String, Value)> {
    let name = |object: &Value| {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (kind, namespace, name) = (text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
        if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
    };
    let child = |child: &crate::plan::contract::Child| {
        let object = serde_json::from_str(&child.object).unwrap_or_else(|_| Value::from(child.object.clone()));
        let mut whole = serde_json::to_value(child).unwrap_or_default();
        let name = name(&object);
        if let Some(fields) = whole.as_object_mut() {
            fields.remove("object");
            if let Value::Object(object) = object {
                fields.extend(object);
            } else {
                fields.insert("object".into(), object);
            }
        }
        (name, whole)
    };
    plan.children.iter().map(child).collect()
}

fn compare(of: &str, path: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Difference>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            for (name, value) in old {
                compare(of, &below(name), Some(value), new.get(name), found);
            }
            for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
                compare(of, &below(name), None, Some(value), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for i in 0..old.len().max(new.len()) {
                compare(of, &format!("{path}[{i}]"), old.get(i), new.get(i), found);
            }
        }
        (before, after) if before == after => {}
        (before, after) => {
            found.push(Difference { of: of.into(), path: path.into(), before: before.cloned(), after: after.cloned() })
        }
    }
}
