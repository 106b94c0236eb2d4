use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Identity, Refusal, verifier};
use crate::database::Tls;

/// For one answer of the provider, and how large it may be.
const DEADLINE: Duration = Duration::from_secs(5);
const MAX_BYTES: usize = 1 << 20;

/// Keys are asked for again after this time, and earlier when a token names one that is not known, but not more often
/// than every `PAUSE`: tokens are made up by whoever likes.
const FRESH: Duration = Duration::from_secs(3600);
const PAUSE: Duration = Duration::from_secs(10);

/// Keys that could not be asked for again are trusted this long.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// How much clocks may differ, in seconds.
const LEEWAY: u64 = 30;

/// What is expected of a provider's tokens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The claim `iss`, and where the provider's configuration is found.
    pub issuer: String,
    /// Must be among the claim `aud`.
    pub audience: String,
    /// The claim that makes an administrator, such as `groups`.
    pub admin_claim: String,
    /// What it must be, or have in its list; none: nobody is one.
    pub admin_value: Option<String>,
}

/// An OpenID provider.
pub struct Oidc {
    settings: Settings,
    http: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    keys: RwLock<Option<Arc<Keys>>>,
    /// When the provider was last asked; held while it is.
    asked: Mutex<Option<Instant>>,
}

struct Keys {
    by_id: HashMap<String, Key>,
    since: Instant,
}

struct Key {
    decoding: DecodingKey,
    /// None: any of its family.
    algorithm: Option<Algorithm>,
}

#[derive(Deserialize)]
struct Configuration {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct JwkList {
    keys: Vec<Value>,
}

/// With types: a token whose times are no numbers is refused as a whole.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(rename = "exp")]
    _exp: u64,
    #[serde(rename = "nbf", default)]
    _nbf: Option<u64>,
    #[serde(flatten)]
    others: HashMap<String, Value>,
}

impl Oidc {
    /// Asks the provider when the first token comes.
    ///
    /// # Errors
    ///
    /// When the issuer is no URL that is safe to ask.
    pub fn new(settings: Settings, tls: &Tls) -> anyhow::Result<Self> {
        safe(&settings.issuer).context("the issuer is wrong")?;
        verifier::install();
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls.config()).https_or_http().enable_http1().build();
        let http = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { settings, http, keys: RwLock::default(), asked: Mutex::default() })
    }

    pub(super) async fn identify(&self, token: &str) -> Result<Identity, Refusal> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refusal::Wrong)?;
        if !verifier::ALGORITHMS.contains(&header.alg) {
            return Err(Refusal::Wrong);
        }
        let id = header.kid.unwrap_or_default();
        let keys = self.keys(&id).await?;
        let key = keys.by_id.get(&id).ok_or(Refusal::Wrong)?;
        if key.decoding.family() != header.alg.family() || key.algorithm.is_some_and(|only| only != header.alg) {
            return Err(Refusal::Wrong);
        }
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&[&self.settings.audience]);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY;
        let decoded = jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation);
        let claims = decoded.map_err(|_| Refusal::Wrong)?.claims;
        if claims.sub.is_empty() {
            return Err(Refusal::Wrong);
        }
        let is_admin = self.settings.admin_value.as_ref().is_some_and(|wanted| {
            match claims.others.get(&self.settings.admin_claim) {
                Some(Value::String(one)) => one == wanted,
                Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(wanted)),
                _ => false,
            }
        });
        Ok(Identity { subject: claims.sub, is_admin })
    }

    /// Keys that have this one if the provider has it.
    async fn keys(&self, id: &str) -> Result<Arc<Keys>, Refusal> {
        let known = || self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        let is_good = |keys: &Arc<Keys>| keys.since.elapsed() < FRESH && keys.by_id.contains_key(id);
        if let Some(keys) = known().filter(is_good) {
            return Ok(keys);
        }
        // those that were good an hour ago will do while somebody else asks: a provider that hangs must not hold up everybody
        let is_usable = |keys: &Arc<Keys>| keys.since.elapsed() < STALE;
        let mut asked = match self.asked.try_lock() {
            Ok(asked) => asked,
            Err(_) => match known().filter(|keys| is_usable(keys) && keys.by_id.contains_key(id)) {
                Some(keys) => return Ok(keys),
                None => self.asked.lock().await,
            },
        };
        // somebody else may have asked meanwhile
        let keys = known();
        if let Some(keys) = keys.clone().filter(is_good) {
            return Ok(keys);
        }
        if asked.is_none_or(|at| at.elapsed() >= PAUSE) {
            let fetched = self.fetch().await;
            *asked = Some(Instant::now());
            match fetched {
                Ok(keys) => {
                    let keys = Arc::new(keys);
                    *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(keys.clone());
                    return Ok(keys);
                }
                Err(error) => tracing::warn!(error = format!("{error:#}"), "the identity provider gives no keys"),
            }
        }
        keys.filter(is_usable).ok_or(Refusal::Unavailable)
    }

    async fn fetch(&self) -> anyhow::Result<Keys> {
        let issuer = &self.settings.issuer;
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let configuration: Configuration = self.get(&url).await?;
        ensure!(configuration.issuer == *issuer, "it calls itself {:?}, not {issuer:?}", configuration.issuer);
        let list: JwkList = self.get(&configuration.jwks_uri).await?;
        let keys = list.keys.into_iter().filter_map(|key| {
            // of a kind that is not known here, or for encryption: not an error, others may be
            let algorithm = key.get("alg").map(|name| name.as_str().unwrap_or_default().parse::<Algorithm>());
            let algorithm = algorithm.transpose().ok()?;
            let jwk: Jwk = serde_json::from_value(key).ok()?;
            let common = &jwk.common;
            let is_signing = !matches!(common.public_key_use, Some(PublicKeyUse::Encryption));
            let decoding = DecodingKey::from_jwk(&jwk).ok().filter(|_| is_signing)?;
            Some((common.key_id.clone().unwrap_or_default(), Key { decoding, algorithm }))
        });
        Ok(Keys { by_id: keys.collect(), since: Instant::now() })
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> anyhow::Result<T> {
        let uri = safe(url)?;
        let get = async {
            let response = self.http.get(uri).await?;
            ensure!(response.status() == StatusCode::OK, "status {}", response.status());
            let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
            Ok(serde_json::from_slice(&body)?)
        };
        tokio::time::timeout(DEADLINE, get).await.context("no answer in time")?.with_context(|| format!("GET {url}"))
    }
}

/// TLS, or on this machine.
fn safe(url: &str) -> anyhow::Result<Uri> {
    let uri: Uri = url.parse().with_context(|| format!("{url:?} must be a URL"))?;
    let is_local = matches!(uri.host(), Some("127.0.0.1" | "localhost" | "[::1]"));
    let is_safe = uri.scheme_str() == Some("https") || (uri.scheme_str() == Some("http") && is_local);
    ensure!(is_safe, "{url:?} must begin with https://");
    Ok(uri)
}
