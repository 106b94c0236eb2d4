//! The namespace of an Environment: its name, and whose it is.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest as _, Sha256};
use transom_sdk::objects::Labels;
use transom_sdk::prelude::*;

use crate::project::Project;
use crate::report::{Step, Stop, transient};
use crate::spec::{ENVIRONMENT_LABEL, Environment, PROJECT_LABEL, TEAM_LABEL};

/// RFC 1123.
const MAX_NAME: usize = 63;
/// 50 bits. Two Environments of a million whose names are cut meet with a chance of 1 to 2,000, and then the second one
/// says so instead of moving in.
const HASH: usize = 10;

/// By which the host knows whose object it is.
const OWNER_LABEL: &str = "transom.dev/owner-uid";
const TYPE_LABEL: &str = "catalyst.dev/namespace-type";

/// Names that an Environment's namespace may have, the preferred one first.
///
/// `<team>-<project>-<environment>` of the labels, or `env-<project>-<name>` without them. Parts with hyphens can make one
/// name in two ways, and so can long ones that are cut; so there is a second name that ends in a hash of everything that
/// tells this Environment from others, for when somebody else has the first one.
pub(crate) fn candidates(environment: &Environment) -> Vec<String> {
    let label = |key| environment.label(key);
    let parts = match (label(TEAM_LABEL), label(PROJECT_LABEL), label(ENVIRONMENT_LABEL)) {
        (team, project, name) if !team.is_empty() && !project.is_empty() && !name.is_empty() => [team, project, name],
        _ => ["env", &environment.spec.project_ref.name, environment.name()],
    };
    let parts: Vec<String> = parts.iter().map(|part| plain(part)).filter(|part| !part.is_empty()).collect();
    let whole = parts.join("-");
    let cut = whole.get(..whole.len().min(MAX_NAME - HASH - 1)).unwrap_or_default().trim_end_matches('-');
    let hashed = format!("{cut}-{}", hash(&[environment.namespace(), environment.name(), &whole]));
    if whole.len() <= MAX_NAME { vec![whole, hashed] } else { vec![hashed] }
}

/// As a part of a DNS label: lower case, single hyphens, none at the ends.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            plain.push(c);
        } else if !plain.is_empty() && !plain.ends_with('-') {
            plain.push('-');
        }
    }
    plain.truncate(plain.trim_end_matches('-').len());
    plain
}

/// As a label's value: at most 63 letters, digits, `-`, `_` and `.`.
pub(crate) fn label_value(text: &str) -> String {
    let spelt: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).take(63).collect();
    spelt.trim_matches(['-', '_', '.']).to_owned()
}

/// The parts are told apart by their lengths.
fn hash(parts: &[&str]) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.len().to_le_bytes().map(|byte| byte));
        digest.update(part.as_bytes());
    }
    let digit = |byte: &u8| DIGITS.get(usize::from(*byte) % DIGITS.len()).map(|digit| char::from(*digit));
    digest.finalize().iter().filter_map(digit).take(HASH).collect()
}

/// The namespace of an Environment.
pub(crate) struct Place {
    pub(crate) name: String,
    /// It is there, and the Environment's own.
    pub(crate) is_live: bool,
}

/// Finds the namespace, or the name that it will have.
pub(crate) fn find(environment: &Environment, cx: &Context) -> Result<Place, Stop> {
    let candidates = candidates(environment);
    for name in &candidates {
        if let Some(own) = cx.child::<Namespace>(name) {
            if is_going(&own.view::<Seen>()?.metadata) {
                return Err(waits("NamespaceTerminating", format!("namespace {name} is being deleted")));
            }
            return Ok(Place { name: name.clone(), is_live: true });
        }
    }
    let known = environment.status.as_ref().and_then(|status| status.namespace.as_ref());
    let first = candidates.iter().filter(|name| Some(*name) == known);
    let rest = candidates.iter().filter(|name| Some(*name) != known);
    // asked together
    let asked: Vec<(&String, Result<Option<Seen>, Failure>)> =
        first.chain(rest).map(|name| (name, cx.get_in::<Seen>("", name))).collect();
    let mut taken = String::new();
    for (name, found) in asked {
        let Some(found) = found? else {
            return Ok(Place { name: name.clone(), is_live: false });
        };
        let metadata = &found.metadata;
        let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
        if label(OWNER_LABEL) == Some(environment.uid()) {
            return Ok(Place { name: name.clone(), is_live: false });
        }
        let is_environment = label(TYPE_LABEL) == Some("environment");
        if is_environment && is_going(metadata) {
            let message = format!("namespace {name} of an earlier Environment is being deleted");
            return Err(waits("NamespaceTerminating", message));
        }
        if !is_environment {
            let message = format!(
                "namespace {name} is there and not an Environment's: delete it, or rename the Environment (labels \
                 {TEAM_LABEL}, {PROJECT_LABEL} and {ENVIRONMENT_LABEL}, else metadata.name)"
            );
            return Err(waits("NamespaceTaken", message));
        }
        taken.clone_from(name);
    }
    Err(waits("NamespaceTaken", format!("namespace {taken} is another Environment's: rename this one")))
}

fn waits(reason: &str, message: String) -> Stop {
    transient(Step::Namespace, reason, message).into()
}

/// As much of a namespace as is looked at.
#[derive(Deserialize)]
pub(crate) struct Seen {
    metadata: ObjectMeta,
}
transom_sdk::foreign!(Seen, "v1", "Namespace");

fn is_going(metadata: &ObjectMeta) -> bool {
    metadata.deletion_timestamp.is_some()
}

/// The namespace as it should be.
pub(crate) fn namespace(name: &str, environment: &Environment, project: &Project) -> Namespace {
    let label = |key: &str, otherwise: &str| match environment.label(key) {
        "" => label_value(otherwise),
        value => value.to_owned(),
    };
    let first = project.spec.sources.first();
    let own = first.and_then(|source| environment.source(&source.name)).map(|source| source.branch.as_str());
    let branch = own.filter(|branch| !branch.is_empty()).or(first.map(|source| source.branch.as_str()));
    let mut labels = Labels::from([
        (TYPE_LABEL.to_owned(), "environment".to_owned()),
        (PROJECT_LABEL.to_owned(), label(PROJECT_LABEL, project.name())),
        (ENVIRONMENT_LABEL.to_owned(), label(ENVIRONMENT_LABEL, environment.name())),
        (TEAM_LABEL.to_owned(), label(TEAM_LABEL, project.namespace())),
    ]);
    let branch = label_value(branch.unwrap_or_default());
    if !branch.is_empty() {
        labels.insert("catalyst.dev/branch".into(), branch);
    }
    Namespace { metadata: transom_sdk::objects::metadata(name, &labels), ..Namespace::default() }
}
