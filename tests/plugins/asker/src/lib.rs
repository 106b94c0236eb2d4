//! A plugin that asks what its object says and shows the answers, for the host's tests.
//!
//! Each answer is one line in `status.answers`: `found …`, `absent`, `denied …` or `failed Reason`.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt as _;
use transom_engines::helm::{Chart, Lookup, Release, Reply, Request};
use transom_sdk::prelude::*;
use transom_sdk::{Answer, AnyObject, CallOutcome, Protocol};

/// What to ask.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone)]
#[kube(group = "tests.transom.dev", version = "v1", kind = "Asker", namespaced, status = "AskerStatus")]
pub struct AskerSpec {
    /// The lookups, all asked in one round.
    pub ask: Vec<Ask>,
    /// Changes nothing.
    #[serde(default)]
    pub note: String,
    /// Calls of the plan, each with a ConfigMap of its key beside it, to show the order.
    #[serde(default)]
    pub call: Vec<Call>,
    /// Children as JSON, of whatever kinds.
    #[serde(default)]
    pub make: Vec<String>,
}

/// One call of the plan.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Its key.
    pub key: String,
    /// Name of the endpoint.
    pub of: String,
    /// Path.
    pub at: String,
    /// Message.
    #[serde(default)]
    pub input: String,
    /// It is left out of the plan once it has failed.
    #[serde(default)]
    pub give_up: bool,
}

/// One lookup.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone)]
#[serde(rename_all = "camelCase")]
pub struct Ask {
    /// `grpc`, `get`, `head`, `image`, `artifact`, `engine`, `chart`, `random`, `list`, `secrets`.
    pub what: String,
    /// Name of the endpoint or engine.
    #[serde(default)]
    pub of: String,
    /// Path, reference, selector or label.
    #[serde(default)]
    pub at: String,
    /// Message, input or template.
    #[serde(default)]
    pub input: String,
    /// Globs of an artifact.
    #[serde(default)]
    pub include: Vec<String>,
    /// How old an answer may be.
    #[serde(default)]
    pub max_age_seconds: u64,
}

/// What came back.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default)]
pub struct AskerStatus {
    /// In the order of `spec.ask`.
    #[serde(default)]
    pub answers: Vec<String>,
    /// What became of the calls, in the order of `spec.call`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<String>,
    /// How the children of `spec.make` fare.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<String>,
}

/// Serves `Asker`.
pub struct AskerPlugin;
transom_sdk::export!(AskerPlugin);

impl Plugin for AskerPlugin {
    fn manifest() -> Manifest<Self> {
        Manifest::new("asker", env!("CARGO_PKG_VERSION"))
            .primary::<Asker>()
            .child::<ConfigMap>(Delivery::Metadata)
            .any_child(Delivery::Status)
            .read::<ConfigMap>(Delivery::Metadata)
            .read::<Secret>(Delivery::Metadata)
            .endpoint("web", Protocol::Http, "HTTP lookups")
            .optional_endpoint("rpc", Protocol::Grpc, "gRPC lookups")
            .optional_endpoint("archives", Protocol::Http, "Artifacts from archives")
            .optional_endpoint("charts", Protocol::Oci, "Artifacts from a registry")
            .optional_endpoint("code", Protocol::Git, "Artifacts from git")
            .optional_endpoint("files", Protocol::Folder, "Artifacts from a folder")
            .engine("turner")
    }
}

impl Reconcile<Asker> for AskerPlugin {
    fn reconcile(asker: &Asker, cx: &Context) -> Result<Plan, Failure> {
        let answers: Vec<Result<String, Failure>> = asker.spec.ask.iter().map(|ask| answer(asker, ask, cx)).collect();
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut plan = cx.plan();
        let mut calls = Vec::new();
        for call in &asker.spec.call {
            plan.apply(ConfigMap {
                metadata: transom_sdk::objects::metadata(&call.key, &Default::default()),
                ..Default::default()
            });
            let outcome = cx.call(&call.key);
            if !(call.give_up && matches!(outcome, Some(CallOutcome::Failed { .. }))) {
                plan.call(&call.key, &call.of, &call.at, call.input.clone().into_bytes());
            }
            calls.push(match outcome {
                None => "unknown".into(),
                Some(CallOutcome::Pending) => "pending".into(),
                Some(CallOutcome::Succeeded(message)) => format!("succeeded {}", text(&message)),
                Some(CallOutcome::Failed { reason, .. }) => format!("failed {reason}"),
            });
        }
        let mut made = Vec::new();
        for object in &asker.spec.make {
            let object = AnyObject::parse(object)?;
            let which = format!("{} {}", object.type_meta().kind, object.name());
            let child = plan.apply_any(object);
            made.push(format!("{which} {:?}", plan.health(&child).state));
        }
        plan.status(&AskerStatus { answers, calls, made });
        plan.condition(Condition::new("Ready", true, "Answered", "all answers are there"));
        Ok(plan)
    }
}

fn answer(asker: &Asker, ask: &Ask, cx: &Context) -> Result<String, Failure> {
    let Ask { what, of, at, input, include, max_age_seconds } = ask;
    let age = Duration::from_secs(*max_age_seconds);
    let input = input.clone().into_bytes();
    Ok(match what.as_str() {
        "grpc" => shown(cx.grpc(of, at, input, age)?, |bytes| text(&bytes)),
        "get" => shown(cx.http_get(of, at, age)?, |response| format!("{} {}", response.status, text(&response.body))),
        "head" => shown(cx.http_head(of, at, age)?, |response| response.status.to_string()),
        "image" => shown(cx.image(at, age)?, |digest| digest),
        "artifact" => {
            let include: Vec<&str> = include.iter().map(String::as_str).collect();
            shown(cx.artifact(of, at, &include, age)?, |files| {
                let file = |file: &transom_sdk::File| format!("{}={}", file.path, text(&file.content));
                files.iter().map(file).collect::<Vec<_>>().join(" ")
            })
        }
        "engine" => shown(cx.engine(of, input)?, |bytes| text(&bytes)),
        "chart" => chart(asker, of, input, cx)?,
        "random" => cx.random(at, 8)?.iter().map(|byte| format!("{byte:02x}")).collect(),
        "list" => shown(cx.try_list::<ConfigMap>(at)?, |maps| {
            maps.into_iter().filter_map(|map| map.metadata.name).collect::<Vec<_>>().join(" ")
        }),
        "secrets" => shown(cx.try_list::<Secret>(at)?, |secrets| {
            secrets.into_iter().filter_map(|secret| secret.metadata.name).collect::<Vec<_>>().join(" ")
        }),
        other => return Err(Failure::internal(format!("no lookup {other:?}"))),
    })
}

/// What the engine of this name, Helm, makes of a chart with this template. The chart may look up ConfigMaps.
fn chart(asker: &Asker, engine: &str, template: Vec<u8>, cx: &Context) -> Result<String, Failure> {
    let about = b"apiVersion: v2\nname: small\nversion: 1.0.0\n".to_vec();
    let mut request = Request {
        chart: Chart::Files(vec![("Chart.yaml".into(), about), ("templates/a.yaml".into(), template)]),
        release: Release {
            name: asker.name_any(),
            namespace: asker.namespace().unwrap_or_default(),
            ..Release::default()
        },
        seed: cx.random("chart", 16)?.iter().map(|byte| format!("{byte:02x}")).collect(),
        text: true,
        ..Request::default()
    };
    let mut lookups = Vec::new();
    loop {
        request.lookups = Some(lookups.clone());
        let input = request.encode().map_err(|error| Failure::internal(error.to_string()))?;
        let output = match cx.engine(engine, input)? {
            Answer::Found(output) => output,
            other => return Ok(shown(other, |_| String::new())),
        };
        let reply = Reply::decode(&output).map_err(|error| Failure::internal(error.to_string()))?;
        if let Some(error) = reply.error {
            return Ok(format!("failed {}: {}", error.reason, error.message));
        }
        if reply.wanted.is_empty() {
            return Ok(format!("found {}", reply.template()));
        }
        for query in reply.wanted {
            let object = cx.get_in::<ConfigMap>(&query.namespace, &query.name)?;
            lookups.push(Lookup { query, object: object.and_then(|map| serde_json::to_value(map).ok()) });
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn shown<T>(answer: Answer<T>, show: impl FnOnce(T) -> String) -> String {
    match answer {
        Answer::Found(value) => format!("found {}", show(value)),
        Answer::Absent => "absent".into(),
        Answer::Denied(message) => format!("denied {message}"),
        Answer::Failed { reason, .. } => format!("failed {reason}"),
        _ => "unknown".into(),
    }
}
