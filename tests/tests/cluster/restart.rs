//! A host that ends and is started again.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use serde_json::json;
use transom_tests::{Metrics, TestCluster, component, condition, of, sample};

use crate::{ready_domain, ready_web, writes};

fn synced(metrics: &Metrics) -> f64 {
    metrics.sum("transom_reconciles_total", &["outcome=\"Synced\""])
}

#[tokio::test]
async fn a_host_that_was_killed_and_started_again_writes_nothing() {
    let ns = TestCluster::shared().await.namespace("restart").await;
    let host = ns.host().await;
    for name in ["web", "domain"] {
        ns.install(&component(name).await).await;
    }
    let names: Vec<String> = (0..20).map(|number| format!("shop-{number}")).collect();
    join_all(names.iter().map(|name| ready_web(&ns, name))).await;
    ready_domain(&ns, "orders").await;
    host.settle(Duration::from_secs(1)).await;
    host.kill().await;

    let host = ns.host().await;
    host.wait_for_metrics(|metrics| synced(metrics) >= 21.0).await;
    host.settle(Duration::from_secs(2)).await;
    assert_eq!(host.audit.all().all_writes(), writes(&[]), "since the process began");
}

#[tokio::test]
async fn what_was_changed_while_no_host_ran_is_repaired_and_nothing_else() {
    let ns = TestCluster::shared().await.namespace("downtime").await;
    let host = ns.host().await;
    ns.install(&component("web").await).await;
    join_all(["one", "two", "three"].map(|name| ready_web(&ns, name))).await;
    host.settle(Duration::from_secs(1)).await;
    host.kill().await;

    let label = json!({ "metadata": { "labels": { "app.kubernetes.io/name": null } } });
    ns.merge(of::<ConfigMap>("one"), label).await;
    ns.merge(of::<ConfigMap>("three"), json!({ "metadata": { "labels": { "example.com/team": "blue" } } })).await;
    let service = ns.get(of::<Service>("two")).await;
    ns.delete(&service).await;

    let host = ns.host().await;
    ns.wait_until(of::<ConfigMap>("one"), |map| map["metadata"]["labels"]["app.kubernetes.io/name"] == "one").await;
    ns.wait_replaced(&service).await;
    host.wait_for_metrics(|metrics| synced(metrics) >= 3.0).await;
    host.settle(Duration::from_secs(2)).await;
    assert_eq!(host.audit.all().writes(), writes(&[("patch configmaps", 1), ("patch services", 1)]));
}

#[tokio::test]
async fn a_host_that_is_told_to_stop_ends_well_and_leaves_everything_as_it_is() {
    let ns = TestCluster::shared().await.namespace("stop").await;
    let host = ns.host().await;
    ns.install(&component("web").await).await;
    let web = ready_web(&ns, "shop").await;
    host.settle(Duration::from_secs(1)).await;
    let audit = host.audit.clone();
    let start = audit.mark();
    assert_eq!(host.stop().await.code(), Some(0));
    assert_eq!(audit.since(start).all_writes(), writes(&[]));
    assert_eq!(ns.get(&web).await["status"], web["status"]);
}

#[tokio::test]
async fn an_object_that_nobody_has_looked_at_does_not_look_well() {
    let ns = TestCluster::shared().await.namespace("pending").await;
    let host = ns.host().await;
    ns.install(&component("web").await).await;
    assert!(host.stop().await.success());
    let web = ns.create(sample::web("shop")).await;
    let ready = &ns.get(&web).await["status"]["conditions"][0];
    assert_eq!([&ready["type"], &ready["status"], &ready["reason"]], ["Ready", "Unknown", "Pending"]);

    let created = ready["lastTransitionTime"].clone();
    let _host = ns.host().await;
    let web = ns.wait_for(&web, condition("Ready", "True")).await;
    assert_ne!(web["status"]["conditions"][0]["lastTransitionTime"], created);
}
