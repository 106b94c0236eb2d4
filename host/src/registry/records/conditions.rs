//! What the status of a `Plugin` says.
//!
//! `Ready` is about what serves: True while a version serves all objects, whichever it is. `Progressing` is about the version
//! in the spec: whether it is on its way, is complete, or why it is neither. `Reconciling` and `Stalled` say the same to tools
//! that follow kstatus, which look at nothing else beside `Ready`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::stored::name_of;
use super::{declare, fitting, is_same, now, remember};
use crate::api::names::{PROGRESSING, READY, RECONCILING, STALLED, STORED};
use crate::api::plugin::{Phase, Plugin, PluginStatus};
use crate::api::rollout::{HistoryEntry, NOT_LOADABLE, REPLACED, RolloutState, RolloutStatus, VersionSpec};
use crate::control::controller::Active;
use crate::registry::load::{LoadFailure, STEPS};
use crate::telemetry::metrics;
use crate::webhook;

/// What serves the objects that no version on its way has.
#[derive(Clone, Copy)]
pub(super) enum Base<'a> {
    /// This version.
    Version(&'a Active),
    /// None: the version that did cannot be loaded.
    Lost(&'a LoadFailure),
    /// None has ever done.
    None,
}

/// Type, status, reason, message.
type Said = (&'static str, &'static str, &'static str, String);

/// Condition and event reason of a version on its way.
pub(super) fn reason_of(state: RolloutState) -> &'static str {
    match state {
        RolloutState::Held => "PlanHeld",
        RolloutState::Waiting => "ApprovalNeeded",
        RolloutState::Baking => "Canary",
        RolloutState::Paused => "Paused",
        RolloutState::RolledBack => "RolledBack",
        RolloutState::Aborted => "Aborted",
    }
}

/// A version serves all objects.
pub(super) fn loaded(before: &PluginStatus, plugin: &Plugin, active: &Active) -> PluginStatus {
    let mut status = before.clone();
    let wanted = VersionSpec::of(&plugin.spec);
    let revision = wanted.revision();
    let old_revision = before.serving.as_ref().map(VersionSpec::revision).unwrap_or_default();
    let is_swap =
        if old_revision.is_empty() { before.digest.as_ref() != Some(&active.digest) } else { old_revision != revision };
    // one that was lost serves again, or was replaced after all
    status.history.retain(|entry| entry.reason != NOT_LOADABLE || !is_same(entry, &revision, &active.digest));
    for entry in status.history.iter_mut().filter(|entry| entry.reason == NOT_LOADABLE) {
        entry.reason = REPLACED.into();
        entry.message = format!("by version {}; {}", active.manifest.version, entry.message);
    }
    if let (Some(digest), Some(version), true) = (&before.digest, &before.version, is_swap) {
        status.history.retain(|entry| !is_same(entry, &revision, &active.digest));
        let entry = HistoryEntry {
            digest: digest.clone(),
            version: version.clone(),
            revision: old_revision,
            reason: REPLACED.into(),
            message: format!("by version {}", active.manifest.version),
            at: Some(Time(now())),
            spec: before.serving.clone().and_then(fitting),
        };
        remember(&mut status.history, entry);
    }
    declare(&mut status, before, active);
    status.phase = Phase::Ready;
    status.serving = Some(wanted);
    status.rollout = None;
    // one of another version would be taken for that of this one
    status.plan = before.plan.clone().filter(|plan| plan.revision == revision);
    status.observed_generation = plugin.metadata.generation;
    let ready = serves(&mut status, active);
    let steps = STEPS.map(|step| (step, "True", "Done", String::new()));
    let complete = format!("version {} serves all objects", active.manifest.version);
    let progressing = (PROGRESSING, "False", "Complete", complete);
    status.conditions = conditions(before, plugin, steps.into_iter().chain([ready, progressing]));
    status
}

/// Notes what serves.
fn serves(status: &mut PluginStatus, active: &Active) -> Said {
    status.kinds =
        active.primary_watches.iter().map(|watch| format!("{}.{}", watch.kind.kind, watch.kind.group())).collect();
    status.digest = Some(active.digest.clone());
    status.version = Some(active.manifest.version.clone());
    let message = format!("version {} serves {}", active.manifest.version, status.kinds.join(", "));
    (READY, "True", "Serving", message)
}

/// Notes that nothing serves, and why.
fn nothing_serves(status: &mut PluginStatus, lost: &LoadFailure, reason: &'static str) -> Said {
    let LoadFailure { reason: why, message, .. } = lost;
    if let (Some(digest), Some(version)) = (status.digest.take(), status.version.take()) {
        let spec = status.serving.clone();
        let entry = HistoryEntry {
            digest,
            version,
            revision: spec.as_ref().map(VersionSpec::revision).unwrap_or_default(),
            reason: NOT_LOADABLE.into(),
            message: format!("{why}: {message}"),
            at: Some(Time(now())),
            spec: spec.and_then(fitting),
        };
        remember(&mut status.history, entry);
    }
    status.kinds = Vec::new();
    let name = status.history.iter().find(|entry| entry.reason == NOT_LOADABLE);
    let name = name_of(name.map(|entry| entry.version.as_str()), name.map(|entry| entry.digest.as_str()));
    let message = format!(
        "nothing serves, and objects stay as they are, except that they can be deleted: {name} cannot be loaded: {why}: {message}"
    );
    (READY, "False", reason, message)
}

/// `Ready`, beside a version in the spec that does not serve all objects.
fn ready(status: &mut PluginStatus, base: Base<'_>) -> Said {
    match base {
        Base::Version(active) => serves(status, active),
        Base::Lost(lost) => nothing_serves(status, lost, "ServingVersionMissing"),
        Base::None => (READY, "False", "NotServing", "no version has served yet".into()),
    }
}

/// For messages about another version.
fn still(base: Base<'_>) -> String {
    match base {
        Base::Version(active) => format!("; version {} is still serving", active.manifest.version),
        Base::Lost(_) | Base::None => String::new(),
    }
}

/// A version that was loaded and does not serve all objects.
pub(super) fn on_its_way(
    before: &PluginStatus,
    plugin: &Plugin,
    attempt: RolloutStatus,
    base: Base<'_>,
) -> PluginStatus {
    let mut status = before.clone();
    status.phase = match attempt.state {
        RolloutState::Held | RolloutState::Waiting | RolloutState::Paused => Phase::Waiting,
        RolloutState::Baking => Phase::Canary,
        RolloutState::RolledBack | RolloutState::Aborted => Phase::RolledBack,
    };
    status.observed_generation = plugin.metadata.generation;
    let steps = STEPS.map(|step| {
        if step == "Installed" && attempt.step == 0 {
            (step, "Unknown", "NotReached", String::new())
        } else {
            (step, "True", "Done", String::new())
        }
    });
    let ready = ready(&mut status, base);
    let (reason, message) = (reason_of(attempt.state), format!("{}{}", attempt.message, still(base)));
    // a person who has to approve is part of the policy, one who has to decide what becomes of a failure is not
    let goes_on = matches!(attempt.state, RolloutState::Waiting | RolloutState::Baking);
    let progressing = (PROGRESSING, if goes_on { "True" } else { "False" }, reason, message.clone());
    let kstatus = (if goes_on { RECONCILING } else { STALLED }, "True", reason, message);
    status.conditions = conditions(before, plugin, steps.into_iter().chain([ready, progressing, kstatus]));
    status.rollout = Some(attempt);
    status
}

/// The version in the spec cannot be loaded.
pub(super) fn failed(before: &PluginStatus, plugin: &Plugin, failure: &LoadFailure, base: Base<'_>) -> PluginStatus {
    let mut status = before.clone();
    status.phase = Phase::Failed;
    status.observed_generation = plugin.metadata.generation;
    let mut reached = true;
    let mut said = Vec::new();
    for step in STEPS {
        if step == failure.step {
            reached = false;
            said.push((step, "False", failure.reason, failure.message.clone()));
        } else if reached {
            said.push((step, "True", "Done", String::new()));
        } else {
            said.push((step, "Unknown", "NotReached", String::new()));
        }
    }
    let wanted = VersionSpec::of(&plugin.spec).revision();
    let is_wanted = before.serving.as_ref().is_some_and(|serving| serving.revision() == wanted);
    said.push(match base {
        Base::None => (READY, "False", failure.reason, failure.message.clone()),
        Base::Lost(lost) if is_wanted => nothing_serves(&mut status, lost, lost.reason),
        base => ready(&mut status, base),
    });
    if let Some(attempt) = status.rollout.as_mut().filter(|attempt| attempt.serves()) {
        (attempt.objects, attempt.message) = (0, format!("cannot be loaded: {}", failure.message));
    }
    let message = format!("{}{}", failure.message, still(base));
    said.push((PROGRESSING, "False", failure.reason, message.clone()));
    said.push((if failure.transient { RECONCILING } else { STALLED }, "True", failure.reason, message));
    status.conditions = conditions(before, plugin, said.into_iter());
    status
}

/// These conditions, and those as they were that are about something else.
fn conditions(before: &PluginStatus, plugin: &Plugin, said: impl Iterator<Item = Said>) -> Vec<Condition> {
    let others = [webhook::CONDITION, STORED];
    let others = before.conditions.iter().filter(|condition| others.contains(&condition.type_.as_str())).cloned();
    of(before, plugin, said).into_iter().chain(others).collect()
}

/// Conditions with their times.
pub(super) fn of(before: &PluginStatus, plugin: &Plugin, said: impl Iterator<Item = Said>) -> Vec<Condition> {
    let now = now();
    said.map(|(type_, status, reason, message)| Condition {
        last_transition_time: before
            .conditions
            .iter()
            .find(|c| c.type_ == type_ && c.status == status)
            .map_or(Time(now), |c| c.last_transition_time.clone()),
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message,
        observed_generation: plugin.metadata.generation,
    })
    .collect()
}

/// Puts the condition about what is stored in place.
pub(super) fn set_stored(
    status: &mut PluginStatus,
    plugin: &Plugin,
    stored: Option<&(&'static str, &'static str, String)>,
) {
    let Some((is_stored, reason, message)) = stored else { return };
    let said = (STORED, *is_stored, *reason, message.clone());
    let condition = of(status, plugin, [said].into_iter());
    match status.conditions.iter_mut().find(|condition| condition.type_ == STORED) {
        Some(there) => condition.into_iter().for_each(|one| *there = one),
        None => status.conditions.extend(condition),
    }
}

/// The same as metrics.
pub(super) fn count(plugin: &str, status: &PluginStatus) {
    let find = |type_: &str| status.conditions.iter().find(|condition| condition.type_ == type_);
    let is_ready = find(READY).is_some_and(|ready| ready.status == "True");
    let is_up_to_date = find(PROGRESSING).is_some_and(|progressing| progressing.reason == "Complete");
    metrics().plugin_ready(plugin, is_ready, is_up_to_date);
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn failure(reason: &'static str, transient: bool) -> LoadFailure {
        LoadFailure { step: "Fetched", reason, message: "why".into(), transient }
    }

    /// Asks for version `wanted`; version a has served.
    fn plugin(wanted: &str) -> Plugin {
        let spec = |digest: &str| json!({ "source": { "file": { "path": "/p.wasm" } }, "digest": digest });
        serde_json::from_value(json!({
            "apiVersion": "transom.dev/v1alpha1", "kind": "Plugin", "metadata": { "name": "web", "generation": 2 },
            "spec": spec(wanted),
            "status": { "serving": spec("a"), "digest": "a", "version": "1.0.0", "kinds": ["Web.bench.dev"] },
        }))
        .unwrap()
    }

    fn said(status: &PluginStatus, type_: &str) -> Value {
        let condition = status.conditions.iter().find(|condition| condition.type_ == type_);
        condition.map_or(Value::Null, |condition| json!([condition.status, condition.reason]))
    }

    #[rstest]
    #[case::may_get_better("Unavailable", true, RECONCILING, STALLED)]
    #[case::will_not("InvalidConfig", false, STALLED, RECONCILING)]
    fn a_version_that_cannot_be_loaded_is_said_to_kstatus(
        #[case] reason: &'static str,
        #[case] transient: bool,
        #[case] there: &str,
        #[case] absent: &str,
    ) {
        let plugin = plugin("b");
        let before = plugin.status.clone().unwrap();
        let status = failed(&before, &plugin, &failure(reason, transient), Base::None);
        assert_eq!(said(&status, PROGRESSING), json!(["False", reason]));
        assert_eq!((said(&status, there), said(&status, absent)), (json!(["True", reason]), Value::Null));
        assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(2)));
    }

    #[rstest]
    #[case::it_is_wanted("a", "NotFound")]
    #[case::another_is_wanted("b", "ServingVersionMissing")]
    fn nothing_is_said_to_serve_that_is_not_loaded(#[case] wanted: &str, #[case] reason: &str) {
        let (plugin, lost) = (plugin(wanted), failure("NotFound", true));
        let before = plugin.status.clone().unwrap();
        let status = failed(&before, &plugin, &lost, Base::Lost(&lost));
        assert_eq!(said(&status, READY), json!(["False", reason]));
        assert_eq!((&status.version, &status.digest, status.kinds.len()), (&None, &None, 0));
        assert_eq!(status.serving, before.serving, "the host goes on with it when it can");
        let [entry] = status.history.as_slice() else { unreachable!("{:?}", status.history) };
        assert_eq!((entry.version.as_str(), entry.reason.as_str()), ("1.0.0", NOT_LOADABLE));
        // and once only
        let again = failed(&status, &plugin, &lost, Base::Lost(&lost));
        assert_eq!(again, status);
    }

    #[rstest]
    #[case(RolloutState::Waiting, "True", "ApprovalNeeded", RECONCILING)]
    #[case(RolloutState::Baking, "True", "Canary", RECONCILING)]
    #[case(RolloutState::Held, "False", "PlanHeld", STALLED)]
    #[case(RolloutState::Paused, "False", "Paused", STALLED)]
    #[case(RolloutState::RolledBack, "False", "RolledBack", STALLED)]
    #[case(RolloutState::Aborted, "False", "Aborted", STALLED)]
    fn a_rollout_goes_on_or_waits_for_a_decision(
        #[case] state: RolloutState,
        #[case] progressing: &str,
        #[case] reason: &str,
        #[case] kstatus: &str,
    ) {
        let plugin = plugin("b");
        let attempt = json!({ "id": "i", "revision": "r", "digest": "b", "version": "2.0.0", "state": "Held", "step": 1, "steps": 2 });
        let attempt = RolloutStatus { state, ..serde_json::from_value(attempt).unwrap() };
        let status = on_its_way(&plugin.status.clone().unwrap(), &plugin, attempt, Base::None);
        assert_eq!(said(&status, PROGRESSING), json!([progressing, reason]));
        assert_eq!(said(&status, kstatus), json!(["True", reason]));
    }

    #[test]
    fn what_is_stored_stays_said_whatever_else_is() {
        let plugin = plugin("b");
        let mut status = plugin.status.clone().unwrap();
        set_stored(&mut status, &plugin, Some(&("False", "TooLarge", "m".into())));
        let status = failed(&status, &plugin, &failure("NotFound", true), Base::None);
        assert_eq!(said(&status, STORED), json!(["False", "TooLarge"]));
        let mut again = status.clone();
        set_stored(&mut again, &plugin, Some(&("False", "TooLarge", "m".into())));
        assert_eq!(again, status, "nothing has changed");
    }
}
