use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use serde::Deserialize;

/// What the API server was asked by one user. It has a line for every request that was answered.
#[derive(Clone, Debug)]
pub struct Audit {
    path: PathBuf,
    user: String,
}

/// A place in the audit log.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

/// One request.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Request {
    verb: String,
    #[serde(default)]
    object_ref: Option<ObjectRef>,
    #[serde(default)]
    impersonated_user: Option<User>,
    #[serde(default, rename = "requestURI")]
    request_uri: String,
    #[serde(default)]
    request_received_timestamp: String,
    #[serde(default)]
    stage_timestamp: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
struct ObjectRef {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
struct User {
    username: String,
}

impl Request {
    fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }

    fn is_about(&self, resources: &[&str]) -> bool {
        self.object_ref.as_ref().is_some_and(|object| resources.contains(&object.resource.as_str()))
    }

    /// `patch deployments`, `patch webs/status`, `get /healthz`.
    fn what(&self) -> String {
        match &self.object_ref {
            Some(ObjectRef { resource, subresource, .. }) if subresource.is_empty() => {
                format!("{} {resource}", self.verb)
            }
            Some(ObjectRef { resource, subresource, .. }) => format!("{} {resource}/{subresource}", self.verb),
            None => format!("{} {}", self.verb, self.request_uri),
        }
    }
}

/// Requests of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests(Vec<Request>);

impl Requests {
    /// How often what was written: `{"patch deployments": 1}`. Leases are no part of it, nor are Events, which are sent
    /// in the background.
    #[must_use]
    pub fn writes(&self) -> BTreeMap<String, usize> {
        self.count(|request| request.is_write() && !request.is_about(&["leases", "events"]))
    }

    /// The same with Events.
    #[must_use]
    pub fn all_writes(&self) -> BTreeMap<String, usize> {
        self.count(|request| request.is_write() && !request.is_about(&["leases"]))
    }

    /// When the first write came and the last one was answered, by the API server's clock (RFC 3339, in microseconds, so
    /// that texts can be compared). Leases are no part of it, and what the API server refused is.
    #[must_use]
    pub fn wrote(&self) -> Option<(String, String)> {
        let writes = || self.0.iter().filter(|request| request.is_write() && !request.is_about(&["leases"]));
        let first = writes().map(|request| request.request_received_timestamp.clone()).min()?;
        Some((first, writes().map(|request| request.stage_timestamp.clone()).max()?))
    }

    /// How often each object of a resource was written, by its name: `{"a": 1}`. Its subresources are no part of it.
    #[must_use]
    pub fn writes_of(&self, resource: &str) -> BTreeMap<String, usize> {
        let mut count = BTreeMap::new();
        for object in self.0.iter().filter(|request| request.is_write()).filter_map(|r| r.object_ref.as_ref()) {
            if object.resource == resource && object.subresource.is_empty() {
                *count.entry(object.name.clone()).or_default() += 1;
            }
        }
        count
    }

    /// How often what was read. Watches are counted when they end.
    #[must_use]
    pub fn reads(&self) -> BTreeMap<String, usize> {
        self.count(|request| matches!(request.verb.as_str(), "get" | "list"))
    }

    fn count(&self, counts: impl Fn(&Request) -> bool) -> BTreeMap<String, usize> {
        let mut count = BTreeMap::new();
        for request in self.0.iter().filter(|request| counts(request)) {
            *count.entry(request.what()).or_default() += 1;
        }
        count
    }
}

impl Audit {
    pub(crate) fn new(path: PathBuf, user: String) -> Self {
        Self { path, user }
    }

    /// Now.
    ///
    /// # Panics
    ///
    /// When there is no audit log.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let file = std::fs::metadata(&self.path);
        Mark(file.unwrap_or_else(|error| panic!("{}: {error}", self.path.display())).len())
    }

    /// Requests that were answered since then.
    ///
    /// # Panics
    ///
    /// When the audit log cannot be read.
    #[must_use]
    pub fn since(&self, mark: Mark) -> Requests {
        let mut text = String::new();
        let mut file = File::open(&self.path).unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
        file.seek(SeekFrom::Start(mark.0)).and_then(|_| file.read_to_string(&mut text)).unwrap();
        parse(&text, &self.user)
    }

    /// All requests so far.
    ///
    /// # Panics
    ///
    /// When the audit log cannot be read.
    #[must_use]
    pub fn all(&self) -> Requests {
        self.since(Mark(0))
    }
}

fn parse(text: &str, user: &str) -> Requests {
    // The last line may be half written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let request = |line: &str| {
        serde_json::from_str::<Request>(line).unwrap_or_else(|error| panic!("{error} in the audit log: {line}"))
    };
    let is_ours = |request: &Request| request.impersonated_user.as_ref().is_some_and(|by| by.username == user);
    Requests(whole.lines().filter(|line| line.contains(user)).map(request).filter(is_ours).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_user_verb_and_resource() {
        let line = |user: &str, verb: &str, object: &str| {
            format!(
                r#"{{"verb":"{verb}","requestURI":"/x","user":{{"username":"h"}},"impersonatedUser":{{"username":"{user}"}},"objectRef":{object}}}"#
            )
        };
        let status = r#"{"resource":"webs","subresource":"status"}"#;
        let text = [
            line("a", "patch", status),
            line("a", "patch", status),
            line("b", "patch", status),
            line("a", "list", r#"{"resource":"webs"}"#),
            line("a", "patch", r#"{"resource":"webs","name":"shop"}"#),
            line("a", "create", r#"{"resource":"events"}"#),
            line("a", "update", r#"{"resource":"leases"}"#),
            "half a li".into(),
        ];
        let requests = parse(&text.join("\n"), "a");
        assert_eq!(requests.writes(), BTreeMap::from([("patch webs".into(), 1), ("patch webs/status".into(), 2)]));
        assert_eq!(requests.writes_of("webs"), BTreeMap::from([("shop".into(), 1)]));
        let with_events = [("create events".into(), 1), ("patch webs".into(), 1), ("patch webs/status".into(), 2)];
        assert_eq!(requests.all_writes(), BTreeMap::from(with_events));
        assert_eq!(requests.reads(), BTreeMap::from([("list webs".into(), 1)]));
    }
}
