//! What charts do that a plain create forgives, and what of a release lasts. The chart is `tests/charts/odd`.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace as KubeNamespace, Pod, Service};
use serde_json::{Value, json};
use transom_tests::{condition, condition_of, of, sample};

use crate::instance::Platform;
use crate::writes;

/// Pods of this image are run by nobody.
const BY_HAND: &str = "registry.example/by-hand:1";

fn message(object: &Value) -> String {
    object["status"]["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn lists_with_a_key_twice_are_applied_as_the_kubelet_understands_them() {
    let platform = Platform::start("odd-lists").await;
    platform.template("v1", "odd", json!({})).await;
    platform.instance("v1", json!({})).await;
    platform.phase("Running", 1).await;
    let pod = platform.own.get(of::<Deployment>("app")).await["spec"]["template"]["spec"].clone();
    let container = &pod["containers"][0];
    let expected = json!([{ "name": "URL", "value": "/default/index" }, { "name": "PREFIX", "value": "/chosen" }]);
    assert_eq!(container["env"], expected);
    let port = json!([{ "name": "http", "containerPort": 8080, "protocol": "TCP" }]);
    assert_eq!((&container["ports"], &container["readinessProbe"]["tcpSocket"]["port"]), (&port, &json!(8080)));
    assert_eq!(pod["hostAliases"], json!([{ "ip": "10.1.2.3", "hostnames": ["a.example", "b.example"] }]));
    assert_eq!(pod["imagePullSecrets"], json!([{ "name": "pull" }]));
    let service = platform.own.get(of::<Service>("app")).await;
    let targets: Vec<&Value> =
        service["spec"]["ports"].as_array().unwrap().iter().map(|port| &port["targetPort"]).collect();
    assert_eq!(targets, [&json!("http"), &json!(8080)]);
    platform.end().await;
}

#[tokio::test]
async fn jobs_that_the_cluster_would_clean_up_run_once_for_each_release() {
    let platform = Platform::start("odd-jobs").await;
    let (own, audit) = (&platform.own, &platform.host.audit);
    let start = audit.mark();
    platform.template("v1", "odd", json!({ "job": true, "hook": "short", "image": BY_HAND })).await;
    let object = platform.instance("v1", json!({})).await;
    let job = own.wait_until(of::<Job>("import"), |job| job["status"]["succeeded"] == 1).await;
    assert!(job["spec"]["ttlSecondsAfterFinished"].is_null(), "{job:#}");
    platform.ns.wait_until(&object, |object| message(object).starts_with("Deployment app")).await;
    // somebody cleans up before the release is done
    platform.host.rest().await;
    own.delete(of::<Job>("import")).await;
    own.delete(of::<Service>("app")).await;
    own.wait_until(of::<Service>("app"), |service| service["metadata"]["deletionTimestamp"].is_null()).await;
    platform.host.rest().await;
    assert!(own.find(of::<Job>("import")).await.is_none(), "it has run");
    own.wait_gone(of::<Job>("migrate")).await;
    let made = |import: usize, migrate: usize| writes(&[("import", import), ("migrate", migrate)]);
    assert_eq!(audit.since(start).writes_of("jobs"), made(1, 2), "one run, and the hook goes as it says");
    // the next release runs them once more, and both go
    platform.ns.merge(&object, json!({ "spec": { "values": { "image": "registry.example/odd:1" } } })).await;
    platform.phase("Running", 2).await;
    own.wait_gone(of::<Job>("import")).await;
    own.wait_gone(of::<Job>("migrate")).await;
    platform.host.rest().await;
    assert_eq!(audit.since(start).writes_of("jobs"), made(3, 4));
    platform.end().await;
}

#[tokio::test]
async fn what_is_deleted_by_hand_comes_back_after_the_deadline_of_a_release() {
    let platform = Platform::start("odd-drift").await;
    let Platform { ns, own, .. } = &platform;
    let template = platform.template("v1", "odd", json!({ "image": BY_HAND })).await;
    ns.merge(&template, json!({ "spec": { "timeoutSeconds": 5 } })).await;
    let object = platform.instance("v1", json!({})).await;
    let object = ns.wait_for(&object, condition("Ready", "False").because("DeadlineExceeded")).await;
    assert_eq!(object["status"]["phase"], "Failed");
    for (name, lost) in [("settings", of::<ConfigMap>("settings")), ("app", of::<Service>("app"))] {
        let before = own.get(&lost).await;
        own.delete(&lost).await;
        let is_new = |object: &Value| {
            object["metadata"]["deletionTimestamp"].is_null() && object["metadata"]["uid"] != before["metadata"]["uid"]
        };
        own.wait_until(&lost, is_new).await;
        let status = ns.get(&object).await["status"].clone();
        assert_eq!((&status["phase"], &status["release"]["revision"]), (&json!("Failed"), &json!(1)), "{name}");
    }
    let is_open = |pod: &Value| !pod["spec"]["nodeName"].is_null();
    let pod = own.wait_for_any::<Pod>("app=app", is_open).await;
    let ready = json!([{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }]);
    own.merge_status(&pod, json!({ "phase": "Running", "conditions": ready })).await;
    platform.phase("Running", 1).await;
    // and when it runs, however long ago it was deployed
    let map = own.get(of::<ConfigMap>("settings")).await;
    own.delete(&map).await;
    own.wait_until(of::<ConfigMap>("settings"), |new| new["metadata"]["uid"] != map["metadata"]["uid"]).await;
    platform.end().await;
}

#[tokio::test]
async fn a_deletion_that_hangs_says_what_it_waits_for() {
    let platform = Platform::start("odd-hanging").await;
    let Platform { ns, own, .. } = &platform;
    platform.template("v1", "odd", json!({})).await;
    platform.instance("v1", json!({})).await;
    let object = platform.phase("Running", 1).await;
    let finalizer = "tests.transom.dev/hold";
    own.merge(of::<ConfigMap>("settings"), json!({ "metadata": { "finalizers": [finalizer] } })).await;
    ns.delete(&object).await;
    let object = ns.wait_until(&object, |object| message(object).contains(finalizer)).await;
    assert_eq!(object["status"]["phase"], "Deleting");
    assert!(message(&object).contains("ConfigMap settings"), "{object:#}");
    assert_eq!(condition_of(&object, "Ready")["status"], "False", "{object:#}");
    own.merge(of::<ConfigMap>("settings"), json!({ "metadata": { "finalizers": null } })).await;
    ns.wait_gone(&object).await;
    ns.wait_gone(of::<KubeNamespace>(&own.name)).await;
}

#[tokio::test]
async fn a_kept_definition_outlives_the_instance_and_its_namespace_does_not() {
    let platform = Platform::start("odd-kept").await;
    let Platform { ns, own, .. } = &platform;
    platform.template("v1", "odd", json!({ "definition": "keepers" })).await;
    platform.instance("v1", json!({})).await;
    let object = platform.phase("Running", 1).await;
    let keepers = of::<sample::CustomResourceDefinition>("keepers.odd.tests.transom.dev");
    ns.delete(&object).await;
    ns.wait_gone(&object).await;
    ns.wait_gone(of::<KubeNamespace>(&own.name)).await;
    let kept = ns.get(&keepers).await;
    assert!(kept["metadata"]["deletionTimestamp"].is_null(), "{kept:#}");
    ns.delete(&keepers).await;
}
