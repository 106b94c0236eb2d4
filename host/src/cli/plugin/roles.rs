//! What a plugin has to be allowed, as roles for a person to grant.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::control::cluster::Cluster;
use crate::plan::contract::{Manifest, TypeMeta};
use crate::registry::Definition;

/// What the host does in the plugin's name, and nothing else: it writes by patches only, and Events in its own name.
const OWN: &[&str] = &["get", "list", "watch", "patch"];
const CHILDREN: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];
const READS: &[&str] = &["get", "list", "watch"];

/// The ClusterRole with everything that the manifest declares, and kinds that the cluster does not serve, so that nobody
/// knows what their resources are called.
pub(super) async fn needed(
    cluster: &Cluster,
    name: &str,
    manifest: &Manifest,
    definitions: &[Definition],
) -> (Value, Vec<TypeMeta>) {
    let (mut rules, mut unknown) = (Rules::default(), Vec::new());
    for definition in definitions {
        let (group, plural) = (definition.served.kind.group(), &definition.served.plural);
        rules.add(group, plural, OWN);
        rules.add(group, &format!("{plural}/status"), &["patch"]);
    }
    let children = manifest.child_kinds().map(|kind| (kind, CHILDREN));
    let reads = manifest.reads.iter().map(|(kind, _)| (kind, READS));
    for (kind, verbs) in children.chain(reads) {
        match cluster.served(kind).await {
            Ok(served) => rules.add(kind.group(), &served.plural, verbs),
            Err(_) if !unknown.contains(kind) => unknown.push(kind.clone()),
            Err(_) => {}
        }
    }
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": { "name": format!("transom:plugin:{name}") }, "rules": rules.list(),
    });
    (role, unknown)
}

/// Gives that ClusterRole to an account.
pub(super) fn binding(name: &str, (namespace, account): (&str, &str)) -> Value {
    let role = format!("transom:plugin:{name}");
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": role },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": namespace }],
    })
}

/// Verbs by group and resource.
#[derive(Default)]
struct Rules(BTreeMap<(String, String), Vec<&'static str>>);

impl Rules {
    fn add(&mut self, group: &str, resource: &str, verbs: &[&'static str]) {
        let known = self.0.entry((group.to_owned(), resource.to_owned())).or_default();
        known.extend(verbs.iter().filter(|verb| !known.contains(verb)).copied().collect::<Vec<_>>());
    }

    /// One rule for all resources of a group with the same verbs.
    fn list(self) -> Vec<Value> {
        let mut merged: BTreeMap<(String, Vec<&str>), Vec<String>> = BTreeMap::new();
        for ((group, resource), verbs) in self.0 {
            merged.entry((group, verbs)).or_default().push(resource);
        }
        let rule =
            |((group, verbs), resources)| json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
        merged.into_iter().map(rule).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_with_the_same_verbs_share_a_rule_and_verbs_are_united() {
        let mut rules = Rules::default();
        rules.add("apps", "deployments", CHILDREN);
        rules.add("apps", "statefulsets", CHILDREN);
        rules.add("apps", "deployments", READS);
        rules.add("", "secrets", READS);
        let expected = [
            json!({ "apiGroups": [""], "resources": ["secrets"], "verbs": READS }),
            json!({ "apiGroups": ["apps"], "resources": ["deployments", "statefulsets"], "verbs": CHILDREN }),
        ];
        assert_eq!(rules.list(), expected);
    }
}
