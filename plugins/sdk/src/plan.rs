use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::bindings::exports::transom::plugin::reconciler as wit;
use crate::bindings::transom::plugin::types;
use crate::condition::Condition;
use crate::failure::Failure;
use crate::health::{Health, State};
use crate::job::{self, JobRuns};
use crate::kind::{AnyObject, Child, Kind, TypeMeta};
use crate::names;
use crate::observed::{Children, Observed};
use crate::refusal::Refusal;

/// All that should be: the children, the status and what else is to happen. It is total: a child that exists and is
/// left out is deleted, so order is said with [`apply_after`](Self::apply_after) or [`hold`](Self::hold), never by
/// leaving out.
#[must_use]
pub struct Plan {
    observed: Rc<Children>,
    children: Vec<Entry>,
    status: Option<String>,
    conditions: Vec<Condition>,
    events: Vec<types::Event>,
    calls: Vec<wit::Call>,
    requeue_after: Option<Duration>,
    finalized: bool,
    /// The first thing that went wrong while building; reported when the plan is handed over.
    failure: Option<String>,
}

/// A child as it goes into the plan.
struct Entry {
    child: wit::Child,
    /// Where it stands among the live children, if it exists.
    observed: Option<usize>,
    /// Where it stands among the refusals, if it was refused.
    refusal: Option<usize>,
    /// Never changed once it exists, so what lives is what is planned.
    is_immutable: bool,
    mark: Option<String>,
    /// Of a child that is held until others are done: which, for people.
    waits_for: Option<String>,
    /// What became of a run that has ended, whether its Job is still there or not.
    ended: Option<Health>,
}

/// Annotation of children that others wait for: tells what was planned when the live object was written.
const MARK: &str = "transom.dev/planned";

/// Annotation of children with fields that are written when the object is created and then belong to other field
/// managers: their paths, separated by commas.
pub(crate) const SET_ONCE: &str = "transom.dev/set-once";

/// Annotation of a held child, for people: what it waits for. It is never written to an object.
pub(crate) const WAITS_FOR: &str = "transom.dev/waits-for";

/// As much of a planned child as its name takes.
#[derive(Deserialize)]
struct Named {
    kind: String,
    metadata: NamedMetadata,
}

#[derive(Deserialize)]
struct NamedMetadata {
    name: String,
}

impl Entry {
    /// Writes the mark into the object, once.
    fn mark(&mut self) -> Result<String, serde_json::Error> {
        if let Some(mark) = &self.mark {
            return Ok(mark.clone());
        }
        let mark = names::hash_text(&self.child.object);
        self.child.object = annotated(&self.child.object, MARK, &mark)?;
        self.mark = Some(mark.clone());
        Ok(mark)
    }

    /// As it is handed over: with what it waits for.
    fn into_child(mut self) -> Result<wit::Child, serde_json::Error> {
        if let Some(waits_for) = &self.waits_for {
            self.child.object = annotated(&self.child.object, WAITS_FOR, waits_for)?;
        }
        Ok(self.child)
    }
}

/// The object with one annotation more.
fn annotated(object: &str, name: &str, text: &str) -> Result<String, serde_json::Error> {
    let mut object: Value = serde_json::from_str(object)?;
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert(Value::Null);
        if annotations.is_null() {
            *annotations = Value::Object(Map::new());
        }
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(name.to_owned(), text.into());
        }
    }
    Ok(object.to_string())
}

/// The object with these paths in its annotation [`SET_ONCE`], beside those that are there.
fn with_set_once(object: &str, fields: &[String]) -> Result<String, String> {
    for field in fields {
        if field.trim().is_empty() || field.contains(',') {
            return Err(format!("`{field}` is not a field path such as spec.replicas"));
        }
    }
    let before = annotation(object, SET_ONCE).unwrap_or_default();
    let mut all: Vec<&str> = Vec::new();
    for field in before.split(',').chain(fields.iter().map(String::as_str)).map(str::trim) {
        if !field.is_empty() && !all.contains(&field) {
            all.push(field);
        }
    }
    annotated(object, SET_ONCE, &all.join(",")).map_err(|error| error.to_string())
}

fn annotation(object: &str, name: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    serde_json::from_str::<Object>(object).ok()?.metadata.annotations.remove(name)
}

/// A child of a [`Plan`], to be named later: in [`apply_after`](Plan::apply_after), [`health`](Plan::health).
pub struct Planned<K> {
    index: usize,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Planned<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Planned<K> {}

/// An object and how to treat it. Any object turns into one by itself; see [`ChildExt`] for what can be said.
pub struct Desired<K> {
    object: K,
    options: wit::ChildOptions,
    set_once: Vec<String>,
}

impl<K> Desired<K> {
    fn new(object: K) -> Self {
        Self { object, options: wit::ChildOptions::empty(), set_once: Vec::new() }
    }
}

impl<K: Child> From<K> for Desired<K> {
    fn from(object: K) -> Self {
        Self::new(object)
    }
}

impl From<AnyObject> for Desired<AnyObject> {
    fn from(object: AnyObject) -> Self {
        Self::new(object)
    }
}

/// How a child is treated: `plan.apply(volume_claim.keep().adopt())`.
pub trait ChildExt<K>: Into<Desired<K>> {
    /// When it leaves the plan, or the primary goes, it is released instead of deleted.
    fn keep(self) -> Desired<K> {
        with(self, wit::ChildOptions::KEEP)
    }

    /// An object of this name that somebody else made is taken over instead of being a conflict.
    fn adopt(self) -> Desired<K> {
        with(self, wit::ChildOptions::ADOPT)
    }

    /// It is deleted and created again when an immutable field changes.
    fn replace(self) -> Desired<K> {
        with(self, wit::ChildOptions::REPLACE)
    }

    /// These fields are written when the object is created, and belong to other field managers from then on: replicas
    /// that an autoscaler sets, a CA bundle that is injected. Paths are such as `spec.replicas`,
    /// `webhooks[*].clientConfig.caBundle` and `data[tls.crt]`.
    ///
    /// They are written into the annotation `transom.dev/set-once` of the object, beside those that it has there: a
    /// template can say the same by the annotation alone.
    ///
    /// ```
    /// # use k8s_openapi::api::apps::v1::Deployment;
    /// # use transom_sdk::Plan;
    /// use transom_sdk::ChildExt;
    /// # fn f(plan: &mut Plan, deployment: Deployment) {
    /// plan.apply(deployment.set_once(["spec.replicas"]));
    /// # }
    /// ```
    fn set_once<F: Into<String>>(self, fields: impl IntoIterator<Item = F>) -> Desired<K> {
        let mut desired = self.into();
        desired.set_once.extend(fields.into_iter().map(Into::into));
        desired
    }
}

impl<K, D: Into<Desired<K>>> ChildExt<K> for D {}

fn with<K>(desired: impl Into<Desired<K>>, option: wit::ChildOptions) -> Desired<K> {
    let mut desired = desired.into();
    desired.options |= option;
    desired
}

/// Something that must be done before something else: a [`Planned`] child, or several as a tuple, array or slice.
pub trait Dependency {
    /// Where the children stand in the plan.
    #[doc(hidden)]
    fn indices(&self) -> Vec<usize>;
}

impl<K> Dependency for Planned<K> {
    fn indices(&self) -> Vec<usize> {
        vec![self.index]
    }
}

impl<D: Dependency> Dependency for [D] {
    fn indices(&self) -> Vec<usize> {
        self.iter().flat_map(Dependency::indices).collect()
    }
}

impl<D: Dependency, const N: usize> Dependency for [D; N] {
    fn indices(&self) -> Vec<usize> {
        self.as_slice().indices()
    }
}

impl<A: Dependency, B: Dependency> Dependency for (A, B) {
    fn indices(&self) -> Vec<usize> {
        [self.0.indices(), self.1.indices()].concat()
    }
}

impl<A: Dependency, B: Dependency, C: Dependency> Dependency for (A, B, C) {
    fn indices(&self) -> Vec<usize> {
        [self.0.indices(), self.1.indices(), self.2.indices()].concat()
    }
}

impl<D: Dependency + ?Sized> Dependency for &D {
    fn indices(&self) -> Vec<usize> {
        (**self).indices()
    }
}

impl Plan {
    pub(crate) fn new(observed: Rc<Children>) -> Self {
        Self {
            observed,
            children: Vec::new(),
            status: None,
            conditions: Vec::new(),
            events: Vec::new(),
            calls: Vec::new(),
            requeue_after: None,
            finalized: false,
            failure: None,
        }
    }

    // ------------------------------------------------------------ children

    /// This object, as far as it is written down, is applied whenever live state differs. Fields that it does not set
    /// are left alone.
    pub fn apply<K: Child>(&mut self, child: impl Into<Desired<K>>) -> Planned<K> {
        self.add(child.into(), wit::Disposition::Apply)
    }

    /// As [`apply`](Self::apply), once everything in `after` is done; until then it is held as it stands (or, when it
    /// does not exist, not created).
    ///
    /// Done is what lives as it is planned and is [ready](Health); a child that is itself held, or that was
    /// [refused](Self::refusal), is not. To tell a live
    /// object as planned from an older one, children that others wait for carry an annotation with a hash of what was
    /// planned, except for Jobs and for what is [created once](Self::create_once), which never change.
    ///
    /// What it is going to be is part of the plan while it is held: `transom plugin plan` shows what will change later.
    pub fn apply_after<K: Child>(&mut self, after: impl Dependency, child: impl Into<Desired<K>>) -> Planned<K> {
        let waits_for = self.undone(&after);
        let planned = self.apply(child);
        self.hold_until(planned, waits_for)
    }

    /// Holds a child as long as something is not done. The plan says all the same what it is going to be.
    fn hold_until<K>(&mut self, planned: Planned<K>, waits_for: Option<String>) -> Planned<K> {
        if waits_for.is_some()
            && let Some(entry) = self.children.get_mut(planned.index)
        {
            entry.child.disposition = wit::Disposition::Hold;
            entry.waits_for = waits_for;
        }
        planned
    }

    /// What of these is not done, for people; none when everything is.
    fn undone(&mut self, after: &impl Dependency) -> Option<String> {
        let mut undone = Vec::new();
        for index in after.indices() {
            // each one, so that each one is marked
            if !self.is_done(index) {
                undone.push(self.why_undone(index));
            }
        }
        (!undone.is_empty()).then(|| undone.join(", "))
    }

    fn why_undone(&self, index: usize) -> String {
        let entry = self.children.get(index);
        let name = entry.and_then(|entry| serde_json::from_str::<Named>(&entry.child.object).ok());
        let name = name.map(|Named { kind, metadata }| format!("{kind} {}", metadata.name)).unwrap_or_default();
        let is_held = entry.is_some_and(|entry| entry.child.disposition == wit::Disposition::Hold);
        let health = self.judge(index);
        match (is_held, health.is_ready()) {
            (true, _) => format!("{name} (waits itself)"),
            (false, true) => format!("{name} (not as it is planned yet)"),
            (false, false) => format!("{name} ({})", health.reason),
        }
    }

    /// As [`apply`](Self::apply), for an object whose kind only a template knows.
    pub fn apply_any(&mut self, child: impl Into<Desired<AnyObject>>) -> Planned<AnyObject> {
        let Desired { object, options, set_once } = child.into();
        let AnyObject { type_meta, namespace, name, json } = object;
        let json = self.set_once(&type_meta, &name, json, &set_once);
        self.push_desired(&type_meta, namespace.as_deref(), &name, json, wit::Disposition::Apply, options)
    }

    /// As [`apply_after`](Self::apply_after), for an object whose kind only a template knows.
    pub fn apply_any_after(
        &mut self,
        after: impl Dependency,
        child: impl Into<Desired<AnyObject>>,
    ) -> Planned<AnyObject> {
        let waits_for = self.undone(&after);
        let planned = self.apply_any(child);
        self.hold_until(planned, waits_for)
    }

    /// As [`hold`](Self::hold), for an object whose kind only a template knows.
    pub fn hold_any(&mut self, child: &AnyObject) -> Planned<AnyObject> {
        self.push_held(&child.type_meta, child.namespace.as_deref(), &child.name)
    }

    fn position_any(&self, object: &AnyObject) -> Option<usize> {
        self.position(&object.type_meta, object.namespace.as_deref(), &object.name)
    }

    /// This planned Job (or pod that runs to its end) runs once for each content, also when it is cleaned up afterwards.
    ///
    /// A Job that has finished may go: by `ttlSecondsAfterFinished`, or because somebody deletes it. What became of it is
    /// kept in `runs`, which belong into the status of the primary, and once it has ended it is not created again before
    /// its `spec` changes. [`health`](Self::health) and what [waits](Self::apply_after) for it go by that. One that was
    /// deleted while it ran, or after it had failed, runs again, unless it was deleted by itself
    /// (`ttlSecondsAfterFinished`): then it has failed, or is taken to be complete when nobody saw its end.
    ///
    /// Only with [`Delivery::Full`](crate::Delivery::Full) it is seen that something else gave a live Job such a time.
    ///
    /// ```
    /// # use k8s_openapi::api::batch::v1::Job;
    /// # use transom_sdk::{ChildExt, Context, JobRun, JobRuns, Plan};
    /// # fn f(cx: &Context, mut plan: Plan, known: &[JobRun], job: Job) -> Vec<JobRun> {
    /// let mut runs = JobRuns::new(known); // of the status
    /// let migration = plan.apply(job.replace());
    /// plan.run_once(&migration, &mut runs);
    /// runs.into_status()
    /// # }
    /// ```
    pub fn run_once<K>(&mut self, child: &Planned<K>, runs: &mut JobRuns) {
        let is_current = self.is_current(child.index);
        let health = self.judge(child.index);
        let Some(entry) = self.children.get_mut(child.index) else { return };
        let Ok(planned) = serde_json::from_str::<Value>(&entry.child.object) else { return };
        let text = |pointer: &str| planned.pointer(pointer).and_then(Value::as_str);
        let (Some(name), Some(kind)) = (text("/metadata/name"), text("/kind")) else { return };
        let content = job::content(&planned);
        let live = entry.observed.and_then(|index| self.observed.get(index)).map(|live| {
            let object: Value = serde_json::from_str(&live.object).unwrap_or_default();
            // a pod that serves is ready, and has not ended
            let serves = kind == "Pod" && health.is_ready() && health.reason != "Succeeded";
            let state = if serves { State::Progressing } else { health.state };
            job::Live { health: Health { state, ..health }, expires: job::expires(&object), is_current }
        });
        let known = runs.known(name, &content);
        let seen = job::Seen { name, content: &content, expires: job::expires(&planned), live, known };
        let Some(run) = job::judge(&seen) else { return };
        if let Some(ended) = run.health() {
            entry.child.disposition = wit::Disposition::Hold;
            (entry.waits_for, entry.ended) = (None, Some(ended));
        }
        runs.keep(run);
    }

    /// This object is created when it does not exist, and never touched again.
    pub fn create_once<K: Child>(&mut self, child: impl Into<Desired<K>>) -> Planned<K> {
        self.add(child.into(), wit::Disposition::CreateOnce)
    }

    /// The object of this kind and name (in the namespace of the primary) is left as it is: neither created, nor
    /// changed, nor deleted.
    pub fn hold<K: Kind>(&mut self, name: &str) -> Planned<K> {
        self.push_held(&K::type_meta(), None, name)
    }

    /// Every live child that is not in the plan so far is left as it is.
    pub fn hold_rest(&mut self) {
        self.hold_rest_but(&[]);
    }

    /// As [`hold_rest`](Self::hold_rest), but these are left out, and so deleted.
    pub fn hold_rest_but(&mut self, but: &[AnyObject]) {
        let observed = Rc::clone(&self.observed);
        let but: Vec<Option<usize>> = but.iter().map(|object| self.position_any(object)).collect();
        for (index, found) in observed.live.iter().enumerate() {
            let is_open = self.children.iter().all(|entry| entry.observed != Some(index));
            if is_open && !but.contains(&Some(index)) {
                let which = &found.ref_;
                let namespace = Some(which.namespace.as_str()).filter(|namespace| !namespace.is_empty());
                let object = header(&which.api_version, &which.kind, namespace, &which.name);
                let _: Planned<()> =
                    self.push(object, wit::Disposition::Hold, wit::ChildOptions::empty(), Some(index), false);
            }
        }
    }

    fn add<K: Child>(&mut self, desired: Desired<K>, disposition: wit::Disposition) -> Planned<K> {
        let Desired { object, options, set_once } = desired;
        let (kind, metadata) = (K::type_meta(), object.metadata());
        let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref().unwrap_or_default());
        if name.is_empty() {
            self.fail(format!("a {} has no name", kind.kind));
        }
        let json = object.to_json().unwrap_or_else(|error| {
            self.fail(format!("{} {name} has no JSON form: {error}", kind.kind));
            String::new()
        });
        let json = self.set_once(&kind, name, json, &set_once);
        self.push_desired(&kind, namespace, name, json, disposition, options)
    }

    fn set_once(&mut self, kind: &TypeMeta, name: &str, json: String, fields: &[String]) -> String {
        if fields.is_empty() {
            return json;
        }
        with_set_once(&json, fields).unwrap_or_else(|error| {
            self.fail(format!("{} {name}: set_once: {error}", kind.kind));
            json
        })
    }

    fn push_desired<K>(
        &mut self,
        kind: &TypeMeta,
        namespace: Option<&str>,
        name: &str,
        json: String,
        disposition: wit::Disposition,
        options: wit::ChildOptions,
    ) -> Planned<K> {
        let observed = self.position(kind, namespace, name);
        let refusal = self.observed.refusal(kind, namespace, name);
        // a Job's template cannot be changed; with `replace` it is another Job of the same name
        let is_immutable = kind.serves("batch/v1", "Job") && !options.contains(wit::ChildOptions::REPLACE);
        let planned = self.push(json, disposition, options, observed, is_immutable);
        if let Some(entry) = self.children.get_mut(planned.index) {
            entry.refusal = refusal;
        }
        planned
    }

    fn push_held<K>(&mut self, kind: &TypeMeta, namespace: Option<&str>, name: &str) -> Planned<K> {
        let observed = self.position(kind, namespace, name);
        let object = header(&kind.api_version, &kind.kind, namespace, name);
        self.push(object, wit::Disposition::Hold, wit::ChildOptions::empty(), observed, false)
    }

    fn push<K>(
        &mut self,
        object: String,
        disposition: wit::Disposition,
        options: wit::ChildOptions,
        observed: Option<usize>,
        is_immutable: bool,
    ) -> Planned<K> {
        let child = wit::Child { object, disposition, options };
        let (refusal, mark, waits_for, ended) = (None, None, None, None);
        self.children.push(Entry { child, observed, refusal, is_immutable, mark, waits_for, ended });
        Planned { index: self.children.len() - 1, kind: PhantomData }
    }

    fn position(&self, kind: &TypeMeta, namespace: Option<&str>, name: &str) -> Option<usize> {
        self.observed.position(kind, namespace, name)
    }

    fn fail(&mut self, message: String) {
        self.failure.get_or_insert(message);
    }

    // -------------------------------------------------------- live children

    /// The live object of this child, if there is one.
    #[must_use]
    pub fn observed<K>(&self, child: &Planned<K>) -> Option<Observed<K>> {
        let index = self.children.get(child.index)?.observed?;
        Some(Observed::at(&self.observed, index))
    }

    /// Why this child was refused when the last plan was carried out. None for a child that is held.
    #[must_use]
    pub fn refusal<K>(&self, child: &Planned<K>) -> Option<&Refusal> {
        self.refusal_at(child.index)
    }

    /// All refusals of children that this plan applies. One that is final names what is wrong with the plan as a whole.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        (0..self.children.len()).filter_map(|index| self.refusal_at(index))
    }

    fn refusal_at(&self, index: usize) -> Option<&Refusal> {
        let entry = self.children.get(index)?;
        (entry.child.disposition != wit::Disposition::Hold)
            .then(|| self.observed.refusals.get(entry.refusal?))
            .flatten()
    }

    /// Whether the live object of this child does what it is for. The host publishes conditions when nothing is left to
    /// write, so what is judged is the object as it is planned.
    ///
    /// A child that was [refused](Self::refusal) has failed when the refusal is final and is progressing when it is not,
    /// with the refusal's reason and message, whatever lives.
    #[must_use]
    pub fn health<K>(&self, child: &Planned<K>) -> Health {
        self.judge(child.index)
    }

    /// Whether the live object was written as it is planned now, so that [`health`](Self::health) speaks of that and not
    /// of an older version. The child gets the annotation of [`apply_after`](Self::apply_after) for it. False for what is
    /// held, and for what was [refused](Self::refusal).
    pub fn is_as_planned<K>(&mut self, child: &Planned<K>) -> bool {
        self.is_current(child.index)
    }

    fn judge(&self, index: usize) -> Health {
        if let Some(ended) = self.children.get(index).and_then(|entry| entry.ended.as_ref()) {
            return ended.clone();
        }
        if let Some(refusal) = self.refusal_at(index) {
            return refusal.health();
        }
        let observed = self.children.get(index).and_then(|entry| self.observed.get(entry.observed?));
        observed.map_or_else(Health::missing, |found| Health::of(&found.ref_, &found.object))
    }

    fn is_done(&mut self, index: usize) -> bool {
        // this first, so that it is marked
        self.is_current(index) && self.judge(index).is_ready()
    }

    fn is_current(&mut self, index: usize) -> bool {
        let is_refused = self.refusal_at(index).is_some();
        let Some(entry) = self.children.get_mut(index) else { return false };
        if entry.ended.is_some() {
            return true;
        }
        let live = entry.observed.and_then(|index| self.observed.get(index));
        match entry.child.disposition {
            wit::Disposition::Hold => {
                // so that the plan shows it as it is going to be
                if entry.waits_for.is_some()
                    && !entry.is_immutable
                    && let Err(error) = entry.mark()
                {
                    self.fail(format!("what others wait for is no object: {error}"));
                }
                false
            }
            wit::Disposition::CreateOnce => live.is_some() && !is_refused,
            wit::Disposition::Apply if entry.is_immutable => live.is_some() && !is_refused,
            wit::Disposition::Apply => match entry.mark() {
                Ok(mark) => {
                    !is_refused && live.is_some_and(|live| annotation(&live.object, MARK).as_deref() == Some(&mark))
                }
                Err(error) => {
                    self.fail(format!("what others wait for is no object: {error}"));
                    false
                }
            },
        }
    }

    // -------------------------------------------------------------- outcome

    /// The primary's own status fields: everything under `.status` but `conditions`, `observedGeneration` and
    /// `inventory`, which are the host's.
    pub fn status(&mut self, status: &impl Serialize) {
        match serde_json::to_string(status) {
            Ok(json) => self.status = Some(json),
            Err(error) => self.fail(format!("the status has no JSON form: {error}")),
        }
    }

    /// A condition of the primary; the last one of a type counts. A condition that is not said is removed.
    pub fn condition(&mut self, condition: Condition) {
        match self.conditions.iter_mut().find(|known| known.kind == condition.kind) {
            Some(known) => *known = condition,
            None => self.conditions.push(condition),
        }
    }

    /// Something to tell people: becomes an Event of type Normal when the plan before did not have it. `reason` is
    /// CamelCase.
    pub fn event(&mut self, reason: impl Into<String>, note: impl Into<String>) {
        self.events.push(types::Event { type_: types::EventType::Normal, reason: reason.into(), note: note.into() });
    }

    /// As [`event`](Self::event), of type Warning.
    pub fn warning(&mut self, reason: impl Into<String>, note: impl Into<String>) {
        self.events.push(types::Event { type_: types::EventType::Warning, reason: reason.into(), note: note.into() });
    }

    /// A unary gRPC call that changes something outside Kubernetes, made after the children were applied, once for
    /// each key and content; it must be idempotent. Its outcome is [`Context::call`](crate::Context::call) of the next
    /// reconcile.
    pub fn call(&mut self, key: &str, endpoint: &str, path: &str, message: Vec<u8>) {
        let (key, endpoint, path) = (key.to_owned(), endpoint.to_owned(), path.to_owned());
        let grpc = types::GrpcQuery { endpoint, path, message, max_age_ms: 0 };
        self.calls.push(wit::Call { key, grpc });
    }

    /// Reconcile again after this time even if nothing changes (at least a second); the soonest counts.
    pub fn requeue_after(&mut self, after: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(after, |known| known.min(after)));
    }

    /// The primary is being deleted and clean-up is done: what is left is pruned and the finalizer removed.
    pub fn finalized(&mut self) {
        self.finalized = true;
    }

    pub(crate) fn into_wit(self, uses: Vec<u32>) -> Result<wit::Plan, Failure> {
        if let Some(failure) = self.failure {
            return Err(Failure::internal(failure));
        }
        let children: Result<_, _> = self.children.into_iter().map(Entry::into_child).collect();
        Ok(wit::Plan {
            children: children.map_err(|error| Failure::internal(format!("a held child is no object: {error}")))?,
            status: self.status,
            conditions: self.conditions.into_iter().map(Condition::into_wit).collect(),
            events: self.events,
            calls: self.calls,
            uses,
            requeue_after_ms: self.requeue_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            finalized: self.finalized,
            ext: Vec::new(),
        })
    }
}

/// An object that says which one it is, and nothing more.
fn header(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> String {
    let mut metadata = Map::from_iter([("name".to_owned(), name.into())]);
    metadata.extend(namespace.map(|namespace| ("namespace".to_owned(), namespace.into())));
    serde_json::json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata }).to_string()
}
