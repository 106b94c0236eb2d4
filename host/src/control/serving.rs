//! Which version of a plugin serves which object. One version does, except while a new one is let in step by step, and for
//! objects that are pinned.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::controller::Active;
use crate::api::plugin::Plugin;
use crate::api::rollout::{RolloutStatus, RolloutStep};
use crate::lookup::Selector;
use crate::plan::contract::TypeMeta;
use crate::plan::object::Object;

/// The versions of one plugin that are loaded.
pub struct Serving {
    /// Serves whatever no other does.
    pub stable: Arc<Active>,
    /// A new version, and its part of the objects.
    pub canary: Option<(Arc<Active>, Share)>,
    /// Versions that only objects with their digest in the annotation have.
    pub pinned: Vec<Arc<Active>>,
    /// They answer webhooks only: another replica reconciles.
    pub stands_by: bool,
}

/// What serves one object.
pub enum Chosen {
    /// This version.
    Version(Arc<Active>),
    /// The object is pinned to a version that is not loaded. It stays as it is.
    Missing,
}

impl Serving {
    /// One version for all objects.
    #[must_use]
    pub fn all(active: Arc<Active>) -> Self {
        Self { stable: active, canary: None, pinned: Vec::new(), stands_by: false }
    }

    /// What serves an object: the same for the same object and the same step, in every process.
    #[must_use]
    pub fn choose(&self, kind: &TypeMeta, primary: &Object) -> Chosen {
        if let Some(pin) = primary.pin.as_deref() {
            let canary = self.canary.iter().map(|(active, _)| active);
            let mut loaded = std::iter::once(&self.stable).chain(canary).chain(&self.pinned);
            return match loaded.find(|active| active.digest == pin) {
                Some(active) if active.serves(kind) => Chosen::Version(active.clone()),
                // without a component only deletions are served, and those of all objects
                _ if primary.deleting || self.stable.plugin.is_none() => Chosen::Version(self.stable.clone()),
                _ => Chosen::Missing,
            };
        }
        match &self.canary {
            Some((active, share)) if active.serves(kind) && share.has(primary) => Chosen::Version(active.clone()),
            _ => Chosen::Version(self.stable.clone()),
        }
    }
}

/// Version and digest of what serves an object, from the record alone: for those who are not the host. The version of a pin
/// is known only where the history has it.
#[must_use]
pub fn of_record(record: &Plugin, primary: &Object) -> (Option<String>, Option<String>) {
    let status = record.status.clone().unwrap_or_default();
    let on_its_way = status.rollout.filter(RolloutStatus::serves);
    if let Some(pin) = primary.pin.as_deref() {
        let serving = (status.digest, status.version);
        let canary = on_its_way.map(|attempt| (Some(attempt.digest), Some(attempt.version)));
        let before = status.history.into_iter().map(|entry| (Some(entry.digest), Some(entry.version)));
        let mut known = std::iter::once(serving).chain(canary).chain(before);
        let version = known.find(|(digest, _)| digest.as_deref() == Some(pin)).and_then(|(_, version)| version);
        return (version, Some(pin.to_owned()));
    }
    let steps = &record.spec.rollout.steps;
    let has = |attempt: &RolloutStatus| Share::until(steps, attempt.step).is_ok_and(|share| share.has(primary));
    match on_its_way.filter(has) {
        Some(attempt) => (Some(attempt.version), Some(attempt.digest)),
        None => (status.version, status.digest),
    }
}

/// A part of the objects: those of any of its steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share(Vec<(u32, Selector)>);

impl Share {
    /// The objects of these steps together.
    ///
    /// # Errors
    /// The first label selector that cannot be understood.
    pub fn of(steps: &[RolloutStep]) -> Result<Self, String> {
        let one = |step: &RolloutStep| {
            let text = step.label_selector.as_deref().unwrap_or_default();
            let selector = Selector::parse(text).ok_or_else(|| text.to_owned())?;
            Ok((u32::from(step.percent.unwrap_or(100)) * 100, selector))
        };
        steps.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// The objects of the steps up to this one; of all where there are fewer by now.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn until(steps: &[RolloutStep], step: u32) -> Result<Self, String> {
        Self::of(steps.get(..step as usize).unwrap_or(steps))
    }

    /// Is this object part of it?
    #[must_use]
    pub fn has(&self, object: &Object) -> bool {
        let place = place(&object.uid);
        let mut labels = None;
        self.0.iter().any(|(share, selector)| {
            place < *share && (selector.is_empty() || selector.matches(labels.get_or_insert_with(|| labels_of(object))))
        })
    }
}

/// From 0 to 9,999: where an object stands, whatever its plugin. Shares grow from 0 up, so that each step keeps the
/// objects of the steps before.
fn place(uid: &str) -> u32 {
    let hash = Sha256::digest(uid.as_bytes());
    let number = hash.iter().take(4).fold(0u32, |number, byte| number << 8 | u32::from(*byte));
    number % 10_000
}

fn labels_of(object: &Object) -> Vec<(String, String)> {
    let value = object.value();
    let labels = value.pointer("/metadata/labels").and_then(serde_json::Value::as_object);
    let text = |(name, value): (&String, &serde_json::Value)| Some((name.clone(), value.as_str()?.to_owned()));
    labels.into_iter().flatten().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(uid: &str, tier: &str) -> Object {
        let text = format!(r#"{{"metadata":{{"name":"a","uid":"{uid}","labels":{{"tier":"{tier}"}}}}}}"#);
        Object::parse(&text).unwrap()
    }

    fn step(percent: Option<u8>, selector: Option<&str>) -> RolloutStep {
        RolloutStep { percent, label_selector: selector.map(Into::into), bake_seconds: 1 }
    }

    fn uids() -> impl Iterator<Item = String> {
        (0..2_000).map(|i| format!("0b1f7a52-0000-4000-8000-{i:012}"))
    }

    #[test]
    fn a_share_is_about_as_large_as_it_says_and_only_grows() {
        let sizes: Vec<(u8, usize)> = [0, 1, 10, 50, 100]
            .map(|percent| {
                let share = Share::of(&[step(Some(percent), None)]).unwrap();
                (percent, uids().filter(|uid| share.has(&object(uid, "dev"))).count())
            })
            .into();
        for (percent, size) in &sizes {
            let expected = usize::from(*percent) * 20;
            assert!(size.abs_diff(expected) <= 20 + expected / 10, "{percent} % of 2,000 are {size}");
        }
        let (small, large) = (Share::of(&[step(Some(10), None)]).unwrap(), Share::of(&[step(Some(50), None)]).unwrap());
        assert!(uids().map(|uid| object(&uid, "dev")).all(|object| !small.has(&object) || large.has(&object)));
    }

    #[test]
    fn steps_add_up_and_labels_restrict_a_step() {
        let share = Share::of(&[step(None, Some("tier=dev")), step(Some(10), Some("tier in (test)"))]).unwrap();
        assert!(uids().all(|uid| share.has(&object(&uid, "dev"))));
        assert!(!uids().any(|uid| share.has(&object(&uid, "live"))));
        let tested = uids().filter(|uid| share.has(&object(uid, "test"))).count();
        assert!((150..250).contains(&tested), "{tested}");
    }

    #[test]
    fn a_selector_that_is_not_understood_is_named() {
        assert_eq!(Share::of(&[step(None, None), step(None, Some("a near (b)"))]), Err("a near (b)".into()));
    }

    #[test]
    fn what_serves_an_object_can_be_told_from_the_record() {
        let record = |state: &str| -> Plugin {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "transom.dev/v1alpha1", "kind": "Plugin", "metadata": {"name": "p"},
                "spec": {"source": {"file": {"path": "/p"}}, "digest": "sha256:new", "rollout": {"steps": [
                    {"labelSelector": "tier=dev", "bakeSeconds": 1}, {"percent": 100, "bakeSeconds": 1}]}},
                "status": {"digest": "sha256:old", "version": "1", "rollout": {"id": "x", "revision": "r",
                    "digest": "sha256:new", "version": "2", "state": state, "step": 1, "steps": 2},
                    "history": [{"digest": "sha256:older", "version": "0"}]},
            }))
            .unwrap()
        };
        let told = |state: &str, object: &Object| {
            let (version, digest) = of_record(&record(state), object);
            (version.unwrap_or_default(), digest.unwrap())
        };
        let pair = |version: &str, digest: &str| (version.to_owned(), format!("sha256:{digest}"));
        assert_eq!(told("Baking", &object("u", "dev")), pair("2", "new"));
        assert_eq!(told("Baking", &object("u", "live")), pair("1", "old"));
        assert_eq!(told("RolledBack", &object("u", "dev")), pair("1", "old"));
        let pinned = |digest: &str| Object { pin: Some(format!("sha256:{digest}").into()), ..object("u", "dev") };
        assert_eq!(told("Baking", &pinned("older")), pair("0", "older"));
        assert_eq!(told("Baking", &pinned("nobody")), pair("", "nobody"));
    }

    #[test]
    fn nobody_is_part_of_no_steps() {
        assert!(!uids().any(|uid| Share::default().has(&object(&uid, "dev"))));
    }
}
