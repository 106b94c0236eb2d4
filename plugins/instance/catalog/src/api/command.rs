//! Requests that change something: each in one transaction, together with its idempotency key.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio_postgres::Transaction;
use uuid::Uuid;

use super::App;
use super::problem::Problem;
use super::view::{InstanceView, NewInstance, NewTemplateVersion, TemplateVersionView, Upgrade};
use super::{check, owned};
use crate::auth::Identity;
use crate::database::{self, store};
use crate::seal::{Keyring, Place};

/// What is to change.
pub(super) enum Command {
    CreateTemplate(NewTemplateVersion),
    CreateInstance(NewInstance),
    Upgrade(Uuid, Upgrade),
    Delete(Uuid),
}

/// What a request is known by when it comes again.
pub(super) struct Once {
    pub(super) key: Option<String>,
    digest: [u8; 32],
}

impl Once {
    /// Bodies that mean the same are the same.
    pub(super) fn new(key: Option<String>, method: &Method, path: &str, body: &Bytes) -> Self {
        let canonical = serde_json::from_slice::<Value>(body).unwrap_or_default().to_string();
        let mut hash = Sha256::new();
        for part in [method.as_str(), path, &canonical] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self { key, digest: hash.finalize().into() }
    }
}

/// What was answered, now or earlier.
pub(super) struct Done {
    pub(super) status: StatusCode,
    pub(super) body: Value,
    pub(super) is_replay: bool,
}

/// Does it, once for a key, however often and however many at a time it is asked for.
pub(super) async fn run(app: &App, identity: &Identity, once: Once, command: Command) -> Result<Done, Problem> {
    let mut client = app.database.get().await?;
    let client: &mut tokio_postgres::Client = &mut client;
    let transaction = client.transaction().await?;
    if let Some(key) = &once.key {
        let place = Place::Request(&identity.subject, key);
        let sealed = app.keyring.seal(place, &once.digest).map_err(database::Error::from)?;
        if let Some(answer) = store::claim_key(&transaction, &identity.subject, key, &sealed).await? {
            return replay(&app.keyring, place, &once, answer);
        }
    }
    let (status, body) = carry_out(app, &transaction, identity, command).await?;
    if let Some(key) = &once.key {
        let code = i16::try_from(status.as_u16()).unwrap_or_default();
        store::keep_answer(&transaction, &identity.subject, key, code, &body).await?;
    }
    transaction.commit().await?;
    Ok(Done { status, body, is_replay: false })
}

fn replay(keyring: &Keyring, place: Place<'_>, once: &Once, answer: store::Answer) -> Result<Done, Problem> {
    // one that does not open any more was sealed under a key that is gone: nobody can say that it is the same
    let is_same = keyring.open(place, &answer.request).is_ok_and(|digest| digest.as_slice() == once.digest);
    if !is_same {
        let detail = "was used for another request: use a new key for each";
        return Err(Problem::field("header Idempotency-Key", detail));
    }
    let status = u16::try_from(answer.status).ok().and_then(|code| StatusCode::from_u16(code).ok());
    Ok(Done { status: status.unwrap_or(StatusCode::OK), body: answer.body, is_replay: true })
}

async fn carry_out(
    app: &App,
    transaction: &Transaction<'_>,
    identity: &Identity,
    command: Command,
) -> Result<(StatusCode, Value), Problem> {
    match command {
        Command::CreateTemplate(new) => {
            let row = store::insert_template(transaction, check::template(new)?).await?;
            Ok((StatusCode::CREATED, json(&TemplateVersionView::from(row))?))
        }
        Command::CreateInstance(new) => {
            let row = store::insert_instance(transaction, instance(app, identity, new)?).await?;
            Ok((StatusCode::CREATED, json(&InstanceView::from(row))?))
        }
        Command::Upgrade(id, upgrade) => {
            let row = owned(store::lock_instance(transaction, id).await?, identity)?;
            if !identity.is_admin && !app.users_may_upgrade {
                return Err(Problem::new(StatusCode::FORBIDDEN, "only administrators may upgrade an instance"));
            }
            if row.deleted_at.is_some() {
                return Err(Problem::new(StatusCode::CONFLICT, "the instance is being deleted"));
            }
            let row = match change(app, &row, upgrade)? {
                Some(change) => store::change_instance(transaction, id, change).await?,
                None => row,
            };
            Ok((StatusCode::ACCEPTED, json(&InstanceView::from(row))?))
        }
        Command::Delete(id) => {
            owned(store::lock_instance(transaction, id).await?, identity)?;
            let row = store::delete_instance(transaction, id).await?;
            Ok((StatusCode::ACCEPTED, json(&InstanceView::from(row))?))
        }
    }
}

fn json(view: &impl Serialize) -> Result<Value, Problem> {
    serde_json::to_value(view).map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer is no JSON"))
}

fn instance(app: &App, identity: &Identity, new: NewInstance) -> Result<store::NewInstance, Problem> {
    let admins_only =
        |field: &str| Problem::field(field, "only administrators may say it").status(StatusCode::FORBIDDEN);
    let user_id = match new.user_id {
        Some(user) if user != identity.subject && !identity.is_admin => return Err(admins_only("userId")),
        given => given.unwrap_or_else(|| identity.subject.clone()),
    };
    if new.namespace.is_some() && !identity.is_admin {
        return Err(admins_only("namespace"));
    }
    let id = Uuid::now_v7();
    let namespace = new.namespace.unwrap_or_else(|| format!("caelus-{id}"));
    check::user_id(&user_id)?;
    check::namespace(&namespace)?;
    check::domain_name(&new.domain_name)?;
    check::values("values", &new.values)?;
    let sealed = seal(&app.keyring, id, &new.secrets)?;
    Ok(store::NewInstance {
        id,
        user_id,
        template: new.product_template_version,
        namespace,
        domain_name: new.domain_name,
        overrides: new.values,
        sealed,
    })
}

/// None when it is all as it was.
fn change(app: &App, row: &store::Instance, upgrade: Upgrade) -> Result<Option<store::Change>, Problem> {
    if let Some(values) = &upgrade.values {
        check::values("values", values)?;
    }
    let sealed = match &upgrade.secrets {
        Some(secrets) if !has_secrets(&app.keyring, row, secrets)? => Some(seal(&app.keyring, row.id, secrets)?),
        _ => None,
    };
    let overrides = upgrade.values.filter(|values| *values != row.overrides);
    let is_same = upgrade.product_template_version == row.template && overrides.is_none() && sealed.is_none();
    Ok((!is_same).then_some(store::Change { template: upgrade.product_template_version, overrides, sealed }))
}

fn has_secrets(keyring: &Keyring, row: &store::Instance, secrets: &store::Object) -> Result<bool, Problem> {
    let Some(sealed) = &row.sealed else { return Ok(secrets.is_empty()) };
    let plain = keyring.open(Place::Instance(row.id), sealed).map_err(|source| database::Error::Sealed {
        table: "deployment_instance",
        row: row.id.to_string(),
        source,
    })?;
    Ok(serde_json::from_slice::<store::Object>(&plain).is_ok_and(|current| current == *secrets))
}

/// None for none.
fn seal(keyring: &Keyring, id: Uuid, secrets: &store::Object) -> Result<Option<Vec<u8>>, Problem> {
    if secrets.is_empty() {
        return Ok(None);
    }
    check::values("secrets", secrets)?;
    let plain = serde_json::to_vec(secrets).map(zeroize::Zeroizing::new);
    let plain = plain.map_err(|_| Problem::field("secrets", "must be a JSON object"))?;
    Ok(Some(keyring.seal(Place::Instance(id), &plain).map_err(database::Error::from)?))
}
