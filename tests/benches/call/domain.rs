//! A Domain that runs, as the host would ask its plugin about it.

use anyhow::{Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use transom::plan::contract as host;
use transom_plugin_domain::{
    Database, Domain, DomainPlugin, DomainSpec, ImagePullPolicy, Observability, Resources, Retention, Rollout, Security,
};
use transom_sdk::objects;
use transom_sdk::testing::{Case, wire};

/// The primary, its cluster and secret as answers, and three live children; the plan is the whole one.
pub(crate) fn steady() -> wire::Request {
    let metadata = ObjectMeta { name: Some("main-app".into()), ..ObjectMeta::default() };
    let case = Case::<DomainPlugin>::new(&orders())
        .foreign_object(json!({
            "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": { "name": "main" },
        }))
        .object(&Secret { metadata, ..Secret::default() });
    let first = case.plan();
    let case = first.names::<Job>().iter().fold(case.observe(&first), |case, job| case.ready::<Job>(job));
    let second = case.plan();
    let mut request = case.observe(&second).status::<Deployment>("orders", available()).request();
    request.object = stored(&request.object);
    for child in &mut request.children {
        child.object = stored(&child.object);
    }
    for answered in &mut request.answers {
        if let wire::Answer::Found(wire::Value::Object(object)) = &mut answered.answer {
            *object = stored(object);
        }
    }
    request
}

fn orders() -> Domain {
    let db = Database {
        cluster_ref: "cnpg/main".into(),
        schema: "orders".into(),
        migration_job_image: "registry.example/migrator:7".into(),
        retention: Retention::default(),
        migration_timeout: "10m".into(),
        migration_env: vec![objects::env("STEP_LIMIT", "100")],
    };
    let spec = DomainSpec {
        image: "registry.example/orders:1.12.3".into(),
        image_pull_policy: ImagePullPolicy::default(),
        version: Some("1.12.3".into()),
        db,
        resources: Resources::default(),
        replicas: 2,
        autoscaling: None,
        env: ["FEATURES", "REGION", "TENANT", "CACHE"].map(|name| objects::env(name, "returns,reservations")).into(),
        observability: Observability::default(),
        security: Security { service_account_name: Some("orders".into()), ..Security::default() },
        rollout: Rollout::default(),
    };
    Domain::new("orders", spec)
}

fn available() -> Value {
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:05Z", "lastUpdateTime": "2026-01-01T00:00:05Z",
        })
    };
    json!({
        "observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2,
        "conditions": [
            condition("Available", "MinimumReplicasAvailable", "Deployment has minimum availability."),
            condition(
                "Progressing",
                "NewReplicaSetAvailable",
                "ReplicaSet \"orders-6c8f9d7b5c\" has successfully progressed.",
            ),
        ],
    })
}

/// With the metadata that an object has once it was applied: it is most of what a plugin is shown of its children.
fn stored(object: &str) -> String {
    const UID: &str = "8a5c2f9e-0000-4000-8000-000000000001";
    let mut object: Value = serde_json::from_str(object).unwrap_or_default();
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.entry("uid").or_insert(UID.into());
        metadata.insert("creationTimestamp".into(), "2026-01-01T00:00:00Z".into());
        let digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        metadata.insert("annotations".into(), json!({ "transom.dev/applied": digest }));
        metadata.insert(
            "labels".into(),
            json!({
                "app.kubernetes.io/name": "orders", "app.kubernetes.io/managed-by": "transom",
                "transom.dev/owner-uid": UID, "transom.dev/plugin": "domain",
            }),
        );
        metadata.insert(
            "ownerReferences".into(),
            json!([{
                "apiVersion": "ameide.io/v1", "kind": "Domain", "name": "orders", "uid": UID,
                "controller": true, "blockOwnerDeletion": true,
            }]),
        );
    }
    object.to_string()
}

/// Text in a request.
pub(crate) fn bytes(request: &wire::Request) -> usize {
    let answers = request.answers.iter().map(|answered| match &answered.answer {
        wire::Answer::Found(wire::Value::Object(object)) => object.len(),
        _ => 0,
    });
    request.object.len()
        + request.children.iter().map(|child| child.object.len()).sum::<usize>()
        + answers.sum::<usize>()
}

/// The same request in the host's types.
pub(crate) fn for_host(request: &wire::Request) -> Result<host::Request> {
    let reference = |r: &wire::ObjectRef| host::ObjectRef {
        kind: host::TypeMeta::new(&*r.api_version, &*r.kind),
        namespace: r.namespace.clone(),
        name: r.name.clone(),
    };
    let answered = |answered: &wire::Answered| {
        let wire::Lookup::Object(wanted) = &answered.lookup else { bail!("not a lookup of one object: {answered:?}") };
        let wire::Answer::Found(wire::Value::Object(object)) = &answered.answer else {
            bail!("not found: {answered:?}")
        };
        Ok(host::Answered {
            lookup: host::Lookup::Object(reference(wanted)),
            answer: host::Answer::Found(host::Value::Object(object.clone())),
        })
    };
    let observed =
        |child: &wire::Observed| host::Observed { object_ref: reference(&child.ref_), object: child.object.clone() };
    Ok(host::Request {
        object: request.object.clone(),
        deleting: request.deleting,
        children: request.children.iter().map(observed).collect(),
        answers: request.answers.iter().map(answered).collect::<Result<_>>()?,
        calls: Vec::new(),
        refusals: Vec::new(),
        config: request.config.clone(),
        round: request.round,
    })
}
