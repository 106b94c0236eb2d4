//! What the host demands of every record, whatever the record says.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use http::Uri;

use super::signature::VerifyingKey;
use super::source::SourceError;
use crate::api::plugin::Source;
use crate::lookup::image::Reference;

/// Rules for all records; by default there are none.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    require_signature: bool,
    allowed: Vec<String>,
    keys: Vec<VerifyingKey>,
}

impl Policy {
    /// `allowed` are beginnings of addresses (`oci://registry/team`), `key_files` are public keys in PEM: with any, each
    /// component must be signed by one of them.
    ///
    /// # Errors
    /// The flag that is wrong, and how it should be.
    pub fn new(require_signature: bool, allowed: Vec<String>, key_files: &[PathBuf]) -> anyhow::Result<Self> {
        for prefix in &allowed {
            let (scheme, rest) = prefix.split_once("://").unwrap_or_default();
            let known = ["oci", "oci+http", "https", "http", "file", "configmap"].contains(&scheme);
            let form = "oci://registry/team, https://host/path, file:///folder or configmap://namespace";
            ensure!(known && !rest.is_empty(), "--allowed-source {prefix:?} must look like {form}");
        }
        let mut keys = Vec::new();
        for path in key_files {
            let at = || format!("--signature-key {}", path.display());
            let pem = std::fs::read_to_string(path).with_context(at)?;
            match VerifyingKey::from_pem(&pem) {
                Ok(key) => keys.push(key),
                Err(form) => bail!("{} {form}", at()),
            }
        }
        Ok(Self { require_signature: require_signature || !keys.is_empty(), allowed, keys })
    }

    /// Must every component be signed?
    pub(super) fn requires_signature(&self) -> bool {
        self.require_signature
    }

    /// Of which one must have signed every component; empty: the record says who.
    pub(super) fn keys(&self) -> &[VerifyingKey] {
        &self.keys
    }

    /// May components come from there?
    pub(super) fn check(&self, source: &Source) -> Result<(), SourceError> {
        if self.allowed.is_empty() {
            return Ok(());
        }
        let refused = |message| Err(SourceError { reason: "SourceNotAllowed", message });
        let Some(address) = address(source) else {
            return refused("spec.source is not in its plain form: no . or .. segments, escapes or credentials".into());
        };
        if self.allowed.iter().any(|prefix| covers(prefix, &address)) {
            return Ok(());
        }
        let allowed = self.allowed.join(", ");
        refused(format!("this host takes components from {allowed} only (--allowed-source), not from {address}"))
    }
}

/// Whole segments: `oci://r/team` covers `oci://r/team/app`, not `oci://r/teams`.
fn covers(prefix: &str, address: &str) -> bool {
    match address.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'),
        None => false,
    }
}

/// Where a source leads, in the one form that prefixes are compared with: none when it could be spelled in another way.
fn address(source: &Source) -> Option<String> {
    let is_plain = |path: &str| path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
    match source {
        Source { file: Some(file), .. } => {
            (file.path.starts_with('/') && is_plain(&file.path)).then(|| format!("file://{}", file.path))
        }
        Source { config_map: Some(map), .. } => Some(format!("configmap://{}/{}", map.namespace, map.name)),
        Source { oci: Some(oci), .. } => {
            let Reference { authority, repository, .. } = Reference::parse(&oci.reference).ok()?;
            let scheme = if oci.plaintext { "oci+http" } else { "oci" };
            Some(format!("{scheme}://{}/{repository}", authority.to_lowercase()))
        }
        Source { http: Some(http), .. } => {
            let uri: Uri = http.url.parse().ok()?;
            let (scheme, authority) = (uri.scheme_str()?, uri.authority()?.as_str().to_lowercase());
            let plain = is_plain(uri.path()) && !uri.path().contains(['%', '\\']) && !authority.contains('@');
            plain.then(|| format!("{scheme}://{authority}{}", uri.path()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn policy() -> Policy {
        let allowed = ["oci://r.example/team", "https://files.example/plugins/", "file:///plugins", "configmap://ops"];
        Policy::new(false, allowed.map(String::from).to_vec(), &[]).unwrap()
    }

    #[rstest]
    #[case::below(json!({"oci": {"reference": "r.example/team/app:1"}}), true)]
    #[case::host_in_capitals(json!({"oci": {"reference": "R.example/team/app:1"}}), true)]
    #[case::itself(json!({"oci": {"reference": "r.example/team:1"}}), true)]
    #[case::same_beginning(json!({"oci": {"reference": "r.example/teams/app:1"}}), false)]
    #[case::same_host_beginning(json!({"oci": {"reference": "r.example.evil.example/team/app:1"}}), false)]
    #[case::without_tls(json!({"oci": {"reference": "r.example/team/app:1", "plaintext": true}}), false)]
    #[case::web(json!({"http": {"url": "https://files.example/plugins/a.wasm?v=1"}}), true)]
    #[case::web_climbing(json!({"http": {"url": "https://files.example/plugins/../a.wasm"}}), false)]
    #[case::web_climbing_escaped(json!({"http": {"url": "https://files.example/plugins/%2e%2e/a.wasm"}}), false)]
    #[case::web_user(json!({"http": {"url": "https://files.example@evil.example/plugins/a.wasm"}}), false)]
    #[case::file(json!({"file": {"path": "/plugins/a.wasm"}}), true)]
    #[case::file_climbing(json!({"file": {"path": "/plugins/../etc/a.wasm"}}), false)]
    #[case::file_beside(json!({"file": {"path": "/plugins-of-others/a.wasm"}}), false)]
    #[case::config_map(json!({"configMap": {"namespace": "ops", "name": "a"}}), true)]
    #[case::other_namespace(json!({"configMap": {"namespace": "ops2", "name": "a"}}), false)]
    #[case::nothing(json!({}), false)]
    fn only_what_is_below_an_allowed_address_is_allowed(#[case] source: Value, #[case] is_allowed: bool) {
        let source: Source = serde_json::from_value(source).unwrap();
        let checked = policy().check(&source);
        assert_eq!(checked.as_ref().map_err(|error| error.reason).is_ok(), is_allowed, "{checked:?}");
        assert!(Policy::default().check(&source).is_ok(), "without rules everything is");
    }

    #[test]
    fn wrong_flags_are_refused_with_the_right_form() {
        let error = |allowed: &str| Policy::new(false, vec![allowed.into()], &[]).unwrap_err().to_string();
        assert!(error("ghcr.io/team").contains("must look like oci://"), "{}", error("ghcr.io/team"));
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key.pub");
        std::fs::write(&key, "nonsense").unwrap();
        let error = format!("{:#}", Policy::new(false, vec![], &[key]).unwrap_err());
        assert!(error.contains("must be a public key in PEM"), "{error}");
    }
}
