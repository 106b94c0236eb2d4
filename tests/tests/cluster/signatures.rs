//! Signatures by the real cosign and by `transom plugin sign`, each verified by the other.

use std::path::Path;

use serde_json::{Value, json};
use transom_tests::sample::Plugin;
use transom_tests::{
    Component, Output, Registry, TestCluster, component, condition, condition_of, cosign, of, transom_as, unique,
    up_to_date,
};

use crate::sources::{oci, push, secrets};

/// A key pair of cosign with an empty password.
async fn keys(registry: &Registry, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    cosign(registry, folder, &["generate-key-pair"]).await.succeeded();
}

fn public(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("cosign.pub")).unwrap()
}

async fn cosign_sign(registry: &Registry, folder: &Path, reference: &str, is_bundle: bool) {
    let form = format!("--new-bundle-format={is_bundle}");
    let offline = ["--tlog-upload=false", "--use-signing-config=false", &form];
    let arguments = [&["sign", "-y", "--key", "cosign.key"][..], &offline, &[reference]].concat();
    cosign(registry, folder, &arguments).await.succeeded();
}

async fn cosign_verify(registry: &Registry, folder: &Path, reference: &str, is_bundle: bool) -> Output {
    let form = format!("--new-bundle-format={is_bundle}");
    let arguments = ["verify", "--key", "cosign.pub", "--insecure-ignore-tlog=true", &form, reference];
    cosign(registry, folder, &arguments).await
}

async fn sign(registry: &Registry, folder: &Path, reference: &str, form: &str) {
    let (ca, key) = (registry.ca().display().to_string(), folder.join("cosign.key").display().to_string());
    let arguments = ["plugin", "sign", reference, "--key", &key, "--ca", &ca, "--format", form];
    transom_as(registry, &arguments).await.succeeded();
}

#[tokio::test]
async fn cosign_verifies_what_transom_signs_in_both_forms() {
    let (registry, folder) = (Registry::start_with_tls().await, tempfile::tempdir().unwrap());
    keys(&registry, folder.path()).await;
    keys(&registry, &folder.path().join("other")).await;
    let good = component("hostile").await;
    for (form, is_bundle) in [("bundle", true), ("legacy", false)] {
        let digest = push(&registry, &good, &format!("team/{form}:1")).await;
        let reference = format!("{}/team/{form}@{digest}", registry.authority);
        assert_ne!(cosign_verify(&registry, folder.path(), &reference, is_bundle).await.code, Some(0), "unsigned");
        sign(&registry, folder.path(), &reference, form).await;
        cosign_verify(&registry, folder.path(), &reference, is_bundle).await.succeeded();
        let other = cosign_verify(&registry, &folder.path().join("other"), &reference, is_bundle).await;
        assert_ne!(other.code, Some(0), "another key");
    }
}

#[tokio::test]
async fn only_a_version_that_the_key_has_signed_is_let_in() {
    let (ns, folder) = (TestCluster::shared().await.namespace("signatures").await, tempfile::tempdir().unwrap());
    let (registry, folder) = (Registry::start_with_tls().await, folder.path());
    secrets(&ns, &registry).await;
    let _host = ns.host().await;
    let (own, other) = (folder.join("own"), folder.join("other"));
    keys(&registry, &own).await;
    keys(&registry, &other).await;
    let good = component("hostile").await;
    let version = |salt: &str| -> Component { unique(&good, salt, &tempfile::tempdir().unwrap().keep()) };
    let one = version("one");
    let at = |tag: &str| format!("{}/team/{tag}", registry.authority);
    let spec = |tag: &str| -> Value {
        json!({ "source": oci(&ns, &at(tag)), "signature": { "keys": [{ "pem": public(&own) }] } })
    };

    // Unsigned; once it is signed it is taken by itself.
    push(&registry, &one, "team/app:1").await;
    let record = ns.record("hostile", spec("app:1")).await;
    let record = ns.wait_for(&record, condition("Verified", "False").because("Unsigned")).await;
    cosign_sign(&registry, &own, &at("app:1"), true).await;
    let mut record = ns.wait_for(&record, up_to_date()).await;
    assert_eq!(record["status"]["digest"], one.digest);

    // Signed by somebody else.
    push(&registry, &version("two"), "team/app:2").await;
    cosign_sign(&registry, &other, &at("app:2"), true).await;
    cosign_sign(&registry, &other, &at("app:2"), false).await;
    // A signature of another artefact, copied to where that of this one belongs.
    let three = push(&registry, &version("three"), "team/app:3").await;
    let four = push(&registry, &version("four"), "team/app:4").await;
    cosign_sign(&registry, &own, &at("app:4"), false).await;
    let tag = |digest: &str| format!("{}.sig", digest.replace(':', "-"));
    registry.copy("team/app", &tag(&four), &tag(&three)).await;
    for (version, said) in [("app:2", "another key"), ("app:3", "it is a signature of")] {
        record = ns.merge(&record, json!({ "spec": spec(version) })).await;
        record = ns.wait_for(&record, condition("Verified", "False").because("SignatureInvalid")).await;
        let message = condition_of(&record, "Verified")["message"].as_str().unwrap().to_owned();
        assert!(message.contains(said), "{message}");
        assert_eq!(record["status"]["digest"], one.digest, "{version}");
    }
    // The older form, by cosign; and a bundle by transom.
    for (tag, form) in [("app:4", None), ("app:5", Some("bundle"))] {
        if let Some(form) = form {
            push(&registry, &version("five"), &format!("team/{tag}")).await;
            sign(&registry, &own, &at(tag), form).await;
        }
        record = ns.merge(&record, json!({ "spec": spec(tag) })).await;
        record = ns.wait_for(&record, up_to_date()).await;
        assert_ne!(record["status"]["digest"], one.digest);
    }
}

/// Without `--yes` nothing is done, and all the same it is known whether a host would let it in.
#[tokio::test]
async fn a_dry_look_checks_the_signature_as_a_host_would() {
    let (ns, folder) = (TestCluster::shared().await.namespace("dry").await, tempfile::tempdir().unwrap());
    let (registry, folder) = (Registry::start_with_tls().await, folder.path());
    let _host = ns.host().await;
    let (own, other) = (folder.join("own"), folder.join("other"));
    keys(&registry, &own).await;
    keys(&registry, &other).await;
    let (ca, name) = (registry.ca().display().to_string(), format!("hostile-{}", ns.name));
    let one = unique(&component("hostile").await, "dry", folder);
    push(&registry, &one, "team/dry:1").await;
    let reference = format!("{}/team/dry:1", registry.authority);
    let look = async |what: &str, key: Option<&Path>| -> Output {
        let key = key.map(|key| key.join("cosign.pub").display().to_string());
        let mut arguments = vec!["plugin", "install", what, "--name", &name, "--ca", &ca];
        arguments.extend(key.iter().flat_map(|key| ["--key", key]));
        let output = transom_as(&registry, &arguments).await;
        assert_eq!(output.code, Some(1), "nothing was done");
        output
    };
    let refused = "no host would let this version serve: ";
    let unsigned = look(&reference, Some(&own)).await;
    assert!(unsigned.stdout.contains("# signature: Unsigned: ") && unsigned.stderr.contains(refused), "{unsigned:?}");
    sign(&registry, &own, &reference, "bundle").await;
    let valid = look(&reference, Some(&own)).await;
    assert!(valid.stdout.contains("# signature: valid, by the key") && !valid.stderr.contains(refused), "{valid:?}");
    let wrong = look(&reference, Some(&other)).await;
    assert!(wrong.stderr.contains(refused) && wrong.stderr.contains("SignatureInvalid"), "{wrong:?}");
    assert!(look(&reference, None).await.stdout.contains("# signature: not asked for"));

    // an upgrade that names no key asks for the one that was named before
    let install = async |key: &[&str]| {
        let arguments = ["plugin", "install", &reference, "--name", &name, "--ca", &ca, "--no-wait", "--yes"];
        transom_as(&registry, &[&arguments[..], key].concat()).await.succeeded()
    };
    let (public_key, label) = (own.join("cosign.pub").display().to_string(), ns.selector());
    install(&["--key", &public_key, "--label", &label]).await;
    install(&[]).await;
    let record = ns.get(of::<Plugin>(&name)).await;
    assert_eq!(record["spec"]["signature"]["keys"][0]["pem"], json!(public(&own)), "{record:#}");
    assert!(look(&reference, None).await.stdout.contains("# signature: valid, by the key"));
    ns.delete(&record).await;
    ns.wait_gone(&record).await;

    // the record says who must have signed, and somebody else has written that
    let keys = json!({ "keys": [{ "pem": public(&other) }] });
    ns.record("hostile", json!({ "source": oci(&ns, &reference), "signature": keys })).await;
    let wrong = look(&reference, None).await;
    assert!(wrong.stderr.contains(refused) && wrong.stderr.contains("SignatureInvalid"), "{wrong:?}");
    // a file has its signature beside it
    let file = one.path.display().to_string();
    assert!(look(&file, Some(&own)).await.stdout.contains("# signature: Unsigned: "));
    let key = own.join("cosign.key").display().to_string();
    transom_as(&registry, &["plugin", "sign", &file, "--key", &key]).await.succeeded();
    let valid = look(&file, Some(&own)).await;
    assert!(valid.stdout.contains("# signature: valid"), "{valid:?}");
}
