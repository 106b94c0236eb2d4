//! One look at one key: reads its row and its objects, never why it was called; may be cut off anywhere and run again.

use std::sync::Arc;

use uuid::Uuid;

use super::cluster::{self, Cluster};
use super::desired;
use super::queue::Key;
use crate::database::store::{Instance, Phase, Status};
use crate::database::{self, Database, store};
use crate::metrics::metrics;
use crate::seal::{Keyring, Place};

/// Why a look was cut short; it is taken again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Database(#[from] database::Error),
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    #[error("it took too long")]
    Late,
    /// It is too new, or has lost our label: nothing will tell when it is gone.
    #[error("an object is there that the watch has not told of")]
    Unheard,
}

/// What all looks need.
pub(super) struct Context {
    pub(super) database: Database,
    pub(super) keyring: Arc<Keyring>,
    pub(super) cluster: Cluster,
    pub(super) catalog: Uuid,
}

impl Context {
    /// Returns what else is to be looked at.
    pub(super) async fn reconcile(&self, key: &Key) -> Result<Vec<Key>, Error> {
        match key {
            Key::All => return self.all().await,
            Key::Template(name) => self.template(name).await?,
            Key::Instance(name) => self.instance(name).await?,
            Key::Secret(name) => {
                if let Some(live) = self.cluster.secret(name) {
                    self.cluster.delete_secret(&live).await?;
                }
            }
        }
        Ok(Vec::new())
    }

    /// Every row and every object of ours.
    async fn all(&self) -> Result<Vec<Key>, Error> {
        let client = self.database.get().await?;
        let purged = store::purge(&**client).await?;
        if purged > 0 {
            tracing::info!(rows = purged, "forgot old answers and tombstones");
        }
        let (templates, instances) = store::all_ids(&**client).await?;
        // an instance waits for its template version
        let mut keys: Vec<Key> = templates.into_iter().map(|id| Key::Template(id.to_string())).collect();
        keys.extend(instances.into_iter().map(|id| Key::Instance(id.to_string())));
        keys.extend(self.cluster.keys());
        Ok(keys)
    }

    async fn template(&self, name: &str) -> Result<(), Error> {
        let row = match id(name) {
            Some(id) => store::template(&**self.database.get().await?, id).await?,
            None => None,
        };
        let live = self.cluster.template(name);
        match (row, live) {
            (Some(row), live) => {
                let wanted = desired::template(self.catalog, &row);
                self.cluster.apply_template(&wanted, live.as_deref()).await?;
            }
            (None, Some(live)) => self.cluster.delete_template(&live).await?,
            (None, None) => {}
        }
        Ok(())
    }

    async fn instance(&self, name: &str) -> Result<(), Error> {
        let row = match id(name) {
            Some(id) => store::instance(&**self.database.get().await?, id).await?,
            None => None,
        };
        match row {
            Some(row) if row.deleted_at.is_none() => self.keep(name, &row).await,
            Some(row) if row.gone_at.is_none() => self.remove(name, row.id).await,
            _ => self.clear(name).await,
        }
    }

    /// Template version and Secret first, because the instance names them. A Secret with earlier values goes when the
    /// operator has reported on the object that names it no more.
    async fn keep(&self, name: &str, row: &Instance) -> Result<(), Error> {
        let template = row.template.to_string();
        if self.cluster.template(&template).is_none() {
            self.template(&template).await?;
        }
        let live = self.cluster.instance(name);
        let wanted_secret = row.sealed.is_some().then(|| desired::secret_name(name, row.secrets_generation));
        if let Some(sealed) = &row.sealed {
            let opened = self.keyring.open(Place::Instance(row.id), sealed);
            let values = opened.map_err(|source| database::Error::Sealed {
                table: "deployment_instance",
                row: row.id.to_string(),
                source,
            })?;
            let wanted = desired::secret(self.catalog, row, &values);
            let live = wanted_secret.as_ref().and_then(|name| self.cluster.secret(name));
            self.cluster.apply_secret(&wanted, live.as_deref()).await?;
        }
        let wanted = desired::instance(self.catalog, row);
        if let Err(error) = self.cluster.apply_instance(&wanted, live.as_deref()).await {
            if let Some(why) = error.refusal() {
                let message = format!("the cluster refuses the object: {why}");
                let message = message.chars().filter(|c| *c != '\0').take(2_000).collect();
                let status = Status { phase: Phase::Failed, message, ..row.status.clone() };
                self.report(row, row.generation, &status).await?;
            }
            return Err(error.into());
        }
        let Some((generation, status)) = live.as_deref().and_then(desired::status) else { return Ok(()) };
        if generation == row.generation {
            let secrets = self.cluster.secrets_of(name);
            for earlier in secrets.iter().filter(|secret| secret.metadata.name != wanted_secret) {
                self.cluster.delete_secret(earlier).await?;
            }
        }
        self.report(row, generation, &status).await
    }

    /// To the row, if it still wants what the status is of and has another.
    async fn report(&self, row: &Instance, generation: i64, status: &Status) -> Result<(), Error> {
        if generation != row.generation || *status == row.status {
            return Ok(());
        }
        let client = self.database.get().await?;
        if store::set_status(&**client, row.id, generation, status).await? {
            metrics().write("row", "status");
            tracing::info!(instance = %row.id, phase = status.phase.as_str(), "an instance has another status");
        }
        Ok(())
    }

    /// The Secret last, because deleting the instance may still need it. A row is buried only when the API server itself
    /// says that nothing is left.
    async fn remove(&self, name: &str, id: Uuid) -> Result<(), Error> {
        if let Some(live) = self.cluster.instance(name) {
            // the watch tells when it is gone
            return Ok(self.cluster.delete_instance(&live).await?);
        }
        if let Some(live) = self.cluster.get_instance(name).await? {
            self.cluster.delete_instance(&live).await?;
            return Err(Error::Unheard);
        }
        self.cluster.clear_secrets(name).await?;
        if store::bury_instance(&**self.database.get().await?, id).await? {
            metrics().write("row", "bury");
            tracing::info!(instance = %id, "nothing is left of an instance");
        }
        Ok(())
    }

    /// No row wants it.
    async fn clear(&self, name: &str) -> Result<(), Error> {
        if let Some(live) = self.cluster.instance(name) {
            return Ok(self.cluster.delete_instance(&live).await?);
        }
        for secret in self.cluster.secrets_of(name) {
            self.cluster.delete_secret(&secret).await?;
        }
        Ok(())
    }
}

/// Names of ours are ids in their one form.
fn id(name: &str) -> Option<Uuid> {
    name.parse::<Uuid>().ok().filter(|id| id.to_string() == name)
}
