//! Fields that another controller fills in by Kubernetes' own contract. A manifest that has them says nothing by it: what
//! it says is overwritten, or is a placeholder. They are taken out of what is applied, so nobody fights over them.
//!
//! * `rules` of an aggregated ClusterRole: "any manual changes will be overwritten by the controller"
//!   (`k8s.io/api/rbac/v1/types.go`, `ClusterRole.AggregationRule`).
//! * `caBundle` of webhooks, APIServices and conversions that is empty, or that an injector is asked to fill in by an
//!   annotation (cert-manager's ca-injector, OpenShift's service-ca).
//! * `protocol: ""` of a port, which is `TCP`. It is part of the key by which lists of ports are merged, and server-side apply
//!   takes the empty text for another key than the default: the second apply is refused.

use serde_json::{Map, Value};

use super::contract::TypeMeta;

/// Annotations by which an injector is asked for a CA bundle.
const INJECTORS: [&str; 4] = [
    "cert-manager.io/inject-ca-from",
    "cert-manager.io/inject-ca-from-secret",
    "cert-manager.io/inject-apiserver-ca",
    "service.beta.openshift.io/inject-cabundle",
];

/// Takes out of an object what another controller fills in.
pub fn strip(kind: &TypeMeta, object: &mut Map<String, Value>) {
    let is_injected = object
        .get("metadata")
        .and_then(|metadata| metadata.get("annotations"))
        .is_some_and(|annotations| INJECTORS.iter().any(|name| annotations.get(name).is_some()));
    match (kind.group(), kind.kind.as_str()) {
        ("rbac.authorization.k8s.io", "ClusterRole") if object.get("aggregationRule").is_some_and(|r| !r.is_null()) => {
            object.remove("rules");
        }
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            let webhooks = object.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten();
            webhooks.for_each(|webhook| strip_bundle(webhook.get_mut("clientConfig"), is_injected));
        }
        ("apiregistration.k8s.io", "APIService") => strip_bundle(object.get_mut("spec"), is_injected),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            let config = object.get_mut("spec").and_then(|spec| spec.pointer_mut("/conversion/webhook/clientConfig"));
            strip_bundle(config, is_injected);
        }
        ("" | "apps" | "batch", _) => object.values_mut().for_each(strip_protocols),
        _ => {}
    }
}

fn strip_protocols(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for port in fields.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(port) = port.as_object_mut().filter(|port| port.get("protocol").is_some_and(|p| p == "")) {
                    port.remove("protocol");
                }
            }
            fields.values_mut().for_each(strip_protocols);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_protocols),
        _ => {}
    }
}

fn strip_bundle(config: Option<&mut Value>, is_injected: bool) {
    let Some(config) = config.and_then(Value::as_object_mut) else { return };
    if is_injected || config.get("caBundle").is_some_and(is_placeholder) {
        config.remove("caBundle");
    }
}

/// Nothing but white space, in base64: `""`, `Cg==` (a line feed).
fn is_placeholder(bundle: &Value) -> bool {
    use base64::Engine as _;
    let Some(text) = bundle.as_str() else { return bundle.is_null() };
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    bytes.is_ok_and(|bytes| bytes.iter().all(u8::is_ascii_whitespace))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn stripped(api_version: &str, kind: &str, object: Value) -> Value {
        let mut fields = object.as_object().unwrap().clone();
        strip(&TypeMeta::new(api_version, kind), &mut fields);
        Value::Object(fields)
    }

    #[test]
    fn rules_of_an_aggregated_role_are_its_controllers() {
        let role = |rule: Value, rules: Value| json!({ "aggregationRule": rule, "rules": rules });
        let of = |role| stripped("rbac.authorization.k8s.io/v1", "ClusterRole", role);
        let rule = json!({ "clusterRoleSelectors": [] });
        for rules in [json!([]), json!([{ "verbs": ["get"] }])] {
            assert_eq!(of(role(rule.clone(), rules)), json!({ "aggregationRule": rule }));
        }
        let plain = role(Value::Null, json!([]));
        assert_eq!(of(plain.clone()), plain);
        let other = role(rule, json!([]));
        assert_eq!(stripped("rbac.authorization.k8s.io/v1", "Role", other.clone()), other);
    }

    fn hook(bundle: Value, annotation: &str) -> Value {
        let config = json!({ "caBundle": bundle, "service": { "name": "s" } });
        json!({ "metadata": { "annotations": { annotation: "n/c" } }, "webhooks": [{ "name": "w", "clientConfig": config }] })
    }

    #[rstest]
    #[case::empty(json!(""), "a", true)]
    #[case::null(Value::Null, "a", true)]
    #[case::line_feed(json!("Cg=="), "a", true)]
    #[case::injected(json!("TFM="), "cert-manager.io/inject-ca-from", true)]
    #[case::the_charts_own(json!("TFM="), "a", false)]
    #[case::no_base64(json!("{{ x }}"), "a", false)]
    fn a_bundle_is_the_injectors_or_the_charts(
        #[case] bundle: Value,
        #[case] annotation: &str,
        #[case] taken_out: bool,
    ) {
        let object = hook(bundle, annotation);
        let found = stripped("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", object.clone());
        assert_eq!(found["webhooks"][0]["clientConfig"].get("caBundle").is_none(), taken_out);
        assert_eq!(found["webhooks"][0]["clientConfig"]["service"]["name"], "s");
    }

    #[test]
    fn an_empty_protocol_is_the_default_one() {
        let ports =
            |port: Value| json!({ "spec": { "template": { "spec": { "containers": [{ "ports": [port] }] } } } });
        let of = |port| stripped("apps/v1", "Deployment", ports(port));
        assert_eq!(of(json!({ "containerPort": 80, "protocol": "" })), ports(json!({ "containerPort": 80 })));
        let udp = json!({ "containerPort": 53, "protocol": "UDP" });
        assert_eq!(of(udp.clone()), ports(udp));
        let service = json!({ "spec": { "ports": [{ "port": 80, "protocol": "" }] } });
        assert_eq!(stripped("v1", "Service", service), json!({ "spec": { "ports": [{ "port": 80 }] } }));
    }

    #[rstest]
    #[case::api_service("apiregistration.k8s.io/v1", "APIService", json!({ "spec": { "caBundle": "" } }))]
    #[case::conversion("apiextensions.k8s.io/v1", "CustomResourceDefinition",
        json!({ "spec": { "conversion": { "webhook": { "clientConfig": { "caBundle": "Cg==" } } } } }))]
    fn every_place_of_a_bundle_is_known(#[case] api_version: &str, #[case] kind: &str, #[case] object: Value) {
        assert!(!stripped(api_version, kind, object).to_string().contains("caBundle"));
    }
}
