//! Calls of plans: what a plugin has done outside Kubernetes. The component is `tests/plugins/asker`, the server is in
//! this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use tonic::Status;
use transom_tests::{Host, Namespace, Rpc, TestCluster, component, condition, condition_of, of};

/// A server whose method `/t.S/Echo` answers with the message, and `/t.S/Gone` does not know it.
async fn server(is_up: Arc<AtomicBool>) -> Rpc {
    let answers = move |(path, message): (String, Vec<u8>)| {
        let is_up = is_up.load(Ordering::Relaxed);
        let answer = match path.as_str() {
            _ if !is_up => Err(Status::unavailable("down for the test")),
            "/t.S/Echo" => Ok(message),
            _ => Err(Status::not_found("no such thing")),
        };
        async move { answer }.boxed()
    };
    Rpc::start(Arc::new(answers)).await
}

fn up() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(true))
}

/// A namespace with a host whose asker may call `paths` of the server.
async fn served(rpc: &Rpc, paths: Value) -> (Namespace, Host) {
    let ns = TestCluster::shared().await.namespace("calls").await;
    let host = ns.host().await;
    let mut spec = component("asker").await.spec();
    let turner = component("asker").await.path.with_file_name("turner.wasm");
    let turner = transom_tests::component_at(&turner).spec();
    spec["engines"] = json!([{ "name": "turner", "source": turner["source"], "digest": turner["digest"] }]);
    spec["endpoints"] = json!([
        { "name": "web", "address": "http://127.0.0.1:9", "plaintext": true },
        { "name": "rpc", "address": format!("http://{}", rpc.authority), "plaintext": true, "paths": paths },
    ]);
    let record = ns.record("asker", spec).await;
    ns.wait_for(&record, condition("Ready", "True")).await;
    (ns, host)
}

fn asker(name: &str, calls: Value) -> Value {
    json!({ "apiVersion": "tests.transom.dev/v1", "kind": "Asker", "metadata": { "name": name },
        "spec": { "ask": [], "call": calls } })
}

fn calls(object: &Value) -> Vec<&str> {
    object["status"]["calls"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn call(key: &str, input: &str) -> Value {
    json!({ "key": key, "of": "rpc", "at": "/t.S/Echo", "input": input })
}

fn asked(inputs: &[&str]) -> Vec<(String, Vec<u8>)> {
    inputs.iter().map(|input| ("/t.S/Echo".to_owned(), input.as_bytes().to_vec())).collect()
}

#[tokio::test]
async fn a_call_is_made_once_after_the_children_and_its_outcome_reaches_the_plugin() {
    let rpc = server(up()).await;
    let (ns, host) = served(&rpc, json!([])).await;
    let object = ns.create(asker("a", json!([call("one", "1"), call("two", "2")]))).await;
    let object = ns.wait_until(&object, |object| calls(object) == ["succeeded 1", "succeeded 2"]).await;
    assert_eq!(condition_of(&object, "Synced")["status"], "True");
    assert!(ns.find(of::<ConfigMap>("one")).await.is_some());
    let mut made = rpc.asked();
    made.sort();
    assert_eq!(made, asked(&["1", "2"]));
    // another reconcile of the same plan makes none again, another message is another call
    let object = ns.merge(&object, json!({ "spec": { "note": "again" } })).await;
    let object = ns.wait_for(&object, condition("Ready", "True")).await;
    assert_eq!(rpc.asked().len(), 2);
    let object = ns.merge(&object, json!({ "spec": { "call": [call("one", "1"), call("two", "3")] } })).await;
    ns.wait_until(&object, |object| calls(object) == ["succeeded 1", "succeeded 3"]).await;
    assert_eq!(rpc.asked().len(), 3);
    let metrics = host.metrics().await;
    assert_eq!(metrics.sum("transom_plan_calls_total", &["outcome=\"Succeeded\""]), 3.0);
    assert_eq!(metrics.sum("transom_plan_calls_total", &["outcome=\"Failed\""]), 0.0);
}

#[tokio::test]
async fn a_call_that_fails_is_told_and_made_again_until_it_succeeds() {
    let is_up = Arc::new(AtomicBool::new(false));
    let rpc = server(is_up.clone()).await;
    let (ns, _host) = served(&rpc, json!([])).await;
    let object = ns.create(asker("a", json!([call("one", "1")]))).await;
    let object = ns.wait_for(&object, condition("Synced", "False").because("CallFailed")).await;
    let message = "call one failed: Unavailable: /t.S/Echo: down for the test";
    assert_eq!(condition_of(&object, "Synced")["message"], message);
    assert_eq!(calls(&object), ["failed Unavailable"], "the plugin has seen it");
    is_up.store(true, Ordering::Relaxed);
    let object = ns.wait_for(&object, condition("Synced", "True")).await;
    assert_eq!(calls(&object), ["succeeded 1"]);
}

#[tokio::test]
async fn a_plugin_may_give_a_failed_call_up() {
    let rpc = server(up()).await;
    let (ns, _host) = served(&rpc, json!([])).await;
    let gone = json!({ "key": "one", "of": "rpc", "at": "/t.S/Gone", "giveUp": true });
    let object = ns.create(asker("a", json!([gone]))).await;
    let object = ns.wait_for(&object, condition("Synced", "True")).await;
    assert_eq!(calls(&object), ["failed NotFound"]);
    assert_eq!(rpc.asked().len(), 1);
}

#[tokio::test]
async fn a_call_that_the_record_does_not_grant_is_refused_with_endpoint_and_path() {
    let rpc = server(up()).await;
    let (ns, _host) = served(&rpc, json!(["/t.S/Gone"])).await;
    let object = ns.create(asker("a", json!([call("one", "1")]))).await;
    let object = ns.wait_for(&object, condition("Synced", "False").because("CallDenied")).await;
    let synced = condition_of(&object, "Synced");
    let message = synced["message"].as_str().unwrap();
    assert!(
        message.contains("spec.endpoints[rpc].paths of the Plugin record does not allow \"/t.S/Echo\""),
        "{message}"
    );
    assert_eq!(rpc.asked(), []);
}
