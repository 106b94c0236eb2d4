//! Conversion: one kind in several API versions.

use serde_json::{Map, Value};

use crate::admission::Validated;
use crate::crd;
use crate::json;
use crate::kind::{Kind, TypeMeta};
use crate::manifest::{Manifest, Plugin};

/// How a spec in version `A` of a kind looks in version `B`. Written once for each direction between the primary's own
/// version and each of the others.
///
/// What `B` has no place for may be dropped: the SDK keeps it in the annotation `transom.dev/converted` and puts it back
/// on the way back, also when somebody has edited the object meanwhile. The status is the same in all versions.
///
/// A plugin that has this names the versions in its manifest ([`Manifest::version`]) and in
/// `export!(MyPlugin, conversion)`.
pub trait Convert<A: Validated, B: Validated>: Plugin {
    /// The spec in version `B`.
    ///
    /// # Errors
    ///
    /// The request that needs it is refused, be it only a read: for objects that no schema would let in.
    fn convert(spec: A::Spec) -> Result<B::Spec, Unconvertible>;
}

/// Why a spec has no form in another version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconvertible {
    field: String,
    message: String,
}

impl Unconvertible {
    /// `field` (a path such as `spec.size`) is the reason; `message` says how to mend it.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl std::fmt::Display for Unconvertible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.field, self.message)
    }
}

impl std::error::Error for Unconvertible {}

/// Where specs are kept that have no full form in the version an object is in: a JSON object with a spec for each API
/// version.
pub(crate) const ANNOTATION: &str = "transom.dev/converted";

/// From spec to spec as trees.
type Step = fn(&Value) -> Result<Value, String>;

/// A version of a kind beside that of its primary.
pub(crate) struct VersionRoute {
    /// The primary.
    pub(crate) primary: TypeMeta,
    version: TypeMeta,
    pub(crate) crd: fn() -> Result<String, serde_json::Error>,
    up: Pair,
    down: Pair,
}

/// One direction, the way back, and what is left of a spec in the type of its own version.
#[derive(Clone, Copy)]
struct Pair {
    there: Step,
    back: Step,
    own: Step,
}

impl VersionRoute {
    pub(crate) fn new<P: Convert<V, K> + Convert<K, V>, V: Validated, K: Validated>() -> Self {
        Self {
            primary: K::type_meta(),
            version: V::type_meta(),
            crd: crd::json::<V>,
            up: Pair { there: step::<P, V, K>, back: step::<P, K, V>, own: own::<V> },
            down: Pair { there: step::<P, K, V>, back: step::<P, V, K>, own: own::<K> },
        }
    }
}

fn step<P: Convert<A, B>, A: Validated, B: Validated>(spec: &Value) -> Result<Value, String> {
    let spec: A::Spec = json::read(spec).map_err(|error| format!("spec does not fit {}: {error}", A::version(&())))?;
    let converted = P::convert(spec).map_err(|error| error.to_string())?;
    json::write(&converted).map_err(|error| format!("spec has no JSON form in {}: {error}", B::version(&())))
}

fn own<A: Validated>(spec: &Value) -> Result<Value, String> {
    json::read::<A::Spec>(spec).and_then(|spec| json::write(&spec)).map_err(|error| error.to_string())
}

/// What the component exports as `convert`.
pub(crate) fn convert<P: Plugin>(object: &str, to: &str) -> Result<String, String> {
    let (from, kind) = crate::component::header(object).map_err(|error| error.to_string())?;
    if from == to {
        return Ok(object.to_owned());
    }
    let mut object: Value = serde_json::from_str(object).map_err(|error| error.to_string())?;
    let manifest = P::manifest();
    for (pair, target) in path(&manifest, &kind, &from, to)? {
        turn(&mut object, pair, &target)?;
    }
    Ok(object.to_string())
}

/// The steps from one version to another: by way of the primary's own.
fn path<P: Plugin>(manifest: &Manifest<P>, kind: &str, from: &str, to: &str) -> Result<Vec<(Pair, String)>, String> {
    let version = |api_version: &str| manifest.versions.iter().find(|route| route.version.is(api_version, kind));
    let mut steps = Vec::new();
    let mut at = from.to_owned();
    if let Some(route) = version(&at) {
        at = route.primary.api_version.to_string();
        steps.push((route.up, at.clone()));
    }
    if at != to {
        let route = version(to).filter(|route| route.primary.is(&at, kind));
        let route = route.ok_or_else(|| format!("{kind} cannot be converted from {from} to {to}"))?;
        steps.push((route.down, to.to_owned()));
    }
    Ok(steps)
}

/// One step of an object, without loss.
fn turn(object: &mut Value, pair: Pair, to: &str) -> Result<(), String> {
    let from = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    let spec = object.get("spec").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    let mut kept = kept(object);
    let now = (pair.there)(&spec)?;
    let converted = match kept.remove(to) {
        // how the object was in that version: what happened to it in this one since is carried over
        Some(mut was) => match (pair.back)(&was).and_then(|seen| (pair.there)(&seen)) {
            Ok(seen) => {
                json::carry(&seen, &now, &mut was);
                was
            }
            Err(_) => now,
        },
        None => now,
    };
    if (pair.back)(&converted).ok() != (pair.own)(&spec).ok() {
        kept.insert(from, spec);
    }
    keep(object, kept);
    if let Value::Object(fields) = object {
        fields.insert("apiVersion".into(), to.into());
        fields.insert("spec".into(), converted);
    }
    Ok(())
}

/// Specs by API version, as the annotation has them.
fn kept(object: &Value) -> Map<String, Value> {
    let annotation = object.pointer("/metadata/annotations").and_then(|annotations| annotations.get(ANNOTATION));
    let kept = annotation.and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
    kept.unwrap_or_default()
}

fn keep(object: &mut Value, kept: Map<String, Value>) {
    let had = object.pointer("/metadata/annotations").is_some();
    if kept.is_empty() && !had {
        return;
    }
    let metadata = json::member(object, "metadata");
    let annotations = json::member(metadata, "annotations");
    let Value::Object(fields) = annotations else { return };
    if kept.is_empty() {
        fields.remove(ANNOTATION);
    } else {
        fields.insert(ANNOTATION.into(), Value::Object(kept).to_string().into());
    }
    if fields.is_empty()
        && let Value::Object(metadata) = metadata
    {
        metadata.remove("annotations");
    }
}
