//! The tables, row by row. Every function takes a connection or a transaction.

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio_postgres::types::{Json, ToSql};
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use super::Error;
use crate::seal::{Keyring, Place};

/// A JSON object.
pub type Object = Map<String, Value>;

/// How far an instance is, in the words of its custom resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub enum Phase {
    /// Nothing runs yet.
    Pending,
    /// What is wanted runs.
    Running,
    /// It does not, and will not without a change.
    Failed,
    /// Another release is on its way.
    Upgrading,
}

impl Phase {
    /// As in the database and the cluster.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Failed => "Failed",
            Self::Upgrading => "Upgrading",
        }
    }

    /// None for other words.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Failed, Self::Upgrading].into_iter().find(|phase| phase.as_str() == text)
    }
}

/// A row of `product_template_version`.
#[derive(Clone, Debug)]
pub struct Template {
    /// Also the name in the cluster.
    pub id: Uuid,
    /// Source and digest.
    pub chart: Object,
    /// What the chart is given.
    pub default_values: Object,
    /// Where the chart wants the domain name.
    pub domain_paths: Vec<String>,
    /// For how long a step may take; none: as the operator has it.
    pub timeout_seconds: Option<i32>,
    /// By the database's clock.
    pub created_at: Timestamp,
}

/// How far an instance is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// In one word.
    pub phase: Phase,
    /// In some words, or empty.
    pub message: String,
    /// Counts releases, from 1; none before the first.
    pub release_revision: Option<i64>,
    /// When phase or release last changed.
    pub last_reconcile: Option<Timestamp>,
}

/// A row of `deployment_instance`.
#[derive(Clone)]
pub struct Instance {
    /// Also the name in the cluster.
    pub id: Uuid,
    /// Whose it is.
    pub user_id: String,
    /// Of which template version.
    pub template: Uuid,
    /// Its own namespace.
    pub namespace: String,
    /// Where it is reached.
    pub domain_name: String,
    /// Over the template's values.
    pub overrides: Object,
    /// Over those, sealed.
    pub sealed: Option<Vec<u8>>,
    /// Since which generation.
    pub secrets_generation: i64,
    /// Counts changes of what is wanted, from 1.
    pub generation: i64,
    /// As the cluster last said.
    pub status: Status,
    /// By the database's clock.
    pub created_at: Timestamp,
    /// When what is wanted last changed.
    pub updated_at: Timestamp,
    /// When somebody wanted it gone.
    pub deleted_at: Option<Timestamp>,
    /// When nothing of it was left in the cluster.
    pub gone_at: Option<Timestamp>,
}

/// What a new instance needs.
pub struct NewInstance {
    /// Made by the caller, because secrets are sealed for it.
    pub id: Uuid,
    /// See [`Instance`].
    pub user_id: String,
    /// See [`Instance`].
    pub template: Uuid,
    /// See [`Instance`].
    pub namespace: String,
    /// See [`Instance`].
    pub domain_name: String,
    /// See [`Instance`].
    pub overrides: Object,
    /// See [`Instance`].
    pub sealed: Option<Vec<u8>>,
}

/// What another release is to be; none leaves as it is.
pub struct Change {
    /// The template version.
    pub template: Uuid,
    /// All of them.
    pub overrides: Option<Object>,
    /// All of them; none inside takes them away.
    pub sealed: Option<Option<Vec<u8>>>,
}

const TEMPLATE: &str = "id, chart, default_values, domain_paths, timeout_seconds, created_at";

const INSTANCE: &str = "id, user_id, product_template_version_id, namespace, domain_name, overrides, secrets, secrets_generation, \
    generation,     status, message, release_revision, last_reconcile, created_at, updated_at, deleted_at, gone_at";

fn template_of(row: &Row) -> Result<Template, Error> {
    let (Json(chart), Json(default_values)) = (row.try_get("chart")?, row.try_get("default_values")?);
    Ok(Template {
        id: row.try_get("id")?,
        chart,
        default_values,
        domain_paths: row.try_get("domain_paths")?,
        timeout_seconds: row.try_get("timeout_seconds")?,
        created_at: row.try_get("created_at")?,
    })
}

fn instance_of(row: &Row) -> Result<Instance, Error> {
    let phase: &str = row.try_get("status")?;
    let status = Status {
        phase: Phase::parse(phase).ok_or_else(|| Error::Schema(format!("the database has the status {phase}")))?,
        message: row.try_get("message")?,
        release_revision: row.try_get("release_revision")?,
        last_reconcile: row.try_get("last_reconcile")?,
    };
    let Json(overrides) = row.try_get("overrides")?;
    Ok(Instance {
        id: row.try_get("id")?,
        user_id: row.try_get("user_id")?,
        template: row.try_get("product_template_version_id")?,
        namespace: row.try_get("namespace")?,
        domain_name: row.try_get("domain_name")?,
        overrides,
        sealed: row.try_get("secrets")?,
        secrets_generation: row.try_get("secrets_generation")?,
        generation: row.try_get("generation")?,
        status,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        deleted_at: row.try_get("deleted_at")?,
        gone_at: row.try_get("gone_at")?,
    })
}

/// Which catalog this is: made once with the database.
///
/// # Errors
///
/// As the database says.
pub async fn catalog(client: &impl GenericClient) -> Result<Uuid, Error> {
    Ok(client.query_one("SELECT id FROM catalog", &[]).await?.try_get(0)?)
}

/// What a new template version needs; see [`Template`].
pub struct NewTemplate {
    /// Source and digest.
    pub chart: Object,
    /// What the chart is given.
    pub default_values: Object,
    /// Where the chart wants the domain name.
    pub domain_paths: Vec<String>,
    /// For how long a step may take.
    pub timeout_seconds: Option<i32>,
}

/// Adds a template version.
///
/// # Errors
///
/// As the database says.
pub async fn insert_template(client: &impl GenericClient, new: NewTemplate) -> Result<Template, Error> {
    let sql = format!(
        "INSERT INTO product_template_version (id, chart, default_values, domain_paths, timeout_seconds)
        VALUES ($1, $2, $3, $4, $5) RETURNING {TEMPLATE}"
    );
    let (chart, values) = (Json(new.chart), Json(new.default_values));
    let parameters: [&(dyn ToSql + Sync); 5] =
        [&Uuid::now_v7(), &chart, &values, &new.domain_paths, &new.timeout_seconds];
    template_of(&client.query_one(&sql, &parameters).await?)
}

/// One template version.
///
/// # Errors
///
/// As the database says.
pub async fn template(client: &impl GenericClient, id: Uuid) -> Result<Option<Template>, Error> {
    let sql = format!("SELECT {TEMPLATE} FROM product_template_version WHERE id = $1");
    client.query_opt(&sql, &[&id]).await?.as_ref().map(template_of).transpose()
}

/// Template versions after the one with that id, by id.
///
/// # Errors
///
/// As the database says.
pub async fn templates(client: &impl GenericClient, after: Uuid, limit: i64) -> Result<Vec<Template>, Error> {
    let sql = format!("SELECT {TEMPLATE} FROM product_template_version WHERE id > $1 ORDER BY id LIMIT $2");
    client.query(&sql, &[&after, &limit]).await?.iter().map(template_of).collect()
}

/// Adds an instance.
///
/// # Errors
///
/// As the database says; [`Error::constraint`] names what another instance has already.
pub async fn insert_instance(client: &impl GenericClient, new: NewInstance) -> Result<Instance, Error> {
    let sql = format!(
        "INSERT INTO deployment_instance
            (id, user_id, product_template_version_id, namespace, domain_name, overrides, secrets)
        VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {INSTANCE}"
    );
    let NewInstance { id, user_id, template, namespace, domain_name, overrides, sealed } = new;
    let row = client
        .query_one(&sql, &[&id, &user_id, &template, &namespace, &domain_name, &Json(overrides), &sealed])
        .await?;
    instance_of(&row)
}

/// One instance, even one that is a tombstone.
///
/// # Errors
///
/// As the database says.
pub async fn instance(client: &impl GenericClient, id: Uuid) -> Result<Option<Instance>, Error> {
    let sql = format!("SELECT {INSTANCE} FROM deployment_instance WHERE id = $1");
    client.query_opt(&sql, &[&id]).await?.as_ref().map(instance_of).transpose()
}

/// One instance that is not gone, and nobody else changes it until the end of the transaction.
///
/// # Errors
///
/// As the database says.
pub async fn lock_instance(client: &impl GenericClient, id: Uuid) -> Result<Option<Instance>, Error> {
    let sql = format!("SELECT {INSTANCE} FROM deployment_instance WHERE id = $1 AND gone_at IS NULL FOR UPDATE");
    client.query_opt(&sql, &[&id]).await?.as_ref().map(instance_of).transpose()
}

/// Instances that are not gone, of one user or of all, after the one with that id, by id.
///
/// # Errors
///
/// As the database says.
pub async fn instances(
    client: &impl GenericClient,
    user_id: Option<&str>,
    after: Uuid,
    limit: i64,
) -> Result<Vec<Instance>, Error> {
    let sql = format!(
        "SELECT {INSTANCE} FROM deployment_instance
        WHERE gone_at IS NULL AND id > $1 AND ($2::text IS NULL OR user_id = $2) ORDER BY id LIMIT $3"
    );
    client.query(&sql, &[&after, &user_id, &limit]).await?.iter().map(instance_of).collect()
}

/// Changes what is wanted of an instance.
///
/// # Errors
///
/// As the database says.
pub async fn change_instance(client: &impl GenericClient, id: Uuid, change: Change) -> Result<Instance, Error> {
    let sql = format!(
        "UPDATE deployment_instance SET
            product_template_version_id = $2,
            overrides = coalesce($3, overrides),
            secrets = CASE WHEN $4 THEN $5 ELSE secrets END,
            secrets_generation = CASE WHEN $4 THEN generation + 1 ELSE secrets_generation END,
            generation = generation + 1,
            status = CASE WHEN release_revision IS NULL THEN 'Pending' ELSE 'Upgrading' END,
            message = ''
        WHERE id = $1 RETURNING {INSTANCE}"
    );
    let (has_secrets, sealed) = (change.sealed.is_some(), change.sealed.flatten());
    let overrides = change.overrides.map(Json);
    let row = client.query_one(&sql, &[&id, &change.template, &overrides, &has_secrets, &sealed]).await?;
    instance_of(&row)
}

/// Wants an instance gone; once more changes nothing.
///
/// # Errors
///
/// As the database says.
pub async fn delete_instance(client: &impl GenericClient, id: Uuid) -> Result<Instance, Error> {
    let sql = format!(
        "UPDATE deployment_instance SET deleted_at = coalesce(deleted_at, now()) WHERE id = $1 RETURNING {INSTANCE}"
    );
    instance_of(&client.query_one(&sql, &[&id]).await?)
}

/// Nothing of an instance is left in the cluster: it becomes a tombstone, and its secrets are forgotten.
///
/// # Errors
///
/// As the database says.
pub async fn bury_instance(client: &impl GenericClient, id: Uuid) -> Result<bool, Error> {
    let sql = "UPDATE deployment_instance SET gone_at = now(), secrets = NULL
        WHERE id = $1 AND deleted_at IS NOT NULL AND gone_at IS NULL";
    Ok(client.execute(sql, &[&id]).await? > 0)
}

/// What the cluster says, of what is wanted in that generation. Writes only what differs; true when it wrote.
///
/// # Errors
///
/// As the database says.
pub async fn set_status(
    client: &impl GenericClient,
    id: Uuid,
    generation: i64,
    status: &Status,
) -> Result<bool, Error> {
    let sql = "UPDATE deployment_instance SET status = $3, message = $4, release_revision = $5, last_reconcile = $6
        WHERE id = $1 AND generation = $2 AND gone_at IS NULL
        AND (status, message, release_revision, last_reconcile) IS DISTINCT FROM ($3, $4, $5, $6)";
    let Status { phase, message, release_revision, last_reconcile } = status;
    // PostgreSQL keeps microseconds: more would differ for ever
    let micros = last_reconcile.map(|time| Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time));
    let phase = phase.as_str();
    Ok(client.execute(sql, &[&id, &generation, &phase, message, release_revision, &micros]).await? > 0)
}

/// Everything that the cluster should have or lose: all template versions, all instances that are not gone.
///
/// # Errors
///
/// As the database says.
pub async fn all_ids(client: &impl GenericClient) -> Result<(Vec<Uuid>, Vec<Uuid>), Error> {
    let templates = client.query("SELECT id FROM product_template_version", &[]).await?;
    let instances = client.query("SELECT id FROM deployment_instance WHERE gone_at IS NULL", &[]).await?;
    let ids = |rows: Vec<Row>| rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>();
    Ok((ids(templates)?, ids(instances)?))
}

/// Forgets answers after two days and tombstones after thirty.
///
/// # Errors
///
/// As the database says.
pub async fn purge(client: &impl GenericClient) -> Result<u64, Error> {
    let keys = "DELETE FROM idempotency_key WHERE created_at < now() - interval '2 days'";
    let tombstones = "DELETE FROM deployment_instance WHERE gone_at < now() - interval '30 days'";
    Ok(client.execute(keys, &[]).await? + client.execute(tombstones, &[]).await?)
}

/// An answer that was given before.
pub struct Answer {
    /// The request that it was for, as a sealed digest.
    pub request: Vec<u8>,
    /// Its status code.
    pub status: i16,
    /// Its body.
    pub body: Value,
}

/// Takes an idempotency key until the end of the transaction, or tells what was answered under it. Waits for another
/// transaction that has it.
///
/// # Errors
///
/// As the database says.
pub async fn claim_key(
    client: &impl GenericClient,
    user_id: &str,
    key: &str,
    request: &[u8],
) -> Result<Option<Answer>, Error> {
    let insert = "INSERT INTO idempotency_key (user_id, key, request, status, body) VALUES ($1, $2, $3, 0, 'null')
        ON CONFLICT DO NOTHING";
    if client.execute(insert, &[&user_id, &key, &request]).await? > 0 {
        return Ok(None);
    }
    let select = "SELECT request, status, body FROM idempotency_key WHERE user_id = $1 AND key = $2";
    let row = client.query_one(select, &[&user_id, &key]).await?;
    Ok(Some(Answer { request: row.try_get(0)?, status: row.try_get(1)?, body: row.try_get(2)? }))
}

/// Keeps the answer for a key that was taken in this transaction.
///
/// # Errors
///
/// As the database says.
pub async fn keep_answer(
    client: &impl GenericClient,
    user_id: &str,
    key: &str,
    status: i16,
    body: &Value,
) -> Result<(), Error> {
    let sql = "UPDATE idempotency_key SET status = $3, body = $4 WHERE user_id = $1 AND key = $2";
    client.execute(sql, &[&user_id, &key, &status, body]).await?;
    Ok(())
}

/// Seals everything that another key has sealed under the first key of the ring. What is changed meanwhile is sealed
/// under it by whoever changes it. Returns how many texts were sealed.
///
/// # Errors
///
/// As the database says; names the row that does not open.
pub async fn rotate(client: &impl GenericClient, keyring: &Keyring) -> Result<u64, Error> {
    let mut rotated = 0;
    // ids first: a catalog may have many secrets
    let ids = client.query("SELECT id FROM deployment_instance WHERE secrets IS NOT NULL ORDER BY id", &[]).await?;
    for row in ids {
        let id: Uuid = row.try_get(0)?;
        let Some(sealed) = instance(client, id).await?.and_then(|row| row.sealed) else { continue };
        if keyring.is_current(&sealed) {
            continue;
        }
        let place = Place::Instance(id);
        let again = keyring.open(place, &sealed).and_then(|plain| keyring.seal(place, &plain));
        let again =
            again.map_err(|source| Error::Sealed { table: "deployment_instance", row: id.to_string(), source })?;
        let sql = "UPDATE deployment_instance SET secrets = $2 WHERE id = $1 AND secrets = $3";
        rotated += client.execute(sql, &[&id, &again, &sealed]).await?;
    }
    let keys = client.query("SELECT user_id, key, request FROM idempotency_key", &[]).await?;
    for row in keys {
        let (user, key, sealed): (String, String, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if keyring.is_current(&sealed) {
            continue;
        }
        let place = Place::Request(&user, &key);
        let again = keyring.open(place, &sealed).and_then(|plain| keyring.seal(place, &plain));
        let again = again.map_err(|source| Error::Sealed { table: "idempotency_key", row: key.clone(), source })?;
        let sql = "UPDATE idempotency_key SET request = $3 WHERE user_id = $1 AND key = $2 AND request = $4";
        rotated += client.execute(sql, &[&user, &key, &again, &sealed]).await?;
    }
    Ok(rotated)
}
