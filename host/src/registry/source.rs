//! Where components come from.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use crate::api::plugin::{ConfigMapSource, Source};

/// A component larger than this is not read: the largest seen (Python) is 18 MB.
const MAX_COMPONENT_BYTES: u64 = 64 << 20;

/// Why a component could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct SourceError {
    /// Stable word.
    pub(super) reason: &'static str,
    /// What is missing where.
    pub(super) message: String,
}

fn refuse<T>(reason: &'static str, message: impl Into<String>) -> Result<T, SourceError> {
    Err(SourceError { reason, message: message.into() })
}

/// Reads the component.
pub(super) async fn fetch(client: &kube::Client, source: &Source) -> Result<Vec<u8>, SourceError> {
    match (&source.file, &source.config_map) {
        (Some(file), None) => from_file(&file.path).await,
        (None, Some(map)) => from_config_map(client, map).await,
        _ => refuse("InvalidSource", "spec.source must name exactly one of file and configMap"),
    }
}

async fn from_file(path: &str) -> Result<Vec<u8>, SourceError> {
    let size = match tokio::fs::metadata(path).await {
        Ok(metadata) => metadata.len(),
        Err(error) => return refuse("NotFound", format!("spec.source.file.path {path}: {error}")),
    };
    if size > MAX_COMPONENT_BYTES {
        return refuse(
            "TooLarge",
            format!("spec.source.file.path {path}: {size} bytes, at most {MAX_COMPONENT_BYTES}"),
        );
    }
    match tokio::fs::read(path).await {
        Ok(bytes) => Ok(bytes),
        Err(error) => refuse("Unreadable", format!("spec.source.file.path {path}: {error}")),
    }
}

async fn from_config_map(client: &kube::Client, source: &ConfigMapSource) -> Result<Vec<u8>, SourceError> {
    let ConfigMapSource { namespace, name, key } = source;
    match Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(name).await {
        Ok(Some(map)) => match map.binary_data.unwrap_or_default().remove(key) {
            Some(bytes) => Ok(bytes.0),
            None => refuse("NotFound", format!("ConfigMap {namespace}/{name} has no key {key} under binaryData")),
        },
        Ok(None) => refuse("NotFound", format!("there is no ConfigMap {namespace}/{name}")),
        Err(error) => refuse("Unavailable", format!("ConfigMap {namespace}/{name}: {error}")),
    }
}
