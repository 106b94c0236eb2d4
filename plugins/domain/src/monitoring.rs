use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use transom_sdk::objects;
use transom_sdk::prelude::*;

use crate::spec::Domain;
use crate::workload;

/// Tells Prometheus' operator to scrape a Service (prometheus-operator/prometheus-operator: `Documentation/api-reference/api.md`).
#[derive(Serialize, Deserialize)]
pub(crate) struct ServiceMonitor {
    metadata: ObjectMeta,
    spec: ServiceMonitorSpec,
}
transom_sdk::foreign!(ServiceMonitor { metadata }, "monitoring.coreos.com/v1", "ServiceMonitor");

#[derive(Serialize, Deserialize)]
struct ServiceMonitorSpec {
    endpoints: Vec<Endpoint>,
    selector: LabelSelector,
}

#[derive(Serialize, Deserialize)]
struct Endpoint {
    port: String,
    path: String,
}

/// A definition of a kind; what matters here is whether it is served.
#[derive(Deserialize)]
pub(crate) struct Definition {
    status: Option<DefinitionStatus>,
}
transom_sdk::foreign!(Definition, "apiextensions.k8s.io/v1", "CustomResourceDefinition");

#[derive(Deserialize)]
struct DefinitionStatus {
    #[serde(default)]
    conditions: Vec<DefinitionCondition>,
}

#[derive(Deserialize)]
struct DefinitionCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// Name of the definition of ServiceMonitor.
const DEFINITION: &str = "servicemonitors.monitoring.coreos.com";

/// Plans what the spec asks for, where the cluster has the kind; says so where it has not, and goes on when it comes.
pub(crate) fn plan(plan: &mut Plan, domain: &Domain, cx: &Context) -> Result<(), Failure> {
    if !domain.spec.observability.service_monitor {
        return Ok(());
    }
    let definition = cx.get_in::<Definition>("", DEFINITION)?;
    if definition.is_some_and(|definition| definition.is_established()) {
        plan.apply(service_monitor(domain));
    } else {
        let note = "the cluster has no kind ServiceMonitor (yet): Prometheus will not scrape this Domain";
        plan.event("MonitoringUnavailable", note);
    }
    Ok(())
}

impl Definition {
    fn is_established(&self) -> bool {
        let conditions = self.status.iter().flat_map(|status| &status.conditions);
        conditions.into_iter().any(|condition| condition.kind == "Established" && condition.status == "True")
    }
}

fn service_monitor(domain: &Domain) -> ServiceMonitor {
    ServiceMonitor {
        metadata: workload::metadata(domain),
        spec: ServiceMonitorSpec {
            endpoints: vec![Endpoint { port: "metrics".into(), path: "/metrics".into() }],
            selector: objects::selector(&workload::selector(domain)),
        },
    }
}
