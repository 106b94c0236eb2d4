//! The HTTP API.

mod check;
mod command;
pub mod openapi;
mod problem;
mod request;
pub mod view;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use tokio::time::Instant;

use crate::auth::{Auth, Identity};
use crate::database::{Database, store};
use crate::metrics::metrics;
use crate::seal::Keyring;
use command::{Command, Once};
use request::{Id, IdempotencyKey, Json, Parameters};
use view::{InstanceView, NewInstance, NewTemplateVersion, Page, PageQuery, TemplateVersionView, Upgrade};

pub use problem::{FieldError, Problem};

/// The longest that a request is worked on; longer, its transaction is given up.
const DEADLINE: Duration = Duration::from_secs(30);

/// What all requests share.
pub struct App {
    /// Where everything is kept.
    pub database: Database,
    /// Seals secrets.
    pub keyring: Arc<Keyring>,
    /// Knows who asks.
    pub auth: Auth,
    /// Not only administrators may upgrade instances, but their owners, too.
    pub users_may_upgrade: bool,
    /// The largest body that is read.
    pub max_body_bytes: usize,
}

/// What is served.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/openapi.json", get(async || axum::Json(openapi::document())))
        .route("/template-versions", get(list_templates).post(create_template))
        .route("/template-versions/{id}", get(get_template))
        .route("/instances", get(list_instances).post(create_instance))
        .route("/instances/{id}", get(get_instance).delete(delete_instance))
        .route("/instances/{id}/upgrade", post(upgrade_instance))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is no such path: see /openapi.json"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path has other methods: see /openapi.json")
        })
        .layer(from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

/// Counts, and bounds the time. The log has neither queries nor bodies.
async fn observe(State(_): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let path = request.extensions().get::<MatchedPath>().map_or("none", |path| path.as_str()).to_owned();
    let method = request.method().clone();
    let answered = tokio::time::timeout(DEADLINE, next.run(request)).await;
    let response = answered.unwrap_or_else(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "it took too long: try again").into_response()
    });
    let code = response.status();
    metrics().request(operation(&method, &path), code.as_u16(), started.elapsed());
    tracing::debug!(%method, path, code = code.as_u16(), "request");
    response
}

/// One of a closed set, for metrics.
fn operation(method: &Method, path: &str) -> &'static str {
    let known = openapi::OPERATIONS.iter().find(|known| known.method == *method && known.path == path);
    known.map_or("other", |known| known.id)
}

async fn create_template(
    State(app): State<Arc<App>>,
    identity: Identity,
    IdempotencyKey(key): IdempotencyKey,
    body: Json<NewTemplateVersion>,
) -> Result<Response, Problem> {
    admin(&identity)?;
    let path = "/template-versions";
    let once = Once::new(key, &Method::POST, path, &body.bytes);
    done(path, command::run(&app, &identity, once, Command::CreateTemplate(body.value)).await?)
}

async fn create_instance(
    State(app): State<Arc<App>>,
    identity: Identity,
    IdempotencyKey(key): IdempotencyKey,
    body: Json<NewInstance>,
) -> Result<Response, Problem> {
    let path = "/instances";
    let once = Once::new(key, &Method::POST, path, &body.bytes);
    done(path, command::run(&app, &identity, once, Command::CreateInstance(body.value)).await?)
}

async fn upgrade_instance(
    State(app): State<Arc<App>>,
    identity: Identity,
    IdempotencyKey(key): IdempotencyKey,
    Id(id): Id,
    uri: Uri,
    body: Json<Upgrade>,
) -> Result<Response, Problem> {
    let once = Once::new(key, &Method::POST, uri.path(), &body.bytes);
    done("/instances", command::run(&app, &identity, once, Command::Upgrade(id, body.value)).await?)
}

async fn delete_instance(State(app): State<Arc<App>>, identity: Identity, Id(id): Id) -> Result<Response, Problem> {
    // deleting once more is the same anyway
    let once = Once::new(None, &Method::DELETE, "", &Bytes::new());
    done("/instances", command::run(&app, &identity, once, Command::Delete(id)).await?)
}

async fn get_template(
    State(app): State<Arc<App>>,
    identity: Identity,
    Id(id): Id,
) -> Result<axum::Json<TemplateVersionView>, Problem> {
    admin(&identity)?;
    let client = app.database.get().await?;
    let row = store::template(&**client, id).await?;
    row.map(|row| axum::Json(row.into())).ok_or_else(Problem::not_found)
}

async fn list_templates(
    State(app): State<Arc<App>>,
    identity: Identity,
    Parameters(query): Parameters<PageQuery>,
) -> Result<axum::Json<Page<TemplateVersionView>>, Problem> {
    admin(&identity)?;
    let limit = limit(&query)?;
    let client = app.database.get().await?;
    let rows = store::templates(&**client, query.after.unwrap_or_default(), limit + 1).await?;
    Ok(axum::Json(page(rows.into_iter().map(TemplateVersionView::from), limit, |item| item.id)))
}

async fn get_instance(
    State(app): State<Arc<App>>,
    identity: Identity,
    Id(id): Id,
) -> Result<axum::Json<InstanceView>, Problem> {
    let client = app.database.get().await?;
    let row = store::instance(&**client, id).await?.filter(|row| row.gone_at.is_none());
    Ok(axum::Json(owned(row, &identity)?.into()))
}

async fn list_instances(
    State(app): State<Arc<App>>,
    identity: Identity,
    Parameters(query): Parameters<PageQuery>,
) -> Result<axum::Json<Page<InstanceView>>, Problem> {
    let limit = limit(&query)?;
    let user = (!identity.is_admin).then_some(identity.subject.as_str());
    let client = app.database.get().await?;
    let rows = store::instances(&**client, user, query.after.unwrap_or_default(), limit + 1).await?;
    Ok(axum::Json(page(rows.into_iter().map(InstanceView::from), limit, |item| item.id)))
}

fn admin(identity: &Identity) -> Result<(), Problem> {
    match identity.is_admin {
        true => Ok(()),
        false => Err(Problem::new(StatusCode::FORBIDDEN, "only administrators may do this")),
    }
}

/// What others have is not there.
fn owned(row: Option<store::Instance>, identity: &Identity) -> Result<store::Instance, Problem> {
    row.filter(|row| identity.is_admin || row.user_id == identity.subject).ok_or_else(Problem::not_found)
}

fn limit(query: &PageQuery) -> Result<i64, Problem> {
    match (1..=200).contains(&query.limit) {
        true => Ok(query.limit),
        false => Err(Problem::field("limit", "must be 1 to 200")),
    }
}

/// Of one row more than a page has, if there are more pages.
fn page<T>(rows: impl Iterator<Item = T>, limit: i64, id: impl Fn(&T) -> uuid::Uuid) -> Page<T> {
    let mut items: Vec<T> = rows.collect();
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().map(id).filter(|_| has_more);
    Page { items, next }
}

fn done(collection: &str, done: command::Done) -> Result<Response, Problem> {
    let location = done.body.get("id").and_then(serde_json::Value::as_str).map(|id| format!("{collection}/{id}"));
    let mut response = (done.status, axum::Json(done.body)).into_response();
    let headers = response.headers_mut();
    if let Some(location) = location.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(header::LOCATION, location);
    }
    if done.is_replay {
        headers.insert(HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true"));
    }
    Ok(response)
}
