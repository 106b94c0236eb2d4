//! `cargo xtask bench`: one benchmark of `tests/benches/`, in release builds.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::controlplane::ControlPlane;
use crate::test::Environment;
use crate::tools::Tools;
use crate::{command, guests, host, tools, workspace};

/// Of the host: what `deploy/README.md` makes an image of.
const PROFILE: &str = "dist";

/// Benchmarks that need no cluster: for all others a fresh control plane is started.
const WITHOUT_CLUSTER: &[&str] = &["call", "engine"];

/// Benchmarks that start a Temporal of their own.
const WITH_TEMPORAL: &[&str] = &["processes"];

/// What was asked for on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) name: String,
    pub(crate) json: Option<PathBuf>,
    pub(crate) count: Option<u32>,
    /// For the benchmark.
    pub(crate) arguments: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let plugins = guests::build(&[], guests::Build::Shipped)?;
    build(&options.name)?;
    let host = host::binary(PROFILE)?;
    let plane;
    let environment = if WITHOUT_CLUSTER.contains(&options.name.as_str()) {
        plane = None;
        Environment::without_cluster(&plugins, &host)
    } else {
        let tools = Tools::prepare()?;
        let folder = workspace::target().join("bench-controlplane");
        plane = Some(ControlPlane::start(&folder, &tools)?);
        Environment::new(&tools, plane.as_ref(), &plugins, &host)?
    };
    let mut bench = bench(&options.name);
    if WITH_TEMPORAL.contains(&options.name.as_str()) {
        bench.env("TRANSOM_TEST_TEMPORAL", tools::temporal()?.0);
    }
    bench.arg("--").args(arguments(options)?);
    environment.set(&mut bench);
    if options.name == "fleet" {
        bench.env("TRANSOM_BENCH_NATIVE", tools::native()?);
    }
    if options.name == "engine" {
        bench.env("TRANSOM_TEST_HELM", tools::helm()?);
    }
    let result = command::run(&mut bench);
    plane.map_or(Ok(()), ControlPlane::stop)?;
    result
}

/// `cargo xtask charts`: the benchmark of engines, which can do this, too.
pub(crate) fn charts(folder: &Path) -> Result<()> {
    let folder = std::path::absolute(folder)?.display().to_string();
    run(&Options { name: "engine".into(), json: None, count: None, arguments: vec!["--compare".into(), folder] })
}

/// The host as it is shipped, and the benchmark.
fn build(name: &str) -> Result<()> {
    let mut host = command::cargo();
    host.current_dir(workspace::root()).args([
        "build",
        "--profile",
        PROFILE,
        "--package",
        "transom",
        "--bin",
        "transom",
    ]);
    command::run(&mut host)?;
    command::run(bench(name).arg("--no-run"))
}

fn bench(name: &str) -> std::process::Command {
    let mut cargo = command::cargo();
    cargo.current_dir(workspace::root()).args(["bench", "--package", "transom-tests", "--bench", name]);
    cargo
}

/// What the benchmark itself gets.
fn arguments(options: &Options) -> Result<Vec<String>> {
    let mut arguments = Vec::new();
    if let Some(count) = options.count {
        arguments.extend(["-n".to_owned(), count.to_string()]);
    }
    if let Some(file) = &options.json {
        // It runs in its package's folder.
        let file = std::path::absolute(file).context("--json needs a file")?;
        arguments.extend(["--json".to_owned(), file.display().to_string()]);
    }
    arguments.extend(options.arguments.iter().cloned());
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_options_come_before_those_of_the_user() {
        let options = Options {
            name: "fleet".into(),
            json: Some("/tmp/out.json".into()),
            count: Some(500),
            arguments: vec!["--warm".into()],
        };
        assert_eq!(arguments(&options).unwrap(), ["-n", "500", "--json", "/tmp/out.json", "--warm"]);
    }
}
