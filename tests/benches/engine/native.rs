//! Helm's command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

pub(crate) const RELEASE: &str = "demo";
pub(crate) const NAMESPACE: &str = "shop";

/// Ticks in a second of `/proc/PID/stat`: the same on every Linux machine.
const TICKS: f64 = 100.0;

/// The program, with a home of its own.
pub(crate) struct Native {
    program: PathBuf,
    home: tempfile::TempDir,
}

/// What came of one chart.
pub(crate) struct Rendered {
    /// The manifests, or what it complained about.
    pub(crate) text: Result<String, String>,
    /// User and system time, in steps of 10 ms.
    pub(crate) cpu_millis: f64,
}

impl Native {
    /// From the environment that `cargo xtask bench` sets.
    pub(crate) fn find() -> Result<Self> {
        let program =
            std::env::var_os("TRANSOM_TEST_HELM").context("TRANSOM_TEST_HELM is not set: use cargo xtask bench")?;
        Ok(Self { program: program.into(), home: tempfile::tempdir()? })
    }

    /// `helm template` with default values.
    pub(crate) fn render(&self, chart: &Path) -> Result<Rendered> {
        let mut command = Command::new(&self.program);
        command.args(["template", RELEASE]).arg(chart).args(["--namespace", NAMESPACE, "--include-crds"]);
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(name, self.home.path());
        }
        let before = children_ticks();
        let done = command.output().context("cannot run helm")?;
        let cpu_millis = (children_ticks() - before) / TICKS * 1e3;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let text = if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) };
        Ok(Rendered { text, cpu_millis })
    }
}

/// CPU of the children that have ended.
fn children_ticks() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // the name, in brackets, may hold anything
    let fields = stat.rfind(')').and_then(|at| stat.get(at + 2..)).unwrap_or_default();
    fields.split(' ').skip(13).take(2).filter_map(|field| field.parse::<f64>().ok()).sum()
}

/// The most memory that this process ever had, compiled engine included.
pub(crate) fn peak_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}
