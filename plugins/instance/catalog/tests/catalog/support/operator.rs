use futures::StreamExt as _;
use kube::ResourceExt as _;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Namespace;

const FINALIZER: &str = "caelus.io/operator-of-the-tests";

/// Plays the operator: every new spec is a release, and runs at once; what is deleted goes.
pub(crate) struct Operator {
    _task: JoinSet<()>,
}

impl Operator {
    pub(crate) fn start(ns: &Namespace) -> Self {
        let api = ns.instances();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut objects =
                Box::pin(watcher(api.clone(), watcher::Config::default()).default_backoff().touched_objects());
            while let Some(object) = objects.next().await {
                if let Ok(object) = object {
                    // what has changed meanwhile comes again
                    let _ = look(&api, &object).await;
                }
            }
        });
        Self { _task: task }
    }
}

async fn look(api: &Api<DynamicObject>, object: &DynamicObject) -> kube::Result<()> {
    let finalizers = |list: &[&str]| json!({ "metadata": { "finalizers": list } });
    let is_held = object.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let merge = async |patch: Value| {
        api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    };
    match (object.metadata.deletion_timestamp.is_some(), is_held) {
        (true, true) => merge(finalizers(&[])).await,
        (true, false) => Ok(()),
        (false, false) => merge(finalizers(&[FINALIZER])).await,
        (false, true) => {
            let observed = object.data["status"]["conditions"][0]["observedGeneration"].as_i64();
            if observed == object.metadata.generation {
                return Ok(());
            }
            let revision = object.data["status"]["release"]["revision"].as_i64().unwrap_or_default() + 1;
            report(api, object, "Running", "", revision).await
        }
    }
}

/// Writes a status for the spec that the object has.
pub(crate) async fn report(
    api: &Api<DynamicObject>,
    object: &DynamicObject,
    phase: &str,
    message: &str,
    revision: i64,
) -> kube::Result<()> {
    let condition = json!({
        "type": "Ready", "status": if phase == "Running" { "True" } else { "False" }, "reason": phase,
        "message": message, "lastTransitionTime": "2026-01-02T03:04:05Z",
        "observedGeneration": object.metadata.generation,
    });
    let status = json!({
        "phase": phase, "message": message, "lastReconcile": "2026-01-02T03:04:05Z",
        "release": { "revision": revision }, "conditions": [condition],
    });
    let patch = json!({ "status": status });
    api.patch_status(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}
