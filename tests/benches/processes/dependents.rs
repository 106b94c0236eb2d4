//! Lets Domains become Ready, and notes when the Processes that depend on them do.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use kube::core::WatchEvent;
use serde::Deserialize;
use serde_json::{Value, json};
use transom_plugin_domain::DomainPlugin;
use transom_sdk::testing;

use crate::process::{DOMAINS, PROCESS, domain_of};
use crate::shared::api::{Api, Depth, Kind, Versioned};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
static DOMAIN: Kind = Kind { kind: "Domain", path: "/apis/ameide.io/v1", plural: "domains" };

const PATIENCE: Duration = Duration::from_secs(60);

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
    resource_version: String,
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

impl Versioned for Seen {
    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }
}

/// Makes the kind known, and Domains that nobody works on: only their status matters.
pub(crate) async fn create(api: &Api, namespace: &str) -> Result<()> {
    let [definition] = &testing::manifest::<DomainPlugin>().crds[..] else { bail!("one definition is expected") };
    let parsed: Value = serde_json::from_str(definition)?;
    let name = parsed.pointer("/metadata/name").and_then(Value::as_str).context("a definition without a name")?;
    api.apply(&format!("{DEFINITIONS}/{name}"), definition.clone()).await?;
    let collection = DOMAIN.collection(namespace);
    while api.get::<serde::de::IgnoredAny>(&collection).await?.is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for index in 0..DOMAINS {
        let db = json!({ "clusterRef": "cnpg/main", "schema": "main",
            "migrationJobImage": "registry.example/migrator:1" });
        let domain = json!({
            "apiVersion": "ameide.io/v1", "kind": "Domain", "metadata": { "name": domain_of(index) },
            "spec": { "image": "registry.example/domain:1", "db": db },
        });
        api.create(&collection, domain.to_string()).await?;
        become_ready(api, namespace, index, true).await?;
    }
    Ok(())
}

async fn become_ready(api: &Api, namespace: &str, index: usize, ready: bool) -> Result<()> {
    let status = if ready { "True" } else { "False" };
    let condition = json!({ "type": "Ready", "status": status, "reason": "Bench", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let path = format!("{}/{}/status", DOMAIN.collection(namespace), domain_of(index));
    api.intrude(&path, &json!({ "status": { "conditions": [condition] } })).await
}

/// Lets the first `rounds` Domains fail and become Ready again. Milliseconds from before a Domain is Ready until a watch
/// shows each of its Processes so.
pub(crate) async fn follow(api: &Api, namespace: &str, count: usize, rounds: usize) -> Result<Vec<f64>> {
    let events = api.watch::<Seen>(&PROCESS.primaries.collection(namespace), Depth::Whole).await?;
    let mut events = std::pin::pin!(events);
    let mut took = Vec::new();
    for domain in 0..rounds.min(DOMAINS) {
        let dependents: HashSet<usize> = (domain..count).step_by(DOMAINS).collect();
        for ready in [false, true] {
            let started = Instant::now();
            become_ready(api, namespace, domain, ready).await?;
            let wanted = if ready { "True" } else { "False" };
            let mut left = dependents.clone();
            while !left.is_empty() {
                let event = tokio::time::timeout(PATIENCE, events.try_next()).await;
                let event = event.context("Processes do not notice their Domain")??.context("the watch ended")?;
                let WatchEvent::Modified(seen) = event else { continue };
                let is_ready = |condition: &Condition| condition.r#type == "Ready" && condition.status == wanted;
                let index = PROCESS.index(&seen.metadata.name).filter(|_| seen.status.conditions.iter().any(is_ready));
                if index.is_some_and(|index| left.remove(&index)) && ready {
                    took.push(started.elapsed().as_secs_f64() * 1_000.0);
                }
            }
        }
    }
    Ok(took)
}
