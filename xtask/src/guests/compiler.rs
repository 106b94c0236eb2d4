//! Which compiler can build for `wasm32-unknown-unknown` here.
//!
//! 1. The one on PATH, when its standard library for that target is installed.
//! 2. Debian's `rustc-web`, which is newer than the `rustc` of the same release and comes with the sources of its
//!    standard library: cargo builds that too (`-Z build-std`, about half a minute once).
//! 3. None: the user is told what to install. A toolchain of the user's is never changed.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::progress::Task;

pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// Oldest compiler that builds the guests, as `rust-version` in `Cargo.toml`.
const OLDEST: (u32, u32) = (1, 95);

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_SOURCES: &str = "/usr/lib/rustlib/src/rust/library/std";
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// A way to build guests.
pub(crate) enum Compiler {
    /// The toolchain that we were built with has the target.
    Installed,
    /// Debian's, with the linker at this path.
    Debian { linker: PathBuf },
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Installed => write!(f, "the installed {TARGET}"),
            Self::Debian { .. } => f.write_str("Debian's rustc and its standard library built from source"),
        }
    }
}

impl Compiler {
    pub(crate) fn find() -> Result<Self> {
        if has_target(&rustc())? {
            return Ok(Self::Installed);
        }
        if !debian_is_installed() {
            install(&DEBIAN_PACKAGES, "Debian's rustc and the sources of its standard library").context(ADVICE)?;
            if !debian_is_installed() {
                bail!(ADVICE);
            }
        }
        Ok(Self::Debian { linker: linker()? })
    }

    /// cargo, set up to use this compiler.
    pub(crate) fn cargo(&self) -> Result<Command> {
        let Self::Debian { linker } = self else {
            return Ok(command::cargo());
        };
        let mut cargo = Command::new(DEBIAN_CARGO);
        command::without_cargo_run(&mut cargo);
        cargo
            // It is a stable compiler; building the standard library is what needs the switch.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC", DEBIAN_RUSTC)
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker)
            .env("PATH", path_with_first(Path::new("/usr/bin"))?)
            // What rustup and `cargo run` set is for the other toolchain.
            .env_remove("LD_LIBRARY_PATH")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTC_WRAPPER")
            .args(["-Z", "build-std=std,panic_abort"]);
        Ok(cargo)
    }
}

const ADVICE: &str = "no compiler for wasm32-unknown-unknown was found.\n\
    Do one of these and run the command again:\n  \
    rustup target add wasm32-unknown-unknown\n  \
    apt-get install rustc-web cargo-web rust-web-src   (Debian; done for you when you are root)";

fn rustc() -> OsString {
    env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

/// Whether the compiler brings the target's standard library: the folder is named in any case, `libcore` is in it.
fn has_target(rustc: &OsString) -> Result<bool> {
    let folder = command::output(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]))?;
    let Ok(files) = fs::read_dir(folder.trim()) else {
        return Ok(false);
    };
    Ok(files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libcore-")))
}

fn debian_is_installed() -> bool {
    let version = command::output(Command::new(DEBIAN_RUSTC).arg("--version").env_remove("LD_LIBRARY_PATH"));
    Path::new(DEBIAN_SOURCES).is_dir()
        && Path::new(DEBIAN_CARGO).is_file()
        && version.ok().and_then(|text| parse_version(&text)).is_some_and(|version| version >= OLDEST)
}

/// `(1, 96)` of `rustc 1.96.0 (…)`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(' ').nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// rustup's own linker, or that of LLVM. (`gcc-ld/wasm-ld` of rustup's does not do: rustc calls it with `-flavor`.)
fn linker() -> Result<PathBuf> {
    if let Some(linker) = rustup_linker() {
        return Ok(linker);
    }
    if llvm_linker().is_none() {
        install(&["lld"], "LLVM's linker").context("no linker for WebAssembly was found: install `lld`")?;
    }
    llvm_linker().context("no linker for WebAssembly was found: install `lld`")
}

fn rustup_linker() -> Option<PathBuf> {
    let print = |arguments: &[&str]| command::output(Command::new(rustc()).args(arguments)).ok();
    let sysroot = print(&["--print", "sysroot"])?;
    let version = print(&["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "))?;
    let linker = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin/rust-lld");
    linker.is_file().then_some(linker)
}

/// `wasm-ld` or the newest `wasm-ld-14`.
fn llvm_linker() -> Option<PathBuf> {
    let files = fs::read_dir("/usr/bin").ok()?;
    let linkers = files.flatten().map(|file| file.path()).filter(|path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name == "wasm-ld" || name.starts_with("wasm-ld-"))
    });
    linkers.max_by_key(|path| path.to_string_lossy().rsplit('-').next().and_then(|number| number.parse::<u32>().ok()))
}

/// Installs Debian packages when that is ours to do: as root, where apt-get is.
fn install(packages: &[&str], what: &str) -> Result<()> {
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/apt-get").is_file() {
        bail!("{what} cannot be installed here: that takes apt-get and root");
    }
    let task = Task::start(format!("installing {what} ({})", packages.join(", ")));
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        command
    };
    command::output(apt_get().arg("update"))?;
    command::output(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(packages))?;
    task.done();
    Ok(())
}

fn path_with_first(first: &Path) -> Result<OsString> {
    let rest = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(first.to_path_buf()).chain(env::split_paths(&rest));
    env::join_paths(folders).context("PATH cannot be extended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse_version("rustc 1.96.0 (ac68faa20 2026-05-25)"), Some((1, 96)));
        assert!(parse_version("rustc 1.100.1 (x)").unwrap() > OLDEST);
        assert!(parse_version("rustc 1.63.0").unwrap() < OLDEST);
        assert_eq!(parse_version("no"), None);
    }
}
