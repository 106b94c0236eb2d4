//! Requests to the API server, as text: what comes back is read once into a compact [`Object`], never into a tree.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::{Map, Value, json};
use tracing::{Instrument, field};

use super::account::Account;
use crate::plan::check::Scope;
use crate::plan::contract::{Manifest, ObjectRef, Plan, TypeMeta};
use crate::plan::object::Object;
use crate::telemetry::metrics;

/// No single request takes longer; watches are not made here.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// How the API server serves a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The kind.
    pub kind: TypeMeta,
    /// Lower-case plural, as in paths.
    pub plural: String,
    /// In a namespace or not.
    pub scope: Scope,
}

impl Served {
    /// For kube's own functions.
    #[must_use]
    pub fn api_resource(&self) -> kube::core::ApiResource {
        kube::core::ApiResource {
            group: self.kind.group().into(),
            version: self.kind.version().into(),
            api_version: self.kind.api_version.clone(),
            kind: self.kind.kind.clone(),
            plural: self.plural.clone(),
        }
    }

    fn path(&self, namespace: &str, name: &str) -> String {
        let root = if self.kind.group().is_empty() { "/api" } else { "/apis" };
        let mut path = format!("{root}/{}", self.kind.api_version);
        if self.scope == Scope::Namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(&self.plural);
        if !name.is_empty() {
            path.push('/');
            path.push_str(name);
        }
        path
    }
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The API server said no.
    #[error("{message}")]
    Status {
        /// HTTP status.
        code: u16,
        /// `metav1.StatusReason`
        reason: String,
        /// The API server's words.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// The API server does not serve this kind (now).
    #[error("the API server does not serve {0}")]
    NotServed(TypeMeta),
    /// No answer in time.
    #[error("the API server did not answer within {0:?}")]
    DeadlineExceeded(Duration),
    /// It could not be reached, or the connection broke.
    #[error("the API server cannot be reached")]
    Transport(#[source] Box<kube::Error>),
    /// The answer could not be read.
    #[error("the API server's answer cannot be read")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ApiError {
    /// HTTP status, 0 where there was none.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Self::Status { code, .. } => *code,
            _ => 0,
        }
    }

    /// Stable word for conditions, events and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Status { code: 401 | 403, .. } => "Forbidden",
            Self::Status { code: 404, .. } => "NotFound",
            Self::Status { code: 409, .. } => "Conflict",
            Self::Status { code: 422 | 400, .. } => "Rejected",
            Self::Status { code: 429, .. } => "TooManyRequests",
            Self::Status { .. } => "ApiServerError",
            Self::NotServed(_) => "KindNotServed",
            Self::DeadlineExceeded(_) | Self::Transport(_) | Self::Malformed(_) => "ApiServerUnavailable",
        }
    }

    /// How long the API server asked to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                Self::Status { code: status.code, reason: status.reason, message: status.message, retry_after: None }
            }
            other => Self::Transport(Box::new(other)),
        }
    }
}

/// An object after an apply.
#[derive(Debug)]
pub struct Applied {
    /// It was not there before.
    pub created: bool,
    /// As it is now.
    pub object: Object,
}

/// The API server. Cheap to share.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    /// In whose name; the host's own when there is none.
    account: Option<Account>,
    /// Restricts everything namespaced to one namespace.
    namespace: Option<String>,
    /// Children are followed in all namespaces all the same.
    follows_owned: bool,
    kinds: Arc<RwLock<HashMap<TypeMeta, Served>>>,
}

impl Cluster {
    /// Through this client, for one namespace or all.
    #[must_use]
    pub fn new(client: kube::Client, namespace: Option<String>) -> Self {
        Self { client, account: None, namespace, follows_owned: false, kinds: Arc::default() }
    }

    /// Restricted to its namespace as far as primaries go; children, and what lookups read, may be in namespaces that
    /// primaries own.
    #[must_use]
    pub fn following_owned(mut self, follows: bool) -> Self {
        self.follows_owned = follows;
        self
    }

    /// The same API server in the name of an account, over the same connections.
    #[must_use]
    pub fn acting_as(&self, account: Account) -> Self {
        let client = account.client(&self.client);
        let (namespace, kinds) = (self.namespace.clone(), self.kinds.clone());
        Self { client, account: Some(account), namespace, follows_owned: self.follows_owned, kinds }
    }

    /// In whose name requests are made; none for the host's own.
    #[must_use]
    pub fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    /// For kube's own functions.
    #[must_use]
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// The namespace that the host is restricted to.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The namespace that children are followed in, and what lookups read; none: all.
    #[must_use]
    pub fn namespace_of_children(&self) -> Option<&str> {
        self.namespace().filter(|_| !self.follows_owned)
    }

    /// How a kind is served, if that is known already.
    #[must_use]
    pub fn known(&self, kind: &TypeMeta) -> Option<Served> {
        self.kinds.read().unwrap_or_else(PoisonError::into_inner).get(kind).cloned()
    }

    /// Remembers how a kind is served.
    pub fn learn(&self, served: Served) {
        self.kinds.write().unwrap_or_else(PoisonError::into_inner).insert(served.kind.clone(), served);
    }

    /// How a kind is served; asks the API server once.
    ///
    /// # Errors
    /// [`ApiError::NotServed`], or what kept the API server from answering.
    pub async fn served(&self, kind: &TypeMeta) -> Result<Served, ApiError> {
        if let Some(served) = self.known(kind) {
            return Ok(served);
        }
        let resources = if kind.group().is_empty() {
            self.client.list_core_api_resources(kind.version()).await
        } else {
            self.client.list_api_group_resources(&kind.api_version).await
        };
        let resources = match resources {
            Ok(list) => list.resources,
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        for resource in resources.into_iter().filter(|r| !r.name.contains('/')) {
            self.learn(Served {
                kind: TypeMeta::new(kind.api_version.clone(), resource.kind),
                plural: resource.name,
                scope: if resource.namespaced { Scope::Namespaced } else { Scope::Cluster },
            });
        }
        self.known(kind).ok_or_else(|| ApiError::NotServed(kind.clone()))
    }

    /// What is known of how a kind is served may be out of date.
    pub fn forget(&self, kind: &TypeMeta) {
        self.kinds.write().unwrap_or_else(PoisonError::into_inner).remove(kind);
    }

    /// How a kind is served in this version, or else in the one of its other versions that the API server prefers.
    ///
    /// # Errors
    /// [`ApiError::NotServed`] when it is served in none, or what kept the API server from answering.
    pub async fn served_in_any_version(&self, kind: &TypeMeta) -> Result<Served, ApiError> {
        match self.served(kind).await {
            Err(ApiError::NotServed(_)) => {}
            answer => return answer,
        }
        for version in self.versions(kind.group()).await? {
            let api_version = match kind.group() {
                "" => version,
                group => format!("{group}/{version}"),
            };
            match self.served(&TypeMeta::new(api_version, kind.kind.clone())).await {
                Err(ApiError::NotServed(_)) => {}
                answer => return answer,
            }
        }
        Err(ApiError::NotServed(kind.clone()))
    }

    /// Versions of an API group, in the order of the API server's preference; none when it does not serve the group.
    async fn versions(&self, group: &str) -> Result<Vec<String>, ApiError> {
        if group.is_empty() {
            return Ok(self.client.list_core_api_versions().await?.versions);
        }
        let groups = self.client.list_api_groups().await?.groups;
        let Some(group) = groups.into_iter().find(|known| known.name == group) else { return Ok(Vec::new()) };
        let preferred = group.preferred_version.map(|preferred| preferred.version);
        let others = group.versions.into_iter().map(|one| one.version).filter(|one| Some(one) != preferred.as_ref());
        Ok(preferred.iter().cloned().chain(others).collect())
    }

    /// Asks how the kinds in a plan are served that are not known yet: the API server did not serve them when the version
    /// was loaded, or the plugin has not named them.
    pub async fn discover(&self, manifest: &Manifest, plan: &Plan) {
        let is_known = |kind: &TypeMeta| self.known(kind).is_some();
        if !manifest.makes_any_kind() && manifest.child_kinds().all(is_known) {
            return;
        }
        let mut unknown: Vec<TypeMeta> = plan.children.iter().filter_map(|c| TypeMeta::of(&c.object)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        for kind in unknown.iter().filter(|kind| !is_known(kind)) {
            if let Err(error) = self.served(kind).await {
                tracing::debug!(%kind, %error, "a kind of child is not served");
            }
        }
    }

    /// Server-side apply of one object; fields that others own are taken.
    ///
    /// # Errors
    /// When the API server refuses it or cannot be asked.
    pub async fn apply(&self, reference: &ObjectRef, manager: &str, body: &Value) -> Result<Applied, ApiError> {
        self.apply_text(reference, manager, body.to_string()).await
    }

    /// Server-side apply of an object that does not exist; 409 when it does.
    ///
    /// # Errors
    /// When the API server refuses it or cannot be asked.
    pub async fn apply_new(&self, reference: &ObjectRef, manager: &str, body: &Value) -> Result<Applied, ApiError> {
        let body = serde_json::to_string(&New(body)).map_err(|e| ApiError::Malformed(e.into()))?;
        self.apply_text(reference, manager, body).await
    }

    async fn apply_text(&self, reference: &ObjectRef, manager: &str, body: String) -> Result<Applied, ApiError> {
        let served = self.served(&reference.kind).await?;
        let path = served.path(&reference.namespace, &reference.name);
        let uri = format!("{path}?fieldManager={}&force=true", encode(manager));
        let sent = self.send("apply", Method::PATCH, &uri, APPLY, body).await;
        // a namespace that is missing, or a kind that is not served (any more)
        let (status, text) = sent.inspect_err(|error| {
            if error.code() == 404 {
                self.forget(&reference.kind);
            }
        })?;
        Ok(Applied { created: status == StatusCode::CREATED, object: parse(&text)? })
    }

    /// What an apply would lead to; nothing is written.
    ///
    /// # Errors
    /// When the API server would refuse it, or cannot be asked.
    pub async fn apply_dry_run(&self, reference: &ObjectRef, manager: &str, body: &Value) -> Result<Object, ApiError> {
        let served = self.served(&reference.kind).await?;
        let path = served.path(&reference.namespace, &reference.name);
        let uri = format!("{path}?fieldManager={}&force=true&dryRun=All", encode(manager));
        let (_, text) = self.send("apply_dry_run", Method::PATCH, &uri, APPLY, body.to_string()).await?;
        parse(&text)
    }

    /// Creates an object.
    ///
    /// # Errors
    /// When the API server refuses it or cannot be asked.
    pub async fn create(&self, reference: &ObjectRef, body: &Value) -> Result<(), ApiError> {
        let served = self.served(&reference.kind).await?;
        let path = served.path(&reference.namespace, "");
        self.send("create", Method::POST, &path, JSON, body.to_string()).await.map(drop)
    }

    /// Server-side apply of the whole status of one object, which must still be the one with this UID.
    ///
    /// # Errors
    /// When the API server refuses it or cannot be asked.
    pub async fn apply_status(
        &self,
        reference: &ObjectRef,
        uid: &str,
        manager: &str,
        status: &Value,
    ) -> Result<Object, ApiError> {
        let served = self.served(&reference.kind).await?;
        let path = served.path(&reference.namespace, &reference.name);
        let uri = format!("{path}/status?fieldManager={}&force=true", encode(manager));
        let body = json!({
            "apiVersion": reference.kind.api_version, "kind": reference.kind.kind,
            "metadata": {"name": reference.name, "uid": uid}, "status": status,
        });
        let (_, text) = self.send("apply_status", Method::PATCH, &uri, APPLY, body.to_string()).await?;
        parse(&text)
    }

    /// A JSON merge patch of one object.
    ///
    /// # Errors
    /// When the API server refuses it or cannot be asked.
    pub async fn merge(&self, reference: &ObjectRef, manager: &str, patch: &Value) -> Result<Object, ApiError> {
        let served = self.served(&reference.kind).await?;
        let path = served.path(&reference.namespace, &reference.name);
        let uri = format!("{path}?fieldManager={}", encode(manager));
        let (_, text) = self.send("patch", Method::PATCH, &uri, MERGE, patch.to_string()).await?;
        parse(&text)
    }

    /// Deletes the object with this UID. One that is gone already is no error.
    ///
    /// # Errors
    /// When the API server refuses it or cannot be asked.
    pub async fn delete(&self, reference: &ObjectRef, uid: &str) -> Result<(), ApiError> {
        let served = self.served(&reference.kind).await?;
        let path = served.path(&reference.namespace, &reference.name);
        let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background",
            "preconditions": {"uid": uid}});
        match self.send("delete", Method::DELETE, &path, JSON, body.to_string()).await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == 404 => Ok(()),
            // another object has the name by now, or somebody else was quicker
            Err(error) if error.code() == 409 => match self.get(reference).await? {
                Some(object) if object.uid == uid => Err(error),
                _ => Ok(()),
            },
            Err(error) => Err(error),
        }
    }

    /// One object, none when it is not there.
    ///
    /// # Errors
    /// When the API server refuses it or cannot be asked.
    pub async fn get(&self, reference: &ObjectRef) -> Result<Option<Object>, ApiError> {
        let served = self.served(&reference.kind).await?;
        let path = served.path(&reference.namespace, &reference.name);
        match self.send("get", Method::GET, &path, JSON, String::new()).await {
            Ok((_, text)) => parse(&text).map(Some),
            Err(error) if error.code() == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One object as it is, with `managedFields`; none when it is not there.
    ///
    /// # Errors
    /// When the API server refuses it or cannot be asked.
    pub async fn get_value(&self, reference: &ObjectRef) -> Result<Option<Value>, ApiError> {
        let served = self.served(&reference.kind).await?;
        let path = served.path(&reference.namespace, &reference.name);
        match self.send("get", Method::GET, &path, JSON, String::new()).await {
            Ok((_, text)) => serde_json::from_str(&text).map(Some).map_err(|error| ApiError::Malformed(error.into())),
            Err(error) if error.code() == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One object with the names of its field managers (those of subresources left out: a controller that only writes
    /// status is no owner), none when it is not there.
    ///
    /// # Errors
    /// When the API server refuses it or cannot be asked.
    pub async fn get_managed(&self, reference: &ObjectRef) -> Result<Option<(Object, Vec<String>)>, ApiError> {
        let served = self.served(&reference.kind).await?;
        let path = served.path(&reference.namespace, &reference.name);
        match self.send("get", Method::GET, &path, JSON, String::new()).await {
            Ok((_, text)) => Ok(Some((parse(&text)?, managers(&text)))),
            Err(error) if error.code() == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The objects of a kind, in a namespace (none: all) and by label selector, sorted by namespace and name; at most
    /// `limit` and the word whether there are more.
    ///
    /// # Errors
    /// When the API server refuses it or cannot be asked.
    pub async fn list(
        &self,
        kind: &TypeMeta,
        namespace: Option<&str>,
        selector: &str,
        limit: u32,
    ) -> Result<(Vec<Object>, bool), ApiError> {
        #[derive(serde::Deserialize)]
        struct List {
            #[serde(default)]
            metadata: ListMeta,
            items: Vec<Object>,
        }
        #[derive(Default, serde::Deserialize)]
        struct ListMeta {
            #[serde(default, rename = "continue")]
            more: String,
        }
        let served = self.served(kind).await?;
        let path = served.path(namespace.unwrap_or_default(), "");
        let uri = format!("{path}?limit={limit}&labelSelector={}", encode(selector));
        let (_, text) = self.send("list", Method::GET, &uri, JSON, String::new()).await?;
        let list: List = serde_json::from_str(&text).map_err(|e| ApiError::Malformed(e.into()))?;
        let mut items = list.items;
        items.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok((items, !list.metadata.more.is_empty()))
    }

    async fn send(
        &self,
        verb: &'static str,
        method: Method,
        uri: &str,
        content_type: &'static str,
        body: String,
    ) -> Result<(StatusCode, String), ApiError> {
        let _timer = metrics().api_request(verb);
        // with the names of OpenTelemetry's semantic conventions for HTTP clients
        let path = uri.split_once('?').map_or(uri, |(path, _)| path);
        let span = match tracing::Span::current() {
            // nothing that a request of this host would be part of
            span if span.is_none() => span,
            _ => tracing::debug_span!("request", otel.name = verb, otel.kind = "client", http.request.method = %method,
                url.path = path, http.response.status_code = field::Empty, otel.status_code = field::Empty),
        };
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::ACCEPT, JSON)
            .body(Body::from(body.into_bytes()))
            .map_err(|e| ApiError::Malformed(e.into()))?;
        let exchange = async {
            let response = self.client.send(request).await.map_err(|e| ApiError::Transport(Box::new(e)))?;
            let (head, body) = response.into_parts();
            let bytes = body.collect().await.map_err(|e| ApiError::Transport(Box::new(e)))?.to_bytes();
            let text = String::from_utf8(bytes.into()).map_err(|e| ApiError::Malformed(e.into()))?;
            Ok::<_, ApiError>((head, text))
        };
        let ended = tokio::time::timeout(REQUEST_DEADLINE, exchange).instrument(span.clone()).await;
        let status = ended.as_ref().ok().and_then(|answer| answer.as_ref().ok()).map(|(head, _)| head.status);
        span.record("http.response.status_code", status.map(|status| status.as_u16()));
        if !status.is_some_and(|status| status.is_success()) {
            span.record("otel.status_code", "ERROR");
        }
        let (head, text) = ended.map_err(|_| ApiError::DeadlineExceeded(REQUEST_DEADLINE))??;
        if head.status.is_success() {
            return Ok((head.status, text));
        }
        metrics().api_error(verb, head.status.as_u16());
        let retry_after = head
            .headers
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        Err(refusal(head.status.as_u16(), &text, retry_after))
    }
}

/// A resource version that no object has: the API server's store begins at 1 and the first write makes 2. An apply that
/// carries it creates the object or fails with 409, so that nothing of somebody else's is ever touched, without reading
/// first (found by trying; a test holds it against the real API server).
const CREATE_ONLY: &str = "1";

/// The body of an apply with [`CREATE_ONLY`] in its metadata.
struct New<'a>(&'a Value);

impl Serialize for New<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Metadata<'a>(&'a Map<String, Value>);
        impl Serialize for Metadata<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut fields = serializer.serialize_map(Some(self.0.len() + 1))?;
                for (name, value) in self.0 {
                    fields.serialize_entry(name, value)?;
                }
                fields.serialize_entry("resourceVersion", CREATE_ONLY)?;
                fields.end()
            }
        }
        let Value::Object(body) = self.0 else { return self.0.serialize(serializer) };
        let mut fields = serializer.serialize_map(Some(body.len()))?;
        for (name, value) in body {
            match value {
                Value::Object(metadata) if name == "metadata" => fields.serialize_entry(name, &Metadata(metadata))?,
                _ => fields.serialize_entry(name, value)?,
            }
        }
        fields.end()
    }
}

const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

fn parse(text: &str) -> Result<Object, ApiError> {
    Object::parse(text).map_err(|e| ApiError::Malformed(e.into()))
}

fn refusal(code: u16, text: &str, retry_after: Option<Duration>) -> ApiError {
    #[derive(Default, serde::Deserialize)]
    struct Status {
        #[serde(default)]
        reason: String,
        #[serde(default)]
        message: String,
    }
    let status: Status = serde_json::from_str(text).unwrap_or_default();
    let message = if status.message.is_empty() { format!("HTTP status {code}") } else { status.message };
    ApiError::Status { code, reason: status.reason, message, retry_after }
}

/// Field managers, those of subresources left out.
fn managers(text: &str) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Managed {
        metadata: Meta,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Meta {
        #[serde(default)]
        managed_fields: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        manager: String,
        #[serde(default)]
        subresource: String,
    }
    let entries = serde_json::from_str::<Managed>(text).map(|m| m.metadata.managed_fields).unwrap_or_default();
    entries.into_iter().filter(|e| e.subresource.is_empty()).map(|e| e.manager).collect()
}

/// Percent-encodes a query value.
pub(crate) fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api_conventions() {
        let served = |api: &str, kind: &str, plural: &str, scope| Served {
            kind: TypeMeta::new(api, kind),
            plural: plural.into(),
            scope,
        };
        let deployments = served("apps/v1", "Deployment", "deployments", Scope::Namespaced);
        assert_eq!(deployments.path("n", "a"), "/apis/apps/v1/namespaces/n/deployments/a");
        assert_eq!(deployments.path("", ""), "/apis/apps/v1/deployments");
        let nodes = served("v1", "Node", "nodes", Scope::Cluster);
        assert_eq!(nodes.path("", "a"), "/api/v1/nodes/a");
    }

    #[test]
    fn a_new_object_carries_the_version_that_none_has() {
        let body = json!({"kind": "A", "metadata": {"name": "a"}, "spec": {"metadata": {}}});
        let sent: Value = serde_json::from_str(&serde_json::to_string(&New(&body)).unwrap()).unwrap();
        let metadata = json!({"name": "a", "resourceVersion": "1"});
        assert_eq!(sent, json!({"kind": "A", "metadata": metadata, "spec": {"metadata": {}}}));
    }

    #[test]
    fn query_values_are_encoded() {
        assert_eq!(encode("transom:p q"), "transom%3Ap%20q");
    }

    #[test]
    fn managers_of_status_are_no_owners() {
        let text = r#"{"metadata":{"managedFields":[{"manager":"us"},{"manager":"kcm","subresource":"status"},
            {"manager":"kubectl"}]}}"#;
        assert_eq!(managers(text), ["us", "kubectl"]);
    }
}
