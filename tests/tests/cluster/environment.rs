//! Environments: real repositories, a real registry, the real engines; the image builder is a script that pushes.
//!
//! Environments make namespaces, so hosts follow their children there, too.

use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, LimitRange, Namespace as KubeNamespace, PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota,
    Secret, Service,
};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use serde_json::{Value, json};
use tempfile::TempDir;
use transom_tests::kubelet::{Image, Kubelet};
use transom_tests::{
    Host, HostOptions, Namespace, Registry, TestCluster, component, condition, condition_of, engine, of, sample,
};

const BUILDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/builder.sh");

/// A team with a namespace and a host, its repositories and its registry.
pub(super) struct Team {
    // the host goes before what it works in
    pub(super) host: Host,
    pub(super) ns: Namespace,
    registry: Registry,
    repositories: TempDir,
}

fn options() -> HostOptions {
    HostOptions { arguments: vec!["--own-namespaces".into()], ..HostOptions::default() }
}

impl Team {
    pub(super) async fn new(name: &str) -> Self {
        Self::with_engines(name, json!({ "memory": "1Gi", "deadlineMilliseconds": 60_000 })).await
    }

    /// The host was ended, and another one started.
    pub(super) async fn restarted(self) -> Self {
        let Self { host, ns, registry, repositories } = self;
        host.stop().await;
        let host = ns.host_with(options()).await;
        Self { host, ns, registry, repositories }
    }

    /// With these limits of the engines.
    pub(super) async fn with_engines(name: &str, limits: Value) -> Self {
        let ns = TestCluster::shared().await.namespace(name).await;
        let registry = Registry::start().await;
        let repositories = tempfile::tempdir().unwrap();
        let metadata = json!({ "name": "login" });
        let login = Registry::login();
        ns.create(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": login })).await;
        let host = ns.host_with(options()).await;
        let mut spec = component("environment").await.spec();
        let mut engines = Vec::new();
        for name in ["helm", "kustomize"] {
            let mut engine_spec = engine(name).await.spec();
            engine_spec["name"] = json!(name);
            engine_spec["limits"] = limits.clone();
            engines.push(engine_spec);
        }
        spec["engines"] = json!(engines);
        spec["endpoints"] = json!([
            { "name": "git", "address": format!("file://{}", repositories.path().display()) },
            { "name": "registry", "address": format!("oci://{}", registry.authority), "plaintext": true,
              "credentials": { "namespace": ns.name, "name": "login" } },
        ]);
        spec["config"] = json!({
            "sources": [{ "url": "https://git.example/", "endpoint": "git" }],
            "registry": { "address": registry.authority, "plaintext": true },
            "builder": { "image": sample::BY_HAND },
            "ingress": { "host": "{namespace}.preview.example", "tls": { "clusterIssuer": "letsencrypt" } },
        });
        let record = ns.record("environment", spec).await;
        ns.wait_for(&record, condition("Ready", "True")).await;
        Self { host, ns, registry, repositories }
    }

    /// Makes a repository of these files, at the address `https://git.example/<name>`. Returns its commit.
    pub(super) fn repository(&self, name: &str, files: &[(&str, &str)]) -> String {
        commit(&self.repositories.path().join(name), files)
    }

    pub(super) async fn project(&self, name: &str, templates: Value) -> Value {
        let url = format!("https://git.example/{name}");
        let source = json!({ "name": "web", "repositoryUrl": url, "branch": "main" });
        let spec = json!({ "sources": [source], "templates": templates });
        self.ns.create(object("Project", json!({ "name": name }), spec)).await
    }

    /// Of the project `shop`, at a commit.
    pub(super) fn environment(&self, name: &str, kind: &str, commit: &str) -> Value {
        let labels = json!({ "catalyst.dev/team": self.ns.name, "catalyst.dev/project": "shop", "catalyst.dev/environment": name });
        let source = json!({ "name": "web", "commitSha": commit, "branch": "main" });
        let spec = json!({ "projectRef": { "name": "shop" }, "type": kind, "sources": [source] });
        object("Environment", json!({ "name": name, "labels": labels }), spec)
    }

    /// The namespace of the Environment of this name.
    pub(super) fn inside(&self, name: &str) -> Namespace {
        self.ns.other(&format!("{}-shop-{name}", self.ns.name))
    }

    pub(super) async fn end(&self, environment: &Value) {
        self.ns.delete(environment).await;
        self.ns.wait_gone(environment).await;
    }
}

fn object(kind: &str, metadata: Value, spec: Value) -> Value {
    json!({ "apiVersion": "catalyst.catalyst.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec })
}

/// Commits these files, in a new repository if there is none. Returns the commit.
fn commit(folder: &Path, files: &[(&str, &str)]) -> String {
    std::fs::create_dir_all(folder).unwrap();
    let git = |arguments: &[&str]| {
        let mut run = Command::new("git");
        run.args(["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "init.defaultBranch=main"]);
        run.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", folder).args(arguments).current_dir(folder);
        let done = run.output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "--quiet"]);
    for (path, text) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "state"]);
    git(&["rev-parse", "HEAD"])
}

const IMAGE: &str = "registry.example/shop:1";

pub(super) fn phase(object: &Value) -> &Value {
    &object["status"]["phase"]
}

fn env_of(container: &Value, name: &str) -> Value {
    let env = container["env"].as_array().into_iter().flatten();
    env.into_iter()
        .find(|variable| variable["name"] == name)
        .map(|variable| variable["value"].clone())
        .unwrap_or_default()
}

#[tokio::test]
async fn e1_e2_e3_e7_an_environment_has_a_guarded_namespace_that_goes_with_it() {
    let team = Team::new("env-life").await;
    team.project("shop", json!({})).await;
    let mut environment = team.environment("pr-1", "deployment", &"a".repeat(40));
    environment["spec"]["config"] = json!({
        "image": IMAGE, "ports": [{ "containerPort": 8080 }], "env": [{ "name": "LOG_LEVEL", "value": "debug" }],
        "resources": { "limits": { "cpu": 1, "memory": "256Mi" } },
    });
    let recording = team.ns.recording(&environment).await;
    let environment = team.ns.create(environment).await;
    let ready = team.ns.wait_for(&environment, condition("Ready", "True")).await;
    let inside = team.inside("pr-1");
    assert_eq!(phase(&ready), "Ready");
    // statuses are written when nothing is left to write, so a phase that is over in no time may never be seen
    const ORDER: [&str; 3] = ["Initializing", "Deploying", "Ready"];
    let phases = recording.changes_until(|object| object == Some(&ready), |object| phase(object).clone()).await;
    let seen: Vec<usize> =
        phases.iter().flatten().filter_map(|seen| ORDER.iter().position(|known| seen == known)).collect();
    assert!(seen.is_sorted() && seen.last() == Some(&2), "{phases:?}");
    assert_eq!(ready["status"]["namespace"], inside.name);
    assert_eq!(ready["status"]["url"], format!("https://{}.preview.example/", inside.name));
    for kind in ["NamespaceReady", "BuildReady", "DeploymentReady"] {
        assert_eq!(condition_of(&ready, kind)["status"], "True", "{kind}");
    }
    let namespace = inside.get(of::<KubeNamespace>(&inside.name)).await;
    let labels = &namespace["metadata"]["labels"];
    assert_eq!((&labels["catalyst.dev/team"], &labels["catalyst.dev/branch"]), (&json!(team.ns.name), &json!("main")));
    let quota = inside.get(of::<ResourceQuota>("default-quota")).await;
    assert_eq!(quota["spec"]["hard"]["limits.memory"], "8Gi");
    inside.get(of::<LimitRange>("default-limits")).await;
    let mut policies: Vec<String> = inside
        .list::<NetworkPolicy>()
        .await
        .iter()
        .map(|p| p["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    policies.sort();
    let five = ["allow-dns", "allow-https-egress", "allow-ingress-controller", "allow-intra-namespace", "default-deny"];
    assert_eq!(policies, five);
    let ingress = inside.get(of::<Ingress>("web")).await;
    assert_eq!(ingress["metadata"]["annotations"]["cert-manager.io/cluster-issuer"], "letsencrypt");
    assert_eq!(ingress["spec"]["tls"][0]["secretName"], "web-tls");

    // drift in another namespace is repaired, too
    inside.merge(of::<NetworkPolicy>("default-deny"), json!({ "spec": { "policyTypes": ["Ingress"] } })).await;
    inside
        .wait_until(of::<NetworkPolicy>("default-deny"), |policy| {
            policy["spec"]["policyTypes"].as_array().unwrap().len() == 2
        })
        .await;
    inside.delete(of::<Deployment>("web")).await;
    inside.wait_until(of::<Deployment>("web"), |web| web["metadata"]["deletionTimestamp"].is_null()).await;

    // and so is the namespace itself
    inside.delete(&namespace).await;
    inside.wait_replaced(&namespace).await;
    inside.wait_until(of::<Deployment>("web"), |web| web["metadata"]["deletionTimestamp"].is_null()).await;
    team.ns.wait_for(&environment, condition("Ready", "True")).await;

    team.end(&environment).await;
    inside.wait_gone(of::<KubeNamespace>(&inside.name)).await;
}

#[tokio::test]
async fn e2_no_environment_moves_in_with_another_or_with_a_stranger() {
    let team = Team::new("env-names").await;
    team.project("shop", json!({ "workspace": { "type": "manifest" } })).await;
    let workspace = |name: &str, project: &str, label: &str| {
        let mut environment = team.environment(name, "workspace", "HEAD");
        environment["metadata"]["labels"]["catalyst.dev/project"] = json!(project);
        environment["metadata"]["labels"]["catalyst.dev/environment"] = json!(label);
        environment
    };
    // one name by two ways of taking it apart
    let first = team.ns.create(workspace("first", "shop", "a-b")).await;
    let first = team.ns.wait_for(&first, condition("NamespaceReady", "True")).await;
    let second = team.ns.create(workspace("second", "shop-a", "b")).await;
    let second = team.ns.wait_for(&second, condition("NamespaceReady", "True")).await;
    let plain = format!("{}-shop-a-b", team.ns.name);
    assert_eq!(first["status"]["namespace"], plain);
    let other = second["status"]["namespace"].as_str().unwrap();
    assert!(other.starts_with(&format!("{plain}-")) && other.len() == plain.len() + 11, "{other}");

    let stranger = team.inside("taken");
    stranger.create(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": stranger.name } })).await;
    let third = team.ns.create(workspace("third", "shop", "taken")).await;
    let third = team.ns.wait_for(&third, condition("NamespaceReady", "False").because("NamespaceTaken")).await;
    let message = condition_of(&third, "Ready")["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains(&format!("namespace {} is there and not an Environment's: delete it", stranger.name)),
        "{message}"
    );
    assert_eq!(stranger.list::<ResourceQuota>().await, [json!(null); 0]);
    for environment in [&first, &second, &third] {
        team.end(environment).await;
    }
    let kept = stranger.get(of::<KubeNamespace>(&stranger.name)).await;
    assert_eq!(kept["metadata"]["deletionTimestamp"], Value::Null);
    stranger.delete(&kept).await;
}

/// The builder, as the pods of a namespace run it.
async fn kubelet(ns: &Namespace) -> Kubelet {
    let image = Image { name: sample::BY_HAND.into(), program: PathBuf::from(BUILDER), env: Vec::new(), serves: false };
    Kubelet::start(ns, vec![image]).await
}

#[tokio::test]
async fn e4_an_image_that_is_missing_is_built_pushed_and_deployed() {
    let team = Team::new("env-build").await;
    let commit = team.repository("shop", &[("Dockerfile", "FROM scratch")]);
    let template = |build: &str| {
        json!({ "type": "manifest", "builds": [{ "name": build, "sourceRef": "web" }],
            "config": { "image": build, "ports": [{ "containerPort": 8080 }] } })
    };
    team.project("shop", json!({ "deployment": template("app"), "staging": template("broken") })).await;
    let login = json!({ ".dockerconfigjson": team.registry.docker_login() });
    team.ns
        .create(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "registry-credentials" },
        "type": "kubernetes.io/dockerconfigjson", "stringData": login }))
        .await;
    let inside = team.inside("pr-1");
    let environment = team.ns.create(team.environment("pr-1", "deployment", &commit)).await;
    let building = team.ns.wait_for(&environment, condition("BuildReady", "False").because("Building")).await;
    assert_eq!(phase(&building), "Building");
    assert!(inside.find(of::<Deployment>("web")).await.is_none());
    let kubelet = kubelet(&inside).await;
    let ready = team.ns.wait_for(&environment, condition("Ready", "True")).await;
    let [run] = &kubelet.runs_of("build")[..] else { panic!("one build") };
    assert_eq!(run.exit_code, Some(0));
    let image = format!("{}/{}/shop/app:{commit}", team.registry.authority, team.ns.name);
    assert_eq!(ready["status"]["images"], json!({ "app": image }));
    let web = inside.get(of::<Deployment>("web")).await;
    assert_eq!(web["spec"]["template"]["spec"]["containers"][0]["image"], image);
    let account = inside.get(of::<k8s_openapi::api::core::v1::ServiceAccount>("default")).await;
    assert_eq!(account["imagePullSecrets"], json!([{ "name": "registry-credentials" }]));

    // Another Environment of the same commit finds it.
    let second = team.ns.create(team.environment("pr-2", "deployment", &commit)).await;
    team.ns.wait_for(&second, condition("BuildReady", "True").because("Built")).await;
    assert_eq!(team.inside("pr-2").list::<Job>().await, [json!(null); 0]);

    // What fails tells why.
    let third = team.ns.create(team.environment("pr-3", "staging", &commit)).await;
    let _failing = self::kubelet(&team.inside("pr-3")).await;
    let failed = team.ns.wait_for(&third, condition("BuildReady", "False").because("BuildFailed")).await;
    assert_eq!(phase(&failed), "Failed");
    let message = condition_of(&failed, "Ready")["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("container build ended with 1: error building image: failed to resolve Dockerfile"),
        "{message}"
    );
    for environment in [&environment, &second, &third] {
        team.end(environment).await;
    }
}

#[tokio::test]
async fn e5_development_starts_its_database_first_and_keeps_the_code_on_a_volume() {
    let team = Team::new("env-dev").await;
    team.project("shop", json!({})).await;
    let inside = team.inside("dev");
    // nobody makes volumes here
    for claim in ["workspace", "postgres-data-postgres-0"] {
        let metadata = json!({ "name": format!("{}-{claim}", inside.name) });
        let spec = json!({
            "capacity": { "storage": "5Gi" }, "accessModes": ["ReadWriteOnce"], "hostPath": { "path": "/nowhere" },
            "claimRef": { "namespace": inside.name, "name": claim },
        });
        team.ns
            .create(json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec }))
            .await;
    }
    let environment = team.ns.create(team.environment("dev", "development", "HEAD")).await;
    let ready = team.ns.wait_for(&environment, condition("Ready", "True")).await;
    assert_eq!(phase(&ready), "Ready");
    let set = inside.get(of::<StatefulSet>("postgres")).await;
    assert_eq!(set["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"], "512Mi");
    let web = inside.get(of::<Deployment>("web")).await;
    let pod = &web["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["resources"]["limits"]["memory"], "2Gi");
    let names: Vec<&str> =
        pod["initContainers"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(names, ["git-clone", "npm-install", "db-migrate"]);
    let started = |object: &Value| object["metadata"]["creationTimestamp"].as_str().unwrap().to_owned();
    let database = inside.list::<Pod>().await.into_iter().find(|pod| pod["metadata"]["name"] == "postgres-0").unwrap();
    assert!(started(&database) <= started(&web), "the web waits for its database");
    let claim = inside.get(of::<PersistentVolumeClaim>("workspace")).await;
    assert_eq!(claim["status"]["phase"], "Bound");
    let secret = inside.get(of::<Secret>("postgres")).await;
    // the same password whenever it is looked at
    let annotate = json!({ "metadata": { "annotations": { "touched": "1" } } });
    team.ns.merge(&environment, annotate).await;
    team.ns.wait_for(&environment, condition("Ready", "True")).await;
    assert_eq!(inside.get(of::<Secret>("postgres")).await["data"], secret["data"]);

    // the same Environment as a workspace
    team.ns.merge(&environment, json!({ "spec": { "deploymentMode": "workspace" } })).await;
    team.ns.wait_for(&environment, condition("Ready", "True")).await;
    inside.wait_until(of::<Pod>("workspace-shop-head"), |pod| pod["status"]["phase"] == "Running").await;
    inside.wait_gone(of::<Deployment>("web")).await;
    inside.wait_gone(of::<StatefulSet>("postgres")).await;
    team.end(&environment).await;
    for claim in ["workspace", "postgres-data-postgres-0"] {
        team.ns.delete(of::<PersistentVolume>(&format!("{}-{claim}", inside.name))).await;
    }
}

const MANIFESTS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      initContainers: [{name: prepare, image: registry.example/shop:1}]
      containers: [{name: web, image: registry.example/shop:1, env: [{name: LOG_LEVEL, value: info}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
";

const CHART_TEMPLATE: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}-{{ .Chart.Name }}, namespace: {{ .Release.Namespace }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: registry.example/shop:1}]}
";

const COMPOSE: &str = "
services:
  web:
    image: registry.example/shop:1
    ports: ['8080:3000']
    environment: {REGION: '${REGION:-eu}'}
    depends_on: [cache]
  cache:
    image: registry.example/cache:1
    volumes: ['./conf:/conf']
";

#[tokio::test]
async fn e6_every_type_of_template_is_deployed_from_its_repository() {
    let team = Team::new("env-types").await;
    let overlay = "resources: [../../base]\nnamePrefix: prod-\n";
    let first = team.repository(
        "shop",
        &[
            ("k8s/all.yaml", MANIFESTS),
            ("base/all.yaml", MANIFESTS),
            ("base/kustomization.yaml", "resources: [all.yaml]\n"),
            ("overlays/prod/kustomization.yaml", overlay),
            ("chart/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\n"),
            ("chart/values.yaml", "replicas: 1\n"),
            ("chart/templates/web.yaml", CHART_TEMPLATE),
            ("deploy/docker-compose.yml", COMPOSE),
            ("broken/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\n"),
            ("broken/templates/web.yaml", "{{ fail \"no luck\" }}"),
        ],
    );
    team.project(
        "shop",
        json!({
            "manifest": { "type": "manifest", "path": "k8s" },
            "kustomize": { "type": "kustomize", "path": "overlays/prod" },
            "helm": { "type": "helm", "path": "chart", "values": { "replicas": 2 } },
            "compose": { "type": "docker-compose", "path": "deploy" },
            "broken": { "type": "helm", "path": "broken" },
        }),
    )
    .await;
    let mut environments = Vec::new();
    for kind in ["manifest", "kustomize", "helm", "compose", "broken"] {
        let mut environment = team.environment(kind, kind, &first);
        environment["spec"]["config"] = json!({ "env": [{ "name": "LOG_LEVEL", "value": "debug" }] });
        environments.push(team.ns.create(environment).await);
    }
    for (environment, name) in environments.iter().zip(["web", "prod-web", "helm-web", "web"]) {
        let ready = team.ns.wait_for(environment, condition("Ready", "True")).await;
        let inside = team.inside(environment["metadata"]["name"].as_str().unwrap());
        let web = inside.get(of::<Deployment>(name)).await;
        let container = &web["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(env_of(container, "LOG_LEVEL"), "debug", "{}", inside.name);
        let has_service = inside.list::<Service>().await.iter().any(|service| service["spec"]["ports"].is_array());
        let url = format!("https://{}.preview.example/", inside.name);
        assert_eq!(ready["status"]["url"].as_str(), has_service.then_some(&*url), "{}", inside.name);
    }
    let prepare = team.inside("manifest").get(of::<Deployment>("web")).await;
    assert_eq!(env_of(&prepare["spec"]["template"]["spec"]["initContainers"][0], "LOG_LEVEL"), "debug");
    assert_eq!(team.inside("helm").get(of::<Deployment>("helm-web")).await["spec"]["replicas"], 2);
    let composed = team.inside("compose").get(of::<Deployment>("web")).await;
    assert_eq!(env_of(&composed["spec"]["template"]["spec"]["containers"][0], "REGION"), "eu");
    let compose = team.ns.get(&environments[3]).await;
    let supported = condition_of(&compose, "TemplateSupported");
    assert_eq!(
        supported["message"],
        "not deployed: services.cache.volumes (./conf:/conf: there is no such folder in a cluster)"
    );
    let broken = team.ns.wait_for(&environments[4], condition("DeploymentReady", "False").because("ChartFailed")).await;
    let message = condition_of(&broken, "Ready")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("no luck") && message.contains("web/templates/web.yaml"), "{message}");

    // Another commit is rolled out, and what it no longer has goes.
    let second =
        team.repository("shop", &[("k8s/all.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: only}}")]);
    team.ns
        .merge(
            &environments[0],
            json!({ "spec": { "sources": [{ "name": "web", "commitSha": second, "branch": "main" }] } }),
        )
        .await;
    team.ns.wait_for(&environments[0], condition("Ready", "True")).await;
    let inside = team.inside("manifest");
    inside.get(of::<ConfigMap>("only")).await;
    inside.wait_gone(of::<Deployment>("web")).await;
    // A commit that nobody has is told, and what runs stays.
    team.ns
        .merge(
            &environments[0],
            json!({ "spec": { "sources": [{ "name": "web", "commitSha": "f".repeat(40), "branch": "main" }] } }),
        )
        .await;
    let lost = team.ns.wait_for(&environments[0], condition("Ready", "False")).await;
    let message = condition_of(&lost, "Ready")["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("spec.sources[web]: "), "{message}");
    inside.get(of::<ConfigMap>("only")).await;
    for environment in &environments {
        team.end(environment).await;
    }
}

#[tokio::test]
async fn e1_wrong_objects_are_refused_or_told_and_samples_are_taken() {
    let team = Team::new("env-wrong").await;
    let mut bad = team.environment("bad", "development", "HEAD");
    bad["spec"]["deploymentMode"] = json!("hot");
    let refused = team.ns.dry_create(bad).await.unwrap_err().message;
    assert!(refused.contains("spec.deploymentMode"), "{refused}");
    let environment = team.ns.create(team.environment("pr-1", "preview", "HEAD")).await;
    let told = team.ns.wait_for(&environment, condition("Ready", "False").because("ProjectMissing")).await;
    assert_eq!(phase(&told), "Pending");
    // what it waits for is watched
    let project = team.project("shop", json!({ "deployment": { "type": "terraform" } })).await;
    team.ns.wait_for(&project, condition("Ready", "False").because("Invalid")).await;
    let told = team.ns.wait_for(&environment, condition("Ready", "False").because("TemplateMissing")).await;
    let message = condition_of(&told, "Ready")["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with("spec.type: \"preview\" is no template of Project shop, which has deployment"),
        "{message}"
    );
    team.end(&environment).await;
    team.end(&project).await;
    let samples = include_str!("../../../docs/samples/environments.yaml");
    let samples: Vec<Value> = serde_saphyr::from_multiple(samples).unwrap();
    assert!(samples.len() >= 4);
    for sample in samples {
        let created = team.ns.dry_create(sample.clone()).await.unwrap_or_else(|error| panic!("{error:?}: {sample:#}"));
        assert!(super::samples::keeps(&sample["spec"], &created["spec"]), "{sample:#} became {created:#}");
    }
}
