use kube::core::crd::CustomResourceExt;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::admission::{Admission, AdmissionRoute, Validated};
use crate::bindings::exports::transom::plugin::reconciler as wit;
use crate::context::Context;
use crate::conversion::{Convert, VersionRoute};
use crate::crd;
use crate::failure::Failure;
use crate::kind::{Kind, TypeMeta};
use crate::plan::Plan;

/// A plugin: what it is. What it does is said by one [`Reconcile`] for each kind that it serves.
pub trait Plugin: Sized + 'static {
    /// Name, version and everything that the plugin serves, makes and reads. Asked often: keep it cheap.
    fn manifest() -> Manifest<Self>;
}

/// What a plugin does with primaries of kind `K`.
pub trait Reconcile<K>: Plugin {
    /// All that should be for `primary`: a pure function of it and of what `cx` shows. Called whenever the primary, a
    /// child, an answer or the configuration changed.
    ///
    /// # Errors
    ///
    /// A [`Failure`] leaves the children as they are and becomes a condition.
    fn reconcile(primary: &K, cx: &Context) -> Result<Plan, Failure>;
}

/// A custom resource that a plugin may serve: anything with `#[derive(CustomResource)]`.
pub trait Primary: kube::Resource<DynamicType = ()> + CustomResourceExt + DeserializeOwned {}

impl<K: kube::Resource<DynamicType = ()> + CustomResourceExt + DeserializeOwned> Primary for K {}

/// How much of an object the host shows. The less, the cheaper the call and the fewer the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// All of it.
    Full,
    /// `apiVersion`, `kind`, `metadata` and `status`: enough to judge health.
    Status,
    /// `apiVersion`, `kind` and `metadata`: enough to know that it is there. A `Secret` keeps its secret.
    Metadata,
}

/// What a service outside the cluster's API speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Unary gRPC.
    Grpc,
    /// HTTP GET and HEAD.
    Http,
    /// An OCI registry.
    Oci,
    /// A git repository.
    Git,
    /// A folder on the host.
    Folder,
}

/// Type-erased [`Reconcile::reconcile`]: parses the primary, then calls it.
pub(crate) type Run = fn(&str, Context) -> (Result<Plan, Failure>, Context);

pub(crate) struct Route {
    pub(crate) kind: TypeMeta,
    pub(crate) crd: fn() -> Result<String, serde_json::Error>,
    pub(crate) run: Run,
}

/// What a plugin is: see [`Plugin::manifest`].
#[must_use]
pub struct Manifest<P> {
    name: String,
    version: String,
    pub(crate) routes: Vec<Route>,
    pub(crate) admissions: Vec<AdmissionRoute>,
    pub(crate) versions: Vec<VersionRoute>,
    pub(crate) children: Vec<(TypeMeta, Delivery)>,
    pub(crate) reads: Vec<(TypeMeta, Delivery)>,
    endpoints: Vec<wit::Endpoint>,
    engines: Vec<String>,
    config_schema: Option<fn() -> schemars::Schema>,
    finalizes: bool,
    plugin: std::marker::PhantomData<P>,
}

impl<P: Plugin> Manifest<P> {
    /// A plugin's name (a DNS label of at most 40 characters) and semantic version.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            routes: Vec::new(),
            admissions: Vec::new(),
            versions: Vec::new(),
            children: Vec::new(),
            reads: Vec::new(),
            endpoints: Vec::new(),
            engines: Vec::new(),
            config_schema: None,
            finalizes: false,
            plugin: std::marker::PhantomData,
        }
    }

    /// The plugin serves this kind; its CRD comes from the type.
    pub fn primary<K: Primary>(mut self) -> Self
    where
        P: Reconcile<K>,
    {
        self.routes.push(Route { kind: K::type_meta(), crd: crd::json::<K>, run: run::<P, K> });
        self
    }

    /// The plugin defaults and validates primaries of this kind before they are stored; `export!` must say `admission`.
    pub fn admission<K: Validated>(mut self) -> Self
    where
        P: Admission<K>,
    {
        self.admissions.push(AdmissionRoute::new::<P, K>());
        self
    }

    /// The kind of the primary `K` is served in the API version of `V`, too, and stored in that of `K`: the only one that
    /// `reconcile` and [`Admission`] see. `export!` must say `conversion`.
    pub fn version<V: Validated, K: Validated>(mut self) -> Self
    where
        P: Convert<V, K> + Convert<K, V>,
    {
        self.versions.push(VersionRoute::new::<P, V, K>());
        self
    }

    /// Plans may contain this kind. A plan with a kind that is not declared is refused whole.
    pub fn child<K: Kind>(mut self, delivery: Delivery) -> Self {
        self.children.push((K::type_meta(), delivery));
        self
    }

    /// Plans may contain every kind, for a plugin that does not know what a template makes: see [`AnyObject`]. The host
    /// shows this much of children whose kind is not [declared](Self::child) otherwise.
    ///
    /// [`AnyObject`]: crate::AnyObject
    pub fn any_child(mut self, delivery: Delivery) -> Self {
        self.children.push((TypeMeta::any(), delivery));
        self
    }

    /// Lookups may ask for this kind.
    pub fn read<K: Kind>(mut self, delivery: Delivery) -> Self {
        self.reads.push((K::type_meta(), delivery));
        self
    }

    /// Lookups and calls may go to this service, whose address the `Plugin` record gives. `purpose` is one sentence
    /// for whoever grants it. The plugin does not become Ready without it.
    pub fn endpoint(self, name: &str, protocol: Protocol, purpose: &str) -> Self {
        self.add_endpoint(name, protocol, purpose, false)
    }

    /// As [`endpoint`](Self::endpoint), but the plugin can do without.
    pub fn optional_endpoint(self, name: &str, protocol: Protocol, purpose: &str) -> Self {
        self.add_endpoint(name, protocol, purpose, true)
    }

    fn add_endpoint(mut self, name: &str, protocol: Protocol, purpose: &str, optional: bool) -> Self {
        let protocol = match protocol {
            Protocol::Grpc => wit::Protocol::Grpc,
            Protocol::Http => wit::Protocol::Http,
            Protocol::Oci => wit::Protocol::Oci,
            Protocol::Git => wit::Protocol::Git,
            Protocol::Folder => wit::Protocol::Folder,
        };
        self.endpoints.push(wit::Endpoint { name: name.into(), protocol, purpose: purpose.into(), optional });
        self
    }

    /// Lookups may run this engine.
    pub fn engine(mut self, name: impl Into<String>) -> Self {
        self.engines.push(name.into());
        self
    }

    /// The plugin takes a configuration of this type: [`Context::config`].
    pub fn config<C: JsonSchema>(mut self) -> Self {
        self.config_schema = Some(|| schemars::schema_for!(C));
        self
    }

    /// The host puts a finalizer on every primary and, once it is being deleted, calls with [`Context::deleting`]
    /// until a plan says [`finalized`](Plan::finalized).
    pub fn finalizes(mut self) -> Self {
        self.finalizes = true;
        self
    }

    /// With all its versions.
    fn crd(&self, route: &Route) -> Result<String, serde_json::Error> {
        let versions = self.versions.iter().filter(|version| version.primary == route.kind);
        let others: Vec<String> = versions.map(|version| (version.crd)()).collect::<Result<_, _>>()?;
        crd::with_versions((route.crd)()?, &others)
    }

    pub(crate) fn to_wit(&self) -> Result<wit::Manifest, serde_json::Error> {
        let child = |(kind, delivery): &(TypeMeta, Delivery)| wit::ChildKind {
            kind: kind.to_wit(),
            delivery: delivery.to_wit(),
        };
        let read = |(kind, delivery): &(TypeMeta, Delivery)| wit::ReadKind {
            kind: kind.to_wit(),
            delivery: delivery.to_wit(),
        };
        Ok(wit::Manifest {
            name: self.name.clone(),
            version: self.version.clone(),
            crds: self.routes.iter().map(|route| self.crd(route)).collect::<Result<_, _>>()?,
            children: self.children.iter().map(child).collect(),
            reads: self.reads.iter().map(read).collect(),
            endpoints: self.endpoints.clone(),
            engines: self.engines.clone(),
            config_schema: self.config_schema.map(|schema| serde_json::to_string(&schema())).transpose()?,
            finalizes: self.finalizes,
            ext: Vec::new(),
        })
    }
}

impl Delivery {
    fn to_wit(self) -> wit::Delivery {
        match self {
            Self::Full => wit::Delivery::Full,
            Self::Status => wit::Delivery::Status,
            Self::Metadata => wit::Delivery::Metadata,
        }
    }
}

fn run<P: Reconcile<K>, K: Primary>(object: &str, mut cx: Context) -> (Result<Plan, Failure>, Context) {
    let primary: K = match serde_json::from_str(object) {
        Ok(primary) => primary,
        Err(error) => {
            let kind = K::kind(&());
            return (Err(Failure::internal(format!("this {kind} does not fit the plugin's type: {error}"))), cx);
        }
    };
    cx.set_namespace(primary.meta().namespace.clone().unwrap_or_default());
    (P::reconcile(&primary, &cx), cx)
}
