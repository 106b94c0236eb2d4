//! What the demo does when: a state machine without I/O, fed with what the watches report.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::exhibits::{DOMAINS, EXCHANGED, EXHIBITS, Exhibit};
use crate::kubectl::{Change, condition, text};

/// Its migration takes two tries.
const STUMBLES: &str = "billing";
/// The secret of its database comes late.
const WAITS: &str = "Domain shipping";
/// What the next version of the plugin changes, and nothing else: the children of this kind get one annotation more
/// (feature `next` of `plugins/domain`).
const CHANGED: &str = "Service";

/// What the demo watches.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// An object that a plugin serves.
    Sample(Change),
    /// A Deployment or a Service of a Domain.
    Child(Change),
    /// A pod of a migration.
    Pod(Change),
    Plugin(Change),
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A plugin serves for the first time: make its samples.
    Show(&'static Exhibit),
    /// End this pod, whose containers are given.
    EndPod { name: String, containers: Vec<String>, succeeds: bool },
    /// Hand out the late secret.
    DeliverSecret,
    /// Every sample is Ready: exchange the plugin of Domains.
    Swap,
    /// The new version serves, and has changed these.
    Finish(Vec<String>),
    /// It will not work any more.
    Fail(String),
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    RollingOut,
    Swapping(Baseline),
    Finished(Baseline),
    Over,
}

/// What was there before the plugin was exchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Baseline {
    /// When each sample became Ready: the time changes when the condition does, so no flap can hide.
    ready_since: BTreeMap<String, String>,
    /// What was asked for in each child.
    children: BTreeMap<String, String>,
}

/// The state of the demo.
pub(crate) struct Script {
    next_digest: String,
    stage: Stage,
    /// Samples and plugins, by kind and name.
    objects: BTreeMap<String, Value>,
    /// By kind and name.
    children: BTreeMap<String, Value>,
    /// Plugins that have served.
    shown: BTreeSet<&'static str>,
    ended_pods: BTreeSet<String>,
    delivered: bool,
    serving_next: bool,
}

impl Script {
    /// `next_digest`: that of the version that is swapped in, as the `Plugin` record spells it.
    pub(crate) fn new(next_digest: &str) -> Self {
        Self {
            next_digest: next_digest.into(),
            stage: Stage::RollingOut,
            objects: BTreeMap::new(),
            children: BTreeMap::new(),
            shown: BTreeSet::new(),
            ended_pods: BTreeSet::new(),
            delivered: false,
            serving_next: false,
        }
    }

    /// Samples and plugins as they were seen last, by kind and name.
    pub(crate) fn objects(&self) -> &BTreeMap<String, Value> {
        &self.objects
    }

    /// Every plugin has served.
    pub(crate) fn has_shown_all(&self) -> bool {
        self.shown.len() == EXHIBITS.len()
    }

    /// Judges no more: from here on the user may do to the samples what they like.
    pub(crate) fn rest(&mut self) {
        self.stage = Stage::Over;
    }

    /// What follows from `event`.
    pub(crate) fn react(&mut self, event: Event) -> Vec<Action> {
        let mut actions = match event {
            Event::Sample(change) => {
                keep(&mut self.objects, change);
                self.deliver()
            }
            Event::Child(change) => {
                keep(&mut self.children, change);
                Vec::new()
            }
            Event::Pod(Change::Seen(pod)) => self.end_pod(&pod),
            Event::Plugin(change) => {
                keep(&mut self.objects, change.clone());
                match change {
                    Change::Seen(plugin) => self.observe_plugin(&plugin),
                    Change::Gone(_) => Vec::new(),
                }
            }
            Event::Pod(Change::Gone(_)) => Vec::new(),
        };
        actions.extend(self.advance());
        actions
    }

    /// The secret, once its absence was reported.
    fn deliver(&mut self) -> Vec<Action> {
        let missed = self.objects.get(WAITS).is_some_and(|domain| status(domain, "DBReady") == "False");
        if self.delivered || !missed {
            return Vec::new();
        }
        self.delivered = true;
        vec![Action::DeliverSecret]
    }

    /// The first pod of the migration that stumbles fails, the next one does not.
    fn end_pod(&mut self, pod: &Value) -> Vec<Action> {
        let is_his = text(pod, "/metadata/labels/app.kubernetes.io~1instance") == STUMBLES;
        let is_scheduled = !text(pod, "/spec/nodeName").is_empty();
        let runs = matches!(text(pod, "/status/phase"), "Pending" | "Running");
        let is_due = is_his && is_scheduled && runs;
        if !is_due || !self.ended_pods.insert(text(pod, "/metadata/uid").into()) {
            return Vec::new();
        }
        let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
        vec![Action::EndPod {
            name: text(pod, "/metadata/name").into(),
            containers: containers.into_iter().flatten().map(|container| text(container, "/name").into()).collect(),
            succeeds: self.ended_pods.len() > 1,
        }]
    }

    fn observe_plugin(&mut self, plugin: &Value) -> Vec<Action> {
        let current = plugin.pointer("/metadata/generation") == plugin.pointer("/status/observedGeneration");
        let Some(exhibit) = EXHIBITS.iter().find(|exhibit| exhibit.plugin == text(plugin, "/metadata/name")) else {
            return Vec::new();
        };
        match text(plugin, "/status/phase") {
            "Failed" if current => vec![Action::Fail(format!("the plugin {} was refused", exhibit.plugin))],
            "Ready" => {
                if exhibit.plugin == EXCHANGED {
                    self.serving_next = text(plugin, "/status/digest") == self.next_digest;
                }
                if self.shown.insert(exhibit.plugin) { vec![Action::Show(exhibit)] } else { Vec::new() }
            }
            _ => Vec::new(),
        }
    }

    fn advance(&mut self) -> Option<Action> {
        let before = match &self.stage {
            Stage::RollingOut => {
                if !self.all_ready() {
                    return None;
                }
                self.stage = Stage::Swapping(self.baseline());
                return Some(Action::Swap);
            }
            Stage::Swapping(before) | Stage::Finished(before) => before.clone(),
            Stage::Over => return None,
        };
        if let Some(name) = self.flapped(&before) {
            return Some(Action::Fail(format!("{name} did not stay Ready while the plugin was exchanged")));
        }
        let changed = self.changed(&before);
        if let Some(child) = changed.iter().find(|child| !child.starts_with(CHANGED)) {
            return Some(Action::Fail(format!("{child} was written, which the new version does not change")));
        }
        let is_swapping = matches!(self.stage, Stage::Swapping(_));
        if is_swapping && self.serving_next && changed.len() == DOMAINS.len() {
            self.stage = Stage::Finished(before);
            return Some(Action::Finish(changed));
        }
        None
    }

    fn all_ready(&self) -> bool {
        let has = |kind: &str, name: &str| self.children.contains_key(&format!("{kind} {name}"));
        let mut samples = EXHIBITS.iter().flat_map(|exhibit| exhibit.names.iter().map(|name| (exhibit.kind, *name)));
        samples.all(|(kind, name)| self.objects.get(&format!("{kind} {name}")).is_some_and(is_ready))
            && DOMAINS.iter().all(|name| has("Deployment", name) && has("Service", name))
    }

    fn baseline(&self) -> Baseline {
        let since =
            |sample| condition(sample, "Ready").map(|ready| text(ready, "/lastTransitionTime")).unwrap_or_default();
        Baseline {
            ready_since: self.samples().map(|(key, sample)| (key.clone(), since(sample).into())).collect(),
            children: self.children.iter().map(|(key, child)| (key.clone(), wish(child))).collect(),
        }
    }

    /// All but the plugins, which are loaded again by intention.
    fn samples(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.objects.iter().filter(|(_, object)| text(object, "/kind") != "Plugin")
    }

    /// A sample that was not Ready all the time since `before`.
    fn flapped(&self, before: &Baseline) -> Option<String> {
        let now = self.baseline();
        before.ready_since.iter().find_map(|(name, since)| {
            let stayed = now.ready_since.get(name) == Some(since)
                && self.objects.get(name).is_some_and(|sample| status(sample, "Ready") == "True");
            (!stayed).then(|| name.clone())
        })
    }

    /// The children that are not what they were.
    fn changed(&self, before: &Baseline) -> Vec<String> {
        let is_other =
            |key: &String, wished: &String| self.children.get(key).is_none_or(|child| wish(child) != *wished);
        let other = before.children.iter().filter(|(key, wished)| is_other(key, wished)).map(|(key, _)| key);
        let new = self.children.keys().filter(|key| !before.children.contains_key(*key));
        other.chain(new).cloned().collect()
    }
}

fn keep(objects: &mut BTreeMap<String, Value>, change: Change) {
    match change {
        Change::Seen(object) => objects.insert(kind_and_name(&object), object),
        Change::Gone(object) => objects.remove(&kind_and_name(&object)),
    };
}

/// `Service orders`
fn kind_and_name(object: &Value) -> String {
    format!("{} {}", text(object, "/kind"), text(object, "/metadata/name"))
}

fn status<'a>(object: &'a Value, kind: &str) -> &'a str {
    condition(object, kind).map(|found| text(found, "/status")).unwrap_or_default()
}

/// Ready, and so as it is specified now.
fn is_ready(sample: &Value) -> bool {
    let generation = sample.pointer("/metadata/generation");
    condition(sample, "Ready")
        .is_some_and(|ready| text(ready, "/status") == "True" && ready.get("observedGeneration") == generation)
}

/// All of a child that a plugin may change, and nothing that Kubernetes' own controllers do.
fn wish(child: &Value) -> String {
    let part = |pointer| child.pointer(pointer).map(Value::to_string).unwrap_or_default();
    let annotations = child.pointer("/metadata/annotations").and_then(Value::as_object);
    let annotations: BTreeMap<_, _> =
        annotations.into_iter().flatten().filter(|(key, _)| !key.contains("kubernetes.io/")).collect();
    format!("{} {annotations:?} {}", part("/metadata/labels"), part("/spec"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NEXT: &str = "sha256:2";

    fn domain(name: &str, condition: &str, status: &str, since: &str) -> Event {
        sample("Domain", name, condition, status, since)
    }

    fn sample(kind: &str, name: &str, condition: &str, status: &str, since: &str) -> Event {
        Event::Sample(Change::Seen(json!({
            "kind": kind,
            "metadata": { "name": name, "generation": 1 },
            "status": { "conditions": [
                { "type": condition, "status": status, "observedGeneration": 1, "lastTransitionTime": since },
            ]},
        })))
    }

    fn child(kind: &str, name: &str, annotation: &str) -> Event {
        Event::Child(Change::Seen(json!({
            "kind": kind,
            "metadata": {
                "name": name,
                "annotations": { "ameide.io/plugin": annotation, "deployment.kubernetes.io/revision": annotation },
            },
        })))
    }

    fn pod(uid: &str, instance: &str, node: &str) -> Event {
        Event::Pod(Change::Seen(json!({
            "metadata": { "name": uid, "uid": uid, "labels": { "app.kubernetes.io/instance": instance } },
            "spec": { "nodeName": node, "containers": [{ "name": "migrate" }] },
            "status": { "phase": "Pending" },
        })))
    }

    fn plugin(phase: &str, digest: &str) -> Event {
        Event::Plugin(Change::Seen(json!({
            "kind": "Plugin",
            "metadata": { "name": EXCHANGED, "generation": 2 },
            "status": { "phase": phase, "digest": digest, "observedGeneration": 2 },
        })))
    }

    /// Everything is Ready, and the swap was asked for.
    fn swapping() -> Script {
        let mut script = Script::new(NEXT);
        assert_eq!(script.react(plugin("Ready", "sha256:1")), [Action::Show(&EXHIBITS[0])]);
        let mut actions = Vec::new();
        for exhibit in &EXHIBITS[1..] {
            for name in exhibit.names {
                actions.extend(script.react(sample(exhibit.kind, name, "Ready", "True", "noon")));
            }
        }
        for name in DOMAINS {
            actions.extend(script.react(child("Deployment", name, "1")));
            actions.extend(script.react(child("Service", name, "1")));
            actions.extend(script.react(domain(name, "Ready", "True", "noon")));
        }
        assert_eq!(actions, [Action::Swap]);
        script
    }

    #[test]
    fn the_first_pod_fails_and_the_second_succeeds() {
        let mut script = Script::new(NEXT);
        let end = |name: &str, succeeds| {
            vec![Action::EndPod { name: name.into(), containers: vec!["migrate".into()], succeeds }]
        };
        assert_eq!(script.react(pod("a", STUMBLES, "")), [], "not scheduled yet");
        assert_eq!(script.react(pod("a", STUMBLES, "node-0")), end("a", false));
        assert_eq!(script.react(pod("a", STUMBLES, "node-0")), [], "once is enough");
        assert_eq!(script.react(pod("x", "orders", "node-0")), [], "kwok completes the others");
        assert_eq!(script.react(pod("b", STUMBLES, "node-1")), end("b", true));
    }

    #[test]
    fn the_secret_comes_once_it_was_missed() {
        let mut script = Script::new(NEXT);
        assert_eq!(script.react(domain("orders", "DBReady", "False", "")), []);
        assert_eq!(script.react(domain("shipping", "DBReady", "False", "")), [Action::DeliverSecret]);
        assert_eq!(script.react(domain("shipping", "DBReady", "False", "")), []);
    }

    #[test]
    fn it_finishes_when_the_new_version_serves_and_has_changed_what_it_changes() {
        let mut script = swapping();
        assert_eq!(script.react(plugin("Ready", "sha256:1")), [], "that is the old one");
        assert_eq!(script.react(plugin("Ready", NEXT)), []);
        assert_eq!(script.react(child("Service", "orders", "2")), []);
        assert_eq!(script.react(child("Service", "billing", "2")), []);
        let changed = ["Service billing", "Service orders", "Service shipping"].map(String::from).to_vec();
        assert_eq!(script.react(child("Service", "shipping", "2")), [Action::Finish(changed)]);
        assert_eq!(script.react(child("Service", "shipping", "2")), [], "once");
    }

    #[test]
    fn a_write_that_the_new_version_does_not_need_ends_it() {
        let why = "Deployment orders was written, which the new version does not change";
        assert_eq!(swapping().react(child("Deployment", "orders", "2")), [Action::Fail(why.into())]);
    }

    #[test]
    fn a_flap_is_seen_even_when_it_is_over() {
        let flap = [Action::Fail("Domain orders did not stay Ready while the plugin was exchanged".into())];
        assert_eq!(swapping().react(domain("orders", "Ready", "False", "one")), flap);
        assert_eq!(swapping().react(domain("orders", "Ready", "True", "one")), flap);
        assert_eq!(swapping().react(domain("orders", "Ready", "True", "noon")), []);
        let other = swapping().react(sample("Process", "fulfilment", "Ready", "True", "one"));
        assert_eq!(
            other,
            [Action::Fail("Process fulfilment did not stay Ready while the plugin was exchanged".into())]
        );
    }

    #[test]
    fn a_refused_plugin_ends_it() {
        let failed = [Action::Fail("the plugin domain was refused".into())];
        assert_eq!(Script::new(NEXT).react(plugin("Failed", "sha256:1")), failed);
    }
}
