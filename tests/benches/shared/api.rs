//! The API server as the measuring client uses it: raw requests, and watches that read next to nothing.

use anyhow::{Context, Result, ensure};
use futures::{Stream, StreamExt as _};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::WatchEvent;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How a kind is served.
pub(crate) struct Kind {
    pub(crate) kind: &'static str,
    pub(crate) path: &'static str,
    pub(crate) plural: &'static str,
}

pub(crate) const DEPLOYMENTS: Kind = Kind { kind: "Deployment", path: "/apis/apps/v1", plural: "deployments" };
pub(crate) const CONFIG_MAPS: Kind = Kind { kind: "ConfigMap", path: "/api/v1", plural: "configmaps" };

impl Kind {
    /// Is this its name in paths?
    pub(crate) fn is(&self, resource: &str) -> bool {
        self.plural == resource
    }

    pub(crate) fn collection(&self, namespace: &str) -> String {
        format!("{}/namespaces/{namespace}/{}", self.path, self.plural)
    }

    /// All of them, in whichever namespace.
    pub(crate) fn everywhere(&self) -> String {
        format!("{}/{}", self.path, self.plural)
    }
}

/// Object metadata only, for kinds that are just counted.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

/// How much of each object a watch brings.
#[derive(Clone, Copy)]
pub(crate) enum Depth {
    Metadata,
    Whole,
}

/// What a watch can be taken up from.
pub(crate) trait Versioned {
    fn resource_version(&self) -> &str;
}

/// Requests without limits.
#[derive(Clone)]
pub(crate) struct Api {
    client: kube::Client,
}

impl Api {
    /// As the user of the kubeconfig that this variable names.
    pub(crate) async fn new(variable: &str) -> Result<Self> {
        let path =
            std::env::var_os(variable).with_context(|| format!("{variable} is not set: use cargo xtask bench"))?;
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?;
        Ok(Self { client: kube::Client::try_from(config)? })
    }

    /// Creates an object from JSON text.
    pub(crate) async fn create(&self, collection: &str, body: String) -> Result<()> {
        let (status, text) = self.send(Method::POST, collection, JSON, body).await?;
        ensure!(status == StatusCode::CREATED, "creating in {collection}: {text}");
        Ok(())
    }

    /// Server-side apply of JSON text.
    pub(crate) async fn apply(&self, path: &str, body: String) -> Result<()> {
        let uri = format!("{path}?fieldManager=bare&force=true");
        let (status, text) = self.send(Method::PATCH, &uri, APPLY, body).await?;
        ensure!(status.is_success(), "applying {path}: {text}");
        Ok(())
    }

    /// A merge patch by someone who has no business here.
    pub(crate) async fn intrude(&self, path: &str, body: &Value) -> Result<()> {
        let uri = format!("{path}?fieldManager=intruder");
        let (status, text) = self.send(Method::PATCH, &uri, MERGE, body.to_string()).await?;
        ensure!(status.is_success(), "patching {path}: {text}");
        Ok(())
    }

    /// Deletes an object after everything that it owns.
    pub(crate) async fn delete_in_foreground(&self, path: &str) -> Result<()> {
        let options = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground" });
        let (status, text) = self.send(Method::DELETE, path, JSON, options.to_string()).await?;
        ensure!(status.is_success(), "deleting {path}: {text}");
        Ok(())
    }

    /// One object or list; none when it is not there.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let (status, text) = self.send(Method::GET, path, JSON, String::new()).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        ensure!(status.is_success(), "reading {path}: {text}");
        Ok(Some(serde_json::from_str(&text)?))
    }

    /// A namespace in which pods can run: with the account that they get.
    pub(crate) async fn create_namespace(&self, name: &str) -> Result<()> {
        let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        self.create("/api/v1/namespaces", body.to_string()).await?;
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        while self.get::<serde::de::IgnoredAny>(&account).await?.is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Changes in a collection from now on. The API server ends a watch that does not keep up; it is taken up again then.
    pub(crate) async fn watch<T>(
        &self,
        collection: &str,
        depth: Depth,
    ) -> Result<impl Stream<Item = Result<WatchEvent<T>>> + use<T>>
    where
        T: Clone + DeserializeOwned + Versioned + Send + 'static,
    {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct List {
            metadata: ListMeta,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct ListMeta {
            resource_version: String,
        }
        let list = self.get::<List>(&format!("{collection}?limit=1")).await?;
        let version = list.with_context(|| format!("{collection} is not served"))?.metadata.resource_version;
        let accept = match depth {
            Depth::Metadata => METADATA,
            Depth::Whole => JSON,
        };
        let (client, collection) = (self.client.clone(), collection.to_owned());
        let open = move |version: String| {
            let (client, collection) = (client.clone(), collection.clone());
            async move {
                let uri = format!("{collection}?watch=true&timeoutSeconds=3600&resourceVersion={version}");
                let request = Request::builder().uri(uri).header(http::header::ACCEPT, accept).body(Vec::new())?;
                anyhow::Ok(client.request_events::<T>(request).await?.boxed())
            }
        };
        let first = open(version.clone()).await?;
        Ok(futures::stream::try_unfold((first, version, open), async |(mut events, mut version, open)| {
            loop {
                match events.next().await {
                    Some(event) => {
                        let event = event?;
                        if let WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) =
                            &event
                        {
                            object.resource_version().clone_into(&mut version);
                        }
                        return Ok(Some((event, (events, version, open))));
                    }
                    None => events = open(version.clone()).await?,
                }
            }
        }))
    }

    /// Any request: status and text of the answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        uri: &str,
        content_type: &str,
        body: String,
    ) -> Result<(StatusCode, String)> {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(http::header::CONTENT_TYPE, content_type)
            .header(http::header::ACCEPT, JSON)
            .body(Body::from(body.into_bytes()))?;
        let (head, body) = self.client.send(request).await?.into_parts();
        let bytes = body.collect().await?.to_bytes();
        Ok((head.status, String::from_utf8_lossy(&bytes).into_owned()))
    }
}
