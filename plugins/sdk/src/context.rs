use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;

use crate::answer::{Answer, File, HttpResponse};
use crate::bindings::exports::transom::plugin::reconciler as wit;
use crate::bindings::transom::plugin::types::{self, Lookup, Value};
use crate::failure::Failure;
use crate::health::Health;
use crate::kind::{AnyObject, Kind, TypeMeta};
use crate::observed::{Children, Observed};
use crate::plan::Plan;
use crate::refusal::{self, Refusal};

/// What a plugin may know beside its primary: live children, configuration, and lookups.
///
/// # Lookups
///
/// A lookup whose answer is not there yet is noted, and the method returns a [pending](Failure::is_pending) failure
/// that `?` passes on. The host then answers everything that was noted and calls again, so code reads straight down.
/// Ask for several things before the first `?` and they are fetched together:
///
/// ```
/// # use k8s_openapi::api::core::v1::{ConfigMap, Secret};
/// # use transom_sdk::{Context, Failure};
/// # fn f(cx: &Context) -> Result<(), Failure> {
/// let settings = cx.get::<ConfigMap>("settings");
/// let password = cx.get::<Secret>("password");
/// let (settings, password) = (settings?, password?);
/// # Ok(()) }
/// ```
///
/// What the plan rests on is watched: when an answer changes, the host reconciles again.
pub struct Context {
    children: Rc<Children>,
    answers: Vec<types::Answered>,
    used: Vec<Cell<bool>>,
    asked: RefCell<Vec<Lookup>>,
    calls: Vec<wit::CallResult>,
    config: String,
    deleting: bool,
}

/// What became of a call that an earlier plan made with [`Plan::call`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallOutcome {
    /// Not yet made, or not yet answered.
    Pending,
    /// The encoded gRPC response message.
    Succeeded(Vec<u8>),
    /// It did not work; the host tries again.
    Failed {
        /// Canonical gRPC status code in CamelCase.
        reason: String,
        /// One sentence for people.
        message: String,
    },
}

impl Context {
    pub(crate) fn new(request: wit::Request) -> (String, Self) {
        let used = request.answers.iter().map(|_| Cell::new(false)).collect();
        let context = Self {
            children: Rc::new(Children {
                live: request.children,
                refusals: refusal::from_ext(&request.ext),
                home: String::new(),
            }),
            answers: request.answers,
            used,
            asked: RefCell::default(),
            calls: request.calls,
            config: request.config,
            deleting: request.deleting,
        };
        (request.object, context)
    }

    /// Known before anything of this context is handed out.
    pub(crate) fn set_namespace(&mut self, namespace: String) {
        if let Some(children) = Rc::get_mut(&mut self.children) {
            children.home = namespace;
        }
    }

    /// True from the moment the primary is being deleted.
    #[must_use]
    pub fn deleting(&self) -> bool {
        self.deleting
    }

    /// `spec.config` of the `Plugin` record, for plugins that declare one with
    /// [`Manifest::config`](crate::Manifest::config).
    ///
    /// # Errors
    ///
    /// When it does not fit `C`, although it fits the declared schema: the two differ.
    pub fn config<C: DeserializeOwned>(&self) -> Result<C, Failure> {
        let config = if self.config.is_empty() { "{}" } else { &self.config };
        serde_json::from_str(config)
            .map_err(|error| Failure::internal(format!("the configuration does not fit the plugin's type: {error}")))
    }

    /// An empty plan.
    pub fn plan(&self) -> Plan {
        Plan::new(Rc::clone(&self.children))
    }

    // ------------------------------------------------------------ children

    /// The live child of this kind and name. Nothing is parsed until it is looked at. In the namespace of the primary,
    /// or cluster-scoped. The API version does not count: an object that is served in several versions is one child.
    #[must_use]
    pub fn child<K: Kind>(&self, name: &str) -> Option<Observed<K>> {
        Observed::find(&self.children, None, name)
    }

    /// As [`child`](Self::child), in another namespace.
    #[must_use]
    pub fn child_in<K: Kind>(&self, namespace: &str, name: &str) -> Option<Observed<K>> {
        Observed::find(&self.children, Some(namespace), name)
    }

    /// Whether the live child of this kind and name does what it is for; [missing](crate::State::Missing) when there is
    /// none.
    #[must_use]
    pub fn health<K: Kind>(&self, name: &str) -> Health {
        self.child::<K>(name).map_or_else(Health::missing, |child| child.health())
    }

    /// All live children of this kind, sorted by namespace and name.
    pub fn children<K: Kind>(&self) -> impl Iterator<Item = Observed<K>> {
        Observed::all(&self.children)
    }

    /// The live child that this object names; the rest of it does not matter.
    #[must_use]
    pub fn child_any(&self, object: &AnyObject) -> Option<Observed<AnyObject>> {
        let index = self.children.position(object.type_meta(), object.namespace(), object.name())?;
        Some(Observed::at(&self.children, index))
    }

    /// All live children, of whatever kind, as far as which ones they are.
    pub fn all_children(&self) -> impl Iterator<Item = AnyObject> + '_ {
        self.children.live.iter().map(|child| {
            let which = &child.ref_;
            let namespace = Some(which.namespace.as_str()).filter(|namespace| !namespace.is_empty());
            AnyObject::named(&which.api_version, &which.kind, namespace, &which.name)
        })
    }

    /// Children of the last plan that the API server, or the host before it, refused. [`Plan::refusal`] has that of one
    /// child, and [`Plan::health`] judges by it.
    #[must_use]
    pub fn refusals(&self) -> &[Refusal] {
        &self.children.refusals
    }

    // ------------------------------------------------------------- objects

    /// The object of this kind and name in the namespace of the primary (or cluster-scoped when the primary is).
    ///
    /// # Errors
    ///
    /// Pending; transient when the plugin may not read it or reading failed. [`try_get`](Self::try_get) tells these
    /// apart.
    pub fn get<K: Kind + DeserializeOwned>(&self, name: &str) -> Result<Option<K>, Failure> {
        self.try_get(name)?.into_found()
    }

    /// As [`get`](Self::get), in another namespace; empty for cluster-scoped objects.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_in<K: Kind + DeserializeOwned>(&self, namespace: &str, name: &str) -> Result<Option<K>, Failure> {
        self.try_get_in(namespace, name)?.into_found()
    }

    /// As [`get`](Self::get), with refusal and failure as values to look at.
    ///
    /// # Errors
    ///
    /// Pending.
    pub fn try_get<K: Kind + DeserializeOwned>(&self, name: &str) -> Result<Answer<K>, Failure> {
        self.try_get_in(&self.children.home, name)
    }

    /// As [`try_get`](Self::try_get), in another namespace; empty for cluster-scoped objects.
    ///
    /// # Errors
    ///
    /// Pending.
    pub fn try_get_in<K: Kind + DeserializeOwned>(&self, namespace: &str, name: &str) -> Result<Answer<K>, Failure> {
        self.try_get_any(&K::type_meta(), namespace, name)
    }

    /// The objects of this kind in the namespace of the primary (everywhere when it is cluster-scoped), sorted by
    /// namespace and name. `selector` as kubectl spells it: `app=web,tier in (a,b)`; empty: all.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn list<K: Kind + DeserializeOwned>(&self, selector: &str) -> Result<Vec<K>, Failure> {
        Ok(self.try_list(selector)?.into_found()?.unwrap_or_default())
    }

    /// As [`list`](Self::list), with refusal and failure as values to look at.
    ///
    /// # Errors
    ///
    /// Pending.
    pub fn try_list<K: Kind + DeserializeOwned>(&self, selector: &str) -> Result<Answer<Vec<K>>, Failure> {
        let namespace = (!self.children.home.is_empty()).then_some(self.children.home.as_str());
        self.list_of(&K::type_meta(), namespace, selector)
    }

    /// As [`try_list`](Self::try_list), in another namespace: a namespaced primary may read those that are children of
    /// it.
    ///
    /// # Errors
    ///
    /// Pending.
    pub fn try_list_in<K: Kind + DeserializeOwned>(
        &self,
        namespace: &str,
        selector: &str,
    ) -> Result<Answer<Vec<K>>, Failure> {
        self.list_of(&K::type_meta(), Some(namespace), selector)
    }

    /// As [`try_get_in`](Self::try_get_in), for a kind that only a template knows; the manifest must name it all the
    /// same.
    ///
    /// # Errors
    ///
    /// Pending.
    pub fn try_get_any<T: DeserializeOwned>(
        &self,
        kind: &TypeMeta,
        namespace: &str,
        name: &str,
    ) -> Result<Answer<T>, Failure> {
        let TypeMeta { api_version, kind } = kind.clone();
        let lookup = Lookup::Object(types::ObjectRef {
            api_version: api_version.into_owned(),
            kind: kind.to_string(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        });
        self.answer(lookup, |value| match value {
            Value::Object(json) => Some(serde_json::from_str(json).map_err(|error| unreadable(&kind, &error))),
            _ => None,
        })
    }

    /// As [`try_list_in`](Self::try_list_in), for a kind that only a template knows.
    ///
    /// # Errors
    ///
    /// Pending.
    pub fn try_list_any<T: DeserializeOwned>(
        &self,
        kind: &TypeMeta,
        namespace: &str,
        selector: &str,
    ) -> Result<Answer<Vec<T>>, Failure> {
        self.list_of(kind, Some(namespace), selector)
    }

    fn list_of<T: DeserializeOwned>(
        &self,
        kind: &TypeMeta,
        namespace: Option<&str>,
        selector: &str,
    ) -> Result<Answer<Vec<T>>, Failure> {
        let lookup = Lookup::Objects(types::ObjectsQuery {
            kind: kind.to_wit(),
            namespace: namespace.map(str::to_owned),
            label_selector: selector.to_owned(),
        });
        self.answer(lookup, |value| match value {
            Value::Objects(list) => {
                let parse = |json: &String| serde_json::from_str(json).map_err(|error| unreadable(&kind.kind, &error));
                Some(list.iter().map(parse).collect())
            }
            _ => None,
        })
    }

    // -------------------------------------------------- outside Kubernetes

    /// A unary gRPC call that changes nothing on the other side. `path` is `/package.Service/Method`, `message` the
    /// encoded request; an answer may be `max_age` old (zero: asked at every reconcile).
    ///
    /// # Errors
    ///
    /// Pending.
    pub fn grpc(
        &self,
        endpoint: &str,
        path: &str,
        message: Vec<u8>,
        max_age: Duration,
    ) -> Result<Answer<Vec<u8>>, Failure> {
        let query = types::GrpcQuery {
            endpoint: endpoint.to_owned(),
            path: path.to_owned(),
            message,
            max_age_ms: millis(max_age),
        };
        self.bytes(Lookup::Grpc(query))
    }

    /// HTTP GET of `path` (path and query below the endpoint's address, starting with `/`).
    ///
    /// # Errors
    ///
    /// Pending.
    pub fn http_get(&self, endpoint: &str, path: &str, max_age: Duration) -> Result<Answer<HttpResponse>, Failure> {
        self.http(endpoint, types::HttpMethod::Get, path, max_age)
    }

    /// As [`http_get`](Self::http_get), without a body.
    ///
    /// # Errors
    ///
    /// Pending.
    pub fn http_head(&self, endpoint: &str, path: &str, max_age: Duration) -> Result<Answer<HttpResponse>, Failure> {
        self.http(endpoint, types::HttpMethod::Head, path, max_age)
    }

    fn http(
        &self,
        endpoint: &str,
        method: types::HttpMethod,
        path: &str,
        max_age: Duration,
    ) -> Result<Answer<HttpResponse>, Failure> {
        let query = types::HttpQuery {
            endpoint: endpoint.to_owned(),
            method,
            path: path.to_owned(),
            max_age_ms: millis(max_age),
        };
        self.answer(Lookup::Http(query), |value| match value {
            Value::Http(response) => Some(Ok(HttpResponse {
                status: response.status,
                headers: response.headers.clone(),
                body: response.body.clone(),
            })),
            _ => None,
        })
    }

    /// The digest (`sha256:…`) of a container image, or absent when there is none.
    ///
    /// # Errors
    ///
    /// Pending.
    pub fn image(&self, reference: &str, max_age: Duration) -> Result<Answer<String>, Failure> {
        let query = types::ImageQuery { reference: reference.to_owned(), max_age_ms: millis(max_age) };
        self.answer(Lookup::Image(query), |value| match value {
            Value::Digest(digest) => Some(Ok(digest.clone())),
            _ => None,
        })
    }

    /// Files of an OCI artifact, an HTTP archive, a git tree or a folder, sorted by path; those that match one of the
    /// globs in `include` (empty: all).
    ///
    /// # Errors
    ///
    /// Pending.
    pub fn artifact(
        &self,
        endpoint: &str,
        reference: &str,
        include: &[&str],
        max_age: Duration,
    ) -> Result<Answer<Vec<File>>, Failure> {
        let query = types::ArtifactQuery {
            endpoint: endpoint.to_owned(),
            reference: reference.to_owned(),
            include: include.iter().map(|&glob| glob.to_owned()).collect(),
            max_age_ms: millis(max_age),
        };
        self.answer(Lookup::Artifact(query), |value| match value {
            Value::Files(files) => {
                let file = |file: &types::File| File { path: file.path.clone(), content: file.content.clone() };
                Some(Ok(files.iter().map(file).collect()))
            }
            _ => None,
        })
    }

    /// What an engine makes of `input`.
    ///
    /// # Errors
    ///
    /// Pending.
    pub fn engine(&self, engine: &str, input: Vec<u8>) -> Result<Answer<Vec<u8>>, Failure> {
        self.bytes(Lookup::Engine(types::EngineQuery { engine: engine.to_owned(), input }))
    }

    /// The time, rounded down to a multiple of `granularity` (whole seconds, at least one). The host calls again when
    /// the rounded time changes, so the coarser the cheaper.
    ///
    /// # Errors
    ///
    /// Pending; transient when the host could not tell.
    pub fn now(&self, granularity: Duration) -> Result<Timestamp, Failure> {
        let seconds = u32::try_from(granularity.as_secs()).unwrap_or(u32::MAX).max(1);
        let answer = self.answer(Lookup::Clock(seconds), |value| match value {
            Value::Time(seconds) => {
                let time = i64::try_from(*seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
                Some(time.ok_or_else(|| Failure::internal("the time is out of range")))
            }
            _ => None,
        })?;
        answer.into_found()?.ok_or_else(|| Failure::internal("the host has no clock"))
    }

    /// `length` bytes (1 to 1,024) that look random and never change for this primary; `label` (at most 64 characters)
    /// tells several apart.
    ///
    /// # Errors
    ///
    /// Pending; transient when the host could not make any.
    pub fn random(&self, label: &str, length: u32) -> Result<Vec<u8>, Failure> {
        let lookup = Lookup::Random(types::RandomQuery { label: label.to_owned(), length });
        self.bytes(lookup)?.into_found()?.ok_or_else(|| Failure::internal("the host has no random bytes"))
    }

    /// What became of the call with this key.
    #[must_use]
    pub fn call(&self, key: &str) -> Option<CallOutcome> {
        let result = self.calls.iter().find(|result| result.key == key)?;
        Some(match &result.outcome {
            wit::CallOutcome::Pending => CallOutcome::Pending,
            wit::CallOutcome::Succeeded(message) => CallOutcome::Succeeded(message.clone()),
            wit::CallOutcome::Failed(problem) => {
                CallOutcome::Failed { reason: problem.reason.clone(), message: problem.message.clone() }
            }
        })
    }

    // -------------------------------------------------------------- rounds

    fn bytes(&self, lookup: Lookup) -> Result<Answer<Vec<u8>>, Failure> {
        self.answer(lookup, |value| match value {
            Value::Bytes(bytes) => Some(Ok(bytes.clone())),
            _ => None,
        })
    }

    /// The answer to `lookup`, read by `read` (`None`: a value that does not fit the lookup), or a note that it is
    /// wanted.
    fn answer<T>(
        &self,
        lookup: Lookup,
        read: impl FnOnce(&Value) -> Option<Result<T, Failure>>,
    ) -> Result<Answer<T>, Failure> {
        let known = self.answers.iter().zip(&self.used).find(|(answered, _)| answered.lookup == lookup);
        let Some((answered, used)) = known else {
            let mut asked = self.asked.borrow_mut();
            if !asked.contains(&lookup) {
                asked.push(lookup);
            }
            return Err(Failure::PENDING);
        };
        used.set(true);
        Ok(match &answered.answer {
            types::Answer::Found(value) => match read(value) {
                Some(value) => Answer::Found(value?),
                None => {
                    return Err(Failure::internal("the host's answer does not fit the lookup"));
                }
            },
            types::Answer::Absent => Answer::Absent,
            types::Answer::Denied(message) => Answer::Denied(message.clone()),
            types::Answer::Failed(problem) => {
                Answer::Failed { reason: problem.reason.clone(), message: problem.message.clone() }
            }
        })
    }

    /// Lookups whose answers are wanted.
    pub(crate) fn asked(&self) -> Vec<Lookup> {
        self.asked.take()
    }

    /// Indices of the answers that were looked at.
    pub(crate) fn uses(&self) -> Vec<u32> {
        (0..).zip(&self.used).filter(|(_, used)| used.get()).map(|(index, _)| index).collect()
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn unreadable(kind: &str, error: &serde_json::Error) -> Failure {
    Failure::transient("Unreadable", format!("this {kind} does not fit the plugin's type: {error}"))
}
