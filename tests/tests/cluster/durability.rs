//! A version that serves, is pinned or is in the history can be loaded again, whatever is lost: the host's disk, the source,
//! the history, what is stored. And what cannot be loaded is not said to serve.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::{Kubeconfig, NamedContext};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;
use transom_tests::{
    Component, Environment, Host, HostOptions, Namespace, Output, Registry, TestCluster, condition, condition_of, of,
    program, sample, transom_with_cluster, up_to_date, variant,
};

use crate::sources::{oci, push, secrets};

/// A version of the chameleon.
fn says(version: &str) -> Value {
    json!({ "version": version, "value": version })
}

/// A test's part of the cluster, with one object.
struct Stage {
    ns: Namespace,
    folder: TempDir,
    name: String,
    starts: u32,
}

impl Stage {
    async fn new(name: &str) -> Self {
        let ns = TestCluster::shared().await.namespace(name).await;
        let name = format!("chameleon-{}", ns.name);
        Self { ns, folder: tempfile::tempdir().unwrap(), name, starts: 0 }
    }

    /// A host with an empty disk.
    async fn host(&mut self) -> Host {
        self.starts += 1;
        let cache_dir = Some(self.folder.path().join(format!("cache-{}", self.starts)));
        self.ns.host_with(HostOptions { cache_dir, ..HostOptions::default() }).await
    }

    async fn plugin(&self) -> Value {
        self.ns.get(of::<sample::Plugin>(&self.name)).await
    }

    async fn wait_for_plugin(&self, status: &str, reason: &str) -> Value {
        let plugin = self.plugin().await;
        self.ns.wait_for(&plugin, condition("Progressing", status).because(reason)).await
    }

    /// Asks for a version, and waits until it serves.
    async fn serves(&self, spec: Value) -> Value {
        let plugin = match self.ns.find(of::<sample::Plugin>(&self.name)).await {
            Some(plugin) => self.ns.merge(&plugin, json!({ "spec": spec })).await,
            None => self.ns.record("chameleon", spec).await,
        };
        self.ns.wait_for(&plugin, up_to_date()).await
    }

    /// An edit of the object is carried out by this version.
    async fn is_reconciled_by(&self, version: &str) {
        let text = format!("at start {} by {version}", self.starts);
        let edit = json!({ "spec": { "text": text } });
        self.ns.merge(of::<sample::Chameleon>("one"), edit).await;
        let map = self.ns.wait_until(of::<ConfigMap>("one"), |map| map["data"]["text"] == text).await;
        assert_eq!(map["data"]["value"], version);
    }

    async fn object(&self) {
        let object = self.ns.create(sample::chameleon("one", "good")).await;
        self.ns.wait_for(&object, condition("Ready", "True")).await;
    }

    async fn command(&self, arguments: &[&str]) -> Output {
        let all = [&["plugin", arguments[0], &self.name][..], &arguments[1..]].concat();
        transom_with_cluster(&all).await
    }

    /// `transom plugin install FILE` for this test's hosts.
    async fn install(&self, component: &Component, more: &[&str]) -> Output {
        let (file, label) = (component.path.display().to_string(), self.ns.selector());
        let arguments = ["plugin", "install", &file, "--name", &self.name, "--label", &label, "--yes"];
        transom_with_cluster(&[&arguments[..], &["--namespace", &self.ns.name], more].concat()).await
    }

    async fn version(&self, says: &Value) -> Component {
        variant(says, self.folder.path()).await
    }

    /// Of what the host has stored in the cluster.
    async fn stored(&self) -> Vec<Value> {
        self.ns.everywhere::<sample::StoredComponent>(&format!("transom.dev/stored-for={}", self.name)).await
    }

    async fn digests(&self) -> BTreeSet<String> {
        self.stored().await.iter().map(|part| part["spec"]["digest"].as_str().unwrap().to_owned()).collect()
    }

    async fn lose_what_is_stored(&self) {
        for part in self.stored().await {
            self.ns.delete(&part).await;
            self.ns.wait_gone(&part).await;
        }
    }
}

/// Where two versions come from one after the other.
enum Source {
    File(PathBuf),
    ConfigMap,
    Http(PathBuf, String, tokio::task::JoinHandle<()>),
    Registry(Box<Registry>),
}

impl Source {
    async fn new(kind: &str, stage: &Stage) -> Self {
        let folder = stage.folder.path().join("source");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("plugin.wasm");
        match kind {
            "file" => Self::File(file),
            "configMap" => Self::ConfigMap,
            "http" => {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let url = format!("http://{}/plugin.wasm", listener.local_addr().unwrap());
                let served = file.clone();
                let read = async move || std::fs::read(&served).unwrap_or_default();
                let app = axum::Router::new().route("/plugin.wasm", axum::routing::get(read));
                Self::Http(file, url, tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }))
            }
            _ => {
                let registry = Registry::start_with_tls().await;
                secrets(&stage.ns, &registry).await;
                Self::Registry(Box::new(registry))
            }
        }
    }

    /// Puts a version where the one before was. Returns its `spec`.
    async fn put(&self, stage: &Stage, component: &Component) -> Value {
        let source = match self {
            Self::File(file) => {
                std::fs::copy(&component.path, file).unwrap();
                json!({ "file": { "path": file } })
            }
            Self::ConfigMap => {
                put_map(&stage.ns, component).await;
                json!({ "configMap": { "namespace": stage.ns.name, "name": "source" } })
            }
            Self::Http(file, url, _) => {
                std::fs::copy(&component.path, file).unwrap();
                json!({ "http": { "url": url, "plaintext": true } })
            }
            Self::Registry(registry) => {
                push(registry, component, "team/chameleon:latest").await;
                oci(&stage.ns, &format!("{}/team/chameleon:latest", registry.authority))
            }
        };
        json!({ "source": source, "digest": component.digest })
    }

    /// Nothing can be fetched any more.
    async fn lose(self, stage: &Stage) {
        match self {
            Self::File(file) => std::fs::remove_file(file).unwrap(),
            Self::ConfigMap => {
                let map = stage.ns.get(of::<ConfigMap>("source")).await;
                stage.ns.delete(&map).await;
            }
            Self::Http(_, _, server) => server.abort(),
            Self::Registry(registry) => drop(registry.stop().await),
        }
    }
}

async fn put_map(ns: &Namespace, component: &Component) {
    use base64::Engine as _;
    let wasm = base64::prelude::BASE64_STANDARD.encode(std::fs::read(&component.path).unwrap());
    let data = json!({ "plugin.wasm": wasm });
    match ns.find(of::<ConfigMap>("source")).await {
        Some(map) => drop(ns.merge(&map, json!({ "binaryData": data })).await),
        None => {
            let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "source" }, "binaryData": data });
            ns.create(map).await;
        }
    }
}

/// The second version is where the first one was, so the source has no version but that; then it is gone altogether.
#[rstest]
#[case::file("file")]
#[case::config_map("configMap")]
#[case::web_server("http")]
#[case::registry("oci")]
#[tokio::test]
async fn what_served_is_loaded_again_when_its_source_is_replaced_or_gone_and_the_disk_is_empty(#[case] kind: &str) {
    let mut stage = Stage::new("lost").await;
    let host = stage.host().await;
    let source = Source::new(kind, &stage).await;
    let (one, two) = (stage.version(&says("1.0.0")).await, stage.version(&says("2.0.0")).await);
    stage.serves(source.put(&stage, &one).await).await;
    stage.object().await;
    let plugin = stage.serves(source.put(&stage, &two).await).await;
    assert_eq!(condition_of(&plugin, "Stored")["status"], "True", "{plugin:#}");
    assert_eq!(stage.digests().await, [one.digest.clone(), two.digest.clone()].into());

    // The source has the second version only, and this disk has nothing: the history can be gone back to.
    host.kill().await;
    let host = stage.host().await;
    stage.is_reconciled_by("2.0.0").await;
    let back = stage.command(&["rollback"]).await.printed();
    assert!(back.ends_with(" 1.0.0 serves\n"), "{back}");
    stage.is_reconciled_by("1.0.0").await;

    // The source is gone, and so is the disk.
    source.lose(&stage).await;
    host.kill().await;
    let host = stage.host().await;
    stage.is_reconciled_by("1.0.0").await;
    let plugin = stage.plugin().await;
    assert_eq!((&plugin["status"]["version"], &plugin["status"]["digest"]), (&json!("1.0.0"), &json!(one.digest)));

    // An object is pinned to a version of the history.
    let pin = json!({ "metadata": { "annotations": { "transom.dev/plugin-digest": two.digest } } });
    stage.ns.merge(of::<sample::Chameleon>("one"), pin).await;
    stage.ns.wait_until(of::<ConfigMap>("one"), |map| map["data"]["value"] == "2.0.0").await;
    host.kill().await;
    let host = stage.host().await;
    stage.is_reconciled_by("2.0.0").await;

    // The history is lost as well: what serves still does, and what nothing names any more is not kept.
    let none = json!({ "metadata": { "annotations": { "transom.dev/plugin-digest": null } } });
    stage.ns.merge(of::<sample::Chameleon>("one"), none).await;
    stage.ns.wait_until(of::<ConfigMap>("one"), |map| map["data"]["value"] == "1.0.0").await;
    host.kill().await;
    stage.ns.merge_status(&plugin, json!({ "history": null })).await;
    let _host = stage.host().await;
    stage.is_reconciled_by("1.0.0").await;
    assert_eq!(stage.digests().await, [one.digest].into());
}

#[tokio::test]
async fn what_is_stored_is_stored_again_when_it_is_lost_or_wrong() {
    let mut stage = Stage::new("stored").await;
    let host = stage.host().await;
    let one = stage.version(&says("1.0.0")).await;
    stage.serves(one.spec()).await;
    stage.object().await;
    stage.lose_what_is_stored().await;
    host.kill().await;
    let host = stage.host().await;
    stage.is_reconciled_by("1.0.0").await;
    let [part] = stage.stored().await.try_into().expect("one part");
    assert_eq!(part["metadata"]["ownerReferences"][0]["name"], stage.name);

    // Its bytes cannot be edited; another object in its place is found out.
    let edit = kube::api::Patch::Merge(json!({ "spec": { "data": "AAAA" } }));
    let refused = stage.ns.dry_patch(&part, &edit).await.unwrap_err();
    assert!(refused.contains("cannot be changed"), "{refused}");
    host.kill().await;
    stage.ns.delete(&part).await;
    stage.ns.wait_gone(&part).await;
    let mut wrong = part.clone();
    wrong["spec"]["data"] = json!("AAAA");
    for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"] {
        wrong["metadata"].as_object_mut().unwrap().remove(field);
    }
    stage.ns.create(wrong).await;
    let _host = stage.host().await;
    stage.is_reconciled_by("1.0.0").await;
    stage.ns.wait_until(&part, |now| now["spec"]["data"] == part["spec"]["data"]).await;
    // it goes with the Plugin
    let plugin = stage.plugin().await;
    stage.ns.delete(of::<sample::Chameleon>("one")).await;
    stage.ns.delete(&plugin).await;
    stage.ns.wait_gone(&part).await;
}

/// The plugin's own component is not all of a version.
#[tokio::test]
async fn engines_are_loaded_again_when_their_source_is_gone_and_the_disk_is_empty() {
    let mut stage = Stage::new("engines").await;
    let host = stage.host().await;
    let copy = async |name: &str| {
        let path = stage.folder.path().join(name).with_extension("wasm");
        let built = transom_tests::component("asker").await.path.with_file_name(name).with_extension("wasm");
        std::fs::copy(built, &path).unwrap();
        transom_tests::component_at(&path)
    };
    let (asker, turner) = (copy("asker").await, copy("turner").await);
    let mut spec = asker.spec();
    spec["engines"] = json!([{ "name": "turner", "source": turner.spec()["source"], "digest": turner.digest,
        "limits": { "deadlineMilliseconds": 5_000, "memory": "128Mi" } }]);
    spec["endpoints"] = json!([{ "name": "web", "address": "http://127.0.0.1:1", "plaintext": true }]);
    spec["limits"] = json!({ "deadlineMilliseconds": 5_000 });
    stage.serves(spec).await;
    assert_eq!(stage.digests().await, [asker.digest, turner.digest].into());
    for file in [asker.path, turner.path] {
        std::fs::remove_file(file).unwrap();
    }
    host.kill().await;
    let _host = stage.host().await;
    let object = json!({
        "apiVersion": "tests.transom.dev/v1", "kind": "Asker", "metadata": { "name": "one" },
        "spec": { "ask": [{ "what": "engine", "of": "turner", "input": "abc" }] },
    });
    let object = stage.ns.create(object).await;
    let object = stage.ns.wait_for(&object, condition("Ready", "True")).await;
    assert!(object["status"]["answers"][0].as_str().unwrap().contains("cba"), "{object:#}");
}

/// A signature is asked for again, and proven by what was stored beside the component.
#[tokio::test]
async fn a_signed_version_is_loaded_again_by_its_keys_when_its_source_is_gone_and_the_disk_is_empty() {
    let mut stage = Stage::new("signed").await;
    let host = stage.host().await;
    let (registry, folder) = (Registry::start_with_tls().await, stage.folder.path().to_owned());
    let key = |name: &str| {
        let dir = folder.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    };
    for name in ["own", "other"] {
        transom_tests::cosign(&registry, &key(name), &["generate-key-pair"]).await.succeeded();
    }
    let public = |name: &str| std::fs::read_to_string(key(name).join("cosign.pub")).unwrap();
    let one = stage.version(&says("1.0.0")).await;
    let (file, private) = (one.path.display().to_string(), key("own").join("cosign.key").display().to_string());
    transom_tests::transom_as(&registry, &["plugin", "sign", &file, "--key", &private]).await.succeeded();
    let mut spec = one.spec();
    spec["signature"] = json!({ "keys": [{ "pem": public("own") }] });
    stage.serves(spec).await;
    stage.object().await;
    for path in [one.path.clone(), PathBuf::from(format!("{file}.sig"))] {
        std::fs::remove_file(path).unwrap();
    }
    host.kill().await;
    let host = stage.host().await;
    stage.is_reconciled_by("1.0.0").await;
    // another key has not signed it
    host.kill().await;
    let plugin = stage.plugin().await;
    stage.ns.merge(&plugin, json!({ "spec": { "signature": { "keys": [{ "pem": public("other") }] } } })).await;
    let _host = stage.host().await;
    let plugin = stage.wait_for_plugin("False", "NotFound").await;
    assert_eq!(condition_of(&plugin, "Ready")["status"], "False", "{plugin:#}");
}

/// A component that does not compress, and is larger than what is stored.
fn large(component: &Component, folder: &Path) -> Component {
    let mut bytes = std::fs::read(&component.path).unwrap();
    let mut state = 1u64;
    let noise = (0..25 << 20).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    // a custom section: id 0, size in LEB128, an empty name
    let content: Vec<u8> = std::iter::once(0).chain(noise).collect();
    bytes.push(0);
    let mut size = content.len();
    while size >= 128 {
        bytes.push((size % 128) as u8 | 128);
        size /= 128;
    }
    bytes.push(size as u8);
    bytes.extend(content);
    let path = folder.join("large.wasm");
    std::fs::write(&path, bytes).unwrap();
    transom_tests::component_at(&path)
}

#[tokio::test]
async fn a_component_that_is_too_large_to_be_stored_is_said_to_depend_on_its_source() {
    let mut stage = Stage::new("large").await;
    let _host = stage.host().await;
    let large = large(&stage.version(&says("1.0.0")).await, stage.folder.path());
    let plugin = stage.serves(large.spec()).await;
    assert_eq!(condition_of(&plugin, "Ready")["status"], "True");
    let stored = condition_of(&plugin, "Stored");
    assert_eq!((&stored["status"], &stored["reason"]), (&json!("False"), &json!("TooLarge")));
    let message = stored["message"].as_str().unwrap();
    assert!(message.ends_with("without the host's cache it can be loaded from its source only"), "{message}");
    assert_eq!(stage.stored().await, Vec::<Value>::new());
}

/// Everything that could be lost is, while the spec names another version: the status says so, and the other version has to
/// pass all gates.
#[tokio::test]
async fn a_version_is_not_promoted_without_a_preview_because_the_one_before_is_lost() {
    let mut stage = Stage::new("gates").await;
    let host = stage.host().await;
    stage.install(&stage.version(&says("1.0.0")).await, &[]).await.succeeded();
    let rollout = json!({ "strategy": "manual", "steps": [{ "percent": 100, "bakeSeconds": 0 }] });
    stage.serves(json!({ "rollout": rollout })).await;
    stage.object().await;
    host.kill().await;
    for map in maps(&stage).await {
        stage.ns.delete(&map).await;
    }
    stage.lose_what_is_stored().await;
    let host = stage.host().await;

    // Nothing serves, and nothing is said to.
    let plugin = stage.wait_for_plugin("False", "NotFound").await;
    let (status, ready) = (&plugin["status"], condition_of(&plugin, "Ready"));
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("NotFound")), "{plugin:#}");
    assert!(ready["message"].as_str().unwrap().starts_with("nothing serves"), "{ready}");
    assert_eq!((&status["version"], &status["digest"]), (&Value::Null, &Value::Null));
    let listed = transom_with_cluster(&["plugin", "list"]).await.printed();
    let line = listed.lines().find(|line| line.starts_with(&stage.name)).unwrap();
    assert!(line.contains("none"), "{line}");
    let shown = stage.command(&["show"]).await.printed();
    assert!(shown.contains("none serves"), "{shown}");

    // One that traps for the object is held, and it is named.
    let traps = stage.version(&json!({ "version": "2.0.0", "value": "2.0.0", "trap": "good" })).await;
    let held = stage.install(&traps, &[]).await;
    assert_eq!(held.code, Some(3), "{held:?}");
    assert!(held.stderr.contains("PlanHeld: 1 of 1 objects would fail"), "{}", held.stderr);
    assert!(held.stderr.contains("\n  fails: Chameleon") && held.stderr.contains("PluginTrapped"), "{}", held.stderr);
    assert!(!held.stderr.contains("plugin approve"), "{}", held.stderr);
    let plugin = stage.wait_for_plugin("False", "PlanHeld").await;
    let ready = condition_of(&plugin, "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("ServingVersionMissing")));
    assert_eq!(condition_of(&plugin, "Stalled")["status"], "True");
    assert_eq!(stage.ns.get(of::<ConfigMap>("one")).await["data"]["value"], "1.0.0");

    // A good one waits for its approvals, and serves then.
    let good = stage.version(&says("3.0.0")).await;
    let waits = stage.install(&good, &[]).await;
    assert_eq!(waits.code, Some(3), "{waits:?}");
    assert!(waits.stderr.contains("ApprovalNeeded") && waits.stderr.contains("plugin approve"), "{}", waits.stderr);
    let on = stage.command(&["approve"]).await.printed();
    assert!(on.contains("step 1 of 1, objects: 1"), "{on}");
    stage.ns.wait_until(of::<ConfigMap>("one"), |map| map["data"]["value"] == "3.0.0").await;
    stage.wait_for_plugin("True", "ApprovalNeeded").await;
    // the only objects that are served are those of the step
    assert_eq!(condition_of(&stage.plugin().await, "Ready")["status"], "False");
    let serves = stage.command(&["approve"]).await.printed();
    assert!(serves.ends_with(" 3.0.0 serves\n"), "{serves}");
    let plugin = stage.wait_for_plugin("False", "Complete").await;
    assert_eq!(condition_of(&plugin, "Ready")["status"], "True");
    let entry = &plugin["status"]["history"][0];
    assert_eq!((&entry["version"], &entry["reason"]), (&json!("1.0.0"), &json!("Replaced")), "{entry:#}");
    drop(host);
}

/// It is lost for a while only.
#[tokio::test]
async fn a_version_that_was_lost_serves_again_when_its_source_is_back() {
    let mut stage = Stage::new("found").await;
    let host = stage.host().await;
    let (one, two) = (stage.version(&says("1.0.0")).await, stage.version(&says("2.0.0")).await);
    let gone = stage.folder.path().join("gone.wasm");
    std::fs::copy(&one.path, &gone).unwrap();
    stage.serves(transom_tests::component_at(&gone).spec()).await;
    stage.object().await;
    let manual = json!({ "rollout": { "strategy": "manual" } });
    let plugin = stage.plugin().await;
    let plugin = stage.ns.merge(&plugin, json!({ "spec": manual })).await;
    stage.ns.merge(&plugin, json!({ "spec": two.spec() })).await;
    stage.wait_for_plugin("True", "ApprovalNeeded").await;
    host.kill().await;
    std::fs::remove_file(&gone).unwrap();
    stage.lose_what_is_stored().await;
    let _host = stage.host().await;
    let plugin = stage.plugin().await;
    stage.ns.wait_for(&plugin, condition("Ready", "False").because("ServingVersionMissing")).await;
    std::fs::copy(&one.path, &gone).unwrap();
    let plugin = stage.ns.wait_for(&plugin, condition("Ready", "True")).await;
    assert_eq!(plugin["status"]["version"], "1.0.0");
    assert_eq!(condition_of(&plugin, "Progressing")["reason"], "ApprovalNeeded");
    stage.is_reconciled_by("1.0.0").await;
}

/// ConfigMaps that `install` has made.
async fn maps(stage: &Stage) -> Vec<Value> {
    let mut maps = stage.ns.list::<ConfigMap>().await;
    maps.retain(|map| map["metadata"]["labels"]["transom.dev/installed-for"] == stage.name);
    maps
}

#[tokio::test]
async fn an_install_that_fails_changes_nothing_and_each_version_has_a_config_map_of_its_own() {
    let mut stage = Stage::new("fails").await;
    let host = stage.host().await;
    let versions = [stage.version(&says("1.0.0")).await, stage.version(&says("2.0.0")).await];
    for component in &versions {
        stage.install(component, &[]).await.succeeded();
    }
    stage.object().await;
    let names: BTreeSet<String> = maps(&stage).await.iter().map(name_of).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(maps(&stage).await.iter().all(|map| map["metadata"]["ownerReferences"][0]["name"] == stage.name));
    // whatever is stored elsewhere, the first version is where it was
    host.kill().await;
    stage.lose_what_is_stored().await;
    let _host = stage.host().await;
    let back = stage.command(&["rollback"]).await.printed();
    assert!(back.ends_with(" 1.0.0 serves\n"), "{back}");
    stage.is_reconciled_by("1.0.0").await;

    // Somebody else sets the digest: a conflict.
    let plugin = stage.plugin().await;
    let patch = kube::api::Patch::Apply(json!({ "apiVersion": "transom.dev/v1alpha1", "kind": "Plugin",
        "metadata": { "name": stage.name }, "spec": { "digest": versions[1].digest, "source": plugin["spec"]["source"] } }));
    let parameters = kube::api::PatchParams::apply("another").force();
    let api = stage.ns.api(&(&plugin).into());
    api.patch(&stage.name, &parameters, &patch).await.unwrap();
    let plugin = stage.wait_for_plugin("False", "Complete").await;
    let before = maps(&stage).await;
    let three = stage.version(&says("3.0.0")).await;
    let refused = stage.install(&three, &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("nothing was changed") && refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(stage.plugin().await["spec"], plugin["spec"]);
    assert_eq!(maps(&stage).await, before);
    // a record that the API server refuses
    let refused = stage.install(&three, &["--force", "--service-account", &format!("n/{}", "x".repeat(300))]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(stage.plugin().await["spec"], plugin["spec"]);
    assert_eq!(maps(&stage).await, before);
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn force_replaces_another_sort_of_source_that_another_field_manager_has_set() {
    let mut stage = Stage::new("force").await;
    let _host = stage.host().await;
    stage.serves(stage.version(&says("1.0.0")).await.spec()).await;
    let two = stage.version(&says("2.0.0")).await;
    let refused = stage.install(&two, &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(maps(&stage).await, Vec::<Value>::new(), "nothing was changed");
    let installed = stage.install(&two, &["--force"]).await.printed();
    assert!(installed.ends_with(" 2.0.0 serves\n"), "{installed}");
    assert_eq!(stage.plugin().await["spec"]["source"].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn without_a_host_nothing_is_said_to_serve_and_waiting_fails() {
    let mut stage = Stage::new("no-host").await;
    let host = stage.host().await;
    stage.install(&stage.version(&says("1.0.0")).await, &[]).await.succeeded();
    stage.object().await;
    host.kill().await;
    // the last status speaks of another generation
    let output = stage.install(&stage.version(&says("2.0.0")).await, &["--timeout", "1"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    let unseen = "no host has observed this Plugin: is `transom run` up";
    assert!(output.stderr.contains(unseen), "{}", output.stderr);
    assert!(!output.stderr.contains("1.0.0"), "{}", output.stderr);
    let listed = transom_with_cluster(&["plugin", "list"]).await.printed();
    assert!(listed.contains(unseen), "{listed}");

    // an approval that nobody acts on
    let host = stage.host().await;
    stage.wait_for_plugin("False", "Complete").await;
    let plugin = stage.plugin().await;
    stage.ns.merge(&plugin, json!({ "spec": { "rollout": { "strategy": "manual" } } })).await;
    let waits = stage.install(&stage.version(&says("3.0.0")).await, &[]).await;
    assert_eq!(waits.code, Some(3), "{waits:?}");
    let plugin = stage.wait_for_plugin("True", "ApprovalNeeded").await;
    assert_eq!(condition_of(&plugin, "Ready")["status"], "True", "the version before serves");
    assert_eq!(condition_of(&plugin, "Reconciling")["status"], "True");
    host.kill().await;
    for command in ["approve", "abort"] {
        let output = stage.command(&[command, "--timeout", "1"]).await;
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains("no host has acted on it after 1 s"), "{}", output.stderr);
    }
    let _host = stage.host().await;
    stage.wait_for_plugin("False", "Aborted").await;
    let refused = stage.command(&["abort"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
}

/// A kubeconfig whose context has this namespace.
fn kubeconfig(folder: &Path, namespace: &str) -> PathBuf {
    let mut config = Kubeconfig::read_from(Environment::get().kubeconfig).unwrap();
    for NamedContext { context, .. } in &mut config.contexts {
        if let Some(context) = context {
            context.namespace = Some(namespace.to_owned());
        }
    }
    let path = folder.join("kubeconfig");
    std::fs::write(&path, json!(config).to_string()).unwrap();
    path
}

#[tokio::test]
async fn every_command_takes_the_namespace_of_the_kubeconfigs_context() {
    let mut stage = Stage::new("context").await;
    let _host = stage.host().await;
    let one = stage.version(&says("1.0.0")).await;
    stage.serves(one.spec()).await;
    stage.object().await;
    let config = kubeconfig(stage.folder.path(), &stage.ns.name);
    let run = async |arguments: &[&str]| -> String {
        let mut command = tokio::process::Command::new(program());
        command.args(arguments).arg("--cache-dir").arg(transom_tests::cache_dir()).env("KUBECONFIG", &config);
        let output = command.output().await.unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let (name, file) = (&stage.ns.name, one.path.display().to_string());
    let object = stage.folder.path().join("object.json");
    std::fs::write(&object, sample::chameleon("two", "good").to_string()).unwrap();
    let found = [
        (&["describe", "Chameleon", "one"][..], format!("{name}/one")),
        (&["verify", "Chameleon/one"], "one".to_owned()),
        (&["explain", "Chameleon", "one"], "one".to_owned()),
        (&["record", "Chameleon", "one", "--fresh", "--plugin", &file], format!("\"namespace\":\"{name}\"")),
        (
            &["render", "--plugin", &file, "-f", object.to_str().unwrap(), "-o", "json"],
            format!("\"namespace\": \"{name}\""),
        ),
        (&["plugin", "install", &file, "-o", "json"], format!("\"namespace\": \"{name}\"")),
    ];
    for (arguments, expected) in &found {
        let said = run(arguments).await;
        let flat = said.replace("\\\"", "\"");
        assert!(flat.contains(expected) && !flat.contains("in the namespace default"), "{arguments:?}: {said}");
    }
}
