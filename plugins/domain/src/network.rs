use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use transom_sdk::objects::{self, labels};

use crate::spec::{Domain, NetworkProfile};
use crate::workload::{self, GRPC_PORT, METRICS_PORT};

const POSTGRES_PORT: i32 = 5432;
const DNS_PORT: i32 = 53;

/// What may reach the Domain's pods, and what they may reach. There always is one: `open` lets everything through also
/// where the namespace denies by default.
///
/// | profile | calls from | metrics from | may call |
/// |---|---|---|---|
/// | `backend` | pods of the namespace | pods of all namespaces | everything |
/// | `internal` | pods of all namespaces | pods of all namespaces | everything |
/// | `isolated` | nobody | nobody | its database's pods, DNS |
/// | `open` | everybody, on all ports | everybody | everything |
///
/// Metrics only where `observability.serviceMonitor` is set. A kubelet's probes come from the node, which network
/// policies let through. Migrations are other pods, which these policies do not select.
pub(crate) fn policy(domain: &Domain) -> NetworkPolicy {
    let profile = domain.spec.security.network_profile;
    let is_isolated = profile == NetworkProfile::Isolated;
    let types = if is_isolated { &["Ingress", "Egress"][..] } else { &["Ingress"] };
    let spec = NetworkPolicySpec {
        pod_selector: Some(objects::selector(&workload::selector(domain))),
        policy_types: Some(types.iter().map(|&kind| kind.to_owned()).collect()),
        ingress: Some(ingress(domain, profile)),
        egress: is_isolated.then(|| egress(domain)),
    };
    NetworkPolicy { metadata: workload::metadata(domain), spec: Some(spec) }
}

fn ingress(domain: &Domain, profile: NetworkProfile) -> Vec<NetworkPolicyIngressRule> {
    let from = |peer: NetworkPolicyPeer, port: i32| NetworkPolicyIngressRule {
        from: Some(vec![peer]),
        ports: Some(vec![tcp(port)]),
    };
    let calls = match profile {
        NetworkProfile::Isolated => return Vec::new(),
        NetworkProfile::Open => return vec![NetworkPolicyIngressRule::default()],
        NetworkProfile::Backend => from(same_namespace(), GRPC_PORT),
        NetworkProfile::Internal => from(all_namespaces(), GRPC_PORT),
    };
    let metrics = domain.spec.observability.service_monitor.then(|| from(all_namespaces(), METRICS_PORT));
    [calls].into_iter().chain(metrics).collect()
}

fn egress(domain: &Domain) -> Vec<NetworkPolicyEgressRule> {
    // of CloudNativePG's pods (cloudnative-pg/cloudnative-pg: `docs/src/labels_annotations.md`)
    let database = labels([("cnpg.io/cluster", domain.spec.db.cluster())]);
    let database =
        NetworkPolicyPeer { pod_selector: Some(objects::selector(&database)), ..NetworkPolicyPeer::default() };
    vec![
        NetworkPolicyEgressRule { to: Some(vec![database]), ports: Some(vec![tcp(POSTGRES_PORT)]) },
        // to everybody: a node's own DNS cache is no pod
        NetworkPolicyEgressRule { to: None, ports: Some(vec![port("UDP", DNS_PORT), port("TCP", DNS_PORT)]) },
    ]
}

fn same_namespace() -> NetworkPolicyPeer {
    NetworkPolicyPeer { pod_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() }
}

fn all_namespaces() -> NetworkPolicyPeer {
    NetworkPolicyPeer { namespace_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() }
}

fn tcp(number: i32) -> NetworkPolicyPort {
    port("TCP", number)
}

fn port(protocol: &str, number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort { protocol: Some(protocol.into()), port: Some(IntOrString::Int(number)), end_port: None }
}
