//! The catalog between a real PostgreSQL and a real control plane. The tests play the operator.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, and serde_json's index yields null where nothing is"
)]

mod api;
mod flow;
mod keys;
mod mirror;
mod oidc;
mod outage;
mod random;
mod support;

use serde_json::{Value, json};
use uuid::Uuid;

use support::{ADMIN, Namespace, Postgres, Proxy, Service, TestCluster};

/// What most tests need, and the catalog between.
struct World {
    service: Service,
    postgres: std::sync::Arc<Postgres>,
    database: String,
    ns: Namespace,
    _cluster: TestCluster,
}

impl World {
    async fn new(name: &str) -> Self {
        Self::with(name, None, &[]).await
    }

    async fn with(name: &str, proxy: Option<&Proxy>, extra: &[&str]) -> Self {
        let (cluster, postgres) = (TestCluster::get().await, Postgres::shared().await);
        let ns = cluster.namespace(name, proxy).await;
        let database = ns.name.clone();
        let url = postgres.database(&database, None).await;
        let service = Service::start(&ns, &url, extra).await;
        Self { service, postgres, database, ns, _cluster: cluster }
    }

    async fn sql(&self) -> tokio_postgres::Client {
        self.postgres.connect(&self.database).await.unwrap()
    }

    /// A template version, by its id.
    async fn template(&self) -> String {
        template(&self.service).await
    }
}

async fn template(service: &Service) -> String {
    let body = json!({
        "chart": { "oci": { "reference": "charts/shop" }, "digest": format!("sha256:{}", "0a".repeat(32)) },
        "defaultValues": { "replicas": 1 },
    });
    service.http.post("/template-versions", ADMIN, &body).await.expect(201).id()
}

/// An order with a domain name of its own.
fn order(template: &str) -> Value {
    json!({ "productTemplateVersion": template, "domainName": format!("shop-{}.example.org", Uuid::now_v7()) })
}

fn with(mut order: Value, more: Value) -> Value {
    let more = more.as_object().unwrap().clone();
    order.as_object_mut().unwrap().extend(more);
    order
}

fn id(text: &str) -> Uuid {
    text.parse().unwrap()
}
