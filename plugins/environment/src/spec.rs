//! The kind `Environment`.

use std::collections::BTreeMap;

use transom_sdk::JobRun;
use transom_sdk::prelude::*;

use crate::settings::EnvironmentConfig;

/// A running instance of a Project in a namespace of its own: a preview of a pull request, a workspace, or production.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "catalyst.catalyst.dev",
    version = "v1alpha1",
    kind = "Environment",
    category = "primitives",
    namespaced,
    status = "EnvironmentStatus",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"URL","type":"string","jsonPath":".status.url"}"#,
    printcolumn = r#"{"name":"Namespace","type":"string","jsonPath":".status.namespace","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentSpec {
    /// The Project that it is an instance of.
    pub project_ref: ProjectReference,

    /// Which of the Project's templates: `development`, `deployment`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,

    /// `production`: what is built or rendered, as it is. `development`: the code on a volume, with hot reload and a
    /// database. `workspace`: a pod to work in. Where nothing is said, the template decides: a chart, kustomization,
    /// compose file or manifests are deployed as they are; else the type `development` is development, `deployment`,
    /// `staging` and `production` are production, and anything else is a workspace.
    #[serde(default, skip_serializing_if = "DeploymentMode::is_default")]
    pub deployment_mode: DeploymentMode,

    /// Which state of the Project's sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub sources: Vec<EnvironmentSource>,

    /// Laid over the `config` of the template.
    #[serde(default)]
    pub config: EnvironmentConfig,
}

/// Names a Project.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub struct ProjectReference {
    /// In the namespace of the Environment.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A state of a source.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentSource {
    /// That of the Project's source.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The whole commit. Empty, or `HEAD`: the newest one of the branch; images are built of commits only.
    #[schemars(length(max = 64))]
    pub commit_sha: String,
    /// The branch that the commit is on.
    #[schemars(length(max = 255))]
    pub branch: String,
    /// Number of the pull request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pr_number: Option<i64>,
}

/// How an Environment is deployed.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "said where it is used")]
pub enum DeploymentMode {
    #[default]
    #[serde(rename = "")]
    ByTemplate,
    Production,
    Development,
    Workspace,
}

impl DeploymentMode {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How an Environment is; its conditions say more.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentStatus {
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Where it can be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where everything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Built images by the names of their builds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<String, String>,
    /// What became of its Jobs: one that has finished and was cleaned up is not run again before it changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub jobs: Vec<JobRun>,
}

/// How far an Environment is.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Something is missing that others must bring.
    Pending,
    /// Its namespace is made.
    Initializing,
    /// Images are built.
    Building,
    /// What runs, starts.
    Deploying,
    /// It runs.
    Ready,
    /// It will not run until somebody changes something.
    Failed,
}

/// Labels of an Environment that say where it belongs, and of its namespace.
pub(crate) const TEAM_LABEL: &str = "catalyst.dev/team";
/// See [`TEAM_LABEL`].
pub(crate) const PROJECT_LABEL: &str = "catalyst.dev/project";
/// See [`TEAM_LABEL`].
pub(crate) const ENVIRONMENT_LABEL: &str = "catalyst.dev/environment";

impl Environment {
    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Empty when there is none.
    pub(crate) fn label(&self, key: &str) -> &str {
        self.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map_or("", String::as_str)
    }

    pub(crate) fn source(&self, name: &str) -> Option<&EnvironmentSource> {
        self.spec.sources.iter().find(|source| source.name == name)
    }
}
