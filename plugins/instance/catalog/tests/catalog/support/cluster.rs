use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, Secret};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Client, Config, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{DEADLINE, Proxy, required, until};

/// Says that a definition was made here, and may go.
const OURS: &str = "transom-catalog.test";

/// Tests that need the definitions now.
static USERS: Mutex<usize> = Mutex::const_new(0);

/// The control plane, with the two definitions for as long as a test needs them. Definitions of others are used and left
/// alone: the plugin that owns them may be tested on the same control plane before or after.
pub(crate) struct TestCluster;

impl TestCluster {
    pub(crate) async fn get() -> Self {
        let mut users = USERS.lock().await;
        if *users == 0 {
            let api = definitions().await;
            for definition in [template_definition(), instance_definition()] {
                let name = definition.metadata.name.clone().unwrap();
                // one that an interrupted run has left goes first
                let is_going = |found: &CustomResourceDefinition| found.metadata.deletion_timestamp.is_some();
                until("an old definition is gone", async || {
                    let found = api.get_opt(&name).await.unwrap();
                    (!found.as_ref().is_some_and(is_going)).then_some(())
                })
                .await;
                match api.create(&PostParams::default(), &definition).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    created => drop(created.unwrap()),
                }
                let established = await_condition(api.clone(), &name, is_crd_established());
                tokio::time::timeout(DEADLINE, established).await.expect("a definition is established").unwrap();
            }
        }
        *users += 1;
        Self
    }

    /// A namespace with the rights that the sample gives to the catalog.
    pub(crate) async fn namespace(&self, name: &str, proxy: Option<&Proxy>) -> Namespace {
        let name = format!("{name}-{}", &Uuid::now_v7().simple().to_string()[24..]);
        let client = client().await;
        let namespace = json!({ "metadata": { "name": name, "labels": { OURS: "true" } } });
        let namespace: KubeNamespace = serde_json::from_value(namespace).unwrap();
        Api::<KubeNamespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        let roles = Api::<Role>::namespaced(client.clone(), &name);
        roles.create(&PostParams::default(), &sample("Role")).await.unwrap();
        let mut binding: RoleBinding = sample("RoleBinding");
        binding.subjects.iter_mut().flatten().for_each(|subject| subject.namespace = Some(name.clone()));
        let bindings = Api::<RoleBinding>::namespaced(client.clone(), &name);
        bindings.create(&PostParams::default(), &binding).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        let written = serde_json::to_string(&restricted(&name, proxy)).unwrap();
        std::fs::write(&kubeconfig, written).unwrap();
        Namespace { name, kubeconfig, client, _folder: folder }
    }

    /// Where the API server is, as host and port.
    pub(crate) fn address() -> String {
        let config = kubeconfig();
        let cluster = config.clusters.first().and_then(|named| named.cluster.as_ref()).unwrap();
        cluster.server.as_ref().unwrap().trim_start_matches("https://").to_owned()
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        // the test's own runtime cannot be waited on here
        let release = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(release());
        };
        let _ = std::thread::spawn(release).join();
    }
}

async fn release() {
    let mut users = USERS.lock().await;
    *users -= 1;
    if *users > 0 {
        return;
    }
    let (api, client, ours) = (definitions().await, client().await, ListParams::default().labels(OURS));
    // what an operator of a test holds, nobody else would let go
    let released = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    let namespaces = Api::<KubeNamespace>::all(client.clone());
    for namespace in namespaces.list(&ours).await.unwrap() {
        let name = namespace.metadata.name.unwrap();
        let instances = custom(client.clone(), &name, "CaelusInstance", "caelusinstances");
        for object in instances.list(&ListParams::default()).await.unwrap() {
            let _ = instances.patch(&object.name_any(), &PatchParams::default(), &released).await;
        }
        namespaces.delete(&name, &DeleteParams::default()).await.unwrap();
    }
    for definition in api.list(&ours).await.unwrap() {
        let name = definition.metadata.name.unwrap();
        api.delete(&name, &DeleteParams::default()).await.unwrap();
        until("the definition is gone", async || api.get_opt(&name).await.unwrap().is_none().then_some(())).await;
    }
}

fn kubeconfig() -> Kubeconfig {
    Kubeconfig::read_from(required("KUBECONFIG")).expect("a kubeconfig")
}

/// As the administrator. A client belongs to the runtime that made it, and every test has its own.
async fn client() -> Client {
    let config = Config::from_custom_kubeconfig(kubeconfig(), &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

async fn definitions() -> Api<CustomResourceDefinition> {
    Api::all(client().await)
}

/// As the catalog's own account, perhaps by another way.
fn restricted(namespace: &str, proxy: Option<&Proxy>) -> Kubeconfig {
    let mut config = kubeconfig();
    for auth in config.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        auth.impersonate = Some(format!("system:serviceaccount:{namespace}:transom-catalog"));
    }
    if let Some(proxy) = proxy {
        for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            cluster.server = Some(format!("https://127.0.0.1:{}", proxy.port()));
        }
    }
    config
}

/// An object of the sample, without its namespace.
fn sample<K: DeserializeOwned>(kind: &str) -> K {
    let text = include_str!("../../../deploy.yaml");
    let documents = text.split("\n---\n").map(|text| serde_saphyr::from_str::<serde_json::Value>(text).unwrap());
    let mut found = documents.into_iter().find(|document| document["kind"] == kind).expect("it is in the sample");
    found["metadata"].as_object_mut().unwrap().remove("namespace");
    serde_json::from_value(found).unwrap()
}

fn definition(kind: &str, plural: &str, spec: &serde_json::Value) -> CustomResourceDefinition {
    let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let schema = json!({ "type": "object", "properties": { "spec": spec, "status": any } });
    let version = json!({
        "name": "v1", "served": true, "storage": true, "subresources": { "status": {} },
        "schema": { "openAPIV3Schema": schema },
    });
    let definition = json!({
        "metadata": { "name": format!("{plural}.caelus.io"), "labels": { OURS: "true" } },
        "spec": {
            "group": "caelus.io", "scope": "Namespaced", "versions": [version],
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase() },
        },
    });
    serde_json::from_value(definition).unwrap()
}

/// Replaced as a whole, as in the definitions of the plugin.
fn values() -> serde_json::Value {
    json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true, "x-kubernetes-map-type": "atomic" })
}

fn template_definition() -> CustomResourceDefinition {
    let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let properties = json!({
        "chart": any, "defaultValues": values(), "domainPaths": { "type": "array", "items": { "type": "string" } },
        "timeoutSeconds": { "type": "integer", "default": 300 },
    });
    let spec = json!({ "type": "object", "required": ["chart"], "properties": properties });
    definition("ProductTemplateVersion", "producttemplateversions", &spec)
}

fn instance_definition() -> CustomResourceDefinition {
    let text = json!({ "type": "string", "minLength": 1, "maxLength": 253 });
    let properties = json!({
        "userId": text, "productTemplateVersion": text, "namespace": text,
        "domainName": { "type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$" },
        "values": values(), "valuesSecret": text,
    });
    let required = ["userId", "productTemplateVersion", "namespace", "domainName"];
    let spec = json!({ "type": "object", "required": required, "properties": properties });
    definition("CaelusInstance", "caelusinstances", &spec)
}

fn custom(client: Client, namespace: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("caelus.io", "v1", kind), plural);
    Api::namespaced_with(client, namespace, &resource)
}

/// A namespace of a test's own. It goes with the definitions.
pub(crate) struct Namespace {
    pub(crate) name: String,
    /// For the catalog.
    pub(crate) kubeconfig: PathBuf,
    client: Client,
    _folder: TempDir,
}

impl Namespace {
    pub(crate) fn instances(&self) -> Api<DynamicObject> {
        custom(self.client.clone(), &self.name, "CaelusInstance", "caelusinstances")
    }

    pub(crate) fn templates(&self) -> Api<DynamicObject> {
        custom(self.client.clone(), &self.name, "ProductTemplateVersion", "producttemplateversions")
    }

    pub(crate) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    pub(crate) fn events(&self) -> Api<k8s_openapi::api::core::v1::Event> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Names of all objects of a kind.
    pub(crate) async fn names(&self, api: &Api<DynamicObject>) -> Vec<String> {
        let list = api.list(&ListParams::default()).await.unwrap();
        list.items.into_iter().filter_map(|object| object.metadata.name).collect()
    }

    pub(crate) async fn secret_names(&self) -> Vec<String> {
        let list = self.secrets().list(&ListParams::default()).await.unwrap();
        list.items.into_iter().filter_map(|object| object.metadata.name).collect()
    }

    /// An instance that is as asked for.
    pub(crate) async fn instance(&self, name: &str, wanted: impl Fn(&DynamicObject) -> bool) -> DynamicObject {
        let api = self.instances();
        until(&format!("CaelusInstance {name}"), async || {
            api.get_opt(name).await.unwrap().filter(|object| wanted(object))
        })
        .await
    }
}
