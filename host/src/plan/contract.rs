//! The types of `wit/` as the host uses them. Every version of the WIT package is converted to these at the edge
//! (`plugin::convert`), so the rest of the host knows one contract only.

use std::fmt;

use serde::{Deserialize, Serialize};

/// UTF-8 JSON text of one object.
pub type Json = String;

/// The kind of an object as manifests spell it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeMeta {
    /// `apps/v1`
    pub api_version: String,
    /// `Deployment`
    pub kind: String,
}

impl TypeMeta {
    /// From the two fields of a manifest.
    pub fn new(api_version: impl Into<String>, kind: impl Into<String>) -> Self {
        Self { api_version: api_version.into(), kind: kind.into() }
    }

    /// That of an object; none when the text is no object that says it.
    #[must_use]
    pub fn of(object: &str) -> Option<Self> {
        serde_json::from_str(object).ok()
    }

    /// API group; empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Version without the group.
    #[must_use]
    pub fn version(&self) -> &str {
        self.api_version.split_once('/').map_or(self.api_version.as_str(), |(_, version)| version)
    }
}

impl fmt::Display for TypeMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.api_version, self.kind)
    }
}

/// One object of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// API version and kind.
    #[serde(flatten)]
    pub kind: TypeMeta,
    /// Empty for cluster-scoped objects.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
}

/// A kind without its version: objects of it are the same objects in every version that is served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKind {
    /// API group; empty for the core group.
    pub group: String,
    /// `Deployment`
    pub kind: String,
}

impl TypeMeta {
    /// The kind without its version.
    #[must_use]
    pub fn group_kind(&self) -> GroupKind {
        GroupKind { group: self.group().into(), kind: self.kind.clone() }
    }

    /// Is it the same kind, in whatever version?
    #[must_use]
    pub fn is_same_kind(&self, other: &Self) -> bool {
        self.kind == other.kind && self.group() == other.group()
    }
}

/// Identity of an object in the cluster: never its API version, since one object is served in several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// API group and kind.
    pub kind: GroupKind,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
}

impl ObjectRef {
    /// The object that it refers to, whatever the version.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        ObjectId { kind: self.kind.group_kind(), namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Is it the namespace of this name?
    #[must_use]
    pub fn is_namespace(&self, name: &str) -> bool {
        self.name == name && self.kind == TypeMeta::new("v1", "Namespace")
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind.kind, self.namespace, self.name)
        }
    }
}

/// A failure for code (`reason`) and for people (`message`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Problem {
    /// Stable CamelCase word.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

/// Something a plugin needs to know; see `wit/types.wit`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "every field is documented in wit/types.wit")]
pub enum Lookup {
    Object(ObjectRef),
    Objects { kind: TypeMeta, namespace: Option<String>, label_selector: String },
    Grpc { endpoint: String, path: String, message: Vec<u8>, max_age_ms: u32 },
    Http { endpoint: String, head: bool, path: String, max_age_ms: u32 },
    Image { reference: String, max_age_ms: u32 },
    Artifact { endpoint: String, reference: String, include: Vec<String>, max_age_ms: u32 },
    Engine { engine: String, input: Vec<u8> },
    Clock { seconds: u32 },
    Random { label: String, length: u32 },
}

/// What a lookup found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "every field is documented in wit/types.wit")]
pub enum Value {
    Object(Json),
    Objects(Vec<Json>),
    Bytes(Vec<u8>),
    Http { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    Digest(String),
    Files(Vec<(String, Vec<u8>)>),
    Time(u64),
}

/// The answer to a lookup. Absence and failure are answers too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// It is there.
    Found(Value),
    /// It is not there.
    Absent,
    /// The plugin may not ask; the text says what to grant.
    Denied(String),
    /// May get better by itself.
    Failed(Problem),
}

/// A lookup with its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Answered {
    /// What was asked.
    pub lookup: Lookup,
    /// What came back.
    pub answer: Answer,
}

/// How much of an object a plugin is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Delivery {
    /// `metadata` only.
    Metadata,
    /// `metadata` and `status`.
    Status,
    /// Everything.
    Full,
}

/// A service outside the API server that a plugin wants to reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Name by which lookups refer to it.
    pub name: String,
    /// `grpc`, `http`, `oci`, `git` or `folder`.
    pub protocol: String,
    /// What for.
    pub purpose: String,
    /// The plugin works without it.
    pub optional: bool,
}

/// What a plugin says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// DNS label.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// CustomResourceDefinition objects.
    pub crds: Vec<Json>,
    /// Kinds that plans may contain.
    pub children: Vec<(TypeMeta, Delivery)>,
    /// Kinds that lookups may ask for.
    pub reads: Vec<(TypeMeta, Delivery)>,
    /// Services that lookups and calls go to.
    pub endpoints: Vec<Endpoint>,
    /// Engines that lookups run.
    pub engines: Vec<String>,
    /// JSON Schema of the configuration.
    pub config_schema: Option<Json>,
    /// Wants to be called on deletion.
    pub finalizes: bool,
}

/// As API version and as kind: all that are not named.
const ANY: &str = "*";

impl Manifest {
    /// Kinds of children that are named.
    pub fn child_kinds(&self) -> impl Iterator<Item = &TypeMeta> {
        self.children.iter().map(|(kind, _)| kind).filter(|kind| kind.kind != ANY)
    }

    /// May plans contain kinds that are not named?
    #[must_use]
    pub fn makes_any_kind(&self) -> bool {
        self.children.iter().any(|(kind, _)| kind.kind == ANY)
    }

    /// How much of children of a kind the plugin is shown; none when plans may not contain them.
    #[must_use]
    pub fn delivery(&self, kind: &TypeMeta) -> Option<Delivery> {
        let exact = self.children.iter().find(|(declared, _)| declared == kind);
        // the API server may serve a child in another version than was asked for
        let named = exact.or_else(|| self.children.iter().find(|(declared, _)| declared.is_same_kind(kind)));
        named.or_else(|| self.children.iter().find(|(declared, _)| declared.kind == ANY)).map(|(_, delivery)| *delivery)
    }
}

/// A live child as the plugin sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Which object.
    #[serde(rename = "ref")]
    pub object_ref: ObjectRef,
    /// The object, as far as the manifest's delivery goes.
    pub object: Json,
}

/// What became of a call that an earlier plan made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CallResult {
    /// Its key.
    pub key: String,
    /// How it ended.
    pub outcome: CallOutcome,
}

/// How a call of a plan ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CallOutcome {
    /// Not made yet.
    Pending,
    /// The encoded response message.
    Succeeded(Vec<u8>),
    /// It did not work.
    Failed(Problem),
}

/// A child of the last plan that was not taken, by the API server or by the host's check of the plan. Part of
/// `request.ext`; see `wit/plugin.wit`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// Which child.
    #[serde(flatten)]
    pub child: ObjectRef,
    /// Stable word: that of the condition `Synced`.
    pub reason: String,
    /// The object and the API server's words.
    pub message: String,
    /// Sending the same object again does not help.
    pub is_final: bool,
}

/// Input of one call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The primary.
    pub object: Json,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// Sorted by reference.
    pub children: Vec<Observed>,
    /// In the order in which they were first asked for.
    pub answers: Vec<Answered>,
    /// Of the last plan, sorted by key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<CallResult>,
    /// Children of the last plan that were not taken, sorted by object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
    /// `spec.config` of the plugin record.
    pub config: Json,
    /// 0 for the first call of a reconcile.
    pub round: u32,
}

/// Output of one call that did not fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// Answer these and call again.
    Ask(Vec<Lookup>),
    /// Carry this out.
    Done(Box<Plan>),
}

/// A field that makes an object impossible to realise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// `spec.replicas`
    pub field: String,
    /// What is wrong and how to mend it.
    pub message: String,
}

/// Output of one call that failed in a way the plugin knows about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Failure {
    /// Somebody has to change the object.
    Invalid(Vec<Violation>),
    /// May get better by itself.
    Transient(Problem),
    /// The plugin's own fault.
    Internal(String),
}

/// What the host does with a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Disposition {
    /// Server-side apply whenever live state does not contain it.
    Apply,
    /// Create when missing, never touch again.
    CreateOnce,
    /// Leave as it is.
    Hold,
}

/// A child in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Partial object.
    pub object: Json,
    /// What to do with it.
    pub disposition: Disposition,
    /// Release instead of delete.
    pub keep: bool,
    /// Take over somebody else's object of this name.
    pub adopt: bool,
    /// Delete and create again when an immutable field changes.
    pub replace: bool,
}

/// Truth of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It cannot be said.
    Unknown,
}

impl Truth {
    /// As `metav1.Condition` spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A `metav1.Condition` without what the host adds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// CamelCase.
    #[serde(rename = "type")]
    pub type_: String,
    /// Does it hold?
    pub status: Truth,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Something worth telling about the primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Event {
    /// `Warning` instead of `Normal`.
    pub warning: bool,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub note: String,
}

/// A gRPC call to be made after the children.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "every field is documented in wit/plugin.wit")]
pub struct Call {
    pub key: String,
    pub endpoint: String,
    pub path: String,
    pub message: Vec<u8>,
}

/// All that should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// A child that was there before and is left out is pruned.
    pub children: Vec<Child>,
    /// The plugin's own fields under `.status`.
    pub status: Option<Json>,
    /// Without `Synced`.
    pub conditions: Vec<Condition>,
    /// About the primary.
    pub events: Vec<Event>,
    /// To be made after the children.
    pub calls: Vec<Call>,
    /// Indices into the request's answers.
    pub uses: Vec<u32>,
    /// Reconcile again after this time.
    pub requeue_after_ms: Option<u64>,
    /// Clean-up is done.
    pub finalized: bool,
}
