//! From a `Plugin` record to a version that serves.

use base64::Engine as _;
use k8s_openapi::api::core::v1::ConfigMap;
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;
use transom_tests::{
    Component, HostOptions, TestCluster, component, component_at, condition, condition_of, of, sample, unique,
    up_to_date,
};

/// The steps of loading, in their order.
const STEPS: [&str; 6] = ["Fetched", "Verified", "Compiled", "Described", "Granted", "Installed"];

/// A component that imports what the sandbox does not have.
const WITH_WASI: &str = r#"(component
    (import "wasi:cli/environment@0.2.0" (instance
        (export "get-environment" (func (result (list (tuple string string))))))))"#;

/// From the plugin that serves to the `spec` of one that cannot.
type Breaks = fn(&Component, &TempDir) -> Value;

fn another_digest(good: &Component, _: &TempDir) -> Value {
    json!({ "source": good.spec()["source"], "digest": format!("sha256:{}", "0".repeat(64)) })
}

fn no_such_file(_: &Component, folder: &TempDir) -> Value {
    let source = json!({ "file": { "path": folder.path().join("nowhere.wasm") } });
    json!({ "source": source, "digest": format!("sha256:{}", "1".repeat(64)) })
}

fn no_such_config_map(_: &Component, _: &TempDir) -> Value {
    let source = json!({ "configMap": { "namespace": "default", "name": "nowhere" }, "file": null });
    json!({ "source": source, "digest": format!("sha256:{}", "2".repeat(64)) })
}

fn no_webassembly(_: &Component, folder: &TempDir) -> Value {
    file(folder, b"nonsense").spec()
}

fn a_core_module(_: &Component, folder: &TempDir) -> Value {
    file(folder, &wat::parse_str("(module)").unwrap()).spec()
}

fn wasi(_: &Component, folder: &TempDir) -> Value {
    file(folder, &wat::parse_str(WITH_WASI).unwrap()).spec()
}

fn no_exports(_: &Component, folder: &TempDir) -> Value {
    file(folder, &wat::parse_str("(component)").unwrap()).spec()
}

fn too_much_memory(good: &Component, _: &TempDir) -> Value {
    let mut spec = good.spec();
    spec["limits"] = json!({ "memory": "2Gi" });
    spec
}

fn unwanted_configuration(good: &Component, _: &TempDir) -> Value {
    let mut spec = good.spec();
    spec["config"] = json!({ "color": "blue" });
    spec
}

fn file(folder: &TempDir, bytes: &[u8]) -> Component {
    let path = folder.path().join("plugin.wasm");
    std::fs::write(&path, bytes).unwrap();
    component_at(&path)
}

#[rstest]
#[case(another_digest, "Verified", "DigestMismatch", "but what was fetched is sha256:")]
#[case(no_such_file, "Fetched", "NotFound", "nowhere.wasm")]
#[case(no_such_config_map, "Fetched", "NotFound", "there is no ConfigMap default/nowhere")]
#[case(no_webassembly, "Compiled", "InvalidComponent", "not a valid component")]
#[case(a_core_module, "Compiled", "InvalidComponent", "not a valid component")]
#[case(wasi, "Compiled", "NotAPlugin", "wasi:cli/environment@0.2.0")]
#[case(no_exports, "Compiled", "NotAPlugin", "transom:plugin/reconciler")]
#[case(too_much_memory, "Fetched", "InvalidLimits", "spec.limits.memory")]
#[case(unwanted_configuration, "Described", "InvalidConfig", "spec.config")]
#[tokio::test]
async fn a_version_that_cannot_be_loaded_says_why_and_the_one_before_goes_on_serving(
    #[case] breaks: Breaks,
    #[case] step: &str,
    #[case] reason: &str,
    #[case] said: &str,
) {
    let (ns, folder) = (TestCluster::shared().await.namespace("loading").await, tempfile::tempdir().unwrap());
    let _host = ns.host().await;
    let good = component("hostile").await;
    let record = ns.install(&good).await;
    let record = ns.merge(&record, json!({ "spec": breaks(&good, &folder) })).await;
    let record = ns.wait_for(&record, condition(step, "False").because(reason)).await;

    let message = condition_of(&record, step)["message"].as_str().unwrap().to_owned();
    assert!(message.contains(said), "{message}");
    let states: Vec<Value> = STEPS.iter().map(|step| condition_of(&record, step)["status"].clone()).collect();
    let failed = STEPS.iter().position(|other| *other == step).unwrap();
    let expected = [vec!["True"; failed], vec!["False"], vec!["Unknown"; STEPS.len() - failed - 1]].concat();
    assert_eq!(states, expected);
    let status = &record["status"];
    assert_eq!((&status["phase"], &status["digest"]), (&json!("Failed"), &json!(good.digest)));
    let (ready, progressing) = (condition_of(&record, "Ready"), condition_of(&record, "Progressing"));
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("True"), &json!("Serving")));
    assert_eq!((&progressing["status"], &progressing["reason"]), (&json!("False"), &json!(reason)));
    assert!(progressing["message"].as_str().unwrap().ends_with("is still serving"), "{progressing}");

    let object = ns.create(sample::hostile("good", "configMap")).await;
    ns.wait_for(&object, condition("Ready", "True")).await;
    // And it can be mended.
    let mut spec = good.spec();
    (spec["limits"], spec["config"], spec["source"]["configMap"]) = (json!(null), json!(null), json!(null));
    let mended = ns.merge(&record, json!({ "spec": spec })).await;
    ns.wait_for(&mended, up_to_date()).await;
}

#[rstest]
#[case::deadline(json!({ "limits": { "deadlineMilliseconds": 1 } }), "spec.limits.deadlineMilliseconds")]
#[case::children(json!({ "limits": { "children": 0 } }), "spec.limits.children")]
#[case::memory(json!({ "limits": { "memory": "much" } }), "spec.limits.memory")]
#[case::digest(json!({ "digest": "sha256:1234" }), "spec.digest")]
#[case::relative_path(json!({ "source": { "file": { "path": "web.wasm" } } }), "spec.source.file.path")]
#[case::no_source(json!({ "source": {} }), "spec.source")]
#[tokio::test]
async fn the_api_server_refuses_a_record_that_can_never_work(#[case] change: Value, #[case] field: &str) {
    let ns = TestCluster::shared().await.namespace("records").await;
    let _host = ns.host().await; // brings the definition along
    let mut spec = component("hostile").await.spec();
    for (name, value) in change.as_object().unwrap() {
        spec[name] = value.clone();
    }
    let refusal = ns.try_create(ns.record_body("refused", spec)).await.unwrap_err();
    assert_eq!(refusal.code, 422);
    assert!(refusal.message.contains(field), "{}", refusal.message);
}

#[tokio::test]
async fn a_component_is_fetched_from_a_config_map_and_served_after_the_config_map_is_gone() {
    let (ns, folder) = (TestCluster::shared().await.namespace("config-map").await, tempfile::tempdir().unwrap());
    let options = HostOptions { cache_dir: Some(folder.path().join("cache")), ..HostOptions::default() };
    let host = ns.host_with(options.clone()).await;
    let plugin = unique(&component("hostile").await, &ns.name, folder.path());
    let binary = base64::prelude::BASE64_STANDARD.encode(std::fs::read(&plugin.path).unwrap());
    let source = json!({ "configMap": { "namespace": ns.name, "name": "plugin" } });
    let record = ns.record("hostile", json!({ "source": source, "digest": plugin.digest })).await;
    ns.wait_for(&record, condition("Fetched", "False").because("NotFound")).await;

    // It is tried again by itself.
    let map = ns
        .create(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "plugin" },
            "binaryData": { "plugin.wasm": binary },
        }))
        .await;
    let record = ns.wait_for(&record, up_to_date()).await;
    assert_eq!(record["status"]["digest"], plugin.digest);
    let object = ns.create(sample::hostile("good", "configMap")).await;
    ns.wait_for(&object, condition("Ready", "True")).await;

    // The same digest is the same component: a new start needs no source.
    ns.delete(&map).await;
    host.kill().await;
    let _host = ns.host_with(options).await;
    let late = ns.create(sample::hostile("late", "configMap")).await;
    ns.wait_for(&late, condition("Ready", "True")).await;
    ns.get(of::<ConfigMap>("late")).await;
}

#[tokio::test]
async fn of_two_plugins_for_one_kind_the_first_serves() {
    let (ns, folder) = (TestCluster::shared().await.namespace("taken").await, tempfile::tempdir().unwrap());
    let _host = ns.host().await;
    let first = component("hostile").await;
    let serving = ns.install(&first).await;
    let second = ns.record("second", unique(&first, "second", folder.path()).spec()).await;
    let second = ns.wait_for(&second, condition("Installed", "False").because("KindTaken")).await;
    let name = serving["metadata"]["name"].as_str().unwrap();
    let message = format!("tests.transom.dev/v1 Hostile is served by the plugin {name}");
    assert_eq!(condition_of(&second, "Installed")["message"], message);
    let object = ns.create(sample::hostile("good", "configMap")).await;
    ns.wait_for(&object, condition("Ready", "True")).await;
    assert_eq!(ns.get(of::<ConfigMap>("good")).await["metadata"]["labels"]["transom.dev/plugin"], name);
}
