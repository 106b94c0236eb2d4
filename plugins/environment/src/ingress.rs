//! How an Environment is reached from outside.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec,
    IngressTLS, ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use transom_sdk::prelude::*;

use crate::IngressConfig;
use crate::managed::WEB;
use crate::namespace::plain;
use crate::project::{Project, is_label};
use crate::report::{Problem, Step, of_spec};
use crate::spec::{Environment, TEAM_LABEL};

/// What requests are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) service: String,
    pub(crate) port: i32,
}

/// Plans the Ingress. Returns the address for people.
pub(crate) fn plan(
    plan: &mut Plan,
    config: &IngressConfig,
    environment: &Environment,
    project: &Project,
    namespace: &str,
    backend: &Backend,
) -> Result<String, Problem> {
    let host = host(config, environment, project, namespace)?;
    plan.apply(ingress(config, namespace, &host, backend));
    Ok(url(config, &host))
}

fn host(
    config: &IngressConfig,
    environment: &Environment,
    project: &Project,
    namespace: &str,
) -> Result<String, Problem> {
    let team = match environment.label(TEAM_LABEL) {
        "" => project.namespace(),
        team => team,
    };
    let host = config
        .host
        .replace("{namespace}", namespace)
        .replace("{environment}", &plain(environment.name()))
        .replace("{project}", &plain(project.name()))
        .replace("{team}", &plain(team));
    if host.len() <= 253 && host.split('.').all(is_label) {
        return Ok(host);
    }
    let message = format!(
        "{host:?} is no host name: spec.config.ingress.host of the Plugin record must be one, with {{namespace}}, \
         {{environment}}, {{project}} and {{team}} in it"
    );
    Err(of_spec(Step::Deployment, "InvalidHost", message))
}

fn url(config: &IngressConfig, host: &str) -> String {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    config.port.map_or_else(|| format!("{scheme}://{host}/"), |port| format!("{scheme}://{host}:{port}/"))
}

fn ingress(config: &IngressConfig, namespace: &str, host: &str, backend: &Backend) -> Ingress {
    let mut annotations: BTreeMap<String, String> = BTreeMap::new();
    if let Some(tls) = &config.tls {
        if !tls.cluster_issuer.is_empty() {
            annotations.insert("cert-manager.io/cluster-issuer".into(), tls.cluster_issuer.clone());
        }
        annotations.insert("nginx.ingress.kubernetes.io/ssl-redirect".into(), "true".into());
    }
    annotations.extend(config.annotations.clone());
    let service = IngressServiceBackend {
        name: backend.service.clone(),
        port: Some(ServiceBackendPort { number: Some(backend.port), name: None }),
    };
    let path = HTTPIngressPath {
        path: Some("/".into()),
        path_type: "Prefix".into(),
        backend: IngressBackend { service: Some(service), resource: None },
    };
    let rule = IngressRule { host: Some(host.to_owned()), http: Some(HTTPIngressRuleValue { paths: vec![path] }) };
    let spec = IngressSpec {
        ingress_class_name: Some(config.class_name.clone()),
        rules: Some(vec![rule]),
        tls: config.tls.as_ref().map(|tls| {
            vec![IngressTLS { hosts: Some(vec![host.to_owned()]), secret_name: Some(tls.secret_name.clone()) }]
        }),
        ..IngressSpec::default()
    };
    let metadata = ObjectMeta {
        name: Some(WEB.into()),
        namespace: Some(namespace.to_owned()),
        annotations: (!annotations.is_empty()).then_some(annotations),
        ..ObjectMeta::default()
    };
    Ingress { metadata, spec: Some(spec), status: None }
}
