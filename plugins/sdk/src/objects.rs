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
    Container, ContainerPort, EnvVar, EnvVarSource, GRPCAction, HTTPGetAction, PodSpec, PodTemplateSpec, Probe,
    ResourceRequirements, SecretKeySelector, Service, ServicePort, ServiceSpec, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

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
