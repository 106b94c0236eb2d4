//! Where instances have charts and secret values from, and that a second look costs nothing.

use std::net::Ipv4Addr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use transom::plan::contract::{Answer, Answered, Lookup, Value as Found};
use transom_tests::{Registry, component, condition, from_environment, helm, of, sample, transom_with_cluster};

use crate::instance::{CHART, Platform, template};
use crate::record::recorded;
use crate::samples::keeps;

const PASSWORD: &str = "correct-horse-battery";

fn secret(name: &str, values: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
        "stringData": { "values.json": values.to_string() } })
}

/// I6: secret values reach the chart and nothing else; a change of the Secret is an upgrade.
#[tokio::test]
async fn i6_secret_values_reach_the_chart_and_are_told_nowhere() {
    let platform = Platform::start("instance-secret").await;
    let Platform { ns, own, host, .. } = &platform;
    platform.template("v1", "shop", json!({ "password": "default" })).await;
    let mut body = platform.instance_body("v1", json!({ "password": "override" }));
    body["spec"]["valuesSecret"] = json!("shop-values");
    let object = ns.create(body).await;
    let missing = ns.wait_for(&object, condition("Ready", "False").because("InvalidValuesSecret")).await;
    let message = missing["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("spec.valuesSecret: Secret shop-values is not in the namespace"), "{message}");
    ns.create(secret("shop-values", &json!({ "password": PASSWORD, "hooks": false }))).await;
    platform.phase("Running", 1).await;
    let encoded = |text: &str| serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).unwrap();
    assert_eq!(own.get(of::<Secret>("shop")).await["data"]["password"], encoded(PASSWORD));

    // a chart that repeats it
    ns.merge(&object, json!({ "spec": { "values": { "fail": "cannot" } } })).await;
    let told = ns.wait_until(&object, |object| object["status"]["message"].to_string().contains("cannot")).await;
    assert!(told["status"]["message"].as_str().unwrap().ends_with("cannot, not with [redacted]"), "{told:#}");

    let second = "another-horse-another-battery";
    ns.merge(&object, json!({ "spec": { "values": { "fail": null } } })).await;
    let values = json!({ "password": second, "hooks": false });
    ns.merge(of::<Secret>("shop-values"), json!({ "stringData": { "values.json": values.to_string() } })).await;
    own.wait_until(of::<Secret>("shop"), |secret| secret["data"]["password"] == encoded(second)).await;
    let object = platform.phase("Running", 2).await;

    // Events may come later than what they tell of
    host.settle(Duration::from_secs(1)).await;
    let events = [ns.list::<Event>().await, own.list::<Event>().await].concat();
    let metrics = format!("{:?}", host.metrics().await);
    let told = [host.log_text(), metrics, object.to_string(), json!(events).to_string()].concat();
    for secret in [PASSWORD, second] {
        for spelling in [secret.to_owned(), encoded(secret).as_str().unwrap().to_owned()] {
            assert!(!told.contains(&spelling), "{spelling} is told");
        }
    }
    // nor does a recording hold them, in which the engine's input and output are
    let file = platform.folder.path().join("shop.json");
    let bundle = recorded(ns, host, "CaelusInstance", "shop", file.to_str().unwrap()).await;
    let mut engines = 0;
    for Answered { lookup, answer } in &bundle.request.answers {
        let (Lookup::Engine { input, .. }, Answer::Found(Found::Bytes(output))) = (lookup, answer) else { continue };
        engines += 1;
        for bytes in [input, output] {
            let is_in = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!is_in(second) && !is_in(encoded(second).as_str().unwrap()), "the engine's bytes");
        }
    }
    assert_eq!(engines, 1);
    let rest = json!([bundle.request.object, bundle.request.children, bundle.outcome]).to_string();
    assert!(!rest.contains(second) && !rest.contains(encoded(second).as_str().unwrap()), "{rest}");
    platform.end().await;
}

/// I2: charts from a registry and from an HTTP repository, by digest.
#[tokio::test]
async fn i2_charts_come_from_registries_and_repositories_by_digest() {
    let platform = Platform::start("instance-sources").await;
    let Platform { ns, own, folder, record, .. } = &platform;
    let packed = folder.path().join("packed");
    std::fs::create_dir(&packed).unwrap();
    helm(&["package", CHART, "--destination", &packed.display().to_string()]).await.succeeded();
    let archive = std::fs::read(packed.join("shop-1.0.0.tgz")).unwrap();
    let registry = Registry::start().await;
    let layer = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
    let in_registry = registry.push("charts/shop", "1.0.0", &[(layer, "shop-1.0.0.tgz", &archive)]).await;
    let served = archive.clone();
    let router = Router::new().route("/stable/shop-1.0.0.tgz", get(move || async move { served.clone() }));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let web = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut login = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "login" } });
    login["stringData"] = Registry::login();
    ns.create(login).await;
    let endpoints = json!([
        { "name": "oci", "address": format!("oci://{}", registry.authority), "plaintext": true,
            "credentials": { "namespace": ns.name, "name": "login" } },
        { "name": "http", "address": format!("http://{web}"), "plaintext": true },
    ]);
    let record = ns.merge(record, json!({ "spec": Platform::spec(folder.path(), endpoints).await })).await;
    ns.wait_for(&record, condition("Ready", "True")).await;

    let chart = json!({ "oci": { "reference": "charts/shop:1.0.0" }, "digest": in_registry });
    let version = ns.create(template("oci", chart, json!({ "hooks": false }))).await;
    let version = ns.wait_for(&version, condition("Ready", "True")).await;
    assert_eq!(version["status"]["chart"], json!({ "name": "shop", "version": "1.0.0" }));
    let digest = transom::registry::digest_of(&archive);
    let chart = json!({ "http": { "reference": "stable/shop-1.0.0.tgz" }, "digest": digest });
    let version = ns.create(template("http", chart, json!({ "hooks": false }))).await;
    ns.wait_for(&version, condition("Ready", "True")).await;
    let chart = json!({ "http": { "reference": "stable/shop-1.0.0.tgz" }, "digest": in_registry });
    let version = ns.create(template("wrong", chart, json!({}))).await;
    ns.wait_for(&version, condition("Ready", "False").because("DigestMismatch")).await;
    let nameless = ns.try_create(template("no-digest", json!({ "oci": { "reference": "a" } }), json!({}))).await;
    assert!(nameless.unwrap_err().message.contains("needs a digest"));

    platform.instance("oci", json!({ "password": "p" })).await;
    let object = platform.phase("Running", 1).await;
    assert_eq!(object["status"]["release"]["chartDigest"], in_registry);
    // what the cluster has is what the command line makes of the same values
    let values = json!({ "hooks": false, "password": "p", "global": { "domain": "shop.example.com" },
        "ingress": { "host": "shop.example.com" } });
    let file = folder.path().join("values.json");
    std::fs::write(&file, values.to_string()).unwrap();
    let (file, archive) = (file.display().to_string(), packed.join("shop-1.0.0.tgz").display().to_string());
    let text = helm(&["template", "shop", &archive, "--namespace", &own.name, "--values", &file]).await.printed();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    assert_eq!(objects.len(), 8);
    for mut rendered in objects {
        let live = own.get(&rendered).await;
        let texts = rendered.as_object_mut().unwrap().remove("stringData").unwrap_or_default();
        for (key, text) in texts.as_object().into_iter().flatten() {
            let bytes = k8s_openapi::ByteString(text.as_str().unwrap().as_bytes().to_vec());
            assert_eq!(live["data"][key], json!(bytes));
        }
        assert!(keeps(&rendered, &live), "{rendered:#} became {live:#}");
    }

    ns.merge(&object, json!({ "spec": { "productTemplateVersion": "http" } })).await;
    let object = platform.phase("Running", 2).await;
    assert_eq!(object["status"]["release"]["chartDigest"], digest);
    platform.end().await;
}

/// I2: a second reconcile of all instances renders nothing.
#[tokio::test]
async fn i2_a_second_look_at_many_instances_renders_nothing() {
    let platform = Platform::start("instance-many").await;
    let Platform { ns, host, .. } = &platform;
    platform.template("v1", "shop", json!({ "hooks": false })).await;
    let count: u16 = from_environment("TRANSOM_TEST_INSTANCES").unwrap_or(6);
    let names: Vec<String> = (0..count).map(|number| format!("many-{number}")).collect();
    let spaces: Vec<_> = names.iter().map(|name| ns.other(&format!("{}-{name}", ns.name))).collect();
    for (name, space) in names.iter().zip(&spaces) {
        let mut body = platform.instance_body("v1", json!({}));
        body["metadata"]["name"] = json!(name);
        body["spec"]["namespace"] = json!(space.name);
        ns.create(body).await;
    }
    for name in &names {
        ns.wait_for(of::<sample::CaelusInstance>(name), condition("Ready", "True")).await;
    }
    host.settle(std::time::Duration::from_secs(1)).await;
    let runs = async || host.metrics().await.sum("transom_lookups_total", &["kind=\"engine\""]);
    let calls = async || host.metrics().await.sum("transom_plugin_calls_total", &[]);
    let (ran, called) = (runs().await, calls().await);
    let count = f64::from(count);
    assert!(ran >= count, "each is rendered once: {ran}");
    for name in &names {
        ns.merge(of::<sample::CaelusInstance>(name), json!({ "metadata": { "labels": { "looked": "at" } } })).await;
    }
    host.wait_for_metrics(|metrics| metrics.sum("transom_plugin_calls_total", &[]) >= called + count).await;
    host.settle(std::time::Duration::from_secs(1)).await;
    assert_eq!(runs().await, ran, "nothing is rendered again");
    for name in &names {
        ns.delete(of::<sample::CaelusInstance>(name)).await;
    }
    for name in &names {
        ns.wait_gone(of::<sample::CaelusInstance>(name)).await;
    }
}

/// I7: the rights that `transom plugin install` prints, and those for what the chart makes.
#[tokio::test]
async fn i7_an_instance_is_made_with_the_rights_that_are_printed() {
    let platform = Platform::start("instance-rights").await;
    let Platform { ns, record, .. } = &platform;
    ns.account("plugin").await;
    let path = component("instance").await.path.display().to_string();
    let account = format!("{}/plugin", ns.name);
    let shown = transom_with_cluster(&["plugin", "install", &path, "--service-account", &account]).await;
    let role: Value = serde_saphyr::from_str(shown.stdout.split("---\n").next().unwrap_or_default()).unwrap();
    let mut rules = role["rules"].as_array().unwrap().clone();
    let all = ["get", "list", "watch", "create", "patch", "delete"];
    let chart = [
        ("", "configmaps"),
        ("", "services"),
        ("", "persistentvolumeclaims"),
        ("batch", "jobs"),
        ("shop.tests.transom.dev", "shopthings"),
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        ("rbac.authorization.k8s.io", "clusterroles"),
    ];
    rules.extend(chart.map(|(group, name)| json!({ "apiGroups": [group], "resources": [name], "verbs": all })));
    ns.allow_everywhere("plugin", json!(rules)).await;
    let account = json!({ "spec": { "serviceAccount": { "namespace": ns.name, "name": "plugin" } } });
    let record = ns.merge(record, account).await;
    ns.wait_for(&record, condition("Ready", "True")).await;
    platform.template("v1", "shop", json!({})).await;
    let object = platform.instance("v1", json!({})).await;
    platform.phase("Running", 1).await;
    ns.wait_for(&object, condition("Synced", "True")).await;
    platform.end().await;
}
