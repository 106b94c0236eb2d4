//! A `Web` becomes a Deployment, a Service, a NetworkPolicy and a ConfigMap.
//!
//! The smallest plugin that is of use, and the one that `cargo xtask bench fleet` runs by the hundred.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Service};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use transom_sdk::objects::{self, Labels, labels};
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
    #[schemars(length(min = 1))]
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

fn app(web: &Web) -> Labels {
    labels([("app.kubernetes.io/name", name(web))])
}

fn metadata(web: &Web) -> ObjectMeta {
    objects::metadata(name(web), &app(web))
}

fn config(web: &Web) -> ConfigMap {
    objects::config_map(metadata(web), [("motd", format!("this is {}", name(web)))])
}

fn service(web: &Web) -> Service {
    objects::service(metadata(web), &app(web), vec![objects::service_port("http", PORT)])
}

/// Everybody may talk to the port, nobody to anything else.
fn network_policy(web: &Web) -> NetworkPolicy {
    let port = NetworkPolicyPort { port: Some(IntOrString::Int(PORT)), ..Default::default() };
    let rule = NetworkPolicyIngressRule { ports: Some(vec![port]), ..Default::default() };
    let spec = NetworkPolicySpec {
        pod_selector: Some(objects::selector(&app(web))),
        policy_types: Some(vec!["Ingress".into()]),
        ingress: Some(vec![rule]),
        ..Default::default()
    };
    NetworkPolicy { metadata: metadata(web), spec: Some(spec) }
}

fn deployment(web: &Web) -> Deployment {
    let pod = PodSpec { containers: vec![container(web)], ..Default::default() };
    let template = objects::template(&app(web), pod);
    objects::deployment(metadata(web), objects::deployment_spec(web.spec.replicas, &app(web), template))
}

fn container(web: &Web) -> Container {
    Container {
        ports: Some(vec![objects::container_port("http", PORT)]),
        env: Some(vec![
            objects::env("APP_NAME", name(web)),
            objects::env("APP_NAMESPACE", web.metadata.namespace.as_deref().unwrap_or_default()),
            objects::env("LOG_FORMAT", "json"),
            objects::env("LOG_LEVEL", "info"),
            objects::env("PORT", PORT.to_string()),
        ]),
        resources: Some(objects::resources([("cpu", "50m"), ("memory", "64Mi")], [("memory", "128Mi")])),
        liveness_probe: Some(objects::http_probe("/healthz", PORT)),
        readiness_probe: Some(objects::http_probe("/healthz", PORT)),
        ..objects::container("web", &web.spec.image)
    }
}

#[cfg(test)]
mod tests {
    use transom_sdk::testing::Case;

    use super::*;

    #[test]
    fn a_web_is_ready_when_its_deployment_is_available() {
        let web = Web::new("shop", WebSpec { image: "registry.example/shop:1".into(), replicas: 2 });
        let case = Case::<WebPlugin>::new(&web);
        let first = case.plan();
        insta::assert_yaml_snapshot!(first);
        let next = case.observe(&first).ready::<Deployment>("shop").plan();
        assert_eq!(next.condition("Ready"), Some(("True", "Available")));
        assert_eq!(next.children, first.children, "nothing left to write");
    }
}
