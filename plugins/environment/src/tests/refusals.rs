//! What the API server does not accept is told at once, in its words.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, Service};
use transom_sdk::File;

use super::*;

const WORDS: &str =
    "could not apply it: exceeded quota: teams, requested: count/x=1, used: count/x=5, limited: count/x=5";

fn rendered() -> Case<EnvironmentPlugin> {
    let project = with_template(project(), "deployment", json!({ "type": "manifest", "path": "k8s" }));
    let text = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}\n---\n\
                {apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {}}\n";
    let file = File { path: "all.yaml".into(), content: text.as_bytes().to_vec() };
    let globs = ["*.yaml", "*.yml", "*.json"];
    placed(&environment("deployment"), &project).artifact("git", &format!("shop@{COMMIT}:k8s"), &globs, vec![file])
}

fn told(case: &Case<EnvironmentPlugin>, step: &str) -> (String, String, String) {
    let plan = case.plan();
    assert_eq!(plan.condition("Ready"), plan.condition(step), "the first cause");
    assert_eq!(message(&plan, "Ready"), message(&plan, step));
    (phase(&plan).to_owned(), plan.condition(step).unwrap().1.to_owned(), message(&plan, step).to_owned())
}

fn of(phase: &str) -> (String, String, String) {
    (phase.into(), "ApplyFailed".into(), WORDS.into())
}

#[test]
fn a_final_refusal_fails_the_environment_whatever_is_refused() {
    let fresh = || {
        let project = with_template(project(), "deployment", json!({ "type": "manifest", "path": "k8s" }));
        Case::<EnvironmentPlugin>::new(&environment("deployment")).config(&config()).object(&project)
    };
    let namespace = fresh().refused::<Namespace>("acme-shop-pr-7", "ApplyFailed", WORDS);
    assert_eq!(told(&namespace, "NamespaceReady"), of("Failed"));
    let quota = rendered().refused::<ResourceQuota>("default-quota", "ApplyFailed", WORDS);
    assert_eq!(told(&quota, "NamespaceReady"), of("Failed"));
    assert_eq!(told(&rendered().refused::<Deployment>("web", "ApplyFailed", WORDS), "DeploymentReady"), of("Failed"));
    assert_eq!(told(&rendered().refused::<Service>("web", "ApplyFailed", WORDS), "DeploymentReady"), of("Failed"));
    let ingress = rendered().refused::<k8s_openapi::api::networking::v1::Ingress>("web", "ApplyFailed", WORDS);
    assert_eq!(told(&ingress, "DeploymentReady"), of("Failed"), "one that no step looks at");

    let builds = json!({ "type": "manifest", "builds": [{ "name": "web", "sourceRef": "web" }],
        "config": { "image": "web", "ports": [{ "containerPort": 8080 }] } });
    let case = placed(&environment("deployment"), &with_template(project(), "deployment", builds));
    let job = &case.plan().names::<Job>()[0];
    assert_eq!(told(&case.refused::<Job>(job, "ApplyFailed", WORDS), "BuildReady"), of("Failed"));
}

#[test]
fn a_refusal_that_may_pass_is_told_and_waited_for() {
    let case = rendered().refused_for_now::<Deployment>("web", "ApplyFailed", WORDS);
    assert_eq!(told(&case, "DeploymentReady"), of("Deploying"));
    let quota = rendered().refused_for_now::<ResourceQuota>("default-quota", "ApplyFailed", WORDS);
    assert_eq!(told(&quota, "NamespaceReady").1, "ApplyFailed");
}

#[test]
fn an_environment_recovers_when_what_was_refused_is_accepted() {
    let case = rendered().refused::<Deployment>("web", "ApplyFailed", WORDS).reconciled();
    assert_eq!(phase(&case.plan()), "Failed");
    let plan = case.accepted().reconciled().ready::<Deployment>("web").plan();
    assert_eq!((phase(&plan), plan.condition("Ready")), ("Ready", Some(("True", "Ready"))));
}
