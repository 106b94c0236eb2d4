//! P7: the end of a Process, with workflows that run in a real Temporal.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use transom_tests::kubelet::Kubelet;
use transom_tests::temporal::worker_image;
use transom_tests::{Temporal, condition, of, sample};

use crate::process::Stage;

/// A Process with a worker, and workflows that run.
struct Drain {
    temporal: Temporal,
    stage: Stage,
    process: Value,
    _kubelet: Kubelet,
}

const QUEUE: &str = "l2o-tq";

impl Drain {
    async fn new(policy: &str, timeout: &str, workflow: &str, count: i64) -> Self {
        let temporal = Temporal::shared().await;
        let stage = Stage::new(&format!("drain-{}", policy.to_lowercase()), &temporal.address).await;
        let ns = &stage.ns;
        temporal.namespace(&ns.name).await;
        let kubelet = Kubelet::start(ns, vec![worker_image()]).await;
        let mut process = stage.process("l2o");
        process["spec"]["image"] = json!(sample::BY_HAND);
        process["spec"]["drain"] = json!({ "policy": policy, "timeout": timeout });
        let process = ns.create(process).await;
        let process = ns.wait_for(&process, condition("Ready", "True")).await;
        for number in 0..count {
            temporal.start_workflow(&ns.name, QUEUE, &format!("w{number}"), workflow).await;
        }
        temporal.wait_for_count(&ns.name, QUEUE, "Running", count).await;
        Self { temporal, stage, process, _kubelet: kubelet }
    }

    async fn delete(&self) {
        self.stage.ns.delete(&self.process).await;
    }

    async fn wait_for_phase(&self, phase: &str) -> Value {
        self.stage.ns.wait_until(&self.process, |process| process["status"]["drain"]["phase"] == phase).await
    }

    async fn wait_for_end(&self) {
        self.stage.ns.wait_gone(&self.process).await;
        assert!(self.stage.ns.find(of::<Deployment>("l2o")).await.is_none());
        self.expect("Running", 0).await;
    }

    async fn expect(&self, status: &str, count: i64) {
        self.temporal.wait_for_count(&self.stage.ns.name, QUEUE, status, count).await;
    }
}

#[tokio::test]
async fn p7_wait_lets_running_workflows_end_and_refuses_new_ones() {
    let drain = Drain::new("Wait", "10m", "Hold", 2).await;
    let ns = &drain.stage.ns.name;
    drain.delete().await;
    let waiting = drain.wait_for_phase("Waiting").await;
    assert_eq!(waiting["status"]["drain"]["running"], 2);
    let deleted: Timestamp = waiting["metadata"]["deletionTimestamp"].as_str().unwrap().parse().unwrap();
    // times of deletions are in seconds: what is started in the same one may have been there before
    while Timestamp::now().as_second() < deleted.as_second() + 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drain.temporal.start_workflow(ns, QUEUE, "late", "Hold").await;
    drain.expect("Terminated", 1).await;
    drain.expect("Running", 2).await;
    assert!(drain.stage.ns.find(of::<Deployment>("l2o")).await.is_some(), "workers stay");
    drain.temporal.signal(ns, "w0").await;
    drain.temporal.signal(ns, "w1").await;
    drain.wait_for_end().await;
    drain.expect("Completed", 2).await;
}

#[tokio::test]
async fn p7_cancel_lets_workers_tidy_up_before_they_go() {
    let drain = Drain::new("Cancel", "10m", "Hold", 3).await;
    drain.delete().await;
    drain.wait_for_end().await;
    drain.expect("Canceled", 3).await;
    drain.expect("Terminated", 0).await;
}

#[tokio::test]
async fn p7_what_is_deaf_to_cancel_is_terminated_at_the_timeout() {
    let drain = Drain::new("Cancel", "5s", "Stubborn", 2).await;
    drain.delete().await;
    drain.wait_for_phase("Cancelling").await;
    drain.wait_for_end().await;
    drain.expect("Terminated", 2).await;
}

#[tokio::test]
async fn p7_terminate_ends_workflows_at_once() {
    let drain = Drain::new("Terminate", "10m", "Hold", 3).await;
    drain.delete().await;
    drain.wait_for_end().await;
    drain.expect("Terminated", 3).await;
}
