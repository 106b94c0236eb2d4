//! The plan of a version: every live object evaluated, counted, and kept for those who ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::change::{ObjectChange, Outcome, Verb};
use super::shadow::{self, Version};
use crate::api::plugin::KindRef;
use crate::api::rollout::{Gates, KindChanges, PlanStatus};
use crate::control::controller::{Active, Controller};
use crate::plan::contract::{Problem, TypeMeta};
use crate::plan::object::Object;
use crate::registry::load::Prepared;

/// Evaluations on their way. They share one task: however many there are, they take no more than one core, and each is
/// interrupted for others every 5 ms.
const PARALLEL: usize = 4;

/// Whatever is not evaluated by then is unknown. 10,000 objects take some seconds.
const DEADLINE: Duration = Duration::from_secs(600);

/// Objects that a plan names in the status.
const SAMPLES: usize = 20;

/// Objects whose changes are kept for `transom plugin plan`.
const KEPT: usize = 2_000;

/// A plan with the changes of each object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FullPlan {
    /// The numbers.
    pub summary: PlanStatus,
    /// Objects that change or fail, failures first; at most 2,000.
    pub objects: Vec<ObjectChange>,
}

impl FullPlan {
    /// Of the changes of all objects.
    fn of(prepared: &Prepared, mut changes: Vec<ObjectChange>) -> Self {
        changes.sort_by(|a, b| (a.outcome, &a.object).cmp(&(b.outcome, &b.object)));
        let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default();
        let mut summary = count(&changes);
        summary.revision = prepared.revision.to_string();
        summary.digest = prepared.digest.clone();
        summary.at = Some(Time(now));
        changes.retain(|change| change.outcome != Outcome::Unchanged);
        changes.truncate(KEPT);
        summary.samples = changes.iter().take(SAMPLES).map(ObjectChange::sample).collect();
        Self { summary, objects: changes }
    }
}

/// The numbers of a plan.
fn count(changes: &[ObjectChange]) -> PlanStatus {
    let of = |outcome| number(changes.iter().filter(|change| change.outcome == outcome).count());
    let mut kinds: BTreeMap<&TypeMeta, KindChanges> = BTreeMap::new();
    let mut immutable = 0;
    for child in changes.iter().flat_map(|change| &change.children) {
        let kind = kinds.entry(&child.child.kind).or_insert_with(|| KindChanges {
            kind: KindRef::of(&child.child.kind),
            created: 0,
            updated: 0,
            replaced: 0,
            pruned: 0,
            released: 0,
            later: 0,
        });
        immutable += u32::from(!child.immutable.is_empty());
        if child.waits_for.is_some() {
            kind.later += 1;
            continue;
        }
        *match child.verb {
            Verb::Create => &mut kind.created,
            Verb::Update => &mut kind.updated,
            Verb::Replace => &mut kind.replaced,
            Verb::Delete => &mut kind.pruned,
            Verb::Release => &mut kind.released,
        } += 1;
    }
    PlanStatus {
        objects: number(changes.len()),
        unchanged: of(Outcome::Unchanged) + of(Outcome::NotReady),
        changed: of(Outcome::Changed),
        failed: of(Outcome::Failed),
        failing: of(Outcome::Failing),
        unknown: of(Outcome::Unknown),
        not_ready: of(Outcome::NotReady),
        children: kinds.into_values().collect(),
        immutable,
        ..PlanStatus::default()
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Which gate a plan does not pass; for people.
pub(in crate::registry) fn held_by(gates: &Gates, plan: &PlanStatus) -> Option<String> {
    let PlanStatus { failed, not_ready, objects, .. } = plan;
    let first = |outcome: Outcome| {
        let sample = plan.samples.iter().find(|sample| sample.outcome == outcome.word());
        sample.map(|sample| format!(", first {}: {}", sample.object, sample.message)).unwrap_or_default()
    };
    if *failed > gates.max_failed {
        let why = first(Outcome::Failed);
        return Some(format!("{failed} of {objects} objects would fail, {} may{why}", gates.max_failed));
    }
    if *not_ready > gates.max_not_ready {
        let why = first(Outcome::NotReady);
        return Some(format!(
            "{not_ready} of {objects} objects would no longer be Ready, {} may{why}",
            gates.max_not_ready
        ));
    }
    let pruned: u32 = plan.children.iter().map(|kind| kind.pruned).sum();
    let most = gates.max_pruned.filter(|most| pruned > *most)?;
    Some(format!("{pruned} children would be deleted, {most} may"))
}

/// Evaluates a version for every object that `serving` serves. Objects that are being deleted are left out.
pub(in crate::registry) async fn make(
    controller: &Arc<Controller>,
    name: &str,
    prepared: &Prepared,
    serving: &Active,
) -> FullPlan {
    // what the check of a plan asks for: how its kinds are served
    for kind in prepared.loaded.manifest.child_kinds() {
        if let Err(error) = prepared.cluster.served(kind).await {
            tracing::debug!(%kind, %error, "a kind of child is not served");
        }
    }
    let new = Version::prepared(name, prepared);
    let started = Instant::now();
    let served = |kind: &TypeMeta| prepared.loaded.definitions.iter().any(|d| d.served.kind == *kind);
    let mut primaries: Vec<(Arc<TypeMeta>, Arc<Object>)> = Vec::new();
    for watch in &serving.primary_watches {
        let live = watch.cache.all().into_iter().filter(|primary| !primary.deleting);
        primaries.extend(live.map(|primary| (watch.kind.clone(), primary)));
    }
    let one = |(kind, primary): (Arc<TypeMeta>, Arc<Object>)| {
        let unknown = |reason: &str, message: &str| {
            let problem = Problem { reason: reason.into(), message: message.into() };
            ObjectChange::unknown(primary.reference(&kind), &problem)
        };
        let skipped = unknown("KindNotServed", "the version does not serve this kind in this version of the API");
        let is_served = served(&kind);
        let late = unknown("DeadlineExceeded", "there was no time left to evaluate it");
        let snapshot = shadow::snapshot(serving, &kind, &primary, new);
        async move {
            if started.elapsed() > DEADLINE {
                return late;
            }
            let for_new =
                if is_served { Some(Ok(snapshot.clone())) } else { shadow::converted(&snapshot, prepared).await };
            match for_new {
                None => skipped,
                Some(Ok(for_new)) => {
                    shadow::compare(controller, (new, Version::loaded(serving)), (for_new, snapshot)).await
                }
                Some(Err(problem)) => ObjectChange::failed(snapshot.reference(), &problem, false),
            }
        }
    };
    let mut kept = 0;
    let bounded = |mut change: ObjectChange| {
        kept += usize::from(!change.children.is_empty());
        if kept > KEPT {
            // counted, and not shown
            change.children.iter_mut().for_each(|child| child.fields = Vec::new());
        }
        change
    };
    let changes = futures::stream::iter(primaries).map(one).buffer_unordered(PARALLEL).map(bounded).collect().await;
    FullPlan::of(prepared, changes)
}

/// The last plan of each record, for `transom plugin plan`.
#[derive(Default)]
pub struct Plans(Mutex<BTreeMap<String, Arc<FullPlan>>>);

impl Plans {
    /// The last plan of a record that this process made.
    #[must_use]
    pub fn of(&self, plugin: &str) -> Option<Arc<FullPlan>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(plugin).cloned()
    }

    pub(in crate::registry) fn put(&self, plugin: &str, plan: FullPlan) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(plugin.to_owned(), Arc::new(plan));
    }

    pub(in crate::registry) fn forget(&self, plugin: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(plugin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::contract::ObjectRef;
    use crate::registry::rollout::change::ChildChange;

    fn reference(kind: &str, name: &str) -> ObjectRef {
        ObjectRef { kind: TypeMeta::new("v1", kind), namespace: "n".into(), name: name.into() }
    }

    fn change(name: &str, outcome: Outcome, verbs: &[Verb]) -> ObjectChange {
        let child = |verb: &Verb| ChildChange {
            child: reference("ConfigMap", name),
            verb: *verb,
            waits_for: None,
            immutable: Vec::new(),
            fields: Vec::new(),
        };
        ObjectChange {
            object: reference("Thing", name),
            outcome,
            message: String::new(),
            children: verbs.iter().map(child).collect(),
        }
    }

    #[test]
    fn every_object_is_counted_once_and_children_by_kind() {
        let plan = count(&[
            change("a", Outcome::Changed, &[Verb::Create, Verb::Update]),
            change("b", Outcome::Changed, &[Verb::Delete]),
            change("c", Outcome::Failed, &[]),
            change("d", Outcome::NotReady, &[]),
            change("e", Outcome::Unchanged, &[]),
            change("f", Outcome::Unknown, &[]),
            change("g", Outcome::Failing, &[]),
        ]);
        let PlanStatus { objects, unchanged, changed, failed, failing, unknown, not_ready, .. } = plan;
        assert_eq!((objects, unchanged, changed, failed, failing, unknown, not_ready), (7, 2, 2, 1, 1, 1, 1));
        assert_eq!(objects, unchanged + changed + failed + failing + unknown);
        let [kind] = plan.children.as_slice() else { unreachable!("one kind: {:?}", plan.children) };
        assert_eq!((kind.created, kind.updated, kind.pruned), (1, 1, 1));
    }

    #[test]
    fn a_child_that_changes_later_is_counted_apart() {
        let mut held = change("a", Outcome::Changed, &[Verb::Update, Verb::Create]);
        held.children[0].waits_for = Some("Job j (Missing)".into());
        let plan = count(&[held]);
        let [kind] = plan.children.as_slice() else { unreachable!("one kind: {:?}", plan.children) };
        assert_eq!((plan.changed, kind.later, kind.updated, kind.created), (1, 1, 0, 1));
    }

    #[test]
    fn each_gate_holds_what_is_above_its_limit() {
        let plan = count(&[
            change("a", Outcome::Failed, &[]),
            change("b", Outcome::NotReady, &[]),
            change("c", Outcome::Changed, &[Verb::Delete, Verb::Delete]),
        ]);
        let open = Gates { max_failed: 1, max_not_ready: 1, max_pruned: Some(2) };
        assert_eq!(held_by(&open, &plan), None);
        let said = |gates: Gates| held_by(&gates, &plan).unwrap();
        assert_eq!(said(Gates { max_failed: 0, ..open.clone() }), "1 of 3 objects would fail, 0 may");
        assert_eq!(said(Gates { max_not_ready: 0, ..open.clone() }), "1 of 3 objects would no longer be Ready, 0 may");
        assert_eq!(said(Gates { max_pruned: Some(1), ..open.clone() }), "2 children would be deleted, 1 may");
        assert_eq!(held_by(&Gates { max_pruned: None, ..open }, &plan), None);
    }
}
