//! Requests: who may what, what is refused and how, and what comes twice (I5).

use futures::future::join_all;
use http::{Method, Request};
use serde_json::{Value, json};
use transom_catalog::api::openapi;
use uuid::Uuid;

use crate::support::{ADMIN, ALICE, BOB};
use crate::{World, order, with};

#[tokio::test]
async fn users_see_and_change_their_own_and_administrators_all() {
    let world = World::with("users", None, &["--users-may-upgrade"]).await;
    let http = &world.service.http;
    let template = world.template().await;
    let of_alice = http.post("/instances", ALICE, &order(&template)).await.expect(201);
    let for_bob = with(order(&template), json!({ "userId": "bob", "namespace": "bobs-own" }));
    let of_bob = http.post("/instances", ADMIN, &for_bob).await.expect(201);
    assert_eq!(of_bob.body["namespace"], "bobs-own");
    let ids = async |token: &str| {
        let items = http.get("/instances", token).await.expect(200).body["items"].clone();
        items.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(ALICE).await, [of_alice.id()]);
    assert_eq!(ids(BOB).await, [of_bob.id()]);
    assert_eq!(ids(ADMIN).await, [of_alice.id(), of_bob.id()]);

    let path = format!("/instances/{}", of_alice.id());
    let upgrade = json!({ "productTemplateVersion": template, "values": { "replicas": 3 } });
    http.get(&path, BOB).await.expect(404);
    http.delete(&path, BOB).await.expect(404);
    http.post(&format!("{path}/upgrade"), BOB, &upgrade).await.expect(404);
    assert_eq!(http.post(&format!("{path}/upgrade"), ALICE, &upgrade).await.expect(202).body["generation"], 2);
    http.get(&path, ADMIN).await.expect(200);

    for field in ["userId", "namespace"] {
        let new = with(order(&template), json!({ field: "somebody" }));
        assert_eq!(http.post("/instances", BOB, &new).await.expect(403).field(), field);
    }
    let chart = json!({ "chart": { "folder": { "reference": "shop" } } });
    http.post("/template-versions", ALICE, &chart).await.expect(403);
    http.get("/template-versions", ALICE).await.expect(403);
    http.get(&format!("/template-versions/{template}"), ALICE).await.expect(403);
    http.get(&format!("/template-versions/{template}"), ADMIN).await.expect(200);
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_its_field() {
    let world = World::new("wrong").await;
    let http = &world.service.http;
    let template = world.template().await;
    let field = async |token: &str, more: Value| {
        http.post("/instances", token, &with(order(&template), more)).await.expect(422).field().to_owned()
    };
    assert_eq!(field(ALICE, json!({ "productTemplateVersion": Uuid::now_v7() })).await, "productTemplateVersion");
    assert_eq!(field(ALICE, json!({ "domainName": "Shop" })).await, "domainName");
    assert_eq!(field(ALICE, json!({ "values": [] })).await, "values");
    assert_eq!(field(ALICE, json!({ "values": { "a": "\0" } })).await, "values.a");
    assert_eq!(field(ALICE, json!({ "valeus": {} })).await, "valeus");
    assert_eq!(field(ADMIN, json!({ "namespace": "kube-system" })).await, "namespace");
    let taken = order(&template);
    http.post("/instances", ALICE, &taken).await.expect(201);
    assert_eq!(http.post("/instances", ALICE, &taken).await.expect(409).field(), "domainName");
    let chart = json!({ "chart": { "oci": { "reference": "a" } } });
    assert_eq!(http.post("/template-versions", ADMIN, &chart).await.expect(422).field(), "chart.digest");

    let large = with(order(&template), json!({ "values": { "a": "x".repeat(300 << 10) } }));
    http.post("/instances", ALICE, &large).await.expect(413);
    let mut request = http.request(Method::POST, "/instances", ALICE, &order(&template));
    request.headers_mut().remove("content-type");
    http.send(request).await.unwrap().expect(415);
    http.get("/instances/none", ALICE).await.expect(404);
    http.get("/instances?limit=0", ALICE).await.expect(422);
    http.get("/instances?page=2", ALICE).await.expect(422);
    http.delete("/instances", ALICE).await.expect(405);
    http.get("/nothing", ALICE).await.expect(404);
    assert_eq!(http.get("/instances", "of-nobody-0123456789").await.expect(401).headers["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn every_operation_of_the_document_is_served_and_wants_a_token() {
    let world = World::new("openapi").await;
    let http = &world.service.http;
    let anonymous = |method: &Method, path: &str| {
        let mut request = http.request(method.clone(), path, "", &Value::Null);
        request.headers_mut().remove("authorization");
        request
    };
    let served = http.send(anonymous(&Method::GET, "/openapi.json")).await.unwrap().expect(200).body;
    assert_eq!(served, openapi::document());
    for operation in &openapi::OPERATIONS {
        let path = operation.path.replace("{id}", &Uuid::now_v7().to_string());
        let request: Request<_> = anonymous(&operation.method, &path);
        http.send(request).await.unwrap().expect(401);
        let documented = &served["paths"][operation.path][operation.method.as_str().to_lowercase()];
        assert_eq!(documented["operationId"], operation.id);
    }
    // what is answered has the fields that the document says, and no others
    let made = http.post("/instances", ALICE, &order(&world.template().await)).await.expect(201).body;
    let properties = served["components"]["schemas"]["InstanceView"]["properties"].as_object().unwrap();
    let unknown: Vec<_> = made.as_object().unwrap().keys().filter(|key| !properties.contains_key(*key)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let metrics = world.service.metrics("transom_catalog_requests_total").await;
    let created = r#"transom_catalog_requests_total{code="201",operation="createInstance"}"#;
    assert_eq!(metrics.get(created), Some(&1.0), "{metrics:?}");
}

#[tokio::test]
async fn the_same_request_under_one_key_is_carried_out_once() {
    let world = World::new("twice").await;
    let http = &world.service.http;
    let template = world.template().await;
    let new = order(&template);
    // at the same time: one does it, the others wait for it and answer the same
    let answers = join_all((0..8).map(|_| http.once("/instances", ALICE, "order-1", &new))).await;
    let first = answers[0].id();
    let replayed = answers.iter().filter(|answer| answer.headers.contains_key("idempotency-replayed")).count();
    assert_eq!(replayed, 7);
    for answer in answers {
        assert_eq!((answer.status.as_u16(), answer.id()), (201, first.clone()));
    }
    assert_eq!(world.sql().await.query("SELECT 1 FROM deployment_instance", &[]).await.unwrap().len(), 1);

    let spaced = new.to_string().replace(':', ": ");
    let mut request = http.request(Method::POST, "/instances", ALICE, &json!({}));
    request.headers_mut().insert("idempotency-key", "order-1".parse().unwrap());
    *request.body_mut() = spaced.into();
    assert_eq!(http.send(request).await.unwrap().expect(201).id(), first, "it means the same");

    let other = order(&template);
    let refused = http.once("/instances", ALICE, "order-1", &other).await.expect(422);
    assert_eq!(refused.field(), "header Idempotency-Key");
    let path = format!("/instances/{first}/upgrade");
    http.once(&path, ADMIN, "order-1", &json!({ "productTemplateVersion": template })).await.expect(202);
    http.once("/instances", BOB, "order-1", &other).await.expect(201);
    // what was refused may be tried again under its key
    let wrong = with(order(&template), json!({ "domainName": "x" }));
    http.once("/instances", ALICE, "order-2", &wrong).await.expect(422);
    http.once("/instances", ALICE, "order-2", &order(&template)).await.expect(201);
    http.once("/instances", ALICE, &"x".repeat(256), &new).await.expect(400);
}

#[tokio::test]
async fn pages_show_every_instance_once() {
    let world = World::new("pages").await;
    let http = &world.service.http;
    let template = world.template().await;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(http.post("/instances", ALICE, &order(&template)).await.expect(201).id());
    }
    let (mut seen, mut path) = (Vec::new(), "/instances?limit=3".to_owned());
    loop {
        let page = http.get(&path, ALICE).await.expect(200).body;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 3);
        seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/instances?limit=3&after={next}");
    }
    made.sort();
    assert_eq!(seen, made);
}
