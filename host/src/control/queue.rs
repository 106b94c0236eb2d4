//! Which primary is next.
//!
//! A primary is in the queue at most once and is worked on by one worker at a time; what happens to it meanwhile brings
//! it back afterwards. Plugins and namespaces take turns, so that ten thousand objects of one tenant do not make the
//! eleventh of another wait, and no plugin takes all workers, so that a slow one leaves room for the rest.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::key::PrimaryKey;
use crate::plan::contract::TypeMeta;

/// Who takes turns: a kind (and with it a plugin) and a namespace.
type Tenant = (Arc<TypeMeta>, Arc<str>);

/// Primaries of one kind that are worked on at the same time, of [`WORKERS`](super::controller::WORKERS).
const MOST_OF_A_KIND: usize = super::controller::WORKERS / 4 * 3;

#[derive(Default)]
struct Inner {
    /// Tenants with something to do, in the order of their turns.
    turns: VecDeque<Tenant>,
    ready: HashMap<Tenant, VecDeque<PrimaryKey>>,
    queued: HashSet<PrimaryKey>,
    running: HashSet<PrimaryKey>,
    /// How many of each kind are running.
    of_kind: HashMap<Arc<TypeMeta>, usize>,
    /// Not to be worked on before then.
    resting: HashMap<PrimaryKey, Instant>,
    /// Came up again while running, with the resource versions that caused it.
    again: HashMap<PrimaryKey, Vec<u64>>,
    later: BinaryHeap<Reverse<(Instant, PrimaryKey)>>,
    later_at: HashMap<PrimaryKey, Instant>,
    closed: bool,
}

/// The queue of the whole host.
#[derive(Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a primary in. `cause` is the resource version of the object whose change brought it up, 0 for any other
    /// reason: a change that the primary's own reconcile made does not bring it back.
    pub fn add(&self, key: PrimaryKey, cause: u64) {
        let mut inner = self.lock();
        if inner.running.contains(&key) {
            inner.again.entry(key).or_default().push(cause);
            return;
        }
        inner.push(key);
        drop(inner);
        self.wake.notify_one();
    }

    /// Puts a primary in at a time. The earliest of several times counts.
    pub fn add_at(&self, key: PrimaryKey, at: Instant) {
        self.lock().postpone(key, at);
        self.wake.notify_one();
    }

    /// Takes back the time of a primary: what it was for is done.
    pub fn forget_time(&self, key: &PrimaryKey) {
        // its entry in `later` is stale now
        self.lock().later_at.remove(key);
    }

    /// After how long a primary comes up without a change; none when nothing brings it up but a change.
    #[must_use]
    pub fn again_in(&self, key: &PrimaryKey) -> Option<Duration> {
        let inner = self.lock();
        let at = inner.later_at.get(key).into_iter().chain(inner.resting.get(key)).min()?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// The next primary, marked as running. None when the queue is closed.
    pub async fn next(&self) -> Option<PrimaryKey> {
        loop {
            let notified = self.wake.notified();
            let wait = {
                let mut inner = self.lock();
                if inner.closed {
                    return None;
                }
                inner.promote(Instant::now());
                if let Some(key) = inner.pop() {
                    if inner.has_work() {
                        self.wake.notify_one();
                    }
                    return Some(key);
                }
                inner.later.peek().map(|Reverse((at, _))| *at)
            };
            match wait {
                Some(at) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => notified.await,
            }
        }
    }

    /// The worker has finished. `written` are the resource versions that it made. Whatever brings the primary up again
    /// within `rest` waits until that is over.
    pub fn done(&self, key: &PrimaryKey, written: &[u64], rest: Option<Duration>) {
        let mut inner = self.lock();
        inner.finish(key);
        if let Some(rest) = rest {
            let now = Instant::now();
            inner.resting.retain(|_, until| *until > now);
            inner.resting.insert(key.clone(), now + rest);
        }
        let causes = inner.again.remove(key).unwrap_or_default();
        if causes.iter().any(|cause| *cause == 0 || !written.contains(cause)) {
            inner.push(key.clone());
        }
        drop(inner);
        // for this one, or for one of its kind that had to wait for a worker
        self.wake.notify_one();
    }

    /// How many primaries wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().queued.len()
    }

    /// Nothing waits, and nothing runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.queued.is_empty() && inner.running.is_empty()
    }

    /// No more work is given out; workers that wait are told.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_waiters();
        self.wake.notify_one();
    }
}

impl Inner {
    fn push(&mut self, key: PrimaryKey) {
        if let Some(&until) = self.resting.get(&key) {
            if until > Instant::now() {
                return self.postpone(key, until);
            }
            self.resting.remove(&key);
        }
        if !self.queued.insert(key.clone()) {
            return;
        }
        let tenant = (key.kind.clone(), key.namespace.clone());
        let line = self.ready.entry(tenant.clone()).or_default();
        if line.is_empty() {
            self.turns.push_back(tenant);
        }
        line.push_back(key);
    }

    fn postpone(&mut self, key: PrimaryKey, at: Instant) {
        if self.later_at.get(&key).is_some_and(|&before| before <= at) {
            return;
        }
        self.later_at.insert(key.clone(), at);
        self.later.push(Reverse((at, key)));
    }

    fn has_room(&self, (kind, _): &Tenant) -> bool {
        self.of_kind.get(kind).is_none_or(|running| *running < MOST_OF_A_KIND)
    }

    fn has_work(&self) -> bool {
        self.turns.iter().any(|tenant| self.has_room(tenant))
    }

    fn pop(&mut self) -> Option<PrimaryKey> {
        let turn = self.turns.iter().position(|tenant| self.has_room(tenant))?;
        let tenant = self.turns.remove(turn)?;
        let line = self.ready.get_mut(&tenant)?;
        let key = line.pop_front()?;
        if line.is_empty() {
            self.ready.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        self.queued.remove(&key);
        *self.of_kind.entry(key.kind.clone()).or_default() += 1;
        self.running.insert(key.clone());
        Some(key)
    }

    fn finish(&mut self, key: &PrimaryKey) {
        if self.running.remove(key)
            && let Some(running) = self.of_kind.get_mut(&key.kind)
        {
            *running -= 1;
        }
    }

    /// Moves what is due from `later` to the queue.
    fn promote(&mut self, now: Instant) {
        while let Some(Reverse((at, _))) = self.later.peek()
            && *at <= now
            && let Some(Reverse((at, key))) = self.later.pop()
        {
            // an entry that was superseded by an earlier time, or taken back, is stale
            if self.later_at.get(&key) == Some(&at) {
                self.later_at.remove(&key);
                if self.running.contains(&key) {
                    self.again.entry(key).or_default().push(0);
                } else {
                    self.push(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, name: &str) -> PrimaryKey {
        PrimaryKey::new(Arc::new(TypeMeta::new("g/v1", "K")), namespace, name)
    }

    async fn names(queue: &Queue, n: usize) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..n {
            names.push(queue.next().await.unwrap().name.to_string());
        }
        names
    }

    #[tokio::test(start_paused = true)]
    async fn namespaces_take_turns() {
        let queue = Queue::default();
        for name in ["a1", "a2", "a3"] {
            queue.add(key("a", name), 0);
        }
        queue.add(key("b", "b1"), 0);
        assert_eq!(names(&queue, 4).await, ["a1", "b1", "a2", "a3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_worker_at_a_time_and_nothing_is_lost() {
        let queue = Queue::default();
        queue.add(key("a", "x"), 0);
        let running = queue.next().await.unwrap();
        queue.add(running.clone(), 7);
        queue.add(running.clone(), 8);
        assert_eq!(queue.waiting(), 0);
        queue.done(&running, &[7], None);
        assert_eq!(names(&queue, 1).await, ["x"]);
    }

    #[tokio::test(start_paused = true)]
    async fn own_writes_do_not_bring_a_primary_back() {
        let queue = Queue::default();
        queue.add(key("a", "x"), 0);
        let running = queue.next().await.unwrap();
        queue.add(running.clone(), 7);
        queue.done(&running, &[7, 8], None);
        assert!(queue.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_that_was_taken_back_brings_nothing_up() {
        let (queue, start) = (Queue::default(), Instant::now());
        queue.add_at(key("a", "x"), start + Duration::from_secs(2));
        queue.forget_time(&key("a", "x"));
        assert_eq!(queue.again_in(&key("a", "x")), None);
        queue.add_at(key("a", "x"), start + Duration::from_secs(9));
        assert_eq!(names(&queue, 1).await, ["x"]);
        assert_eq!(start.elapsed(), Duration::from_secs(9));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_of_several_times_counts() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_at(key("a", "x"), start + Duration::from_secs(9));
        queue.add_at(key("a", "x"), start + Duration::from_secs(2));
        queue.add_at(key("a", "x"), start + Duration::from_secs(5));
        let got = queue.next().await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 2);
        queue.done(&got, &[], None);
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_resting_primary_is_late_but_not_lost() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add(key("a", "x"), 0);
        let running = queue.next().await.unwrap();
        queue.add(running.clone(), 0);
        queue.done(&running, &[], Some(Duration::from_secs(7)));
        queue.add(running.clone(), 9);
        assert_eq!(names(&queue, 1).await, ["x"]);
        assert_eq!(start.elapsed().as_secs(), 7);
        queue.done(&running, &[], None);
        queue.add(running, 0);
        assert_eq!(names(&queue, 1).await, ["x"]);
        assert_eq!(start.elapsed().as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_kind_leaves_workers_for_others() {
        let queue = Queue::default();
        for number in 0..100 {
            queue.add(key("a", &number.to_string()), 0);
        }
        let slow = names(&queue, MOST_OF_A_KIND).await;
        let other = PrimaryKey::new(Arc::new(TypeMeta::new("g/v1", "Other")), "a", "quick");
        queue.add(other, 0);
        assert_eq!(names(&queue, 1).await, ["quick"]);
        assert!(tokio::time::timeout(Duration::from_secs(9), queue.next()).await.is_err());
        queue.done(&key("a", &slow[0]), &[], None);
        assert_eq!(names(&queue, 1).await, [MOST_OF_A_KIND.to_string()]);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_wakes_every_worker() {
        let queue = Arc::new(Queue::default());
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let queue = queue.clone();
                    async move { queue.next().await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.close();
        for worker in waiting {
            assert_eq!(worker.await.unwrap(), None);
        }
    }

    proptest::proptest! {
        /// Whatever the order of adds and finishes, every primary that was added runs after its last add.
        #[test]
        fn every_add_is_followed_by_a_run(steps in proptest::collection::vec((0u8..4, 0u8..5), 1..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let queue = Queue::default();
                let (mut owed, mut running) = (HashSet::new(), Vec::new());
                for (what, who) in steps {
                    if what < 2 {
                        let key = key(&format!("n{}", who % 2), &who.to_string());
                        queue.add(key.clone(), 0);
                        owed.insert(key);
                    } else if what == 2 && queue.waiting() > 0 {
                        let key = queue.next().await.unwrap();
                        owed.remove(&key);
                        assert!(!running.contains(&key), "two workers on one primary");
                        running.push(key);
                    } else if let Some(key) = running.pop() {
                        queue.done(&key, &[], None);
                    }
                }
                running.drain(..).for_each(|key| queue.done(&key, &[], None));
                while queue.waiting() > 0 {
                    let key = queue.next().await.unwrap();
                    owed.remove(&key);
                    queue.done(&key, &[], None);
                }
                assert!(owed.is_empty(), "{owed:?}");
            });
        }
    }
}
