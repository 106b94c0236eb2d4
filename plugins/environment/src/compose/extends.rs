//! `extends`: a service that takes over what another one says, of this file or of one beside it.

use serde_json::{Map, Value};
use transom_sdk::File;

/// Parts of a service that are lists to which the extending one adds; of all other lists the last counts.
const ADDED: [&str; 9] = ["ports", "expose", "env_file", "tmpfs", "volumes", "configs", "secrets", "dns", "dns_search"];

/// Parts that may be written as a list, and are maps.
const TABLES: [&str; 5] = ["environment", "labels", "annotations", "depends_on", "sysctls"];

type Services = Map<String, Value>;

/// Names of the files that services extend those of.
pub(super) fn files(services: &Services) -> Vec<String> {
    services.values().filter_map(|service| Some(plain(service.pointer("/extends/file")?.as_str()?))).collect()
}

/// The services with all that they extend. What is no map is left as it is.
///
/// # Errors
///
/// The path of what cannot be extended, and the fix.
pub(super) fn resolve(services: &Services, files: &[File]) -> Result<Services, String> {
    let whole = |(name, service): (&String, &Value)| {
        let Some(given) = service.as_object() else { return Ok((name.clone(), service.clone())) };
        let mut trail = vec![(String::new(), name.clone())];
        Ok((name.clone(), Value::Object(extended(given, services, files, &mut trail)?)))
    };
    services.iter().map(whole).collect()
}

/// `trail`: the services on the way here, by file and name; the last is the one that is given.
fn extended(
    given: &Map<String, Value>,
    services: &Services,
    files: &[File],
    trail: &mut Vec<(String, String)>,
) -> Result<Map<String, Value>, String> {
    let Some(extends) = given.get("extends") else { return Ok(given.clone()) };
    let (home, name) = trail.last().cloned().unwrap_or_default();
    let at =
        if home.is_empty() { format!("services.{name}.extends") } else { format!("{home}: services.{name}.extends") };
    let field = |key: &str| extends.get(key).and_then(Value::as_str);
    let Some(base) = extends.as_str().or_else(|| field("service")) else {
        return Err(format!("{at}: names no service: add service"));
    };
    let other;
    let (services, home) = match field("file").map(plain) {
        None => (services, home),
        Some(file) if !home.is_empty() && file != home => {
            return Err(format!("{at}.file: a file that is extended may not extend another one: move the service"));
        }
        Some(file) => {
            other = services_of(&file, files).map_err(|why| format!("{at}.file: {why}"))?;
            (&other, file)
        }
    };
    let Some(found) = services.get(base).and_then(Value::as_object) else {
        return Err(format!("{at}: there is no service {base}"));
    };
    let step = (home, base.to_owned());
    if trail.contains(&step) {
        return Err(format!("{at}: services extend one another: remove one"));
    }
    trail.push(step);
    let mut whole = extended(found, services, files, trail)?;
    for (key, value) in given.iter().filter(|(key, _)| *key != "extends") {
        match whole.get_mut(key) {
            Some(base) => over(key, base, value),
            None => drop(whole.insert(key.clone(), value.clone())),
        }
    }
    Ok(whole)
}

/// Paths in another folder's file would be from there.
fn services_of(file: &str, files: &[File]) -> Result<Services, String> {
    if file.contains('/') {
        return Err(format!("{file} is not beside the compose file: put it there"));
    }
    let found = files.iter().find(|found| found.path == file).ok_or_else(|| format!("there is no file {file}"))?;
    let whole: Value = serde_saphyr::from_str(&String::from_utf8_lossy(&found.content))
        .map_err(|error| format!("{file} is no YAML: {error}"))?;
    match whole.get("services") {
        Some(Value::Object(services)) => Ok(services.clone()),
        _ => Err(format!("{file} has no services")),
    }
}

/// Lays one part of a service over that of the service that it extends.
fn over(key: &str, base: &mut Value, value: &Value) {
    if ADDED.contains(&key) {
        let mut items: Vec<Value> = super::list(base).into_iter().cloned().collect();
        let added: Vec<Value> = super::list(value).into_iter().cloned().collect();
        // there is one thing in one place
        let places: Vec<String> = added.iter().filter_map(|item| place(key, item)).collect();
        items.retain(|item| !added.contains(item) && place(key, item).is_none_or(|place| !places.contains(&place)));
        items.extend(added);
        *base = Value::Array(items);
        return;
    }
    if TABLES.contains(&key)
        && let (Some(mut all), Some(more)) = (table(key, base), table(key, value))
    {
        all.extend(more);
        *base = Value::Object(all);
        return;
    }
    merge(base, value);
}

/// Where in the container it is seen.
fn place(key: &str, item: &Value) -> Option<String> {
    let of_map = || {
        let target = item.get("target").or_else(|| item.get("source"))?.as_str()?;
        Some(target.to_owned())
    };
    match (key, item) {
        ("volumes", Value::String(text)) => {
            let mut parts = text.split(':');
            let first = parts.next()?;
            Some(parts.next().unwrap_or(first).to_owned())
        }
        ("configs" | "secrets", Value::String(name)) => Some(name.clone()),
        ("volumes" | "configs" | "secrets", Value::Object(_)) => of_map(),
        _ => None,
    }
}

/// A list of `KEY=value`, or of names of services, as the map that it stands for.
fn table(key: &str, value: &Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(map) => Some(map.clone()),
        Value::Null => Some(Map::new()),
        Value::Array(items) => items
            .iter()
            .map(|item| {
                let text = item.as_str()?;
                Some(match text.split_once('=') {
                    Some((name, value)) => (name.to_owned(), value.into()),
                    None if key == "depends_on" => (text.to_owned(), Value::Object(Map::new())),
                    None => (text.to_owned(), Value::Null),
                })
            })
            .collect(),
        _ => None,
    }
}

fn merge(base: &mut Value, value: &Value) {
    match (base, value) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match base.get_mut(key) {
                    Some(base) => merge(base, value),
                    None => drop(base.insert(key.clone(), value.clone())),
                }
            }
        }
        (base, value) => *base = value.clone(),
    }
}

/// As files are named that were fetched.
pub(super) fn plain(path: &str) -> String {
    let mut path = path;
    while let Some(rest) = path.strip_prefix("./") {
        path = rest;
    }
    path.to_owned()
}
