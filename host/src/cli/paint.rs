//! Colours in tables and trees, where a terminal shows them.

use std::io::IsTerminal as _;

use crate::api::names;

/// Words that say that all is well.
const GOOD: &[&str] = &[
    "True",
    "yes",
    "Ready",
    "Unchanged",
    "create",
    "ready",
    "available",
    "complete",
    "exists",
    "Active",
    "Bound",
    "Running",
    "Succeeded",
];

/// Words that say that something is not.
const BAD: &[&str] = &["False", "no", "Failed", "NotReady", "RolledBack", "delete", "failed", "Lost"];

/// How words are shown on one output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Paint {
    is_on: bool,
}

impl Paint {
    /// For stdout: with colours when it is a terminal that can do them. `NO_COLOR` with any value turns them off
    /// (no-color.org), `CLICOLOR_FORCE` on, for a pager.
    pub(super) fn stdout() -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let is_terminal = std::io::stdout().is_terminal() && !is_dumb;
        Self { is_on: !is_set("NO_COLOR") && (is_terminal || is_set("CLICOLOR_FORCE")) }
    }

    /// Without colours.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self { is_on: false }
    }

    /// A status, a phase or a health: green when it is good, red when it is bad, yellow for all between. Spaces around
    /// the word, which keep columns in line, stay as they are.
    pub(super) fn state(self, padded: &str) -> String {
        let word = padded.trim();
        let code = if is_good(word) {
            "32"
        } else if BAD.contains(&word) {
            "31"
        } else {
            "33"
        };
        self.with(code, padded)
    }

    /// The status of a condition, padded. Only of those of which everybody knows that `True` is good.
    pub(super) fn condition(self, kind: &str, padded: &str) -> String {
        if [names::READY, names::SYNCED].contains(&kind) { self.state(padded) } else { padded.to_owned() }
    }

    /// The head of a table or the root of a tree.
    pub(super) fn head(self, text: &str) -> String {
        self.with("1", text)
    }

    fn with(self, code: &str, padded: &str) -> String {
        let word = padded.trim();
        if !self.is_on || word.is_empty() {
            return padded.to_owned();
        }
        padded.replacen(word, &format!("\x1b[{code}m{word}\x1b[0m"), 1)
    }
}

/// One of the words, or counts of which all are there: `2/2 ready`.
fn is_good(word: &str) -> bool {
    let counts = word.split_once(' ').and_then(|(counts, _)| counts.split_once('/'));
    GOOD.contains(&word) || counts.is_some_and(|(have, want)| have == want)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("True   ", "\x1b[32mTrue\x1b[0m   ")]
    #[case("2/2 ready", "\x1b[32m2/2 ready\x1b[0m")]
    #[case("1/2 ready", "\x1b[33m1/2 ready\x1b[0m")]
    #[case("no", "\x1b[31mno\x1b[0m")]
    #[case("in progress", "\x1b[33min progress\x1b[0m")]
    #[case("   ", "   ")]
    fn states_have_the_colour_of_what_they_say(#[case] text: &str, #[case] shown: &str) {
        assert_eq!(Paint { is_on: true }.state(text), shown);
        assert_eq!(Paint { is_on: false }.state(text), text, "and none where nobody sees it");
    }

    #[test]
    fn a_condition_of_unknown_meaning_has_no_colour() {
        let paint = Paint { is_on: true };
        assert_eq!(paint.condition("Ready", "True "), "\x1b[32mTrue\x1b[0m ");
        assert_eq!(paint.condition("Stalled", "True "), "True ");
    }

    #[test]
    fn heads_are_bold() {
        assert_eq!(Paint { is_on: true }.head("NAME  \n"), "\x1b[1mNAME\x1b[0m  \n");
    }
}
