//! Traces (H15), against a collector in this process.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use prost::Message;
use serde_json::json;
use transom_tests::{Host, HostOptions, Namespace, Rpc, TestCluster, component, condition, sample};

use crate::ready_web;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

async fn collector() -> Rpc {
    let answer = |_| async { Ok(ExportTraceServiceResponse::default().encode_to_vec()) }.boxed();
    Rpc::start(Arc::new(answer)).await
}

fn traced(collector: &Rpc) -> HostOptions {
    let endpoint = format!("http://{}", collector.authority);
    HostOptions { arguments: vec!["--otlp-endpoint".into(), endpoint], ..HostOptions::default() }
}

/// Attributes as texts.
fn texts(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|pair| (pair.key.as_str(), text(&pair.value))).collect()
}

/// All spans that came, and the service that each says it is of.
fn spans(collector: &Rpc) -> Vec<(String, Span)> {
    let mut spans = Vec::new();
    for (path, message) in collector.asked() {
        assert_eq!(path, EXPORT);
        for sent in ExportTraceServiceRequest::decode(message.as_slice()).unwrap().resource_spans {
            let service = texts(&sent.resource.unwrap().attributes)["service.name"].clone();
            let scopes = sent.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(scopes.map(|span| (service.clone(), span)));
        }
    }
    spans
}

/// The children of a span: their names with the attributes that matter.
fn children(spans: &[(String, Span)], parent: &Span) -> Vec<String> {
    let of_parent = spans.iter().filter(|(_, span)| span.parent_span_id == parent.span_id);
    let line = |(_, span): &(String, Span)| {
        let attributes = texts(&span.attributes);
        let shown = ["outcome", "http.request.method", "http.response.status_code"];
        let shown = shown.iter().filter_map(|name| attributes.get(name).cloned());
        std::iter::once(span.name.clone()).chain(shown).collect::<Vec<_>>().join(" ")
    };
    let mut lines: Vec<String> = of_parent.map(line).collect();
    lines.sort();
    lines
}

async fn traced_host(ns: &Namespace, collector: &Rpc) -> Host {
    let host = ns.host_with(traced(collector)).await;
    ns.install(&component("web").await).await;
    host
}

#[tokio::test]
async fn a_reconcile_is_a_trace_with_the_calls_and_requests_in_it() {
    let ns = TestCluster::shared().await.namespace("traces").await;
    let collector = collector().await;
    let host = traced_host(&ns, &collector).await;
    ready_web(&ns, "shop").await;
    // what it has not sent yet it sends before it ends
    assert!(host.stop().await.success());
    let spans = spans(&collector);
    assert!(spans.iter().all(|(service, _)| service == "transom"));
    let is_first = |span: &&Span| {
        span.name == "reconcile" && children(&spans, span).iter().filter(|line| line.contains("PATCH 201")).count() == 4
    };
    let all = || spans.iter().map(|(_, span)| span);
    let first = all().find(is_first).expect("the reconcile that created the four children");
    let attributes = texts(&first.attributes);
    let expected = [("kind", "Web"), ("namespace", &ns.name), ("object", "shop"), ("outcome", "Synced")];
    for (name, value) in expected {
        assert_eq!(attributes.get(name).map(String::as_str), Some(value), "{name} of {attributes:?}");
    }
    assert!(first.parent_span_id.is_empty(), "nothing is above it");
    assert!(children(&spans, first).contains(&"call Planned".to_owned()), "{:?}", children(&spans, first));
    let request = all().find(|span| span.parent_span_id == first.span_id && span.name == "apply").unwrap();
    assert_eq!((request.kind(), &request.trace_id), (SpanKind::Client, &first.trace_id));
    let path = texts(&request.attributes)["url.path"].clone();
    assert!(path.contains(&format!("/namespaces/{}/", ns.name)) && !path.contains('?'), "{path}");
    let lonely = all().filter(|span| span.name != "reconcile" && span.parent_span_id.is_empty()).count();
    assert_eq!(lonely, 0, "what belongs to no reconcile is not sent");
}

#[tokio::test]
async fn a_reconcile_that_fails_is_marked() {
    let ns = TestCluster::shared().await.namespace("traces-failed").await;
    let collector = collector().await;
    let host = traced_host(&ns, &collector).await;
    let theirs = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "shop" } });
    ns.create(theirs).await;
    let web = ns.create(sample::web("shop")).await;
    ns.wait_for(&web, condition("Synced", "False").because("ChildConflict")).await;
    assert!(host.stop().await.success());
    let spans = spans(&collector);
    let failed = |span: &Span| span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
    let reconciles: Vec<_> = spans.iter().map(|(_, span)| span).filter(|span| span.name == "reconcile").collect();
    let marked = reconciles.iter().find(|span| failed(span)).expect("one that failed");
    assert_eq!(texts(&marked.attributes)["outcome"], "ChildConflict");
    let refused = spans.iter().any(|(_, span)| {
        failed(span) && texts(&span.attributes).get("http.response.status_code").is_some_and(|code| code == "409")
    });
    assert!(refused, "and the request that was refused");
}

#[tokio::test]
async fn without_a_collector_nothing_waits() {
    let ns = TestCluster::shared().await.namespace("traces-none").await;
    let nobody = collector().await;
    let options = traced(&nobody);
    drop(nobody);
    let host = ns.host_with(options).await;
    ns.install(&component("web").await).await;
    ready_web(&ns, "shop").await;
    assert!(host.stop().await.success());
}
