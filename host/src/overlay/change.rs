//! Where two states of one object differ: each place that was set, changed or removed.
//!
//! Rules are held against these, not against patches, so that it does not matter how a patch is written. Items of lists
//! are told apart by a key where both lists have one that is unique; whatever is paired with what, no difference between
//! the two states goes unreported.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::plan::path::{Part, Path, said};

/// One difference.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where.
    pub path: Path,
    /// As it was; none where there was nothing.
    pub before: Option<Value>,
    /// As it is; none where there is nothing.
    pub after: Option<Value>,
    /// A whole item of a list came or went. What is in it is reported besides, place by place.
    pub item: bool,
}

/// All differences, in the order of the fields.
#[must_use]
pub fn changes(before: &Value, after: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    walk(&Path::default(), Some(before), Some(after), &mut found);
    found
}

fn walk(path: &Path, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Change>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                walk(&path.field(name), old.get(name), new.get(name), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => lists(path, old, new, found),
        (Some(whole), None) | (None, Some(whole)) => one_sided(path, whole, after.is_some(), found),
        (Some(old), Some(new)) if !is_composite(old) && !is_composite(new) => leaf(path, before, after, found),
        (Some(_), Some(_)) => {
            walk(path, before, None, found);
            walk(path, None, after, found);
        }
        (None, None) => {}
    }
}

/// Something that is there on one side only.
fn one_sided(path: &Path, whole: &Value, is_new: bool, found: &mut Vec<Change>) {
    let sides = |value| if is_new { (None, Some(value)) } else { (Some(value), None) };
    match whole {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let (before, after) = sides(value);
                walk(&path.field(name), before, after, found);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            if is_new {
                lists(path, &[], items, found)
            } else {
                lists(path, items, &[], found)
            }
        }
        value => {
            let (before, after) = sides(value);
            leaf(path, before, after, found);
        }
    }
}

fn leaf(path: &Path, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Change>) {
    found.push(Change { path: path.clone(), before: before.cloned(), after: after.cloned(), item: false });
}

fn is_composite(value: &Value) -> bool {
    value.is_object() || value.is_array()
}

fn lists(path: &Path, old: &[Value], new: &[Value], found: &mut Vec<Change>) {
    if let Some(key) = key_of(old, new) {
        return keyed(path, old, new, |item| item.get(key).map(said), Some(key), found);
    }
    let plain = |items: &[Value]| items.iter().all(|item| !is_composite(item)) && is_unique(items.iter().map(said));
    if plain(old) && plain(new) {
        return keyed(path, old, new, |item| Some(said(item)), None, found);
    }
    for i in 0..old.len().max(new.len()) {
        let place = path.with(Part::Item { key: None, value: i.to_string() });
        entry(&place, old.get(i), new.get(i), found);
    }
}

/// Lists whose items are told apart by a text.
fn keyed(
    path: &Path,
    old: &[Value],
    new: &[Value],
    text: impl Fn(&Value) -> Option<String>,
    key: Option<&'static str>,
    found: &mut Vec<Change>,
) {
    let texts = |items: &[Value]| -> Vec<String> { items.iter().map(|item| text(item).unwrap_or_default()).collect() };
    let (old_texts, new_texts) = (texts(old), texts(new));
    let by_text: BTreeMap<&str, &Value> = new_texts.iter().map(String::as_str).zip(new).collect();
    let was: BTreeMap<&str, &Value> = old_texts.iter().map(String::as_str).zip(old).collect();
    let place = |text: &str| path.with(Part::Item { key, value: text.to_owned() });
    for (text, item) in old_texts.iter().zip(old) {
        entry(&place(text), Some(item), by_text.get(text.as_str()).copied(), found);
    }
    for (text, item) in new_texts.iter().zip(new).filter(|(text, _)| !was.contains_key(text.as_str())) {
        entry(&place(text), None, Some(item), found);
    }
    let stayed_old = old_texts.iter().filter(|text| by_text.contains_key(text.as_str()));
    let stayed_new = new_texts.iter().filter(|text| was.contains_key(text.as_str()));
    if !stayed_old.eq(stayed_new) {
        let list = |items: &[Value]| Value::Array(items.to_vec());
        leaf(path, Some(&list(old)), Some(&list(new)), found);
    }
}

fn entry(path: &Path, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Change>) {
    if before.is_some() != after.is_some() {
        found.push(Change { path: path.clone(), before: before.cloned(), after: after.cloned(), item: true });
    }
    walk(path, before, after, found);
}

/// Fields by which Kubernetes' own types tell items apart, in the order in which they are tried.
const KEYS: [&str; 8] = ["name", "key", "mountPath", "containerPort", "port", "topologyKey", "ip", "type"];

/// A field that every item of both lists has, each item of one list with another value.
fn key_of(old: &[Value], new: &[Value]) -> Option<&'static str> {
    let tells_apart = |items: &[Value], key: &str| {
        let texts = items.iter().map(|item| item.get(key).filter(|value| !is_composite(value)).map(said));
        let texts: Option<Vec<String>> = texts.collect();
        texts.is_some_and(|texts| is_unique(texts.into_iter()))
    };
    if old.is_empty() && new.is_empty() {
        return None;
    }
    KEYS.into_iter().find(|key| tells_apart(old, key) && tells_apart(new, key))
}

fn is_unique(mut texts: impl Iterator<Item = String>) -> bool {
    let mut seen = BTreeSet::new();
    texts.all(|text| seen.insert(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::testing::any_json;
    use super::*;

    fn shown(before: &Value, after: &Value) -> Vec<String> {
        let side = |side: &Option<Value>| side.as_ref().map_or_else(|| "-".into(), ToString::to_string);
        changes(before, after)
            .iter()
            .map(|c| {
                format!("{}{}: {} > {}", c.path, if c.item { " (item)" } else { "" }, side(&c.before), side(&c.after))
            })
            .collect()
    }

    #[test]
    fn items_are_told_apart_by_key_and_what_is_in_a_new_one_is_reported() {
        let before = json!({"c": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]});
        let after = json!({"c": [{"name": "s", "priv": {"x": true}}, {"name": "a", "image": "x"}, {"name": "b", "image": "z"}]});
        assert_eq!(
            shown(&before, &after),
            [
                "c[name=b].image: \"y\" > \"z\"",
                "c[name=s] (item): - > {\"name\":\"s\",\"priv\":{\"x\":true}}",
                "c[name=s].name: - > \"s\"",
                "c[name=s].priv.x: - > true",
            ]
        );
    }

    #[test]
    fn items_of_one_key_are_told_apart_by_position() {
        let before = json!([{"name": "a", "x": 1}]);
        let after = json!([{"name": "a", "x": 1}, {"name": "a", "x": 2}]);
        assert_eq!(shown(&before, &after).len(), 3);
        assert!(shown(&before, &after).contains(&"[1].x: - > 2".to_owned()));
    }

    #[test]
    fn another_order_is_a_change_of_the_list() {
        let found = changes(&json!({"args": ["a", "b"]}), &json!({"args": ["b", "a"]}));
        assert_eq!(found.iter().map(|c| c.path.to_string()).collect::<Vec<_>>(), ["args"]);
    }

    #[test]
    fn a_value_of_another_shape_is_removed_and_set() {
        assert_eq!(shown(&json!({"a": {"b": 1}}), &json!({"a": "x"})), ["a.b: 1 > -", "a: - > \"x\""]);
        assert_eq!(shown(&json!({"a": {"b": 1}}), &json!({"a": {}})), ["a.b: 1 > -"]);
        assert_eq!(shown(&json!({}), &json!({"a": {}})), ["a: - > {}"]);
    }

    /// Every scalar with its path by field and position.
    fn scalars(value: &Value, path: &str, out: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(k, v)| scalars(v, &format!("{path}.{k}"), out)),
            Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| scalars(v, &format!("{path}.{i}"), out)),
            scalar => {
                out.insert(path.to_owned(), scalar.clone());
            }
        }
    }

    proptest! {
        #[test]
        fn no_difference_in_a_scalar_goes_unreported(before in any_json(), after in any_json()) {
            let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
            scalars(&before, "", &mut old);
            scalars(&after, "", &mut new);
            prop_assert_eq!(changes(&before, &after).is_empty() && old == new, old == new && changes(&before, &after).is_empty());
            if old != new {
                prop_assert!(!changes(&before, &after).is_empty());
            }
        }

        #[test]
        fn nothing_differs_from_itself(value in any_json()) {
            prop_assert!(changes(&value, &value).is_empty());
        }
    }
}
