//! What the demo shows: plugins, their records, and their samples.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::NAMESPACE;
use super::services::Services;
use crate::{guests, workspace};

/// A plugin and its samples.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exhibit {
    /// Of the record and of the component.
    pub(crate) plugin: &'static str,
    pub(crate) kind: &'static str,
    /// As kubectl knows it.
    pub(crate) resource: &'static str,
    /// Conditions that are shown beside `Ready`.
    pub(crate) conditions: &'static [&'static str],
    /// The objects that become Ready.
    pub(crate) names: &'static [&'static str],
    pub(crate) manifest: &'static str,
}

/// The samples in `xtask/demo/domains.yaml`.
pub(crate) const DOMAINS: [&str; 3] = ["orders", "billing", "shipping"];

/// The plugin that is exchanged while it serves.
pub(crate) const EXCHANGED: &str = "domain";

pub(crate) static EXHIBITS: [Exhibit; 4] = [
    Exhibit {
        plugin: EXCHANGED,
        kind: "Domain",
        resource: "domains.ameide.io",
        conditions: &["DBReady", "MigrationSucceeded", "WorkloadReady"],
        names: &DOMAINS,
        manifest: include_str!("../../demo/domains.yaml"),
    },
    Exhibit {
        plugin: "process",
        kind: "Process",
        resource: "processes.ameide.io",
        conditions: &["DefinitionResolved", "WorkersReady"],
        names: &["fulfilment"],
        manifest: include_str!("../../demo/process.yaml"),
    },
    Exhibit {
        plugin: "environment",
        kind: "Environment",
        resource: "environments.catalyst.catalyst.dev",
        conditions: &["NamespaceReady", "BuildReady", "DeploymentReady"],
        names: &["production"],
        manifest: include_str!("../../demo/environment.yaml"),
    },
    Exhibit {
        plugin: "instance",
        kind: "CaelusInstance",
        resource: "caelusinstances.caelus.io",
        conditions: &["Released", "WorkloadsReady"],
        names: &["small-ann"],
        manifest: include_str!("../../demo/instance.yaml"),
    },
];

/// All components of the demo: plugins, engines, and the version that is swapped in.
pub(crate) fn components() -> Vec<String> {
    let plugins = EXHIBITS.iter().map(|exhibit| exhibit.plugin);
    plugins.chain([NEXT, "helm", "kustomize"]).map(Into::into).collect()
}

const NEXT: &str = "domain-next";

/// The version of `EXCHANGED` that is swapped in.
pub(crate) fn next(components: &Path) -> Result<PathBuf> {
    guests::component(components, NEXT)
}

/// The `Plugin` record of each exhibit.
pub(crate) fn records(components: &Path, services: &Services) -> Result<Vec<Value>> {
    let file = |exhibit: &Exhibit| guests::component(components, exhibit.plugin);
    let record = |exhibit: &Exhibit| record(exhibit.plugin, &file(exhibit)?, services);
    EXHIBITS.iter().map(record).collect()
}

fn record(plugin: &str, file: &Path, services: &Services) -> Result<Value> {
    let endpoint = |name: &str, port: u16| {
        let address = format!("http://127.0.0.1:{port}");
        json!({ "name": name, "address": address, "plaintext": true })
    };
    let more = match plugin {
        "process" => json!({
            "endpoints": [endpoint("transformation", services.definitions), endpoint("temporal", services.temporal)],
            "config": { "temporalAddress": format!("127.0.0.1:{}", services.temporal), "temporalCheckInterval": "5s" },
        }),
        "environment" => json!({ "engines": [engine(file, "helm")?, engine(file, "kustomize")?] }),
        "instance" => {
            let charts = workspace::root().join("tests/charts");
            json!({
                "engines": [engine(file, "helm")?],
                "endpoints": [{ "name": "folder", "address": format!("file://{}", charts.display()) }],
            })
        }
        _ => json!({}),
    };
    let mut spec = source(file)?;
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    Ok(json!({
        "apiVersion": "transom.dev/v1alpha1",
        "kind": "Plugin",
        "metadata": { "name": plugin },
        "spec": spec,
    }))
}

/// An engine, which lies beside the component that asks for it.
fn engine(beside: &Path, name: &str) -> Result<Value> {
    let components = beside.parent().context("a file without a folder")?;
    let mut engine = source(&guests::component(components, name)?)?;
    if let Some(fields) = engine.as_object_mut() {
        fields.insert("name".into(), name.into());
        fields.insert("limits".into(), json!({ "memory": "1Gi", "deadlineMilliseconds": 60_000 }));
    }
    Ok(engine)
}

/// `source` and `digest` of the component in `file`.
pub(crate) fn source(file: &Path) -> Result<Value> {
    Ok(json!({ "source": { "file": { "path": file } }, "digest": digest(file)? }))
}

pub(crate) fn digest(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}

/// Where Temporal keeps what runs for the samples; the tenant of their definitions has the same name.
pub(crate) const TEMPORAL_NAMESPACE: &str = NAMESPACE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_file_and_digest() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.wasm");
        fs::write(&file, "abc").unwrap();
        let services = Services { temporal: 1, definitions: 2 };
        assert_eq!(
            record("domain", &file, &services).unwrap()["spec"],
            json!({
                "source": { "file": { "path": file } },
                "digest": "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            })
        );
        let spec = record("process", &file, &services).unwrap()["spec"].take();
        assert_eq!(spec["endpoints"][1]["address"], "http://127.0.0.1:1");
        assert_eq!(spec["source"]["file"]["path"], json!(file));
    }

    #[test]
    fn the_samples_are_those_that_the_script_knows() {
        for exhibit in &EXHIBITS {
            assert!(exhibit.manifest.contains(&format!("\nkind: {}\n", exhibit.kind)), "{}", exhibit.kind);
            for name in exhibit.names {
                let flow = format!("\nmetadata: {{ name: {name}, namespace: {NAMESPACE} }}\n");
                let block = format!("\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\n");
                assert!(exhibit.manifest.contains(&flow) || exhibit.manifest.contains(&block), "{name}");
            }
        }
    }
}
