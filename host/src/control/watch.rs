//! Watches, one for each kind and selection however many plugins look at it, and for as long as one does.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::core::{ApiResource, DynamicResourceScope};
use kube::runtime::{WatchStreamExt, watcher};
use serde::{Deserialize, Deserializer};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::cache::{Cache, Put};
use super::cluster::{Cluster, Served};
use crate::api::names;
use crate::plan::check::Scope;
use crate::plan::contract::TypeMeta;
use crate::plan::object::Object;
use crate::telemetry::metrics;

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
    /// The kind.
    pub kind: Arc<TypeMeta>,
    /// What is known.
    pub cache: Arc<Cache>,
    synced: watch::Receiver<bool>,
    task: AbortHandle,
}

impl Watch {
    /// Waits until the first list is complete.
    pub async fn synced(&self) {
        // an error means that the watch has ended, which only happens when the host does
        let _ = self.synced.clone().wait_for(|synced| *synced).await;
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
    cluster: Arc<Cluster>,
    observe: Arc<Observe>,
    open: Mutex<HashMap<(TypeMeta, Selection), Weak<Watch>>>,
}

impl Watches {
    /// None yet.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, observe: Arc<Observe>) -> Self {
        Self { cluster, observe, open: Mutex::default() }
    }

    /// The watch of a kind, a running one if there is one.
    #[must_use]
    pub fn open(&self, served: &Served, selection: Selection) -> Arc<Watch> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, watch| watch.strong_count() > 0);
        let key = (served.kind.clone(), selection);
        if let Some(watch) = open.get(&key).and_then(Weak::upgrade) {
            return watch;
        }
        let kind = Arc::new(served.kind.clone());
        let cache = Arc::new(Cache::default());
        let (done, synced) = watch::channel(false);
        let run = run(self.api(served), selection, kind.clone(), cache.clone(), self.observe.clone(), done);
        let task = tokio::spawn(run).abort_handle();
        let watch = Arc::new(Watch { kind, cache, synced, task });
        open.insert(key, Arc::downgrade(&watch));
        watch
    }

    /// The running watch of a kind, if there is one.
    #[must_use]
    pub fn find(&self, kind: &TypeMeta, selection: Selection) -> Option<Arc<Watch>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&(kind.clone(), selection)).and_then(Weak::upgrade)
    }

    fn api(&self, served: &Served) -> Api<Watched> {
        let (client, resource) = (self.cluster.client().clone(), served.api_resource());
        match self.cluster.namespace() {
            Some(namespace) if served.scope == Scope::Namespaced => Api::namespaced_with(client, namespace, &resource),
            _ => Api::all_with(client, &resource),
        }
    }
}

async fn run(
    api: Api<Watched>,
    selection: Selection,
    kind: Arc<TypeMeta>,
    cache: Arc<Cache>,
    observe: Arc<Observe>,
    done: watch::Sender<bool>,
) {
    let config = match selection {
        Selection::Primaries | Selection::Overlays => watcher::Config::default(),
        Selection::Children => watcher::Config::default().labels(names::OWNER_LABEL),
    };
    let mut events = std::pin::pin!(watcher(api, config.page_size(500)).default_backoff());
    let put = |object: Object| {
        let key = (object.namespace.clone(), object.name.clone());
        if let Put::New(before) = cache.put(object)
            && let Some(now) = cache.get(&key.0, &key.1)
        {
            observe(&kind, selection, Change::Put { before, now });
        }
    };
    let mut missing = std::collections::BTreeSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => missing = cache.keys(),
            Ok(watcher::Event::InitApply(Watched { object, .. })) => {
                missing.remove(&(object.namespace.clone(), object.name.clone()));
                put(object);
            }
            Ok(watcher::Event::InitDone) => {
                for gone in cache.remove_all(std::mem::take(&mut missing)) {
                    observe(&kind, selection, Change::Gone(gone));
                }
                done.send_replace(true);
            }
            Ok(watcher::Event::Apply(Watched { object, .. })) => put(object),
            Ok(watcher::Event::Delete(Watched { object, .. })) => {
                if let Some(gone) = cache.remove(&object) {
                    observe(&kind, selection, Change::Gone(gone));
                }
            }
            Err(error) => {
                metrics().watch_error(&kind.kind);
                tracing::warn!(kind = %kind, error = &error as &dyn std::error::Error, "watch interrupted, trying again");
            }
        }
    }
}

/// An [`Object`] with as much of `ObjectMeta` as kube's watcher looks at.
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
