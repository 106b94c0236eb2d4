use tokio_postgres::{Client, GenericClient};

use super::Error;

/// In the order in which they run. One that was released is never changed: what comes later is another file.
const MIGRATIONS: [(&str, &str); 2] = [
    ("0001_tables", include_str!("../../migrations/0001_tables.sql")),
    ("0002_notify", include_str!("../../migrations/0002_notify.sql")),
];

/// One migrator at a time: `transomc`, as a number.
const LOCK: i64 = 0x7472_616e_736f_6d63;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS catalog_schema_version (
    number integer PRIMARY KEY, name text NOT NULL, installed_at timestamptz NOT NULL DEFAULT now()
)";

/// Runs what the database does not have yet: all or nothing.
pub(super) async fn migrate(client: &mut Client) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    // The other one may take its time.
    transaction.batch_execute("SET LOCAL statement_timeout = '5min'; SET LOCAL lock_timeout = '5min'").await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    transaction.batch_execute(TABLE).await?;
    let done = installed(&transaction).await?;
    for (number, (name, sql)) in (1_i32..).zip(MIGRATIONS).skip(done) {
        transaction.batch_execute(sql).await?;
        let record = "INSERT INTO catalog_schema_version (number, name) VALUES ($1, $2)";
        transaction.execute(record, &[&number, &name]).await?;
        tracing::info!(migration = name, "migrated the database");
    }
    transaction.commit().await?;
    Ok(())
}

/// All migrations are there, and no others.
pub(super) async fn check(client: &impl GenericClient) -> Result<(), Error> {
    match installed(client).await? {
        done if done == MIGRATIONS.len() => Ok(()),
        done => Err(Error::Schema(format!(
            "the database has {done} of {} migrations: run `transom-catalog migrate`",
            MIGRATIONS.len()
        ))),
    }
}

/// How many of the migrations the database has.
async fn installed(client: &impl GenericClient) -> Result<usize, Error> {
    let rows = client.query("SELECT name FROM catalog_schema_version ORDER BY number", &[]).await?;
    for (index, row) in rows.iter().enumerate() {
        let name: &str = row.try_get(0)?;
        if MIGRATIONS.get(index).is_none_or(|(known, _)| *known != name) {
            let text =
                format!("the database has the migration {name}, which this version does not know: use a newer one");
            return Err(Error::Schema(text));
        }
    }
    Ok(rows.len())
}
