//! Connections to endpoints: TLS, credentials, bounds.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::grants::{Endpoint, Protocol};
use crate::api::plugin::SecretRef;
use crate::control::account::Account;
use crate::plan::contract::{Answer, Problem};
use crate::telemetry::chain;

/// How long a Secret is taken to be what it was.
const SECRETS_AGE: Duration = Duration::from_secs(30);

/// A connection that nobody asked for this long is given up.
const IDLE: Duration = Duration::from_secs(600);

/// Name, TCP and TLS.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Requests to one endpoint at the same time.
const PARALLEL: usize = 32;

/// Headers of one response.
const MAX_HEADERS: usize = 64 << 10;

/// `data` of a Secret.
pub(crate) type SecretData = BTreeMap<String, Vec<u8>>;

/// Reads a Secret in the name of an account, or of the host: its data, none when it does not exist, or why it could not
/// be read.
pub(crate) type ReadSecret =
    Arc<dyn Fn(Option<Account>, SecretRef) -> BoxFuture<'static, Result<Option<SecretData>, String>> + Send + Sync>;

type Inner = hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// All connections of the host, by grant.
pub(crate) struct Clients {
    read: ReadSecret,
    made: Mutex<HashMap<Arc<str>, Made>>,
}

struct Made {
    client: Arc<Client>,
    checked: Instant,
    used: Instant,
}

/// Connections to one endpoint.
pub(crate) struct Client {
    http: Inner,
    /// `user:password` or a bearer token.
    pub(crate) credentials: Option<Credentials>,
    /// Bearer tokens that a registry's authority has given, by scope.
    pub(crate) tokens: Mutex<HashMap<String, (HeaderValue, Instant)>>,
    /// PEM of the only trusted authorities.
    pub(crate) ca: Option<Vec<u8>>,
    permits: Semaphore,
    secrets: u64,
    /// Of the endpoint in the record, for messages.
    field: String,
}

/// What a service wants to see.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Credentials {
    /// User and password.
    Basic(String, String),
    /// A token.
    Bearer(String),
}

impl Credentials {
    /// As the header `authorization`.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let text = match self {
            Self::Basic(user, password) => format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
            Self::Bearer(token) => format!("Bearer {token}"),
        };
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// A whole response, within the bounds.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Response {
    /// A header as text; empty when it is not there.
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A failed answer.
pub(crate) fn failed(reason: impl Into<String>, message: impl AsRef<str>) -> Answer {
    Answer::Failed(Problem { reason: reason.into(), message: crate::plan::check::shorten(message.as_ref(), 1_024) })
}

impl Clients {
    pub(crate) fn new(read: ReadSecret) -> Self {
        Self { read, made: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections for a grant, with the credentials that are in its Secrets now.
    pub(crate) async fn get(&self, endpoint: &Endpoint) -> Result<Arc<Client>, Answer> {
        let now = Instant::now();
        {
            let mut made = self.lock();
            made.retain(|_, one| now.duration_since(one.used) < IDLE);
            if let Some(one) = made.get_mut(&endpoint.digest)
                && now.duration_since(one.checked) < SECRETS_AGE
            {
                one.used = now;
                return Ok(one.client.clone());
            }
        }
        let credentials = self.secret(endpoint, "credentials", endpoint.credentials.as_ref()).await?;
        let ca = self.secret(endpoint, "ca", endpoint.ca.as_ref()).await?;
        let mut hasher = DefaultHasher::new();
        (&credentials, &ca).hash(&mut hasher);
        let secrets = hasher.finish();
        let mut made = self.lock();
        if let Some(one) = made.get_mut(&endpoint.digest)
            && one.client.secrets == secrets
        {
            (one.used, one.checked) = (now, now);
            return Ok(one.client.clone());
        }
        let client = Client::new(endpoint, credentials.as_ref(), ca.as_ref(), secrets)
            .map_err(|message| failed("InvalidCredentials", format!("endpoint {}: {message}", endpoint.name)))?;
        let client = Arc::new(client);
        made.insert(endpoint.digest.clone(), Made { client: client.clone(), checked: now, used: now });
        Ok(client)
    }

    async fn secret(
        &self,
        endpoint: &Endpoint,
        field: &str,
        reference: Option<&SecretRef>,
    ) -> Result<Option<SecretData>, Answer> {
        let Some(reference) = reference else {
            return Ok(None);
        };
        let (at, SecretRef { namespace, name: secret }) = (&endpoint.field, reference);
        match (self.read)(endpoint.account.clone(), reference.clone()).await {
            Ok(Some(data)) => Ok(Some(data)),
            Ok(None) => Err(failed(
                "CredentialsMissing",
                format!("there is no Secret {namespace}/{secret}, which {at}.{field} names"),
            )),
            Err(error) => Err(failed(
                "CredentialsMissing",
                format!("the Secret {namespace}/{secret} of {at}.{field} cannot be read: {error}"),
            )),
        }
    }
}

impl Client {
    fn new(
        endpoint: &Endpoint,
        secret: Option<&SecretData>,
        ca: Option<&SecretData>,
        secrets: u64,
    ) -> Result<Self, String> {
        let text = |key: &str| -> Result<Option<String>, String> {
            let value = secret.and_then(|data| data.get(key)).map(|bytes| String::from_utf8(bytes.clone()));
            value.transpose().map_err(|_| format!("credentials: {key} is not UTF-8"))
        };
        let docker = secret.and_then(|data| data.get(".dockerconfigjson"));
        let docker = docker.map(|config| docker_login(config, &endpoint.authority)).transpose()?;
        let credentials = match (text("token")?, text("username")?, text("password")?) {
            (None, None, None) if docker.is_some() => docker,
            (Some(token), ..) => Some(Credentials::Bearer(token.trim().to_owned())),
            (None, Some(user), password) => Some(Credentials::Basic(user, password.unwrap_or_default())),
            (None, None, Some(_)) => return Err("credentials: has password but no username".into()),
            (None, None, None) => None,
        };
        let identity = match secret.map(|data| (data.get("tls.crt"), data.get("tls.key"))) {
            Some((Some(certificate), Some(key))) => Some((certificate.as_slice(), key.as_slice())),
            Some((None, None)) | None => None,
            Some(_) => return Err("credentials: tls.crt and tls.key belong together".into()),
        };
        if secret.is_some() && credentials.is_none() && identity.is_none() {
            return Err("credentials: has neither username, token nor tls.crt, nor .dockerconfigjson".into());
        }
        if credentials.as_ref().is_some_and(|credentials| credentials.header().is_none()) {
            return Err("credentials: the token has characters that no header can have".into());
        }
        let ca = match ca {
            Some(data) => Some(data.get("ca.crt").ok_or("ca: has no ca.crt")?.clone()),
            None => None,
        };
        let tls = tls_config(ca.as_deref(), identity)?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_DEADLINE));
        tcp.set_nodelay(true);
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let is_grpc = endpoint.protocol == Protocol::Grpc;
        let connector = if is_grpc {
            builder.enable_http2().wrap_connector(tcp)
        } else {
            builder.enable_http1().wrap_connector(tcp)
        };
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(4)
            .http2_only(is_grpc)
            .http2_max_header_list_size(u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX))
            // a connection that died without a word is noticed before the next request has to wait for it
            .http2_keep_alive_interval(Some(Duration::from_secs(20)))
            .http2_keep_alive_timeout(Duration::from_secs(5))
            .http1_max_buf_size(MAX_HEADERS)
            .build(connector);
        Ok(Self {
            http,
            credentials,
            tokens: Mutex::default(),
            ca,
            permits: Semaphore::new(PARALLEL),
            secrets,
            field: endpoint.field.clone(),
        })
    }

    /// Sends a request, reads at most `limit` bytes of body, and takes at most `deadline`.
    ///
    /// # Errors
    /// The failure as an answer.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        limit: usize,
        deadline: Duration,
    ) -> Result<Response, Answer> {
        let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let is_head = request.method() == http::Method::HEAD;
        let exchange = async {
            let _permit = self.permits.acquire().await;
            let response = self.http.request(request).await.map_err(|error| {
                let (said, field) = (chain(&error), &self.field);
                let hint = if speaks_no_tls(&error) { no_tls(field) } else { String::new() };
                failed("Unavailable", format!("{authority}: {said}{hint}"))
            })?;
            let (head, body) = response.into_parts();
            let announced =
                head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
            if !is_head && announced.is_some_and(|size: u64| size > limit as u64) {
                return Err(failed("TooLarge", format!("{authority}: the answer is larger than {limit} bytes")));
            }
            let body = Limited::new(body, limit).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    failed("TooLarge", format!("{authority}: the answer is larger than {limit} bytes"))
                } else {
                    failed("Unavailable", format!("{authority}: the answer broke off: {error}"))
                }
            })?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            Ok(Response { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
        };
        tokio::time::timeout(deadline, exchange)
            .await
            .unwrap_or_else(|_| Err(failed("DeadlineExceeded", format!("{authority}: no answer within {deadline:?}"))))
    }

    /// GET or HEAD without a body.
    pub(crate) async fn get(
        &self,
        head: bool,
        uri: Uri,
        headers: HeaderMap,
        limit: usize,
        deadline: Duration,
    ) -> Result<Response, Answer> {
        let mut request = Request::new(Full::default());
        *request.method_mut() = if head { http::Method::HEAD } else { http::Method::GET };
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        self.send(request, limit, deadline).await
    }

    /// Headers with the endpoint's own credentials.
    pub(crate) fn authorized(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(value) = self.credentials.as_ref().and_then(Credentials::header) {
            headers.insert(header::AUTHORIZATION, value);
        }
        headers
    }
}

/// What to do about a server that [speaks no TLS](speaks_no_tls).
pub(crate) fn no_tls(field: &str) -> String {
    format!(": the server speaks no TLS; if that is meant, set {field}.plaintext to true")
}

/// Did the other side answer a TLS handshake with something else, such as plain HTTP?
fn speaks_no_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    if matches!(error.downcast_ref(), Some(rustls::Error::InvalidMessage(_))) {
        return true;
    }
    // an io::Error leaves what it wraps out of the causes
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match wrapped {
        Some(wrapped) => speaks_no_tls(wrapped),
        None => error.source().is_some_and(speaks_no_tls),
    }
}

/// The log-in for a registry from what `docker login` and `kubectl create secret docker-registry` write.
pub(crate) fn docker_login(config: &[u8], authority: &str) -> Result<Credentials, String> {
    #[derive(serde::Deserialize)]
    struct Config {
        #[serde(default)]
        auths: BTreeMap<String, Login>,
    }
    #[derive(serde::Deserialize)]
    struct Login {
        #[serde(default)]
        auth: String,
        #[serde(default)]
        username: String,
        #[serde(default)]
        password: String,
    }
    let config: Config =
        serde_json::from_slice(config).map_err(|error| format!("credentials: .dockerconfigjson: {error}"))?;
    // a key may be an address with scheme and path: `https://index.docker.io/v1/`
    let host = |key: &str| -> String {
        let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
        bare.split('/').next().unwrap_or_default().trim_start_matches("index.").to_owned()
    };
    let known = || config.auths.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let login =
        config.auths.iter().find(|(key, _)| host(key) == authority).map(|(_, login)| login).ok_or_else(|| {
            format!("credentials: .dockerconfigjson has no login for {authority}, but for: {}", known())
        })?;
    if login.auth.is_empty() {
        return Ok(Credentials::Basic(login.username.clone(), login.password.clone()));
    }
    let wrong = || format!("credentials: .dockerconfigjson: auth of {authority} is not base64 of user:password");
    let decoded =
        STANDARD.decode(&login.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(wrong)?;
    let (user, password) = decoded.split_once(':').ok_or_else(wrong)?;
    Ok(Credentials::Basic(user.into(), password.into()))
}

/// Who asks.
pub(crate) const USER_AGENT: &str = concat!("transom/", env!("CARGO_PKG_VERSION"));

fn tls_config(ca: Option<&[u8]>, identity: Option<(&[u8], &[u8])>) -> Result<ClientConfig, String> {
    let roots = match ca {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| format!("ca: ca.crt is not PEM: {error}"))?;
                roots.add(certificate).map_err(|error| format!("ca: ca.crt: {error}"))?;
            }
            if roots.is_empty() {
                return Err("ca: ca.crt holds no certificate".into());
            }
            Arc::new(roots)
        }
        None => SYSTEM_ROOTS.clone(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let Some((certificates, key)) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let certificates = CertificateDer::pem_slice_iter(certificates)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("credentials: tls.crt is not PEM: {error}"))?;
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("credentials: tls.key is not PEM: {error}"))?;
    builder.with_client_auth_cert(certificates, key).map_err(|error| format!("credentials: tls.crt, tls.key: {error}"))
}

/// What the machine trusts; read once.
static SYSTEM_ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!(error = error as &dyn std::error::Error, "the system's certificates cannot be read");
    }
    roots.add_parsable_certificates(loaded.certs);
    Arc::new(roots)
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_login_is_found_by_host_in_every_form_that_tools_write() {
        let config = br#"{"auths": {"r.example:5000": {"auth": "YW5uOnM6M2NyZXQ="},
            "https://index.docker.io/v1/": {"username": "bob", "password": "pw"}, "bad.example": {"auth": "!"}}}"#;
        let basic = |user: &str, password: &str| Credentials::Basic(user.into(), password.into());
        assert!(docker_login(config, "r.example:5000") == Ok(basic("ann", "s:3cret")), "a password may have a colon");
        assert!(docker_login(config, "docker.io") == Ok(basic("bob", "pw")));
        let error = |authority: &str| docker_login(config, authority).err().unwrap();
        assert!(error("r.example").contains("no login for r.example, but for: bad.example, "), "the port counts");
        assert!(error("bad.example").contains("not base64"));
        assert!(docker_login(b"nonsense", "r.example").err().unwrap().starts_with("credentials: .dockerconfigjson: "));
    }
}
