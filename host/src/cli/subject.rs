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
        let client = super::client().await?;
        let cluster = Arc::new(Cluster::new(client.clone(), None));
        let plugins = super::plugins(&Api::all(client)).await?;
        let (reference, primary) = primary(&cluster, &plugins, kind, namespace, name).await?;
        let mut serving = serving(plugins, &reference.kind);
        let mut found = Children::new();
        for (kind, objects) in children(&cluster, &serving, &primary.uid).await {
            let objects = objects.with_context(|| kind.to_string())?;
            for object in objects {
                found.insert(object.reference(&kind), Arc::new(object));
            }
        }
        // hosts split by selector can have several records for a kind: the children say which
        let made_by = found.values().find_map(|child| label(child, names::PLUGIN_LABEL));
        if let Some(made_by) = made_by {
            serving.retain(|plugin| plugin.metadata.name.as_ref() == Some(&made_by));
        }
        let plugin = serving.into_iter().next().with_context(|| format!("no plugin serves {} now", reference.kind))?;
        Ok(Self { cluster, plugin, reference, primary, children: found })
    }

    /// Name of the record.
    pub(super) fn plugin_name(&self) -> String {
        self.plugin.metadata.name.clone().unwrap_or_default()
    }
}

/// The records that serve a kind.
pub(super) fn serving(plugins: Vec<Plugin>, kind: &TypeMeta) -> Vec<Plugin> {
    let full = format!("{}.{}", kind.kind, kind.group());
    let serves = |plugin: &Plugin| plugin.status.as_ref().is_some_and(|status| status.kinds.contains(&full));
    plugins.into_iter().filter(serves).collect()
}

/// The children of a primary, by kind, of all kinds that its plugins have on record. Kinds that are not served are left out: a
/// plugin can make some that come with somebody else's operator, and go with it.
pub(super) async fn children(
    cluster: &Cluster,
    serving: &[Plugin],
    uid: &str,
) -> Vec<(TypeMeta, Result<Vec<Object>, ApiError>)> {
    let statuses = serving.iter().filter_map(|plugin| plugin.status.as_ref());
    let kinds: Vec<KindRef> = statuses.flat_map(|status| status.child_kinds.iter().cloned()).collect();
    let selector = format!("{}={uid}", names::OWNER_LABEL);
    let mut found = Vec::new();
    for kind in KindRef::one_of_each(&kinds).iter().map(KindRef::type_meta) {
        match cluster.list(&kind, None, &selector, 500).await {
            Err(ApiError::NotServed(_)) => {}
            result => found.push((kind, result.map(|(objects, _)| objects))),
        }
    }
    found
}

/// The object that is meant, found by kind, or kind and group.
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

pub(super) fn label(object: &Object, name: &str) -> Option<String> {
    let value = object.value();
    value.pointer("/metadata/labels")?.get(name).and_then(Value::as_str).map(ToOwned::to_owned)
}
