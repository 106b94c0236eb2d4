//! `transom dev`: at every save the plugin is built, put onto the cluster, and what it changes is shown.
//!
//! The plan is the one that a host makes of every new version before it lets it in. A version that does not build, does not
//! load or would fail leaves the one before in place.

mod deploy;
mod sources;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser as _;
use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use self::deploy::{Place, Version};
use self::sources::Sources;
use super::Command;
use super::plugin::build::{Built, Speed, build};
use super::plugin::install::pair;
use super::plugin::rollout::plan;
use super::plugin::toolchain::Toolchain;
use super::plugin::wait::said;
use super::record::DEFAULT_HOST;
use crate::api::names::DEV_LABEL;
use crate::api::plugin::{Bounds, Phase, Plugin};
use crate::api::rollout::VersionSpec;
use crate::plugin::{Cache, Engine};
use crate::registry::{Loader, digest_of};

/// A host that runs looks at a new record within a few milliseconds.
const GRACE: Duration = Duration::from_secs(3);

/// How long the host in this program may take for what it has begun; the next one goes on with what it leaves.
const FINISH: Duration = Duration::from_secs(5);

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    transom dev                                    # the crate of this folder\n  \
    transom dev plugins/web --host own\n\
    It runs on the cluster of the kubeconfig. Then, in another terminal: kubectl apply -f sample.yaml, and edit the \
    sources. Ctrl-C ends it; the record and the objects stay, and `transom plugin remove NAME --yes` removes the record.")]
pub struct Args {
    /// Folder of the crate.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Name of the Plugin record (default: the name that the plugin gives itself).
    #[arg(long)]
    name: Option<String>,
    /// Label of the record, for hosts that select records; repeatable.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair::<'='>)]
    label: Vec<(String, String)>,
    /// Which host runs the plugin.
    #[arg(long, default_value = "auto", value_name = "WHICH")]
    host: Which,
    /// Namespace of the ConfigMap through which a host of the cluster gets the component (default: that of the
    /// kubeconfig's context).
    #[arg(long, short)]
    namespace: Option<String>,
    /// Where a host that runs already serves its plans: `kubectl port-forward` brings the 8081 of its pod here.
    #[arg(long, value_name = "ADDRESS", env = "TRANSOM_HOST", default_value_t = DEFAULT_HOST)]
    plans: SocketAddr,
    /// Passed on to `cargo build`, after `--`: -- --features next.
    #[arg(last = true)]
    cargo: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// One that runs already and takes the record up within three seconds, else one of its own.
    Auto,
    /// One in this program, which follows this record only.
    Own,
    /// One that runs already.
    Cluster,
}

/// How hosts of this program are started.
pub(super) struct Settings {
    /// Shared with the host, so that what was checked here need not be compiled there.
    pub(super) cache: Cache,
    /// Its key is in a file that was named.
    pub(super) is_keyed: bool,
}

impl Args {
    pub(super) async fn run(self, settings: Settings) -> anyhow::Result<()> {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let config = kube::Config::infer().await.context("no cluster: set KUBECONFIG, or run inside one")?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        println!("cluster {}", config.cluster_url);
        let client = kube::Client::try_from(config).context("the kubeconfig cannot be used")?;
        let (ended, mut host_ended) = mpsc::unbounded_channel();
        let mut session = Session {
            sources: Sources::new(&self.dir),
            place: (self.host == Which::Cluster).then_some(Place::Cluster),
            loader: Loader { engine: Engine::new()?, program: std::env::current_exe()?, cache: settings.cache.clone() },
            plans: self.plans,
            arguments: self,
            namespace,
            client,
            toolchain: None,
            settings,
            name: None,
            ended,
        };
        let result = tokio::select! {
            // a host in this process hears the same signals, and may have ended by now
            biased;
            _ = term.recv() => session.end(&mut host_ended).await,
            _ = int.recv() => session.end(&mut host_ended).await,
            Some(ended) = host_ended.recv() => ended.and_then(|()| bail!("the host ended")),
            never = session.work() => match never {},
        };
        if let Some(name) = &session.name {
            println!("Plugin {name} and its objects stay; `transom plugin remove {name} --yes` removes the record");
        }
        result
    }
}

/// What goes on between two signals.
struct Session {
    arguments: Args,
    /// Of the ConfigMap.
    namespace: String,
    sources: Sources,
    client: kube::Client,
    loader: Loader,
    /// When it was found: asking takes some tenths of a second.
    toolchain: Option<Toolchain>,
    settings: Settings,
    /// How a host gets the component; none until that is known.
    place: Option<Place>,
    /// Of the record, when it is there.
    name: Option<String>,
    /// Where the host serves plans.
    plans: SocketAddr,
    /// How a host in this program ended.
    ended: UnboundedSender<anyhow::Result<()>>,
}

impl Session {
    /// A turn for each save.
    async fn work(&mut self) -> Infallible {
        let mut saved = Instant::now();
        loop {
            let seen = self.sources.state();
            let generation = match self.turn().await {
                Ok(generation) => Some(generation),
                Err(error) => {
                    eprintln!("error: {error:#}");
                    None
                }
            };
            tokio::select! {
                () = self.sources.changed(seen) => saved = Instant::now(),
                never = self.follow(generation, saved) => match never {},
            }
        }
    }

    /// Builds it, and asks for it in the record. Returns the record's generation.
    async fn turn(&mut self) -> anyhow::Result<i64> {
        let started = Instant::now();
        let toolchain = match self.toolchain.take() {
            Some(toolchain) => toolchain,
            None => Toolchain::find().await?,
        };
        let toolchain = self.toolchain.insert(toolchain);
        let Built { component, module } =
            build(toolchain, &self.arguments.dir, &self.arguments.cargo, Speed::Dev).await?;
        self.sources.also(&module);
        let built = started.elapsed();
        println!("built in {:.1} s ({} KiB)", built.as_secs_f64(), component.len() / 1024);
        let digest = digest_of(&component);
        let loaded = self.loader.load("dev", &component, &digest, Bounds::default()).await?;
        println!("compiled to machine code in {:.1} s", (started.elapsed() - built).as_secs_f64());
        let name = self.arguments.name.clone().unwrap_or_else(|| loaded.manifest.name.clone());
        if let Some(before) = self.name.replace(name.clone())
            && before != name
        {
            println!("the plugin is called {name} now: Plugin {before} stays as it is");
        }
        let folder = deploy::folder_of(&module);
        let mut labels = self.arguments.label.clone();
        labels.push((DEV_LABEL.into(), name.clone()));
        let version = Version { name: &name, digest: &digest, wasm: &component, folder: &folder, labels: &labels };
        if self.arguments.host == Which::Own && self.place.is_none() {
            self.start_host(&name).await?;
        }
        if self.place.is_none() {
            match deploy::taken_up(&self.client, &version, &self.namespace, GRACE).await? {
                Some(generation) => {
                    println!("a host of the cluster has taken up Plugin {name}");
                    self.place = Some(Place::Cluster);
                    return Ok(generation);
                }
                None => self.start_host(&name).await?,
            }
        }
        let place = self.place.unwrap_or(Place::Here);
        deploy::apply(&self.client, &version, place, &self.namespace).await
    }

    /// Starts a host in this program, for this record only.
    async fn start_host(&mut self, name: &str) -> anyhow::Result<()> {
        // the port is free now, and the host says it when it is not any more
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.and_then(|listener| listener.local_addr());
        self.plans = free.context("no free port on 127.0.0.1")?;
        let (plans, selector) = (self.plans.to_string(), format!("{DEV_LABEL}={name}"));
        let arguments = ["transom", "run", "--listen", "127.0.0.1:0", "--recordings-listen", &plans];
        let arguments = arguments.into_iter().chain(["--plugin-selector", &selector]);
        let Command::Run(host) = super::Cli::try_parse_from(arguments)?.command else {
            bail!("`transom run` is another command");
        };
        println!("no host of the cluster follows Plugin {name}: this program does");
        let (cache, is_keyed, ended) = (self.settings.cache.clone(), self.settings.is_keyed, self.ended.clone());
        tokio::spawn(async move {
            let result = host.run(cache, is_keyed).await;
            // nobody listens after an error of our own
            let _ = ended.send(result);
        });
        self.place = Some(Place::Here);
        deploy::defined(&self.client).await
    }

    /// Says what becomes of the version that was asked for, until something is saved.
    async fn follow(&self, generation: Option<i64>, saved: Instant) -> Infallible {
        println!("waiting for changes in {}", self.arguments.dir.display());
        let (Some(generation), Some(name)) = (generation, &self.name) else {
            return std::future::pending().await;
        };
        let api = Api::<Plugin>::all(self.client.clone());
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut states = std::pin::pin!(watcher(api.clone(), config).default_backoff().applied_objects());
        let (mut last, mut shown) = (String::new(), false);
        while let Some(state) = states.next().await {
            let Ok(plugin) = state else { continue };
            let status = plugin.status.clone().unwrap_or_default();
            let is_meant = plugin.name_any() == *name && status.observed_generation.unwrap_or_default() >= generation;
            if !is_meant {
                continue;
            }
            let wanted = VersionSpec::of(&plugin.spec).revision();
            if !shown && status.plan.as_ref().is_some_and(|plan| plan.revision == wanted) {
                shown = true;
                match plan(&api, name, self.plans).await {
                    Ok(text) => println!("{}", text.trim_end()),
                    Err(error) => eprintln!("error: the plan cannot be shown: {error:#}"),
                }
            }
            let now = match status.phase {
                Phase::Ready => {
                    format!("{name} {} serves {}", status.version.unwrap_or_default(), status.kinds.join(", "))
                }
                _ => said(&plugin),
            };
            if now != last {
                println!("{now} ({:.1} s after the save)", saved.elapsed().as_secs_f64());
                last = now;
            }
        }
        std::future::pending().await
    }

    /// The host in this program has heard the same signal, and finishes what it has begun.
    async fn end(&self, host_ended: &mut UnboundedReceiver<anyhow::Result<()>>) -> anyhow::Result<()> {
        if self.place != Some(Place::Here) {
            return Ok(());
        }
        // one that was just starting has not heard it, and has nothing to finish
        let ended = tokio::time::timeout(FINISH, host_ended.recv()).await;
        ended.ok().flatten().unwrap_or(Ok(()))
    }
}
