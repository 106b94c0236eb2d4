use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::bindings::transom::plugin::types as wit;
use crate::failure::Failure;

/// The kind of an object as every manifest spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeMeta {
    /// Such as `apps/v1`, or `v1` for the core group.
    pub api_version: Cow<'static, str>,
    /// Such as `Deployment`.
    pub kind: Cow<'static, str>,
}

impl TypeMeta {
    /// API version and kind.
    #[must_use]
    pub fn new(api_version: impl Into<Cow<'static, str>>, kind: impl Into<Cow<'static, str>>) -> Self {
        Self { api_version: api_version.into(), kind: kind.into() }
    }

    /// Stands for all kinds that a manifest does not name.
    pub(crate) fn any() -> Self {
        Self { api_version: "*".into(), kind: "*".into() }
    }

    /// True when `api_version` and `kind` spell this kind.
    pub(crate) fn is(&self, api_version: &str, kind: &str) -> bool {
        self.kind == kind && self.api_version == api_version
    }

    /// The API group: `apps` of `apps/v1`, empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        group(&self.api_version)
    }

    /// True when both name the same kind, in whatever version: an object that is served in several versions is one
    /// object.
    #[must_use]
    pub fn is_same_kind(&self, other: &Self) -> bool {
        self.serves(&other.api_version, &other.kind)
    }

    /// As [`is_same_kind`](Self::is_same_kind).
    pub(crate) fn serves(&self, api_version: &str, kind: &str) -> bool {
        self.kind == kind && self.group() == group(api_version)
    }

    pub(crate) fn to_wit(&self) -> wit::TypeMeta {
        wit::TypeMeta { api_version: self.api_version.to_string(), kind: self.kind.to_string() }
    }
}

/// The group of an API version; empty for the core group.
pub(crate) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// A Rust type that stands for a Kubernetes kind.
///
/// Every type of k8s-openapi and every `#[derive(CustomResource)]` has it. For a kind without a Rust type, write down
/// the fields that matter and name the kind with [`foreign!`](crate::foreign):
///
/// ```
/// # use serde::Deserialize;
/// /// A CloudNativePG cluster, as far as it matters here.
/// #[derive(Deserialize)]
/// struct Cluster {
///     status: Option<ClusterStatus>,
/// }
/// #[derive(Deserialize)]
/// #[serde(rename_all = "camelCase")]
/// struct ClusterStatus {
///     ready_instances: Option<u32>,
/// }
/// transom_sdk::foreign!(Cluster, "postgresql.cnpg.io/v1", "Cluster");
/// ```
pub trait Kind {
    /// The kind's API version and name.
    fn type_meta() -> TypeMeta;
}

impl<K: kube::Resource<DynamicType = ()>> Kind for K {
    fn type_meta() -> TypeMeta {
        TypeMeta { api_version: K::api_version(&()), kind: K::kind(&()) }
    }
}

/// Says which kind a type of yours is a partial view of; see [`Kind`].
///
/// A view that names its metadata can be put into plans, too:
///
/// ```
/// # use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
/// # use serde::Serialize;
/// #[derive(Serialize)]
/// struct PodMonitor {
///     metadata: ObjectMeta,
///     spec: PodMonitorSpec,
/// }
/// #[derive(Serialize)]
/// struct PodMonitorSpec {
///     // what is to be set
/// }
/// transom_sdk::foreign!(PodMonitor { metadata }, "monitoring.coreos.com/v1", "PodMonitor");
/// ```
#[macro_export]
macro_rules! foreign {
    ($view:ident { $metadata:ident }, $api_version:literal, $kind:literal) => {
        $crate::foreign!($view, $api_version, $kind);

        impl $crate::Child for $view {
            fn metadata(&self) -> &$crate::ObjectMeta {
                &self.$metadata
            }

            fn to_json(&self) -> Result<::std::string::String, $crate::JsonError> {
                $crate::foreign_json(self)
            }
        }
    };
    ($view:ty, $api_version:literal, $kind:literal) => {
        impl $crate::Kind for $view {
            fn type_meta() -> $crate::TypeMeta {
                $crate::TypeMeta { api_version: $api_version.into(), kind: $kind.into() }
            }
        }
    };
}

/// The view as JSON text, with the kind that it does not name itself.
#[doc(hidden)]
pub fn foreign_json<K: Kind + Serialize>(view: &K) -> Result<String, serde_json::Error> {
    let mut object = serde_json::to_value(view)?;
    if let Some(fields) = object.as_object_mut() {
        let TypeMeta { api_version, kind } = K::type_meta();
        fields.insert("apiVersion".into(), api_version.into());
        fields.insert("kind".into(), kind.into());
    }
    serde_json::to_string(&object)
}

/// An object that can be put into a [`Plan`](crate::Plan): any type of k8s-openapi, any custom resource, and views that
/// [`foreign!`](crate::foreign) makes one of.
pub trait Child: Kind {
    /// Name, namespace (none: that of the primary), labels and annotations.
    fn metadata(&self) -> &ObjectMeta;

    /// The partial object as JSON text with `apiVersion` and `kind`.
    ///
    /// # Errors
    ///
    /// When the type's own `Serialize` fails.
    fn to_json(&self) -> Result<String, serde_json::Error>;
}

impl<K: kube::Resource<DynamicType = ()> + Serialize> Child for K {
    fn metadata(&self) -> &ObjectMeta {
        self.meta()
    }

    fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

/// An object whose kind only a template knows. The manifest must allow it: [`any_child`](crate::Manifest::any_child).
///
/// ```
/// # use transom_sdk::{AnyObject, Failure, Plan};
/// # fn f(plan: &mut Plan, rendered: &str) -> Result<(), Failure> {
/// let child = plan.apply_any(AnyObject::parse(rendered)?);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct AnyObject {
    pub(crate) type_meta: TypeMeta,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) json: String,
}

impl AnyObject {
    /// An object from its JSON text.
    ///
    /// # Errors
    ///
    /// Internal, when it is no JSON object with `apiVersion`, `kind` and `metadata.name`.
    pub fn parse(json: &str) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Header {
            api_version: String,
            kind: String,
            metadata: Metadata,
        }
        #[derive(Deserialize)]
        struct Metadata {
            namespace: Option<String>,
            name: String,
        }
        let header: Header =
            serde_json::from_str(json).map_err(|error| Failure::internal(format!("not an object: {error}")))?;
        let Header { api_version, kind, metadata } = header;
        let type_meta = TypeMeta { api_version: api_version.into(), kind: kind.into() };
        Ok(Self { type_meta, namespace: metadata.namespace, name: metadata.name, json: json.to_owned() })
    }

    /// Only which object it is: to be [held](crate::Plan::hold_any) or [found](crate::Context::child_any).
    #[must_use]
    pub fn named(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Self {
        let mut metadata = serde_json::Map::from_iter([("name".to_owned(), name.into())]);
        metadata.extend(namespace.map(|namespace| ("namespace".to_owned(), namespace.into())));
        let json = serde_json::json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata }).to_string();
        let type_meta = TypeMeta { api_version: api_version.to_owned().into(), kind: kind.to_owned().into() };
        Self { type_meta, namespace: namespace.map(str::to_owned), name: name.to_owned(), json }
    }

    /// API version and kind.
    #[must_use]
    pub fn type_meta(&self) -> &TypeMeta {
        &self.type_meta
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `metadata.namespace`, if it names one.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// True when both name the same object: same group, kind, namespace and name. The API version does not count.
    #[must_use]
    pub fn is_same_object(&self, other: &Self) -> bool {
        self.type_meta.is_same_kind(&other.type_meta) && self.namespace == other.namespace && self.name == other.name
    }
}
