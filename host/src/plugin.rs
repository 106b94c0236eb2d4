//! Runs components. The only place that knows wasmtime.
//!
//! One [`Engine`] serves the whole process: one configuration, one pool of instances, one thread that advances the
//! epoch. Every call gets a fresh instance from the pool with its own memory limit and deadline; what a trapped
//! instance leaves behind is never seen again.

mod bindings;
mod compile;
mod convert;
mod engine;
mod error;
mod instance;
mod runner;
mod seal;
mod webhook;

pub use compile::{Cache, CompileError, Compiled, compile, compile_in_child};
pub use engine::{Engine, EngineError};
pub use error::CallError;
pub use instance::{CallStats, LoadError, Plugin};
pub use runner::EngineComponent;
pub use seal::Seal;
pub use webhook::{Review, Verdict};
