//! From a source to a component that may be run: policy, fetch, digest, signature, and what is kept on disk.
//!
//! A component is kept under its digest, and with it the texts that its signatures are checked with. Both prove themselves:
//! the component by its digest, the signatures by the keys that are trusted now. So a host that starts again needs no
//! source, and whoever writes to the folder gains nothing.

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
}

/// A component that may be run.
pub(super) struct Component {
    pub(super) wasm: Vec<u8>,
    pub(super) digest: String,
    /// What the reference to a registry stood for.
    pub(super) resolved: Option<ResolvedSource>,
}

/// What a component's signatures are checked with, as it was fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Evidence {
    manifests: Vec<String>,
    signatures: Vec<Signature>,
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
        Self { cluster, clients: Clients::new(Arc::new(read)), policy, dir }
    }

    /// The component, once everything that is demanded of it holds. `sources` is what is on record.
    pub(super) async fn component(
        &self,
        named: &Named<'_>,
        sources: &[ResolvedSource],
    ) -> Result<Component, LoadFailure> {
        self.policy.check(named.source).map_err(|error| refusal("Fetched", error))?;
        let keys = self.key_sets(named).await;
        let resolved = named.resolved(sources);
        let known = named.digest.or(resolved.map(|resolved| resolved.component.as_str()));
        if let (Some(digest), Ok(keys)) = (known, &keys)
            && let Some(component) = self.kept(digest, keys, resolved, named).await
        {
            return Ok(component);
        }
        let wants_signatures = keys.as_ref().map_or(true, |sets| !sets.is_empty());
        let wanted = Wanted { field: &named.field, source: named.source, signature: named.signature, resolved };
        let access = Access { client: self.cluster.client(), clients: &self.clients };
        let cached = |digest: &str| self.cached(digest).boxed();
        let fetched = source::fetch(&access, &wanted, &cached, wants_signatures).await;
        let fetched = fetched.map_err(|error| refusal("Fetched", error))?;
        let digest = digest_of(&fetched.wasm);
        if let Some(wanted) = known.filter(|wanted| *wanted != digest) {
            let message = format!("{}.digest is {wanted}, but what was fetched is {digest}", named.field);
            return Err(refusal("Verified", SourceError { reason: "DigestMismatch", message }));
        }
        let keys = keys.map_err(|error| refusal("Verified", error))?;
        let Fetched { wasm, manifests, signatures, resolved } = fetched;
        let evidence = Evidence { manifests, signatures };
        check(&keys, &wasm, &evidence).map_err(|error| refusal("Verified", error))?;
        if let Err(error) = self.keep(&digest, &wasm, &keys, evidence) {
            tracing::warn!(dir = %self.dir.display(), %error, "component cannot be kept in the cache");
        }
        Ok(Component { wasm, digest, resolved })
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

    /// A component from the disk, if it is there and the keys of now have signed it.
    async fn kept(
        &self,
        digest: &str,
        keys: &[Vec<VerifyingKey>],
        resolved: Option<&ResolvedSource>,
        named: &Named<'_>,
    ) -> Option<Component> {
        // what a reference stands for is told by the registry, once
        if named.source.oci.is_some() && resolved.is_none() {
            return None;
        }
        if resolved.is_some_and(|resolved| resolved.component != digest) {
            return None;
        }
        let wasm = self.cached(digest).await?;
        let is_signed = keys.is_empty() || {
            let mut all = self.evidence(digest);
            let about = |one: &Evidence| match resolved {
                Some(resolved) => {
                    one.manifests.first().is_some_and(|text| digest_of(text.as_bytes()) == resolved.manifest)
                }
                None => one.manifests.is_empty(),
            };
            all.retain(about);
            all.iter().any(|one| check(keys, &wasm, one).is_ok())
        };
        is_signed.then(|| Component { wasm, digest: digest.to_owned(), resolved: resolved.cloned() })
    }

    fn evidence(&self, digest: &str) -> Vec<Evidence> {
        let text = std::fs::read(self.path(digest, "signatures.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn keep(&self, digest: &str, wasm: &[u8], keys: &[Vec<VerifyingKey>], evidence: Evidence) -> std::io::Result<()> {
        write(&self.path(digest, "wasm"), wasm)?;
        if keys.is_empty() {
            return Ok(());
        }
        let mut all = self.evidence(digest);
        all.retain(|one| *one != evidence);
        all.insert(0, evidence);
        all.truncate(MAX_KEPT);
        write(&self.path(digest, "signatures.json"), &serde_json::to_vec(&all)?)
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
