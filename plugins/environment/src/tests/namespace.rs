use k8s_openapi::api::core::v1::{LimitRange, Namespace, ResourceQuota};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::prelude::*;

use super::*;
use crate::namespace::{candidates, plain};

fn named(team: &str, project: &str, name: &str) -> Environment {
    let mut environment = environment("development");
    let labels = [("catalyst.dev/team", team), ("catalyst.dev/project", project), ("catalyst.dev/environment", name)];
    environment.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    environment.metadata.name = Some(name.to_owned());
    environment.metadata.namespace = Some(team.to_owned());
    environment
}

fn namespace(name: &str, labels: serde_json::Value) -> serde_json::Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels, "namespace": "" } })
}

#[test]
fn e2_names_are_those_of_team_project_and_environment() {
    assert_eq!(candidates(&named("my-team", "my-project", "feature"))[0], "my-team-my-project-feature");
    assert_eq!(candidates(&named("Team_A", "Shop", "PR.7"))[0], "team-a-shop-pr-7");
    let mut unlabelled = environment("development");
    unlabelled.metadata.labels = None;
    assert_eq!(candidates(&unlabelled)[0], "env-shop-pr-7");
}

#[test]
fn e2_two_inputs_never_share_a_name() {
    // the same name by joining; the second to come takes its other one
    let (one, other) = (named("a-b", "c", "d"), named("a", "b-c", "d"));
    assert_eq!(candidates(&one)[0], candidates(&other)[0]);
    assert_ne!(candidates(&one)[1], candidates(&other)[1]);
    // both are cut
    let (one, other) = (named("team", &"p".repeat(63), "one"), named("team", &"p".repeat(63), "other"));
    let [one] = &candidates(&one)[..] else { panic!("one name") };
    let [other] = &candidates(&other)[..] else { panic!("one name") };
    assert_ne!(one, other);
    assert_eq!((one.len(), other.len()), (63, 63));
}

proptest! {
    #[test]
    fn e2_names_fit_whatever_the_labels_are(team in "[a-zA-Z0-9]([-_.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?",
        project in "[a-zA-Z0-9]([-_.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?", name in "[a-z0-9]([-.a-z0-9]{0,250}[a-z0-9])?") {
        let environment = named(&team, &project, &name);
        for candidate in candidates(&environment) {
            prop_assert!(crate::project::is_label(&candidate), "{candidate}");
        }
    }

    #[test]
    fn e2_hashed_names_differ_whenever_the_objects_do(one in "[a-z][a-z-]{0,9}[a-z]", other in "[a-z][a-z-]{0,9}[a-z]") {
        let last = |team: &str, name: &str| candidates(&named(team, "shop", name)).pop();
        prop_assume!(one != other);
        prop_assert_ne!(last(&one, "x"), last(&other, "x"));
        prop_assert_ne!(last(&one, &other), last(&other, &one));
    }

    #[test]
    fn any_text_becomes_a_part_of_a_label(text: String) {
        let plain = plain(&text);
        prop_assert!(plain.is_empty() || plain.len() > 63 || crate::project::is_label(&plain));
    }
}

#[test]
fn e2_e3_a_namespace_is_made_and_then_what_guards_it() {
    let case = Case::<EnvironmentPlugin>::new(&environment("workspace")).config(&config());
    let project = with_template(project(), "workspace", json!({ "type": "manifest" }));
    let case = case.object(&project);
    let first = case.plan();
    assert_eq!(first.names::<Namespace>(), ["acme-shop-pr-7"]);
    assert_eq!(first.names::<ResourceQuota>(), [""; 0], "nothing can be made in a namespace that is not there");
    assert_eq!((phase(&first), first.condition("NamespaceReady")), ("Initializing", Some(("False", "Creating"))));
    insta::assert_yaml_snapshot!(case.reconciled().plan());
}

#[test]
fn e3_a_project_may_say_how_much_its_environments_use() {
    let mut project = with_template(project(), "workspace", json!({ "type": "manifest" }));
    project.spec.resources.default_quota = QuotaSpec { cpu: "1".into(), memory: "2Gi".into() };
    let plan = placed(&environment("workspace"), &project).plan();
    let quota: ResourceQuota = plan.child("default-quota").unwrap();
    let hard = serde_json::to_value(quota.spec.unwrap().hard).unwrap();
    let expected = json!({ "requests.cpu": "1", "limits.cpu": "1", "requests.memory": "2Gi", "limits.memory": "2Gi", "pods": "20" });
    assert_eq!(hard, expected);
    assert_eq!(plan.names::<LimitRange>(), ["default-limits"]);
    let policies =
        ["default-deny", "allow-ingress-controller", "allow-intra-namespace", "allow-dns", "allow-https-egress"];
    assert_eq!(plan.names::<NetworkPolicy>(), policies);
}

#[test]
fn e2_a_namespace_of_somebody_else_is_left_alone() {
    let project = with_template(project(), "workspace", json!({ "type": "manifest" }));
    let case = || Case::<EnvironmentPlugin>::new(&environment("workspace")).config(&config()).object(&project);
    let plan = case().foreign_object(namespace("acme-shop-pr-7", json!({}))).plan();
    assert_eq!(plan.condition("NamespaceReady"), Some(("False", "NamespaceTaken")));
    assert_eq!((plan.names::<Namespace>().len(), phase(&plan)), (0, "Pending"));
    assert!(
        message(&plan, "Ready")
            .contains("namespace acme-shop-pr-7 is there and not an Environment's: delete it, or rename")
    );

    let others = json!({ "catalyst.dev/namespace-type": "environment", "transom.dev/owner-uid": "another" });
    let plan = case().foreign_object(namespace("acme-shop-pr-7", others.clone())).plan();
    let [name] = &plan.names::<Namespace>()[..] else { panic!("{plan:#?}") };
    assert!(name.starts_with("acme-shop-pr-7-") && name.len() == 25, "{name}");
    let plan = case()
        .foreign_object(namespace("acme-shop-pr-7", others.clone()))
        .foreign_object(namespace(name, others))
        .plan();
    assert_eq!(plan.condition("NamespaceReady"), Some(("False", "NamespaceTaken")));
    assert!(message(&plan, "Ready").ends_with("is another Environment's: rename this one"));
}

#[test]
fn e2_an_earlier_namespace_of_the_same_name_is_waited_for() {
    let project = with_template(project(), "workspace", json!({ "type": "manifest" }));
    let mut old = namespace("acme-shop-pr-7", json!({ "catalyst.dev/namespace-type": "environment" }));
    old["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let case = Case::<EnvironmentPlugin>::new(&environment("workspace")).config(&config()).object(&project);
    let plan = case.foreign_object(old).plan();
    assert_eq!(plan.condition("NamespaceReady"), Some(("False", "NamespaceTerminating")));
    assert_eq!(plan.names::<Namespace>(), [""; 0]);
}
