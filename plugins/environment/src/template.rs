//! Environments that are rendered: charts, kustomizations, manifests and compose files of a source.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::EnvVar;
use serde_json::{Map, Value, json};
use transom_engines::{content, helm, kustomize};
use transom_sdk::prelude::*;
use transom_sdk::{Answer, AnyObject, File, lists};

use crate::build::{Images, Site};
use crate::compose::{self, Compose, Item};
use crate::ingress::Backend;
use crate::inject::{self, Injection};
use crate::project::{BuildSpec, EnvironmentTemplate, TemplateKind};
use crate::report::{Problem, Report, Step, Stop, of_spec, transient};
use crate::settings::EnvironmentConfig;
use crate::source;

const HELM: &str = "helm";
const KUSTOMIZE: &str = "kustomize";
/// Of what a chart's random values are made.
const SEED_BYTES: u32 = 32;

/// A kustomization may use what is beside it; of the whole source these files are fetched.
const KUSTOMIZE_FILES: [&str; 10] = [
    "**/*.yaml",
    "**/*.yml",
    "**/*.json",
    "**/*.env",
    "**/*.properties",
    "**/*.conf",
    "**/*.toml",
    "**/*.txt",
    "**/kustomization",
    "**/Kustomization",
];

/// A template whose files are there.
pub(crate) struct Loaded<'a> {
    template: &'a EnvironmentTemplate,
    settings: &'a EnvironmentConfig,
    /// `spec.templates.development`
    field: String,
    content: Content,
    source: String,
    folder: String,
}

enum Content {
    Helm(Vec<File>),
    Kustomize(Vec<File>),
    Manifest(Vec<File>),
    Compose(Compose),
}

/// What was rendered and planned.
pub(crate) struct Deployed {
    /// What an Ingress is to lead to; none for a template that has one itself.
    pub(crate) backend: Option<Backend>,
    /// Of an Ingress that the template has itself.
    pub(crate) url: Option<String>,
}

/// Fetches the files of the template.
pub(crate) fn load<'a>(
    site: &Site<'a>,
    cx: &Context,
    template: &'a EnvironmentTemplate,
    kind: TemplateKind,
    settings: &'a EnvironmentConfig,
) -> Result<Loaded<'a>, Stop> {
    let field = format!("Project {}: spec.templates.{}", site.project.name(), site.environment.spec.kind);
    let checkout = source::checkout(site.environment, site.project, &template.source_ref, Step::Deployment)?;
    let path = template.path.trim_matches('/').trim_start_matches("./");
    if path.split('/').any(|part| part == "..") {
        let message = format!("{field}.path: {path:?} must not leave the source: remove ..");
        return Err(of_spec(Step::Deployment, "InvalidPath", message).into());
    }
    let files = |folder: &str, include: &[&str]| checkout.files(cx, site.config, site.project, folder, include);
    let missing = |what: &str| {
        let message = format!("{field}.path: there is {what} in {path:?} of {} at {}", checkout.url, checkout.revision);
        Stop::Problem(of_spec(Step::Deployment, "TemplateNotFound", message))
    };
    let is_file = [".yaml", ".yml", ".json"].iter().any(|end| path.ends_with(end));
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut folder = path;
    let content = match kind {
        TemplateKind::Helm => {
            // asked together
            // files go to the engine, not through the plugin
            let (seed, files) = (cx.random(HELM, SEED_BYTES), files(path, &[content::ALL_BY_HANDLE]));
            let (_, files) = (seed?, files?);
            if !files.iter().any(|file| file.path == "Chart.yaml") {
                return Err(missing("no Chart.yaml"));
            }
            Content::Helm(files)
        }
        TemplateKind::Kustomize => {
            let include = KUSTOMIZE_FILES.map(|glob| format!("{}{glob}", content::BY_HANDLE));
            Content::Kustomize(files("", &include.each_ref().map(String::as_str))?)
        }
        TemplateKind::Manifest => {
            let files = if is_file { files(parent, &[name])? } else { files(path, &["*.yaml", "*.yml", "*.json"])? };
            if files.is_empty() {
                return Err(missing("no manifest (*.yaml, *.yml, *.json)"));
            }
            Content::Manifest(files)
        }
        TemplateKind::Compose => {
            if is_file {
                folder = parent;
            }
            let include: Vec<&str> = if is_file { vec![name] } else { compose::FILES.to_vec() };
            let found = files(folder, &[include.as_slice(), &["**/*.env", "**/.env", "**/.env.*"]].concat())?;
            let mut named = include.iter().filter_map(|name| found.iter().find(|file| file.path == *name));
            let Some(file) = named.next() else { return Err(missing("no docker-compose.yml")) };
            let text = String::from_utf8_lossy(&file.content);
            let more = beside(compose::wanted(&text), |include| files(folder, include))?;
            let beside: Vec<File> = found.iter().cloned().chain(more).collect();
            let mut compose = compose::parse(&text, &variables(&settings.env, &found), &beside).map_err(|message| {
                of_spec(Step::Deployment, "InvalidCompose", format!("{field}: {}: {message}", file.path))
            })?;
            let outside = compose.builds_outside(folder);
            compose.unsupported.extend(outside.into_iter().map(|at| format!("{at} (outside the source)")));
            Content::Compose(compose)
        }
    };
    let (source, folder) = (checkout.name.to_owned(), folder.to_owned());
    Ok(Loaded { template, settings, field, content, source, folder })
}

/// Files by their names.
fn beside(names: Vec<String>, files: impl FnOnce(&[&str]) -> Result<Vec<File>, Stop>) -> Result<Vec<File>, Stop> {
    // what looks like a pattern is no name, and what is above the folder cannot be asked for: both are not there
    let is_name =
        |name: &&str| !name.contains(['*', '?', '[', ']', '{', '}', '!', '\\']) && !name.split('/').any(|p| p == "..");
    let include: Vec<&str> = names.iter().map(String::as_str).filter(is_name).collect();
    if include.is_empty() { Ok(Vec::new()) } else { files(&include) }
}

/// What `${NAME}` stands for in a compose file: `.env` beside it, and over that the Environment's own variables.
fn variables(env: &[EnvVar], files: &[File]) -> BTreeMap<String, String> {
    let beside = files.iter().find(|file| file.path == ".env");
    let mut variables =
        beside.map(|file| compose::env_lines(&String::from_utf8_lossy(&file.content))).unwrap_or_default();
    let literal = |variable: &EnvVar| Some((variable.name.clone(), variable.value.clone()?));
    variables.extend(env.iter().filter_map(literal));
    variables
}

impl Loaded<'_> {
    /// What the files themselves want to be built.
    pub(crate) fn builds(&self) -> Vec<BuildSpec> {
        match &self.content {
            Content::Compose(compose) => compose.builds(&self.source, &self.folder),
            _ => Vec::new(),
        }
    }

    /// Renders, and plans what comes out.
    pub(crate) fn plan(
        &self,
        plan: &mut Plan,
        cx: &Context,
        site: &Site<'_>,
        images: &Images,
        own: &[(&str, &str)],
        report: &mut Report,
    ) -> Result<Deployed, Stop> {
        let mut items = match &self.content {
            Content::Helm(files) => self.chart(cx, site, files, images, report)?,
            Content::Kustomize(files) => self.kustomization(cx, files)?,
            Content::Manifest(files) => self.manifests(files)?,
            Content::Compose(compose) => {
                report.unsupported = Some(compose.unsupported.clone());
                compose.objects(images).map_err(|message| self.wrong("InvalidCompose", &message))?
            }
        };
        if items.is_empty() {
            return Err(self.wrong("NothingRendered", "the template renders no object").into());
        }
        let injection = Injection {
            namespace: site.namespace,
            env: &self.settings.env,
            images,
            allow_cluster_scoped: site.config.allow_cluster_scoped,
            field: &self.field,
        };
        for item in &mut items {
            injection.object(&mut item.object)?;
        }
        // a plain create takes one key twice in a list; what is applied must have it once
        let mut objects: Vec<Value> = items.iter_mut().map(|item| item.object.take()).collect();
        lists::unique_keys(&mut objects);
        for (item, object) in items.iter_mut().zip(objects) {
            item.object = object;
        }
        inject::check_names(items.iter().map(|item| &item.object), own, &self.field)?;
        let mut planned: Vec<Planned<AnyObject>> = Vec::new();
        let mut parts = Vec::new();
        for item in &items {
            let object = AnyObject::parse(&item.object.to_string())?;
            let name = format!("{} {}", object.type_meta().kind, object.name());
            let after: Vec<Planned<AnyObject>> =
                item.after.iter().filter_map(|index| planned.get(*index).copied()).collect();
            let object_kind = object.type_meta().kind.clone();
            // a Job cannot be changed
            let is_job = object_kind == "Job";
            let desired = if is_job { object.replace() } else { object.into() };
            let child = if after.is_empty() {
                plan.apply_any(desired)
            } else {
                plan.apply_any_after(after.as_slice(), desired)
            };
            if is_job || object_kind == "Pod" {
                plan.run_once(&child, &mut report.runs);
            }
            let health = plan.health(&child);
            // a volume may be bound no sooner than a pod wants it, and the pod's workload tells of that
            if object_kind != "PersistentVolumeClaim" || health.is_failed() {
                parts.push((name, health));
            }
            planned.push(child);
        }
        report.deployed(&parts);
        let objects: Vec<&Value> = items.iter().map(|item| &item.object).collect();
        let has_ingress = objects.iter().any(|object| object.get("kind").and_then(Value::as_str) == Some("Ingress"));
        let backend = match &self.content {
            _ if has_ingress => None,
            Content::Compose(compose) => compose.front().map(|(service, port)| Backend { service, port }),
            _ => backend(&objects),
        };
        Ok(Deployed { backend, url: own_url(&objects) })
    }

    fn wrong(&self, reason: &str, message: &str) -> Problem {
        of_spec(Step::Deployment, reason, format!("{}: {message}", self.field))
    }

    fn engine(&self, cx: &Context, engine: &str, input: Vec<u8>) -> Result<Vec<u8>, Stop> {
        match cx.engine(engine, input)? {
            Answer::Found(output) => Ok(output),
            Answer::Denied(message) => {
                Err(transient(Step::Deployment, "EngineNotGranted", format!("{}: {message}", self.field)).into())
            }
            Answer::Failed { reason, message } => {
                let message = format!("{}: {engine}: {reason}: {message}", self.field);
                Err(transient(Step::Deployment, "EngineFailed", message).into())
            }
            _ => Err(Failure::internal(format!("the engine {engine} has no answer")).into()),
        }
    }

    fn chart(
        &self,
        cx: &Context,
        site: &Site<'_>,
        files: &[File],
        images: &Images,
        report: &mut Report,
    ) -> Result<Vec<Item>, Stop> {
        let seed: String = cx.random(HELM, SEED_BYTES)?.iter().map(|byte| format!("{byte:02x}")).collect();
        let values = values(&self.template.values, &self.settings.image, images);
        let created = site.environment.metadata.creation_timestamp.as_ref();
        let request = helm::Request {
            chart: helm::Chart::Files(files.iter().map(|file| (file.path.clone(), file.content.clone())).collect()),
            values: vec![values.to_string().into_bytes()],
            release: helm::Release {
                name: site.environment.name().to_owned(),
                namespace: site.namespace.to_owned(),
                revision: 1,
                is_upgrade: false,
            },
            // always the same one, so that nothing changes because time goes by
            now: created.map_or(0, |time| time.0.as_second()),
            seed,
            include_crds: site.config.allow_cluster_scoped,
            objects: true,
            ..helm::Request::default()
        };
        let input = request.encode().map_err(|error| Failure::internal(error.to_string()))?;
        let output = self.engine(cx, HELM, input)?;
        let reply = helm::Reply::decode(&output).map_err(|error| Failure::internal(error.to_string()))?;
        if let Some(error) = reply.error {
            let place = match (error.template.as_str(), error.line) {
                ("", _) => String::new(),
                (template, None) => format!(" ({template})"),
                (template, Some(line)) => format!(" ({template}:{line})"),
            };
            let message = format!("the chart does not render: {}: {}{place}", error.reason, error.message);
            return Err(self.wrong("ChartFailed", &message).into());
        }
        let mut items = Vec::new();
        // hooks one after the other, then everything, then the hooks of afterwards
        let mut last: Vec<usize> = Vec::new();
        let events = |events: [&str; 2]| -> Vec<&helm::Hook> {
            let mut hooks: Vec<&helm::Hook> = Vec::new();
            for hook in events.iter().flat_map(|event| reply.hooks_at(event)) {
                if !hooks.iter().any(|known| std::ptr::eq(*known, hook)) {
                    hooks.push(hook);
                }
            }
            hooks
        };
        let chain = |items: &mut Vec<Item>, objects: &[Value], last: &mut Vec<usize>| {
            for object in objects {
                items.push(Item { object: object.clone(), after: last.clone() });
                *last = vec![items.len() - 1];
            }
        };
        for hook in events(["pre-install", "pre-upgrade"]) {
            chain(&mut items, &hook.manifest.objects, &mut last);
        }
        let mut all = Vec::new();
        for object in reply.crds.iter().chain(&reply.manifests).flat_map(|manifest| &manifest.objects) {
            items.push(Item { object: object.clone(), after: last.clone() });
            all.push(items.len() - 1);
        }
        let mut last = if all.is_empty() { last } else { all };
        for hook in events(["post-install", "post-upgrade"]) {
            chain(&mut items, &hook.manifest.objects, &mut last);
        }
        let known = ["pre-install", "pre-upgrade", "post-install", "post-upgrade", "test", "test-success"];
        let other = |hook: &&helm::Hook| !hook.events.iter().any(|event| known.contains(&event.as_str()));
        let named = |hook: &helm::Hook| {
            format!("hook {} {} ({})", hook.manifest.kind, hook.manifest.name, hook.events.join(", "))
        };
        let has_kinds = !site.config.allow_cluster_scoped && files.iter().any(|file| file.path.starts_with("crds/"));
        let kinds = has_kinds.then(|| "crds/ (kinds are in no namespace: install them once for all)".to_owned());
        report.unsupported = Some(reply.hooks.iter().filter(other).map(named).chain(kinds).collect());
        Ok(items)
    }

    fn kustomization(&self, cx: &Context, files: &[File]) -> Result<Vec<Item>, Stop> {
        let request = kustomize::Request {
            files: files.iter().map(|file| (file.path.clone(), file.content.clone())).collect(),
            path: self.folder.clone(),
            objects: true,
            ..kustomize::Request::default()
        };
        let input = request.encode().map_err(|error| Failure::internal(error.to_string()))?;
        let output = self.engine(cx, KUSTOMIZE, input)?;
        let reply = kustomize::Reply::decode(&output).map_err(|error| Failure::internal(error.to_string()))?;
        if let Some(error) = reply.error {
            let message = format!("the kustomization does not build: {}: {}", error.reason, error.message);
            return Err(self.wrong("KustomizationFailed", &message).into());
        }
        Ok(reply.objects.into_iter().map(|object| Item { object, after: Vec::new() }).collect())
    }

    fn manifests(&self, files: &[File]) -> Result<Vec<Item>, Problem> {
        let mut items = Vec::new();
        for file in files {
            let wrong = |message: String| self.wrong("InvalidManifest", &format!("{}: {message}", file.path));
            let text = String::from_utf8(file.content.clone()).map_err(|_| wrong("is no UTF-8".into()))?;
            let documents: Vec<Value> =
                serde_saphyr::from_multiple(&text).map_err(|error| wrong(format!("is no YAML: {error}")))?;
            for document in documents.into_iter().filter(|document| !document.is_null()) {
                match document.get("items").and_then(Value::as_array) {
                    Some(list) if document.get("kind").and_then(Value::as_str) == Some("List") => {
                        items.extend(list.iter().map(|object| Item { object: object.clone(), after: Vec::new() }));
                    }
                    _ => items.push(Item { object: document, after: Vec::new() }),
                }
            }
        }
        Ok(items)
    }
}

/// The template's values with images in them: `global.images.<name>` for each that was built, and `image` when the
/// Environment names one.
fn values(given: &Value, image: &str, images: &Images) -> Value {
    let mut values = given.as_object().cloned().unwrap_or_default();
    for (name, image) in images {
        let (repository, tag) = split(image);
        set(&mut values, &["global", "images", name], json!({ "repository": repository, "tag": tag }));
    }
    if !image.is_empty() {
        let image = images.get(image).map_or(image, String::as_str);
        if values.get("image").is_some_and(Value::is_string) {
            values.insert("image".into(), json!(image));
        } else {
            let (repository, tag) = split(image);
            set(&mut values, &["image", "repository"], json!(repository));
            set(&mut values, &["image", "tag"], json!(tag));
        }
    }
    Value::Object(values)
}

/// Puts a value where the path leads; what is in the way and no map is replaced.
fn set(map: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [last] => drop(map.insert((*last).to_owned(), value)),
        [first, rest @ ..] => {
            let mut inner = match map.remove(*first) {
                Some(Value::Object(inner)) => inner,
                _ => Map::new(),
            };
            set(&mut inner, rest, value);
            map.insert((*first).to_owned(), Value::Object(inner));
        }
    }
}

/// Repository and tag.
fn split(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, "latest"),
    }
}

/// The Service that people mean: `web`, or the only one.
fn backend(objects: &[&Value]) -> Option<Backend> {
    let services: Vec<Backend> = objects.iter().filter_map(|object| service(object)).collect();
    let named = services.iter().find(|service| service.service == "web");
    named.or(if services.len() == 1 { services.first() } else { None }).cloned()
}

fn service(object: &Value) -> Option<Backend> {
    if object.get("kind")?.as_str()? != "Service" {
        return None;
    }
    let service = object.pointer("/metadata/name")?.as_str()?.to_owned();
    let tcp = |port: &&Value| matches!(port.get("protocol").and_then(Value::as_str), None | Some("TCP"));
    let port = object.pointer("/spec/ports")?.as_array()?.iter().find(tcp)?.get("port")?.as_i64()?;
    Some(Backend { service, port: i32::try_from(port).ok()? })
}

/// Of the first Ingress with a host.
fn own_url(objects: &[&Value]) -> Option<String> {
    let ingresses = objects.iter().filter(|object| object.get("kind").and_then(Value::as_str) == Some("Ingress"));
    let mut hosts = ingresses.filter_map(|ingress| {
        let host = ingress.pointer("/spec/rules/0/host")?.as_str().filter(|host| !host.is_empty())?;
        let has_tls = ingress.pointer("/spec/tls").and_then(Value::as_array).is_some_and(|tls| !tls.is_empty());
        Some(format!("{}://{host}/", if has_tls { "https" } else { "http" }))
    });
    hosts.next()
}
