//! Recordings: the same plan from the host's code, from `render` and from `replay`, and no value of a Secret in them.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rstest::rstest;
use serde_json::{Value, json};
use transom::api::plugin::Bounds;
use transom::overlay::Overlaid;
use transom::plan::check::{Checker, Scope};
use transom::plan::contract::{Answer, Answered, Failure, Lookup, ObjectRef, Request, Step, TypeMeta, Value as Found};
use transom::plan::object::Object;
use transom::plan::request::{Children, Snapshot};
use transom::plan::rounds::{self, Conversation, Session};
use transom::plugin::CallError;
use transom::record::{self, Bundle, CarriedOut, Outcome, Recording};
use transom::registry::Loaded;
use transom_tests::{Component, component, native, sample, transom, unique};

/// A plugin and the objects that there are.
struct World<'a> {
    loaded: &'a Loaded,
    objects: Vec<Value>,
}

impl Session for World<'_> {
    type Error = CallError;

    async fn call(&self, request: &Request) -> Result<Result<Step, Failure>, CallError> {
        Ok(self.loaded.plugin.reconcile(request).await?.0)
    }

    async fn answer(&self, lookups: Vec<Lookup>) -> Vec<Answered> {
        let answer = |lookup: &Lookup| match lookup {
            Lookup::Object(reference) => {
                let is_meant = |o: &&Value| o["kind"] == reference.kind.kind && o["metadata"]["name"] == reference.name;
                self.objects
                    .iter()
                    .find(is_meant)
                    .map_or(Answer::Absent, |o| Answer::Found(Found::Object(o.to_string())))
            }
            _ => Answer::Absent,
        };
        lookups.into_iter().map(|lookup| Answered { answer: answer(&lookup), lookup }).collect()
    }
}

fn snapshot(mut object: Value, children: Children) -> Snapshot {
    let kind = TypeMeta::new(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    object["metadata"]["namespace"] = json!("default");
    object["metadata"]["uid"] = json!(format!("offline-{name}"));
    object["metadata"]["generation"] = json!(1);
    let primary = Arc::new(Object::parse(&object.to_string()).unwrap());
    Snapshot { kind, primary, children, config: "{}".into() }
}

/// What the host would have recorded.
async fn recording(component: &Component, loaded: &Loaded, snapshot: &Snapshot, objects: Vec<Value>) -> Recording {
    let request = snapshot.request(&loaded.manifest, Vec::new());
    let world = World { loaded, objects };
    let Conversation { request, rounds, end } = rounds::conversation(&world, request, Bounds::default()).await;
    let outcome = match end {
        Ok((plan, _)) => Outcome::Planned(Box::new(plan)),
        Err(stop) => Outcome::of_failure(&stop),
    };
    Recording {
        overlays: None,
        plugin: loaded.plugin.clone(),
        component: record::Component {
            name: component.name.clone(),
            version: loaded.manifest.version.clone(),
            digest: component.digest.clone(),
        },
        primary: snapshot.reference(),
        generation: 1,
        at: "2026-01-01T00:00:00Z".parse().unwrap(),
        duration: std::time::Duration::from_millis(3),
        request,
        rounds,
        outcome,
        carried_out: CarriedOut::default(),
    }
}

fn write(folder: &Path, bundle: &Bundle) -> String {
    let path = folder.join("bundle.json");
    std::fs::write(&path, serde_json::to_string_pretty(bundle).unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[rstest]
#[case::web("web", sample::web("shop"), vec![])]
#[case::domain("domain", sample::domain("orders"), vec![sample::database("orders"), sample::credentials("orders")])]
#[case::domain_without_database("domain", sample::domain("orders"), vec![])]
#[case::behaving("hostile", sample::hostile("one", "configMap"), vec![])]
#[case::trapping("hostile", sample::hostile("one", "panic"), vec![])]
#[case::refused("hostile", sample::hostile("one", "duplicateChild"), vec![])]
#[case::asking_for_ever("hostile", sample::hostile("one", "askForever"), vec![])]
#[case::failing("hostile", sample::hostile("one", "no such behaviour"), vec![])]
#[tokio::test]
async fn a_recording_is_replayed_to_the_byte_with_the_same_fuel(
    #[case] plugin: &str,
    #[case] object: Value,
    #[case] objects: Vec<Value>,
) {
    let (component, folder) = (component(plugin).await, tempfile::tempdir().unwrap());
    let loaded = native::load(&component).await;
    let recording = recording(&component, &loaded, &snapshot(object, Children::new()), objects).await;
    let bundle = Bundle::of(&recording).await.unwrap();
    assert_eq!(bundle.redaction.differs, Vec::<String>::new());
    if bundle.redaction.values == 0 {
        assert_eq!(bundle.outcome, recording.outcome, "nothing was to be taken out");
    }
    let file = write(folder.path(), &bundle);
    let arguments = ["replay", &file, "--plugin", component.path.to_str().unwrap(), "--output", "json"];
    let first: Value = serde_json::from_str(&transom(&arguments, "").await.printed()).unwrap();
    let second: Value = serde_json::from_str(&transom(&arguments, "").await.printed()).unwrap();
    assert_eq!(first["same"], true);
    assert_eq!(first, second, "fuel is part of it");
    if !matches!(bundle.outcome, Outcome::NoAnswer(_)) {
        assert_eq!(first["fuel"].as_array().unwrap().len(), bundle.rounds.len());
    }
}

#[tokio::test]
async fn the_host_and_render_make_the_same_children() {
    for (plugin, object) in [("web", sample::web("shop")), ("hostile", sample::hostile("one", "configMap"))] {
        let component = component(plugin).await;
        let loaded = native::load(&component).await;
        let snapshot = snapshot(object.clone(), Children::new());
        let recording = recording(&component, &loaded, &snapshot, vec![]).await;
        let Outcome::Planned(plan) = &recording.outcome else { panic!("a plan") };
        let (bounds, scope) = (Bounds::default(), |_: &TypeMeta| Some(Scope::Namespaced));
        let manifest = &loaded.manifest;
        let checker = Checker { plugin: &manifest.name, manifest, bounds: &bounds, set_once: &[], scope: &scope };
        let checked = checker.check(&snapshot, plan).unwrap();
        let bodies: Vec<&Value> = checked.children.iter().map(|child| &child.body).collect();
        let path = component.path.to_str().unwrap();
        let arguments = ["render", "--plugin", path, "--filename", "-", "--output", "json"];
        let printed = transom(&arguments, &object.to_string()).await.printed();
        let rendered: Value = serde_json::from_str(&printed).unwrap();
        let objects: Vec<&Value> = rendered["children"].as_array().unwrap().iter().map(|c| &c["object"]).collect();
        assert_eq!(objects, bodies);
    }
}

#[tokio::test]
async fn no_value_of_a_secret_is_in_a_recording_and_equal_values_stay_equal() {
    let component = component("domain").await;
    let loaded = native::load(&component).await;
    let mut secret = sample::credentials("orders");
    let encoded = |text: &str| json!(STANDARD.encode(text));
    secret["stringData"]["password"] = json!("correct-horse-battery");
    secret["data"] = json!({"again": encoded("correct-horse-battery"), "pin": encoded("4711"), "other": encoded("x")});
    secret["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": "hidden in words"});
    // a live child with the password in clear, and a digest against which it could be tried out
    let child = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "orders", "namespace": "default", "uid": "u",
            "annotations": {"transom.dev/applied": "0123456789abcdef0123456789abcdef"}},
        "spec": {"template": {"spec": {"containers": [{"name": "a", "args": ["--password=correct-horse-battery"]}]}}},
    });
    let reference =
        ObjectRef { kind: TypeMeta::new("apps/v1", "Deployment"), namespace: "default".into(), name: "orders".into() };
    let children = Children::from([(reference, Arc::new(Object::parse(&child.to_string()).unwrap()))]);
    let mut object = sample::domain("orders");
    object["spec"]["env"] = json!([{"name": "COPY", "value": "correct-horse-battery"}]);
    let objects = vec![sample::database("orders"), secret];
    let recording = recording(&component, &loaded, &snapshot(object, children), objects).await;
    let bundle = Bundle::of(&recording).await.unwrap();
    let text = serde_json::to_string(&bundle).unwrap();
    let clear = "correct-horse-battery";
    for hidden in [clear, &STANDARD.encode(clear), "hidden in words", "0123456789abcdef0123456789abcdef"] {
        assert!(!text.contains(hidden), "{hidden} is in {text}");
    }
    let secret = bundle.request.answers.iter().find_map(|answered| match &answered.answer {
        Answer::Found(Found::Object(text)) if text.contains("\"Secret\"") => {
            Some(serde_json::from_str::<Value>(text).unwrap())
        }
        _ => None,
    });
    let secret = secret.unwrap();
    let again = STANDARD.decode(secret["data"]["again"].as_str().unwrap()).unwrap();
    assert_eq!(secret["stringData"]["password"].as_str().unwrap().as_bytes(), again);
    assert_ne!(secret["data"]["again"], secret["data"]["other"]);
    let pin = STANDARD.decode(secret["data"]["pin"].as_str().unwrap()).unwrap();
    assert!(pin != b"4711" && pin.len() == 4 && pin.iter().all(u8::is_ascii_digit), "{pin:?}");
    let primary: Value = serde_json::from_str(&bundle.request.object).unwrap();
    assert_eq!(primary["spec"]["env"][0]["value"], secret["stringData"]["password"]);
    // the key is thrown away: another bundle of the same has other placeholders
    assert_ne!(Bundle::of(&recording).await.unwrap().request, bundle.request);
}

#[tokio::test]
async fn what_differs_is_named_and_another_component_is_said() {
    let (component, folder) = (component("web").await, tempfile::tempdir().unwrap());
    let loaded = native::load(&component).await;
    let recording = recording(&component, &loaded, &snapshot(sample::web("shop"), Children::new()), vec![]).await;
    let mut bundle = Bundle::of(&recording).await.unwrap();
    bundle.request.object = bundle.request.object.replace("\"replicas\":2", "\"replicas\":3");
    let file = write(folder.path(), &bundle);
    let other = unique(&component, "other", folder.path());
    let output = transom(&["replay", &file, "--plugin", other.path.to_str().unwrap()], "").await;
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stdout.contains("spec.replicas\n  - 2\n  + 3"), "{}", output.stdout);
    let said = format!("another component: recorded {}, replayed {}", component.digest, other.digest);
    assert!(output.stdout.starts_with(&said), "{}", output.stdout);
}

#[tokio::test]
async fn recorded_overlays_are_laid_again_and_what_became_of_them_is_compared() {
    let (component, folder) = (component("web").await, tempfile::tempdir().unwrap());
    let loaded = native::load(&component).await;
    let mut recording = recording(&component, &loaded, &snapshot(sample::web("shop"), Children::new()), vec![]).await;
    let overlay = json!({
        "name": "more", "namespace": "default", "uid": "u", "generation": 1,
        "spec": {
            "target": { "apiVersion": "bench.dev/v1", "kind": "Web" },
            "patches": [{
                "target": { "apiVersion": "apps/v1", "kind": "Deployment" }, "patch": { "spec": { "replicas": 5 } },
            }],
        },
    });
    let mut overlays: Overlaid =
        serde_json::from_value(json!({ "rules": {}, "overlays": [overlay], "outcomes": [] })).unwrap();
    let Outcome::Planned(plan) = &recording.outcome else { panic!("a plan") };
    overlays.outcomes = overlays.on_plan(plan, "default").unwrap().outcomes;
    assert_eq!(overlays.outcomes[0].children.len(), 1, "{:?}", overlays.outcomes);
    recording.overlays = Some(overlays);
    let mut bundle = Bundle::of(&recording).await.unwrap();
    let replayed = async |bundle: &Bundle| {
        let file = write(folder.path(), bundle);
        transom(&["replay", &file, "--plugin", component.path.to_str().unwrap()], "").await
    };
    let same = replayed(&bundle).await.printed();
    assert!(same.starts_with("overlay more: applied\nsame plan"), "{same}");

    // rules of another record, or of another version of the host
    let rules = json!({ "deny": [{ "path": "spec.replicas" }] });
    bundle.overlays.as_mut().unwrap().rules = serde_json::from_value(rules).unwrap();
    let output = replayed(&bundle).await;
    assert_eq!(output.code, Some(1), "{}", output.stdout);
    assert!(output.stdout.starts_with("overlay more: Refused\noverlay more"), "{}", output.stdout);
    assert!(output.stderr.contains("1 differences from the recording"), "{}", output.stderr);
}

#[rstest]
#[case::not_json("{", "not a recording")]
#[case::another_version("{\"version\": 7}", "a recording of format version 7")]
#[case::no_bundle("{\"version\": 1}", "missing field")]
#[tokio::test]
async fn a_file_that_is_no_recording_is_refused(#[case] text: &str, #[case] message: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bundle.json");
    std::fs::write(&file, text).unwrap();
    let output = transom(&["replay", file.to_str().unwrap()], "").await;
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains(message), "{}", output.stderr);
}
