//! A new version brings a custom resource definition along: what it must not do to objects that are stored.

use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;
use transom_tests::{Namespace, TestCluster, condition, condition_of, transom_with_cluster, up_to_date, variant};

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
    let record = ns.wait_for(&record, up_to_date()).await;
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
    let record = ns.wait_for(&record, up_to_date()).await;
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

/// What a person is told who goes back to a version that is refused.
#[tokio::test]
async fn a_roll_back_says_how_it_ended_and_no_old_plan_is_shown_as_new() {
    let (ns, folder) = (TestCluster::shared().await.namespace("reverts").await, tempfile::tempdir().unwrap());
    let host = ns.host().await;
    let kind = "Reverted";
    let record = installed(&ns, &folder, kind).await;
    let one = object(&ns, kind, "one", json!({ "text": "x" })).await;
    let name = record["metadata"]["name"].as_str().unwrap();
    let plans = host.logged("serving recordings")[0]["address"].as_str().unwrap().to_owned();
    let plan = async |standing: &str| -> Value {
        let text = transom_with_cluster(&["plugin", "plan", name, "--host", &plans, "-o", "json"]).await.printed();
        let plan: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(plan["standing"], standing, "{plan:#}");
        plan
    };
    assert_eq!(plan("None").await.get("summary"), None, "the first version");
    let mut wider = schema();
    wider["extra"] = json!({ "type": "string" });
    let next = json!({ "kind": kind, "version": "2.0.0", "value": "new", "schema": wider });
    let record = swap(&ns, &record, &folder, next).await;
    ns.wait_for(&record, up_to_date()).await;
    let shown = plan("Past").await;
    assert_eq!((&shown["summary"]["changed"], &shown["objects"][0]["outcome"]), (&json!(1), &json!("Changed")));
    ns.merge(&one, json!({ "spec": { "extra": "would be lost" } })).await;

    let refused = transom_with_cluster(&["plugin", "rollback", name]).await;
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    let said = "does not serve this version: IncompatibleDefinition";
    assert!(refused.stderr.contains(said) && refused.stderr.contains("/one: spec.extra"), "{}", refused.stderr);
    let shown = plan("None").await;
    assert_eq!(shown.get("objects"), None, "{shown:#}");
    let note = shown["note"].as_str().unwrap();
    assert!(note.contains("version 2.0.0 serves all objects. The spec names another one (sha256:"), "{note}");
    assert!(note.contains("IncompatibleDefinition") && note.ends_with(" is old"), "{note}");
    let listed = transom_with_cluster(&["plugin", "list"]).await.printed();
    let lines: Vec<&str> = listed.lines().skip_while(|line| !line.starts_with(&format!("{name} "))).take(2).collect();
    assert!(lines[0].contains(" Failed ") && lines[0].contains(" 2.0.0 "), "{lines:#?}");
    assert!(lines[1].contains("asked for: sha256:") && lines[1].contains("IncompatibleDefinition"), "{lines:#?}");

    let unknown = transom_with_cluster(&["plugin", "rollback", name, "--to", "9.9.9"]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("no version \"9.9.9\"; known are: 2.0.0 (sha256:"), "{}", unknown.stderr);
    // the object is mended, and the host notices by itself
    ns.merge(&one, json!({ "spec": { "extra": null } })).await;
    ns.wait_until(&record, |record| record["status"]["version"] == "1.0.0").await;
    let back = transom_with_cluster(&["plugin", "rollback", name, "--to", "2.0.0"]).await.printed();
    assert!(back.ends_with(" 2.0.0 serves\n"), "{back}");
    plan("None").await;
}
