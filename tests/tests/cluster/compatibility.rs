//! A new version brings a custom resource definition along: what it must not do to objects that are stored.

use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;
use transom_tests::{Namespace, TestCluster, condition, condition_of, variant};

/// Every test has a kind of its own: definitions are the whole cluster's.
async fn installed(ns: &Namespace, folder: &TempDir, kind: &str) -> Value {
    let first = json!({ "kind": kind, "schema": schema() });
    ns.install(&variant(&first, folder.path()).await).await
}

fn schema() -> Value {
    json!({ "tag": { "type": "string" }, "size": { "type": "integer" }, "text": { "type": "string" } })
}

async fn object(ns: &Namespace, kind: &str, name: &str, spec: Value) -> Value {
    let object =
        json!({ "apiVersion": "tests.transom.dev/v1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    let object = ns.create(object).await;
    ns.wait_for(&object, condition("Ready", "True")).await
}

async fn swap(ns: &Namespace, record: &Value, folder: &TempDir, says: Value) -> Value {
    ns.merge(record, json!({ "spec": variant(&says, folder.path()).await.spec() })).await
}

#[tokio::test]
async fn a_definition_that_drops_a_field_in_use_is_refused_with_the_objects_until_none_uses_it() {
    let (ns, folder) = (TestCluster::shared().await.namespace("drops").await, tempfile::tempdir().unwrap());
    let _host = ns.host().await;
    let kind = "Dropping";
    let record = installed(&ns, &folder, kind).await;
    let uses = object(&ns, kind, "uses", json!({ "size": 5 })).await;
    object(&ns, kind, "other", json!({ "text": "x" })).await;

    let narrow = json!({ "kind": kind, "version": "2.0.0", "schema": { "tag": { "type": "string" },
        "text": { "type": "string" } } });
    let record = swap(&ns, &record, &folder, narrow).await;
    let refused = ns.wait_for(&record, condition("Installed", "False").because("IncompatibleDefinition")).await;
    let message = condition_of(&refused, "Installed")["message"].as_str().unwrap().to_owned();
    let expected = format!(
        "droppings.tests.transom.dev: would break 1 stored object; {}/uses: spec.size is not in the schema and would \
         be dropped",
        ns.name
    );
    assert_eq!(message, expected);
    assert_eq!(refused["status"]["version"], "1.0.0");
    // the version before goes on, with its definition
    object(&ns, kind, "late", json!({ "text": "y" })).await;
    assert_eq!(ns.get(&uses).await["spec"]["size"], 5);

    // It is tried again by itself.
    ns.merge(&uses, json!({ "spec": { "size": null } })).await;
    let record = ns.wait_for(&record, condition("Ready", "True")).await;
    assert_eq!(record["status"]["version"], "2.0.0");
}

#[rstest]
#[case::narrowed("Narrowed", json!({ "maximum": 4 }), "spec.size is 5, the schema's maximum is 4")]
#[case::another_type("Retyped", json!({ "type": "string" }), "spec.size is 5, the schema wants type string")]
#[case::listed("Listed", json!({ "enum": [1, 2] }), "spec.size is 5, which the schema does not list")]
#[tokio::test]
async fn a_definition_that_narrows_is_let_in_only_when_every_object_fits(
    #[case] kind: &str,
    #[case] narrows: Value,
    #[case] said: &str,
) {
    let (ns, folder) = (TestCluster::shared().await.namespace("narrows").await, tempfile::tempdir().unwrap());
    let _host = ns.host().await;
    let record = installed(&ns, &folder, kind).await;
    let large = object(&ns, kind, "large", json!({ "size": 5 })).await;

    let mut narrower = schema();
    for (name, value) in narrows.as_object().unwrap() {
        narrower["size"][name] = value.clone();
    }
    let record = swap(&ns, &record, &folder, json!({ "kind": kind, "version": "2.0.0", "schema": narrower })).await;
    let refused = ns.wait_for(&record, condition("Installed", "False").because("IncompatibleDefinition")).await;
    let message = condition_of(&refused, "Installed")["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with(&format!("{}/large: {said}", ns.name)), "{message}");

    ns.delete(&large).await;
    let record = ns.wait_for(&record, condition("Ready", "True")).await;
    assert_eq!(record["status"]["version"], "2.0.0");
}

#[rstest]
#[case::scope("Rescoped", json!({ "scope": "Cluster" }), "spec.scope cannot change from Namespaced to Cluster")]
#[case::version("Reversioned", json!({ "api": "v2" }), "spec.versions drops v1, in which objects may be stored")]
#[tokio::test]
async fn a_definition_that_the_objects_cannot_follow_is_refused(
    #[case] kind: &str,
    #[case] change: Value,
    #[case] said: &str,
) {
    let (ns, folder) = (TestCluster::shared().await.namespace("changes").await, tempfile::tempdir().unwrap());
    let _host = ns.host().await;
    let record = installed(&ns, &folder, kind).await;
    let mut next = json!({ "kind": kind, "version": "2.0.0", "schema": schema() });
    for (name, value) in change.as_object().unwrap() {
        next[name] = value.clone();
    }
    let record = swap(&ns, &record, &folder, next).await;
    let refused = ns.wait_for(&record, condition("Installed", "False").because("IncompatibleDefinition")).await;
    let message = condition_of(&refused, "Installed")["message"].as_str().unwrap().to_owned();
    assert!(message.contains(said), "{message}");
    object(&ns, kind, "late", json!({ "text": "y" })).await;
}
