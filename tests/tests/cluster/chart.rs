//! C3: the chart in `deploy/`, by the real Helm on the real API server; the host runs as its pod says, with the rights of
//! its ServiceAccount and no others.

use std::path::PathBuf;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};
use tempfile::TempDir;
use transom_tests::kubelet::{Image, Kubelet, Run, program};
use transom_tests::{Namespace, TestCluster, cache_dir, component, condition, helm, of, transom_with_cluster};

use crate::ready_domain;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart");
const FINALIZER: &str = "transom.dev/cleanup";

/// The chart, installed, and its pods run.
struct Release {
    ns: Namespace,
    /// Runs the host and the Job.
    kubelet: Kubelet,
    _folder: TempDir,
}

impl Release {
    /// Its name is that of the namespace.
    async fn install(name: &str, more: &[&str]) -> Self {
        let ns = TestCluster::shared().await.namespace(name).await;
        install(&ns, more).await;
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig: PathBuf = folder.path().join("kubeconfig");
        ns.kubeconfig(&ns.name, &kubeconfig).await;
        let image = Image {
            name: "registry.example/by-hand:1".into(),
            program: program("transom"),
            env: vec![("KUBECONFIG".into(), kubeconfig.display().to_string())],
            serves: false,
        };
        let kubelet = Kubelet::start(&ns, vec![image]).await;
        Self { ns, kubelet, _folder: folder }
    }
}

/// Installs the chart, with an account `plugin` beside it. Returns the token of the host's account, whose name is that of the
/// namespace.
pub(crate) async fn install(ns: &Namespace, more: &[&str]) -> String {
    ns.account("plugin").await;
    let selector = ns.selector().replace('=', r"\=");
    let values = [
        "image.repository=registry.example/by-hand".to_owned(),
        "image.tag=1".to_owned(),
        "rbac.pluginAccounts={plugin}".to_owned(),
        format!("host.watchNamespace={}", ns.name),
        format!("host.pluginSelector={selector}"),
        // many hosts share this machine
        format!(
            "host.extraArgs={{--listen=127.0.0.1:0,--webhook-listen=127.0.0.1:0,--recordings-listen=127.0.0.1:0,--cache-dir={}}}",
            cache_dir().display()
        ),
    ];
    let mut arguments = vec!["install", &ns.name, CHART, "--namespace", &ns.name];
    values.iter().map(String::as_str).chain(more.iter().copied()).for_each(|value| arguments.extend(["--set", value]));
    helm(&arguments).await.succeeded();
    ns.token(&ns.name).await
}

/// Lets the account `plugin` do what the component needs, and installs it.
pub(crate) async fn plugin(ns: &Namespace, name: &str) -> Value {
    let component = component(name).await;
    let (path, account) = (component.path.display().to_string(), format!("{}/plugin", ns.name));
    let shown = transom_with_cluster(&["plugin", "install", &path, "--service-account", &account]).await;
    let role: Value = serde_saphyr::from_str(shown.stdout.split("---\n").next().unwrap_or_default()).unwrap();
    ns.allow("plugin", name, role["rules"].clone()).await;
    let mut spec = component.spec();
    spec["serviceAccount"] = json!({ "namespace": ns.name, "name": "plugin" });
    let record = ns.record(name, spec).await;
    ns.wait_for(&record, condition("Ready", "True")).await
}

fn has_finalizer(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|list| list.iter().any(|known| known == FINALIZER))
}

#[tokio::test]
async fn samples_get_ready_with_the_least_rights_and_can_be_deleted_after_the_host() {
    let release = Release::install("chart", &[]).await;
    let ns = &release.ns;
    let record = plugin(ns, "domain").await;
    let mut domains = Vec::new();
    for name in ["billing", "orders", "shipping"] {
        domains.push(ready_domain(ns, name).await);
    }
    for domain in &domains {
        assert!(has_finalizer(domain), "{domain:#}");
    }
    assert!(has_finalizer(&ns.get(&record).await));
    let [host] = &release.kubelet.runs_of("host")[..] else { panic!("one host is to run") };
    assert_eq!(host.env.get("TRANSOM_NAMESPACE"), Some(&ns.name));

    helm(&["uninstall", &ns.name, "--namespace", &ns.name]).await.succeeded();
    let [job] = &release.kubelet.runs_of("release")[..] else { panic!("one Job is to run") };
    assert_eq!(job.exit_code, Some(0));
    let pods = ns.list::<Pod>().await;
    let of_the_host = |pod: &&Value| pod["metadata"]["labels"]["app.kubernetes.io/name"] == "transom";
    assert_eq!(pods.iter().find(of_the_host), None);
    // nobody is there to help, and what runs goes on
    assert!(!has_finalizer(&ns.get(&record).await));
    let orders = ns.get(of::<Deployment>("orders")).await;
    assert_eq!(orders["metadata"]["deletionTimestamp"], Value::Null);
    for domain in &domains {
        assert!(!has_finalizer(&ns.get(domain).await));
        ns.delete(domain).await;
        ns.wait_gone(domain).await;
    }
    ns.delete(&record).await;
    ns.wait_gone(&record).await;
    ns.wait_gone(of::<Deployment>("orders")).await;
}

/// The pod whose replica does the work.
async fn leader(ns: &Namespace, is_it: impl Fn(&str) -> bool) -> String {
    let holder = |lease: &Value| lease["spec"]["holderIdentity"].as_str().map(str::to_owned);
    let lease = ns.wait_until(of::<Lease>(&ns.name), |lease| holder(lease).is_some_and(|name| is_it(&name))).await;
    holder(&lease).unwrap()
}

#[tokio::test]
async fn with_two_replicas_one_goes_on_when_the_pod_of_the_other_is_gone() {
    let release = Release::install("chart-ha", &["replicas=2", "leaderElection.leaseDurationSeconds=10"]).await;
    let ns = &release.ns;
    plugin(ns, "domain").await;
    ready_domain(ns, "before").await;
    let first = leader(ns, |_| true).await;
    let is_other = |run: &Run| run.env.get("POD_NAME").is_some_and(|name| *name != first);
    let pods = ns.list::<Pod>().await;
    let of_the_host = |pod: &&Value| pod["metadata"]["labels"]["app.kubernetes.io/name"] == "transom";
    assert_eq!(pods.iter().filter(of_the_host).count(), 2);

    ns.delete(of::<Pod>(&first)).await;
    let second = leader(ns, |name| name != first).await;
    assert!(release.kubelet.runs_of("host").iter().filter(|run| is_other(run)).count() >= 1);
    ready_domain(ns, "after").await;
    assert_eq!(leader(ns, |_| true).await, second);

    let deployment = ns.get(of::<Deployment>(&ns.name)).await;
    assert_eq!(deployment["spec"]["template"]["spec"]["topologySpreadConstraints"].as_array().map(Vec::len), Some(2));
    ns.wait_until(of::<PodDisruptionBudget>(&ns.name), |budget| budget["spec"]["maxUnavailable"] == 1).await;
    helm(&["uninstall", &ns.name, "--namespace", &ns.name]).await.succeeded();
    let [job] = &release.kubelet.runs_of("release")[..] else { panic!("one Job is to run") };
    assert_eq!(job.exit_code, Some(0));
}

#[tokio::test]
async fn nothing_is_released_without_a_yes_and_a_host_puts_it_back() {
    let ns = TestCluster::shared().await.namespace("release").await;
    let host = ns.host().await;
    let record = ns.install(&component("domain").await).await;
    let domain = ready_domain(&ns, "orders").await;
    assert!(host.stop().await.success());

    let selector = ns.selector();
    let scope = ["release", "--plugin-selector", &selector, "--watch-namespace", &ns.name];
    let asked = transom_with_cluster(&scope).await;
    assert_eq!(asked.code, Some(1));
    let plugin = record["metadata"]["name"].as_str().unwrap();
    assert_eq!(asked.stdout, format!("{plugin}: would release 1 objects of ameide.io/v1 Domain\n"));
    assert!(asked.stderr.contains("nothing was changed: call it again with --yes"), "{}", asked.stderr);
    assert!(has_finalizer(&ns.get(&domain).await));

    let done = transom_with_cluster(&[&scope[..], &["--yes"]].concat()).await.printed();
    assert_eq!(done, format!("{plugin}: released 1 objects of ameide.io/v1 Domain\n"));
    assert!(!has_finalizer(&ns.get(&domain).await) && !has_finalizer(&ns.get(&record).await));
    let again = transom_with_cluster(&[&scope[..], &["--yes"]].concat()).await.printed();
    assert_eq!(again, format!("{plugin}: released 0 objects of ameide.io/v1 Domain\n"));

    let _host = ns.host().await;
    ns.wait_until(&domain, has_finalizer).await;
    ns.wait_until(&record, has_finalizer).await;
    let other = transom_with_cluster(&["release", "--stop", "nowhere"]).await;
    assert!(other.stderr.contains("NAMESPACE/NAME"), "{}", other.stderr);
}

#[tokio::test]
async fn who_stops_a_host_is_told_what_is_waited_for() {
    let ns = TestCluster::shared().await.namespace("stop").await;
    let labels = json!({ "app": "host" });
    let pod = json!({ "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "a", "image": "a:1" }] } });
    // its finalizer stands for pods that take their time
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "host", "finalizers": ["tests.transom.dev/slow"] },
        "spec": { "replicas": 0, "selector": { "matchLabels": labels }, "template": pod },
    });
    let deployment = ns.create(deployment).await;
    let (host, selector) = (format!("{}/host", ns.name), "tests.transom.dev/run=nothing");
    let stop = ["release", "--yes", "--stop", &host, "--stop-timeout", "2", "--plugin-selector", selector];
    let stopped = transom_with_cluster(&stop).await;
    assert_eq!(stopped.code, Some(1));
    let said = format!("waiting for the pods of {host} to end, at most 2 s …\n");
    assert!(stopped.stderr.contains(&said) && stopped.stderr.contains("still there after 2s"), "{}", stopped.stderr);
    ns.merge(&deployment, json!({ "metadata": { "finalizers": null } })).await;
    ns.wait_gone(&deployment).await;
}

/// Everything that can be switched on.
const ALL: &str = r#"
image: {digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
imagePullSecrets: [{name: pull}]
serviceAccount: {annotations: {a: b}}
rbac: {pluginAccounts: [one, two], readSecrets: [login], readConfigMaps: [components]}
host: {extraEnv: [{name: A, value: b}]}
extraVolumes: [{name: more, emptyDir: {}}]
extraVolumeMounts: [{name: more, mountPath: /more}]
podAnnotations: {a: b}
podLabels: {a: b}
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{operator: Exists}]
affinity: {nodeAffinity: {}}
topologySpreadConstraints:
- {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {a: b}}}
priorityClassName: system-cluster-critical
podDisruptionBudget: {enabled: true}
networkPolicy: {metricsFrom: [{namespaceSelector: {}}]}
serviceMonitor: {enabled: true, labels: {a: b}}
prometheusRule: {enabled: true, labels: {a: b}}
dashboard: {enabled: true}
"#;

#[tokio::test]
async fn whatever_is_switched_on_is_taken_by_the_api_server() {
    let ns = TestCluster::shared().await.namespace("chart-all").await;
    let folder = tempfile::tempdir().unwrap();
    let values = folder.path().join("values.yaml");
    std::fs::write(&values, ALL).unwrap();
    let values = values.display().to_string();
    helm(&["lint", "--strict", CHART, "--values", &values]).await.succeeded();
    let arguments = ["template", &ns.name, CHART, "--namespace", &ns.name, "--values", &values];
    let text = helm(&arguments).await.printed();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let mut kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        [
            "ClusterRole",
            "ClusterRoleBinding",
            "ConfigMap",
            "Deployment",
            "Job",
            "NetworkPolicy",
            "PodDisruptionBudget",
            "PrometheusRule",
            "Role",
            "RoleBinding",
            "Service",
            "Service",
            "ServiceAccount",
            "ServiceMonitor",
        ]
    );
    for object in objects {
        let made_by_others = matches!(object["kind"].as_str(), Some("ServiceMonitor" | "PrometheusRule"));
        if !made_by_others {
            ns.dry_create(object.clone()).await.unwrap_or_else(|error| panic!("{error}: {object:#}"));
        }
    }
}
