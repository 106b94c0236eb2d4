//! `cargo xtask demo`: the whole product on a laptop.
//!
//! A control plane, the host, a plugin, and three Domains that become Ready each in its own way; then a changed build of
//! the plugin takes over while they run.

mod board;
mod script;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::controlplane::{ControlPlane, Layout};
use crate::kubectl::{Kubectl, Watch, text};
use crate::process::Group;
use crate::progress::duration;
use crate::tools::Tools;
use crate::{command, guests, host, interrupt, workspace};
use board::Board;
use script::{Action, DOMAINS, Event, Script};

const NAMESPACE: &str = "demo";
const PLUGIN: &str = "domain";

/// Children of any primitive.
const OURS: &str = "--selector=transom.dev/plugin";

const DATABASE_CRD: &str = include_str!("../demo/database-crd.yaml");
const DATABASES: &str = include_str!("../demo/databases.yaml");
const LATE_SECRET: &str = include_str!("../demo/late-secret.yaml");
const SAMPLES: &str = include_str!("../demo/domains.yaml");

/// From the first Domain to the end, with `--check`. It takes about 20 s, of which the Job's controller waits 10 before
/// it makes the second pod; CI machines are slow.
const DEADLINE: Duration = Duration::from_mins(3);

/// A status is written after the child that it speaks of: so long a flap may follow the last change.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// How often the ages in the table move on, and the host is looked after.
const TICK: Duration = Duration::from_millis(500);

/// How long the host may take to serve its own kinds, and then the plugin: compiling it takes seconds in a debug build.
const START_SECONDS: u64 = 90;

/// What was asked for on the command line.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// End with a verdict instead of staying.
    pub(crate) check: bool,
    /// Leave everything running.
    pub(crate) keep: bool,
    /// Use the cluster of `KUBECONFIG` instead of a control plane of its own.
    pub(crate) use_kubeconfig: bool,
}

/// Builds what it needs and runs it.
pub(crate) fn run(options: Options) -> Result<()> {
    let tools = if options.use_kubeconfig { None } else { Some(Tools::prepare()?) };
    eprintln!("building the host");
    let host = host::build()?;
    let plugins = guests::build(&["domain".into(), "domain-next".into()], guests::Build::Quick)?;
    run_with(options, tools.as_ref(), &host, &plugins)
}

/// Runs it with what was built already.
pub(crate) fn run_with(options: Options, tools: Option<&Tools>, host: &Path, plugins: &Path) -> Result<()> {
    let mut demo = Demo::start(tools, host, plugins)?;
    let result = demo.play(options);
    if let Err(error) = &result
        && !error.is::<interrupt::Interrupted>()
    {
        demo.report();
    }
    // Ctrl-C is how the live table is left.
    let left = result.as_ref().is_err_and(|error| error.is::<interrupt::Interrupted>()) && !options.check;
    demo.end(options.keep)?;
    if left { Ok(()) } else { result }
}

struct Demo {
    kubectl: Kubectl,
    // Fields are dropped in this order: the host goes before the API server.
    host: Group,
    host_log: PathBuf,
    /// The folder with the components.
    plugins: PathBuf,
    layout: Layout,
    plane: Option<ControlPlane>,
}

impl Demo {
    fn start(tools: Option<&Tools>, host: &Path, plugins: &Path) -> Result<Self> {
        let folder = workspace::target().join("demo");
        let layout = Layout::new(&folder)?;
        // One that was kept, or that was killed.
        Group::open(&layout.host_pids()).stop()?;
        let plane = tools.map(|tools| ControlPlane::start(&folder, tools)).transpose()?;
        let (kubectl, host_kubeconfig) = match &plane {
            Some(plane) => (plane.kubectl.clone(), plane.layout.host_kubeconfig()),
            None => (Kubectl::of_the_user()?, Kubectl::user_kubeconfig()?),
        };
        let host_log = layout.log("transom");
        if let Some(logs) = host_log.parent() {
            fs::create_dir_all(logs).with_context(|| format!("failed to create {}", logs.display()))?;
        }
        let (host_group, plugins) = (Group::open(&layout.host_pids()), plugins.to_path_buf());
        let mut demo = Self { kubectl, host: host_group, host_log, plugins, layout, plane };
        demo.prepare()?;
        let mut transom = Command::new(host);
        transom.args(["run", "--listen", "127.0.0.1:0", "--cache-dir"]).arg(folder.join("cache"));
        transom.env("KUBECONFIG", host_kubeconfig);
        demo.host.start("transom", &mut transom, &demo.host_log)?;
        Ok(demo)
    }

    /// What is in the cluster before the host: databases, and the namespace.
    fn prepare(&self) -> Result<()> {
        self.kubectl.apply(DATABASE_CRD)?;
        self.kubectl.wait("crd/clusters.postgresql.cnpg.io", "condition=Established", 30)?;
        self.kubectl.apply(DATABASES)
    }

    fn play(&mut self, options: Options) -> Result<()> {
        self.await_host("crd/plugins.transom.dev", "create")?;
        self.await_host("crd/plugins.transom.dev", "condition=Established")?;
        self.kubectl.apply(&plugin_record(&guests::component(&self.plugins, "domain")?)?.to_string())?;
        self.await_host(&format!("plugin.transom.dev/{PLUGIN}"), "jsonpath={.status.phase}=Ready")?;
        eprintln!("the host serves plugin {PLUGIN}; its log is {}", self.host_log.display());
        self.kubectl.apply(SAMPLES)?;
        self.follow(options)
    }

    /// Waits with kubectl, but not for a host that has ended or a plugin that it has refused.
    fn await_host(&self, object: &str, what: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS);
        loop {
            interrupt::check()?;
            let Err(error) = self.kubectl.wait(object, what, 1) else {
                return Ok(());
            };
            self.expect_host()?;
            self.expect_not_refused()?;
            if Instant::now() > deadline {
                return Err(error.context(format!("{object} did not come to {what} within {START_SECONDS} s")));
            }
        }
    }

    fn expect_host(&self) -> Result<()> {
        match self.host.members() {
            [host] if host.is_running() => Ok(()),
            _ => Err(anyhow!("the host has ended")),
        }
    }

    fn expect_not_refused(&self) -> Result<()> {
        let arguments = ["get", "plugins.transom.dev", PLUGIN, "--output=jsonpath={.status.phase}"];
        // There may be no such record yet, nor such a kind.
        if self.kubectl.run(&arguments).is_ok_and(|phase| phase == "Failed") {
            bail!("the plugin was refused");
        }
        Ok(())
    }

    /// Watches, acts and shows until it is over.
    fn follow(&self, options: Options) -> Result<()> {
        let next = guests::component(&self.plugins, "domain-next")?;
        let mut script = Script::new(&digest(&next)?);
        let mut board = Board::new();
        let (_watches, events) = self.watch()?;
        // When the plugin was exchanged, and when the verdict is due.
        let (mut swapped, mut due) = (Instant::now(), None);
        loop {
            interrupt::check()?;
            let actions = match events.recv_timeout(TICK) {
                Ok(event) => script.react(event),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => bail!("the API server has closed all watches"),
            };
            board.show(script.domains());
            for action in actions {
                match &action {
                    Action::Swap => swapped = Instant::now(),
                    Action::Finish(_) => due = Some(Instant::now() + SETTLED_AFTER),
                    _ => {}
                }
                self.act(action, &next, &mut board, swapped)?;
            }
            self.expect_host()?;
            if due.is_some_and(|due| Instant::now() > due) {
                board.note("every Domain was Ready all the time");
                if options.check {
                    return Ok(());
                }
                board.note(&format!(
                    "Ctrl-C ends it; until then: export KUBECONFIG={}",
                    self.kubectl.kubeconfig().display()
                ));
                script.rest();
                due = None;
            }
            if options.check && board.elapsed() > DEADLINE {
                bail!("not everything was Ready within {}", duration(DEADLINE));
            }
        }
    }

    fn watch(&self) -> Result<([Watch; 5], Receiver<Event>)> {
        let (report, events) = mpsc::channel();
        let watch = |arguments: &[&str], wrap: fn(_) -> Event| self.kubectl.watch(arguments, report.clone(), wrap);
        let namespace = format!("--namespace={NAMESPACE}");
        let watches = [
            watch(&["domains.ameide.io", &namespace], Event::Domain)?,
            watch(&["deployments.apps", &namespace, OURS], Event::Child)?,
            watch(&["services", &namespace, OURS], Event::Child)?,
            watch(&["pods", &namespace, "--selector=ameide.io/job=migration"], Event::Pod)?,
            watch(&["plugins.transom.dev", PLUGIN], Event::Plugin)?,
        ];
        Ok((watches, events))
    }

    fn act(&self, action: Action, next: &Path, board: &mut Board, swapped: Instant) -> Result<()> {
        match action {
            Action::EndPod { name, containers, succeeds } => {
                self.end_pod(&name, &containers, succeeds)?;
                board.note(&format!("pod {name} {}", if succeeds { "succeeds" } else { "fails, as planned" }));
            }
            Action::DeliverSecret => {
                self.kubectl.apply(LATE_SECRET)?;
                board.note("the missing secret of shipping's database arrives");
            }
            Action::Swap => {
                board.note(&format!("all {} Domains are Ready; the plugin is exchanged", DOMAINS.len()));
                let record = plugin_record(next)?;
                let patch = json!({ "spec": record.get("spec") }).to_string();
                self.kubectl.run(&["patch", "plugins.transom.dev", PLUGIN, "--type=merge", "--patch", &patch])?;
            }
            Action::Finish(changed) => {
                let (took, changed) = (duration(swapped.elapsed()), changed.join(", "));
                board.note(&format!("the new version serves after {took}; it has changed {changed}, and nothing else"));
            }
            Action::Fail(why) => bail!(why),
        }
        Ok(())
    }

    /// Plays the kubelet for one pod.
    fn end_pod(&self, name: &str, containers: &[String], succeeds: bool) -> Result<()> {
        let (phase, reason, code) = if succeeds { ("Succeeded", "Completed", 0) } else { ("Failed", "Error", 1) };
        let container = |name| {
            json!({
                "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": { "exitCode": code, "reason": reason } },
            })
        };
        let containers: Vec<Value> = containers.iter().map(container).collect();
        let patch = json!({ "status": { "phase": phase, "containerStatuses": containers } }).to_string();
        let namespace = format!("--namespace={NAMESPACE}");
        let arguments = ["patch", "pod", name, &namespace, "--subresource=status", "--type=merge", "--patch", &patch];
        self.kubectl.run(&arguments).map(drop)
    }

    /// Says why it failed: conditions, events, the end of the host's log.
    fn report(&self) {
        let namespace = format!("--namespace={NAMESPACE}");
        for (kind, arguments) in [
            ("plugin", ["get", "plugins.transom.dev", "--output=json", "--all-namespaces"]),
            ("domain", ["get", "domains.ameide.io", "--output=json", &namespace]),
        ] {
            let list = self.kubectl.run(&arguments).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
            for object in list.iter().filter_map(|list| list.get("items")?.as_array()).flatten() {
                eprintln!("\n{kind} {}:", text(object, "/metadata/name"));
                eprint!("{}", conditions(object));
            }
        }
        let columns = "--output=custom-columns=TYPE:.type,REASON:.reason,OBJECT:.involvedObject.name,MESSAGE:.message";
        if let Ok(events) =
            self.kubectl.run(&["get", "events", &namespace, "--sort-by=.metadata.creationTimestamp", columns])
        {
            eprintln!("\nevents:\n{}", command::last_lines(&events, 30));
        }
        eprintln!("\nthe end of {}:\n{}", self.host_log.display(), command::tail(&self.host_log, 40));
    }

    fn end(mut self, keep: bool) -> Result<()> {
        if keep {
            self.host.forget();
            if let Some(plane) = self.plane {
                println!("export KUBECONFIG={}", plane.layout.kubeconfig().display());
                plane.keep();
            }
            eprintln!(
                "everything is left running; `cargo xtask down --dir {}` ends it",
                self.layout.folder().display()
            );
            return Ok(());
        }
        if self.plane.is_none() {
            // A cluster that stays is left as it was found, while the host is there to clean up.
            let namespace = format!("--namespace={NAMESPACE}");
            self.kubectl.run(&["delete", "domains.ameide.io", "--all", &namespace, "--timeout=60s"])?;
            self.kubectl.run(&["delete", "plugins.transom.dev", PLUGIN, "--timeout=60s"])?;
            self.kubectl.run(&["delete", "namespace", NAMESPACE, "--timeout=60s"])?;
        }
        self.host.stop()?;
        self.plane.map_or(Ok(()), ControlPlane::stop)
    }
}

/// The `Plugin` record that serves the component in `file`.
fn plugin_record(file: &Path) -> Result<Value> {
    Ok(json!({
        "apiVersion": "transom.dev/v1alpha1",
        "kind": "Plugin",
        "metadata": { "name": PLUGIN },
        "spec": { "source": { "file": { "path": file } }, "digest": digest(file)? },
    }))
}

fn digest(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}

/// A line for each condition of an object.
fn conditions(object: &Value) -> String {
    let all = object.pointer("/status/conditions").and_then(Value::as_array);
    let line = |found: &Value| {
        let [kind, status, reason, message] = ["/type", "/status", "/reason", "/message"].map(|part| text(found, part));
        format!("  {kind}={status}  {reason}  {message}\n")
    };
    match all {
        Some(all) => all.iter().map(line).collect(),
        None => "  no conditions\n".into(),
    }
}

impl Kubectl {
    /// That of the user, with the user's cluster.
    pub(crate) fn of_the_user() -> Result<Self> {
        let program =
            env::var_os("KUBEBUILDER_ASSETS").map_or("kubectl".into(), |folder| Path::new(&folder).join("kubectl"));
        Ok(Self::new(&program, Self::user_kubeconfig()?))
    }

    pub(crate) fn user_kubeconfig() -> Result<PathBuf> {
        env::var_os("KUBECONFIG")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .context("--use-kubeconfig needs the environment variable KUBECONFIG")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_file_and_digest() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.wasm");
        fs::write(&file, "abc").unwrap();
        assert_eq!(
            plugin_record(&file).unwrap()["spec"],
            json!({
                "source": { "file": { "path": file } },
                "digest": "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            })
        );
    }

    #[test]
    fn the_samples_are_those_that_the_script_knows() {
        for name in DOMAINS {
            assert!(SAMPLES.contains(&format!("metadata: {{ name: {name}, namespace: {NAMESPACE} }}")), "{name}");
        }
    }

    #[test]
    fn conditions_are_listed() {
        let object =
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "False", "reason": "Waiting" }] } });
        assert_eq!(conditions(&object), "  Ready=False  Waiting  \n");
        assert_eq!(conditions(&json!({})), "  no conditions\n");
    }
}
