//! `transom describe`

use serde_json::{Value, json};
use transom_tests::{TestCluster, component, transom_with_cluster};

use crate::ready_web;

#[tokio::test]
async fn an_object_is_shown_with_its_conditions_and_children() {
    let ns = TestCluster::shared().await.namespace("describe").await;
    let _host = ns.host().await;
    ns.install(&component("web").await).await;
    let web = ready_web(&ns, "shop").await;
    let shown = transom_with_cluster(&["describe", "Web", "shop", "--namespace", &ns.name]).await.printed();
    // Tests that run at the same time have records for this kind, too.
    let lines: Vec<&str> = shown.lines().filter(|line| !line.starts_with("  plugin:")).map(str::trim_end).collect();
    let message = web["status"]["conditions"][0]["message"].as_str().unwrap();
    let expected = format!(
        "Web {}/shop\n  generation: 1 (status speaks of 1)\n  conditions:\n\
        \x20   Ready                True     Available            {message}\n\
        \x20   Synced               True     Applied\n\
        \x20 children:\n\
        \x20   ├─ Deployment     shop                                     2/2 ready\n\
        \x20   ├─ NetworkPolicy  shop                                     exists\n\
        \x20   ├─ ConfigMap      shop                                     exists\n\
        \x20   └─ Service        shop                                     exists",
        ns.name
    );
    assert_eq!(lines.join("\n"), expected);
    let shown = transom_with_cluster(&["describe", "Web", "shop", "--namespace", &ns.name, "-o", "json"]).await;
    let value: Value = serde_json::from_str(&shown.printed()).unwrap();
    assert_eq!(value["conditions"], web["status"]["conditions"]);
    let deployment = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "namespace": ns.name, "name": "shop", "health": "2/2 ready" });
    assert_eq!(value["children"][0], deployment);
}

#[tokio::test]
async fn what_is_not_there_is_said_plainly() {
    let ns = TestCluster::shared().await.namespace("describe-none").await;
    let _host = ns.host().await;
    ns.install(&component("web").await).await;
    let none = transom_with_cluster(&["describe", "Web", "nowhere", "--namespace", &ns.name]).await;
    let message = format!("Error: there is no bench.dev/v1 Web nowhere in the namespace {}\n", ns.name);
    assert_eq!((none.code, none.stderr), (Some(1), message));
    let unknown = transom_with_cluster(&["describe", "Nonsense", "nowhere", "--namespace", &ns.name]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.starts_with("Error: no plugin serves \"Nonsense\"; served are: "), "{}", unknown.stderr);
}
