//! Writing to a registry: for the command line, never for a plugin.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, header};

use super::{Ask, MAX_TOKEN, Repository, digest_of};
use crate::control::cluster::encode;
use crate::lookup::client::failed;
use crate::plan::contract::Answer;

/// A whole blob over a slow line.
const DEADLINE: Duration = Duration::from_secs(300);

impl Repository<'_> {
    /// Pushes a blob unless the registry has it. Returns its digest.
    pub(crate) async fn push_blob(&self, content: Bytes) -> Result<String, Answer> {
        let digest = digest_of(&content);
        if self.ask(true, &self.url("blobs", &digest), 0).await?.is_some() {
            return Ok(digest);
        }
        let base = self.url("blobs", "uploads/");
        let missing = || failed("Unavailable", format!("{}: the registry takes no uploads", self.name));
        let started = Ask { method: Method::POST, url: &base, body: None, limit: 0, deadline: DEADLINE };
        let started = self.exchange(&started).await?.ok_or_else(missing)?;
        let location = started.header(header::LOCATION);
        let root = base.split("/v2/").next().unwrap_or_default();
        let location = if location.starts_with('/') { format!("{root}{location}") } else { location.to_owned() };
        // the password goes with the upload, so the upload goes where the password belongs
        if !location.starts_with(&format!("{root}/")) {
            let message = format!("{}: the registry wants the upload to go elsewhere: {location}", self.name);
            return Err(failed("Unavailable", message));
        }
        let glue = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{glue}digest={}", encode(&digest));
        let body = Some((content, "application/octet-stream"));
        let put = Ask { method: Method::PUT, url: &url, body, limit: 0, deadline: DEADLINE };
        self.exchange(&put).await?.ok_or_else(missing)?;
        Ok(digest)
    }

    /// Pushes a manifest under a tag or its own digest. Returns whether the registry has noted its subject, if it names
    /// one; otherwise that is the client's to do.
    pub(crate) async fn push_manifest(&self, reference: &str, kind: &str, manifest: Bytes) -> Result<bool, Answer> {
        let url = self.url("manifests", reference);
        let body = Some((manifest, kind));
        let put = Ask { method: Method::PUT, url: &url, body, limit: MAX_TOKEN, deadline: DEADLINE };
        let missing = || failed("NotFound", format!("{}: the registry knows no such repository", self.name));
        let response = self.exchange(&put).await?.ok_or_else(missing)?;
        Ok(!response.header("oci-subject").is_empty())
    }
}
