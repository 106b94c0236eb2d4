//! `cargo xtask bench processes`: Processes that depend on Domains, with a real Temporal.
//!
//! As `fleet`: the bare client applies the children of N Processes, then the host does for N Processes that share 100
//! Domains. Then Domains fail and become Ready again: how soon do their Processes follow, and does anybody else move?

mod dependents;
mod process;
#[path = "../shared/mod.rs"]
mod shared;

use anyhow::Result;
use clap::Parser;
use serde_json::{Value, json};
use transom_tests::free_port;
use transom_tests::{Temporal, Transformation};

use process::{CONTENT, DEFINITION, DOMAINS, PROCESS, TEMPORAL_NAMESPACE, TENANT};
use shared::bench::{self, Bars, Bench, NAMESPACE, TAIL, count};
use shared::host::Host;
use shared::report::percentile;

/// Processes that depend on Domains, with a real Temporal.
#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    common: bench::Options,
    /// Domains that fail and become Ready again, one after the other.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

fn main() -> Result<()> {
    let options = Options::parse();
    // One thread: on a machine with two cores the measuring must not take the place of what is measured.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(options))
}

async fn run(options: Options) -> Result<()> {
    let temporal = Temporal::start(free_port(), &[TEMPORAL_NAMESPACE]).await;
    let transformation = Transformation::start().await;
    transformation.publish(TENANT, DEFINITION, 1, CONTENT);
    let spec = spec(&temporal, &transformation);

    let bars = Bars {
        applies: 3.0,
        status_writes: 2.0,
        // each Domain is read once
        reads: count(DOMAINS) / count(options.common.count) + 0.01,
        cpu_ms: f64::INFINITY,
        peak_mib: f64::INFINITY,
        time_over_bare: f64::INFINITY,
        ready_over_bare: 1.3,
    };
    let mut bench = Bench::new(&PROCESS, options.common, bars).await?;
    bench.report.figure("domains", count(DOMAINS));
    let before = bench.bare("bare-before").await?;
    let host = Host::start("processes").await?;
    bench.api.create_namespace(NAMESPACE).await?;
    dependents::create(&bench.api, NAMESPACE).await?;
    host.install(&bench.api, &PROCESS, spec.clone()).await?;
    bench.collected().await?;
    let (elapsed, _) = bench.fleet(&host).await?;
    let after = bench.bare("bare-after").await?;
    bench.compare(elapsed, before, after);
    bench.steady(&host).await?;
    bench.swap(&host, spec).await?;
    follow(&mut bench, &host, options.rounds).await?;
    bench.report.write(bench.options.json.as_deref())?;
    host.stop().await
}

/// What the record says beside the component.
fn spec(temporal: &Temporal, transformation: &Transformation) -> Value {
    let endpoint = |name: &str, at: &str| json!({ "name": name, "address": format!("http://{at}"), "plaintext": true });
    json!({
        "config": { "temporalAddress": temporal.address },
        "endpoints": [endpoint("transformation", &transformation.authority), endpoint("temporal", &temporal.address)],
    })
}

async fn follow(bench: &mut Bench, host: &Host, rounds: usize) -> Result<()> {
    bench.settle().await?;
    let calls = host.plugin_calls()?;
    let took = dependents::follow(&bench.api, NAMESPACE, bench.options.count, rounds).await?;
    tokio::time::sleep(TAIL).await;
    let counts = bench.audit.counts_since_last()?;
    let report = &mut bench.report;
    report.section("Domains become Ready, and the Processes that depend on them");
    report.figure("dependents", count(took.len()));
    report.figure("dependents_p50_ms", percentile(&took, 0.5));
    report.figure("dependents_p99_ms", percentile(&took, 0.99));
    report.bar("dependents_last_ms", percentile(&took, 1.0), 1_000.0);
    // each is written twice: not ready, and ready again
    let turns = 2.0 * count(took.len());
    report.bar("status_writes_per_dependent_and_turn", count(counts.status_writes) / turns, 1.0);
    report.figure("applies_meanwhile", count(counts.applies));
    report.figure("calls_per_dependent_and_turn", (host.plugin_calls()? - calls) / turns);
    Ok(())
}
