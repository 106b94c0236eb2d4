//! Globs over paths: `*` and `?` within a segment, `**` over any number of whole segments.

/// Does the pattern match the whole path? A `/` at the beginning of either means nothing.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    let segments = |text: &str| -> Vec<Vec<char>> {
        text.trim_start_matches('/').split('/').map(|segment| segment.chars().collect()).collect()
    };
    let (pattern, path) = (segments(pattern), segments(path));
    let is_deep = |segment: &Vec<char>| segment.as_slice() == ['*', '*'];
    search(&pattern, &path, is_deep, |pattern, segment| {
        search(pattern, segment, |c| *c == '*', |p, c| *p == '?' || p == c)
    })
}

/// Matches items one by one, and what `is_any` says to any number of them. Takes at most |pattern| × |items| steps: only
/// the last "any" is ever tried again, with one item more.
fn search<T>(pattern: &[T], items: &[T], is_any: impl Fn(&T) -> bool, is_one: impl Fn(&T, &T) -> bool) -> bool {
    let (mut p, mut i) = (0, 0);
    let mut last_any = None;
    loop {
        match (pattern.get(p), items.get(i)) {
            (None, None) => return true,
            (Some(any), _) if is_any(any) => {
                last_any = Some((p + 1, i));
                p += 1;
                continue;
            }
            (Some(one), Some(item)) if is_one(one, item) => {
                (p, i) = (p + 1, i + 1);
                continue;
            }
            _ => {}
        }
        match last_any {
            Some((after, from)) if from < items.len() => {
                last_any = Some((after, from + 1));
                (p, i) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("**", "a/b/c", true)]
    #[case("a/**", "a/b/c", true)]
    #[case("a/**", "b/a", false)]
    #[case("**/*.yaml", "x.yaml", true)]
    #[case("**/*.yaml", "a/b/x.yaml", true)]
    #[case("*.yaml", "a/x.yaml", false)]
    #[case("*.y?ml", "x.yaml", true)]
    #[case("/a.S/*", "/a.S/Get", true)]
    #[case("/a.S/*", "/a.T/Get", false)]
    #[case("a/**/b/**/c", "a/1/b/2/b/3/c", true)]
    #[case("a*b*c", "aXbXbXc", true)]
    #[case("a*b*c", "aXbX", false)]
    #[case("[ab]", "a", false)]
    fn matches_whole_paths(#[case] pattern: &str, #[case] path: &str, #[case] expected: bool) {
        assert_eq!(matches(pattern, path), expected);
    }

    /// The same, straight from the definition and exponentially slow.
    fn slow(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['*', '*', '/', rest @ ..] => {
                slow(rest, text) || text.iter().position(|c| *c == '/').is_some_and(|i| slow(pattern, &text[i + 1..]))
            }
            ['*', '*'] => true,
            ['*', rest @ ..] => slow(rest, text) || (!text.is_empty() && text[0] != '/' && slow(pattern, &text[1..])),
            ['?', rest @ ..] => !text.is_empty() && text[0] != '/' && slow(rest, &text[1..]),
            [c, rest @ ..] => text.first() == Some(c) && slow(rest, &text[1..]),
        }
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in r"(\*\*/)?([ab?*]{1,3}/){0,2}[ab?]{1,3}", path in "([ab]{1,3}/){0,3}[ab]{1,3}") {
            proptest::prop_assume!(!pattern.contains("***") && !pattern.replace("**/", "").contains("**"));
            let inner_deep = pattern.match_indices("**/").any(|(i, _)| i > 0 && !pattern[..i].ends_with('/'));
            proptest::prop_assume!(!inner_deep);
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            proptest::prop_assert_eq!(matches(&pattern, &path), slow(&chars(&pattern), &chars(&path)));
        }
    }
}
