//! Which plugin serves which kind, who is to be reconciled, and the workers that do it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;

use super::cluster::{Cluster, Served};
use super::events::Events;
use super::key::PrimaryKey;
use super::queue::Queue;
use super::reconcile::{Memory, Outcome, Reconcile};
use super::watch::{Change, Selection, Watch, Watches};
use crate::lookup::Lookups;
use crate::plan::check::{Checked, KIND_NOT_SERVED, PlanError};
use crate::plan::contract::{Manifest, TypeMeta};
use crate::plan::object::Object;
use crate::plugin::Plugin;
use crate::telemetry::metrics;

/// How long an object is left alone that only a change can mend. Changes come by watch; this is for what a watch
/// cannot tell, such as a permission that was granted meanwhile.
pub const RESYNC: Duration = Duration::from_secs(600);

/// The first list of a kind that has just come to be is short.
const LATE_SYNC_DEADLINE: Duration = Duration::from_secs(10);

/// Reconciles that run at the same time. Each is mostly waiting for the API server.
const WORKERS: usize = 16;

/// One version of a plugin, serving.
pub struct Active {
    /// Name of the record.
    pub name: String,
    /// `sha256:…`
    pub digest: String,
    /// The component.
    pub plugin: Plugin,
    /// What it said of itself.
    pub manifest: Manifest,
    /// `spec.config` as JSON, `{}` when there is none.
    pub config: String,
    /// Field manager of its applies.
    pub field_manager: String,
    /// Kinds that it serves.
    pub primary_watches: Vec<Arc<Watch>>,
    /// Kinds that it, or a version before, makes, as far as they were served when it was loaded.
    pub child_watches: Vec<Arc<Watch>>,
    /// Declared kinds that the API server serves since.
    pub late_watches: RwLock<Vec<Arc<Watch>>>,
}

impl Active {
    /// One primary.
    #[must_use]
    pub fn primary(&self, key: &PrimaryKey) -> Option<Arc<Object>> {
        self.primary_watch(&key.kind)?.cache.get(&key.namespace, &key.name)
    }

    /// The API server's answer to a write.
    pub fn put_primary(&self, key: &PrimaryKey, object: Object) {
        if let Some(watch) = self.primary_watch(&key.kind) {
            watch.cache.put(object);
        }
    }

    fn primary_watch(&self, kind: &TypeMeta) -> Option<&Arc<Watch>> {
        self.primary_watches.iter().find(|watch| *watch.kind == *kind)
    }

    /// The watches of all kinds of children.
    #[must_use]
    pub fn child_watches(&self) -> Vec<Arc<Watch>> {
        let late = self.late_watches.read().unwrap_or_else(PoisonError::into_inner);
        self.child_watches.iter().chain(&*late).cloned().collect()
    }

    /// The watch of one kind of child.
    #[must_use]
    pub fn child_watch(&self, kind: &TypeMeta) -> Option<Arc<Watch>> {
        self.child_watches().into_iter().find(|watch| *watch.kind == *kind)
    }
}

/// What watches and workers share.
#[derive(Default)]
struct Shared {
    queue: Queue,
    /// By UID: which primary an owner label means.
    owners: RwLock<HashMap<String, PrimaryKey>>,
}

/// The host's side of all primaries.
pub struct Controller {
    /// The API server.
    pub cluster: Arc<Cluster>,
    /// Answers for plugins.
    pub lookups: Lookups,
    /// Kubernetes Events.
    pub events: Events,
    watches: Watches,
    shared: Arc<Shared>,
    active: RwLock<HashMap<TypeMeta, Arc<Active>>>,
    memory: Mutex<HashMap<PrimaryKey, Memory>>,
}

impl Controller {
    /// Without any plugin yet.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>) -> Arc<Self> {
        let shared = Arc::<Shared>::default();
        let (watcher, asker) = (shared.clone(), shared.clone());
        let observe = move |kind: &Arc<TypeMeta>, selection, change| watcher.observe(kind, selection, change);
        let stale = move |key: &PrimaryKey| asker.queue.add(key.clone(), 0);
        Arc::new(Self {
            lookups: Lookups::new(cluster.clone(), Arc::new(stale)),
            events: Events::start(cluster.client().clone()),
            watches: Watches::new(cluster.clone(), Arc::new(observe)),
            cluster,
            shared,
            active: RwLock::default(),
            memory: Mutex::default(),
        })
    }

    /// Begins to watch declared kinds of children that were not served when the plugin was loaded, and are now. True when
    /// there is news: the reconcile has not seen these objects so far.
    ///
    /// Plugins name such a kind once they have learned that it is there, so nothing is asked for in between.
    pub async fn watch_late(&self, active: &Active, plan: &Result<Checked, PlanError>) -> bool {
        let watched = active.child_watches();
        let is_watched = |kind: &TypeMeta| watched.iter().any(|watch| *watch.kind == *kind);
        let is_named = |kind: &TypeMeta| match plan {
            Ok(checked) => checked.children.iter().any(|child| child.reference.kind == *kind),
            Err(error) => error.reason == KIND_NOT_SERVED,
        };
        let mut news = false;
        for (kind, _) in active.manifest.children.iter().filter(|(kind, _)| !is_watched(kind) && is_named(kind)) {
            // not served (yet): the plan is refused and made again, with back-off
            let Ok(served) = self.cluster.served(kind).await else { continue };
            let watch = self.watch(&served, Selection::Children);
            if tokio::time::timeout(LATE_SYNC_DEADLINE, watch.synced()).await.is_err() {
                continue;
            }
            let mut late = active.late_watches.write().unwrap_or_else(PoisonError::into_inner);
            if late.iter().all(|known| *known.kind != *kind) {
                late.push(watch);
            }
            news = true;
        }
        news
    }

    /// Starts watches for a kind, or shares running ones.
    pub fn watch(&self, served: &Served, selection: Selection) -> Arc<Watch> {
        self.watches.open(served, selection)
    }

    /// The plugin that serves a kind.
    #[must_use]
    pub fn serving(&self, kind: &TypeMeta) -> Option<Arc<Active>> {
        self.active.read().unwrap_or_else(PoisonError::into_inner).get(kind).cloned()
    }

    /// Lets a version serve its kinds from now on, in place of the version before. Calls in flight end on the version
    /// they began with. Every primary is looked at again.
    pub fn activate(&self, active: Active) {
        let active = Arc::new(active);
        let mut kinds = self.active.write().unwrap_or_else(PoisonError::into_inner);
        kinds.retain(|_, serving| serving.name != active.name);
        for watch in &active.primary_watches {
            kinds.insert((*watch.kind).clone(), active.clone());
        }
        drop(kinds);
        for watch in &active.primary_watches {
            for primary in watch.cache.all() {
                self.shared.queue.add(PrimaryKey::new(watch.kind.clone(), &primary.namespace, &primary.name), 0);
            }
        }
    }

    /// No version of this plugin serves any more. Its objects stay as they are.
    pub fn deactivate(&self, plugin: &str) {
        self.active.write().unwrap_or_else(PoisonError::into_inner).retain(|_, serving| serving.name != plugin);
    }

    /// Works until the queue is closed, then finishes what was begun.
    pub async fn work(self: &Arc<Self>) {
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            let controller = self.clone();
            workers.spawn(async move {
                while let Some(key) = controller.shared.queue.next().await {
                    metrics().queue_depth(controller.shared.queue.waiting());
                    let written = controller.reconcile(&key).await;
                    controller.shared.queue.done(&key, &written);
                }
            });
        }
        while let Some(ended) = workers.join_next().await {
            if let Err(error) = ended {
                tracing::error!(error = %error, "a worker ended");
            }
        }
    }

    /// Gives no more work out.
    pub fn close(&self) {
        self.shared.queue.close();
    }

    async fn reconcile(&self, key: &PrimaryKey) -> Vec<u64> {
        let Some(active) = self.serving(&key.kind) else {
            return Vec::new();
        };
        if active.primary(key).is_none() {
            self.memory.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            self.lookups.forget(key);
            return Vec::new();
        }
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner).remove(key).unwrap_or_default();
        let span = tracing::error_span!("reconcile", kind = key.kind.kind, namespace = %key.namespace, object = %key.name,
            plugin = active.name, digest = active.digest.get(..15));
        let reconcile = Reconcile { controller: self, active: &active, key, memory: &mut memory, written: Vec::new() };
        let Outcome { written, again } = reconcile.run().instrument(span).await;
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), memory);
        if let Some(after) = again {
            self.shared.queue.add_at(key.clone(), Instant::now() + after);
        }
        written
    }
}

impl Shared {
    /// From a change to the primary that it concerns.
    fn observe(&self, kind: &Arc<TypeMeta>, selection: Selection, change: Change) {
        let (object, before, version) = match &change {
            Change::Put { before, now } => (now, before.as_ref(), now.resource_version),
            // a deletion by us was written by nobody's resource version
            Change::Gone(object) => (object, None, 0),
        };
        match selection {
            Selection::Primaries => {
                let key = PrimaryKey::new(kind.clone(), &object.namespace, &object.name);
                let mut owners = self.owners.write().unwrap_or_else(PoisonError::into_inner);
                match change {
                    Change::Put { .. } => owners.insert(object.uid.clone(), key.clone()),
                    Change::Gone(_) => owners.remove(&object.uid),
                };
                drop(owners);
                self.queue.add(key, version);
            }
            Selection::Children => {
                let owners = self.owners.read().unwrap_or_else(PoisonError::into_inner);
                // a label that was changed by hand concerns the old owner too
                let old =
                    before.and_then(|before| before.owner.as_ref()).filter(|old| object.owner.as_ref() != Some(old));
                for owner in object.owner.iter().chain(old) {
                    if let Some(key) = owners.get(owner) {
                        self.queue.add(key.clone(), version);
                    }
                }
            }
        }
    }
}
