//! JSON patch (RFC 6902) and merge patch (RFC 7386), bounded.

use serde_json::{Map, Value};

/// Nesting that a patch may lead to; Kubernetes' own types stay below 32.
pub const MAX_DEPTH: usize = 64;
/// Bytes that the operations of one JSON patch may copy and move, and so make an object grow, on one child.
const MAX_COPIED: usize = 1 << 20;
/// Operations of one JSON patch.
pub const MAX_OPERATIONS: usize = 256;

/// RFC 7386.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(object) = target else { return };
    for (name, value) in fields {
        if value.is_null() {
            object.remove(name);
        } else {
            merge(object.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// One operation of RFC 6902.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Operation {
    /// Sets a field, or puts an item before the one in this position.
    Add {
        /// Where.
        path: String,
        /// What.
        value: Value,
    },
    /// Takes away what is there.
    Remove {
        /// Where.
        path: String,
    },
    /// Sets what is there.
    Replace {
        /// Where.
        path: String,
        /// What.
        value: Value,
    },
    /// Takes away in one place and adds in another.
    Move {
        /// Where it is.
        from: String,
        /// Where it will be.
        path: String,
    },
    /// Adds what is in another place.
    Copy {
        /// Where it is.
        from: String,
        /// Where it will be, too.
        path: String,
    },
    /// Fails the patch when this is not there.
    Test {
        /// Where.
        path: String,
        /// What.
        value: Value,
    },
}

/// Reads the operations of a JSON patch.
///
/// # Errors
/// Which operation is malformed, and how.
pub fn operations(patch: &Value) -> Result<Vec<Operation>, String> {
    let Value::Array(items) = patch else { return Err("a JSONPatch must be a list of operations".into()) };
    if items.len() > MAX_OPERATIONS {
        return Err(format!("{} operations, at most {MAX_OPERATIONS} are allowed", items.len()));
    }
    let read = |(i, item): (usize, &Value)| {
        serde_json::from_value::<Operation>(item.clone()).map_err(|error| format!("operation {i}: {error}"))
    };
    items.iter().enumerate().map(read).collect()
}

/// Carries out the operations; after an error the target is not to be used.
///
/// # Errors
/// Which operation failed, and why.
pub fn apply(target: &mut Value, operations: &[Operation]) -> Result<(), String> {
    let mut copied = 0;
    for (i, operation) in operations.iter().enumerate() {
        step(target, operation, &mut copied).map_err(|why| format!("operation {i}: {why}"))?;
    }
    Ok(())
}

fn step(target: &mut Value, operation: &Operation, copied: &mut usize) -> Result<(), String> {
    match operation {
        Operation::Add { path, value } => add(target, path, value.clone()),
        Operation::Remove { path } => remove(target, path).map(drop),
        Operation::Replace { path, value } => {
            deep_enough(path, value)?;
            *find_mut(target, path)? = value.clone();
            Ok(())
        }
        Operation::Move { from, path } if path.strip_prefix(from.as_str()).is_some_and(|r| r.starts_with('/')) => {
            Err(format!("{from:?} cannot be moved into itself"))
        }
        Operation::Move { from, path } => {
            let value = remove(target, from)?;
            add(target, path, value)
        }
        Operation::Copy { from, path } => {
            let value = find(target, from)?;
            *copied += size(value);
            if *copied > MAX_COPIED {
                return Err(format!("copies more than {MAX_COPIED} bytes"));
            }
            let value = value.clone();
            add(target, path, value)
        }
        Operation::Test { path, value } => {
            if find(target, path)? == value {
                Ok(())
            } else {
                Err(format!("{path:?} has another value"))
            }
        }
    }
}

/// About as many bytes as its text has.
fn size(value: &Value) -> usize {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + 4 + size(value)).sum::<usize>() + 2,
        Value::Array(items) => items.iter().map(|item| size(item) + 1).sum::<usize>() + 2,
        Value::String(text) => text.len() + 2,
        _ => 8,
    }
}

/// Levels of nesting; 1 for a scalar.
#[must_use]
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 1,
    }
}

fn deep_enough(path: &str, value: &Value) -> Result<(), String> {
    let depth = path.matches('/').count() + depth(value);
    if depth > MAX_DEPTH { Err(format!("nests {depth} levels deep, at most {MAX_DEPTH} are allowed")) } else { Ok(()) }
}

fn tokens(path: &str) -> Result<Vec<String>, String> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let Some(path) = path.strip_prefix('/') else { return Err(format!("{path:?} must begin with /")) };
    Ok(path.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect())
}

fn position(token: &str) -> Option<usize> {
    let canonical = token == "0" || !token.starts_with(['0', '+', '-']);
    if canonical { token.parse().ok() } else { None }
}

fn find<'a>(target: &'a Value, path: &str) -> Result<&'a Value, String> {
    let child = |value: &'a Value, token: &String| match value {
        Value::Object(fields) => fields.get(token),
        Value::Array(items) => items.get(position(token)?),
        _ => None,
    };
    tokens(path)?.iter().try_fold(target, child).ok_or_else(|| format!("there is no {path:?}"))
}

fn find_mut<'a>(target: &'a mut Value, path: &str) -> Result<&'a mut Value, String> {
    walk(target, &tokens(path)?).ok_or_else(|| format!("there is no {path:?}"))
}

fn walk<'a>(target: &'a mut Value, tokens: &[String]) -> Option<&'a mut Value> {
    tokens.iter().try_fold(target, |value, token| match value {
        Value::Object(fields) => fields.get_mut(token),
        Value::Array(items) => items.get_mut(position(token)?),
        _ => None,
    })
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), String> {
    deep_enough(path, &value)?;
    let tokens = tokens(path)?;
    let Some((last, parents)) = tokens.split_last() else {
        *target = value;
        return Ok(());
    };
    let missing = || format!("there is nothing to add {path:?} to");
    match walk(target, parents).ok_or_else(missing)? {
        Value::Object(fields) => {
            fields.insert(last.clone(), value);
            Ok(())
        }
        Value::Array(items) if last == "-" => {
            items.push(value);
            Ok(())
        }
        Value::Array(items) => match position(last).filter(|at| *at <= items.len()) {
            Some(at) => {
                items.insert(at, value);
                Ok(())
            }
            None => Err(format!("{path:?} is no position in a list of {}", items.len())),
        },
        _ => Err(missing()),
    }
}

fn remove(target: &mut Value, path: &str) -> Result<Value, String> {
    let tokens = tokens(path)?;
    let missing = || format!("there is no {path:?}");
    let Some((last, parents)) = tokens.split_last() else {
        return Err("the whole object cannot be removed".into());
    };
    match walk(target, parents).ok_or_else(missing)? {
        Value::Object(fields) => fields.remove(last).ok_or_else(missing),
        Value::Array(items) => match position(last).filter(|at| *at < items.len()) {
            Some(at) => Ok(items.remove(at)),
            None => Err(missing()),
        },
        _ => Err(missing()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::super::testing::any_json;
    use super::*;

    fn patched(mut target: Value, patch: Value) -> Result<Value, String> {
        apply(&mut target, &operations(&patch)?)?;
        Ok(target)
    }

    // RFC 6902, appendix A
    #[rstest]
    #[case::add_member(json!({"foo": "bar"}), json!([{"op": "add", "path": "/baz", "value": "qux"}]),
        json!({"baz": "qux", "foo": "bar"}))]
    #[case::add_element(json!({"foo": ["bar", "baz"]}), json!([{"op": "add", "path": "/foo/1", "value": "qux"}]),
        json!({"foo": ["bar", "qux", "baz"]}))]
    #[case::append(json!({"foo": ["bar"]}), json!([{"op": "add", "path": "/foo/-", "value": ["abc"]}]),
        json!({"foo": ["bar", ["abc"]]}))]
    #[case::remove(json!({"foo": ["bar", "qux", "baz"]}), json!([{"op": "remove", "path": "/foo/1"}]),
        json!({"foo": ["bar", "baz"]}))]
    #[case::replace(json!({"baz": "qux", "foo": "bar"}), json!([{"op": "replace", "path": "/baz", "value": "boo"}]),
        json!({"baz": "boo", "foo": "bar"}))]
    #[case::move_(json!({"foo": {"bar": 1, "waldo": 2}, "qux": {}}),
        json!([{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}]), json!({"foo": {"bar": 1}, "qux": {"thud": 2}}))]
    #[case::copy(json!({"a": [1]}), json!([{"op": "copy", "from": "/a", "path": "/b"}]), json!({"a": [1], "b": [1]}))]
    #[case::test(json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1}]), json!({"a": 1}))]
    #[case::escaped(json!({"a/b": 1, "m~n": 2}),
        json!([{"op": "remove", "path": "/a~1b"}, {"op": "remove", "path": "/m~0n"}]), json!({}))]
    fn operations_do_what_the_rfc_says(#[case] target: Value, #[case] patch: Value, #[case] expected: Value) {
        assert_eq!(patched(target, patch).unwrap(), expected);
    }

    #[rstest]
    #[case::no_list(json!({}), "a JSONPatch must be a list")]
    #[case::unknown(json!([{"op": "spam", "path": "/a"}]), "operation 0: unknown variant")]
    #[case::no_value(json!([{"op": "add", "path": "/a"}]), "operation 0: missing field")]
    #[case::missing(json!([{"op": "remove", "path": "/x"}]), "operation 0: there is no \"/x\"")]
    #[case::test(json!([{"op": "test", "path": "/a", "value": 2}]), "operation 0: \"/a\" has another value")]
    #[case::position(json!([{"op": "add", "path": "/l/7", "value": 2}]), "operation 0: \"/l/7\" is no position")]
    #[case::leading_zero(json!([{"op": "remove", "path": "/l/00"}]), "operation 0: there is no")]
    #[case::pointer(json!([{"op": "remove", "path": "a"}]), "operation 0: \"a\" must begin with /")]
    #[case::into_itself(json!([{"op": "move", "from": "/o", "path": "/o/p"}]), "operation 0: \"/o\" cannot be moved")]
    #[case::whole(json!([{"op": "remove", "path": ""}]), "operation 0: the whole object")]
    fn a_patch_that_fails_says_where_and_why(#[case] patch: Value, #[case] message: &str) {
        let error = patched(json!({"a": 1, "l": [1], "o": {}}), patch).unwrap_err();
        assert!(error.starts_with(message), "{error}");
    }

    #[test]
    fn doubling_without_end_is_refused() {
        let operation = json!({"op": "copy", "from": "", "path": "/a"});
        let error = patched(json!({"b": "x".repeat(100)}), Value::Array(vec![operation; 200])).unwrap_err();
        assert!(error.contains("copies more than") || error.contains("levels deep"), "{error}");
        let wide = json!([{"op": "copy", "from": "/b", "path": "/b/-"}, {"op": "copy", "from": "/b", "path": "/c"}]);
        let wide: Vec<Value> = wide.as_array().unwrap().iter().cycle().take(200).cloned().collect();
        assert!(patched(json!({"b": ["x"]}), Value::Array(wide)).is_err());
    }

    // RFC 7386, appendix A
    #[rstest]
    #[case(json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"}))]
    #[case(json!({"a": "b"}), json!({"a": null}), json!({}))]
    #[case(json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"}))]
    #[case(json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}}))]
    #[case(json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]}))]
    #[case(json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1}))]
    #[case(json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"}))]
    #[case(json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}}))]
    fn merging_does_what_the_rfc_says(#[case] target: Value, #[case] patch: Value, #[case] expected: Value) {
        let mut merged = target;
        merge(&mut merged, &patch);
        assert_eq!(merged, expected);
    }

    proptest::proptest! {
        #[test]
        fn merging_twice_is_merging_once(target in any_json(), patch in any_json()) {
            let mut once = target;
            merge(&mut once, &patch);
            let mut twice = once.clone();
            merge(&mut twice, &patch);
            proptest::prop_assert_eq!(once, twice);
        }
    }
}
