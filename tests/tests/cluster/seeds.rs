//! A host that is killed again and again, wherever chance has it, while objects are made, changed and deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};
use transom_tests::{Fault, Namespace, Seen, TestCluster, component, condition, of, sample, stripped};

/// How many lives one test lets objects live; `TRANSOM_TEST_SEEDS` overrides it.
const SEEDS: u64 = 50;

/// Where hosts are killed: after how many requests from now, and whether the API server carries the last one out.
type Kills = Vec<(usize, bool)>;

/// One to four kills, most of them early: that is where most happens.
fn kills(seed: u64) -> Kills {
    let mut state = seed;
    let mut random = |below: usize| {
        // splitmix64
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) >> 33).unwrap() % below
    };
    (0..=random(4)).map(|_| (random(60), random(2) == 0)).collect()
}

/// Everything that the host may have made, without what differs from life to life.
async fn children(ns: &Namespace) -> BTreeMap<String, Value> {
    let mut all = Vec::new();
    all.extend(ns.list::<ConfigMap>().await);
    all.extend(ns.list::<Service>().await);
    all.extend(ns.list::<NetworkPolicy>().await);
    all.extend(ns.list::<Deployment>().await);
    all.extend(ns.list::<Job>().await);
    all.extend(ns.list::<PodDisruptionBudget>().await);
    let ours = |object: &Value| object["metadata"]["labels"]["transom.dev/owner-uid"].is_string();
    let plain = |object: &Value| {
        let mut object = stripped(object);
        object["status"] = json!(null);
        object["metadata"]["generation"] = json!(null);
        object["metadata"]["annotations"] = json!(null);
        object["metadata"]["labels"]["transom.dev/owner-uid"] = json!(null);
        for field in ["clusterIP", "clusterIPs", "selector", "template"] {
            // given by the API server: addresses, and labels of a Job's pods
            if object["kind"] == "Job" || field.starts_with("cluster") {
                object["spec"][field] = json!(null);
            }
        }
        let text = object.to_string().replace(&ns.name, "NAMESPACE");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let name = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
    all.iter().filter(|object| ours(object)).map(|object| (name(object), plain(object))).collect()
}

/// Objects are made, changed by their owner and by strangers, and deleted. Returns what is left.
async fn life(name: &str, kills: Kills) -> BTreeMap<String, Value> {
    let ns = TestCluster::shared().await.namespace(name).await;
    let proxy = Arc::new(ns.proxy().await);
    let _host = ns.immortal(&proxy);
    for plugin in ["web", "domain", "hostile"] {
        ns.install(&component(plugin).await).await;
    }
    ns.create(sample::database("orders")).await;
    ns.create(sample::credentials("orders")).await;
    // From here on; a restarted host lists and watches first, which counts as well.
    let (mut left, mut passed) = (kills, 0);
    proxy.decide(move |_| {
        let Some(&(after, carried_out)) = left.first() else { return Fault::None };
        passed += 1;
        if passed <= after {
            return Fault::None;
        }
        passed = 0;
        left.remove(0);
        if carried_out { Fault::KillAfter } else { Fault::KillBefore }
    });

    let shop = ns.create(sample::web("shop")).await;
    let gone = ns.create(sample::web("gone")).await;
    let orders = ns.create(sample::domain("orders")).await;
    let guarded = ns.create(sample::hostile("guarded", "configMap")).await;
    for object in [&shop, &gone, &orders, &guarded] {
        ns.wait_for(object, condition("Ready", "True")).await;
    }
    let changed = ns.merge(&shop, json!({ "spec": { "replicas": 3 } })).await;
    ns.merge(of::<ConfigMap>("shop"), json!({ "data": { "motd": "a stranger's" } })).await;
    ns.delete(of::<Service>("shop")).await;
    ns.delete(&guarded).await;
    ns.delete(&gone).await;
    ns.wait_gone(&guarded).await;
    ns.wait_gone(&gone).await;
    ns.wait_for(&changed, condition("Ready", "True")).await;
    ns.wait_until(of::<ConfigMap>("shop"), |map| map["data"]["motd"] == "this is shop").await;
    ns.wait_until(of::<Service>("shop"), |_| true).await;
    for child in [of::<ConfigMap>("gone"), of::<Service>("gone"), of::<NetworkPolicy>("gone"), of::<Deployment>("gone")]
    {
        ns.wait_gone(child).await;
    }

    let seen = proxy.seen();
    let carried_out = |step: &str| -> Vec<_> {
        let of_step = |seen: &&Seen| seen.step == step && seen.status.is_some_and(|s| s.is_success());
        seen.iter().filter(of_step).collect()
    };
    let deleted: Vec<_> = seen
        .iter()
        .filter(|seen| seen.step.starts_with("delete ") && seen.status.is_some_and(|status| status.is_success()))
        .map(|seen| seen.uid.clone().expect("a deletion names the UID that it means"))
        .collect();
    assert_eq!(deleted.len(), deleted.iter().collect::<BTreeSet<_>>().len(), "deleted twice: {deleted:?}");
    assert_eq!(carried_out("create jobs").len(), 1, "one migration, one Job");
    children(&ns).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_a_host_is_killed_the_cluster_ends_as_without_the_kill() {
    // the kind of the records is installed by the first host that was ever ready
    TestCluster::shared().await.namespace("seed").await.host().await.stop().await;
    let expected = life("seed-none", Kills::new()).await;
    assert_eq!(expected.len(), 4 + 5, "a Web's and a Domain's: {:?}", expected.keys());
    let seeds = std::env::var("TRANSOM_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let lives = futures::stream::iter(0..seeds).map(|seed| {
        let expected = &expected;
        async move {
            assert_eq!(life(&format!("seed-{seed}"), kills(seed)).await, *expected, "seed {seed}: {:?}", kills(seed))
        }
    });
    lives.buffer_unordered(6).collect::<Vec<()>>().await;
}
