//! Objects of the name of a child that are somebody else's.

use k8s_openapi::api::core::v1::ConfigMap;
use rstest::rstest;
use serde_json::{Value, json};
use transom_tests::{TestCluster, component, condition, condition_of, of, sample};

use crate::ready_web;

fn config_map() -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "shop" }, "data": { "theirs": "yes" },
    })
}

fn deployment() -> Value {
    let labels = json!({ "app": "theirs" });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "shop" },
        "spec": {
            "replicas": 0, "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "theirs", "image": "registry.example/theirs:1" }] },
            },
        },
    })
}

#[rstest]
#[case::config_map(config_map())]
#[case::deployment(deployment())]
#[tokio::test]
async fn somebody_elses_object_is_not_touched_and_the_child_comes_when_it_goes(#[case] theirs: Value) {
    let ns = TestCluster::shared().await.namespace("ownership").await;
    let host = ns.host().await;
    ns.install(&component("web").await).await;
    let theirs = ns.create(theirs).await;
    // A Deployment's own controller writes its status once.
    let theirs = match &theirs["kind"] {
        kind if kind == "Deployment" => ns.wait_until(&theirs, |d| d["status"]["observedGeneration"] == 1).await,
        _ => theirs,
    };

    let web = ns.create(sample::web("shop")).await;
    let conflict = ns.wait_for(&web, condition("Synced", "False").because("ChildConflict")).await;
    let message = condition_of(&conflict, "Synced")["message"].as_str().unwrap().to_owned();
    let expected = format!("{} {}/shop exists and belongs to somebody", theirs["kind"].as_str().unwrap(), ns.name);
    assert_eq!(message, expected);
    // Several tries later it is as it was, resource version and managed fields included.
    host.wait_for_metrics(|m| m.sum("transom_reconciles_total", &["outcome=\"ChildConflict\""]) >= 3.0).await;
    let left: Value = ns.get(&theirs).await;
    if theirs["kind"] == "Deployment" {
        assert_eq!((&left["spec"], &left["metadata"]["labels"]), (&theirs["spec"], &theirs["metadata"]["labels"]));
        let managers = |object: &Value| object["metadata"]["managedFields"][0]["manager"].clone();
        assert_eq!((managers(&left), &left["metadata"]["generation"]), (managers(&theirs), &json!(1)));
        assert!(!left["metadata"]["managedFields"].to_string().contains("transom"), "{left:#}");
    } else {
        assert_eq!(left, theirs);
    }

    ns.delete(&theirs).await;
    let ours = ns.wait_replaced(&theirs).await;
    assert_eq!(ours["metadata"]["labels"]["transom.dev/owner-uid"], web["metadata"]["uid"]);
    ns.wait_for(&web, condition("Ready", "True")).await;
}

/// The primary of an object's name is another one by now: the garbage collector is behind.
#[tokio::test]
async fn a_web_that_is_made_again_at_once_takes_nothing_over_from_the_one_before() {
    let ns = TestCluster::shared().await.namespace("again").await;
    let _host = ns.host().await;
    ns.install(&component("web").await).await;
    let first = ready_web(&ns, "shop").await;
    let before = ns.get(of::<ConfigMap>("shop")).await;
    ns.delete(&first).await;
    ns.wait_gone(&first).await;
    let second = ready_web(&ns, "shop").await;
    let after = ns.get(of::<ConfigMap>("shop")).await;
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["metadata"]["ownerReferences"][0]["uid"], second["metadata"]["uid"]);
}
