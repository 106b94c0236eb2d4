//! What the API server does not take reaches the object's conditions, with its words, and the plugin.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, ResourceQuota};
use k8s_openapi::api::events::v1::Event;
use rstest::rstest;
use serde_json::{Value, json};
use transom_tests::{Host, Namespace, TestCluster, condition, condition_of, of};

use crate::kinds::{asker, make, record};

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "a": "1" } })
}

fn deployment(container: Value) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" }, "spec": {
        "selector": { "matchLabels": { "app": "d" } },
        "template": { "metadata": { "labels": { "app": "d" } }, "spec": { "containers": [container] } } } })
}

async fn start(name: &str) -> (Namespace, Host) {
    let ns = TestCluster::shared().await.namespace(name).await;
    let host = ns.host().await;
    record(&ns, None).await;
    (ns, host)
}

/// Whatever the refusal: the conditions have the object and the words, the plugin has seen it, other children are there.
#[rstest]
#[case::invalid("refusals-invalid", deployment(json!({ "name": "c", "image": "" })), "ApplyFailed", "Deployment", "Required value")]
#[case::unknown_field("refusals-field", deployment(json!({ "name": "c", "image": "x", "colour": "red" })), "ApplyFailed", "Deployment", "field not declared in schema")]
#[case::key_twice("refusals-twice", deployment(json!({ "name": "c", "image": "x",
    "env": [{ "name": "A", "value": "1" }, { "name": "A", "value": "2" }] })), "ApplyFailed", "Deployment", "duplicate entries for key")]
#[case::not_served("refusals-kind", json!({ "apiVersion": "none.example/v1", "kind": "Nothing", "metadata": { "name": "d" } }),
    "KindNotServed", "Nothing", "does not serve")]
#[tokio::test]
async fn a_refusal_is_in_the_conditions_within_seconds(
    #[case] name: &str,
    #[case] object: Value,
    #[case] reason: &str,
    #[case] kind: &str,
    #[case] words: &str,
) {
    let (ns, _host) = start(name).await;
    let object = ns.create(asker("a", &[map("beside"), object])).await;
    let refused = ns.wait_for(&object, condition("Ready", "False").because(reason)).await;
    let ready = condition_of(&refused, "Ready").clone();
    let message = ready["message"].as_str().unwrap();
    assert!(message.contains(kind) && message.contains(words), "{message}");
    assert_eq!(condition_of(&refused, "Synced")["status"], "False");
    assert_eq!(condition_of(&refused, "Synced")["message"], ready["message"]);
    // what the plugin says of it is published
    let name = if kind == "Nothing" { "Nothing d" } else { "Deployment d" };
    assert_eq!(refused["status"]["made"][1], format!("{name} Failed"), "{refused:#}");
    if kind == "Deployment" {
        ns.get(of::<ConfigMap>("beside")).await;
    }
    // and the cause stays while the host tries again
    let later = ns.merge(&object, json!({ "metadata": { "labels": { "look": "again" } } })).await;
    assert_eq!(condition_of(&later, "Ready")["message"], ready["message"]);
    // until the object is mended
    ns.merge(&object, make(&[map("beside")])).await;
    ns.wait_for(&object, condition("Ready", "True")).await;
}

#[tokio::test]
async fn an_object_over_a_quota_is_made_when_the_quota_allows_it() {
    let (ns, _host) = start("refusals-quota").await;
    let quota = |maps: u32| json!({ "spec": { "hard": { "count/configmaps": maps.to_string() } } });
    let mut object = quota(1); // kube-root-ca.crt
    object["metadata"] = json!({ "name": "q" });
    object["apiVersion"] = json!("v1");
    object["kind"] = json!("ResourceQuota");
    ns.create(object).await;
    ns.wait_until(of::<ResourceQuota>("q"), |quota| quota["status"]["used"]["count/configmaps"] == "1").await;
    let object = ns.create(asker("a", &[map("one")])).await;
    let refused = ns.wait_for(&object, condition("Ready", "False").because("ApplyFailed")).await;
    assert!(condition_of(&refused, "Ready")["message"].as_str().unwrap().contains("exceeded quota: q"), "{refused:#}");
    assert_eq!(refused["status"]["made"][0], "ConfigMap one Failed");
    ns.merge(of::<ResourceQuota>("q"), quota(5)).await;
    let there = ns.wait_for(&object, condition("Ready", "True")).await;
    assert_eq!(there["status"]["made"][0], "ConfigMap one Ready");
}

#[tokio::test]
async fn an_object_of_somebody_else_is_a_refusal_until_it_goes() {
    let (ns, _host) = start("refusals-foreign").await;
    ns.create(map("mine")).await;
    let object = ns.create(asker("a", &[map("mine")])).await;
    let refused = ns.wait_for(&object, condition("Ready", "False").because("ChildConflict")).await;
    assert_eq!(refused["status"]["made"][0], "ConfigMap mine Failed");
    ns.delete(of::<ConfigMap>("mine")).await;
    ns.wait_for(&object, condition("Ready", "True")).await;
}

/// A child that another one cannot do without comes first; when it is refused, the rest is not begun.
#[tokio::test]
async fn what_comes_after_a_refused_child_waits_for_it() {
    let (ns, _host) = start("refusals-order").await;
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "not/a/name" } });
    let object = ns.create(asker("a", &[account, map("after")])).await;
    ns.wait_for(&object, condition("Ready", "False").because("ApplyFailed")).await;
    assert!(ns.find(of::<ConfigMap>("after")).await.is_none());
}

/// One Event for a refusal, not one for each try.
#[tokio::test]
async fn a_refusal_is_one_event_with_the_words() {
    let (ns, host) = start("refusals-event").await;
    let object = ns.create(asker("a", &[deployment(json!({ "name": "c", "image": "" }))])).await;
    ns.wait_for(&object, condition("Ready", "False").because("ApplyFailed")).await;
    host.settle(Duration::from_secs(2)).await;
    let events = ns.list::<Event>().await;
    let about: Vec<&Value> = events.iter().filter(|event| event["reason"] == "ApplyFailed").collect();
    assert_eq!(about.len(), 1, "{about:#?}");
    assert!(
        about[0]["note"].as_str().unwrap().contains("Required value") && about[0]["series"].is_null(),
        "{about:#?}"
    );
}

#[tokio::test]
async fn a_deletion_that_hangs_says_what_it_waits_for() {
    let (ns, _host) = start("refusals-deletion").await;
    let name = format!("held-{}", ns.name);
    let class = json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 7, "metadata": { "name": name } });
    let object = ns.create(asker("a", std::slice::from_ref(&class))).await;
    ns.wait_for(&object, condition("Ready", "True")).await;
    ns.merge(&class, json!({ "metadata": { "finalizers": ["example.com/held"] } })).await;
    ns.delete(&object).await;
    let hangs = ns.wait_for(&object, condition("Ready", "False").because("Terminating")).await;
    let message = condition_of(&hangs, "Ready")["message"].clone();
    assert_eq!(message, format!("waiting for PriorityClass {name} (finalizer example.com/held)"));
    ns.merge(&class, json!({ "metadata": { "finalizers": null } })).await;
    ns.wait_gone(&object).await;
}
