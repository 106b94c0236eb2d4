//! `transom verify`

use serde_json::{Value, json};
use transom_tests::{TestCluster, component, condition, sample, transom_with_cluster};

use crate::ready_web;

#[tokio::test]
async fn health_is_an_exit_code_and_json() {
    let ns = TestCluster::shared().await.namespace("verify").await;
    let _host = ns.host().await;
    ns.install(&component("web").await).await;
    ready_web(&ns, "shop").await;
    let verify =
        async |arguments: &[&str]| transom_with_cluster(&[&["verify", "-n", &ns.name], arguments].concat()).await;
    let good = verify(&["web/shop", "-o", "json"]).await;
    let said: Value = serde_json::from_str(&good.stdout).unwrap();
    assert_eq!((good.code, &said["healthy"], &said["objects"][0]["name"]), (Some(0), &json!(true), &json!("shop")));

    let mut slow = sample::web("slow");
    slow["spec"]["image"] = json!(sample::BY_HAND); // its pods never run
    let slow = ns.create(slow).await;
    ns.wait_for(&slow, condition("Ready", "False")).await;
    let bad = verify(&["web/shop", "Web.bench.dev/slow", "-o", "json"]).await;
    let said: Value = serde_json::from_str(&bad.stdout).unwrap();
    let healthy = |index: usize| said["objects"][index]["healthy"].clone();
    assert_eq!((bad.code, healthy(0), healthy(1)), (Some(1), json!(true), json!(false)));
    assert_eq!(bad.stderr, "Error: 1 of 2 are not healthy\n");
    let table = verify(&["web/shop", "web/slow"]).await;
    let lines: Vec<&str> = table.stdout.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(lines, ["HEALTHY", "yes", "no"]);

    let missing = verify(&["web/shop", "web/nowhere"]).await;
    let message = format!("Error: there is no bench.dev/v1 Web nowhere in the namespace {}\n", ns.name);
    assert_eq!((missing.code, missing.stderr), (Some(2), message));
    assert_eq!(verify(&["web"]).await.code, Some(2), "a slip of the pen");
}
