//! D4: the version of the schema.

use k8s_openapi::api::core::v1::Pod;

use super::*;

/// A pod of this Job that has ended so.
fn pod(job: &str, phase: &str, message: Option<&str>) -> Pod {
    let terminated = json!({ "exitCode": i32::from(phase != "Succeeded"), "message": message });
    serde_json::from_value(json!({
        "metadata": { "name": format!("{job}-{phase}").to_lowercase(), "labels": { "batch.kubernetes.io/job-name": job } },
        "status": {
            "phase": phase,
            "containerStatuses": [{
                "name": "migration", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": terminated },
            }],
        },
    }))
    .unwrap()
}

/// The first migration is complete, and its pods are these.
fn migrated(pods: &[(&str, Option<&str>)]) -> Case<DomainPlugin> {
    let case = with_database(case(&orders())).reconciled();
    let name = job(&case.plan());
    let case = case.ready::<Job>(&name);
    pods.iter().fold(case, |case, (phase, message)| case.object(&pod(&name, phase, *message)))
}

fn version(plan: &Plan) -> serde_json::Value {
    plan.status.as_ref().unwrap()["dbMigrationVersion"].clone()
}

#[test]
fn d4_it_is_what_the_pod_that_succeeded_said_in_its_end() {
    let plan =
        migrated(&[("Failed", Some("no route to host")), ("Succeeded", Some(" V3__add_status_column\n"))]).plan();
    assert_eq!(version(&plan), "V3__add_status_column");
    assert_eq!(plan.status.unwrap()["migrationJob"], job(&migrated(&[]).plan()));
}

#[test]
fn d4_a_migration_that_says_nothing_has_no_version() {
    for pods in [&[][..], &[("Succeeded", None)], &[("Succeeded", Some(" "))], &[("Failed", Some("V9__no"))]] {
        assert_eq!(version(&migrated(pods).plan()), serde_json::Value::Null, "{pods:?}");
    }
    let long = "V".repeat(5_000);
    assert_eq!(version(&migrated(&[("Succeeded", Some(&long))]).plan()), "V".repeat(256));
}

#[test]
fn d4_it_outlives_the_pods_and_is_not_asked_for_again() {
    let case = migrated(&[("Succeeded", Some("V3__add"))]).reconciled();
    let without_pods = with_database(Case::new(&Domain { status: status_of(&case), ..orders() }));
    let case = without_pods.observe(&case.plan()).ready::<Deployment>("orders");
    assert_eq!(version(&case.plan()), "V3__add");
    assert_eq!(case.request().answers.len(), 2, "cluster and secret, no pods");
}

#[test]
fn d4_while_the_next_migration_runs_and_when_it_fails_it_is_what_it_was() {
    let case = migrated(&[("Succeeded", Some("V3__add"))]).reconciled();
    let case = case.change(&orders_of("registry.example/orders:1.13.0"));
    let plan = case.plan();
    let next = job(&plan);
    assert_eq!(version(&plan), "V3__add");
    let case = failed(case.observe(&plan), &next).object(&pod(&next, "Failed", Some("V4__oh")));
    assert_eq!(version(&case.plan()), "V3__add");

    let case = case.ready::<Job>(&next).object(&pod(&next, "Succeeded", Some("V4__oh")));
    assert_eq!(version(&case.plan()), "V4__oh");
}

fn status_of(case: &Case<DomainPlugin>) -> Option<DomainStatus> {
    serde_json::from_value(case.plan().status.unwrap()).unwrap()
}
