//! One loaded engine, and runs of it.

use std::sync::Arc;

use wasmtime::component::{HasSelf, Linker};

use super::compile::Compiled;
use super::engine::Engine;
use super::error::CallError;
use super::instance::{LoadError, State, classify, store};
use crate::api::plugin::Bounds;
use crate::plan::contract::Problem;

/// Host side of the world `engine`; the import is the one of the world `plugin`.
mod bindings {
    #![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "engine",
        exports: { default: async },
        with: {
            "transom:plugin/host": crate::plugin::bindings::transom::plugin::host,
            "transom:plugin/types": crate::plugin::bindings::transom::plugin::types,
        },
    });
}

/// One loaded version of an engine. Cheap to clone.
#[derive(Clone)]
pub struct EngineComponent {
    pre: Arc<bindings::EnginePre<State>>,
    engine: Engine,
    name: Arc<str>,
    bounds: Bounds,
}

impl EngineComponent {
    /// Checks that a component fits the world, and makes it ready to be run.
    ///
    /// # Errors
    /// When it imports anything but `transom:plugin/host`, or misses an export.
    pub fn new(engine: &Engine, compiled: &Compiled, name: &str, bounds: Bounds) -> Result<Self, LoadError> {
        let world = |error: wasmtime::Error| LoadError::Engine(format!("{error:#}"));
        let mut linker = Linker::<State>::new(engine.wasmtime());
        super::bindings::transom::plugin::host::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)
            .map_err(world)?;
        let pre = linker.instantiate_pre(&compiled.0).map_err(world)?;
        let pre = Arc::new(bindings::EnginePre::new(pre).map_err(world)?);
        Ok(Self { pre, engine: engine.clone(), name: name.into(), bounds })
    }

    /// The bounds of one run.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// One run, in a fresh instance. Gives other tasks of the thread their turn every few milliseconds.
    ///
    /// # Errors
    /// When the run gives no answer. An answer that says the engine failed is an `Ok(Err(…))`.
    pub async fn run(&self, input: &[u8]) -> Result<Result<Vec<u8>, Problem>, CallError> {
        let mut store = store(&self.engine, &self.name, &self.bounds);
        let engine = match self.pre.instantiate_async(&mut store).await {
            Ok(engine) => engine,
            Err(error) => return Err(classify(&error, store.data(), &self.bounds, CallError::Unavailable)),
        };
        let answer = engine.transom_plugin_runner().call_run(&mut store, input).await;
        store.data().report_dropped_lines();
        match answer {
            Ok(answer) => Ok(answer.map_err(|p| Problem { reason: p.reason, message: p.message })),
            Err(error) => Err(classify(&error, store.data(), &self.bounds, CallError::MalformedResponse)),
        }
    }
}
