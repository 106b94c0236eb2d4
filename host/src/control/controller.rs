//! Which plugin serves which kind, who is to be reconciled, and the workers that do it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{Instrument, field};

use super::access;
use super::cluster::{ApiError, Cluster, Served};
use super::events::Events;
use super::key::PrimaryKey;
use super::kinds::Kinds;
use super::pace::Pace;
use super::queue::Queue;
use super::reconcile::{Memory, Outcome, Reconcile, ReconcileError, STEPS_WITHIN};
use super::serving::{Chosen, Serving};
use super::watch::{Change, Selection, Watch, Watches};
use crate::lookup::{Grants, Lookups, Places};
use crate::overlay::guard::Rails;
use crate::overlay::store::Store;
use crate::plan::check::{Known, SetOnce};
use crate::plan::contract::{CallResult, Manifest, ObjectRef, TypeMeta};
use crate::plan::object::Object;
use crate::plan::request::Children;
use crate::plugin::Plugin;
use crate::record::ring::Ring;
use crate::telemetry::metrics;
use crate::webhook::Hooks;

/// How long an object is left alone that only a change can mend. Changes come by watch; this is for what a watch
/// cannot tell, such as a permission that was granted meanwhile.
pub const RESYNC: Duration = Duration::from_secs(600);

/// The first list of a kind of child that turns up while the host runs may take this long.
const FILLED_WITHIN: Duration = Duration::from_secs(30);

/// Reconciles that run at the same time. Each is mostly waiting for the API server.
pub const WORKERS: usize = 16;

/// One version of a plugin, serving.
pub struct Active {
    /// Name of the record.
    pub name: String,
    /// `sha256:…`
    pub digest: String,
    /// Name of the version: digest, configuration and grants. Empty without a component.
    pub revision: Arc<str>,
    /// The component. None when it cannot be loaded: then nothing is reconciled, but objects can be deleted.
    pub plugin: Option<Plugin>,
    /// How long the deletion of a primary waits for a plugin that fails.
    pub deletion_timeout: Duration,
    /// What it said of itself.
    pub manifest: Manifest,
    /// `spec.config` as JSON, `{}` when there is none.
    pub config: String,
    /// Field manager of its applies.
    pub field_manager: String,
    /// The API server in the name of its account.
    pub cluster: Arc<Cluster>,
    /// What its record lets it ask outside the API server.
    pub grants: Grants,
    /// What overlays may do to its children.
    pub rails: Arc<Rails>,
    /// Fields of its children that are left to others once they are set.
    pub set_once: Arc<[SetOnce]>,
    /// Kinds that it serves.
    pub primary_watches: Vec<Arc<Watch>>,
    /// Kinds that it, or another version, makes; those that the API server did not serve at first come later. All versions
    /// of a plugin share the list: each must see what another has made.
    pub child_watches: Arc<RwLock<Vec<Arc<Watch>>>>,
    /// Kinds of children that are on record; all versions of a plugin share them.
    pub kinds: Arc<Kinds>,
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
            watch.cache.put_answer(object);
        }
    }

    /// Does it serve this kind?
    #[must_use]
    pub fn serves(&self, kind: &TypeMeta) -> bool {
        self.primary_watch(kind).is_some()
    }

    /// Does it serve a kind that another version serves?
    #[must_use]
    pub fn serves_any_of(&self, other: &Self) -> bool {
        other.primary_watches.iter().any(|watch| self.serves(&watch.kind))
    }

    fn primary_watch(&self, kind: &TypeMeta) -> Option<&Arc<Watch>> {
        self.primary_watches.iter().find(|watch| *watch.kind == *kind)
    }

    /// The watch of one kind of child, in this version or another one.
    #[must_use]
    pub fn child_watch(&self, kind: &TypeMeta) -> Option<Arc<Watch>> {
        self.watches_of_children().into_iter().find(|watch| watch.kind.is_same_kind(kind))
    }

    /// One for each kind of child: in the version that this version of the plugin names, where another one names another.
    fn watches_of_children(&self) -> Vec<Arc<Watch>> {
        let mut watches = self.child_watches.read().unwrap_or_else(PoisonError::into_inner).clone();
        let is_named = |watch: &Arc<Watch>| self.manifest.child_kinds().any(|kind| *kind == *watch.kind);
        // stable
        watches.sort_by_key(|watch| !is_named(watch));
        let mut known = BTreeSet::new();
        watches.retain(|watch| known.insert(watch.kind.group_kind()));
        watches
    }

    /// Children of one primary as the caches have them.
    #[must_use]
    pub fn children(&self, uid: &str) -> Children {
        let of_kind = |watch: Arc<Watch>| {
            let kind = watch.read_as();
            watch.cache.owned_by(uid).into_iter().map(move |object| (object.reference(&kind), object))
        };
        self.watches_of_children().into_iter().flat_map(of_kind).collect()
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
    /// The API server in the host's own name: for its records and for definitions.
    pub cluster: Arc<Cluster>,
    /// Answers for plugins.
    pub lookups: Lookups,
    /// Kubernetes Events.
    pub events: Events,
    /// Turns of statuses that can wait.
    pub steps: Pace,
    /// The last reconciles of each object.
    pub recordings: Arc<Ring>,
    /// Overlays of tenants.
    pub overlays: Arc<Store>,
    /// Webhooks, where they are served.
    pub hooks: Hooks,
    watches: Watches,
    shared: Arc<Shared>,
    active: RwLock<HashMap<TypeMeta, Arc<Serving>>>,
    /// An object is pinned to a version that is not loaded.
    pins: Notify,
    memory: Mutex<HashMap<PrimaryKey, Memory>>,
}

impl Controller {
    /// Without any plugin yet.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, recordings: Arc<Ring>, places: Places) -> Arc<Self> {
        let shared = Arc::<Shared>::default();
        let (watcher, asker) = (shared.clone(), shared.clone());
        let overlays = Arc::<Store>::default();
        let inbox = overlays.clone();
        let observe = move |kind: &Arc<TypeMeta>, selection, change| match selection {
            Selection::Overlays => inbox.observe(change),
            _ => watcher.observe(kind, selection, change),
        };
        let stale = move |key: &PrimaryKey| asker.queue.add(key.clone(), 0);
        Arc::new(Self {
            lookups: Lookups::new(cluster.clone(), places, Arc::new(stale)),
            events: Events::start(cluster.clone()),
            steps: Pace::new(STEPS_WITHIN),
            recordings,
            overlays,
            hooks: Hooks::default(),
            watches: Watches::new(Arc::new(observe)),
            cluster,
            shared,
            active: RwLock::default(),
            pins: Notify::new(),
            memory: Mutex::default(),
        })
    }

    /// Starts watches for a kind in the name of the cluster's account, or shares running ones.
    pub fn watch(&self, cluster: &Cluster, served: &Served, selection: Selection) -> Arc<Watch> {
        self.watches.open(cluster, served, selection)
    }

    /// Watches a kind of child from now on that the API server did not serve when the version was loaded, or that the
    /// plugin has not named.
    ///
    /// # Errors
    /// When the API server does not serve it, or cannot be asked, or the plugin's account may not watch it.
    pub async fn watch_children(&self, active: &Active, kind: &TypeMeta) -> Result<(), ApiError> {
        if active.child_watch(kind).is_some() {
            return Ok(());
        }
        let served = active.cluster.served(kind).await?;
        if let Some(account) = active.cluster.account() {
            for verb in ["list", "watch"] {
                if !access::may(&active.cluster, &served, verb).await? {
                    let message = format!("{account} may not {verb} {}", access::resource(&served));
                    return Err(ApiError::Status { code: 403, reason: "Forbidden".into(), message, retry_after: None });
                }
            }
        }
        let watch = self.watch(&active.cluster, &served, Selection::Children);
        let filled = tokio::time::timeout(FILLED_WITHIN, watch.synced()).await;
        filled.map_err(|_| ApiError::DeadlineExceeded(FILLED_WITHIN))?;
        let mut watches = active.child_watches.write().unwrap_or_else(PoisonError::into_inner);
        if !watches.iter().any(|known| known.kind.is_same_kind(kind)) {
            watches.push(watch);
        }
        Ok(())
    }

    /// The version of a plugin that serves a kind, except for objects that another one serves.
    #[must_use]
    pub fn serving(&self, kind: &TypeMeta) -> Option<Arc<Active>> {
        self.versions(kind).map(|serving| serving.stable.clone())
    }

    /// All versions that serve a kind.
    #[must_use]
    pub fn versions(&self, kind: &TypeMeta) -> Option<Arc<Serving>> {
        self.active.read().unwrap_or_else(PoisonError::into_inner).get(kind).cloned()
    }

    /// All versions of a plugin that serve.
    #[must_use]
    pub fn versions_of(&self, plugin: &str) -> Option<Arc<Serving>> {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        active.values().find(|serving| serving.stable.name == plugin).cloned()
    }

    /// Lets these versions serve the kinds of the stable one from now on, in place of what served before. Calls in flight
    /// end on the version they began with. Every primary that changes hands is looked at again.
    pub fn serve(&self, serving: Serving) {
        let serving = Arc::new(serving);
        let mut kinds = self.active.write().unwrap_or_else(PoisonError::into_inner);
        let mut before: HashMap<TypeMeta, Arc<Serving>> = HashMap::new();
        kinds.retain(|kind, old| {
            let is_other = old.stable.name != serving.stable.name;
            if !is_other {
                before.insert(kind.clone(), old.clone());
            }
            is_other
        });
        for watch in &serving.stable.primary_watches {
            kinds.insert((*watch.kind).clone(), serving.clone());
        }
        drop(kinds);
        for watch in &serving.stable.primary_watches {
            let before = before.get(&*watch.kind);
            for primary in watch.cache.all() {
                let was = before.map(|before| before.choose(&watch.kind, &primary));
                let stays = match (was, serving.choose(&watch.kind, &primary)) {
                    (Some(Chosen::Version(was)), Chosen::Version(is)) => Arc::ptr_eq(&was, &is),
                    _ => false,
                };
                if !stays {
                    self.shared.queue.add(PrimaryKey::new(watch.kind.clone(), &primary.namespace, &primary.name), 0);
                }
            }
        }
    }

    /// Resolves when an object was found that is pinned to a version which is not loaded.
    pub async fn pin_missing(&self) {
        self.pins.notified().await;
    }

    /// What became of the calls of the last plan for an object; nothing while it is being reconciled.
    #[must_use]
    pub fn call_results(&self, kind: &TypeMeta, primary: &Object) -> Vec<CallResult> {
        let key = PrimaryKey::new(Arc::new(kind.clone()), &primary.namespace, &primary.name);
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.get(&key).map(Memory::call_results).unwrap_or_default()
    }

    /// How many of these primaries have not been looked at by this version yet.
    #[must_use]
    pub fn pending<'a>(&self, revision: &str, keys: impl Iterator<Item = &'a PrimaryKey>) -> usize {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        keys.filter(|key| memory.get(*key).is_none_or(|memory| memory.by.as_deref() != Some(revision))).count()
    }

    /// Does this plugin serve anything, be it only deletions?
    #[must_use]
    pub fn is_active(&self, plugin: &str) -> bool {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        active.values().any(|serving| serving.stable.name == plugin && !serving.stands_by)
    }

    /// Names of the plugins that serve anything, be it only webhooks.
    #[must_use]
    pub fn plugins(&self) -> BTreeSet<String> {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        active.values().map(|serving| serving.stable.name.clone()).collect()
    }

    /// How many primaries of this plugin carry the host's finalizer.
    #[must_use]
    pub fn finalizers(&self, plugin: &str) -> usize {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        let Some(serving) = active.values().find(|serving| serving.stable.name == plugin) else {
            return 0;
        };
        let held = |watch: &Arc<Watch>| watch.cache.all().iter().filter(|primary| primary.finalizer).count();
        serving.stable.primary_watches.iter().map(held).sum()
    }

    /// No version of this plugin serves any more. Its objects stay as they are.
    pub fn deactivate(&self, plugin: &str) {
        self.active.write().unwrap_or_else(PoisonError::into_inner).retain(|_, serving| serving.stable.name != plugin);
    }

    /// Looks again at the primaries in a namespace for which this holds.
    pub fn requeue(&self, namespace: &str, wants: &dyn Fn(&TypeMeta, &Object) -> bool) {
        let active: Vec<Arc<Active>> = self
            .active
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .map(|serving| serving.stable.clone())
            .collect();
        let watches: HashMap<&TypeMeta, &Arc<Watch>> =
            active.iter().flat_map(|active| &active.primary_watches).map(|watch| (&*watch.kind, watch)).collect();
        for watch in watches.into_values() {
            let in_place = |primary: &Arc<Object>| primary.namespace == namespace && wants(&watch.kind, primary);
            for primary in watch.cache.all().into_iter().filter(in_place) {
                self.shared.queue.add(PrimaryKey::new(watch.kind.clone(), &primary.namespace, &primary.name), 0);
            }
        }
    }

    /// Is this kind served, in whatever version?
    #[must_use]
    pub fn serves(&self, kind: &TypeMeta) -> bool {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        active.keys().any(|served| served.kind == kind.kind && served.group() == kind.group())
    }

    /// Works until the queue is closed, then finishes what was begun.
    pub async fn work(self: &Arc<Self>) {
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            let controller = self.clone();
            workers.spawn(async move {
                while let Some(key) = controller.shared.queue.next().await {
                    metrics().queue_depth(controller.shared.queue.waiting());
                    let (written, rest) = controller.reconcile(&key).await;
                    controller.shared.queue.done(&key, &written, rest);
                }
            });
        }
        while let Some(ended) = workers.join_next().await {
            if let Err(error) = ended {
                tracing::error!(error = %error, "a worker ended");
            }
        }
    }

    /// After how long an object is looked at again without a change; none when only a change brings it up.
    #[must_use]
    pub fn again_in(&self, object: &ObjectRef) -> Option<Duration> {
        let key = PrimaryKey::new(Arc::new(object.kind.clone()), &object.namespace, &object.name);
        self.shared.queue.again_in(&key)
    }

    /// Gives no more work out.
    pub fn close(&self) {
        self.shared.queue.close();
    }

    /// Returns the resource versions that were written, and how long the primary has to rest.
    async fn reconcile(&self, key: &PrimaryKey) -> (Vec<u64>, Option<Duration>) {
        // what was loaded while this replica stood by is loaded again now, and then all objects come up
        let Some(versions) = self.versions(&key.kind).filter(|versions| !versions.stands_by) else {
            return (Vec::new(), None);
        };
        if let Some(watch) = versions.stable.primary_watch(&key.kind) {
            metrics().primaries(&versions.stable.name, &key.kind.kind, watch.cache.len());
        }
        let Some(primary) = versions.stable.primary(key) else {
            self.memory.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            self.lookups.forget(key);
            self.overlays.report(key, &[]);
            return (Vec::new(), None);
        };
        let (active, refusal) = match versions.choose(&key.kind, &primary) {
            Chosen::Version(active) => (active, None),
            Chosen::Missing => {
                self.pins.notify_waiters();
                let digest = primary.pin.as_deref().unwrap_or_default().to_owned();
                (versions.stable.clone(), Some(ReconcileError::Pinned { digest }))
            }
        };
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner).remove(key).unwrap_or_default();
        let span = tracing::error_span!("reconcile", kind = key.kind.kind, namespace = %key.namespace, object = %key.name,
            plugin = active.name, digest = active.digest.get(..15), outcome = field::Empty,
            otel.status_code = field::Empty);
        let waited = memory.waits_for_turn();
        let (memory_of_key, written) = (&mut memory, Vec::new());
        let reconcile = Reconcile {
            controller: self,
            active: &active,
            key,
            memory: memory_of_key,
            written,
            recording: None,
            overlaid: None,
            known: Known::default(),
            refused: Vec::new(),
        };
        let outcome = match refusal {
            None => reconcile.run().instrument(span).await,
            Some(refusal) => reconcile.refuse(&refusal).instrument(span).await,
        };
        let Outcome { written, again, rest } = outcome;
        memory.by = Some(active.revision.clone());
        if waited && !memory.waits_for_turn() {
            self.shared.queue.forget_time(key);
        }
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), memory);
        if let Some(after) = again {
            self.shared.queue.add_at(key.clone(), Instant::now() + after);
        }
        (written, rest)
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
            Selection::Overlays => {}
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
