//! A replica that does not lead loads what the one that leads lets serve: its caches are warm when it is elected, and it
//! answers webhooks meanwhile. It goes by the status of the record, and writes nothing.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use tokio::sync::{mpsc, watch};

use super::{Record, let_in};
use crate::api::plugin::{KindRef, Plugin, PluginStatus};
use crate::api::rollout::VersionSpec;
use crate::control::backoff;
use crate::control::controller::Active;
use crate::control::serving::Share;
use crate::registry::load::LoadFailure;

/// A version that cannot be loaded is tried again after at most this time.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What a record says of the versions that serve.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    uid: String,
    generation: Option<i64>,
    stable: Option<String>,
    /// Revision and step of the version that is being let in.
    canary: Option<(String, u32)>,
    child_kinds: Vec<KindRef>,
}

impl Said {
    fn by(plugin: &Plugin) -> Self {
        let status = plugin.status.clone().unwrap_or_default();
        Self {
            uid: plugin.uid().unwrap_or_default(),
            generation: plugin.metadata.generation,
            stable: status.serving.as_ref().map(VersionSpec::revision),
            canary: let_in(&status, &VersionSpec::of(&plugin.spec))
                .map(|attempt| (attempt.revision.clone(), attempt.step)),
            child_kinds: status.child_kinds,
        }
    }
}

impl Record {
    /// Until the record is gone, or this replica leads.
    pub(super) async fn mirror(mut self, mut records: watch::Receiver<Plugin>, tried: mpsc::UnboundedSender<String>) {
        let mut failures = 0u32;
        loop {
            let plugin = records.borrow_and_update().clone();
            let said = Said::by(&plugin);
            match self.load_what_serves(&plugin).await {
                Ok(()) => failures = 0,
                Err(LoadFailure { step, reason, message, .. }) => {
                    tracing::warn!(plugin = self.name, step, reason, message, "what serves could not be loaded");
                    failures = failures.saturating_add(1);
                }
            }
            let _ = tried.send(self.name.clone());
            let again = match failures {
                0 => Duration::MAX,
                _ => backoff::delay(failures, failures.into()).min(LONGEST_WAIT),
            };
            tokio::select! {
                changed = records.wait_for(|latest| Said::by(latest) != said) => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    async fn load_what_serves(&mut self, plugin: &Plugin) -> Result<(), LoadFailure> {
        let (status, wanted) = (plugin.status.clone().unwrap_or_default(), VersionSpec::of(&plugin.spec));
        let Some(serving) = &status.serving else { return Ok(()) };
        self.sources.clone_from(&status.sources);
        // the record's account and rules for overlays may be others, so a known version is loaded again
        self.stable = None;
        self.stable = Some(self.load_kept(plugin, &status, serving).await?);
        self.canary = match let_in(&status, &wanted) {
            Some(attempt) => {
                let share = Share::until(&plugin.spec.rollout.steps, attempt.step).unwrap_or_default();
                Some((self.load_kept(plugin, &status, &wanted).await?, share))
            }
            None => None,
        };
        self.load_pins(plugin).await;
        self.serve();
        // the definitions are those of the version that is on its way
        let newest = self.canary.iter().map(|(active, _)| active).chain(&self.stable).next();
        match newest.and_then(|active| active.plugin.as_ref()).filter(|plugin| plugin.has_conversion()) {
            Some(component) => self.controller.hooks.convert_with(&self.name, component),
            None => self.controller.hooks.convert_no_more(&self.name),
        }
        self.controller.hooks.wait_for(&self.name, Duration::from_secs(plugin.spec.webhooks.timeout_seconds.into()));
        Ok(())
    }

    async fn load_kept(
        &mut self,
        plugin: &Plugin,
        status: &PluginStatus,
        version: &VersionSpec,
    ) -> Result<Arc<Active>, LoadFailure> {
        let prepared = self.prepare(plugin, version, true).await?;
        self.install(plugin, status, prepared, true).await
    }
}
