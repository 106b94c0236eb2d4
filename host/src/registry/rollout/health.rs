//! How the objects of a new version fare, from their own conditions: what got worse since it serves them.
//!
//! The time at which a condition flips is kept by the API server, so nothing has to be remembered over a restart of the
//! host: what flipped before the step began was so before.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::names;
use crate::api::rollout::Gates;
use crate::plan::object::Object;

/// Reasons of `Synced` that speak of the API server or of another owner rather than of the version: a failure that may be
/// over in a second. They count when they last.
const PASSING: [&str; 6] =
    ["ApplyFailed", "PruneFailed", "StatusFailed", "ChildConflict", "PluginUnavailable", "Unstable"];

/// A passing failure counts after this many seconds.
const LASTS_SECONDS: i64 = 30;

/// The part of a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::registry) struct Health {
    /// How many objects it serves.
    pub(in crate::registry) objects: usize,
    /// Those that it has not looked at yet.
    pub(in crate::registry) pending: usize,
    /// Those that fail and did not: what they are, and why.
    pub(in crate::registry) failed: Vec<String>,
    /// Those that were Ready and are not.
    pub(in crate::registry) not_ready: Vec<String>,
}

impl Health {
    /// More objects fail than may, for people.
    pub(super) fn failure(&self, gates: &Gates) -> Option<String> {
        let (n, of, most) = (self.failed.len(), self.objects, gates.max_failed);
        let first = self.failed.first()?;
        (n as u64 > u64::from(most)).then(|| format!("{n} of {of} objects fail, {most} may, first {first}"))
    }

    /// More objects have lost Ready than may, for people.
    pub(super) fn loss(&self, gates: &Gates) -> Option<String> {
        let (n, of, most) = (self.not_ready.len(), self.objects, gates.max_not_ready);
        let first = self.not_ready.first()?;
        let text = || format!("{n} of {of} objects were Ready and are not, {most} may, first {first}");
        (n as u64 > u64::from(most)).then(text)
    }
}

/// What got worse with one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Worse {
    /// It fails.
    Failed(String),
    /// It is no longer Ready, and does not fail.
    NotReady(String),
}

/// What got worse with an object since the step began.
pub(in crate::registry) fn worse(object: &Object, since: Timestamp, now: Timestamp) -> Option<Worse> {
    let value = object.value();
    let find = |kind: &str| {
        let conditions = value.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().find(|c| c.get("type").and_then(Value::as_str) == Some(kind))
    };
    let text =
        |condition: &Value, field: &str| condition.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let time = |text: &str| text.parse::<Timestamp>().ok();
    let flipped = |condition: &Value| time(&text(condition, "lastTransitionTime")).filter(|at| *at >= since);
    let said = |condition: &Value| {
        let (reason, message) = (text(condition, "reason"), text(condition, "message"));
        format!("{}/{}: {reason}: {}", object.namespace, object.name, crate::plan::check::shorten(&message, 200))
    };
    if let Some(synced) = find(names::SYNCED).filter(|synced| text(synced, "status") == "False")
        && let Some(at) = flipped(synced)
    {
        let passing = PASSING.contains(&text(synced, "reason").as_str());
        let lasts = now.duration_since(at).as_secs() >= LASTS_SECONDS;
        return (!passing || lasts).then(|| Worse::Failed(said(synced)));
    }
    let made = value.pointer("/metadata/creationTimestamp").and_then(Value::as_str).and_then(time);
    // one that was made since was never Ready with the version before
    if made.is_some_and(|made| made >= since) {
        return None;
    }
    let ready = find(names::READY).filter(|ready| text(ready, "status") != "True")?;
    flipped(ready).map(|_| Worse::NotReady(said(ready)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn object(made: i64, synced: (&str, &str, i64), ready: (&str, i64)) -> Object {
        let time = |seconds: i64| Timestamp::from_second(seconds).unwrap().to_string();
        let object = json!({
            "metadata": {"name": "a", "namespace": "n", "creationTimestamp": time(made)},
            "status": {"conditions": [
                {"type": "Ready", "status": ready.0, "reason": "R", "message": "m", "lastTransitionTime": time(ready.1)},
                {"type": "Synced", "status": synced.0, "reason": synced.1, "message": "m",
                    "lastTransitionTime": time(synced.2)},
            ]},
        });
        Object::parse(&object.to_string()).unwrap()
    }

    fn failed(reason: &str) -> Option<Worse> {
        Some(Worse::Failed(format!("n/a: {reason}: m")))
    }

    #[rstest]
    #[case::well(object(0, ("True", "Applied", 50), ("True", 50)), None)]
    #[case::was_so(object(0, ("False", "PluginTrapped", 99), ("False", 99)), None)]
    #[case::traps(object(0, ("False", "PluginTrapped", 100), ("True", 50)), failed("PluginTrapped"))]
    #[case::a_moment(object(0, ("False", "ApplyFailed", 110), ("True", 50)), None)]
    #[case::lasts(object(0, ("False", "ApplyFailed", 100), ("True", 50)), failed("ApplyFailed"))]
    #[case::not_ready(object(0, ("True", "Applied", 50), ("False", 100)), Some(Worse::NotReady("n/a: R: m".into())))]
    #[case::never_was(object(100, ("True", "Applied", 100), ("False", 100)), None)]
    #[case::new_and_failing(object(100, ("False", "PluginTrapped", 100), ("Unknown", 100)), failed("PluginTrapped"))]
    fn what_flipped_since_the_step_began_counts(#[case] object: Object, #[case] expected: Option<Worse>) {
        let [since, now] = [100, 135].map(|seconds| Timestamp::from_second(seconds).unwrap());
        assert_eq!(worse(&object, since, now), expected);
    }

    #[test]
    fn an_object_without_a_status_is_not_worse() {
        let object = Object::parse(r#"{"metadata":{"name":"a"}}"#).unwrap();
        assert_eq!(worse(&object, Timestamp::UNIX_EPOCH, Timestamp::now()), None);
    }
}
