//! What Temporal's frontend is asked.

use std::time::Duration;

use prost::Message;
use transom_sdk::Answer;
use transom_sdk::prelude::*;

use crate::proto::temporal::{self, Execution, ExecutionInfo};
use crate::spec::{self, Process};
use crate::{Config, TEMPORAL};

/// Who asks, for Temporal's history.
pub(crate) const IDENTITY: &str = "transom-process";

/// How Temporal is.
pub(crate) enum Check {
    /// It serves, and the namespace exists.
    Well,
    /// It cannot be asked, or says that it does not serve.
    Unreachable(String),
    /// It serves, and there is no such namespace.
    NoNamespace(String),
}

impl Check {
    pub(crate) fn is_well(&self) -> bool {
        matches!(self, Self::Well)
    }

    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// Reason and message when it is not well.
    pub(crate) fn problem(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Well => None,
            Self::Unreachable(message) => Some(("TemporalUnavailable", message)),
            Self::NoNamespace(message) => Some(("NamespaceNotFound", message)),
        }
    }
}

/// Asks whether Temporal is well and has the namespace. Processes of one namespace share the answers.
pub(crate) fn check(process: &Process, cx: &Context, config: &Config) -> Result<Check, Failure> {
    let namespace = &process.spec.temporal.namespace;
    let interval = spec::seconds("config.temporalCheckInterval", &config.temporal_check_interval)?;
    let max_age = Duration::from_secs(interval.into());
    let health = temporal::HealthCheckRequest { service: temporal::SERVICE.into() };
    let health = cx.grpc(TEMPORAL, temporal::HEALTH, health.encode_to_vec(), max_age);
    let described = temporal::DescribeNamespaceRequest { namespace: namespace.clone() };
    let described = cx.grpc(TEMPORAL, temporal::DESCRIBE_NAMESPACE, described.encode_to_vec(), max_age);
    let (health, described) = (health?, described?);
    match answered::<temporal::HealthCheckResponse>(health) {
        Ok(Some(health)) if health.status != temporal::SERVING => {
            return Ok(Check::Unreachable("Temporal says that it does not serve".into()));
        }
        // without health service; the namespace tells
        Ok(_) => {}
        Err(message) if message.starts_with("Unimplemented") => {}
        Err(message) => return Ok(Check::Unreachable(message)),
    }
    let missing = || {
        let message = format!(
            "Temporal has no namespace {namespace}: register it, or correct spec.temporal.namespace of the Process"
        );
        Check::NoNamespace(message)
    };
    Ok(match answered::<temporal::DescribeNamespaceResponse>(described) {
        Ok(Some(response)) => match response.namespace_info {
            Some(info) if info.state != temporal::DELETED => Check::Well,
            _ => missing(),
        },
        Ok(None) => missing(),
        Err(message) => Check::Unreachable(message),
    })
}

/// The workflows of a Process that run.
pub(crate) fn running_query(process: &Process) -> String {
    format!("TaskQueue = '{}' AND ExecutionStatus = 'Running'", process.spec.temporal.task_queue)
}

/// How many workflows run, or why nobody knows. Without the namespace there are none.
pub(crate) fn running(process: &Process, cx: &Context, max_age: Duration) -> Result<Result<i64, String>, Failure> {
    let namespace = process.spec.temporal.namespace.clone();
    let request = temporal::CountRequest { namespace, query: running_query(process) };
    let answer = cx.grpc(TEMPORAL, temporal::COUNT, request.encode_to_vec(), max_age)?;
    Ok(answered::<temporal::CountResponse>(answer).map(|response| response.map_or(0, |response| response.count)))
}

/// Some of the workflows that were started after `since` (RFC 3339) by nobody but a client: no children of other
/// workflows, no continuations of runs that began before. None when Temporal cannot tell.
pub(crate) fn started_since(
    process: &Process,
    cx: &Context,
    since: &str,
    max_age: Duration,
) -> Result<Vec<Execution>, Failure> {
    let namespace = process.spec.temporal.namespace.clone();
    let query = format!("{} AND StartTime > '{since}'", running_query(process));
    let request = temporal::ListRequest { namespace, page_size: MAX_LATE, query };
    let answer = cx.grpc(TEMPORAL, temporal::LIST, request.encode_to_vec(), max_age)?;
    let Ok(Some(list)) = answered::<temporal::ListResponse>(answer) else { return Ok(Vec::new()) };
    let of_clients = list.executions.into_iter().filter(|info| info.parent_execution.is_none());
    let executions: Vec<Execution> = of_clients.filter_map(|info: ExecutionInfo| info.execution).collect();
    // asked together
    let described: Vec<_> = executions.iter().map(|execution| begins_a_chain(process, cx, execution)).collect();
    let mut late = Vec::new();
    for (execution, begins) in executions.into_iter().zip(described) {
        if begins? {
            late.push(execution);
        }
    }
    Ok(late)
}

/// At most this many are looked at, and ended, at a time: as many calls as a plan has room for beside its own.
const MAX_LATE: i32 = 8;

/// A run that another has continued as, or that was retried, has the first run of its chain in it.
fn begins_a_chain(process: &Process, cx: &Context, execution: &Execution) -> Result<bool, Failure> {
    let namespace = process.spec.temporal.namespace.clone();
    let request = temporal::DescribeRequest { namespace, execution: Some(execution.clone()) };
    let answer = cx.grpc(TEMPORAL, temporal::DESCRIBE, request.encode_to_vec(), Duration::from_secs(3600))?;
    let Ok(Some(described)) = answered::<temporal::DescribeResponse>(answer) else { return Ok(false) };
    let first = described.workflow_execution_info.map(|info| info.first_run_id).unwrap_or_default();
    Ok(first == execution.run_id)
}

/// The message, none when what was asked for is not there, or why there is none.
fn answered<M: Message + Default>(answer: Answer<Vec<u8>>) -> Result<Option<M>, String> {
    match answer {
        Answer::Found(message) => {
            M::decode(&*message).map(Some).map_err(|error| format!("Temporal's answer cannot be read: {error}"))
        }
        Answer::Absent => Ok(None),
        Answer::Denied(message) => Err(message),
        Answer::Failed { reason, message } => Err(format!("{reason}: {message}")),
        other => Err(format!("an answer of a kind that this plugin does not know: {other:?}")),
    }
}
