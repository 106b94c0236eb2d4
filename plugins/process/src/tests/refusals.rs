//! What the API server does not accept is told at once, in its words; and lookups are asked together.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::*;

const WORDS: &str =
    "could not apply it: exceeded quota: team, requested: count/x=1, used: count/x=5, limited: count/x=5";

fn message<'a>(plan: &'a Plan, kind: &str) -> &'a str {
    &plan.conditions.iter().find(|condition| condition.kind == kind).unwrap().message
}

#[test]
fn what_the_api_server_refuses_is_told_whatever_it_is() {
    let mut process = l2o();
    process.spec.cleanup =
        Some(serde_json::from_value(json!({ "schedule": "0 3 * * *", "args": ["cleanup"] })).unwrap());
    let map = config_map(&whole(&process).plan());
    let cases = [
        ("first workers", whole(&process).refused::<Deployment>("l2o", "ApplyFailed", WORDS)),
        ("definition", whole(&process).refused::<ConfigMap>(&map, "ApplyFailed", WORDS)),
        ("budget", running(&process).refused::<PodDisruptionBudget>("l2o", "ApplyFailed", WORDS)),
        ("clean-up", running(&process).refused::<CronJob>("l2o-cleanup", "ApplyFailed", WORDS)),
    ];
    for (what, case) in cases {
        let plan = case.plan();
        assert_eq!(
            (plan.condition("Ready"), message(&plan, "Ready")),
            (Some(("False", "ApplyFailed")), WORDS),
            "{what}"
        );
        assert_eq!(plan.condition("Degraded"), Some(("True", "ApplyFailed")), "{what}");
        assert_eq!(plan.condition("Progressing"), Some(("False", "ApplyFailed")), "{what}");
        let plan = case.accepted().plan();
        assert_eq!(plan.condition("Degraded").unwrap().0, "False", "{what}");
    }
    let plan = running(&process).refused_for_now::<Deployment>("l2o", "ApplyFailed", WORDS).plan();
    assert_eq!(plan.condition("WorkersReady"), Some(("False", "ApplyFailed")));
    assert_eq!(
        (plan.condition("Progressing"), plan.condition("Degraded").unwrap().0),
        (Some(("True", "ApplyFailed")), "False")
    );
}

#[test]
fn lookups_are_asked_together() {
    let mut process = l2o();
    let dependency = |name: String| DependencyRef { name };
    process.spec.dependencies.domains = (0..9).map(|i| dependency(format!("domain-{i}"))).collect();
    process.spec.dependencies.agents = (0..9).map(|i| dependency(format!("agent-{i}"))).collect();
    whole(&process).asks_together();
    running(&l2o()).asks_together();
    running(&l2o()).deleting().asks_together();
}
