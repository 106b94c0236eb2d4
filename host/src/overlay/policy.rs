//! The admission policy by which the API server checks who writes an overlay: without a webhook only it can know.
//!
//! An overlay acts with the rights of a ServiceAccount. Who writes one must be allowed to impersonate that account, so an
//! overlay never has a right that its author does not have. The policy is the API server's own
//! (`ValidatingAdmissionPolicy`); whether it is in force is found out by a dry run that it must refuse.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::api::names;
use crate::api::overlay::{ChildTarget, Overlay, OverlaySpec, PatchSpec, PatchType, Target};
use crate::control::cluster::{ApiError, Cluster};
use crate::plan::check::digest;
use crate::plan::contract::{ObjectRef, TypeMeta};
use crate::plan::diff;

/// Name of the policy and of its binding.
pub const NAME: &str = "overlays.transom.dev";

/// An overlay of this name is always refused: the dry run.
const PROBE: &str = "transom-policy-probe";

const API: &str = "admissionregistration.k8s.io/v1";

/// The policy and its binding, as they are applied.
#[must_use]
pub fn objects() -> [Value; 2] {
    let account = "(has(object.spec.serviceAccountName) ? object.spec.serviceAccountName : 'default')";
    let policy = json!({
        "apiVersion": API, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": NAME},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["transom.dev"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"],
                "resources": ["overlays"],
            }]},
            "matchConditions": [{
                "name": "spec-is-written",
                "expression": "request.operation == 'CREATE' || object.spec != oldObject.spec",
            }],
            "variables": [{"name": "account", "expression": account}],
            "validations": [
                {
                    "expression": format!("object.metadata.name != '{PROBE}'"),
                    "message": format!("the name {PROBE} is for finding out whether this policy is in force"),
                },
                {
                    "expression": "authorizer.group('').resource('serviceaccounts').namespace(request.namespace)\
                        .name(variables.account).check('impersonate').allowed()",
                    "messageExpression": "request.userInfo.username + ' may not write overlays that act as the \
                        ServiceAccount ' + variables.account + ': the verb impersonate on it is needed'",
                    "reason": "Forbidden",
                },
            ],
        },
    });
    let binding = json!({
        "apiVersion": API, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": NAME},
        "spec": {"policyName": NAME, "validationActions": ["Deny"]},
    });
    [policy, binding]
}

/// Applies policy and binding where they are not there as they should be.
///
/// # Errors
/// When the API server refuses it or cannot be asked.
pub async fn install(cluster: &Cluster, manager: &str) -> Result<(), ApiError> {
    for mut object in objects() {
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        let reference = ObjectRef { kind: TypeMeta::new(API, kind), namespace: String::new(), name: NAME.to_owned() };
        let applied = digest(&object);
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("annotations".into(), json!({ names::APPLIED_ANNOTATION: applied }));
        }
        let there = cluster.get(&reference).await?.is_some_and(|live| {
            live.applied.as_ref() == Some(&applied) && diff::object_drift(&object, &live.value()).is_empty()
        });
        if !there {
            cluster.apply(&reference, manager, &object).await?;
        }
    }
    Ok(())
}

/// Is the policy in force? Asks the API server for something that only the policy refuses; nothing is ever made.
///
/// # Errors
/// When the API server cannot be asked, or refuses it for another reason.
pub async fn is_in_force(cluster: &Cluster, namespace: &str) -> Result<bool, ApiError> {
    let nothing = PatchSpec {
        target: ChildTarget { api_version: "v1".into(), kind: "ConfigMap".into(), name: None },
        type_: PatchType::Merge,
        patch: json!({}),
    };
    let target = Target { api_version: "v1".into(), kind: "None".into(), name: None, selector: None };
    let spec = OverlaySpec { target, order: 0, service_account_name: "default".into(), patches: vec![nothing] };
    let metadata = ObjectMeta { name: Some(PROBE.into()), ..ObjectMeta::default() };
    let probe = Overlay { metadata, spec, status: None };
    let api: Api<Overlay> = Api::namespaced(cluster.client().clone(), namespace);
    match api.create(&PostParams { dry_run: true, ..PostParams::default() }, &probe).await {
        Ok(_) => Ok(false),
        Err(kube::Error::Api(status)) if status.message.contains(PROBE) && status.message.contains(NAME) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
