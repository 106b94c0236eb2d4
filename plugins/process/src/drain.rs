//! The end of a Process: a small state machine, whose state is `status.drain`.
//!
//! ```text
//!              ┌─ Wait ──► Waiting ────┐ timeout
//! Stopping ────┼─ Cancel ► Cancelling ─┼────────► Terminating ─┐
//!              └─ Terminate ───────────┴─────────►             │
//!                 no workflow runs, in whatever phase ─────────┴──► ScalingDown ──► gone
//! ```
//!
//! Workers stay until no workflow runs: a workflow that was asked to end needs a worker for it (without one, asking has
//! no effect). Nothing is started any more: CronJobs go first, and workflows that clients start on the queue while it is
//! drained are terminated at once. Children of running workflows, and runs that continue one, are not: they belong to
//! what is waited for.
//!
//! Everything is found out anew from Temporal in each step, so it does not matter where the host was cut off.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use prost::Message as _;
use transom_sdk::prelude::*;
use transom_sdk::{CallOutcome, Kind};

use crate::proto::temporal::{self as wire, Cancellation, StartBatchRequest, TerminateRequest, Termination};
use crate::spec::{self, DrainPhase, DrainPolicy, DrainStatus, Process, ProcessStatus};
use crate::temporal::{self, IDENTITY};
use crate::{TEMPORAL, workload};

/// How old counts and lists may be.
const MAX_AGE: Duration = Duration::from_secs(1);

/// A termination of everything that did not end everything is asked for again after this long.
const TERMINATE_AGAIN_SECONDS: i64 = 30;

/// Pods that still run are waited for, but not for ever: those of a node that is lost go when somebody removes the node.
/// So is a Temporal that is down when the timeout is over.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is to be done for a Process that is being deleted. A spec that is not valid must not keep it.
pub(crate) fn plan(process: &Process, cx: &Context) -> Result<Plan, Failure> {
    let before = process.status.as_ref().and_then(|status| status.drain.clone());
    let mut plan = cx.plan();
    let has_workers = cx.children::<Deployment>().next().is_some();
    if !has_workers && cx.children::<ConfigMap>().next().is_none() && before.is_none() {
        plan.finalized(); // nothing of it ever ran
        return Ok(plan);
    }
    let deleted = process.metadata.deletion_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let deadline = deadline(process, deleted);
    let mut drain = before.unwrap_or(DrainStatus {
        phase: DrainPhase::Stopping,
        running: 0,
        deadline: String::new(),
        cancel_requested: false,
        terminations: 0,
    });
    drain.deadline = deadline.to_string();
    if drain.phase != DrainPhase::ScalingDown {
        keep(&mut plan, cx);
        if cx.children::<CronJob>().next().is_some() {
            say(&mut plan, process, &drain, "CronJobs go");
            return Ok(plan);
        }
        if !step(&mut plan, process, cx, &mut drain, deleted, deadline)? {
            return Ok(plan);
        }
        drain.phase = DrainPhase::ScalingDown;
        drain.running = 0;
        plan = cx.plan(); // without workers
    }
    // the definition goes last: pods that still run read it
    hold::<ConfigMap>(&mut plan, cx);
    if has_workers || is_running(process, cx, deleted)? {
        say(&mut plan, process, &drain, "no workflow runs any more; the workers go");
        return Ok(plan);
    }
    plan.event("Drained", "no workflow and no worker runs any more");
    plan.finalized();
    Ok(plan)
}

/// When what runs is terminated.
fn deadline(process: &Process, deleted: Timestamp) -> Timestamp {
    let drain = &process.spec.drain;
    let patience = match drain.policy {
        DrainPolicy::Terminate => 0,
        // a timeout that nobody can read does not keep a Process
        DrainPolicy::Wait | DrainPolicy::Cancel => spec::seconds("spec.drain.timeout", &drain.timeout).unwrap_or(0),
    };
    deleted.checked_add(SignedDuration::from_secs(patience.into())).unwrap_or(Timestamp::MAX)
}

/// Everything but the CronJobs stays as it is.
fn keep(plan: &mut Plan, cx: &Context) {
    hold::<Deployment>(plan, cx);
    hold::<ConfigMap>(plan, cx);
    hold::<PodDisruptionBudget>(plan, cx);
}

fn hold<K: Kind>(plan: &mut Plan, cx: &Context) {
    for live in cx.children::<K>() {
        plan.hold::<K>(live.name());
    }
}

/// One step of the drain. Returns whether it is done.
fn step(
    plan: &mut Plan,
    process: &Process,
    cx: &Context,
    drain: &mut DrainStatus,
    deleted: Timestamp,
    deadline: Timestamp,
) -> Result<bool, Failure> {
    let running = temporal::running(process, cx, MAX_AGE);
    let now = cx.now(granularity(deleted, deadline));
    let (running, now) = (running?, now?);
    let is_over = now >= deadline;
    match running {
        Ok(0) => return Ok(true),
        Ok(running) => drain.running = running,
        // the host forces a deletion whose plugin fails for too long: that is the way out when Temporal never comes back
        Err(message) if now >= deadline.checked_add(PATIENCE).unwrap_or(Timestamp::MAX) => {
            return Err(Failure::transient("TemporalUnavailable", message));
        }
        Err(message) => {
            let message = format!("{message}; nobody knows whether workflows still run");
            plan.condition(Condition::new("Ready", false, "TemporalUnavailable", &message));
            plan.condition(Condition::new("Degraded", true, "TemporalUnavailable", message));
            publish(plan, process, drain);
            return Ok(false);
        }
    }
    let shown = drain.running;
    if is_over {
        drain.phase = DrainPhase::Terminating;
        let attempt = now.as_second().saturating_sub(deadline.as_second()).max(0) / TERMINATE_AGAIN_SECONDS;
        terminate(plan, process, cx, drain, attempt);
        say(plan, process, drain, &format!("{shown} workflows are terminated"));
        return Ok(false);
    }
    late(plan, process, cx, deleted)?;
    if process.spec.drain.policy == DrainPolicy::Cancel {
        drain.phase = DrainPhase::Cancelling;
        cancel(plan, process, cx, drain);
        say(plan, process, drain, &format!("{shown} workflows were asked to end; until {deadline} they may"));
    } else {
        drain.phase = DrainPhase::Waiting;
        say(plan, process, drain, &format!("{shown} workflows still run; until {deadline} they may"));
    }
    Ok(false)
}

/// Often enough to be late by a tenth of the timeout.
fn granularity(deleted: Timestamp, deadline: Timestamp) -> Duration {
    let patience = deadline.as_second().saturating_sub(deleted.as_second());
    Duration::from_secs((patience / 10).clamp(1, 10).unsigned_abs())
}

/// Asks all workflows to end, once. Temporal does it at its own pace, for any number of them.
fn cancel(plan: &mut Plan, process: &Process, cx: &Context, drain: &mut DrainStatus) {
    let cancellation = Some(Cancellation { identity: IDENTITY.into() });
    let request = StartBatchRequest { cancellation_operation: cancellation, ..batch(process, "cancel") };
    drain.cancel_requested |= is_done(cx, "cancel");
    if !drain.cancel_requested {
        plan.call("cancel", TEMPORAL, wire::START_BATCH, request.encode_to_vec());
    }
}

/// Ends all workflows; once more with every attempt.
fn terminate(plan: &mut Plan, process: &Process, cx: &Context, drain: &mut DrainStatus, attempt: i64) {
    let key = format!("terminate-{attempt}");
    let termination = Some(Termination { identity: IDENTITY.into() });
    let request = StartBatchRequest { termination_operation: termination, ..batch(process, &key) };
    if is_done(cx, &key) {
        drain.terminations = drain.terminations.max(attempt + 1);
    }
    if drain.terminations <= attempt {
        plan.call(&key, TEMPORAL, wire::START_BATCH, request.encode_to_vec());
    }
}

fn batch(process: &Process, what: &str) -> StartBatchRequest {
    let uid = process.metadata.uid.as_deref().unwrap_or_default();
    StartBatchRequest {
        namespace: process.spec.temporal.namespace.clone(),
        visibility_query: temporal::running_query(process),
        job_id: format!("transom-{uid}-{what}"),
        reason: reason(process),
        ..StartBatchRequest::default()
    }
}

fn reason(process: &Process) -> String {
    let namespace = process.metadata.namespace.as_deref().unwrap_or_default();
    format!("the Process {namespace}/{} is being deleted", process.name())
}

/// The job was started, now or by a host that ended before it could say so.
fn is_done(cx: &Context, key: &str) -> bool {
    match cx.call(key) {
        Some(CallOutcome::Succeeded(_)) => true,
        Some(CallOutcome::Failed { reason, .. }) => reason == "AlreadyExists",
        Some(CallOutcome::Pending) | None => false,
    }
}

/// Ends what clients have started since the deletion.
fn late(plan: &mut Plan, process: &Process, cx: &Context, deleted: Timestamp) -> Result<(), Failure> {
    // the time of a deletion is rounded down to a second: what was started in that second may have been there before
    let since = deleted.checked_add(SignedDuration::from_secs(1)).unwrap_or(deleted);
    for execution in temporal::started_since(process, cx, &since.to_string(), MAX_AGE)? {
        let key = format!("late-{}", execution.run_id);
        // it has ended by itself
        if matches!(cx.call(&key), Some(CallOutcome::Failed { reason, .. }) if reason == "NotFound") {
            continue;
        }
        let request = TerminateRequest {
            namespace: process.spec.temporal.namespace.clone(),
            workflow_execution: Some(execution),
            reason: reason(process),
            identity: IDENTITY.into(),
        };
        plan.call(&key, TEMPORAL, wire::TERMINATE, request.encode_to_vec());
    }
    Ok(())
}

/// Workers that were told to go may still be at it.
fn is_running(process: &Process, cx: &Context, deleted: Timestamp) -> Result<bool, Failure> {
    let selector = format!("app.kubernetes.io/instance={},app.kubernetes.io/name={}", process.name(), workload::WORKER);
    let pods = cx.list::<Pod>(&selector)?;
    let has_ended = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    if pods.iter().all(has_ended) {
        return Ok(false);
    }
    let since = deadline(process, deleted).max(deleted);
    let waited = cx.now(Duration::from_secs(10))?.as_second().saturating_sub(since.as_second());
    Ok(u64::try_from(waited).unwrap_or(0) < PATIENCE.as_secs())
}

fn say(plan: &mut Plan, process: &Process, drain: &DrainStatus, message: &str) {
    let reason = drain.phase.to_string();
    plan.condition(Condition::new("Ready", false, &reason, message));
    plan.condition(Condition::new("Progressing", true, &reason, message));
    plan.condition(Condition::new("Degraded", false, "AsExpected", "the Process is being deleted"));
    publish(plan, process, drain);
}

fn publish(plan: &mut Plan, process: &Process, drain: &DrainStatus) {
    let definition = process.status.as_ref().and_then(|status| status.definition.clone());
    plan.status(&ProcessStatus { definition, drain: Some(drain.clone()), ..ProcessStatus::default() });
}
