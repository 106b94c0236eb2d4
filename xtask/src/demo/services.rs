//! What Processes need beside a cluster: Temporal, and somebody who has their definitions.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::exhibits::TEMPORAL_NAMESPACE;
use crate::controlplane::{Layout, ports};
use crate::process::Group;
use crate::{tools, workspace};

/// Their ports, on the loopback address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Services {
    pub(crate) temporal: u16,
    pub(crate) definitions: u16,
}

impl Services {
    /// Starts both, and does not wait for them: plugins do.
    pub(crate) fn start(group: &mut Group, layout: &Layout) -> Result<Self> {
        let (server, definitions) = tools::services()?;
        let [temporal, http, metrics, serving] = ports::free()?;
        let mut command = Command::new(server);
        command.args(["server", "start-dev", "--headless", "--ip", "127.0.0.1", "--log-level", "error"]);
        for (name, port) in [("--port", temporal), ("--http-port", http), ("--metrics-port", metrics)] {
            command.args([name, &port.to_string()]);
        }
        command.args(["--namespace", TEMPORAL_NAMESPACE]);
        command.env("TEMPORAL_VERSION_CHECK_DISABLED", "1").env("HOME", layout.folder());
        group.start("temporal", &mut command, &layout.log("temporal"))?;

        let mut command = Command::new(definitions);
        command.arg(format!("127.0.0.1:{serving}")).arg(folder());
        group.start("definitions", &mut command, &layout.log("definitions"))?;
        Ok(Self { temporal, definitions: serving })
    }
}

/// `TENANT/ID.json`.
fn folder() -> PathBuf {
    workspace::root().join("xtask/demo/definitions")
}
