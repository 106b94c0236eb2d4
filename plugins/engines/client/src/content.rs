//! Contents that a plugin names and does not hold: so a chart of many megabytes fits into a plugin of few.
//!
//! With [`BY_HANDLE`] in front of a glob of `artifact-query.include`, the host answers with a handle in the place of a
//! file's content. Files of requests ([`crate::File`]) and packaged charts may be such handles: `encode` names them in
//! the input, and the host puts the contents there before the engine gets it.

/// In front of a glob of `artifact-query.include`: files that match it come by handle.
pub const BY_HANDLE: &str = "content-handle:";

/// All files by handle, as a glob.
pub const ALL_BY_HANDLE: &str = "content-handle:**";

/// How an input of parts begins. As the length of a header it would be more than any input has.
const MAGIC: &[u8] = b"transom-parts/1\n";

const LITERAL: u8 = 0;
const HANDLE: u8 = 1;

/// Bytes by what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle<'a> {
    /// SHA-256 in hexadecimal digits.
    pub sha256: &'a str,
    /// How many bytes.
    pub size: usize,
}

impl<'a> Handle<'a> {
    /// Reads what stands in the place of a content; none when it is the content itself.
    #[must_use]
    pub fn parse(content: &'a [u8]) -> Option<Self> {
        let rest = std::str::from_utf8(content).ok()?.strip_prefix("transom-content:sha256:")?;
        let (sha256, size) = rest.split_once(':')?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let handle = Self { sha256, size: size.parse().ok()? };
        (sha256.len() == 64 && sha256.bytes().all(is_digit)).then_some(handle)
    }
}

/// How many bytes a content has, whether it is here or named by a handle.
#[must_use]
pub fn size(content: &[u8]) -> usize {
    Handle::parse(content).map_or(content.len(), |handle| handle.size)
}

/// One input of several blobs, some of which may be handles.
pub(crate) fn concat(blobs: &[&[u8]]) -> Vec<u8> {
    if blobs.iter().all(|blob| Handle::parse(blob).is_none()) {
        return blobs.concat();
    }
    let mut input = MAGIC.to_vec();
    let mut literal = Vec::new();
    for blob in blobs {
        if Handle::parse(blob).is_none() {
            literal.extend_from_slice(blob);
            continue;
        }
        part(&mut input, LITERAL, &literal);
        literal.clear();
        part(&mut input, HANDLE, blob);
    }
    part(&mut input, LITERAL, &literal);
    input
}

fn part(input: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    input.push(kind);
    // inputs are at most 16 MiB
    input.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    input.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(size: usize) -> String {
        format!("transom-content:sha256:{}:{size}", "0f".repeat(32))
    }

    #[test]
    fn a_handle_says_how_large_its_content_is() {
        assert_eq!(size(handle(12_000_000).as_bytes()), 12_000_000);
        assert_eq!(size(b"name: a"), 7);
        for other in ["transom-content:sha256:0f:1", "transom-content:", &handle(1).replace("0f0f", "0F0F")] {
            assert_eq!(size(other.as_bytes()), other.len(), "{other}");
        }
    }

    #[test]
    fn an_input_without_handles_is_one_after_the_other_and_one_with_handles_has_parts() {
        assert_eq!(concat(&[b"one", b"", b"two"]), b"onetwo");
        let handle = handle(3);
        let mut expected = b"transom-parts/1\n".to_vec();
        expected.extend([0, 6, 0, 0, 0]);
        expected.extend(b"onetwo");
        expected.extend([1, u8::try_from(handle.len()).unwrap(), 0, 0, 0]);
        expected.extend(handle.as_bytes());
        expected.extend([0, 4, 0, 0, 0]);
        expected.extend(b"four");
        assert_eq!(concat(&[b"one", b"two", handle.as_bytes(), b"four"]), expected);
    }
}
