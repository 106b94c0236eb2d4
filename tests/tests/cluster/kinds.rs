//! Kinds of children that a plugin has not named: those that a template makes.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::Role;
use serde_json::{Value, json};
use transom_tests::{Namespace, TestCluster, component, component_at, condition, condition_of, of};

use crate::access::host_with_few_rights;

/// A record of the asker, which makes what its objects say. It serves, unless it has an account, which may lack rights.
pub(crate) async fn record(ns: &Namespace, account: Option<&str>) -> Value {
    let asker = component("asker").await;
    let turner = component_at(&asker.path.with_file_name("turner.wasm")).spec();
    let mut spec = asker.spec();
    spec["engines"] = json!([{ "name": "turner", "source": turner["source"], "digest": turner["digest"] }]);
    spec["endpoints"] = json!([{ "name": "web", "address": "https://web.example" }]);
    if let Some(name) = account {
        spec["serviceAccount"] = json!({ "namespace": ns.name, "name": name });
    }
    let record = ns.record("asker", spec).await;
    if account.is_some() { record } else { ns.wait_for(&record, condition("Ready", "True")).await }
}

fn role(name: &str, verb: &str) -> Value {
    let rule = json!({ "apiGroups": [""], "resources": ["configmaps"], "verbs": [verb] });
    json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": name },
        "rules": [rule] })
}

fn account(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } })
}

pub(crate) fn asker(name: &str, make: &[Value]) -> Value {
    let make: Vec<String> = make.iter().map(Value::to_string).collect();
    json!({ "apiVersion": "tests.transom.dev/v1", "kind": "Asker", "metadata": { "name": name },
        "spec": { "ask": [], "make": make } })
}

pub(crate) fn make(objects: &[Value]) -> Value {
    json!({ "spec": asker("", objects)["spec"] })
}

/// Kinds on record.
async fn kinds(ns: &Namespace, record: &Value) -> Vec<String> {
    let record = ns.get(record).await;
    let kinds = record["status"]["childKinds"].as_array().unwrap();
    let mut kinds: Vec<String> = kinds.iter().map(|kind| kind["kind"].as_str().unwrap().to_owned()).collect();
    kinds.sort_unstable();
    kinds
}

#[tokio::test]
async fn whatever_a_template_makes_is_watched_repaired_and_pruned_even_after_a_crash() {
    let ns = TestCluster::shared().await.namespace("kinds").await;
    let host = ns.host().await;
    let record = record(&ns, None).await;
    assert_eq!(kinds(&ns, &record).await, ["ConfigMap"]);

    let object = ns.create(asker("a", &[role("reader", "get"), account("runner")])).await;
    let made = json!(["Role reader Ready", "ServiceAccount runner Ready"]);
    ns.wait_until(&object, |object| object["status"]["made"] == made).await;
    assert_eq!(kinds(&ns, &record).await, ["ConfigMap", "Role", "ServiceAccount"]);

    // drift
    let spoiled = role("reader", "delete");
    ns.merge(of::<Role>("reader"), json!({ "rules": spoiled["rules"] })).await;
    ns.wait_until(of::<Role>("reader"), |role| role["rules"][0]["verbs"][0] == "get").await;
    ns.delete(of::<ServiceAccount>("runner")).await;
    ns.wait_until(of::<ServiceAccount>("runner"), |account| account["metadata"]["deletionTimestamp"].is_null()).await;

    // what leaves the plan while nobody looks is found by the next host
    host.kill().await;
    ns.merge(&object, make(&[account("runner")])).await;
    let host = ns.host().await;
    ns.wait_gone(of::<Role>("reader")).await;
    ns.get(of::<ServiceAccount>("runner")).await;
    // a host that starts forgets kinds without objects, once it has something to write
    assert!(host.stop().await.success());
    let host = ns.host().await;
    host.settle(Duration::from_secs(1)).await;
    assert_eq!(kinds(&ns, &record).await, ["ConfigMap", "Role", "ServiceAccount"]);
    assert!(host.stop().await.success());
    ns.merge(&record, json!({ "spec": { "setOnce": [{ "kind": "ConfigMap", "fields": ["data"] }] } })).await;
    let host = ns.host().await;
    ns.wait_until(&record, |record| record["status"]["childKinds"].as_array().unwrap().len() == 2).await;
    assert_eq!(kinds(&ns, &record).await, ["ConfigMap", "ServiceAccount"]);
    host.settle(Duration::from_secs(1)).await;

    // and one that is made again is written down again
    ns.merge(&object, make(&[role("reader", "list")])).await;
    ns.wait_until(of::<Role>("reader"), |role| role["rules"][0]["verbs"][0] == "list").await;
    assert_eq!(kinds(&ns, &record).await, ["ConfigMap", "Role", "ServiceAccount"]);
    ns.delete(&object).await;
    ns.wait_gone(of::<Role>("reader")).await;
}

#[tokio::test]
async fn an_object_of_no_namespace_goes_with_its_primary() {
    let ns = TestCluster::shared().await.namespace("kinds-wide").await;
    let _host = ns.host().await;
    record(&ns, None).await;
    let name = format!("urgent-{}", ns.name);
    let class = json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": name },
        "value": 7 });
    let object = ns.create(asker("a", std::slice::from_ref(&class))).await;
    ns.wait_until(&object, |object| object["status"]["made"][0] == format!("PriorityClass {name} Ready")).await;
    ns.delete(&object).await;
    ns.wait_gone(&object).await;
    ns.wait_gone(&class).await;
}

#[tokio::test]
async fn a_kind_that_the_account_may_not_watch_is_named_and_none_of_it_is_made() {
    const READ: [&str; 3] = ["get", "list", "watch"];
    const ALL: [&str; 6] = ["get", "list", "watch", "create", "patch", "delete"];
    let ns = TestCluster::shared().await.namespace("kinds-access").await;
    ns.account("plugin").await;
    let _host = host_with_few_rights(&ns).await;
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
    let primaries = rule("tests.transom.dev", &["askers", "askers/status"], &["get", "list", "watch", "patch"]);
    let maps = rule("", &["configmaps"], &ALL);
    let secrets = rule("", &["secrets"], &READ);
    ns.allow("plugin", "plugin", json!([primaries, maps, secrets])).await;
    let record = record(&ns, Some("plugin")).await;
    ns.wait_for(&record, condition("Ready", "True")).await;
    let object = ns.create(asker("a", &[account("runner")])).await;
    let stopped = ns.wait_for(&object, condition("Synced", "False").because("ApplyFailed")).await;
    let message = condition_of(&stopped, "Synced")["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains(&format!("system:serviceaccount:{}:plugin may not list serviceaccounts", ns.name)),
        "{message}"
    );
    assert!(ns.find(of::<ServiceAccount>("runner")).await.is_none());

    ns.allow("plugin", "plugin", json!([primaries, maps, secrets, rule("", &["serviceaccounts"], &ALL)])).await;
    ns.wait_for(&object, condition("Synced", "True")).await;
    ns.get(of::<ServiceAccount>("runner")).await;
}

#[tokio::test]
async fn a_plan_with_a_kind_that_nobody_serves_is_refused() {
    let ns = TestCluster::shared().await.namespace("kinds-none").await;
    let _host = ns.host().await;
    record(&ns, None).await;
    let unknown = json!({ "apiVersion": "example.dev/v1", "kind": "Nothing", "metadata": { "name": "n" } });
    let object = ns.create(asker("a", &[unknown])).await;
    let stopped = ns.wait_for(&object, condition("Synced", "False").because("KindNotServed")).await;
    let message = condition_of(&stopped, "Synced")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("example.dev/v1 Nothing n: the API server does not serve this kind"), "{message}");
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": { "a": "b" } });
    ns.merge(&object, make(&[map])).await;
    ns.wait_until(of::<ConfigMap>("m"), |map| map["data"]["a"] == "b").await;
}
