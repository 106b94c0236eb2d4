//! Who rests on which answer.
//!
//! One entry for each question that a plan rests on, or that a reconcile has just asked. Equal questions of any number
//! of primaries share the entry: one request is on its way at a time, and all of them get what it brings.
//!
//! # When an answer is asked for again
//! * What is watched ([`Freshness::Watched`]): when the watch says that it changed. Everybody who asked is reconciled.
//! * What has an age ([`Freshness::Aged`]): when it gets older than the most impatient of those who rest on it allows.
//! * Whatever failed or was denied: after a back-off. Until then the failure is the answer, so that a service that is
//!   down is not asked by ten thousand primaries.
//!
//! In the last two cases primaries are reconciled only when the answer is another one than before.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::content::{Handle, handed_out};
use super::selector::Selector;
use crate::control::backoff;
use crate::control::key::PrimaryKey;
use crate::plan::contract::{Answer, Lookup, ObjectRef, Problem, TypeMeta, Value};
use crate::telemetry::metrics;

/// Is told of a primary whose plan rests on an answer that no longer holds.
pub type Stale = dyn Fn(&PrimaryKey) + Send + Sync;

/// How a question is put to the one who knows.
pub(super) type Source = Arc<dyn Fn() -> BoxFuture<'static, Answer> + Send + Sync>;

/// No answer is asked for again by itself more often than this, however young a plugin wants it.
const MIN_REFRESH: Duration = Duration::from_secs(1);

/// Answers in memory, all together. What is over is asked for again by the next one who needs it; files come from the
/// disk then.
const MAX_KEPT_BYTES: usize = 128 << 20;

/// Engine inputs above this are not remembered with a primary: its plugin asks for them again, which costs a round.
const MAX_REMEMBERED_INPUT: usize = 64 << 10;

/// With more lookups than this, those that no plan has used for two reconciles are forgotten.
const MAX_UNUSED: usize = 32;

/// What keeps an answer true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// A watch tells of every change.
    Watched,
    /// It may be this old. Zero: asked for in every reconcile, and never by itself.
    Aged(Duration),
}

/// What is asked, without how old an answer may be, and under which grant. Two plugins share an answer only when the
/// grants are the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    lookup: Lookup,
    grant: Arc<str>,
}

/// One lookup of one primary.
struct Asked {
    lookup: Lookup,
    /// None: answered without the table (a clock, a refusal).
    question: Option<Arc<Question>>,
    freshness: Freshness,
    /// Reconciles that began since a plan last used it.
    unused: u8,
}

/// A request that is on its way.
struct Flight {
    answer: Shared<BoxFuture<'static, Answer>>,
    /// Those get the answer from it and need not be told.
    waiting: HashSet<PrimaryKey>,
}

/// The last answer.
struct Known {
    /// None: thrown away for want of space.
    answer: Option<Answer>,
    fingerprint: u64,
    bytes: usize,
    at: Instant,
    /// Until then a failure stands; none for what is no failure.
    retry_at: Option<Instant>,
    absent: bool,
    /// What a list consists of, by namespace and name.
    members: HashSet<(String, String)>,
}

struct Entry {
    id: u64,
    source: Source,
    selector: Option<Selector>,
    users: HashMap<PrimaryKey, Freshness>,
    /// Grows with every change: an answer that was on its way meanwhile is not kept.
    version: u64,
    known: Option<Known>,
    /// In a row.
    failures: u32,
    flight: Option<Flight>,
    due: Option<Instant>,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<Arc<Question>, Entry>,
    by_id: HashMap<u64, Arc<Question>>,
    by_primary: HashMap<PrimaryKey, Vec<Asked>>,
    /// Reverse indices: from an object, and from a kind and namespace (none: all), to what was asked about it.
    by_object: HashMap<ObjectRef, HashSet<Arc<Question>>>,
    by_list: HashMap<(TypeMeta, Option<String>), HashSet<Arc<Question>>>,
    /// Objects that stand in a primary's way.
    followers: HashMap<ObjectRef, HashSet<PrimaryKey>>,
    follows: HashMap<PrimaryKey, HashSet<ObjectRef>>,
    /// When something is to be asked for again by itself.
    due: BTreeSet<(Instant, u64)>,
    next_id: u64,
    bytes: usize,
}

pub(super) struct Table {
    inner: Mutex<Inner>,
    stale: Arc<Stale>,
    wake: Arc<Notify>,
    this: Weak<Table>,
}

impl Table {
    /// Must be called within a runtime, which asks again for what gets too old.
    pub(super) fn new(stale: Arc<Stale>) -> Arc<Self> {
        let table =
            Arc::new_cyclic(|this| Self { inner: Mutex::default(), stale, wake: Arc::default(), this: this.clone() });
        tokio::spawn(refresh(Arc::downgrade(&table), table.wake.clone()));
        table
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, keys: impl IntoIterator<Item = PrimaryKey>) {
        for key in keys {
            (self.stale)(&key);
        }
    }

    /// The kept answer, or a new one. The primary is a user from now on, so a change while the answer is fetched is not
    /// missed.
    pub(super) async fn answer(
        &self,
        key: &PrimaryKey,
        lookup: &Lookup,
        grant: &Arc<str>,
        freshness: Freshness,
        source: Source,
    ) -> Answer {
        let flight = {
            let mut inner = self.lock();
            let question = inner.ask(key, lookup, grant, freshness, source);
            let Some(entry) = inner.entries.get_mut(&question) else {
                return internal("the question is gone");
            };
            if let Some(flight) = &mut entry.flight {
                metrics().lookup_hit(kind_of(lookup));
                flight.waiting.insert(key.clone());
                flight.answer.clone()
            } else if let Some(answer) = entry.fresh(freshness) {
                metrics().lookup_hit(kind_of(lookup));
                return answer;
            } else {
                self.take_off(&question, entry, Some(key))
            }
        };
        self.wake.notify_one(); // what was just asked may be the next to get too old
        flight.await
    }

    /// Sends the request. It goes on when nobody waits for it any more: its answer is good for the next one.
    fn take_off(
        &self,
        question: &Arc<Question>,
        entry: &mut Entry,
        waiting: Option<&PrimaryKey>,
    ) -> Shared<BoxFuture<'static, Answer>> {
        let (source, version, question) = (entry.source.clone(), entry.version, question.clone());
        let table = self.this.clone();
        let kind = kind_of(&question.lookup);
        let task = tokio::spawn(async move {
            let answer = {
                let _timer = metrics().lookup(kind);
                source().await
            };
            metrics().looked_up(kind, outcome_of(&answer));
            if let Some(table) = table.upgrade() {
                table.land(&question, version, &answer);
            }
            answer
        });
        let answer = async move { task.await.unwrap_or_else(|_| internal("the lookup broke off")) }.boxed().shared();
        entry.flight = Some(Flight { answer: answer.clone(), waiting: waiting.into_iter().cloned().collect() });
        answer
    }

    /// An answer has come.
    fn land(&self, question: &Arc<Question>, version: u64, answer: &Answer) {
        let members = members(answer);
        let (fingerprint, bytes) = (fingerprint(answer), weight(answer));
        let mut told = Vec::new();
        {
            let mut inner = self.lock();
            let Some(entry) = inner.entries.get_mut(question).filter(|entry| entry.version == version) else {
                return; // it changed meanwhile, or nobody wants to know any more
            };
            let waiting = entry.flight.take().map(|flight| flight.waiting).unwrap_or_default();
            if entry.known.as_ref().is_some_and(|known| known.fingerprint != fingerprint) {
                told.extend(entry.users.keys().filter(|user| !waiting.contains(*user)).cloned());
            }
            let failed = matches!(answer, Answer::Failed(_) | Answer::Denied(_));
            entry.failures = if failed { entry.failures.saturating_add(1) } else { 0 };
            let now = Instant::now();
            let retry_at = failed.then(|| now + backoff::delay(entry.failures, entry.id));
            let before = entry.known.replace(Known {
                answer: Some(answer.clone()),
                fingerprint,
                bytes,
                at: now,
                retry_at,
                absent: matches!(answer, Answer::Absent),
                members,
            });
            inner.bytes += bytes;
            inner.bytes -= before.filter(|known| known.answer.is_some()).map_or(0, |known| known.bytes);
            inner.make_room(question);
            inner.schedule(question);
        }
        self.wake.notify_one();
        self.tell(told);
    }

    /// What the last plan of a primary used, and what was asked for since. A plugin that fails time and again with other
    /// questions does not pile them up.
    pub(super) fn used_by(&self, key: &PrimaryKey) -> Vec<Lookup> {
        let mut inner = self.lock();
        let Some(asked) = inner.by_primary.get_mut(key) else {
            return Vec::new();
        };
        let many = asked.len() > MAX_UNUSED;
        let (mut now, mut gone) = (Vec::new(), Vec::new());
        for mut one in std::mem::take(asked) {
            one.unused = one.unused.saturating_add(1);
            if one.unused > 2 && many { gone.push(one) } else { now.push(one) }
        }
        let lookups = now.iter().map(|one| one.lookup.clone()).collect();
        *asked = now;
        inner.release(key, &gone);
        lookups
    }

    /// The artifacts that a primary asked for, with the handles in their answers as far as these are in memory.
    pub(super) fn artifacts_of(&self, key: &PrimaryKey) -> Vec<(Lookup, Option<Vec<Handle>>)> {
        let inner = self.lock();
        let asked = inner.by_primary.get(key).into_iter().flatten();
        let known = |one: &Asked| {
            let Lookup::Artifact { include, .. } = &one.lookup else { return None };
            let entry = inner.entries.get(one.question.as_ref()?)?;
            let answer = entry.known.as_ref().and_then(|known| known.answer.as_ref());
            Some((one.lookup.clone(), answer.map(|answer| handed_out(include, answer))))
        };
        asked.filter_map(known).collect()
    }

    /// Tells of changes of an object without an answer.
    pub(super) fn follow(&self, key: &PrimaryKey, object: &ObjectRef) {
        let mut inner = self.lock();
        inner.followers.entry(object.clone()).or_default().insert(key.clone());
        inner.follows.entry(key.clone()).or_default().insert(object.clone());
    }

    /// From now on the primary rests on these only.
    pub(super) fn keep<'a>(&self, key: &PrimaryKey, used: impl IntoIterator<Item = &'a Lookup>) {
        let mut inner = self.lock();
        for object in inner.follows.remove(key).unwrap_or_default() {
            if let Some(followers) = inner.followers.get_mut(&object) {
                followers.remove(key);
                if followers.is_empty() {
                    inner.followers.remove(&object);
                }
            }
        }
        let mut before = inner.by_primary.remove(key).unwrap_or_default();
        let mut now = Vec::new();
        for lookup in used {
            if matches!(lookup, Lookup::Engine { input, .. } if input.len() > MAX_REMEMBERED_INPUT) {
                continue;
            }
            match before.iter().position(|asked| asked.lookup == *lookup) {
                Some(i) => now.push(Asked { unused: 0, ..before.swap_remove(i) }),
                None => {
                    now.push(Asked { lookup: lookup.clone(), question: None, freshness: Freshness::Watched, unused: 0 })
                }
            }
        }
        if !now.is_empty() {
            inner.by_primary.insert(key.clone(), now);
        }
        inner.release(key, &before);
    }

    /// An object has changed, and has these labels now (or had them last).
    pub(super) fn changed(&self, object: &ObjectRef, labels: &[(String, String)]) {
        let mut told = HashSet::new();
        {
            let mut inner = self.lock();
            told.extend(inner.followers.get(object).into_iter().flatten().cloned());
            let mut stale: Vec<Arc<Question>> = inner.by_object.get(object).into_iter().flatten().cloned().collect();
            for namespace in [Some(object.namespace.clone()), None] {
                let asked = inner.by_list.get(&(object.kind.clone(), namespace)).into_iter().flatten();
                let concerned = asked
                    .filter(|question| inner.entries.get(*question).is_none_or(|entry| entry.concerns(object, labels)));
                stale.extend(concerned.cloned());
            }
            stale.iter().for_each(|question| inner.invalidate(question, &mut told));
        }
        self.tell(told);
    }

    /// Changes of a kind may have been missed.
    pub(super) fn kind_changed(&self, kind: &TypeMeta) {
        let mut told = HashSet::new();
        {
            let mut inner = self.lock();
            let of_object = inner.by_object.iter().filter(|(object, _)| object.kind == *kind).map(|(_, asked)| asked);
            let of_list = inner.by_list.iter().filter(|((listed, _), _)| listed == kind).map(|(_, asked)| asked);
            let stale: Vec<Arc<Question>> = of_object.chain(of_list).flatten().cloned().collect();
            let following = inner.followers.iter().filter(|(object, _)| object.kind == *kind);
            told.extend(following.flat_map(|(_, keys)| keys).cloned());
            stale.iter().for_each(|question| inner.invalidate(question, &mut told));
        }
        self.tell(told);
    }

    /// Asks again for what is due. Returns when the next one is.
    fn refresh(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut inner = self.lock();
        while let Some((at, id)) = inner.due.first().copied().filter(|(at, _)| *at <= now) {
            inner.due.remove(&(at, id));
            let Some(question) = inner.by_id.get(&id).cloned() else { continue };
            let Some(entry) = inner.entries.get_mut(&question) else { continue };
            entry.due = None;
            if entry.flight.is_none() {
                drop(self.take_off(&question, entry, None)); // runs without anybody who waits
            }
        }
        inner.due.first().map(|(at, _)| *at)
    }
}

/// Runs for as long as there is a table.
async fn refresh(table: Weak<Table>, wake: Arc<Notify>) {
    loop {
        let notified = wake.notified();
        let Some(next) = table.upgrade().map(|table| table.refresh()) else {
            return;
        };
        match next {
            Some(at) => tokio::select! {
                () = notified => {}
                () = tokio::time::sleep_until(at) => {}
            },
            None => notified.await,
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl Entry {
    /// The known answer, if it may still be given to one who wants it so fresh.
    fn fresh(&self, wanted: Freshness) -> Option<Answer> {
        let known = self.known.as_ref()?;
        let fresh = match (known.retry_at, wanted) {
            (Some(retry_at), _) => Instant::now() < retry_at,
            (None, Freshness::Watched) => true,
            // what is not there is not asked for at every turn of everybody who misses it
            (None, Freshness::Aged(age)) if known.absent => known.at.elapsed() <= age.max(MIN_REFRESH),
            (None, Freshness::Aged(age)) => !age.is_zero() && known.at.elapsed() <= age,
        };
        known.answer.clone().filter(|_| fresh)
    }

    /// Does a change of this object change a list?
    fn concerns(&self, object: &ObjectRef, labels: &[(String, String)]) -> bool {
        let matches_now = self.selector.as_ref().is_none_or(|selector| selector.matches(labels));
        // without an answer it is not known who was in it
        matches_now
            || self.known.as_ref().is_none_or(|known| {
                known.retry_at.is_some() || known.members.contains(&(object.namespace.clone(), object.name.clone()))
            })
    }

    /// When it is to be asked for again by itself.
    fn next_due(&self) -> Option<Instant> {
        let known = self.known.as_ref()?;
        if known.retry_at.is_some() {
            return known.retry_at;
        }
        let ages = self.users.values().filter_map(|freshness| match freshness {
            Freshness::Aged(age) if !age.is_zero() => Some(*age),
            _ => None,
        });
        Some(known.at + ages.min()?.max(MIN_REFRESH))
    }
}

impl Inner {
    /// Notes that a primary asks, in all the indices.
    fn ask(
        &mut self,
        key: &PrimaryKey,
        lookup: &Lookup,
        grant: &Arc<str>,
        freshness: Freshness,
        source: Source,
    ) -> Arc<Question> {
        let question = Question { lookup: without_age(lookup), grant: grant.clone() };
        let question = match self.entries.get_key_value(&question) {
            Some((known, _)) => known.clone(),
            None => self.enter(Arc::new(question), source),
        };
        let asked = self.by_primary.entry(key.clone()).or_default();
        let one = Asked { lookup: lookup.clone(), question: Some(question.clone()), freshness, unused: 0 };
        let mut replaced = Vec::new();
        match asked.iter_mut().find(|asked| asked.lookup == *lookup) {
            Some(before) => {
                let unused = before.unused;
                replaced.push(std::mem::replace(before, Asked { unused, ..one }));
            }
            None => asked.push(one),
        }
        self.release(key, &replaced); // the grant may be another one by now
        self.settle_user(key, &question);
        question
    }

    fn enter(&mut self, question: Arc<Question>, source: Source) -> Arc<Question> {
        self.next_id += 1;
        let mut selector = None;
        match &question.lookup {
            Lookup::Object(object) => {
                self.by_object.entry(object.clone()).or_default().insert(question.clone());
            }
            Lookup::Objects { kind, namespace, label_selector } => {
                selector = Selector::parse(label_selector);
                let index = self.by_list.entry((kind.clone(), namespace.clone())).or_default();
                index.insert(question.clone());
            }
            _ => {}
        }
        self.by_id.insert(self.next_id, question.clone());
        let entry = Entry {
            id: self.next_id,
            source,
            selector,
            users: HashMap::new(),
            version: 0,
            known: None,
            failures: 0,
            flight: None,
            due: None,
        };
        self.entries.insert(question.clone(), entry);
        question
    }

    /// How fresh this user wants it: as the most impatient of its lookups of the same thing. One that has none left is
    /// no user; without users there is no entry.
    fn settle_user(&mut self, key: &PrimaryKey, question: &Arc<Question>) {
        let asked = self.by_primary.get(key).into_iter().flatten();
        let wanted = asked.filter(|one| one.question.as_ref() == Some(question)).map(|one| one.freshness);
        let wanted = wanted.reduce(|a, b| match (a, b) {
            (Freshness::Aged(a), Freshness::Aged(b)) if !a.is_zero() && !b.is_zero() => Freshness::Aged(a.min(b)),
            (Freshness::Aged(a), b) if a.is_zero() => b,
            (a, _) => a,
        });
        let Some(entry) = self.entries.get_mut(question) else {
            return;
        };
        match wanted {
            Some(freshness) => {
                entry.users.insert(key.clone(), freshness);
                self.schedule(question);
            }
            None => {
                entry.users.remove(key);
                if entry.users.is_empty() { self.leave(question) } else { self.schedule(question) }
            }
        }
    }

    fn release(&mut self, key: &PrimaryKey, gone: &[Asked]) {
        for question in gone.iter().filter_map(|asked| asked.question.as_ref()) {
            self.settle_user(key, question);
        }
        if self.by_primary.get(key).is_some_and(Vec::is_empty) {
            self.by_primary.remove(key);
        }
    }

    fn leave(&mut self, question: &Arc<Question>) {
        let Some(entry) = self.entries.remove(question) else {
            return;
        };
        self.by_id.remove(&entry.id);
        if let Some(due) = entry.due {
            self.due.remove(&(due, entry.id));
        }
        self.bytes -= entry.known.filter(|known| known.answer.is_some()).map_or(0, |known| known.bytes);
        match &question.lookup {
            Lookup::Object(object) => forget(&mut self.by_object, object, question),
            Lookup::Objects { kind, namespace, .. } => {
                forget(&mut self.by_list, &(kind.clone(), namespace.clone()), question);
            }
            _ => {}
        }
    }

    fn schedule(&mut self, question: &Arc<Question>) {
        let Some(entry) = self.entries.get_mut(question) else {
            return;
        };
        let next = entry.next_due().filter(|_| entry.flight.is_none());
        if entry.due == next {
            return;
        }
        if let Some(due) = entry.due {
            self.due.remove(&(due, entry.id));
        }
        if let Some(due) = next {
            self.due.insert((due, entry.id));
        }
        entry.due = next;
    }

    fn invalidate(&mut self, question: &Arc<Question>, told: &mut HashSet<PrimaryKey>) {
        let Some(entry) = self.entries.get_mut(question) else {
            return;
        };
        entry.version += 1;
        entry.failures = 0;
        entry.flight = None; // who waits for it gets the old answer, and is told
        told.extend(entry.users.keys().cloned());
        let before = entry.known.take();
        self.bytes -= before.filter(|known| known.answer.is_some()).map_or(0, |known| known.bytes);
        self.schedule(question);
    }

    /// Throws answers away, not that of `latest`, until the rest fits.
    fn make_room(&mut self, latest: &Arc<Question>) {
        if self.bytes <= MAX_KEPT_BYTES {
            return;
        }
        for (_, entry) in self.entries.iter_mut().filter(|(question, _)| *question != latest) {
            if let Some(known) = &mut entry.known
                && known.answer.take().is_some()
            {
                self.bytes -= known.bytes;
                if self.bytes <= MAX_KEPT_BYTES {
                    return;
                }
            }
        }
    }
}

fn forget<K: Eq + Hash>(index: &mut HashMap<K, HashSet<Arc<Question>>>, key: &K, question: &Arc<Question>) {
    if let Some(questions) = index.get_mut(key) {
        questions.remove(question);
        if questions.is_empty() {
            index.remove(key);
        }
    }
}

fn without_age(lookup: &Lookup) -> Lookup {
    let mut lookup = lookup.clone();
    match &mut lookup {
        Lookup::Grpc { max_age_ms, .. }
        | Lookup::Http { max_age_ms, .. }
        | Lookup::Image { max_age_ms, .. }
        | Lookup::Artifact { max_age_ms, .. } => *max_age_ms = 0,
        _ => {}
    }
    lookup
}

/// Metric label.
pub(super) fn kind_of(lookup: &Lookup) -> &'static str {
    match lookup {
        Lookup::Object(_) => "object",
        Lookup::Objects { .. } => "objects",
        Lookup::Grpc { .. } => "grpc",
        Lookup::Http { .. } => "http",
        Lookup::Image { .. } => "image",
        Lookup::Artifact { .. } => "artifact",
        Lookup::Engine { .. } => "engine",
        Lookup::Clock { .. } => "clock",
        Lookup::Random { .. } => "random",
    }
}

/// Metric label.
pub(super) fn outcome_of(answer: &Answer) -> &'static str {
    match answer {
        Answer::Found(_) => "Found",
        Answer::Absent => "Absent",
        Answer::Denied(_) => "Denied",
        Answer::Failed(_) => "Failed",
    }
}

fn internal(message: &str) -> Answer {
    Answer::Failed(Problem { reason: "Internal".into(), message: message.into() })
}

/// About how much memory it takes.
fn weight(answer: &Answer) -> usize {
    let value = match answer {
        Answer::Found(value) => value,
        Answer::Denied(text) => return text.len(),
        Answer::Absent | Answer::Failed(_) => return 0,
    };
    match value {
        Value::Object(text) | Value::Digest(text) => text.len(),
        Value::Objects(texts) => texts.iter().map(String::len).sum(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Http { body, .. } => body.len(),
        Value::Files(files) => files.iter().map(|(path, content)| path.len() + content.len()).sum(),
        Value::Time(_) => 8,
    }
}

/// Tells answers apart without keeping them.
fn fingerprint(answer: &Answer) -> u64 {
    let mut hasher = DefaultHasher::new();
    outcome_of(answer).hash(&mut hasher);
    match answer {
        Answer::Absent => {}
        Answer::Denied(text) => text.hash(&mut hasher),
        Answer::Failed(problem) => (&problem.reason, &problem.message).hash(&mut hasher),
        Answer::Found(value) => match value {
            Value::Object(text) | Value::Digest(text) => text.hash(&mut hasher),
            Value::Objects(texts) => texts.hash(&mut hasher),
            Value::Bytes(bytes) => bytes.hash(&mut hasher),
            Value::Http { status, headers, body } => (status, headers, body).hash(&mut hasher),
            Value::Files(files) => files.hash(&mut hasher),
            Value::Time(seconds) => seconds.hash(&mut hasher),
        },
    }
    hasher.finish()
}

/// Namespaces and names of the objects in a list.
fn members(answer: &Answer) -> HashSet<(String, String)> {
    #[derive(serde::Deserialize)]
    struct Named {
        metadata: Names,
    }
    #[derive(serde::Deserialize)]
    struct Names {
        #[serde(default)]
        namespace: String,
        name: String,
    }
    let Answer::Found(Value::Objects(objects)) = answer else {
        return HashSet::new();
    };
    let named = objects.iter().filter_map(|text| serde_json::from_str::<Named>(text).ok());
    named.map(|object| (object.metadata.namespace, object.metadata.name)).collect()
}

#[cfg(test)]
mod tests;
