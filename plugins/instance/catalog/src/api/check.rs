//! What the types of the wire cannot say.

use serde_json::Value;

use super::problem::Problem;
use super::view::{Chart, NewTemplateVersion};
use crate::database::store::{self, Object};

/// How deep values may be nested: deeper ones the API server refuses, or something on the way.
const MAX_DEPTH: usize = 64;

/// As of RFC 1123, in lower case, with at least one dot.
pub(super) fn domain_name(name: &str) -> Result<(), Problem> {
    let is_good = name.len() <= 253 && name.contains('.') && name.split('.').all(is_label);
    is_good.then_some(()).ok_or_else(|| {
        Problem::field("domainName", "must be a name in the DNS such as shop.example.org: a-z, 0-9, '-' and dots")
    })
}

/// As Kubernetes has it, and none of its own.
pub(super) fn namespace(name: &str) -> Result<(), Problem> {
    if !is_label(name) {
        return Err(Problem::field("namespace", "must be 1 to 63 of a-z, 0-9 and '-', with '-' inside only"));
    }
    match name == "default" || name.starts_with("kube-") {
        true => Err(Problem::field("namespace", "must not be one of Kubernetes' own: an instance has its own")),
        false => Ok(()),
    }
}

pub(super) fn user_id(id: &str) -> Result<(), Problem> {
    let is_good = !id.is_empty() && id.len() <= 253 && !id.chars().any(char::is_control);
    is_good.then_some(()).ok_or_else(|| Problem::field("userId", "must have 1 to 253 bytes, none a control character"))
}

/// What PostgreSQL and the API server both keep as it is.
pub(super) fn values(field: &str, values: &Object) -> Result<(), Problem> {
    values.iter().try_for_each(|(key, inner)| {
        key_of(field, key)?;
        value(&format!("{field}.{key}"), inner, 1)
    })
}

fn value(field: &str, value: &Value, depth: usize) -> Result<(), Problem> {
    if depth > MAX_DEPTH {
        return Err(Problem::field(field, format!("must not be nested deeper than {MAX_DEPTH}")));
    }
    match value {
        Value::String(text) if text.contains('\0') => Err(Problem::field(field, "must not have the character U+0000")),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, inner)| self::value(&format!("{field}[{index}]"), inner, depth + 1)),
        Value::Object(map) => map.iter().try_for_each(|(key, inner)| {
            key_of(field, key)?;
            self::value(&format!("{field}.{key}"), inner, depth + 1)
        }),
        _ => Ok(()),
    }
}

fn key_of(field: &str, key: &str) -> Result<(), Problem> {
    let has_zero = key.contains('\0');
    if has_zero { Err(Problem::field(field, "no key may have the character U+0000")) } else { Ok(()) }
}

/// As the custom resource has it.
pub(super) fn template(new: NewTemplateVersion) -> Result<store::NewTemplate, Problem> {
    values("defaultValues", &new.default_values)?;
    if new.domain_paths.len() > 16 || new.domain_paths.iter().any(|path| path.is_empty() || path.contains('\0')) {
        return Err(Problem::field("domainPaths", "must be at most 16 paths such as ingress.host"));
    }
    if new.timeout_seconds.is_some_and(|seconds| !(1..=86_400).contains(&seconds)) {
        return Err(Problem::field("timeoutSeconds", "must be 1 to 86400"));
    }
    let NewTemplateVersion { chart, default_values, domain_paths, timeout_seconds } = new;
    Ok(store::NewTemplate { chart: self::chart(&chart)?, default_values, domain_paths, timeout_seconds })
}

fn chart(chart: &Chart) -> Result<Object, Problem> {
    let sources = [("oci", &chart.oci), ("http", &chart.http), ("folder", &chart.folder)];
    let mut given = sources.into_iter().filter_map(|(name, source)| Some((name, source.as_ref()?)));
    let (Some((name, location)), None) = (given.next(), given.next()) else {
        return Err(Problem::field("chart", "must have exactly one of oci, http and folder"));
    };
    let is_good = |text: &str, max| (1..=max).contains(&text.len()) && !text.contains('\0');
    if !is_good(&location.reference, 512) {
        return Err(Problem::field(format!("chart.{name}.reference"), "must have 1 to 512 bytes"));
    }
    if location.endpoint.as_deref().is_some_and(|endpoint| !is_good(endpoint, 63)) {
        return Err(Problem::field(format!("chart.{name}.endpoint"), "must have 1 to 63 bytes, or be left out"));
    }
    match &chart.digest {
        None if name == "folder" => {}
        Some(digest) if is_digest(digest) => {}
        _ => return Err(Problem::field("chart.digest", "must be sha256: and 64 digits of 0-9 and a-f")),
    }
    match serde_json::to_value(chart) {
        Ok(Value::Object(chart)) => Ok(chart),
        _ => Err(Problem::field("chart", "must be a JSON object")),
    }
}

fn is_digest(digest: &str) -> bool {
    let digits = digest.strip_prefix("sha256:").unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn is_label(label: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&label.len()) && label.bytes().all(is_good) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case("shop.example.org", true)]
    #[case("a.b", true)]
    #[case("shop", false)]
    #[case("Shop.example.org", false)]
    #[case("shop..org", false)]
    #[case("-shop.example.org", false)]
    #[case("shop.example.org.", false)]
    #[case("shop.example.org/x", false)]
    #[case(&format!("{}.org", "a".repeat(64)), false)]
    #[case("", false)]
    fn domain_names_are_names_in_the_dns(#[case] name: &str, #[case] is_good: bool) {
        assert_eq!(domain_name(name).is_ok(), is_good, "{name:?}");
    }

    #[test]
    fn namespaces_of_the_cluster_are_refused() {
        for name in ["kube-system", "default", "a_b", "", "-a"] {
            assert_eq!(namespace(name).unwrap_err().errors[0].field, "namespace", "{name:?}");
        }
        assert_eq!(namespace("shop-1"), Ok(()));
    }

    #[test]
    fn what_the_database_cannot_keep_is_refused_by_its_path() {
        let wrong = json!({ "a": [{ "b": "x\0" }] });
        assert_eq!(values("values", wrong.as_object().unwrap()).unwrap_err().errors[0].field, "values.a[0].b");
        let mut deep = json!(1);
        (0..MAX_DEPTH).for_each(|_| deep = json!([deep]));
        assert!(values("values", json!({ "a": deep }).as_object().unwrap()).is_err());
        assert_eq!(values("values", json!({ "a": [null, 1.5, "x"] }).as_object().unwrap()), Ok(()));
    }

    #[test]
    fn a_chart_has_one_source_and_a_digest() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let parse = |value: Value| chart(&serde_json::from_value(value).unwrap());
        let shop = json!({ "reference": "charts/shop" });
        for good in [json!({ "oci": shop, "digest": digest }), json!({ "folder": shop })] {
            assert_eq!(Value::Object(parse(good.clone()).unwrap()), good);
        }
        let field = |value: Value| parse(value).unwrap_err().errors[0].field.clone();
        assert_eq!(field(json!({ "oci": shop, "folder": shop, "digest": digest })), "chart");
        assert_eq!(field(json!({ "digest": digest })), "chart");
        assert_eq!(field(json!({ "oci": shop })), "chart.digest");
        assert_eq!(field(json!({ "oci": shop, "digest": "sha256:0A" })), "chart.digest");
        assert_eq!(field(json!({ "http": { "reference": "" }, "digest": digest })), "chart.http.reference");
    }
}
