//! Migrations that finish and are cleaned up, and children of Domains and Processes that the API server does not accept.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};
use transom_tests::{Host, Namespace, Temporal, TestCluster, component, condition, condition_of, of, sample};

use super::process::Stage;
use crate::ready_domain;

async fn served(name: &str) -> (Namespace, Host) {
    let ns = TestCluster::shared().await.namespace(name).await;
    let host = ns.host().await;
    ns.install(&component("domain").await).await;
    (ns, host)
}

/// A quota that has no room for this kind.
async fn without_room(ns: &Namespace, resource: &str) -> Value {
    let spec = json!({ "hard": { format!("count/{resource}"): "0" } });
    let metadata = json!({ "name": "no-room" });
    let quota =
        ns.create(json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": spec })).await;
    ns.wait_until(&quota, |quota| quota["status"]["hard"].is_object()).await
}

#[tokio::test]
async fn a_migration_that_is_complete_and_deleted_is_not_run_again() {
    let (ns, host) = served("domain-jobs").await;
    let orders = ready_domain(&ns, "orders").await;
    let mark = host.audit.mark();
    let [job] = ns.list::<Job>().await.try_into().expect("one Job");
    ns.delete(&job).await;
    ns.wait_gone(&job).await;
    ns.merge(&orders, json!({ "spec": { "replicas": 3 } })).await;
    ns.wait_until(of::<Deployment>("orders"), |deployment| deployment["spec"]["replicas"] == 3).await;
    ns.wait_for(&orders, condition("Ready", "True")).await;
    host.rest().await;
    assert_eq!(host.audit.since(mark).writes_of("jobs"), [].into());
    host.stop().await;

    // a host that knows nothing but the cluster does not run it either
    let host = ns.host().await;
    let mark = host.audit.mark();
    ns.merge(&orders, json!({ "spec": { "replicas": 2 } })).await;
    ns.wait_until(of::<Deployment>("orders"), |deployment| deployment["spec"]["replicas"] == 2).await;
    ns.wait_for(&orders, condition("Ready", "True")).await;
    host.rest().await;
    assert_eq!(host.audit.since(mark).writes_of("jobs"), [].into());

    // another version migrates, and one that expires at once does so once
    let mark = host.audit.mark();
    let next =
        json!({ "spec": { "image": "registry.example/domain:2", "db": { "migrationJobImage": sample::BY_HAND } } });
    ns.merge(&orders, next).await;
    let job = ns.wait_for_any::<Job>("ameide.io/job=migration", |job| job["status"]["active"] == 1).await;
    ns.merge(&job, json!({ "spec": { "ttlSecondsAfterFinished": 0 } })).await;
    // who deletes Jobs as soon as they end is to be seen before: it may leave no time to see the end itself
    let expires =
        |domain: &Value| domain["status"]["jobs"].as_array().into_iter().flatten().any(|run| run["expires"] == true);
    ns.wait_until(&orders, expires).await;
    let ends = json!({ "phase": "Succeeded" });
    let pods = "ameide.io/job=migration";
    let pod = ns.wait_for_any::<k8s_openapi::api::core::v1::Pod>(pods, |pod| pod["status"]["phase"] == "Pending").await;
    ns.merge_status(&pod, ends).await;
    ns.wait_gone(&job).await;
    let image = |deployment: &Value| deployment["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    ns.wait_until(of::<Deployment>("orders"), |deployment| image(deployment) == "registry.example/domain:2").await;
    ns.wait_for(&orders, condition("Ready", "True")).await;
    host.rest().await;
    let name = job["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(host.audit.since(mark).writes_of("jobs"), [(name, 1)].into());
}

#[tokio::test]
async fn a_domain_whose_migration_is_refused_says_so_within_seconds_and_recovers() {
    let (ns, _host) = served("domain-refused").await;
    let quota = without_room(&ns, "jobs.batch").await;
    ns.create(sample::database("orders")).await;
    ns.create(sample::credentials("orders")).await;
    let orders = ns.create(sample::domain("orders")).await;
    let told = |object: &Value| {
        let ready = condition_of(object, "Ready")["message"].as_str().unwrap_or_default().to_owned();
        ready.contains("exceeded quota: no-room") && condition_of(object, "Degraded")["status"] == "True"
    };
    let refused = ns.wait_until(&orders, told).await;
    assert_eq!(condition_of(&refused, "DBReady")["status"], "False");
    assert_eq!(condition_of(&refused, "Progressing")["status"], "False");
    ns.delete(&quota).await;
    ns.merge(&orders, json!({ "spec": { "replicas": 1 } })).await;
    ns.wait_for(&orders, condition("Ready", "True")).await;
}

#[tokio::test]
async fn a_process_whose_workers_are_refused_says_so_within_seconds_and_recovers() {
    let temporal = Temporal::shared().await;
    let stage = Stage::new("process-refused", &temporal.address).await;
    temporal.namespace(&stage.ns.name).await;
    let quota = without_room(&stage.ns, "deployments.apps").await;
    let process = stage.ns.create(stage.process("l2o")).await;
    let told = |object: &Value| {
        let ready = condition_of(object, "Ready")["message"].as_str().unwrap_or_default().to_owned();
        ready.contains("exceeded quota: no-room") && condition_of(object, "WorkersReady")["status"] == "False"
    };
    let refused = stage.ns.wait_until(&process, told).await;
    assert_eq!(condition_of(&refused, "Degraded")["status"], "True");
    stage.ns.delete(&quota).await;
    stage.ns.merge(&process, json!({ "spec": { "replicas": 2 } })).await;
    stage.ns.wait_for(&process, condition("Ready", "True")).await;
}
