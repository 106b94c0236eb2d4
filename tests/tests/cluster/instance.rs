//! Instances of products: the plugin `instance` with the real Helm engine, and the chart `tests/charts/shop`.

use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, LimitRange, Namespace as KubeNamespace, PersistentVolumeClaim, ResourceQuota, Secret, Service,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::{Value, json};
use tempfile::TempDir;
use transom_tests::{
    Host, HostOptions, Namespace, TestCluster, component, component_at, condition, condition_of, of, sample,
};

use crate::samples::keeps;

pub(crate) const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/shop");
const ODD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/odd");

/// A host with the plugin, charts in a folder, and the namespace that an instance is to have.
pub(crate) struct Platform {
    pub(crate) ns: Namespace,
    /// The instance's own.
    pub(crate) own: Namespace,
    pub(crate) host: Host,
    pub(crate) folder: TempDir,
    pub(crate) record: Value,
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name());
        let to = to.join(name);
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

/// A host that follows what instances own.
pub(crate) async fn host(ns: &Namespace) -> Host {
    ns.host_with(HostOptions { arguments: vec!["--own-namespaces".into()], ..HostOptions::default() }).await
}

impl Platform {
    pub(crate) async fn start(name: &str) -> Self {
        let ns = TestCluster::shared().await.namespace(name).await;
        let own = ns.other(&format!("{}-own", ns.name));
        let folder = tempfile::tempdir().unwrap();
        copy(Path::new(CHART), &folder.path().join("shop"));
        copy(Path::new(ODD), &folder.path().join("odd"));
        let host = host(&ns).await;
        let record = ns.record("instance", Self::spec(folder.path(), json!([])).await).await;
        let record = ns.wait_for(&record, condition("Ready", "True")).await;
        Self { ns, own, host, folder, record }
    }

    /// `spec` of the record, with other endpoints.
    pub(crate) async fn spec(folder: &Path, endpoints: Value) -> Value {
        let plugin = component("instance").await;
        let engine = component_at(&plugin.path.with_file_name("helm.wasm")).spec();
        let mut spec = plugin.spec();
        spec["engines"] = json!([{ "name": "helm", "source": engine["source"], "digest": engine["digest"],
            "limits": { "memory": "1Gi", "deadlineMilliseconds": 60_000 } }]);
        let folder = json!({ "name": "folder", "address": format!("file://{}", folder.display()) });
        spec["endpoints"] = endpoints.as_array().unwrap().iter().cloned().chain([folder]).collect();
        spec
    }

    /// Another version of the chart in the folder `name`, with this text replaced in its `values.yaml`.
    pub(crate) fn version(&self, name: &str, from: &str, to: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        copy(Path::new(CHART), &path);
        let values = path.join("values.yaml");
        let text = std::fs::read_to_string(&values).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&values, text.replace(from, to)).unwrap();
        path
    }

    /// A template of the chart in this folder.
    pub(crate) async fn template(&self, name: &str, folder: &str, values: Value) -> Value {
        let object = template(name, json!({ "folder": { "reference": folder } }), values);
        self.ns.create(object).await
    }

    /// The instance `shop` in the namespace of its own.
    pub(crate) async fn instance(&self, template: &str, values: Value) -> Value {
        self.ns.create(self.instance_body(template, values)).await
    }

    pub(crate) fn instance_body(&self, template: &str, values: Value) -> Value {
        json!({
            "apiVersion": "caelus.io/v1", "kind": "CaelusInstance", "metadata": { "name": "shop" },
            "spec": { "userId": "ann", "productTemplateVersion": template, "namespace": self.own.name,
                "domainName": "shop.example.com", "values": values },
        })
    }

    /// Waits until the instance has this phase and no earlier release than this revision.
    pub(crate) async fn phase(&self, phase: &str, revision: u64) -> Value {
        self.ns
            .wait_until(of::<sample::CaelusInstance>("shop"), |object| {
                let status = &object["status"];
                status["phase"] == phase && status["release"]["revision"].as_u64().unwrap_or(0) >= revision
            })
            .await
    }

    /// Deletes the instance, and waits until it is gone.
    pub(crate) async fn end(self) {
        if self.ns.try_delete(of::<sample::CaelusInstance>("shop")).await {
            self.ns.wait_gone(of::<sample::CaelusInstance>("shop")).await;
        }
    }
}

pub(crate) fn template(name: &str, chart: Value, values: Value) -> Value {
    json!({
        "apiVersion": "caelus.io/v1", "kind": "ProductTemplateVersion", "metadata": { "name": name },
        "spec": { "chart": chart, "defaultValues": values, "domainPaths": ["ingress.host"], "timeoutSeconds": 120 },
    })
}

pub(crate) fn conditions(object: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = object["status"]["conditions"].as_array().into_iter().flatten();
    list.map(|c| (text(&c["type"]), text(&c["status"]), text(&c["reason"]))).collect()
}

/// I1, I2, I3, I7: one instance from its creation to its end.
#[tokio::test]
async fn i1_i2_i3_i7_an_instance_is_a_release_in_a_namespace_of_its_own() {
    let platform = Platform::start("instance").await;
    let Platform { ns, own, .. } = &platform;
    let template = platform.template("v1", "shop", json!({ "greeting": "welcome", "mode": "busy" })).await;
    let template = ns.wait_for(&template, condition("Ready", "True")).await;
    assert_eq!(template["status"]["chart"], json!({ "name": "shop", "version": "1.0.0" }));
    platform.instance("v1", json!({ "replicas": 2, "mode": null })).await;
    let object = platform.phase("Running", 1).await;
    let status = &object["status"];
    assert_eq!(status["release"]["templateVersion"], "v1");
    assert_eq!(status["release"]["chartDigest"], template["status"]["digest"]);
    assert!(status["lastReconcile"].as_str().unwrap().ends_with('Z'), "{status:#}");
    let object = ns.wait_for(&object, condition("Ready", "True")).await;
    let mut held: Vec<String> =
        conditions(&object).into_iter().map(|(kind, status, _)| format!("{kind} {status}")).collect();
    held.sort_unstable();
    assert_eq!(held, ["Ready True", "Released True", "Synced True", "WorkloadsReady True"]);

    // values: chart < template < domain < instance, and null takes a default away
    let map = own.get(of::<ConfigMap>("shop")).await;
    let expected = json!({ "greeting": "welcome", "mode": "none", "domain": "shop.example.com",
        "host": "shop.example.com", "revision": "1", "upgrade": "false" });
    assert_eq!(map["data"], expected);
    assert_eq!(own.get(of::<Deployment>("shop")).await["spec"]["replicas"], 2);
    own.get(of::<Service>("shop")).await;
    let role = of::<ClusterRole>(&format!("{}-reader", own.name));
    own.get(&role).await;

    // isolation
    let mut policies: Vec<String> = Vec::new();
    for policy in own.list::<NetworkPolicy>().await {
        policies.push(policy["metadata"]["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(policies, ["caelus-allow-dns", "caelus-allow-ingress", "caelus-allow-own", "caelus-deny-all"]);
    let deny = own.get(of::<NetworkPolicy>("caelus-deny-all")).await;
    assert_eq!(deny["spec"], json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] }));
    assert_eq!(own.get(of::<ResourceQuota>("caelus-quota")).await["spec"]["hard"]["services.loadbalancers"], "0");
    own.get(of::<LimitRange>("caelus-defaults")).await;
    let namespace = own.get(of::<KubeNamespace>(&own.name)).await;
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "baseline");

    // hooks: all that precede and follow an install have run, spent ones are gone, others stay
    assert_eq!(own.get(of::<Job>("migrate")).await["status"]["succeeded"], 1);
    own.wait_gone(of::<Job>("check")).await;
    own.get(of::<ConfigMap>("settings")).await;
    assert!(own.find(of::<Job>("test")).await.is_none() && own.find(of::<Job>("farewell")).await.is_none());

    // drift
    own.merge(of::<ConfigMap>("shop"), json!({ "data": { "greeting": "go away" } })).await;
    own.wait_until(of::<ConfigMap>("shop"), |map| map["data"]["greeting"] == "welcome").await;
    own.delete(of::<Service>("shop")).await;
    own.wait_until(of::<Service>("shop"), |service| service["metadata"]["deletionTimestamp"].is_null()).await;

    // what is kept survives with its namespace, the rest goes
    let claim = own.get(of::<PersistentVolumeClaim>("data")).await;
    let farewell = own.recording(of::<Job>("farewell")).await;
    ns.delete(&object).await;
    ns.wait_gone(&object).await;
    own.wait_gone(of::<Deployment>("shop")).await;
    let succeeded = |job: Option<&Value>| job.is_some_and(|job| job["status"]["succeeded"] == 1);
    farewell.changes_until(succeeded, |job| job["status"]["succeeded"].clone()).await;
    own.wait_gone(of::<Secret>("caelus-release")).await;
    own.wait_gone(&role).await;
    assert_eq!(own.get(of::<PersistentVolumeClaim>("data")).await["metadata"]["uid"], claim["metadata"]["uid"]);
    own.get(of::<ConfigMap>("kept")).await;
    own.get(of::<sample::CustomResourceDefinition>("shopthings.shop.tests.transom.dev")).await;

    // and an instance of the same name takes it up again
    platform.instance("v1", json!({})).await;
    platform.phase("Running", 1).await;
    assert_eq!(own.get(of::<PersistentVolumeClaim>("data")).await["metadata"]["uid"], claim["metadata"]["uid"]);
    platform.end().await;
}

/// I1, I7: what is wrong is told with field and fix, and what runs goes on.
#[tokio::test]
async fn i1_i7_wrong_input_names_the_field_and_what_runs_stays() {
    let platform = Platform::start("instance-wrong").await;
    let Platform { ns, own, .. } = &platform;
    let object = platform.instance("v1", json!({ "hooks": false })).await;
    let failed = async |reason: &str| {
        let object = ns.wait_for(&object, condition("Ready", "False").because(reason)).await;
        assert_eq!(object["status"]["phase"], "Failed", "{object:#}");
        object["status"]["message"].as_str().unwrap().to_owned()
    };
    let message = failed("UnknownTemplate").await;
    assert!(message.starts_with("spec.productTemplateVersion: there is no ProductTemplateVersion v1"), "{message}");
    assert!(ns.find(of::<KubeNamespace>(&own.name)).await.is_none(), "nothing is made");

    let digest = format!("sha256:{}", "0".repeat(64));
    let chart = json!({ "folder": { "reference": "shop" }, "digest": digest });
    let version = ns.create(template("v1", chart, json!({}))).await;
    ns.wait_for(&version, condition("Ready", "False").because("DigestMismatch")).await;
    let message = failed("DigestMismatch").await;
    assert!(message.starts_with("ProductTemplateVersion v1: spec.chart.digest is sha256:0000"), "{message}");
    ns.merge(&version, json!({ "spec": { "chart": { "digest": null } } })).await;
    platform.phase("Running", 1).await;
    let running = own.get(of::<Deployment>("shop")).await;

    let change = async |values: Value| ns.merge(&object, json!({ "spec": { "values": values } })).await;
    let object = change(json!({ "replicas": "many" })).await;
    let failed = async |reason: &str| {
        let object = ns.wait_for(&object, condition("Ready", "False").because(reason)).await;
        assert_eq!(object["status"]["phase"], "Failed", "{object:#}");
        object["status"]["message"].as_str().unwrap().to_owned()
    };
    let message = failed("InvalidValues").await;
    assert!(message.contains("spec.values") && message.contains("replicas"), "{message}");
    let change = async |values: Value| ns.merge(&object, json!({ "spec": { "values": values } })).await;
    change(json!({ "replicas": 1, "fail": "say please" })).await;
    let message = ns.wait_until(&object, |object| object["status"]["message"].to_string().contains("say please")).await;
    assert_eq!(condition_of(&message, "Released")["reason"], "ChartFailed");
    change(json!({ "fail": null, "elsewhere": "kube-system" })).await;
    let told = ns.wait_until(&object, |object| condition_of(object, "Ready")["reason"] == "ForeignNamespace").await;
    assert!(
        told["status"]["message"].as_str().unwrap().contains("ConfigMap shop is to be in the namespace kube-system")
    );
    assert_eq!(told["status"]["release"]["revision"], 1);
    assert_eq!(
        own.get(of::<Deployment>("shop")).await["metadata"]["resourceVersion"],
        running["metadata"]["resourceVersion"]
    );

    // a namespace of somebody else's
    let mut other = platform.instance_body("v1", json!({}));
    other["metadata"]["name"] = json!("thief");
    let thief = ns.create(other).await;
    let thief = ns.wait_for(&thief, condition("Ready", "False").because("ForeignNamespace")).await;
    let message = thief["status"]["message"].as_str().unwrap();
    assert!(message.contains("exists and is somebody else's: an instance needs a namespace of its own"), "{message}");
    let moved = ns.dry_patch(&object, &kube::api::Patch::Merge(json!({ "spec": { "namespace": "default" } }))).await;
    assert!(moved.unwrap_err().contains("cannot be changed: make another instance"));
    ns.delete(&thief).await;
    ns.wait_gone(&thief).await;
    platform.end().await;
}

/// I1: the samples of the guide.
#[tokio::test]
async fn i1_samples_are_objects_that_the_api_server_takes() {
    let platform = Platform::start("instance-samples").await;
    let Platform { ns, host, .. } = platform;
    // nobody is to act on them
    assert!(host.stop().await.success());
    let samples: Vec<Value> =
        serde_saphyr::from_multiple(include_str!("../../../docs/samples/instances.yaml")).unwrap();
    assert!(samples.len() >= 4);
    for sample in samples {
        let created = ns.create(sample.clone()).await;
        assert!(keeps(&sample["spec"], &created["spec"]), "{sample:#} became {created:#}");
    }
}
