//! From component to machine code, once for each (digest, engine version, CPU).
//!
//! Cranelift needs far more memory than the host does while it serves, and it reads bytes from outside, so it runs in a
//! child process that ends when it is done. The result is a file that is mapped, not read: an idle plugin costs next to
//! no memory. What is kept on disk for the next start is sealed ([`Seal`]).

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use wasmtime::component::Component;

use super::engine::{Engine, EngineError};
use super::seal::Seal;
use crate::plan::check::shorten;

/// A Go component of 24 MB takes about 16 s of CPU, on a busy machine several times that of wall clock.
const COMPILE_DEADLINE: Duration = Duration::from_secs(300);

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

/// Where machine code is kept, and how the host knows it for its own.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Folder; others may be able to write to it.
    pub dir: PathBuf,
    /// What they cannot write.
    pub seal: Seal,
}

/// Compiles a component for an engine that counts fuel or not. What the hidden command `transom compile` does.
///
/// # Errors
/// When the bytes are no component.
pub fn compile(wasm: &[u8], metered: bool) -> Result<Vec<u8>, CompileError> {
    let engine = Engine::compiler(metered)?;
    engine.precompile_component(wasm).map_err(|e| CompileError::Invalid(format!("{e:#}")))
}

/// Machine code for a component, from the cache or from a child process (`program compile`, component on stdin, code on
/// stdout).
///
/// `digest` names the component (`sha256:…`). What is not sealed by this host is compiled again, and what is run has no
/// name in the file system, from the compiler's output on: nobody can exchange or change it.
///
/// # Errors
/// When the bytes are no component, compilation takes too long, or the cache cannot be used.
pub async fn compile_in_child(
    engine: &Engine,
    program: &Path,
    cache: &Cache,
    digest: &str,
    wasm: &[u8],
) -> Result<Compiled, CompileError> {
    let Cache { dir, seal } = cache;
    let hex = digest.trim_start_matches("sha256:");
    let path = dir.join(format!("{hex}-{}-{}.cwasm", engine.compatibility(), seal.id()));
    if let Some(compiled) = blocking(&path, {
        let (engine, seal, path) = (engine.clone(), seal.clone(), path.clone());
        move || Ok(from_cache(&engine, &seal, &path))
    })
    .await?
    {
        return Ok(compiled);
    }
    tokio::fs::create_dir_all(dir).await.map_err(|e| CompileError::cache(dir, e))?;
    let (input, output) = blocking(dir, {
        let (dir, wasm) = (dir.clone(), wasm.to_vec());
        move || {
            let mut input = tempfile::tempfile_in(&dir)?;
            input.write_all(&wasm)?;
            input.rewind()?;
            Ok((input, tempfile::tempfile_in(&dir)?))
        }
    })
    .await?;
    let stdout = output.try_clone().map_err(|e| CompileError::cache(dir, e))?;
    let child = tokio::process::Command::new(program)
        .arg("compile")
        .args(engine.is_metered().then_some("--fuel"))
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(stdout))
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
    blocking(&path, {
        let (engine, seal, path, mut output) = (engine.clone(), seal.clone(), path.clone(), output);
        move || {
            seal.write(&path, &mut output)?;
            Ok(map(&engine, &output))
        }
    })
    .await?
    .map_err(|error| CompileError::Invalid(format!("the compiled code could not be loaded: {error:#}")))
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, CompileError> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| CompileError::cache(path, error))
}

/// A file from the cache, if it is there, this host wrote it, and this engine can run it.
fn from_cache(engine: &Engine, seal: &Seal, path: &Path) -> Option<Compiled> {
    let unusable = |error: &dyn std::fmt::Display| {
        tracing::warn!(path = %path.display(), %error, "compiled plugin is unusable, compiling again");
    };
    let code = seal.open(path).inspect_err(|error| unusable(error)).ok()??;
    map(engine, &code).inspect_err(|error| unusable(error)).ok()
}

/// Maps a file without a name: its pages are read when they are needed, and cost an idle plugin nothing.
#[allow(unsafe_code, reason = "mapping machine code cannot be checked by the compiler")]
fn map(engine: &Engine, code: &File) -> wasmtime::Result<Compiled> {
    let path = format!("/proc/self/fd/{}", code.as_raw_fd());
    // SAFETY: the file is machine code that `compile` of this program wrote: it comes from the child process, or from a
    // file whose seal has been checked while it was copied. It has no name, so nothing else opens, truncates or rewrites
    // it. wasmtime checks that the engine's version and settings fit.
    unsafe { Component::deserialize_file(engine.wasmtime(), path) }.map(Compiled)
}
