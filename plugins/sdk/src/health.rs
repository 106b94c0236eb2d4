use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::bindings::transom::plugin::types::ObjectRef;
use crate::kind::group;

/// Whether an object does what it is for.
///
/// The rules are those of `kubectl rollout status` and of kstatus (kubernetes-sigs/cli-utils: `pkg/kstatus`), as far
/// as they can be told from `metadata` and `status`:
///
/// | kind | ready when |
/// |---|---|
/// | Deployment | all replicas are of the new template and available; when its pods are refused, that is the message |
/// | StatefulSet, DaemonSet | all replicas are of the new revision and ready |
/// | Job | it is complete |
/// | Pod | its condition `Ready` holds, or it succeeded |
/// | PersistentVolumeClaim | it is bound |
/// | Service of type LoadBalancer | it has an address; when the host shows no spec, and for other types, it exists |
/// | CustomResourceDefinition | it is established |
/// | any other | its condition `Ready` (or, for want of that, `Available`) holds; without either, it exists |
///
/// An object whose `status.observedGeneration` is behind `metadata.generation` is never ready: its status tells of an
/// older spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The gist.
    pub state: State,
    /// Stable CamelCase word, fit for a condition.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
}

/// The gist of a [`Health`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It does not exist (yet).
    Missing,
    /// It is on its way.
    Progressing,
    /// It does what it is for.
    Ready,
    /// It will not get there by itself.
    Failed,
}

impl Health {
    /// True when it does what it is for.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// True when it will not get there by itself.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.state == State::Failed
    }

    fn new(state: State, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { state, reason: reason.into(), message: message.into() }
    }

    pub(crate) fn missing() -> Self {
        Self::new(State::Missing, "Missing", "it does not exist yet")
    }

    pub(crate) fn of(which: &ObjectRef, json: &str) -> Self {
        let judged = match (group(&which.api_version), which.kind.as_str()) {
            ("apps", "Deployment") => judge(json, deployment),
            ("apps", "StatefulSet") => judge(json, stateful_set),
            ("apps", "DaemonSet") => judge(json, daemon_set),
            ("batch", "Job") => judge(json, job),
            ("", "Pod") => judge(json, pod),
            ("", "PersistentVolumeClaim") => judge(json, volume_claim),
            ("", "Service") => judge(json, service),
            ("apiextensions.k8s.io", "CustomResourceDefinition") => judge(json, definition),
            _ => judge(json, any),
        };
        judged.unwrap_or_else(|error| Self::new(State::Progressing, "Unreadable", error.to_string()))
    }
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "P: Deserialize<'de>, S: Deserialize<'de>"))]
struct Object<P, S> {
    metadata: Metadata,
    /// Not shown with `Delivery::Status`.
    spec: Option<P>,
    status: Option<S>,
}

#[derive(Deserialize)]
struct Metadata {
    generation: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Replicas {
    replicas: Option<i32>,
}

#[derive(Deserialize)]
struct NoSpec {}

#[derive(Deserialize)]
struct Seen<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    reason: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

/// A status that says which generation it is about.
trait About {
    fn observed_generation(&self) -> Option<i64>;
}

/// Parses as much as `rule` needs; what is behind its spec is progressing whatever the rule.
fn judge<'a, P: Deserialize<'a>, S: Deserialize<'a> + Default + About>(
    json: &'a str,
    rule: fn(Option<P>, S) -> Health,
) -> Result<Health, serde_json::Error> {
    let object: Object<P, S> = serde_json::from_str(json)?;
    let status = object.status.unwrap_or_default();
    if let (Some(wanted), Some(seen)) = (object.metadata.generation, status.observed_generation())
        && seen < wanted
    {
        return Ok(progressing("NotObserved", "its controller has not seen the new spec yet"));
    }
    Ok(rule(object.spec, status))
}

fn ready(reason: impl Into<String>, message: impl Into<String>) -> Health {
    Health::new(State::Ready, reason, message)
}

fn progressing(reason: impl Into<String>, message: impl Into<String>) -> Health {
    Health::new(State::Progressing, reason, message)
}

fn failed(reason: impl Into<String>, message: impl Into<String>) -> Health {
    Health::new(State::Failed, reason, message)
}

fn find<'s, 'a>(conditions: &'s [Seen<'a>], kind: &str) -> Option<&'s Seen<'a>> {
    conditions.iter().find(|condition| condition.kind == kind)
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Rollout<'a> {
    observed_generation: Option<i64>,
    replicas: i32,
    ready_replicas: i32,
    updated_replicas: i32,
    available_replicas: i32,
    unavailable_replicas: i32,
    current_revision: Option<Cow<'a, str>>,
    update_revision: Option<Cow<'a, str>>,
    #[serde(borrow)]
    conditions: Vec<Seen<'a>>,
}

impl About for Rollout<'_> {
    /// The controller always writes it: none means that it has not looked yet.
    fn observed_generation(&self) -> Option<i64> {
        Some(self.observed_generation.unwrap_or(0))
    }
}

fn deployment(spec: Option<Replicas>, status: Rollout<'_>) -> Health {
    let wanted = wanted(spec, &status);
    // pods that a quota or an admission policy refuses: the cause of all that follows
    let refused = find(&status.conditions, "ReplicaFailure").filter(|failure| failure.status == "True");
    if let Some(stuck) = find(&status.conditions, "Progressing")
        && stuck.reason == "ProgressDeadlineExceeded"
    {
        return failed("ProgressDeadlineExceeded", refused.unwrap_or(stuck).message.clone());
    }
    if let Some(refused) = refused.filter(|_| status.available_replicas < wanted) {
        return progressing(refused.reason.clone(), refused.message.clone());
    }
    if status.updated_replicas < wanted {
        return progressing("Updating", format!("{} of {wanted} replicas are new", status.updated_replicas));
    }
    if status.replicas > status.updated_replicas {
        let old = status.replicas - status.updated_replicas;
        return progressing("Terminating", format!("{old} old replicas are still there"));
    }
    if status.available_replicas < wanted || status.unavailable_replicas > 0 {
        return progressing("Starting", format!("{} of {wanted} replicas are available", status.available_replicas));
    }
    ready("Available", format!("{wanted} of {wanted} replicas are available"))
}

fn stateful_set(spec: Option<Replicas>, status: Rollout<'_>) -> Health {
    let wanted = wanted(spec, &status);
    if status.ready_replicas < wanted {
        return progressing("Starting", format!("{} of {wanted} replicas are ready", status.ready_replicas));
    }
    if status.replicas > wanted {
        return progressing("Terminating", format!("{} of {wanted} replicas exist", status.replicas));
    }
    if status.update_revision.is_some() && status.current_revision != status.update_revision {
        return progressing("Updating", format!("{} of {wanted} replicas are new", status.updated_replicas));
    }
    ready("Available", format!("{wanted} of {wanted} replicas are ready"))
}

/// The spec says how many replicas there should be (1 by default). Without a spec, the status tells as much once its
/// controller has seen the newest generation: what is there and what is missing.
fn wanted(spec: Option<Replicas>, status: &Rollout<'_>) -> i32 {
    match spec {
        Some(spec) => spec.replicas.unwrap_or(1),
        None => status.replicas.max(status.available_replicas + status.unavailable_replicas),
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct DaemonStatus {
    observed_generation: Option<i64>,
    desired_number_scheduled: i32,
    updated_number_scheduled: i32,
    number_available: i32,
}

impl About for DaemonStatus {
    fn observed_generation(&self) -> Option<i64> {
        Some(self.observed_generation.unwrap_or(0))
    }
}

fn daemon_set(_: Option<NoSpec>, status: DaemonStatus) -> Health {
    let wanted = status.desired_number_scheduled;
    if status.updated_number_scheduled < wanted {
        return progressing("Updating", format!("{} of {wanted} pods are new", status.updated_number_scheduled));
    }
    if status.number_available < wanted {
        return progressing("Starting", format!("{} of {wanted} pods are available", status.number_available));
    }
    ready("Available", format!("{wanted} of {wanted} pods are available"))
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Usual<'a> {
    observed_generation: Option<i64>,
    #[serde(borrow)]
    conditions: Vec<Seen<'a>>,
}

impl About for Usual<'_> {
    fn observed_generation(&self) -> Option<i64> {
        self.observed_generation
    }
}

fn job(_: Option<NoSpec>, status: Usual<'_>) -> Health {
    let holds = |kind| find(&status.conditions, kind).filter(|condition| condition.status == "True");
    if holds("Complete").is_some() {
        return ready("Complete", "it is complete");
    }
    if let Some(failure) = holds("Failed") {
        let reason = if failure.reason.is_empty() { "Failed" } else { &failure.reason };
        return failed(reason, failure.message.clone());
    }
    if holds("Suspended").is_some() {
        return progressing("Suspended", "it is suspended");
    }
    progressing("Running", "it is running")
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Phase<'a> {
    #[serde(borrow)]
    phase: Cow<'a, str>,
    #[serde(borrow)]
    conditions: Vec<Seen<'a>>,
}

impl About for Phase<'_> {
    fn observed_generation(&self) -> Option<i64> {
        None
    }
}

fn pod(_: Option<NoSpec>, status: Phase<'_>) -> Health {
    match &*status.phase {
        "Succeeded" => ready("Succeeded", "it has succeeded"),
        "Failed" => failed("Failed", "it has failed"),
        _ if find(&status.conditions, "Ready").is_some_and(|ready| ready.status == "True") => {
            ready("Ready", "it is ready")
        }
        _ => progressing("Starting", "it is not ready yet"),
    }
}

fn volume_claim(_: Option<NoSpec>, status: Phase<'_>) -> Health {
    match &*status.phase {
        "Bound" => ready("Bound", "it is bound"),
        "Lost" => failed("Lost", "its volume is lost"),
        _ => progressing("Pending", "it is not bound yet"),
    }
}

#[derive(Deserialize)]
struct ServiceSpec<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatus {
    load_balancer: LoadBalancer,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct LoadBalancer {
    ingress: Vec<IgnoredAny>,
}

impl About for ServiceStatus {
    fn observed_generation(&self) -> Option<i64> {
        None
    }
}

fn service(spec: Option<ServiceSpec<'_>>, status: ServiceStatus) -> Health {
    let balanced = spec.is_some_and(|spec| spec.kind == "LoadBalancer");
    if balanced && status.load_balancer.ingress.is_empty() {
        return progressing("NoAddress", "its load balancer has no address yet");
    }
    ready("Exists", "it exists")
}

fn definition(_: Option<NoSpec>, status: Usual<'_>) -> Health {
    match find(&status.conditions, "Established") {
        Some(established) if established.status == "True" => ready("Established", "it is established"),
        _ => progressing("NotEstablished", "it is not established yet"),
    }
}

fn any(_: Option<NoSpec>, status: Usual<'_>) -> Health {
    let Some(condition) = find(&status.conditions, "Ready").or_else(|| find(&status.conditions, "Available")) else {
        return ready("Exists", "it exists");
    };
    let word = |fallback: &str| {
        if condition.reason.is_empty() { fallback.to_owned() } else { condition.reason.to_string() }
    };
    if condition.status == "True" {
        return ready(word("Ready"), condition.message.clone());
    }
    progressing(word("NotReady"), condition.message.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(api_version: &str, kind: &str, object: Value) -> (State, String) {
        let which = ObjectRef {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace: "default".into(),
            name: "a".into(),
        };
        let health = Health::of(&which, &object.to_string());
        (health.state, health.reason)
    }

    fn deployment(spec: Value, status: Value) -> (State, String) {
        let mut object = json!({ "metadata": { "generation": 2 }, "status": status });
        if !spec.is_null() {
            object["spec"] = spec;
        }
        judged("apps/v1", "Deployment", object)
    }

    fn state(state: State, reason: &str) -> (State, String) {
        (state, reason.into())
    }

    #[test]
    fn a_deployment_is_ready_when_all_replicas_are_new_and_available() {
        let three = json!({ "replicas": 3 });
        let status = |fields: Value| {
            let mut status = json!({
                "observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3,
            });
            status.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            status
        };
        let cases = [
            (status(json!({})), state(State::Ready, "Available")),
            (status(json!({ "observedGeneration": 1 })), state(State::Progressing, "NotObserved")),
            (json!({}), state(State::Progressing, "NotObserved")),
            (status(json!({ "updatedReplicas": 2 })), state(State::Progressing, "Updating")),
            (status(json!({ "replicas": 4 })), state(State::Progressing, "Terminating")),
            (status(json!({ "availableReplicas": 2 })), state(State::Progressing, "Starting")),
        ];
        for (status, expected) in cases {
            assert_eq!(deployment(three.clone(), status.clone()), expected, "{status}");
        }
    }

    #[test]
    fn a_deployment_whose_pods_are_refused_says_so_first_and_last() {
        let conditions = |late: bool| {
            let reason = if late { "ProgressDeadlineExceeded" } else { "NewReplicaSetCreated" };
            json!([
                { "type": "Progressing", "status": "False", "reason": reason, "message": "ReplicaSet a-1 has timed out" },
                { "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: q" },
            ])
        };
        let which = ObjectRef {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            namespace: "n".into(),
            name: "a".into(),
        };
        let judged = |late: bool| {
            let status = json!({ "observedGeneration": 1, "unavailableReplicas": 1, "conditions": conditions(late) });
            let object = json!({ "metadata": { "generation": 1 }, "spec": { "replicas": 1 }, "status": status });
            Health::of(&which, &object.to_string())
        };
        assert_eq!(judged(false), progressing("FailedCreate", "exceeded quota: q"));
        assert_eq!(judged(true), failed("ProgressDeadlineExceeded", "exceeded quota: q"));
    }

    #[test]
    fn without_its_spec_a_deployment_tells_by_what_is_missing() {
        let growing = json!({
            "observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1, "unavailableReplicas": 2,
        });
        assert_eq!(deployment(Value::Null, growing), state(State::Progressing, "Updating"));
        let none = json!({ "observedGeneration": 2 });
        assert_eq!(deployment(Value::Null, none), state(State::Ready, "Available"), "scaled to nothing");
    }

    #[test]
    fn jobs_pods_claims_and_services_have_their_own_rules() {
        let with = |status: Value| json!({ "metadata": {}, "status": status });
        let condition = |kind: &str| json!({ "conditions": [{ "type": kind, "status": "True" }] });
        let cases = [
            ("batch/v1", "Job", with(condition("Complete")), state(State::Ready, "Complete")),
            ("batch/v1", "Job", with(condition("Failed")), state(State::Failed, "Failed")),
            ("batch/v1", "Job", with(json!({ "active": 1 })), state(State::Progressing, "Running")),
            ("batch/v1", "Job", json!({ "metadata": {} }), state(State::Progressing, "Running")),
            ("v1", "Pod", with(condition("Ready")), state(State::Ready, "Ready")),
            ("v1", "Pod", with(json!({ "phase": "Pending" })), state(State::Progressing, "Starting")),
            ("v1", "PersistentVolumeClaim", with(json!({ "phase": "Bound" })), state(State::Ready, "Bound")),
            ("v1", "PersistentVolumeClaim", with(json!({ "phase": "Lost" })), state(State::Failed, "Lost")),
            ("v1", "Service", json!({ "metadata": {} }), state(State::Ready, "Exists")),
            (
                "v1",
                "Service",
                json!({ "metadata": {}, "spec": { "type": "LoadBalancer" } }),
                state(State::Progressing, "NoAddress"),
            ),
            ("a.dev/v1", "Widget", with(condition("Ready")), state(State::Ready, "Ready")),
            ("a.dev/v1", "Widget", json!({ "metadata": {} }), state(State::Ready, "Exists")),
            ("a.dev/v1", "Widget", json!({ "metadata": [] }), state(State::Progressing, "Unreadable")),
        ];
        for (api_version, kind, object, expected) in cases {
            let shown = object.to_string();
            assert_eq!(judged(api_version, kind, object), expected, "{kind} {shown}");
        }
    }

    #[test]
    fn any_kind_behind_its_generation_is_progressing() {
        let ready = json!([{ "type": "Ready", "status": "True", "reason": "Fine", "message": "" }]);
        let object =
            json!({ "metadata": { "generation": 3 }, "status": { "observedGeneration": 2, "conditions": ready } });
        assert_eq!(judged("a.dev/v1", "Widget", object), state(State::Progressing, "NotObserved"));
    }
}
