use rstest::rstest;
use serde_json::Value;

use super::testing::Signer;
use super::*;

fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

fn is_signed(key: &VerifyingKey, manifests: &[String], found: &[Signature]) -> Result<(), Refusal> {
    verify(std::slice::from_ref(key), &Subject { manifests, component: b"wasm" }, found)
}

#[test]
fn each_form_counts_for_the_digest_that_it_names_and_for_no_other() {
    let signer = Signer::new();
    for signature in [signer.bundle(&digest('a')), signer.simple(&digest('a'))] {
        assert_eq!(is_signed(&signer.key, &[digest('a')], std::slice::from_ref(&signature)), Ok(()));
        assert_eq!(is_signed(&signer.key, &[digest('c'), digest('a')], std::slice::from_ref(&signature)), Ok(()));
        let refusal = is_signed(&signer.key, &[digest('b')], &[signature]).unwrap_err();
        let message =
            format!("the signature does not count: it is a signature of {}, not of {}", digest('a'), digest('b'));
        assert_eq!(refusal, Refusal { reason: "SignatureInvalid", message });
    }
    assert_eq!(is_signed(&signer.key, &[], &[signer.detached(b"wasm")]), Ok(()));
    assert_eq!(is_signed(&signer.key, &[], &[signer.detached(b"other")]).unwrap_err().reason, "SignatureInvalid");
}

#[test]
fn another_key_counts_for_nothing_and_one_good_signature_among_bad_ones_is_enough() {
    let (good, other) = (Signer::new(), Signer::new());
    let manifests = [digest('a')];
    for signature in [other.bundle(&digest('a')), other.simple(&digest('a')), other.detached(b"wasm")] {
        assert_eq!(is_signed(&good.key, &manifests, &[signature]).unwrap_err().reason, "SignatureInvalid");
    }
    let many = [other.bundle(&digest('a')), Signature::Bundle("{".into()), good.simple(&digest('a'))];
    assert_eq!(is_signed(&good.key, &manifests, &many), Ok(()));
    assert_eq!(is_signed(&good.key, &manifests, &[]).unwrap_err().reason, "Unsigned");
    // one key of several
    let keys = [other.key.clone(), good.key.clone()];
    let subject = Subject { manifests: &manifests, component: b"" };
    assert_eq!(verify(&keys, &subject, &[good.bundle(&digest('a'))]), Ok(()));
}

/// The signer may state other things about a component, such as the findings of a scanner; these let nothing in.
#[test]
fn an_attestation_is_no_signature() {
    let signer = Signer::new();
    let statement = json!({
        "_type": STATEMENT, "subject": [{ "digest": { "sha256": "a".repeat(64) } }],
        "predicateType": "https://cosign.sigstore.dev/attestation/vuln/v1", "predicate": {},
    });
    let unsigned = Unsigned { payload: statement.to_string().into_bytes() };
    let bundle = Signature::Bundle(unsigned.bundle(&signer.key, &signer.sign(&unsigned.message())));
    let refusal = is_signed(&signer.key, &[digest('a')], &[bundle]).unwrap_err();
    assert!(refusal.message.contains("it is an attestation"), "{}", refusal.message);
}

/// Every byte of what is signed matters, in each form.
#[test]
fn whatever_is_changed_afterwards_breaks_the_signature() {
    let signer = Signer::new();
    let Signature::Bundle(text) = signer.bundle(&digest('a')) else { unreachable!() };
    let mut bundle: Value = serde_json::from_str(&text).unwrap();
    bundle["dsseEnvelope"]["payload"] = json!(STANDARD.encode(Unsigned::new(&digest('b')).payload));
    let moved = Signature::Bundle(bundle.to_string());
    assert!(is_signed(&signer.key, &[digest('b')], &[moved]).unwrap_err().message.contains(WRONG_KEY));
    let Signature::Simple { payload, signature } = signer.simple(&digest('a')) else { unreachable!() };
    let payload = payload.replace(&digest('a'), &digest('b'));
    let moved = Signature::Simple { payload, signature };
    assert!(is_signed(&signer.key, &[digest('b')], &[moved]).unwrap_err().message.contains(WRONG_KEY));
}

/// A signature of a file says nothing about who may push it under a name.
#[test]
fn a_detached_signature_does_not_count_in_a_registry() {
    let signer = Signer::new();
    let refusal = is_signed(&signer.key, &[digest('a')], &[signer.detached(b"wasm")]).unwrap_err();
    assert!(refusal.message.contains("detached"), "{}", refusal.message);
}

#[rstest]
#[case::not_json(Signature::Bundle("{".into()), "cannot be read")]
#[case::no_envelope(Signature::Bundle("{}".into()), "no DSSE envelope")]
#[case::no_base64(Signature::Simple { payload: "{}".into(), signature: "!".into() }, "not base64")]
#[case::detached_nonsense(Signature::Detached("!".into()), "detached")]
fn nonsense_is_refused_with_what_is_wrong(#[case] signature: Signature, #[case] said: &str) {
    let refusal = is_signed(&Signer::new().key, &[digest('a')], &[signature]).unwrap_err();
    assert_eq!(refusal.reason, "SignatureInvalid");
    assert!(refusal.message.contains(said), "{}", refusal.message);
}

#[rstest]
#[case::empty("")]
#[case::no_pem("key")]
#[case::private("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")]
#[case::another_curve(
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"
)]
fn what_is_no_key_is_refused_with_the_form(#[case] pem: &str) {
    assert!(VerifyingKey::from_pem(pem).unwrap_err().starts_with("must be a public key in PEM"));
}

proptest::proptest! {
    #[test]
    fn any_text_is_checked_without_a_panic_and_never_counts(text: String, other: String) {
        let key = VerifyingKey::from_point(&[4; 65]);
        let found = [
            Signature::Bundle(text.clone()),
            Signature::Simple { payload: text.clone(), signature: other },
            Signature::Detached(text),
        ];
        proptest::prop_assert!(is_signed(&key, &[digest('a')], &found).is_err());
        proptest::prop_assert!(is_signed(&key, &[], &found).is_err());
    }
}
