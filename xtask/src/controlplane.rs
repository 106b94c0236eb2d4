//! A Kubernetes control plane on this machine: etcd, API server with TLS and RBAC, controller manager, scheduler, and
//! kwok in place of nodes, so that pods run and Jobs complete.
//!
//! Everything is thrown away with it: etcd does not sync to disk, certificates are made at every start, ports are
//! whatever is free on the loopback address.

mod components;
mod files;
pub(crate) mod ports;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::kubectl::Kubectl;
use crate::process::Group;
use crate::tools::Tools;
use crate::{certificates, command, interrupt, workspace};
use ports::Ports;

/// User of the host under test. The audit log has its requests and no others, with `impersonatedUser` where it acts for
/// someone else.
pub(crate) const HOST_USER: &str = "transom-host";

/// How long each part may take to become ready; on an idle machine all of them take 4 s.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// Someone else may take a port between our finding it free and the server's binding it.
const ATTEMPTS: u32 = 3;

const NODES: u32 = 3;

/// Paths inside a control plane's folder.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    folder: PathBuf,
}

impl Layout {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        // Kubeconfigs and the servers' flags need absolute paths.
        let folder = std::path::absolute(folder).with_context(|| format!("{} is no path", folder.display()))?;
        Ok(Self { folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    pub(crate) fn host_kubeconfig(&self) -> PathBuf {
        self.folder.join("host.kubeconfig")
    }

    pub(crate) fn audit_log(&self) -> PathBuf {
        self.folder.join("audit.log")
    }

    pub(crate) fn log(&self, component: &str) -> PathBuf {
        self.folder.join("logs").join(component).with_extension("log")
    }

    /// Where other programs than the control plane's own are kept that `down` is to stop too: hosts.
    pub(crate) fn host_pids(&self) -> PathBuf {
        self.folder.join("host.pids")
    }

    fn pids(&self) -> PathBuf {
        self.folder.join("pids")
    }

    fn certificates(&self) -> PathBuf {
        self.folder.join("certificates")
    }

    fn etcd_data(&self) -> PathBuf {
        self.folder.join("etcd")
    }

    fn audit_policy(&self) -> PathBuf {
        self.folder.join("audit-policy.yaml")
    }

    fn stages(&self) -> PathBuf {
        self.folder.join("stages.yaml")
    }

    /// An empty folder. Only what we put there is removed: the folder may have been given by hand.
    fn reset(&self) -> Result<()> {
        for folder in [self.etcd_data(), self.certificates(), self.folder.join("logs")] {
            if folder.exists() {
                fs::remove_dir_all(&folder).with_context(|| format!("failed to empty {}", folder.display()))?;
            }
        }
        for file in [self.audit_log(), self.kubeconfig(), self.host_kubeconfig()] {
            fs::remove_file(file).ok();
        }
        for folder in [self.certificates(), self.folder.join("logs")] {
            fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
        }
        Ok(())
    }
}

/// A running control plane; dropping it stops it.
pub(crate) struct ControlPlane {
    pub(crate) layout: Layout,
    pub(crate) kubectl: Kubectl,
    processes: Group,
}

impl ControlPlane {
    /// The folder of the one that `up` starts and `down` stops.
    pub(crate) fn default_folder() -> PathBuf {
        workspace::target().join("controlplane")
    }

    /// Starts a fresh one in `folder`, in place of one that may still run there.
    pub(crate) fn start(folder: &Path, tools: &Tools) -> Result<Self> {
        let layout = Layout::new(folder)?;
        let mut attempt = 1;
        loop {
            match Self::try_start(&layout, tools) {
                Err(error) if attempt < ATTEMPTS && lost_a_port(&layout) => {
                    eprintln!("a port was taken by someone else, trying others ({error:#})");
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn try_start(layout: &Layout, tools: &Tools) -> Result<Self> {
        let started = Instant::now();
        Group::open(&layout.pids()).stop()?;
        layout.reset()?;
        certificates::write(&layout.certificates(), HOST_USER)?;
        let ports = Ports::find()?;
        files::write(layout, &ports, &tools.stages)?;

        let mut plane = Self {
            kubectl: Kubectl::new(&tools.kubectl, layout.kubeconfig()),
            layout: layout.clone(),
            processes: Group::open(&layout.pids()),
        };
        for component in components::before_the_api(layout, tools, &ports) {
            plane.launch(component)?;
        }
        plane.wait_for("the API server", |kubectl| kubectl.run(&["get", "--raw", "/readyz"]).map(drop))?;
        for component in components::on_the_api(layout, tools) {
            plane.launch(component)?;
        }
        plane.kubectl.create(&files::nodes(NODES))?;
        // Pods need both: the account's token is mounted, and nobody else would run them.
        plane.wait_for("the default service account", |kubectl| {
            kubectl.run(&["get", "serviceaccount", "default", "--namespace=default"]).map(drop)
        })?;
        plane.wait_for("the nodes", |kubectl| {
            kubectl.run(&["wait", "node", "--all", "--for=condition=Ready", "--timeout=1s"]).map(drop)
        })?;
        eprintln!("control plane ready in {}", crate::progress::duration(started.elapsed()));
        Ok(plane)
    }

    fn launch(&mut self, component: components::Component) -> Result<()> {
        let components::Component { name, mut command } = component;
        self.processes.start(name, &mut command, &self.layout.log(name)).map(drop)
    }

    /// Tries `probe` until it works, and notices when one of the programs ends instead.
    fn wait_for(&self, what: &str, probe: impl Fn(&Kubectl) -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            interrupt::check()?;
            let Err(error) = probe(&self.kubectl) else {
                return Ok(());
            };
            if let Some(dead) = self.processes.members().iter().find(|member| !member.is_running()) {
                let log = self.layout.log(&dead.name);
                bail!("{} ended; the end of {}:\n{}", dead.name, log.display(), command::tail(&log, 30));
            }
            if Instant::now() > deadline {
                let folder = self.layout.folder.join("logs");
                return Err(error.context(format!(
                    "{what} did not become ready within {} s; logs are in {}",
                    READY_WITHIN.as_secs(),
                    folder.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The PIDs of its programs.
    pub(crate) fn pids(&self) -> Vec<i32> {
        self.processes.members().iter().map(|member| member.pid).collect()
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        self.processes.stop()
    }

    /// Lets it run on after we end.
    pub(crate) fn keep(mut self) {
        self.processes.forget();
    }
}

fn lost_a_port(layout: &Layout) -> bool {
    ["etcd", "kube-apiserver"]
        .iter()
        .any(|name| command::tail(&layout.log(name), 50).contains("address already in use"))
}

/// `cargo xtask up`
pub(crate) fn up(folder: &Path) -> Result<()> {
    let layout = Layout::new(folder)?;
    let mut running = Group::open(&layout.pids());
    if running.members().len() >= components::COUNT {
        eprintln!("already running (`cargo xtask down` ends it)");
        running.forget();
    } else {
        ControlPlane::start(folder, &Tools::prepare()?)?.keep();
    }
    println!("export KUBECONFIG={}", layout.kubeconfig().display());
    Ok(())
}

/// `cargo xtask down`
pub(crate) fn down(folder: &Path) -> Result<()> {
    let layout = Layout::new(folder)?;
    let mut stopped = Vec::new();
    // Hosts first: without the API server they would only complain.
    for file in [layout.host_pids(), layout.pids()] {
        let mut running = Group::open(&file);
        stopped.extend(running.members().iter().map(|member| member.name.clone()));
        running.stop()?;
    }
    match stopped.as_slice() {
        [] => eprintln!("nothing was running"),
        names => eprintln!("stopped {}", names.join(", ")),
    }
    Ok(())
}
