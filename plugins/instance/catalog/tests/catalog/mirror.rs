//! Rows and objects, whoever changes them (I4).

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::support::{ADMIN, ALICE, Operator, Service, report, until};
use crate::{World, id, order, with};

#[tokio::test]
async fn rows_that_are_changed_by_sql_are_mirrored_at_once() {
    let world = World::new("sql").await;
    let (http, ns, sql) = (&world.service.http, &world.ns, world.sql().await);
    let template = world.template().await;
    let name = http.post("/instances", ALICE, &order(&template)).await.expect(201).id();
    ns.instance(&name, |_| true).await;
    let change = "UPDATE deployment_instance SET overrides = '{\"a\": 1}' WHERE id = $1";
    sql.execute(change, &[&id(&name)]).await.unwrap();
    let object = ns.instance(&name, |object| object.data["spec"]["values"] == json!({ "a": 1 })).await;
    assert_eq!(object.metadata.annotations.unwrap()["caelus.io/generation"], "2");
    sql.execute("DELETE FROM deployment_instance WHERE id = $1", &[&id(&name)]).await.unwrap();
    until("the object is gone", async || ns.names(&ns.instances()).await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn drift_is_repaired_and_objects_without_a_row_go_if_they_are_ours() {
    let world = World::new("drift").await;
    let (http, ns) = (&world.service.http, &world.ns);
    let template = world.template().await;
    let new = with(order(&template), json!({ "values": { "a": 1 }, "secrets": { "b": 2 } }));
    let name = http.post("/instances", ALICE, &new).await.expect(201).id();
    let made = ns.instance(&name, |_| true).await;
    let by_hand = PatchParams { field_manager: Some("by-hand".into()), ..PatchParams::default() };
    let edit = json!({ "spec": { "values": { "a": 7, "more": true }, "domainName": "other.example.org" } });
    ns.instances().patch(&name, &by_hand, &Patch::Merge(edit)).await.unwrap();
    let is_repaired = |object: &DynamicObject| {
        object.data["spec"]["values"] == json!({ "a": 1 })
            && object.data["spec"]["domainName"] == made.data["spec"]["domainName"]
    };
    ns.instance(&name, is_repaired).await;
    let secret = format!("{name}-values-1");
    let broken = json!({ "stringData": { "values.json": "{}" } });
    ns.secrets().patch(&secret, &by_hand, &Patch::Merge(broken)).await.unwrap();
    until("the Secret is repaired", async || {
        let data = ns.secrets().get(&secret).await.unwrap().data.unwrap();
        (data["values.json"].0 == br#"{"b":2}"#).then_some(())
    })
    .await;
    ns.instances().delete(&name, &DeleteParams::default()).await.unwrap();
    let again = ns.instance(&name, |object| object.metadata.uid != made.metadata.uid).await;

    // two that no row wants, with our label and with another catalog's
    let copy = |name: &str, catalog: &str| {
        let mut copy = again.clone();
        copy.metadata =
            serde_json::from_value(json!({ "name": name, "labels": { "caelus.io/catalog": catalog } })).unwrap();
        copy
    };
    let catalog = again.metadata.labels.clone().unwrap()["caelus.io/catalog"].clone();
    let parameters = PostParams::default();
    ns.instances().create(&parameters, &copy("others", "another")).await.unwrap();
    ns.instances().create(&parameters, &copy("leftover", &catalog)).await.unwrap();
    until("the leftover is gone", async || ns.instances().get_opt("leftover").await.unwrap().is_none().then_some(()))
        .await;
    let mut names = ns.names(&ns.instances()).await;
    names.sort();
    assert_eq!(names, [name, "others".into()]);
}

#[tokio::test]
async fn what_another_catalog_has_made_is_not_taken_over() {
    let world = World::new("foreign").await;
    let (http, ns, sql) = (&world.service.http, &world.ns, world.sql().await);
    let template = world.template().await;
    let name = http.post("/instances", ALICE, &order(&template)).await.expect(201).id();
    let mut foreign = ns.instance(&name, |_| true).await;
    let id = uuid::Uuid::now_v7();
    let labels = json!({ "caelus.io/catalog": "another" });
    foreign.metadata = serde_json::from_value(json!({ "name": id.to_string(), "labels": labels })).unwrap();
    let made = ns.instances().create(&PostParams::default(), &foreign).await.unwrap();
    let insert = "INSERT INTO deployment_instance (id, user_id, product_template_version_id, namespace, domain_name)
        SELECT $1, 'alice', product_template_version_id, 'elsewhere', 'a.name' FROM deployment_instance";
    sql.execute(insert, &[&id]).await.unwrap();
    until("it is said", async || world.service.log().contains("was made by the catalog another").then_some(())).await;
    assert_eq!(ns.instances().get(&id.to_string()).await.unwrap(), made);
}

#[tokio::test]
async fn comparing_everything_again_writes_nothing() {
    let world = World::with("idle", None, &["--resync-seconds=1"]).await;
    let (http, ns) = (&world.service.http, &world.ns);
    let template = world.template().await;
    let _operator = Operator::start(ns);
    let mut names = Vec::new();
    for number in 0..3 {
        let values = json!({ "values": { "none": null, "ratio": 0.5, "whole": 2.0 }, "secrets": { "n": number } });
        names.push(http.post("/instances", ALICE, &with(order(&template), values)).await.expect(201).id());
    }
    for name in &names {
        until("it runs", async || {
            let body = http.get(&format!("/instances/{name}"), ALICE).await.body;
            (body["status"]["phase"] == "Running").then_some(())
        })
        .await;
    }
    let resyncs = async || {
        let counts = world.service.metrics("transom_catalog_resyncs_total").await;
        counts.get(r#"transom_catalog_resyncs_total{cause="interval"}"#).copied().unwrap_or_default()
    };
    // a comparison may have begun before the last write: count from the next one on
    let wait = async |count: f64| {
        let from = resyncs().await;
        until("comparisons", async || (resyncs().await >= from + count).then_some(())).await;
    };
    wait(2.0).await;
    let before = world.service.metrics("transom_catalog_writes_total").await;
    let version = async || ns.instances().get(&names[0]).await.unwrap().metadata.resource_version;
    let unchanged = version().await;
    wait(3.0).await;
    assert_eq!(world.service.metrics("transom_catalog_writes_total").await, before);
    assert_eq!(version().await, unchanged);
    let failed = world.service.metrics("transom_catalog_reconciles_total").await;
    assert!(failed.keys().all(|name| !name.contains("failed")), "{failed:?}");
}

#[tokio::test]
async fn what_the_cluster_refuses_is_told_in_the_row() {
    let world = World::new("refused").await;
    let (http, ns, sql) = (&world.service.http, &world.ns, world.sql().await);
    let name = http.post("/instances", ALICE, &order(&world.template().await)).await.expect(201).id();
    ns.instance(&name, |_| true).await;
    let set = "UPDATE deployment_instance SET domain_name = $2 WHERE id = $1";
    sql.execute(set, &[&id(&name), &"Not A Name"]).await.unwrap();
    let status = until("the refusal is in the row", async || {
        let body = http.get(&format!("/instances/{name}"), ALICE).await.expect(200).body;
        Some(body["status"].clone()).filter(|status| status["phase"] == "Failed")
    })
    .await;
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("the cluster refuses") && message.contains("spec.domainName"), "{message}");
    sql.execute(set, &[&id(&name), &"a.name"]).await.unwrap();
    let object = ns.instance(&name, |object| object.data["spec"]["domainName"] == "a.name").await;
    report(&ns.instances(), &object, "Running", "", 1).await.unwrap();
    until("it runs", async || {
        let body = http.get(&format!("/instances/{name}"), ALICE).await.body;
        (body["status"]["phase"] == "Running").then_some(())
    })
    .await;
}

#[tokio::test]
async fn of_two_replicas_one_mirrors_and_the_other_follows_at_once() {
    let mut world = World::new("replicas").await;
    let url = std::fs::read_to_string(world.service.url_file()).unwrap();
    let mut second = Service::prepare(&world.ns, &url, &[]);
    second.share_keys(&world.service);
    second.resume();
    second.wait_until_ready().await;
    let leads =
        async |service: &Service| service.metrics("transom_catalog_leader").await["transom_catalog_leader"] == 1.0;
    until("the first one leads", async || leads(&world.service).await.then_some(())).await;
    assert!(!leads(&second).await);
    // both serve
    let template = world.template().await;
    let new = with(order(&template), json!({ "secrets": { "a": 1 } }));
    let name = second.http.post("/instances", ALICE, &new).await.expect(201).id();
    world.ns.instance(&name, |_| true).await;

    world.service.kill();
    until("the second one leads", async || leads(&second).await.then_some(())).await;
    let name = second.http.post("/instances", ALICE, &order(&template)).await.expect(201).id();
    world.ns.instance(&name, |_| true).await;
    assert!(second.stop().await.success(), "it ends by itself");
    assert!(second.log().contains("stops"));
}

#[tokio::test]
async fn migrations_run_once_however_many_begin_and_a_newer_schema_is_refused() {
    let world = World::new("migrations").await;
    let url = world.postgres.database(&format!("{}-new", world.database), None).await;
    std::fs::write(world.service.url_file(), url).unwrap();
    let service = &world.service;
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| service.run("migrate"))).collect();
        for run in runs {
            let output = run.join().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    });
    let sql = world.postgres.connect(&format!("{}-new", world.database)).await.unwrap();
    let rows = sql.query("SELECT name FROM catalog_schema_version ORDER BY number", &[]).await.unwrap();
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, ["0001_tables", "0002_notify"]);
    sql.batch_execute("INSERT INTO catalog_schema_version (number, name) VALUES (3, '0003_later')").await.unwrap();
    let refused = service.run("migrate");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("0003_later"), "{refused:?}");
    assert_eq!(
        service.http.get("/template-versions", ADMIN).await.status,
        200,
        "the one that runs has its own database"
    );
}
