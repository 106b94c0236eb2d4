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
    let case = Case::new(&instance(values.clone())).object(&template(60)).artifact(
        chart::FOLDER,
        "shop",
        &["Chart.yaml", "content-handle:**"],
        files(),
    );
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
    let case = settled(case.now(later(59)));
    assert_eq!(data(&case.plan()), r#"{"b":2}"#);
    let case = settled(case.now(later(61)));
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

/// What the API server says of a claim.
const WORDS: &str = "could not apply PersistentVolumeClaim shop-ann/data: exceeded quota: caelus-quota";

fn message(plan: &Plan) -> String {
    plan.status.as_ref().unwrap()["message"].as_str().unwrap().to_owned()
}

fn said_of(plan: &Plan, kind: &str) -> (&'static str, String, String) {
    let condition = plan.conditions.iter().find(|condition| condition.kind == kind).unwrap();
    (condition.status, condition.reason.clone(), condition.message.clone())
}

fn later(seconds: u64) -> u64 {
    u64::try_from(NOW).unwrap() + seconds
}

/// An upgrade to the values `{"b": 2}`, on record.
fn upgrading(hooks: &[Value]) -> Case<InstancePlugin> {
    let values = json!({ "b": 2 });
    let case = deployed(hooks);
    rendering(case.change(&instance(values.clone())), &values, 2, &reply(&values, hooks)).reconciled()
}

#[test]
fn a_first_release_with_a_refused_object_has_failed_at_once_and_goes_on_when_it_is_accepted() {
    let case = world(&[]).reconciled().reconciled();
    let case = case.refused::<PersistentVolumeClaim>("data", "ApplyFailed", WORDS);
    let plan = case.plan();
    assert_eq!(gist(&plan), (json!("Failed"), json!(1), json!(WORDS)));
    for kind in ["Ready", "Released", "WorkloadsReady"] {
        assert_eq!(said_of(&plan, kind), ("False", "ApplyFailed".into(), WORDS.into()), "{kind}");
    }
    assert_eq!(plan.disposition::<PersistentVolumeClaim>("data"), Some(Disposition::Apply), "the host tries again");
    assert_eq!(plan.disposition::<Deployment>("shop"), Some(Disposition::Apply), "and the rest is there");
    // however long it takes
    let case = settled(case.now(later(86_400)));
    assert_eq!(gist(&case.plan()), (json!("Failed"), json!(1), json!(WORDS)));
    let case = settled(case.accepted().ready::<Deployment>("shop"));
    assert_eq!(gist(&case.plan()).0, "Running");
}

#[test]
fn an_upgrade_with_a_refused_object_is_rolled_back_at_once_and_keeps_the_cause() {
    let words = "could not apply ConfigMap shop-ann/settings: denied by policy";
    let case = upgrading(&[]).refused::<ConfigMap>("settings", "ApplyFailed", words);
    let case = case.reconciled();
    let plan = case.plan();
    assert_eq!((&state(&plan)["operation"], &state(&plan)["revision"]), (&json!("rollback"), &json!(3)));
    let plan = settled(case).plan();
    assert_eq!(gist(&plan).0, "Failed");
    assert!(
        message(&plan).starts_with("revision 2 has failed and revision 3 is the release before it again: could not")
    );
    assert!(message(&plan).contains(words), "{}", message(&plan));
    assert_eq!(said_of(&plan, "Released").1, "UpgradeFailed");
    assert_eq!(said_of(&plan, "WorkloadsReady").0, "True");
}

#[test]
fn an_upgrade_with_an_object_that_may_be_accepted_later_has_its_time_and_no_more() {
    let words = "could not apply ConfigMap shop-ann/settings: failed calling webhook";
    let case = upgrading(&[]).refused_for_now::<ConfigMap>("settings", "ApplyFailed", words);
    assert_eq!(gist(&case.plan()), (json!("Upgrading"), json!(2), json!(words)));
    // back-off lasts for longer than the release has time
    let case = settled(case.now(later(3_600)));
    let plan = case.plan();
    assert_eq!((state(&plan)["revision"].clone(), gist(&plan).0), (json!(3), json!("Failed")));
    let expected = format!("not done within 60 s: {words}");
    assert!(message(&plan).contains(&expected), "{}", message(&plan));
}

#[test]
fn a_first_release_with_an_object_that_may_be_accepted_later_is_late_once() {
    let case = world(&[]).reconciled().reconciled();
    let case = case.refused_for_now::<PersistentVolumeClaim>("data", "ApplyFailed", WORDS);
    assert_eq!(gist(&case.plan()), (json!("Pending"), json!(1), json!(WORDS)));
    let late = (json!("Failed"), json!(1), json!(format!("not done within 60 s: {WORDS}")));
    for seconds in [61, 122, 600, 3_600] {
        let case = world(&[]).reconciled().reconciled();
        let case = case.refused_for_now::<PersistentVolumeClaim>("data", "ApplyFailed", WORDS);
        let case = settled(case.now(later(seconds)));
        assert_eq!(gist(&case.plan()), late, "{seconds}");
    }
}

#[test]
fn a_late_release_stays_late_until_it_is_ready() {
    let case = settled(world(&[]));
    let mut case = case.now(later(61)).reconciled();
    for seconds in [62, 130, 1_000] {
        case = case.now(later(seconds)).reconciled();
        assert_eq!(gist(&case.plan()).0, "Failed", "{seconds}");
        assert!(message(&case.plan()).starts_with("not done within 60 s: Deployment shop:"));
    }
    assert_eq!(gist(&settled(case.ready::<Deployment>("shop")).plan()).0, "Running");
}

#[test]
fn a_release_that_no_host_worked_on_gets_its_time_once_more() {
    // on record, and then no host ran for an hour
    let case = world(&[]).reconciled().reconciled().now(later(3_600));
    let plan = case.plan();
    assert_eq!((gist(&plan).0, plan.names::<Deployment>()), (json!("Pending"), vec![]));
    let case = settled(case.reconciled().now(later(3_610)));
    assert_eq!(gist(&case.plan()).0, "Pending");
    assert_eq!(gist(&settled(case.now(later(3_661))).plan()).0, "Failed");
}

#[test]
fn a_refused_roll_back_says_so_with_the_cause_of_both() {
    let words = "could not apply ConfigMap shop-ann/settings: denied";
    let case = upgrading(&[]).refused::<ConfigMap>("settings", "ApplyFailed", words).reconciled();
    let case = without(case, "Deployment"); // so that something is to be made again
    let claim = "could not apply Deployment shop-ann/shop: exceeded quota";
    let case = case.refused::<Deployment>("shop", "ApplyFailed", claim);
    let plan = case.plan();
    let (phase, revision, message) = gist(&plan);
    assert_eq!((phase, revision), (json!("Failed"), json!(3)));
    assert_eq!(message, json!(format!("rolling back ({claim}), because {words}")));
    assert_eq!(said_of(&plan, "Ready").1, "ApplyFailed");
}

#[test]
fn a_refused_hook_is_a_failure_at_once_and_runs_when_it_is_accepted() {
    let hooks = [hook("before", 0, &["pre-install", "pre-upgrade"], &["hook-failed"])];
    let words = "could not apply Job shop-ann/before: exceeded quota";
    let case = world(&hooks).reconciled().reconciled().refused::<Job>("before", "ApplyFailed", words);
    let plan = case.plan();
    let expected = format!("the hook Job before (pre-install): {words}");
    assert_eq!(gist(&plan), (json!("Failed"), json!(1), json!(expected)));
    assert_eq!(plan.disposition::<Job>("before"), Some(Disposition::Apply));
    let case = settled(case.accepted());
    assert_eq!(gist(&case.plan()).2, "the hook Job before (pre-install) runs");
    let case = settled(settled(case.ready::<Job>("before")).ready::<Deployment>("shop"));
    // of an upgrade: the release before comes back
    let values = json!({ "b": 2 });
    let case = rendering(case.change(&instance(values.clone())), &values, 2, &reply(&values, &hooks));
    let case = case.reconciled().reconciled(); // on record, and the hook of the earlier run is gone
    let case = settled(case.refused::<Job>("before", "ApplyFailed", words));
    let plan = settled(case).plan();
    assert_eq!((gist(&plan).0, gist(&plan).1), (json!("Failed"), json!(3)));
    assert!(
        message(&plan)
            .ends_with(&format!("the hook Job before (pre-upgrade): {words}; change the spec to try once more"))
    );
}

#[test]
fn whatever_else_is_refused_is_in_the_status() {
    let words = "namespaces is forbidden: User \"plugin\" cannot create resource";
    let case = world(&[]).refused::<Namespace>("shop-ann", "ApplyFailed", words);
    let plan = case.plan();
    let status = plan.status.clone().unwrap();
    assert_eq!((&status["phase"], &status["message"]), (&json!("Failed"), &json!(words)));
    let quota = "could not apply ResourceQuota shop-ann/caelus-quota: invalid";
    let case = deployed(&[]).refused::<k8s_openapi::api::core::v1::ResourceQuota>("caelus-quota", "ApplyFailed", quota);
    assert_eq!(gist(&case.plan()), (json!("Failed"), json!(1), json!(quota)));
    assert_eq!(said_of(&case.plan(), "Ready"), ("False", "ApplyFailed".into(), quota.into()));
}

/// As if somebody had deleted this child by hand.
fn without(case: Case<InstancePlugin>, kind: &str) -> Case<InstancePlugin> {
    let mut plan = case.plan();
    plan.children.retain(|child| child.object["kind"] != kind);
    case.observe(&plan)
}

#[test]
fn what_is_deleted_by_hand_comes_back_at_any_time() {
    let made = |case: &Case<InstancePlugin>| case.plan().disposition::<ConfigMap>("settings");
    // long after a release is deployed
    let case = without(deployed(&[]).now(later(86_400)), "ConfigMap");
    assert_eq!(made(&case), Some(Disposition::Apply));
    // of a first release that is late
    let case = settled(world(&[])).now(later(61)).reconciled();
    let case = without(case.now(later(600)), "ConfigMap").now(later(700));
    assert_eq!((made(&case), gist(&case.plan()).0), (Some(Disposition::Apply), json!("Failed")));
    let case = settled(case.reconciled().ready::<Deployment>("shop"));
    assert_eq!(gist(&case.plan()).0, "Running");
    // and of one whose last hook has failed
    let hooks = [hook("after", 0, &["post-install"], &[])];
    let case = settled(settled(world(&hooks)).ready::<Deployment>("shop"));
    let case = settled(case.status::<Job>("after", failed_job()));
    assert_eq!(gist(&case.plan()).0, "Failed");
    let case = without(case.now(later(600)), "ConfigMap");
    assert_eq!(made(&case), Some(Disposition::Apply));
    assert!(message(&case.plan()).starts_with("the hook Job after (post-install) has failed"));
    assert_eq!(case.plan().disposition::<Job>("after"), Some(Disposition::Hold));
}

fn definition(name: &str) -> Value {
    manifest(json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": name }, "spec": {} }))
}

#[test]
fn all_definitions_of_a_chart_are_asked_for_together() {
    let crds: Vec<Value> = (0..12).map(|index| definition(&format!("a{index}.example.com"))).collect();
    let mut reply = reply(&json!({}), &[]);
    reply["crds"] = json!(crds);
    let case = rendering(world(&[]), &json!({}), 1, &reply);
    case.asks_together();
    let case = case.reconciled().reconciled();
    case.asks_together();
    let plan = case.plan();
    assert_eq!(plan.children.iter().filter(|child| child.object["kind"] == "CustomResourceDefinition").count(), 12);
    assert_eq!(said_of(&plan, "Ready").1, "DefinitionsPending");
    // one that is refused
    let words = "could not apply CustomResourceDefinition a3.example.com: spec.versions: Required value";
    let refused = case.refused::<CustomResourceDefinition>("a3.example.com", "ApplyFailed", words);
    assert_eq!(gist(&refused.plan()), (json!("Failed"), json!(1), json!(words)));
}

#[test]
fn lookups_are_asked_together_in_every_stage() {
    let hooks = [hook("before", 0, &["pre-install"], &[]), hook("farewell", 0, &["pre-delete"], &[])];
    let failed = settled(world(&hooks)).status::<Job>("before", failed_job());
    for case in [world(&hooks), settled(world(&hooks)), failed, deployed(&hooks), deployed(&hooks).deleting()] {
        case.asks_together();
    }
}

#[test]
fn a_deletion_says_what_it_waits_for() {
    let case = deployed(&[]).deleting();
    let plan = case.plan();
    assert_eq!((gist(&plan).0, gist(&plan).1, plan.finalized), (json!("Deleting"), json!(1), true));
    assert_eq!(message(&plan), "Namespace shop-ann is being deleted");
    assert_eq!(said_of(&plan, "Ready"), ("False", "Deleting".into(), message(&plan)));
    let condition = |kind: &str, status: &str, message: &str| json!({ "type": kind, "status": status, "reason": "R", "message": message });
    let status = json!({ "phase": "Terminating", "conditions": [
        condition("NamespaceDeletionDiscoveryFailure", "True", "metrics.k8s.io/v1beta1: stale GroupVersion discovery"),
        condition("NamespaceContentRemaining", "False", "all gone"),
    ] });
    let held = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings",
        "namespace": "shop-ann", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["example.com/wait"] } });
    let held: ConfigMap = serde_json::from_value(held).unwrap();
    let plan = case.status::<Namespace>("shop-ann", status).child(&held).plan();
    let expected = "waiting for Namespace shop-ann (NamespaceDeletionDiscoveryFailure: metrics.k8s.io/v1beta1: stale \
        GroupVersion discovery); ConfigMap settings (finalizers example.com/wait)";
    assert_eq!((message(&plan), gist(&plan).0), (expected.to_owned(), json!("Deleting")));
}

#[test]
fn what_is_kept_outside_the_namespace_does_not_keep_the_namespace() {
    let kept = |kind: &str, group: &str, name: &str| {
        let metadata = json!({ "name": name, "annotations": { "helm.sh/resource-policy": "keep" } });
        manifest(json!({ "apiVersion": group, "kind": kind, "metadata": metadata }))
    };
    let keep = |with: Value| {
        let reply = json!({ "manifests": [with] });
        let case = settled(rendering(world(&[]), &json!({}), 1, &reply));
        let plan = case.plan();
        let is_namespace = |child: &&testing::PlannedChild| child.object["kind"] == "Namespace";
        let options = plan.children.iter().find(is_namespace).unwrap().options.clone();
        (options, case.deleting().plan().finalized)
    };
    let crd = kept("CustomResourceDefinition", "apiextensions.k8s.io/v1", "a.example.com");
    assert_eq!(keep(crd), (vec![], true), "the namespace goes");
    assert_eq!(keep(kept("ClusterRole", "rbac.authorization.k8s.io/v1", "a")), (vec![], true));
    assert_eq!(keep(kept("ConfigMap", "v1", "a")).0, ["keep"]);
}

#[test]
fn lists_of_a_chart_that_have_a_key_twice_are_applied() {
    let env = json!([{ "name": "A", "value": "1" }, { "name": "A", "value": "2" }]);
    let container = json!({ "name": "c", "image": "i", "env": env });
    let template = json!({ "spec": { "containers": [container] } });
    let deployment = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" },
        "spec": { "template": template } });
    let mut before = hook("before", 0, &["pre-install"], &[]);
    before["objects"][0]["spec"]["template"] = template.clone();
    let reply = json!({ "manifests": [manifest(deployment)], "hooks": [before] });
    let case = settled(rendering(world(&[]), &json!({}), 1, &reply));
    let expected = json!([{ "name": "A", "value": "2" }]);
    let env = |plan: &Plan, kind: &str| {
        let child = plan.children.iter().find(|child| child.object["kind"] == kind).unwrap();
        child.object["spec"]["template"]["spec"]["containers"][0]["env"].clone()
    };
    assert_eq!(env(&case.plan(), "Job"), expected);
    let case = settled(case.ready::<Job>("before"));
    assert_eq!(env(&case.plan(), "Deployment"), expected);
}

/// A chart with a Job that is no hook, and that the cluster cleans up.
fn with_job(ttl: u32) -> Case<InstancePlugin> {
    let pod = json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i" }] });
    let job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "import" },
        "spec": { "ttlSecondsAfterFinished": ttl, "template": { "spec": pod } } });
    let mut reply = reply(&json!({}), &[]);
    reply["manifests"].as_array_mut().unwrap().push(manifest(job));
    settled(rendering(world(&[]), &json!({}), 1, &reply))
}

fn complete_at(time: &str) -> Value {
    json!({ "succeeded": 1, "completionTime": time, "conditions": [{ "type": "Complete", "status": "True" }] })
}

#[test]
fn a_job_that_has_run_is_not_run_again_although_the_release_is_not_done() {
    let case = with_job(0);
    let job: Job = case.plan().child("import").unwrap();
    assert_eq!(job.spec.unwrap().ttl_seconds_after_finished, None, "the cluster does not clean it up unseen");
    let case = case.status::<Job>("import", complete_at("2026-01-01T00:00:00Z")).reconciled();
    assert_eq!(state(&case.plan())["jobsDone"], json!(["import"]), "on record");
    // somebody cleans up, and the Deployment is not ready yet
    let case = without(case.reconciled(), "Job");
    let plan = case.plan();
    assert_eq!(plan.disposition::<Job>("import"), Some(Disposition::Hold));
    assert!(message(&plan).starts_with("Deployment shop:"), "{}", message(&plan));
    let case = settled(case.ready::<Deployment>("shop"));
    assert_eq!(said_of(&case.plan(), "Ready").0, "True");
}

#[test]
fn a_job_stays_for_as_long_as_the_chart_says_once_the_release_is_deployed() {
    for (ttl, stays) in [(1, vec![]), (100, vec![10, 99])] {
        let case = with_job(ttl).ready::<Deployment>("shop");
        let case = settled(case.status::<Job>("import", complete_at("2026-01-01T00:00:00Z")));
        let mut case = case;
        for seconds in stays {
            case = case.now(later(seconds));
            let plan = case.plan();
            assert_eq!(plan.disposition::<Job>("import"), Some(Disposition::Hold), "{ttl} {seconds}");
        }
        let case = case.now(later(u64::from(ttl) + 30));
        assert_eq!(case.plan().disposition::<Job>("import"), None, "{ttl}: it goes");
        let plan = settled(case).plan();
        assert_ne!(plan.disposition::<Job>("import"), Some(Disposition::Apply), "and does not run again");
        assert_eq!(gist(&plan).0, "Running");
    }
}

#[test]
fn a_hook_that_the_cluster_would_clean_up_runs_once() {
    let mut before = hook("before", 0, &["pre-install"], &[]);
    before["objects"][0]["spec"]["ttlSecondsAfterFinished"] = json!(0);
    let hooks = [before, hook("later", 5, &["pre-install"], &[])];
    let case = settled(world(&hooks));
    let job: Job = case.plan().child("before").unwrap();
    assert_eq!(job.spec.unwrap().ttl_seconds_after_finished, None);
    let case = settled(case.status::<Job>("before", complete_at("2026-01-01T00:00:00Z")));
    let case = settled(case.ready::<Job>("later"));
    let plan = settled(case.ready::<Deployment>("shop")).plan();
    assert_eq!((gist(&plan).0, plan.names::<Job>()), (json!("Running"), vec!["later".to_owned()]), "it is gone");
}

#[test]
fn an_object_in_another_namespace_needs_a_grant_that_the_message_names() {
    let object = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": "reader", "namespace": "kube-system" } });
    let reply = json!({ "manifests": [manifest(object)] });
    let case = || rendering(world(&[]), &json!({}), 1, &reply);
    let plan = case().plan();
    assert_eq!((gist(&plan).0, said_of(&plan, "Ready").1), (json!("Failed"), "ForeignNamespace".to_owned()));
    let grant = "grant it in the Plugin resource: spec.config.otherNamespaces: [{namespace: kube-system, kinds: \
        [RoleBinding.rbac.authorization.k8s.io]}]";
    assert!(message(&plan).ends_with(grant), "{}", message(&plan));
    let granted = |kinds: &[&str]| {
        let config = json!({ "otherNamespaces": [{ "namespace": "kube-system", "kinds": kinds }] });
        settled(case().config(&config)).plan()
    };
    let plan = granted(&["RoleBinding.rbac.authorization.k8s.io"]);
    let planned = plan.children.iter().find(|child| child.object["kind"] == "RoleBinding").unwrap();
    assert_eq!(
        (planned.disposition, &planned.object["metadata"]["namespace"]),
        (Disposition::Apply, &json!("kube-system"))
    );
    assert_eq!(gist(&granted(&["RoleBinding", "Role.rbac.authorization.k8s.io"])).0, "Failed", "another kind");
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
