//! The kind `Project`: what Environments are made of.

use std::collections::BTreeMap;

use serde_json::Value;
use transom_sdk::prelude::*;

use crate::settings::{EnvironmentConfig, Resources};

/// What Environments are made of: git repositories, and a template for each type of Environment.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "catalyst.catalyst.dev",
    version = "v1alpha1",
    kind = "Project",
    category = "primitives",
    namespaced,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ProjectSpec {
    /// Which GitHub App installation git credentials come from, or `pat`. Clones find it in `INSTALLATION_ID`, for
    /// images with a credential helper of their own.
    #[serde(default, rename = "githubInstallationId", skip_serializing_if = "String::is_empty")]
    pub github_installation_id: String,

    /// Git repositories.
    #[schemars(length(max = 32))]
    pub sources: Vec<SourceConfig>,

    /// Templates by type of Environment, such as `development` and `deployment`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub templates: BTreeMap<String, EnvironmentTemplate>,

    /// What Environments of this Project may use.
    #[serde(default)]
    pub resources: ResourceConfig,
}

/// A git repository.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SourceConfig {
    /// Tells it from the others: `frontend`, `backend`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Its address, such as `https://github.com/acme/shop`.
    #[schemars(length(min = 1, max = 2048))]
    pub repository_url: String,
    /// What is used where an Environment says nothing.
    #[schemars(length(max = 255))]
    pub branch: String,
}

/// What an Environment of one type consists of.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentTemplate {
    /// The source that `path` is in; the first one when it is left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source_ref: String,
    /// `helm`, `kustomize`, `manifest` or `docker-compose`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The chart, kustomization, manifests or compose file in the source: a folder, or for the last two a file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Images that are built before anything is deployed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub builds: Vec<BuildSpec>,
    /// Values of the chart.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    #[schemars(schema_with = "any_object")]
    pub values: Value,
    /// What an Environment's own `config` is laid over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<EnvironmentConfig>,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// An image that is built from a source.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BuildSpec {
    /// Names the image: charts find it under `global.images.<name>`, manifests and compose files as the image `<name>`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The source with the code.
    pub source_ref: String,
    /// Folder of the build context; the whole source when it is left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Path from there; `Dockerfile` when it is left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dockerfile: String,
    /// What the build is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

/// What Environments may use.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceConfig {
    /// Each of them.
    pub default_quota: QuotaSpec,
}

/// Sum over all pods; where nothing is said 4 CPUs and 8Gi, of which half can be requested.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct QuotaSpec {
    /// Such as `1`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(regex(pattern = r"^([0-9]+m|[0-9]+(\.[0-9]{1,3})?)?$"))]
    pub cpu: String,
    /// Such as `2Gi`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(regex(pattern = r"^([0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?)?$"))]
    pub memory: String,
}

/// What a template is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TemplateKind {
    Helm,
    Kustomize,
    Manifest,
    Compose,
}

impl EnvironmentTemplate {
    /// None for a word that nobody knows.
    pub(crate) fn kind(&self) -> Option<TemplateKind> {
        Some(match self.kind.as_str() {
            "helm" => TemplateKind::Helm,
            "kustomize" => TemplateKind::Kustomize,
            "manifest" => TemplateKind::Manifest,
            "docker-compose" => TemplateKind::Compose,
            _ => return None,
        })
    }
}

impl Project {
    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn source(&self, name: &str) -> Option<&SourceConfig> {
        self.spec.sources.iter().find(|source| source.name == name)
    }

    /// What is wrong with the spec, as field and fix.
    pub(crate) fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let names: Vec<&str> = self.spec.sources.iter().map(|source| source.name.as_str()).collect();
        for (index, source) in self.spec.sources.iter().enumerate() {
            if names.iter().take(index).any(|name| *name == source.name) {
                faults.push((
                    format!("spec.sources[{index}].name"),
                    format!("{:?} is there twice: rename one", source.name),
                ));
            }
        }
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        for (name, template) in &self.spec.templates {
            let field = format!("spec.templates.{name}");
            if template.kind().is_none() {
                let message = format!("{:?} must be helm, kustomize, manifest or docker-compose", template.kind);
                faults.push((format!("{field}.type"), message));
            }
            if !template.source_ref.is_empty() && self.source(&template.source_ref).is_none() {
                let message = format!("there is no source {:?} in spec.sources, but {known}", template.source_ref);
                faults.push((format!("{field}.sourceRef"), message));
            }
            for (index, build) in template.builds.iter().enumerate() {
                faults.extend(build.faults(&format!("{field}.builds[{index}]"), self, &known));
                if template.builds.iter().take(index).any(|other| other.name == build.name) {
                    let message = format!("{:?} is there twice: rename one", build.name);
                    faults.push((format!("{field}.builds[{index}].name"), message));
                }
            }
        }
        faults
    }
}

impl BuildSpec {
    fn faults(&self, field: &str, project: &Project, known: &str) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        if !is_label(&self.name) {
            let message =
                format!("{:?} must be lower-case letters, digits and -: it is part of an image's name", self.name);
            faults.push((format!("{field}.name"), message));
        }
        if project.source(&self.source_ref).is_none() {
            let message = format!("there is no source {:?} in spec.sources, but {known}", self.source_ref);
            faults.push((format!("{field}.sourceRef"), message));
        }
        for (name, path) in [("path", &self.path), ("dockerfile", &self.dockerfile)] {
            if path.split('/').any(|part| part == "..") {
                faults.push((format!("{field}.{name}"), format!("{path:?} must not leave the source: remove ..")));
            }
        }
        faults
    }
}

/// RFC 1123, at most 63 characters.
pub(crate) fn is_label(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (first, last) = (text.bytes().next(), text.bytes().last());
    text.len() <= 63
        && text.bytes().all(|b| plain(b) || b == b'-')
        && first.is_some_and(plain)
        && last.is_some_and(plain)
}
