//! `cargo xtask bench engine`: charts through the engine `helm` beside Helm's own command line of the same version.
//!
//! A run of the engine is what the host does: a fresh instance, input copied in, output copied out, the instance thrown
//! away. Of the command line the CPU of the whole program is counted. Runs are interleaved.

mod charts;
mod native;
#[path = "../shared/report.rs"]
mod report;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use native::Native;
use report::{Report, percentile};
use rustix::time::{ClockId, clock_gettime};
use transom::api::plugin::Bounds;
use transom::plugin::EngineComponent;
use transom_engines::File;
use transom_engines::helm::{Chart, Release, Reply, Request};

/// The bars: milliseconds, milliseconds of CPU, CPU of the engine over CPU of the program.
const INSTANCE_AT_MOST: f64 = 1.0;
const SMALL_AT_MOST: f64 = 25.0;
const LARGE_AT_MOST: f64 = 2.5;

/// Charts through the engine beside Helm's command line.
#[derive(Debug, Parser)]
struct Options {
    /// Interleaved rounds.
    #[arg(short = 'n', default_value_t = 10)]
    rounds: usize,
    /// An unpacked chart in place of the large one that is made up.
    #[arg(long, value_name = "DIR")]
    chart: Option<PathBuf>,
    /// Measure nothing, but compare what engine and command line make of every chart in this folder.
    #[arg(long, value_name = "DIR")]
    compare: Option<PathBuf>,
    /// Where the figures go, as one flat JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    // One thread, so that its CPU clock is that of the engine.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(&options))
}

async fn run(options: &Options) -> Result<()> {
    let plugins =
        std::env::var_os("TRANSOM_TEST_PLUGINS").context("TRANSOM_TEST_PLUGINS is not set: use cargo xtask bench")?;
    let component = transom_tests::component_at(&Path::new(&plugins).join("helm.wasm"));
    let bounds = Bounds {
        memory_bytes: 1 << 30,
        deadline: Duration::from_secs(120),
        response_bytes: 17 << 20,
        ..Bounds::default()
    };
    let engine = transom_tests::native::engine(&component, bounds).await;
    let native = Native::find()?;
    match &options.compare {
        Some(folder) => charts::compare(&engine, &native, folder, options.json.as_deref()).await,
        None => measure(&engine, &native, options).await,
    }
}

async fn measure(engine: &EngineComponent, native: &Native, options: &Options) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let small = charts::made_up(scratch.path(), "small", 2)?;
    let large = match &options.chart {
        Some(folder) => folder.clone(),
        None => charts::made_up(scratch.path(), "large", 120)?,
    };
    let mut report = Report::default();
    report.section("an instance, and a run that ends at once");
    let mut walls = Vec::new();
    for _ in 0..options.rounds * 10 {
        let started = Instant::now();
        ensure!(engine.run(b"").await?.is_err(), "an empty input must be refused");
        walls.push(millis(started));
    }
    report.bar("instance_p50_ms", percentile(&walls, 0.5), INSTANCE_AT_MOST);
    for (name, folder) in [("small", &small), ("large", &large)] {
        let request = request(folder, true)?;
        let objects = Request { text: false, objects: true, ..request.clone() };
        let (input, as_objects) = (request.encode()?, objects.encode()?);
        let (mut walls, mut cpus, mut object_cpus, mut native_cpus) = (vec![], vec![], vec![], vec![]);
        let reply = same(engine, native, &request, folder).await?;
        for _ in 0..options.rounds {
            let (started, before) = (Instant::now(), cpu_millis());
            render(engine, &input).await?;
            cpus.push(cpu_millis() - before);
            walls.push(millis(started));
            let before = cpu_millis();
            render(engine, &as_objects).await?;
            object_cpus.push(cpu_millis() - before);
            native_cpus.push(native.render(folder)?.cpu_millis);
        }
        report.section(&format!("a {name} chart"));
        #[allow(clippy::cast_precision_loss, reason = "small counts")]
        {
            report.figure(
                &format!("{name}_manifests"),
                (reply.manifests.len() + reply.hooks.len() + reply.crds.len()) as f64,
            );
            report.figure(&format!("{name}_bytes"), reply.template().len() as f64);
        }
        report.figure(&format!("{name}_as_objects_cpu_ms"), mean(&object_cpus));
        report.figure(&format!("{name}_native_cpu_ms"), mean(&native_cpus));
        let ratio = mean(&cpus) / mean(&native_cpus);
        if name == "small" {
            report.bar("small_cpu_ms", mean(&cpus), SMALL_AT_MOST);
            report.figure("small_p50_ms", percentile(&walls, 0.5));
            report.figure("small_over_native_cpu", ratio);
        } else {
            report.figure("large_cpu_ms", mean(&cpus));
            report.figure("large_p50_ms", percentile(&walls, 0.5));
            report.bar("large_over_native_cpu", ratio, LARGE_AT_MOST);
        }
        report.figure(&format!("peak_mib_after_{name}"), native::peak_mib());
    }
    report.write(options.json.as_deref())
}

/// The chart in a folder, with default values.
fn request(folder: &Path, with_crds: bool) -> Result<Request> {
    Ok(Request {
        chart: Chart::Files(files(folder)?),
        release: Release {
            name: native::RELEASE.into(),
            namespace: native::NAMESPACE.into(),
            revision: 1,
            is_upgrade: false,
        },
        now: 1_790_000_000,
        seed: "a secret of the host's".into(),
        include_crds: with_crds,
        text: true,
        ..Request::default()
    })
}

fn files(folder: &Path) -> Result<Vec<File>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder)?.to_string_lossy().into_owned();
                found.push((name, std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?));
            }
        }
    }
    found.sort();
    Ok(found)
}

async fn render(engine: &EngineComponent, input: &[u8]) -> Result<Vec<u8>> {
    let output = engine.run(input).await?;
    output.map_err(|problem| anyhow!("{}: {}", problem.reason, problem.message))
}

/// Both make the same of it.
async fn same(engine: &EngineComponent, native: &Native, request: &Request, folder: &Path) -> Result<Reply> {
    let reply = Reply::decode(&render(engine, &request.encode()?).await?)?;
    ensure!(reply.error.is_none(), "the engine does not render {}: {:?}", folder.display(), reply.error);
    let first = native.render(folder)?.text.map_err(|error| anyhow!("helm: {error}"))?;
    let second = native.render(folder)?.text.map_err(|error| anyhow!("helm: {error}"))?;
    let verdict = charts::verdict(&reply.template(), &first, &second);
    ensure!(verdict.is_equal(), "the two render {} differently: {verdict:?}", folder.display());
    Ok(reply)
}

/// CPU time of this thread.
#[allow(clippy::cast_precision_loss, reason = "2^53 us are 285 years")]
fn cpu_millis() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

fn millis(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}

#[allow(clippy::cast_precision_loss, reason = "small counts")]
fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len() as f64
}
