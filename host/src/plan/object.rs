//! A Kubernetes object as compact JSON text with the few fields that the host decides on beside it.
//!
//! Objects are cached and handed to plugins as text: a tree of `serde_json::Value` takes about six times the memory, and
//! a plugin wants text anyway. Reading one drops what changes without meaning (`managedFields`, `resourceVersion`,
//! `selfLink`) by copying the rest, without building a tree.

use std::borrow::Cow;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::contract::{Delivery, ObjectRef, TypeMeta};
use crate::api::names;

/// One live object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.resourceVersion`; as a number where it is one, so that the newer of two is known.
    pub resource_version: u64,
    /// `metadata.generation`, 0 where the kind has none.
    pub generation: i64,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// Carries the host's finalizer.
    pub finalizer: bool,
    /// UID of the primary, from the label.
    pub owner: Option<String>,
    /// Digest of what was last applied, from the annotation.
    pub applied: Option<String>,
    /// Stays when its primary goes, from the annotations.
    pub keep: bool,
    /// Digest of the version of its plugin that is to serve it, from the annotations of a primary.
    pub pin: Option<Box<str>>,
    /// Hash of everything but the status: two versions with the same one differ in nothing that anybody wants.
    pub shape: u64,
    /// Hash of everything but status and metadata.
    pub intent: u64,
    /// The object, compact, without `managedFields`, `resourceVersion` and `selfLink`.
    pub json: Box<str>,
}

/// Why a text is no Kubernetes object.
#[derive(Debug, thiserror::Error)]
#[error("not a Kubernetes object")]
pub struct ParseError(#[source] serde_json::Error);

impl Object {
    /// Reads an object as the API server sends it.
    ///
    /// # Errors
    /// When it is not JSON, or `metadata` has no name.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        serde_json::from_str::<Self>(text).map_err(ParseError)
    }

    /// Reference to this object, which does not carry its own kind.
    #[must_use]
    pub fn reference(&self, kind: &TypeMeta) -> ObjectRef {
        ObjectRef { kind: kind.clone(), namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// The whole object as a tree.
    #[must_use]
    pub fn value(&self) -> serde_json::Value {
        serde_json::from_str(&self.json).unwrap_or_default()
    }

    /// The status as a tree, empty where there is none.
    #[must_use]
    pub fn status(&self) -> serde_json::Map<String, serde_json::Value> {
        let fields = serde_json::from_str::<Fields<'_>>(&self.json).unwrap_or_default();
        fields.get("status").and_then(|status| serde_json::from_str(status.get()).ok()).unwrap_or_default()
    }

    /// The text that a plugin is shown. `api_version` and `kind` are put in where the API server left them out (items
    /// of a list have none).
    #[must_use]
    pub fn deliver(&self, kind: &TypeMeta, delivery: Delivery) -> String {
        let fields = serde_json::from_str::<Fields<'_>>(&self.json).map(|f| f.0).unwrap_or_default();
        let wanted = |name: &str| match delivery {
            Delivery::Full => name != "apiVersion" && name != "kind",
            Delivery::Status => name == "metadata" || name == "status",
            Delivery::Metadata => name == "metadata",
        };
        let mut out = String::with_capacity(self.json.len() + 64);
        out.push_str("{\"apiVersion\":");
        push_string(&mut out, &kind.api_version);
        out.push_str(",\"kind\":");
        push_string(&mut out, &kind.kind);
        for (name, value) in fields.iter().filter(|(name, _)| wanted(name)) {
            push_field(&mut out, name, value);
        }
        out.push('}');
        out
    }

    /// When its deletion began.
    #[must_use]
    pub fn deleted_at(&self) -> Option<jiff::Timestamp> {
        if !self.deleting {
            return None;
        }
        self.value().pointer("/metadata/deletionTimestamp")?.as_str()?.parse().ok()
    }
}

/// Appends a JSON string.
pub(crate) fn push_string(out: &mut String, text: &str) {
    if text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        out.push_str(&serde_json::Value::from(text).to_string());
    } else {
        out.push('"');
        out.push_str(text);
        out.push('"');
    }
}

/// Appends a field to an object that is being written.
pub(crate) fn push_field(out: &mut String, name: &str, value: &RawValue) {
    push_name(out, name);
    out.push_str(value.get());
}

pub(crate) fn push_name(out: &mut String, name: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    push_string(out, name);
    out.push(':');
}

/// The fields of a JSON object in their order.
pub(crate) struct Pairs<'a, V>(pub(crate) Vec<(Cow<'a, str>, V)>);

/// The values unread.
pub(crate) type Fields<'a> = Pairs<'a, &'a RawValue>;

/// All values are strings, as in labels and annotations.
type Strings<'a> = Pairs<'a, Text<'a>>;

impl<V> Default for Pairs<'_, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> Pairs<'_, V> {
    fn get(&self, name: &str) -> Option<&V> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

impl<'de: 'a, 'a, V: Deserialize<'de>> Deserialize<'de> for Pairs<'a, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<'a, V>(PhantomData<(&'a (), V)>);
        impl<'de: 'a, 'a, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<'a, V> {
            type Value = Pairs<'a, V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut pairs = Vec::with_capacity(map.size_hint().unwrap_or(8));
                while let Some(Text(name)) = map.next_key::<Text<'a>>()? {
                    pairs.push((name, map.next_value()?));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

/// A string, borrowed unless it has escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for TextVisitor<'a> {
            type Value = Text<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(v)))
            }
            fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(v.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor(PhantomData))
    }
}

/// Through text: needs `serde_json`, whose raw values keep the parts that are only copied unread.
impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let fields: Fields<'_> = serde_json::from_str(raw.get()).map_err(D::Error::custom)?;
        let mut object = Self::default();
        let (mut shape, mut intent) = (DefaultHasher::new(), DefaultHasher::new());
        let mut out = String::with_capacity(raw.get().len());
        out.push('{');
        for (name, value) in &fields.0 {
            if name == "metadata" {
                // a field at a time: what is dropped is most of the text
                let metadata: Fields<'_> = serde_json::from_str(value.get()).map_err(D::Error::custom)?;
                push_name(&mut out, name);
                let start = out.len();
                out.push('{');
                for (name, value) in &metadata.0 {
                    object.take(name, value.get()).map_err(D::Error::custom)?;
                    if !matches!(name.as_ref(), "managedFields" | "resourceVersion" | "selfLink") {
                        push_field(&mut out, name, value);
                    }
                }
                out.push('}');
                out.get(start..).hash(&mut shape);
            } else {
                push_field(&mut out, name, value);
                if name != "status" {
                    (name, value.get()).hash(&mut shape);
                }
                if !matches!(name.as_ref(), "status" | "apiVersion" | "kind") {
                    (name, value.get()).hash(&mut intent);
                }
            }
        }
        out.push('}');
        if object.name.is_empty() {
            return Err(D::Error::custom("metadata.name is missing"));
        }
        (object.shape, object.intent) = (shape.finish(), intent.finish());
        object.json = out.into_boxed_str();
        Ok(object)
    }
}

impl Object {
    /// Notes a field of the metadata that the host decides on.
    fn take(&mut self, name: &str, value: &str) -> serde_json::Result<()> {
        match name {
            "name" => self.name = serde_json::from_str(value)?,
            "namespace" => self.namespace = serde_json::from_str(value)?,
            "uid" => self.uid = serde_json::from_str(value)?,
            "resourceVersion" => {
                self.resource_version = serde_json::from_str::<Cow<'_, str>>(value)?.parse().unwrap_or_default();
            }
            "generation" => self.generation = serde_json::from_str(value)?,
            "deletionTimestamp" => self.deleting = value != "null",
            "finalizers" => {
                let finalizers: Option<Vec<String>> = serde_json::from_str(value)?;
                self.finalizer = finalizers.is_some_and(|list| list.iter().any(|name| name == names::FINALIZER));
            }
            "labels" => {
                let labels: Option<Strings<'_>> = serde_json::from_str(value)?;
                self.owner = labels.and_then(|labels| labels.get(names::OWNER_LABEL).map(|Text(uid)| uid.to_string()));
            }
            "annotations" => {
                let Some(annotations) = serde_json::from_str::<Option<Strings<'_>>>(value)? else { return Ok(()) };
                let text = |name: &str| annotations.get(name).map(|Text(value)| value.as_ref());
                self.applied = text(names::APPLIED_ANNOTATION).map(Into::into);
                self.pin = text(names::PIN_ANNOTATION).map(Into::into);
                self.keep = text(names::KEEP_ANNOTATION).is_some() || text(names::HELM_KEEP_ANNOTATION) == Some("keep");
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: &str = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"n","uid":"u",
        "resourceVersion":"42","generation":3,"labels":{"transom.dev/owner-uid":"o","x":"y"},
        "annotations":{"transom.dev/applied":"d","helm.sh/resource-policy":"keep"},
        "managedFields":[{"manager":"m","fieldsV1":{"f:data":{}}}],"finalizers":["transom.dev/cleanup"]},
        "data":{"k":"\"v\""},"status":{"ok":true}}"#;

    #[test]
    fn what_changes_without_meaning_is_dropped() {
        let object = Object::parse(LIVE).unwrap();
        assert!(!object.json.contains("managedFields") && !object.json.contains("resourceVersion"));
        assert_eq!(object.value()["data"]["k"], "\"v\"");
        assert_eq!(
            Object { json: "".into(), shape: 0, intent: 0, ..object },
            Object {
                namespace: "n".into(),
                name: "a".into(),
                uid: "u".into(),
                resource_version: 42,
                generation: 3,
                finalizer: true,
                owner: Some("o".into()),
                applied: Some("d".into()),
                keep: true,
                ..Object::default()
            }
        );
    }

    #[test]
    fn a_plugin_is_shown_as_much_as_it_declared() {
        let object = Object::parse(LIVE).unwrap();
        let kind = TypeMeta::new("v1", "ConfigMap");
        let keys = |delivery| -> Vec<String> {
            let value: serde_json::Value = serde_json::from_str(&object.deliver(&kind, delivery)).unwrap();
            value.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(keys(Delivery::Full), ["apiVersion", "data", "kind", "metadata", "status"]);
        assert_eq!(keys(Delivery::Status), ["apiVersion", "kind", "metadata", "status"]);
        assert_eq!(keys(Delivery::Metadata), ["apiVersion", "kind", "metadata"]);
    }

    #[test]
    fn the_shape_is_that_of_everything_but_the_status() {
        let shape = |text: &str| Object::parse(text).unwrap().shape;
        let first = shape(LIVE);
        assert_eq!(first, shape(&LIVE.replace("\"ok\":true", "\"ok\":false").replace("\"42\"", "\"43\"")));
        for (old, new) in [("\\\"v\\\"", "w"), ("\"x\":\"y\"", "\"x\":\"z\""), ("\"d\"", "\"e\"")] {
            assert_ne!(first, shape(&LIVE.replace(old, new)), "{old}");
        }
    }

    #[test]
    fn the_intent_is_that_of_everything_but_status_and_metadata() {
        let intent = |text: &str| Object::parse(text).unwrap().intent;
        let first = intent(LIVE);
        assert_eq!(first, intent(&LIVE.replace("\"x\":\"y\"", "\"x\":\"z\"").replace("\"ok\":true", "\"ok\":false")));
        assert_eq!(
            first,
            intent(&LIVE.replace("\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",", "")),
            "an item of a list"
        );
        assert_ne!(first, intent(&LIVE.replace("\\\"v\\\"", "w")));
    }

    #[test]
    fn strings_are_written_as_json_has_them() {
        for text in ["", "plain", "a\"b", "a\\b", "line\nbreak", "\u{1}", "ümläut", "\u{7f}"] {
            let mut out = String::new();
            push_string(&mut out, text);
            assert_eq!(out, serde_json::to_string(text).unwrap());
        }
    }

    #[test]
    fn an_object_without_a_name_is_refused() {
        assert!(Object::parse(r#"{"metadata":{}}"#).is_err());
        assert!(Object::parse("[]").is_err());
        assert!(Object::parse("{").is_err());
    }
}
