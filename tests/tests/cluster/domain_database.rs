//! The plugin `domain` on a real PostgreSQL (row D8, and D3, D4, D7 through it): CloudNativePG is played by the tests, and
//! the containers of Jobs and Deployments are run as processes with their own arguments and environment.

use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use serde_json::{Value, json};
use tempfile::TempDir;
use transom_migrator::Settings;
use transom_tests::kubelet::{self, Image, Kubelet};
use transom_tests::{Host, Namespace, Postgres, TestCluster, component, condition, condition_of, of, sample};

const FIRST: (&str, &str) = (
    "V1__make_orders.sql",
    "CREATE TABLE orders (id integer PRIMARY KEY); INSERT INTO orders SELECT generate_series(1, 3)",
);
const SECOND: (&str, &str) = ("V2__add_status_column.sql", "ALTER TABLE orders ADD COLUMN status text");
const BROKEN: (&str, &str) = ("V2__break.sql", "INSERT INTO orders VALUES (4); SELECT 1 / 0");
const ENDLESS: (&str, &str) = ("V2__sleep.sql", "INSERT INTO orders VALUES (4); SELECT pg_sleep(600)");
/// Works once somebody has made the table `public.gate`.
const GATED: (&str, &str) = ("V1__ask.sql", "CREATE TABLE orders AS SELECT * FROM public.gate");

const SERVER: &str = "registry.example/orders-1/by-hand:1";
const NEXT_SERVER: &str = "registry.example/orders-2/by-hand:1";

/// A namespace with a host, a database and somebody who runs pods.
struct World {
    ns: Namespace,
    _host: Host,
    kubelet: Kubelet,
    /// The administrator's way to the database.
    database: Settings,
    postgres: Arc<Postgres>,
    _files: TempDir,
}

/// Images of migrators are called `migrator-<name>` after the sets of files that they bring along.
async fn world(name: &str, migrators: &[(&str, &[(&str, &str)])]) -> World {
    let ns = TestCluster::shared().await.namespace(name).await;
    let host = ns.host().await;
    ns.install(&component("domain").await).await;
    let files = tempfile::tempdir().unwrap();
    let mut images: Vec<Image> = [SERVER, NEXT_SERVER].map(server).into();
    images.extend(migrators.iter().map(|(name, sql)| migrator(name, files.path(), sql)));
    let kubelet = Kubelet::start(&ns, images).await;
    let postgres = Postgres::shared().await;
    let database = postgres.cluster(&ns, "main", "orders").await;
    World { ns, _host: host, kubelet, database, postgres, _files: files }
}

fn server(image: &str) -> Image {
    Image { name: image.into(), program: kubelet::program("transom-reader"), env: Vec::new(), serves: true }
}

fn migrator(name: &str, files: &Path, sql: &[(&str, &str)]) -> Image {
    let folder = files.join(name);
    std::fs::create_dir(&folder).unwrap();
    sql.iter().for_each(|(file, sql)| std::fs::write(folder.join(file), sql).unwrap());
    Image {
        name: image(name),
        program: kubelet::program("transom-migrator"),
        env: vec![("MIGRATIONS_DIR".into(), folder.display().to_string())],
        serves: false,
    }
}

fn image(migrator: &str) -> String {
    format!("registry.example/migrator-{migrator}/by-hand:1")
}

fn orders(migrator: &str) -> Value {
    json!({
        "apiVersion": "ameide.io/v1", "kind": "Domain", "metadata": { "name": "orders" },
        "spec": {
            "image": SERVER, "replicas": 1,
            "db": { "clusterRef": "cnpg/main", "schema": "orders", "migrationJobImage": image(migrator) },
        },
    })
}

impl World {
    /// Makes the Domain `orders` with this migrator, and waits until it is Ready.
    async fn ready(&self, migrator: &str, retention: &str) -> Value {
        let mut domain = orders(migrator);
        domain["spec"]["db"]["retention"] = json!(retention);
        let domain = self.ns.create(domain).await;
        self.ns.wait_for(&domain, condition("Ready", "True")).await
    }

    /// The first column of what the administrator reads.
    async fn query(&self, sql: &str) -> Vec<String> {
        let client = self.database.connect().await.unwrap();
        client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    async fn execute(&self, sql: &str) {
        self.database.connect().await.unwrap().batch_execute(sql).await.unwrap();
    }

    async fn versions(&self) -> Vec<String> {
        self.query("SELECT version FROM orders.schema_version ORDER BY number").await
    }

    async fn has_schema(&self) -> bool {
        !self.query("SELECT nspname::text FROM pg_namespace WHERE nspname = 'orders'").await.is_empty()
    }

    async fn migration(&self) -> Value {
        let jobs = self.ns.list::<Job>().await;
        let [job] = jobs.as_slice() else { panic!("one Job: {jobs:#?}") };
        job.clone()
    }

    /// What the server of this image has read.
    async fn wait_for_reader(&self, image: &str) -> String {
        self.ns
            .wait_for_any::<Pod>("app.kubernetes.io/name=domain", |pod| {
                let ready = condition_of(pod, "Ready")["status"] == "True";
                pod["spec"]["containers"][0]["image"] == image && ready
            })
            .await;
        let runs = self.kubelet.runs_of("domain");
        let run = runs.into_iter().rev().find(|run| run.image == image).expect("it was run");
        run.printed.expect("it is ready")
    }

    async fn event(&self, reason: &str) -> Value {
        self.ns.wait_for_any::<Event>("", |event| event["reason"] == reason).await
    }
}

#[tokio::test]
async fn d8_migrations_run_and_the_server_reads_the_schema_through_the_same_secret() {
    let world = world("d8-success", &[("1", &[FIRST, SECOND])]).await;
    let domain = world.ready("1", "Retain").await;
    assert_eq!(world.versions().await, ["V1__make_orders", "V2__add_status_column"]);
    let counted = world.query("SELECT count(*)::text FROM orders.orders WHERE status IS NULL").await;
    assert_eq!(counted, ["3"]);
    assert_eq!(domain["status"]["dbMigrationVersion"], "V2__add_status_column", "D4: as its container said");
    assert_eq!(world.wait_for_reader(SERVER).await, r#"["V1__make_orders","V2__add_status_column"]"#);

    let (migrations, servers) = (world.kubelet.runs_of("migration"), world.kubelet.runs_of("domain"));
    let database = |env: &std::collections::HashMap<String, String>| {
        ["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "DB_SCHEMA"].map(|name| env[name].clone())
    };
    assert_eq!(migrations.len(), 1);
    assert_eq!(database(&migrations[0].env), database(&servers[0].env));
    assert_eq!(migrations[0].env["DB_SCHEMA"], "orders");
    assert_eq!(migrations[0].env["PGUSER"], world.database.database, "the application's role, no administrator");
}

#[tokio::test]
async fn d3_the_same_image_twice_migrates_once_and_a_new_one_again() {
    let world = world("d3-images", &[("1", &[FIRST]), ("2", &[FIRST, SECOND])]).await;
    let domain = world.ready("1", "Retain").await;
    let first = world.migration().await;
    let same = json!({ "spec": { "image": SERVER, "observability": { "logLevel": "debug" }, "db": { "retention": "Delete" } } });
    let domain = world.ns.merge(&domain, same).await;
    world.ns.wait_for(&domain, condition("Ready", "True")).await;
    assert_eq!(world.migration().await["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(world.kubelet.runs_of("migration").len(), 1);

    let next = json!({ "spec": { "image": NEXT_SERVER, "db": { "migrationJobImage": image("2") } } });
    let domain = world.ns.merge(&domain, next).await;
    let ready = world.ns.wait_for(&domain, condition("Ready", "True")).await;
    assert_eq!(ready["status"]["dbMigrationVersion"], "V2__add_status_column");
    assert_eq!(world.wait_for_reader(NEXT_SERVER).await, r#"["V1__make_orders","V2__add_status_column"]"#);
    world.ns.wait_gone(&first).await;
    assert_eq!(world.kubelet.runs_of("migration").len(), 2);
    assert_eq!(world.versions().await, ["V1__make_orders", "V2__add_status_column"], "each once");

    // Another server, the same migrator: it is run again, and finds nothing to do.
    let domain = world.ns.merge(&domain, json!({ "spec": { "image": SERVER } })).await;
    world.ns.wait_for(&domain, condition("Ready", "True")).await;
    assert_eq!(world.kubelet.runs_of("migration").len(), 3);
    assert_eq!(world.versions().await, ["V1__make_orders", "V2__add_status_column"]);
}

#[tokio::test]
async fn d3_a_migration_that_fails_is_tried_again() {
    let world = world("d3-retry", &[("gated", &[GATED])]).await;
    let domain = world.ns.create(orders("gated")).await;
    let failed_once = |job: &Value| job["status"]["failed"] == 1;
    world.ns.wait_for_any::<Job>("ameide.io/job=migration", failed_once).await;
    assert_eq!(world.ns.find(of::<Deployment>("orders")).await, None, "it waits");
    assert_eq!(world.versions().await, Vec::<String>::new(), "what failed is undone");

    let owner = &world.database.database;
    world
        .execute(&format!("CREATE TABLE public.gate AS SELECT 1 AS id; ALTER TABLE public.gate OWNER TO \"{owner}\""))
        .await;
    let ready = world.ns.wait_for(&domain, condition("Ready", "True")).await;
    assert_eq!(ready["status"]["dbMigrationVersion"], "V1__ask");
    let codes: Vec<Option<i32>> = world.kubelet.runs_of("migration").iter().map(|run| run.exit_code).collect();
    assert_eq!((codes.first(), codes.last()), (Some(&Some(1)), Some(&Some(0))));
    assert_eq!(world.wait_for_reader(SERVER).await, r#"["V1__ask"]"#);
}

#[tokio::test]
async fn d3_a_migration_that_fails_for_good_leaves_the_running_version_up() {
    let world = world("d3-failure", &[("1", &[FIRST]), ("broken", &[FIRST, BROKEN])]).await;
    let domain = world.ready("1", "Retain").await;
    let running = world.ns.get(of::<Deployment>("orders")).await;
    let next = json!({ "spec": { "image": NEXT_SERVER, "db": { "migrationJobImage": image("broken") } } });
    let domain = world.ns.merge(&domain, next).await;
    // Kubernetes waits 10, 20 and 40 s between the tries.
    world.ns.wait_for_any::<Job>("ameide.io/job=migration", |job| job["status"]["failed"].as_i64() >= Some(3)).await;
    let failed = world.ns.wait_for(&domain, condition("MigrationFailed", "True")).await;
    let message = condition_of(&failed, "MigrationFailed")["message"].to_string();
    assert!(message.contains("BackoffLimitExceeded"), "{message}");
    assert_eq!(condition_of(&failed, "Ready")["reason"], "MigrationFailed");
    assert_eq!(condition_of(&failed, "WorkloadReady")["status"], "True");
    assert_eq!(world.ns.get(of::<Deployment>("orders")).await["spec"], running["spec"]);
    assert_eq!(failed["status"]["dbMigrationVersion"], "V1__make_orders", "the schema's version is what it was");
    assert_eq!(world.versions().await, ["V1__make_orders"]);
    assert_eq!(world.query("SELECT count(*)::text FROM orders.orders").await, ["3"], "undone");
    assert_eq!(world.kubelet.runs_of("migration").len(), 5, "one that worked, four tries");
    assert_eq!(world.kubelet.runs_of("domain").len(), 1, "the server was not touched");
}

#[tokio::test]
async fn d3_a_migration_that_takes_too_long_is_ended() {
    let world = world("d3-timeout", &[("1", &[FIRST]), ("endless", &[FIRST, ENDLESS])]).await;
    let domain = world.ready("1", "Retain").await;
    let db = json!({ "migrationJobImage": image("endless"), "migrationTimeout": "4s" });
    let domain = world.ns.merge(&domain, json!({ "spec": { "image": NEXT_SERVER, "db": db } })).await;
    let failed = world.ns.wait_for(&domain, condition("MigrationFailed", "True")).await;
    let message = condition_of(&failed, "MigrationFailed")["message"].to_string();
    assert!(message.contains("DeadlineExceeded"), "{message}");
    assert_eq!(condition_of(&failed, "WorkloadReady")["status"], "True");
    assert_eq!(world.versions().await, ["V1__make_orders"]);
    assert_eq!(world.wait_for_reader(SERVER).await, r#"["V1__make_orders"]"#);

    // Back to the version that works.
    let back = json!({ "spec": {
        "image": SERVER, "db": { "migrationJobImage": image("1"), "migrationTimeout": "10m" },
    } });
    let domain = world.ns.merge(&domain, back).await;
    world.ns.wait_for(&domain, condition("Ready", "True")).await;
}

#[tokio::test]
async fn d7_retention_delete_drops_the_schema_before_the_domain_goes() {
    let world = world("d7-delete", &[("1", &[FIRST])]).await;
    let domain = world.ready("1", "Delete").await;
    world.execute("CREATE SCHEMA billing; CREATE TABLE billing.invoices AS SELECT 1 AS id").await;
    assert!(world.has_schema().await);
    world.ns.delete(&domain).await;
    world.event("SchemaDropped").await;
    world.ns.wait_gone(&domain).await;
    assert!(!world.has_schema().await);
    assert_eq!(world.query("SELECT id::text FROM billing.invoices").await, ["1"], "nobody else's schema");
    let runs = world.kubelet.runs_of("clean-up");
    assert_eq!(
        runs.iter().map(|run| (&run.arguments, run.exit_code)).collect::<Vec<_>>(),
        [(&vec!["drop".into()], Some(0))]
    );
    assert_eq!(world.ns.list::<Job>().await, Vec::<Value>::new());
    assert_eq!(world.ns.list::<Deployment>().await, Vec::<Value>::new());
}

#[tokio::test]
async fn d7_retention_retain_leaves_the_schema_and_a_new_domain_finds_it() {
    let world = world("d7-retain", &[("1", &[FIRST]), ("2", &[FIRST, SECOND])]).await;
    let domain = world.ready("1", "Retain").await;
    world.ns.delete(&domain).await;
    world.ns.wait_gone(&domain).await;
    assert_eq!(world.versions().await, ["V1__make_orders"]);
    assert_eq!(world.kubelet.runs_of("clean-up"), []);

    let domain = world.ready("2", "Retain").await;
    assert_eq!(domain["status"]["dbMigrationVersion"], "V2__add_status_column");
    assert_eq!(world.query("SELECT count(*)::text FROM orders.orders").await, ["3"], "its data is there");
}

#[tokio::test]
async fn d7_a_domain_whose_database_cluster_is_gone_goes_without_its_clean_up() {
    let world = world("d7-gone", &[("1", &[FIRST])]).await;
    let domain = world.ready("1", "Delete").await;
    world.ns.delete(of::<sample::Cluster>("main")).await;
    world.ns.wait_for(&domain, condition("DBReady", "False").because("ClusterNotFound")).await;
    world.ns.delete(&domain).await;
    world.event("DatabaseGone").await;
    world.ns.wait_gone(&domain).await;
    assert_eq!(world.kubelet.runs_of("clean-up"), []);
    assert!(world.has_schema().await, "the test's server has it still: nobody was asked");
}

#[tokio::test]
async fn d7_a_clean_up_that_fails_keeps_the_domain_until_somebody_decides() {
    let world = world("d7-stuck", &[("1", &[FIRST])]).await;
    let mut domain = orders("1");
    domain["spec"]["db"]["retention"] = json!("Delete");
    domain["spec"]["db"]["migrationTimeout"] = json!("15s");
    let domain = world.ns.create(domain).await;
    let domain = world.ns.wait_for(&domain, condition("Ready", "True")).await;
    let administrator = world.postgres.superuser("postgres", "orders").user;
    world.execute(&format!("ALTER SCHEMA orders OWNER TO {administrator}")).await;
    world.ns.delete(&domain).await;
    let stuck = world.ns.wait_for(&domain, condition("Degraded", "True").because("CleanUpFailed")).await;
    assert_eq!(condition_of(&stuck, "Ready")["status"], "False");
    assert!(world.has_schema().await);

    // With the right to do it, and another try.
    let owner = &world.database.database;
    world.execute(&format!("ALTER SCHEMA orders OWNER TO \"{owner}\"")).await;
    let failed = world.ns.wait_for_any::<Job>("ameide.io/job=clean-up", |_| true).await;
    world.ns.delete(&failed).await;
    world.ns.wait_gone(&domain).await;
    assert!(!world.has_schema().await);
}
