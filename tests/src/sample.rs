//! Objects that tests make, as people would write them.

use k8s_openapi::NamespaceResourceScope;
use serde_json::{Value, json};

/// Names a kind that has no Rust type here; see [`of`](crate::of).
macro_rules! kind {
    ($(#[$doc:meta])* $name:ident, $group:literal, $version:literal, $plural:literal) => {
        $(#[$doc])*
        pub struct $name;

        impl k8s_openapi::Resource for $name {
            const API_VERSION: &'static str = concat!($group, "/", $version);
            const GROUP: &'static str = $group;
            const KIND: &'static str = stringify!($name);
            const VERSION: &'static str = $version;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = NamespaceResourceScope;
        }
    };
}

kind!(
    /// Of the plugin `web`.
    Web, "bench.dev", "v1", "webs"
);
kind!(
    /// Of the plugin `domain`.
    Domain, "ameide.io", "v1", "domains"
);
kind!(
    /// Of the plugin `process`.
    Process, "ameide.io", "v1", "processes"
);
kind!(
    /// Of the plugin `instance`.
    CaelusInstance, "caelus.io", "v1", "caelusinstances"
);
kind!(
    /// Of the plugin `instance`.
    ProductTemplateVersion, "caelus.io", "v1", "producttemplateversions"
);
kind!(
    /// Of the plugin `environment`.
    Environment, "catalyst.catalyst.dev", "v1alpha1", "environments"
);
kind!(
    /// Of the plugin `environment`.
    Project, "catalyst.catalyst.dev", "v1alpha1", "projects"
);
kind!(
    /// Of the plugin `hostile`.
    Hostile, "tests.transom.dev", "v1", "hostiles"
);
kind!(
    /// Of the plugin `chameleon`.
    Chameleon, "tests.transom.dev", "v1", "chameleons"
);
kind!(
    /// Of the plugin `asker`.
    Asker, "tests.transom.dev", "v1", "askers"
);
kind!(
    /// Of the plugin `gate`.
    Gate, "tests.transom.dev", "v1", "gates"
);
kind!(
    /// Of the plugin `parcel`, in the version that is stored.
    Parcel, "tests.transom.dev", "v2", "parcels"
);
kind!(
    /// Kubernetes' own.
    ValidatingWebhookConfiguration, "admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"
);
kind!(
    /// Kubernetes' own.
    MutatingWebhookConfiguration, "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations"
);
kind!(
    /// A database of CloudNativePG.
    Cluster, "postgresql.cnpg.io", "v1", "clusters"
);
kind!(
    /// Of Prometheus' operator.
    ServiceMonitor, "monitoring.coreos.com", "v1", "servicemonitors"
);
kind!(
    /// The host's own.
    Plugin, "transom.dev", "v1alpha1", "plugins"
);
kind!(
    /// The host's own: components as it stores them.
    StoredComponent, "transom.dev", "v1alpha1", "storedcomponents"
);
kind!(
    /// The host's own, for tenants.
    Overlay, "transom.dev", "v1alpha1", "overlays"
);
kind!(
    /// Kubernetes' own.
    CustomResourceDefinition, "apiextensions.k8s.io", "v1", "customresourcedefinitions"
);

/// A web application.
#[must_use]
pub fn web(name: &str) -> Value {
    json!({
        "apiVersion": "bench.dev/v1", "kind": "Web", "metadata": { "name": name },
        "spec": { "image": "registry.example/web:1", "replicas": 2 },
    })
}

/// An object that its plugin misbehaves for.
#[must_use]
pub fn hostile(name: &str, behaviour: &str) -> Value {
    json!({
        "apiVersion": "tests.transom.dev/v1", "kind": "Hostile", "metadata": { "name": name },
        "spec": { "behaviour": behaviour },
    })
}

/// An object of the plugin `chameleon`, some versions of which treat some tags badly.
#[must_use]
pub fn chameleon(name: &str, tag: &str) -> Value {
    json!({
        "apiVersion": "tests.transom.dev/v1", "kind": "Chameleon",
        "metadata": { "name": name, "labels": { "tag": tag } },
        "spec": { "tag": tag, "text": "first" },
    })
}

/// A Domain with the database of the same name.
#[must_use]
pub fn domain(name: &str) -> Value {
    json!({
        "apiVersion": "ameide.io/v1", "kind": "Domain", "metadata": { "name": name },
        "spec": {
            "image": "registry.example/domain:1", "replicas": 2,
            "db": {
                "clusterRef": format!("cnpg/{name}"), "schema": "main",
                "migrationJobImage": "registry.example/migrator:1",
            },
        },
    })
}

/// A Process in a namespace of Temporal's, whose definition is asked for every second.
#[must_use]
pub fn process(name: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": "ameide.io/v1", "kind": "Process", "metadata": { "name": name },
        "spec": {
            "image": "registry.example/process:1",
            "definitionRef": { "id": "L2O_v3", "tenantId": "t123", "refreshInterval": "1s" },
            "temporal": { "namespace": namespace, "taskQueue": format!("{name}-tq") },
        },
    })
}

/// An image that kwok lets nobody but the test say of how it fares.
pub const BY_HAND: &str = "registry.example/by-hand:1";

/// A database cluster.
#[must_use]
pub fn database(name: &str) -> Value {
    json!({
        "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": { "name": name },
        "spec": { "instances": 1 },
    })
}

/// What CloudNativePG makes for the applications of a database cluster.
#[must_use]
pub fn credentials(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": format!("{name}-app") },
        "stringData": { "host": name, "port": "5432", "dbname": "app", "user": "app", "password": "not-a-secret" },
    })
}

/// As much of CloudNativePG as a Domain looks at.
pub(crate) fn database_definition() -> Value {
    definition("postgresql.cnpg.io", "Cluster", "cluster")
}

/// As much of Prometheus' operator as a Domain needs.
#[must_use]
pub fn service_monitor_definition() -> Value {
    definition("monitoring.coreos.com", "ServiceMonitor", "servicemonitor")
}

fn definition(group: &str, kind: &str, singular: &str) -> Value {
    let plural = format!("{singular}s");
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": { "kind": kind, "plural": plural, "singular": singular },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": { "spec": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
                } },
            }],
        },
    })
}
