//! Registries as the command line reaches them.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::api::plugin::{OciSource, SecretRef};
use crate::lookup::client::{SecretData, docker_login, no_tls};
use crate::lookup::image::Reference;
use crate::registry::source::{Registry, SourceError, clients};

/// How to reach a registry.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct RemoteArgs {
    /// Talk without TLS.
    #[arg(long)]
    pub(super) plaintext: bool,
    /// File with the only certificate authorities to trust (PEM).
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// User (default: what `docker login` has written to ~/.docker/config.json or $DOCKER_CONFIG).
    #[arg(long, requires = "password_stdin")]
    username: Option<String>,
    /// Read the user's password from stdin.
    #[arg(long, requires = "username")]
    password_stdin: bool,
}

impl RemoteArgs {
    /// The repository that a reference names.
    pub(super) async fn open(&self, reference: &str) -> anyhow::Result<Registry> {
        let parsed = Reference::parse(reference);
        let authority = parsed.map(|reference| reference.authority).unwrap_or_default();
        let login = self.login(&authority)?;
        let ca = match &self.ca {
            Some(path) => {
                let pem = std::fs::read(path).with_context(|| format!("--ca {}", path.display()))?;
                Some(SecretData::from([("ca.crt".to_owned(), pem)]))
            }
            None => None,
        };
        let named = |name: &str| Some(SecretRef { namespace: String::new(), name: name.into() });
        let source = OciSource {
            reference: reference.to_owned(),
            refresh: None,
            plaintext: self.plaintext,
            credentials: login.as_ref().and_then(|_| named("login")),
            ca: ca.as_ref().and_then(|_| named("ca")),
        };
        let clients = clients(move |secret| if secret.name == "ca" { ca.clone() } else { login.clone() });
        Registry::open(&clients, "reference", &source).await.map_err(explained)
    }

    fn login(&self, authority: &str) -> anyhow::Result<Option<SecretData>> {
        if let Some(user) = &self.username {
            let mut password = String::new();
            std::io::stdin().read_to_string(&mut password).context("cannot read the password from stdin")?;
            let password = password.trim_end_matches(['\r', '\n']).to_owned();
            let fields = [("username", user.clone()), ("password", password)];
            return Ok(Some(fields.map(|(name, text)| (name.to_owned(), text.into_bytes())).into()));
        }
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = var("DOCKER_CONFIG").or_else(|| var("HOME").map(|home| home.join(".docker")));
        let config = folder.and_then(|folder| std::fs::read(folder.join("config.json")).ok());
        // a file with logins for other registries only is none for this one
        let config = config.filter(|config| docker_login(config, authority).is_ok());
        Ok(config.map(|config| SecretData::from([(".dockerconfigjson".to_owned(), config)])))
    }
}

/// A refusal, with what to do on a command line.
pub(super) fn explained(error: SourceError) -> anyhow::Error {
    let SourceError { reason, message } = error;
    if reason == "Unauthorized" {
        let what = message.split(": check ").next().unwrap_or_default();
        return anyhow::anyhow!("{what}: log in with `docker login`, or give --username and --password-stdin");
    }
    let field = no_tls("reference.source.oci");
    let flag = ": the registry speaks no TLS; if that is meant, give --plaintext";
    anyhow::anyhow!(message.trim_start_matches("reference.source.oci.").replace(&field, flag))
}

/// A component by its first bytes.
pub(super) fn check_component(wasm: &[u8], at: &str) -> anyhow::Result<()> {
    // magic, and the version of the component model's layer
    if wasm.starts_with(b"\0asm\x0d\0\x01\0") {
        return Ok(());
    }
    let what = if wasm.starts_with(b"\0asm") { "a core module, not a component" } else { "not WebAssembly" };
    bail!("{at} is {what}: build it with `transom plugin build`");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_its_own_flag_for_a_registry_without_tls() {
        let message = format!("r.example:5000: client error (Connect){}", no_tls("reference.source.oci"));
        let said = explained(SourceError { reason: "RegistryUnavailable", message }).to_string();
        let flag = "the registry speaks no TLS; if that is meant, give --plaintext";
        assert_eq!(said, format!("r.example:5000: client error (Connect): {flag}"));
    }
}
