//! Components in the cluster: whatever becomes of its source and of the host's disk, a version that serves, is pinned or is in
//! the history can be loaded again.
//!
//! A component is compressed and divided into objects that etcd takes. Nothing in them is believed: whoever reads one checks
//! its digest, and its signatures by the keys of now.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::digest_of;
use super::fetch::Evidence;
use super::source::unpack;
use crate::api::component::{
    BYTES_ANNOTATION, DIGEST_ANNOTATION, PARTS_ANNOTATION, SIGNATURES_ANNOTATION, STORED_FOR_LABEL, StoredComponent,
    StoredComponentSpec,
};
use crate::lookup::registry::is_digest;

/// Field manager.
const MANAGER: &str = "transom";

/// Bytes of one part: base64 makes four of three, and etcd takes requests of 1.5 MiB.
const PART_BYTES: usize = 720 << 10;

/// A component that is larger when compressed is not stored.
pub(super) const MAX_COMPONENT: usize = 24 << 20;

/// Compressed bytes that are stored for one plugin, so that a few of them do not fill etcd (2 GiB by default).
pub(super) const MAX_PLUGIN: usize = 48 << 20;

/// Sets of signatures that are stored with one component.
const MAX_SIGNATURES: usize = 8;

/// Digits of a digest that are enough to name an object.
const DIGITS: usize = 32;

/// Stored components.
pub(super) struct Store {
    api: Api<StoredComponent>,
    /// By name of the first part: what is stored is not what it should be.
    broken: Mutex<BTreeSet<String>>,
}

/// A component that is stored for a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) digest: String,
    /// All parts together.
    pub(super) bytes: usize,
    /// No part is missing, none was found to be wrong, and none goes with a `Plugin` of this name that was deleted.
    pub(super) is_whole: bool,
    /// Sets of signatures, by [`Evidence::short`].
    signatures: BTreeSet<String>,
    names: Vec<String>,
}

impl Store {
    pub(super) fn new(client: kube::Client) -> Self {
        Self { api: Api::all(client), broken: Mutex::default() }
    }

    /// Everything that is stored for a plugin.
    ///
    /// # Errors
    /// When the API server does not say.
    pub(super) async fn list(&self, owner: &OwnerReference) -> Result<Vec<Stored>, kube::Error> {
        let parameters = ListParams::default().labels(&format!("{STORED_FOR_LABEL}={}", owner.name));
        let parts = self.api.list_metadata(&parameters).await?;
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(grouped(parts.items.iter().map(|part| &part.metadata), &owner.uid, &broken))
    }

    /// A component, and the texts by which it was verified; none where it is not there as a whole and as it should be.
    pub(super) async fn read(&self, plugin: &str, digest: &str) -> Option<(Vec<u8>, Vec<Evidence>)> {
        if !is_digest(digest) {
            return None;
        }
        match self.parts(plugin, digest).await {
            Ok(Some((packed, signatures))) => {
                let unpacked = tokio::task::spawn_blocking(move || unpack(packed, "a stored component")).await;
                let wasm = unpacked.ok().and_then(Result::ok).filter(|wasm| digest_of(wasm) == digest);
                if wasm.is_none() {
                    tracing::warn!(plugin, digest, "the stored component is not what its name says");
                    let name = name_of(plugin, digest, 0);
                    self.broken.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
                }
                let evidence = signatures.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
                wasm.map(|wasm| (wasm, evidence))
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(plugin, digest, error = &error as &dyn std::error::Error, "cannot read what is stored");
                None
            }
        }
    }

    /// The compressed component and the signatures; none when a part is missing.
    async fn parts(&self, plugin: &str, digest: &str) -> Result<Option<(Vec<u8>, Option<String>)>, kube::Error> {
        let (mut packed, mut signatures, mut parts) = (Vec::new(), None, 1);
        let mut part = 0;
        while part < parts {
            let Some(found) = self.api.get_opt(&name_of(plugin, digest, part)).await? else { return Ok(None) };
            let StoredComponentSpec { parts: all, data, signatures: with, .. } = found.spec;
            if part == 0 {
                (parts, signatures) = (all.min(count(MAX_COMPONENT)), with);
            }
            // what is no base64 is noticed by the digest
            packed.extend(STANDARD.decode(data).unwrap_or_default());
            part += 1;
        }
        Ok(Some((packed, signatures)))
    }

    /// Stores a component that [`pack`] has compressed.
    ///
    /// # Errors
    /// What the API server says.
    pub(super) async fn write(
        &self,
        owner: &OwnerReference,
        digest: &str,
        packed: &[u8],
        evidence: &[Evidence],
    ) -> Result<(), kube::Error> {
        let parts = count(packed.len());
        for (part, bytes) in (0..).zip(packed.chunks(PART_BYTES)) {
            let first = (part == 0 && !evidence.is_empty()).then_some(evidence);
            let mut annotations = BTreeMap::from([
                (DIGEST_ANNOTATION.to_owned(), digest.to_owned()),
                (PARTS_ANNOTATION.to_owned(), parts.to_string()),
                (BYTES_ANNOTATION.to_owned(), packed.len().to_string()),
            ]);
            annotations.extend(first.map(|evidence| (SIGNATURES_ANNOTATION.to_owned(), short(evidence))));
            let signatures = first.and_then(|evidence| serde_json::to_string(evidence).ok());
            let spec =
                StoredComponentSpec { digest: digest.into(), part, parts, data: STANDARD.encode(bytes), signatures };
            let mut object = StoredComponent::new(&name_of(&owner.name, digest, part), spec);
            object.metadata = ObjectMeta {
                labels: Some(BTreeMap::from([(STORED_FOR_LABEL.to_owned(), owner.name.clone())])),
                annotations: Some(annotations),
                owner_references: Some(vec![owner.clone()]),
                ..object.metadata
            };
            let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
            self.api.create(&parameters, &object).await?;
        }
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).remove(&name_of(&owner.name, digest, 0));
        Ok(())
    }

    /// Adds signatures to a component that is stored.
    ///
    /// # Errors
    /// What the API server says.
    pub(super) async fn sign(&self, plugin: &str, stored: &Stored, evidence: &Evidence) -> Result<(), kube::Error> {
        if stored.signatures.contains(&evidence.short()) {
            return Ok(());
        }
        let name = name_of(plugin, &stored.digest, 0);
        let before = self.api.get(&name).await?.spec.signatures.unwrap_or_default();
        let mut all: Vec<Evidence> = serde_json::from_str(&before).unwrap_or_default();
        all.insert(0, evidence.clone());
        all.truncate(MAX_SIGNATURES);
        let patch = json!({
            "metadata": { "annotations": { SIGNATURES_ANNOTATION: short(&all) } },
            "spec": { "signatures": serde_json::to_string(&all).unwrap_or_default() },
        });
        let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        self.api.patch(&name, &parameters, &Patch::Merge(patch)).await.map(drop)
    }

    /// Deletes all parts of a component.
    ///
    /// # Errors
    /// What the API server says.
    pub(super) async fn delete(&self, stored: &Stored) -> Result<(), kube::Error> {
        for name in &stored.names {
            match self.api.delete(name, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Compresses a component for [`Store::write`].
pub(super) fn pack(wasm: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(wasm)?;
    packed.finish()
}

fn name_of(plugin: &str, digest: &str, part: u32) -> String {
    let digits: String = digest.trim_start_matches("sha256:").chars().take(DIGITS).collect();
    format!("{plugin}.{digits}.{part}")
}

/// How many parts so many bytes need.
fn count(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PART_BYTES)).unwrap_or(u32::MAX)
}

fn short(evidence: &[Evidence]) -> String {
    evidence.iter().map(Evidence::short).collect::<Vec<_>>().join(",")
}

/// The components that these objects are parts of. `owner` is the UID of the `Plugin`.
fn grouped<'a>(parts: impl Iterator<Item = &'a ObjectMeta>, owner: &str, broken: &BTreeSet<String>) -> Vec<Stored> {
    let mut all: BTreeMap<String, (Stored, BTreeSet<String>)> = BTreeMap::new();
    for part in parts {
        let name = part.name.clone().unwrap_or_default();
        let annotation = |name: &str| part.annotations.as_ref().and_then(|all| all.get(name)).cloned();
        let (stored, expected) = all.entry(annotation(DIGEST_ANNOTATION).unwrap_or_default()).or_default();
        stored.digest = annotation(DIGEST_ANNOTATION).unwrap_or_default();
        stored.bytes = annotation(BYTES_ANNOTATION).and_then(|bytes| bytes.parse().ok()).unwrap_or_default();
        let parts: u32 = annotation(PARTS_ANNOTATION).and_then(|parts| parts.parse().ok()).unwrap_or_default();
        if let Some(signatures) = annotation(SIGNATURES_ANNOTATION) {
            stored.signatures = signatures.split(',').map(str::to_owned).collect();
        }
        if let Some(prefix) = name.rsplit_once('.').map(|(prefix, _)| prefix) {
            expected.extend((0..parts.min(count(MAX_COMPONENT))).map(|part| format!("{prefix}.{part}")));
        }
        if !part.owner_references.iter().flatten().any(|reference| reference.uid == owner) {
            expected.insert(String::new()); // Kubernetes is about to delete it
        }
        stored.names.push(name);
    }
    let finish = |(mut stored, expected): (Stored, BTreeSet<String>)| {
        let there: BTreeSet<String> = stored.names.iter().cloned().collect();
        stored.is_whole = !there.is_empty() && there == expected && there.is_disjoint(broken);
        stored
    };
    all.into_values().map(finish).collect()
}

/// The `Plugin` as the owner of what is stored for it: Kubernetes deletes it with the `Plugin`.
pub(super) fn owner(plugin: &crate::api::plugin::Plugin) -> OwnerReference {
    OwnerReference {
        api_version: "transom.dev/v1alpha1".into(),
        kind: "Plugin".into(),
        name: plugin.name_any(),
        uid: plugin.uid().unwrap_or_default(),
        ..OwnerReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(digest: &str, part: u32, parts: u32) -> ObjectMeta {
        let annotations = [(DIGEST_ANNOTATION, digest.to_owned()), (PARTS_ANNOTATION, parts.to_string())];
        let owner = OwnerReference { uid: "own".into(), ..OwnerReference::default() };
        ObjectMeta {
            owner_references: Some(vec![owner]),
            name: Some(name_of("web", digest, part)),
            annotations: Some(annotations.map(|(name, value)| (name.to_owned(), value)).into()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_component_is_whole_when_all_of_its_parts_are_there_and_none_is_broken() {
        let (a, b) = (format!("sha256:{}", "a".repeat(64)), format!("sha256:{}", "b".repeat(64)));
        let parts = [part(&a, 0, 2), part(&a, 1, 2), part(&b, 1, 2)];
        let whole = |owner: &str, broken: &[String]| -> Vec<(String, bool)> {
            let all = grouped(parts.iter(), owner, &broken.iter().cloned().collect());
            all.into_iter().map(|stored| (stored.digest, stored.is_whole)).collect()
        };
        assert_eq!(whole("own", &[]), [(a.clone(), true), (b.clone(), false)]);
        assert_eq!(whole("own", &[name_of("web", &a, 0)]), [(a.clone(), false), (b.clone(), false)]);
        assert_eq!(whole("another", &[]), [(a, false), (b, false)]);
    }

    #[test]
    fn every_part_fits_into_an_object() {
        let encoded = STANDARD.encode(vec![0; PART_BYTES]).len();
        assert!(encoded <= 1 << 20, "{encoded}");
        assert_eq!([count(1), count(PART_BYTES), count(PART_BYTES + 1)], [1, 1, 2]);
        // the longest name of a plugin, and the most parts
        let name = name_of(&"n".repeat(63), &format!("sha256:{}", "0".repeat(64)), count(MAX_COMPONENT));
        assert!(name.len() <= 253, "{name}");
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let wasm = b"\0asm and so on".repeat(1000);
        assert_eq!(unpack(pack(&wasm).unwrap(), "here").unwrap(), wasm);
    }
}
