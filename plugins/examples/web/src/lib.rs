//! A `Web` becomes a Deployment, a Service, a NetworkPolicy and a ConfigMap.
//!
//! The smallest plugin that is of use, and the one that `cargo xtask bench fleet` runs by the hundred.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ContainerPort, EnvVar, HTTPGetAction, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
    Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use transom_sdk::prelude::*;

/// A web application without state.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone)]
#[kube(
    group = "bench.dev",
    version = "v1",
    kind = "Web",
    namespaced,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct WebSpec {
    /// Container image; it answers `GET /healthz` on port 8080.
    pub image: String,
    /// How many pods run.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
}

fn one() -> i32 {
    1
}

const PORT: i32 = 8080;

/// Serves `Web`.
pub struct WebPlugin;
transom_sdk::export!(WebPlugin);

impl Plugin for WebPlugin {
    fn manifest() -> Manifest<Self> {
        Manifest::new("web", env!("CARGO_PKG_VERSION"))
            .primary::<Web>()
            .child::<ConfigMap>(Delivery::Metadata)
            .child::<Deployment>(Delivery::Status)
            .child::<NetworkPolicy>(Delivery::Metadata)
            .child::<Service>(Delivery::Metadata)
    }
}

impl Reconcile<Web> for WebPlugin {
    fn reconcile(web: &Web, cx: &Context) -> Result<Plan, Failure> {
        let mut plan = cx.plan();
        plan.apply(config(web));
        plan.apply(service(web));
        plan.apply(network_policy(web));
        let deployment = plan.apply(deployment(web));
        plan.condition(Condition::from_health("Ready", &plan.health(&deployment)));
        Ok(plan)
    }
}

fn name(web: &Web) -> &str {
    web.metadata.name.as_deref().unwrap_or_default()
}

fn metadata(web: &Web) -> ObjectMeta {
    ObjectMeta { name: Some(name(web).into()), labels: Some(labels(web)), ..Default::default() }
}

fn labels(web: &Web) -> BTreeMap<String, String> {
    BTreeMap::from([("app.kubernetes.io/name".into(), name(web).into())])
}

fn selector(web: &Web) -> LabelSelector {
    LabelSelector { match_labels: Some(labels(web)), ..Default::default() }
}

fn config(web: &Web) -> ConfigMap {
    let data = BTreeMap::from([("motd".into(), format!("this is {}", name(web)))]);
    ConfigMap { metadata: metadata(web), data: Some(data), ..Default::default() }
}

fn service(web: &Web) -> Service {
    let port = ServicePort {
        name: Some("http".into()),
        port: 80,
        target_port: Some(IntOrString::String("http".into())),
        ..Default::default()
    };
    let spec = ServiceSpec { selector: Some(labels(web)), ports: Some(vec![port]), ..Default::default() };
    Service { metadata: metadata(web), spec: Some(spec), ..Default::default() }
}

/// Everybody may talk to the port, nobody to anything else.
fn network_policy(web: &Web) -> NetworkPolicy {
    let port = NetworkPolicyPort { port: Some(IntOrString::Int(PORT)), ..Default::default() };
    let rule = NetworkPolicyIngressRule { ports: Some(vec![port]), ..Default::default() };
    let spec = NetworkPolicySpec {
        pod_selector: Some(selector(web)),
        policy_types: Some(vec!["Ingress".into()]),
        ingress: Some(vec![rule]),
        ..Default::default()
    };
    NetworkPolicy { metadata: metadata(web), spec: Some(spec) }
}

fn deployment(web: &Web) -> Deployment {
    let pod = PodSpec { containers: vec![container(web)], ..Default::default() };
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels(web)), ..Default::default() }),
        spec: Some(pod),
    };
    let spec =
        DeploymentSpec { replicas: Some(web.spec.replicas), selector: selector(web), template, ..Default::default() };
    Deployment { metadata: metadata(web), spec: Some(spec), ..Default::default() }
}

fn container(web: &Web) -> Container {
    let env = |name: &str, value: &str| EnvVar { name: name.into(), value: Some(value.into()), ..Default::default() };
    let probe = |path: &str| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("http".into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let resources = ResourceRequirements {
        requests: Some(BTreeMap::from([
            ("cpu".into(), Quantity("50m".into())),
            ("memory".into(), Quantity("64Mi".into())),
        ])),
        limits: Some(BTreeMap::from([("memory".into(), Quantity("128Mi".into()))])),
        ..Default::default()
    };
    Container {
        name: "web".into(),
        image: Some(web.spec.image.clone()),
        ports: Some(vec![ContainerPort { name: Some("http".into()), container_port: PORT, ..Default::default() }]),
        env: Some(vec![
            env("APP_NAME", name(web)),
            env("APP_NAMESPACE", web.metadata.namespace.as_deref().unwrap_or_default()),
            env("LOG_FORMAT", "json"),
            env("LOG_LEVEL", "info"),
            env("PORT", "8080"),
        ]),
        resources: Some(resources),
        liveness_probe: Some(probe("/healthz")),
        readiness_probe: Some(probe("/healthz")),
        ..Default::default()
    }
}
