use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn key(name: &str) -> PrimaryKey {
    PrimaryKey::new(Arc::new(TypeMeta::new("g/v1", "K")), "n", name)
}

fn secret(name: &str) -> ObjectRef {
    ObjectRef { kind: TypeMeta::new("v1", "Secret"), namespace: "n".into(), name: name.into() }
}

fn found(text: &str) -> Answer {
    Answer::Found(Value::Object(text.into()))
}

fn failed() -> Answer {
    Answer::Failed(Problem { reason: "Down".into(), message: "it is down".into() })
}

fn http(path: &str, max_age_ms: u32) -> Lookup {
    Lookup::Http { endpoint: "e".into(), head: false, path: path.into(), max_age_ms }
}

fn list(namespace: Option<&str>, selector: &str) -> Lookup {
    let kind = TypeMeta::new("v1", "Secret");
    Lookup::Objects { kind, namespace: namespace.map(ToOwned::to_owned), label_selector: selector.into() }
}

fn labels(text: &str) -> Vec<(String, String)> {
    text.split_terminator(',').filter_map(|one| one.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

/// A table, and who was told of what since one last looked.
struct Fixture {
    table: Arc<Table>,
    told: Arc<Mutex<Vec<String>>>,
}

impl Fixture {
    fn new() -> Self {
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = told.clone();
        let stale = move |key: &PrimaryKey| listener.lock().unwrap().push(key.name.to_string());
        Self { table: Table::new(Arc::new(stale)), told }
    }

    fn told(&self) -> Vec<String> {
        let mut told = std::mem::take(&mut *self.told.lock().unwrap());
        told.sort();
        told
    }

    async fn ask(&self, who: &str, lookup: &Lookup, source: &Service) -> Answer {
        self.ask_under("grant", who, lookup, source).await
    }

    async fn ask_under(&self, grant: &str, who: &str, lookup: &Lookup, source: &Service) -> Answer {
        let freshness = match lookup {
            Lookup::Http { max_age_ms, .. } => Freshness::Aged(Duration::from_millis((*max_age_ms).into())),
            _ => Freshness::Watched,
        };
        self.table.answer(&key(who), lookup, &grant.into(), freshness, source.source()).await
    }

    fn keep(&self, who: &str, lookups: &[&Lookup]) {
        self.table.keep(&key(who), lookups.iter().copied());
    }

    fn is_empty(&self) -> bool {
        let inner = self.table.lock();
        inner.entries.is_empty()
            && inner.by_id.is_empty()
            && inner.by_primary.is_empty()
            && inner.by_object.is_empty()
            && inner.by_list.is_empty()
            && inner.followers.is_empty()
            && inner.follows.is_empty()
            && inner.due.is_empty()
            && inner.bytes == 0
    }
}

/// Answers one after the other; the last one for ever.
#[derive(Clone)]
struct Service {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<AtomicUsize>,
    takes: Duration,
}

impl Service {
    fn new(answers: &[Answer]) -> Self {
        let answers = Arc::new(Mutex::new(answers.iter().cloned().collect()));
        Self { answers, asked: Arc::default(), takes: Duration::ZERO }
    }

    fn source(&self) -> Source {
        let service = self.clone();
        Arc::new(move || {
            let service = service.clone();
            async move {
                service.asked.fetch_add(1, Ordering::Relaxed);
                let answer = {
                    let mut answers = service.answers.lock().unwrap();
                    if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() }
                };
                if !service.takes.is_zero() {
                    tokio::time::sleep(service.takes).await;
                }
                answer
            }
            .boxed()
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_fetched_once_for_all_and_again_after_a_change() {
    let (fixture, lookup) = (Fixture::new(), Lookup::Object(secret("s")));
    let service = Service::new(&[found("1"), found("2")]);
    assert_eq!(fixture.ask("a", &lookup, &service).await, found("1"));
    assert_eq!(fixture.ask("b", &lookup, &service).await, found("1"));
    fixture.table.changed(&secret("s"), &[]);
    assert_eq!(fixture.told(), ["a", "b"]);
    assert_eq!(fixture.ask("a", &lookup, &service).await, found("2"));
    assert_eq!(service.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_change_while_the_answer_is_fetched_is_not_missed() {
    let (fixture, lookup) = (Fixture::new(), Lookup::Object(secret("s")));
    let service = Service { takes: Duration::from_secs(2), ..Service::new(&[found("old"), found("new")]) };
    let change = async {
        pass(1).await;
        fixture.table.changed(&secret("s"), &[]);
    };
    let (answer, ()) = tokio::join!(fixture.ask("a", &lookup, &service), change);
    assert_eq!(answer, found("old"));
    assert_eq!(fixture.told(), ["a"]);
    assert_eq!(fixture.ask("a", &lookup, &service).await, found("new"));
}

#[tokio::test(start_paused = true)]
async fn only_users_are_told_and_nothing_stays_when_the_last_one_goes() {
    let (fixture, service) = (Fixture::new(), Service::new(&[found("1")]));
    let lookups = [Lookup::Object(secret("s")), Lookup::Object(secret("t")), list(None, "a=b"), http("/x", 5_000)];
    for lookup in &lookups {
        fixture.ask("a", lookup, &service).await;
    }
    fixture.keep("a", &[&lookups[1]]);
    fixture.table.changed(&secret("s"), &labels("a=b"));
    assert!(fixture.told().is_empty());
    fixture.table.changed(&secret("t"), &[]);
    assert_eq!(fixture.told(), ["a"]);
    assert_eq!(fixture.table.used_by(&key("a")), lookups[1..2]);
    fixture.keep("a", &[]);
    assert!(fixture.is_empty());
}

#[tokio::test(start_paused = true)]
async fn requests_for_the_same_are_one_request() {
    let fixture = Fixture::new();
    let service = Service { takes: Duration::from_secs(1), ..Service::new(&[found("1"), found("2")]) };
    let names: Vec<String> = (0..50).map(|i| i.to_string()).collect();
    // of all ages, and without
    let lookups: Vec<Lookup> = (0..50).map(|i| http("/x", i * 100)).collect();
    let answers = futures::future::join_all(names.iter().zip(&lookups).map(|(name, l)| fixture.ask(name, l, &service)));
    assert!(answers.await.iter().all(|answer| *answer == found("1")));
    assert_eq!(service.asked(), 1);
    assert!(fixture.told().is_empty(), "who waited has the answer");
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_on_when_the_one_who_asked_is_cut_off() {
    let (fixture, lookup) = (Fixture::new(), http("/x", 60_000));
    let service = Service { takes: Duration::from_secs(2), ..Service::new(&[found("1")]) };
    let asking = fixture.ask("a", &lookup, &service);
    assert!(tokio::time::timeout(Duration::from_secs(1), asking).await.is_err());
    pass(2).await;
    assert_eq!(fixture.ask("a", &lookup, &service).await, found("1"));
    assert_eq!(service.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_gets_too_old_is_asked_for_again_and_users_are_told_of_another_answer_only() {
    let (fixture, lookup) = (Fixture::new(), http("/x", 10_000));
    let service = Service::new(&[found("1"), found("1"), found("2")]);
    fixture.ask("a", &lookup, &service).await;
    fixture.keep("a", &[&lookup]);
    pass(11).await;
    assert_eq!((service.asked(), fixture.told()), (2, vec![]));
    pass(10).await;
    assert_eq!((service.asked(), fixture.told()), (3, vec!["a".to_owned()]));
    assert_eq!(fixture.ask("a", &lookup, &service).await, found("2"));
    assert_eq!(service.asked(), 3);
    fixture.keep("a", &[]);
    pass(60).await;
    assert_eq!(service.asked(), 3, "nobody rests on it any more");
}

#[tokio::test(start_paused = true)]
async fn the_most_impatient_decides_and_each_gets_what_is_fresh_enough_for_it() {
    let (fixture, service) = (Fixture::new(), Service::new(&[found("1"), found("2")]));
    let (patient, impatient) = (http("/x", 60_000), http("/x", 5_000));
    fixture.ask("patient", &patient, &service).await;
    fixture.keep("patient", &[&patient]);
    pass(30).await;
    assert_eq!(fixture.ask("patient", &patient, &service).await, found("1"));
    assert_eq!(fixture.ask("impatient", &impatient, &service).await, found("2"));
    assert_eq!(fixture.told(), ["patient"], "it rested on the answer before");
    fixture.keep("impatient", &[&impatient]);
    pass(26).await;
    assert_eq!(service.asked(), 7, "every five seconds now");
    fixture.keep("impatient", &[]);
    pass(50).await;
    assert_eq!(service.asked(), 7, "every minute again");
    pass(10).await;
    assert_eq!(service.asked(), 8);
}

#[tokio::test(start_paused = true)]
async fn no_age_means_every_reconcile_and_never_by_itself() {
    let (fixture, lookup) = (Fixture::new(), http("/x", 0));
    let service = Service::new(&[found("1"), found("2")]);
    assert_eq!(fixture.ask("a", &lookup, &service).await, found("1"));
    assert_eq!(fixture.ask("a", &lookup, &service).await, found("2"));
    fixture.keep("a", &[&lookup]);
    pass(600).await;
    assert_eq!(service.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_stands_for_a_while_and_is_then_tried_again_ever_more_seldom() {
    let (fixture, lookup) = (Fixture::new(), http("/x", 0));
    let service = Service::new(&[failed(), failed(), failed(), failed(), found("1")]);
    for who in ["a", "b", "c"] {
        assert_eq!(fixture.ask(who, &lookup, &service).await, failed());
    }
    assert_eq!(service.asked(), 1);
    pass(1).await; // 0.5 s
    assert_eq!((service.asked(), fixture.told()), (2, vec![]));
    pass(3).await; // 1 s, 2 s
    assert_eq!(service.asked(), 4);
    pass(4).await; // 4 s
    assert_eq!(service.asked(), 5);
    assert_eq!(fixture.told(), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_not_asked_for_at_every_turn() {
    let (fixture, lookup, service) = (Fixture::new(), http("/x", 0), Service::new(&[Answer::Absent]));
    for who in ["a", "b", "c"] {
        assert_eq!(fixture.ask(who, &lookup, &service).await, Answer::Absent);
    }
    assert_eq!(service.asked(), 1);
    pass(2).await;
    fixture.ask("a", &lookup, &service).await;
    assert_eq!(service.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn another_grant_is_another_question() {
    let (fixture, lookup) = (Fixture::new(), http("/x", 60_000));
    let (mine, others) = (Service::new(&[found("mine")]), Service::new(&[found("theirs")]));
    assert_eq!(fixture.ask_under("one", "a", &lookup, &mine).await, found("mine"));
    assert_eq!(fixture.ask_under("other", "b", &lookup, &others).await, found("theirs"));
    assert_eq!(fixture.ask_under("one", "c", &lookup, &others).await, found("mine"));
    // the record of a's plugin was edited: it is no user of the old grant any more
    assert_eq!(fixture.ask_under("other", "a", &lookup, &mine).await, found("theirs"));
    fixture.keep("a", &[]);
    fixture.keep("b", &[]);
    fixture.keep("c", &[]);
    assert!(fixture.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_change_of_an_object_that_is_not_in_a_list_and_was_not_tells_nobody() {
    let fixture = Fixture::new();
    let member = found("unused");
    let objects = Answer::Found(Value::Objects(vec![r#"{"metadata":{"namespace":"n","name":"in"}}"#.into()]));
    let service = Service::new(&[objects]);
    let selected = list(Some("n"), "app=web");
    let ask = async |who: &str, lookup: &Lookup| fixture.ask(who, lookup, &service).await;
    assert_ne!(ask("a", &selected).await, member);
    ask("everywhere", &list(None, "app=web")).await;
    ask("elsewhere", &list(Some("m"), "app=web")).await;
    ask("all", &list(Some("n"), "")).await;
    fixture.table.changed(&secret("other"), &labels("app=db"));
    assert_eq!(fixture.told(), ["all"], "it matches neither now nor before");
    fixture.table.changed(&secret("new"), &labels("app=web,x=y"));
    assert_eq!(fixture.told(), ["a", "all", "everywhere"]);
    ask("a", &selected).await;
    ask("everywhere", &list(None, "app=web")).await;
    ask("all", &list(Some("n"), "")).await;
    fixture.table.changed(&secret("in"), &labels("app=db"));
    assert_eq!(fixture.told(), ["a", "all", "everywhere"], "it was in the list");
    let of_another_kind = ObjectRef { kind: TypeMeta::new("v1", "ConfigMap"), ..secret("in") };
    fixture.table.changed(&of_another_kind, &labels("app=web"));
    assert!(fixture.told().is_empty());
}

#[tokio::test(start_paused = true)]
async fn changes_that_may_have_been_missed_tell_everybody_who_asked_for_the_kind() {
    let (fixture, service) = (Fixture::new(), Service::new(&[found("1")]));
    fixture.ask("a", &Lookup::Object(secret("s")), &service).await;
    fixture.ask("b", &list(None, "x=y"), &service).await;
    fixture.ask("c", &http("/x", 60_000), &service).await;
    fixture.table.follow(&key("d"), &secret("z"));
    fixture.table.kind_changed(&TypeMeta::new("v1", "Secret"));
    assert_eq!(fixture.told(), ["a", "b", "d"]);
}

#[tokio::test(start_paused = true)]
async fn followers_are_told_until_their_next_plan() {
    let fixture = Fixture::new();
    fixture.table.follow(&key("a"), &secret("s"));
    fixture.table.changed(&secret("s"), &[]);
    assert_eq!(fixture.told(), ["a"]);
    fixture.keep("a", &[]);
    fixture.table.changed(&secret("s"), &[]);
    assert!(fixture.told().is_empty() && fixture.is_empty());
}

#[tokio::test(start_paused = true)]
async fn other_questions_in_every_failing_reconcile_do_not_pile_up() {
    let (fixture, service) = (Fixture::new(), Service::new(&[found("1")]));
    for turn in 0..100 {
        let last = fixture.table.used_by(&key("a"));
        assert!(last.len() <= MAX_UNUSED + 24, "{}", last.len());
        for i in 0..8 {
            fixture.ask("a", &http(&format!("/{turn}/{i}"), 60_000), &service).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded() {
    let (fixture, service) = (Fixture::new(), Service::new(&[Answer::Found(Value::Bytes(vec![0; 16 << 20]))]));
    let lookups: Vec<Lookup> = (0..12).map(|i| http(&format!("/{i}"), 600_000)).collect();
    for lookup in &lookups {
        fixture.ask("a", lookup, &service).await;
        assert!(fixture.table.lock().bytes <= MAX_KEPT_BYTES);
    }
    fixture.ask("a", &lookups[11], &service).await;
    assert_eq!(service.asked(), 12, "the latest is there");
    for lookup in &lookups {
        fixture.ask("a", lookup, &service).await;
    }
    assert!(service.asked() > 12 && fixture.told().is_empty(), "the same answer is no news");
    fixture.keep("a", &[]);
    assert!(fixture.is_empty());
}

#[tokio::test]
async fn large_engine_inputs_are_not_remembered() {
    let fixture = Fixture::new();
    let engine = |size| Lookup::Engine { engine: "e".into(), input: vec![0; size] };
    fixture.keep("a", &[&engine(MAX_REMEMBERED_INPUT), &engine(MAX_REMEMBERED_INPUT + 1)]);
    assert_eq!(fixture.table.used_by(&key("a")), [engine(MAX_REMEMBERED_INPUT)]);
}

proptest::proptest! {
    /// Whatever is asked, kept, changed and waited for: at the end, whoever rests on an answer has been told of every
    /// change since, and nothing is left when all are forgotten.
    #[test]
    fn nobody_rests_on_an_old_answer_without_being_told(
        steps in proptest::collection::vec((0u8..5, 0usize..3, 0usize..3), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new();
            let (names, objects) = (["a", "b", "c"], ["x", "y", "z"]);
            let versions: [Arc<AtomicUsize>; 3] = std::array::from_fn(|_| Arc::default());
            let mut rests = HashSet::<(usize, usize)>::new();
            for (what, who, which) in steps {
                let lookup = Lookup::Object(secret(objects[which]));
                match what {
                    0 | 1 => {
                        let version = versions[which].clone();
                        let source: Source = Arc::new(move || {
                            let text = version.load(Ordering::Relaxed).to_string();
                            std::future::ready(found(&text)).boxed()
                        });
                        let (key, grant) = (key(names[who]), Arc::from("grant"));
                        let answer = fixture.table.answer(&key, &lookup, &grant, Freshness::Watched, source).await;
                        let Answer::Found(Value::Object(text)) = answer else { panic!("found") };
                        // kept by a table that was told of every change, so it must be the latest
                        assert_eq!(text, versions[which].load(Ordering::Relaxed).to_string());
                        rests.insert((who, which));
                    }
                    2 => {
                        versions[which].fetch_add(1, Ordering::Relaxed);
                        fixture.told();
                        fixture.table.changed(&secret(objects[which]), &[]);
                        let told = fixture.told();
                        let expected: Vec<String> = (0..3)
                            .filter(|who| rests.contains(&(*who, which)))
                            .map(|who| names[who].to_owned())
                            .collect();
                        assert_eq!(told, expected);
                    }
                    3 => {
                        fixture.keep(names[who], &[&lookup]);
                        let had = rests.contains(&(who, which));
                        rests.retain(|(user, object)| *user != who || *object == which);
                        if !had {
                            rests.remove(&(who, which));
                        }
                    }
                    _ => {
                        fixture.keep(names[who], &[]);
                        rests.retain(|(user, _)| *user != who);
                    }
                }
            }
            names.iter().for_each(|name| fixture.keep(name, &[]));
            assert!(fixture.is_empty());
        });
    }
}
