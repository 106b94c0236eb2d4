use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::Status;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use serde_json::{Value, json};

use crate::object::shown;
use crate::{
    Component, Condition, DEADLINE, Environment, Host, HostOptions, Immortal, Proxy, Recording, Target, cluster, of,
    sample,
};

/// Which records a test's hosts follow.
const RUN_LABEL: &str = "tests.transom.dev/run";

/// The field manager that a test is.
const MANAGER: &str = "somebody";

/// A test's own part of the cluster: a namespace, and the `Plugin` records that are labelled with its name.
pub struct Namespace {
    /// Of the namespace.
    pub name: String,
    pub(crate) environment: Environment,
    client: Client,
    hosts: AtomicU32,
    /// It is the test's own, and goes with it.
    is_own: bool,
}

impl Namespace {
    pub(crate) async fn create_new(environment: Environment, client: Client, name: String) -> Self {
        let ns = Self { name, environment, client, hosts: AtomicU32::new(0), is_own: true };
        ns.create(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": ns.name } })).await;
        // Pods wait for it.
        ns.wait_until(of::<ServiceAccount>("default"), |_| true).await;
        ns
    }

    /// Another namespace, which somebody else makes and clears.
    #[must_use]
    pub fn other(&self, name: &str) -> Self {
        let (environment, client) = (self.environment.clone(), self.client.clone());
        Self { name: name.to_owned(), environment, client, hosts: AtomicU32::new(0), is_own: false }
    }

    // ---------------------------------------------------------------- hosts

    /// Starts a host for this namespace, and waits until it is ready.
    pub async fn host(&self) -> Host {
        self.host_with(HostOptions::default()).await
    }

    /// The same with other options.
    pub async fn host_with(&self, options: HostOptions) -> Host {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed);
        // A user for each start, so that the audit log tells them apart.
        let user = format!("transom-test-{}-{number}", self.name);
        Host::start(&self.environment, &self.name, &self.selector(), user, options).await
    }

    /// A proxy for this test's hosts.
    pub async fn proxy(&self) -> Proxy {
        Proxy::start(&self.environment.host_kubeconfig).await
    }

    /// Starts a host that reaches the API server through a proxy, and waits until it is ready.
    pub async fn host_through(&self, proxy: &Proxy) -> Host {
        let options = HostOptions { server: Some(proxy.url()), ..HostOptions::default() };
        let host = self.host_with(options).await;
        proxy.aim(host.pid());
        host
    }

    /// A host that reaches the API server through a proxy and is started again whenever it ends.
    #[must_use]
    pub fn immortal(&self, proxy: &Arc<Proxy>) -> Immortal {
        Immortal::start(&self.environment, proxy.clone(), &self.name, &self.selector())
    }

    /// The label of the records that this test's hosts follow: `key=value`.
    #[must_use]
    pub fn selector(&self) -> String {
        format!("{RUN_LABEL}={}", self.name)
    }

    /// Loads a component from its file, and waits until it serves.
    pub async fn install(&self, component: &Component) -> Value {
        let record = self.record(&component.name, component.spec()).await;
        self.wait_for(&record, crate::condition("Ready", "True")).await
    }

    /// A `Plugin` record whose name begins with `name`.
    pub async fn record(&self, name: &str, spec: Value) -> Value {
        self.create(self.record_body(name, spec)).await
    }

    /// What [`record`](Self::record) creates.
    #[must_use]
    pub fn record_body(&self, name: &str, spec: Value) -> Value {
        json!({
            "apiVersion": "transom.dev/v1alpha1", "kind": "Plugin",
            "metadata": { "name": format!("{name}-{}", self.name), "labels": { RUN_LABEL: self.name } },
            "spec": spec,
        })
    }

    // -------------------------------------------------------------- objects

    /// Creates an object, as it is then.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub async fn create(&self, object: Value) -> Value {
        let created = self.try_create(object.clone()).await;
        created.unwrap_or_else(|error| panic!("the API server refused {object:#}: {}", error.message))
    }

    /// Creates an object, or the API server's refusal.
    ///
    /// # Errors
    ///
    /// The API server's words.
    pub async fn try_create(&self, object: Value) -> Result<Value, Box<Status>> {
        self.send_create(object, false).await
    }

    /// What creating an object would lead to, or the API server's refusal; nothing is written.
    ///
    /// # Errors
    ///
    /// The API server's words.
    pub async fn dry_create(&self, object: Value) -> Result<Value, Box<Status>> {
        self.send_create(object, true).await
    }

    async fn send_create(&self, object: Value, dry_run: bool) -> Result<Value, Box<Status>> {
        let target = Target::from(&object);
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        let parameters = PostParams { field_manager: Some(MANAGER.into()), dry_run };
        match self.api(&target).create(&parameters, &object).await {
            Ok(created) => Ok(value(&target, &created)),
            Err(kube::Error::Api(status)) => Err(status),
            Err(error) => panic!("the API server cannot be asked: {error}"),
        }
    }

    /// Creates an object as kubectl does: HTTP status, warnings, and the object or the API server's refusal.
    ///
    /// # Panics
    ///
    /// When the API server cannot be asked.
    pub async fn create_and_listen(&self, object: Value) -> (u16, Vec<String>, Value) {
        let resource = self.api(&Target::from(&object)).resource_url().to_owned();
        let request = http::Request::post(resource).header("content-type", "application/json");
        let request = request.body(kube::client::Body::from(object.to_string().into_bytes())).unwrap();
        let response = self.client.send(request).await.expect("the API server answers");
        let warnings =
            response.headers().get_all("warning").iter().map(|one| one.to_str().unwrap().to_owned()).collect();
        let status = response.status().as_u16();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        (status, warnings, serde_json::from_slice(&body).unwrap())
    }

    /// A merge patch of an object, or of a subresource of it, as another field manager.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub async fn patch_as(
        &self,
        target: impl Into<Target>,
        manager: &str,
        subresource: Option<&str>,
        patch: Value,
    ) -> Value {
        let target = target.into();
        let (api, patch) = (self.api(&target), Patch::Merge(patch));
        let parameters = PatchParams { field_manager: Some(manager.into()), ..PatchParams::default() };
        let patched = match subresource {
            None => api.patch(&target.name, &parameters, &patch).await,
            Some(subresource) => api.patch_subresource(subresource, &target.name, &parameters, &patch).await,
        };
        value(&target, &patched.unwrap_or_else(|error| panic!("the API server refused to patch {target}: {error}")))
    }

    /// The object as it is, none when it does not exist.
    pub async fn find(&self, target: impl Into<Target>) -> Option<Value> {
        let target = target.into();
        let found = self.api(&target).get_opt(&target.name).await.unwrap();
        found.map(|object| value(&target, &object))
    }

    /// The object as it is.
    ///
    /// # Panics
    ///
    /// When it does not exist.
    pub async fn get(&self, target: impl Into<Target>) -> Value {
        let target = target.into();
        self.find(&target).await.unwrap_or_else(|| panic!("there is no {target}"))
    }

    /// Objects of a kind in this namespace, sorted by name.
    pub async fn list<K: k8s_openapi::Resource>(&self) -> Vec<Value> {
        let target = of::<K>("");
        let list = self.api(&target).list(&ListParams::default()).await.unwrap();
        list.items.iter().map(|object| value(&target, object)).collect()
    }

    /// Objects of a kind with these labels in all namespaces.
    pub async fn everywhere<K: k8s_openapi::Resource>(&self, labels: &str) -> Vec<Value> {
        let target = of::<K>("");
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &target.resource());
        let list = api.list(&ListParams::default().labels(labels)).await.unwrap();
        list.items.iter().map(|object| value(&target, object)).collect()
    }

    /// Changes an object as a person would, by a merge patch: lists are replaced.
    pub async fn merge(&self, target: impl Into<Target>, patch: Value) -> Value {
        self.patch(target.into(), Patch::Merge(patch), "").await
    }

    /// Changes an object of a built-in kind by a strategic merge patch: lists are merged.
    pub async fn strategic(&self, target: impl Into<Target>, patch: Value) -> Value {
        self.patch(target.into(), Patch::Strategic(patch), "").await
    }

    /// Changes an object's status, as its controller or a kubelet would.
    pub async fn merge_status(&self, target: impl Into<Target>, status: Value) -> Value {
        self.patch(target.into(), Patch::Merge(json!({ "status": status })), "status").await
    }

    /// What a patch would lead to, or the API server's refusal; nothing is written.
    ///
    /// # Errors
    ///
    /// The API server's words.
    pub async fn dry_patch(&self, target: impl Into<Target>, patch: &Patch<Value>) -> Result<Value, String> {
        let target = target.into();
        let parameters = PatchParams { dry_run: true, ..PatchParams::default() };
        let patched = self.api(&target).patch(&target.name, &parameters, patch).await;
        patched.map(|object| value(&target, &object)).map_err(|error| error.to_string())
    }

    /// What putting an object in the place of the one of its name would lead to, or the API server's refusal.
    ///
    /// # Errors
    ///
    /// The API server's words.
    pub async fn dry_replace(&self, object: Value) -> Result<Value, String> {
        let target = Target::from(&object);
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        let parameters = PostParams { dry_run: true, ..PostParams::default() };
        let replaced = self.api(&target).replace(&target.name, &parameters, &object).await;
        replaced.map(|object| value(&target, &object)).map_err(|error| error.to_string())
    }

    /// A client with the rights of this user and no others.
    pub async fn client_as(&self, user: &str) -> Client {
        cluster::client_as(&self.environment, user).await
    }

    /// Changes an object that may not be there; none when it is not.
    pub async fn try_merge(&self, target: impl Into<Target>, patch: Value) -> Option<Value> {
        self.try_patch(&target.into(), Patch::Merge(patch), "").await
    }

    async fn patch(&self, target: Target, patch: Patch<Value>, subresource: &str) -> Value {
        let patched = self.try_patch(&target, patch, subresource).await;
        patched.unwrap_or_else(|| panic!("there is no {target} to be changed"))
    }

    async fn try_patch(&self, target: &Target, patch: Patch<Value>, subresource: &str) -> Option<Value> {
        let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let api = self.api(target);
        let patched = match subresource {
            "" => api.patch(&target.name, &parameters, &patch).await,
            _ => api.patch_status(&target.name, &parameters, &patch).await,
        };
        let patched = absent_is_fine(patched).unwrap_or_else(|error| panic!("{target} cannot be changed: {error}"));
        patched.map(|patched| value(target, &patched))
    }

    /// Asks for an object to be deleted.
    pub async fn delete(&self, target: impl Into<Target>) {
        let target = target.into();
        assert!(self.try_delete(&target).await, "there is no {target} to be deleted");
    }

    /// Asks for an object to be deleted that may not be there; false when it is not.
    pub async fn try_delete(&self, target: impl Into<Target>) -> bool {
        let target = target.into();
        let deleted = self.api(&target).delete(&target.name, &DeleteParams::background()).await;
        absent_is_fine(deleted).unwrap_or_else(|error| panic!("{target} cannot be deleted: {error}")).is_some()
    }

    // ---------------------------------------------------------------- waits

    /// Waits until a condition holds for the object as it is specified now.
    pub async fn wait_for(&self, target: impl Into<Target>, condition: Condition) -> Value {
        let holds = |object: Option<&Value>| object.is_some_and(|object| condition.holds(object));
        self.wait(target.into(), &condition, holds).await.expect("it exists")
    }

    /// Waits until the object exists and this holds for it.
    pub async fn wait_until(&self, target: impl Into<Target>, holds: impl Fn(&Value) -> bool) -> Value {
        let holds = |object: Option<&Value>| object.is_some_and(&holds);
        self.wait(target.into(), &"what the test wants", holds).await.expect("it exists")
    }

    /// Waits until there is no such object.
    pub async fn wait_gone(&self, target: impl Into<Target>) {
        self.wait(target.into(), &"its end", |object| object.is_none()).await;
    }

    /// Waits until the object of this name is another one.
    pub async fn wait_replaced(&self, old: &Value) -> Value {
        self.wait_until(old, |now| now["metadata"]["uid"] != old["metadata"]["uid"]).await
    }

    /// The object as soon as this holds for it, or as it is after this time.
    ///
    /// # Panics
    ///
    /// When it does not exist.
    pub async fn wait_at_most(
        &self,
        within: Duration,
        target: impl Into<Target>,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let target = target.into();
        let wait = async {
            let mut states = std::pin::pin!(self.states(&target));
            while let Some(state) = states.next().await {
                if state.as_ref().is_some_and(&holds) {
                    return;
                }
            }
        };
        // in time or not, it is shown as it is
        let _ = tokio::time::timeout(within, wait).await;
        self.get(target).await
    }

    async fn wait(&self, target: Target, what: &dyn Display, holds: impl Fn(Option<&Value>) -> bool) -> Option<Value> {
        let mut last = None;
        let wait = async {
            let mut states = std::pin::pin!(self.states(&target));
            while let Some(state) = states.next().await {
                let is_it = holds(state.as_ref());
                last = state;
                if is_it {
                    return;
                }
            }
        };
        if tokio::time::timeout(DEADLINE, wait).await.is_err() {
            panic!("waited {DEADLINE:?} for {what} of {target}; {}", shown(last.as_ref()));
        }
        last
    }

    /// Every state of one object from now on; none while it does not exist.
    pub(crate) fn states(&self, target: &Target) -> impl futures::Stream<Item = Option<Value>> + Send + use<> {
        let (target, name) = (target.clone(), target.name.clone());
        let states = watcher::watch_object(self.api(&target), &name);
        states.filter_map(move |state| {
            let state = state.ok().map(|object| object.map(|object| value(&target, &object)));
            std::future::ready(state)
        })
    }

    /// Waits until any object of a kind, with these labels, is as it should be.
    ///
    /// # Panics
    ///
    /// When none is within the deadline.
    pub async fn wait_for_any<K: k8s_openapi::Resource>(&self, labels: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let target = of::<K>("");
        let config = watcher::Config::default().labels(labels);
        let mut objects = std::pin::pin!(watcher(self.api(&target), config).default_backoff().applied_objects());
        let mut seen = Vec::new();
        let wait = async {
            while let Some(object) = objects.next().await {
                let Ok(object) = object else { continue };
                let object = value(&target, &object);
                if holds(&object) {
                    return object;
                }
                seen.push(object);
            }
            panic!("a watch never ends");
        };
        let found = tokio::time::timeout(DEADLINE, wait).await;
        let kind = &target.kind;
        found.unwrap_or_else(|_| panic!("waited {DEADLINE:?} for a {kind} as the test wants; seen: {seen:#?}"))
    }

    /// Notes every state of an object from now on.
    pub async fn recording(&self, target: impl Into<Target>) -> Recording {
        Recording::start(self, &target.into()).await
    }

    // ------------------------------------------------------------- accounts

    /// Makes a ServiceAccount and returns its bearer token.
    ///
    /// # Panics
    ///
    /// When the API server gives none.
    pub async fn account(&self, name: &str) -> String {
        let metadata = json!({ "name": name });
        self.create(json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata })).await;
        self.token(name).await
    }

    /// A bearer token of a ServiceAccount.
    ///
    /// # Panics
    ///
    /// When the API server gives none.
    pub async fn token(&self, account: &str) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.name);
        let answer = accounts.create_token_request(account, &PostParams::default(), &TokenRequest::default()).await;
        answer.unwrap().status.expect("a token").token
    }

    /// Writes a kubeconfig for a ServiceAccount, whose requests are in the audit log.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub async fn kubeconfig(&self, account: &str, path: &std::path::Path) {
        let text = crate::host::with_token(&self.environment.host_kubeconfig, &self.token(account).await);
        std::fs::write(path, text).unwrap();
    }

    /// Lets a ServiceAccount of this namespace do something in it; replaces what was allowed under the same name before.
    /// Rules are those of a Role.
    pub async fn allow(&self, account: &str, role: &str, rules: Value) {
        let metadata = json!({ "name": role });
        let group = "rbac.authorization.k8s.io";
        let api_version = "rbac.authorization.k8s.io/v1";
        let role_target = of::<Role>(role);
        if self.try_merge(&role_target, json!({ "rules": rules })).await.is_some() {
            return;
        }
        self.create(json!({ "apiVersion": api_version, "kind": "Role", "metadata": metadata, "rules": rules })).await;
        self.create(json!({
            "apiVersion": api_version, "kind": "RoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": group, "kind": "Role", "name": role },
            "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": self.name }],
        }))
        .await;
    }

    /// Lets a ServiceAccount of this namespace do something everywhere, for as long as the cluster lives.
    pub async fn allow_everywhere(&self, account: &str, rules: Value) {
        let metadata = json!({ "name": format!("{account}-{}", self.name) });
        let group = "rbac.authorization.k8s.io";
        let api_version = "rbac.authorization.k8s.io/v1";
        let role = json!({ "apiVersion": api_version, "kind": "ClusterRole", "metadata": metadata, "rules": rules });
        self.create(role).await;
        self.create(json!({
            "apiVersion": api_version, "kind": "ClusterRoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": metadata["name"] },
            "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": self.name }],
        }))
        .await;
    }

    // ------------------------------------------------------------------ end

    /// The API of a kind, as the administrator.
    #[must_use]
    pub fn api(&self, target: &Target) -> Api<DynamicObject> {
        let resource = target.resource();
        if target.is_cluster_scoped() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &self.name, &resource)
        }
    }

    /// Deletes everything that the test made; its hosts are gone by now, so finalizers are nobody's.
    async fn clear(&self) -> kube::Result<()> {
        let client = cluster::client(&self.environment).await;
        let plugins: Api<DynamicObject> = Api::all_with(client.clone(), &of::<sample::Plugin>("").resource());
        let records_of = ListParams::default().labels(&self.selector());
        absent_is_fine(plugins.delete_collection(&DeleteParams::default(), &records_of).await)?;
        let namespaces = Api::<KubeNamespace>::all(client.clone());
        absent_is_fine(namespaces.delete(&self.name, &DeleteParams::background()).await)?;
        for record in absent_is_fine(plugins.list(&records_of).await)?.into_iter().flatten() {
            let none = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
            let name = record.meta().name.clone().unwrap_or_default();
            absent_is_fine(plugins.patch(&name, &PatchParams::default(), &none).await)?;
        }
        for target in [
            of::<sample::Web>(""),
            of::<sample::Domain>(""),
            of::<sample::Process>(""),
            of::<sample::CaelusInstance>(""),
            of::<sample::ProductTemplateVersion>(""),
            of::<sample::Hostile>(""),
            of::<sample::Asker>(""),
            of::<sample::Environment>(""),
        ] {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &self.name, &target.resource());
            let Some(primaries) = absent_is_fine(api.list(&ListParams::default()).await)? else { continue };
            for primary in
                primaries.items.iter().filter(|primary| !primary.meta().finalizers.iter().flatten().eq([""; 0]))
            {
                let name = primary.meta().name.as_deref().unwrap_or_default();
                let none = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
                absent_is_fine(api.patch(name, &PatchParams::default(), &none).await)?;
            }
        }
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.is_own {
            return;
        }
        if std::thread::panicking() {
            eprintln!("the namespace {} is kept, and the Plugin records with {}", self.name, self.selector());
            return;
        }
        // The test's runtime is at its end; a runtime cannot be run inside another.
        let cleared = std::thread::scope(|scope| {
            let clear = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(self.clear())
            };
            scope.spawn(clear).join()
        });
        if !matches!(cleared, Ok(Ok(()))) {
            eprintln!("the namespace {} could not be cleared: {cleared:?}", self.name);
        }
    }
}

/// 404: the object is gone, or its kind is not served (any more).
fn absent_is_fine<T>(result: kube::Result<T>) -> kube::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// With API version and kind, which the items of a list do not have.
fn value(target: &Target, object: &DynamicObject) -> Value {
    let mut object = serde_json::to_value(object).expect("an object has a JSON form");
    object["apiVersion"] = json!(target.api_version);
    object["kind"] = json!(target.kind);
    object
}
