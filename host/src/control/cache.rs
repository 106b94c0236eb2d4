//! Live objects of one kind, as last heard of from the API server: by watch, or from the answer to a write of ours.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use crate::plan::object::Object;

/// Namespace and name.
type Key = (String, String);

#[derive(Default)]
struct Inner {
    objects: HashMap<Key, Arc<Object>>,
    by_owner: HashMap<String, BTreeSet<Key>>,
}

/// What became of an object that was put in.
#[derive(Debug, PartialEq)]
pub enum Put {
    /// Known already, or older than what is known.
    Old,
    /// News; with what was there before.
    New(Option<Arc<Object>>),
}

/// Live objects of one kind. Newer versions replace older ones, never the other way round, so the answer to a write may
/// come before or after the watch event of the same write.
#[derive(Default)]
pub struct Cache {
    inner: RwLock<Inner>,
}

impl Cache {
    /// One object.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.inner.read().unwrap_or_else(PoisonError::into_inner).objects.get(&key).cloned()
    }

    /// The children of the primary with this UID.
    #[must_use]
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<Object>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let keys = inner.by_owner.get(uid).into_iter().flatten();
        keys.filter_map(|key| inner.objects.get(key).cloned()).collect()
    }

    /// All objects, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Object>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).objects.values().cloned().collect()
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).objects.len()
    }

    /// Nothing is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts in what the API server said.
    pub fn put(&self, object: Object) -> Put {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let key = (object.namespace.clone(), object.name.clone());
        let before = inner.objects.get(&key).cloned();
        if let Some(before) = &before
            && before.uid == object.uid
            && before.resource_version >= object.resource_version
        {
            return Put::Old;
        }
        if before.as_ref().map(|b| &b.owner) != Some(&object.owner) {
            inner.disown(&key, before.as_deref());
            if let Some(owner) = &object.owner {
                inner.by_owner.entry(owner.clone()).or_default().insert(key.clone());
            }
        }
        inner.objects.insert(key, Arc::new(object));
        Put::New(before)
    }

    /// Takes out the object with this UID; what has the name since then stays.
    pub fn remove(&self, object: &Object) -> Option<Arc<Object>> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let key = (object.namespace.clone(), object.name.clone());
        inner.objects.get(&key).filter(|known| known.uid == object.uid)?;
        inner.take(&key)
    }

    /// Notes that the object with this UID is being deleted, before the watch says so.
    pub fn mark_deleting(&self, object: &Object) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let key = (object.namespace.clone(), object.name.clone());
        if let Some(known) = inner.objects.get_mut(&key).filter(|known| known.uid == object.uid) {
            Arc::make_mut(known).deleting = true;
        }
    }

    /// Names of all objects now; what is not listed again by the end of a list is gone.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<Key> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).objects.keys().cloned().collect()
    }

    /// Takes out objects by name.
    pub fn remove_all(&self, gone: impl IntoIterator<Item = Key>) -> Vec<Arc<Object>> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        gone.into_iter().filter_map(|key| inner.take(&key)).collect()
    }
}

impl Inner {
    fn take(&mut self, key: &Key) -> Option<Arc<Object>> {
        let object = self.objects.remove(key)?;
        self.disown(key, Some(&object));
        Some(object)
    }

    fn disown(&mut self, key: &Key, object: Option<&Object>) {
        if let Some(owner) = object.and_then(|o| o.owner.as_ref())
            && let Some(keys) = self.by_owner.get_mut(owner)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.by_owner.remove(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(uid: &str, version: u64, owner: Option<&str>) -> Object {
        Object {
            namespace: "n".into(),
            name: "a".into(),
            uid: uid.into(),
            resource_version: version,
            owner: owner.map(Into::into),
            ..Object::default()
        }
    }

    #[test]
    fn an_older_version_never_replaces_a_newer_one() {
        let cache = Cache::default();
        assert_eq!(cache.put(object("u", 2, None)), Put::New(None));
        assert_eq!(cache.put(object("u", 2, None)), Put::Old);
        assert_eq!(cache.put(object("u", 1, None)), Put::Old);
        assert!(matches!(cache.put(object("u", 3, None)), Put::New(Some(_))));
    }

    #[test]
    fn a_late_deletion_does_not_take_the_successor() {
        let cache = Cache::default();
        cache.put(object("new", 5, Some("o")));
        assert_eq!(cache.remove(&object("old", 4, Some("o"))), None);
        assert_eq!(cache.owned_by("o").len(), 1);
    }

    #[test]
    fn children_are_found_by_owner_until_it_changes() {
        let cache = Cache::default();
        cache.put(object("u", 1, Some("o")));
        cache.put(object("u", 2, Some("p")));
        assert!(cache.owned_by("o").is_empty());
        assert_eq!(cache.owned_by("p").len(), 1);
        cache.remove_all(cache.keys());
        assert!(cache.owned_by("p").is_empty() && cache.is_empty());
    }
}
