//! Instances whose objects the API server refuses: the status says so at once, with its words, and they go on when the
//! cause ends. The chart is `tests/charts/odd`.

use std::time::{Duration, Instant};

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use serde_json::{Value, json};
use transom_tests::{condition, condition_of, of, sample};

use crate::instance::Platform;

/// A refusal is in the status after this time, however slow the machine: it is no matter of a time-out (120 s here).
const AT_ONCE: Duration = Duration::from_secs(40);

fn instance() -> transom_tests::Target {
    of::<sample::CaelusInstance>("shop")
}

fn message(object: &Value) -> String {
    object["status"]["message"].as_str().unwrap_or_default().to_owned()
}

/// Waits until the instance has failed with these words, and says how.
async fn failed(platform: &Platform, words: &str) -> Value {
    let start = Instant::now();
    let object = platform
        .ns
        .wait_until(instance(), |object| object["status"]["phase"] == "Failed" && message(object).contains(words))
        .await;
    assert!(start.elapsed() < AT_ONCE, "after {:?}: {object:#}", start.elapsed());
    let object = platform.ns.wait_for(&object, condition("Ready", "False")).await;
    assert!(!message(&object).contains("Event"), "the reason itself: {object:#}");
    object
}

async fn values(platform: &Platform, values: Value) {
    platform.ns.merge(instance(), json!({ "spec": { "values": values } })).await;
}

#[tokio::test]
async fn an_object_over_the_quota_fails_a_first_release_at_once_and_it_recovers_when_the_quota_is_raised() {
    let platform = Platform::start("refused-quota").await;
    platform.template("v1", "odd", json!({ "claim": "100Gi" })).await;
    platform.instance("v1", json!({})).await;
    let object = failed(&platform, "exceeded quota: caelus-quota").await;
    assert!(message(&object).contains("PersistentVolumeClaim"), "{object:#}");
    let ready = condition_of(&object, "Ready");
    assert!(ready["message"].as_str().unwrap().contains("exceeded quota"), "{object:#}");
    assert_eq!(condition_of(&object, "Released")["status"], "False");
    let config = json!({ "quota": { "requests.storage": "200Gi" } });
    platform.ns.merge(&platform.record, json!({ "spec": { "config": config } })).await;
    platform.phase("Running", 1).await;
    platform.own.get(of::<PersistentVolumeClaim>("data")).await;
    platform.end().await;
}

#[tokio::test]
async fn an_upgrade_with_an_object_over_the_quota_is_rolled_back_at_once() {
    let platform = Platform::start("refused-upgrade").await;
    platform.template("v1", "odd", json!({})).await;
    platform.instance("v1", json!({})).await;
    platform.phase("Running", 1).await;
    values(&platform, json!({ "claim": "100Gi", "greeting": "good day" })).await;
    let object = failed(&platform, "revision 2 has failed and revision 3 is the release before it again").await;
    assert!(message(&object).contains("exceeded quota: caelus-quota"), "{object:#}");
    let object = platform.ns.wait_for(&object, condition("Ready", "False").because("UpgradeFailed")).await;
    assert_eq!(object["status"]["release"]["revision"], 3);
    assert_eq!(platform.own.get(of::<ConfigMap>("settings")).await["data"]["greeting"], "hello");
    platform.ns.wait_until(instance(), |object| condition_of(object, "WorkloadsReady")["status"] == "True").await;
    platform.end().await;
}

#[tokio::test]
async fn fields_and_kinds_that_do_not_exist_and_hooks_that_are_invalid_fail_at_once_with_the_words() {
    let platform = Platform::start("refused-invalid").await;
    platform.template("v1", "odd", json!({ "unknown": true })).await;
    platform.instance("v1", json!({})).await;
    let object = failed(&platform, "imagePolicy").await;
    assert!(message(&object).contains("Deployment"), "{object:#}");
    values(&platform, json!({ "unknown": false, "monitor": true })).await;
    failed(&platform, "ServiceMonitor").await;
    values(&platform, json!({ "unknown": false, "monitor": false, "hook": "invalid" })).await;
    let object = failed(&platform, "the hook Job migrate (pre-install): ").await;
    assert!(message(&object).contains("restartPolicy"), "{object:#}");
    values(&platform, json!({ "unknown": false, "monitor": false, "hook": "fine" })).await;
    platform.phase("Running", 4).await;
    // the same in an upgrade: what ran runs
    values(&platform, json!({ "unknown": false, "monitor": false, "hook": "invalid" })).await;
    let object = failed(&platform, "the hook Job migrate (pre-upgrade): ").await;
    assert_eq!(object["status"]["release"]["revision"], 6);
    platform.end().await;
}

#[tokio::test]
async fn a_webhook_that_is_down_is_waited_for_and_then_late_with_its_words() {
    let platform = Platform::start("refused-webhook").await;
    let own = &platform.own;
    let template = platform.template("v1", "odd", json!({})).await;
    platform.ns.merge(&template, json!({ "spec": { "timeoutSeconds": 15 } })).await;
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": own.name },
        "webhooks": [{
            "name": "down.tests.transom.dev", "failurePolicy": "Fail", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "timeoutSeconds": 1,
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": own.name } },
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["serviceaccounts"],
                "operations": ["CREATE", "UPDATE"] }],
            "clientConfig": { "url": "https://127.0.0.1:1/validate" },
        }],
    });
    let webhook = platform.ns.create(webhook).await;
    platform.instance("v1", json!({})).await;
    let words = "down.tests.transom.dev";
    let object = platform.ns.wait_until(instance(), |object| message(object).contains(words)).await;
    assert_eq!(object["status"]["phase"], "Pending", "it may pass: {object:#}");
    let object = failed(&platform, "not done within 15 s: ").await;
    assert!(message(&object).contains(words), "{object:#}");
    platform.ns.delete(of::<ValidatingWebhookConfiguration>(webhook["metadata"]["name"].as_str().unwrap())).await;
    platform.phase("Running", 1).await;
    platform.end().await;
}
