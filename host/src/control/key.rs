//! Identity of a primary inside the host.

use std::fmt;
use std::sync::Arc;

use crate::plan::contract::{ObjectRef, TypeMeta};

/// One primary: the unit of queueing. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrimaryKey {
    /// Kind of the primary.
    pub kind: Arc<TypeMeta>,
    /// Empty for cluster-scoped primaries.
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
}

impl PrimaryKey {
    /// From its parts.
    pub fn new(kind: Arc<TypeMeta>, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }

    /// As a reference that can leave the host.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        ObjectRef { kind: (*self.kind).clone(), namespace: self.namespace.to_string(), name: self.name.to_string() }
    }
}

impl fmt::Display for PrimaryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reference().fmt(f)
    }
}
