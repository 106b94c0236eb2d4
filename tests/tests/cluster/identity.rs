//! One object is one child, in whatever version of its kind it is asked for, shown or served.

use std::time::Duration;

use serde_json::{Value, json};
use transom_tests::{Namespace, Target, TestCluster, condition};

use crate::kinds::{asker, make, record};
use crate::writes;

/// A HorizontalPodAutoscaler in one of the two versions that are served.
fn autoscaler(version: &str, name: &str) -> Value {
    let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "nobody" });
    let mut spec = json!({ "minReplicas": 2, "maxReplicas": 3, "scaleTargetRef": target });
    match version {
        "v1" => spec["targetCPUUtilizationPercentage"] = json!(80),
        _ => {
            let target = json!({ "type": "Utilization", "averageUtilization": 80 });
            spec["metrics"] = json!([{ "type": "Resource", "resource": { "name": "cpu", "target": target } }]);
        }
    }
    json!({ "apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": name }, "spec": spec })
}

async fn uid(ns: &Namespace, object: &Value) -> Value {
    ns.get(object).await["metadata"]["uid"].clone()
}

/// Once both versions had been made, each was pruned as a leftover of the other, for ever.
#[tokio::test]
async fn objects_that_are_asked_for_in_two_versions_are_left_in_peace() {
    let ns = TestCluster::shared().await.namespace("identity").await;
    let host = ns.host().await;
    let plugin = record(&ns, None).await;
    let (old, new) = (autoscaler("v1", "old"), autoscaler("v2", "new"));
    let first = ns.create(asker("a", std::slice::from_ref(&old))).await;
    ns.wait_until(&first, |object| object["status"]["made"][0] == "HorizontalPodAutoscaler old Ready").await;
    let second = ns.create(asker("b", std::slice::from_ref(&new))).await;
    ns.wait_until(&second, |object| object["status"]["made"][0] == "HorizontalPodAutoscaler new Ready").await;
    let before = (uid(&ns, &old).await, uid(&ns, &new).await);
    let settled = ns.get(&plugin).await;
    let kinds = settled["status"]["childKinds"].as_array().unwrap();
    let autoscalers = kinds.iter().filter(|kind| kind["kind"] == "HorizontalPodAutoscaler").count();
    assert_eq!(autoscalers, 1, "{kinds:?}");

    // drift is found in both, and nothing else is written
    host.settle(Duration::from_secs(2)).await;
    let start = host.audit.mark();
    for object in [&old, &new] {
        ns.merge(object, json!({ "spec": { "maxReplicas": 9 } })).await;
        ns.wait_until(object, |object| object["spec"]["maxReplicas"] == 3).await;
    }
    host.settle(Duration::from_secs(2)).await;
    let mut wrote = host.writes_since(start).await;
    wrote.remove("patch askers/status");
    assert_eq!(wrote, writes(&[("patch horizontalpodautoscalers", 2)]));

    // the same object in the other version is the same object
    ns.merge(&first, make(&[autoscaler("v2", "old")])).await;
    ns.wait_until(&first, |object| object["status"]["observedGeneration"] == 2).await;
    assert_eq!((uid(&ns, &old).await, uid(&ns, &new).await), before);

    // a restart writes nothing, and what leaves the plan goes
    assert!(host.stop().await.success());
    let host = ns.host().await;
    host.settle(Duration::from_secs(2)).await;
    assert_eq!(host.audit.all().writes(), writes(&[]));
    ns.merge(&first, make(&[])).await;
    ns.wait_gone(&old).await;
    assert_eq!(uid(&ns, &new).await, before.1);
}

/// The same object twice in one plan is a fault of the plan, in two versions, too.
#[tokio::test]
async fn one_object_in_two_versions_in_one_plan_is_refused() {
    let ns = TestCluster::shared().await.namespace("identity-twice").await;
    let _host = ns.host().await;
    record(&ns, None).await;
    let object = ns.create(asker("a", &[autoscaler("v1", "x"), autoscaler("v2", "x")])).await;
    let refused = ns.wait_for(&object, condition("Synced", "False").because("DuplicateChild")).await;
    assert_eq!(refused["status"]["conditions"][0]["status"], "False", "{refused:#}");
}

fn definition(group: &str, versions: &[(&str, bool, bool)]) -> Value {
    let schema = json!({ "openAPIV3Schema": { "type": "object", "properties": { "spec": { "type": "object",
        "properties": { "size": { "type": "integer" } } } } } });
    let version = |(name, served, storage): &(&str, bool, bool)| json!({ "name": name, "served": served, "storage": storage, "schema": schema });
    json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("gadgets.{group}") },
        "spec": { "group": group, "scope": "Namespaced",
            "names": { "kind": "Gadget", "plural": "gadgets", "singular": "gadget", "listKind": "GadgetList" },
            "versions": versions.iter().map(version).collect::<Vec<_>>() } })
}

fn is_established(crd: &Value) -> bool {
    let conditions = crd["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True")
}

fn gadget(group: &str, version: &str, size: u32) -> Value {
    json!({ "apiVersion": format!("{group}/{version}"), "kind": "Gadget", "metadata": { "name": "g" }, "spec": { "size": size } })
}

fn target(group: &str, version: &str) -> Target {
    Target::from(&gadget(group, version, 0))
}

#[tokio::test]
async fn children_outlive_the_version_that_they_were_made_in() {
    let ns = TestCluster::shared().await.namespace("identity-versions").await;
    let group = format!("{}.example", ns.name);
    let crd = ns.create(definition(&group, &[("v1alpha1", true, true)])).await;
    ns.wait_until(&crd, is_established).await;
    let host = ns.host().await;
    record(&ns, None).await;
    let object = ns.create(asker("a", &[gadget(&group, "v1alpha1", 1)])).await;
    ns.wait_until(&object, |object| object["status"]["made"][0] == "Gadget g Ready").await;
    let before = uid(&ns, &gadget(&group, "v1alpha1", 0)).await;

    // both are served: the object is asked for in the new one, and is the same
    let both = definition(&group, &[("v1alpha1", true, false), ("v1", true, true)]);
    ns.merge(&crd, json!({ "spec": { "versions": both["spec"]["versions"] } })).await;
    ns.merge(&object, make(&[gadget(&group, "v1", 2)])).await;
    let there = ns.wait_until(target(&group, "v1"), |gadget| gadget["spec"]["size"] == 2).await;
    assert_eq!(there["metadata"]["uid"], before);

    // the old one is served no more: drift is still found, by a host that was there and by one that starts
    let new = definition(&group, &[("v1alpha1", false, false), ("v1", true, true)]);
    ns.merge(&crd, json!({ "spec": { "versions": new["spec"]["versions"] } })).await;
    ns.merge(target(&group, "v1"), json!({ "spec": { "size": 7 } })).await;
    ns.wait_until(target(&group, "v1"), |gadget| gadget["spec"]["size"] == 2).await;
    assert!(host.stop().await.success());
    let host = ns.host().await;
    ns.merge(target(&group, "v1"), json!({ "spec": { "size": 8 } })).await;
    let there = ns.wait_until(target(&group, "v1"), |gadget| gadget["spec"]["size"] == 2).await;
    assert_eq!(there["metadata"]["uid"], before);
    ns.wait_for(&object, condition("Ready", "True")).await;
    host.settle(Duration::from_secs(1)).await;

    // and it goes with its primary, as it does when the whole kind goes
    ns.merge(&object, make(&[])).await;
    ns.wait_gone(target(&group, "v1")).await;
    ns.delete(&object).await;
    ns.wait_gone(&object).await;
    ns.delete(&crd).await;
}

/// The definition of a kind goes, and with it its objects: nobody waits for them.
#[tokio::test]
async fn an_object_can_be_deleted_after_a_kind_of_its_children_is_gone() {
    let ns = TestCluster::shared().await.namespace("identity-kind-gone").await;
    let group = format!("{}.example", ns.name);
    let crd = ns.create(definition(&group, &[("v1", true, true)])).await;
    ns.wait_until(&crd, is_established).await;
    let _host = ns.host().await;
    record(&ns, None).await;
    let class = format!("gone-{}", ns.name);
    // a cluster-scoped child keeps the primary until the host has cleaned up
    let class = json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": class }, "value": 7 });
    let object = ns.create(asker("a", &[gadget(&group, "v1", 1), class])).await;
    ns.wait_until(&object, |object| object["status"]["made"][0] == "Gadget g Ready").await;
    ns.delete(&crd).await;
    ns.wait_gone(&crd).await;
    let refused = ns.wait_for(&object, condition("Synced", "False")).await;
    assert!(refused.to_string().contains("Gadget"), "{refused:#}");
    ns.delete(&object).await;
    ns.wait_gone(&object).await;
}
