use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::Ingress;
use transom_sdk::testing::Disposition;

use super::*;

fn production() -> Environment {
    let mut environment = environment("deployment");
    environment.spec.config = serde_json::from_value(json!({
        "image": "registry.example/shop:1", "ports": [{ "containerPort": 8080 }],
        "env": [{ "name": "LOG_LEVEL", "value": "debug" }],
    }))
    .unwrap();
    environment
}

#[test]
fn e5_production_is_a_deployment_with_service_and_ingress() {
    let case = placed(&production(), &project());
    let plan = case.plan();
    assert_eq!((phase(&plan), plan.condition("DeploymentReady")), ("Deploying", Some(("False", "Missing"))));
    let case = case.observe(&plan).ready::<Deployment>("web");
    let plan = case.plan();
    assert_eq!((phase(&plan), plan.condition("Ready")), ("Ready", Some(("True", "Ready"))));
    assert_eq!(plan.status.as_ref().unwrap()["url"], "https://acme-shop-pr-7.preview.example/");
    let of = |kind: &str| plan.children.iter().filter(|child| child.object["kind"] == kind).collect::<Vec<_>>();
    insta::assert_yaml_snapshot!([of("Deployment"), of("Service"), of("Ingress")].concat());
}

#[test]
fn e5_the_environment_is_laid_over_its_template() {
    let template = json!({ "type": "manifest", "config": {
        "image": "registry.example/shop:0", "ports": [{ "containerPort": 3000 }], "command": ["serve"],
        "env": [{ "name": "LOG_LEVEL", "value": "info" }, { "name": "REGION", "value": "eu" }],
        "resources": { "limits": { "cpu": 1, "memory": "1Gi" } },
    } });
    let mut environment = production();
    environment.spec.config.ports = None;
    let plan = placed(&environment, &with_template(project(), "deployment", template)).plan();
    let deployment: Deployment = plan.child("web").unwrap();
    let container = serde_json::to_value(&deployment.spec.unwrap().template.spec.unwrap().containers[0]).unwrap();
    assert_eq!(container["image"], "registry.example/shop:1");
    assert_eq!(container["command"], json!(["serve"]));
    assert_eq!(container["ports"][0]["containerPort"], 3000);
    let env = json!([{ "name": "LOG_LEVEL", "value": "debug" }, { "name": "REGION", "value": "eu" }]);
    assert_eq!(container["env"], env);
    assert_eq!(container["resources"]["limits"], json!({ "cpu": "1", "memory": "1Gi" }), "numbers need no quotes");
}

#[test]
fn e5_development_waits_for_postgres_and_then_clones_installs_and_migrates() {
    let case = placed(&environment("development"), &project());
    let plan = case.plan();
    assert_eq!(plan.names::<StatefulSet>(), ["postgres"]);
    assert_eq!(plan.disposition::<Deployment>("web"), Some(Disposition::Hold));
    assert_eq!(message(&plan, "DeploymentReady"), "StatefulSet postgres: it does not exist yet");
    // the annotation by which later objects know it is written with the first plan
    let case = case.observe(&plan).ready::<StatefulSet>("postgres").reconciled();
    let plan = case.plan();
    assert_eq!(plan.disposition::<Deployment>("web"), Some(Disposition::Apply));
    let case = case.ready::<Deployment>("web");
    assert_eq!(case.plan().condition("Ready"), Some(("True", "Ready")));
    let of = |kind: &str| plan.children.iter().filter(|child| child.object["kind"] == kind).collect::<Vec<_>>();
    insta::assert_yaml_snapshot!(
        [of("PersistentVolumeClaim"), of("Secret"), of("StatefulSet"), of("Deployment"), of("Service")].concat()
    );
    let script: ConfigMap = plan.child("git-scripts").unwrap();
    assert!(script.data.unwrap()["git-clone.sh"].starts_with("#!/bin/sh"));
}

#[test]
fn e5_services_volumes_and_init_containers_can_be_said() {
    let mut environment = environment("development");
    environment.spec.config = serde_json::from_value(json!({
        "image": "node:20", "initContainers": [{ "name": "install", "command": ["pnpm", "install"] }],
        "services": [
            { "name": "redis", "container": { "image": "redis:7", "ports": [{ "containerPort": 6379 }] } },
            { "name": "db", "database": "shop", "storage": { "accessModes": ["ReadWriteOnce"] },
              "container": { "image": "postgres:17", "ports": [{ "containerPort": 5432 }] } },
        ],
        "volumes": [{ "name": "code", "persistentVolumeClaim": { "accessModes": ["ReadWriteOnce"] } }],
        "volumeMounts": [{ "name": "code", "mountPath": "/app" }],
    }))
    .unwrap();
    let case = placed(&environment, &project()).reconciled();
    let case = case.ready::<StatefulSet>("redis").ready::<StatefulSet>("db").reconciled();
    let plan = case.plan();
    assert_eq!(plan.names::<StatefulSet>(), ["redis", "db"]);
    assert_eq!(plan.names::<PersistentVolumeClaim>(), ["code"]);
    assert_eq!(plan.names::<Secret>(), [""; 0], "the database that comes by itself was replaced");
    let database: StatefulSet = plan.child("db").unwrap();
    let env = serde_json::to_value(&database.spec.unwrap().template.spec.unwrap().containers[0].env).unwrap();
    assert_eq!(env[0], json!({ "name": "POSTGRES_DB", "value": "shop" }));
    let deployment: Deployment = plan.child("web").unwrap();
    let pod = deployment.spec.unwrap().template.spec.unwrap();
    let names: Vec<&str> = pod.init_containers.iter().flatten().map(|container| container.name.as_str()).collect();
    assert_eq!(names, ["git-clone", "install"]);
    assert_eq!(pod.init_containers.unwrap()[1].working_dir.as_deref(), Some("/app"));
}

#[test]
fn e5_a_failed_init_container_is_named_with_its_log() {
    let case = placed(&environment("development"), &project()).reconciled();
    let case = case.ready::<StatefulSet>("postgres").reconciled();
    let failed = json!({ "name": "db-migrate", "image": "", "imageID": "", "ready": false, "restartCount": 1,
        "state": { "terminated": { "exitCode": 1, "reason": "Error", "message": "connect ETIMEDOUT" } } });
    let pod = json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "web-1", "namespace": "acme-shop-pr-7", "labels": { "app": "web" } },
        "status": { "initContainerStatuses": [failed] } });
    let plan = case.foreign_object(pod).plan();
    let told = message(&plan, "DeploymentReady");
    assert!(told.ends_with("container db-migrate ended with 1: connect ETIMEDOUT"), "{told}");
}

#[test]
fn e5_a_workspace_is_a_pod_that_waits() {
    let mut environment = environment("development");
    environment.spec.deployment_mode = DeploymentMode::Workspace;
    let case = placed(&environment, &project()).reconciled();
    let plan = case.plan();
    assert_eq!(plan.names::<Pod>(), ["workspace-shop-0123456"]);
    assert_eq!((plan.names::<Service>().len(), plan.names::<Ingress>().len()), (0, 0));
    let pod: Pod = plan.child("workspace-shop-0123456").unwrap();
    let container = &pod.spec.unwrap().containers[0];
    assert_eq!(container.command.as_ref().unwrap(), &["sleep", "infinity"]);
    let plan = case.ready::<Pod>("workspace-shop-0123456").plan();
    assert_eq!((phase(&plan), plan.condition("Ready")), ("Ready", Some(("True", "Ready"))));
}

#[test]
fn e5_what_the_api_server_would_refuse_is_named() {
    let told = |config: serde_json::Value| {
        let mut environment = production();
        let mut whole = serde_json::to_value(&environment.spec.config).unwrap();
        whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        environment.spec.config = serde_json::from_value(whole).unwrap();
        let plan = placed(&environment, &project()).plan();
        assert_eq!(phase(&plan), "Failed");
        message(&plan, "DeploymentReady").to_owned()
    };
    assert_eq!(
        told(json!({ "ports": [] })),
        "spec.config.ports: must have at least one port, which the Service web leads to"
    );
    let mount = json!([{ "name": "data", "mountPath": "/data" }]);
    assert_eq!(
        told(json!({ "volumeMounts": mount })),
        "spec.config.volumeMounts: there is no volume data: add it to spec.config.volumes with a claim"
    );
    let services = json!([{ "name": "Redis", "container": { "image": "redis" } }]);
    assert_eq!(
        told(json!({ "services": services })),
        "spec.config.services[0].name: must be lower-case letters, digits and -"
    );
}

#[test]
fn e7_an_ingress_without_tls_has_a_plain_address_and_a_port() {
    let mut config = config();
    let ingress = config.ingress.as_mut().unwrap();
    (ingress.tls, ingress.port, ingress.host) = (None, Some(8080), "{environment}.{team}.localhost".into());
    let plan = placed(&production(), &project()).config(&config).plan();
    assert_eq!(plan.status.as_ref().unwrap()["url"], "http://pr-7.acme.localhost:8080/");
    let ingress: Ingress = plan.child("web").unwrap();
    assert_eq!((ingress.spec.unwrap().tls, ingress.metadata.annotations), (None, None));
}

/// The script brings a repository to a commit, a branch and a commit that is on no branch, and leaves what is there.
#[test]
fn e5_the_script_clones_and_leaves_work_alone() {
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str], env: &[(&str, String)], at: &std::path::Path| {
        let mut command = std::process::Command::new(program);
        command.args(arguments).current_dir(at).env("HOME", folder.path()).env("GIT_CONFIG_NOSYSTEM", "1");
        let done = command.envs(env.iter().cloned()).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    let origin = folder.path().join("origin");
    std::fs::create_dir(&origin).unwrap();
    let git = |arguments: &[&str]| {
        let user = ["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "init.defaultBranch=main"];
        run("git", &[&user[..], arguments].concat(), &[], &origin)
    };
    git(&["init", "--quiet"]);
    std::fs::write(origin.join("a"), "one").unwrap();
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "one"]);
    let first = git(&["rev-parse", "HEAD"]);
    git(&["checkout", "--quiet", "-b", "feature/x"]);
    std::fs::write(origin.join("a"), "two").unwrap();
    git(&["commit", "--quiet", "-am", "two"]);
    let script = folder.path().join("git-clone.sh");
    std::fs::write(&script, include_str!("../git-clone.sh")).unwrap();
    let clone = |revision: &str, destination: &str| {
        let destination = folder.path().join(destination);
        let env = [
            ("GIT_REPO_URL", format!("file://{}", origin.display())),
            ("GIT_COMMIT", revision.to_owned()),
            ("GIT_CLONE_DEST", destination.display().to_string()),
        ];
        run("sh", &[script.to_str().unwrap()], &env, folder.path());
        destination.join("a")
    };
    // volumes are not empty
    std::fs::create_dir_all(folder.path().join("by-commit/lost+found")).unwrap();
    let file = clone(&first, "by-commit");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one");
    assert_eq!(std::fs::read_to_string(clone("feature/x", "by-branch")).unwrap(), "two");
    std::fs::write(&file, "mine").unwrap();
    clone("feature/x", "by-commit");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}
