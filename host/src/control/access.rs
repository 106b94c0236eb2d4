//! What the account that a cluster is reached with may do.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;

use super::cluster::{ApiError, Cluster, Served};
use crate::plan::check::Scope;

/// `deployments.apps`
#[must_use]
pub fn resource(kind: &Served) -> String {
    let group = kind.kind.group();
    if group.is_empty() { kind.plural.clone() } else { format!("{}.{group}", kind.plural) }
}

/// May the cluster's account do this with objects of a kind, in all namespaces that the host looks at?
///
/// # Errors
/// When the API server cannot be asked.
pub async fn may(cluster: &Cluster, kind: &Served, verb: &str) -> Result<bool, ApiError> {
    let namespace = cluster.namespace().filter(|_| kind.scope == Scope::Namespaced);
    let attributes = ResourceAttributes {
        group: Some(kind.kind.group().into()),
        version: Some(kind.kind.version().into()),
        resource: Some(kind.plural.clone()),
        verb: Some(verb.into()),
        namespace: namespace.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() },
        ..Default::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(cluster.client().clone());
    let answer = reviews.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
