//! Upgrades of instances: what they keep, and what becomes of those that fail.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use serde_json::{Value, json};
use transom_tests::{condition, condition_of, of, sample};

use crate::instance::{Platform, host};

/// Pods of this image are run by nobody.
const BY_HAND: &str = "registry.example/by-hand:1";

/// Ends the pod of the hook `migrate` as a kubelet would whose container has failed.
async fn fail(platform: &Platform, said: &str) {
    let labels = "batch.kubernetes.io/job-name=migrate";
    let is_open = |pod: &Value| {
        !pod["spec"]["nodeName"].is_null()
            && pod["status"]["phase"] == "Pending"
            && pod["metadata"]["deletionTimestamp"].is_null()
    };
    let pod = platform.own.wait_for_any::<Pod>(labels, is_open).await;
    let ended = json!({ "exitCode": 1, "reason": "Error", "message": said, "finishedAt": "2026-01-01T00:00:00Z",
        "startedAt": "2026-01-01T00:00:00Z" });
    let container = json!({ "name": "migrate", "image": BY_HAND, "imageID": "", "restartCount": 0, "ready": false,
        "state": { "terminated": ended } });
    platform.own.merge_status(&pod, json!({ "phase": "Failed", "containerStatuses": [container] })).await;
}

/// I1, I3: upgrade, failed upgrade, roll-back, and a host that ends in the middle.
#[tokio::test]
async fn i1_i3_a_failed_upgrade_is_rolled_back_and_data_is_kept() {
    let mut platform = Platform::start("instance-upgrade").await;
    platform.version("next", "greeting: hello", "greeting: good day");
    platform.template("v1", "shop", json!({})).await;
    platform.template("v2", "next", json!({})).await;
    platform.instance("v1", json!({})).await;
    let object = platform.phase("Running", 1).await;
    let claim = platform.own.get(of::<PersistentVolumeClaim>("data")).await;
    let password = platform.own.get(of::<Secret>("shop")).await["data"]["password"].clone();
    let migrated = platform.own.get(of::<Job>("migrate")).await;

    let phases = platform.ns.recording(&object).await;
    let upgrade = json!({ "spec": { "productTemplateVersion": "v2" } });
    platform.ns.merge(&object, upgrade).await;
    let upgraded = platform.phase("Running", 2).await;
    assert_eq!(upgraded["status"]["release"]["templateVersion"], "v2");
    assert_ne!(upgraded["status"]["release"]["chartDigest"], object["status"]["release"]["chartDigest"]);
    let seen = phases.changes_until(|state| state == Some(&upgraded), |state| state["status"]["phase"].clone()).await;
    assert_eq!(seen, ["Running", "Upgrading", "Running"].map(|phase| Some(json!(phase))));
    let map = platform.own.get(of::<ConfigMap>("shop")).await;
    assert_eq!((&map["data"]["greeting"], &map["data"]["upgrade"]), (&json!("good day"), &json!("true")));
    let again = platform.own.get(of::<Job>("migrate")).await;
    assert_ne!(again["metadata"]["uid"], migrated["metadata"]["uid"], "the hook ran again");
    let uid = |object: &Value| object["metadata"]["uid"].clone();
    assert_eq!(uid(&platform.own.get(of::<PersistentVolumeClaim>("data")).await), uid(&claim));
    let secret = platform.own.get(of::<Secret>("shop")).await;
    assert_eq!(secret["data"]["password"], password, "random values stay");
    let before = k8s_openapi::ByteString(password.as_str().unwrap().as_bytes().to_vec());
    assert_eq!(secret["data"]["before"], json!(before), "the chart saw what was there");

    // the hook of the next one fails; the host does not see the end of it, another one does
    let change = json!({ "spec": { "values": { "hookImage": BY_HAND, "replicas": 3 } } });
    platform.ns.merge(&object, change).await;
    platform.phase("Upgrading", 3).await;
    platform.own.wait_until(of::<Job>("migrate"), |job| job["status"]["active"] == 1).await;
    platform.host.end().await;
    platform.host = host(&platform.ns).await;
    fail(&platform, "line 1\nno such table").await;
    let failed = platform.phase("Failed", 4).await;
    let failed = platform.ns.wait_for(&failed, condition("Ready", "False").because("UpgradeFailed")).await;
    let message = failed["status"]["message"].as_str().unwrap();
    assert!(message.contains("revision 3 has failed") && message.contains("line 1 / no such table"), "{message}");
    assert_eq!(condition_of(&failed, "WorkloadsReady")["status"], "True", "the release before runs");
    assert_eq!(failed["status"]["release"]["templateVersion"], "v2");
    assert_eq!(platform.own.get(of::<Deployment>("shop")).await["spec"]["replicas"], 1);

    // not tried again by itself, not even by a host that starts anew
    platform.host.end().await;
    platform.host = host(&platform.ns).await;
    platform.own.merge(of::<ConfigMap>("shop"), json!({ "data": { "greeting": "go away" } })).await;
    platform.own.wait_until(of::<ConfigMap>("shop"), |map| map["data"]["greeting"] == "good day").await;
    let still = platform.ns.get(&failed).await;
    assert_eq!(still["status"]["release"], failed["status"]["release"]);
    assert_eq!(still["status"]["lastReconcile"], failed["status"]["lastReconcile"], "no write for its own sake");

    // but when the spec says something else
    platform.ns.merge(&object, json!({ "spec": { "values": { "hookImage": null } } })).await;
    let object = platform.phase("Running", 5).await;
    assert_eq!(object["status"]["release"]["revision"], 5);
    assert_eq!(platform.own.get(of::<Deployment>("shop")).await["spec"]["replicas"], 3);
    platform.end().await;
}

/// I3: a workload that does not get ready in time.
#[tokio::test]
async fn i3_what_is_not_ready_in_time_is_rolled_back_and_a_first_install_waits() {
    let platform = Platform::start("instance-late").await;
    let template = platform.template("v1", "shop", json!({ "hooks": false })).await;
    platform.ns.merge(&template, json!({ "spec": { "timeoutSeconds": 10 } })).await;
    platform.instance("v1", json!({ "image": BY_HAND })).await;
    // there is nothing to go back to
    let object = platform.phase("Failed", 1).await;
    let object = platform.ns.wait_for(&object, condition("Ready", "False").because("DeadlineExceeded")).await;
    let message = object["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("not done within 10 s: Deployment shop: 0 of 1 replicas"), "{message}");
    let is_open = |pod: &Value| !pod["spec"]["nodeName"].is_null();
    let pod = platform.own.wait_for_any::<Pod>("app=shop", is_open).await;
    let ready = json!([{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }]);
    platform.own.merge_status(&pod, json!({ "phase": "Running", "conditions": ready })).await;
    platform.phase("Running", 1).await;

    platform.ns.merge(&object, json!({ "spec": { "values": { "image": "registry.example/other/by-hand:1" } } })).await;
    let failed = platform.phase("Failed", 3).await;
    let failed = platform.ns.wait_for(&failed, condition("Ready", "False").because("UpgradeFailed")).await;
    assert!(failed["status"]["message"].as_str().unwrap().contains("revision 2 has failed"), "{failed:#}");
    let image = |object: &Value| object["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    assert_eq!(image(&platform.own.get(of::<Deployment>("shop")).await), BY_HAND);
    platform
        .ns
        .wait_until(of::<sample::CaelusInstance>("shop"), |object| {
            condition_of(object, "WorkloadsReady")["status"] == "True"
        })
        .await;
    platform.end().await;
}
