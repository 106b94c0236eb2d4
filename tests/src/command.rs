use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::component::cache_key;
use crate::{Environment, Registry, cache_dir, environment};

/// How a run of `transom` ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Output {
    /// What it printed.
    ///
    /// # Panics
    ///
    /// When it failed.
    #[must_use]
    pub fn printed(self) -> String {
        assert_eq!(self.code, Some(0), "it failed: {}", self.stderr);
        self.stdout
    }

    /// # Panics
    ///
    /// When it failed.
    pub fn succeeded(self) {
        let _ = self.printed();
    }
}

/// Runs `transom` without a cluster.
///
/// # Panics
///
/// When it cannot be started.
pub async fn transom(arguments: &[&str], stdin: &str) -> Output {
    run(arguments, stdin, None).await
}

/// Runs `transom` as the administrator of the cluster.
///
/// # Panics
///
/// When it cannot be started.
pub async fn transom_with_cluster(arguments: &[&str]) -> Output {
    run(arguments, "", Some(&Environment::get().kubeconfig)).await
}

/// Runs `transom` as the administrator of the cluster, who is logged in to a registry, and has keys without a password.
///
/// # Panics
///
/// When it cannot be started.
pub async fn transom_as(registry: &Registry, arguments: &[&str]) -> Output {
    let mut command = Command::new(environment::program());
    command.env("DOCKER_CONFIG", registry.docker_config()).env("COSIGN_PASSWORD", "");
    finish(command, arguments, "", Some(&Environment::get().kubeconfig)).await
}

/// Runs cosign in a folder, logged in to a registry.
///
/// # Panics
///
/// When it cannot be started.
pub async fn cosign(registry: &Registry, folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(environment::cosign());
    command.args(arguments).current_dir(folder).env("HOME", folder).env("COSIGN_PASSWORD", "");
    command.env("DOCKER_CONFIG", registry.docker_config()).env("SSL_CERT_FILE", registry.ca());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("cosign can be run");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs Helm as the administrator of the cluster.
///
/// # Panics
///
/// When it cannot be started.
pub async fn helm(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(environment::helm());
    command.args(arguments).env("KUBECONFIG", Environment::get().kubeconfig).env("HOME", folder.path());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("Helm can be run");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

async fn run(arguments: &[&str], stdin: &str, kubeconfig: Option<&Path>) -> Output {
    finish(Command::new(environment::program()), arguments, stdin, kubeconfig).await
}

async fn finish(mut command: Command, arguments: &[&str], stdin: &str, kubeconfig: Option<&Path>) -> Output {
    let program = environment::program();
    command.args(arguments).arg("--cache-dir").arg(cache_dir()).arg("--cache-key-file").arg(cache_key());
    // Help shows their values, and takes as many columns.
    ["TRANSOM_CACHE_DIR", "TRANSOM_CACHE_KEY_FILE", "TRANSOM_LOG", "TRANSOM_LOG_FORMAT", "COLUMNS"].iter().for_each(
        |name| {
            command.env_remove(name);
        },
    );
    match kubeconfig {
        Some(path) => command.env("KUBECONFIG", path),
        None => command.env_remove("KUBECONFIG"),
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let mut input = child.stdin.take().expect("it is piped");
    // It need not read it.
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    let output = child.wait_with_output().await.expect("it was started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Output { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
