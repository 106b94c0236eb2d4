//! Answers for plugins: one file for each kind of lookup.
//!
//! An answer is kept for as long as a plan rests on it and shared by all primaries that asked the same under the same
//! grant. When what it speaks of changes, exactly the primaries that used it are reconciled again. What nobody watches
//! (gRPC, HTTP, registries, artifacts) is asked for again when it gets too old; see [`table`].
//!
//! # Limits
//! gRPC: request 64 KiB, response 4 MiB, 5 s. HTTP: body 4 MiB, 10 s. Image: 10 s. Artifact: 16 MiB and 10,000 files
//! unpacked, 60 s. Engine: input and output 16 MiB (with contents in the place of handles 24 MiB), by default 10 s and
//! 256 MiB. Objects: 1,000 and 4 MiB. Answers in memory: 128 MiB, as much again for outputs of engines, and 64 MiB of
//! contents; requests to one endpoint at the same time: 32.

mod artifact;
pub(crate) mod client;
mod clock;
mod content;
mod engine;
pub(crate) mod grants;
mod grpc;
mod http;
pub(crate) mod image;
mod kubernetes;
pub(crate) mod random;
pub(crate) mod registry;
mod selector;
mod table;
#[cfg(test)]
pub(crate) mod testing;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::api::plugin::SecretRef;
use crate::control::account::Account;
use crate::control::cluster::Cluster;
use crate::control::key::PrimaryKey;
use crate::plan::contract::{Answer, Answered, Delivery, Lookup, Manifest, ObjectRef, TypeMeta};

use artifact::Artifacts;
use client::{Clients, SecretData};
use content::{ContentDigest, Handle};
use grants::Protocol;
use table::{Freshness, Table};

pub use engine::Runner;
pub use grants::{Endpoint, Grants};
pub use selector::Selector;
pub use table::Stale;

/// What has files.
const FILES: [Protocol; 4] = [Protocol::Oci, Protocol::Http, Protocol::Git, Protocol::Folder];

/// Where the host keeps what it needs for lookups.
pub struct Places {
    /// Namespace of the Secret with the host's key.
    pub namespace: String,
    /// Folder for artifacts, of the host alone.
    pub cache_dir: PathBuf,
}

/// On whose behalf a lookup is made.
pub struct Asker<'a> {
    /// The primary.
    pub key: &'a PrimaryKey,
    /// Its UID.
    pub uid: String,
    /// Name of the `Plugin` record.
    pub plugin: &'a str,
    /// What the plugin declares.
    pub manifest: &'a Manifest,
    /// What the record grants.
    pub grants: &'a Grants,
    /// The API server in the name of the plugin's account.
    pub cluster: &'a Arc<Cluster>,
    /// Does a namespace of this name belong to the primary, as a child of it?
    pub owns: Box<dyn Fn(&str) -> bool + Send + Sync + 'a>,
}

/// What fetching an answer needs.
struct Sources {
    cluster: Arc<Cluster>,
    clients: Clients,
    artifacts: Artifacts,
}

/// Answers lookups for the whole host.
pub struct Lookups {
    sources: Arc<Sources>,
    table: Arc<Table>,
    kinds: kubernetes::Kinds,
    engines: engine::Engines,
    random: random::Random,
}

impl Lookups {
    /// `stale` is called with every primary whose plan rests on an answer that no longer holds. Must be called within a
    /// runtime.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, places: Places, stale: Arc<Stale>) -> Self {
        let table = Table::new(stale);
        let kinds = kubernetes::Kinds::new(table.clone());
        let reader = cluster.clone();
        let read = move |account: Option<Account>, reference| {
            let reader = account.map_or_else(|| reader.clone(), |account| Arc::new(reader.acting_as(account)));
            read_secret(reader, reference).boxed()
        };
        let clients = Clients::new(Arc::new(read));
        let artifacts = Artifacts::new(places.cache_dir.join("artifacts"));
        let random = random::Random::new(places.namespace);
        let sources = Arc::new(Sources { cluster, clients, artifacts });
        Self { sources, table, kinds, engines: engine::Engines::new(), random }
    }

    /// Answers to what the last plan of a primary used, as of now.
    pub async fn last(&self, asker: &Asker<'_>) -> Vec<Answered> {
        self.answer(asker, self.table.used_by(asker.key)).await
    }

    /// Answers lookups, all at the same time, in the order in which they were asked.
    pub async fn answer(&self, asker: &Asker<'_>, lookups: Vec<Lookup>) -> Vec<Answered> {
        let mut answers = Vec::with_capacity(lookups.len());
        for lookup in &lookups {
            answers.push(self.one(asker, lookup));
        }
        let answers = futures::future::join_all(answers).await;
        lookups.into_iter().zip(answers).map(|(lookup, answer)| Answered { lookup, answer }).collect()
    }

    /// Brings a primary up when an object that stands in its way changes or goes; until its next plan is carried out.
    pub async fn follow(&self, cluster: &Arc<Cluster>, key: &PrimaryKey, object: &ObjectRef) {
        self.kinds.watch(cluster, &object.kind, Some(&object.namespace)).await;
        self.table.follow(key, object);
    }

    /// Remembers what a plan rests on, and forgets the rest. Returns after how long an answer changes by itself.
    pub fn keep(&self, key: &PrimaryKey, used: &[Answered]) -> Option<Duration> {
        self.table.keep(key, used.iter().map(|answered| &answered.lookup));
        used.iter().filter_map(|answered| clock::changes_in(&answered.lookup)).min()
    }

    /// Forgets a primary.
    pub fn forget(&self, key: &PrimaryKey) {
        self.table.keep(key, []);
    }

    /// Makes a unary gRPC call, now and without memory: for the calls of a plan.
    pub async fn call(&self, grants: &Grants, endpoint: &str, path: &str, message: &[u8]) -> Answer {
        match grants.endpoint(endpoint, &[Protocol::Grpc]) {
            Ok(endpoint) => grpc::answer(&self.sources.clients, endpoint, path, message).await,
            Err(denied) => denied,
        }
    }

    async fn one(&self, asker: &Asker<'_>, lookup: &Lookup) -> Answer {
        match self.try_one(asker, lookup).await {
            Ok(answer) | Err(answer) => answer,
        }
    }

    /// `Err` is an answer, too: the one that stops.
    async fn try_one(&self, asker: &Asker<'_>, lookup: &Lookup) -> Result<Answer, Answer> {
        let Asker { grants, .. } = asker;
        Ok(match lookup {
            Lookup::Clock { seconds } => clock::answer(*seconds),
            Lookup::Random { label, length } => {
                self.random.answer(&self.sources.cluster, &asker.uid, label, *length).await
            }
            Lookup::Engine { engine, input } => self.engine(asker, grants.engine(engine)?, input).await?,
            Lookup::Object(reference) => {
                let delivery =
                    may_read(asker.key, asker.manifest, &asker.owns, &reference.kind, Some(&reference.namespace))?;
                self.kinds.watch(asker.cluster, &reference.kind, Some(&reference.namespace)).await;
                let reference = reference.clone();
                self.watched(asker, lookup, delivery, move |cluster| {
                    let reference = reference.clone();
                    async move { kubernetes::object(&cluster, &reference, delivery).await }.boxed()
                })
                .await
            }
            Lookup::Objects { kind, namespace, label_selector } => {
                let delivery = may_read(asker.key, asker.manifest, &asker.owns, kind, namespace.as_deref())?;
                self.kinds.watch(asker.cluster, kind, namespace.as_deref()).await;
                let asked = (kind.clone(), namespace.clone(), label_selector.clone());
                self.watched(asker, lookup, delivery, move |cluster| {
                    let (kind, namespace, selector) = asked.clone();
                    async move {
                        let namespace = namespace.as_deref();
                        kubernetes::objects(&cluster, &kind, namespace, &selector, delivery).await
                    }
                    .boxed()
                })
                .await
            }
            Lookup::Grpc { endpoint, path, message, max_age_ms } => {
                let endpoint = grants.endpoint(endpoint, &[Protocol::Grpc])?;
                let asked = (path.clone(), message.clone());
                self.aged(asker, lookup, endpoint, *max_age_ms, move |sources, endpoint| {
                    let (path, message) = asked.clone();
                    async move { grpc::answer(&sources.clients, &endpoint, &path, &message).await }.boxed()
                })
                .await
            }
            Lookup::Http { endpoint, head, path, max_age_ms } => {
                let endpoint = grants.endpoint(endpoint, &[Protocol::Http])?;
                let (head, path) = (*head, path.clone());
                self.aged(asker, lookup, endpoint, *max_age_ms, move |sources, endpoint| {
                    let path = path.clone();
                    async move { http::answer(&sources.clients, &endpoint, head, &path).await }.boxed()
                })
                .await
            }
            Lookup::Image { reference, max_age_ms } => {
                let image = image::Reference::parse(reference)?;
                let endpoint = grants.registry(&image.authority, &image.repository)?;
                self.aged(asker, lookup, endpoint, *max_age_ms, move |sources, endpoint| {
                    let image = image.clone();
                    async move { image::answer(&sources.clients, &endpoint, &image).await }.boxed()
                })
                .await
            }
            Lookup::Artifact { endpoint, reference, include, max_age_ms } => {
                let endpoint = grants.endpoint(endpoint, &FILES)?;
                let asked = (reference.clone(), include.clone());
                self.aged(asker, lookup, endpoint, *max_age_ms, move |sources, endpoint| {
                    let (reference, include) = asked.clone();
                    async move { sources.artifacts.answer(&sources.clients, &endpoint, &reference, &include).await }
                        .boxed()
                })
                .await
            }
        })
    }

    /// The output of an engine, whose input may have handles in the place of contents.
    async fn engine(&self, asker: &Asker<'_>, runner: &Runner, input: &[u8]) -> Result<Answer, Answer> {
        let Some(parts) = content::parts(input)? else {
            let whole = || async { Ok(Cow::Borrowed(input)) }.boxed();
            return Ok(self.engines.answer(runner, input, whole).await);
        };
        // before anything that is remembered: the output tells of the contents as well
        let given = self.given(asker, &content::handles(&parts)).await?;
        let whole = || async { self.contents(asker, &parts, &given).await.map(Cow::Owned) }.boxed();
        Ok(self.engines.answer(runner, input, whole).await)
    }

    /// The artifacts by which the primary was given these handles.
    async fn given(
        &self,
        asker: &Asker<'_>,
        handles: &[Handle],
    ) -> Result<HashMap<ContentDigest, Arc<Lookup>>, Answer> {
        let mut given = HashMap::new();
        for (lookup, known) in self.table.artifacts_of(asker.key) {
            let handed_out = match known {
                Some(known) => known,
                None if handles.iter().all(|handle| given.contains_key(&handle.digest)) => break,
                // the answer was thrown away for want of space
                None => {
                    let answer = self.fetch(asker, &lookup).await?;
                    content::handed_out(include_of(&lookup), &answer)
                }
            };
            let lookup = Arc::new(lookup);
            given.extend(handed_out.into_iter().map(|handle| (handle.digest, lookup.clone())));
        }
        match handles.iter().all(|handle| given.contains_key(&handle.digest)) {
            true => Ok(given),
            false => Err(Answer::Denied(
                "the engine's input names contents by a handle that this object was not given".into(),
            )),
        }
    }

    /// The input of an engine with contents; `given` says which artifact they are from.
    async fn contents(
        &self,
        asker: &Asker<'_>,
        parts: &[content::Part<'_>],
        given: &HashMap<ContentDigest, Arc<Lookup>>,
    ) -> Result<Vec<u8>, Answer> {
        let kept = &self.sources.artifacts.contents;
        let mut found = HashMap::new();
        for handle in content::handles(parts) {
            let mut content = kept.get(&handle.digest);
            if let (None, Some(lookup)) = (&content, given.get(&handle.digest)) {
                self.fetch(asker, lookup).await?;
                content = kept.get(&handle.digest);
            }
            found.insert(handle.digest, content.ok_or_else(|| content::gone(&handle))?);
        }
        content::join(parts, &found)
    }

    /// The files of an artifact, past what is remembered of it.
    async fn fetch(&self, asker: &Asker<'_>, lookup: &Lookup) -> Result<Answer, Answer> {
        let Lookup::Artifact { endpoint, reference, include, .. } = lookup else {
            return Ok(Answer::Absent);
        };
        let endpoint = asker.grants.endpoint(endpoint, &FILES)?;
        Ok(self.sources.artifacts.answer(&self.sources.clients, endpoint, reference, include).await)
    }

    /// Something in the API server. Plugins do not share such answers: each reads as itself.
    async fn watched(
        &self,
        asker: &Asker<'_>,
        lookup: &Lookup,
        delivery: Delivery,
        fetch: impl Fn(Arc<Cluster>) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
    ) -> Answer {
        let cluster = asker.cluster.clone();
        let account = cluster.account().map(ToString::to_string).unwrap_or_default();
        let grant: Arc<str> = format!("{} {account} {delivery:?}", asker.plugin).into();
        let source = Arc::new(move || fetch(cluster.clone()));
        self.table.answer(asker.key, lookup, &grant, Freshness::Watched, source).await
    }

    /// Something outside. Plugins share answers when their records grant the same.
    async fn aged(
        &self,
        asker: &Asker<'_>,
        lookup: &Lookup,
        endpoint: &Arc<Endpoint>,
        max_age_ms: u32,
        fetch: impl Fn(Arc<Sources>, Arc<Endpoint>) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
    ) -> Answer {
        let (sources, granted) = (self.sources.clone(), endpoint.clone());
        let source = Arc::new(move || fetch(sources.clone(), granted.clone()));
        let freshness = Freshness::Aged(Duration::from_millis(max_age_ms.into()));
        self.table.answer(asker.key, lookup, &endpoint.digest, freshness, source).await
    }
}

/// Which files of an artifact are asked for.
fn include_of(lookup: &Lookup) -> &[String] {
    match lookup {
        Lookup::Artifact { include, .. } => include,
        _ => &[],
    }
}

/// `data` of a Secret.
pub(crate) async fn read_secret(cluster: Arc<Cluster>, reference: SecretRef) -> Result<Option<SecretData>, String> {
    let SecretRef { namespace, name } = reference;
    let reference = ObjectRef { kind: TypeMeta::new("v1", "Secret"), namespace, name };
    let Some(secret) = cluster.get(&reference).await.map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let value = secret.value();
    let data = value.get("data").and_then(serde_json::Value::as_object);
    let decode = |(key, text): (&String, &serde_json::Value)| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text.as_str()?).ok()?;
        Some((key.clone(), bytes))
    };
    Ok(Some(data.into_iter().flatten().filter_map(decode).collect()))
}

/// May this plugin read this kind in this namespace for this primary, and how much of it?
fn may_read(
    key: &PrimaryKey,
    manifest: &Manifest,
    owns: &(dyn Fn(&str) -> bool + Send + Sync),
    kind: &TypeMeta,
    namespace: Option<&str>,
) -> Result<Delivery, Answer> {
    let Some((_, delivery)) = manifest.reads.iter().find(|(declared, _)| declared == kind) else {
        return Err(Answer::Denied(format!("the plugin did not declare that it reads {kind}")));
    };
    // a namespaced primary is a tenant's: through it the tenant must not see what is in other namespaces, but for those
    // that the plugin made for it
    let foreign = namespace.is_none_or(|asked| !asked.is_empty() && asked != &*key.namespace);
    if foreign && !key.namespace.is_empty() && !namespace.is_some_and(owns) {
        let asked = namespace.unwrap_or("all namespaces");
        let message =
            format!("{kind} in {asked}: only the primary's own namespace, and those that it owns, may be read");
        return Err(Answer::Denied(message));
    }
    Ok(*delivery)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            name: "p".into(),
            version: "1".into(),
            crds: vec![],
            children: vec![],
            reads: vec![(TypeMeta::new("v1", "Secret"), Delivery::Full)],
            endpoints: vec![],
            engines: vec![],
            config_schema: None,
            finalizes: false,
        }
    }

    #[test]
    fn a_tenant_reads_declared_kinds_in_its_own_namespaces_only() {
        let key = PrimaryKey::new(Arc::new(TypeMeta::new("g/v1", "K")), "mine", "a");
        let secret = TypeMeta::new("v1", "Secret");
        let manifest = manifest();
        let read = |kind: &TypeMeta, namespace| may_read(&key, &manifest, &|name| name == "made", kind, namespace);
        assert_eq!(read(&secret, Some("mine")), Ok(Delivery::Full));
        assert_eq!(read(&secret, Some("made")), Ok(Delivery::Full), "a namespace of its own");
        assert!(read(&secret, Some("other")).is_err());
        assert!(read(&secret, None).is_err());
        assert!(read(&TypeMeta::new("v1", "Pod"), Some("mine")).is_err());
    }
}
