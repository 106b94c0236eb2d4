//! The overlays of the cluster: watched, reviewed, told of what became of them.
//!
//! Reconciles read what is here and never wait for it. While there is no overlay, nothing is asked of the API server
//! beyond the watch, and a reconcile costs one look at a counter.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResourceExt;
use tokio::sync::{Notify, mpsc, watch};

use super::access::Reviews;
use super::{Given, Outcome, policy};
use crate::api::overlay::{Overlay, OverlayStatus};
use crate::control::cluster::{ApiError, Cluster};
use crate::control::controller::Controller;
use crate::control::key::PrimaryKey;
use crate::control::watch::{Change, Selection};
use crate::plan::check::shorten;
use crate::plan::contract::{ObjectRef, Problem, TypeMeta};
use crate::plan::object::Object;
use crate::registry::install_definition;
use crate::telemetry::chain;

/// Rights change without a word: how often they are asked for again while there are overlays.
const REVIEW_EVERY: Duration = Duration::from_secs(60);
/// How soon a policy that is not in force yet, or an unanswered review, is looked at again.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// How long the start of the host waits for answers about overlays.
const PATIENCE: Duration = Duration::from_secs(30);
/// Statuses are written this long after something was reported.
const STATUS_AFTER: Duration = Duration::from_millis(300);
/// Reason of a refusal that the API server's next answer may end.
pub(super) const UNKNOWN: &str = "AccessUnknown";
/// Condition types.
const ACCEPTED: &str = "Accepted";
const APPLIED: &str = "Applied";
/// Field manager of the host's own writes.
const MANAGER: &str = "transom";

fn kind() -> TypeMeta {
    TypeMeta::new("transom.dev/v1alpha1", "Overlay")
}

/// All overlays.
pub struct Store {
    index: RwLock<HashMap<String, Vec<Arc<Given>>>>,
    /// How many there are.
    count: AtomicUsize,
    /// By UID of the overlay: what became of it for each primary.
    reports: Mutex<HashMap<String, BTreeMap<PrimaryKey, Option<Problem>>>>,
    /// UIDs of overlays whose status may have to be written.
    dirty: Mutex<BTreeSet<String>>,
    reported: Notify,
    news: mpsc::UnboundedSender<Change>,
    inbox: Mutex<Option<mpsc::UnboundedReceiver<Change>>>,
}

impl Default for Store {
    fn default() -> Self {
        let (news, inbox) = mpsc::unbounded_channel();
        Self {
            index: RwLock::default(),
            count: AtomicUsize::new(0),
            reports: Mutex::default(),
            dirty: Mutex::default(),
            reported: Notify::new(),
            news,
            inbox: Mutex::new(Some(inbox)),
        }
    }
}

impl Store {
    /// Overlays for this primary, always in the same order.
    #[must_use]
    pub fn selected(&self, kind: &TypeMeta, primary: &Object) -> Vec<Arc<Given>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let there = index.get(&primary.namespace).into_iter().flatten();
        let mut selected: Vec<Arc<Given>> = there.filter(|given| given.selects(kind, primary)).cloned().collect();
        selected.sort_by(|a, b| a.uid.cmp(&b.uid));
        selected
    }

    /// What became of the overlays of one primary; those that are not named are no longer for it.
    pub fn report(&self, key: &PrimaryKey, outcomes: &[Outcome]) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if outcomes.is_empty() && reports.is_empty() {
            return;
        }
        let mut changed = Vec::new();
        for (uid, primaries) in reports.iter_mut() {
            if !outcomes.iter().any(|outcome| outcome.uid == *uid) && primaries.remove(key).is_some() {
                changed.push(uid.clone());
            }
        }
        for outcome in outcomes {
            let primaries = reports.entry(outcome.uid.clone()).or_default();
            if primaries.get(key) != Some(&outcome.refused) {
                primaries.insert(key.clone(), outcome.refused.clone());
                changed.push(outcome.uid.clone());
            }
        }
        reports.retain(|_, primaries| !primaries.is_empty());
        drop(reports);
        self.touch(changed);
    }

    fn touch(&self, overlays: impl IntoIterator<Item = String>) {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        dirty.extend(overlays);
        if !dirty.is_empty() {
            self.reported.notify_one();
        }
    }

    /// Is told by the watch.
    pub fn observe(&self, change: Change) {
        let _ = self.news.send(change); // the receiver lives as long as the host
    }

    fn all(&self) -> Vec<Arc<Given>> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.values().flatten().cloned().collect()
    }

    fn known(&self, namespace: &str, name: &str) -> Option<Arc<Given>> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.get(namespace)?.iter().find(|given| given.name == name).cloned()
    }

    /// Puts an overlay in the place of the one before, or takes that one out.
    fn put(&self, namespace: &str, name: &str, now: Option<Arc<Given>>) -> Option<Arc<Given>> {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let there = index.entry(namespace.to_owned()).or_default();
        let before = there.iter().position(|given| given.name == name).map(|at| there.swap_remove(at));
        there.extend(now);
        if there.is_empty() {
            index.remove(namespace);
        }
        self.count.store(index.values().map(Vec::len).sum(), Ordering::Release);
        before
    }
}

/// Installs definition and policy, and follows the overlays from now on. Returns when those that are there are known.
///
/// # Errors
/// When the definition cannot be installed, or the API server cannot be asked for it.
pub async fn start(controller: &Arc<Controller>, namespace: &str) -> anyhow::Result<()> {
    // the policy first: nothing is written that it has not looked at
    if let Err(error) = policy::install(&controller.cluster, MANAGER).await {
        tracing::warn!(error = %chain(&error), "the admission policy of overlays cannot be installed");
    }
    install_definition(&controller.cluster, &Overlay::crd()).await?;
    let served = controller.cluster.served(&kind()).await?;
    let watch = controller.watch(&controller.cluster, &served, Selection::Overlays);
    watch.synced().await;
    let inbox = controller.overlays.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(inbox) = inbox else { return Ok(()) };
    let (ready, mut is_ready) = watch::channel(false);
    let follower = Follower { controller: controller.clone(), namespace: namespace.to_owned(), in_force: false };
    tokio::spawn(async move {
        let _watch = watch; // runs as long as it is held
        follower.follow(inbox, ready).await;
    });
    // an error means that the task has ended, which only happens when the host does
    let _ = is_ready.wait_for(|ready| *ready).await;
    Ok(())
}

/// The task that keeps the store.
struct Follower {
    controller: Arc<Controller>,
    /// Where the policy is tried out.
    namespace: String,
    /// The policy was found to be in force.
    in_force: bool,
}

impl Follower {
    async fn follow(mut self, mut inbox: mpsc::UnboundedReceiver<Change>, ready: watch::Sender<bool>) {
        let mut due = tokio::time::Instant::now() + REVIEW_EVERY;
        let mut news = Vec::new();
        loop {
            while let Ok(change) = inbox.try_recv() {
                news.push(change);
            }
            if !news.is_empty() && !self.changed(std::mem::take(&mut news)).await {
                due = tokio::time::Instant::now() + RETRY_EVERY;
                if !*ready.borrow() {
                    self.be_patient().await;
                }
            }
            ready.send_replace(true);
            let store = &self.controller.overlays;
            let any = store.count.load(Ordering::Acquire) > 0;
            tokio::select! {
                change = inbox.recv() => match change {
                    Some(change) => news.push(change),
                    None => return,
                },
                () = store.reported.notified() => {
                    tokio::time::sleep(STATUS_AFTER).await;
                    self.publish().await;
                }
                () = tokio::time::sleep_until(due), if any => {
                    let settled = self.review_all().await;
                    due = tokio::time::Instant::now() + if settled { REVIEW_EVERY } else { RETRY_EVERY };
                }
            }
        }
    }

    /// Overlays that were in use before the host started would be taken back for want of an answer.
    async fn be_patient(&mut self) {
        let since = tokio::time::Instant::now();
        while !self.review_all().await && since.elapsed() < PATIENCE {
            tokio::time::sleep(RETRY_EVERY / 4).await;
        }
    }

    /// Records came, changed or went. Returns whether everything about them is known.
    async fn changed(&mut self, news: Vec<Change>) -> bool {
        let mut reviews = Reviews::default();
        let mut settled = true;
        for change in news {
            let object = match &change {
                Change::Put { now, .. } => now,
                Change::Gone(object) => object,
            };
            let (namespace, name) = (object.namespace.clone(), object.name.clone());
            let now = match &change {
                Change::Put { now, .. } => self.read(now, &mut reviews).await.map(Arc::new),
                Change::Gone(_) => None,
            };
            settled &= now.as_ref().is_none_or(|now| !is_open(now.refused.as_ref()));
            let known = self.controller.overlays.known(&namespace, &name);
            if known.as_ref().map(|known| known.stamp()) == now.as_ref().map(|now| now.stamp()) {
                continue; // the status, or metadata
            }
            let before = self.controller.overlays.put(&namespace, &name, now.clone());
            self.controller.overlays.touch(now.as_ref().map(|now| now.uid.clone()));
            self.requeue(&namespace, before.as_deref(), now.as_deref());
        }
        settled
    }

    async fn read(&mut self, object: &Object, reviews: &mut Reviews) -> Option<Given> {
        match serde_json::from_str::<Overlay>(&object.json) {
            Ok(overlay) => {
                let mut given = Given::of(&overlay, &object.namespace);
                self.review(&mut given, reviews).await;
                Some(given)
            }
            Err(error) => {
                // the schema in the cluster is another one than this host's
                tracing::warn!(namespace = object.namespace, overlay = object.name, %error, "overlay cannot be read");
                None
            }
        }
    }

    /// May it be laid? What is wrong with the record itself comes first.
    async fn review(&mut self, given: &mut Given, reviews: &mut Reviews) {
        if given.refused.is_some() {
            return;
        }
        let policy = match reviews.policy.clone() {
            Some(known) => known,
            None => reviews.policy.insert(self.policy_refusal().await).clone(),
        };
        given.refused = match policy {
            None => reviews.refusal(&self.controller.cluster, given).await,
            refused => refused,
        };
    }

    async fn policy_refusal(&mut self) -> Option<Problem> {
        match self.policy().await {
            Ok(true) => None,
            Ok(false) => Some(Problem {
                reason: "PolicyMissing".into(),
                message: format!("the ValidatingAdmissionPolicy {} is not in force", policy::NAME),
            }),
            Err(error) => Some(Problem {
                reason: UNKNOWN.into(),
                message: format!("whether the policy {} is in force is not known: {}", policy::NAME, chain(&error)),
            }),
        }
    }

    async fn policy(&mut self) -> Result<bool, ApiError> {
        if !self.in_force {
            self.in_force = policy::is_in_force(&self.controller.cluster, &self.namespace).await?;
        }
        Ok(self.in_force)
    }

    /// Asks for all rights again. Returns whether everything is known.
    async fn review_all(&mut self) -> bool {
        self.in_force = false;
        if !self.policy().await.unwrap_or(true)
            && let Err(error) = policy::install(&self.controller.cluster, MANAGER).await
        {
            tracing::warn!(error = %chain(&error), "the admission policy of overlays cannot be installed");
        }
        let (mut reviews, mut settled) = (Reviews::default(), true);
        for known in self.controller.overlays.all() {
            let record = Given { refused: None, ..(*known).clone() };
            let overlay = Overlay {
                metadata: kube::core::ObjectMeta {
                    name: Some(record.name.clone()),
                    namespace: Some(record.namespace.clone()),
                    uid: Some(record.uid.clone()),
                    generation: Some(record.generation),
                    ..Default::default()
                },
                spec: record.spec.clone(),
                status: None,
            };
            let mut now = Given::of(&overlay, &known.namespace);
            self.review(&mut now, &mut reviews).await;
            settled &= !is_open(now.refused.as_ref());
            if now.refused.as_ref().is_some_and(|problem| problem.reason == UNKNOWN) {
                continue; // an API server that does not answer takes nothing back
            }
            if now.stamp() != known.stamp() {
                let (namespace, now) = (known.namespace.clone(), Arc::new(now));
                self.controller.overlays.put(&namespace, &known.name, Some(now.clone()));
                self.controller.overlays.touch([now.uid.clone()]);
                self.requeue(&namespace, Some(&known), Some(&now));
            }
        }
        settled
    }

    /// Looks again at the primaries that an overlay was for, or is for.
    fn requeue(&self, namespace: &str, before: Option<&Given>, now: Option<&Given>) {
        let either =
            |kind: &TypeMeta, primary: &Object| before.into_iter().chain(now).any(|given| given.selects(kind, primary));
        self.controller.requeue(namespace, &either);
    }

    /// Writes the statuses of overlays that something was said of.
    async fn publish(&self) {
        let store = &self.controller.overlays;
        let dirty = std::mem::take(&mut *store.dirty.lock().unwrap_or_else(PoisonError::into_inner));
        let mut failed = Vec::new();
        for given in store.all().into_iter().filter(|given| dirty.contains(&given.uid)) {
            let target = &given.spec.target;
            if !self.controller.serves(&TypeMeta::new(target.api_version.clone(), target.kind.clone())) {
                continue; // another host's, or nobody's
            }
            if let Err(error) = self.publish_one(&given).await {
                tracing::warn!(overlay = given.name, error = %chain(&error), "status of the overlay could not be written");
                failed.push(given.uid.clone());
            }
        }
        if !failed.is_empty() {
            tokio::time::sleep(RETRY_EVERY).await;
            store.touch(failed);
        }
    }

    async fn publish_one(&self, given: &Given) -> Result<(), ApiError> {
        let cluster: &Cluster = &self.controller.cluster;
        let reference = ObjectRef { kind: kind(), namespace: given.namespace.clone(), name: given.name.clone() };
        let Some(live) = cluster.get(&reference).await?.filter(|live| live.uid == given.uid) else { return Ok(()) };
        let before: OverlayStatus =
            live.value().get("status").and_then(|s| serde_json::from_value(s.clone()).ok()).unwrap_or_default();
        let reports = {
            let reports = self.controller.overlays.reports.lock().unwrap_or_else(PoisonError::into_inner);
            reports.get(&given.uid).cloned().unwrap_or_default()
        };
        let status = status(given, &reports, &before);
        if status == before {
            return Ok(());
        }
        let value = serde_json::to_value(&status).map_err(|error| ApiError::Malformed(error.into()))?;
        match cluster.apply_status(&reference, &given.uid, MANAGER, &value).await {
            Err(error) if !matches!(error.code(), 404 | 409) => Err(error),
            _ => Ok(()), // gone meanwhile, or another of the same name
        }
    }
}

/// The answer may come by itself.
fn is_open(refused: Option<&Problem>) -> bool {
    refused.is_some_and(|problem| matches!(problem.reason.as_str(), "PolicyMissing" | UNKNOWN))
}

fn status(given: &Given, reports: &BTreeMap<PrimaryKey, Option<Problem>>, before: &OverlayStatus) -> OverlayStatus {
    let matched = u32::try_from(reports.len()).unwrap_or(u32::MAX);
    let refused: Vec<(&PrimaryKey, &Problem)> = reports.iter().filter_map(|(k, p)| Some((k, p.as_ref()?))).collect();
    let accepted = match (&given.refused, refused.first()) {
        (Some(problem), _) => (false, problem.reason.clone(), problem.message.clone()),
        (None, Some((key, problem))) => {
            let others = if refused.len() > 1 { format!(" (and {} more)", refused.len() - 1) } else { String::new() };
            (false, problem.reason.clone(), format!("{}: {}{others}", key.name, problem.message))
        }
        (None, None) => (true, "Accepted".to_owned(), String::new()),
    };
    let applied = if accepted.0 {
        match matched {
            0 => (false, "NoPrimary".to_owned(), "there is no primary that the overlay is for".to_owned()),
            n => (true, "Applied".to_owned(), format!("part of {n} {}", given.spec.target.kind)),
        }
    } else {
        let whole = refused.len() == reports.len();
        let message = if whole { String::new() } else { format!("refused for {} of {matched}", refused.len()) };
        (false, accepted.1.clone(), message)
    };
    let conditions = [(ACCEPTED, accepted), (APPLIED, applied)];
    let conditions = conditions.into_iter().map(|(type_, (truth, reason, message))| {
        let status = if truth { "True" } else { "False" };
        let same = before.conditions.iter().find(|c| c.type_ == type_ && c.status == status);
        let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default();
        Condition {
            type_: type_.into(),
            status: status.into(),
            reason,
            message: shorten(&message, 4_096),
            observed_generation: Some(given.generation),
            last_transition_time: same.map_or(Time(now), |same| same.last_transition_time.clone()),
        }
    });
    OverlayStatus { matched, observed_generation: Some(given.generation), conditions: conditions.collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn given(name: &str, web: Option<&str>) -> Arc<Given> {
        let mut spec = json!({"target": {"apiVersion": "g.io/v1", "kind": "Web"},
            "patches": [{"target": {"apiVersion": "apps/v1", "kind": "Deployment"}, "patch": {}}]});
        if let Some(web) = web {
            spec["target"]["name"] = web.into();
        }
        let metadata = json!({"name": name, "namespace": "n", "uid": name, "generation": 3});
        let record =
            json!({"apiVersion": "transom.dev/v1alpha1", "kind": "Overlay", "metadata": metadata, "spec": spec});
        Arc::new(Given::of(&serde_json::from_value(record).unwrap(), "n"))
    }

    fn key(name: &str) -> PrimaryKey {
        PrimaryKey::new(Arc::new(TypeMeta::new("g.io/v1", "Web")), "n", name)
    }

    fn outcome(overlay: &str, refused: Option<&str>) -> Outcome {
        let refused = refused.map(|message| Problem { reason: "Refused".into(), message: message.into() });
        Outcome { overlay: overlay.into(), uid: overlay.into(), generation: 3, children: vec![], refused }
    }

    fn dirty(store: &Store) -> Vec<String> {
        std::mem::take(&mut *store.dirty.lock().unwrap()).into_iter().collect()
    }

    #[test]
    fn a_primary_finds_its_overlays_and_no_others() {
        let store = Store::default();
        let primary = |namespace: &str, name: &str| Object {
            namespace: namespace.into(),
            name: name.into(),
            ..Object::default()
        };
        let names = |namespace: &str, name: &str| -> Vec<String> {
            let kind = TypeMeta::new("g.io/v1", "Web");
            store.selected(&kind, &primary(namespace, name)).iter().map(|given| given.name.clone()).collect()
        };
        assert!(names("n", "a").is_empty());
        store.put("n", "all", Some(given("all", None)));
        store.put("n", "one", Some(given("one", Some("a"))));
        assert_eq!((names("n", "a"), names("n", "b")), (vec!["all".into(), "one".into()], vec!["all".to_owned()]));
        assert!(names("other", "a").is_empty());
        assert!(store.put("n", "all", None).is_some() && store.put("n", "one", None).is_some());
        assert_eq!((names("n", "a").len(), store.count.load(Ordering::Acquire)), (0, 0));
    }

    #[test]
    fn a_report_is_news_once_and_what_is_no_longer_said_is_taken_back() {
        let store = Store::default();
        store.report(&key("a"), &[]);
        assert!(dirty(&store).is_empty());
        store.report(&key("a"), &[outcome("x", None), outcome("y", Some("why"))]);
        assert_eq!(dirty(&store), ["x", "y"]);
        store.report(&key("a"), &[outcome("x", None), outcome("y", Some("why"))]);
        assert!(dirty(&store).is_empty(), "the same again");
        store.report(&key("a"), &[outcome("x", None), outcome("y", None)]);
        assert_eq!(dirty(&store), ["y"]);
        store.report(&key("a"), &[outcome("x", None)]);
        assert_eq!(dirty(&store), ["y"]);
        store.report(&key("a"), &[]);
        assert_eq!((dirty(&store), store.reports.lock().unwrap().len()), (vec!["x".to_owned()], 0));
    }

    #[test]
    fn the_status_counts_primaries_and_names_the_first_refusal() {
        let given = given("x", None);
        let reports = |refused: &[Option<&str>]| -> BTreeMap<PrimaryKey, Option<Problem>> {
            let name = |i: usize| key(&format!("web-{i}"));
            refused.iter().enumerate().map(|(i, why)| (name(i), outcome("x", *why).refused)).collect()
        };
        let said = |refused: &[Option<&str>]| -> (u32, Vec<(String, String, String)>) {
            let status = status(&given, &reports(refused), &OverlayStatus::default());
            assert_eq!(status.observed_generation, Some(3));
            (status.matched, status.conditions.into_iter().map(|c| (c.status, c.reason, c.message)).collect())
        };
        let condition = |status: &str, reason: &str, message: &str| (status.into(), reason.into(), message.into());
        let none = vec![
            condition("True", "Accepted", ""),
            condition("False", "NoPrimary", "there is no primary that the overlay is for"),
        ];
        assert_eq!(said(&[]), (0, none));
        let two = vec![condition("True", "Accepted", ""), condition("True", "Applied", "part of 2 Web")];
        assert_eq!(said(&[None, None]), (2, two));
        let mixed = vec![
            condition("False", "Refused", "web-0: spec.x (and 1 more)"),
            condition("False", "Refused", "refused for 2 of 3"),
        ];
        assert_eq!(said(&[Some("spec.x"), Some("spec.y"), None]), (3, mixed));
    }

    #[test]
    fn transition_times_move_only_when_the_status_flips() {
        let given = given("x", None);
        let mut before = status(&given, &BTreeMap::new(), &OverlayStatus::default());
        let long_ago = Time(jiff::Timestamp::UNIX_EPOCH);
        before.conditions.iter_mut().for_each(|condition| condition.last_transition_time = long_ago.clone());
        assert_eq!(status(&given, &BTreeMap::new(), &before), before);
        let applied = status(&given, &[(key("a"), None)].into(), &before);
        let moved: Vec<bool> = applied.conditions.iter().map(|c| c.last_transition_time != long_ago).collect();
        assert_eq!(moved, [false, true]);
    }
}
