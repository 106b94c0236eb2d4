use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec,
    SeccompProfile, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use transom_sdk::objects::{self, Labels, labels};

use crate::Config;
use crate::definition::{CHECKSUM, Current, FILE};
use crate::spec::{Process, Strategy};

/// Volume with the definition, and where workers find it.
const VOLUME: &str = "definition";
const MOUNT_PATH: &str = "/etc/process-definition";

/// Value of `app.kubernetes.io/name` on workers.
pub(crate) const WORKER: &str = "process";

/// Tells the Deployment that works from a canary beside it.
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

/// The workers.
pub(crate) fn deployment(
    process: &Process,
    config: &Config,
    current: &Current,
    track: Track,
    metadata: ObjectMeta,
    replicas: i32,
) -> Deployment {
    let mut selector = selector(process);
    selector.insert(Track::LABEL.into(), track.word().into());
    let mut template = template(process, config, current);
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(Track::LABEL.into(), track.word().into());
    let spec = DeploymentSpec {
        strategy: Some(strategy(process.spec.rollout.strategy)),
        ..objects::deployment_spec(replicas, &selector, template)
    };
    objects::deployment(metadata, spec)
}

/// What workers of this version look like, whichever track they are on. Another definition is another version.
pub(crate) fn template(process: &Process, config: &Config, current: &Current) -> PodTemplateSpec {
    let spec = &process.spec;
    let container =
        Container { env: Some(environment(process, config, current)), ..container("worker", process, &spec.image) };
    let mut template = objects::template(&selector(process), pod(container, current));
    template.metadata.get_or_insert_default().annotations = Some(labels([(CHECKSUM, &current.status.checksum)]));
    template
}

/// A container that reads the definition.
pub(crate) fn container(name: &str, process: &Process, image: &str) -> Container {
    let spec = &process.spec;
    let resources = &spec.resources;
    Container {
        image_pull_policy: Some(spec.image_pull_policy.to_string()),
        resources: Some(objects::resources(
            [("cpu", &resources.cpu), ("memory", &resources.memory)],
            [("memory", &resources.memory)],
        )),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".into()]) }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: VOLUME.into(),
            mount_path: MOUNT_PATH.into(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]),
        ..objects::container(name, image)
    }
}

/// A pod with the definition in it. With the container's own context it has the profile `restricted` of the Pod
/// Security Standards: images must name a user by number that is not 0.
pub(crate) fn pod(container: Container, current: &Current) -> PodSpec {
    PodSpec {
        containers: vec![container],
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        volumes: Some(vec![Volume {
            name: VOLUME.into(),
            config_map: Some(ConfigMapVolumeSource {
                name: current.config_map.clone(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        }]),
        ..PodSpec::default()
    }
}

/// What workers and jobs are told.
pub(crate) fn environment(process: &Process, config: &Config, current: &Current) -> Vec<EnvVar> {
    let spec = &process.spec;
    let mut environment = vec![
        objects::env("TEMPORAL_NAMESPACE", &spec.temporal.namespace),
        objects::env("TASK_QUEUE", &spec.temporal.task_queue),
        objects::env("PROCESS_DEFINITION_ID", &current.id),
        objects::env("PROCESS_DEFINITION_FILE", format!("{MOUNT_PATH}/{FILE}")),
    ];
    let mut add = |name: &str, value: Option<String>| environment.extend(value.map(|value| objects::env(name, value)));
    add("TEMPORAL_ADDRESS", config.temporal_address.clone());
    add("MAX_CONCURRENCY_PER_TENANT", spec.rollout.max_concurrency_per_tenant.map(|limit| limit.to_string()));
    let tags: Vec<String> =
        spec.observability.metrics_tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    add("METRICS_TAGS", (!tags.is_empty()).then(|| tags.join(",")));
    // what OpenTelemetry's SDKs read
    add("OTEL_SERVICE_NAME", Some(process.name().to_owned()));
    let namespace = process.metadata.namespace.as_deref().unwrap_or_default();
    add("OTEL_RESOURCE_ATTRIBUTES", Some(format!("service.namespace={namespace}")));
    add("OTEL_EXPORTER_OTLP_ENDPOINT", config.otlp_endpoint.clone());
    environment
}

/// Nodes are drained one worker of a Process at a time. Not "all but one must stay": a Process with one worker would
/// keep its node from being drained for ever.
pub(crate) fn disruption_budget(process: &Process) -> PodDisruptionBudget {
    let spec = PodDisruptionBudgetSpec {
        max_unavailable: Some(IntOrString::Int(1)),
        selector: Some(objects::selector(&selector(process))),
        ..PodDisruptionBudgetSpec::default()
    };
    let metadata = objects::metadata(process.name(), &selector(process));
    PodDisruptionBudget { metadata, spec: Some(spec), status: None }
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

/// Labels of the workers and of what belongs to them. A selector can never be changed: only what never changes.
pub(crate) fn selector(process: &Process) -> Labels {
    labels([("app.kubernetes.io/instance", process.name()), ("app.kubernetes.io/name", WORKER)])
}
