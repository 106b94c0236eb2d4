//! D5: what runs, and what belongs to it.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::Value;

use super::*;
use crate::monitoring::ServiceMonitor;

fn with(change: impl Fn(&mut DomainSpec)) -> Domain {
    let mut domain = orders();
    change(&mut domain.spec);
    domain
}

/// The child of this kind called `orders`, in the plan for a Domain whose first migration is complete.
fn planned<K: transom_sdk::Kind>(domain: &Domain) -> Option<Value> {
    let case = with_database(case(domain)).reconciled();
    let name = job(&case.plan());
    child_of::<K>(&case.ready::<Job>(&name).plan())
}

fn child_of<K: transom_sdk::Kind>(plan: &Plan) -> Option<Value> {
    let kind = K::type_meta();
    let found = plan
        .children
        .iter()
        .find(|child| child.object["kind"] == *kind.kind && child.object["metadata"]["name"] == "orders");
    found.map(|child| child.object.clone())
}

#[test]
fn d5_network_profiles_say_who_may_call_whom() {
    let profiles = [NetworkProfile::Backend, NetworkProfile::Internal, NetworkProfile::Isolated, NetworkProfile::Open];
    let policies = profiles.map(|profile| {
        let policy = planned::<NetworkPolicy>(&with(|spec| {
            spec.security.network_profile = profile;
            spec.observability.service_monitor = true;
        }));
        (format!("{profile:?}"), policy.unwrap()["spec"].clone())
    });
    insta::assert_yaml_snapshot!(BTreeMap::from(policies));
}

#[test]
fn d5_a_disruption_budget_lets_one_pod_go_at_a_time() {
    let budget = planned::<PodDisruptionBudget>(&orders()).unwrap();
    let selected = json!({ "app.kubernetes.io/instance": "orders", "app.kubernetes.io/name": "domain" });
    assert_eq!(budget["spec"], json!({ "maxUnavailable": 1, "selector": { "matchLabels": selected } }));
}

fn scaled(min_replicas: i32) -> Domain {
    with(|spec| spec.autoscaling = Some(Autoscaling { min_replicas, max_replicas: 9, target_cpu: 70 }))
}

fn replicas(plan: &Plan) -> Value {
    child_of::<Deployment>(plan).unwrap()["spec"]["replicas"].clone()
}

#[test]
fn d5_an_autoscaler_is_made_where_it_is_asked_for() {
    assert_eq!(planned::<HorizontalPodAutoscaler>(&orders()), None);
    let expected = json!({
        "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "orders" },
        "minReplicas": 3, "maxReplicas": 9,
        "metrics": [{
            "type": "Resource",
            "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 70 } },
        }],
    });
    assert_eq!(planned::<HorizontalPodAutoscaler>(&scaled(3)).unwrap()["spec"], expected);
}

#[test]
fn d5_replicas_are_the_autoscalers_once_it_has_scaled() {
    assert_eq!(replicas(&running().plan()), 2, "no autoscaler");
    let new = with_database(case(&scaled(3))).reconciled();
    let name = job(&new.plan());
    assert_eq!(replicas(&new.ready::<Job>(&name).plan()), 3, "a new Deployment begins with the least");

    let case = running().change(&scaled(1)).reconciled();
    assert_eq!(replicas(&case.plan()), 2, "what lives is said again: unsaid it would fall back to 1");
    let case = case.status::<HorizontalPodAutoscaler>(
        "orders",
        json!({ "lastScaleTime": "2026-01-01T00:00:00Z",
        "currentReplicas": 2, "desiredReplicas": 4 }),
    );
    assert_eq!(replicas(&case.plan()), Value::Null);
    assert_eq!(replicas(&case.change(&orders()).plan()), 2, "and the spec's again without it");
}

fn definition(is_established: bool) -> Value {
    let status = if is_established { "True" } else { "False" };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "servicemonitors.monitoring.coreos.com", "namespace": "" },
        "status": { "conditions": [{ "type": "Established", "status": status }] },
    })
}

#[test]
fn d5_a_service_monitor_is_made_where_its_kind_is_served() {
    let domain = with(|spec| spec.observability.service_monitor = true);
    let monitor = |case: Case<DomainPlugin>| child_of::<ServiceMonitor>(&case.plan());
    assert_eq!(monitor(with_database(case(&domain))), None);
    assert_eq!(with_database(case(&domain)).plan().events[0].0, "MonitoringUnavailable");
    assert_eq!(monitor(with_database(case(&domain)).foreign_object(definition(false))), None);
    let served = with_database(case(&domain)).foreign_object(definition(true));
    let expected = json!({
        "endpoints": [{ "port": "metrics", "path": "/metrics" }],
        "selector": { "matchLabels": { "app.kubernetes.io/instance": "orders", "app.kubernetes.io/name": "domain" } },
    });
    assert_eq!(monitor(served).unwrap()["spec"], expected);
    assert_eq!(monitor(with_database(case(&orders())).foreign_object(definition(true))), None, "nobody asked for it");

    let deployment = planned::<Deployment>(&domain).unwrap();
    let ports = &deployment["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert_eq!(
        ports,
        &json!([{ "name": "grpc", "containerPort": 50051 }, { "name": "metrics", "containerPort": 9090 }])
    );
}

fn variables(deployment: &Value) -> BTreeMap<String, String> {
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap_or("(from the secret)").to_owned();
    variables.map(|variable| (text(&variable["name"]), text(&variable["value"]))).collect()
}

#[test]
fn d5_the_platform_sets_log_level_and_tracing_and_a_domain_may_differ_about_tracing() {
    let domain = with(|spec| spec.env.push(objects::env("OTEL_SERVICE_NAME", "order-desk")));
    let config = Config { otlp_endpoint: Some("http://collector:4317".into()) };
    let case = with_database(case(&domain)).config(&config).reconciled();
    let name = job(&case.plan());
    let found = variables(&child_of::<Deployment>(&case.ready::<Job>(&name).plan()).unwrap());
    let expected = [
        ("DB_SCHEMA", "orders"),
        ("FEATURES", "returns"),
        ("LOG_LEVEL", "info"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=default,service.version=1.12.3"),
        ("OTEL_SERVICE_NAME", "order-desk"),
        ("PGDATABASE", "(from the secret)"),
        ("PGHOST", "(from the secret)"),
        ("PGPASSWORD", "(from the secret)"),
        ("PGPORT", "(from the secret)"),
        ("PGUSER", "(from the secret)"),
    ];
    assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!(variables(&planned::<Deployment>(&orders()).unwrap()).get("OTEL_EXPORTER_OTLP_ENDPOINT"), None);
}

#[test]
fn d5_pods_are_as_the_profile_restricted_wants_them() {
    for pod in [planned::<Deployment>(&orders()).unwrap(), planned_job()] {
        let spec = &pod["spec"]["template"]["spec"];
        let expected = json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } });
        assert_eq!(spec["securityContext"], expected);
        let expected = json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } });
        assert_eq!(spec["containers"][0]["securityContext"], expected);
        assert_eq!(spec["serviceAccountName"], "orders");
    }
}

fn planned_job() -> Value {
    let plan = with_database(case(&orders())).plan();
    plan.children.iter().find(|child| child.object["kind"] == "Job").unwrap().object.clone()
}
