//! Refused children, children that are shown in another version, fields that are set once, and lookups that are asked
//! one by one, as authors meet them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler as Old;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler as New;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec, Secret};
use serde_json::{Value, json};
use transom_sdk::objects::{self, labels};
use transom_sdk::prelude::*;
use transom_sdk::testing::{Case, Disposition, Plan as Shown};
use transom_sdk::{Answer, AnyObject, ObjectMeta, TypeMeta};

/// A Job, then a Deployment with an autoscaler.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone)]
#[kube(group = "tests.transom.dev", version = "v1", kind = "App", namespaced, status = "AppStatus")]
struct AppSpec {
    #[serde(default)]
    image: String,
    /// Looked up, one after the other or together.
    #[serde(default)]
    maps: Vec<String>,
    #[serde(default)]
    how: String,
    #[serde(default)]
    set_once: Vec<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default)]
struct AppStatus {
    refused: Vec<String>,
    found: usize,
}

struct Apps;
transom_sdk::export!(Apps);

impl Plugin for Apps {
    fn manifest() -> Manifest<Self> {
        Manifest::new("apps", "0.1.0")
            .primary::<App>()
            .child::<Job>(Delivery::Status)
            .child::<Deployment>(Delivery::Status)
            .child::<New>(Delivery::Status)
            .read::<ConfigMap>(Delivery::Full)
            .read::<Secret>(Delivery::Full)
    }
}

fn job(image: &str) -> Job {
    let labels = labels([("app", "migrate")]);
    let pod = PodSpec { containers: vec![objects::container("c", image)], ..Default::default() };
    objects::job(objects::metadata("migrate", &labels), objects::job_spec(objects::template(&labels, pod)))
}

fn deployment(image: &str) -> Deployment {
    let labels = labels([("app", "web")]);
    let pod = PodSpec { containers: vec![objects::container("c", image)], ..Default::default() };
    let template = objects::template(&labels, pod);
    objects::deployment(objects::metadata("web", &labels), objects::deployment_spec(1, &labels, template))
}

fn autoscaler() -> New {
    New { metadata: ObjectMeta { name: Some("web".into()), ..Default::default() }, ..Default::default() }
}

impl Reconcile<App> for Apps {
    fn reconcile(app: &App, cx: &Context) -> Result<Plan, Failure> {
        let found = look_up(&app.spec, cx)?;
        let mut plan = cx.plan();
        let migrated = plan.apply(job(&app.spec.image).replace());
        let web = deployment(&app.spec.image).set_once(app.spec.set_once.clone());
        let web = plan.apply_after(migrated, web);
        let scaled = plan.apply_after(web, autoscaler());
        let refused = cx.refusals().iter().map(|refusal| format!("{} {}", refusal.type_meta.kind, refusal.name));
        let mut refused: Vec<String> = refused.collect();
        refused.extend(plan.refusal(&web).map(|refusal| format!("web: {}", refusal.message)));
        plan.status(&AppStatus { refused, found });
        let is_as_planned = plan.is_as_planned(&web);
        plan.condition(Condition::from_health("Migrated", &plan.health(&migrated)));
        plan.condition(Condition::from_health("Ready", &plan.health(&web)));
        plan.condition(Condition::new("AsPlanned", is_as_planned, "Looked", ""));
        plan.condition(Condition::from_health("Scaled", &plan.health(&scaled)));
        Ok(plan)
    }
}

fn look_up(spec: &AppSpec, cx: &Context) -> Result<usize, Failure> {
    let of = |name: &String| cx.try_get::<ConfigMap>(name);
    let is_found = |answer: &Answer<ConfigMap>| matches!(answer, Answer::Found(_));
    match &*spec.how {
        "together" => {
            let answers: Vec<_> = spec.maps.iter().map(of).collect();
            let answers: Vec<_> = answers.into_iter().collect::<Result<_, _>>()?;
            Ok(answers.iter().filter(|answer| is_found(answer)).count())
        }
        // as long as they are there
        "until" => {
            for (index, name) in spec.maps.iter().enumerate() {
                if !is_found(&of(name)?) {
                    return Ok(index);
                }
            }
            Ok(spec.maps.len())
        }
        // each names the next
        "chain" => {
            let mut next = spec.maps.first().cloned();
            let mut found = 0;
            while let Some(name) = next.take() {
                let map: Option<ConfigMap> = cx.get(&name)?;
                found += usize::from(map.is_some());
                next = map.and_then(|map| map.data).and_then(|mut data| data.remove("next"));
            }
            Ok(found)
        }
        // the first that is there
        "fallback" => {
            for name in &spec.maps {
                if is_found(&of(name)?) {
                    return Ok(1);
                }
            }
            Ok(0)
        }
        // another kind, and then the time
        "mixed" => {
            let map: Option<ConfigMap> = cx.get("a")?;
            let secret: Option<Secret> = cx.get("a")?;
            cx.now(std::time::Duration::from_secs(60))?;
            cx.now(std::time::Duration::from_secs(1))?;
            Ok(usize::from(map.is_some()) + usize::from(secret.is_some()))
        }
        _ => {
            let mut found = 0;
            for name in &spec.maps {
                found += usize::from(is_found(&of(name)?));
            }
            Ok(found)
        }
    }
}

fn app(spec: Value) -> Case<Apps> {
    Case::new(&App::new("shop", serde_json::from_value(spec).unwrap()))
}

fn conditions(plan: &Shown) -> Vec<(&str, &str, &str)> {
    plan.conditions.iter().map(|c| (c.kind.as_str(), c.status, c.reason.as_str())).collect()
}

/// What the API server says.
const WORDS: &str = "could not apply Job default/migrate: exceeded quota: jobs=0";

#[test]
fn a_refused_child_has_failed_with_the_words_of_the_api_server_and_what_waits_for_it_is_held() {
    let case = app(json!({ "image": "a" })).refused::<Job>("migrate", "ApplyFailed", WORDS);
    let plan = case.plan();
    assert_eq!(plan.disposition::<Job>("migrate"), Some(Disposition::Apply), "the plugin may plan it again");
    assert_eq!(plan.disposition::<Deployment>("web"), Some(Disposition::Hold));
    assert_eq!(plan.children[1].waits_for.as_deref(), Some("Job migrate (ApplyFailed)"));
    let migrated = plan.conditions.iter().find(|condition| condition.kind == "Migrated").unwrap();
    assert_eq!((migrated.status, &*migrated.reason, &*migrated.message), ("False", "ApplyFailed", WORDS));
    assert_eq!(plan.status.clone().unwrap()["refused"], json!(["Job migrate"]));
    // it goes on once it is accepted
    let case = case.accepted().reconciled().ready::<Job>("migrate");
    assert_eq!(case.plan().disposition::<Deployment>("web"), Some(Disposition::Apply));
}

#[test]
fn a_change_that_is_refused_is_not_as_planned_although_an_older_object_is_ready() {
    let case = app(json!({ "image": "a" })).reconciled().ready::<Job>("migrate").reconciled();
    let case = case.ready::<Deployment>("web").reconciled();
    let plan = case.plan();
    assert_eq!(
        conditions(&plan)[..3],
        [("Migrated", "True", "Complete"), ("Ready", "True", "Available"), ("AsPlanned", "True", "Looked"),]
    );
    let case = case.refused::<Deployment>("web", "ChildConflict", "Deployment default/web: no");
    let plan = case.plan();
    assert_eq!(conditions(&plan)[1..3], [("Ready", "False", "ChildConflict"), ("AsPlanned", "False", "Looked")]);
    assert_eq!(plan.children[2].waits_for.as_deref(), Some("Deployment web (ChildConflict)"));
    assert_eq!(plan.status.clone().unwrap()["refused"], json!(["Deployment web", "web: Deployment default/web: no"]));
}

#[test]
fn a_refusal_that_may_pass_is_progress_and_one_that_is_final_is_failure() {
    #[derive(PartialEq, Debug)]
    struct Seen(transom_sdk::State, bool);
    thread_local!(static SEEN: std::cell::RefCell<Vec<Seen>> = const { std::cell::RefCell::new(Vec::new()) });
    struct Watching;
    impl Plugin for Watching {
        fn manifest() -> Manifest<Self> {
            Manifest::new("watching", "0.1.0").primary::<App>().child::<Job>(Delivery::Status)
        }
    }
    impl Reconcile<App> for Watching {
        fn reconcile(app: &App, cx: &Context) -> Result<Plan, Failure> {
            let mut plan = cx.plan();
            let planned = plan.apply(job(&app.spec.image));
            let seen = Seen(plan.health(&planned).state, plan.is_as_planned(&planned));
            SEEN.with_borrow_mut(|all| *all = vec![seen]);
            Ok(plan)
        }
    }
    let last = || SEEN.with_borrow_mut(std::mem::take);
    let spec = AppSpec { image: "a".into(), maps: vec![], how: String::new(), set_once: vec![] };
    let case = Case::<Watching>::new(&App::new("shop", spec)).reconciled().ready::<Job>("migrate");
    let _ = case.plan();
    assert_eq!(last(), [Seen(transom_sdk::State::Ready, true)], "a Job that exists never changes");
    let case = case.refused_for_now::<Job>("migrate", "ApplyFailed", "the webhook is down");
    let _ = case.plan();
    assert_eq!(last(), [Seen(transom_sdk::State::Progressing, false)]);
    let case = case.refused::<Job>("migrate", "ImmutableField", "spec.template");
    let _ = case.plan();
    assert_eq!(last(), [Seen(transom_sdk::State::Failed, false)]);
}

#[test]
fn a_refusal_ends_when_the_child_changes_is_held_or_the_spec_changes() {
    let refused = || app(json!({ "image": "a" })).refused::<Job>("migrate", "ApplyFailed", WORDS);
    let said = |case: Case<Apps>| case.plan().status.unwrap()["refused"].clone();
    assert_eq!(said(refused().reconciled()), json!(["Job migrate"]), "the same again is refused again");
    let changed = App::new("shop", serde_json::from_value(json!({ "image": "b" })).unwrap());
    assert_eq!(said(refused().change(&changed)), json!([]));
    let case = refused();
    let mut plan = case.plan();
    plan.children[0].object["spec"]["suspend"] = json!(true);
    assert_eq!(said(case.observe(&plan)), json!([]), "another object");
    let case = refused();
    let mut plan = case.plan();
    plan.children.remove(0);
    assert_eq!(said(case.observe(&plan)), json!([]), "no such child");
}

#[test]
fn an_object_that_is_shown_in_another_version_is_the_same_child() {
    let live = Old { metadata: ObjectMeta { name: Some("web".into()), ..Default::default() }, ..Default::default() };
    let ready = app(json!({ "image": "a" })).reconciled().ready::<Job>("migrate").reconciled();
    let case = ready.ready::<Deployment>("web").child(&live);
    let plan = case.plan();
    assert_eq!(conditions(&plan)[3], ("Scaled", "True", "Exists"));
    assert_eq!(plan.names::<Old>(), ["web"], "whichever version is asked for");
    let seen = case.observe(&plan).plan();
    assert_eq!(seen.names::<New>(), ["web"]);
    // also what is looked at by name
    let old = AnyObject::named("autoscaling/v1", "HorizontalPodAutoscaler", Some("n"), "web");
    let new = AnyObject::named("autoscaling/v2", "HorizontalPodAutoscaler", Some("n"), "web");
    assert!(old.is_same_object(&new) && old.type_meta().is_same_kind(new.type_meta()));
    assert!(!old.is_same_object(&AnyObject::named("other/v1", "HorizontalPodAutoscaler", Some("n"), "web")));
    assert_eq!((TypeMeta::new("v1", "Pod").group(), TypeMeta::new("apps/v1", "X").group()), ("", "apps"));
}

#[test]
fn fields_that_are_set_once_are_named_in_an_annotation() {
    let plan = app(json!({ "image": "a", "set_once": ["spec.replicas", "spec.replicas", "data[tls.crt]"] })).plan();
    let case = app(json!({ "image": "a", "set_once": ["spec.replicas", "spec.replicas", "data[tls.crt]"] }));
    assert_eq!(plan.disposition::<Deployment>("web"), Some(Disposition::Hold));
    let plan = case.reconciled().ready::<Job>("migrate").plan();
    let web = plan.child::<Deployment>("web").unwrap();
    assert_eq!(web.metadata.annotations.unwrap()["transom.dev/set-once"], "spec.replicas,data[tls.crt]");
    let none = app(json!({ "image": "a" })).reconciled().ready::<Job>("migrate").plan();
    let annotations = none.child::<Deployment>("web").unwrap().metadata.annotations.unwrap();
    assert!(!annotations.contains_key("transom.dev/set-once"), "{annotations:?}");
    for wrong in ["", "spec.a,spec.b"] {
        let case = app(json!({ "image": "a", "set_once": [wrong] }));
        assert_eq!(
            case.failure(),
            [format!("Deployment web: set_once: `{wrong}` is not a field path such as spec.replicas")]
        );
    }
}

fn map(name: &str, next: Option<&str>) -> ConfigMap {
    let data = next.map(|next| [("next".to_owned(), next.to_owned())].into());
    ConfigMap { metadata: ObjectMeta { name: Some(name.into()), ..Default::default() }, data, ..Default::default() }
}

/// What the check of lookups finds.
fn late(how: &str, there: &[ConfigMap]) -> Option<String> {
    let case = app(json!({ "maps": ["a", "b", "c"], "how": how }));
    let case = there.iter().fold(case, |case, map| case.object(map));
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case.asks_together()));
    checked.err().map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())
}

#[test]
fn lookups_that_are_asked_one_by_one_are_found_whether_they_have_an_answer_or_not() {
    let expected = "ask for all of these before the first `?`:\n\
        ConfigMap default/b is asked in round 2, and does not depend on ConfigMap default/a, which is asked in round 1\n\
        ConfigMap default/c is asked in round 3, and does not depend on ConfigMap default/b, which is asked in round 2";
    assert_eq!(late("one by one", &[]).as_deref(), Some(expected));
    let all = [map("a", None), map("b", None), map("c", None)];
    assert_eq!(late("one by one", &all).as_deref(), Some(expected));
    assert_eq!(late("until", &[map("a", Some("x")), map("b", Some("x"))]).as_deref(), Some(expected));
}

#[test]
fn lookups_that_are_asked_together_or_depend_on_each_other_are_fine() {
    let chain = [map("a", Some("b")), map("b", Some("c")), map("c", None)];
    for (how, there) in [("together", &chain[..]), ("chain", &chain), ("fallback", &[]), ("mixed", &chain)] {
        assert_eq!(late(how, there), None, "{how}");
    }
}
