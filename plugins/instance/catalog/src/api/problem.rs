use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;

use crate::database;

/// Why a request was not carried out, as of RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Problem {
    /// The status code.
    pub status: u16,
    /// What the status code means.
    pub title: String,
    /// What went wrong and what to do.
    pub detail: String,
    /// The fields that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub errors: Vec<FieldError>,
}

/// A field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FieldError {
    /// Its path, such as `chart.digest`.
    pub field: String,
    /// What it must be.
    pub detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Problem").to_owned();
        Self { status: status.as_u16(), title, detail: detail.into(), errors: Vec::new() }
    }

    /// A field that does not say what it must.
    pub(crate) fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "a field is wrong");
        problem.errors.push(FieldError { field: field.into(), detail: detail.into() });
        problem
    }

    /// With another status.
    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.status = status.as_u16();
        self.title = status.canonical_reason().unwrap_or("Problem").to_owned();
        self
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is nothing with this id, or it is not yours")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            }
            _ => {}
        }
        response
    }
}

impl From<database::Error> for Problem {
    fn from(error: database::Error) -> Self {
        match error.constraint() {
            Some("deployment_instance_template") => {
                return Self::field("productTemplateVersion", "must be the id of a template version that exists");
            }
            Some("deployment_instance_namespace") => return taken("namespace"),
            Some("deployment_instance_domain_name") => return taken("domainName"),
            _ => {}
        }
        let is_transient = error.is_transient();
        tracing::warn!(error = crate::telemetry::chain(&error), "a request failed at the database");
        match is_transient {
            true => Self::new(StatusCode::SERVICE_UNAVAILABLE, "the database cannot be reached: try again"),
            false => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the database refused: see the log of the catalog"),
        }
    }
}

impl From<tokio_postgres::Error> for Problem {
    fn from(error: tokio_postgres::Error) -> Self {
        database::Error::from(error).into()
    }
}

fn taken(field: &str) -> Problem {
    Problem::field(field, "another instance has it: choose another").status(StatusCode::CONFLICT)
}
