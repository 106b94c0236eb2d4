use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use super::{ADMIN, ALICE, Answer, BOB, Http, Namespace, until};

/// A port that nobody gets by chance while a server that was killed is about to take it again: below those that the
/// system gives away (32768 and up), and no other test of this process has it.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    let ports = (0..COUNT).map(|_| {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        FIRST + u16::try_from(offset).unwrap()
    });
    ports.into_iter().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}

/// The catalog's program.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_transom-catalog"));
    command.stdin(Stdio::null()).env_remove("CATALOG_LOG");
    command
}

/// One replica of the catalog, which can be killed and started again. Keeps its log.
pub(crate) struct Service {
    pub(crate) http: Http,
    operations: Http,
    folder: TempDir,
    arguments: Vec<String>,
    kubeconfig: PathBuf,
    process: Option<Child>,
}

impl Service {
    /// Starts one and waits until it is ready.
    pub(crate) async fn start(ns: &Namespace, url: &str, extra: &[&str]) -> Self {
        let mut service = Self::prepare(ns, url, extra);
        service.resume();
        service.wait_until_ready().await;
        service
    }

    /// One that does not run yet.
    pub(crate) fn prepare(ns: &Namespace, url: &str, extra: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tokens = json!([
            { "token": ALICE, "subject": "alice" },
            { "token": BOB, "subject": "bob" },
            { "token": ADMIN, "subject": "root", "admin": true },
        ]);
        std::fs::write(folder.path().join("tokens"), tokens.to_string()).unwrap();
        std::fs::write(folder.path().join("url"), url).unwrap();
        std::fs::write(folder.path().join("keys"), transom_catalog::seal::new_line("first").unwrap().as_str()).unwrap();
        let (api, operations) = (free_port(), free_port());
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        // all that the libraries say, too: nothing of it may be a secret
        let mut arguments: Vec<String> = ["--log-level=debug", "serve"].map(str::to_owned).into();
        arguments.extend([format!("--listen=127.0.0.1:{api}"), format!("--operations-listen=127.0.0.1:{operations}")]);
        arguments.extend([format!("--tokens-file={}", file("tokens")), format!("--keys-file={}", file("keys"))]);
        arguments.extend([format!("--database-url-file={}", file("url")), format!("--namespace={}", ns.name)]);
        arguments.extend(extra.iter().map(|argument| (*argument).to_owned()));
        let (http, operations) = (Http::new(api), Http::new(operations));
        Self { http, operations, arguments, folder, kubeconfig: ns.kubeconfig.clone(), process: None }
    }

    pub(crate) fn keys_file(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    pub(crate) fn url_file(&self) -> PathBuf {
        self.folder.path().join("url")
    }

    /// Has the same keys as another one.
    pub(crate) fn share_keys(&self, other: &Self) {
        std::fs::copy(other.keys_file(), self.keys_file()).unwrap();
    }

    pub(crate) fn resume(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = program();
        command.args(&self.arguments).env("KUBECONFIG", &self.kubeconfig);
        self.process = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    pub(crate) async fn wait_until_ready(&self) {
        until("the catalog is ready", async || {
            self.operations.try_get("/readyz", "").await.filter(|answer| answer.status == 200)
        })
        .await;
    }

    pub(crate) async fn ready(&self) -> Option<Answer> {
        self.operations.try_get("/readyz", "").await
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let process = self.process.as_ref().expect("it runs");
        kill_process(Pid::from_raw(process.id().cast_signed()).unwrap(), Signal::TERM).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("it runs");
        until("the catalog ends", async || process.try_wait().unwrap()).await
    }

    /// SIGTERM, and waits for its end.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.ended().await
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// All that it has written so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// `/metrics` as text.
    pub(crate) async fn metrics_text(&self) -> String {
        self.operations.get("/metrics", "").await.expect(200).text
    }

    /// Metrics whose name begins like this.
    pub(crate) async fn metrics(&self, name: &str) -> BTreeMap<String, f64> {
        let text = self.metrics_text().await;
        let lines = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit_once(' '));
        lines.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
    }

    /// Runs another command of the program, with this one's files.
    pub(crate) fn run(&self, command: &str) -> std::process::Output {
        let file = |path: &Path| path.to_str().unwrap().to_owned();
        let mut program = program();
        program.arg(command).arg(format!("--database-url-file={}", file(&self.url_file())));
        if command == "rotate" {
            program.arg(format!("--keys-file={}", file(&self.keys_file())));
        }
        program.output().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let said: Vec<&str> = log.lines().filter(|line| !line.contains(" DEBUG ")).collect();
            eprintln!("log of the catalog:\n{}", said.join("\n"));
        }
        self.kill();
    }
}
