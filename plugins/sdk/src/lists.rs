//! Lists whose entries have keys, in a form that server-side apply accepts.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Makes keys unique in the lists of these objects that server-side apply merges by key.
///
/// Server-side apply refuses a list in which a key stands twice. A plain create accepts some of these lists, so templates
/// have them. They become lists with the same meaning:
///
/// | list | key | several entries of one key |
/// | --- | --- | --- |
/// | `env` of a container | `name` | the last one counts, as for the kubelet; where entries before it use the value of an earlier one (`$(NAME)`), that value is written |
/// | `ports` of a container | `containerPort`, `protocol` | become one; where probes of the container and Services among the objects use another name of the port, its number is written |
/// | `hostAliases` of a pod | `ip` | become one with the names of all |
/// | `imagePullSecrets` of a pod, `secrets` of a ServiceAccount | `name` | become one |
/// | `metadata.finalizers` | | become one |
///
/// Pods are found in Pods, in `spec.template` and in `spec.jobTemplate` of any kind. Lists that a plain create refuses,
/// too (containers, volumes, ports of a Service), stay as they are, and so do ports that differ in `hostPort` or `hostIP`.
pub fn unique_keys(objects: &mut [Value]) {
    let mut renamed = Vec::new();
    for object in objects.iter_mut() {
        finalizers(object);
        if is(object, "v1", "ServiceAccount") {
            once(object.get_mut("secrets"));
        }
        let namespace = text(object.pointer("/metadata/namespace"));
        if is(object, "v1", "Pod") {
            template(object, &namespace, &mut renamed);
            continue;
        }
        for at in ["/spec/template", "/spec/jobTemplate/spec/template", "/template"] {
            if let Some(found) = object.pointer_mut(at) {
                template(found, &namespace, &mut renamed);
            }
        }
    }
    if renamed.is_empty() {
        return;
    }
    for service in objects.iter_mut().filter(|object| is(object, "v1", "Service")) {
        target_ports(service, &renamed);
    }
}

fn is(object: &Value, api_version: &str, kind: &str) -> bool {
    let has = |field: &str, value: &str| object.get(field).and_then(Value::as_str) == Some(value);
    has("apiVersion", api_version) && has("kind", kind)
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn list<'a>(parent: &'a mut Value, name: &str) -> Option<&'a mut Vec<Value>> {
    parent.get_mut(name)?.as_array_mut()
}

fn finalizers(object: &mut Value) {
    if let Some(all) = object.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
        distinct(all, |entry| entry.as_str().map(str::to_owned));
    }
}

/// Of entries that have nothing but a name.
fn once(entries: Option<&mut Value>) {
    if let Some(entries) = entries.and_then(Value::as_array_mut) {
        distinct(entries, |entry| entry.get("name").and_then(Value::as_str).map(str::to_owned));
    }
}

/// The first of each key.
fn distinct(entries: &mut Vec<Value>, key: impl Fn(&Value) -> Option<String>) {
    let mut seen: Vec<String> = Vec::new();
    entries.retain(|entry| match key(entry) {
        Some(key) if seen.contains(&key) => false,
        Some(key) => {
            seen.push(key);
            true
        }
        None => true,
    });
}

/// A name of a container's port that is no more.
struct Renamed {
    /// Of the object with the pod.
    namespace: String,
    labels: Map<String, Value>,
    name: String,
    number: Value,
}

/// A Pod, or a template of pods.
fn template(template: &mut Value, namespace: &str, renamed: &mut Vec<Renamed>) {
    let labels = template.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
    let Some(pod) = template.get_mut("spec").filter(|pod| pod.get("containers").is_some_and(Value::is_array)) else {
        return;
    };
    once(pod.get_mut("imagePullSecrets"));
    if let Some(aliases) = list(pod, "hostAliases") {
        host_aliases(aliases);
    }
    for containers in ["containers", "initContainers"] {
        for container in list(pod, containers).into_iter().flatten() {
            if let Some(variables) = list(container, "env") {
                environment(variables);
            }
            let names = list(container, "ports").map(ports).unwrap_or_default();
            for (name, number) in names {
                probes(container, &name, &number);
                renamed.push(Renamed { namespace: namespace.to_owned(), labels: labels.clone(), name, number });
            }
        }
    }
}

fn host_aliases(aliases: &mut Vec<Value>) {
    let mut merged: Vec<Value> = Vec::with_capacity(aliases.len());
    for mut alias in std::mem::take(aliases) {
        let ip = alias.get("ip").cloned();
        let known = merged.iter_mut().find(|known| ip.is_some() && known.get("ip") == ip.as_ref());
        let Some(known) = known else {
            merged.push(alias);
            continue;
        };
        let names = list(&mut alias, "hostnames").map(std::mem::take).unwrap_or_default();
        match list(known, "hostnames") {
            Some(all) => all.extend(names),
            None => {
                if let Some(fields) = known.as_object_mut() {
                    fields.insert("hostnames".to_owned(), names.into());
                }
            }
        }
        if let Some(all) = list(known, "hostnames") {
            distinct(all, |name| name.as_str().map(str::to_owned));
        }
    }
    *aliases = merged;
}

// ---------------------------------------------------------------------- env

fn environment(variables: &mut Vec<Value>) {
    let name = |variable: &Value| variable.get("name").and_then(Value::as_str).map(str::to_owned);
    let mut last = BTreeMap::new();
    let mut named = 0;
    for (index, variable) in variables.iter().enumerate() {
        if let Some(name) = name(variable) {
            last.insert(name, index);
            named += 1;
        }
    }
    if last.len() == named {
        return;
    }
    // values of variables that are set again later, for those in between that use them
    let mut earlier: BTreeMap<String, String> = BTreeMap::new();
    for (index, mut variable) in std::mem::take(variables).into_iter().enumerate() {
        if let Some(Value::String(value)) = variable.get_mut("value") {
            *value = expanded(value, &earlier);
        }
        match name(&variable) {
            Some(name) if last.get(&name) != Some(&index) => {
                if variable.get("valueFrom").is_none_or(Value::is_null) {
                    earlier.insert(name, text(variable.get("value")));
                } else {
                    earlier.remove(&name);
                }
            }
            Some(name) => {
                earlier.remove(&name);
                variables.push(variable);
            }
            None => variables.push(variable),
        }
    }
}

/// The text with values for these references, by the kubelet's rules: `$(NAME)` is a reference, `$$` a dollar sign.
fn expanded(value: &str, values: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            out.push_str("$$");
            rest = after;
            continue;
        }
        let reference = rest.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match reference.and_then(|(name, after)| values.get(name).map(|value| (value, after))) {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

// -------------------------------------------------------------------- ports

/// Makes one of ports with the same number and protocol. The names that are gone, with their numbers.
fn ports(ports: &mut Vec<Value>) -> Vec<(String, Value)> {
    let key = |port: &Value| {
        let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned();
        port.get("containerPort").map(|number| (number.clone(), protocol))
    };
    let differ = |a: &Value, b: &Value| {
        ["hostPort", "hostIP"]
            .into_iter()
            .any(|field| a.get(field).unwrap_or(&Value::Null) != b.get(field).unwrap_or(&Value::Null))
    };
    let mut gone = Vec::new();
    let mut merged: Vec<Value> = Vec::with_capacity(ports.len());
    for port in std::mem::take(ports) {
        let key_of = key(&port);
        let known = merged.iter_mut().find(|known| key_of.is_some() && key(known) == key_of && !differ(known, &port));
        let Some(known) = known else {
            merged.push(port);
            continue;
        };
        let (Some(name), Some(number)) = (port.get("name").and_then(Value::as_str), port.get("containerPort")) else {
            continue;
        };
        match known.get("name").and_then(Value::as_str) {
            Some(same) if same == name => {}
            Some(_) => gone.push((name.to_owned(), number.clone())),
            None => {
                if let Some(fields) = known.as_object_mut() {
                    fields.insert("name".to_owned(), name.into());
                }
            }
        }
    }
    *ports = merged;
    gone
}

fn probes(container: &mut Value, name: &str, number: &Value) {
    let users = ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    for user in users {
        for action in ["httpGet", "tcpSocket"] {
            let port = container.pointer_mut(user).and_then(|user| user.get_mut(action)?.get_mut("port"));
            if let Some(port) = port.filter(|port| port.as_str() == Some(name)) {
                *port = number.clone();
            }
        }
    }
}

fn target_ports(service: &mut Value, renamed: &[Renamed]) {
    let namespace = text(service.pointer("/metadata/namespace"));
    let selector = service.pointer("/spec/selector").and_then(Value::as_object).cloned().unwrap_or_default();
    if selector.is_empty() {
        return;
    }
    let selects = |pod: &&Renamed| {
        pod.namespace == namespace && selector.iter().all(|(label, value)| pod.labels.get(label) == Some(value))
    };
    for gone in renamed.iter().filter(selects) {
        for port in service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(target) = port.get_mut("targetPort").filter(|target| target.as_str() == Some(&gone.name)) {
                *target = gone.number.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(pod: Value) -> Value {
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "a", "namespace": "n" },
            "spec": { "template": { "metadata": { "labels": { "app": "a" } }, "spec": pod } } })
    }

    fn pod(container: Value) -> Value {
        json!({ "containers": [container] })
    }

    fn unique(object: Value) -> Value {
        let mut objects = [object];
        unique_keys(&mut objects);
        let [object] = objects;
        object
    }

    fn env(pairs: &[(&str, &str)]) -> Value {
        pairs.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect()
    }

    fn variables(pairs: &[(&str, &str)]) -> Value {
        let object = unique(deployment(pod(json!({ "name": "c", "env": env(pairs) }))));
        object["spec"]["template"]["spec"]["containers"][0]["env"].clone()
    }

    #[test]
    fn of_a_variable_that_is_set_twice_the_last_value_counts() {
        assert_eq!(variables(&[("A", "1"), ("B", "2"), ("A", "3")]), env(&[("B", "2"), ("A", "3")]));
        assert_eq!(variables(&[("A", "1"), ("A", "1"), ("A", "")]), env(&[("A", "")]));
    }

    #[test]
    fn what_used_the_earlier_value_of_a_variable_still_does() {
        type Pairs = &'static [(&'static str, &'static str)];
        let cases: [(Pairs, Pairs); 6] = [
            (&[("A", "1"), ("A", "$(A):2")], &[("A", "1:2")]),
            (&[("A", "1"), ("B", "$(A)"), ("A", "2"), ("C", "$(A)")], &[("B", "1"), ("A", "2"), ("C", "$(A)")]),
            (&[("A", "1"), ("B", "$$(A) $(Z) $(A"), ("A", "2")], &[("B", "$$(A) $(Z) $(A"), ("A", "2")]),
            (&[("A", "1"), ("A", "$(A)2"), ("A", "$(A)3")], &[("A", "123")]),
            (&[("C", "c"), ("A", "$(C)"), ("B", "$(A)$$"), ("A", "2")], &[("C", "c"), ("B", "$(C)$$"), ("A", "2")]),
            (&[("A", "cost: $"), ("B", "$(A)"), ("A", "2")], &[("B", "cost: $"), ("A", "2")]),
        ];
        for (given, expected) in cases {
            assert_eq!(variables(given), env(expected), "{given:?}");
        }
        let from = json!({ "name": "A", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } });
        let of = |list: Value| unique(deployment(pod(json!({ "env": list }))));
        let last = of(json!([{ "name": "A", "value": "1" }, from.clone()]));
        assert_eq!(last, of(json!([from])));
    }

    #[test]
    fn ports_of_one_number_become_one_and_names_that_are_gone_are_numbers() {
        let probe = json!({ "httpGet": { "path": "/", "port": "metrics" } });
        let container = json!({ "name": "c", "readinessProbe": probe, "ports": [
            { "name": "http", "containerPort": 80 },
            { "name": "metrics", "containerPort": 80, "protocol": "TCP" },
            { "containerPort": 80 },
            { "name": "dns", "containerPort": 80, "protocol": "UDP" },
            { "containerPort": 81 },
            { "name": "late", "containerPort": 81 },
        ] });
        let service = |selector: Value, namespace: &str| {
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s", "namespace": namespace },
                "spec": { "selector": selector, "ports": [
                    { "port": 80, "targetPort": "http" }, { "port": 81, "targetPort": "metrics" } ] } })
        };
        let other = [service(json!({ "app": "b" }), "n"), service(json!({ "app": "a" }), "m"), service(json!({}), "n")];
        let mut objects = vec![service(json!({ "app": "a" }), "n"), deployment(pod(container))];
        objects.extend(other.clone());
        unique_keys(&mut objects);
        let made = &objects[1]["spec"]["template"]["spec"]["containers"][0];
        let expected = json!([
            { "name": "http", "containerPort": 80 },
            { "name": "dns", "containerPort": 80, "protocol": "UDP" },
            { "name": "late", "containerPort": 81 },
        ]);
        assert_eq!(made["ports"], expected);
        assert_eq!(made["readinessProbe"]["httpGet"]["port"], 80);
        let targets: Vec<&Value> =
            objects[0]["spec"]["ports"].as_array().unwrap().iter().map(|port| &port["targetPort"]).collect();
        assert_eq!(targets, [&json!("http"), &json!(80)]);
        assert_eq!(objects[2..], other, "other pods are meant");
    }

    #[test]
    fn ports_on_different_addresses_of_the_host_stay() {
        let ports = json!([
            { "containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1" },
            { "containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.2" },
        ]);
        let object = deployment(pod(json!({ "name": "c", "ports": ports })));
        assert_eq!(unique(object.clone()), object);
    }

    #[test]
    fn names_and_host_aliases_are_merged_wherever_pods_are_described() {
        let spec = json!({
            "hostAliases": [
                { "ip": "10.0.0.1", "hostnames": ["a", "b"] },
                { "ip": "10.0.0.2" },
                { "ip": "10.0.0.1", "hostnames": ["b", "c"] },
                { "ip": "10.0.0.2", "hostnames": ["d"] },
            ],
            "imagePullSecrets": [{ "name": "x" }, { "name": "y" }, { "name": "x" }],
            "initContainers": [{ "name": "i", "env": env(&[("A", "1"), ("A", "2")]) }],
            "containers": [{ "name": "c" }],
        });
        let expected = json!({
            "hostAliases": [{ "ip": "10.0.0.1", "hostnames": ["a", "b", "c"] }, { "ip": "10.0.0.2", "hostnames": ["d"] }],
            "imagePullSecrets": [{ "name": "x" }, { "name": "y" }],
            "initContainers": [{ "name": "i", "env": env(&[("A", "2")]) }],
            "containers": [{ "name": "c" }],
        });
        let shapes = |spec: &Value| {
            let template = json!({ "spec": spec });
            [
                json!({ "apiVersion": "v1", "kind": "Pod", "spec": spec }),
                json!({ "apiVersion": "v1", "kind": "PodTemplate", "template": template }),
                json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "spec": { "template": template } }),
                json!({ "apiVersion": "batch/v1", "kind": "CronJob",
                    "spec": { "jobTemplate": { "spec": { "template": template } } } }),
                json!({ "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "spec": { "template": template } }),
            ]
        };
        for (given, expected) in shapes(&spec).into_iter().zip(shapes(&expected)) {
            assert_eq!(unique(given), expected);
        }
    }

    #[test]
    fn accounts_and_finalizers_have_each_name_once() {
        let given = json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "finalizers": ["a/b", "a/c", "a/b"] }, "secrets": [{ "name": "s" }, { "name": "s" }] });
        let expected = json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "finalizers": ["a/b", "a/c"] }, "secrets": [{ "name": "s" }] });
        assert_eq!(unique(given), expected);
    }

    #[test]
    fn what_is_not_shaped_like_a_pod_stays_as_it_is() {
        let odd = [
            json!(null),
            json!([]),
            json!({ "apiVersion": "v1", "kind": "Pod", "spec": [] }),
            json!({ "apiVersion": "v1", "kind": "Pod", "spec": { "containers": [null, 7, { "env": [null, {}, { "name": 7 }] }] } }),
            json!({ "apiVersion": "v1", "kind": "Pod", "spec": { "containers": [{ "ports": ["80", { "name": "a" }, { "name": "b" }] }] } }),
            json!({ "apiVersion": "a.dev/v1", "kind": "Widget", "spec": { "template": { "spec": { "env": [{ "name": "A" }, { "name": "A" }] } } } }),
        ];
        for object in odd {
            assert_eq!(unique(object.clone()), object);
        }
    }
}
