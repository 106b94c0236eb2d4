//! To a registry: components, and signatures of them. For the command line.

use bytes::Bytes;
use serde_json::{Value, json};

use super::digest_of;
use super::signature::{BUNDLE_TYPE, PREDICATE, SIMPLE_ANNOTATION, SIMPLE_LAYER};
use super::signing::SigningKey;
use super::source::{LAYER_TYPE, Registry, SourceError};
use crate::lookup::registry::is_digest;
use crate::plan::contract::{Answer, Problem};

const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";

/// Which form a signature has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// The bundle of cosign 3, as a manifest that refers to the component's.
    Bundle,
    /// The tag `sha256-….sig`, for cosign before 3.
    Legacy,
}

fn refused(answer: Answer) -> SourceError {
    match answer {
        Answer::Denied(message) => SourceError { reason: "Unauthorized", message },
        Answer::Failed(Problem { message, .. }) => SourceError { reason: "RegistryUnavailable", message },
        _ => SourceError { reason: "RegistryUnavailable", message: "an answer that makes no sense".into() },
    }
}

fn descriptor(kind: &str, content: &Bytes) -> Value {
    json!({ "mediaType": kind, "digest": digest_of(content), "size": content.len() })
}

fn text(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// Pushes a component under the reference's tag. The same component has the same manifest, whoever pushes it and when.
/// Returns the manifest's digest.
///
/// # Errors
/// When the registry does not take it.
pub(crate) async fn push(registry: &Registry, wasm: Bytes, annotations: Value) -> Result<String, SourceError> {
    let repository = registry.repository();
    let component = descriptor(LAYER_TYPE, &wasm);
    let config = text(&json!({
        "created": "1970-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip2",
        "layerDigests": [component.get("digest")], "component": { "exports": [], "imports": [] },
    }));
    let manifest = text(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": descriptor(CONFIG_TYPE, &config),
        "layers": [component], "annotations": annotations,
    }));
    repository.push_blob(wasm).await.map_err(refused)?;
    repository.push_blob(config).await.map_err(refused)?;
    let digest = digest_of(&manifest);
    repository.push_manifest(&registry.reference.which, MANIFEST_TYPE, manifest).await.map_err(refused)?;
    Ok(digest)
}

/// Signs what the digest names, in this form.
///
/// # Errors
/// When the registry does not take it, or the system has no random bytes.
pub(crate) async fn sign(registry: &Registry, digest: &str, key: &SigningKey, form: Form) -> Result<(), SourceError> {
    let unsigned = |message| SourceError { reason: "SignatureInvalid", message };
    match form {
        Form::Legacy => {
            let name = format!("{}/{}", registry.reference.authority, registry.reference.repository);
            let (payload, signature) = key.simple(&name, digest).map_err(unsigned)?;
            legacy(registry, digest, payload.into(), &signature).await
        }
        Form::Bundle => bundle(registry, digest, key.bundle(digest).map_err(unsigned)?.into()).await,
    }
}

/// Adds a layer to the manifest under the tag `sha256-….sig`.
async fn legacy(registry: &Registry, digest: &str, payload: Bytes, signature: &str) -> Result<(), SourceError> {
    let repository = registry.repository();
    let tag = format!("{}.sig", digest.replace(':', "-"));
    let before = repository.manifest(&tag).await.map_err(refused)?;
    let before: Option<Value> = before.and_then(|(_, text)| serde_json::from_slice(&text).ok());
    let mut layers = before.and_then(|manifest| manifest.get("layers")?.as_array().cloned()).unwrap_or_default();
    let mut layer = descriptor(SIMPLE_LAYER, &payload);
    if let Some(layer) = layer.as_object_mut() {
        layer.insert("annotations".into(), json!({ SIMPLE_ANNOTATION: signature }));
    }
    layers.push(layer);
    let ids: Vec<&Value> = layers.iter().filter_map(|layer| layer.get("digest")).collect();
    let config = text(&json!({
        "architecture": "", "created": "0001-01-01T00:00:00Z", "os": "", "config": {},
        "history": ids.iter().map(|_| json!({ "created": "0001-01-01T00:00:00Z" })).collect::<Vec<_>>(),
        "rootfs": { "type": "layers", "diff_ids": ids },
    }));
    let manifest = text(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config), "layers": layers,
    }));
    repository.push_blob(payload).await.map_err(refused)?;
    repository.push_blob(config).await.map_err(refused)?;
    repository.push_manifest(&tag, MANIFEST_TYPE, manifest).await.map_err(refused)?;
    Ok(())
}

/// A manifest that refers to the component's, and, for a registry that keeps no list of those, the list
/// (`opencontainers/distribution-spec: spec.md`, Referrers Tag Schema).
async fn bundle(registry: &Registry, digest: &str, bundle: Bytes) -> Result<(), SourceError> {
    let repository = registry.repository();
    let missing =
        || SourceError { reason: "NotFound", message: format!("{digest}: the registry has no such manifest") };
    let (_, subject) = repository.manifest(digest).await.map_err(refused)?.ok_or_else(missing)?;
    let empty = Bytes::from_static(b"{}");
    let annotations = json!({
        "dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": PREDICATE,
        "org.opencontainers.image.created": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    let kind = serde_json::from_slice::<Value>(&subject).ok();
    let kind = kind.as_ref().and_then(|subject| subject.get("mediaType")?.as_str()).unwrap_or(MANIFEST_TYPE);
    let manifest = text(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "artifactType": BUNDLE_TYPE,
        "config": descriptor(EMPTY_TYPE, &empty), "layers": [descriptor(BUNDLE_TYPE, &bundle)],
        "subject": descriptor(kind, &subject), "annotations": annotations,
    }));
    repository.push_blob(empty).await.map_err(refused)?;
    repository.push_blob(bundle).await.map_err(refused)?;
    let own = digest_of(&manifest);
    let is_listed = repository.push_manifest(&own, MANIFEST_TYPE, manifest.clone()).await.map_err(refused)?;
    if is_listed || !is_digest(digest) {
        return Ok(());
    }
    let tag = digest.replace(':', "-");
    let before = repository.manifest(&tag).await.map_err(refused)?;
    let before: Option<Value> = before.and_then(|(_, text)| serde_json::from_slice(&text).ok());
    let mut listed = before.and_then(|index| index.get("manifests")?.as_array().cloned()).unwrap_or_default();
    let mut entry = descriptor(MANIFEST_TYPE, &manifest);
    if let Some(entry) = entry.as_object_mut() {
        entry.insert("artifactType".into(), json!(BUNDLE_TYPE));
        entry.insert("annotations".into(), annotations);
    }
    listed.push(entry);
    let index = text(&json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": listed }));
    repository.push_manifest(&tag, INDEX_TYPE, index).await.map_err(refused)?;
    Ok(())
}
