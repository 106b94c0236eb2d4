//! `docs/tutorial.md`, by a reader with an empty folder.

use std::path::Path;

use transom_tests::{Environment, Page, Registry, TestCluster, cache_dir, free_port, kube_tools, program};

use crate::dev;

#[tokio::test]
async fn a_reader_who_does_what_the_tutorial_says_gets_what_it_shows() {
    let _cluster = TestCluster::shared().await;
    let (environment, folder) = (Environment::get(), tempfile::tempdir().unwrap());
    let registry = Registry::start_with_tls().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let path = [program().parent().unwrap().to_owned(), kube_tools()].map(|folder| text(&folder)).join(":");
    let path = format!("{path}:{}", std::env::var("PATH").unwrap());
    let (authority, login) = (&registry.authority, text(&registry.docker_config()));
    let repository = format!("{authority}/tutorial");
    // The registry's authority beside those that the system trusts.
    let trusted = std::env::var("SSL_CERT_FILE").unwrap_or_else(|_| "/etc/ssl/certs/ca-certificates.crt".into());
    let trusted =
        std::fs::read_to_string(trusted).unwrap_or_default() + &std::fs::read_to_string(registry.ca()).unwrap();
    let certificates = folder.path().join("certificates.crt");
    std::fs::write(&certificates, trusted).unwrap();
    // The versions that everything else here is built with.
    std::fs::create_dir(folder.path().join("hello")).unwrap();
    std::fs::copy(root.join("Cargo.lock"), folder.path().join("hello/Cargo.lock")).unwrap();
    let (plans, own) = (format!("127.0.0.1:{}", free_port()), text(&folder.path().join("state")));
    let variables = [
        ("PATH", &*path),
        ("KUBECONFIG", &text(&environment.kubeconfig)),
        ("TRANSOM", &text(root)),
        ("REGISTRY", &repository),
        ("DOCKER_CONFIG", &login),
        ("SSL_CERT_FILE", &text(&certificates)),
        ("XDG_STATE_HOME", &own),
        ("TRANSOM_CACHE_DIR", &text(&cache_dir())),
        // Hosts of other tests and this one do not take each other's records.
        ("TRANSOM_PLUGIN_SELECTOR", "!tests.transom.dev/run"),
        ("TRANSOM_LISTEN", "127.0.0.1:0"),
        // The usual one may be taken by somebody else's host.
        ("TRANSOM_RECORDINGS_LISTEN", &plans),
        ("TRANSOM_HOST", &plans),
        ("CARGO_TARGET_DIR", &text(&dev::target())),
    ];
    Page::new("tutorial.md", folder.path(), &[&variables[..], &dev::SPEED].concat()).follow().await;
}
