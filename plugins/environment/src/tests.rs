#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, and serde_json's index yields null where nothing is"
)]

mod build;
mod compose;
mod jobs;
mod managed;
mod namespace;
mod refusals;
mod template;

use serde_json::json;
use transom_sdk::testing::{self, Case, Plan};

use crate::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Of a team with a repository that is read by the endpoint `git`.
fn project() -> Project {
    let source = SourceConfig {
        name: "web".into(),
        repository_url: "https://git.example/acme/shop".into(),
        branch: "main".into(),
    };
    let spec = ProjectSpec { sources: vec![source], ..ProjectSpec::default() };
    let mut project = Project::new("shop", spec);
    project.metadata.namespace = Some("acme".into());
    project
}

fn with_template(mut project: Project, kind: &str, template: serde_json::Value) -> Project {
    project.spec.templates.insert(kind.into(), serde_json::from_value(template).unwrap());
    project
}

/// An Environment of it at a commit.
fn environment(kind: &str) -> Environment {
    let source = EnvironmentSource {
        name: "web".into(),
        commit_sha: COMMIT.into(),
        branch: "feature/login".into(),
        pr_number: Some(7),
    };
    let spec = EnvironmentSpec {
        project_ref: ProjectReference { name: "shop".into() },
        kind: kind.into(),
        sources: vec![source],
        ..EnvironmentSpec::default()
    };
    let mut environment = Environment::new("pr-7", spec);
    environment.metadata.namespace = Some("acme".into());
    let labels =
        [("catalyst.dev/team", "acme"), ("catalyst.dev/project", "shop"), ("catalyst.dev/environment", "pr-7")];
    environment.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    environment
}

fn config() -> Config {
    Config {
        sources: vec![SourceRoot { url: "https://git.example/acme/".into(), endpoint: SourceEndpoint::Git }],
        registry: Some(Registry { address: "registry.example:5000".into(), plaintext: false }),
        ingress: Some(
            serde_json::from_value(
                json!({ "host": "{namespace}.preview.example", "tls": { "clusterIssuer": "letsencrypt" } }),
            )
            .unwrap(),
        ),
        ..Config::default()
    }
}

/// The Environment with its namespace.
fn placed(environment: &Environment, project: &Project) -> Case<EnvironmentPlugin> {
    Case::new(environment).config(&config()).object(project).reconciled()
}

fn message<'a>(plan: &'a Plan, kind: &str) -> &'a str {
    &plan.conditions.iter().find(|condition| condition.kind == kind).unwrap().message
}

fn phase(plan: &Plan) -> &str {
    plan.status.as_ref().unwrap()["phase"].as_str().unwrap()
}

#[test]
fn e1_the_manifest_describes_both_kinds() {
    let manifest = testing::manifest::<EnvironmentPlugin>();
    let schema = |crd: &str| {
        let crd: serde_json::Value = serde_json::from_str(crd).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        let keys =
            |value: &serde_json::Value| value["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let template = &schema["spec"]["properties"]["templates"]["additionalProperties"];
        json!({
            "name": crd["metadata"]["name"],
            "spec": keys(&schema["spec"]),
            "status": keys(&schema["status"]),
            "config": schema["spec"]["properties"].get("config").map(keys),
            "template": (!template.is_null()).then(|| keys(template)),
        })
    };
    insta::assert_yaml_snapshot!(json!({
        "name": manifest.name,
        "kinds": manifest.crds.iter().map(|crd| schema(crd)).collect::<Vec<_>>(),
        "children": manifest.children.iter().map(|child| &child.kind.kind).collect::<Vec<_>>(),
        "endpoints": manifest.endpoints.iter().map(|endpoint| &endpoint.name).collect::<Vec<_>>(),
        "engines": manifest.engines,
    }));
}

#[test]
fn e1_a_project_says_what_is_wrong_with_it() {
    let fine = with_template(project(), "deployment", json!({ "type": "helm", "path": "chart" }));
    let plan = Case::<EnvironmentPlugin>::new(&fine).config(&config()).plan();
    assert_eq!(plan.condition("Ready"), Some(("True", "Valid")));
    let mut wrong = with_template(
        project(),
        "deployment",
        json!({ "type": "terraform", "sourceRef": "api", "path": "x", "builds": [{ "name": "Web", "sourceRef": "web", "path": "../x" }] }),
    );
    wrong
        .spec
        .sources
        .push(SourceConfig { repository_url: "https://other.example/x".into(), ..wrong.spec.sources[0].clone() });
    let read = json!({ "type": "manifest", "path": "k8s", "sourceRef": "web" });
    wrong = with_template(wrong, "staging", read);
    let plan = Case::<EnvironmentPlugin>::new(&wrong).config(&config()).plan();
    assert_eq!(plan.condition("Ready"), Some(("False", "Invalid")));
    for part in [
        "spec.sources[1].name: \"web\" is there twice",
        "spec.templates.deployment.type: \"terraform\" must be helm, kustomize, manifest or docker-compose",
        "spec.templates.deployment.sourceRef: there is no source \"api\" in spec.sources, but web",
        "spec.templates.deployment.builds[0].name: \"Web\" must be lower-case",
        "spec.templates.deployment.builds[0].path: \"../x\" must not leave the source",
        "spec.sources[1].repositoryUrl: nobody may read https://other.example/x: add its beginning",
    ] {
        assert!(message(&plan, "Ready").contains(part), "{part} in {}", message(&plan, "Ready"));
    }
}

#[test]
fn e1_wrong_input_is_told_with_field_and_fix() {
    let told = |environment: &Environment, project: Option<&Project>| {
        let case = Case::<EnvironmentPlugin>::new(environment).config(&config());
        let plan = project.into_iter().fold(case, |case, project| case.object(project)).reconciled().plan();
        let ready = plan.condition("Ready").unwrap();
        (ready.1.to_owned(), message(&plan, "Ready").to_owned(), phase(&plan).to_owned())
    };
    let (reason, message, phase) = told(&environment("development"), None);
    assert_eq!((&*reason, &*phase), ("ProjectMissing", "Pending"));
    assert_eq!(message, "spec.projectRef.name: there is no Project shop in namespace acme: make it");

    let project = with_template(project(), "deployment", json!({ "type": "helm", "path": "chart" }));
    let (reason, message, phase) = told(&environment("preview"), Some(&project));
    assert_eq!((&*reason, &*phase), ("TemplateMissing", "Failed"));
    assert!(
        message.starts_with("spec.type: \"preview\" is no template of Project shop, which has deployment"),
        "{message}"
    );

    let mut unknown = environment("deployment");
    unknown.spec.sources[0].name = "api".into();
    let (reason, message, _) = told(&unknown, Some(&project));
    assert_eq!(reason, "SourceMissing");
    assert_eq!(message, "spec.sources[api]: the Project shop has no such source");

    let mut bad = environment("deployment");
    bad.spec.sources[0].commit_sha = "v1.2".into();
    let (reason, message, phase) = told(&bad, Some(&project));
    assert_eq!((&*reason, &*phase), ("InvalidCommit", "Failed"));
    assert!(message.starts_with("spec.sources[web].commitSha: \"v1.2\" is no commit"), "{message}");

    let nothing = crate::tests::project();
    let (reason, message, _) = told(&environment("deployment"), Some(&nothing));
    assert_eq!(reason, "ImageMissing");
    assert!(message.starts_with("spec.config.image: there is none: set it"), "{message}");
}
