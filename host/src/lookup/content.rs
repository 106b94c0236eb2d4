//! Contents of files that plugins name and do not hold.
//!
//! # Flow
//! A plugin that asks for an artifact can put `content-handle:` before a glob of `include`: files that match it come with
//! a handle in the place of their content, `transom-content:sha256:<hex>:<size>`. An engine's input that begins with
//! [`MAGIC`] consists of parts, each of them bytes or a handle; the engine gets one after the other, the contents in the
//! place of the handles. So the bytes of a chart go from the registry to the engine, and not through the plugin.
//!
//! # Guarantees
//! A handle is good for the primary that was answered with it, for as long as its plan rests on that answer: nobody gets
//! at contents by their digest. It names exactly the bytes that were there, so the same input stays the same input.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::client::failed;
use crate::plan::contract::{Answer, Value};
use crate::plan::glob;

/// Contents in memory. What is over is fetched again, from the disk as a rule, when an engine is to run with it.
const MAX_KEPT_BYTES: usize = 64 << 20;

/// How an engine's input with handles begins.
pub(super) const MAGIC: &[u8] = b"transom-parts/1\n";

/// What an engine gets, with contents in the place of handles: a whole artifact, and what else belongs to it.
const MAX_INPUT: usize = 24 << 20;

const LITERAL: u8 = 0;
const HANDLE: u8 = 1;

/// In front of a glob.
const BY_HANDLE: &str = "content-handle:";

/// SHA-256.
pub(super) type ContentDigest = [u8; 32];

/// Which files of an artifact are wanted, and how.
pub(super) struct Include {
    whole: Vec<String>,
    by_handle: Vec<String>,
}

impl Include {
    pub(super) fn new(include: &[String]) -> Self {
        let (by_handle, whole): (Vec<&String>, Vec<&String>) =
            include.iter().partition(|glob| glob.starts_with(BY_HANDLE));
        let by_handle =
            by_handle.into_iter().filter_map(|glob| Some(glob.strip_prefix(BY_HANDLE)?.to_owned())).collect();
        Self { whole: whole.into_iter().cloned().collect(), by_handle }
    }

    /// All globs; none for all files.
    pub(super) fn globs(&self) -> Vec<String> {
        self.whole.iter().chain(&self.by_handle).cloned().collect()
    }

    /// What is wanted both ways comes whole.
    fn is_whole(&self, path: &str) -> bool {
        self.by_handle.is_empty() || self.whole.iter().any(|pattern| glob::matches(pattern, path))
    }
}

/// Bytes by what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Handle {
    pub(super) digest: ContentDigest,
    size: usize,
}

impl Handle {
    fn of(content: &[u8]) -> Self {
        Self { digest: Sha256::digest(content).into(), size: content.len() }
    }

    fn text(&self) -> String {
        let mut text = "transom-content:sha256:".to_owned();
        for byte in self.digest {
            let _ = write!(text, "{byte:02x}");
        }
        let _ = write!(text, ":{}", self.size);
        text
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let rest = std::str::from_utf8(text).ok()?.strip_prefix("transom-content:sha256:")?;
        let (hex, size) = rest.split_once(':')?;
        let mut digest = [0; 32];
        if hex.len() != digest.len() * 2 {
            return None;
        }
        for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        let handle = Self { digest, size: size.parse().ok()? };
        (handle.text().as_bytes() == text).then_some(handle)
    }
}

/// The handles that an answer gives to who asks for these files. What comes whole is a tenant's own text, even when it
/// looks like a handle.
pub(super) fn handed_out(include: &[String], answer: &Answer) -> Vec<Handle> {
    let include = Include::new(include);
    match answer {
        Answer::Found(Value::Files(files)) => {
            let by_handle = files.iter().filter(|(path, _)| !include.is_whole(path));
            by_handle.filter_map(|(_, content)| Handle::parse(content)).collect()
        }
        _ => Vec::new(),
    }
}

/// One piece of an engine's input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Literal(&'a [u8]),
    Content(Handle),
}

/// The pieces of an engine's input; none when it has no handles and is given to the engine as it is.
pub(super) fn parts(input: &[u8]) -> Result<Option<Vec<Part<'_>>>, Answer> {
    let Some(mut rest) = input.strip_prefix(MAGIC) else { return Ok(None) };
    let wrong = |what: &str| failed("InvalidArgument", format!("an engine's input in parts: {what}"));
    let (mut parts, mut size) = (Vec::new(), 0usize);
    while let Some((kind, after)) = rest.split_first() {
        let (length, after) = after.split_first_chunk::<4>().ok_or_else(|| wrong("ends within a length"))?;
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (bytes, after) = after.split_at_checked(length).ok_or_else(|| wrong("ends within a part"))?;
        let part = match *kind {
            LITERAL => Part::Literal(bytes),
            HANDLE => Part::Content(Handle::parse(bytes).ok_or_else(|| wrong("what should be a handle is none"))?),
            _ => return Err(wrong("a part is neither bytes nor a handle")),
        };
        size = size.saturating_add(match &part {
            Part::Literal(bytes) => bytes.len(),
            Part::Content(handle) => handle.size,
        });
        parts.push(part);
        rest = after;
    }
    if size > MAX_INPUT {
        return Err(failed("TooLarge", format!("an input of {size} bytes with all contents, at most {MAX_INPUT}")));
    }
    Ok(Some(parts))
}

/// The handles in these pieces, each once.
pub(super) fn handles(parts: &[Part<'_>]) -> Vec<Handle> {
    let mut handles = Vec::new();
    for part in parts {
        if let Part::Content(handle) = part
            && !handles.contains(handle)
        {
            handles.push(*handle);
        }
    }
    handles
}

/// The input as the engine gets it.
pub(super) fn join(parts: &[Part<'_>], contents: &HashMap<ContentDigest, Arc<[u8]>>) -> Result<Vec<u8>, Answer> {
    let mut input = Vec::new();
    for part in parts {
        match part {
            Part::Literal(bytes) => input.extend_from_slice(bytes),
            Part::Content(handle) => match contents.get(&handle.digest) {
                Some(content) if content.len() == handle.size => input.extend_from_slice(content),
                _ => return Err(gone(handle)),
            },
        }
    }
    Ok(input)
}

/// The answer where bytes can no longer be had. The plugin gets other handles as soon as the artifact is looked at again.
pub(super) fn gone(handle: &Handle) -> Answer {
    failed("ContentGone", format!("{} is no longer where it came from: it is fetched again", handle.text()))
}

#[derive(Default)]
struct Inner {
    kept: HashMap<ContentDigest, (Arc<[u8]>, Instant)>,
    bytes: usize,
}

/// Contents that were given out as handles, the latest ones.
#[derive(Default)]
pub(super) struct Contents(Mutex<Inner>);

impl Contents {
    /// The files of an artifact as the plugin is answered, the contents of those that it gets by handle kept here.
    pub(super) fn hand_out(&self, include: &Include, files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Value {
        let hand_out = |(path, content): (String, Vec<u8>)| {
            if include.is_whole(&path) {
                return (path, content);
            }
            let handle = Handle::of(&content);
            self.put(handle.digest, content.into());
            (path, handle.text().into_bytes())
        };
        Value::Files(files.into_iter().map(hand_out).collect())
    }

    pub(super) fn get(&self, digest: &ContentDigest) -> Option<Arc<[u8]>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (content, used) = inner.kept.get_mut(digest)?;
        *used = Instant::now();
        Some(content.clone())
    }

    fn put(&self, digest: ContentDigest, content: Arc<[u8]>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let size = content.len();
        match inner.kept.insert(digest, (content, Instant::now())) {
            Some(_) => return,
            None => inner.bytes += size,
        }
        if inner.bytes <= MAX_KEPT_BYTES {
            return;
        }
        // down to three quarters, so that this is seldom
        let mut by_use: Vec<(Instant, ContentDigest)> = inner
            .kept
            .iter()
            .filter(|(other, _)| **other != digest)
            .map(|(other, (_, used))| (*used, *other))
            .collect();
        by_use.sort_unstable();
        for (_, oldest) in by_use {
            if inner.bytes <= MAX_KEPT_BYTES / 4 * 3 {
                break;
            }
            if let Some((content, _)) = inner.kept.remove(&oldest) {
                inner.bytes -= content.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn globs(list: &[&str]) -> Include {
        Include::new(&list.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn input(parts: &[(u8, &[u8])]) -> Vec<u8> {
        let mut input = MAGIC.to_vec();
        for (kind, bytes) in parts {
            input.push(*kind);
            input.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
            input.extend(*bytes);
        }
        input
    }

    #[test]
    fn files_come_whole_or_by_handle_as_they_were_asked_for() {
        let contents = Contents::default();
        let files = || [("Chart.yaml".to_owned(), b"name: a".to_vec()), ("t/a.yaml".to_owned(), b"a: 1".to_vec())];
        let Value::Files(given) = contents.hand_out(&globs(&["Chart.yaml", "content-handle:**"]), files()) else {
            panic!("no files");
        };
        assert_eq!(given[0].1, b"name: a", "wanted both ways");
        let handle = Handle::parse(&given[1].1).unwrap();
        assert_eq!((handle.size, contents.get(&handle.digest).as_deref()), (4, Some(b"a: 1".as_slice())));
        assert_eq!(contents.hand_out(&globs(&[]), files()), Value::Files(files().into()));
        assert_eq!(globs(&["a", "content-handle:b/**"]).globs(), ["a", "b/**"]);
    }

    #[test]
    fn a_file_whose_text_is_a_handle_gives_nothing() {
        let contents = Contents::default();
        let include = ["Chart.yaml".to_owned(), "content-handle:t/**".to_owned()];
        let stolen = Handle::of(b"of somebody else").text().into_bytes();
        let files = ["Chart.yaml", "t/a"].map(|path| (path.to_owned(), stolen.clone()));
        let answer = Answer::Found(contents.hand_out(&Include::new(&include), files));
        assert_eq!(handed_out(&include, &answer), [Handle::of(&stolen)], "that of the file itself");
        assert_eq!(handed_out(&["**".into()], &answer), []);
    }

    #[test]
    fn an_engine_gets_contents_in_the_place_of_handles() {
        let handle = Handle::of(b"two");
        let text = handle.text();
        let input = input(&[(LITERAL, b"one "), (HANDLE, text.as_bytes()), (LITERAL, b""), (LITERAL, b" three")]);
        let parts = parts(&input).unwrap().unwrap();
        assert_eq!(handles(&parts), [handle]);
        let contents = HashMap::from([(handle.digest, Arc::from(b"two".as_slice()))]);
        assert_eq!(join(&parts, &contents), Ok(b"one two three".to_vec()));
        assert!(matches!(join(&parts, &HashMap::new()), Err(Answer::Failed(p)) if p.reason == "ContentGone"));
        assert_eq!(super::parts(b"plain"), Ok(None));
    }

    #[rstest]
    #[case::kind(&[(2, b"x".as_slice())])]
    #[case::no_handle(&[(HANDLE, b"transom-content:sha256:00:1".as_slice())])]
    #[case::not_hexadecimal(&[(HANDLE, b"transom-content:sha256:+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0:1".as_slice())])]
    fn parts_that_are_none_are_refused(#[case] wrong: &[(u8, &[u8])]) {
        assert!(matches!(parts(&input(wrong)), Err(Answer::Failed(p)) if p.reason == "InvalidArgument"));
    }

    #[test]
    fn an_input_is_bounded_by_what_it_is_with_its_contents() {
        let whole = input(&[(LITERAL, b"abc")]);
        for cut in MAGIC.len() + 1..whole.len() {
            assert!(parts(&whole[..cut]).is_err(), "{cut}");
        }
        let large = Handle { digest: [0; 32], size: MAX_INPUT / 2 + 1 }.text();
        let twice = input(&[(HANDLE, large.as_bytes()), (HANDLE, large.as_bytes())]);
        assert!(matches!(parts(&twice), Err(Answer::Failed(p)) if p.reason == "TooLarge"));
        let endless = Handle { digest: [0; 32], size: usize::MAX }.text();
        let twice = input(&[(HANDLE, endless.as_bytes()), (HANDLE, endless.as_bytes())]);
        assert!(matches!(parts(&twice), Err(Answer::Failed(p)) if p.reason == "TooLarge"));
    }

    #[test]
    fn memory_is_bounded_and_the_latest_stay() {
        let contents = Contents::default();
        for i in 0..10u8 {
            contents.put([i; 32], vec![i; 16 << 20].into());
            assert!(contents.0.lock().unwrap().bytes <= MAX_KEPT_BYTES);
        }
        assert!(contents.get(&[9; 32]).is_some() && contents.get(&[0; 32]).is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_input_is_read_without_a_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..512)) {
            let _ = parts(&[MAGIC, &bytes].concat());
        }
    }
}
