//! A tree of a git repository, by the `git` program.
//!
//! Why the program and not a library: `docs/decisions/0008-lookups.md`. It runs in an empty folder, without any
//! configuration, hooks, submodules, filters or prompts, and may speak the endpoint's own protocol only.

use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::cache::Cache;
use super::unpack::{Collector, Files, plain_path};
use super::{MAX_BYTES, unpacked};
use crate::lookup::client::{Clients, failed};
use crate::lookup::grants::Endpoint;
use crate::plan::contract::Answer;

/// What git may write into one file, in blocks of 512 bytes: a pack of 256 MiB.
const MAX_FILE_BLOCKS: u64 = (256 << 20) / 512;

/// An archive of what was asked for: its files, and up to 2 KiB for each.
const MAX_ARCHIVE: usize = MAX_BYTES * 3;

/// `reference` is `revision` or `revision:folder`, with `repository@` before it when the endpoint is a folder of
/// repositories; a revision is a whole commit, a tag or a branch. The endpoint's paths are those of repositories then,
/// and else those of folders.
pub(super) async fn fetch(
    cache: &Cache,
    clients: &Clients,
    endpoint: &Endpoint,
    reference: &str,
    collector: Collector,
) -> Result<Option<Files>, Answer> {
    let (revision, folder) = reference.split_once(':').unwrap_or((reference, ""));
    let (repository, revision) = revision.split_once('@').map_or((None, revision), |(at, rest)| (Some(at), rest));
    let folder = match folder.trim_matches('/') {
        "" | "." => String::new(),
        path => plain_path(path.as_bytes()).map_err(|(_, message)| failed("InvalidArgument", message))?,
    };
    if !is_revision(revision) {
        let message = format!("{revision:?} is no revision: it must be a whole commit, a tag or a branch");
        return Err(failed("InvalidArgument", message));
    }
    if let Some(path) = repository.filter(|path| !is_revision(path)) {
        return Err(failed("InvalidArgument", format!("{path:?} is no path of a repository")));
    }
    endpoint.allow(&format!("/{}", repository.unwrap_or(&folder)))?;
    let work = tempfile::tempdir().map_err(|error| failed("Internal", format!("no folder to work in: {error}")))?;
    let git = Git::new(clients, endpoint, repository, work.path()).await?;
    let (commit, name) = match is_commit(revision) {
        true => (revision.to_owned(), revision.to_owned()),
        false => match git.resolve(revision).await? {
            Some(found) => found,
            None => return Ok(None),
        },
    };
    let key = format!("git {} {} {commit} {folder}", endpoint.digest, repository.unwrap_or_default());
    let archive = match cache.get(&key).await {
        Some(archive) => archive,
        None => {
            let Some(archive) = git.archive(&commit, &name, &folder).await? else {
                return Ok(None);
            };
            cache.put(&key, &archive).await;
            archive
        }
    };
    unpacked(collector, reference.to_owned(), archive).await.map(Some)
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
}

/// A name that git takes for nothing else (`git check-ref-format`).
fn is_revision(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._/-+".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with(".lock");
    text.len() <= 256
        && text.chars().all(plain)
        && text.split('/').all(part)
        && !text.contains("..")
        && !text.ends_with('.')
}

struct Git<'a> {
    work: &'a Path,
    url: String,
    scheme: &'static str,
    /// In the environment, where other users cannot read it; arguments can be read by all.
    config: Vec<(String, String)>,
}

impl<'a> Git<'a> {
    async fn new(
        clients: &Clients,
        endpoint: &Endpoint,
        repository: Option<&str>,
        work: &'a Path,
    ) -> Result<Self, Answer> {
        let mut config = vec![("http.followRedirects".to_owned(), "false".to_owned())];
        let (url, scheme) = if endpoint.authority.is_empty() {
            (format!("file://{}", endpoint.base), "file")
        } else {
            let client = clients.get(endpoint).await?;
            if let Some(value) = client.authorized().get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok()) {
                config.push(("http.extraHeader".into(), format!("Authorization: {value}")));
            }
            if let Some(pem) = &client.ca {
                let path = work.join("ca.crt");
                let written = tokio::fs::write(&path, pem).await;
                written.map_err(|error| failed("Internal", format!("no room for the CA: {error}")))?;
                config.push(("http.sslCAInfo".into(), path.display().to_string()));
            }
            (endpoint.url(), if endpoint.plaintext { "http" } else { "https" })
        };
        let url = repository.map_or(url.clone(), |path| format!("{url}/{path}"));
        Ok(Self { work, url, scheme, config })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -f "$0" && exec git "$@""#, &MAX_FILE_BLOCKS.to_string()]).args(arguments);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.work);
        command.envs([
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ALLOW_PROTOCOL", self.scheme),
            ("GIT_DIR", "repository"),
            ("LC_ALL", "C"),
        ]);
        command.env("GIT_CONFIG_COUNT", self.config.len().to_string());
        for (i, (key, value)) in self.config.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{i}"), key).env(format!("GIT_CONFIG_VALUE_{i}"), value);
        }
        command.current_dir(self.work).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    /// Output of at most `limit` bytes; the words on failure.
    async fn run(&self, arguments: &[&str], limit: usize) -> Result<Result<Vec<u8>, String>, Answer> {
        let broken = |error: std::io::Error| failed("GitUnavailable", format!("git cannot be run: {error}"));
        let mut child = self.command(arguments).spawn().map_err(broken)?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed("Internal", "git has no output"));
        };
        let (mut output, mut words) = (Vec::new(), Vec::new());
        let mut stdout = stdout.take(limit as u64 + 1);
        let mut stderr = stderr.take(8 << 10);
        let (read, _) = tokio::join!(stdout.read_to_end(&mut output), stderr.read_to_end(&mut words));
        read.map_err(broken)?;
        if output.len() > limit {
            return Err(failed("TooLarge", format!("{}: more than {limit} bytes", self.url)));
        }
        let status = child.wait().await.map_err(broken)?;
        if status.code() == Some(127) {
            return Err(failed(
                "GitUnavailable",
                "the host has no git program: git endpoints need one beside the host",
            ));
        }
        let words = String::from_utf8_lossy(&words).split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(if status.success() { Ok(output) } else { Err(words) })
    }

    /// The commit of a tag or branch, and its whole name.
    async fn resolve(&self, revision: &str) -> Result<Option<(String, String)>, Answer> {
        let (tag, branch) = (format!("refs/tags/{revision}"), format!("refs/heads/{revision}"));
        let peeled = format!("{tag}^{{}}");
        let listed = self.run(&["ls-remote", "--", &self.url, &tag, &peeled, &branch], 1 << 20).await?;
        let listed = listed.map_err(|words| failed("Unavailable", format!("{}: {words}", self.url)))?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let find = |name: &str| {
            let mut lines = listed.lines().filter_map(|line| line.split_once('\t'));
            lines.find(|(commit, at)| *at == name && is_commit(commit)).map(|(commit, _)| commit.to_owned())
        };
        // an annotated tag is an object of its own; what it points to is listed as peeled
        let found = find(&peeled).or_else(|| find(&tag)).map(|commit| (commit, tag.clone()));
        Ok(found.or_else(|| find(&branch).map(|commit| (commit, branch.clone()))))
    }

    /// A tar of a folder at a commit; none when there is no such folder.
    async fn archive(&self, commit: &str, name: &str, folder: &str) -> Result<Option<Vec<u8>>, Answer> {
        let unavailable = |words: String| failed("Unavailable", format!("{}: {words}", self.url));
        self.run(&["init", "--quiet", "--bare", "repository"], 4 << 10).await?.map_err(unavailable)?;
        let fetch = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", &self.url, name];
        self.run(&fetch, 64 << 10).await?.map_err(unavailable)?;
        let tree = format!("{commit}:{folder}");
        let archived = self.run(&["archive", "--format=tar", &tree], MAX_ARCHIVE).await?;
        match archived {
            Ok(archive) => Ok(Some(archive)),
            // moved on between the two requests
            Err(_) if self.run(&["cat-file", "-e", commit], 4 << 10).await?.is_err() => {
                Err(failed("Unavailable", format!("{}: {name} has just moved on", self.url)))
            }
            Err(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
