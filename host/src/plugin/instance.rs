//! One loaded version of a plugin, and calls to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, ComponentType, HasSelf, InstancePre, Lift, Linker, Lower, TypedFunc,
};
use wasmtime::{ResourceLimiter, Store, Trap, UpdateDeadline};

use super::bindings::exports::transom::plugin::reconciler as wit;
use super::bindings::{PluginPre, transom::plugin::host as wit_host};

use super::compile::Compiled;
use super::convert;
use super::engine::{Engine, Running};
use super::error::CallError;
use super::webhook::Exports;
use crate::api::plugin::Bounds;
use crate::plan::contract::{Failure, Manifest, Request, Step};

/// The interface that every plugin exports.
const INTERFACE: &str = "transom:plugin/reconciler@0.1.0";

/// Lines that one call may log, and the length of one.
const MAX_LOG_LINES: u32 = 64;
const MAX_LOG_BYTES: usize = 4 << 10;

/// Why a component cannot be a plugin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It imports something that no plugin may have, or misses an export.
    #[error("does not fit the world transom:plugin/plugin: {0}")]
    World(String),
    /// The same for an engine.
    #[error("does not fit the world transom:plugin/engine: {0}")]
    Engine(String),
    /// `describe` failed.
    #[error("could not describe itself")]
    Describe(#[source] CallError),
}

/// What one call took.
#[derive(Clone, Copy, Debug)]
pub struct CallStats {
    /// Wall clock.
    pub duration: Duration,
    /// Linear memory at the end.
    pub memory_bytes: usize,
    /// Where the engine counts it: the same for the same request, on every machine.
    pub fuel: Option<u64>,
}

/// One loaded version. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    pre: InstancePre<State>,
    describe: ComponentExportIndex,
    reconcile: ComponentExportIndex,
    exports: Exports,
    engine: Engine,
    name: Arc<str>,
    bounds: Bounds,
}

impl Plugin {
    /// Checks that a component fits the world, and makes it ready to be called.
    ///
    /// # Errors
    /// When it imports anything but `transom:plugin/host`, or misses an export.
    pub async fn new(engine: &Engine, compiled: &Compiled, name: &str, bounds: Bounds) -> Result<Self, LoadError> {
        let world = |error: wasmtime::Error| LoadError::World(format!("{error:#}"));
        let mut linker = Linker::<State>::new(engine.wasmtime());
        wit_host::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state).map_err(world)?;
        let pre = linker.instantiate_pre(&compiled.0).map_err(world)?;
        let export = |function: &str| {
            let (_, interface) = compiled.0.get_export(None, INTERFACE)?;
            Some(compiled.0.get_export(Some(&interface), function)?.1)
        };
        // the checks that find a missing export name it
        let checked = PluginPre::new(pre.clone()).map_err(world)?;
        let missing = || LoadError::World(format!("no exports of {INTERFACE}"));
        let plugin = Self {
            describe: export("describe").ok_or_else(missing)?,
            reconcile: export("reconcile").ok_or_else(missing)?,
            exports: Exports::find(compiled)?,
            pre,
            engine: engine.clone(),
            name: name.into(),
            bounds,
        };
        // An instance with the types of its exports compared with ours: what `call` relies on.
        let mut store = store(engine, &plugin.name, &bounds);
        match checked.instantiate_async(&mut store).await {
            Ok(_) => plugin.check_exports().await,
            Err(error) => match plugin.classify(&error, store.data(), CallError::Unavailable) {
                CallError::Unavailable(text) => Err(LoadError::World(text)),
                error => Err(LoadError::Describe(error)),
            },
        }
    }

    /// The same for the exports that it need not have.
    async fn check_exports(self) -> Result<Self, LoadError> {
        if self.exports.any() {
            let mut store = store(&self.engine, &self.name, &self.bounds);
            let instance = self.pre.instantiate_async(&mut store).await;
            let instance = instance.map_err(|error| LoadError::World(format!("{error:#}")))?;
            self.exports.check(&instance, &mut store)?;
        }
        Ok(self)
    }

    pub(super) fn exports(&self) -> Exports {
        self.exports
    }

    /// The bounds of one call.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// The same version with other bounds.
    #[must_use]
    pub fn with_bounds(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// Asks the plugin what it is.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn describe(&self) -> Result<Manifest, LoadError> {
        let (manifest, _) = self.call::<_, wit::Manifest>(self.describe, ()).await.map_err(LoadError::Describe)?;
        Ok(convert::manifest(manifest))
    }

    /// One round of a reconcile.
    ///
    /// # Errors
    /// When the call gives no answer. An answer that says the plugin failed is an `Ok(Err(…))`.
    pub async fn reconcile(&self, request: &Request) -> Result<(Result<Step, Failure>, CallStats), CallError> {
        let request = convert::request(request);
        let (answer, stats) = self.call::<_, Result<wit::Step, wit::Failure>>(self.reconcile, (&request,)).await?;
        Ok((answer.map(convert::step).map_err(convert::failure), stats))
    }

    /// One call to a fresh instance.
    pub(super) async fn call<P, R>(
        &self,
        function: ComponentExportIndex,
        arguments: P,
    ) -> Result<(R, CallStats), CallError>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        R: ComponentType + Lift + Send + Sync + 'static,
    {
        let mut store = store(&self.engine, &self.name, &self.bounds);
        let instance = self.pre.instantiate_async(&mut store).await;
        let instance = instance.map_err(|error| self.classify(&error, store.data(), CallError::Unavailable))?;
        let unavailable = || CallError::Unavailable("the component has lost an export".into());
        let function = instance.get_func(&mut store, function).ok_or_else(unavailable)?;
        #[allow(unsafe_code, reason = "comparing the types again in each call takes as long as a small call")]
        // SAFETY: `new` has compared the types of this component's exports with those of the bindings. They are part of
        // the component, the same in all of its instances.
        let function = unsafe { TypedFunc::<P, (R,)>::new_unchecked(function) };
        let answer = function.call_async(&mut store, arguments).await;
        let state = store.data();
        state.report_dropped_lines();
        let given = self.bounds.fuel.unwrap_or(u64::MAX);
        let fuel = if self.engine.is_metered() { store.get_fuel().ok().map(|left| given - left) } else { None };
        let stats = CallStats { duration: state.started.elapsed(), memory_bytes: state.limits.memory, fuel };
        match answer {
            Ok((answer,)) => Ok((answer, stats)),
            Err(error) => Err(self.classify(&error, state, CallError::MalformedResponse)),
        }
    }

    fn classify(&self, error: &wasmtime::Error, state: &State, other: fn(String) -> CallError) -> CallError {
        classify(error, state, &self.bounds, other)
    }
}

/// What one call runs in: with its own limits, thrown away afterwards.
pub(super) fn store(engine: &Engine, name: &Arc<str>, bounds: &Bounds) -> Store<State> {
    let mut store = Store::new(engine.wasmtime(), State::new(name, bounds.memory_bytes, engine.begin()));
    store.limiter(|state| &mut state.limits);
    // what a guest hands over is bounded before it is copied
    store.set_hostcall_fuel(bounds.response_bytes);
    if engine.is_metered() {
        // fails only for an engine that counts no fuel
        let _ = store.set_fuel(bounds.fuel.unwrap_or(u64::MAX));
    }
    store.set_epoch_deadline(1);
    let (started, deadline) = (store.data().started, bounds.deadline);
    store.epoch_deadline_callback(move |_| {
        if started.elapsed() > deadline {
            return Err(wasmtime::Error::from(DeadlineExceeded));
        }
        Ok(UpdateDeadline::Yield(1)) // other tasks of this thread get their turn
    });
    store
}

/// How a call failed.
pub(super) fn classify(
    error: &wasmtime::Error,
    state: &State,
    bounds: &Bounds,
    other: fn(String) -> CallError,
) -> CallError {
    if error.is::<DeadlineExceeded>() {
        return CallError::DeadlineExceeded(bounds.deadline);
    }
    if state.limits.refused {
        return CallError::OutOfMemory(bounds.memory_bytes);
    }
    if let (Some(Trap::OutOfFuel), Some(fuel)) = (error.downcast_ref::<Trap>(), bounds.fuel) {
        return CallError::OutOfFuel(fuel);
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        let said = state.last_error.as_deref().map_or_else(|| trap.to_string(), ToOwned::to_owned);
        return CallError::Trapped(said);
    }
    let text = crate::plan::check::shorten(&format!("{error:#}"), 512);
    if text.contains("fuel allocated for hostcalls") {
        return CallError::ResponseTooLarge(bounds.response_bytes);
    }
    other(text)
}

#[derive(Debug, thiserror::Error)]
#[error("deadline exceeded")]
struct DeadlineExceeded;

/// What belongs to one call.
pub(super) struct State {
    /// Without it the epoch rests, and no deadline is noticed.
    _running: Running,
    plugin: Arc<str>,
    started: Instant,
    limits: Limits,
    lines: u32,
    /// The last line logged as an error: SDKs log a panic's message before the trap, which itself carries none.
    last_error: Option<String>,
}

impl State {
    fn new(plugin: &Arc<str>, max_memory: usize, running: Running) -> Self {
        Self {
            _running: running,
            plugin: plugin.clone(),
            started: Instant::now(),
            limits: Limits { max: max_memory, memory: 0, refused: false },
            lines: 0,
            last_error: None,
        }
    }

    pub(super) fn report_dropped_lines(&self) {
        let dropped = self.lines.saturating_sub(MAX_LOG_LINES);
        if dropped > 0 {
            tracing::warn!(plugin = &*self.plugin, dropped, "plugin logs too much");
        }
    }
}

impl wit_host::Host for State {
    fn log(&mut self, level: wit_host::Level, message: String) {
        self.lines += 1;
        let message = crate::plan::check::shorten(&message, MAX_LOG_BYTES);
        if level == wit_host::Level::Error {
            self.last_error = Some(crate::plan::check::shorten(&message, 512));
        }
        if self.lines > MAX_LOG_LINES {
            return;
        }
        let plugin = &*self.plugin;
        match level {
            wit_host::Level::Trace => tracing::trace!(target: "plugin", plugin, "{message}"),
            wit_host::Level::Debug => tracing::debug!(target: "plugin", plugin, "{message}"),
            wit_host::Level::Info => tracing::info!(target: "plugin", plugin, "{message}"),
            wit_host::Level::Warn => tracing::warn!(target: "plugin", plugin, "{message}"),
            wit_host::Level::Error => tracing::error!(target: "plugin", plugin, "{message}"),
        }
    }
}

/// Bounds the memory of all instances in one component together.
struct Limits {
    max: usize,
    memory: usize,
    refused: bool,
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory.saturating_sub(current).saturating_add(desired);
        if total > self.max {
            self.refused = true;
            return Ok(false);
        }
        self.memory = total;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 100_000)
    }
}
