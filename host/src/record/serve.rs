//! Recordings over HTTP, on an address of this machine only.
//!
//! In a pod that is reached by `kubectl port-forward`, which the API server allows by the verb `create` on
//! `pods/portforward`. Other pods do not get at it, and there is no authentication of its own to be got wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::ring::Ring;
use super::{Bundle, Recording};
use crate::plan::contract::ObjectRef;
use crate::registry::rollout::plan::Plans;

/// Where the recordings of an object are, newest first: a JSON array of bundles. The namespace of a cluster-scoped object
/// is `-`.
const PATH: &str = "/recordings/{kind}/{namespace}/{name}/{last}";

/// Path and query for at most `last` recordings of an object.
#[must_use]
pub fn path(kind: &str, namespace: &str, name: &str, last: usize) -> String {
    let namespace = if namespace.is_empty() { "-" } else { namespace };
    format!("/recordings/{kind}/{namespace}/{name}/{last}")
}

/// Where the last plan of a `Plugin` record is, as JSON.
const PLAN: &str = "/plans/{plugin}";

/// Path of the last plan of a record.
#[must_use]
pub fn plan_path(plugin: &str) -> String {
    format!("/plans/{plugin}")
}

async fn plan(State(plans): State<Arc<Plans>>, Path(plugin): Path<String>, headers: HeaderMap) -> (StatusCode, String) {
    if !headers.get(header::HOST).and_then(|host| host.to_str().ok()).is_some_and(is_local) {
        return (StatusCode::FORBIDDEN, "ask by the name localhost, or by a loopback address".into());
    }
    match plans.of(&plugin).map(|plan| serde_json::to_string(&*plan)) {
        Some(Ok(text)) => (StatusCode::OK, text),
        Some(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        None => (StatusCode::NOT_FOUND, "this host has made no plan for that plugin since it started".into()),
    }
}

/// After how long the host looks at an object again without a change.
pub type AgainIn = dyn Fn(&ObjectRef) -> Option<Duration> + Send + Sync;

#[derive(Clone)]
struct Shared {
    ring: Arc<Ring>,
    again_in: Arc<AgainIn>,
    /// Each bundle is a run of a plugin: one at a time.
    turn: Arc<Semaphore>,
}

/// Serves until the process ends. Returns the address.
///
/// # Errors
/// When the address is not one of this machine alone, or cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    ring: Arc<Ring>,
    again_in: Arc<AgainIn>,
    plans: Arc<Plans>,
) -> std::io::Result<SocketAddr> {
    if !address.ip().is_loopback() {
        let message = format!("{address} is reachable from outside; recordings are served on a loopback address only");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, message));
    }
    let shared = Shared { ring, again_in, turn: Arc::new(Semaphore::new(1)) };
    let router = Router::new().route(PATH, get(answer)).with_state(shared);
    let router = router.merge(Router::new().route(PLAN, get(plan)).with_state(plans));
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn answer(
    State(shared): State<Shared>,
    Path((kind, namespace, name, last)): Path<(String, String, String, usize)>,
    headers: HeaderMap,
) -> (StatusCode, String) {
    // a web page that had its own name resolved to this address
    if !headers.get(header::HOST).and_then(|host| host.to_str().ok()).is_some_and(is_local) {
        return (StatusCode::FORBIDDEN, "ask by the name localhost, or by a loopback address".into());
    }
    let namespace = if namespace == "-" { "" } else { &namespace };
    let found: Vec<Arc<Recording>> = shared.ring.of(&kind, namespace, &name);
    let Ok(_turn) = shared.turn.acquire().await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping".into());
    };
    let (mut bundles, now) = (Vec::new(), jiff::Timestamp::now());
    for recording in found.iter().take(last) {
        match Bundle::of(recording).await {
            Ok(mut bundle) => {
                let again = (shared.again_in)(&bundle.primary).and_then(|after| now.checked_add(after).ok());
                bundle.next_look_at = again.map(|at| at.to_string());
                bundles.push(bundle);
            }
            Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
    match serde_json::to_string(&bundles) {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// `localhost`, `127.0.0.1` or `[::1]`, with or without a port.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        assert!(["localhost", "localhost:8081", "127.0.0.1:1", "[::1]", "[::1]:8081"].into_iter().all(is_local));
        assert!(!["evil.example", "localhost.evil.example:80", "", "10.0.0.1:8081"].into_iter().any(is_local));
    }

    #[tokio::test]
    async fn an_address_that_others_reach_is_refused() {
        let ring = Arc::new(Ring::new(5, 1));
        let refused = serve("0.0.0.0:0".parse().unwrap(), ring, Arc::new(|_| None), Arc::default()).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
    }
}
