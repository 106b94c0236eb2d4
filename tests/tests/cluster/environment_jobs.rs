//! Jobs of Environments that finish and are cleaned up, and objects that the API server does not accept.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use transom_tests::{Namespace, condition, condition_of, of};

use super::environment::{Team, phase};

/// A Job whose pods kwok completes at once.
fn job(name: &str, image: &str) -> Value {
    let pod = json!({ "restartPolicy": "Never", "containers": [{ "name": "run", "image": image }] });
    json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "ttlSecondsAfterFinished": 0, "template": { "spec": pod } } })
}

fn hook(name: &str, event: &str) -> String {
    let mut job = job(name, "registry.example/hook:1");
    job["metadata"]["annotations"] = json!({ "helm.sh/hook": event });
    job.to_string()
}

async fn at_commit(team: &Team, environment: &Value, commit: &str) -> Value {
    let source = json!({ "name": "web", "commitSha": commit, "branch": "main" });
    team.ns.merge(environment, json!({ "spec": { "sources": [source] } })).await
}

/// Ready, with nothing left of these Jobs.
async fn ready_without(team: &Team, environment: &Value, inside: &Namespace, jobs: &[&str]) {
    team.ns.wait_for(environment, condition("Ready", "True")).await;
    for name in jobs {
        inside.wait_gone(of::<Job>(name)).await;
    }
    team.host.rest().await;
}

#[tokio::test]
async fn a_job_that_expired_runs_once_for_each_change_and_a_restart_is_none() {
    let team = Team::new("env-jobs").await;
    let chart = "apiVersion: v2\nname: web\nversion: 1.0.0\n";
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}}";
    let (before, after) = (hook("before", "pre-install,pre-upgrade"), hook("after", "post-install,post-upgrade"));
    let migrate = job("migrate", "registry.example/migrate:1").to_string();
    let commit = team.repository(
        "shop",
        &[
            ("k8s/job.json", &migrate),
            ("chart/Chart.yaml", chart),
            ("chart/templates/map.yaml", map),
            ("chart/templates/before.yaml", &before),
            ("chart/templates/after.yaml", &after),
        ],
    );
    let templates = json!({
        "manifest": { "type": "manifest", "path": "k8s" }, "helm": { "type": "helm", "path": "chart" },
    });
    team.project("shop", templates).await;
    let mark = team.host.audit.mark();
    let manifest = team.ns.create(team.environment("manifest", "manifest", &commit)).await;
    let helm = team.ns.create(team.environment("helm", "helm", &commit)).await;
    ready_without(&team, &manifest, &team.inside("manifest"), &["migrate"]).await;
    ready_without(&team, &helm, &team.inside("helm"), &["before", "after"]).await;
    let once = [("migrate", 1), ("before", 1), ("after", 1)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(team.host.audit.since(mark).writes_of("jobs"), once.into());

    let team = team.restarted().await;
    let mark = team.host.audit.mark();
    let touched = json!({ "metadata": { "annotations": { "touched": "1" } } });
    for environment in [&manifest, &helm] {
        team.ns.merge(environment, touched.clone()).await;
        team.ns.wait_for(environment, condition("Ready", "True")).await;
    }
    team.host.rest().await;
    assert_eq!(team.host.audit.since(mark).writes_of("jobs"), [].into(), "nothing has changed");

    let changed = job("migrate", "registry.example/migrate:2").to_string();
    let second = team.repository("shop", &[("k8s/job.json", &changed)]);
    at_commit(&team, &manifest, &second).await;
    at_commit(&team, &helm, &second).await;
    ready_without(&team, &manifest, &team.inside("manifest"), &["migrate"]).await;
    ready_without(&team, &helm, &team.inside("helm"), &["before", "after"]).await;
    let jobs = team.host.audit.since(mark).writes_of("jobs");
    assert_eq!(jobs, [("migrate".to_owned(), 1)].into(), "hooks of the chart are as they were");
    team.end(&manifest).await;
    team.end(&helm).await;
}

/// A quota of the platform that has no room for this kind.
async fn without_room(inside: &Namespace, resource: &str) -> Value {
    let spec = json!({ "hard": { format!("count/{resource}"): "0" } });
    let metadata = json!({ "name": "no-room" });
    let quota =
        inside.create(json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": spec })).await;
    inside.wait_until(&quota, |quota| quota["status"]["hard"].is_object()).await
}

#[tokio::test]
async fn what_the_api_server_refuses_is_told_within_seconds_and_mended_by_itself() {
    let team = Team::new("env-refused").await;
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: only}}";
    let deployment = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {selector: {matchLabels: \
                      {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: \
                      'registry.example/shop:1'}]}}}}";
    let first = team.repository("shop", &[("k8s/all.yaml", map)]);
    let second = team.repository("shop", &[("k8s/all.yaml", &format!("{map}\n---\n{deployment}"))]);
    let invalid =
        team.repository("shop", &[("k8s/all.yaml", &deployment.replace("matchLabels: {app", "matchLabels: {not"))]);
    team.project("shop", json!({ "deployment": { "type": "manifest", "path": "k8s" } })).await;
    let environment = team.ns.create(team.environment("pr-1", "deployment", &first)).await;
    team.ns.wait_for(&environment, condition("Ready", "True")).await;
    let inside = team.inside("pr-1");
    inside.get(of::<ConfigMap>("only")).await;
    let quota = without_room(&inside, "deployments.apps").await;

    at_commit(&team, &environment, &second).await;
    let told = |object: &Value, words: &str| {
        let message = condition_of(object, "DeploymentReady")["message"].as_str().unwrap_or_default().to_owned();
        phase(object) == "Failed" && message.contains("web") && message.contains(words)
    };
    let failed = team.ns.wait_until(&environment, |object| told(object, "exceeded quota: no-room")).await;
    assert_eq!(condition_of(&failed, "Ready")["status"], "False");
    inside.delete(&quota).await;
    // a change of anything is the sooner way out; without one the host tries again by itself
    team.ns.merge(&environment, json!({ "spec": { "config": { "env": [{ "name": "A", "value": "1" }] } } })).await;
    let ready = team.ns.wait_for(&environment, condition("Ready", "True")).await;
    assert_eq!(phase(&ready), "Ready");
    inside.get(of::<Deployment>("web")).await;

    // the selector is immutable, and does not match: in the API server's words
    inside.delete(of::<Deployment>("web")).await;
    at_commit(&team, &environment, &invalid).await;
    team.ns.wait_until(&environment, |object| told(object, "`selector` does not match template `labels`")).await;
    team.end(&environment).await;
}

/// With the plugin's default of 64 MiB and the engine's of 256 MiB.
#[tokio::test]
async fn a_chart_of_twelve_megabytes_is_rendered_in_a_plugin_of_sixty_four() {
    let team = Team::with_engines("env-large", json!({ "deadlineMilliseconds": 120_000 })).await;
    // text that does not compress to nothing
    let line = |i: u64| {
        format!("{:016x}{:016x}\n", i.wrapping_mul(0x9e37_79b9_7f4a_7c15), i.wrapping_mul(0xc2b2_ae3d_27d4_eb4f))
    };
    let part = |n: u64| (0..31_000).map(|i| line(n * 31_000 + i)).collect::<String>();
    let parts: Vec<(String, String)> = (0..12).map(|n| (format!("chart/files/part-{n}.txt"), part(n))).collect();
    assert!(parts.iter().map(|(_, text)| text.len()).sum::<usize>() > 12_000_000);
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: sizes}\ndata:\n{{- range $path, $_ := .Files.Glob \
               \"files/*\" }}\n  {{ base $path }}: {{ $.Files.Get $path | sha256sum }}\n{{- end }}\n";
    let chart =
        [("chart/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\n"), ("chart/templates/map.yaml", map)];
    let files: Vec<(&str, &str)> =
        chart.into_iter().chain(parts.iter().map(|(a, b)| (a.as_str(), b.as_str()))).collect();
    let commit = team.repository("shop", &files);
    team.project("shop", json!({ "deployment": { "type": "helm", "path": "chart" } })).await;
    let environment = team.ns.create(team.environment("pr-1", "deployment", &commit)).await;
    team.ns.wait_for(&environment, condition("Ready", "True")).await;
    let made = team.inside("pr-1").get(of::<ConfigMap>("sizes")).await;
    let data = made["data"].as_object().unwrap();
    assert_eq!(data.len(), 12, "{data:#?}");
    assert!(data.values().all(|digest| digest.as_str().is_some_and(|digest| digest.len() == 64)), "{data:#?}");
    team.end(&environment).await;
}
