use anyhow::{Context as _, Result, ensure};
use tokio_postgres::Client;

use crate::{Migration, quoted};

/// Versions that were run, in the schema that they made.
const TABLE: &str = "schema_version";

/// Runs the migrations that this schema does not have yet, each in a transaction of its own together with its record,
/// one migrator at a time. Returns the version that the schema has then.
///
/// # Errors
///
/// When a migration fails (what came before stays), or the schema has a version that is not among `migrations`: it is
/// newer than this migrator.
pub async fn migrate(client: &mut Client, schema: &str, migrations: &[Migration]) -> Result<String> {
    let (schema_name, table) = (quoted(schema), format!("{}.{TABLE}", quoted(schema)));
    // A migrator that is killed must not live on in the server: it would hold the lock until its statement ends.
    let alive = "SET client_connection_check_interval TO '1s'";
    client.batch_execute(alive).await.context("failed to prepare the connection, which needs PostgreSQL 14")?;
    // two migrators of one schema take turns; the lock goes with the connection
    client.execute("SELECT pg_advisory_lock(hashtext($1))", &[&schema]).await.context("failed to lock the schema")?;
    let prepare = format!(
        "CREATE SCHEMA IF NOT EXISTS {schema_name};
         CREATE TABLE IF NOT EXISTS {table} (
             number integer PRIMARY KEY, version text NOT NULL, installed_at timestamptz NOT NULL DEFAULT now()
         );
         SET search_path TO {schema_name}"
    );
    client.batch_execute(&prepare).await.with_context(|| format!("failed to prepare the schema {schema}"))?;
    let rows = client.query(&format!("SELECT version FROM {table} ORDER BY number"), &[]).await?;
    let done: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    for version in &done {
        let known = migrations.iter().any(|migration| migration.version == *version);
        ensure!(known, "the schema {schema} has {version}, which this migrator does not know");
    }
    for migration in migrations.iter().filter(|migration| !done.contains(&migration.version)) {
        let version = &migration.version;
        let transaction = client.transaction().await?;
        transaction.batch_execute(&migration.sql).await.with_context(|| format!("{version} failed"))?;
        let number = i32::try_from(migration.number).context("the number is too large")?;
        let record = format!("INSERT INTO {table} (number, version) VALUES ($1, $2)");
        transaction.execute(&record, &[&number, version]).await.with_context(|| format!("{version} failed"))?;
        transaction.commit().await.with_context(|| format!("{version} failed"))?;
        println!("ran {version}");
    }
    Ok(migrations.last().map(|migration| migration.version.clone()).unwrap_or_default())
}

/// Drops the schema and all that is in it; none of that name is fine.
///
/// # Errors
///
/// When the server refuses.
pub async fn drop_schema(client: &Client, schema: &str) -> Result<()> {
    let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(schema));
    client.batch_execute(&drop).await.with_context(|| format!("failed to drop the schema {schema}"))
}
