//! Files from an OCI artifact, an HTTP archive, a git tree or a folder.
//!
//! Nothing is ever written to where a path in an archive points: files are read into memory, within bounds. What has a
//! digest (layers of an artifact, a git commit) is fetched once and kept on disk.

mod cache;
mod folder;
mod git;
mod oci;
mod unpack;

use std::path::PathBuf;
use std::time::Duration;

use super::client::{Clients, failed};
use super::content::{Contents, Include};
use super::grants::{Endpoint, Protocol};
use super::http;
use crate::plan::contract::Answer;

use cache::Cache;
use unpack::{Collector, Files};

/// Unpacked, and as sent.
const MAX_BYTES: usize = 16 << 20;

const MAX_FILES: usize = 10_000;

/// A whole artifact, however it comes.
const DEADLINE: Duration = Duration::from_secs(60);

/// Globs of one lookup, and the length of one.
const MAX_GLOBS: usize = 256;
const MAX_GLOB: usize = 1_024;

/// Fetches and keeps artifacts.
pub(super) struct Artifacts {
    cache: Cache,
    /// Of files that plugins get by handle.
    pub(super) contents: Contents,
}

impl Artifacts {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { cache: Cache::new(dir), contents: Contents::default() }
    }

    /// The files of an artifact that match one of the globs; see [`super::content`] for those that come by handle.
    pub(super) async fn answer(
        &self,
        clients: &Clients,
        endpoint: &Endpoint,
        reference: &str,
        include: &[String],
    ) -> Answer {
        if include.len() > MAX_GLOBS || include.iter().any(|glob| glob.len() > MAX_GLOB) {
            let message = format!("more than {MAX_GLOBS} globs, or one of more than {MAX_GLOB} characters");
            return failed("InvalidArgument", message);
        }
        let include = Include::new(include);
        let globs = include.globs();
        let files = tokio::time::timeout(DEADLINE, self.fetch(clients, endpoint, reference, &globs)).await;
        match files {
            Ok(Ok(Some(files))) => Answer::Found(self.contents.hand_out(&include, files)),
            Ok(Ok(None)) => Answer::Absent,
            Ok(Err(refused)) => refused,
            Err(_) => failed("DeadlineExceeded", format!("{reference}: not there within {DEADLINE:?}")),
        }
    }

    async fn fetch(
        &self,
        clients: &Clients,
        endpoint: &Endpoint,
        reference: &str,
        include: &[String],
    ) -> Result<Option<Files>, Answer> {
        let collector = Collector::new(include);
        match endpoint.protocol {
            Protocol::Oci => oci::fetch(&self.cache, clients, endpoint, reference, collector).await,
            Protocol::Http => {
                let path = format!("/{}", reference.trim_start_matches('/'));
                let Some(response) = http::fetch(clients, endpoint, false, &path, MAX_BYTES, DEADLINE).await? else {
                    return Ok(None);
                };
                unpacked(collector, reference.to_owned(), response.body.to_vec()).await.map(Some)
            }
            Protocol::Git => git::fetch(&self.cache, clients, endpoint, reference, collector).await,
            Protocol::Folder => folder::fetch(endpoint, reference, collector).await,
            Protocol::Grpc => Err(failed("InvalidArgument", "gRPC serves no files")),
        }
    }
}

/// The files of a tar or tar.gz, off the async threads.
async fn unpacked(mut collector: Collector, what: String, bytes: Vec<u8>) -> Result<Files, Answer> {
    blocking(move || {
        collector.archive(&bytes).map_err(|(reason, message)| failed(reason, format!("{what}: {message}")))?;
        Ok(collector.files)
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Answer> + Send + 'static) -> Result<T, Answer> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(failed("Internal", "reading the files broke off")))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use axum::Router;
    use axum::routing::get;

    use super::*;
    use crate::lookup::testing::{clients, endpoint, serve, spec};
    use crate::plan::contract::Value;

    #[tokio::test]
    async fn files_come_from_an_archive_over_http() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        tar.append_data(&mut header, "chart/a.yaml", b"one".as_slice()).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar.into_inner().unwrap()).unwrap();
        let bytes = gzip.finish().unwrap();
        let router = Router::new()
            .route("/charts/a.tgz", get(move || async move { bytes }))
            .route("/charts/text", get(|| async { "no archive" }));
        let to = endpoint(Protocol::Http, spec(&format!("http://{}/charts", serve(router).await)));
        let (dir, clients) = (tempfile::tempdir().unwrap(), clients(&[]));
        let artifacts = Artifacts::new(dir.path().to_owned());
        let ask = async |reference: &str, include: &[String]| artifacts.answer(&clients, &to, reference, include).await;
        let found = Answer::Found(Value::Files(vec![("chart/a.yaml".into(), b"one".to_vec())]));
        assert_eq!(ask("a.tgz", &[]).await, found);
        assert_eq!(ask("/a.tgz", &["*.yaml".into()]).await, Answer::Found(Value::Files(vec![])));
        assert_eq!(ask("missing.tgz", &[]).await, Answer::Absent);
        assert!(matches!(ask("text", &[]).await, Answer::Failed(p) if p.reason == "Unreadable"));
        let many = vec!["*".to_owned(); MAX_GLOBS + 1];
        assert!(matches!(ask("a.tgz", &many).await, Answer::Failed(p) if p.reason == "InvalidArgument"));
    }
}
