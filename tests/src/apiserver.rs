use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::{DEADLINE, Environment, cluster, free_port};

/// The PIDs of the control plane that the tests share.
const PIDS_VARIABLE: &str = "TRANSOM_CONTROLPLANE_PIDS";

const POLL: Duration = Duration::from_millis(50);

/// A second API server of the control plane, on the same etcd, as in a cluster of high availability: a test can end it
/// while the others go on with the first. Dropping it kills it.
pub struct ApiServer {
    flags: Vec<String>,
    port: u16,
    process: Child,
    folder: TempDir,
}

impl ApiServer {
    /// Starts one with the flags of the first, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When there is no first one, or it does not start.
    pub async fn start() -> Self {
        let mut flags = first();
        let port = free_port();
        let folder = tempfile::tempdir().unwrap();
        for (flag, value) in [("--secure-port", port.to_string()), ("--audit-log-path", audit_log(folder.path()))] {
            let flag = format!("{flag}=");
            let old = flags.iter_mut().find(|old| old.starts_with(&flag)).expect("xtask sets this flag");
            *old = flag + &value;
        }
        let process = spawn(&flags);
        let server = Self { flags, port, process, folder };
        server.wait_for_answer().await;
        server
    }

    /// `https://127.0.0.1:port`
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Its audit log, which goes on over restarts.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        audit_log(self.folder.path()).into()
    }

    /// Ends it without a warning (SIGKILL).
    ///
    /// # Panics
    ///
    /// When it cannot be killed.
    pub async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Starts it again after [`kill`](Self::kill), on the same port, and waits until it answers.
    pub async fn restart(&mut self) {
        self.process = spawn(&self.flags);
        self.wait_for_answer().await;
    }

    async fn wait_for_answer(&self) {
        let client = cluster::client_of(&Environment::get(), Some(&self.url())).await;
        let started = Instant::now();
        loop {
            let ready = http::Request::get("/readyz").body(Vec::new()).unwrap();
            if client.request_text(ready).await.is_ok_and(|answer| answer == "ok") {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "the second API server does not answer after {DEADLINE:?}");
            sleep(POLL).await;
        }
    }
}

fn audit_log(folder: &Path) -> String {
    folder.join("audit.log").display().to_string()
}

fn spawn(flags: &[String]) -> Child {
    let mut command = Command::new(&flags[0]);
    command.args(&flags[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn().expect("the program of the first API server")
}

/// Program and flags of the API server that the tests share.
fn first() -> Vec<String> {
    let pids = std::env::var(PIDS_VARIABLE).unwrap_or_default();
    let command_line = |pid: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        Some(text.split_terminator('\0').map(str::to_owned).collect::<Vec<_>>())
    };
    let mut programs = pids.split(',').filter_map(command_line);
    let found = programs.find(|flags| flags.first().is_some_and(|program| program.ends_with("kube-apiserver")));
    found.unwrap_or_else(|| panic!("{PIDS_VARIABLE} names no API server: run the tests by `cargo xtask test`"))
}
