//! What a kubelet does, as far as the tests need it: it runs the pods of a namespace as processes.
//!
//! kwok binds pods to nodes and says that they run; pods with an image called `by-hand` it leaves alone. Those are run
//! here: the program of the image with the container's own arguments and environment, secrets resolved, and the pod's
//! status written as a kubelet would write it, termination message included.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, PodSpec, Secret};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::task::{AbortHandle, JoinHandle};

use crate::{Environment, Namespace, cluster};

/// What an image brings along.
#[derive(Clone, Debug)]
pub struct Image {
    /// As containers name it; its last element must be `by-hand`.
    pub name: String,
    /// Its entry point.
    pub program: PathBuf,
    /// Its own environment.
    pub env: Vec<(String, String)>,
    /// It is a server: ready as soon as it has printed a line.
    pub serves: bool,
}

/// A container that was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The container's name.
    pub container: String,
    /// Its image.
    pub image: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment as the pod's spec says it, secrets resolved.
    pub env: HashMap<String, String>,
    /// What a server has printed first.
    pub printed: Option<String>,
    /// None while it runs, and when it was killed.
    pub exit_code: Option<i32>,
}

/// Runs pods for as long as it lives. Dropping it kills them.
pub struct Kubelet {
    runs: Arc<Mutex<Vec<Run>>>,
    task: JoinHandle<()>,
}

impl Kubelet {
    /// For the pods of this namespace with these images.
    pub async fn start(ns: &Namespace, images: Vec<Image>) -> Self {
        let runs = Arc::<Mutex<Vec<Run>>>::default();
        let client = cluster::client(&Environment::get()).await;
        let node = Node { client, namespace: ns.name.clone(), images: images.into(), runs: runs.clone() };
        Self { runs, task: tokio::spawn(node.watch()) }
    }

    /// What was run so far, in order of the starts.
    ///
    /// # Panics
    ///
    /// Never.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        self.runs.lock().unwrap().clone()
    }

    /// What was run so far of this container.
    #[must_use]
    pub fn runs_of(&self, container: &str) -> Vec<Run> {
        self.runs().into_iter().filter(|run| run.container == container).collect()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Node {
    client: Client,
    namespace: String,
    images: Arc<[Image]>,
    runs: Arc<Mutex<Vec<Run>>>,
}

/// A process that ends when it is dropped.
struct Process(AbortHandle);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Node {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn watch(self) {
        let mut running: HashMap<String, Process> = HashMap::new();
        let mut pods = std::pin::pin!(watcher(self.pods(), watcher::Config::default()).default_backoff());
        while let Some(event) = pods.next().await {
            match event {
                Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                    let uid = pod.metadata.uid.clone().unwrap_or_default();
                    if pod.metadata.deletion_timestamp.is_some() {
                        running.remove(&uid);
                    } else if let (false, Some(image)) = (running.contains_key(&uid), self.image(&pod)) {
                        let run = self.clone().run(pod, image);
                        running.insert(uid, Process(tokio::spawn(run).abort_handle()));
                    }
                }
                Ok(watcher::Event::Delete(pod)) => drop(running.remove(&pod.metadata.uid.unwrap_or_default())),
                Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
                Err(error) => eprintln!("the tests' kubelet: {error}"),
            }
        }
    }

    /// Of a pod that is to be started.
    fn image(&self, pod: &Pod) -> Option<Image> {
        let spec = pod.spec.as_ref().filter(|spec| spec.node_name.is_some())?;
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let wanted = spec.containers.first()?.image.as_deref()?;
        self.images.iter().find(|image| matches!(phase, None | Some("Pending")) && image.name == wanted).cloned()
    }

    async fn run(self, pod: Pod, image: Image) {
        let name = pod.metadata.name.unwrap_or_default();
        let spec = pod.spec.expect("a pod has a spec");
        let folder = tempfile::tempdir().unwrap();
        let message = folder.path().join("termination-log");
        let mounts = self.mount(&spec, folder.path()).await;
        let container = spec.containers.into_iter().next().expect("a pod has a container");
        let mut env = self.environment(&container, &name).await;
        // processes share the machine's file system: paths in the environment lead to where their volumes are
        for value in env.values_mut() {
            if let Some((path, real)) = mounts.iter().find(|(path, _)| value.starts_with(path.as_str())) {
                *value = value.replacen(path.as_str(), real, 1);
            }
        }
        let arguments = container.args.clone().unwrap_or_default();
        let index = {
            let mut runs = self.runs.lock().unwrap();
            runs.push(Run {
                container: container.name.clone(),
                image: image.name.clone(),
                arguments: arguments.clone(),
                env: env.clone(),
                printed: None,
                exit_code: None,
            });
            runs.len() - 1
        };
        let mut command = Command::new(&image.program);
        command.args(&arguments).env_clear().envs(image.env.clone()).envs(&env);
        command.env("TERMINATION_MESSAGE_PATH", &message);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let spawned = command.spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{}: {error}", image.program.display()));
        self.report(&name, &container, "Running", false, json!({ "running": { "startedAt": now() } })).await;
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        if image.serves && output.read_line(&mut line).await.is_ok_and(|read| read > 0) {
            self.runs.lock().unwrap()[index].printed = Some(line.trim().to_owned());
            self.report(&name, &container, "Running", true, json!({ "running": { "startedAt": now() } })).await;
        }
        let _ = output.read_to_string(&mut line).await; // a full pipe would stop it
        let code = child.wait().await.ok().and_then(|status| status.code()).unwrap_or(137);
        self.runs.lock().unwrap()[index].exit_code = Some(code);
        let mut message = std::fs::read_to_string(&message).unwrap_or_default();
        let falls_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        if code != 0 && message.is_empty() && falls_back {
            message = line.split_off(line.len().saturating_sub(2_048));
        }
        let (phase, reason) = if code == 0 { ("Succeeded", "Completed") } else { ("Failed", "Error") };
        let terminated = json!({ "exitCode": code, "reason": reason, "message": message, "finishedAt": now() });
        self.report(&name, &container, phase, false, json!({ "terminated": terminated })).await;
    }

    /// Writes the ConfigMaps and Secrets that the first container mounts. Returns mount paths and where they really are.
    async fn mount(&self, spec: &PodSpec, folder: &Path) -> Vec<(String, String)> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut mounts = Vec::new();
        for mount in spec.containers.iter().take(1).flat_map(|container| container.volume_mounts.iter().flatten()) {
            let volume = spec.volumes.iter().flatten().find(|volume| volume.name == mount.name);
            let Some(volume) = volume else { continue };
            let real = folder.join(&mount.name);
            std::fs::create_dir_all(&real).unwrap();
            if let Some(source) = &volume.config_map {
                let map = maps.get(&source.name).await.expect("a ConfigMap that a running pod names");
                map.data.into_iter().flatten().for_each(|(name, text)| std::fs::write(real.join(name), text).unwrap());
            } else if let Some((source, name)) = volume.secret.as_ref().and_then(|s| Some((s, s.secret_name.as_ref()?)))
            {
                let secret = secrets.get(name).await.expect("a Secret that a running pod names");
                for (key, bytes) in secret.data.into_iter().flatten() {
                    let item = source.items.iter().flatten().find(|item| item.key == key);
                    let file = item.map_or(&key, |item| &item.path);
                    std::fs::write(real.join(file), bytes.0).unwrap();
                }
            } else {
                continue;
            }
            mounts.push((mount.mount_path.clone(), real.display().to_string()));
        }
        mounts
    }

    async fn environment(&self, container: &Container, pod: &str) -> HashMap<String, String> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut env = HashMap::new();
        for variable in container.env.iter().flatten() {
            let source = variable.value_from.as_ref();
            let field = source.and_then(|source| source.field_ref.as_ref()).map(|field| field.field_path.as_str());
            let value = match (source.and_then(|source| source.secret_key_ref.as_ref()), field) {
                (None, None) => variable.value.clone().unwrap_or_default(),
                (None, Some("metadata.name")) => pod.to_owned(),
                (None, Some("metadata.namespace")) => self.namespace.clone(),
                (None, Some(other)) => panic!("the tests' kubelet does not know the field {other}"),
                (Some(reference), _) => {
                    let secret = secrets.get(&reference.name).await.expect("a secret that a running pod names");
                    let value = secret.data.and_then(|mut data| data.remove(&reference.key)).expect("its key");
                    String::from_utf8(value.0).expect("text")
                }
            };
            env.insert(variable.name.clone(), value);
        }
        env
    }

    async fn report(&self, pod: &str, container: &Container, phase: &str, is_ready: bool, state: Value) {
        let status = json!({ "status": {
            "phase": phase,
            "conditions": [{
                "type": "Ready", "status": if is_ready { "True" } else { "False" }, "lastTransitionTime": now(),
            }],
            "containerStatuses": [{
                "name": container.name, "image": container.image, "imageID": "", "restartCount": 0, "ready": is_ready,
                "state": state,
            }],
        } });
        let patched = self.pods().patch_status(pod, &PatchParams::default(), &Patch::Merge(status)).await;
        if let Err(error) = patched
            && !matches!(&error, kube::Error::Api(status) if status.code == 404)
        {
            eprintln!("the tests' kubelet cannot say how {pod} fares: {error}");
        }
    }
}

fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A program of this workspace, beside the host's.
///
/// # Panics
///
/// When it was not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let path = crate::environment::program().with_file_name(name);
    assert!(path.is_file(), "{} is missing: run `cargo build -p transom-migrator`", path.display());
    path
}
