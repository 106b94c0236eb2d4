//! Metrics. Labels come from closed sets: never names of objects, never error texts.

use std::cell::RefCell;
use std::sync::LazyLock;
use std::time::Instant;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

/// All metrics of the host, prefix `transom_`.
pub struct Metrics {
    registry: Registry,
    described: Vec<Described>,
    reconciles: IntCounterVec,
    reconcile_seconds: HistogramVec,
    calls: IntCounterVec,
    call_seconds: HistogramVec,
    memo_hits: IntCounterVec,
    plan_calls: IntCounterVec,
    plan_call_seconds: HistogramVec,
    api_seconds: HistogramVec,
    api_errors: IntCounterVec,
    watch_errors: IntCounterVec,
    events_dropped: IntCounterVec,
    queue_depth: IntGauge,
    leader: IntGauge,
    plugin_ready: IntGaugeVec,
    plugin_up_to_date: IntGaugeVec,
    rollouts: IntCounterVec,
    evaluations: IntCounterVec,
    objects_by_version: IntGaugeVec,
    primaries: IntGaugeVec,
    lookups: IntCounterVec,
    lookup_seconds: HistogramVec,
    lookup_hits: IntCounterVec,
    lookups_in_flight: IntGaugeVec,
    webhooks: IntCounterVec,
    webhook_seconds: HistogramVec,
    webhook_certificate: IntGauge,
}

/// What a metric is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// With the prefix.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// One sentence.
    pub help: String,
}

/// A lookup on its way.
pub struct LookupTimer {
    _timer: prometheus::HistogramTimer,
    in_flight: IntGauge,
}

impl Drop for LookupTimer {
    fn drop(&mut self) {
        self.in_flight.dec();
    }
}

/// The host's metrics.
#[must_use]
pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    &METRICS
}

const PREFIX: &str = "transom";

/// From 10 µs to 10 s.
const FAST: &[f64] = &[1e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 0.025, 0.1, 0.5, 2.5, 10.0];

impl Metrics {
    #[allow(clippy::expect_used, reason = "names and labels are literals; a test makes them all")]
    fn new() -> Self {
        let registry = Registry::new_custom(Some(PREFIX.into()), None).expect("prefix is valid");
        let described = RefCell::default();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels).expect("literal");
            register(&registry, &described, "counter", metric)
        };
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(FAST.to_vec());
            let metric = HistogramVec::new(options, labels).expect("literal");
            register(&registry, &described, "histogram", metric)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels).expect("literal");
            register(&registry, &described, "gauge", metric)
        };
        let expires =
            "Until when the serving certificate of the webhooks is valid, in seconds since 1970-01-01T00:00:00Z.";
        let certificate = IntGauge::new("webhook_certificate_expiry_timestamp_seconds", expires).expect("literal");
        let leads = "1 in the replica that does the work, 0 in one that stands by: the sum should be 1.";
        let leader = IntGauge::new("leader", leads).expect("literal");
        let waiting = IntGauge::new("queue_depth", "Primaries that wait for a worker.").expect("literal");
        Self {
            reconciles: counter("reconciles_total", "Reconciles by outcome.", &["plugin", "kind", "outcome"]),
            reconcile_seconds: histogram("reconcile_seconds", "Duration of a reconcile.", &["plugin", "kind"]),
            calls: counter("plugin_calls_total", "Calls to plugins by outcome.", &["plugin", "outcome"]),
            call_seconds: histogram("plugin_call_seconds", "Duration of a call to a plugin.", &["plugin"]),
            memo_hits: counter("memo_hits_total", "Reconciles that needed no call: inputs as before.", &["plugin"]),
            plan_calls: counter(
                "plan_calls_total",
                "Calls that plans asked for and the host made, by outcome.",
                &["plugin", "outcome"],
            ),
            plan_call_seconds: histogram("plan_call_seconds", "Duration of a call that a plan asked for.", &["plugin"]),
            api_seconds: histogram("api_request_seconds", "Duration of a request to the API server.", &["verb"]),
            api_errors: counter("api_errors_total", "Requests that the API server refused.", &["verb", "code"]),
            watch_errors: counter("watch_errors_total", "Interrupted watches.", &["kind"]),
            events_dropped: counter("events_dropped_total", "Events that could not be sent.", &["reason"]),
            queue_depth: register(&registry, &described, "gauge", waiting),
            leader: register(&registry, &described, "gauge", leader),
            plugin_ready: gauge("plugin_ready", "1 when a version serves all objects.", &["plugin"]),
            plugin_up_to_date: gauge(
                "plugin_up_to_date",
                "1 when the version in the spec serves all objects.",
                &["plugin"],
            ),
            rollouts: counter("rollouts_total", "Moves of new versions of plugins.", &["plugin", "move"]),
            evaluations: counter(
                "rollout_evaluations_total",
                "Objects that a new version was evaluated for, without a write.",
                &["plugin", "outcome"],
            ),
            objects_by_version: gauge(
                "rollout_objects",
                "Objects of a plugin: all, and those that a new version serves.",
                &["plugin", "version"],
            ),
            primaries: gauge("primaries", "Primaries known to the host.", &["plugin", "kind"]),
            lookups: counter("lookups_total", "Lookups that were sent, by outcome.", &["kind", "outcome"]),
            lookup_seconds: histogram("lookup_seconds", "Duration of a lookup that was sent.", &["kind"]),
            lookup_hits: counter("lookup_hits_total", "Lookups answered from memory, or by one on its way.", &["kind"]),
            lookups_in_flight: gauge("lookups_in_flight", "Lookups on their way.", &["kind"]),
            webhooks: counter(
                "webhooks_total",
                "Calls of webhooks by the API server, by outcome.",
                &["plugin", "webhook", "outcome"],
            ),
            webhook_seconds: histogram(
                "webhook_seconds",
                "Duration of a call of a webhook by the API server.",
                &["plugin", "webhook"],
            ),
            webhook_certificate: register(&registry, &described, "gauge", certificate),
            registry,
            described: described.into_inner(),
        }
    }

    /// What there is, in the order of this file.
    #[must_use]
    pub fn described(&self) -> &[Described] {
        &self.described
    }

    /// The API server has called a webhook and been answered.
    pub fn webhook(&self, plugin: &str, webhook: &str, outcome: &str, started: Instant) {
        self.webhooks.with_label_values(&[plugin, webhook, outcome]).inc();
        self.webhook_seconds.with_label_values(&[plugin, webhook]).observe(started.elapsed().as_secs_f64());
    }

    /// The serving certificate of the webhooks is valid until then, in seconds since 1970-01-01T00:00:00Z.
    pub fn webhook_certificate(&self, expires: u64) {
        self.webhook_certificate.set(i64::try_from(expires).unwrap_or(i64::MAX));
    }

    /// A lookup is sent. Times it, and counts it as on its way, until the timer is dropped.
    pub fn lookup(&self, kind: &str) -> LookupTimer {
        let in_flight = self.lookups_in_flight.with_label_values(&[kind]);
        in_flight.inc();
        LookupTimer { _timer: self.lookup_seconds.with_label_values(&[kind]).start_timer(), in_flight }
    }

    /// A lookup that was sent has an answer.
    pub fn looked_up(&self, kind: &str, outcome: &str) {
        self.lookups.with_label_values(&[kind, outcome]).inc();
    }

    /// A lookup did not have to be sent.
    pub fn lookup_hit(&self, kind: &str) {
        self.lookup_hits.with_label_values(&[kind]).inc();
    }

    /// A reconcile has ended.
    pub fn reconcile(&self, plugin: &str, kind: &str, outcome: &str, started: Instant) {
        self.reconciles.with_label_values(&[plugin, kind, outcome]).inc();
        self.reconcile_seconds.with_label_values(&[plugin, kind]).observe(started.elapsed().as_secs_f64());
    }

    /// A call to a plugin has ended.
    pub fn call(&self, plugin: &str, outcome: &str, started: Instant) {
        self.calls.with_label_values(&[plugin, outcome]).inc();
        self.call_seconds.with_label_values(&[plugin]).observe(started.elapsed().as_secs_f64());
    }

    /// A reconcile needed no call.
    pub fn memo_hit(&self, plugin: &str) {
        self.memo_hits.with_label_values(&[plugin]).inc();
    }

    /// A call that a plan asked for has ended.
    pub fn plan_call(&self, plugin: &str, outcome: &str, started: Instant) {
        self.plan_calls.with_label_values(&[plugin, outcome]).inc();
        self.plan_call_seconds.with_label_values(&[plugin]).observe(started.elapsed().as_secs_f64());
    }

    /// Times a request until the timer is dropped.
    pub fn api_request(&self, verb: &str) -> prometheus::HistogramTimer {
        self.api_seconds.with_label_values(&[verb]).start_timer()
    }

    /// The API server has refused a request.
    pub fn api_error(&self, verb: &str, code: u16) {
        self.api_errors.with_label_values(&[verb, &code.to_string()]).inc();
    }

    /// A watch was interrupted.
    pub fn watch_error(&self, kind: &str) {
        self.watch_errors.with_label_values(&[kind]).inc();
    }

    /// An Event was not sent.
    pub fn event_dropped(&self, reason: &str) {
        self.events_dropped.with_label_values(&[reason]).inc();
    }

    /// Does this replica do the work?
    pub fn leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// How many primaries wait.
    pub fn queue_depth(&self, depth: usize) {
        self.queue_depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    /// Whether a version of a plugin serves, and whether that is the one in the spec.
    pub fn plugin_ready(&self, plugin: &str, ready: bool, up_to_date: bool) {
        self.plugin_ready.with_label_values(&[plugin]).set(ready.into());
        self.plugin_up_to_date.with_label_values(&[plugin]).set(up_to_date.into());
    }

    /// A plugin's record is gone.
    pub fn plugin_gone(&self, plugin: &str) {
        let _ = self.plugin_ready.remove_label_values(&[plugin]);
        let _ = self.plugin_up_to_date.remove_label_values(&[plugin]);
        for version in ["all", "canary"] {
            let _ = self.objects_by_version.remove_label_values(&[plugin, version]);
        }
    }

    /// A new version of a plugin was let in, stopped or taken back.
    pub fn rollout(&self, plugin: &str, moved: &str) {
        self.rollouts.with_label_values(&[plugin, moved]).inc();
    }

    /// A version was evaluated for an object, without a write.
    pub fn evaluated(&self, plugin: &str, outcome: &str) {
        self.evaluations.with_label_values(&[plugin, outcome]).inc();
    }

    /// How many objects a version of a plugin serves; `all` for the whole.
    pub fn objects_by_version(&self, plugin: &str, version: &str, count: usize) {
        self.objects_by_version.with_label_values(&[plugin, version]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many primaries of a kind there are.
    pub fn primaries(&self, plugin: &str, kind: &str, count: usize) {
        self.primaries.with_label_values(&[plugin, kind]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// In Prometheus' text format.
    ///
    /// # Errors
    /// When a metric cannot be written, which is a defect of this file.
    pub fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[allow(clippy::expect_used, reason = "names are literals and differ; a test makes them all")]
fn register<M: Collector + Clone + 'static>(
    registry: &Registry,
    described: &RefCell<Vec<Described>>,
    kind: &'static str,
    metric: M,
) -> M {
    described.borrow_mut().extend(metric.desc().into_iter().map(|desc| Described {
        name: format!("{PREFIX}_{}", desc.fq_name),
        kind,
        labels: desc.variable_labels.clone(),
        help: desc.help.clone(),
    }));
    registry.register(Box::new(metric.clone())).expect("registered once");
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_metrics_are_there_with_the_prefix() {
        metrics().reconcile("p", "K", "Applied", Instant::now());
        metrics().call("p", "Done", Instant::now());
        metrics().plan_call("p", "Succeeded", Instant::now());
        drop(metrics().api_request("get"));
        drop(metrics().lookup("test"));
        metrics().looked_up("test", "Found");
        metrics().lookup_hit("test");
        let text = metrics().text().unwrap();
        for line in [
            "lookups_total{kind=\"test\",outcome=\"Found\"} 1",
            "lookup_seconds_count{kind=\"test\"} 1",
            "lookup_hits_total{kind=\"test\"} 1",
            "plan_calls_total{outcome=\"Succeeded\",plugin=\"p\"} 1",
            "plan_call_seconds_count{plugin=\"p\"} 1",
            "lookups_in_flight{kind=\"test\"} 0",
        ] {
            assert!(text.contains(&format!("transom_{line}")), "{line} in {text}");
        }
        assert!(text.contains("transom_reconciles_total{kind=\"K\",outcome=\"Applied\",plugin=\"p\"} 1"), "{text}");
        assert!(text.contains("transom_api_request_seconds_count{verb=\"get\"} 1"), "{text}");
    }

    const PAGE: &str = include_str!("../../../docs/metrics.md");

    #[test]
    fn every_metric_is_documented() {
        for Described { name, kind, labels, help } in metrics().described() {
            let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            let row = format!("| `{name}` | {kind} | {labels} | {help} |");
            assert!(PAGE.lines().any(|line| line == row), "docs/metrics.md lacks\n{row}");
        }
        let rows = PAGE.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, metrics().described().len(), "docs/metrics.md has rows for metrics that are not there");
    }

    /// Names of metrics, and of the labels that are asked for, in expressions of PromQL.
    fn used(text: &str) -> Vec<(String, Vec<String>)> {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let starts = text.match_indices("transom_").map(|(at, _)| at);
        let used = starts.map(|at| {
            let rest = text.get(at..).unwrap_or_default();
            let name: String = rest.chars().take_while(|c| word(*c)).collect();
            let after = rest.get(name.len()..).unwrap_or_default();
            let selector = after.strip_prefix('{').and_then(|inner| inner.split_once('}')).map(|(inner, _)| inner);
            let asked = selector.unwrap_or_default().split(',').filter(|part| part.contains(['=', '!']));
            let label = |part: &str| part.trim().chars().take_while(|c| word(*c)).collect::<String>();
            (name, asked.map(label).collect())
        });
        used.collect()
    }

    #[test]
    fn alerts_and_dashboard_ask_for_metrics_and_labels_that_exist() {
        let alerts = include_str!("../../../deploy/chart/files/alerts.yaml");
        let dashboard = include_str!("../../../deploy/chart/files/dashboard.json");
        serde_json::from_str::<serde_json::Value>(dashboard).unwrap();
        let used: Vec<_> = [alerts, dashboard].into_iter().flat_map(used).collect();
        assert!(used.len() > 20, "{}", used.len());
        for (name, labels) in used {
            let series = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let is_it = |metric: &&Described| metric.name == name || Some(&*metric.name) == series;
            let known = metrics().described().iter().find(is_it);
            let known = known.unwrap_or_else(|| panic!("there is no metric {name}"));
            for label in labels.iter().filter(|label| *label != "le") {
                assert!(known.labels.contains(label), "{name} has no label {label}");
            }
        }
    }
}
