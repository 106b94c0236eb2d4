//! Watches, one for each kind, selection and account however many plugins look at it, and for as long as one does.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::{ApiResource, DynamicResourceScope};
use serde::{Deserialize, Deserializer};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::account::Account;
use super::backoff;
use super::cache::{Cache, Put};
use super::cluster::{ApiError, Cluster, Served};
use crate::api::names;
use crate::plan::check::Scope;
use crate::plan::contract::TypeMeta;
use crate::plan::object::Object;
use crate::telemetry::metrics;

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// A watch that ended sooner was not ended by the API server's own timeout.
const LASTING: Duration = Duration::from_secs(30);

/// The longest wait before a watch is tried again.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Which objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Selection {
    /// All.
    Primaries,
    /// Those with an owner label: restricted on the server.
    Children,
    /// All, for [`crate::overlay::store`].
    Overlays,
}

/// News of one object.
#[derive(Debug)]
pub enum Change {
    /// Is new, or has changed.
    Put {
        /// As it was.
        before: Option<Arc<Object>>,
        /// As it is.
        now: Arc<Object>,
    },
    /// Is gone.
    Gone(Arc<Object>),
}

/// Is told of every change, on the task of the watch: must be quick.
pub type Observe = dyn Fn(&Arc<TypeMeta>, Selection, Change) + Send + Sync;

/// One watch; ends when it is dropped.
pub struct Watch {
    /// The kind, in the version that was asked for.
    pub kind: Arc<TypeMeta>,
    /// What is known.
    pub cache: Arc<Cache>,
    /// The kind, in the version that objects are read in.
    read_as: Arc<RwLock<Arc<TypeMeta>>>,
    synced: watch::Receiver<bool>,
    task: AbortHandle,
}

impl Watch {
    /// Waits until the first list is complete.
    pub async fn synced(&self) {
        // an error means that the watch has ended, which only happens when the host does
        let _ = self.synced.clone().wait_for(|synced| *synced).await;
    }

    /// The kind in the version that objects are read in: another one than was asked for once that is served no more.
    #[must_use]
    pub fn read_as(&self) -> Arc<TypeMeta> {
        self.read_as.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first list is complete.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All watches of the host.
pub struct Watches {
    observe: Arc<Observe>,
    open: Mutex<HashMap<Key, Weak<Watch>>>,
}

/// In whose name, and what is watched.
type Key = (Option<Account>, TypeMeta, Selection);

impl Watches {
    /// None yet.
    #[must_use]
    pub fn new(observe: Arc<Observe>) -> Self {
        Self { observe, open: Mutex::default() }
    }

    /// The watch of a kind in the name of the cluster's account, a running one if there is one.
    #[must_use]
    pub fn open(&self, cluster: &Cluster, served: &Served, selection: Selection) -> Arc<Watch> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, watch| watch.strong_count() > 0);
        let key = (cluster.account().cloned(), served.kind.clone(), selection);
        if let Some(watch) = open.get(&key).and_then(Weak::upgrade) {
            return watch;
        }
        let kind = Arc::new(served.kind.clone());
        let cache = Arc::new(Cache::default());
        let (done, synced) = watch::channel(false);
        let (api, observe) = (api(cluster, served, selection), self.observe.clone());
        let read_as = Arc::new(RwLock::new(kind.clone()));
        let follower = Follower {
            cluster: cluster.clone(),
            api,
            selection,
            kind: kind.clone(),
            read_as: read_as.clone(),
            cache: cache.clone(),
            observe,
        };
        let task = tokio::spawn(follower.run(done)).abort_handle();
        let watch = Arc::new(Watch { kind, cache, read_as, synced, task });
        open.insert(key, Arc::downgrade(&watch));
        watch
    }
}

fn api(cluster: &Cluster, served: &Served, selection: Selection) -> Api<Watched> {
    let (client, resource) = (cluster.client().clone(), served.api_resource());
    let namespace = match selection {
        Selection::Children => cluster.namespace_of_children(),
        Selection::Primaries | Selection::Overlays => cluster.namespace(),
    };
    match namespace {
        Some(namespace) if served.scope == Scope::Namespaced => Api::namespaced_with(client, namespace, &resource),
        _ => Api::all_with(client, &resource),
    }
}

/// Keeps a cache as the API server has it: lists, then hears of every change from that version on.
struct Follower {
    cluster: Cluster,
    api: Api<Watched>,
    selection: Selection,
    kind: Arc<TypeMeta>,
    read_as: Arc<RwLock<Arc<TypeMeta>>>,
    cache: Arc<Cache>,
    observe: Arc<Observe>,
}

impl Follower {
    /// Never ends. `done` hears of the first list.
    async fn run(mut self, done: watch::Sender<bool>) {
        let (mut version, mut failures) = (None, 0);
        loop {
            let started = Instant::now();
            let ended = self.follow(&mut version, &done).await;
            // the API server ends every watch after some minutes
            let lasted = started.elapsed() > LASTING;
            failures = if lasted { 0 } else { failures + 1 };
            match ended {
                Ok(()) if lasted => continue,
                Ok(()) => {}
                // what happened since is no longer known: list again
                Err(kube::Error::Api(status)) if status.code == 410 => {
                    tracing::debug!(kind = %self.kind, status.message, "watch is too far behind");
                    version = None;
                }
                Err(kube::Error::Api(status)) if status.code == 404 && self.selection == Selection::Children => {
                    version = self.read_otherwise().await;
                }
                Err(error) => {
                    metrics().watch_error(&self.kind.kind);
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(kind = %self.kind, error, "watch interrupted, trying again");
                }
            }
            tokio::time::sleep(backoff::delay(failures, failures.into()).min(LONGEST_WAIT)).await;
        }
    }

    /// Lists if no version is known, then watches from there until the connection ends.
    async fn follow(&self, version: &mut Option<u64>, done: &watch::Sender<bool>) -> Result<(), kube::Error> {
        let from = match *version {
            Some(version) => version,
            None => self.list().await?,
        };
        *version = Some(from);
        done.send_replace(true);
        let parameters = WatchParams { label_selector: self.labels(), timeout: Some(290), ..WatchParams::default() };
        let mut events = std::pin::pin!(self.api.watch(&parameters, &from.to_string()).await?);
        while let Some(event) = events.next().await {
            let passed = match event? {
                WatchEvent::Added(Watched { object, .. }) | WatchEvent::Modified(Watched { object, .. }) => {
                    let version = object.resource_version;
                    self.put(object);
                    version
                }
                WatchEvent::Deleted(Watched { object, .. }) => {
                    // before anybody can see that it is gone
                    self.cache.passed(object.resource_version);
                    if let Some(gone) = self.cache.remove(&object) {
                        (self.observe)(&self.kind, self.selection, Change::Gone(gone));
                    }
                    object.resource_version
                }
                WatchEvent::Bookmark(bookmark) => bookmark.metadata.resource_version.parse().unwrap_or_default(),
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
            };
            self.cache.passed(passed);
            *version = Some(passed.max(version.unwrap_or_default()));
        }
        Ok(())
    }

    /// Everything as of one version, which is returned.
    async fn list(&self) -> Result<u64, kube::Error> {
        let mut listed = BTreeSet::new();
        let version = each_page(&self.api, self.labels(), |object| {
            listed.insert((object.namespace.clone(), object.name.clone()));
            self.put(object);
        });
        let version = version.await?;
        for gone in self.cache.listed(&listed, version) {
            (self.observe)(&self.kind, self.selection, Change::Gone(gone));
        }
        Ok(version)
    }

    /// The kind is not served in this version (any more): reads its objects in another one from now on. Where there is
    /// none its definition is gone, and with it all objects. Returns the version to go on from.
    async fn read_otherwise(&mut self) -> Option<u64> {
        let read_as = self.read_as.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.cluster.forget(&read_as);
        let served = match self.cluster.served_in_any_version(&self.kind).await {
            Ok(served) => served,
            Err(error) => {
                if matches!(error, ApiError::NotServed(_)) {
                    tracing::debug!(kind = %self.kind, "the kind is not served any more");
                    for gone in self.cache.clear() {
                        (self.observe)(&self.kind, self.selection, Change::Gone(gone));
                    }
                }
                return None;
            }
        };
        if served.kind == *read_as {
            return None; // it is back
        }
        let (api, mut objects) = (api(&self.cluster, &served, self.selection), Vec::new());
        let version = each_page(&api, self.labels(), |object| objects.push(object)).await.ok()?;
        tracing::info!(from = %read_as, to = %served.kind, "children are read in another version");
        self.api = api;
        // at once: nobody may see a part of them
        let (now, gone) = self.cache.replace(objects, version);
        *self.read_as.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(served.kind);
        for gone in gone {
            (self.observe)(&self.kind, self.selection, Change::Gone(gone));
        }
        for now in now {
            (self.observe)(&self.kind, self.selection, Change::Put { before: None, now });
        }
        Some(version)
    }

    fn put(&self, object: Object) {
        let key = (object.namespace.clone(), object.name.clone());
        if let Put::New(before) = self.cache.put(object)
            && let Some(now) = self.cache.get(&key.0, &key.1)
        {
            (self.observe)(&self.kind, self.selection, Change::Put { before, now });
        }
    }

    fn labels(&self) -> Option<String> {
        match self.selection {
            Selection::Primaries | Selection::Overlays => None,
            Selection::Children => Some(names::OWNER_LABEL.into()),
        }
    }
}

/// Lists all objects, a page at a time. Returns the version that they are of.
async fn each_page(
    api: &Api<Watched>,
    labels: Option<String>,
    mut see: impl FnMut(Object),
) -> Result<u64, kube::Error> {
    let mut parameters = ListParams { label_selector: labels, limit: Some(PAGE), ..ListParams::default() };
    loop {
        let page = api.list(&parameters).await?;
        page.items.into_iter().for_each(|Watched { object, .. }| see(object));
        parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if parameters.continue_token.is_none() {
            return Ok(page.metadata.resource_version.and_then(|v| v.parse().ok()).unwrap_or_default());
        }
    }
}

/// An [`Object`] with as much of `ObjectMeta` as kube looks at.
#[derive(Clone)]
struct Watched {
    meta: ObjectMeta,
    object: Object,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.object.namespace, self.object.name)
    }
}

impl<'de> Deserialize<'de> for Watched {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::deserialize(deserializer)?;
        let meta = ObjectMeta {
            name: Some(object.name.clone()),
            namespace: Some(object.namespace.clone()).filter(|ns| !ns.is_empty()),
            resource_version: Some(object.resource_version.to_string()),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, object })
    }
}

impl kube::Resource for Watched {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> std::borrow::Cow<'_, str> {
        resource.kind.as_str().into()
    }
    fn group(resource: &ApiResource) -> std::borrow::Cow<'_, str> {
        resource.group.as_str().into()
    }
    fn version(resource: &ApiResource) -> std::borrow::Cow<'_, str> {
        resource.version.as_str().into()
    }
    fn api_version(resource: &ApiResource) -> std::borrow::Cow<'_, str> {
        resource.api_version.as_str().into()
    }
    fn plural(resource: &ApiResource) -> std::borrow::Cow<'_, str> {
        resource.plural.as_str().into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
