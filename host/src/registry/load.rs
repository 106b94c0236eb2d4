//! The steps from a record to a version that can serve. Each either succeeds or names itself, a reason and a sentence.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::crd::Definition;
use super::source;
use crate::api::names;
use crate::api::plugin::{Bounds, KindRef, PluginSpec};
use crate::control::controller::{Active, Controller};
use crate::control::watch::Selection;
use crate::plan::contract::{Manifest, TypeMeta};
use crate::plugin::{CompileError, Engine, Plugin, compile_in_child};

/// Which step failed, in the words of the record's conditions.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct LoadFailure {
    /// Condition type of the step.
    pub step: &'static str,
    /// Stable word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Trying again without a change of the record may help.
    pub transient: bool,
}

/// Condition types of the steps, in their order.
pub(super) const STEPS: [&str; 5] = ["Fetched", "Verified", "Compiled", "Described", "Installed"];

/// Label values are at most this long (`k8s.io/apimachinery/pkg/util/validation`), and every child has one with the name
/// of its record.
const MAX_NAME: usize = 63;

/// The first list of one kind: a loaded API server with 100,000 objects takes some seconds.
const SYNC_DEADLINE: Duration = Duration::from_secs(120);

fn failure(step: &'static str, reason: &'static str, message: impl Into<String>) -> LoadFailure {
    LoadFailure { step, reason, message: message.into(), transient: false }
}

/// A component that was fetched, compiled and asked what it is.
pub struct Loaded {
    /// Ready to be called.
    pub plugin: Plugin,
    /// What it said.
    pub manifest: Manifest,
    /// Its primaries.
    pub definitions: Vec<Definition>,
}

/// Loads components; shared by the registry and the offline commands.
#[derive(Clone)]
pub struct Loader {
    /// The engine.
    pub engine: Engine,
    /// This program, which compiles in a child process.
    pub program: PathBuf,
    /// Where compiled code is kept.
    pub cache_dir: PathBuf,
}

/// `sha256:` and the digest of these bytes.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Loader {
    /// Compiles a component (or takes it from the cache) and asks it what it is.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn load(&self, name: &str, wasm: &[u8], digest: &str, bounds: Bounds) -> Result<Loaded, LoadFailure> {
        let compiled = compile_in_child(&self.engine, &self.program, &self.cache_dir, digest, wasm)
            .await
            .map_err(|error| compile_failure(&error))?;
        let plugin = Plugin::new(&self.engine, &compiled, name, bounds)
            .map_err(|error| failure("Compiled", "NotAPlugin", error.to_string()))?;
        let manifest = plugin.describe().await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(|c| format!(": {c}")).unwrap_or_default();
            failure("Described", "DescribeFailed", format!("{error}{cause}"))
        })?;
        let definitions = check_manifest(&manifest)?;
        Ok(Loaded { plugin, manifest, definitions })
    }
}

fn compile_failure(error: &CompileError) -> LoadFailure {
    let (reason, transient) = match error {
        CompileError::Invalid(_) => ("InvalidComponent", false),
        CompileError::DeadlineExceeded(_) => ("DeadlineExceeded", false),
        _ => ("CompilerUnavailable", true),
    };
    let cause = std::error::Error::source(error).map(|c| format!(": {c}")).unwrap_or_default();
    LoadFailure { step: "Compiled", reason, message: format!("{error}{cause}"), transient }
}

fn check_manifest(manifest: &Manifest) -> Result<Vec<Definition>, LoadFailure> {
    let refuse = |message: String| failure("Described", "InvalidManifest", message);
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if manifest.name.is_empty() || manifest.name.len() > 40 || !manifest.name.chars().all(label) {
        return Err(refuse(format!("name {:?} must be a DNS label of at most 40 characters", manifest.name)));
    }
    if manifest.crds.is_empty() || manifest.crds.len() > 16 {
        return Err(refuse(format!("{} custom resource definitions, must be 1 to 16", manifest.crds.len())));
    }
    if manifest.children.len() > 64 || manifest.reads.len() > 64 {
        return Err(refuse("more than 64 kinds of children or of reads".into()));
    }
    let unserved = manifest.endpoints.iter().find(|e| !e.optional).map(|e| format!("the endpoint {}", e.name));
    if let Some(what) = unserved.or_else(|| manifest.engines.first().map(|e| format!("the engine {e}"))) {
        return Err(failure(
            "Described",
            "Unsupported",
            format!("needs {what}, which this version of the host cannot give"),
        ));
    }
    let definitions: Vec<Definition> = manifest
        .crds
        .iter()
        .map(|text| Definition::parse(text).map_err(|error| refuse(format!("custom resource definition: {error}"))))
        .collect::<Result<_, _>>()?;
    Ok(definitions)
}

/// All steps for one record. On success the version is ready to be activated.
///
/// `earlier` are kinds of children that versions before this one could have made.
pub(super) async fn prepare(
    loader: &Loader,
    controller: &Arc<Controller>,
    name: &str,
    spec: &PluginSpec,
    earlier: &[KindRef],
) -> Result<Active, LoadFailure> {
    if name.len() > MAX_NAME {
        let message =
            format!("metadata.name has {} characters, at most {MAX_NAME} fit a label of the children", name.len());
        return Err(failure("Fetched", "InvalidName", message));
    }
    let bounds = spec.limits.bounds().map_err(|message| failure("Fetched", "InvalidLimits", message))?;
    let (wasm, digest) = fetch(loader, controller, spec).await?;
    let loaded = loader.load(name, &wasm, &digest, bounds).await?;
    if spec.config.is_some() && loaded.manifest.config_schema.is_none() {
        return Err(failure(
            "Described",
            "InvalidConfig",
            "spec.config is set, but this plugin takes no configuration",
        ));
    }
    install(controller, name, spec, loaded, digest, earlier).await
}

/// The component of the record's digest: from the cache if it is there, since the same digest is the same component.
/// So a host that starts again needs no source, which may be down or hold another version by now.
async fn fetch(
    loader: &Loader,
    controller: &Arc<Controller>,
    spec: &PluginSpec,
) -> Result<(Vec<u8>, String), LoadFailure> {
    let cached = loader.cache_dir.join(format!("{}.wasm", spec.digest.trim_start_matches("sha256:")));
    if let Ok(wasm) = tokio::fs::read(&cached).await
        && digest_of(&wasm) == spec.digest
    {
        return Ok((wasm, spec.digest.clone()));
    }
    let wasm = source::fetch(controller.cluster.client(), &spec.source).await.map_err(|error| LoadFailure {
        step: "Fetched",
        reason: error.reason,
        message: error.message,
        transient: true,
    })?;
    let digest = digest_of(&wasm);
    if digest != spec.digest {
        let message = format!("spec.digest is {}, but what was fetched is {digest}", spec.digest);
        return Err(LoadFailure { transient: true, ..failure("Verified", "DigestMismatch", message) });
    }
    if let Err(error) = keep(&cached, &wasm).await {
        tracing::warn!(path = %cached.display(), %error, "component cannot be kept in the cache");
    }
    Ok((wasm, digest))
}

/// Writes a file that is there whole or not at all.
async fn keep(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    tokio::fs::create_dir_all(dir).await?;
    let part = tempfile::NamedTempFile::new_in(dir)?.into_temp_path();
    tokio::fs::write(&part, bytes).await?;
    part.persist(path).map_err(|error| error.error)
}

async fn install(
    controller: &Arc<Controller>,
    name: &str,
    spec: &PluginSpec,
    loaded: Loaded,
    digest: String,
    earlier: &[KindRef],
) -> Result<Active, LoadFailure> {
    let cluster = &controller.cluster;
    let field_manager = names::field_manager(name);
    let mut primary_watches = Vec::new();
    for definition in &loaded.definitions {
        let kind = &definition.served.kind;
        if let Some(other) = controller.serving(kind).filter(|serving| serving.name != name) {
            return Err(failure("Installed", "KindTaken", format!("{kind} is served by the plugin {}", other.name)));
        }
        definition
            .install(cluster, &field_manager)
            .await
            .map_err(|error| LoadFailure { transient: true, ..failure("Installed", "DefinitionRefused", error.0) })?;
        primary_watches.push(controller.watch(&definition.served, Selection::Primaries));
    }
    let declared = loaded.manifest.children.iter().map(|(kind, _)| (kind.clone(), true));
    let before = earlier.iter().map(|k| (TypeMeta::new(k.api_version.clone(), k.kind.clone()), false));
    let mut child_watches: Vec<Arc<crate::control::watch::Watch>> = Vec::new();
    for (kind, needed) in declared.chain(before) {
        if child_watches.iter().any(|watch| *watch.kind == kind) {
            continue;
        }
        match cluster.served(&kind).await {
            Ok(served) => child_watches.push(controller.watch(&served, Selection::Children)),
            // a kind that is not served has no objects
            Err(crate::control::cluster::ApiError::NotServed(_)) => {}
            Err(error) if needed => {
                let message = format!("{kind}: {error}");
                return Err(LoadFailure { transient: true, ..failure("Installed", "DiscoveryFailed", message) });
            }
            Err(_) => {}
        }
    }
    for watch in primary_watches.iter().chain(&child_watches) {
        if tokio::time::timeout(SYNC_DEADLINE, watch.synced()).await.is_err() {
            let message = format!("{} could not be listed within {SYNC_DEADLINE:?}", watch.kind);
            return Err(LoadFailure { transient: true, ..failure("Installed", "CacheNotFilled", message) });
        }
    }
    Ok(Active {
        name: name.to_owned(),
        digest,
        plugin: loaded.plugin,
        manifest: loaded.manifest,
        config: spec.config.as_ref().map_or_else(|| "{}".into(), |c| serde_json::Value::from(c.clone()).to_string()),
        field_manager,
        primary_watches,
        child_watches,
        late_watches: std::sync::RwLock::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_written_as_in_registries() {
        assert_eq!(digest_of(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn a_manifest_without_kinds_is_refused() {
        let manifest = Manifest {
            name: "p".into(),
            version: "1".into(),
            crds: vec![],
            children: vec![],
            reads: vec![],
            endpoints: vec![],
            engines: vec![],
            config_schema: None,
            finalizes: false,
        };
        let failure = check_manifest(&manifest).unwrap_err();
        assert_eq!((failure.step, failure.reason), ("Described", "InvalidManifest"));
    }
}
