//! Which compiler builds for WebAssembly here.
//!
//! 1. The one on PATH, when its standard library for the target is installed.
//! 2. Debian's `rustc-web`, which comes with the sources of its standard library: cargo builds that too.
//! 3. None: people are told what to install. Nothing is installed or changed here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::process::Command;

pub(super) const TARGET: &str = "wasm32-unknown-unknown";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_SOURCES: &str = "/usr/lib/rustlib/src/rust/library/std";

/// Oldest compiler that builds the SDK: `rust-version` of its crate.
const OLDEST: (u32, u32) = (1, 95);

const ADVICE: &str = "no compiler for wasm32-unknown-unknown is here; one of these gives you one:\n  \
    rustup target add wasm32-unknown-unknown\n  \
    apt-get install rustc-web cargo-web rust-web-src lld   (Debian, without rustup)";

/// A way to build for WebAssembly.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) enum Toolchain {
    /// The cargo on PATH, or in `CARGO`.
    Installed,
    /// Debian's, with the linker at this path.
    Debian { linker: PathBuf },
}

impl Toolchain {
    pub(in crate::cli) async fn find() -> anyhow::Result<Self> {
        let Some(version) = said(program("RUSTC", "rustc"), &["--version"]).await else {
            bail!("there is no rustc: install Rust from https://rustup.rs");
        };
        let target = said(program("RUSTC", "rustc"), &["--print", "target-libdir", "--target", TARGET]).await;
        if target.is_some_and(|folder| has_core(Path::new(folder.trim()))) {
            if is_too_old(&version) {
                bail!("{} is too old: {}.{} or newer is needed", version.trim(), OLDEST.0, OLDEST.1);
            }
            return Ok(Self::Installed);
        }
        let debian = said(DEBIAN_RUSTC.into(), &["--version"]).await.filter(|version| !is_too_old(version));
        if debian.is_none() || !Path::new(DEBIAN_SOURCES).is_dir() || !Path::new(DEBIAN_CARGO).is_file() {
            bail!(ADVICE);
        }
        match linker().await {
            Some(linker) => Ok(Self::Debian { linker }),
            None => bail!("there is no linker for WebAssembly: apt-get install lld"),
        }
    }

    /// cargo, set up for this compiler. `-Z` flags of it follow the subcommand: see [`flags`](Self::flags).
    pub(super) fn cargo(&self) -> anyhow::Result<Command> {
        let mut cargo = match self {
            Self::Installed => Command::new(program("CARGO", "cargo")),
            Self::Debian { linker } => {
                let mut cargo = Command::new(DEBIAN_CARGO);
                let rest = std::env::var_os("PATH").unwrap_or_default();
                let folders = std::iter::once(PathBuf::from("/usr/bin")).chain(std::env::split_paths(&rest));
                cargo
                    // a stable compiler; building the standard library is what needs the switch
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("RUSTC", DEBIAN_RUSTC)
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker)
                    .env("PATH", std::env::join_paths(folders).context("PATH cannot be extended")?);
                // what rustup sets is for the other toolchain
                for name in ["LD_LIBRARY_PATH", "RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "CARGO"] {
                    cargo.env_remove(name);
                }
                cargo
            }
        };
        // flags for this machine's processor are not for WebAssembly
        cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").stdin(Stdio::null());
        Ok(cargo)
    }

    /// Flags of `cargo build`.
    pub(super) fn flags(&self) -> &'static [&'static str] {
        match self {
            Self::Installed => &[],
            Self::Debian { .. } => &["-Z", "build-std=std,panic_abort"],
        }
    }
}

/// A program as its variable names it.
fn program(variable: &str, name: &str) -> OsString {
    std::env::var_os(variable).filter(|value| !value.is_empty()).unwrap_or_else(|| name.into())
}

/// What a program prints; none when it fails.
async fn said(program: OsString, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().await.ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// The folder is named by rustc in any case; with the target installed, `core` is in it.
fn has_core(folder: &Path) -> bool {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
}

/// By the text of `rustc --version`.
fn is_too_old(version: &str) -> bool {
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok());
    let mut numbers = version.split(' ').nth(1).unwrap_or_default().split('.');
    match (number(numbers.next()), number(numbers.next())) {
        (Some(major), Some(minor)) => (major, minor) < OLDEST,
        _ => false, // somebody's own build: cargo says it, if it is
    }
}

/// rustup's own linker, or LLVM's.
async fn linker() -> Option<PathBuf> {
    let rustc = || program("RUSTC", "rustc");
    if let (Some(root), Some(version)) = (said(rustc(), &["--print", "sysroot"]).await, said(rustc(), &["-vV"]).await)
        && let Some(host) = version.lines().find_map(|line| line.strip_prefix("host: "))
    {
        let linker = Path::new(root.trim()).join("lib/rustlib").join(host).join("bin/rust-lld");
        if linker.is_file() {
            return Some(linker);
        }
    }
    // wasm-ld, or the newest wasm-ld-NUMBER
    let files = std::fs::read_dir("/usr/bin").ok()?.flatten().map(|file| file.path());
    let number = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix("wasm-ld")?;
        if name.is_empty() { Some(0) } else { name.strip_prefix('-')?.parse::<u32>().ok() }
    };
    files.filter_map(|path| Some((number(&path)?, path))).max().map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_too_old("rustc 1.9.0 (x 2016-05-18)"));
        assert!(!is_too_old("rustc 1.95.0 (59807616e 2026-04-14)"));
        assert!(!is_too_old("rustc 2.0.0-nightly (x)"));
        assert!(!is_too_old("rustc of my own"));
    }

    #[test]
    fn a_target_is_there_when_its_core_is() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!has_core(&folder.path().join("missing")));
        assert!(!has_core(folder.path()));
        std::fs::write(folder.path().join("libcore-0.rlib"), "").unwrap();
        assert!(has_core(folder.path()));
    }

    #[test]
    fn debians_compiler_builds_the_standard_library_too() {
        let debian = Toolchain::Debian { linker: "/l".into() };
        let cargo = debian.cargo().unwrap();
        let linker = cargo.as_std().get_envs().find(|(name, _)| *name == "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER");
        assert_eq!(linker.and_then(|(_, value)| value), Some("/l".as_ref()));
        assert!(debian.flags().contains(&"build-std=std,panic_abort"));
        assert!(Toolchain::Installed.flags().is_empty());
    }
}
