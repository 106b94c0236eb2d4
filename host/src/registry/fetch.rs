//! From a source to a component that may be run: policy, fetch, digest, signature, and what is kept on disk.
//!
//! A component is kept under its digest, and with it the texts that its signatures are checked with. Both prove themselves:
//! the component by its digest, the signatures by the keys that are trusted now. So a host that starts again needs no
//! source, and whoever writes to the folder gains nothing. The same is in the cluster ([`Store`]), for a host whose disk is empty.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde::{Deserialize, Serialize};

use super::digest_of;
use super::load::LoadFailure;
use super::policy::Policy;
use super::signature::{Refusal, Signature, Subject, VerifyingKey, verify};
use super::source::{self, Access, Fetched, SourceError, Wanted, refuse};
use super::store::Store;
use crate::api::plugin::{EngineSpec, KeyRef, PublicKey, ResolvedSource, SecretRef, SignaturePolicy, Source};
use crate::api::rollout::VersionSpec;
use crate::control::cluster::Cluster;
use crate::lookup::client::Clients;
use crate::lookup::read_secret;
use crate::lookup::registry::is_digest;

/// Sets of signatures that are kept for one component: it may be in several repositories.
const MAX_KEPT: usize = 8;

/// Fetches components, with the rights and by the rules of the host.
pub(super) struct Fetcher {
    cluster: Arc<Cluster>,
    clients: Clients,
    policy: Policy,
    dir: PathBuf,
    /// Components in the cluster.
    pub(super) store: Store,
}

/// A component that may be run.
pub(super) struct Component {
    pub(super) wasm: Vec<u8>,
    pub(super) digest: String,
    /// What the reference to a registry stood for.
    pub(super) resolved: Option<ResolvedSource>,
    /// What its signatures were checked with, where some were required.
    pub(super) evidence: Option<Evidence>,
}

/// What a component's signatures are checked with, as it was fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Evidence {
    manifests: Vec<String>,
    signatures: Vec<Signature>,
}

impl Evidence {
    /// Tells it from others.
    pub(super) fn short(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        digest_of(&text).trim_start_matches("sha256:").chars().take(12).collect()
    }
}

/// A component as a record names it.
pub(super) struct Named<'a> {
    field: String,
    source: &'a Source,
    digest: Option<&'a str>,
    signature: Option<&'a SignaturePolicy>,
}

impl<'a> Named<'a> {
    pub(super) fn plugin(spec: &'a VersionSpec) -> Self {
        let (source, digest) = (&spec.source, spec.digest.as_deref());
        Self { field: "spec".into(), source, digest, signature: spec.signature.as_ref() }
    }

    pub(super) fn engine(spec: &'a EngineSpec) -> Self {
        let (source, digest) = (&spec.source, spec.digest.as_deref());
        Self { field: format!("spec.engines[{}]", spec.name), source, digest, signature: spec.signature.as_ref() }
    }

    /// What its reference has stood for since it was last edited.
    fn resolved<'b>(&self, sources: &'b [ResolvedSource]) -> Option<&'b ResolvedSource> {
        let oci = self.source.oci.as_ref()?;
        let same = |one: &&ResolvedSource| one.reference == oci.reference && one.refresh == oci.refresh;
        // another digest is an edit, too: the tag may have moved to it
        sources.iter().find(same).filter(|one| self.digest.is_none_or(|digest| digest == one.component))
    }
}

fn refusal(step: &'static str, SourceError { reason, message }: SourceError) -> LoadFailure {
    // a source that is not there may come, and a signature may be made
    let transient = !matches!(reason, "InvalidSource" | "SourceNotAllowed" | "SignatureRequired" | "InvalidKey");
    LoadFailure { step, reason, message, transient }
}

impl Fetcher {
    pub(super) fn new(cluster: Arc<Cluster>, policy: Policy, dir: PathBuf) -> Self {
        let reader = cluster.clone();
        // of no plugin: a record names where its component comes from, and only whoever may edit records does that
        let read = move |_, reference| read_secret(reader.clone(), reference).boxed();
        let store = Store::new(cluster.client().clone());
        Self { cluster, clients: Clients::new(Arc::new(read)), policy, dir, store }
    }

    /// The component, once everything that is demanded of it holds. `sources` is what is on record.
    pub(super) async fn component(
        &self,
        plugin: &str,
        named: &Named<'_>,
        sources: &[ResolvedSource],
    ) -> Result<Component, LoadFailure> {
        self.policy.check(named.source).map_err(|error| refusal("Fetched", error))?;
        let keys = self.key_sets(named).await;
        let resolved = named.resolved(sources);
        let known = named.digest.or(resolved.map(|resolved| resolved.component.as_str()));
        // what a reference stands for is said by the registry, once
        let is_resolved = named.source.oci.is_none() || resolved.is_some();
        if let (Some(digest), Ok(keys), true) = (known, &keys, is_resolved)
            && let Some(component) = self.kept(plugin, digest, keys, resolved, named).await
        {
            return Ok(component);
        }
        let wants_signatures = keys.as_ref().map_or(true, |sets| !sets.is_empty());
        let wanted = Wanted { field: &named.field, source: named.source, signature: named.signature, resolved };
        let access = Access { client: self.cluster.client(), clients: &self.clients };
        let cached = |digest: &str| self.cached(digest).boxed();
        let fetched = source::fetch(&access, &wanted, &cached, wants_signatures).await;
        let fetched = fetched.map_err(|error| refusal("Fetched", error)).and_then(|fetched| {
            let digest = digest_of(&fetched.wasm);
            let Some(wanted) = known.filter(|wanted| *wanted != digest) else { return Ok((fetched, digest)) };
            let message = format!("{}.digest is {wanted}, but what was fetched is {digest}", named.field);
            Err(refusal("Verified", SourceError { reason: "DigestMismatch", message }))
        });
        let (fetched, digest) = match fetched {
            Ok(fetched) => fetched,
            Err(failure) => {
                // the digest says what is meant, wherever the tag points by now, and whether the registry is there
                if let (Some(digest), Ok(keys), false) = (named.digest, &keys, failure.reason == "InvalidSource")
                    && let Some(component) = self.kept(plugin, digest, keys, None, named).await
                {
                    return Ok(component);
                }
                return Err(failure);
            }
        };
        let keys = keys.map_err(|error| refusal("Verified", error))?;
        let Fetched { wasm, manifests, signatures, resolved } = fetched;
        let evidence = Evidence { manifests, signatures };
        check(&keys, &wasm, &evidence).map_err(|error| refusal("Verified", error))?;
        let evidence = (!keys.is_empty()).then_some(evidence);
        self.keep(&digest, &wasm, evidence.as_ref());
        Ok(Component { wasm, digest, resolved, evidence })
    }

    /// Of each set one key must have signed: those of the host, and those of the record.
    async fn key_sets(&self, named: &Named<'_>) -> Result<Vec<Vec<VerifyingKey>>, SourceError> {
        let mut sets = Vec::new();
        if !self.policy.keys().is_empty() {
            sets.push(self.policy.keys().to_vec());
        }
        if let Some(policy) = named.signature {
            sets.push(verifying_keys(&self.cluster, policy, &named.field).await?);
        }
        if sets.is_empty() && self.policy.requires_signature() {
            let message = format!("this host runs signed components only: name the keys in {}.signature", named.field);
            return refuse("SignatureRequired", message);
        }
        Ok(sets)
    }

    fn path(&self, digest: &str, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", digest.trim_start_matches("sha256:")))
    }

    /// A component by its digest, if it is on disk and what it is said to be.
    fn cached(&self, digest: &str) -> impl Future<Output = Option<Vec<u8>>> + Send + use<> {
        let (path, digest) = (self.path(digest, "wasm"), digest.to_owned());
        async move {
            let wasm = if is_digest(&digest) { tokio::fs::read(path).await.ok()? } else { return None };
            // tens of milliseconds for a large one
            let read = tokio::task::spawn_blocking(move || (digest_of(&wasm) == digest).then_some(wasm)).await;
            read.ok().flatten()
        }
    }

    /// A component from the disk or the cluster, if it is there and the keys of now have signed it.
    async fn kept(
        &self,
        plugin: &str,
        digest: &str,
        keys: &[Vec<VerifyingKey>],
        resolved: Option<&ResolvedSource>,
        named: &Named<'_>,
    ) -> Option<Component> {
        if resolved.is_some_and(|resolved| resolved.component != digest) {
            return None;
        }
        let is_about = |one: &Evidence| match (resolved, &named.source.oci) {
            (Some(resolved), _) => {
                one.manifests.first().is_some_and(|text| digest_of(text.as_bytes()) == resolved.manifest)
            }
            (None, oci) => one.manifests.is_empty() == oci.is_none(),
        };
        let proven = |wasm: Vec<u8>, all: Vec<Evidence>| {
            let mut all = all.into_iter().filter(is_about);
            let evidence = if keys.is_empty() { None } else { Some(all.find(|one| check(keys, &wasm, one).is_ok())?) };
            Some(Component { wasm, digest: digest.to_owned(), resolved: resolved.cloned(), evidence })
        };
        if let Some(component) = self.on_disk(digest).await.and_then(|(wasm, all)| proven(wasm, all)) {
            return Some(component);
        }
        let (wasm, all) = self.store.read(plugin, digest).await?;
        let component = proven(wasm, all)?;
        tracing::info!(plugin, digest, "component read from the cluster");
        self.keep(digest, &component.wasm, component.evidence.as_ref());
        Some(component)
    }

    /// A component on the disk, and what its signatures can be checked with.
    pub(super) async fn on_disk(&self, digest: &str) -> Option<(Vec<u8>, Vec<Evidence>)> {
        Some((self.cached(digest).await?, self.evidence(digest)))
    }

    fn evidence(&self, digest: &str) -> Vec<Evidence> {
        let text = std::fs::read(self.path(digest, "signatures.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Writes a component to the disk; one that cannot be written is fetched again by the next process.
    fn keep(&self, digest: &str, wasm: &[u8], evidence: Option<&Evidence>) {
        let written = write(&self.path(digest, "wasm"), wasm).and_then(|()| {
            let Some(evidence) = evidence else { return Ok(()) };
            let mut all = self.evidence(digest);
            all.retain(|one| one != evidence);
            all.insert(0, evidence.clone());
            all.truncate(MAX_KEPT);
            write(&self.path(digest, "signatures.json"), &serde_json::to_vec(&all)?)
        });
        if let Err(error) = written {
            tracing::warn!(dir = %self.dir.display(), %error, "component cannot be kept in the cache");
        }
    }
}

/// The keys that a record names. `field` is what the policy belongs to, for messages: `spec`.
///
/// # Errors
/// `KeyMissing`, `InvalidKey`.
pub(crate) async fn verifying_keys(
    cluster: &Arc<Cluster>,
    policy: &SignaturePolicy,
    field: &str,
) -> Result<Vec<VerifyingKey>, SourceError> {
    let mut keys = Vec::new();
    for (i, key) in policy.keys.iter().enumerate() {
        let at = format!("{field}.signature.keys[{i}]");
        let pem = pem(cluster, key, &at).await?;
        keys.push(VerifyingKey::from_pem(&pem).or_else(|form| refuse("InvalidKey", format!("{at} {form}")))?);
    }
    Ok(keys)
}

async fn pem(cluster: &Arc<Cluster>, key: &PublicKey, at: &str) -> Result<String, SourceError> {
    let (found, KeyRef { namespace, name, key }) = match key {
        PublicKey { pem: Some(pem), secret: None, config_map: None } => return Ok(pem.clone()),
        PublicKey { pem: None, secret: Some(reference), config_map: None } => {
            let secret = SecretRef { namespace: reference.namespace.clone(), name: reference.name.clone() };
            let data = read_secret(cluster.clone(), secret).await;
            let data = data.or_else(|error| refuse("KeyMissing", format!("{at}: the Secret: {error}")))?;
            let text = data.and_then(|mut data| data.remove(&reference.key));
            (text.and_then(|bytes| String::from_utf8(bytes).ok()), reference)
        }
        PublicKey { pem: None, secret: None, config_map: Some(reference) } => {
            let api = Api::<ConfigMap>::namespaced(cluster.client().clone(), &reference.namespace);
            let map = api.get_opt(&reference.name).await;
            let map = map.or_else(|error| refuse("KeyMissing", format!("{at}: the ConfigMap: {error}")))?;
            (map.and_then(|map| map.data).and_then(|mut data| data.remove(&reference.key)), reference)
        }
        _ => return refuse("InvalidKey", format!("{at} must have exactly one of pem, secret and configMap")),
    };
    found.map_or_else(|| refuse("KeyMissing", format!("{at}: there is no {key} in {namespace}/{name}")), Ok)
}

/// Has one key of each set signed the component?
fn check(keys: &[Vec<VerifyingKey>], wasm: &[u8], evidence: &Evidence) -> Result<(), SourceError> {
    if keys.is_empty() {
        return Ok(());
    }
    let manifests = if evidence.manifests.is_empty() {
        Vec::new()
    } else {
        let chain = source::Chain::follow(&evidence.manifests)?;
        if chain.layer.digest != digest_of(wasm) {
            return refuse("DigestMismatch", format!("{} is not the component of its manifest", digest_of(wasm)));
        }
        chain.digests
    };
    let subject = Subject { manifests: &manifests, component: wasm };
    for set in keys {
        let what = manifests.first().cloned().unwrap_or_else(|| digest_of(wasm));
        verify(set, &subject, &evidence.signatures).map_err(|Refusal { reason, message }| {
            let whose = if keys.len() > 1 { " (the record's keys and the host's must both have signed)" } else { "" };
            SourceError { reason, message: format!("{what}: {message}{whose}") }
        })?;
    }
    Ok(())
}

/// Writes a file that is there whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let dir = path.parent().unwrap_or(path);
    std::fs::create_dir_all(dir)?;
    let mut part = tempfile::NamedTempFile::new_in(dir)?;
    part.write_all(bytes)?;
    part.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests;
