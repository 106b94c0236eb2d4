//! Components from a real registry, with TLS and a password.

use serde_json::{Value, json};
use transom_tests::{
    Component, HostOptions, Namespace, Registry, TestCluster, component, condition, condition_of, of, sample,
    transom_as, transom_with_cluster, unique, up_to_date, variant,
};

/// The Secrets with which hosts reach the registry.
pub(crate) async fn secrets(ns: &Namespace, registry: &Registry) {
    let secret = |name: &str, data: Value| json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": data });
    ns.create(secret("login", Registry::login())).await;
    let ca = std::fs::read_to_string(registry.ca()).unwrap();
    ns.create(secret("ca", json!({ "ca.crt": ca }))).await;
}

/// `spec.source` of a reference.
pub(crate) fn oci(ns: &Namespace, reference: &str) -> Value {
    let secret = |name: &str| json!({ "namespace": ns.name, "name": name });
    json!({ "oci": { "reference": reference, "credentials": secret("login"), "ca": secret("ca") } })
}

/// Pushes a component. Returns the digest of its manifest.
pub(crate) async fn push(registry: &Registry, component: &Component, tag: &str) -> String {
    let (file, ca) = (component.path.display().to_string(), registry.ca().display().to_string());
    let arguments = ["plugin", "push", &file, &format!("{}/{tag}", registry.authority), "--ca", &ca];
    let printed = transom_as(registry, &arguments).await.printed();
    printed.trim().split_once('@').expect("a reference with a digest").1.to_owned()
}

#[tokio::test]
async fn versions_come_by_tag_and_digest_and_the_one_that_serves_survives_every_failure() {
    let (ns, folder) = (TestCluster::shared().await.namespace("sources").await, tempfile::tempdir().unwrap());
    let registry = Registry::start_with_tls().await;
    secrets(&ns, &registry).await;
    let cache_dir = Some(folder.path().join("cache"));
    let host = ns.host_with(HostOptions { cache_dir: cache_dir.clone(), ..HostOptions::default() }).await;
    let good = component("hostile").await;
    let version = |salt: &str| unique(&good, salt, &tempfile::tempdir().unwrap().keep());
    let (one, two) = (version("one"), version("two"));
    let first = push(&registry, &one, "team/hostile:1").await;
    let at = |which: &str| oci(&ns, &format!("{}/team/hostile{which}", registry.authority));

    let record = ns.record("hostile", json!({ "source": at(":1") })).await;
    let record = ns.wait_for(&record, up_to_date()).await;
    let status = &record["status"];
    assert_eq!((&status["digest"], &status["sources"][0]["manifest"]), (&json!(one.digest), &json!(first)));

    // The tag moves: nothing changes, whatever else is edited, until somebody says so.
    let second = push(&registry, &two, "team/hostile:1").await;
    let record = ns.merge(&record, json!({ "spec": { "limits": { "children": 7 } } })).await;
    let record = ns.wait_for(&record, up_to_date()).await;
    assert_eq!(record["status"]["digest"], one.digest);
    let record = ns.merge(&record, json!({ "spec": { "source": { "oci": { "refresh": "1" } } } })).await;
    let record = ns.wait_for(&record, up_to_date()).await;
    assert_eq!(record["status"]["digest"], two.digest);
    let sources = record["status"]["sources"].as_array().unwrap();
    let refreshed = sources.iter().find(|source| source["refresh"] == "1").expect("it is on record");
    assert_eq!(refreshed["manifest"], second);
    let back = json!({ "spec": { "source": at(&format!("@{first}")) } });
    let record = ns.merge(&record, back).await;
    let mut record = ns.wait_for(&record, up_to_date()).await;
    assert_eq!(record["status"]["digest"], one.digest);

    let large = vec![0; (64 << 20) + 1];
    registry.push("team/hostile", "large", &[("application/wasm", "plugin.wasm", &large)]).await;
    registry.push("team/hostile", "text", &[("text/plain", "a.txt", b"text")]).await;
    let zeros = format!("sha256:{}", "0".repeat(64));
    let anonymous =
        json!({ "oci": { "reference": format!("{}/team/hostile:large", registry.authority), "credentials": null } });
    let failures = [
        (json!({ "source": at(":1"), "digest": zeros }), "Verified", "DigestMismatch"),
        (json!({ "source": at(":missing"), "digest": null }), "Fetched", "NotFound"),
        (json!({ "source": at(&format!("@{zeros}")) }), "Fetched", "NotFound"),
        (json!({ "source": at(":large") }), "Fetched", "TooLarge"),
        (json!({ "source": at(":text") }), "Fetched", "NotWasm"),
        (json!({ "source": anonymous }), "Fetched", "Unauthorized"),
    ];
    for (spec, step, reason) in failures {
        record = ns.merge(&record, json!({ "spec": spec })).await;
        record = ns.wait_for(&record, condition(step, "False").because(reason)).await;
        assert_eq!(record["status"]["digest"], one.digest, "{reason}");
        let said = condition_of(&record, "Progressing")["message"].as_str().unwrap().to_owned();
        assert!(said.ends_with("is still serving"), "{said}");
    }
    let object = ns.create(sample::hostile("served", "configMap")).await;
    ns.wait_for(&object, condition("Ready", "True")).await;

    // The registry is down during an upgrade, which goes on when it is back.
    push(&registry, &version("three"), "team/hostile:3").await;
    let stopped = registry.stop().await;
    let upgrade = json!({ "spec": { "source": oci(&ns, &stopped.reference("team/hostile:3")), "digest": null } });
    let record = ns.merge(&record, upgrade).await;
    let record = ns.wait_for(&record, condition("Fetched", "False").because("RegistryUnavailable")).await;
    assert_eq!(record["status"]["digest"], one.digest);
    let registry = stopped.start().await;
    let record = ns.wait_for(&record, up_to_date()).await;
    assert_ne!(record["status"]["digest"], one.digest);

    // A host that starts again needs no registry.
    drop(registry);
    host.kill().await;
    let _host = ns.host_with(HostOptions { cache_dir, ..HostOptions::default() }).await;
    let late = ns.create(sample::hostile("late", "configMap")).await;
    ns.wait_for(&late, condition("Ready", "True")).await;
}

#[tokio::test]
async fn a_plugin_is_installed_shown_and_removed_from_the_command_line() {
    let ns = TestCluster::shared().await.namespace("install").await;
    let registry = Registry::start_with_tls().await;
    secrets(&ns, &registry).await;
    let _host = ns.host().await;
    let good = component("hostile").await;
    let digest = push(&registry, &good, "team/hostile:1").await;
    let name = format!("hostile-{}", ns.name);
    let reference = format!("{}/team/hostile:1", registry.authority);
    let (ca, label) = (registry.ca().display().to_string(), ns.selector());
    let (login, authority) = (format!("{}/login", ns.name), format!("{}/ca", ns.name));
    let mut arguments = vec!["plugin", "install", &reference, "--name", &name, "--ca", &ca, "--label", &label];
    arguments.extend(["--credentials-secret", &login, "--ca-secret", &authority]);

    let shown = transom_as(&registry, &arguments).await;
    assert_eq!(shown.code, Some(1));
    assert!(shown.stderr.contains("call it again with --yes"), "{}", shown.stderr);
    assert!(shown.stdout.contains("kind: ClusterRole") && shown.stdout.contains("configmaps"), "{}", shown.stdout);
    assert!(ns.find(transom_tests::of::<sample::Plugin>(&name)).await.is_none(), "nothing was done");

    let as_json = async |more: &[&str]| -> Value {
        let output = transom_as(&registry, &[more, &["-o", "json"]].concat()).await;
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    };
    let shown = as_json(&arguments).await;
    assert_eq!((&shown["digest"], &shown["serves"]), (&json!(good.digest), &Value::Null), "{shown}");
    assert_eq!(shown["record"]["spec"]["source"]["oci"]["reference"], format!("{reference}@{digest}"));
    let file = good.path.display().to_string();
    let pushed = as_json(&["plugin", "push", &file, &reference, "--ca", &ca]).await;
    assert_eq!((&pushed["digest"], &pushed["tag"]), (&json!(digest), &json!("1")));

    arguments.push("--yes");
    let installed = transom_as(&registry, &arguments).await.printed();
    assert!(installed.contains(&format!("plugin {name} ")) && installed.contains(" serves"), "{installed}");
    let record = ns.get(transom_tests::of::<sample::Plugin>(&name)).await;
    assert_eq!(record["spec"]["source"]["oci"]["reference"], format!("{reference}@{digest}"));
    let run = async |arguments: &[&str]| transom_as(&registry, arguments).await;
    let listed = run(&["plugin", "list"]).await.printed();
    assert!(listed.lines().any(|line| line.starts_with(&name) && line.contains("Ready")), "{listed}");
    let shown = run(&["plugin", "show", &name]).await.printed();
    assert!(shown.contains(&digest) && shown.contains("Hostile"), "{shown}");
    let json: Value = serde_json::from_str(&run(&["plugin", "show", &name, "-o", "json"]).await.printed()).unwrap();
    assert_eq!(json["status"]["digest"], good.digest);
    assert!(run(&["plugin", "remove", &name]).await.stderr.contains("--yes"));
    let removed = as_json(&["plugin", "remove", &name, "--yes"]).await;
    assert_eq!((&removed["deleted"], &removed["kinds"][0]["kind"]), (&json!(true), &json!("Hostile")), "{removed}");
    ns.wait_gone(&record).await;
    assert!(run(&["plugin", "show", &name]).await.stderr.contains("there is no Plugin"));
}

#[tokio::test]
async fn what_was_rolled_back_is_installed_over_and_what_needs_approval_is_not_waited_for() {
    let ns = TestCluster::shared().await.namespace("install-again").await;
    let _host = ns.host().await;
    let folder = tempfile::tempdir().unwrap();
    let (name, label) = (format!("chameleon-{}", ns.name), ns.selector());
    let install = async |version: &str| {
        let built = variant(&json!({ "version": version, "value": version }), folder.path()).await;
        let file = built.path.display().to_string();
        let arguments =
            ["plugin", "install", &file, "--name", &name, "--namespace", &ns.name, "--label", &label, "--yes"];
        transom_with_cluster(&arguments).await
    };
    let record = of::<sample::Plugin>(&name);
    assert!(install("1.0.0").await.printed().contains(" 1.0.0 serves"));
    assert!(install("2.0.0").await.printed().contains(" 2.0.0 serves"));
    let back = transom_with_cluster(&["plugin", "rollback", &name]).await.printed();
    assert!(back.contains(" 1.0.0 serves"), "{back}");
    ns.wait_until(&record, |record| record["status"]["version"] == "1.0.0").await;
    assert!(install("3.0.0").await.printed().contains(" 3.0.0 serves"));

    ns.merge(&record, json!({ "spec": { "rollout": { "strategy": "manual" } } })).await;
    let waits = install("4.0.0").await;
    assert_eq!(waits.code, Some(3), "{waits:?}");
    assert!(waits.stderr.contains("version 4.0.0 waits for a person: ApprovalNeeded: "), "{}", waits.stderr);
    assert!(waits.stderr.contains(&format!("`transom plugin approve {name}`")), "{}", waits.stderr);
    let approved = transom_with_cluster(&["plugin", "approve", &name]).await.printed();
    assert!(approved.contains(" 4.0.0 serves"), "{approved}");
    ns.wait_until(&record, |record| record["status"]["version"] == "4.0.0").await;
    ns.delete(&record).await;
    ns.wait_gone(&record).await;
}

#[tokio::test]
async fn who_forgets_the_tag_or_that_a_registry_has_no_tls_is_told_what_to_do() {
    let (ns, folder) = (TestCluster::shared().await.namespace("plain").await, tempfile::tempdir().unwrap());
    let registry = Registry::start().await;
    let _host = ns.host().await;
    let built = variant(&json!({ "version": "1.4.0-rc.1+build" }), folder.path()).await;
    let (file, repository) = (built.path.display().to_string(), format!("{}/team/app", registry.authority));
    let tagged = format!("{repository}:1.4.0-rc.1_build");
    let run = async |arguments: &[&str]| transom_as(&registry, arguments).await;
    let hint = "the registry speaks no TLS; if that is meant, give --plaintext";
    for arguments in [
        &["plugin", "push", &file, &tagged][..],
        &["plugin", "install", &tagged, "--yes"],
        &["plugin", "sign", &tagged, "--key", &plain_key(folder.path())],
    ] {
        let refused = run(arguments).await;
        assert_eq!(refused.code, Some(1));
        assert!(refused.stderr.contains(hint), "{arguments:?}: {}", refused.stderr);
    }
    let pushed = run(&["plugin", "push", &file, &repository, "--plaintext"]).await;
    assert!(pushed.stderr.contains("no tag is given: it is 1.4.0-rc.1_build, the plugin's own"), "{}", pushed.stderr);
    assert!(pushed.stdout.starts_with(&format!("{tagged}@sha256:")), "{}", pushed.stdout);
    let wrong = run(&["plugin", "push", &file, &format!("{}/Team/app:1", registry.authority), "--plaintext"]).await;
    let rule = "the repository \"Team/app\" must have lower-case letters and digits only";
    assert!(wrong.stderr.contains(rule), "{}", wrong.stderr);

    let source = |plaintext: bool| json!({ "source": { "oci": { "reference": tagged, "plaintext": plaintext } } });
    let record = ns.record("chameleon", source(false)).await;
    let record = ns.wait_for(&record, condition("Fetched", "False").because("RegistryUnavailable")).await;
    let message = condition_of(&record, "Fetched")["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with("speaks no TLS; if that is meant, set spec.source.oci.plaintext to true"), "{message}");
    let record = ns.merge(&record, json!({ "spec": source(true) })).await;
    ns.wait_for(&record, condition("Fetched", "False").because("Unauthorized")).await;
}

/// A private key of no use but to be read.
fn plain_key(folder: &std::path::Path) -> String {
    let path = folder.join("key.pem");
    let command = std::process::Command::new("openssl")
        .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"])
        .arg(&path)
        .output();
    assert!(command.expect("openssl can be run").status.success());
    path.display().to_string()
}
