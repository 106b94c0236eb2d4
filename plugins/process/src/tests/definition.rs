//! P2: where the definition comes from, and what becomes of a bad one.

use super::*;

fn problem(case: Case<ProcessPlugin>) -> (Plan, String) {
    let plan = case.plan();
    let resolved = plan.conditions.iter().find(|condition| condition.kind == "DefinitionResolved").unwrap();
    let text = format!("{} {}: {}", resolved.status, resolved.reason, resolved.message);
    (plan, text)
}

/// The first definition is in use, and the source says something else now.
fn stays(case: Case<ProcessPlugin>, why: &str) {
    let first = config_map(&running(&l2o()).plan());
    let (plan, text) = problem(case);
    assert_eq!(text, format!("False {why}; version 3 stays in use"));
    assert_eq!(plan.disposition::<ConfigMap>(&first), Some(Disposition::Hold));
    assert_eq!(plan.condition("Ready"), Some(("True", "Ready")), "workers go on");
    assert_eq!(plan.status.as_ref().unwrap()["definition"]["version"], 3);
}

#[test]
fn p2_the_checksum_is_that_of_the_canonical_json() {
    let plan = whole(&l2o()).plan();
    let spelt_otherwise = serving(whole(&l2o()), definition(3, r#"{"steps":[],"name":"Lead to order"}"#)).plan();
    assert_eq!(plan.status, spelt_otherwise.status);
    // printf '{"name":"Lead to order","steps":[]}' | sha256sum
    let checksum = "sha256:753e50c94856b816f56d5b336b58aaf0b06d5945b992b57fa2042b7092268616";
    assert_eq!(plan.status.as_ref().unwrap()["definition"], json!({ "version": 3, "checksum": checksum }));
    let map = plan.child::<ConfigMap>(&config_map(&plan)).unwrap();
    assert_eq!(map.data.unwrap()["definition.json"], r#"{"name":"Lead to order","steps":[]}"#);
    assert_eq!(map.immutable, Some(true));
}

#[test]
fn p2_another_definition_is_another_config_map_and_rolls_the_workers() {
    let first = config_map(&running(&l2o()).plan());
    let case = serving(running(&l2o()), definition(4, r#"{"name":"new"}"#));
    let plan = case.plan();
    let names = plan.names::<ConfigMap>();
    assert_eq!(names.len(), 2, "workers of the version before still read theirs");
    assert_eq!(plan.disposition::<ConfigMap>(&first), Some(Disposition::Hold));
    let deployment = plan.child::<Deployment>("l2o").unwrap();
    let volumes = deployment.spec.unwrap().template.spec.unwrap().volumes.unwrap();
    assert_eq!(volumes[0].config_map.as_ref().unwrap().name, names[0]);
    let plan = case.reconciled().ready::<Deployment>("l2o").plan();
    assert_eq!(plan.names::<ConfigMap>(), [names[0].clone()], "the old one goes when the roll-out is done");
}

#[test]
fn p2_a_source_that_is_down_or_slow_leaves_the_last_good_definition_in_use() {
    for reason in ["Unavailable", "DeadlineExceeded"] {
        let case = running(&l2o()).grpc_failing(TRANSFORMATION, GET_PROCESS_DEFINITION, &asked(), reason);
        stays(case, &format!("Unavailable: {reason}: {GET_PROCESS_DEFINITION}: {reason}"));
    }
}

#[test]
fn p2_another_tenants_definition_is_not_taken() {
    let foreign = ProcessDefinition { tenant_id: "t999".into(), ..definition(4, "{}") };
    let why = "Invalid: asked for L2O_v3 of the tenant t123, the Transformation Domain sent L2O_v3 of the tenant t999";
    stays(serving(running(&l2o()), foreign), why);
}

#[test]
fn p2_what_is_no_definition_is_not_taken() {
    let why = "Invalid: version 4: it is not JSON: expected value at line 1 column 1";
    stays(serving(running(&l2o()), definition(4, "<bpmn/>")), why);
    let why = "Invalid: the definition has the version 0, it must be at least 1";
    stays(serving(running(&l2o()), definition(0, "{}")), why);
}

#[test]
fn p2_a_definition_that_no_config_map_holds_is_not_taken() {
    let content = format!(r#"{{"a":"{}"}}"#, "x".repeat((1 << 20) - 23));
    assert_eq!(
        serving(whole(&l2o()), definition(4, &content)).plan().condition("DefinitionResolved"),
        Some(("True", "Resolved")),
        "the largest"
    );
    let content = content.replace(r#""a""#, r#""ab""#);
    let why = "Invalid: version 4 has 1048562 bytes, a ConfigMap holds at most 1048561";
    stays(serving(running(&l2o()), definition(4, &content)), why);
}

#[test]
fn p2_without_any_definition_nothing_is_made() {
    let case = with_temporal(Case::new(&l2o()))
        .foreign_object(primitive("Domain", "sales", "True"))
        .foreign_object(primitive("Agent", "l2o-coach", "True"));
    let (plan, text) = problem(case);
    assert_eq!(text, "False NotFound: the Transformation Domain has no definition L2O_v3 of the tenant t123");
    assert!(plan.children.is_empty());
    assert_eq!(plan.condition("Ready"), Some(("False", "NotFound")));
    assert_eq!(plan.condition("WorkersReady"), Some(("False", "WaitingForDefinition")));
}

#[test]
fn p2_another_id_that_cannot_be_resolved_changes_no_worker() {
    let before = running(&l2o()).plan();
    let mut process = l2o();
    process.spec.definition_ref.id = "L2O_v4".into();
    let plan = running(&l2o()).change(&process).plan();
    assert_eq!(plan.condition("DefinitionResolved"), Some(("False", "NotFound")));
    assert_eq!(plan.child::<Deployment>("l2o"), before.child::<Deployment>("l2o"));
}
