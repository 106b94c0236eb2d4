//! Overlays without a cluster: the same as in one.

use serde_json::{Value, json};
use transom_tests::{component, sample, transom};

#[tokio::test]
async fn render_previews_overlays_within_the_rules_of_the_record() {
    let (web, folder) = (component("web").await, tempfile::tempdir().unwrap());
    let file = |name: &str, content: &Value| {
        let path = folder.path().join(name);
        std::fs::write(&path, content.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let overlay = |name: &str, replicas: u32| {
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment"});
        file(
            name,
            &json!({
                "apiVersion": "transom.dev/v1alpha1", "kind": "Overlay", "metadata": {"name": name, "namespace": "n"},
                "spec": {
                    "target": {"apiVersion": "bench.dev/v1", "kind": "Web"},
                    "patches": [{"target": target, "patch": {"spec": {"replicas": replicas}}}],
                },
            }),
        )
    };
    let (few, many) = (overlay("few", 7), overlay("many", 70));
    let rules = file("rules.yaml", &json!({"limits": [{"path": "spec.replicas", "max": 20}]}));
    let plugin = web.path.to_str().unwrap();
    let render = async |overlays: &[&str], output: &str| {
        let mut arguments =
            vec!["render", "--plugin", plugin, "-f", "-", "-o", output, "-n", "n", "--overlay-rules", &rules];
        arguments.extend(overlays.iter().flat_map(|path| ["--overlay", path]));
        transom(&arguments, &sample::web("shop").to_string()).await
    };
    let deployment = |printed: &str| -> Value {
        let rendered: Value = serde_json::from_str(printed).unwrap();
        let children = rendered["children"].as_array().unwrap();
        let is_it = |child: &&Value| child["object"]["kind"] == "Deployment";
        children.iter().find(is_it).unwrap()["object"]["spec"]["replicas"].clone()
    };

    let accepted = render(&[&few], "json").await.printed();
    assert_eq!(deployment(&accepted), 7);
    let rendered: Value = serde_json::from_str(&accepted).unwrap();
    assert_eq!(rendered["overlays"][0]["children"][0]["name"], "shop");
    let conditions = rendered["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "OverlayApplied" && c["status"] == "True"), "{conditions:?}");
    assert!(render(&[&few], "yaml").await.printed().contains("# overlays: few"));

    let refused = render(&[&few, &many], "json").await;
    assert_ne!(refused.code, Some(0));
    assert_eq!(deployment(&refused.stdout), 7, "the others are laid");
    assert!(
        refused.stderr.contains("spec.replicas (limit spec.replicas): is 70; must be at most 20"),
        "{}",
        refused.stderr
    );
}
