//! `cargo xtask bench instances`: Helm releases, by the real engine.
//!
//! As `fleet`, with N instances of one small chart, each in a namespace of its own. What the bare client applies is what
//! the host has applied for a first instance. Then all instances are looked at again: because each of them was touched, by
//! another version of the plugin, and by a host that starts anew.

mod instance;
#[path = "../shared/mod.rs"]
mod shared;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use transom::registry::digest_of;

use instance::{CHART, INSTANCE};
use shared::bench::{self, Bars, Bench, NAMESPACE, TAIL, count, print_all};
use shared::host::Host;

/// Helm releases, by the real engine.
#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    common: bench::Options,
}

/// The longest that looking at all instances again may take.
const AGAIN: Duration = Duration::from_secs(300);

/// A host that calls no plugin and runs no engine for this long has nothing more to do.
const QUIET: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    let options = Options::parse();
    // One thread: on a machine with two cores the measuring must not take the place of what is measured.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(options))
}

async fn run(options: Options) -> Result<()> {
    let spec = spec()?;
    let bars = Bars {
        applies: count(INSTANCE.per_primary) + 2.0, // and two steps of the release, each written down first
        status_writes: 3.0,
        reads: f64::INFINITY,
        cpu_ms: f64::INFINITY,
        peak_mib: f64::INFINITY,
        time_over_bare: f64::INFINITY,
        ready_over_bare: f64::INFINITY,
    };
    let mut bench = Bench::new(&INSTANCE, options.common, bars).await?;
    let host = Host::start("first").await?;
    host.install(&bench.api, &INSTANCE, spec.clone()).await?;
    instance::measure_one(&bench.api).await?;
    host.stop().await?;

    let before = bench.bare("bare-before").await?;
    bench.api.create_namespace(NAMESPACE).await?;
    instance::create_template(&bench.api, NAMESPACE).await?;
    let host = Host::start("second").await?;
    bench.collected().await?;
    idle(&host).await?;
    let rendered = renders(&host)?;
    let (elapsed, _) = bench.fleet(&host).await?;
    let rendered = (renders(&host)? - rendered) / count(bench.options.count);
    bench.report.bar("renders_per_primary", rendered, 1.0);
    let after = bench.bare("bare-after").await?;
    bench.compare(elapsed, before, after);
    bench.steady(&host).await?;
    touch(&mut bench, &host).await?;
    let rendered = renders(&host)?;
    bench.swap(&host, spec).await?;
    bench.report.bar("swap_renders", renders(&host)? - rendered, 0.0);
    let host = restart(&mut bench, host).await?;
    bench.report.write(bench.options.json.as_deref())?;
    host.stop().await
}

/// What the record says beside the component.
fn spec() -> Result<Value> {
    let plugins = std::env::var_os("TRANSOM_TEST_PLUGINS").context("use cargo xtask bench")?;
    let engine = Path::new(&plugins).join("helm.wasm");
    let wasm = std::fs::read(&engine).with_context(|| format!("cannot read {}", engine.display()))?;
    let charts = Path::new(CHART).parent().context("a chart without a folder")?;
    Ok(json!({
        "engines": [{ "name": "helm", "source": { "file": { "path": engine } }, "digest": digest_of(&wasm),
            "limits": { "memory": "1Gi", "deadlineMilliseconds": 60_000 } }],
        "endpoints": [{ "name": "folder", "address": format!("file://{}", charts.display()) }],
    }))
}

/// Runs of the engine so far: answers from memory are none.
fn renders(host: &Host) -> Result<f64> {
    host.counter("transom_lookups_total{kind=\"engine\"")
}

/// Waits until the host has nothing more to do.
async fn idle(host: &Host) -> Result<()> {
    let deadline = Instant::now() + AGAIN;
    let (mut work, mut since) = (f64::NAN, Instant::now());
    while since.elapsed() < QUIET {
        ensure!(Instant::now() < deadline, "the host does not come to rest within {AGAIN:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = host.plugin_calls()? + renders(host)?;
        if now != work {
            (work, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// Each instance gets a label that means nothing: all are looked at, nothing is rendered, nothing written.
async fn touch(bench: &mut Bench, host: &Host) -> Result<()> {
    bench.settle().await?;
    let n = bench.options.count;
    let (cpu, calls, rendered, started) = (host.cpu(), host.plugin_calls()?, renders(host)?, Instant::now());
    let label = json!({ "metadata": { "labels": { "bench.dev/touched": "yes" } } });
    let api = &bench.api;
    let touched = futures::stream::iter(0..n).map(|index| {
        let path = format!("{}/{}", INSTANCE.primaries.collection(NAMESPACE), INSTANCE.name(index));
        let label = &label;
        async move { api.intrude(&path, label).await }
    });
    touched.buffer_unordered(bench.options.creators).try_collect::<()>().await?;
    while host.plugin_calls()? < calls + count(n) {
        ensure!(started.elapsed() < AGAIN, "not all instances were looked at within {AGAIN:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = started.elapsed();
    tokio::time::sleep(TAIL).await;
    let counts = bench.audit.counts_since_last()?;
    let report = &mut bench.report;
    report.section("every instance gets a label: a second reconcile of all");
    report.figure("second_s", took.as_secs_f64());
    report.figure("second_cpu_s", host.cpu() - cpu);
    report.figure("second_calls", host.plugin_calls()? - calls);
    report.bar("second_renders", renders(host)? - rendered, 0.0);
    report.bar("second_writes", count(counts.writes()), 0.0);
    if counts.writes() > 0 {
        print_all(&counts);
    }
    Ok(())
}

async fn restart(bench: &mut Bench, host: Host) -> Result<Host> {
    bench.settle().await?;
    host.stop().await?;
    bench.audit.counts_since_last()?;
    let started = Instant::now();
    let host = Host::start("third").await?;
    let ready = started.elapsed().as_secs_f64();
    idle(&host).await?;
    let took = started.elapsed().saturating_sub(QUIET);
    let counts = bench.audit.counts_since_last()?;
    let report = &mut bench.report;
    report.section("a host that starts anew");
    report.figure("restart_ready_s", ready);
    report.figure("restart_s", took.as_secs_f64());
    report.figure("restart_cpu_s", host.cpu());
    report.figure("restart_calls", host.plugin_calls()?);
    report.figure("restart_renders", renders(&host)?);
    report.figure("restart_peak_mib", host.memory().peak_mib);
    report.bar("restart_writes", count(counts.writes()), 0.0);
    if counts.writes() > 0 {
        print_all(&counts);
    }
    Ok(host)
}
