//! Processes that depend on Domains, and what is around them.

use anyhow::{Context as _, Result};
use prost::Message as _;
use serde_json::{Value, json};
use transom_plugin_process::proto::temporal::{self, DescribeNamespaceRequest, DescribeNamespaceResponse};
use transom_plugin_process::proto::temporal::{HealthCheckRequest, HealthCheckResponse, NamespaceInfo};
use transom_plugin_process::proto::transformation::{
    GET_PROCESS_DEFINITION, GetProcessDefinitionRequest, GetProcessDefinitionResponse, ProcessDefinition,
};
use transom_plugin_process::{Process, ProcessPlugin};
use transom_sdk::testing::Case;

use crate::shared::api::{CONFIG_MAPS, DEPLOYMENTS, Kind};
use crate::shared::workload::Workload;

/// Domains that share the Processes among them.
pub(crate) const DOMAINS: usize = 100;

pub(crate) const TENANT: &str = "t123";
pub(crate) const DEFINITION: &str = "L2O_v3";
pub(crate) const CONTENT: &str = r#"{"name":"Lead to order","steps":[]}"#;
/// Of Temporal.
pub(crate) const TEMPORAL_NAMESPACE: &str = "bench";

pub(crate) static PROCESS: Workload = Workload {
    plugin: "process",
    primaries: Kind { kind: "Process", path: "/apis/ameide.io/v1", plural: "processes" },
    children: &[
        DEPLOYMENTS,
        CONFIG_MAPS,
        Kind { kind: "PodDisruptionBudget", path: "/apis/policy/v1", plural: "poddisruptionbudgets" },
    ],
    per_primary: 3,
    own_namespaces: false,
    primary,
    plan,
};

/// The Domain that this Process depends on.
pub(crate) fn domain_of(index: usize) -> String {
    format!("domain-{:03}", index % DOMAINS)
}

fn primary(namespace: &str, name: &str, index: usize) -> Value {
    json!({
        "apiVersion": "ameide.io/v1",
        "kind": "Process",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "image": "registry.example/process:1",
            "definitionRef": { "id": DEFINITION, "tenantId": TENANT },
            "temporal": { "namespace": TEMPORAL_NAMESPACE, "taskQueue": format!("{name}-tq") },
            "dependencies": { "domains": [{ "name": domain_of(index) }] },
            "replicas": 1,
        },
    })
}

/// With everything around it as it should be.
fn plan(primary: &Value, index: usize) -> Result<Vec<Value>> {
    let process: Process = serde_json::from_value(primary.clone()).context("a Process")?;
    let definition =
        ProcessDefinition { id: DEFINITION.into(), tenant_id: TENANT.into(), version: 1, content: CONTENT.into() };
    let asked = GetProcessDefinitionRequest { id: DEFINITION.into(), tenant_id: TENANT.into() };
    let answer = GetProcessDefinitionResponse { definition: Some(definition) };
    let health = HealthCheckRequest { service: temporal::SERVICE.into() };
    let serving = HealthCheckResponse { status: temporal::SERVING };
    let describe = DescribeNamespaceRequest { namespace: TEMPORAL_NAMESPACE.into() };
    let registered = 1;
    let info = NamespaceInfo { name: TEMPORAL_NAMESPACE.into(), state: registered };
    let described = DescribeNamespaceResponse { namespace_info: Some(info) };
    let ready = json!({ "type": "Ready", "status": "True", "reason": "Ready" });
    let domain = json!({ "apiVersion": "ameide.io/v1", "kind": "Domain", "metadata": { "name": domain_of(index) },
        "status": { "conditions": [ready] } });
    let plan = Case::<ProcessPlugin>::new(&process)
        .grpc("transformation", GET_PROCESS_DEFINITION, &asked.encode_to_vec(), answer.encode_to_vec())
        .grpc("temporal", temporal::HEALTH, &health.encode_to_vec(), serving.encode_to_vec())
        .grpc("temporal", temporal::DESCRIBE_NAMESPACE, &describe.encode_to_vec(), described.encode_to_vec())
        .foreign_object(domain)
        .plan();
    Ok(plan.children.into_iter().map(|child| child.object).collect())
}
