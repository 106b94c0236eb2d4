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
    /// Everything up to this resource version was heard of by watch.
    passed: u64,
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
/// come before or after the watch event of the same write, or even of a deletion after it.
///
/// Resource versions of one kind can be compared, whichever object they are of (KEP-5504).
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

    /// Puts in what a list or a watch said.
    pub fn put(&self, object: Object) -> Put {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).put(object)
    }

    /// Puts in the answer to a write. An object that the watch would know by now, but does not, was deleted since.
    pub fn put_answer(&self, object: Object) -> Put {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let key = (object.namespace.clone(), object.name.clone());
        if object.resource_version <= inner.passed && !inner.objects.contains_key(&key) {
            return Put::Old;
        }
        inner.put(object)
    }

    /// Everything up to this resource version was heard of by watch.
    pub fn passed(&self, version: u64) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.passed = inner.passed.max(version);
    }

    /// These are all objects as of a resource version: what is older and not among them is gone, and returned.
    pub fn listed(&self, names: &BTreeSet<Key>, version: u64) -> Vec<Arc<Object>> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.passed = inner.passed.max(version);
        let is_gone =
            |(key, object): &(&Key, &Arc<Object>)| object.resource_version <= version && !names.contains(*key);
        let gone: Vec<Key> = inner.objects.iter().filter(is_gone).map(|(key, _)| key.clone()).collect();
        gone.iter().filter_map(|key| inner.take(key)).collect()
    }

    /// These are all objects as of a resource version, read in another version of their kind: whatever was known is
    /// replaced. Returns what there is now, and what is gone.
    pub fn replace(&self, objects: Vec<Object>, version: u64) -> (Vec<Arc<Object>>, Vec<Arc<Object>>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut inner.objects);
        inner.by_owner.clear();
        inner.passed = inner.passed.max(version);
        objects.into_iter().for_each(|object| drop(inner.put(object)));
        let gone = before.into_iter().filter(|(key, _)| !inner.objects.contains_key(key)).map(|(_, object)| object);
        let gone = gone.collect();
        (inner.objects.values().cloned().collect(), gone)
    }

    /// There are no objects of this kind any more. Returns those that there were.
    pub fn clear(&self) -> Vec<Arc<Object>> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.by_owner.clear();
        std::mem::take(&mut inner.objects).into_values().collect()
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
}

impl Inner {
    fn put(&mut self, object: Object) -> Put {
        let key = (object.namespace.clone(), object.name.clone());
        let before = self.objects.get(&key).cloned();
        if before.as_ref().is_some_and(|before| before.resource_version >= object.resource_version) {
            return Put::Old;
        }
        if before.as_ref().map(|b| &b.owner) != Some(&object.owner) {
            self.disown(&key, before.as_deref());
            if let Some(owner) = &object.owner {
                self.by_owner.entry(owner.clone()).or_default().insert(key.clone());
            }
        }
        self.objects.insert(key, Arc::new(object));
        Put::New(before)
    }

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
        cache.listed(&BTreeSet::new(), 2);
        assert!(cache.owned_by("p").is_empty() && cache.is_empty());
    }

    #[test]
    fn the_answer_to_a_write_does_not_bring_back_what_was_deleted_after_it() {
        let cache = Cache::default();
        cache.put(object("u", 1, Some("o")));
        // written as 2 and deleted as 3; the answer to the write comes last
        cache.passed(3);
        cache.remove(&object("u", 3, Some("o")));
        assert_eq!(cache.put_answer(object("u", 2, Some("o"))), Put::Old);
        assert!(cache.is_empty());
        // written after all that the watch has told of
        assert_eq!(cache.put_answer(object("v", 4, Some("o"))), Put::New(None));
        // the same answer after it was heard of
        cache.passed(4);
        assert_eq!(cache.put_answer(object("v", 4, Some("o"))), Put::Old);
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn objects_in_another_version_replace_what_is_known_at_once() {
        let cache = Cache::default();
        cache.put(Object { name: "gone".into(), ..object("w", 1, Some("o")) });
        cache.put(object("u", 2, Some("o")));
        let other = Object { json: "{}".into(), ..object("u", 2, Some("o")) };
        let (now, gone) = cache.replace(vec![other.clone()], 3);
        assert_eq!((now, gone.len()), (vec![Arc::new(other)], 1));
        assert_eq!(cache.owned_by("o").len(), 1);
        assert_eq!(cache.clear().len(), 1);
        assert!(cache.is_empty() && cache.owned_by("o").is_empty());
    }

    #[test]
    fn an_answer_of_an_earlier_object_does_not_replace_its_successor() {
        let cache = Cache::default();
        cache.put(object("new", 5, None));
        assert_eq!(cache.put_answer(object("old", 4, None)), Put::Old);
    }

    #[test]
    fn a_list_takes_out_what_is_older_than_it_and_keeps_what_was_written_meanwhile() {
        let cache = Cache::default();
        cache.put(object("u", 1, None));
        assert_eq!(cache.listed(&BTreeSet::new(), 2).len(), 1, "deleted while nobody watched");
        cache.put_answer(object("v", 4, None));
        assert!(cache.listed(&BTreeSet::new(), 3).is_empty(), "made after the list");
        assert_eq!(cache.listed(&BTreeSet::new(), 5).len(), 1);
    }
}
