//! The certificates in a Secret of the host's namespace, so that replicas have the same ones and a restart changes
//! nothing. Whoever writes says which version of the Secret it has read; who was slower reads again.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::sync::watch;

use super::certificates::{Certificates, MakeError, Wanted};
use crate::telemetry::metrics;

/// Name of the Secret.
pub const SECRET: &str = "transom-webhook-certificates";

/// All that the host needs to go on; the other fields of the Secret are for people.
const FIELD: &str = "certificates.json";

/// Certificates are looked after this often, more often when they live for less than some hours.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// The parts of a life in which they are looked after at least once.
const LOOKS: u32 = 30;

/// Writers that were quicker, at a time.
const TRIES: u32 = 5;

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error("the Secret {0} cannot be read or written")]
    Api(String, #[source] Box<kube::Error>),
    #[error(transparent)]
    Make(#[from] MakeError),
    #[error("the Secret {0} is written by others all the time")]
    Contended(String),
    #[error("the serving certificate cannot be used")]
    Unusable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What the server serves with, and what others are to trust.
#[derive(Clone)]
pub(super) struct InUse {
    pub(super) tls: Arc<rustls::ServerConfig>,
    /// PEM.
    pub(super) bundle: Arc<str>,
}

/// Keeps the certificates fresh.
pub(super) struct Keeper {
    secrets: Api<Secret>,
    namespace: String,
    wanted: Wanted,
    known: Option<Certificates>,
}

impl Keeper {
    pub(super) fn new(client: kube::Client, namespace: &str, wanted: Wanted) -> Self {
        let secrets = Api::namespaced(client, namespace);
        Self { secrets, namespace: namespace.to_owned(), wanted, known: None }
    }

    /// Reads the Secret, and writes it when something is due. None when nothing has changed since the last time.
    pub(super) async fn look(&mut self) -> Result<Option<InUse>, KeepError> {
        let certificates = self.current().await?;
        if self.known.as_ref() == Some(&certificates) {
            return Ok(None);
        }
        let in_use = in_use(&certificates)?;
        metrics().webhook_certificate(certificates.serving.expires);
        self.known = Some(certificates);
        Ok(Some(in_use))
    }

    /// Follows the Secret for as long as somebody listens.
    pub(super) async fn follow(mut self, changed: watch::Sender<InUse>) {
        let every = (self.wanted.lifetime / LOOKS).clamp(Duration::from_millis(200), LOOK_EVERY);
        loop {
            tokio::time::sleep(every).await;
            match self.look().await {
                Ok(None) => {}
                Ok(Some(in_use)) => {
                    tracing::info!("webhooks have other certificates");
                    changed.send_replace(in_use);
                }
                Err(error) => {
                    let error = crate::telemetry::chain(&error);
                    tracing::warn!(error, "certificates of webhooks could not be looked after");
                }
            }
            if changed.is_closed() {
                return;
            }
        }
    }

    fn name(&self) -> String {
        format!("{}/{SECRET}", self.namespace)
    }

    async fn current(&self) -> Result<Certificates, KeepError> {
        let failed = |error: kube::Error| KeepError::Api(self.name(), Box::new(error));
        for _ in 0..TRIES {
            let secret = self.secrets.get_opt(SECRET).await.map_err(failed)?;
            let kept = secret.as_ref().and_then(read);
            // a Secret that was deleted, or spoilt, is no reason to trust another authority from one moment to the next
            let next = Certificates::next(kept.as_ref().or(self.known.as_ref()), &self.wanted, now())?;
            if kept.as_ref() == Some(&next) {
                return Ok(next);
            }
            let body = self.body(&next, secret.as_ref());
            let parameters = PostParams { field_manager: Some("transom".into()), ..PostParams::default() };
            let written = match secret {
                Some(_) => self.secrets.replace(SECRET, &parameters, &body).await,
                None => self.secrets.create(&parameters, &body).await,
            };
            match written {
                Ok(_) => return Ok(next),
                // another host was faster: what it has made counts
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(KeepError::Contended(self.name()))
    }

    fn body(&self, certificates: &Certificates, before: Option<&Secret>) -> Secret {
        let serving = &certificates.serving;
        let fields = [
            ("ca.crt", certificates.bundle()),
            ("tls.crt", serving.certificate.clone()),
            ("tls.key", serving.key.clone()),
            (FIELD, json!(certificates).to_string()),
        ];
        let data = fields.map(|(name, text)| (name.to_owned(), k8s_openapi::ByteString(text.into_bytes())));
        let mut body = before.cloned().unwrap_or_default();
        body.metadata.name = Some(SECRET.into());
        body.metadata.namespace = Some(self.namespace.clone());
        body.type_ = body.type_.or(Some("kubernetes.io/tls".into()));
        body.data = Some(data.into_iter().collect());
        body
    }
}

fn read(secret: &Secret) -> Option<Certificates> {
    let field = secret.data.as_ref()?.get(FIELD)?;
    let certificates: Certificates = serde_json::from_slice(&field.0).ok()?;
    in_use(&certificates).ok().map(|_| certificates)
}

fn in_use(certificates: &Certificates) -> Result<InUse, KeepError> {
    let unusable = |error: Box<dyn std::error::Error + Send + Sync>| KeepError::Unusable(error);
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(certificates.serving.certificate.as_bytes()).collect();
    let chain = chain.map_err(|error| unusable(error.into()))?;
    let key = PrivateKeyDer::from_pem_slice(certificates.serving.key.as_bytes());
    let key = key.map_err(|error| unusable(error.into()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| unusable(error.into()))?;
    Ok(InUse { tls: Arc::new(tls), bundle: certificates.bundle().into() })
}

/// For `caBundle` of configurations.
pub(super) fn encoded(bundle: &str) -> String {
    STANDARD.encode(bundle)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper() -> Keeper {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let wanted = Wanted { names: vec!["127.0.0.1".into()], lifetime: Duration::from_secs(3_600) };
        Keeper::new(kube::Client::try_from(config).unwrap(), "n", wanted)
    }

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let keeper = keeper();
        let certificates = Certificates::next(None, &keeper.wanted, now()).unwrap();
        let secret = keeper.body(&certificates, None);
        assert!(read(&secret) == Some(certificates));
    }

    #[tokio::test]
    async fn a_secret_that_is_spoilt_counts_for_nothing() {
        let keeper = keeper();
        let mut certificates = Certificates::next(None, &keeper.wanted, now()).unwrap();
        let other = Certificates::next(None, &keeper.wanted, now()).unwrap();
        certificates.serving.key = other.serving.key;
        assert!(read(&keeper.body(&certificates, None)).is_none(), "a key that does not fit the certificate");
        assert!(read(&Secret::default()).is_none());
    }
}
