//! `cargo xtask bench fleet`: many primaries at once, seen from outside.
//!
//! 1. A bare client applies the children of N primaries, which do not exist: what the control plane can do.
//! 2. The host runs; N primaries are created by as many creators. What it takes, what it asks of the API server.
//! 3. The bare client again, in another namespace, so that a machine that gets slower or faster is seen.
//! 4. The steady state, drift, a swap to a version with the same plans, a restart of the host, a restart with drift made
//!    meanwhile.
//!
//! Requests are counted from the API server's audit log, which has the host's only; CPU and memory are the kernel's
//! figures for the host's process. Seconds depend on the machine; counts, CPU and ratios much less so.

mod api;
mod audit;
mod drift;
mod host;
mod load;
#[path = "../report/report.rs"]
mod report;
mod usage;
mod web;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;

use api::Api;
use audit::{Audit, Counts};
use host::Host;
use load::{Outcome, Target};
use report::{Report, percentile};

/// Many primaries at once, seen from outside.
#[derive(Debug, Parser)]
struct Options {
    /// How many primaries.
    #[arg(short = 'n', default_value_t = 500)]
    count: usize,
    /// Clients that create at the same time.
    #[arg(long, default_value_t = 16)]
    creators: usize,
    /// How long the steady state is watched, in seconds.
    #[arg(long, default_value_t = 30)]
    steady: u64,
    /// Deployments that are changed by hand, one after the other.
    #[arg(long, default_value_t = 20)]
    drifts: usize,
    /// Without the bare client.
    #[arg(long)]
    skip_bare: bool,
    /// Where the figures go, as one flat JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Primaries of a first, small run of the bare client: the first requests for a kind are slower than all others.
const WARM_UP: usize = 25;

/// A fleet larger than this may take more memory.
const LARGE: usize = 5_000;

/// How long after the last object became ready the host may still write.
const TAIL: Duration = Duration::from_secs(2);

/// The longest that looking at all primaries with a new version may take.
const SWAP: Duration = Duration::from_secs(300);

/// How long a restarted host is watched.
const RESTART: Duration = Duration::from_secs(20);

/// Deployments that are changed while the host is down.
const DOWNTIME_DRIFTS: usize = 5;

fn main() -> Result<()> {
    let options = Options::parse();
    // One thread: on a machine with two cores the measuring must not take the place of what is measured.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(&options))
}

async fn run(options: &Options) -> Result<()> {
    let mut bench = Bench {
        api: Api::new("KUBECONFIG").await?,
        // audited as the host is: that costs the API server something too
        bare: Api::new("TRANSOM_HOST_KUBECONFIG").await?,
        audit: Audit::open()?,
        control_plane: usage::pids_from_environment()?,
        report: Report::default(),
        options,
    };
    bench.report.figure("n", count(options.count));
    let before = bench.bare("bare-before").await?;
    let host = Host::start("first").await?;
    host.install(&bench.api).await?;
    let elapsed = bench.fleet(&host).await?;
    let after = bench.bare("bare-after").await?;
    bench.compare(elapsed, before, after);
    bench.steady(&host).await?;
    bench.drift().await?;
    bench.swap(&host).await?;
    bench.restart(host).await?;
    bench.report.write(options.json.as_deref())
}

struct Bench<'a> {
    api: Api,
    bare: Api,
    audit: Audit,
    control_plane: Vec<u32>,
    report: Report,
    options: &'a Options,
}

/// Where the primaries live.
const NAMESPACE: &str = "fleet";

impl Bench<'_> {
    /// The children without primaries and without a host.
    async fn bare(&mut self, namespace: &str) -> Result<Option<Outcome>> {
        if self.options.skip_bare {
            return Ok(None);
        }
        if namespace == "bare-before" {
            self.api.create_namespace("warm-up").await?;
            load::run(&self.bare, "warm-up", Target::Children, WARM_UP, self.options.creators).await?;
        }
        self.api.create_namespace(namespace).await?;
        let cpu = usage::cpu(&self.control_plane);
        let outcome =
            load::run(&self.bare, namespace, Target::Children, self.options.count, self.options.creators).await?;
        let cpu = usage::cpu(&self.control_plane) - cpu;
        // none of the host's
        self.audit.counts_since_last()?;
        self.report.section(&format!("a bare client, namespace {namespace}"));
        let name = namespace.replace('-', "_");
        self.report.figure(&format!("{name}_all_children_s"), outcome.all_children());
        self.report.figure(&format!("{name}_all_ready_s"), outcome.all_ready());
        self.report.figure(&format!("{name}_control_plane_cpu_s"), cpu);
        Ok(Some(Outcome { control_plane_cpu: cpu, ..outcome }))
    }

    /// The primaries, with the host at work.
    async fn fleet(&mut self, host: &Host) -> Result<Outcome> {
        let n = count(self.options.count);
        self.api.create_namespace(NAMESPACE).await?;
        self.audit.counts_since_last()?;
        let calls = host.plugin_calls()?;
        let (cpu, plane, ours) = (host.cpu(), usage::cpu(&self.control_plane), usage::own_cpu());
        let outcome =
            load::run(&self.api, NAMESPACE, Target::Primaries, self.options.count, self.options.creators).await?;
        let plane = usage::cpu(&self.control_plane) - plane;
        let ours = usage::own_cpu() - ours;
        tokio::time::sleep(TAIL).await;
        let cpu = host.cpu() - cpu;
        let calls = host.plugin_calls()? - calls;
        let memory = host.memory();
        let counts = self.audit.counts_since_last()?;

        let report = &mut self.report;
        report.section(&format!("the host, {n} primaries"));
        report.figure("all_children_s", outcome.all_children());
        report.figure("children_p50_s", percentile(&outcome.children, 0.5));
        report.figure("children_p99_s", percentile(&outcome.children, 0.99));
        report.figure("all_ready_s", outcome.all_ready());
        report.figure("ready_p50_s", percentile(&outcome.ready, 0.5));
        report.figure("ready_p99_s", percentile(&outcome.ready, 0.99));
        report.figure("host_cpu_s", cpu);
        report.figure("control_plane_cpu_s", plane);
        report.figure("client_cpu_s", ours);
        report.figure("anonymous_mib", memory.anonymous_mib);
        report.figure("mapped_files_mib", memory.files_mib);
        report.section("requests of the host for each primary");
        for (what, times) in &counts.by_request {
            println!("  {what:<44} {:>10.2}", count(*times) / n);
        }
        report.section("bars");
        report.bar("applies_per_primary", count(counts.applies) / n, 4.0);
        report.bar("status_writes_per_primary", count(counts.status_writes) / n, 2.0);
        report.bar("reads_per_primary", count(counts.reads) / n, 0.0);
        report.figure("other_writes_per_primary", count(counts.other_writes) / n);
        report.figure("events_per_primary", count(counts.events) / n);
        report.figure("calls_per_primary", calls / n);
        report.figure("refused_requests", count(counts.refused));
        report.bar("cpu_ms_per_primary", cpu * 1_000.0 / n, 2.5);
        report.bar("peak_mib", memory.peak_mib, if self.options.count > LARGE { 250.0 } else { 56.0 });
        Ok(Outcome { control_plane_cpu: plane, ..outcome })
    }

    /// The host beside the bare client's two runs.
    fn compare(&mut self, host: Outcome, before: Option<Outcome>, after: Option<Outcome>) {
        let (Some(before), Some(after)) = (before, after) else { return };
        let mean = |figure: fn(&Outcome) -> f64| f64::midpoint(figure(&before), figure(&after));
        self.report.section("the host over the mean of the bare client's two runs");
        self.report.figure("bare_all_children_s", mean(Outcome::all_children));
        self.report.figure("ready_over_bare", host.all_ready() / mean(Outcome::all_ready));
        self.report
            .figure("control_plane_over_bare", host.control_plane_cpu / mean(|outcome| outcome.control_plane_cpu));
        self.report.bar("time_over_bare", host.all_children() / mean(Outcome::all_children), 1.15);
    }

    async fn steady(&mut self, host: &Host) -> Result<()> {
        self.settle().await?;
        let (cpu, calls) = (host.cpu(), host.plugin_calls()?);
        tokio::time::sleep(Duration::from_secs(self.options.steady)).await;
        let counts = self.audit.counts_since_last()?;
        self.report.section(&format!("{} s of the steady state", self.options.steady));
        self.report.figure("steady_requests", count(counts.all()));
        self.report.figure("steady_writes", count(counts.writes()));
        self.report.figure("idle_calls", host.plugin_calls()? - calls);
        self.report.figure("idle_cpu_percent", (host.cpu() - cpu) * 100.0 / count(self.options.steady as usize));
        Ok(())
    }

    /// Every primary is looked at by the new version, and nothing is written.
    async fn swap(&mut self, host: &Host) -> Result<()> {
        self.settle().await?;
        let (cpu, calls, started) = (host.cpu(), host.plugin_calls()?, Instant::now());
        host.swap(&self.api).await?;
        while host.plugin_calls()? < calls + count(self.options.count) {
            anyhow::ensure!(started.elapsed() < SWAP, "not all primaries were looked at within {SWAP:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (cpu, took) = (host.cpu() - cpu, started.elapsed());
        tokio::time::sleep(TAIL).await;
        let counts = self.audit.counts_since_last()?;
        self.report.section("a swap to a version with the same plans");
        self.report.figure("swap_s", took.as_secs_f64());
        self.report.figure("swap_cpu_s", cpu);
        self.report.figure("swap_calls", host.plugin_calls()? - calls);
        // the status of its own record is the host's to write
        let own: usize = counts.by_request.iter().filter(|(what, _)| what.contains(" plugins")).map(|(_, n)| n).sum();
        self.report.bar("swap_writes", count(counts.writes() - own), 0.0);
        if counts.writes() > own {
            print_all(&counts);
        }
        Ok(())
    }

    async fn drift(&mut self) -> Result<()> {
        if self.options.drifts == 0 {
            return Ok(());
        }
        let repaired = drift::one_by_one(&self.api, NAMESPACE, self.options.drifts.min(self.options.count)).await?;
        self.report.section("spec.replicas changed by hand, until it is back");
        self.report.figure("drift_p50_ms", percentile(&repaired, 0.5));
        self.report.figure("drift_p99_ms", percentile(&repaired, 0.99));
        Ok(())
    }

    async fn restart(&mut self, host: Host) -> Result<()> {
        self.settle().await?;
        host.stop().await?;
        self.audit.counts_since_last()?;
        let started = Instant::now();
        let host = Host::start("second").await?;
        let ready = started.elapsed().as_secs_f64();
        tokio::time::sleep(RESTART.saturating_sub(started.elapsed())).await;
        let counts = self.audit.counts_since_last()?;
        self.report.section(&format!("restart, its first {} s", RESTART.as_secs()));
        self.report.figure("restart_ready_s", ready);
        self.report.figure("restart_requests", count(counts.all()));
        self.report.figure("restart_calls", host.plugin_calls()?);
        self.report.figure("restart_cpu_s", host.cpu());
        self.report.figure("restart_peak_mib", host.memory().peak_mib);
        self.report.bar("restart_writes", count(counts.writes()), 0.0);
        if counts.writes() > 0 {
            print_all(&counts);
        }

        host.stop().await?;
        let drifted = drift::while_down(&self.api, NAMESPACE, DOWNTIME_DRIFTS.min(self.options.count)).await?;
        tokio::time::sleep(TAIL).await;
        let started = Instant::now();
        let host = Host::start("third").await?;
        let repaired = drifted.repaired(started).await?;
        self.report.figure("downtime_drift_first_s", percentile(&repaired, 0.0));
        self.report.figure("downtime_drift_last_s", percentile(&repaired, 1.0));
        host.stop().await
    }

    /// Waits until the host has written nothing for 5 s.
    async fn settle(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < Duration::from_secs(5) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if self.audit.counts_since_last().context("cannot read the audit log")?.writes() > 0 {
                quiet_since = Instant::now();
            }
        }
        Ok(())
    }
}

fn print_all(counts: &Counts) {
    for (what, times) in &counts.by_request {
        println!("  {what:<44} {times:>10}");
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts are small")]
fn count(count: usize) -> f64 {
    count as f64
}
