//! Kustomizations in the sandbox, beside kubectl's own kustomize, which is made of the same modules.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use transom::api::plugin::Bounds;
use transom_engines::kustomize::{Error, Reply, Request};

use super::{bounds, engine, files};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kustomizations")
}

fn request(path: &str) -> Request {
    Request { files: files(&folder()), path: path.into(), text: true, ..Request::default() }
}

fn of(files: &[(&str, &str)]) -> Request {
    let files = files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect();
    Request { files, text: true, ..Request::default() }
}

async fn output(request: &Request) -> Vec<u8> {
    engine("kustomize", bounds()).await.run(&request.encode().unwrap()).await.unwrap().unwrap()
}

async fn build(request: &Request) -> Reply {
    Reply::decode(&output(request).await).unwrap()
}

async fn error(request: &Request) -> Error {
    build(request).await.error.unwrap()
}

/// What kubectl prints, or its error.
fn native(path: &str, arguments: &[&str]) -> Result<String, String> {
    let folder_of_programs = std::env::var_os("TRANSOM_KUBE_BIN").expect("set by `cargo xtask test`");
    let mut command = Command::new(Path::new(&folder_of_programs).join("kubectl"));
    let done = command.arg("kustomize").arg(folder().join(path)).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr)) }
}

#[tokio::test]
async fn every_feature_gives_the_text_of_the_command_line() {
    for path in ["base", "overlay", "schema"] {
        let reply = build(&request(path)).await;
        assert_eq!(reply.error, None, "{path}");
        assert_eq!(reply.text, native(path, &[]).unwrap(), "{path}");
    }
    let outside = request("outside");
    let said = native("outside", &[]).unwrap_err();
    assert!(said.contains("is not in or below"), "{said}");
    assert!(error(&outside).await.message.contains("is not in or below"));
    let reply = build(&Request { unrestricted: true, ..outside }).await;
    assert_eq!(reply.text, native("outside", &["--load-restrictor", "LoadRestrictionsNone"]).unwrap());
}

#[tokio::test]
async fn objects_are_those_of_the_text() {
    let request = Request { objects: true, ..request("overlay") };
    let first = output(&request).await;
    assert_eq!(output(&request).await, first, "twice the same bytes");
    let reply = Reply::decode(&first).unwrap();
    let documents: Vec<serde_json::Value> =
        reply.text.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect();
    assert_eq!(documents.len(), 11);
    assert_eq!(reply.objects, documents);
    let web = reply.objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    assert_eq!((&web["metadata"]["name"], &web["metadata"]["namespace"]), (&"eu-web-1".into(), &"prod".into()));
    assert_eq!(web["spec"]["replicas"], 3);
    let without_text = Request { text: false, ..request };
    assert_eq!(build(&without_text).await, Reply { text: String::new(), ..reply });
}

#[tokio::test]
async fn what_is_not_among_the_files_is_an_error_that_says_so() {
    for remote in
        ["https://example.com/shop/deploy?ref=v1", "https://example.com/shop.yaml", "git@example.com:shop/deploy"]
    {
        let text = format!("resources: [{remote:?}]");
        let error = error(&of(&[("kustomization.yaml", &text)])).await;
        assert_eq!(error.reason, "RemoteSource", "{error:?}");
        assert!(error.message.starts_with("an engine has no network: bring the files"), "{}", error.message);
        assert!(error.message.contains(remote), "{}", error.message);
    }
    for path in ["helm", "function"] {
        let error = error(&request(path)).await;
        assert_eq!(error.reason, "PluginsDisabled", "{error:?}");
        assert!(native(path, &[]).is_err());
    }
    let missing = error(&of(&[("kustomization.yaml", "resources: [a.yaml]")])).await;
    assert!(missing.reason == "BadKustomization" && missing.message.contains("a.yaml"), "{missing:?}");
    let empty = error(&request("nowhere")).await;
    assert!(empty.reason == "BadKustomization" && empty.message.contains("nowhere"), "{empty:?}");
    for path in ["/etc", "../etc", "a/../../b"] {
        assert_eq!(error(&of(&[(path, "")])).await.reason, "BadRequest");
        assert_eq!(error(&Request { path: path.into(), ..of(&[]) }).await.reason, "BadRequest");
    }
    let refused = engine("kustomize", bounds()).await.run(b"\x09\0\0\0{}").await.unwrap().unwrap_err();
    assert_eq!(refused.reason, "BadRequest");
}

#[tokio::test]
async fn a_kustomization_that_does_not_end_is_stopped() {
    let tight = Bounds { deadline: Duration::from_secs(5), memory_bytes: 256 << 20, ..bounds() };
    let engine = engine("kustomize", tight).await;
    // ten anchors of ten each
    let mut bomb = "a0: &a0 [x]\n".to_owned();
    for n in 1..10 {
        bomb += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
    }
    let object = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\n{bomb}");
    let cycle = of(&[
        ("kustomization.yaml", "resources: [a]"),
        ("a/kustomization.yaml", "resources: [../b]"),
        ("b/kustomization.yaml", "resources: [../a]"),
    ]);
    for request in [of(&[("kustomization.yaml", "resources: [a.yaml]"), ("a.yaml", &object)]), cycle] {
        match engine.run(&request.encode().unwrap()).await {
            Ok(output) => assert!(Reply::decode(&output.unwrap()).unwrap().error.is_some()),
            Err(error) => {
                assert!(["PluginTrapped", "OutOfMemory", "DeadlineExceeded"].contains(&error.reason()), "{error}");
            }
        }
    }
    let good = of(&[
        ("kustomization.yaml", "resources: [a.yaml]"),
        ("a.yaml", "{apiVersion: v1, kind: A, metadata: {name: a}}"),
    ]);
    let reply = Reply::decode(&engine.run(&good.encode().unwrap()).await.unwrap().unwrap()).unwrap();
    assert_eq!(reply.text, "apiVersion: v1\nkind: A\nmetadata:\n  name: a\n");
}

#[test]
fn engine_and_command_line_have_the_same_version() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let version = |file: &str, module: &str| {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let line = text.lines().find(|line| line.contains(&format!("{module} v"))).unwrap();
        line.split_whitespace().find(|word| word.starts_with("v0.")).unwrap().to_owned()
    };
    for module in ["sigs.k8s.io/kustomize/api", "sigs.k8s.io/kustomize/kyaml"] {
        assert_eq!(version("plugins/engines/kustomize/go.mod", module), version("xtask/tools/kube/go.mod", module));
    }
}
