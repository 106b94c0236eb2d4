//! `transom plugin install`

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::remote::{RemoteArgs, check_component, explained};
use super::wait::{Asked, WaitArgs};
use super::{Output, roles};
use crate::api::plugin::{Bounds, Plugin, SignaturePolicy};
use crate::api::rollout::VersionSpec;
use crate::control::cluster::Cluster;
use crate::lookup::registry::is_digest;
use crate::plugin::{Cache, Engine};
use crate::registry::fetch::verifying_keys;
use crate::registry::signature::{Refusal, Signature, Subject, VerifyingKey, verify};
use crate::registry::source::{Chain, Registry, SourceError};
use crate::registry::{Loaded, Loader, digest_of};

/// Field manager: what else is in a record (endpoints, limits, configuration) stays.
const MANAGER: &str = "transom-plugin-install";

/// All of a ConfigMap may have 1 MiB, and base64 makes four bytes of three.
const MAX_CONFIG_MAP: usize = 760 << 10;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    transom plugin install registry.example/team/web:1.2.0 --key cosign.pub\n  \
    transom plugin install registry.example/team/web:1.3.0 --key cosign.pub --yes   # upgrade\n  \
    transom plugin install web.wasm --namespace transom --yes        # through a ConfigMap\n\
    A tag is written to the record with the digest that it stands for now; call it again to take up a tag that has moved.\n\
    It exits with 0 when the version serves all objects, with 3 when it waits for a person, and with 1 when it failed.\n\
    Keys, account, secrets and labels that an earlier call has set stay when they are not named again.")]
pub struct Args {
    /// registry/repository:tag or @sha256:…, or a file, which is put into a ConfigMap.
    what: String,
    /// Name of the Plugin record (default: the name that the plugin gives itself).
    #[arg(long)]
    name: Option<String>,
    /// Public key (PEM) that must have signed it, one of them when repeated; written to the record.
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// ServiceAccount that the plugin acts as; written to the record. What it has to be allowed is printed, for a person to
    /// grant.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = pair::<'/'>)]
    service_account: Option<(String, String)>,
    /// Label of the record, for hosts that select records; repeatable.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair::<'='>)]
    label: Vec<(String, String)>,
    /// Secret with the log-in to the registry, for the host: username and password, token or .dockerconfigjson.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = pair::<'/'>)]
    credentials_secret: Option<(String, String)>,
    /// Secret with `ca.crt` of the registry, for the host.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = pair::<'/'>)]
    ca_secret: Option<(String, String)>,
    /// Namespace of the ConfigMap that a file is put into (default: that of the kubeconfig's context).
    #[arg(long, short)]
    namespace: Option<String>,
    /// Do it; without this only what would be done, and what it needs, is shown.
    #[arg(long)]
    yes: bool,
    /// Take over fields of the record that somebody else has set.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    wait: WaitArgs,
    /// How the result looks.
    #[arg(long, short, default_value = "text")]
    output: Output,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub(in crate::cli) fn pair<const SEPARATOR: char>(text: &str) -> Result<(String, String), String> {
    match text.split_once(SEPARATOR) {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => Ok((left.into(), right.into())),
        _ => Err(format!("must be two words with {SEPARATOR} between them")),
    }
}

/// Nobody has set the fields in question but `transom plugin rollback`, which a new version ends.
fn is_rolled_back(status: &kube::core::Status) -> bool {
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    let by_rollback = format!("conflict with {:?}", super::rollout::MANAGER);
    status.code == 409 && !causes.is_empty() && causes.iter().all(|cause| cause.message.starts_with(&by_rollback))
}

/// The component, and how a host finds it.
struct Found {
    wasm: Vec<u8>,
    source: Value,
    /// To be made first.
    config_map: Option<Value>,
    beside: Beside,
}

/// Where signatures are.
enum Beside {
    /// In the registry, of one of these digests.
    Registry(Box<Registry>, Vec<String>),
    /// In a file.
    File(Option<String>),
}

impl Beside {
    /// The digests in the registry that a signature may be of, and what is there.
    async fn signatures(&self, policy: &SignaturePolicy) -> Result<(Vec<String>, Vec<Signature>), SourceError> {
        match self {
            Self::Registry(registry, digests) => Ok((digests.clone(), registry.signatures(digests).await?)),
            Self::File(text) => {
                let all = policy.detached.iter().chain(text).cloned();
                Ok((Vec::new(), all.map(Signature::Detached).collect()))
            }
        }
    }
}

/// Which signature a host will ask for, and what it will find.
enum Signed {
    /// None, as far as the record goes.
    NotAsked,
    /// It is by one of so many keys.
    Valid(usize),
    /// Why the version will not serve.
    Refused(SourceError),
}

impl Signed {
    /// The component as a host would check it, by the record's keys.
    async fn check(cluster: &Arc<Cluster>, policy: Option<&SignaturePolicy>, found: &Found) -> Self {
        let Some(policy) = policy else { return Self::NotAsked };
        let checked = async {
            let keys = verifying_keys(cluster, policy, "spec").await?;
            let (manifests, signatures) = found.beside.signatures(policy).await?;
            let subject = Subject { manifests: &manifests, component: &found.wasm };
            let verified = verify(&keys, &subject, &signatures);
            verified.map(|()| keys.len()).map_err(|Refusal { reason, message }| SourceError { reason, message })
        };
        checked.await.map_or_else(Self::Refused, Self::Valid)
    }

    /// For people.
    fn sentence(&self) -> String {
        match self {
            Self::NotAsked => "not asked for: --key names who must have signed it".into(),
            Self::Valid(1) => "valid, by the key that the record names".into(),
            Self::Valid(keys) => format!("valid, by one of the {keys} keys that the record names"),
            Self::Refused(SourceError { reason, message }) => format!("{reason}: {message}"),
        }
    }

    fn json(&self) -> Value {
        let valid = match self {
            Self::NotAsked => None,
            Self::Valid(_) => Some(true),
            Self::Refused(_) => Some(false),
        };
        json!({ "valid": valid, "message": self.sentence() })
    }
}

/// Whose signature the record will ask for: what is in it already stays, unless this field manager has written it.
async fn policy(api: &Api<Plugin>, name: &str, record: &Value) -> Option<SignaturePolicy> {
    let own = || serde_json::from_value(record.pointer("/spec/signature")?.clone()).ok();
    let parameters = PatchParams::apply(MANAGER).force().dry_run();
    match api.patch(name, &parameters, &Patch::Apply(record)).await {
        Ok(plugin) => plugin.spec.signature,
        // there is no such record yet, or nobody may edit it
        Err(_) => own(),
    }
}

/// What would be, or was, done.
struct Installation<'a> {
    loaded: &'a Loaded,
    digest: &'a str,
    /// What the plugin has to be allowed.
    role: Value,
    /// To the account that was named.
    binding: Option<Value>,
    /// Kinds that this cluster does not serve.
    unknown: Vec<String>,
    record: Value,
}

impl Installation<'_> {
    fn kinds(&self) -> Vec<String> {
        self.loaded.definitions.iter().map(|one| one.served.kind.to_string()).collect()
    }

    /// For programs; `version` serves now.
    fn json(&self, name: &str, version: Option<&str>) -> Value {
        let manifest = &self.loaded.manifest;
        let endpoints = manifest.endpoints.iter().filter(|endpoint| !endpoint.optional);
        json!({
            "plugin": name, "digest": self.digest, "kinds": self.kinds(), "offered": manifest.version,
            "serves": version, "clusterRole": self.role, "clusterRoleBinding": self.binding,
            "unknownKinds": self.unknown, "makesAnyKind": manifest.makes_any_kind(), "engines": manifest.engines, "record": self.record,
            "endpoints": endpoints.map(|endpoint| &endpoint.name).collect::<Vec<_>>(),
        })
    }
}

impl Args {
    pub(super) async fn run(self, cache: Cache) -> anyhow::Result<()> {
        let keys = self.keys()?;
        let client = crate::cli::client().await?;
        let namespace = crate::cli::namespace(self.namespace.clone()).await;
        let file = Path::new(&self.what);
        let mut found = if file.is_file() { self.found_in_file(file)? } else { self.found_in_registry().await? };
        let digest = digest_of(&found.wasm);
        let loader = Loader { engine: Engine::new()?, program: std::env::current_exe()?, cache };
        eprintln!("reading {} ({} KiB)", self.what, found.wasm.len() / 1024);
        let loaded = loader.load("install", &found.wasm, &digest, Bounds::default()).await;
        let loaded = loaded.with_context(|| format!("{} is no plugin", self.what))?;
        let (manifest, name) = (&loaded.manifest, self.name.as_ref().unwrap_or(&loaded.manifest.name));
        if let Some(map) = &mut found.config_map {
            let map_name = place(map, name, &digest, &namespace);
            if let Some(source) = found.source.get_mut("configMap") {
                *source = json!({ "namespace": namespace, "name": map_name });
            }
        }
        let cluster = Cluster::new(client.clone(), None);
        let (role, unknown) = roles::needed(&cluster, name, manifest, &loaded.definitions).await;
        let mut record = self.record(name, &found.source, &digest, &keys);
        let api = Api::<Plugin>::all(client.clone());
        let live = match api.get(name).await {
            Ok(live) => Some(live),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            // what an earlier install has set would be lost
            Err(error) => return Err(error).with_context(|| format!("cannot read the Plugin record {name}")),
        };
        let before = live.as_ref().and_then(|live| live.metadata.generation);
        let uid = live.as_ref().and_then(ResourceExt::uid);
        let kept = live.and_then(|live| serde_json::to_value(live).ok()).map(|live| keep(&mut record, &live));
        for field in kept.into_iter().flatten() {
            eprintln!("{field} stays as an earlier install has set it");
        }
        let binding = self.service_account.as_ref();
        let binding = binding.map(|(namespace, account)| roles::binding(name, (namespace, account)));
        let installation = Installation {
            loaded: &loaded,
            digest: &digest,
            role,
            binding,
            unknown: unknown.iter().map(ToString::to_string).collect(),
            record,
        };
        let of = |version: Option<&str>| installation.json(name, version);
        if self.output == Output::Text {
            self.print(&installation)?;
        }
        if !self.yes {
            let policy = policy(&api, name, &installation.record).await;
            let signed = Signed::check(&Arc::new(cluster), policy.as_ref(), &found).await;
            let mut shown = of(None);
            if let Some(shown) = shown.as_object_mut() {
                shown.insert("signature".into(), signed.json());
            }
            match self.output.of(&shown)? {
                Some(text) => println!("{text}"),
                None => {
                    println!("# signature: {}", signed.sentence());
                    println!("---\n{}", serde_saphyr::to_string(&installation.record)?.trim_end());
                }
            }
            if let Signed::Refused(SourceError { reason, message }) = signed {
                bail!("nothing was changed, and no host would let this version serve: {reason}: {message}");
            }
            bail!("nothing was changed: this record would be applied; call it again with --yes");
        }
        // what would be refused changes nothing
        self.apply(&api, name, &installation.record, true).await?;
        let map = match &found.config_map {
            Some(map) => {
                Some(Map::apply(client.clone(), MANAGER, map, uid.as_deref().map(|uid| (name.as_str(), uid))).await?)
            }
            None => None,
        };
        let applied = match self.apply(&api, name, &installation.record, false).await {
            Ok(applied) => applied,
            Err(error) => {
                if let Some(map) = map {
                    map.undo().await;
                }
                return Err(error);
            }
        };
        if let (Some(map), None, Some(uid)) = (&map, &uid, applied.uid()) {
            map.own(name, &uid).await?;
        }
        let generation = applied.metadata.generation.unwrap_or_default();
        let asked = Asked { generation, is_new: before.is_none_or(|before| before < generation) };
        let end = self.wait.end(&api, name, asked).await;
        if let Ok(Some(latest)) = api.get_opt(name).await {
            delete_unused(&client, &latest, &namespace).await;
        }
        let end = end?;
        let result = self.output.of(&of(end.version()))?;
        let text = end.sentence(name, "the version is in its spec");
        if let Some(result) = result {
            println!("{result}");
            text?;
        } else {
            println!("{}", text?);
        }
        Ok(())
    }

    /// Applies the record, or asks the API server whether it would take it.
    async fn apply(&self, api: &Api<Plugin>, name: &str, record: &Value, dry_run: bool) -> anyhow::Result<Plugin> {
        let apply = async |force| {
            let parameters = PatchParams { force, dry_run, ..PatchParams::apply(MANAGER) };
            api.patch(name, &parameters, &Patch::Apply(record)).await
        };
        let (applied, is_forced) = match apply(self.force).await {
            Err(kube::Error::Api(status)) if is_rolled_back(&status) => (apply(true).await, true),
            applied => (applied, self.force),
        };
        let applied = match applied {
            // an apply does not take the source away that another field manager has set, and there may be one only
            Err(kube::Error::Api(status)) if status.code == 422 && is_forced => {
                match self.replace_source(api, name, record, dry_run).await? {
                    Some(replaced) if dry_run => Ok(replaced),
                    Some(_) => apply(true).await,
                    None => Err(kube::Error::Api(status)),
                }
            }
            applied => applied,
        };
        match applied {
            Ok(applied) => Ok(applied),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                bail!(
                    "nothing was changed: another field manager has set these fields: {}; --force takes them over",
                    status.message
                )
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                bail!("this cluster does not know Plugins: start a host first (`transom run`)")
            }
            Err(kube::Error::Api(status)) => bail!("nothing was changed: {}", status.message),
            Err(error) => Err(error).context("nothing was changed: cannot apply the Plugin record"),
        }
    }

    /// Puts source and digest in place of another sort of source; none when there is no other.
    async fn replace_source(
        &self,
        api: &Api<Plugin>,
        name: &str,
        record: &Value,
        dry_run: bool,
    ) -> anyhow::Result<Option<Plugin>> {
        let live = api.get(name).await.context("nothing was changed: cannot read the Plugin record")?;
        let (live, spec) = (serde_json::to_value(&live.spec.source)?, record.pointer("/spec").cloned());
        let mut source = spec.as_ref().and_then(|spec| spec.get("source")?.as_object().cloned()).unwrap_or_default();
        let others: Vec<String> = live
            .as_object()
            .into_iter()
            .flat_map(|live| live.keys())
            .filter(|sort| !source.contains_key(*sort))
            .cloned()
            .collect();
        if others.is_empty() {
            return Ok(None);
        }
        source.extend(others.into_iter().map(|sort| (sort, Value::Null)));
        let digest = spec.as_ref().and_then(|spec| spec.get("digest")).cloned();
        let patch = json!({ "spec": { "source": source, "digest": digest } });
        let parameters = PatchParams { dry_run, field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        match api.patch(name, &parameters, &Patch::Merge(&patch)).await {
            Ok(plugin) => Ok(Some(plugin)),
            Err(kube::Error::Api(status)) => bail!("nothing was changed: {}", status.message),
            Err(error) => Err(error).context("nothing was changed: cannot edit the Plugin record"),
        }
    }

    /// What it is and needs, for people.
    fn print(&self, installation: &Installation<'_>) -> anyhow::Result<()> {
        let Installation { loaded, digest, role, binding, unknown, .. } = installation;
        let (manifest, kinds) = (&loaded.manifest, installation.kinds());
        println!("# plugin {} {}, {digest}, serves {}", manifest.name, manifest.version, kinds.join(", "));
        match (&self.service_account, binding) {
            (Some((namespace, account)), Some(binding)) => {
                println!("# what the ServiceAccount {namespace}/{account} has to be allowed: `kubectl apply -f` this");
                println!("{}", serde_saphyr::to_string(role)?.trim_end());
                println!("---\n{}", serde_saphyr::to_string(binding)?.trim_end());
            }
            _ => {
                println!("# what it has to be allowed, if it is to act as an account of its own (--service-account):");
                println!("{}", serde_saphyr::to_string(role)?.trim_end());
            }
        }
        for kind in unknown {
            println!("# and {kind}, which this cluster does not serve yet");
        }
        if manifest.makes_any_kind() {
            println!("# and every kind that its templates make: get, list, watch, create, patch, delete");
        }
        for endpoint in manifest.endpoints.iter().filter(|endpoint| !endpoint.optional) {
            println!("# spec.endpoints must name {} ({}: {})", endpoint.name, endpoint.protocol, endpoint.purpose);
        }
        for engine in &manifest.engines {
            println!("# spec.engines must name {engine}");
        }
        Ok(())
    }

    fn keys(&self) -> anyhow::Result<Vec<String>> {
        let read = |path: &PathBuf| {
            let pem = std::fs::read_to_string(path).with_context(|| format!("--key {}", path.display()))?;
            let checked = VerifyingKey::from_pem(&pem);
            checked.map_err(|form| anyhow::anyhow!("--key {} {form}", path.display())).map(|_| pem)
        };
        self.key.iter().map(read).collect()
    }

    async fn found_in_registry(&self) -> anyhow::Result<Found> {
        let registry = self.remote.open(&self.what).await;
        let hint = || format!("{} is no file, and as a reference to a registry", self.what);
        let registry = registry.with_context(hint)?;
        let digest = registry.resolve().await.map_err(explained)?;
        let chain = Chain::follow(&registry.manifests(&digest).await.map_err(explained)?).map_err(explained)?;
        let wasm = registry.component(&chain.layer).await.map_err(explained)?.to_vec();
        let which = &registry.reference.which;
        let tag = if is_digest(which) { String::new() } else { format!(":{which}") };
        let reference = format!("{}/{}{tag}@{digest}", registry.reference.authority, registry.reference.repository);
        let secret = |named: &Option<(String, String)>| {
            named.as_ref().map(|(namespace, name)| json!({ "namespace": namespace, "name": name }))
        };
        let mut oci = json!({ "reference": reference, "plaintext": self.remote.plaintext });
        if let Some(oci) = oci.as_object_mut() {
            oci.extend(secret(&self.credentials_secret).map(|secret| ("credentials".to_owned(), secret)));
            oci.extend(secret(&self.ca_secret).map(|secret| ("ca".to_owned(), secret)));
        }
        let beside = Beside::Registry(Box::new(registry), chain.digests);
        Ok(Found { wasm, source: json!({ "oci": oci }), config_map: None, beside })
    }

    fn found_in_file(&self, path: &Path) -> anyhow::Result<Found> {
        let wasm = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        check_component(&wasm, &self.what)?;
        let Some(mut map) = config_map(&wasm)? else {
            bail!("{} is too large for a ConfigMap: push it to a registry, and install that", self.what);
        };
        let signature = std::fs::read_to_string(format!("{}.sig", self.what)).ok();
        if let (Some(map), Some(signature)) = (map.as_object_mut(), &signature) {
            map.insert("data".into(), json!({ "plugin.wasm.sig": signature }));
        }
        let (source, beside) = (json!({ "configMap": {} }), Beside::File(signature));
        Ok(Found { wasm, source, config_map: Some(map), beside })
    }

    fn record(&self, name: &str, source: &Value, digest: &str, keys: &[String]) -> Value {
        let mut spec =
            serde_json::Map::from_iter([("source".to_owned(), source.clone()), ("digest".to_owned(), json!(digest))]);
        if !keys.is_empty() {
            let keys: Vec<Value> = keys.iter().map(|pem| json!({ "pem": pem })).collect();
            spec.insert("signature".into(), json!({ "keys": keys }));
        }
        if let Some((namespace, account)) = &self.service_account {
            spec.insert("serviceAccount".into(), json!({ "namespace": namespace, "name": account }));
        }
        let labels: serde_json::Map<String, Value> =
            self.label.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        json!({
            "apiVersion": "transom.dev/v1alpha1", "kind": "Plugin",
            "metadata": { "name": name, "labels": labels }, "spec": spec,
        })
    }
}

/// What an earlier call has written and this one does not name, which an apply would take away. An upgrade must not forget who
/// has to have signed, or whom the plugin acts as. Returns the names of these fields.
fn keep(record: &mut Value, live: &Value) -> Vec<String> {
    let managers = live.pointer("/metadata/managedFields").and_then(Value::as_array);
    let mut own = managers.into_iter().flatten().filter(|entry| {
        let says = |field: &str| entry.get(field).and_then(Value::as_str);
        says("manager") == Some(MANAGER) && says("operation") == Some("Apply") && says("subresource").is_none()
    });
    let Some(fields) = own.next().and_then(|entry| entry.get("fieldsV1")) else { return Vec::new() };
    let labels = fields.pointer("/f:metadata/f:labels").and_then(Value::as_object).into_iter().flatten();
    let labels = labels.filter_map(|(label, _)| Some(vec!["metadata", "labels", label.strip_prefix("f:")?]));
    let spec = [&["signature"][..], &["serviceAccount"], &["source", "oci", "credentials"], &["source", "oci", "ca"]];
    let spec = spec.into_iter().map(|path| [&["spec"], path].concat());
    let mut kept = Vec::new();
    for path in spec.chain(labels) {
        let Some((last, parents)) = path.split_last() else { continue };
        let walk = |root: &'_ Value, prefix: &str| -> Option<Value> {
            let found = path.iter().try_fold(root, |value, key| value.get(format!("{prefix}{key}")));
            found.cloned()
        };
        let (Some(_), Some(value)) = (walk(fields, "f:"), walk(live, "")) else { continue };
        let parent = parents.iter().try_fold(&mut *record, |value, key| value.get_mut(*key));
        // a source of another sort has none of these
        if let Some(parent) = parent.and_then(Value::as_object_mut)
            && !parent.contains_key(*last)
        {
            parent.insert((*last).to_owned(), value);
            kept.push(path.join("."));
        }
    }
    kept
}

/// A ConfigMap with the component, packed; none when it does not fit. Without a name.
pub(in crate::cli) fn config_map(wasm: &[u8]) -> anyhow::Result<Option<Value>> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(wasm)?;
    let packed = packed.finish()?;
    let fits = packed.len() <= MAX_CONFIG_MAP;
    Ok(fits.then(|| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {},
            "binaryData": { "plugin.wasm": STANDARD.encode(packed) },
        })
    }))
}

/// Label of these ConfigMaps: name of the `Plugin`.
const INSTALLED_FOR: &str = "transom.dev/installed-for";

/// Digits of a digest in the name of a ConfigMap.
const DIGITS: usize = 16;

/// Gives the ConfigMap a name with the digest of its component, so that it is never written over by another version. Returns
/// the name.
pub(in crate::cli) fn place(map: &mut Value, plugin: &str, digest: &str, namespace: &str) -> String {
    let digits: String = digest.trim_start_matches("sha256:").chars().take(DIGITS).collect();
    let name = format!("transom-plugin-{plugin}-{digits}");
    if let Some(metadata) = map.pointer_mut("/metadata") {
        *metadata = json!({ "name": name, "namespace": namespace, "labels": { INSTALLED_FOR: plugin } });
    }
    name
}

/// A ConfigMap that was applied.
pub(in crate::cli) struct Map {
    api: Api<ConfigMap>,
    name: String,
    at: String,
    /// It was not there before.
    is_new: bool,
}

impl Map {
    /// Applies it. `owner` are name and UID of the `Plugin`, if that is there.
    pub(in crate::cli) async fn apply(
        client: kube::Client,
        manager: &str,
        map: &Value,
        owner: Option<(&str, &str)>,
    ) -> anyhow::Result<Self> {
        let text = |path: &str| map.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let (api, at) = (Api::<ConfigMap>::namespaced(client, namespace), format!("{namespace}/{name}"));
        let there = api.get_metadata_opt(name).await.with_context(|| format!("cannot read the ConfigMap {at}"))?;
        let mut map = map.clone();
        if let (Some((plugin, uid)), Some(Value::Object(metadata))) = (owner, map.get_mut("metadata")) {
            metadata.insert("ownerReferences".into(), json!([reference(plugin, uid)]));
        }
        let applied = api.patch(name, &PatchParams::apply(manager).force(), &Patch::Apply(&map)).await;
        applied.with_context(|| format!("nothing was changed: cannot apply the ConfigMap {at}"))?;
        Ok(Self { name: name.to_owned(), api, at, is_new: there.is_none() })
    }

    /// It goes with the `Plugin` from now on.
    pub(in crate::cli) async fn own(&self, plugin: &str, uid: &str) -> anyhow::Result<()> {
        let patch = json!({ "metadata": { "ownerReferences": [reference(plugin, uid)] } });
        let patched = self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        patched.map(drop).with_context(|| format!("cannot make the Plugin the owner of the ConfigMap {}", self.at))
    }

    /// Takes it away again, if it was not there before.
    async fn undo(self) {
        if !self.is_new {
            return;
        }
        if let Err(error) = self.api.delete(&self.name, &DeleteParams::default()).await {
            eprintln!("the ConfigMap {} stays: {error}", self.at);
        }
    }
}

fn reference(plugin: &str, uid: &str) -> Value {
    json!({ "apiVersion": "transom.dev/v1alpha1", "kind": "Plugin", "name": plugin, "uid": uid })
}

/// Deletes ConfigMaps of components that no version of the `Plugin` names any more.
pub(in crate::cli) async fn delete_unused(client: &kube::Client, plugin: &Plugin, namespace: &str) {
    let (api, name) = (Api::<ConfigMap>::namespaced(client.clone(), namespace), plugin.name_any());
    let parameters = ListParams::default().labels(&format!("{INSTALLED_FOR}={name}"));
    let maps = match api.list_metadata(&parameters).await {
        Ok(maps) => maps,
        Err(error) => return eprintln!("old ConfigMaps in {namespace} cannot be listed: {error}"),
    };
    let used = used(plugin);
    for map in maps.items.iter().map(ResourceExt::name_any) {
        if used.contains(&(namespace.to_owned(), map.clone())) {
            continue;
        }
        if let Err(error) = api.delete(&map, &DeleteParams::default()).await {
            eprintln!("the ConfigMap {namespace}/{map}, which is not used any more, stays: {error}");
        }
    }
}

/// ConfigMaps, by namespace and name, that the spec, the version that serves or one of the history names.
fn used(plugin: &Plugin) -> BTreeSet<(String, String)> {
    let status = plugin.status.clone().unwrap_or_default();
    let history = status.history.iter().filter_map(|entry| entry.spec.clone());
    let versions = [VersionSpec::of(&plugin.spec)].into_iter().chain(status.serving.clone()).chain(history);
    let sources = versions.flat_map(|version| {
        let engines = version.engines.into_iter().map(|engine| engine.source);
        std::iter::once(version.source).chain(engines)
    });
    sources.filter_map(|source| source.config_map).map(|map| (map.namespace, map.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_component_has_a_config_map_of_its_own_as_long_as_a_version_names_it() {
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let named = |digit: &str| place(&mut json!({ "metadata": {} }), "web", &digest(digit), "n");
        assert_eq!(named("a"), "transom-plugin-web-aaaaaaaaaaaaaaaa");
        let version = |digit: &str| json!({ "source": { "configMap": { "namespace": "n", "name": named(digit) } }, "digest": digest(digit) });
        let entry = json!({ "digest": digest("c"), "version": "1", "spec": version("c") });
        let plugin = json!({
            "apiVersion": "transom.dev/v1alpha1", "kind": "Plugin", "metadata": { "name": "web" }, "spec": version("a"),
            "status": { "serving": version("b"), "history": [entry] },
        });
        let used = used(&serde_json::from_value(plugin).unwrap());
        assert_eq!(used, ["a", "b", "c"].map(|digit| ("n".to_owned(), named(digit))).into());
    }

    fn live(manager: &str) -> Value {
        let fields = json!({
            "f:metadata": { "f:labels": { "f:team": {} } },
            "f:spec": { "f:digest": {}, "f:signature": { "f:keys": {} }, "f:serviceAccount": { "f:name": {} },
                "f:source": { "f:oci": { "f:ca": { "f:name": {} }, "f:reference": {} } } },
        });
        json!({
            "metadata": { "labels": { "team": "a", "other": "b" },
                "managedFields": [{ "manager": manager, "operation": "Apply", "fieldsV1": fields }] },
            "spec": { "digest": "sha256:old", "signature": { "keys": [{ "pem": "P" }] }, "limits": {},
                "serviceAccount": { "namespace": "n", "name": "s" },
                "source": { "oci": { "reference": "old", "ca": { "namespace": "n", "name": "ca" },
                    "credentials": { "namespace": "n", "name": "somebody else's" } } } },
        })
    }

    fn record() -> Value {
        json!({ "metadata": { "labels": {} }, "spec": { "digest": "sha256:new", "source": { "oci": { "reference": "new" } } } })
    }

    #[test]
    fn an_upgrade_forgets_neither_key_nor_account() {
        let mut next = record();
        let kept = keep(&mut next, &live(MANAGER));
        assert_eq!(kept, ["spec.signature", "spec.serviceAccount", "spec.source.oci.ca", "metadata.labels.team"]);
        let expected = json!({
            "metadata": { "labels": { "team": "a" } },
            "spec": { "digest": "sha256:new", "signature": { "keys": [{ "pem": "P" }] },
                "serviceAccount": { "namespace": "n", "name": "s" },
                "source": { "oci": { "reference": "new", "ca": { "namespace": "n", "name": "ca" } } } },
        });
        assert_eq!(next, expected);
    }

    #[test]
    fn what_is_named_anew_or_is_somebody_elses_is_not_kept() {
        let mut next = record();
        next["spec"]["signature"] = json!({ "keys": [{ "pem": "Q" }] });
        next["spec"]["source"] = json!({ "configMap": {} });
        let kept = keep(&mut next, &live(MANAGER));
        assert_eq!(kept, ["spec.serviceAccount", "metadata.labels.team"]);
        assert_eq!(next["spec"]["signature"]["keys"][0]["pem"], "Q");
        assert_eq!(keep(&mut record(), &live("somebody")), Vec::<String>::new());
        assert_eq!(keep(&mut record(), &json!({})), Vec::<String>::new());
    }
}
