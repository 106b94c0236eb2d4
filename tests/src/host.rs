use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use kube::config::{AuthInfo, Config, Kubeconfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::component::cache_key;
use crate::{Audit, DEADLINE, Environment, Mark, Metrics, Proxy, Requests, cache_dir, environment};

/// How often a host's health and metrics are asked for, which nobody announces.
const POLL: Duration = Duration::from_millis(50);

/// What a host is started with.
#[derive(Clone, Debug, Default)]
pub struct HostOptions {
    /// Where compiled plugins are kept, if not where all tests keep them.
    pub cache_dir: Option<PathBuf>,
    /// Where the API server is, if not where the kubeconfig says: the URL of a [`Proxy`](crate::Proxy) or of an
    /// [`ApiServer`](crate::ApiServer).
    pub server: Option<String>,
    /// The bearer token of a ServiceAccount that the host is, in place of the tests' own user.
    pub token: Option<String>,
    /// Arguments of `transom run` beside those that every host of a test has.
    pub arguments: Vec<String>,
    /// Where that API server writes its audit log, if it is not the one that all tests share.
    pub audit_log: Option<PathBuf>,
}

/// A host that is started again whenever it ends, as Kubernetes would. Dropping it ends it for good.
pub struct Immortal {
    task: tokio::task::JoinHandle<()>,
}

impl Immortal {
    /// Starts hosts that reach the API server through this proxy, one after the other.
    pub(crate) fn start(environment: &Environment, proxy: Arc<Proxy>, namespace: &str, selector: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        let user = format!("transom-test-{namespace}");
        std::fs::write(&kubeconfig, impersonating(&environment.host_kubeconfig, &user, Some(&proxy.url()))).unwrap();
        let (namespace, selector) = (namespace.to_owned(), selector.to_owned());
        let task = tokio::spawn(async move {
            let _folder = folder;
            loop {
                let mut command = command(&namespace, &selector, &cache_dir(), &kubeconfig);
                let mut child = command.stderr(Stdio::null()).spawn().expect("the host's program");
                proxy.aim(pid(&child));
                child.wait().await.expect("a child can be waited for");
            }
        });
        Self { task }
    }
}

impl Drop for Immortal {
    fn drop(&mut self) {
        // the child is killed with the task
        self.task.abort();
    }
}

fn command(namespace: &str, selector: &str, cache_dir: &Path, kubeconfig: &Path) -> Command {
    let mut command = Command::new(environment::program());
    command.args(["run", "--listen", "127.0.0.1:0", "--recordings-listen", "127.0.0.1:0", "--log-format", "json"]);
    command.args(["--namespace", namespace, "--watch-namespace", namespace, "--plugin-selector", selector]);
    command.arg("--cache-key-file").arg(cache_key()).arg("--cache-dir");
    command.arg(cache_dir).env("KUBECONFIG", kubeconfig).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    command
}

fn pid(child: &Child) -> rustix::process::Pid {
    child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())).expect("it lives")
}

/// `transom run` as a child process. Dropping it kills it.
pub struct Host {
    /// Its requests.
    pub audit: Audit,
    child: Child,
    log: Log,
    http: kube::Client,
    _folder: TempDir,
}

/// What it has written to stderr.
#[derive(Clone)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    address: watch::Receiver<Option<String>>,
}

impl Host {
    pub(crate) async fn start(
        environment: &Environment,
        namespace: &str,
        selector: &str,
        user: String,
        options: HostOptions,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        let text = match &options.token {
            Some(token) => with_token(&environment.host_kubeconfig, token),
            None => impersonating(&environment.host_kubeconfig, &user, options.server.as_deref()),
        };
        std::fs::write(&kubeconfig, text).unwrap();
        let cache_dir = options.cache_dir.unwrap_or_else(cache_dir);
        let mut command = command(namespace, selector, &cache_dir, &kubeconfig);
        command.args(&options.arguments);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the host's program");
        let log = Log::follow(child.stderr.take().expect("it is piped").into_owned_fd().expect("a pipe").into());
        let http = http_client(&log.address().await);
        let audit = Audit::new(options.audit_log.unwrap_or_else(|| environment.audit_log.clone()), user);
        let mut host = Self { audit, child, log, http, _folder: folder };
        host.wait_for_readiness().await;
        host
    }

    async fn wait_for_readiness(&mut self) {
        let started = Instant::now();
        while self.get("/readyz").await.as_deref() != Some("ok") {
            assert!(started.elapsed() < DEADLINE, "the host is not ready after {DEADLINE:?}");
            assert_eq!(self.child.try_wait().unwrap(), None, "the host has ended");
            sleep(POLL).await;
        }
    }

    /// None when there was no answer, or not a good one.
    async fn get(&self, path: &str) -> Option<String> {
        self.http.request_text(Request::get(path).body(Vec::new()).unwrap()).await.ok()
    }

    /// What it counts.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").await.expect("a host that lives serves its metrics"))
    }

    /// It lives and says so.
    pub async fn is_healthy(&self) -> bool {
        self.get("/healthz").await.as_deref() == Some("ok")
    }

    /// Waits until its metrics are as they should be.
    ///
    /// # Panics
    ///
    /// When they are not within the deadline.
    pub async fn wait_for_metrics(&self, holds: impl Fn(&Metrics) -> bool) -> Metrics {
        let started = Instant::now();
        loop {
            let metrics = self.metrics().await;
            if holds(&metrics) {
                return metrics;
            }
            assert!(started.elapsed() < DEADLINE, "not in the metrics after {DEADLINE:?}: {metrics:#?}");
            sleep(POLL).await;
        }
    }

    /// What it asks of the API server in a while. The only place where a test lets time pass: that nothing happens can
    /// be seen in no other way.
    pub async fn observe(&self, window: Duration) -> Requests {
        let mark = self.audit.mark();
        sleep(window).await;
        self.audit.since(mark)
    }

    /// Waits until it has written nothing, Events included, for a while.
    ///
    /// # Panics
    ///
    /// When it goes on writing.
    pub async fn settle(&self, window: Duration) {
        self.comes_to_rest(window, Requests::all_writes).await;
    }

    /// Waits until it has written nothing for a second. Events may still come.
    pub async fn rest(&self) {
        self.comes_to_rest(Duration::from_secs(1), Requests::writes).await;
    }

    /// Waits until it has come to rest, and returns what it has written since, without Events.
    pub async fn writes_since(&self, mark: Mark) -> BTreeMap<String, usize> {
        self.rest().await;
        self.audit.since(mark).writes()
    }

    async fn comes_to_rest(&self, window: Duration, writes: impl Fn(&Requests) -> BTreeMap<String, usize>) {
        let started = Instant::now();
        loop {
            let writes = writes(&self.observe(window).await);
            if writes.is_empty() {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "the host does not come to rest: {writes:?}");
        }
    }

    /// Lines of its log with this message.
    ///
    /// # Panics
    ///
    /// When a line is not JSON.
    #[must_use]
    pub fn logged(&self, message: &str) -> Vec<Value> {
        let lines = self.log.lines.lock().unwrap();
        let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).expect("every line is JSON"));
        lines.filter(|line| line["message"] == message).collect()
    }

    /// Its whole log.
    ///
    /// # Panics
    ///
    /// When a thread that wrote to it has panicked.
    #[must_use]
    pub fn log_text(&self) -> String {
        self.log.lines.lock().unwrap().join("\n")
    }

    /// Ends it without a warning (SIGKILL).
    ///
    /// # Panics
    ///
    /// When it cannot be killed.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// The same for one that is still in use; returns when nobody answers any more.
    ///
    /// # Panics
    ///
    /// When it cannot be killed.
    pub async fn end(&self) {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::KILL).unwrap();
        while self.is_healthy().await {
            sleep(POLL).await;
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> rustix::process::Pid {
        pid(&self.child)
    }

    /// Waits until it has ended, which somebody else sees to.
    ///
    /// # Panics
    ///
    /// When it goes on.
    pub async fn ended(&mut self) -> ExitStatus {
        timeout(DEADLINE, self.child.wait()).await.expect("it ends").unwrap()
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Panics
    ///
    /// When it does not end in time.
    pub async fn stop(mut self) -> ExitStatus {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).unwrap();
        let ended = timeout(DEADLINE, self.child.wait()).await;
        ended.expect("it ends when it is told to").unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.log.print();
        }
    }
}

impl Log {
    fn follow(stderr: std::fs::File) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (found, address) = watch::channel(None);
        let log = Self { lines: lines.clone(), address };
        // A thread: a test that computes, or fails, must not stop the host, which waits when the pipe is full.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if found.borrow().is_none() && line.contains("serving health and metrics") {
                    let fields: Value = serde_json::from_str(&line).unwrap_or_default();
                    found.send_replace(fields["address"].as_str().map(str::to_owned));
                }
                lines.lock().unwrap().push(line);
            }
        });
        log
    }

    /// Where it listens.
    async fn address(&self) -> String {
        let mut address = self.address.clone();
        // Its sender is gone when the host has ended.
        let found = timeout(DEADLINE, address.wait_for(Option::is_some)).await;
        if let Some(address) = found.ok().and_then(|found| found.ok()?.clone()) {
            return address;
        }
        self.print();
        panic!("the host does not say where it listens");
    }

    fn print(&self) {
        let lines = self.lines.lock().unwrap();
        eprintln!("---- the host's log ({} lines)\n{}\n----", lines.len(), lines.join("\n"));
    }
}

/// The kubeconfig of the hosts, for one that is told apart by its name in the audit log.
fn impersonating(kubeconfig: &Path, user: &str, server: Option<&str>) -> String {
    let mut config = Kubeconfig::read_from(kubeconfig).unwrap_or_else(|e| panic!("{}: {e}", kubeconfig.display()));
    for auth in config.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        auth.impersonate = Some(user.to_owned());
        auth.impersonate_groups = Some(vec!["system:masters".into()]);
    }
    if let Some(server) = server {
        for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            cluster.server = Some(server.to_owned());
            if server.starts_with("http://") {
                cluster.certificate_authority = None;
                cluster.certificate_authority_data = None;
            }
        }
    }
    json!(config).to_string()
}

/// The kubeconfig of the hosts, for one that is a ServiceAccount.
pub(crate) fn with_token(kubeconfig: &Path, token: &str) -> String {
    let mut config = Kubeconfig::read_from(kubeconfig).unwrap_or_else(|e| panic!("{}: {e}", kubeconfig.display()));
    for named in &mut config.auth_infos {
        named.auth_info = Some(AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() });
    }
    json!(config).to_string()
}

fn http_client(address: &str) -> kube::Client {
    let address = format!("http://{address}").parse().expect("an address");
    kube::Client::try_from(Config::new(address)).expect("nothing special")
}
