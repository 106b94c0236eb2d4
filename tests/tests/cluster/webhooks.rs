//! What the API server asks plugins before it stores objects, and between the versions of a kind.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DynamicObject, ListParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use transom_tests::sample::{
    CustomResourceDefinition, Gate, MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use transom_tests::{
    Component, DEADLINE, Host, HostOptions, Namespace, Target, TestCluster, component, condition, condition_of,
    free_port, of, transom_with_cluster, unique, up_to_date,
};

use crate::chart;

fn options(port: u16, more: &[&str]) -> HostOptions {
    let (listen, url) = (format!("127.0.0.1:{port}"), format!("https://127.0.0.1:{port}"));
    let arguments = ["--webhook-listen", &listen, "--webhook-url", &url].into_iter().chain(more.iter().copied());
    HostOptions { arguments: arguments.map(ToOwned::to_owned).collect(), ..HostOptions::default() }
}

/// A test's part of the cluster, with a host that serves webhooks and a plugin that has some.
struct Stage {
    ns: Namespace,
    host: Host,
    port: u16,
    record: Value,
}

impl Stage {
    async fn with(name: &str, more: &[&str]) -> Self {
        let (ns, port) = (TestCluster::shared().await.namespace(name).await, free_port());
        let host = ns.host_with(options(port, more)).await;
        let record = ns.install(&component("gate").await).await;
        let record = ready(&ns, &record).await;
        Self { ns, host, port, record }
    }

    fn name(&self) -> &str {
        self.record["metadata"]["name"].as_str().unwrap()
    }

    /// The configurations of this test's plugin.
    async fn configurations(&self) -> [Value; 2] {
        let name = format!("{}.plugins.transom.dev", self.name());
        let mutating = self.ns.get(of::<MutatingWebhookConfiguration>(&name)).await;
        [mutating, self.ns.get(of::<ValidatingWebhookConfiguration>(&name)).await]
    }

    async fn configurations_are_gone(&self) {
        let name = format!("{}.plugins.transom.dev", self.name());
        self.ns.wait_gone(of::<MutatingWebhookConfiguration>(&name)).await;
        self.ns.wait_gone(of::<ValidatingWebhookConfiguration>(&name)).await;
    }

    /// Changes the record, and waits until the API server does what it says.
    async fn set_policy(&self, policy: &str) {
        self.ns.merge(&self.record, json!({ "spec": { "webhooks": { "failurePolicy": policy } } })).await;
        for configuration in self.configurations().await {
            self.ns.wait_until(&configuration, |now| now["webhooks"][0]["failurePolicy"] == policy).await;
        }
    }

    /// Tries until the API server, which learns of configurations by a watch, does this with a Gate.
    async fn try_until(&self, gate: impl Fn(usize) -> Value, holds: impl Fn(u16) -> bool) {
        let tries = async {
            for number in 0.. {
                let (status, ..) = self.ns.create_and_listen(gate(number)).await;
                if holds(status) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, tries).await.expect("the API server follows its configurations");
    }
}

/// The API server asks, and the record says so.
async fn ready(ns: &Namespace, record: &Value) -> Value {
    let record = ns.get(record).await;
    ns.wait_for(&record, condition("WebhooksReady", "True").because("Serving")).await
}

fn gate(name: &str, spec: Value) -> Value {
    let mut gate =
        json!({ "apiVersion": "tests.transom.dev/v1", "kind": "Gate", "metadata": { "name": name }, "spec": spec });
    gate["spec"]["wall"] = json!("north");
    gate
}

fn ca_bundle(configuration: &Value) -> String {
    configuration["webhooks"][0]["clientConfig"]["caBundle"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_the_plugin_denies_is_not_stored_and_what_was_left_out_is_filled_in() {
    let stage = Stage::with("gates", &[]).await;
    let ns = &stage.ns;
    // the API server may learn of the configurations a moment later
    stage.try_until(|i| gate(&format!("high-{i}"), json!({ "height": 501 })), |status| status == 422).await;

    let (status, _, refusal) = ns.create_and_listen(gate("high", json!({ "height": 501 }))).await;
    assert_eq!((status, &refusal["reason"]), (422, &json!("Invalid")));
    let message = refusal["message"].as_str().unwrap();
    assert!(message.ends_with("denied the request: spec.height: must be at most 500"), "{message}");
    assert_eq!(
        refusal["details"]["causes"],
        json!([{ "reason": "FieldValueInvalid", "field": "spec.height", "message": "must be at most 500" }])
    );
    assert_eq!(ns.find(of::<Gate>("high")).await, None);

    let (status, warnings, stored) = ns.create_and_listen(gate("plain", json!({ "colour": "pink" }))).await;
    assert_eq!((status, &stored["spec"]["height"]), (201, &json!(100)));
    assert!(warnings.iter().any(|one| one.contains("pink is hard to keep clean")), "{warnings:?}");
    let low = ns.create(gate("low-one", json!({}))).await;
    assert_eq!(low["spec"]["height"], 10, "a default that hangs on the name");
    // the plugin sees what was filled in
    ns.wait_until(of::<ConfigMap>("low-one"), |map| map["data"]["height"] == "10").await;

    // an update is held against what is stored
    let patch = |spec: Value| kube::api::Patch::Merge(json!({ "spec": spec }));
    let refused = ns.dry_patch(&low, &patch(json!({ "wall": "south" }))).await.unwrap_err();
    assert!(refused.contains("spec.wall: cannot change"), "{refused}");
    assert_eq!(ns.dry_patch(&low, &patch(json!({ "height": null }))).await.unwrap()["spec"]["height"], 10);

    // the configuration counts
    let record = ns.merge(&stage.record, json!({ "spec": { "config": { "highest": 50 } } })).await;
    let record = ns.wait_for(&record, up_to_date()).await;
    ready(ns, &record).await;
    let refused = ns.dry_patch(&low, &patch(json!({ "height": 51 }))).await.unwrap_err();
    assert!(refused.contains("spec.height: must be at most 50"), "{refused}");

    let metrics = stage.host.metrics().await;
    let count = |webhook: &str, outcome: &str| {
        let labels = [format!("webhook=\"{webhook}\""), format!("outcome=\"{outcome}\"")];
        metrics.sum("transom_webhooks_total", &[&labels[0], &labels[1]])
    };
    assert!(count("validate", "Denied") >= 4.0 && count("default", "Changed") >= 2.0, "{metrics:#?}");
    assert_eq!(metrics.sum("transom_webhook_seconds_count", &[]), metrics.sum("transom_webhooks_total", &[]));
    assert!(metrics.sum("transom_webhook_certificate_expiry_timestamp_seconds", &[]) > 1.7e9);
}

#[tokio::test]
async fn rules_name_the_plugin_s_own_kinds_and_nothing_else() {
    let stage = Stage::with("rules", &[]).await;
    for (configuration, path) in stage.configurations().await.into_iter().zip(["default", "validate"]) {
        let [webhook] = configuration["webhooks"].as_array().unwrap().as_slice() else { panic!("{configuration:#}") };
        let rule = json!({
            "apiGroups": ["tests.transom.dev"], "apiVersions": ["v1"], "resources": ["gates"],
            "operations": ["CREATE", "UPDATE"], "scope": "Namespaced",
        });
        assert_eq!(webhook["rules"], json!([rule]));
        let namespace = json!({ "matchLabels": { "kubernetes.io/metadata.name": stage.ns.name } });
        assert_eq!(webhook["namespaceSelector"], namespace, "the host watches one namespace");
        let url = format!("https://127.0.0.1:{}/{path}/{}", stage.port, stage.name());
        assert_eq!(webhook["clientConfig"]["url"], json!(url));
        let said =
            ["matchPolicy", "sideEffects", "failurePolicy", "timeoutSeconds"].map(|field| webhook[field].clone());
        assert_eq!(said, [json!("Equivalent"), json!("None"), json!("Fail"), json!(5)]);
        let owner = &configuration["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["kind"], &owner["uid"]), (&json!("Plugin"), &stage.record["metadata"]["uid"]));
    }
    // What somebody edits is put back, at the latest when the record is looked at again.
    let [_, validating] = stage.configurations().await;
    stage.ns.delete(&validating).await;
    stage.ns.merge(&stage.record, json!({ "spec": { "webhooks": { "timeoutSeconds": 7 } } })).await;
    let timeout = |now: &Value| now["webhooks"][0]["timeoutSeconds"] == 7;
    stage.ns.wait_until(&validating, timeout).await;
}

#[tokio::test]
async fn a_plugin_that_fails_refuses_or_lets_pass_as_its_record_says() {
    let stage = Stage::with("failing", &[]).await;
    let ns = &stage.ns;
    for (fault, said) in [
        ("trapInDefault", "defaults are out of order"),
        ("trapInValidate", "validation is out of order"),
        ("loop", "did not finish within"),
    ] {
        let faulty = |i| gate(&format!("{}-{i}", fault.to_lowercase()), json!({ "fault": fault }));
        stage.try_until(faulty, |status| status >= 400).await;
        let refused = ns.try_create(gate("faulty", json!({ "fault": fault }))).await.unwrap_err();
        assert!(refused.message.contains(said) && refused.message.contains(stage.name()), "{}", refused.message);
        assert_eq!(refused.code, 500);
    }
    let good = ns.create(gate("good", json!({}))).await;
    assert_eq!(good["spec"]["height"], 100, "other objects are not concerned");

    stage.set_policy("Ignore").await;
    stage
        .try_until(|_| gate("ignored", json!({ "fault": "trapInDefault" })), |status| matches!(status, 201 | 409))
        .await;
    let ignored = ns.get(of::<Gate>("ignored")).await;
    assert_eq!(ignored["spec"].get("height"), None, "nobody has filled it in");
    let metrics = stage.host.metrics().await;
    assert!(metrics.sum("transom_webhooks_total", &["outcome=\"PluginTrapped\""]) >= 3.0, "{metrics:#?}");

    // Whatever the plugin thinks of it: its status, its labels and its end are nobody's business.
    stage.set_policy("Fail").await;
    let change = json!({ "spec": { "colour": "blue" } });
    let refused = || async { ns.dry_patch(&ignored, &kube::api::Patch::Merge(change.clone())).await.is_err() };
    let started = tokio::time::Instant::now();
    while !refused().await {
        assert!(started.elapsed() < DEADLINE, "the API server does not follow its configuration");
    }
    ns.wait_for(&ignored, condition("Ready", "True")).await;
    ns.merge_status(&ignored, json!({ "observedGeneration": 1 })).await;
    ns.merge(&ignored, json!({ "metadata": { "labels": { "a": "b" }, "finalizers": ["tests.transom.dev/hold"] } }))
        .await;
    ns.delete(&ignored).await;
    ns.wait_until(&ignored, |gate| !gate["metadata"]["deletionTimestamp"].is_null()).await;
    ns.merge(&ignored, json!({ "metadata": { "finalizers": null }, "spec": { "colour": "red" } })).await;
    ns.wait_gone(&ignored).await;
}

#[tokio::test]
async fn while_no_host_runs_only_specs_are_refused_and_the_next_one_has_the_same_authority() {
    let stage = Stage::with("down", &[]).await;
    let ns = &stage.ns;
    let before = stage.configurations().await.map(|configuration| ca_bundle(&configuration));
    let kept = ns.create(gate("kept", json!({}))).await;
    ns.wait_for(&kept, condition("Ready", "True")).await;
    stage.try_until(|i| gate(&format!("high-{i}"), json!({ "height": 501 })), |status| status == 422).await;
    stage.host.end().await;
    let refused = ns.try_create(gate("new", json!({}))).await.unwrap_err();
    assert!(refused.message.contains("failed calling webhook"), "{}", refused.message);
    ns.merge(&kept, json!({ "metadata": { "labels": { "a": "b" } } })).await;
    ns.delete(&kept).await;
    ns.wait_gone(&kept).await;

    // A host that goes for good takes them along.
    transom_with_cluster(&["release", "--yes", "--plugin-selector", &ns.selector()]).await.succeeded();
    stage.configurations_are_gone().await;
    stage.try_until(|i| gate(&format!("high-{i}"), json!({ "height": 501 })), |status| status == 201).await;

    let _host = ns.host_with(options(stage.port, &[])).await;
    let asked = async {
        ready(ns, &stage.record).await;
        stage.try_until(|i| gate(&format!("higher-{i}"), json!({ "height": 501 })), |status| status == 422).await;
    };
    tokio::time::timeout(DEADLINE, asked).await.expect("the next host puts them back");
    let created = ns.create(gate("new", json!({}))).await;
    assert_eq!(created["spec"]["height"], 100);
    assert_eq!(stage.configurations().await.map(|configuration| ca_bundle(&configuration)), before);
    let secret = ns.get(of::<Secret>("transom-webhook-certificates")).await;
    assert_eq!((&secret["type"], &secret["data"]["ca.crt"]), (&json!("kubernetes.io/tls"), &json!(before[0])));
}

/// Certificates live for seconds here: authorities come and go while gates are built.
#[tokio::test]
async fn certificates_are_rotated_while_requests_run_and_none_fails() {
    let stage = Stage::with("rotation", &["--webhook-certificate-seconds", "6"]).await;
    let ns = &stage.ns;
    let first = ca_bundle(&stage.configurations().await[0]);
    let serving = |secret: &Value| secret["data"]["tls.crt"].as_str().unwrap().to_owned();
    let mut seen = vec![serving(&ns.get(of::<Secret>("transom-webhook-certificates")).await)];
    stage.try_until(|i| gate(&format!("high-{i}"), json!({ "height": 501 })), |status| status == 422).await;

    let started = tokio::time::Instant::now();
    let mut bundles = vec![first.clone()];
    let mut requests = 0;
    // until nothing is left of the first authority
    loop {
        let (status, _, answer) = ns.create_and_listen(gate(&format!("gate-{requests}"), json!({}))).await;
        assert_eq!((status, &answer["spec"]["height"]), (201, &json!(100)), "request {requests}: {answer:#}");
        requests += 1;
        let secret = ns.get(of::<Secret>("transom-webhook-certificates")).await;
        if !seen.contains(&serving(&secret)) {
            seen.push(serving(&secret));
        }
        let [now, _] = stage.configurations().await.map(|configuration| ca_bundle(&configuration));
        if bundles.last() != Some(&now) {
            bundles.push(now.clone());
        }
        if bundles.len() >= 3 && !now.starts_with(&first[..first.len() / 2]) {
            break;
        }
        assert!(started.elapsed() < 2 * DEADLINE, "{} certificates, {} bundles", seen.len(), bundles.len());
    }
    // first, first and second, second
    assert!(bundles[1].len() > first.len() && bundles[2].len() < bundles[1].len(), "{bundles:#?}");
    assert!(seen.len() >= 4, "{} serving certificates, {requests} requests", seen.len());
}

#[tokio::test]
async fn configurations_go_with_a_version_that_has_no_webhooks_and_with_the_plugin() {
    let stage = Stage::with("leaving", &[]).await;
    let ns = &stage.ns;
    stage.try_until(|i| gate(&format!("high-{i}"), json!({ "height": 501 })), |status| status == 422).await;
    let record = ns.merge(&stage.record, json!({ "spec": component("gate-old").await.spec() })).await;
    let record = ns.wait_for(&record, up_to_date()).await;
    stage.configurations_are_gone().await;
    ns.wait_until(&record, |record| condition_of(record, "WebhooksReady").is_null()).await;
    stage.try_until(|i| gate(&format!("higher-{i}"), json!({ "height": 501 })), |status| status == 201).await;

    let record = ns.merge(&record, json!({ "spec": component("gate").await.spec() })).await;
    let record = ns.wait_for(&record, up_to_date()).await;
    ready(ns, &record).await;
    stage.configurations().await;
    ns.delete(&record).await;
    ns.wait_gone(&record).await;
    stage.configurations_are_gone().await;
}

#[tokio::test]
async fn a_swap_under_load_leaves_no_request_without_an_answer() {
    let stage = Stage::with("swapping", &[]).await;
    let (ns, folder) = (&stage.ns, tempfile::tempdir().unwrap());
    let first = component("gate").await;
    let second = unique(&first, "swapped", folder.path());
    stage.try_until(|i| gate(&format!("high-{i}"), json!({ "height": 501 })), |status| status == 422).await;
    let (stop, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = async |worker: usize| {
        let object = ns.create(gate(&format!("busy-{worker}"), json!({}))).await;
        while !stop.load(Ordering::Relaxed) {
            let number = requests.fetch_add(1, Ordering::Relaxed);
            let now = ns.merge(&object, json!({ "spec": { "height": null, "colour": format!("c{number}") } })).await;
            assert_eq!(now["spec"]["height"], 100, "request {number} was not seen by the plugin");
            let high = kube::api::Patch::Merge(json!({ "spec": { "height": 501 } }));
            assert!(ns.dry_patch(&object, &high).await.unwrap_err().contains("must be at most 500"));
        }
    };
    let swaps = async {
        for i in 0..10 {
            let next: &Component = if i % 2 == 0 { &second } else { &first };
            let record = ns.merge(&stage.record, json!({ "spec": next.spec() })).await;
            ns.wait_for(&record, up_to_date()).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(swaps, load(0), load(1), load(2));
    assert!(requests.load(Ordering::Relaxed) >= 30, "{requests:?}");
}

#[tokio::test]
async fn a_host_without_webhooks_says_so_and_never_serves_versions_that_it_cannot_convert() {
    let ns = TestCluster::shared().await.namespace("nohooks").await;
    let _host = ns.host().await;
    let record = ns.install(&component("gate").await).await;
    let record = ns.wait_for(&record, condition("WebhooksReady", "False").because("Disabled")).await;
    assert!(condition_of(&record, "WebhooksReady")["message"].as_str().unwrap().contains("--webhook-listen"));
    let free = ns.create(gate("free", json!({ "height": 501 }))).await;
    ns.wait_for(&free, condition("Ready", "True")).await;

    let record = ns.record("parcel", component("parcel").await.spec()).await;
    let record = ns.wait_for(&record, condition("Installed", "False").because("ConversionUnavailable")).await;
    assert!(condition_of(&record, "Installed")["message"].as_str().unwrap().contains("--webhook-listen"));
}

#[tokio::test]
async fn what_is_no_review_is_turned_away() {
    let stage = Stage::with("nonsense", &[]).await;
    let mut config = kube::Config::new(format!("https://127.0.0.1:{}", stage.port).parse().unwrap());
    config.accept_invalid_certs = true;
    config.default_retry = false; // 503 is an answer here
    let client = kube::Client::try_from(config).unwrap();
    let ask = async |path: String, body: Vec<u8>| {
        let request = http::Request::post(path).header("content-type", "application/json");
        let response = client.send(request.body(kube::client::Body::from(body)).unwrap()).await.unwrap();
        response.status().as_u16()
    };
    let name = stage.name();
    let review = |kind: &str| {
        json!({ "apiVersion": "admission.k8s.io/v1", "kind": kind, "request": {
        "uid": "u", "kind": { "group": "tests.transom.dev", "version": "v1", "kind": "Gate" }, "operation": "CREATE",
        "object": gate("a", json!({})),
    } })
        .to_string()
        .into_bytes()
    };
    assert_eq!(ask(format!("/validate/{name}"), review("AdmissionReview")).await, 200);
    assert_eq!(ask(format!("/validate/{name}"), review("ConversionReview")).await, 400);
    assert_eq!(ask(format!("/validate/{name}"), b"{".to_vec()).await, 400);
    assert_eq!(ask(format!("/convert/{name}"), b"[]".to_vec()).await, 400);
    assert_eq!(ask(format!("/default/{name}"), vec![b' '; (8 << 20) + 1]).await, 413);
    assert_eq!(ask("/validate/nobody".into(), review("AdmissionReview")).await, 503);
    assert_eq!(ask("/elsewhere".into(), Vec::new()).await, 404);
}

fn parcel(version: &str, name: &str, spec: Value) -> Value {
    let api_version = format!("tests.transom.dev/{version}");
    json!({ "apiVersion": api_version, "kind": "Parcel", "metadata": { "name": name }, "spec": spec })
}

/// Of both kinds of clients.
fn parcels(ns: &Namespace, version: &str) -> Api<DynamicObject> {
    ns.api(&Target::from(&parcel(version, "", json!({}))))
}

fn second(name: &str) -> Value {
    json!({ "width": 3, "height": 4, "recipient": { "name": name } })
}

/// The definition is the whole cluster's: one test has it, from the first version to the end.
#[tokio::test]
async fn old_and_new_clients_read_and_write_the_same_objects_of_a_kind_in_two_versions() {
    let (ns, port) = (TestCluster::shared().await.namespace("parcels").await, free_port());
    // with the rights that the chart gives to host and plugin
    let token = chart::install(&ns, &[]).await;
    // objects are stored anew wherever they are, so these rights are needed everywhere
    let rights = json!([
        { "apiGroups": ["tests.transom.dev"], "resources": ["parcels"], "verbs": ["list", "patch"] },
    ]);
    ns.allow_everywhere("plugin", rights).await;
    let options = || HostOptions { token: Some(token.clone()), ..options(port, &[]) };
    // what a run before has left
    let definition = of::<CustomResourceDefinition>("parcels.tests.transom.dev");
    ns.try_delete(&definition).await;
    ns.wait_gone(&definition).await;
    let host = ns.host_with(options()).await;
    let record = chart::plugin(&ns, "parcel-old").await;
    let old = ns.create(parcel("v1", "old", json!({ "size": "3x4", "to": "Ada", "remark": "fragile" }))).await;
    ns.wait_for(&old, condition("Ready", "True")).await;
    let odd = ns.create(parcel("v1", "odd", json!({ "size": "large", "to": "Eve" }))).await;

    // An object that has no form in the new version keeps it out, and is named.
    let record = ns.merge(&record, json!({ "spec": component("parcel").await.spec() })).await;
    let refused = ns.wait_for(&record, condition("Installed", "False").because("IncompatibleDefinition")).await;
    let message = condition_of(&refused, "Installed")["message"].as_str().unwrap().to_owned();
    let expected = format!(
        "{}/odd: spec cannot be converted to tests.transom.dev/v2: spec.size must be two numbers, such as 3x4",
        ns.name
    );
    assert!(message.contains(&expected), "{message}");
    ns.delete(&odd).await;
    ns.wait_gone(&odd).await;
    let record = ns.wait_for(&record, up_to_date()).await;
    let planned = &record["status"]["plan"];
    assert_eq!((&planned["objects"], &planned["unknown"], &planned["failed"]), (&json!(1), &json!(0), &json!(0)));
    ready(&ns, &record).await;

    // The same objects, in both versions.
    let (v1, v2) = (parcels(&ns, "v1"), parcels(&ns, "v2"));
    let mut watched = Vec::new();
    for api in [&v1, &v2] {
        let list = api.list(&ListParams::default()).await.unwrap();
        let from = list.metadata.resource_version.unwrap();
        watched.push(api.watch(&WatchParams::default(), &from).await.unwrap().boxed());
    }
    let seen = ns.get(&parcel("v2", "old", json!({}))).await;
    assert_eq!(seen["spec"], second("Ada"));
    ns.wait_for(&parcel("v2", "old", json!({})), condition("Ready", "True")).await;
    let new = ns
        .create(parcel(
            "v2",
            "new",
            json!({ "width": 5, "height": 6, "recipient": { "name": "Joan" },
        "insurance": 100 }),
        ))
        .await;
    ns.wait_for(&new, condition("Ready", "True")).await;
    ns.wait_until(of::<ConfigMap>("new"), |map| map["data"]["size"] == "5x6").await;
    let seen = ns.get(&parcel("v1", "new", json!({}))).await;
    assert_eq!(seen["spec"], json!({ "size": "5x6", "to": "Joan" }));

    // An old client edits what a new one made, and the other way round: nothing of the other's is lost.
    ns.merge(&parcel("v1", "new", json!({})), json!({ "spec": { "size": "7x6" } })).await;
    let seen = ns.get(&new).await;
    assert_eq!((&seen["spec"]["width"], &seen["spec"]["insurance"]), (&json!(7), &json!(100)));
    ns.wait_until(of::<ConfigMap>("new"), |map| map["data"]["size"] == "7x6").await;
    ns.merge(&parcel("v2", "old", json!({})), json!({ "spec": { "recipient": { "name": "Grace" } } })).await;
    let seen = ns.get(&old).await;
    assert_eq!(seen["spec"], json!({ "size": "3x4", "to": "Grace", "remark": "fragile" }));

    // Admission sees the stored version, whatever the client speaks.
    let refused = ns.try_create(parcel("v1", "wide", json!({ "size": "101x1", "to": "Ada" }))).await.unwrap_err();
    assert!(refused.message.contains("spec.width: must be at most 100"), "{}", refused.message);
    let refused = ns.try_create(parcel("v1", "odd", json!({ "size": "large", "to": "Eve" }))).await.unwrap_err();
    assert!(refused.message.contains("spec.size must be two numbers"), "{}", refused.message);

    // Both list and have watched the same.
    for (api, watched, version) in [(&v1, watched.remove(0), "v1"), (&v2, watched.remove(0), "v2")] {
        let list = api.list(&ListParams::default()).await.unwrap();
        let names: Vec<&str> = list.items.iter().map(|one| one.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["new", "old"], "{version}");
        let specs = watched.map_ok(|event| match event {
            WatchEvent::Added(one) | WatchEvent::Modified(one) => {
                (one.types.unwrap().api_version, one.metadata.name.unwrap(), one.data["spec"].clone())
            }
            other => panic!("{version}: {other:?}"),
        });
        let wanted = (format!("tests.transom.dev/{version}"), "old".to_owned(), list.items[1].data["spec"].clone());
        let mut specs = std::pin::pin!(specs);
        let found = async { while specs.next().await.expect("a watch goes on").expect("no error") != wanted {} };
        tokio::time::timeout(DEADLINE, found).await.unwrap_or_else(|_| panic!("{version} does not watch {wanted:?}"));
    }

    // In the end everything is stored in the new version.
    ns.wait_until(&definition, |crd| crd["status"]["storedVersions"] == json!(["v2"])).await;
    assert_eq!(ns.get(&old).await["spec"]["remark"], "fragile");

    // The next host converts at once, and a new client of an old object needs nobody.
    host.stop().await;
    let refused = v1.get("old").await.unwrap_err();
    assert!(refused.to_string().contains("conversion webhook"), "{refused}");
    v2.get("old").await.unwrap();
    let host = ns.host_with(options()).await;
    ready(&ns, &record).await;
    assert_eq!(ns.get(&old).await["spec"]["to"], "Grace");
    let metrics = host.metrics().await;
    assert!(metrics.sum("transom_webhooks_total", &["webhook=\"convert\"", "outcome=\"Converted\""]) >= 1.0);
    for name in ["old", "new"] {
        ns.delete(&parcel("v2", name, json!({}))).await;
        ns.wait_gone(&parcel("v2", name, json!({}))).await;
    }
    ns.delete(&record).await;
    ns.wait_gone(&record).await;
    ns.delete(&definition).await;
    ns.wait_gone(&definition).await;
}
