//! A live object with its plugin and its children, for the commands that show one.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, bail};
use kube::Api;
use serde_json::Value;

use crate::api::names;
use crate::api::plugin::{KindRef, Plugin};
use crate::control::cluster::{ApiError, Cluster};
use crate::plan::contract::{ObjectRef, TypeMeta};
use crate::plan::object::Object;
use crate::plan::request::Children;

/// What is there.
pub(super) struct Subject {
    pub(super) cluster: Arc<Cluster>,
    /// The record that serves it.
    pub(super) plugin: Plugin,
    pub(super) reference: ObjectRef,
    pub(super) primary: Object,
    pub(super) children: Children,
}

impl Subject {
    /// Reads it with the caller's rights. `kind` is a kind, or kind and group.
    pub(super) async fn find(kind: &str, namespace: &str, name: &str) -> anyhow::Result<Self> {
        let client = kube::Client::try_default().await.context("no cluster: set KUBECONFIG, or run inside one")?;
        let cluster = Arc::new(Cluster::new(client.clone(), None));
        let plugins = Api::<Plugin>::all(client).list(&Default::default()).await.context("cannot list Plugins")?.items;
        let (reference, primary) = primary(&cluster, &plugins, kind, namespace, name).await?;
        let full = format!("{}.{}", reference.kind.kind, reference.kind.group());
        let mut serving: Vec<Plugin> = plugins
            .into_iter()
            .filter(|plugin| plugin.status.as_ref().is_some_and(|status| status.kinds.contains(&full)))
            .collect();
        let mut children = Children::new();
        let selector = format!("{}={}", names::OWNER_LABEL, primary.uid);
        let mut kinds: Vec<_> = serving.iter().filter_map(|p| p.status.as_ref()).flat_map(|s| &s.child_kinds).collect();
        kinds.sort();
        kinds.dedup();
        for child in kinds {
            let kind = TypeMeta::new(child.api_version.clone(), child.kind.clone());
            let objects = match cluster.list(&kind, None, &selector, 500).await {
                Ok((objects, _)) => objects,
                // a plugin can make kinds that come with somebody else's operator, and go with it
                Err(ApiError::NotServed(_)) => continue,
                Err(error) => return Err(error).with_context(|| kind.to_string()),
            };
            children.extend(objects.into_iter().map(|object| (object.reference(&kind), Arc::new(object))));
        }
        // hosts split by selector can have several records for a kind: the children say which
        let made_by = children.values().find_map(|child| label(child, names::PLUGIN_LABEL));
        if let Some(made_by) = made_by {
            serving.retain(|plugin| plugin.metadata.name.as_ref() == Some(&made_by));
        }
        let plugin = serving.into_iter().next().with_context(|| format!("no plugin serves {full} now"))?;
        Ok(Self { cluster, plugin, reference, primary, children })
    }

    /// Name of the record.
    pub(super) fn plugin_name(&self) -> String {
        self.plugin.metadata.name.clone().unwrap_or_default()
    }
}

pub(super) async fn primary(
    cluster: &Cluster,
    plugins: &[Plugin],
    kind: &str,
    namespace: &str,
    name: &str,
) -> anyhow::Result<(ObjectRef, Object)> {
    let served: Vec<String> = plugins.iter().filter_map(|p| p.status.clone()).flat_map(|s| s.kinds).collect();
    let is_meant = |full: &&String| {
        full.eq_ignore_ascii_case(kind) || full.split('.').next().is_some_and(|k| k.eq_ignore_ascii_case(kind))
    };
    let Some((kind, group)) = served.iter().find(is_meant).and_then(|full| full.split_once('.')) else {
        bail!("no plugin serves {kind:?}; served are: {}", served.join(", "));
    };
    let kind = in_its_version(cluster, plugins, kind, group).await?;
    let reference = ObjectRef { kind, namespace: namespace.into(), name: name.into() };
    match cluster.get(&reference).await? {
        // its own namespace: none for a cluster-scoped kind
        Some(object) => Ok((object.reference(&reference.kind), object)),
        None => bail!("there is no {} {name} in the namespace {namespace}", reference.kind),
    }
}

/// A kind as plugins have it: another kind of its group may have other versions.
pub(super) async fn in_its_version(
    cluster: &Cluster,
    plugins: &[Plugin],
    kind: &str,
    group: &str,
) -> anyhow::Result<TypeMeta> {
    let kinds = plugins.iter().filter_map(|plugin| plugin.status.as_ref()).flat_map(|status| &status.primary_kinds);
    let same = kinds.map(KindRef::type_meta).filter(|one| one.kind == kind && one.group() == group);
    // versions before are on record, too
    for one in same.collect::<BTreeSet<_>>().into_iter().rev() {
        if cluster.served(&one).await.is_ok() {
            return Ok(one);
        }
    }
    bail!("the API server does not serve {kind} of {group} in a version that a plugin has")
}

fn label(object: &Object, name: &str) -> Option<String> {
    let value = object.value();
    value.pointer("/metadata/labels")?.get(name).and_then(Value::as_str).map(ToOwned::to_owned)
}
