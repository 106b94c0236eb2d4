//! `cargo xtask bench call`: one reconcile call through WebAssembly beside the same function native.
//!
//! Both get the request of a Domain's steady state and both are timed from the request to the plan. Through WebAssembly
//! that is what the host does: a fresh instance, the request copied in, the plan copied out, the instance cleared.
//! Native is the bare function, without a copy of its request.
//!
//! Then more plugins are loaded that nobody calls any more: what each of them costs in memory.
//!
//! Rounds are interleaved, and what counts is the ratio of each round's medians: on a busy machine both are slow at the
//! same time.

mod domain;
#[path = "../shared/memory.rs"]
mod memory;
#[path = "../shared/report.rs"]
mod report;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use report::{Report, percentile};
use rustix::time::{ClockId, clock_gettime};
use transom::api::plugin::Bounds;
use transom::plan::contract::{Request, Step};
use transom::plugin::{Cache, Engine, Plugin, Seal};
use transom::registry::{Loader, digest_of};
use transom_plugin_domain::DomainPlugin;
use transom_sdk::testing::{call, wire};

/// The bar of `wasm_over_native`.
const AT_MOST: f64 = 1.5;

/// One Domain reconcile call through WebAssembly beside the same function native.
#[derive(Debug, Parser)]
struct Options {
    /// Interleaved rounds.
    #[arg(short = 'n', default_value_t = 300)]
    rounds: usize,
    /// Calls of each kind in one round.
    #[arg(long, default_value_t = 30)]
    calls: usize,
    /// Where the figures go, as one flat JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    // One thread, so that its CPU clock is that of the calls.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(&options))
}

async fn run(options: &Options) -> Result<()> {
    let (loader, wasm) = (loader()?, component()?);
    let plugin = load(&loader, &wasm).await?;
    let native = domain::steady();
    let component = wasm;
    let wasm = domain::for_host(&native)?;
    let plan = same_plan(&plugin, &native, &wasm).await?;
    let asking = Request { answers: Vec::new(), ..wasm.clone() };
    ensure!(matches!(plugin.reconcile(&asking).await?.0, Ok(Step::Ask(_))), "a Domain without answers must ask");
    let unreadable = Request { object: "{}".into(), children: Vec::new(), answers: Vec::new(), ..wasm.clone() };
    ensure!(plugin.reconcile(&unreadable).await?.0.is_err(), "an object without a spec must fail");

    let mut samples = Samples::default();
    for _ in 0..options.rounds {
        samples.native.round(
            options.calls,
            || native.clone(),
            |request| drop(black_box(call::<DomainPlugin>(request))),
        );
        samples.wasm.round_async(options.calls, &plugin, &wasm).await?;
        samples.ask.round_async(options.calls, &plugin, &asking).await?;
        samples.empty.round_async(options.calls, &plugin, &unreadable).await?;
    }
    let idle = idle(&loader, &component, &wasm).await?;
    print(&samples, &native, plan, &idle, options)
}

fn variable(name: &str) -> Result<std::ffi::OsString> {
    std::env::var_os(name).with_context(|| format!("{name} is not set: use cargo xtask bench"))
}

fn component() -> Result<Vec<u8>> {
    let path = Path::new(&variable("TRANSOM_TEST_PLUGINS")?).join("domain.wasm");
    std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn loader() -> Result<Loader> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled");
    let cache = Cache { seal: Seal::in_file(&dir.with_extension("key"))?, dir };
    Ok(Loader { engine: Engine::new()?, program: variable("TRANSOM_BIN")?.into(), cache })
}

async fn load(loader: &Loader, wasm: &[u8]) -> Result<Plugin> {
    Ok(loader.load("domain", wasm, &digest_of(wasm), Bounds::default()).await?.plugin)
}

/// What each of some plugins more costs, in KiB: its own memory, and pages of its mapped code that were ever run.
struct Idle {
    anonymous_kib: f64,
    mapped_kib: f64,
    /// Of this process, all plugins loaded.
    peak_mib: f64,
}

/// Loads builds with other bytes, calls each once and leaves them.
async fn idle(loader: &Loader, wasm: &[u8], request: &Request) -> Result<Idle> {
    const PLUGINS: u8 = 10;
    let build = |number: u8| [wasm, &[0, 6, 4, b'i', b'd', b'l', b'e', number]].concat();
    // what is allocated once, for the first of them
    let mut plugins = vec![load(loader, &build(0)).await?];
    let before = memory::memory(std::process::id());
    for number in 1..=PLUGINS {
        let plugin = load(loader, &build(number)).await?;
        ensure!(plugin.reconcile(request).await?.0.is_ok(), "a call must end");
        plugins.push(plugin);
    }
    let after = memory::memory(std::process::id());
    let each = |after: f64, before: f64| (after - before) * 1024.0 / f64::from(PLUGINS);
    Ok(Idle {
        anonymous_kib: each(after.anonymous_mib, before.anonymous_mib),
        mapped_kib: each(after.files_mib, before.files_mib),
        peak_mib: after.peak_mib,
    })
}

/// Both do the same work. Returns the bytes of the plan.
async fn same_plan(plugin: &Plugin, native: &wire::Request, wasm: &Request) -> Result<usize> {
    let (step, _) = plugin.reconcile(wasm).await?;
    let Ok(Step::Done(through_wasm)) = step else { bail!("no plan through WebAssembly: {step:?}") };
    let step = call::<DomainPlugin>(native.clone()).map_err(|failure| anyhow!("{failure:?}"))?;
    let wire::Step::Done(direct) = step else { bail!("no plan from the native function: {step:?}") };
    let children = |texts: Vec<&str>| texts.join("\n");
    let (a, b) = (
        children(through_wasm.children.iter().map(|child| child.object.as_str()).collect()),
        children(direct.children.iter().map(|child| child.object.as_str()).collect()),
    );
    ensure!(a == b && through_wasm.status == direct.status, "the plans differ:\n{a}\n{b}");
    Ok(a.len() + direct.status.map_or(0, |status| status.len()))
}

/// Times in microseconds.
#[derive(Default)]
struct Series {
    walls: Vec<f64>,
    medians: Vec<f64>,
    /// CPU of one call, one entry for each round.
    cpus: Vec<f64>,
}

#[derive(Default)]
struct Samples {
    native: Series,
    wasm: Series,
    ask: Series,
    empty: Series,
}

impl Series {
    fn round<I>(&mut self, calls: usize, prepare: impl Fn() -> I, work: impl Fn(I)) {
        let inputs: Vec<I> = (0..calls).map(|_| prepare()).collect();
        let mut walls = Vec::with_capacity(calls);
        let before = cpu();
        for input in inputs {
            let started = Instant::now();
            work(input);
            walls.push(micros(started));
        }
        self.end(before, walls);
    }

    async fn round_async(&mut self, calls: usize, plugin: &Plugin, request: &Request) -> Result<()> {
        let mut walls = Vec::with_capacity(calls);
        let before = cpu();
        for _ in 0..calls {
            let started = Instant::now();
            drop(black_box(plugin.reconcile(request).await?));
            walls.push(micros(started));
        }
        self.end(before, walls);
        Ok(())
    }

    #[allow(clippy::cast_precision_loss, reason = "small counts")]
    fn end(&mut self, cpu_before: f64, walls: Vec<f64>) {
        self.cpus.push((cpu() - cpu_before) / walls.len() as f64);
        self.medians.push(percentile(&walls, 0.5));
        self.walls.extend(walls);
    }

    fn figures(&self, name: &str, report: &mut Report) {
        report.figure(&format!("{name}_p50_us"), percentile(&self.walls, 0.5));
        report.figure(&format!("{name}_p99_us"), percentile(&self.walls, 0.99));
        report.figure(&format!("{name}_min_us"), percentile(&self.walls, 0.0));
    }
}

/// CPU time of this thread, in microseconds.
#[allow(clippy::cast_precision_loss, reason = "2^53 us are 285 years")]
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

fn micros(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e6
}

/// The median of the rounds' ratios.
fn ratio(above: &[f64], below: &[f64]) -> f64 {
    percentile(&above.iter().zip(below).map(|(a, b)| a / b).collect::<Vec<_>>(), 0.5)
}

#[allow(clippy::cast_precision_loss, reason = "small counts")]
fn print(samples: &Samples, request: &wire::Request, plan: usize, idle: &Idle, options: &Options) -> Result<()> {
    let mut report = Report::default();
    let Samples { native, wasm, ask, empty } = samples;
    report.section("one call of a Domain's steady state");
    report.figure("request_bytes", domain::bytes(request) as f64);
    report.figure("plan_bytes", plan as f64);
    report.figure("rounds", options.rounds as f64);
    report.figure("calls_per_round", options.calls as f64);
    report.section("the native function");
    native.figures("native", &mut report);
    report.section("through WebAssembly, a fresh instance for each call");
    wasm.figures("wasm", &mut report);
    report.figure("wasm_calls_per_cpu_s", 1e6 / percentile(&wasm.cpus, 0.5));
    report.section("a round that only asks");
    ask.figures("ask", &mut report);
    report.section("an instance and a call that ends at once");
    empty.figures("instantiate", &mut report);
    report.section("a plugin that is loaded, was called once, and is not called any more");
    report.figure("idle_plugin_anonymous_kib", idle.anonymous_kib);
    report.figure("idle_plugin_mapped_kib", idle.mapped_kib);
    report.figure("peak_mib", idle.peak_mib);
    report.section("ratio");
    report.figure("wasm_over_native_min", percentile(&wasm.walls, 0.0) / percentile(&native.walls, 0.0));
    report.figure("wasm_over_native_cpu", ratio(&wasm.cpus, &native.cpus));
    report.bar("wasm_over_native", ratio(&wasm.medians, &native.medians), AT_MOST);
    report.write(options.json.as_deref())
}
