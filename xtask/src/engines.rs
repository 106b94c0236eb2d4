//! Engines: Helm and kustomize, from their unchanged Go modules to components for the world `engine`.
//!
//! Go builds a core module for WASI preview 1; it is initialised once (`snapshot`); an adapter without imports takes the
//! place of WASI. The result depends on nothing but the sources and the Go version, and is kept in the user's cache.

mod snapshot;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};
use wit_component::{ComponentEncoder, StringEncoding};

use crate::progress::Task;
use crate::{command, tools, workspace};

/// All of them: folders of `plugins/engines/` and names of components.
pub(crate) const ENGINES: &[&str] = &["helm", "kustomize"];

/// To be changed with what is done to a module after Go has built it.
const RECIPE: &str = "1";

const ADAPTER: &str = include_str!("engines/adapter.wat");

/// Puts the engine into this folder, from the cache if it is there.
pub(crate) fn build(name: &str, components: &Path) -> Result<()> {
    let source = folder().join(name);
    let key = key(&source)?;
    let cache = tools::cache_folder()?;
    let kept = cache.join(format!("engine-{name}-{key}.wasm"));
    let lock = File::create(cache.join(format!("engine-{name}.lock")))?;
    lock.lock().context("failed to lock the engines' cache")?;
    if !kept.is_file() {
        let task = Task::start(format!("building the engine {name} (half a minute the first time)"));
        let component = component(&source).with_context(|| format!("the engine {name} cannot be built"))?;
        crate::guests::write_if_changed(&kept, &component)?;
        task.done();
    }
    let bytes = fs::read(&kept).with_context(|| format!("failed to read {}", kept.display()))?;
    crate::guests::write_if_changed(&components.join(name).with_extension("wasm"), &bytes)?;
    Ok(())
}

fn folder() -> PathBuf {
    workspace::root().join("plugins/engines")
}

fn component(source: &Path) -> Result<Vec<u8>> {
    let scratch = workspace::target().join("engines");
    fs::create_dir_all(&scratch)?;
    let module = scratch.join(source.file_name().context("a folder without a name")?).with_extension("wasm");
    let mut go = tools::go(source);
    go.env("GOOS", "wasip1").env("GOARCH", "wasm").env_remove("GOWASM");
    go.args(["build", "-trimpath", "-buildvcs=false", "-buildmode=c-shared", "-ldflags=-s -w", "-o"])
        .arg(&module)
        .arg(".");
    command::run(&mut go)?;
    let built = fs::read(&module).with_context(|| format!("go built no {}", module.display()))?;
    let component = encode(snapshot::take(&built, &["_initialize", "warm-up"])?)?;
    fs::remove_file(&module)?;
    Ok(component)
}

/// A component of a module that speaks WASI preview 1 and exports an engine's functions.
fn encode(mut module: Vec<u8>) -> Result<Vec<u8>> {
    let mut resolve = wit_parser::Resolve::default();
    let (package, _) = resolve.push_dir(workspace::root().join("wit"))?;
    let world = resolve.select_world(&[package], Some("engine"))?;
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false)?;
    let adapter = wat::parse_str(ADAPTER)?;
    ComponentEncoder::default().validate(true).module(&module)?.adapter("wasi_snapshot_preview1", &adapter)?.encode()
}

/// Everything that decides what is built.
fn key(source: &Path) -> Result<String> {
    let mut files = Vec::new();
    for folder in [source.to_owned(), folder().join("guest"), workspace::root().join("wit")] {
        list(&folder, &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    for part in [RECIPE, ADAPTER, include_str!("engines/snapshot.rs"), &tools::go_version(source)?] {
        add(part.as_bytes());
    }
    for file in files {
        add(file.strip_prefix(workspace::root()).unwrap_or(&file).as_os_str().as_encoded_bytes());
        add(&fs::read(&file).with_context(|| format!("failed to read {}", file.display()))?);
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else if path.extension().is_none_or(|extension| extension != "md") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_changes_with_every_source_but_not_with_the_words_about_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("go.mod"), "module a\n").unwrap();
        let first = key(folder.path()).unwrap();
        fs::write(folder.path().join("README.md"), "text").unwrap();
        assert_eq!(key(folder.path()).unwrap(), first);
        fs::write(folder.path().join("a.go"), "package a\n").unwrap();
        assert_ne!(key(folder.path()).unwrap(), first);
    }

    #[test]
    fn the_adapter_is_valid_and_imports_only_the_memory() {
        let module = wat::parse_str(ADAPTER).unwrap();
        wasmparser::validate(&module).unwrap();
        let imports: Vec<_> = wasmparser::Parser::new(0)
            .parse_all(&module)
            .filter_map(|payload| match payload.unwrap() {
                wasmparser::Payload::ImportSection(imports) => Some(imports.into_imports().count()),
                _ => None,
            })
            .collect();
        assert_eq!(imports, [1]);
    }
}
