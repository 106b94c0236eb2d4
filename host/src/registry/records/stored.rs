//! What versions are made of is stored in the cluster before the status of the `Plugin` names them, and as long as it does.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{Record, Role};
use crate::api::plugin::{Plugin, PluginSpec, PluginStatus, ResolvedSource, Source};
use crate::api::rollout::VersionSpec;
use crate::registry::fetch::{Component, Evidence};
use crate::registry::store::{self, MAX_COMPONENT, MAX_PLUGIN, Stored};

/// Reason when there is nothing that could be stored.
const NOT_STORED: &str = "NotStored";

/// What could not be stored is tried again after this time.
const RETRY: Duration = Duration::from_secs(30);

/// A component that a version needs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Needed {
    digest: String,
    /// Which one it is.
    what: String,
    /// Whether it was ever verified is not known: it is in the spec only.
    is_new: bool,
}

/// Components that the version which serves, the desired one and those of the history need, each once: if not all can be
/// stored, the first ones are.
fn needed(spec: &PluginSpec, status: &PluginStatus, sources: &[ResolvedSource]) -> Vec<Needed> {
    let mut all: Vec<Needed> = Vec::new();
    let resolved = |digest: &Option<String>, source: &Source| {
        digest.clone().or_else(|| {
            let oci = source.oci.as_ref()?;
            let mut same = sources.iter().filter(|one| one.reference == oci.reference && one.refresh == oci.refresh);
            same.next().map(|one| one.component.clone())
        })
    };
    let mut add = |version: &VersionSpec, digest: Option<&String>, which: &str, is_new: bool| {
        let plugin = digest.cloned().or_else(|| resolved(&version.digest, &version.source));
        let plugin = plugin.map(|digest| Needed { digest, what: which.to_owned(), is_new });
        let engines = version.engines.iter().filter_map(|engine| {
            let digest = resolved(&engine.digest, &engine.source)?;
            Some(Needed { digest, what: format!("the engine {} of {which}", engine.name), is_new })
        });
        for one in plugin.into_iter().chain(engines) {
            if !all.iter().any(|other| other.digest == one.digest) {
                all.push(one);
            }
        }
    };
    if let Some(serving) = &status.serving {
        let version = status.version.as_ref().map_or_else(|| "the version before".into(), |v| format!("version {v}"));
        add(serving, None, &version, false);
    }
    add(&VersionSpec::of(spec), None, "the version in spec", true);
    for entry in &status.history {
        if let Some(version) = &entry.spec {
            add(version, Some(&entry.digest), &format!("version {}", entry.version), false);
        }
    }
    all
}

/// What came of storing components.
#[derive(Default)]
struct Outcome {
    /// What is not stored, and why not.
    missing: Vec<String>,
    reason: &'static str,
    /// Trying again may help.
    is_transient: bool,
}

impl Outcome {
    fn missing(&mut self, reason: &'static str, why: String) {
        if self.missing.is_empty() {
            self.reason = reason;
        }
        self.missing.push(why);
    }

    fn refused(&mut self, what: &str, error: &kube::Error) {
        let (reason, why) = match error {
            kube::Error::Api(status) if status.code == 403 => ("Forbidden", status.message.clone()),
            kube::Error::Api(status) => ("Unavailable", status.message.clone()),
            error => ("Unavailable", error.to_string()),
        };
        self.is_transient = true;
        self.missing(reason, format!("{what} cannot be stored: {why}"));
    }

    fn condition(self) -> (&'static str, &'static str, String) {
        if self.missing.is_empty() {
            let message = "all versions can be loaded again without their sources";
            return ("True", "Stored", message.into());
        }
        let message =
            format!("{}; without the host's cache it can be loaded from its source only", { self.missing.join("; ") });
        ("False", self.reason, message)
    }
}

impl Record {
    /// Stores what versions need and is not stored yet, and deletes what none needs. `given` are components that have just
    /// been loaded; others are taken from the disk.
    pub(super) async fn store(&mut self, plugin: &Plugin, given: &[Component]) {
        if self.role == Role::StandsBy || plugin.metadata.deletion_timestamp.is_some() {
            return;
        }
        self.store_again = None;
        let status = self.known(plugin);
        let mut outcome = Outcome::default();
        let needed = needed(&plugin.spec, &status, &self.sources);
        match self.fetcher.store.list(&store::owner(plugin)).await {
            Ok(stored) => self.store_all(plugin, &needed, &stored, given, &mut outcome).await,
            Err(error) => outcome.refused("what versions are made of", &error),
        }
        if outcome.is_transient {
            self.store_again = Some(Instant::now() + RETRY);
        }
        let condition = outcome.condition();
        if condition.0 == "False" && self.stored.as_ref() != Some(&condition) {
            tracing::warn!(plugin = self.name, reason = condition.1, message = condition.2, "not all is stored");
        }
        self.stored = Some(condition);
    }

    async fn store_all(
        &mut self,
        plugin: &Plugin,
        needed: &[Needed],
        stored: &[Stored],
        given: &[Component],
        outcome: &mut Outcome,
    ) {
        let (mut room, mut kept) = (MAX_PLUGIN, BTreeSet::new());
        let whole = |digest: &str| stored.iter().find(|one| one.digest == digest && one.is_whole);
        for Needed { digest, what, is_new } in needed {
            let loaded = given.iter().find(|component| component.digest == *digest);
            let no_room = || format!("{what} is not stored: at most {MAX_PLUGIN} bytes are stored for one plugin");
            if let Some(there) = whole(digest) {
                let Some(rest) = room.checked_sub(there.bytes) else {
                    outcome.missing("TooLarge", no_room());
                    continue;
                };
                room = rest;
                kept.insert(digest.as_str());
                if let Some(evidence) = loaded.and_then(|component| component.evidence.as_ref())
                    && let Err(error) = self.fetcher.store.sign(&self.name, there, evidence).await
                {
                    outcome.refused(&format!("a signature of {what}"), &error);
                }
                continue;
            }
            let (bytes, evidence) = match self.packed(digest, loaded).await {
                Ok(packed) => packed,
                Err((NOT_STORED, _)) if *is_new => continue,
                Err((reason, why)) => {
                    outcome.missing(reason, format!("{what} is not stored: {why}"));
                    continue;
                }
            };
            if bytes.len() > room {
                outcome.missing("TooLarge", no_room());
                continue;
            }
            // parts of another attempt may have been compressed in another way
            if let Some(partial) = stored.iter().find(|one| one.digest == *digest)
                && let Err(error) = self.fetcher.store.delete(partial).await
            {
                outcome.refused(what, &error);
                continue;
            }
            let written = self.fetcher.store.write(&store::owner(plugin), digest, &bytes, &evidence).await;
            if let Err(error) = written {
                outcome.refused(what, &error);
                continue;
            }
            tracing::info!(plugin = self.name, digest, bytes = bytes.len(), "component stored");
            room -= bytes.len();
            kept.insert(digest.as_str());
        }
        for old in stored.iter().filter(|old| !kept.contains(old.digest.as_str())) {
            match self.fetcher.store.delete(old).await {
                Ok(()) => tracing::info!(plugin = self.name, digest = old.digest, "stored component deleted"),
                Err(error) => {
                    tracing::warn!(plugin = self.name, digest = old.digest, %error, "a stored component stays");
                }
            }
        }
    }

    /// A component as it is stored, with what proves its signatures.
    async fn packed(
        &mut self,
        digest: &str,
        loaded: Option<&Component>,
    ) -> Result<(Vec<u8>, Vec<Evidence>), (&'static str, String)> {
        let too_large = |bytes: usize| {
            ("TooLarge", format!("it has {bytes} bytes when it is compressed, at most {MAX_COMPONENT} are stored"))
        };
        if let Some(bytes) = self.too_large.get(digest) {
            return Err(too_large(*bytes));
        }
        let (wasm, evidence) = match loaded {
            Some(component) => (component.wasm.clone(), component.evidence.iter().cloned().collect()),
            None => {
                let on_disk = self.fetcher.on_disk(digest).await;
                on_disk.ok_or_else(|| {
                    (NOT_STORED, "neither the source was asked for it since, nor does the cache have it".to_owned())
                })?
            }
        };
        // seconds for a large one
        let packed = tokio::task::spawn_blocking(move || store::pack(&wasm)).await;
        let packed = packed.map_err(std::io::Error::other).and_then(|packed| packed);
        let packed = packed.map_err(|error| ("Unavailable", error.to_string()))?;
        if packed.len() > MAX_COMPONENT {
            self.too_large.insert(digest.to_owned(), packed.len());
            return Err(too_large(packed.len()));
        }
        Ok((packed, evidence))
    }

    /// Tries again what could not be stored.
    pub(super) async fn store_missing(&mut self, plugin: &Plugin) {
        self.store(plugin, &[]).await;
        let before = self.known(plugin);
        self.publish(plugin, &before, before.clone()).await;
    }

    /// When what could not be stored is to be tried again.
    pub(super) fn store_again(&self) -> Instant {
        // thirty years
        self.store_again.unwrap_or_else(|| Instant::now() + Duration::from_secs(1_000_000_000))
    }
}

/// Name of a version, for messages.
pub(super) fn name_of(version: Option<&str>, digest: Option<&str>) -> String {
    let short = digest.map(|digest| digest.chars().take("sha256:".len() + 12).collect::<String>());
    match (version, short) {
        (Some(version), Some(digest)) => format!("version {version} ({digest})"),
        (Some(version), None) => format!("version {version}"),
        (None, Some(digest)) => format!("the version {digest}"),
        (None, None) => "the version before".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_component_that_a_version_needs_is_named_once_and_what_serves_first() {
        let version = |digest: Option<&str>, reference: &str, engine: &str| {
            json!({ "source": { "oci": { "reference": reference } }, "digest": digest,
                "engines": [{ "name": "e", "source": { "file": { "path": "/e" } }, "digest": engine }] })
        };
        let spec: PluginSpec = serde_json::from_value(version(Some("new"), "r/a:2", "engine")).unwrap();
        let entry =
            |digest: &str, spec: serde_json::Value| json!({ "digest": digest, "version": digest, "spec": spec });
        let status = json!({
            "version": "1", "serving": version(None, "r/a:1", "engine"),
            "history": [entry("old", version(None, "r/a:0", "other")), entry("new", version(Some("new"), "r/a:2", "engine")),
                { "digest": "nobody knows its spec", "version": "0" }],
        });
        let status: PluginStatus = serde_json::from_value(status).unwrap();
        let source = json!({ "reference": "r/a:1", "manifest": "m", "component": "serving" });
        let sources: Vec<ResolvedSource> = serde_json::from_value(json!([source])).unwrap();
        let all = needed(&spec, &status, &sources);
        let named: Vec<(&str, &str)> = all.iter().map(|one| (one.digest.as_str(), one.what.as_str())).collect();
        let expected = [
            ("serving", "version 1"),
            ("engine", "the engine e of version 1"),
            ("new", "the version in spec"),
            ("old", "version old"),
            ("other", "the engine e of version old"),
        ];
        assert_eq!(named, expected);
    }

    #[test]
    fn what_is_not_stored_is_named_with_the_first_reason() {
        assert_eq!(Outcome::default().condition().0, "True");
        let mut outcome = Outcome::default();
        outcome.missing("TooLarge", "a".into());
        outcome.missing("NotStored", "b".into());
        let message = "a; b; without the host's cache it can be loaded from its source only";
        assert_eq!(outcome.condition(), ("False", "TooLarge", message.into()));
    }
}
