//! What plugins ask outside their object and children. The component is `tests/plugins/asker`, its engine
//! `tests/plugins/turner`, the servers are in this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::get;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use transom_tests::{Host, Namespace, Registry, TestCluster, component, condition, condition_of, free_port, of};

/// An HTTP server that says what the test wants, and counts.
#[derive(Clone, Default)]
struct Web {
    says: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Web {
    /// Returns its address, too.
    async fn start(says: &str) -> (Self, String) {
        let web = Self::default();
        web.say(says);
        let text = |State(web): State<Self>| async move {
            web.asked.fetch_add(1, Ordering::Relaxed);
            web.says.lock().unwrap().clone()
        };
        let who = |headers: HeaderMap| async move {
            headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or("nobody").to_owned()
        };
        let router = Router::new().route("/text", get(text)).route("/who", get(who)).with_state(web.clone());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (web, address)
    }

    fn say(&self, says: &str) {
        says.clone_into(&mut self.says.lock().unwrap());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// `spec` of a record for the asker with these endpoints.
async fn spec(endpoints: Value) -> Value {
    let mut spec = component("asker").await.spec();
    let turner = component_of_engine("turner").await;
    spec["engines"] = json!([{ "name": "turner", "source": turner["source"], "digest": turner["digest"],
        "limits": { "deadlineMilliseconds": 2_000, "memory": "128Mi" } }]);
    spec["endpoints"] = endpoints;
    spec
}

async fn component_of_engine(name: &str) -> Value {
    let asker = component("asker").await;
    transom_tests::component_at(&asker.path.with_file_name(name).with_extension("wasm")).spec()
}

/// A namespace with a host that serves the asker.
async fn served(endpoints: Value) -> (Namespace, Host) {
    let ns = TestCluster::shared().await.namespace("lookups").await;
    let host = ns.host().await;
    let record = ns.record("asker", spec(endpoints).await).await;
    ns.wait_for(&record, condition("Ready", "True")).await;
    (ns, host)
}

fn asker(name: &str, ask: Value) -> Value {
    json!({ "apiVersion": "tests.transom.dev/v1", "kind": "Asker", "metadata": { "name": name }, "spec": { "ask": ask } })
}

fn web_at(address: &str) -> Value {
    json!({ "name": "web", "address": address, "plaintext": true })
}

fn answers(object: &Value) -> Vec<&str> {
    object["status"]["answers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

async fn calls(host: &Host) -> f64 {
    host.metrics().await.sum("transom_plugin_calls_total", &[])
}

#[tokio::test]
async fn a_plugin_without_an_endpoint_that_it_needs_is_not_ready_and_says_which() {
    let ns = TestCluster::shared().await.namespace("lookups").await;
    let _host = ns.host().await;
    let record = ns.record("asker", spec(json!([])).await).await;
    let refused = ns.wait_for(&record, condition("Ready", "False").because("EndpointMissing")).await;
    let granted = condition_of(&refused, "Granted");
    let expected = "spec.endpoints gives no address for web (http: HTTP lookups)";
    assert_eq!((&granted["status"], &granted["message"]), (&json!("False"), &json!(expected)));
    let (_, address) = Web::start("").await;
    let record = ns.merge(&refused, json!({ "spec": { "endpoints": [web_at(&address)], "engines": null } })).await;
    let refused = ns.wait_for(&record, condition("Ready", "False").because("EngineMissing")).await;
    assert_eq!(condition_of(&refused, "Granted")["message"], "spec.engines names no engine turner");
    let record = ns.merge(&refused, json!({ "spec": spec(json!([web_at(&address)])).await })).await;
    ns.wait_for(&record, condition("Ready", "True")).await;
}

#[tokio::test]
async fn answers_of_every_kind_reach_the_plugin() {
    let (_web, address) = Web::start("hello").await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), "one").unwrap();
    std::fs::write(folder.path().join("b.txt"), "two").unwrap();
    let files = json!({ "name": "files", "address": format!("file://{}", folder.path().display()) });
    let (ns, host) = served(json!([web_at(&address), files])).await;
    let ask = json!([
        { "what": "get", "of": "web", "at": "/text" },
        { "what": "head", "of": "web", "at": "/text" },
        { "what": "get", "of": "web", "at": "/missing" },
        { "what": "artifact", "of": "files", "include": ["*.yaml"] },
        { "what": "engine", "of": "turner", "input": "abc" },
        { "what": "engine", "of": "turner", "input": "fail" },
        { "what": "grpc", "of": "rpc", "at": "/a.B/C" },
        { "what": "image", "at": "registry.example/app:1" },
    ]);
    let object = ns.create(asker("all", ask)).await;
    let object = ns.wait_for(&object, condition("Ready", "True")).await;
    let expected = [
        "found 200 hello",
        "found 200",
        "absent",
        "found a.yaml=one",
        "found cba",
        "failed NotTurnable",
        "denied the Plugin record grants no endpoint \"rpc\": add it with its address to spec.endpoints",
        "denied the Plugin record grants no registry for registry.example/app: add an endpoint with the address \
         oci://registry.example to spec.endpoints",
    ];
    assert_eq!(answers(&object), expected);
    let metrics = host.metrics().await;
    assert_eq!(metrics.sum("transom_lookups_total", &["kind=\"engine\"", "outcome=\"Failed\""]), 1.0);
    assert_eq!(metrics.sum("transom_lookups_in_flight", &[]), 0.0);
}

#[tokio::test]
async fn an_engine_that_misbehaves_is_a_failed_answer_and_the_host_goes_on() {
    let (_web, address) = Web::start("").await;
    let (ns, host) = served(json!([web_at(&address)])).await;
    let run = |input: &str| json!({ "what": "engine", "of": "turner", "input": input });
    let ask = json!([run("panic"), run("loop"), run("allocate"), run("oversize"), run("good")]);
    let object = ns.create(asker("engines", ask)).await;
    let object = ns.wait_for(&object, condition("Ready", "True")).await;
    let expected = [
        "failed PluginTrapped",
        "failed DeadlineExceeded",
        "failed OutOfMemory",
        "failed ResponseTooLarge",
        "found doog",
    ];
    assert_eq!(answers(&object), expected);
    assert!(host.is_healthy().await);
}

/// One part of an engine's input: `kind` 0 is bytes, 1 a handle.
fn part(kind: u8, text: &str) -> String {
    format!("{}{}\0\0\0{text}", char::from(kind), char::from(u8::try_from(text.len()).unwrap()))
}

#[tokio::test]
async fn contents_reach_an_engine_by_their_handles_and_those_of_others_do_not() {
    let (_web, address) = Web::start("").await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), "one").unwrap();
    std::fs::write(folder.path().join("b.txt"), "whole").unwrap();
    let files = json!({ "name": "files", "address": format!("file://{}", folder.path().display()) });
    let (ns, _host) = served(json!([web_at(&address), files])).await;
    let artifact = json!({ "what": "artifact", "of": "files", "include": ["*.txt", "content-handle:**"] });
    let handle = "transom-content:sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed:3";
    let input = format!("transom-parts/1\n{}{}{}", part(0, "a "), part(1, handle), part(0, " z"));
    let run = json!({ "what": "engine", "of": "turner", "input": input });
    let object = ns.create(asker("mine", json!([artifact, run]))).await;
    let object = ns.wait_for(&object, condition("Ready", "True")).await;
    let given = format!("found a.yaml={handle} b.txt=whole");
    assert_eq!(answers(&object), [given.as_str(), "found z eno a"]);
    // the output is known by now, and the bytes are in memory: neither is for one who was not given the handle
    let whole = json!({ "what": "artifact", "of": "files" });
    let object = ns.create(asker("stolen", json!([whole, run]))).await;
    let object = ns.wait_for(&object, condition("Ready", "True")).await;
    let denied = "denied the engine's input names contents by a handle that this object was not given";
    assert_eq!(answers(&object), ["found a.yaml=one b.txt=whole", denied]);
    // a text that looks like a handle gives nothing
    std::fs::write(folder.path().join("b.txt"), handle).unwrap();
    std::fs::remove_file(folder.path().join("a.yaml")).unwrap();
    let fresh = json!({ "what": "artifact", "of": "files", "at": "/", "include": ["*.txt", "content-handle:**"] });
    let object = ns.create(asker("written", json!([fresh, run]))).await;
    let object = ns.wait_for(&object, condition("Ready", "True")).await;
    assert_eq!(answers(&object)[1], denied);
}

/// The asker's engine is Helm here.
#[tokio::test]
async fn a_chart_is_rendered_from_what_the_cluster_has_and_again_when_that_changes() {
    let (_web, address) = Web::start("").await;
    let ns = TestCluster::shared().await.namespace("lookups").await;
    let host = ns.host().await;
    let helm = transom_tests::engine("helm").await.spec();
    let mut spec = spec(json!([web_at(&address)])).await;
    spec["engines"] = json!([{ "name": "turner", "source": helm["source"], "digest": helm["digest"],
        "limits": { "deadlineMilliseconds": 60_000, "memory": "1Gi" } }]);
    let record = ns.record("asker", spec).await;
    ns.wait_for(&record, condition("Ready", "True")).await;
    let map = |color: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "paint", "labels": { "color": color } } });
    let template = "color: {{ dig \"metadata\" \"labels\" \"color\" \"none\" (lookup \"v1\" \"ConfigMap\" .Release.Namespace \"paint\") }}\n\
                    password: {{ randAlphaNum 12 }}";
    let ask = json!([
        { "what": "chart", "of": "turner", "input": template },
        { "what": "chart", "of": "turner", "input": "{{ fail \"no color\" }}" },
    ]);
    let object = ns.create(asker("house", ask)).await;
    let object = ns.wait_for(&object, condition("Ready", "True")).await;
    let said = answers(&object);
    let password = said[0].lines().find_map(|line| line.strip_prefix("password: ")).unwrap();
    let expected =
        |color: &str| format!("found ---\n# Source: small/templates/a.yaml\ncolor: {color}\npassword: {password}\n");
    assert_eq!((said[0], password.len()), (expected("none").as_str(), 12));
    assert_eq!(said[1], "failed TemplateFailed: execution error at (small/templates/a.yaml:1:3): no color");
    // the password stays
    let paint = ns.create(map("red")).await;
    ns.wait_until(&object, |object| answers(object).first() == Some(&expected("red").as_str())).await;
    ns.merge(&paint, map("blue")).await;
    ns.wait_until(&object, |object| answers(object).first() == Some(&expected("blue").as_str())).await;
    assert_eq!(host.metrics().await.sum("transom_lookups_total", &["kind=\"engine\"", "outcome=\"Failed\""]), 0.0);
}

#[tokio::test]
async fn a_primary_is_reconciled_when_the_answer_changes_and_not_when_it_is_only_asked_for_again() {
    let (web, address) = Web::start("one").await;
    let (ns, host) = served(json!([web_at(&address)])).await;
    let ask = json!([{ "what": "get", "of": "web", "at": "/text", "maxAgeSeconds": 1 }]);
    let object = ns.create(asker("a", ask.clone())).await;
    ns.create(asker("b", ask)).await;
    ns.wait_until(&object, |object| answers(object) == ["found 200 one"]).await;
    host.settle(Duration::from_secs(1)).await;
    let (before, asked) = (calls(&host).await, web.asked());
    host.wait_for_metrics(|_| web.asked() >= asked + 3).await;
    assert_eq!(calls(&host).await, before, "the same answer is no reason to call");
    web.say("two");
    ns.wait_until(&object, |object| answers(object) == ["found 200 two"]).await;
    let both = || async { host.metrics().await.sum("transom_lookup_hits_total", &["kind=\"http\""]) };
    assert!(both().await > 0.0, "two primaries share one request");
}

#[tokio::test]
async fn a_service_that_comes_back_is_noticed() {
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let (ns, _host) = served(json!([web_at(&format!("http://{free}"))])).await;
    let ask = json!([{ "what": "get", "of": "web", "at": "/text" }]);
    let object = ns.create(asker("a", ask)).await;
    ns.wait_until(&object, |object| answers(object) == ["failed Unavailable"]).await;
    let listener = TcpListener::bind(free).await.unwrap();
    let router = Router::new().route("/text", get(|| async { "back" }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    ns.wait_until(&object, |object| answers(object) == ["found 200 back"]).await;
}

#[tokio::test]
async fn credentials_come_from_a_secret() {
    let (_web, address) = Web::start("").await;
    let ns = TestCluster::shared().await.namespace("lookups").await;
    let _host = ns.host().await;
    ns.create(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "login" },
        "stringData": { "username": "ann", "password": "secret" } }))
        .await;
    let mut web = web_at(&address);
    web["credentials"] = json!({ "namespace": ns.name, "name": "login" });
    web["paths"] = json!(["/who"]);
    let record = ns.record("asker", spec(json!([web])).await).await;
    ns.wait_for(&record, condition("Ready", "True")).await;
    let ask = json!([{ "what": "get", "of": "web", "at": "/who" }, { "what": "get", "of": "web", "at": "/text" }]);
    let object = ns.create(asker("a", ask)).await;
    let object = ns.wait_for(&object, condition("Ready", "True")).await;
    let denied = "denied spec.endpoints[web].paths of the Plugin record does not allow \"/text\": add it";
    assert_eq!(answers(&object), ["found 200 Basic YW5uOnNlY3JldA==", denied]);
}

#[tokio::test]
async fn random_bytes_are_the_same_after_a_restart_and_others_for_another_object() {
    let (_web, address) = Web::start("").await;
    let (ns, host) = served(json!([web_at(&address)])).await;
    let ask = json!([{ "what": "random", "at": "one" }, { "what": "random", "at": "two" }]);
    let a = ns.create(asker("a", ask.clone())).await;
    let a = ns.wait_for(&a, condition("Ready", "True")).await;
    let b = ns.create(asker("b", ask.clone())).await;
    let b = ns.wait_for(&b, condition("Ready", "True")).await;
    let (first, other) = (answers(&a), answers(&b));
    assert_eq!((first.len(), first[0].len()), (2, 16));
    assert!(first[0] != first[1] && first[0] != other[0] && first[1] != other[1]);
    let secret = ns.get(of::<Secret>("transom-random-key")).await;
    let key = secret["data"]["key"].as_str().unwrap();
    assert!(host.stop().await.success());
    let host = ns.host().await;
    // only the first is asked now: the status would not change otherwise
    let changed = ns.merge(&a, json!({ "spec": { "ask": [ask[1], ask[0]] } })).await;
    ns.wait_until(&changed, |object| answers(object) == [first[1], first[0]]).await;
    assert_eq!(ns.get(of::<Secret>("transom-random-key")).await, secret);
    assert!(!host.log_text().contains(key), "the key is never logged");
}

#[tokio::test]
async fn a_change_of_an_object_outside_of_a_list_calls_nobody() {
    let (_web, address) = Web::start("").await;
    let (ns, host) = served(json!([web_at(&address)])).await;
    let map = |name: &str, app: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "labels": { "app": app } } });
    let inside = ns.create(map("inside", "web")).await;
    let outside = ns.create(map("outside", "db")).await;
    let object = ns.create(asker("a", json!([{ "what": "list", "at": "app=web" }]))).await;
    ns.wait_until(&object, |object| answers(object) == ["found inside"]).await;
    host.settle(Duration::from_secs(1)).await;
    ns.create(map("more", "web")).await;
    ns.wait_until(&object, |object| answers(object) == ["found inside more"]).await;
    host.settle(Duration::from_secs(3)).await;
    let before = calls(&host).await;
    ns.merge(&outside, json!({ "data": { "a": "b" } })).await;
    host.observe(Duration::from_secs(2)).await;
    assert_eq!(calls(&host).await, before, "the one outside called nobody");
    ns.create(map("most", "web")).await;
    ns.wait_until(&object, |object| answers(object) == ["found inside more most"]).await;
    ns.merge(&inside, json!({ "metadata": { "labels": { "app": "db" } } })).await;
    ns.wait_until(&object, |object| answers(object) == ["found more most"]).await;
}

/// Against a real registry that wants a login.
#[tokio::test]
async fn images_and_artifacts_come_from_a_registry() {
    let registry = Registry::start().await;
    let text = "text/plain";
    let digest = registry.push("team/app", "1", &[(text, "a.txt", b"one"), (text, "b.yaml", b"two")]).await;
    registry.push("team/unsafe", "1", &[(text, "../a.txt", b"one")]).await;
    let (_web, address) = Web::start("").await;
    let ns = TestCluster::shared().await.namespace("lookups").await;
    let _host = ns.host().await;
    let login = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "login" }, "stringData": Registry::login() });
    ns.create(login).await;
    let at = &registry.authority;
    let charts = json!({ "name": "charts", "address": format!("oci://{at}/team"), "plaintext": true,
        "credentials": { "namespace": ns.name, "name": "login" } });
    // for images only: the plugin declares no endpoint of this name
    let anonymous = json!({ "name": "anonymous", "address": format!("oci://{at}/other"), "plaintext": true });
    let record = ns.record("asker", spec(json!([web_at(&address), charts, anonymous])).await).await;
    ns.wait_for(&record, condition("Ready", "True")).await;
    let image = |reference: &str| json!({ "what": "image", "at": format!("{at}/{reference}"), "maxAgeSeconds": 1 });
    let artifact = |reference: &str, include: &[&str]| json!({ "what": "artifact", "of": "charts", "at": reference, "include": include });
    let ask = json!([
        image("team/app:1"),
        image(&format!("team/app@{digest}")),
        image("team/app:2"),
        image("other/app:1"),
        artifact("app:1", &[]),
        artifact(&format!("app@{digest}"), &["*.yaml"]),
        artifact("app:2", &[]),
        artifact("unsafe:1", &[]),
    ]);
    let object = ns.create(asker("a", ask)).await;
    let object = ns.wait_for(&object, condition("Ready", "True")).await;
    let found = format!("found {digest}");
    let refused = "denied the registry refuses anonymous users to pull other/app (401): check \
                   spec.endpoints[anonymous].credentials";
    let expected = [
        &*found,
        &*found,
        "absent",
        refused,
        "found a.txt=one b.yaml=two",
        "found b.yaml=two",
        "absent",
        "failed Unsafe",
    ];
    assert_eq!(answers(&object), expected);
    // a tag that moves is noticed
    let moved = registry.push("team/app", "1", &[(text, "a.txt", b"three")]).await;
    ns.wait_until(&object, |object| answers(object).first() == Some(&format!("found {moved}").as_str())).await;
}
