//! The end of a primary.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::json;
use transom_tests::{TestCluster, component, condition, of, sample};

use crate::{ready_web, writes};

#[tokio::test]
async fn children_go_with_their_primary_by_the_garbage_collector() {
    let ns = TestCluster::shared().await.namespace("gone").await;
    let host = ns.host().await;
    ns.install(&component("web").await).await;
    let web = ready_web(&ns, "shop").await;
    ready_web(&ns, "other").await;
    host.settle(Duration::from_millis(500)).await;
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
    host.settle(Duration::from_millis(500)).await;
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
