//! What a request must bring along, with problems that say what is missing.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use bytes::Bytes;
use http::request::Parts;
use http::{StatusCode, header};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::App;
use super::problem::Problem;
use crate::auth::{Identity, Refusal};

/// The longest idempotency key.
const MAX_KEY: usize = 255;

impl FromRequestParts<Arc<App>> for Identity {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        let identified = match token {
            Some(token) if !token.is_empty() => app.auth.identify(token).await,
            _ => Err(Refusal::Missing),
        };
        identified.map_err(|refusal| {
            let status = match refusal {
                Refusal::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                Refusal::Missing | Refusal::Wrong => StatusCode::UNAUTHORIZED,
            };
            Problem::new(status, refusal.to_string())
        })
    }
}

/// An id in a path. One that is none names nothing.
pub(super) struct Id(pub(super) Uuid);

impl FromRequestParts<Arc<App>> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, app).await;
        let id = path.ok().and_then(|Path(text)| text.parse().ok());
        id.map(Self).ok_or_else(Problem::not_found)
    }
}

/// Parameters of a query.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<App>> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let parsed = Query::<T>::from_request_parts(parts, app).await;
        parsed.map(|Query(parameters)| Self(parameters)).map_err(|rejection| {
            let detail = format!("the query is wrong: {}", rejection.body_text());
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
        })
    }
}

/// The header `Idempotency-Key`, if there is one.
pub(super) struct IdempotencyKey(pub(super) Option<String>);

impl FromRequestParts<Arc<App>> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        let key = value.to_str().ok().filter(|key| (1..=MAX_KEY).contains(&key.len()));
        key.map(|key| Self(Some(key.to_owned()))).ok_or_else(|| {
            let detail = format!("must be 1 to {MAX_KEY} visible ASCII characters");
            Problem::field("header Idempotency-Key", detail).status(StatusCode::BAD_REQUEST)
        })
    }
}

/// A body of JSON, with its bytes.
pub(super) struct Json<T> {
    pub(super) value: T,
    pub(super) bytes: Bytes,
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/json") {
            let detail = "send JSON with the header `Content-Type: application/json`";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        let bytes = to_bytes(request.into_body(), app.max_body_bytes).await.map_err(|_| {
            let detail = format!("the body could not be read, or has more than {} bytes", app.max_body_bytes);
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        })?;
        Ok(Self { value: parse(&bytes)?, bytes })
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = error.path().to_string();
        let error = error.into_inner();
        if !error.is_data() {
            return Problem::new(StatusCode::BAD_REQUEST, format!("the body is no JSON: {error}"));
        }
        // the parser quotes what it found, and secrets are not for quoting
        let is_secret = field.starts_with("secrets");
        let detail = if is_secret { "must be a JSON object".to_owned() } else { error.to_string() };
        Problem::field(if field == "." { "body".to_owned() } else { field }, detail)
    })?;
    reader.end().map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the body has something after its JSON"))?;
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::super::view::NewInstance;
    use super::*;

    fn problem(body: &str) -> Problem {
        parse::<NewInstance>(body.as_bytes()).err().unwrap()
    }

    #[test]
    fn a_wrong_body_is_refused_by_its_field() {
        let id = "018f0000-0000-7000-8000-000000000000";
        let field = |body: &str| problem(body).errors.first().map(|error| error.field.clone());
        let wrong = field(&format!(r#"{{"productTemplateVersion": "{id}", "domainName": 1}}"#));
        assert_eq!(wrong.as_deref(), Some("domainName"));
        assert_eq!(field(r#"{"productTemplateVersion": "x"}"#).as_deref(), Some("productTemplateVersion"));
        let missing = problem("{}").errors[0].clone();
        assert!(missing.detail.contains("missing field `productTemplateVersion`"), "{missing:?}");
        assert!(problem(r#"{"domain": "x"}"#).errors[0].detail.contains("unknown field `domain`"));
        assert_eq!(problem("{").status, 400);
        assert_eq!(problem(&format!(r#"{{"productTemplateVersion": "{id}", "domainName": "a.b"}} x"#)).status, 400);
    }

    #[test]
    fn a_wrong_secret_is_not_quoted() {
        let problem = problem(r#"{"secrets": "hunter2"}"#);
        assert_eq!(problem.errors[0].field, "secrets");
        assert!(!serde_json::to_string(&problem).unwrap().contains("hunter2"));
    }
}
