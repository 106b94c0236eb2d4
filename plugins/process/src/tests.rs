#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, and serde_json's index yields null where nothing is"
)]

mod definition;
mod drain;
mod refusals;
mod rollout;
mod workload;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::ConfigMap;
use prost::Message as _;
use serde_json::json;
use transom_sdk::testing::{self, Case, Disposition, Plan};

use crate::proto::temporal;
use crate::proto::transformation::{
    GET_PROCESS_DEFINITION, GetProcessDefinitionRequest, GetProcessDefinitionResponse, ProcessDefinition,
};
use crate::*;

/// The example of the seed.
fn l2o() -> Process {
    let dependency = |name: &str| vec![DependencyRef { name: name.into() }];
    let spec = ProcessSpec {
        image: "registry.example/l2o-process:0.7.0".into(),
        image_pull_policy: ImagePullPolicy::default(),
        definition_ref: DefinitionRef { id: "L2O_v3".into(), tenant_id: "t123".into(), refresh_interval: "5m".into() },
        temporal: Temporal { namespace: "sales-process".into(), task_queue: "l2o-tq".into() },
        dependencies: Dependencies { domains: dependency("sales"), agents: dependency("l2o-coach") },
        replicas: 2,
        resources: Resources::default(),
        rollout: Rollout { max_concurrency_per_tenant: Some(100), ..Rollout::default() },
        observability: Observability { metrics_tags: [("processType".to_owned(), "L2O".to_owned())].into() },
        sla_checks: Vec::new(),
        cleanup: None,
        drain: Drain::default(),
    };
    Process::new("l2o", spec)
}

fn definition(version: i64, content: &str) -> ProcessDefinition {
    ProcessDefinition { id: "L2O_v3".into(), tenant_id: "t123".into(), version, content: content.into() }
}

fn asked() -> Vec<u8> {
    GetProcessDefinitionRequest { id: "L2O_v3".into(), tenant_id: "t123".into() }.encode_to_vec()
}

fn serving(case: Case<ProcessPlugin>, definition: ProcessDefinition) -> Case<ProcessPlugin> {
    let response = GetProcessDefinitionResponse { definition: Some(definition) };
    case.grpc(TRANSFORMATION, GET_PROCESS_DEFINITION, &asked(), response.encode_to_vec())
}

fn health() -> Vec<u8> {
    temporal::HealthCheckRequest { service: temporal::SERVICE.into() }.encode_to_vec()
}

fn namespace() -> Vec<u8> {
    temporal::DescribeNamespaceRequest { namespace: "sales-process".into() }.encode_to_vec()
}

fn with_temporal(case: Case<ProcessPlugin>) -> Case<ProcessPlugin> {
    let serving = temporal::HealthCheckResponse { status: temporal::SERVING };
    let info = temporal::NamespaceInfo { name: "sales-process".into(), state: 1 };
    let described = temporal::DescribeNamespaceResponse { namespace_info: Some(info) };
    case.grpc(TEMPORAL, temporal::HEALTH, &health(), serving.encode_to_vec()).grpc(
        TEMPORAL,
        temporal::DESCRIBE_NAMESPACE,
        &namespace(),
        described.encode_to_vec(),
    )
}

fn primitive(kind: &str, name: &str, ready: &str) -> serde_json::Value {
    let condition = json!({ "type": "Ready", "status": ready, "reason": "AsTheTestWants" });
    json!({ "apiVersion": "ameide.io/v1", "kind": kind, "metadata": { "name": name },
        "status": { "conditions": [condition] } })
}

const CONTENT: &str = r#"{ "name": "Lead to order", "steps": [] }"#;

/// Everything around a Process is there.
fn whole(process: &Process) -> Case<ProcessPlugin> {
    serving(with_temporal(Case::new(process)), definition(3, CONTENT))
        .foreign_object(primitive("Domain", "sales", "True"))
        .foreign_object(primitive("Agent", "l2o-coach", "True"))
}

/// All is well with the first version.
fn running(process: &Process) -> Case<ProcessPlugin> {
    whole(process).reconciled().ready::<Deployment>("l2o").reconciled()
}

fn config_map(plan: &Plan) -> String {
    let [name] = plan.names::<ConfigMap>().try_into().expect("one ConfigMap");
    name
}

#[test]
fn p1_the_manifest_describes_the_kind() {
    let manifest = testing::manifest::<ProcessPlugin>();
    let crd: serde_json::Value = serde_json::from_str(&manifest.crds[0]).unwrap();
    insta::assert_yaml_snapshot!(json!({
        "name": manifest.name,
        "crd": crd["metadata"]["name"],
        "spec": crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            .as_object().unwrap().keys().collect::<Vec<_>>(),
        "status": crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
            .as_object().unwrap().keys().collect::<Vec<_>>(),
        "children": manifest.children.iter().map(|child| &child.kind.kind).collect::<Vec<_>>(),
        "endpoints": manifest.endpoints.iter().map(|endpoint| &endpoint.name).collect::<Vec<_>>(),
    }));
}

#[test]
fn p1_everything_wrong_is_said_at_once() {
    let mut process = l2o();
    process.metadata.name = Some("a.b".into());
    process.spec.rollout.canary = Some(Canary::default());
    process.spec.observability.metrics_tags = [("a=b".to_owned(), "c".to_owned())].into();
    assert_eq!(
        Case::<ProcessPlugin>::new(&process).failure(),
        [
            "metadata.name must have at most 63 letters, digits and -: it becomes a label",
            "spec.rollout.canary needs the strategy Canary: set spec.rollout.strategy to Canary or remove it",
            "spec.observability.metricsTags[a=b] must be without = and , in key and value: they separate tags",
        ]
    );
}

#[test]
fn p2_p4_a_process_becomes_a_config_map_and_workers() {
    insta::assert_yaml_snapshot!(whole(&l2o()).plan());
}

#[test]
fn p4_a_process_whose_workers_run_is_ready() {
    let plan = running(&l2o()).plan();
    assert_eq!(plan.condition("Ready"), Some(("True", "Ready")));
    assert_eq!(plan.condition("WorkersReady").unwrap().0, "True");
    assert_eq!(plan.condition("Degraded"), Some(("False", "AsExpected")));
    assert_eq!(plan.status.as_ref().unwrap()["readyReplicas"], 2);
}

// ------------------------------------------------------------------ Temporal

#[test]
fn p3_without_its_namespace_no_worker_starts_and_the_reason_says_how_to_mend_it() {
    let case = whole(&l2o()).grpc(
        TEMPORAL,
        temporal::DESCRIBE_NAMESPACE,
        &namespace(),
        temporal::DescribeNamespaceResponse::default().encode_to_vec(),
    );
    let plan = case.plan();
    assert_eq!(plan.names::<Deployment>(), [""; 0]);
    assert_eq!(plan.condition("Degraded"), Some(("True", "NamespaceNotFound")));
    assert_eq!(plan.condition("Ready"), Some(("False", "NamespaceNotFound")));
    let ready = plan.conditions.iter().find(|condition| condition.kind == "Ready").unwrap();
    assert!(ready.message.contains("no namespace sales-process: register it"), "{}", ready.message);
}

#[test]
fn p3_an_unreachable_temporal_is_degraded_and_workers_stay() {
    let down = |case: Case<ProcessPlugin>| case.grpc_failing(TEMPORAL, temporal::HEALTH, &health(), "Unavailable");
    let plan = down(running(&l2o())).plan();
    assert_eq!(plan.condition("Degraded"), Some(("True", "TemporalUnavailable")));
    assert_eq!(plan.condition("Ready"), Some(("False", "TemporalUnavailable")));
    assert_eq!(plan.disposition::<Deployment>("l2o"), Some(Disposition::Apply));
    // nobody knows whether the namespace is there: the first worker waits
    let plan = down(whole(&l2o())).plan();
    assert_eq!(plan.names::<Deployment>(), [""; 0]);
    assert_eq!(plan.condition("WorkersReady"), Some(("False", "TemporalUnavailable")));
}

// -------------------------------------------------------------- dependencies

#[test]
fn p5_what_is_not_there_or_not_ready_degrades() {
    let alone = serving(with_temporal(Case::new(&l2o())), definition(3, CONTENT));
    let plan = alone.plan();
    assert_eq!(plan.condition("Degraded"), Some(("True", "DependencyMissing")));
    let degraded = plan.conditions.iter().find(|condition| condition.kind == "Degraded").unwrap();
    assert_eq!(degraded.message, "not there: Domain sales, Agent l2o-coach");
    assert_eq!(plan.names::<Deployment>(), ["l2o"], "workers can start meanwhile");
    let plan = running(&l2o()).foreign_object(primitive("Agent", "l2o-coach", "False")).plan();
    assert_eq!(plan.condition("Degraded"), Some(("True", "DependencyNotReady")));
    let degraded = plan.conditions.iter().find(|condition| condition.kind == "Degraded").unwrap();
    assert_eq!(degraded.message, "not ready: Agent l2o-coach (AsTheTestWants)");
    assert_eq!(plan.condition("Ready"), Some(("False", "DependencyNotReady")));
}
