//! An OCI artifact: the files of its layers.

use serde::Deserialize;

use super::cache::Cache;
use super::unpack::{Collector, Files, plain_path};
use super::{MAX_BYTES, blocking};
use crate::lookup::client::{Clients, failed};
use crate::lookup::grants::Endpoint;
use crate::lookup::image;
use crate::lookup::registry::{Repository, is_digest, is_repository, is_tag};
use crate::plan::contract::Answer;

/// What a single file is called (`opencontainers/image-spec: annotations.md`).
const TITLE: &str = "org.opencontainers.image.title";

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

/// `reference` is `repository:tag` or `repository@sha256:…` below the endpoint; only `:tag` or `@sha256:…` when the
/// endpoint is a whole repository.
pub(super) async fn fetch(
    cache: &Cache,
    clients: &Clients,
    endpoint: &Endpoint,
    reference: &str,
    mut collector: Collector,
) -> Result<Option<Files>, Answer> {
    let (below, which) = image::split(reference.trim_start_matches('/'));
    let name = format!("{}/{below}", endpoint.base);
    let name = name.trim_matches('/');
    let which = which.unwrap_or("latest");
    if !is_repository(name) || !(is_tag(which) || is_digest(which)) {
        return Err(failed("InvalidArgument", format!("{reference:?} must be repository:tag or repository@sha256:…")));
    }
    endpoint.allow(&format!("/{name}"))?;
    let client = clients.get(endpoint).await?;
    let repository = Repository { client: &client, endpoint, name };
    let Some((digest, manifest)) = repository.manifest(which).await? else {
        return Ok(None);
    };
    let unreadable = |what: String| failed("Unreadable", format!("{name}@{digest}: {what}"));
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|e| unreadable(format!("manifest: {e}")))?;
    if manifest.layers.is_empty() {
        return Err(unreadable("has no layers; an index is no artifact".into()));
    }
    let size = manifest.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
    if size > MAX_BYTES as u64 {
        return Err(failed("TooLarge", format!("{name}@{digest}: {size} bytes in layers, at most {MAX_BYTES}")));
    }
    for layer in manifest.layers {
        if !is_digest(&layer.digest) {
            return Err(unreadable(format!("the layer {:?} has no SHA-256", layer.digest)));
        }
        // a kept blob is given to those only who may pull from this repository: the manifest was just read from there
        let bytes = match cache.get(&layer.digest).await {
            Some(bytes) => bytes,
            None => {
                let size = usize::try_from(layer.size).unwrap_or(MAX_BYTES);
                let bytes = repository.blob(&layer.digest, size).await?;
                cache.put(&layer.digest, &bytes).await;
                bytes.to_vec()
            }
        };
        let at = format!("{name}@{digest}");
        collector = blocking(move || {
            layer.add(bytes, &mut collector).map_err(|(reason, message)| failed(reason, format!("{at}: {message}")))?;
            Ok(collector)
        })
        .await?;
    }
    Ok(Some(collector.files))
}

impl Layer {
    fn add(&self, bytes: Vec<u8>, collector: &mut Collector) -> Result<(), super::unpack::Refusal> {
        let kind = &self.media_type;
        if kind.ends_with("tar") || kind.ends_with("tar+gzip") || kind.ends_with("tar.gzip") {
            return collector.archive(&bytes);
        }
        match self.annotations.get(TITLE) {
            Some(title) => {
                let path = plain_path(title.as_bytes())?;
                if collector.wants(&path) { collector.add(path, bytes.as_slice()) } else { Ok(()) }
            }
            None => Err(("Unreadable", format!("a layer of type {kind:?} is no tar and has no {TITLE}"))),
        }
    }
}
