//! The last reconciles of each object, in memory, bounded in number for each and in bytes for all.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Outcome, Recording};
use crate::control::key::PrimaryKey;
use crate::plan::contract::{Answer, Value};

/// Bytes of all recordings of one host together.
pub const MAX_BYTES: usize = 16 << 20;

/// What an entry takes beside its texts.
const OVERHEAD: usize = 1 << 10;

/// The recordings of one host.
pub struct Ring<T = Recording> {
    per_object: usize,
    max_bytes: usize,
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    /// Oldest first.
    entries: BTreeMap<u64, (PrimaryKey, Arc<T>, usize)>,
    by_key: HashMap<PrimaryKey, VecDeque<u64>>,
    bytes: usize,
    next: u64,
}

impl Ring {
    /// Keeps one more; the oldest go where there is no room. One larger than all the room is not kept.
    pub fn push(&self, key: &PrimaryKey, recording: Recording) {
        let size = size(&recording);
        self.insert(key, recording, size);
    }
}

impl<T> Ring<T> {
    /// Keeps this many reconciles of each object; 0 keeps none.
    #[must_use]
    pub fn new(per_object: usize, max_bytes: usize) -> Self {
        let inner = Inner { entries: BTreeMap::new(), by_key: HashMap::new(), bytes: 0, next: 0 };
        Self { per_object, max_bytes, inner: Mutex::new(inner) }
    }

    /// Nothing is kept.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.per_object == 0
    }

    fn insert(&self, key: &PrimaryKey, recording: T, size: usize) {
        if self.is_off() || size > self.max_bytes {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = Vec::new(); // freed after the lock
        let id = inner.next;
        inner.next += 1;
        inner.bytes += size;
        inner.entries.insert(id, (key.clone(), Arc::new(recording), size));
        let of_key = inner.by_key.entry(key.clone()).or_default();
        of_key.push_back(id);
        if of_key.len() > self.per_object
            && let Some(oldest) = of_key.pop_front()
            && let Some((_, recording, size)) = inner.entries.remove(&oldest)
        {
            inner.bytes -= size;
            gone.push(recording);
        }
        while inner.bytes > self.max_bytes
            && let Some((_, (key, recording, size))) = inner.entries.pop_first()
        {
            inner.bytes -= size;
            gone.push(recording);
            if let Some(of_key) = inner.by_key.get_mut(&key) {
                of_key.pop_front();
                if of_key.is_empty() {
                    inner.by_key.remove(&key);
                }
            }
        }
        drop(inner);
    }

    /// Recordings of an object, newest first. `kind` is a kind, or kind and group (`Web.bench.dev`), in any case.
    #[must_use]
    pub fn of(&self, kind: &str, namespace: &str, name: &str) -> Vec<Arc<T>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let is_kind = |key: &PrimaryKey| {
            let full = format!("{}.{}", key.kind.kind, key.kind.group());
            key.kind.kind.eq_ignore_ascii_case(kind) || full.eq_ignore_ascii_case(kind)
        };
        let is_meant = |key: &PrimaryKey| {
            *key.name == *name && (*key.namespace == *namespace || key.namespace.is_empty()) && is_kind(key)
        };
        let ids = inner.by_key.iter().filter(|(key, _)| is_meant(key)).flat_map(|(_, ids)| ids);
        let mut ids: Vec<u64> = ids.copied().collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.iter().filter_map(|id| inner.entries.get(id)).map(|(_, recording, _)| recording.clone()).collect()
    }
}

/// About what a recording takes.
fn size(recording: &Recording) -> usize {
    let Recording { request, outcome, .. } = recording;
    let answer = |answer: &Answer| match answer {
        Answer::Found(Value::Object(text) | Value::Digest(text)) => text.len(),
        Answer::Found(Value::Objects(texts)) => texts.iter().map(String::len).sum(),
        Answer::Found(Value::Bytes(bytes) | Value::Http { body: bytes, .. }) => bytes.len(),
        Answer::Found(Value::Files(files)) => files.iter().map(|(name, bytes)| name.len() + bytes.len()).sum(),
        _ => 0,
    };
    let plan = match outcome {
        Outcome::Planned(plan) => {
            plan.children.iter().map(|child| child.object.len() + 64).sum::<usize>()
                + plan.status.as_ref().map_or(0, String::len)
        }
        _ => 0,
    };
    OVERHEAD
        + request.object.len()
        + request.config.len()
        + plan
        + request.children.iter().map(|child| child.object.len() + 128).sum::<usize>()
        + request.answers.iter().map(|answered| answer(&answered.answer) + 256).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::contract::TypeMeta;

    fn key(name: &str) -> PrimaryKey {
        PrimaryKey::new(Arc::new(TypeMeta::new("bench.dev/v1", "Web")), "n", name)
    }

    fn kept(ring: &Ring<u32>, name: &str) -> Vec<u32> {
        ring.of("web", "n", name).iter().map(|kept| **kept).collect()
    }

    #[test]
    fn the_last_few_of_each_object_are_kept_newest_first() {
        let ring = Ring::new(2, 100);
        (1..=3).for_each(|i| ring.insert(&key("a"), i, 1));
        ring.insert(&key("b"), 9, 1);
        assert_eq!((kept(&ring, "a"), kept(&ring, "b")), (vec![3, 2], vec![9]));
        assert_eq!(ring.of("Web.bench.dev", "n", "a").len(), 2);
        assert!(ring.of("Web.other.dev", "n", "a").is_empty() && ring.of("Web", "m", "a").is_empty());
    }

    #[test]
    fn the_oldest_of_all_go_where_there_is_no_room() {
        let ring = Ring::new(5, 10);
        ring.insert(&key("a"), 1, 4);
        ring.insert(&key("b"), 2, 4);
        ring.insert(&key("c"), 3, 4);
        assert_eq!((kept(&ring, "a"), kept(&ring, "b"), kept(&ring, "c")), (vec![], vec![2], vec![3]));
        ring.insert(&key("d"), 4, 11);
        assert_eq!((kept(&ring, "b"), kept(&ring, "d")), (vec![2], vec![]), "one that cannot fit drives nothing out");
        let inner = ring.inner.lock().unwrap();
        assert_eq!((inner.bytes, inner.by_key.len(), inner.entries.len()), (8, 2, 2));
    }

    #[test]
    fn none_is_kept_when_it_is_off() {
        let ring = Ring::new(0, 10);
        ring.insert(&key("a"), 1, 1);
        assert!(ring.is_off() && kept(&ring, "a").is_empty());
    }
}
