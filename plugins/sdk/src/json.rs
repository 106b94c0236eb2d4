//! JSON trees: what an author's function changed is carried over to what the API server has, so that fields which the
//! author's type does not know survive.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Carries the difference between `before` and `after` over to `onto`. Lists are replaced whole.
pub(crate) fn carry(before: &Value, after: &Value, onto: &mut Value) {
    if before == after {
        return;
    }
    let (Value::Object(old), Value::Object(new), Value::Object(fields)) = (before, after, &mut *onto) else {
        onto.clone_from(after);
        return;
    };
    fields.retain(|name, _| new.contains_key(name) || !old.contains_key(name));
    for (name, value) in new {
        match (old.get(name), fields.get_mut(name)) {
            (Some(was), _) if was == value => {}
            (Some(was), Some(field)) => carry(was, value, field),
            _ => {
                fields.insert(name.clone(), value.clone());
            }
        }
    }
}

/// Without members that are null: to the API server they are as good as absent.
pub(crate) fn without_nulls(mut value: Value) -> Value {
    strip(&mut value);
    value
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// A value of the author's type.
pub(crate) fn read<T: DeserializeOwned>(value: &Value) -> Result<T, serde_json::Error> {
    T::deserialize(value)
}

/// The author's value as a tree without nulls.
pub(crate) fn write<T: Serialize>(value: &T) -> Result<Value, serde_json::Error> {
    serde_json::to_value(value).map(without_nulls)
}

/// The member of this name, put there if there is none; what is no object is replaced by one.
pub(crate) fn member<'a>(parent: &'a mut Value, name: &str) -> &'a mut Value {
    if !parent.is_object() {
        *parent = Value::Object(Map::new());
    }
    match parent {
        Value::Object(fields) => fields.entry(name).or_insert_with(|| Value::Object(Map::new())),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn carried(before: Value, after: Value, mut onto: Value) -> Value {
        carry(&before, &after, &mut onto);
        onto
    }

    #[test]
    fn only_what_changed_is_carried_over() {
        let before = json!({"size": 1, "gone": true, "same": {"a": 1, "b": [1]}});
        let after = json!({"size": 2, "same": {"a": 1, "b": [1, 2]}, "new": "x"});
        let onto = json!({"size": 1, "gone": true, "same": {"a": 1, "b": [1], "unknown": 7}, "other": null});
        let expected = json!({"size": 2, "same": {"a": 1, "b": [1, 2], "unknown": 7}, "new": "x", "other": null});
        assert_eq!(carried(before, after, onto), expected);
    }

    #[test]
    fn what_the_author_s_type_fills_in_by_itself_is_no_change() {
        let typed = json!({"size": 1, "filled": "by serde"});
        assert_eq!(carried(typed.clone(), typed, json!({"size": 1})), json!({"size": 1}));
    }

    #[test]
    fn another_shape_replaces() {
        assert_eq!(carried(json!({"a": 1}), json!({"a": {"b": 1}}), json!({"a": 1})), json!({"a": {"b": 1}}));
        assert_eq!(carried(json!({"a": {"b": 1}}), json!({"a": {"b": 2}}), json!({})), json!({"a": {"b": 2}}));
    }

    #[test]
    fn nulls_are_left_out_at_every_depth() {
        let value = json!({"a": null, "b": {"c": null, "d": 1}, "e": [{"f": null}]});
        assert_eq!(without_nulls(value), json!({"b": {"d": 1}, "e": [{}]}));
    }
}
