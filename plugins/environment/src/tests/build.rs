use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use transom_sdk::testing::Disposition;

use super::*;

const IMAGE: &str = "registry.example:5000/acme/shop/web:0123456789abcdef0123456789abcdef01234567";

fn built() -> Project {
    let template = json!({ "type": "manifest", "builds": [{ "name": "web", "sourceRef": "web" }],
        "config": { "image": "web", "ports": [{ "containerPort": 8080 }] } });
    with_template(project(), "deployment", template)
}

fn secret(name: &str, key: &str) -> serde_json::Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": "acme" },
        "type": "kubernetes.io/dockerconfigjson", "data": { key: "e30=" } })
}

#[test]
fn e4_a_missing_image_is_built_and_then_deployed() {
    let case = placed(&environment("deployment"), &built())
        .foreign_object(secret("registry-credentials", ".dockerconfigjson"))
        .foreign_object(secret("git-credentials", "password"));
    let plan = case.plan();
    assert_eq!((phase(&plan), plan.condition("BuildReady")), ("Building", Some(("False", "Building"))));
    assert_eq!(plan.condition("Ready"), Some(("False", "Building")));
    assert_eq!(plan.names::<Deployment>(), [""; 0]);
    assert_eq!(plan.names::<Secret>(), ["git-credentials", "registry-credentials"]);
    let account: ServiceAccount = plan.child("default").unwrap();
    assert_eq!(account.image_pull_secrets.unwrap()[0].name, "registry-credentials");
    let jobs: Vec<_> = plan.children.iter().filter(|child| child.object["kind"] == "Job").collect();
    insta::assert_yaml_snapshot!(jobs);

    let case = case.observe(&plan);
    let [job] = &plan.names::<Job>()[..] else { panic!("one Job") };
    let pushed = case.ready::<Job>(job);
    let plan = pushed.plan();
    assert!(
        message(&plan, "BuildReady").contains("is complete, but registry.example:5000/"),
        "{}",
        message(&plan, "BuildReady")
    );
    let plan = pushed.image(IMAGE, "sha256:1").plan();
    assert_eq!((phase(&plan), plan.condition("BuildReady")), ("Deploying", Some(("True", "Built"))));
    assert_eq!(plan.names::<Job>(), [""; 0], "it is done");
    let deployment: Deployment = plan.child("web").unwrap();
    assert_eq!(deployment.spec.unwrap().template.spec.unwrap().containers[0].image.as_deref(), Some(IMAGE));
    assert_eq!(plan.status.as_ref().unwrap()["images"], json!({ "web": IMAGE }));
}

#[test]
fn e4_an_image_that_is_there_needs_no_build() {
    let plan = placed(&environment("deployment"), &built()).image(IMAGE, "sha256:1").plan();
    assert_eq!(plan.names::<Job>(), [""; 0]);
    assert_eq!(plan.names::<Deployment>(), ["web"]);
}

#[test]
fn e4_a_failed_build_tells_the_end_of_its_log() {
    let case = placed(&environment("deployment"), &built()).reconciled();
    let job = &case.plan().names::<Job>()[0];
    let failed = json!({ "conditions": [{ "type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "" }] });
    let log = format!("{}error: no Dockerfile", "x".repeat(5_000));
    let ended = json!({ "name": "build", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": { "exitCode": 1, "message": log } } });
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "status": { "phase": "Failed", "containerStatuses": [ended] },
        "metadata": { "name": "p", "namespace": "acme-shop-pr-7", "labels": { "batch.kubernetes.io/job-name": job } } });
    let case = case.status::<Job>(job, failed).foreign_object(pod);
    let plan = case.plan();
    assert_eq!((phase(&plan), plan.condition("BuildReady")), ("Failed", Some(("False", "BuildFailed"))));
    let told = message(&plan, "BuildReady");
    assert!(told.contains(&format!("delete the Job {job} in acme-shop-pr-7 to try again")), "{told}");
    assert!(told.ends_with("error: no Dockerfile") && told.len() < 2_000, "{told}");
    assert_eq!(plan.disposition::<Job>(job), Some(Disposition::Hold), "it stays to be looked at");
    // whoever deletes it wants it to run again
    let again = case.observe(&plan).gone::<Job>(job).plan();
    assert_eq!((phase(&again), again.disposition::<Job>(job)), ("Building", Some(Disposition::CreateOnce)));
}

#[test]
fn a_build_that_was_cleaned_up_is_not_run_again() {
    let case = placed(&environment("deployment"), &built()).reconciled();
    let job = &case.plan().names::<Job>()[0];
    // something gave it a time to live
    let mut live = serde_json::to_value(case.plan().child::<Job>(job)).unwrap();
    live["spec"]["ttlSecondsAfterFinished"] = json!(0);
    let live: Job = serde_json::from_value(live).unwrap();
    let case = case.child(&live).reconciled();
    let complete = case.gone::<Job>(job);
    let plan = complete.plan();
    assert_eq!(plan.disposition::<Job>(job), Some(Disposition::Hold), "it ended, and nobody saw how");
    let told = format!("Job {job} is complete, but {IMAGE} is not in the registry yet");
    assert_eq!((phase(&plan), message(&plan, "BuildReady")), ("Building", &*told));
    let plan = complete.image(IMAGE, "sha256:1").plan();
    assert_eq!(phase(&plan), "Deploying");
    assert_eq!(plan.status.as_ref().unwrap()["jobs"], json!(null), "nobody asks for it any more");
}

#[test]
fn e4_what_runs_stays_while_the_next_image_is_built() {
    let case =
        placed(&environment("deployment"), &built()).image(IMAGE, "sha256:1").reconciled().ready::<Deployment>("web");
    let case = case.reconciled();
    assert_eq!(case.plan().condition("Ready"), Some(("True", "Ready")));
    let mut next = environment("deployment");
    next.spec.sources[0].commit_sha = "f".repeat(40);
    let plan = case.change(&next).plan();
    assert_eq!(plan.disposition::<Deployment>("web"), Some(Disposition::Hold));
    assert_eq!(phase(&plan), "Building");
    assert_eq!(
        plan.status.as_ref().unwrap()["url"],
        "https://acme-shop-pr-7.preview.example/",
        "it can still be reached"
    );
}

#[test]
fn e4_builds_need_a_commit_and_a_registry() {
    let mut branch = environment("deployment");
    branch.spec.sources[0].commit_sha = "HEAD".into();
    let plan = placed(&branch, &built()).plan();
    assert_eq!((phase(&plan), plan.condition("BuildReady")), ("Failed", Some(("False", "CommitMissing"))));
    assert!(message(&plan, "Ready").starts_with("spec.sources[web].commitSha: must name the commit"));
    let config = Config { registry: None, ..config() };
    let plan = placed(&environment("deployment"), &built()).config(&config).plan();
    assert_eq!(plan.condition("BuildReady"), Some(("False", "RegistryMissing")));
    assert!(message(&plan, "Ready").contains("spec.config.registry.address"));
}

#[test]
fn e4_images_of_other_contexts_are_others() {
    let mut project = built();
    let template = project.spec.templates.get_mut("deployment").unwrap();
    template.config.as_mut().unwrap().image = String::new();
    let builds = &mut template.builds;
    builds.push(
        serde_json::from_value(
            json!({ "name": "api", "sourceRef": "web", "path": "api", "dockerfile": "Dockerfile.dev" }),
        )
        .unwrap(),
    );
    let mut config = config();
    config.builder.kind = BuilderKind::BuildKit;
    config.registry.as_mut().unwrap().plaintext = true;
    let plan = placed(&environment("deployment"), &project).config(&config).plan();
    let jobs = plan.names::<Job>();
    assert_eq!(jobs.len(), 2);
    let job: Job = plan.child(&jobs[1]).unwrap();
    let container = &job.spec.unwrap().template.spec.unwrap().containers[0];
    let args = container.args.as_ref().unwrap();
    assert!(args.contains(&"--local=context=/workspace/source/api".to_owned()), "{args:?}");
    assert!(args.contains(&"--opt=filename=Dockerfile.dev".to_owned()), "{args:?}");
    let output = args.iter().find(|arg| arg.starts_with("--output=")).unwrap();
    let image = format!("name=registry.example:5000/acme/shop/api:{COMMIT}-");
    assert!(output.contains(&image) && output.ends_with(",push=true,registry.insecure=true"), "{output}");
}

#[test]
fn e4_only_images_that_are_used_are_built() {
    let project = built();
    let case = |change: fn(&mut Environment)| {
        let mut environment = environment("deployment");
        change(&mut environment);
        placed(&environment, &project).plan()
    };
    assert_eq!(case(|_| {}).names::<Job>().len(), 1);
    let plan = case(|environment| environment.spec.config.image = "registry.example/other:1".into());
    assert_eq!((plan.names::<Job>(), plan.names::<Deployment>()), (vec![], vec!["web".to_owned()]));
    let plan = case(|environment| {
        environment.spec.config.image = "alpine:3".into();
        environment.spec.deployment_mode = DeploymentMode::Workspace;
    });
    assert_eq!(plan.condition("BuildReady"), Some(("True", "NotNeeded")));
}
