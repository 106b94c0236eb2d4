//! Random histories against a model. People make, change and delete objects, strangers edit and delete children, hosts
//! are killed and watches break, in any order and without waiting; in the end live state is what the plugin, called
//! natively, plans for what people want, and nothing else is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use transom_plugin_web::{Web, WebPlugin, WebSpec};
use transom_sdk::testing::Case;
use transom_tests::{DEADLINE, Namespace, Proxy, Target, TestCluster, component, condition, of, sample};

/// How many histories one test tries; `TRANSOM_TEST_CASES` overrides it.
const CASES: u32 = 12;

/// How many of them live at the same time.
const AT_ONCE: u32 = 3;

const NAMES: [&str; 3] = ["red", "green", "blue"];

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// Somebody wants the object to be like this: it is made or changed.
    Want { name: usize, image: u8, replicas: i32 },
    /// Somebody deletes the object, if it is there.
    Delete { name: usize },
    /// A stranger changes a field that the plugin has set.
    Edit { name: usize, child: usize },
    /// A stranger takes away the label by which the host finds the child.
    Hide { name: usize, child: usize },
    /// A stranger adds something of his own, which must stay for as long as the child does.
    Add { name: usize, child: usize },
    /// A stranger deletes a child.
    Remove { name: usize, child: usize },
    /// The host is killed, and started again.
    Kill,
    /// All watches end.
    CloseWatches,
    /// Nothing happens until the host has done what it had to do.
    Rest,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0..NAMES.len();
    let child = || (0..NAMES.len(), 0..4_usize);
    let step = prop_oneof![
        4 => (name.clone(), 1..4_u8, 0..4).prop_map(|(name, image, replicas)| Step::Want { name, image, replicas }),
        2 => name.prop_map(|name| Step::Delete { name }),
        3 => child().prop_map(|(name, child)| Step::Edit { name, child }),
        1 => child().prop_map(|(name, child)| Step::Hide { name, child }),
        2 => child().prop_map(|(name, child)| Step::Add { name, child }),
        2 => child().prop_map(|(name, child)| Step::Remove { name, child }),
        1 => Just(Step::Kill),
        1 => Just(Step::CloseWatches),
        2 => Just(Step::Rest),
    ];
    proptest::collection::vec(step, 4..24)
}

/// What must be true in the end.
#[derive(Default)]
struct Model {
    wanted: BTreeMap<usize, WebSpec>,
    /// Children that a stranger has added to.
    added: BTreeSet<(usize, usize)>,
}

fn child(name: usize, child: usize) -> Target {
    let name = NAMES[name];
    match child {
        0 => of::<ConfigMap>(name),
        1 => of::<Service>(name),
        2 => of::<NetworkPolicy>(name),
        _ => of::<Deployment>(name),
    }
}

/// A change of something that the plugin sets.
fn edit(child: usize) -> Value {
    match child {
        0 => json!({ "data": { "motd": "a stranger's" } }),
        1 => json!({ "spec": { "selector": { "app.kubernetes.io/name": "another" } } }),
        2 => json!({ "spec": { "ingress": [] } }),
        _ => json!({ "spec": { "replicas": 9 } }),
    }
}

/// Everything in `wanted` is in `live`, too. Lists are compared item by item.
fn covers(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(field, wanted)| live.get(field).is_some_and(|live| covers(live, wanted)))
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| covers(live, wanted))
        }
        _ => live == wanted,
    }
}

struct Life {
    ns: Namespace,
    proxy: Arc<Proxy>,
    model: Model,
}

impl Life {
    async fn take(&mut self, step: Step) {
        match step {
            Step::Want { name, image, replicas } => self.want(name, image, replicas).await,
            Step::Delete { name } => {
                if self.model.wanted.remove(&name).is_some() {
                    self.model.added.retain(|added| added.0 != name);
                    self.ns.delete(of::<sample::Web>(NAMES[name])).await;
                }
            }
            Step::Edit { name, child } => {
                self.ns.try_merge(self::child(name, child), edit(child)).await;
            }
            Step::Hide { name, child } => {
                let hidden = json!({ "metadata": { "labels": { "transom.dev/owner-uid": null } } });
                self.ns.try_merge(self::child(name, child), hidden).await;
            }
            Step::Add { name, child } => self.add(name, child).await,
            Step::Remove { name, child } => {
                self.model.added.remove(&(name, child));
                self.ns.try_delete(self::child(name, child)).await;
            }
            Step::Kill => self.proxy.kill(),
            Step::CloseWatches => self.proxy.close_watches(),
            Step::Rest => self.rest(Duration::from_millis(300)).await,
        }
    }

    async fn want(&mut self, name: usize, image: u8, replicas: i32) {
        let spec = WebSpec { image: format!("registry.example/web:{image}"), replicas };
        let object = json!({
            "apiVersion": "bench.dev/v1", "kind": "Web", "metadata": { "name": NAMES[name] }, "spec": spec,
        });
        if self.model.wanted.insert(name, spec).is_some() {
            self.ns.merge(&object, json!({ "spec": object["spec"] })).await;
        } else {
            self.ns.wait_gone(&object).await;
            self.ns.create(object).await;
        }
    }

    async fn add(&mut self, name: usize, child: usize) {
        let note = json!({ "metadata": { "annotations": { "example.com/note": "mine" } } });
        let Some(noted) = self.ns.try_merge(self::child(name, child), note).await else { return };
        let Some(web) = self.ns.find(of::<sample::Web>(NAMES[name])).await else { return };
        // the garbage collector may not have come yet to a child of an earlier object of this name
        if noted["metadata"]["ownerReferences"][0]["uid"] == web["metadata"]["uid"] {
            self.model.added.insert((name, child));
        }
    }

    /// Waits until the host has asked for nothing for a while.
    async fn rest(&self, window: Duration) {
        let started = Instant::now();
        loop {
            let before = self.proxy.seen().len();
            sleep(window).await;
            if self.proxy.seen().len() == before {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "the host does not come to rest");
        }
    }

    /// What the plugin plans for an object.
    fn planned(&self, name: usize, spec: &WebSpec) -> Vec<Value> {
        let mut web = Web::new(NAMES[name], spec.clone());
        web.metadata.namespace = Some(self.ns.name.clone());
        Case::<WebPlugin>::new(&web).plan().children.into_iter().map(|child| child.object).collect()
    }

    async fn has_come_true(&self) {
        for (&name, spec) in &self.model.wanted {
            let web = of::<sample::Web>(NAMES[name]);
            for planned in self.planned(name, spec) {
                let uid = self.ns.get(&web).await["metadata"]["uid"].clone();
                let ours = |live: &Value| live["metadata"]["ownerReferences"][0]["uid"] == uid;
                self.ns.wait_until(&planned, |live| ours(live) && covers(live, &planned)).await;
            }
            self.ns.wait_for(&web, condition("Synced", "True")).await;
            self.ns.wait_for(&web, condition("Ready", "True")).await;
        }
        for name in (0..NAMES.len()).filter(|name| !self.model.wanted.contains_key(name)) {
            for number in 0..4 {
                self.ns.wait_gone(child(name, number)).await;
            }
        }
    }

    /// The same at one moment, without waiting.
    async fn is_true_now(&self) {
        for (&name, spec) in &self.model.wanted {
            for planned in self.planned(name, spec) {
                let live = self.ns.get(&planned).await;
                assert!(covers(&live, &planned), "planned {planned:#}, but it is {live:#}");
                let owner = &live["metadata"]["labels"]["transom.dev/owner-uid"];
                assert_eq!(*owner, live["metadata"]["ownerReferences"][0]["uid"], "the host can find it");
            }
        }
        for &(name, number) in &self.model.added {
            let live = self.ns.get(child(name, number)).await;
            assert_eq!(live["metadata"]["annotations"]["example.com/note"], "mine", "{live:#}");
        }
    }
}

async fn live(steps: Vec<Step>) {
    let ns = TestCluster::shared().await.namespace("model").await;
    let proxy = Arc::new(ns.proxy().await);
    let _host = ns.immortal(&proxy);
    ns.install(&component("web").await).await;
    let mut life = Life { ns, proxy, model: Model::default() };
    for step in steps {
        life.take(step).await;
    }
    life.has_come_true().await;
    life.rest(Duration::from_millis(500)).await;
    life.is_true_now().await;
}

/// As many cases as `number` says, and a shorter history of the same kind where one fails.
fn check(seed: u8, number: u32) {
    let config = Config { cases: number, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let checked = runner.run(&steps(), |steps| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(live(steps));
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn whatever_happens_live_state_converges_to_the_plan() {
    let cases = transom_tests::from_environment("TRANSOM_TEST_CASES").unwrap_or(CASES);
    // the kind of the records is installed by the first host that was ever ready
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { TestCluster::shared().await.namespace("model").await.host().await.stop().await });
    std::thread::scope(|scope| {
        for part in 0..AT_ONCE {
            let number = cases / AT_ONCE + u32::from(part < cases % AT_ONCE);
            scope.spawn(move || check(u8::try_from(part).unwrap(), number));
        }
    });
}
