//! H11: a plugin reads and writes as its own ServiceAccount, and the host has no power over workloads itself.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use transom_tests::{
    Host, HostOptions, Namespace, TestCluster, component, condition, condition_of, of, sample, transom_with_cluster,
};

/// What the host itself must be allowed: its records, definitions of kinds, Events, and to act as plugins' accounts. It can do
/// without storing components.
pub(crate) async fn host_with_few_rights(ns: &Namespace) -> Host {
    let token = ns.account("transom").await;
    let everywhere = json!([
        { "apiGroups": ["transom.dev"], "resources": ["plugins", "plugins/status"],
          "verbs": ["get", "list", "watch", "patch", "update"] },
        { "apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"],
          "verbs": ["get", "list", "watch", "create", "patch"] },
        { "apiGroups": ["transom.dev"], "resources": ["overlays", "overlays/status"],
          "verbs": ["get", "list", "watch", "create", "patch"] },
        { "apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"] },
        { "apiGroups": ["admissionregistration.k8s.io"],
          "resources": ["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
          "resourceNames": ["overlays.transom.dev"], "verbs": ["get", "create", "patch"] },
    ]);
    ns.allow_everywhere("transom", everywhere).await;
    let here = json!([
        { "apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["plugin"], "verbs": ["impersonate"] },
        { "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"] },
    ]);
    ns.allow("transom", "transom", here).await;
    ns.host_with(HostOptions { token: Some(token), ..HostOptions::default() }).await
}

/// A record of this component that acts as the account `plugin`.
async fn record(ns: &Namespace, name: &str) -> Value {
    let mut spec = component(name).await.spec();
    spec["serviceAccount"] = json!({ "namespace": ns.name, "name": "plugin" });
    ns.record(name, spec).await
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

const READ: [&str; 3] = ["get", "list", "watch"];
const ALL: [&str; 6] = ["get", "list", "watch", "create", "patch", "delete"];

#[tokio::test]
async fn what_a_role_does_not_allow_is_named_and_goes_on_when_it_is_granted() {
    let ns = TestCluster::shared().await.namespace("access").await;
    ns.account("plugin").await;
    let _host = host_with_few_rights(&ns).await;
    let record = record(&ns, "web").await;

    // nothing is granted: the version cannot serve, and says what it needs
    let refused = ns.wait_for(&record, condition("Granted", "False").because("Forbidden")).await;
    let message = condition_of(&refused, "Granted")["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains(&format!("system:serviceaccount:{}:plugin may not: ", ns.name)), "{message}");
    for right in ["list deployments.apps", "watch services", "watch webs.bench.dev"] {
        assert!(message.contains(right), "{right}: {message}");
    }

    // everything but writing Services
    let primaries = rule("bench.dev", &["webs", "webs/status"], &["get", "list", "watch", "patch"]);
    let others = [
        rule("apps", &["deployments"], &ALL),
        rule("networking.k8s.io", &["networkpolicies"], &ALL),
        rule("", &["configmaps"], &ALL),
    ];
    let but =
        |services: &[&str]| json!([primaries, others[0], others[1], others[2], rule("", &["services"], services)]);
    ns.allow("plugin", "plugin", but(&READ)).await;
    let served = ns.wait_for(&record, condition("Ready", "True")).await;
    let stored = condition_of(&served, "Stored");
    assert_eq!((&stored["status"], &stored["reason"]), (&json!("False"), &json!("Forbidden")), "{stored:#}");
    assert!(stored["message"].as_str().unwrap().contains("storedcomponents.transom.dev is forbidden"), "{stored:#}");
    let web = ns.create(sample::web("shop")).await;
    let stopped = ns.wait_for(&web, condition("Synced", "False").because("ApplyFailed")).await;
    let message = condition_of(&stopped, "Synced")["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains(r#"cannot patch resource "services""#), "{message}");
    assert!(message.contains(&format!("system:serviceaccount:{}:plugin", ns.name)), "{message}");

    ns.allow("plugin", "plugin", but(&ALL)).await;
    ns.wait_for(&web, condition("Ready", "True")).await;
    ns.delete(&web).await;
    ns.wait_gone(of::<ConfigMap>("shop")).await;
}

#[tokio::test]
async fn the_role_that_install_prints_is_enough() {
    let ns = TestCluster::shared().await.namespace("access-role").await;
    ns.account("plugin").await;
    let _host = host_with_few_rights(&ns).await;
    let (path, account) = (component("web").await.path, format!("{}/plugin", ns.name));
    let arguments = ["plugin", "install", &path.display().to_string(), "--service-account", &account];
    let shown = transom_with_cluster(&arguments).await;
    let role: Value = serde_saphyr::from_str(shown.stdout.split("---\n").next().unwrap_or_default()).unwrap();
    assert_eq!(role["kind"], "ClusterRole");
    assert!(shown.stdout.contains("kind: ClusterRoleBinding") && shown.stdout.contains("serviceAccount:"));
    ns.allow("plugin", "plugin", role["rules"].clone()).await;
    let record = record(&ns, "web").await;
    ns.wait_for(&record, condition("Ready", "True")).await;
    let web = ns.create(sample::web("shop")).await;
    ns.wait_for(&web, condition("Ready", "True")).await;
    ns.delete(of::<ConfigMap>("shop")).await;
    ns.wait_until(of::<ConfigMap>("shop"), |map| map["data"]["motd"] == "this is shop").await;
}

#[tokio::test]
async fn a_lookup_reads_what_the_account_may_read() {
    let ns = TestCluster::shared().await.namespace("access-lookup").await;
    ns.account("plugin").await;
    let _host = host_with_few_rights(&ns).await;
    ns.create(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "settings" } })).await;
    let record = record(&ns, "asker").await;
    let mut spec = ns.get(&record).await["spec"].clone();
    let turner = component("asker").await.path.with_file_name("turner.wasm");
    let turner = transom_tests::component_at(&turner).spec();
    spec["engines"] = json!([{ "name": "turner", "source": turner["source"], "digest": turner["digest"] }]);
    spec["endpoints"] = json!([{ "name": "web", "address": "https://web.example" }]);
    let record = ns.merge(&record, json!({ "spec": spec })).await;
    let primaries = rule("tests.transom.dev", &["askers", "askers/status"], &["get", "list", "watch", "patch"]);
    let children = rule("", &["configmaps"], &ALL);
    ns.allow("plugin", "plugin", json!([primaries, children])).await;
    ns.wait_for(&record, condition("Ready", "True")).await;
    let asker = ns
        .create(json!({
            "apiVersion": "tests.transom.dev/v1", "kind": "Asker", "metadata": { "name": "a" },
            "spec": { "ask": [{ "what": "secrets" }] },
        }))
        .await;
    let denied = ns.wait_until(&asker, |asker| asker["status"]["answers"][0].is_string()).await;
    let answer = denied["status"]["answers"][0].as_str().unwrap_or_default();
    assert!(answer.starts_with("denied ") && answer.contains("secrets"), "{answer}");

    ns.allow("plugin", "plugin", json!([primaries, children, rule("", &["secrets"], &READ)])).await;
    ns.wait_until(&asker, |asker| asker["status"]["answers"][0].as_str().is_some_and(|a| a.starts_with("found"))).await;
}
