//! What a plugin's account has to be allowed, and whether it is.
//!
//! What the host needs in order to serve at all is to list and watch the kinds; without that the version is refused with
//! the missing rights named, and tried again until somebody has granted them. Writes may be granted in some namespaces
//! only, so they are not asked about: one that is refused is told on its object.

use std::collections::BTreeSet;

use futures::StreamExt;

use super::crd::Definition;
use super::load::{LoadFailure, failure};
use crate::control::access::{may, resource};
use crate::control::cluster::{ApiError, Cluster, Served};
use crate::plan::contract::Manifest;

/// Questions that are on their way at the same time.
const PARALLEL: usize = 8;

/// May the account list and watch what this plugin serves, makes and reads?
///
/// Kinds that are only read may be granted in some namespaces alone: lookups are watched there then.
///
/// # Errors
/// The rights that are missing.
pub(super) async fn check(
    cluster: &Cluster,
    manifest: &Manifest,
    definitions: &[Definition],
) -> Result<(), LoadFailure> {
    let Some(account) = cluster.account() else {
        return Ok(());
    };
    let unavailable = |error: ApiError| LoadFailure {
        transient: true,
        ..failure("Granted", "AccessReviewFailed", format!("the rights of {account} cannot be asked for: {error}"))
    };
    let mut kinds: Vec<Served> = definitions.iter().map(|definition| definition.served.clone()).collect();
    // those that are not named are asked about when there are some
    for kind in manifest.child_kinds() {
        match cluster.served(kind).await {
            Ok(served) => kinds.push(served),
            Err(ApiError::NotServed(_)) => {}
            Err(error) => return Err(unavailable(error)),
        }
    }
    let questions = kinds.iter().flat_map(|kind| ["list", "watch"].map(|verb| (kind, verb)));
    let asked: Vec<_> = questions.map(async |(kind, verb)| (kind, verb, may(cluster, kind, verb).await)).collect();
    let mut answers = futures::stream::iter(asked).buffer_unordered(PARALLEL);
    let mut missing = BTreeSet::new();
    while let Some((kind, verb, allowed)) = answers.next().await {
        if !allowed.map_err(unavailable)? {
            missing.insert(format!("{verb} {}", resource(kind)));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.into_iter().collect::<Vec<_>>().join(", ");
    let place = cluster.namespace().map_or("in all namespaces".into(), |ns| format!("in the namespace {ns}"));
    let message = format!("{account} may not: {missing} ({place}); bind a role with these rights to it");
    Err(LoadFailure { transient: true, ..failure("Granted", "Forbidden", message) })
}
