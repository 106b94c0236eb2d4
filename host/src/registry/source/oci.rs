//! Components from an OCI registry: the Wasm artifact layout (<https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>),
//! and cosign's signatures beside it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use super::{Cached, Fetched, MAX_COMPONENT_BYTES, MAX_SIGNATURE_BYTES, SourceError, Wanted, refuse, refused};
use crate::api::plugin::{OciSource, ResolvedSource};
use crate::lookup::client::{Client, Clients};
use crate::lookup::grants::{Endpoint, Protocol};
use crate::lookup::image::Reference;
use crate::lookup::registry::{Repository, digest_of, is_digest};
use crate::plan::contract::{Answer, Problem};
use crate::registry::signature::{SIMPLE_ANNOTATION, Signature};

/// Of the layer with the component.
pub(crate) const LAYER_TYPE: &str = "application/wasm";
/// As tools wrote it before the layout was settled.
const OLD_LAYER_TYPE: &str = "application/vnd.wasm.content.layer.v1+wasm";

/// A component of 18 MB over a line of 2 Mbit/s takes 72 s.
const DEADLINE: Duration = Duration::from_secs(120);

/// Manifests that say that they are about a component, and layers of one, which are looked at.
const MAX_REFERRERS: usize = 32;

const UNAVAILABLE: &str = "RegistryUnavailable";

/// An index or a manifest, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
    /// Of an index.
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// Something that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: Option<String>,
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
}

/// Manifests that lead to a component.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Of the index, if there is one, and of the manifest.
    pub(crate) digests: Vec<String>,
    /// The component.
    pub(crate) layer: Descriptor,
}

impl Chain {
    /// Follows the digests from the first text to the component: every text is what the one before it names.
    ///
    /// # Errors
    /// `NotWasm` when they do not lead to one component.
    pub(crate) fn follow(texts: &[String]) -> Result<Self, SourceError> {
        let mut digests: Vec<String> = Vec::new();
        let mut next: Option<String> = None;
        for text in texts {
            let digest = digest_of(text.as_bytes());
            if next.as_ref().is_some_and(|expected| *expected != digest) {
                return refuse("NotWasm", format!("{digest} is not the manifest that the index names"));
            }
            digests.push(digest.clone());
            match parse(text.as_bytes(), &digest)?.step(&digest)? {
                Step::Manifest(digest) => next = Some(digest),
                Step::Component(layer) => return Ok(Self { digests, layer }),
            }
        }
        refuse("NotWasm", "an index without the manifest that it names")
    }
}

enum Step {
    Manifest(String),
    Component(Descriptor),
}

fn parse(text: &[u8], digest: &str) -> Result<Manifest, SourceError> {
    serde_json::from_slice(text)
        .or_else(|error| refuse("NotWasm", format!("{digest} is no manifest of an OCI artifact: {error}")))
}

impl Manifest {
    fn step(self, digest: &str) -> Result<Step, SourceError> {
        if !self.manifests.is_empty() {
            let is_wasm = |one: &&Descriptor| one.platform.as_ref().is_some_and(|p| p.architecture == "wasm");
            let found = match self.manifests.as_slice() {
                [only] => vec![only],
                many => many.iter().filter(is_wasm).collect(),
            };
            return match found.as_slice() {
                [one] if is_digest(&one.digest) => Ok(Step::Manifest(one.digest.clone())),
                _ => refuse(
                    "NotWasm",
                    format!("the index {digest} has no single manifest for wasm: name the manifest by its digest"),
                ),
            };
        }
        let is_component = |layer: &&Descriptor| matches!(&*layer.media_type, LAYER_TYPE | OLD_LAYER_TYPE);
        let found: Vec<&Descriptor> = self.layers.iter().filter(is_component).collect();
        match found.as_slice() {
            [layer] if is_digest(&layer.digest) => Ok(Step::Component((*layer).clone())),
            _ => {
                let types: Vec<&str> = self.layers.iter().take(4).map(|layer| &*layer.media_type).collect();
                refuse(
                    "NotWasm",
                    format!("{digest} is no Wasm artifact: it needs one layer of type {LAYER_TYPE}, but has {types:?}"),
                )
            }
        }
    }
}

/// One repository, and what is named in it.
pub(crate) struct Registry {
    client: Arc<Client>,
    endpoint: Endpoint,
    pub(crate) reference: Reference,
}

impl Registry {
    /// Connects to nothing yet, but reads the Secrets. `field` is that of the record, for messages.
    ///
    /// # Errors
    /// When the reference or the credentials are none.
    pub(crate) async fn open(clients: &Clients, field: &str, source: &OciSource) -> Result<Self, SourceError> {
        let field = format!("{field}.source.oci");
        let reference = Reference::parse(&source.reference).map_err(|answer| {
            let SourceError { message, .. } = refused(answer, UNAVAILABLE);
            SourceError { reason: "InvalidSource", message: format!("{field}.reference: {message}") }
        })?;
        let secrets = (source.credentials.as_ref(), source.ca.as_ref());
        let endpoint = Endpoint::source(&field, Protocol::Oci, &reference.authority, source.plaintext, secrets)
            .map_err(|message| SourceError { reason: "InvalidSource", message })?;
        let client = clients.get(&endpoint).await.map_err(|answer| refused(answer, UNAVAILABLE))?;
        Ok(Self { client, endpoint, reference })
    }

    /// For requests.
    pub(crate) fn repository(&self) -> Repository<'_> {
        Repository { client: &self.client, endpoint: &self.endpoint, name: &self.reference.repository }
    }

    fn refused(&self, answer: Answer) -> SourceError {
        refused(answer, UNAVAILABLE)
    }

    /// `registry/repository`, and the tag or digest if given.
    fn named(&self, which: &str) -> String {
        let glue = if is_digest(which) { '@' } else { ':' };
        format!("{}/{}{glue}{which}", self.reference.authority, self.reference.repository)
    }

    /// The digest that the reference stands for now.
    ///
    /// # Errors
    /// `NotFound`, `Unauthorized`, `RegistryUnavailable`.
    pub(crate) async fn resolve(&self) -> Result<String, SourceError> {
        let which = &self.reference.which;
        if is_digest(which) {
            return Ok(which.clone());
        }
        match self.repository().digest(which).await.map_err(|answer| self.refused(answer))? {
            Some(digest) => Ok(digest),
            None => refuse("NotFound", format!("{}: the registry has no such tag", self.named(which))),
        }
    }

    /// The texts of the manifests from this digest to the component.
    ///
    /// # Errors
    /// As [`Registry::resolve`], and `NotWasm`.
    pub(crate) async fn manifests(&self, digest: &str) -> Result<Vec<String>, SourceError> {
        let mut texts = Vec::new();
        let mut next = digest.to_owned();
        // an index, and a manifest
        for _ in 0..2 {
            let found = self.repository().manifest(&next).await.map_err(|answer| self.refused(answer))?;
            let Some((_, text)) = found else {
                return refuse("NotFound", format!("{}: the registry has no such manifest", self.named(&next)));
            };
            let text = String::from_utf8(text.to_vec())
                .or_else(|_| refuse("NotWasm", format!("{}: the manifest is not UTF-8", self.named(&next))))?;
            let step = parse(text.as_bytes(), &next)?.step(&next)?;
            texts.push(text);
            match step {
                Step::Component(_) => return Ok(texts),
                Step::Manifest(digest) => next = digest,
            }
        }
        refuse("NotWasm", format!("{}: an index of an index", self.named(digest)))
    }

    /// The component itself.
    ///
    /// # Errors
    /// `TooLarge` before it is read, and as [`Registry::resolve`].
    pub(crate) async fn component(&self, layer: &Descriptor) -> Result<Bytes, SourceError> {
        let size = usize::try_from(layer.size).unwrap_or(usize::MAX);
        if size > MAX_COMPONENT_BYTES {
            let at = self.named(&layer.digest);
            return refuse("TooLarge", format!("{at}: the component has {size} bytes, at most {MAX_COMPONENT_BYTES}"));
        }
        let blob = self.repository().blob_within(&layer.digest, size, DEADLINE).await;
        blob.map_err(|answer| self.refused(answer))
    }

    /// All signatures of these digests, in both forms. What is no signature is passed over; what cannot be read is an
    /// error, since it could be the one that counts.
    ///
    /// # Errors
    /// As [`Registry::resolve`].
    pub(crate) async fn signatures(&self, digests: &[String]) -> Result<Vec<Signature>, SourceError> {
        let mut found = Vec::new();
        for digest in digests {
            found.extend(self.bundles(digest).await?);
            found.extend(self.simple(digest).await?);
        }
        Ok(found)
    }

    /// cosign 3: a manifest that refers to the component's.
    async fn bundles(&self, digest: &str) -> Result<Vec<Signature>, SourceError> {
        let index = match self.repository().referrers(digest).await {
            Ok(Some(index)) => index,
            Ok(None) => return Ok(Vec::new()),
            // a registry that answers the unknown path with something else than 404
            Err(Answer::Failed(Problem { reason, .. })) if reason.starts_with("Http4") => return Ok(Vec::new()),
            Err(answer) => return Err(self.refused(answer)),
        };
        let is_bundle = |kind: &str| kind.starts_with("application/vnd.dev.sigstore.bundle");
        let may_be = |one: &&Descriptor| {
            let kind = one.artifact_type.as_deref().unwrap_or_default();
            is_digest(&one.digest) && (kind.is_empty() || is_bundle(kind))
        };
        let mut found = Vec::new();
        for referrer in parse(&index, digest)?.manifests.iter().filter(may_be).take(MAX_REFERRERS) {
            let Some(manifest) = self.find(&referrer.digest).await? else { continue };
            for layer in manifest.layers.iter().filter(|layer| is_bundle(&layer.media_type)).take(MAX_REFERRERS) {
                found.push(Signature::Bundle(self.text(layer).await?));
            }
        }
        Ok(found)
    }

    /// Before cosign 3: layers of a manifest under a tag that is made of the digest.
    async fn simple(&self, digest: &str) -> Result<Vec<Signature>, SourceError> {
        let tag = format!("{}.sig", digest.replace(':', "-"));
        let Some(manifest) = self.find(&tag).await? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for layer in manifest.layers.iter().take(MAX_REFERRERS) {
            if let Some(signature) = layer.annotations.get(SIMPLE_ANNOTATION) {
                found.push(Signature::Simple { payload: self.text(layer).await?, signature: signature.clone() });
            }
        }
        Ok(found)
    }

    /// None when there is none, or when it is no manifest.
    async fn find(&self, reference: &str) -> Result<Option<Manifest>, SourceError> {
        let found = self.repository().manifest(reference).await.map_err(|answer| self.refused(answer))?;
        Ok(found.and_then(|(digest, text)| parse(&text, &digest).ok()))
    }

    async fn text(&self, layer: &Descriptor) -> Result<String, SourceError> {
        let size = usize::try_from(layer.size).unwrap_or(usize::MAX);
        if size > MAX_SIGNATURE_BYTES || !is_digest(&layer.digest) {
            let at = self.named(&layer.digest);
            return refuse(
                "SignatureInvalid",
                format!("{at}: a signature of {size} bytes, at most {MAX_SIGNATURE_BYTES}"),
            );
        }
        let blob = self.repository().blob(&layer.digest, size).await.map_err(|answer| self.refused(answer))?;
        String::from_utf8(blob.to_vec())
            .or_else(|_| refuse("SignatureInvalid", format!("{}: not UTF-8", self.named(&layer.digest))))
    }
}

/// The component and its signatures. With a digest that was resolved before, a tag is not asked for again.
pub(super) async fn fetch(
    clients: &Clients,
    wanted: &Wanted<'_>,
    source: &OciSource,
    cached: Cached<'_>,
    with_signatures: bool,
) -> Result<Fetched, SourceError> {
    let registry = Registry::open(clients, wanted.field, source).await?;
    let digest = match wanted.resolved {
        Some(resolved) => resolved.manifest.clone(),
        None => registry.resolve().await?,
    };
    let manifests = registry.manifests(&digest).await?;
    let chain = Chain::follow(&manifests)?;
    let wasm = match cached(&chain.layer.digest).await {
        Some(wasm) => wasm,
        None => registry.component(&chain.layer).await?.to_vec(),
    };
    let signatures = if with_signatures { registry.signatures(&chain.digests).await? } else { Vec::new() };
    let resolved = ResolvedSource {
        reference: source.reference.clone(),
        refresh: source.refresh.clone(),
        manifest: digest,
        component: chain.layer.digest,
    };
    Ok(Fetched { wasm, manifests, signatures, resolved: Some(resolved) })
}

#[cfg(test)]
mod tests;
