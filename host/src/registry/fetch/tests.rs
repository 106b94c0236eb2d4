use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::api::plugin::PluginSpec;
use crate::registry::signature::testing::Signer;

const WASM: &[u8] = b"\0asm and so on";

/// A fetcher without a cluster, and the folder that its cache and files are in.
fn fetcher(folder: &Path, policy: Policy) -> Fetcher {
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let cluster = Arc::new(Cluster::new(kube::Client::try_from(config).unwrap(), None));
    Fetcher::new(cluster, policy, folder.join("cache"))
}

fn spec(folder: &Path, signature: Option<Value>) -> PluginSpec {
    let path = folder.join("a.wasm");
    let spec = json!({ "source": { "file": { "path": path } }, "digest": digest_of(WASM), "signature": signature });
    serde_json::from_value(spec).unwrap()
}

async fn get(fetcher: &Fetcher, spec: &PluginSpec) -> Result<Vec<u8>, (&'static str, &'static str)> {
    let component = fetcher.component("p", &Named::plugin(&VersionSpec::of(spec)), &[]).await;
    component.map(|component| component.wasm).map_err(|failure| (failure.step, failure.reason))
}

fn keys(signers: &[&Signer]) -> Option<Value> {
    let keys: Vec<Value> = signers.iter().map(|signer| json!({ "pem": signer.pem() })).collect();
    Some(json!({ "keys": keys }))
}

#[tokio::test]
async fn a_signature_is_checked_again_whenever_a_component_comes_from_the_cache() {
    let (folder, signer, other) = (tempfile::tempdir().unwrap(), Signer::new(), Signer::new());
    let (folder, file) = (folder.path(), folder.path().join("a.wasm"));
    let fetcher = fetcher(folder, Policy::default());
    std::fs::write(&file, WASM).unwrap();
    let signed = spec(folder, keys(&[&other, &signer]));
    assert_eq!(get(&fetcher, &signed).await, Err(("Verified", "Unsigned")));
    let signature = STANDARD.encode(signer.sign(WASM));
    std::fs::write(folder.join("a.wasm.sig"), signature).unwrap();
    assert_eq!(get(&fetcher, &signed).await.as_deref(), Ok(WASM));
    // the source is gone: what is kept does, for keys that have signed it and for no others
    std::fs::remove_file(&file).unwrap();
    assert_eq!(get(&fetcher, &signed).await.as_deref(), Ok(WASM));
    assert_eq!(get(&fetcher, &spec(folder, None)).await.as_deref(), Ok(WASM));
    assert_eq!(get(&fetcher, &spec(folder, keys(&[&other]))).await, Err(("Fetched", "NotFound")));
    // what was changed on the disk is no longer what it is called
    std::fs::write(fetcher.path(&digest_of(WASM), "wasm"), b"\0asm and more").unwrap();
    assert_eq!(get(&fetcher, &signed).await, Err(("Fetched", "NotFound")));
}

#[tokio::test]
async fn a_signature_in_the_record_does_as_well_and_another_component_is_refused() {
    let (folder, signer) = (tempfile::tempdir().unwrap(), Signer::new());
    let fetcher = fetcher(folder.path(), Policy::default());
    std::fs::write(folder.path().join("a.wasm"), WASM).unwrap();
    let with = |signed: &[u8]| {
        let mut policy = keys(&[&signer]).unwrap();
        policy["detached"] = json!(STANDARD.encode(signer.sign(signed)));
        spec(folder.path(), Some(policy))
    };
    assert_eq!(get(&fetcher, &with(b"another")).await, Err(("Verified", "SignatureInvalid")));
    assert_eq!(get(&fetcher, &with(WASM)).await.as_deref(), Ok(WASM));
    std::fs::write(folder.path().join("a.wasm"), b"another").unwrap();
    let another = PluginSpec { digest: Some(digest_of(b"more")), ..with(WASM) };
    assert_eq!(get(&fetcher, &another).await, Err(("Verified", "DigestMismatch")));
}

#[tokio::test]
async fn a_record_can_ask_for_more_than_the_host_but_not_for_less() {
    let (folder, host, record) = (tempfile::tempdir().unwrap(), Signer::new(), Signer::new());
    let (folder, key) = (folder.path(), folder.path().join("host.pub"));
    std::fs::write(folder.join("a.wasm"), WASM).unwrap();
    std::fs::write(&key, host.pem()).unwrap();
    let sign = |signer: &Signer| {
        std::fs::write(folder.join("a.wasm.sig"), STANDARD.encode(signer.sign(WASM))).unwrap();
    };

    let any_key = fetcher(folder, Policy::new(true, vec![], &[]).unwrap());
    assert_eq!(get(&any_key, &spec(folder, None)).await, Err(("Verified", "SignatureRequired")));
    sign(&record);
    assert_eq!(get(&any_key, &spec(folder, keys(&[&record]))).await.as_deref(), Ok(WASM));
    // what one host has accepted is nothing to another
    std::fs::remove_dir_all(folder.join("cache")).unwrap();

    let own_key = fetcher(folder, Policy::new(false, vec![], &[key]).unwrap());
    assert_eq!(get(&own_key, &spec(folder, None)).await, Err(("Verified", "SignatureInvalid")));
    assert_eq!(get(&own_key, &spec(folder, keys(&[&record]))).await, Err(("Verified", "SignatureInvalid")));
    sign(&host);
    assert_eq!(get(&own_key, &spec(folder, None)).await.as_deref(), Ok(WASM));
    assert_eq!(get(&own_key, &spec(folder, keys(&[&host]))).await.as_deref(), Ok(WASM));
    assert_eq!(get(&own_key, &spec(folder, keys(&[&record]))).await, Err(("Verified", "SignatureInvalid")));
}

#[tokio::test]
async fn a_source_that_the_host_does_not_allow_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.wasm"), WASM).unwrap();
    let fetcher = fetcher(folder.path(), Policy::new(false, vec!["oci://r.example/team".into()], &[]).unwrap());
    assert_eq!(get(&fetcher, &spec(folder.path(), None)).await, Err(("Fetched", "SourceNotAllowed")));
}

#[tokio::test]
async fn keys_that_are_none_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let fetcher = fetcher(folder.path(), Policy::default());
    std::fs::write(folder.path().join("a.wasm"), WASM).unwrap();
    let spec = spec(folder.path(), Some(json!({ "keys": [{ "pem": "nonsense" }] })));
    let failure = fetcher.component("p", &Named::plugin(&VersionSpec::of(&spec)), &[]).await.err().unwrap();
    assert_eq!((failure.step, failure.reason, failure.transient), ("Verified", "InvalidKey", false));
    assert!(failure.message.starts_with("spec.signature.keys[0] must be a public key"), "{}", failure.message);
}
