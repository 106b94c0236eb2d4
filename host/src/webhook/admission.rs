//! `AdmissionReview` (admission.k8s.io/v1): defaults are filled in, and what is about to be stored is validated, by the
//! version of the plugin that serves the object.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::keep::encoded;
use super::server::{Answer, Failure};
use crate::control::controller::{Active, Controller};
use crate::control::serving::{Chosen, Serving};
use crate::plan::contract::TypeMeta;
use crate::plan::object::Object;
use crate::plugin::{CallError, Plugin, Review, Verdict};
use crate::telemetry::metrics;

/// Kept back of the time that the API server waits, for the way there and back.
const MARGIN: Duration = Duration::from_millis(250);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Webhook {
    Default,
    Validate,
}

impl Webhook {
    fn word(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Validate => "validate",
        }
    }
}

#[derive(Deserialize)]
struct AdmissionReview {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    request: Request,
}

/// `AdmissionRequest` of k8s.io/api/admission/v1/types.go, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: GroupVersionKind,
    #[serde(default)]
    sub_resource: String,
    operation: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Deserialize)]
struct GroupVersionKind {
    group: String,
    version: String,
    kind: String,
}

/// Why a plugin gave no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("the plugin {0} is not loaded (yet)")]
    NotServing(String),
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("{0}")]
    Conversion(String),
    #[error("the plugin changed {0} by its defaults; only spec may change")]
    MoreThanSpec(String),
    #[error("the plugin's defaults are not an object in JSON")]
    Malformed,
}

impl NoAnswer {
    /// Metric label.
    fn reason(&self) -> &'static str {
        match self {
            Self::NotServing(_) => "NotServing",
            Self::Call(error) => error.reason(),
            Self::Conversion(_) => "ConversionFailed",
            Self::MoreThanSpec(_) | Self::Malformed => "MalformedResponse",
        }
    }
}

/// What is said in the end.
enum Said {
    /// Not for the plugin, or nothing to be said.
    Allowed,
    /// With another spec.
    Changed(Value),
    /// By the plugin's `validate`.
    Judged(Verdict),
}

impl Said {
    /// Metric label.
    fn outcome(&self) -> &'static str {
        match self {
            Self::Allowed => "Allowed",
            Self::Changed(_) => "Changed",
            Self::Judged(verdict) if verdict.violations.is_empty() => "Allowed",
            Self::Judged(_) => "Denied",
        }
    }
}

/// Answers one review.
pub(super) async fn answer(controller: &Controller, plugin: &str, webhook: Webhook, body: &[u8]) -> Answer {
    let started = Instant::now();
    let review: AdmissionReview = serde_json::from_slice(body).map_err(Failure::malformed)?;
    if (&*review.api_version, &*review.kind) != ("admission.k8s.io/v1", "AdmissionReview") {
        return Err(Failure::malformed(format!("{} {}", review.api_version, review.kind)));
    }
    let request = review.request;
    let serving = controller.versions_of(plugin);
    let known = if serving.is_some() { plugin } else { "" };
    let said = match serving {
        Some(serving) => decide(controller, &serving, webhook, &request).await,
        None => Err(NoAnswer::NotServing(plugin.to_owned())),
    };
    let outcome = said.as_ref().map_or_else(NoAnswer::reason, Said::outcome);
    metrics().webhook(known, webhook.word(), outcome, started);
    match said {
        Ok(said) => Ok(json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response(&request, said),
        })),
        Err(error) => {
            tracing::warn!(plugin, webhook = webhook.word(), %error, "a webhook gave no answer");
            let status = match error {
                NoAnswer::NotServing(_) => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Err(Failure { status, message: format!("{plugin}: {error}") })
        }
    }
}

/// Is there something that a plugin could have to say? The configurations ask for nothing else; this is for what they
/// cannot say, and for configurations that somebody has edited.
fn concerns(request: &Request) -> bool {
    let is_update = match request.operation.as_str() {
        "CREATE" => false,
        "UPDATE" => true,
        _ => return false,
    };
    let is_deleted = request.object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    let same = is_update && request.object.get("spec") == request.old_object.get("spec");
    request.sub_resource.is_empty() && request.object.is_object() && !is_deleted && !same
}

async fn decide(
    controller: &Controller,
    serving: &Serving,
    webhook: Webhook,
    request: &Request,
) -> Result<Said, NoAnswer> {
    if !concerns(request) {
        return Ok(Said::Allowed);
    }
    let GroupVersionKind { group, version, kind } = &request.kind;
    let kind = TypeMeta::new(format!("{group}/{version}"), kind.clone());
    let old = (request.operation == "UPDATE").then(|| shown(&request.old_object));
    let Some((active, own)) = chosen(serving, &kind, old.as_ref()) else { return Ok(Said::Allowed) };
    let Some(plugin) = &active.plugin else { return Err(NoAnswer::NotServing(active.name.clone())) };
    if !plugin.has_admission() {
        return Ok(Said::Allowed);
    }
    let timeout = controller.hooks.timeout(&active.name);
    let plugin = within(plugin, timeout.saturating_sub(MARGIN));
    // the configuration may be that of a version with another storage version, for a moment
    let object = in_version(&plugin, shown(&request.object), &own.api_version).await?;
    let old = match old {
        Some(old) => Some(in_version(&plugin, old, &own.api_version).await?.to_string()),
        None => None,
    };
    let text = object.to_string();
    let review = Review { object: &text, old: old.as_deref(), config: &active.config };
    if webhook == Webhook::Validate {
        return Ok(Said::Judged(plugin.validate(review).await?));
    }
    let Some(answer) = plugin.default(review).await? else { return Ok(Said::Allowed) };
    let answer: Value = serde_json::from_str(&answer).map_err(|_| NoAnswer::Malformed)?;
    if let Some(field) = beside_spec(&object, &answer) {
        return Err(NoAnswer::MoreThanSpec(field));
    }
    let answer = in_version(&plugin, answer, &kind.api_version).await?;
    match answer.get("spec") {
        Some(spec) if Some(spec) != request.object.get("spec") => Ok(Said::Changed(spec.clone())),
        _ => Ok(Said::Allowed),
    }
}

/// The version that serves an object, and the kind as that version has it. A new object is for the one that serves
/// whatever no other does: it has no UID yet, and which part of the objects it belongs to hangs on that.
fn chosen(serving: &Serving, kind: &TypeMeta, old: Option<&Value>) -> Option<(Arc<Active>, TypeMeta)> {
    let own = |active: &Active| {
        let kinds = active.primary_watches.iter().map(|watch| &*watch.kind);
        let mut same = kinds.filter(|one| one.kind == kind.kind && one.group() == kind.group());
        same.next().cloned()
    };
    let stable = own(&serving.stable)?;
    let object = old.and_then(|old| Object::parse(&old.to_string()).ok());
    let active = match object.map(|object| serving.choose(&stable, &object)) {
        Some(Chosen::Version(active)) => active,
        Some(Chosen::Missing) | None => serving.stable.clone(),
    };
    let own = own(&active)?;
    Some((active, own))
}

/// With the record's bounds, and a deadline that the API server waits for.
fn within(plugin: &Plugin, deadline: Duration) -> Plugin {
    let mut bounds = *plugin.bounds();
    bounds.deadline = bounds.deadline.min(deadline);
    plugin.clone().with_bounds(bounds)
}

/// As plugins see it.
fn shown(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

async fn in_version(plugin: &Plugin, object: Value, api_version: &str) -> Result<Value, NoAnswer> {
    if object.get("apiVersion").and_then(Value::as_str).is_none_or(|now| now == api_version) {
        return Ok(object);
    }
    let converted = plugin.convert(&object.to_string(), api_version).await?.map_err(NoAnswer::Conversion)?;
    serde_json::from_str(&converted).map_err(|_| NoAnswer::Malformed)
}

/// The first field outside the spec that differs.
fn beside_spec(before: &Value, after: &Value) -> Option<String> {
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return Some("the object".into()) };
    let mut names = before.keys().chain(after.keys());
    names.find(|name| *name != "spec" && before.get(*name) != after.get(*name)).cloned()
}

/// `AdmissionResponse` of k8s.io/api/admission/v1/types.go.
fn response(request: &Request, said: Said) -> Value {
    let mut response = json!({ "uid": request.uid, "allowed": true });
    let Value::Object(fields) = &mut response else { return response };
    match said {
        Said::Allowed => {}
        Said::Changed(spec) => {
            // replaces a spec that is there (RFC 6902, 4.1)
            let patch = json!([{ "op": "add", "path": "/spec", "value": spec }]).to_string();
            fields.insert("patchType".into(), "JSONPatch".into());
            fields.insert("patch".into(), encoded(&patch).into());
        }
        Said::Judged(verdict) => {
            if !verdict.warnings.is_empty() {
                fields.insert("warnings".into(), json!(verdict.warnings));
            }
            if !verdict.violations.is_empty() {
                fields.insert("allowed".into(), false.into());
                fields.insert("status".into(), denial(request, &verdict));
            }
        }
    }
    response
}

/// A `Status` as the API server's own validation makes it.
fn denial(request: &Request, verdict: &Verdict) -> Value {
    let name = request.object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let said: Vec<String> = verdict.violations.iter().map(|one| format!("{}: {}", one.field, one.message)).collect();
    let cause = |one: &crate::plan::contract::Violation| json!({ "reason": "FieldValueInvalid", "field": one.field, "message": one.message });
    let causes: Vec<Value> = verdict.violations.iter().map(cause).collect();
    json!({
        "status": "Failure", "code": 422, "reason": "Invalid", "message": said.join("; "),
        "details": { "name": name, "group": request.kind.group, "kind": request.kind.kind, "causes": causes },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::contract::Violation;

    fn request(operation: &str, object: Value, old: Value) -> Request {
        let kind = GroupVersionKind { group: "g.io".into(), version: "v1".into(), kind: "Thing".into() };
        Request {
            uid: "u".into(),
            kind,
            sub_resource: String::new(),
            operation: operation.into(),
            object,
            old_object: old,
        }
    }

    #[test]
    fn only_creates_and_changes_of_the_spec_concern_a_plugin() {
        let thing = |size: u32| json!({"metadata": {"name": "a"}, "spec": {"size": size}});
        assert!(concerns(&request("CREATE", thing(1), Value::Null)));
        assert!(concerns(&request("UPDATE", thing(2), thing(1))));
        assert!(!concerns(&request("UPDATE", thing(1), thing(1))));
        assert!(!concerns(&request("DELETE", Value::Null, thing(1))));
        let mut status = request("UPDATE", thing(2), thing(1));
        status.sub_resource = "status".into();
        assert!(!concerns(&status));
        let mut deleted = thing(2);
        deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert!(!concerns(&request("UPDATE", deleted, thing(1))));
    }

    #[test]
    fn a_denial_names_every_field_as_the_api_server_does() {
        let violation = |field: &str, message: &str| Violation { field: field.into(), message: message.into() };
        let verdict = Verdict {
            violations: vec![violation("spec.a", "must be 1"), violation("spec.b", "must be 2")],
            warnings: vec!["odd".into()],
        };
        let request = request("CREATE", json!({"metadata": {"name": "x"}, "spec": {}}), Value::Null);
        let expected = json!({
            "uid": "u", "allowed": false, "warnings": ["odd"],
            "status": {
                "status": "Failure", "code": 422, "reason": "Invalid", "message": "spec.a: must be 1; spec.b: must be 2",
                "details": { "name": "x", "group": "g.io", "kind": "Thing", "causes": [
                    { "reason": "FieldValueInvalid", "field": "spec.a", "message": "must be 1" },
                    { "reason": "FieldValueInvalid", "field": "spec.b", "message": "must be 2" },
                ] },
            },
        });
        assert_eq!(response(&request, Said::Judged(verdict)), expected);
    }

    #[test]
    fn defaults_are_one_patch_of_the_spec() {
        use base64::Engine as _;
        let request = request("CREATE", json!({"spec": {}}), Value::Null);
        let answer = response(&request, Said::Changed(json!({"size": 1})));
        let patch = base64::engine::general_purpose::STANDARD.decode(answer["patch"].as_str().unwrap()).unwrap();
        let patch: Value = serde_json::from_slice(&patch).unwrap();
        assert_eq!(patch, json!([{"op": "add", "path": "/spec", "value": {"size": 1}}]));
        assert_eq!((&answer["allowed"], &answer["patchType"]), (&json!(true), &json!("JSONPatch")));
    }

    #[test]
    fn defaults_outside_the_spec_are_named() {
        let before = json!({"metadata": {"name": "a"}, "spec": {}});
        assert_eq!(beside_spec(&before, &json!({"metadata": {"name": "a"}, "spec": {"x": 1}})), None);
        let labelled = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {}});
        assert_eq!(beside_spec(&before, &labelled).as_deref(), Some("metadata"));
        assert_eq!(beside_spec(&before, &json!({"spec": {}})).as_deref(), Some("metadata"));
        assert_eq!(beside_spec(&before, &json!(1)).as_deref(), Some("the object"));
    }
}
