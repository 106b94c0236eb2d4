//! The status of a primary: the plugin's fields and conditions, the host's `Synced` and `observedGeneration`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::contract::{Condition, Truth};
use super::{check, diff};
use crate::api::names;

/// How a reconcile ended, in the words of the condition `Synced`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// The API server has what the plugin asked for.
    pub status: Truth,
    /// Stable word.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Synced {
    /// Everything is as the plugin wants it.
    #[must_use]
    pub fn applied() -> Self {
        Self { status: Truth::True, reason: "Applied".into(), message: String::new() }
    }

    /// Something went wrong.
    pub fn failed(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: Truth::False, reason: reason.into(), message: message.into() }
    }
}

/// Reason of `Synced` and `Ready` when somebody has to change the object.
pub const INVALID: &str = "Invalid";

/// What a plugin has to say of an object's status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Own fields.
    pub fields: Map<String, Value>,
    /// Own conditions.
    pub conditions: Vec<Condition>,
}

impl Report {
    /// What a status says already, without what is the host's.
    #[must_use]
    pub fn of(status: &Map<String, Value>) -> Self {
        let own = |name: &&String| !matches!(name.as_str(), "conditions" | "observedGeneration");
        let fields = status.iter().filter(|(name, _)| own(name)).map(|(n, v)| (n.clone(), v.clone())).collect();
        let list = status.get("conditions").and_then(Value::as_array).into_iter().flatten();
        let known = list.filter_map(|condition| serde_json::from_value::<Condition>(condition.clone()).ok());
        let conditions = known.filter(|c| c.type_ != names::SYNCED && c.type_ != names::OVERLAY_APPLIED).collect();
        Self { fields, conditions }
    }

    /// With the fields, or conditions, of another report where this one has none.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        if self.fields.is_empty() {
            self.fields = other.fields;
        }
        if self.conditions.is_empty() {
            self.conditions = other.conditions;
        }
        self
    }

    /// Says that the object is not ready, whatever it said before.
    pub fn not_ready(&mut self, reason: &str, message: String) {
        self.conditions.retain(|condition| condition.type_ != names::READY);
        let (type_, reason) = (names::READY.to_owned(), reason.to_owned());
        self.conditions.push(Condition { type_, status: Truth::False, reason, message });
    }
}

/// The status as it should be. `live` is the status as it is, `now` RFC 3339 in seconds.
///
/// `Ready` is False, with the reason and message of the failure, when the reconcile failed: `kubectl wait` and Argo CD look
/// at nothing else. Without a report (the plugin could not be asked, or failed) everything else that the plugin said before
/// stays. `observedGeneration` then stays as well: those fields are of an older generation.
#[must_use]
pub fn next(live: &Map<String, Value>, generation: i64, report: Option<&Report>, synced: &Synced, now: &str) -> Value {
    let old = live.get("conditions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut status = match report {
        Some(report) => report.fields.clone(),
        None => live.iter().filter(|(name, _)| *name != "conditions").map(|(n, v)| (n.clone(), v.clone())).collect(),
    };
    let mut conditions: Vec<Value> = match report {
        Some(report) => report.conditions.iter().map(|c| condition(old, c, generation, now)).collect(),
        None => old.iter().filter(|c| type_of(c) != names::SYNCED).cloned().collect(),
    };
    let own = |type_: &str| {
        let Synced { status, reason, message } = synced.clone();
        condition(old, &Condition { type_: type_.into(), status, reason, message }, generation, now)
    };
    if synced.status != Truth::True {
        conditions.retain(|c| type_of(c) != names::READY);
        conditions.push(own(names::READY));
    }
    conditions.push(own(names::SYNCED));
    // kubectl and people read Ready first
    conditions.sort_by_key(|c| (type_of(c) != names::READY, type_of(c) != names::SYNCED));
    status.insert("conditions".into(), Value::Array(conditions));
    if report.is_some() || is_invalid(synced) {
        status.insert("observedGeneration".into(), Value::from(generation));
    }
    Value::Object(status)
}

fn is_invalid(synced: &Synced) -> bool {
    synced.reason == INVALID
}

fn type_of(condition: &Value) -> &str {
    condition.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The transition time of a condition that is a default of the schema and was never written.
const NEVER: &str = "1970-01-01T00:00:00Z";

/// A `metav1.Condition`; the transition time moves only when the status flips.
fn condition(old: &[Value], new: &Condition, generation: i64, now: &str) -> Value {
    let before = old.iter().find(|c| type_of(c) == new.type_);
    let time = before
        .filter(|c| c.get("status").and_then(Value::as_str) == Some(new.status.as_str()))
        .and_then(|c| c.get("lastTransitionTime").and_then(Value::as_str))
        .filter(|time| *time != NEVER)
        .unwrap_or(now);
    json!({
        "type": new.type_, "status": new.status.as_str(), "reason": new.reason, "message": new.message,
        "observedGeneration": generation, "lastTransitionTime": time,
    })
}

/// Does the status have to be written? `last` is the digest of what this process wrote last, if it did.
///
/// Others may have conditions of their own in the list, so containment is enough, unless something of ours has to go.
#[must_use]
pub fn differs(live: &Map<String, Value>, next: &Value, last: Option<&str>) -> bool {
    let live = Value::Object(live.clone());
    match last {
        Some(last) => last != check::digest(next) || !diff::drift(next, &live).is_empty(),
        None => live != *next,
    }
}

/// Is the difference one of words and numbers only: no condition flips, comes or goes, and both speak of the same
/// generation?
#[must_use]
pub fn is_progress(live: &Map<String, Value>, next: &Value) -> bool {
    let truths = |conditions: Option<&Value>| -> BTreeMap<String, Value> {
        let list = conditions.and_then(Value::as_array).into_iter().flatten();
        list.map(|c| (type_of(c).to_owned(), c.get("status").cloned().unwrap_or_default())).collect()
    };
    live.get("observedGeneration") == next.get("observedGeneration")
        && truths(live.get("conditions")) == truths(next.get("conditions"))
}

/// Is this a step on the way of an object that was not Ready and is not Ready yet?
#[must_use]
pub fn is_step(live: &Map<String, Value>, next: &Value) -> bool {
    let is_ready = |conditions: Option<&Value>| {
        let mut list = conditions.and_then(Value::as_array).into_iter().flatten();
        list.any(|c| type_of(c) == names::READY && c.get("status").and_then(Value::as_str) == Some("True"))
    };
    !is_ready(live.get("conditions")) && !is_ready(next.get("conditions"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(status: Truth, message: &str) -> Report {
        let condition = Condition { type_: "Ready".into(), status, reason: "R".into(), message: message.into() };
        Report { fields: [("replicas".to_owned(), json!(2))].into_iter().collect(), conditions: vec![condition] }
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    /// What is left of a deletion is known by the status alone: `cleanedUpBy` of a Domain.
    #[test]
    fn a_report_of_a_deletion_keeps_what_the_plugin_does_not_say_again() {
        let live = map(next(&Map::new(), 1, Some(&ready(Truth::True, "")), &Synced::applied(), "T1"));
        let mut report = Report::default().or(Report::of(&live));
        assert_eq!(report, ready(Truth::True, ""));
        report.not_ready("Terminating", "waiting for a".into());
        let after = next(&live, 1, Some(&report), &Synced::applied(), "T2");
        assert_eq!((&after["replicas"], &after["conditions"][0]["reason"]), (&json!(2), &json!("Terminating")));
        let other = Report { fields: Map::new(), ..ready(Truth::False, "own") };
        assert_eq!(other.clone().or(ready(Truth::True, "")).conditions, other.conditions);
    }

    #[test]
    fn what_the_schema_says_of_a_new_object_is_no_transition() {
        let pending = json!({"type": "Ready", "status": "Unknown", "reason": "Pending", "lastTransitionTime": NEVER});
        let live = map(json!({ "conditions": [pending] }));
        for report in [None, Some(&ready(Truth::Unknown, "a"))] {
            let next = next(&live, 1, report, &Synced::failed("Trap", "b"), "T1");
            assert_eq!(next["conditions"][0]["type"], "Ready");
            assert_eq!(next["conditions"][0]["lastTransitionTime"], "T1");
            assert_ne!(next["conditions"][0]["reason"], "Pending");
        }
    }

    #[test]
    fn transition_times_move_only_when_the_status_flips() {
        let first = next(&Map::new(), 1, Some(&ready(Truth::False, "a")), &Synced::applied(), "T1");
        let second = next(&map(first), 2, Some(&ready(Truth::False, "b")), &Synced::applied(), "T2");
        let third = next(&map(second.clone()), 2, Some(&ready(Truth::True, "b")), &Synced::applied(), "T3");
        let times = |status: &Value| -> Vec<String> {
            let list = status["conditions"].as_array().unwrap();
            list.iter().map(|c| c["lastTransitionTime"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(times(&second), ["T1", "T1"]);
        assert_eq!(times(&third), ["T3", "T1"]);
        assert_eq!(third["observedGeneration"], 2);
    }

    #[test]
    fn a_failing_call_leaves_what_the_plugin_said() {
        let before = next(&Map::new(), 1, Some(&ready(Truth::True, "")), &Synced::applied(), "T1");
        let after = next(&map(before), 2, None, &Synced::failed("PluginTrapped", "boom"), "T2");
        insta::assert_yaml_snapshot!(after);
    }

    #[test]
    fn an_unknown_ready_names_the_latest_failure() {
        let first = next(&Map::new(), 1, None, &Synced::failed("DeadlineExceeded", "slow"), "T1");
        let second = next(&map(first), 1, None, &Synced::failed("OutOfMemory", "big"), "T2");
        assert_eq!(second["conditions"][0]["reason"], "OutOfMemory");
        assert_eq!(second["conditions"][0]["lastTransitionTime"], "T1");
    }

    #[test]
    fn an_invalid_object_is_not_ready() {
        let before = next(&Map::new(), 1, Some(&ready(Truth::True, "")), &Synced::applied(), "T1");
        let after = next(&map(before), 2, None, &Synced::failed("Invalid", "spec.x: must be y"), "T2");
        assert_eq!(after["conditions"][0]["status"], "False");
        assert_eq!(after["conditions"][0]["message"], "spec.x: must be y");
    }

    #[test]
    fn a_step_neither_makes_nor_ends_readiness() {
        let status = |truth| map(next(&Map::new(), 1, Some(&ready(truth, "")), &Synced::applied(), "T1"));
        let is_step = |live: &Map<String, Value>, truth| super::is_step(live, &Value::Object(status(truth)));
        assert!(is_step(&Map::new(), Truth::False) && is_step(&status(Truth::Unknown), Truth::False));
        assert!(!is_step(&Map::new(), Truth::True) && !is_step(&status(Truth::True), Truth::False));
    }

    #[test]
    fn an_unchanged_status_is_not_written() {
        let status = next(&Map::new(), 1, Some(&ready(Truth::True, "")), &Synced::applied(), "T1");
        let again = next(&map(status.clone()), 1, Some(&ready(Truth::True, "")), &Synced::applied(), "T9");
        assert!(!differs(&map(status.clone()), &again, None));
        assert!(!differs(&map(status.clone()), &again, Some(&check::digest(&status))));
        let mut foreign = map(status.clone());
        foreign.insert("others".into(), json!(1));
        assert!(!differs(&foreign, &again, Some(&check::digest(&status))), "written by somebody else");
    }

    #[test]
    fn a_field_that_is_no_longer_set_is_removed() {
        let before = next(&Map::new(), 1, Some(&ready(Truth::True, "")), &Synced::applied(), "T1");
        let report = Report { fields: Map::new(), ..ready(Truth::True, "") };
        let after = next(&map(before.clone()), 1, Some(&report), &Synced::applied(), "T2");
        assert!(differs(&map(before.clone()), &after, Some(&check::digest(&before))));
        assert!(differs(&map(before), &after, None));
    }

    #[test]
    fn progress_is_what_flips_nothing() {
        let status = |generation, truth, message| {
            next(&Map::new(), generation, Some(&ready(truth, message)), &Synced::applied(), "T1")
        };
        let before = status(1, Truth::False, "1 of 2");
        assert!(is_progress(&map(before.clone()), &status(1, Truth::False, "2 of 2")));
        assert!(!is_progress(&map(before.clone()), &status(1, Truth::True, "2 of 2")));
        assert!(!is_progress(&map(before), &status(2, Truth::False, "2 of 2")));
        assert!(!is_progress(&Map::new(), &status(1, Truth::False, "1 of 2")));
    }
}
