//! D7: the end of a Domain.

use k8s_openapi::api::core::v1::Pod;

use super::*;

fn dropped() -> Domain {
    let mut domain = orders();
    domain.spec.db.retention = Retention::Delete;
    domain
}

/// A Domain with retention Delete that runs, and is being deleted.
fn going() -> Case<DomainPlugin> {
    running().change(&dropped()).reconciled().deleting()
}

/// Its children are gone.
fn stopped() -> Case<DomainPlugin> {
    going().reconciled()
}

fn pod(phase: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": "orders-1", "labels": {
            "app.kubernetes.io/instance": "orders", "app.kubernetes.io/name": "domain",
        } },
        "status": { "phase": phase },
    }))
    .unwrap()
}

#[test]
fn d7_with_retain_nothing_is_done() {
    let plan = running().deleting().plan();
    assert!(plan.finalized);
    assert!(plan.children.is_empty());
}

#[test]
fn d7_with_delete_everything_stops_then_a_job_drops_the_schema() {
    let plan = going().plan();
    assert!(plan.children.is_empty(), "all of them go first");
    assert_eq!((plan.finalized, plan.condition("Ready")), (false, Some(("False", "Stopping"))));

    let case = stopped();
    let plan = case.plan();
    insta::assert_yaml_snapshot!(plan);
    let name = job(&plan);
    let case = case.observe(&plan).ready::<Job>(&name);
    let plan = case.plan();
    assert_eq!((plan.finalized, plan.condition("Ready")), (false, Some(("False", "CleanedUp"))));
    assert_eq!(plan.status.as_ref().unwrap()["cleanedUpBy"], name);
    assert_eq!(plan.requeue_after_ms, Some(1_000));
    let done = case.observe(&plan).plan();
    assert_eq!((done.finalized, done.events[0].0.as_str()), (true, "SchemaDropped"));
    assert!(done.children.is_empty());
}

#[test]
fn d7_pods_that_still_run_are_waited_for_but_not_for_ever() {
    let deleted_at = 1_767_225_600;
    let case = stopped().object(&pod("Running")).now(deleted_at + 290);
    assert_eq!(case.plan().condition("Ready"), Some(("False", "Stopping")));
    assert!(case.plan().names::<Job>().is_empty());
    assert_eq!(case.now(deleted_at + 300).plan().names::<Job>().len(), 1);
    assert_eq!(stopped().object(&pod("Succeeded")).plan().names::<Job>().len(), 1);
}

#[test]
fn d7_a_job_that_has_begun_goes_on_whatever_pods_appear() {
    let case = stopped().reconciled().object(&pod("Running"));
    assert_eq!(case.plan().condition("Ready"), Some(("False", "CleaningUp")));
}

#[test]
fn d7_a_database_that_is_gone_or_going_takes_the_schema_along() {
    let gone = Case::<DomainPlugin>::new(&dropped()).deleting();
    let cluster = json!({
        "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster",
        "metadata": { "name": "main", "deletionTimestamp": "2026-01-01T00:00:00Z" },
    });
    for case in [gone, going().foreign_object(cluster)] {
        let plan = case.plan();
        assert_eq!((plan.finalized, plan.events[0].0.as_str()), (true, "DatabaseGone"));
    }
}

#[test]
fn d7_without_the_secret_it_waits_and_says_how_to_let_go() {
    let plan = with_cluster(Case::<DomainPlugin>::new(&dropped())).deleting().plan();
    assert_eq!(plan.condition("Degraded"), Some(("True", "SecretNotFound")));
    let ready = plan.conditions.iter().find(|condition| condition.kind == "Ready").unwrap();
    assert!(ready.message.ends_with("to keep the schema, set spec.db.retention to Retain"), "{}", ready.message);
    assert!(!plan.finalized);
}

#[test]
fn d7_a_job_that_fails_keeps_the_domain_until_somebody_decides() {
    let case = stopped();
    let plan = case.plan();
    let case = failed(case.observe(&plan), &job(&plan));
    let plan = case.plan();
    assert_eq!(plan.condition("Degraded"), Some(("True", "CleanUpFailed")));
    assert_eq!((plan.finalized, plan.names::<Job>().len()), (false, 1));
    assert!(case.change(&orders()).deleting().plan().finalized, "Retain lets go");
}

#[test]
fn d7_a_spec_that_is_not_valid_keeps_nothing() {
    let mut domain = dropped();
    domain.spec.env.push(objects::env("PGHOST", "elsewhere"));
    domain.spec.autoscaling = Some(Autoscaling { min_replicas: 3, max_replicas: 2, target_cpu: 80 });
    assert_eq!(stopped().change(&domain).deleting().plan().names::<Job>().len(), 1);
}
