//! `transom plugin push` and `transom plugin sign`

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde_json::json;

use super::Output;
use super::remote::{RemoteArgs, check_component, explained};
use crate::api::plugin::Bounds;
use crate::cli::progress::slow;
use crate::lookup::image::split;
use crate::lookup::registry::{is_digest, is_tag};
use crate::plugin::{Cache, Engine};
use crate::registry::publish::{self, Form};
use crate::registry::signature::Signature;
use crate::registry::signing::SigningKey;
use crate::registry::source::MAX_COMPONENT_BYTES;
use crate::registry::{Loader, digest_of};

/// Arguments of `push`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    transom plugin push web.wasm registry.example/team/web    # tag: the version of the plugin\n  \
    transom plugin push web.wasm registry.example/team/web:latest\n\
    Prints the reference with the digest, which is what to sign and to install.")]
pub struct PushArgs {
    /// The component.
    file: PathBuf,
    /// Where it goes: registry/repository or registry/repository:tag. Without a tag it is the version of the plugin.
    reference: String,
    /// How the result looks.
    #[arg(long, short, default_value = "text")]
    output: Output,
    #[command(flatten)]
    remote: RemoteArgs,
}

impl PushArgs {
    pub(super) async fn run(self, cache: Cache) -> anyhow::Result<()> {
        let wasm = std::fs::read(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        check_component(&wasm, &self.file.display().to_string())?;
        ensure!(wasm.len() <= MAX_COMPONENT_BYTES, "{} has more than 64 MiB, which no host reads", self.file.display());
        let reference = match split(&self.reference) {
            (_, Some(_)) => self.reference.clone(),
            (repository, None) => {
                // before anything is compiled: is it a reference at all?
                self.remote.open(repository).await?;
                let tag = own_tag(&wasm, cache).await;
                let tag = tag.with_context(|| format!("{repository} has no tag: push to {repository}:TAG"))?;
                eprintln!("no tag is given: it is {tag}, the plugin's own version");
                format!("{repository}:{tag}")
            }
        };
        let registry = self.remote.open(&reference).await?;
        let which = &registry.reference.which;
        ensure!(!is_digest(which), "{}: push to a tag, the digest is what comes out", self.reference);
        eprintln!("pushing {} KiB to {reference}", wasm.len() / 1024);
        let title = self.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let annotations = json!({ "org.opencontainers.image.title": title });
        let digest = publish::push(&registry, wasm.into(), annotations).await.map_err(explained)?;
        let repository = format!("{}/{}", registry.reference.authority, registry.reference.repository);
        let pushed = format!("{repository}:{which}@{digest}");
        let result = json!({ "reference": pushed, "tag": which, "digest": digest });
        println!("{}", self.output.of(&result)?.unwrap_or(pushed));
        Ok(())
    }
}

/// The version that a plugin says of itself, as a tag. As Helm does, `+` becomes `_`.
async fn own_tag(wasm: &[u8], cache: Cache) -> anyhow::Result<String> {
    let loader = Loader { engine: Engine::new()?, program: std::env::current_exe()?, cache };
    let digest = digest_of(wasm);
    let loaded = slow("compiling the plugin", loader.load("push", wasm, &digest, Bounds::default())).await;
    let version = loaded.context("its own version cannot be read, since it is no plugin")?.manifest.version;
    let tag = version.replace('+', "_");
    ensure!(is_tag(&tag), "its own version {version:?} can be no tag");
    Ok(tag)
}

/// Arguments of `sign`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    COSIGN_PASSWORD=… transom plugin sign registry.example/team/web:1.2.0 --key cosign.key\n  \
    transom plugin sign web.wasm --key key.pem     # writes web.wasm.sig")]
pub struct SignArgs {
    /// registry/repository:tag or @sha256:…, or a file.
    what: String,
    /// The private key: cosign.key (its password in COSIGN_PASSWORD), or PKCS #8 in PEM; ECDSA on P-256.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// How it is written to the registry; repeatable.
    #[arg(long = "format", value_name = "FORM", default_value = "bundle")]
    forms: Vec<Form>,
    /// How the result looks.
    #[arg(long, short, default_value = "text")]
    output: Output,
    #[command(flatten)]
    remote: RemoteArgs,
}

impl SignArgs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let pem = std::fs::read_to_string(&self.key).with_context(|| format!("--key {}", self.key.display()))?;
        let password = std::env::var("COSIGN_PASSWORD").unwrap_or_default();
        let key = SigningKey::from_pem(&pem, &password);
        let key = key.map_err(|wrong| anyhow::anyhow!("--key {} {wrong}", self.key.display()))?;
        if Path::new(&self.what).is_file() {
            let file = std::fs::read(&self.what).with_context(|| format!("cannot read {}", self.what))?;
            let Signature::Detached(text) = key.detached(&file).map_err(anyhow::Error::msg)? else {
                bail!("a file has detached signatures only");
            };
            let path = format!("{}.sig", self.what);
            std::fs::write(&path, text).with_context(|| format!("cannot write {path}"))?;
            let result = json!({ "signature": path, "digest": digest_of(&file) });
            println!("{}", self.output.of(&result)?.unwrap_or(path));
            return Ok(());
        }
        let registry = self.remote.open(&self.what).await?;
        let digest = registry.resolve().await.map_err(explained)?;
        // a signature is for what the registry has, and a component is what the host runs
        registry.manifests(&digest).await.map_err(explained)?;
        for form in &self.forms {
            publish::sign(&registry, &digest, &key, *form).await.map_err(explained)?;
        }
        let signed = format!("{}/{}@{digest}", registry.reference.authority, registry.reference.repository);
        let result = json!({ "reference": signed, "digest": digest });
        println!("{}", self.output.of(&result)?.unwrap_or(signed));
        Ok(())
    }
}
