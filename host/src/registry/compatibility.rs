//! Would a new custom resource definition break objects that are stored? Asked before it is applied.
//!
//! Refused whatever the objects are: another scope, another name of the kind, a version in which objects may be stored
//! taken out. Everything else is held against the objects themselves: a field may go, and its values may be narrowed, as
//! long as no object uses what is taken away.

mod schema;

use std::collections::BTreeSet;
use std::fmt;

use kube::Api;
use kube::api::{DynamicObject, ListParams};
use serde_json::Value;

use super::crd::{Definition, DefinitionError};
use crate::control::cluster::{ApiError, Cluster, Served};
use crate::plan::check::{Scope, shorten};
use crate::plan::contract::TypeMeta;
use crate::plugin::Plugin;
use schema::{Fault, Schema};

/// At most this many objects are named.
const MAX_OBJECTS: usize = 20;

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// The list of what would break: this long, to fit into a condition.
const MAX_TEXT: usize = 8_192;

/// What a new definition would break.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Breaks {
    /// In the definition as a whole.
    definition: Vec<String>,
    /// How many objects.
    objects: usize,
    /// The first of them: namespace and name, with their faults.
    named: Vec<(String, Vec<Fault>)>,
}

impl Breaks {
    pub(super) fn is_empty(&self) -> bool {
        self.definition.is_empty() && self.objects == 0
    }

    /// Holds one object against the schema.
    fn look_at(&mut self, schema: &Schema<'_>, name: &str, object: &Value) {
        self.add(name, schema.faults(object));
    }

    fn add(&mut self, name: &str, faults: Vec<Fault>) {
        if faults.is_empty() {
            return;
        }
        self.objects += 1;
        if self.named.len() < MAX_OBJECTS {
            self.named.push((name.to_owned(), faults));
        }
    }
}

impl fmt::Display for Breaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.definition.clone();
        if self.objects > 0 {
            let objects = if self.objects == 1 { "object" } else { "objects" };
            parts.push(format!("would break {} stored {objects}", self.objects));
        }
        for (name, faults) in &self.named {
            let said: Vec<String> = faults.iter().map(|fault| format!("{} {}", fault.path, fault.why)).collect();
            parts.push(format!("{name}: {}", said.join(", ")));
        }
        if self.objects > self.named.len() {
            parts.push(format!("and {} more", self.objects - self.named.len()));
        }
        f.write_str(&shorten(&parts.join("; "), MAX_TEXT))
    }
}

/// What is wrong with the definition itself, whatever the objects are.
fn definition_breaks(live: &Value, new: &Value) -> Vec<String> {
    let text = |crd: &Value, path: &str| crd.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for (path, field) in [("/spec/scope", "spec.scope"), ("/spec/names/kind", "spec.names.kind")] {
        let (before, now) = (text(live, path), text(new, path));
        if before != now {
            found.push(format!("{field} cannot change from {before} to {now}"));
        }
    }
    let kept: BTreeSet<&str> = versions(new).filter_map(|version| version.get("name")?.as_str()).collect();
    let stored = live.pointer("/status/storedVersions").and_then(Value::as_array);
    for version in stored.into_iter().flatten().filter_map(Value::as_str).filter(|version| !kept.contains(version)) {
        found.push(format!("spec.versions drops {version}, in which objects may be stored"));
    }
    found
}

fn versions(crd: &Value) -> impl Iterator<Item = &Value> {
    crd.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten()
}

fn storage(crd: &Value) -> Option<&Value> {
    versions(crd).find(|version| version.get("storage") == Some(&Value::Bool(true)))
}

fn schema_of(version: &Value) -> Option<&Value> {
    version.pointer("/schema/openAPIV3Schema")
}

/// What the API server would refuse in an object of this kind, or drop from it: `spec.x is …`. Empty: nothing. CEL rules and
/// formats are not evaluated.
#[must_use]
pub fn object_faults(definition: &Definition, object: &Value) -> Vec<String> {
    let schema = storage(&definition.body).and_then(schema_of).map(Schema::new);
    let faults = schema.map(|schema| schema.faults(object)).unwrap_or_default();
    faults.into_iter().map(|Fault { path, why }| format!("{path} {why}")).collect()
}

/// Holds a new definition against the live one and the objects that are stored.
///
/// Objects are read in the version that they are stored in now, all of them, a page at a time; only when the schema of
/// the storage version changes at all. Where another version becomes that of storage, the plugin converts each object as it
/// will have to.
///
/// # Errors
/// When the objects cannot be read: then nothing is known, and the definition must not be applied.
pub(super) async fn check(
    cluster: &Cluster,
    live: &Value,
    (new, plugin): (&Value, Option<&Plugin>),
) -> Result<Breaks, DefinitionError> {
    let mut breaks = Breaks { definition: definition_breaks(live, new), ..Breaks::default() };
    let (Some(before), Some(after)) = (storage(live), storage(new)) else {
        return Ok(breaks);
    };
    let Some(schema) = schema_of(after).filter(|schema| Some(*schema) != schema_of(before)) else {
        return Ok(breaks);
    };
    let text = |path: &str| live.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let version = before.get("name").and_then(Value::as_str).unwrap_or_default();
    let scope = if text("/spec/scope") == "Cluster" { Scope::Cluster } else { Scope::Namespaced };
    let kind = TypeMeta::new(format!("{}/{version}", text("/spec/group")), text("/spec/names/kind"));
    let served = Served { kind, plural: text("/spec/names/plural").into(), scope };
    let schema = Schema::new(schema);
    let target = after.get("name").and_then(Value::as_str).filter(|name| *name != version);
    let converter = target.zip(plugin.filter(|plugin| plugin.has_conversion()));
    let converter = converter.map(|(target, plugin)| (format!("{}/{target}", served.kind.group()), plugin));
    let look = Look { breaks: &mut breaks, schema: &schema, converter };
    let looked = each_object(cluster, &served, look).await;
    looked.map_err(|error| DefinitionError(format!("stored objects of {} cannot be read: {error}", served.kind)))?;
    Ok(breaks)
}

/// Holds objects against a schema, as they will be.
struct Look<'a> {
    breaks: &'a mut Breaks,
    schema: &'a Schema<'a>,
    /// API version that they will have, and who converts them; none where it is the one they have.
    converter: Option<(String, &'a Plugin)>,
}

impl Look<'_> {
    async fn at(&mut self, kind: &TypeMeta, name: &str, object: &Value) {
        let Some((target, plugin)) = &self.converter else {
            return self.breaks.look_at(self.schema, name, object);
        };
        match convert(plugin, kind, object, target).await {
            Ok(object) => self.breaks.look_at(self.schema, name, &object),
            Err(why) => self.breaks.add(name, vec![Fault { path: "spec".into(), why }]),
        }
    }
}

/// A stored object in another version.
async fn convert(plugin: &Plugin, kind: &TypeMeta, object: &Value, target: &str) -> Result<Value, String> {
    let mut object = object.clone();
    if let Value::Object(fields) = &mut object {
        // the items of a list have neither
        fields.insert("apiVersion".into(), kind.api_version.clone().into());
        fields.insert("kind".into(), kind.kind.clone().into());
    }
    let converted = plugin.convert(&object.to_string(), target).await;
    let converted = converted.map_err(|error| format!("cannot be converted to {target}: {error}"))?;
    let converted = converted.map_err(|why| format!("cannot be converted to {target}: {why}"))?;
    serde_json::from_str(&converted).map_err(|_| format!("is not JSON when it is converted to {target}"))
}

async fn each_object(cluster: &Cluster, served: &Served, mut look: Look<'_>) -> Result<(), ApiError> {
    let resource = served.api_resource();
    let mut api: Api<DynamicObject> = Api::all_with(cluster.client().clone(), &resource);
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = match (api.list(&page).await, cluster.namespace()) {
            (Ok(list), _) => list,
            // not served in this version (any more): there is nothing to read
            (Err(kube::Error::Api(status)), _) if status.code == 404 => return Ok(()),
            // a host for one namespace may have rights there only, and answers for its objects
            (Err(kube::Error::Api(status)), Some(namespace))
                if status.code == 403 && api.resource_url().split('/').all(|part| part != "namespaces") =>
            {
                api = Api::namespaced_with(cluster.client().clone(), namespace, &resource);
                continue;
            }
            (Err(error), _) => return Err(error.into()),
        };
        for object in &list.items {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            match &object.metadata.namespace {
                Some(namespace) => look.at(&served.kind, &format!("{namespace}/{name}"), &object.data).await,
                None => look.at(&served.kind, name, &object.data).await,
            }
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn crd(scope: &str, kind: &str, names: &[&str]) -> Value {
        let versions: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        json!({"spec": {"scope": scope, "names": {"kind": kind}, "versions": versions},
            "status": {"storedVersions": ["v1", "v2"]}})
    }

    #[test]
    fn scope_kind_and_stored_versions_cannot_change() {
        let live = crd("Namespaced", "Thing", &["v1", "v2", "v3"]);
        assert_eq!(definition_breaks(&live, &crd("Namespaced", "Thing", &["v1", "v2"])), Vec::<String>::new());
        let breaks = definition_breaks(&live, &crd("Cluster", "Other", &["v2", "v3"]));
        let expected = [
            "spec.scope cannot change from Namespaced to Cluster",
            "spec.names.kind cannot change from Thing to Other",
            "spec.versions drops v1, in which objects may be stored",
        ];
        assert_eq!(breaks, expected);
    }

    #[test]
    fn objects_are_counted_whole_and_named_up_to_a_bound() {
        let schema = json!({"properties": {"spec": {"properties": {}}}});
        let (schema, mut breaks) = (Schema::new(&schema), Breaks::default());
        breaks.look_at(&schema, "n/good", &json!({"spec": {}}));
        assert!(breaks.is_empty());
        for i in 0..30 {
            breaks.look_at(&schema, &format!("n/o{i}"), &json!({"spec": {"x": 1}}));
        }
        let text = breaks.to_string();
        assert!(text.starts_with("would break 30 stored objects; n/o0: spec.x is not in the schema"), "{text}");
        assert!(text.ends_with("; and 10 more"), "{text}");
    }
}
