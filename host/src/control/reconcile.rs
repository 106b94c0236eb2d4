//! Moves one primary closer to what its plugin asks for.
//!
//! ```text
//! snapshot ─► rounds ─► plan ─► check ─► writes?
//!    ▲                                   │ none: calls? none: publish status, done
//!    └── answers to the writes go into ◄─┘ some: apply by tiers, prune; or make the calls
//!        the caches; look again
//! ```
//!
//! # Guarantees
//! Level-triggered: it reads what is there, never why it was called, and may be cut off at any `.await` and run again.
//! Every child carries its owner's UID from the request that creates it, so nothing can be made and then forgotten.
//! Status is published only when nothing is left to write, or on failure: it never claims what is not there yet.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};
use tracing::{Instrument, field};

use super::calls::{self, Calls};
use super::cluster::{ApiError, Applied};
use super::controller::{Active, Controller};
use super::damper::Damper;
use super::key::PrimaryKey;
use super::kinds::KindError;
use super::overlays::Rejected;
use super::refusals::{self, Refusals, Refused};
use crate::api::names;
use crate::api::plugin::Bounds;
use crate::lookup::{Asker, Lookups};
use crate::overlay::{Basis, Overlaid};
use crate::plan::check::{Checked, Checker, Desired, Known, PlanError, digest, shorten};
use crate::plan::contract::{
    Answered, Call, CallResult, Disposition, Event, Failure, Lookup, ObjectRef, Problem, Refusal, Request, Step, Truth,
    TypeMeta,
};
use crate::plan::decide::{self, Apply, Experience, Prune, Writes};
use crate::plan::diff;
use crate::plan::object::Object;
use crate::plan::request::{Snapshot, owns_namespace};
use crate::plan::review::{Review, is_about_replicas, review};
use crate::plan::rounds::{self, Conversation, NoPlan, RoundsError, Session};
use crate::plan::status::{self, INVALID, Report, Synced};
use crate::plugin::CallError;
use crate::record::{CallMade, Outcome as Said, Recording, Write};
use crate::telemetry::{chain, metrics};

/// Looks at one primary before it goes to the back of the queue: write, look again, once more for what the first
/// look could not see, and two for calls and what they led to. More means that plan and cluster do not agree.
const MAX_PASSES: u32 = 6;

/// How often the status of one object is written while no condition flips: "1 of 3 replicas", "2 of 3 replicas". A child
/// that takes a moment to start would cost a write for each step otherwise; flips are written at once.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// What is said of an object on its way to be Ready takes turns with what is said of others, and is at most this late: the
/// children of others come first while the API server is busy, and often the object is Ready by then. Readiness itself,
/// its end and failures are written at once.
pub const STEPS_WITHIN: Duration = Duration::from_secs(60);

/// Children of a primary that is being deleted are usually gone by then: what is waited for is not worth a write.
const REMOVED_WITHIN: Duration = Duration::from_secs(3);

/// Autoscalers of one kind and namespace that are looked through.
const MAX_AUTOSCALERS: u32 = 500;

/// Applies of one tier that are on their way at the same time.
const PARALLEL_WRITES: usize = 8;

/// Calls outside that failed in a row, after which a deletion that is overdue no longer waits for them: with the usual
/// waits about eight minutes.
const FORCED_AFTER_CALLS: u32 = 10;

/// Calls of one plan that are on their way at the same time.
const PARALLEL_CALLS: usize = 4;

/// The API server serves a kind a moment after its definition was applied. After this long the objects of the kind are
/// tried all the same, and their failure is told.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(5);

/// Why a reconcile stopped: one variant for each step, with what names the culprit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// The plugin gave no answer.
    #[error(transparent)]
    Call(CallError),
    /// The plugin asked without end.
    #[error("the plugin {0}")]
    Rounds(RoundsError),
    /// Somebody has to change the object.
    #[error("{0}")]
    Invalid(String),
    /// The plugin says that it may get better by itself.
    #[error("{message}")]
    Transient {
        /// The plugin's word.
        reason: String,
        /// The plugin's sentence.
        message: String,
    },
    /// The plugin found a fault of its own.
    #[error("the plugin failed: {0}")]
    Internal(String),
    /// The plan may not be carried out.
    #[error("plan refused: {0}")]
    Plan(#[from] PlanError),
    /// A child could not be applied.
    #[error("could not apply {child}")]
    Apply {
        /// Which child.
        child: ObjectRef,
        /// Why.
        source: ApiError,
    },
    /// A kind that the plugin has not named is not on record, so none of its objects is made.
    #[error("could not apply {child}: {source}")]
    Kind {
        /// Which child.
        child: ObjectRef,
        /// Why.
        source: KindError,
    },
    /// A field that cannot be changed would have to be.
    #[error("{child} has to be replaced, which the plugin did not allow")]
    Immutable {
        /// Which child.
        child: ObjectRef,
        /// The API server's words.
        source: ApiError,
    },
    /// Somebody else's object has the name.
    #[error("{child} exists and belongs to {managers}")]
    Conflict {
        /// Which child.
        child: ObjectRef,
        /// Its field managers.
        managers: String,
    },
    /// A child could not be removed.
    #[error("could not remove {child}")]
    Prune {
        /// Which child.
        child: ObjectRef,
        /// Why.
        source: ApiError,
    },
    /// A call outside Kubernetes failed, and the plugin asks for it again.
    #[error("call {key} failed: {}: {}", problem.reason, problem.message)]
    Outside {
        /// Which call of the plan.
        key: String,
        /// What was answered.
        problem: Problem,
    },
    /// A child was refused a moment ago, and the plugin, which has seen it, still asks for it.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The primary itself could not be written.
    #[error("could not write {what} of the object")]
    Primary {
        /// `status` or `finalizers`.
        what: &'static str,
        /// Why.
        source: ApiError,
    },
    /// The object is pinned to a version that is not there.
    #[error("pinned to {digest}, which is not loaded: no version in the plugin's history has this digest")]
    Pinned {
        /// The version.
        digest: String,
    },
    /// Every look found something to write.
    #[error("plan and cluster do not come to rest; last written: {0}")]
    Unstable(String),
}

impl ReconcileError {
    /// Stable CamelCase word: condition reason, event reason and metric label alike.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Call(error) => error.reason(),
            Self::Rounds(RoundsError::TooManyRounds(_)) => "TooManyRounds",
            Self::Rounds(RoundsError::TooManyLookups { .. }) => "TooManyLookups",
            Self::Invalid(_) => INVALID,
            Self::Transient { reason, .. } => reason,
            Self::Internal(_) => "PluginFailed",
            Self::Plan(error) => error.reason,
            Self::Apply { .. } => "ApplyFailed",
            Self::Kind { source: KindError::TooMany, .. } => "TooManyKinds",
            Self::Kind { source: KindError::NotRecorded, .. } => "KindNotRecorded",
            Self::Immutable { .. } => "ImmutableField",
            Self::Conflict { .. } => "ChildConflict",
            Self::Prune { .. } => "PruneFailed",
            Self::Outside { problem, .. } if problem.reason == calls::DENIED => calls::DENIED,
            Self::Outside { .. } => "CallFailed",
            Self::Refused(refusal) => &refusal.reason,
            Self::Primary { .. } => "StatusFailed",
            Self::Pinned { .. } => "PinnedVersionMissing",
            Self::Unstable(_) => "Unstable",
        }
    }

    /// What the API server said, where it was the API server.
    fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Apply { source, .. } | Self::Prune { source, .. } | Self::Primary { source, .. } => Some(source),
            _ => None,
        }
    }

    /// May a deletion that is overdue be forced because of this, after so many failures in a row? Not because of the API
    /// server, which would have to do it. A service outside that is down for a moment is no plugin that fails, and a
    /// plugin may drain for days.
    fn may_force(&self, failures: u32) -> bool {
        match self {
            Self::Primary { .. } | Self::Prune { .. } => false,
            Self::Outside { .. } => failures >= FORCED_AFTER_CALLS,
            _ => true,
        }
    }

    /// The chain of causes in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        shorten(&chain(self), 1_024)
    }
}

/// What is remembered of a primary between reconciles; all of it can be lost.
#[derive(Default)]
pub struct Memory {
    /// Failures in a row.
    pub failures: u32,
    /// Name of the version that looked at it last.
    pub by: Option<Arc<str>>,
    /// Digest of the status that was written last.
    status: Option<String>,
    /// When that was.
    status_at: Option<Instant>,
    /// What was applied, and what the API server made of it.
    normalised: Vec<u64>,
    /// Since when nothing is waited for but the removal of the children of a primary that goes.
    removing: Option<Instant>,
    /// When a step on the way to be Ready may be written that waits for its turn.
    turn: Option<tokio::time::Instant>,
    /// Children that were compared and found to be as desired.
    agreed: Vec<u64>,
    /// By desired state and UID of a child: fields that the API server makes something else of, where there are any.
    differing: HashMap<u64, Vec<String>>,
    /// All children were compared since this process began: one without an entry in `differing` has no such fields.
    compared: bool,
    /// Generation and digest of the plugin whose plan was carried out last.
    wanted: Option<(i64, String)>,
    damper: Damper,
    settled: Option<Settled>,
    calls: Calls,
    refusals: Refusals,
    /// Overlays that the API server would not take.
    pub(super) rejected: Rejected,
}

impl Memory {
    /// What became of the calls of the last plan.
    #[must_use]
    pub fn call_results(&self) -> Vec<CallResult> {
        self.calls.results()
    }

    /// Is there a status to write that waits for its turn?
    pub(super) fn waits_for_turn(&self) -> bool {
        self.turn.is_some()
    }

    /// There was nothing to write: need not be compared again.
    fn agree(&mut self, checked: &Checked, snapshot: &Snapshot) {
        let (agreed, current): (Vec<_>, Vec<_>) = checked
            .children
            .iter()
            // one that is held was not compared: it may be written as it is said now, later
            .filter(|desired| desired.disposition != Disposition::Hold)
            .filter_map(|desired| Some((desired, snapshot.children.get(&desired.reference)?)))
            .map(|(desired, live)| (agreement(desired, live), normalisation(desired, live)))
            .unzip();
        self.agreed = agreed;
        self.normalised.retain(|normalised| current.contains(normalised));
        let live = |desired: &Arc<Desired>| Some(identity(desired, snapshot.children.get(&desired.reference)?));
        let identities: Vec<u64> = checked.children.iter().filter_map(live).collect();
        self.differing.retain(|child, _| identities.contains(child));
        self.compared = true;
    }

    /// This is what the API server makes of a desired state.
    fn normalise(&mut self, desired: &Desired, live: &Object) {
        self.normalised.push(normalisation(desired, live));
        self.agreed.push(agreement(desired, live));
        let paths = diff::object_drift(&desired.body, &live.value());
        if !paths.is_empty() {
            self.differing.insert(identity(desired, live), paths);
        }
    }
}

impl Experience for Memory {
    fn agrees(&self, desired: &Desired, live: &Object) -> bool {
        self.agreed.contains(&agreement(desired, live))
    }

    fn is_normalised(&self, desired: &Desired, live: &Object) -> bool {
        self.normalised.contains(&normalisation(desired, live))
    }

    fn is_drift(&self, desired: &Desired, live: &Object, paths: &[String]) -> bool {
        match self.differing.get(&identity(desired, live)) {
            Some(known) => paths.iter().any(|path| !known.contains(path)),
            None => self.compared,
        }
    }
}

/// Desired state of one child, and which object it is.
fn identity(desired: &Desired, live: &Object) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&desired.digest, &live.uid).hash(&mut hasher);
    hasher.finish()
}

/// Desired and live state of one child.
fn agreement(desired: &Desired, live: &Object) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&desired.digest, &live.uid, live.shape).hash(&mut hasher);
    hasher.finish()
}

/// Desired state of one child, and what was made of it in all but its metadata.
fn normalisation(desired: &Desired, live: &Object) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&desired.digest, &live.uid, live.intent).hash(&mut hasher);
    hasher.finish()
}

/// A reconcile that left nothing to do: while its inputs are the same, another would not either.
struct Settled {
    /// [`Snapshot::digest`]
    inputs: [u8; 32],
    /// Digest of the version of the plugin.
    plugin: String,
    /// Resource version of the primary, status included.
    primary: u64,
    /// What was laid over the plan; none when nothing was.
    overlays: Option<Basis>,
    /// The plan's wish.
    requeue: Option<Duration>,
}

/// How a reconcile ended.
#[derive(Debug)]
pub struct Outcome {
    /// Resource versions that it wrote.
    pub written: Vec<u64>,
    /// When to look again without a change.
    pub again: Option<Duration>,
    /// Not to be looked at again before then, whatever happens.
    pub rest: Option<Duration>,
}

/// One reconcile in progress.
pub struct Reconcile<'a> {
    /// The host.
    pub controller: &'a Controller,
    /// The version that serves.
    pub active: &'a Active,
    /// The primary.
    pub key: &'a PrimaryKey,
    /// What is remembered.
    pub memory: &'a mut Memory,
    /// Resource versions written so far.
    pub written: Vec<u64>,
    /// Of the look in progress, if it called the plugin.
    pub recording: Option<Recording>,
    /// Of the look in progress, if there are overlays.
    pub overlaid: Option<Overlaid>,
    /// Children of the looks before.
    pub known: Known,
    /// Children that were refused in the look in progress.
    pub(super) refused: Vec<Refused>,
}

/// What one look led to.
enum Pass {
    /// Something was written.
    Wrote(String),
    /// A child was refused, which the plugin has not seen yet.
    Refused(ReconcileError),
    /// Live state is as desired.
    Settled(Option<Duration>),
}

/// What reading a live object showed.
enum Reviewed {
    /// It is to be written.
    Apply(Box<Apply>),
    /// It is not.
    InSync(Arc<Desired>, Arc<Object>),
}

/// What became of a status.
enum Published {
    /// It is as it was.
    Unchanged,
    /// It was written.
    Written,
    /// Only progress: look again then.
    Later(Duration),
}

impl Reconcile<'_> {
    /// Runs to the end. Failures end in the object's status, never here.
    pub async fn run(mut self) -> Outcome {
        let started = Instant::now();
        let mut last = String::new();
        let mut result = Err(ReconcileError::Unstable(String::new()));
        let uid = self.asker().uid;
        self.memory.calls.begin(&uid);
        let generation = self.active.primary(self.key).map_or(0, |primary| primary.generation);
        self.memory.refusals.begin((uid, generation, self.active.revision.to_string()));
        for _ in 0..MAX_PASSES {
            let pass = self.pass().await;
            self.keep_recording(pass.as_ref().err());
            let refused = std::mem::take(&mut self.refused);
            let pass = match pass {
                Err(error) if self.reject_overlays(&error).await => Ok(Pass::Wrote("left overlays out".into())),
                Err(error) if self.note(refused) => Ok(Pass::Refused(error)),
                Err(error) => self.or_force(error).await,
                pass => pass,
            };
            match pass {
                Ok(Pass::Wrote(what)) => last = what,
                Ok(Pass::Refused(error)) => result = Err(error),
                Ok(Pass::Settled(again)) => {
                    result = Ok(again);
                    break;
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if let Err(ReconcileError::Unstable(what)) = &mut result {
            what.clone_from(&last);
        }
        let outcome = result.as_ref().map_or_else(|e| e.reason().to_owned(), |_| "Synced".into());
        metrics().reconcile(&self.active.name, &self.key.kind.kind, &outcome, started);
        let span = tracing::Span::current();
        span.record("outcome", outcome);
        if result.is_err() {
            span.record("otel.status_code", "ERROR");
        }
        let rest = if last.is_empty() { None } else { self.damp(&last) };
        let again = match result {
            Ok(again) => {
                self.memory.failures = 0;
                again
            }
            Err(error) => Some(self.failed(&error).await),
        };
        Outcome { written: self.written, again, rest }
    }

    /// Remembers children that were refused. Returns whether the plugin has yet to see one of them.
    fn note(&mut self, refused: Vec<Refused>) -> bool {
        let is_news = refused.iter().any(|one| !self.memory.refusals.knows(one));
        refused.into_iter().for_each(|one| self.memory.refusals.note(one));
        is_news
    }

    /// Leaves everything as it is and says why.
    pub async fn refuse(mut self, error: &ReconcileError) -> Outcome {
        let again = Some(self.failed(error).await);
        Outcome { written: self.written, again, rest: None }
    }

    /// Something was written. Was it asked for by a new spec or a new version, or is it the same again?
    fn damp(&mut self, what: &str) -> Option<Duration> {
        let snapshot = self.snapshot()?;
        let wanted = (snapshot.primary.generation, self.active.digest.clone());
        if self.memory.wanted.as_ref() != Some(&wanted) {
            self.memory.wanted = Some(wanted);
            self.memory.damper.reset();
        }
        let rest = self.memory.damper.wrote()?;
        tracing::warn!(again = %what, ?rest, "children are written again and again, waiting");
        let note = format!("the same is written again and again, waiting {} s: {what}", rest.as_secs());
        self.event(&snapshot, Event { warning: true, reason: "WritesDelayed".into(), note });
        Some(rest)
    }

    async fn pass(&mut self) -> Result<Pass, ReconcileError> {
        let Some(snapshot) = self.snapshot() else {
            return Ok(Pass::Settled(None));
        };
        let ours = snapshot.primary.finalizer;
        if snapshot.primary.deleting && !ours {
            return Ok(Pass::Settled(None)); // the garbage collector's
        }
        if self.active.plugin.is_none() {
            // Without a component: deletions are waited for and then forced, everything else stays as it is.
            return match self.overdue(&snapshot) {
                Some(Duration::ZERO) => self.force(&snapshot, "no version of the plugin can be loaded").await,
                waits => Ok(Pass::Settled(waits)),
            };
        }
        if snapshot.primary.deleting && !self.active.manifest.finalizes {
            return self.finalize(&snapshot, None).await;
        }
        if self.active.manifest.finalizes && !ours {
            self.set_finalizer(&snapshot, true).await?;
            return Ok(Pass::Wrote("finalizer".into()));
        }
        let manifest = &self.active.manifest;
        let mut request = snapshot.request(manifest, self.lookups().last(&self.asker()).await);
        request.calls = self.memory.calls.results();
        request.refusals = self.memory.refusals.list();
        let inputs = snapshot.digest(&request);
        let overlays = self.controller.overlays.selected(&self.key.kind, &snapshot.primary);
        let basis = Basis::of(&overlays, &self.active.rails);
        if let Some(settled) = self.memory.settled.take()
            && settled.inputs == inputs
            && settled.plugin == self.active.digest
            && settled.primary == snapshot.primary.resource_version
            && settled.overlays == basis
        {
            metrics().memo_hit(&self.active.name);
            let changes_in = self.lookups().keep(self.key, &request.answers);
            let again = [settled.requeue, changes_in].into_iter().flatten().min();
            self.memory.settled = Some(settled);
            return Ok(Pass::Settled(again));
        }
        let (mut checked, used) = self.converse(&snapshot, request).await?;
        self.memory.calls.plan(&checked.calls);
        self.lay(&snapshot, overlays, &mut checked);
        if snapshot.primary.deleting && checked.finalized {
            if let Some(what) = self.make_calls(&checked).await? {
                return Ok(Pass::Wrote(what));
            }
            if snapshot.children.is_empty() {
                checked.events.into_iter().for_each(|event| self.event(&snapshot, event));
            }
            let report = Report { fields: checked.status, conditions: checked.conditions };
            return self.finalize(&snapshot, Some(report)).await;
        }
        if !ours && needs_finalizer(&snapshot, &checked) {
            self.set_finalizer(&snapshot, true).await?;
            return Ok(Pass::Wrote("finalizer".into()));
        }
        self.memory.refusals.plan(&checked);
        let writes = decide::writes(&checked, &snapshot.children, self.memory);
        let mut writes = self.review(writes, &checked).await?;
        let withheld = self.withhold(&mut writes);
        let changes_in = self.lookups().keep(self.key, &used);
        let mut failed = withheld;
        if !writes.is_empty() {
            if let Some(recording) = &mut self.recording {
                recording.carried_out.writes = Write::all(&writes);
            }
            match self.carry_out(&snapshot, &checked, writes).await {
                Ok(what) => return Ok(Pass::Wrote(what)),
                Err(error) if self.has_seen_refusals() => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        let report = Report { fields: checked.status.clone(), conditions: checked.conditions.clone() };
        if let Some(error) = failed {
            return Err(self.fail_with(&snapshot, &report, error).await);
        }
        self.memory.agree(&checked, &snapshot);
        match self.make_calls(&checked).await {
            Ok(Some(what)) => return Ok(Pass::Wrote(what)),
            Ok(None) => {}
            Err(error) => return Err(self.fail_with(&snapshot, &report, error).await),
        }
        let mut later = None;
        match self.publish(&snapshot, Some(&report), &Synced::applied()).await? {
            Published::Written => checked.events.into_iter().for_each(|event| self.event(&snapshot, event)),
            Published::Unchanged => {}
            Published::Later(wait) => later = Some(wait),
        }
        let requeue = checked.requeue_after_ms.map(Duration::from_millis);
        if later.is_none() {
            let plugin = self.active.digest.clone();
            let primary = self.active.primary(self.key).map_or(0, |primary| primary.resource_version);
            self.memory.settled = Some(Settled { inputs, plugin, primary, overlays: basis, requeue });
        }
        Ok(Pass::Settled([requeue, changes_in, later].into_iter().flatten().min()))
    }

    /// Publishes what a plugin says that has seen the failure, and the failure itself.
    async fn fail_with(&mut self, snapshot: &Snapshot, report: &Report, error: ReconcileError) -> ReconcileError {
        let synced = Synced::failed(error.reason(), error.chain());
        match self.publish(snapshot, Some(report), &synced).await {
            Ok(Published::Written) => {
                let note = error.chain();
                self.event(snapshot, Event { warning: true, reason: error.reason().to_owned(), note });
                error
            }
            Ok(_) => error,
            Err(unpublished) => unpublished,
        }
    }

    /// Were children refused in the look in progress, and does the plugin know all of it?
    fn has_seen_refusals(&self) -> bool {
        !self.refused.is_empty() && self.refused.iter().all(|one| self.memory.refusals.knows(one))
    }

    /// Reads the live objects whose field managers decide on what is to be written, and takes out what is in sync.
    async fn review(&mut self, mut writes: Writes, checked: &Checked) -> Result<Writes, ReconcileError> {
        for tier in &mut writes.tiers {
            let mut requests = Vec::with_capacity(tier.len());
            for apply in std::mem::take(tier) {
                requests.push(self.review_one(apply, checked));
            }
            let reviewed: Vec<_> = futures::stream::iter(requests).buffered(PARALLEL_WRITES).collect().await;
            for reviewed in reviewed {
                match reviewed? {
                    Reviewed::Apply(apply) => tier.push(*apply),
                    Reviewed::InSync(desired, live) => self.memory.normalise(&desired, &live),
                }
            }
        }
        writes.tiers.retain(|tier| !tier.is_empty());
        Ok(writes)
    }

    async fn review_one(&self, mut apply: Apply, checked: &Checked) -> Result<Reviewed, ReconcileError> {
        let Some(live) = apply.live.clone().filter(|_| apply.needs_review) else {
            return Ok(Reviewed::Apply(Box::new(apply)));
        };
        let desired = apply.desired.clone();
        let there = match self.active.cluster.get_value(&desired.reference).await {
            Ok(there) => there,
            // the apply has the same words
            Err(error) if refusals::is_about_object(&error) => return Ok(Reviewed::Apply(Box::new(apply))),
            Err(source) => return Err(ReconcileError::Apply { child: desired.reference.clone(), source }),
        };
        let is_same = |there: &Value| there.pointer("/metadata/uid").and_then(Value::as_str) == Some(&live.uid);
        let Some(there) = there.filter(is_same) else {
            return Ok(Reviewed::Apply(Box::new(apply))); // gone meanwhile: the next look finds out
        };
        let is_scaled = match is_about_replicas(&desired, &there) {
            true => self.has_autoscaler(&desired.reference, checked).await,
            false => None,
        };
        match review(&desired, &there, &self.active.field_manager, apply.is_unchanged(), is_scaled) {
            None => Ok(Reviewed::InSync(desired, live)),
            Some(Review { drift, body }) => {
                (apply.drift, apply.body) = (drift, body);
                Ok(Reviewed::Apply(Box::new(apply)))
            }
        }
    }

    /// Does an autoscaler exist for this object, and will it exist after this plan? A ScaledObject of KEDA counts as its
    /// HorizontalPodAutoscaler does, which it deletes while it is paused. None when HorizontalPodAutoscalers cannot be listed.
    async fn has_autoscaler(&self, scaled: &ObjectRef, checked: &Checked) -> Option<bool> {
        let autoscaler = TypeMeta::new("autoscaling/v2", "HorizontalPodAutoscaler");
        let is_scaled = self.is_scaled_by(&autoscaler, scaled, checked).await;
        if is_scaled != Some(true) {
            let scaled_object = TypeMeta::new("keda.sh/v1alpha1", "ScaledObject");
            if self.is_scaled_by(&scaled_object, scaled, checked).await == Some(true) {
                return Some(true);
            }
        }
        is_scaled
    }

    /// Does an object of this kind name this one as its `spec.scaleTargetRef`?
    async fn is_scaled_by(&self, kind: &TypeMeta, scaled: &ObjectRef, checked: &Checked) -> Option<bool> {
        let listed = self.active.cluster.list(kind, Some(&scaled.namespace), "", MAX_AUTOSCALERS).await;
        let (autoscalers, _) =
            listed.inspect_err(|error| tracing::debug!(%scaled, %kind, %error, "autoscalers cannot be listed")).ok()?;
        let uid = self.asker().uid;
        let stays = |autoscaler: &&Object| {
            let id = autoscaler.reference(kind).id();
            let is_planned = || checked.children.iter().any(|desired| desired.reference.id() == id);
            !autoscaler.deleting && (autoscaler.owner.as_ref() != Some(&uid) || is_planned())
        };
        Some(autoscalers.iter().filter(stays).any(|autoscaler| {
            let value = autoscaler.value();
            let says =
                |field: &str| value.pointer("/spec/scaleTargetRef").and_then(|target| target.get(field)?.as_str());
            // a ScaledObject may leave out the kind
            says("kind").unwrap_or("Deployment") == scaled.kind.kind && says("name") == Some(&scaled.name)
        }))
    }

    /// Takes out of the writes what was refused a moment ago, and what comes only after it.
    fn withhold(&self, writes: &mut Writes) -> Option<ReconcileError> {
        let refusal = |apply: &Apply| {
            let desired = &apply.desired;
            self.memory.refusals.tried(&desired.reference.id(), &desired.digest).cloned()
        };
        let blocked = writes.tiers.iter().position(|tier| tier.iter().any(|apply| refusal(apply).is_some()))?;
        writes.tiers.truncate(blocked + 1);
        writes.prunes.clear();
        let tier = writes.tiers.last_mut()?;
        let first = tier.iter().find_map(refusal);
        tier.retain(|apply| refusal(apply).is_none());
        writes.tiers.retain(|tier| !tier.is_empty());
        first.map(ReconcileError::Refused)
    }

    /// Notes that a child was refused, if that is what the failure is.
    fn refuse_child(&mut self, digest: &str, error: &ReconcileError) {
        let (child, is_final) = match error {
            ReconcileError::Apply { child, source } if refusals::is_about_object(source) => {
                (child, refusals::is_final(source))
            }
            ReconcileError::Immutable { child, .. } | ReconcileError::Conflict { child, .. } => (child, true),
            ReconcileError::Kind { child, source: KindError::TooMany } => (child, true),
            _ => return,
        };
        let (reason, message) = (error.reason().to_owned(), error.chain());
        let refusal = Refusal { child: child.clone(), reason, message, is_final };
        self.refused.push(Refused { digest: digest.to_owned(), refusal });
    }

    fn lookups(&self) -> &Lookups {
        &self.controller.lookups
    }

    fn asker(&self) -> Asker<'_> {
        let uid = self.active.primary(self.key).map(|primary| primary.uid.clone()).unwrap_or_default();
        let Active { name, manifest, grants, cluster, .. } = self.active;
        let (active, owner) = (self.active, uid.clone());
        let owns = Box::new(move |namespace: &str| owns_namespace(&active.children(&owner), namespace));
        Asker { key: self.key, uid, plugin: name, manifest, grants, cluster, owns }
    }

    /// The primary and its children as the caches have them.
    fn snapshot(&self) -> Option<Snapshot> {
        let primary = self.active.primary(self.key)?;
        let children = self.active.children(&primary.uid);
        Some(Snapshot { kind: (*self.key.kind).clone(), primary, children, config: self.active.config.clone() })
    }

    /// Calls the plugin until it has a plan.
    async fn converse(
        &mut self,
        snapshot: &Snapshot,
        request: Request,
    ) -> Result<(Checked, Vec<Answered>), ReconcileError> {
        let (active, controller) = (self.active, self.controller);
        let manifest = &active.manifest;
        let bounds = active.plugin.as_ref().map_or_else(Bounds::default, |plugin| *plugin.bounds());
        let started = Instant::now();
        let Conversation { request, rounds, end } = rounds::conversation(&*self, request, bounds).await;
        let record = |outcome| {
            let duration = started.elapsed();
            let plugin = active.plugin.as_ref().filter(|_| !controller.recordings.is_off())?;
            Some(Recording::new(active, plugin, snapshot, request, rounds, outcome, duration))
        };
        let (plan, used) = match end {
            Ok(done) => done,
            Err(stop) => {
                self.recording = record(Said::of_failure(&stop));
                return Err(match stop {
                    NoPlan::Call(error) => ReconcileError::Call(error),
                    NoPlan::Rounds(error) => ReconcileError::Rounds(error),
                    NoPlan::Failed(failure) => plugin_failure(failure),
                });
            }
        };
        self.active.cluster.discover(&self.active.manifest, &plan).await;
        let scope = |kind: &TypeMeta| active.cluster.known(kind).map(|served| served.scope);
        let checker =
            Checker { plugin: &active.name, manifest, bounds: &bounds, set_once: &active.set_once, scope: &scope };
        let checked = checker.check_again(snapshot, &plan, &mut self.known);
        let report = if checked.is_err() { Checker::report(&plan) } else { None };
        self.recording = record(Said::Planned(Box::new(plan)));
        match checked {
            Ok(checked) => Ok((checked, used)),
            Err(error) => Err(self.refuse_plan(snapshot, report, error).await),
        }
    }

    /// A plan may not be carried out: the plugin sees why where it is about one child, and what it says then is published.
    async fn refuse_plan(&mut self, snapshot: &Snapshot, report: Option<Report>, error: PlanError) -> ReconcileError {
        let Some((mut child, digest)) = error.child.clone().map(|named| *named) else { return error.into() };
        if child.namespace.is_empty() {
            child.namespace.clone_from(&snapshot.primary.namespace);
        }
        let error = ReconcileError::from(error);
        let (reason, message) = (error.reason().to_owned(), error.chain());
        self.refused.push(Refused { digest, refusal: Refusal { child, reason, message, is_final: true } });
        match report.filter(|_| self.has_seen_refusals()) {
            Some(report) => self.fail_with(snapshot, &report, error).await,
            None => error,
        }
    }

    /// Puts what this look did into the host's recordings.
    fn keep_recording(&mut self, error: Option<&ReconcileError>) {
        if let Some(mut recording) = self.recording.take() {
            recording.carried_out.error =
                error.map(|error| Problem { reason: error.reason().to_owned(), message: error.chain() });
            self.controller.recordings.push(self.key, recording);
        }
    }

    /// Makes the calls of a plan that are still to be made. Returns what was done, for people; none when nothing was.
    async fn make_calls(&mut self, checked: &Checked) -> Result<Option<String>, ReconcileError> {
        let (active, lookups) = (self.active, self.lookups());
        let open = match self.memory.calls.next(&checked.calls) {
            calls::Next::Nothing => return Ok(None),
            calls::Next::Failed(call, problem) => {
                return Err(ReconcileError::Outside { key: call.key.clone(), problem });
            }
            calls::Next::Make(open) => open,
        };
        let make = |call: &'_ Call| {
            let call = call.clone();
            async move {
                let started = Instant::now();
                let Call { endpoint, path, message, .. } = &call;
                let answer = lookups.call(&active.grants, endpoint, path, message).await;
                (call, answer, started)
            }
        };
        let requests: Vec<_> = open.into_iter().map(make).collect();
        let answers: Vec<_> = futures::stream::iter(requests).buffered(PARALLEL_CALLS).collect().await;
        let mut done = Vec::new();
        for (call, answer, started) in answers {
            let problem = self.memory.calls.ended(&call, answer);
            let Call { key, endpoint, path, .. } = call;
            let outcome = if problem.is_some() { "Failed" } else { "Succeeded" };
            metrics().plan_call(&active.name, outcome, started);
            tracing::info!(key, endpoint, path, outcome, "call of the plan made");
            done.push(format!("call {key} to {endpoint} {path}: {outcome}"));
            if let Some(recording) = &mut self.recording {
                recording.carried_out.calls.push(CallMade { key, endpoint, path, problem });
            }
        }
        Ok(Some(done.join(", ")))
    }

    /// Applies by tiers, prunes when every apply succeeded. Returns what was done, for people.
    async fn carry_out(
        &mut self,
        snapshot: &Snapshot,
        checked: &Checked,
        writes: Writes,
    ) -> Result<String, ReconcileError> {
        let mut done = Done::default();
        let result = self.write(snapshot, &writes, &mut done).await;
        let text = done.text();
        if !text.is_empty() {
            tracing::info!(done = %text, "children written");
        }
        done.events().for_each(|event| self.event(snapshot, event));
        result?;
        checked.events.iter().for_each(|event| self.event(snapshot, event.clone()));
        Ok(text)
    }

    async fn write(&mut self, snapshot: &Snapshot, writes: &Writes, done: &mut Done) -> Result<(), ReconcileError> {
        for tier in &writes.tiers {
            let mut requests = Vec::with_capacity(tier.len());
            for apply in tier {
                requests.push(self.apply(apply));
            }
            let requests = futures::stream::iter(requests);
            // in their order, so that the first failure is the same one each time
            let results: Vec<_> = requests.buffered(PARALLEL_WRITES).collect().await;
            let mut failure = None;
            for (result, apply) in results.into_iter().zip(tier) {
                match result {
                    Ok(Written { apply, object, what }) => {
                        what.into_iter().for_each(|what| done.add(what));
                        self.remember(apply, object);
                    }
                    Err(error) => {
                        self.refuse_child(&apply.desired.digest, &error);
                        failure = failure.or(Some(error));
                    }
                }
            }
            failure.map_or(Ok(()), Err)?;
            if tier.iter().any(|apply| apply.desired.reference.kind.kind == "CustomResourceDefinition") {
                self.await_definitions(writes).await;
            }
        }
        for prune in &writes.prunes {
            self.remove(snapshot, prune).await?;
            let (reason, verb) = if prune.keep { ("Released", "released") } else { ("Deleted", "deleted") };
            done.add((reason, format!("{verb} {}", prune.reference)));
        }
        Ok(())
    }

    /// Waits until the API server serves all kinds that are still to be applied; their definitions were just applied.
    async fn await_definitions(&self, writes: &Writes) {
        let cluster = &self.active.cluster;
        let started = Instant::now();
        for apply in writes.tiers.iter().flatten() {
            while cluster.served(&apply.desired.reference.kind).await.is_err() && started.elapsed() < ESTABLISHED_WITHIN
            {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    async fn apply<'w>(&self, apply: &'w Apply) -> Result<Written<'w>, ReconcileError> {
        let desired = &apply.desired;
        let (child, manager) = (&desired.reference, &self.active.field_manager);
        // nothing is made that would not be seen again
        if !self.active.manifest.child_kinds().any(|kind| kind.is_same_kind(&child.kind)) {
            let recorded = self.active.kinds.record(&child.kind).await;
            recorded.map_err(|source| ReconcileError::Kind { child: child.clone(), source })?;
        }
        let watched = self.controller.watch_children(self.active, &child.kind).await;
        watched.map_err(|source| ReconcileError::Apply { child: child.clone(), source })?;
        let new = apply.live.is_none() && !desired.adopt;
        let (cluster, started) = (&self.active.cluster, Instant::now());
        let body = apply.body.as_ref().unwrap_or(&desired.body);
        let applied =
            if new { cluster.apply_new(child, manager, body).await } else { cluster.apply(child, manager, body).await };
        self.controller.steps.wrote(started.elapsed());
        match applied {
            Ok(Applied { created, object }) => {
                // the API server writes nothing where nothing changes
                let is_same = apply.live.as_ref().is_some_and(|live| live.resource_version == object.resource_version);
                let what = (!is_same).then(|| describe(apply, created));
                Ok(Written { apply, object: self.as_watched(child, object).await?, what })
            }
            Err(error) if new && error.code() == 409 => self.claim(apply, error).await,
            Err(error) if is_immutable(&error) => self.replace(apply, error).await,
            Err(source) => Err(ReconcileError::Apply { child: child.clone(), source }),
        }
    }

    /// An object of a new child's name exists: applies it if it is ours after all (its label was taken away, or the
    /// watch is behind), else leaves it alone and waits for it to change.
    async fn claim<'w>(&self, apply: &'w Apply, refused: ApiError) -> Result<Written<'w>, ReconcileError> {
        let (child, manager) = (&apply.desired.reference, &self.active.field_manager);
        let failed = |source| ReconcileError::Apply { child: child.clone(), source };
        let cluster = &self.active.cluster;
        let Some((object, managers)) = cluster.get_managed(child).await.map_err(failed)? else {
            return Err(failed(refused)); // gone meanwhile: the next try makes it
        };
        let primary = self.active.primary(self.key).map(|primary| primary.uid.clone());
        let ours = match &object.owner {
            Some(owner) => Some(owner) == primary.as_ref(),
            None => managers.contains(manager),
        };
        if !ours {
            self.lookups().follow(&self.active.cluster, self.key, child).await;
            let managers = if managers.is_empty() { "somebody else".into() } else { managers.join(", ") };
            return Err(ReconcileError::Conflict { child: child.clone(), managers });
        }
        let object = cluster.apply(child, manager, &apply.desired.body).await.map_err(failed)?.object;
        Ok(Written { apply, object: self.as_watched(child, object).await?, what: Some(describe(apply, false)) })
    }

    /// An object that was written, in the version that its kind is watched in.
    async fn as_watched(&self, child: &ObjectRef, object: Object) -> Result<Object, ReconcileError> {
        let watched =
            self.active.child_watch(&child.kind).map(|watch| watch.read_as()).filter(|kind| **kind != child.kind);
        let Some(kind) = watched else { return Ok(object) };
        let failed = |source| ReconcileError::Apply { child: child.clone(), source };
        let reference = ObjectRef { kind: (*kind).clone(), ..child.clone() };
        let there = self.active.cluster.get(&reference).await.map_err(failed)?;
        Ok(there.unwrap_or(object)) // deleted meanwhile: the watch says so
    }

    /// Deletes what cannot be changed, where the plugin allows it; when it is gone it is made again.
    async fn replace<'w>(&self, apply: &'w Apply, refused: ApiError) -> Result<Written<'w>, ReconcileError> {
        let child = &apply.desired.reference;
        let (Some(live), true) = (&apply.live, apply.desired.replace) else {
            return Err(ReconcileError::Immutable { child: child.clone(), source: refused });
        };
        let failed = |source| ReconcileError::Prune { child: child.clone(), source };
        self.active.cluster.delete(child, &live.uid).await.map_err(failed)?;
        let mut going = (**live).clone();
        going.deleting = true;
        Ok(Written { apply, object: going, what: Some(("Replaced", format!("deleted {child} to make it again"))) })
    }

    /// Puts what the API server answered into the cache, and notes that it is the answer to what was sent.
    fn remember(&mut self, apply: &Apply, object: Object) {
        let desired = &apply.desired;
        self.memory.refusals.taken(&desired.reference.id());
        if !object.deleting {
            self.memory.normalise(desired, &object);
        }
        self.written.push(object.resource_version);
        if let Some(watch) = self.active.child_watch(&desired.reference.kind) {
            watch.cache.put_answer(object);
        }
    }

    /// Deletes a child, or releases one that is kept.
    async fn remove(&mut self, snapshot: &Snapshot, prune: &Prune) -> Result<(), ReconcileError> {
        let child = &prune.reference;
        let failed = |source| ReconcileError::Prune { child: child.clone(), source };
        let (cluster, watch) = (&self.active.cluster, self.active.child_watch(&child.kind));
        if prune.keep {
            let patch = json!({"metadata": {"uid": prune.uid, "ownerReferences": null, "labels":
                {names::OWNER_LABEL: null, names::PLUGIN_LABEL: null}}});
            match cluster.merge(child, &self.active.field_manager, &patch).await {
                Err(error) if error.code() != 404 => return Err(failed(error)),
                Ok(object) => self.written.push(object.resource_version),
                Err(_) => {}
            }
        } else {
            cluster.delete(child, &prune.uid).await.map_err(failed)?;
        }
        // Gone from the watch at once, or going: either way the next look must not find it as it was.
        if let (Some(watch), Some(object)) = (watch, snapshot.children.get(child)) {
            if prune.keep {
                watch.cache.remove(object);
            } else {
                watch.cache.mark_deleting(object);
            }
        }
        Ok(())
    }

    /// Removes what is left of a primary that goes, and then the finalizer. `report` is what the plugin says meanwhile.
    async fn finalize(&mut self, snapshot: &Snapshot, report: Option<Report>) -> Result<Pass, ReconcileError> {
        let remains = decide::remains(&snapshot.children);
        if remains.is_empty() && snapshot.children.is_empty() {
            self.set_finalizer(snapshot, false).await?;
            self.lookups().forget(self.key);
            return Ok(Pass::Settled(None));
        }
        for prune in &remains {
            self.remove(snapshot, prune).await?;
        }
        if snapshot.children.values().any(|child| !child.keep) {
            // their watches tell when they are gone
            return self.publish_removal(snapshot, report).await.map(Pass::Settled);
        }
        Ok(Pass::Wrote("released children".into()))
    }

    /// A deletion that lasts says what it waits for. Returns when it has lasted long enough for that.
    async fn publish_removal(
        &mut self,
        snapshot: &Snapshot,
        report: Option<Report>,
    ) -> Result<Option<Duration>, ReconcileError> {
        let lasted = self.memory.removing.get_or_insert_with(Instant::now).elapsed();
        if lasted < REMOVED_WITHIN {
            return Ok(Some(REMOVED_WITHIN - lasted));
        }
        // what a plugin does not say again still counts: it may be all that it knows of its clean-up
        let known = Report::of(&snapshot.primary.status());
        let mut report = report.map_or(known.clone(), |report| report.or(known));
        report.not_ready(names::TERMINATING, format!("waiting for {}", decide::awaited(&snapshot.children)));
        match self.publish(snapshot, Some(&report), &Synced::applied()).await? {
            Published::Later(wait) => Ok(Some(wait)),
            Published::Written | Published::Unchanged => Ok(None),
        }
    }

    /// How long the plugin still has to clean up after a primary that is being deleted; none when it is not.
    fn overdue(&self, snapshot: &Snapshot) -> Option<Duration> {
        Some(self.active.deletion_timeout.saturating_sub(deleted_for(snapshot)?))
    }

    /// A plugin that has failed for too long must not keep a primary from being deleted.
    async fn or_force(&mut self, error: ReconcileError) -> Result<Pass, ReconcileError> {
        let may_force = error.may_force(self.memory.failures);
        match self.snapshot() {
            Some(snapshot)
                if may_force && snapshot.primary.finalizer && self.overdue(&snapshot) == Some(Duration::ZERO) =>
            {
                self.force(&snapshot, &error.chain()).await
            }
            _ => Err(error),
        }
    }

    /// Deletes what is left of a primary without its plugin, and lets it go.
    async fn force(&mut self, snapshot: &Snapshot, why: &str) -> Result<Pass, ReconcileError> {
        let last = snapshot.children.is_empty();
        let pass = self.finalize(snapshot, None).await?;
        if last {
            let waited = self.active.deletion_timeout.as_secs();
            tracing::warn!(why, "deleted without its plugin");
            let note = format!("deleted without the plugin's clean-up, which was waited for {waited} s: {why}");
            self.event(snapshot, Event { warning: true, reason: "CleanupForced".into(), note });
        }
        Ok(pass)
    }

    /// Adds or takes away the host's finalizer. Guarded by the resource version: the list is written as a whole.
    async fn set_finalizer(&mut self, snapshot: &Snapshot, there: bool) -> Result<(), ReconcileError> {
        let primary = &snapshot.primary;
        let value = primary.value();
        let list = value.pointer("/metadata/finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut list: Vec<Value> = list.into_iter().filter(|f| f != names::FINALIZER).collect();
        if there {
            list.push(names::FINALIZER.into());
        }
        let version = primary.resource_version.to_string();
        let patch = json!({"metadata": {"finalizers": list, "resourceVersion": version}});
        let reference = snapshot.reference();
        match self.active.cluster.merge(&reference, &self.active.field_manager, &patch).await {
            Ok(object) => {
                self.written.push(object.resource_version);
                self.active.put_primary(self.key, object);
                Ok(())
            }
            Err(error) if error.code() == 404 => Ok(()),
            // the watch is behind: look again at what is there now
            Err(error) if error.code() == 409 => match self.active.cluster.get(&reference).await {
                Ok(Some(object)) => {
                    self.active.put_primary(self.key, object);
                    Ok(())
                }
                Ok(None) => Ok(()),
                Err(source) => Err(ReconcileError::Primary { what: "finalizers", source }),
            },
            Err(source) => Err(ReconcileError::Primary { what: "finalizers", source }),
        }
    }

    /// Writes the status if it changed, progress without a flip at most every [`PROGRESS_EVERY`].
    async fn publish(
        &mut self,
        snapshot: &Snapshot,
        report: Option<&Report>,
        synced: &Synced,
    ) -> Result<Published, ReconcileError> {
        let primary = &snapshot.primary;
        let live = primary.status();
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let next = status::next(&live, primary.generation, report, synced, &now);
        if !status::differs(&live, &next, self.memory.status.as_deref()) {
            self.memory.turn = None;
            return Ok(Published::Unchanged);
        }
        if report.is_some() && synced.status == Truth::True {
            let wait = self.memory.status_at.map_or(Duration::ZERO, |at| PROGRESS_EVERY.saturating_sub(at.elapsed()));
            if !wait.is_zero() && status::is_progress(&live, &next) {
                return Ok(Published::Later(wait));
            }
        }
        let is_step = report.is_some() && synced.status == Truth::True && status::is_step(&live, &next);
        if is_step {
            let turn = *self.memory.turn.get_or_insert_with(|| self.controller.steps.turn());
            let wait = turn.saturating_duration_since(tokio::time::Instant::now());
            if !wait.is_zero() {
                return Ok(Published::Later(wait));
            }
        }
        let started = Instant::now();
        let reference = snapshot.reference();
        let manager = &self.active.field_manager;
        match self.active.cluster.apply_status(&reference, &primary.uid, manager, &next).await {
            Ok(object) => {
                if let Some(recording) = &mut self.recording {
                    recording.carried_out.status = Some(next.clone());
                }
                self.controller.steps.wrote(started.elapsed());
                self.memory.status = Some(digest(&next));
                (self.memory.status_at, self.memory.turn) = (Some(Instant::now()), None);
                self.written.push(object.resource_version);
                self.active.put_primary(self.key, object);
                Ok(Published::Written)
            }
            Err(error) if error.code() == 404 => Ok(Published::Unchanged),
            Err(source) if source.code() == 409 => match self.active.cluster.get(&reference).await {
                // somebody else was quicker: again
                Ok(Some(object)) if object.uid == primary.uid => {
                    Err(ReconcileError::Primary { what: "status", source })
                }
                // another of the same name
                _ => Ok(Published::Unchanged),
            },
            Err(source) => Err(ReconcileError::Primary { what: "status", source }),
        }
    }

    /// Makes a failure known. Returns when to try again.
    async fn failed(&mut self, error: &ReconcileError) -> Duration {
        self.memory.failures = self.memory.failures.saturating_add(1);
        let chain = error.chain();
        let invalid = error.reason() == INVALID;
        if invalid {
            tracing::info!(reason = error.reason(), message = %chain, "object cannot be realised");
        } else {
            tracing::warn!(reason = error.reason(), error = %chain, "reconcile failed");
        }
        if let Some(snapshot) = self.snapshot() {
            let synced = Synced::failed(error.reason(), chain.clone());
            match self.publish(&snapshot, None, &synced).await {
                Ok(Published::Written) => {
                    let event = Event { warning: true, reason: error.reason().to_owned(), note: chain };
                    self.event(&snapshot, event);
                }
                Ok(Published::Unchanged | Published::Later(_)) => {}
                Err(error) => tracing::warn!(error = %error.chain(), "status could not be written"),
            }
        }
        let forced_in = self.snapshot().and_then(|snapshot| self.overdue(&snapshot)).filter(|wait| !wait.is_zero());
        if invalid {
            return forced_in.unwrap_or(super::controller::RESYNC);
        }
        let seed = self.key.name.bytes().fold(self.memory.failures.into(), |h: u64, b| h.rotate_left(5) ^ u64::from(b));
        let delay = super::backoff::delay(self.memory.failures, seed);
        let delay = forced_in.map_or(delay, |forced_in| delay.min(forced_in));
        delay.max(error.api().and_then(ApiError::retry_after).unwrap_or_default())
    }

    fn event(&self, snapshot: &Snapshot, event: Event) {
        self.controller.events.send(&snapshot.reference(), &snapshot.primary.uid, event);
    }
}

impl Session for Reconcile<'_> {
    type Error = CallError;

    async fn call(&self, request: &Request) -> Result<Result<Step, Failure>, CallError> {
        let started = Instant::now();
        let Some(plugin) = &self.active.plugin else {
            return Err(CallError::Unavailable("no version of the plugin can be loaded".into()));
        };
        let span = tracing::debug_span!("call", round = request.round, outcome = field::Empty);
        let called = plugin.reconcile(request).instrument(span.clone()).await;
        let outcome = match &called {
            Ok((Ok(Step::Ask(_)), _)) => "Asked",
            Ok((Ok(Step::Done(_)), _)) => "Planned",
            Ok((Err(_), _)) => "Failed",
            Err(error) => error.reason(),
        };
        span.record("outcome", outcome);
        metrics().call(&self.active.name, outcome, started);
        called.map(|(answer, _)| answer)
    }

    async fn answer(&self, lookups: Vec<Lookup>) -> Vec<Answered> {
        let span = tracing::debug_span!("lookups", count = lookups.len());
        self.lookups().answer(&self.asker(), lookups).instrument(span).await
    }
}

fn plugin_failure(failure: Failure) -> ReconcileError {
    match failure {
        Failure::Invalid(violations) => {
            let said: Vec<String> = violations.iter().map(|v| format!("{}: {}", v.field, v.message)).collect();
            ReconcileError::Invalid(shorten(&said.join("; "), 1_024))
        }
        Failure::Transient(problem) => {
            let word = |c: char| c.is_ascii_alphanumeric();
            let fits = !problem.reason.is_empty() && problem.reason.len() <= 64 && problem.reason.chars().all(word);
            let reason = if fits && problem.reason != INVALID { problem.reason } else { "PluginFailed".into() };
            ReconcileError::Transient { reason, message: shorten(&problem.message, 1_024) }
        }
        Failure::Internal(text) => ReconcileError::Internal(shorten(&text, 1_024)),
    }
}

/// How long ago the deletion of the primary began; none when it is not being deleted.
fn deleted_for(snapshot: &Snapshot) -> Option<Duration> {
    let since = jiff::Timestamp::now().duration_since(snapshot.primary.deleted_at()?);
    Some(Duration::try_from(since).unwrap_or_default())
}

/// Children that no owner reference can clean up need the host.
fn needs_finalizer(snapshot: &Snapshot, checked: &Checked) -> bool {
    let home = &snapshot.primary.namespace;
    !home.is_empty() && checked.children.iter().any(|child| !child.keep && child.reference.namespace != *home)
}

/// The API server's word for a change of a field that cannot be changed.
fn is_immutable(error: &ApiError) -> bool {
    matches!(error, ApiError::Status { code: 422, message, .. } if message.contains("immutable")
        || message.contains("may not change once set") || message.contains("updates to statefulset spec for fields"))
}

/// Event reason and sentence for one write.
type What = (&'static str, String);

fn describe(apply: &Apply, created: bool) -> What {
    let Apply { desired, live, drift, .. } = apply;
    let child = &desired.reference;
    match live {
        None if created => ("Created", format!("created {child}")),
        None => ("Corrected", format!("took {child} back")),
        Some(object) if object.applied.as_deref() != Some(desired.digest.as_str()) => {
            ("Updated", format!("updated {child}"))
        }
        Some(_) => ("Corrected", format!("corrected {child} ({})", drift.join(", "))),
    }
}

/// One child that was written.
struct Written<'a> {
    apply: &'a Apply,
    object: Object,
    /// None when the API server found nothing to change.
    what: Option<What>,
}

/// What was written, by event reason.
#[derive(Default)]
struct Done(BTreeMap<&'static str, Vec<String>>);

impl Done {
    fn add(&mut self, (reason, what): What) {
        self.0.entry(reason).or_default().push(what);
    }

    fn text(&self) -> String {
        self.0.values().flatten().cloned().collect::<Vec<_>>().join(", ")
    }

    fn events(&self) -> impl Iterator<Item = Event> {
        let event = |(reason, what): (&&str, &Vec<String>)| Event {
            warning: false,
            reason: (*reason).to_owned(),
            note: what.join(", "),
        };
        self.0.iter().map(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_fails_once_forces_no_deletion_that_takes_long() {
        let problem = Problem { reason: "Unavailable".into(), message: String::new() };
        let outside = ReconcileError::Outside { key: "a".into(), problem };
        assert!(!outside.may_force(0) && !outside.may_force(FORCED_AFTER_CALLS - 1));
        assert!(outside.may_force(FORCED_AFTER_CALLS));
        assert!(ReconcileError::Internal(String::new()).may_force(0));
    }

    #[test]
    fn ten_failures_take_minutes() {
        let waited: Duration =
            (1..=FORCED_AFTER_CALLS).map(|failures| crate::control::backoff::delay(failures, 0)).sum();
        assert!(waited > Duration::from_secs(300), "{waited:?}");
    }
}
