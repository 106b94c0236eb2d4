//! A plugin that is exchanged while the host runs.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use transom_tests::{Host, Mark, Namespace, Recording, TestCluster, component, condition_of, of, up_to_date};

use crate::{ready_domain, writes};

const NAMES: [&str; 3] = ["billing", "orders", "shipping"];

#[tokio::test]
async fn a_swap_writes_what_the_new_version_changes_and_no_status_flaps() {
    let ns = TestCluster::shared().await.namespace("swap").await;
    let host = ns.host().await;
    let (old, next) = (component("domain").await, component("domain-next").await);
    let record = ns.install(&old).await;
    let version = record["status"]["version"].clone();
    join_all(NAMES.map(|name| ready_domain(&ns, name))).await;
    host.settle(Duration::from_secs(1)).await;
    let recordings = join_all(NAMES.map(|name| ns.recording(of::<transom_tests::sample::Domain>(name)))).await;
    let untouched = (ns.list::<Job>().await, ns.list::<Deployment>().await);

    let start = host.audit.mark();
    let record = swap(&ns, &record, next.spec()).await;
    wait_for_annotation(&ns, json!("next")).await;
    assert_only_services_were_written(&host, start).await;
    assert_eq!(record["status"]["digest"], next.digest);
    assert_eq!(record["status"]["version"], format!("{}+next", version.as_str().unwrap()));
    assert_eq!(history(&record), [(old.digest.clone(), version, json!("Replaced"))]);

    // Back, by editing it again.
    let start = host.audit.mark();
    let back = swap(&ns, &record, old.spec()).await;
    wait_for_annotation(&ns, json!(null)).await;
    assert_only_services_were_written(&host, start).await;
    assert_eq!(back["status"]["digest"], old.digest);
    let replaced = [(next.digest.clone(), record["status"]["version"].clone(), json!("Replaced"))];
    assert_eq!(history(&back), replaced);

    assert_eq!(
        (ns.list::<Job>().await, ns.list::<Deployment>().await),
        untouched,
        "no Job ran again, no pod was replaced"
    );
    for (name, recording) in NAMES.into_iter().zip(recordings) {
        let last = ns.get(of::<transom_tests::sample::Domain>(name)).await;
        assert_stayed(recording, &last).await;
    }
}

/// Digest, version and reason of each entry.
fn history(record: &Value) -> Vec<(String, Value, Value)> {
    let entries = record["status"]["history"].as_array().unwrap();
    let entry = |entry: &Value| {
        (entry["digest"].as_str().unwrap().to_owned(), entry["version"].clone(), entry["reason"].clone())
    };
    entries.iter().map(entry).collect()
}

/// Only source and digest of the record are edited.
async fn swap(ns: &Namespace, record: &Value, spec: Value) -> Value {
    let record = ns.merge(record, json!({ "spec": spec })).await;
    ns.wait_for(&record, up_to_date()).await
}

async fn wait_for_annotation(ns: &Namespace, value: Value) {
    let has = |service: &Value| service["metadata"]["annotations"]["ameide.io/plugin"] == value;
    join_all(NAMES.map(|name| ns.wait_until(of::<Service>(name), has))).await;
}

async fn assert_only_services_were_written(host: &Host, start: Mark) {
    let mut written = host.writes_since(start).await;
    // of a version that has not served before
    let stored = written.remove("create storedcomponents");
    assert!(stored.is_none_or(|parts| parts == 1), "{stored:?}");
    assert_eq!(written, writes(&[("patch plugins/status", 1), ("patch services", 3)]));
}

/// The whole status of a Domain was the same all the time until this state of it.
async fn assert_stayed(recording: Recording, last: &Value) {
    let states = recording.changes_until(|domain| domain == Some(last), |domain| domain["status"].clone()).await;
    assert_eq!(states.len(), 1, "{states:#?}");
    assert_eq!(condition_of(&json!({ "status": states[0] }), "Ready")["status"], "True");
}
