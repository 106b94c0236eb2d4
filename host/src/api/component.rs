//! Components that the host stores in the cluster, so that a version that serves can be loaded again without its source.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Label: name of the `Plugin` that the component is stored for.
pub const STORED_FOR_LABEL: &str = "transom.dev/stored-for";

/// Annotation: how many parts the component has. All of them must be there.
pub const PARTS_ANNOTATION: &str = "transom.dev/parts";

/// Annotation: digest of the component.
pub const DIGEST_ANNOTATION: &str = "transom.dev/digest";

/// Annotation: bytes of the component as it is stored, all parts together.
pub const BYTES_ANNOTATION: &str = "transom.dev/stored-bytes";

/// Annotation on the first part: short digests of the sets of signatures in it, separated by commas.
pub const SIGNATURES_ANNOTATION: &str = "transom.dev/signatures";

/// A part of a component that a version of a `Plugin` needs, as the host stores it.
///
/// The host writes these, and deletes those that no version needs; the `Plugin` owns them. They hold nothing that is
/// believed: a component is checked by its digest, and its signatures by the keys that are trusted now.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "transom.dev",
    version = "v1alpha1",
    kind = "StoredComponent",
    derive = "PartialEq",
    category = "transom",
    printcolumn = r#"{"name":"Plugin","type":"string","jsonPath":".metadata.labels.transom\\.dev/stored-for"}"#,
    printcolumn = r#"{"name":"Digest","type":"string","jsonPath":".spec.digest"}"#,
    printcolumn = r#"{"name":"Part","type":"integer","jsonPath":".spec.part"}"#,
    printcolumn = r#"{"name":"Parts","type":"integer","jsonPath":".spec.parts"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoredComponentSpec {
    /// SHA-256 of the component: `sha256:` and 64 hexadecimal digits.
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: String,
    /// Which part of the component this is, from 0.
    pub part: u32,
    /// How many parts the component has.
    pub parts: u32,
    /// This part of the component, compressed with gzip before it was divided, as base64.
    #[schemars(length(max = 1_048_576), extend("format" = "byte", "x-kubernetes-validations" = [fixed()]))]
    pub data: String,
    /// In the first part: manifests and signatures by which the component was verified, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262_144))]
    pub signatures: Option<String>,
}

/// What is stored under a digest is what has this digest.
fn fixed() -> serde_json::Value {
    serde_json::json!({ "rule": "self == oldSelf", "message": "a stored component cannot be changed" })
}
