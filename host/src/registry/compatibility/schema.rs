//! Does a stored object hold to a structural schema? What the API server would refuse, and what it would drop.
//!
//! `status` is left out: it is made again by the version that serves. CEL rules and formats are not evaluated.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

/// At most this many faults of one object are named.
const MAX_FAULTS: usize = 8;

/// A pattern larger than this when compiled is not evaluated, as if it were not there: 1 MiB is far above what people write.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// One schema, ready to be held against objects.
pub(super) struct Schema<'a> {
    root: &'a Value,
    patterns: BTreeMap<&'a str, Option<Regex>>,
}

/// A field that would break, as a path such as `spec.ports[0].name`, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fault {
    /// Where in the object.
    pub(super) path: String,
    /// What the schema says to it.
    pub(super) why: String,
}

impl<'a> Schema<'a> {
    /// `root` is an `openAPIV3Schema`.
    #[must_use]
    pub(super) fn new(root: &'a Value) -> Self {
        let mut patterns = BTreeMap::new();
        collect_patterns(root, &mut patterns);
        Self { root, patterns }
    }

    /// What is wrong with an object, in the order of its fields; at most 8 faults. `metadata`, `apiVersion`, `kind` and
    /// `status` are not looked at.
    #[must_use]
    pub(super) fn faults(&self, object: &Value) -> Vec<Fault> {
        let mut walk = Walk { patterns: &self.patterns, faults: Vec::new() };
        let Value::Object(fields) = object else {
            return walk.faults;
        };
        let own = |name: &str| !matches!(name, "metadata" | "apiVersion" | "kind" | "status");
        let fields: Map<String, Value> =
            fields.iter().filter(|(name, _)| own(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut root = self.root.clone();
        if let Some(Value::Array(required)) = root.get_mut("required") {
            required.retain(|name| name.as_str().is_some_and(own));
        }
        walk.object(&root, &fields, "");
        walk.faults
    }
}

fn collect_patterns<'a>(schema: &'a Value, found: &mut BTreeMap<&'a str, Option<Regex>>) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(pattern)) = fields.get("pattern") {
                found
                    .entry(pattern)
                    .or_insert_with(|| regex::RegexBuilder::new(pattern).size_limit(MAX_PATTERN_BYTES).build().ok());
            }
            fields.values().for_each(|value| collect_patterns(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_patterns(item, found)),
        _ => {}
    }
}

struct Walk<'a> {
    patterns: &'a BTreeMap<&'a str, Option<Regex>>,
    faults: Vec<Fault>,
}

impl Walk<'_> {
    fn fault(&mut self, path: &str, why: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            let path = if path.is_empty() { "the object" } else { path };
            self.faults.push(Fault { path: path.to_owned(), why: why.into() });
        }
    }

    fn value(&mut self, schema: &Value, value: &Value, path: &str) {
        if self.faults.len() >= MAX_FAULTS {
            return;
        }
        let is = |flag: &str| schema.get(flag) == Some(&Value::Bool(true));
        if value.is_null() && is("nullable") {
            return;
        }
        if let Some(why) = wrong_type(schema, value) {
            return self.fault(path, why);
        }
        self.restrictions(schema, value, path);
        match value {
            Value::Object(fields) => self.object(schema, fields, path),
            Value::Array(items) => {
                let Some(schema) = schema.get("items") else { return };
                for (i, item) in items.iter().enumerate() {
                    self.value(schema, item, &format!("{path}[{i}]"));
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, schema: &Value, fields: &Map<String, Value>, path: &str) {
        let is = |flag: &str| schema.get(flag) == Some(&Value::Bool(true));
        let properties = schema.get("properties").and_then(Value::as_object);
        let additional = schema.get("additionalProperties");
        let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        for (name, value) in fields {
            let at = join(name);
            match (properties.and_then(|properties| properties.get(name)), additional) {
                (Some(property), _) => self.value(property, value, &at),
                (None, Some(additional @ Value::Object(_))) => self.value(additional, value, &at),
                (None, Some(Value::Bool(true))) => {}
                _ if is("x-kubernetes-preserve-unknown-fields") => {}
                _ if is("x-kubernetes-embedded-resource") && matches!(&**name, "apiVersion" | "kind" | "metadata") => {}
                _ => self.fault(&at, "is not in the schema and would be dropped"),
            }
        }
        self.restrict_object(schema, fields, path);
    }

    /// `required` and the number of properties; a property with a default is never missing.
    fn restrict_object(&mut self, schema: &Value, fields: &Map<String, Value>, path: &str) {
        let properties = schema.get("properties").and_then(Value::as_object);
        let defaulted = |name: &str| properties.and_then(|p| p.get(name)).is_some_and(|p| p.get("default").is_some());
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) && !defaulted(name) {
                let at = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                self.fault(&at, "is required by the schema, and is not there");
            }
        }
        self.bounded(schema, path, "Properties", fields.len(), "properties");
    }

    fn bounded(&mut self, schema: &Value, path: &str, suffix: &str, n: usize, what: &str) {
        let limit = |end: &str| schema.get(format!("{end}{suffix}")).and_then(Value::as_u64);
        if let Some(least) = limit("min").filter(|least| (n as u64) < *least) {
            self.fault(path, format!("has {n} {what}, the schema wants at least {least}"));
        }
        if let Some(most) = limit("max").filter(|most| (n as u64) > *most) {
            self.fault(path, format!("has {n} {what}, the schema allows {most}"));
        }
    }

    /// Everything but types and fields.
    fn restrictions(&mut self, schema: &Value, value: &Value, path: &str) {
        if let Some(Value::Array(allowed)) = schema.get("enum")
            && !allowed.contains(value)
        {
            self.fault(path, format!("is {}, which the schema does not list", shown(value)));
        }
        match value {
            Value::String(text) => {
                self.bounded(schema, path, "Length", text.chars().count(), "characters");
                let pattern = schema.get("pattern").and_then(Value::as_str);
                if let Some(pattern) = pattern
                    && let Some(Some(regex)) = self.patterns.get(pattern)
                    && !regex.is_match(text)
                {
                    self.fault(path, format!("is {}, which does not match {pattern}", shown(value)));
                }
            }
            Value::Number(number) => self.number(schema, number.as_f64().unwrap_or_default(), path),
            Value::Array(items) => {
                self.bounded(schema, path, "Items", items.len(), "items");
                let twice =
                    || items.iter().enumerate().any(|(i, item)| items.iter().take(i).any(|other| other == item));
                if schema.get("uniqueItems") == Some(&Value::Bool(true)) && twice() {
                    self.fault(path, "has an item twice");
                }
            }
            _ => {}
        }
        self.combined(schema, value, path);
    }

    fn number(&mut self, schema: &Value, number: f64, path: &str) {
        let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
        let is = |flag: &str| schema.get(flag) == Some(&Value::Bool(true));
        let below = |least: f64| number < least || is("exclusiveMinimum") && number <= least;
        if let Some(least) = limit("minimum").filter(|least| below(*least)) {
            self.fault(path, format!("is {number}, the schema's minimum is {least}"));
        }
        let above = |most: f64| number > most || is("exclusiveMaximum") && number >= most;
        if let Some(most) = limit("maximum").filter(|most| above(*most)) {
            self.fault(path, format!("is {number}, the schema's maximum is {most}"));
        }
        if let Some(step) = limit("multipleOf").filter(|step| *step > 0.0)
            && ((number / step).round() * step - number).abs() > f64::EPSILON * number.abs().max(1.0)
        {
            self.fault(path, format!("is {number}, which is no multiple of {step}"));
        }
    }

    /// `allOf`, `anyOf`, `oneOf` and `not`, which in a structural schema restrict values and define no fields.
    fn combined(&mut self, schema: &Value, value: &Value, path: &str) {
        let list = |name: &str| schema.get(name).and_then(Value::as_array);
        for part in list("allOf").into_iter().flatten() {
            self.part(part, value, path);
        }
        let holds = |part: &Value| self.holds(part, value);
        if list("anyOf").is_some_and(|parts| !parts.iter().any(holds)) {
            self.fault(path, "matches none of the schema's alternatives (anyOf)");
        }
        let holds = |part: &&Value| self.holds(part, value);
        if list("oneOf").is_some_and(|parts| parts.iter().filter(holds).count() != 1) {
            self.fault(path, "does not match exactly one of the schema's alternatives (oneOf)");
        }
        if schema.get("not").is_some_and(|part| self.holds(part, value)) {
            self.fault(path, "is what the schema excludes (not)");
        }
    }

    fn holds(&self, part: &Value, value: &Value) -> bool {
        let mut walk = Walk { patterns: self.patterns, faults: Vec::new() };
        walk.part(part, value, "");
        walk.faults.is_empty()
    }

    /// A part of `allOf` and its like: says nothing about fields that it does not name.
    fn part(&mut self, schema: &Value, value: &Value, path: &str) {
        if let Some(why) = wrong_type(schema, value) {
            return self.fault(path, why);
        }
        self.restrictions(schema, value, path);
        match value {
            Value::Object(fields) => {
                for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                    if let Some(value) = fields.get(name) {
                        self.part(property, value, &format!("{path}.{name}"));
                    }
                }
                self.restrict_object(schema, fields, path);
            }
            Value::Array(items) => {
                if let Some(schema) = schema.get("items") {
                    items.iter().for_each(|item| self.part(schema, item, path));
                }
            }
            _ => {}
        }
    }
}

fn wrong_type(schema: &Value, value: &Value) -> Option<String> {
    let is = |flag: &str| schema.get(flag) == Some(&Value::Bool(true));
    if is("x-kubernetes-int-or-string") {
        let fits = value.is_string() || value.is_i64() || value.is_u64();
        return (!fits).then(|| format!("is {}, the schema wants an integer or a string", shown(value)));
    }
    let wanted = schema.get("type").and_then(Value::as_str)?;
    let fits = match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        // 1.0 is an integer to the API server, too
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        _ => true,
    };
    (!fits).then(|| format!("is {}, the schema wants type {wanted}", shown(value)))
}

/// A value in a sentence: short, and of a composite one only what it is.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".into(),
        Value::Array(_) => "a list".into(),
        other => crate::plan::check::shorten(&other.to_string(), 64),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn faults(spec: Value, object: Value) -> Vec<String> {
        let root = json!({"type": "object", "required": ["spec", "status"], "properties": {"spec": spec}});
        let object = json!({"metadata": {"name": "a"}, "status": {"anything": 1}, "spec": object});
        Schema::new(&root).faults(&object).into_iter().map(|fault| format!("{} {}", fault.path, fault.why)).collect()
    }

    #[rstest]
    #[case::removed(json!({"properties": {"a": {}}}), json!({"b": 1}), "spec.b is not in the schema")]
    #[case::kind(json!({"properties": {"a": {"type": "string"}}}), json!({"a": 1}), "spec.a is 1, the schema wants type string")]
    #[case::listed(json!({"properties": {"a": {"enum": ["x"]}}}), json!({"a": "y"}), "spec.a is \"y\", which the schema does not list")]
    #[case::pattern(json!({"properties": {"a": {"pattern": "^x+$"}}}), json!({"a": "xy"}), "does not match ^x+$")]
    #[case::minimum(json!({"properties": {"a": {"minimum": 2}}}), json!({"a": 1}), "minimum is 2")]
    #[case::exclusive(json!({"properties": {"a": {"maximum": 2, "exclusiveMaximum": true}}}), json!({"a": 2}), "maximum is 2")]
    #[case::multiple(json!({"properties": {"a": {"multipleOf": 3}}}), json!({"a": 4}), "no multiple of 3")]
    #[case::length(json!({"properties": {"a": {"maxLength": 2}}}), json!({"a": "xyz"}), "has 3 characters, the schema allows 2")]
    #[case::items(json!({"properties": {"a": {"minItems": 1, "items": {}}}}), json!({"a": []}), "wants at least 1")]
    #[case::unique(json!({"properties": {"a": {"uniqueItems": true}}}), json!({"a": [1, 1]}), "has an item twice")]
    #[case::required(json!({"required": ["a"], "properties": {"a": {}}}), json!({}), "spec.a is required")]
    #[case::additional(json!({"additionalProperties": {"type": "string"}}), json!({"x": 1}), "spec.x is 1")]
    #[case::closed(json!({"additionalProperties": false}), json!({"x": 1}), "spec.x is not in the schema")]
    #[case::nested(json!({"properties": {"a": {"items": {"properties": {"b": {"type": "integer"}}}}}}), json!({"a": [{"b": 1}, {"b": 1.5}]}), "spec.a[1].b is 1.5")]
    #[case::null(json!({"properties": {"a": {"type": "string"}}}), json!({"a": null}), "wants type string")]
    #[case::int_or_string(json!({"properties": {"a": {"x-kubernetes-int-or-string": true}}}), json!({"a": true}), "an integer or a string")]
    #[case::all_of(json!({"properties": {"a": {"allOf": [{"maximum": 1}]}}}), json!({"a": 2}), "maximum is 1")]
    #[case::any_of(json!({"properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["b"]}]}), json!({"a": 2}), "anyOf")]
    #[case::one_of(json!({"properties": {"a": {}, "b": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}), json!({"a": 2, "b": 1}), "oneOf")]
    #[case::not(json!({"properties": {"a": {"not": {"enum": [1]}}}}), json!({"a": 1}), "excludes")]
    fn what_would_break_is_named(#[case] spec: Value, #[case] object: Value, #[case] said: &str) {
        let faults = faults(spec, object);
        assert!(faults.len() == 1 && faults[0].contains(said), "{faults:?}");
    }

    #[rstest]
    #[case::preserved(json!({"x-kubernetes-preserve-unknown-fields": true}), json!({"x": 1}))]
    #[case::defaulted(json!({"required": ["a"], "properties": {"a": {"default": 1}}}), json!({}))]
    #[case::nullable(json!({"properties": {"a": {"type": "string", "nullable": true}}}), json!({"a": null}))]
    #[case::integer(json!({"properties": {"a": {"type": "integer"}}}), json!({"a": 1.0}))]
    #[case::number(json!({"properties": {"a": {"type": "number"}}}), json!({"a": 1}))]
    #[case::embedded(json!({"x-kubernetes-embedded-resource": true}), json!({"kind": "X", "apiVersion": "v1", "metadata": {}}))]
    #[case::hostile_pattern(json!({"properties": {"a": {"pattern": "(("}}}), json!({"a": "x"}))]
    fn what_holds_is_let_through(#[case] spec: Value, #[case] object: Value) {
        assert_eq!(faults(spec, object), Vec::<String>::new());
    }

    #[test]
    fn the_faults_of_one_object_are_bounded() {
        let many: Map<String, Value> = (0..100).map(|i| (format!("f{i}"), json!(1))).collect();
        assert_eq!(faults(json!({"properties": {}}), Value::Object(many)).len(), MAX_FAULTS);
    }

    /// A value together with a schema that it was made for.
    fn pair() -> impl Strategy<Value = (Value, Value)> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(|n| (json!({"type": "integer", "minimum": n, "maximum": n}), json!(n))),
            "[a-z]{0,6}"
                .prop_map(|s| (json!({"type": "string", "pattern": "^[a-z]*$", "maxLength": s.len()}), json!(s))),
            any::<bool>().prop_map(|b| (json!({"type": "boolean", "enum": [b]}), json!(b))),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::btree_map("[a-e]", inner.clone(), 0..4).prop_map(|fields| {
                    let required: Vec<&String> = fields.keys().collect();
                    let schemas: Map<String, Value> = fields.iter().map(|(k, (s, _))| (k.clone(), s.clone())).collect();
                    let values: Map<String, Value> = fields.iter().map(|(k, (_, v))| (k.clone(), v.clone())).collect();
                    (json!({"type": "object", "required": required, "properties": schemas}), Value::Object(values))
                }),
                (inner, 0..3usize).prop_map(|((schema, value), n)| {
                    (json!({"type": "array", "items": schema, "maxItems": n}), json!(vec![value; n]))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_schema_made_for_a_value_holds((schema, value) in pair()) {
            prop_assert_eq!(faults(schema, value), Vec::<String>::new());
        }

        #[test]
        fn a_field_more_than_the_schema_has_is_always_found((schema, value) in pair()) {
            let closed = json!({"properties": {"a": schema}});
            prop_assert_eq!(faults(closed.clone(), json!({"a": value})).len(), 0);
            prop_assert_eq!(faults(closed, json!({"a": value, "zz": 1})).len(), 1);
        }

        #[test]
        fn any_schema_is_walked_without_a_panic((a, _) in pair(), (_, b) in pair(), (c, d) in pair()) {
            let _ = faults(a.clone(), b.clone());
            let _ = faults(json!({"allOf": [a], "not": c, "anyOf": [d], "required": b}), d.clone());
        }
    }
}
