//! Nothing to do.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use transom_tests::{TestCluster, component, condition, sample};

use crate::{ready_domain, ready_web, writes};

/// What the issue asks for; every other test observes for a second or two.
const WINDOW: Duration = Duration::from_secs(60);

#[tokio::test]
async fn in_a_minute_of_steady_state_nothing_is_written_and_no_plugin_is_called() {
    let ns = TestCluster::shared().await.namespace("steady").await;
    let host = ns.host().await;
    for name in ["web", "domain", "hostile"] {
        ns.install(&component(name).await).await;
    }
    let names: Vec<String> = (0..10).map(|number| format!("shop-{number}")).collect();
    join_all(names.iter().map(|name| ready_web(&ns, name))).await;
    join_all(["orders", "billing", "shipping"].map(|name| ready_domain(&ns, name))).await;
    let good = ns.create(sample::hostile("good", "configMap")).await;
    ns.wait_for(&good, condition("Ready", "True")).await;
    // One that cannot be realised is at rest, too, until somebody changes it.
    let mut invalid = sample::domain("invalid");
    invalid["spec"]["env"] = json!([{ "name": "PGHOST", "value": "elsewhere" }]);
    let invalid = ns.create(invalid).await;
    ns.wait_for(&invalid, condition("Ready", "False").because("Invalid")).await;

    host.settle(Duration::from_secs(3)).await;
    let before = host.metrics().await;
    let requests = host.observe(WINDOW).await;
    let after = host.metrics().await;
    assert_eq!(requests.all_writes(), writes(&[]));
    assert_eq!(requests.reads(), writes(&[]));
    for name in ["transom_plugin_calls_total", "transom_reconciles_total", "transom_watch_errors_total"] {
        assert_eq!(after.series(name), before.series(name));
    }
    assert_ne!(before.series("transom_plugin_calls_total"), BTreeMap::new(), "it counts calls");
}
