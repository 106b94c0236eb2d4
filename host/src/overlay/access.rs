//! May the account that an overlay acts as do itself what the overlay does? Asked of the API server's authorizer
//! (`SubjectAccessReview`), for each kind of child that the overlay names.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;

use super::Given;
use crate::control::cluster::{ApiError, Cluster};
use crate::plan::contract::{Problem, TypeMeta};
use crate::telemetry::chain;

/// Verbs one of which is enough: `patch` can do more than any overlay; `overlay` is for who may do no more than that.
const VERBS: [&str; 2] = ["patch", "overlay"];

/// No single review takes longer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Answers of one round of reviews, so that no question is asked twice; and once the API server has not answered, none is
/// asked at all until the next round.
#[derive(Default)]
pub struct Reviews {
    /// By namespace, account and kind.
    answers: BTreeMap<(String, String, String), bool>,
    failed: Option<String>,
    /// Why no overlay may be laid at all, if that was found out.
    pub policy: Option<Option<Problem>>,
}

impl Reviews {
    /// Why the overlay's account may not do what the overlay does; none when it may.
    pub async fn refusal(&mut self, cluster: &Cluster, overlay: &Given) -> Option<Problem> {
        let account = &overlay.spec.service_account_name;
        for patch in &overlay.spec.patches {
            let kind = TypeMeta::new(patch.target.api_version.clone(), patch.target.kind.clone());
            let key = (overlay.namespace.clone(), account.clone(), kind.to_string());
            let answer = match (self.answers.get(&key), &self.failed) {
                (Some(answer), _) => Ok(*answer),
                (None, Some(failed)) => Err((super::store::UNKNOWN, failed.clone())),
                (None, None) => {
                    let asked = tokio::time::timeout(DEADLINE, ask(cluster, &overlay.namespace, account, &kind)).await;
                    match asked.unwrap_or(Err(ApiError::DeadlineExceeded(DEADLINE))) {
                        Ok(answer) => Ok(*self.answers.entry(key).or_insert(answer)),
                        // says nothing of the other kinds
                        Err(error @ ApiError::NotServed(_)) => Err((error.reason(), chain(&error))),
                        Err(error) => Err((super::store::UNKNOWN, self.failed.insert(chain(&error)).clone())),
                    }
                }
            };
            let (reason, message) = match answer {
                Ok(true) => continue,
                Ok(false) => (
                    "Forbidden",
                    format!(
                        "the ServiceAccount {account} may neither patch nor overlay a {} in the namespace {}: grant it \
                         the verb overlay, or name another spec.serviceAccountName",
                        kind.kind, overlay.namespace
                    ),
                ),
                Err((reason, error)) => {
                    (reason, format!("whether {account} may overlay a {} is not known: {error}", kind.kind))
                }
            };
            return Some(Problem { reason: reason.into(), message });
        }
        None
    }
}

async fn ask(cluster: &Cluster, namespace: &str, account: &str, kind: &TypeMeta) -> Result<bool, ApiError> {
    let served = cluster.served(kind).await?;
    let api: Api<SubjectAccessReview> = Api::all(cluster.client().clone());
    for verb in VERBS {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(format!("system:serviceaccount:{namespace}:{account}")),
                groups: Some(vec![
                    "system:serviceaccounts".into(),
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated".into(),
                ]),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.into()),
                    group: Some(kind.group().into()),
                    version: Some(kind.version().into()),
                    resource: Some(served.plural.clone()),
                    namespace: Some(namespace.into()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = api.create(&PostParams::default(), &review).await?;
        if answer.status.is_some_and(|status| status.allowed) {
            return Ok(true);
        }
    }
    Ok(false)
}
