use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{Container, PodSpec, Probe, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use transom_sdk::objects::{self, Labels, labels};

use crate::database;
use crate::spec::{Domain, Strategy};

/// Port of the gRPC server in the container, and of the Service.
pub(crate) const GRPC_PORT: i32 = 50051;

/// What the platform sets beside the database's variables.
pub(crate) const LOG_LEVEL_VARIABLE: &str = "LOG_LEVEL";

/// The gRPC server.
pub(crate) fn deployment(domain: &Domain) -> Deployment {
    let spec = &domain.spec;
    let pod = PodSpec {
        containers: vec![container(domain)],
        service_account_name: spec.security.service_account_name.clone(),
        ..Default::default()
    };
    let template = objects::template(&all_labels(domain), pod);
    let deployment = DeploymentSpec {
        strategy: Some(strategy(spec.rollout.strategy)),
        ..objects::deployment_spec(spec.replicas, &selector(domain), template)
    };
    objects::deployment(metadata(domain), deployment)
}

/// The address of the gRPC server inside the cluster.
pub(crate) fn service(domain: &Domain) -> Service {
    let mut metadata = metadata(domain);
    if cfg!(feature = "next") {
        metadata.annotations = Some(labels([("ameide.io/plugin", "next")]));
    }
    objects::service(metadata, &selector(domain), vec![objects::service_port("grpc", GRPC_PORT)])
}

fn container(domain: &Domain) -> Container {
    let spec = &domain.spec;
    let resources = &spec.resources;
    let mut environment = database::environment(&spec.db);
    environment.push(objects::env(LOG_LEVEL_VARIABLE, spec.observability.log_level.to_string()));
    environment.extend(spec.env.iter().cloned());
    Container {
        image_pull_policy: Some(spec.image_pull_policy.to_string()),
        ports: Some(vec![objects::container_port("grpc", GRPC_PORT)]),
        env: Some(environment),
        resources: Some(objects::resources(
            [("cpu", &resources.cpu), ("memory", &resources.memory)],
            [("memory", &resources.memory)],
        )),
        startup_probe: Some(Probe {
            // a minute for the first start, before liveness counts
            failure_threshold: Some(30),
            period_seconds: Some(2),
            ..objects::grpc_probe(GRPC_PORT)
        }),
        readiness_probe: Some(objects::grpc_probe(GRPC_PORT)),
        liveness_probe: Some(objects::grpc_probe(GRPC_PORT)),
        ..objects::container("domain", &spec.image)
    }
}

/// The parameters of a rolling update are written down, so that they go with it: the API server refuses them beside
/// `Recreate`, and would keep those that it had filled in itself.
fn strategy(strategy: Strategy) -> DeploymentStrategy {
    let rolling_update = match strategy {
        Strategy::Recreate => None,
        Strategy::RollingUpdate => Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::String("25%".into())),
            max_unavailable: Some(IntOrString::Int(0)), // never fewer than asked for
        }),
    };
    DeploymentStrategy { type_: Some(strategy.to_string()), rolling_update }
}

fn metadata(domain: &Domain) -> ObjectMeta {
    objects::metadata(domain.name(), &all_labels(domain))
}

/// A selector can never be changed: only what never changes.
fn selector(domain: &Domain) -> Labels {
    labels([("app.kubernetes.io/instance", domain.name()), ("app.kubernetes.io/name", "domain")])
}

fn all_labels(domain: &Domain) -> Labels {
    let mut labels = selector(domain);
    labels.extend(domain.spec.version.clone().map(|version| ("app.kubernetes.io/version".into(), version)));
    labels
}
