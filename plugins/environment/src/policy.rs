//! What an Environment may use, and who may talk to it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem, LimitRangeSpec, ResourceQuota, ResourceQuotaSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use transom_sdk::objects::{self, labels};
use transom_sdk::prelude::*;

use crate::Config;
use crate::project::QuotaSpec;

/// Plans all of it.
pub(crate) fn plan(plan: &mut Plan, namespace: &str, quota: &QuotaSpec, config: &Config) {
    plan.apply(resource_quota(namespace, quota));
    plan.apply(limit_range(namespace));
    for policy in network_policies(namespace, config) {
        plan.apply(policy);
    }
}

fn metadata(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), namespace: Some(namespace.into()), ..ObjectMeta::default() }
}

fn quantities<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, Quantity> {
    pairs.into_iter().map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).collect()
}

fn resource_quota(namespace: &str, quota: &QuotaSpec) -> ResourceQuota {
    let (requests_cpu, limits_cpu) = match quota.cpu.as_str() {
        "" => ("2", "4"),
        cpu => (cpu, cpu),
    };
    let (requests_memory, limits_memory) = match quota.memory.as_str() {
        "" => ("4Gi", "8Gi"),
        memory => (memory, memory),
    };
    let hard = quantities([
        ("requests.cpu", requests_cpu),
        ("limits.cpu", limits_cpu),
        ("requests.memory", requests_memory),
        ("limits.memory", limits_memory),
        ("pods", "20"),
    ]);
    let spec = ResourceQuotaSpec { hard: Some(hard), ..ResourceQuotaSpec::default() };
    ResourceQuota { metadata: metadata(namespace, "default-quota"), spec: Some(spec), status: None }
}

/// With a quota on limits, a container without limits is refused: these are what it gets.
fn limit_range(namespace: &str) -> LimitRange {
    let item = LimitRangeItem {
        type_: "Container".into(),
        default: Some(quantities([("cpu", "500m"), ("memory", "512Mi")])),
        default_request: Some(quantities([("cpu", "50m"), ("memory", "128Mi")])),
        ..LimitRangeItem::default()
    };
    LimitRange { metadata: metadata(namespace, "default-limits"), spec: Some(LimitRangeSpec { limits: vec![item] }) }
}

/// Everything is denied but what the other four allow.
fn network_policies(namespace: &str, config: &Config) -> [NetworkPolicy; 5] {
    let policy = |name: &str, types: &[&str], ingress, egress| NetworkPolicy {
        metadata: metadata(namespace, name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector::default()),
            policy_types: Some(types.iter().map(|&kind| kind.to_owned()).collect()),
            ingress,
            egress,
        }),
    };
    let from = |peer: NetworkPolicyPeer| Some(vec![NetworkPolicyIngressRule { from: Some(vec![peer]), ports: None }]);
    let own_pods =
        || NetworkPolicyPeer { pod_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    let to_own_pods = NetworkPolicyEgressRule { to: Some(vec![own_pods()]), ports: None };
    let to_dns = NetworkPolicyEgressRule {
        to: Some(vec![of_namespace("kube-system")]),
        ports: Some(vec![port("UDP", 53), port("TCP", 53)]),
    };
    // registries that are not on 443: builds push to them
    let registry = config.registry.as_ref().and_then(|registry| registry.port()).filter(|port| *port != 443);
    let to_https = NetworkPolicyEgressRule {
        to: None,
        ports: Some([443].into_iter().chain(registry).map(|number| port("TCP", number)).collect()),
    };
    [
        policy("default-deny", &["Ingress", "Egress"], None, None),
        policy("allow-ingress-controller", &["Ingress"], from(of_namespace(&config.ingress_namespace)), None),
        policy("allow-intra-namespace", &["Ingress", "Egress"], from(own_pods()), Some(vec![to_own_pods])),
        policy("allow-dns", &["Egress"], None, Some(vec![to_dns])),
        policy("allow-https-egress", &["Egress"], None, Some(vec![to_https])),
    ]
}

fn of_namespace(name: &str) -> NetworkPolicyPeer {
    let selector = objects::selector(&labels([("kubernetes.io/metadata.name", name)]));
    NetworkPolicyPeer { namespace_selector: Some(selector), ..NetworkPolicyPeer::default() }
}

fn port(protocol: &str, number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort { protocol: Some(protocol.into()), port: Some(IntOrString::Int(number)), end_port: None }
}
