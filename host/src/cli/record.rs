//! `transom record`

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use http_body_util::BodyExt;

use super::progress;
use super::subject::Subject;
use crate::control::cluster::Cluster;
use crate::control::key::PrimaryKey;
use crate::lookup::{Asker, Grants, Lookups, Places};
use crate::plan::contract::{Answer, Answered, Failure, Lookup, Request, Step};
use crate::plan::request::{Children, Snapshot, owns_namespace};
use crate::plan::rounds::{self, Conversation, Session};
use crate::plugin::{Cache, CallError, Engine};
use crate::record::{Bundle, CarriedOut, Component, Outcome, Recording, serve};
use crate::registry::{Loaded, Loader, digest_of};

/// Where a host serves its recordings unless it is told otherwise.
pub(super) const DEFAULT_HOST: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8081));

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    transom record Web shop -o shop.json           # the last reconcile, from the host\n  \
    transom record Web shop --fresh                # one of now, with your own rights")]
pub struct Args {
    /// Kind of the object: `Web`, `Web.bench.dev`.
    kind: String,
    /// Name of the object.
    name: String,
    /// Namespace of the object (default: that of the kubeconfig's context).
    #[arg(long, short)]
    namespace: Option<String>,
    /// How many reconciles; several are written as FILE, FILE.1, FILE.2, newest first.
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    last: usize,
    /// Where to; stdout by default, for one.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where the host serves its recordings: `kubectl port-forward` brings the 8081 of its pod here.
    #[arg(long, value_name = "ADDRESS", env = "TRANSOM_HOST", default_value_t = DEFAULT_HOST)]
    host: SocketAddr,
    /// Call the plugin now, with your own rights, instead of asking the host.
    #[arg(long)]
    fresh: bool,
    /// With --fresh: the component; by default the serving one from the cache (`--cache-dir`).
    #[arg(long, value_name = "FILE", requires = "fresh")]
    plugin: Option<PathBuf>,
}

impl Args {
    pub(super) async fn run(self, cache: Cache) -> anyhow::Result<()> {
        let namespace = super::namespace(self.namespace.clone()).await;
        let bundles = if self.fresh {
            vec![self.evaluate(&namespace, cache).await?]
        } else {
            ask(self.host, &self.kind, &namespace, &self.name, self.last).await?
        };
        let (Some(output), false) = (&self.output, bundles.is_empty()) else {
            let [bundle] = bundles.as_slice() else {
                bail!("{} recordings of {} {}: name a file by -o", bundles.len(), self.kind, self.name);
            };
            println!("{}", serde_json::to_string_pretty(bundle)?);
            return Ok(());
        };
        for (i, bundle) in bundles.iter().enumerate() {
            let mut path = output.clone().into_os_string();
            if i > 0 {
                path.push(format!(".{i}"));
            }
            let text = serde_json::to_string_pretty(bundle)? + "\n";
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Now, with the caller's rights.
    async fn evaluate(&self, namespace: &str, cache: Cache) -> anyhow::Result<Bundle> {
        let subject = Subject::find(&self.kind, namespace, &self.name).await?;
        let loaded = load(&subject, self.plugin.as_deref(), cache).await?;
        let recording = evaluate(&subject, &loaded).await?;
        Ok(Bundle::of(&recording).await?)
    }
}

/// Recordings from the running host, newest first, at least one.
pub(super) async fn ask(
    host: SocketAddr,
    kind: &str,
    namespace: &str,
    name: &str,
    last: usize,
) -> anyhow::Result<Vec<Bundle>> {
    let client = kube::Client::try_from(kube::Config::new(format!("http://{host}").parse()?))?;
    let request = http::Request::get(serve::path(kind, namespace, name, last)).body(kube::client::Body::empty())?;
    let response = client.send(request).await.with_context(|| {
        format!("no host serves recordings on {host}: kubectl port-forward to 8081 of its pod, or record --fresh")
    })?;
    let (head, body) = response.into_parts();
    let text = String::from_utf8(body.collect().await?.to_bytes().into())?;
    if !head.status.is_success() {
        bail!("{host} answers {}: {text}", head.status);
    }
    let bundles: Vec<Bundle> = serde_json::from_str(&text).with_context(|| format!("{host} answers no recording"))?;
    if bundles.is_empty() {
        bail!("the host has no recording of {kind} {namespace}/{name}: try record --fresh");
    }
    Ok(bundles)
}

/// Where the registry keeps the component of this digest.
pub(super) fn cached(cache_dir: &Path, digest: &str) -> PathBuf {
    cache_dir.join(format!("{}.wasm", digest.trim_start_matches("sha256:")))
}

/// The component that serves an object, and its digest.
async fn load(subject: &Subject, file: Option<&Path>, cache: Cache) -> anyhow::Result<(Loaded, String)> {
    let status = subject.plugin.status.clone().unwrap_or_default();
    let serving = status.digest.context("the Plugin record names no serving digest")?;
    let path = file.map_or_else(|| cached(&cache.dir, &serving), Path::to_path_buf);
    let wasm = std::fs::read(&path)
        .with_context(|| format!("cannot read {}: name the component by --plugin", path.display()))?;
    let digest = digest_of(&wasm);
    let loader = Loader { engine: Engine::new()?, program: std::env::current_exe()?, cache };
    let bounds = subject.plugin.spec.limits.bounds().unwrap_or_default();
    let name = subject.plugin_name();
    let loaded = progress::slow("compiling the plugin", loader.load(&name, &wasm, &digest, bounds)).await?;
    Ok((loaded, digest))
}

/// One conversation about the live object.
async fn evaluate(subject: &Subject, (loaded, digest): &(Loaded, String)) -> anyhow::Result<Recording> {
    let config =
        subject.plugin.spec.config.clone().map_or_else(|| "{}".into(), |c| serde_json::Value::from(c).to_string());
    let snapshot = Snapshot {
        kind: subject.reference.kind.clone(),
        primary: Arc::new(subject.primary.clone()),
        children: subject.children.clone(),
        config,
    };
    let folder = tempfile::tempdir().context("no folder for what lookups bring")?;
    let places = Places { namespace: subject.reference.namespace.clone(), cache_dir: folder.path().to_path_buf() };
    let session = Live {
        children: &subject.children,
        key: PrimaryKey::new(Arc::new(snapshot.kind.clone()), &snapshot.primary.namespace, &snapshot.primary.name),
        uid: snapshot.primary.uid.clone(),
        plugin: subject.plugin_name(),
        lookups: Lookups::new(subject.cluster.clone(), places, Arc::new(|_| {})),
        cluster: &subject.cluster,
        grants: Grants::default(),
        loaded,
    };
    let started = Instant::now();
    let request = snapshot.request(&loaded.manifest, Vec::new());
    let Conversation { request, rounds, end } = rounds::conversation(&session, request, *loaded.plugin.bounds()).await;
    let outcome = match end {
        Ok((plan, _)) => Outcome::Planned(Box::new(plan)),
        Err(stop) => Outcome::of_failure(&stop),
    };
    Ok(Recording {
        overlays: None,
        plugin: loaded.plugin.clone(),
        component: Component {
            name: subject.plugin_name(),
            version: loaded.manifest.version.clone(),
            digest: digest.clone(),
        },
        primary: subject.reference.clone(),
        generation: subject.primary.generation,
        at: jiff::Timestamp::now(),
        duration: started.elapsed(),
        request,
        rounds,
        outcome,
        carried_out: CarriedOut::default(),
    })
}

/// A conversation with the cluster as it is.
struct Live<'a> {
    children: &'a Children,
    key: PrimaryKey,
    uid: String,
    plugin: String,
    lookups: Lookups,
    cluster: &'a Arc<Cluster>,
    /// None: credentials of endpoints are the host's.
    grants: Grants,
    loaded: &'a Loaded,
}

impl Session for Live<'_> {
    type Error = CallError;

    async fn call(&self, request: &Request) -> Result<Result<Step, Failure>, CallError> {
        self.loaded.plugin.reconcile(request).await.map(|(answer, _)| answer)
    }

    async fn answer(&self, lookups: Vec<Lookup>) -> Vec<Answered> {
        let Self { key, plugin, grants, cluster, loaded, .. } = self;
        let manifest = &loaded.manifest;
        let owns = Box::new(|namespace: &str| owns_namespace(self.children, namespace));
        let asker = Asker { key, uid: self.uid.clone(), plugin, manifest, grants, cluster, owns };
        let mut answers = Vec::with_capacity(lookups.len());
        for lookup in lookups {
            if matches!(lookup, Lookup::Random { .. }) {
                let only = "only the host has the key of random bytes: take the recording from it";
                answers.push(Answered { lookup, answer: Answer::Denied(only.into()) });
            } else {
                answers.extend(self.lookups.answer(&asker, vec![lookup]).await);
            }
        }
        answers
    }
}
