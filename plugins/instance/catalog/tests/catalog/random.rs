//! The catalog is killed, and both sides are cut off, at random (I4).

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::{ADMIN, ALICE, Answer, Http, Operator, Postgres, Proxy, Service, TestCluster, until};
use crate::{order, template, with};

/// Runs, each with a seed of its own: `TRANSOM_TEST_SEEDS=200` by hand.
fn seeds() -> u64 {
    std::env::var("TRANSOM_TEST_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// Runs at the same time.
const PARALLEL: usize = 4;

/// A generator whose numbers are the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What a user has been told, and nothing else.
#[derive(Default)]
struct Told {
    /// Values by id.
    live: BTreeMap<String, Value>,
    deleted: BTreeSet<String>,
}

/// Asks until there is an answer that is no "try again", as clients do.
async fn insist(mut ask: impl AsyncFnMut() -> Option<Answer>) -> Answer {
    until("an answer", async || ask().await.filter(|answer| answer.status != 503)).await
}

/// A user who orders, changes and deletes, with a key for each request.
async fn user(http: Http, template: String, seed: u64) -> Told {
    let mut random = Random(seed);
    let mut told = Told::default();
    for step in 0..20 {
        // people take their time
        sleep(Duration::from_millis(random.below(80))).await;
        let key = format!("{seed}-{step}");
        let chosen = told.live.keys().nth(random.below(told.live.len().max(1) as u64) as usize).cloned();
        match (random.below(10), chosen) {
            (0..=1, Some(id)) => {
                let path = format!("/instances/{id}");
                let answer = insist(async || http.try_delete(&path, ALICE).await).await;
                // gone already, when the answer to an earlier try was lost
                assert!([202, 404].contains(&answer.status.as_u16()), "{}", answer.text);
                told.live.remove(&id);
                told.deleted.insert(id);
            }
            (2..=4, Some(id)) => {
                let (values, secrets) = (json!({ "step": step }), json!({ "hidden": format!("hunter2-{step}") }));
                let change = json!({ "productTemplateVersion": template, "values": values, "secrets": secrets });
                let path = format!("/instances/{id}/upgrade");
                insist(async || http.try_once(&path, ADMIN, &key, &change).await).await.expect(202);
                told.live.insert(id, values);
            }
            _ => {
                let values = json!({ "made": step });
                let new = with(order(&template), json!({ "values": values, "secrets": { "hidden": "hunter2" } }));
                let answer = insist(async || http.try_once("/instances", ALICE, &key, &new).await).await.expect(201);
                let earlier = told.live.insert(answer.id(), values);
                assert!(earlier.is_none());
            }
        }
    }
    told
}

/// What goes wrong.
struct Trouble<'a> {
    random: Random,
    to_database: &'a Proxy,
    to_cluster: &'a Proxy,
    kills: u64,
}

impl Trouble<'_> {
    /// Kills the catalog or cuts one of its ways, at a time that nobody knows.
    async fn strike(&mut self, service: &mut Service) {
        sleep(Duration::from_millis(self.random.below(120))).await;
        let cut = match self.random.below(4) {
            0 | 1 => {
                service.kill();
                self.kills += 1;
                service.resume();
                // a replica that is always killed before it serves never would
                return drop(until("it serves", async || service.ready().await).await);
            }
            2 => self.to_database,
            _ => self.to_cluster,
        };
        cut.cut();
        sleep(Duration::from_millis(self.random.below(150))).await;
        cut.restore();
    }

    async fn strike_for_ever(&mut self, service: &mut Service) -> Infallible {
        loop {
            self.strike(service).await;
        }
    }
}

/// Returns how often the catalog was killed.
async fn run(cluster: &TestCluster, postgres: &Postgres, seed: u64) -> u64 {
    let to_cluster = Proxy::start(TestCluster::address()).await;
    let to_database = Proxy::start(format!("127.0.0.1:{}", postgres.port())).await;
    let ns = cluster.namespace("random", Some(&to_cluster)).await;
    let url = postgres.database(&ns.name, Some(to_database.port())).await;
    let mut service = Service::start(&ns, &url, &[]).await;
    let template = template(&service).await;
    let _operator = Operator::start(&ns);
    let random = Random(seed.wrapping_mul(31).wrapping_add(7));
    let mut trouble = Trouble { random, to_database: &to_database, to_cluster: &to_cluster, kills: 0 };
    let told = tokio::select! {
        told = user(service.http.clone(), template, seed) => told,
        never = trouble.strike_for_ever(&mut service) => match never {},
    };
    to_database.restore();
    to_cluster.restore();
    // all is ordered by now, and not all is done
    for _ in 0..3 {
        trouble.strike(&mut service).await;
    }
    service.wait_until_ready().await;
    agree(&service, &ns, &told, seed).await;
    let sql = postgres.connect(&ns.name).await.unwrap();
    let rows = sql.query("SELECT id::text, gone_at IS NULL FROM deployment_instance", &[]).await.unwrap();
    let rows: BTreeMap<String, bool> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let live = told.live.keys().map(|id| (id.clone(), true));
    let expected: BTreeMap<_, _> = live.chain(told.deleted.iter().map(|id| (id.clone(), false))).collect();
    assert_eq!(rows, expected, "seed {seed}: a row for each answer, and no others");
    assert!(!service.log().contains("hunter2"), "seed {seed}");
    assert!(!service.log().contains("panicked"), "seed {seed}: {}", service.log());
    service.kill();
    postgres.drop_database(&ns.name).await;
    trouble.kills
}

/// Waits until rows and objects are what the user was told, and what runs is what is wanted.
async fn agree(service: &Service, ns: &crate::support::Namespace, told: &Told, seed: u64) {
    let wanted: Vec<String> = told.live.keys().cloned().collect();
    until(&format!("both sides agree, seed {seed}"), async || {
        let page = service.http.try_get("/instances?limit=200", ALICE).await?.body;
        let items = page["items"].as_array()?;
        let run = items.iter().all(|item| item["status"]["phase"] == "Running" && item.get("deletedAt").is_none());
        let ids: Vec<&str> = items.iter().filter_map(|item| item["id"].as_str()).collect();
        let values = items.iter().all(|item| told.live.get(item["id"].as_str().unwrap()) == Some(&item["values"]));
        let (mut there, mut kept) = (ns.names(&ns.instances()).await, ns.secret_names().await);
        there.sort();
        kept.sort();
        // one Secret each, with the latest values
        let of: Vec<&str> = kept.iter().filter_map(|name| Some(name.rsplit_once("-values-")?.0)).collect();
        (run && values && ids == wanted && there == wanted && of == wanted).then_some(())
    })
    .await;
    for (id, values) in &told.live {
        let object = ns.instances().get(id).await.unwrap();
        assert_eq!(object.data["spec"]["values"], *values, "seed {seed}");
        let secret = ns.secrets().get(object.data["spec"]["valuesSecret"].as_str().unwrap()).await.unwrap();
        let hidden: Value = serde_json::from_slice(&secret.data.unwrap()["values.json"].0).unwrap();
        let expected = values["step"].as_u64().map_or("hunter2".to_owned(), |step| format!("hunter2-{step}"));
        assert_eq!(hidden, json!({ "hidden": expected }), "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_however_often_the_catalog_is_killed() {
    let (cluster, postgres) = (TestCluster::get().await, Postgres::shared().await);
    // side by side: each waits most of the time
    let runs = stream::iter(0..seeds()).map(|seed| run(&cluster, &postgres, seed));
    let kills: Vec<u64> = runs.buffer_unordered(PARALLEL).collect().await;
    println!("kills by run: {kills:?}");
    assert!(kills.iter().sum::<u64>() >= 2 * seeds(), "too few to say anything: {kills:?}");
}
