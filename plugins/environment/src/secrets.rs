//! Credentials of the Project's namespace, in the Environment's.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, KeyToPath, LocalObjectReference, Secret, SecretVolumeSource, ServiceAccount, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use transom_sdk::Answer;
use transom_sdk::prelude::*;

use crate::Config;
use crate::report::{Problem, Step, Stop, transient};

/// Names of the Secrets that are there.
#[derive(Default)]
pub(crate) struct Copied {
    /// To clone with.
    pub(crate) git: Option<String>,
    /// To push and pull with.
    pub(crate) registry: Option<String>,
}

/// Copies them, and lets all pods pull with the registry's.
pub(crate) fn plan(plan: &mut Plan, cx: &Context, config: &Config, namespace: &str) -> Result<Copied, Stop> {
    let (git_name, registry_name) = (config.git.secret.as_str(), config.registry_secret.as_str());
    // asked together
    let git = cx.try_get::<Secret>(git_name);
    let registry = cx.try_get::<Secret>(registry_name);
    let (git, registry) = (found(git?, git_name)?, found(registry?, registry_name)?);
    let mut copied = Copied::default();
    if let Some(secret) = git {
        plan.apply(copy(secret, git_name, namespace).replace());
        copied.git = Some(git_name.to_owned());
    }
    if let Some(secret) = registry {
        plan.apply(copy(secret, registry_name, namespace).replace());
        copied.registry = Some(registry_name.to_owned());
        // of the namespace's own controller, which does not mind
        let metadata =
            ObjectMeta { name: Some("default".into()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() };
        let pull = LocalObjectReference { name: registry_name.to_owned() };
        let account = ServiceAccount { metadata, image_pull_secrets: Some(vec![pull]), ..ServiceAccount::default() };
        plan.apply(account.adopt().keep());
    }
    Ok(copied)
}

fn found(answer: Answer<Secret>, name: &str) -> Result<Option<Secret>, Problem> {
    match answer {
        Answer::Found(secret) => Ok(Some(secret)),
        Answer::Denied(message) | Answer::Failed { message, .. } => {
            let message = format!("Secret {name} of the Project's namespace: {message}");
            Err(transient(Step::Namespace, "SecretUnavailable", message))
        }
        _ => Ok(None),
    }
}

fn copy(secret: Secret, name: &str, namespace: &str) -> Secret {
    let metadata =
        ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() };
    Secret { metadata, data: secret.data, type_: secret.type_, ..Secret::default() }
}

/// A Secret of texts.
pub(crate) fn secret<const N: usize>(namespace: &str, name: &str, pairs: [(&str, String); N]) -> Secret {
    let data: BTreeMap<_, _> =
        pairs.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes()))).collect();
    let metadata =
        ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() };
    Secret { metadata, data: Some(data), ..Secret::default() }
}

/// A mount of a volume of the same name, to be read.
pub(crate) fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

/// A volume with a Secret; of one key only, under another name, where that is said.
pub(crate) fn volume(name: &str, secret: &str, item: Option<(&str, &str)>) -> Volume {
    let items = item.map(|(key, path)| vec![KeyToPath { key: key.into(), path: path.into(), mode: None }]);
    let source = SecretVolumeSource { secret_name: Some(secret.to_owned()), items, ..SecretVolumeSource::default() };
    Volume { name: name.to_owned(), secret: Some(source), ..Volume::default() }
}

pub(crate) fn config_map_volume(name: &str, config_map: &str) -> Volume {
    let source = ConfigMapVolumeSource { name: config_map.to_owned(), ..ConfigMapVolumeSource::default() };
    Volume { name: name.to_owned(), config_map: Some(source), ..Volume::default() }
}
