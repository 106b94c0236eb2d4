//! The host's requests, from the API server's audit log: it has those of the host's user and no others.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::workload::Workload;

/// The log, read up to some line.
pub(crate) struct Audit {
    log: BufReader<File>,
    /// The beginning of a line that is still being written.
    partial: String,
    workload: &'static Workload,
}

/// Requests of the host. Watches and leases are left out.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// By verb and resource, for people.
    pub(crate) by_request: BTreeMap<String, usize>,
    /// Patches of children.
    pub(crate) applies: usize,
    /// Patches and updates of the status of primaries.
    pub(crate) status_writes: usize,
    /// Every other write about primaries and children that is no Event.
    pub(crate) other_writes: usize,
    /// Writes of Events about them.
    pub(crate) events: usize,
    /// The status of the plugin's record, and Events about it, which are in the namespace `default`.
    pub(crate) own_writes: usize,
    /// `get` and `list` of objects.
    pub(crate) reads: usize,
    /// Discovery and other requests that are not about an object.
    pub(crate) other: usize,
    /// Answered with a status of 400 or above.
    pub(crate) refused: usize,
}

impl Counts {
    /// All writes about primaries and children, Events too.
    pub(crate) fn writes(&self) -> usize {
        self.applies + self.status_writes + self.other_writes + self.events
    }

    /// All requests.
    pub(crate) fn all(&self) -> usize {
        self.writes() + self.own_writes + self.reads + self.other
    }

    fn add(&mut self, entry: &Entry, workload: &Workload) {
        let Reference { resource, subresource, namespace } = &entry.object_ref;
        if entry.verb == "watch" || resource == "leases" {
            return;
        }
        let slash = if subresource.is_empty() { "" } else { "/" };
        let what = format!("{} {resource}{slash}{subresource}", entry.verb);
        *self.by_request.entry(what).or_default() += 1;
        if entry.response_status.code >= 400 {
            self.refused += 1;
        }
        let is_write = matches!(&*entry.verb, "create" | "update" | "patch" | "delete" | "deletecollection");
        let is_child = workload.children.iter().any(|kind| kind.is(resource));
        let is_primary = workload.primaries.is(resource);
        *match (&*entry.verb, &**resource, &**subresource) {
            ("get" | "list", "", _) => &mut self.other,
            ("get" | "list", ..) => &mut self.reads,
            (_, "events", _) if namespace == "default" => &mut self.own_writes,
            (_, "events", _) => &mut self.events,
            (_, "plugins", _) if is_write => &mut self.own_writes,
            ("patch", _, "") if is_child => &mut self.applies,
            ("patch" | "update", _, "status") if is_primary => &mut self.status_writes,
            _ if is_write => &mut self.other_writes,
            _ => &mut self.other,
        } += 1;
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    verb: String,
    #[serde(default)]
    object_ref: Reference,
    #[serde(default)]
    response_status: Response,
}

#[derive(Default, Deserialize)]
struct Reference {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Default, Deserialize)]
struct Response {
    #[serde(default)]
    code: u16,
}

impl Audit {
    /// The log that `cargo xtask bench` names.
    pub(crate) fn open(workload: &'static Workload) -> Result<Self> {
        let path = std::env::var_os("TRANSOM_TEST_AUDIT_LOG").context("TRANSOM_TEST_AUDIT_LOG is not set")?;
        let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { log: BufReader::new(file), partial: String::new(), workload })
    }

    /// Requests that were answered since the last time.
    pub(crate) fn counts_since_last(&mut self) -> Result<Counts> {
        let mut counts = Counts::default();
        self.count(&mut counts)?;
        Ok(counts)
    }

    /// Adds the requests that were answered since the last time.
    pub(crate) fn count(&mut self, counts: &mut Counts) -> Result<()> {
        while self.log.read_line(&mut self.partial)? > 0 && self.partial.ends_with('\n') {
            counts.add(&serde_json::from_str(&self.partial).context("a line of the audit log")?, self.workload);
            self.partial.clear();
        }
        Ok(())
    }
}
