//! Custom resource definitions that come with a plugin or with the host.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::runtime::{conditions, wait};
use serde_json::{Map, Value};

use super::compatibility;
use crate::api::names;
use crate::control::cluster::{Cluster, Served};
use crate::plan::check::{Scope, digest};
use crate::plan::contract::{ObjectRef, TypeMeta};
use crate::plan::diff;
use crate::plugin::Plugin;

/// A server takes less than a second; a loaded one a few.
const ESTABLISHED_DEADLINE: Duration = Duration::from_secs(60);

/// A definition that was read.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The whole object.
    pub body: Value,
    /// The served kind, in the storage version.
    pub served: Served,
}

/// Why a definition was not applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum InstallError {
    /// Objects that are stored, or the definition that is there, do not allow it.
    #[error("{0}")]
    Incompatible(String),
    /// The API server refused it, or could not be asked.
    #[error(transparent)]
    Refused(#[from] DefinitionError),
}

/// Why a definition cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DefinitionError(pub String);

impl Definition {
    /// Reads a definition and checks that the host can serve its kind.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse(text: &str) -> Result<Self, DefinitionError> {
        let body: Value = serde_json::from_str(text).map_err(|e| DefinitionError(format!("not JSON: {e}")))?;
        let text = |path: &str| body.pointer(path).and_then(Value::as_str).unwrap_or_default();
        if text("/apiVersion") != "apiextensions.k8s.io/v1" || text("/kind") != "CustomResourceDefinition" {
            return Err(DefinitionError("not an apiextensions.k8s.io/v1 CustomResourceDefinition".into()));
        }
        let name = text("/metadata/name");
        let (group, kind, plural) = (text("/spec/group"), text("/spec/names/kind"), text("/spec/names/plural"));
        if group.is_empty() || kind.is_empty() || name != format!("{plural}.{group}") {
            return Err(DefinitionError(format!("{name:?}: the name must be <spec.names.plural>.<spec.group>")));
        }
        let versions = body.pointer("/spec/versions").and_then(Value::as_array);
        let storage = versions.into_iter().flatten().find(|v| v.get("storage") == Some(&Value::Bool(true)));
        let Some(storage) = storage else {
            return Err(DefinitionError(format!("{name}: no version has storage: true")));
        };
        if storage.pointer("/subresources/status").is_none() {
            return Err(DefinitionError(format!("{name}: the storage version has no status subresource")));
        }
        check_status(name, storage)?;
        let version = storage.get("name").and_then(Value::as_str).unwrap_or_default();
        let scope = if text("/spec/scope") == "Cluster" { Scope::Cluster } else { Scope::Namespaced };
        let kind = TypeMeta::new(format!("{group}/{version}"), kind);
        let served = Served { kind, plural: plural.into(), scope };
        Ok(Self { served, body })
    }

    /// Are there versions that clients may use beside the one in which objects are stored?
    #[must_use]
    pub fn has_several_versions(&self) -> bool {
        let versions = self.body.pointer("/spec/versions").and_then(Value::as_array);
        versions.into_iter().flatten().filter(|version| version.get("served") == Some(&Value::Bool(true))).count() > 1
    }

    /// With this `spec.conversion` in place of the plugin's own.
    #[must_use]
    pub fn converted_by(mut self, conversion: Value) -> Self {
        if let Some(Value::Object(spec)) = self.body.get_mut("spec") {
            spec.insert("conversion".into(), conversion);
        }
        self
    }

    fn reference(&self) -> ObjectRef {
        let name = self.body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let kind = TypeMeta::new("apiextensions.k8s.io/v1", "CustomResourceDefinition");
        ObjectRef { kind, namespace: String::new(), name: name.into() }
    }

    /// The body with the annotation by which it is known again, and the definition that is there; none of the latter when
    /// it is as it should be or missing.
    async fn compare(&self, cluster: &Cluster) -> Result<Compared, DefinitionError> {
        let reference = self.reference();
        let mut body = self.body.clone();
        let applied = digest(&body);
        if let Some(Value::Object(metadata)) = body.get_mut("metadata") {
            let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(annotations) = annotations {
                annotations.insert(names::APPLIED_ANNOTATION.into(), applied.clone().into());
            }
        }
        let live = cluster.get(&reference).await;
        let live = live.map_err(|error| DefinitionError(format!("{}: {error}", reference.name)))?;
        let is_current = live.as_ref().is_some_and(|live| {
            live.applied.as_deref() == Some(applied.as_str()) && diff::object_drift(&body, &live.value()).is_empty()
        });
        Ok(Compared { body, live: live.map(|live| live.value()), is_current })
    }

    /// May the definition be applied? Nothing is written. Stored objects are read through `objects`, in the name of the plugin's
    /// account: the host itself may have no right to. `plugin` converts them, where it can.
    ///
    /// # Errors
    /// What it would break, or what kept that from being known.
    pub(super) async fn check(
        &self,
        cluster: &Cluster,
        objects: &Cluster,
        plugin: Option<&Plugin>,
    ) -> Result<(), InstallError> {
        let compared = self.compare(cluster).await?;
        let Some(live) = compared.live.as_ref().filter(|_| !compared.is_current) else {
            return Ok(());
        };
        let breaks = compatibility::check(objects, live, (&compared.body, plugin)).await?;
        if breaks.is_empty() {
            return Ok(());
        }
        Err(InstallError::Incompatible(format!("{}: {breaks}", self.reference().name)))
    }

    /// Applies the definition where it differs from what is there, and waits until its kind is served.
    ///
    /// # Errors
    /// What kept it from being served.
    pub async fn install(&self, cluster: &Cluster, manager: &str) -> Result<(), DefinitionError> {
        let reference = self.reference();
        let failed = |error: &dyn std::fmt::Display| DefinitionError(format!("{}: {error}", reference.name));
        let Compared { body, mut live, is_current } = self.compare(cluster).await?;
        if !is_current {
            let answer = cluster.apply(&reference, manager, &body).await;
            live = Some(answer.map_err(|e| failed(&e))?.object.value());
        }
        if !live.is_some_and(|live| is_established(&live)) {
            let api: Api<CustomResourceDefinition> = Api::all(cluster.client().clone());
            let established = wait::await_condition(api, &reference.name, conditions::is_crd_established());
            tokio::time::timeout(ESTABLISHED_DEADLINE, established)
                .await
                .map_err(|_| failed(&"was not established in time"))?
                .map_err(|e| failed(&e))?;
        }
        cluster.learn(self.served.clone());
        Ok(())
    }
}

/// Installs a definition of the host's own.
///
/// # Errors
/// What kept it from being served.
pub async fn install_definition(
    cluster: &Cluster,
    definition: &CustomResourceDefinition,
) -> Result<(), DefinitionError> {
    let text = serde_json::to_string(definition).map_err(|e| DefinitionError(e.to_string()))?;
    Definition::parse(&text)?.install(cluster, "transom").await
}

/// A definition beside what is there.
struct Compared {
    body: Value,
    live: Option<Value>,
    is_current: bool,
}

/// The host writes these; a schema without them would have the API server drop them silently.
fn check_status(name: &str, version: &Value) -> Result<(), DefinitionError> {
    let Some(status) = version.pointer("/schema/openAPIV3Schema/properties/status") else {
        return Err(DefinitionError(format!("{name}: the schema has no status")));
    };
    let open = status.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    for field in ["conditions", "observedGeneration"] {
        if !open && status.pointer(&format!("/properties/{field}")).is_none() {
            return Err(DefinitionError(format!("{name}: the schema has no status.{field}, which the host writes")));
        }
    }
    Ok(())
}

fn is_established(crd: &Value) -> bool {
    let conditions = crd.pointer("/status/conditions").and_then(Value::as_array);
    let established =
        |c: &Value| c.get("type") == Some(&"Established".into()) && c.get("status") == Some(&"True".into());
    conditions.into_iter().flatten().any(established)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn crd() -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "things.g.io"},
            "spec": {"group": "g.io", "scope": "Namespaced", "names": {"kind": "Thing", "plural": "things"},
                "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"properties": {"status":
                        {"properties": {"conditions": {}, "observedGeneration": {}}}}}}}]}
        })
    }

    #[test]
    fn the_served_kind_is_that_of_the_storage_version() {
        let definition = Definition::parse(&crd().to_string()).unwrap();
        assert_eq!(definition.served.kind, TypeMeta::new("g.io/v1", "Thing"));
        assert_eq!(definition.served.scope, Scope::Namespaced);
    }

    #[test]
    fn what_would_be_dropped_silently_is_refused() {
        let mut without = crd();
        without["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"] = json!({"properties": {}});
        let error = Definition::parse(&without.to_string()).unwrap_err();
        assert_eq!(error.to_string(), "things.g.io: the schema has no status.conditions, which the host writes");
        let mut without = crd();
        without["spec"]["versions"][0]["subresources"] = json!({});
        assert!(Definition::parse(&without.to_string()).is_err());
    }
}
