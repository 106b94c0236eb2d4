//! Kubernetes' strategic merge patch, as the API server does it: lists of Kubernetes' own kinds are merged by key.
//!
//! `$patch: replace` and `$patch: delete` in objects and items, `$retainKeys`, `$deleteFromPrimitiveList/LIST` and
//! `$setElementOrder/LIST` mean what they mean there (`k8s.io/apimachinery/pkg/util/strategicpatch`); a test compares the
//! results with a real API server's.

use serde_json::{Map, Value};

use super::schema::Type;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Merges a patch into an object; after an error the target is not to be used.
///
/// # Errors
/// Which field is malformed, and how.
pub fn merge(target: &mut Value, patch: &Value, type_: Type) -> Result<(), String> {
    let (Value::Object(object), Value::Object(patch)) = (target, patch) else {
        return Err("a StrategicMerge patch must be an object".into());
    };
    merge_object(object, patch, type_)
}

/// Are all directives in a patch understood, also those that a merge would not come across?
///
/// # Errors
/// Which is not.
pub fn check(patch: &Value) -> Result<(), String> {
    match patch {
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| match name.as_str() {
            DIRECTIVE => directive(value).map(drop),
            RETAIN => list(name, value).map(drop),
            name if name.starts_with(DELETE_FROM) || name.starts_with(ORDER) => list(name, value).map(drop),
            name if name.starts_with('$') => Err(format!("{name} is no directive")),
            name => check(value).map_err(|why| within(name, &why)),
        }),
        Value::Array(items) => items.iter().try_for_each(check),
        _ => Ok(()),
    }
}

fn merge_object(object: &mut Map<String, Value>, patch: &Map<String, Value>, type_: Type) -> Result<(), String> {
    match patch.get(DIRECTIVE).map(directive).transpose()? {
        Some(Directive::Replace) => {
            *object = clean_fields(patch);
            return Ok(());
        }
        Some(Directive::Delete) => {
            object.clear();
            return Ok(());
        }
        Some(Directive::Merge) | None => {}
    }
    retain(object, patch)?;
    for (name, items) in with_prefix(patch, DELETE_FROM) {
        let gone = list(name, items)?;
        if let Some(Value::Array(present)) = object.get_mut(name) {
            present.retain(|item| !gone.contains(item));
        }
    }
    let ordered: Vec<(&str, &Value)> = with_prefix(patch, ORDER).collect();
    for (name, order) in &ordered {
        let order = list(name, order)?;
        let original = match object.get(*name) {
            Some(original) => list(name, original)?.clone(),
            None => Vec::new(),
        };
        let (key, merged) = match patch.get(*name) {
            Some(new) => {
                check_order(name, list(name, new)?, order, type_)?;
                field(object, name, new, type_)?;
                (merge_key(type_, name), object.get(*name).map(|merged| list(name, merged)).transpose()?)
            }
            None => (merge_key(type_, name), object.get(*name).map(|there| list(name, there)).transpose()?),
        };
        if let Some(merged) = merged.cloned() {
            let key = key.unwrap_or_default();
            object.insert((*name).to_owned(), Value::Array(in_order(merged, order, &original, key)));
        }
    }
    for (name, value) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        if !ordered.iter().any(|(done, _)| done == name) {
            field(object, name, value, type_)?;
        }
    }
    Ok(())
}

/// Merges one field.
fn field(object: &mut Map<String, Value>, name: &str, value: &Value, type_: Type) -> Result<(), String> {
    if value.is_null() {
        object.remove(name);
        return Ok(());
    }
    let (inner, field) = type_.field(name);
    let replaced = field.is_some_and(|field| field.replace);
    let merge_key = field.and_then(|field| field.merge.as_deref());
    match (object.get_mut(name), value) {
        (Some(Value::Object(there)), Value::Object(patch)) if !replaced => {
            merge_object(there, patch, inner).map_err(|why| within(name, &why))
        }
        (Some(Value::Array(there)), Value::Array(patch)) if merge_key.is_some() => {
            let key = merge_key.unwrap_or_default();
            let merged = merge_list(std::mem::take(there), patch, key, inner).map_err(|why| within(name, &why))?;
            *there = merged;
            Ok(())
        }
        _ => {
            object.insert(name.to_owned(), clean(value));
            Ok(())
        }
    }
}

fn within(name: &str, why: &str) -> String {
    format!("{name}: {why}")
}

enum Directive {
    Replace,
    Delete,
    Merge,
}

fn directive(value: &Value) -> Result<Directive, String> {
    match value.as_str() {
        Some("replace") => Ok(Directive::Replace),
        Some("delete") => Ok(Directive::Delete),
        Some("merge") => Ok(Directive::Merge),
        _ => Err(format!("{DIRECTIVE} is {value}, must be replace, delete or merge")),
    }
}

fn list<'a>(name: &str, value: &'a Value) -> Result<&'a Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("{name}: must be a list"))
}

fn with_prefix<'a>(patch: &'a Map<String, Value>, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    patch.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value)))
}

fn merge_key(type_: Type, name: &str) -> Option<&'static str> {
    type_.field(name).1?.merge.as_deref()
}

/// Takes away the fields that `$retainKeys` does not list.
fn retain(object: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), String> {
    let Some(kept) = patch.get(RETAIN) else { return Ok(()) };
    let kept = list(RETAIN, kept)?;
    let is_kept = |name: &str| kept.iter().any(|keep| keep.as_str() == Some(name));
    let set = patch.iter().filter(|(name, value)| !name.starts_with('$') && !value.is_null());
    if let Some((name, _)) = set.into_iter().find(|(name, _)| !is_kept(name)) {
        return Err(format!("{RETAIN} does not list {name}, which the patch sets"));
    }
    object.retain(|name, _| is_kept(name));
    Ok(())
}

/// Merges a list whose items are told apart by `key`, or by themselves where it is empty.
fn merge_list(mut original: Vec<Value>, patch: &[Value], key: &str, type_: Type) -> Result<Vec<Value>, String> {
    let objects = original.iter().chain(patch).filter(|item| item.is_object()).count();
    if objects == 0 {
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.iter().chain(patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok(in_order(merged, patch, &original, ""));
    }
    if key.is_empty() || objects != original.len() + patch.len() {
        return Err("items must be objects with the key of the list, or all scalars".into());
    }
    let key_of = |item: &Value| item.get(key).cloned();
    let mut plain = Vec::with_capacity(patch.len());
    let mut replaced = false;
    for item in patch {
        match item.get(DIRECTIVE).map(directive).transpose()? {
            None | Some(Directive::Merge) => plain.push(clean_directive(item)),
            Some(Directive::Replace) => replaced = true,
            Some(Directive::Delete) => {
                let gone = key_of(item).ok_or_else(|| format!("an item to be deleted has no {key}"))?;
                original.retain(|there| key_of(there).as_ref() != Some(&gone));
            }
        }
    }
    if replaced {
        return Ok(plain.iter().map(clean).collect());
    }
    let mut merged = original.clone();
    for item in &plain {
        let found = key_of(item).ok_or_else(|| format!("an item has no {key}"))?;
        match merged.iter_mut().find(|there| key_of(there).as_ref() == Some(&found)) {
            Some(Value::Object(there)) => {
                let Value::Object(item) = item else { continue };
                merge_object(there, item, type_).map_err(|why| format!("{key} {found}: {why}"))?;
            }
            _ => merged.push(clean(item)),
        }
    }
    if merged.iter().any(|item| key_of(item).is_none()) {
        return Err(format!("an item has no {key}"));
    }
    Ok(in_order(merged, &plain, &original, key))
}

/// An item without `$patch: merge`, which is what happens anyway.
fn clean_directive(item: &Value) -> Value {
    let mut item = item.clone();
    if let Value::Object(fields) = &mut item {
        fields.remove(DIRECTIVE);
    }
    item
}

/// The API server's order: items of the patch in its order, the others in theirs; between the two the original order
/// where both were there, else the patch's first.
fn in_order(merged: Vec<Value>, order: &[Value], original: &[Value], key: &str) -> Vec<Value> {
    let same = |a: &Value, b: &Value| if key.is_empty() { a == b } else { a.get(key) == b.get(key) };
    let position = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item));
    let (mut first, mut rest): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| position(order, item).is_some());
    first.sort_by_key(|item| position(order, item));
    rest.sort_by_key(|item| position(original, item));
    let mut all = Vec::with_capacity(first.len() + rest.len());
    let (mut first, mut rest) = (first.into_iter().peekable(), rest.into_iter().peekable());
    while let (Some(patched), Some(other)) = (first.peek(), rest.peek()) {
        let comes_first = match (position(original, other), position(original, patched)) {
            (Some(other), Some(patched)) => other < patched,
            _ => false,
        };
        all.extend(if comes_first { rest.next() } else { first.next() });
    }
    all.extend(first.chain(rest));
    all
}

/// Items of the patch must be in the list that orders them, in that order.
fn check_order(name: &str, patch: &[Value], order: &[Value], type_: Type) -> Result<(), String> {
    let key = merge_key(type_, name).unwrap_or_default();
    let same = |a: &Value, b: &Value| if key.is_empty() { a == b } else { a.get(key) == b.get(key) };
    let mut left = order.iter();
    let plain = patch.iter().filter(|item| item.get(DIRECTIVE).is_none());
    if order.is_empty() || plain.into_iter().all(|item| left.any(|other| same(item, other))) {
        return Ok(());
    }
    Err(format!("{name}: items are not in the order of {ORDER}{name}"))
}

/// What is new, without directives and without what is to be removed.
fn clean(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(clean_fields(fields)),
        Value::Array(items) => {
            let is_directive = |item: &Value| item.get(DIRECTIVE).is_some_and(|d| d != "merge");
            Value::Array(items.iter().filter(|item| !is_directive(item)).map(clean).collect())
        }
        other => other.clone(),
    }
}

fn clean_fields(fields: &Map<String, Value>) -> Map<String, Value> {
    let is_directive =
        |name: &str| name == DIRECTIVE || name == RETAIN || name.starts_with(DELETE_FROM) || name.starts_with(ORDER);
    let kept = fields.iter().filter(|(name, value)| !is_directive(name) && !value.is_null());
    kept.map(|(name, value)| (name.clone(), clean(value))).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::super::testing::any_json;
    use super::*;
    use crate::plan::contract::TypeMeta;

    fn pod() -> Type {
        Type::of(&TypeMeta::new("v1", "Pod")).unwrap()
    }

    fn patched(patch: Value) -> Result<Value, String> {
        let mut target = json!({
            "metadata": {"finalizers": ["a", "b"], "labels": {"x": "1"}},
            "spec": {
                "containers": [{"name": "a", "image": "1", "args": ["x", "y"]}, {"name": "b", "image": "1"}],
                "tolerations": [{"key": "t"}], "nodeSelector": {"p": "q"},
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
        });
        merge(&mut target, &patch, pod())?;
        Ok(target)
    }

    #[rstest]
    #[case::by_key(json!({"containers": [{"name": "b", "image": "2"}]}), "/spec/containers",
        json!([{"name": "a", "image": "1", "args": ["x", "y"]}, {"name": "b", "image": "2"}]))]
    #[case::a_new_item_comes_first(json!({"volumes": [{"name": "w", "emptyDir": {"medium": null}}]}), "/spec/volumes",
        json!([{"name": "w", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]))]
    #[case::deleted(json!({"containers": [{"name": "a", "$patch": "delete"}]}), "/spec/containers",
        json!([{"name": "b", "image": "1"}]))]
    #[case::replaced_list(json!({"containers": [{"$patch": "replace"}, {"name": "c", "image": "3"}]}), "/spec/containers",
        json!([{"name": "c", "image": "3"}]))]
    #[case::replaced_object(json!({"nodeSelector": {"$patch": "replace", "z": "1"}}), "/spec/nodeSelector", json!({"z": "1"}))]
    #[case::emptied_object(json!({"nodeSelector": {"$patch": "delete"}}), "/spec/nodeSelector", json!({}))]
    #[case::atomic_list(json!({"tolerations": [{"key": "u"}]}), "/spec/tolerations", json!([{"key": "u"}]))]
    #[case::atomic_inside(json!({"containers": [{"name": "a", "args": ["z"]}]}), "/spec/containers/0/args", json!(["z"]))]
    #[case::ordered(json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}), "/spec/containers",
        json!([{"name": "b", "image": "1"}, {"name": "a", "image": "1", "args": ["x", "y"]}]))]
    #[case::retained(json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}),
        "/spec/volumes", json!([{"name": "v", "configMap": {"name": "c"}}]))]
    fn directives_do_what_they_do_in_the_api_server(#[case] spec: Value, #[case] path: &str, #[case] expected: Value) {
        let result = patched(json!({"spec": spec})).unwrap();
        assert_eq!(result.pointer(path), Some(&expected));
    }

    #[rstest]
    #[case(json!({"a": [{"$patch": null}]}), "a: $patch is null, must be replace, delete or merge")]
    #[case(json!({"a": {"$patched": 1}}), "a: $patched is no directive")]
    #[case(json!({"$setElementOrder/a": 1}), "$setElementOrder/a: must be a list")]
    fn what_is_no_directive_is_found_wherever_it_is(#[case] patch: Value, #[case] message: &str) {
        assert_eq!(check(&patch).unwrap_err(), message);
    }

    #[test]
    fn scalars_are_merged_by_value_and_deleted_by_directive() {
        let patch = json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}});
        assert_eq!(patched(patch).unwrap()["metadata"]["finalizers"], json!(["c", "b"]));
        assert_eq!(patched(json!({"metadata": {"labels": {"x": null}}})).unwrap()["metadata"]["labels"], json!({}));
    }

    #[rstest]
    #[case::no_object(json!([1]), "a StrategicMerge patch must be an object")]
    #[case::no_key(json!({"spec": {"containers": [{"image": "x"}]}}), "spec: containers: an item has no name")]
    #[case::scalar(json!({"spec": {"containers": ["x"]}}), "spec: containers: items must be objects")]
    #[case::directive(json!({"spec": {"$patch": "x"}}), "spec: $patch is \"x\"")]
    #[case::retained(json!({"spec": {"$retainKeys": ["a"], "b": 1}}), "spec: $retainKeys does not list b")]
    #[case::order(json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}}),
        "spec: containers: items are not in the order")]
    fn a_malformed_patch_says_where(#[case] patch: Value, #[case] message: &str) {
        let error = patched(patch).unwrap_err();
        assert!(error.starts_with(message), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn merging_twice_is_merging_once(target in any_json(), patch in any_json()) {
            proptest::prop_assume!(!patch.to_string().contains('$')); // the API server is no better with directives
            let mut once = target;
            if merge(&mut once, &patch, pod()).is_ok() {
                let mut twice = once.clone();
                merge(&mut twice, &patch, pod()).unwrap();
                proptest::prop_assert_eq!(once, twice);
            }
        }
    }
}
