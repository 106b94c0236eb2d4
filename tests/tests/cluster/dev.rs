//! `transom dev`: from a save to a plan, and what a save must not break.

use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};
use tokio::process::Command;
use transom_tests::{
    Environment, Namespace, Terminal, TestCluster, cache_dir, condition, of, program, sample, transom, without_cargo,
};

/// Where the projects of these tests and of the tutorial are built: where `cargo xtask plugins` has compiled the same
/// dependencies.
pub(crate) fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/guest")
}

/// What makes a component of both speeds the same, and of the same dependencies as the guests that are for tests
/// (`Build::settings` in `xtask/src/guests.rs`), so that nothing is compiled twice. The other core is for the tests beside.
pub(crate) const SPEED: [(&str, &str); 7] = [
    ("CARGO_BUILD_JOBS", "1"),
    ("__CARGO_DEFAULT_LIB_METADATA", "transom-guests"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_INCREMENTAL", "true"),
    ("CARGO_PROFILE_DEV_DEBUG", "0"),
];

/// A new project with the versions that everything here is built with.
async fn project(ns: &Namespace, folder: &Path, name: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (dir, group) = (folder.to_str().unwrap(), format!("{}.example", ns.name));
    let sdk = root.to_str().unwrap();
    transom(&["plugin", "new", name, "--group", &group, "--sdk", sdk, "--dir", dir], "").await.succeeded();
    std::fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
}

fn dev(ns: &Namespace, folder: &Path, name: &str) -> Terminal {
    let mut command = Command::new(program());
    command.arg("dev").arg(folder).args(["--host", "own", "--name", name]).args(["--label", &ns.selector()]);
    command.arg("--cache-dir").arg(cache_dir());
    command.env("KUBECONFIG", Environment::get().kubeconfig).env("TRANSOM_WATCH_NAMESPACE", &ns.name);
    command.env("CARGO_TARGET_DIR", target()).env("XDG_STATE_HOME", folder.join(".state")).envs(SPEED);
    without_cargo(&mut command);
    Terminal::start(command)
}

async fn digest(ns: &Namespace, name: &str) -> Value {
    ns.get(of::<sample::Plugin>(name)).await["status"]["digest"].clone()
}

#[tokio::test]
async fn a_save_becomes_a_plan_and_a_broken_one_leaves_the_version_before() {
    let (ns, folder) = (TestCluster::shared().await.namespace("dev").await, tempfile::tempdir().unwrap());
    let (folder, name) = (folder.path(), format!("greeter-{}", ns.name));
    project(&ns, folder, "greeter").await;
    let mut dev = dev(&ns, folder, &name);
    dev.hear("the first build", &[&*format!("{name} 0.1.0 serves Greeter.")]).await;
    let object = json!({
        "apiVersion": format!("{}.example/v1", ns.name), "kind": "Greeter", "metadata": { "name": "hello" },
        "spec": { "image": "registry.example/hello:1.0", "replicas": 1 },
    });
    let object = ns.create(object).await;
    ns.wait_for(&object, condition("Ready", "True")).await;
    let first = digest(&ns, &name).await;

    let path = folder.join("src/lib.rs");
    let good = std::fs::read_to_string(&path).unwrap();
    let save = |old: &str, new: &str| {
        assert!(good.contains(old), "{old}");
        std::fs::write(&path, good.replace(old, new)).unwrap();
    };
    save("fn one() -> i32 {", "fn one() -> String {");
    dev.hear("an error", &["mismatched types", "error: cargo could not build"]).await;
    assert_eq!(digest(&ns, &name).await, first, "the version before serves");

    // It builds and loads, and would fail for the object that is there.
    save(
        "let mut plan = cx.plan();",
        "assert!(object.spec.replicas > 1, \"two at least\");\n        let mut plan = cx.plan();",
    );
    dev.hear("a version that traps", &["1 objects: 0 unchanged, 0 changed, 1 failed", "0.1.0 is still serving"]).await;
    assert_eq!(digest(&ns, &name).await, first, "the version before serves");

    save("PORT.to_string())", "PORT.to_string()), objects::env(\"GREETING\", \"hi\")");
    let expected = ["1 objects: 0 unchanged, 1 changed, 0 failed", "update Deployment", "serves Greeter."];
    let heard = dev.hear("a good version", &expected).await;
    eprintln!("{heard}");
    let greets = |deployment: &Value| {
        let env = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        env.iter().any(|variable| variable["name"] == "GREETING")
    };
    ns.wait_until(of::<Deployment>("hello"), greets).await;
    assert_ne!(digest(&ns, &name).await, first);

    dev.interrupt("Ctrl-C").await;
    dev.hear("Ctrl-C", &[&*format!("Plugin {name} and its objects stay")]).await;
}

#[tokio::test]
async fn a_record_of_somebody_else_is_left_alone() {
    let (ns, folder) = (TestCluster::shared().await.namespace("dev-other").await, tempfile::tempdir().unwrap());
    // a name of its own: cargo would put the components of both to one place
    project(&ns, folder.path(), "stranger").await;
    let _host = ns.host().await; // which defines Plugins, too
    let zeros = format!("sha256:{}", "0".repeat(64));
    let spec = json!({ "source": { "file": { "path": "/nowhere.wasm" } }, "digest": zeros });
    let record = ns.record("stranger", spec.clone()).await;
    let name = record["metadata"]["name"].as_str().unwrap();
    let mut dev = dev(&ns, folder.path(), name);
    dev.hear("a taken name", &[&*format!("Plugin {name} is there, and not of `transom dev`")]).await;
    assert_eq!(ns.get(&record).await["spec"]["digest"], spec["digest"]);
    dev.interrupt("Ctrl-C").await;
}
