//! The samples of the guide: the API server takes them, and knows every field.

use serde_json::Value;
use transom_tests::{TestCluster, component};

/// Everything in `given` is in `kept`.
pub(crate) fn keeps(given: &Value, kept: &Value) -> bool {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            given.iter().all(|(name, value)| kept.get(name).is_some_and(|kept| keeps(value, kept)))
        }
        (Value::Array(given), Value::Array(kept)) => {
            given.len() == kept.len() && given.iter().zip(kept).all(|(given, kept)| keeps(given, kept))
        }
        (given, kept) => given == kept,
    }
}

#[tokio::test]
async fn p1_d1_samples_are_objects_that_the_api_server_takes() {
    let ns = TestCluster::shared().await.namespace("samples").await;
    let host = ns.host().await;
    ns.install(&component("domain").await).await;
    let mut spec = component("process").await.spec();
    let nowhere = |name: &str| serde_json::json!({ "name": name, "address": "http://127.0.0.1:9", "plaintext": true });
    spec["endpoints"] = serde_json::json!([nowhere("transformation"), nowhere("temporal")]);
    let record = ns.record("process", spec).await;
    ns.wait_for(&record, transom_tests::condition("Ready", "True")).await;
    // nobody is to act on them
    assert!(host.stop().await.success());
    for samples in
        [include_str!("../../../docs/samples/domains.yaml"), include_str!("../../../docs/samples/processes.yaml")]
    {
        let samples: Vec<Value> = serde_saphyr::from_multiple(samples).unwrap();
        assert!(samples.len() >= 3);
        for sample in samples {
            let created = ns.create(sample.clone()).await;
            assert!(keeps(&sample["spec"], &created["spec"]), "{sample:#} became {created:#}");
        }
    }
}
