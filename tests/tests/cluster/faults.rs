//! An API server that refuses, is slow, closes watches or is away: the host must come through, and must not make it worse.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use http::StatusCode;
use k8s_openapi::api::apps::v1::Deployment;
use rstest::rstest;
use serde_json::json;
use tokio::time::Instant;
use transom_tests::{
    ApiServer, Fault, Host, HostOptions, Namespace, Proxy, Seen, TestCluster, component, condition, of, sample,
};

use crate::ready_web;

async fn through_a_proxy(name: &str) -> (Namespace, Arc<Proxy>, Host) {
    let ns = TestCluster::shared().await.namespace(name).await;
    let proxy = Arc::new(ns.proxy().await);
    let host = ns.host_through(&proxy).await;
    ns.install(&component("web").await).await;
    (ns, proxy, host)
}

fn is_write(seen: &Seen) -> bool {
    ["create ", "apply ", "status ", "delete ", "finalizer "].iter().any(|verb| seen.step.starts_with(verb))
        && !seen.step.ends_with("plugins")
}

/// Every third write fails in this way, for as long as it takes to make, change and delete objects.
#[rstest]
#[case::conflict(Fault::Refuse(StatusCode::CONFLICT, None))]
#[case::internal(Fault::Refuse(StatusCode::INTERNAL_SERVER_ERROR, None))]
#[case::unavailable(Fault::Refuse(StatusCode::SERVICE_UNAVAILABLE, None))]
#[case::lost_answer(Fault::LoseAnswer)]
#[case::slow(Fault::Delay(Duration::from_millis(700)))]
#[tokio::test]
async fn writes_that_fail_now_and_then_delay_and_break_nothing(#[case] fault: Fault) {
    let (ns, proxy, host) = through_a_proxy("faults").await;
    let (writes, faults) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let counted = faults.clone();
    proxy.decide(move |seen| {
        if is_write(seen) && writes.fetch_add(1, Ordering::Relaxed) % 3 == 0 {
            counted.fetch_add(1, Ordering::Relaxed);
            return fault;
        }
        Fault::None
    });
    let web = ready_web(&ns, "shop").await;
    ns.delete(of::<Deployment>("shop")).await;
    let web = ns.merge(&web, json!({ "spec": { "replicas": 3 } })).await;
    ns.wait_until(of::<Deployment>("shop"), |deployment| deployment["spec"]["replicas"] == 3).await;
    ns.wait_for(&web, condition("Ready", "True")).await;
    ns.wait_for(&web, condition("Synced", "True")).await;
    assert!(faults.load(Ordering::Relaxed) > 1);
    assert!(host.is_healthy().await);
}

/// What is said of objects on their way takes turns, and Events rest, so that children come first.
#[tokio::test]
async fn while_the_api_server_is_slow_steps_and_events_come_later() {
    let (ns, proxy, host) = through_a_proxy("faults-pace").await;
    proxy.decide(|seen| {
        let is_slow = is_write(seen) || seen.step == "post events";
        if is_slow { Fault::Delay(Duration::from_millis(300)) } else { Fault::None }
    });
    let names: Vec<String> = (0..20).map(|number| format!("shop-{number}")).collect();
    join_all(names.iter().map(|name| ready_web(&ns, name))).await;
    let count = |step: &str| proxy.seen().iter().filter(|seen| seen.step == step).count();
    let (statuses, events) = (count("status webs"), count("post events"));
    assert!((20..32).contains(&statuses), "most are written once, when they are Ready: {statuses}");
    assert!(events < 20, "{events}");
    proxy.decide(|_| Fault::None);
    // all are told in the end
    host.wait_for_metrics(|_| count("post events") >= 20).await;
}

#[tokio::test]
async fn a_host_that_is_asked_to_wait_waits() {
    let (ns, proxy, _host) = through_a_proxy("faults-429").await;
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = refused.clone();
    proxy.decide(move |seen| {
        let first = seen.step == "create deployments" && counted.fetch_add(1, Ordering::Relaxed) == 0;
        if first { Fault::Refuse(StatusCode::TOO_MANY_REQUESTS, Some(4)) } else { Fault::None }
    });
    let web = ns.create(sample::web("shop")).await;
    ns.wait_for(&web, condition("Ready", "True")).await;
    let tries: Vec<Instant> =
        proxy.seen().iter().filter(|seen| seen.step == "create deployments").map(|seen| seen.at).collect();
    assert_eq!(tries.len(), 2);
    assert!(tries[1].duration_since(tries[0]) >= Duration::from_secs(4), "{tries:?}");
}

/// Watches end all the time in real clusters; 410 says that too much has happened since.
#[rstest]
#[case::closed(Fault::LoseAnswer)]
#[case::compacted(Fault::Refuse(StatusCode::GONE, None))]
#[tokio::test]
async fn what_happens_while_watches_are_broken_is_seen_afterwards(#[case] fault: Fault) {
    let (ns, proxy, host) = through_a_proxy("faults-watch").await;
    let web = ready_web(&ns, "shop").await;
    host.settle(Duration::from_secs(1)).await;
    let broken = Arc::new(AtomicUsize::new(0));
    let counted = broken.clone();
    proxy.decide(move |seen| {
        // each kind's next three watches
        if seen.step.starts_with("watch ") && counted.fetch_add(1, Ordering::Relaxed) < 15 {
            fault
        } else {
            Fault::None
        }
    });
    proxy.close_watches();
    ns.merge(of::<Deployment>("shop"), json!({ "spec": { "replicas": 7 } })).await;
    ns.wait_until(of::<Deployment>("shop"), |deployment| deployment["spec"]["replicas"] == 2).await;
    ns.wait_for(&web, condition("Synced", "True")).await;
    assert!(broken.load(Ordering::Relaxed) > 4, "every kind's watch was opened again");
}

#[tokio::test]
async fn an_outage_of_half_a_minute_is_waited_for_without_haste() {
    const OUTAGE: Duration = Duration::from_secs(30);
    let (ns, proxy, host) = through_a_proxy("faults-outage").await;
    let web = ready_web(&ns, "shop").await;
    ns.delete(&ready_web(&ns, "gone").await).await;
    host.settle(Duration::from_secs(1)).await;
    let (before, began) = (proxy.seen().len(), Instant::now());
    proxy.decide(move |_| {
        if began.elapsed() < OUTAGE { Fault::Refuse(StatusCode::SERVICE_UNAVAILABLE, None) } else { Fault::None }
    });
    proxy.close_watches();
    // Meanwhile the world goes on.
    ns.merge(of::<Deployment>("shop"), json!({ "spec": { "replicas": 7 } })).await;
    let web = ns.merge(&web, json!({ "spec": { "image": "registry.example/web:2" } })).await;
    let image = |d: &serde_json::Value| d["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    let repaired = ns
        .wait_until(of::<Deployment>("shop"), |d| d["spec"]["replicas"] == 2 && image(d) == "registry.example/web:2")
        .await;
    assert_eq!(image(&repaired), "registry.example/web:2");
    assert!(began.elapsed() >= OUTAGE);
    ns.wait_for(&web, condition("Ready", "True")).await;
    assert!(host.is_healthy().await);
    let asked = proxy.seen()[before..].iter().filter(|seen| seen.at.duration_since(began) < OUTAGE).count();
    // seven watches, each tried again with back-off
    assert!(asked < 200, "{asked} requests in half a minute of outage");
}

/// The real one: connections break, it answers nothing for a while, and its watch cache begins anew.
#[tokio::test]
async fn an_api_server_that_is_killed_and_started_again_costs_nothing_but_time() {
    let mut server = ApiServer::start().await;
    let ns = TestCluster::shared().await.namespace("faults-restart").await;
    let options =
        HostOptions { server: Some(server.url()), audit_log: Some(server.audit_log()), ..HostOptions::default() };
    let host = ns.host_with(options).await;
    ns.install(&component("web").await).await;
    let web = ready_web(&ns, "shop").await;
    ready_web(&ns, "quiet").await;
    host.settle(Duration::from_secs(1)).await;
    let mark = host.audit.mark();
    server.kill().await;
    // The world goes on, by way of the first one.
    ns.merge(of::<Deployment>("shop"), json!({ "spec": { "replicas": 7 } })).await;
    let web = ns.merge(&web, json!({ "spec": { "image": "registry.example/web:2" } })).await;
    server.restart().await;
    let image = |d: &serde_json::Value| d["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    ns.wait_until(of::<Deployment>("shop"), |d| d["spec"]["replicas"] == 2 && image(d) == "registry.example/web:2")
        .await;
    ns.wait_for(&web, condition("Ready", "True")).await;
    let mut wrote = host.writes_since(mark).await;
    wrote.remove("patch webs/status");
    // the two changes are heard of by two watches, at once or one after the other
    let repairs = wrote.remove("patch deployments").unwrap_or_default();
    assert!((1..=2).contains(&repairs), "{repairs}");
    assert_eq!(wrote, crate::writes(&[]), "what did not change is not written");
    assert!(host.is_healthy().await);
}
