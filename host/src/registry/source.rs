//! Where components come from.

mod http;
mod oci;

use std::io::Read;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use super::signature::Signature;
use crate::api::plugin::{ConfigMapSource, ResolvedSource, SecretRef, SignaturePolicy, Source};
use crate::lookup::client::{Clients, SecretData};
use crate::plan::contract::{Answer, Problem};

pub(crate) use oci::{Chain, LAYER_TYPE, Registry};

/// A component larger than this is not read: the largest seen (Python) is 18 MB.
pub(crate) const MAX_COMPONENT_BYTES: usize = 64 << 20;

/// Of one signature; a bundle with all its certificates has a few kilobytes.
const MAX_SIGNATURE_BYTES: usize = 64 << 10;

/// Why a component could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct SourceError {
    /// Stable word.
    pub(crate) reason: &'static str,
    /// What is missing where.
    pub(crate) message: String,
}

pub(crate) fn refuse<T>(reason: &'static str, message: impl Into<String>) -> Result<T, SourceError> {
    Err(SourceError { reason, message: message.into() })
}

/// A refusal of the client as one of a source; `unavailable` is the reason when a server does not answer as it should.
fn refused(answer: Answer, unavailable: &'static str) -> SourceError {
    let (reason, message) = match answer {
        Answer::Denied(message) => ("Unauthorized", message),
        Answer::Failed(Problem { reason, message }) => {
            let known = ["TooLarge", "NotFound", "DigestMismatch", "InvalidCredentials", "CredentialsMissing"];
            let reason = match reason.as_str() {
                "InvalidArgument" => "InvalidSource",
                other => known.into_iter().find(|known| *known == other).unwrap_or(unavailable),
            };
            (reason, message)
        }
        Answer::Absent => ("NotFound", "there is no such file".into()),
        Answer::Found(_) => (unavailable, "an answer that makes no sense".into()),
    };
    SourceError { reason, message }
}

/// What there is to fetch with.
pub(super) struct Access<'a> {
    /// Of the API server, with the host's own rights.
    pub(super) client: &'a kube::Client,
    /// Of everything else.
    pub(super) clients: &'a Clients,
}

/// What a record names.
pub(super) struct Wanted<'a> {
    /// Where the record says so, for messages: `spec`, `spec.engines[x]`.
    pub(super) field: &'a str,
    pub(super) source: &'a Source,
    pub(super) signature: Option<&'a SignaturePolicy>,
    /// What the reference stood for when it was resolved.
    pub(super) resolved: Option<&'a ResolvedSource>,
}

/// Reads a component with this digest from the cache.
pub(super) type Cached<'a> = &'a (dyn Fn(&str) -> BoxFuture<'static, Option<Vec<u8>>> + Send + Sync);

/// What was fetched, before anything is believed.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) wasm: Vec<u8>,
    /// The texts of the index, if there is one, and of the manifest; each names the next by digest, the last one the
    /// component.
    pub(super) manifests: Vec<String>,
    /// Empty when none were wanted.
    pub(super) signatures: Vec<Signature>,
    pub(super) resolved: Option<ResolvedSource>,
}

/// Access for the command line, which has no records: Secrets come from files.
pub(crate) fn clients(read: impl Fn(&SecretRef) -> Option<SecretData> + Send + Sync + 'static) -> Clients {
    Clients::new(Arc::new(move |_, reference| std::future::ready(Ok(read(&reference))).boxed()))
}

/// Reads the component, and its signatures when they are wanted.
pub(super) async fn fetch(
    access: &Access<'_>,
    wanted: &Wanted<'_>,
    cached: Cached<'_>,
    with_signatures: bool,
) -> Result<Fetched, SourceError> {
    let beside = |wasm, signature: Option<Vec<u8>>| {
        let given = wanted.signature.and_then(|policy| policy.detached.clone());
        let beside = signature.and_then(|bytes| String::from_utf8(bytes).ok());
        let signatures = given.into_iter().chain(beside).map(Signature::Detached).collect();
        Fetched { wasm, manifests: Vec::new(), signatures, resolved: None }
    };
    match wanted.source {
        Source { file: Some(file), config_map: None, oci: None, http: None } => {
            let wasm = from_file(&file.path).await?;
            let signature = if with_signatures { signature_file(&file.path).await? } else { None };
            Ok(beside(wasm, signature))
        }
        Source { file: None, config_map: Some(map), oci: None, http: None } => {
            let (wasm, signature) = from_config_map(access.client, map).await?;
            Ok(beside(wasm, signature))
        }
        Source { file: None, config_map: None, oci: Some(oci), http: None } => {
            oci::fetch(access.clients, wanted, oci, cached, with_signatures).await
        }
        Source { file: None, config_map: None, oci: None, http: Some(http) } => {
            let (wasm, signature) = http::fetch(access.clients, wanted.field, http, with_signatures).await?;
            Ok(beside(wasm, signature))
        }
        _ => refuse(
            "InvalidSource",
            format!("{}.source must name exactly one of file, configMap, oci and http", wanted.field),
        ),
    }
}

async fn from_file(path: &str) -> Result<Vec<u8>, SourceError> {
    let size = match tokio::fs::metadata(path).await {
        Ok(metadata) => metadata.len(),
        Err(error) => return refuse("NotFound", format!("spec.source.file.path {path}: {error}")),
    };
    if size > MAX_COMPONENT_BYTES as u64 {
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

async fn signature_file(path: &str) -> Result<Option<Vec<u8>>, SourceError> {
    let path = format!("{path}.sig");
    match tokio::fs::metadata(&path).await {
        Ok(metadata) if metadata.len() > MAX_SIGNATURE_BYTES as u64 => {
            return refuse("TooLarge", format!("{path}: {} bytes, at most {MAX_SIGNATURE_BYTES}", metadata.len()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return refuse("Unreadable", format!("{path}: {error}")),
    }
    match tokio::fs::read(&path).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => refuse("Unreadable", format!("{path}: {error}")),
    }
}

/// The component, and what is under the same key with `.sig`.
async fn from_config_map(
    client: &kube::Client,
    source: &ConfigMapSource,
) -> Result<(Vec<u8>, Option<Vec<u8>>), SourceError> {
    let ConfigMapSource { namespace, name, key } = source;
    match Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(name).await {
        Ok(Some(mut map)) => {
            let beside = format!("{key}.sig");
            let text = map.data.as_mut().and_then(|data| data.remove(&beside)).map(String::into_bytes);
            let mut binary = map.binary_data.unwrap_or_default();
            let signature = text.or_else(|| binary.remove(&beside).map(|bytes| bytes.0));
            match binary.remove(key) {
                Some(bytes) => Ok((unpack(bytes.0, &format!("ConfigMap {namespace}/{name}, {key}"))?, signature)),
                None => refuse("NotFound", format!("ConfigMap {namespace}/{name} has no key {key} under binaryData")),
            }
        }
        Ok(None) => refuse("NotFound", missing_map(namespace, name)),
        Err(error) => refuse("Unavailable", format!("ConfigMap {namespace}/{name}: {error}")),
    }
}

/// That there is no such ConfigMap, and why there can be none.
fn missing_map(namespace: &str, name: &str) -> String {
    let is_lower = |text: &str| !text.contains(|c: char| c.is_uppercase());
    let wrong = [("namespace", namespace), ("name", name)].into_iter().find(|(_, text)| !is_lower(text));
    let rule = wrong.map(|(field, text)| {
        format!("; spec.source.configMap.{field} is {text:?}, and names have lower-case letters only")
    });
    format!("there is no ConfigMap {namespace}/{name}{}", rule.unwrap_or_default())
}

/// A ConfigMap holds 1 MiB, a component is often larger: what begins like gzip is taken for it.
pub(super) fn unpack(bytes: Vec<u8>, at: &str) -> Result<Vec<u8>, SourceError> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    let limit = MAX_COMPONENT_BYTES as u64 + 1;
    // a few kilobytes can unpack to gigabytes
    match MultiGzDecoder::new(bytes.as_slice()).take(limit).read_to_end(&mut unpacked) {
        Ok(size) if size <= MAX_COMPONENT_BYTES => Ok(unpacked),
        Ok(_) => refuse("TooLarge", format!("{at}: more than {MAX_COMPONENT_BYTES} bytes")),
        Err(error) => refuse("Unreadable", format!("{at}: not gzip: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn a_name_in_the_wrong_case_is_told_the_rule() {
        assert_eq!(missing_map("team", "web"), "there is no ConfigMap team/web");
        let rule = "spec.source.configMap.name is \"Web\", and names have lower-case letters only";
        assert_eq!(missing_map("team", "Web"), format!("there is no ConfigMap team/Web; {rule}"));
        assert!(missing_map("Team", "web").contains("spec.source.configMap.namespace is \"Team\""));
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_is_unpacked_and_everything_else_left_as_it_is() {
        assert_eq!(unpack(packed(b"\0asm"), "here").unwrap(), b"\0asm");
        assert_eq!(unpack(b"\0asm".to_vec(), "here").unwrap(), b"\0asm");
    }

    #[test]
    fn a_bomb_and_a_broken_stream_are_refused() {
        let bomb = packed(&vec![0; MAX_COMPONENT_BYTES + 1]);
        assert_eq!(unpack(bomb, "here").unwrap_err().reason, "TooLarge");
        assert_eq!(unpack(vec![0x1f, 0x8b, 0, 0], "here").unwrap_err().reason, "Unreadable");
    }

    #[tokio::test]
    async fn the_signature_of_a_file_is_beside_it_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm").display().to_string();
        assert_eq!(signature_file(&path).await, Ok(None));
        std::fs::write(format!("{path}.sig"), "c2ln").unwrap();
        assert_eq!(signature_file(&path).await, Ok(Some(b"c2ln".to_vec())));
        std::fs::write(format!("{path}.sig"), vec![b'a'; MAX_SIGNATURE_BYTES + 1]).unwrap();
        assert_eq!(signature_file(&path).await.unwrap_err().reason, "TooLarge");
    }
}
