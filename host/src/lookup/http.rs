//! HTTP GET and HEAD.

use std::time::Duration;

use http::{Uri, header};

use super::client::{Clients, Response, failed};
use super::grants::Endpoint;
use crate::plan::contract::{Answer, Value};

/// Of one response body.
const MAX_BODY: usize = 4 << 20;

const DEADLINE: Duration = Duration::from_secs(10);

/// Redirects of one lookup. They are followed within the endpoint only: same host, below its base, an allowed path.
const MAX_REDIRECTS: u32 = 5;

/// Asks for one path.
pub(super) async fn answer(clients: &Clients, endpoint: &Endpoint, head: bool, path: &str) -> Answer {
    match fetch(clients, endpoint, head, path, MAX_BODY, DEADLINE).await {
        Ok(Some(response)) => {
            let kept = [header::CONTENT_TYPE, header::ETAG, header::LAST_MODIFIED];
            let header = |name: &header::HeaderName| {
                let value = response.header(name);
                (!value.is_empty()).then(|| (name.as_str().to_owned(), value.to_owned()))
            };
            let headers = kept.iter().filter_map(header).collect();
            let body = response.body.to_vec();
            Answer::Found(Value::Http { status: response.status.as_u16(), headers, body })
        }
        Ok(None) => Answer::Absent,
        Err(refused) => refused,
    }
}

/// A successful response, none for 404.
pub(super) async fn fetch(
    clients: &Clients,
    endpoint: &Endpoint,
    head: bool,
    path: &str,
    limit: usize,
    deadline: Duration,
) -> Result<Option<Response>, Answer> {
    let client = clients.get(endpoint).await?;
    let mut path = path.to_owned();
    let until = tokio::time::Instant::now() + deadline;
    for _ in 0..=MAX_REDIRECTS {
        let (bare, query) = path.split_once('?').map_or((path.as_str(), None), |(bare, query)| (bare, Some(query)));
        endpoint.allow(bare)?;
        if query.is_some_and(|query| query.len() > 8_192 || !query.chars().all(|c| c.is_ascii_graphic() && c != '#')) {
            return Err(failed("InvalidArgument", format!("{path:?}: the query must be percent-encoded")));
        }
        let uri: Uri = format!("{}{path}", endpoint.url())
            .parse()
            .map_err(|error| failed("InvalidArgument", format!("{path:?}: {error}")))?;
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        let response = client.get(head, uri.clone(), client.authorized(), limit, left).await?;
        let status = response.status;
        match status.as_u16() {
            200..=299 => return Ok(Some(response)),
            404 => return Ok(None),
            301 | 302 | 303 | 307 | 308 => {
                let location = response.header(header::LOCATION);
                path = within(endpoint, &uri, location).ok_or_else(|| {
                    let name = &endpoint.name;
                    let message = format!("{path}: redirects to {location:?}, which is outside of the endpoint {name}");
                    failed(format!("Http{}", status.as_u16()), message)
                })?;
            }
            code => {
                let words = status.canonical_reason().unwrap_or("no success");
                return Err(failed(format!("Http{code}"), format!("{path}: {code} {words}")));
            }
        }
    }
    Err(failed("TooManyRedirects", format!("{path}: more than {MAX_REDIRECTS} redirects")))
}

/// A redirect's path and query below the endpoint, if it stays there.
fn within(endpoint: &Endpoint, from: &Uri, location: &str) -> Option<String> {
    let path_and_query = if location.contains("://") {
        let uri: Uri = location.parse().ok()?;
        let same = uri.authority() == from.authority() && uri.scheme() == from.scheme();
        same.then(|| uri.path_and_query().map_or("/", |path| path.as_str()).to_owned())?
    } else if location.starts_with('/') && !location.starts_with("//") {
        location.to_owned()
    } else if !location.is_empty() && !location.starts_with("//") {
        let (folder, _) = from.path().rsplit_once('/')?;
        format!("{folder}/{location}")
    } else {
        return None;
    };
    let below = path_and_query.strip_prefix(&endpoint.base)?;
    below.starts_with('/').then(|| below.to_owned())
}

#[cfg(test)]
mod tests;
