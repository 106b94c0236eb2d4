//! `transom record` of a running host, and what becomes of the file.

use serde_json::{Value, json};
use transom::plan::diff;
use transom::record::{Bundle, Outcome};
use transom_tests::{
    Host, Namespace, TestCluster, component, condition, condition_of, of, sample, transom, transom_with_cluster,
};

use crate::ready_web;

/// Where a host serves its recordings.
fn address(host: &Host) -> String {
    host.logged("serving recordings")[0]["address"].as_str().unwrap().to_owned()
}

pub(crate) async fn recorded(ns: &Namespace, host: &Host, kind: &str, name: &str, file: &str) -> Bundle {
    let address = address(host);
    let arguments = ["record", kind, name, "--namespace", &ns.name, "--host", &address, "--output", file];
    transom_with_cluster(&arguments).await.succeeded();
    Bundle::parse(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[tokio::test]
async fn what_the_host_recorded_is_replayed_and_rendered_to_the_same_plan() {
    let ns = TestCluster::shared().await.namespace("record").await;
    let host = ns.host().await;
    let (component, folder) = (component("web").await, tempfile::tempdir().unwrap());
    ns.install(&component).await;
    ready_web(&ns, "shop").await;
    host.settle(std::time::Duration::from_secs(1)).await;
    let file = folder.path().join("shop.json");
    let file = file.to_str().unwrap();
    let bundle = recorded(&ns, &host, "web", "shop", file).await;
    assert_eq!(bundle.plugin.digest, component.digest);
    assert_eq!(bundle.carried_out.writes, vec![], "it is at rest");
    assert_eq!(bundle.carried_out.error, None);
    // the component is found in the cache of the host, by its digest
    let replayed = transom(&["replay", file], "").await.printed();
    assert!(replayed.starts_with("same plan, byte for byte"), "{replayed}");

    // the same from the live objects, by the command that knows no host
    let fresh = folder.path().join("fresh.json");
    let fresh = fresh.to_str().unwrap();
    let arguments = ["record", "Web.bench.dev", "shop", "-n", &ns.name, "--fresh", "-o", fresh];
    transom_with_cluster(&arguments).await.succeeded();
    let fresh = Bundle::parse(&std::fs::read_to_string(fresh).unwrap()).unwrap();
    assert_eq!((fresh.request.object, fresh.outcome), (bundle.request.object, bundle.outcome.clone()));

    let object = folder.path().join("object.json");
    std::fs::write(&object, ns.get(of::<sample::Web>("shop")).await.to_string()).unwrap();
    let plugin = component.path.to_str().unwrap();
    let arguments = ["render", "--plugin", plugin, "--filename", object.to_str().unwrap(), "--output", "json"];
    let rendered: Value = serde_json::from_str(&transom(&arguments, "").await.printed()).unwrap();
    let Outcome::Planned(plan) = &bundle.outcome else { panic!("a plan") };
    let rendered = rendered["children"].as_array().unwrap();
    assert_eq!(rendered.len(), plan.children.len());
    for (child, rendered) in plan.children.iter().zip(rendered) {
        let child: Value = serde_json::from_str(&child.object).unwrap();
        assert_eq!(diff::drift(&child, &rendered["object"]), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_trap_is_recorded_and_the_last_few_are_kept() {
    let ns = TestCluster::shared().await.namespace("record-trap").await;
    let host = ns.host().await;
    ns.install(&component("hostile").await).await;
    let object = ns.create(sample::hostile("bad", "panic")).await;
    ns.wait_for(&object, condition("Synced", "False").because("PluginTrapped")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.json");
    let file = file.to_str().unwrap();
    let bundle = recorded(&ns, &host, "Hostile", "bad", file).await;
    assert!(matches!(&bundle.outcome, Outcome::NoAnswer(problem) if problem.reason == "PluginTrapped"));
    assert_eq!(bundle.carried_out.error.unwrap().reason, "PluginTrapped");
    let replayed = transom(&["replay", file], "").await;
    assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);
    let address = address(&host);
    let none = ["record", "Hostile", "nobody", "--namespace", &ns.name, "--host", &address];
    let none = transom_with_cluster(&none).await;
    assert_eq!(none.code, Some(1));
    assert!(none.stderr.contains("no recording of Hostile"), "{}", none.stderr);
}

#[tokio::test]
async fn explain_says_who_put_a_field_there() {
    let ns = TestCluster::shared().await.namespace("explain").await;
    let host = ns.host().await;
    let component = component("web").await;
    ns.install(&component).await;
    ready_web(&ns, "shop").await;
    // longer than a status of progress is held back
    host.settle(std::time::Duration::from_secs(3)).await;
    let address = address(&host);
    let explain = async |field: &str| -> Value {
        let arguments = ["explain", "Web", "shop", field, "-n", &ns.name, "--host", &address, "-o", "json"];
        serde_json::from_str(&transom_with_cluster(&arguments).await.printed()).unwrap()
    };
    let shown = explain("deployment/shop:spec.replicas").await;
    assert_eq!(shown["plugin"]["digest"], json!(component.digest));
    assert_eq!(shown["lastError"], json!(null));
    assert_eq!(shown["nextLookAt"], json!(null), "only a change brings it up");
    assert_eq!(shown["children"].as_array().unwrap().len(), 4);
    let field = &shown["field"];
    assert_eq!((&field["live"], &field["asked"]), (&json!(2), &json!(2)));
    assert_eq!((&field["state"], &field["from"]), (&json!("as asked"), &json!("plugin")));
    let other = explain("Deployment/shop:spec.progressDeadlineSeconds").await;
    assert_eq!(other["field"]["state"], "not asked for by the plugin");
    assert_eq!(other["field"]["from"], "default of the API server, or not set");
    let unknown = ["explain", "Web", "shop", "Deployment/none:spec", "-n", &ns.name, "--host", &address];
    let unknown = transom_with_cluster(&unknown).await;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("has no child Deployment/none"), "{}", unknown.stderr);
}

#[tokio::test]
async fn explain_says_what_failed_and_when_it_is_tried_again() {
    let ns = TestCluster::shared().await.namespace("explain-retry").await;
    let host = ns.host().await;
    ns.install(&component("hostile").await).await;
    let bad = ns.create(sample::hostile("bad", "trap")).await;
    ns.wait_for(&bad, condition("Synced", "False").because("PluginTrapped")).await;
    let address = address(&host);
    let arguments = ["explain", "Hostile", "bad", "-n", &ns.name, "--host", &address, "-o", "json"];
    let shown: Value = serde_json::from_str(&transom_with_cluster(&arguments).await.printed()).unwrap();
    assert_eq!(shown["lastError"]["reason"], "PluginTrapped");
    let next = shown["nextLookAt"].as_str().expect("it is tried again");
    assert!(next.ends_with('Z') && next.starts_with("20"), "{next}");
}

#[tokio::test]
async fn explain_says_what_a_held_child_waits_for() {
    let ns = TestCluster::shared().await.namespace("explain-held").await;
    let host = ns.host().await;
    ns.install(&component("domain").await).await;
    ns.create(sample::database("orders")).await;
    ns.create(sample::credentials("orders")).await;
    let mut domain = sample::domain("orders");
    // nobody runs it
    domain["spec"]["db"]["migrationJobImage"] = json!(sample::BY_HAND);
    let domain = ns.create(domain).await;
    ns.wait_until(&domain, |domain| condition_of(domain, "Ready")["status"] == "False").await;
    host.settle(std::time::Duration::from_secs(1)).await;
    let jobs = ns.list::<k8s_openapi::api::batch::v1::Job>().await;
    let job = jobs[0]["metadata"]["name"].as_str().unwrap();
    let address = address(&host);
    let arguments = ["explain", "Domain", "orders", "-n", &ns.name, "--host", &address, "-o", "json"];
    let shown: Value = serde_json::from_str(&transom_with_cluster(&arguments).await.printed()).unwrap();
    let held = shown["held"].as_array().unwrap();
    let deployment = held.iter().find(|one| one["child"] == "Deployment orders").expect("the Deployment is held");
    let waits_for = deployment["waitsFor"].as_str().unwrap();
    assert!(waits_for.starts_with(&format!("Job {job} (")), "{waits_for}");
}
