//! OCI registries (`opencontainers/distribution-spec`): log-in, manifests, blobs.

pub(crate) mod push;

use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::client::{Client, Credentials, Response, USER_AGENT, failed};
use super::grants::Endpoint;
use crate::control::cluster::encode;
use crate::plan::contract::Answer;

/// What the specification lets registries refuse beyond.
pub(crate) const MAX_MANIFEST: usize = 4 << 20;

/// Of a token server.
const MAX_TOKEN: usize = 64 << 10;

const DEADLINE: Duration = Duration::from_secs(10);

/// A token is not used longer than this, whatever it says: the specification's own default.
const TOKEN_AGE: Duration = Duration::from_secs(60);

/// Redirects of a blob: registries keep them elsewhere.
const MAX_REDIRECTS: u32 = 3;

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// One repository of a registry.
pub(crate) struct Repository<'a> {
    pub(crate) client: &'a Client,
    pub(crate) endpoint: &'a Endpoint,
    /// `team/app`
    pub(crate) name: &'a str,
}

/// One request.
struct Ask<'a> {
    method: Method,
    url: &'a str,
    /// What is sent, and its media type.
    body: Option<(Bytes, &'a str)>,
    /// Of the answer's body.
    limit: usize,
    deadline: Duration,
}

impl Ask<'_> {
    fn pull(head: bool, url: &str, limit: usize) -> Ask<'_> {
        Ask { method: if head { Method::HEAD } else { Method::GET }, url, body: None, limit, deadline: DEADLINE }
    }

    fn is_pull(&self) -> bool {
        matches!(self.method, Method::HEAD | Method::GET)
    }

    /// What the log-in must be good for.
    fn actions(&self) -> &'static str {
        if self.is_pull() { "pull" } else { "pull,push" }
    }
}

/// `sha256:` and the digest of these bytes.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// `sha256:` and 64 digits.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()))
}

/// As registries name repositories: lower case, digits, and separators within.
pub(crate) fn is_repository(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(plain)
            && !part.ends_with(['.', '_', '-'])
    };
    text.len() <= 255 && text.split('/').all(part)
}

/// As registries name tags.
pub(crate) fn is_tag(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=128).contains(&text.len()) && text.chars().all(plain) && !text.starts_with(['.', '-'])
}

impl Repository<'_> {
    fn url(&self, what: &str, reference: &str) -> String {
        let scheme = if self.endpoint.plaintext { "http" } else { "https" };
        let authority = match self.endpoint.authority.as_str() {
            "docker.io" => "registry-1.docker.io", // the one name that is not the server's
            other => other,
        };
        format!("{scheme}://{authority}/v2/{}/{what}/{reference}", self.name)
    }

    /// The digest of a manifest, none when there is no such manifest.
    pub(crate) async fn digest(&self, reference: &str) -> Result<Option<String>, Answer> {
        let Some(response) = self.ask(true, &self.url("manifests", reference), 0).await? else {
            return Ok(None);
        };
        let digest = response.header("docker-content-digest").to_owned();
        if is_digest(&digest) && (!is_digest(reference) || digest == reference) {
            return Ok(Some(digest));
        }
        // a registry need not say it
        Ok(self.manifest(reference).await?.map(|(digest, _)| digest))
    }

    /// A manifest with its digest.
    pub(crate) async fn manifest(&self, reference: &str) -> Result<Option<(String, Bytes)>, Answer> {
        let Some(response) = self.ask(false, &self.url("manifests", reference), MAX_MANIFEST).await? else {
            return Ok(None);
        };
        let digest = digest_of(&response.body);
        if is_digest(reference) && digest != reference {
            return Err(failed("DigestMismatch", format!("{}@{reference}: the registry sent {digest}", self.name)));
        }
        Ok(Some((digest, response.body)))
    }

    /// A blob, which is what its digest says.
    pub(crate) async fn blob(&self, digest: &str, size: usize) -> Result<Bytes, Answer> {
        self.blob_within(digest, size, DEADLINE).await
    }

    /// The same for one that may take longer than a plugin's lookup.
    pub(crate) async fn blob_within(&self, digest: &str, size: usize, deadline: Duration) -> Result<Bytes, Answer> {
        let missing = || failed("NotFound", format!("{}@{digest}: the registry has no such blob", self.name));
        let url = self.url("blobs", digest);
        let ask = Ask { deadline, ..Ask::pull(false, &url, size) };
        let response = self.exchange(&ask).await?.ok_or_else(missing)?;
        if digest_of(&response.body) != digest {
            return Err(failed("DigestMismatch", format!("{}@{digest}: the registry sent something else", self.name)));
        }
        Ok(response.body)
    }

    /// The manifests that say that they are about this one (`opencontainers/distribution-spec: spec.md`, Listing
    /// Referrers): an index. None when there is none.
    pub(crate) async fn referrers(&self, digest: &str) -> Result<Option<Bytes>, Answer> {
        if let Some(response) = self.ask(false, &self.url("referrers", digest), MAX_MANIFEST).await? {
            return Ok(Some(response.body));
        }
        // a registry without that API: the index is kept by the clients under a tag
        Ok(self.manifest(&digest.replace(':', "-")).await?.map(|(_, index)| index))
    }

    /// A request to read. None for 404.
    async fn ask(&self, head: bool, url: &str, limit: usize) -> Result<Option<Response>, Answer> {
        self.exchange(&Ask::pull(head, url, limit)).await
    }

    /// One request with log-in. None for 404.
    async fn exchange(&self, ask: &Ask<'_>) -> Result<Option<Response>, Answer> {
        let scope = format!("repository:{}:{}", self.name, ask.actions());
        let mut headers = HeaderMap::new();
        if let Some(token) = self.token(&scope) {
            headers.insert(header::AUTHORIZATION, token);
        }
        let mut response = self.follow(ask, headers).await?;
        if response.status == 401 {
            let challenge = response.header(header::WWW_AUTHENTICATE).to_owned();
            if let Some(token) = self.log_in(&challenge, &scope).await? {
                let headers = HeaderMap::from_iter([(header::AUTHORIZATION, token)]);
                response = self.follow(ask, headers).await?;
            }
        }
        let Endpoint { field, .. } = self.endpoint;
        match response.status.as_u16() {
            200..=299 => Ok(Some(response)),
            404 => Ok(None),
            code @ (401 | 403) => Err(Answer::Denied(format!(
                "the registry refuses {} to {} {} ({code}): check {field}.credentials",
                if self.client.credentials.is_some() { "these credentials" } else { "anonymous users" },
                if ask.is_pull() { "pull" } else { "push to" },
                self.name,
            ))),
            code => Err(failed(format!("Http{code}"), format!("{}: the registry answers {code}", self.name))),
        }
    }

    async fn follow(&self, ask: &Ask<'_>, headers: HeaderMap) -> Result<Response, Answer> {
        let parse = |url: &str| -> Result<Uri, Answer> {
            url.parse().map_err(|error| failed("InvalidArgument", format!("{url}: {error}")))
        };
        let mut uri = parse(ask.url)?;
        let mut headers = headers;
        headers.insert(header::ACCEPT, HeaderValue::from_static(MANIFESTS));
        for _ in 0..=MAX_REDIRECTS {
            // what is read in place of what was asked for (an error in words) is bounded, too
            let response = self.send(ask, uri.clone(), headers.clone()).await?;
            if !response.status.is_redirection() || !ask.is_pull() {
                return Ok(response);
            }
            let location = response.header(header::LOCATION);
            let next = match location.strip_prefix('/').filter(|rest| !rest.starts_with('/')) {
                Some(_) => format!(
                    "{}://{}{location}",
                    uri.scheme_str().unwrap_or("https"),
                    uri.authority().map_or("", |a| a.as_str())
                ),
                None => location.to_owned(),
            };
            let next = parse(&next)?;
            if next.scheme_str() != Some("https") && !self.endpoint.plaintext {
                return Err(failed("Unavailable", format!("{}: the registry redirects away from TLS", self.name)));
            }
            if next.authority() != uri.authority() {
                headers.remove(header::AUTHORIZATION); // not for others to see
            }
            uri = next;
        }
        Err(failed("TooManyRedirects", format!("{}: more than {MAX_REDIRECTS} redirects", self.name)))
    }

    async fn send(&self, ask: &Ask<'_>, uri: Uri, headers: HeaderMap) -> Result<Response, Answer> {
        let body = ask.body.as_ref().map(|(bytes, _)| bytes.clone()).unwrap_or_default();
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if let Some((_, kind)) = &ask.body
            && let Ok(kind) = HeaderValue::try_from(*kind)
        {
            request.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        self.client.send(request, ask.limit.max(MAX_TOKEN), ask.deadline).await
    }

    fn token(&self, scope: &str) -> Option<HeaderValue> {
        let mut tokens = self.client.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, (_, until)| Instant::now() < *until);
        tokens.get(scope).map(|(token, _)| token.clone())
    }

    /// Answers a challenge (RFC 7617, `distribution/distribution: docs/content/spec/auth/token.md`).
    async fn log_in(&self, challenge: &str, scope: &str) -> Result<Option<HeaderValue>, Answer> {
        let credentials = self.client.credentials.as_ref();
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Ok(credentials.and_then(Credentials::header));
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Ok(None);
        }
        if let Some(token @ Credentials::Bearer(_)) = credentials {
            return Ok(token.header());
        }
        let realm = parameter(parameters, "realm").unwrap_or_default();
        if !realm.starts_with("https://") && !self.endpoint.plaintext {
            return Err(failed("Unavailable", format!("{}: the registry's token server has no TLS", self.name)));
        }
        let service = parameter(parameters, "service").unwrap_or_default();
        let glue = if realm.contains('?') { '&' } else { '?' };
        let url = format!("{realm}{glue}service={}&scope={}", encode(&service), encode(scope));
        let uri = url.parse().map_err(|error| failed("Unavailable", format!("{realm}: {error}")))?;
        let response = self.client.get(false, uri, self.client.authorized(), MAX_TOKEN, DEADLINE).await?;
        if !response.status.is_success() {
            let message = format!("the registry's token server answers {} for {}", response.status, self.name);
            return match response.status.as_u16() {
                401 | 403 => Err(Answer::Denied(message)),
                code => Err(failed(format!("Http{code}"), message)),
            };
        }
        #[derive(Deserialize)]
        struct Token {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
        }
        let token: Token = serde_json::from_slice(&response.body)
            .map_err(|error| failed("Unavailable", format!("{}: the token server's answer: {error}", self.name)))?;
        let token = if token.token.is_empty() { token.access_token } else { token.token };
        let Some(value) = Credentials::Bearer(token).header() else {
            return Ok(None);
        };
        let mut tokens = self.client.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(scope.to_owned(), (value.clone(), Instant::now() + TOKEN_AGE));
        Ok(Some(value))
    }
}

/// `realm="https://…",service="…"`
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters;
    loop {
        let (key, after) = rest.split_once('=')?;
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').map_or((after, ""), |(value, rest)| (value, rest)),
        };
        if key.trim().trim_start_matches(',').trim().eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_written_as_in_registries() {
        assert_eq!(digest_of(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn challenges_are_read() {
        let text = r#"realm="https://auth.example/token",service="registry.example", scope="a,b",x=1"#;
        assert_eq!(parameter(text, "realm").unwrap(), "https://auth.example/token");
        assert_eq!(parameter(text, "service").unwrap(), "registry.example");
        assert_eq!(parameter(text, "scope").unwrap(), "a,b");
        assert_eq!(parameter(text, "x").unwrap(), "1");
        assert_eq!(parameter(text, "missing"), None);
    }

    /// A registry that wants a bearer token from its token server, which wants a password; all with TLS.
    #[tokio::test]
    async fn a_token_is_fetched_with_the_password_and_the_password_is_not_shown_to_the_registry() {
        use axum::Router;
        use axum::http::StatusCode;
        use axum::response::IntoResponse;
        use axum::routing::get;

        use crate::lookup::grants::Protocol;
        use crate::lookup::image;
        use crate::lookup::testing::{Pki, clients, endpoint, secret, serve_tls, spec, with_secrets};
        use crate::plan::contract::Value;

        let pki = Pki::new();
        let token = |headers: HeaderMap, uri: Uri| async move {
            let wanted = "service=tests&scope=repository%3Ateam%2Fapp%3Apull";
            let known = headers.get("authorization").is_some_and(|value| value == "Basic YW5uOnNlY3JldA==");
            if known && uri.query() == Some(wanted) {
                (StatusCode::OK, r#"{"token":"t0k"}"#)
            } else {
                (StatusCode::UNAUTHORIZED, "")
            }
        };
        let realm = format!("https://{}/token", serve_tls(Router::new().route("/token", get(token)), &pki).await);
        let manifest = move |headers: HeaderMap| {
            let challenge = format!(r#"Bearer realm="{realm}",service="tests""#);
            async move {
                match headers.get("authorization").and_then(|value| value.to_str().ok()) {
                    Some("Bearer t0k") => "{}".into_response(),
                    Some(other) => (StatusCode::BAD_REQUEST, other.to_owned()).into_response(),
                    None => (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response(),
                }
            }
        };
        let router = Router::new().route("/v2/team/app/manifests/1", get(manifest));
        let authority = serve_tls(router, &pki).await;
        let login = |password| secret(&[("username", "ann"), ("password", password)]);
        let ca = || ("ca", secret(&[("ca.crt", &pki.ca)]));
        let to = endpoint(Protocol::Oci, with_secrets(spec(&format!("oci://{authority}")), true, true));
        let asked = image::Reference::parse(&format!("{authority}/team/app:1")).unwrap();
        let good = clients(&[ca(), ("credentials", login("secret"))]);
        let found = Answer::Found(Value::Digest(digest_of(b"{}")));
        assert_eq!(image::answer(&good, &to, &asked).await, found, "by GET, since HEAD does not say the digest");
        let bad = clients(&[ca(), ("credentials", login("wrong"))]);
        assert!(matches!(image::answer(&bad, &to, &asked).await, Answer::Denied(_)));
    }

    proptest::proptest! {
        #[test]
        fn any_challenge_is_read_without_a_panic(text: String) {
            parameter(&text, "realm");
        }
    }
}
