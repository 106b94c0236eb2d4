//! The plugin `domain`: what its children live through. CloudNativePG and kubelets are played by the tests and by kwok.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Service};
use serde_json::{Value, json};
use transom_tests::{Host, Namespace, TestCluster, component, condition, condition_of, of, sample};

use crate::ready_domain;

async fn served(name: &str) -> (Namespace, Host) {
    let ns = TestCluster::shared().await.namespace(name).await;
    let host = ns.host().await;
    ns.install(&component("domain").await).await;
    (ns, host)
}

/// Waits for a pod of a Domain's migration that was not ended yet, and ends it.
async fn end_migration_pod(ns: &Namespace, domain: &str, succeeds: bool) {
    let labels = format!("ameide.io/job=migration,app.kubernetes.io/instance={domain}");
    let runs = |pod: &Value| pod["spec"]["nodeName"].is_string() && pod["status"]["phase"] == "Pending";
    let pod = ns.wait_for_any::<Pod>(&labels, runs).await;
    let (phase, reason, code) = if succeeds { ("Succeeded", "Completed", 0) } else { ("Failed", "Error", 1) };
    let container = json!({
        "name": pod["spec"]["containers"][0]["name"], "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": { "exitCode": code, "reason": reason } },
    });
    ns.merge_status(&pod, json!({ "phase": phase, "containerStatuses": [container] })).await;
}

#[tokio::test]
async fn a_domain_waits_for_its_database_and_goes_on_by_itself() {
    let (ns, _host) = served("domain-late").await;
    let orders = ns.create(sample::domain("orders")).await;
    ns.wait_for(&orders, condition("DBReady", "False").because("ClusterNotFound")).await;
    ns.create(sample::database("orders")).await;
    let waiting = ns.wait_for(&orders, condition("DBReady", "False").because("SecretNotFound")).await;
    assert_eq!(condition_of(&waiting, "Ready")["reason"], "SecretNotFound");
    assert_eq!(condition_of(&waiting, "Synced")["status"], "True", "waiting is no failure");
    assert_eq!((ns.list::<Job>().await, ns.list::<Deployment>().await), (vec![], vec![]));

    ns.create(sample::credentials("orders")).await;
    let ready = ns.wait_for(&orders, condition("Ready", "True")).await;
    assert_eq!(ready["metadata"]["generation"], 1, "nobody touched it");
    assert_eq!(ready["spec"], orders["spec"]);
    ns.get(of::<Service>("orders")).await;
}

#[tokio::test]
async fn a_migration_that_fails_once_is_tried_again_and_the_deployment_waits_for_it() {
    let (ns, _host) = served("domain-twice").await;
    ns.create(sample::database("orders")).await;
    ns.create(sample::credentials("orders")).await;
    let mut orders = sample::domain("orders");
    orders["spec"]["db"]["migrationJobImage"] = json!(sample::BY_HAND);
    let orders = ns.create(orders).await;

    end_migration_pod(&ns, "orders", false).await;
    let failed_once = |job: &Value| job["status"]["failed"] == 1;
    let job = ns.wait_for_any::<Job>("ameide.io/job=migration", failed_once).await;
    let running = ns.wait_for(&orders, condition("DBReady", "False").because("MigrationRunning")).await;
    assert_eq!(condition_of(&running, "MigrationFailed")["status"], "False");
    assert_eq!(ns.find(of::<Deployment>("orders")).await, None, "it waits");

    end_migration_pod(&ns, "orders", true).await;
    ns.wait_for(&orders, condition("Ready", "True")).await;
    let jobs = ns.list::<Job>().await;
    assert_eq!(jobs.iter().map(|job| &job["metadata"]["uid"]).collect::<Vec<_>>(), [&job["metadata"]["uid"]]);
}

#[tokio::test]
async fn a_migration_that_fails_for_good_leaves_the_running_version_up() {
    let (ns, host) = served("domain-failed").await;
    let orders = ready_domain(&ns, "orders").await;
    let running = ns.get(of::<Deployment>("orders")).await;
    let migrated = ns.list::<Job>().await;

    let broken = json!({
        "image": "registry.example/domain:2",
        "db": { "migrationJobImage": sample::BY_HAND, "migrationTimeout": "2s" },
    });
    let orders = ns.merge(&orders, json!({ "spec": broken })).await;
    let failed = ns.wait_for(&orders, condition("MigrationFailed", "True")).await;
    let reasons = ["Ready", "DBReady", "WorkloadReady", "Degraded"].map(|kind| {
        let condition = condition_of(&failed, kind);
        (condition["status"].clone(), condition["reason"].clone())
    });
    let told = |status: &str, reason: &str| (json!(status), json!(reason));
    let expected = [
        told("False", "MigrationFailed"),
        told("False", "MigrationFailed"),
        told("True", "Available"),
        told("True", "MigrationFailed"),
    ];
    assert_eq!(reasons, expected);
    host.settle(Duration::from_secs(1)).await;
    assert_eq!(ns.get(of::<Deployment>("orders")).await, running, "the version before runs as it did");

    // Back to what was migrated before.
    let back = json!({ "spec": {
        "image": "registry.example/domain:1",
        "db": { "migrationJobImage": "registry.example/migrator:1", "migrationTimeout": "10m" },
    } });
    let orders = ns.merge(&orders, back).await;
    ns.wait_for(&orders, condition("Ready", "True")).await;
    assert_eq!(ns.get(of::<Deployment>("orders")).await["metadata"]["generation"], running["metadata"]["generation"]);
    let names = |jobs: Vec<Value>| -> Vec<Value> { jobs.iter().map(|job| job["metadata"]["name"].clone()).collect() };
    assert_eq!(names(ns.list::<Job>().await), names(migrated));
}

#[tokio::test]
async fn a_new_image_is_rolled_out_after_its_migration_and_the_old_job_goes() {
    let (ns, _host) = served("domain-roll").await;
    let orders = ready_domain(&ns, "orders").await;
    let before = ns.list::<Job>().await;
    let change = json!({ "image": "registry.example/domain:2", "db": { "migrationJobImage": sample::BY_HAND } });
    let orders = ns.merge(&orders, json!({ "spec": change })).await;
    ns.wait_for(&orders, condition("DBReady", "False").because("MigrationRunning")).await;
    let image = |d: &Value| d["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    assert_eq!(image(&ns.get(of::<Deployment>("orders")).await), "registry.example/domain:1", "held");

    end_migration_pod(&ns, "orders", true).await;
    ns.wait_for(&orders, condition("Ready", "True")).await;
    assert_eq!(image(&ns.get(of::<Deployment>("orders")).await), "registry.example/domain:2");
    ns.wait_gone(&before[0]).await;
}

#[tokio::test]
async fn a_domain_that_cannot_work_says_what_to_change_and_works_once_it_is_changed() {
    let (ns, _host) = served("domain-invalid").await;
    ns.create(sample::database("orders")).await;
    ns.create(sample::credentials("orders")).await;
    let mut orders = sample::domain("orders");
    orders["spec"]["env"] = json!([{ "name": "PGHOST", "value": "elsewhere" }]);
    let orders = ns.create(orders).await;
    let invalid = ns.wait_for(&orders, condition("Ready", "False").because("Invalid")).await;
    let message = "spec.env[0].name: must not be PGHOST, which is set already";
    assert_eq!(condition_of(&invalid, "Ready")["message"], message);
    assert_eq!(condition_of(&invalid, "Synced")["message"], message);
    assert_eq!(ns.list::<Job>().await, Vec::<Value>::new());

    let orders = ns.merge(&orders, json!({ "spec": { "env": null } })).await;
    ns.wait_for(&orders, condition("Ready", "True")).await;
}
