//! `configs` and `secrets`: files in containers, as ConfigMaps and Secrets.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};

use super::{Reader, extends, list};
use crate::project::is_label;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sort {
    Config,
    Secret,
}

impl Sort {
    /// The key of the compose file.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Config => "configs",
            Self::Secret => "secrets",
        }
    }

    fn object_name(self, name: &str) -> String {
        let name = name.replace('_', "-");
        match self {
            Self::Config => format!("config-{name}"),
            Self::Secret => format!("secret-{name}"),
        }
    }
}

/// The only file of such an object.
const FILE: &str = "content";

/// Those that services use; without content: it is somewhere else, and not carried over.
pub(super) type Attachments = BTreeMap<(Sort, String), Option<Vec<u8>>>;

/// One of them in a container.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Attached {
    pub(super) sort: Sort,
    pub(super) name: String,
    /// Of the file, from the root.
    pub(super) path: String,
}

/// Paths of the files that they are made of, as they are written.
pub(super) fn files(whole: &Map<String, Value>) -> Vec<String> {
    let all = ["configs", "secrets"].into_iter().filter_map(|key| whole.get(key)?.as_object()).flatten();
    all.filter_map(|(_, given)| Some(extends::plain(given.get("file")?.as_str()?))).collect()
}

impl Reader<'_> {
    /// One of the file's `configs` or `secrets`.
    pub(super) fn attachment(&mut self, sort: Sort, name: &str, given: &Value) -> Result<Option<Vec<u8>>, String> {
        let at = format!("{}.{name}", sort.key());
        if !is_label(&name.replace('_', "-")) {
            return Err(format!("{at}: must be lower-case letters, digits, - and _"));
        }
        let field = |key: &str| given.get(key).filter(|value| !value.is_null());
        if let Some(path) = field("file") {
            let path = extends::plain(&self.text(&format!("{at}.file"), path)?);
            let found = self.files.iter().find(|file| file.path == path);
            let missing = || format!("{at}.file: there is no file {path} below the compose file's folder");
            return found.map(|file| Some(file.content.clone())).ok_or_else(missing);
        }
        if let Some(content) = field("content") {
            return self.text(&format!("{at}.content"), content).map(|text| Some(text.into_bytes()));
        }
        if let Some(variable) = field("environment").and_then(Value::as_str) {
            let missing = || format!("{at}.environment: {variable} is not set: set it in spec.config.env");
            return self.variables.get(variable).map(|value| Some(value.clone().into_bytes())).ok_or_else(missing);
        }
        self.unsupported.push(format!("{at} (has neither file, content nor environment)"));
        Ok(None)
    }

    /// What a service says of them.
    pub(super) fn attached(&mut self, sort: Sort, at: &str, given: &Value) -> Result<Vec<Attached>, String> {
        list(given).into_iter().map(|given| self.attached_one(sort, at, given)).collect()
    }

    fn attached_one(&mut self, sort: Sort, at: &str, given: &Value) -> Result<Attached, String> {
        let (name, target) = match given {
            Value::Object(map) => {
                for key in map.keys().filter(|key| !matches!(key.as_str(), "source" | "target")) {
                    self.unsupported.push(format!("{at}.{key}"));
                }
                let text = |key: &str| map.get(key).map(|value| self.text(at, value)).transpose();
                let Some(name) = text("source")? else { return Err(format!("{at}: names no source: add source")) };
                (name, text("target")?)
            }
            name => (self.text(at, name)?, None),
        };
        let path = match (target, sort) {
            (Some(target), _) if target.starts_with('/') => target,
            (Some(target), Sort::Secret) => format!("/run/secrets/{target}"),
            (None, Sort::Secret) => format!("/run/secrets/{name}"),
            (Some(target), Sort::Config) => format!("/{target}"),
            (None, Sort::Config) => format!("/{name}"),
        };
        if path.split('/').any(|part| part == "..") || path.ends_with('/') {
            return Err(format!("{at}.target: {path:?} must be the path of a file"));
        }
        Ok(Attached { sort, name, path })
    }
}

/// The ConfigMap or Secret.
pub(super) fn object(sort: Sort, name: &str, content: &[u8]) -> Value {
    let bytes = || json!(ByteString(content.to_vec()));
    let (kind, field, value) = match (sort, std::str::from_utf8(content)) {
        (Sort::Secret, _) => ("Secret", "data", bytes()),
        (Sort::Config, Ok(text)) => ("ConfigMap", "data", json!(text)),
        (Sort::Config, Err(_)) => ("ConfigMap", "binaryData", bytes()),
    };
    json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": sort.object_name(name) }, field: { FILE: value } })
}

/// Volume and mount of one of them.
pub(super) fn volume(attached: &Attached) -> (Value, Value) {
    let name = attached.sort.object_name(&attached.name);
    let source = match attached.sort {
        Sort::Config => ("configMap", json!({ "name": name })),
        Sort::Secret => ("secret", json!({ "secretName": name })),
    };
    // a file among those of the image
    let mount = json!({ "name": name, "mountPath": attached.path, "subPath": FILE, "readOnly": true });
    (json!({ "name": name, source.0: source.1 }), mount)
}
