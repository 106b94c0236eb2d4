//! The namespace of an instance, and what keeps it apart from others.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    LimitRange, LimitRangeItem, LimitRangeSpec, Namespace, ResourceQuota, ResourceQuotaSpec,
};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use transom_sdk::objects::{self, labels};
use transom_sdk::prelude::*;
use transom_sdk::{Answer, AnyObject, Problem, Stop};

use crate::config::Config;
use crate::spec::CaelusInstance;

/// On the namespace: the instance that it is of, `<namespace>.<name>`. One that was left behind with its data can be
/// taken up again by an instance of the same name.
const OF: &str = "caelus.io/instance-of";

/// How the namespace stands to the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// It is a child of the instance.
    Owned,
    /// It is not there.
    Free,
    /// It was left behind by an instance of this name.
    Left,
}

/// Is the namespace the instance's, or can it be?
pub(crate) fn survey(instance: &CaelusInstance, cx: &Context) -> Result<Ground, Stop> {
    let name = &instance.spec.namespace;
    if cx.child::<Namespace>(name).is_some() {
        return Ok(Ground::Owned);
    }
    let foreign = |why: &str| {
        let message =
            format!("spec.namespace: {name} {why}: an instance needs a namespace of its own, name another one");
        Problem::new("ForeignNamespace", message)
    };
    if *name == instance.home() || name == "default" || name.starts_with("kube-") {
        return Err(foreign("is not for instances").into());
    }
    match cx.try_get_in::<Namespace>("", name)? {
        Answer::Absent => Ok(Ground::Free),
        Answer::Found(live) => {
            if live.metadata.annotations.unwrap_or_default().get(OF) == Some(&identity(instance)) {
                return Ok(Ground::Left);
            }
            Err(foreign("exists and is somebody else's").into())
        }
        Answer::Denied(message) => {
            Err(Problem::passing("NamespaceDenied", format!("spec.namespace: {message}")).into())
        }
        other => {
            let message = other.into_found().err().map(|failure| failure.to_string()).unwrap_or_default();
            Err(Problem::passing("NamespaceUnknown", format!("spec.namespace: {message}")).into())
        }
    }
}

/// On live objects that are released instead of deleted.
const KEEP: &str = "transom.dev/keep";

/// Is the live child one that is released instead of deleted?
pub(crate) fn is_kept<K>(live: &Observed<K>) -> Result<bool, Failure> {
    Ok(live.annotations()?.get(KEEP).is_some_and(|keep| keep == "true"))
}

/// Is the namespace kept as it is now?
pub(crate) fn is_namespace_kept(instance: &CaelusInstance, cx: &Context) -> Result<bool, Failure> {
    cx.child::<Namespace>(&instance.spec.namespace).as_ref().map_or(Ok(false), is_kept)
}

/// Was the namespace left behind by the instance?
pub(crate) fn was_left(instance: &CaelusInstance, cx: &Context) -> Result<bool, Failure> {
    match cx.try_get_in::<Namespace>("", &instance.spec.namespace)? {
        Answer::Found(live) if live.metadata.deletion_timestamp.is_none() => {
            Ok(live.metadata.annotations.unwrap_or_default().get(OF) == Some(&identity(instance)))
        }
        _ => Ok(false),
    }
}

fn identity(instance: &CaelusInstance) -> String {
    format!("{}.{}", instance.home(), instance.name())
}

pub(crate) fn namespace(instance: &CaelusInstance, config: &Config) -> Namespace {
    let labels = labels([
        ("app.kubernetes.io/managed-by", "transom"),
        ("app.kubernetes.io/part-of", "caelus"),
        ("pod-security.kubernetes.io/enforce", &config.pod_security),
    ]);
    let mut metadata = objects::metadata(&instance.spec.namespace, &labels);
    metadata.annotations = Some(BTreeMap::from([(OF.to_owned(), identity(instance))]));
    Namespace { metadata, ..Namespace::default() }
}

/// Names of what is in the namespace beside the release.
const QUOTA: &str = "caelus-quota";
const LIMITS: &str = "caelus-defaults";
const DENY: &str = "caelus-deny-all";
const OWN: &str = "caelus-allow-own";
const DNS: &str = "caelus-allow-dns";
const INGRESS: &str = "caelus-allow-ingress";
const EGRESS: &str = "caelus-allow-egress";

/// Is it one of the objects that keep the instance apart?
pub(crate) fn is_part(object: &AnyObject) -> bool {
    is_named(&object.type_meta().kind, object.name())
}

/// The same, by kind and name.
pub(crate) fn is_named(kind: &str, name: &str) -> bool {
    [QUOTA, LIMITS, DENY, OWN, DNS, INGRESS, EGRESS].contains(&name)
        && ["NetworkPolicy", "ResourceQuota", "LimitRange"].contains(&kind)
}

/// Plans namespace, policies and quota; `keep` leaves the namespace behind, whoever ends the instance.
pub(crate) fn plan(plan: &mut Plan, instance: &CaelusInstance, config: &Config, ground: Ground, keep: bool) {
    let namespace = namespace(instance, config);
    match (ground, keep) {
        (Ground::Left, _) => plan.apply(namespace.adopt().keep()),
        (_, true) => plan.apply(namespace.keep()),
        (_, false) => plan.apply(namespace),
    };
    if ground != Ground::Owned {
        return; // what is in it comes when it is there
    }
    for policy in policies(instance, config) {
        plan.apply(policy.adopt());
    }
    let metadata = |name: &str| metadata(instance, name);
    let quota = ResourceQuotaSpec { hard: Some(quantities(&config.quota)), ..ResourceQuotaSpec::default() };
    plan.apply(ResourceQuota { metadata: metadata(QUOTA), spec: Some(quota), status: None }.adopt());
    let item = LimitRangeItem {
        type_: "Container".into(),
        default_request: Some(quantities(&config.default_request)),
        ..LimitRangeItem::default()
    };
    plan.apply(LimitRange { metadata: metadata(LIMITS), spec: Some(LimitRangeSpec { limits: vec![item] }) }.adopt());
}

fn metadata(instance: &CaelusInstance, name: &str) -> ObjectMeta {
    let labels = labels([("app.kubernetes.io/managed-by", "transom"), ("app.kubernetes.io/part-of", "caelus")]);
    ObjectMeta { namespace: Some(instance.spec.namespace.clone()), ..objects::metadata(name, &labels) }
}

fn quantities(table: &BTreeMap<String, String>) -> BTreeMap<String, Quantity> {
    table.iter().map(|(name, quantity)| (name.clone(), Quantity(quantity.clone()))).collect()
}

fn policies(instance: &CaelusInstance, config: &Config) -> Vec<NetworkPolicy> {
    let policy = |name: &str, types: &[&str], ingress, egress| NetworkPolicy {
        metadata: metadata(instance, name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector::default()),
            policy_types: Some(types.iter().map(|&kind| kind.to_owned()).collect()),
            ingress,
            egress,
        }),
    };
    let own =
        || vec![NetworkPolicyPeer { pod_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() }];
    let of_namespace = |name: &str| {
        let selector = objects::selector(&labels([("kubernetes.io/metadata.name", name)]));
        vec![NetworkPolicyPeer { namespace_selector: Some(selector), ..NetworkPolicyPeer::default() }]
    };
    let from = |from| Some(vec![NetworkPolicyIngressRule { from: Some(from), ports: None }]);
    let to = |to, ports| Some(vec![NetworkPolicyEgressRule { to: Some(to), ports }]);
    let port = |protocol: &str| NetworkPolicyPort {
        port: Some(IntOrString::Int(53)),
        protocol: Some(protocol.into()),
        end_port: None,
    };
    let dns = Some(vec![port("UDP"), port("TCP")]);
    let mut policies = vec![
        policy(DENY, &["Ingress", "Egress"], None, None),
        policy(OWN, &["Ingress", "Egress"], from(own()), to(own(), None)),
        policy(DNS, &["Egress"], None, to(of_namespace(&config.dns_namespace), dns)),
        policy(INGRESS, &["Ingress"], from(of_namespace(&config.ingress_namespace)), None),
    ];
    if !config.egress_cidrs.is_empty() {
        let peer = |cidr: &String| NetworkPolicyPeer {
            ip_block: Some(IPBlock { cidr: cidr.clone(), except: None }),
            ..NetworkPolicyPeer::default()
        };
        policies.push(policy(EGRESS, &["Egress"], None, to(config.egress_cidrs.iter().map(peer).collect(), None)));
    }
    policies
}
