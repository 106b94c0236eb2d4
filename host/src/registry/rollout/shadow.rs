//! What would a version do with an object? Evaluated as a reconcile would, from the caches, without a write.
//!
//! The request is made of the same parts, the conversation, the check of the plan and the comparison with live state are
//! the functions that a reconcile uses, so that equal inputs have the plan that the reconcile after the swap has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::change::{self, ObjectChange};
use crate::api::names;
use crate::control::cluster::Cluster;
use crate::control::controller::{Active, Controller};
use crate::control::key::PrimaryKey;
use crate::lookup::{Asker, Grants};
use crate::overlay::guard::Rails;
use crate::overlay::{self, Layer};
use crate::plan::check::{self, Checked, Checker, Desired, SetOnce, shorten};
use crate::plan::contract::{
    Answered, Disposition, Failure, Lookup, Manifest, ObjectRef, Problem, Request, Step, Truth, TypeMeta,
};
use crate::plan::decide::{self, Experience, Writes};
use crate::plan::object::Object;
use crate::plan::request::{Children, Snapshot, owns_namespace};
use crate::plan::rounds::{self, Conversation, NoPlan, Session};
use crate::plugin::{CallError, Plugin};
use crate::registry::load::Prepared;
use crate::telemetry::metrics;

/// A version, as far as evaluating it goes.
#[derive(Clone, Copy)]
pub(in crate::registry) struct Version<'a> {
    /// Name of the record.
    name: &'a str,
    plugin: &'a Plugin,
    manifest: &'a Manifest,
    cluster: &'a Arc<Cluster>,
    grants: &'a Grants,
    rails: &'a Rails,
    set_once: &'a [SetOnce],
    config: &'a str,
}

impl<'a> Version<'a> {
    /// One that is loaded; none when its component could not be.
    pub(in crate::registry) fn loaded(active: &'a Active) -> Option<Self> {
        let Active { name, plugin, manifest, cluster, grants, rails, set_once, config, .. } = active;
        Some(Self { name, plugin: plugin.as_ref()?, manifest, cluster, grants, rails, set_once, config })
    }

    /// One that is not installed yet.
    pub(in crate::registry) fn prepared(name: &'a str, prepared: &'a Prepared) -> Self {
        let Prepared { loaded, cluster, grants, rails, set_once, config, .. } = prepared;
        Self { name, plugin: &loaded.plugin, manifest: &loaded.manifest, cluster, grants, rails, set_once, config }
    }
}

/// What came of one evaluation.
pub(in crate::registry) enum Evaluated {
    /// A plan that could be carried out.
    Planned(Box<Made>),
    /// None, and none to be expected.
    Failed(Problem),
    /// The plugin says that it may get better by itself.
    Unknown(Problem),
}

/// A plan, and what it would lead to.
pub(in crate::registry) struct Made {
    pub(super) checked: Checked,
    pub(super) writes: Writes,
    /// Children that are held, as they are going to be.
    pub(super) later: Vec<Later>,
    /// What the plugin was shown, where values of Secrets are.
    pub(super) answers: Vec<Answered>,
}

/// A child that is held until others are ready, and whose plugin says what it is going to be.
pub(super) struct Later {
    pub(super) desired: Arc<Desired>,
    pub(super) live: Option<Arc<Object>>,
    /// For people.
    pub(super) waits_for: String,
    /// The live object is another, or there is none.
    pub(super) differs: bool,
}

impl Made {
    /// What is wanted of a child, now or later; none where it is held and the plugin does not say.
    pub(super) fn wanted(&self, child: &ObjectRef) -> Option<&Desired> {
        let now = self.checked.children.iter().filter(|desired| desired.disposition != Disposition::Hold);
        let mut all = self.later.iter().map(|later| &later.desired).chain(now).map(|desired| &**desired);
        all.find(|desired| desired.reference == *child)
    }

    /// Is everything as it is wanted, now and later?
    pub(super) fn writes_nothing(&self) -> bool {
        self.writes.is_empty() && self.later.iter().all(|later| !later.differs)
    }

    /// Would the plugin call the object Ready? None when it does not say.
    fn ready(&self) -> Option<bool> {
        let ready = self.checked.conditions.iter().find(|condition| condition.type_ == names::READY)?;
        Some(ready.status == Truth::True)
    }
}

/// What was applied last is what is wanted: whatever differs in the live object is no doing of the version.
struct LastApplied;

impl Experience for LastApplied {
    fn agrees(&self, desired: &Desired, live: &Object) -> bool {
        live.applied.as_deref() == Some(desired.digest.as_str())
    }

    fn is_normalised(&self, _: &Desired, _: &Object) -> bool {
        false
    }

    fn is_drift(&self, _: &Desired, _: &Object, _: &[String]) -> bool {
        false
    }
}

/// A conversation that changes nothing.
struct Shadow<'a> {
    controller: &'a Controller,
    version: Version<'a>,
    key: PrimaryKey,
    uid: &'a str,
    children: &'a Children,
}

impl Session for Shadow<'_> {
    type Error = CallError;

    async fn call(&self, request: &Request) -> Result<Result<Step, Failure>, CallError> {
        self.version.plugin.reconcile(request).await.map(|(answer, _)| answer)
    }

    async fn answer(&self, lookups: Vec<Lookup>) -> Vec<Answered> {
        let Version { name, manifest, grants, cluster, .. } = self.version;
        let owns = Box::new(|namespace: &str| owns_namespace(self.children, namespace));
        let asker = Asker { key: &self.key, uid: self.uid.to_owned(), plugin: name, manifest, grants, cluster, owns };
        self.controller.lookups.answer(&asker, lookups).await
    }
}

/// The key under which answers are remembered meanwhile: that of the object itself belongs to the version that serves.
fn shadow_of(snapshot: &Snapshot) -> PrimaryKey {
    let kind = TypeMeta::new(format!("shadow/{}", snapshot.kind.api_version), snapshot.kind.kind.clone());
    PrimaryKey::new(Arc::new(kind), &snapshot.primary.namespace, &snapshot.primary.name)
}

/// Evaluates one version for one object. The snapshot's `config` must be that of the version.
pub(in crate::registry) async fn evaluate(
    controller: &Controller,
    version: Version<'_>,
    snapshot: &Snapshot,
) -> Evaluated {
    let (uid, children) = (&*snapshot.primary.uid, &snapshot.children);
    let session = Shadow { controller, version, key: shadow_of(snapshot), uid, children };
    let bounds = *version.plugin.bounds();
    let mut request = snapshot.request(version.manifest, Vec::new());
    request.calls = controller.call_results(&snapshot.kind, &snapshot.primary);
    let Conversation { request, end, .. } = rounds::conversation(&session, request, bounds).await;
    controller.lookups.forget(&session.key);
    let problem = |reason: &str, message: &str| Problem { reason: reason.into(), message: shorten(message, 512) };
    let plan = match end {
        Ok((plan, _)) => plan,
        Err(NoPlan::Failed(Failure::Transient(said))) => {
            return Evaluated::Unknown(problem(&said.reason, &said.message));
        }
        Err(NoPlan::Failed(Failure::Internal(text))) => return Evaluated::Failed(problem("PluginFailed", &text)),
        Err(NoPlan::Failed(Failure::Invalid(violations))) => {
            let said: Vec<String> = violations.iter().map(|v| format!("{}: {}", v.field, v.message)).collect();
            return Evaluated::Failed(problem("Invalid", &said.join("; ")));
        }
        Err(NoPlan::Call(error)) => return Evaluated::Failed(problem(error.reason(), &error.to_string())),
        Err(NoPlan::Rounds(error)) => return Evaluated::Failed(problem("TooManyRounds", &error.to_string())),
    };
    version.cluster.discover(version.manifest, &plan).await;
    let scope = |kind: &TypeMeta| version.cluster.known(kind).map(|served| served.scope);
    let (plugin, manifest, set_once) = (version.name, version.manifest, version.set_once);
    let checker = Checker { plugin, manifest, bounds: &bounds, set_once, scope: &scope };
    match checker.check(snapshot, &plan) {
        Ok(mut checked) => {
            let overlays = controller.overlays.selected(&snapshot.kind, &snapshot.primary);
            let layer = || Layer { given: &overlays, rails: version.rails, rejected: &|_| None };
            let waiting = waiting(&checked);
            let later = if waiting.is_empty() {
                Vec::new()
            } else {
                // beside the others, as they will be then
                let free = |child: &Arc<Desired>| waiting.get(&child.reference).map_or(child, |(free, _)| free).clone();
                let mut then = checked.clone();
                then.children = overlay::lay(layer(), &checked.children.iter().map(free).collect::<Vec<_>>()).children;
                then.children.retain(|child| waiting.contains_key(&child.reference));
                later(&then, &snapshot.children, waiting)
            };
            checked.children = overlay::lay(layer(), &checked.children).children;
            let writes = decide::writes(&checked, &snapshot.children, &LastApplied);
            Evaluated::Planned(Box::new(Made { checked, writes, later, answers: request.answers }))
        }
        Err(refused) => Evaluated::Failed(problem(refused.reason, &refused.message)),
    }
}

/// Held children whose plugin says what they are going to be, as if nothing held them, and what they wait for.
fn waiting(checked: &Checked) -> BTreeMap<ObjectRef, (Arc<Desired>, String)> {
    let held = checked.children.iter().filter(|child| child.disposition == Disposition::Hold);
    held.filter_map(|child| Some((child.reference.clone(), freed(child)?))).collect()
}

fn freed(child: &Desired) -> Option<(Arc<Desired>, String)> {
    let mut body = child.body.clone();
    let says_more = body.as_object()?.keys().any(|field| !["apiVersion", "kind", "metadata"].contains(&&**field));
    let annotations = body.pointer_mut("/metadata/annotations")?.as_object_mut().filter(|_| says_more)?;
    let waits_for = annotations.remove(names::WAITS_FOR_ANNOTATION)?.as_str()?.to_owned();
    annotations.remove(names::APPLIED_ANNOTATION);
    let digest = check::digest(&body);
    let annotations = body.pointer_mut("/metadata/annotations")?.as_object_mut()?;
    annotations.insert(names::APPLIED_ANNOTATION.into(), digest.clone().into());
    Some((Arc::new(Desired { body, digest, disposition: Disposition::Apply, ..child.clone() }), waits_for))
}

/// What will have to be written of these.
fn later(then: &Checked, live: &Children, mut waiting: BTreeMap<ObjectRef, (Arc<Desired>, String)>) -> Vec<Later> {
    let writes = decide::writes(then, live, &LastApplied);
    let written: BTreeSet<&ObjectRef> = writes.tiers.iter().flatten().map(|apply| &apply.desired.reference).collect();
    let one = |desired: &Arc<Desired>| {
        let (_, waits_for) = waiting.remove(&desired.reference).unwrap_or((desired.clone(), String::new()));
        let (live, differs) = (live.get(&desired.reference).cloned(), written.contains(&desired.reference));
        Later { desired: desired.clone(), live, waits_for, differs }
    };
    then.children.iter().map(one).collect()
}

/// The object and its children as the caches have them, for a version.
pub(in crate::registry) fn snapshot(
    loaded: &Active,
    kind: &TypeMeta,
    primary: &Arc<Object>,
    version: Version<'_>,
) -> Snapshot {
    let children = loaded.children(&primary.uid);
    Snapshot { kind: kind.clone(), primary: primary.clone(), children, config: version.config.to_owned() }
}

/// The same object in the storage version of a version that has another one. None when it does not have the kind at all.
pub(in crate::registry) async fn converted(
    snapshot: &Snapshot,
    prepared: &Prepared,
) -> Option<Result<Snapshot, Problem>> {
    let kind = same_kind(prepared, &snapshot.kind).filter(|_| prepared.loaded.plugin.has_conversion())?;
    let problem = |reason: &str, message: &str| Problem { reason: reason.into(), message: shorten(message, 512) };
    let mut object = snapshot.primary.value();
    if let serde_json::Value::Object(fields) = &mut object {
        fields.insert("apiVersion".into(), snapshot.kind.api_version.clone().into());
        fields.insert("kind".into(), snapshot.kind.kind.clone().into());
    }
    let answer = prepared.loaded.plugin.convert(&object.to_string(), &kind.api_version).await;
    Some(match answer {
        Ok(Ok(text)) => match Object::parse(&text) {
            Ok(primary) => Ok(Snapshot { kind: kind.clone(), primary: Arc::new(primary), ..snapshot.clone() }),
            Err(error) => Err(problem("ConversionFailed", &error.to_string())),
        },
        Ok(Err(why)) => Err(problem("ConversionFailed", &why)),
        Err(error) => Err(problem(error.reason(), &error.to_string())),
    })
}

/// The kind as a version has it.
fn same_kind<'a>(prepared: &'a Prepared, kind: &TypeMeta) -> Option<&'a TypeMeta> {
    let kinds = prepared.loaded.definitions.iter().map(|definition| &definition.served.kind);
    let mut same = kinds.filter(|one| one.kind == kind.kind && one.group() == kind.group());
    same.next()
}

/// What `new` would change for one object that `old` serves.
pub(super) async fn compare(
    controller: &Controller,
    (new, old): (Version<'_>, Option<Version<'_>>),
    (snapshot, seen_by_old): (Snapshot, Snapshot),
) -> ObjectChange {
    let object = snapshot.reference();
    let evaluated = evaluate(controller, new, &snapshot).await;
    // the old one only where something is different: it says what was there before, and whose fault a failure is
    let before = async || match old {
        Some(old) => {
            let snapshot = Snapshot { config: old.config.to_owned(), ..seen_by_old.clone() };
            Some(evaluate(controller, old, &snapshot).await)
        }
        None => None,
    };
    let change = match evaluated {
        Evaluated::Unknown(problem) => ObjectChange::unknown(object, &problem),
        Evaluated::Failed(problem) => {
            let also = matches!(before().await, Some(Evaluated::Failed(_)));
            ObjectChange::failed(object, &problem, also)
        }
        Evaluated::Planned(made) => {
            let before = match made.writes_nothing() {
                false => before().await,
                true => None,
            };
            let before = match before {
                Some(Evaluated::Planned(before)) => Some(before),
                _ => None,
            };
            let changes = change::changes(&snapshot, &made, before.as_deref());
            if changes.is_empty() {
                let was = change::is_ready(&snapshot.primary);
                ObjectChange::unchanged(object, was && made.ready() == Some(false))
            } else {
                ObjectChange::changed(object, changes)
            }
        }
    };
    metrics().evaluated(new.name, change.outcome.word());
    change
}
