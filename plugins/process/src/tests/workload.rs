//! P4, P8: workers and jobs.

use super::*;

fn environment(plan: &Plan) -> Vec<(String, String)> {
    let deployment = plan.child::<Deployment>("l2o").unwrap();
    let container = deployment.spec.unwrap().template.spec.unwrap().containers.remove(0);
    container.env.unwrap().into_iter().map(|variable| (variable.name, variable.value.unwrap_or_default())).collect()
}

#[test]
fn p4_workers_are_told_queue_limits_tags_and_where_temporal_is() {
    let config = json!({ "temporalAddress": "temporal.example:7233" });
    let environment = environment(&whole(&l2o()).config(&config).plan());
    for (name, value) in [
        ("TEMPORAL_NAMESPACE", "sales-process"),
        ("TASK_QUEUE", "l2o-tq"),
        ("PROCESS_DEFINITION_ID", "L2O_v3"),
        ("TEMPORAL_ADDRESS", "temporal.example:7233"),
        ("MAX_CONCURRENCY_PER_TENANT", "100"),
        ("METRICS_TAGS", "processType=L2O"),
    ] {
        assert!(environment.contains(&(name.into(), value.into())), "{name}={value} in {environment:?}");
    }
}

#[test]
fn p8_checks_and_clean_up_become_cron_jobs() {
    let mut process = l2o();
    let scheduled =
        |schedule: &str| Scheduled { schedule: schedule.into(), time_zone: None, image: None, args: Vec::new() };
    process.spec.sla_checks = vec![SlaCheck { name: "overdue".into(), job: scheduled("*/5 * * * *") }];
    process.spec.cleanup = Some(Scheduled {
        time_zone: Some("Europe/Berlin".into()),
        image: Some("registry.example/cleaner:1".into()),
        args: vec!["--older-than=30d".into()],
        ..scheduled("0 3 * * *")
    });
    let plan = whole(&process).plan();
    assert_eq!(plan.names::<CronJob>(), ["l2o-sla-overdue", "l2o-cleanup"]);
    insta::assert_yaml_snapshot!([plan.child::<CronJob>("l2o-sla-overdue"), plan.child::<CronJob>("l2o-cleanup")]);
}

#[test]
fn p8_names_of_cron_jobs_leave_room_for_a_time() {
    let mut process = l2o();
    process.metadata.name = Some("p".repeat(63));
    let job = Scheduled { schedule: "@daily".into(), time_zone: None, image: None, args: Vec::new() };
    process.spec.sla_checks = vec![SlaCheck { name: "n".repeat(20), job }];
    let plan = whole(&process).plan();
    let [name] = plan.names::<CronJob>().try_into().unwrap();
    let name: String = name;
    assert!(name.len() <= 52 && name.ends_with(&format!("-sla-{}", "n".repeat(20))), "{name}");
}
