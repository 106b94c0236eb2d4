//! The operator in Go, for as many primaries in a namespace of its own.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::shared::bench::{Bench, TAIL, count};
use crate::shared::load::{self, Target};
use crate::shared::memory::memory;
use crate::shared::usage;
use crate::web::WEB;

const NAMESPACE: &str = "native";

/// By then its caches are filled, with nothing.
const START: Duration = Duration::from_secs(5);

/// Its process; dropping it kills it.
struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `cpu` is what the host took, in seconds.
pub(crate) async fn run(bench: &mut Bench, cpu: f64) -> Result<()> {
    let program = std::env::var_os("TRANSOM_BENCH_NATIVE").context("TRANSOM_BENCH_NATIVE is not set")?;
    let kubeconfig = std::env::var_os("TRANSOM_HOST_KUBECONFIG").context("TRANSOM_HOST_KUBECONFIG is not set")?;
    bench.api.create_namespace(NAMESPACE).await?;
    let child = Command::new(program)
        .env("KUBECONFIG", kubeconfig)
        .env("NAMESPACE", NAMESPACE)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the operator in Go")?;
    let mut operator = Operator(child);
    let pid = operator.0.id();
    // its start is no part of it
    tokio::time::sleep(START).await;
    bench.audit.counts_since_last()?;
    let before = usage::cpu(&[pid]);
    let options = &bench.options;
    let all = load::run(&bench.api, &WEB, NAMESPACE, Target::Primaries, options.count, options.creators).await?;
    tokio::time::sleep(TAIL).await;
    ensure!(operator.0.try_wait()?.is_none(), "the operator in Go has ended");
    let (native, peak, counts) = (usage::cpu(&[pid]) - before, memory(pid).peak_mib, bench.audit.counts_since_last()?);
    let (n, report) = (count(options.count), &mut bench.report);
    report.section("an operator in Go, as many primaries");
    report.figure("native_all_children_s", all.all_children());
    report.figure("native_all_ready_s", all.all_ready());
    report.figure("native_applies_per_primary", count(counts.applies) / n);
    report.figure("native_status_writes_per_primary", count(counts.status_writes) / n);
    report.figure("native_cpu_ms_per_primary", native * 1_000.0 / n);
    report.figure("native_peak_mib", peak);
    report.bar("cpu_over_native", cpu / native, 0.5);
    Ok(())
}
