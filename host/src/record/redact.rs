//! Takes values of Secrets out of a recording.
//!
//! Each value becomes a placeholder with a digest of it under a key that is made for this bundle and never written down:
//! equal values stay equal within the bundle, and nobody can try out values against it. Placeholders are of the shape
//! that the place asks for (base64 under `data`, as many digits as there were where there were only digits, as many
//! bytes for random bytes), so that a plugin can go on with them.
//!
//! Replaced: every value under `data` and `stringData` of a Secret in children and answers; random bytes; wherever else
//! one of these values of at least [`MIN_ELSEWHERE`] bytes stands in any text, unless it is part of an object's name;
//! annotations of Secrets, and annotations elsewhere that are nothing but a digest, since values could be tried out
//! against those. In plans, what is left of values of Secrets (the plugin made them of nothing secret) is masked.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::Value;

use super::{CarriedOut, Outcome, Recording};
use crate::api::names;
use crate::overlay::Overlaid;
use crate::plan::contract::{
    Answer, Answered, CallOutcome, Child, Failure, Lookup, Plan, Problem, Request, Value as Found,
};
use crate::plan::rounds::Round;

/// Shorter values are replaced inside Secrets only: `app` is part of half the texts in a cluster.
const MIN_ELSEWHERE: usize = 8;

const PREFIX: &str = "redacted-";

/// What stands for a value of a Secret that the plugin made itself.
const MASK: &str = "redacted";

pub(super) struct Redactor {
    key: hmac::Key,
    /// Values that are replaced wherever they stand, longest first.
    everywhere: Vec<(String, String)>,
    /// All values that were seen.
    seen: BTreeMap<Vec<u8>, String>,
}

impl Redactor {
    /// None when the system gives no random bytes.
    pub(super) fn new(recording: &Recording) -> Option<Self> {
        let mut key = [0u8; 32];
        SystemRandom::new().fill(&mut key).ok()?;
        let mut redactor =
            Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key), everywhere: Vec::new(), seen: BTreeMap::new() };
        let mut names: Vec<String> = Vec::new();
        let mut objects: Vec<&str> = Vec::new();
        let request = &recording.request;
        names.extend([recording.primary.namespace.clone(), recording.primary.name.clone()]);
        for child in &request.children {
            names.extend([child.object_ref.namespace.clone(), child.object_ref.name.clone()]);
            objects.push(&child.object);
        }
        for Answered { lookup, answer } in &request.answers {
            if let Lookup::Object(reference) = lookup {
                names.extend([reference.namespace.clone(), reference.name.clone()]);
            }
            match answer {
                Answer::Found(Found::Object(text)) => objects.push(text),
                Answer::Found(Found::Objects(texts)) => objects.extend(texts.iter().map(String::as_str)),
                Answer::Found(Found::Bytes(bytes)) if matches!(lookup, Lookup::Random { .. }) => {
                    redactor.placeholder(bytes);
                }
                _ => {}
            }
        }
        if let Outcome::Planned(plan) = &recording.outcome {
            objects.extend(plan.children.iter().map(|child| child.object.as_str()));
        }
        for text in objects {
            let Ok(mut object) = serde_json::from_str::<Value>(text) else { continue };
            if let Some(name) = object.pointer("/metadata/name").and_then(Value::as_str) {
                names.push(name.to_owned());
            }
            redactor.secret(&mut object);
        }
        // a Secret may hold a document of values
        let mut inner = Vec::new();
        for value in redactor.seen.keys() {
            if let Ok(document @ (Value::Object(_) | Value::Array(_))) = serde_json::from_slice(value) {
                leaves(&document, &mut inner);
            }
        }
        // what the object itself says is no secret
        inner.retain(|text| text.len() >= MIN_ELSEWHERE && !request.object.contains(text.as_str()));
        inner.iter().for_each(|text| drop(redactor.placeholder(text.as_bytes())));
        let seen = redactor.seen.clone();
        for (value, placeholder) in &seen {
            let encoded = STANDARD.encode(value);
            if encoded.len() >= MIN_ELSEWHERE && value.len() >= MIN_ELSEWHERE {
                redactor.everywhere.push((encoded, STANDARD.encode(placeholder)));
            }
            let Ok(text) = String::from_utf8(value.clone()) else { continue };
            if text.len() >= MIN_ELSEWHERE && !names.iter().any(|name| name.contains(&text)) {
                // as it stands in JSON text, which is what is searched
                let quoted = Value::from(text).to_string();
                redactor.everywhere.push((quoted.trim_matches('"').to_owned(), placeholder.clone()));
            }
        }
        redactor.everywhere.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        Some(redactor)
    }

    /// How many different values there are.
    pub(super) fn count(&self) -> usize {
        self.seen.len()
    }

    pub(super) fn request(&mut self, request: &Request) -> Request {
        let mut redacted = request.clone();
        redacted.object = self.text(&request.object);
        redacted.config = self.text(&request.config);
        for child in &mut redacted.children {
            child.object = self.object(&child.object);
        }
        for answered in &mut redacted.answers {
            self.lookup(&mut answered.lookup);
            let random = matches!(answered.lookup, Lookup::Random { .. });
            self.answer(&mut answered.answer, random);
        }
        for call in &mut redacted.calls {
            match &mut call.outcome {
                CallOutcome::Pending => {}
                CallOutcome::Succeeded(message) => self.bytes(message),
                CallOutcome::Failed(problem) => problem.message = self.text(&problem.message),
            }
        }
        redacted
    }

    pub(super) fn rounds(&mut self, rounds: &[Round]) -> Vec<Round> {
        let mut rounds = rounds.to_vec();
        rounds.iter_mut().flat_map(|round| &mut round.asked).for_each(|lookup| self.lookup(lookup));
        rounds
    }

    pub(super) fn outcome(&mut self, outcome: &Outcome) -> Outcome {
        match outcome {
            Outcome::Planned(plan) => {
                let mut children: Vec<Child> = plan.children.clone();
                for child in &mut children {
                    child.object = self.planned(&child.object);
                }
                let rest = Plan { children: Vec::new(), ..(**plan).clone() };
                let mut rest: Plan = self.whole(&rest);
                rest.calls.iter_mut().for_each(|call| self.bytes(&mut call.message));
                Outcome::Planned(Box::new(Plan { children, ..rest }))
            }
            Outcome::Failed(failure) => Outcome::Failed(self.whole::<Failure>(failure)),
            Outcome::NoAnswer(problem) => Outcome::NoAnswer(self.whole::<Problem>(problem)),
        }
    }

    pub(super) fn carried_out(&self, carried_out: &CarriedOut) -> CarriedOut {
        self.whole(carried_out)
    }

    pub(super) fn overlays(&self, overlays: &Overlaid) -> Overlaid {
        self.whole(overlays)
    }

    /// Through its JSON text: no field can be forgotten.
    fn whole<T: serde::Serialize + serde::de::DeserializeOwned + Clone>(&self, value: &T) -> T {
        let text = serde_json::to_string(value).unwrap_or_default();
        // texts inside texts are quoted twice; a value with nothing to quote is found in either
        let text = self.text(&text);
        serde_json::from_str(&text).unwrap_or_else(|_| value.clone())
    }

    fn lookup(&self, lookup: &mut Lookup) {
        *lookup = self.whole(lookup);
        if let Lookup::Grpc { message, .. } | Lookup::Engine { input: message, .. } = lookup {
            self.bytes(message);
        }
    }

    fn answer(&mut self, answer: &mut Answer, random: bool) {
        match answer {
            Answer::Found(Found::Object(text)) => *text = self.object(text),
            Answer::Found(Found::Objects(texts)) => texts.iter_mut().for_each(|text| *text = self.object(text)),
            Answer::Found(Found::Bytes(bytes)) if random => {
                let length = bytes.len();
                let block = |i: usize| {
                    let mut input = i.to_be_bytes().to_vec();
                    input.extend_from_slice(bytes);
                    hmac::sign(&self.key, &input)
                };
                let stream: Vec<u8> = (0..length.div_ceil(32)).flat_map(|i| block(i).as_ref().to_vec()).collect();
                *bytes = stream.into_iter().take(length).collect();
            }
            Answer::Found(Found::Bytes(bytes)) => self.bytes(bytes),
            Answer::Found(Found::Http { body, headers, .. }) => {
                self.bytes(body);
                headers.iter_mut().for_each(|(_, value)| *value = self.text(value));
            }
            Answer::Found(Found::Files(files)) => files.iter_mut().for_each(|(_, bytes)| self.bytes(bytes)),
            Answer::Found(Found::Digest(_) | Found::Time(_)) | Answer::Absent => {}
            Answer::Denied(text) => *text = self.text(text),
            Answer::Failed(problem) => problem.message = self.text(&problem.message),
        }
    }

    /// Text inside bytes, whatever is around it.
    fn bytes(&self, bytes: &mut Vec<u8>) {
        if let Ok(text) = std::str::from_utf8(bytes) {
            *bytes = self.text(text).into_bytes();
            return;
        }
        for (value, placeholder) in &self.everywhere {
            *bytes = replaced(bytes, value.as_bytes(), placeholder.as_bytes());
        }
    }

    fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (value, placeholder) in &self.everywhere {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), placeholder);
            }
        }
        text
    }

    /// A live object.
    fn object(&mut self, text: &str) -> String {
        let Ok(mut object) = serde_json::from_str::<Value>(text) else { return self.text(text) };
        let mut changed = self.secret(&mut object);
        let secret = is_secret(&object);
        changed |= self.annotations(&mut object, secret);
        self.text(&if changed { object.to_string() } else { text.to_owned() })
    }

    /// A child of a plan.
    fn planned(&mut self, text: &str) -> String {
        let Ok(mut object) = serde_json::from_str::<Value>(text) else { return self.text(text) };
        let changed = self.secret(&mut object);
        self.text(&if changed { object.to_string() } else { text.to_owned() })
    }

    /// Replaces the values of a Secret. Returns whether it is one.
    fn secret(&mut self, object: &mut Value) -> bool {
        if !is_secret(object) {
            return false;
        }
        if let Some(Value::Object(data)) = object.get_mut("data") {
            for value in data.values_mut() {
                let text = value.as_str().unwrap_or_default();
                let decoded = STANDARD.decode(text).unwrap_or_else(|_| text.as_bytes().to_vec());
                *value = STANDARD.encode(self.placeholder(&decoded)).into();
            }
        }
        if let Some(Value::Object(data)) = object.get_mut("stringData") {
            for value in data.values_mut() {
                let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
                *value = self.placeholder(text.as_bytes()).into();
            }
        }
        true
    }

    /// Replaces annotations from which values could be found out. Returns whether there was one.
    fn annotations(&self, object: &mut Value, secret: bool) -> bool {
        let kept = |name: &str| matches!(name, names::KEEP_ANNOTATION | names::HELM_KEEP_ANNOTATION);
        let mut changed = false;
        for path in ["/metadata/annotations", "/spec/template/metadata/annotations"] {
            let Some(Value::Object(annotations)) = object.pointer_mut(path) else { continue };
            for (name, value) in annotations.iter_mut() {
                let text = value.as_str().unwrap_or_default();
                if (secret && !kept(name)) || is_digest(text) {
                    *value = self.digest(text.as_bytes()).into();
                    changed = true;
                }
            }
        }
        changed
    }

    fn placeholder(&mut self, value: &[u8]) -> String {
        if let Some(known) = self.seen.get(value) {
            return known.clone();
        }
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let placeholder = match value {
            b"" => String::new(),
            _ if digits => {
                let tag = hmac::sign(&self.key, value);
                // never zero, nor out of the range of ports
                tag.as_ref().iter().cycle().take(value.len()).map(|b| char::from(b'1' + b % 5)).collect()
            }
            _ => format!("{PREFIX}{}", self.digest(value)),
        };
        if !value.is_empty() {
            self.seen.insert(value.to_vec(), placeholder.clone());
        }
        placeholder
    }

    fn digest(&self, value: &[u8]) -> String {
        hmac::sign(&self.key, value).as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Masks values of Secrets that hold no placeholder: they were made by the plugin, of nothing secret.
pub(super) fn mask_plan(outcome: &mut Outcome) {
    let Outcome::Planned(plan) = outcome else { return };
    for child in &mut plan.children {
        let Ok(mut object) = serde_json::from_str::<Value>(&child.object) else { continue };
        if !is_secret(&object) {
            continue;
        }
        let encoded_mask = STANDARD.encode(MASK);
        for (field, mask) in [("data", encoded_mask.as_str()), ("stringData", MASK)] {
            let Some(Value::Object(data)) = object.get_mut(field) else { continue };
            for value in data.values_mut() {
                let text = value.as_str().unwrap_or_default();
                let decoded = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                if !text.contains(PREFIX) && !decoded.is_some_and(|text| text.contains(PREFIX)) {
                    *value = mask.into();
                }
            }
        }
        child.object = object.to_string();
    }
}

/// Texts at the ends of a document.
fn leaves(document: &Value, found: &mut Vec<String>) {
    match document {
        Value::String(text) => found.push(text.clone()),
        Value::Array(list) => list.iter().for_each(|value| leaves(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| leaves(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// `bytes` with every `from` replaced; `from` is not empty.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, others)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(from) {
            out.extend_from_slice(to);
            rest = after;
        } else {
            out.push(*first);
            rest = others;
        }
    }
    out
}

fn is_secret(object: &Value) -> bool {
    object.get("kind").and_then(Value::as_str) == Some("Secret")
        && object.get("apiVersion").and_then(Value::as_str) == Some("v1")
}

/// Nothing but a digest: 32 or more hexadecimal digits, with or without the algorithm's name.
fn is_digest(text: &str) -> bool {
    let digits = text.split_once(':').map_or(text, |(_, digits)| digits);
    digits.len() >= 32 && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_at_the_ends_of_a_document_are_found() {
        let document = serde_json::json!({ "db": { "password": "hunter2", "port": 5432 }, "hosts": ["a", null, true] });
        let mut found = Vec::new();
        leaves(&document, &mut found);
        assert_eq!(found, ["hunter2", "a"]);
    }

    #[test]
    fn bytes_are_searched_whatever_is_around_them() {
        assert_eq!(replaced(b"\xff\x00hunter2hunter2 hunter\xfe", b"hunter2", b"-"), b"\xff\x00-- hunter\xfe");
        assert_eq!(replaced(b"", b"a", b"b"), b"");
    }
}
