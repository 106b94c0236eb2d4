//! Images that are built before anything is deployed.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EmptyDirVolumeSource, EnvVar, PodSpec, SeccompProfile, SecurityContext, Volume, VolumeMount,
};
use transom_sdk::objects::{self, labels};
use transom_sdk::prelude::*;
use transom_sdk::{Answer, names};

use crate::pods;
use crate::project::{BuildSpec, Project};
use crate::report::{Problem, Report, Step, Stop, of_spec, transient};
use crate::secrets::{self, Copied};
use crate::settings::Resources;
use crate::source::{self, Checkout};
use crate::spec::{Environment, Phase};
use crate::{BuilderKind, Config, Registry};

/// How often it is asked whether an image is still there.
const FOUND_AGE: Duration = Duration::from_secs(600);
/// How often it is asked for one that has just been pushed.
const MISSING_AGE: Duration = Duration::from_secs(2);

const WORKSPACE: &str = "/workspace";
const CHECKOUT: &str = "/workspace/source";
pub(crate) const SCRIPTS: &str = "git-scripts";
pub(crate) const SCRIPTS_PATH: &str = "/scripts";
const CLONE: &str = include_str!("git-clone.sh");

/// Built images by the names of their builds.
pub(crate) type Images = BTreeMap<String, String>;

/// Where all builds of an Environment are made.
pub(crate) struct Site<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) project: &'a Project,
    pub(crate) namespace: &'a str,
    pub(crate) secrets: &'a Copied,
    pub(crate) config: &'a Config,
}

/// Asks for the images and plans Jobs for those that are missing. None while some are not there yet.
pub(crate) fn plan(
    plan: &mut Plan,
    cx: &Context,
    site: &Site<'_>,
    builds: &[BuildSpec],
    report: &mut Report,
) -> Result<Option<Images>, Stop> {
    if builds.is_empty() {
        report.say(Step::Build, true, "NotNeeded", "nothing is to be built");
        return Ok(Some(Images::new()));
    }
    let Some(registry) = &site.config.registry else {
        let message = "the Plugin record names no registry to push images to: set spec.config.registry.address, and \
                       an endpoint with its address";
        return Err(transient(Step::Build, "RegistryMissing", message.into()).into());
    };
    let checkouts: Vec<(&BuildSpec, Checkout<'_>, String)> = builds
        .iter()
        .map(|build| {
            let checkout = source::checkout(site.environment, site.project, &build.source_ref, Step::Build)?;
            if !checkout.is_commit {
                let message = format!(
                    "spec.sources[{}].commitSha: must name the commit that {} is built of, since the branch {:?} moves",
                    checkout.name, build.name, checkout.revision
                );
                return Err(of_spec(Step::Build, "CommitMissing", message));
            }
            let image = image(site, registry, build, checkout.revision)?;
            Ok((build, checkout, image))
        })
        .collect::<Result<_, Problem>>()?;
    // asked together
    let known = site.environment.status.as_ref().map(|status| &status.images);
    let answers: Vec<_> = checkouts
        .iter()
        .map(|(build, _, image)| {
            let is_known = known.is_some_and(|known| known.get(&build.name) == Some(image));
            cx.image(image, if is_known { FOUND_AGE } else { MISSING_AGE })
        })
        .collect();
    let mut images = Images::new();
    let mut missing = Vec::new();
    for ((build, checkout, image), answer) in checkouts.into_iter().zip(answers) {
        match answer? {
            Answer::Found(_) => drop(images.insert(build.name.clone(), image)),
            Answer::Absent => missing.push((build, checkout, image)),
            Answer::Denied(message) => {
                return Err(transient(Step::Build, "RegistryNotGranted", message).into());
            }
            // what ran with this image goes on
            Answer::Failed { message, .. } => {
                let message = format!("{image}: {message}");
                return Err(transient(Step::Build, "RegistryUnavailable", message).into());
            }
            _ => return Err(Failure::internal("an answer that this version does not know").into()),
        }
    }
    report.images.clone_from(&images);
    if missing.is_empty() {
        let names: Vec<&str> = images.keys().map(String::as_str).collect();
        report.say(Step::Build, true, "Built", format!("images are there: {}", names.join(", ")));
        return Ok(Some(images));
    }
    plan.apply(scripts(site.namespace));
    let mut waits = Vec::new();
    let mut failure = None;
    for (build, checkout, image) in &missing {
        let job = job(site, registry, build, checkout, image)?;
        let name = job.metadata.name.clone().unwrap_or_default();
        let planned = plan.create_once(job);
        plan.run_once(&planned, &mut report.runs);
        let health = plan.health(&planned);
        if plan.refusal(&planned).is_some() {
            waits.push(format!("Job {name} is not accepted")); // the report says why
        } else if health.is_failed() {
            let is_there = plan.observed(&planned).is_some();
            failure.get_or_insert((name, *build, health, is_there));
        } else if health.is_ready() {
            waits.push(format!("Job {name} is complete, but {image} is not in the registry yet"));
            plan.requeue_after(MISSING_AGE);
        } else {
            waits.push(format!("Job {name} builds {image}"));
        }
    }
    plan.hold_rest();
    if let Some((name, build, health, is_there)) = failure {
        let said = pods::trouble(cx, site.namespace, &format!("batch.kubernetes.io/job-name={name}"))?;
        let said = said.unwrap_or_else(|| format!("{}: {}", health.reason, health.message));
        let again = if is_there {
            format!(", or delete the Job {name} in {} to try again", site.namespace)
        } else {
            String::new() // it was cleaned up, and only another one runs
        };
        let message = format!("build {} failed; mend the source and set its new commit{again}; {said}", build.name);
        return Err(of_spec(Step::Build, "BuildFailed", message).into());
    }
    report.rise(Phase::Building);
    report.say(Step::Build, false, "Building", waits.join("; "));
    Ok(None)
}

/// `registry/namespace/project/build:commit`, and a hash of what differs from the usual in how it is built.
fn image(site: &Site<'_>, registry: &Registry, build: &BuildSpec, commit: &str) -> Result<String, Problem> {
    let unusual = (build.path.trim_matches('/'), build.dockerfile.as_str());
    let suffix = match unusual {
        ("" | ".", "" | "Dockerfile") => String::new(),
        _ => {
            let hash = names::hash(&unusual)
                .map_err(|_| of_spec(Step::Build, "InvalidBuild", format!("build {}", build.name)))?;
            format!("-{hash}")
        }
    };
    let address = registry.address.trim_end_matches('/');
    let (namespace, project) = (site.project.namespace(), site.project.name());
    Ok(format!("{address}/{namespace}/{project}/{}:{commit}{suffix}", build.name))
}

/// The script that clones.
pub(crate) fn scripts(namespace: &str) -> ConfigMap {
    let mut metadata = objects::metadata(SCRIPTS, &labels([("app.kubernetes.io/component", "git-clone")]));
    metadata.namespace = Some(namespace.to_owned());
    let data = [("git-clone.sh".to_owned(), CLONE.to_owned())];
    ConfigMap { metadata, data: Some(data.into()), ..ConfigMap::default() }
}

/// The container that clones `url` at `revision` into the folder `destination` of the volume mounted there.
pub(crate) fn clone_container(
    site: &Site<'_>,
    checkout: &Checkout<'_>,
    mount: VolumeMount,
    destination: &str,
) -> Container {
    let mut env: Vec<EnvVar> = vec![
        objects::env("GIT_REPO_URL", checkout.url),
        objects::env("GIT_COMMIT", checkout.revision),
        objects::env("GIT_CLONE_DEST", destination),
    ];
    if !site.project.spec.github_installation_id.is_empty() {
        env.push(objects::env("INSTALLATION_ID", &site.project.spec.github_installation_id));
    }
    let mut mounts = vec![mount, secrets::mount(SCRIPTS, SCRIPTS_PATH)];
    if let Some(secret) = &site.secrets.git {
        mounts.push(secrets::mount(secret, "/git-credentials"));
    }
    Container {
        command: Some(vec!["/bin/sh".into(), format!("{SCRIPTS_PATH}/git-clone.sh")]),
        env: Some(env),
        volume_mounts: Some(mounts),
        resources: Some(
            Resources::of([("cpu", "100m"), ("memory", "256Mi")], [("cpu", "500m"), ("memory", "512Mi")]).to_core(),
        ),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        ..objects::container("git-clone", &site.config.git.image)
    }
}

/// Volumes that [`clone_container`] mounts, but for that with the code.
pub(crate) fn clone_volumes(site: &Site<'_>) -> Vec<Volume> {
    let scripts = secrets::config_map_volume(SCRIPTS, SCRIPTS);
    let git = site.secrets.git.as_ref().map(|secret| secrets::volume(secret, secret, None));
    [scripts].into_iter().chain(git).collect()
}

/// The Job that builds and pushes an image. Its name says what it is made of, so that another commit is another Job.
fn job(
    site: &Site<'_>,
    registry: &Registry,
    build: &BuildSpec,
    checkout: &Checkout<'_>,
    image: &str,
) -> Result<Job, Failure> {
    let hash = names::hash(&(image, build, checkout.url, &site.config.builder))?;
    let name = names::with_suffix(&format!("build-{}", build.name), &hash);
    let labels = labels([("catalyst.dev/job-type", "build"), ("catalyst.dev/build", &build.name)]);
    let workspace = || VolumeMount { name: "workspace".into(), mount_path: WORKSPACE.into(), ..VolumeMount::default() };
    let scratch =
        Volume { name: "workspace".into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() };
    let login = site.secrets.registry.as_ref();
    let login_volume = login.map(|secret| secrets::volume(secret, secret, Some((".dockerconfigjson", "config.json"))));
    let pod = PodSpec {
        init_containers: Some(vec![clone_container(site, checkout, workspace(), CHECKOUT)]),
        containers: vec![builder(site, registry, build, image, workspace())],
        restart_policy: Some("Never".into()),
        // what a Dockerfile runs has no business with the API server
        automount_service_account_token: Some(false),
        volumes: Some([scratch].into_iter().chain(clone_volumes(site)).chain(login_volume).collect()),
        ..PodSpec::default()
    };
    let spec = JobSpec {
        active_deadline_seconds: Some(i64::from(site.config.builder.timeout_seconds)),
        backoff_limit: Some(0),
        ..objects::job_spec(objects::template(&labels, pod))
    };
    let mut metadata = objects::metadata(&name, &labels);
    metadata.namespace = Some(site.namespace.to_owned());
    Ok(objects::job(metadata, spec))
}

/// The container that builds and pushes.
fn builder(site: &Site<'_>, registry: &Registry, build: &BuildSpec, image: &str, workspace: VolumeMount) -> Container {
    let settings = &site.config.builder;
    let context = match build.path.trim_matches('/') {
        "" | "." => CHECKOUT.to_owned(),
        path => format!("{CHECKOUT}/{path}"),
    };
    let dockerfile = if build.dockerfile.is_empty() { "Dockerfile" } else { &build.dockerfile };
    let usual = || Resources::of([("cpu", "100m"), ("memory", "1Gi")], [("cpu", "1"), ("memory", "4Gi")]);
    let docker_config = match settings.kind {
        BuilderKind::Kaniko => "/kaniko/.docker",
        BuilderKind::BuildKit => "/home/user/.docker",
    };
    let login = site.secrets.registry.as_ref().map(|secret| secrets::mount(secret, docker_config));
    let container = Container {
        resources: Some(build.resources.clone().unwrap_or_else(usual).to_core()),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some([workspace].into_iter().chain(login).collect()),
        env: Some(vec![objects::env("DOCKER_CONFIG", docker_config)]),
        ..objects::container("build", settings.image())
    };
    match settings.kind {
        BuilderKind::Kaniko => {
            let mut args = vec![
                format!("--context=dir://{context}"),
                format!("--dockerfile={dockerfile}"),
                format!("--destination={image}"),
            ];
            if registry.plaintext {
                args.push("--insecure".into());
            }
            args.extend(settings.args.iter().cloned());
            Container { args: Some(args), ..container }
        }
        BuilderKind::BuildKit => {
            let insecure = if registry.plaintext { ",registry.insecure=true" } else { "" };
            // the Dockerfile's path is taken from the folder that is given as `dockerfile`
            let mut args: Vec<String> = ["build", "--frontend=dockerfile.v0"].map(str::to_owned).to_vec();
            args.extend([
                format!("--local=context={context}"),
                format!("--local=dockerfile={context}"),
                format!("--opt=filename={dockerfile}"),
                format!("--output=type=image,name={image},push=true{insecure}"),
            ]);
            args.extend(settings.args.iter().cloned());
            let mut env = container.env.clone().unwrap_or_default();
            env.push(objects::env("BUILDKITD_FLAGS", "--oci-worker-no-process-sandbox"));
            let seccomp = SeccompProfile { type_: "Unconfined".into(), localhost_profile: None };
            let security = SecurityContext {
                run_as_user: Some(1000),
                run_as_group: Some(1000),
                seccomp_profile: Some(seccomp),
                ..SecurityContext::default()
            };
            Container {
                command: Some(vec!["buildctl-daemonless.sh".into()]),
                args: Some(args),
                env: Some(env),
                security_context: Some(security),
                ..container
            }
        }
    }
}
