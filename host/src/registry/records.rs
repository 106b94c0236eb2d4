//! The `Plugin` records: one task for each, so that a slow one does not keep the others waiting.

mod conditions;
mod standby;
mod stored;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, CustomResourceExt, ResourceExt};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use super::crd::{Definition, DefinitionError};
use super::fetch::Fetcher;
use super::load::{self, Heritage, LoadFailure, Loader, Prepared};
use super::migrate;
use super::policy::Policy;
use super::rollout::health::{self, Health, Worse};
use super::rollout::plan::{self, Plans};
use super::rollout::shadow::{self, Evaluated, Version};
use super::rollout::steps::{self, Move, Wish};
use crate::api::component::StoredComponent;
use crate::api::names::{self, FINALIZER, READY};
use crate::api::plugin::{KindRef, Phase, Plugin, PluginSpec, PluginStatus, ResolvedSource};
use crate::api::rollout::{HistoryEntry, PlanStatus, RolloutState, RolloutStatus, VersionSpec};
use crate::control::backoff;
use crate::control::cluster::Served;
use crate::control::controller::{Active, Controller};
use crate::control::key::PrimaryKey;
use crate::control::kinds::Kinds;
use crate::control::serving::{Chosen, Serving, Share};
use crate::plan::check::Scope;
use crate::plan::contract::{Event, ObjectRef, TypeMeta};
use crate::plan::object::Object;
use crate::telemetry::{Readiness, metrics};
use crate::webhook;
use conditions::{Base, failed, loaded, on_its_way, reason_of};

/// Field manager of the host's own writes.
const MANAGER: &str = "transom";
const MAX_HISTORY: usize = 10;
/// Bytes of a record's spec that are kept with an entry of the history.
const MAX_HISTORY_SPEC: usize = 16 << 10;
/// How often the objects of a version on its way are looked at; longer when there are many.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Failing objects that are looked into beyond those that may fail.
const MAX_NAMED: u64 = 5;
/// How often configurations of webhooks are held against what they should be: somebody may have edited them.
const WEBHOOKS_EVERY: Duration = Duration::from_secs(60);
/// The same after a failure.
const WEBHOOKS_RETRY: Duration = Duration::from_secs(3);
/// Servers of one cluster learn of a new definition within a second or two of each other.
const MIGRATE_AFTER: Duration = Duration::from_secs(10);
/// How often a record that is being deleted is looked at for objects that still need the plugin.
const RETIRE_EVERY: Duration = Duration::from_secs(1);

/// What a replica does with the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// All that they ask for.
    Leads,
    /// It loads what serves, and writes nothing.
    StandsBy,
}

/// Follows the `Plugin` records.
pub struct Registry {
    controller: Arc<Controller>,
    loader: Loader,
    fetcher: Arc<Fetcher>,
    /// Only records with these labels; empty: all.
    selector: String,
    /// For those who ask for a plan.
    plans: Arc<Plans>,
}

/// The task of one record.
struct Slot {
    latest: watch::Sender<Plugin>,
    task: AbortHandle,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registry {
    /// Nothing is loaded yet.
    #[must_use]
    pub fn new(
        controller: Arc<Controller>,
        loader: Loader,
        selector: String,
        policy: Policy,
        plans: Arc<Plans>,
    ) -> Self {
        let fetcher = Arc::new(Fetcher::new(controller.cluster.clone(), policy, loader.cache.dir.clone()));
        Self { controller, loader, fetcher, selector, plans }
    }

    /// Installs the host's own custom resource definitions.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn install(&self) -> Result<(), DefinitionError> {
        let text = serde_json::to_string(&Plugin::crd()).map_err(|e| DefinitionError(e.to_string()))?;
        Definition::parse(&text)?.install(&self.controller.cluster, MANAGER).await?;
        let body = serde_json::to_value(StoredComponent::crd()).map_err(|e| DefinitionError(e.to_string()))?;
        let kind = TypeMeta::new("transom.dev/v1alpha1", "StoredComponent");
        let served = Served { kind, plural: "storedcomponents".into(), scope: Scope::Cluster };
        Definition { body, served }.install(&self.controller.cluster, MANAGER).await
    }

    /// Follows the records until it is dropped. Ready when every record that was there at the start has been tried.
    pub async fn run(&self, role: Role, readiness: Readiness) {
        let api: Api<Plugin> = Api::all(self.controller.cluster.client().clone());
        let config = watcher::Config::default().labels(&self.selector);
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let (tried, mut attempts) = mpsc::unbounded_channel::<String>();
        let mut slots = BTreeMap::<String, Slot>::new();
        let (mut listed, mut waiting) = (BTreeSet::new(), None::<BTreeSet<String>>);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(watcher::Event::Init)) => listed.clear(),
                    Some(Ok(watcher::Event::InitApply(plugin))) => {
                        listed.insert(plugin.name_any());
                        self.put(&mut slots, role, plugin, &tried);
                    }
                    Some(Ok(watcher::Event::Apply(plugin))) => self.put(&mut slots, role, plugin, &tried),
                    Some(Ok(watcher::Event::Delete(plugin))) => self.remove(&mut slots, role, &plugin.name_any()),
                    Some(Ok(watcher::Event::InitDone)) => {
                        // what was served while this replica stood by has no slot yet
                        let known = slots.keys().cloned().chain(self.controller.plugins());
                        let gone: BTreeSet<String> = known.filter(|name| !listed.contains(name)).collect();
                        gone.iter().for_each(|name| self.remove(&mut slots, role, name));
                        waiting.get_or_insert_with(|| listed.clone());
                    }
                    Some(Err(error)) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "watch of plugins interrupted");
                    }
                    None => return,
                },
                Some(name) = attempts.recv() => {
                    if let Some(waiting) = &mut waiting {
                        waiting.remove(&name);
                    }
                    listed.remove(&name);
                }
            }
            if waiting.as_ref().is_some_and(BTreeSet::is_empty) {
                readiness.set();
            }
        }
    }

    fn put(
        &self,
        slots: &mut BTreeMap<String, Slot>,
        role: Role,
        plugin: Plugin,
        tried: &mpsc::UnboundedSender<String>,
    ) {
        let name = plugin.name_any();
        if let Some(slot) = slots.get(&name) {
            slot.latest.send_replace(plugin);
            return;
        }
        let (latest, records) = watch::channel(plugin);
        let record = Record::new(self, role, name.clone());
        let task = match role {
            Role::Leads => tokio::spawn(record.follow(records, tried.clone())),
            Role::StandsBy => tokio::spawn(record.mirror(records, tried.clone())),
        };
        slots.insert(name, Slot { latest, task: task.abort_handle() });
    }

    fn remove(&self, slots: &mut BTreeMap<String, Slot>, role: Role, name: &str) {
        if slots.remove(name).is_none() && !self.controller.plugins().contains(name) {
            return;
        }
        self.controller.deactivate(name);
        match role {
            Role::Leads => webhook::Hooks::retire(&self.controller, name),
            Role::StandsBy => self.controller.hooks.forget(name),
        }
        self.plans.forget(name);
        metrics().plugin_gone(name);
        tracing::info!(plugin = name, "plugin removed");
    }
}

/// One record.
struct Record {
    role: Role,
    controller: Arc<Controller>,
    loader: Loader,
    fetcher: Arc<Fetcher>,
    plans: Arc<Plans>,
    name: String,
    /// What references to registries stand for, of all versions that are on record.
    sources: Vec<ResolvedSource>,
    /// What this process has written last, and the UID of the record: its watch may be behind.
    written: Option<(String, PluginStatus)>,
    /// Serves whatever no other version does.
    stable: Option<Arc<Active>>,
    /// In its place while it cannot be loaded: deletions only.
    deletions: Option<Arc<Active>>,
    /// Why the version that served, and that another one is to replace, cannot be loaded.
    lost: Option<LoadFailure>,
    /// Is being let in.
    canary: Option<(Arc<Active>, Share)>,
    /// Serve objects that are pinned to them.
    pinned: Vec<Arc<Active>>,
    /// Kinds of children that are on record.
    kinds: Arc<Kinds>,
    seen: Seen,
    /// Writes objects again that are stored in a version before.
    migration: Migration,
    /// The condition about what is stored in the cluster; none before the first look.
    stored: Option<(&'static str, &'static str, String)>,
    /// When storing is tried again.
    store_again: Option<Instant>,
    /// Components that are too large to be stored, and their sizes.
    too_large: BTreeMap<String, usize>,
}

/// Begins a while after a definition was installed: other API servers must know it by then.
#[derive(Default)]
enum Migration {
    #[default]
    None,
    Due(Instant),
    Runs(JoinHandle<()>),
}

/// What is known of the objects of a version on its way, and can be found out again.
#[derive(Default)]
struct Seen {
    /// By UID: generation when the step began. Who edits an object afterwards may make it not ready.
    generations: HashMap<String, i64>,
    /// By UID: generation in which the version before fails, too.
    excused: HashMap<String, i64>,
}

/// When a record is looked at again without having changed.
enum Next {
    /// Never.
    Rest,
    /// After a while that grows from time to time.
    Retry,
    /// After this time.
    Look(Duration),
}

impl Record {
    fn new(registry: &Registry, role: Role, name: String) -> Self {
        Self {
            role,
            controller: registry.controller.clone(),
            loader: registry.loader.clone(),
            fetcher: registry.fetcher.clone(),
            sources: Vec::new(),
            plans: registry.plans.clone(),
            name,
            written: None,
            stable: None,
            deletions: None,
            lost: None,
            canary: None,
            pinned: Vec::new(),
            kinds: Arc::default(),
            seen: Seen::default(),
            migration: Migration::None,
            stored: None,
            store_again: None,
            too_large: BTreeMap::new(),
        }
    }

    async fn follow(mut self, mut records: watch::Receiver<Plugin>, tried: mpsc::UnboundedSender<String>) {
        let mut failures = 0u32;
        let mut rotations = self.controller.hooks.rotations();
        loop {
            let plugin = records.borrow_and_update().clone();
            let next = self.handle(&plugin, &mut records).await;
            if self.load_pins(&plugin).await {
                self.serve();
            }
            let mut webhooks = self.webhooks(&plugin).await;
            let _ = tried.send(self.name.clone());
            if plugin.metadata.deletion_timestamp.is_some() {
                return self.retire(&mut records).await;
            }
            failures = if matches!(next, Next::Retry) { failures.saturating_add(1) } else { 0 };
            let after = match next {
                Next::Rest => Duration::MAX,
                Next::Retry => backoff::delay(failures, failures.into()).min(Duration::from_secs(30)),
                Next::Look(after) => after,
            };
            let (controller, kinds) = (self.controller.clone(), self.kinds.clone());
            let mut wait = std::pin::pin!(tokio::time::sleep(after));
            loop {
                tokio::select! {
                    // Our own writes of the status change the record, too.
                    gone = async { records.wait_for(|latest| identity(latest) != identity(&plugin)).await.is_err() } => {
                        if gone {
                            return;
                        }
                        break;
                    }
                    () = &mut wait => break,
                    () = rotated(&mut rotations, webhooks) => webhooks = self.webhooks(&plugin).await,
                    () = tokio::time::sleep_until(self.store_again()) => self.store_missing(&plugin).await,
                    () = kinds.asked() => self.record_kinds(&plugin).await,
                    () = controller.pin_missing() => {
                        if self.load_pins(&plugin).await {
                            self.serve();
                        }
                    }
                }
            }
        }
    }

    /// Brings what serves closer to what the record asks for.
    async fn handle(&mut self, plugin: &Plugin, records: &mut watch::Receiver<Plugin>) -> Next {
        let before = self.known(plugin);
        self.sources.clone_from(&before.sources);
        let wanted = VersionSpec::of(&plugin.spec);
        let revision = wanted.revision();
        let other = before.serving.clone().filter(|serving| serving.revision() != revision);
        self.lost = match (&self.stable, &other) {
            (None, Some(serving)) => self.resume(plugin, &before, serving).await.err(),
            _ => None,
        };
        if let Err(text) = Share::of(&plugin.spec.rollout.steps) {
            let message = format!("spec.rollout.steps: the labelSelector {text:?} cannot be understood");
            let (step, reason) = ("Fetched", "InvalidRollout");
            return self.refused(plugin, before, LoadFailure { step, reason, message, transient: false }).await;
        }
        let generation = plugin.metadata.generation.unwrap_or_default();
        // what serves nothing yet, or no longer, is tried again when the record has changed
        let stands = |attempt: &RolloutStatus| {
            attempt.revision == revision && (attempt.serves() || attempt.generation == generation)
        };
        let attempt = before.rollout.clone().filter(stands);
        let stable = match &self.stable {
            Some(stable) if *stable.revision == *revision => None,
            Some(stable) => Some(stable.clone()),
            // the first version, or the one that served
            None if other.is_none() => None,
            // with nothing to compare with, the gates are there all the same
            None => match self.only_deletions(plugin, &before).await {
                Ok(deletions) => Some(deletions),
                Err(failure) => return self.refused(plugin, before, failure).await,
            },
        };
        let next = match (stable, attempt) {
            (None, _) => self.adopt(plugin, before, &wanted).await,
            (Some(stable), Some(attempt)) => self.advance(plugin, before, &wanted, (stable, attempt)).await,
            (Some(stable), None) => self.begin(plugin, before, &wanted, stable, records).await,
        };
        match next {
            // the version that served may be found again
            Next::Rest if self.lost.is_some() => Next::Retry,
            next => next,
        }
    }

    /// What serves while the version that served cannot be loaded: deletions of objects.
    async fn only_deletions(&mut self, plugin: &Plugin, status: &PluginStatus) -> Result<Arc<Active>, LoadFailure> {
        if let Some(deletions) = &self.deletions {
            return Ok(deletions.clone());
        }
        let active = load::without_component(&self.controller, &self.name, &plugin.spec, status).await?;
        let active = self.deletions.insert(Arc::new(active)).clone();
        self.serve();
        Ok(active)
    }

    /// The status as this process wrote it, or as it was at the start.
    fn known(&self, plugin: &Plugin) -> PluginStatus {
        let own = self.written.as_ref().filter(|(uid, _)| plugin.metadata.uid.as_ref() == Some(uid));
        own.map(|(_, status)| status.clone()).or_else(|| plugin.status.clone()).unwrap_or_default()
    }

    fn wish(plugin: &Plugin) -> Option<Wish> {
        Wish::parse(plugin.annotations().get(names::ROLLOUT_ANNOTATION)?)
    }

    /// After a start: the version that served goes on, whatever the record says by now.
    async fn resume(
        &mut self,
        plugin: &Plugin,
        before: &PluginStatus,
        serving: &VersionSpec,
    ) -> Result<(), LoadFailure> {
        let loaded = async {
            let prepared = self.prepare(plugin, serving, true).await?;
            self.install(plugin, before, prepared, true).await
        };
        match loaded.await {
            Ok(active) => {
                tracing::info!(
                    plugin = self.name,
                    digest = active.digest,
                    "plugin goes on with the version that served"
                );
                (self.stable, self.deletions) = (Some(active), None);
                // of a version that went on its way meanwhile
                let beside = self.canary.is_some();
                self.load_pins(plugin).await;
                // objects of a version on its way must not change hands and back
                let wanted = VersionSpec::of(&plugin.spec);
                if let Some(attempt) = let_in(before, &wanted)
                    && let Err(failure) = self.enter(plugin, before, &wanted, attempt.step, None).await
                {
                    let LoadFailure { step, reason, message, .. } = failure;
                    tracing::warn!(plugin = self.name, step, reason, message, "the canary could not be loaded");
                }
                if self.canary.is_none() || beside {
                    self.serve();
                }
                Ok(())
            }
            Err(failure) => {
                let LoadFailure { step, reason, message, .. } = &failure;
                tracing::warn!(plugin = self.name, step, reason, message, "the version that served is lost");
                Err(failure)
            }
        }
    }

    /// What versions are made of is stored before they serve.
    async fn prepare(&mut self, plugin: &Plugin, spec: &VersionSpec, keep: bool) -> Result<Prepared, LoadFailure> {
        let tools = (&self.loader, &*self.fetcher);
        let sources = &mut self.sources;
        let mut prepared =
            load::prepare(tools, &self.controller, &self.name, &plugin.spec, spec, keep, sources).await?;
        let components = std::mem::take(&mut prepared.components);
        self.store(plugin, &components).await;
        Ok(prepared)
    }

    async fn install(
        &self,
        plugin: &Plugin,
        before: &PluginStatus,
        prepared: Prepared,
        keep_definitions: bool,
    ) -> Result<Arc<Active>, LoadFailure> {
        let stands_by = self.role == Role::StandsBy;
        let deletion_timeout = Duration::from_secs(plugin.spec.deletion_timeout_seconds.into());
        // one that serves on is nobody's successor
        let deletions = self.deletions.as_deref().filter(|_| !keep_definitions);
        let heritage = Heritage {
            child_kinds: &before.child_kinds,
            kinds: &self.kinds,
            relative: self.stable.as_deref().or(deletions),
            keep_definitions,
            stands_by,
        };
        load::install(&self.controller, &self.name, deletion_timeout, prepared, heritage).await.map(Arc::new)
    }

    /// Lets the loaded versions serve.
    fn serve(&self) {
        if let Some(serving) = self.serving() {
            self.controller.serve(serving);
        }
    }

    /// What serves whatever no version on its way does.
    fn base(&self) -> Option<&Arc<Active>> {
        self.stable.as_ref().or(self.deletions.as_ref())
    }

    /// The loaded versions; none without one that serves whatever no other does.
    fn serving(&self) -> Option<Serving> {
        let (stable, stands_by) = (self.base()?.clone(), self.role == Role::StandsBy);
        Some(Serving { stable, canary: self.canary.clone(), pinned: self.pinned.clone(), stands_by })
    }

    /// Sees to it that objects are stored in the version of now. Returns when it is to be looked at again.
    async fn migrate(&mut self, active: &Arc<Active>) -> Duration {
        if !active.plugin.as_ref().is_some_and(crate::plugin::Plugin::has_conversion) {
            self.migration = Migration::None;
            return Duration::MAX;
        }
        if matches!(&self.migration, Migration::Runs(task) if !task.is_finished()) {
            return WEBHOOKS_EVERY;
        }
        let pending = match migrate::pending(&self.controller, active).await {
            Ok(pending) => pending,
            Err(error) => {
                tracing::warn!(plugin = self.name, %error, "stored versions could not be read");
                return WEBHOOKS_EVERY;
            }
        };
        if pending.is_empty() {
            self.migration = Migration::None;
            return Duration::MAX;
        }
        match self.migration {
            Migration::Due(at) if at <= Instant::now() => {
                let run = migrate::run(self.controller.clone(), active.clone(), pending);
                self.migration = Migration::Runs(tokio::spawn(run));
                WEBHOOKS_EVERY
            }
            Migration::Due(at) => at.saturating_duration_since(Instant::now()),
            Migration::None | Migration::Runs(_) => {
                self.migration = Migration::Due(Instant::now() + MIGRATE_AFTER);
                MIGRATE_AFTER
            }
        }
    }

    /// Brings the webhooks of what serves in line with it. Returns when they are to be looked at again.
    async fn webhooks(&mut self, plugin: &Plugin) -> Duration {
        let versions: Vec<Arc<Active>> =
            self.canary.iter().map(|(active, _)| active).chain(&self.stable).cloned().collect();
        // the version whose definitions are installed
        let conversion = match versions.first() {
            Some(active) => load::keep_conversion(&self.controller, active).await,
            None => return Duration::MAX,
        };
        let before = self.known(plugin);
        let record = Plugin { status: Some(before.clone()), ..plugin.clone() };
        let said = match conversion {
            Ok(()) => webhook::publish(&self.controller, &record, &versions).await,
            Err(LoadFailure { reason, message, .. }) => Some(("False", reason, message)),
        };
        let mut again = match &said {
            None | Some((_, "Disabled", _)) => Duration::MAX,
            Some(("True", ..)) => WEBHOOKS_EVERY,
            Some(_) => WEBHOOKS_RETRY,
        };
        // what is let in by parts may still be taken back
        if self.canary.is_none()
            && let Some(stable) = self.stable.clone()
        {
            again = again.min(self.migrate(&stable).await);
        }
        let others = before.conditions.iter().filter(|condition| condition.type_ != webhook::CONDITION).cloned();
        let said = said.map(|(status, reason, message)| (webhook::CONDITION, status, reason, message));
        let conditions = others.chain(conditions::of(&before, plugin, said.into_iter())).collect();
        let status = PluginStatus { conditions, ..before.clone() };
        if self.publish(plugin, &before, status).await { again } else { WEBHOOKS_RETRY }
    }

    /// Takes the version of the record for all objects: the first one, and the one that serves already.
    async fn adopt(&mut self, plugin: &Plugin, before: PluginStatus, wanted: &VersionSpec) -> Next {
        let loaded = async {
            let prepared = self.prepare(plugin, wanted, false).await?;
            self.install(plugin, &before, prepared, false).await
        };
        match loaded.await {
            Ok(active) => self.promote(plugin, before, active).await,
            Err(failure) => {
                if self.canary.take().is_some() {
                    self.serve(); // the record no longer asks for it
                }
                self.refused(plugin, before, failure).await
            }
        }
    }

    /// From now on this version serves all objects that are not pinned.
    async fn promote(&mut self, plugin: &Plugin, before: PluginStatus, active: Arc<Active>) -> Next {
        let mut status = loaded(&before, plugin, &active);
        // Nobody can be about to make one while nothing is served yet. Kinds alone are no reason to write: a hook's Job
        // comes and goes with each upgrade.
        if self.stable.is_none() && self.canary.is_none() && status != before {
            status.child_kinds.retain(|kind| is_made(&active, &kind.type_meta()));
        }
        // The kinds of children are on record before the first one is made, so that a crash cannot hide any.
        if !self.publish(plugin, &before, status).await || !self.set_finalizer(plugin, self.is_needed([&active])).await
        {
            return Next::Retry;
        }
        let Active { digest, manifest, .. } = &*active;
        tracing::info!(plugin = self.name, digest, version = manifest.version, "plugin serves");
        let swapped = before.serving.as_ref().is_some_and(|serving| serving.revision() != *active.revision);
        if swapped {
            metrics().rollout(&self.name, "Completed");
            self.event(plugin, false, "RolledOut", format!("version {} serves all objects", manifest.version));
        }
        self.pinned.extend(self.stable.replace(active));
        (self.canary, self.deletions, self.lost) = (None, None, None);
        self.load_pins(plugin).await;
        self.serve();
        self.count_objects();
        Next::Rest
    }

    /// A version cannot be loaded. What serves goes on.
    async fn refused(&mut self, plugin: &Plugin, before: PluginStatus, failure: LoadFailure) -> Next {
        let status = failed(&before, plugin, &failure, self.now(&before, Some(&failure)));
        let recorded = self.publish(plugin, &before, status).await;
        self.serve_deletions(plugin, &before).await;
        let LoadFailure { step, reason, message, transient } = failure;
        tracing::warn!(plugin = self.name, step, reason, message, "plugin could not be loaded");
        if transient || !recorded { Next::Retry } else { Next::Rest }
    }

    /// Another version than the one that serves is wanted: plans it, and makes the first move.
    async fn begin(
        &mut self,
        plugin: &Plugin,
        before: PluginStatus,
        wanted: &VersionSpec,
        stable: Arc<Active>,
        records: &mut watch::Receiver<Plugin>,
    ) -> Next {
        if self.canary.take().is_some() {
            self.serve(); // of a version that is no longer wanted
        }
        let prepared = match self.prepare(plugin, wanted, false).await {
            Ok(prepared) => prepared,
            Err(failure) => return self.refused(plugin, before, failure).await,
        };
        let generation = plugin.metadata.generation.unwrap_or_default();
        let policy = &plugin.spec.rollout;
        let attempt = RolloutStatus {
            id: format!("{}-{generation}", prepared.revision),
            revision: prepared.revision.to_string(),
            digest: prepared.digest.clone(),
            version: prepared.loaded.manifest.version.clone(),
            state: RolloutState::Waiting,
            step: 0,
            steps: u32::try_from(policy.steps.len()).unwrap_or(u32::MAX),
            since: None,
            generation,
            objects: 0,
            message: String::new(),
        };
        let known_good =
            matches!(Self::wish(plugin), Some(Wish::Immediate { revision }) if *revision == *prepared.revision);
        let (planned, to) = if known_good {
            (before, Move::Promote)
        } else {
            let plan = tokio::select! {
                plan = plan::make(&self.controller, &self.name, &prepared, &stable) => plan,
                // planned anew
                _ = records.wait_for(|latest| identity(latest) != identity(plugin)) => return Next::Look(Duration::ZERO),
            };
            let held = plan::held_by(&policy.gates, &plan.summary);
            let PlanStatus { objects, changed, failed, .. } = plan.summary;
            tracing::info!(plugin = self.name, digest = prepared.digest, objects, changed, failed, "version planned");
            let planned = PluginStatus { plan: Some(plan.summary.clone()), ..before };
            self.plans.put(&self.name, plan);
            (planned, steps::first(policy, &attempt, held))
        };
        self.carry_out(plugin, planned, attempt, to, Some(prepared)).await
    }

    /// A version is on its way: where does it go?
    async fn advance(
        &mut self,
        plugin: &Plugin,
        before: PluginStatus,
        wanted: &VersionSpec,
        (stable, attempt): (Arc<Active>, RolloutStatus),
    ) -> Next {
        if plugin.metadata.deletion_timestamp.is_some() && self.canary.is_some() {
            return Next::Rest;
        }
        let serves = attempt.serves();
        if serves && let Err(failure) = self.enter(plugin, &before, wanted, attempt.step, None).await {
            return self.refused(plugin, before, failure).await;
        }
        let health = match (&attempt.since, serves) {
            (Some(since), true) => Some(self.health(&stable, since.0, plugin.spec.rollout.gates.max_failed).await),
            _ => None,
        };
        let wish = Self::wish(plugin);
        let to = steps::next(&plugin.spec.rollout, &attempt, wish.as_ref(), health.as_ref(), jiff::Timestamp::now());
        let prepared = match &to {
            // not kept while a person thinks about it
            Move::Enter(_) | Move::Promote if self.canary.is_none() => {
                match self.prepare(plugin, wanted, false).await {
                    Ok(prepared) => Some(prepared),
                    Err(failure) => return self.refused(plugin, before, failure).await,
                }
            }
            _ => None,
        };
        self.carry_out(plugin, before, attempt, to, prepared).await
    }

    /// Loads the version of a step, if it is not, and lets it serve its part.
    async fn enter(
        &mut self,
        plugin: &Plugin,
        before: &PluginStatus,
        wanted: &VersionSpec,
        step: u32,
        prepared: Option<Prepared>,
    ) -> Result<(), LoadFailure> {
        let share = Share::until(&plugin.spec.rollout.steps, step).unwrap_or_default();
        let revision = wanted.revision();
        let loaded = self.canary.as_ref().filter(|(active, _)| *active.revision == *revision).cloned();
        if loaded.as_ref().is_some_and(|(_, now)| *now == share) {
            return Ok(());
        }
        let active = match (loaded, prepared) {
            (Some((active, _)), _) => active,
            (None, Some(prepared)) => self.install(plugin, before, prepared, false).await?,
            (None, None) => {
                let prepared = self.prepare(plugin, wanted, false).await?;
                self.install(plugin, before, prepared, false).await?
            }
        };
        // what the one makes, the other has to see: the lists of watches are shared, unless the accounts differ
        if let Some(stable) = self.base() {
            for kind in active.manifest.child_kinds() {
                if let Err(error) = self.controller.watch_children(stable, kind).await {
                    tracing::debug!(plugin = self.name, %kind, %error, "a kind of child is not served");
                }
            }
        }
        self.canary = Some((active, share));
        self.seen = Seen::default();
        for (_, primary) in self.part() {
            self.seen.generations.insert(primary.uid.clone(), primary.generation);
        }
        self.serve();
        Ok(())
    }

    /// The objects that the version on its way serves.
    fn part(&self) -> Vec<(PrimaryKey, Arc<Object>)> {
        let (Some(serving), Some((canary, _))) = (self.serving(), &self.canary) else {
            return Vec::new();
        };
        let mut part = Vec::new();
        for watch in &serving.stable.primary_watches {
            for primary in watch.cache.all() {
                if matches!(serving.choose(&watch.kind, &primary), Chosen::Version(one) if Arc::ptr_eq(&one, canary)) {
                    part.push((PrimaryKey::new(watch.kind.clone(), &primary.namespace, &primary.name), primary));
                }
            }
        }
        part
    }

    /// How the objects of the version on its way fare.
    async fn health(&mut self, stable: &Arc<Active>, since: jiff::Timestamp, may_fail: u32) -> Health {
        let (part, now) = (self.part(), jiff::Timestamp::now());
        let revision = self.canary.as_ref().map(|(active, _)| active.revision.clone()).unwrap_or_default();
        let pending = self.controller.pending(&revision, part.iter().map(|(key, _)| key));
        let mut health = Health { objects: part.len(), pending, ..Health::default() };
        metrics().objects_by_version(&self.name, "canary", part.len());
        for (key, primary) in &part {
            match health::worse(primary, since, now) {
                None => {}
                Some(Worse::NotReady(said)) => {
                    let is_same = self.seen.generations.get(&primary.uid) == Some(&primary.generation);
                    if is_same && !primary.deleting {
                        health.not_ready.push(said);
                    }
                }
                Some(Worse::Failed(said)) => {
                    if self.seen.excused.get(&primary.uid) == Some(&primary.generation) {
                        continue;
                    }
                    if fails_too(&self.controller, stable, key, primary).await {
                        self.seen.excused.insert(primary.uid.clone(), primary.generation);
                        continue;
                    }
                    health.failed.push(said);
                    if health.failed.len() as u64 > u64::from(may_fail) + MAX_NAMED {
                        break; // enough to be sure
                    }
                }
            }
        }
        health
    }

    /// Does what was decided of a version on its way.
    async fn carry_out(
        &mut self,
        plugin: &Plugin,
        before: PluginStatus,
        mut attempt: RolloutStatus,
        to: Move,
        prepared: Option<Prepared>,
    ) -> Next {
        let known = self.known(plugin);
        let look = |n: usize| Next::Look(LOOK_EVERY + Duration::from_millis(n as u64 / 5));
        attempt.generation = plugin.metadata.generation.unwrap_or_default();
        match to {
            Move::Stay => {
                let serves = attempt.step > 0 && matches!(attempt.state, RolloutState::Baking | RolloutState::Waiting);
                let objects = attempt.objects as usize;
                let status = on_its_way(&before, plugin, attempt, self.now(&before, None));
                if !self.publish(plugin, &known, status).await {
                    return Next::Retry;
                }
                if serves { look(objects) } else { Next::Rest }
            }
            Move::Promote => {
                let active = match (self.canary.clone(), prepared) {
                    (Some((active, _)), _) => Ok(active),
                    (None, Some(prepared)) => self.install(plugin, &before, prepared, false).await,
                    (None, None) => return Next::Retry,
                };
                match active {
                    Ok(active) => self.promote(plugin, before, active).await,
                    Err(failure) => self.refused(plugin, before, failure).await,
                }
            }
            Move::Enter(step) => {
                let wanted = VersionSpec::of(&plugin.spec);
                self.enter_step(plugin, before, &wanted, RolloutStatus { step, ..attempt }, prepared).await
            }
            Move::Stop(state, message) => {
                let is_watched = attempt.step > 0 && state == RolloutState::Waiting;
                let objects = attempt.objects as usize;
                tracing::info!(plugin = self.name, digest = attempt.digest, ?state, message, "roll-out stopped");
                self.event(plugin, state != RolloutState::Waiting, reason_of(state), message.clone());
                metrics().rollout(&self.name, reason_of(state));
                let attempt = RolloutStatus { state, message, ..attempt };
                let status = on_its_way(&before, plugin, attempt, self.now(&before, None));
                if !self.publish(plugin, &known, status).await {
                    return Next::Retry;
                }
                if is_watched { look(objects) } else { Next::Rest }
            }
            Move::Back(state, why) => {
                self.take_back(plugin, before, RolloutStatus { state, message: why, ..attempt }).await
            }
        }
    }

    /// Lets a version serve the part of a step, from the next full second on: conditions have the time in seconds, and what
    /// flipped before must not count against it.
    async fn enter_step(
        &mut self,
        plugin: &Plugin,
        before: PluginStatus,
        wanted: &VersionSpec,
        mut attempt: RolloutStatus,
        prepared: Option<Prepared>,
    ) -> Next {
        let known = self.known(plugin);
        let active = match (self.canary.clone(), prepared) {
            (Some((active, _)), _) => Ok(active),
            (None, Some(prepared)) => self.install(plugin, &before, prepared, false).await,
            (None, None) => return Next::Retry,
        };
        let active = match active {
            Ok(active) => active,
            Err(failure) => return self.refused(plugin, before, failure).await,
        };
        let now = jiff::Timestamp::now();
        let since = jiff::Timestamp::from_second(now.as_second() + 1).unwrap_or(now);
        attempt.state = RolloutState::Baking;
        attempt.since = Some(Time(since));
        attempt.message = format!("step {} of {}", attempt.step, attempt.steps);
        // the share that is about to be, for the count
        let share = Share::until(&plugin.spec.rollout.steps, attempt.step).unwrap_or_default();
        let old = self.canary.replace((active.clone(), share));
        let objects = self.part().len();
        self.canary = old;
        attempt.objects = u32::try_from(objects).unwrap_or(u32::MAX);
        let mut status = on_its_way(&before, plugin, attempt.clone(), self.now(&before, None));
        declare(&mut status, &before, &active);
        let needed = self.is_needed(self.stable.as_ref().into_iter().chain([&active]));
        if !self.publish(plugin, &known, status).await || !self.set_finalizer(plugin, needed).await {
            return Next::Retry;
        }
        tokio::time::sleep(Duration::try_from(since.duration_since(jiff::Timestamp::now())).unwrap_or_default()).await;
        if self.canary.is_none() {
            self.canary = Some((active, Share::default()));
        }
        let (digest, step) = (&attempt.digest, attempt.step);
        tracing::info!(plugin = self.name, digest, step, objects, "canary serves");
        self.event(
            plugin,
            false,
            "CanaryStep",
            format!("version {}, {}: {objects} objects", attempt.version, attempt.message),
        );
        metrics().rollout(&self.name, "Step");
        match self.enter(plugin, &before, wanted, attempt.step, None).await {
            Ok(()) => Next::Look(LOOK_EVERY),
            Err(failure) => self.refused(plugin, before, failure).await,
        }
    }

    /// The version before serves all objects again.
    async fn take_back(&mut self, plugin: &Plugin, before: PluginStatus, attempt: RolloutStatus) -> Next {
        let known = self.known(plugin);
        let had_part = self.canary.take().is_some();
        self.serve();
        let why = attempt.message.clone();
        let mut message = why.clone();
        if had_part
            && let Some(stable) = &self.stable
            && let Err(failure) = load::reinstall(&self.controller, stable).await
        {
            message = format!("{why}; its custom resource definitions stay: {}", failure.message);
        }
        let reason = reason_of(attempt.state);
        tracing::warn!(plugin = self.name, digest = attempt.digest, reason, why, "version taken back");
        self.event(plugin, true, reason, format!("version {} was taken back: {message}", attempt.version));
        metrics().rollout(&self.name, reason);
        self.count_objects();
        let entry = HistoryEntry {
            digest: attempt.digest.clone(),
            version: attempt.version.clone(),
            revision: attempt.revision.clone(),
            reason: reason.into(),
            message: message.clone(),
            at: Some(Time(now())),
            spec: fitting(VersionSpec::of(&plugin.spec)),
        };
        let attempt = RolloutStatus { message, objects: 0, ..attempt };
        let mut status = on_its_way(&before, plugin, attempt, self.now(&before, None));
        remember(&mut status.history, entry);
        if self.publish(plugin, &known, status).await { Next::Rest } else { Next::Retry }
    }

    /// Loads versions that objects are pinned to, and unloads those that none is. Returns whether something changed.
    async fn load_pins(&mut self, plugin: &Plugin) -> bool {
        let Some(stable) = self.base().cloned() else { return false };
        let status = self.known(plugin);
        let mut changed = self.keep_pinned();
        for digest in self.pins() {
            if self.pinned.iter().any(|active| active.digest == digest) {
                continue;
            }
            let entry = status.history.iter().find(|entry| entry.digest == digest);
            let Some(spec) = entry.and_then(|entry| entry.spec.as_ref()) else { continue };
            let loaded = async {
                let prepared = self.prepare(plugin, spec, true).await?;
                self.install(plugin, &status, prepared, true).await
            };
            match loaded.await {
                Ok(active) if active.serves_any_of(&stable) => {
                    self.pinned.push(active);
                    changed = true;
                }
                Ok(_) => {}
                Err(LoadFailure { reason, message, .. }) => {
                    tracing::warn!(plugin = self.name, digest, reason, message, "pinned version could not be loaded");
                }
            }
        }
        changed
    }

    /// Digests that objects are pinned to, beside those of the versions that serve anyway.
    fn pins(&self) -> BTreeSet<String> {
        let watches = self.base().into_iter().flat_map(|stable| &stable.primary_watches);
        let pins =
            watches.flat_map(|watch| watch.cache.all()).filter_map(|primary| primary.pin.as_deref().map(str::to_owned));
        let loaded: Vec<&str> = self
            .stable
            .iter()
            .chain(self.canary.iter().map(|(active, _)| active))
            .map(|active| active.digest.as_str())
            .collect();
        pins.filter(|digest| !loaded.contains(&digest.as_str())).collect()
    }

    /// Unloads versions that no object is pinned to. Returns whether there were any.
    fn keep_pinned(&mut self) -> bool {
        let pins = self.pins();
        let before = self.pinned.len();
        self.pinned.retain(|active| pins.contains(&active.digest));
        self.pinned.len() != before
    }

    fn count_objects(&self) {
        let all =
            self.base().into_iter().flat_map(|stable| &stable.primary_watches).map(|watch| watch.cache.len()).sum();
        metrics().objects_by_version(&self.name, "canary", self.part().len());
        metrics().objects_by_version(&self.name, "all", all);
    }

    fn event(&self, plugin: &Plugin, warning: bool, reason: &str, note: String) {
        let uid = plugin.uid().unwrap_or_default();
        self.controller.events.send(&self.reference(), &uid, Event { warning, reason: reason.into(), note });
    }

    /// Must the record stay until objects are gone? As long as they carry the finalizer, or could come to.
    fn is_needed<'a>(&self, versions: impl IntoIterator<Item = &'a Arc<Active>>) -> bool {
        versions.into_iter().any(|active| self.needs_finalizer(active)) || self.controller.finalizers(&self.name) > 0
    }

    /// Can objects of this version come to carry the host's finalizer?
    fn needs_finalizer(&self, active: &Active) -> bool {
        let cluster = &self.controller.cluster;
        let leaves_home = |kind: &TypeMeta| cluster.known(kind).is_some_and(|served| served.scope == Scope::Cluster);
        let manifest = &active.manifest;
        manifest.finalizes || manifest.makes_any_kind() || manifest.child_kinds().any(leaves_home)
    }

    /// While no version can be loaded, objects of the kinds it has served can at least be deleted.
    async fn serve_deletions(&mut self, plugin: &Plugin, status: &PluginStatus) {
        if self.controller.is_active(&self.name) || status.primary_kinds.is_empty() {
            return;
        }
        if let Err(LoadFailure { reason, message, .. }) = self.only_deletions(plugin, status).await {
            tracing::warn!(plugin = self.name, reason, message, "not even deletions");
        }
    }

    /// What serves now. `failure` is why the version in the spec does not, which may be the one that served.
    fn now<'a>(&'a self, status: &PluginStatus, failure: Option<&'a LoadFailure>) -> Base<'a> {
        match (&self.stable, self.lost.as_ref().or(failure)) {
            (Some(stable), _) => Base::Version(stable),
            (None, Some(lost)) if status.serving.is_some() => Base::Lost(lost),
            (None, _) => Base::None,
        }
    }

    /// Writes down the kinds that versions are about to make objects of, and lets all versions see those.
    async fn record_kinds(&mut self, plugin: &Plugin) {
        let (before, wanted) = (self.known(plugin), self.kinds.wanted());
        let kinds = before.child_kinds.iter().rev().cloned().chain(wanted.iter().map(KindRef::of));
        let child_kinds = KindRef::one_of_each(&kinds.collect::<Vec<_>>());
        let canary = self.canary.iter().map(|(active, _)| active);
        let versions: Vec<Arc<Active>> = self.stable.iter().chain(canary).chain(&self.pinned).cloned().collect();
        for version in &versions {
            for kind in &wanted {
                if let Err(error) = self.controller.watch_children(version, kind).await {
                    tracing::debug!(plugin = self.name, %kind, %error, "a kind of child is not served");
                }
            }
        }
        if self.publish(plugin, &before, PluginStatus { child_kinds, ..before.clone() }).await {
            let kinds = wanted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            tracing::info!(plugin = self.name, kinds, "kinds of children recorded");
        } else {
            // who asked tries again
            self.kinds.forget();
        }
    }

    /// The record is being deleted. The plugin goes on serving until no object carries the host's finalizer; returns when
    /// the record is let go.
    async fn retire(&mut self, records: &mut watch::Receiver<Plugin>) {
        loop {
            let plugin = &records.borrow_and_update().clone();
            let held = self.controller.finalizers(&self.name);
            if held == 0 && self.set_finalizer(plugin, false).await {
                return;
            }
            if !self.kinds.wanted().is_empty() {
                self.record_kinds(plugin).await;
            }
            let before = self.known(plugin);
            let objects = if held == 1 { "object" } else { "objects" };
            let message =
                format!("needed to clean up after {held} {objects}: delete them, or wait until they are gone");
            let ready = (READY, "False", "Terminating", message);
            let kept = before.conditions.iter().filter(|condition| condition.type_ != READY).cloned();
            let conditions = kept.chain(conditions::of(&before, plugin, [ready].into_iter())).collect();
            let status = PluginStatus { phase: Phase::Terminating, conditions, ..before.clone() };
            self.publish(plugin, &before, status).await;
            tokio::time::sleep(RETIRE_EVERY).await;
        }
    }

    /// The host's finalizer on the record itself, so that objects which need the plugin do not lose it. Returns whether
    /// it is as it should be.
    async fn set_finalizer(&self, plugin: &Plugin, there: bool) -> bool {
        let is_there = plugin.finalizers().iter().any(|f| f == FINALIZER);
        if is_there == there {
            return true;
        }
        let mut list: Vec<&str> = plugin.finalizers().iter().map(String::as_str).filter(|f| *f != FINALIZER).collect();
        if there {
            list.push(FINALIZER);
        }
        let patch = json!({ "metadata": { "finalizers": list, "uid": plugin.uid() } });
        match self.controller.cluster.merge(&self.reference(), MANAGER, &patch).await {
            Ok(_) => true,
            Err(error) if error.code() == 404 => true,
            Err(error) => {
                tracing::warn!(plugin = self.name, %error, "finalizers of the plugin could not be written");
                false
            }
        }
    }

    fn reference(&self) -> ObjectRef {
        let kind = TypeMeta::new("transom.dev/v1alpha1", "Plugin");
        ObjectRef { kind, namespace: String::new(), name: self.name.clone() }
    }

    async fn publish(&mut self, plugin: &Plugin, before: &PluginStatus, mut status: PluginStatus) -> bool {
        status.sources = still_named(&self.sources, &plugin.spec, &status);
        conditions::set_stored(&mut status, plugin, self.stored.as_ref());
        if *before == status {
            self.kinds.are(status.child_kinds.iter().map(KindRef::type_meta).collect());
            conditions::count(&self.name, &status);
            return true;
        }
        let uid = plugin.uid().unwrap_or_default();
        let Ok(value) = serde_json::to_value(&status) else {
            return false;
        };
        match self.controller.cluster.apply_status(&self.reference(), &uid, MANAGER, &value).await {
            Ok(_) => {
                self.kinds.are(status.child_kinds.iter().map(KindRef::type_meta).collect());
                conditions::count(&self.name, &status);
                self.written = Some((uid, status));
                true
            }
            Err(error) => {
                tracing::warn!(plugin = self.name, error = %error, "status of the plugin could not be written");
                false
            }
        }
    }
}

/// What references stand for that the record, the version that serves or one in the history still names.
fn still_named(sources: &[ResolvedSource], spec: &PluginSpec, status: &PluginStatus) -> Vec<ResolvedSource> {
    let wanted = VersionSpec::of(spec);
    let history = status.history.iter().filter_map(|entry| entry.spec.as_ref());
    let versions: Vec<&VersionSpec> = [&wanted].into_iter().chain(&status.serving).chain(history).collect();
    let names = |version: &&VersionSpec| {
        let engines = version.engines.iter().map(|engine| &engine.source);
        let sources = std::iter::once(&version.source).chain(engines);
        sources
            .filter_map(|source| source.oci.as_ref())
            .map(|oci| (oci.reference.clone(), oci.refresh.clone()))
            .collect()
    };
    let named: BTreeSet<(String, Option<String>)> = versions.iter().flat_map::<Vec<_>, _>(names).collect();
    let is_named = |one: &&ResolvedSource| named.contains(&(one.reference.clone(), one.refresh.clone()));
    sources.iter().filter(is_named).cloned().collect()
}

/// The version that is being let in and serves its part already, if it is still the one that is wanted.
fn let_in<'a>(status: &'a PluginStatus, wanted: &VersionSpec) -> Option<&'a RolloutStatus> {
    let attempt = status.rollout.as_ref().filter(|attempt| attempt.serves())?;
    (attempt.revision == wanted.revision()).then_some(attempt)
}

/// Does the version that serves fail with this object as well?
async fn fails_too(controller: &Controller, stable: &Active, key: &PrimaryKey, primary: &Arc<Object>) -> bool {
    // what cannot be loaded excuses nothing
    let Some(version) = Version::loaded(stable) else { return false };
    let snapshot = shadow::snapshot(stable, &key.kind, primary, version);
    !matches!(shadow::evaluate(controller, version, &snapshot).await, Evaluated::Planned(_))
}

/// Changes with every edit of the spec, every wish for the roll-out and with deletion, and with nothing else.
fn identity(plugin: &Plugin) -> (Option<&str>, Option<i64>, bool, Option<&String>) {
    let meta = &plugin.metadata;
    let wish = plugin.annotations().get(names::ROLLOUT_ANNOTATION);
    (meta.uid.as_deref(), meta.generation, meta.deletion_timestamp.is_some(), wish)
}

fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default()
}

/// What is kept for going back: a large configuration is not.
fn fitting(spec: VersionSpec) -> Option<VersionSpec> {
    serde_json::to_string(&spec).is_ok_and(|text| text.len() <= MAX_HISTORY_SPEC).then_some(spec)
}

/// Puts an entry first, in place of an earlier one of the same version.
fn remember(history: &mut Vec<HistoryEntry>, entry: HistoryEntry) {
    history.retain(|earlier| !is_same(earlier, &entry.revision, &entry.digest));
    history.insert(0, entry);
    history.truncate(MAX_HISTORY);
}

/// Hosts before this one wrote no revision.
fn is_same(entry: &HistoryEntry, revision: &str, digest: &str) -> bool {
    if entry.revision.is_empty() { entry.digest == digest } else { entry.revision == revision }
}

/// Does this version name a kind of child, or are there objects of it? A kind that could not be looked at may have some.
fn is_made(active: &Active, kind: &TypeMeta) -> bool {
    let named = active.manifest.child_kinds().any(|known| known.is_same_kind(kind));
    named || active.child_watch(kind).is_none_or(|watch| !watch.cache.all().is_empty())
}

/// Kinds of a version that is about to make children.
fn declare(status: &mut PluginStatus, before: &PluginStatus, active: &Active) {
    let union = |now: &mut dyn Iterator<Item = &TypeMeta>, before: &[KindRef]| -> Vec<KindRef> {
        now.map(KindRef::of).chain(before.iter().cloned()).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let child_kinds: Vec<KindRef> =
        active.manifest.child_kinds().map(KindRef::of).chain(before.child_kinds.iter().rev().cloned()).collect();
    status.child_kinds = KindRef::one_of_each(&child_kinds);
    status.primary_kinds = union(&mut active.primary_watches.iter().map(|watch| &*watch.kind), &before.primary_kinds);
}

/// Resolves when the certificates of webhooks are others, or after this time.
async fn rotated(rotations: &mut Option<webhook::Rotations>, after: Duration) {
    let rotated = async {
        match rotations {
            Some(rotations) if after < Duration::MAX => rotations.next().await,
            _ => std::future::pending().await,
        }
    };
    let _ = tokio::time::timeout(after, rotated).await;
}
