//! Guests: the plugins of this repository, built to components.
//!
//! `cargo build` for `wasm32-unknown-unknown` makes a core module; `wit-component` makes a component of it, from what
//! `wit-bindgen` has left in the module about its world.

mod compiler;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use wit_component::ComponentEncoder;

use crate::{command, engines, workspace};
use compiler::{Compiler, TARGET};

/// How guests are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// As people get them, and as benchmarks measure them: by the profile `plugin` in `Cargo.toml`.
    Shipped,
    /// For tests, the demo and definitions: how long the build takes counts, not how fast they are.
    Quick,
}

impl Build {
    /// Of cargo, and the name of its folder.
    fn profile(self) -> &'static str {
        match self {
            Self::Shipped => "plugin",
            Self::Quick => "release",
        }
    }

    /// What is said about the profile. `transom dev` builds with the same, and so do tests that build projects (`SPEED` in
    /// `tests/tests/cluster/dev.rs`): what their dependencies are compiled to is used once more.
    fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Shipped => &[],
            Self::Quick => &[
                ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
                ("CARGO_PROFILE_RELEASE_LTO", "off"),
                ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
                ("CARGO_PROFILE_RELEASE_INCREMENTAL", "true"),
                ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
                ("CARGO_PROFILE_RELEASE_STRIP", "true"),
            ],
        }
    }

    /// Where the components go: apart, so that nobody ships what was built for a test.
    fn components(self) -> PathBuf {
        match self {
            Self::Shipped => workspace::plugins(),
            Self::Quick => workspace::target().join("quick-plugins"),
        }
    }
}

/// A component that is built from a crate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    /// Of the component: `<name>.wasm`.
    name: &'static str,
    package: &'static str,
    /// Cargo features beside the default ones.
    features: &'static [&'static str],
}

/// All of them. A new guest is a line here.
const GUESTS: &[Guest] = &[
    Guest { name: "domain", package: "transom-plugin-domain", features: &[] },
    // The same with a visible difference: what it is swapped for while the host runs.
    Guest { name: "domain-next", package: "transom-plugin-domain", features: &["next"] },
    Guest { name: "process", package: "transom-plugin-process", features: &[] },
    Guest { name: "environment", package: "transom-plugin-environment", features: &[] },
    Guest { name: "instance", package: "transom-plugin-instance", features: &[] },
    Guest { name: "web", package: "transom-plugin-web", features: &[] },
    Guest { name: "hostile", package: "transom-plugin-hostile", features: &[] },
    Guest { name: "asker", package: "transom-plugin-asker", features: &[] },
    Guest { name: "chameleon", package: "transom-plugin-chameleon", features: &[] },
    Guest { name: "turner", package: "transom-plugin-turner", features: &[] },
    Guest { name: "gate", package: "transom-plugin-gate", features: &[] },
    Guest { name: "parcel", package: "transom-plugin-parcel", features: &[] },
    // Versions of them before they had webhooks.
    Guest { name: "gate-old", package: "transom-plugin-gate", features: &["old"] },
    Guest { name: "parcel-old", package: "transom-plugin-parcel", features: &["old"] },
];

/// `cargo xtask plugins`: builds those named, or all. Returns the folder with the components.
pub(crate) fn build(names: &[String], build: Build) -> Result<PathBuf> {
    let components = build.components();
    let (engines, guests): (Vec<String>, Vec<String>) =
        names.iter().cloned().partition(|name| engines::ENGINES.contains(&name.as_str()));
    for engine in
        engines::ENGINES.iter().filter(|name| names.is_empty() || engines.iter().any(|wanted| wanted == *name))
    {
        engines::build(engine, &components)?;
    }
    if guests.is_empty() && !engines.is_empty() {
        return Ok(components);
    }
    let wanted = select(&guests)?;
    let compiler = Compiler::find()?;
    eprintln!("building {} with {compiler}", wanted.iter().map(|guest| guest.name).collect::<Vec<_>>().join(", "));
    for guests in batches(build, wanted) {
        compile(&compiler, build, &guests)?;
        // Now, because the next batch may build the same crate with other features to the same file.
        for guest in guests {
            componentize(&compiler, build, guest, &components)?;
        }
    }
    Ok(components)
}

/// The guests with these names; all when there are none.
fn select(names: &[String]) -> Result<Vec<&'static Guest>> {
    let known = |name: &String| GUESTS.iter().any(|guest| guest.name == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        let all = GUESTS.iter().map(|guest| guest.name).chain(engines::ENGINES.iter().copied());
        let all = all.collect::<Vec<_>>().join(", ");
        bail!("there is no plugin {unknown:?}; there are {all}");
    }
    Ok(GUESTS.iter().filter(|guest| names.is_empty() || names.iter().any(|name| name == guest.name)).collect())
}

/// What one call of cargo can build: any number of crates, each once, with the same features. Crates that are optimised as
/// one with their dependencies are built one by one.
fn batches(build: Build, guests: Vec<&'static Guest>) -> Vec<Vec<&'static Guest>> {
    if build == Build::Shipped {
        return guests.into_iter().map(|guest| vec![guest]).collect();
    }
    let mut batches: Vec<Vec<&'static Guest>> = Vec::new();
    for guest in guests {
        match batches.iter_mut().find(|batch| batch.iter().all(|other| other.features == guest.features)) {
            Some(batch) => batch.push(guest),
            None => batches.push(vec![guest]),
        }
    }
    batches
}

fn compile(compiler: &Compiler, build: Build, guests: &[&Guest]) -> Result<()> {
    let mut cargo = compiler.cargo()?;
    cargo.current_dir(workspace::root()).args(match build {
        // the crates are Rust libraries, too, for their tests, and those are never linked as one (`lto` has no effect then)
        Build::Shipped => &["rustc", "--crate-type", "cdylib"][..],
        Build::Quick => &["build"],
    });
    cargo.args(["--locked", "--lib", "--profile", build.profile()]);
    cargo.args(["--target", TARGET]).arg("--target-dir").arg(folder());
    // A `cdylib` of the workspace gets no hash in its file name, so two sets of features would replace each other's file
    // and be compiled again at every turn. This makes cargo add the hash (`should_use_metadata` in its sources).
    cargo.env("__CARGO_DEFAULT_LIB_METADATA", "transom-guests");
    // Flags for this machine's processor are not for WebAssembly.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.envs(build.settings().iter().copied());
    for guest in guests {
        cargo.args(["--package", guest.package]);
    }
    if let Some(guest) = guests.first().filter(|guest| !guest.features.is_empty()) {
        cargo.args(["--features", &guest.features.join(",")]);
    }
    command::run(&mut cargo)
}

/// Of their own: another compiler may build here, and two calls of cargo in one target folder wait for each other.
fn folder() -> PathBuf {
    workspace::target().join("guest")
}

fn componentize(compiler: &Compiler, build: Build, guest: &Guest, components: &Path) -> Result<()> {
    let module =
        folder().join(TARGET).join(build.profile()).join(guest.package.replace('-', "_")).with_extension("wasm");
    let module = fs::read(&module).with_context(|| format!("cargo built no {} ({compiler})", module.display()))?;
    let component = encode(&module)
        .with_context(|| format!("{} does not make a component; does it export a plugin?", guest.package))?;
    let path = components.join(guest.name).with_extension("wasm");
    if write_if_changed(&path, &component)? {
        eprintln!("wrote {} ({} KiB)", path.display(), component.len() / 1024);
    }
    Ok(())
}

fn encode(module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default().validate(true).module(module)?.encode()
}

/// Leaves a file with the same bytes alone, so that what depends on it stays fresh; replaces another one whole, because
/// a host may be reading it.
pub(crate) fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let folder = path.parent().context("a file without a folder")?;
    let scratch = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&scratch, bytes))
        .and_then(|()| fs::rename(&scratch, path))
        .with_context(|| format!("failed to write {}", path.display()))?;
    Ok(true)
}

/// The file of a guest in the folder that [`build`] returns.
pub(crate) fn component(components: &Path, name: &str) -> Result<PathBuf> {
    let path = components.join(name).with_extension("wasm");
    ensure!(path.is_file(), "{} is missing: run `cargo xtask plugins {name}`", path.display());
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_is_built_once_in_a_batch() {
        assert_eq!(batches(Build::Shipped, select(&[]).unwrap()).len(), GUESTS.len());
        let batches = batches(Build::Quick, select(&[]).unwrap());
        let names: Vec<Vec<&str>> =
            batches.iter().map(|batch| batch.iter().map(|guest| guest.name).collect()).collect();
        assert_eq!(
            names,
            [
                vec![
                    "domain",
                    "process",
                    "environment",
                    "instance",
                    "web",
                    "hostile",
                    "asker",
                    "chameleon",
                    "turner",
                    "gate",
                    "parcel"
                ],
                vec!["domain-next"],
                vec!["gate-old", "parcel-old"]
            ]
        );
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = select(&["dom".into()]).unwrap_err().to_string();
        assert_eq!(
            error,
            r#"there is no plugin "dom"; there are domain, domain-next, process, environment, instance, web, hostile, asker, chameleon, turner, gate, parcel, gate-old, parcel-old, helm, kustomize"#
        );
    }

    #[test]
    fn the_same_bytes_are_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm");
        assert!(write_if_changed(&path, b"one").unwrap());
        assert!(!write_if_changed(&path, b"one").unwrap());
        assert!(write_if_changed(&path, b"two").unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_module_without_a_world_is_refused() {
        assert!(encode(b"\0asm\x01\0\0\0").is_ok_and(|bytes| bytes.starts_with(b"\0asm")));
        assert!(encode(b"nonsense").is_err());
    }
}
