//! `transom plugin build`

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use wit_component::ComponentEncoder;

use super::remote::check_component;
use super::toolchain::{TARGET, Toolchain};

/// How much time the compiler takes; a variable of the environment says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Speed {
    /// What makes a component fast and small.
    Release,
    /// What makes the next build fast.
    Dev,
}

impl Speed {
    fn profile(self) -> [(&'static str, &'static str); 6] {
        let [level, lto, units, incremental] = match self {
            Self::Release => ["3", "true", "1", "false"],
            Self::Dev => ["1", "off", "16", "true"],
        };
        [
            ("CARGO_PROFILE_RELEASE_OPT_LEVEL", level),
            ("CARGO_PROFILE_RELEASE_LTO", lto),
            ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", units),
            ("CARGO_PROFILE_RELEASE_INCREMENTAL", incremental),
            ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
            ("CARGO_PROFILE_RELEASE_STRIP", "true"),
        ]
    }
}

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    transom plugin build                                # the crate of this folder\n  \
    transom plugin build plugins/web --output web.wasm\n\
    Needs cargo, and the target once: rustup target add wasm32-unknown-unknown; or Debian's rustc-web, cargo-web, \
    rust-web-src and lld.\n\
    Plugins in other languages are built with the tools of those; any component for the world of wit/ will do.")]
pub struct Args {
    /// Folder of the crate; it must be a library with crate-type cdylib.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The component's file (default: the crate's name and .wasm, in the folder that the command is called in).
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Passed on to `cargo rustc`, after `--`: -- --features next.
    #[arg(last = true)]
    cargo: Vec<String>,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Built { component, module } =
            build(&Toolchain::find().await?, &self.dir, &self.cargo, Speed::Release).await?;
        let output = self.output.unwrap_or_else(|| module.file_name().map(PathBuf::from).unwrap_or_default());
        std::fs::write(&output, &component).with_context(|| format!("cannot write {}", output.display()))?;
        eprintln!("{} KiB, {}", component.len() / 1024, crate::registry::digest_of(&component));
        println!("{}", output.display());
        Ok(())
    }
}

/// What a crate was built to.
#[derive(Debug)]
pub(in crate::cli) struct Built {
    /// The component's bytes.
    pub(in crate::cli) component: Vec<u8>,
    /// The core module that it was made of, in cargo's target folder.
    pub(in crate::cli) module: PathBuf,
}

/// Builds the crate in a folder. cargo's words go to stderr.
pub(in crate::cli) async fn build(
    toolchain: &Toolchain,
    dir: &Path,
    arguments: &[String],
    speed: Speed,
) -> anyhow::Result<Built> {
    let manifest = dir.join("Cargo.toml");
    ensure!(manifest.is_file(), "{} is no folder of a crate: it has no Cargo.toml", dir.display());
    let module = compile(toolchain, &manifest, arguments, speed).await?;
    let bytes = std::fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    let component = componentize(&bytes).with_context(|| {
        format!("{} does not make a component: does it export a plugin (transom_sdk::export!)?", module.display())
    })?;
    check_component(&component, &module.display().to_string())?;
    Ok(Built { component, module })
}

/// The core module that cargo says it has built.
async fn compile(
    toolchain: &Toolchain,
    manifest: &Path,
    arguments: &[String],
    speed: Speed,
) -> anyhow::Result<PathBuf> {
    let mut build = toolchain.cargo()?;
    match speed {
        // a crate that is a Rust library, too, would not be optimised as one with its dependencies
        Speed::Release => build.args(["rustc", "--crate-type", "cdylib"]),
        Speed::Dev => build.arg("build"),
    };
    build.args(toolchain.flags()).args([
        "--lib",
        "--release",
        "--target",
        TARGET,
        "--message-format",
        "json-render-diagnostics",
    ]);
    build.arg("--manifest-path").arg(manifest).args(arguments);
    for (name, value) in speed.profile() {
        if std::env::var_os(name).is_none() {
            build.env(name, value);
        }
    }
    build.stdout(Stdio::piped()).kill_on_drop(true);
    let child = build.spawn().context("cannot run cargo: install Rust from https://rustup.rs")?;
    let built = child.wait_with_output().await.context("cargo cannot be waited for")?;
    if !built.status.success() {
        bail!("cargo could not build {} (above)", manifest.display());
    }
    artifact(&built.stdout, manifest)
        .with_context(|| format!("{}: cargo built no .wasm: [lib] needs crate-type = [\"cdylib\"]", manifest.display()))
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
