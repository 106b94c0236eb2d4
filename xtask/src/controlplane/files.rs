//! The files that the programs of a control plane, and its clients, read.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::ports::Ports;
use super::{HOST_USER, Layout};

/// Pods with a container of such an image are left alone by kwok once they are scheduled: whoever made them says how
/// they fare, by `kubectl patch --subresource=status`. An image, because that is what a primitive's author can set.
///
/// `by-hand` as the last element of the name: `demo/by-hand:1`.
const BY_HAND: &str = r#"[.spec.containers[].image | test("(^|/)by-hand([:@]|$)")] | any"#;

/// Writes all of them.
pub(crate) fn write(layout: &Layout, ports: &Ports, stages: &Path) -> Result<()> {
    let certificates = layout.certificates();
    save(&layout.kubeconfig(), &pretty(&kubeconfig(ports, &certificates, "admin"))?)?;
    save(&layout.host_kubeconfig(), &pretty(&kubeconfig(ports, &certificates, "host"))?)?;
    save(&layout.audit_policy(), &pretty(&audit_policy())?)?;
    let stages = fs::read_to_string(stages).with_context(|| format!("failed to read {}", stages.display()))?;
    save(&layout.stages(), &except_by_hand(&stages)?)
}

/// A kubeconfig, as JSON: that is YAML too, and needs no thought about quoting.
fn kubeconfig(ports: &Ports, certificates: &Path, user: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "transom",
            "cluster": {
                "server": format!("https://127.0.0.1:{}", ports.api),
                "certificate-authority": certificates.join("ca.crt"),
            },
        }],
        "users": [{
            "name": user,
            "user": {
                "client-certificate": certificates.join(format!("{user}.crt")),
                "client-key": certificates.join(format!("{user}.key")),
            },
        }],
        "contexts": [{ "name": "transom", "context": { "cluster": "transom", "user": user } }],
        "current-context": "transom",
    })
}

/// One line for each finished request of the host, and nothing else: tests and benchmarks count them.
fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [
            { "level": "Metadata", "users": [HOST_USER] },
            { "level": "None" },
        ],
    })
}

/// Nodes that only kwok looks after.
pub(crate) fn nodes(count: u32) -> String {
    let size = json!({ "cpu": "3200", "memory": "25600Gi", "pods": "100000" });
    let node = |number| {
        let name = format!("node-{number}");
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": { "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "type": "kwok" },
                "annotations": { "kwok.x-k8s.io/node": "fake", "node.alpha.kubernetes.io/ttl": "0" },
            },
            "status": { "allocatable": size, "capacity": size },
        })
    };
    json!({ "apiVersion": "v1", "kind": "List", "items": (0..count).map(node).collect::<Vec<_>>() }).to_string()
}

/// Takes pods with an image `by-hand` out of the stages that make pods ready and complete.
fn except_by_hand(stages: &str) -> Result<String> {
    const EXPRESSIONS: &str = "    matchExpressions:\n";

    let requirement = format!("    - key: '{BY_HAND}'\n      operator: 'NotIn'\n      values:\n      - 'true'\n");
    let mut changed = Vec::new();
    for stage in stages.split("\n---\n") {
        let is_kubelet =
            ["pod-ready", "pod-complete"].iter().any(|name| stage.contains(&format!("\n  name: {name}\n")));
        changed.push(if is_kubelet {
            ensure!(stage.contains(EXPRESSIONS), "a stage of kwok has changed its shape:\n{stage}");
            stage.replacen(EXPRESSIONS, &format!("{EXPRESSIONS}{requirement}"), 1)
        } else {
            stage.to_owned()
        });
    }
    Ok(changed.join("\n---\n"))
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_names_server_user_and_absolute_files() {
        let ports = Ports { api: 6443, etcd_clients: 1, etcd_peers: 2 };
        let config = kubeconfig(&ports, Path::new("/some where/certificates"), "host");
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
        assert_eq!(
            config["users"][0],
            json!({
                "name": "host",
                "user": {
                    "client-certificate": "/some where/certificates/host.crt",
                    "client-key": "/some where/certificates/host.key",
                },
            })
        );
        assert_eq!(config["contexts"][0]["context"], json!({ "cluster": "transom", "user": "host" }));
    }

    #[test]
    fn only_the_stages_that_stand_for_a_kubelet_spare_pods_by_hand() {
        let stage =
            |name: &str| format!("metadata:\n  name: {name}\nspec:\n  selector:\n    matchExpressions:\n    - key: x");
        let stages = ["node-initialize", "pod-ready", "pod-complete", "pod-delete"].map(stage).join("\n---\n");
        let changed = except_by_hand(&stages).unwrap();
        let spared: Vec<bool> = changed.split("\n---\n").map(|stage| stage.contains("by-hand")).collect();
        assert_eq!(spared, [false, true, true, false]);
        assert!(except_by_hand("metadata:\n  name: pod-ready\nspec: {}").is_err());
    }
}
