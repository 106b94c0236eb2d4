//! The plugin `domain` on a real API server: what it refuses, and what it makes beside Job, Deployment and Service. Pods
//! are kwok's.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};
use transom_tests::{Host, Namespace, TestCluster, component, condition, condition_of, of, sample};

use crate::ready_domain;

async fn served(name: &str) -> (Namespace, Host) {
    let ns = TestCluster::shared().await.namespace(name).await;
    let host = ns.host().await;
    ns.install(&component("domain").await).await;
    (ns, host)
}

#[tokio::test]
async fn d1_the_api_server_fills_in_defaults_and_names_field_and_fix_of_what_it_refuses() {
    let (ns, _host) = served("d1-fields").await;
    let stored = ns.create(sample::domain("orders")).await;
    let expected = json!({
        "image": "registry.example/domain:1", "imagePullPolicy": "IfNotPresent", "replicas": 2,
        "db": {
            "clusterRef": "cnpg/orders", "schema": "main", "migrationJobImage": "registry.example/migrator:1",
            "retention": "Retain", "migrationTimeout": "10m",
        },
        "resources": { "cpu": "100m", "memory": "256Mi" },
        "observability": { "logLevel": "info", "serviceMonitor": false },
        "security": { "networkProfile": "backend" },
        "rollout": { "strategy": "RollingUpdate" },
    });
    assert_eq!(stored["spec"], expected);

    let refused = [
        (json!({ "image": "" }), "spec.image"),
        (json!({ "replicas": -1 }), "spec.replicas"),
        (json!({ "db": { "clusterRef": "orders" } }), "spec.db.clusterRef"),
        (json!({ "db": { "schema": "Orders" } }), "spec.db.schema"),
        (
            json!({ "db": { "schema": "public" } }),
            "spec.db.schema: Invalid value: must not be public, information_schema or begin with pg_: a Domain needs a \
             schema of its own",
        ),
        (json!({ "db": { "retention": "Forget" } }), "spec.db.retention"),
        (json!({ "db": { "migrationTimeout": "ten minutes" } }), "spec.db.migrationTimeout"),
        (json!({ "resources": { "cpu": "much" } }), "spec.resources.cpu"),
        (
            json!({ "autoscaling": { "minReplicas": 4, "maxReplicas": 3 } }),
            "spec.autoscaling.minReplicas: Invalid value: must not be greater than maxReplicas: lower it or raise \
             spec.autoscaling.maxReplicas",
        ),
        (json!({ "autoscaling": { "maxReplicas": 3, "targetCPU": 0 } }), "spec.autoscaling.targetCPU"),
        (json!({ "autoscaling": {} }), "spec.autoscaling.maxReplicas: Required value"),
        (json!({ "observability": { "logLevel": "chatty" } }), "spec.observability.logLevel"),
        (json!({ "security": { "networkProfile": "none" } }), "spec.security.networkProfile"),
        (json!({ "rollout": { "strategy": "BlueGreen" } }), "spec.rollout.strategy"),
        (
            json!({ "rollout": { "canary": { "steps": [{ "duration": "5m" }] } } }),
            "spec.rollout.canary: Invalid value: needs the strategy Canary: set spec.rollout.strategy to Canary or \
             remove it",
        ),
        (json!({ "rollout": { "strategy": "Canary", "canary": { "steps": [] } } }), "spec.rollout.canary.steps"),
    ];
    for (change, message) in refused {
        let mut domain = sample::domain("refused");
        merge(&mut domain["spec"], &change);
        let error = ns.try_create(domain).await.expect_err(&format!("{change} is not valid"));
        let said = error.message.replace("Invalid value: \"object\": ", "Invalid value: ");
        let said = said.replace("Invalid value: \"public\": ", "Invalid value: ");
        assert!(said.contains(message), "{change}: {}", error.message);
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from.clone(),
    }
}

#[tokio::test]
async fn d5_every_network_profile_is_as_the_api_server_stores_it() {
    let (ns, host) = served("d5-network").await;
    let orders = ready_domain(&ns, "orders").await;
    let grpc = json!([{ "port": 50051, "protocol": "TCP" }]);
    let everywhere = json!([{ "namespaceSelector": {} }]);
    let dns = json!([{ "port": 53, "protocol": "UDP" }, { "port": 53, "protocol": "TCP" }]);
    let database = json!([{ "podSelector": { "matchLabels": { "cnpg.io/cluster": "orders" } } }]);
    let profiles = [
        (
            "backend",
            json!({ "ingress": [{ "from": [{ "podSelector": {} }], "ports": grpc }], "policyTypes": ["Ingress"] }),
        ),
        ("internal", json!({ "ingress": [{ "from": everywhere, "ports": grpc }], "policyTypes": ["Ingress"] })),
        (
            "isolated",
            json!({
                "egress": [
                    { "to": database, "ports": [{ "port": 5432, "protocol": "TCP" }] },
                    { "ports": dns },
                ],
                "policyTypes": ["Ingress", "Egress"],
            }),
        ),
        ("open", json!({ "ingress": [{}], "policyTypes": ["Ingress"] })),
    ];
    for (profile, mut expected) in profiles {
        let change = json!({ "spec": { "security": { "networkProfile": profile } } });
        let orders = ns.merge(&orders, change).await;
        ns.wait_for(&orders, condition("Ready", "True")).await;
        let selected = json!({ "app.kubernetes.io/instance": "orders", "app.kubernetes.io/name": "domain" });
        expected["podSelector"] = json!({ "matchLabels": selected });
        ns.wait_until(of::<NetworkPolicy>("orders"), |policy| policy["spec"] == expected).await;
    }
    host.settle(Duration::from_secs(2)).await;
    assert_eq!(ns.get(of::<PodDisruptionBudget>("orders")).await["spec"]["maxUnavailable"], 1);
}

#[tokio::test]
async fn d5_an_autoscaler_decides_about_replicas_once_it_has_scaled() {
    let (ns, host) = served("d5-scale").await;
    let orders = ready_domain(&ns, "orders").await;
    let replicas = |count: i64| move |deployment: &Value| deployment["spec"]["replicas"] == count;
    ns.wait_until(of::<Deployment>("orders"), replicas(2)).await;

    // Within its bounds nothing happens, and nothing falls back to one pod.
    let recording = ns.recording(of::<Deployment>("orders")).await;
    let bounds = json!({ "spec": { "autoscaling": { "minReplicas": 1, "maxReplicas": 5 } } });
    let orders = ns.merge(&orders, bounds).await;
    ns.wait_until(of::<HorizontalPodAutoscaler>("orders"), |hpa| hpa["spec"]["maxReplicas"] == 5).await;
    ns.wait_for(&orders, condition("Ready", "True")).await;
    host.settle(Duration::from_secs(1)).await;
    assert_eq!(ns.get(of::<Deployment>("orders")).await["spec"]["replicas"], 2);

    // The real autoscaler of the control plane raises it to the minimum.
    let orders = ns.merge(&orders, json!({ "spec": { "autoscaling": { "minReplicas": 4 } } })).await;
    ns.wait_until(of::<Deployment>("orders"), replicas(4)).await;
    ns.wait_until(of::<HorizontalPodAutoscaler>("orders"), |hpa| hpa["status"]["lastScaleTime"].is_string()).await;
    let owns = |deployment: &Value| {
        let managers = deployment["metadata"]["managedFields"].as_array().into_iter().flatten();
        let ours = |entry: &&Value| entry["manager"].as_str().is_some_and(|name| name.starts_with("transom"));
        managers.clone().filter(ours).any(|entry| entry["fieldsV1"]["f:spec"]["f:replicas"].is_object())
    };
    ns.wait_until(of::<Deployment>("orders"), |deployment| !owns(deployment)).await;
    let orders = ns.merge(&orders, json!({ "spec": { "image": "registry.example/domain:2" } })).await;
    ns.wait_for(&orders, condition("Ready", "True")).await;
    let last = ns.get(of::<Deployment>("orders")).await;
    let replicas = |deployment: &Value| deployment["spec"]["replicas"].clone();
    let seen = recording.changes_until(|deployment| deployment == Some(&last), replicas).await;
    assert_eq!(seen, [Some(json!(2)), Some(json!(4))], "never one pod in between");

    // Without the autoscaler the spec counts again.
    let orders = ns.merge(&orders, json!({ "spec": { "autoscaling": null, "replicas": 3 } })).await;
    ns.wait_for(&orders, condition("Ready", "True")).await;
    assert_eq!(ns.get(of::<Deployment>("orders")).await["spec"]["replicas"], 3);
    ns.wait_gone(of::<HorizontalPodAutoscaler>("orders")).await;
}

#[tokio::test]
async fn d5_a_service_monitor_follows_when_its_kind_appears() {
    let (ns, host) = served("d5-monitor").await;
    let definition = sample::service_monitor_definition();
    assert_eq!(ns.find(&definition).await, None, "this test makes it");
    ns.create(sample::database("orders")).await;
    ns.create(sample::credentials("orders")).await;
    let mut orders = sample::domain("orders");
    orders["spec"]["observability"] = json!({ "serviceMonitor": true });
    let orders = ns.create(orders).await;
    let ready = ns.wait_for(&orders, condition("Ready", "True")).await;
    assert_eq!(condition_of(&ready, "Synced")["status"], "True", "a kind that is not there is no failure");
    let ports = &ns.get(of::<Service>("orders")).await["spec"]["ports"];
    assert_eq!(ports.as_array().unwrap().iter().map(|port| &port["name"]).collect::<Vec<_>>(), ["grpc", "metrics"]);

    let made = ns.create(definition).await;
    let monitor = ns.wait_until(of::<sample::ServiceMonitor>("orders"), |_| true).await;
    assert_eq!(monitor["spec"]["endpoints"], json!([{ "port": "metrics", "path": "/metrics" }]));
    host.settle(Duration::from_secs(1)).await;
    let drifted = ns.merge(&monitor, json!({ "spec": { "endpoints": [] } })).await;
    ns.wait_until(&drifted, |now| now["spec"] == monitor["spec"]).await;

    let orders = ns.merge(&orders, json!({ "spec": { "observability": { "serviceMonitor": false } } })).await;
    ns.wait_gone(&monitor).await;
    ns.wait_for(&orders, condition("Ready", "True")).await;
    ns.delete(&orders).await;
    ns.wait_gone(&orders).await;
    ns.delete(&made).await;
}

fn image(deployment: &Value) -> &str {
    deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn d5_a_canary_runs_beside_the_stable_version_and_is_promoted_after_its_steps() {
    let (ns, _host) = served("d5-canary").await;
    let orders = ready_domain(&ns, "orders").await;
    let steps = json!([{ "replicas": 1, "duration": "2s" }, { "replicas": 2, "duration": "2s" }]);
    let change = json!({ "image": "registry.example/domain:2", "rollout": { "strategy": "Canary", "canary": { "steps": steps } } });
    let (stable, canary) = (of::<Deployment>("orders"), of::<Deployment>("orders-canary"));
    let orders = ns.merge(&orders, json!({ "spec": change })).await;
    let of_step = |replicas: i64| {
        move |deployment: &Value| {
            image(deployment) == "registry.example/domain:2" && deployment["spec"]["replicas"] == replicas
        }
    };
    ns.wait_until(canary.clone(), of_step(1)).await;
    let recording = ns.recording(canary.clone()).await;
    assert_eq!(image(&ns.get(stable.clone()).await), "registry.example/domain:1", "held");
    let second = ns.wait_until(canary.clone(), of_step(2)).await;
    assert_eq!(image(&ns.get(stable.clone()).await), "registry.example/domain:1", "held");
    assert_eq!(second["spec"]["selector"]["matchLabels"]["ameide.io/track"], "canary");
    let during = ns.wait_for(&orders, condition("Progressing", "True").because("Canary")).await;
    assert_eq!(condition_of(&during, "Ready")["status"], "True", "the version before serves");

    ns.wait_until(stable.clone(), |deployment| image(deployment) == "registry.example/domain:2").await;
    ns.wait_gone(canary).await;
    let generations: Vec<i64> = recording
        .changes_until(|canary| canary.is_none(), |canary| canary["metadata"]["generation"].clone())
        .await
        .into_iter()
        .filter_map(|generation| generation?.as_i64())
        .collect();
    let last = generations.iter().max().copied().unwrap_or_default();
    assert!((3..=10).contains(&last), "two steps and a few notes, no endless writing: {generations:?}");
    let done = ns.wait_for(&orders, condition("Progressing", "False")).await;
    assert_eq!(condition_of(&done, "Ready")["status"], "True");
    assert_eq!(done["status"]["canary"], Value::Null);
}

#[tokio::test]
async fn d5_a_canary_that_does_not_get_healthy_is_not_promoted_and_goes_when_the_image_goes_back() {
    let (ns, host) = served("d5-bad-canary").await;
    let orders = ready_domain(&ns, "orders").await;
    let steps = json!([{ "replicas": 1, "duration": "1s" }]);
    let change = json!({ "image": sample::BY_HAND, "rollout": { "strategy": "Canary", "canary": { "steps": steps } } });
    let orders = ns.merge(&orders, json!({ "spec": change })).await;
    let canary = ns.wait_until(of::<Deployment>("orders-canary"), |_| true).await;
    host.settle(Duration::from_secs(3)).await;
    assert_eq!(image(&ns.get(of::<Deployment>("orders")).await), "registry.example/domain:1");
    let waiting = ns.wait_for(&orders, condition("Progressing", "True").because("Canary")).await;
    assert_eq!(waiting["status"]["canary"], json!({ "step": 1, "steps": 1, "replicas": 1 }));

    let orders = ns.merge(&orders, json!({ "spec": { "image": "registry.example/domain:1" } })).await;
    ns.wait_gone(&canary).await;
    ns.wait_for(&orders, condition("Ready", "True")).await;
    assert_eq!(image(&ns.get(of::<Deployment>("orders")).await), "registry.example/domain:1");
}
