//! Project and Environment: instances of a Project's repositories, each in a namespace of its own.
//!
//! An `Environment` becomes a Namespace with a quota, limits and network policies; Jobs for images that are not in the
//! registry yet; and then what its template says: a chart, a kustomization, manifests, a compose file, or containers that
//! Environment and template describe themselves. A `Project` is only checked.

mod build;
mod compose;
mod ingress;
mod inject;
mod managed;
mod namespace;
mod pods;
mod policy;
mod project;
mod report;
mod secrets;
mod settings;
mod source;
mod spec;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, LimitRange, Namespace, PersistentVolumeClaim, Pod, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
pub use project::{BuildSpec, EnvironmentTemplate, Project, ProjectSpec, QuotaSpec, ResourceConfig, SourceConfig};
pub use settings::{
    EnvironmentConfig, InitContainerSpec, ManagedServiceContainer, ManagedServiceSpec, Resources, VolumeSpec,
};
pub use spec::{
    DeploymentMode, Environment, EnvironmentSource, EnvironmentSpec, EnvironmentStatus, Phase, ProjectReference,
};
use transom_sdk::prelude::*;
use transom_sdk::{JobRuns, Protocol};

use build::Site;
use ingress::Backend;
use managed::WEB;
use project::TemplateKind;
use report::{Problem, Report, Step, Stop, of_spec, transient};

/// Serves `Project` and `Environment`.
pub struct EnvironmentPlugin;
transom_sdk::export!(EnvironmentPlugin);

/// `spec.config` of the `Plugin` record: what is the same for all Environments of a platform.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// Which repositories may be read, and by which endpoint of the record.
    #[schemars(length(max = 16))]
    pub sources: Vec<SourceRoot>,
    /// Where built images go; without it nothing can be built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Registry>,
    /// Secret of type `kubernetes.io/dockerconfigjson` in the Project's namespace; where there is one, builds push and
    /// pods pull with it.
    pub registry_secret: String,
    /// How code is cloned.
    pub git: Git,
    /// How images are built.
    pub builder: Builder,
    /// How Environments are reached from outside; without it they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<IngressConfig>,
    /// Namespace of the ingress controller, which is let in.
    pub ingress_namespace: String,
    /// Templates may make objects that are in no namespace, such as ClusterRoles: whoever writes a Project then has the
    /// rights of the plugin.
    pub allow_cluster_scoped: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            registry: None,
            registry_secret: "registry-credentials".into(),
            git: Git::default(),
            builder: Builder::default(),
            ingress: None,
            ingress_namespace: "ingress-nginx".into(),
            allow_cluster_scoped: false,
        }
    }
}

/// Repositories with the same beginning.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceRoot {
    /// How their `repositoryUrl` begins: `https://github.com/acme`.
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,
    /// Endpoint with the address of the same place.
    pub endpoint: SourceEndpoint,
}

/// An endpoint for repositories.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "names of endpoints")]
pub enum SourceEndpoint {
    Git,
    #[serde(rename = "git-2")]
    Git2,
    #[serde(rename = "git-3")]
    Git3,
    #[serde(rename = "git-4")]
    Git4,
}

impl SourceEndpoint {
    const ALL: [Self; 4] = [Self::Git, Self::Git2, Self::Git3, Self::Git4];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Git => "git",
            Self::Git2 => "git-2",
            Self::Git3 => "git-3",
            Self::Git4 => "git-4",
        }
    }
}

/// An OCI registry.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Registry {
    /// Host and port, and the beginning of repositories: `registry.example:5000/previews`.
    #[schemars(length(min = 1, max = 255))]
    pub address: String,
    /// It has no TLS.
    #[serde(default)]
    pub plaintext: bool,
}

impl Registry {
    fn port(&self) -> Option<i32> {
        self.address.split('/').next()?.rsplit_once(':')?.1.parse().ok()
    }
}

/// How code is cloned.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Git {
    /// Image with git and a shell.
    pub image: String,
    /// Secret in the Project's namespace with `username` and `password`, `token`, or `ssh-privatekey`.
    pub secret: String,
}

impl Default for Git {
    fn default() -> Self {
        Self { image: "alpine/git:2.45.2".into(), secret: "git-credentials".into() }
    }
}

/// How images are built.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Builder {
    /// By what.
    pub kind: BuilderKind,
    /// Its image; a known version when it is left out.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// More arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// How long a build may take.
    #[schemars(range(min = 1))]
    pub timeout_seconds: u32,
}

impl Default for Builder {
    fn default() -> Self {
        Self { kind: BuilderKind::default(), image: String::new(), args: Vec::new(), timeout_seconds: 1_800 }
    }
}

impl Builder {
    fn image(&self) -> &str {
        match (self.image.as_str(), self.kind) {
            ("", BuilderKind::Kaniko) => "gcr.io/kaniko-project/executor:v1.24.0",
            ("", BuilderKind::BuildKit) => "moby/buildkit:v0.23.2-rootless",
            (image, _) => image,
        }
    }
}

/// A program that builds images.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "their own names")]
pub enum BuilderKind {
    #[default]
    Kaniko,
    BuildKit,
}

/// How Environments are reached from outside.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IngressConfig {
    /// Host name, with `{namespace}`, `{environment}`, `{project}` and `{team}` in it: `{namespace}.preview.example`.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// Class of the Ingress.
    #[serde(default = "nginx")]
    pub class_name: String,
    /// More annotations of the Ingress.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Without it plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Port in addresses for people, when it is not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

fn nginx() -> String {
    "nginx".into()
}

/// Certificates.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Tls {
    /// ClusterIssuer of cert-manager that makes them.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster_issuer: String,
    /// Secret with the certificate, in the Environment's namespace.
    pub secret_name: String,
}

impl Default for Tls {
    fn default() -> Self {
        Self { cluster_issuer: String::new(), secret_name: "web-tls".into() }
    }
}

impl Plugin for EnvironmentPlugin {
    fn manifest() -> Manifest<Self> {
        let manifest = Manifest::new("environment", env!("CARGO_PKG_VERSION"))
            .primary::<Environment>()
            .primary::<Project>()
            .config::<Config>()
            .engine("helm")
            .engine("kustomize")
            .child::<Namespace>(Delivery::Metadata)
            .child::<ResourceQuota>(Delivery::Metadata)
            .child::<LimitRange>(Delivery::Metadata)
            .child::<NetworkPolicy>(Delivery::Metadata)
            .child::<ServiceAccount>(Delivery::Metadata)
            .child::<Secret>(Delivery::Metadata)
            .child::<ConfigMap>(Delivery::Metadata)
            .child::<PersistentVolumeClaim>(Delivery::Status)
            .child::<Service>(Delivery::Status)
            .child::<Deployment>(Delivery::Status)
            .child::<StatefulSet>(Delivery::Status)
            .child::<Job>(Delivery::Full) // whether it expires
            .child::<Pod>(Delivery::Status)
            .child::<Ingress>(Delivery::Metadata)
            .any_child(Delivery::Status)
            .read::<Project>(Delivery::Full)
            .read::<Namespace>(Delivery::Metadata)
            .read::<Secret>(Delivery::Full)
            .read::<Pod>(Delivery::Status);
        SourceEndpoint::ALL.into_iter().fold(manifest, |manifest, endpoint| {
            manifest.optional_endpoint(endpoint.name(), Protocol::Git, "Templates come from git repositories")
        })
    }
}

impl Reconcile<Project> for EnvironmentPlugin {
    fn reconcile(project: &Project, cx: &Context) -> Result<Plan, Failure> {
        let mut plan = cx.plan();
        let config: Config = cx.config()?;
        let mut faults = project.faults();
        // those that are only cloned, in pods, need no endpoint
        let templates = project.spec.templates.values().filter(|template| !template.path.is_empty());
        let read: Vec<&str> = templates.map(|template| template.source_ref.as_str()).collect();
        for (index, source) in project.spec.sources.iter().enumerate() {
            let is_read = read.contains(&source.name.as_str()) || (index == 0 && read.contains(&""));
            if is_read && source::root(&config, &source.repository_url).is_none() {
                let message = source::not_granted(&source.repository_url);
                faults.push((format!("spec.sources[{index}].repositoryUrl"), message));
            }
        }
        plan.condition(if faults.is_empty() {
            let (sources, templates) = (project.spec.sources.len(), project.spec.templates.len());
            Condition::new("Ready", true, "Valid", format!("{sources} sources and {templates} templates can be used"))
        } else {
            let told: Vec<String> = faults.iter().map(|(field, message)| format!("{field}: {message}")).collect();
            Condition::new("Ready", false, "Invalid", told.join("; "))
        });
        Ok(plan)
    }
}

impl Reconcile<Environment> for EnvironmentPlugin {
    fn reconcile(environment: &Environment, cx: &Context) -> Result<Plan, Failure> {
        let mut plan = cx.plan();
        let config: Config = cx.config()?;
        let mut report = Report::new(environment.status.as_ref());
        match arrange(&mut plan, environment, cx, &config, &mut report) {
            Ok(()) => report.refused(&plan),
            Err(Stop::Failure(failure)) => return Err(failure),
            Err(Stop::Problem(problem)) => {
                plan.hold_rest();
                report.refused(&plan);
                report.problem(&problem);
                report.keep(environment.status.clone().unwrap_or_default());
            }
        }
        report.publish(&mut plan);
        Ok(plan)
    }
}

/// What an Environment consists of.
enum What<'a> {
    Workspace,
    Managed(DeploymentMode),
    Rendered(&'a EnvironmentTemplate, TemplateKind),
}

/// One step after the other; what cannot be done yet is told, and what comes after it stays as it is.
fn arrange(
    plan: &mut Plan,
    environment: &Environment,
    cx: &Context,
    config: &Config,
    report: &mut Report,
) -> Result<(), Stop> {
    let project = find_project(environment, cx)?;
    let kind = environment.spec.kind.as_str();
    let template = project.spec.templates.get(kind);
    let (sources, own) = ("spec.sources", format!("spec.templates.{kind}."));
    let fault = project.faults().into_iter().find(|(field, _)| field.starts_with(sources) || field.starts_with(&own));
    if let Some((field, message)) = fault {
        let message = format!("Project {}: {field}: {message}", project.name());
        return Err(of_spec(Step::Deployment, "InvalidProject", message).into());
    }
    if let Some(unknown) = environment.spec.sources.iter().find(|source| project.source(&source.name).is_none()) {
        let message = format!("spec.sources[{}]: the Project {} has no such source", unknown.name, project.name());
        return Err(of_spec(Step::Deployment, "SourceMissing", message).into());
    }
    let settings = environment.spec.config.over(template.and_then(|template| template.config.as_ref()));
    let what = decide(environment, &project, template, &settings)?;

    let place = namespace::find(environment, cx)?;
    report.namespace = Some(place.name.clone());
    report.phase = Phase::Initializing;
    plan.apply(namespace::namespace(&place.name, environment, &project));
    if !place.is_live {
        // what ran in another namespace did nothing for this one
        report.runs = JobRuns::default();
        report.say(Step::Namespace, false, "Creating", format!("namespace {} is being made", place.name));
        return Ok(());
    }
    policy::plan(plan, &place.name, &project.spec.resources.default_quota, config);
    let secrets = secrets::plan(plan, cx, config, &place.name)?;
    report.say(Step::Namespace, true, "Created", format!("namespace {} is there, with quota and policies", place.name));
    report.enter(Step::Build, plan);

    let site = Site { environment, project: &project, namespace: &place.name, secrets: &secrets, config };
    let loaded = match what {
        What::Rendered(template, kind) => Some(template::load(&site, cx, template, kind, &settings)?),
        _ => None,
    };
    let mut builds = template.map(|template| template.builds.clone()).unwrap_or_default();
    // containers that are described need the image that they name, and no other
    let is_any_used = match what {
        What::Rendered(..) => true,
        What::Managed(mode) => mode == DeploymentMode::Production && settings.image.is_empty(),
        What::Workspace => false,
    };
    builds.retain(|build| is_any_used || build.name == settings.image);
    for build in loaded.iter().flat_map(|loaded| loaded.builds()) {
        if builds.iter().all(|known| known.name != build.name) {
            builds.push(build);
        }
    }
    let Some(images) = build::plan(plan, cx, &site, &builds, report)? else {
        report.keep(environment.status.clone().unwrap_or_default());
        return Ok(());
    };
    report.enter(Step::Deployment, plan);
    report.rise(Phase::Deploying);
    let backend = match (what, loaded) {
        (What::Rendered(..), Some(loaded)) => {
            let copied = [&secrets.git, &secrets.registry].into_iter().flatten().map(|name| ("Secret", name.as_str()));
            let own: Vec<(&str, &str)> = OWN.into_iter().chain(copied).collect();
            let deployed = loaded.plan(plan, cx, &site, &images, &own, report)?;
            report.url = deployed.url;
            deployed.backend
        }
        (What::Managed(mode), _) => {
            managed::plan(plan, cx, &site, mode, &settings, &images, report)?;
            Some(Backend { service: WEB.into(), port: 80 })
        }
        _ => {
            managed::workspace(plan, &site, &settings, &images, report)?;
            None
        }
    };
    if let (Some(ingress), Some(backend)) = (&config.ingress, backend) {
        report.url = Some(ingress::plan(plan, ingress, environment, &project, &place.name, &backend)?);
    }
    Ok(())
}

/// Objects of every Environment, which no template may have.
const OWN: [(&str, &str); 9] = [
    ("ResourceQuota", "default-quota"),
    ("LimitRange", "default-limits"),
    ("NetworkPolicy", "default-deny"),
    ("NetworkPolicy", "allow-ingress-controller"),
    ("NetworkPolicy", "allow-intra-namespace"),
    ("NetworkPolicy", "allow-dns"),
    ("NetworkPolicy", "allow-https-egress"),
    ("ServiceAccount", "default"),
    ("ConfigMap", build::SCRIPTS),
];

/// In the namespace of the Environment: nobody reads that of others through it.
fn find_project(environment: &Environment, cx: &Context) -> Result<Project, Stop> {
    let (name, namespace) = (&environment.spec.project_ref.name, environment.namespace());
    cx.get::<Project>(name)?.ok_or_else(|| {
        let message = format!("spec.projectRef.name: there is no Project {name} in namespace {namespace}: make it");
        transient(Step::Deployment, "ProjectMissing", message).into()
    })
}

fn decide<'a>(
    environment: &Environment,
    project: &Project,
    template: Option<&'a EnvironmentTemplate>,
    settings: &EnvironmentConfig,
) -> Result<What<'a>, Problem> {
    let kind = environment.spec.kind.as_str();
    // with an image in its config, a template describes containers
    let describes = template.and_then(|t| t.config.as_ref()).is_some_and(|config| !config.image.is_empty());
    let rendered = template.filter(|template| {
        !describes && (template.kind() != Some(TemplateKind::Manifest) || !template.path.is_empty())
    });
    let rendered = rendered.and_then(|template| Some(What::Rendered(template, template.kind()?)));
    let by_type = match kind {
        "development" => Some(DeploymentMode::Development),
        "deployment" | "staging" | "production" => Some(DeploymentMode::Production),
        _ => None,
    };
    match environment.spec.deployment_mode {
        DeploymentMode::Workspace => Ok(What::Workspace),
        DeploymentMode::Development => Ok(What::Managed(DeploymentMode::Development)),
        DeploymentMode::Production => Ok(rendered.unwrap_or(What::Managed(DeploymentMode::Production))),
        DeploymentMode::ByTemplate => match (rendered, by_type, template) {
            (Some(rendered), ..) => Ok(rendered),
            (None, Some(mode), _) => Ok(What::Managed(mode)),
            (None, None, Some(_)) => Ok(What::Workspace),
            (None, None, None) if !settings.image.is_empty() => Ok(What::Workspace),
            (None, None, None) => {
                let known: Vec<&str> = project.spec.templates.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let message = format!(
                    "spec.type: {kind:?} is no template of Project {}, which has {known}: use one of them, or add \
                     spec.templates.{kind} to the Project",
                    project.name()
                );
                Err(of_spec(Step::Deployment, "TemplateMissing", message))
            }
        },
    }
}
