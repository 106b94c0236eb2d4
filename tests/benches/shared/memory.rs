//! Memory of processes, from `/proc`.

use std::fs;

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
