//! P6: canaries.

use super::*;

const CANARY: &str = "l2o-canary";
const START: u64 = 1_767_225_600;

fn canaried(image: &str) -> Process {
    let mut process = l2o();
    process.spec.image = image.into();
    process.spec.rollout.strategy = Strategy::Canary;
    process.spec.rollout.canary = Some(Canary { replicas: 1, duration: "60s".into() });
    process
}

fn image(plan: &Plan, name: &str) -> Option<String> {
    let spec = plan.child::<Deployment>(name)?.spec?.template.spec?;
    spec.containers.into_iter().next()?.image
}

/// The canary of the second version is available.
fn healthy() -> Case<ProcessPlugin> {
    let case = running(&canaried("registry.example/l2o-process:1")).change(&canaried("registry.example/l2o-process:2"));
    case.reconciled().ready::<Deployment>(CANARY).now(START).reconciled()
}

#[test]
fn p6_a_canary_runs_beside_the_stable_workers() {
    let plan = running(&canaried("registry.example/l2o-process:1")).plan();
    assert_eq!(plan.names::<Deployment>(), ["l2o"], "the first version needs none");
    let case = running(&canaried("registry.example/l2o-process:1")).change(&canaried("registry.example/l2o-process:2"));
    let plan = case.plan();
    assert_eq!(plan.disposition::<Deployment>("l2o"), Some(Disposition::Hold));
    assert_eq!(image(&plan, CANARY).as_deref(), Some("registry.example/l2o-process:2"));
    assert_eq!(plan.condition("Progressing"), Some(("True", "Canary")));
    assert_eq!(plan.condition("Ready"), Some(("True", "Ready")), "the version before works");
}

#[test]
fn p6_a_healthy_canary_is_promoted_and_goes() {
    let case = healthy().ready::<Deployment>(CANARY).now(START + 60);
    assert_eq!(case.plan().disposition::<Deployment>("l2o"), Some(Disposition::Hold), "not yet for long enough");
    let case = case.now(START + 72);
    let plan = case.plan();
    assert_eq!(image(&plan, "l2o").as_deref(), Some("registry.example/l2o-process:2"));
    assert_eq!(plan.disposition::<Deployment>(CANARY), Some(Disposition::Hold));
    let plan = case.reconciled().ready::<Deployment>("l2o").plan();
    assert_eq!(plan.names::<Deployment>(), ["l2o"]);
}

#[test]
fn p6_another_definition_proves_itself_too() {
    let before = running(&canaried("registry.example/l2o-process:1"));
    let plan = serving(before, definition(4, r#"{"name":"new"}"#)).plan();
    assert_eq!(plan.names::<Deployment>(), ["l2o", CANARY]);
    assert_eq!(plan.names::<ConfigMap>().len(), 2, "each reads its own");
}

#[test]
fn p6_a_canary_that_gives_up_degrades_and_the_stable_version_stays() {
    let failed = json!({ "observedGeneration": 9, "conditions": [
        { "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "no progress" },
    ] });
    let plan = healthy().status::<Deployment>(CANARY, failed).plan();
    assert_eq!(plan.condition("Degraded"), Some(("True", "CanaryFailed")));
    assert_eq!(plan.disposition::<Deployment>("l2o"), Some(Disposition::Hold));
}
