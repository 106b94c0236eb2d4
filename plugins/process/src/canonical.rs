//! JSON in one spelling, so that the same definition has the same checksum whoever wrote it down.
//!
//! As RFC 8785: no white space, members sorted by their names' UTF-16 code units, strings with the shortest escapes.
//! Unlike RFC 8785, numbers stay as they are written: a definition may hold more digits than a double has.

use serde::de::IgnoredAny;

/// Deeper documents are refused; `serde_json` has the same limit.
const MAX_DEPTH: u32 = 128;

/// The canonical spelling of a JSON object.
///
/// # Errors
///
/// What is wrong, for people: not JSON, no object, a name twice, too deep.
pub(crate) fn canonical(text: &str) -> Result<String, String> {
    // checks everything that the reader below takes for granted
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| format!("it is not JSON: {error}"))?;
    let mut reader = Reader { text, at: 0 };
    reader.space();
    if reader.peek() != Some(b'{') {
        return Err("it is not a JSON object".into());
    }
    let mut out = String::with_capacity(text.len());
    reader.value(&mut out, 0)?;
    Ok(out)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Skips white space.
    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Skips one character and the white space around it, if it is this one.
    fn skip(&mut self, wanted: u8) -> bool {
        self.space();
        let found = self.peek() == Some(wanted);
        if found {
            self.at += 1;
            self.space();
        }
        found
    }

    fn value(&mut self, out: &mut String, depth: u32) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("it is nested deeper than {MAX_DEPTH} levels"));
        }
        match self.peek() {
            Some(b'{') => self.object(out, depth),
            Some(b'[') => self.array(out, depth),
            Some(b'"') => {
                let text = self.string()?;
                write(out, &text)
            }
            _ => {
                let start = self.at;
                while self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
                    self.at += 1;
                }
                out.push_str(self.since(start));
                Ok(())
            }
        }
    }

    fn object(&mut self, out: &mut String, depth: u32) -> Result<(), String> {
        let mut members: Vec<(Vec<u16>, String, String)> = Vec::new();
        self.skip(b'{');
        while !self.skip(b'}') {
            self.skip(b',');
            let name = self.string()?;
            self.skip(b':');
            let mut value = String::new();
            self.value(&mut value, depth + 1)?;
            members.push((name.encode_utf16().collect(), name, value));
        }
        members.sort();
        out.push('{');
        let mut last: Option<&str> = None;
        for (_, name, value) in &members {
            if last == Some(name) {
                return Err(format!("the name {name:?} is twice in one object"));
            }
            if last.is_some() {
                out.push(',');
            }
            write(out, name)?;
            out.push(':');
            out.push_str(value);
            last = Some(name);
        }
        out.push('}');
        Ok(())
    }

    fn array(&mut self, out: &mut String, depth: u32) -> Result<(), String> {
        self.skip(b'[');
        out.push('[');
        let mut is_first = true;
        while !self.skip(b']') {
            self.skip(b',');
            if !is_first {
                out.push(',');
            }
            is_first = false;
            self.value(out, depth + 1)?;
        }
        out.push(']');
        Ok(())
    }

    fn string(&mut self) -> Result<String, String> {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.peek().filter(|byte| *byte != b'"') {
            self.at += if byte == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
        serde_json::from_str(self.since(start)).map_err(|error| format!("a string in it is no text: {error}"))
    }

    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }
}

/// `serde_json` escapes what must be escaped and nothing else.
fn write(out: &mut String, text: &str) -> Result<(), String> {
    out.push_str(&serde_json::to_string(text).map_err(|error| error.to_string())?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p2_order_and_white_space_do_not_matter() {
        let one = canonical(r#" { "b" : [ 1 , {"y":null,"x":true} , "ä" ] , "a" : {} , "c":[] } "#).unwrap();
        assert_eq!(one, r#"{"a":{},"b":[1,{"x":true,"y":null},"ä"],"c":[]}"#);
        assert_eq!(canonical(&one), Ok(one.clone()));
    }

    #[test]
    fn p2_numbers_stay_as_they_are_written() {
        let text = r#"{"a":1.0,"b":12345678901234567890.12345678901234567890,"c":1e400,"d":-0}"#;
        assert_eq!(canonical(text).as_deref(), Ok(text));
    }

    /// The example of RFC 8785, section 3.2.3.
    #[test]
    fn p2_names_are_sorted_by_utf16() {
        let text = r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#;
        let numbers: String = canonical(text).unwrap().chars().filter(char::is_ascii_digit).collect();
        assert_eq!(
            numbers,
            "2".to_owned() + "1" + "4" + "6" + "7" + "1" + "5" + "3",
            "names and values in their order"
        );
    }

    #[test]
    fn p2_what_is_no_definition_is_refused() {
        for (text, what) in [
            ("{", "not JSON"),
            ("", "not JSON"),
            ("{} {}", "not JSON"),
            ("[1]", "not a JSON object"),
            ("3", "not a JSON object"),
            (r#"{"a":1,"b":2,"\u0061":3}"#, "twice"),
            (r#"{"a":"\ud800"}"#, "no"),
        ] {
            let refused = canonical(text).unwrap_err();
            assert!(refused.contains(what), "{text}: {refused}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(canonical(&deep).is_err());
    }
}
