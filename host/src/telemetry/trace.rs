//! Traces by OTLP: a reconcile, in it the rounds of its plugin, its lookups, and the requests to the API server.

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::registry::LookupSpan;

/// Of the host, unless `OTEL_SERVICE_NAME` says otherwise.
const SERVICE: &str = "transom";

/// Sends spans to a collector, in batches, from a thread of its own: a collector that is slow or down costs spans and never a
/// reconcile. Sampling, limits and headers are those of the `OTEL_` variables of OpenTelemetry's specification.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// To the collector at this address (OTLP over gRPC: `http://collector:4317`). Must be called inside a runtime.
    ///
    /// # Errors
    /// When the address cannot be read.
    pub fn to(endpoint: &str) -> anyhow::Result<Self> {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
        let exporter = exporter.with_context(|| format!("--otlp-endpoint {endpoint:?}: write http://HOST:4317"))?;
        let resource = Resource::builder();
        let named = std::env::var_os("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty());
        let resource = if named { resource } else { resource.with_service_name(SERVICE) };
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build());
        Ok(Self(provider.build()))
    }

    /// Takes the host's own spans.
    pub(super) fn layer<S: tracing::Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        let ours =
            FilterFn::new(|metadata| metadata.is_span() && metadata.target().starts_with(env!("CARGO_CRATE_NAME")));
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer(SERVICE))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(ours.with_max_level_hint(LevelFilter::DEBUG))
    }

    /// Sends what is left, for at most some seconds.
    pub fn end(self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}
