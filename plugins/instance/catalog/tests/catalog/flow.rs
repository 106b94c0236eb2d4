//! From a request to the cluster and back (I4, I5, I6).

use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::support::{ADMIN, ALICE, Operator, report, until};
use crate::{World, id, order, with};

#[tokio::test]
async fn an_instance_goes_from_a_request_to_the_cluster_and_its_status_comes_back() {
    let world = World::new("flow").await;
    let (http, ns) = (&world.service.http, &world.ns);
    let template = world.template().await;
    let values = json!({ "replicas": 2, "ratio": 1.0, "gone": null, "list": [1, { "a": null }], "empty": {} });
    let made = http.post("/instances", ALICE, &with(order(&template), json!({ "values": values }))).await.expect(201);
    let (name, path) = (made.id(), format!("/instances/{}", made.id()));
    assert_eq!(made.headers["location"], path);
    assert_eq!(made.body["status"], json!({ "phase": "Pending", "message": "" }));

    let object = ns.instance(&name, |_| true).await;
    let spec = json!({
        "userId": "alice", "productTemplateVersion": template, "namespace": format!("caelus-{name}"),
        "domainName": made.body["domainName"], "values": values,
    });
    // 1.0 comes back as 1
    let rounded: Value = serde_json::from_str(&spec.to_string().replace("1.0", "1")).unwrap();
    assert_eq!(object.data["spec"], rounded);
    let shown = until("the template version", async || ns.templates().get_opt(&template).await.unwrap()).await;
    assert_eq!(shown.data["spec"]["chart"]["oci"]["reference"], "charts/shop");
    assert_eq!(shown.data["spec"]["defaultValues"], json!({ "replicas": 1 }));

    report(&ns.instances(), &object, "Running", "all is well", 1).await.unwrap();
    let running = until("Running is in the row", async || {
        Some(http.get(&path, ALICE).await.expect(200).body).filter(|body| body["status"]["phase"] == "Running")
    })
    .await;
    let status = json!({
        "phase": "Running", "message": "all is well", "releaseRevision": 1, "lastReconcile": "2026-01-02T03:04:05Z",
    });
    assert_eq!(running["status"], status);
    assert_eq!(running["generation"], 1);
    assert_eq!(world.sql().await.query("SELECT 1 FROM deployment_instance", &[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_upgrade_is_upgrading_until_the_cluster_says_otherwise_of_the_new_spec() {
    let world = World::new("upgrade").await;
    let (http, ns) = (&world.service.http, &world.ns);
    let (old, new) = (world.template().await, world.template().await);
    let name = http.post("/instances", ALICE, &order(&old)).await.expect(201).id();
    let path = format!("/instances/{name}");
    let phase = async |wanted: &str| {
        until(&format!("{wanted} is in the row"), async || {
            Some(http.get(&path, ALICE).await.expect(200).body).filter(|body| body["status"]["phase"] == wanted)
        })
        .await
    };
    report(&ns.instances(), &ns.instance(&name, |_| true).await, "Running", "", 1).await.unwrap();
    phase("Running").await;

    let upgrade = json!({ "productTemplateVersion": new });
    let upgrade_path = format!("{path}/upgrade");
    assert_eq!(
        http.post(&upgrade_path, ALICE, &upgrade).await.expect(403).headers["content-type"],
        "application/problem+json"
    );
    let upgraded = http.post(&upgrade_path, ADMIN, &upgrade).await.expect(202).body;
    assert_eq!((&upgraded["generation"], &upgraded["status"]["phase"]), (&json!(2), &json!("Upgrading")));
    let again = http.post(&upgrade_path, ADMIN, &upgrade).await.expect(202).body;
    assert_eq!(again["generation"], 2, "the same once more is no change");

    // The object still says Running, of the earlier spec: a watch event of that kind has come when the mirror is idle.
    let object = ns.instance(&name, |object| object.data["spec"]["productTemplateVersion"] == new.as_str()).await;
    assert_eq!(object.data["status"]["phase"], "Running");
    until("the mirror is idle", async || {
        (world.service.metrics("transom_catalog_waiting").await["transom_catalog_waiting"] == 0.0).then_some(())
    })
    .await;
    assert_eq!(http.get(&path, ALICE).await.body["status"]["phase"], "Upgrading");
    report(&ns.instances(), &object, "Failed", "a hook failed", 1).await.unwrap();
    assert_eq!(phase("Failed").await["status"]["message"], "a hook failed");
    report(&ns.instances(), &object, "Running", "", 2).await.unwrap();
    assert_eq!(phase("Running").await["status"]["releaseRevision"], 2);
}

#[tokio::test]
async fn a_deleted_instance_is_shown_until_nothing_of_it_is_left() {
    let world = World::new("delete").await;
    let (http, ns) = (&world.service.http, &world.ns);
    let template = world.template().await;
    let new = with(order(&template), json!({ "secrets": { "password": "hunter2-deleted" } }));
    let name = http.post("/instances", ALICE, &new).await.expect(201).id();
    let path = format!("/instances/{name}");
    let operator = Operator::start(ns);
    let is_held = |object: &kube::api::DynamicObject| object.metadata.finalizers.is_some();
    ns.instance(&name, is_held).await;
    drop(operator);

    let deleted = http.delete(&path, ALICE).await.expect(202).body;
    assert!(deleted["deletedAt"].is_string());
    assert_eq!(http.delete(&path, ALICE).await.expect(202).body["deletedAt"], deleted["deletedAt"]);
    ns.instance(&name, |object| object.metadata.deletion_timestamp.is_some()).await;
    assert!(http.get(&path, ALICE).await.expect(200).body["deletedAt"].is_string(), "the operator still works on it");
    assert_eq!(ns.secret_names().await, [format!("{name}-values-1")], "deleting may need its values");
    let upgrade = json!({ "productTemplateVersion": template });
    http.post(&format!("{path}/upgrade"), ADMIN, &upgrade).await.expect(409);
    assert_eq!(http.post("/instances", ALICE, &new).await.expect(409).field(), "domainName");

    // without its label the watch no longer shows it: it is not gone for that
    let labels = json!({ "metadata": { "labels": null } });
    ns.instances().patch(&name, &PatchParams::default(), &Patch::Merge(labels)).await.unwrap();
    until("the mirror has looked for it", async || {
        world.service.log().contains("an object is there that the watch has not told of").then_some(())
    })
    .await;
    assert!(http.get(&path, ALICE).await.expect(200).body["deletedAt"].is_string());
    assert_eq!(ns.secret_names().await.len(), 1);

    let _operator = Operator::start(ns);
    until("it is gone", async || (http.get(&path, ALICE).await.status == 404).then_some(())).await;
    assert!(ns.names(&ns.instances()).await.is_empty());
    assert!(ns.secret_names().await.is_empty());
    http.delete(&path, ALICE).await.expect(404);
    let tombstone = "SELECT secrets IS NULL FROM deployment_instance WHERE id = $1 AND gone_at IS NOT NULL";
    let row = world.sql().await.query_one(tombstone, &[&id(&name)]).await.unwrap();
    assert!(row.get::<_, bool>(0), "a tombstone has no secrets");
    http.post("/instances", ALICE, &new).await.expect(201);
}

#[tokio::test]
async fn secrets_reach_the_cluster_as_a_secret_and_appear_nowhere_else() {
    const FIRST: &str = "hunter2-swordfish-first";
    const SECOND: &str = "hunter2-swordfish-second";
    let world = World::new("secrets").await;
    let (http, ns) = (&world.service.http, &world.ns);
    let template = world.template().await;
    let mut seen = Vec::new();
    let new = with(order(&template), json!({ "secrets": { "database": { "password": FIRST } } }));
    let made = http.once("/instances", ALICE, "once", &new).await.expect(201);
    let (name, path) = (made.id(), format!("/instances/{}", made.id()));
    assert_eq!(made.body["hasSecrets"], true);
    seen.push(made.text);

    let object = ns.instance(&name, |_| true).await;
    let first = format!("{name}-values-1");
    assert_eq!(object.data["spec"]["valuesSecret"], first.as_str());
    let values = async |name: &str| {
        let secret = ns.secrets().get(name).await.unwrap();
        serde_json::from_slice::<Value>(&secret.data.unwrap()["values.json"].0).unwrap()
    };
    assert_eq!(values(&first).await, json!({ "database": { "password": FIRST } }));
    report(&ns.instances(), &object, "Running", "", 1).await.unwrap();

    // other values are another Secret, so that the object takes them on at once with all else
    let other = world.template().await;
    let upgrade = json!({ "productTemplateVersion": other, "secrets": { "database": { "password": SECOND } } });
    seen.push(http.post(&format!("{path}/upgrade"), ADMIN, &upgrade).await.expect(202).text);
    let second = format!("{name}-values-2");
    let object = ns.instance(&name, |object| object.data["spec"]["valuesSecret"] == second.as_str()).await;
    assert_eq!(object.data["spec"]["productTemplateVersion"], other.as_str());
    assert_eq!(values(&second).await, json!({ "database": { "password": SECOND } }));
    assert_eq!(ns.secret_names().await, [first, second.clone()], "the operator may still work on the first spec");
    report(&ns.instances(), &object, "Upgrading", "", 2).await.unwrap();
    until("the first Secret is gone", async || (ns.secret_names().await == [second.clone()]).then_some(())).await;
    // requests that are refused, with a secret in them
    for wrong in [json!({ "secrets": FIRST }), json!({ "secrets": { "a": FIRST }, "domainName": 1 })] {
        seen.push(http.post("/instances", ALICE, &wrong).await.expect(422).text);
    }
    let again = with(order(&template), json!({ "secrets": { "a": SECOND } }));
    seen.push(http.once("/instances", ALICE, "once", &again).await.expect(422).text);

    for path in ["/instances", &path, "/template-versions"] {
        seen.push(http.get(path, ADMIN).await.expect(200).text);
    }
    for object in ns.instances().list(&ListParams::default()).await.unwrap() {
        seen.push(serde_json::to_string(&object).unwrap());
    }
    for event in ns.events().list(&ListParams::default()).await.unwrap() {
        seen.push(serde_json::to_string(&event).unwrap());
    }
    seen.push(world.service.metrics_text().await);
    let tables = "SELECT (SELECT string_agg(i::text, '') FROM deployment_instance i)
        || (SELECT string_agg(k::text, '') FROM idempotency_key k)";
    let rows: String = world.sql().await.query_one(tables, &[]).await.unwrap().get(0);
    seen.push(rows);
    seen.push(world.service.log());
    assert!(seen.iter().all(|text| !text.is_empty()));
    for text in &seen {
        for secret in [FIRST, SECOND] {
            let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
            assert!(!text.contains(secret) && !text.contains(&hex), "a secret is in {text}");
        }
    }
    let taken_away = json!({ "productTemplateVersion": template, "secrets": {} });
    http.post(&format!("{path}/upgrade"), ADMIN, &taken_away).await.expect(202);
    let object = ns.instance(&name, |object| object.data["spec"].get("valuesSecret").is_none()).await;
    report(&ns.instances(), &object, "Running", "", 3).await.unwrap();
    until("the Secret is gone", async || ns.secret_names().await.is_empty().then_some(())).await;
}
