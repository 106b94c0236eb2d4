//! Kubernetes Events about primaries, sent in the background: an Event that cannot be sent never delays a reconcile, and
//! while reconciles wait it takes little of the API server's time.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::cluster::{ApiError, Cluster, Served};
use crate::plan::check::{Scope, shorten};
use crate::plan::contract::{Event, ObjectRef, TypeMeta};
use crate::telemetry::metrics;

/// Events that wait to be sent; what comes on top is counted and dropped. Some hundred bytes each.
const WAITING: usize = 20_000;

/// While primaries wait for a worker, an Event waits this often, this long: their children come first.
const PAUSES: u32 = 5;
const PAUSE_WHILE_BUSY: Duration = Duration::from_millis(50);

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
    sender: mpsc::Sender<(About, Event)>,
}

impl Events {
    /// Starts the sender. `is_busy`: do reconciles wait?
    #[must_use]
    pub fn start(cluster: Arc<Cluster>, is_busy: impl Fn() -> bool + Send + 'static) -> Self {
        let (sender, mut receiver) = mpsc::channel::<(About, Event)>(WAITING);
        cluster.learn(Served { kind: kind(), plural: "events".into(), scope: Scope::Namespaced });
        tokio::spawn(async move {
            let instance = std::env::var("POD_NAME").unwrap_or_else(|_| "transom".into());
            let mut recorder = Recorder { cluster, instance: shorten(&instance, 128), series: HashMap::new() };
            let mut batch = Vec::new();
            while receiver.recv_many(&mut batch, WAITING).await > 0 {
                for waiting in merged(batch.drain(..)) {
                    for _ in 0..PAUSES {
                        if is_busy() {
                            tokio::time::sleep(PAUSE_WHILE_BUSY).await;
                        }
                    }
                    if let Err(error) = recorder.publish(&waiting).await {
                        metrics().event_dropped("Refused");
                        tracing::warn!(error = &error as &dyn std::error::Error, "event could not be sent");
                    }
                }
            }
        });
        Self { sender }
    }

    /// Sends an Event about an object, soon.
    pub fn send(&self, about: &ObjectRef, uid: &str, event: Event) {
        if self.sender.try_send(((about.clone(), uid.to_owned()), event)).is_err() {
            metrics().event_dropped("QueueFull");
        }
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

/// The same Events once, in the order in which they came first: what piles up while the API server is slow is written once.
fn merged(events: impl Iterator<Item = (About, Event)>) -> Vec<Waiting> {
    let (mut waiting, mut places) = (Vec::<Waiting>::new(), HashMap::new());
    for (about, event) in events {
        let same = same(&about, &event);
        let place = *places.entry(same).or_insert(waiting.len());
        match waiting.get_mut(place) {
            Some(before) => before.times = before.times.saturating_add(1),
            None => waiting.push(Waiting { about, event, same, times: 1 }),
        }
    }
    waiting
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

    #[test]
    fn what_comes_again_while_it_waits_is_sent_once() {
        let about = |name: &str| {
            let reference = ObjectRef { kind: TypeMeta::new("v1", "A"), namespace: "n".into(), name: name.into() };
            (reference, format!("uid of {name}"))
        };
        let event = |note: &str| Event { warning: false, reason: "Updated".into(), note: note.into() };
        let came = [("a", "x"), ("b", "x"), ("a", "y"), ("a", "x"), ("a", "x")];
        let sent = merged(came.into_iter().map(|(name, note)| (about(name), event(note))));
        let sent: Vec<_> = sent.iter().map(|w| (&*w.about.0.name, &*w.event.note, w.times)).collect();
        assert_eq!(sent, [("a", "x", 3), ("b", "x", 1), ("a", "y", 1)]);
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
