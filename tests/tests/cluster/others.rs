//! Fields that belong to another controller, and values that the API server writes in its own way.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::events::v1::Event;
use rstest::rstest;
use serde_json::{Value, json};
use transom_tests::{Host, Namespace, Target, TestCluster, condition, condition_of, of};

use crate::kinds::{asker, make, record};
use crate::writes;

/// An object whose plugin makes these, all of them Synced, and a host at rest.
async fn made(name: &str, objects: &[Value]) -> (Namespace, Host, Value) {
    let ns = TestCluster::shared().await.namespace(name).await;
    let host = ns.host().await;
    record(&ns, None).await;
    let object = ns.create(asker("a", objects)).await;
    let object = ns.wait_for(&object, condition("Synced", "True")).await;
    host.settle(Duration::from_secs(1)).await;
    (ns, host, object)
}

/// What was written since then to anything but status.
async fn wrote(host: &Host, since: transom_tests::Mark) -> std::collections::BTreeMap<String, usize> {
    let mut wrote = host.writes_since(since).await;
    wrote.remove("patch askers/status");
    wrote
}

fn workload(kind: &str, image: &str, annotations: Value) -> Value {
    let labels = json!({ "app": "x" });
    let mut spec = json!({
        "replicas": 1, "selector": { "matchLabels": labels },
        "template": { "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "c", "image": image }] } },
    });
    if kind == "StatefulSet" {
        spec["serviceName"] = json!("x");
    }
    json!({ "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": "x", "annotations": annotations }, "spec": spec })
}

fn image(object: &Value) -> &Value {
    &object["spec"]["template"]["spec"]["containers"][0]["image"]
}

/// KEDA's way to say what it scales, and the kind in the API server.
async fn scaled_object(ns: &Namespace, kind: &str, name: &str) -> Value {
    let spec = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let schema = json!({ "openAPIV3Schema": { "type": "object", "properties": { "spec": spec } } });
    let definition = json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "scaledobjects.keda.sh" },
        "spec": { "group": "keda.sh", "scope": "Namespaced",
            "names": { "kind": "ScaledObject", "plural": "scaledobjects", "singular": "scaledobject", "listKind": "ScaledObjectList" },
            "versions": [{ "name": "v1alpha1", "served": true, "storage": true, "schema": schema }] } });
    // another test may have made it
    if let Err(refusal) = ns.try_create(definition.clone()).await {
        assert_eq!(refusal.reason, "AlreadyExists", "{refusal:?}");
    }
    ns.wait_until(&definition, |definition| condition_of(definition, "Established")["status"] == "True").await;
    json!({ "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": { "name": name },
        "spec": { "scaleTargetRef": { "kind": kind, "name": name } } })
}

#[rstest]
#[case::deployment(of::<Deployment>("x"), "Deployment", "patch deployments")]
#[case::stateful_set(of::<StatefulSet>("x"), "StatefulSet", "patch statefulsets")]
#[tokio::test]
async fn replicas_are_left_to_an_autoscaler(#[case] target: Target, #[case] kind: &str, #[case] write: &str) {
    let name = format!("others-scaled-{}", kind.to_lowercase());
    let (ns, host, object) = made(&name, &[workload(kind, "x:1", json!({}))]).await;
    let scaler = json!({ "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "x" },
        "spec": { "minReplicas": 3, "maxReplicas": 5,
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": kind, "name": "x" } } });
    let start = host.audit.mark();
    ns.create(scaler.clone()).await;
    ns.wait_until(&target, |object| object["spec"]["replicas"] == 3).await;
    host.settle(Duration::from_secs(2)).await;
    assert_eq!(wrote(&host, start).await, writes(&[]));

    // an upgrade changes the image and nothing else, and so does a host that has just started
    let start = host.audit.mark();
    ns.merge(&object, make(&[workload(kind, "x:2", json!({}))])).await;
    let there = ns.wait_until(&target, |object| image(object) == "x:2").await;
    assert_eq!(there["spec"]["replicas"], 3);
    host.settle(Duration::from_secs(2)).await;
    assert_eq!(wrote(&host, start).await, writes(&[(write, 1)]));
    assert!(host.stop().await.success());
    let host = ns.host().await;
    host.settle(Duration::from_secs(2)).await;
    assert_eq!(host.audit.all().writes(), writes(&[]));

    // scaled to zero, as KEDA does it beside an autoscaler, and without one while it is paused
    ns.patch_as(&target, "keda", Some("scale"), json!({ "spec": { "replicas": 0 } })).await;
    host.settle(Duration::from_secs(2)).await;
    assert_eq!(ns.get(&target).await["spec"]["replicas"], 0);
    let paused = ns.create(scaled_object(&ns, kind, "x").await).await;
    ns.delete(&scaler).await;
    ns.patch_as(&target, "keda", Some("scale"), json!({ "spec": { "replicas": 2 } })).await;
    ns.patch_as(&target, "keda", Some("scale"), json!({ "spec": { "replicas": 0 } })).await;
    host.settle(Duration::from_secs(2)).await;
    assert_eq!(ns.get(&target).await["spec"]["replicas"], 0);

    // without any the number is the plugin's again, whatever a person sets
    ns.delete(&paused).await;
    ns.patch_as(&target, "kubectl", Some("scale"), json!({ "spec": { "replicas": 7 } })).await;
    ns.wait_until(&target, |object| object["spec"]["replicas"] == 1).await;

    // a scaler of another sort is known by what it has set
    ns.patch_as(&target, "scaler", Some("scale"), json!({ "spec": { "replicas": 6 } })).await;
    host.settle(Duration::from_secs(2)).await;
    assert_eq!(ns.get(&target).await["spec"]["replicas"], 6);
}

/// Of every kind that the API server has a way of its own to write.
fn zeros() -> Vec<Value> {
    let mut deployment = workload("Deployment", "x:1", json!({ "note": "" }));
    let spec = deployment["spec"].as_object_mut().unwrap();
    spec.insert("minReadySeconds".into(), json!(0));
    spec.insert("paused".into(), json!(false));
    let pod = &mut deployment["spec"]["template"]["spec"];
    for (field, value) in [
        ("hostNetwork", json!(false)),
        ("hostIPC", json!(false)),
        ("hostPID", json!(false)),
        ("nodeName", json!("")),
        ("priorityClassName", json!("")),
        ("nodeSelector", json!({})),
        ("tolerations", json!([])),
        ("affinity", json!({})),
        ("hostname", json!("")),
        ("serviceAccount", json!("")),
        ("securityContext", json!({ "supplementalGroups": [] })),
        (
            "volumes",
            json!([{ "name": "v", "emptyDir": { "medium": "", "sizeLimit": "1024Mi" } },
            { "name": "s", "secret": { "secretName": "s", "optional": false } }]),
        ),
    ] {
        pod[field] = value;
    }
    let container = &mut pod["containers"][0];
    for (field, value) in [
        ("env", json!([{ "name": "A", "value": "" }, { "name": "B", "value": "b" }])),
        ("args", json!([])),
        ("tty", json!(false)),
        ("workingDir", json!("")),
        ("ports", json!([{ "containerPort": 80, "hostPort": 0, "name": "" }])),
        ("volumeMounts", json!([{ "name": "v", "mountPath": "/v", "readOnly": false, "subPath": "" }])),
        ("resources", json!({ "limits": { "cpu": "1000m", "memory": "1.5Gi" }, "requests": { "cpu": 0.1 } })),
        ("livenessProbe", json!({ "tcpSocket": { "port": 80 }, "initialDelaySeconds": 0 })),
    ] {
        container[field] = value;
    }
    vec![
        deployment,
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "x" }, "spec": {
            "clusterIP": "", "externalName": "", "loadBalancerIP": "", "externalIPs": [], "type": "NodePort",
            "publishNotReadyAddresses": false, "selector": { "app": "x" }, "sessionAffinity": "",
            "ports": [{ "port": 80, "nodePort": 0, "targetPort": 0, "protocol": "", "name": "" }] } }),
        json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "x" }, "spec": {
            "accessModes": ["ReadWriteOnce"], "volumeName": "", "resources": { "requests": { "storage": "0.5Gi" } } } }),
        json!({ "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "x" }, "spec": {
            "schedule": "0 0 1 1 *", "suspend": false, "timeZone": null,
            "jobTemplate": { "spec": { "template": { "spec": { "restartPolicy": "Never", "hostNetwork": false,
                "containers": [{ "name": "c", "image": "x", "stdin": false }] } } } } } }),
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": "x" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "x" },
            "subjects": [{ "kind": "ServiceAccount", "name": "x", "namespace": "default", "apiGroup": "" }] }),
        json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": "x" }, "spec": {
            "ingressClassName": "c", "tls": [], "rules": [{ "host": "", "http": { "paths": [{ "path": "/", "pathType": "Prefix",
                "backend": { "service": { "name": "x", "port": { "number": 80, "name": "" } } } }] } }] } }),
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "x" }, "type": "", "immutable": false,
            "data": { "empty": "" } }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "x" }, "secrets": [], "imagePullSecrets": [] }),
        json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "x" }, "spec": {
            "maxUnavailable": 0, "selector": {} } }),
    ]
}

/// What the API server drops, fills in or writes otherwise was applied once more by every host that started, with an Event
/// that something had been corrected.
#[tokio::test]
async fn values_that_the_api_server_drops_are_no_drift_for_a_host_that_starts() {
    let (ns, host, object) = made("others-zeros", &zeros()).await;
    for _ in 0..2 {
        ns.merge(of::<Service>("x"), json!({ "metadata": { "labels": { "added": "by-somebody" } } })).await;
        host.settle(Duration::from_secs(1)).await;
    }
    let mut first = host.audit.all().writes();
    let about_plugin = ["askers", "plugins", "storedcomponents"];
    first.retain(|what, _| !about_plugin.iter().any(|kind| what.contains(kind)));
    assert!(first.len() == zeros().len() && first.values().all(|count| *count == 1), "each child once: {first:?}");
    assert!(host.stop().await.success());
    let host = ns.host().await;
    host.settle(Duration::from_secs(2)).await;
    assert_eq!(host.audit.all().writes(), writes(&[]));
    let reads = host.audit.all().reads();
    let children =
        ["cronjobs", "deployments", "ingresses", "persistentvolumeclaims", "rolebindings", "secrets", "services"];
    let read = |kind: &str| reads.get(&format!("get {kind}")).copied().unwrap_or_default();
    assert!(children.iter().all(|kind| read(kind) <= 1), "each child is read once at most: {reads:?}");
    let events = ns.list::<Event>().await;
    assert!(!events.iter().any(|event| event["reason"] == "Corrected"), "{events:#?}");

    // and still, whoever sets one of them is found out
    let deployment = of::<Deployment>("x");
    ns.merge(&deployment, json!({ "spec": { "template": { "spec": { "hostNetwork": true } } } })).await;
    ns.wait_until(&deployment, |object| object["spec"]["template"]["spec"]["hostNetwork"].is_null()).await;
    let env = json!([{ "name": "A", "value": "x" }]);
    let pod = json!({ "containers": [{ "name": "c", "env": env }] });
    ns.strategic(&deployment, json!({ "spec": { "template": { "spec": pod } } })).await;
    let first = |object: &Value| object["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"].clone();
    ns.wait_until(&deployment, |object| first(object).is_null()).await;
    ns.wait_for(&object, condition("Ready", "True")).await;
}

#[tokio::test]
async fn rules_of_an_aggregated_role_are_left_to_its_controller() {
    let ns = TestCluster::shared().await.namespace("others-aggregated").await;
    let name = format!("others-{}", ns.name);
    let label = json!({ format!("{}/part", ns.name): "true" });
    let api_version = "rbac.authorization.k8s.io/v1";
    let whole = json!({ "apiVersion": api_version, "kind": "ClusterRole", "metadata": { "name": name }, "rules": [],
        "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": label }] } });
    let rules = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }]);
    let part = json!({ "apiVersion": api_version, "kind": "ClusterRole", "rules": rules,
        "metadata": { "name": format!("{name}-part"), "labels": label } });
    let host = ns.host().await;
    record(&ns, None).await;
    let object = ns.create(asker("a", &[whole.clone(), part])).await;
    ns.wait_until(&whole, |role| role["rules"] == rules).await;
    host.settle(Duration::from_secs(2)).await;
    let start = host.audit.mark();
    host.settle(Duration::from_secs(2)).await;
    assert_eq!((ns.get(&whole).await["rules"].clone(), wrote(&host, start).await), (rules, writes(&[])));
    ns.delete(&object).await;
    ns.wait_gone(&whole).await;
}

#[tokio::test]
async fn a_bundle_that_an_injector_fills_in_stays() {
    let ns = TestCluster::shared().await.namespace("others-bundle").await;
    let name = format!("others-{}", ns.name);
    let config = |bundle: &str| json!({ "caBundle": bundle, "service": { "name": "s", "namespace": ns.name } });
    let hook = |name: &str, bundle: &str| {
        json!({ "name": format!("{name}.example.com"), "clientConfig": config(bundle),
        "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Ignore",
        "objectSelector": { "matchLabels": { "nothing": "has-this" } },
        "rules": [{ "apiGroups": ["none.example.com"], "apiVersions": ["v1"], "resources": ["nothings"], "operations": ["CREATE"] }] })
    };
    let api_version = "admissionregistration.k8s.io/v1";
    let injected = json!({ "cert-manager.io/inject-ca-from": "n/c" });
    let mutating = json!({ "apiVersion": api_version, "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": name }, "webhooks": [hook("a", ""), hook("b", "Cg==")] });
    let validating = json!({ "apiVersion": api_version, "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": name, "annotations": injected }, "webhooks": [hook("a", "")] });
    let host = ns.host().await;
    record(&ns, None).await;
    let object = ns.create(asker("a", &[mutating.clone(), validating.clone()])).await;
    ns.wait_for(&object, condition("Synced", "True")).await;
    host.settle(Duration::from_secs(1)).await;
    let start = host.audit.mark();
    let pem = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1BPT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";
    for target in [&mutating, &validating] {
        let mut hooks = ns.get(target).await["webhooks"].clone();
        for hook in hooks.as_array_mut().unwrap() {
            hook["clientConfig"]["caBundle"] = json!(pem);
        }
        ns.patch_as(target, "cainjector", None, json!({ "webhooks": hooks })).await;
    }
    host.settle(Duration::from_secs(2)).await;
    assert_eq!(wrote(&host, start).await, writes(&[]));
    assert_eq!(ns.get(&mutating).await["webhooks"][1]["clientConfig"]["caBundle"], pem);
    ns.delete(&object).await;
    ns.wait_gone(&mutating).await;
}

/// By the child's own annotation, and by the `Plugin` resource.
#[rstest]
#[case::annotation(json!({ "transom.dev/set-once": "data.token, data[tls.crt]" }), json!(null))]
#[case::plugin(json!({}), json!([{ "kind": "ConfigMap", "fields": ["data.token", "data[tls.crt]"] }]))]
#[tokio::test]
async fn a_field_that_is_set_once_belongs_to_others_afterwards(#[case] annotations: Value, #[case] rules: Value) {
    let ns = TestCluster::shared().await.namespace("others-once").await;
    let host = ns.host().await;
    let plugin = record(&ns, None).await;
    ns.merge(&plugin, json!({ "spec": { "setOnce": rules } })).await;
    ns.wait_for(&plugin, condition("Ready", "True")).await;
    let map = |plain: &str| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m", "annotations": annotations },
        "data": { "token": "first", "tls.crt": "first", "plain": plain } })
    };
    let object = ns.create(asker("a", &[map("1")])).await;
    ns.wait_for(&object, condition("Synced", "True")).await;
    let target = of::<ConfigMap>("m");
    assert_eq!(ns.get(&target).await["data"]["token"], "first");
    host.settle(Duration::from_secs(1)).await;
    let start = host.audit.mark();
    ns.patch_as(&target, "rotator", None, json!({ "data": { "token": "second" } })).await;
    host.settle(Duration::from_secs(2)).await;
    assert_eq!(wrote(&host, start).await, writes(&[]));

    // the rest of it is repaired and upgraded beside it; what nobody has taken over stays, too
    ns.patch_as(&target, "somebody", None, json!({ "data": { "plain": "x" } })).await;
    ns.wait_until(&target, |map| map["data"]["plain"] == "1").await;
    ns.merge(&object, make(&[map("2")])).await;
    let there = ns.wait_until(&target, |map| map["data"]["plain"] == "2").await;
    assert_eq!((&there["data"]["token"], &there["data"]["tls.crt"]), (&json!("second"), &json!("first")));
    assert!(host.stop().await.success());
    let host = ns.host().await;
    host.settle(Duration::from_secs(2)).await;
    assert_eq!(host.audit.all().writes(), writes(&[]));
}

#[tokio::test]
async fn a_path_that_is_set_once_and_makes_no_sense_is_named() {
    let ns = TestCluster::shared().await.namespace("others-once-wrong").await;
    let _host = ns.host().await;
    let plugin = record(&ns, None).await;
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "m", "annotations": { "transom.dev/set-once": "data[x" } } });
    let object = ns.create(asker("a", &[map])).await;
    let refused = ns.wait_for(&object, condition("Synced", "False").because("MalformedChild")).await;
    assert!(refused.to_string().contains("[ is not closed by ]"), "{refused:#}");
    ns.merge(&plugin, json!({ "spec": { "setOnce": [{ "kind": "ConfigMap", "fields": ["data."] }] } })).await;
    let refused = ns.wait_until(&plugin, |plugin| plugin.to_string().contains("InvalidSetOnce")).await;
    assert!(refused.to_string().contains("spec.setOnce[0].fields[0]"), "{refused:#}");
}

/// Keys of a Secret that a controller adds are its own; one that the plugin sets is repaired, however often it is changed.
#[tokio::test]
async fn nobody_gets_a_field_by_writing_it_more_often() {
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" }, "data": { "a": "MQ==" } });
    let (ns, _host, _) = made("others-fight", &[secret]).await;
    let target = of::<Secret>("s");
    for _ in 0..4 {
        ns.patch_as(&target, "robot", None, json!({ "data": { "a": "Mg==", "b": "Mg==" } })).await;
        let there = ns.wait_until(&target, |secret| secret["data"]["a"] == "MQ==").await;
        assert_eq!(there["data"]["b"], "Mg==");
    }
}
