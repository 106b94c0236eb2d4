//! A plugin that misbehaves as its object tells it to, for the host's tests.
//!
//! Written on the bare bindings, so that it can return what the SDK would not. Each `Hostile` names its behaviour in
//! `spec.behaviour`; `configMap` is the one that behaves. Cargo features make manifests that are refused at load time.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "failing is what it is for")]

mod bindings;

use bindings::exports::transom::plugin::reconciler::{
    Child, ChildKind, ChildOptions, Delivery, Disposition, Failure, Guest, Manifest, Plan, Request, Step,
};
use bindings::transom::plugin::host;
use bindings::transom::plugin::types::{Condition, ConditionStatus, Lookup, RandomQuery, TypeMeta};
use serde_json::{Value, json};

#[cfg_attr(not(target_family = "wasm"), allow(dead_code, reason = "exported from the component only"))]
struct Hostile;

impl Guest for Hostile {
    fn describe() -> Manifest {
        if cfg!(feature = "panic-in-describe") {
            panic!("describe panics, as its feature says");
        }
        if cfg!(feature = "loop-in-describe") {
            forever();
        }
        Manifest {
            name: "hostile".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            crds: crds(),
            children: vec![ChildKind { kind: kind("v1", "ConfigMap"), delivery: Delivery::Full }],
            reads: Vec::new(),
            endpoints: Vec::new(),
            engines: Vec::new(),
            config_schema: None,
            finalizes: true,
            ext: Vec::new(),
        }
    }

    fn reconcile(request: Request) -> Result<Step, Failure> {
        std::panic::set_hook(Box::new(|panic| host::log(host::Level::Error, &panic.to_string())));
        let object: Value = serde_json::from_str(&request.object).unwrap();
        let behaviour = object["spec"]["behaviour"].as_str().unwrap_or_default();
        let name = object["spec"]["name"].as_str().or(object["metadata"]["name"].as_str()).unwrap_or_default();
        if request.deleting && behaviour == "trapInDeletion" {
            trap();
        }
        if request.deleting {
            return Ok(Step::Done(Plan { finalized: behaviour != "finalizerNeverDone", ..plan(Vec::new()) }));
        }
        let good = || config_map(name, json!({})).to_string();
        Ok(Step::Done(match behaviour {
            "configMap" | "finalizerNeverDone" | "trapInDeletion" => plan(vec![good()]),
            "loop" => forever(),
            "trap" => trap(),
            "panic" => panic!("{name} wants a panic"),
            "allocate" => allocate(),
            "oversize" => plan(vec![oversize(name)]),
            "malformedJson" => plan(vec![format!("{{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", {name}")]),
            "notAnObject" => plan(vec!["[1, 2, 3]".into()]),
            "undeclaredKind" => {
                let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name } });
                plan(vec![good(), secret.to_string()])
            }
            "foreignNamespace" => {
                let mut foreign = config_map(name, json!({}));
                foreign["metadata"]["namespace"] = "kube-system".into();
                plan(vec![foreign.to_string()])
            }
            "duplicateChild" => plan(vec![good(), good()]),
            "tooManyChildren" => {
                plan((0..10_000).map(|i| config_map(&format!("{name}-{i}"), json!({})).to_string()).collect())
            }
            "badCondition" => {
                Plan { conditions: vec![condition("not a type!", "not a reason!", "")], ..plan(vec![good()]) }
            }
            "hugeMessage" => {
                let message = "x".repeat(1 << 20);
                Plan { conditions: vec![condition("Ready", "Huge", &message)], ..plan(vec![good()]) }
            }
            "askForever" => {
                let query = RandomQuery { label: format!("round {}", request.round), length: 8 };
                return Ok(Step::Ask(vec![Lookup::Random(query)]));
            }
            "deepJson" => {
                let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
                plan(vec![format!(
                    r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{open}{close}}}"#
                )])
            }
            other => return Err(Failure::Internal(format!("no behaviour {other:?}"))),
        }))
    }
}

fn crds() -> Vec<String> {
    let crd = include_str!("../crd.json");
    if cfg!(feature = "no-crds") {
        return Vec::new();
    }
    if cfg!(feature = "crd-is-not-json") {
        return vec![crd.replacen('{', "", 1)];
    }
    if cfg!(feature = "status-is-closed") {
        return vec![crd.replace("\"conditions\"", "\"others\"")];
    }
    vec![crd.into()]
}

fn kind(api_version: &str, kind: &str) -> TypeMeta {
    TypeMeta { api_version: api_version.into(), kind: kind.into() }
}

fn config_map(name: &str, data: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data })
}

fn condition(kind: &str, reason: &str, message: &str) -> Condition {
    Condition { type_: kind.into(), status: ConditionStatus::True, reason: reason.into(), message: message.into() }
}

fn plan(objects: Vec<String>) -> Plan {
    let apply = |object| Child { object, disposition: Disposition::Apply, options: ChildOptions::empty() };
    Plan {
        children: objects.into_iter().map(apply).collect(),
        status: None,
        conditions: vec![condition("Ready", "AsAsked", "it does what it was told")],
        events: Vec::new(),
        calls: Vec::new(),
        uses: Vec::new(),
        requeue_after_ms: None,
        finalized: false,
        ext: Vec::new(),
    }
}

/// Computes without end; the result is used, so that no optimiser takes it away.
fn forever() -> ! {
    let mut number = 0u64;
    loop {
        number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

/// A ConfigMap of 100 MB, in one piece of memory.
fn oversize(name: &str) -> String {
    let mut object = String::with_capacity(101 << 20);
    object.push_str(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":""#);
    object.push_str(name);
    object.push_str(r#""},"data":{"large":""#);
    object.extend(std::iter::repeat_n("x", 100 << 20));
    object.push_str("\"}}");
    object
}

/// Dies without a word: `unreachable` in WebAssembly.
fn trap() -> ! {
    #[cfg(target_family = "wasm")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_family = "wasm"))]
    std::process::abort()
}

/// Takes memory, and touches it, without end.
fn allocate() -> ! {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    loop {
        taken.push(std::hint::black_box(vec![1; 1 << 20]));
    }
}
