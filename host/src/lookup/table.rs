//! Who rests on which answer.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::control::key::PrimaryKey;
use crate::plan::contract::{Answer, Lookup, ObjectRef, TypeMeta};

/// Is told of a primary whose plan rests on an answer that no longer holds.
pub type Stale = dyn Fn(&PrimaryKey) + Send + Sync;

#[derive(Default)]
struct Entry {
    answer: Option<Answer>,
    /// Grows with every change: an answer that was on its way meanwhile is not kept.
    version: u64,
    users: HashSet<PrimaryKey>,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<Lookup, Entry>,
    by_primary: HashMap<PrimaryKey, Vec<Lookup>>,
    /// Objects that stand in a primary's way: few, and gone through at every change.
    follows: HashMap<PrimaryKey, Vec<ObjectRef>>,
}

pub(super) struct Table {
    inner: Mutex<Inner>,
    stale: Arc<Stale>,
}

impl Table {
    pub(super) fn new(stale: Arc<Stale>) -> Self {
        Self { inner: Mutex::default(), stale }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kept answer, or a new one. The primary is a user from now on, so a change while the answer is fetched is not
    /// missed.
    pub(super) async fn answer<F: Future<Output = Answer>>(
        &self,
        key: &PrimaryKey,
        lookup: &Lookup,
        fetch: impl FnOnce() -> F,
    ) -> Answer {
        let version = {
            let mut inner = self.lock();
            let asked = inner.by_primary.entry(key.clone()).or_default();
            if !asked.contains(lookup) {
                asked.push(lookup.clone());
            }
            let entry = inner.entries.entry(lookup.clone()).or_default();
            entry.users.insert(key.clone());
            if let Some(answer) = &entry.answer {
                return answer.clone();
            }
            entry.version
        };
        let answer = fetch().await;
        // failures are tried again by the primary's own back-off
        if !matches!(answer, Answer::Failed(_))
            && let Some(entry) = self.lock().entries.get_mut(lookup)
            && entry.version == version
        {
            entry.answer = Some(answer.clone());
        }
        answer
    }

    /// What the last plan of a primary used, and what was asked for since.
    pub(super) fn used_by(&self, key: &PrimaryKey) -> Vec<Lookup> {
        self.lock().by_primary.get(key).cloned().unwrap_or_default()
    }

    /// Tells of changes of an object without an answer.
    pub(super) fn follow(&self, key: &PrimaryKey, object: &ObjectRef) {
        let mut inner = self.lock();
        let follows = inner.follows.entry(key.clone()).or_default();
        if !follows.contains(object) {
            follows.push(object.clone());
        }
    }

    /// From now on the primary rests on these only.
    pub(super) fn keep(&self, key: &PrimaryKey, used: Vec<Lookup>) {
        let mut inner = self.lock();
        let Inner { entries, by_primary, follows } = &mut *inner;
        follows.remove(key);
        let before = by_primary.remove(key).unwrap_or_default();
        for lookup in before.iter().filter(|lookup| !used.contains(lookup)) {
            if let Some(entry) = entries.get_mut(lookup) {
                entry.users.remove(key);
                if entry.users.is_empty() {
                    entries.remove(lookup);
                }
            }
        }
        for lookup in &used {
            entries.entry(lookup.clone()).or_default().users.insert(key.clone());
        }
        if !used.is_empty() {
            by_primary.insert(key.clone(), used);
        }
    }

    /// An object has changed.
    pub(super) fn changed(&self, object: &ObjectRef) {
        self.invalidate(|lookup| super::concerns(lookup, object), |followed| followed == object);
    }

    /// Changes of a kind may have been missed.
    pub(super) fn kind_changed(&self, kind: &TypeMeta) {
        let asked = |lookup: &Lookup| match lookup {
            Lookup::Object(reference) => reference.kind == *kind,
            Lookup::Objects { kind: asked, .. } => asked == kind,
            _ => false,
        };
        self.invalidate(asked, |followed| followed.kind == *kind);
    }

    fn invalidate(&self, concerns: impl Fn(&Lookup) -> bool, follows: impl Fn(&ObjectRef) -> bool) {
        let mut users = HashSet::new();
        let mut inner = self.lock();
        for (_, entry) in inner.entries.iter_mut().filter(|(lookup, _)| concerns(lookup)) {
            entry.answer = None;
            entry.version += 1;
            users.extend(entry.users.iter().cloned());
        }
        let following = inner.follows.iter().filter(|(_, objects)| objects.iter().any(&follows));
        users.extend(following.map(|(key, _)| key.clone()));
        drop(inner);
        users.iter().for_each(|key| (self.stale)(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::contract::Value;

    fn key(name: &str) -> PrimaryKey {
        PrimaryKey::new(Arc::new(TypeMeta::new("g/v1", "K")), "n", name)
    }

    fn secret(name: &str) -> ObjectRef {
        ObjectRef { kind: TypeMeta::new("v1", "Secret"), namespace: "n".into(), name: name.into() }
    }

    fn found(text: &str) -> Answer {
        Answer::Found(Value::Object(text.into()))
    }

    fn table() -> (Arc<Mutex<Vec<String>>>, Table) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = told.clone();
        let stale = move |key: &PrimaryKey| listener.lock().unwrap().push(key.name.to_string());
        (told, Table::new(Arc::new(stale)))
    }

    #[tokio::test]
    async fn an_answer_is_fetched_once_for_all_and_again_after_a_change() {
        let (told, table) = table();
        let lookup = Lookup::Object(secret("s"));
        assert_eq!(table.answer(&key("a"), &lookup, async || found("1")).await, found("1"));
        assert_eq!(table.answer(&key("b"), &lookup, async || found("2")).await, found("1"));
        table.changed(&secret("s"));
        let mut told = told.lock().unwrap().clone();
        told.sort();
        assert_eq!(told, ["a", "b"]);
        assert_eq!(table.answer(&key("a"), &lookup, async || found("3")).await, found("3"));
    }

    #[tokio::test]
    async fn a_change_while_the_answer_is_fetched_is_not_missed() {
        let (told, table) = table();
        let lookup = Lookup::Object(secret("s"));
        let fetch = async || {
            table.changed(&secret("s"));
            found("old")
        };
        assert_eq!(table.answer(&key("a"), &lookup, fetch).await, found("old"));
        assert_eq!(*told.lock().unwrap(), ["a"]);
        assert_eq!(table.answer(&key("a"), &lookup, async || found("new")).await, found("new"));
    }

    #[tokio::test]
    async fn only_users_are_told() {
        let (told, table) = table();
        let lookups = [Lookup::Object(secret("s")), Lookup::Object(secret("t"))];
        for lookup in &lookups {
            table.answer(&key("a"), lookup, async || Answer::Absent).await;
        }
        table.keep(&key("a"), lookups.to_vec());
        table.keep(&key("a"), lookups[1..].to_vec());
        table.changed(&secret("s"));
        assert!(told.lock().unwrap().is_empty());
        table.changed(&secret("t"));
        assert_eq!(*told.lock().unwrap(), ["a"]);
        assert_eq!(table.used_by(&key("a")), lookups[1..]);
    }
}
