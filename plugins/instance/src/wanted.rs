//! What an instance asks for: template, values, domain name and secret.

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Map, Value, json};
use transom_sdk::prelude::*;
use transom_sdk::{Answer, Problem, Stop, names};

use crate::chart;
use crate::config::Config;
use crate::spec::{CaelusInstance, ProductTemplateVersion};
use crate::state::{Inputs, Seen};

/// The key in the Secret.
const VALUES: &str = "values.json";

/// Helm's limit (`pkg/chart/common/util` of Helm: release names).
const MAX_NAME: usize = 53;

/// Path of a template's chart, for messages.
pub(crate) fn field(template: &str) -> String {
    format!("ProductTemplateVersion {template}: spec.chart")
}

/// Resolves it. What templates see is left open.
pub(crate) fn resolve(instance: &CaelusInstance, cx: &Context, config: &Config) -> Result<Inputs, Stop> {
    let template = cx.try_get::<ProductTemplateVersion>(&instance.spec.product_template_version);
    let secret = instance.spec.values_secret.as_ref().map(|name| (name, cx.try_get::<Secret>(name)));
    let template =
        found("spec.productTemplateVersion", "UnknownTemplate", "ProductTemplateVersion", instance, template?)?;
    let secret = match secret {
        None => None,
        Some((name, answer)) => Some(secret_values(instance, name, answer?)?),
    };
    let chart = template.spec.chart;
    let digest = match chart::known_digest(&chart) {
        Some(digest) => digest.to_owned(),
        None => chart::fetch(cx, &chart, None, &field(&instance.spec.product_template_version))?.digest,
    };
    Ok(Inputs {
        template_version: instance.spec.product_template_version.clone(),
        chart,
        digest,
        values: vec![
            Value::Object(template.spec.default_values),
            domain(&instance.spec.domain_name, &template.spec.domain_paths),
            Value::Object(instance.spec.values.clone()),
        ],
        secret,
        name: release_name(instance.name()),
        namespace: instance.spec.namespace.clone(),
        timeout_seconds: template.spec.timeout_seconds.max(1),
        seen: Seen {
            kube_version: config.kube_version.clone(),
            api_versions: config.api_versions.clone(),
            ..Seen::default()
        },
    })
}

fn found<T>(field: &str, reason: &str, kind: &str, instance: &CaelusInstance, answer: Answer<T>) -> Result<T, Problem> {
    let name = &instance.spec.product_template_version;
    match answer {
        Answer::Found(value) => Ok(value),
        Answer::Absent => {
            let home = instance.home();
            let message =
                format!("{field}: there is no {kind} {name} in the namespace {home}: make it, or name another one");
            Err(Problem::new(reason, message))
        }
        Answer::Denied(message) => Err(Problem::passing("LookupDenied", format!("{field}: {message}"))),
        Answer::Failed { reason, message } => Err(Problem::passing(reason, format!("{field}: {message}"))),
        _ => Err(Problem::passing("LookupFailed", format!("{field}: no answer"))),
    }
}

fn secret_values(instance: &CaelusInstance, name: &str, answer: Answer<Secret>) -> Result<Value, Problem> {
    let field = "spec.valuesSecret";
    let wrong = |what: String| Problem::new("InvalidValuesSecret", format!("{field}: Secret {name} {what}"));
    let secret = match answer {
        Answer::Found(secret) => secret,
        Answer::Absent => {
            return Err(wrong(format!("is not in the namespace {}: make it, or remove the field", instance.home())));
        }
        Answer::Denied(message) => return Err(Problem::passing("LookupDenied", format!("{field}: {message}"))),
        Answer::Failed { reason, message } => return Err(Problem::passing(reason, format!("{field}: {message}"))),
        _ => return Err(Problem::passing("LookupFailed", format!("{field}: no answer"))),
    };
    let bytes = secret.data.and_then(|mut data| data.remove(VALUES));
    let bytes = bytes.ok_or_else(|| wrong(format!("has no key {VALUES}: put the values there")))?;
    // the parser's message would repeat what it read
    let no_object = || wrong(format!("has no JSON object under the key {VALUES}"));
    let values: Value = serde_json::from_slice(&bytes.0).map_err(|_| no_object())?;
    if values.is_object() { Ok(values) } else { Err(no_object()) }
}

/// The domain name as a value: `global.domain`, and where the template says.
fn domain(name: &str, paths: &[String]) -> Value {
    let mut values = json!({ "global": { "domain": name } });
    for path in paths {
        let mut place = &mut values;
        for part in path.split('.').filter(|part| !part.is_empty()) {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            let Value::Object(fields) = place else { break };
            place = fields.entry(part).or_insert(Value::Null);
        }
        *place = name.into();
    }
    values
}

/// Begins with a letter, as names of Services must, and has at most 53 characters.
pub(crate) fn release_name(instance: &str) -> String {
    let plain: String = instance.chars().map(|c| if c == '.' { '-' } else { c }).collect();
    let prefix = if plain.starts_with(|c: char| c.is_ascii_lowercase()) { "" } else { "i-" };
    let name = format!("{prefix}{plain}");
    if name.len() <= MAX_NAME && plain == instance {
        return name;
    }
    // shortened or changed: told apart by a hash
    let hash = names::hash(&instance).unwrap_or_default();
    let room = MAX_NAME - hash.len() - 1;
    let start: String = name.chars().take(room).collect();
    format!("{}-{hash}", start.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i3_a_release_has_a_name_that_helm_and_services_take() {
        assert_eq!(release_name("shop"), "shop");
        assert_eq!(release_name("0198c0de-0000-7000-8000-000000000001"), "i-0198c0de-0000-7000-8000-000000000001");
        let long = release_name(&"a".repeat(60));
        assert!(long.len() == 53 && long != release_name(&"a".repeat(61)), "{long}");
        assert_ne!(release_name("a.b"), release_name("a-b"));
    }

    #[test]
    fn i2_the_domain_name_is_where_charts_look_for_it() {
        let values = domain("shop.example", &["ingress.host".into(), "global.hosts.main".into()]);
        let global = json!({ "domain": "shop.example", "hosts": { "main": "shop.example" } });
        assert_eq!(values, json!({ "global": global, "ingress": { "host": "shop.example" } }));
    }
}
