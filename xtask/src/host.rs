//! The host's binary.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::{command, workspace};

/// Builds it alone, as a user would.
pub(crate) fn build() -> Result<PathBuf> {
    command::run(command::cargo().current_dir(workspace::root()).args(["build", "--package", "transom"]))?;
    binary("debug")
}

/// Where cargo puts it for a profile's folder (`debug`, `release`).
pub(crate) fn binary(profile: &str) -> Result<PathBuf> {
    let path = workspace::target().join(profile).join("transom");
    ensure!(path.is_file(), "cargo built no {}", path.display());
    Ok(path)
}
