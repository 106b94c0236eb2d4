//! A key pair, and signatures by it in each form.

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

use super::*;

pub(crate) struct Signer {
    pair: EcdsaKeyPair,
    pub(crate) key: VerifyingKey,
}

impl Signer {
    pub(crate) fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let key = VerifyingKey::from_point(pair.public_key().as_ref());
        Self { pair, key }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    pub(crate) fn bundle(&self, manifest: &str) -> Signature {
        let unsigned = Unsigned::new(manifest);
        Signature::Bundle(unsigned.bundle(&self.key, &self.sign(&unsigned.message())))
    }

    pub(crate) fn simple(&self, manifest: &str) -> Signature {
        let payload = simple_payload("r.example/app", manifest);
        let signature = STANDARD.encode(self.sign(payload.as_bytes()));
        Signature::Simple { payload, signature }
    }

    pub(crate) fn detached(&self, component: &[u8]) -> Signature {
        Signature::Detached(STANDARD.encode(self.sign(component)))
    }

    /// The public key as PEM.
    pub(crate) fn pem(&self) -> String {
        let der = [&P256_PREFIX, self.key.point.as_slice()].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }
}
