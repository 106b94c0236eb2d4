//! New versions of a plugin: planned before they are let in, let in by parts, taken back.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;
use transom::api::rollout::RolloutStep;
use transom::control::serving::Share;
use transom::plan::object::Object;
use transom_tests::{
    Host, Namespace, TestCluster, condition, condition_of, of, sample, transom_with_cluster, up_to_date, variant,
};

use crate::writes;

/// Objects that are created, or waited for, at the same time.
const PARALLEL: usize = 16;

/// A test's part of the cluster, with a host and a first version that serves.
struct Stage {
    ns: Namespace,
    host: Host,
    folder: TempDir,
    record: Value,
}

impl Stage {
    /// `count` objects that are Ready; every tenth has the tag `bad`, the others `good`.
    async fn with(name: &str, first: Value, count: usize) -> Self {
        let ns = TestCluster::shared().await.namespace(name).await;
        let (host, folder) = (ns.host().await, tempfile::tempdir().unwrap());
        let record = ns.install(&variant(&first, folder.path()).await).await;
        let stage = Self { ns, host, folder, record };
        let create = async |i: usize| {
            let tag = if i.is_multiple_of(10) { "bad" } else { "good" };
            let object = stage.ns.create(sample::chameleon(&format!("o{i:03}"), tag)).await;
            stage.ns.wait_for(&object, condition("Ready", "True")).await;
        };
        futures::stream::iter(0..count).map(create).buffer_unordered(PARALLEL).collect::<Vec<()>>().await;
        stage.host.rest().await;
        stage
    }

    /// Asks for another version, with other wishes for its roll-out.
    async fn ask_for(&self, says: &Value, rollout: Value) -> Value {
        let mut spec = variant(says, self.folder.path()).await.spec();
        spec["rollout"] = rollout;
        self.ns.merge(&self.record, json!({ "spec": spec })).await
    }

    /// Waits for this reason of `Progressing`; the version before serves all the time.
    async fn wait_for_rollout(&self, status: &str, reason: &str) -> Value {
        let record = self.ns.get(&self.record).await;
        let record = self.ns.wait_for(&record, condition("Progressing", status).because(reason)).await;
        assert_eq!(condition_of(&record, "Ready")["status"], "True", "{record:#}");
        record
    }

    async fn command(&self, arguments: &[&str]) -> String {
        let name = self.record["metadata"]["name"].as_str().unwrap();
        let all: Vec<&str> =
            ["plugin"].into_iter().chain([arguments[0], name]).chain(arguments[1..].iter().copied()).collect();
        transom_with_cluster(&all).await.printed()
    }

    /// The full plan, from the host.
    async fn plan(&self) -> String {
        let address = self.host.logged("serving recordings")[0]["address"].as_str().unwrap().to_owned();
        self.command(&["plan", "--host", &address]).await
    }

    /// Names of the objects in the share of these steps.
    async fn part(&self, steps: Value) -> BTreeSet<String> {
        let steps: Vec<RolloutStep> = serde_json::from_value(steps).unwrap();
        let share = Share::of(&steps).unwrap();
        let objects = self.ns.list::<sample::Chameleon>().await;
        let has = |object: &&Value| share.has(&Object::parse(&object.to_string()).unwrap());
        objects.iter().filter(has).map(name_of).collect()
    }

    /// `data.value` of the ConfigMaps of all objects, by name.
    async fn values(&self) -> BTreeMap<String, String> {
        let maps = self.ns.list::<ConfigMap>().await;
        let own = maps.iter().filter(|map| !map["data"]["text"].is_null());
        own.map(|map| (name_of(map), map["data"]["value"].as_str().unwrap_or_default().to_owned())).collect()
    }

    /// Waits until these objects, and only these, have a value; the others have another one.
    async fn wait_for_values(&self, part: &BTreeSet<String>, value: &str, others: &str) {
        for (name, _) in self.values().await {
            let expected = if part.contains(&name) { value } else { others };
            self.ns.wait_until(of::<ConfigMap>(&name), |map| map["data"]["value"] == expected).await;
        }
    }
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

fn steps(list: Value) -> Value {
    json!({ "steps": list })
}

/// Requirement L5 and L6, with everything at once that a version can do wrong.
#[tokio::test]
async fn the_plan_shows_a_bad_version_and_its_canary_is_taken_back_by_itself() {
    let first = json!({ "value": "old", "secret": "c2VjcmV0LW9sZA==", "fixed": "one" });
    let stage = Stage::with("bad", first, 500).await;
    let start = stage.host.audit.mark();
    // traps on some objects, is never Ready, deletes a child kind, changes what cannot be changed
    let bad = json!({ "version": "2.0.0", "value": "new", "trap": "bad", "unready": "*", "fixed": "two" });
    let part = json!([{ "percent": 10, "bakeSeconds": 60 }]);
    stage.ask_for(&bad, steps(part.clone())).await;
    let record = stage.wait_for_rollout("False", "PlanHeld").await;
    let plan = &record["status"]["plan"];
    let counts = ["objects", "unchanged", "changed", "failed", "failing", "unknown", "immutable"]
        .map(|name| plan[name].as_u64().unwrap());
    assert_eq!(counts, [500, 0, 0, 500, 0, 0, 450], "50 trap, 450 have a field that cannot be changed");
    let children = json!([
        { "apiVersion": "v1", "kind": "ConfigMap", "created": 0, "updated": 900, "replaced": 0, "pruned": 0, "released": 0, "later": 0 },
        { "apiVersion": "v1", "kind": "Secret", "created": 0, "updated": 0, "replaced": 0, "pruned": 450, "released": 0, "later": 0 },
    ]);
    assert_eq!(plan["children"], children);
    assert_eq!(plan["samples"].as_array().unwrap().len(), 20);
    assert_eq!(record["status"]["version"], "1.0.0");
    let shown = stage.plan().await;
    assert!(shown.contains("data.value: \"old\" -> \"new\""), "{shown}");
    assert!(shown.contains("Failed Chameleon") && shown.contains("PluginTrapped"), "{shown}");
    assert!(shown.contains("data.value (cannot be changed): \"one\" -> \"two\""), "{shown}");
    assert!(!shown.contains("c2VjcmV0") && !shown.contains("secret-old"), "{shown}");
    let stored = [("create storedcomponents", 1), ("patch plugins/status", 1)];
    assert_eq!(stage.host.writes_since(start).await, writes(&stored), "no object was touched");

    // Let in all the same.
    let part = stage.part(part).await;
    assert!((25..80).contains(&part.len()), "{}", part.len());
    stage.command(&["approve"]).await;
    let record = stage.wait_for_rollout("False", "RolledBack").await;
    stage.host.rest().await;
    let status = &record["status"];
    assert_eq!((&status["version"], &status["phase"]), (&json!("1.0.0"), &json!("RolledBack")));
    let entry = &status["history"][0];
    assert_eq!((&entry["version"], &entry["reason"]), (&json!("2.0.0"), &json!("RolledBack")));
    assert!(entry["message"].as_str().unwrap().contains("objects fail, 0 may"), "{entry}");
    for resource in ["configmaps", "secrets", "chameleons"] {
        let touched: BTreeSet<String> = stage.host.audit.since(start).writes_of(resource).into_keys().collect();
        let touched: BTreeSet<String> = touched.iter().map(|name| name.trim_end_matches("-fixed").to_owned()).collect();
        assert!(touched.is_subset(&part), "{resource} outside of the canary: {:?}", touched.difference(&part));
    }
    // everything is as it was
    stage.wait_for_values(&BTreeSet::new(), "new", "old").await;
    assert_eq!(stage.ns.list::<Secret>().await.len(), 500);
    let objects = stage.ns.list::<sample::Chameleon>().await;
    assert!(objects.iter().all(|object| condition_of(object, "Ready")["status"] == "True"));
    assert!(objects.iter().all(|object| condition_of(object, "Synced")["status"] == "True"));

    // It is not tried again, neither by this host nor by the next.
    let start = stage.host.audit.mark();
    assert_eq!(stage.host.writes_since(start).await, writes(&[]));
    stage.host.kill().await;
    let host = stage.ns.host().await;
    host.rest().await;
    assert_eq!(host.audit.all().writes(), writes(&[]));
    assert_eq!(stage.ns.get(&stage.record).await["status"], record["status"]);
}

/// What each fault alone leads to.
#[rstest]
#[case::traps(json!({ "trap": "bad" }), "failed", 4, "objects fail, 0 may")]
#[case::never_ready(json!({ "unready": "*" }), "notReady", 40, "objects were Ready and are not, 0 may")]
#[case::immutable(json!({ "fixed": "two" }), "failed", 40, "objects fail, 0 may")]
#[tokio::test]
async fn a_fault_is_counted_in_the_plan_and_stops_the_canary(
    #[case] fault: Value,
    #[case] counted: &str,
    #[case] count: u64,
    #[case] said: &str,
) {
    let first = json!({ "value": "old", "fixed": "one" });
    let stage = Stage::with("fault", first.clone(), 40).await;
    let mut bad = first;
    bad["version"] = json!("2.0.0");
    for (name, value) in fault.as_object().unwrap() {
        bad[name] = value.clone();
    }
    stage.ask_for(&bad, steps(json!([{ "percent": 100, "bakeSeconds": 1 }]))).await;
    let record = stage.wait_for_rollout("False", "PlanHeld").await;
    assert_eq!(record["status"]["plan"][counted], count, "{:#}", record["status"]["plan"]);
    stage.command(&["approve"]).await;
    let record = stage.wait_for_rollout("False", "RolledBack").await;
    let message = record["status"]["rollout"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains(said), "{message}");
    let objects = stage.ns.list::<sample::Chameleon>().await;
    for object in &objects {
        stage.ns.wait_for(object, condition("Ready", "True")).await;
        stage.ns.wait_for(object, condition("Synced", "True")).await;
    }
}

#[tokio::test]
async fn a_version_that_is_well_goes_from_step_to_step_and_writes_each_child_once() {
    let stage = Stage::with("well", json!({ "value": "old" }), 40).await;
    let start = stage.host.audit.mark();
    let next = json!({ "version": "2.0.0", "value": "new", "secret": "bmV3LW5ldy1uZXc=" });
    let list = json!([{ "labelSelector": "tag=bad", "bakeSeconds": 1 }, { "percent": 50, "bakeSeconds": 1 }]);
    stage.ask_for(&next, steps(list)).await;
    let record = stage.wait_for_rollout("False", "Complete").await;
    stage.host.rest().await;
    let status = &record["status"];
    assert_eq!((&status["version"], &status["rollout"]), (&json!("2.0.0"), &json!(null)));
    assert_eq!(status["history"][0]["reason"], "Replaced");
    // the plan is what was done
    assert_eq!(status["plan"]["changed"], 40);
    let kinds = status["plan"]["children"].as_array().unwrap();
    let counts: Vec<(&Value, &Value)> = kinds.iter().map(|kind| (&kind["updated"], &kind["created"])).collect();
    assert_eq!(counts, [(&json!(40), &json!(0)), (&json!(0), &json!(40))]);
    let done = stage.host.audit.since(start);
    assert!(done.writes_of("configmaps").values().all(|times| *times == 1), "{:?}", done.writes_of("configmaps"));
    assert_eq!((done.writes_of("configmaps").len(), done.writes_of("secrets").len()), (40, 40));
    assert_eq!(done.writes_of("chameleons"), BTreeMap::new());
    assert!(!done.writes().contains_key("patch chameleons/status"), "{:?}", done.writes());
    assert!(stage.host.logged("canary serves").len() == 2, "two steps");
    assert!(!stage.plan().await.contains("bmV3"), "no value of a Secret");
}

/// Requirement L5: what is held while the plan is made changes later all the same.
#[tokio::test]
async fn a_plan_names_children_that_change_once_what_they_wait_for_is_ready() {
    let stage = Stage::with("late", json!({ "value": "old", "late": "one" }), 2).await;
    let next = json!({ "version": "2.0.0", "value": "old", "late": "two", "waits": "Job move (Missing)" });
    let start = stage.host.audit.mark();
    stage.ask_for(&next, json!({ "strategy": "manual" })).await;
    let record = stage.wait_for_rollout("True", "ApprovalNeeded").await;
    let plan = &record["status"]["plan"];
    assert_eq!((&plan["changed"], &plan["unchanged"]), (&json!(2), &json!(0)), "{plan:#}");
    let [kind] = plan["children"].as_array().unwrap().as_slice() else { panic!("one kind: {plan:#}") };
    assert_eq!((&kind["later"], &kind["updated"]), (&json!(2), &json!(0)));
    let line = plan["samples"][0]["children"][0].as_str().unwrap();
    assert!(line.ends_with("o000-late, once this is ready: Job move (Missing): data.late"), "{line}");
    let shown = stage.plan().await;
    assert!(shown.contains("ConfigMap: 2 held, and would change later"), "{shown}");
    assert!(shown.contains("o001-late, once this is ready: Job move (Missing)\n"), "{shown}");
    assert!(shown.contains("data.late: \"one\" -> \"two\""), "{shown}");
    // and it is let alone until then
    stage.command(&["approve"]).await;
    stage.wait_for_rollout("False", "Complete").await;
    stage.host.rest().await;
    assert!(stage.host.audit.since(start).writes_of("configmaps").is_empty());
    let address = stage.host.logged("serving recordings")[0]["address"].as_str().unwrap().to_owned();
    let field = ["Chameleon", "o000", "ConfigMap/o000-late:data.late", "-n", &stage.ns.name];
    let explain = [&["explain"][..], &field, &["--host", &address, "-o", "json"]].concat();
    let explained: Value = serde_json::from_str(&transom_with_cluster(&explain).await.printed()).unwrap();
    let field = ["live", "asked", "state"].map(|name| explained["field"][name].clone());
    assert_eq!(field, [json!("one"), json!("two"), json!("held as it is, and asked for later")], "{explained:#}");
    // one that holds the same changes nothing
    let same = json!({ "version": "2.0.1", "value": "old", "late": "two", "waits": "Job move (Missing)" });
    let auto = json!({ "strategy": "auto" });
    let record = stage.ask_for(&same, auto.clone()).await;
    let record = stage.ns.wait_for(&record, up_to_date()).await;
    assert_eq!(record["status"]["plan"]["unchanged"], 2, "{:#}", record["status"]["plan"]);
    stage.ask_for(&json!({ "version": "3.0.0", "value": "old", "late": "two" }), auto).await;
    for name in ["o000-late", "o001-late"] {
        stage.ns.wait_until(of::<ConfigMap>(name), |map| map["data"]["late"] == "two").await;
    }
}

#[tokio::test]
async fn a_version_that_changes_nothing_is_planned_and_swapped_without_a_write() {
    let stage = Stage::with("equal", json!({ "value": "old" }), 20).await;
    let start = stage.host.audit.mark();
    let record = stage.ask_for(&json!({ "value": "old", "version": "1.0.1" }), json!({})).await;
    let record = stage.ns.wait_for(&record, up_to_date()).await;
    assert_eq!(record["status"]["plan"]["unchanged"], 20);
    let stored = [("create storedcomponents", 1), ("patch plugins/status", 1)];
    assert_eq!(stage.host.writes_since(start).await, writes(&stored));
    // other limits are another version, too
    let before = record["status"]["plan"]["revision"].clone();
    let wish = json!({ "spec": { "limits": { "deadlineMilliseconds": 2000 }, "rollout": { "strategy": "manual" } } });
    let record = stage.ns.merge(&record, wish).await;
    let record = stage.ns.wait_for(&record, condition("Progressing", "True").because("ApprovalNeeded")).await;
    assert_ne!(record["status"]["plan"]["revision"], before);
    assert_eq!(record["status"]["plan"]["unchanged"], 20);
    stage.command(&["approve"]).await;
    let record = stage.wait_for_rollout("False", "Complete").await;
    assert_eq!(record["status"]["serving"]["limits"], json!({ "deadlineMilliseconds": 2000 }));
    assert_eq!(record["status"]["history"][0]["revision"], before);
}

#[tokio::test]
async fn a_host_that_is_killed_in_the_middle_of_a_canary_goes_on_where_it_was() {
    let stage = Stage::with("middle", json!({ "value": "old" }), 30).await;
    let list = json!([{ "percent": 30, "bakeSeconds": 0 }]);
    let wish = json!({ "strategy": "manual", "steps": list });
    let next = json!({ "version": "2.0.0", "value": "new", "secret": "bmV3" });
    stage.ask_for(&next, wish).await;
    stage.wait_for_rollout("True", "ApprovalNeeded").await;
    let part = stage.part(list).await;
    assert!(!part.is_empty() && part.len() < 30, "{}", part.len());
    stage.command(&["approve"]).await;
    let step = |record: &Value| {
        (record["status"]["rollout"]["step"].as_u64(), record["status"]["rollout"]["state"].as_str() == Some("Waiting"))
    };
    stage.ns.wait_until(&stage.record, |record| step(record) == (Some(1), true)).await;
    stage.wait_for_values(&part, "new", "old").await;
    stage.host.rest().await;
    for (name, version) in [(part.first().unwrap(), "2.0.0"), (&outside(&stage, &part).await, "1.0.0")] {
        let arguments = ["explain", "Chameleon", name, "-n", &stage.ns.name, "--output", "json"];
        let explained: Value = serde_json::from_str(&transom_with_cluster(&arguments).await.printed()).unwrap();
        assert_eq!(explained["plugin"]["version"], version, "{explained:#}");
    }

    let Stage { ns, host, folder, record } = stage;
    host.kill().await;
    let host = ns.host().await;
    host.rest().await;
    assert_eq!(host.audit.all().writes(), writes(&[]), "each object is served by the version that it had");
    let stage = Stage { ns, host, folder, record };
    stage.wait_for_values(&part, "new", "old").await;

    // the other way, now: what only the new version makes is deleted by the one before
    assert_eq!(stage.ns.list::<Secret>().await.len(), part.len());
    stage.command(&["abort"]).await;
    stage.wait_for_rollout("False", "Aborted").await;
    stage.wait_for_values(&part, "old", "old").await;
    stage.host.rest().await;
    assert_eq!(stage.ns.list::<Secret>().await, Vec::<Value>::new());
}

/// The first object that is no part of these.
async fn outside(stage: &Stage, part: &BTreeSet<String>) -> String {
    stage.values().await.into_keys().find(|name| !part.contains(name)).unwrap()
}

#[tokio::test]
async fn a_person_approves_aborts_and_goes_back() {
    let stage = Stage::with("person", json!({ "value": "one" }), 10).await;
    let all: BTreeSet<String> = stage.values().await.into_keys().collect();
    let manual = json!({ "strategy": "manual" });
    stage.ask_for(&json!({ "version": "2.0.0", "value": "two" }), manual.clone()).await;
    stage.wait_for_rollout("True", "ApprovalNeeded").await;
    stage.wait_for_values(&all, "one", "one").await;
    stage.command(&["approve"]).await;
    stage.wait_for_rollout("False", "Complete").await;
    stage.wait_for_values(&all, "two", "two").await;

    stage.ask_for(&json!({ "version": "3.0.0", "value": "three" }), manual.clone()).await;
    stage.wait_for_rollout("True", "ApprovalNeeded").await;
    stage.command(&["abort"]).await;
    let record = stage.wait_for_rollout("False", "Aborted").await;
    assert_eq!(record["status"]["version"], "2.0.0");
    // back to what serves, which the record did not ask for any more
    let back = stage.command(&["rollback"]).await;
    assert!(back.ends_with(" 2.0.0 serves\n"), "{back}");
    let record = stage.ns.get(&stage.record).await;
    assert_eq!((&record["status"]["version"], &record["status"]["rollout"]), (&json!("2.0.0"), &json!(null)));
    // and to the one before, at once although the strategy is manual
    stage.command(&["rollback", "--no-wait"]).await;
    stage.ns.wait_until(&stage.record, |record| record["status"]["version"] == "1.0.0").await;
    stage.wait_for_values(&all, "one", "one").await;
    let name = stage.record["metadata"]["name"].as_str().unwrap();
    let refused = transom_with_cluster(&["plugin", "approve", name]).await;
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("no version is being rolled out; version 1.0.0 serves all objects"),
        "{}",
        refused.stderr
    );
}

#[tokio::test]
async fn an_object_stays_with_the_version_that_it_is_pinned_to() {
    let stage = Stage::with("pinned", json!({ "value": "old" }), 5).await;
    let old = stage.ns.get(&stage.record).await["status"]["digest"].clone();
    let pin = |digest: &Value| json!({ "metadata": { "annotations": { "transom.dev/plugin-digest": digest } } });
    stage.ns.merge(of::<sample::Chameleon>("o001"), pin(&old)).await;
    let record = stage.ask_for(&json!({ "version": "2.0.0", "value": "new" }), json!({})).await;
    stage.ns.wait_for(&record, up_to_date()).await;
    let others: BTreeSet<String> = ["o000", "o002", "o003", "o004"].map(Into::into).into();
    stage.wait_for_values(&others, "new", "old").await;
    stage.ns.merge(of::<sample::Chameleon>("o001"), json!({ "spec": { "text": "edited" } })).await;
    let map = stage.ns.wait_until(of::<ConfigMap>("o001"), |map| map["data"]["text"] == "edited").await;
    assert_eq!(map["data"]["value"], "old");

    // also by the next host
    let Stage { ns, host, folder, record } = stage;
    host.kill().await;
    let stage = Stage { host: ns.host().await, ns, folder, record };
    stage.ns.merge(of::<sample::Chameleon>("o001"), json!({ "spec": { "text": "again" } })).await;
    let map = stage.ns.wait_until(of::<ConfigMap>("o001"), |map| map["data"]["text"] == "again").await;
    assert_eq!(map["data"]["value"], "old");

    // a version that nobody knows: the object is left as it is, and says why
    let nobody = stage.ns.merge(of::<sample::Chameleon>("o002"), pin(&json!("sha256:0000"))).await;
    stage.ns.wait_until(&nobody, |object| condition_of(object, "Synced")["reason"] == "PinnedVersionMissing").await;
    assert_eq!(stage.ns.get(of::<ConfigMap>("o002")).await["data"]["value"], "new");
    for name in ["o001", "o002"] {
        stage.ns.merge(of::<sample::Chameleon>(name), pin(&json!(null))).await;
        stage.ns.wait_until(of::<ConfigMap>(name), |map| map["data"]["value"] == "new").await;
        stage.ns.wait_for(of::<sample::Chameleon>(name), condition("Synced", "True")).await;
    }
}

/// Requirement L2: objects are edited all the time while two versions take turns. `TRANSOM_TEST_OBJECTS` says how many:
/// 1,000 take a minute more.
#[tokio::test]
async fn no_edit_is_lost_and_nothing_written_twice_while_versions_alternate() {
    const TURNS: usize = 50;
    let objects = transom_tests::from_environment("TRANSOM_TEST_OBJECTS").unwrap_or(100);
    let stage = Stage::with("turns", json!({ "value": "v0" }), objects).await;
    let start = stage.host.audit.mark();
    let versions = [json!({ "value": "v1", "version": "1.0.1" }), json!({ "value": "v0" })];
    let turns = async {
        for turn in 0..TURNS {
            let record = stage.ask_for(&versions[turn % 2], json!({})).await;
            stage.ns.wait_for(&record, up_to_date()).await;
        }
    };
    let edits = async {
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for edit in 0..4 * objects {
            let name = format!("o{:03}", edit * 7 % objects);
            let text = json!({ "spec": { "text": format!("edit {edit}") } });
            stage.ns.merge(of::<sample::Chameleon>(&name), text).await;
            *times.entry(name).or_default() += 1;
        }
        times
    };
    let ((), times) = tokio::join!(turns, edits);
    stage.host.rest().await;
    for object in stage.ns.list::<sample::Chameleon>().await {
        let map = stage.ns.get(of::<ConfigMap>(&name_of(&object))).await;
        assert_eq!((&map["data"]["text"], &map["data"]["value"]), (&object["spec"]["text"], &json!("v0")));
        assert_eq!(condition_of(&object, "Synced")["status"], "True");
    }
    let written = stage.host.audit.since(start).writes_of("configmaps");
    for (name, count) in &written {
        let causes = times.get(name).copied().unwrap_or_default() + TURNS;
        assert!(*count <= causes, "{name} was written {count} times, there were {causes} reasons");
    }
    let metrics = stage.host.metrics().await;
    let synced = metrics.sum("transom_reconciles_total", &["outcome=\"Synced\""]);
    assert_eq!(metrics.sum("transom_reconciles_total", &[]), synced, "no reconcile failed");
    let record = stage.ns.get(&stage.record).await;
    assert_eq!(record["status"]["history"].as_array().unwrap().len(), 1, "two versions: one serves, one did");
}
