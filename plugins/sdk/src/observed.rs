use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::rc::Rc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::bindings::exports::transom::plugin::reconciler as wit;
use crate::failure::Failure;
use crate::health::Health;
use crate::kind::Kind;

/// The live children of one primary.
pub(crate) struct Children(pub(crate) Vec<wit::Observed>);

impl Children {
    /// `namespace` none: that of the primary or none at all. What is cluster-scoped is found with any namespace, as it
    /// is planned.
    pub(crate) fn position(&self, api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Option<usize> {
        self.0.iter().position(|child| {
            let found = &child.ref_;
            found.name == name
                && found.kind == kind
                && found.api_version == api_version
                && namespace.is_none_or(|namespace| found.namespace == namespace || found.namespace.is_empty())
        })
    }

    pub(crate) fn get(&self, index: usize) -> Option<&wit::Observed> {
        self.0.get(index)
    }
}

/// A live child, parsed only as far as it is looked at.
pub struct Observed<K> {
    children: Rc<Children>,
    index: usize,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Observed<K> {
    pub(crate) fn find(children: &Rc<Children>, namespace: Option<&str>, name: &str) -> Option<Self> {
        let kind = K::type_meta();
        let index = children.position(&kind.api_version, &kind.kind, namespace, name)?;
        Some(Self::at(children, index))
    }

    pub(crate) fn all(children: &Rc<Children>) -> impl Iterator<Item = Self> {
        let kind = K::type_meta();
        let children = Rc::clone(children);
        (0..children.0.len()).filter_map(move |index| {
            let found = &children.get(index)?.ref_;
            kind.is(&found.api_version, &found.kind).then(|| Self::at(&children, index))
        })
    }
}

impl<K> Observed<K> {
    pub(crate) fn at(children: &Rc<Children>, index: usize) -> Self {
        Self { children: Rc::clone(children), index, kind: PhantomData }
    }

    fn raw(&self) -> Option<&wit::Observed> {
        self.children.get(self.index)
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.raw().map_or("", |child| &child.ref_.name)
    }

    /// Whether it does what it is for, by the rules of [`Health`].
    #[must_use]
    pub fn health(&self) -> Health {
        self.raw().map_or_else(Health::missing, |child| Health::of(&child.ref_, &child.object))
    }

    /// All of it that the host shows: see [`Delivery`](crate::Delivery).
    ///
    /// # Errors
    ///
    /// When it does not fit `K`.
    pub fn object(&self) -> Result<K, Failure>
    where
        K: DeserializeOwned,
    {
        self.read()
    }

    /// `.status` as `S`, without parsing the rest; the default when there is none yet.
    ///
    /// ```
    /// # use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
    /// # use transom_sdk::{Context, Failure};
    /// # fn f(cx: &Context) -> Result<(), Failure> {
    /// if let Some(deployment) = cx.child::<Deployment>("orders") {
    ///     let ready = deployment.status::<DeploymentStatus>()?.ready_replicas;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// When it does not fit `S`.
    pub fn status<S: DeserializeOwned + Default>(&self) -> Result<S, Failure> {
        #[derive(Deserialize)]
        struct WithStatus<S> {
            status: Option<S>,
        }
        Ok(self.read::<WithStatus<S>>()?.status.unwrap_or_default())
    }

    /// As [`object`](Self::object), into a type of your own that names only the fields that matter: the rest is skipped.
    ///
    /// ```
    /// # use k8s_openapi::api::apps::v1::Deployment;
    /// # use serde::Deserialize;
    /// # use transom_sdk::{Context, Failure};
    /// #[derive(Deserialize)]
    /// struct Scale {
    ///     spec: ScaleSpec,
    /// }
    /// #[derive(Deserialize)]
    /// struct ScaleSpec {
    ///     replicas: Option<i32>,
    /// }
    /// # fn f(cx: &Context) -> Result<(), Failure> {
    /// if let Some(deployment) = cx.child::<Deployment>("orders") {
    ///     let replicas = deployment.view::<Scale>()?.spec.replicas;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// When it does not fit `T`.
    pub fn view<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        self.read()
    }

    /// `metadata.annotations`; empty when there are none.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn annotations(&self) -> Result<BTreeMap<String, String>, Failure> {
        #[derive(Deserialize)]
        struct WithMetadata {
            metadata: Metadata,
        }
        #[derive(Deserialize)]
        struct Metadata {
            #[serde(default)]
            annotations: BTreeMap<String, String>,
        }
        Ok(self.read::<WithMetadata>()?.metadata.annotations)
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let child = self.raw().ok_or_else(|| Failure::internal("no such child"))?;
        serde_json::from_str(&child.object).map_err(|error| {
            let (kind, name) = (&child.ref_.kind, &child.ref_.name);
            Failure::internal(format!("{kind} {name} does not fit the plugin's type: {error}"))
        })
    }
}
