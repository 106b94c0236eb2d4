//! Overlays in a reconcile: laid over the plan, and left out where the API server would not take them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cluster::ApiError;
use super::reconcile::{Reconcile, ReconcileError};
use super::refusals::is_schema_error;
use crate::overlay::{Given, Laid, Layer, Overlaid, condition, lay};
use crate::plan::check::{Checked, Desired};
use crate::plan::contract::ObjectRef;
use crate::plan::request::Snapshot;
use crate::telemetry::chain;

/// Overlays that the API server would not take for one primary, by UID. They are tried again when the overlay, the
/// primary or the version of the plugin changes.
#[derive(Default)]
pub(super) struct Rejected(BTreeMap<String, Rejection>);

struct Rejection {
    overlay: i64,
    primary: i64,
    plugin: String,
    message: String,
}

impl Rejected {
    fn message(&self, given: &Given, primary: i64, plugin: &str) -> Option<String> {
        let rejection = self.0.get(&given.uid)?;
        let same = rejection.overlay == given.generation && rejection.primary == primary && rejection.plugin == plugin;
        same.then(|| rejection.message.clone())
    }
}

impl Reconcile<'_> {
    /// Lays the overlays of this primary over its plan.
    pub(super) fn lay(&mut self, snapshot: &Snapshot, overlays: Vec<Arc<Given>>, checked: &mut Checked) {
        self.overlaid = None;
        if overlays.is_empty() {
            self.controller.overlays.report(self.key, &[]);
            return;
        }
        let (memory, active) = (&self.memory.rejected, self.active);
        let rejected = |given: &Given| memory.message(given, snapshot.primary.generation, &active.digest);
        let layer = Layer { given: &overlays, rails: &active.rails, rejected: &rejected };
        let Laid { children, outcomes, .. } = lay(layer, &checked.children);
        let planned = std::mem::replace(&mut checked.children, children);
        checked.conditions.extend(condition(&outcomes));
        self.controller.overlays.report(self.key, &outcomes);
        let overlaid = Overlaid {
            rules: active.rails.rules.clone(),
            overlays,
            outcomes,
            planned,
            primary: snapshot.primary.generation,
        };
        if let Some(recording) = &mut self.recording {
            recording.overlays = Some(Overlaid { planned: Vec::new(), ..overlaid.clone() }); // the plan is there as text
        }
        self.overlaid = Some(overlaid);
    }

    /// A child could not be applied: is it because of overlays? Those that the API server would not take are left out
    /// from now on, each found by a dry run on top of the ones before. Returns whether there is one.
    pub(super) async fn reject_overlays(&mut self, error: &ReconcileError) -> bool {
        let (ReconcileError::Apply { child, source } | ReconcileError::Immutable { child, source }) = error else {
            return false;
        };
        let Some(overlaid) = self.overlaid.take().filter(|_| is_refusal(source)) else { return false };
        let Some(planned) = overlaid.planned.iter().find(|desired| desired.reference == *child) else { return false };
        let mut touching: Vec<&Arc<Given>> =
            overlaid.overlays.iter().filter(|given| overlaid.has_changed(given, child)).collect();
        touching.sort_by_key(|given| overlaid.outcomes.iter().position(|outcome| outcome.uid == given.uid));
        if touching.is_empty() || self.dry_run(child, planned).await.is_err() {
            return false; // without any it would not be taken either
        }
        let mut kept: Vec<Arc<Given>> = Vec::new();
        let mut found = false;
        for given in touching {
            kept.push(given.clone());
            let layer = Layer { given: &kept, rails: &self.active.rails, rejected: &|_| None };
            let laid = lay(layer, std::slice::from_ref(planned));
            let Some(desired) = laid.children.first() else { continue };
            if let Err(refusal) = self.dry_run(child, desired).await {
                kept.pop();
                found = true;
                let rejection = Rejection {
                    overlay: given.generation,
                    primary: overlaid.primary,
                    plugin: self.active.digest.clone(),
                    message: format!("{child}: the API server would not take it: {}", chain(&refusal)),
                };
                self.memory.rejected.0.insert(given.uid.clone(), rejection);
            }
        }
        found
    }

    /// Only a refusal of the object itself is an error.
    async fn dry_run(&self, child: &ObjectRef, desired: &Desired) -> Result<(), ApiError> {
        match self.active.cluster.apply_dry_run(child, &self.active.field_manager, &desired.body).await {
            Err(error) if is_refusal(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

/// The API server does not want the object as it is.
fn is_refusal(error: &ApiError) -> bool {
    matches!(error.code(), 400 | 403 | 413 | 422) || is_schema_error(error)
}
