//! P7: the end of a Process.

use super::*;
use crate::proto::temporal::*;

const DELETED: u64 = 1_767_225_600; // what the test kit says
const RUNNING: &str = "TaskQueue = 'l2o-tq' AND ExecutionStatus = 'Running'";

fn drained(policy: DrainPolicy) -> Process {
    let mut process = l2o();
    process.metadata.uid = Some("u-1".into());
    process.spec.drain = Drain { policy, timeout: "60s".into() };
    process
}

/// So many workflows run.
fn counting(case: Case<ProcessPlugin>, count: i64) -> Case<ProcessPlugin> {
    let request = CountRequest { namespace: "sales-process".into(), query: RUNNING.into() };
    case.grpc(TEMPORAL, COUNT, &request.encode_to_vec(), CountResponse { count }.encode_to_vec())
}

fn deleting(policy: DrainPolicy, count: i64) -> Case<ProcessPlugin> {
    counting(running(&drained(policy)).deleting(), count).now(DELETED)
}

fn drain(plan: &Plan) -> serde_json::Value {
    plan.status.as_ref().unwrap()["drain"].clone()
}

fn keys(plan: &Plan) -> Vec<&str> {
    plan.calls.iter().map(|(key, _)| key.as_str()).collect()
}

#[test]
fn p7_what_never_ran_goes_at_once() {
    assert!(Case::<ProcessPlugin>::new(&l2o()).deleting().plan().finalized);
}

#[test]
fn p7_cron_jobs_go_first() {
    let mut process = drained(DrainPolicy::Wait);
    process.spec.cleanup =
        Some(Scheduled { schedule: "@daily".into(), time_zone: None, image: None, args: Vec::new() });
    let case = counting(running(&process).deleting(), 1).now(DELETED);
    let plan = case.plan();
    assert_eq!(plan.names::<CronJob>(), [""; 0]);
    assert_eq!(plan.names::<Deployment>(), ["l2o"]);
    assert_eq!(drain(&plan)["phase"], "Stopping");
    assert_eq!(drain(&case.reconciled().plan())["phase"], "Waiting");
}

#[test]
fn p7_wait_lets_workflows_end_and_terminates_at_the_timeout() {
    let case = deleting(DrainPolicy::Wait, 3).reconciled();
    let plan = case.plan();
    let waiting = json!({ "phase": "Waiting", "running": 3, "deadline": "2026-01-01T00:01:00Z", "terminations": 0 });
    assert_eq!(drain(&plan), waiting);
    assert_eq!((plan.disposition::<Deployment>("l2o"), keys(&plan).len()), (Some(Disposition::Hold), 0));
    assert_eq!(plan.condition("Ready"), Some(("False", "Waiting")));

    let late = case.now(DELETED + 60);
    let plan = late.plan();
    assert_eq!((drain(&plan)["phase"].as_str(), keys(&plan)), (Some("Terminating"), vec!["terminate-0"]));
    assert_eq!(plan.calls[0].1, START_BATCH);
    let late = late.call_succeeded("terminate-0", Vec::new()).reconciled();
    assert_eq!(keys(&late.plan()), [""; 0], "once");
    assert_eq!(keys(&late.now(DELETED + 90).plan()), ["terminate-1"], "again when it did not help");
}

#[test]
fn p7_cancel_asks_once_and_workers_stay_until_all_have_ended() {
    let case = deleting(DrainPolicy::Cancel, 2);
    let plan = case.plan();
    assert_eq!((drain(&plan)["phase"].as_str(), keys(&plan)), (Some("Cancelling"), vec!["cancel"]));
    let case = case.call_succeeded("cancel", Vec::new()).reconciled();
    let plan = case.plan();
    assert_eq!((drain(&plan)["cancelRequested"].as_bool(), keys(&plan).len()), (Some(true), 0));
    assert_eq!(plan.disposition::<Deployment>("l2o"), Some(Disposition::Hold));

    let case = counting(case, 0);
    let plan = case.plan();
    assert_eq!(drain(&plan)["phase"], "ScalingDown");
    assert_eq!((plan.names::<Deployment>().len(), plan.names::<ConfigMap>().len()), (0, 1));
    assert!(!plan.finalized);
    assert!(case.reconciled().plan().finalized);
}

#[test]
fn p7_a_job_that_a_host_started_before_it_ended_is_not_started_again() {
    let plan = deleting(DrainPolicy::Cancel, 2).call_failed("cancel", "AlreadyExists", "").plan();
    assert_eq!((drain(&plan)["cancelRequested"].as_bool(), keys(&plan).len()), (Some(true), 0));
    let plan = deleting(DrainPolicy::Cancel, 2).call_failed("cancel", "Unavailable", "").plan();
    assert_eq!(keys(&plan), ["cancel"]);
}

#[test]
fn p7_terminate_does_not_wait() {
    let plan = deleting(DrainPolicy::Terminate, 2).plan();
    assert_eq!((drain(&plan)["phase"].as_str(), keys(&plan)), (Some("Terminating"), vec!["terminate-0"]));
}

#[test]
fn p7_workflows_that_clients_start_during_the_drain_are_terminated_and_their_parts_are_not() {
    let execution = |id: &str| Execution { workflow_id: id.into(), run_id: format!("run-of-{id}") };
    let info = |id: &str, parent: Option<&str>| ExecutionInfo {
        execution: Some(execution(id)),
        parent_execution: parent.map(execution),
        first_run_id: String::new(),
    };
    let query = format!("{RUNNING} AND StartTime > '2026-01-01T00:00:01Z'");
    let request = ListRequest { namespace: "sales-process".into(), page_size: 8, query };
    let executions = vec![info("new", None), info("child", Some("old")), info("continued", None)];
    let mut case = deleting(DrainPolicy::Wait, 4).grpc(
        TEMPORAL,
        LIST,
        &request.encode_to_vec(),
        ListResponse { executions }.encode_to_vec(),
    );
    for (id, first_run_id) in [("new", "run-of-new"), ("continued", "an earlier run")] {
        let request = DescribeRequest { namespace: "sales-process".into(), execution: Some(execution(id)) };
        let info = ExecutionInfo { first_run_id: first_run_id.into(), ..info(id, None) };
        let response = DescribeResponse { workflow_execution_info: Some(info) };
        case = case.grpc(TEMPORAL, DESCRIBE, &request.encode_to_vec(), response.encode_to_vec());
    }
    let plan = case.plan();
    assert_eq!(plan.calls, [("late-run-of-new".to_owned(), TERMINATE.to_owned())]);
    assert_eq!(keys(&case.call_failed("late-run-of-new", "NotFound", "").plan()), [""; 0], "it ended by itself");
}

#[test]
fn p7_while_temporal_is_down_nothing_goes_and_after_the_timeout_the_host_may_force_it() {
    let request = CountRequest { namespace: "sales-process".into(), query: RUNNING.into() };
    let down = deleting(DrainPolicy::Wait, 1).grpc_failing(TEMPORAL, COUNT, &request.encode_to_vec(), "Unavailable");
    let plan = down.plan();
    assert_eq!(plan.condition("Degraded"), Some(("True", "TemporalUnavailable")));
    assert_eq!(plan.disposition::<Deployment>("l2o"), Some(Disposition::Hold));
    assert_eq!(down.plan().condition("Ready"), Some(("False", "TemporalUnavailable")));
    let down = down.now(DELETED + 60);
    assert!(!down.plan().finalized, "it may be back in a moment");
    let failure = down.now(DELETED + 360).failure();
    assert_eq!(failure, [format!("TemporalUnavailable: Unavailable: {COUNT}: Unavailable")]);
}
