//! What is to be looked at, and when. One look at a key at a time; what is asked for meanwhile comes afterwards.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

/// The first wait after a failure doubles up to the last.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LAST_WAIT: Duration = Duration::from_secs(30);

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    /// What there is to look at.
    All,
    /// A template version, by name.
    Template(String),
    /// An instance, by name.
    Instance(String),
    /// A Secret of ours that no instance can have, by name.
    Secret(String),
}

impl Key {
    /// Label of metrics.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Template(_) => "template",
            Self::Instance(_) => "instance",
            Self::Secret(_) => "secret",
        }
    }
}

#[derive(Default)]
pub(super) struct Queue {
    due: HashMap<Key, Instant>,
    order: BTreeSet<(Instant, Key)>,
    running: HashSet<Key>,
    failures: HashMap<Key, u32>,
}

impl Queue {
    /// To be looked at now, even when it waits after a failure.
    pub(super) fn add(&mut self, key: Key) {
        self.add_at(key, Instant::now());
    }

    fn add_at(&mut self, key: Key, at: Instant) {
        if let Some(earlier) = self.due.get(&key).copied() {
            if earlier <= at {
                return;
            }
            self.order.remove(&(earlier, key.clone()));
        }
        self.order.insert((at, key.clone()));
        self.due.insert(key, at);
    }

    /// The next key whose time has come.
    pub(super) fn take(&mut self) -> Option<Key> {
        let now = Instant::now();
        let due = self.order.iter().take_while(|(at, _)| *at <= now);
        let next = due.into_iter().find(|(_, key)| !self.running.contains(key))?.clone();
        self.order.remove(&next);
        let (_, key) = next;
        self.due.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    /// A look has ended.
    pub(super) fn finish(&mut self, key: &Key, is_ok: bool) {
        self.running.remove(key);
        if is_ok {
            self.failures.remove(key);
            return;
        }
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = FIRST_WAIT.saturating_mul(1 << (*failures).min(10)).min(LAST_WAIT);
        *failures = failures.saturating_add(1);
        self.add_at(key.clone(), Instant::now() + wait);
    }

    /// When [`Self::take`] next has something.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.order.iter().find(|(_, key)| !self.running.contains(key)).map(|(at, _)| *at)
    }

    /// What waits or is looked at.
    pub(super) fn len(&self) -> usize {
        self.due.len() + self.running.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::Instance(name.into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_looked_at_once_at_a_time_and_once_more_when_asked_meanwhile() {
        let mut queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.take(), Some(key("a")));
        assert_eq!(queue.take(), None);
        queue.add(key("a"));
        assert_eq!((queue.take(), queue.next_at()), (None, None), "it is being looked at");
        queue.finish(&key("a"), true);
        assert_eq!(queue.take(), Some(key("a")));
        queue.finish(&key("a"), true);
        assert_eq!((queue.take(), queue.len()), (None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_and_news_come_at_once() {
        let mut queue = Queue::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            queue.add(key("a"));
            assert_eq!(queue.take(), Some(key("a")));
            queue.finish(&key("a"), false);
            waits.push(queue.next_at().unwrap() - Instant::now());
            assert_eq!(queue.take(), None);
        }
        assert_eq!(waits[..3], [250, 500, 1000].map(Duration::from_millis));
        assert_eq!(waits[11], LAST_WAIT);
        tokio::time::advance(LAST_WAIT).await;
        assert_eq!(queue.take(), Some(key("a")));
        queue.finish(&key("a"), true);
        queue.add(key("a"));
        queue.take();
        queue.finish(&key("a"), false);
        assert_eq!(queue.next_at(), Some(Instant::now() + FIRST_WAIT), "a success forgets failures");
    }
}
