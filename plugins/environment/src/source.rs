//! Git repositories: which one is meant, at which commit, and the files in it.

use std::time::Duration;

use transom_sdk::prelude::*;
use transom_sdk::{Answer, File};

use crate::Config;
use crate::project::Project;
use crate::report::{Problem, Step, Stop, of_spec, transient};
use crate::spec::Environment;

/// A commit never changes; whoever loses its files for a day fetches them again.
const COMMIT_AGE: Duration = Duration::from_secs(86_400);
/// How old a branch may be.
const BRANCH_AGE: Duration = Duration::from_secs(60);

/// A source at the state that an Environment wants.
#[derive(Debug, Clone)]
pub(crate) struct Checkout<'a> {
    pub(crate) name: &'a str,
    pub(crate) url: &'a str,
    /// A commit, whole or not, or a branch.
    pub(crate) revision: &'a str,
    /// Whether `revision` is a commit.
    pub(crate) is_commit: bool,
}

/// The source of this name; the Project's first one when it is empty.
pub(crate) fn checkout<'a>(
    environment: &'a Environment,
    project: &'a Project,
    name: &str,
    step: Step,
) -> Result<Checkout<'a>, Problem> {
    let found = if name.is_empty() { project.spec.sources.first() } else { project.source(name) };
    let Some(source) = found else {
        let message = format!("Project {}: spec.sources has no source {name:?}: add it", project.name());
        return Err(of_spec(step, "SourceMissing", message));
    };
    let wanted = environment.source(&source.name);
    let commit = wanted.map_or("", |wanted| wanted.commit_sha.as_str());
    let branch = wanted.map_or("", |wanted| wanted.branch.as_str());
    let field = format!("spec.sources[{}]", source.name);
    if !matches!(commit, "" | "HEAD") {
        let hexadecimal = commit.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !hexadecimal || commit.len() < 7 {
            let message = format!("{field}.commitSha: {commit:?} is no commit: it must be 40 (or 64) of 0-9 and a-f");
            return Err(of_spec(step, "InvalidCommit", message));
        }
        return Ok(Checkout { name: &source.name, url: &source.repository_url, revision: commit, is_commit: true });
    }
    let revision = [branch, source.branch.as_str()].into_iter().find(|branch| !branch.is_empty());
    let Some(revision) = revision else {
        let message = format!("{field}: names no commit and no branch, nor does the Project: set {field}.commitSha");
        return Err(of_spec(step, "InvalidCommit", message));
    };
    Ok(Checkout { name: &source.name, url: &source.repository_url, revision, is_commit: false })
}

impl Checkout<'_> {
    /// Files below `folder` that match one of the globs (none: all), with paths from there.
    pub(crate) fn files(
        &self,
        cx: &Context,
        config: &Config,
        project: &Project,
        folder: &str,
        include: &[&str],
    ) -> Result<Vec<File>, Stop> {
        let (endpoint, repository) = self.endpoint(config, project)?;
        let folder = folder.trim_matches('/');
        let reference = match folder {
            "" | "." => format!("{repository}@{}", self.revision),
            folder => format!("{repository}@{}:{folder}", self.revision),
        };
        let field = format!("spec.sources[{}]", self.name);
        let stop = |reason: &str, message: String| Stop::Problem(transient(Step::Deployment, reason, message));
        let age = if self.is_commit { COMMIT_AGE } else { BRANCH_AGE };
        match cx.artifact(endpoint, &reference, include, age)? {
            Answer::Found(files) => Ok(files),
            Answer::Absent => {
                let what = if folder.is_empty() { String::new() } else { format!(", or no folder {folder} in it") };
                let url = self.url;
                let message = format!(
                    "{field}: {url} has no commit, tag or branch {:?}{what}: commitSha must be a whole commit, and the \
                     template's path a folder of the repository",
                    self.revision
                );
                Err(of_spec(Step::Deployment, "SourceNotFound", message).into())
            }
            Answer::Denied(message) => Err(stop("SourceNotGranted", format!("{field}: {message}"))),
            Answer::Failed { reason, message } => {
                let (url, revision) = (self.url, self.revision);
                let message = format!(
                    "{field}: cannot read {url} at {revision}: {reason}: {message}; it is tried again, and commitSha must \
                     be a commit of it"
                );
                Err(stop("SourceUnavailable", message))
            }
            _ => Err(Failure::internal("an answer that this version does not know").into()),
        }
    }

    /// The endpoint that the repository is below, and where.
    fn endpoint(&self, config: &Config, project: &Project) -> Result<(&'static str, String), Problem> {
        root(config, self.url).ok_or_else(|| {
            let (project, name, why) = (project.name(), self.name, not_granted(self.url));
            let message = format!("Project {project}: spec.sources[{name}].repositoryUrl: {why}");
            transient(Step::Deployment, "SourceNotGranted", message)
        })
    }
}

/// The endpoint that a repository is below, and where; the one with the longest address when there are several.
pub(crate) fn root(config: &Config, url: &str) -> Option<(&'static str, String)> {
    let url = url.trim_end_matches('/');
    let below = |root: &crate::SourceRoot| {
        let rest = url.strip_prefix(root.url.trim_end_matches('/'))?.strip_prefix('/')?;
        Some((root.url.len(), root.endpoint.name(), rest.to_owned()))
    };
    let best = config.sources.iter().filter_map(below).max_by_key(|(length, ..)| *length);
    best.map(|(_, endpoint, rest)| (endpoint, rest))
}

pub(crate) fn not_granted(url: &str) -> String {
    format!(
        "nobody may read {url}: add its beginning and an endpoint to spec.config.sources of the Plugin record, and the \
         endpoint's address to spec.endpoints"
    )
}
