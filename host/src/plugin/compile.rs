//! From component to machine code, once for each (digest, engine version, CPU).
//!
//! Cranelift needs far more memory than the host does while it serves, and it reads bytes from outside, so it runs in a
//! child process that ends when it is done. The result is a file that is mapped, not read: an idle plugin costs next to
//! no memory.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use wasmtime::component::Component;

use super::engine::{Engine, EngineError};
use crate::plan::check::shorten;

/// A Python component of 18 MB takes about 15 s of CPU.
const COMPILE_DEADLINE: Duration = Duration::from_secs(120);

/// Why there is no machine code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The bytes are no component, or one that needs what this host does not have.
    #[error("not a valid component: {0}")]
    Invalid(String),
    /// The compiler took too long.
    #[error("compilation took longer than {0:?}")]
    DeadlineExceeded(Duration),
    /// The engine could not be set up.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file of the cache could not be read or written.
    #[error("could not use the cache of compiled plugins at {path}")]
    Cache {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

impl CompileError {
    fn cache(path: &Path, source: io::Error) -> Self {
        Self::Cache { path: path.to_owned(), source }
    }
}

/// Machine code that was loaded.
pub struct Compiled(pub(super) Component);

/// Compiles `wasm` into the file `out`, for an engine that counts fuel or not. What the hidden command `transom compile` does.
///
/// # Errors
/// When the bytes are no component or the file cannot be written.
pub fn compile_to_file(wasm: &Path, out: &Path, metered: bool) -> Result<(), CompileError> {
    let bytes = std::fs::read(wasm).map_err(|e| CompileError::cache(wasm, e))?;
    let engine = Engine::compiler(metered)?;
    let code = engine.precompile_component(&bytes).map_err(|e| CompileError::Invalid(format!("{e:#}")))?;
    std::fs::write(out, code).map_err(|e| CompileError::cache(out, e))
}

/// Machine code for a component, from the cache or from a child process (`program compile IN OUT`).
///
/// `digest` names the component (`sha256:…`); `dir` must belong to the host alone, since what is in it is run.
///
/// # Errors
/// When the bytes are no component, compilation takes too long, or the cache cannot be used.
pub async fn compile_in_child(
    engine: &Engine,
    program: &Path,
    dir: &Path,
    digest: &str,
    wasm: &[u8],
) -> Result<Compiled, CompileError> {
    let name = format!("{}-{}.cwasm", digest.trim_start_matches("sha256:"), engine.compatibility());
    let path = dir.join(name);
    if let Some(compiled) = load(engine, &path) {
        return Ok(compiled);
    }
    tokio::fs::create_dir_all(dir).await.map_err(|e| CompileError::cache(dir, e))?;
    let work = tempfile::tempdir_in(dir).map_err(|e| CompileError::cache(dir, e))?;
    let (input, output) = (work.path().join("in.wasm"), work.path().join("out.cwasm"));
    tokio::fs::write(&input, wasm).await.map_err(|e| CompileError::cache(&input, e))?;
    let child = tokio::process::Command::new(program)
        .arg("compile")
        .args([&input, &output])
        .args(engine.is_metered().then_some("--fuel"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| CompileError::cache(program, e))?;
    let done = tokio::time::timeout(COMPILE_DEADLINE, child.wait_with_output())
        .await
        .map_err(|_| CompileError::DeadlineExceeded(COMPILE_DEADLINE))?
        .map_err(|e| CompileError::cache(program, e))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let said = said.trim_start_matches("Error: ").trim_start_matches("not a valid component: ");
        return Err(CompileError::Invalid(shorten(said, 1_024)));
    }
    // a rename is atomic: another process that compiles the same sees all or nothing
    tokio::fs::rename(&output, &path).await.map_err(|e| CompileError::cache(&path, e))?;
    load(engine, &path).ok_or_else(|| CompileError::Invalid("the compiled code could not be loaded".into()))
}

/// A file from the cache, if it is there and this engine can run it.
#[allow(unsafe_code, reason = "mapping machine code cannot be checked by the compiler")]
fn load(engine: &Engine, path: &Path) -> Option<Compiled> {
    if !path.is_file() {
        return None;
    }
    // SAFETY: the file is machine code that `compile_to_file` of this program wrote, into a folder that only the host
    // writes to; wasmtime checks that the engine's version and settings fit. Nothing truncates or rewrites such a file
    // in place (it arrives by rename), so the mapping stays what it was.
    match unsafe { Component::deserialize_file(engine.wasmtime(), path) } {
        Ok(component) => Some(Compiled(component)),
        Err(error) => {
            tracing::warn!(path = %path.display(), error = %error, "compiled plugin is unusable, compiling again");
            None
        }
    }
}
