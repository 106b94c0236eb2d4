//! A plugin is a pure function, and the component is the same function as the Rust code that it was built from.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use rstest::rstest;
use serde_json::{Value, json};
use transom::plan::contract::{Failure, Step};
use transom_plugin_domain::{Domain, DomainPlugin};
use transom_plugin_web::{Web, WebPlugin};
use transom_sdk::testing::{Case, wire};
use transom_tests::native::{self, natively};
use transom_tests::{component, sample};

fn parsed<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).unwrap()
}

fn web() -> Case<WebPlugin> {
    Case::new(&parsed::<Web>(sample::web("shop")))
}

/// The request of the steady state, in which all children live.
fn web_that_runs() -> wire::Request {
    let case = web();
    let plan = case.plan();
    case.observe(&plan).ready::<Deployment>("shop").request()
}

fn domain(change: Value) -> Case<DomainPlugin> {
    let mut object = sample::domain("orders");
    for (field, value) in change.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    Case::new(&parsed::<Domain>(object))
        .foreign_object(sample::database("orders"))
        .foreign_object(sample::credentials("orders"))
}

/// Nothing was looked up yet.
fn domain_that_asks() -> wire::Request {
    wire::Request { answers: Vec::new(), ..domain(json!({})).request() }
}

fn domain_that_is_new() -> wire::Request {
    domain(json!({ "version": "1", "env": [{ "name": "B", "value": "2" }, { "name": "A", "value": "1" }] })).request()
}

fn domain_that_runs() -> wire::Request {
    let case = domain(json!({}));
    let first = case.plan();
    let case = first.names::<Job>().iter().fold(case.observe(&first), |case, job| case.ready::<Job>(job));
    let second = case.plan();
    case.observe(&second).ready::<Deployment>("orders").request()
}

/// Its cluster and secret are not there.
fn domain_without_database() -> wire::Request {
    Case::<DomainPlugin>::new(&parsed::<Domain>(sample::domain("orders"))).request()
}

fn domain_that_is_invalid() -> wire::Request {
    let mut request = domain_that_asks();
    let mut object: Value = serde_json::from_str(&request.object).unwrap();
    object["spec"]["env"] = json!([{ "name": "PGHOST", "value": "elsewhere" }]);
    request.object = object.to_string();
    request
}

#[derive(Debug, PartialEq)]
enum Kind {
    Asks,
    Plans,
    Fails,
}

fn kind(answer: &native::Answer) -> Kind {
    match answer {
        Ok(Step::Ask(_)) => Kind::Asks,
        Ok(Step::Done(_)) => Kind::Plans,
        Err(Failure::Invalid(_)) => Kind::Fails,
        Err(other) => panic!("{other:?}"),
    }
}

#[rstest]
#[case::web("web", web().request(), natively::<WebPlugin>, Kind::Plans)]
#[case::web_that_runs("web", web_that_runs(), natively::<WebPlugin>, Kind::Plans)]
#[case::domain_that_asks("domain", domain_that_asks(), natively::<DomainPlugin>, Kind::Asks)]
#[case::domain_that_is_new("domain", domain_that_is_new(), natively::<DomainPlugin>, Kind::Plans)]
#[case::domain_that_runs("domain", domain_that_runs(), natively::<DomainPlugin>, Kind::Plans)]
#[case::domain_without_database("domain", domain_without_database(), natively::<DomainPlugin>, Kind::Plans)]
#[case::domain_that_is_invalid("domain", domain_that_is_invalid(), natively::<DomainPlugin>, Kind::Fails)]
#[tokio::test]
async fn a_component_answers_as_the_native_function_does_and_twice_the_same(
    #[case] plugin: &str,
    #[case] request: wire::Request,
    #[case] native: fn(wire::Request) -> native::Answer,
    #[case] expected: Kind,
) {
    let loaded = native::load(&component(plugin).await).await;
    let asked = native::request(&request);
    let (first, _) = loaded.plugin.reconcile(&asked).await.unwrap();
    let (second, _) = loaded.plugin.reconcile(&asked).await.unwrap();
    // Children and status are compared as text, byte for byte.
    assert_eq!(first, second);
    assert_eq!(first, native(request));
    assert_eq!(kind(&first), expected);
}

#[rstest]
#[case("web", transom_sdk::testing::manifest::<WebPlugin>())]
#[case("domain", transom_sdk::testing::manifest::<DomainPlugin>())]
#[tokio::test]
async fn a_component_describes_itself_as_the_native_manifest_does(
    #[case] plugin: &str,
    #[case] native: wire::Manifest,
) {
    let manifest = native::load(&component(plugin).await).await.manifest;
    assert_eq!((manifest.name, manifest.version, manifest.crds), (native.name, native.version, native.crds));
    let kinds: Vec<String> = manifest.children.iter().map(|(kind, _)| kind.kind.clone()).collect();
    let natives: Vec<String> = native.children.iter().map(|child| child.kind.kind.clone()).collect();
    assert_eq!(kinds, natives);
}

/// Nothing of a call is left for the next one: not what an instance kept in its memory, not what a failed call broke.
#[tokio::test]
async fn a_trapped_call_leaves_nothing_for_the_next() {
    let loaded = native::load(&component("hostile").await).await;
    let request = |behaviour: &str| {
        let mut object = sample::hostile("one", behaviour);
        object["metadata"]["uid"] = json!("1");
        let wire = wire::Request {
            object: object.to_string(),
            deleting: false,
            children: Vec::new(),
            answers: Vec::new(),
            calls: Vec::new(),
            config: "{}".into(),
            round: 0,
            ext: Vec::new(),
        };
        native::request(&wire)
    };
    let before = loaded.plugin.reconcile(&request("configMap")).await.unwrap().0;
    for behaviour in ["trap", "panic", "allocate", "loop"] {
        assert!(loaded.plugin.reconcile(&request(behaviour)).await.is_err(), "{behaviour}");
        assert_eq!(loaded.plugin.reconcile(&request("configMap")).await.unwrap().0, before);
    }
}
