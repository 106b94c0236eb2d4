use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::rc::Rc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::bindings::exports::transom::plugin::reconciler as wit;
use crate::failure::Failure;
use crate::health::Health;
use crate::kind::{Kind, TypeMeta};
use crate::refusal::Refusal;

/// The live children of one primary, and which children of the last plan were refused.
#[derive(Default)]
pub(crate) struct Children {
    pub(crate) live: Vec<wit::Observed>,
    pub(crate) refusals: Vec<Refusal>,
    /// Namespace of the primary; empty when it is cluster-scoped.
    pub(crate) home: String,
}

impl Children {
    /// The live object of this group, kind, namespace and name. The API version does not count: the host may show an
    /// object in another version than the plugin plans it in.
    ///
    /// `namespace` none: that of the primary. What is cluster-scoped is found with any namespace, as it is planned.
    pub(crate) fn position(&self, kind: &TypeMeta, namespace: Option<&str>, name: &str) -> Option<usize> {
        self.live.iter().position(|child| {
            let found = &child.ref_;
            found.name == name
                && kind.serves(&found.api_version, &found.kind)
                && self.is_in(&found.namespace, namespace)
        })
    }

    /// As [`position`](Self::position), among what was refused.
    pub(crate) fn refusal(&self, kind: &TypeMeta, namespace: Option<&str>, name: &str) -> Option<usize> {
        self.refusals.iter().position(|refusal| {
            refusal.name == name && kind.is_same_kind(&refusal.type_meta) && self.is_in(&refusal.namespace, namespace)
        })
    }

    fn is_in(&self, found: &str, wanted: Option<&str>) -> bool {
        found.is_empty() || found == wanted.unwrap_or(&self.home)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&wit::Observed> {
        self.live.get(index)
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
        let index = children.position(&K::type_meta(), namespace, name)?;
        Some(Self::at(children, index))
    }

    pub(crate) fn all(children: &Rc<Children>) -> impl Iterator<Item = Self> {
        let kind = K::type_meta();
        let children = Rc::clone(children);
        (0..children.live.len()).filter_map(move |index| {
            let found = &children.get(index)?.ref_;
            kind.serves(&found.api_version, &found.kind).then(|| Self::at(&children, index))
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

    /// All of it that the host shows: see [`Delivery`](crate::Delivery). Of a kind that is served in several versions,
    /// the version is the one that the manifest names.
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
