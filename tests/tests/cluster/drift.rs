//! What is changed by hand.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use rstest::rstest;
use serde_json::{Value, json};
use transom_tests::{Host, Namespace, Target, TestCluster, component, condition, of};

use crate::{ready_domain, ready_web, writes};

/// A Web called `shop` that is Ready, and its host at rest.
async fn shop(name: &str) -> (Namespace, Host, Value) {
    let ns = TestCluster::shared().await.namespace(name).await;
    let host = ns.host().await;
    ns.install(&component("web").await).await;
    let web = ready_web(&ns, "shop").await;
    host.settle(Duration::from_secs(1)).await;
    (ns, host, web)
}

#[tokio::test]
async fn replicas_edited_by_hand_return_to_the_spec_by_one_write() {
    let (ns, host, _) = shop("drift-replicas").await;
    let start = host.audit.mark();
    ns.merge(of::<Deployment>("shop"), json!({ "spec": { "replicas": 7 } })).await;
    let repaired = ns.wait_until(of::<Deployment>("shop"), |d| d["spec"]["replicas"] == 2).await;
    assert_eq!(repaired["metadata"]["generation"], 3, "create, edit, repair: nothing else wrote");
    let mut wrote = host.writes_since(start).await;
    wrote.remove("patch webs/status");
    assert_eq!(wrote, writes(&[("patch deployments", 1)]));
}

#[tokio::test]
async fn the_same_repair_again_is_counted_in_one_event() {
    let (ns, _host, web) = shop("drift-series").await;
    for _ in 0..3 {
        ns.merge(of::<Deployment>("shop"), json!({ "spec": { "replicas": 7 } })).await;
        ns.wait_until(of::<Deployment>("shop"), |d| d["spec"]["replicas"] == 2).await;
    }
    let is_it = |event: &Value| {
        event["regarding"]["uid"] == web["metadata"]["uid"]
            && event["reason"] == "Corrected"
            && event["series"]["count"] == 3
    };
    let event = ns.wait_for_any::<Event>("", is_it).await;
    assert_eq!(event["note"], format!("corrected Deployment {}/shop (spec.replicas)", ns.name));
    assert_eq!((&event["type"], &event["reportingController"]), (&json!("Normal"), &json!("transom.dev/host")));
}

#[tokio::test]
async fn a_label_that_is_removed_or_changed_by_hand_returns() {
    let (ns, host, _) = shop("drift-label").await;
    let start = host.audit.mark();
    let wanted = ns.get(of::<ConfigMap>("shop")).await["metadata"]["labels"].clone();
    for label in [json!(null), json!("another")] {
        let patch = json!({ "metadata": { "labels": { "app.kubernetes.io/name": label } } });
        let edited = ns.merge(of::<ConfigMap>("shop"), patch).await;
        assert_ne!(edited["metadata"]["labels"], wanted);
        ns.wait_until(of::<ConfigMap>("shop"), |map| map["metadata"]["labels"] == wanted).await;
    }
    assert_eq!(host.writes_since(start).await, writes(&[("patch configmaps", 2)]));
}

/// The label by which the host finds its children: without it the child is out of the host's sight.
#[tokio::test]
async fn a_child_that_loses_its_owner_label_is_found_again() {
    let (ns, _host, web) = shop("drift-owner").await;
    let wanted = ns.get(of::<ConfigMap>("shop")).await["metadata"].clone();
    ns.merge(of::<ConfigMap>("shop"), json!({ "metadata": { "labels": { "transom.dev/owner-uid": null } } })).await;
    let found = ns.wait_until(of::<ConfigMap>("shop"), |map| map["metadata"]["labels"] == wanted["labels"]).await;
    assert_eq!(found["metadata"]["uid"], wanted["uid"], "it is the same object");
    ns.wait_for(&web, condition("Synced", "True")).await;
}

#[tokio::test]
async fn what_others_add_to_a_child_is_left_alone() {
    let (ns, host, _) = shop("drift-added").await;
    let start = host.audit.mark();
    let deployment = of::<Deployment>("shop");
    let added = json!({
        "metadata": { "annotations": { "example.com/note": "mine" }, "labels": { "example.com/team": "blue" } },
        "spec": {
            "minReadySeconds": 1,
            "template": { "spec": { "containers": [{ "name": "web", "env": [{ "name": "EXTRA", "value": "1" }] }] } },
        },
    });
    ns.strategic(&deployment, added).await;
    // A repair comes after the host has seen what was added.
    ns.merge(&deployment, json!({ "spec": { "replicas": 7 } })).await;
    let repaired = ns.wait_until(&deployment, |d| d["spec"]["replicas"] == 2).await;
    let mut wrote = host.writes_since(start).await;
    wrote.remove("patch webs/status");
    assert_eq!(wrote, writes(&[("patch deployments", 1)]));

    let env = repaired["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
    let mut names: Vec<&str> = env.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["APP_NAME", "APP_NAMESPACE", "EXTRA", "LOG_FORMAT", "LOG_LEVEL", "PORT"]);
    assert_eq!(repaired["metadata"]["annotations"]["example.com/note"], "mine");
    assert_eq!(repaired["metadata"]["labels"]["example.com/team"], "blue");
    assert_eq!(repaired["spec"]["minReadySeconds"], 1);
}

#[tokio::test]
async fn an_element_of_a_list_that_is_removed_or_changed_by_hand_returns() {
    let (ns, host, _) = shop("drift-list").await;
    let start = host.audit.mark();
    let deployment = of::<Deployment>("shop");
    let env = |d: &Value| d["spec"]["template"]["spec"]["containers"][0]["env"].clone();
    let wanted = env(&ns.get(&deployment).await);
    for edit in [json!({ "name": "PORT", "$patch": "delete" }), json!({ "name": "PORT", "value": "1" })] {
        let pod = json!({ "containers": [{ "name": "web", "env": [edit] }] });
        let edited = ns.strategic(&deployment, json!({ "spec": { "template": { "spec": pod } } })).await;
        assert_ne!(env(&edited), wanted);
        ns.wait_until(&deployment, |d| env(d) == wanted).await;
    }
    let mut wrote = host.writes_since(start).await;
    wrote.remove("patch webs/status");
    assert_eq!(wrote, writes(&[("patch deployments", 2)]));
}

#[rstest]
#[case::config_map(of::<ConfigMap>("shop"), "patch configmaps")]
#[case::deployment(of::<Deployment>("shop"), "patch deployments")]
#[case::network_policy(of::<NetworkPolicy>("shop"), "patch networkpolicies")]
#[case::service(of::<Service>("shop"), "patch services")]
#[tokio::test]
async fn a_deleted_child_comes_back_by_one_write(#[case] child: Target, #[case] write: &str) {
    let (ns, host, web) = shop("drift-deleted").await;
    let before = ns.get(&child).await;
    let start = host.audit.mark();
    ns.delete(&child).await;
    let after = ns.wait_replaced(&before).await;
    assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"]);
    assert_eq!(after["metadata"]["ownerReferences"], before["metadata"]["ownerReferences"]);
    ns.wait_for(&web, condition("Ready", "True")).await;
    let mut wrote = host.writes_since(start).await;
    wrote.remove("patch webs/status");
    assert_eq!(wrote, writes(&[(write, 1)]));
}

#[tokio::test]
async fn what_is_no_longer_in_the_spec_goes_and_what_others_own_stays() {
    let ns = TestCluster::shared().await.namespace("drift-removed").await;
    let _host = ns.host().await;
    ns.install(&component("domain").await).await;
    let orders = ready_domain(&ns, "orders").await;
    let deployment = of::<Deployment>("orders");
    let names = |d: &Value| -> Vec<String> {
        let env = d["spec"]["template"]["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
        env.iter().map(|variable| variable["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let has = |d: &Value, name: &str| names(d).iter().any(|there| there == name);
    let version = |d: &Value| d["metadata"]["labels"]["app.kubernetes.io/version"].clone();
    let plain = names(&ns.get(&deployment).await);

    let more = json!({ "version": "1.2", "env": [{ "name": "CURRENCY", "value": "EUR" }] });
    ns.merge(&orders, json!({ "spec": more })).await;
    ns.wait_until(&deployment, |d| has(d, "CURRENCY") && version(d) == "1.2").await;
    let extra = json!({ "containers": [{ "name": "domain", "env": [{ "name": "EXTRA", "value": "1" }] }] });
    ns.strategic(&deployment, json!({ "spec": { "template": { "spec": extra } } })).await;

    ns.merge(&orders, json!({ "spec": { "version": null, "env": null } })).await;
    let after = ns.wait_until(&deployment, |d| !has(d, "CURRENCY") && version(d).is_null()).await;
    let mut left = names(&after);
    left.retain(|name| name != "EXTRA");
    assert_eq!((left, has(&after, "EXTRA")), (plain, true));
    ns.wait_for(&orders, condition("Synced", "True")).await;
}

/// Two who will not give in: nobody wins, but the API server must not be worn out by it.
#[tokio::test]
async fn a_fight_over_a_field_is_slowed_down_and_told_and_not_given_up() {
    let (ns, host, web) = shop("drift-fight").await;
    let deployment = of::<Deployment>("shop");
    let fight = async {
        loop {
            ns.merge(&deployment, json!({ "spec": { "replicas": 7 } })).await;
            ns.wait_until(&deployment, |d| d["spec"]["replicas"] == 2).await;
        }
    };
    let told = tokio::select! {
        () = fight => unreachable!("it has no end"),
        told = ns.wait_for_any::<Event>("", |event| event["reason"] == "WritesDelayed") => told,
    };
    assert_eq!(told["regarding"]["uid"], web["metadata"]["uid"]);
    assert!(told["note"].as_str().unwrap().contains("corrected Deployment"), "{told}");
    // Once more while it rests: nothing for now, and then the repair.
    ns.merge(&deployment, json!({ "spec": { "replicas": 7 } })).await;
    let soon = host.observe(Duration::from_secs(2)).await;
    assert_eq!(soon.writes().get("patch deployments"), None);
    ns.wait_until(&deployment, |d| d["spec"]["replicas"] == 2).await;
}

#[tokio::test]
async fn what_changes_nothing_for_the_plan_costs_no_call() {
    let ns = TestCluster::shared().await.namespace("drift-memo").await;
    let host = ns.host().await;
    ns.install(&component("domain").await).await;
    ready_domain(&ns, "orders").await;
    host.settle(Duration::from_secs(3)).await;
    // the plugin is shown that the secret is there, not what is in it
    for password in ["once", "twice", "thrice"] {
        let hits = host.metrics().await.sum("transom_memo_hits_total", &[]);
        let before = host.metrics().await.series("transom_plugin_calls_total");
        ns.merge(of::<Secret>("orders-app"), json!({ "stringData": { "password": password } })).await;
        host.wait_for_metrics(|metrics| metrics.sum("transom_memo_hits_total", &[]) > hits).await;
        if password != "once" {
            assert_eq!(host.metrics().await.series("transom_plugin_calls_total"), before);
        }
    }
}
