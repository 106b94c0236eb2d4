//! The commands of `transom` that need no cluster.

use std::path::Path;

use rstest::rstest;
use serde_json::{Value, json};
use transom_tests::{Component, component, sample, stripped, transom};

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn web() -> Component {
    component("web").await
}

#[tokio::test]
async fn help_names_every_command_and_none_that_is_not_for_people() {
    insta::assert_snapshot!(transom(&["--help"], "").await.printed());
}

#[rstest]
#[case("run")]
#[case("render")]
#[case("describe")]
#[case("explain")]
#[case("record")]
#[case("replay")]
#[case("crds")]
#[case("plugin")]
#[case("dev")]
#[case("completion")]
#[tokio::test]
async fn every_command_explains_itself(#[case] command: &str) {
    let help = transom(&[command, "--help"], "").await.printed();
    assert!(help.contains(&format!("Usage: transom {command}")), "{help}");
    let lines: Vec<&str> = help.lines().map(str::trim).collect();
    let options =
        lines.windows(2).filter(|pair| pair[0].starts_with('-') && !pair[0].starts_with("- ") && pair[1].is_empty());
    let undocumented: Vec<&str> = options.map(|pair| pair[0]).collect();
    assert_eq!(undocumented, Vec::<&str>::new(), "an option without a word about it");
}

#[rstest]
#[case("bash", "complete -F _transom")]
#[case("zsh", "#compdef transom")]
#[case("fish", "complete -c transom")]
#[tokio::test]
async fn completion_is_a_script_of_the_shell(#[case] shell: &str, #[case] says: &str) {
    let script = transom(&["completion", shell], "").await.printed();
    assert!(script.contains(says) && script.contains("rollback") && script.contains("plugin-selector"), "{script}");
    assert!(transom(&["completion", "csh"], "").await.stderr.contains("[possible values: bash, zsh, fish]"));
}

#[tokio::test]
async fn render_shows_children_and_status_as_json() {
    let web = web().await;
    let arguments = ["render", "--plugin", path(&web.path), "--filename", "-", "--output", "json", "--namespace", "n"];
    let printed = transom(&arguments, &sample::web("shop").to_string()).await.printed();
    let rendered: Value = serde_json::from_str(&printed).unwrap();
    insta::assert_yaml_snapshot!(stripped(&rendered));
}

#[tokio::test]
async fn render_shows_children_and_status_as_yaml() {
    let web = web().await;
    let arguments = ["render", "--plugin", path(&web.path), "--filename", "-"];
    let printed = transom(&arguments, &sample::web("shop").to_string()).await.printed();
    let times = |line: &&str| !line.contains("lastTransitionTime");
    insta::assert_snapshot!(printed.lines().filter(times).collect::<Vec<_>>().join("\n"));
}

#[tokio::test]
async fn render_takes_what_else_is_in_the_cluster_from_files() {
    let (plugin, folder) = (component("domain").await, tempfile::tempdir().unwrap());
    let (object, world) = (folder.path().join("domain.yaml"), folder.path().join("world.yaml"));
    std::fs::write(&object, sample::domain("orders").to_string()).unwrap();
    let arguments =
        ["render", "--plugin", path(&plugin.path), "-f", path(&object), "-o", "json", "--with", path(&world)];
    let kinds = async |documents: &[Value]| -> (Vec<String>, Value) {
        let text: Vec<String> = documents.iter().map(Value::to_string).collect();
        std::fs::write(&world, text.join("\n---\n")).unwrap();
        let rendered: Value = serde_json::from_str(&transom(&arguments, "").await.printed()).unwrap();
        let ready = &rendered["status"]["conditions"][0];
        let child = |child: &Value| {
            format!("{} {}", child["disposition"].as_str().unwrap(), child["object"]["kind"].as_str().unwrap())
        };
        (rendered["children"].as_array().unwrap().iter().map(child).collect(), ready["reason"].clone())
    };
    let none = json!({ "apiVersion": "v1", "kind": "List", "items": [] });
    let database = json!({
        "apiVersion": "v1", "kind": "List", "items": [sample::database("orders"), sample::credentials("orders")],
    });
    assert_eq!(kinds(&[none]).await, (vec![], json!("ClusterNotFound")));
    let children =
        ["createOnce Job", "hold Deployment", "apply Service", "apply NetworkPolicy", "apply PodDisruptionBudget"];
    assert_eq!(kinds(&[database]).await, (children.map(String::from).to_vec(), json!("MigrationRunning")));
}

#[rstest]
#[case::no_plugin("nonsense", sample::web("shop").to_string(), "nonsense.wasm is no plugin")]
#[case::no_file("missing", sample::web("shop").to_string(), "cannot read")]
#[case::not_yaml("web", "a: [".into(), "-: ")]
#[case::no_object("web", "- 1".into(), "-: not a Kubernetes object")]
#[case::no_kind("web", "a: 1".into(), "an object needs apiVersion and kind")]
#[case::no_name("web", json!({ "apiVersion": "bench.dev/v1", "kind": "Web", "metadata": {} }).to_string(), "metadata.name is missing")]
#[case::two_objects("web", format!("{}\n---\n{}", sample::web("a"), sample::web("b")), "must hold exactly one object")]
#[case::another_kind("web", sample::domain("a").to_string(), "the plugin serves bench.dev/v1 Web, not ameide.io/v1 Domain")]
#[case::an_unknown_field("web", web_with("relicas", json!(2)), "spec.relicas is not in the schema and would be dropped")]
#[case::a_wrong_type("web", web_with("replicas", json!("two")), "spec.replicas is \"two\", the schema wants type integer")]
#[case::a_trap("hostile", sample::hostile("a", "trap").to_string(), "PluginTrapped")]
#[case::a_refused_plan("hostile", sample::hostile("a", "undeclaredKind").to_string(), "plan refused: UndeclaredKind")]
#[case::endless_questions("hostile", sample::hostile("a", "askForever").to_string(), "asked for more after 8 calls")]
#[case::an_invalid_object("domain", invalid_domain(), "invalid object: spec.env[0].name")]
#[tokio::test]
async fn render_says_what_is_wrong_and_fails(#[case] plugin: &str, #[case] object: String, #[case] message: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = match plugin {
        "missing" => folder.path().join("missing.wasm"),
        "nonsense" => {
            let file = folder.path().join("nonsense.wasm");
            std::fs::write(&file, "nonsense").unwrap();
            file
        }
        name => component(name).await.path,
    };
    let output = transom(&["render", "--plugin", path(&file), "--filename", "-"], &object).await;
    assert_eq!((output.code, &*output.stdout), (Some(1), ""), "{}", output.stderr);
    assert!(output.stderr.starts_with("Error: ") && output.stderr.contains(message), "{}", output.stderr);
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
}

fn web_with(field: &str, value: Value) -> String {
    let mut object = sample::web("shop");
    object["spec"][field] = value;
    object.to_string()
}

fn invalid_domain() -> String {
    let mut object = sample::domain("orders");
    object["spec"]["env"] = json!([{ "name": "PGHOST", "value": "elsewhere" }]);
    object.to_string()
}

#[tokio::test]
async fn crds_writes_the_definitions_of_host_and_components() {
    let (web, folder) = (web().await, tempfile::tempdir().unwrap());
    transom(&["crds", path(&web.path), "--output-dir", path(folder.path())], "").await.succeeded();
    let mut files: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let host = ["transom.dev_overlays.yaml", "transom.dev_plugins.yaml", "transom.dev_storedcomponents.yaml"];
    assert_eq!(files, [&["bench.dev_webs.yaml"][..], &host].concat());
    let printed = transom(&["crds", path(&web.path)], "").await.printed();
    let names: Vec<&str> = printed.lines().filter(|line| line.starts_with("  name: ")).collect();
    assert_eq!(
        names,
        [
            "  name: plugins.transom.dev",
            "  name: overlays.transom.dev",
            "  name: storedcomponents.transom.dev",
            "  name: webs.bench.dev"
        ]
    );
}

#[rstest]
#[case::no_command(&[], 2, "Usage: transom")]
#[case::unknown_command(&["rum"], 2, "a similar subcommand exists: 'run'")]
#[case::unknown_option(&["run", "--liste", "x"], 2, "a similar argument exists: '--listen'")]
#[case::no_address(&["run", "--listen", "nowhere"], 2, "invalid value 'nowhere' for '--listen <ADDRESS>'")]
#[case::no_cluster(&["run"], 1, "no cluster: set KUBECONFIG, or run inside one")]
#[tokio::test]
async fn a_wrong_command_line_is_answered_with_what_would_be_right(
    #[case] arguments: &[&str],
    #[case] code: i32,
    #[case] message: &str,
) {
    let output = transom(arguments, "").await;
    assert_eq!((output.code, &*output.stdout), (Some(code), ""), "{}", output.stderr);
    assert!(output.stderr.contains(message), "{}", output.stderr);
}

#[tokio::test]
async fn the_reference_is_what_the_program_says() {
    let folder = tempfile::tempdir().unwrap();
    transom(&["reference", path(folder.path())], "").await.succeeded();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference");
    for page in ["cli.md", "plugin.md", "overlay.md"] {
        let read = |folder: &Path| std::fs::read_to_string(folder.join(page)).unwrap();
        let advice = format!("docs/reference/{page} is old: `cargo run -p transom -- reference docs/reference`");
        assert!(read(folder.path()) == read(&docs), "{advice}");
    }
}

#[tokio::test]
async fn a_new_project_is_refused_where_kubernetes_would_refuse_it() {
    let folder = tempfile::tempdir().unwrap();
    let dir = path(folder.path());
    for (arguments, said) in [
        (["Web", "--group", "shop.example"], "must be small letters"),
        (["web", "--group", "shop"], "must be a domain name"),
        (["web", "--group", "apps.k8s.io"], "take a domain that is yours"),
        (["web", "--kind", "web"], "begin with a capital"),
        (["web", "--sdk", "next"], "neither a folder nor a version"),
    ] {
        let output = transom(&[&["plugin", "new"], &arguments[..], &["--dir", dir]].concat(), "").await;
        assert_eq!((output.code, &*output.stdout), (Some(1), ""), "{arguments:?}");
        assert!(output.stderr.contains(said), "{}", output.stderr);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was written");
    let made = transom(&["plugin", "new", "web-shop", "--dir", dir], "").await.printed();
    assert_eq!(made.lines().count(), 5, "{made}");
    assert!(folder.path().join("src/lib.rs").is_file());
    let again = transom(&["plugin", "new", "web-shop", "--dir", dir], "").await;
    assert!(again.stderr.contains("is there already"), "{}", again.stderr);
}
