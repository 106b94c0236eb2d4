//! Environments whose pods the Environment and its template describe themselves: modes production, development and
//! workspace.

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment, StatefulSet, StatefulSetSpec,
};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvFromSource, EnvVar, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource, Pod, PodSpec, SecretEnvSource, Service, ServicePort, ServiceSpec, Volume,
    VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use transom_sdk::names;
use transom_sdk::objects::{self, labels};
use transom_sdk::prelude::*;

use crate::build::{self, Images, Site};
use crate::project::is_label;
use crate::report::{Problem, Report, Step, Stop, of_spec};
use crate::settings::{EnvironmentConfig, InitContainerSpec, ManagedServiceSpec, Resources, VolumeSpec, overlaid};
use crate::spec::DeploymentMode;
use crate::{pods, secrets, source};

/// Deployment, Service and Ingress of an Environment.
pub(crate) const WEB: &str = "web";
/// Secret in the Environment's namespace whose variables the main container gets, if somebody makes it.
const SECRETS: &str = "catalyst-secrets";
const NODE: &str = "node:22-slim";
const POSTGRES: &str = "postgres";
const POSTGRES_IMAGE: &str = "postgres:16";
const POSTGRES_DATA: &str = "/var/lib/postgresql/data";
const CODE: &str = "/code";
const DATABASE: &str = "app";
/// Cloning and installing come before the first answer.
const DEVELOPMENT_DEADLINE_SECONDS: i32 = 1_800;

fn metadata(namespace: &str, name: &str) -> ObjectMeta {
    let mut metadata = objects::metadata(name, &labels([("app", name)]));
    metadata.namespace = Some(namespace.to_owned());
    metadata
}

/// Plans what runs in mode production or development.
pub(crate) fn plan(
    plan: &mut Plan,
    cx: &Context,
    site: &Site<'_>,
    mode: DeploymentMode,
    settings: &EnvironmentConfig,
    images: &Images,
    report: &mut Report,
) -> Result<(), Stop> {
    let is_development = mode == DeploymentMode::Development;
    let mut settings = settings.clone();
    if let Some(built) = images.get(&settings.image) {
        settings.image.clone_from(built);
    }
    if settings.image.is_empty() {
        // the first that the template names; a map forgets the order
        let template = site.project.spec.templates.get(&site.environment.spec.kind);
        let first = template.and_then(|template| template.builds.first());
        settings.image = first.and_then(|build| images.get(&build.name)).cloned().unwrap_or_default();
    }
    if is_development {
        develop(plan, cx, site.namespace, &mut settings)?;
    }
    if settings.image.is_empty() {
        let (kind, project) = (&site.environment.spec.kind, site.project.name());
        let message = format!(
            "spec.config.image: there is none: set it, or spec.templates.{kind}.config.image of the Project {project}, or \
             add a build to spec.templates.{kind}.builds"
        );
        return Err(of_spec(Step::Deployment, "ImageMissing", message).into());
    }
    let Some(port) = settings.ports.as_ref().and_then(|ports| ports.first()).map(|port| port.container_port) else {
        let message = "spec.config.ports: must have at least one port, which the Service web leads to";
        return Err(of_spec(Step::Deployment, "PortMissing", message.into()).into());
    };
    check(&settings)?;
    for volume in settings.volumes.iter().flatten() {
        if let Some(spec) = &volume.persistent_volume_claim {
            plan_claim(plan, site.namespace, &volume.name, spec);
        }
    }
    let mut waits_for = Vec::new();
    let mut parts = Vec::new();
    for spec in settings.services.iter().flatten() {
        if !spec.container.ports.is_empty() {
            plan.apply(service_of(site.namespace, spec));
        }
        let planned = plan.apply(stateful_set(site.namespace, spec).replace());
        parts.push((format!("StatefulSet {}", spec.name), plan.health(&planned)));
        waits_for.push(planned);
    }
    if is_development && !site.project.spec.sources.is_empty() {
        plan.apply(build::scripts(site.namespace));
    }
    let deployment = deployment(site, mode, &settings)?;
    let planned = plan.apply_after(waits_for.as_slice(), deployment);
    let mut health = plan.health(&planned);
    let is_held = parts.iter().any(|(_, health)| !health.is_ready());
    if !is_held
        && !health.is_ready()
        && let Some(trouble) = pods::trouble(cx, site.namespace, "app=web")?
    {
        health.message = format!("{}; {trouble}", health.message);
    }
    parts.push((format!("Deployment {WEB}"), health));
    plan.apply(web_service(site.namespace, port));
    report.deployed(&parts);
    Ok(())
}

/// What an Environment in mode development has where nobody says otherwise: Node.js with the code on a volume, and a
/// PostgreSQL.
fn develop(plan: &mut Plan, cx: &Context, namespace: &str, settings: &mut EnvironmentConfig) -> Result<(), Stop> {
    let mut env = vec![objects::env("WATCHPACK_POLLING", "true")];
    if settings.services.is_none() {
        let password: String = cx.random("postgres", 18)?.iter().map(|byte| format!("{byte:02x}")).collect();
        let url = format!("postgres://{POSTGRES}:{password}@{POSTGRES}:5432/{DATABASE}");
        plan.apply(secrets::secret(namespace, POSTGRES, [("password", password), ("url", url)]));
        env.push(objects::env_from_secret("DATABASE_URL", POSTGRES, "url"));
        settings.services = Some(vec![postgres()]);
    }
    settings.env = overlaid(&env, &settings.env);
    if settings.image.is_empty() {
        settings.image = NODE.into();
    }
    let command = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
    if settings.command.is_none() && settings.args.is_none() {
        settings.command = command(&["npm", "run", "dev"]);
    }
    if settings.volumes.is_none() && settings.volume_mounts.is_none() {
        settings.volumes =
            Some(vec![VolumeSpec { name: "workspace".into(), persistent_volume_claim: Some(storage("5Gi")) }]);
        let mount = VolumeMount { name: "workspace".into(), mount_path: CODE.into(), ..VolumeMount::default() };
        settings.volume_mounts = Some(vec![mount]);
    }
    if settings.working_dir.is_empty() {
        let first = settings.volume_mounts.as_ref().and_then(|mounts| mounts.first());
        settings.working_dir = first.map_or(CODE, |mount| &mount.mount_path).to_owned();
    }
    if settings.ports.is_none() {
        settings.ports = Some(vec![ContainerPort { container_port: 3000, ..ContainerPort::default() }]);
    }
    if settings.resources.is_none() {
        // `next dev --turbopack` is killed at 1Gi
        settings.resources =
            Some(Resources::of([("cpu", "200m"), ("memory", "512Mi")], [("cpu", "1"), ("memory", "2Gi")]));
    }
    if settings.init_containers.is_none() {
        let container = |name: &str, words: &[&str], memory: &str| InitContainerSpec {
            name: name.into(),
            command: command(words),
            resources: Some(Resources::of([("cpu", "100m"), ("memory", "256Mi")], [("cpu", "1"), ("memory", memory)])),
            ..InitContainerSpec::default()
        };
        settings.init_containers = Some(vec![
            container("npm-install", &["npm", "ci"], "1Gi"),
            container("db-migrate", &["npm", "run", "db:migrate"], "512Mi"),
        ]);
    }
    Ok(())
}

fn storage(size: &str) -> PersistentVolumeClaimSpec {
    let requests = [("storage".to_owned(), Quantity(size.to_owned()))].into();
    PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".into()]),
        resources: Some(VolumeResourceRequirements { requests: Some(requests), limits: None }),
        ..PersistentVolumeClaimSpec::default()
    }
}

fn postgres() -> ManagedServiceSpec {
    let mut spec = ManagedServiceSpec {
        name: POSTGRES.into(),
        storage: Some(storage("1Gi")),
        database: DATABASE.into(),
        ..ManagedServiceSpec::default()
    };
    spec.container.image = POSTGRES_IMAGE.into();
    spec.container.ports = vec![ContainerPort { container_port: 5432, ..ContainerPort::default() }];
    spec.container.env = vec![
        objects::env("POSTGRES_USER", POSTGRES),
        objects::env_from_secret("POSTGRES_PASSWORD", POSTGRES, "password"),
    ];
    spec
}

/// What the API server would refuse, with the field that it does not know.
fn check(settings: &EnvironmentConfig) -> Result<(), Problem> {
    let wrong = |field: String, message: &str| {
        Err(of_spec(Step::Deployment, "InvalidConfig", format!("spec.config.{field}: {message}")))
    };
    let names = |list: Vec<&str>, field: &str| {
        for (index, name) in list.iter().enumerate() {
            if !is_label(name) {
                return wrong(format!("{field}[{index}].name"), "must be lower-case letters, digits and -");
            }
            if list.iter().take(index).any(|other| other == name) {
                return wrong(format!("{field}[{index}].name"), &format!("{name} is there twice: rename one"));
            }
        }
        Ok(())
    };
    names(settings.services.iter().flatten().map(|service| service.name.as_str()).collect(), "services")?;
    names(settings.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect(), "volumes")?;
    names(settings.init_containers.iter().flatten().map(|init| init.name.as_str()).collect(), "initContainers")?;
    if settings.services.iter().flatten().any(|service| service.name == WEB) {
        return wrong("services".into(), "none may be called web, which is the main container's Service: rename it");
    }
    let known = |name: &str| {
        let volumes = settings.volumes.iter().flatten();
        volumes.clone().any(|volume| volume.name == name && volume.persistent_volume_claim.is_some())
    };
    let own = settings.volume_mounts.iter().flatten();
    let theirs = settings.init_containers.iter().flatten().flat_map(|init| init.volume_mounts.iter().flatten());
    if let Some(mount) = own.chain(theirs).find(|mount| !known(&mount.name)) {
        let message = format!("there is no volume {}: add it to spec.config.volumes with a claim", mount.name);
        return wrong("volumeMounts".into(), &message);
    }
    Ok(())
}

/// What is on a volume outlives a change of the mode; it goes with the namespace.
fn plan_claim(plan: &mut Plan, namespace: &str, name: &str, spec: &PersistentVolumeClaimSpec) {
    plan.apply(claim(namespace, name, spec).keep().adopt());
}

fn claim(namespace: &str, name: &str, spec: &PersistentVolumeClaimSpec) -> PersistentVolumeClaim {
    PersistentVolumeClaim { metadata: metadata(namespace, name), spec: Some(spec.clone()), status: None }
}

/// A service beside the main container, with one pod.
fn stateful_set(namespace: &str, spec: &ManagedServiceSpec) -> StatefulSet {
    let labels = labels([("app", &spec.name)]);
    let given = &spec.container;
    let data = format!("{}-data", spec.name);
    let is_postgres = matches!(spec.name.as_str(), "postgres" | "postgresql") || given.image.contains("postgres");
    let mut more = Vec::new();
    if is_postgres && !spec.database.is_empty() {
        more.push(objects::env("POSTGRES_DB", &spec.database));
    }
    let path = if is_postgres { POSTGRES_DATA.to_owned() } else { format!("/var/lib/{}", spec.name) };
    if is_postgres && spec.storage.is_some() {
        // a new volume may hold lost+found, which initdb does not like
        more.push(objects::env("PGDATA", format!("{POSTGRES_DATA}/pgdata")));
    }
    let usual = || Resources::of([("cpu", "100m"), ("memory", "128Mi")], [("cpu", "500m"), ("memory", "512Mi")]);
    let container = Container {
        ports: (!given.ports.is_empty()).then(|| given.ports.clone()),
        env: Some(overlaid(&more, &given.env)),
        resources: Some(given.resources.clone().unwrap_or_else(usual).to_core()),
        volume_mounts: spec
            .storage
            .as_ref()
            .map(|_| vec![VolumeMount { name: data.clone(), mount_path: path, ..VolumeMount::default() }]),
        readiness_probe: given.ports.first().map(|port| objects::tcp_probe(port.container_port)),
        ..objects::container(&spec.name, &given.image)
    };
    let pod = PodSpec { containers: vec![container], ..PodSpec::default() };
    let claims = spec.storage.as_ref().map(|storage| {
        let metadata = ObjectMeta { name: Some(data), ..ObjectMeta::default() };
        vec![PersistentVolumeClaim { metadata, spec: Some(storage.clone()), status: None }]
    });
    let set = StatefulSetSpec {
        replicas: Some(1),
        service_name: Some(spec.name.clone()),
        selector: objects::selector(&labels),
        template: objects::template(&labels, pod),
        volume_claim_templates: claims,
        ..StatefulSetSpec::default()
    };
    StatefulSet { metadata: metadata(namespace, &spec.name), spec: Some(set), status: None }
}

fn service_of(namespace: &str, spec: &ManagedServiceSpec) -> Service {
    let ports = &spec.container.ports;
    let port = |port: &ContainerPort| ServicePort {
        name: (ports.len() > 1).then(|| port.name.clone().unwrap_or_else(|| format!("port-{}", port.container_port))),
        port: port.container_port,
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        target_port: Some(IntOrString::Int(port.container_port)),
        ..ServicePort::default()
    };
    service(namespace, &spec.name, ports.iter().map(port).collect())
}

/// Port 80 leads to the main container.
fn web_service(namespace: &str, port: i32) -> Service {
    let port = ServicePort {
        name: Some("http".into()),
        port: 80,
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::Int(port)),
        ..ServicePort::default()
    };
    service(namespace, WEB, vec![port])
}

fn service(namespace: &str, name: &str, ports: Vec<ServicePort>) -> Service {
    let spec = ServiceSpec {
        type_: Some("ClusterIP".into()),
        selector: Some(labels([("app", name)])),
        ports: Some(ports),
        ..ServiceSpec::default()
    };
    Service { metadata: metadata(namespace, name), spec: Some(spec), status: None }
}

/// The pods' main part.
fn deployment(site: &Site<'_>, mode: DeploymentMode, settings: &EnvironmentConfig) -> Result<Deployment, Problem> {
    let is_development = mode == DeploymentMode::Development;
    let labels = labels([("app", WEB)]);
    let mut init = Vec::new();
    let mut volumes: Vec<Volume> = settings.volumes.iter().flatten().filter_map(claimed).collect();
    let mount = settings.volume_mounts.as_ref().and_then(|mounts| mounts.first());
    if let (true, Some(mount), false) = (is_development, mount, site.project.spec.sources.is_empty()) {
        let checkout = source::checkout(site.environment, site.project, "", Step::Deployment)?;
        init.push(build::clone_container(site, &checkout, mount.clone(), &mount.mount_path));
        volumes.extend(build::clone_volumes(site));
    }
    init.extend(settings.init_containers.iter().flatten().map(|spec| init_container(spec, settings)));
    let from_secret = SecretEnvSource { name: SECRETS.into(), optional: Some(true) };
    let container = Container {
        env_from: Some(vec![EnvFromSource { secret_ref: Some(from_secret), ..EnvFromSource::default() }]),
        ..main_container(WEB, &settings.image, settings)
    };
    let pod = PodSpec {
        init_containers: (!init.is_empty()).then_some(init),
        containers: vec![container],
        volumes: (!volumes.is_empty()).then_some(volumes),
        ..PodSpec::default()
    };
    // The parameters of a rolling update are written down, so that they go with it. A volume is on one node: the pod
    // before must go first.
    let strategy = if settings.volumes.iter().flatten().any(|volume| volume.persistent_volume_claim.is_some()) {
        DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None }
    } else {
        let rolling = RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(1)),
            max_unavailable: Some(IntOrString::Int(0)),
        };
        DeploymentStrategy { type_: Some("RollingUpdate".into()), rolling_update: Some(rolling) }
    };
    let spec = DeploymentSpec {
        strategy: Some(strategy),
        progress_deadline_seconds: Some(if is_development { DEVELOPMENT_DEADLINE_SECONDS } else { 600 }),
        ..objects::deployment_spec(1, &labels, objects::template(&labels, pod))
    };
    Ok(objects::deployment(metadata(site.namespace, WEB), spec))
}

fn claimed(volume: &VolumeSpec) -> Option<Volume> {
    volume.persistent_volume_claim.as_ref()?;
    let source = PersistentVolumeClaimVolumeSource { claim_name: volume.name.clone(), read_only: None };
    Some(Volume { name: volume.name.clone(), persistent_volume_claim: Some(source), ..Volume::default() })
}

fn non_empty<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn main_container(name: &str, image: &str, settings: &EnvironmentConfig) -> Container {
    Container {
        command: settings.command.clone(),
        args: settings.args.clone(),
        working_dir: (!settings.working_dir.is_empty()).then(|| settings.working_dir.clone()),
        ports: settings.ports.clone(),
        env: non_empty(&settings.env),
        resources: settings.resources.as_ref().map(Resources::to_core),
        liveness_probe: settings.liveness_probe.clone(),
        readiness_probe: settings.readiness_probe.clone(),
        startup_probe: settings.startup_probe.clone(),
        volume_mounts: settings.volume_mounts.clone(),
        ..objects::container(name, image)
    }
}

fn init_container(spec: &InitContainerSpec, settings: &EnvironmentConfig) -> Container {
    let or = |mine: &str, other: &str| if mine.is_empty() { other.to_owned() } else { mine.to_owned() };
    let env: Vec<EnvVar> = overlaid(&settings.env, &spec.env);
    Container {
        command: spec.command.clone(),
        args: spec.args.clone(),
        working_dir: Some(or(&spec.working_dir, &settings.working_dir)).filter(|path| !path.is_empty()),
        env: non_empty(&env),
        resources: spec.resources.as_ref().map(Resources::to_core),
        volume_mounts: spec.volume_mounts.clone().or_else(|| settings.volume_mounts.clone()),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        ..objects::container(&spec.name, &or(&spec.image, &settings.image))
    }
}

/// Plans the pod of mode workspace, which waits for people to work in it.
pub(crate) fn workspace(
    plan: &mut Plan,
    site: &Site<'_>,
    settings: &EnvironmentConfig,
    images: &Images,
    report: &mut Report,
) -> Result<(), Stop> {
    check(settings)?;
    for volume in settings.volumes.iter().flatten() {
        if let Some(spec) = &volume.persistent_volume_claim {
            plan_claim(plan, site.namespace, &volume.name, spec);
        }
    }
    let first = site.environment.spec.sources.first();
    let commit = first.map(|source| source.commit_sha.as_str()).filter(|commit| !commit.is_empty()).unwrap_or("latest");
    let short: String = commit.chars().filter(char::is_ascii_alphanumeric).take(7).collect();
    let name = names::with_suffix(&format!("workspace-{}", site.project.name()), &short.to_ascii_lowercase());
    let labels = labels([
        ("catalyst.dev/pod-type", "workspace"),
        ("catalyst.dev/commit", &crate::namespace::label_value(commit)),
        ("catalyst.dev/project", &crate::namespace::label_value(site.project.name())),
        ("catalyst.dev/environment", &crate::namespace::label_value(site.environment.name())),
    ]);
    let image = match settings.image.as_str() {
        "" => "alpine:3",
        image => images.get(image).map_or(image, String::as_str),
    };
    let usual = || Resources::of([("cpu", "100m"), ("memory", "128Mi")], [("cpu", "500m"), ("memory", "512Mi")]);
    let container = Container {
        command: Some(settings.command.clone().unwrap_or_else(|| vec!["sleep".into(), "infinity".into()])),
        resources: Some(settings.resources.clone().unwrap_or_else(usual).to_core()),
        ..main_container("workspace", image, settings)
    };
    let volumes: Vec<Volume> = settings.volumes.iter().flatten().filter_map(claimed).collect();
    let pod = PodSpec {
        containers: vec![container],
        restart_policy: Some("Always".into()),
        volumes: non_empty(&volumes),
        ..PodSpec::default()
    };
    let mut metadata = objects::metadata(&name, &labels);
    metadata.namespace = Some(site.namespace.to_owned());
    let planned = plan.apply(Pod { metadata, spec: Some(pod), status: None }.replace());
    let health = plan.health(&planned);
    report.deployed(&[(format!("Pod {name}"), health)]);
    Ok(())
}
