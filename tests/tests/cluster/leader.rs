//! H13: replicas of one host. One does the work, and which one is in a Lease.

use std::time::Duration;

use futures::future::{join_all, select_all};
use http::StatusCode;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use serde_json::{Value, json};
use transom_tests::sample::{Gate, Web};
use transom_tests::{
    Fault, Host, HostOptions, Metrics, Namespace, Seen, TestCluster, component, condition, free_port, of, sample,
};

use crate::{ready_web, writes};

/// Seconds that a Lease is good for: a machine that is busy with other tests must be able to renew it.
const DURATION: u64 = 10;

fn replica(more: &[&str]) -> HostOptions {
    let duration = DURATION.to_string();
    let own = ["--leader-elect", "--leader-elect-lease-duration", &duration];
    let arguments = own.into_iter().chain(more.iter().copied()).map(str::to_owned).collect();
    HostOptions { arguments, ..HostOptions::default() }
}

fn leads(metrics: &Metrics) -> bool {
    metrics.sum("transom_leader", &[]) > 0.0
}

fn synced(metrics: &Metrics) -> f64 {
    metrics.sum("transom_reconciles_total", &["outcome=\"Synced\""])
}

fn holder(lease: &Value) -> Option<&str> {
    lease["spec"]["holderIdentity"].as_str()
}

async fn lease(ns: &Namespace) -> Value {
    ns.get(of::<Lease>("transom")).await
}

/// A leader with a plugin and some objects, all at rest.
async fn leader_with(ns: &Namespace, webs: &[&str]) -> Host {
    let host = ns.host_with(replica(&[])).await;
    host.wait_for_metrics(leads).await;
    ns.install(&component("web").await).await;
    join_all(webs.iter().map(|name| ready_web(ns, name))).await;
    host.settle(Duration::from_secs(1)).await;
    host
}

#[tokio::test]
async fn one_replica_works_and_another_takes_over_when_it_is_killed() {
    let ns = TestCluster::shared().await.namespace("leader-kill").await;
    let names: Vec<String> = (0..10).map(|number| format!("shop-{number}")).collect();
    let first = leader_with(&ns, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let second = ns.host_with(replica(&[])).await;
    assert!(!leads(&second.metrics().await));
    let before = lease(&ns).await;

    ready_web(&ns, "late").await;
    assert_eq!(second.audit.all().all_writes(), writes(&[]), "it stands by");
    assert_eq!(synced(&second.metrics().await), 0.0);

    first.kill().await;
    second.wait_for_metrics(|metrics| leads(metrics) && synced(metrics) >= 11.0).await;
    second.settle(Duration::from_secs(1)).await;
    assert_eq!(second.audit.all().all_writes(), writes(&[]), "everything was as it should be");
    let after = lease(&ns).await;
    assert_ne!(holder(&before), holder(&after));
    assert_eq!(after["spec"]["leaseTransitions"], 2);
    let service = ns.get(of::<Service>("shop-3")).await;
    ns.delete(&service).await;
    ns.wait_replaced(&service).await;
    ready_web(&ns, "new").await;
}

#[tokio::test]
async fn a_replica_that_is_told_to_stop_lets_go_of_the_lease() {
    let ns = TestCluster::shared().await.namespace("leader-stop").await;
    // nobody could take it within the time of a test
    let long = ["--leader-elect-lease-duration", "3600"];
    let first = ns.host_with(replica(&long)).await;
    first.wait_for_metrics(leads).await;
    ns.install(&component("web").await).await;
    ready_web(&ns, "shop").await;
    assert!(first.stop().await.success());
    let released = lease(&ns).await;
    assert_eq!(holder(&released), None, "{released:#}");

    let second = ns.host_with(replica(&[])).await;
    second.wait_for_metrics(|metrics| leads(metrics) && synced(metrics) >= 1.0).await;
    assert!(holder(&lease(&ns).await).is_some());
}

#[tokio::test]
async fn a_replica_whose_lease_was_taken_ends_and_writes_nothing_more() {
    let ns = TestCluster::shared().await.namespace("leader-taken").await;
    let mut host = leader_with(&ns, &["shop"]).await;
    let other = json!({ "spec": { "holderIdentity": "somebody-else", "leaseDurationSeconds": 3600 } });
    ns.merge(of::<Lease>("transom"), other).await;
    let status = host.ended().await;
    assert_eq!(status.code(), Some(1));
    let [lost] = &host.logged("the lease is lost: this replica ends at once")[..] else {
        panic!("{}", host.log_text())
    };
    assert_eq!(lost["why"], "it is held by somebody-else");
    assert_eq!(holder(&lease(&ns).await), Some("somebody-else"));

    // who comes next stands by for as long as that one could live
    let next = ns.host_with(replica(&[])).await;
    ns.merge(of::<ConfigMap>("shop"), json!({ "metadata": { "labels": { "app.kubernetes.io/name": null } } })).await;
    assert_eq!(next.observe(Duration::from_secs(DURATION)).await.all_writes(), writes(&[]));
    ns.merge(of::<Lease>("transom"), json!({ "spec": { "holderIdentity": null } })).await;
    ns.wait_until(of::<ConfigMap>("shop"), |map| map["metadata"]["labels"]["app.kubernetes.io/name"] == "shop").await;
}

#[tokio::test]
async fn a_replica_that_cannot_renew_the_lease_ends_before_another_works() {
    let ns = TestCluster::shared().await.namespace("leader-cut").await;
    let proxy = ns.proxy().await;
    let mut first = ns.host_with(HostOptions { server: Some(proxy.url()), ..replica(&[]) }).await;
    first.wait_for_metrics(leads).await;
    ns.install(&component("web").await).await;
    ready_web(&ns, "shop").await;
    let others = ns.proxy().await;
    let second = ns.host_with(HostOptions { server: Some(others.url()), ..replica(&[]) }).await;
    // its other requests come through: only the Lease tells it that it may not work
    proxy.decide(|seen| match seen.path.contains("/leases/") {
        true => Fault::Refuse(StatusCode::INTERNAL_SERVER_ERROR, None),
        false => Fault::None,
    });
    assert_eq!(first.ended().await.code(), Some(1));
    second.wait_for_metrics(leads).await;
    ready_web(&ns, "new").await;
    let last = proxy.seen().iter().filter(is_write).map(|seen| seen.at).max().unwrap();
    let next = others.seen().iter().filter(is_write).map(|seen| seen.at).min().unwrap();
    assert!(last < next, "the second one wrote {:?} before the first one was done", last - next);
}

fn is_write(seen: &&Seen) -> bool {
    let reads = ["get ", "list ", "watch "];
    !seen.path.contains("/leases") && !reads.iter().any(|read| seen.step.starts_with(read))
}

#[tokio::test]
async fn no_two_replicas_write_at_the_same_time() {
    let ns = TestCluster::shared().await.namespace("leader-turns").await;
    let mut replicas = vec![leader_with(&ns, &["shop"]).await];
    replicas.push(ns.host_with(replica(&[])).await);
    let mut audits = Vec::new();
    for turn in 0..4 {
        replicas.push(ns.host_with(replica(&[])).await);
        // work for whoever leads, before and after
        for number in 0..5 {
            ns.create(sample::web(&format!("shop-{turn}-{number}"))).await;
        }
        let leader = leader_of(&replicas).await;
        let leader = replicas.remove(leader);
        audits.push(leader.audit.clone());
        if turn % 2 == 0 {
            leader.kill().await;
        } else {
            assert!(leader.stop().await.success());
        }
        ns.create(sample::web(&format!("after-{turn}"))).await;
        ns.wait_for(of::<Web>(&format!("after-{turn}")), condition("Ready", "True")).await;
    }
    for turn in 0..4 {
        for number in 0..5 {
            ns.wait_for(of::<Web>(&format!("shop-{turn}-{number}")), condition("Ready", "True")).await;
        }
    }
    audits.extend(replicas.iter().map(|replica| replica.audit.clone()));
    let mut spans: Vec<(String, String)> = audits.iter().filter_map(|audit| audit.all().wrote()).collect();
    spans.sort();
    assert!(spans.len() >= 5, "{spans:?}");
    for pair in spans.windows(2) {
        assert!(pair[0].1 < pair[1].0, "two replicas wrote at the same time: {spans:#?}");
    }
}

/// Waits until one leads.
async fn leader_of(replicas: &[Host]) -> usize {
    let waiting = replicas.iter().enumerate().map(|(number, replica)| {
        Box::pin(async move {
            replica.wait_for_metrics(leads).await;
            number
        })
    });
    select_all(waiting).await.0
}

#[tokio::test]
async fn a_replica_that_stands_by_answers_webhooks() {
    let ns = TestCluster::shared().await.namespace("leader-webhooks").await;
    let others = format!("127.0.0.1:{}", free_port());
    // the API server is sent to the one that stands by, as a Service would for a part of the calls
    let url = format!("https://{others}");
    let leader = ns.host_with(replica(&["--webhook-listen", "127.0.0.1:0", "--webhook-url", &url])).await;
    leader.wait_for_metrics(leads).await;
    let record = ns.install(&component("gate").await).await;
    ns.wait_for(&record, condition("WebhooksReady", "True")).await;
    let second = ns.host_with(replica(&["--webhook-listen", &others, "--webhook-url", &url])).await;

    let gate = |name: &str, height: u32| {
        json!({ "apiVersion": "tests.transom.dev/v1", "kind": "Gate", "metadata": { "name": name },
            "spec": { "height": height, "wall": "north" } })
    };
    let denied = ns.try_create(gate("high", 501)).await.unwrap_err();
    assert!(denied.message.contains("must be at most 500"), "{denied:?}");
    ns.create(gate("low", 5)).await;
    ns.wait_for(of::<Gate>("low"), condition("Ready", "True")).await;
    assert!(!leads(&second.metrics().await));
    let answered = |metrics: &Metrics| metrics.sum("transom_webhooks_total", &[]);
    assert!(answered(&second.metrics().await) >= 2.0 && answered(&leader.metrics().await) == 0.0);
}
