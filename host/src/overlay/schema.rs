//! Which lists of Kubernetes' own kinds are merged, and by which key: `x-kubernetes-patch-strategy` and
//! `x-kubernetes-patch-merge-key` of the API server's OpenAPI document, kept in `schema.json`. A test against a real API
//! server holds the two together.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::plan::contract::TypeMeta;

/// The text of `schema.json`.
pub const TABLE: &str = include_str!("schema.json");

#[derive(Default, Deserialize)]
struct Table {
    /// From API version and kind to the name of its type.
    kinds: BTreeMap<String, String>,
    types: BTreeMap<String, BTreeMap<String, Field>>,
}

/// What is special about a field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Field {
    /// Type of the field, or of the items of the list.
    #[serde(default, rename = "type")]
    type_: Option<String>,
    /// The list is merged by this key; by value when it is empty.
    #[serde(default)]
    pub merge: Option<String>,
    /// The field is replaced whole.
    #[serde(default)]
    pub replace: bool,
}

static KINDS: LazyLock<Table> = LazyLock::new(|| serde_json::from_str(TABLE).unwrap_or_default());

/// A type of Kubernetes' own, or one that nothing is known of.
#[derive(Clone, Copy, Debug)]
pub struct Type(Option<&'static BTreeMap<String, Field>>);

impl Type {
    /// That of a kind; none for kinds of custom resources.
    #[must_use]
    pub fn of(kind: &TypeMeta) -> Option<Self> {
        let name = KINDS.kinds.get(&format!("{} {}", kind.api_version, kind.kind))?;
        Some(Self(KINDS.types.get(name)))
    }

    /// A field of the type.
    #[must_use]
    pub fn field(self, name: &str) -> (Self, Option<&'static Field>) {
        let field = self.0.and_then(|fields| fields.get(name));
        let type_ = field.and_then(|field| KINDS.types.get(field.type_.as_ref()?));
        (Self(type_), field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_merged_by_name_wherever_a_pod_is() {
        for (api, kind, path) in [
            ("v1", "Pod", vec!["spec"]),
            ("apps/v1", "Deployment", vec!["spec", "template", "spec"]),
            ("batch/v1", "CronJob", vec!["spec", "jobTemplate", "spec", "template", "spec"]),
        ] {
            let root = Type::of(&TypeMeta::new(api, kind)).unwrap();
            let pod = path.into_iter().fold(root, |type_, name| type_.field(name).0);
            let (container, containers) = pod.field("containers");
            assert_eq!(containers.unwrap().merge.as_deref(), Some("name"), "{kind}");
            assert_eq!(container.field("ports").1.unwrap().merge.as_deref(), Some("containerPort"), "{kind}");
            assert!(pod.field("tolerations").1.is_none(), "{kind}");
        }
        assert!(Type::of(&TypeMeta::new("postgresql.cnpg.io/v1", "Cluster")).is_none());
    }
}
