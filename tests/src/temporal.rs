//! A real Temporal of the tests' own, asked over its HTTP API: by other words than the plugin's.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use http::{Method, Request};
use kube::config::Config;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::kubelet::Image;
use crate::{DEADLINE, environment, free_port, sample};

const POLL: Duration = Duration::from_millis(100);

/// A server for as long as somebody has it.
#[derive(Clone)]
pub struct Temporal {
    /// Host and port of the frontend.
    pub address: String,
    http_port: u16,
    /// Belongs to the runtime of one test.
    http: kube::Client,
    /// Killed with the last of these.
    server: Arc<Server>,
}

/// Dropping it kills it.
struct Server {
    child: Mutex<Child>,
    _folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Temporal {
    /// The server that all tests of this process share.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn shared() -> Self {
        static RUNNING: tokio::sync::Mutex<Option<(String, u16, Weak<Server>)>> = tokio::sync::Mutex::const_new(None);
        let mut running = RUNNING.lock().await;
        if let Some((address, http_port, server)) = &*running
            && let Some(server) = server.upgrade()
        {
            return Self { address: address.clone(), http_port: *http_port, http: client(*http_port), server };
        }
        let temporal = Self::start(free_port(), &[]).await;
        *running = Some((temporal.address.clone(), temporal.http_port, Arc::downgrade(&temporal.server)));
        temporal
    }

    /// A server on this port with these namespaces.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn start(port: u16, namespaces: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (http_port, metrics_port) = (free_port(), free_port());
        let mut command = Command::new(environment::temporal());
        command.args(["server", "start-dev", "--headless", "--ip", "127.0.0.1", "--log-level", "error"]);
        for (name, port) in [("--port", port), ("--http-port", http_port), ("--metrics-port", metrics_port)] {
            command.args([name, &port.to_string()]);
        }
        namespaces.iter().for_each(|namespace| {
            command.args(["--namespace", namespace]);
        });
        command.env("TEMPORAL_VERSION_CHECK_DISABLED", "1").env("HOME", folder.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Arc::new(Server { child: Mutex::new(child), _folder: folder });
        let temporal = Self { address: format!("127.0.0.1:{port}"), http_port, http: client(http_port), server };
        temporal.wait_for_namespace(namespaces.first().unwrap_or(&"default")).await;
        temporal
    }

    async fn wait_for_namespace(&self, name: &str) {
        let started = Instant::now();
        while self.send(Method::GET, &format!("/api/v1/namespaces/{name}"), &Value::Null).await.is_none() {
            assert!(started.elapsed() < DEADLINE, "Temporal does not know the namespace {name}");
            sleep(POLL).await;
        }
    }

    /// A new namespace, ready for use.
    pub async fn namespace(&self, name: &str) {
        let body = json!({ "namespace": name, "workflowExecutionRetentionPeriod": "86400s" });
        self.must(Method::POST, "/api/v1/namespaces", &body).await;
        self.wait_for_namespace(name).await;
        // it is in the servers' caches when workflows can be counted
        let started = Instant::now();
        while self.send(Method::GET, &count_path(name, "q", None), &Value::Null).await.is_none() {
            assert!(started.elapsed() < DEADLINE, "the namespace {name} is not usable");
            sleep(POLL).await;
        }
    }

    /// Starts a workflow.
    pub async fn start_workflow(&self, namespace: &str, queue: &str, id: &str, kind: &str) {
        let path = format!("/api/v1/namespaces/{namespace}/workflows/{id}");
        let body = json!({ "workflowType": { "name": kind }, "taskQueue": { "name": queue }, "requestId": id });
        self.must(Method::POST, &path, &body).await;
    }

    /// Tells a workflow to go on.
    pub async fn signal(&self, namespace: &str, id: &str) {
        let path = format!("/api/v1/namespaces/{namespace}/workflows/{id}/signal/go");
        self.must(Method::POST, &path, &json!({})).await;
    }

    /// How many workflows of a queue there are; of this status only when one is named.
    ///
    /// # Panics
    ///
    /// When Temporal does not answer.
    pub async fn count(&self, namespace: &str, queue: &str, status: Option<&str>) -> i64 {
        let answer = self.must(Method::GET, &count_path(namespace, queue, status), &Value::Null).await;
        answer["count"].as_str().map_or(0, |count| count.parse().unwrap())
    }

    /// Waits until so many workflows of a queue have this status.
    ///
    /// # Panics
    ///
    /// When they do not within the deadline.
    pub async fn wait_for_count(&self, namespace: &str, queue: &str, status: &str, wanted: i64) {
        let started = Instant::now();
        loop {
            let count = self.count(namespace, queue, Some(status)).await;
            if count == wanted {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "{count} workflows are {status}, not {wanted}");
            sleep(POLL).await;
        }
    }

    /// What a workflow has returned: waits until it has.
    ///
    /// # Panics
    ///
    /// When it has not within the deadline.
    pub async fn result(&self, namespace: &str, id: &str) -> Value {
        let path = format!("/api/v1/namespaces/{namespace}/workflows/{id}/history-reverse?maximumPageSize=1");
        let started = Instant::now();
        loop {
            let history = self.must(Method::GET, &path, &Value::Null).await;
            let result = &history["history"]["events"][0]["workflowExecutionCompletedEventAttributes"]["result"];
            if !result.is_null() {
                return result.clone();
            }
            assert!(started.elapsed() < DEADLINE, "the workflow {id} has no result: {history:#}");
            sleep(POLL).await;
        }
    }

    async fn must(&self, method: Method, path: &str, body: &Value) -> Value {
        let sent = self.send(method, path, body).await;
        sent.unwrap_or_else(|| panic!("Temporal refuses {path}"))
    }

    /// None when it was refused, or nobody answered.
    async fn send(&self, method: Method, path: &str, body: &Value) -> Option<Value> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        request.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        let text = self.http.request_text(request).await.ok()?;
        Some(serde_json::from_str(&text).unwrap_or_default())
    }
}

fn client(port: u16) -> kube::Client {
    kube::Client::try_from(Config::new(format!("http://127.0.0.1:{port}").parse().unwrap())).unwrap()
}

fn count_path(namespace: &str, queue: &str, status: Option<&str>) -> String {
    let status = status.map(|status| format!("%20AND%20ExecutionStatus%3D%27{status}%27")).unwrap_or_default();
    format!("/api/v1/namespaces/{namespace}/workflow-count?query=TaskQueue%3D%27{queue}%27{status}")
}

/// The worker, as the image of pods that are run by the tests' kubelet.
#[must_use]
pub fn worker_image() -> Image {
    Image { name: sample::BY_HAND.into(), program: environment::worker(), env: Vec::new(), serves: true }
}
