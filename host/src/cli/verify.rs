//! `transom verify`: are these primitives well? For people, and for CI jobs by exit code and JSON.

use std::sync::Arc;

use kube::Api;
use serde_json::{Value, json};

use super::paint::Paint;
use super::subject;
use crate::api::names;
use crate::control::cluster::Cluster;
use crate::plan::check::shorten;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: transom verify web/shop web/blog -o json\n\
    Exit codes: 0 all are healthy, 1 one is not, 2 one does not exist or nobody could be asked.")]
pub struct Args {
    /// What to look at: `web/shop`, `Web.bench.dev/shop`.
    #[arg(required = true, value_name = "KIND/NAME", value_parser = parse)]
    objects: Vec<(String, String)>,
    /// Namespace of the objects (default: that of the kubeconfig's context).
    #[arg(long, short)]
    namespace: Option<String>,
    /// How the result looks.
    #[arg(long, short, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
}

fn parse(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((kind.to_owned(), name.to_owned()))
        }
        _ => Err("must look like web/shop".into()),
    }
}

/// How it ended when not everything is healthy.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// Something is not well.
    #[error("{unhealthy} of {all} are not healthy")]
    Unhealthy {
        /// How many.
        unhealthy: usize,
        /// Of how many.
        all: usize,
    },
    /// Nothing can be said.
    #[error("{0:#}")]
    Unknown(anyhow::Error),
}

impl Failed {
    /// For CI.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Unhealthy { .. } => 1,
            Self::Unknown(_) => 2,
        }
    }
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let found = self.find().await.map_err(Failed::Unknown)?;
        let objects: Vec<Value> = found.iter().map(|(reference, object)| report(reference, object)).collect();
        let unhealthy = objects.iter().filter(|object| object.get("healthy") != Some(&Value::Bool(true))).count();
        let result = json!({"healthy": unhealthy == 0, "objects": objects});
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&result)?),
            Output::Yaml => print!("{}", serde_saphyr::to_string(&result)?),
            Output::Table => print!("{}", table(&objects, Paint::stdout())),
        }
        if unhealthy > 0 {
            return Err(Failed::Unhealthy { unhealthy, all: objects.len() }.into());
        }
        Ok(())
    }

    /// `Kind name` and the object, in the order of the arguments.
    async fn find(&self) -> anyhow::Result<Vec<(String, Value)>> {
        let client = super::client().await?;
        let cluster = Arc::new(Cluster::new(client.clone(), None));
        let plugins = super::plugins(&Api::all(client)).await?;
        let namespace = super::namespace(self.namespace.clone()).await;
        let mut found = Vec::new();
        for (kind, name) in &self.objects {
            let (reference, object) = subject::primary(&cluster, &plugins, kind, &namespace, name).await?;
            found.push((reference.kind.kind, object.value()));
        }
        Ok(found)
    }
}

/// Healthy is what is Ready as it is specified now, with everything applied, and not on its way out.
fn report(kind: &str, object: &Value) -> Value {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64);
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let condition = |wanted: &str| conditions.iter().find(|c| c.get("type").and_then(Value::as_str) == Some(wanted));
    let said = |condition: &Value, field: &str| condition.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
    let (generation, observed) = (number("/metadata/generation"), number("/status/observedGeneration"));
    let why = |wanted: &str| match condition(wanted) {
        Some(found) if said(found, "status").as_deref() == Some("True") => None,
        Some(found) => Some((said(found, "reason").unwrap_or_default(), said(found, "message").unwrap_or_default())),
        None => Some(("NotReported".to_owned(), format!("the condition {wanted} was not reported yet"))),
    };
    let problem = if !text("/metadata/deletionTimestamp").is_empty() {
        let (reason, message) = why(names::READY).unwrap_or_default();
        let reason = if reason.is_empty() { "Deleting".to_owned() } else { reason };
        Some((reason, format!("it is being deleted; {message}")))
    } else {
        // what was not applied makes Ready a thing of the past
        why(names::SYNCED).or_else(|| why(names::READY)).or_else(|| {
            let message = format!("the status is of generation {}", observed.unwrap_or_default());
            (observed != generation).then(|| ("NotObserved".to_owned(), message))
        })
    };
    let healthy = problem.is_none();
    let (reason, message) = problem.unwrap_or_else(|| {
        let ready = condition(names::READY).cloned().unwrap_or_default();
        (said(&ready, "reason").unwrap_or_default(), said(&ready, "message").unwrap_or_default())
    });
    json!({
        "kind": kind, "namespace": text("/metadata/namespace"), "name": text("/metadata/name"), "healthy": healthy,
        "reason": reason, "message": message, "generation": generation, "observedGeneration": observed,
        "conditions": conditions,
    })
}

fn table(objects: &[Value], paint: Paint) -> String {
    let mut out = paint.head(&format!("{:<32} {:<8} {:<22} {}\n", "OBJECT", "HEALTHY", "REASON", "MESSAGE"));
    for object in objects {
        let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
        let healthy = if object.get("healthy") == Some(&Value::Bool(true)) { "yes" } else { "no" };
        let name = format!("{}/{}", text("kind").to_lowercase(), text("name"));
        let healthy = paint.state(&format!("{healthy:<8}"));
        let line = format!("{name:<32} {healthy} {:<22} {}", text("reason"), shorten(text("message"), 200));
        out += line.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(synced: &str, ready: &str, observed: i64) -> Value {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": format!("{kind}Is{status}"), "message": ""});
        json!({"metadata": {"name": "a", "namespace": "n", "generation": 2}, "status": {"observedGeneration": observed,
            "conditions": [condition("Ready", ready), condition("Synced", synced)]}})
    }

    fn verdict(object: &Value) -> (bool, String) {
        let report = report("K", object);
        (report["healthy"] == true, report["reason"].as_str().unwrap().to_owned())
    }

    #[test]
    fn healthy_is_ready_and_applied_as_specified_now() {
        assert_eq!(verdict(&object("True", "True", 2)), (true, "ReadyIsTrue".into()));
        assert_eq!(verdict(&object("True", "False", 2)), (false, "ReadyIsFalse".into()));
        assert_eq!(verdict(&object("True", "Unknown", 2)), (false, "ReadyIsUnknown".into()));
        assert_eq!(verdict(&object("False", "True", 2)), (false, "SyncedIsFalse".into()));
        assert_eq!(verdict(&object("True", "True", 1)), (false, "NotObserved".into()));
        assert_eq!(verdict(&json!({"metadata": {"name": "a"}})), (false, "NotReported".into()));
        let mut going = object("True", "True", 2);
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(verdict(&going), (false, "Deleting".into()));
    }

    #[test]
    fn people_get_a_table() {
        let shown = table(
            &[report("Thing", &object("True", "True", 2)), report("Web", &object("True", "False", 2))],
            Paint::plain(),
        );
        insta::assert_snapshot!(shown, @r"
        OBJECT                           HEALTHY  REASON                 MESSAGE
        thing/a                          yes      ReadyIsTrue
        web/a                            no       ReadyIsFalse
        ");
    }

    #[test]
    fn an_object_is_named_by_kind_and_name() {
        assert_eq!(parse("web/shop"), Ok(("web".into(), "shop".into())));
        for wrong in ["web", "/shop", "web/", "a/b/c"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
