//! Instances of a small chart, and what the host makes of one.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::shared::api::{Api, CONFIG_MAPS, DEPLOYMENTS, Kind};
use crate::shared::workload::{Workload, own_namespace};

pub(crate) const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/small");

/// The version of the product that all are instances of.
const TEMPLATE: &str = "small-1";

const NAMESPACES: Kind = Kind { kind: "Namespace", path: "/api/v1", plural: "namespaces" };
const TEMPLATES: Kind =
    Kind { kind: "ProductTemplateVersion", path: "/apis/caelus.io/v1", plural: "producttemplateversions" };

/// In the order in which they can be applied. The namespace, seven objects of the plugin, four of the chart.
pub(crate) static INSTANCE: Workload = Workload {
    plugin: "instance",
    primaries: Kind { kind: "CaelusInstance", path: "/apis/caelus.io/v1", plural: "caelusinstances" },
    children: &[
        NAMESPACES,
        Kind { kind: "NetworkPolicy", path: "/apis/networking.k8s.io/v1", plural: "networkpolicies" },
        Kind { kind: "ResourceQuota", path: "/api/v1", plural: "resourcequotas" },
        Kind { kind: "LimitRange", path: "/api/v1", plural: "limitranges" },
        Kind { kind: "Secret", path: "/api/v1", plural: "secrets" },
        Kind { kind: "ServiceAccount", path: "/api/v1", plural: "serviceaccounts" },
        CONFIG_MAPS,
        Kind { kind: "Service", path: "/api/v1", plural: "services" },
        DEPLOYMENTS,
    ],
    per_primary: 12,
    own_namespaces: true,
    primary,
    plan,
};

/// Where the first instance is.
const FIRST: &str = "one";

/// The longest that it may take to become Ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the host has applied for the first instance, field by field.
static APPLIED: OnceLock<Vec<Value>> = OnceLock::new();

fn primary(namespace: &str, name: &str, index: usize) -> Value {
    json!({
        "apiVersion": "caelus.io/v1",
        "kind": "CaelusInstance",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "userId": format!("user-{:02}", index % 50),
            "productTemplateVersion": TEMPLATE,
            "namespace": own_namespace(namespace, index),
            "domainName": format!("{name}.example.com"),
            "values": { "greeting": format!("hello from {index}") },
        },
    })
}

/// The version of the product in this namespace.
pub(crate) async fn create_template(api: &Api, namespace: &str) -> Result<()> {
    let template = json!({
        "apiVersion": "caelus.io/v1", "kind": "ProductTemplateVersion", "metadata": { "name": TEMPLATE },
        "spec": { "chart": { "folder": { "reference": "small" } }, "domainPaths": ["ingress.host"] },
    });
    api.create(&TEMPLATES.collection(namespace), template.to_string()).await
}

/// Lets the host make one instance, keeps what it has applied, and deletes it.
pub(crate) async fn measure_one(api: &Api) -> Result<()> {
    api.create_namespace(FIRST).await?;
    create_template(api, FIRST).await?;
    let path = format!("{}/{}", INSTANCE.primaries.collection(FIRST), INSTANCE.name(0));
    api.create(&INSTANCE.primaries.collection(FIRST), INSTANCE.primary(FIRST, 0).to_string()).await?;
    wait(api, &path, "Running", |found| found.is_some_and(|found| text(found, "/status/phase") == "Running")).await?;
    let own = own_namespace(FIRST, 0);
    let mut applied = Vec::new();
    for kind in INSTANCE.children {
        let is_of_cluster = kind.kind == NAMESPACES.kind;
        let collection = if is_of_cluster { kind.everywhere() } else { kind.collection(&own) };
        let list: List = api.get(&collection).await?.with_context(|| format!("{collection} is not served"))?;
        let items = list.items.iter().filter(|item| !is_of_cluster || text(item, "/metadata/name") == own);
        applied.extend(items.filter_map(|item| of_the_host(item, kind, &list.api_version)));
    }
    let found = applied.len();
    ensure!(found == INSTANCE.per_primary, "the host has made {found} objects of an instance, not as many as expected");
    ensure!(APPLIED.set(applied).is_ok(), "measured twice");
    let (status, text) = api.send(Method::DELETE, &path, "application/json", String::new()).await?;
    ensure!(status.is_success(), "deleting {path}: {text}");
    wait(api, &path, "gone", |found| found.is_none()).await
}

async fn wait(api: &Api, path: &str, what: &str, is_so: impl Fn(Option<&Value>) -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found: Option<Value> = api.get(path).await?;
        if is_so(found.as_ref()) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{path} is not {what} within {PATIENCE:?}: {found:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    api_version: String,
    items: Vec<Value>,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The fields that the host has applied; none of an object that somebody else made.
fn of_the_host(item: &Value, kind: &Kind, api_version: &str) -> Option<Value> {
    let managers = item.pointer("/metadata/managedFields")?.as_array()?;
    let is_ours =
        |entry: &&Value| text(entry, "/operation") == "Apply" && text(entry, "/manager").starts_with("transom");
    let mut fields = owned(managers.iter().find(is_ours)?.get("fieldsV1")?, item);
    let metadata = fields.get_mut("metadata")?.as_object_mut()?;
    for name in ["name", "namespace"] {
        metadata.extend(item.pointer("/metadata")?.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    let object = fields.as_object_mut()?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.kind.into());
    Some(fields)
}

/// The part of a live value that a set of fields names. A set that names nothing has the whole value.
fn owned(set: &Value, live: &Value) -> Value {
    let Some(set) = set.as_object().filter(|set| set.keys().any(|key| key != ".")) else { return live.clone() };
    match live {
        Value::Object(fields) => {
            let part =
                |(name, value): (&String, &Value)| Some((name.clone(), owned(set.get(&format!("f:{name}"))?, value)));
            Value::Object(fields.iter().filter_map(part).collect())
        }
        Value::Array(items) => items.iter().filter_map(|item| Some(owned(of_item(set, item)?, item))).collect(),
        other => other.clone(),
    }
}

/// What a set says of one item of a list.
fn of_item<'a>(set: &'a Map<String, Value>, item: &Value) -> Option<&'a Value> {
    let is_meant = |key: &str| match key.split_once(':') {
        Some(("k", keys)) => serde_json::from_str::<Map<String, Value>>(keys)
            .is_ok_and(|keys| keys.iter().all(|(name, value)| item.get(name) == Some(value))),
        Some(("v", value)) => serde_json::from_str::<Value>(value).is_ok_and(|value| value == *item),
        _ => false,
    };
    set.iter().find(|(key, _)| is_meant(key)).map(|(_, fields)| fields)
}

/// What was applied for the first, with the names of this one. Labels and annotations of the host become others.
fn plan(primary: &Value, _: usize) -> Result<Vec<Value>> {
    let applied = APPLIED.get().context("no instance was measured")?;
    let (name, own) = (text(primary, "/metadata/name"), text(primary, "/spec/namespace"));
    let renamed = serde_json::to_string(applied)?
        .replace(&own_namespace(FIRST, 0), own)
        .replace(&INSTANCE.name(0), name)
        .replace("transom.dev/", "bench.dev/");
    Ok(serde_json::from_str(&renamed)?)
}
