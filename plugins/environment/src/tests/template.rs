use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use transom_engines::{helm, kustomize};
use transom_sdk::File;
use transom_sdk::testing::Disposition;

use super::*;

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, creationTimestamp: null}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      initContainers: [{name: migrate, image: 'web:old', env: [{name: LOG_LEVEL, value: info}]}]
      containers: [{name: web, image: web}, {name: proxy, image: registry.example/web:1}]
status: {}
---
# nothing
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: front}, spec: {ports: [{port: 8000}]}}
";

fn file(path: &str, content: &str) -> File {
    File { path: path.into(), content: content.as_bytes().to_vec() }
}

fn environment() -> Environment {
    let mut environment = super::environment("deployment");
    environment.spec.config.env = serde_json::from_value(json!([{ "name": "LOG_LEVEL", "value": "debug" }])).unwrap();
    environment
}

fn reference(folder: &str) -> String {
    format!("shop@{COMMIT}:{folder}")
}

/// With manifests in `k8s`.
fn manifests(text: &str) -> Case<EnvironmentPlugin> {
    let project = with_template(project(), "deployment", json!({ "type": "manifest", "path": "k8s" }));
    let globs = ["*.yaml", "*.yml", "*.json"];
    placed(&environment(), &project).artifact("git", &reference("k8s"), &globs, vec![file("all.yaml", text)])
}

#[test]
fn e6_manifests_get_namespace_variables_and_images() {
    let builds = json!([{ "name": "web", "sourceRef": "web" }]);
    let project =
        with_template(project(), "deployment", json!({ "type": "manifest", "path": "k8s", "builds": builds }));
    let image = format!("registry.example:5000/acme/shop/web:{COMMIT}");
    let globs = ["*.yaml", "*.yml", "*.json"];
    let case =
        placed(&environment(), &project).artifact("git", &reference("k8s"), &globs, vec![file("all.yaml", DEPLOYMENT)]);
    let plan = case.image(&image, "sha256:1").plan();
    let of = |kind: &str| plan.children.iter().filter(|child| child.object["kind"] == kind).collect::<Vec<_>>();
    insta::assert_yaml_snapshot!([of("Deployment"), of("Service")].concat());
    let ingress: Ingress = plan.child("web").unwrap();
    let ingress = serde_json::to_value(ingress).unwrap();
    let service = &ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
    assert_eq!(*service, json!({ "name": "front", "port": { "number": 8000 } }));
}

#[test]
fn e6_an_environment_keeps_to_its_namespace() {
    let told = |text: &str| {
        let plan = manifests(text).plan();
        let condition = plan.condition("DeploymentReady").unwrap();
        (condition.1.to_owned(), message(&plan, "DeploymentReady").to_owned())
    };
    let (reason, message) =
        told("{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: all}}");
    assert_eq!(reason, "ClusterScoped");
    assert!(message.contains("makes ClusterRole all") && message.contains("allowClusterScoped"), "{message}");
    let (reason, message) = told("{apiVersion: v1, kind: Secret, metadata: {name: a, namespace: kube-system}}");
    assert_eq!(reason, "ForeignNamespace");
    assert!(message.ends_with("remove metadata.namespace"), "{message}");
    assert_eq!(
        told("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: default-deny}}").0,
        "DuplicateObject"
    );
    assert_eq!(told("{apiVersion: v1, kind: Secret, metadata: {name: a}}\n---\n{apiVersion: v1, kind: Secret, metadata: {name: a}}").0, "DuplicateObject");
    assert_eq!(told("{kind: Secret, metadata: {name: a}}").0, "InvalidManifest");
    assert_eq!(told("a: [").0, "InvalidManifest");
    assert_eq!(told("# nothing").0, "NothingRendered");
}

#[test]
fn e6_a_template_with_an_ingress_of_its_own_gets_no_other() {
    let own = "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web}}";
    let plan = manifests(&format!(
        "{own}\n---\n{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{ports: [{{port: 80}}]}}}}"
    ))
    .plan();
    assert_eq!(plan.names::<Ingress>(), ["web"]);
    assert_eq!(plan.status.as_ref().unwrap()["url"], json!(null), "it names no host");
}

#[test]
fn e6_what_is_not_in_the_repository_is_told() {
    let project = with_template(project(), "deployment", json!({ "type": "helm", "path": "chart" }));
    let plan = placed(&environment(), &project).plan();
    assert_eq!((phase(&plan), plan.condition("DeploymentReady")), ("Failed", Some(("False", "SourceNotFound"))));
    assert!(message(&plan, "Ready").contains("commitSha must be a whole commit"), "{}", message(&plan, "Ready"));
    let plan = placed(&environment(), &project)
        .artifact("git", &reference("chart"), &["content-handle:**"], vec![file("a.yaml", "")])
        .plan();
    assert_eq!(plan.condition("DeploymentReady"), Some(("False", "TemplateNotFound")));
    let mut other = project.clone();
    other.spec.sources[0].repository_url = "https://elsewhere.example/x".into();
    let plan = placed(&environment(), &other).plan();
    assert_eq!(plan.condition("DeploymentReady"), Some(("False", "SourceNotGranted")));
}

/// What the plugin asks the engine for the chart in `chart`.
fn helm_request(values: serde_json::Value) -> Vec<u8> {
    let seed: String = b"helm".iter().copied().chain(0..).take(32).map(|byte| format!("{byte:02x}")).collect();
    helm::Request {
        chart: helm::Chart::Files(vec![("Chart.yaml".into(), b"name: shop".to_vec())]),
        values: vec![values.to_string().into_bytes()],
        release: helm::Release {
            name: "pr-7".into(),
            namespace: "acme-shop-pr-7".into(),
            revision: 1,
            is_upgrade: false,
        },
        seed,
        objects: true,
        ..helm::Request::default()
    }
    .encode()
    .unwrap()
}

pub(super) fn charted(reply: &serde_json::Value) -> Case<EnvironmentPlugin> {
    let template = json!({ "type": "helm", "path": "chart", "values": { "replicas": 2, "global": { "region": "eu" } },
        "builds": [{ "name": "web", "sourceRef": "web" }] });
    let project = with_template(project(), "deployment", template);
    let images = json!({ "web": { "repository": "registry.example:5000/acme/shop/web", "tag": COMMIT } });
    let values = json!({ "global": { "images": images, "region": "eu" }, "replicas": 2 });
    placed(&environment(), &project)
        .artifact("git", &reference("chart"), &["content-handle:**"], vec![file("Chart.yaml", "name: shop")])
        .image(&format!("registry.example:5000/acme/shop/web:{COMMIT}"), "sha256:1")
        .engine("helm", &helm_request(values), reply.to_string().into_bytes())
}

#[test]
fn e6_charts_get_images_as_values_and_hooks_run_in_order() {
    let object = |kind: &str, api_version: &str, name: &str| json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": name } });
    let workload = |kind: &str, api_version: &str, name: &str| {
        let mut object = object(kind, api_version, name);
        object["spec"]["template"]["spec"]["containers"] = json!([{ "name": "c", "image": "registry.example/x:1" }]);
        object
    };
    let manifest = |object: &serde_json::Value| json!({ "kind": object["kind"], "name": object["metadata"]["name"], "objects": [object] });
    let hook = |name: &str, event: &str| {
        let mut hook = manifest(&workload("Job", "batch/v1", name));
        hook["events"] = json!([event]);
        hook
    };
    let reply = json!({
        "manifests": [manifest(&object("Service", "v1", "web")), manifest(&workload("Deployment", "apps/v1", "web"))],
        "hooks": [hook("migrate", "pre-upgrade"), hook("seed", "post-install"), hook("check", "test"), hook("bye", "pre-delete")],
    });
    let case = charted(&reply);
    let plan = case.plan();
    assert_eq!(plan.disposition::<Job>("migrate"), Some(Disposition::Apply));
    assert_eq!(plan.disposition::<Deployment>("web"), Some(Disposition::Hold));
    assert_eq!(plan.condition("TemplateSupported"), Some(("False", "UnsupportedKeys")));
    assert_eq!(message(&plan, "TemplateSupported"), "not deployed: hook Job bye (pre-delete)");
    let case = case.observe(&plan).ready::<Job>("migrate").reconciled();
    let plan = case.plan();
    assert_eq!(plan.disposition::<Deployment>("web"), Some(Disposition::Apply));
    assert_eq!(plan.disposition::<Job>("seed"), Some(Disposition::Hold));
    let deployment = plan.children.iter().find(|child| child.object["kind"] == "Deployment").unwrap();
    let container = &deployment.object["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["env"], json!([{ "name": "LOG_LEVEL", "value": "debug" }]));
}

#[test]
fn a_variable_that_stands_twice_is_applied_once_with_the_last_value() {
    let twice = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {template: {spec: {containers: [\
                 {name: web, image: w, env: [{name: PREFIX, value: /}, {name: PREFIX, value: /chosen}]}]}}}}";
    let plan = manifests(twice).plan();
    let web: Deployment = plan.child("web").unwrap();
    let env = web.spec.unwrap().template.spec.unwrap().containers[0].env.clone().unwrap();
    let prefix: Vec<_> = env.iter().filter(|v| v.name == "PREFIX").map(|v| v.value.as_deref()).collect();
    assert_eq!(prefix, [Some("/chosen")]);
}

#[test]
fn a_deployment_that_an_autoscaler_has_made_larger_is_ready() {
    let scaled = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 1}}\n---\n\
                  {apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: web}, spec: {}}\n";
    let status = |updated: i32| {
        json!({ "observedGeneration": 2, "replicas": 3, "updatedReplicas": updated, "readyReplicas": 3,
            "availableReplicas": 3 })
    };
    let case = manifests(scaled).reconciled().status::<Deployment>("web", status(3));
    let plan = case.plan();
    assert_eq!((phase(&plan), plan.condition("Ready")), ("Ready", Some(("True", "Ready"))));
    let plan = case.status::<Deployment>("web", status(1)).plan();
    assert_eq!(plan.condition("DeploymentReady"), Some(("False", "Updating")), "it rolls out at three");
}

#[test]
fn lookups_of_all_templates_are_asked_together() {
    let reply = json!({ "manifests": [] });
    charted(&reply).asks_together();
    manifests(DEPLOYMENT).asks_together();
    let fresh = Case::<EnvironmentPlugin>::new(&environment()).config(&config()).object(&project());
    fresh.asks_together();
}

#[test]
fn e6_a_chart_that_does_not_render_says_where() {
    let error =
        json!({ "reason": "TemplateFailed", "message": "nil pointer", "template": "shop/templates/a.yaml", "line": 3 });
    let plan = charted(&json!({ "error": error })).plan();
    assert_eq!((phase(&plan), plan.condition("DeploymentReady")), ("Failed", Some(("False", "ChartFailed"))));
    let told = "Project shop: spec.templates.deployment: the chart does not render: TemplateFailed: nil pointer \
                (shop/templates/a.yaml:3)";
    assert_eq!(message(&plan, "DeploymentReady"), told);
}

#[test]
fn e6_a_kustomization_is_built_and_its_own_ingress_is_the_address() {
    let project = with_template(project(), "deployment", json!({ "type": "kustomize", "path": "overlays/prod" }));
    let files = vec![("base/a.yaml".to_owned(), b"x".to_vec())];
    let request =
        kustomize::Request { files, path: "overlays/prod".into(), objects: true, ..kustomize::Request::default() };
    let ingress = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": "mine" },
        "spec": { "rules": [{ "host": "shop.example" }], "tls": [{ "hosts": ["shop.example"] }] } });
    let set = json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "db" }, "spec": {} });
    let globs = [
        "**/*.yaml",
        "**/*.yml",
        "**/*.json",
        "**/*.env",
        "**/*.properties",
        "**/*.conf",
        "**/*.toml",
        "**/*.txt",
        "**/kustomization",
        "**/Kustomization",
    ]
    .map(|glob| format!("content-handle:{glob}"));
    let by_handle = globs.each_ref().map(String::as_str);
    let case = |reply: serde_json::Value| {
        placed(&environment(), &project)
            .artifact("git", &format!("shop@{COMMIT}"), &by_handle, vec![file("base/a.yaml", "x")])
            .engine("kustomize", &request.encode().unwrap(), reply.to_string().into_bytes())
    };
    let case_of = case(json!({ "objects": [set, ingress] })).reconciled();
    let plan = case_of.plan();
    assert_eq!(
        (plan.names::<StatefulSet>(), plan.names::<Ingress>()),
        (vec!["db".to_owned()], vec!["mine".to_owned()])
    );
    assert_eq!(plan.status.as_ref().unwrap()["url"], "https://shop.example/");
    let plan = case(json!({ "error": { "reason": "RemoteSource", "message": "https://x" } })).plan();
    assert_eq!(plan.condition("DeploymentReady"), Some(("False", "KustomizationFailed")));
}

#[test]
fn e6_files_that_a_compose_file_names_are_fetched_too() {
    let compose = "
services:
  web: {extends: {service: base, file: common.yaml}, configs: [site], secrets: [key]}
configs: {site: {file: ./nginx/site.conf}}
secrets: {key: {file: '../key.pem'}}
";
    let project =
        with_template(project(), "deployment", json!({ "type": "docker-compose", "path": "deploy/app.yaml" }));
    let case = |compose: &str| {
        let first = ["app.yaml", "**/*.env", "**/.env", "**/.env.*"];
        let files = [
            file("common.yaml", "services: {base: {image: nginx, ports: ['80']}}"),
            file("nginx/site.conf", "server {}"),
        ];
        placed(&environment(), &project)
            .artifact("git", &reference("deploy"), &first, vec![file("app.yaml", compose)])
            .artifact("git", &reference("deploy"), &["common.yaml", "nginx/site.conf"], files.to_vec())
    };
    // what is above the folder is not asked for
    assert_eq!(
        message(&case(compose).plan(), "DeploymentReady"),
        "Project shop: spec.templates.deployment: app.yaml: secrets.key.file: there is no file ../key.pem below the \
         compose file's folder"
    );
    let plan = case(&compose.replace("'../key.pem'", "./nginx/site.conf")).plan();
    assert_eq!(plan.names::<Deployment>(), ["web"]);
    let config: ConfigMap = plan.child("config-site").unwrap();
    assert_eq!(config.data.unwrap()["content"], "server {}");
    assert!(plan.child::<Secret>("secret-key").is_some());
    let web: Deployment = plan.child("web").unwrap();
    assert_eq!(web.spec.unwrap().template.spec.unwrap().containers[0].image.as_deref(), Some("nginx"));
}

#[test]
fn e6_a_compose_file_is_built_converted_and_ordered() {
    let compose = "
services:
  web:
    build: ./web
    ports: ['8080:3000']
    depends_on: {db: {condition: service_healthy}, setup: {condition: service_completed_successfully}}
    volumes: ['./src:/src']
  setup: {image: 'setup:${TAG:-1}'}
  db:
    image: postgres:16
    volumes: ['data:/var/lib/postgresql/data']
volumes: {data: }
";
    let project = with_template(project(), "deployment", json!({ "type": "docker-compose", "path": "deploy" }));
    let globs = [
        "docker-compose.yml",
        "docker-compose.yaml",
        "compose.yaml",
        "compose.yml",
        "**/*.env",
        "**/.env",
        "**/.env.*",
    ];
    let case = placed(&environment(), &project).artifact(
        "git",
        &reference("deploy"),
        &globs,
        vec![file("compose.yaml", compose), file(".env", "TAG=7")],
    );
    let plan = case.plan();
    assert_eq!(phase(&plan), "Building");
    let hash = transom_sdk::names::hash(&("deploy/web", "")).unwrap();
    let image = format!("registry.example:5000/acme/shop/web:{COMMIT}-{hash}");
    assert!(message(&plan, "BuildReady").contains(&image), "{}", message(&plan, "BuildReady"));
    let case = case.image(&image, "sha256:1");
    let plan = case.plan();
    assert_eq!(plan.disposition::<Deployment>("web"), Some(Disposition::Hold));
    let setup: Job = plan.child("setup").unwrap();
    assert_eq!(setup.spec.unwrap().template.spec.unwrap().containers[0].image.as_deref(), Some("setup:7"));
    assert_eq!(plan.names::<Service>(), ["db", "web"]);
    assert_eq!(
        message(&plan, "TemplateSupported"),
        "not deployed: services.web.volumes (./src:/src: there is no such folder in a cluster)"
    );
    let case = case.observe(&plan).ready::<Job>("setup").ready::<Deployment>("db").reconciled();
    let plan = case.plan();
    assert_eq!(plan.disposition::<Deployment>("web"), Some(Disposition::Apply));
    let case = case.ready::<Deployment>("web");
    let plan = case.plan();
    assert_eq!(plan.condition("Ready"), Some(("True", "Ready")));
    let ingress: Ingress = plan.child("web").unwrap();
    let ingress = serde_json::to_value(ingress).unwrap();
    let service = &ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
    assert_eq!(*service, json!({ "name": "web", "port": { "number": 3000 } }));
}
