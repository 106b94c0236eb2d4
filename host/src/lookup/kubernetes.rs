//! Objects of the cluster.
//!
//! Content is read when it is asked for; that it changed is heard from a watch of metadata, of which nothing is kept.
//! So a plugin that reads one Secret does not make the host hold all Secrets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::api::{DynamicObject, ListParams, WatchEvent, WatchParams};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::table::Table;
use crate::control::account::Account;
use crate::control::cluster::{ApiError, Cluster};
use crate::control::{backoff, cluster::Served};
use crate::plan::check::Scope;
use crate::plan::contract::{Answer, Delivery, ObjectRef, Problem, TypeMeta, Value};
use crate::telemetry::metrics;

/// What one lookup of several objects may bring.
const MAX_OBJECTS: u32 = 1_000;
const MAX_BYTES: usize = 4 << 20;

pub(super) async fn object(cluster: &Cluster, reference: &ObjectRef, delivery: Delivery) -> Answer {
    match cluster.get(reference).await {
        Ok(Some(object)) => Answer::Found(Value::Object(object.deliver(&reference.kind, delivery))),
        Ok(None) => Answer::Absent,
        Err(error) => failed(&reference.kind, error),
    }
}

pub(super) async fn objects(
    cluster: &Cluster,
    kind: &TypeMeta,
    namespace: Option<&str>,
    selector: &str,
    delivery: Delivery,
) -> Answer {
    match cluster.list(kind, namespace, selector, MAX_OBJECTS).await {
        Ok((objects, more)) => {
            let texts: Vec<String> = objects.iter().map(|object| object.deliver(kind, delivery)).collect();
            if more || texts.iter().map(String::len).sum::<usize>() > MAX_BYTES {
                let message = format!("more than {MAX_OBJECTS} objects or 4 MiB of {kind}: use a narrower selector");
                return Answer::Failed(Problem { reason: "TooLarge".into(), message });
            }
            Answer::Found(Value::Objects(texts))
        }
        Err(error) => failed(kind, error),
    }
}

fn failed(kind: &TypeMeta, error: ApiError) -> Answer {
    match error {
        // a kind whose CRD is not there has no objects; the kind's watch tells when it comes
        ApiError::NotServed(_) => Answer::Absent,
        error if matches!(error.code(), 401 | 403) => Answer::Denied(format!("{kind}: {error}")),
        error => Answer::Failed(Problem { reason: error.reason().into(), message: error.to_string() }),
    }
}

/// One watch for each kind that was ever asked for, in the name of each account.
pub(super) struct Kinds {
    table: Arc<Table>,
    running: Mutex<HashMap<Place, Running>>,
}

/// What a watch looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    account: Option<Account>,
    kind: TypeMeta,
    /// Empty: all that the host may see.
    namespace: String,
}

/// How far a watch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    /// It runs, or failed once and is tried again.
    Tried,
    /// RBAC does not allow it.
    Forbidden,
}

struct Running {
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kinds {
    pub(super) fn new(table: Arc<Table>) -> Self {
        Self { table, running: Mutex::default() }
    }

    /// Watches a kind from now on: everywhere, or in this namespace where the account may not do that. Returns when a
    /// change after this would be heard of, or when the first try failed: then every primary that asked is told as soon
    /// as a later try succeeds.
    pub(super) async fn watch(&self, cluster: &Arc<Cluster>, kind: &TypeMeta, namespace: Option<&str>) {
        let everywhere = self.watch_one(cluster, kind, "").await;
        if let (State::Forbidden, Some(namespace)) = (everywhere, namespace.filter(|namespace| !namespace.is_empty())) {
            self.watch_one(cluster, kind, namespace).await;
        }
    }

    async fn watch_one(&self, cluster: &Arc<Cluster>, kind: &TypeMeta, namespace: &str) -> State {
        let place = Place { account: cluster.account().cloned(), kind: kind.clone(), namespace: namespace.to_owned() };
        let mut state = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = running.entry(place).or_insert_with_key(|place| {
                let (tell, state) = watch::channel(State::Starting);
                let task = tokio::spawn(follow(cluster.clone(), self.table.clone(), place.clone(), tell));
                Running { state, task }
            });
            entry.state.clone()
        };
        state.wait_for(|state| *state != State::Starting).await.map_or(State::Tried, |state| *state)
    }
}

async fn follow(cluster: Arc<Cluster>, table: Arc<Table>, place: Place, state: watch::Sender<State>) {
    let Place { kind, namespace, .. } = place;
    let mut failures = 0;
    loop {
        let before = tokio::time::Instant::now();
        let missed = match cluster.served(&kind).await {
            Ok(served) => follow_once(&cluster, &table, (&served, &namespace), &state, failures > 0).await,
            Err(error) => Err(error),
        };
        let forbidden = missed.as_ref().is_err_and(|error| matches!(error.code(), 401 | 403));
        if let Err(error) = missed {
            metrics().watch_error(&kind.kind);
            tracing::debug!(%kind, error = &error as &dyn std::error::Error, "watch for lookups interrupted");
        }
        failures = if before.elapsed() > Duration::from_secs(60) { 1 } else { failures + 1 };
        // whoever waits for the first try gets on with what can be read now
        state.send_replace(if forbidden { State::Forbidden } else { State::Tried });
        tokio::time::sleep(backoff::delay(failures, failures.into()).min(Duration::from_secs(30))).await;
    }
}

/// Watches from now until the connection ends. After an interruption everything of the kind counts as changed.
async fn follow_once(
    cluster: &Cluster,
    table: &Table,
    (served, namespace): (&Served, &str),
    state: &watch::Sender<State>,
    interrupted: bool,
) -> Result<(), ApiError> {
    let resource = served.api_resource();
    let client = cluster.client().clone();
    let api: Api<DynamicObject> = match cluster.namespace_of_children().or(Some(namespace).filter(|n| !n.is_empty())) {
        Some(namespace) if served.scope == Scope::Namespaced => Api::namespaced_with(client, namespace, &resource),
        _ => Api::all_with(client, &resource),
    };
    let list = api.list_metadata(&ListParams::default().limit(1)).await?;
    let mut version = list.metadata.resource_version.unwrap_or_default();
    state.send_replace(State::Tried);
    if interrupted {
        table.kind_changed(&served.kind);
    }
    loop {
        let mut events = std::pin::pin!(api.watch_metadata(&WatchParams::default().timeout(290), &version).await?);
        while let Some(event) = events.next().await {
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
                    version = object.metadata.resource_version.unwrap_or_default();
                    let labels: Vec<_> = object.metadata.labels.unwrap_or_default().into_iter().collect();
                    let reference = ObjectRef {
                        kind: served.kind.clone(),
                        namespace: object.metadata.namespace.unwrap_or_default(),
                        name: object.metadata.name.unwrap_or_default(),
                    };
                    table.changed(&reference, &labels);
                }
                WatchEvent::Bookmark(bookmark) => version = bookmark.metadata.resource_version,
                WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
            }
        }
    }
}
