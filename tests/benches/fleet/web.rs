//! `Web`: a plugin that asks for nothing.

use anyhow::{Result, bail};
use serde_json::{Value, json};
use transom_plugin_web::WebPlugin;
use transom_sdk::testing::{call, wire};

use crate::shared::api::{CONFIG_MAPS, DEPLOYMENTS, Kind};
use crate::shared::workload::Workload;

pub(crate) static WEB: Workload = Workload {
    plugin: "web",
    primaries: Kind { kind: "Web", path: "/apis/bench.dev/v1", plural: "webs" },
    children: &[
        DEPLOYMENTS,
        Kind { kind: "Service", path: "/api/v1", plural: "services" },
        Kind { kind: "NetworkPolicy", path: "/apis/networking.k8s.io/v1", plural: "networkpolicies" },
        CONFIG_MAPS,
    ],
    per_primary: 4,
    own_namespaces: false,
    primary,
    plan,
};

fn primary(namespace: &str, name: &str, _: usize) -> Value {
    json!({
        "apiVersion": "bench.dev/v1",
        "kind": "Web",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "image": "registry.example/web:1.0.0", "replicas": 1 },
    })
}

fn plan(primary: &Value, _: usize) -> Result<Vec<Value>> {
    let request = wire::Request {
        object: primary.to_string(),
        deleting: false,
        children: Vec::new(),
        answers: Vec::new(),
        calls: Vec::new(),
        config: "{}".into(),
        round: 0,
        ext: Vec::new(),
    };
    let plan = match call::<WebPlugin>(request) {
        Ok(wire::Step::Done(plan)) => plan,
        other => bail!("the plugin made no plan: {other:?}"),
    };
    plan.children.iter().map(|child| Ok(serde_json::from_str(&child.object)?)).collect()
}
