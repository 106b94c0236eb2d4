//! Admission and conversion webhooks: the API server asks the host, and the host asks the plugin.
//!
//! ```text
//! Plugin record ─► configurations (one pair for each plugin, its own kinds only) ─┐
//! API server ── https ─► server ─► the version that serves the object             │ CA bundle
//! Secret ─► certificates, rotated here ───────────────────────────────────────────┘
//! ```
//!
//! The host is in the write path of kinds that its plugins serve, and of no other: rules name kinds, never `*`; objects
//! that are being deleted, status, and updates that leave the spec alone never come here.

mod admission;
mod certificates;
mod configuration;
mod conversion;
mod keep;
mod server;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::control::controller::Controller;
use crate::plugin::Plugin;
use certificates::Wanted;
use keep::{InUse, Keeper, encoded};
use server::TlsListener;

pub use configuration::CONDITION;
pub(crate) use configuration::{publish, remove};
pub use keep::SECRET;

/// What a call that was begun may take when the host ends.
const GRACE: Duration = Duration::from_secs(5);

/// How the API server reaches the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Through a Service.
    Service {
        /// Namespace of the Service.
        namespace: String,
        /// Name of the Service.
        name: String,
        /// Port of the Service.
        port: u16,
    },
    /// At an address: a host outside the cluster. `https://host:port`, without a path.
    Url(String),
}

impl Reach {
    /// From `NAMESPACE/NAME:PORT`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn service(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} must be NAMESPACE/NAME:PORT, as transom-system/transom:443");
        let (namespace, rest) = text.split_once('/').ok_or_else(wrong)?;
        let (name, port) = rest.split_once(':').ok_or_else(wrong)?;
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let fits = |name: &str| !name.is_empty() && name.len() <= 63 && name.chars().all(label);
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        if !fits(namespace) || !fits(name) {
            return Err(wrong());
        }
        Ok(Self::Service { namespace: namespace.into(), name: name.into(), port })
    }

    /// From `https://HOST:PORT`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn url(text: &str) -> Result<Self, String> {
        let url: Option<http::Uri> = text.parse().ok();
        let fits = |url: &http::Uri| {
            url.scheme_str() == Some("https")
                && url.host().is_some()
                && matches!(url.path(), "" | "/")
                && url.query().is_none()
        };
        match url.filter(fits) {
            Some(_) => Ok(Self::Url(text.trim_end_matches('/').to_owned())),
            None => Err(format!("{text:?} must be https://HOST:PORT without a path")),
        }
    }

    /// DNS names and addresses that the API server expects of the certificate.
    fn names(&self) -> Vec<String> {
        match self {
            Self::Service { namespace, name, .. } => vec![format!("{name}.{namespace}.svc")],
            Self::Url(url) => {
                let url: http::Uri = url.parse().unwrap_or_default();
                vec![url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned()]
            }
        }
    }

    /// `clientConfig` of a configuration.
    fn client_config(&self, path: &str, bundle: &str) -> Value {
        let bundle = encoded(bundle);
        match self {
            Self::Service { namespace, name, port } => json!({
                "service": { "namespace": namespace, "name": name, "port": port, "path": path }, "caBundle": bundle,
            }),
            Self::Url(url) => json!({ "url": format!("{url}{path}"), "caBundle": bundle }),
        }
    }
}

/// What `transom run` was told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the server listens.
    pub listen: SocketAddr,
    /// How the API server gets there.
    pub reach: Reach,
    /// Life of a serving certificate.
    pub lifetime: Duration,
}

/// What the host's parts know of webhooks.
#[derive(Default)]
pub struct Hooks {
    setup: OnceLock<Setup>,
    /// By name of the record: the component whose definitions are installed.
    converters: RwLock<HashMap<String, Plugin>>,
    /// By name of the record: how long the API server waits.
    timeouts: RwLock<HashMap<String, Duration>>,
}

/// There is none when the host serves no webhooks.
struct Setup {
    reach: Reach,
    certificates: watch::Receiver<InUse>,
}

impl Hooks {
    /// Changes with the certificates. None when the host serves no webhooks.
    pub(crate) fn rotations(&self) -> Option<Rotations> {
        self.setup.get().map(|setup| Rotations(setup.certificates.clone()))
    }

    /// Where the API server calls: `clientConfig` for this path. None when the host serves no webhooks.
    fn client_config(&self, path: &str) -> Option<Value> {
        let setup = self.setup.get()?;
        let bundle = setup.certificates.borrow().bundle.clone();
        Some(setup.reach.client_config(path, &bundle))
    }

    /// `spec.conversion` of a definition whose objects this plugin converts. None when the host serves no webhooks.
    pub(crate) fn conversion(&self, plugin: &str) -> Option<Value> {
        let client_config = self.client_config(&format!("/convert/{plugin}"))?;
        Some(json!({
            "strategy": "Webhook",
            "webhook": { "clientConfig": client_config, "conversionReviewVersions": ["v1"] },
        }))
    }

    /// From now on this component converts: its definitions are about to be installed.
    pub(crate) fn convert_with(&self, name: &str, plugin: &Plugin) {
        self.converters.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), plugin.clone());
    }

    /// The definitions that are installed need no conversion.
    pub(crate) fn convert_no_more(&self, name: &str) {
        self.converters.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn converter(&self, name: &str) -> Option<Plugin> {
        self.converters.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// So long the API server waits for answers about objects of this record.
    pub(crate) fn wait_for(&self, name: &str, timeout: Duration) {
        self.timeouts.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), timeout);
    }

    fn timeout(&self, name: &str) -> Duration {
        let timeouts = self.timeouts.read().unwrap_or_else(PoisonError::into_inner);
        timeouts.get(name).copied().unwrap_or(Duration::from_secs(crate::api::plugin::DEFAULT_WEBHOOK_TIMEOUT.into()))
    }

    /// Nothing of this record is served any more.
    pub(crate) fn forget(&self, name: &str) {
        self.convert_no_more(name);
        self.timeouts.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// Tells of new certificates.
pub(crate) struct Rotations(watch::Receiver<InUse>);

impl Rotations {
    /// Resolves at the next ones.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Serves until it is stopped.
pub struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections; calls that were begun end.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        if tokio::time::timeout(GRACE, self.task).await.is_err() {
            tracing::warn!("some calls of webhooks did not end in time");
        }
    }
}

/// Reads or makes the certificates, keeps them fresh, and serves.
///
/// # Errors
/// When the Secret can neither be read nor written, or the address cannot be listened on.
pub async fn start(controller: &Arc<Controller>, options: Options, namespace: &str) -> anyhow::Result<Server> {
    let Options { listen, reach, lifetime } = options;
    let wanted = Wanted { names: reach.names(), lifetime };
    let mut keeper = Keeper::new(controller.cluster.client().clone(), namespace, wanted);
    let first = keeper.look().await.context("webhooks have no certificates")?;
    let first = first.context("webhooks have no certificates")?;
    let (changed, certificates) = watch::channel(first);
    let listener = TlsListener::bind(listen, certificates.clone()).await;
    let listener = listener.with_context(|| format!("cannot listen on {listen}: choose another --webhook-listen"))?;
    let address = listener.address();
    if controller.hooks.setup.set(Setup { reach, certificates }).is_err() {
        anyhow::bail!("webhooks are served already");
    }
    tokio::spawn(keeper.follow(changed));
    let (stop, stopped) = oneshot::channel::<()>();
    let router = server::router(controller.clone());
    let task = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
            tracing::error!(%error, "webhooks are no longer served");
        }
    });
    Ok(Server { address, stop, task })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_a_namespace_a_name_and_a_port() {
        let service = Reach::service("transom-system/transom:443").unwrap();
        assert_eq!(service.names(), ["transom.transom-system.svc"]);
        let expected = json!({
            "service": { "namespace": "transom-system", "name": "transom", "port": 443, "path": "/x" }, "caBundle": "UEVN",
        });
        assert_eq!(service.client_config("/x", "PEM"), expected);
        for wrong in ["transom:443", "a/b", "a/b:0", "a/b:70000", "/b:1", "a/:1", "A/b:1", "a/b/c:1"] {
            assert!(Reach::service(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_is_https_and_nothing_else() {
        let url = Reach::url("https://127.0.0.1:8443/").unwrap();
        assert_eq!(url.names(), ["127.0.0.1"]);
        let expected = json!({ "url": "https://127.0.0.1:8443/x", "caBundle": "UEVN" });
        assert_eq!(url.client_config("/x", "PEM"), expected);
        assert_eq!(Reach::url("https://[::1]:8443").unwrap().names(), ["::1"]);
        for wrong in ["http://a:1", "https://a:1/b", "https://a:1/?b", "a:1", ""] {
            assert!(Reach::url(wrong).is_err(), "{wrong}");
        }
    }
}
