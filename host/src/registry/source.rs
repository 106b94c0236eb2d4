//! Where components come from.

use std::io::Read;

use flate2::read::MultiGzDecoder;
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
            Some(bytes) => unpack(bytes.0, source),
            None => refuse("NotFound", format!("ConfigMap {namespace}/{name} has no key {key} under binaryData")),
        },
        Ok(None) => refuse("NotFound", format!("there is no ConfigMap {namespace}/{name}")),
        Err(error) => refuse("Unavailable", format!("ConfigMap {namespace}/{name}: {error}")),
    }
}

/// A ConfigMap holds 1 MiB, a component is often larger: what begins like gzip is taken for it.
fn unpack(bytes: Vec<u8>, source: &ConfigMapSource) -> Result<Vec<u8>, SourceError> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let ConfigMapSource { namespace, name, key } = source;
    let mut unpacked = Vec::new();
    // a few kilobytes can unpack to gigabytes
    match MultiGzDecoder::new(bytes.as_slice()).take(MAX_COMPONENT_BYTES + 1).read_to_end(&mut unpacked) {
        Ok(size) if size as u64 <= MAX_COMPONENT_BYTES => Ok(unpacked),
        Ok(_) => {
            refuse("TooLarge", format!("ConfigMap {namespace}/{name}, {key}: more than {MAX_COMPONENT_BYTES} bytes"))
        }
        Err(error) => refuse("Unreadable", format!("ConfigMap {namespace}/{name}, {key}: not gzip: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::*;

    fn source() -> ConfigMapSource {
        ConfigMapSource { namespace: "n".into(), name: "m".into(), key: "k".into() }
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_is_unpacked_and_everything_else_left_as_it_is() {
        assert_eq!(unpack(packed(b"\0asm"), &source()).unwrap(), b"\0asm");
        assert_eq!(unpack(b"\0asm".to_vec(), &source()).unwrap(), b"\0asm");
    }

    #[test]
    fn a_bomb_and_a_broken_stream_are_refused() {
        let bomb = packed(&vec![0; usize::try_from(MAX_COMPONENT_BYTES).unwrap() + 1]);
        assert_eq!(unpack(bomb, &source()).unwrap_err().reason, "TooLarge");
        assert_eq!(unpack(vec![0x1f, 0x8b, 0, 0], &source()).unwrap_err().reason, "Unreadable");
    }
}
