//! Helm charts as live instances: each is Running, or is refused with a reason, and then nothing is written.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::{Value, json};

use crate::{Host, HostOptions, Namespace, component, component_at, condition, condition_of, of, sample};

/// An instance is Running or refused within this time.
const DONE_WITHIN: Duration = Duration::from_secs(300);

/// The charts of a folder, and how long they are watched.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The folder; each folder in it that has a `Chart.yaml` is a chart, and `NAME.values.json` beside it has its values.
    pub folder: PathBuf,
    /// How long nothing may be written.
    pub quiet: Duration,
    /// How often the host is started again.
    pub restarts: usize,
}

/// What became of one chart.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Name of its folder.
    pub chart: String,
    /// `status.phase` of the instance; empty when there was none in time.
    pub phase: String,
    /// From the creation of the instance to this phase.
    pub after: Duration,
    /// `status.message`
    pub message: String,
}

/// What was written when nothing should have been, by the audit log: `{"patch deployments": 1}`.
pub type Writes = BTreeMap<String, usize>;

/// What came of a trial.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One for each chart, by name.
    pub charts: Vec<Outcome>,
    /// While nothing happened.
    pub quiet: Writes,
    /// After each start of the host.
    pub restarts: Vec<Writes>,
}

impl Report {
    /// What is wrong, in sentences.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for Outcome { chart, phase, message, .. } in &self.charts {
            match phase.as_str() {
                "Running" => {}
                "Failed" if !message.is_empty() => {}
                _ => faults.push(format!("{chart}: neither Running nor refused with a reason ({phase:?}: {message})")),
            }
        }
        if !self.quiet.is_empty() {
            faults.push(format!("written while nothing happened: {:?}", self.quiet));
        }
        for (i, wrote) in self.restarts.iter().enumerate().filter(|(_, wrote)| !wrote.is_empty()) {
            faults.push(format!("written after start {}: {wrote:?}", i + 1));
        }
        faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Outcome { chart, phase, after, message } in &self.charts {
            writeln!(f, "{chart:40} {phase:10} {:6.1} s  {message}", after.as_secs_f64())?;
        }
        let running = self.charts.iter().filter(|outcome| outcome.phase == "Running").count();
        writeln!(
            f,
            "{running} of {} charts Running; {:?} written while nothing happened",
            self.charts.len(),
            self.quiet
        )?;
        for (i, wrote) in self.restarts.iter().enumerate() {
            writeln!(f, "written after start {}: {wrote:?}", i + 1)?;
        }
        Ok(())
    }
}

impl Trial {
    /// Installs every chart, waits for it, watches and restarts the host, and deletes everything again.
    ///
    /// # Panics
    ///
    /// When the folder has no chart, the API server refuses the objects of the trial itself, or an instance does not go.
    pub async fn run(&self, ns: &Namespace) -> Report {
        let charts = self.charts();
        assert!(!charts.is_empty(), "{} has no folder with a Chart.yaml", self.folder.display());
        let host = start(ns).await;
        let plugin = ns.record("instance", plugin(&self.folder).await).await;
        ns.wait_for(&plugin, condition("Ready", "True")).await;
        // a few at a time, as people would
        let installed = futures::stream::iter(charts.iter().map(|chart| self.install(ns, chart)));
        let charts = installed.buffered(4).collect::<Vec<_>>().await;
        futures::future::join_all(charts.iter().map(|outcome| scaled(ns, &outcome.chart))).await;
        host.rest().await;
        let quiet = host.observe(self.quiet).await.writes();
        let mut restarts = Vec::new();
        let mut host = host;
        for _ in 0..self.restarts {
            assert!(host.stop().await.success(), "the host ends when it is asked to");
            host = start(ns).await;
            host.rest().await;
            restarts.push(host.audit.all().writes());
        }
        for outcome in &charts {
            let instance = of::<sample::CaelusInstance>(&outcome.chart);
            if ns.try_delete(&instance).await {
                ns.wait_gone(&instance).await;
            }
        }
        Report { charts, quiet, restarts }
    }

    fn charts(&self) -> Vec<String> {
        let entries =
            std::fs::read_dir(&self.folder).unwrap_or_else(|error| panic!("{}: {error}", self.folder.display()));
        let is_chart = |path: &Path| path.join("Chart.yaml").is_file();
        let folders = entries.filter_map(|entry| Some(entry.ok()?.path()).filter(|path| is_chart(path)));
        let mut names: Vec<String> = folders.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
        names.sort();
        names
    }

    async fn install(&self, ns: &Namespace, chart: &str) -> Outcome {
        let values = std::fs::read(self.folder.join(format!("{chart}.values.json"))).unwrap_or_else(|_| b"{}".to_vec());
        let values: Value =
            serde_json::from_slice(&values).unwrap_or_else(|error| panic!("{chart}.values.json: {error}"));
        ns.create(json!({
            "apiVersion": "caelus.io/v1", "kind": "ProductTemplateVersion", "metadata": { "name": chart },
            "spec": { "chart": { "folder": { "reference": chart } }, "defaultValues": values, "timeoutSeconds": 300 },
        }))
        .await;
        let started = Instant::now();
        let instance = json!({
            "apiVersion": "caelus.io/v1", "kind": "CaelusInstance", "metadata": { "name": chart },
            "spec": { "userId": "ann", "productTemplateVersion": chart, "namespace": own_namespace(ns, chart),
                "domainName": format!("{chart}.example.com") },
        });
        let instance = ns.create(instance).await;
        let phase = |instance: &Value| instance["status"]["phase"].as_str().unwrap_or_default().to_owned();
        let is_done = |instance: &Value| matches!(phase(instance).as_str(), "Running" | "Failed");
        let found = ns.wait_at_most(DONE_WITHIN, &instance, is_done).await;
        let message = found["status"]["message"].as_str().unwrap_or_default().to_owned();
        Outcome { chart: chart.to_owned(), phase: phase(&found), after: started.elapsed(), message }
    }
}

fn own_namespace(ns: &Namespace, chart: &str) -> String {
    format!("{}-{chart}", ns.name)
}

/// Waits for the autoscalers of a chart: what they scale is something that happens.
async fn scaled(ns: &Namespace, chart: &str) {
    let own = ns.other(&own_namespace(ns, chart));
    for autoscaler in own.list::<HorizontalPodAutoscaler>().await {
        let has_looked = |autoscaler: &Value| !condition_of(autoscaler, "AbleToScale").is_null();
        own.wait_until(&autoscaler, has_looked).await;
    }
}

/// A host that follows the namespaces that instances own.
async fn start(ns: &Namespace) -> Host {
    ns.host_with(HostOptions { arguments: vec!["--own-namespaces".into()], ..HostOptions::default() }).await
}

/// `spec` of the plugin's record, with charts in this folder.
async fn plugin(folder: &Path) -> Value {
    let plugin = component("instance").await;
    let engine = component_at(&plugin.path.with_file_name("helm.wasm")).spec();
    let folder = std::fs::canonicalize(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut spec = plugin.spec();
    spec["engines"] = json!([{ "name": "helm", "source": engine["source"], "digest": engine["digest"],
        "limits": { "memory": "1Gi", "deadlineMilliseconds": 60_000 } }]);
    spec["endpoints"] = json!([{ "name": "folder", "address": format!("file://{}", folder.display()) }]);
    spec
}
