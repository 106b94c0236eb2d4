//! A plugin that does not know the kinds of its children: what it says of them by name only.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, and serde_json's index yields null where nothing is"
)]

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use serde_json::{Value, json};
use transom_sdk::prelude::*;
use transom_sdk::testing::{Case, Disposition, Plan as Shown};
use transom_sdk::{Answer, AnyObject, TypeMeta};

/// What it makes and what it leaves alone, as JSON texts.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone)]
#[kube(group = "tests.transom.dev", version = "v1", kind = "Template", namespaced, status = "TemplateStatus")]
struct TemplateSpec {
    makes: Vec<String>,
    #[serde(default)]
    holds: Vec<String>,
    #[serde(default)]
    drops: Option<Vec<String>>,
}

#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone)]
struct TemplateStatus {
    said: Vec<String>,
}

struct Templates;
transom_sdk::export!(Templates);

impl Plugin for Templates {
    fn manifest() -> Manifest<Self> {
        Manifest::new("templates", "0.1.0")
            .primary::<Template>()
            .any_child(Delivery::Status)
            .read::<Pod>(Delivery::Status)
            .read::<Secret>(Delivery::Full)
    }
}

impl Reconcile<Template> for Templates {
    fn reconcile(template: &Template, cx: &Context) -> Result<Plan, Failure> {
        let objects = |texts: &[String]| texts.iter().map(|text| AnyObject::parse(text)).collect::<Result<Vec<_>, _>>();
        let mut plan = cx.plan();
        let mut said: Vec<String> = cx.all_children().map(|child| format!("live {}", child.name())).collect();
        for object in objects(&template.spec.makes)? {
            let live = if cx.child_any(&object).is_some() { "there" } else { "new" };
            let planned = plan.apply_any(object.clone());
            let current = plan.is_as_planned(&planned);
            said.push(format!("{} {live} {current} {}", object.name(), plan.health(&planned).reason));
        }
        for object in objects(&template.spec.holds)? {
            plan.hold_any(&object);
        }
        if let Some(drops) = &template.spec.drops {
            plan.hold_rest_but(&objects(drops)?);
        }
        let pods = cx.try_list_in::<Pod>("elsewhere", "");
        let secret = cx.try_get_any::<Value>(&TypeMeta::new("v1", "Secret"), "elsewhere", "login");
        if let (Answer::Found(pods), Answer::Found(secret)) = (pods?, secret?) {
            said.push(format!("{} pods, {}", pods.len(), secret["data"]["a"]));
        }
        plan.status(&TemplateStatus { said });
        Ok(plan)
    }
}

fn map(name: &str, value: &str) -> String {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "a": value } }).to_string()
}

fn template(makes: &[String], holds: &[String], drops: Option<&[String]>) -> Template {
    let spec = TemplateSpec { makes: makes.into(), holds: holds.into(), drops: drops.map(Into::into) };
    Template::new("t", spec)
}

fn said(plan: &Shown) -> Value {
    plan.status.clone().unwrap()["said"].clone()
}

#[test]
fn a_live_object_is_told_from_an_older_version_of_it() {
    let case = Case::<Templates>::new(&template(&[map("one", "1")], &[], None));
    assert_eq!(said(&case.plan()), json!(["one new false Missing"]));
    let case = case.reconciled();
    assert_eq!(said(&case.plan()), json!(["live one", "one there true Exists"]));
    let case = case.change(&template(&[map("one", "2")], &[], None));
    assert_eq!(said(&case.plan()), json!(["live one", "one there false Exists"]), "it is there, but not as planned");
    assert_eq!(said(&case.reconciled().plan())[1], "one there true Exists");
}

#[test]
fn what_is_held_stays_and_what_is_named_goes() {
    let all = [map("one", "1"), map("two", "1"), map("three", "1")];
    let case = Case::<Templates>::new(&template(&all, &[], None)).reconciled();
    let plan = case.change(&template(&[], &all[..1], Some(&all[1..2]))).plan();
    let held = |name: &str| plan.disposition::<ConfigMap>(name);
    assert_eq!(
        ["one", "two", "three"].map(held),
        [Some(Disposition::Hold), None, Some(Disposition::Hold)],
        "named, dropped, and the rest"
    );
}

#[test]
fn objects_of_other_namespaces_are_looked_up_by_kind() {
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "namespace": "elsewhere" } });
    let metadata = json!({ "name": "login", "namespace": "elsewhere" });
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": { "a": "eA==" } });
    let case = Case::<Templates>::new(&template(&[], &[], None)).foreign_object(pod).foreign_object(secret);
    assert_eq!(said(&case.plan()), json!(["1 pods, \"eA==\""]));
}
