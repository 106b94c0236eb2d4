//! Label selectors as kubectl spells them: `app=web,tier in (a,b),!legacy`.

/// A parsed selector. Every requirement must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    Exists(String),
    Missing(String),
    In(String, Vec<String>),
    /// A label that is not there is not in the set, as in Kubernetes.
    NotIn(String, Vec<String>),
}

impl Selector {
    /// None when it is not understood: the API server will say why, and until then every change counts.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts = split(text)?;
        parts.into_iter().map(requirement).collect::<Option<Vec<_>>>().map(Self)
    }

    /// Every object belongs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Does an object with these labels belong?
    #[must_use]
    pub fn matches(&self, labels: &[(String, String)]) -> bool {
        let value = |key: &String| labels.iter().find(|(name, _)| name == key).map(|(_, value)| value);
        self.0.iter().all(|requirement| match requirement {
            Requirement::Exists(key) => value(key).is_some(),
            Requirement::Missing(key) => value(key).is_none(),
            Requirement::In(key, values) => value(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => value(key).is_none_or(|value| !values.contains(value)),
        })
    }
}

/// At commas that are not within parentheses.
fn split(text: &str) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            '(' if inside => return None,
            '(' => inside = true,
            ')' if !inside => return None,
            ')' => inside = false,
            ',' if !inside => {
                parts.push(text.get(start..i)?);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..)?);
    let parts: Vec<&str> = parts.into_iter().map(str::trim).collect();
    match (inside, parts.as_slice()) {
        (true, _) => None,
        (false, [""]) => Some(Vec::new()),
        (false, parts) if parts.contains(&"") => None,
        (false, _) => Some(parts),
    }
}

fn requirement(text: &str) -> Option<Requirement> {
    if let Some(key) = text.strip_prefix('!') {
        return Some(Requirement::Missing(word(key)?));
    }
    if let Some((head, values)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        let (key, operator) = head.trim().rsplit_once(char::is_whitespace)?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        return match operator {
            "in" => Some(Requirement::In(word(key)?, values)),
            "notin" => Some(Requirement::NotIn(word(key)?, values)),
            _ => None,
        };
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Some(Requirement::NotIn(word(key)?, vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Some(Requirement::In(word(key)?, vec![value.trim().to_owned()]));
    }
    word(text).map(Requirement::Exists)
}

fn word(text: &str) -> Option<String> {
    let text = text.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (!text.is_empty() && text.chars().all(plain)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", true)]
    #[case("app=web", true)]
    #[case("app==web,tier in (a, b)", true)]
    #[case("app = web , tier notin (c)", true)]
    #[case("app", true)]
    #[case("!app", false)]
    #[case("!other", true)]
    #[case("app!=web", false)]
    #[case("other!=web", true)]
    #[case("other notin (web)", true)]
    #[case("other in (web)", false)]
    #[case("tier in (b)", false)]
    #[case("example.dev/x=1", true)]
    fn selects_as_kubernetes_does(#[case] selector: &str, #[case] expected: bool) {
        let labels = [("app", "web"), ("tier", "a"), ("example.dev/x", "1")].map(|(k, v)| (k.into(), v.into()));
        assert_eq!(Selector::parse(selector).unwrap().matches(&labels), expected);
    }

    #[rstest]
    #[case("a in (b")]
    #[case("a)b(")]
    #[case("a,,b")]
    #[case("a near (b)")]
    #[case("a b")]
    #[case("=b")]
    fn what_is_not_understood_is_no_selector(#[case] selector: &str) {
        assert_eq!(Selector::parse(selector), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text: String) {
            if let Some(selector) = Selector::parse(&text) {
                let _ = selector.matches(&[]);
            }
        }
    }
}
