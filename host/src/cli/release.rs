//! `transom release`: before a host goes for good.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PropagationPolicy};
use kube::core::PartialObjectMeta;
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::await_condition;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::progress::slow;
use crate::api::names::FINALIZER;
use crate::api::plugin::{KindRef, Plugin};
use crate::control::account::Account;
use crate::control::cluster::{ApiError, Cluster};
use crate::plan::check::Scope;
use crate::webhook;

/// Objects that are read at once.
const PAGE: u32 = 500;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  transom release --yes\n  transom release --yes --stop transom/transom --plugin-selector team=a\n\n\
    Objects, children and Plugin records stay as they are. Objects that are being deleted go without what their plugin \
    would have cleaned up. A host that starts again takes all of them up."
)]
pub struct Args {
    /// First delete the host's Deployment, NAMESPACE/NAME, and wait until its pods are gone. A host that runs would put
    /// every finalizer back.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = deployment)]
    stop: Option<(String, String)>,
    /// How long to wait for that, in seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    stop_timeout: u64,
    /// Only objects of Plugin records with these labels (default: all records).
    #[arg(long, default_value = "", value_name = "SELECTOR")]
    plugin_selector: String,
    /// Only objects of this namespace (default: all namespaces).
    #[arg(long, value_name = "NAMESPACE")]
    watch_namespace: Option<String>,
    /// Do it; without this only what would be done is shown.
    #[arg(long)]
    yes: bool,
}

fn deployment(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok((namespace.into(), name.into())),
        _ => Err("give it as NAMESPACE/NAME, such as transom/transom".into()),
    }
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = super::client().await?;
        let records = Api::<Plugin>::all(client.clone());
        let list = ListParams::default().labels(&self.plugin_selector);
        let plugins = match records.list(&list).await {
            Ok(plugins) => plugins.items,
            // without the definition there never was a host
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            Err(error) => return Err(error).context("cannot list Plugins"),
        };
        if let Some((namespace, name)) = self.stop.as_ref().filter(|_| self.yes) {
            stop(&client, namespace, name, Duration::from_secs(self.stop_timeout)).await?;
        }
        let cluster = Cluster::new(client, self.watch_namespace.clone());
        let mut failed = 0;
        for plugin in &plugins {
            let kinds = plugin.status.iter().flat_map(|status| &status.primary_kinds);
            let mut all_released = true;
            for kind in kinds {
                match self.release(&cluster, plugin, kind).await {
                    Ok(count) => {
                        let (name, verb) = (plugin.name_any(), self.verb());
                        println!("{name}: {verb} {count} objects of {}", kind.type_meta());
                    }
                    Err(error) => {
                        eprintln!("error: plugin {}, {}: {error:#}", plugin.name_any(), kind.type_meta());
                        all_released = false;
                    }
                }
            }
            if self.yes && has_webhooks(plugin) {
                let removed = webhook::remove(&cluster, &plugin.name_any()).await;
                removed.with_context(|| format!("cannot remove the webhooks of the Plugin {}", plugin.name_any()))?;
            }
            if !all_released {
                failed += 1;
            } else if self.yes && plugin.finalizers().iter().any(|known| known == FINALIZER) {
                let patch = Patch::Merge(without_finalizer(&plugin.metadata));
                let patched = records.patch(&plugin.name_any(), &PatchParams::default(), &patch).await;
                gone_is_fine(patched).with_context(|| format!("cannot release the Plugin {}", plugin.name_any()))?;
            }
        }
        ensure!(failed == 0, "objects of {failed} of {} plugins still need a host to be deleted", plugins.len());
        if !self.yes {
            bail!("nothing was changed: call it again with --yes");
        }
        Ok(())
    }

    fn verb(&self) -> &'static str {
        if self.yes { "released" } else { "would release" }
    }

    /// Takes the finalizer from all objects of this kind; how many had it.
    async fn release(&self, cluster: &Cluster, plugin: &Plugin, kind: &KindRef) -> anyhow::Result<usize> {
        let acting = plugin.spec.service_account.as_ref().and_then(|account| {
            let account = Account::new(&account.namespace, &account.name)?;
            Some(cluster.acting_as(account))
        });
        let cluster = acting.as_ref().unwrap_or(cluster);
        let served = match cluster.served(&kind.type_meta()).await {
            Ok(served) => served,
            // a kind that is gone has no objects
            Err(ApiError::NotServed(_)) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let (resource, client) = (served.api_resource(), cluster.client().clone());
        let all: Api<DynamicObject> = match cluster.namespace().filter(|_| served.scope == Scope::Namespaced) {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let (mut count, mut page) = (0, ListParams::default().limit(PAGE));
        loop {
            let objects = all.list_metadata(&page).await.context("cannot list them")?;
            for object in &objects.items {
                if !object.finalizers().iter().any(|known| known == FINALIZER) {
                    continue;
                }
                count += 1;
                if self.yes {
                    let api: Api<DynamicObject> = match object.namespace() {
                        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
                        None => Api::all_with(client.clone(), &resource),
                    };
                    release(&api, object).await.with_context(|| format!("cannot release {}", object.name_any()))?;
                }
            }
            match objects.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(count),
            }
        }
    }
}

async fn release(api: &Api<DynamicObject>, seen: &PartialObjectMeta<DynamicObject>) -> anyhow::Result<()> {
    let (name, mut metadata) = (seen.name_any(), seen.metadata.clone());
    loop {
        match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(without_finalizer(&metadata))).await {
            // somebody else has changed it, or made another one of this name
            Err(kube::Error::Api(status)) if status.code == 409 => match api.get_metadata_opt(&name).await? {
                Some(object) if object.metadata.uid == seen.metadata.uid => metadata = object.metadata,
                _ => return Ok(()),
            },
            patched => return gone_is_fine(patched).map_err(Into::into),
        }
    }
}

/// Without a host they would refuse whatever concerns them.
fn has_webhooks(plugin: &Plugin) -> bool {
    plugin.status.iter().flat_map(|status| &status.conditions).any(|condition| condition.type_ == webhook::CONDITION)
}

/// For the object as it was read, and no other.
fn without_finalizer(metadata: &ObjectMeta) -> serde_json::Value {
    let list: Vec<_> = metadata.finalizers.iter().flatten().filter(|known| *known != FINALIZER).collect();
    let (uid, version) = (&metadata.uid, &metadata.resource_version);
    json!({ "metadata": { "finalizers": list, "uid": uid, "resourceVersion": version } })
}

fn gone_is_fine<T>(result: kube::Result<T>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(drop),
    }
}

/// Deletes a Deployment, and waits until its pods are gone: with foreground deletion it goes last.
async fn stop(client: &kube::Client, namespace: &str, name: &str, within: Duration) -> anyhow::Result<()> {
    let api = Api::<Deployment>::namespaced(client.clone(), namespace);
    let Some(found) = api.get_opt(name).await.context("cannot read the host's Deployment")? else {
        println!("there is no Deployment {namespace}/{name}");
        return Ok(());
    };
    let parameters =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    gone_is_fine(api.delete(name, &parameters).await).context("cannot delete the host's Deployment")?;
    let uid = found.uid().unwrap_or_default();
    let gone = await_condition(api, name, is_deleted(&uid));
    let said = format!("waiting for the pods of {namespace}/{name} to end, at most {} s", within.as_secs());
    let gone = slow(&said, tokio::time::timeout(within, gone)).await;
    gone.with_context(|| format!("the pods of {namespace}/{name} are still there after {within:?}"))?
        .context("cannot watch the host's Deployment")?;
    println!("Deployment {namespace}/{name} is gone");
    Ok(())
}
