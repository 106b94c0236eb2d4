//! Who signed what: cosign's signatures with a key, checked without any network.
//!
//! Three forms are read. The bundle of cosign 3 (`sigstore/protobuf-specs: protos/sigstore_bundle.proto`) holds a DSSE
//! envelope around an in-toto statement whose subject is the manifest. The older form is a layer with a JSON text that names
//! the manifest, and the signature in an annotation. A detached signature is over the component itself.
//!
//! A signature counts only when a trusted key made it *and* what it says is about the very digest that was pulled: one of
//! another artefact, and an attestation (a statement of another type by the same key), are none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// `SubjectPublicKeyInfo` of an uncompressed point on P-256 up to the point (RFC 5480).
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// What a signature, rather than an attestation, states (`sigstore/cosign: pkg/types/predicate.go`).
pub(crate) const PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// Media type of a DSSE payload that is an in-toto statement.
const IN_TOTO: &str = "application/vnd.in-toto+json";
/// Of the older form (`sigstore/sigstore: pkg/signature/payload`).
const SIMPLE_TYPE: &str = "cosign container image signature";
/// Media type of a bundle.
pub(crate) const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Media type of the older form's layer, and the annotation with its signature.
pub(crate) const SIMPLE_LAYER: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
pub(crate) const SIMPLE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// A trusted public key, ECDSA on P-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VerifyingKey {
    point: Vec<u8>,
}

impl VerifyingKey {
    /// From PEM, as cosign and openssl write it.
    ///
    /// # Errors
    /// What it should be.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, String> {
        let form = "must be a public key in PEM (-----BEGIN PUBLIC KEY-----), ECDSA on P-256, as cosign writes it";
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| form.to_owned())?;
        match der.as_ref().strip_prefix(&P256_PREFIX) {
            Some(point) if point.len() == 65 => Ok(Self { point: point.to_vec() }),
            _ => Err(form.to_owned()),
        }
    }

    /// The key to the private one that signs.
    pub(super) fn from_point(point: &[u8]) -> Self {
        Self { point: point.to_vec() }
    }

    /// As cosign names keys in bundles: base64 of the digest of the whole key.
    pub(super) fn hint(&self) -> String {
        use sha2::Digest as _;
        STANDARD.encode(sha2::Sha256::digest([&P256_PREFIX, self.point.as_slice()].concat()))
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).verify(message, signature).is_ok()
    }
}

/// A signature as it was found, before anything is believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Signature {
    /// The text of a bundle.
    Bundle(String),
    /// Payload as text, signature in base64.
    Simple {
        /// What is signed.
        payload: String,
        /// By whom is not said.
        signature: String,
    },
    /// Over the component: base64, or the text of a bundle with a message signature.
    Detached(String),
}

/// What must have been signed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// Digests of the manifest, and of the index that lists it: a signature of either is one of the component. Empty for
    /// a component that came from no registry.
    pub(crate) manifests: &'a [String],
    /// Its bytes.
    pub(crate) component: &'a [u8],
}

/// Why no signature counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Is one of the signatures by one of the keys, and about the subject?
///
/// # Errors
/// `Unsigned` without any signature, else `SignatureInvalid` with what is wrong with each kind.
pub(crate) fn verify(keys: &[VerifyingKey], subject: &Subject<'_>, found: &[Signature]) -> Result<(), Refusal> {
    let mut wrongs: Vec<String> = Vec::new();
    for signature in found {
        match signature.check(keys, subject) {
            Ok(()) => return Ok(()),
            Err(wrong) if !wrongs.contains(&wrong) => wrongs.push(wrong),
            Err(_) => {}
        }
    }
    if found.is_empty() {
        return Err(Refusal { reason: "Unsigned", message: "there is no signature".into() });
    }
    let count = if found.len() == 1 { "the signature".into() } else { format!("none of {} signatures", found.len()) };
    let verb = if found.len() == 1 { "does not count" } else { "counts" };
    wrongs.truncate(4);
    Err(Refusal { reason: "SignatureInvalid", message: format!("{count} {verb}: {}", wrongs.join("; ")) })
}

const WRONG_KEY: &str = "it was made with another key, or what was signed has been altered";

impl Signature {
    fn check(&self, keys: &[VerifyingKey], subject: &Subject<'_>) -> Result<(), String> {
        match self {
            Self::Simple { payload, signature } => {
                let signature = decode(signature).ok_or("it is not base64")?;
                by_one_of(keys, payload.as_bytes(), &signature)?;
                simple_subject(payload, subject)
            }
            Self::Bundle(text) => {
                let Bundle { envelope, .. } = parse(text)?;
                let envelope = envelope.ok_or("the bundle has no DSSE envelope")?;
                if envelope.payload_type != IN_TOTO {
                    return Err(format!("its payload is {:?}, not {IN_TOTO}", envelope.payload_type));
                }
                let payload = decode(&envelope.payload).ok_or("its payload is not base64")?;
                let message = pre_authentication_encoding(&envelope.payload_type, &payload);
                let signed = |one: &EnvelopeSignature| {
                    decode(&one.sig).is_some_and(|sig| by_one_of(keys, &message, &sig).is_ok())
                };
                if !envelope.signatures.iter().any(signed) {
                    return Err(WRONG_KEY.into());
                }
                statement_subject(&payload, subject)
            }
            Self::Detached(text) => {
                if !subject.manifests.is_empty() {
                    return Err("it is detached, but the component is in a registry".into());
                }
                let text = text.trim();
                let signature = if text.starts_with('{') {
                    let message = parse(text)?.message.ok_or("the bundle signs no file")?;
                    decode(&message.signature)
                } else {
                    decode(text)
                };
                by_one_of(keys, subject.component, &signature.ok_or("it is not base64")?)
            }
        }
    }
}

fn by_one_of(keys: &[VerifyingKey], message: &[u8], signature: &[u8]) -> Result<(), String> {
    if keys.iter().any(|key| key.verifies(message, signature)) { Ok(()) } else { Err(WRONG_KEY.into()) }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.trim()).ok()
}

fn parse(bundle: &str) -> Result<Bundle, String> {
    serde_json::from_str(bundle).map_err(|error| format!("the bundle cannot be read: {error}"))
}

/// What DSSE signs (`secure-systems-lab/dsse: protocol.md`).
fn pre_authentication_encoding(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

#[derive(Deserialize)]
struct Bundle {
    #[serde(rename = "dsseEnvelope", default)]
    envelope: Option<Envelope>,
    #[serde(rename = "messageSignature", default)]
    message: Option<MessageSignature>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    #[serde(default)]
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

#[derive(Deserialize)]
struct MessageSignature {
    signature: String,
}

fn statement_subject(payload: &[u8], subject: &Subject<'_>) -> Result<(), String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Statement {
        #[serde(rename = "_type")]
        kind: String,
        predicate_type: String,
        #[serde(default)]
        subject: Vec<StatementSubject>,
    }
    #[derive(Deserialize)]
    struct StatementSubject {
        digest: std::collections::BTreeMap<String, String>,
    }
    let statement: Statement =
        serde_json::from_slice(payload).map_err(|error| format!("its statement cannot be read: {error}"))?;
    if statement.kind != STATEMENT || statement.predicate_type != PREDICATE {
        return Err(format!("it is an attestation ({}), not a signature", statement.predicate_type));
    }
    let digests = || statement.subject.iter().filter_map(|one| one.digest.get("sha256"));
    let is_it = |hex: &String| subject.manifests.iter().any(|digest| digest.strip_prefix("sha256:") == Some(hex));
    if digests().any(is_it) {
        return Ok(());
    }
    let others: Vec<String> = digests().take(3).map(|hex| format!("sha256:{hex}")).collect();
    Err(another(&others.join(", "), subject))
}

fn simple_subject(payload: &str, subject: &Subject<'_>) -> Result<(), String> {
    let payload: serde_json::Value =
        serde_json::from_str(payload).map_err(|error| format!("what was signed cannot be read: {error}"))?;
    let text = |path: &str| payload.pointer(path).and_then(serde_json::Value::as_str).unwrap_or_default();
    if text("/critical/type") != SIMPLE_TYPE {
        return Err(format!("what was signed is no image but {:?}", text("/critical/type")));
    }
    let digest = text("/critical/image/docker-manifest-digest");
    if subject.manifests.iter().any(|manifest| manifest == digest) { Ok(()) } else { Err(another(digest, subject)) }
}

fn another(signed: &str, subject: &Subject<'_>) -> String {
    format!("it is a signature of {signed}, not of {}", subject.manifests.join(" or "))
}

/// What the older form signs.
pub(super) fn simple_payload(repository: &str, manifest: &str) -> String {
    json!({
        "critical": {
            "identity": { "docker-reference": repository },
            "image": { "docker-manifest-digest": manifest },
            "type": SIMPLE_TYPE,
        },
        "optional": null,
    })
    .to_string()
}

/// What a bundle signs, and the bundle once it is signed.
pub(super) struct Unsigned {
    payload: Vec<u8>,
}

impl Unsigned {
    /// For a manifest's digest.
    pub(super) fn new(manifest: &str) -> Self {
        let hex = manifest.trim_start_matches("sha256:");
        let statement = json!({
            "_type": STATEMENT, "subject": [{ "digest": { "sha256": hex } }], "predicateType": PREDICATE, "predicate": {},
        });
        Self { payload: statement.to_string().into_bytes() }
    }

    /// What the key signs.
    pub(super) fn message(&self) -> Vec<u8> {
        pre_authentication_encoding(IN_TOTO, &self.payload)
    }

    /// The bundle's text.
    pub(super) fn bundle(&self, key: &VerifyingKey, signature: &[u8]) -> String {
        json!({
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": { "publicKey": { "hint": key.hint() } },
            "dsseEnvelope": {
                "payload": STANDARD.encode(&self.payload), "payloadType": IN_TOTO,
                "signatures": [{ "sig": STANDARD.encode(signature) }],
            },
        })
        .to_string()
    }
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
