//! `transom plugin build`

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::process::Command;
use wit_component::ComponentEncoder;

use super::remote::check_component;

const TARGET: &str = "wasm32-unknown-unknown";

/// What makes a guest fast and small, where the crate's own profile does not say otherwise.
const PROFILE: [(&str, &str); 5] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_LTO", "true"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "true"),
];

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: transom plugin build plugins/web --output web.wasm\n\
    Needs cargo, and the target once: rustup target add wasm32-unknown-unknown.\n\
    Plugins in other languages are built with the tools of those; any component for the world of wit/ will do.")]
pub struct Args {
    /// Folder of the crate; it must be a library with crate-type cdylib.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The component's file (default: the crate's name and .wasm, in the folder that the command is called in).
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Passed on to `cargo build`, after `--`: -- --features next.
    #[arg(last = true)]
    cargo: Vec<String>,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let manifest = self.dir.join("Cargo.toml");
        ensure!(manifest.is_file(), "{} is no folder of a crate: it has no Cargo.toml", self.dir.display());
        let module = self.compile(&manifest).await?;
        let bytes = std::fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
        let component = componentize(&bytes).with_context(|| {
            format!("{} does not make a component: does it export a plugin (transom_sdk::export!)?", module.display())
        })?;
        let name = module.file_name().map(PathBuf::from).unwrap_or_default();
        let output = self.output.unwrap_or(name);
        check_component(&component, &output.display().to_string())?;
        std::fs::write(&output, &component).with_context(|| format!("cannot write {}", output.display()))?;
        eprintln!("{} KiB, {}", component.len() / 1024, crate::registry::digest_of(&component));
        println!("{}", output.display());
        Ok(())
    }

    /// The core module that cargo says it has built.
    async fn compile(&self, manifest: &Path) -> anyhow::Result<PathBuf> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--lib", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
        build.arg("--manifest-path").arg(manifest).args(&self.cargo);
        for (name, value) in PROFILE {
            if std::env::var_os(name).is_none() {
                build.env(name, value);
            }
        }
        // flags for this machine's processor are not for WebAssembly
        build.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        build.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = build.spawn().context("cannot run cargo: install Rust from https://rustup.rs")?;
        let built = child.wait_with_output().await.context("cargo cannot be waited for")?;
        if !built.status.success() {
            bail!("cargo could not build it (above). Is the target there? rustup target add {TARGET}");
        }
        artifact(&built.stdout, manifest).with_context(|| {
            format!("{}: cargo built no .wasm: [lib] needs crate-type = [\"cdylib\"]", manifest.display())
        })
    }
}

/// The `.wasm` of the crate in this folder among cargo's messages.
fn artifact(messages: &[u8], manifest: &Path) -> Option<PathBuf> {
    let manifest = std::fs::canonicalize(manifest).ok()?;
    let text = String::from_utf8_lossy(messages);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let own = messages.filter(|message| {
        let path = message.get("manifest_path").and_then(Value::as_str);
        path.and_then(|path| std::fs::canonicalize(path).ok()).is_some_and(|path| path == manifest)
    });
    let files = own.filter_map(|message| message.get("filenames")?.as_array().cloned()).flatten();
    let mut wasm = files.filter_map(|file| file.as_str().filter(|file| file.ends_with(".wasm")).map(PathBuf::from));
    wasm.next()
}

/// A component from a core module, by what `wit-bindgen` has left in it about its world.
fn componentize(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    ComponentEncoder::default().validate(true).module(module)?.encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crates_own_module_is_found_among_the_messages() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("Cargo.toml");
        std::fs::write(&manifest, "").unwrap();
        let message = |path: &str, file: &str| {
            serde_json::json!({ "reason": "compiler-artifact", "manifest_path": path, "filenames": [file] }).to_string()
        };
        let own = manifest.display().to_string();
        let messages = [
            message("/elsewhere/Cargo.toml", "a.wasm"),
            "no json".into(),
            message(&own, "b.rlib"),
            message(&own, "c.wasm"),
        ];
        assert_eq!(artifact(messages.join("\n").as_bytes(), &manifest), Some("c.wasm".into()));
        assert_eq!(artifact(b"", &manifest), None);
    }

    #[test]
    fn what_is_no_module_makes_no_component() {
        assert!(componentize(b"nonsense").is_err());
    }
}
