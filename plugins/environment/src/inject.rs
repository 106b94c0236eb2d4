//! What is done to rendered objects before they are applied: they stay in the Environment's namespace, and get its
//! variables and images.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::EnvVar;
use serde_json::{Map, Value};

use crate::build::Images;
use crate::report::{Problem, Step, of_spec};

/// Kinds of Kubernetes itself that are in no namespace. Others' kinds that are in none are refused by the host.
const CLUSTER_SCOPED: [&str; 24] = [
    "APIService",
    "CSIDriver",
    "CSINode",
    "CertificateSigningRequest",
    "ClusterIssuer",
    "ClusterRole",
    "ClusterRoleBinding",
    "ClusterTrustBundle",
    "ComponentStatus",
    "CustomResourceDefinition",
    "FlowSchema",
    "IngressClass",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "MutatingWebhookConfiguration",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PriorityClass",
    "PriorityLevelConfiguration",
    "RuntimeClass",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingWebhookConfiguration",
];

/// What every object gets.
pub(crate) struct Injection<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) env: &'a [EnvVar],
    pub(crate) images: &'a Images,
    pub(crate) allow_cluster_scoped: bool,
    /// The template, for messages: `spec.templates.development`.
    pub(crate) field: &'a str,
}

impl Injection<'_> {
    /// Makes one object fit.
    pub(crate) fn object(&self, object: &mut Value) -> Result<(), Problem> {
        let wrong = |reason: &str, message: String| {
            Err(of_spec(Step::Deployment, reason, format!("{}: {message}", self.field)))
        };
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, name, namespace) = (text("/kind"), text("/metadata/name"), text("/metadata/namespace"));
        if text("/apiVersion").is_empty() || kind.is_empty() || name.is_empty() {
            let shown: String = object.to_string().chars().take(80).collect();
            return wrong("InvalidManifest", format!("{shown}: has no apiVersion, kind or metadata.name"));
        }
        let is_cluster_scoped = CLUSTER_SCOPED.contains(&kind.as_str());
        if is_cluster_scoped && (kind == "Namespace" || !self.allow_cluster_scoped) {
            let message = format!(
                "makes {kind} {name}, which is in no namespace, and an Environment keeps to its own: remove it from the \
                 template, or set spec.config.allowClusterScoped of the Plugin record"
            );
            return wrong("ClusterScoped", message);
        }
        if !is_cluster_scoped && !namespace.is_empty() && namespace != self.namespace {
            let message = format!(
                "{kind} {name} is for namespace {namespace}, and an Environment keeps to its own: remove \
                 metadata.namespace"
            );
            return wrong("ForeignNamespace", message);
        }
        if let Some(pod) = pod_spec(object, &kind) {
            self.pod(pod);
        }
        let Some(fields) = object.as_object_mut() else { return Ok(()) };
        fields.remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in [
                "creationTimestamp",
                "generation",
                "managedFields",
                "ownerReferences",
                "resourceVersion",
                "selfLink",
                "uid",
            ] {
                metadata.remove(field);
            }
            metadata.remove("namespace");
            if !is_cluster_scoped {
                metadata.insert("namespace".into(), self.namespace.into());
            }
        }
        Ok(())
    }

    fn pod(&self, pod: &mut Map<String, Value>) {
        for list in ["initContainers", "containers"] {
            let containers = pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
            for container in containers.filter_map(Value::as_object_mut) {
                self.container(container);
            }
        }
    }

    fn container(&self, container: &mut Map<String, Value>) {
        if let Some(Value::String(image)) = container.get_mut("image") {
            // `web` or `web:anything`; what names a registry is meant as it is
            let bare = image.split(['@', ':']).next().filter(|_| !image.contains('/'));
            if let Some(built) = bare.and_then(|bare| self.images.get(bare)) {
                image.clone_from(built);
            }
        }
        if self.env.is_empty() {
            return;
        }
        let env = container.entry("env").or_insert_with(|| Value::Array(Vec::new()));
        if !env.is_array() {
            *env = Value::Array(Vec::new());
        }
        let Some(env) = env.as_array_mut() else { return };
        for variable in self.env {
            let Ok(value) = serde_json::to_value(variable) else { continue };
            match env.iter_mut().find(|known| known.get("name").and_then(Value::as_str) == Some(&variable.name)) {
                Some(known) => *known = value,
                None => env.push(value),
            }
        }
    }
}

/// Where a workload says what its pods look like.
fn pod_spec<'a>(object: &'a mut Value, kind: &str) -> Option<&'a mut Map<String, Value>> {
    let path = match kind {
        "Pod" => "/spec",
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
            "/spec/template/spec"
        }
        "CronJob" => "/spec/jobTemplate/spec/template/spec",
        _ => return None,
    };
    object.pointer_mut(path)?.as_object_mut()
}

/// No object twice, and none that is the Environment's own.
pub(crate) fn check_names<'a>(
    objects: impl Iterator<Item = &'a Value>,
    own: &[(&str, &str)],
    field: &str,
) -> Result<(), Problem> {
    let mut seen: BTreeSet<(String, String)> =
        own.iter().map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned())).collect();
    for object in objects {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let group = text("/apiVersion").split_once('/').map_or(String::new(), |(group, _)| format!(".{group}"));
        let (kind, name) = (text("/kind"), text("/metadata/name"));
        let is_own = own.contains(&(kind.as_str(), name.as_str()));
        if is_own || !seen.insert((format!("{kind}{group}"), name.clone())) {
            let message = if is_own {
                format!("{field}: {kind} {name} is the Environment's own: give it another name")
            } else {
                format!("{field}: {kind} {name} is there twice: remove one")
            };
            return Err(of_spec(Step::Deployment, "DuplicateObject", message));
        }
    }
    Ok(())
}
