//! Plugins that misbehave. The component is `tests/plugins/hostile`.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::events::v1::Event;
use rstest::rstest;
use serde_json::{Value, json};
use transom_tests::{Host, Namespace, TestCluster, component, condition, condition_of, of, sample};

/// A namespace with a host that serves the plugin.
async fn served(limits: Value) -> (Namespace, Host) {
    let ns = TestCluster::shared().await.namespace("hostile").await;
    let host = ns.host().await;
    let mut spec = component("hostile").await.spec();
    spec["limits"] = limits;
    let record = ns.record("hostile", spec).await;
    ns.wait_for(&record, condition("Ready", "True")).await;
    (ns, host)
}

#[rstest]
#[case::looping("loop", "DeadlineExceeded")]
#[case::trapping("trap", "PluginTrapped")]
#[case::panicking("panic", "PluginTrapped")]
#[case::taking_memory("allocate", "OutOfMemory")]
#[case::answering_with_100_megabytes("oversize", "ResponseTooLarge")]
#[case::answering_with_broken_json("malformedJson", "MalformedChild")]
#[case::answering_with_an_array("notAnObject", "MalformedChild")]
#[case::answering_with_deep_json("deepJson", "MalformedChild")]
#[case::claiming_another_kind("undeclaredKind", "UndeclaredKind")]
#[case::claiming_another_namespace("foreignNamespace", "ForeignNamespace")]
#[case::asking_twice_for_one_child("duplicateChild", "DuplicateChild")]
#[case::asking_for_ten_thousand_children("tooManyChildren", "TooManyChildren")]
#[case::inventing_a_condition("badCondition", "MalformedStatus")]
#[case::asking_for_ever("askForever", "TooManyRounds")]
#[tokio::test]
async fn an_object_whose_plugin_misbehaves_is_alone_with_it(#[case] behaviour: &str, #[case] reason: &str) {
    let limits = match behaviour {
        // So much memory, and time, that an answer of 100 MB can be made at all.
        "oversize" => json!({ "memory": "512Mi", "deadlineMilliseconds": 20_000 }),
        _ => json!({}),
    };
    let (ns, host) = served(limits).await;
    let bad = ns.create(sample::hostile("bad", behaviour)).await;
    let good = ns.create(sample::hostile("good", "configMap")).await;

    let bad = ns.wait_for(&bad, condition("Synced", "False").because(reason)).await;
    assert_ne!(condition_of(&bad, "Synced")["message"], "");
    let ready = condition_of(&bad, "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!(reason)));
    assert_eq!(ready["message"], condition_of(&bad, "Synced")["message"]);
    // A refused child is the plugin's to report on; any other failure leaves nothing of this generation to report.
    let observed = matches!(reason, "UndeclaredKind" | "ForeignNamespace").then_some(1);
    assert_eq!(bad["status"]["observedGeneration"], json!(observed));
    let is_told = |event: &Value| event["regarding"]["uid"] == bad["metadata"]["uid"] && event["reason"] == reason;
    let event = ns.wait_for_any::<Event>("", is_told).await;
    assert_eq!((&event["type"], &event["note"]), (&json!("Warning"), &condition_of(&bad, "Synced")["message"]));

    // The other is served before and after.
    let good = ns.wait_for(&good, condition("Ready", "True")).await;
    let renamed = ns.merge(&good, json!({ "spec": { "name": "renamed" } })).await;
    let after = ns.wait_for(&renamed, condition("Ready", "True")).await;
    assert_eq!(condition_of(&after, "Ready")["lastTransitionTime"], condition_of(&good, "Ready")["lastTransitionTime"]);

    // Nothing was made for the bad one, here or elsewhere.
    let owned = format!("transom.dev/owner-uid={}", bad["metadata"]["uid"].as_str().unwrap());
    assert_eq!(ns.everywhere::<ConfigMap>(&owned).await, Vec::<Value>::new());
    assert_eq!(ns.everywhere::<Secret>(&owned).await, Vec::<Value>::new());
    let mut names: Vec<Value> =
        ns.list::<ConfigMap>().await.iter().map(|map| map["metadata"]["name"].clone()).collect();
    names.retain(|name| name != "kube-root-ca.crt");
    assert_eq!(names, ["renamed"]);
    assert!(host.is_healthy().await);
}

/// What a limit of instructions refuses, it refuses on every machine at the same instruction.
#[tokio::test]
async fn a_call_that_does_more_than_its_fuel_allows_is_stopped() {
    let (ns, _host) = served(json!({ "fuel": 50_000_000, "deadlineMilliseconds": 30_000 })).await;
    let bad = ns.create(sample::hostile("bad", "loop")).await;
    let good = ns.create(sample::hostile("good", "configMap")).await;
    ns.wait_for(&good, condition("Ready", "True")).await;
    let bad = ns.wait_for(&bad, condition("Synced", "False").because("OutOfFuel")).await;
    let message = condition_of(&bad, "Synced")["message"].clone();
    assert_eq!(message, "the plugin did not finish with a fuel of 50000000");
}

#[tokio::test]
async fn an_object_recovers_when_its_plugin_behaves_again() {
    let (ns, _host) = served(json!({})).await;
    let object = ns.create(sample::hostile("bad", "trap")).await;
    ns.wait_for(&object, condition("Synced", "False").because("PluginTrapped")).await;
    let object = ns.merge(&object, json!({ "spec": { "behaviour": "configMap" } })).await;
    ns.wait_for(&object, condition("Ready", "True")).await;
    ns.get(of::<ConfigMap>("bad")).await;
}

/// One that worked, and fails now, keeps what it has: a failing plugin breaks no running workload. But it is not Ready: its
/// spec is not carried out.
#[tokio::test]
async fn children_stay_and_the_object_is_not_ready_when_the_plugin_begins_to_fail() {
    let (ns, _host) = served(json!({})).await;
    let object = ns.create(sample::hostile("turncoat", "configMap")).await;
    let before = ns.wait_for(&object, condition("Ready", "True")).await;
    let child = ns.get(of::<ConfigMap>("turncoat")).await;
    let object = ns.merge(&object, json!({ "spec": { "behaviour": "panic" } })).await;
    let after = ns.wait_for(&object, condition("Synced", "False").because("PluginTrapped")).await;
    let (ready, synced) = (condition_of(&after, "Ready"), condition_of(&after, "Synced"));
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("PluginTrapped")));
    assert_eq!(ready["message"], synced["message"]);
    assert_ne!(ready["observedGeneration"], condition_of(&before, "Ready")["observedGeneration"]);
    assert_eq!(after["status"]["observedGeneration"], 1, "the plugin's own fields speak of the generation before");
    assert_eq!(ns.get(of::<ConfigMap>("turncoat")).await, child);
    let words = condition_of(&after, "Synced")["message"].as_str().unwrap().to_owned();
    assert!(words.contains("turncoat wants a panic"), "the panic's own words: {words}");
    let object = ns.merge(&object, json!({ "spec": { "behaviour": "configMap" } })).await;
    ns.wait_for(&object, condition("Ready", "True")).await;
}

#[tokio::test]
async fn a_message_that_is_too_long_is_cut() {
    let (ns, _host) = served(json!({})).await;
    let object = ns.create(sample::hostile("verbose", "hugeMessage")).await;
    let object = ns.wait_for(&object, condition("Ready", "True").because("Huge")).await;
    let message = condition_of(&object, "Ready")["message"].as_str().unwrap().to_owned();
    assert_eq!((message.len(), message.trim_start_matches('x')), (32_768, "…"));
}

#[tokio::test]
async fn a_failing_object_is_tried_again_ever_more_seldom() {
    let (ns, host) = served(json!({})).await;
    let object = ns.create(sample::hostile("bad", "trap")).await;
    ns.wait_for(&object, condition("Synced", "False")).await;
    let trapped = async || host.metrics().await.sum("transom_plugin_calls_total", &["outcome=\"PluginTrapped\""]);
    // 0.5 s, 1 s, 2 s, 4 s: after four calls it rests for at least 3.2 s.
    host.wait_for_metrics(|m| m.sum("transom_plugin_calls_total", &["outcome=\"PluginTrapped\""]) >= 4.0).await;
    let requests = host.observe(Duration::from_secs(2)).await;
    assert_eq!(trapped().await, 4.0);
    assert_eq!(requests.writes(), crate::writes(&[]), "the same failure is not written again");
}

/// With a deadline of 5 s: it is in the middle of a call when it is told to stop.
#[tokio::test]
async fn a_host_that_is_told_to_stop_does_not_wait_for_a_plugin_for_ever() {
    let (ns, host) = served(json!({ "deadlineMilliseconds": 5_000 })).await;
    let good = ns.create(sample::hostile("good", "configMap")).await;
    ns.wait_for(&good, condition("Ready", "True")).await;
    let bad = ns.create(sample::hostile("bad", "loop")).await;
    ns.wait_until(&bad, |bad| bad["metadata"]["finalizers"].is_array()).await;
    assert_eq!(host.stop().await.code(), Some(0));
}
