//! Tenants change what a plugin makes of their objects, and no more than that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use transom_tests::{Namespace, TestCluster, component, condition, of, sample, transom_with_cluster};

use crate::{ready_web, writes};

/// The account that overlays of a test act as: it may overlay Deployments and Services, and patch nothing.
async fn tenant(ns: &Namespace) {
    ns.create(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tenant"}})).await;
    ns.create(role(json!([
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["overlay"]},
        {"apiGroups": [""], "resources": ["services", "configmaps"], "verbs": ["overlay"]},
    ])))
    .await;
    ns.create(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "tenant"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant"},
        "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": ns.name}],
    }))
    .await;
}

fn role(rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "tenant"}, "rules": rules})
}

fn overlay(name: &str, patch: Value) -> Value {
    json!({
        "apiVersion": "transom.dev/v1alpha1", "kind": "Overlay", "metadata": {"name": name},
        "spec": {
            "target": {"apiVersion": "bench.dev/v1", "kind": "Web"}, "serviceAccountName": "tenant",
            "patches": [{"target": {"apiVersion": "apps/v1", "kind": "Deployment"}, "patch": patch}],
        },
    })
}

fn for_web(mut overlay: Value, web: &str) -> Value {
    overlay["spec"]["target"]["name"] = web.into();
    overlay
}

fn paused() -> Value {
    json!({"spec": {"progressDeadlineSeconds": 77}})
}

fn is_paused(deployment: &Value) -> bool {
    deployment["spec"]["progressDeadlineSeconds"] == 77
}

#[tokio::test]
async fn an_overlay_changes_its_primaries_while_it_is_there_and_is_told_so() {
    let ns = TestCluster::shared().await.namespace("overlay").await;
    tenant(&ns).await;
    let host = ns.host().await;
    ns.install(&component("web").await).await;
    let web = ready_web(&ns, "shop").await;
    ready_web(&ns, "other").await;
    host.settle(Duration::from_secs(1)).await;
    let before = host.metrics().await;

    let mut record = for_web(overlay("fast", paused()), "shop");
    let sidecarless = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "web", "env": [{"name": "LOG", "value": "debug"}]}]}}}});
    record["spec"]["patches"][0]["patch"] = json!({"spec": {"progressDeadlineSeconds": 77}});
    record["spec"]["patches"]
        .as_array_mut()
        .unwrap()
        .push(json!({"target": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "sh*"}, "patch": sidecarless}));
    let record = ns.create(record).await;
    let deployment = ns.wait_until(of::<Deployment>("shop"), is_paused).await;
    let containers = &deployment["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().unwrap().len(), 1, "the container is merged, not added");
    assert_eq!(containers[0]["image"], "registry.example/web:1");
    assert!(containers[0]["env"].as_array().unwrap().contains(&json!({"name": "LOG", "value": "debug"})));
    let record = ns.wait_for(&record, condition("Accepted", "True").because("Accepted")).await;
    let record = ns.wait_for(&record, condition("Applied", "True").because("Applied")).await;
    assert_eq!((&record["status"]["matched"], &record["status"]["observedGeneration"]), (&json!(1), &json!(1)));
    let web = ns.wait_for(&web, condition("OverlayApplied", "True").because("Applied")).await;
    ns.wait_for(&web, condition("Synced", "True")).await;

    // only what is selected was looked at again, and only what differs was written
    host.settle(Duration::from_secs(1)).await;
    let after = host.metrics().await;
    let calls = |metrics: &transom_tests::Metrics| metrics.sum("transom_plugin_calls_total", &[]);
    assert!(calls(&after) > calls(&before), "the plugin of the selected object was called");
    assert!(!is_paused(&ns.get(of::<Deployment>("other")).await));
    let start = host.audit.mark();
    ns.merge(
        &record,
        json!({"spec": {"patches": [{"target": {"apiVersion": "apps/v1", "kind": "Deployment"},
        "type": "JSONPatch", "patch": [{"op": "add", "path": "/spec/progressDeadlineSeconds", "value": 78}]}]}}),
    )
    .await;
    ns.wait_until(of::<Deployment>("shop"), |d| d["spec"]["progressDeadlineSeconds"] == 78).await;
    ns.wait_until(&record, |r| r["status"]["observedGeneration"] == 2).await;
    let mut wrote = host.writes_since(start).await;
    wrote.retain(|what, _| !what.ends_with("/status") && !what.contains("subjectaccessreviews"));
    assert_eq!(wrote, writes(&[("patch deployments", 1)]));
    let deployment = ns.get(of::<Deployment>("shop")).await;
    assert_ne!(
        deployment["spec"]["template"]["spec"]["containers"][0]["env"][0]["name"], "LOG",
        "fields that went are gone"
    );

    ns.delete(&record).await;
    ns.wait_until(of::<Deployment>("shop"), |d| d["spec"]["progressDeadlineSeconds"] == 600).await;
    ns.wait_until(&web, |web| {
        let conditions = web["status"]["conditions"].as_array().unwrap();
        !conditions.iter().any(|condition| condition["type"] == "OverlayApplied")
    })
    .await;
    host.settle(Duration::from_secs(1)).await;
    let requests = host.observe(Duration::from_secs(2)).await;
    assert_eq!(requests.all_writes(), writes(&[]), "the host is at rest");
}

#[tokio::test]
async fn an_overlay_that_is_there_first_is_part_of_the_first_apply() {
    let ns = TestCluster::shared().await.namespace("overlay-first").await;
    tenant(&ns).await;
    let host = ns.host().await;
    ns.create(overlay("fast", paused())).await;
    ns.install(&component("web").await).await;
    let web = ns.create(sample::web("shop")).await;
    ns.wait_for(&web, condition("OverlayApplied", "True")).await;
    ns.wait_for(&web, condition("Ready", "True")).await;
    let deployment = ns.get(of::<Deployment>("shop")).await;
    assert_eq!((is_paused(&deployment), &deployment["metadata"]["generation"]), (true, &json!(1)));
    // and it stays so when the host starts again
    host.settle(Duration::from_secs(1)).await;
    drop(host);
    let host = ns.host().await;
    host.settle(Duration::from_secs(1)).await;
    let deployment = ns.get(of::<Deployment>("shop")).await;
    assert_eq!((is_paused(&deployment), &deployment["metadata"]["generation"]), (true, &json!(1)));
}

/// The important attempts of the table in `host/src/overlay/lay/tests.rs`, with the whole host.
#[tokio::test]
async fn attempts_to_reach_further_are_refused_and_the_object_goes_on_without() {
    let ns = TestCluster::shared().await.namespace("overlay-attacks").await;
    tenant(&ns).await;
    let _host = ns.host().await;
    let mut spec = component("web").await.spec();
    spec["overlays"] = json!({"limits": [
        {"path": "spec.replicas", "max": 20},
        {"path": "spec.template.spec.containers[*].image", "values": ["registry.example/**"]},
    ]});
    let record = ns.record("web", spec).await;
    ns.wait_for(&record, condition("Ready", "True")).await;
    let web = ready_web(&ns, "shop").await;
    let good = ns.create(overlay("good", paused())).await;
    ns.wait_for(&good, condition("Applied", "True")).await;
    let untouched = ns.wait_until(of::<Deployment>("shop"), is_paused).await["spec"].clone();

    let pod = |patch: Value| json!({"spec": {"template": {"spec": patch}}});
    let app = |patch: Value| {
        let mut container = json!({"name": "web"});
        container.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
        pod(json!({"containers": [container]}))
    };
    let deep = (0..70).fold(json!("x"), |inner, _| json!({"a": inner}));
    let attempts = [
        ("privileged", app(json!({"securityContext": {"privileged": true}})), "Refused", "securityContext.privileged"),
        ("host-path", pod(json!({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]})), "Refused", "hostPath"),
        ("host-network", pod(json!({"hostNetwork": true})), "Refused", "hostNetwork"),
        ("account", pod(json!({"serviceAccountName": "admin"})), "Refused", "serviceAccountName"),
        ("namespace", json!({"metadata": {"namespace": "kube-system"}}), "Refused", "metadata.namespace"),
        ("owner", json!({"metadata": {"ownerReferences": null}}), "Refused", "metadata.ownerReferences"),
        ("selector", json!({"spec": {"selector": {"matchLabels": {"app": "x"}}}}), "Refused", "spec.selector"),
        ("image", app(json!({"image": "evil.example/x:1"})), "Refused", "image"),
        ("replicas", json!({"spec": {"replicas": 21}}), "Refused", "at most 20"),
        (
            "secret-env",
            app(json!({"env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]})),
            "Refused",
            "secretKeyRef",
        ),
        (
            "sidecar",
            pod(json!({"containers": [{"name": "s", "image": "registry.example/s:1"}]})),
            "Refused",
            "Sidecars",
        ),
        ("huge", json!({"metadata": {"annotations": {"a": "x".repeat(70_000)}}}), "TooLarge", "at most 65536"),
        ("deep", deep, "TooLarge", "levels deep"),
    ];
    for (name, patch, reason, says) in attempts {
        let refused = ns.create(overlay(name, patch)).await;
        let refused = ns.wait_for(&refused, condition("Accepted", "False").because(reason)).await;
        let message = refused["status"]["conditions"][0]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(says), "{name}: {message}");
        let now = ns
            .wait_until(&web, |web| {
                let conditions = web["status"]["conditions"].as_array().cloned().unwrap_or_default();
                conditions.iter().any(|c| {
                    let said = c["message"].as_str().unwrap_or_default();
                    c["type"] == "OverlayApplied" && c["status"] == "False" && said.contains(&format!("{name}: "))
                })
            })
            .await;
        assert_eq!(ns.get(of::<Deployment>("shop")).await["spec"], untouched, "{name}");
        assert!(
            now["status"]["conditions"]
                .as_array()
                .unwrap()
                .iter()
                .any(|c| c["type"] == "Synced" && c["status"] == "True")
        );
        ns.delete(&refused).await;
    }
    ns.wait_for(&web, condition("OverlayApplied", "True")).await;
    // what the API server itself would not take
    let bad = ns.create(overlay("bad", json!({"spec": {"minReadySeconds": "soon"}}))).await;
    let bad = ns.wait_for(&bad, condition("Accepted", "False").because("Rejected")).await;
    let message = bad["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("minReadySeconds"), "{message}");
    ns.wait_for(&web, condition("Synced", "True")).await;
    assert_eq!(ns.get(of::<Deployment>("shop")).await["spec"], untouched);
    ns.wait_for(&good, condition("Applied", "True")).await;
}

/// Also after it was written: rights are looked at again.
#[tokio::test]
async fn an_overlay_does_nothing_that_its_account_may_not_do() {
    let ns = TestCluster::shared().await.namespace("overlay-rights").await;
    let _host = ns.host().await;
    ns.install(&component("web").await).await;
    ready_web(&ns, "shop").await;
    let mut record = overlay("fast", paused());
    record["spec"]["serviceAccountName"] = "default".into();
    let refused = ns.create(record).await;
    let refused = ns.wait_for(&refused, condition("Accepted", "False").because("Forbidden")).await;
    let message = refused["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("ServiceAccount default may neither patch nor overlay a Deployment"), "{message}");
    assert!(!is_paused(&ns.get(of::<Deployment>("shop")).await));

    tenant(&ns).await;
    let record = ns.merge(&refused, json!({"spec": {"serviceAccountName": "tenant"}})).await;
    ns.wait_for(&record, condition("Accepted", "True")).await;
    ns.wait_until(of::<Deployment>("shop"), is_paused).await;

    ns.delete(of::<RoleBinding>("tenant")).await;
    ns.merge(&record, json!({"spec": {"order": 1}})).await; // looked at without waiting for the next round
    ns.wait_until(of::<Deployment>("shop"), |d| d["spec"]["progressDeadlineSeconds"] == 600).await;
    ns.wait_for(&record, condition("Accepted", "False").because("Forbidden")).await;
}

/// Who may write Overlays, but not act as the account, is refused by the API server itself.
#[tokio::test]
async fn nobody_writes_an_overlay_for_an_account_that_is_not_theirs() {
    let ns = TestCluster::shared().await.namespace("overlay-author").await;
    tenant(&ns).await;
    let host = ns.host().await;
    ns.create(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "writer"},
        "rules": [{"apiGroups": ["transom.dev"], "resources": ["overlays"], "verbs": ["create", "update", "patch", "get"]}],
    }))
    .await;
    let user = format!("jane-{}", ns.name);
    ns.create(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "writer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "writer"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
    }))
    .await;
    // the policy is in force when the host has accepted an overlay
    ns.install(&component("web").await).await;
    let first = ns.create(overlay("first", paused())).await;
    ready_web(&ns, "shop").await;
    ns.wait_for(&first, condition("Accepted", "True")).await;

    let jane = ns.client_as(&user).await;
    let api: Api<DynamicObject> = Api::namespaced_with(jane, &ns.name, &of::<sample::Overlay>("").resource());
    let write = async |name: &str| {
        let object: DynamicObject = serde_json::from_value(overlay(name, paused())).unwrap();
        api.create(&Default::default(), &object).await.map(drop)
    };
    let error = write("hers").await.unwrap_err().to_string();
    assert!(error.contains("may not write overlays that act as the ServiceAccount tenant"), "{error}");
    let change = Patch::Merge(json!({"spec": {"order": 9}}));
    let error = api.patch("first", &PatchParams::default(), &change).await.unwrap_err().to_string();
    assert!(error.contains("may not write overlays that act as"), "{error}");
    // what is no change of the spec is not its business
    let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    api.patch("first", &PatchParams::default(), &label).await.unwrap();

    let rules = json!([
        {"apiGroups": ["transom.dev"], "resources": ["overlays"], "verbs": ["create", "update", "patch", "get"]},
        {"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["tenant"], "verbs": ["impersonate"]},
    ]);
    ns.merge(of::<Role>("writer"), json!({"rules": rules})).await;
    let granted = async {
        while write("hers").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(transom_tests::DEADLINE, granted).await.expect("she may, with the right");
    drop(host);
}

/// No overlay: not one request, and the counter is all that is looked at.
#[tokio::test]
async fn without_overlays_nothing_is_asked_of_the_api_server() {
    let ns = TestCluster::shared().await.namespace("overlay-none").await;
    let host = ns.host().await;
    ns.install(&component("web").await).await;
    let start = host.audit.mark();
    let web = ready_web(&ns, "shop").await;
    ns.merge(&web, json!({"spec": {"replicas": 3}})).await;
    ns.wait_until(of::<Deployment>("shop"), |d| d["spec"]["replicas"] == 3).await;
    host.settle(Duration::from_secs(1)).await;
    let requests = host.audit.since(start);
    let asked = |what: &BTreeMap<String, usize>| {
        what.keys().filter(|key| key.contains("overlays") || key.contains("accessreviews")).cloned().collect::<Vec<_>>()
    };
    assert_eq!((asked(&requests.all_writes()), asked(&requests.reads())), (vec![], vec![]));
}

#[tokio::test]
async fn explain_says_which_overlay_put_a_field_there() {
    let ns = TestCluster::shared().await.namespace("overlay-explain").await;
    tenant(&ns).await;
    let host = ns.host().await;
    ns.install(&component("web").await).await;
    let record = ns.create(overlay("fast", paused())).await;
    ready_web(&ns, "shop").await;
    ns.wait_for(&record, condition("Applied", "True")).await;
    let address = host.logged("serving recordings")[0]["address"].as_str().unwrap().to_owned();
    let explain = async |field: &str| -> Value {
        let arguments = ["explain", "Web", "shop", field, "-n", &ns.name, "--host", &address, "-o", "json"];
        serde_json::from_str(&transom_with_cluster(&arguments).await.printed()).unwrap()
    };
    let field = explain("Deployment/shop:spec.progressDeadlineSeconds").await["field"].clone();
    assert_eq!((&field["from"], &field["state"]), (&json!("overlay"), &json!("as asked")), "{field:#}");
    assert_eq!(field["overlay"], json!({"name": "fast", "patch": "spec.patches[0]"}));
    let field = explain("Deployment/shop:spec.replicas").await["field"].clone();
    assert_eq!((&field["from"], &field["overlay"]), (&json!("plugin"), &Value::Null), "{field:#}");
}

#[tokio::test]
async fn render_asks_the_api_server_whether_it_would_take_the_result() {
    let ns = TestCluster::shared().await.namespace("overlay-render").await;
    let (web, folder) = (component("web").await, tempfile::tempdir().unwrap());
    let render = async |patch: Value| {
        let mut record = overlay("preview", patch);
        record["metadata"]["namespace"] = ns.name.clone().into();
        let (object, file) = (folder.path().join("web.json"), folder.path().join("overlay.json"));
        std::fs::write(&object, sample::web("shop").to_string()).unwrap();
        std::fs::write(&file, record.to_string()).unwrap();
        let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        let (plugin, object, file) = (path(&web.path), path(&object), path(&file));
        let arguments =
            ["render", "--plugin", &plugin, "-f", &object, "-n", &ns.name, "--overlay", &file, "--dry-run", "server"];
        transom_with_cluster(&arguments).await
    };
    render(paused()).await.succeeded();
    let refused = render(json!({"spec": {"minReadySeconds": -1}})).await;
    assert!(refused.code != Some(0) && refused.stderr.contains("minReadySeconds"), "{}", refused.stderr);
    assert_eq!(ns.list::<Deployment>().await, Vec::<Value>::new(), "nothing was written");
}

/// What the host makes of a patch is what the API server makes of it.
#[tokio::test]
async fn a_strategic_merge_patch_means_what_it_means_to_the_api_server() {
    use transom::overlay::{schema::Type, strategic};
    use transom::plan::contract::TypeMeta;

    let ns = TestCluster::shared().await.namespace("overlay-strategic").await;
    let pod = json!({
        "terminationGracePeriodSeconds": 30, "nodeSelector": {"a": "b", "c": "d"},
        "tolerations": [{"key": "t", "operator": "Exists"}],
        "containers": [
            {"name": "web", "image": "a", "args": ["x", "y"], "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "ports": [{"containerPort": 80, "name": "http", "protocol": "TCP"}, {"containerPort": 81, "name": "more"}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            {"name": "log", "image": "b"}, {"name": "last", "image": "c"},
        ],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {"name": "w"}}],
        "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a"]}],
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "namespace": ns.name, "labels": {"app": "d", "x": "y"}, "finalizers": ["a.example/a", "a.example/b"]},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": "d"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": pod},
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "d", "namespace": ns.name},
        "spec": {"selector": {"app": "d"}, "ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]},
    });
    let cron = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "d", "namespace": ns.name},
        "spec": {"schedule": "1 1 1 1 1", "suspend": true, "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]}}}}},
    });
    let container = |patch: Value| json!({"spec": {"template": {"spec": {"containers": [patch]}}}});
    let spec = |patch: Value| json!({"spec": {"template": {"spec": patch}}});
    let patches = [
        (&deployment, json!({"spec": {"replicas": null, "minReadySeconds": 5}})),
        (&deployment, json!({"metadata": {"labels": {"x": null, "z": "1"}, "finalizers": ["a.example/c"]}})),
        (&deployment, json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a.example/a"]}})),
        (&deployment, json!({"metadata": {"labels": {"$patch": "replace", "only": "1"}}})),
        (&deployment, container(json!({"name": "log", "image": "z", "env": [{"name": "N", "value": "1"}]}))),
        (&deployment, container(json!({"name": "new", "image": "z"}))),
        (&deployment, container(json!({"name": "log", "$patch": "delete"}))),
        (
            &deployment,
            container(
                json!({"name": "web", "args": ["z"], "env": [{"name": "B", "value": "9"}, {"name": "C", "value": "3"}]}),
            ),
        ),
        (
            &deployment,
            container(json!({"name": "web", "ports": [{"containerPort": 82}, {"containerPort": 80, "name": "http2"}]})),
        ),
        (
            &deployment,
            container(
                json!({"name": "web", "env": [{"name": "A", "$patch": "delete"}, {"$patch": "replace"}, {"name": "Z", "value": "1"}]}),
            ),
        ),
        (
            &deployment,
            container(
                json!({"name": "web", "volumeMounts": [{"mountPath": "/v", "readOnly": true}, {"mountPath": "/w", "name": "w"}]}),
            ),
        ),
        (&deployment, spec(json!({"containers": [{"$patch": "replace"}, {"name": "only", "image": "q"}]}))),
        (
            &deployment,
            spec(
                json!({"containers": [{"name": "last", "image": "1"}, {"name": "new", "image": "2"}, {"name": "web", "image": "3"}]}),
            ),
        ),
        (
            &deployment,
            spec(json!({"$setElementOrder/containers": [{"name": "last"}, {"name": "web"}, {"name": "log"}]})),
        ),
        (
            &deployment,
            spec(json!({"$setElementOrder/containers": [{"name": "last"}, {"name": "new"}, {"name": "web"}],
            "containers": [{"name": "new", "image": "2"}]})),
        ),
        (&deployment, spec(json!({"volumes": [{"name": "w", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]}))),
        (&deployment, spec(json!({"volumes": [{"name": "u", "emptyDir": {}}, {"name": "v", "$patch": "delete"}]}))),
        (
            &deployment,
            spec(json!({"tolerations": [{"key": "u", "operator": "Exists"}], "nodeSelector": {"a": null, "e": "f"}})),
        ),
        (&deployment, spec(json!({"nodeSelector": {"$patch": "delete"}}))),
        (
            &deployment,
            spec(
                json!({"hostAliases": [{"ip": "1.1.1.1", "hostnames": ["b"]}, {"ip": "2.2.2.2", "hostnames": ["c"]}]}),
            ),
        ),
        (&deployment, spec(json!({"affinity": {"nodeAffinity": null, "podAffinity": {}}}))),
        (&deployment, json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}})),
        (&service, json!({"spec": {"ports": [{"port": 81, "name": "c"}, {"port": 82, "name": "d"}]}})),
        (
            &service,
            json!({"spec": {"ports": [{"port": 80, "$patch": "delete"}], "selector": {"$patch": "replace", "q": "r"}}}),
        ),
        (
            &cron,
            json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "y"}]}}}}}}),
        ),
    ];
    for object in [&deployment, &service, &cron] {
        ns.create(object.clone()).await;
    }
    for (object, patch) in &patches {
        let live = ns.get(*object).await;
        let kind = TypeMeta::new(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let mut ours = live.clone();
        strategic::merge(&mut ours, patch, Type::of(&kind).unwrap()).unwrap();
        // both through the API server, so that both have its defaults
        let theirs = ns.dry_patch(*object, &Patch::Strategic(patch.clone())).await;
        ours["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        let ours = ns.dry_replace(ours).await;
        assert_eq!(comparable(ours), comparable(theirs), "{patch:#}");
    }
    // and what it refuses is refused
    for patch in [container(json!({"image": "no-name"})), container(json!({"name": "web", "$patch": "explode"}))] {
        let mut ours = ns.get(&deployment).await;
        let ours = strategic::merge(&mut ours, &patch, Type::of(&TypeMeta::new("apps/v1", "Deployment")).unwrap());
        assert!(ours.is_err() && ns.dry_patch(&deployment, &Patch::Strategic(patch.clone())).await.is_err(), "{patch}");
    }
    ns.merge(&deployment, json!({"metadata": {"finalizers": null}})).await;
}

/// What a patch can change; the Deployment's own controller writes besides.
fn comparable(result: Result<Value, String>) -> Result<Value, String> {
    result.map(|object| {
        let metadata = &object["metadata"];
        json!({"labels": metadata["labels"], "finalizers": metadata["finalizers"], "spec": object["spec"]})
    })
}

/// `host/src/overlay/schema.json` is what this API server says. Written again with `TRANSOM_UPDATE_SCHEMA=1`.
#[tokio::test]
async fn the_table_of_merge_keys_is_the_api_servers() {
    let ns = TestCluster::shared().await.namespace("overlay-schema").await;
    let request = http::Request::get("/openapi/v2").body(Vec::new()).unwrap();
    let document: Value = ns.client_as("system:kube-scheduler").await.request(request).await.unwrap();
    let fresh = distill(&document["definitions"]);
    if std::env::var_os("TRANSOM_UPDATE_SCHEMA").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../host/src/overlay/schema.json");
        std::fs::write(path, format!("{}\n", serde_json::to_string_pretty(&fresh).unwrap())).unwrap();
        return;
    }
    let committed: Value = serde_json::from_str(transom::overlay::schema::TABLE).unwrap();
    assert!(fresh == committed, "run it with TRANSOM_UPDATE_SCHEMA=1 and look at what differs");
}

/// The kinds of Kubernetes itself with those of their fields that have a patch strategy, or lead to one.
fn distill(definitions: &Value) -> Value {
    let definitions = definitions.as_object().unwrap();
    let is_own = |name: &String| name.starts_with("io.k8s.");
    let mut types = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    for (name, definition) in definitions.iter().filter(|(name, _)| is_own(name)) {
        let [gvk] = definition["x-kubernetes-group-version-kind"].as_array().map_or(&[][..], Vec::as_slice) else {
            continue;
        };
        let text = |field: &str| gvk[field].as_str().unwrap_or_default();
        let is_kind = definition["properties"].get("metadata").is_some() && !text("kind").ends_with("List");
        if is_kind && leads_somewhere(definitions, name, &mut types, &BTreeSet::new()) {
            let group = if text("group").is_empty() { String::new() } else { format!("{}/", text("group")) };
            kinds.insert(format!("{group}{} {}", text("version"), text("kind")), name.clone());
        }
    }
    types.retain(|_, fields: &mut BTreeMap<String, Value>| !fields.is_empty());
    let mut used = BTreeSet::new();
    let mut open: Vec<String> = kinds.values().cloned().collect();
    while let Some(name) = open.pop() {
        if used.insert(name.clone()) {
            open.extend(types[&name].values().filter_map(|field| field["type"].as_str().map(str::to_owned)));
        }
    }
    types.retain(|name, _| used.contains(name));
    json!({"kinds": kinds, "types": types})
}

fn leads_somewhere(
    definitions: &serde_json::Map<String, Value>,
    name: &str,
    types: &mut BTreeMap<String, BTreeMap<String, Value>>,
    above: &BTreeSet<String>,
) -> bool {
    if let Some(fields) = types.get(name) {
        return !fields.is_empty();
    }
    if above.contains(name) {
        return false;
    }
    let mut here = above.clone();
    here.insert(name.to_owned());
    let mut fields = BTreeMap::new();
    let properties = definitions.get(name).and_then(|d| d["properties"].as_object()).into_iter().flatten();
    for (field, property) in properties.filter(|(field, _)| *field != "status" && *field != "managedFields") {
        let is_list = property["type"] == "array";
        let reference = if is_list { &property["items"]["$ref"] } else { &property["$ref"] };
        let target = reference.as_str().and_then(|reference| reference.rsplit('/').next());
        let mut entry = serde_json::Map::new();
        if let Some(target) = target.filter(|target| leads_somewhere(definitions, target, types, &here)) {
            entry.insert("type".into(), target.into());
        }
        let strategy = property["x-kubernetes-patch-strategy"].as_str().unwrap_or_default();
        if is_list && strategy.split(',').any(|s| s == "merge") {
            let key = property["x-kubernetes-patch-merge-key"].as_str().unwrap_or_default();
            entry.insert("merge".into(), key.into());
        }
        if strategy.split(',').any(|s| s == "replace") {
            entry.insert("replace".into(), true.into());
        }
        if !entry.is_empty() {
            fields.insert(field.clone(), Value::Object(entry));
        }
    }
    let leads = !fields.is_empty();
    types.insert(name.to_owned(), fields);
    leads
}
