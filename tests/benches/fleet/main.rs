//! `cargo xtask bench fleet`: many primaries at once, seen from outside.
//!
//! 1. A bare client applies the children of N primaries, which do not exist: what the control plane can do.
//! 2. The host runs; N primaries are created by as many creators. What it takes, what it asks of the API server.
//! 3. The bare client again, in another namespace, so that a machine that gets slower or faster is seen.
//! 4. The steady state, drift, a swap to a version with the same plans, a restart of the host, a restart with drift made
//!    meanwhile.
//! 5. An operator in Go (`xtask/tools/native`) in place of the host, with as many primaries of the same kind.
//!
//! Requests are counted from the API server's audit log, which has the host's only; CPU and memory are the kernel's
//! figures for the host's process. Seconds depend on the machine; counts, CPU and ratios much less so.

mod drift;
mod native;
#[path = "../shared/mod.rs"]
mod shared;
mod web;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use serde_json::json;

use shared::bench::{self, Bars, Bench, NAMESPACE, TAIL, count, print_all};
use shared::host::Host;
use shared::report::percentile;
use web::WEB;

/// Many primaries at once, seen from outside.
#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    common: bench::Options,
    /// Deployments that are changed by hand, one after the other.
    #[arg(long, default_value_t = 20)]
    drifts: usize,
    /// Without the operator in Go.
    #[arg(long)]
    skip_native: bool,
}

/// A fleet larger than this may take more memory.
const LARGE: usize = 5_000;

/// How long a restarted host is watched.
const RESTART: Duration = Duration::from_secs(20);

/// Deployments that are changed while the host is down.
const DOWNTIME_DRIFTS: usize = 5;

fn main() -> Result<()> {
    let options = Options::parse();
    // One thread: on a machine with two cores the measuring must not take the place of what is measured.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(options))
}

async fn run(options: Options) -> Result<()> {
    let peak_mib = if options.common.count > LARGE { 250.0 } else { 56.0 };
    let bars = Bars {
        applies: 4.0,
        status_writes: 2.0,
        reads: 0.0,
        cpu_ms: 2.5,
        peak_mib,
        time_over_bare: 1.15,
        ready_over_bare: f64::INFINITY,
    };
    let bench = Bench::new(&WEB, options.common, bars).await?;
    let mut fleet = Fleet { bench, drifts: options.drifts };
    let bench = &mut fleet.bench;
    let before = bench.bare("bare-before").await?;
    let host = Host::start("first").await?;
    host.install(&bench.api, &WEB, json!({})).await?;
    bench.api.create_namespace(NAMESPACE).await?;
    bench.collected().await?;
    let (elapsed, cpu) = bench.fleet(&host).await?;
    let after = bench.bare("bare-after").await?;
    bench.compare(elapsed, before, after);
    bench.steady(&host).await?;
    fleet.drift().await?;
    fleet.bench.swap(&host, json!({})).await?;
    fleet.restart(host).await?;
    let mut bench = fleet.bench;
    if !options.skip_native {
        native::run(&mut bench, cpu).await?;
    }
    bench.report.write(bench.options.json.as_deref())
}

struct Fleet {
    bench: Bench,
    drifts: usize,
}

impl Fleet {
    async fn drift(&mut self) -> Result<()> {
        if self.drifts == 0 {
            return Ok(());
        }
        let count = self.drifts.min(self.bench.options.count);
        let repaired = drift::one_by_one(&self.bench, NAMESPACE, count).await?;
        let bare = drift::by_a_bare_client(&self.bench, "bare-drift", count).await?;
        self.bench.audit.counts_since_last()?;
        self.bench.report.section("spec.replicas changed by hand, until it is back");
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            self.bench.report.figure(&format!("drift_{name}_ms"), percentile(&repaired, share));
            self.bench.report.figure(&format!("bare_drift_{name}_ms"), percentile(&bare, share));
        }
        self.bench.report.figure("drift_p50_over_bare", percentile(&repaired, 0.5) / percentile(&bare, 0.5));
        Ok(())
    }

    async fn restart(&mut self, host: Host) -> Result<()> {
        self.bench.settle().await?;
        host.stop().await?;
        self.bench.audit.counts_since_last()?;
        let started = Instant::now();
        let host = Host::start("second").await?;
        let ready = started.elapsed().as_secs_f64();
        tokio::time::sleep(RESTART.saturating_sub(started.elapsed())).await;
        let counts = self.bench.audit.counts_since_last()?;
        self.bench.report.section(&format!("restart, its first {} s", RESTART.as_secs()));
        self.bench.report.figure("restart_ready_s", ready);
        self.bench.report.figure("restart_requests", count(counts.all()));
        self.bench.report.figure("restart_calls", host.plugin_calls()?);
        self.bench.report.figure("restart_cpu_s", host.cpu());
        self.bench.report.figure("restart_peak_mib", host.memory().peak_mib);
        self.bench.report.bar("restart_writes", count(counts.writes()), 0.0);
        if counts.writes() > 0 {
            print_all(&counts);
        }

        host.stop().await?;
        let drifted =
            drift::while_down(&self.bench.api, NAMESPACE, DOWNTIME_DRIFTS.min(self.bench.options.count)).await?;
        tokio::time::sleep(TAIL).await;
        let started = Instant::now();
        let host = Host::start("third").await?;
        let repaired = drifted.repaired(started).await?;
        self.bench.report.figure("downtime_drift_first_s", percentile(&repaired, 0.0));
        self.bench.report.figure("downtime_drift_last_s", percentile(&repaired, 1.0));
        host.stop().await
    }
}
