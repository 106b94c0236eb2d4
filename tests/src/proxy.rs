use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::StreamExt as _;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

use transom::api::names::FINALIZER;

use crate::DEADLINE;

/// The API server as a host sees it, with a test between them that may let requests fail and kill the host at any of them.
///
/// It forwards with the identity that the host would have, so the audit log is as always.
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    _stop: oneshot::Sender<Infallible>,
}

/// What the proxy does with one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Forwards it.
    #[default]
    None,
    /// The host is killed (SIGKILL) before the API server hears of it.
    KillBefore,
    /// The host is killed after the API server has carried it out, before it gets the answer.
    KillAfter,
    /// The API server refuses it with this status, and asks to be left alone for so many seconds.
    Refuse(StatusCode, Option<u32>),
    /// The API server carries it out, but the answer is lost.
    LoseAnswer,
    /// It takes this much longer.
    Delay(Duration),
}

/// One request of the host.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it is for: `create deployments`, `apply deployments`, `status webs`, `add-finalizer hostiles`,
    /// `delete jobs`, `watch services`, `get secrets`, `post events`.
    pub step: String,
    /// Its path.
    pub path: String,
    /// UID that a deletion is for.
    pub uid: Option<String>,
    /// When it came.
    pub at: Instant,
    /// What the API server said; none where it was not asked, or has not answered yet.
    pub status: Option<StatusCode>,
}

type Decide = Box<dyn FnMut(&Seen) -> Fault + Send>;

struct Shared {
    client: Client,
    decide: Mutex<Decide>,
    seen: Mutex<Vec<Seen>>,
    victim: Mutex<Option<Pid>>,
    kills: watch::Sender<u32>,
    /// How often all watches were closed.
    closed: watch::Sender<u32>,
}

impl Proxy {
    pub(crate) async fn start(kubeconfig: &Path) -> Self {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a kubeconfig that works");
        let shared = Arc::new(Shared {
            client: Client::try_from(config).expect("a kubeconfig that works"),
            decide: Mutex::new(Box::new(|_| Fault::None)),
            seen: Mutex::default(),
            victim: Mutex::default(),
            kills: watch::Sender::new(0),
            closed: watch::Sender::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let app = Router::new().fallback(answer).with_state(shared.clone());
        tokio::spawn(async move {
            let server = axum::serve(listener, app);
            tokio::select! {
                _ = server.into_future() => {}
                _ = stopped => {}
            }
        });
        Self { shared, address, _stop: stop }
    }

    /// `http://127.0.0.1:port`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Asked about every request from now on.
    ///
    /// # Panics
    ///
    /// When an earlier decision has panicked.
    pub fn decide(&self, decide: impl FnMut(&Seen) -> Fault + Send + 'static) {
        *self.shared.decide.lock().unwrap() = Box::new(decide);
    }

    /// Whom to kill.
    pub(crate) fn aim(&self, pid: Pid) {
        *self.shared.victim.lock().unwrap() = Some(pid);
    }

    /// Kills the host now.
    pub fn kill(&self) {
        self.shared.kill();
    }

    /// Kills the host at a request whose step begins like this, after letting `skip` of them pass.
    pub fn kill_at(&self, step: &'static str, skip: usize, fault: Fault) {
        let mut left = Some(skip);
        self.decide(move |seen| {
            if !seen.step.starts_with(step) {
                return Fault::None;
            }
            let (now, next) = match left {
                Some(0) => (fault, None),
                other => (Fault::None, other.map(|skip| skip - 1)),
            };
            left = next;
            now
        });
    }

    /// How often a host was killed so far.
    #[must_use]
    pub fn kills(&self) -> u32 {
        *self.shared.kills.borrow()
    }

    /// Waits until hosts were killed so many times.
    ///
    /// # Panics
    ///
    /// When the step is not reached within the deadline.
    pub async fn wait_killed(&self, count: u32) {
        let mut kills = self.shared.kills.subscribe();
        let reached = tokio::time::timeout(DEADLINE, kills.wait_for(|kills| *kills >= count)).await;
        assert!(reached.is_ok(), "no host was killed within {DEADLINE:?}; done: {:#?}", self.done());
    }

    /// Ends all watches that are open now.
    pub fn close_watches(&self) {
        self.shared.closed.send_modify(|count| *count += 1);
    }

    /// All requests so far.
    ///
    /// # Panics
    ///
    /// When a decision has panicked.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How often what was carried out, watches and Events aside.
    #[must_use]
    pub fn done(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for seen in self.seen().iter().filter(|seen| seen.status.is_some_and(|status| status.is_success())) {
            *counts.entry(seen.step.clone()).or_default() += 1;
        }
        counts
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let uri = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let content_type = content_type.to_owned();
    let content = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    let seen = Seen {
        step: step(&parts.method, &uri, &content_type, &content),
        path: parts.uri.path().to_owned(),
        uid: content["preconditions"]["uid"].as_str().map(str::to_owned),
        at: Instant::now(),
        status: None,
    };
    let fault = (shared.decide.lock().unwrap())(&seen);
    let index = {
        let mut all = shared.seen.lock().unwrap();
        all.push(seen);
        all.len() - 1
    };
    match fault {
        Fault::KillBefore => {
            shared.kill();
            return refusal(StatusCode::BAD_GATEWAY, None);
        }
        Fault::Refuse(status, retry_after) => return refusal(status, retry_after),
        Fault::Delay(duration) => sleep(duration).await,
        Fault::None | Fault::KillAfter | Fault::LoseAnswer => {}
    }
    let is_watch = uri.contains("watch=");
    let mut closed = shared.closed.subscribe();
    let mut forwarded = http::Request::builder().method(parts.method).uri(&uri);
    for name in [header::CONTENT_TYPE, header::ACCEPT] {
        if let Some(value) = parts.headers.get(&name) {
            forwarded = forwarded.header(name, value);
        }
    }
    let forwarded = forwarded.body(kube::client::Body::from(body.to_vec())).unwrap();
    // A task of its own: a host that dies takes its connections with it, but not what the API server is doing for it.
    let asked = shared.clone();
    let forwarded = tokio::spawn(async move {
        let answer = asked.client.send(forwarded).await.ok()?;
        asked.seen.lock().unwrap()[index].status = Some(answer.status());
        Some(answer)
    });
    let Ok(Some(answer)) = forwarded.await else {
        return refusal(StatusCode::BAD_GATEWAY, None);
    };
    match fault {
        Fault::KillAfter => {
            shared.kill();
            refusal(StatusCode::BAD_GATEWAY, None)
        }
        // a body that breaks off
        Fault::LoseAnswer => {
            let broken = futures::stream::iter([Err::<bytes::Bytes, _>(std::io::Error::other("lost"))]);
            Response::new(Body::from_stream(broken))
        }
        _ if is_watch => answer.map(|body| {
            let ends = async move {
                // an error means that the proxy ends
                let _ = closed.changed().await;
            };
            Body::from_stream(body.into_data_stream().take_until(Box::pin(ends)))
        }),
        _ => answer.map(Body::new),
    }
}

impl Shared {
    fn kill(&self) {
        if let Some(pid) = self.victim.lock().unwrap().take() {
            // it may have ended by itself
            let _ = kill_process(pid, Signal::KILL);
            self.kills.send_modify(|kills| *kills += 1);
        }
    }
}

/// As the API server refuses.
fn refusal(code: StatusCode, retry_after: Option<u32>) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code.as_u16(),
        "reason": code.canonical_reason().unwrap_or_default().replace(' ', ""), "message": "the test wants it so",
    });
    let mut response = Response::new(Body::from(status.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Names a request by what the host does it for.
fn step(method: &Method, uri: &str, content_type: &str, body: &Value) -> String {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    // /api/v1/… and /apis/group/version/…
    parts.drain(..parts.len().min(if parts.first() == Some(&"api") { 2 } else { 3 }));
    if parts.first() == Some(&"namespaces") && parts.len() > 2 {
        parts.drain(..2);
    }
    let resource = parts.first().copied().unwrap_or("discovery");
    let is_one = parts.len() > 1;
    let is_status = parts.get(2) == Some(&"status");
    let metadata = &body["metadata"];
    let verb = match *method {
        Method::GET if query.contains("watch=") => "watch",
        Method::GET if is_one => "get",
        Method::GET => "list",
        Method::PATCH if is_status => "status",
        Method::PATCH if content_type.contains("apply-patch") && metadata["resourceVersion"] == "1" => "create",
        Method::PATCH if content_type.contains("apply-patch") => "apply",
        Method::PATCH if metadata["finalizers"].as_array().is_some_and(|list| list.iter().any(|f| f == FINALIZER)) => {
            "add-finalizer"
        }
        Method::PATCH if metadata.get("finalizers").is_some() => "remove-finalizer",
        Method::PATCH if metadata.get("ownerReferences").is_some() => "release",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "post",
    };
    format!("{verb} {resource}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_by_what_they_are_for() {
        let named =
            |method: Method, uri: &str, content_type: &str, body: Value| step(&method, uri, content_type, &body);
        let apply = "application/apply-patch+yaml";
        let web = "/apis/bench.dev/v1/namespaces/n/webs/a";
        assert_eq!(named(Method::GET, "/api/v1/configmaps?watch=true", "", json!({})), "watch configmaps");
        assert_eq!(
            named(Method::GET, "/apis/apps/v1/namespaces/n/deployments?limit=5", "", json!({})),
            "list deployments"
        );
        assert_eq!(named(Method::GET, "/api/v1/namespaces/n/secrets/a", "", json!({})), "get secrets");
        assert_eq!(named(Method::GET, "/apis/apps/v1", "", json!({})), "list discovery");
        let status = format!("{web}/status");
        assert_eq!(step(&Method::PATCH, &status, apply, &json!({})), "status webs");
        assert_eq!(named(Method::PATCH, web, apply, json!({ "metadata": { "resourceVersion": "1" } })), "create webs");
        assert_eq!(named(Method::PATCH, web, apply, json!({ "metadata": {} })), "apply webs");
        let guarded = json!({ "metadata": { "finalizers": [FINALIZER] } });
        assert_eq!(named(Method::PATCH, web, "", guarded), "add-finalizer webs");
        assert_eq!(named(Method::PATCH, web, "", json!({ "metadata": { "finalizers": [] } })), "remove-finalizer webs");
        assert_eq!(named(Method::PATCH, web, "", json!({ "metadata": { "ownerReferences": null } })), "release webs");
        assert_eq!(named(Method::DELETE, web, "", json!({})), "delete webs");
        assert_eq!(named(Method::POST, "/apis/events.k8s.io/v1/namespaces/n/events", "", json!({})), "post events");
    }
}
