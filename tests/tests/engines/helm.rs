//! Charts in the sandbox, beside Helm's own command line of the same version.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use transom::api::plugin::Bounds;
use transom_engines::helm::{Capabilities, Chart, Lookup, Query, Release, Reply, Request};

use super::{bounds, engine, files};

fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts")
}

fn request(chart: Chart) -> Request {
    Request {
        chart,
        release: Release { name: "demo".into(), namespace: "shop".into(), revision: 1, is_upgrade: false },
        now: 1_790_000_000,
        seed: "a secret of the host's".into(),
        include_crds: true,
        text: true,
        ..Request::default()
    }
}

fn of(name: &str) -> Request {
    request(Chart::Files(files(&charts().join(name))))
}

/// A chart with one template.
fn small(template: &str) -> Request {
    let file = |path: &str, text: &str| (path.to_owned(), text.as_bytes().to_vec());
    let chart = file("Chart.yaml", "apiVersion: v2\nname: small\nversion: 1.0.0\n");
    request(Chart::Files(vec![chart, file("templates/a.yaml", template)]))
}

async fn output(request: &Request, bounds: Bounds) -> Vec<u8> {
    engine("helm", bounds).await.run(&request.encode().unwrap()).await.unwrap().unwrap()
}

async fn render(request: &Request) -> Reply {
    Reply::decode(&output(request, bounds()).await).unwrap()
}

/// What the command line prints, or its error.
fn native(chart: &Path, values: &[&str], arguments: &[&str]) -> Result<String, String> {
    let helm = std::env::var_os("TRANSOM_TEST_HELM").expect("set by `cargo xtask test`");
    let scratch = tempfile::tempdir().unwrap();
    let mut command = Command::new(helm);
    command.args(["template", "demo"]).arg(chart).args(["--namespace", "shop", "--include-crds"]).args(arguments);
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, scratch.path());
    }
    for (i, text) in values.iter().enumerate() {
        let file = scratch.path().join(format!("{i}.yaml"));
        std::fs::write(&file, text).unwrap();
        command.arg("--values").arg(file);
    }
    let done = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr)) }
}

#[tokio::test]
async fn every_feature_gives_the_text_of_the_command_line() {
    let chart = charts().join("features");
    let monitoring = ["--kube-version", "v1.36.3-gke.1", "--api-versions", "monitoring.coreos.com/v1"];
    let cases: [(&[&str], &[&str]); 5] = [
        (&[], &[]),
        (&["mailer: {enabled: true, size: 3, global: {a: 1}}\ntags: {caching: true}\n", "mailer: {size: 4}"], &[]),
        (&["labels: {gone: null, b: x}\nreplicas: 0\nglobal: {x: [1, 2.5, null]}\n"], &[]),
        (
            &["greeting: '{{ include \"features.name\" . }} {{ .Values.replicas }}'\nresources: {limits: {cpu: 1}}"],
            &monitoring,
        ),
        (&["big: 3000000\nfraction: 1e3\n"], &["--is-upgrade"]),
    ];
    for (values, arguments) in cases {
        let mut request = of("features");
        request.values = values.iter().map(|text| text.as_bytes().to_vec()).collect();
        request.release.is_upgrade = arguments.contains(&"--is-upgrade");
        if arguments.contains(&"--kube-version") {
            request.capabilities = Capabilities {
                kube_version: Some("v1.36.3-gke.1".into()),
                api_versions: None,
                extra_api_versions: vec!["monitoring.coreos.com/v1".into()],
            };
        }
        let reply = render(&request).await;
        assert_eq!(reply.error, None);
        let expected = native(&chart, values, arguments).unwrap();
        assert_eq!(reply.template(), expected, "{values:?} {arguments:?}");
        assert_eq!(reply.notes, "Installed demo of features 1.2.3.\n");
    }
}

#[tokio::test]
async fn errors_are_those_of_the_command_line_and_name_the_place() {
    let chart = charts().join("features");
    let mut request = of("features");
    request.values = vec![b"replicas: many".to_vec()];
    let error = render(&request).await.error.unwrap();
    let said = native(&chart, &["replicas: many"], &[]).unwrap_err();
    assert_eq!(error.reason, "InvalidValues");
    assert!(said.contains(error.message.trim()), "{said}\n{}", error.message);

    let mut request = of("features");
    let bad = "greeting: '{{ fail \"no greeting\" }}'";
    request.values = vec![bad.as_bytes().to_vec()];
    let error = render(&request).await.error.unwrap();
    let said = native(&chart, &[bad], &[]).unwrap_err();
    assert!(said.contains(error.message.trim()), "{said}\n{}", error.message);
    assert_eq!(error.reason, "TemplateFailed");
    assert!(error.template.starts_with("features/templates/") && error.line.is_some(), "{error:?}");

    // the first line is longer for the engine than it is for the author
    let error = render(&small("a: {{ required \"say b\" .Values.b }}")).await.error.unwrap();
    assert_eq!((error.template.as_str(), error.line, error.column), ("small/templates/a.yaml", Some(1), Some(6)));
    assert_eq!(error.message, "execution error at (small/templates/a.yaml:1:6): say b");
    let error = render(&small("{{ if }}")).await.error.unwrap();
    assert_eq!((error.reason.as_str(), error.line), ("TemplateFailed", Some(1)));
    let error = render(&small("a: [")).await.error.unwrap();
    assert_eq!(error.reason, "BadManifest");

    let mut request = small("");
    request.chart = Chart::Archive(b"no archive".to_vec());
    assert_eq!(render(&request).await.error.unwrap().reason, "BadChart");
    let mut request = small("a: {{ .Values.b.c }}");
    request.strict = true;
    assert_eq!(render(&request).await.error.unwrap().reason, "TemplateFailed");
    let refused = engine("helm", bounds()).await.run(b"\xff\xff\0\0{}").await.unwrap().unwrap_err();
    assert_eq!(refused.reason, "BadRequest");
}

#[tokio::test]
async fn hooks_objects_and_lists_come_apart() {
    let mut request = of("features");
    (request.text, request.objects) = (false, true);
    let reply = render(&request).await;
    let names: Vec<&str> = reply.hooks_at("pre-upgrade").iter().map(|hook| hook.manifest.name.as_str()).collect();
    assert_eq!(names, ["hook-1", "hook-2", "hook-0"]);
    assert_eq!(reply.hooks_at("pre-install")[0].delete_policies, ["before-hook-creation", "hook-succeeded"]);
    assert_eq!(reply.hooks_at("test").len(), 1);
    assert_eq!(reply.crds[0].objects[0]["metadata"]["name"], "things.example.com");
    let deployment = reply.manifests.iter().find(|manifest| manifest.kind == "Deployment").unwrap();
    assert_eq!((deployment.namespace.as_str(), deployment.text.as_str()), ("shop", ""));
    assert_eq!(deployment.objects[0]["spec"]["replicas"], 2);
    assert!(reply.manifests.iter().filter(|m| m.kind.is_empty()).all(|m| m.objects.is_empty()));

    let item = |name| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [item("a"), item("b")] });
    let mut request = small(&list.to_string());
    request.objects = true;
    assert_eq!(render(&request).await.manifests[0].objects, [item("a"), item("b")]);
}

#[tokio::test]
async fn lookups_are_asked_for_until_they_are_answered() {
    let mut request = of("features");
    request.lookups = Some(vec![]);
    let reply = render(&request).await;
    let query = |name: &str| Query {
        api_version: "v1".into(),
        kind: "Secret".into(),
        namespace: "shop".into(),
        name: name.into(),
    };
    assert_eq!((reply.wanted.as_slice(), reply.manifests.len()), (&[query("live")][..], 0));
    let live = json!({ "apiVersion": "v1", "kind": "Secret", "data": { "a": "eA==" } });
    request.lookups = Some(vec![Lookup { query: query("live"), object: Some(live) }]);
    assert!(render(&request).await.template().contains(r#"live: "{\"a\":\"eA==\"}""#));
    request.lookups = Some(vec![Lookup { query: query("live"), object: None }]);
    assert!(render(&request).await.template().contains(r#"live: "null""#));

    // what the first answer decides is asked for in the next round, though the chart insists on it
    let mut request = small(
        r#"{{ $a := lookup "v1" "Secret" "shop" "a" }}{{ with $a.next }}{{ lookup "v1" "Secret" "shop" . | required "b" }}{{ end }}"#,
    );
    request.lookups = Some(vec![]);
    assert_eq!(render(&request).await.wanted, [query("a")]);
    request.lookups = Some(vec![Lookup { query: query("a"), object: Some(json!({ "next": "b" })) }]);
    assert_eq!(render(&request).await.wanted, [query("b")]);
}

/// The values under `stringData` and `data` of all manifests.
fn values_of(reply: &Reply) -> Value {
    assert_eq!(reply.error, None);
    let of = |object: &Value| {
        let data = if object["stringData"].is_null() { &object["data"] } else { &object["stringData"] };
        (object["metadata"]["name"].as_str().unwrap().to_owned(), data.clone())
    };
    reply.manifests.iter().flat_map(|manifest| &manifest.objects).map(of).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test]
async fn random_values_come_from_the_seed_and_nothing_else() {
    let mut request = of("random");
    request.objects = true;
    let first = output(&request, bounds()).await;
    assert_eq!(output(&request, bounds()).await, first, "twice the same bytes");
    let before = values_of(&Reply::decode(&first).unwrap());
    assert_ne!(before["secret"]["password"], before["secret"]["second"]);

    request.values = vec![b"replicas: 7\nextra: true\n".to_vec()];
    let reply = render(&request).await;
    let after = values_of(&reply);
    assert_ne!(after["a"], before["a"]);
    assert_eq!(
        (&after["secret"], &after["user"]),
        (&before["secret"], &before["user"]),
        "another value changes no secret"
    );

    let user = |reply: &Reply| {
        let found = reply.manifests.iter().find(|manifest| manifest.name == "user").unwrap();
        found.objects[0]["metadata"]["annotations"]["checksum"].clone()
    };
    assert_eq!(user(&reply), user(&Reply::decode(&first).unwrap()));

    request.seed = "another".into();
    let other = values_of(&render(&request).await);
    for field in ["password", "second", "number", "uuid", "shuffled", "bcrypt", "ca", "key"] {
        assert_ne!(other["secret"][field], before["secret"][field], "{field}");
    }
    request.seed.clear();
    let error = render(&request).await.error.unwrap();
    assert!(error.message.contains("the request has no seed"), "{error:?}");
}

#[tokio::test]
async fn a_chart_that_does_not_end_is_stopped_and_others_go_on() {
    let tight = Bounds { deadline: Duration::from_secs(5), memory_bytes: 256 << 20, ..bounds() };
    let bombs = [
        "{{ range until 2000000000 }}x{{ end }}",
        "{{ define \"a\" }}{{ include \"a\" . }}{{ end }}{{ include \"a\" . }}",
        "{{ tpl .Values.t . }}",
        "{{ $x := repeat 1000000 \"xxxxxxxxxx\" }}{{ range until 1000 }}{{ $x }}{{ end }}",
    ];
    for bomb in bombs {
        let mut request = small(bomb);
        request.values = vec![br#"t: "{{ tpl .Values.t . }}""#.to_vec()];
        let engine = engine("helm", tight).await;
        match engine.run(&request.encode().unwrap()).await {
            Ok(output) => assert!(Reply::decode(&output.unwrap()).unwrap().error.is_some(), "{bomb}"),
            Err(error) => {
                let expected = ["PluginTrapped", "OutOfMemory", "DeadlineExceeded", "ResponseTooLarge"];
                assert!(expected.contains(&error.reason()), "{bomb}: {error}");
            }
        }
    }
    assert_eq!(render(&small("a: b")).await.error, None);
}

#[tokio::test]
async fn the_sandbox_has_no_network_and_no_files() {
    let request = small(
        r#"a: "{{ getHostByName "localhost" }}{{ .Files.Get "/etc/hostname" }}{{ .Files.Get "../../Cargo.toml" }}"
year: {{ now | date "2006-01-02" }}"#,
    );
    assert_eq!(render(&request).await.template(), "---\n# Source: small/templates/a.yaml\na: \"\"\nyear: 2026-09-21\n");
}

#[test]
fn engine_and_command_line_have_the_same_version() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let version = |file: &str| {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let line = text.lines().find(|line| line.contains("helm.sh/helm/v4 v")).unwrap();
        line.split_whitespace().find(|word| word.starts_with("v4.")).unwrap().to_owned()
    };
    assert_eq!(version("plugins/engines/helm/go.mod"), version("xtask/tools/helm/go.mod"));
}

/// The engine has what a record that says nothing gives it, but for the time: debug builds are slow.
#[tokio::test]
async fn a_chart_of_twelve_megabytes_renders_within_the_memory_of_an_engine() {
    let template = "sizes: {{ range $path, $_ := .Files.Glob \"files/*\" }}{{ len ($.Files.Get $path) }} {{ end }}";
    let mut request = small(template);
    if let Chart::Files(files) = &mut request.chart {
        files.extend((0..12).map(|n| (format!("files/{n}.txt"), vec![b'a' + n; 1 << 20])));
    }
    let bounds = Bounds { memory_bytes: 256 << 20, ..bounds() };
    let reply = Reply::decode(&output(&request, bounds).await).unwrap();
    assert_eq!(reply.error, None);
    let sizes = "1048576 ".repeat(12);
    assert!(reply.template().contains(&format!("sizes: {}", sizes.trim_end())), "{}", reply.template());
}
