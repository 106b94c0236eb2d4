#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, and serde_json's index yields null where nothing is"
)]

mod cleanup;
mod jobs;
mod rollout;
mod version;
mod workload;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use transom_sdk::objects;
use transom_sdk::testing::{self, Case, Disposition, Plan};

use crate::*;

fn orders() -> Domain {
    let db = Database {
        cluster_ref: "cnpg/main".into(),
        schema: "orders".into(),
        migration_job_image: "registry.example/migrator:7".into(),
        retention: Retention::default(),
        migration_timeout: "10m".into(),
        migration_env: Vec::new(),
    };
    let spec = DomainSpec {
        image: "registry.example/orders:1.12.3".into(),
        image_pull_policy: ImagePullPolicy::default(),
        version: Some("1.12.3".into()),
        db,
        resources: Resources::default(),
        replicas: 2,
        autoscaling: None,
        env: vec![objects::env("FEATURES", "returns")],
        observability: Observability::default(),
        security: Security { service_account_name: Some("orders".into()), ..Security::default() },
        rollout: Rollout::default(),
    };
    Domain::new("orders", spec)
}

fn orders_of(image: &str) -> Domain {
    let mut domain = orders();
    domain.spec.image = image.into();
    domain
}

fn case(domain: &Domain) -> Case<DomainPlugin> {
    Case::new(domain)
}

fn with_cluster(case: Case<DomainPlugin>) -> Case<DomainPlugin> {
    case.foreign_object(json!({
        "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": { "name": "main" },
    }))
}

fn with_database(case: Case<DomainPlugin>) -> Case<DomainPlugin> {
    let metadata = ObjectMeta { name: Some("main-app".into()), ..Default::default() };
    let data = Some(BTreeMap::from([("password".into(), k8s_openapi::ByteString(b"secret".to_vec()))]));
    with_cluster(case).object(&Secret { metadata, data, ..Default::default() })
}

fn job(plan: &Plan) -> String {
    let [job] = plan.names::<Job>().try_into().expect("one Job");
    job
}

/// All is well with the first version.
fn running() -> Case<DomainPlugin> {
    let case = with_database(case(&orders()));
    let first = case.plan();
    let case = case.observe(&first).ready::<Job>(&job(&first));
    let second = case.plan();
    case.observe(&second).ready::<Deployment>("orders")
}

fn failed(case: Case<DomainPlugin>, job: &str) -> Case<DomainPlugin> {
    let condition = json!({
        "type": "Failed", "status": "True", "reason": "BackoffLimitExceeded",
        "message": "Job has reached the specified backoff limit",
    });
    case.status::<Job>(job, json!({ "failed": 4, "conditions": [condition] }))
}

#[test]
fn a_first_call_starts_the_migration_and_makes_the_service() {
    insta::assert_yaml_snapshot!(with_database(case(&orders())).plan());
}

#[test]
fn without_its_cluster_a_domain_makes_nothing() {
    insta::assert_yaml_snapshot!(case(&orders()).plan());
}

#[test]
fn without_its_secret_a_domain_makes_nothing() {
    insta::assert_yaml_snapshot!(with_cluster(case(&orders())).plan());
}

#[test]
fn while_the_migration_runs_the_deployment_waits() {
    let case = with_database(case(&orders()));
    let first = case.plan();
    let case = case.observe(&first).status::<Job>(&job(&first), json!({ "active": 1, "ready": 1 }));
    insta::assert_yaml_snapshot!(case.plan());
}

#[test]
fn a_failed_first_migration_leaves_the_deployment_uncreated() {
    let case = with_database(case(&orders()));
    let first = case.plan();
    insta::assert_yaml_snapshot!(failed(case.observe(&first), &job(&first)).plan());
}

#[test]
fn after_the_migration_the_deployment_follows() {
    let case = with_database(case(&orders()));
    let first = case.plan();
    insta::assert_yaml_snapshot!(case.observe(&first).ready::<Job>(&job(&first)).plan());
}

#[test]
fn a_running_domain_is_ready() {
    insta::assert_yaml_snapshot!(running().plan());
}

#[test]
fn a_changed_image_migrates_first_and_leaves_the_old_version_running() {
    insta::assert_yaml_snapshot!(running().change(&orders_of("registry.example/orders:1.13.0")).plan());
}

#[test]
fn a_failed_migration_leaves_the_old_version_running() {
    let case = running().change(&orders_of("registry.example/orders:1.13.0"));
    let plan = case.plan();
    insta::assert_yaml_snapshot!(failed(case.observe(&plan), &job(&plan)).plan());
}

#[test]
fn a_migration_at_work_is_finished_before_the_next_begins() {
    let case = running().change(&orders_of("registry.example/orders:1.13.0"));
    let plan = case.plan();
    let old = job(&plan);
    let case = case.observe(&plan).status::<Job>(&old, json!({ "active": 1, "ready": 1 }));
    let case = case.change(&orders_of("registry.example/orders:1.14.0"));
    insta::assert_yaml_snapshot!(case.plan());

    let next = case.ready::<Job>(&old).plan();
    assert_ne!(job(&next), old, "the finished Job leaves the plan");
    assert_eq!(next.disposition::<Job>(&job(&next)), Some(Disposition::CreateOnce));
}

#[test]
fn a_migration_that_never_started_gives_way_to_the_next() {
    let case = running().change(&orders_of("registry.example/orders:typo"));
    let plan = case.plan();
    let stuck = job(&plan);
    let case = case.observe(&plan).status::<Job>(&stuck, json!({ "active": 1, "ready": 0 }));
    let case = case.change(&orders_of("registry.example/orders:1.13.0"));

    let deleting = case.plan();
    let next = job(&deleting);
    assert_ne!(next, stuck, "the stuck Job leaves the plan");
    assert_eq!(deleting.disposition::<Job>(&next), Some(Disposition::Hold), "not before the other is gone");
    let starting = case.observe(&deleting).plan();
    assert_eq!(starting.disposition::<Job>(&next), Some(Disposition::CreateOnce));
}

#[test]
fn a_database_that_goes_away_leaves_everything_as_it_is() {
    let lost = with_cluster(case(&orders()));
    let first = running().plan();
    // the Job was cleaned up
    let case = lost.observe(&first).ready::<Deployment>("orders");
    let plan = case.plan();
    assert_eq!(plan.disposition::<Deployment>("orders"), Some(Disposition::Hold));
    assert_eq!(plan.disposition::<Service>("orders"), Some(Disposition::Hold));
    assert_eq!(plan.condition("Ready"), Some(("False", "SecretNotFound")));
    assert_eq!(plan.condition("WorkloadReady"), Some(("True", "Available")));
    assert_eq!(plan.condition("MigrationSucceeded"), Some(("True", "Complete")));
    assert_eq!(plan.condition("Degraded"), Some(("True", "SecretNotFound")));
}

#[test]
fn a_status_about_an_older_spec_is_not_ready() {
    let case = running();
    let mut more = orders();
    more.spec.replicas = 3;
    let case = case.change(&more);
    let plan = case.plan();
    let case = case.observe(&plan);
    assert_eq!(case.plan().condition("Ready"), Some(("False", "NotObserved")));
    assert_eq!(case.plan().condition("Progressing"), Some(("True", "RollingOut")));
}

#[test]
fn a_rollout_that_gives_up_degrades() {
    let stuck =
        json!({ "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "no" });
    let status = json!({ "observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "conditions": [stuck] });
    let plan = running().status::<Deployment>("orders", status).plan();
    assert_eq!(plan.condition("Degraded"), Some(("True", "ProgressDeadlineExceeded")));
    assert_eq!(plan.condition("Ready"), Some(("False", "ProgressDeadlineExceeded")));
    assert_eq!(plan.condition("Progressing"), Some(("False", "ProgressDeadlineExceeded")));
}

/// D1: what is left out has a default.
#[test]
fn d1_a_domain_needs_image_and_database_only() {
    let spec: DomainSpec = serde_json::from_value(json!({
        "image": "registry.example/orders:1",
        "db": { "clusterRef": "cnpg/main", "schema": "orders", "migrationJobImage": "registry.example/migrator:7" },
    }))
    .unwrap();
    let expected = json!({
        "image": "registry.example/orders:1", "imagePullPolicy": "IfNotPresent", "replicas": 1,
        "db": {
            "clusterRef": "cnpg/main", "schema": "orders", "migrationJobImage": "registry.example/migrator:7",
            "retention": "Retain", "migrationTimeout": "10m",
        },
        "resources": { "cpu": "100m", "memory": "256Mi" },
        "observability": { "logLevel": "info", "serviceMonitor": false },
        "security": { "networkProfile": "backend" },
        "rollout": { "strategy": "RollingUpdate" },
    });
    assert_eq!(serde_json::to_value(spec).unwrap(), expected);
}

/// D6: Ready is DBReady and WorkloadReady and neither MigrationFailed nor Degraded, of the spec as it is.
#[test]
fn d6_ready_sums_up_the_other_conditions() {
    let is = |plan: &Plan, kind: &str| plan.condition(kind).is_some_and(|(status, _)| status == "True");
    let next = || running().change(&orders_of("registry.example/orders:1.13.0"));
    let migrating = next();
    let plan = migrating.plan();
    let broken = failed(migrating.observe(&plan), &job(&plan));
    let migrated = next().reconciled();
    let name = job(&migrated.plan());
    let stuck = json!({
        "observedGeneration": 1, "replicas": 2, "updatedReplicas": 2,
        "conditions": [{ "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded" }],
    });
    let cases = [
        ("everything is well", running(), true),
        ("no cluster", case(&orders()), false),
        ("no secret", with_cluster(case(&orders())), false),
        ("the migration begins", with_database(case(&orders())), false),
        ("the next migration runs", next().reconciled(), false),
        ("the next migration failed", broken, false),
        ("the next version rolls out", migrated.ready::<Job>(&name).reconciled(), false),
        ("the rollout gave up", running().status::<Deployment>("orders", stuck), false),
    ];
    for (what, case, expected) in cases {
        let plan = case.plan();
        let sum = is(&plan, "DBReady") && is(&plan, "WorkloadReady");
        let sum = sum && !is(&plan, "MigrationFailed") && !is(&plan, "Degraded");
        assert_eq!((is(&plan, "Ready"), sum), (expected, expected), "{what}: {:#?}", plan.conditions);
        assert!(plan.condition("Progressing").is_some(), "{what}");
    }
    assert_eq!(running().plan().status.unwrap()["readyReplicas"], 2);
}

/// D1: as far as the API server does not say it first.
#[test]
fn everything_wrong_is_said_at_once() {
    let mut domain = orders();
    domain.spec.db.schema = "pg_orders".into();
    domain.spec.autoscaling = Some(Autoscaling { min_replicas: 3, max_replicas: 2, target_cpu: 80 });
    domain.spec.rollout.canary = Some(Canary { steps: vec![CanaryStep { replicas: 1, duration: "1m".into() }] });
    domain.metadata.name = Some("1orders".into());
    domain.spec.env.push(objects::env("PGHOST", "elsewhere"));
    domain.spec.db.migration_env.push(objects::env("DB_SCHEMA", "public"));
    insta::assert_yaml_snapshot!(case(&domain).failure());
}

#[test]
fn a_denied_lookup_says_what_to_grant() {
    let denied = with_cluster(case(&orders())).denied::<Secret>("main-app", "may not get secrets");
    assert_eq!(denied.failure(), ["LookupDenied: may not get secrets"]);
}

#[test]
fn only_what_a_migration_depends_on_names_its_job() {
    let name = |domain: &Domain| job(&with_database(case(domain)).plan());
    let mut same = orders();
    same.spec.replicas = 5;
    same.spec.observability.log_level = LogLevel::Debug;
    same.spec.db.retention = Retention::Delete;
    assert_eq!(name(&same), name(&orders()));

    let changes: [fn(&mut DomainSpec); 5] = [
        |spec| spec.image.push('1'),
        |spec| spec.db.schema.push('1'),
        |spec| spec.db.migration_job_image.push('1'),
        |spec| spec.db.migration_timeout = "20m".into(),
        |spec| spec.db.migration_env.push(objects::env("STEP", "2")),
    ];
    for change in changes {
        let mut other = orders();
        change(&mut other.spec);
        assert_ne!(name(&other), name(&orders()));
    }
}

#[test]
fn names_fit_whatever_the_domain_is_called() {
    for length in 1..=63 {
        let mut domain = orders();
        domain.metadata.name = Some("a".repeat(length));
        let plan = with_database(case(&domain)).plan();
        assert!(job(&plan).len() <= 63, "{}", job(&plan));
    }
}

#[test]
fn the_same_request_gives_the_same_plan_byte_for_byte() {
    let request = running().request();
    let call = || format!("{:?}", testing::call::<DomainPlugin>(request.clone()));
    assert_eq!(call(), call());
}

#[test]
fn the_steady_state_is_one_call() {
    let done = testing::call::<DomainPlugin>(running().request()).expect("a plan");
    let testing::wire::Step::Done(plan) = done else { panic!("it asked: {done:?}") };
    assert_eq!(plan.uses, [0, 1], "cluster and secret");
}

#[test]
fn the_manifest_describes_the_kind() {
    let manifest = testing::manifest::<DomainPlugin>();
    let crds: Vec<serde_json::Value> = manifest.crds.iter().map(|crd| serde_json::from_str(crd).unwrap()).collect();
    let version = &crds[0]["spec"]["versions"][0];
    assert_eq!(version["subresources"]["status"], json!({}));
    insta::assert_yaml_snapshot!(version["schema"]["openAPIV3Schema"]["properties"]["status"]);
    let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    assert_eq!(spec["replicas"]["default"], 1);
    assert_eq!(spec["resources"]["default"], json!({ "cpu": "100m", "memory": "256Mi" }));
    assert_eq!(spec["imagePullPolicy"]["enum"], json!(["Always", "IfNotPresent", "Never"]));
}
