//! Children that the API server did not take, so that the plugin sees it, and with it whoever reads the status.
//!
//! # One that is refused
//! The plugin is called again at once and finds the refusal in its request. If its plan still wants the same object, the
//! reconcile has failed: the plugin's status of that plan is published, and the object is sent again after the usual wait.
//! What was refused is kept in memory, for as long as plans want the same: after a restart it is sent and refused again.

use std::collections::BTreeMap;

use super::cluster::ApiError;
use crate::plan::check::Checked;
use crate::plan::contract::{Disposition, ObjectId, Refusal};

/// Refused children of one primary.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// What the plans were for. Another object, spec or version of the plugin has none of these.
    purpose: Purpose,
    known: BTreeMap<ObjectId, Known>,
}

/// UID and generation of the primary, and the revision of the plugin's version.
pub(super) type Purpose = (String, i64, String);

#[derive(Debug)]
struct Known {
    /// Of the object as it was planned.
    digest: String,
    refusal: Refusal,
    /// It was sent in this reconcile.
    is_tried: bool,
}

impl Refusals {
    /// A reconcile begins.
    pub(super) fn begin(&mut self, purpose: Purpose) {
        if self.purpose != purpose {
            *self = Self { purpose, known: BTreeMap::new() };
        }
        self.known.values_mut().for_each(|known| known.is_tried = false);
    }

    /// For the plugin, sorted by object.
    pub(super) fn list(&self) -> Vec<Refusal> {
        self.known.values().map(|known| known.refusal.clone()).collect()
    }

    /// This is what is planned now; refusals of anything else are forgotten.
    pub(super) fn plan(&mut self, checked: &Checked) {
        let is_planned = |id: &ObjectId, known: &Known| {
            checked.children.iter().any(|desired| {
                desired.disposition != Disposition::Hold
                    && desired.digest == known.digest
                    && desired.reference.id() == *id
            })
        };
        self.known.retain(|id, known| is_planned(id, known));
    }

    /// Has the plugin seen that this child is refused in these words?
    pub(super) fn knows(&self, refused: &Refused) -> bool {
        let Refused { digest, refusal } = refused;
        self.known.get(&refusal.child.id()).is_some_and(|known| known.digest == *digest && known.refusal == *refusal)
    }

    /// A child was refused.
    pub(super) fn note(&mut self, Refused { digest, refusal }: Refused) {
        self.known.insert(refusal.child.id(), Known { digest, refusal, is_tried: true });
    }

    /// A child was taken.
    pub(super) fn taken(&mut self, child: &ObjectId) {
        self.known.remove(child);
    }

    /// Why this object was refused a moment ago, in this reconcile.
    pub(super) fn tried(&self, child: &ObjectId, digest: &str) -> Option<&Refusal> {
        let known = self.known.get(child).filter(|known| known.is_tried && known.digest == digest);
        known.map(|known| &known.refusal)
    }
}

/// A child that was refused, and the digest of what was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) digest: String,
    pub(super) refusal: Refusal,
}

/// Is this the API server's word about the object that was sent? An API server that cannot be reached, or is busy, says
/// nothing of it.
pub(super) fn is_about_object(error: &ApiError) -> bool {
    match error {
        ApiError::NotServed(_) => true,
        ApiError::Status { code, .. } => !matches!(code, 0 | 408 | 409 | 429 | 502..=504),
        _ => false,
    }
}

/// Sending the same object again does not help: somebody has to change it, or what the cluster allows.
pub(super) fn is_final(error: &ApiError) -> bool {
    match error {
        ApiError::NotServed(_) => true,
        // a namespace that is being deleted makes room for the next one
        ApiError::Status { code: 400 | 401 | 403 | 405 | 413 | 415 | 422, message, .. } => {
            !message.contains("is being terminated")
        }
        error => is_schema_error(error),
    }
}

/// A field that the kind's schema does not have, or a list with one key twice, is an internal error to server-side apply
/// (`k8s.io/apimachinery/pkg/util/managedfields`: "failed to create typed patch object").
pub(super) fn is_schema_error(error: &ApiError) -> bool {
    matches!(error, ApiError::Status { code: 500, message, .. } if message.contains("typed patch object"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rstest::rstest;
    use serde_json::{Map, Value};

    use super::*;
    use crate::plan::check::Desired;
    use crate::plan::contract::{ObjectRef, TypeMeta};

    fn reference(api_version: &str) -> ObjectRef {
        ObjectRef { kind: TypeMeta::new(api_version, "K"), namespace: "n".into(), name: "a".into() }
    }

    fn refusal(message: &str) -> Refusal {
        Refusal { child: reference("g/v1"), reason: "ApplyFailed".into(), message: message.into(), is_final: true }
    }

    fn refused(message: &str) -> Refused {
        Refused { digest: "d".into(), refusal: refusal(message) }
    }

    fn checked(digest: &str, disposition: Disposition) -> Checked {
        let desired = Desired {
            reference: reference("g/v2"),
            body: Value::Null,
            digest: digest.into(),
            disposition,
            keep: false,
            adopt: false,
            replace: false,
            set_once: vec![],
        };
        Checked {
            children: vec![Arc::new(desired)],
            status: Map::new(),
            conditions: vec![],
            events: vec![],
            calls: vec![],
            requeue_after_ms: None,
            finalized: false,
        }
    }

    fn purpose(generation: i64) -> Purpose {
        ("u".into(), generation, "r".into())
    }

    #[test]
    fn the_plugin_sees_a_refusal_once_and_it_is_sent_again_in_the_next_reconcile() {
        let mut refusals = Refusals::default();
        refusals.begin(purpose(1));
        assert!(!refusals.knows(&refused("no")));
        refusals.note(refused("no"));
        assert_eq!(refusals.list(), [refusal("no")]);
        refusals.plan(&checked("d", Disposition::Apply));
        assert_eq!(refusals.tried(&reference("g/v3").id(), "d"), Some(&refusal("no")), "whatever the version");
        assert_eq!(refusals.tried(&reference("g/v3").id(), "e"), None);
        refusals.begin(purpose(1));
        assert_eq!(refusals.tried(&reference("g/v1").id(), "d"), None);
        assert!(refusals.knows(&refused("no")), "the same words again");
        assert!(!refusals.knows(&refused("something else")));
        refusals.taken(&reference("g/v2").id());
        assert_eq!(refusals.list(), []);
    }

    #[rstest]
    #[case::another_object(checked("e", Disposition::Apply))]
    #[case::held(checked("d", Disposition::Hold))]
    fn what_is_planned_otherwise_was_not_refused(#[case] plan: Checked) {
        let mut refusals = Refusals::default();
        refusals.begin(purpose(1));
        refusals.note(refused("no"));
        refusals.plan(&plan);
        assert_eq!(refusals.list(), []);
    }

    #[test]
    fn another_spec_begins_without_refusals() {
        let mut refusals = Refusals::default();
        refusals.begin(purpose(1));
        refusals.note(refused("no"));
        refusals.begin(purpose(2));
        assert_eq!(refusals.list(), []);
    }

    fn status(code: u16, message: &str) -> ApiError {
        ApiError::Status { code, reason: String::new(), message: message.into(), retry_after: None }
    }

    #[rstest]
    #[case::quota(status(403, "exceeded quota: q"), true, true)]
    #[case::invalid(status(422, "spec.replicas: Invalid value"), true, true)]
    #[case::twice(status(500, "failed to create typed patch object (…): duplicate entries for key"), true, true)]
    #[case::not_served(ApiError::NotServed(TypeMeta::new("g/v1", "K")), true, true)]
    #[case::namespace_goes(
        status(403, "unable to create new content in namespace n because it is being terminated"),
        true,
        false
    )]
    #[case::webhook_is_down(status(500, "failed calling webhook \"w\": connection refused"), true, false)]
    #[case::no_namespace(status(404, "namespaces \"n\" not found"), true, false)]
    #[case::busy(status(429, "too many requests"), false, false)]
    #[case::restarting(status(503, "unavailable"), false, false)]
    fn errors_are_about_the_object_or_not(#[case] error: ApiError, #[case] about: bool, #[case] is_final: bool) {
        assert_eq!((is_about_object(&error), super::is_final(&error)), (about, is_final));
    }
}
