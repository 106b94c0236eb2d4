//! The same call as the host makes, and natively, in the host's types.

use std::sync::OnceLock;

use tokio::sync::Mutex;
use transom::api::plugin::Bounds;
use transom::plan::contract as host;
use transom::plugin::{Engine, EngineComponent, compile_in_child};
use transom::registry::{Loaded, Loader};
use transom_sdk::testing::{call, wire};

use crate::{Component, cache, environment};

/// What a call ended with.
pub type Answer = Result<host::Step, host::Failure>;

/// A component, loaded as the host loads it.
///
/// # Panics
///
/// When it cannot be loaded.
pub async fn load(component: &Component) -> Loaded {
    let engine = Engine::new().unwrap();
    let loader = Loader { engine, program: environment::program(), cache: cache() };
    let wasm = std::fs::read(&component.path).unwrap();
    loader.load(&component.name, &wasm, &component.digest, Bounds::default()).await.unwrap()
}

/// An engine, loaded as the host loads it. It is compiled once for all tests, and kept for the hosts that they start.
///
/// # Panics
///
/// When it cannot be loaded.
pub async fn engine(component: &Component, bounds: Bounds) -> EngineComponent {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    static ONE: Mutex<()> = Mutex::const_new(());
    let engine = ENGINE.get_or_init(|| Engine::new().unwrap());
    let wasm = std::fs::read(&component.path).unwrap();
    let _one = ONE.lock().await;
    let program = environment::program();
    let compiled = compile_in_child(engine, &program, &cache(), &component.digest, &wasm).await.unwrap();
    EngineComponent::new(engine, &compiled, &component.name, bounds).unwrap()
}

/// Calls the function that the component is made of, without WebAssembly.
pub fn natively<P: transom_sdk::Plugin>(request: wire::Request) -> Answer {
    call::<P>(request).map(step).map_err(failure)
}

/// The request as the host has it.
#[must_use]
pub fn request(request: &wire::Request) -> host::Request {
    let observed =
        |child: &wire::Observed| host::Observed { object_ref: reference(&child.ref_), object: child.object.clone() };
    assert!(request.calls.is_empty() && request.ext.is_empty(), "no test has any");
    host::Request {
        object: request.object.clone(),
        deleting: request.deleting,
        children: request.children.iter().map(observed).collect(),
        answers: request.answers.iter().map(answered).collect(),
        calls: Vec::new(),
        refusals: Vec::new(),
        config: request.config.clone(),
        round: request.round,
    }
}

fn kind(api_version: &str, kind: &str) -> host::TypeMeta {
    host::TypeMeta::new(api_version, kind)
}

fn reference(r: &wire::ObjectRef) -> host::ObjectRef {
    host::ObjectRef { kind: kind(&r.api_version, &r.kind), namespace: r.namespace.clone(), name: r.name.clone() }
}

fn answered(answered: &wire::Answered) -> host::Answered {
    let answer = match &answered.answer {
        wire::Answer::Found(wire::Value::Object(object)) => host::Answer::Found(host::Value::Object(object.clone())),
        wire::Answer::Absent => host::Answer::Absent,
        other => panic!("no test has such an answer: {other:?}"),
    };
    host::Answered { lookup: lookup(&answered.lookup), answer }
}

fn lookup(lookup: &wire::Lookup) -> host::Lookup {
    match lookup {
        wire::Lookup::Object(wanted) => host::Lookup::Object(reference(wanted)),
        other => panic!("no test has such a lookup: {other:?}"),
    }
}

fn step(step: wire::Step) -> host::Step {
    match step {
        wire::Step::Ask(lookups) => host::Step::Ask(lookups.iter().map(lookup).collect()),
        wire::Step::Done(plan) => host::Step::Done(Box::new(self::plan(plan))),
    }
}

fn plan(plan: wire::Plan) -> host::Plan {
    assert!(plan.calls.is_empty() && plan.ext.is_empty(), "no test has any");
    host::Plan {
        children: plan.children.into_iter().map(child).collect(),
        status: plan.status,
        conditions: plan.conditions.into_iter().map(condition).collect(),
        events: plan.events.into_iter().map(event).collect(),
        calls: Vec::new(),
        uses: plan.uses,
        requeue_after_ms: plan.requeue_after_ms,
        finalized: plan.finalized,
    }
}

fn child(child: wire::Child) -> host::Child {
    host::Child {
        object: child.object,
        disposition: match child.disposition {
            wire::Disposition::Apply => host::Disposition::Apply,
            wire::Disposition::CreateOnce => host::Disposition::CreateOnce,
            wire::Disposition::Hold => host::Disposition::Hold,
        },
        keep: child.options.contains(wire::ChildOptions::KEEP),
        adopt: child.options.contains(wire::ChildOptions::ADOPT),
        replace: child.options.contains(wire::ChildOptions::REPLACE),
    }
}

fn condition(condition: wire::Condition) -> host::Condition {
    host::Condition {
        type_: condition.type_,
        status: match condition.status {
            wire::ConditionStatus::True => host::Truth::True,
            wire::ConditionStatus::False => host::Truth::False,
            wire::ConditionStatus::Unknown => host::Truth::Unknown,
        },
        reason: condition.reason,
        message: condition.message,
    }
}

fn event(event: wire::Event) -> host::Event {
    host::Event { warning: event.type_ == wire::EventType::Warning, reason: event.reason, note: event.note }
}

fn failure(failure: wire::Failure) -> host::Failure {
    let violation = |v: wire::Violation| host::Violation { field: v.field, message: v.message };
    match failure {
        wire::Failure::Invalid(list) => host::Failure::Invalid(list.into_iter().map(violation).collect()),
        wire::Failure::Transient(p) => host::Failure::Transient(host::Problem { reason: p.reason, message: p.message }),
        wire::Failure::Internal(text) => host::Failure::Internal(text),
    }
}
