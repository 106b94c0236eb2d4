//! The engine: configuration, pool and clock for all components.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::api::plugin::{Bounds, MAX_MEMORY_BYTES};

/// How often the epoch advances: the grain of deadlines, and how long a guest may keep an async thread to itself.
const TICK: Duration = Duration::from_millis(10);

/// Ticks without a call after which the epoch rests: an idle host wakes no processor 100 times a second.
const IDLE_TICKS: u32 = 50;

/// Calls that can run at the same time, each with one component instance.
const MAX_CALLS: u32 = 64;

/// Core instances, memories and tables in one component. Rust and Go need one or two, Python more than four.
const MAX_PER_COMPONENT: u32 = 16;

/// Memory of a finished call that is zeroed and kept instead of given back: spares the page faults of the next call,
/// which are most of what a fresh instance costs. The working set of a typical call is below this.
const KEEP_RESIDENT: usize = 1 << 20;

/// The engine could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("could not set up the WebAssembly engine")]
pub struct EngineError(#[source] pub(super) wasmtime::Error);

/// One for the process. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: wasmtime::Engine,
    ticker: Arc<Ticker>,
    metered: bool,
    /// Its metered twin, made when it is first needed.
    twin: Arc<OnceLock<Engine>>,
}

impl Engine {
    /// Sets the engine up and starts its ticker.
    ///
    /// # Errors
    /// When the kernel refuses the address space for the pool, or the CPU is not supported.
    pub fn new() -> Result<Self, EngineError> {
        // Clearing by what was touched (pagemap scan) needs Linux 6.7.
        Self::with_fuel(false)
    }

    /// An engine that counts the fuel of every call, which makes calls about a third slower; for replay and for plugins whose
    /// record limits it.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn metered() -> Result<Self, EngineError> {
        Self::with_fuel(true)
    }

    fn with_fuel(metered: bool) -> Result<Self, EngineError> {
        let engine = |scan| wasmtime::Engine::new(config(scan).consume_fuel(metered));
        let inner = engine(Enabled::Yes).or_else(|_| engine(Enabled::No)).map_err(EngineError)?;
        let ticker = Arc::new(Ticker::start(inner.clone()));
        Ok(Self { inner, ticker, metered, twin: Arc::default() })
    }

    /// The engine for calls within these bounds: one that counts fuel when they limit it.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn within(&self, bounds: &Bounds) -> Result<Self, EngineError> {
        if bounds.fuel.is_none() || self.metered {
            return Ok(self.clone());
        }
        if let Some(twin) = self.twin.get() {
            return Ok(twin.clone());
        }
        let made = Self::metered()?;
        Ok(self.twin.get_or_init(|| made).clone())
    }

    /// Does it count fuel?
    #[must_use]
    pub fn is_metered(&self) -> bool {
        self.metered
    }

    /// An engine that compiles and runs nothing: without pool and ticker, but with the same code generation.
    ///
    /// # Errors
    /// When the CPU is not supported.
    pub(super) fn compiler(metered: bool) -> Result<wasmtime::Engine, EngineError> {
        let mut config = base_config();
        config.parallel_compilation(true).consume_fuel(metered);
        wasmtime::Engine::new(&config).map_err(EngineError)
    }

    pub(super) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.inner
    }

    /// A call begins: without this its deadline may not be noticed.
    pub(super) fn begin(&self) -> Running {
        let state = &self.ticker.state;
        state.running.fetch_add(1, Ordering::SeqCst);
        if state.parked.load(Ordering::SeqCst) {
            self.ticker.thread.unpark();
        }
        Running(self.ticker.clone())
    }

    /// Tells apart code that this engine can load from code that another version or CPU made.
    #[must_use]
    pub fn compatibility(&self) -> String {
        use std::hash::{Hash, Hasher};
        let mut hasher = std::hash::DefaultHasher::new();
        self.inner.precompile_compatibility_hash().hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}

/// Everything that decides on the generated code.
fn base_config() -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true).concurrency_support(false).epoch_interruption(true);
    config
}

fn config(pagemap_scan: Enabled) -> Config {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(MAX_CALLS)
        .total_core_instances(MAX_CALLS * MAX_PER_COMPONENT)
        .total_memories(MAX_CALLS * 2)
        .total_tables(MAX_CALLS * MAX_PER_COMPONENT)
        .total_stacks(MAX_CALLS)
        .max_core_instances_per_component(MAX_PER_COMPONENT)
        .max_memories_per_component(MAX_PER_COMPONENT)
        .max_tables_per_component(MAX_PER_COMPONENT)
        .table_elements(100_000)
        .max_memory_size(MAX_MEMORY_BYTES)
        .max_unused_warm_slots(8)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(64 << 10)
        .pagemap_scan(pagemap_scan);
    let mut config = base_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// Advances the epoch for as long as an engine lives and something runs in it. A thread of its own: the async threads may
/// all be in guests.
struct Ticker {
    state: Arc<TickerState>,
    thread: Thread,
}

#[derive(Default)]
struct TickerState {
    /// Calls in flight.
    running: AtomicUsize,
    /// The thread sleeps until it is woken.
    parked: AtomicBool,
    stopped: AtomicBool,
}

impl Ticker {
    fn start(engine: wasmtime::Engine) -> Self {
        let state = Arc::<TickerState>::default();
        let shared = state.clone();
        let thread = std::thread::spawn(move || shared.tick(&engine)).thread().clone();
        Self { state, thread }
    }
}

impl TickerState {
    fn tick(&self, engine: &wasmtime::Engine) {
        let mut idle = 0;
        while !self.stopped.load(Ordering::SeqCst) {
            std::thread::sleep(TICK);
            engine.increment_epoch();
            idle = if self.running.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
            if idle < IDLE_TICKS {
                continue;
            }
            self.parked.store(true, Ordering::SeqCst);
            // a call that began meanwhile has not seen the flag
            while self.running.load(Ordering::SeqCst) == 0 && !self.stopped.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.parked.store(false, Ordering::SeqCst);
            idle = 0;
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// Keeps the epoch going for as long as a call runs.
pub(super) struct Running(Arc<Ticker>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.state.running.fetch_sub(1, Ordering::SeqCst);
    }
}
