//! Components from a web server.

use std::time::Duration;

use http::{HeaderMap, Uri, header};

use super::{MAX_COMPONENT_BYTES, MAX_SIGNATURE_BYTES, SourceError, refuse, refused, unpack};
use crate::api::plugin::HttpSource;
use crate::lookup::client::{Clients, Response};
use crate::lookup::grants::{Endpoint, Protocol};

/// A component of 18 MB over a line of 2 Mbit/s takes 72 s.
const DEADLINE: Duration = Duration::from_secs(120);

/// Of one file: release pages redirect to storage, twice at most.
const MAX_REDIRECTS: u32 = 5;

const UNAVAILABLE: &str = "Unavailable";

/// The component, and its signature when it is wanted and there.
pub(super) async fn fetch(
    clients: &Clients,
    field: &str,
    source: &HttpSource,
    with_signature: bool,
) -> Result<(Vec<u8>, Option<Vec<u8>>), SourceError> {
    let field = &format!("{field}.source.http");
    let (uri, endpoint) = parse(field, source)?;
    let Some(response) = get(clients, &endpoint, uri.clone(), MAX_COMPONENT_BYTES).await? else {
        return refuse("NotFound", format!("{field}.url {}: the server has no such file (404)", source.url));
    };
    let wasm = unpack(response.body.to_vec(), &source.url)?;
    if !with_signature {
        return Ok((wasm, None));
    }
    let signature = get(clients, &endpoint, beside(&uri)?, MAX_SIGNATURE_BYTES).await?;
    Ok((wasm, signature.map(|response| response.body.to_vec())))
}

fn parse(field: &str, source: &HttpSource) -> Result<(Uri, Endpoint), SourceError> {
    let wrong = |what: &str| SourceError { reason: "InvalidSource", message: format!("{field}.url {what}") };
    let uri: Uri = source.url.parse().map_err(|error| wrong(&format!("{:?}: {error}", source.url)))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong("must look like https://host/path"));
    };
    match (scheme, source.plaintext) {
        ("https", false) | ("http", true) => {}
        ("https", true) => return Err(wrong("is with TLS: use http://, or leave plaintext out")),
        ("http", false) => return Err(wrong("is without TLS: use https://, or say plaintext: true")),
        _ => return Err(wrong("must look like https://host/path")),
    }
    if authority.as_str().contains('@') {
        return Err(wrong("must not hold credentials: put them in a Secret and name it under credentials"));
    }
    let secrets = (source.credentials.as_ref(), source.ca.as_ref());
    let endpoint = Endpoint::source(field, Protocol::Http, authority.as_str(), source.plaintext, secrets)
        .map_err(|message| SourceError { reason: "InvalidSource", message })?;
    Ok((uri, endpoint))
}

/// The same path with `.sig`.
fn beside(uri: &Uri) -> Result<Uri, SourceError> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("{}.sig{query}", uri.path());
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = path.parse().ok();
    Uri::from_parts(parts).or_else(|error| refuse("InvalidSource", format!("{uri}: {error}")))
}

/// A file, none for 404. What the record's digest pins may come from where the server redirects to; its credentials stay.
async fn get(clients: &Clients, endpoint: &Endpoint, from: Uri, limit: usize) -> Result<Option<Response>, SourceError> {
    let client = clients.get(endpoint).await.map_err(|answer| refused(answer, UNAVAILABLE))?;
    let mut uri = from.clone();
    for _ in 0..=MAX_REDIRECTS {
        let is_home = uri.authority() == from.authority() && uri.scheme() == from.scheme();
        let headers = if is_home { client.authorized() } else { HeaderMap::new() };
        let response = client.get(false, uri.clone(), headers, limit, DEADLINE).await;
        let response = response.map_err(|answer| refused(answer, UNAVAILABLE))?;
        match response.status.as_u16() {
            200 => return Ok(Some(response)),
            404 => return Ok(None),
            code @ (401 | 403) => {
                let who = if client.credentials.is_some() { "these credentials" } else { "anonymous users" };
                let field = &endpoint.field;
                return refuse(
                    "Unauthorized",
                    format!("{uri}: the server refuses {who} ({code}): check {field}.credentials"),
                );
            }
            301 | 302 | 303 | 307 | 308 => uri = redirected(&uri, response.header(header::LOCATION))?,
            code => return refuse(UNAVAILABLE, format!("{uri}: the server answers {code}")),
        }
    }
    refuse(UNAVAILABLE, format!("{from}: more than {MAX_REDIRECTS} redirects"))
}

/// Where a redirect leads: never from TLS to plain text.
fn redirected(from: &Uri, location: &str) -> Result<Uri, SourceError> {
    let (scheme, authority) = (from.scheme_str().unwrap_or("https"), from.authority().map_or("", |a| a.as_str()));
    let text = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let wrong = || SourceError { reason: UNAVAILABLE, message: format!("{from}: redirects to {location:?}") };
    let to: Uri = text.parse().map_err(|_| wrong())?;
    let is_safe = match to.scheme_str() {
        Some("https") => true,
        Some("http") => scheme == "http",
        _ => false,
    };
    if !is_safe || to.authority().is_none_or(|authority| authority.as_str().contains('@')) {
        return Err(wrong());
    }
    Ok(to)
}

#[cfg(test)]
mod tests;
