//! Compose files as objects: each service a Deployment (or a Job, when others wait for its end) and a Service.
//!
//! The specification is that of <https://github.com/compose-spec/compose-spec>. What has no meaning in a cluster is left
//! out; what has one that is not carried over is named, so that nobody wonders.

mod attached;
mod extends;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use transom_sdk::{File, names};

use self::attached::{Attached, Attachments, Sort};
use crate::build::Images;
use crate::project::{BuildSpec, is_label};

/// Names of compose files, the first that is there counts.
pub(crate) const FILES: [&str; 4] = ["docker-compose.yml", "docker-compose.yaml", "compose.yaml", "compose.yml"];

/// Keys of a service that say nothing about a cluster.
const WITHOUT_MEANING: [&str; 14] = [
    "attach",
    "container_name",
    "hostname",
    "init",
    "labels",
    "logging",
    "networks",
    "platform",
    "profiles",
    "pull_policy",
    "restart",
    "stdin_open",
    "tty",
    "annotations",
];

/// Size of a named volume, which compose files do not tell.
const VOLUME_SIZE: &str = "1Gi";

/// A digest of the files of configs and secrets, on pods.
const FILES_ANNOTATION: &str = "catalyst.dev/compose-files";

/// A compose file that was understood.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Compose {
    services: BTreeMap<String, Service>,
    /// Named volumes.
    volumes: BTreeSet<String>,
    attachments: Attachments,
    /// Parts that are not carried over, as paths.
    pub(crate) unsupported: Vec<String>,
}

#[derive(Debug, Default, PartialEq)]
struct Service {
    image: String,
    build: Option<Build>,
    entrypoint: Option<Vec<String>>,
    command: Option<Vec<String>>,
    environment: BTreeMap<String, String>,
    /// Container ports and protocols.
    ports: Vec<(i32, &'static str)>,
    /// The first port of TCP that is published.
    published: Option<i32>,
    mounts: Vec<Mount>,
    attached: Vec<Attached>,
    depends_on: BTreeMap<String, Wait>,
    probe: Option<Value>,
    replicas: Option<i64>,
    resources: Option<Value>,
    working_dir: Option<String>,
    user: Option<(i64, Option<i64>)>,
    read_only: bool,
    grace_seconds: Option<i64>,
}

#[derive(Debug, Default, PartialEq)]
struct Build {
    context: String,
    dockerfile: String,
}

#[derive(Debug, PartialEq)]
struct Mount {
    /// None: it goes with the pod.
    volume: Option<String>,
    path: String,
    read_only: bool,
    in_memory: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Running,
    Completed,
}

/// An object, and which of those before it must be done first.
#[derive(Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) object: Value,
    pub(crate) after: Vec<usize>,
}

/// Files that a compose file needs beside those that every one may need: of its configs and secrets, and of services that
/// it extends. Empty when it cannot be read.
pub(crate) fn wanted(text: &str) -> Vec<String> {
    let Ok(Value::Object(whole)) = serde_saphyr::from_str(text) else { return Vec::new() };
    let services = whole.get("services").and_then(Value::as_object).map(extends::files).unwrap_or_default();
    attached::files(&whole).into_iter().chain(services).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Reads a compose file. `variables` are what `${NAME}` stands for; `files` are those beside it, for `env_file` and all
/// that `wanted` names.
///
/// # Errors
///
/// The path of what is wrong, and the fix.
pub(crate) fn parse(text: &str, variables: &BTreeMap<String, String>, files: &[File]) -> Result<Compose, String> {
    let whole: Value = serde_saphyr::from_str(text).map_err(|error| format!("is no YAML: {error}"))?;
    let Value::Object(whole) = whole else { return Err("must be a map with services".into()) };
    let mut reader = Reader { variables, files, unsupported: Vec::new() };
    let mut compose = Compose::default();
    let nothing = Map::new();
    for (key, value) in &whole {
        match key.as_str() {
            // configs and secrets: those that services use, below
            "version" | "name" | "services" | "networks" | "configs" | "secrets" => {}
            "volumes" => {
                for (name, volume) in value.as_object().unwrap_or(&nothing) {
                    reader.volume(name, volume)?;
                    compose.volumes.insert(name.clone());
                }
            }
            key if key.starts_with("x-") => {}
            other => reader.unsupported.push(other.to_owned()),
        }
    }
    let services = whole.get("services").and_then(Value::as_object).filter(|services| !services.is_empty());
    let Some(services) = services else { return Err("services: there are none: add at least one".into()) };
    for (name, service) in &extends::resolve(services, files)? {
        let at = format!("services.{name}");
        if !is_label(name) {
            return Err(format!("{at}: must be lower-case letters, digits and -: it becomes a host name"));
        }
        let Some(service) = service.as_object() else { return Err(format!("{at}: must be a map")) };
        // services with profiles are started by name only
        if service.get("profiles").and_then(Value::as_array).is_none_or(|profiles| profiles.is_empty()) {
            compose.services.insert(name.clone(), reader.service(&at, service)?);
        }
    }
    for (name, service) in &compose.services {
        for volume in service.mounts.iter().filter_map(|mount| mount.volume.as_ref()) {
            if !compose.volumes.contains(volume) {
                return Err(format!("services.{name}.volumes: there is no volume {volume}: add it to volumes"));
            }
        }
        for Attached { sort, name: wanted, .. } in &service.attached {
            let key = sort.key();
            let Some(given) = whole.get(key).and_then(|all| all.get(wanted)) else {
                return Err(format!("services.{name}.{key}: there is no {wanted}: add it to {key}"));
            };
            if let Entry::Vacant(new) = compose.attachments.entry((*sort, wanted.clone())) {
                new.insert(reader.attachment(*sort, wanted, given)?);
            }
        }
        if let Some(other) = service.depends_on.keys().find(|other| !compose.services.contains_key(*other)) {
            return Err(format!("services.{name}.depends_on: there is no service {other}"));
        }
    }
    compose.unsupported = reader.unsupported;
    Ok(compose)
}

struct Reader<'a> {
    variables: &'a BTreeMap<String, String>,
    files: &'a [File],
    unsupported: Vec<String>,
}

impl Reader<'_> {
    fn volume(&mut self, name: &str, volume: &Value) -> Result<(), String> {
        if !is_label(&name.replace('_', "-")) {
            return Err(format!("volumes.{name}: must be lower-case letters, digits, - and _"));
        }
        for key in volume.as_object().into_iter().flat_map(Map::keys) {
            if !matches!(key.as_str(), "name" | "labels") && !key.starts_with("x-") {
                self.unsupported.push(format!("volumes.{name}.{key}"));
            }
        }
        Ok(())
    }

    fn service(&mut self, at: &str, given: &Map<String, Value>) -> Result<Service, String> {
        let mut service = Service::default();
        // first, because `environment` is laid over it
        for file in given.get("env_file").map(|file| list(file)).unwrap_or_default() {
            self.env_file(at, file, &mut service.environment)?;
        }
        for (key, value) in given {
            let at = format!("{at}.{key}");
            match key.as_str() {
                "image" => service.image = self.text(&at, value)?,
                "build" => service.build = Some(self.build(&at, value)?),
                "entrypoint" => service.entrypoint = self.words(&at, value)?,
                "command" => service.command = self.words(&at, value)?,
                "environment" => service.environment.extend(self.table(&at, value)?),
                "env_file" => {}
                "ports" => {
                    for port in list(value) {
                        let (port, protocol) = self.port(&at, port)?;
                        service.published = service.published.or((protocol == "TCP").then_some(port));
                        push_new(&mut service.ports, (port, protocol));
                    }
                }
                "expose" => {
                    for port in list(value) {
                        let text = self.text(&at, port)?;
                        push_new(&mut service.ports, container_port(&at, &text)?);
                    }
                }
                "volumes" => {
                    for mount in list(value) {
                        service.mounts.extend(self.mount(&at, mount)?);
                    }
                }
                "tmpfs" => {
                    for path in list(value) {
                        let path = self.text(&at, path)?;
                        let path = path.split(':').next().unwrap_or_default().to_owned();
                        service.mounts.push(Mount { volume: None, path, read_only: false, in_memory: true });
                    }
                }
                "configs" => service.attached.extend(self.attached(Sort::Config, &at, value)?),
                "secrets" => service.attached.extend(self.attached(Sort::Secret, &at, value)?),
                "depends_on" => service.depends_on = self.depends_on(&at, value)?,
                "healthcheck" => service.probe = self.health_check(&at, value)?,
                "deploy" => self.deploy(&at, value, &mut service)?,
                "working_dir" => service.working_dir = Some(self.text(&at, value)?),
                "user" => match self.text(&at, value).map(|text| user(&text))? {
                    Some(user) => service.user = Some(user),
                    None => self.unsupported.push(format!("{at} (only numbers)")),
                },
                "read_only" => service.read_only = value.as_bool().unwrap_or(false),
                "stop_grace_period" => service.grace_seconds = Some(self.seconds(&at, value)?),
                key if WITHOUT_MEANING.contains(&key) || key.starts_with("x-") => {}
                _ => self.unsupported.push(at),
            }
        }
        if service.image.is_empty() && service.build.is_none() {
            return Err(format!("{at}: has neither image nor build: add one"));
        }
        Ok(service)
    }

    /// A scalar with its variables put in.
    fn text(&self, at: &str, value: &Value) -> Result<String, String> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            _ => return Err(format!("{at}: must be text")),
        };
        interpolate(&text, self.variables).map_err(|why| format!("{at}: {why}"))
    }

    fn build(&mut self, at: &str, value: &Value) -> Result<Build, String> {
        let Value::Object(map) = value else {
            return Ok(Build { context: self.text(at, value)?, dockerfile: String::new() });
        };
        let mut build = Build::default();
        for (key, value) in map {
            let at = format!("{at}.{key}");
            match key.as_str() {
                "context" => build.context = self.text(&at, value)?,
                "dockerfile" => build.dockerfile = self.text(&at, value)?,
                _ => self.unsupported.push(at),
            }
        }
        Ok(build)
    }

    fn words(&self, at: &str, value: &Value) -> Result<Option<Vec<String>>, String> {
        match value {
            Value::Null => Ok(None),
            Value::Array(words) => words.iter().map(|word| self.text(at, word)).collect::<Result<_, _>>().map(Some),
            other => split_words(&self.text(at, other)?).map(Some).map_err(|why| format!("{at}: {why}")),
        }
    }

    /// A map, or a list of `KEY=value`. A key without a value takes it from the variables, or is left out.
    fn table(&self, at: &str, value: &Value) -> Result<BTreeMap<String, String>, String> {
        let mut table = BTreeMap::new();
        let mut set = |key: &str, value: Option<String>| {
            if let Some(value) = value.or_else(|| self.variables.get(key).cloned()) {
                table.insert(key.to_owned(), value);
            }
        };
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let at = format!("{at}.{key}");
                    set(key, if value.is_null() { None } else { Some(self.text(&at, value)?) });
                }
            }
            Value::Array(items) => {
                for item in items {
                    let text = self.text(at, item)?;
                    match text.split_once('=') {
                        Some((key, value)) => set(key, Some(value.to_owned())),
                        None => set(&text, None),
                    }
                }
            }
            Value::Null => {}
            _ => return Err(format!("{at}: must be a map or a list")),
        }
        Ok(table)
    }

    fn env_file(&self, at: &str, file: &Value, into: &mut BTreeMap<String, String>) -> Result<(), String> {
        let at = format!("{at}.env_file");
        let (path, required) = match file {
            Value::Object(map) => {
                let path = map.get("path").map(|path| self.text(&at, path)).transpose()?.unwrap_or_default();
                (path, map.get("required").and_then(Value::as_bool).unwrap_or(true))
            }
            other => (self.text(&at, other)?, true),
        };
        let path = path.trim_start_matches("./");
        let Some(found) = self.files.iter().find(|file| file.path == path) else {
            return if required { Err(format!("{at}: there is no file {path}")) } else { Ok(()) };
        };
        into.extend(env_lines(&String::from_utf8_lossy(&found.content)));
        Ok(())
    }

    fn port(&self, at: &str, value: &Value) -> Result<(i32, &'static str), String> {
        if let Value::Object(map) = value {
            let target = map.get("target").map(|target| self.text(at, target)).transpose()?.unwrap_or_default();
            let protocol = map.get("protocol").and_then(Value::as_str).unwrap_or("tcp");
            return container_port(at, &format!("{target}/{protocol}"));
        }
        let text = self.text(at, value)?;
        container_port(at, text.rsplit(':').next().unwrap_or_default())
    }

    /// None for what is not carried over.
    fn mount(&mut self, at: &str, value: &Value) -> Result<Option<Mount>, String> {
        if let Value::Object(map) = value {
            let field =
                |key: &str| map.get(key).map(|value| self.text(at, value)).transpose().map(Option::unwrap_or_default);
            let (kind, source, path) = (field("type")?, field("source")?, field("target")?);
            let read_only = map.get("read_only").and_then(Value::as_bool).unwrap_or(false);
            return match kind.as_str() {
                "tmpfs" => Ok(Some(Mount { volume: None, path, read_only, in_memory: true })),
                "volume" => {
                    let volume = (!source.is_empty()).then_some(source);
                    Ok(Some(Mount { volume, path, read_only, in_memory: false }))
                }
                _ => {
                    self.unsupported.push(format!("{at} ({kind} {source}: there is no such folder in a cluster)"));
                    Ok(None)
                }
            };
        }
        let text = self.text(at, value)?;
        let mut parts = text.split(':');
        let (first, second, mode) = (parts.next().unwrap_or_default(), parts.next(), parts.next().unwrap_or_default());
        let Some(path) = second else {
            return Ok(Some(Mount { volume: None, path: first.to_owned(), read_only: false, in_memory: false }));
        };
        if first.starts_with(['.', '/', '~']) {
            self.unsupported.push(format!("{at} ({text}: there is no such folder in a cluster)"));
            return Ok(None);
        }
        let read_only = mode.split(',').any(|option| option == "ro");
        Ok(Some(Mount { volume: Some(first.to_owned()), path: path.to_owned(), read_only, in_memory: false }))
    }

    fn depends_on(&mut self, at: &str, value: &Value) -> Result<BTreeMap<String, Wait>, String> {
        let mut waits = BTreeMap::new();
        match value {
            Value::Array(names) => {
                for name in names {
                    waits.insert(self.text(at, name)?, Wait::Running);
                }
            }
            Value::Object(map) => {
                for (name, given) in map {
                    let condition = given.get("condition").and_then(Value::as_str).unwrap_or("service_started");
                    let wait = match condition {
                        "service_started" | "service_healthy" => Wait::Running,
                        "service_completed_successfully" => Wait::Completed,
                        other => return Err(format!("{at}.{name}.condition: {other:?} is not known")),
                    };
                    waits.insert(name.clone(), wait);
                }
            }
            _ => return Err(format!("{at}: must be a list or a map")),
        }
        Ok(waits)
    }

    fn health_check(&mut self, at: &str, value: &Value) -> Result<Option<Value>, String> {
        let Value::Object(map) = value else { return Err(format!("{at}: must be a map")) };
        if map.get("disable").and_then(Value::as_bool) == Some(true) {
            return Ok(None);
        }
        let Some(test) = map.get("test") else { return Ok(None) };
        let command = match test {
            Value::Array(words) => {
                let words: Vec<String> = words.iter().map(|word| self.text(at, word)).collect::<Result<_, _>>()?;
                match words.split_first() {
                    Some((first, rest)) if first == "CMD" => rest.to_vec(),
                    Some((first, rest)) if first == "CMD-SHELL" => shell(&rest.join(" ")),
                    Some((first, _)) if first == "NONE" => return Ok(None),
                    _ => return Err(format!("{at}.test: must begin with CMD, CMD-SHELL or NONE")),
                }
            }
            other => shell(&self.text(at, other)?),
        };
        let mut probe = json!({ "exec": { "command": command } });
        for (key, value) in map {
            let at = format!("{at}.{key}");
            let (field, number) = match key.as_str() {
                "interval" => ("periodSeconds", self.seconds(&at, value)?),
                "timeout" => ("timeoutSeconds", self.seconds(&at, value)?),
                "start_period" => ("initialDelaySeconds", self.seconds(&at, value)?),
                "retries" => ("failureThreshold", value.as_i64().ok_or_else(|| format!("{at}: must be a number"))?),
                "test" | "disable" => continue,
                _ => {
                    self.unsupported.push(at);
                    continue;
                }
            };
            if let Some(probe) = probe.as_object_mut() {
                probe.insert(field.to_owned(), json!(number));
            }
        }
        Ok(Some(probe))
    }

    fn deploy(&mut self, at: &str, value: &Value, service: &mut Service) -> Result<(), String> {
        for (key, value) in value.as_object().into_iter().flatten() {
            let at = format!("{at}.{key}");
            match key.as_str() {
                "replicas" => service.replicas = value.as_i64(),
                "resources" => service.resources = Some(self.resources(&at, value)?),
                "restart_policy" | "labels" | "update_config" | "rollback_config" => {}
                _ => self.unsupported.push(at),
            }
        }
        Ok(())
    }

    fn resources(&mut self, at: &str, value: &Value) -> Result<Value, String> {
        let mut resources = Map::new();
        for (key, given) in value.as_object().into_iter().flatten() {
            let at = format!("{at}.{key}");
            let field = match key.as_str() {
                "limits" => "limits",
                "reservations" => "requests",
                _ => {
                    self.unsupported.push(at);
                    continue;
                }
            };
            let mut amounts = Map::new();
            for (what, amount) in given.as_object().into_iter().flatten() {
                let at = format!("{at}.{what}");
                match what.as_str() {
                    "cpus" => drop(amounts.insert("cpu".into(), json!(self.text(&at, amount)?))),
                    "memory" => {
                        let text = self.text(&at, amount)?;
                        amounts.insert(
                            "memory".into(),
                            json!(memory(&text).ok_or_else(|| format!("{at}: {text:?} is no size"))?),
                        );
                    }
                    _ => self.unsupported.push(at),
                }
            }
            resources.insert(field.to_owned(), Value::Object(amounts));
        }
        Ok(Value::Object(resources))
    }

    fn seconds(&self, at: &str, value: &Value) -> Result<i64, String> {
        let text = self.text(at, value)?;
        seconds(&text).ok_or_else(|| format!("{at}: {text:?} is no duration: it must look like 1m30s"))
    }
}

impl Compose {
    /// Images that services are built from. `folder` is that of the compose file in the source.
    pub(crate) fn builds(&self, source: &str, folder: &str) -> Vec<BuildSpec> {
        let build = |(name, service): (&String, &Service)| {
            let build = service.build.as_ref()?;
            Some(BuildSpec {
                name: name.clone(),
                source_ref: source.to_owned(),
                path: join(folder, &build.context)?,
                dockerfile: build.dockerfile.clone(),
                resources: None,
            })
        };
        self.services.iter().filter_map(build).collect()
    }

    /// The services whose build context is outside the source.
    pub(crate) fn builds_outside(&self, folder: &str) -> Vec<String> {
        let outside =
            |service: &Service| service.build.as_ref().is_some_and(|build| join(folder, &build.context).is_none());
        let services = self.services.iter().filter(|(_, service)| outside(service));
        services.map(|(name, _)| format!("services.{name}.build.context")).collect()
    }

    /// The first service that publishes a port, and that port.
    pub(crate) fn front(&self) -> Option<(String, i32)> {
        let named = self.services.get_key_value("web").into_iter();
        named.chain(&self.services).find_map(|(name, service)| Some((name.clone(), service.published?)))
    }

    /// The objects, those that others wait for before them.
    ///
    /// # Errors
    ///
    /// Services that wait for one another.
    pub(crate) fn objects(&self, images: &Images) -> Result<Vec<Item>, String> {
        let mut items: Vec<Item> = Vec::new();
        for name in &self.volumes {
            let spec = json!({
                "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": VOLUME_SIZE } },
            });
            let claim = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": claim_name(name) },
                "spec": spec,
            });
            items.push(Item { object: claim, after: Vec::new() });
        }
        for ((sort, name), content) in &self.attachments {
            let object = content.as_ref().map(|content| attached::object(*sort, name, content));
            items.extend(object.map(|object| Item { object, after: Vec::new() }));
        }
        for (name, service) in self.services.iter().filter(|(name, _)| !self.is_job(name)) {
            items.push(Item { object: service.network(name), after: Vec::new() });
        }
        // where each service's workload stands
        let mut done: BTreeMap<&str, usize> = BTreeMap::new();
        while done.len() < self.services.len() {
            let is_next = |(name, service): &(&String, &Service)| {
                !done.contains_key(name.as_str())
                    && service.depends_on.keys().all(|other| done.contains_key(other.as_str()))
            };
            let Some((name, service)) = self.services.iter().find(is_next) else {
                let mut left = self.services.keys().filter(|name| !done.contains_key(name.as_str()));
                let name = left.next().map_or("", String::as_str);
                return Err(format!("services.{name}.depends_on: services wait for one another: remove one"));
            };
            let after = service.depends_on.keys().filter_map(|other| done.get(other.as_str()).copied()).collect();
            let object = service.workload(name, self.is_job(name), images, &self.attachments)?;
            done.insert(name, items.len());
            items.push(Item { object, after });
        }
        Ok(items)
    }

    /// Somebody waits for its end.
    fn is_job(&self, name: &str) -> bool {
        self.services.values().any(|service| service.depends_on.get(name) == Some(&Wait::Completed))
    }
}

impl Service {
    /// Others reach it by its name, on all ports when it lists none: the name is that of the pods then.
    fn network(&self, name: &str) -> Value {
        let port = |(port, protocol): &(i32, &str)| {
            let word = protocol.to_lowercase();
            json!({ "name": format!("{word}-{port}"), "port": port, "targetPort": port, "protocol": protocol })
        };
        let mut spec = json!({ "selector": { "app": name } });
        let (key, value) = if self.ports.is_empty() {
            ("clusterIP", json!("None"))
        } else {
            ("ports", self.ports.iter().map(port).collect())
        };
        if let Some(spec) = spec.as_object_mut() {
            spec.insert(key.into(), value);
        }
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata(name), "spec": spec })
    }

    fn workload(&self, name: &str, is_job: bool, images: &Images, attachments: &Attachments) -> Result<Value, String> {
        let image = images.get(name).filter(|_| self.build.is_some()).unwrap_or(&self.image);
        let mut container = Map::from_iter([("name".to_owned(), json!(name)), ("image".to_owned(), json!(image))]);
        let mut set = |key: &str, value: Option<Value>| container.extend(value.map(|value| (key.to_owned(), value)));
        set("command", self.entrypoint.as_ref().map(|words| json!(words)));
        set("args", self.command.as_ref().map(|words| json!(words)));
        let env: Vec<Value> =
            self.environment.iter().map(|(name, value)| json!({ "name": name, "value": escaped(value) })).collect();
        set("env", (!env.is_empty()).then(|| json!(env)));
        let port = |(port, protocol): &(i32, &str)| json!({ "containerPort": port, "protocol": protocol });
        set("ports", (!self.ports.is_empty()).then(|| self.ports.iter().map(port).collect()));
        set("workingDir", self.working_dir.as_ref().map(|path| json!(path)));
        set("readinessProbe", self.probe.clone().filter(|_| !is_job));
        set("resources", self.resources.clone());
        let mut security = Map::new();
        if let Some((user, group)) = self.user {
            security.insert("runAsUser".into(), json!(user));
            security.extend(group.map(|group| ("runAsGroup".to_owned(), json!(group))));
        }
        if self.read_only {
            security.insert("readOnlyRootFilesystem".into(), json!(true));
        }
        set("securityContext", (!security.is_empty()).then_some(Value::Object(security)));
        let (mut mounts, mut volumes) = (Vec::new(), BTreeMap::new());
        for (index, mount) in self.mounts.iter().enumerate() {
            let (volume, source) = match &mount.volume {
                Some(name) => {
                    let claim = claim_name(name);
                    (claim.clone(), ("persistentVolumeClaim", json!({ "claimName": claim })))
                }
                None if mount.in_memory => (format!("tmpfs-{index}"), ("emptyDir", json!({ "medium": "Memory" }))),
                None => (format!("anonymous-{index}"), ("emptyDir", json!({}))),
            };
            let (key, value) = source;
            volumes.insert(volume.clone(), json!({ "name": volume, key: value }));
            mounts.push(json!({ "name": volume, "mountPath": mount.path, "readOnly": mount.read_only }));
        }
        let mut contents = Vec::new();
        for attached in &self.attached {
            let Some(Some(content)) = attachments.get(&(attached.sort, attached.name.clone())) else { continue };
            let (volume, mount) = attached::volume(attached);
            volumes.insert(text_of(&volume, "name"), volume);
            mounts.push(mount);
            contents.push(content);
        }
        let mut template = Map::from_iter([("labels".to_owned(), json!({ "app": name }))]);
        if !contents.is_empty() {
            // such files do not change in a container that runs: another content is another pod
            let digest = names::hash(&contents).map_err(|failure| failure.to_string())?;
            template.insert("annotations".into(), json!({ FILES_ANNOTATION: digest }));
        }
        set("volumeMounts", (!mounts.is_empty()).then(|| json!(mounts)));
        let mut pod = Map::from_iter([("containers".to_owned(), json!([container]))]);
        if !volumes.is_empty() {
            pod.insert("volumes".into(), volumes.into_values().collect());
        }
        pod.extend(self.grace_seconds.map(|seconds| ("terminationGracePeriodSeconds".to_owned(), json!(seconds))));
        if is_job {
            pod.insert("restartPolicy".into(), json!("Never"));
            let spec = json!({ "backoffLimit": 3, "template": { "metadata": template, "spec": pod } });
            return Ok(json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata(name), "spec": spec }));
        }
        let has_volume = self.mounts.iter().any(|mount| mount.volume.is_some());
        let strategy = if has_volume {
            json!({ "type": "Recreate" })
        } else {
            json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } })
        };
        let spec = json!({
            "replicas": self.replicas.unwrap_or(1), "strategy": strategy,
            "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": template, "spec": pod },
        });
        Ok(json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata(name), "spec": spec }))
    }
}

fn text_of(object: &Value, field: &str) -> String {
    object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn metadata(name: &str) -> Value {
    json!({ "name": name, "labels": { "app": name, "catalyst.dev/compose-service": name } })
}

/// Kubernetes puts variables in, too: `$(NAME)`.
fn escaped(value: &str) -> String {
    value.replace("$(", "$$(")
}

fn claim_name(volume: &str) -> String {
    volume.replace('_', "-")
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// One, or several.
fn list(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Null => Vec::new(),
        other => vec![other],
    }
}

/// `80`, `80/udp`.
fn container_port(at: &str, text: &str) -> Result<(i32, &'static str), String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => "TCP",
        "udp" => "UDP",
        other => return Err(format!("{at}: {other:?} is no protocol: it must be tcp or udp")),
    };
    match number.parse() {
        Ok(port) if (1..=65_535).contains(&port) => Ok((port, protocol)),
        _ => Err(format!("{at}: {text:?} is no port: ranges must be written out")),
    }
}

/// Parts of a path in a source; none when it leaves the source.
fn join(folder: &str, path: &str) -> Option<String> {
    if path.contains("://") || path.starts_with(['/', '~']) {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn user(text: &str) -> Option<(i64, Option<i64>)> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    Some((user.parse().ok()?, group.map(str::parse).transpose().ok()?))
}

fn shell(command: &str) -> Vec<String> {
    ["/bin/sh", "-c", command].map(str::to_owned).to_vec()
}

/// `1h2m3s` and fractions of a second, rounded up; at least 1.
fn seconds(text: &str) -> Option<i64> {
    let mut total = 0.0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match rest.get(..letters)? {
                "h" => 3_600.0,
                "m" => 60.0,
                "s" | "" => 1.0,
                "ms" => 0.001,
                "us" => 0.000_001,
                _ => return None,
            };
        rest = rest.get(letters..)?;
    }
    // a day's worth of seconds is far from where a double loses them
    (0.0..=86_400.0 * 365.0).contains(&total).then(|| (total.ceil() as i64).max(1))
}

/// `512m` and `1gb` as Kubernetes spells them.
fn memory(text: &str) -> Option<String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let number = lower.get(..digits).filter(|number| number.parse::<f64>().is_ok())?;
    let unit = match lower.get(digits..)? {
        "" | "b" => "",
        "k" | "kb" => "Ki",
        "m" | "mb" => "Mi",
        "g" | "gb" => "Gi",
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

/// Lines `KEY=value` of an environment file.
pub(crate) fn env_lines(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let line = line.trim();
        let (key, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        let value = value.trim();
        let quoted = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        (!line.starts_with('#')).then(|| (key.trim().to_owned(), value.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Words as a shell takes them apart, without anything put in.
fn split_words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut is_word) = (Vec::new(), String::new(), false);
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(c) = letters.next() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                is_word = true;
            }
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                word.extend(letters.next());
                is_word = true;
            }
            (None, c) if c.is_whitespace() => {
                if is_word {
                    words.push(std::mem::take(&mut word));
                }
                is_word = false;
            }
            (_, c) => {
                word.push(c);
                is_word = true;
            }
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".into());
    }
    if is_word {
        words.push(word);
    }
    Ok(words)
}

/// `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:?why}`, `${NAME:+instead}`, `$$`.
fn interpolate(text: &str, variables: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let (inside, after) = braced(after).ok_or_else(|| format!("{text:?}: a brace is not closed"))?;
            out.push_str(&substitute(inside, variables)?);
            rest = after;
        } else {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            let (name, after) = after.split_at_checked(end).unwrap_or((after, ""));
            if name.is_empty() {
                return Err(format!("{text:?}: a $ without a name: write $$ for a $"));
            }
            out.push_str(variables.get(name).map_or("", String::as_str));
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// What is before the brace that closes, and after it.
fn braced(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some((text.get(..at)?, text.get(at + 1..)?)),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn substitute(inside: &str, variables: &BTreeMap<String, String>) -> Result<String, String> {
    let end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
    let (name, operator) = inside.split_at_checked(end).unwrap_or((inside, ""));
    let value = variables.get(name);
    let (empty_counts, operator) = match operator.strip_prefix(':') {
        Some(operator) => (false, operator),
        None => (true, operator),
    };
    let value = value.filter(|value| empty_counts || !value.is_empty());
    let word = operator.get(1..).unwrap_or_default();
    match operator.chars().next() {
        None => Ok(value.cloned().unwrap_or_default()),
        Some('-') => value.cloned().map_or_else(|| interpolate(word, variables), Ok),
        Some('+') => value.map_or(Ok(String::new()), |_| interpolate(word, variables)),
        Some('?') => value.cloned().ok_or_else(|| format!("{name} is not set: {word}; set it in spec.config.env")),
        Some(_) => Err(format!("${{{inside}}} is not understood")),
    }
}
