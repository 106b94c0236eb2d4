//! Partial objects in few words.
//!
//! Plain functions over the types of k8s-openapi: what they do not say is said by struct update or by setting the
//! field afterwards. Quantities are strings as in manifests.
//!
//! ```
//! use k8s_openapi::api::core::v1::{Container, PodSpec};
//! use transom_sdk::objects::{self, labels};
//!
//! let labels = labels([("app", "orders")]);
//! let container = Container {
//!     env: Some(vec![objects::env("PORT", "8080")]),
//!     readiness_probe: Some(objects::http_probe("/healthz", 8080)),
//!     ..objects::container("orders", "registry.example/orders:1")
//! };
//! let pod = PodSpec { containers: vec![container], ..Default::default() };
//! let template = objects::template(&labels, pod);
//! let deployment =
//!     objects::deployment(objects::metadata("orders", &labels), objects::deployment_spec(2, &labels, template));
//! ```

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource, GRPCAction, HTTPGetAction,
    PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SecretKeySelector, SecretVolumeSource, Service, ServicePort,
    ServiceSpec, TCPSocketAction, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::names::hash_text;

/// Labels of an object, or a selector by equality.
pub type Labels = BTreeMap<String, String>;

/// Labels from pairs.
pub fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Name and labels.
pub fn metadata(name: &str, labels: &Labels) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), labels: Some(labels.clone()), ..Default::default() }
}

/// What matches all of these labels.
pub fn selector(labels: &Labels) -> LabelSelector {
    LabelSelector { match_labels: Some(labels.clone()), ..Default::default() }
}

// ---------------------------------------------------------------- containers

/// A container that runs `image`.
pub fn container(name: &str, image: &str) -> Container {
    Container { name: name.to_owned(), image: Some(image.to_owned()), ..Default::default() }
}

/// A named TCP port of a container.
pub fn container_port(name: &str, port: i32) -> ContainerPort {
    ContainerPort { name: Some(name.to_owned()), container_port: port, ..Default::default() }
}

/// An environment variable.
pub fn env(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.into()), value_from: None }
}

/// An environment variable whose value the kubelet takes from `key` of the secret.
pub fn env_from_secret(name: &str, secret: &str, key: &str) -> EnvVar {
    let secret_key_ref = Some(SecretKeySelector { name: secret.to_owned(), key: key.to_owned(), ..Default::default() });
    let source = EnvVarSource { secret_key_ref, ..Default::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(source) }
}

/// What a container is given at least and at most, such as `[("cpu", "500m"), ("memory", "512Mi")]`.
pub fn resources<const R: usize, const L: usize>(
    requests: [(&str, &str); R],
    limits: [(&str, &str); L],
) -> ResourceRequirements {
    ResourceRequirements { requests: Some(quantities(requests)), limits: Some(quantities(limits)), claims: None }
}

fn quantities<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, Quantity> {
    pairs.into_iter().map(|(name, quantity)| (name.to_owned(), Quantity(quantity.to_owned()))).collect()
}

/// Asks the standard gRPC health service.
pub fn grpc_probe(port: i32) -> Probe {
    Probe { grpc: Some(GRPCAction { port, service: None }), ..Default::default() }
}

/// Asks `GET path`.
pub fn http_probe(path: &str, port: i32) -> Probe {
    let get = HTTPGetAction { path: Some(path.to_owned()), port: IntOrString::Int(port), ..Default::default() };
    Probe { http_get: Some(get), ..Default::default() }
}

/// Opens a TCP connection.
pub fn tcp_probe(port: i32) -> Probe {
    let socket = TCPSocketAction { port: IntOrString::Int(port), host: None };
    Probe { tcp_socket: Some(socket), ..Default::default() }
}

/// Where a container finds the files of the volume with this name. It cannot write there.
pub fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { name: volume.to_owned(), mount_path: path.to_owned(), read_only: Some(true), ..Default::default() }
}

// ------------------------------------------------------------- files of pods

/// A ConfigMap with these keys and texts.
///
/// ```
/// use k8s_openapi::api::core::v1::{Container, PodSpec};
/// use transom_sdk::objects::{self, labels};
///
/// let labels = labels([("app", "orders")]);
/// let config = objects::config_map(objects::metadata("orders", &labels), [("app.toml", "port = 8080")]);
/// let container = Container {
///     volume_mounts: Some(vec![objects::mount("config", "/etc/orders")]), // /etc/orders/app.toml
///     ..objects::container("orders", "registry.example/orders:1")
/// };
/// let pod = PodSpec {
///     containers: vec![container],
///     volumes: Some(vec![objects::config_map_volume("config", "orders")]),
///     ..Default::default()
/// };
/// // pods see another text after a while; most programs read it when they start: another annotation, other pods
/// let template = objects::template(&labels, pod);
/// let template = objects::annotated(template, [("orders.example/config", objects::checksum(&config))]);
/// let annotations = template.metadata.and_then(|metadata| metadata.annotations).unwrap_or_default();
/// assert_eq!(annotations["orders.example/config"].len(), 8);
/// ```
pub fn config_map<K: Into<String>, V: Into<String>>(
    metadata: ObjectMeta,
    data: impl IntoIterator<Item = (K, V)>,
) -> ConfigMap {
    let data = data.into_iter().map(|(key, text)| (key.into(), text.into())).collect();
    ConfigMap { metadata, data: Some(data), ..Default::default() }
}

/// Eight letters and digits that are others when the data of the ConfigMap are; see [`names::hash`](crate::names::hash).
pub fn checksum(config_map: &ConfigMap) -> String {
    let binary = config_map.binary_data.iter().flatten().map(|(key, bytes)| format!("{key:?} {:?};", bytes.0));
    let texts = config_map.data.iter().flatten().map(|(key, text)| format!("{key:?} {text:?};"));
    hash_text(&texts.chain(binary).collect::<String>())
}

/// A volume with a file for each key of the ConfigMap.
pub fn config_map_volume(name: &str, config_map: &str) -> Volume {
    let source = ConfigMapVolumeSource { name: config_map.to_owned(), ..Default::default() };
    Volume { name: name.to_owned(), config_map: Some(source), ..Default::default() }
}

/// A volume with a file for each key of the Secret.
pub fn secret_volume(name: &str, secret: &str) -> Volume {
    let source = SecretVolumeSource { secret_name: Some(secret.to_owned()), ..Default::default() };
    Volume { name: name.to_owned(), secret: Some(source), ..Default::default() }
}

// ------------------------------------------------------------ pod templates

/// The template with these annotations beside those that it has. A workload replaces its pods when one of them changes.
pub fn annotated<const N: usize>(template: PodTemplateSpec, annotations: [(&str, String); N]) -> PodTemplateSpec {
    let mut template = template;
    let all = template.metadata.get_or_insert_default().annotations.get_or_insert_default();
    all.extend(annotations.map(|(name, text)| (name.to_owned(), text)));
    template
}

/// What pods of a workload look like. `labels` must contain those that the workload selects by.
pub fn template(labels: &Labels, pod: PodSpec) -> PodTemplateSpec {
    let metadata = ObjectMeta { labels: Some(labels.clone()), ..Default::default() };
    PodTemplateSpec { metadata: Some(metadata), spec: Some(pod) }
}

// ----------------------------------------------------------------- workloads

/// This many pods; they are found by the labels `selects`.
pub fn deployment_spec(replicas: i32, selects: &Labels, template: PodTemplateSpec) -> DeploymentSpec {
    DeploymentSpec { replicas: Some(replicas), selector: selector(selects), template, ..Default::default() }
}

/// A Deployment.
pub fn deployment(metadata: ObjectMeta, spec: DeploymentSpec) -> Deployment {
    Deployment { metadata, spec: Some(spec), status: None }
}

/// One pod until it succeeds. The pod needs a `restartPolicy`.
pub fn job_spec(template: PodTemplateSpec) -> JobSpec {
    JobSpec { template, ..Default::default() }
}

/// A Job.
pub fn job(metadata: ObjectMeta, spec: JobSpec) -> Job {
    Job { metadata, spec: Some(spec), status: None }
}

/// A TCP port of a service that leads to the container port of the same name.
pub fn service_port(name: &str, port: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..Default::default()
    }
}

/// A Service inside the cluster for the pods with these labels.
pub fn service(metadata: ObjectMeta, selects: &Labels, ports: Vec<ServicePort>) -> Service {
    let spec = ServiceSpec {
        type_: Some("ClusterIP".to_owned()),
        selector: Some(selects.clone()),
        ports: Some(ports),
        ..Default::default()
    };
    Service { metadata, spec: Some(spec), status: None }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn a_checksum_is_that_of_the_data_and_of_nothing_else() {
        let of = |name: &str, data: &[(&str, &str)]| {
            checksum(&config_map(metadata(name, &labels([])), data.iter().copied()))
        };
        assert_eq!(of("a", &[("k", "1"), ("l", "2")]), of("b", &[("l", "2"), ("k", "1")]));
        let others = [of("a", &[]), of("a", &[("k", "1")]), of("a", &[("k", "2")]), of("a", &[("k", "1"), ("l", "")])];
        assert!(others.iter().enumerate().all(|(i, one)| !others[..i].contains(one)), "{others:?}");
        let bytes = BTreeMap::from([("k".to_owned(), ByteString(vec![1]))]);
        let binary = ConfigMap { binary_data: Some(bytes), ..Default::default() };
        assert_ne!(checksum(&binary), checksum(&ConfigMap::default()));
    }

    #[test]
    fn annotations_are_added_to_those_that_are_there() {
        let template = annotated(template(&labels([("app", "a")]), PodSpec::default()), [("one", "1".into())]);
        let metadata = annotated(template, [("two", "2".into())]).metadata.unwrap();
        assert_eq!(metadata.annotations, Some(labels([("one", "1"), ("two", "2")])));
        assert_eq!(metadata.labels, Some(labels([("app", "a")])));
    }
}
