//! The programs of a control plane, built from Go modules.
//!
//! Every version is pinned by a `go.mod` and `go.sum` under `xtask/tools/`; nothing is fetched but Go modules. What is
//! built is kept in the user's cache folder under a key of all that went into it.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::progress::Task;
use crate::{command, interrupt, workspace};

/// Where Kubernetes' own test environments look for etcd, kube-apiserver and kubectl; if set, so do we.
const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// A Go module under `xtask/tools/` and what is built from it.
struct Module {
    folder: &'static str,
    programs: &'static [Program],
    ldflags: &'static str,
    /// On two cores with an empty build cache.
    takes: &'static str,
}

struct Program {
    name: &'static str,
    package: &'static str,
    /// One of those that `KUBEBUILDER_ASSETS` brings along.
    is_asset: bool,
}

const ETCD: Module = Module {
    folder: "etcd",
    programs: &[Program { name: "etcd", package: "go.etcd.io/etcd/server/v3", is_asset: true }],
    ldflags: "-s -w",
    takes: "about a minute the first time",
};

const KWOK: Module = Module {
    folder: "kwok",
    programs: &[Program { name: "kwok", package: "sigs.k8s.io/kwok/cmd/kwok", is_asset: false }],
    ldflags: "-s -w",
    takes: "about a minute the first time",
};

const KUBE: Module = Module {
    folder: "kube",
    programs: &[
        Program { name: "kube-apiserver", package: "k8s.io/kubernetes/cmd/kube-apiserver", is_asset: true },
        Program {
            name: "kube-controller-manager",
            package: "k8s.io/kubernetes/cmd/kube-controller-manager",
            is_asset: false,
        },
        Program { name: "kube-scheduler", package: "k8s.io/kubernetes/cmd/kube-scheduler", is_asset: false },
        Program { name: "kubectl", package: "k8s.io/kubernetes/cmd/kubectl", is_asset: true },
    ],
    // Without it the API server calls itself v0.0.0, which clients read. To be kept equal to go.mod; a test does.
    ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3",
    takes: "about 5 minutes the first time",
};

/// The registry that lookups of images and artifacts are tested against.
const REGISTRY: Module = Module {
    folder: "registry",
    programs: &[Program {
        name: "registry",
        package: "github.com/distribution/distribution/v3/cmd/registry",
        is_asset: false,
    }],
    ldflags: "-s -w",
    takes: "about 2 minutes the first time",
};

/// What signatures are tested against, both ways.
const COSIGN: Module = Module {
    folder: "cosign",
    programs: &[Program { name: "cosign", package: "github.com/sigstore/cosign/v3/cmd/cosign", is_asset: false }],
    ldflags: "-s -w",
    takes: "about 4 minutes the first time",
};

/// The server that Processes are tested against.
const TEMPORAL: Module = Module {
    folder: "temporal",
    programs: &[Program { name: "temporal", package: "github.com/temporalio/cli/cmd/temporal", is_asset: false }],
    ldflags: "-s -w",
    takes: "about 5 minutes the first time",
};

/// A worker of that server, and where the demo's definitions come from: our own few lines over Temporal's SDK and gRPC.
const WORKER: Module = Module {
    folder: "worker",
    programs: &[
        Program { name: "worker", package: ".", is_asset: false },
        Program { name: "definitions", package: "./definitions", is_asset: false },
    ],
    ldflags: "-s -w",
    takes: "about half a minute the first time",
};

/// The operator in Go that the host is compared with.
const NATIVE: Module = Module {
    folder: "native",
    programs: &[Program { name: "native", package: ".", is_asset: false }],
    ldflags: "-s -w",
    takes: "about 2 minutes the first time",
};

/// What the engine for charts is compared with; a test keeps its version and that of `plugins/engines/helm` equal.
const HELM: Module = Module {
    folder: "helm",
    programs: &[Program { name: "helm", package: "helm.sh/helm/v4/cmd/helm", is_asset: false }],
    ldflags: "-s -w",
    takes: "about 2 minutes the first time",
};

/// The stages of kwok that make nodes ready and pods run, complete and go, in its module's `kustomize/stage/`.
const STAGES: &[&str] =
    &["node/fast/node-initialize", "pod/fast/pod-ready", "pod/fast/pod-complete", "pod/fast/pod-delete"];

/// Paths of everything that a control plane needs.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) etcd: PathBuf,
    pub(crate) kube_apiserver: PathBuf,
    pub(crate) kube_controller_manager: PathBuf,
    pub(crate) kube_scheduler: PathBuf,
    pub(crate) kubectl: PathBuf,
    pub(crate) kwok: PathBuf,
    /// The stages as kwok ships them, one YAML document each.
    pub(crate) stages: PathBuf,
}

/// The OCI registry for tests; built when they are run, no part of a control plane.
pub(crate) fn registry() -> Result<PathBuf> {
    let folder = REGISTRY.prepare(None)?.context("nothing was built")?;
    Ok(folder.join("registry"))
}

/// cosign, for tests.
pub(crate) fn cosign() -> Result<PathBuf> {
    let folder = COSIGN.prepare(None)?.context("nothing was built")?;
    Ok(folder.join("cosign"))
}

/// Temporal's program and that of a worker, for tests; no part of a control plane.
pub(crate) fn temporal() -> Result<(PathBuf, PathBuf)> {
    let server = TEMPORAL.prepare(None)?.context("nothing was built")?;
    let worker = WORKER.prepare(None)?.context("nothing was built")?;
    Ok((server.join("temporal"), worker.join("worker")))
}

/// What Processes of the demo need: Temporal, and the program that has their definitions.
pub(crate) fn services() -> Result<(PathBuf, PathBuf)> {
    let (server, worker) = temporal()?;
    Ok((server, worker.with_file_name("definitions")))
}

/// An operator in Go for the benchmark's kind.
pub(crate) fn native() -> Result<PathBuf> {
    let folder = NATIVE.prepare(None)?.context("nothing was built")?;
    Ok(folder.join("native"))
}

/// Helm's command line, for tests.
pub(crate) fn helm() -> Result<PathBuf> {
    let folder = HELM.prepare(None)?.context("nothing was built")?;
    Ok(folder.join("helm"))
}

impl Tools {
    /// Finds or builds all of them.
    pub(crate) fn prepare() -> Result<Self> {
        let assets = env::var_os(ASSETS_VARIABLE).map(PathBuf::from);
        let etcd = ETCD.prepare(assets.as_deref())?;
        let kwok = KWOK.prepare(assets.as_deref())?;
        let kube = KUBE.prepare(assets.as_deref())?;
        let find = |folder: &Option<PathBuf>, name: &str, is_asset: bool| -> Result<PathBuf> {
            let folder = if is_asset { assets.as_ref().or(folder.as_ref()) } else { folder.as_ref() };
            let path = folder.context("nothing was built")?.join(name);
            ensure!(
                path.is_file(),
                "{} is missing: {ASSETS_VARIABLE} must hold etcd, kube-apiserver and kubectl",
                path.display()
            );
            Ok(path)
        };
        Ok(Self {
            etcd: find(&etcd, "etcd", true)?,
            kube_apiserver: find(&kube, "kube-apiserver", true)?,
            kube_controller_manager: find(&kube, "kube-controller-manager", false)?,
            kube_scheduler: find(&kube, "kube-scheduler", false)?,
            kubectl: find(&kube, "kubectl", true)?,
            stages: find(&kwok, "stages.yaml", false)?,
            kwok: find(&kwok, "kwok", false)?,
        })
    }

    /// A folder with all programs in it, as `KUBEBUILDER_ASSETS` would be: for tests that start servers of their own.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        let folder = workspace::target().join("kube-bin");
        fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
        let programs = [
            &self.etcd,
            &self.kube_apiserver,
            &self.kube_controller_manager,
            &self.kube_scheduler,
            &self.kubectl,
            &self.kwok,
        ];
        for program in programs {
            let link = folder.join(program.file_name().context("a program without a name")?);
            if fs::read_link(&link).ok().as_ref() != Some(program) {
                fs::remove_file(&link).ok();
                std::os::unix::fs::symlink(program, &link)
                    .with_context(|| format!("failed to create {}", link.display()))?;
            }
        }
        Ok(folder)
    }
}

impl Module {
    /// The folder with the built programs; none when others bring all of them.
    fn prepare(&self, assets: Option<&Path>) -> Result<Option<PathBuf>> {
        let wanted: Vec<&Program> = self.programs.iter().filter(|p| assets.is_none() || !p.is_asset).collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let source = workspace::root().join("xtask/tools").join(self.folder);
        let arguments = self.arguments(&wanted);
        let read = |name: &str| {
            fs::read(source.join(name)).with_context(|| format!("failed to read {name} of {}", self.folder))
        };
        let inputs = [arguments.clone(), own_sources(&source)?].concat();
        let key = cache_key(&read("go.mod")?, &read("go.sum")?, &go_version(&source)?, &inputs);
        let cache = cache_folder()?;
        let folder = cache.join(format!("{}-{key}", self.folder));
        if folder.is_dir() {
            return Ok(Some(folder));
        }
        let lock = File::create(cache.join(format!("{}.lock", self.folder)))?;
        lock.lock().context("failed to lock the tools' cache")?;
        // Whoever held the lock has built the same.
        if !folder.is_dir() {
            self.build(&source, &wanted, &arguments, &folder)?;
        }
        Ok(Some(folder))
    }

    fn arguments(&self, wanted: &[&Program]) -> Vec<String> {
        let flags = ["build", "-v", "-trimpath"].map(String::from);
        let ldflags = format!("-ldflags={}", self.ldflags);
        flags.into_iter().chain([ldflags]).chain(wanted.iter().map(|program| program.package.to_owned())).collect()
    }

    /// Builds next to `folder` and renames: `folder` is there whole or not at all.
    fn build(&self, source: &Path, wanted: &[&Program], arguments: &[String], folder: &Path) -> Result<()> {
        let names: Vec<&str> = wanted.iter().map(|program| program.name).collect();
        let task = Task::start(format!("building {} ({})", names.join(", "), self.takes));
        let scratch = folder.with_extension(format!("{}.tmp", std::process::id()));
        fs::create_dir_all(&scratch).with_context(|| format!("failed to create {}", scratch.display()))?;
        let built = go_build(source, arguments, wanted, &scratch, task).and_then(|task| {
            if self.folder == KWOK.folder {
                copy_stages(source, &scratch)?;
            }
            fs::rename(&scratch, folder).with_context(|| format!("failed to create {}", folder.display()))?;
            task.done();
            Ok(())
        });
        if built.is_err() {
            fs::remove_dir_all(&scratch).ok();
        }
        built
    }
}

/// Runs `go build`, which names every package as it compiles it: that is the progress.
fn go_build(source: &Path, arguments: &[String], wanted: &[&Program], folder: &Path, mut task: Task) -> Result<Task> {
    let mut build = go(source);
    // With a single package `-o FOLDER/` would call it by the last element of its path, `v3` for etcd.
    let output = match wanted {
        [only] => folder.join(only.name),
        _ => folder.join(""),
    };
    let (verb, rest) = arguments.split_first().context("no arguments")?;
    build.arg(verb).arg("-o").arg(output).args(rest);
    let mut child = command::spawn(build.stdin(Stdio::null()).stderr(Stdio::piped()))?;
    let stderr = child.stderr.take().context("no error output")?;
    let packages = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&packages);
    let reader = thread::spawn(move || {
        let mut lines = Vec::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            counter.fetch_add(1, Ordering::Relaxed);
            lines.push(line);
        }
        lines
    });
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if interrupt::asked() {
            command::end(&mut child)?;
            interrupt::check()?;
        }
        task.update(&format!("{} packages", packages.load(Ordering::Relaxed)));
        thread::sleep(Duration::from_millis(50));
    };
    if !status.success() {
        let lines = reader.join().unwrap_or_default();
        bail!("`go build` failed in {}:\n{}", source.display(), command::last_lines(&lines.join("\n"), 40));
    }
    Ok(task)
}

/// Puts the stages of kwok that we use into one file.
fn copy_stages(source: &Path, folder: &Path) -> Result<()> {
    let module = command::output(go(source).args(["list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"]))?;
    let stages = STAGES.iter().map(|stage| {
        let path = Path::new(module.trim()).join("kustomize/stage").join(stage).with_extension("yaml");
        fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
    });
    let stages: Vec<String> = stages.collect::<Result<_>>()?;
    fs::write(folder.join("stages.yaml"), stages.join("\n---\n")).context("failed to write the stages of kwok")
}

/// Go as these modules need it: what the user has set for own work (a workspace, `-mod=mod`) must not change them.
pub(crate) fn go(source: &Path) -> Command {
    let mut go = Command::new("go");
    go.current_dir(source).env("GOWORK", "off").env("GOFLAGS", "-mod=readonly");
    go
}

/// `go version go1.26.8 linux/amd64`, as it is for the module in `source`.
pub(crate) fn go_version(source: &Path) -> Result<String> {
    let version = command::output(go(source).arg("version")).context(
        "Go 1.26 or newer, with which the control plane is built, does not work here: see https://go.dev/doc/install",
    )?;
    Ok(version.trim().to_owned())
}

/// What modules that are more than a list of others consist of.
fn own_sources(source: &Path) -> Result<Vec<String>> {
    let files = fs::read_dir(source).with_context(|| format!("failed to read {}", source.display()))?.flatten();
    let mut paths: Vec<PathBuf> = files.map(|file| file.path()).collect();
    paths.sort();
    let mut sources = Vec::new();
    for path in paths {
        if path.is_dir() {
            sources.extend(own_sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "go") {
            let text = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
            sources.push(text);
        }
    }
    Ok(sources)
}

/// Everything that decides what is built.
fn cache_key(go_mod: &[u8], go_sum: &[u8], go_version: &str, arguments: &[String]) -> String {
    let mut hash = Sha256::new();
    for part in [go_mod, go_sum, go_version.as_bytes(), arguments.join("\n").as_bytes(), STAGES.join("\n").as_bytes()] {
        // The length keeps the end of one part from being read as the start of the next.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn cache_folder() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: there is no place to keep built tools")?;
    let folder = base.join("transom/tools");
    fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_changes_the_cache_key() {
        let key = |a: &str, b: &str, c: &str, d: &str| cache_key(a.as_bytes(), b.as_bytes(), c, &[d.into()]);
        let keys = [
            key("mod", "sum", "go1.26.8", "-s"),
            key("mod2", "sum", "go1.26.8", "-s"),
            key("mod", "sum2", "go1.26.8", "-s"),
            key("mod", "sum", "go1.26.9", "-s"),
            key("mod", "sum", "go1.26.8", "-w"),
            key("mods", "um", "go1.26.8", "-s"),
        ];
        let different: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
        assert_eq!(keys[0], key("mod", "sum", "go1.26.8", "-s"));
        assert_eq!(keys[0].len(), 16);
    }

    #[test]
    fn the_version_that_the_api_server_tells_is_the_one_in_go_mod() {
        let go_mod = fs::read_to_string(workspace::root().join("xtask/tools/kube/go.mod")).unwrap();
        let line = go_mod.lines().find(|line| line.trim().starts_with("k8s.io/kubernetes v")).unwrap();
        let version = line.trim().split(' ').nth(1).unwrap();
        assert!(KUBE.ldflags.ends_with(&format!("gitVersion={version}")), "{version} in {}", KUBE.ldflags);
    }

    #[test]
    fn only_what_the_assets_lack_is_built() {
        assert_eq!(ETCD.prepare(Some(Path::new("/assets"))).unwrap(), None);
        let wanted: Vec<&Program> = KUBE.programs.iter().filter(|program| !program.is_asset).collect();
        assert_eq!(
            KUBE.arguments(&wanted)[4..],
            ["k8s.io/kubernetes/cmd/kube-controller-manager", "k8s.io/kubernetes/cmd/kube-scheduler"]
        );
    }
}
