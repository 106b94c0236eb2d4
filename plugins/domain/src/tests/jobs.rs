//! One run for each change, however long the Jobs themselves stay; and what the API server does not accept.

use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::*;

/// As an overlay or an admission policy may have it.
fn expiring(case: Case<DomainPlugin>, name: &str) -> Case<DomainPlugin> {
    let mut live = serde_json::to_value(case.plan().child::<Job>(name)).unwrap();
    live["spec"]["ttlSecondsAfterFinished"] = json!(0);
    let live: Job = serde_json::from_value(live).unwrap();
    case.child(&live).reconciled()
}

/// The migration runs.
fn migrating() -> (Case<DomainPlugin>, String) {
    let case = with_database(case(&orders()));
    let name = job(&case.plan());
    (case.reconciled().reconciled(), name)
}

fn message<'a>(plan: &'a Plan, kind: &str) -> &'a str {
    &plan.conditions.iter().find(|condition| condition.kind == kind).unwrap().message
}

#[test]
fn a_migration_that_is_complete_and_cleaned_up_is_not_run_again() {
    let name = job(&with_database(case(&orders())).plan());
    let gone = running().reconciled().gone::<Job>(&name);
    let plan = gone.plan();
    assert_eq!(plan.disposition::<Job>(&name), Some(Disposition::Hold));
    assert_eq!(
        (plan.condition("Ready"), plan.condition("MigrationSucceeded")),
        (Some(("True", "Ready")), Some(("True", "Complete")))
    );
    let later = gone.reconciled().reconciled();
    assert_eq!(later.plan().condition("Ready"), Some(("True", "Ready")));
    // the next version migrates
    let next = later.change(&orders_of("registry.example/orders:1.13.0"));
    let other = job(&next.plan());
    assert_ne!(other, name);
    assert_eq!(next.plan().disposition::<Job>(&other), Some(Disposition::CreateOnce));
}

#[test]
fn a_migration_that_expired_before_anybody_saw_its_end_is_not_run_again() {
    let (case, name) = migrating();
    let case = expiring(case, &name).gone::<Job>(&name);
    let plan = case.plan();
    assert_eq!(plan.disposition::<Job>(&name), Some(Disposition::Hold));
    assert_eq!(plan.disposition::<Deployment>("orders"), Some(Disposition::Apply), "it does not wait any more");
}

#[test]
fn a_migration_that_was_stopped_runs_again() {
    let (case, name) = migrating();
    assert_eq!(case.gone::<Job>(&name).plan().disposition::<Job>(&name), Some(Disposition::CreateOnce));
}

#[test]
fn a_failed_migration_that_expired_has_failed_and_one_that_was_deleted_is_tried_again() {
    let (case, name) = migrating();
    let case = failed(expiring(case, &name), &name).reconciled().gone::<Job>(&name).reconciled();
    let plan = case.plan();
    assert_eq!(plan.disposition::<Job>(&name), Some(Disposition::Hold));
    assert_eq!(plan.condition("MigrationFailed"), Some(("True", "MigrationFailed")));
    let told = message(&plan, "Ready");
    assert!(told.contains("BackoffLimitExceeded") && !told.contains("delete the Job"), "{told}");
    let (case, name) = migrating();
    let case = failed(case, &name).reconciled();
    assert!(message(&case.plan(), "Ready").contains("delete the Job"));
    assert_eq!(case.gone::<Job>(&name).plan().disposition::<Job>(&name), Some(Disposition::CreateOnce));
}

#[test]
fn what_an_older_version_remembered_counts() {
    let name = job(&with_database(case(&orders())).plan());
    let case = running().reconciled();
    let mut status = case.plan().status.unwrap();
    status.as_object_mut().unwrap().remove("jobs");
    let mut old = case.plan();
    old.status = Some(status);
    let case = case.observe(&old).gone::<Job>(&name);
    assert_eq!(case.plan().disposition::<Job>(&name), Some(Disposition::Hold));
}

#[test]
fn while_its_database_is_away_a_migration_stays_what_it_was() {
    let name = job(&with_database(case(&orders())).plan());
    let status = running().reconciled().plan().status.unwrap();
    let mut away = orders();
    away.status = Some(serde_json::from_value(status).unwrap());
    let plan = case(&away).plan();
    assert_eq!(plan.condition("MigrationSucceeded"), Some(("True", "Complete")));
    let back = with_database(case(&away).observe(&plan));
    assert_eq!(back.plan().disposition::<Job>(&name), Some(Disposition::Hold));
}

const WORDS: &str = "could not apply it: admission webhook \"policy\" denied the request: no";

#[test]
fn what_the_api_server_refuses_is_told_where_it_stands_in_the_way() {
    let migration = with_database(case(&orders()));
    let name = job(&migration.plan());
    let refused = running().change(&orders_of("registry.example/orders:1.13.0"));
    let next = job(&refused.plan());
    let deployment = migration.plan();
    let deployment = with_database(case(&orders())).observe(&deployment).ready::<Job>(&name);
    let cases = [
        (migration.refused::<Job>(&name, "ApplyFailed", WORDS), "DBReady"),
        (refused.refused::<Job>(&next, "ApplyFailed", WORDS), "DBReady"),
        (deployment.refused::<Deployment>("orders", "ApplyFailed", WORDS), "WorkloadReady"),
        (running().refused::<NetworkPolicy>("orders", "ApplyFailed", WORDS), "Degraded"),
        (running().refused::<Service>("orders", "ApplyFailed", WORDS), "Degraded"),
    ];
    for (case, kind) in cases {
        let plan = case.plan();
        assert_eq!(
            (plan.condition("Ready"), message(&plan, "Ready")),
            (Some(("False", "ApplyFailed")), WORDS),
            "{kind}"
        );
        assert_eq!((plan.condition(kind).unwrap().1, message(&plan, kind)), ("ApplyFailed", WORDS));
        assert_eq!(plan.condition("Degraded"), Some(("True", "ApplyFailed")), "{kind}");
        assert_eq!(plan.condition("Progressing"), Some(("False", "ApplyFailed")), "{kind}");
        assert_eq!(plan.condition("MigrationFailed"), Some(("False", "NoFailure")), "it never ran: {kind}");
        let plan = case.accepted().plan();
        assert_ne!(plan.condition("Ready").unwrap().1, "ApplyFailed", "{kind}");
    }
    let passing = running().refused_for_now::<Service>("orders", "ApplyFailed", WORDS).plan();
    assert_eq!(passing.condition("Progressing"), Some(("True", "ApplyFailed")));
    assert_eq!(passing.condition("Degraded"), Some(("False", "NotDegraded")));
}

#[test]
fn a_clean_up_that_is_refused_says_how_to_let_the_domain_go() {
    let mut dropped = orders();
    dropped.spec.db.retention = Retention::Delete;
    let case = running().change(&dropped).reconciled().deleting().reconciled();
    let name = job(&case.plan());
    let plan = case.refused::<Job>(&name, "ApplyFailed", WORDS).plan();
    assert_eq!(plan.condition("Degraded"), Some(("True", "ApplyFailed")));
    assert_eq!(message(&plan, "Ready"), format!("{WORDS}; to keep the schema, set spec.db.retention to Retain"));
}

#[test]
fn a_clean_up_that_expired_is_done_and_one_that_failed_is_not() {
    let mut dropped = orders();
    dropped.spec.db.retention = Retention::Delete;
    let case = running().change(&dropped).reconciled().deleting().reconciled();
    let name = job(&case.plan());
    let case = expiring(case.reconciled(), &name);
    let done = case.gone::<Job>(&name).plan();
    assert_eq!(done.status.as_ref().unwrap()["cleanedUpBy"], name);
    let case = running().change(&dropped).reconciled().deleting().reconciled().reconciled();
    let case = failed(expiring(case, &name), &name).reconciled().gone::<Job>(&name);
    let plan = case.plan();
    assert_eq!(plan.condition("Ready"), Some(("False", "CleanUpFailed")));
    assert!(message(&plan, "Ready").contains("change spec.db.migrationEnv"), "{}", message(&plan, "Ready"));
}

#[test]
fn lookups_are_asked_together() {
    with_database(case(&orders())).asks_together();
    running().asks_together();
    let mut watched = orders();
    watched.spec.observability.service_monitor = true;
    with_database(case(&watched)).asks_together();
    let mut dropped = orders();
    dropped.spec.db.retention = Retention::Delete;
    running().change(&dropped).reconciled().deleting().reconciled().asks_together();
}
