//! A plugin of two kinds, written as authors write them, run through the test kit and through the component's entry.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, PodSpec, Secret};
use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use transom_sdk::objects::{self, labels};
use transom_sdk::prelude::*;
use transom_sdk::testing::wire::{Failure as WireFailure, Lookup, Request, Step};
use transom_sdk::testing::{self, Case, Disposition};
use transom_sdk::{Answer, Status};

/// Writes a poem and shows it.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone)]
#[kube(group = "tests.transom.dev", version = "v1", kind = "Poem", namespaced)]
struct PoemSpec {
    text: String,
}

/// Asks for all there is.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone)]
#[kube(group = "tests.transom.dev", version = "v1", kind = "Question", namespaced, status = "QuestionStatus")]
struct QuestionSpec {
    about: String,
}

#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone)]
struct QuestionStatus {
    answers: u32,
}

#[derive(JsonSchema, Serialize, Deserialize, Default)]
#[serde(default)]
struct Config {
    polite: bool,
}

struct Poetry;
transom_sdk::export!(Poetry);

impl Plugin for Poetry {
    fn manifest() -> Manifest<Self> {
        Manifest::new("poetry", "0.1.0")
            .primary::<Poem>()
            .primary::<Question>()
            .child::<ConfigMap>(Delivery::Metadata)
            .child::<Deployment>(Delivery::Status)
            .child::<Job>(Delivery::Status)
            .read::<Secret>(Delivery::Full)
            .read::<ConfigMap>(Delivery::Full)
            .endpoint("encyclopedia", Protocol::Http, "looks things up")
            .config::<Config>()
            .finalizes()
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), ..Default::default() }
}

fn text(poem: &Poem) -> ConfigMap {
    let data = BTreeMap::from([("poem".into(), poem.spec.text.clone())]);
    ConfigMap { metadata: named("text"), data: Some(data), ..Default::default() }
}

fn stage(name: &str) -> Deployment {
    let labels = labels([("app", name)]);
    let pod = PodSpec { containers: vec![objects::container("stage", "stage:1")], ..Default::default() };
    let spec = objects::deployment_spec(1, &labels, objects::template(&labels, pod));
    objects::deployment(objects::metadata(name, &labels), spec)
}

impl Reconcile<Poem> for Poetry {
    fn reconcile(poem: &Poem, cx: &Context) -> Result<Plan, Failure> {
        let mut plan = cx.plan();
        if cx.deleting() {
            plan.finalized();
            return Ok(plan);
        }
        let text = plan.apply(text(poem).keep());
        let first = plan.apply_after(text, stage("first"));
        let second = plan.apply_after((text, first), stage("second"));
        plan.condition(Condition::from_health("Ready", &plan.health(&second)));
        plan.requeue_after(Duration::from_secs(60));
        plan.requeue_after(Duration::from_secs(3600));
        Ok(plan)
    }
}

impl Reconcile<Question> for Poetry {
    fn reconcile(question: &Question, cx: &Context) -> Result<Plan, Failure> {
        if question.spec.about == "nothing" {
            let _swallowed: Option<Secret> = cx.get("secret").unwrap_or(None);
            return Ok(cx.plan());
        }
        let secret = cx.get::<Secret>("secret");
        let verses = cx.list::<ConfigMap>("kind=verse");
        let now = cx.now(Duration::from_secs(3600));
        let (secret, verses, now) = (secret?, verses?, now?);
        let page = cx.http_get("encyclopedia", &format!("/{}", question.spec.about), Duration::from_secs(60))?;

        let mut plan = cx.plan();
        let mut answers = verses.len() as u32 + u32::from(secret.is_some());
        if let Answer::Found(page) = page {
            answers += u32::from(page.status == 200);
        }
        let polite = cx.config::<Config>()?.polite;
        plan.condition(Condition::new("Ready", polite, "Answered", now.to_string()));
        plan.condition(Condition::new("Ready", Status::Unknown, "Answered", now.to_string()));
        plan.status(&QuestionStatus { answers });
        Ok(plan)
    }
}

fn poem(text: &str) -> Case<Poetry> {
    Case::new(&Poem::new("spring", PoemSpec { text: text.into() }))
}

fn question(about: &str) -> Case<Poetry> {
    Case::new(&Question::new("why", QuestionSpec { about: about.into() }))
}

fn request(about: &str) -> Request {
    Request { answers: Vec::new(), ..question(about).request() }
}

#[test]
fn everything_asked_before_the_first_question_mark_is_fetched_together() {
    let Ok(Step::Ask(lookups)) = testing::call::<Poetry>(request("love")) else { panic!("it should ask") };
    assert!(matches!(lookups.as_slice(), [Lookup::Object(_), Lookup::Objects(_), Lookup::Clock(3600)]), "{lookups:?}");
}

#[test]
fn a_pending_lookup_that_was_swallowed_is_still_asked_for() {
    let step = testing::call::<Poetry>(request("nothing"));
    assert!(matches!(&step, Ok(Step::Ask(lookups)) if lookups.len() == 1), "{step:?}");
}

#[test]
fn lookups_find_what_is_there_and_the_last_condition_of_a_type_counts() {
    let verse = |name: &str, kind: &str| ConfigMap {
        metadata: ObjectMeta { labels: Some(labels([("kind", kind)])), ..named(name) },
        ..Default::default()
    };
    let page = transom_sdk::HttpResponse { status: 200, headers: Vec::new(), body: Vec::new() };
    let plan = question("love")
        .object(&Secret { metadata: named("secret"), ..Default::default() })
        .object(&verse("a", "verse"))
        .object(&verse("b", "verse"))
        .object(&verse("c", "prose"))
        .http_get("encyclopedia", "/love", page)
        .config(&json!({ "polite": true }))
        .now(3600 * 10 + 17)
        .plan();
    assert_eq!(plan.status, Some(json!({ "answers": 4 })));
    assert_eq!(plan.conditions.len(), 1);
    assert_eq!((plan.conditions[0].status, &*plan.conditions[0].message), ("Unknown", "1970-01-01T10:00:00Z"));
}

#[test]
fn only_answers_that_were_looked_at_are_used() {
    let mut request = question("love").request();
    let stale = Lookup::Clock(7);
    let answer = testing::wire::Answer::Absent;
    request.answers.insert(1, testing::wire::Answered { lookup: stale, answer });
    let Ok(Step::Done(plan)) = testing::call::<Poetry>(request) else { panic!("it should be done") };
    assert_eq!(plan.uses, [0, 2, 3, 4]);
}

#[test]
fn failing_lookups_are_transient() {
    let failing = question("love").failing::<Secret>("secret", "Unavailable", "no route");
    assert_eq!(failing.failure(), ["Unavailable: no route"]);
}

#[test]
fn what_does_not_fit_the_type_is_the_plugins_fault() {
    let request = Request {
        object: json!({ "apiVersion": "tests.transom.dev/v1", "kind": "Poem", "metadata": {}, "spec": {} }).to_string(),
        ..request("love")
    };
    let failure = testing::call::<Poetry>(request).expect_err("no text");
    assert!(matches!(&failure, WireFailure::Internal(why) if why.contains("missing field `text`")), "{failure:?}");
}

#[test]
fn a_kind_that_is_not_served_is_refused() {
    let object = json!({ "apiVersion": "tests.transom.dev/v2", "kind": "Poem", "metadata": {} }).to_string();
    assert!(testing::call::<Poetry>(Request { object, ..request("love") }).is_err());
}

#[test]
fn what_waits_is_held_until_what_it_waits_for_lives_as_planned() {
    let case = poem("roses");
    let plan = case.plan();
    assert_eq!(plan.disposition::<ConfigMap>("text"), Some(Disposition::Apply));
    assert_eq!(plan.disposition::<Deployment>("first"), Some(Disposition::Hold));

    let case = case.observe(&plan);
    let plan = case.plan();
    assert_eq!(plan.disposition::<Deployment>("first"), Some(Disposition::Apply));
    assert_eq!(plan.disposition::<Deployment>("second"), Some(Disposition::Hold), "the first is not available yet");

    let case = case.observe(&plan).ready::<Deployment>("first");
    let plan = case.plan();
    assert_eq!(plan.disposition::<Deployment>("second"), Some(Disposition::Apply));

    // another text: both wait for it again, although what lives is fine
    let case = case.observe(&plan).ready::<Deployment>("second");
    let case = case.change(&Poem::new("spring", PoemSpec { text: "violets".into() }));
    let plan = case.plan();
    assert_eq!(plan.disposition::<Deployment>("first"), Some(Disposition::Hold));
    assert_eq!(plan.disposition::<Deployment>("second"), Some(Disposition::Hold), "what is held is never done");
    let plan = case.observe(&plan).plan();
    assert_eq!(plan.disposition::<Deployment>("second"), Some(Disposition::Apply));
    assert_eq!(plan.requeue_after_ms, Some(60_000), "the soonest counts");
}

#[test]
fn a_plan_says_what_a_held_child_is_going_to_be() {
    let case = poem("roses");
    let plan = case.plan();
    let later: Vec<Option<Value>> = plan.children.iter().map(|child| child.later.clone()).collect();
    let [None, Some(first), Some(second)] = later.as_slice() else { unreachable!("{later:#?}") };
    assert!(plan.children[1].object.get("spec").is_none() && first["spec"]["template"].is_object(), "{first:#}");
    let waits_for: Vec<Option<&str>> = plan.children.iter().map(|child| child.waits_for.as_deref()).collect();
    let all = "ConfigMap text (Missing), Deployment first (waits itself)";
    assert_eq!(waits_for, [None, Some("ConfigMap text (Missing)"), Some(all)]);
    // to the letter, with the mark for those that wait for it in turn
    let case = case.observe(&plan);
    let next = case.plan();
    assert_eq!(next.children[1].object, *first);
    let last = case.observe(&next).ready::<Deployment>("first").plan();
    assert_eq!(last.children[2].object, *second);
}

#[test]
fn a_mark_is_on_what_others_wait_for_and_on_nothing_else() {
    let plan = poem("roses").reconciled().plan();
    let marks: Vec<bool> =
        plan.children.iter().map(|child| child.object["metadata"]["annotations"].is_object()).collect();
    assert_eq!(marks, [true, true, false]);
    assert_eq!(plan.children[0].options, ["keep"]);
}

#[test]
fn deleting_ends_with_finalized() {
    let plan = poem("roses").deleting().plan();
    assert!(plan.finalized && plan.children.is_empty());
}

#[test]
fn the_crd_lets_through_what_the_host_writes() {
    let manifest = testing::manifest::<Poetry>();
    assert!(manifest.finalizes);
    assert!(manifest.config_schema.is_some());
    for crd in &manifest.crds {
        let crd: Value = serde_json::from_str(crd).unwrap();
        let version = &crd["spec"]["versions"][0];
        assert_eq!(version["subresources"]["status"], json!({}));
        let schema = &version["schema"]["openAPIV3Schema"];
        assert_eq!(schema["description"], schema["properties"]["spec"]["description"]);
        let status = &schema["properties"]["status"];
        assert_eq!(status["properties"]["conditions"]["x-kubernetes-list-map-keys"], json!(["type"]));
        assert_eq!(status["properties"]["observedGeneration"]["format"], "int64");
        assert_eq!(status["properties"]["inventory"]["items"]["required"], json!(["apiVersion", "kind", "name"]));
        assert!(status.get("required").is_none(), "the host writes first");
        let pending = &status["default"]["conditions"][0];
        assert_eq!([&pending["type"], &pending["status"]], ["Ready", "Unknown"], "nobody has looked at it yet");
    }
    let kinds: Vec<String> =
        manifest.children.iter().map(|child| format!("{} {}", child.kind.api_version, child.kind.kind)).collect();
    assert_eq!(kinds, ["v1 ConfigMap", "apps/v1 Deployment", "batch/v1 Job"]);
}
