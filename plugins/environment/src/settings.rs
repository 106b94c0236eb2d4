//! `config` of Environments and templates: a curated part of core/v1.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ContainerPort, EnvVar, PersistentVolumeClaimSpec, Probe, ResourceRequirements, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use transom_sdk::prelude::*;

/// The main container and what it needs, in the words of core/v1. What is left out is that of the template.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvironmentConfig {
    /// Image of the main container; where nobody says one, the first that the template builds.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Entry point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Arguments of the entry point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Where the entry point starts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// The first one is what the Service `web` leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<ContainerPort>>,
    /// Variables by name: those of the Environment are laid over those of the template, and all of them over those of
    /// every container of a rendered template.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// CPU and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// When the container is started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    /// When it gets requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    /// When the other two begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup_probe: Option<Probe>,
    /// Of `volumes`; the code is cloned into the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_mounts: Option<Vec<VolumeMount>>,
    /// Run one after the other before the main container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_containers: Option<Vec<InitContainerSpec>>,
    /// Databases and the like: a StatefulSet and a Service each, waited for before the main container starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<ManagedServiceSpec>>,
    /// PersistentVolumeClaims.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<VolumeSpec>>,
}

/// As in core/v1; numbers may be written without quotes.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct Resources {
    /// At least.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, IntOrString>,
    /// At most.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, IntOrString>,
}

/// A container that must end before the next one starts.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct InitContainerSpec {
    /// Tells it from the others.
    pub name: String,
    /// That of the main container when it is left out.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Entry point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Arguments of the entry point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Where the entry point starts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Variables, over those of the main container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// CPU and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Those of the main container when they are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_mounts: Option<Vec<VolumeMount>>,
}

/// A service beside the main container.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ManagedServiceSpec {
    /// By which others reach it: `postgres`, `redis`.
    pub name: String,
    /// What runs.
    pub container: ManagedServiceContainer,
    /// What it keeps its data in; without it they go with the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<PersistentVolumeClaimSpec>,
    /// Database to create, for PostgreSQL.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub database: String,
}

/// The container of a service.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ManagedServiceContainer {
    /// Such as `postgres:16`.
    pub image: String,
    /// Ports of the Service.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,
    /// Variables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// CPU and memory; 512Mi where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

/// A volume of the Environment.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeSpec {
    /// By which `volumeMounts` name it.
    pub name: String,
    /// What is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimSpec>,
}

impl Resources {
    pub(crate) fn of<const R: usize, const L: usize>(requests: [(&str, &str); R], limits: [(&str, &str); L]) -> Self {
        fn table<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, IntOrString> {
            pairs.into_iter().map(|(name, amount)| (name.to_owned(), IntOrString::String(amount.to_owned()))).collect()
        }
        Self { requests: table(requests), limits: table(limits) }
    }

    pub(crate) fn to_core(&self) -> ResourceRequirements {
        let table = |amounts: &BTreeMap<String, IntOrString>| {
            let quantity = |amount: &IntOrString| match amount {
                IntOrString::Int(number) => Quantity(number.to_string()),
                IntOrString::String(text) => Quantity(text.clone()),
            };
            let table: BTreeMap<_, _> = amounts.iter().map(|(name, amount)| (name.clone(), quantity(amount))).collect();
            (!table.is_empty()).then_some(table)
        };
        ResourceRequirements { requests: table(&self.requests), limits: table(&self.limits), claims: None }
    }
}

impl EnvironmentConfig {
    /// What is said here over what is said in the template.
    pub(crate) fn over(&self, template: Option<&Self>) -> Self {
        let Some(template) = template else { return self.clone() };
        fn text(mine: &str, other: &str) -> String {
            if mine.is_empty() { other.to_owned() } else { mine.to_owned() }
        }
        fn either<T: Clone>(mine: &Option<T>, other: &Option<T>) -> Option<T> {
            mine.as_ref().or(other.as_ref()).cloned()
        }
        Self {
            image: text(&self.image, &template.image),
            command: either(&self.command, &template.command),
            args: either(&self.args, &template.args),
            working_dir: text(&self.working_dir, &template.working_dir),
            ports: either(&self.ports, &template.ports),
            env: overlaid(&template.env, &self.env),
            resources: either(&self.resources, &template.resources),
            liveness_probe: either(&self.liveness_probe, &template.liveness_probe),
            readiness_probe: either(&self.readiness_probe, &template.readiness_probe),
            startup_probe: either(&self.startup_probe, &template.startup_probe),
            volume_mounts: either(&self.volume_mounts, &template.volume_mounts),
            init_containers: either(&self.init_containers, &template.init_containers),
            services: either(&self.services, &template.services),
            volumes: either(&self.volumes, &template.volumes),
        }
    }
}

/// The variables of `below` in their order, with those of `above` in their places or at the end.
pub(crate) fn overlaid(below: &[EnvVar], above: &[EnvVar]) -> Vec<EnvVar> {
    let replaced =
        |variable: &EnvVar| above.iter().find(|other| other.name == variable.name).unwrap_or(variable).clone();
    let mut all: Vec<EnvVar> = below.iter().map(replaced).collect();
    for variable in above {
        if all.iter().all(|known| known.name != variable.name) {
            all.push(variable.clone());
        }
    }
    all
}
