//! One side is away for a while (I4).

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::{ALICE, DEADLINE, Operator, Postgres, Proxy, Service, TestCluster, report, until};
use crate::{World, order, template};

/// How long a side is away, in seconds: longer by hand, `TRANSOM_TEST_OUTAGE_SECONDS=30`.
fn outage() -> Duration {
    let seconds = std::env::var("TRANSOM_TEST_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3))
}

async fn phase(service: &Service, name: &str, wanted: &str) {
    until(&format!("{wanted} is in the row"), async || {
        let body = service.http.try_get(&format!("/instances/{name}"), ALICE).await?.body;
        (body["status"]["phase"] == wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nothing_is_lost_while_the_database_is_down() {
    let (cluster, postgres) = (TestCluster::get().await, Postgres::start().await);
    let ns = cluster.namespace("database-down", None).await;
    let url = postgres.database(&ns.name, None).await;
    let service = Service::start(&ns, &url, &[]).await;
    let http = &service.http;
    let template = template(&service).await;
    let name = http.post("/instances", ALICE, &order(&template)).await.expect(201).id();
    let doomed = http.post("/instances", ALICE, &order(&template)).await.expect(201).id();
    let (object, _) = (ns.instance(&name, |_| true).await, ns.instance(&doomed, |_| true).await);

    postgres.stop();
    let stopped = Instant::now();
    // the cluster goes on meanwhile: a status changes, an object is lost
    report(&ns.instances(), &object, "Running", "", 1).await.unwrap();
    ns.instances().delete(&doomed, &kube::api::DeleteParams::default()).await.unwrap();
    let mut refused = 0;
    while refused < 3 || stopped.elapsed() < outage() {
        assert!(stopped.elapsed() < DEADLINE + outage());
        let answer = http.post("/instances", ALICE, &order(&template)).await.expect(503);
        assert_eq!(answer.headers["retry-after"], "5");
        assert_eq!(service.ready().await.unwrap().status, 503);
        refused += 1;
    }
    postgres.resume().await;

    service.wait_until_ready().await;
    phase(&service, &name, "Running").await;
    ns.instance(&doomed, |_| true).await;
    let rows = postgres.connect(&ns.name).await.unwrap().query("SELECT 1 FROM deployment_instance", &[]).await;
    assert_eq!(rows.unwrap().len(), 2, "what was refused was not carried out");
    let later = http.post("/instances", ALICE, &order(&template)).await.expect(201).id();
    ns.instance(&later, |_| true).await;
}

#[tokio::test]
async fn a_catalog_that_starts_before_its_database_waits_for_it() {
    let (cluster, postgres) = (TestCluster::get().await, Postgres::start().await);
    let ns = cluster.namespace("database-late", None).await;
    let url = postgres.database(&ns.name, None).await;
    postgres.stop();
    let mut service = Service::prepare(&ns, &url, &[]);
    service.resume();
    until("it says that it waits", async || service.log().contains("waits for the database").then_some(())).await;
    assert_eq!(service.ready().await.unwrap().status, 503);
    postgres.resume().await;
    service.wait_until_ready().await;
    let name = service.http.post("/instances", ALICE, &order(&template(&service).await)).await.expect(201).id();
    ns.instance(&name, |_| true).await;
}

#[tokio::test]
async fn nothing_is_lost_while_the_api_server_cannot_be_reached() {
    let proxy = Proxy::start(TestCluster::address()).await;
    let world = World::with("cluster-down", Some(&proxy), &[]).await;
    let (http, ns) = (&world.service.http, &world.ns);
    let template = world.template().await;
    let _operator = Operator::start(ns);
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(http.post("/instances", ALICE, &order(&template)).await.expect(201).id());
    }
    for name in &names {
        phase(&world.service, name, "Running").await;
    }

    proxy.cut();
    let started = Instant::now();
    // users go on meanwhile
    let made = http.post("/instances", ALICE, &order(&template)).await.expect(201).id();
    let upgrade = json!({ "productTemplateVersion": template, "values": { "a": 1 } });
    http.post(&format!("/instances/{}/upgrade", names[0]), crate::support::ADMIN, &upgrade).await.expect(202);
    http.delete(&format!("/instances/{}", names[1]), ALICE).await.expect(202);
    // and somebody in the cluster, of which the watch cannot tell
    ns.instances().delete(&names[2], &kube::api::DeleteParams::default()).await.unwrap();
    let failed = async || {
        let counts = world.service.metrics("transom_catalog_reconciles_total").await;
        counts.iter().filter(|(name, _)| name.contains("failed")).map(|(_, count)| count).sum::<f64>()
    };
    until("looks fail", async || (failed().await >= 3.0 && started.elapsed() >= outage()).then_some(())).await;
    assert_eq!(http.get(&format!("/instances/{made}"), ALICE).await.expect(200).body["status"]["phase"], "Pending");
    proxy.restore();

    for name in [&made, &names[0], &names[2]] {
        phase(&world.service, name, "Running").await;
    }
    let upgraded = http.get(&format!("/instances/{}", names[0]), ALICE).await.body;
    assert_eq!(upgraded["status"]["releaseRevision"], 2);
    until("the deleted one is gone", async || {
        (http.get(&format!("/instances/{}", names[1]), ALICE).await.status == 404).then_some(())
    })
    .await;
    let mut wanted = [made, names[0].clone(), names[2].clone()];
    wanted.sort();
    until("both sides agree", async || {
        let mut there = ns.names(&ns.instances()).await;
        there.sort();
        (there == wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_database_is_reached_by_tls_if_its_certificate_is_good() {
    let (cluster, postgres) = (TestCluster::get().await, Postgres::start().await);
    let ns = cluster.namespace("tls", None).await;
    let url = postgres.database(&ns.name, None).await;
    postgres.stop();
    let files = tempfile::tempdir().unwrap();
    let ca = files.path().join("ca.pem");
    std::fs::write(&ca, postgres.offer_tls()).unwrap();
    postgres.resume().await;
    let url = format!("{url}?sslmode=require");
    let trusting = format!("--database-ca-file={}", ca.display());
    let service = Service::start(&ns, &url, &[&trusting]).await;
    template(&service).await;
    let sql = postgres.connect(&ns.name).await.unwrap();
    let ours = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE application_name = 'transom-catalog'";
    assert_eq!(sql.query_one(ours, &[]).await.unwrap().get::<_, Option<bool>>(0), Some(true));

    let mut other = Service::prepare(&ns, &url, &[]);
    other.resume();
    until("it says why not", async || other.log().contains("invalid peer certificate").then_some(())).await;
    assert_eq!(other.ready().await.unwrap().status, 503);
}

#[tokio::test]
async fn a_catalog_that_is_told_to_stop_answers_first() {
    let mut world = World::new("stop").await;
    let template = world.template().await;
    let http = world.service.http.clone();
    let name = http.post("/instances", ALICE, &order(&template)).await.expect(201).id();
    let mut sql = world.sql().await;
    let held = sql.transaction().await.unwrap();
    held.execute("SELECT 1 FROM deployment_instance FOR UPDATE", &[]).await.unwrap();
    let path = format!("/instances/{name}");
    let waiting = tokio::spawn(async move { http.delete(&path, ALICE).await });
    let watcher = world.sql().await;
    let waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    until("the request waits for the row", async || {
        (!watcher.query(waits, &[]).await.unwrap().is_empty()).then_some(())
    })
    .await;
    world.service.terminate();
    until("it stops", async || world.service.log().contains("stops").then_some(())).await;
    held.commit().await.unwrap();
    waiting.await.unwrap().expect(202);
    assert!(world.service.ended().await.success());
}
