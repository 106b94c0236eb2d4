use serde::Deserialize;

use crate::health::{Health, State};
use crate::kind::TypeMeta;

/// Why a child of the last plan was refused: by the API server, or by the host's own check of the plan.
///
/// The host tries again with back-off for as long as plans have the child. A refusal ends when the child is accepted,
/// changes, is held or leaves the plan, or when the spec of the primary changes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The child's kind, in the version that it was planned in.
    pub type_meta: TypeMeta,
    /// The child's namespace; empty when it is cluster-scoped.
    pub namespace: String,
    /// The child's name.
    pub name: String,
    /// Stable CamelCase word: `ApplyFailed`, `ChildConflict`, `ImmutableField`.
    pub reason: String,
    /// Names the object, and has the API server's own words.
    pub message: String,
    /// True: the object as it is planned is refused however often it is sent. False: it may be accepted later without
    /// a change, such as when a webhook is down.
    pub is_final: bool,
}

impl Refusal {
    /// How a child is that was refused.
    pub(crate) fn health(&self) -> Health {
        let state = if self.is_final { State::Failed } else { State::Progressing };
        Health { state, reason: self.reason.clone(), message: self.message.clone() }
    }
}

/// Name of the entry in the request's `ext`.
pub(crate) const EXT: &str = "refusals";

/// As the host writes one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    api_version: String,
    kind: String,
    #[serde(default)]
    namespace: String,
    name: String,
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    is_final: bool,
}

/// The refusals of a request. What cannot be read is logged and left out.
pub(crate) fn from_ext(ext: &[(String, String)]) -> Vec<Refusal> {
    let Some((_, text)) = ext.iter().find(|(name, _)| name == EXT) else { return Vec::new() };
    let entries: Vec<serde_json::Value> = serde_json::from_str(text).unwrap_or_else(|error| {
        crate::log::warn(format!("the host's refusals are not a list: {error}"));
        Vec::new()
    });
    entries.into_iter().filter_map(refusal).collect()
}

fn refusal(entry: serde_json::Value) -> Option<Refusal> {
    match serde_json::from_value(entry) {
        Ok(Entry { api_version, kind, namespace, name, reason, message, is_final }) => {
            Some(Refusal { type_meta: TypeMeta::new(api_version, kind), namespace, name, reason, message, is_final })
        }
        Err(error) => {
            crate::log::warn(format!("a refusal of the host cannot be read: {error}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value) -> Vec<Refusal> {
        from_ext(&[("other".to_owned(), "1".to_owned()), (EXT.to_owned(), value.to_string())])
    }

    #[test]
    fn refusals_are_read_from_the_request() {
        let entry = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "namespace": "n", "name": "a",
            "reason": "ApplyFailed", "message": "could not apply Deployment n/a: no", "isFinal": true, "later": 1 });
        let refusals = read(&json!([entry]));
        let [refusal] = refusals.as_slice() else { unreachable!("{refusals:?}") };
        assert_eq!(refusal.type_meta, TypeMeta::new("apps/v1", "Deployment"));
        assert_eq!((&*refusal.namespace, &*refusal.name, refusal.is_final), ("n", "a", true));
        let health = refusal.health();
        assert_eq!((health.state, &*health.reason), (State::Failed, "ApplyFailed"));
        assert_eq!(health.message, "could not apply Deployment n/a: no");
    }

    #[test]
    fn a_request_without_refusals_or_with_some_that_cannot_be_read_is_served() {
        assert_eq!(from_ext(&[]), []);
        assert_eq!(read(&json!("none")), []);
        assert_eq!(from_ext(&[(EXT.to_owned(), "{".to_owned())]), []);
        let fine = json!({ "apiVersion": "v1", "kind": "Node", "name": "n", "reason": "R" });
        let read = read(&json!([{ "kind": "Pod" }, 7, fine]));
        assert_eq!(read.iter().map(|refusal| refusal.name.as_str()).collect::<Vec<_>>(), ["n"]);
        assert_eq!(read.first().map(|refusal| refusal.health().state), Some(State::Progressing));
    }
}
