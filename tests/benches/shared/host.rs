//! The host under test: a process of its own, as a user would run it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use transom::registry::digest_of;

use super::api::Api;
use super::memory::{Memory, memory};
use super::usage;
use super::workload::Workload;

/// Compiling a plugin and filling caches take seconds.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A running host; dropping it kills it.
pub(crate) struct Host {
    process: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Host {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(name: &str) -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fleet");
        std::fs::create_dir_all(&folder)?;
        let log = folder.join(format!("host-{name}.log"));
        // free now; nothing else here binds ports
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let process = Command::new(variable("TRANSOM_BIN")?)
            .args(["run", "--listen", &address.to_string()])
            .env("KUBECONFIG", variable("TRANSOM_HOST_KUBECONFIG")?)
            .env("TRANSOM_CACHE_DIR", folder.join("compiled"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).with_context(|| format!("cannot write {}", log.display()))?)
            .spawn()
            .context("cannot start the host")?;
        let mut host = Self { process, address, log };
        eprintln!("host {name} has PID {}, its log is {}", host.process.id(), host.log.display());
        let deadline = Instant::now() + READY_WITHIN;
        while host.http("/readyz").is_err() {
            if let Some(status) = host.process.try_wait()? {
                bail!("the host ended ({status}); see {}", host.log.display());
            }
            ensure!(Instant::now() < deadline, "the host did not become ready; see {}", host.log.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(host)
    }

    /// Lets it serve the workload; `spec` is what its record says beside the component.
    pub(crate) async fn install(&self, api: &Api, workload: &Workload, spec: Value) -> Result<()> {
        self.serve(api, workload, &component(workload)?, spec).await?;
        // its definition may be established a moment later than it is served
        while api.get::<Value>(&workload.primaries.collection("default")).await?.is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Lets another build of the same plugin serve: one more custom section, so another digest and the same plans.
    pub(crate) async fn swap(&self, api: &Api, workload: &Workload, spec: Value) -> Result<()> {
        const SECTION: &[u8] = b"\x00\x05\x04swap";
        let path = component(workload)?;
        let wasm = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fleet").join("again.wasm");
        std::fs::write(&path, [&wasm, SECTION].concat())?;
        self.serve(api, workload, &path, spec).await
    }

    /// Writes the plugin's record and waits until the component serves.
    async fn serve(&self, api: &Api, workload: &Workload, path: &Path, mut spec: Value) -> Result<()> {
        let record = format!("/apis/transom.dev/v1alpha1/plugins/{}", workload.plugin);
        let wasm = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let digest = digest_of(&wasm);
        if let Value::Object(spec) = &mut spec {
            spec.insert("source".into(), json!({ "file": { "path": path } }));
            spec.insert("digest".into(), json!(digest));
        }
        let body = json!({
            "apiVersion": "transom.dev/v1alpha1",
            "kind": "Plugin",
            "metadata": { "name": workload.plugin },
            "spec": spec,
        });
        api.apply(&record, body.to_string()).await?;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let found: Value = api.get(&record).await?.unwrap_or_default();
            let is = |field: &str, value: &str| found.pointer(field).is_some_and(|found| found == value);
            if is("/status/phase", "Ready") && is("/status/digest", &digest) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the plugin did not become ready: {found}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// CPU seconds so far.
    pub(crate) fn cpu(&self) -> f64 {
        usage::cpu(&[self.process.id()])
    }

    pub(crate) fn memory(&self) -> Memory {
        memory(self.process.id())
    }

    /// Calls of plugins so far.
    pub(crate) fn plugin_calls(&self) -> Result<f64> {
        self.counter("transom_plugin_calls_total{")
    }

    /// The sum of all series that begin so.
    pub(crate) fn counter(&self, series: &str) -> Result<f64> {
        let text = self.http("/metrics")?;
        let lines = text.lines().filter(|line| line.starts_with(series));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Tells it to end and waits until it has.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.process.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the host does not end; see {}", self.log.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The body of an answer with status 200.
    fn http(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        ensure!(head.split(' ').nth(1) == Some("200"), "{path}: {head}");
        Ok(body.to_owned())
    }
}

/// The plugin's file.
fn component(workload: &Workload) -> Result<PathBuf> {
    Ok(Path::new(&variable("TRANSOM_TEST_PLUGINS")?).join(workload.plugin).with_extension("wasm"))
}

fn variable(name: &str) -> Result<std::ffi::OsString> {
    std::env::var_os(name).with_context(|| format!("{name} is not set: use cargo xtask bench"))
}
