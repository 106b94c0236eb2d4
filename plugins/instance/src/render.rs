//! What a chart makes: by the Helm engine, as objects that the host can apply.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};
use transom_engines::helm::{self, Capabilities, Lookup, Release, Reply, Request};
use transom_sdk::prelude::*;
use transom_sdk::{Answer, AnyObject, Problem, Stop, TypeMeta, lists};

use crate::chart::Fetched;
use crate::config::Config;
use crate::isolation;
use crate::jobs;
use crate::state::{self, Inputs, LookedUp};

/// The engine in the `Plugin` record.
pub(crate) const ENGINE: &str = "helm";

/// An object of a release.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) object: AnyObject,
    /// It survives the release: claims of volumes, and what says `helm.sh/resource-policy: keep`.
    pub(crate) keeps: bool,
    /// It is in the instance's namespace for certain, so nobody else's can be meant.
    pub(crate) is_near: bool,
    /// Of a Job: how long it stays once it has finished.
    pub(crate) ttl: Option<u32>,
}

/// An object that is made at certain moments.
#[derive(Debug, Clone)]
pub(crate) struct Hook {
    pub(crate) object: Map<String, Value>,
    pub(crate) named: AnyObject,
    pub(crate) events: Vec<String>,
    pub(crate) policies: Vec<String>,
    /// Of a Job: how long it stays once it has finished.
    pub(crate) ttl: Option<u32>,
}

/// All that a chart makes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rendered {
    /// Of `crds/`.
    pub(crate) crds: Vec<AnyObject>,
    /// In Helm's order.
    pub(crate) objects: Vec<Made>,
    /// By weight, then name.
    pub(crate) hooks: Vec<Hook>,
    /// Something of it outlives it in the namespace: an object that is kept, or claims that a StatefulSet makes.
    pub(crate) has_data: bool,
}

impl Rendered {
    /// Hooks of an event such as `pre-install`, in their order.
    pub(crate) fn hooks_at<'a>(&'a self, event: &'a str) -> impl Iterator<Item = &'a Hook> {
        self.hooks.iter().filter(move |hook| hook.events.iter().any(|known| known == event))
    }

    /// How exactly the time to live of its Jobs is kept.
    pub(crate) fn granularity(&self) -> Duration {
        let all = self.objects.iter().map(|made| made.ttl).chain(self.hooks.iter().map(|hook| hook.ttl));
        jobs::granularity(all.flatten().min())
    }
}

/// Bytes that all random values of the instance come from.
pub(crate) fn seed(cx: &Context) -> Result<String, Failure> {
    Ok(cx.random("helm", 32)?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What the engine is asked.
pub(crate) fn request(inputs: &Inputs, fetched: &Fetched, seed: &str) -> Request {
    let layers = inputs.values.iter().chain(&inputs.secret);
    let seen = &inputs.seen;
    let lookup = |looked: &LookedUp| Lookup { query: looked.query.clone(), object: looked.object.clone() };
    Request {
        chart: fetched.chart.clone(),
        values: layers.map(|layer| layer.to_string().into_bytes()).collect(),
        release: Release {
            name: inputs.name.clone(),
            namespace: inputs.namespace.clone(),
            revision: seen.revision,
            is_upgrade: seen.is_upgrade,
        },
        capabilities: Capabilities {
            kube_version: seen.kube_version.clone(),
            api_versions: None,
            extra_api_versions: seen.api_versions.clone(),
        },
        now: seen.now,
        seed: seed.to_owned(),
        lookups: Some(seen.lookups.iter().map(lookup).collect()),
        include_crds: true,
        objects: true,
        ..Request::default()
    }
}

/// What inputs make whose lookups are answered.
pub(crate) fn render(
    cx: &Context,
    config: &Config,
    inputs: &Inputs,
    fetched: &Fetched,
    seed: &str,
) -> Result<Rendered, Stop> {
    let reply = ask(cx, &request(inputs, fetched, seed))?;
    if let Some(query) = reply.wanted.first() {
        let what = format!("{} {}", query.kind, query.name);
        return Err(
            Problem::new("ChartFailed", format!("the chart now looks up {what}, which it did not before")).into()
        );
    }
    rendered(&reply, config, &inputs.namespace).map_err(Stop::from)
}

/// The same for inputs that are new: answers what the chart looks up.
pub(crate) fn render_new(
    cx: &Context,
    config: &Config,
    inputs: &mut Inputs,
    fetched: &Fetched,
    seed: &str,
) -> Result<Rendered, Stop> {
    loop {
        let reply = ask(cx, &request(inputs, fetched, seed))?;
        if reply.wanted.is_empty() {
            return rendered(&reply, config, &inputs.namespace).map_err(Stop::from);
        }
        // all of them before the first `?`
        let answers: Vec<_> = reply.wanted.iter().map(|query| look_up(cx, query)).collect();
        for (query, object) in reply.wanted.into_iter().zip(answers) {
            inputs.seen.lookups.push(LookedUp { query, object: object? });
        }
    }
}

/// What is not to be seen is not there, as for `helm template`.
fn look_up(cx: &Context, query: &helm::Query) -> Result<Option<Value>, Stop> {
    let kind = TypeMeta::new(query.api_version.clone(), query.kind.clone());
    let answer = if query.name.is_empty() {
        match cx.try_list_any::<Value>(&kind, &query.namespace, "")? {
            Answer::Found(items) => {
                let items: Vec<Value> = items.into_iter().map(|item| typed(item, query)).collect();
                let kind = format!("{}List", query.kind);
                Answer::Found(json!({ "apiVersion": query.api_version, "kind": kind, "items": items }))
            }
            Answer::Failed { reason, message } => Answer::Failed { reason, message },
            _ => Answer::Absent,
        }
    } else {
        cx.try_get_any::<Value>(&kind, &query.namespace, &query.name)?
    };
    match answer {
        Answer::Found(object) => Ok(Some(typed(object, query))),
        Answer::Failed { reason, message } => {
            let what = format!("{} {}", query.kind, query.name);
            Err(Problem::passing("LookupFailed", format!("the chart looks up {what}: {reason}: {message}")).into())
        }
        _ => Ok(None),
    }
}

fn typed(mut object: Value, query: &helm::Query) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.entry("apiVersion").or_insert_with(|| query.api_version.clone().into());
        fields.entry("kind").or_insert_with(|| query.kind.clone().into());
    }
    object
}

fn ask(cx: &Context, request: &Request) -> Result<Reply, Stop> {
    let input = request.encode().map_err(|error| Failure::internal(format!("no input for the engine: {error}")))?;
    let output = match cx.engine(ENGINE, input)? {
        Answer::Found(output) => output,
        Answer::Denied(message) => return Err(Problem::passing("EngineDenied", message).into()),
        Answer::Failed { reason, message } => {
            let passes = matches!(&*reason, "DeadlineExceeded" | "Unavailable");
            return Err(Problem {
                passes,
                ..Problem::new("EngineFailed", format!("the chart cannot be rendered: {reason}: {message}"))
            }
            .into());
        }
        _ => return Err(Problem::passing("EngineFailed", "the engine gives no answer").into()),
    };
    let reply = Reply::decode(&output).map_err(|error| Failure::internal(format!("the engine's output: {error}")))?;
    match &reply.error {
        Some(error) => Err(problem(error).into()),
        None => Ok(reply),
    }
}

fn problem(error: &helm::Error) -> Problem {
    let place = match (&error.template, error.line) {
        (template, _) if template.is_empty() => String::new(),
        (template, Some(line)) => format!(" ({template} line {line})"),
        (template, None) => format!(" ({template})"),
    };
    let (reason, field) = match error.reason.as_str() {
        "InvalidValues" => ("InvalidValues", "spec.values"),
        "BadValues" => ("InvalidValues", "spec.values"),
        "BadChart" | "IncompatibleCluster" => ("InvalidChart", "spec.productTemplateVersion"),
        _ => ("ChartFailed", "spec.values"),
    };
    Problem::new(reason, format!("{field}: the chart does not take them{place}: {}", error.message.trim()))
}

/// Kinds that are in a namespace and that charts keep.
const NEAR: [&str; 5] = ["PersistentVolumeClaim", "Secret", "ConfigMap", "Service", "ServiceAccount"];

fn rendered(reply: &Reply, config: &Config, namespace: &str) -> Result<Rendered, Problem> {
    let prepared = |source: &str, object: Value| prepared(source, object, config, namespace);
    let mut seen = BTreeSet::new();
    let mut rendered = Rendered::default();
    let of = |manifests: &[helm::Manifest]| -> Vec<(String, Value)> {
        let objects = |m: &helm::Manifest| m.objects.iter().map(|o| (m.source.clone(), o.clone())).collect::<Vec<_>>();
        manifests.iter().flat_map(objects).collect()
    };
    for (source, object) in of(&reply.crds) {
        rendered.crds.push(parsed(&prepared(&source, object)?)?);
    }
    let mut made = Vec::new();
    for (source, object) in of(&reply.manifests) {
        made.push(prepared(&source, object)?);
    }
    for mut fields in lists_with_unique_keys(made) {
        let ttl = jobs::take_ttl(&mut fields);
        let keeps = keeps(&fields);
        let object = parsed(&fields)?;
        let kind = object.type_meta();
        let place = object.namespace().unwrap_or_default().to_owned();
        let is_here = place == namespace && !is_cluster_scoped(kind);
        if !seen.insert((kind.group().to_owned(), kind.kind.to_string(), place, object.name().to_owned())) {
            let message = format!("spec.productTemplateVersion: the chart makes {} {} twice", kind.kind, object.name());
            return Err(Problem::new("ChartFailed", message));
        }
        let claims = fields.get("spec").and_then(|spec| spec.get("volumeClaimTemplates"));
        rendered.has_data |= is_here && (keeps || claims.is_some());
        let is_near = is_here && NEAR.contains(&&*kind.kind);
        rendered.objects.push(Made { object, keeps, is_near, ttl });
    }
    let mut hooks: Vec<&helm::Hook> = reply.hooks.iter().collect();
    hooks.sort_by(|a, b| (a.weight, &a.manifest.name).cmp(&(b.weight, &b.manifest.name)));
    for hook in hooks {
        let source = &hook.manifest.source;
        let objects = hook.manifest.objects.iter().map(|object| prepared(source, object.clone()));
        for mut object in lists_with_unique_keys(objects.collect::<Result<_, _>>()?) {
            let ttl = jobs::take_ttl(&mut object);
            let named = parsed(&object)?;
            tell_the_log(&mut object);
            let (events, policies) = (hook.events.clone(), hook.delete_policies.clone());
            rendered.hooks.push(Hook { object, named, events, policies, ttl });
        }
    }
    Ok(rendered)
}

/// Charts are written for a plain create, which accepts more lists than server-side apply.
fn lists_with_unique_keys(objects: Vec<Map<String, Value>>) -> Vec<Map<String, Value>> {
    let mut objects: Vec<Value> = objects.into_iter().map(Value::Object).collect();
    lists::unique_keys(&mut objects);
    let fields = |object| match object {
        Value::Object(fields) => Some(fields),
        _ => None,
    };
    objects.into_iter().filter_map(fields).collect()
}

/// Kinds outside all namespaces that charts keep: they are not what a namespace is kept for.
pub(crate) fn is_cluster_scoped(kind: &TypeMeta) -> bool {
    matches!(
        (kind.group(), &*kind.kind),
        ("", "PersistentVolume")
            | ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration")
            | ("apiextensions.k8s.io", "CustomResourceDefinition")
            | ("apiregistration.k8s.io", "APIService")
            | ("networking.k8s.io", "IngressClass")
            | ("rbac.authorization.k8s.io", "ClusterRole" | "ClusterRoleBinding")
            | ("scheduling.k8s.io", "PriorityClass")
            | ("storage.k8s.io", "StorageClass")
    )
}

/// The object as text for the plan.
pub(crate) fn parsed(fields: &Map<String, Value>) -> Result<AnyObject, Problem> {
    let text = Value::Object(fields.clone()).to_string();
    AnyObject::parse(&text).map_err(|failure| Problem::new("ChartFailed", format!("the chart makes {failure}")))
}

/// The fields that the API server itself sets, which charts that were copied from a cluster have.
const SET_BY_OTHERS: [&str; 8] = [
    "creationTimestamp",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// An object as it can be planned: in the namespace of the instance, without what is not a chart's to say.
fn prepared(source: &str, object: Value, config: &Config, namespace: &str) -> Result<Map<String, Value>, Problem> {
    let wrong = |what: String| Problem::new("ChartFailed", format!("spec.productTemplateVersion: {source}: {what}"));
    let Value::Object(mut fields) = without_nulls(object) else { return Err(wrong("makes what is no object".into())) };
    fields.remove("status");
    store_texts(&mut fields);
    let text = |fields: &Map<String, Value>, name: &str| {
        fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let (Some(api_version), Some(kind)) = (text(&fields, "apiVersion"), text(&fields, "kind")) else {
        return Err(wrong("makes an object without apiVersion or kind".into()));
    };
    let Some(Value::Object(metadata)) = fields.get_mut("metadata") else {
        return Err(wrong(format!("makes a {kind} without metadata")));
    };
    for field in SET_BY_OTHERS {
        metadata.remove(field);
    }
    let Some(name) = text(metadata, "name") else {
        return Err(wrong(format!("makes a {kind} without metadata.name, which hosts need to find it again")));
    };
    metadata.remove("generateName");
    for table in ["labels", "annotations"] {
        let odd =
            metadata.get(table).and_then(Value::as_object).and_then(|table| table.iter().find(|(_, v)| !v.is_string()));
        if let Some((key, _)) = odd {
            return Err(wrong(format!("metadata.{table}.{key} of {kind} {name} is no text: quote it")));
        }
    }
    let place = text(metadata, "namespace").unwrap_or_else(|| namespace.to_owned());
    if place != namespace {
        let spelled = match api_version.split_once('/') {
            Some((group, _)) => format!("{kind}.{group}"),
            None => kind.clone(),
        };
        if !config.grants(&place, &spelled) {
            return Err(Problem::new(
                "ForeignNamespace",
                format!(
                    "spec.productTemplateVersion: {source}: {kind} {name} is to be in the namespace {place}, and an \
                     instance has only {namespace}: set the chart's values so that it stays there, or grant it in the \
                     Plugin resource: spec.config.otherNamespaces: [{{namespace: {place}, kinds: [{spelled}]}}]"
                ),
            ));
        }
    }
    let is_own = isolation::is_named(&kind, &name) || (kind == "Secret" && name == state::NAME);
    let is_here = place == namespace;
    metadata.insert("namespace".into(), place.into());
    if is_own && is_here {
        return Err(wrong(format!("{kind} {name}: the name is that of an object of the instance itself")));
    }
    let own = api_version.split('/').next().unwrap_or_default();
    if (api_version == "v1" && kind == "Namespace") || own == "transom.dev" || own == "caelus.io" {
        return Err(wrong(format!("{kind} {name}: instances may not make {kind} objects")));
    }
    Ok(fields)
}

/// `stringData` of a Secret as the API server stores it, so that live state can be compared with it.
fn store_texts(fields: &mut Map<String, Value>) {
    let is = |name: &str, value: &str| fields.get(name).and_then(Value::as_str) == Some(value);
    if !(is("apiVersion", "v1") && is("kind", "Secret")) {
        return;
    }
    let Some(Value::Object(texts)) = fields.remove("stringData") else { return };
    let data = fields.entry("data").or_insert_with(|| Value::Object(Map::new()));
    let Some(data) = data.as_object_mut() else { return };
    for (key, text) in texts {
        let bytes = text.as_str().map(|text| k8s_openapi::ByteString(text.as_bytes().to_vec()));
        let encoded = bytes.and_then(|bytes| serde_json::to_value(bytes).ok());
        data.insert(key, encoded.unwrap_or(text));
    }
}

/// Null says nothing in a manifest that is merged, and the host would look for it in vain.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        Value::Array(list) => list.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

fn keeps(fields: &Map<String, Value>) -> bool {
    let text = |pointer: &[&str]| {
        let mut value = fields.get(*pointer.first()?)?;
        for name in pointer.iter().skip(1) {
            value = value.get(*name)?;
        }
        value.as_str()
    };
    text(&["metadata", "annotations", "helm.sh/resource-policy"]) == Some("keep")
        || (text(&["kind"]) == Some("PersistentVolumeClaim") && text(&["apiVersion"]) == Some("v1"))
}

/// Containers of a hook that fails leave the end of their log where it can be read.
fn tell_the_log(object: &mut Map<String, Value>) {
    let pod = match object.get("kind").and_then(Value::as_str) {
        Some("Job") => object.get_mut("spec").and_then(|spec| spec.pointer_mut("/template/spec")),
        Some("Pod") => object.get_mut("spec"),
        _ => None,
    };
    let Some(pod) = pod else { return };
    for list in ["containers", "initContainers"] {
        for container in pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.entry("terminationMessagePolicy").or_insert_with(|| "FallbackToLogsOnError".into());
            }
        }
    }
}
