//! One run for each change, however long the Jobs themselves stay.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use transom_sdk::File;
use transom_sdk::testing::Disposition;

use super::*;

fn manifests(text: &str) -> Case<EnvironmentPlugin> {
    let project = with_template(project(), "deployment", json!({ "type": "manifest", "path": "k8s" }));
    given(placed(&environment("deployment"), &project), text)
}

/// The repository has this manifest at the commit.
fn given(case: Case<EnvironmentPlugin>, text: &str) -> Case<EnvironmentPlugin> {
    let file = File { path: "all.yaml".into(), content: text.as_bytes().to_vec() };
    case.artifact("git", &format!("shop@{COMMIT}:k8s"), &["*.yaml", "*.yml", "*.json"], vec![file])
}

fn job(image: &str, ttl: Option<u32>) -> String {
    let mut job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "migrate" },
        "spec": { "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "m", "image": image }] } } } });
    if let Some(ttl) = ttl {
        job["spec"]["ttlSecondsAfterFinished"] = json!(ttl);
    }
    job.to_string()
}

fn failed() -> serde_json::Value {
    let condition =
        json!({ "type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "it gave up" });
    json!({ "conditions": [condition] })
}

fn disposition(case: &Case<EnvironmentPlugin>) -> Option<Disposition> {
    case.plan().disposition::<Job>("migrate")
}

#[test]
fn a_job_that_finished_and_is_gone_is_not_run_again_before_it_changes() {
    let running = manifests(&job("m:1", None)).reconciled().reconciled();
    assert_eq!(disposition(&running), Some(Disposition::Apply));
    let complete = running.ready::<Job>("migrate").reconciled();
    let gone = complete.gone::<Job>("migrate").reconciled();
    let plan = gone.plan();
    assert_eq!(plan.disposition::<Job>("migrate"), Some(Disposition::Hold));
    assert_eq!((phase(&plan), plan.condition("Ready")), ("Ready", Some(("True", "Ready"))));
    let changed = given(gone, &job("m:2", None));
    assert_eq!(disposition(&changed), Some(Disposition::Apply), "another one runs");
    let changed = changed.reconciled().ready::<Job>("migrate").reconciled().gone::<Job>("migrate");
    assert_eq!(disposition(&changed), Some(Disposition::Hold));
}

#[test]
fn a_job_that_expired_unseen_is_taken_to_be_complete_and_one_that_was_stopped_runs_again() {
    for (ttl, expected) in [(Some(0), Disposition::Hold), (Some(5), Disposition::Hold), (None, Disposition::Apply)] {
        let gone = manifests(&job("m:1", ttl)).reconciled().reconciled().gone::<Job>("migrate");
        assert_eq!(disposition(&gone), Some(expected), "{ttl:?}");
    }
}

#[test]
fn a_failed_job_that_expired_has_failed() {
    let case = manifests(&job("m:1", Some(5))).reconciled().reconciled().status::<Job>("migrate", failed());
    let gone = case.reconciled().gone::<Job>("migrate").reconciled();
    let plan = gone.plan();
    assert_eq!(plan.disposition::<Job>("migrate"), Some(Disposition::Hold));
    assert_eq!((phase(&plan), plan.condition("Ready")), ("Failed", Some(("False", "BackoffLimitExceeded"))));
    assert_eq!(message(&plan, "DeploymentReady"), "Job migrate: it gave up");
    // without a time to live somebody has deleted it, to try again
    let case = manifests(&job("m:1", None)).reconciled().reconciled().status::<Job>("migrate", failed()).reconciled();
    assert_eq!(disposition(&case.gone::<Job>("migrate")), Some(Disposition::Apply));
}

#[test]
fn what_waits_for_a_job_goes_on_when_it_is_gone() {
    let job = job("m:1", Some(0));
    let hook = |job: &str, name: &str| {
        let mut object: serde_json::Value = serde_json::from_str(job).unwrap();
        object["metadata"]["name"] = json!(name);
        json!({ "kind": "Job", "name": name, "events": ["pre-install"], "objects": [object] })
    };
    let deployment = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": {
        "selector": { "matchLabels": { "app": "web" } }, "template": { "metadata": { "labels": { "app": "web" } }, "spec": {} } } });
    let reply = json!({ "manifests": [{ "kind": "Deployment", "name": "web", "objects": [deployment] }],
        "hooks": [hook(&job, "first"), hook(&job, "second")] });
    let case = super::template::charted(&reply);
    let case = case.reconciled().reconciled().gone::<Job>("first").reconciled();
    assert_eq!(case.plan().disposition::<Job>("second"), Some(Disposition::Apply));
    let case = case.reconciled().gone::<Job>("second").reconciled();
    let plan = case.plan();
    assert_eq!(plan.disposition::<Deployment>("web"), Some(Disposition::Apply));
    let plan = case.ready::<Deployment>("web").plan();
    assert_eq!(plan.condition("Ready"), Some(("True", "Ready")));
}

#[test]
fn a_pod_that_succeeded_and_was_collected_is_not_run_again_and_one_that_serves_is() {
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "containers": [{ "name": "p", "image": "p:1" }] } });
    let case = manifests(&pod.to_string()).reconciled();
    let ended = case.status::<Pod>("p", json!({ "phase": "Succeeded" })).reconciled().gone::<Pod>("p");
    assert_eq!(ended.plan().disposition::<Pod>("p"), Some(Disposition::Hold));
    let serving = manifests(&pod.to_string()).reconciled().ready::<Pod>("p").reconciled().gone::<Pod>("p");
    assert_eq!(serving.plan().disposition::<Pod>("p"), Some(Disposition::Apply));
}

#[test]
fn a_source_that_is_away_for_a_while_makes_nothing_forgotten() {
    let complete = manifests(&job("m:1", None)).reconciled().ready::<Job>("migrate").reconciled();
    let away = given(complete.gone::<Job>("migrate"), "a: [").reconciled();
    assert_eq!(away.plan().condition("DeploymentReady"), Some(("False", "InvalidManifest")));
    assert_eq!(disposition(&given(away, &job("m:1", None))), Some(Disposition::Hold));
}
