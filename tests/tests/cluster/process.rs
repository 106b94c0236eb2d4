//! Processes: a real Temporal, a real worker (`xtask/tools/worker`), a Transformation Domain in this process.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use transom_tests::kubelet::Kubelet;
use transom_tests::temporal::worker_image;
use transom_tests::{
    Behaviour, Host, Namespace, Temporal, TestCluster, Transformation, component, condition, condition_of, free_port,
    of, sample,
};

pub(crate) const CONTENT: &str = r#"{ "steps": [], "name": "Lead to order" }"#;

/// A host that serves Processes, and what it asks. Temporal's namespace has the name of the cluster's.
pub(crate) struct Stage {
    pub(crate) ns: Namespace,
    pub(crate) host: Host,
    pub(crate) transformation: Transformation,
}

impl Stage {
    pub(crate) async fn new(name: &str, temporal: &str) -> Self {
        let ns = TestCluster::shared().await.namespace(name).await;
        let transformation = Transformation::start().await;
        transformation.publish("t123", "L2O_v3", 3, CONTENT);
        let host = ns.host().await;
        let mut spec = component("process").await.spec();
        spec["config"] = json!({ "temporalAddress": temporal, "temporalCheckInterval": "1s" });
        spec["endpoints"] = json!([
            { "name": "transformation", "address": format!("http://{}", transformation.authority), "plaintext": true },
            { "name": "temporal", "address": format!("http://{temporal}"), "plaintext": true },
        ]);
        let record = ns.record("process", spec).await;
        ns.wait_for(&record, condition("Ready", "True")).await;
        Self { ns, host, transformation }
    }

    /// A Process whose workers kwok says run.
    pub(crate) fn process(&self, name: &str) -> Value {
        sample::process(name, &self.ns.name)
    }
}

fn definition(process: &Value) -> (&Value, &Value) {
    let definition = &process["status"]["definition"];
    (&definition["version"], &definition["checksum"])
}

#[tokio::test]
async fn p1_p2_p4_workflows_execute_on_the_declared_queue_with_the_definition() {
    let temporal = Temporal::shared().await;
    let stage = Stage::new("process", &temporal.address).await;
    let ns = &stage.ns;
    temporal.namespace(&ns.name).await;
    let kubelet = Kubelet::start(ns, vec![worker_image()]).await;
    let mut process = stage.process("l2o");
    process["spec"]["image"] = json!(sample::BY_HAND);
    process["spec"]["rollout"] = json!({ "maxConcurrencyPerTenant": 100 });
    process["spec"]["observability"] = json!({ "metricsTags": { "processType": "L2O" } });
    let process = ns.create(process).await;
    let process = ns.wait_for(&process, condition("Ready", "True")).await;
    let checksum = "sha256:753e50c94856b816f56d5b336b58aaf0b06d5945b992b57fa2042b7092268616";
    assert_eq!(definition(&process), (&json!(3), &json!(checksum)));
    assert_eq!(condition_of(&process, "DefinitionResolved")["status"], "True");
    let runs = kubelet.runs_of("worker");
    let run = runs.first().expect("a worker runs");
    assert_eq!(run.printed.as_deref(), Some("polls l2o-tq for L2O_v3"));
    let told = |name: &str| run.env.get(name).map(String::as_str);
    assert_eq!((told("MAX_CONCURRENCY_PER_TENANT"), told("METRICS_TAGS")), (Some("100"), Some("processType=L2O")));

    temporal.start_workflow(&ns.name, "l2o-tq", "one", "Report").await;
    let result = temporal.result(&ns.name, "one").await.to_string();
    assert!(result.contains("Lead to order") || result.contains(&base64(CANONICAL)), "{result}");

    // a new version reaches new workers, and the old one goes
    stage.transformation.publish("t123", "L2O_v3", 4, r#"{"name":"Lead to cash"}"#);
    let process = ns.wait_until(&process, |process| definition(process).0 == 4).await;
    ns.wait_for(&process, condition("Ready", "True")).await;
    ns.wait_until(of::<Deployment>("l2o"), |live| live["status"]["updatedReplicas"] == live["status"]["replicas"])
        .await;
    let mounted = |live: &Value| live["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"].clone();
    let mounted = mounted(&ns.get(of::<Deployment>("l2o")).await);
    ns.wait_until(of::<Deployment>("l2o"), |live| live["status"]["readyReplicas"] == 1).await;
    let maps = || async {
        let maps = ns.list::<ConfigMap>().await;
        maps.into_iter().filter(|map| map["data"]["definition.json"].is_string()).collect::<Vec<_>>()
    };
    assert!(maps().await.iter().any(|map| map["metadata"]["name"] == mounted));
    temporal.start_workflow(&ns.name, "l2o-tq", "two", "Report").await;
    temporal.result(&ns.name, "two").await;
    assert_eq!(temporal.count(&ns.name, "l2o-tq", Some("Completed")).await, 2);
}

const CANONICAL: &str = r#"{"name":"Lead to order","steps":[]}"#;

fn base64(text: &str) -> String {
    use base64::Engine as _;
    // a payload is JSON: a string in quotes
    base64::engine::general_purpose::STANDARD.encode(json!(text).to_string())
}

#[tokio::test]
async fn p2_a_bad_source_leaves_the_last_good_definition_in_use_and_says_why() {
    let temporal = Temporal::shared().await;
    let stage = Stage::new("definition", &temporal.address).await;
    let ns = &stage.ns;
    temporal.namespace(&ns.name).await;
    let process = ns.create(stage.process("l2o")).await;
    let good = ns.wait_for(&process, condition("Ready", "True")).await;
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(1 << 20));
    let troubles: [(&str, &str, &dyn Fn()); 5] = [
        ("Unavailable", "Unavailable: ", &|| stage.transformation.behave(Behaviour::Down)),
        ("Unavailable", "DeadlineExceeded: ", &|| stage.transformation.behave(Behaviour::Slow)),
        ("Invalid", "is not JSON", &|| {
            stage.transformation.behave(Behaviour::Good);
            stage.transformation.publish("t123", "L2O_v3", 4, "<bpmn/>");
        }),
        ("Invalid", "a ConfigMap holds at most", &|| stage.transformation.publish("t123", "L2O_v3", 5, &large)),
        ("NotFound", "no definition L2O_v4", &|| {}),
    ];
    for (reason, message, begin) in troubles {
        begin();
        if reason == "NotFound" {
            ns.merge(&process, json!({ "spec": { "definitionRef": { "id": "L2O_v4" } } })).await;
        }
        let said = ns
            .wait_until(&process, |process| {
                let resolved = condition_of(process, "DefinitionResolved");
                resolved["reason"] == reason && resolved["message"].as_str().unwrap_or_default().contains(message)
            })
            .await;
        let resolved = condition_of(&said, "DefinitionResolved");
        let text = resolved["message"].as_str().unwrap().to_owned();
        assert!(text.ends_with("; version 3 stays in use"), "{text}");
        assert_eq!(definition(&said), definition(&good));
        assert_eq!(condition_of(&said, "Ready")["status"], "True", "workers go on");
    }
    // of another tenant, by a source that does not look
    stage.transformation.publish("t999", "L2O_v5", 9, CONTENT);
    stage.transformation.behave(Behaviour::AnyTenant);
    ns.merge(&process, json!({ "spec": { "definitionRef": { "id": "L2O_v5" } } })).await;
    let said = ns.wait_for(&process, condition("DefinitionResolved", "False").because("Invalid")).await;
    let message = condition_of(&said, "DefinitionResolved")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("asked for L2O_v5 of the tenant t123"), "{message}");
    // and back
    stage.transformation.behave(Behaviour::Good);
    stage.transformation.publish("t123", "L2O_v5", 6, CONTENT);
    let back = ns.wait_for(&process, condition("DefinitionResolved", "True")).await;
    assert_eq!(definition(&back), (&json!(6), definition(&good).1), "the same JSON has the same checksum");
}

#[tokio::test]
async fn p3_a_temporal_that_goes_down_degrades_and_is_noticed_when_it_comes_back() {
    let port = free_port();
    let stage = Stage::new("temporal", &format!("127.0.0.1:{port}")).await;
    let ns = &stage.ns;
    let temporal = Temporal::start(port, &[&ns.name]).await;
    let process = ns.create(stage.process("l2o")).await;
    ns.wait_for(&process, condition("Ready", "True")).await;
    drop(temporal);
    let down = ns.wait_for(&process, condition("Degraded", "True").because("TemporalUnavailable")).await;
    assert_eq!(condition_of(&down, "Ready")["reason"], "TemporalUnavailable");
    assert!(ns.find(of::<Deployment>("l2o")).await.is_some(), "workers stay");
    let _temporal = Temporal::start(port, &[&ns.name]).await;
    let back = ns.wait_for(&process, condition("Ready", "True")).await;
    assert_eq!(condition_of(&back, "Degraded")["status"], "False");
}

#[tokio::test]
async fn p3_a_missing_namespace_is_a_clear_error_until_it_is_registered() {
    let temporal = Temporal::shared().await;
    let stage = Stage::new("no-namespace", &temporal.address).await;
    let ns = &stage.ns;
    let process = ns.create(stage.process("l2o")).await;
    let missing = ns.wait_for(&process, condition("Ready", "False").because("NamespaceNotFound")).await;
    let message = condition_of(&missing, "Ready")["message"].clone();
    let expected = format!(
        "Temporal has no namespace {}: register it, or correct spec.temporal.namespace of the Process",
        ns.name
    );
    assert_eq!(message, json!(expected));
    assert!(ns.find(of::<Deployment>("l2o")).await.is_none());
    temporal.namespace(&ns.name).await;
    ns.wait_for(&process, condition("Ready", "True")).await;
}

#[tokio::test]
async fn p5_a_domain_that_becomes_ready_brings_up_who_depends_on_it_and_nobody_else() {
    let temporal = Temporal::shared().await;
    let stage = Stage::new("dependencies", &temporal.address).await;
    let ns = &stage.ns;
    temporal.namespace(&ns.name).await;
    // its host makes the kind known, and leaves the Domains of this namespace alone
    let other = TestCluster::shared().await.namespace("domains").await;
    let _other_host = other.host().await;
    other.install(&component("domain").await).await;
    let sales = ns.create(sample::domain("sales")).await;

    let mut dependent = stage.process("dependent");
    // long enough not to be asked for again meanwhile
    dependent["spec"]["definitionRef"]["refreshInterval"] = json!("1h");
    dependent["spec"]["dependencies"] = json!({ "domains": [{ "name": "sales" }] });
    let mut alone = dependent.clone();
    alone["metadata"]["name"] = json!("alone");
    alone["spec"]["temporal"]["taskQueue"] = json!("alone-tq");
    alone["spec"].as_object_mut().unwrap().remove("dependencies");
    let mut agent = alone.clone();
    agent["metadata"]["name"] = json!("agent");
    agent["spec"]["dependencies"] = json!({ "agents": [{ "name": "l2o-coach" }] });
    let (dependent, alone, agent) = (ns.create(dependent).await, ns.create(alone).await, ns.create(agent).await);
    ns.wait_for(&alone, condition("Ready", "True")).await;
    let missing = ns.wait_for(&agent, condition("Degraded", "True").because("DependencyMissing")).await;
    assert_eq!(condition_of(&missing, "Synced")["status"], "True", "a kind that is not there is no error");
    let degraded = ns.wait_for(&dependent, condition("Degraded", "True").because("DependencyNotReady")).await;
    assert_eq!(condition_of(&degraded, "WorkersReady")["type"], "WorkersReady");
    ns.wait_for(&dependent, condition("WorkersReady", "True")).await;
    ns.wait_for(&agent, condition("WorkersReady", "True")).await;
    stage.host.settle(Duration::from_secs(3)).await;

    let calls = || async { stage.host.metrics().await.sum("transom_plugin_calls_total", &["outcome=\"Planned\""]) };
    let before = calls().await;
    let ready = json!({ "conditions": [{ "type": "Ready", "status": "True", "reason": "Ready", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1 }] });
    ns.merge_status(&sales, ready).await;
    ns.wait_for(&dependent, condition("Ready", "True")).await;
    stage.host.settle(Duration::from_secs(1)).await;
    assert_eq!(calls().await - before, 1.0, "one call, of the one that depends on it");
    ns.delete(&sales).await;
    ns.wait_for(&dependent, condition("Degraded", "True").because("DependencyMissing")).await;
}

#[tokio::test]
async fn p6_a_canary_works_beside_the_stable_workers_and_is_promoted() {
    let temporal = Temporal::shared().await;
    let stage = Stage::new("process-canary", &temporal.address).await;
    let ns = &stage.ns;
    temporal.namespace(&ns.name).await;
    let mut process = stage.process("l2o");
    process["spec"]["rollout"] = json!({ "strategy": "Canary", "canary": { "replicas": 1, "duration": "3s" } });
    let process = ns.create(process).await;
    ns.wait_for(&process, condition("Ready", "True")).await;
    let image = |live: &Value| live["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    ns.merge(&process, json!({ "spec": { "image": "registry.example/process:2" } })).await;
    let canary = ns.wait_until(of::<Deployment>("l2o-canary"), |_| true).await;
    assert_eq!(image(&canary), "registry.example/process:2");
    assert_eq!(image(&ns.get(of::<Deployment>("l2o")).await), "registry.example/process:1");
    ns.wait_until(of::<Deployment>("l2o"), |live| image(live) == "registry.example/process:2").await;
    ns.wait_gone(of::<Deployment>("l2o-canary")).await;
    ns.wait_for(&process, condition("Ready", "True")).await;
}

#[tokio::test]
async fn p8_sla_checks_run_on_their_schedule() {
    let temporal = Temporal::shared().await;
    let stage = Stage::new("sla", &temporal.address).await;
    let ns = &stage.ns;
    temporal.namespace(&ns.name).await;
    let mut process = stage.process("l2o");
    process["spec"]["slaChecks"] = json!([{ "name": "overdue", "schedule": "* * * * *" }]);
    process["spec"]["cleanup"] = json!({ "schedule": "0 3 * * *", "args": ["--older-than=30d"] });
    let process = ns.create(process).await;
    ns.wait_for(&process, condition("Ready", "True")).await;
    let cleanup = ns.get(of::<CronJob>("l2o-cleanup")).await;
    let container = &cleanup["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["name"], &container["args"]), (&json!("cleanup"), &json!(["--older-than=30d"])));
    // Kubernetes' own controller makes a Job within the minute
    let job =
        ns.wait_for_any::<Job>("app.kubernetes.io/instance=l2o,app.kubernetes.io/name=process-job", |_| true).await;
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["name"], &container["args"]), (&json!("sla-check"), &json!(["sla-check", "overdue"])));
    ns.merge(&process, json!({ "spec": { "slaChecks": null } })).await;
    ns.wait_gone(of::<CronJob>("l2o-sla-overdue")).await;
}
