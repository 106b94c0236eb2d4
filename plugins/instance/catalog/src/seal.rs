//! Secrets at rest: sealed for one row, under a key of a ring.
//!
//! A sealed text is `1, length of the key's id, the key's id, nonce (24 bytes), ciphertext and tag`, by
//! XChaCha20-Poly1305. Associated data are all bytes before the nonce, the table and the row, so that a sealed text that is
//! moved to another row does not open. Nonces are random: with 24 bytes that is safe for any number of texts.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{Key, KeyInit as _, XChaCha20Poly1305, XNonce};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// The form of sealed texts that this code writes.
const VERSION: u8 = 1;

/// Bytes of a key, and of a nonce.
const KEY: usize = 32;
const NONCE: usize = 24;

/// The longest id of a key.
const MAX_ID: usize = 32;

/// Why something cannot be sealed or opened, or a file of keys is wrong. Never tells a key or a plain text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A line of the file of keys; lines count from 1.
    #[error("line {line} of the file of keys: {why}")]
    Line {
        /// Which one.
        line: usize,
        /// What is wrong with it and what it should be.
        why: &'static str,
    },
    /// The file of keys has none.
    #[error("the file of keys has no key: write one with `transom-catalog key ID`")]
    NoKey,
    /// Sealed under a key that is not in the file.
    #[error("sealed under the key {0}, which is not in the file of keys: put it back as the last line")]
    UnknownKey(String),
    /// Not a sealed text, not of this row, or changed.
    #[error("does not open: it is damaged or belongs to another row")]
    Damaged,
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes")]
    Random,
}

/// What a text is sealed for.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// The secrets of an instance.
    Instance(uuid::Uuid),
    /// The request of an idempotency key, by user and key.
    Request(&'a str, &'a str),
}

impl Place<'_> {
    /// Different for any two places: each part comes with its length.
    fn bytes(&self) -> Vec<u8> {
        let parts: [&[u8]; 3] = match self {
            Self::Instance(id) => [b"deployment_instance", id.as_bytes(), b""],
            Self::Request(user, key) => [b"idempotency_key", user.as_bytes(), key.as_bytes()],
        };
        parts.iter().flat_map(|part| [&(part.len() as u64).to_be_bytes(), *part].concat()).collect()
    }
}

struct Entry {
    id: String,
    cipher: XChaCha20Poly1305,
}

/// Keys: the first seals, all open.
pub struct Keyring {
    first: Entry,
    others: Vec<Entry>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries().map(|entry| &entry.id)).finish()
    }
}

impl Keyring {
    /// From a file with one key a line, `ID BASE64`, the one that seals first. Empty lines and those that start with `#`
    /// are left out.
    ///
    /// # Errors
    ///
    /// Names the line that is wrong.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let mut entries: Vec<Entry> = Vec::new();
        for (line, text) in lines.filter(|(_, text)| !text.is_empty() && !text.starts_with('#')) {
            let wrong = |why| Error::Line { line, why };
            let (id, key) = text.split_once(char::is_whitespace).ok_or(wrong("must be an id, a space and a key"))?;
            check_id(id).map_err(wrong)?;
            if entries.iter().any(|entry| entry.id == id) {
                return Err(wrong("has the id of an earlier line"));
            }
            let key = Zeroizing::new(STANDARD.decode(key.trim()).map_err(|_| wrong("the key must be base64"))?);
            let key: &[u8; KEY] = key.as_slice().try_into().map_err(|_| wrong("the key must have 32 bytes"))?;
            entries.push(Entry { id: id.to_owned(), cipher: XChaCha20Poly1305::new(&Key::from(*key)) });
        }
        let mut entries = entries.into_iter();
        Ok(Self { first: entries.next().ok_or(Error::NoKey)?, others: entries.collect() })
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The id of the key that seals.
    #[must_use]
    pub fn current(&self) -> &str {
        &self.first.id
    }

    /// Seals for one place.
    ///
    /// # Errors
    ///
    /// When there are no random bytes.
    pub fn seal(&self, place: Place<'_>, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let id = self.first.id.as_bytes();
        let length = u8::try_from(id.len()).map_err(|_| Error::Damaged)?;
        let mut sealed = [&[VERSION, length], id].concat();
        let aad = [sealed.as_slice(), &place.bytes()].concat();
        let mut nonce = [0; NONCE];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Error::Random)?;
        let payload = Payload { msg: plain, aad: &aad };
        let text = self.first.cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| Error::Damaged)?;
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&text);
        Ok(sealed)
    }

    /// Opens what was sealed for that place.
    ///
    /// # Errors
    ///
    /// When it is something else, or its key is not there.
    pub fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (head, id, rest) = parts(sealed).ok_or(Error::Damaged)?;
        let known = self.entries().find(|entry| entry.id.as_bytes() == id);
        let entry = known.ok_or_else(|| Error::UnknownKey(String::from_utf8_lossy(id).into_owned()))?;
        let (nonce, text) = rest.split_first_chunk::<NONCE>().ok_or(Error::Damaged)?;
        let aad = [head, &place.bytes()].concat();
        let payload = Payload { msg: text, aad: &aad };
        entry.cipher.decrypt(&XNonce::from(*nonce), payload).map(Zeroizing::new).map_err(|_| Error::Damaged)
    }

    /// Whether it is sealed under the key that seals now.
    #[must_use]
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        parts(sealed).is_some_and(|(_, id, _)| id == self.first.id.as_bytes())
    }
}

/// What comes before the nonce, the key's id in it, and the rest.
fn parts(sealed: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&[VERSION, length], _) = sealed.split_first_chunk()? else { return None };
    let (head, rest) = sealed.split_at_checked(2 + usize::from(length))?;
    Some((head, head.get(2..)?, rest))
}

fn check_id(id: &str) -> Result<(), &'static str> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    match !id.is_empty() && id.len() <= MAX_ID && id.chars().all(is_plain) {
        true => Ok(()),
        false => Err("the id must be 1 to 32 of a-z, 0-9, '.' and '-'"),
    }
}

/// A line for the file of keys, with a new key.
///
/// # Errors
///
/// When the id is wrong, or there are no random bytes.
pub fn new_line(id: &str) -> Result<Zeroizing<String>, Error> {
    check_id(id).map_err(|why| Error::Line { line: 1, why })?;
    let mut key = Zeroizing::new([0; KEY]);
    SystemRandom::new().fill(key.as_mut_slice()).map_err(|_| Error::Random)?;
    Ok(Zeroizing::new(format!("{id} {}", *Zeroizing::new(STANDARD.encode(key.as_slice())))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn line(id: &str) -> String {
        new_line(id).unwrap().to_string()
    }

    #[test]
    fn a_sealed_text_opens_in_its_row_only() {
        let ring = Keyring::parse(&line("a")).unwrap();
        let (here, there) = (Uuid::now_v7(), Uuid::now_v7());
        let sealed = ring.seal(Place::Instance(here), b"hidden").unwrap();
        assert_eq!(ring.open(Place::Instance(here), &sealed).unwrap().as_slice(), b"hidden");
        assert_eq!(ring.open(Place::Instance(there), &sealed), Err(Error::Damaged));
        let (one, other) = (Place::Request("ab", "c"), Place::Request("a", "bc"));
        let sealed = ring.seal(one, b"hidden").unwrap();
        assert_eq!(ring.open(other, &sealed), Err(Error::Damaged));
        assert!(!sealed.windows(6).any(|window| window == b"hidden"));
        assert_ne!(ring.seal(one, b"hidden").unwrap(), sealed, "a nonce of its own");
    }

    #[test]
    fn any_changed_or_missing_byte_is_noticed() {
        let ring = Keyring::parse(&line("a")).unwrap();
        let place = Place::Instance(Uuid::now_v7());
        let sealed = ring.seal(place, b"hidden").unwrap();
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert!(ring.open(place, &changed).is_err(), "byte {index}");
            assert!(ring.open(place, &sealed[..index]).is_err(), "the first {index} bytes");
        }
    }

    #[test]
    fn old_keys_open_and_the_first_one_seals() {
        let (old, new) = (line("2026-01"), line("2026-11"));
        let place = Place::Instance(Uuid::now_v7());
        let sealed = Keyring::parse(&old).unwrap().seal(place, b"hidden").unwrap();
        let both = Keyring::parse(&format!("# newest first\n{new}\n\n{old}\n")).unwrap();
        assert!(!both.is_current(&sealed));
        let again = both.seal(place, &both.open(place, &sealed).unwrap()).unwrap();
        assert!(both.is_current(&again));
        let only_new = Keyring::parse(&new).unwrap();
        assert_eq!(only_new.open(place, &again).unwrap().as_slice(), b"hidden");
        assert_eq!(only_new.open(place, &sealed), Err(Error::UnknownKey("2026-01".into())));
    }

    #[test]
    fn wrong_files_of_keys_are_refused_by_line() {
        let wrong = |text: &str| Keyring::parse(text).unwrap_err().to_string();
        assert_eq!(wrong("# nothing\n"), Error::NoKey.to_string());
        assert_eq!(wrong("\nonly-an-id"), "line 2 of the file of keys: must be an id, a space and a key");
        assert_eq!(wrong("a c2hvcnQ="), "line 1 of the file of keys: the key must have 32 bytes");
        assert!(wrong("A? AA==").starts_with("line 1 of the file of keys: the id must be"));
        let twice = line("a");
        assert!(wrong(&format!("{twice}\n{twice}")).ends_with("has the id of an earlier line"));
        assert!(!format!("{:?}", Keyring::parse(&twice).unwrap()).contains(&twice[2..]));
    }
}
