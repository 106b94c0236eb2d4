//! The definition: fetched, spelt canonically, and kept in a ConfigMap named after its checksum.
//!
//! A ConfigMap is never changed: workers of the old version go on reading the old definition while new ones start. It
//! is also the memory: when the source does not answer, the last good one is what lives.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use transom_sdk::prelude::*;
use transom_sdk::{Answer, names, objects};

use crate::canonical::canonical;
use crate::proto::transformation::{GET_PROCESS_DEFINITION, GetProcessDefinitionRequest, GetProcessDefinitionResponse};
use crate::spec::{self, DefinitionStatus, Process};
use crate::{TRANSFORMATION, workload};

/// The file in the volume.
pub(crate) const FILE: &str = "definition.json";

/// `ValidateConfigMap` in kubernetes/kubernetes `pkg/apis/core/validation/validation.go`: keys and values together.
const MAX_BYTES: usize = (1 << 20) - FILE.len();

/// On ConfigMaps and on the templates of workers: `sha256:…`.
pub(crate) const CHECKSUM: &str = "ameide.io/definition-checksum";
const VERSION: &str = "ameide.io/definition-version";
const ID: &str = "ameide.io/definition-id";
/// On Deployments: the ConfigMap that their workers read.
pub(crate) const CONFIG_MAP: &str = "ameide.io/definition";

/// What came of asking.
pub(crate) struct Definition {
    /// What workers are to execute; none when there never was a good one.
    pub(crate) current: Option<Current>,
    /// Why that is not the newest: reason and sentence. None: it is.
    pub(crate) problem: Option<(&'static str, String)>,
    /// The canonical JSON, when it was fetched.
    content: Option<String>,
}

/// A good definition.
pub(crate) struct Current {
    pub(crate) status: DefinitionStatus,
    /// As it was asked for then: not that of the spec while that cannot be resolved.
    pub(crate) id: String,
    /// Name of its ConfigMap.
    pub(crate) config_map: String,
}

/// Asks for the definition.
pub(crate) fn find(process: &Process, cx: &Context) -> Result<Definition, Failure> {
    let reference = &process.spec.definition_ref;
    let interval = spec::seconds("spec.definitionRef.refreshInterval", &reference.refresh_interval)?;
    let request = GetProcessDefinitionRequest { id: reference.id.clone(), tenant_id: reference.tenant_id.clone() };
    let max_age = Duration::from_secs(interval.into());
    let answer = cx.grpc(TRANSFORMATION, GET_PROCESS_DEFINITION, request.encode_to_vec(), max_age)?;
    let problem = match answer {
        Answer::Found(message) => match read(&request, &message) {
            Ok((version, content)) => {
                let checksum = checksum(&content);
                let config_map = config_map_name(process, &checksum);
                let current = Current { status: DefinitionStatus { version, checksum }, id: request.id, config_map };
                return Ok(Definition { current: Some(current), problem: None, content: Some(content) });
            }
            Err(message) => ("Invalid", message),
        },
        Answer::Absent => {
            let GetProcessDefinitionRequest { id, tenant_id } = &request;
            ("NotFound", format!("the Transformation Domain has no definition {id} of the tenant {tenant_id}"))
        }
        // what is larger than a message may be is larger than a ConfigMap may be
        Answer::Failed { reason, message } if reason == "TooLarge" => ("Invalid", message),
        Answer::Failed { reason, message } => ("Unavailable", format!("{reason}: {message}")),
        Answer::Denied(message) => ("Unavailable", message),
        other => ("Unavailable", format!("an answer of a kind that this plugin does not know: {other:?}")),
    };
    Ok(Definition { current: last_good(process, cx)?, problem: Some(problem), content: None })
}

/// Version and canonical JSON, or what is wrong.
fn read(request: &GetProcessDefinitionRequest, message: &[u8]) -> Result<(i64, String), String> {
    let response = GetProcessDefinitionResponse::decode(message)
        .map_err(|error| format!("the response of the Transformation Domain cannot be read: {error}"))?;
    let definition = response.definition.ok_or("the response of the Transformation Domain holds no definition")?;
    if definition.id != request.id || definition.tenant_id != request.tenant_id {
        return Err(format!(
            "asked for {} of the tenant {}, the Transformation Domain sent {} of the tenant {}",
            request.id, request.tenant_id, definition.id, definition.tenant_id
        ));
    }
    let version = definition.version;
    if version < 1 {
        return Err(format!("the definition has the version {version}, it must be at least 1"));
    }
    let content = canonical(&definition.content).map_err(|what| format!("version {version}: {what}"))?;
    let size = content.len();
    if size > MAX_BYTES {
        return Err(format!("version {version} has {size} bytes, a ConfigMap holds at most {MAX_BYTES}"));
    }
    Ok((version, content))
}

fn checksum(content: &str) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn config_map_name(process: &Process, checksum: &str) -> String {
    let digest = checksum.trim_start_matches("sha256:");
    names::with_suffix(process.name(), &format!("definition-{}", digest.get(..10).unwrap_or(digest)))
}

/// The definition that was resolved last, as far as its ConfigMap lives: the one in the status, else the highest
/// version.
fn last_good(process: &Process, cx: &Context) -> Result<Option<Current>, Failure> {
    let known = process.status.as_ref().and_then(|status| status.definition.as_ref());
    let mut best: Option<Current> = None;
    for live in cx.children::<ConfigMap>() {
        let mut annotations = live.annotations()?;
        let version = annotations.get(VERSION).and_then(|version| version.parse().ok());
        let (checksum, id) = (annotations.remove(CHECKSUM), annotations.remove(ID));
        let (Some(checksum), Some(version), Some(id)) = (checksum, version, id) else { continue };
        let status = DefinitionStatus { version, checksum };
        let is_known = known.is_some_and(|known| known.checksum == status.checksum);
        if is_known || best.as_ref().is_none_or(|best| best.status.version < version) {
            best = Some(Current { status, id, config_map: live.name().to_owned() });
        }
        if is_known {
            break;
        }
    }
    Ok(best)
}

/// Plans the ConfigMap, and keeps those that workers still read.
pub(crate) fn plan(
    plan: &mut Plan,
    process: &Process,
    cx: &Context,
    definition: &Definition,
    current: &Current,
) -> Result<(), Failure> {
    match &definition.content {
        Some(content) => {
            plan.apply(config_map(process, current, content));
        }
        None => {
            plan.hold::<ConfigMap>(&current.config_map);
        }
    }
    let mut read = Vec::new();
    let mut is_rolling_out = false;
    for deployment in cx.children::<Deployment>() {
        is_rolling_out |= !deployment.health().is_ready();
        read.extend(deployment.annotations()?.remove(CONFIG_MAP));
    }
    for live in cx.children::<ConfigMap>() {
        let name = live.name();
        // while a roll-out is on its way, pods of the version before may start again
        if name != current.config_map && (is_rolling_out || read.iter().any(|read| read == name)) {
            plan.hold::<ConfigMap>(name);
        }
    }
    Ok(())
}

fn config_map(process: &Process, current: &Current, content: &str) -> ConfigMap {
    let mut metadata = objects::metadata(&current.config_map, &workload::selector(process));
    metadata.annotations = Some(BTreeMap::from([
        (CHECKSUM.to_owned(), current.status.checksum.clone()),
        (VERSION.to_owned(), current.status.version.to_string()),
        (ID.to_owned(), current.id.clone()),
    ]));
    ConfigMap {
        metadata,
        immutable: Some(true),
        data: Some(BTreeMap::from([(FILE.to_owned(), content.to_owned())])),
        ..ConfigMap::default()
    }
}
