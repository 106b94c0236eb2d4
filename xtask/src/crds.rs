//! `crds/`: what the host and its plugins serve, as they would tell the API server. Generated, committed, checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::guests::{self, Build};
use crate::{command, host, workspace};

/// The plugins whose kinds are products of this repository; those of examples and tests are not.
const PLUGINS: &[&str] = &["domain", "process", "environment", "instance"];

/// `cargo xtask crds`
pub(crate) fn run(check: bool) -> Result<()> {
    let host = host::build()?;
    let components = guests::build(&PLUGINS.iter().map(ToString::to_string).collect::<Vec<_>>(), Build::Quick)?;
    if check { self::check(&host, &components) } else { generate(&host, &components, &committed()) }
}

fn committed() -> PathBuf {
    workspace::root().join("crds")
}

fn generate(host: &Path, components: &Path, folder: &Path) -> Result<()> {
    let components: Vec<PathBuf> =
        PLUGINS.iter().map(|name| guests::component(components, name)).collect::<Result<_>>()?;
    command::run(Command::new(host).args(["crds", "--output-dir"]).arg(folder).args(components))
}

/// Fails with the difference when `crds/` is not what would be generated now.
pub(crate) fn check(host: &Path, components: &Path) -> Result<()> {
    let fresh = workspace::target().join("crds");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh).with_context(|| format!("failed to create {}", fresh.display()))?;
    generate(host, components, &fresh)?;
    let mut diff = Command::new("diff");
    diff.args(["--recursive", "--unified", "--new-file"]).arg(committed()).arg(&fresh);
    if !command::wait(command::spawn(&mut diff)?)?.success() {
        bail!("crds/ is not what the code says (above: - committed, + generated); accept it with `cargo xtask crds`");
    }
    eprintln!("crds/ is up to date");
    Ok(())
}
