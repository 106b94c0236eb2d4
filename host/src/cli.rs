//! The command line.

mod compile;
mod completion;
mod crds;
mod describe;
mod dev;
mod explain;
mod paint;
mod plugin;
mod progress;
mod record;
mod reference;
mod release;
mod render;
mod replay;
mod run;
mod subject;
mod verify;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

use crate::api::plugin::Plugin;
use crate::plugin::{Cache, Seal};
use crate::telemetry::{LogFormat, Traces};

/// Options that every command has, behind its own.
const COMMON: &str = "Options of all commands";

/// Runs Kubernetes reconcilers that are sandboxed WebAssembly components.
#[derive(Debug, Parser)]
#[command(name = "transom", version, propagate_version = true)]
#[command(after_help = "Examples:\n  \
    transom plugin new web && cd web && transom dev    # a plugin of your own, on a cluster\n  \
    transom run                                        # the host, with the cluster of the kubeconfig\n  \
    transom explain Web shop                           # why an object is as it is\n\
    Every command has examples of its own: transom COMMAND --help")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Which log lines are written to stderr: `info`, `warn,transom=debug`.
    #[arg(long, global = true, env = "TRANSOM_LOG", default_value = "info", value_name = "FILTER", help_heading = COMMON)]
    pub log_level: String,
    /// How log lines look.
    #[arg(long, global = true, env = "TRANSOM_LOG_FORMAT", default_value = "text", value_name = "FORMAT", help_heading = COMMON)]
    pub log_format: LogFormat,
    /// Where plugins are kept, as fetched and as compiled.
    #[arg(long, global = true, env = "TRANSOM_CACHE_DIR", value_name = "DIR", help_heading = COMMON)]
    pub cache_dir: Option<PathBuf>,
    /// File with the key by which compiled plugins in the cache are known as written by this host, not by others who can
    /// write there; made when it is missing (default: in the user's folder for state, and for `run` inside a cluster the
    /// Secret of the host).
    #[arg(long, global = true, env = "TRANSOM_CACHE_KEY_FILE", value_name = "FILE", help_heading = COMMON)]
    pub cache_key_file: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reconciles the kinds of all plugins until it is told to stop.
    Run(Box<run::Args>),
    /// Shows what a plugin would make of an object, without a cluster.
    Render(render::Args),
    /// Shows an object of the cluster with its children and their health.
    Describe(describe::Args),
    /// Says whether objects of the cluster are healthy, by exit code, too.
    Verify(verify::Args),
    /// Shows why an object or a field of a child is as it is.
    Explain(explain::Args),
    /// Writes the last reconciles of an object to a file, without values of Secrets.
    Record(record::Args),
    /// Runs a plugin on a recorded reconcile, without a cluster, and says what differs.
    Replay(replay::Args),
    /// Takes the host's finalizer from all objects, so that they can be deleted when no host runs any more.
    Release(release::Args),
    /// Writes the custom resource definitions of the host and of components.
    Crds(crds::Args),
    /// Builds, pushes, signs, installs and shows plugins.
    #[command(after_help = "Examples:\n  \
        transom plugin new web --group shop.example      # a project that builds, tests and runs at once\n  \
        transom plugin install registry.example/team/web:1.2.0 --key cosign.pub --yes\n  \
        transom plugin list")]
    Plugin {
        /// What to do with them.
        #[command(subcommand)]
        command: plugin::Command,
    },
    /// Builds a plugin at every save, runs it on the cluster, and shows what a save changes.
    Dev(dev::Args),
    /// Writes the completion script of a shell.
    Completion(completion::Args),
    /// Writes the pages about the command line and the host's kinds.
    #[command(hide = true)]
    Reference(reference::Args),
    /// Compiles a component; used by the host for itself.
    #[command(hide = true)]
    Compile(compile::Args),
}

impl Cli {
    /// Does it.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub fn run(self) -> anyhow::Result<()> {
        let key_file = self.cache_key_file;
        let dir = self.cache_dir.unwrap_or_else(default_cache_dir);
        let is_keyed = key_file.is_some();
        let cache = Cache { dir, seal: seal(key_file)? };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        match self.command {
            Command::Run(args) => {
                let traces = runtime.block_on(async { args.traces() })?;
                crate::telemetry::init(self.log_format, &self.log_level, traces.as_ref())?;
                let result = runtime.block_on(args.run(cache, is_keyed));
                // it waits for tasks of the runtime, so outside of it
                traces.into_iter().for_each(Traces::end);
                result
            }
            Command::Dev(args) => {
                // a developer wants the plugin's words, and of the host what is wrong
                let filter = if self.log_level == "info" { "warn,plugin=debug" } else { &self.log_level };
                crate::telemetry::init(self.log_format, filter, None)?;
                runtime.block_on(args.run(dev::Settings { cache, is_keyed }))
            }
            Command::Completion(args) => args.run(),
            Command::Reference(args) => args.run(),
            Command::Compile(args) => args.run(),
            Command::Render(args) => runtime.block_on(args.run(cache)),
            Command::Describe(args) => runtime.block_on(args.run()),
            Command::Verify(args) => runtime.block_on(args.run()),
            Command::Explain(args) => runtime.block_on(args.run()),
            Command::Record(args) => runtime.block_on(args.run(cache)),
            Command::Replay(args) => runtime.block_on(args.run(cache)),
            Command::Plugin { command } => runtime.block_on(command.run(cache)),
            Command::Release(args) => runtime.block_on(args.run()),
            Command::Crds(args) => runtime.block_on(args.run(cache)),
        }
    }
}

/// A client for the cluster of KUBECONFIG, or the one that we run in.
async fn client() -> anyhow::Result<kube::Client> {
    kube::Client::try_default().await.context("no cluster: set KUBECONFIG, or run inside one")
}

/// The namespace that was named, else that of the kubeconfig's context, or of the pod.
async fn namespace(named: Option<String>) -> String {
    match named {
        Some(named) => named,
        None => kube::Config::infer().await.map_or_else(|_| "default".into(), |config| config.default_namespace),
    }
}

/// All Plugin records.
async fn plugins(api: &kube::Api<Plugin>) -> anyhow::Result<Vec<Plugin>> {
    match api.list(&Default::default()).await {
        Ok(plugins) => Ok(plugins.items),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            bail!("this cluster does not know Plugins yet: a host makes them known when it starts (`transom run`)")
        }
        Err(error) => Err(error).context("cannot list Plugins"),
    }
}

/// What the program exits with after an error.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let undecided = || error.downcast_ref::<plugin::wait::Undecided>().map(|_| plugin::wait::Undecided::EXIT_CODE);
    error.downcast_ref::<verify::Failed>().map(verify::Failed::exit_code).or_else(undecided).unwrap_or(1)
}

/// The key in the file that was named, or in the user's folder for state. Where there is none that can be written, what is
/// compiled is compiled again by the next process.
fn seal(named: Option<PathBuf>) -> anyhow::Result<Seal> {
    if let Some(path) = named {
        return Seal::in_file(&path)
            .with_context(|| format!("cannot use the key in --cache-key-file {}", path.display()));
    }
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = var("XDG_STATE_HOME").or_else(|| var("HOME").map(|home| home.join(".local/state")));
    let seal = state.and_then(|state| Seal::in_file(&state.join("transom/cache.key")).ok());
    Ok(seal.map_or_else(Seal::ephemeral, Ok)?)
}

/// The user's cache folder, else the one for temporary files.
fn default_cache_dir() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    var("XDG_CACHE_HOME")
        .or_else(|| var("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("transom/compiled")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_that_are_command_lines() {
        fn check(command: &clap::Command, path: &str, all: &clap::Command) {
            if command.is_hide_set() || command.get_name() == "help" {
                return;
            }
            let commands: Vec<&clap::Command> = command.get_subcommands().collect();
            for inner in &commands {
                check(inner, &format!("{path} {}", inner.get_name()), all);
            }
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            // clap wraps at 100 columns where no terminal is narrower
            let wide = help.lines().find(|line| line.starts_with(' ') && line.chars().count() > 100);
            assert_eq!(wide, None, "{path} --help would be wrapped");
            let begin = help.lines().find_map(|line| {
                let line = line.strip_prefix("Example: ").unwrap_or(line.trim_start());
                line.contains(&format!("{path} "))
                    .then(|| line.to_owned())
                    .or_else(|| (line == path).then(|| path.into()))
            });
            assert!(help.starts_with("Example") && begin.is_some(), "{path} --help has no example");
            for line in help.lines() {
                let line = line.strip_prefix("Example: ").unwrap_or(line).trim_start();
                if line.starts_with(path) {
                    let words =
                        line.split("  #").next().unwrap_or_default().split(['|', '>', '&']).next().unwrap_or_default();
                    let parsed = all.clone().try_get_matches_from(words.split_whitespace());
                    assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
                }
            }
        }
        let all = Cli::command();
        check(&all, "transom", &all);
    }
}
