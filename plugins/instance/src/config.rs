use std::collections::BTreeMap;

use transom_sdk::prelude::*;

/// `spec.config` of the `Plugin` record: what is the same for all instances of a platform.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// Namespace of the ingress controller: the only one from which instances are reached.
    pub ingress_namespace: String,
    /// Namespace of the cluster's DNS.
    pub dns_namespace: String,
    /// Addresses outside the cluster that instances may reach, such as `0.0.0.0/0`; by default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress_cidrs: Vec<String>,
    /// What all pods of an instance may use together, as `spec.hard` of a ResourceQuota.
    pub quota: BTreeMap<String, String>,
    /// What a container asks for that says nothing about it, as `defaultRequest` of a LimitRange.
    pub default_request: BTreeMap<String, String>,
    /// Pod security standard that the namespace enforces: `privileged`, `baseline` or `restricted`.
    #[schemars(regex(pattern = r"^(privileged|baseline|restricted)$"))]
    pub pod_security: String,
    /// What charts may make outside the namespace of their instance; by default nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_namespaces: Vec<OtherNamespace>,
    /// What charts see as `.Capabilities.KubeVersion`, such as `v1.36.3`; by default that of the engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kube_version: Option<String>,
    /// What charts see in `.Capabilities.APIVersions` beside Kubernetes' own, such as `monitoring.coreos.com/v1`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_versions: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        let table = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self {
            ingress_namespace: "ingress-nginx".into(),
            dns_namespace: "kube-system".into(),
            egress_cidrs: Vec::new(),
            quota: table(&[
                ("persistentvolumeclaims", "10"),
                ("pods", "50"),
                ("requests.cpu", "4"),
                ("requests.memory", "8Gi"),
                ("requests.storage", "50Gi"),
                ("services.loadbalancers", "0"),
                ("services.nodeports", "0"),
            ]),
            default_request: table(&[("cpu", "50m"), ("memory", "64Mi")]),
            pod_security: "baseline".into(),
            other_namespaces: Vec::new(),
            kube_version: None,
            api_versions: Vec::new(),
        }
    }
}

/// Kinds that charts may make in a namespace that is not their instance's, such as RoleBindings in `kube-system`.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OtherNamespace {
    /// Its name.
    pub namespace: String,
    /// Kinds as kubectl spells them: `Secret`, `RoleBinding.rbac.authorization.k8s.io`.
    pub kinds: Vec<String>,
}

impl Config {
    /// May charts make objects of this kind (`RoleBinding.rbac.authorization.k8s.io`) in this namespace?
    pub(crate) fn grants(&self, namespace: &str, kind: &str) -> bool {
        let is_granted = |grant: &OtherNamespace| grant.namespace == namespace && grant.kinds.iter().any(|k| k == kind);
        self.other_namespaces.iter().any(is_granted)
    }
}
