//! `ValidatingWebhookConfiguration` and `MutatingWebhookConfiguration`: one of each for a plugin that takes part in
//! admission. They belong to the plugin's record, so that they go with it, also when no host runs.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use serde_json::{Value, json};

use super::Hooks;
use crate::api::names;
use crate::api::plugin::{Plugin, Webhooks};
use crate::control::cluster::{ApiError, Cluster, Served};
use crate::control::controller::{Active, Controller};
use crate::plan::check::{Scope, digest};
use crate::plan::contract::{ObjectRef, TypeMeta};
use crate::plan::diff;

/// Condition of a `Plugin` record with webhooks: does the API server call them?
pub const CONDITION: &str = "WebhooksReady";

const API: &str = "admissionregistration.k8s.io/v1";
const MANAGER: &str = "transom";

/// Kind, path, and first part of the webhook's name.
const KINDS: [(&str, &str); 2] =
    [("MutatingWebhookConfiguration", "default"), ("ValidatingWebhookConfiguration", "validate")];

/// Of [`CONDITION`]: status, reason and message.
pub(crate) type Said = (&'static str, &'static str, String);

/// Puts the configurations of a plugin in place, or away, for the versions of it that serve. None when it has no webhooks,
/// and none of it is left.
pub(crate) async fn publish(controller: &Controller, record: &Plugin, versions: &[Arc<Active>]) -> Option<Said> {
    let name = record.name_any();
    let had = record.status.iter().flat_map(|status| &status.conditions).any(|one| one.type_ == CONDITION);
    let (admission, conversion) = exported(versions);
    if controller.hooks.setup.get().is_none() {
        let message = "the plugin exports webhooks, and this host serves none: start it with --webhook-listen";
        return (admission || conversion).then(|| ("False", "Disabled", message.into()));
    }
    controller.hooks.wait_for(&name, Duration::from_secs(record.spec.webhooks.timeout_seconds.into()));
    let cluster = &controller.cluster;
    if !admission {
        if had && let Err(error) = remove(cluster, &name).await {
            return Some(("False", "RemovalFailed", format!("a configuration of a version before stays: {error}")));
        }
        return conversion.then(|| ("True", "Serving", "conversion".into()));
    }
    let rules = rules(cluster, versions);
    for (kind, path) in KINDS {
        let body = configuration(&controller.hooks, cluster.namespace(), record, (kind, path), &rules);
        if let Err(error) = put(cluster, &reference(kind, &name), body).await {
            return Some(("False", error.reason(), format!("{kind}: {error}")));
        }
    }
    let what = if conversion { "admission and conversion" } else { "admission" };
    Some(("True", "Serving", what.into()))
}

/// Does any of these take part in admission, and does any convert?
fn exported(versions: &[Arc<Active>]) -> (bool, bool) {
    let any = |has: fn(&crate::plugin::Plugin) -> bool| versions.iter().filter_map(|v| v.plugin.as_ref()).any(has);
    (any(crate::plugin::Plugin::has_admission), any(crate::plugin::Plugin::has_conversion))
}

/// Deletes the configurations of a plugin.
///
/// # Errors
/// When one of them stays.
pub(crate) async fn remove(cluster: &Cluster, plugin: &str) -> Result<(), ApiError> {
    for (kind, _) in KINDS {
        let reference = reference(kind, plugin);
        if let Some(live) = cluster.get(&reference).await? {
            cluster.delete(&reference, &live.uid).await?;
        }
    }
    Ok(())
}

impl Hooks {
    /// A record is gone. Its configurations go with it, here at once and by their owner reference in any case.
    pub(crate) fn retire(controller: &Arc<Controller>, plugin: &str) {
        let hooks = &controller.hooks;
        let had = hooks.timeouts.read().is_ok_and(|timeouts| timeouts.contains_key(plugin));
        hooks.forget(plugin);
        if !had {
            return;
        }
        let (controller, plugin) = (controller.clone(), plugin.to_owned());
        tokio::spawn(async move {
            if let Err(error) = remove(&controller.cluster, &plugin).await {
                tracing::warn!(plugin, %error, "configurations of webhooks are left to the garbage collector");
            }
        });
    }
}

fn reference(kind: &str, plugin: &str) -> ObjectRef {
    let name = format!("{plugin}.plugins.transom.dev");
    ObjectRef { kind: TypeMeta::new(API, kind), namespace: String::new(), name }
}

async fn put(cluster: &Cluster, reference: &ObjectRef, mut body: Value) -> Result<(), ApiError> {
    let applied = digest(&body);
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("annotations".into(), json!({ names::APPLIED_ANNOTATION: applied }));
    }
    let live = cluster.get(reference).await?;
    let is_current = live.is_some_and(|live| {
        live.applied.as_deref() == Some(applied.as_str()) && diff::object_drift(&body, &live.value()).is_empty()
    });
    if !is_current {
        cluster.apply(reference, MANAGER, &body).await?;
    }
    Ok(())
}

/// The kinds that these versions serve, in their storage versions: the API server converts what is written in another.
fn rules(cluster: &Cluster, versions: &[Arc<Active>]) -> Vec<Value> {
    let mut rules = Vec::new();
    let watches = versions.iter().filter(|v| v.plugin.as_ref().is_some_and(crate::plugin::Plugin::has_admission));
    for served in watches.flat_map(|v| &v.primary_watches).filter_map(|watch| cluster.known(&watch.kind)) {
        let rule = rule(&served);
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

fn rule(served: &Served) -> Value {
    json!({
        "apiGroups": [served.kind.group()], "apiVersions": [served.kind.version()], "resources": [served.plural],
        "operations": ["CREATE", "UPDATE"],
        "scope": if served.scope == Scope::Cluster { "Cluster" } else { "Namespaced" },
    })
}

/// One configuration with one webhook.
fn configuration(
    hooks: &Hooks,
    namespace: Option<&str>,
    record: &Plugin,
    (kind, path): (&str, &str),
    rules: &[Value],
) -> Value {
    let (name, uid) = (record.name_any(), record.uid().unwrap_or_default());
    let Webhooks { failure_policy, timeout_seconds } = &record.spec.webhooks;
    let mut webhook = json!({
        "name": format!("{path}.{name}.plugins.transom.dev"),
        "clientConfig": hooks.client_config(&format!("/{path}/{name}")),
        "rules": rules,
        "matchPolicy": "Equivalent",
        "matchConditions": [
            { "name": "not-being-deleted", "expression": "!has(object.metadata.deletionTimestamp)" },
            {
                "name": "spec-changes",
                "expression": "request.operation == 'CREATE' || !has(object.spec) || !has(oldObject.spec) \
                    || object.spec != oldObject.spec",
            },
        ],
        "failurePolicy": failure_policy,
        "sideEffects": "None",
        "timeoutSeconds": timeout_seconds,
        "admissionReviewVersions": ["v1"],
    });
    if let (Some(namespace), Some(fields)) = (namespace, webhook.as_object_mut()) {
        // a host for one namespace answers for no other
        let labels = json!({ "kubernetes.io/metadata.name": namespace });
        fields.insert("namespaceSelector".into(), json!({ "matchLabels": labels }));
    }
    json!({
        "apiVersion": API, "kind": kind,
        "metadata": {
            "name": reference(kind, &name).name,
            "labels": { names::PLUGIN_LABEL: name },
            "ownerReferences": [{
                "apiVersion": "transom.dev/v1alpha1", "kind": "Plugin", "name": name, "uid": uid,
            }],
        },
        "webhooks": [webhook],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(scope: Scope) -> Served {
        Served { kind: TypeMeta::new("g.io/v2", "Thing"), plural: "things".into(), scope }
    }

    #[test]
    fn a_rule_is_for_one_kind_in_its_storage_version_and_no_subresource() {
        let expected = json!({
            "apiGroups": ["g.io"], "apiVersions": ["v2"], "resources": ["things"],
            "operations": ["CREATE", "UPDATE"], "scope": "Namespaced",
        });
        assert_eq!(rule(&served(Scope::Namespaced)), expected);
        assert_eq!(rule(&served(Scope::Cluster))["scope"], "Cluster");
    }

    #[test]
    fn a_configuration_belongs_to_its_record_and_stays_in_the_host_s_namespace() {
        let record: Plugin = serde_json::from_value(json!({
            "apiVersion": "transom.dev/v1alpha1", "kind": "Plugin", "metadata": { "name": "p", "uid": "u" },
            "spec": { "source": { "file": { "path": "/p.wasm" } }, "webhooks": { "failurePolicy": "Ignore" } },
        }))
        .unwrap();
        let rules = [rule(&served(Scope::Namespaced))];
        let body = configuration(&Hooks::default(), Some("n"), &record, KINDS[1], &rules);
        assert_eq!(body["metadata"]["name"], "p.plugins.transom.dev");
        assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "u");
        let webhook = &body["webhooks"][0];
        assert_eq!(webhook["name"], "validate.p.plugins.transom.dev");
        assert_eq!((&webhook["failurePolicy"], &webhook["timeoutSeconds"]), (&json!("Ignore"), &json!(5)));
        assert_eq!(webhook["namespaceSelector"], json!({ "matchLabels": { "kubernetes.io/metadata.name": "n" } }));
        let body = configuration(&Hooks::default(), None, &record, KINDS[1], &rules);
        assert!(body["webhooks"][0].get("namespaceSelector").is_none());
        assert!(!body.to_string().contains('*'), "{body}");
    }
}
