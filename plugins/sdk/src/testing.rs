//! Runs a plugin natively, without a host, and shows what it plans.
//!
//! ```text
//! let case = Case::<DomainPlugin>::new(&domain("orders")).object(&cluster("main")).object(&secret("main-app"));
//! let first = case.plan();
//! insta::assert_yaml_snapshot!(first);
//! // as if the host had carried it out and the Job had finished
//! let case = case.observe(&first).ready::<Job>(&first.names::<Job>()[0]);
//! assert_eq!(case.plan().disposition::<Deployment>("orders"), Some(Disposition::Apply));
//! ```
#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, and serde_json's index yields null where nothing is"
)]

mod plan;
mod rounds;

use std::collections::BTreeMap;
use std::fmt::Display;

pub use plan::{Condition, Disposition, Plan, PlannedChild};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::bindings::admission::exports::transom::plugin::admission;
use crate::bindings::transom::plugin::types::{Answer, Answered, Lookup, Problem};
use crate::kind::{TypeMeta, group};
use crate::manifest::{Delivery, Manifest, Plugin};
use crate::refusal::EXT;
use crate::{Child, File, HttpResponse, Kind, Verdict, component};

/// The types that cross into the component, as generated from `wit/`.
pub mod wire {
    pub use crate::bindings::exports::transom::plugin::reconciler::{
        Call, CallOutcome, CallResult, Child, ChildKind, ChildOptions, Delivery, Disposition, Endpoint, Failure,
        Manifest, Observed, Plan, Protocol, ReadKind, Request, Step, Violation,
    };
    pub use crate::bindings::transom::plugin::types::*;
}

/// What the component exports as `describe`.
///
/// # Panics
///
/// When a CRD or the configuration's schema has no JSON form.
#[must_use]
pub fn manifest<P: Plugin>() -> wire::Manifest {
    component::describe::<P>().unwrap_or_else(|error| fail("the manifest has no JSON form", error))
}

/// What the component exports as `reconcile`: one call, JSON text in and out.
///
/// # Errors
///
/// The plugin's failure.
pub fn call<P: Plugin>(request: wire::Request) -> Result<wire::Step, wire::Failure> {
    component::reconcile::<P>(request)
}

fn review(new: &impl Child, old: Option<&impl Child>, config: &Value) -> admission::Review {
    admission::Review {
        operation: if old.is_some() { admission::Operation::Update } else { admission::Operation::Create },
        object: parse(new).to_string(),
        old_object: old.map(|old| parse(old).to_string()),
        config: config.to_string(),
    }
}

/// The primary as it is after `default`, when it is created.
///
/// # Panics
///
/// When what comes out does not fit the type.
#[must_use]
pub fn defaulted<P: Plugin, K: Child + DeserializeOwned>(primary: &K) -> K {
    let text = crate::admission::default_of::<P>(&review(primary, None::<&K>, &json!({})));
    let object = text.map_or_else(|| parse(primary), |text| serde_json::from_str(&text).unwrap_or_default());
    serde_json::from_value(object).unwrap_or_else(|error| fail("the defaulted object does not fit its type", error))
}

/// What `validate` says of a primary that replaces `old`, or that is created.
pub fn validated<P: Plugin, K: Child>(primary: &K, old: Option<&K>) -> Verdict {
    validated_with::<P, K>(primary, old, &json!({}))
}

/// The same with a configuration.
pub fn validated_with<P: Plugin, K: Child>(primary: &K, old: Option<&K>, config: &Value) -> Verdict {
    Verdict::of_wire(crate::admission::verdict_of::<P>(&review(primary, old, config)))
}

/// The object in another version of its kind, by what the component exports as `convert`.
///
/// # Errors
///
/// The plugin's words.
///
/// # Panics
///
/// When what comes out does not fit the type.
pub fn converted<P: Plugin, A: Child, B: Kind + DeserializeOwned>(object: &A) -> Result<B, String> {
    let to = B::type_meta().api_version;
    let text = crate::conversion::convert::<P>(&parse(object).to_string(), &to)?;
    Ok(serde_json::from_str(&text).unwrap_or_else(|error| fail("the converted object does not fit its type", error)))
}

/// As many rounds as a host grants.
const ROUNDS: u32 = 8;

/// A primary, what lives in the cluster and what is outside it. Whatever is not given is absent.
#[must_use]
pub struct Case<P> {
    manifest: Manifest<P>,
    primary: Value,
    children: BTreeMap<Key, Value>,
    objects: BTreeMap<Key, Value>,
    refused: Vec<(Key, Answer)>,
    outside: Vec<Answered>,
    seconds: u64,
    config: Value,
    calls: Vec<wire::CallResult>,
    refusals: Vec<Refused>,
}

/// A child that is refused as long as plans have it like this.
struct Refused {
    key: Key,
    object: Value,
    reason: String,
    message: String,
    is_final: bool,
}

/// API version, kind, namespace, name.
type Key = (String, String, String, String);

impl<P: Plugin> Case<P> {
    /// A primary that was just created; namespace `default` and a UID are filled in.
    pub fn new(primary: &impl Child) -> Self {
        let mut primary = parse(primary);
        set_default(&mut primary, "namespace", json!("default"));
        set_default(&mut primary, "uid", json!("8a5c2f9e-0000-4000-8000-000000000001"));
        set_default(&mut primary, "generation", json!(1));
        Self {
            manifest: P::manifest(),
            primary,
            children: BTreeMap::new(),
            objects: BTreeMap::new(),
            refused: Vec::new(),
            outside: Vec::new(),
            seconds: 1_767_225_600, // 2026-01-01T00:00:00Z
            config: json!({}),
            calls: Vec::new(),
            refusals: Vec::new(),
        }
    }

    /// Another spec for the same primary; what lives stays, and what was refused is tried again.
    pub fn change(mut self, primary: &impl Child) -> Self {
        let mut changed = parse(primary);
        let generation = self.primary["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
        changed["metadata"] = std::mem::take(&mut self.primary["metadata"]);
        changed["status"] = std::mem::take(&mut self.primary["status"]);
        changed["metadata"]["generation"] = json!(generation);
        self.primary = changed;
        self.refusals.clear();
        self
    }

    /// The primary is being deleted.
    pub fn deleting(mut self) -> Self {
        self.primary["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        self
    }

    /// The plugin's configuration.
    pub fn config(mut self, config: &impl Serialize) -> Self {
        self.config = serde_json::to_value(config).unwrap_or_else(|error| fail("no JSON form", error));
        self
    }

    // -------------------------------------------------------- live children

    /// A live child, shown in the version that it is given in, whatever version the plugin plans it in.
    pub fn child(mut self, child: &impl Child) -> Self {
        let child = parse(child);
        let key = self.key(&child);
        self.children.retain(|known, _| !is_same(known, &key));
        self.children.insert(key, child);
        self
    }

    /// The children as they stand once the host has carried out `plan`, and the primary with the status of `plan`. The
    /// children's status is what it was: see [`ready`](Self::ready).
    pub fn observe(mut self, plan: &Plan) -> Self {
        if let Some(status) = &plan.status {
            self.primary["status"] = status.clone();
        }
        let mut before = std::mem::take(&mut self.children);
        let refused = std::mem::take(&mut self.refusals);
        for planned in &plan.children {
            let planned_key = self.key(&planned.object);
            // the live one may be shown in another version
            let key = before.keys().find(|known| is_same(known, &planned_key)).cloned().unwrap_or(planned_key);
            let live = before.remove(&key);
            let is_refused = planned.disposition != Disposition::Hold
                && refused.iter().any(|refused| is_same(&refused.key, &key) && refused.object == planned.object);
            let next = match (planned.disposition, live) {
                (Disposition::Hold, live) => live,
                (_, live) if is_refused => live,
                (Disposition::CreateOnce, Some(live)) => Some(live),
                (_, None) => {
                    let mut created = planned.object.clone();
                    created["metadata"]["generation"] = json!(1);
                    Some(created)
                }
                (Disposition::Apply, Some(live)) => Some(applied(&live, &planned.object)),
            };
            self.children.extend(next.map(|object| (key, object)));
        }
        self.refusals = refused;
        self.refusals.retain(|refused| {
            plan.children
                .iter()
                .any(|planned| planned.disposition != Disposition::Hold && planned.object == refused.object)
        });
        self
    }

    /// The API server refuses the child of this name as it is planned now, and will not accept it however often it is
    /// sent: [`Context::refusals`](crate::Context::refusals). It is refused until the plan has another object for it,
    /// or none.
    ///
    /// # Panics
    ///
    /// When the plan does not apply such a child.
    pub fn refused<K: Kind>(self, name: &str, reason: &str, message: &str) -> Self {
        self.refuse::<K>(name, reason, message, true)
    }

    /// As [`refused`](Self::refused), but it may be accepted later: a webhook is down, the API server is overloaded.
    ///
    /// # Panics
    ///
    /// When the plan does not apply such a child.
    pub fn refused_for_now<K: Kind>(self, name: &str, reason: &str, message: &str) -> Self {
        self.refuse::<K>(name, reason, message, false)
    }

    fn refuse<K: Kind>(mut self, name: &str, reason: &str, message: &str, is_final: bool) -> Self {
        let plan = self.plan();
        let is_meant =
            |child: &&PlannedChild| child.disposition != Disposition::Hold && is::<K>(&self.key(&child.object), name);
        let Some(child) = plan.children.iter().find(is_meant) else {
            panic!("the plan does not apply a {} {name}: {plan:#?}", K::type_meta().kind)
        };
        let (key, object) = (self.key(&child.object), child.object.clone());
        let (reason, message) = (reason.to_owned(), message.to_owned());
        self.refusals.retain(|refused| !is_same(&refused.key, &key));
        self.refusals.push(Refused { key, object, reason, message, is_final });
        self
    }

    /// Nothing is refused any more.
    pub fn accepted(mut self) -> Self {
        self.refusals.clear();
        self
    }

    /// As if the host had reconciled once: [`observe`](Self::observe) of the [`plan`](Self::plan).
    pub fn reconciled(self) -> Self {
        let plan = self.plan();
        self.observe(&plan)
    }

    /// The live child of this name, in whatever namespace, has this status.
    ///
    /// # Panics
    ///
    /// When there is no such child.
    pub fn status<K: Kind>(mut self, name: &str, status: Value) -> Self {
        let child = self.children.iter_mut().find(|(key, _)| is::<K>(key, name));
        match child {
            Some((_, child)) => child["status"] = status,
            None => panic!("{}", no_live::<K>(name)),
        }
        self
    }

    /// The live child of this name, in whatever namespace, does what it is for.
    ///
    /// # Panics
    ///
    /// When there is no such child.
    pub fn ready<K: Kind>(self, name: &str) -> Self {
        let child = self.children.iter().find(|(key, _)| is::<K>(key, name));
        let Some((_, child)) = child else { panic!("{}", no_live::<K>(name)) };
        let generation = child["metadata"]["generation"].as_i64().unwrap_or(1);
        let replicas = child["spec"]["replicas"].as_i64().unwrap_or(1);
        let holds = |kind: &str| json!([{ "type": kind, "status": "True", "reason": "AsWished", "message": "" }]);
        let status = match &*K::type_meta().kind {
            "Deployment" | "StatefulSet" => json!({
                "observedGeneration": generation, "replicas": replicas, "updatedReplicas": replicas,
                "readyReplicas": replicas, "availableReplicas": replicas,
            }),
            "DaemonSet" => json!({
                "observedGeneration": generation, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1,
                "numberAvailable": 1,
            }),
            "Job" => json!({ "succeeded": 1, "conditions": holds("Complete") }),
            "Pod" => json!({ "phase": "Running", "conditions": holds("Ready") }),
            "PersistentVolumeClaim" => json!({ "phase": "Bound" }),
            _ => json!({ "observedGeneration": generation, "conditions": holds("Ready") }),
        };
        self.status::<K>(name, status)
    }

    /// The live child of this name, in whatever namespace, is gone: somebody deleted it, or it expired.
    ///
    /// # Panics
    ///
    /// When there is no such child.
    pub fn gone<K: Kind>(mut self, name: &str) -> Self {
        let before = self.children.len();
        self.children.retain(|key, _| !is::<K>(key, name));
        assert!(self.children.len() < before, "{}", no_live::<K>(name));
        self
    }

    // -------------------------------------------------------------- lookups

    /// An object that lookups find; in the primary's namespace unless it names one.
    pub fn object(mut self, object: &impl Child) -> Self {
        let object = parse(object);
        self.objects.insert(self.key(&object), object);
        self
    }

    /// As [`object`](Self::object), for kinds without a Rust type.
    pub fn foreign_object(mut self, object: Value) -> Self {
        self.objects.insert(self.key(&object), object);
        self
    }

    /// Looking up this object is not allowed.
    pub fn denied<K: Kind>(mut self, name: &str, message: &str) -> Self {
        let key = self.key_of::<K>(name);
        self.refused.push((key, Answer::Denied(message.to_owned())));
        self
    }

    /// Looking up this object does not work at the moment.
    pub fn failing<K: Kind>(mut self, name: &str, reason: &str, message: &str) -> Self {
        let key = self.key_of::<K>(name);
        let problem = Problem { reason: reason.to_owned(), message: message.to_owned() };
        self.refused.push((key, Answer::Failed(problem)));
        self
    }

    /// `message` sent to `path` is answered by `response`.
    pub fn grpc(self, endpoint: &str, path: &str, message: &[u8], response: Vec<u8>) -> Self {
        let query = wire::GrpcQuery {
            endpoint: endpoint.to_owned(),
            path: path.to_owned(),
            message: message.to_vec(),
            max_age_ms: 0,
        };
        self.found(Lookup::Grpc(query), wire::Value::Bytes(response))
    }

    /// GET of `path` is answered by `response`.
    pub fn http_get(self, endpoint: &str, path: &str, response: HttpResponse) -> Self {
        let query = wire::HttpQuery {
            endpoint: endpoint.to_owned(),
            method: wire::HttpMethod::Get,
            path: path.to_owned(),
            max_age_ms: 0,
        };
        let HttpResponse { status, headers, body } = response;
        self.found(Lookup::Http(query), wire::Value::Http(wire::HttpResponse { status, headers, body }))
    }

    /// This image exists.
    pub fn image(self, reference: &str, digest: &str) -> Self {
        let query = wire::ImageQuery { reference: reference.to_owned(), max_age_ms: 0 };
        self.found(Lookup::Image(query), wire::Value::Digest(digest.to_owned()))
    }

    /// This artifact consists of these files.
    pub fn artifact(self, endpoint: &str, reference: &str, include: &[&str], files: Vec<File>) -> Self {
        let query = wire::ArtifactQuery {
            endpoint: endpoint.to_owned(),
            reference: reference.to_owned(),
            include: include.iter().map(|&glob| glob.to_owned()).collect(),
            max_age_ms: 0,
        };
        let file = |File { path, content }| wire::File { path, content };
        self.found(Lookup::Artifact(query), wire::Value::Files(files.into_iter().map(file).collect()))
    }

    /// The engine makes `output` of `input`.
    pub fn engine(self, engine: &str, input: &[u8], output: Vec<u8>) -> Self {
        let query = wire::EngineQuery { engine: engine.to_owned(), input: input.to_vec() };
        self.found(Lookup::Engine(query), wire::Value::Bytes(output))
    }

    /// The call with this key succeeded.
    pub fn call_succeeded(self, key: &str, response: Vec<u8>) -> Self {
        self.call_ended(key, wire::CallOutcome::Succeeded(response))
    }

    /// The call with this key failed.
    pub fn call_failed(self, key: &str, reason: &str, message: &str) -> Self {
        let problem = Problem { reason: reason.to_owned(), message: message.to_owned() };
        self.call_ended(key, wire::CallOutcome::Failed(problem))
    }

    fn call_ended(mut self, key: &str, outcome: wire::CallOutcome) -> Self {
        self.calls.retain(|known| known.key != key);
        self.calls.push(wire::CallResult { key: key.to_owned(), outcome });
        self
    }

    /// This question to an endpoint does not work at the moment.
    pub fn grpc_failing(mut self, endpoint: &str, path: &str, message: &[u8], reason: &str) -> Self {
        let query = wire::GrpcQuery {
            endpoint: endpoint.to_owned(),
            path: path.to_owned(),
            message: message.to_vec(),
            max_age_ms: 0,
        };
        let problem = Problem { reason: reason.to_owned(), message: format!("{path}: {reason}") };
        self.outside.insert(0, Answered { lookup: Lookup::Grpc(query), answer: Answer::Failed(problem) });
        self
    }

    /// The time in seconds since 1970; by default the first second of 2026.
    pub fn now(mut self, seconds: u64) -> Self {
        self.seconds = seconds;
        self
    }

    fn found(mut self, lookup: Lookup, value: wire::Value) -> Self {
        self.outside.retain(|known| known.lookup != lookup);
        self.outside.push(Answered { lookup, answer: Answer::Found(value) });
        self
    }

    // ------------------------------------------------------------------ run

    /// Runs all rounds.
    ///
    /// # Panics
    ///
    /// When the plugin fails, or asks without end.
    #[must_use]
    pub fn plan(&self) -> Plan {
        match self.run().1 {
            Ok(plan) => self.show(plan),
            Err(failure) => panic!("the plugin failed: {failure:#?}"),
        }
    }

    /// Runs all rounds of a reconcile that is to fail. A list of `field message`, or `reason: message`.
    ///
    /// # Panics
    ///
    /// When the plugin makes a plan.
    #[must_use]
    pub fn failure(&self) -> Vec<String> {
        match self.run().1 {
            Ok(plan) => panic!("the plugin made a plan: {plan:#?}"),
            Err(wire::Failure::Invalid(list)) => {
                list.iter().map(|violation| format!("{} {}", violation.field, violation.message)).collect()
            }
            Err(wire::Failure::Transient(problem)) => vec![format!("{}: {}", problem.reason, problem.message)],
            Err(wire::Failure::Internal(message)) => vec![message],
        }
    }

    /// The request of the steady state: every lookup of the last plan is answered beforehand. For [`call`].
    ///
    /// # Panics
    ///
    /// When the plugin asks without end.
    #[must_use]
    pub fn request(&self) -> wire::Request {
        wire::Request { round: 0, ..self.run().0 }
    }

    /// The request of the first round.
    fn first_request(&self) -> wire::Request {
        wire::Request {
            object: self.primary.to_string(),
            deleting: self.primary["metadata"]["deletionTimestamp"].is_string(),
            children: self.children.iter().map(|(key, object)| self.observed(key, object)).collect(),
            answers: Vec::new(),
            calls: self.calls.clone(),
            config: self.config.to_string(),
            round: 0,
            ext: self.ext(),
        }
    }

    fn ext(&self) -> Vec<(String, String)> {
        if self.refusals.is_empty() {
            return Vec::new();
        }
        let entry = |refused: &Refused| {
            let (api_version, kind, namespace, name) = &refused.key;
            json!({ "apiVersion": api_version, "kind": kind, "namespace": namespace, "name": name,
                "reason": refused.reason, "message": refused.message, "isFinal": refused.is_final })
        };
        let list: Vec<Value> = self.refusals.iter().map(entry).collect();
        vec![(EXT.to_owned(), json!(list).to_string())]
    }

    /// The last request and what became of it.
    fn run(&self) -> (wire::Request, Result<wire::Plan, wire::Failure>) {
        let mut request = self.first_request();
        while request.round < ROUNDS {
            match call::<P>(request.clone()) {
                Ok(wire::Step::Done(plan)) => return (request, Ok(plan)),
                Err(failure) => return (request, Err(failure)),
                Ok(wire::Step::Ask(lookups)) => {
                    let answer = |lookup| Answered { answer: self.answer(&lookup), lookup };
                    request.answers.extend(lookups.into_iter().map(answer));
                    request.round += 1;
                }
            }
        }
        panic!("the plugin still asks in round {ROUNDS}: {:#?}", request.answers)
    }

    fn observed(&self, key: &Key, object: &Value) -> wire::Observed {
        let (api_version, kind, namespace, name) = key.clone();
        let delivery = declared(&self.manifest.children, &api_version, &kind)
            .unwrap_or_else(|| fail("a child of a kind that the manifest does not declare", &kind));
        wire::Observed {
            object: shown(object, delivery).to_string(),
            ref_: wire::ObjectRef { api_version, kind, namespace, name },
        }
    }

    fn answer(&self, lookup: &Lookup) -> Answer {
        match lookup {
            Lookup::Object(wanted) => self.answer_object(wanted),
            Lookup::Objects(query) => {
                let delivery = self.readable(&query.kind.api_version, &query.kind.kind);
                let matching = self.objects.iter().filter(|((api_version, kind, namespace, _), object)| {
                    *api_version == query.kind.api_version
                        && *kind == query.kind.kind
                        && query.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
                        && selected(object, &query.label_selector)
                });
                let list = matching.map(|(_, object)| shown(object, delivery).to_string()).collect();
                Answer::Found(wire::Value::Objects(list))
            }
            Lookup::Clock(granularity) => {
                let granularity = u64::from((*granularity).max(1));
                Answer::Found(wire::Value::Time(self.seconds / granularity * granularity))
            }
            Lookup::Random(query) => {
                let bytes = query.label.bytes().chain(0..).take(query.length as usize).collect();
                Answer::Found(wire::Value::Bytes(bytes))
            }
            outside => {
                let known = self.outside.iter().find(|answered| answered.lookup == ageless(outside));
                known.map_or(Answer::Absent, |answered| answered.answer.clone())
            }
        }
    }

    fn answer_object(&self, wanted: &wire::ObjectRef) -> Answer {
        let delivery = self.readable(&wanted.api_version, &wanted.kind);
        let wire::ObjectRef { api_version, kind, namespace, name } = wanted.clone();
        let key = (api_version, kind, namespace, name);
        if let Some((_, refusal)) = self.refused.iter().find(|(refused, _)| *refused == key) {
            return refusal.clone();
        }
        let found = |object| Answer::Found(wire::Value::Object(shown(object, delivery).to_string()));
        self.objects.get(&key).map_or(Answer::Absent, found)
    }

    fn readable(&self, api_version: &str, kind: &str) -> Delivery {
        declared(&self.manifest.reads, api_version, kind)
            .unwrap_or_else(|| fail("a lookup of a kind that the manifest does not read", kind))
    }

    fn namespace(&self) -> &str {
        self.primary["metadata"]["namespace"].as_str().unwrap_or_default()
    }

    fn key_of<K: Kind>(&self, name: &str) -> Key {
        let TypeMeta { api_version, kind } = K::type_meta();
        (api_version.into_owned(), kind.into_owned(), self.namespace().to_owned(), name.to_owned())
    }

    fn key(&self, object: &Value) -> Key {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or(self.namespace()).to_owned();
        (text(&object["apiVersion"]), text(&object["kind"]), namespace, text(&metadata["name"]))
    }

    fn show(&self, plan: wire::Plan) -> Plan {
        let plan = Plan::new(plan);
        for child in &plan.children {
            let (api_version, kind, ..) = self.key(&child.object);
            if declared(&self.manifest.children, &api_version, &kind).is_none() {
                panic!("the plan has a {kind} of {api_version}, which the manifest does not declare");
            }
        }
        plan
    }
}

fn fail(what: &str, why: impl Display) -> ! {
    panic!("{what}: {why}")
}

fn parse(object: &impl Child) -> Value {
    let json = object.to_json().unwrap_or_else(|error| fail("no JSON form", error));
    serde_json::from_str(&json).unwrap_or_else(|error| fail("not JSON", error))
}

fn set_default(object: &mut Value, field: &str, value: Value) {
    let field = &mut object["metadata"][field];
    if field.is_null() {
        *field = value;
    }
}

/// The live object after an apply. Fields that others set are forgotten, which no plan should mind.
fn applied(live: &Value, desired: &Value) -> Value {
    let mut next = desired.clone();
    let generation = live["metadata"]["generation"].as_i64().unwrap_or(1);
    let changed = live["spec"] != desired["spec"];
    next["metadata"]["generation"] = json!(generation + i64::from(changed));
    if let Some(status) = live.get("status") {
        next["status"] = status.clone();
    }
    next
}

fn no_live<K: Kind>(name: &str) -> String {
    let kind = K::type_meta().kind;
    format!(
        "there is no live {kind} {name}: the plan does not ask for it, or holds it until others are there (`reconciled`)"
    )
}

fn is<K: Kind>(key: &Key, name: &str) -> bool {
    K::type_meta().serves(&key.0, &key.1) && key.3 == name
}

/// One object, in whatever versions.
fn is_same(a: &Key, b: &Key) -> bool {
    (group(&a.0), &a.1, &a.2, &a.3) == (group(&b.0), &b.1, &b.2, &b.3)
}

fn declared(kinds: &[(TypeMeta, Delivery)], api_version: &str, kind: &str) -> Option<Delivery> {
    let named = kinds.iter().find(|(declared, _)| declared.is(api_version, kind));
    let served = || kinds.iter().find(|(declared, _)| declared.serves(api_version, kind));
    named
        .or_else(served)
        .or_else(|| kinds.iter().find(|(declared, _)| *declared == TypeMeta::any()))
        .map(|(_, delivery)| *delivery)
}

/// As much of an object as the manifest asks for.
fn shown(object: &Value, delivery: Delivery) -> Value {
    let mut object = object.clone();
    if let Value::Object(fields) = &mut object {
        fields.retain(|field, _| match field.as_str() {
            "apiVersion" | "kind" | "metadata" => true,
            "status" => delivery != Delivery::Metadata,
            _ => delivery == Delivery::Full,
        });
    }
    object
}

/// Answers of a test hold for any maximum age.
fn ageless(lookup: &Lookup) -> Lookup {
    let mut lookup = lookup.clone();
    match &mut lookup {
        Lookup::Grpc(query) => query.max_age_ms = 0,
        Lookup::Http(query) => query.max_age_ms = 0,
        Lookup::Image(query) => query.max_age_ms = 0,
        Lookup::Artifact(query) => query.max_age_ms = 0,
        Lookup::Object(_) | Lookup::Objects(_) | Lookup::Engine(_) | Lookup::Clock(_) | Lookup::Random(_) => {}
    }
    lookup
}

/// Selectors by equality and existence; sets are beyond a test kit.
fn selected(object: &Value, selector: &str) -> bool {
    let label = |key: &str| object["metadata"]["labels"][key.trim()].as_str();
    selector.split(',').map(str::trim).filter(|term| !term.is_empty()).all(|term| {
        assert!(!term.contains('('), "the test kit knows no set selectors: {selector}");
        if let Some((key, value)) = term.split_once("!=") {
            label(key) != Some(value.trim())
        } else if let Some((key, value)) = term.split_once('=') {
            label(key) == Some(value.trim_start_matches('=').trim())
        } else if let Some(key) = term.strip_prefix('!') {
            label(key).is_none()
        } else {
            label(term).is_some()
        }
    })
}
