//! The record that `transom dev` keeps, and how a host gets the component.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, CustomResourceExt, ResourceExt};
use serde_json::{Map, Value, json};

use crate::api::names::DEV_LABEL;
use crate::api::plugin::Plugin;
use crate::cli::plugin::install::{Map as StoredMap, config_map, delete_unused, place as place_map};

const MANAGER: &str = "transom-dev";

/// A host that starts defines Plugins at once.
const DEFINED: Duration = Duration::from_secs(60);

/// How a host gets the component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// From a ConfigMap: it may run anywhere.
    Cluster,
    /// From a file: it is this program.
    Here,
}

/// What was built.
pub(super) struct Version<'a> {
    /// Of the record.
    pub(super) name: &'a str,
    pub(super) digest: &'a str,
    pub(super) wasm: &'a [u8],
    /// Of the record.
    pub(super) labels: &'a [(String, String)],
    /// For files of components.
    pub(super) folder: &'a Path,
}

/// Beside what cargo has built: `target/transom-dev` of `target/TRIPLE/release/web.wasm`.
pub(super) fn folder_of(module: &Path) -> PathBuf {
    module.ancestors().nth(3).unwrap_or(module).join("transom-dev")
}

/// Waits until the API server knows Plugins.
pub(super) async fn defined(client: &kube::Client) -> anyhow::Result<()> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let wait = await_condition(api, Plugin::crd_name(), conditions::is_crd_established());
    let waited = tokio::time::timeout(DEFINED, wait).await;
    waited.context("the API server still does not know Plugins")?.context("the definition of Plugin cannot be read")?;
    Ok(())
}

/// Asks for a version, through a ConfigMap, and sees whether a host takes the record up in time. Returns the record's
/// generation when one does.
pub(super) async fn taken_up(
    client: &kube::Client,
    version: &Version<'_>,
    namespace: &str,
    grace: Duration,
) -> anyhow::Result<Option<i64>> {
    let definition = Api::<CustomResourceDefinition>::all(client.clone()).get_opt(Plugin::crd_name()).await;
    if definition.context("the definition of Plugin cannot be read")?.is_none() {
        return Ok(None); // no host has ever run
    }
    if config_map(version.wasm)?.is_none() {
        bail!(
            "{} KiB are too many for a ConfigMap, by which a host of the cluster could get it: if none is to run it, call \
             `transom dev --host own`",
            version.wasm.len() / 1024
        );
    }
    let generation = apply(client, version, Place::Cluster, namespace).await?;
    let config = watcher::Config::default().fields(&format!("metadata.name={}", version.name));
    let states = watcher(Api::<Plugin>::all(client.clone()), config).default_backoff().applied_objects();
    let taken = states.filter(|state| {
        let observed = state.as_ref().ok().filter(|plugin| plugin.name_any() == version.name);
        let observed = observed.and_then(|plugin| plugin.status.as_ref()?.observed_generation);
        std::future::ready(observed.is_some_and(|observed| observed >= generation))
    });
    let mut taken = std::pin::pin!(taken);
    Ok(tokio::time::timeout(grace, taken.next()).await.ok().flatten().map(|_| generation))
}

/// Asks for a version. Returns the record's generation.
pub(super) async fn apply(
    client: &kube::Client,
    version: &Version<'_>,
    place: Place,
    namespace: &str,
) -> anyhow::Result<i64> {
    let Version { name, digest, wasm, labels, .. } = version;
    let labels: Map<String, Value> = labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let api = Api::<Plugin>::all(client.clone());
    let there = api.get_opt(name).await.context("cannot read the Plugin record")?;
    let (uid, mut in_map) = (there.as_ref().and_then(ResourceExt::uid), None);
    if let Some(there) = there {
        ensure!(
            there.labels().contains_key(DEV_LABEL),
            "Plugin {name} is there, and not of `transom dev`: choose another --name, or remove it first"
        );
    }
    let source = match place {
        Place::Here => json!({ "file": { "path": file(version)? } }),
        Place::Cluster => {
            let Some(mut map) = config_map(wasm)? else {
                bail!("{} KiB are too many for a ConfigMap: call `transom dev --host own`", wasm.len() / 1024);
            };
            let map_name = place_map(&mut map, name, digest, namespace);
            let owner = uid.as_deref().map(|uid| (*name, uid));
            in_map = Some(StoredMap::apply(client.clone(), MANAGER, &map, owner).await?);
            json!({ "configMap": { "namespace": namespace, "name": map_name } })
        }
    };
    let record: Value = json!({
        "apiVersion": "transom.dev/v1alpha1", "kind": "Plugin",
        "metadata": { "name": name, "labels": labels },
        "spec": { "source": source, "digest": digest },
    });
    let applied = api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&record)).await;
    let applied = applied.context("cannot apply the Plugin record")?;
    if let Some(map) = in_map {
        if let (None, Some(uid)) = (&uid, applied.uid()) {
            map.own(name, &uid).await?;
        }
        delete_unused(client, &applied, namespace).await;
    }
    Ok(applied.metadata.generation.unwrap_or_default())
}

/// The component as a file with a name of its own: one that a host may be reading is never written to. The newest few stay.
fn file(version: &Version<'_>) -> anyhow::Result<String> {
    const KEPT: usize = 4;
    let Version { digest, wasm, folder, .. } = version;
    let cannot = || format!("cannot write to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(cannot)?;
    let folder = std::fs::canonicalize(folder).with_context(cannot)?;
    let path = folder.join(digest.trim_start_matches("sha256:")).with_extension("wasm");
    let scratch = path.with_extension("tmp");
    std::fs::write(&scratch, wasm).and_then(|()| std::fs::rename(&scratch, &path)).with_context(cannot)?;
    let files = std::fs::read_dir(&folder).with_context(cannot)?.flatten();
    let mut files: Vec<_> =
        files.filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file.path()))).collect();
    files.sort();
    for (_, old) in files.iter().rev().skip(KEPT) {
        // it is in the way of nobody
        let _ = std::fs::remove_file(old);
    }
    let path = path.to_str().with_context(|| format!("{} is no UTF-8", folder.display()))?;
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let write = |digest: &str| {
            let version = Version { name: "web", digest, wasm: b"1", folder: folder.path(), labels: &[] };
            file(&version).unwrap()
        };
        let paths: Vec<String> = (0..8).map(|n| write(&format!("sha256:{n}"))).collect();
        let there = |path: &&String| Path::new(*path).is_file();
        assert!(paths.last().is_some_and(|last| last.ends_with("/7.wasm") && there(&last)));
        assert_eq!(paths.iter().filter(there).count(), 4);
    }

    #[test]
    fn components_are_kept_beside_what_cargo_has_built() {
        let folder = folder_of(Path::new("/c/target/wasm32-unknown-unknown/release/web.wasm"));
        assert_eq!(folder, Path::new("/c/target/transom-dev"));
    }
}
