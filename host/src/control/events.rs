//! Kubernetes Events about primaries, sent in the background: an Event that cannot be sent never delays a reconcile, and
//! the slower the API server is, the less of its time they take. Warnings come first.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::cluster::{ApiError, Cluster, Served};
use super::pace::REST;
use crate::plan::check::{Scope, shorten};
use crate::plan::contract::{Event, ObjectRef, TypeMeta};
use crate::telemetry::metrics;

/// Events that wait to be sent; what comes on top is counted and dropped. Some hundred bytes each.
const WAITING: usize = 20_000;

/// After an Event the next one that is no warning comes after a [`REST`], which is at most so long.
const LONGEST_REST: Duration = Duration::from_millis(200);

/// events.k8s.io/v1: `note` is at most 1 kB.
const MAX_NOTE: usize = 1_024;

/// An Event that is the same as one within this time counts that one up (`events.k8s.io/v1`, isomorphic Events).
const SERIES_FOR: Duration = Duration::from_secs(360);

/// Series that are remembered; some dozen bytes each. When there are more, the oldest half is forgotten.
const MAX_SERIES: usize = 4_096;

const CONTROLLER: &str = "transom.dev/host";

/// What an Event is about, and its UID.
type About = (ObjectRef, String);

/// Sends Events.
pub struct Events {
    pending: Arc<Pending>,
    sender: JoinHandle<()>,
}

impl Events {
    /// Starts the sender.
    #[must_use]
    pub fn start(cluster: Arc<Cluster>) -> Self {
        cluster.learn(Served { kind: kind(), plural: "events".into(), scope: Scope::Namespaced });
        let pending = Arc::<Pending>::default();
        let sender = tokio::spawn(send(pending.clone(), cluster));
        Self { pending, sender }
    }

    /// Sends an Event about an object, soon.
    pub fn send(&self, about: &ObjectRef, uid: &str, event: Event) {
        if !self.pending.add((about.clone(), uid.to_owned()), event) {
            metrics().event_dropped("QueueFull");
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.sender.abort();
    }
}

async fn send(pending: Arc<Pending>, cluster: Arc<Cluster>) {
    let instance = std::env::var("POD_NAME").unwrap_or_else(|_| "transom".into());
    let mut recorder = Recorder { cluster, instance: shorten(&instance, 128), series: HashMap::new() };
    let mut rests_until = Instant::now();
    loop {
        let waiting = pending.next(rests_until).await;
        let started = Instant::now();
        if let Err(error) = recorder.publish(&waiting).await {
            metrics().event_dropped("Refused");
            tracing::warn!(error = &error as &dyn std::error::Error, "event could not be sent");
        }
        rests_until = Instant::now() + started.elapsed().saturating_mul(REST).min(LONGEST_REST);
    }
}

fn kind() -> TypeMeta {
    TypeMeta::new("events.k8s.io/v1", "Event")
}

/// An Event that waits to be sent, and how often it came.
struct Waiting {
    about: About,
    event: Event,
    /// Digest of everything that makes Events the same.
    same: u64,
    times: u32,
}

/// Events that wait: the same ones once, so what piles up while the API server is slow is written once.
#[derive(Default)]
struct Pending {
    events: Mutex<Queues>,
    added: Notify,
}

#[derive(Default)]
struct Queues {
    /// By [`Waiting::same`], in the order in which they came first.
    warnings: VecDeque<u64>,
    others: VecDeque<u64>,
    waiting: HashMap<u64, Waiting>,
}

impl Pending {
    /// False when there are too many, and one is lost: this one, or for a warning the oldest that is none.
    fn add(&self, about: About, event: Event) -> bool {
        let same = same(&about, &event);
        let mut queues = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = queues.waiting.get_mut(&same) {
            before.times = before.times.saturating_add(1);
            return true;
        }
        let is_full = queues.waiting.len() >= WAITING;
        if is_full {
            let oldest = if event.warning { queues.others.pop_front() } else { None };
            let Some(oldest) = oldest else { return false };
            queues.waiting.remove(&oldest);
        }
        let queue = if event.warning { &mut queues.warnings } else { &mut queues.others };
        queue.push_back(same);
        queues.waiting.insert(same, Waiting { about, event, same, times: 1 });
        drop(queues);
        self.added.notify_one();
        !is_full
    }

    /// Waits for the next one; for one that is no warning at least until then.
    async fn next(&self, rests_until: Instant) -> Waiting {
        loop {
            let may_be_other = Instant::now() >= rests_until;
            let (next, others) = {
                let mut queues = self.events.lock().unwrap_or_else(PoisonError::into_inner);
                (queues.pop(may_be_other), !queues.others.is_empty())
            };
            match next {
                Some(next) => return next,
                None if others => {
                    let _ = tokio::time::timeout_at(rests_until, self.added.notified()).await;
                }
                None => self.added.notified().await,
            }
        }
    }
}

impl Queues {
    fn pop(&mut self, may_be_other: bool) -> Option<Waiting> {
        let same = match self.warnings.pop_front() {
            None if may_be_other => self.others.pop_front(),
            warning => warning,
        };
        self.waiting.remove(&same?)
    }
}

fn same(about: &About, event: &Event) -> u64 {
    let mut hasher = DefaultHasher::new();
    (about, &event.reason, &event.note, event.warning).hash(&mut hasher);
    hasher.finish()
}

/// Writes Events, and counts up those that come again.
struct Recorder {
    cluster: Arc<Cluster>,
    instance: String,
    /// By [`Waiting::same`].
    series: HashMap<u64, Series>,
}

/// An Event that was written.
struct Series {
    name: Box<str>,
    count: u32,
    last: Instant,
}

impl Recorder {
    async fn publish(&mut self, waiting: &Waiting) -> Result<(), ApiError> {
        let Waiting { about, event, same, times } = waiting;
        let (same, times) = (*same, *times);
        let (now, at) = (Instant::now(), jiff::Timestamp::now());
        let time = at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        // cluster-scoped objects have their Events there, as everywhere in Kubernetes
        let namespace = if about.0.namespace.is_empty() { "default" } else { &about.0.namespace };
        let reference = |name: &str| ObjectRef { kind: kind(), namespace: namespace.into(), name: name.into() };
        if let Some(series) = self.series.get_mut(&same).filter(|series| now.duration_since(series.last) < SERIES_FOR) {
            (series.count, series.last) = (series.count.saturating_add(times), now);
            let patch = json!({"series": {"count": series.count, "lastObservedTime": time}});
            match self.cluster.merge(&reference(&series.name), CONTROLLER, &patch).await {
                // Events live for an hour
                Err(error) if error.code() == 404 => {}
                result => return result.map(drop),
            }
        }
        let name = name(&about.0.name, at.as_nanosecond());
        let mut body = self.body(about, event, &time, &name, namespace);
        if let (Value::Object(fields), 2..) = (&mut body, times) {
            fields.insert("series".into(), json!({"count": times, "lastObservedTime": time}));
        }
        self.cluster.create(&reference(&name), &body).await?;
        self.remember(same, Series { name: name.into(), count: times, last: now });
        Ok(())
    }

    fn body(&self, (about, uid): &About, event: &Event, time: &str, name: &str, namespace: &str) -> Value {
        let mut regarding = json!({
            "apiVersion": about.kind.api_version, "kind": about.kind.kind, "name": about.name, "uid": uid,
        });
        if let Value::Object(fields) = &mut regarding
            && !about.namespace.is_empty()
        {
            fields.insert("namespace".into(), about.namespace.clone().into());
        }
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": time, "reportingController": CONTROLLER, "reportingInstance": self.instance,
            "action": "Reconcile", "reason": shorten(&event.reason, 128), "regarding": regarding,
            "note": shorten(&event.note, MAX_NOTE), "type": if event.warning { "Warning" } else { "Normal" },
        })
    }

    fn remember(&mut self, same: u64, series: Series) {
        let now = series.last;
        if self.series.len() >= MAX_SERIES {
            self.series.retain(|_, series| now.duration_since(series.last) < SERIES_FOR);
        }
        if self.series.len() >= MAX_SERIES {
            let mut times: Vec<Instant> = self.series.values().map(|series| series.last).collect();
            let (_, median, _) = times.select_nth_unstable(MAX_SERIES / 2);
            let median = *median;
            self.series.retain(|_, series| series.last > median);
        }
        self.series.insert(same, series);
    }
}

/// As others name Events: what it is about, and when. At most 253 characters, as every name.
fn name(about: &str, nanoseconds: i128) -> String {
    let about: String = about.chars().take(230).collect();
    format!("{}.{nanoseconds:x}", about.trim_end_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_whatever_it_is_about() {
        assert_eq!(name("shop", 255), "shop.ff");
        let long = name(&"a.".repeat(126), i128::from(i64::MAX));
        assert!(long.len() <= 253 && !long.contains(".."), "{long}");
    }

    fn about(name: &str) -> About {
        let reference = ObjectRef { kind: TypeMeta::new("v1", "A"), namespace: "n".into(), name: name.into() };
        (reference, format!("uid of {name}"))
    }

    fn event(note: &str, warning: bool) -> Event {
        Event { warning, reason: "Updated".into(), note: note.into() }
    }

    fn popped(pending: &Pending, may_be_other: bool) -> Vec<(String, String, u32)> {
        let mut queues = pending.events.lock().unwrap();
        let popped = std::iter::from_fn(|| queues.pop(may_be_other));
        popped.map(|w| (w.about.0.name, w.event.note, w.times)).collect()
    }

    #[test]
    fn what_comes_again_while_it_waits_is_sent_once() {
        let pending = Pending::default();
        for (name, note) in [("a", "x"), ("b", "x"), ("a", "y"), ("a", "x"), ("a", "x")] {
            assert!(pending.add(about(name), event(note, false)));
        }
        let wanted = [("a", "x", 3), ("b", "x", 1), ("a", "y", 1)];
        assert_eq!(popped(&pending, true), wanted.map(|(name, note, times)| (name.into(), note.into(), times)));
    }

    #[test]
    fn warnings_come_first_and_do_not_wait_for_others() {
        let pending = Pending::default();
        for (note, warning) in [("made", false), ("broke", true), ("changed", false), ("broke again", true)] {
            assert!(pending.add(about("a"), event(note, warning)));
        }
        let notes =
            |may_be_other| popped(&pending, may_be_other).into_iter().map(|(_, note, _)| note).collect::<Vec<_>>();
        assert_eq!(notes(false), ["broke", "broke again"]);
        assert_eq!(notes(true), ["made", "changed"]);
    }

    #[test]
    fn only_so_many_wait() {
        let pending = Pending::default();
        for i in 0..WAITING {
            assert!(pending.add(about("a"), event(&i.to_string(), false)));
        }
        assert!(!pending.add(about("a"), event("one more", false)));
        assert!(pending.add(about("a"), event("1", false)), "what waits already needs no place");
        assert!(!pending.add(about("a"), event("broke", true)));
        let left: Vec<_> = popped(&pending, true).into_iter().map(|(_, note, _)| note).collect();
        assert_eq!((left.len(), &*left[0], &*left[1]), (WAITING, "broke", "1"), "the oldest made place");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_is_kept_but_not_by_warnings() {
        let pending = Pending::default();
        let rests_until = Instant::now() + Duration::from_secs(60);
        pending.add(about("a"), event("made", false));
        let (first, ()) = tokio::join!(pending.next(rests_until), async {
            tokio::task::yield_now().await;
            pending.add(about("a"), event("broke", true));
        });
        assert_eq!(first.event.note, "broke");
        assert!(Instant::now() < rests_until);
        assert_eq!(pending.next(rests_until).await.event.note, "made");
        assert!(Instant::now() >= rests_until);
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded_and_the_newest_stays() {
        let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let cluster = Arc::new(Cluster::new(client, None));
        let mut recorder = Recorder { cluster, instance: "i".into(), series: HashMap::new() };
        let start = Instant::now();
        for i in 0..10_000 {
            let last = start + Duration::from_micros(i);
            recorder.remember(i, Series { name: "n".into(), count: 1, last });
            assert!(recorder.series.len() <= MAX_SERIES);
        }
        assert!(recorder.series.contains_key(&9_999) && !recorder.series.contains_key(&0));
    }
}
