use std::path::PathBuf;

/// What `cargo xtask test` tells the tests.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Kubeconfig of an administrator.
    pub kubeconfig: PathBuf,
    /// Kubeconfig of the hosts: the audit log has the requests that are made with it, and no others.
    pub host_kubeconfig: PathBuf,
    /// The API server's audit log.
    pub audit_log: PathBuf,
}

fn required(name: &str) -> PathBuf {
    match std::env::var_os(name).filter(|value| !value.is_empty()) {
        Some(value) => PathBuf::from(value),
        None => panic!("{name} is not set: these tests need a control plane, run them by `cargo xtask test`"),
    }
}

/// How much of something a person wants; none when nothing is said, or no number.
#[must_use]
pub fn from_environment<N: std::str::FromStr>(name: &str) -> Option<N> {
    std::env::var(name).ok()?.parse().ok()
}

impl Environment {
    /// Of this process.
    ///
    /// # Panics
    ///
    /// When a variable is missing.
    #[must_use]
    pub fn get() -> Self {
        Self {
            kubeconfig: required("KUBECONFIG"),
            host_kubeconfig: required("TRANSOM_HOST_KUBECONFIG"),
            audit_log: required("TRANSOM_TEST_AUDIT_LOG"),
        }
    }
}

/// The host's program.
///
/// # Panics
///
/// When the variable is missing.
#[must_use]
pub fn program() -> PathBuf {
    required("TRANSOM_BIN")
}

/// The folder of kubectl and the programs of the control plane.
///
/// # Panics
///
/// When the variable is missing.
#[must_use]
pub fn kube_tools() -> PathBuf {
    required("TRANSOM_KUBE_BIN")
}

/// The folder of the guests.
pub(crate) fn plugins() -> PathBuf {
    required("TRANSOM_TEST_PLUGINS")
}

/// cosign.
pub(crate) fn cosign() -> PathBuf {
    required("TRANSOM_TEST_COSIGN")
}

/// The OCI registry's program.
pub(crate) fn registry() -> PathBuf {
    required("TRANSOM_TEST_REGISTRY")
}

/// Temporal's program.
pub(crate) fn temporal() -> PathBuf {
    required("TRANSOM_TEST_TEMPORAL")
}

/// A worker of Temporal.
pub(crate) fn worker() -> PathBuf {
    required("TRANSOM_TEST_WORKER")
}

/// Helm's program.
pub(crate) fn helm() -> PathBuf {
    required("TRANSOM_TEST_HELM")
}
