//! `transom render`: the same deciding code as in the cluster, with files in place of the API server.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::progress;
use crate::api::names;
use crate::api::overlay::{Overlay, OverlayRules};
use crate::api::plugin::Bounds;
use crate::control::cluster::Cluster;
use crate::overlay::guard::Rails;
use crate::overlay::{Given, Laid, Layer, Outcome, condition, lay};
use crate::plan::check::{Checked, Checker, Scope};
use crate::plan::contract::{
    Answer, Answered, Call, Delivery, Disposition, Failure, Lookup, Manifest, Problem, Request, Step, TypeMeta,
    Value as Found,
};
use crate::plan::object::Object;
use crate::plan::request::{Children, Snapshot};
use crate::plan::rounds::{self, NoPlan, Session};
use crate::plan::status::{self, Report, Synced};
use crate::plugin::{Cache, CallError, Engine};
use crate::registry::{Loaded, Loader, digest_of, object_faults};
use crate::telemetry::chain;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    transom render --plugin web.wasm -f web.yaml\n  \
    transom render --plugin web.wasm -f web.yaml --with secret.yaml --overlay overlay.yaml -o json\n  \
    transom render --plugin web.wasm -f web.yaml --dry-run server   # would the API server take it?")]
pub struct Args {
    /// The plugin's component.
    #[arg(long, value_name = "FILE")]
    plugin: PathBuf,
    /// The object, YAML or JSON; `-` for stdin.
    #[arg(long, short, value_name = "FILE")]
    filename: PathBuf,
    /// What else is in the cluster, YAML or JSON: objects that the plugin looks up, and live children (as `kubectl get
    /// -o yaml` shows them). What is not there is absent.
    #[arg(long, value_name = "FILE")]
    with: Vec<PathBuf>,
    /// `spec.config` of the Plugin record, YAML or JSON.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Namespace where the objects name none (default: that of the kubeconfig's context).
    #[arg(long, short)]
    namespace: Option<String>,
    /// Overlays that are laid over the plan, YAML or JSON: as in the cluster, but for the rights of their accounts,
    /// which only a cluster knows.
    #[arg(long, value_name = "FILE")]
    overlay: Vec<PathBuf>,
    /// `spec.overlays` of the Plugin record, YAML or JSON.
    #[arg(long, value_name = "FILE")]
    overlay_rules: Option<PathBuf>,
    /// Whether the API server of the kubeconfig is asked if it would take the children; nothing is written.
    #[arg(long, value_name = "WHO", default_value = "none")]
    dry_run: DryRun,
    /// How the result looks.
    #[arg(long, short, default_value = "yaml")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DryRun {
    None,
    Server,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    Yaml,
    Json,
}

impl Args {
    /// Where objects are that name no namespace.
    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    pub(super) async fn run(mut self, cache: Cache) -> anyhow::Result<()> {
        self.namespace = Some(super::namespace(self.namespace.take()).await);
        let loader = Loader { engine: Engine::new()?, program: std::env::current_exe()?, cache };
        let wasm = std::fs::read(&self.plugin).with_context(|| format!("cannot read {}", self.plugin.display()))?;
        let digest = digest_of(&wasm);
        let loaded = progress::slow("compiling the plugin", loader.load("render", &wasm, &digest, Bounds::default()))
            .await
            .with_context(|| format!("{} is no plugin", self.plugin.display()))?;
        let world = World::read(&self, &loaded)?;
        let mut rendered = world.render(&loaded).await?;
        if self.dry_run == DryRun::Server {
            rendered.refused = dry_run(&loaded.manifest.name, &rendered.checked).await?;
        }
        println!("{}", self.print(&rendered)?);
        let left_out =
            rendered.overlays.iter().filter_map(|o| Some(format!("{}: {}", o.overlay, o.refused.as_ref()?.message)));
        let refused = rendered.refused.iter().map(|(child, why)| format!("{child}: {why}"));
        let faults: Vec<String> = left_out.chain(refused).collect();
        if faults.is_empty() { Ok(()) } else { bail!("refused:\n  {}", faults.join("\n  ")) }
    }

    fn print(&self, rendered: &Rendered) -> anyhow::Result<String> {
        let Rendered { checked, status, asked, overlays, .. } = rendered;
        let asked: Vec<Value> = asked.iter().map(|a| json!(a)).collect();
        if matches!(self.output, Output::Json) {
            let children: Vec<Value> =
                checked.children.iter().map(|c| json!({"disposition": c.disposition, "object": c.body})).collect();
            let mut all = json!({"children": children, "status": status, "lookups": asked,
                "calls": calls(&checked.calls)});
            if let (Value::Object(all), false) = (&mut all, overlays.is_empty()) {
                all.insert("overlays".into(), json!(overlays));
            }
            return Ok(serde_json::to_string_pretty(&all)?);
        }
        let mut text = String::new();
        for child in &checked.children {
            let disposition = serde_json::to_value(child.disposition)?;
            text += &format!("---\n# {}\n", disposition.as_str().unwrap_or_default());
            let by = overlays.iter().filter(|outcome| outcome.children.contains(&child.reference));
            let by: Vec<&str> = by.map(|outcome| outcome.overlay.as_str()).collect();
            if !by.is_empty() {
                text += &format!("# overlays: {}\n", by.join(", "));
            }
            text += &serde_saphyr::to_string(&child.body)?;
        }
        if !checked.calls.is_empty() {
            text += "---\n# calls, which the host makes after the children\n";
            text += &serde_saphyr::to_string(&json!({"calls": calls(&checked.calls)}))?;
        }
        text += "---\n# status\n";
        text += &serde_saphyr::to_string(&json!({"status": status}))?;
        Ok(text.trim_end().to_owned())
    }
}

struct Rendered {
    checked: Checked,
    status: Value,
    asked: Vec<Answered>,
    /// What became of each overlay.
    overlays: Vec<Outcome>,
    /// What the API server would not take, and why.
    refused: Vec<(String, String)>,
}

/// Asks the API server whether it would take the children.
async fn dry_run(plugin: &str, checked: &Checked) -> anyhow::Result<Vec<(String, String)>> {
    let client = kube::Client::try_default().await.context("no cluster: set KUBECONFIG, or leave --dry-run out")?;
    let cluster = Cluster::new(client, None);
    let mut refused = Vec::new();
    for child in checked.children.iter().filter(|child| child.disposition != Disposition::Hold) {
        let answer = cluster.apply_dry_run(&child.reference, &names::field_manager(plugin), &child.body).await;
        if let Err(error) = answer {
            refused.push((child.reference.to_string(), chain(&error)));
        }
    }
    Ok(refused)
}

/// Overlays for this primary, and the rules that bound them.
fn read_overlays(args: &Args, snapshot: &Snapshot) -> anyhow::Result<(Vec<Arc<Given>>, Rails)> {
    let mut given = Vec::new();
    for path in &args.overlay {
        for object in read_objects(path)? {
            let overlay: Overlay = serde_json::from_value(Value::Object(object))
                .with_context(|| format!("{}: no Overlay", path.display()))?;
            let overlay = Given::of(&overlay, args.namespace());
            if overlay.selects(&snapshot.kind, &snapshot.primary) {
                given.push(Arc::new(overlay));
            } else {
                eprintln!("the overlay {} is not for {}", overlay.name, snapshot.reference());
            }
        }
    }
    let rules: OverlayRules = match &args.overlay_rules {
        Some(path) => serde_json::from_value(read_documents(path)?.pop().unwrap_or_default())
            .with_context(|| path.display().to_string())?,
        None => OverlayRules::default(),
    };
    Ok((given, Rails::new(&rules).map_err(anyhow::Error::msg)?))
}

/// What there is instead of a cluster.
struct World {
    snapshot: Snapshot,
    others: Vec<(TypeMeta, Object)>,
    cluster_scoped: Vec<TypeMeta>,
    overlays: Vec<Arc<Given>>,
    rails: Rails,
}

impl World {
    fn read(args: &Args, loaded: &Loaded) -> anyhow::Result<Self> {
        let path = &args.filename;
        let mut primaries = read_objects(path)?;
        let (Some(primary), true) = (primaries.pop(), primaries.is_empty()) else {
            bail!("{}: must hold exactly one object", path.display());
        };
        let body = Value::Object(primary.clone());
        let (kind, primary) = identify(primary, args.namespace()).with_context(|| path.display().to_string())?;
        let served = loaded.definitions.iter().find(|d| d.served.kind == kind);
        let Some(served) = served else {
            let kinds: Vec<String> = loaded.definitions.iter().map(|d| d.served.kind.to_string()).collect();
            bail!("{}: the plugin serves {}, not {kind}", path.display(), kinds.join(" and "));
        };
        let faults = object_faults(served, &body);
        if !faults.is_empty() {
            bail!("{}: the API server would not take it as it is: {}", path.display(), faults.join("; "));
        }
        let cluster_scoped = match served.served.scope {
            Scope::Cluster => vec![kind.clone()],
            Scope::Namespaced => vec![],
        };
        let (mut children, mut others) = (Children::new(), Vec::new());
        for path in &args.with {
            for object in read_objects(path)? {
                let (kind, object) = identify(object, args.namespace()).with_context(|| path.display().to_string())?;
                if object.owner.as_ref() == Some(&primary.uid) {
                    children.insert(object.reference(&kind), Arc::new(object));
                } else {
                    others.push((kind, object));
                }
            }
        }
        let config = match &args.config {
            Some(path) => read_documents(path)?.pop().unwrap_or_default().to_string(),
            None => "{}".into(),
        };
        let snapshot = Snapshot { kind, primary: Arc::new(primary), children, config };
        let (overlays, rails) = read_overlays(args, &snapshot)?;
        Ok(Self { snapshot, others, cluster_scoped, overlays, rails })
    }

    async fn render(&self, loaded: &Loaded) -> anyhow::Result<Rendered> {
        let (snapshot, manifest) = (&self.snapshot, &loaded.manifest);
        let request = snapshot.request(manifest, Vec::new());
        let bounds = Bounds::default();
        let session = Offline { world: self, loaded };
        let (plan, asked) = rounds::converse(&session, request, bounds).await.map_err(|stop| match stop {
            NoPlan::Call(error) => anyhow::anyhow!("{}: {error}", error.reason()),
            NoPlan::Rounds(error) => anyhow::anyhow!("the plugin {error}"),
            NoPlan::Failed(Failure::Invalid(violations)) => {
                let said: Vec<String> = violations.iter().map(|v| format!("{}: {}", v.field, v.message)).collect();
                anyhow::anyhow!("invalid object: {}", said.join("; "))
            }
            NoPlan::Failed(Failure::Transient(p)) => {
                anyhow::anyhow!("{}: {}", p.reason, p.message)
            }
            NoPlan::Failed(Failure::Internal(text)) => {
                anyhow::anyhow!("the plugin failed: {text}")
            }
        })?;
        let scope = |kind: &TypeMeta| Some(self.scope(kind));
        let checker = Checker { plugin: &manifest.name, manifest, bounds: &bounds, set_once: &[], scope: &scope };
        let mut checked =
            checker.check(snapshot, &plan).map_err(|e| anyhow::anyhow!("plan refused: {}: {e}", e.reason))?;
        let layer = Layer { given: &self.overlays, rails: &self.rails, rejected: &|_| None };
        let Laid { children, outcomes: overlays, .. } = lay(layer, &checked.children);
        checked.children = children;
        checked.conditions.extend(condition(&overlays));
        let report = Report { fields: checked.status.clone(), conditions: checked.conditions.clone() };
        let live = snapshot.primary.value().pointer("/status").and_then(Value::as_object).cloned().unwrap_or_default();
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let status = status::next(&live, snapshot.primary.generation, Some(&report), &Synced::applied(), &now);
        Ok(Rendered { checked, status, asked, overlays, refused: Vec::new() })
    }

    /// Offline nobody can be asked; what is not known to be cluster-scoped is namespaced.
    fn scope(&self, kind: &TypeMeta) -> Scope {
        let built_in = matches!(
            kind.kind.as_str(),
            "Namespace"
                | "Node"
                | "PersistentVolume"
                | "ClusterRole"
                | "ClusterRoleBinding"
                | "StorageClass"
                | "PriorityClass"
                | "IngressClass"
                | "CustomResourceDefinition"
                | "MutatingWebhookConfiguration"
                | "ValidatingWebhookConfiguration"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
        );
        if built_in || self.cluster_scoped.contains(kind) { Scope::Cluster } else { Scope::Namespaced }
    }

    fn answer(&self, manifest: &Manifest, lookup: Lookup) -> Answered {
        let delivery = |kind: &TypeMeta| {
            manifest.reads.iter().find(|(declared, _)| declared == kind).map_or(Delivery::Full, |(_, d)| *d)
        };
        let answer = match &lookup {
            Lookup::Object(r) => {
                let there = |(kind, o): &&(TypeMeta, Object)| {
                    *kind == r.kind && o.name == r.name && (o.namespace == r.namespace || r.namespace.is_empty())
                };
                match self.others.iter().find(there) {
                    Some((kind, object)) => Answer::Found(Found::Object(object.deliver(kind, delivery(kind)))),
                    None => Answer::Absent,
                }
            }
            Lookup::Clock { seconds } => {
                let step = u64::from((*seconds).max(1));
                let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
                Answer::Found(Found::Time(now / step * step))
            }
            _ => Answer::Failed(Problem {
                reason: "Unsupported".into(),
                message: "render answers lookups of single objects and of the clock only".into(),
            }),
        };
        Answered { lookup, answer }
    }
}

/// Calls for people: messages in base64.
fn calls(calls: &[Call]) -> Vec<Value> {
    let shown = |call: &Call| {
        let message = base64::engine::general_purpose::STANDARD.encode(&call.message);
        json!({"key": call.key, "endpoint": call.endpoint, "path": call.path, "message": message})
    };
    calls.iter().map(shown).collect()
}

/// A conversation without a cluster.
struct Offline<'a> {
    world: &'a World,
    loaded: &'a Loaded,
}

impl Session for Offline<'_> {
    type Error = CallError;

    async fn call(&self, request: &Request) -> Result<Result<Step, Failure>, CallError> {
        self.loaded.plugin.reconcile(request).await.map(|(answer, _)| answer)
    }

    async fn answer(&self, lookups: Vec<Lookup>) -> Vec<Answered> {
        lookups.into_iter().map(|lookup| self.world.answer(&self.loaded.manifest, lookup)).collect()
    }
}

/// Fills in what the API server would have: namespace, UID, generation.
fn identify(mut object: Map<String, Value>, namespace: &str) -> anyhow::Result<(TypeMeta, Object)> {
    let text = |object: &Map<String, Value>, field: &str| {
        object.get(field).and_then(Value::as_str).map(ToOwned::to_owned).filter(|text| !text.is_empty())
    };
    let (Some(api_version), Some(kind)) = (text(&object, "apiVersion"), text(&object, "kind")) else {
        bail!("an object needs apiVersion and kind");
    };
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else {
        bail!("{kind}: metadata is missing");
    };
    let name = text(metadata, "name").with_context(|| format!("{kind}: metadata.name is missing"))?;
    metadata.entry("namespace").or_insert_with(|| namespace.into());
    metadata.entry("uid").or_insert_with(|| format!("offline-{name}").into());
    metadata.entry("generation").or_insert_with(|| 1.into());
    let object = Object::parse(&Value::Object(object).to_string())?;
    Ok((TypeMeta::new(api_version, kind), object))
}

/// The objects of a file, lists taken apart.
fn read_objects(path: &Path) -> anyhow::Result<Vec<Map<String, Value>>> {
    let mut objects = Vec::new();
    for document in read_documents(path)? {
        match document {
            Value::Null => {}
            Value::Object(mut list) if list.contains_key("items") => {
                let items = list.remove("items").and_then(|items| items.as_array().cloned()).unwrap_or_default();
                objects.extend(items.into_iter().filter_map(|item| item.as_object().cloned()));
            }
            Value::Object(object) => objects.push(object),
            _ => bail!("{}: not a Kubernetes object", path.display()),
        }
    }
    Ok(objects)
}

fn read_documents(path: &Path) -> anyhow::Result<Vec<Value>> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    serde_saphyr::from_multiple(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}
