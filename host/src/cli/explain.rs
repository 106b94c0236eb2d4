//! `transom explain`

use std::net::SocketAddr;

use anyhow::{Context, bail};
use kube::Api;
use kube::api::DynamicObject;
use serde_json::{Map, Value, json};

use super::record::{self, DEFAULT_HOST};
use super::subject::Subject;
use crate::api::names;
use crate::control::serving;
use crate::overlay::{Laid, Trace};
use crate::plan::check::Scope;
use crate::plan::contract::{Answer, Child, Disposition, ObjectRef};
use crate::plan::diff;
use crate::plan::owners::Owned;
use crate::plan::path::{Part, Path};
use crate::record::{Bundle, Outcome};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    transom explain Web shop                                # version, lookups, children, conditions\n  \
    transom explain Web shop Deployment/shop:spec.replicas  # who set this field, and to what")]
pub struct Args {
    /// Kind of the object: `Web`, `Web.bench.dev`.
    kind: String,
    /// Name of the object.
    name: String,
    /// A field of a child: `Deployment/orders:spec.replicas`, or the child and the path apart. Items of lists by
    /// number: `spec.template.spec.containers[0].image`.
    #[arg(num_args = 0..=2)]
    field: Vec<String>,
    /// Namespace of the object (default: that of the kubeconfig's context).
    #[arg(long, short)]
    namespace: Option<String>,
    /// Where the host serves its recordings: `kubectl port-forward` brings the 8081 of its pod here.
    #[arg(long, value_name = "ADDRESS", env = "TRANSOM_HOST", default_value_t = DEFAULT_HOST)]
    host: SocketAddr,
    /// How the result looks.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    Text,
    Yaml,
    Json,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let namespace = super::namespace(self.namespace.clone()).await;
        let subject = Subject::find(&self.kind, &namespace, &self.name).await?;
        let kind = format!("{}.{}", subject.reference.kind.kind, subject.reference.kind.group());
        let asked = record::ask(self.host, &kind, &subject.reference.namespace, &self.name, 1).await;
        // a host for another object of this name, in another cluster, may be what answers
        let uid = |bundle: &Bundle| {
            let object: Value = serde_json::from_str(&bundle.request.object).unwrap_or_default();
            object.pointer("/metadata/uid").and_then(Value::as_str).map(ToOwned::to_owned)
        };
        let (bundle, unknown) = match asked {
            Ok(bundles) => match bundles.into_iter().find(|b| uid(b).as_ref() == Some(&subject.primary.uid)) {
                Some(bundle) => (Some(bundle), None),
                None => (None, Some("the host has no recording of this object".to_owned())),
            },
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        let mut all = object(&subject, bundle.as_ref());
        if let Some(unknown) = unknown {
            all.insert(
                "unknown".into(),
                format!("lookups, held children and what the plugin asks for: {unknown}").into(),
            );
        }
        if !self.field.is_empty() {
            let (child, path) = split(&self.field)?;
            all.insert("field".into(), field(&subject, bundle.as_ref(), &child, &path).await?);
        }
        let all = Value::Object(all);
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&all)?),
            Output::Yaml => print!("{}", serde_saphyr::to_string(&all)?),
            Output::Text => print!("{}", text(&all, 0)),
        }
        Ok(())
    }
}

/// `Kind/name:path`, or `Kind/name` and `path`.
fn split(field: &[String]) -> anyhow::Result<(String, String)> {
    let parts = match field {
        [one] => one.split_once(':').map(|(child, path)| (child.to_owned(), path.to_owned())),
        [child, path] => Some((child.clone(), path.clone())),
        _ => None,
    };
    parts
        .filter(|(child, path)| child.contains('/') && !path.is_empty())
        .context("FIELD must be like Deployment/orders:spec.replicas")
}

/// Everything about the object itself.
fn object(subject: &Subject, bundle: Option<&Bundle>) -> Map<String, Value> {
    let (version, digest) = serving::of_record(&subject.plugin, &subject.primary);
    let primary = subject.primary.value();
    let conditions = primary.pointer("/status/conditions").cloned().unwrap_or_else(|| json!([]));
    let children: Vec<Value> = subject
        .children
        .iter()
        .map(|(reference, child)| {
            let health = super::describe::health(&child.value(), child.deleting);
            json!({"child": reference.to_string(), "health": health})
        })
        .collect();
    let mut all = Map::new();
    all.insert("object".into(), subject.reference.to_string().into());
    all.insert("plugin".into(), json!({"name": subject.plugin_name(), "version": version, "digest": digest}));
    all.insert("generation".into(), subject.primary.generation.into());
    all.insert("conditions".into(), conditions);
    all.insert("children".into(), children.into());
    let Some(bundle) = bundle else { return all };
    if Some(&bundle.plugin.digest) != digest.as_ref() {
        all.insert("recordedWith".into(), json!(bundle.plugin));
    }
    let used = match &bundle.outcome {
        Outcome::Planned(plan) => plan.uses.clone(),
        _ => (0..).zip(&bundle.request.answers).map(|(i, _)| i).collect(),
    };
    let answers = bundle.request.answers.iter().enumerate();
    let lookups: Vec<Value> = answers
        .filter(|(i, _)| used.iter().any(|used| *used as usize == *i))
        .map(|(_, answered)| {
            let (state, message) = match &answered.answer {
                Answer::Found(_) => ("found", String::new()),
                Answer::Absent => ("absent", String::new()),
                Answer::Denied(why) => ("denied", why.clone()),
                Answer::Failed(problem) => ("failed", format!("{}: {}", problem.reason, problem.message)),
            };
            json!({"lookup": answered.lookup, "state": state, "message": message})
        })
        .collect();
    all.insert("lookups".into(), lookups.into());
    if let Outcome::Planned(plan) = &bundle.outcome {
        let held = plan.children.iter().filter(|child| child.disposition == Disposition::Hold);
        let held: Vec<Value> = held.map(|child| waiting(&child.object)).collect();
        all.insert("held".into(), json!(held));
    }
    if let Some(overlays) = &bundle.overlays {
        let said = overlays.outcomes.iter().map(|outcome| match &outcome.refused {
            None => json!({"overlay": outcome.overlay, "state": "applied"}),
            Some(why) => json!({"overlay": outcome.overlay, "state": why.reason, "message": why.message}),
        });
        all.insert("overlays".into(), said.collect::<Vec<_>>().into());
    }
    all.insert("lastError".into(), json!(bundle.carried_out.error));
    all.insert("nextLookAt".into(), json!(bundle.next_look_at));
    all
}

/// A held child, and what it waits for, if its plugin says.
fn waiting(object: &str) -> Value {
    let object: Value = serde_json::from_str(object).unwrap_or_default();
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    let name = |path| text(path).unwrap_or_default();
    json!({
        "child": format!("{} {}", name("/kind"), name("/metadata/name")),
        "waitsFor": text("/metadata/annotations/transom.dev~1waits-for"),
    })
}

/// Who put a field of a child there.
async fn field(subject: &Subject, bundle: Option<&Bundle>, child: &str, path: &str) -> anyhow::Result<Value> {
    let steps = steps(path)?;
    let (kind, name) = child.split_once('/').unwrap_or_default();
    let is_meant = |r: &&ObjectRef| r.kind.kind.eq_ignore_ascii_case(kind) && r.name == name;
    let Some(reference) = subject.children.keys().find(is_meant) else {
        let names: Vec<String> = subject.children.keys().map(|r| format!("{}/{}", r.kind.kind, r.name)).collect();
        bail!("{} has no child {child}; it has {}", subject.reference, names.join(", "));
    };
    let served = subject.cluster.served(&reference.kind).await?;
    let (client, resource) = (subject.cluster.client().clone(), served.api_resource());
    let api: Api<DynamicObject> = match served.scope {
        Scope::Namespaced => Api::namespaced_with(client, &reference.namespace, &resource),
        Scope::Cluster => Api::all_with(client, &resource),
    };
    let live = serde_json::to_value(api.get(name).await.with_context(|| reference.to_string())?)?;
    let owners = owners(&live, &steps);
    let is_ours = |manager: &String| *manager == names::field_manager(&subject.plugin_name());
    let value = at(&live, &steps);
    let asked = match bundle.map(|bundle| &bundle.outcome) {
        Some(Outcome::Planned(plan)) => {
            let same = |object: &Value| {
                let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
                let namespace = text("/metadata/namespace");
                text("/kind") == reference.kind.kind
                    && text("/metadata/name") == name
                    && (namespace.is_empty() || namespace == reference.namespace)
            };
            let parsed = |child: &Child| serde_json::from_str::<Value>(&child.object).ok();
            let mut found = plan.children.iter().filter_map(|child| Some((parsed(child)?, child.disposition)));
            found.find(|(object, _)| same(object))
        }
        _ => None,
    };
    let is_held = matches!(asked, Some((_, Disposition::Hold)));
    let asked = asked.map(|(object, _)| object);
    let laid = laid(bundle, &subject.reference.namespace);
    let overlaid = laid.as_ref().and_then(|laid| laid.children.iter().find(|child| child.reference == *reference));
    let asked = overlaid.map(|child| child.body.clone()).or(asked);
    let trace = laid.as_ref().and_then(|laid| {
        let is_it = |trace: &&Trace| {
            trace.child == *reference && asked.as_ref().is_some_and(|object| is_at(&trace.path, &steps, object))
        };
        laid.traces.iter().rev().find(is_it)
    });
    let overlay = trace.map(|trace| json!({"name": trace.overlay, "patch": format!("spec.patches[{}]", trace.patch)}));
    let wanted = asked.as_ref().and_then(|object| at(object, &steps));
    let state = match (&asked, wanted, value) {
        (None, ..) => "unknown",
        (Some(_), None, _) if is_held => "held as it is",
        (Some(_), None, _) => "not asked for by the plugin",
        (Some(_), Some(wanted), Some(value)) if wanted == value => "as asked",
        (Some(_), Some(_), _) if is_held => "held as it is, and asked for later",
        (Some(object), Some(_), _) => {
            let differences = diff::differences(object, &live, Owned::No, usize::MAX);
            let drifted = differences.iter().any(|difference| is_at(&difference.path, &steps, object));
            if drifted { "drifted" } else { "normalised by the API server" }
        }
    };
    let from = if owners.iter().any(is_ours) {
        if overlay.is_some() { "overlay" } else { "plugin" }
    } else if owners.is_empty() {
        "default of the API server, or not set"
    } else {
        "another manager"
    };
    Ok(json!({"child": reference.to_string(), "path": path, "live": value, "asked": wanted, "state": state,
        "from": from, "overlay": overlay, "managers": owners}))
}

/// The recorded plan with its overlays.
fn laid(bundle: Option<&Bundle>, namespace: &str) -> Option<Laid> {
    let bundle = bundle?;
    match (&bundle.outcome, &bundle.overlays) {
        (Outcome::Planned(plan), Some(overlays)) => overlays.on_plan(plan, namespace).ok(),
        _ => None,
    }
}

/// Is the place of a change the field, above it or below it?
fn is_at(path: &Path, steps: &[Step], object: &Value) -> bool {
    let mut value = Some(object);
    path.0.iter().zip(steps).all(|(part, step)| {
        let there = value;
        match step {
            Step::Field(name) => {
                value = there.and_then(|value| value.get(name));
                matches!(part, Part::Field(changed) if changed == name)
            }
            Step::Item(index) => {
                value = there.and_then(|value| value.get(*index));
                value.is_some_and(|item| part.is_item(*index, item))
            }
        }
    })
}

/// One step of a path.
#[derive(Debug, PartialEq)]
enum Step {
    Field(String),
    Item(usize),
}

/// `spec.containers[0].image`; a name with dots is quoted: `metadata.labels["a.b/c"]`.
fn steps(path: &str) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix("[\"") {
            let (name, after) = inner.split_once("\"]").context("FIELD: [\" is not closed by \"]")?;
            steps.push(Step::Field(name.into()));
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('[') {
            let (number, after) = inner.split_once(']').context("FIELD: [ is not closed by ]")?;
            steps.push(Step::Item(number.parse().with_context(|| format!("FIELD: [{number}] must be a number"))?));
            rest = after;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            if name.is_empty() {
                bail!("FIELD: {path:?} has an empty name");
            }
            steps.push(Step::Field(name.into()));
            rest = after;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    Ok(steps)
}

fn at<'a>(object: &'a Value, steps: &[Step]) -> Option<&'a Value> {
    steps.iter().try_fold(object, |value, step| match step {
        Step::Field(name) => value.get(name),
        Step::Item(index) => value.get(*index),
    })
}

/// Field managers of one field, from `metadata.managedFields` of the live object.
fn owners(live: &Value, steps: &[Step]) -> Vec<String> {
    let entries = live.pointer("/metadata/managedFields").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let owns = |entry: &&Value| entry.get("fieldsV1").is_some_and(|fields| is_owned(fields, live, steps));
    let manager = |entry: &Value| entry.get("manager").and_then(Value::as_str).map(ToOwned::to_owned);
    entries.iter().filter(owns).filter_map(manager).collect()
}

/// Does this set of fields have the path? The set ends where a value is owned as a whole.
fn is_owned(fields: &Value, live: &Value, steps: &[Step]) -> bool {
    let Some((step, rest)) = steps.split_first() else { return true };
    let Some(set) = fields.as_object() else { return false };
    if set.is_empty() {
        return true; // an atomic list or map
    }
    match step {
        Step::Field(name) => {
            let (Some(fields), Some(live)) = (set.get(&format!("f:{name}")), live.get(name)) else { return false };
            is_owned(fields, live, rest)
        }
        Step::Item(index) => {
            let Some(item) = live.get(*index) else { return false };
            set.iter().any(|(key, fields)| {
                let meant = match key.split_once(':') {
                    Some(("k", keys)) => serde_json::from_str::<Map<String, Value>>(keys)
                        .is_ok_and(|keys| keys.iter().all(|(name, value)| item.get(name) == Some(value))),
                    Some(("v", value)) => serde_json::from_str::<Value>(value).is_ok_and(|value| value == *item),
                    _ => false,
                };
                meant && is_owned(fields, item, rest)
            })
        }
    }
}

/// Names and values with indentation: what is in the JSON, for reading.
fn text(value: &Value, depth: usize) -> String {
    let pad = "  ".repeat(depth);
    let short = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let mut out = String::new();
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(_, value)| !value.is_null() && **value != "") {
                match value {
                    Value::Object(_) => out += &format!("{pad}{name}:\n{}", text(value, depth + 1)),
                    Value::Array(items) if items.is_empty() => out += &format!("{pad}{name}: none\n"),
                    Value::Array(_) => out += &format!("{pad}{name}:\n{}", text(value, depth + 1)),
                    value => out += &format!("{pad}{name}: {}\n", short(value)),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let Some(fields) = item.as_object() else {
                    out += &format!("{pad}{}\n", short(item));
                    continue;
                };
                let said = fields.iter().filter(|(name, v)| !v.is_null() && **v != "" && *name != "lastTransitionTime");
                let said: Vec<String> = said.map(|(name, value)| format!("{name}={}", short(value))).collect();
                out += &format!("{pad}{}\n", said.join("  "));
            }
        }
        value => out += &format!("{pad}{}\n", short(value)),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live() -> Value {
        json!({
            "metadata": {"managedFields": [
                {"manager": "transom:web", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:containers": {
                    "k:{\"name\":\"b\"}": {".": {}, "f:image": {}, "f:args": {}}}}}},
                {"manager": "hpa", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
            ]},
            "spec": {"replicas": 2, "paused": true,
                "containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y", "args": ["1"]}]},
        })
    }

    #[test]
    fn owners_are_those_of_the_very_field() {
        let owners = |path: &str| owners(&live(), &steps(path).unwrap());
        assert_eq!(owners("spec.replicas"), ["transom:web", "hpa"]);
        assert_eq!(owners("spec.paused"), Vec::<String>::new());
        assert_eq!(owners("spec.containers[0].image"), Vec::<String>::new());
        assert_eq!(owners("spec.containers[1].image"), ["transom:web"]);
        assert_eq!(owners("spec.containers[1].args[0]"), ["transom:web"]);
    }

    #[test]
    fn changes_are_found_by_the_position_of_their_item() {
        let item = Part::Item { key: Some("name"), value: "b".into() };
        let path = Path::default().field("spec").field("containers").with(item).field("image");
        let is_at = |field: &str| is_at(&path, &steps(field).unwrap(), &live());
        assert!(is_at("spec.containers[1].image") && is_at("spec.containers[1]") && is_at("spec"));
        assert!(!is_at("spec.containers[0].image") && !is_at("spec.containers[1].args") && !is_at("spec.replicas"));
    }

    #[test]
    fn a_field_is_written_in_one_word_or_two() {
        let parts = |words: &[&str]| split(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        let expected = ("Deployment/a".to_owned(), "spec.replicas".to_owned());
        assert_eq!(parts(&["Deployment/a:spec.replicas"]).unwrap(), expected);
        assert_eq!(parts(&["Deployment/a", "spec.replicas"]).unwrap(), expected);
        assert!(parts(&["spec.replicas"]).is_err());
        let label = [Step::Field("metadata".into()), Step::Field("a.b/c".into()), Step::Item(3)];
        assert_eq!(steps("metadata[\"a.b/c\"][3]").unwrap(), label);
        assert!(steps("a..b").is_err());
    }
}
