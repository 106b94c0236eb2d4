//! `transom:plugin@0.1.0` to and from the host's own types. A later version of the package gets a file like this one.

use serde_json::json;

use super::bindings::exports::transom::plugin::reconciler as wit;
use super::bindings::transom::plugin::types as t;
use crate::plan::contract as c;

fn kind(kind: t::TypeMeta) -> c::TypeMeta {
    c::TypeMeta { api_version: kind.api_version, kind: kind.kind }
}

fn kind_back(kind: &c::TypeMeta) -> t::TypeMeta {
    t::TypeMeta { api_version: kind.api_version.clone(), kind: kind.kind.clone() }
}

fn reference(r: t::ObjectRef) -> c::ObjectRef {
    c::ObjectRef { kind: c::TypeMeta::new(r.api_version, r.kind), namespace: r.namespace, name: r.name }
}

fn reference_back(r: &c::ObjectRef) -> t::ObjectRef {
    t::ObjectRef {
        api_version: r.kind.api_version.clone(),
        kind: r.kind.kind.clone(),
        namespace: r.namespace.clone(),
        name: r.name.clone(),
    }
}

fn problem(problem: t::Problem) -> c::Problem {
    c::Problem { reason: problem.reason, message: problem.message }
}

fn problem_back(problem: &c::Problem) -> t::Problem {
    t::Problem { reason: problem.reason.clone(), message: problem.message.clone() }
}

fn delivery(delivery: wit::Delivery) -> c::Delivery {
    match delivery {
        wit::Delivery::Full => c::Delivery::Full,
        wit::Delivery::Status => c::Delivery::Status,
        wit::Delivery::Metadata => c::Delivery::Metadata,
    }
}

fn protocol(protocol: wit::Protocol) -> &'static str {
    match protocol {
        wit::Protocol::Grpc => "grpc",
        wit::Protocol::Http => "http",
        wit::Protocol::Oci => "oci",
        wit::Protocol::Git => "git",
        wit::Protocol::Folder => "folder",
    }
}

pub(super) fn manifest(manifest: wit::Manifest) -> c::Manifest {
    c::Manifest {
        name: manifest.name,
        version: manifest.version,
        crds: manifest.crds,
        children: manifest.children.into_iter().map(|k| (kind(k.kind), delivery(k.delivery))).collect(),
        reads: manifest.reads.into_iter().map(|k| (kind(k.kind), delivery(k.delivery))).collect(),
        endpoints: manifest
            .endpoints
            .into_iter()
            .map(|e| c::Endpoint {
                name: e.name,
                protocol: protocol(e.protocol).into(),
                purpose: e.purpose,
                optional: e.optional,
            })
            .collect(),
        engines: manifest.engines,
        config_schema: manifest.config_schema,
        finalizes: manifest.finalizes,
    }
}

pub(super) fn request(request: &c::Request) -> wit::Request {
    wit::Request {
        object: request.object.clone(),
        deleting: request.deleting,
        children: request
            .children
            .iter()
            .map(|child| wit::Observed { ref_: reference_back(&child.object_ref), object: child.object.clone() })
            .collect(),
        answers: request
            .answers
            .iter()
            .map(|known| t::Answered { lookup: lookup_back(&known.lookup), answer: answer_back(&known.answer) })
            .collect(),
        calls: request
            .calls
            .iter()
            .map(|call| wit::CallResult { key: call.key.clone(), outcome: outcome_back(&call.outcome) })
            .collect(),
        config: request.config.clone(),
        round: request.round,
        ext: refusals(&request.refusals).into_iter().collect(),
    }
}

/// The entry of `request.ext` with the children that were not taken; none when all were.
fn refusals(refusals: &[c::Refusal]) -> Option<(String, String)> {
    let entry = |one: &c::Refusal| {
        let c::Refusal { child: c::ObjectRef { kind, namespace, name }, reason, message, is_final } = one;
        json!({
            "apiVersion": kind.api_version, "kind": kind.kind, "namespace": namespace, "name": name,
            "reason": reason, "message": message, "isFinal": is_final,
        })
    };
    let entries: Vec<_> = refusals.iter().map(entry).collect();
    (!entries.is_empty()).then(|| ("refusals".to_owned(), json!(entries).to_string()))
}

fn outcome_back(outcome: &c::CallOutcome) -> wit::CallOutcome {
    match outcome {
        c::CallOutcome::Pending => wit::CallOutcome::Pending,
        c::CallOutcome::Succeeded(message) => wit::CallOutcome::Succeeded(message.clone()),
        c::CallOutcome::Failed(problem) => wit::CallOutcome::Failed(problem_back(problem)),
    }
}

pub(super) fn step(step: wit::Step) -> c::Step {
    match step {
        wit::Step::Ask(lookups) => c::Step::Ask(lookups.into_iter().map(lookup).collect()),
        wit::Step::Done(plan) => c::Step::Done(Box::new(self::plan(plan))),
    }
}

pub(super) fn failure(failure: wit::Failure) -> c::Failure {
    match failure {
        wit::Failure::Invalid(violations) => c::Failure::Invalid(
            violations.into_iter().map(|v| c::Violation { field: v.field, message: v.message }).collect(),
        ),
        wit::Failure::Transient(p) => c::Failure::Transient(problem(p)),
        wit::Failure::Internal(text) => c::Failure::Internal(text),
    }
}

fn plan(plan: wit::Plan) -> c::Plan {
    c::Plan {
        children: plan.children.into_iter().map(child).collect(),
        status: plan.status,
        conditions: plan.conditions.into_iter().map(condition).collect(),
        events: plan
            .events
            .into_iter()
            .map(|e| c::Event { warning: e.type_ == t::EventType::Warning, reason: e.reason, note: e.note })
            .collect(),
        calls: plan
            .calls
            .into_iter()
            .map(|call| c::Call {
                key: call.key,
                endpoint: call.grpc.endpoint,
                path: call.grpc.path,
                message: call.grpc.message,
            })
            .collect(),
        uses: plan.uses,
        requeue_after_ms: plan.requeue_after_ms,
        finalized: plan.finalized,
    }
}

fn child(child: wit::Child) -> c::Child {
    c::Child {
        object: child.object,
        disposition: match child.disposition {
            wit::Disposition::Apply => c::Disposition::Apply,
            wit::Disposition::CreateOnce => c::Disposition::CreateOnce,
            wit::Disposition::Hold => c::Disposition::Hold,
        },
        keep: child.options.contains(wit::ChildOptions::KEEP),
        adopt: child.options.contains(wit::ChildOptions::ADOPT),
        replace: child.options.contains(wit::ChildOptions::REPLACE),
    }
}

fn condition(condition: t::Condition) -> c::Condition {
    c::Condition {
        type_: condition.type_,
        status: match condition.status {
            t::ConditionStatus::True => c::Truth::True,
            t::ConditionStatus::False => c::Truth::False,
            t::ConditionStatus::Unknown => c::Truth::Unknown,
        },
        reason: condition.reason,
        message: condition.message,
    }
}

fn lookup(lookup: t::Lookup) -> c::Lookup {
    match lookup {
        t::Lookup::Object(r) => c::Lookup::Object(reference(r)),
        t::Lookup::Objects(q) => {
            c::Lookup::Objects { kind: kind(q.kind), namespace: q.namespace, label_selector: q.label_selector }
        }
        t::Lookup::Grpc(q) => {
            c::Lookup::Grpc { endpoint: q.endpoint, path: q.path, message: q.message, max_age_ms: q.max_age_ms }
        }
        t::Lookup::Http(q) => c::Lookup::Http {
            endpoint: q.endpoint,
            head: q.method == t::HttpMethod::Head,
            path: q.path,
            max_age_ms: q.max_age_ms,
        },
        t::Lookup::Image(q) => c::Lookup::Image { reference: q.reference, max_age_ms: q.max_age_ms },
        t::Lookup::Artifact(q) => c::Lookup::Artifact {
            endpoint: q.endpoint,
            reference: q.reference,
            include: q.include,
            max_age_ms: q.max_age_ms,
        },
        t::Lookup::Engine(q) => c::Lookup::Engine { engine: q.engine, input: q.input },
        t::Lookup::Clock(seconds) => c::Lookup::Clock { seconds },
        t::Lookup::Random(q) => c::Lookup::Random { label: q.label, length: q.length },
    }
}

fn lookup_back(lookup: &c::Lookup) -> t::Lookup {
    match lookup {
        c::Lookup::Object(r) => t::Lookup::Object(reference_back(r)),
        c::Lookup::Objects { kind, namespace, label_selector } => t::Lookup::Objects(t::ObjectsQuery {
            kind: kind_back(kind),
            namespace: namespace.clone(),
            label_selector: label_selector.clone(),
        }),
        c::Lookup::Grpc { endpoint, path, message, max_age_ms } => t::Lookup::Grpc(t::GrpcQuery {
            endpoint: endpoint.clone(),
            path: path.clone(),
            message: message.clone(),
            max_age_ms: *max_age_ms,
        }),
        c::Lookup::Http { endpoint, head, path, max_age_ms } => t::Lookup::Http(t::HttpQuery {
            endpoint: endpoint.clone(),
            method: if *head { t::HttpMethod::Head } else { t::HttpMethod::Get },
            path: path.clone(),
            max_age_ms: *max_age_ms,
        }),
        c::Lookup::Image { reference, max_age_ms } => {
            t::Lookup::Image(t::ImageQuery { reference: reference.clone(), max_age_ms: *max_age_ms })
        }
        c::Lookup::Artifact { endpoint, reference, include, max_age_ms } => t::Lookup::Artifact(t::ArtifactQuery {
            endpoint: endpoint.clone(),
            reference: reference.clone(),
            include: include.clone(),
            max_age_ms: *max_age_ms,
        }),
        c::Lookup::Engine { engine, input } => {
            t::Lookup::Engine(t::EngineQuery { engine: engine.clone(), input: input.clone() })
        }
        c::Lookup::Clock { seconds } => t::Lookup::Clock(*seconds),
        c::Lookup::Random { label, length } => {
            t::Lookup::Random(t::RandomQuery { label: label.clone(), length: *length })
        }
    }
}

fn answer_back(answer: &c::Answer) -> t::Answer {
    match answer {
        c::Answer::Found(value) => t::Answer::Found(value_back(value)),
        c::Answer::Absent => t::Answer::Absent,
        c::Answer::Denied(text) => t::Answer::Denied(text.clone()),
        c::Answer::Failed(problem) => t::Answer::Failed(problem_back(problem)),
    }
}

fn value_back(value: &c::Value) -> t::Value {
    match value {
        c::Value::Object(object) => t::Value::Object(object.clone()),
        c::Value::Objects(objects) => t::Value::Objects(objects.clone()),
        c::Value::Bytes(bytes) => t::Value::Bytes(bytes.clone()),
        c::Value::Http { status, headers, body } => {
            t::Value::Http(t::HttpResponse { status: *status, headers: headers.clone(), body: body.clone() })
        }
        c::Value::Digest(digest) => t::Value::Digest(digest.clone()),
        c::Value::Files(files) => t::Value::Files(
            files.iter().map(|(path, content)| t::File { path: path.clone(), content: content.clone() }).collect(),
        ),
        c::Value::Time(seconds) => t::Value::Time(*seconds),
    }
}
