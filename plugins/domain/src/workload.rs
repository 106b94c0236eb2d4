use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus,
    MetricSpec, MetricTarget, ResourceMetricSource,
};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile,
    SecurityContext, Service,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use transom_sdk::objects::{self, Labels, labels};
use transom_sdk::prelude::*;

use crate::spec::{Domain, Strategy};
use crate::{Config, database};

/// Port of the gRPC server in the container, and of the Service.
pub(crate) const GRPC_PORT: i32 = 50051;

/// Port of `/metrics`.
pub(crate) const METRICS_PORT: i32 = 9090;

/// What the platform sets beside the database's variables.
pub(crate) const LOG_LEVEL_VARIABLE: &str = "LOG_LEVEL";

/// Tells the Deployment that serves from a canary beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Track {
    Stable,
    Canary,
}

impl Track {
    const LABEL: &'static str = "ameide.io/track";

    fn word(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Canary => "canary",
        }
    }
}

/// The gRPC server. `replicas` none: somebody else says how many.
pub(crate) fn deployment(
    domain: &Domain,
    config: &Config,
    track: Track,
    metadata: ObjectMeta,
    replicas: Option<i32>,
) -> Deployment {
    let mut selector = selector(domain);
    selector.insert(Track::LABEL.into(), track.word().into());
    let mut template = template(domain, config);
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(Track::LABEL.into(), track.word().into());
    let spec = DeploymentSpec {
        replicas,
        strategy: Some(strategy(domain.spec.rollout.strategy)),
        ..objects::deployment_spec(0, &selector, template)
    };
    objects::deployment(metadata, spec)
}

/// What pods of this version look like, whichever track they are on.
pub(crate) fn template(domain: &Domain, config: &Config) -> PodTemplateSpec {
    let pod = PodSpec {
        containers: vec![container(domain, config)],
        security_context: Some(pod_security()),
        service_account_name: domain.spec.security.service_account_name.clone(),
        ..Default::default()
    };
    objects::template(&all_labels(domain), pod)
}

/// A Deployment, as far as its autoscaler changes it.
#[derive(Deserialize)]
struct Scaled {
    spec: ScaledSpec,
}

#[derive(Deserialize)]
struct ScaledSpec {
    replicas: Option<i32>,
}

/// How many pods the Deployment is told to run.
///
/// With an autoscaler that is its business: nothing is said once it has scaled. Until then the number that lives is
/// said again, because what nobody says any more falls back to 1
/// (<https://kubernetes.io/docs/reference/using-api/server-side-apply/#transferring-ownership>).
pub(crate) fn replicas(domain: &Domain, cx: &Context) -> Result<Option<i32>, Failure> {
    let Some(scaling) = &domain.spec.autoscaling else { return Ok(Some(domain.spec.replicas)) };
    let Some(live) = cx.child::<Deployment>(domain.name()) else { return Ok(Some(scaling.min_replicas)) };
    let autoscaler = cx.child::<HorizontalPodAutoscaler>(domain.name());
    let status = autoscaler.map(|found| found.status::<HorizontalPodAutoscalerStatus>()).transpose()?;
    if status.is_some_and(|status| status.last_scale_time.is_some()) {
        return Ok(None);
    }
    Ok(live.view::<Scaled>()?.spec.replicas)
}

/// Scales by CPU.
pub(crate) fn autoscaler(domain: &Domain) -> Option<HorizontalPodAutoscaler> {
    let scaling = domain.spec.autoscaling.as_ref()?;
    let target = MetricTarget {
        type_: "Utilization".into(),
        average_utilization: Some(scaling.target_cpu),
        ..Default::default()
    };
    let metric = MetricSpec {
        type_: "Resource".into(),
        resource: Some(ResourceMetricSource { name: "cpu".into(), target }),
        ..Default::default()
    };
    let spec = HorizontalPodAutoscalerSpec {
        scale_target_ref: CrossVersionObjectReference {
            api_version: Some("apps/v1".into()),
            kind: "Deployment".into(),
            name: domain.name().into(),
        },
        min_replicas: Some(scaling.min_replicas),
        max_replicas: scaling.max_replicas,
        metrics: Some(vec![metric]),
        ..Default::default()
    };
    Some(HorizontalPodAutoscaler { metadata: metadata(domain), spec: Some(spec), status: None })
}

/// Nodes are drained one pod of a Domain at a time. Not "all but one must stay": a Domain with one pod would keep its
/// node from being drained for ever.
pub(crate) fn disruption_budget(domain: &Domain) -> PodDisruptionBudget {
    let spec = PodDisruptionBudgetSpec {
        max_unavailable: Some(IntOrString::Int(1)),
        selector: Some(objects::selector(&selector(domain))),
        ..Default::default()
    };
    PodDisruptionBudget { metadata: metadata(domain), spec: Some(spec), status: None }
}

/// The address of the gRPC server inside the cluster.
pub(crate) fn service(domain: &Domain) -> Service {
    let mut metadata = metadata(domain);
    if cfg!(feature = "next") {
        metadata.annotations = Some(labels([("ameide.io/plugin", "next")]));
    }
    let mut ports = vec![objects::service_port("grpc", GRPC_PORT)];
    if domain.spec.observability.service_monitor {
        ports.push(objects::service_port("metrics", METRICS_PORT));
    }
    objects::service(metadata, &selector(domain), ports)
}

fn container(domain: &Domain, config: &Config) -> Container {
    let spec = &domain.spec;
    let resources = &spec.resources;
    let mut ports = vec![objects::container_port("grpc", GRPC_PORT)];
    if spec.observability.service_monitor {
        ports.push(objects::container_port("metrics", METRICS_PORT));
    }
    Container {
        image_pull_policy: Some(spec.image_pull_policy.to_string()),
        ports: Some(ports),
        env: Some(environment(domain, config)),
        resources: Some(objects::resources(
            [("cpu", &resources.cpu), ("memory", &resources.memory)],
            [("memory", &resources.memory)],
        )),
        security_context: Some(container_security()),
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

/// The database's, the platform's and the Domain's own variables, each once.
fn environment(domain: &Domain, config: &Config) -> Vec<EnvVar> {
    let spec = &domain.spec;
    let mut environment = database::environment(&spec.db);
    environment.push(objects::env(LOG_LEVEL_VARIABLE, spec.observability.log_level.to_string()));
    let platform = tracing(domain, config).into_iter();
    environment.extend(platform.filter(|variable| !spec.env.iter().any(|own| own.name == variable.name)));
    environment.extend(spec.env.iter().cloned());
    environment
}

/// What OpenTelemetry's SDKs read (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).
fn tracing(domain: &Domain, config: &Config) -> Vec<EnvVar> {
    let mut attributes = format!("service.namespace={}", domain.metadata.namespace.as_deref().unwrap_or_default());
    if let Some(version) = &domain.spec.version {
        attributes.push_str(&format!(",service.version={version}"));
    }
    let mut variables =
        vec![objects::env("OTEL_SERVICE_NAME", domain.name()), objects::env("OTEL_RESOURCE_ATTRIBUTES", attributes)];
    variables.extend(config.otlp_endpoint.iter().map(|url| objects::env("OTEL_EXPORTER_OTLP_ENDPOINT", url)));
    variables
}

/// With [`container_security`] the profile `restricted` of the Pod Security Standards: images must name a user by
/// number that is not 0.
pub(crate) fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..Default::default()
    }
}

pub(crate) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".into()]) }),
        ..Default::default()
    }
}

/// The parameters of a rolling update are written down, so that they go with it: the API server refuses them beside
/// `Recreate`, and would keep those that it had filled in itself.
fn strategy(strategy: Strategy) -> DeploymentStrategy {
    let (word, rolling_update) = match strategy {
        Strategy::Recreate => ("Recreate", None),
        Strategy::RollingUpdate | Strategy::Canary => (
            "RollingUpdate",
            Some(RollingUpdateDeployment {
                max_surge: Some(IntOrString::String("25%".into())),
                max_unavailable: Some(IntOrString::Int(0)), // never fewer than asked for
            }),
        ),
    };
    DeploymentStrategy { type_: Some(word.into()), rolling_update }
}

pub(crate) fn metadata(domain: &Domain) -> ObjectMeta {
    objects::metadata(domain.name(), &all_labels(domain))
}

/// A selector can never be changed: only what never changes.
pub(crate) fn selector(domain: &Domain) -> Labels {
    labels([("app.kubernetes.io/instance", domain.name()), ("app.kubernetes.io/name", "domain")])
}

pub(crate) fn all_labels(domain: &Domain) -> Labels {
    let mut labels = selector(domain);
    labels.extend(domain.spec.version.clone().map(|version| ("app.kubernetes.io/version".into(), version)));
    labels
}
