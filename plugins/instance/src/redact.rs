//! Secret values, and what is told without them.

use serde_json::Value;

/// Takes secret values out of what is told: charts, hooks and Helm may repeat what they were given.
#[derive(Default)]
pub(crate) struct Redactor(Vec<String>);

/// What stands for a secret.
const HIDDEN: &str = "[redacted]";

/// Shorter ones are hidden only where they stand alone: "1" is in every message.
const SHORT: usize = 4;

impl Redactor {
    /// Hides every value in this document, too.
    pub(crate) fn add(&mut self, secret: &Value) {
        match secret {
            Value::Null | Value::Bool(_) => {}
            Value::Number(number) => self.word(&number.to_string()),
            Value::String(text) => {
                self.word(text);
                // as Kubernetes prints a Secret, and as JSON and Go quote
                self.word(&base64(text.as_bytes()));
                let quoted = Value::String(text.clone()).to_string();
                self.word(quoted.trim_matches('"'));
                text.lines().for_each(|line| self.word(line.trim()));
            }
            Value::Array(list) => list.iter().for_each(|value| self.add(value)),
            Value::Object(fields) => fields.values().for_each(|value| self.add(value)),
        }
    }

    fn word(&mut self, text: &str) {
        if !text.is_empty() && !self.0.iter().any(|known| known == text) {
            self.0.push(text.to_owned());
            // the longest first: one may be part of another
            self.0.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        }
    }

    /// The text without secrets.
    pub(crate) fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            if secret.len() >= SHORT {
                text = text.replace(secret.as_str(), HIDDEN);
            } else {
                text = alone(&text, secret);
            }
        }
        text
    }
}

/// Replaces `word` where no letter or digit is beside it.
fn alone(text: &str, word: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, from) = rest.split_at(at);
        let after = from.get(word.len()..).unwrap_or_default();
        let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        out.push_str(before);
        let beside = is_letter(out.chars().next_back()) || is_letter(after.chars().next());
        out.push_str(if beside { word } else { HIDDEN });
        rest = after;
    }
    out.push_str(rest);
    out
}

fn base64(bytes: &[u8]) -> String {
    // with the padding that Kubernetes writes
    serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec()))
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn i6_secrets_are_taken_out_of_messages_in_every_spelling() {
        let mut redactor = Redactor::default();
        redactor.add(&json!({ "db": { "password": "hunter2\"x", "pin": 7, "on": true, "list": ["two words"] } }));
        let said = r#"password hunter2"x, quoted "hunter2\"x", aHVudGVyMiJ4, pin 7 of 17, two words, true"#;
        let clean = "password [redacted], quoted \"[redacted]\", [redacted], pin [redacted] of 17, [redacted], true";
        assert_eq!(redactor.clean(said), clean);
    }
}
