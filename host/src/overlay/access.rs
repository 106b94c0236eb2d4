//! May the account that an overlay acts as do itself what the overlay does? Asked of the API server's authorizer
//! (`SubjectAccessReview`), for each kind of child that the overlay names.

use std::collections::BTreeMap;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;

use super::Given;
use crate::control::cluster::{ApiError, Cluster};
use crate::plan::contract::{Problem, TypeMeta};

/// Verbs one of which is enough: `patch` can do more than any overlay; `overlay` is for who may do no more than that.
const VERBS: [&str; 2] = ["patch", "overlay"];

/// Answers of one round of reviews, so that no question is asked twice: namespace, account, kind.
#[derive(Default)]
pub struct Reviews(BTreeMap<(String, String, String), Result<bool, String>>);

impl Reviews {
    /// Why the overlay's account may not do what the overlay does; none when it may.
    pub async fn refusal(&mut self, cluster: &Cluster, overlay: &Given) -> Option<Problem> {
        let account = &overlay.spec.service_account_name;
        for patch in &overlay.spec.patches {
            let kind = TypeMeta::new(patch.target.api_version.clone(), patch.target.kind.clone());
            let key = (overlay.namespace.clone(), account.clone(), kind.to_string());
            let answer = match self.0.get(&key) {
                Some(answer) => answer.clone(),
                None => {
                    let asked = ask(cluster, &overlay.namespace, account, &kind).await;
                    let answer = asked.map_err(|error| crate::telemetry::chain(&error));
                    self.0.insert(key, answer.clone());
                    answer
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
                Err(error) => {
                    ("AccessUnknown", format!("whether {account} may overlay a {kind} is not known: {error}"))
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
