use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Secret};
use serde_json::{Value, json};
use transom_sdk::testing::{self, Case, Disposition, Plan};
use transom_sdk::{File, ObjectMeta};

use super::*;
use crate::chart::Fetched;

/// Not what any test is about.
const NOW: i64 = 1_767_225_600;

fn template(timeout: u32) -> ProductTemplateVersion {
    let chart = json!({ "folder": { "reference": "shop" } });
    let spec = json!({ "chart": chart, "defaultValues": { "a": 1 }, "timeoutSeconds": timeout });
    let mut template = ProductTemplateVersion::new("v1", serde_json::from_value(spec).unwrap());
    template.metadata.namespace = Some("default".into());
    template
}

fn instance(values: Value) -> CaelusInstance {
    let spec = json!({ "userId": "ann", "productTemplateVersion": "v1", "namespace": "shop-ann",
        "domainName": "shop.example.com", "values": values });
    CaelusInstance::new("shop", serde_json::from_value(spec).unwrap())
}

fn files() -> Vec<File> {
    vec![File { path: "Chart.yaml".into(), content: b"name: shop\nversion: 1.0.0 # first\n".to_vec() }]
}

fn manifest(object: Value) -> Value {
    json!({ "source": "shop/templates/a.yaml", "apiVersion": object["apiVersion"], "kind": object["kind"],
        "name": object["metadata"]["name"].as_str().unwrap_or_default(), "objects": [object] })
}

fn hook(name: &str, weight: i64, events: &[&str], policies: &[&str]) -> Value {
    let pod = json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i" }] });
    let job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "template": { "spec": pod } } });
    let mut hook = manifest(job);
    hook["events"] = json!(events);
    hook["weight"] = json!(weight);
    hook["deletePolicies"] = json!(policies);
    hook
}

/// What the chart makes, the values of the instance among it.
fn reply(values: &Value, hooks: &[Value]) -> Value {
    let metadata = |name: &str| json!({ "name": name });
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("settings"),
        "data": { "values": values.to_string() } });
    let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata("data"),
        "status": {}, "spec": { "accessModes": null } });
    let deployment = json!({ "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "shop", "creationTimestamp": null }, "spec": { "replicas": 1 } });
    json!({ "manifests": [manifest(claim), manifest(map), manifest(deployment)], "hooks": hooks })
}

/// A case in which the engine knows what it makes of these values in this revision, an upgrade from the second on.
fn rendering(case: Case<InstancePlugin>, values: &Value, revision: u32, reply: &Value) -> Case<InstancePlugin> {
    rendering_as(case, values, (revision, revision > 1), reply)
}

/// The same, with whether it is an upgrade.
fn rendering_as(
    case: Case<InstancePlugin>,
    values: &Value,
    (revision, is_upgrade): (u32, bool),
    reply: &Value,
) -> Case<InstancePlugin> {
    let chart =
        ChartSource { folder: Some(Location { endpoint: None, reference: "shop".into() }), ..Default::default() };
    let layers = [json!({ "a": 1 }), json!({ "global": { "domain": "shop.example.com" } }), values.clone()];
    let inputs = Inputs {
        template_version: "v1".into(),
        chart,
        digest: String::new(), // the engine is not told
        values: layers.into(),
        secret: None,
        name: "shop".into(),
        namespace: "shop-ann".into(),
        timeout_seconds: 60,
        seen: state::Seen { revision, is_upgrade, now: NOW, ..state::Seen::default() },
    };
    let seed: String = "helm".bytes().chain(0..).take(32).map(|byte| format!("{byte:02x}")).collect();
    let files = files().into_iter().map(|File { path, content }| (path, content)).collect();
    let fetched = Fetched { chart: transom_engines::helm::Chart::Files(files), digest: String::new() };
    let input = render::request(&inputs, &fetched, &seed).encode().unwrap();
    case.engine("helm", &input, serde_json::to_vec(reply).unwrap())
}

/// Everything around an instance is there.
fn world(hooks: &[Value]) -> Case<InstancePlugin> {
    let values = json!({});
    let case = Case::new(&instance(values.clone())).object(&template(60)).artifact(chart::FOLDER, "shop", &[], files());
    rendering(case, &values, 1, &reply(&values, hooks))
}

fn state(plan: &Plan) -> Value {
    let secret: Secret = plan.child(state::NAME).expect("the record is in the plan");
    let ByteString(bytes) = secret.data.unwrap().remove("release").unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn gist(plan: &Plan) -> (Value, Value, Value) {
    let status = plan.status.clone().unwrap();
    (status["phase"].clone(), status["release"]["revision"].clone(), status["message"].clone())
}

/// As if the host had reconciled until nothing is left to be written.
fn settled(mut case: Case<InstancePlugin>) -> Case<InstancePlugin> {
    for _ in 0..8 {
        let plan = case.plan();
        case = case.observe(&plan);
    }
    case
}

/// The first release is deployed.
fn deployed(hooks: &[Value]) -> Case<InstancePlugin> {
    let mut case = settled(world(hooks));
    if hooks.iter().any(|hook| hook["events"].to_string().contains("pre-install")) {
        case = settled(case.ready::<Job>("before"));
    }
    settled(case.ready::<Deployment>("shop"))
}

#[test]
fn i1_the_manifest_describes_both_kinds() {
    let manifest = testing::manifest::<InstancePlugin>();
    let fields = |crd: &str, part: &str| {
        let crd: Value = serde_json::from_str(crd).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part]["properties"];
        schema.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    insta::assert_yaml_snapshot!(json!({
        "kinds": manifest.crds.iter().map(|crd| json!([fields(crd, "spec"), fields(crd, "status")])).collect::<Vec<_>>(),
        "children": manifest.children.iter().map(|child| &child.kind.kind).collect::<Vec<_>>(),
        "reads": manifest.reads.iter().map(|read| &read.kind.kind).collect::<Vec<_>>(),
        "endpoints": manifest.endpoints.iter().map(|endpoint| &endpoint.name).collect::<Vec<_>>(),
        "engines": manifest.engines,
    }));
}

#[test]
fn i3_a_release_is_on_record_before_anything_of_it_is_made() {
    let first = world(&[]).plan();
    assert_eq!((first.names::<Namespace>(), first.children.len()), (vec!["shop-ann".to_owned()], 1));
    let case = world(&[]).observe(&first);
    let second = case.plan();
    assert_eq!(second.names::<Deployment>(), [""; 0]);
    assert_eq!(state(&second)["stage"], "apply");
    let third = case.observe(&second).plan();
    assert_eq!(third.disposition::<Deployment>("shop"), Some(Disposition::Apply));
    assert_eq!(gist(&third).0, "Pending");
}

#[test]
fn i1_i3_i7_a_deployed_instance() {
    insta::assert_yaml_snapshot!(deployed(&[]).plan());
}

#[test]
fn i3_a_plan_in_the_steady_state_is_the_one_before() {
    let case = deployed(&[]);
    let plan = case.plan();
    assert_eq!(case.observe(&plan).now(u64::try_from(NOW).unwrap() + 86_400).plan(), plan);
}

#[test]
fn i3_hooks_run_in_their_order_and_hold_the_release_up() {
    let hooks = [
        hook("later", 5, &["pre-install"], &["hook-succeeded"]),
        hook("before", -5, &["pre-install", "pre-upgrade"], &[]),
        hook("test", 0, &["test"], &[]),
    ];
    let case = settled(world(&hooks));
    let plan = case.plan();
    assert_eq!(plan.names::<Job>(), ["before"]);
    assert_eq!(plan.names::<Deployment>(), [""; 0]);
    assert_eq!(gist(&plan).2, "the hook Job before (pre-install) runs");
    let case = settled(case.ready::<Job>("before"));
    let plan = case.plan();
    assert_eq!(plan.disposition::<Job>("later"), Some(Disposition::Apply));
    assert_eq!(plan.disposition::<Job>("before"), Some(Disposition::Hold), "it stays");
    let plan = settled(case.ready::<Job>("later")).plan();
    assert_eq!(plan.disposition::<Deployment>("shop"), Some(Disposition::Apply));
    assert_eq!(plan.names::<Job>(), ["before"], "one that has succeeded goes, as its policy says");
}

#[test]
fn i3_a_hook_of_an_earlier_run_goes_before_it_runs_again() {
    let hooks = [hook("before", 0, &["pre-install", "pre-upgrade"], &[])];
    let case = deployed(&hooks);
    let values = json!({ "b": 2 });
    let case = rendering(case.change(&instance(values.clone())), &values, 2, &reply(&values, &hooks));
    let case = case.reconciled(); // on record
    let plan = case.plan();
    assert_eq!(plan.disposition::<Job>("before"), None, "it is pruned");
    assert_eq!(plan.disposition::<Deployment>("shop"), Some(Disposition::Hold), "the release before runs on");
    assert_eq!(gist(&plan), (json!("Upgrading"), json!(2), json!("the Job before of an earlier run is to go")));
    let plan = case.observe(&plan).plan();
    assert_eq!(plan.disposition::<Job>("before"), Some(Disposition::Apply));
}

#[test]
fn i3_what_a_revision_was_made_with_comes_back_when_the_next_one_is_late() {
    let case = deployed(&[]);
    let values = json!({ "b": 2 });
    let case = rendering(case.change(&instance(values.clone())), &values, 2, &reply(&values, &[]));
    let case = settled(case.status::<Deployment>("shop", json!({ "observedGeneration": 1, "replicas": 1 })));
    let data = |plan: &Plan| plan.child::<ConfigMap>("settings").unwrap().data.unwrap().remove("values").unwrap();
    assert_eq!(data(&case.plan()), r#"{"b":2}"#);
    let later = |seconds: u64| u64::try_from(NOW).unwrap() + seconds;
    // nobody looked in time: it gets its time once more
    let case = settled(case.now(later(200)));
    assert_eq!(data(&case.plan()), r#"{"b":2}"#);
    let case = settled(case.now(later(261)));
    let plan = case.plan();
    assert_eq!(data(&plan), "{}");
    assert_eq!((&state(&plan)["operation"], &state(&plan)["revision"]), (&json!("rollback"), &json!(3)));
    let case = settled(case.ready::<Deployment>("shop"));
    let plan = case.plan();
    let (phase, revision, message) = gist(&plan);
    assert_eq!((phase, revision), (json!("Failed"), json!(3)));
    let message = message.as_str().unwrap();
    assert!(
        message.starts_with("revision 2 has failed and revision 3 is the release before it again: not done within")
    );
    assert_eq!(plan.condition("Released"), Some(("False", "UpgradeFailed")));
    assert_eq!(plan.condition("WorkloadsReady").unwrap().0, "True");
    // asked for no more, it is forgotten; asked for again, it is tried again
    let case = settled(case.change(&instance(json!({}))));
    assert_eq!(gist(&case.plan()).0, "Running");
    let case = rendering(case.change(&instance(values.clone())), &values, 4, &reply(&values, &[]));
    assert_eq!(gist(&settled(case).plan()).1, 4);
}

#[test]
fn i3_claims_and_what_is_kept_outlive_the_instance_with_their_namespace() {
    let plan = deployed(&[]).plan();
    let claim = plan.children.iter().find(|child| child.object["kind"] == "PersistentVolumeClaim").unwrap();
    assert_eq!(claim.options, ["keep", "adopt"]);
    let is_namespace = |child: &&testing::PlannedChild| child.object["kind"] == "Namespace";
    let namespace = plan.children.iter().find(is_namespace).unwrap();
    assert_eq!(namespace.options, ["keep"], "even a host without the plugin leaves it behind");
    let claim: PersistentVolumeClaim = plan.child("data").unwrap();
    let case = deployed(&[]).object(&claim).deleting();
    let plan = case.plan();
    let namespace = plan.children.iter().find(is_namespace).unwrap();
    assert_eq!((&*namespace.options, plan.finalized), (["keep"].as_slice(), false));
}

#[test]
fn i7_a_namespace_of_somebody_else_is_refused() {
    let theirs = Namespace {
        metadata: ObjectMeta { name: Some("shop-ann".into()), ..Default::default() },
        ..Default::default()
    };
    let mut theirs = serde_json::to_value(theirs).unwrap();
    theirs["metadata"]["namespace"] = json!("");
    let plan = world(&[]).foreign_object(theirs).plan();
    assert_eq!(plan.condition("Ready"), Some(("False", "ForeignNamespace")));
    assert!(plan.children.is_empty());
}

#[test]
fn i3_what_a_chart_may_not_make_is_refused() {
    let cases = [
        (json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "x" } }), "ChartFailed"),
        (json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "generateName": "x-" } }), "ChartFailed"),
        (
            json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "x", "labels": { "a": 1 } } }),
            "ChartFailed",
        ),
        (
            json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "x", "namespace": "y" } }),
            "ForeignNamespace",
        ),
        (json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "caelus-release" } }), "ChartFailed"),
        (json!({ "apiVersion": "transom.dev/v1alpha1", "kind": "Plugin", "metadata": { "name": "x" } }), "ChartFailed"),
    ];
    for (object, reason) in cases {
        let reply = json!({ "manifests": [manifest(object.clone())] });
        let plan = rendering(world(&[]), &json!({}), 1, &reply).plan();
        assert_eq!(plan.condition("Ready"), Some(("False", reason)), "{object}");
        assert_eq!(gist(&plan).0, "Failed");
    }
}

/// A hook's pod that has failed, and what it said in the end.
fn failed_pod(hook: &str, said: &str) -> Value {
    let terminated = json!({ "exitCode": 1, "message": said, "finishedAt": "2026-01-01T00:00:00Z" });
    let container = json!({ "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": terminated } });
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "p", "namespace": "shop-ann", "labels": { "batch.kubernetes.io/job-name": hook } },
        "status": { "phase": "Failed", "containerStatuses": [container] } })
}

fn failed_job() -> Value {
    json!({ "conditions": [{ "type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "m" }] })
}

#[test]
fn i3_a_first_release_whose_hook_fails_stays_as_it_is_until_something_else_is_asked_for() {
    let hooks = [hook("before", 0, &["pre-install"], &["hook-failed"])];
    let case = settled(world(&hooks)).foreign_object(failed_pod("before", "no such table\nthe end"));
    let case = settled(case.status::<Job>("before", failed_job()));
    let plan = case.plan();
    let (phase, revision, message) = gist(&plan);
    assert_eq!((phase, revision), (json!("Failed"), json!(1)));
    let expected = "the hook Job before (pre-install) has failed: BackoffLimitExceeded: m; its log ends with: \
        no such table / the end";
    assert_eq!(message, expected);
    assert_eq!((plan.names::<Job>(), plan.names::<Deployment>()), (vec![], vec![]), "it goes, as its policy says");
    let values = json!({ "b": 2 });
    let case = rendering_as(case.change(&instance(values.clone())), &values, (2, false), &reply(&values, &[]));
    let plan = settled(case).plan();
    assert_eq!(plan.disposition::<Deployment>("shop"), Some(Disposition::Apply));
    assert_eq!(gist(&plan).0, "Pending", "it is a first release still");
}

#[test]
fn i3_a_hook_that_fails_after_an_upgrade_rolls_it_back() {
    let hooks = [hook("after", 0, &["post-upgrade"], &[]), hook("back", 0, &["post-rollback"], &[])];
    let case = deployed(&hooks);
    let values = json!({ "b": 2 });
    let case = rendering(case.change(&instance(values.clone())), &values, 2, &reply(&values, &hooks));
    let case = settled(settled(case).ready::<Deployment>("shop"));
    assert_eq!(gist(&case.plan()).2, "the hook Job after (post-upgrade) runs");
    let case = settled(settled(case.status::<Job>("after", failed_job())).ready::<Deployment>("shop"));
    let plan = case.plan();
    assert_eq!((plan.disposition::<Job>("back"), &gist(&plan).0), (Some(Disposition::Apply), &json!("Upgrading")));
    // a hook of a roll-back that fails does not stand in the way of what runs well
    let plan = settled(case.status::<Job>("back", failed_job())).plan();
    assert_eq!((&state(&plan)["stage"], &gist(&plan).1), (&json!("deployed"), &json!(3)));
    assert_eq!(plan.condition("Ready"), Some(("False", "UpgradeFailed")));
}

#[test]
fn i3_what_the_api_server_never_takes_is_given_up() {
    let case = world(&[]).reconciled().reconciled(); // on record, and nothing of it is ever there
    let plan = case.plan();
    assert_eq!(gist(&plan).0, "Pending");
    let case = case.now(u64::try_from(NOW).unwrap() + 61).reconciled();
    let plan = case.plan();
    let (phase, _, message) = gist(&plan);
    assert_eq!(phase, "Failed");
    let message = message.as_str().unwrap();
    assert!(
        message.starts_with("not done within 60 s: PersistentVolumeClaim data: the API server has not"),
        "{message}"
    );
    assert_eq!(plan.names::<Deployment>(), [""; 0], "so that the status can be told");
}

#[test]
fn i3_hooks_of_a_deletion_run_and_one_that_fails_is_told_and_left_behind() {
    let hooks = [hook("farewell", 0, &["pre-delete"], &[]), hook("gone", 0, &["post-delete"], &[])];
    let case = settled(deployed(&hooks).deleting());
    let plan = case.plan();
    assert_eq!(plan.disposition::<Job>("farewell"), Some(Disposition::Apply));
    assert_eq!(plan.disposition::<Deployment>("shop"), Some(Disposition::Hold));
    let case = case.status::<Job>("farewell", failed_job()).reconciled();
    let plan = case.plan();
    assert_eq!(plan.names::<Deployment>(), [""; 0], "the release goes");
    assert!(plan.events.iter().any(|(reason, _)| reason == "HookFailed"), "{:?}", plan.events);
    let case = settled(case);
    assert_eq!(case.plan().disposition::<Job>("gone"), Some(Disposition::Apply));
    assert!(settled(case.ready::<Job>("gone")).plan().finalized);
}
