//! Counters and gauges. Labels are from closed sets: never a name, a user or a value.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, core::Collector,
};

/// All of this process.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    /// 1 while this process mirrors.
    pub leader: IntGauge,
    /// Objects that wait to be looked at, now or after a failure.
    pub waiting: IntGauge,
    reconciles: IntCounterVec,
    writes: IntCounterVec,
    resyncs: IntCounterVec,
}

/// The one set of this process.
pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    &METRICS
}

fn register<M: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<M>) -> M {
    #[expect(clippy::expect_used, reason = "names and labels are constants: a wrong one fails every test")]
    let metric = metric.expect("a valid name");
    #[expect(clippy::expect_used, reason = "as above")]
    registry.register(Box::new(metric.clone())).expect("registered once");
    metric
}

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        let duration = HistogramOpts::new("transom_catalog_request_duration_seconds", "How long requests took");
        Self {
            requests: counter("transom_catalog_requests_total", "Requests of the API", &["operation", "code"]),
            request_duration: register(&registry, HistogramVec::new(duration, &["operation"])),
            leader: gauge("transom_catalog_leader", "1 while this process mirrors"),
            waiting: gauge("transom_catalog_waiting", "Rows and objects that wait to be looked at"),
            reconciles: counter(
                "transom_catalog_reconciles_total",
                "Rows and objects that were compared",
                &["kind", "outcome"],
            ),
            writes: counter("transom_catalog_writes_total", "Writes of the mirror", &["target", "verb"]),
            resyncs: counter("transom_catalog_resyncs_total", "Comparisons of everything", &["cause"]),
            registry,
        }
    }

    /// A request was answered.
    pub fn request(&self, operation: &str, code: u16, duration: Duration) {
        self.requests.with_label_values(&[operation, &code.to_string()]).inc();
        self.request_duration.with_label_values(&[operation]).observe(duration.as_secs_f64());
    }

    /// A row was compared with its object.
    pub fn reconcile(&self, kind: &str, is_ok: bool) {
        self.reconciles.with_label_values(&[kind, if is_ok { "ok" } else { "failed" }]).inc();
    }

    /// The mirror has written: an object of the cluster, or a row.
    pub fn write(&self, target: &str, verb: &str) {
        self.writes.with_label_values(&[target, verb]).inc();
    }

    /// Everything is compared.
    pub fn resync(&self, cause: &str) {
        self.resyncs.with_label_values(&[cause]).inc();
    }

    /// In Prometheus' text format.
    ///
    /// # Errors
    ///
    /// When it cannot be written as text.
    pub fn text(&self) -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut bytes)?;
        Ok(String::from_utf8(bytes)?)
    }
}
