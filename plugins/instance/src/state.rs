//! What a release is, and how far it has come: kept in a Secret in the instance's namespace, as Helm keeps releases.
//!
//! It is written before anything is done by it, so a host that starts again goes on where the last one was.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use transom_engines::helm;
use transom_sdk::objects::{self, labels};
use transom_sdk::prelude::*;

use crate::chart;
use crate::spec::ChartSource;

/// Name of the Secret.
pub(crate) const NAME: &str = "caelus-release";
const KEY: &str = "release";

/// Of the Secret with the base64 of it: the API server takes 1 MiB.
const MAX_BYTES: usize = 768 << 10;

/// What a release is made from: the same inputs make the same objects.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Inputs {
    pub(crate) template_version: String,
    pub(crate) chart: ChartSource,
    /// Of the chart, as it was fetched.
    pub(crate) digest: String,
    /// Later ones over earlier ones.
    pub(crate) values: Vec<Value>,
    /// Over them.
    pub(crate) secret: Option<Value>,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) timeout_seconds: u32,
    /// What templates see; stays as it was when the revision began.
    pub(crate) seen: Seen,
}

/// What templates see beside their values.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Seen {
    pub(crate) revision: u32,
    pub(crate) is_upgrade: bool,
    /// Seconds since 1970.
    pub(crate) now: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kube_version: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_versions: Vec<String>,
    /// Answers to the chart's `lookup`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) lookups: Vec<LookedUp>,
}

/// A query of a chart and its answer.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct LookedUp {
    pub(crate) query: helm::Query,
    pub(crate) object: Option<Value>,
}

impl Inputs {
    /// Tells releases apart by what was asked for, whatever the templates saw.
    pub(crate) fn fingerprint(&self) -> String {
        let Self { template_version, chart, digest, values, secret, name, namespace, timeout_seconds: _, seen: _ } =
            self;
        chart::sha256(json!([template_version, chart, digest, values, secret, name, namespace]).to_string().as_bytes())
    }
}

/// What is being done.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Operation {
    Install,
    Upgrade,
    Rollback,
    Delete,
}

impl Operation {
    /// As Helm spells it in the names of hooks.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Upgrade => "upgrade",
            Self::Rollback => "rollback",
            Self::Delete => "delete",
        }
    }
}

/// How far it has come.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Stage {
    /// Hooks before.
    Before,
    /// Objects are applied and waited for; of a deletion: they go.
    Apply,
    /// Hooks after.
    After,
    /// Done.
    Deployed,
    /// Given up: a hook of a first release has failed.
    Failed,
}

/// Why something failed.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cause {
    pub(crate) reason: String,
    /// Without secrets.
    pub(crate) message: String,
}

/// A release that failed and was rolled back: not tried again while it is asked for.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rejected {
    pub(crate) fingerprint: String,
    pub(crate) revision: u32,
    pub(crate) cause: Cause,
}

/// What is in the Secret.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State {
    pub(crate) revision: u32,
    pub(crate) operation: Operation,
    pub(crate) stage: Stage,
    /// Of this stage.
    pub(crate) hooks_done: usize,
    /// When the stage began: seconds since 1970.
    pub(crate) since: i64,
    /// The stage has got its time once more, because no host had tried when it was over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) extended: bool,
    pub(crate) current: Inputs,
    /// Jobs of this revision that are no hooks and were seen complete: they do not run again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) jobs_done: Vec<String>,
    /// The stage in which a release was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed_at: Option<Stage>,
    /// The last one that was deployed, when that is not the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) good: Option<Inputs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rejected: Option<Rejected>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<Cause>,
}

impl State {
    /// What is on record; none when there is no release.
    pub(crate) fn read(cx: &Context, namespace: &str) -> Result<Option<Self>, Failure> {
        let Some(secret) = cx.child_in::<Secret>(namespace, NAME) else { return Ok(None) };
        let secret = secret.object()?;
        let bytes = secret.data.and_then(|mut data| data.remove(KEY)).unwrap_or_default();
        let state = serde_json::from_slice(&bytes.0);
        // not the message: it could hold what is in it
        state.map(Some).map_err(|error| {
            let at = format!("line {}, column {}", error.line(), error.column());
            Failure::transient(
                "ReleaseUnreadable",
                format!("Secret {namespace}/{NAME} is not as it was written ({at})"),
            )
        })
    }

    /// The Secret.
    ///
    /// # Errors
    /// When it is too large, in words that follow the name of a field.
    pub(crate) fn secret(&self) -> Result<Secret, String> {
        let text = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        if text.len() > MAX_BYTES {
            let size = text.len();
            return Err(format!(
                "with the release before make {size} bytes, at most {MAX_BYTES} are kept: make them less"
            ));
        }
        let labels = labels([("app.kubernetes.io/managed-by", "transom"), ("app.kubernetes.io/part-of", "caelus")]);
        let mut metadata = objects::metadata(NAME, &labels);
        metadata.namespace = Some(self.current.namespace.clone());
        Ok(Secret {
            metadata,
            type_: Some("caelus.io/release.v1".into()),
            data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(text))])),
            ..Secret::default()
        })
    }

    /// Is this neither the current release nor one that has failed?
    pub(crate) fn is_new(&self, fingerprint: &str) -> bool {
        self.current.fingerprint() != fingerprint && !self.rejects(fingerprint)
    }

    /// Has this one failed?
    pub(crate) fn rejects(&self, fingerprint: &str) -> bool {
        self.rejected.as_ref().is_some_and(|rejected| rejected.fingerprint == fingerprint)
    }

    /// The next stage.
    pub(crate) fn at(&self, stage: Stage, now: i64) -> Self {
        let good = if stage == Stage::Deployed { None } else { self.good.clone() };
        Self { stage, hooks_done: 0, since: now, extended: false, good, ..self.clone() }
    }

    /// What follows a failure: the last good release again, if there was one.
    pub(crate) fn after_failure(&self, cause: Cause, now: i64) -> Self {
        let rejected =
            Rejected { fingerprint: self.current.fingerprint(), revision: self.revision, cause: cause.clone() };
        let failed = Self { failure: Some(cause), failed_at: Some(self.stage), ..self.at(Stage::Failed, now) };
        match &self.good {
            Some(good) if self.can_go_back() => Self {
                revision: self.revision + 1,
                operation: Operation::Rollback,
                jobs_done: Vec::new(),
                current: good.clone(),
                rejected: Some(rejected),
                failure: None,
                ..self.at(Stage::Before, now)
            },
            _ => failed,
        }
    }

    /// Is there a release before it?
    pub(crate) fn can_go_back(&self) -> bool {
        self.operation == Operation::Upgrade && self.good.is_some()
    }
}
