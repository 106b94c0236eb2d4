//! CPU and memory of processes, from `/proc`.

use std::fs;

use anyhow::{Context, Result};

/// Ticks in a second of `/proc/PID/stat`: the same on every Linux machine.
const TICKS: f64 = 100.0;

/// CPU seconds of these processes so far, without those of their children.
pub(crate) fn cpu(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| ticks(&pid.to_string()).unwrap_or_default() / TICKS).sum()
}

/// CPU seconds of this process so far.
pub(crate) fn own_cpu() -> f64 {
    ticks("self").unwrap_or_default() / TICKS
}

fn ticks(pid: &str) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the name, in brackets, may hold anything
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ').skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<f64>().ok()? + system.parse::<f64>().ok()?)
}

/// Resident memory of a process.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The most that it ever had.
    pub(crate) peak_mib: f64,
    /// Now: its own.
    pub(crate) anonymous_mib: f64,
    /// Now: of mapped files, its program and compiled plugins.
    pub(crate) files_mib: f64,
}

/// Of one process; nothing when it has ended.
pub(crate) fn memory(pid: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mib = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or_default() / 1024.0
    };
    Memory { peak_mib: mib("VmHWM"), anonymous_mib: mib("RssAnon"), files_mib: mib("RssFile") }
}

/// The control plane's processes, as `cargo xtask bench` names them.
pub(crate) fn pids_from_environment() -> Result<Vec<u32>> {
    let list = std::env::var("TRANSOM_CONTROLPLANE_PIDS").unwrap_or_default();
    let pids = list.split(',').filter(|pid| !pid.is_empty());
    pids.map(|pid| pid.parse().with_context(|| format!("TRANSOM_CONTROLPLANE_PIDS: {pid:?} is no PID"))).collect()
}
