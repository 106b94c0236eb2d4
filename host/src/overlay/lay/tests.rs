use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::super::testing::any_json;
use super::*;
use crate::api::overlay::{PathRule, Permission, ValueLimit};

fn overlay(name: &str, order: i32, patches: Value) -> Arc<Given> {
    let spec = json!({"target": {"apiVersion": "g.io/v1", "kind": "Shop"}, "order": order, "patches": patches});
    let metadata = json!({"name": name, "namespace": "n", "uid": format!("uid-{name}"), "generation": 1});
    let record = json!({"apiVersion": "transom.dev/v1alpha1", "kind": "Overlay", "metadata": metadata, "spec": spec});
    Arc::new(Given::of(&serde_json::from_value(record).unwrap(), "n"))
}

fn deployment_patch(type_: &str, patch: Value) -> Value {
    json!([{"target": {"apiVersion": "apps/v1", "kind": "Deployment"}, "type": type_, "patch": patch}])
}

fn child(kind: (&str, &str), namespace: &str, name: &str, rest: Value) -> Arc<Desired> {
    let mut body = json!({
        "apiVersion": kind.0, "kind": kind.1,
        "metadata": {
            "name": name, "labels": {"app": name, names::OWNER_LABEL: "u", names::PLUGIN_LABEL: "p"},
            "annotations": {}, "ownerReferences": [{"uid": "u"}],
        },
    });
    json::merge(&mut body, &rest);
    if !namespace.is_empty() {
        body["metadata"]["namespace"] = namespace.into();
    }
    let digest = digest(&body);
    body["metadata"]["annotations"][names::APPLIED_ANNOTATION] = digest.clone().into();
    let reference = ObjectRef { kind: TypeMeta::new(kind.0, kind.1), namespace: namespace.into(), name: name.into() };
    let disposition = Disposition::Apply;
    Arc::new(Desired {
        reference,
        body,
        digest,
        disposition,
        keep: false,
        adopt: false,
        replace: true,
        set_once: vec![],
    })
}

/// What a plugin would ask for: hardened, with a Secret in its environment.
fn children() -> Vec<Arc<Desired>> {
    let pod = json!({
        "serviceAccountName": "shop", "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "app", "image": "registry.example/shop:1", "args": ["serve"],
            "env": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "shop", "key": "password"}}}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        }],
        "volumes": [{"name": "creds", "secret": {"secretName": "shop"}}, {"name": "tmp", "emptyDir": {}}],
    });
    let deployment = json!({"spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "shop"}},
        "template": {"metadata": {"labels": {"app": "shop", "team": "a"}}, "spec": pod},
    }});
    vec![
        child(("apps/v1", "Deployment"), "n", "shop", deployment),
        child(("v1", "Service"), "n", "shop", json!({"spec": {"selector": {"app": "shop"}, "ports": [{"port": 80}]}})),
        child(("v1", "ConfigMap"), "n", "shop", json!({"data": {"secretName": "x", "mode": "a"}})),
        child(("v1", "Secret"), "n", "shop", json!({"data": {"a": "YQ=="}})),
        child(("v1", "ServiceAccount"), "n", "shop", json!({})),
        child(("rbac.authorization.k8s.io/v1", "Role"), "n", "shop", json!({"rules": []})),
        child(("rbac.authorization.k8s.io/v1", "ClusterRole"), "", "shop", json!({"rules": []})),
        child(("networking.k8s.io/v1", "NetworkPolicy"), "n", "shop", json!({"spec": {"podSelector": {}}})),
        child(
            ("postgresql.cnpg.io/v1", "Cluster"),
            "n",
            "shop",
            json!({"spec": {"instances": 1, "env": [{"name": "A"}]}}),
        ),
        child(("apps/v1", "Deployment"), "other", "shop", json!({"spec": {"replicas": 1}})),
    ]
}

fn rules() -> OverlayRules {
    let limit = |path: &str, max: Option<&str>, values: &[&str]| ValueLimit {
        kind: None,
        path: path.into(),
        min: None,
        max: max.map(|max| k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(max.into())),
        values: values.iter().map(ToString::to_string).collect(),
    };
    OverlayRules {
        deny: vec![PathRule { kind: Some("Deployment".into()), path: "**.args".into() }],
        limits: vec![
            limit("spec.replicas", Some("20"), &[]),
            limit("**.resources.limits.cpu", Some("4"), &[]),
            limit("**.image", None, &["registry.example/**"]),
        ],
        ..OverlayRules::default()
    }
}

fn laid(rules: &OverlayRules, given: &[Arc<Given>]) -> Laid {
    let rails = Rails::new(rules).unwrap();
    lay(Layer { given, rails: &rails, rejected: &|_| None }, &children())
}

fn one(rules: &OverlayRules, patches: Value) -> (Laid, Option<Problem>) {
    let laid = laid(rules, &[overlay("a", 0, patches)]);
    let refused = laid.outcomes[0].refused.clone();
    (laid, refused)
}

#[test]
fn a_patch_changes_what_it_names_and_the_digest_that_is_applied() {
    let patch = json!({"spec": {"replicas": 3, "template": {"spec": {"containers": [
        {"name": "app", "env": [{"name": "LOG", "value": "debug"}]}]}}}});
    let (laid, refused) = one(&rules(), deployment_patch("StrategicMerge", patch));
    assert_eq!(refused, None);
    let (before, after) = (&children()[0], &laid.children[0]);
    assert_eq!(after.body["spec"]["replicas"], 3);
    let env = &after.body["spec"]["template"]["spec"]["containers"][0]["env"];
    assert_eq!(env.as_array().unwrap().len(), 2);
    assert_ne!(after.digest, before.digest);
    assert_eq!(after.body["metadata"]["annotations"][names::APPLIED_ANNOTATION], after.digest.as_str());
    assert!(!after.replace, "no overlay has an object made again");
    assert_eq!(laid.outcomes[0].children, std::slice::from_ref(&before.reference));
    for (before, after) in children().iter().zip(&laid.children).skip(1) {
        assert_eq!(before, after);
    }
    let traced: Vec<String> = laid.traces.iter().map(|trace| trace.path.to_string()).collect();
    assert!(traced.contains(&"spec.replicas".to_owned()), "{traced:?}");
}

#[test]
fn later_overlays_win_and_names_decide_between_equals() {
    let set = |n: u32| deployment_patch("Merge", json!({"spec": {"replicas": n}}));
    let given = [overlay("b", 0, set(4)), overlay("z", -1, set(3)), overlay("a", 0, set(5))];
    let laid = laid(&rules(), &given);
    let order: Vec<&str> = laid.outcomes.iter().map(|o| o.overlay.as_str()).collect();
    assert_eq!((order, &laid.children[0].body["spec"]["replicas"]), (vec!["z", "a", "b"], &json!(4)));
}

#[test]
fn one_overlay_is_whole_or_not_at_all_and_keeps_none_of_the_others_back() {
    let mut patches = deployment_patch("Merge", json!({"spec": {"replicas": 7}}));
    patches.as_array_mut().unwrap().push(deployment_patch("Merge", json!({"spec": {"replicas": 70}}))[0].clone());
    let good = deployment_patch("Merge", json!({"spec": {"paused": true}}));
    let laid = laid(&rules(), &[overlay("bad", 0, patches), overlay("good", 1, good)]);
    let spec = &laid.children[0].body["spec"];
    assert_eq!((&spec["replicas"], &spec["paused"]), (&json!(2), &json!(true)));
    let condition = condition(&laid.outcomes).unwrap();
    assert_eq!((condition.status, condition.reason.as_str()), (Truth::False, "Refused"));
    assert_eq!(
        condition.message,
        "bad: spec.patches[1]: Deployment n/shop: spec.replicas (limit spec.replicas): is 70; must be at most 20"
    );
}

#[test]
fn without_overlays_nothing_is_said_and_nothing_is_copied() {
    let before = children();
    let rails = Rails::default();
    let laid = lay(Layer { given: &[], rails: &rails, rejected: &|_| None }, &before);
    assert!(laid.children.iter().zip(&before).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert_eq!(condition(&laid.outcomes), None);
}

#[test]
fn what_the_api_server_would_not_take_is_left_out() {
    let given = [overlay("a", 0, deployment_patch("Merge", json!({"spec": {"replicas": 3}})))];
    let rails = Rails::default();
    let layer = Layer { given: &given, rails: &rails, rejected: &|_| Some("says why".into()) };
    let laid = lay(layer, &children());
    assert_eq!(laid.outcomes[0].refused, Some(problem("Rejected", "says why")));
    assert_eq!(laid.children[0].body["spec"]["replicas"], 2);
}

#[test]
fn the_record_can_close_overlays_altogether() {
    let rules = OverlayRules { enabled: false, ..OverlayRules::default() };
    let (laid, refused) = one(&rules, deployment_patch("Merge", json!({"spec": {"replicas": 3}})));
    assert_eq!((refused.unwrap().reason.as_str(), laid.children == children()), ("Disabled", true));
}

#[test]
fn only_allowed_fields_are_open_where_the_record_lists_some() {
    let allow = vec![PathRule { kind: None, path: "spec.template.spec.containers[*].resources".into() }];
    let rules = OverlayRules { allow, ..OverlayRules::default() };
    let set =
        |path: &str, value: Value| deployment_patch("JSONPatch", json!([{"op": "add", "path": path, "value": value}]));
    let inside = set("/spec/template/spec/containers/0/resources/requests", json!({"cpu": "1"}));
    assert_eq!(one(&rules, inside).1, None);
    let refused = one(&rules, set("/spec/replicas", json!(3))).1.unwrap();
    assert!(refused.message.contains("spec.replicas (allow)"), "{}", refused.message);
}

#[test]
fn sidecars_need_a_permit_and_must_be_hardened_and_bounded() {
    let sidecar = json!({"name": "s", "image": "registry.example/s:1", "resources": {"limits": {"cpu": "1"}},
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}});
    let add = |sidecar: &Value| {
        let patch = json!({"spec": {"template": {"spec": {"containers": [sidecar]}}}});
        deployment_patch("StrategicMerge", patch)
    };
    let permitted = OverlayRules { permit: vec![Permission::Sidecars], ..rules() };
    assert_eq!(one(&permitted, add(&sidecar)).1, None);
    assert!(one(&rules(), add(&sidecar)).1.unwrap().message.contains("Permission"));
    for (field, rule) in [("securityContext", "Sidecars"), ("resources", "limit **.resources.limits.cpu")] {
        let mut without = sidecar.clone();
        without.as_object_mut().unwrap().remove(field);
        let refused = one(&permitted, add(&without)).1.unwrap();
        assert!(refused.message.contains(rule), "{}", refused.message);
    }
}

#[rstest]
#[case::env_value("StrategicMerge", json!({"spec": {"template": {"spec": {"containers": [
    {"name": "app", "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]}]}}}}))]
#[case::affinity("Merge", json!({"spec": {"template": {"spec": {"affinity": {"podAntiAffinity":
    {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm":
    {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "shop"}}}}]}}}}}}))]
#[case::node_selector("Merge", json!({"spec": {"template": {"spec": {"nodeSelector": {"secret-pool": "a"}}}}}))]
#[case::labels("Merge", json!({"metadata": {"labels": {"cost": "7"}}, "spec": {"template": {"metadata":
    {"labels": {"cost": "7"}, "annotations": {"prometheus.io/scrape": "true"}}}}}))]
#[case::tighter("StrategicMerge", json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "securityContext":
    {"readOnlyRootFilesystem": true, "privileged": false, "capabilities": {"drop": ["ALL", "NET_RAW"]}}}]}}}}))]
#[case::volume("StrategicMerge", json!({"spec": {"template": {"spec": {"volumes": [{"name": "c", "configMap": {"name": "c"}},
    {"name": "p", "projected": {"defaultMode": 420, "sources": [{"configMap": {"name": "c"}}, {"downwardAPI": {"items": []}}]}}]}}}}))]
#[case::image("JSONPatch", json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image",
    "value": "registry.example/team/shop:2"}]))]
fn what_tenants_need_is_open(#[case] type_: &str, #[case] patch: Value) {
    assert_eq!(one(&rules(), deployment_patch(type_, patch)).1, None);
}

/// Data may be called whatever it likes.
#[test]
fn data_of_a_config_map_is_no_field() {
    let patch = json!([{"target": {"apiVersion": "v1", "kind": "ConfigMap"}, "type": "Merge",
        "patch": {"data": {"secretName": "y", "hostPath": "z", "namespace": "w"}}}]);
    assert_eq!(one(&rules(), patch).1, None);
}

mod attacks {
    use super::*;

    fn pod(patch: Value) -> Value {
        json!({"spec": {"template": {"spec": patch}}})
    }

    fn app(mut patch: Value) -> Value {
        patch["name"] = "app".into();
        pod(json!({"containers": [patch]}))
    }

    fn deep(levels: usize) -> Value {
        (0..levels).fold(json!(1), |inner, _| json!({"a": inner}))
    }

    /// Reason, and what the message names: place and rule.
    #[rstest]
    #[case::privileged(app(json!({"securityContext": {"privileged": true}})), "privileged (Privilege)")]
    #[case::escalation(app(json!({"securityContext": {"allowPrivilegeEscalation": true}})), "(Privilege)")]
    #[case::escalation_unset(app(json!({"securityContext": {"allowPrivilegeEscalation": null}})), "(Privilege)")]
    #[case::hardening_deleted(app(json!({"securityContext": {"$patch": "delete"}})), "(Privilege)")]
    #[case::hardening_removed(app(json!({"securityContext": null})), "(Privilege)")]
    #[case::capability(app(json!({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}})), "(Privilege)")]
    #[case::capability_kept(app(json!({"securityContext": {"capabilities": {"drop": []}}})), "(Privilege)")]
    #[case::as_root(app(json!({"securityContext": {"runAsUser": 0}})), "(Privilege)")]
    #[case::pod_as_root(pod(json!({"securityContext": {"runAsNonRoot": false}})), "(Privilege)")]
    #[case::seccomp(pod(json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}})), "(Privilege)")]
    #[case::proc_mount(app(json!({"securityContext": {"procMount": "Unmasked"}})), "(HostAccess)")]
    #[case::sysctl(pod(json!({"securityContext": {"sysctls": [{"name": "a", "value": "b"}]}})), "(HostAccess)")]
    #[case::selinux(pod(json!({"securityContext": {"seLinuxOptions": {"type": "spc_t"}}})), "(Privilege)")]
    #[case::host_path(pod(json!({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]})), "(HostAccess)")]
    #[case::host_path_in_place(pod(json!({"volumes": [{"name": "tmp", "emptyDir": null, "hostPath": {"path": "/"}}]})),
        "(HostAccess)")]
    #[case::host_network(pod(json!({"hostNetwork": true})), "spec.template.spec.hostNetwork (HostAccess)")]
    #[case::host_pid(pod(json!({"hostPID": true})), "(HostAccess)")]
    #[case::host_ipc(pod(json!({"hostIPC": true})), "(HostAccess)")]
    #[case::host_port(app(json!({"ports": [{"containerPort": 80, "hostPort": 80}]})), "(HostAccess)")]
    #[case::device(app(json!({"volumeDevices": [{"name": "d", "devicePath": "/dev/sda"}]})), "(HostAccess)")]
    #[case::csi(pod(json!({"volumes": [{"name": "c", "csi": {"driver": "d"}}]})), "(Volumes)")]
    #[case::nfs(pod(json!({"volumes": [{"name": "c", "nfs": {"server": "s", "path": "/"}}]})), "(Volumes)")]
    #[case::claim(pod(json!({"volumes": [{"name": "c", "persistentVolumeClaim": {"claimName": "theirs"}}]})), "(Permission)")]
    #[case::account(pod(json!({"serviceAccountName": "admin"})), "(ServiceAccount)")]
    #[case::old_account(pod(json!({"serviceAccount": "admin"})), "(ServiceAccount)")]
    #[case::account_token(pod(json!({"automountServiceAccountToken": true})), "(ServiceAccount)")]
    #[case::projected_token(pod(json!({"volumes": [{"name": "t", "projected": {"sources": [
        {"serviceAccountToken": {"path": "t", "audience": "vault"}}]}}]})), "(ServiceAccount)")]
    #[case::projected_bundle(pod(json!({"volumes": [{"name": "t", "projected": {"sources": [
        {"clusterTrustBundle": {"path": "t"}}]}}]})), "(Volumes)")]
    #[case::secret_env(app(json!({"env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "theirs", "key": "k"}}}]})),
        "(Secret)")]
    #[case::secret_env_in_place(app(json!({"env": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "theirs"}}}]})),
        "(Secret)")]
    #[case::secret_env_from(app(json!({"envFrom": [{"secretRef": {"name": "theirs"}}]})), "(Secret)")]
    #[case::secret_volume(pod(json!({"volumes": [{"name": "s", "secret": {"secretName": "theirs"}}]})), "(Secret)")]
    #[case::secret_volume_in_place(pod(json!({"volumes": [{"name": "creds", "secret": {"secretName": "theirs"}}]})), "(Secret)")]
    #[case::secret_projected(pod(json!({"volumes": [{"name": "s", "projected": {"sources": [{"secret": {"name": "x"}}]}}]})),
        "(Secret)")]
    #[case::pull_secret(pod(json!({"imagePullSecrets": [{"name": "theirs"}]})), "(Secret)")]
    #[case::image(app(json!({"image": "evil.example/x"})), "(limit **.image)")]
    #[case::image_beside(app(json!({"image": "registry.example.evil.io/x"})), "(limit **.image)")]
    #[case::image_removed(app(json!({"image": null})), "(limit **.image)")]
    #[case::sidecar(pod(json!({"containers": [{"name": "x", "image": "registry.example/x"}]})), "(Permission)")]
    #[case::init_container(pod(json!({"initContainers": [{"name": "x", "image": "registry.example/x"}]})), "(Permission)")]
    #[case::other_containers(pod(json!({"containers": [{"$patch": "replace"}, {"name": "x", "image": "registry.example/x"}]})),
        "(Containers)")]
    #[case::debug_container(pod(json!({"ephemeralContainers": [{"name": "x"}]})), "(Containers)")]
    #[case::denied_by_record(app(json!({"args": ["rm"]})), "(deny **.args)")]
    #[case::denied_and_removed(app(json!({"args": null})), "(deny **.args)")]
    #[case::too_much_cpu(app(json!({"resources": {"limits": {"cpu": "4001m"}}})), "must be at most 4")]
    #[case::cpu_without_bound(app(json!({"resources": {"limits": {"cpu": null}}})), "cannot be removed")]
    #[case::no_bounds(app(json!({"resources": null})), "cannot be removed")]
    #[case::no_number(json!({"spec": {"replicas": "many"}}), "(limit spec.replicas)")]
    #[case::huge_number(json!({"spec": {"replicas": 1e300}}), "(limit spec.replicas)")]
    #[case::too_many(json!({"spec": {"replicas": 2_000_000}}), "(limit spec.replicas)")]
    #[case::node(pod(json!({"nodeName": "control-plane"})), "(Placement)")]
    #[case::scheduler(pod(json!({"schedulerName": "mine"})), "(Placement)")]
    #[case::tolerations(pod(json!({"tolerations": [{"operator": "Exists"}]})), "(Permission)")]
    #[case::priority(pod(json!({"priorityClassName": "system-node-critical"})), "(Permission)")]
    #[case::runtime(pod(json!({"runtimeClassName": "runc"})), "(Permission)")]
    #[case::selector(json!({"spec": {"selector": {"matchLabels": {"app": "other"}}}}), "(Selector)")]
    #[case::selected_label(json!({"spec": {"template": {"metadata": {"labels": {"app": "other"}}}}}), "(Selector)")]
    #[case::selected_label_gone(json!({"spec": {"template": {"metadata": {"labels": {"app": null}}}}}), "(Selector)")]
    #[case::all_labels_gone(json!({"spec": {"template": {"metadata": {"labels": {"$patch": "delete"}}}}}), "(Selector)")]
    #[case::plugins_label(json!({"spec": {"template": {"metadata": {"labels": {"team": "b"}}}}}), "(Selector)")]
    #[case::foreign_namespaces(pod(json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "k", "namespaces": ["kube-system"]}]}}})), "(Namespace)")]
    #[case::name(json!({"metadata": {"name": "other"}}), "metadata.name (Identity)")]
    #[case::namespace(json!({"metadata": {"namespace": "kube-system"}}), "metadata.namespace (Identity)")]
    #[case::kind(json!({"kind": "Pod"}), "kind (Identity)")]
    #[case::api_version(json!({"apiVersion": "v1"}), "apiVersion (Identity)")]
    #[case::owner(json!({"metadata": {"ownerReferences": [{"uid": "mine"}]}}), "(Identity)")]
    #[case::no_owner(json!({"metadata": {"ownerReferences": null}}), "(Identity)")]
    #[case::finalizer(json!({"metadata": {"finalizers": ["a.b/c"]}}), "(Identity)")]
    #[case::uid(json!({"metadata": {"uid": "x"}}), "(Identity)")]
    #[case::hosts_label(json!({"metadata": {"labels": {"transom.dev/owner-uid": "other"}}}), "(Identity)")]
    #[case::hosts_label_gone(json!({"metadata": {"labels": {"transom.dev/plugin": null}}}), "(Identity)")]
    #[case::hosts_annotation(json!({"metadata": {"annotations": {"transom.dev/applied": "x"}}}), "(Identity)")]
    #[case::keep(json!({"metadata": {"annotations": {"helm.sh/resource-policy": "keep"}}}), "(Identity)")]
    #[case::no_metadata(json!({"metadata": null}), "(Identity)")]
    #[case::apparmor(json!({"spec": {"template": {"metadata": {"annotations":
        {"container.apparmor.security.beta.kubernetes.io/app": "unconfined"}}}}}), "(Privilege)")]
    #[case::status(json!({"status": {"replicas": 1}}), "(Identity)")]
    #[case::everything(json!({"$patch": "replace"}), "(Identity)")]
    fn a_patch_is_refused_with_place_and_rule(#[case] patch: Value, #[case] says: &str) {
        let (laid, refused) = one(&rules(), deployment_patch("StrategicMerge", patch));
        let refused = refused.expect("it is refused");
        assert_eq!((refused.reason.as_str(), refused.message.contains(says)), ("Refused", true), "{}", refused.message);
        assert_eq!(laid.children, children(), "nothing is changed");
        let condition = condition(&laid.outcomes).unwrap();
        assert_eq!((condition.type_.as_str(), condition.status), ("OverlayApplied", Truth::False));
    }

    #[rstest]
    #[case::smuggled(json!([{"op": "copy", "from": "/metadata/ownerReferences", "path": "/spec/selector"}]), "(Selector)")]
    #[case::moved(json!([{"op": "move", "from": "/spec/template/spec/securityContext", "path": "/spec/x"}]), "(Privilege)")]
    #[case::whole(json!([{"op": "replace", "path": "", "value": {"kind": "Pod"}}]), "(Identity)")]
    #[case::no_object(json!([{"op": "replace", "path": "", "value": 1}]), "(Identity)")]
    #[case::by_position(json!([{"op": "add", "path": "/spec/template/spec/containers/-", "value": {"name": "app"}}]),
        "(Permission)")]
    #[case::renamed(json!([{"op": "replace", "path": "/spec/template/spec/containers/0/name", "value": "b"}]), "(Containers)")]
    #[case::containers_as_object(json!([{"op": "replace", "path": "/spec/template/spec/containers", "value": {"x": 1}}]),
        "(Containers)")]
    #[case::annotations_as_text(json!([{"op": "replace", "path": "/metadata/annotations", "value": "x"}]), "(Identity)")]
    #[case::annotation_as_object(json!([{"op": "add", "path": "/metadata/annotations/a", "value": {"b": 1}}]), "(Identity)")]
    #[case::volumes_as_object(json!([{"op": "replace", "path": "/spec/template/spec/volumes", "value": {"a": {}}}]), "(")]
    fn operations_are_refused_by_what_they_lead_to(#[case] patch: Value, #[case] says: &str) {
        let (laid, refused) = one(&rules(), deployment_patch("JSONPatch", patch));
        let refused = refused.expect("it is refused");
        assert_eq!((refused.reason.as_str(), refused.message.contains(says)), ("Refused", true), "{}", refused.message);
        assert_eq!(laid.children, children());
    }

    #[rstest]
    #[case::secret("v1", "Secret", "Refused")]
    #[case::account("v1", "ServiceAccount", "Refused")]
    #[case::role("rbac.authorization.k8s.io/v1", "Role", "Refused")]
    #[case::cluster_role("rbac.authorization.k8s.io/v1", "ClusterRole", "Refused")]
    #[case::isolation("networking.k8s.io/v1", "NetworkPolicy", "Refused")]
    #[case::definition("apiextensions.k8s.io/v1", "CustomResourceDefinition", "Refused")]
    #[case::webhook("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "Refused")]
    #[case::plugin("transom.dev/v1alpha1", "Plugin", "Refused")]
    #[case::namespace("v1", "Namespace", "Refused")]
    fn kinds_that_are_rights_are_closed(#[case] api: &str, #[case] kind: &str, #[case] reason: &str) {
        let patch = json!([{"target": {"apiVersion": api, "kind": kind}, "type": "Merge", "patch": {"rules": [1]}}]);
        let (laid, refused) = one(&rules(), patch);
        let refused = refused.unwrap();
        assert_eq!((refused.reason.as_str(), laid.children == children()), (reason, true));
        assert!(refused.message.contains("(Kind)"), "{}", refused.message);
    }

    #[rstest]
    #[case::external_ip(json!({"spec": {"externalIPs": ["1.2.3.4"]}}), "(Service)")]
    #[case::external_name(json!({"spec": {"externalName": "evil.example", "type": "ExternalName"}}), "(Service)")]
    #[case::exposed(json!({"spec": {"type": "LoadBalancer"}}), "(Permission)")]
    #[case::node_port(json!({"spec": {"ports": [{"port": 80, "nodePort": 30000}]}}), "(Permission)")]
    #[case::selector(json!({"spec": {"selector": {"app": "other"}}}), "(Selector)")]
    fn where_a_service_leads_to_stays(#[case] patch: Value, #[case] says: &str) {
        let patch = json!([{"target": {"apiVersion": "v1", "kind": "Service"}, "type": "Merge", "patch": patch}]);
        let refused = one(&rules(), patch).1.unwrap();
        assert!(refused.message.contains(says), "{}", refused.message);
    }

    #[rstest]
    #[case::secret(json!({"spec": {"superuserSecret": {"name": "theirs"}}}), "(Secret)")]
    #[case::account(json!({"spec": {"serviceAccountTemplate": {"metadata": {"annotations": {"a": "b"}}}}}), "")]
    #[case::host_path(json!({"spec": {"x": [{"hostPath": {"path": "/"}}]}}), "(HostAccess)")]
    #[case::file(json!({"spec": {"endpoints": [{"bearerTokenFile": "/var/run/secrets/token"}]}}), "(Reference)")]
    #[case::namespace(json!({"spec": {"ref": {"name": "a", "namespace": "kube-system"}}}), "(Namespace)")]
    fn kinds_that_nothing_is_known_of_are_guarded_by_name(#[case] patch: Value, #[case] says: &str) {
        let target = json!({"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster"});
        let (laid, refused) = one(&rules(), json!([{"target": target, "patch": patch}]));
        assert!(refused.clone().unwrap().message.contains(says), "{refused:?}");
        assert_eq!(laid.children, children());
    }

    #[rstest]
    #[case::huge(json!({"metadata": {"annotations": {"a": "x".repeat(70_000)}}}), "TooLarge")]
    #[case::deep(deep(100), "TooLarge")]
    #[case::directive(json!({"$patch": "explode"}), "Malformed")]
    #[case::list(json!([{"op": "add"}]), "Malformed")]
    #[case::text(json!("x"), "Malformed")]
    fn what_is_malformed_is_refused_before_it_is_tried(#[case] patch: Value, #[case] reason: &str) {
        let (laid, refused) = one(&rules(), deployment_patch("StrategicMerge", patch));
        assert_eq!((refused.unwrap().reason.as_str(), laid.children == children()), (reason, true));
    }

    #[test]
    fn a_patch_that_grows_without_end_is_stopped() {
        let grow = json!({"op": "copy", "from": "/spec", "path": "/spec/x"});
        let patch = deployment_patch("JSONPatch", Value::Array(vec![grow; 200]));
        let refused = one(&rules(), patch).1.unwrap();
        assert_eq!(refused.reason, "PatchFailed");
    }

    #[test]
    fn overlays_without_number_are_refused() {
        let patch = || deployment_patch("Merge", json!({"spec": {"replicas": 3}}));
        let given: Vec<_> = (0..40).map(|i| overlay(&format!("o{i:02}"), 0, patch())).collect();
        let refused: Vec<_> = laid(&rules(), &given).outcomes.into_iter().filter_map(|o| o.refused).collect();
        assert_eq!((refused.len(), refused[0].reason.as_str()), (8, "TooManyOverlays"));
    }

    #[test]
    fn children_in_other_namespaces_are_out_of_reach() {
        let (laid, refused) = one(&rules(), deployment_patch("Merge", json!({"spec": {"replicas": 3}})));
        assert_eq!((refused, &laid.children[9]), (None, &children()[9]));
        let mut primary = Object { namespace: "n".into(), name: "shop".into(), ..Object::default() };
        let given = overlay("a", 0, deployment_patch("Merge", json!({})));
        let kind = TypeMeta::new("g.io/v2", "Shop");
        assert!(given.selects(&kind, &primary));
        primary.namespace = "other".into();
        assert!(!given.selects(&kind, &primary));
        assert!(!given.selects(&TypeMeta::new("other.io/v1", "Shop"), &Object { namespace: "n".into(), ..primary }));
    }
}

#[test]
fn primaries_are_selected_by_name_or_labels() {
    let primary = |name: &str, labels: Value| {
        let text = json!({"metadata": {"name": name, "namespace": "n", "labels": labels}}).to_string();
        Object::parse(&text).unwrap()
    };
    let kind = TypeMeta::new("g.io/v1", "Shop");
    let with = |target: Value| {
        let mut given = (*overlay("a", 0, deployment_patch("Merge", json!({})))).clone();
        let mut whole = json!({"apiVersion": "g.io/v1", "kind": "Shop"});
        json::merge(&mut whole, &target);
        given.spec.target = serde_json::from_value(whole).unwrap();
        given
    };
    let (gold, plain) = (primary("a", json!({"tier": "gold"})), primary("b", json!({})));
    let both = |target: Value| {
        let given = with(target);
        (given.selects(&kind, &gold), given.selects(&kind, &plain))
    };
    assert_eq!(both(json!({})), (true, true));
    assert_eq!(both(json!({"name": "b"})), (false, true));
    assert_eq!(both(json!({"selector": {"matchLabels": {"tier": "gold"}}})), (true, false));
    let requirement = |operator: &str, values: Value| json!({"selector": {"matchExpressions": [{"key": "tier", "operator": operator, "values": values}]}});
    assert_eq!(both(requirement("In", json!(["gold"]))), (true, false));
    assert_eq!(both(requirement("NotIn", json!(["gold"]))), (false, true));
    assert_eq!(both(requirement("Exists", json!([]))), (true, false));
    assert_eq!(both(requirement("DoesNotExist", json!([]))), (false, true));
}

/// Places that no overlay may change, by JSON pointer.
const CLOSED: [&str; 12] = [
    "/apiVersion",
    "/kind",
    "/metadata/name",
    "/metadata/namespace",
    "/metadata/ownerReferences",
    "/metadata/labels/transom.dev~1owner-uid",
    "/metadata/labels/transom.dev~1plugin",
    "/spec/selector",
    "/spec/template/metadata/labels/app",
    "/spec/template/spec/serviceAccountName",
    "/spec/template/spec/securityContext/runAsNonRoot",
    "/spec/template/spec/containers/0/env/0/valueFrom",
];

/// Patches that go to interesting places.
fn any_patch() -> impl Strategy<Value = Value> {
    let places = vec![
        "/metadata",
        "/metadata/labels",
        "/metadata/annotations",
        "/spec",
        "/spec/template",
        "/spec/template/metadata/labels",
        "/spec/template/spec",
        "/spec/template/spec/containers/0",
        "/spec/template/spec/containers/0/securityContext",
        "/spec/template/spec/volumes/0",
        "/spec/selector",
        "",
    ];
    let names = vec![
        "name",
        "namespace",
        "labels",
        "app",
        "selector",
        "matchLabels",
        "spec",
        "hostNetwork",
        "hostPath",
        "privileged",
        "serviceAccountName",
        "containers",
        "0",
        "-",
        "env",
        "image",
        "replicas",
        "transom.dev~1plugin",
        "runAsNonRoot",
    ];
    let place = (prop::sample::select(places), prop::option::of(prop::sample::select(names)))
        .prop_map(|(place, name)| name.map_or_else(|| place.to_owned(), |name| format!("{place}/{name}")));
    let operation =
        (prop::sample::select(vec!["add", "remove", "replace", "move", "copy"]), place.clone(), place, any_json())
            .prop_map(|(op, path, from, value)| match op {
                "remove" => json!({"op": op, "path": path}),
                "move" | "copy" => json!({"op": op, "path": path, "from": from}),
                _ => json!({"op": op, "path": path, "value": value}),
            });
    prop_oneof![
        prop::collection::vec(operation, 1..5).prop_map(|operations| deployment_patch("JSONPatch", operations.into())),
        any_json().prop_map(|patch| deployment_patch("Merge", json!({"spec": {"template": {"spec": patch}}}))),
        any_json().prop_map(|patch| deployment_patch("StrategicMerge", json!({"spec": {"template": patch}}))),
        any_json().prop_map(|patch| deployment_patch(
            "StrategicMerge",
            json!({"spec": {"template": {"spec": {"containers": [patch]}}}})
        )),
        any_json().prop_map(|patch| deployment_patch("Merge", json!({"metadata": patch}))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_patch_closed_places_stay_as_they_are(patches in any_patch()) {
        let (laid, _) = one(&OverlayRules::default(), patches);
        let (before, after) = (&children()[0].body, &laid.children[0].body);
        for place in CLOSED {
            prop_assert_eq!(before.pointer(place), after.pointer(place), "{}", place);
        }
        // of pods: a label may have any of these names
        let text = after["spec"]["template"]["spec"].to_string();
        for word in ["hostNetwork", "hostPath", "\"privileged\":true"] {
            prop_assert!(!text.contains(word), "{}", text);
        }
    }

    #[test]
    fn laying_is_a_function(patches in any_patch(), others in any_patch()) {
        let given = [overlay("a", 0, patches), overlay("b", 0, others)];
        let swapped = [given[1].clone(), given[0].clone()];
        prop_assert_eq!(laid(&rules(), &given), laid(&rules(), &swapped));
    }

    #[test]
    fn a_refused_overlay_is_as_if_it_were_not_there(patches in any_patch(), others in any_patch()) {
        let both = laid(&rules(), &[overlay("a", 0, patches), overlay("b", 1, others.clone())]);
        if both.outcomes[0].refused.is_some() {
            let alone = laid(&rules(), &[overlay("b", 1, others)]);
            prop_assert_eq!(both.children, alone.children);
        }
    }
}
