//! Objects that are stored in a version before are written again, so that they are stored in the one of now, as
//! kube-storage-version-migrator does it. After that the version before can be taken out of the definition, and nobody
//! who reads in the version of now needs a conversion.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use serde_json::json;

use super::crd::Definition;
use crate::control::cluster::{ApiError, Served};
use crate::control::controller::{Active, Controller};

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// Writes at the same time.
const PARALLEL: usize = 4;

/// A definition in which objects may be stored in another version than its own.
pub(super) struct Pending {
    name: String,
    /// Of the definition, as it was read: `status.storedVersions` is written only if nobody has changed it since.
    resource_version: Option<String>,
    served: Served,
}

/// Definitions of this version that have something to migrate.
///
/// # Errors
/// When the API server cannot be asked.
pub(super) async fn pending(controller: &Controller, active: &Active) -> Result<Vec<Pending>, ApiError> {
    let definitions: Api<CustomResourceDefinition> = Api::all(controller.cluster.client().clone());
    let mut found = Vec::new();
    for served in active.manifest.crds.iter().filter_map(|text| Definition::parse(text).ok()).map(|d| d.served) {
        let name = format!("{}.{}", served.plural, served.kind.group());
        let Some(live) = definitions.get_opt(&name).await? else { continue };
        let stored = live.status.and_then(|status| status.stored_versions).unwrap_or_default();
        // a definition that is another version's is not ours to finish
        let storage = live.spec.versions.iter().find(|version| version.storage).map(|version| &*version.name);
        let version = served.kind.version();
        if storage == Some(version) && stored.iter().any(|one| one != version) {
            found.push(Pending { name, resource_version: live.metadata.resource_version, served });
        }
    }
    Ok(found)
}

/// Writes every object again, and then that nothing is stored in another version any more.
///
/// # Errors
/// When an object cannot be read or written, or the definition was changed meanwhile.
pub(super) async fn migrate(controller: &Controller, active: &Active, pending: &Pending) -> Result<usize, ApiError> {
    let client = active.cluster.client();
    let resource = pending.served.api_resource();
    let every: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut page = ListParams::default().limit(PAGE);
    let mut count = 0;
    loop {
        let list = every.list(&page).await?;
        count += list.items.len();
        let writes = list.items.into_iter().map(|object| rewrite(client.clone(), resource.clone(), object));
        futures::stream::iter(writes).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    let definitions: Api<CustomResourceDefinition> = Api::all(controller.cluster.client().clone());
    let stored = json!({
        "metadata": { "resourceVersion": pending.resource_version },
        "status": { "storedVersions": [pending.served.kind.version()] },
    });
    definitions.patch_status(&pending.name, &PatchParams::default(), &Patch::Merge(stored)).await?;
    Ok(count)
}

/// A patch that changes nothing: the API server writes the object when it is stored in another version. Whoever was
/// quicker has written it, too.
async fn rewrite(
    client: kube::Client,
    resource: kube::core::ApiResource,
    object: DynamicObject,
) -> Result<(), ApiError> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let same = json!({ "metadata": { "resourceVersion": object.metadata.resource_version } });
    match api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(same)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// All that is pending, in the background.
pub(super) async fn run(controller: Arc<Controller>, active: Arc<Active>, pending: Vec<Pending>) {
    for one in pending {
        let definition = &one.name;
        match migrate(&controller, &active, &one).await {
            Ok(objects) => {
                tracing::info!(plugin = active.name, definition, objects, "objects are stored in the new version")
            }
            Err(error) => {
                let error = crate::telemetry::chain(&error);
                tracing::warn!(
                    plugin = active.name,
                    definition,
                    error,
                    "objects could not be stored in the new version"
                );
            }
        }
    }
}
