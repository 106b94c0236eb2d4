//! Charts: fetched, and checked to be the bytes that a template names.

use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use transom_engines::content::{self, Handle};
use transom_engines::helm::Chart;
use transom_sdk::prelude::*;
use transom_sdk::{Answer, File, Problem, Stop};

use crate::spec::{ChartSource, ChartStatus, Location};

/// Endpoints of the `Plugin` record.
pub(crate) const OCI: &str = "oci";
pub(crate) const HTTP: &str = "http";
pub(crate) const FOLDER: &str = "folder";

/// What has a digest does not change.
const FOR_GOOD: Duration = Duration::from_secs(30 * 24 * 3600);

/// A folder may.
const A_WHILE: Duration = Duration::from_secs(60);

/// A chart and what it is.
#[derive(Clone)]
pub(crate) struct Fetched {
    pub(crate) chart: Chart,
    /// `sha256:…`
    pub(crate) digest: String,
}

/// Fetches a chart; `digest` is that of the source when there is none here. `field` is the path of the source, for
/// messages.
pub(crate) fn fetch(cx: &Context, source: &ChartSource, digest: Option<&str>, field: &str) -> Result<Fetched, Stop> {
    let wanted = digest.or(source.digest.as_deref());
    let missing = || Problem::new("InvalidChart", format!("{field}.digest must be set: sha256:…"));
    match source {
        ChartSource { oci: Some(oci), http: None, folder: None, .. } => {
            let digest = wanted.ok_or_else(missing)?;
            let at = format!("{}@{digest}", repository(&oci.reference));
            // files go to the engine, not through the plugin, but for the one that is read here
            let include = ["*/Chart.yaml", content::ALL_BY_HANDLE];
            let files = cx.artifact(endpoint(oci, OCI), &at, &include, FOR_GOOD)?;
            let files = found(files, &format!("{field}.oci"), &at)?;
            let files = files.into_iter().filter_map(below_the_top).collect();
            Ok(Fetched { chart: Chart::Files(files), digest: digest.into() })
        }
        ChartSource { oci: None, http: Some(http), folder: None, .. } => {
            let wanted = wanted.ok_or_else(missing)?;
            let path = format!("/{}", http.reference.trim_start_matches('/'));
            let response = cx.http_get(endpoint(http, HTTP), &path, FOR_GOOD)?;
            let response = found(response, &format!("{field}.http"), &path)?;
            if response.status != 200 {
                let message =
                    format!("{field}.http.reference: {path} is answered with HTTP status {}", response.status);
                return Err(Problem::passing("ChartUnavailable", message).into());
            }
            let digest = sha256(&response.body);
            same(field, wanted, &digest)?;
            Ok(Fetched { chart: Chart::Archive(response.body), digest })
        }
        ChartSource { oci: None, http: None, folder: Some(folder), .. } => {
            let include = ["Chart.yaml", content::ALL_BY_HANDLE];
            let files = cx.artifact(endpoint(folder, FOLDER), &folder.reference, &include, A_WHILE)?;
            let files = found(files, &format!("{field}.folder"), &folder.reference)?;
            let digest = folder_digest(&files);
            if let Some(wanted) = wanted {
                same(field, wanted, &digest)?;
            }
            let files = files.into_iter().map(|File { path, content }| (path, content)).collect();
            Ok(Fetched { chart: Chart::Files(files), digest })
        }
        _ => Err(Problem::new("InvalidChart", format!("{field} must have one of oci, http and folder")).into()),
    }
}

/// The digest that a source is known to have without being fetched.
pub(crate) fn known_digest(source: &ChartSource) -> Option<&str> {
    source.digest.as_deref()
}

fn endpoint<'a>(location: &'a Location, default: &'a str) -> &'a str {
    location.endpoint.as_deref().unwrap_or(default)
}

/// Without tag and digest.
fn repository(reference: &str) -> &str {
    let reference = reference.split('@').next().unwrap_or(reference);
    let name = reference.rfind('/').map_or(0, |slash| slash + 1);
    let colon = reference.get(name..).and_then(|name| name.find(':'));
    colon.and_then(|colon| reference.get(..name + colon)).unwrap_or(reference)
}

fn found<T>(answer: Answer<T>, field: &str, what: &str) -> Result<T, Problem> {
    match answer {
        Answer::Found(value) => Ok(value),
        Answer::Absent => Err(Problem::new("ChartNotFound", format!("{field}.reference: there is no {what}"))),
        Answer::Denied(message) => Err(Problem::passing("ChartDenied", format!("{field}: {message}"))),
        Answer::Failed { reason, message } => {
            Err(Problem::passing("ChartUnavailable", format!("{field}: {reason}: {message}")))
        }
        _ => Err(Problem::passing("ChartUnavailable", format!("{field}: an answer that this plugin does not know"))),
    }
}

fn same(field: &str, wanted: &str, digest: &str) -> Result<(), Problem> {
    if wanted == digest {
        return Ok(());
    }
    let message = format!("{field}.digest is {wanted}, but what is there has {digest}: set it, or put the chart back");
    Err(Problem::new("DigestMismatch", message))
}

/// A packaged chart is one folder.
fn below_the_top(file: File) -> Option<(String, Vec<u8>)> {
    let (_, path) = file.path.split_once('/')?;
    Some((path.to_owned(), file.content))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of what `sha256sum` prints for the files, sorted by path.
fn folder_digest(files: &[File]) -> String {
    let digest =
        |content: &[u8]| Handle::parse(content).map_or_else(|| hex(content), |handle| handle.sha256.to_owned());
    let mut lines: Vec<(&str, String)> = files.iter().map(|file| (file.path.as_str(), digest(&file.content))).collect();
    lines.sort_unstable();
    let text: String = lines.iter().map(|(path, digest)| format!("{digest}  {path}\n")).collect();
    sha256(text.as_bytes())
}

/// Name and version, as far as they stand in a `Chart.yaml` that was unpacked, on lines of their own.
pub(crate) fn about(chart: &Chart) -> Option<ChartStatus> {
    #[derive(Deserialize)]
    struct About {
        name: String,
        version: String,
    }
    let Chart::Files(files) = chart else { return None };
    let (_, text) = files.iter().find(|(path, _)| path == "Chart.yaml")?;
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(About { name, version }) = serde_json::from_str(text) {
        return Some(ChartStatus { name, version });
    }
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let value = value.split(" #").next().unwrap_or(value).trim();
        Some(value.trim_matches(['"', '\'']).to_owned())
    };
    Some(ChartStatus { name: field("name")?, version: field("version")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i2_what_is_taken_from_a_registry_is_the_digest() {
        let cases = [("charts/shop:1.2.0", "charts/shop"), ("shop", "shop"), ("a/b@sha256:0", "a/b"), (":1.0", "")];
        for (reference, expected) in cases {
            assert_eq!(repository(reference), expected, "{reference}");
        }
    }

    #[test]
    fn i2_the_digest_of_a_folder_is_that_of_its_sums() {
        let file = |path: &str, text: &str| File { path: path.into(), content: text.as_bytes().to_vec() };
        // printf 'a' > b; printf 'b' > a/c; find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum
        let digest = folder_digest(&[file("b", "a"), file("a/c", "b")]);
        assert_eq!(digest, "sha256:05b814f24784545d7cac7318ecdfceaa2c463181bf5cdb710ecfd28a2ec231f9");
        assert_eq!(digest, folder_digest(&[file("a/c", "b"), file("b", "a")]));
    }
}
