//! Answers for plugins: one file for each kind of lookup.
//!
//! An answer is kept for as long as a plan rests on it, shared by all primaries that asked the same, and thrown away
//! when what it speaks of changes; then exactly the primaries that used it are reconciled again.

mod clock;
mod kubernetes;
mod table;

use std::sync::Arc;
use std::time::Duration;

use crate::control::cluster::Cluster;
use crate::control::key::PrimaryKey;
use crate::plan::contract::{Answer, Answered, Lookup, Manifest, ObjectRef, Problem, TypeMeta};

pub use table::Stale;
use table::Table;

/// Answers lookups for the whole host.
pub struct Lookups {
    cluster: Arc<Cluster>,
    table: Arc<Table>,
    kinds: kubernetes::Kinds,
}

impl Lookups {
    /// `stale` is called with every primary whose plan rests on an answer that no longer holds.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, stale: Arc<Stale>) -> Self {
        let table = Arc::new(Table::new(stale));
        let kinds = kubernetes::Kinds::new(cluster.clone(), table.clone());
        Self { cluster, table, kinds }
    }

    /// Answers to what the last plan of a primary used, as of now.
    pub async fn last(&self, key: &PrimaryKey, manifest: &Manifest) -> Vec<Answered> {
        self.answer(key, manifest, self.table.used_by(key)).await
    }

    /// Answers lookups, all at the same time, in the order in which they were asked.
    pub async fn answer(&self, key: &PrimaryKey, manifest: &Manifest, lookups: Vec<Lookup>) -> Vec<Answered> {
        let mut answers = Vec::with_capacity(lookups.len());
        for lookup in &lookups {
            answers.push(self.one(key, manifest, lookup));
        }
        let answers = futures::future::join_all(answers).await;
        lookups.into_iter().zip(answers).map(|(lookup, answer)| Answered { lookup, answer }).collect()
    }

    /// Brings a primary up when an object that stands in its way changes or goes; until its next plan is carried out.
    pub async fn follow(&self, key: &PrimaryKey, object: &ObjectRef) {
        self.kinds.watch(&object.kind).await;
        self.table.follow(key, object);
    }

    /// Remembers what a plan rests on, and forgets the rest. Returns after how long an answer changes by itself.
    pub fn keep(&self, key: &PrimaryKey, used: &[Answered]) -> Option<Duration> {
        self.table.keep(key, used.iter().map(|answered| answered.lookup.clone()).collect());
        used.iter().filter_map(|answered| clock::changes_in(&answered.lookup)).min()
    }

    /// Forgets a primary.
    pub fn forget(&self, key: &PrimaryKey) {
        self.table.keep(key, Vec::new());
    }

    async fn one(&self, key: &PrimaryKey, manifest: &Manifest, lookup: &Lookup) -> Answer {
        match lookup {
            Lookup::Clock { seconds } => clock::answer(*seconds),
            Lookup::Object(reference) => match may_read(key, manifest, &reference.kind, Some(&reference.namespace)) {
                Err(denied) => denied,
                Ok(delivery) => {
                    self.kinds.watch(&reference.kind).await;
                    let fetch = || kubernetes::object(&self.cluster, reference, delivery);
                    self.table.answer(key, lookup, fetch).await
                }
            },
            Lookup::Objects { kind, namespace, label_selector } => {
                match may_read(key, manifest, kind, namespace.as_deref()) {
                    Err(denied) => denied,
                    Ok(delivery) => {
                        self.kinds.watch(kind).await;
                        let namespace = namespace.as_deref();
                        let fetch = || kubernetes::objects(&self.cluster, kind, namespace, label_selector, delivery);
                        self.table.answer(key, lookup, fetch).await
                    }
                }
            }
            Lookup::Grpc { .. } => unsupported("gRPC"),
            Lookup::Http { .. } => unsupported("HTTP"),
            Lookup::Image { .. } => unsupported("image"),
            Lookup::Artifact { .. } => unsupported("artifact"),
            Lookup::Engine { .. } => unsupported("engine"),
            Lookup::Random { .. } => unsupported("random"),
        }
    }
}

/// May this plugin read this kind in this namespace for this primary, and how much of it?
fn may_read(
    key: &PrimaryKey,
    manifest: &Manifest,
    kind: &TypeMeta,
    namespace: Option<&str>,
) -> Result<crate::plan::contract::Delivery, Answer> {
    let Some((_, delivery)) = manifest.reads.iter().find(|(declared, _)| declared == kind) else {
        return Err(Answer::Denied(format!("the plugin did not declare that it reads {kind}")));
    };
    // a namespaced primary is a tenant's: through it the tenant must not see what is in other namespaces
    let foreign = namespace.is_none_or(|asked| !asked.is_empty() && asked != &*key.namespace);
    if foreign && !key.namespace.is_empty() {
        let asked = namespace.unwrap_or("all namespaces");
        return Err(Answer::Denied(format!("{kind} in {asked}: only the primary's own namespace may be read")));
    }
    Ok(*delivery)
}

fn unsupported(what: &str) -> Answer {
    Answer::Failed(Problem {
        reason: "Unsupported".into(),
        message: format!("this version of the host answers no {what} lookups"),
    })
}

/// Does a change of this object make the answer to this lookup stale?
fn concerns(lookup: &Lookup, changed: &ObjectRef) -> bool {
    match lookup {
        Lookup::Object(reference) => reference == changed,
        Lookup::Objects { kind, namespace, .. } => {
            *kind == changed.kind && namespace.as_ref().is_none_or(|asked| *asked == changed.namespace)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::contract::Delivery;

    fn manifest() -> Manifest {
        Manifest {
            name: "p".into(),
            version: "1".into(),
            crds: vec![],
            children: vec![],
            reads: vec![(TypeMeta::new("v1", "Secret"), Delivery::Full)],
            endpoints: vec![],
            engines: vec![],
            config_schema: None,
            finalizes: false,
        }
    }

    #[test]
    fn a_tenant_reads_declared_kinds_in_its_own_namespace_only() {
        let key = PrimaryKey::new(Arc::new(TypeMeta::new("g/v1", "K")), "mine", "a");
        let secret = TypeMeta::new("v1", "Secret");
        assert_eq!(may_read(&key, &manifest(), &secret, Some("mine")), Ok(Delivery::Full));
        assert!(may_read(&key, &manifest(), &secret, Some("other")).is_err());
        assert!(may_read(&key, &manifest(), &secret, None).is_err());
        assert!(may_read(&key, &manifest(), &TypeMeta::new("v1", "Pod"), Some("mine")).is_err());
    }
}
