//! Places in an object, and patterns over them.

use std::fmt;

use serde_json::Value;

use super::glob;

/// One step into an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A field.
    Field(String),
    /// An item of a list: by the field that tells items apart, where there is one, or by its number or value.
    Item {
        /// `name`
        key: Option<&'static str>,
        /// `app`
        value: String,
    },
}

/// A place in an object: `spec.template.spec.containers[name=app].image`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<Part>);

impl Path {
    /// The field in this place.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        self.with(Part::Field(name.to_owned()))
    }

    /// One step further.
    #[must_use]
    pub fn with(&self, part: Part) -> Self {
        let mut parts = Vec::with_capacity(self.0.len() + 1);
        parts.extend_from_slice(&self.0);
        parts.push(part);
        Self(parts)
    }

    /// Names of the fields on the way, items left out.
    pub fn fields(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Field(name) => Some(name.as_str()),
            Part::Item { .. } => None,
        })
    }

    /// The name of the field that this step is, if it is one.
    #[must_use]
    pub fn field_at(&self, index: usize) -> Option<&str> {
        match self.0.get(index) {
            Some(Part::Field(name)) => Some(name),
            _ => None,
        }
    }

    /// Is the other place this one or below it?
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.0.iter().enumerate() {
            match part {
                Part::Field(name) if name.contains(['.', '/', '[']) => write!(f, "[{name}]")?,
                Part::Field(name) if i == 0 => f.write_str(name)?,
                Part::Field(name) => write!(f, ".{name}")?,
                Part::Item { key: Some(key), value } => write!(f, "[{key}={value}]")?,
                Part::Item { key: None, value } => write!(f, "[{value}]")?,
            }
        }
        Ok(())
    }
}

impl Part {
    /// Is this the item at a position of a list, as it is there?
    #[must_use]
    pub fn is_item(&self, index: usize, item: &Value) -> bool {
        match self {
            Self::Field(_) => false,
            Self::Item { key: Some(key), value } => item.get(*key).is_some_and(|found| said(found) == *value),
            Self::Item { key: None, value } => *value == index.to_string() || said(item) == *value,
        }
    }
}

/// A scalar as text.
pub(crate) fn said(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// One step of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Any number of steps.
    Deep,
    /// A field, as a glob.
    Field(String),
    /// In brackets: an item by key or number, or a field whose name has dots, as a glob.
    Bracket(String),
}

/// A pattern over places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Step>);

/// How far a pattern goes along a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// It matches the path or a place above it.
    pub above: bool,
    /// It matches the path itself.
    pub exact: bool,
    /// It could match places below the path.
    pub below: bool,
}

/// Steps of one pattern.
const MAX_STEPS: usize = 64;

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('[') {
                let Some((name, after)) = inner.split_once(']') else {
                    return Err(format!("{text:?}: [ is not closed by ]"));
                };
                steps.push(Step::Bracket(name.trim_matches(['"', '\'']).to_owned()));
                rest = after;
                if let Some(next) = rest.strip_prefix('.') {
                    rest = next;
                    if rest.is_empty() {
                        return Err(format!("{text:?} ends with a dot"));
                    }
                }
                continue;
            }
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            if name.is_empty() {
                return Err(format!("{text:?} has an empty name"));
            }
            steps.push(if name == "**" { Step::Deep } else { Step::Field(name.to_owned()) });
            rest = match after.strip_prefix('.') {
                Some("") => return Err(format!("{text:?} ends with a dot")),
                Some(next) => next,
                None => after,
            };
        }
        match steps.len() {
            0 => Err("a path must not be empty".into()),
            n if n > MAX_STEPS => Err(format!("a path has at most {MAX_STEPS} steps")),
            _ => Ok(Self(steps)),
        }
    }

    /// How far the pattern goes along a path. Takes at most |pattern| × |path| steps.
    #[must_use]
    pub fn along(&self, path: &Path) -> Match {
        let end = self.0.len();
        let mut states = vec![false; end + 1];
        if let Some(first) = states.first_mut() {
            *first = true;
        }
        self.skip_deep(&mut states);
        let at_end = |states: &[bool]| states.last() == Some(&true);
        let mut above = at_end(&states);
        for part in &path.0 {
            let mut next = vec![false; end + 1];
            for (i, step) in self.0.iter().enumerate().filter(|(i, _)| states.get(*i) == Some(&true)) {
                let reached = match step {
                    Step::Deep => Some(i),
                    step => step.is(part).then_some(i + 1),
                };
                if let Some(state) = reached.and_then(|reached| next.get_mut(reached)) {
                    *state = true;
                }
            }
            self.skip_deep(&mut next);
            states = next;
            above |= at_end(&states);
        }
        let below = states.iter().take(end).any(|state| *state);
        Match { above, exact: at_end(&states), below }
    }

    /// `**` stands for nothing, too.
    fn skip_deep(&self, states: &mut [bool]) {
        for (i, step) in self.0.iter().enumerate() {
            if *step == Step::Deep
                && states.get(i) == Some(&true)
                && let Some(next) = states.get_mut(i + 1)
            {
                *next = true;
            }
        }
    }
}

impl Step {
    fn is(&self, part: &Part) -> bool {
        let glob = |pattern: &str, text: &str| pattern == "*" || glob::matches(pattern, text);
        match (self, part) {
            (Self::Deep, _) => true,
            (Self::Field(pattern), Part::Field(name)) => glob(pattern, name),
            (Self::Field(pattern), Part::Item { .. }) => pattern == "*",
            (Self::Bracket(pattern), Part::Field(name)) => glob(pattern, name),
            (Self::Bracket(pattern), Part::Item { key, value }) => {
                glob(pattern, value) || key.is_some_and(|key| glob(pattern, &format!("{key}={value}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn image() -> Path {
        let item = Part::Item { key: Some("name"), value: "app".into() };
        Path::default().field("spec").field("containers").with(item).field("image")
    }

    #[test]
    fn a_path_is_shown_as_people_write_it() {
        assert_eq!(image().to_string(), "spec.containers[name=app].image");
        assert_eq!(Path::default().field("metadata").field("a.b/c").to_string(), "metadata[a.b/c]");
    }

    #[rstest]
    #[case("spec.containers[*].image", true, true)]
    #[case("spec.containers[app].image", true, true)]
    #[case("spec.containers[name=app].image", true, true)]
    #[case("spec.containers[name=b*].image", false, false)]
    #[case("spec.containers.*.image", true, true)]
    #[case("**.image", true, true)]
    #[case("spec.**", true, true)]
    #[case("spec", true, false)]
    #[case("spec.containers", true, false)]
    #[case("spec.c*", true, false)]
    #[case("spec.containers[*].image.x", false, false)]
    #[case("image", false, false)]
    #[case("**.containers.**.image", true, true)]
    #[case("**.containers[*].**.image", true, true)]
    fn patterns_match_places_and_all_below(#[case] pattern: &str, #[case] above: bool, #[case] exact: bool) {
        let found = Pattern::parse(pattern).unwrap().along(&image());
        assert_eq!((found.above, found.exact), (above, exact));
    }

    #[test]
    fn a_name_with_dots_goes_in_brackets() {
        let path = Path::default().field("metadata").field("annotations").field("example.com/team");
        for pattern in ["metadata.annotations[example.com/*]", "metadata.annotations[\"example.com/team\"]"] {
            assert!(Pattern::parse(pattern).unwrap().along(&path).exact, "{pattern}");
        }
    }

    #[rstest]
    #[case("")]
    #[case("spec.")]
    #[case("spec..a")]
    #[case(".spec")]
    #[case("spec[a")]
    fn a_malformed_pattern_is_refused(#[case] pattern: &str) {
        assert!(Pattern::parse(pattern).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(pattern in "\\PC{0,40}") {
            let _ = Pattern::parse(&pattern).map(|pattern| pattern.along(&image()));
        }
    }
}
