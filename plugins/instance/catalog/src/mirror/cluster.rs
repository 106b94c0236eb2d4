//! The cluster's side: three watches, and writes that are sent only where something differs.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup, ObjectRef, Store, reflector};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::desired;
use super::queue::Key;
use crate::metrics::metrics;

/// Who writes.
const MANAGER: &str = "transom-catalog";

/// How many [`Cluster::watch`] starts.
pub(super) const WATCHES: usize = 3;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Why the cluster is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The API server, or the way to it.
    #[error("{verb} of {what} failed")]
    Request { verb: &'static str, what: String, source: kube::Error },
    /// As above, for a Secret: what the API server says could quote its values.
    #[error("{verb} of Secret {what} failed: {reason}")]
    Secret { verb: &'static str, what: String, reason: String },
    /// Made by another catalog.
    #[error("{what} was made by the catalog {other}: remove its label {label} if that one is no more", label = desired::CATALOG)]
    Foreign { what: String, other: String },
}

impl Error {
    fn request(verb: &'static str, what: &str, source: kube::Error) -> Self {
        Self::Request { verb, what: what.to_owned(), source }
    }

    fn secret(verb: &'static str, what: &str, source: &kube::Error) -> Self {
        let reason = match source {
            kube::Error::Api(status) => format!("{} {}", status.code, status.reason),
            _ => "the API server cannot be reached".to_owned(),
        };
        Self::Secret { verb, what: what.to_owned(), reason }
    }

    /// What the API server says of an object that it will never take.
    pub(super) fn refusal(&self) -> Option<&str> {
        match self {
            Self::Request { verb: "apply", source: kube::Error::Api(status), .. }
                if matches!(status.code, 400 | 413 | 422) =>
            {
                Some(&status.message)
            }
            _ => None,
        }
    }
}

/// What a watch tells.
pub(super) enum News {
    /// An object is new, changed or gone.
    Changed(Key),
    /// A list is complete, the first one or one after a gap.
    Listed(&'static str),
}

/// The objects of one catalog in one namespace.
pub(super) struct Cluster {
    templates: Api<DynamicObject>,
    instances: Api<DynamicObject>,
    secrets: Api<Secret>,
    known_templates: Store<DynamicObject>,
    known_instances: Store<DynamicObject>,
    known_secrets: Store<Secret>,
    catalog: Uuid,
    _watches: JoinSet<()>,
}

impl Cluster {
    /// Starts to watch, until it is dropped.
    pub(super) fn watch(client: Client, namespace: &str, catalog: Uuid, news: mpsc::Sender<News>) -> Self {
        let template = desired::template_resource();
        let instance = desired::instance_resource();
        let templates = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &template);
        let instances = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &instance);
        let secrets = Api::<Secret>::namespaced(client, namespace);
        let mut watches = JoinSet::new();
        let writer = Writer::new(template);
        let known_templates = writer.as_reader();
        watches.spawn(follow(writer, templates.clone(), catalog, news.clone(), "template", |object| {
            Key::Template(object.name_any())
        }));
        let writer = Writer::new(instance);
        let known_instances = writer.as_reader();
        watches.spawn(follow(writer, instances.clone(), catalog, news.clone(), "instance", |object| {
            Key::Instance(object.name_any())
        }));
        let writer = Writer::new(());
        let known_secrets = writer.as_reader();
        watches
            .spawn(follow(writer, secrets.clone(), catalog, news, "secret", |object| secret_key(&object.name_any())));
        Self {
            templates,
            instances,
            secrets,
            known_templates,
            known_instances,
            known_secrets,
            catalog,
            _watches: watches,
        }
    }

    /// Keys of all objects that are there.
    pub(super) fn keys(&self) -> Vec<Key> {
        let templates = self.known_templates.state().into_iter().map(|object| Key::Template(object.name_any()));
        let instances = self.known_instances.state().into_iter().map(|object| Key::Instance(object.name_any()));
        let secrets = self.known_secrets.state().into_iter().map(|object| secret_key(&object.name_any()));
        templates.chain(instances).chain(secrets).collect()
    }

    pub(super) fn template(&self, name: &str) -> Option<Arc<DynamicObject>> {
        find(&self.known_templates, name, self.namespace(), desired::template_resource())
    }

    pub(super) fn instance(&self, name: &str) -> Option<Arc<DynamicObject>> {
        find(&self.known_instances, name, self.namespace(), desired::instance_resource())
    }

    pub(super) fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        find(&self.known_secrets, name, self.namespace(), ())
    }

    /// All that an instance has.
    pub(super) fn secrets_of(&self, instance: &str) -> Vec<Arc<Secret>> {
        let is_of =
            |secret: &Secret| secret.metadata.name.as_deref().and_then(desired::instance_of_secret) == Some(instance);
        self.known_secrets.state_filter(is_of)
    }

    fn namespace(&self) -> &str {
        self.templates.namespace().unwrap_or_default()
    }

    /// An instance as the API server has it, not as the watch has heard.
    pub(super) async fn get_instance(&self, name: &str) -> Result<Option<DynamicObject>, Error> {
        self.instances.get_opt(name).await.map_err(|error| Error::request("get", name, error))
    }

    pub(super) async fn apply_template(&self, wanted: &Value, live: Option<&DynamicObject>) -> Result<(), Error> {
        self.apply(&self.templates, wanted, live, "template").await
    }

    pub(super) async fn apply_instance(&self, wanted: &Value, live: Option<&DynamicObject>) -> Result<(), Error> {
        self.apply(&self.instances, wanted, live, "instance").await
    }

    async fn apply(
        &self,
        api: &Api<DynamicObject>,
        wanted: &Value,
        live: Option<&DynamicObject>,
        kind: &'static str,
    ) -> Result<(), Error> {
        let name = wanted.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        match live {
            Some(live) if live.metadata.deletion_timestamp.is_some() => return Ok(()),
            Some(live) if desired::is_as_wanted(wanted, live) => return Ok(()),
            Some(_) => {}
            None => {
                let found = api.get_opt(name).await.map_err(|error| Error::request("get", name, error))?;
                self.check_owner(name, found.as_ref())?;
            }
        }
        let parameters = PatchParams::apply(MANAGER).force();
        let applied = api.patch(name, &parameters, &Patch::Apply(wanted)).await;
        let mut applied = applied.map_err(|error| Error::request("apply", name, error))?;
        metrics().write(kind, "apply");
        if desired::is_as_wanted(wanted, &applied) || applied.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        // somebody else has added to what is ours alone, which applying does not take away
        if let (Some(spec), Some(wanted)) = (applied.data.get_mut("spec"), wanted.get("spec")) {
            *spec = wanted.clone();
        }
        let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        api.replace(name, &parameters, &applied).await.map_err(|error| Error::request("replace", name, error))?;
        metrics().write(kind, "replace");
        Ok(())
    }

    fn check_owner<K: Resource>(&self, name: &str, found: Option<&K>) -> Result<(), Error> {
        let labels = found.and_then(|found| found.meta().labels.as_ref());
        match labels.and_then(|labels| labels.get(desired::CATALOG)) {
            Some(other) if *other != self.catalog.to_string() => {
                Err(Error::Foreign { what: name.to_owned(), other: other.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Writes the Secret of an instance, where it differs.
    pub(super) async fn apply_secret(&self, wanted: &Value, live: Option<&Secret>) -> Result<(), Error> {
        if live.is_some_and(|live| desired::is_secret_as_wanted(wanted, live)) {
            return Ok(());
        }
        let name = wanted.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        if live.is_none() {
            let found = self.secrets.get_metadata_opt(name).await;
            let found = found.map_err(|error| Error::secret("get", name, &error))?;
            self.check_owner(name, found.as_ref())?;
        }
        let parameters = PatchParams::apply(MANAGER).force();
        let applied = self.secrets.patch(name, &parameters, &Patch::Apply(wanted)).await;
        applied.map_err(|error| Error::secret("apply", name, &error))?;
        metrics().write("secret", "apply");
        Ok(())
    }

    pub(super) async fn delete_template(&self, live: &DynamicObject) -> Result<(), Error> {
        delete(&self.templates, live, "template").await
    }

    pub(super) async fn delete_instance(&self, live: &DynamicObject) -> Result<(), Error> {
        delete(&self.instances, live, "instance").await
    }

    pub(super) async fn delete_secret(&self, live: &Secret) -> Result<(), Error> {
        delete(&self.secrets, live, "secret").await
    }

    /// Deletes all Secrets of an instance, even those that the watch has not heard of.
    pub(super) async fn clear_secrets(&self, instance: &str) -> Result<(), Error> {
        let selector = format!("{}={},{}={instance}", desired::CATALOG, self.catalog, desired::INSTANCE);
        let found = self.secrets.list(&ListParams::default().labels(&selector)).await;
        for secret in found.map_err(|error| Error::secret("list", instance, &error))? {
            self.delete_secret(&secret).await?;
        }
        Ok(())
    }
}

/// The instance that a Secret is of.
fn secret_key(name: &str) -> Key {
    desired::instance_of_secret(name)
        .map_or_else(|| Key::Secret(name.to_owned()), |instance| Key::Instance(instance.to_owned()))
}

fn find<K>(store: &Store<K>, name: &str, namespace: &str, dynamic: K::DynamicType) -> Option<Arc<K>>
where
    K: Lookup + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    store.get(&ObjectRef::new_with(name, dynamic).within(namespace))
}

/// The very object that was seen, and nothing that has come in its place.
async fn delete<K>(api: &Api<K>, live: &K, kind: &'static str) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    if live.meta().deletion_timestamp.is_some() {
        return Ok(());
    }
    let name = live.name_any();
    let preconditions = Preconditions { uid: live.meta().uid.clone(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match api.delete(&name, &parameters).await {
        Ok(_) => {
            metrics().write(kind, "delete");
            Ok(())
        }
        // gone, or another one by now
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) if kind == "secret" => Err(Error::secret("delete", &name, &error)),
        Err(error) => Err(Error::request("delete", &name, error)),
    }
}

/// Between tries to watch: longer and longer, up to a bound that is short against how long an outage takes to be noticed.
struct Pauses(Duration);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(LAST_PAUSE);
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = FIRST_PAUSE;
    }
}

async fn follow<K>(
    writer: Writer<K>,
    api: Api<K>,
    catalog: Uuid,
    news: mpsc::Sender<News>,
    kind: &'static str,
    key: fn(&K) -> Key,
) where
    K: Resource + Lookup + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    <K as Lookup>::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    let selection = watcher::Config::default().labels(&format!("{}={catalog}", desired::CATALOG));
    let events = reflector(writer, watcher(api, selection).backoff(Pauses(FIRST_PAUSE)));
    tell(Box::pin(events), news, kind, key).await;
}

async fn tell<K>(
    mut events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Unpin,
    news: mpsc::Sender<News>,
    kind: &'static str,
    key: fn(&K) -> Key,
) {
    let mut is_failing = false;
    while let Some(event) = events.next().await {
        let told = match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => News::Changed(key(&object)),
            Ok(watcher::Event::InitDone) => {
                is_failing = false;
                News::Listed(kind)
            }
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => continue,
            Err(error) => {
                // an object that does not parse could be quoted
                let error = if kind == "secret" { "of Secrets".to_owned() } else { crate::telemetry::chain(&error) };
                if !is_failing {
                    tracing::warn!(kind, error, "a watch fails and is tried again");
                }
                is_failing = true;
                continue;
            }
        };
        if news.send(told).await.is_err() {
            return;
        }
    }
}
