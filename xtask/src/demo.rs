//! `cargo xtask demo`: the whole product on a laptop.
//!
//! A control plane, the host, four plugins and their samples: three Domains that become Ready each in its own way, a
//! Process with a real Temporal, an Environment, an instance of a Helm chart. Then a changed build of the Domains' plugin
//! takes over while they run.

mod board;
mod exhibits;
mod script;
mod services;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::controlplane::{ControlPlane, Layout};
use crate::kubectl::{Kubectl, Watch, text};
use crate::process::Group;
use crate::progress::duration;
use crate::tools::Tools;
use crate::{command, guests, host, interrupt, tools, workspace};
use board::Board;
use exhibits::{EXCHANGED, EXHIBITS};
use script::{Action, Event, Script};
use services::Services;

const NAMESPACE: &str = "demo";

/// Children of Domains.
const OURS: &str = "--selector=transom.dev/plugin=domain";

const DATABASE_CRD: &str = include_str!("../demo/database-crd.yaml");
const DATABASES: &str = include_str!("../demo/databases.yaml");
const LATE_SECRET: &str = include_str!("../demo/late-secret.yaml");

/// From the first record to the end, with `--check`. It takes about 25 s, of which the Job's controller waits 10 before
/// it makes the second pod, and the engines' compilation a minute more the first time; CI machines are slow.
const DEADLINE: Duration = Duration::from_mins(5);

/// A status is written after the child that it speaks of: so long a flap may follow the last change.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// How often the ages in the table move on, and the host is looked after.
const TICK: Duration = Duration::from_millis(500);

/// How long the host may take to serve its own kinds.
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
    tools::services()?;
    eprintln!("building the host");
    let host = host::build()?;
    let plugins = guests::build(&exhibits::components(), guests::Build::Quick)?;
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
    /// The services of Processes, and after them the host.
    host: Group,
    services: Services,
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
        let mut host_and_services = Group::open(&layout.host_pids());
        let services = Services::start(&mut host_and_services, &layout)?;
        let plugins = plugins.to_path_buf();
        let mut demo = Self { kubectl, host: host_and_services, services, host_log, plugins, layout, plane };
        demo.prepare()?;
        let mut transom = Command::new(host);
        transom.args(["run", "--listen", "127.0.0.1:0"]);
        // That of the tests: what they have compiled is not compiled again, and the other way round.
        let cache = workspace::target().join("test-cache");
        transom.arg("--cache-key-file").arg(cache.with_extension("key")).arg("--cache-dir").arg(cache);
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
        for record in exhibits::records(&self.plugins, &self.services)? {
            self.kubectl.apply(&record.to_string())?;
        }
        eprintln!(
            "the host runs, its log is {}; it compiles plugins and engines now, which takes a minute the first time",
            self.host_log.display()
        );
        self.follow(options)
    }

    /// Waits with kubectl, but not for a host that has ended.
    fn await_host(&self, object: &str, what: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS);
        loop {
            interrupt::check()?;
            let Err(error) = self.kubectl.wait(object, what, 1) else {
                return Ok(());
            };
            self.expect_host()?;
            if Instant::now() > deadline {
                return Err(error.context(format!("{object} did not come to {what} within {START_SECONDS} s")));
            }
        }
    }

    fn expect_host(&self) -> Result<()> {
        match self.host.members().iter().find(|member| !member.is_running()) {
            Some(ended) => bail!("{} has ended; see {}", ended.name, self.layout.log(&ended.name).display()),
            None => Ok(()),
        }
    }

    /// Watches, acts and shows until it is over.
    fn follow(&self, options: Options) -> Result<()> {
        let next = exhibits::next(&self.plugins)?;
        let mut script = Script::new(&exhibits::digest(&next)?);
        let mut board = Board::new();
        let (report, events) = mpsc::channel();
        let mut watches = self.watch(&report)?;
        // Until all kinds are watched: without it the end of all watches is seen.
        let mut report = Some(report);
        // When the plugin was exchanged, and when the verdict is due.
        let (mut swapped, mut due) = (Instant::now(), None);
        loop {
            interrupt::check()?;
            let actions = match events.recv_timeout(TICK) {
                Ok(event) => script.react(event),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => bail!("the API server has closed all watches"),
            };
            board.show(script.objects());
            for action in actions {
                match &action {
                    Action::Show(exhibit) => {
                        let arguments = [exhibit.resource, &format!("--namespace={NAMESPACE}")];
                        if let Some(report) = &report {
                            watches.push(self.kubectl.watch(&arguments, report.clone(), Event::Sample)?);
                        }
                        report = report.filter(|_| !script.has_shown_all());
                    }
                    Action::Swap => swapped = Instant::now(),
                    Action::Finish(_) => due = Some(Instant::now() + SETTLED_AFTER),
                    _ => {}
                }
                self.act(action, &next, &mut board, swapped)?;
            }
            self.expect_host()?;
            if due.is_some_and(|due| Instant::now() > due) {
                board.note("everything was Ready all the time");
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

    fn watch(&self, report: &Sender<Event>) -> Result<Vec<Watch>> {
        let watch = |arguments: &[&str], wrap: fn(_) -> Event| self.kubectl.watch(arguments, report.clone(), wrap);
        let namespace = format!("--namespace={NAMESPACE}");
        Ok(vec![
            watch(&["deployments.apps", &namespace, OURS], Event::Child)?,
            watch(&["services", &namespace, OURS], Event::Child)?,
            watch(&["pods", &namespace, "--selector=ameide.io/job=migration"], Event::Pod)?,
            watch(&["plugins.transom.dev"], Event::Plugin)?,
        ])
    }

    fn act(&self, action: Action, next: &Path, board: &mut Board, swapped: Instant) -> Result<()> {
        match action {
            Action::Show(exhibit) => {
                board.note(&format!("the host serves plugin {}", exhibit.plugin));
                self.kubectl.apply(exhibit.manifest)?;
            }
            Action::EndPod { name, containers, succeeds } => {
                self.end_pod(&name, &containers, succeeds)?;
                board.note(&format!("pod {name} {}", if succeeds { "succeeds" } else { "fails, as planned" }));
            }
            Action::DeliverSecret => {
                self.kubectl.apply(LATE_SECRET)?;
                board.note("the missing secret of shipping's database arrives");
            }
            Action::Swap => {
                board.note(&format!("all samples are Ready; the plugin {EXCHANGED} is exchanged"));
                let patch = json!({ "spec": exhibits::source(next)? }).to_string();
                self.kubectl.run(&["patch", "plugins.transom.dev", EXCHANGED, "--type=merge", "--patch", &patch])?;
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
        for resource in EXHIBITS.iter().map(|exhibit| exhibit.resource).chain(["plugins.transom.dev"]) {
            let arguments = ["get", resource, "--output=json", "--all-namespaces"];
            let list = self.kubectl.run(&arguments).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
            for object in list.iter().filter_map(|list| list.get("items")?.as_array()).flatten() {
                eprintln!("\n{} {}:", text(object, "/kind"), text(object, "/metadata/name"));
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
            for exhibit in EXHIBITS.iter().rev() {
                self.kubectl.run(&["delete", exhibit.resource, "--all", &namespace, "--timeout=60s"])?;
                // and what they rest on
                self.kubectl.delete(exhibit.manifest)?;
            }
            for exhibit in &EXHIBITS {
                self.kubectl.run(&["delete", "plugins.transom.dev", exhibit.plugin, "--timeout=60s"])?;
            }
            self.kubectl.run(&["delete", "namespace", NAMESPACE, "--timeout=60s"])?;
        }
        self.host.stop()?;
        self.plane.map_or(Ok(()), ControlPlane::stop)
    }
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
    fn conditions_are_listed() {
        let object =
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "False", "reason": "Waiting" }] } });
        assert_eq!(conditions(&object), "  Ready=False  Waiting  \n");
        assert_eq!(conditions(&json!({})), "  no conditions\n");
    }
}
