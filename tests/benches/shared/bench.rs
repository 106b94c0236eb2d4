//! The parts that all benchmarks of a running host have.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use super::api::Api;
use super::audit::{Audit, Counts};
use super::host::Host;
use super::load::{self, Outcome, Target};
use super::report::{Report, percentile};
use super::usage;
use super::workload::Workload;

/// What each of them can be told.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(crate) struct Options {
    /// How many primaries.
    #[arg(short = 'n', default_value_t = 500)]
    pub(crate) count: usize,
    /// Clients that create at the same time.
    #[arg(long, default_value_t = 16)]
    pub(crate) creators: usize,
    /// How long the steady state is watched, in seconds.
    #[arg(long, default_value_t = 30)]
    pub(crate) steady: u64,
    /// Without the bare client.
    #[arg(long)]
    pub(crate) skip_bare: bool,
    /// Where the figures go, as one flat JSON object.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

/// What figures must not exceed; infinite: anything goes.
pub(crate) struct Bars {
    pub(crate) applies: f64,
    pub(crate) status_writes: f64,
    pub(crate) reads: f64,
    pub(crate) cpu_ms: f64,
    pub(crate) peak_mib: f64,
    pub(crate) time_over_bare: f64,
    pub(crate) ready_over_bare: f64,
}

/// Primaries of a first, small run of the bare client: the first requests for a kind are slower than all others.
const WARM_UP: usize = 25;

/// The garbage collector looks for new kinds every 30 s.
const COLLECTED_WITHIN: Duration = Duration::from_secs(120);

/// The longest that looking at all primaries with a new version may take.
const SWAP: Duration = Duration::from_secs(300);

/// How long after the last object became ready the host may still write.
pub(crate) const TAIL: Duration = Duration::from_secs(2);

/// Many Events may still have to be sent then.
const SETTLED_WITHIN: Duration = Duration::from_secs(600);

/// Where the primaries live; who measures makes it.
pub(crate) const NAMESPACE: &str = "fleet";

pub(crate) struct Bench {
    pub(crate) api: Api,
    pub(crate) bare: Api,
    pub(crate) audit: Audit,
    pub(crate) control_plane: Vec<u32>,
    pub(crate) report: Report,
    pub(crate) options: Options,
    workload: &'static Workload,
    bars: Bars,
}

impl Bench {
    pub(crate) async fn new(workload: &'static Workload, options: Options, bars: Bars) -> Result<Self> {
        let mut bench = Self {
            api: Api::new("KUBECONFIG").await?,
            // audited as the host is: that costs the API server something too
            bare: Api::new("TRANSOM_HOST_KUBECONFIG").await?,
            audit: Audit::open(workload)?,
            control_plane: usage::pids_from_environment()?,
            report: Report::default(),
            options,
            workload,
            bars,
        };
        bench.report.figure("n", count(bench.options.count));
        Ok(bench)
    }

    /// The children without primaries and without a host.
    pub(crate) async fn bare(&mut self, namespace: &str) -> Result<Option<Outcome>> {
        if self.options.skip_bare {
            return Ok(None);
        }
        if namespace == "bare-before" {
            self.api.create_namespace("warm-up").await?;
            load::run(&self.bare, self.workload, "warm-up", Target::Children, WARM_UP, self.options.creators).await?;
        }
        self.api.create_namespace(namespace).await?;
        let cpu = usage::cpu(&self.control_plane);
        let outcome = load::run(
            &self.bare,
            self.workload,
            namespace,
            Target::Children,
            self.options.count,
            self.options.creators,
        )
        .await?;
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

    /// Waits until the garbage collector follows the primaries, whose kind is new: until then it asks the API server for
    /// each owner of a child, again and again. The bare client's owners are of a kind that it knows. Only the collector
    /// ends a deletion in the foreground.
    pub(crate) async fn collected(&mut self) -> Result<()> {
        let collection = self.workload.primaries.collection(NAMESPACE);
        let name = format!("{}-first", self.workload.plugin);
        let first = (self.workload.primary)(NAMESPACE, &name, 0);
        self.api.create(&collection, first.to_string()).await?;
        let path = format!("{collection}/{name}");
        self.api.delete_in_foreground(&path).await?;
        let deadline = Instant::now() + COLLECTED_WITHIN;
        while self.api.get::<serde::de::IgnoredAny>(&path).await?.is_some() {
            ensure!(Instant::now() < deadline, "{name} is still there after {COLLECTED_WITHIN:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.settle().await.map(drop)
    }

    /// The primaries, with the host at work. Returns its CPU seconds, too.
    pub(crate) async fn fleet(&mut self, host: &Host) -> Result<(Outcome, f64)> {
        let n = count(self.options.count);
        self.audit.counts_since_last()?;
        let calls = host.plugin_calls()?;
        let (cpu, plane, ours) = (host.cpu(), usage::cpu(&self.control_plane), usage::own_cpu());
        let outcome = load::run(
            &self.api,
            self.workload,
            NAMESPACE,
            Target::Primaries,
            self.options.count,
            self.options.creators,
        )
        .await?;
        let plane = usage::cpu(&self.control_plane) - plane;
        let ours = usage::own_cpu() - ours;
        // Events may come later than what they tell of, and count as well
        let counts = self.settle().await?;
        let cpu = host.cpu() - cpu;
        let calls = host.plugin_calls()? - calls;
        let memory = host.memory();

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
        report.bar("applies_per_primary", count(counts.applies) / n, self.bars.applies);
        report.bar("status_writes_per_primary", count(counts.status_writes) / n, self.bars.status_writes);
        report.bar("reads_per_primary", count(counts.reads) / n, self.bars.reads);
        report.figure("other_writes_per_primary", count(counts.other_writes) / n);
        report.figure("events_per_primary", count(counts.events) / n);
        report.figure("calls_per_primary", calls / n);
        report.figure("refused_requests", count(counts.refused));
        report.bar("cpu_ms_per_primary", cpu * 1_000.0 / n, self.bars.cpu_ms);
        report.bar("peak_mib", memory.peak_mib, self.bars.peak_mib);
        Ok((Outcome { control_plane_cpu: plane, ..outcome }, cpu))
    }

    /// The host beside the bare client's two runs.
    pub(crate) fn compare(&mut self, host: Outcome, before: Option<Outcome>, after: Option<Outcome>) {
        let (Some(before), Some(after)) = (before, after) else { return };
        let mean = |figure: fn(&Outcome) -> f64| f64::midpoint(figure(&before), figure(&after));
        self.report.section("the host over the mean of the bare client's two runs");
        self.report.figure("bare_all_children_s", mean(Outcome::all_children));
        let ready_over_bare = host.all_ready() / mean(Outcome::all_ready);
        self.report.bar("ready_over_bare", ready_over_bare, self.bars.ready_over_bare);
        self.report
            .figure("control_plane_over_bare", host.control_plane_cpu / mean(|outcome| outcome.control_plane_cpu));
        self.report.bar("time_over_bare", host.all_children() / mean(Outcome::all_children), self.bars.time_over_bare);
    }

    pub(crate) async fn steady(&mut self, host: &Host) -> Result<()> {
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
    pub(crate) async fn swap(&mut self, host: &Host, spec: Value) -> Result<()> {
        self.settle().await?;
        let (cpu, calls, started) = (host.cpu(), host.plugin_calls()?, Instant::now());
        host.swap(&self.api, self.workload, spec).await?;
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
        self.report.bar("swap_writes", count(counts.writes()), 0.0);
        if counts.writes() > 0 {
            print_all(&counts);
        }
        Ok(())
    }

    /// Waits until the host has written nothing for 5 s. Returns what it has asked for since the last count.
    pub(crate) async fn settle(&mut self) -> Result<Counts> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        let (mut counts, mut writes, mut quiet_since) = (Counts::default(), 0, Instant::now());
        while quiet_since.elapsed() < Duration::from_secs(5) {
            ensure!(Instant::now() < deadline, "the host still writes after {SETTLED_WITHIN:?}");
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.audit.count(&mut counts).context("cannot read the audit log")?;
            if counts.writes() > writes {
                (writes, quiet_since) = (counts.writes(), Instant::now());
            }
        }
        Ok(counts)
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts are small")]
pub(crate) fn count(count: usize) -> f64 {
    count as f64
}

pub(crate) fn print_all(counts: &Counts) {
    for (what, times) in &counts.by_request {
        println!("  {what:<44} {times:>10}");
    }
}
