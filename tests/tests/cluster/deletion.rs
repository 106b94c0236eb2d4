//! The end of a primary.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::json;
use transom_tests::{HostOptions, TestCluster, component, condition, condition_of, of, sample, unique};

use crate::{ready_web, writes};

#[tokio::test]
async fn children_go_with_their_primary_by_the_garbage_collector() {
    let ns = TestCluster::shared().await.namespace("gone").await;
    let host = ns.host().await;
    ns.install(&component("web").await).await;
    let web = ready_web(&ns, "shop").await;
    ready_web(&ns, "other").await;
    host.settle(Duration::from_secs(1)).await;
    let start = host.audit.mark();

    ns.delete(&web).await;
    ns.wait_gone(&web).await;
    for child in [of::<ConfigMap>("shop"), of::<Service>("shop"), of::<NetworkPolicy>("shop"), of::<Deployment>("shop")]
    {
        ns.wait_gone(child).await;
    }
    assert_eq!(host.writes_since(start).await, writes(&[]), "owner references are enough");
    ns.get(of::<ConfigMap>("other")).await;
}

#[tokio::test]
async fn a_plugin_that_finalizes_is_asked_before_its_primary_goes() {
    let ns = TestCluster::shared().await.namespace("finalize").await;
    let host = ns.host().await;
    ns.install(&component("hostile").await).await;
    let good = ns.create(sample::hostile("good", "configMap")).await;
    let good = ns.wait_for(&good, condition("Ready", "True")).await;
    assert_eq!(good["metadata"]["finalizers"], json!(["transom.dev/cleanup"]));
    host.settle(Duration::from_secs(1)).await;
    let start = host.audit.mark();

    ns.delete(&good).await;
    ns.wait_gone(&good).await;
    assert_eq!(ns.find(of::<ConfigMap>("good")).await, None, "children go first");
    assert_eq!(host.writes_since(start).await, writes(&[("delete configmaps", 1), ("patch hostiles", 1)]));
}

#[tokio::test]
async fn a_primary_stays_until_its_plugin_has_finished() {
    let ns = TestCluster::shared().await.namespace("unfinished").await;
    let host = ns.host().await;
    ns.install(&component("hostile").await).await;
    let endless = ns.create(sample::hostile("endless", "finalizerNeverDone")).await;
    let good = ns.create(sample::hostile("good", "configMap")).await;
    for object in [&endless, &good] {
        ns.wait_for(object, condition("Ready", "True")).await;
    }
    ns.delete(&endless).await;
    let called = host.metrics().await.sum("transom_plugin_calls_total", &[]);
    ns.delete(&good).await;
    ns.wait_gone(&good).await;
    host.wait_for_metrics(|metrics| metrics.sum("transom_plugin_calls_total", &[]) > called).await;
    host.settle(Duration::from_secs(1)).await;
    let left = ns.get(&endless).await;
    assert_eq!(left["metadata"]["finalizers"], json!(["transom.dev/cleanup"]));
    assert!(left["metadata"]["deletionTimestamp"].is_string());
}

/// Requirement H8: a plugin that is broken never makes an object undeletable.
#[tokio::test]
async fn a_plugin_that_fails_in_deletion_cannot_keep_an_object_for_ever() {
    let ns = TestCluster::shared().await.namespace("forced").await;
    let host = ns.host().await;
    let mut spec = component("hostile").await.spec();
    spec["deletionTimeoutSeconds"] = json!(2);
    let record = ns.record("hostile", spec).await;
    ns.wait_for(&record, condition("Ready", "True")).await;
    let broken = ns.create(sample::hostile("broken", "trapInDeletion")).await;
    ns.wait_for(&broken, condition("Ready", "True")).await;
    let made = ns.get(of::<ConfigMap>("broken")).await;

    ns.delete(&broken).await;
    let told = ns.wait_until(&broken, |object| condition_of(object, "Synced")["reason"] == "PluginTrapped").await;
    assert_eq!(told["metadata"]["finalizers"], json!(["transom.dev/cleanup"]), "it is waited for");
    ns.wait_gone(&broken).await;
    ns.wait_gone(&made).await;
    let event = ns.wait_for_any::<Event>("", |event| event["reason"] == "CleanupForced").await;
    assert!(event["note"].as_str().unwrap().contains("waited for 2 s"), "{event}");
    assert_eq!(host.audit.all().writes().get("delete configmaps"), Some(&1));
}

/// Requirement H8: nor does one that is missing.
#[tokio::test]
async fn objects_can_be_deleted_when_no_version_of_their_plugin_can_be_loaded() {
    let (ns, folder) = (TestCluster::shared().await.namespace("missing").await, tempfile::tempdir().unwrap());
    // nor from a cache
    let cache = |name: &str| HostOptions { cache_dir: Some(folder.path().join(name)), ..HostOptions::default() };
    let host = ns.host_with(cache("first")).await;
    let plugin = unique(&component("hostile").await, "missing", folder.path());
    let mut spec = plugin.spec();
    spec["deletionTimeoutSeconds"] = json!(2);
    let record = ns.record("hostile", spec).await;
    ns.wait_for(&record, condition("Ready", "True")).await;
    let [kept, gone] = ["kept", "gone"].map(|name| sample::hostile(name, "configMap"));
    let (kept, gone) = (ns.create(kept).await, ns.create(gone).await);
    for object in [&kept, &gone] {
        ns.wait_for(object, condition("Ready", "True")).await;
    }
    host.settle(Duration::from_secs(1)).await;
    host.stop().await;

    let nowhere = json!({ "source": { "file": { "path": "/nowhere/hostile.wasm" } },
        "digest": format!("sha256:{}", "0".repeat(64)) });
    ns.merge(&record, json!({ "spec": nowhere })).await;
    std::fs::remove_file(&plugin.path).unwrap();
    let name = record["metadata"]["name"].as_str().unwrap();
    for part in ns.everywhere::<sample::StoredComponent>(&format!("transom.dev/stored-for={name}")).await {
        ns.delete(&part).await;
    }
    let host = ns.host_with(cache("second")).await;
    ns.wait_for(&record, condition("Ready", "False").because("ServingVersionMissing")).await;
    let made = ns.get(of::<ConfigMap>("gone")).await;
    ns.delete(&gone).await;
    ns.wait_gone(&gone).await;
    ns.wait_gone(&made).await;
    host.settle(Duration::from_secs(1)).await;
    ns.get(of::<ConfigMap>("kept")).await;
    assert_eq!(ns.get(&kept).await["metadata"]["finalizers"], json!(["transom.dev/cleanup"]), "left as it was");
}

#[tokio::test]
async fn a_plugin_that_objects_still_need_goes_after_them() {
    let ns = TestCluster::shared().await.namespace("retire").await;
    let host = ns.host().await;
    let record = ns.install(&component("hostile").await).await;
    let good = ns.create(sample::hostile("good", "configMap")).await;
    ns.wait_for(&good, condition("Ready", "True")).await;
    ns.delete(&record).await;
    let waits = ns.wait_until(&record, |record| record["status"]["phase"] == "Terminating").await;
    let message = condition_of(&waits, "Ready")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("after 1 object:"), "{message}");

    let calls = host.metrics().await.sum("transom_plugin_calls_total", &[]);
    ns.delete(&good).await;
    ns.wait_gone(&good).await;
    assert!(host.metrics().await.sum("transom_plugin_calls_total", &[]) > calls, "its plugin was asked");
    ns.wait_gone(&record).await;
}
