//! Creates objects and notes when their children are there and when they are ready.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::TryStreamExt as _;
use kube::core::WatchEvent;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::api::{Api, CONFIG_MAPS, Depth, Kind, Versioned};
use super::workload::{Child, Owner, Workload};

/// Without any progress for this long, something is broken.
const STALLED: Duration = Duration::from_secs(120);

/// What is created.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// Those that the host turns into children; ready by their condition `Ready`.
    Primaries,
    /// The children themselves, by server-side apply; ready when the Deployment is `Available`.
    Children,
}

/// When what was there, in seconds.
pub(crate) struct Outcome {
    /// From the creation of each primary to the last of its children.
    pub(crate) children: Vec<f64>,
    /// From the creation of each primary until it was ready.
    pub(crate) ready: Vec<f64>,
    pub(crate) last_child: Duration,
    pub(crate) last_ready: Duration,
    /// CPU seconds of the control plane meanwhile; filled in by who knows.
    pub(crate) control_plane_cpu: f64,
}

impl Outcome {
    /// From the first creation to the last child.
    pub(crate) fn all_children(&self) -> f64 {
        self.last_child.as_secs_f64()
    }

    /// From the first creation until the last is ready.
    pub(crate) fn all_ready(&self) -> f64 {
        self.last_ready.as_secs_f64()
    }
}

/// Creates `count` of them by `creators` at a time, and waits until all are ready.
pub(crate) async fn run(
    api: &Api,
    workload: &'static Workload,
    namespace: &str,
    target: Target,
    count: usize,
    creators: usize,
) -> Result<Outcome> {
    let bodies = match target {
        Target::Primaries => Vec::new(),
        Target::Children => {
            let owner = owner(api, namespace).await?;
            (0..count).map(|index| workload.children(namespace, index, &owner)).collect::<Result<_>>()?
        }
    };
    let progress = Arc::new(Progress::new(workload, namespace, count));
    let watches = watch(api, workload, namespace, target, &progress).await?;
    let started = Instant::now();
    let (progress_of, bodies) = (&progress, &bodies);
    let create = |index: usize| async move {
        progress_of.created(index);
        if target == Target::Primaries {
            let primary = workload.primary(namespace, index).to_string();
            return api.create(&workload.primaries.collection(namespace), primary).await;
        }
        for (path, body) in bodies.get(index).into_iter().flatten() {
            api.apply(path, body.clone()).await?;
        }
        Ok(())
    };
    futures::stream::iter((0..count).map(Ok)).try_for_each_concurrent(creators, create).await?;
    progress.finished(watches).await?;
    progress.outcome(started)
}

/// An object for the children to belong to.
pub(crate) async fn owner(api: &Api, namespace: &str) -> Result<Owner> {
    #[derive(Deserialize)]
    struct Created {
        metadata: Identity,
    }
    #[derive(Deserialize)]
    struct Identity {
        uid: String,
    }
    let collection = CONFIG_MAPS.collection(namespace);
    let body = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "owner" } });
    api.create(&collection, body.to_string()).await?;
    let created = api.get::<Created>(&format!("{collection}/owner")).await?.context("the owner is gone")?;
    Ok(Owner { name: "owner".into(), uid: created.metadata.uid })
}

/// What is read of a watched object.
#[derive(Clone, Deserialize)]
struct Seen {
    metadata: Meta,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    resource_version: String,
}

impl Meta {
    fn child(&self) -> Child<'_> {
        let is_marked = ["transom.dev/plugin", "bench.dev/plugin"].iter().any(|label| self.labels.contains_key(*label));
        Child { name: &self.name, namespace: self.namespace.as_deref(), is_marked }
    }
}

impl Versioned for Seen {
    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }
}

#[derive(Clone, Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Clone, Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

impl Seen {
    fn has(&self, condition: &str) -> bool {
        self.status.conditions.iter().any(|c| c.r#type == condition && c.status == "True")
    }
}

async fn watch(
    api: &Api,
    workload: &'static Workload,
    namespace: &str,
    target: Target,
    progress: &Arc<Progress>,
) -> Result<JoinSet<Result<()>>> {
    let mut watches = JoinSet::new();
    let bare = target == Target::Children;
    for kind in workload.children {
        let ready = (bare && kind.kind == "Deployment").then_some("Available");
        follow(api, kind, &workload.watched(kind, namespace), true, ready, progress, &mut watches).await?;
    }
    if !bare {
        let collection = workload.primaries.collection(namespace);
        follow(api, &workload.primaries, &collection, false, Some("Ready"), progress, &mut watches).await?;
    }
    Ok(watches)
}

async fn follow(
    api: &Api,
    kind: &Kind,
    collection: &str,
    is_child: bool,
    ready: Option<&'static str>,
    progress: &Arc<Progress>,
    watches: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let depth = if ready.is_some() { Depth::Whole } else { Depth::Metadata };
    let events = api.watch::<Seen>(collection, depth).await?;
    let (progress, kind) = (progress.clone(), kind.kind);
    watches.spawn(async move {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.try_next().await? {
            let (object, added) = match event {
                WatchEvent::Added(object) => (object, true),
                WatchEvent::Modified(object) => (object, false),
                WatchEvent::Error(status) => bail!("the watch of {kind} failed: {}", status.message),
                WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => continue,
            };
            let index = progress.index(&object.metadata, is_child);
            if added && is_child {
                progress.child(index);
            }
            if ready.is_some_and(|condition| object.has(condition)) {
                progress.ready(index);
            }
        }
        bail!("the watch of {kind} ended")
    });
    Ok(())
}

#[derive(Clone, Default)]
struct Primary {
    created: Option<Instant>,
    children: usize,
    complete: Option<Instant>,
    ready: Option<Instant>,
}

struct Progress {
    workload: &'static Workload,
    namespace: String,
    primaries: Mutex<Vec<Primary>>,
    changed: Notify,
}

impl Progress {
    fn new(workload: &'static Workload, namespace: &str, count: usize) -> Self {
        let primaries = Mutex::new(vec![Primary::default(); count]);
        Self { workload, namespace: namespace.to_owned(), primaries, changed: Notify::new() }
    }

    /// Whose child this is, or which primary; others live in a namespace too: kube-root-ca.crt.
    fn index(&self, object: &Meta, is_child: bool) -> Option<usize> {
        if is_child {
            return self.workload.index_of(&self.namespace, &object.child());
        }
        self.workload.index(&object.name)
    }

    fn change(&self, index: Option<usize>, change: impl FnOnce(&mut Primary)) {
        let mut primaries = self.primaries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(primary) = index.and_then(|index| primaries.get_mut(index)) {
            change(primary);
        }
    }

    fn created(&self, index: usize) {
        self.change(Some(index), |primary| primary.created = Some(Instant::now()));
    }

    fn child(&self, index: Option<usize>) {
        self.change(index, |primary| {
            primary.children += 1;
            if primary.children == self.workload.per_primary {
                primary.complete = Some(Instant::now());
            }
        });
        self.changed.notify_one();
    }

    fn ready(&self, index: Option<usize>) {
        self.change(index, |primary| {
            primary.ready.get_or_insert_with(Instant::now);
        });
        self.changed.notify_one();
    }

    /// Primaries that lack children, and that are not ready.
    fn left(&self) -> (usize, usize) {
        let primaries = self.primaries.lock().unwrap_or_else(PoisonError::into_inner);
        let lacking = primaries.iter().filter(|primary| primary.complete.is_none()).count();
        (lacking, primaries.iter().filter(|primary| primary.ready.is_none()).count())
    }

    async fn finished(&self, mut watches: JoinSet<Result<()>>) -> Result<()> {
        loop {
            let (lacking, unready) = self.left();
            if lacking + unready == 0 {
                return Ok(());
            }
            tokio::select! {
                () = self.changed.notified() => {}
                Some(ended) = watches.join_next() => ended??,
                () = tokio::time::sleep(STALLED) => {
                    bail!("no progress for {STALLED:?}: {lacking} lack children, {unready} are not ready")
                }
            }
            // a wake-up for each event would count everything each time
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn outcome(&self, started: Instant) -> Result<Outcome> {
        let primaries = self.primaries.lock().unwrap_or_else(PoisonError::into_inner);
        let times = |at: fn(&Primary) -> Option<Instant>| -> Result<(Vec<f64>, Duration)> {
            let mut since_creation = Vec::with_capacity(primaries.len());
            let mut last = Duration::ZERO;
            for primary in primaries.iter() {
                let (created, at) = primary.created.zip(at(primary)).context("not finished")?;
                since_creation.push(at.saturating_duration_since(created).as_secs_f64());
                last = last.max(at.saturating_duration_since(started));
            }
            Ok((since_creation, last))
        };
        let (children, last_child) = times(|primary| primary.complete)?;
        let (ready, last_ready) = times(|primary| primary.ready)?;
        Ok(Outcome { children, ready, last_child, last_ready, control_plane_cpu: 0.0 })
    }
}
