//! A host that is killed (SIGKILL) at a named step of a reconcile, and started again.

use std::collections::BTreeMap;

use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};
use transom_tests::{Fault, Host, Namespace, Proxy, Seen, TestCluster, component, condition, of, sample, stripped};

use crate::ready_web;

const BOTH: [Fault; 2] = [Fault::KillBefore, Fault::KillAfter];

/// Waits for the kill that was asked for, and starts the next host.
async fn restarted(ns: &Namespace, proxy: &Proxy, mut host: Host, kills: u32) -> Host {
    proxy.wait_killed(kills).await;
    host.ended().await;
    ns.host_through(proxy).await
}

/// No object was deleted twice: the API server granted one deletion of a UID at most.
fn assert_nothing_deleted_twice(proxy: &Proxy) {
    let mut granted: BTreeMap<String, usize> = BTreeMap::new();
    let carried_out = |seen: &&Seen| seen.status.is_some_and(|status| status.is_success());
    for seen in proxy.seen().iter().filter(|seen| seen.step.starts_with("delete ")).filter(carried_out) {
        *granted.entry(seen.uid.clone().expect("a deletion names the UID that it means")).or_default() += 1;
    }
    assert_eq!(granted.into_iter().filter(|(_, count)| *count > 1).collect::<Vec<_>>(), []);
}

/// The children of a Web, without its name and UID and without what Kubernetes gives each of its own. The owner is checked
/// here; the digest of what was applied covers name and UID, so it differs from Web to Web.
async fn children(ns: &Namespace, name: &str) -> Vec<Value> {
    let owner = ns.get(of::<sample::Web>(name)).await["metadata"]["uid"].clone();
    let mut found = Vec::new();
    for target in [of::<ConfigMap>(name), of::<Service>(name), of::<NetworkPolicy>(name), of::<Deployment>(name)] {
        let mut child = stripped(&ns.get(target).await);
        child["status"] = json!(null);
        child["metadata"]["generation"] = json!(null);
        assert_eq!(child["metadata"]["labels"]["transom.dev/owner-uid"], owner, "owned by another object: {child:#}");
        child["metadata"]["labels"]["transom.dev/owner-uid"] = json!(null);
        for own in ["deployment.kubernetes.io/revision", "transom.dev/applied"] {
            child["metadata"]["annotations"][own] = json!(null);
        }
        for address in ["clusterIP", "clusterIPs"] {
            if child["kind"] == Service::KIND {
                child["spec"][address] = json!(null);
            }
        }
        found.push(serde_json::from_str(&child.to_string().replace(name, "NAME")).unwrap());
    }
    found
}

#[tokio::test]
async fn a_host_killed_while_it_writes_children_or_status_ends_where_it_would_have() {
    let ns = TestCluster::shared().await.namespace("crash").await;
    let proxy = ns.proxy().await;
    let mut host = ns.host_through(&proxy).await;
    ns.install(&component("web").await).await;
    ready_web(&ns, "calm").await;
    let expected = children(&ns, "calm").await;

    let creates = (0..4).map(|skip| ("create ", skip));
    for (step, skip) in creates.chain([("status webs", 0), ("post events", 0)]) {
        for fault in BOTH {
            let kills = proxy.kills() + 1;
            let name = format!("killed{kills}");
            proxy.kill_at(step, skip, fault);
            let web = ns.create(sample::web(&name)).await;
            host = restarted(&ns, &proxy, host, kills).await;
            ns.wait_for(&web, condition("Ready", "True")).await;
            assert_eq!(children(&ns, &name).await, expected, "killed at {step} {skip} {fault:?}");
        }
    }
    for fault in BOTH {
        let kills = proxy.kills() + 1;
        proxy.kill_at("apply ", 0, fault);
        let web = ns.merge(of::<sample::Web>("calm"), json!({ "spec": { "replicas": 2 + kills } })).await;
        host = restarted(&ns, &proxy, host, kills).await;
        ns.wait_for(&web, condition("Ready", "True")).await;
        let deployment = ns.get(of::<Deployment>("calm")).await;
        assert_eq!(deployment["spec"]["replicas"], json!(2 + kills), "killed at an update, {fault:?}");
    }
    assert_eq!(proxy.kills(), 14);
    assert_nothing_deleted_twice(&proxy);
}

#[tokio::test]
async fn a_host_killed_around_a_finalizer_leaks_nothing_and_deletes_nothing_twice() {
    let ns = TestCluster::shared().await.namespace("crash-end").await;
    let proxy = ns.proxy().await;
    let mut host = ns.host_through(&proxy).await;
    ns.install(&component("hostile").await).await;
    for step in ["add-finalizer hostiles", "create ", "delete ", "remove-finalizer hostiles"] {
        for fault in BOTH {
            let kills = proxy.kills() + 1;
            let name = format!("killed{kills}");
            let at_birth = matches!(step, "add-finalizer hostiles" | "create ");
            if at_birth {
                proxy.kill_at(step, 0, fault);
            }
            let object = ns.create(sample::hostile(&name, "configMap")).await;
            if at_birth {
                host = restarted(&ns, &proxy, host, kills).await;
            }
            let born = ns.wait_for(&object, condition("Ready", "True")).await;
            assert_eq!(born["metadata"]["finalizers"], json!(["transom.dev/cleanup"]), "{step} {fault:?}");
            ns.get(of::<ConfigMap>(&name)).await;
            if !at_birth {
                proxy.kill_at(step, 0, fault);
            }
            ns.delete(&object).await;
            if !at_birth {
                host = restarted(&ns, &proxy, host, kills).await;
            }
            ns.wait_gone(&object).await;
            assert_eq!(ns.find(of::<ConfigMap>(&name)).await, None, "leaked after {step} {fault:?}");
        }
    }
    assert_eq!(proxy.kills(), 8);
    assert_nothing_deleted_twice(&proxy);
}
