//! Private keys, and what is signed with them: for the command line, never in the host.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_secretbox::aead::{Aead, KeyInit};
use crypto_secretbox::{Key, Nonce, XSalsa20Poly1305};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

use super::signature::{Signature, Unsigned, VerifyingKey, simple_payload};

/// ECDSA on P-256.
pub(crate) struct SigningKey {
    pair: EcdsaKeyPair,
}

/// How cosign writes a key (`secure-systems-lab/go-securesystemslib: encrypted/encrypted.go`).
#[derive(Deserialize)]
struct Encrypted {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Deserialize)]
struct Kdf {
    name: String,
    params: Scrypt,
    salt: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scrypt {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

impl SigningKey {
    /// From PEM: `cosign.key` with its password, or PKCS #8 as openssl writes it.
    ///
    /// # Errors
    /// What the file should be, or that the password is wrong.
    pub(crate) fn from_pem(pem: &str, password: &str) -> Result<Self, String> {
        let form = "is no private key: it must be cosign.key, or PKCS #8 in PEM (openssl genpkey -algorithm EC -pkeyopt \
                    ec_paramgen_curve:P-256)";
        let encrypted = ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"];
        let der = match encrypted.into_iter().find_map(|label| section(pem, label)) {
            Some(body) => decrypt(&STANDARD.decode(body).map_err(|_| form)?, password)?,
            None => PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| form)?.secret_pkcs8_der().to_vec(),
        };
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der, &SystemRandom::new());
        Ok(Self { pair: pair.map_err(|_| "is a key of another kind: it must be ECDSA on P-256")? })
    }

    /// Its public part.
    pub(crate) fn public(&self) -> VerifyingKey {
        VerifyingKey::from_point(self.pair.public_key().as_ref())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        Ok(signature.map_err(|_| "the system has no random bytes")?.as_ref().to_vec())
    }

    /// The text of a bundle for a manifest.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub(crate) fn bundle(&self, manifest: &str) -> Result<String, String> {
        let unsigned = Unsigned::new(manifest);
        Ok(unsigned.bundle(&self.public(), &self.sign(&unsigned.message())?))
    }

    /// Payload and signature in the older form.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub(crate) fn simple(&self, repository: &str, manifest: &str) -> Result<(String, String), String> {
        let payload = simple_payload(repository, manifest);
        let signature = STANDARD.encode(self.sign(payload.as_bytes())?);
        Ok((payload, signature))
    }

    /// The signature of a file.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub(crate) fn detached(&self, file: &[u8]) -> Result<Signature, String> {
        Ok(Signature::Detached(STANDARD.encode(self.sign(file)?)))
    }
}

/// What is between the lines of a label, without line breaks.
fn section(pem: &str, label: &str) -> Option<String> {
    let (_, rest) = pem.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    Some(body.split_whitespace().collect())
}

fn decrypt(json: &[u8], password: &str) -> Result<Vec<u8>, String> {
    let unreadable = || "is no key that cosign wrote".to_owned();
    let Encrypted { kdf, cipher, ciphertext } = serde_json::from_slice(json).map_err(|_| unreadable())?;
    let Scrypt { n, r, p } = kdf.params;
    // the three strengths that cosign knows: others could take any time and memory
    let is_known = [1 << 15, 1 << 16, 1 << 17].contains(&n) && (r, p) == (8, 1);
    if kdf.name != "scrypt" || cipher.name != "nacl/secretbox" || !is_known {
        return Err(unreadable());
    }
    let decode = |text: &str| STANDARD.decode(text).map_err(|_| unreadable());
    let log_n = u8::try_from(n.ilog2()).map_err(|_| unreadable())?;
    let params = scrypt::Params::new(log_n, r, p).map_err(|_| unreadable())?;
    let mut key = [0; 32];
    scrypt::scrypt(password.as_bytes(), &decode(&kdf.salt)?, &params, &mut key).map_err(|_| unreadable())?;
    let nonce = decode(&cipher.nonce)?;
    if nonce.len() != 24 {
        return Err(unreadable());
    }
    let opened = XSalsa20Poly1305::new(Key::from_slice(&key))
        .decrypt(Nonce::from_slice(&nonce), decode(&ciphertext)?.as_slice());
    opened.map_err(|_| "cannot be opened with this password (COSIGN_PASSWORD)".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::signature::{Subject, verify};

    /// By `cosign generate-key-pair` 3.1.3 with the password `secret`.
    const COSIGN_KEY: &str = include_str!("signing/cosign.key");
    const COSIGN_PUB: &str = include_str!("signing/cosign.pub");
    /// By `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`.
    const OPENSSL_KEY: &str = include_str!("signing/openssl.key");

    #[test]
    fn a_key_of_cosign_is_opened_with_its_password_and_fits_its_public_key() {
        let key = SigningKey::from_pem(COSIGN_KEY, "secret").unwrap();
        assert_eq!(key.public(), VerifyingKey::from_pem(COSIGN_PUB).unwrap());
        let error = SigningKey::from_pem(COSIGN_KEY, "wrong").err().unwrap();
        assert_eq!(error, "cannot be opened with this password (COSIGN_PASSWORD)");
        assert!(SigningKey::from_pem(COSIGN_PUB, "").err().unwrap().starts_with("is no private key"));
    }

    #[test]
    fn what_is_signed_with_a_key_of_openssl_is_verified_in_every_form() {
        let key = SigningKey::from_pem(OPENSSL_KEY, "").unwrap();
        let (manifest, wasm) = (format!("sha256:{}", "a".repeat(64)), b"wasm".as_slice());
        let (payload, signature) = key.simple("r.example/app", &manifest).unwrap();
        let in_registry = [Signature::Bundle(key.bundle(&manifest).unwrap()), Signature::Simple { payload, signature }];
        let manifests = [manifest];
        for one in in_registry {
            let subject = Subject { manifests: &manifests, component: wasm };
            assert_eq!(verify(&[key.public()], &subject, &[one]), Ok(()));
        }
        let subject = Subject { manifests: &[], component: wasm };
        assert_eq!(verify(&[key.public()], &subject, &[key.detached(wasm).unwrap()]), Ok(()));
    }

    #[test]
    fn a_key_that_would_take_for_ever_to_open_is_refused() {
        let strong = serde_json::json!({
            "kdf": { "name": "scrypt", "params": { "N": 1u64 << 30, "r": 8, "p": 1 }, "salt": "AAAA" },
            "cipher": { "name": "nacl/secretbox", "nonce": "AAAA" }, "ciphertext": "AAAA",
        });
        assert_eq!(decrypt(strong.to_string().as_bytes(), "").unwrap_err(), "is no key that cosign wrote");
    }
}
