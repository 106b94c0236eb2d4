//! Overlays on the children of one plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::change::{self, Change};
use super::guard::{self, Context, Rails};
use super::schema::Type;
use super::{json, strategic};
use crate::api::names;
use crate::api::overlay::{Operator, Overlay, OverlayRules, OverlaySpec, PatchSpec, PatchType, Selector};
use crate::plan::check::{Desired, digest, shorten};
use crate::plan::contract::{Child, Condition, Disposition, ObjectRef, Plan, Problem, Truth, TypeMeta};
use crate::plan::glob;
use crate::plan::object::Object;
use crate::plan::path::Path;

/// Overlays of one primary; those beyond are refused.
pub const MAX_OVERLAYS: usize = 32;
/// Text of one patch.
const MAX_PATCH_BYTES: usize = 64 << 10;
/// Patches of one overlay.
const MAX_PATCHES: usize = 32;
/// Patches times children for one primary: each is a copy of the child and a comparison.
const MAX_STEPS: usize = 4_096;
/// A child that an overlay has changed.
const MAX_CHILD_BYTES: usize = 1 << 20;
/// Reason of an overlay that the API server would not take.
const REJECTED: &str = "Rejected";
/// `refused.message` and the like.
const MAX_MESSAGE: usize = 1_024;

/// One overlay as it is to be laid; all that the result rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Given {
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.generation`
    pub generation: i64,
    /// What it says.
    pub spec: OverlaySpec,
    /// Why it may not be laid at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Problem>,
}

fn problem(reason: &str, message: impl AsRef<str>) -> Problem {
    Problem { reason: reason.into(), message: shorten(message.as_ref(), MAX_MESSAGE) }
}

impl Given {
    /// From a record; `refused` says what is wrong with the record itself.
    #[must_use]
    pub fn of(overlay: &Overlay, namespace: &str) -> Self {
        let metadata = &overlay.metadata;
        let given = Self {
            name: metadata.name.clone().unwrap_or_default(),
            namespace: metadata.namespace.clone().unwrap_or_else(|| namespace.to_owned()),
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            spec: overlay.spec.clone(),
            refused: None,
        };
        let refused = given.fault();
        Self { refused, ..given }
    }

    /// What is wrong with the record by itself.
    fn fault(&self) -> Option<Problem> {
        let spec = &self.spec;
        if spec.patches.is_empty() || spec.patches.len() > MAX_PATCHES {
            return Some(problem("Malformed", format!("spec.patches must have 1 to {MAX_PATCHES} patches")));
        }
        if spec.target.name.is_some() && spec.target.selector.is_some() {
            return Some(problem("Malformed", "spec.target: name and selector exclude each other"));
        }
        spec.patches.iter().enumerate().find_map(|(i, patch)| {
            patch_fault(patch)
                .map(|Problem { reason, message }| problem(&reason, format!("spec.patches[{i}].{message}")))
        })
    }

    /// Is the overlay for this primary, which is of this kind?
    #[must_use]
    pub fn selects(&self, kind: &TypeMeta, primary: &Object) -> bool {
        let target = &self.spec.target;
        if primary.namespace != self.namespace || !is_kind(&target.api_version, &target.kind, kind) {
            return false;
        }
        match (&target.name, &target.selector) {
            (Some(name), _) => *name == primary.name,
            (None, Some(selector)) => {
                let value = primary.value();
                selects(selector, value.pointer("/metadata/labels"))
            }
            (None, None) => true,
        }
    }

    /// Changes when the result may.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp { uid: self.uid.clone(), generation: self.generation, refused: self.refused.clone() }
    }
}

/// Tells one state of an overlay from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    uid: String,
    generation: i64,
    refused: Option<Problem>,
}

fn patch_fault(patch: &PatchSpec) -> Option<Problem> {
    let text = patch.patch.to_string();
    if text.len() > MAX_PATCH_BYTES {
        let message = format!("patch: {} bytes, at most {MAX_PATCH_BYTES} are allowed", text.len());
        return Some(problem("TooLarge", message));
    }
    let depth = json::depth(&patch.patch);
    if depth > json::MAX_DEPTH {
        let message = format!("patch: nests {depth} levels deep, at most {} are allowed", json::MAX_DEPTH);
        return Some(problem("TooLarge", message));
    }
    let kind = TypeMeta::new(patch.target.api_version.clone(), patch.target.kind.clone());
    if guard::is_closed(&kind) {
        let message = format!("target.kind: a {} is not changed by overlays (Kind)", kind.kind);
        return Some(problem("Refused", message));
    }
    match patch.type_ {
        PatchType::JsonPatch => {
            json::operations(&patch.patch).err().map(|why| problem("Malformed", format!("patch: {why}")))
        }
        PatchType::StrategicMerge if patch.patch.is_object() => {
            strategic::check(&patch.patch).err().map(|why| problem("Malformed", format!("patch: {why}")))
        }
        PatchType::Merge if patch.patch.is_object() => None,
        PatchType::Merge | PatchType::StrategicMerge => {
            Some(problem("Malformed", "patch: must be an object; a list of operations has type: JSONPatch"))
        }
    }
}

/// Group and kind are the same.
fn is_kind(api_version: &str, kind: &str, other: &TypeMeta) -> bool {
    kind == other.kind && TypeMeta::new(api_version, kind).group() == other.group()
}

fn selects(selector: &Selector, labels: Option<&Value>) -> bool {
    let value = |key: &str| labels.and_then(|labels| labels.get(key)?.as_str());
    selector.match_labels.iter().all(|(key, wanted)| value(key) == Some(wanted))
        && selector.match_expressions.iter().all(|requirement| {
            let found = value(&requirement.key);
            let listed = || found.is_some_and(|found| requirement.values.iter().any(|value| value == found));
            match requirement.operator {
                Operator::In => listed(),
                Operator::NotIn => !listed(),
                Operator::Exists => found.is_some(),
                Operator::DoesNotExist => found.is_none(),
            }
        })
}

/// What became of one overlay for one primary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Name of the overlay.
    pub overlay: String,
    /// Its `metadata.uid`
    pub uid: String,
    /// Its `metadata.generation`
    pub generation: i64,
    /// Children that it has changed.
    #[serde(default)]
    pub children: Vec<ObjectRef>,
    /// Why it was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Problem>,
}

/// All that the overlays of one primary rest on, and what became of them: enough to lay them again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overlaid {
    /// Rules of the plugin's record.
    pub rules: OverlayRules,
    /// In no order.
    #[serde(with = "shared")]
    pub overlays: Vec<Arc<Given>>,
    /// One for each, in their order.
    pub outcomes: Vec<Outcome>,
    /// Children as the plugin asked for them.
    #[serde(skip)]
    pub planned: Vec<Arc<Desired>>,
    /// `metadata.generation` of the primary.
    #[serde(skip)]
    pub primary: i64,
}

impl Overlaid {
    /// Has this overlay changed this child?
    #[must_use]
    pub fn has_changed(&self, given: &Given, child: &ObjectRef) -> bool {
        self.outcomes.iter().any(|outcome| outcome.uid == given.uid && outcome.children.contains(child))
    }

    /// Lays the overlays again on these children.
    ///
    /// # Errors
    /// When the rules cannot be read.
    pub fn again(&self, children: &[Arc<Desired>]) -> Result<Laid, String> {
        let rails = Rails::new(&self.rules)?;
        let rejected = |given: &Given| {
            let outcome = self.outcomes.iter().find(|outcome| outcome.uid == given.uid)?;
            outcome.refused.as_ref().filter(|refused| refused.reason == REJECTED).map(|r| r.message.clone())
        };
        Ok(lay(Layer { given: &self.overlays, rails: &rails, rejected: &rejected }, children))
    }
}

impl Overlaid {
    /// Lays the overlays on a recorded plan of a primary in this namespace.
    ///
    /// # Errors
    /// When the rules cannot be read.
    pub fn on_plan(&self, plan: &Plan, namespace: &str) -> Result<Laid, String> {
        let children: Vec<Arc<Desired>> = plan.children.iter().filter_map(|child| planned(child, namespace)).collect();
        self.again(&children)
    }
}

/// A child of a recorded plan, without what the host adds.
fn planned(child: &Child, namespace: &str) -> Option<Arc<Desired>> {
    let mut body: Value = serde_json::from_str(&child.object).ok()?;
    let text = |path: &str| body.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    let reference = ObjectRef {
        kind: TypeMeta::new(text("/apiVersion")?, text("/kind")?),
        namespace: text("/metadata/namespace").unwrap_or(namespace).to_owned(),
        name: text("/metadata/name")?.to_owned(),
    };
    let metadata = body.get_mut("metadata")?.as_object_mut()?;
    for map in ["labels", "annotations"] {
        metadata.entry(map).or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    let (digest, disposition) = (digest(&body), child.disposition);
    Some(Arc::new(Desired {
        reference,
        body,
        digest,
        disposition,
        keep: child.keep,
        adopt: child.adopt,
        replace: false,
        set_once: Vec::new(),
    }))
}

/// A list of shared overlays as a list of overlays.
mod shared {
    use super::{Arc, Given};

    pub(super) fn serialize<S: serde::Serializer>(given: &[Arc<Given>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(given.iter().map(|given| &**given))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Arc<Given>>, D::Error> {
        let given: Vec<Given> = serde::Deserialize::deserialize(deserializer)?;
        Ok(given.into_iter().map(Arc::new).collect())
    }
}

/// What the result of laying rests on, beside the plan; while it is the same, so is the result.
#[derive(Clone, Debug, PartialEq)]
pub struct Basis {
    stamps: Vec<Stamp>,
    rails: Arc<Rails>,
}

impl Basis {
    /// None where there is nothing to lay.
    #[must_use]
    pub fn of(given: &[Arc<Given>], rails: &Arc<Rails>) -> Option<Self> {
        if given.is_empty() {
            return None;
        }
        Some(Self { stamps: given.iter().map(|given| given.stamp()).collect(), rails: rails.clone() })
    }
}

/// Which patch has changed a place last.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// Name of the overlay.
    pub overlay: String,
    /// Position in its `spec.patches`.
    pub patch: usize,
    /// Where.
    pub child: ObjectRef,
    /// Where in it.
    pub path: Path,
}

/// Children with overlays on them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Laid {
    /// In the plugin's order.
    pub children: Vec<Arc<Desired>>,
    /// One for each overlay, in their order.
    pub outcomes: Vec<Outcome>,
    /// What was changed by what, in the order in which it was.
    pub traces: Vec<Trace>,
}

/// Overlays of one primary, with what bounds them.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    /// In any order.
    pub given: &'a [Arc<Given>],
    /// Rules of the plugin.
    pub rails: &'a Rails,
    /// Why the API server would not take an overlay, where it has said so.
    pub rejected: &'a dyn Fn(&Given) -> Option<String>,
}

/// Lays overlays on the children of a plan. Each overlay is laid whole or not at all, and none that is left out keeps
/// others from being laid.
#[must_use]
pub fn lay(layer: Layer<'_>, children: &[Arc<Desired>]) -> Laid {
    let mut laid = Laid { children: children.to_vec(), ..Laid::default() };
    let mut given: Vec<&Arc<Given>> = layer.given.iter().collect();
    given.sort_by(|a, b| (a.spec.order, &a.name).cmp(&(b.spec.order, &b.name)));
    let mut selected = BTreeSet::new();
    children.iter().for_each(|child| guard::selected_labels(&child.body, &mut selected));
    let mut work = Work { rails: layer.rails, planned: children, selected: &selected, steps: 0 };
    for (i, overlay) in given.into_iter().enumerate() {
        let result = match (&overlay.refused, (layer.rejected)(overlay)) {
            _ if !layer.rails.rules.enabled => {
                Err(problem("Disabled", "the plugin's record does not let overlays change its children"))
            }
            (Some(refused), _) => Err(refused.clone()),
            (None, Some(message)) => Err(problem(REJECTED, message)),
            _ if i >= MAX_OVERLAYS => {
                Err(problem("TooManyOverlays", format!("at most {MAX_OVERLAYS} overlays are laid on one object")))
            }
            _ => work.overlay(overlay, &laid.children),
        };
        let mut outcome = Outcome {
            overlay: overlay.name.clone(),
            uid: overlay.uid.clone(),
            generation: overlay.generation,
            children: Vec::new(),
            refused: None,
        };
        match result {
            Ok((changed, traces)) => {
                for (position, desired) in changed {
                    if let Some(child) = laid.children.get_mut(position) {
                        outcome.children.push(desired.reference.clone());
                        *child = Arc::new(desired);
                    }
                }
                laid.traces.extend(traces);
            }
            Err(refused) => outcome.refused = Some(refused),
        }
        laid.outcomes.push(outcome);
    }
    laid
}

struct Work<'a> {
    rails: &'a Rails,
    /// As the plugin asks for them.
    planned: &'a [Arc<Desired>],
    selected: &'a BTreeSet<String>,
    steps: usize,
}

type Changed = BTreeMap<usize, Desired>;

impl Work<'_> {
    /// All patches of one overlay.
    fn overlay(&mut self, overlay: &Given, children: &[Arc<Desired>]) -> Result<(Changed, Vec<Trace>), Problem> {
        let (mut bodies, mut traces) = (BTreeMap::<usize, Value>::new(), Vec::new());
        for (number, patch) in overlay.spec.patches.iter().enumerate() {
            let at = |why: Problem| problem(&why.reason, format!("spec.patches[{number}]: {}", why.message));
            for (position, child) in children.iter().enumerate().filter(|(_, child)| is_meant(overlay, patch, child)) {
                self.steps += 1;
                if self.steps > MAX_STEPS {
                    return Err(problem(
                        "TooLarge",
                        format!("more than {MAX_STEPS} patches of children of one object"),
                    ));
                }
                let before = bodies.remove(&position).unwrap_or_else(|| bare(&child.body));
                let (after, changes) = self.patch(patch, position, child, &before).map_err(at)?;
                let trace = |change: Change| Trace {
                    overlay: overlay.name.clone(),
                    patch: number,
                    child: child.reference.clone(),
                    path: change.path,
                };
                traces.extend(changes.into_iter().filter(|change| !change.item).map(trace));
                bodies.insert(position, after);
            }
        }
        let mut changed = Changed::new();
        for (position, body) in bodies {
            let Some(child) = children.get(position) else { continue };
            if body != bare(&child.body) {
                changed.insert(position, finish(child, body).map_err(|why| problem("Refused", why))?);
            }
        }
        Ok((changed, traces))
    }

    /// One patch of one child.
    fn patch(
        &self,
        patch: &PatchSpec,
        position: usize,
        child: &Desired,
        before: &Value,
    ) -> Result<(Value, Vec<Change>), Problem> {
        let kind = &child.reference.kind;
        let within = |why: String| problem("PatchFailed", format!("{}: {why}", child.reference));
        let mut after = before.clone();
        match patch.type_ {
            PatchType::Merge => json::merge(&mut after, &patch.patch),
            PatchType::StrategicMerge => match Type::of(kind) {
                Some(type_) => strategic::merge(&mut after, &patch.patch, type_).map_err(within)?,
                None => json::merge(&mut after, &patch.patch),
            },
            PatchType::JsonPatch => {
                let operations = json::operations(&patch.patch).map_err(within)?;
                json::apply(&mut after, &operations).map_err(within)?;
            }
        }
        let changes = change::changes(before, &after);
        let planned = self.planned.get(position).map_or(&Value::Null, |planned| &planned.body);
        let context = Context { kind, planned, patched: &after, selected: self.selected };
        self.rails
            .check(context, &changes)
            .map_err(|breach| problem("Refused", format!("{}: {breach}", child.reference)))?;
        Ok((after, changes))
    }
}

fn is_meant(overlay: &Given, patch: &PatchSpec, child: &Desired) -> bool {
    let (target, reference) = (&patch.target, &child.reference);
    child.disposition != Disposition::Hold
        && !reference.namespace.is_empty()
        && reference.namespace == overlay.namespace
        && is_kind(&target.api_version, &target.kind, &reference.kind)
        && target.name.as_ref().is_none_or(|name| glob::matches(name, &reference.name))
}

/// The body without the annotation that carries its digest.
fn bare(body: &Value) -> Value {
    let mut body = body.clone();
    if let Some(Value::Object(annotations)) = body.pointer_mut("/metadata/annotations") {
        annotations.remove(names::APPLIED_ANNOTATION);
    }
    body
}

/// A changed child, if what makes it the plugin's child is as it was: the rules see to that, and this is the proof.
fn finish(child: &Desired, mut body: Value) -> Result<Desired, String> {
    let name = &child.reference;
    if identity(&child.body) != identity(&body) {
        return Err(format!("{name}: metadata (Identity): what an object is stays the plugin's"));
    }
    let bytes = body.to_string().len();
    if bytes > MAX_CHILD_BYTES {
        return Err(format!("{name}: the object (Size): {bytes} bytes, at most {MAX_CHILD_BYTES} are allowed"));
    }
    let digest = digest(&body);
    match body.pointer_mut("/metadata/annotations") {
        Some(Value::Object(annotations)) => {
            annotations.insert(names::APPLIED_ANNOTATION.into(), Value::from(digest.clone()));
        }
        _ => return Err(format!("{name}: metadata.annotations (Identity): must map names to texts")),
    }
    // a tenant must not have an object deleted and made again
    Ok(Desired { body, digest, replace: false, ..child.clone() })
}

/// Everything by which Kubernetes and the host know the object.
fn identity(body: &Value) -> Vec<Option<String>> {
    let ours = |map: &str| -> Vec<(String, Value)> {
        let entries = body.pointer(map).and_then(Value::as_object).into_iter().flatten();
        let ours =
            |name: &str| (names::is_ours(name) && name != names::APPLIED_ANNOTATION) || name.starts_with("helm.sh/");
        entries.filter(|(name, _)| ours(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    let maps = ["/metadata/labels", "/metadata/annotations"].map(|map| Some(format!("{:?}", ours(map))));
    let fields = body.pointer("/metadata").and_then(Value::as_object).into_iter().flatten();
    let fields = fields.filter(|(name, _)| *name != "labels" && *name != "annotations");
    let fields: BTreeMap<&String, &Value> = fields.collect();
    let is_map = |path: &str| Some(body.pointer(path).is_some_and(Value::is_object).to_string());
    let mut all: Vec<Option<String>> =
        ["/apiVersion", "/kind", "/status"].map(|path| body.pointer(path).map(Value::to_string)).into();
    all.push(Some(format!("{fields:?}")));
    all.extend(maps);
    all.extend(["/metadata/labels", "/metadata/annotations"].map(is_map));
    all
}

/// The condition of a primary with these outcomes; none where there is no overlay.
#[must_use]
pub fn condition(outcomes: &[Outcome]) -> Option<Condition> {
    if outcomes.is_empty() {
        return None;
    }
    let refused: Vec<(&Outcome, &Problem)> = outcomes.iter().filter_map(|o| Some((o, o.refused.as_ref()?))).collect();
    let names = |outcomes: &[Outcome]| outcomes.iter().map(|o| o.overlay.as_str()).collect::<Vec<_>>().join(", ");
    let (status, reason, message) = match refused.first() {
        None => (Truth::True, "Applied".to_owned(), names(outcomes)),
        Some((_, first)) => {
            let said = refused.iter().map(|(outcome, problem)| format!("{}: {}", outcome.overlay, problem.message));
            (Truth::False, first.reason.clone(), said.collect::<Vec<_>>().join("; "))
        }
    };
    Some(Condition { type_: names::OVERLAY_APPLIED.into(), status, reason, message: shorten(&message, 4_096) })
}

#[cfg(test)]
mod tests;
