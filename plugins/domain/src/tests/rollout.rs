//! D5: canaries.

use super::*;

const CANARY: &str = "orders-canary";
const START: u64 = 1_767_225_600;

fn canaried(image: &str) -> Domain {
    let mut domain = orders_of(image);
    let step = |replicas, duration: &str| CanaryStep { replicas, duration: duration.into() };
    domain.spec.rollout =
        Rollout { strategy: Strategy::Canary, canary: Some(Canary { steps: vec![step(1, "60s"), step(3, "2m")] }) };
    domain
}

/// Another version was asked for, and its migration is complete.
fn migrated() -> Case<DomainPlugin> {
    let case = running().change(&canaried("registry.example/orders:2")).reconciled();
    let name = job(&case.plan());
    case.ready::<Job>(&name)
}

fn image(plan: &Plan, name: &str) -> Option<String> {
    let spec = plan.child::<Deployment>(name)?.spec?.template.spec?;
    spec.containers.into_iter().next()?.image
}

fn canary_status(plan: &Plan) -> serde_json::Value {
    plan.status.as_ref().unwrap()["canary"].clone()
}

/// The canary of the first step is available.
fn healthy() -> Case<DomainPlugin> {
    migrated().reconciled().ready::<Deployment>(CANARY).now(START).reconciled()
}

#[test]
fn d5_the_first_version_needs_no_canary() {
    let case = with_database(case(&canaried("registry.example/orders:1"))).reconciled();
    let name = job(&case.plan());
    let plan = case.ready::<Job>(&name).plan();
    assert_eq!(plan.names::<Deployment>(), ["orders"]);
    assert_eq!(plan.disposition::<Deployment>("orders"), Some(Disposition::Apply));
}

#[test]
fn d5_a_canary_begins_when_the_migration_is_done() {
    let case = running().change(&canaried("registry.example/orders:2"));
    let plan = case.plan();
    assert_eq!(plan.names::<Deployment>(), ["orders"]);
    assert_eq!(plan.disposition::<Deployment>("orders"), Some(Disposition::Hold));

    let plan = migrated().plan();
    assert_eq!(plan.disposition::<Deployment>("orders"), Some(Disposition::Hold));
    assert_eq!(image(&plan, CANARY).as_deref(), Some("registry.example/orders:2"));
    assert_eq!(canary_status(&plan), json!({ "step": 1, "steps": 2, "replicas": 1 }));
    assert_eq!(plan.condition("Progressing"), Some(("True", "Canary")));
    assert_eq!(plan.condition("Ready"), Some(("True", "Ready")), "the version before serves");
}

#[test]
fn d5_both_tracks_are_behind_the_service_and_tell_their_own_pods() {
    let plan = migrated().plan();
    let canary = plan.child::<Deployment>(CANARY).unwrap().spec.unwrap();
    let labels = canary.template.metadata.unwrap().labels.unwrap();
    let selects = |labels: &BTreeMap<String, String>, selector: &BTreeMap<String, String>| {
        selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let service = plan.child::<Service>("orders").unwrap().spec.unwrap().selector.unwrap();
    let stable = running().plan().child::<Deployment>("orders").unwrap().spec.unwrap().selector.match_labels.unwrap();
    assert!(selects(&labels, &canary.selector.match_labels.unwrap()));
    assert!(selects(&labels, &service));
    assert!(!selects(&labels, &stable));
}

#[test]
fn d5_a_step_is_passed_when_the_canary_was_healthy_for_all_of_it() {
    let case = healthy();
    assert_eq!(canary_status(&case.plan())["healthySince"], "2026-01-01T00:00:00Z");
    let almost = case.now(START + 65);
    assert_eq!(canary_status(&almost.plan())["step"], 1);
    let next = almost.now(START + 66);
    let plan = next.plan();
    assert_eq!(canary_status(&plan), json!({ "step": 2, "steps": 2, "replicas": 3 }));
    assert_eq!(plan.child::<Deployment>(CANARY).unwrap().spec.unwrap().replicas, Some(3));
    let next = next.observe(&plan);
    assert_eq!(canary_status(&next.plan())["step"], 2, "it does not go back");
}

#[test]
fn d5_a_canary_that_falters_begins_its_step_again() {
    let case =
        healthy().status::<Deployment>(CANARY, json!({ "observedGeneration": 1, "replicas": 1 })).now(START + 50);
    let case = case.reconciled();
    assert_eq!(canary_status(&case.plan()), json!({ "step": 1, "steps": 2, "replicas": 1 }));
    let case = case.ready::<Deployment>(CANARY).now(START + 72).reconciled().now(START + 137);
    assert_eq!(canary_status(&case.plan())["step"], 1);
    assert_eq!(canary_status(&case.now(START + 138).plan())["step"], 2);
}

/// A Deployment gets a new generation for every annotation: what was noted must not be taken back for that.
#[test]
fn d5_a_note_that_is_not_observed_yet_changes_nothing() {
    let behind = json!({
        "observedGeneration": 0, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1,
    });
    let noted = healthy();
    let plan = noted.plan();
    let unobserved = noted.status::<Deployment>(CANARY, behind.clone()).plan();
    assert_eq!(unobserved.child::<Deployment>(CANARY), plan.child::<Deployment>(CANARY));
    assert_eq!(canary_status(&unobserved)["healthySince"], "2026-01-01T00:00:00Z");
    let fresh = migrated().reconciled().status::<Deployment>(CANARY, behind).plan();
    assert_eq!(canary_status(&fresh), json!({ "step": 1, "steps": 2, "replicas": 1 }));
}

#[test]
fn d5_after_the_last_step_the_version_is_rolled_out_and_the_canary_goes() {
    let case = healthy().now(START + 66).reconciled().ready::<Deployment>(CANARY).reconciled().now(START + 300);
    let plan = case.plan();
    assert_eq!(image(&plan, "orders").as_deref(), Some("registry.example/orders:2"));
    assert_eq!(plan.disposition::<Deployment>(CANARY), Some(Disposition::Hold), "until the others are there");
    let case = case.observe(&plan);
    let plan = case.plan();
    assert_eq!(plan.disposition::<Deployment>(CANARY), Some(Disposition::Hold));
    let plan = case.ready::<Deployment>("orders").plan();
    assert_eq!(plan.names::<Deployment>(), ["orders"]);
    assert_eq!(plan.condition("Progressing"), Some(("False", "Complete")));
    assert_eq!(canary_status(&plan), serde_json::Value::Null);
}

#[test]
fn d5_a_canary_that_gives_up_degrades_and_leaves_the_stable_version() {
    let gave_up = json!({ "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded" });
    let status = json!({ "observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "conditions": [gave_up] });
    let case = migrated().reconciled().status::<Deployment>(CANARY, status);
    let plan = case.plan();
    assert_eq!(plan.condition("Degraded"), Some(("True", "CanaryFailed")));
    assert_eq!(plan.condition("Ready"), Some(("False", "CanaryFailed")));
    assert_eq!(plan.condition("WorkloadReady"), Some(("True", "Available")));
    assert_eq!(plan.disposition::<Deployment>("orders"), Some(Disposition::Hold));

    let back = case.change(&orders());
    let name = job(&back.plan());
    let plan = back.reconciled().ready::<Job>(&name).plan();
    assert_eq!(plan.names::<Deployment>(), ["orders"], "back at the version before, it goes");
}

#[test]
fn d5_another_version_during_a_canary_begins_from_the_first_step() {
    let case = healthy().now(START + 66).reconciled().change(&canaried("registry.example/orders:3")).reconciled();
    let name = job(&case.plan());
    let plan = case.ready::<Job>(&name).plan();
    assert_eq!(image(&plan, CANARY).as_deref(), Some("registry.example/orders:3"));
    assert_eq!(canary_status(&plan), json!({ "step": 1, "steps": 2, "replicas": 1 }));
}
