//! What becomes of a primary.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};
use transom_tests::{TestCluster, component, condition, of, sample, stripped};

use crate::writes;

#[tokio::test]
async fn a_web_gets_four_children_that_are_owned_and_labelled_and_becomes_ready() {
    let ns = TestCluster::shared().await.namespace("children").await;
    let host = ns.host().await;
    let plugin = ns.install(&component("web").await).await;
    host.settle(std::time::Duration::from_millis(500)).await;
    let start = host.audit.mark();

    let web = ns.create(sample::web("shop")).await;
    let web = ns.wait_for(&web, condition("Ready", "True")).await;

    let children =
        [of::<ConfigMap>("shop"), of::<Service>("shop"), of::<NetworkPolicy>("shop"), of::<Deployment>("shop")];
    for child in &children {
        let metadata = ns.get(child).await["metadata"].clone();
        let labels = json!({
            "app.kubernetes.io/name": "shop",
            "transom.dev/owner-uid": web["metadata"]["uid"],
            "transom.dev/plugin": plugin["metadata"]["name"],
        });
        let owners = json!([{
            "apiVersion": "bench.dev/v1", "kind": "Web", "name": "shop", "uid": web["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true,
        }]);
        assert_eq!((&metadata["labels"], &metadata["ownerReferences"]), (&labels, &owners), "{child}");
    }
    let expected = json!({
        "conditions": [
            {
                "type": "Ready", "status": "True", "reason": "Available", "observedGeneration": 1,
                "message": web["status"]["conditions"][0]["message"],
            },
            { "type": "Synced", "status": "True", "reason": "Applied", "message": "", "observedGeneration": 1 },
        ],
        "observedGeneration": 1,
    });
    assert_eq!(stripped(&web)["status"], expected);

    let mut wrote = host.writes_since(start).await;
    let statuses = wrote.remove("patch webs/status").unwrap_or_default();
    assert!((1..=2).contains(&statuses), "the status was written {statuses} times");
    let applies =
        [("patch configmaps", 1), ("patch deployments", 1), ("patch networkpolicies", 1), ("patch services", 1)];
    assert_eq!(wrote, writes(&applies));
    assert_eq!(host.audit.since(start).reads(), writes(&[]));
}

#[tokio::test]
async fn a_change_of_the_spec_is_one_apply_of_the_child_that_it_concerns() {
    let ns = TestCluster::shared().await.namespace("change").await;
    let host = ns.host().await;
    ns.install(&component("web").await).await;
    let web = crate::ready_web(&ns, "shop").await;
    host.settle(std::time::Duration::from_millis(500)).await;
    let start = host.audit.mark();

    let web = ns.merge(&web, json!({ "spec": { "replicas": 3, "image": "registry.example/web:2" } })).await;
    ns.wait_for(&web, condition("Ready", "True")).await;

    let deployment = ns.get(of::<Deployment>("shop")).await;
    let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!((&deployment["spec"]["replicas"], image), (&json!(3), &json!("registry.example/web:2")));
    let mut wrote = host.writes_since(start).await;
    assert!(wrote.remove("patch webs/status").is_some());
    assert_eq!(wrote, writes(&[("patch deployments", 1)]));
}

/// The resource version that stands for "create only" is nowhere documented: the API server refuses an apply that
/// carries it when the object exists, and makes the object when it does not.
#[tokio::test]
async fn children_of_webs_of_the_same_moment_do_not_get_into_each_others_way() {
    let ns = TestCluster::shared().await.namespace("many").await;
    let host = ns.host().await;
    ns.install(&component("web").await).await;
    host.settle(std::time::Duration::from_millis(500)).await;
    let start = host.audit.mark();

    let names: Vec<String> = (0..12).map(|number| format!("shop-{number:02}")).collect();
    let webs = futures::future::join_all(names.iter().map(|name| ns.create(sample::web(name)))).await;
    futures::future::join_all(webs.iter().map(|web| ns.wait_for(web, condition("Ready", "True")))).await;

    let mut wrote = host.writes_since(start).await;
    let statuses = wrote.remove("patch webs/status").unwrap_or_default();
    assert!((12..=24).contains(&statuses), "{statuses} writes of the status of 12 objects");
    let applies =
        [("patch configmaps", 12), ("patch deployments", 12), ("patch networkpolicies", 12), ("patch services", 12)];
    assert_eq!(wrote, writes(&applies));
    let named: Vec<Value> =
        ns.list::<Service>().await.iter().map(|service| service["metadata"]["name"].clone()).collect();
    assert_eq!(named, names);
}
