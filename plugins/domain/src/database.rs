use k8s_openapi::api::core::v1::{EnvVar, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use transom_sdk::objects::{env, env_from_secret};
use transom_sdk::prelude::*;

use crate::spec::{Database, Domain};

/// A CloudNativePG cluster; all that matters here is that it exists and stays.
#[derive(Deserialize)]
pub(crate) struct Cluster {
    metadata: ObjectMeta,
}
transom_sdk::foreign!(Cluster, "postgresql.cnpg.io/v1", "Cluster");

/// What keeps a Domain from its database: a condition reason and a sentence.
pub(crate) struct Missing {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Whether the Domain's database cluster is there, and not on its way out.
pub(crate) fn stays(domain: &Domain, cx: &Context) -> Result<bool, Failure> {
    let cluster = cx.get::<Cluster>(domain.spec.db.cluster())?;
    Ok(cluster.is_some_and(|cluster| cluster.metadata.deletion_timestamp.is_none()))
}

/// The Domain's database, looked up in its namespace.
pub(crate) fn find(domain: &Domain, cx: &Context) -> Result<Result<(), Missing>, Failure> {
    let database = &domain.spec.db;
    let (cluster, secret) = (database.cluster(), database.secret());
    let (found_cluster, found_secret) = (cx.get::<Cluster>(cluster), cx.get::<Secret>(&secret));
    if found_cluster?.is_none() {
        let message = format!("there is no CloudNativePG cluster {cluster} in this namespace");
        return Ok(Err(Missing { reason: "ClusterNotFound", message }));
    }
    if found_secret?.is_none() {
        let message = format!("there is no secret {secret} yet; CloudNativePG makes it for cluster {cluster}");
        return Ok(Err(Missing { reason: "SecretNotFound", message }));
    }
    Ok(Ok(()))
}

/// Environment variables that every container of a Domain gets; those of libpq are taken from the secret's keys
/// (cloudnative-pg/cloudnative-pg: `docs/src/applications.md`).
pub(crate) const VARIABLES: [(&str, &str); 5] =
    [("PGHOST", "host"), ("PGPORT", "port"), ("PGUSER", "user"), ("PGPASSWORD", "password"), ("PGDATABASE", "dbname")];

/// Names the Domain's schema.
pub(crate) const SCHEMA_VARIABLE: &str = "DB_SCHEMA";

/// How a container reaches the database.
pub(crate) fn environment(database: &Database) -> Vec<EnvVar> {
    let secret = database.secret();
    let mut environment: Vec<EnvVar> =
        VARIABLES.iter().map(|(variable, key)| env_from_secret(variable, &secret, key)).collect();
    environment.push(env(SCHEMA_VARIABLE, &database.schema));
    environment
}

impl Database {
    /// `orders` of `cnpg/orders`.
    pub(crate) fn cluster(&self) -> &str {
        self.cluster_ref.strip_prefix("cnpg/").unwrap_or(&self.cluster_ref)
    }

    fn secret(&self) -> String {
        format!("{}-app", self.cluster())
    }
}
