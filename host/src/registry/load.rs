//! The steps from a record to a version that can serve. Each either succeeds or names itself, a reason and a sentence.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::access;
use super::crd::{Definition, DefinitionError, InstallError};
use super::fetch::{Component, Fetcher, Named};
use crate::api::names;
use crate::api::plugin::{Bounds, KindRef, PluginSpec, PluginStatus, ResolvedSource, ServiceAccountRef, SetOnceRule};
use crate::api::rollout::VersionSpec;
use crate::control::account::Account;
use crate::control::cluster::{ApiError, Cluster};
use crate::control::controller::{Active, Controller};
use crate::control::kinds::Kinds;
use crate::control::watch::{Selection, Watch};
use crate::lookup::{Grants, Runner};
use crate::overlay::guard::Rails;
use crate::plan::check::SetOnce;
use crate::plan::contract::{Manifest, TypeMeta};
use crate::plan::path::Pattern;
use crate::plugin::{Cache, CompileError, Engine, EngineComponent, Plugin, compile_in_child};

/// Which step failed, in the words of the record's conditions.
#[derive(Clone, Debug, thiserror::Error)]
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
pub(super) const STEPS: [&str; 6] = ["Fetched", "Verified", "Compiled", "Described", "Granted", "Installed"];

/// Label values are at most this long (`k8s.io/apimachinery/pkg/util/validation`), and every child has one with the name
/// of its record.
const MAX_NAME: usize = 63;

/// The first list of one kind: a loaded API server with 100,000 objects takes some seconds.
const SYNC_DEADLINE: Duration = Duration::from_secs(120);

pub(super) fn failure(step: &'static str, reason: &'static str, message: impl Into<String>) -> LoadFailure {
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
    pub cache: Cache,
}

impl Loader {
    /// Compiles a component (or takes it from the cache) and asks it what it is.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn load(&self, name: &str, wasm: &[u8], digest: &str, bounds: Bounds) -> Result<Loaded, LoadFailure> {
        let engine = self.engine.within(&bounds).map_err(|error| compile_failure(&error.into()))?;
        let compiled = compile_in_child(&engine, &self.program, &self.cache, digest, wasm)
            .await
            .map_err(|error| compile_failure(&error))?;
        let plugin = Plugin::new(&engine, &compiled, name, bounds)
            .await
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
    let half = |kind: &&TypeMeta| (kind.api_version == "*") != (kind.kind == "*");
    if let Some(kind) = manifest.children.iter().map(|(kind, _)| kind).find(half) {
        return Err(refuse(format!("{kind}: `*` stands for all kinds as API version and as kind, not as one of them")));
    }
    check_endpoints(manifest).map_err(refuse)?;
    let definitions: Vec<Definition> = manifest
        .crds
        .iter()
        .map(|text| Definition::parse(text).map_err(|error| refuse(format!("custom resource definition: {error}"))))
        .collect::<Result<_, _>>()?;
    Ok(definitions)
}

fn check_endpoints(manifest: &Manifest) -> Result<(), String> {
    if manifest.endpoints.len() > 64 || manifest.engines.len() > 16 {
        return Err("more than 64 endpoints or 16 engines".into());
    }
    let names = || manifest.endpoints.iter().map(|endpoint| &endpoint.name).chain(&manifest.engines);
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if let Some(name) = names().find(|name| name.is_empty() || name.len() > 63 || !name.chars().all(plain)) {
        return Err(format!("the endpoint or engine {name:?} must be a DNS label"));
    }
    let twice = |list: &[&String]| {
        list.iter().enumerate().find(|(i, name)| list.iter().take(*i).any(|n| n == *name)).map(|(_, n)| (*n).clone())
    };
    let endpoints: Vec<&String> = manifest.endpoints.iter().map(|endpoint| &endpoint.name).collect();
    let engines: Vec<&String> = manifest.engines.iter().collect();
    twice(&endpoints).or_else(|| twice(&engines)).map_or(Ok(()), |name| Err(format!("{name} is declared twice")))
}

/// What the record grants outside the API server; the engines are loaded. Everything that the plugin cannot do without
/// must be there.
async fn grant(
    (loader, fetcher): (&Loader, &Fetcher),
    name: &str,
    spec: &VersionSpec,
    manifest: &Manifest,
    sources: &mut Vec<ResolvedSource>,
    components: &mut Vec<Component>,
) -> Result<Grants, LoadFailure> {
    let (mut grants, missing) =
        Grants::resolve(manifest, &spec.endpoints).map_err(|message| failure("Granted", "InvalidEndpoint", message))?;
    if !missing.is_empty() {
        let message = format!("spec.endpoints gives no address for {}", missing.join(", "));
        return Err(failure("Granted", "EndpointMissing", message));
    }
    if let Some(name) = manifest.engines.iter().find(|name| !spec.engines.iter().any(|engine| engine.name == **name)) {
        return Err(failure("Granted", "EngineMissing", format!("spec.engines names no engine {name}")));
    }
    for (i, engine) in spec.engines.iter().enumerate() {
        let at = format!("spec.engines[{}]", engine.name);
        if !manifest.engines.contains(&engine.name) || spec.engines.iter().take(i).any(|e| e.name == engine.name) {
            let message = format!("{at}: named twice, or the plugin declares no such engine");
            return Err(failure("Granted", "InvalidEngine", message));
        }
        let within = |LoadFailure { reason, message, transient, .. }: LoadFailure| LoadFailure {
            step: "Granted",
            reason,
            message: format!("{at}: {message}"),
            transient,
        };
        let bounds =
            engine.limits.bounds(&engine.name).map_err(|message| failure("Granted", "InvalidLimits", message))?;
        let component = fetcher.component(name, &Named::engine(engine), sources).await;
        let component = component.map_err(|error| LoadFailure { step: "Granted", ..error })?;
        component.resolved.iter().for_each(|one| learn(sources, one.clone()));
        let digest = component.digest.clone();
        let compiled = compile_in_child(&loader.engine, &loader.program, &loader.cache, &digest, &component.wasm)
            .await
            .map_err(|error| within(compile_failure(&error)))?;
        components.push(component);
        let component = EngineComponent::new(&loader.engine, &compiled, &engine.name, bounds)
            .map_err(|error| failure("Granted", "NotAnEngine", format!("{at}: {error}")))?;
        grants.add_engine(engine.name.clone(), Arc::new(Runner::new(digest, component)));
    }
    Ok(grants)
}

/// A version that was loaded and could be installed: nothing of the cluster has been changed for it.
pub(super) struct Prepared {
    /// `sha256:…`
    pub(super) digest: String,
    /// Name of the version.
    pub(super) revision: Arc<str>,
    /// The component, what it said of itself, its primaries.
    pub(super) loaded: Loaded,
    /// The API server in the name of the record's account.
    pub(super) cluster: Arc<Cluster>,
    /// What its record lets it ask.
    pub(super) grants: Grants,
    /// What overlays may do to its children.
    pub(super) rails: Arc<Rails>,
    /// Fields of its children that are left to others once they are set.
    pub(super) set_once: Arc<[SetOnce]>,
    /// `spec.config` as JSON, `{}` when there is none.
    pub(super) config: String,
    /// The plugin's and those of its engines, to be stored.
    pub(super) components: Vec<Component>,
}

/// What a version may find in the cluster from versions before it.
#[derive(Clone, Copy)]
pub(super) struct Heritage<'a> {
    /// Kinds of children that versions before this one could have made.
    pub(super) child_kinds: &'a [KindRef],
    /// Where those are that are on record.
    pub(super) kinds: &'a Arc<Kinds>,
    /// Another version of this plugin that is loaded.
    pub(super) relative: Option<&'a Active>,
    /// Another version's definitions are installed, and stay: it is on its way, or this one serves on for it.
    pub(super) keep_definitions: bool,
    /// Nothing at all is written: this replica stands by.
    pub(super) stands_by: bool,
}

/// All steps for one version up to the point where something would be written. What is no part of a version (the account,
/// rules for overlays) is that of the record now.
///
/// `sources` is what references to registries stood for until now; what has been verified is added to it, even when a
/// later step fails.
pub(super) async fn prepare(
    (loader, fetcher): (&Loader, &Fetcher),
    controller: &Arc<Controller>,
    name: &str,
    record: &PluginSpec,
    spec: &VersionSpec,
    keep_definitions: bool,
    sources: &mut Vec<ResolvedSource>,
) -> Result<Prepared, LoadFailure> {
    if name.len() > MAX_NAME {
        let message =
            format!("metadata.name has {} characters, at most {MAX_NAME} fit a label of the children", name.len());
        return Err(failure("Fetched", "InvalidName", message));
    }
    let bounds = spec.limits.bounds().map_err(|message| failure("Fetched", "InvalidLimits", message))?;
    let rails = Rails::new(&record.overlays).map_err(|message| failure("Fetched", "InvalidOverlayRules", message))?;
    let set_once = set_once(&record.set_once).map_err(|message| failure("Fetched", "InvalidSetOnce", message))?;
    let component = fetcher.component(name, &Named::plugin(spec), sources).await?;
    component.resolved.iter().for_each(|one| learn(sources, one.clone()));
    let digest = component.digest.clone();
    let mut loaded = loader.load(name, &component.wasm, &digest, bounds).await?;
    let mut components = vec![component];
    let definitions = std::mem::take(&mut loaded.definitions).into_iter();
    loaded.definitions =
        definitions.map(|one| converted(controller, name, &loaded.plugin, one)).collect::<Result<_, _>>()?;
    if spec.config.is_some() && loaded.manifest.config_schema.is_none() {
        return Err(failure(
            "Described",
            "InvalidConfig",
            "spec.config is set, but this plugin takes no configuration",
        ));
    }
    let grants = grant((loader, fetcher), name, spec, &loaded.manifest, sources, &mut components).await?;
    let cluster = in_the_name_of(controller, record)?;
    let grants = match cluster.account() {
        Some(account) => grants.read_by(account),
        None => grants,
    };
    for definition in &loaded.definitions {
        let kind = &definition.served.kind;
        if let Some(other) = controller.serving(kind).filter(|serving| serving.name != name) {
            return Err(failure("Installed", "KindTaken", format!("{kind} is served by the plugin {}", other.name)));
        }
        if !keep_definitions {
            let checked = definition.check(&controller.cluster, &cluster, Some(&loaded.plugin)).await;
            checked.map_err(|error| install_failure(&error))?;
        }
    }
    let config = spec.config.as_ref().map_or_else(|| "{}".into(), |c| serde_json::Value::from(c.clone()).to_string());
    let (revision, rails) = (spec.revision().into(), Arc::new(rails));
    Ok(Prepared { digest, revision, loaded, cluster, grants, rails, set_once, config, components })
}

/// Fields that the `Plugin` resource leaves to others.
fn set_once(rules: &[SetOnceRule]) -> Result<Arc<[SetOnce]>, String> {
    let rule = |(i, SetOnceRule { group, kind, fields }): (usize, &SetOnceRule)| {
        let at = |(j, error)| format!("spec.setOnce[{i}].fields[{j}]: {error}");
        let fields = fields.iter().enumerate().map(|(j, path)| Pattern::parse(path).map_err(|error| at((j, error))));
        Ok(SetOnce { group: group.clone(), kind: kind.clone(), fields: fields.collect::<Result<_, String>>()? })
    };
    rules.iter().enumerate().map(rule).collect()
}

fn install_failure(error: &InstallError) -> LoadFailure {
    let (reason, transient) = match error {
        // objects may change
        InstallError::Incompatible(_) => ("IncompatibleDefinition", true),
        InstallError::Refused(_) => ("DefinitionRefused", true),
    };
    LoadFailure { transient, ..failure("Installed", reason, error.to_string()) }
}

/// Notes what a reference stands for now.
fn learn(sources: &mut Vec<ResolvedSource>, one: ResolvedSource) {
    sources.retain(|other| (&other.reference, &other.refresh) != (&one.reference, &one.refresh));
    sources.push(one);
}

/// The API server as the record's ServiceAccount may use it.
fn in_the_name_of(controller: &Controller, spec: &PluginSpec) -> Result<Arc<Cluster>, LoadFailure> {
    let Some(ServiceAccountRef { namespace, name }) = &spec.service_account else {
        return Ok(controller.cluster.clone());
    };
    let account = Account::new(namespace, name).ok_or_else(|| {
        let message = format!("spec.serviceAccount: {namespace:?} and {name:?} are no names of objects");
        failure("Granted", "InvalidServiceAccount", message)
    })?;
    Ok(Arc::new(controller.cluster.acting_as(account)))
}

/// Applies the definitions and fills the caches: from then on the version can serve.
pub(super) async fn install(
    controller: &Arc<Controller>,
    name: &str,
    deletion_timeout: Duration,
    prepared: Prepared,
    heritage: Heritage<'_>,
) -> Result<Active, LoadFailure> {
    let Prepared { digest, revision, loaded, cluster, grants, rails, set_once, config, components: _ } = prepared;
    let field_manager = names::field_manager(name);
    let mut primary_watches = Vec::new();
    let converts = loaded.plugin.has_conversion();
    let is_its_turn = !heritage.keep_definitions || heritage.relative.is_none();
    if is_its_turn && converts {
        // before the API server asks: what is stored in another version is converted from the first list on
        controller.hooks.convert_with(name, &loaded.plugin);
    }
    for definition in &loaded.definitions {
        let refused = |error| install_failure(&InstallError::Refused(error));
        let kind = &definition.served.kind;
        if heritage.stands_by {
            cluster.served(kind).await.map_err(|error| refused(DefinitionError(error.to_string())))?;
        } else if !heritage.keep_definitions || cluster.served(kind).await.is_err() {
            // a definition that is not there at all is nobody else's
            definition.install(&controller.cluster, &field_manager).await.map_err(refused)?;
        }
    }
    if is_its_turn && !converts {
        controller.hooks.convert_no_more(name);
    }
    access::check(&cluster, &loaded.manifest, &loaded.definitions).await?;
    for definition in &loaded.definitions {
        primary_watches.push(controller.watch(&cluster, &definition.served, Selection::Primaries));
    }
    let declared = loaded.manifest.child_kinds().map(|kind| (kind.clone(), true));
    let before = heritage.child_kinds.iter().map(|kind| (kind.type_meta(), false));
    // another account has watches of its own
    let relative = heritage.relative.filter(|relative| relative.cluster.account() == cluster.account());
    let child_watches = relative.map_or_else(Arc::default, |relative| relative.child_watches.clone());
    let mut watched = child_watches.read().unwrap_or_else(PoisonError::into_inner).clone();
    for (kind, needed) in declared.chain(before) {
        // one watch for each kind; a version that the plugin names is what it reads
        let is_watched = |watch: &Arc<Watch>| if needed { *watch.kind == kind } else { watch.kind.is_same_kind(&kind) };
        if watched.iter().any(is_watched) {
            continue;
        }
        let served = if needed { cluster.served(&kind).await } else { cluster.served_in_any_version(&kind).await };
        match served {
            Ok(served) => watched.push(controller.watch(&cluster, &served, Selection::Children)),
            // a kind that is not served has no objects; it is watched from the first apply
            Err(ApiError::NotServed(_)) => {}
            Err(error) if needed => {
                let message = format!("{kind}: {error}");
                return Err(LoadFailure { transient: true, ..failure("Installed", "DiscoveryFailed", message) });
            }
            Err(_) => {}
        }
    }
    fill(primary_watches.iter().chain(&watched)).await?;
    let mut shared = child_watches.write().unwrap_or_else(PoisonError::into_inner);
    for watch in watched {
        if !shared.iter().any(|known| known.kind == watch.kind) {
            shared.push(watch);
        }
    }
    drop(shared);
    Ok(Active {
        name: name.to_owned(),
        digest,
        revision,
        plugin: Some(loaded.plugin),
        deletion_timeout,
        manifest: loaded.manifest,
        config,
        field_manager,
        cluster,
        grants,
        rails,
        set_once,
        primary_watches,
        child_watches,
        kinds: heritage.kinds.clone(),
    })
}

/// Puts the definitions of a version in place again after another one has had its own there.
///
/// # Errors
/// When objects rely on what the other one's allowed, or the API server refuses.
pub(super) async fn reinstall(controller: &Arc<Controller>, active: &Active) -> Result<(), LoadFailure> {
    let mut definitions = Vec::new();
    for text in &active.manifest.crds {
        let mut definition = Definition::parse(text).map_err(|error| install_failure(&InstallError::Refused(error)))?;
        if let Some(plugin) = &active.plugin {
            definition = converted(controller, &active.name, plugin, definition)?;
        }
        let checked = definition.check(&controller.cluster, &active.cluster, active.plugin.as_ref()).await;
        checked.map_err(|error| install_failure(&error))?;
        definitions.push(definition);
    }
    // whoever has converted until now goes on while the definitions stay
    let plugin = active.plugin.as_ref().filter(|plugin| plugin.has_conversion());
    if let Some(plugin) = plugin {
        controller.hooks.convert_with(&active.name, plugin);
    }
    for definition in definitions {
        let installed = definition.install(&controller.cluster, &active.field_manager).await;
        installed.map_err(|error| install_failure(&InstallError::Refused(error)))?;
    }
    if plugin.is_none() {
        controller.hooks.convert_no_more(&active.name);
    }
    Ok(())
}

/// The definition with the plugin's conversion, where it has versions to convert between.
fn converted(
    controller: &Controller,
    name: &str,
    plugin: &Plugin,
    definition: Definition,
) -> Result<Definition, LoadFailure> {
    if !plugin.has_conversion() || !definition.has_several_versions() {
        return Ok(definition);
    }
    let conversion = controller.hooks.conversion(name).ok_or_else(|| {
        let kind = &definition.served.kind;
        let message = format!(
            "{kind} is served in several versions, and this host converts none: start it with --webhook-listen"
        );
        failure("Installed", "ConversionUnavailable", message)
    })?;
    Ok(definition.converted_by(conversion))
}

/// Puts definitions with conversion in place again where somebody has edited them, or the certificates are others.
///
/// # Errors
/// When the API server refuses, or cannot be asked.
pub(super) async fn keep_conversion(controller: &Arc<Controller>, active: &Active) -> Result<(), LoadFailure> {
    match &active.plugin {
        Some(plugin) if plugin.has_conversion() => reinstall(controller, active).await,
        _ => Ok(()),
    }
}

async fn fill(watches: impl Iterator<Item = &Arc<Watch>>) -> Result<(), LoadFailure> {
    for watch in watches {
        if tokio::time::timeout(SYNC_DEADLINE, watch.synced()).await.is_err() {
            let message = format!("{} could not be listed within {SYNC_DEADLINE:?}", watch.kind);
            return Err(LoadFailure { transient: true, ..failure("Installed", "CacheNotFilled", message) });
        }
    }
    Ok(())
}

/// What is served when no version can be loaded: deletions of objects of the kinds that versions before have served.
///
/// # Errors
/// When a kind cannot be watched.
pub(super) async fn without_component(
    controller: &Arc<Controller>,
    name: &str,
    spec: &PluginSpec,
    status: &PluginStatus,
) -> Result<Active, LoadFailure> {
    let cluster = &in_the_name_of(controller, spec)?;
    let watches = async |kinds: &[KindRef], selection| -> Result<Vec<Arc<Watch>>, LoadFailure> {
        let mut watches = Vec::new();
        for kind in kinds.iter().map(KindRef::type_meta) {
            let served = match selection {
                Selection::Children => cluster.served_in_any_version(&kind).await,
                Selection::Primaries | Selection::Overlays => cluster.served(&kind).await,
            };
            match served {
                Ok(served) => watches.push(controller.watch(cluster, &served, selection)),
                Err(ApiError::NotServed(_)) => {}
                Err(error) => {
                    let message = format!("{kind}: {error}");
                    return Err(LoadFailure { transient: true, ..failure("Installed", "DiscoveryFailed", message) });
                }
            }
        }
        Ok(watches)
    };
    let primary_watches = watches(&status.primary_kinds, Selection::Primaries).await?;
    let child_watches = watches(&KindRef::one_of_each(&status.child_kinds), Selection::Children).await?;
    fill(primary_watches.iter().chain(&child_watches)).await?;
    Ok(Active {
        name: name.to_owned(),
        digest: String::new(),
        revision: "".into(),
        plugin: None,
        deletion_timeout: Duration::from_secs(spec.deletion_timeout_seconds.into()),
        manifest: Manifest {
            name: name.to_owned(),
            version: String::new(),
            crds: Vec::new(),
            children: Vec::new(),
            reads: Vec::new(),
            endpoints: Vec::new(),
            engines: Vec::new(),
            config_schema: None,
            finalizes: true,
        },
        config: "{}".into(),
        field_manager: names::field_manager(name),
        cluster: cluster.clone(),
        grants: Grants::default(),
        rails: Arc::default(),
        set_once: Arc::default(),
        primary_watches,
        child_watches: Arc::new(RwLock::new(child_watches)),
        kinds: Arc::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
