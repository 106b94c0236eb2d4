//! `cargo xtask test`: all tests, as CI runs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::controlplane::ControlPlane;
use crate::kubectl::Kubectl;
use crate::progress::Steps;
use crate::tools::Tools;
use crate::{command, crds, demo, guests, host, postgres, tools, workspace};

/// What was asked for on the command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Use the cluster of `KUBECONFIG` instead of a control plane of its own.
    pub(crate) use_kubeconfig: bool,
    /// For `cargo test`.
    pub(crate) arguments: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut steps = Steps::default();
    let result = all(options, &mut steps);
    eprintln!("\n{}", steps.table());
    result
}

fn all(options: &Options, steps: &mut Steps) -> Result<()> {
    let tools = steps.run("tools", Tools::prepare)?;
    let registry = steps.run("registry", tools::registry)?;
    let helm = steps.run("helm", tools::helm)?;
    let cosign = steps.run("cosign", tools::cosign)?;
    let (temporal, worker) = steps.run("temporal", tools::temporal)?;
    let plugins = steps.run("plugins", || guests::build(&[], guests::Build::Quick))?;
    let host = steps.run("build", build)?;
    steps.run("crds --check", || crds::check(&host, &plugins))?;
    let plane = if options.use_kubeconfig {
        None
    } else {
        let folder = workspace::target().join("test-controlplane");
        Some(steps.run("control plane", || ControlPlane::start(&folder, &tools))?)
    };
    let mut environment = Environment::new(&tools, plane.as_ref(), &plugins, &host)?;
    environment.variables.push((postgres::BIN_VARIABLE, steps.run("postgresql", postgres::prepare)?));
    steps.run("cargo test", || {
        let mut tests = command::cargo();
        tests.current_dir(workspace::root()).args(["test", "--workspace"]).args(&options.arguments);
        environment.set(&mut tests);
        tests.env("TRANSOM_TEST_REGISTRY", &registry).env("TRANSOM_TEST_COSIGN", &cosign);
        tests.env("TRANSOM_TEST_HELM", &helm);
        tests.env("TRANSOM_TEST_TEMPORAL", &temporal).env("TRANSOM_TEST_WORKER", &worker);
        command::run(&mut tests)
    })?;
    // Two cores run one control plane well, not two.
    plane.map_or(Ok(()), ControlPlane::stop)?;
    // The demo wants kwok's nodes and a cluster without Domains: always one of its own.
    steps.run("demo --check", || {
        demo::run_with(demo::Options { check: true, ..demo::Options::default() }, Some(&tools), &host, &plugins)
    })
}

/// What charts are tried, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Charts {
    /// Use the cluster of `KUBECONFIG` instead of a control plane of its own.
    pub(crate) use_kubeconfig: bool,
    /// A folder of charts.
    pub(crate) folder: PathBuf,
    /// How many minutes nothing may be written.
    pub(crate) minutes: u64,
}

/// Charts of a folder as live instances.
pub(crate) fn charts(charts: &Charts) -> Result<()> {
    let folder = fs::canonicalize(&charts.folder).with_context(|| format!("no folder {}", charts.folder.display()))?;
    let tools = Tools::prepare()?;
    let plugins = guests::build(&[], guests::Build::Quick)?;
    let host = build()?;
    let plane = if charts.use_kubeconfig {
        None
    } else {
        Some(ControlPlane::start(&workspace::target().join("test-controlplane"), &tools)?)
    };
    let environment = Environment::new(&tools, plane.as_ref(), &plugins, &host)?;
    let mut test = command::cargo();
    test.current_dir(workspace::root()).args(["test", "--workspace", "--test", "charts", "--", "--nocapture"]);
    environment.set(&mut test);
    test.env("TRANSOM_TEST_CHARTS", folder).env("TRANSOM_TEST_CHARTS_MINUTES", charts.minutes.to_string());
    let result = command::run(&mut test);
    plane.map_or(Ok(()), ControlPlane::stop)?;
    result
}

/// Builds everything that the later steps use in one go. One call of cargo, and of the whole workspace: each set of
/// packages has a union of features of its own, and another union builds the dependencies again.
fn build() -> Result<PathBuf> {
    command::run(command::cargo().current_dir(workspace::root()).args(["build", "--workspace", "--bins", "--tests"]))?;
    host::binary("debug")
}

/// What tests and benchmarks find in their environment.
pub(crate) struct Environment {
    variables: Vec<(&'static str, PathBuf)>,
    pids: Option<String>,
}

impl Environment {
    /// With the user's own cluster when there is no `plane`; without audit log then.
    pub(crate) fn new(tools: &Tools, plane: Option<&ControlPlane>, plugins: &Path, host: &Path) -> Result<Self> {
        let mut environment = Self::without_cluster(plugins, host);
        let variables = &mut environment.variables;
        variables.push(("TRANSOM_KUBE_BIN", tools.folder()?));
        match plane {
            Some(plane) => variables.extend([
                ("KUBECONFIG", plane.layout.kubeconfig()),
                ("TRANSOM_HOST_KUBECONFIG", plane.layout.host_kubeconfig()),
                ("TRANSOM_TEST_AUDIT_LOG", plane.layout.audit_log()),
            ]),
            None => {
                let kubeconfig = Kubectl::user_kubeconfig()?;
                variables.extend([("KUBECONFIG", kubeconfig.clone()), ("TRANSOM_HOST_KUBECONFIG", kubeconfig)]);
            }
        }
        environment.pids =
            plane.map(|plane| plane.pids().iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
        Ok(environment)
    }

    /// For what needs no cluster.
    pub(crate) fn without_cluster(plugins: &Path, host: &Path) -> Self {
        let variables = vec![("TRANSOM_TEST_PLUGINS", plugins.to_path_buf()), ("TRANSOM_BIN", host.to_path_buf())];
        Self { variables, pids: None }
    }

    pub(crate) fn set(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(name, value)| (*name, value)));
        command.envs(self.pids.iter().map(|pids| ("TRANSOM_CONTROLPLANE_PIDS", pids)));
    }
}
