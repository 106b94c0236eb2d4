use std::collections::HashMap;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::Identity;

/// The shortest token that is let pass.
const MIN_LENGTH: usize = 16;

/// Tokens in a file, for development.
pub struct Tokens(HashMap<[u8; 32], Identity>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    token: String,
    subject: String,
    #[serde(default)]
    admin: bool,
}

impl Tokens {
    /// From JSON: `[{"token": "…", "subject": "alice", "admin": false}]`.
    ///
    /// # Errors
    ///
    /// Names the entry that is wrong, counted from 1, and not its token.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let shape = r#"the file of tokens must be JSON such as [{"token": "…", "subject": "alice", "admin": false}]"#;
        let entries: Vec<serde_json::Value> = serde_json::from_str(text).ok().context(shape)?;
        let mut tokens = HashMap::new();
        for (number, entry) in (1..).zip(entries) {
            let entry: Entry =
                serde_json::from_value(entry).ok().with_context(|| format!("entry {number}: {shape}"))?;
            ensure!(entry.token.len() >= MIN_LENGTH, "entry {number}: a token has at least {MIN_LENGTH} characters");
            ensure!(!entry.subject.is_empty(), "entry {number}: subject must not be empty");
            let identity = Identity { subject: entry.subject, is_admin: entry.admin };
            let earlier = tokens.insert(digest(&entry.token), identity);
            ensure!(earlier.is_none(), "entry {number}: has the token of an earlier entry");
        }
        Ok(Self(tokens))
    }

    /// By digest, so that the time it takes tells nothing of a token.
    pub(super) fn find(&self, token: &str) -> Option<Identity> {
        self.0.get(&digest(token)).cloned()
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_as_a_whole() {
        let text = r#"[{"token": "0123456789abcdef", "subject": "alice"},
            {"token": "fedcba9876543210", "subject": "root", "admin": true}]"#;
        let tokens = Tokens::parse(text).unwrap();
        let alice = Identity { subject: "alice".into(), is_admin: false };
        assert_eq!(tokens.find("0123456789abcdef"), Some(alice));
        assert!(tokens.find("fedcba9876543210").unwrap().is_admin);
        assert_eq!(tokens.find("0123456789abcde"), None);
        assert_eq!(tokens.find(""), None);
    }

    #[test]
    fn wrong_files_are_refused_without_telling_tokens() {
        let wrong = |text: &str| format!("{:#}", Tokens::parse(text).err().unwrap());
        assert!(wrong("{}").starts_with("the file of tokens must be JSON"));
        let misspelt = wrong(r#"[{"token": "0123456789abcdef", "subjekt": "alice"}]"#);
        assert!(misspelt.starts_with("entry 1: ") && !misspelt.contains("0123456789"), "{misspelt}");
        assert!(wrong(r#"[{"token": "short", "subject": "alice"}]"#).contains("at least 16"));
    }
}
