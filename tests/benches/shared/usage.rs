//! CPU of processes, from `/proc`.

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

/// The control plane's processes, as `cargo xtask bench` names them.
pub(crate) fn pids_from_environment() -> Result<Vec<u32>> {
    let list = std::env::var("TRANSOM_CONTROLPLANE_PIDS").unwrap_or_default();
    let pids = list.split(',').filter(|pid| !pid.is_empty());
    pids.map(|pid| pid.parse().with_context(|| format!("TRANSOM_CONTROLPLANE_PIDS: {pid:?} is no PID"))).collect()
}
