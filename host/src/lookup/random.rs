//! Bytes that look random and never change for a primary: HKDF (RFC 5869) of its UID and a label under a key of the
//! host's, which is in a Secret that the host makes when there is none.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value as Json, json};
use tokio::sync::OnceCell;

use super::client::failed;
use crate::control::cluster::{ApiError, Cluster};
use crate::plan::contract::{Answer, ObjectRef, TypeMeta, Value};

/// Name of the Secret in the host's namespace, and the field in it.
const SECRET: &str = "transom-random-key";
const FIELD: &str = "key";

/// As long as the output of SHA-256: more adds nothing (RFC 2104, 3).
const KEY_BYTES: usize = 32;

const MANAGER: &str = "transom";
const MAX_LABEL: usize = 64;
const MAX_LENGTH: u32 = 1_024;

/// Never shown.
struct Key(Vec<u8>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// The host's key, read when it is first needed.
pub(super) struct Random {
    namespace: String,
    key: OnceCell<Key>,
}

impl Random {
    pub(super) fn new(namespace: String) -> Self {
        Self { namespace, key: OnceCell::new() }
    }

    /// Bytes for a primary.
    pub(super) async fn answer(&self, cluster: &Cluster, uid: &str, label: &str, length: u32) -> Answer {
        if label.chars().count() > MAX_LABEL || !(1..=MAX_LENGTH).contains(&length) {
            let message = format!("a label of at most {MAX_LABEL} characters and a length of 1 to {MAX_LENGTH}");
            return failed("InvalidArgument", message);
        }
        if uid.is_empty() {
            return failed("Unavailable", "the object has no UID");
        }
        match self.key.get_or_try_init(|| self.load(cluster)).await {
            Ok(key) => Answer::Found(Value::Bytes(derive(&key.0, uid, label, length as usize))),
            Err(message) => failed("KeyUnavailable", message),
        }
    }

    async fn load(&self, cluster: &Cluster) -> Result<Key, String> {
        load(cluster, &self.namespace).await
    }
}

/// A key for one purpose of the host itself, derived from its key; `purpose` as no primary has it for a UID.
///
/// # Errors
/// Why the Secret can neither be read nor made.
pub(crate) async fn host_key(cluster: &Cluster, namespace: &str, purpose: &str) -> Result<[u8; KEY_BYTES], String> {
    let key = load(cluster, namespace).await?;
    let bytes = derive(&key.0, "the host itself", purpose, KEY_BYTES);
    bytes.try_into().map_err(|_| "a key of the wrong length".to_owned())
}

async fn load(cluster: &Cluster, namespace: &str) -> Result<Key, String> {
    let reference =
        ObjectRef { kind: TypeMeta::new("v1", "Secret"), namespace: namespace.to_owned(), name: SECRET.into() };
    let at = format!("the Secret {namespace}/{SECRET} with the host's key");
    let failed = |error: ApiError| format!("{at}: {error}");
    if let Some(secret) = cluster.get(&reference).await.map_err(failed)? {
        return read(&secret.value()).map_err(|what| format!("{at} {what}"));
    }
    let mut fresh = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut fresh).map_err(|_| "the system has no random bytes".to_owned())?;
    let body = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
        "metadata": {"name": SECRET, "namespace": namespace},
        "data": {FIELD: STANDARD.encode(fresh)},
    });
    match cluster.apply_new(&reference, MANAGER, &body).await {
        Ok(_) => {}
        Err(error) if error.code() == 409 => {} // another host was faster: its key counts
        Err(error) => return Err(failed(error)),
    }
    let secret = cluster.get(&reference).await.map_err(failed)?.ok_or_else(|| format!("{at} is gone again"))?;
    read(&secret.value()).map_err(|what| format!("{at} {what}"))
}

fn read(secret: &Json) -> Result<Key, &'static str> {
    let text = secret.get("data").and_then(|data| data.get(FIELD)).and_then(Json::as_str);
    let key = text.and_then(|text| STANDARD.decode(text).ok()).ok_or("has no field key")?;
    if key.len() < KEY_BYTES { Err("is too short: it must be 32 bytes or more") } else { Ok(Key(key)) }
}

/// HKDF-Expand with the UID and the label as `info`; the key is uniformly random, so there is nothing to extract.
fn derive(key: &[u8], uid: &str, label: &str, length: usize) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut out = Vec::with_capacity(length + 32);
    let mut block: Vec<u8> = Vec::new();
    for counter in 1..=u8::MAX {
        if out.len() >= length {
            break;
        }
        let mut mac = hmac::Context::with_key(&key);
        mac.update(&block);
        // the length keeps the end of the UID from being read as the start of the label
        mac.update(&(uid.len() as u64).to_be_bytes());
        mac.update(uid.as_bytes());
        mac.update(label.as_bytes());
        mac.update(&[counter]);
        block = mac.sign().as_ref().to_vec();
        out.extend_from_slice(&block);
    }
    out.truncate(length);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_same_for_ever_and_others_for_another_primary_label_or_key() {
        let key = [7; KEY_BYTES];
        let bytes = derive(&key, "uid-1", "password", 48);
        // computed with another program; every password that was ever derived changes with it
        let hex: String = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "4ee576b55ce2184d");
        assert_eq!(bytes, derive(&key, "uid-1", "password", 48));
        assert_ne!(bytes, derive(&key, "uid-2", "password", 48));
        assert_ne!(bytes, derive(&key, "uid-1", "other", 48));
        assert_ne!(bytes, derive(&key, "uid-1p", "assword", 48));
        assert_ne!(bytes, derive(&[8; KEY_BYTES], "uid-1", "password", 48));
    }

    proptest::proptest! {
        #[test]
        fn a_longer_value_begins_with_the_shorter(length in 1usize..=1_024) {
            let long = derive(&[1; KEY_BYTES], "u", "l", 1_024);
            proptest::prop_assert_eq!(derive(&[1; KEY_BYTES], "u", "l", length), long[..length].to_vec());
        }
    }

    #[test]
    fn the_key_is_never_shown() {
        assert_eq!(format!("{:?}", Key(vec![1, 2, 3])), "Key(…)");
    }

    #[test]
    fn a_key_that_is_no_key_is_refused() {
        assert!(read(&json!({"data": {"key": STANDARD.encode([1; 31])}})).is_err());
        assert!(read(&json!({"data": {"key": "!"}})).is_err());
        assert!(read(&json!({"data": {}})).is_err());
    }
}
