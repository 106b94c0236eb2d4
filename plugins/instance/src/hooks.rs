//! Hooks: one after the other, by weight and name; Jobs and Pods are waited for.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::Value;
use transom_sdk::prelude::*;
use transom_sdk::{Answer, AnyObject, Problem, Stop};

use crate::jobs;
use crate::release::Workloads;
use crate::render::{self, Hook, Rendered};
use crate::state::{Cause, State};

/// On a live hook: for which run of which event it was made.
const RUN: &str = "caelus.io/hook-run";

/// How far the hooks of an event are.
pub(crate) enum Progress {
    /// All are done.
    Done,
    /// So many are, which is to be written down.
    Step(usize),
    /// What is waited for, among it what was refused.
    Waiting(Workloads),
    /// One has failed.
    Failed(Cause),
}

/// Runs the hooks of an event; what is to go is put into `but`.
pub(crate) fn run(
    plan: &mut Plan,
    cx: &Context,
    state: &State,
    rendered: &Rendered,
    event: &str,
    but: &mut Vec<AnyObject>,
) -> Result<Progress, Stop> {
    let run = run_of(state, event);
    let hooks: Vec<&Hook> = rendered.hooks_at(event).collect();
    let mut done = state.hooks_done;
    let mut is_open = false;
    for hook in hooks.iter().skip(state.hooks_done) {
        let name = title(&hook.named);
        let live = cx.child_any(&hook.named);
        if let Some(live) = &live
            && live.annotations()?.get(RUN) != Some(&run)
        {
            // that of an earlier run goes first, as Helm's default policy says
            but.push(hook.named.clone());
            return Ok(waiting(format!("the {name} of an earlier run is to go")));
        }
        let mut object = hook.object.clone();
        annotate(&mut object, &run);
        let planned = plan.apply_any(render::parsed(&object)?);
        if let Some(refusal) = plan.refusal(&planned) {
            return Ok(Progress::Waiting(Workloads::refused(refusal, &format!("the hook {name} ({event})"))));
        }
        let is_awaited = is_awaited(&hook.named);
        if live.is_none() {
            if is_awaited {
                let message = format!("the hook {name} ({event}) begins");
                return Ok(Progress::Waiting(Workloads::open(RUNNING, message)));
            }
            is_open = true; // what does nothing is made together with what comes next
            continue;
        }
        if is_awaited {
            let health = plan.health(&planned);
            let has_succeeded = match &*hook.named.type_meta().kind {
                "Pod" => health.reason == "Succeeded",
                _ => health.is_ready(),
            };
            if health.is_failed() {
                let log = log_tail(cx, hook)?;
                let log = log.map(|log| format!("; its log ends with: {log}")).unwrap_or_default();
                let message =
                    format!("the hook {name} ({event}) has failed: {}: {}{log}", health.reason, health.message);
                return Ok(Progress::Failed(Cause { reason: "HookFailed".into(), message }));
            }
            if !has_succeeded {
                return Ok(waiting(format!("the hook {name} ({event}) runs")));
            }
        }
        if is_open {
            continue; // first those before it
        }
        done += 1;
        if is_awaited && done < hooks.len() {
            return Ok(Progress::Step(done));
        }
    }
    if is_open {
        return Ok(Progress::Waiting(Workloads::open(RUNNING, format!("hooks are made ({event})"))));
    }
    Ok(Progress::Done)
}

/// Reason while hooks are waited for.
const RUNNING: &str = "HookRunning";

fn waiting(message: String) -> Progress {
    Progress::Waiting(Workloads::waiting(RUNNING, message))
}

fn run_of(state: &State, event: &str) -> String {
    format!("{}-{event}", state.revision)
}

/// Leaves live hooks as they are, but those that have done their work and say that they go then.
pub(crate) fn rest(
    plan: &mut Plan,
    cx: &Context,
    state: &State,
    rendered: &Rendered,
    running: Option<&str>,
) -> Result<(), Failure> {
    let granularity = rendered.granularity();
    let mut seen: Vec<&AnyObject> = Vec::new();
    for hook in &rendered.hooks {
        let Some(live) = cx.child_any(&hook.named) else { continue };
        // several manifests may stand for one object at different moments
        if seen.iter().any(|known| known.is_same_object(&hook.named)) {
            continue;
        }
        let run = live.annotations()?.remove(RUN).unwrap_or_default();
        if running.is_some_and(|event| run == run_of(state, event) && !is_done(state, rendered, event, hook)) {
            continue; // it is in the plan
        }
        if !has(hook, "hook-succeeded") && !jobs::has_expired(cx, &live, hook.ttl, granularity)? {
            seen.push(&hook.named);
            plan.hold_any(&hook.named);
        }
    }
    Ok(())
}

/// Has the hook done its work in the run of this event?
fn is_done(state: &State, rendered: &Rendered, event: &str, hook: &Hook) -> bool {
    rendered.hooks_at(event).take(state.hooks_done).any(|done| done.named.is_same_object(&hook.named))
}

/// Hooks that have done their work in this run and go then.
pub(crate) fn spent<'a>(
    state: &'a State,
    rendered: &'a Rendered,
    event: &'a str,
) -> impl Iterator<Item = AnyObject> + 'a {
    let done = rendered.hooks_at(event).take(state.hooks_done);
    done.filter(|hook| has(hook, "hook-succeeded")).map(|hook| hook.named.clone())
}

/// Hooks that go when they have failed.
pub(crate) fn failed(cx: &Context, rendered: &Rendered) -> Vec<AnyObject> {
    let hooks = rendered.hooks.iter().filter(|hook| has(hook, "hook-failed"));
    hooks
        .filter(|hook| cx.child_any(&hook.named).is_some_and(|l| l.health().is_failed()))
        .map(|h| h.named.clone())
        .collect()
}

fn has(hook: &Hook, policy: &str) -> bool {
    hook.policies.iter().any(|known| known == policy)
}

/// Jobs and Pods do something; the rest only is.
fn is_awaited(object: &AnyObject) -> bool {
    let kind = object.type_meta();
    jobs::is_job(object) || (&*kind.api_version == "v1" && &*kind.kind == "Pod")
}

fn title(object: &AnyObject) -> String {
    format!("{} {}", object.type_meta().kind, object.name())
}

fn annotate(object: &mut serde_json::Map<String, Value>, run: &str) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(serde_json::Map::new()));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(RUN.to_owned(), run.into());
    }
}

/// Characters of a log that are told.
const TAIL: usize = 512;

/// What the failed containers of a hook have said last.
fn log_tail(cx: &Context, hook: &Hook) -> Result<Option<String>, Stop> {
    let namespace = hook.named.namespace().unwrap_or_default();
    let selector = format!("batch.kubernetes.io/job-name={}", hook.named.name());
    let statuses: Vec<PodStatus> = match &*hook.named.type_meta().kind {
        "Pod" => {
            cx.child_in::<Pod>(namespace, hook.named.name()).map(|pod| pod.status()).transpose()?.into_iter().collect()
        }
        _ => match cx.try_list_in::<Pod>(namespace, &selector)? {
            Answer::Found(pods) => pods.into_iter().filter_map(|pod| pod.status).collect(),
            Answer::Failed { reason, message } => {
                return Err(Problem::passing(
                    "LookupFailed",
                    format!("pods of {}: {reason}: {message}", title(&hook.named)),
                )
                .into());
            }
            _ => Vec::new(),
        },
    };
    let containers = statuses.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ended = containers.filter_map(|container| {
        let now = container.state.as_ref().and_then(|state| state.terminated.as_ref());
        let ended = now.or_else(|| container.last_state.as_ref().and_then(|state| state.terminated.as_ref()))?;
        let message = ended.message.as_deref().map(str::trim).filter(|message| !message.is_empty())?;
        (ended.exit_code != 0).then_some((ended.finished_at.as_ref().map(|time| time.0), message))
    });
    let last = ended.max_by_key(|(time, _)| *time).map(|(_, message)| message);
    Ok(last.map(|message| {
        let skip = message.chars().count().saturating_sub(TAIL);
        message.chars().skip(skip).collect::<String>().replace('\n', " / ")
    }))
}
