//! The `Plugin` records: one task for each, so that a slow one does not keep the others waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, CustomResourceExt, ResourceExt};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::crd::{Definition, DefinitionError};
use super::fetch::Fetcher;
use super::load::{self, LoadFailure, Loader, STEPS};
use super::policy::Policy;
use crate::api::names::{FINALIZER, READY};
use crate::api::plugin::{HistoryEntry, KindRef, Phase, Plugin, PluginStatus};
use crate::control::backoff;
use crate::control::controller::{Active, Controller};
use crate::plan::check::Scope;
use crate::plan::contract::{ObjectRef, TypeMeta};
use crate::telemetry::{Readiness, metrics};

/// Field manager of the host's own writes.
const MANAGER: &str = "transom";
const MAX_HISTORY: usize = 10;
/// How often a record that is being deleted is looked at for objects that still need the plugin.
const RETIRE_EVERY: Duration = Duration::from_secs(1);

/// Follows the `Plugin` records.
pub struct Registry {
    controller: Arc<Controller>,
    loader: Loader,
    fetcher: Arc<Fetcher>,
    /// Only records with these labels; empty: all.
    selector: String,
}

/// The task of one record.
struct Slot {
    latest: watch::Sender<Plugin>,
    task: AbortHandle,
}

impl Registry {
    /// Nothing is loaded yet.
    #[must_use]
    pub fn new(controller: Arc<Controller>, loader: Loader, selector: String, policy: Policy) -> Self {
        let fetcher = Arc::new(Fetcher::new(controller.cluster.clone(), policy, loader.cache.dir.clone()));
        Self { controller, loader, fetcher, selector }
    }

    /// Installs the host's own custom resource definition.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn install(&self) -> Result<(), DefinitionError> {
        let text = serde_json::to_string(&Plugin::crd()).map_err(|e| DefinitionError(e.to_string()))?;
        Definition::parse(&text)?.install(&self.controller.cluster, MANAGER).await
    }

    /// Follows the records until the host ends. Ready when every record that was there at the start has been tried.
    pub async fn run(self, readiness: Readiness) {
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
                        self.put(&mut slots, plugin, &tried);
                    }
                    Some(Ok(watcher::Event::Apply(plugin))) => self.put(&mut slots, plugin, &tried),
                    Some(Ok(watcher::Event::Delete(plugin))) => self.remove(&mut slots, &plugin.name_any()),
                    Some(Ok(watcher::Event::InitDone)) => {
                        let gone: Vec<String> = slots.keys().filter(|n| !listed.contains(*n)).cloned().collect();
                        gone.iter().for_each(|name| self.remove(&mut slots, name));
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

    fn put(&self, slots: &mut BTreeMap<String, Slot>, plugin: Plugin, tried: &mpsc::UnboundedSender<String>) {
        let name = plugin.name_any();
        if let Some(slot) = slots.get(&name) {
            slot.latest.send_replace(plugin);
            return;
        }
        let (latest, records) = watch::channel(plugin);
        let record = Record {
            controller: self.controller.clone(),
            loader: self.loader.clone(),
            fetcher: self.fetcher.clone(),
            name: name.clone(),
        };
        let task = tokio::spawn(record.follow(records, tried.clone())).abort_handle();
        slots.insert(name, Slot { latest, task });
    }

    fn remove(&self, slots: &mut BTreeMap<String, Slot>, name: &str) {
        if let Some(slot) = slots.remove(name) {
            slot.task.abort();
            self.controller.deactivate(name);
            metrics().plugin_gone(name);
            tracing::info!(plugin = name, "plugin removed");
        }
    }
}

/// One record.
struct Record {
    controller: Arc<Controller>,
    loader: Loader,
    fetcher: Arc<Fetcher>,
    name: String,
}

impl Record {
    async fn follow(self, mut records: watch::Receiver<Plugin>, tried: mpsc::UnboundedSender<String>) {
        let mut failures = 0u32;
        loop {
            let plugin = records.borrow_and_update().clone();
            let done = self.handle(&plugin).await;
            if plugin.metadata.deletion_timestamp.is_some() {
                let _ = tried.send(self.name.clone());
                return self.retire(&mut records).await;
            }
            let _ = tried.send(self.name.clone());
            failures = if done { 0 } else { failures.saturating_add(1) };
            // Our own writes of the status change the record, too.
            let edited = records.wait_for(|latest| identity(latest) != identity(&plugin));
            let gone = if done {
                edited.await.is_err()
            } else {
                let after = backoff::delay(failures, failures.into()).min(Duration::from_secs(30));
                tokio::time::timeout(after, edited).await.is_ok_and(|edited| edited.is_err())
            };
            if gone {
                return;
            }
        }
    }

    /// Tries the version in the record. Returns whether there is nothing left to try before the record changes.
    async fn handle(&self, plugin: &Plugin) -> bool {
        let before = plugin.status.clone().unwrap_or_default();
        let (tools, mut sources) = ((&self.loader, &*self.fetcher), before.sources.clone());
        let earlier = &before.child_kinds;
        let result = load::prepare(tools, &self.controller, &self.name, &plugin.spec, earlier, &mut sources).await;
        let mut status = match &result {
            Ok(active) => loaded(&before, plugin, active),
            Err(failure) => failed(&before, plugin, failure),
        };
        status.sources = sources;
        metrics().plugin_ready(&self.name, result.is_ok());
        // The kinds of children are on record before the first one is made, so that a crash cannot hide any.
        let recorded = self.publish(plugin, &before, status).await;
        match result {
            Ok(active) if recorded && self.set_finalizer(plugin, self.needs_finalizer(&active)).await => {
                tracing::info!(
                    plugin = self.name,
                    digest = active.digest,
                    version = active.manifest.version,
                    "plugin serves"
                );
                self.controller.activate(active);
                true
            }
            Ok(_) => false,
            Err(failure) => {
                self.serve_deletions(plugin, &before).await;
                let LoadFailure { step, reason, message, transient } = failure;
                tracing::warn!(plugin = self.name, step, reason, message, "plugin could not be loaded");
                !transient && recorded
            }
        }
    }

    /// Can objects of this version come to carry the host's finalizer?
    fn needs_finalizer(&self, active: &Active) -> bool {
        let cluster = &self.controller.cluster;
        let leaves_home = |kind: &TypeMeta| cluster.known(kind).is_some_and(|served| served.scope == Scope::Cluster);
        active.manifest.finalizes || active.manifest.children.iter().any(|(kind, _)| leaves_home(kind))
    }

    /// While no version can be loaded, objects of the kinds it has served can at least be deleted.
    async fn serve_deletions(&self, plugin: &Plugin, status: &PluginStatus) {
        if self.controller.is_active(&self.name) || status.primary_kinds.is_empty() {
            return;
        }
        match load::without_component(&self.controller, &self.name, &plugin.spec, status).await {
            Ok(active) => self.controller.activate(active),
            Err(failure) => {
                tracing::warn!(
                    plugin = self.name,
                    reason = failure.reason,
                    message = failure.message,
                    "not even deletions"
                )
            }
        }
    }

    /// The record is being deleted. The plugin goes on serving until no object carries the host's finalizer; returns when
    /// the record is let go.
    async fn retire(&self, records: &mut watch::Receiver<Plugin>) {
        loop {
            let plugin = &records.borrow_and_update().clone();
            let held = self.controller.finalizers(&self.name);
            if held == 0 && self.set_finalizer(plugin, false).await {
                return;
            }
            let before = plugin.status.clone().unwrap_or_default();
            let objects = if held == 1 { "object" } else { "objects" };
            let message =
                format!("needed to clean up after {held} {objects}: delete them, or wait until they are gone");
            let ready = (READY, "False", "Terminating", message);
            let kept = before.conditions.iter().filter(|condition| condition.type_ != READY).cloned();
            let conditions = kept.chain(conditions(&before, plugin, [ready].into_iter())).collect();
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

    async fn publish(&self, plugin: &Plugin, before: &PluginStatus, status: PluginStatus) -> bool {
        if *before == status {
            return true;
        }
        let uid = plugin.uid().unwrap_or_default();
        let Ok(value) = serde_json::to_value(&status) else {
            return false;
        };
        match self.controller.cluster.apply_status(&self.reference(), &uid, MANAGER, &value).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(plugin = self.name, error = %error, "status of the plugin could not be written");
                false
            }
        }
    }
}

/// Changes with every edit of the spec and with deletion, and with nothing else.
fn identity(plugin: &Plugin) -> (Option<&str>, Option<i64>, bool) {
    (plugin.metadata.uid.as_deref(), plugin.metadata.generation, plugin.metadata.deletion_timestamp.is_some())
}

fn loaded(before: &PluginStatus, plugin: &Plugin, active: &Active) -> PluginStatus {
    let mut status = before.clone();
    if let (Some(digest), Some(version)) = (&before.digest, &before.version)
        && *digest != active.digest
    {
        status.history.retain(|entry| entry.digest != *digest && entry.digest != active.digest);
        status.history.insert(0, HistoryEntry { digest: digest.clone(), version: version.clone() });
        status.history.truncate(MAX_HISTORY);
    }
    let union = |now: &mut dyn Iterator<Item = &TypeMeta>, before: &[KindRef]| -> Vec<KindRef> {
        now.map(KindRef::of).chain(before.iter().cloned()).collect::<BTreeSet<_>>().into_iter().collect()
    };
    status.child_kinds = union(&mut active.manifest.children.iter().map(|(kind, _)| kind), &before.child_kinds);
    status.primary_kinds = union(&mut active.primary_watches.iter().map(|watch| &*watch.kind), &before.primary_kinds);
    let primary = |kind: &TypeMeta| format!("{}.{}", kind.kind, kind.group());
    status.kinds = active.primary_watches.iter().map(|watch| primary(&watch.kind)).collect();
    status.phase = Phase::Ready;
    status.digest = Some(active.digest.clone());
    status.version = Some(active.manifest.version.clone());
    status.observed_generation = plugin.metadata.generation;
    let steps = STEPS.map(|step| (step, "True", "Done", String::new()));
    let ready = (READY, "True", "Serving", format!("serves {}", status.kinds.join(", ")));
    status.conditions = conditions(before, plugin, steps.into_iter().chain([ready]));
    status
}

fn failed(before: &PluginStatus, plugin: &Plugin, failure: &LoadFailure) -> PluginStatus {
    let mut status = before.clone();
    status.phase = Phase::Failed;
    status.observed_generation = plugin.metadata.generation;
    let mut reached = true;
    let mut steps = Vec::new();
    for step in STEPS {
        if step == failure.step {
            reached = false;
            steps.push((step, "False", failure.reason, failure.message.clone()));
        } else if reached {
            steps.push((step, "True", "Done", String::new()));
        } else {
            steps.push((step, "Unknown", "NotReached", String::new()));
        }
    }
    let serving = before.version.as_ref().map(|v| format!("; version {v} goes on serving")).unwrap_or_default();
    steps.push((READY, "False", failure.reason, format!("{}{serving}", failure.message)));
    status.conditions = conditions(before, plugin, steps.into_iter());
    status
}

fn conditions(
    before: &PluginStatus,
    plugin: &Plugin,
    steps: impl Iterator<Item = (&'static str, &'static str, &'static str, String)>,
) -> Vec<Condition> {
    let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default();
    steps
        .map(|(type_, status, reason, message)| Condition {
            last_transition_time: before
                .conditions
                .iter()
                .find(|c| c.type_ == type_ && c.status == status)
                .map_or(Time(now), |c| c.last_transition_time.clone()),
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message,
            observed_generation: plugin.metadata.generation,
        })
        .collect()
}
