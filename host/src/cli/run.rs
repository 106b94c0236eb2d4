//! `transom run`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::control::cluster::Cluster;
use crate::control::controller::Controller;
use crate::lookup::Places;
use crate::lookup::random::host_key;
use crate::plan::contract::ObjectRef;
use crate::plugin::{Cache, Engine, Seal};
use crate::record::ring::{MAX_BYTES, Ring};
use crate::registry::rollout::plan::Plans;
use crate::registry::{Loader, Policy, Registry, Role};
use crate::shard::{self, Candidate, Leader};
use crate::telemetry::{Readiness, Traces, metrics, serve};
use crate::webhook::{self, Reach};

/// What was begun may take this long to finish when the host is told to stop.
const GRACE: Duration = Duration::from_secs(20);

/// Arguments. The last counts of those that are given twice: charts append what their users want.
#[derive(Debug, clap::Args)]
#[command(
    args_override_self = true,
    after_help = "Examples:\n  \
    transom run                                                   # on the cluster of the kubeconfig\n  \
    transom run --listen 127.0.0.1:8080 --watch-namespace shop\n  \
    transom run --require-signature --allowed-source oci://registry.example/team"
)]
pub struct Args {
    /// Address of /healthz, /readyz and /metrics; port 0 picks a free one.
    #[arg(long, env = "TRANSOM_LISTEN", default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Only objects of this namespace (default: all namespaces).
    #[arg(long, env = "TRANSOM_WATCH_NAMESPACE", value_name = "NAMESPACE")]
    watch_namespace: Option<String>,
    /// With --watch-namespace: follow children in the namespaces that those objects own, too. Needs the right to list and
    /// watch them in all namespaces.
    #[arg(long, env = "TRANSOM_OWN_NAMESPACES", requires = "watch_namespace")]
    own_namespaces: bool,
    /// Only Plugin records with these labels (default: all records).
    #[arg(long, env = "TRANSOM_PLUGIN_SELECTOR", default_value = "", value_name = "SELECTOR")]
    plugin_selector: String,
    /// Reconciles that are kept of each object for `transom record`; 0 keeps none.
    #[arg(long, env = "TRANSOM_RECORDINGS", default_value_t = 5, value_name = "COUNT")]
    recordings: usize,
    /// Loopback address where they are served; port 0 picks a free one (default: 127.0.0.1:8081 if it is free).
    #[arg(long, env = "TRANSOM_RECORDINGS_LISTEN", value_name = "ADDRESS")]
    recordings_listen: Option<SocketAddr>,
    /// Namespace of the Secret with the key that random bytes are derived from (default: that of the kubeconfig or the
    /// pod).
    #[arg(long, env = "TRANSOM_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Run beside other replicas: one of them does the work, which one is in a Lease, and the others stand by with what serves
    /// loaded.
    #[arg(long, env = "TRANSOM_LEADER_ELECT")]
    leader_elect: bool,
    /// Name of the Lease, in --namespace. Hosts with other objects need another one.
    #[arg(long, env = "TRANSOM_LEADER_ELECT_RESOURCE_NAME", value_name = "NAME", default_value = "transom")]
    leader_elect_resource_name: String,
    /// A replica that has not renewed the Lease for so many seconds is replaced. It ends itself after two thirds of this.
    #[arg(long, env = "TRANSOM_LEADER_ELECT_LEASE_DURATION", value_name = "SECONDS", default_value_t = 15,
        value_parser = clap::value_parser!(u64).range(2..=3_600))]
    leader_elect_lease_duration: u64,
    /// Address of the HTTPS server that the API server calls for admission and conversion (default: none, and plugins'
    /// webhooks are not installed).
    #[arg(long, env = "TRANSOM_WEBHOOK_LISTEN", value_name = "ADDRESS", requires = "reach")]
    webhook_listen: Option<SocketAddr>,
    /// Service by which the API server gets there.
    #[arg(long, env = "TRANSOM_WEBHOOK_SERVICE", value_name = "NAMESPACE/NAME:PORT", group = "reach",
        requires = "webhook_listen", value_parser = Reach::service)]
    webhook_service: Option<Reach>,
    /// The same for a host outside the cluster: https://HOST:PORT.
    #[arg(long, env = "TRANSOM_WEBHOOK_URL", value_name = "URL", group = "reach", requires = "webhook_listen",
        value_parser = Reach::url)]
    webhook_url: Option<Reach>,
    /// Life of its certificate in seconds; the host makes another after two thirds of it (default: 90 days).
    #[arg(long, env = "TRANSOM_WEBHOOK_CERTIFICATE_SECONDS", value_name = "SECONDS", default_value_t = 7_776_000,
        value_parser = clap::value_parser!(u64).range(3..=315_360_000), hide_default_value = true)]
    webhook_certificate_seconds: u64,
    /// Where spans of reconciles are sent, by OTLP over gRPC (default: nowhere). Variables such as OTEL_TRACES_SAMPLER count,
    /// too.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// Run signed components only: a record without `spec.signature` is refused, whatever its source.
    #[arg(long, env = "TRANSOM_REQUIRE_SIGNATURE")]
    require_signature: bool,
    /// Take components only from below this address, in whole segments: oci://registry/team, https://host/path,
    /// file:///folder, configmap://namespace; oci+http:// and http:// for what has no TLS. Repeatable.
    #[arg(long, env = "TRANSOM_ALLOWED_SOURCE", value_delimiter = ',', value_name = "PREFIX")]
    allowed_source: Vec<String>,
    /// File with a public key (PEM) that must have signed every component, one of them when repeated. A record can ask
    /// for more, not for less.
    #[arg(long, env = "TRANSOM_SIGNATURE_KEY", value_delimiter = ',', value_name = "FILE")]
    signature_key: Vec<PathBuf>,
}

impl Args {
    pub(super) fn traces(&self) -> anyhow::Result<Option<Traces>> {
        self.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty()).map(Traces::to).transpose()
    }

    pub(super) async fn run(self, mut cache: Cache, is_keyed: bool) -> anyhow::Result<()> {
        let webhooks = self.webhooks();
        let policy = Policy::new(self.require_signature, self.allowed_source.clone(), &self.signature_key)?;
        let mut config = kube::Config::infer().await.context("no cluster: set KUBECONFIG, or run inside one")?;
        config.default_namespace = self.watch_namespace.clone().unwrap_or(config.default_namespace);
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = kube::Client::try_from(config).context("the kubeconfig cannot be used")?;
        let cluster = Arc::new(Cluster::new(client, self.watch_namespace.clone()).following_owned(self.own_namespaces));
        let readiness = Readiness::default();
        let address = serve(self.listen, readiness.clone())
            .await
            .with_context(|| format!("cannot listen on {}: choose another --listen", self.listen))?;
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving health and metrics");
        // a pod's own files come and go with it
        if !is_keyed && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
            cache.seal = seal_of_cluster(&cluster, &namespace).await?;
        }
        let places = Places { namespace: namespace.clone(), cache_dir: cache.dir.clone() };
        let loader = Loader { engine: Engine::new()?, program: std::env::current_exe()?, cache };
        let recordings = Arc::new(Ring::new(self.recordings, MAX_BYTES));
        let plans = Arc::<Plans>::default();
        let candidate = self.candidate(&cluster, &namespace);
        let controller = Controller::new(cluster, recordings, places);
        serve_recordings(self.recordings_listen, &controller, plans.clone()).await?;
        let registry = Registry::new(controller.clone(), loader, self.plugin_selector.clone(), policy, plans);
        let webhooks = match webhooks {
            Some(options) => Some(webhook::start(&controller, options, &namespace).await?),
            None => None,
        };
        if let Some(address) = webhooks.as_ref().map(webhook::Server::address) {
            tracing::info!(%address, "serving webhooks");
        }
        let mut stop = Stop::new()?;
        let mut leader = None;
        if let Some(candidate) = candidate {
            tokio::select! {
                elected = stand_by(candidate, &registry, &readiness) => leader = Some(elected),
                () = stop.asked() => return stopped(webhooks).await,
            }
        }
        metrics().leader(true);
        let work = lead(&controller, &registry, readiness, &namespace, &mut stop);
        tokio::select! {
            done = work => done?,
            why = held(leader.as_mut()) => {
                // no grace: another replica may be at work from now on
                tracing::error!(why, "the lease is lost: this replica ends at once");
                std::process::exit(1);
            }
        }
        if let Some(leader) = leader {
            leader.release().await;
        }
        stopped(webhooks).await
    }

    fn candidate(&self, cluster: &Cluster, namespace: &str) -> Option<Candidate> {
        let name = self.leader_elect_resource_name.clone();
        let duration = Duration::from_secs(self.leader_elect_lease_duration);
        let new = || Candidate::new(cluster.client().clone(), namespace, name, shard::identity(), duration);
        self.leader_elect.then(new)
    }

    fn webhooks(&self) -> Option<webhook::Options> {
        let reach = self.webhook_service.clone().or_else(|| self.webhook_url.clone())?;
        let lifetime = Duration::from_secs(self.webhook_certificate_seconds);
        Some(webhook::Options { listen: self.webhook_listen?, reach, lifetime })
    }
}

/// SIGTERM and SIGINT.
struct Stop(Signal, Signal);

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// Waits until this replica leads; what serves is loaded meanwhile.
async fn stand_by(candidate: Candidate, registry: &Registry, readiness: &Readiness) -> Leader {
    let candidate = match candidate.try_once().await {
        Ok(leader) => return leader,
        Err(candidate) => candidate,
    };
    metrics().leader(false);
    tokio::select! {
        leader = candidate.elected() => leader,
        // never ends by itself
        () = registry.run(Role::StandsBy, readiness.clone()) => std::future::pending().await,
    }
}

/// Resolves when a replica must not work any more, and why.
async fn held(leader: Option<&mut Leader>) -> String {
    match leader {
        Some(leader) => leader.hold().await,
        None => std::future::pending().await,
    }
}

/// Does the work until the host is told to stop, and what was begun then.
async fn lead(
    controller: &Arc<Controller>,
    registry: &Registry,
    readiness: Readiness,
    namespace: &str,
    stop: &mut Stop,
) -> anyhow::Result<()> {
    registry.install().await.context("cannot install the custom resource definition of Plugin")?;
    crate::overlay::store::start(controller, namespace).await.context("cannot follow overlays")?;
    let mut workers = tokio::spawn({
        let controller = controller.clone();
        async move { controller.work().await }
    });
    tokio::select! {
        () = registry.run(Role::Leads, readiness) => {}
        () = stop.asked() => {}
    }
    tracing::info!("stopping: finishing what was begun");
    controller.close();
    if tokio::time::timeout(GRACE, &mut workers).await.is_err() {
        tracing::warn!("some reconciles did not finish in time");
        workers.abort();
    }
    Ok(())
}

async fn stopped(webhooks: Option<webhook::Server>) -> anyhow::Result<()> {
    if let Some(webhooks) = webhooks {
        webhooks.stop().await;
    }
    Ok(())
}

/// By the host's key, which every replica has. Without it plugins are compiled at every start.
async fn seal_of_cluster(cluster: &Cluster, namespace: &str) -> anyhow::Result<Seal> {
    match host_key(cluster, namespace, "compiled plugins").await {
        Ok(key) => Ok(Seal::new(&key)),
        Err(error) => {
            tracing::warn!(error, "compiled plugins cannot be kept for the next start: name a --cache-key-file");
            Ok(Seal::ephemeral()?)
        }
    }
}

/// Serves the recordings, if there are any, and the plans of new versions. The default port may be taken (two hosts on a laptop), and that is no reason
/// not to run.
async fn serve_recordings(
    listen: Option<SocketAddr>,
    controller: &Arc<Controller>,
    plans: Arc<Plans>,
) -> anyhow::Result<()> {
    let ring = controller.recordings.clone();
    if ring.is_off() {
        return Ok(());
    }
    let address = listen.unwrap_or(super::record::DEFAULT_HOST);
    let queue = controller.clone();
    let again_in = Arc::new(move |object: &ObjectRef| queue.again_in(object));
    match crate::record::serve::serve(address, ring, again_in, plans).await {
        Ok(address) => tracing::info!(%address, "serving recordings"),
        Err(error) if listen.is_some() => {
            return Err(error)
                .with_context(|| format!("cannot listen on {address}: choose another --recordings-listen"));
        }
        Err(error) => tracing::warn!(%address, %error, "recordings are not served: choose --recordings-listen"),
    }
    Ok(())
}
