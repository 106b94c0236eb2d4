//! Changes Deployments by hand and waits until the host has put them right.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::TryStreamExt as _;
use kube::core::WatchEvent;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use crate::shared::api::{Api, DEPLOYMENTS, Depth, Versioned};
use crate::shared::bench::Bench;
use crate::shared::{load, usage};
use crate::web::WEB;

/// What the primaries ask for, and what the intruder wants.
const RIGHT: i64 = 1;
const WRONG: i64 = 7;

const PATIENCE: Duration = Duration::from_secs(60);

/// The control plane is at rest when it takes no more than a tenth of a core in such a time.
const REST: Duration = Duration::from_millis(300);
const RESTS_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone, Deserialize)]
struct Deployment {
    metadata: Meta,
    spec: Spec,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: String,
    resource_version: String,
}

impl Versioned for Deployment {
    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }
}

#[derive(Clone, Deserialize)]
struct Spec {
    #[serde(default)]
    replicas: i64,
}

/// Every value of `spec.replicas` that a watch shows, and when it did.
struct Values {
    receiver: mpsc::UnboundedReceiver<(String, i64, Instant)>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Values {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Values {
    async fn watch(api: &Api, namespace: &str) -> Result<Self> {
        let events = api.watch::<Deployment>(&DEPLOYMENTS.collection(namespace), Depth::Whole).await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let mut events = std::pin::pin!(events);
            while let Ok(Some(event)) = events.try_next().await {
                if let WatchEvent::Modified(object) = event {
                    let _ = sender.send((object.metadata.name, object.spec.replicas, Instant::now()));
                }
            }
        });
        Ok(Self { receiver, task })
    }

    async fn next(&mut self) -> Result<(String, i64, Instant)> {
        let next = tokio::time::timeout(PATIENCE, self.receiver.recv()).await;
        next.context("drift was not repaired")?.context("the watch of Deployments ended")
    }
}

async fn spoil(api: &Api, namespace: &str, name: &str) -> Result<()> {
    let path = format!("{}/{name}", DEPLOYMENTS.collection(namespace));
    api.intrude(&path, &json!({ "spec": { "replicas": WRONG } })).await
}

/// Spoils one Deployment after the other, which the host puts right. Milliseconds from before the intruder's request until
/// a watch shows the repair.
pub(crate) async fn one_by_one(bench: &Bench, namespace: &str, count: usize) -> Result<Vec<f64>> {
    repairs(bench, &bench.api, namespace, count, async |_| Ok(())).await
}

/// The same in a namespace of its own, where this client applies the whole Deployment when its watch shows the intruder's
/// change: what the control plane can do.
pub(crate) async fn by_a_bare_client(bench: &Bench, namespace: &str, count: usize) -> Result<Vec<f64>> {
    let api = &bench.bare;
    api.create_namespace(namespace).await?;
    let owner = load::owner(api, namespace).await?;
    let collection = DEPLOYMENTS.collection(namespace);
    let mut deployments = Vec::with_capacity(count);
    for index in 0..count {
        let children = WEB.children(namespace, index, &owner)?;
        deployments.extend(children.into_iter().filter(|(path, _)| path.starts_with(&collection)));
    }
    for (path, body) in &deployments {
        api.apply(path, body.clone()).await?;
    }
    repairs(bench, api, namespace, count, async |index: usize| {
        let (path, body) = deployments.get(index).context("no such Deployment")?;
        api.apply(path, body.clone()).await
    })
    .await
}

/// `repair` is told of each Deployment when its wrong state is seen. Each begins with a control plane at rest.
async fn repairs(
    bench: &Bench,
    api: &Api,
    namespace: &str,
    count: usize,
    repair: impl AsyncFn(usize) -> Result<()>,
) -> Result<Vec<f64>> {
    let mut values = Values::watch(api, namespace).await?;
    let mut repaired = Vec::with_capacity(count);
    for index in 0..count {
        let wanted = WEB.name(index);
        rest(&bench.control_plane).await?;
        let started = Instant::now();
        spoil(api, namespace, &wanted).await?;
        let mut spoiled = false;
        loop {
            let (name, replicas, at) = values.next().await?;
            if name == wanted && replicas == WRONG && !spoiled {
                spoiled = true;
                repair(index).await?;
            } else if name == wanted && spoiled && replicas == RIGHT {
                repaired.push(at.duration_since(started).as_secs_f64() * 1_000.0);
                break;
            }
        }
    }
    Ok(repaired)
}

/// Waits until the control plane has done what it was given: pods that come and go keep its controllers busy.
async fn rest(control_plane: &[u32]) -> Result<()> {
    let (mut before, deadline) = (usage::cpu(control_plane), Instant::now() + RESTS_WITHIN);
    loop {
        tokio::time::sleep(REST).await;
        let now = usage::cpu(control_plane);
        if now - before <= REST.as_secs_f64() / 10.0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the control plane is still busy after {RESTS_WITHIN:?}");
        before = now;
    }
}

/// Deployments that were spoiled while nobody looked.
pub(crate) struct Spoiled {
    values: Values,
    repaired: HashMap<String, Option<Instant>>,
}

/// Spoils Deployments while the host is down.
pub(crate) async fn while_down(api: &Api, namespace: &str, count: usize) -> Result<Spoiled> {
    let values = Values::watch(api, namespace).await?;
    let mut repaired = HashMap::new();
    for index in 0..count {
        spoil(api, namespace, &WEB.name(index)).await?;
        repaired.insert(WEB.name(index), None);
    }
    Ok(Spoiled { values, repaired })
}

impl Spoiled {
    /// Waits until all are as they should be; seconds since the host was started.
    pub(crate) async fn repaired(mut self, started: Instant) -> Result<Vec<f64>> {
        ensure!(!self.repaired.is_empty(), "nothing was spoiled");
        while self.repaired.values().any(Option::is_none) {
            let (name, replicas, at) = self.values.next().await?;
            if replicas == RIGHT && at < started {
                bail!("{name} was put right while the host was down");
            }
            if let Some(known) = self.repaired.get_mut(&name).filter(|_| replicas == RIGHT) {
                known.get_or_insert(at);
            }
        }
        Ok(self.repaired.values().flatten().map(|at| at.duration_since(started).as_secs_f64()).collect())
    }
}
