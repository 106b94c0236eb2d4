//! A plugin whose behaviour is written into its bytes, for the host's tests of roll-outs.
//!
//! The built component has a place of fixed size with JSON in it ([`Variant`]). A test that wants another version writes
//! other JSON there, which takes no compiler and makes another digest.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "failing is what it is for")]

mod bindings;

use bindings::exports::transom::plugin::reconciler::{
    Child, ChildKind, ChildOptions, Delivery, Disposition, Failure, Guest, Manifest, Plan, Request, Step,
};
use bindings::transom::plugin::host;
use bindings::transom::plugin::types::{Condition, ConditionStatus, TypeMeta};
use serde_json::{Value, json};

/// What comes before the JSON: tests look for it. Longer than any text that is there by chance.
const MARK: &[u8] = b"the variant of the chameleon follows:";

/// Mark and JSON, filled up with blanks.
const SIZE: usize = 4096;

const fn place() -> [u8; SIZE] {
    let mut place = [b' '; SIZE];
    let (mut i, json) = (0, b"{}");
    while i < MARK.len() {
        place[i] = MARK[i];
        i += 1;
    }
    let mut j = 0;
    while j < json.len() {
        place[i + j] = json[j];
        j += 1;
    }
    place
}

static PLACE: [u8; SIZE] = place();

#[cfg_attr(not(target_family = "wasm"), allow(dead_code, reason = "exported from the component only"))]
struct Chameleon;

/// What a version does. Every field has a default.
struct Variant(Value);

impl Variant {
    /// The optimiser must not know what is there.
    fn read() -> Self {
        let place: &[u8; SIZE] = std::hint::black_box(&PLACE);
        Self(serde_json::from_slice(&place[MARK.len()..]).unwrap())
    }

    /// `version`: what the component says of itself.
    fn version(&self) -> &str {
        self.0["version"].as_str().unwrap_or("1.0.0")
    }

    /// `kind`: in lower case, with an `s`, it is the plural.
    fn kind(&self) -> &str {
        self.0["kind"].as_str().unwrap_or("Chameleon")
    }

    /// `value`: in the ConfigMap of every object.
    fn value(&self) -> &str {
        self.0["value"].as_str().unwrap_or_default()
    }

    /// `trap`: traps for objects with this `spec.tag`.
    fn traps_on(&self, tag: &str) -> bool {
        self.0["trap"].as_str().is_some_and(|trap| trap == tag)
    }

    /// `unready`: never Ready for objects with this `spec.tag`; `*` for all.
    fn is_ready(&self, tag: &str) -> bool {
        self.0["unready"].as_str().is_none_or(|unready| unready != "*" && unready != tag)
    }

    /// `secret`: makes a Secret with this value (base64) as well, and declares the kind.
    fn secret(&self) -> Option<&str> {
        self.0["secret"].as_str()
    }

    /// `fixed`: makes a ConfigMap that cannot be changed with this value as well.
    fn fixed(&self) -> Option<&str> {
        self.0["fixed"].as_str()
    }

    /// `late`: makes another ConfigMap with this value, once `waits`, if it is there, is no longer said.
    fn late(&self) -> Option<(&str, Option<&str>)> {
        Some((self.0["late"].as_str()?, self.0["waits"].as_str()))
    }

    /// `schema`: properties of `spec`, in place of `tag` and `text`.
    fn schema(&self) -> Value {
        match &self.0["schema"] {
            Value::Null => json!({ "tag": { "type": "string" }, "text": { "type": "string" } }),
            schema => schema.clone(),
        }
    }

    fn definition(&self) -> Value {
        let (kind, plural) = (self.kind(), format!("{}s", self.kind().to_lowercase()));
        let status = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{plural}.tests.transom.dev") },
            "spec": {
                "group": "tests.transom.dev",
                "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase() },
                "scope": self.0["scope"].as_str().unwrap_or("Namespaced"),
                "versions": [{
                    "name": self.0["api"].as_str().unwrap_or("v1"), "served": true, "storage": true,
                    "subresources": { "status": {} },
                    "schema": { "openAPIV3Schema": { "type": "object", "properties": {
                        "spec": { "type": "object", "properties": self.schema() }, "status": status,
                    } } },
                }],
            },
        })
    }
}

impl Guest for Chameleon {
    fn describe() -> Manifest {
        let variant = Variant::read();
        let kinds = ["ConfigMap"].into_iter().chain(variant.secret().map(|_| "Secret"));
        let child = |kind: &str| ChildKind {
            kind: TypeMeta { api_version: "v1".into(), kind: kind.into() },
            delivery: Delivery::Full,
        };
        Manifest {
            name: "chameleon".into(),
            version: variant.version().into(),
            crds: vec![variant.definition().to_string()],
            children: kinds.map(child).collect(),
            reads: Vec::new(),
            endpoints: Vec::new(),
            engines: Vec::new(),
            config_schema: None,
            finalizes: false,
            ext: Vec::new(),
        }
    }

    fn reconcile(request: Request) -> Result<Step, Failure> {
        std::panic::set_hook(Box::new(|panic| host::log(host::Level::Error, &panic.to_string())));
        let variant = Variant::read();
        let object: Value = serde_json::from_str(&request.object).unwrap();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let tag = object["spec"]["tag"].as_str().unwrap_or_default();
        assert!(!variant.traps_on(tag), "this version traps on {tag}");
        let mut children = vec![json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name },
            "data": { "text": object["spec"]["text"].as_str().unwrap_or_default(), "value": variant.value() },
        })];
        if let Some(value) = variant.secret() {
            children.push(json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "data": { "value": value },
            }));
        }
        if let Some(value) = variant.fixed() {
            children.push(json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("{name}-fixed") },
                "immutable": true, "data": { "value": value },
            }));
        }
        let mut children: Vec<(Value, Disposition)> =
            children.into_iter().map(|object| (object, Disposition::Apply)).collect();
        if let Some((value, waits)) = variant.late() {
            let mut metadata = json!({ "name": format!("{name}-late") });
            if let Some(waits) = waits {
                metadata["annotations"] = json!({ "transom.dev/waits-for": waits });
            }
            let disposition = if waits.is_some() { Disposition::Hold } else { Disposition::Apply };
            let object =
                json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "late": value } });
            children.push((object, disposition));
        }
        let ready = variant.is_ready(tag);
        let condition = Condition {
            type_: "Ready".into(),
            status: if ready { ConditionStatus::True } else { ConditionStatus::False },
            reason: if ready { "AsAsked" } else { "NeverReady" }.into(),
            message: String::new(),
        };
        let child = |(object, disposition): (Value, Disposition)| Child {
            object: object.to_string(),
            disposition,
            options: ChildOptions::empty(),
        };
        Ok(Step::Done(Plan {
            children: children.into_iter().map(child).collect(),
            status: None,
            conditions: vec![condition],
            events: Vec::new(),
            calls: Vec::new(),
            uses: Vec::new(),
            requeue_after_ms: None,
            finalized: false,
            ext: Vec::new(),
        }))
    }
}
