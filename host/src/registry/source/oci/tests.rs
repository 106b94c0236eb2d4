use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn layer(kind: &str, digit: char) -> Value {
    json!({ "mediaType": kind, "digest": format!("sha256:{}", digit.to_string().repeat(64)), "size": 3 })
}

fn manifest(layers: &[Value]) -> String {
    json!({ "schemaVersion": 2, "layers": layers }).to_string()
}

fn index(texts: &[(&str, &str)]) -> String {
    let entry = |(text, architecture): &(&str, &str)| json!({ "digest": digest_of(text.as_bytes()), "size": text.len(), "platform": { "architecture": architecture } });
    json!({ "schemaVersion": 2, "manifests": texts.iter().map(entry).collect::<Vec<_>>() }).to_string()
}

#[test]
fn a_manifest_or_an_index_with_one_for_wasm_leads_to_the_component() {
    let manifest = manifest(&[layer(LAYER_TYPE, 'a')]);
    let chain = Chain::follow(std::slice::from_ref(&manifest)).unwrap();
    assert_eq!((chain.digests.len(), chain.layer.digest), (1, format!("sha256:{}", "a".repeat(64))));
    let index = index(&[("other", "amd64"), (&manifest, "wasm")]);
    let chain = Chain::follow(&[index.clone(), manifest.clone()]).unwrap();
    assert_eq!(chain.digests, [digest_of(index.as_bytes()), digest_of(manifest.as_bytes())]);
}

/// The digests are what holds the texts together: another manifest behind a signed index is refused.
#[test]
fn a_manifest_that_the_index_does_not_name_is_refused() {
    let (good, bad) = (manifest(&[layer(LAYER_TYPE, 'a')]), manifest(&[layer(LAYER_TYPE, 'b')]));
    let error = Chain::follow(&[index(&[(&good, "wasm")]), bad]).unwrap_err();
    assert_eq!(error.reason, "NotWasm");
    assert!(error.message.contains("is not the manifest that the index names"), "{}", error.message);
    assert!(Chain::follow(&[index(&[(&good, "wasm")])]).is_err(), "an index alone is no component");
    assert!(Chain::follow(&[]).is_err());
}

#[rstest]
#[case::image(manifest(&[layer("application/vnd.oci.image.layer.v1.tar+gzip", 'a')]), "no Wasm artifact")]
#[case::two_components(manifest(&[layer(LAYER_TYPE, 'a'), layer(LAYER_TYPE, 'b')]), "no Wasm artifact")]
#[case::no_digest(manifest(&[json!({ "mediaType": LAYER_TYPE, "digest": "sha256:../x" })]), "no Wasm artifact")]
#[case::no_layers("{}".into(), "no Wasm artifact")]
#[case::no_json("nonsense".into(), "no manifest")]
#[case::two_for_wasm(index(&[("a", "wasm"), ("b", "wasm")]), "no single manifest for wasm")]
fn what_is_no_component_is_refused(#[case] text: String, #[case] said: &str) {
    let error = Chain::follow(&[text]).unwrap_err();
    assert_eq!(error.reason, "NotWasm");
    assert!(error.message.contains(said), "{}", error.message);
}
